"""Search under hard limits: exact hits, speed against per-object evolution and pymoo, fronts, costs, active labelling.

    python benchmarks/search.py --out FOLDER [--data FOLDER] [--only PART,PART] [--quick]

Parts: `exact` (op_subset, predictors of 300 published labels, at most 15 M convolution MACs, 100 seeds: how often the
default evolution reaches the optimum; of the ridge predictor that is proven by integer programming, of the hybrid it is
the best that any seed has found), `speed` (candidates scored a second on one additive score, in turns, against a plain
per-object evolution that asks the same score of one architecture at a time, and pymoo's GA; population 1000 each),
`front` (hypervolume of accuracy, MACs and parameters against pymoo's NSGA-II, equal budgets), `costs` (10 million
op_subset architectures costed and filtered), `active` (see active_tables.py). FOLDER/PART.json is written as each part
ends. Hardware: any CPU; one thread, predictors up to two. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random as plain_random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import tables
from numpy.typing import NDArray

from evolution import FrontSettings, SearchSettings, evolve, evolve_front, hypervolume, optimum
from predictor import fit_models
from supernet import Choices, InputError, OpSubset, architectures
from supernet.limits import within

SPACE = OpSubset()
LIMITS = {"conv_macs": 15_000_000}
REPEATS = 5
POPULATION, PARENTS = 1000, 300  # of all whose speed is compared


def exact(folder: Path, quick: bool) -> dict[str, Any]:
    table = tables.op_subset(folder)
    seeds = 3 if quick else 100
    fitted = fit_models(table, "accuracy", ("ridge", "hybrid"))
    result: dict[str, Any] = {"limits": LIMITS, "seeds": seeds, "settings": SearchSettings().model_dump()}
    for model in ("ridge", "hybrid"):
        predictor = fitted[model].predictor
        asked = [0.0, 0]

        def score(rows: Choices, predictor: Any = predictor, asked: list[Any] = asked) -> NDArray[np.float64]:
            start = time.perf_counter()
            graphs = [SPACE.graph(one) for one in architectures(SPACE, rows)]
            values = predictor.score(graphs, deviations=False).scores
            asked[0] += time.perf_counter() - start
            asked[1] += len(rows)
            return np.asarray(values, np.float64)

        proof = optimum(SPACE, score, LIMITS)
        own, both, rates, best, reached = [], [], [], [], []
        for seed in range(seeds):
            asked[:] = [0.0, 0]
            start = time.perf_counter()
            found = evolve(SPACE, score, LIMITS, SearchSettings(), np.random.default_rng(seed))
            whole = time.perf_counter() - start
            own.append(whole - asked[0])
            both.append(whole)
            rates.append(asked[1] / asked[0])
            best.append((found.best[0].score, SPACE.format(found.best[0].architecture)))
            reached.append(next(queries for queries, value in found.history if value >= found.best[0].score))
        highest = max(value for value, _ in best) if proof is None else proof.best.score
        hits = sum(value >= highest - 1e-9 for value, _ in best)
        result[model] = {
            "optimum": "best of all seeds, not proven" if proof is None else f"proven by {proof.method}",
            "architecture": max(best)[1] if proof is None else SPACE.format(proof.best.architecture),
            "hits": hits,
            "median_gap_of_misses": float(np.median([highest - value for value, _ in best if value < highest - 1e-9]))
            if hits < seeds
            else 0.0,
            "search_seconds_without_predictor": spread(own),
            "search_seconds_with_predictor": spread(both),
            "predictor_candidates_a_second": spread(rates),
            "queries_until_best": spread([float(value) for value in reached]),
        }
        print(model, json.dumps(result[model]), flush=True)
    return result


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return {"median": round(float(middle), 4), "p5": round(float(low), 4), "p95": round(float(high), 4)}


def additive() -> NDArray[np.float64]:
    """Weights like those of ridge on the published labels: a score that costs next to nothing."""
    return np.random.default_rng(0).normal(0.2, 1.0, len(SPACE.cardinalities))


def per_object(
    score: Callable[[list[int]], float], costs: list[int], fixed: int, queries: int, seed: int
) -> tuple[float, int]:
    """The published evolution as one writes it for single architectures: lists, a set, a loop."""
    draw = plain_random.Random(seed)
    count, layers = len(costs), len(SPACE.layers)
    width, limit = count // layers, LIMITS["conv_macs"]
    seen: set[tuple[int, ...]] = set()
    scored: list[tuple[float, tuple[int, ...]]] = []

    def admit(bits: list[int]) -> None:
        for layer in range(layers):
            if not any(bits[layer * width : (layer + 1) * width]):
                return
        key = tuple(bits)
        if key in seen or fixed + sum(cost for cost, bit in zip(costs, bits, strict=True) if bit) > limit:
            return
        seen.add(key)
        scored.append((score(bits), key))

    while len(scored) < POPULATION:
        admit([draw.randint(0, 1) for _ in range(count)])
    while len(scored) < queries:
        scored.sort(reverse=True)
        parents = [bits for _, bits in scored[:PARENTS]]
        wanted = min(len(scored) + POPULATION, queries)
        while len(scored) < wanted:
            child = list(draw.choice(parents))
            if draw.random() < 0.5:
                other = draw.choice(parents)
                child = [one if draw.random() < 0.5 else two for one, two in zip(child, other, strict=True)]
            for place in range(count):
                if draw.random() < 1 / count:
                    child[place] = 1 - child[place]
            if draw.random() < 0.5:
                off, on = (draw.randrange(count) for _ in range(2))
                child[off], child[on] = 0, 1
            admit(child)
    return max(scored)[0], len(scored)


def with_pymoo(weights: NDArray[np.float64], queries: int, seed: int) -> tuple[float, int]:
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.bitflip import BitflipMutation
    from pymoo.operators.sampling.rnd import BinaryRandomSampling
    from pymoo.optimize import minimize

    class Bits(Problem):
        def __init__(self) -> None:
            super().__init__(n_var=len(weights), n_obj=1, n_ieq_constr=2, xl=0, xu=1, vtype=bool)

        def _evaluate(self, x: Any, out: dict[str, Any], *args: object, **kwargs: object) -> None:  # noqa: ARG002
            rows = x.astype(np.int8)
            empty = (rows.reshape(len(rows), len(SPACE.layers), -1).sum(axis=2) == 0).sum(axis=1)
            over = SPACE.costs(rows)["conv_macs"] - LIMITS["conv_macs"]
            out["F"] = -(rows @ weights)
            out["G"] = np.stack([over, empty], axis=1)

    algorithm = GA(
        pop_size=POPULATION,
        sampling=BinaryRandomSampling(),
        crossover=UniformCrossover(),
        mutation=BitflipMutation(),
        eliminate_duplicates=True,
    )
    found = minimize(Bits(), algorithm, ("n_eval", queries), seed=seed, verbose=False)
    return (float(-found.F[0]) if found.F is not None else float("-inf")), int(found.algorithm.evaluator.n_eval)


def speed(folder: Path, quick: bool) -> dict[str, Any]:
    weights = additive()
    fixed = int(SPACE.costs(np.zeros((1, len(weights)), np.int8))["conv_macs"][0])
    costs = (SPACE.costs(np.eye(len(weights), dtype=np.int8))["conv_macs"] - fixed).tolist()
    proof = optimum(SPACE, lambda rows: rows @ weights, LIMITS)
    assert proof is not None
    plain = weights.tolist()
    rates: dict[str, list[float]] = {}
    gaps: dict[str, list[float]] = {}
    queries = 5_000 if quick else 50_000

    def ours(population: int, parents: int) -> Callable[[int], tuple[float, int]]:
        settings = SearchSettings(queries=queries, population=population, parents=parents)

        def search(seed: int) -> tuple[float, int]:
            found = evolve(SPACE, lambda rows: rows @ weights, LIMITS, settings, np.random.default_rng(seed))
            return found.best[0].score, found.queries

        return search

    ways: dict[str, Callable[[int], tuple[float, int]]] = {
        "evolve": ours(POPULATION, PARENTS),
        "evolve, default population": ours(SearchSettings().population, SearchSettings().parents),
        "per object": lambda seed: per_object(
            lambda bits: float((np.array([bits], np.int8) @ weights)[0]), costs, fixed, queries, seed
        ),
        "per object, score in plain Python": lambda seed: per_object(
            lambda bits: sum(weight for weight, bit in zip(plain, bits, strict=True) if bit),
            costs,
            fixed,
            queries,
            seed,
        ),
        "pymoo GA": lambda seed: with_pymoo(weights, queries, seed),
    }
    for repeat in range(2 if quick else REPEATS):
        for name, way in ways.items():
            start = time.perf_counter()
            value, count = way(repeat)
            rates.setdefault(name, []).append(count / (time.perf_counter() - start))
            gaps.setdefault(name, []).append(proof.best.score - value)
    result: dict[str, Any] = {
        name: {"candidates_a_second": spread(rates[name]), "median_gap_to_optimum": float(np.median(gaps[name]))}
        for name in ways
    }
    for rival in ("per object", "per object, score in plain Python", "pymoo GA"):
        for own in ("evolve", "evolve, default population"):
            ratios = [one / other for one, other in zip(rates[own], rates[rival], strict=True)]
            result[f"{own} / {rival}"] = spread(ratios)
    return result


def front(folder: Path, quick: bool) -> dict[str, Any]:
    """Accuracy of the Gaussian process, MACs and parameters; hypervolume of objectives scaled to their ranges."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.bitflip import BitflipMutation
    from pymoo.operators.sampling.rnd import BinaryRandomSampling
    from pymoo.optimize import minimize

    table = tables.op_subset(folder)
    predictor = fit_models(table, "accuracy", ("gp",))["gp"].predictor
    queries = 1_000 if quick else 5_000

    def score(rows: Choices) -> NDArray[np.float64]:
        return predictor.predict([SPACE.graph(one) for one in architectures(SPACE, rows)])

    def cost(name: str) -> Callable[[Choices], NDArray[np.float64]]:
        return lambda rows: SPACE.costs(rows)[name].astype(np.float64)

    sample = SPACE.sample(2000, np.random.default_rng(0))
    worst = np.array([-score(sample).min(), *(cost(name)(sample).max() for name in ("macs", "params"))])
    ideal = np.array([-0.62, *(float(SPACE.costs(SPACE.cheapest(name).row())[name][0]) for name in ("macs", "params"))])

    class Bits(Problem):
        def __init__(self) -> None:
            super().__init__(n_var=len(SPACE.cardinalities), n_obj=3, n_ieq_constr=1, xl=0, xu=1, vtype=bool)

        def _evaluate(self, x: Any, out: dict[str, Any], *args: object, **kwargs: object) -> None:  # noqa: ARG002
            rows = x.astype(np.int8)
            valid = SPACE.is_valid(rows)
            values = np.full((len(rows), 3), 1e9)
            if valid.any():
                some = rows[valid]
                values[valid] = np.stack([-score(some), cost("macs")(some), cost("params")(some)], axis=1)
            out["F"], out["G"] = values, np.where(valid, 0.0, 1.0)[:, None]

    def volume(values: NDArray[np.float64]) -> float:
        return hypervolume((values - ideal) / (worst - ideal), np.ones(3))

    ours, theirs = [], []
    for seed in range(2 if quick else REPEATS):
        found = evolve_front(
            SPACE, {"accuracy": score}, {"macs": cost("macs"), "params": cost("params")}, {},
            FrontSettings(population=100, queries=queries), np.random.default_rng(seed),
        )  # fmt: skip
        ours.append(volume(found.values * [-1, 1, 1]))
        algorithm = NSGA2(
            pop_size=100, sampling=BinaryRandomSampling(), crossover=UniformCrossover(),
            mutation=BitflipMutation(), eliminate_duplicates=True,
        )  # fmt: skip
        archive: list[NDArray[np.float64]] = []
        other = minimize(Bits(), algorithm, ("n_eval", queries), seed=seed, verbose=False, save_history=True)
        for step in other.history:
            archive.append(step.pop.get("F"))
        everything = np.concatenate(archive)
        theirs.append(volume(everything[everything[:, 1] < 1e9]))  # all that it scored, as of ours
        print("front", seed, ours[-1], theirs[-1], flush=True)
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return {"queries": queries, "ours": spread(ours), "pymoo": spread(theirs), "ratio": spread(ratios)}


def costs(folder: Path, quick: bool) -> dict[str, Any]:
    random, total, chunk, kept = np.random.default_rng(0), 1_000_000 if quick else 10_000_000, 100_000, 0
    counting = 0.0
    SPACE.costs(SPACE.sample(chunk, random))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    for _ in range(total // chunk):
        rows = SPACE.sample(chunk, random)
        middle = time.perf_counter()
        kept += int(within(SPACE, rows, LIMITS).sum())
        counting += time.perf_counter() - middle
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "architectures": total,
        "kept": kept,
        "seconds_costed_and_filtered": round(counting, 2),
        "seconds_with_sampling": round(seconds, 2),
        "peak_megabytes_before": round(before / 1024, 1),
        "peak_megabytes_after": round(after / 1024, 1),
    }


def active(folder: Path, quick: bool) -> dict[str, Any]:
    script = Path(__file__).with_name("active_tables.py")
    arguments = [
        sys.executable,
        str(script),
        "--data",
        str(folder),
        "--out",
        os.devnull,
        *(["--quick"] if quick else []),
    ]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


PARTS: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    "costs": costs,
    "speed": speed,
    "exact": exact,
    "front": front,
    "active": active,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=tables.DATA)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="minutes, figures that mean little")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {}
    try:
        for part in given.only.split(","):
            if part not in PARTS:
                raise InputError(f"part {part!r}: known are {', '.join(PARTS)}")
            figures[part] = PARTS[part](given.data, given.quick)
            (given.out / f"{part}.json").write_text(json.dumps(figures[part], indent=1) + "\n", encoding="utf-8")
            print(part, json.dumps(figures[part]), flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    ridge, quickest = figures.get("exact", {}).get("ridge", {}), figures.get("speed", {})
    last = {
        "exact_hits_of_100": ridge.get("hits"),
        "search_seconds_without_predictor": ridge.get("search_seconds_without_predictor", {}).get("median"),
        "search_seconds_with_predictor": ridge.get("search_seconds_with_predictor", {}).get("median"),
        "hybrid_hits_of_best_known": figures.get("exact", {}).get("hybrid", {}).get("hits"),
        "hybrid_seconds_with_predictor": figures.get("exact", {})
        .get("hybrid", {})
        .get("search_seconds_with_predictor", {})
        .get("median"),
        "ratio_to_per_object": quickest.get("evolve / per object", {}).get("median"),
        "ratio_to_pymoo": quickest.get("evolve / pymoo GA", {}).get("median"),
        "hypervolume_ratio_to_pymoo": figures.get("front", {}).get("ratio", {}).get("median"),
        "trainings_to_optimum": {
            name: entry["trainings_to_optimum_median"]
            for name, entry in figures.get("active", {}).items()
            if isinstance(entry, dict)
        },
    }
    print(json.dumps(last))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
