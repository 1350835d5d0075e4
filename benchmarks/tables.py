"""Published measurements as graph-table files, which `genas evaluate` and every predictor read.

    python benchmarks/tables.py OUTDIR [--data FOLDER] [--only NAME,NAME]

FOLDER holds the published tables: opsubset_cifar100_300.csv, nasbench201.csv, nasbench201_split.csv,
nasbench201_latency_ms.csv, nasbench_macro_cifar10.csv, random_families_cifar10c.csv. Where it is left out, it is tables
in GENAS_DATA, or in shared/data beside the checkout. What is missing is left out.
Written are opsubset300.jsonl, nasbench201_cifar10.jsonl (and _cifar100, _imagenet16), nasbench_macro.jsonl, and
families_densenet_N.jsonl and families_resnet_N.jsonl for N training images. Networks of NAS-Bench-201 are written as
one cell, six operations between an input and an output, each with its MACs and parameters in all cells of the network;
the others as whole networks. Accuracies are fractions. The last line is one JSON object: rows by file.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from genas.config import load_space
from supernet import (
    ArchGraph,
    Architecture,
    Families,
    InputError,
    LabelRow,
    LabelTable,
    NasBench201,
    Node,
    OpSubset,
    SearchSpace,
)
from supernet.families import used_nodes
from supernet.nasbench201 import EDGES, OPERATION_NAMES
from supernet.table import write_table

DATA = Path(os.environ.get("GENAS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "tables"
DATASETS = ("cifar10", "cifar100", "imagenet16")
PROXIES = ("hook_logdet", "synflow", "snip")
CORRUPTIONS = 19
DEPTHS = {"densenet": (1, 6), "resnet": (1, 65)}


def lines(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV. Raises InputError where it cannot be read."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
    except OSError as error:
        raise InputError(f"{path}: cannot read the table ({error.strerror})") from error


def op_subset(folder: Path) -> LabelTable:
    """300 networks of op_subset, CIFAR-100: best accuracy, mean of two runs."""
    space, rows = OpSubset(), []
    for line in lines(folder / "opsubset_cifar100_300.csv"):
        graph = space.graph(space.parse(line["bits"]))
        rows.append(LabelRow(line["arch_id"], graph, {"accuracy": float(line["top1"])}))
    return LabelTable(tuple(rows))


def nasbench201(folder: Path, dataset: str) -> LabelTable:
    """The 9,445 distinct networks of the published split: mean accuracy of 3 runs, zero-cost metrics as features."""
    space = NasBench201()
    kept = {line["idx"] for line in lines(folder / "nasbench201_split.csv")}
    latency = {}
    if dataset == "cifar10" and (folder / "nasbench201_latency_ms.csv").is_file():
        latency = {line.pop("idx"): line for line in lines(folder / "nasbench201_latency_ms.csv")}
    rows = []
    for line in lines(folder / "nasbench201.csv"):
        if line["idx"] not in kept:
            continue
        proxies = {name: float(line[f"{dataset}_{name}"]) for name in PROXIES}
        metrics = {
            "accuracy": float(line[f"{dataset}_test_mean"]) / 100,
            "accuracy_one_run": float(line[f"{dataset}_test_one_run"]) / 100,
            "accuracy_epoch12": float(line[f"{dataset}_val12"]) / 100,
            **{f"latency_{device}": float(value) for device, value in latency.get(line["idx"], {}).items()},
        }
        features = {name: value for name, value in proxies.items() if math.isfinite(value)}
        rows.append(LabelRow(line["idx"], cell(space, line["arch"]), metrics, features))
    return LabelTable(tuple(rows))


def cell(space: NasBench201, text: str) -> ArchGraph:
    """The cell of an architecture string, costs of all its copies on each operation."""
    network = space.graph(space.parse(text))
    named = {node.name: node for node in network.nodes}
    nodes = [Node("input")]
    for (source, target), choice in zip(EDGES, space.parse(text).choices, strict=True):
        copies = [
            named[f"stage{stage}_cell{place}_edge{source}{target}"]
            for stage in (1, 2, 3)
            for place in range(1, space.cells + 1)
        ]
        macs, params = (sum(copy.get(cost) for copy in copies) for cost in ("macs", "params"))
        nodes.append(Node(OPERATION_NAMES[choice], (("macs", macs), ("params", params))))
    nodes.append(Node("output"))
    edges = []
    for position, (source, target) in enumerate(EDGES, 1):
        if source == 0:
            edges.append((0, position))
        edges += [(position, after) for after, (start, _) in enumerate(EDGES, 1) if start == target]
        if target == 3:
            edges.append((position, len(nodes) - 1))
    return ArchGraph(tuple(nodes), tuple(edges))


def macro_space() -> SearchSpace:
    """The space of NAS-Bench-Macro."""
    return load_space("nasbench_macro", ["classes=10"]).space


def nasbench_macro(folder: Path) -> LabelTable:
    """All 6,561 networks of NAS-Bench-Macro: mean test accuracy of three runs, and each of them."""
    space, rows = macro_space(), []
    for line in lines(folder / "nasbench_macro_cifar10.csv"):
        graph = space.graph(Architecture(space.name, tuple(map(int, line["arch"]))))
        seeds = {f"accuracy_seed{seed}": float(line[f"test_acc_{seed + 1}"]) / 100 for seed in range(3)}
        rows.append(LabelRow(line["arch"], graph, {"accuracy": float(line["mean_acc"]) / 100, **seeds}))
    return LabelTable(tuple(rows))


def families(folder: Path, family: str, images: int) -> LabelTable:
    """Random chains trained on so many images: clean accuracy, and its mean over 19 corruptions."""
    stem: Literal["small", "large"] = "large" if family == "densenet" else "small"
    space = Families.model_validate({"family": family, "classes": 10, "stem": stem, "depth": DEPTHS[family]})
    rows: list[LabelRow] = []
    for line in lines(folder / "random_families_cifar10c.csv"):
        if line["family"] == family and int(line["num_train"]) == images:
            graph = space.graph(space.parse(used_nodes(line["arch"])))
            values = list(line.values())[6 : 6 + CORRUPTIONS]
            robust = sum(map(float, values)) / CORRUPTIONS
            metrics = {"accuracy": float(line["normal"]), "robust_accuracy": robust}
            rows.append(LabelRow(f"{line['run']}-{len(rows)}", graph, metrics))
    return LabelTable(tuple(rows))


TABLES: dict[str, Callable[[Path], LabelTable]] = {
    "opsubset300": op_subset,
    **{f"nasbench201_{dataset}": lambda folder, dataset=dataset: nasbench201(folder, dataset) for dataset in DATASETS},
    "nasbench_macro": nasbench_macro,
    **{
        f"families_{family}_{images}": lambda folder, family=family, images=images: families(folder, family, images)
        for family in ("densenet", "resnet")
        for images in (500, 1000, 5000, 10000, 25000, 50000)
    },
}
"""Name of each file, and what makes it of the folder of published tables."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the published tables")
    parser.add_argument("--only", default="", help="names of files, by commas (default: all)")
    given = parser.parse_args()
    names = [name for name in given.only.split(",") if name] or list(TABLES)
    written = {}
    try:
        for name in names:
            if name not in TABLES:
                raise InputError(f"--only: {name!r} does not exist; known: {', '.join(TABLES)}")
            table = TABLES[name](given.data)
            if not len(table):
                continue
            given.out.mkdir(parents=True, exist_ok=True)
            write_table(table, given.out / f"{name}.jsonl")
            written[name] = len(table)
            print(f"{given.out / name}.jsonl: {len(table)} architectures", flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(written))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
