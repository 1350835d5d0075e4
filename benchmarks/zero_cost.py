"""Training-free metrics against the published ones, and against measured accuracies, on NAS-Bench-201.

    python benchmarks/zero_cost.py --data DIR --npz cifar10.npz [--count N] [--seed N] [--logs FILE] [--out FILE]

``--data`` holds nasbench201.csv (a network a row: accuracies, published hook_logdet, synflow, snip), ``--npz`` CIFAR-10
with train_images and train_labels (uint8, N x 32 x 32 x 3). 200 networks are drawn from the table; each has every
metric on the same 128 pictures at initialisation, one thread, one metric at a time, so that seconds (of the processor,
as the machine may be shared) are those of the metric alone; snip and grad_norm share one pass, the metrics of AZ-NAS
another, and are timed together. Stopped, the same line with ``--logs`` continues. Told are Spearman's rank correlation
with the published columns, Kendall's tau-b of metrics and combinations with the test accuracy (mean of three trainings)
on CIFAR-10, CIFAR-100 and ImageNet16-120 beside MACs and parameters, and invalid scores. Nothing is fitted or chosen by
accuracy.

The published hook_logdet counts the codes of each ReLU inside a ReLU-convolution-norm block twice (its hooks take
every class with ReLU in its name, the block's own too); ``hook_logdet_published`` repeats that for 40 networks. The
last line is one JSON object, which is also written to ``--out`` (benchmarks/results/zero_cost.json) for the full count.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

from predictor import kendall_tau, tau_interval
from predictor.zero_cost import FLOOR, METRICS, Probe, convex, log_rank_sum, score_network
from predictor.zero_cost.metrics import AZ_NAS, agreements
from supernet.nasbench201 import NasBench201

COUNT = 200
DATA_SETS = ("cifar10", "cifar100", "imagenet16")
PUBLISHED = ("hook_logdet", "synflow", "snip")
MEAN, DEVIATION = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
"""Of CIFAR-10, as the published values were made."""
GROUPS = {
    **{name: (name,) for name in ("hook_logdet", "synflow", "jacob_cov", "params")},
    "snip, grad_norm": ("snip", "grad_norm"),
    "az_nas": AZ_NAS,
}
"""What is timed together: metrics that share a pass."""
CHECKED = 40
"""Networks whose hook_logdet is counted as published too."""


def batch(path: Path, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """128 pictures, normalised, and their labels."""
    with np.load(path, allow_pickle=False) as file:
        images, labels = file["train_images"], file["train_labels"]
    chosen = np.random.default_rng(seed).permutation(len(images))[:128]
    pictures = (images[chosen] - np.array(MEAN)) / np.array(DEVIATION)
    return torch.from_numpy(pictures).float().permute(0, 3, 1, 2), torch.from_numpy(labels[chosen].astype(np.int64))


def counted_as_published(probe: Probe) -> float:
    """hook_logdet with the codes of relu_conv_bn counted twice."""
    kernel = np.zeros((len(probe.images), len(probe.images)))

    def hook(times: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            kernel[...] += times * agreements(inputs[0])

        return count

    for chain in probe.network.children():
        for position, layer in enumerate(chain.children()):
            if isinstance(layer, nn.ReLU):
                layer.register_forward_hook(hook(2 if position == 0 else 1))
    with torch.no_grad():
        probe.network(probe.images)
    sign, value = np.linalg.slogdet(kernel)
    return float(value) if sign > 0 and math.isfinite(value) else -math.inf


METRICS["hook_logdet_published"] = counted_as_published


def measure(arguments: argparse.Namespace, table: list[dict[str, str]]) -> list[dict[str, Any]]:
    """One entry a network: its row of the table, scores, seconds by group."""
    torch.set_num_threads(1)
    images, labels = batch(arguments.npz, arguments.seed)
    chosen = np.random.default_rng(arguments.seed).choice(len(table), arguments.count, replace=False).tolist()
    space, done = NasBench201(classes=10), {}
    if arguments.logs is not None and arguments.logs.exists():
        done = {entry["row"]: entry for entry in map(json.loads, arguments.logs.read_text().splitlines())}
    for number, row in enumerate(chosen, 1):
        if row in done:
            continue
        graph = space.graph(space.parse(table[row]["arch"]))
        entry: dict[str, Any] = {"row": row, "scores": {}, "seconds": {}}
        groups = {**GROUPS, "hook_logdet_published": ("hook_logdet_published",)} if number <= CHECKED else GROUPS
        for name, group in groups.items():
            started = time.process_time()
            scores = score_network(graph, group, images, labels, arguments.seed)
            entry["seconds"][name] = time.process_time() - started
            entry["scores"] |= {name: score.value if score.valid else None for name, score in scores.items()}
        done[row] = entry
        if arguments.logs is not None:
            with arguments.logs.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        if number % 20 == 0:
            print(f"{number} of {len(chosen)}", flush=True)
    return [done[row] for row in chosen]


def summary(entries: list[dict[str, Any]], table: list[dict[str, str]], seed: int) -> dict[str, Any]:
    """What was measured, as one JSON object."""
    rows = [table[entry["row"]] for entry in entries]
    values = {
        name: np.array([math.nan if (value := entry["scores"].get(name)) is None else value for entry in entries])
        for name in METRICS
    }
    rates = {name: np.nan_to_num(values[name], nan=FLOOR) for name in METRICS if "published" not in name}
    published = {}
    for name in (*PUBLISHED, "hook_logdet_published"):
        column = np.array([float(row[f"cifar10_{name.removesuffix('_published')}"]) for row in rows])
        if name == "synflow":
            column = np.log(column, where=column > 0, out=np.full(len(column), -math.inf))
        valid = np.isfinite(column) & (column != 0)
        both = valid & np.isfinite(values[name])
        compared = np.array([name in entry["scores"] for entry in entries])
        published[name] = {
            "networks": int(compared.sum()),
            "spearman": float(stats.spearmanr(values[name][both], column[both]).statistic),
            "same_validity": int((valid == np.isfinite(values[name]))[compared].sum()),
            "both_valid": int(both.sum()),
            "median_absolute_difference": float(np.median(np.abs(values[name][both] - column[both]))),
            "published_tau": {
                data: kendall_tau(
                    np.nan_to_num(
                        [float(row[f"{data}_{name.removesuffix('_published')}"]) for row in rows], neginf=FLOOR
                    ),
                    [float(row[f"{data}_test_mean"]) for row in rows],
                )
                for data in DATA_SETS
            },
        }
    combinations = {
        "log_rank_sum(hook_logdet, synflow, params)": log_rank_sum(
            {name: values[name] for name in ("hook_logdet", "synflow", "params")}
        ),
        "convex(.6 hook_logdet, .4 synflow)": convex({name: values[name] for name in ("hook_logdet", "synflow")}),
        "az_nas": log_rank_sum({name: values[name] for name in AZ_NAS}),
        "log_rank_sum(az_nas, hook_logdet, synflow, params)": log_rank_sum(
            {name: values[name] for name in (*AZ_NAS, "hook_logdet", "synflow", "params")}
        ),
    }
    taus: dict[str, dict[str, Any]] = {}
    for name, column in {**rates, **combinations}.items():
        taus[name] = {}
        for data in DATA_SETS:
            accuracy = [float(row[f"{data}_test_mean"]) for row in rows]
            taus[name][data] = {
                "tau": kendall_tau(column, accuracy),
                "ci95": list(tau_interval(column, accuracy, seed)),
            }
    return {
        "networks": len(entries),
        "seed": seed,
        "torch": torch.__version__,
        "published": published,
        "tau_with_test_accuracy": taus,
        "median_processor_seconds": {
            name: statistics.median(entry["seconds"][name] for entry in entries) for name in GROUPS
        },
        "invalid": {name: int(np.isnan(column).sum()) for name, column in values.items() if "published" not in name},
    }


def show(result: dict[str, Any]) -> None:
    print(f"{result['networks']} networks; with the published columns:")
    for name, entry in result["published"].items():
        print(
            f"  {name:24} Spearman {entry['spearman']:.4f} on {entry['both_valid']} valid in both, validity the same "
            f"for {entry['same_validity']} of {entry['networks']}, "
            f"median difference {entry['median_absolute_difference']:.2f}"
        )
    print("Kendall tau with test accuracy, 95 % interval over networks:")
    for name, entry in result["tau_with_test_accuracy"].items():
        cells = "  ".join(
            f"{entry[data]['tau']:6.3f} [{entry[data]['ci95'][0]:.2f}, {entry[data]['ci95'][1]:.2f}]"
            for data in DATA_SETS
        )
        print(f"  {name:50} {cells}  invalid {result['invalid'].get(name, '')}")
    print(
        "processor seconds a network:",
        {name: round(value, 3) for name, value in result["median_processor_seconds"].items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of nasbench201.csv")
    parser.add_argument("--npz", type=Path, required=True)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logs", type=Path, default=None, help="file of networks that are done")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "zero_cost.json")
    arguments = parser.parse_args()
    with (arguments.data / "nasbench201.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    result = summary(measure(arguments, table), table, arguments.seed)
    show(result)
    text = json.dumps(result, allow_nan=False)
    if arguments.count == COUNT:
        arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
