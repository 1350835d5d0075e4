"""Published random chains: do predictors of accuracy know robustness too, and what do the published numbers say?

    OMP_NUM_THREADS=1 python benchmarks/families.py [--data FOLDER] [--out FILE] [--trials 5] [--hybrid 1] [--quick]

FOLDER holds random_families_cifar10c.csv and has the default of benchmarks/tables.py. For 1,000, 5,000, 10,000 and
25,000 training images, and for DenseNets, ResNets and both together, models learn from 200 random networks and rank at
most 300 others by clean accuracy, accuracy under 15 corruptions, and relative robustness; the same predictors are asked
about the other numbers, and those of 1,000 images about networks of 25,000. Two baselines: MACs, more being better, and
the number of convolution layers, up or down as the 200 say. The hybrid costs minutes a fit and has a number of splits
of its own, on fewer tables. Each network was trained once, so the noise of a label is not known but for some DenseNets
that were drawn twice; random splits share networks, and their intervals tell of the split alone. Trends and differences
between the families follow.

FILE is written after each fit, and what it has is not measured again. The last line is one JSON object. Hardware: any
CPU, one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import predictor.models
from analysis.published import join_checks, label_table, read_published, repeats
from analysis.study import Study, family_difference, grouped, has_clean, matched_difference, trends
from benchmarks.tables import DATA
from predictor.models import fit_models, score_models
from predictor.trust import kendall_tau, mean_interval, tau_interval
from supernet import InputError, LabelTable
from supernet.files import write_text

TABLE = "random_families_cifar10c.csv"
SIZES = (1_000, 5_000, 10_000, 25_000)
FAMILIES = ("densenet", "resnet", "both")
METRICS = ("accuracy", "robust_accuracy", "relative_robustness")
CHEAP = ("gp", "ridge", "macs")
LABELS = 200
TESTED = 300
FARTHEST = {1_000: 25_000}
"""Networks of this many images are ranked by what was learned from those."""


class Job(NamedTuple):
    """Some models on one split of one table."""

    family: str
    images: int
    trial: int
    models: tuple[str, ...]
    metrics: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.family} {self.images} {'+'.join(self.models)} {self.trial}"


def jobs(trials: int, hybrid: int, sizes: tuple[int, ...]) -> Iterator[Job]:
    """All cheap ones first, each table once before any twice."""
    for trial, images, family in product(range(trials), sizes, FAMILIES):
        yield Job(family, images, trial, CHEAP, METRICS)
    for trial, images, family in product(range(hybrid), (sizes[0], sizes[-1]), ("resnet", "densenet")):
        yield Job(family, images, trial, ("hybrid",), METRICS[:2])


class Tables:
    """Label tables and convolutions of the study, each made when it is first asked for."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._made: dict[tuple[str, int], LabelTable] = {}
        self.convolutions = {run.key: run.convolutions for run in study.runs}

    def get(self, family: str, images: int) -> LabelTable:
        if (family, images) not in self._made:
            self._made[family, images] = label_table(self._study, images, None if family == "both" else family)
        return self._made[family, images]

    def depth(self, table: LabelTable) -> NDArray[np.float64]:
        return np.array([self.convolutions[row.id] for row in table.rows], np.float64)


def measure(job: Job, tables: Tables, seed: int) -> dict[str, Any]:
    """tau of each model by what it learned and what it was asked, ``model: {learned: {asked: tau}}``."""
    table = tables.get(job.family, job.images)
    order = np.random.default_rng((seed, job.images, job.trial)).permutation(len(table))
    held = {job.images: table.subset(order[LABELS : LABELS + TESTED])}
    learning = table.subset(order[:LABELS])
    if job.images in FARTHEST:
        other = tables.get(job.family, FARTHEST[job.images])
        order = np.random.default_rng((seed, job.trial, 1)).permutation(len(other))
        held[FARTHEST[job.images]] = other.subset(order[:TESTED])
    taus: dict[str, dict[str, dict[str, float]]] = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    started = time.perf_counter()
    for learned in job.metrics:
        fitted = fit_models(learning, learned, job.models, seed + job.trial, use_features=False)
        predictors = {name: part.predictor for name, part in fitted.items()}
        for images, testing in held.items():
            scored = score_models(predictors, testing.graphs, deviations=False)
            scores = {name: found.scores for name, found in scored.items()}
            if "hybrid" not in job.models:
                sign = kendall_tau(tables.depth(learning), learning.metric(learned))
                scores["convolutions"] = np.sign(sign) * tables.depth(testing)
            for name, asked in product(scores, METRICS):
                where = asked if images == job.images else f"{asked} at {images}"
                measured = testing.metric(asked)
                taus.setdefault(name, {}).setdefault(learned, {})[where] = kendall_tau(scores[name], measured)
                if where == learned:
                    intervals.setdefault(name, {})[learned] = tau_interval(scores[name], measured, seed)
    return {
        "family": job.family, "images": job.images, "trial": job.trial, "labels": LABELS,
        "held_out": {str(images): len(testing) for images, testing in held.items()},
        "seconds": round(time.perf_counter() - started, 1), "taus": taus, "intervals": intervals,
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean tau over splits and its interval, by table, model, what was learned and what was asked."""
    found: dict[tuple[str, str, str, str], list[float]] = {}
    single: dict[tuple[str, str, str, str], tuple[float, float]] = {}
    for row in rows:
        table = f"{row['family']} {row['images']}"
        for model, learned in row["taus"].items():
            for metric, asked in learned.items():
                for where, tau in asked.items():
                    found.setdefault((table, model, metric, where), []).append(tau)
                    if where == metric:
                        single[table, model, metric, where] = row["intervals"][model][metric]
    result: dict[str, dict[str, Any]] = {}
    for key, values in found.items():
        table, model, metric, where = key
        ends = mean_interval(values) if len(values) > 1 else single.get(key)
        entry = {"tau": round(float(np.mean(values)), 3), "splits": len(values)}
        if ends is not None:
            entry["ci95"] = [round(max(-1.0, ends[0]), 3), round(min(1.0, ends[1]), 3)]
            entry["ci95_of"] = "splits" if len(values) > 1 else "held-out networks"
        result.setdefault(table, {}).setdefault(model, {})[f"{metric} -> {where}"] = entry
    return result


def findings(study: Study, resamples: int) -> dict[str, Any]:
    """What the published numbers say without any predictor."""
    fair = study.only(has_clean)
    both = [size for size in fair.sizes if len({run.family for run in fair.runs if run.train_images == size}) == 2]
    differences = []
    for size, value in product(both, ("clean", "robust", "relative", "chance_corrected")):
        plain = family_difference(fair, "densenet", "resnet", size, value, resamples=resamples)
        entry = {"value": value, "as_they_are": asdict(plain)}
        if value != "clean":
            matched = matched_difference(fair, "densenet", "resnet", size, value, resamples=resamples)
            entry["equal_clean_accuracy"] = None if matched is None else asdict(matched)
        differences.append(entry)
    return {
        "notes": study.notes,
        "join_checks": [asdict(check) for check in join_checks(study)],
        "repeats": {value: [asdict(one) for one in repeats(study, value)] for value in ("clean", "robust")},
        "means": {
            value: [asdict(group) for group in grouped(study, value=value)]
            for value in ("clean", "robust", "relative", "chance_corrected")
        },
        "depth": {
            value: [asdict(trend) for trend in trends(study, value, resamples=resamples)]
            for value in ("clean", "robust", "relative")
        },
        "densenet_minus_resnet": differences,
    }


def earlier(path: Path | None, asked: dict[str, Any]) -> dict[str, Any]:
    """Rows by job of a file that was made the same way. Raises InputError for one that was made another way."""
    if path is None or not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"--out: {path} is no JSON; delete it or name another file") from error
    if not isinstance(content, dict) or content.get("asked") != asked:
        raise InputError(f"--out: {path} was made with other settings; delete it or name another file")
    return dict(content["rows"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the published tables")
    parser.add_argument("--out", type=Path, help="JSON file; what it has is kept")
    parser.add_argument("--trials", type=int, default=5, help="random splits of each table (default: 5)")
    parser.add_argument("--hybrid", type=int, default=1, help="random splits of the hybrid (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the splits and fits (default: 0)")
    parser.add_argument("--quick", action="store_true", help="2 splits of two sizes, no hybrid")
    given = parser.parse_args()
    source = given.data / TABLE
    if not source.is_file():
        print(f"{source} is not there: nothing was measured. --data names the folder of the published tables.")
        print(json.dumps({"skipped": TABLE}))
        return 0
    torch.set_num_threads(1)
    predictor.models._MOST_THREADS = 1
    sizes, trials, hybrid = ((1_000, 25_000), 2, 0) if given.quick else (SIZES, given.trials, given.hybrid)
    asked = {"seed": given.seed, "labels": LABELS, "most_held_out": TESTED}
    try:
        rows = earlier(given.out, asked)
        study = read_published(source)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    content: dict[str, Any] = {
        "command": f"OMP_NUM_THREADS=1 python benchmarks/families.py --trials {trials} --hybrid {hybrid} --out FILE",
        "asked": asked,
        "noise_ceiling": "not known: one training a network, see repeats for the few DenseNets drawn twice",
        "findings": findings(study, 200 if given.quick else 1000),
        "summary": {},
        "rows": rows,
    }
    tables = Tables(study)
    for job in jobs(trials, hybrid, sizes):
        if job.key not in rows:
            rows[job.key] = measure(job, tables, given.seed)
            own = rows[job.key]["taus"][job.models[0]]
            shown = ", ".join(f"{metric} {own[metric][metric]:.3f}" for metric in job.metrics)
            print(f"{job.key}: {job.models[0]} {shown} ({rows[job.key]['seconds']} s)", flush=True)
        content["summary"] = summary(list(rows.values()))
        if given.out is not None:  # at once: an hour's work must not be lost by its last minute
            write_text(given.out, json.dumps(content, indent=1) + "\n")
    print(
        json.dumps(
            {
                table: {model: found["accuracy -> accuracy"]["tau"] for model, found in models.items()}
                for table, models in content["summary"].items()
            }
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
