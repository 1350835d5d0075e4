"""Kendall tau of all predictors on the 300 published CIFAR-100 labels of op_subset networks.

    python benchmarks/predictor_published.py --data FOLDER [--trials 20] [--quick]

FOLDER holds opsubset_cifar100_300.csv with the columns arch_id, bits (30 digits, layer by layer) and
top1 (fraction). Two protocols: the fixed split (first 250 rows to fit on, last 50 held out) and random
250/50 splits with seeds 0, 1, ... The last line is one JSON object. Hardware: any CPU; one thread.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from pathlib import Path

import torch

from predictor import Evaluation, evaluate, evaluate_split
from predictor.evaluation import mean_interval
from supernet import InputError, LabelRow, LabelTable, OpSubset

TRAIN = 250
QUICK_TRIALS = 2


def read_published(folder: Path) -> LabelTable:
    """The CSV as a label table. Raises InputError with file and line for what does not fit."""
    path, space, rows = folder / "opsubset_cifar100_300.csv", OpSubset(), []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, line in enumerate(csv.DictReader(file), 2):
                try:
                    architecture = space.parse(line["bits"])
                    metrics = {"accuracy": float(line["top1"])}
                except (KeyError, TypeError, ValueError) as error:
                    raise InputError(f"{path}:{number}: expected arch_id, bits and top1 ({error})") from error
                graph = space.graph(architecture)
                rows.append(LabelRow(line["arch_id"], graph, metrics, choices=architecture.choices))
    except OSError as error:
        raise InputError(f"{path}: cannot read the published labels ({error.strerror})") from error
    return LabelTable(tuple(rows))


def show(title: str, evaluation: Evaluation) -> None:
    """One line for each model."""
    print(f"{title}: {evaluation.train_size} to fit on, {evaluation.test_size} held out, {evaluation.trials} trials")
    for name, model in evaluation.models.items():
        low, high = model.tau_ci95
        print(
            f"  {name:6} tau {model.tau:.3f} +- {model.tau_std:.3f}  95 % [{low:.3f}, {high:.3f}]  "
            f"fit {model.fit_seconds:.2f} s  {model.scored_per_second:,.0f} architectures/s"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of opsubset_cifar100_300.csv")
    parser.add_argument("--trials", type=int, default=20, help="random splits (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the splits and fits (default: 0)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TRIALS} random splits")
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        table = read_published(given.data)
        rows = len(table)
        fixed = evaluate_split(table, "accuracy", range(TRAIN), range(TRAIN, rows), given.seed)
        show("fixed split", fixed)
        trials = QUICK_TRIALS if given.quick else given.trials
        random = evaluate(table, "accuracy", TRAIN, trials, given.seed)
        show("random splits", random)
        pairs = zip(random.models["graph"].taus, random.models["ridge"].taus, strict=True)
        gaps = [graph - ridge for graph, ridge in pairs]
        low, high = mean_interval(gaps)
        gap = {"mean": statistics.mean(gaps), "ci95": [low, high], "won": sum(gap > 0 for gap in gaps)}
        print(f"  graph - ridge on the same splits: {gap['mean']:+.3f} [{low:+.3f}, {high:+.3f}], won {gap['won']}")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps({"fixed_split": fixed.to_json(), "random_splits": random.to_json(), "graph_minus_ridge": gap}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
