"""Search by batches of trainings on tables where every network was trained: trainings until the true optimum.

    python benchmarks/active_tables.py --out FILE.json [--data FOLDER] [--only NAME,NAME] [--trials 100] [--quick]

Each trial labels 20 random networks, then batches of 5 that `predictor.active` chooses. What is observed is the
accuracy of one run where the table has several (nasbench201: its one-run column; nasbench_macro: the first of three
seeds); what is reported is the mean over runs. Networks that are the same are one. `blind` labels random networks but
for the last ten, which the same model chooses once; `random` picks the best observed; `aging` is regularised evolution.
nasbench_macro_60 is limited to 60 M MACs, and so on; nasbench_macro_any observes a random seed of each network.
FILE.json is written after each table. Hardware: any CPU; one thread. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import tables
from numpy.typing import NDArray

from evolution.strategies import aging_strategy
from predictor.active import fit_surrogate
from predictor.features import FlatEncoder
from supernet import Architecture, Choices, InputError, NasBench201, SearchSpace, graph_costs

START, BATCH, LAST = 20, 5, 10
BUDGETS = (50, 100)
MOST = 400
GOALS = {
    "nasbench201_cifar10": 36,
    "nasbench_macro": 46,
    "nasbench_macro_40": 28,
    "nasbench_macro_50": 42,
    "nasbench_macro_60": 41,
    "nasbench_macro_70": 91,
}
NAMES = (*GOALS, "nasbench201_cifar100", "nasbench201_imagenet16", "nasbench_macro_any", "nasbench_macro_60_any")


@dataclass(frozen=True)
class Measured:
    """All networks of a table: canonical rows, columns, mean and observed accuracies (fractions)."""

    space: SearchSpace
    rows: Choices
    encoder: FlatEncoder
    columns: NDArray[np.float64]
    mean: NDArray[np.float64]
    observed: NDArray[np.float64]  # (networks, runs)


def measured(name: str, folder: Path) -> Measured:
    if name.startswith("nasbench201_"):
        return _cells(name.removeprefix("nasbench201_"), folder)
    parts = name.removeprefix("nasbench_macro").strip("_").split("_")
    table = tables.nasbench_macro(folder)
    space = tables.macro_space()
    graphs = [row.graph for row in table.rows]
    rows = np.array([[int(digit) for digit in row.id] for row in table.rows], np.int8)
    seeds = np.array([[row.metrics[f"accuracy_seed{seed}"] for seed in range(3)] for row in table.rows])
    mean = np.array([row.metrics["accuracy"] for row in table.rows])
    kept = np.arange(len(rows))
    if parts[0].isdigit():
        macs = np.array([graph_costs(graph).macs for graph in graphs])
        kept = np.flatnonzero(macs <= int(parts[0]) * 1e6)
    encoder = FlatEncoder.fit([graphs[place] for place in kept])
    columns = encoder.encode([graphs[place] for place in kept])
    observed = seeds[kept] if parts[-1] == "any" else seeds[kept][:, :1]
    return Measured(space, rows[kept], encoder, columns, mean[kept], observed)


def _cells(dataset: str, folder: Path) -> Measured:
    space = NasBench201()
    lines = {}
    for line in tables.lines(folder / "nasbench201.csv"):
        row = space.canonical(space.parse(line["arch"]).row())[0]
        lines.setdefault(row.tobytes(), []).append(line)
    rows = np.array([np.frombuffer(key, np.int8) for key in lines])
    first = [group[0] for group in lines.values()]
    graphs = [tables.cell(space, space.format(Architecture(space.name, tuple(row)))) for row in rows.tolist()]
    encoder = FlatEncoder.fit(graphs)
    mean, one = (
        np.array([float(line[f"{dataset}_test_{column}"]) for line in first]) / 100 for column in ("mean", "one_run")
    )
    return Measured(space, rows, encoder, encoder.encode(graphs), mean, one[:, None])


def observe(table: Measured, random: np.random.Generator) -> NDArray[np.float64]:
    """What one training of each network would have given."""
    runs = random.integers(table.observed.shape[1], size=len(table.rows))
    return table.observed[np.arange(len(table.rows)), runs]


def active(table: Measured, seed: int, budget: int) -> list[int]:
    """Networks in the order of their training, at least ``budget``, until the optimum is among them."""
    random = np.random.default_rng([seed, 7])
    seen = observe(table, random)
    best = int(table.mean.argmax())
    paid = random.permutation(len(seen))[:START].tolist()
    while len(paid) < budget or (best not in paid and len(paid) < min(MOST, len(seen))):
        free = np.setdiff1d(np.arange(len(seen)), paid)
        if not len(free):
            break
        surrogate = fit_surrogate(table.encoder, table.columns[paid], seen[paid])
        paid += free[surrogate.choose(table.columns[free], BATCH).places].tolist()
    return paid


def blind(table: Measured, seed: int, budget: int) -> list[int]:
    random = np.random.default_rng([seed, 7])
    seen = observe(table, random)
    paid = random.permutation(len(seen))[: budget - LAST].tolist()
    free = np.setdiff1d(np.arange(len(seen)), paid)
    surrogate = fit_surrogate(table.encoder, table.columns[paid], seen[paid])
    return paid + free[surrogate.choose(table.columns[free], LAST, bonus=0.0, diverse=False).places].tolist()


def at_random(table: Measured, seed: int, budget: int) -> list[int]:
    random = np.random.default_rng([seed, 7])
    observe(table, random)
    return random.permutation(len(table.rows))[:budget].tolist()


def aging(table: Measured, seed: int, budget: int) -> list[int]:
    random = np.random.default_rng([seed, 7])
    seen = observe(table, random)
    places = {row.tobytes(): place for place, row in enumerate(table.rows)}

    def score(choices: Choices) -> NDArray[np.float64]:
        return seen[[places[row.tobytes()] for row in choices]]

    trace = aging_strategy(table.space, score, budget, random)
    return [places[row.tobytes()] for row in trace.choices]


def picked(table: Measured, seed: int, paid: list[int]) -> float:
    """Mean accuracy of the network that was observed best."""
    seen = observe(table, np.random.default_rng([seed, 7]))
    return float(table.mean[paid[int(seen[paid].argmax())]])


def interval(values: list[float]) -> dict[str, float]:
    array = np.array(values)
    return {
        "mean": round(100 * float(array.mean()), 3),
        "half_ci95": round(196 * float(array.std(ddof=1)) / len(array) ** 0.5, 3) if len(array) > 1 else 0.0,
    }


def study(name: str, table: Measured, trials: int) -> dict[str, Any]:
    best = int(table.mean.argmax())
    start = time.perf_counter()
    budget = max(BUDGETS) if name.startswith("nasbench201") else START
    runs = [active(table, seed, budget) for seed in range(trials)]
    counts = [paid.index(best) + 1 if best in paid else MOST + 1 for paid in runs]
    seconds = (time.perf_counter() - start) / trials
    quartiles = np.quantile(counts, (0.25, 0.75))
    draws = np.random.default_rng(0).choice(counts, size=(2000, trials))
    result: dict[str, Any] = {
        "networks": len(table.rows),
        "trainings_to_optimum_median": float(np.median(counts)),
        "median_ci95": np.quantile(np.median(draws, axis=1), (0.025, 0.975)).tolist(),
        "quartiles": quartiles.tolist(),
        "goal": GOALS.get(name),
        "never_within": {"trainings": MOST, "trials": int(np.sum(np.array(counts) > MOST))},
        "optimum_percent": round(100 * float(table.mean[best]), 3),
        "seconds_a_trial": round(seconds, 2),
    }
    if name.startswith("nasbench201"):
        ways: dict[str, Callable[[Measured, int, int], list[int]]] = {
            "random": at_random,
            "aging": aging,
            "blind": blind,
        }
        for trainings in BUDGETS:
            entry = {"active": interval([picked(table, seed, run[:trainings]) for seed, run in enumerate(runs)])}
            for way, function in ways.items():
                accuracies = [picked(table, seed, function(table, seed, trainings)) for seed in range(trials)]
                entry[way] = interval(accuracies)
            result[f"after_{trainings}"] = entry
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=tables.DATA)
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="3 trials")
    given = parser.parse_args()
    trials = 3 if given.quick else given.trials
    figures: dict[str, Any] = {"start": START, "batch": BATCH, "trials": trials}
    try:
        for name in given.only.split(","):
            if name not in NAMES:
                raise InputError(f"table {name!r}: known are {', '.join(NAMES)}")
            figures[name] = study(name, measured(name, given.data), trials)
            print(name, json.dumps(figures[name]), flush=True)
            given.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
