"""Kendall tau of every model on published tables, ablations of the hybrid, its calibration and its learning curve.

    python benchmarks/predictor.py [--data FOLDER] [--out DIR] [--trials 20] [--only NAME,...] [--workers 2] [--quick]

FOLDER holds the published tables that benchmarks/tables.py turns into graph tables, and has the same default; where it
lacks one, its lines are left out. All models learn from the same random rows and rank the same others, at most 4,000.
Settings were chosen on splits with other seeds of these tables. DIR gets predictor.json, calibration.png and
learning_curve.png. The last line is one JSON object: tau by table, labels and model. Hardware: any CPU; one process a
core, one thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import predictor.models
from benchmarks.tables import DATA, TABLES, lines
from predictor import MODELS, GraphPredictorSettings, Split, evaluate, fit_models, random_splits
from predictor.models import score_models
from predictor.trust import label_noise
from supernet import InputError, LabelTable, read_table

ROOT = Path(__file__).resolve().parent.parent
QUICK_TRIALS = 2
MACS = ("hybrid", "graph", "gp", "trees", "ridge", "mlp", "macs")
CALIBRATED = 100
NOMINAL = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
FEATURES = ("hybrid", "gp", "trees", "ridge", "macs")


@dataclass(frozen=True)
class Job:
    """Models on one table after so many labels."""

    table: str
    labels: int
    what: str = ""
    models: tuple[str, ...] = MACS
    features: bool = False
    settings: tuple[tuple[str, Any], ...] = ()
    trials: int = 1000

    @property
    def name(self) -> str:
        return f"{self.table}{f' {self.what}' if self.what else ''}"


def jobs() -> Iterator[Job]:
    """What is measured."""
    yield Job("opsubset300", 250, "first 250")
    for labels in (250, 100, 50):
        yield Job("opsubset300", labels)
    for labels in (467, 233, 100, 46):
        yield Job("nasbench201_cifar10", labels)
    for labels in (200, 100, 50):
        yield Job("nasbench_macro", labels)
    yield Job("digits_op_subset", 250)
    for labels in (46, 100, 233):
        yield Job("nasbench201_cifar10", labels, "with zero-cost features", FEATURES, True)
    for dataset in ("cifar100", "imagenet16"):
        yield Job(f"nasbench201_{dataset}", 100, models=FEATURES)
        yield Job(f"nasbench201_{dataset}", 100, "with zero-cost features", FEATURES, True)
    for table in ("opsubset300", "nasbench201_cifar10"):
        for what, settings in ABLATIONS.items():
            yield Job(table, 100, f"ablation: {what}", ("hybrid", "graph"), settings=settings, trials=10)
        yield Job(table, 100, "ablation: components", tuple(PARTS), trials=10)
    for table in ("families_resnet_25000", "families_densenet_5000"):
        yield Job(table, 100, trials=10)


ABLATIONS: dict[str, tuple[tuple[str, Any], ...]] = {
    "as it is": (),
    "no reverse edges": (("reverse_edges", False),),
    "squared error alone": (("pair_weight", 0.0),),
    "pre-training on the labelled graphs": (("pretraining_steps", 200),),
    "five networks in place of ten": (("members", 5),),
}

PARTS = {
    "hybrid": MODELS["hybrid"],
    "no graph features in the networks": ("gaussian", "boosted", "extra", "graph"),
    "no graph networks": ("gaussian", "boosted", "extra"),
    "no trees": ("gaussian", "graph", "informed"),
    "no Gaussian process": ("boosted", "extra", "graph", "informed"),
}


def load(name: str, folder: Path) -> LabelTable:
    """A table by its name."""
    if name == "digits_op_subset":
        return read_table(ROOT / "logs" / "reference" / "digits_op_subset.jsonl")
    return TABLES[name](folder)


def given_split(table: LabelTable, job: Job, folder: Path) -> Split | None:
    """The published halves of NAS-Bench-201."""
    if not job.table.startswith("nasbench201"):
        return None
    part = {line["idx"]: line["split"] for line in lines(folder / "nasbench201_split.csv")}
    chosen = [part[row.id] for row in table.rows]
    return Split(*(np.flatnonzero([word == kind for word in chosen]) for kind in ("train", "test")))


def measure(job: Job, folder: Path, trials: int, seed: int) -> dict[str, Any]:
    """One job in a process of its own."""
    torch.set_num_threads(1)
    predictor.models._MOST_THREADS = 1  # one process a core
    predictor.models.MODELS.update(PARTS)
    table = load(job.table, folder)
    if job.what == "first 250":
        splits = [Split(np.arange(250), np.arange(250, 300))]
    else:
        splits = random_splits(len(table), job.labels, min(trials, job.trials), seed, given_split(table, job, folder))
    settings = GraphPredictorSettings.model_validate(dict(job.settings))
    result = evaluate(table, "accuracy", splits, seed, job.models, job.features, settings=settings)
    entry = result.to_json()
    for name, model in result.models.items():
        entry["models"][name]["taus"] = [round(tau, 4) for tau in model.taus]
    return {"table": job.name, "labels": job.labels, **entry}


def calibrate(name: str, folder: Path, trials: int, seed: int) -> dict[str, Any]:
    """Share of held-out labels in intervals of many levels."""
    torch.set_num_threads(1)
    predictor.models._MOST_THREADS = 1
    table = load(name, folder)
    given = given_split(table, Job(name, CALIBRATED), folder)
    held = []
    for trial, (train, test) in enumerate(random_splits(len(table), CALIBRATED, trials, seed, given)):
        fitted = fit_models(table.subset(train), "accuracy", ("hybrid",), seed + trial, use_features=False)
        model, testing = fitted["hybrid"].predictor, table.subset(test)
        scored, measured = score_models({"": model}, testing.graphs)[""], testing.metric("accuracy")
        ends = [model.interval(scored, level) for level in NOMINAL]
        held.append([float(((low <= measured) & (measured <= high)).mean()) for low, high in ends])
    return {"table": name, "labels": CALIBRATED, "levels": list(NOMINAL), "held": np.mean(held, axis=0).tolist()}


def learning_curve(rows: list[dict[str, Any]], path: Path) -> None:
    """tau against labels, mean and 95 % interval, a panel a table."""
    names = ["opsubset300", "nasbench201_cifar10", "nasbench_macro"]
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    axes = figure.subplots(1, len(names))
    for axis, name in zip(axes, names, strict=True):
        own = sorted((row for row in rows if row["table"] == name), key=lambda row: row["labels"])
        for place, model in enumerate(("hybrid", "graph", "gp", "trees", "ridge", "macs")):
            taus = np.array([row["models"][model]["tau"] for row in own])
            ends = np.array([row["models"][model]["tau_ci95"] for row in own]).reshape(-1, 2)
            labels = [row["labels"] for row in own]
            error = np.abs(ends.T - taus)
            width = 2.2 if model == "hybrid" else 1.2
            axis.errorbar(labels, taus, error, label=model, color=f"C{place}", linewidth=width, capsize=2)
        axis.set_xscale("log")
        axis.set_xticks([row["labels"] for row in own], [str(row["labels"]) for row in own])
        axis.minorticks_off()
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("labelled architectures")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("Kendall tau on held-out architectures")
    axes[-1].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def calibration(rows: list[dict[str, Any]], path: Path) -> None:
    """What intervals held against what they should."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 100], [0, 100], color="grey", linewidth=1, linestyle="--", label="as it should be")
    for row in rows:
        axis.plot(
            100 * np.array(row["levels"]), 100 * np.array(row["held"]), marker="o", markersize=3, label=row["table"]
        )
    axis.set_xlabel("probability of the interval (%)")
    axis.set_ylabel("held-out labels in it (%)")
    axis.set_title(f"hybrid after {CALIBRATED} labels", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def show(row: dict[str, Any]) -> None:
    """A few lines."""
    print(f"{row['table']}, {row['labels']} labels, {row['test_size']} held out, {row['trials']} trials", flush=True)
    for name, model in row["models"].items():
        low, high = model["tau_ci95"]
        print(
            f"  {name:34} {model['tau']:.4f} +- {model['tau_std']:.4f}  [{low:.4f}, {high:.4f}]  "
            f"fit {model['fit_seconds']:.1f} s  {model['scored_per_second']:,.0f}/s  "
            f"top 5 % {model['precision_top5']:.2f}  80 % held {model['coverage']['80%']:.2f}",
            flush=True,
        )


def write(content: dict[str, Any], folder: Path) -> None:
    """The results so far and their pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = sorted(content["rows"], key=lambda row: (row["table"], row["labels"]))
    (folder / "predictor.json").write_text(json.dumps({**content, "rows": rows}, indent=1) + "\n")
    learning_curve(rows, folder / "learning_curve.png")
    calibration(content["calibration"], folder / "calibration.png")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the published tables")
    parser.add_argument("--out", type=Path, help="folder for predictor.json and the pictures")
    parser.add_argument("--trials", type=int, default=20, help="random splits (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the splits and fits (default: 0)")
    parser.add_argument("--only", default="", help="tables, by commas (default: all)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TRIALS} random splits")
    given = parser.parse_args()
    trials = QUICK_TRIALS if given.quick else given.trials
    wanted = [name for name in given.only.split(",") if name]
    content: dict[str, Any] = {
        "command": "python benchmarks/predictor.py --data FOLDER --out DIR",
        "digits_label_noise": label_noise(load("digits_op_subset", given.data), "accuracy"),
        "calibration": [],
        "rows": [],
    }
    rows, calibrated = content["rows"], content["calibration"]
    started = time.perf_counter()
    with ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        waiting = {
            pool.submit(calibrate, name, given.data, min(trials, 5), given.seed): calibrated
            for name in ("opsubset300", "nasbench201_cifar10", "nasbench_macro", "digits_op_subset")
            if not wanted or name in wanted
        }
        waiting |= {
            pool.submit(measure, job, given.data, trials, given.seed): rows
            for job in jobs()
            if not wanted or job.table in wanted
        }
        for done in as_completed(waiting):
            try:
                waiting[done].append(done.result())
            except InputError as error:
                print(error, file=sys.stderr)
                continue
            if waiting[done] is rows:
                show(rows[-1])
            content["seconds"] = time.perf_counter() - started
            if given.out is not None:  # at once: an hour's work must not be lost by its last minute
                write(content, given.out)
    taus: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        own = {name: round(model["tau"], 4) for name, model in row["models"].items()}
        taus.setdefault(row["table"], {})[str(row["labels"])] = own
    print(json.dumps(taus))
    return 0 if rows else 2
