"""Differentiable search on nasbench201, by the table of all trained networks: with and without what stops collapse.

    python benchmarks/differentiable.py --npz cifar10.npz --table nasbench201.csv [--variants darts,fixed] [--seeds 4]

Reduced on purpose, so that two cores can do it: pictures of 16x16, one cell a stage in the shared network, 5,000
images. `--full` has the published sizes (32x32, 5 cells a stage, all images, 50 epochs), for a GPU. What a search finds
is looked up: the mean test accuracy of its three published trainings at full size on CIFAR-10. For comparison, from
the publications: DARTS 54.30, PC-DARTS 93.41, DrNAS 94.36, the best network 94.37. Results are kept search by search in
results/differentiable.json; the same line continues.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from supernet import Architecture
from supernet.nasbench201 import NasBench201
from training import DataSettings, Recipe, load_split, prepare
from training.corrupted import evenly_spaced
from training.devices import gpu_names
from training.differentiable import Objective, search_differentiably
from training.search_settings import DifferentiableSettings

RESULTS = Path(__file__).parent / "results" / "differentiable.json"
_PLAIN: dict[str, Any] = {
    "warmup": 0, "partial": 1, "strengths": False, "most_skips": None, "learning_rate": 0.025,
    "architecture_decay": 1e-3, "beta_decay": 0.0,
}  # fmt: skip
_FIXED: dict[str, Any] = {
    "warmup": 7, "strengths": True, "most_skips": 2, "learning_rate": 0.05, "architecture_decay": 0.0,
    "beta_decay": 1.0,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "darts": _PLAIN,
    "fixed": {**_FIXED, "partial": 1},
    "fixed, partial channels": {**_FIXED, "partial": 2},
    "warm-up alone": {**_PLAIN, "warmup": 7},
    "sampled": {**_FIXED, "partial": 1, "relaxation": "sampled", "architecture_rate": 0.02},
}
_PUBLISHED = {"DARTS": 54.30, "PC-DARTS": 93.41, "DrNAS": 94.36, "best network": 94.37}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--npz", required=True)
    parser.add_argument("--table", required=True, type=Path)
    parser.add_argument("--variants", default="darts,fixed")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1 if not arguments.full else torch.get_num_threads())
    with arguments.table.open(encoding="utf-8") as file:
        table = {row["arch"]: row for row in csv.DictReader(file)}
    for seed in range(arguments.seeds):
        for variant in arguments.variants.split(","):
            _keep(arguments, table, variant, seed)
    _tell(json.loads(arguments.out.read_text()), table)


def _keep(arguments: argparse.Namespace, table: dict[str, dict[str, str]], variant: str, seed: int) -> None:
    """One search, unless it is kept already."""
    size = "full" if arguments.full else "reduced"
    content = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"searches": {}}
    name = f"{size} / {variant} / {seed}"
    if name not in content["searches"]:
        found = _search(arguments, table, variant, seed)
        content = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"searches": {}}
        content["searches"][name] = found
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")
        print(name, found["architecture"], found["test_accuracy"], f"{found['seconds']:.0f} s", flush=True)


def _search(arguments: argparse.Namespace, table: dict[str, dict[str, str]], variant: str, seed: int) -> dict[str, Any]:
    target = NasBench201()
    side, cells, epochs, images, batch = (32, 5, 50, None, 64) if arguments.full else (16, 1, 20, 5_000, 64)
    rate = 6e-3 if not arguments.full else 1e-3
    info = prepare(DataSettings(source=f"npz:{arguments.npz}", validation_fraction=0.1), side)
    device = torch.device("cuda" if gpu_names() else "cpu")
    split = evenly_spaced(load_split(info, "train"), images).to(device)
    shared = NasBench201(input_size=side, cells=cells)
    settings = {"epochs": epochs, "batch_size": batch, "architecture_rate": rate, **VARIANTS[variant]}
    if arguments.full and settings["warmup"]:
        settings["warmup"] = 15
    started = time.perf_counter()
    found = search_differentiably(
        shared.supergraph(), target.supergraph(), "params", split, info.normalisation,
        DifferentiableSettings.model_validate(settings), Recipe(crop_padding=side // 8), Objective(0.0), seed,
        "nasbench201",
    )  # fmt: skip
    row = target.supergraph().decode(found.preferences.architecture(0.0))
    text = target.format(Architecture(target.name, row))
    return {
        "architecture": text,
        "test_accuracy": float(table[text]["cifar10_test_mean"]),
        "params": int(table[text]["params_c10"]),
        "skips": sum(option == 1 for option in row),
        "collapsed": found.collapsed,
        "seconds": time.perf_counter() - started,
        "settings": settings,
        "free_share": [one.free_share for one in found.history],
        "accuracy": [one.accuracy for one in found.history],
    }


def _tell(content: dict[str, Any], table: dict[str, dict[str, str]]) -> None:
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, found in content["searches"].items():
        groups.setdefault(name.rpartition(" / ")[0], []).append(found)
    print("mean test accuracy on CIFAR-10 at full size of what was found; lowest to highest; seconds a search")
    for name, found in groups.items():
        values = [one["test_accuracy"] for one in found]
        seconds = float(np.median([one["seconds"] for one in found]))
        print(f"  {name:36} {np.mean(values):6.2f}  {min(values):6.2f} to {max(values):6.2f}  {len(found)} seeds  "
              f"{sum(one['collapsed'] for one in found)} collapsed  {seconds:5.0f} s")  # fmt: skip
    every = np.array([float(row["cifar10_test_mean"]) for row in table.values()])
    print(f"  {'a random network':36} {every.mean():6.2f}  median {np.median(every):.2f}")
    for name, value in _PUBLISHED.items():
        print(f"  published: {name:25} {value:6.2f}")


if __name__ == "__main__":
    main()
