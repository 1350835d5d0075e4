"""The estimate of a training's memory against its true peak, and against the published baseline.

    python benchmarks/memory.py [--table batch_data.csv] [--quick]

First, real training steps: the peak that the CPU's allocator reports (the profiler's memory events), or on a GPU
``torch.cuda.max_memory_allocated``, against the trace with fake tensors; and the line through two traces against a
trace of a third batch. Networks are members of op_subset and torchvision's own at 32x32 with 100 classes.

Second, with ``--table`` (columns: model size, batch size, GPU mb), how well the published measurements of memory are
predicted by the published baseline, a polynomial ridge on parameters and batch, and by a form that is affine in the
batch: a + bN + cB + dNB. Each row is left out in turn, and each network with all its rows. The table does not say which
architecture a row is of, so these networks cannot be traced. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import nn
from torch.profiler import ProfilerActivity, profile

from supernet import OpSubset
from supernet.network import build_network
from training import Recipe
from training.kernels import speed_up
from training.loop import TrainingState
from training.memory import memory_line, trace_peak

SPACE = OpSubset()
MEMBERS = {
    "all operations": "111111 111111 111111 111111 111111",
    "skips alone": "100000 100000 100000 100000 100000",
    "dilated alone": "000011 000011 000011 000011 000011",
    "separable alone": "011100 011100 011100 011100 011100",
    "published winner": "111000 011101 111111 111111 011101",
    "random 1": "011011 100101 100001 100010 001010",
    "random 2": "110000 101000 010000 001100 001011",
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{name: (lambda text=text: build_network(SPACE.graph(SPACE.parse(text)), 0)) for name, text in MEMBERS.items()},
    **{
        name: (lambda name=name: getattr(torchvision.models, name)(num_classes=100))
        for name in ("resnet18", "mobilenet_v2", "densenet121", "vgg11_bn", "shufflenet_v2_x1_0", "squeezenet1_1")
    },
}
CASES = [(name, batch, "float32") for name, batch in zip(NETWORKS, (64, 128, 48, 96, 32, 16, 128) * 2, strict=False)]
CASES += [("all operations", 32, "bfloat16"), ("published winner", 64, "bfloat16"), ("resnet18", 32, "bfloat16")]


def true_peak(make: Callable[[], nn.Module], recipe: Recipe, batch: int, device: torch.device) -> int:
    """Bytes at the worst moment of two real steps, all that the network holds included."""

    def steps() -> None:
        network = make().to(device=device, memory_format=torch.channels_last)
        speed_up(network)
        state = TrainingState(network.train(), recipe, device, pieces=1)
        images = torch.randn(batch, 32, 32, 3, device=device).permute(0, 3, 1, 2)
        labels = torch.zeros(batch, dtype=torch.int64, device=device)
        for _ in range(2):
            state.step(images, labels, torch.zeros((), device=device), torch.zeros((), device=device))

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        steps()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        steps()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    memory = sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"])
    totals = [event["args"] for event in memory if event["args"]["Device Type"] == 0]
    return max(one["Total Allocated"] for one in totals) - (totals[0]["Total Allocated"] - totals[0]["Bytes"])


def estimates(device: torch.device, quick: bool) -> dict[str, Any]:
    rows = []
    for name, batch, precision in CASES[:3] if quick else CASES:
        recipe = Recipe(precision=precision)  # type: ignore[arg-type]
        network = NETWORKS[name]()
        true = true_peak(NETWORKS[name], recipe, batch, device)
        traced = trace_peak(network, 3, 32, recipe, batch, device.type)
        line = memory_line(network, 3, 32, recipe, 4 * batch, device.type)
        row = {
            "network": name, "batch": batch, "precision": precision, "true_megabytes": round(true / 1e6, 2),
            "error_percent": round(100 * (traced / true - 1), 2),
            "line_error_percent": round(100 * (line.peak(batch) / traced - 1), 3),
        }  # fmt: skip
        rows.append(row)
        print(*row.values(), sep="\t", flush=True)
    result: dict[str, Any] = {"networks": len({row["network"] for row in rows}), "rows": rows}
    for precision in {str(row["precision"]) for row in rows}:
        errors = [abs(float(str(row["error_percent"]))) for row in rows if row["precision"] == precision]
        result[precision] = {
            "median_error_percent": round(statistics.median(errors), 2), "worst_error_percent": max(errors),
        }  # fmt: skip
    result["worst_line_error_percent"] = max(abs(float(str(row["line_error_percent"]))) for row in rows)
    return result


def polynomial(size: NDArray[np.float64], batch: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.ones_like(size), size, batch, size**2, size * batch, batch**2], axis=1)


def affine(size: NDArray[np.float64], batch: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.ones_like(size), size, batch, size * batch], axis=1)


def left_out(columns: NDArray[np.float64], target: NDArray[np.float64], groups: list[Any], alpha: float) -> float:
    """Mean absolute percentage error where each group is predicted from the others by a ridge regression."""
    errors: list[float] = []
    for group in dict.fromkeys(groups):
        out = np.array([other == group for other in groups])
        mean, spread = columns[~out, 1:].mean(axis=0), columns[~out, 1:].std(axis=0)
        scaled = (columns[:, 1:] - mean) / spread
        known = scaled[~out]
        middle = target[~out].mean()
        weights = np.linalg.solve(known.T @ known + alpha * np.eye(known.shape[1]), known.T @ (target[~out] - middle))
        errors += list(np.abs(scaled[out] @ weights + middle - target[out]) / target[out])
    return 100 * float(np.mean(errors))


def published(table: Path) -> dict[str, Any]:
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    size, batch, target = (
        np.array([float(row[name]) for row in rows]) for name in ("model size", "batch size", "GPU mb")
    )
    result: dict[str, Any] = {"rows": len(rows)}
    for name, form in (("polynomial_ridge", polynomial), ("affine_in_batch", affine)):
        columns = form(size, batch)
        alphas = (1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0) if name == "polynomial_ridge" else (1e-9,)
        for way, groups in (("leave_one_out", list(range(len(rows)))), ("leave_one_network_out", size.tolist())):
            result[f"{name}_{way}_percent"] = round(min(left_out(columns, target, groups, one) for one in alphas), 2)
    print(json.dumps(result), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {
        "device": options.device,
        "estimates": estimates(torch.device(options.device), options.quick),
    }
    if options.table is not None:
        figures["published_table"] = published(options.table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
