"""How far to trust a predictor of a label table: what ``fit`` measures besides fitting."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genas.config import FitSettings
from predictor import MODELS, fit_models, kendall_tau, tau_interval
from predictor.evaluation import LEVELS, Split, random_split
from predictor.models import score_models
from predictor.trust import (
    difference_interval,
    fit_learning_curve,
    label_noise,
    mean_interval,
    more_labels,
    precision_at_top,
    tau_in_band,
    tau_in_top,
    verdict,
)
from supernet import LabelTable

GAIN = 0.05
"""Of Kendall tau, that the labels which it would take are told for."""

_FEWEST_LEARNT = 8  # of a point of the learning curve
_QUICK = ("gp", "ridge", "macs")
_PARTS = (4, 2)  # of the rows to fit on, for the points of the learning curve before the last


def judge(table: LabelTable, settings: FitSettings, seed: int) -> dict[str, Any]:
    """Fit on a part of the table, rank the rest, for some random splits.

    Returns:
        ``models``: of each its tau on the first split's held-out rows with a bootstrap interval, and its mean over all
        splits, None of models that would take long and do not search; ``trust``: of the model that searches what else
        tells how far its order holds; ``held_out``: of each row held out in the first split what was measured and
        predicted.
    """
    metric, rows = settings.metric, len(table)
    train_size = min(max(round(settings.train_fraction * rows), 2), rows - 2)
    splits = [random_split(rows, train_size, seed, trial) for trial in range(settings.splits)]
    use_features = bool(settings.features)
    taus: dict[str, list[float]] = {name: [] for name in MODELS}
    first: dict[str, NDArray[np.float64]] = {}
    covered: list[NDArray[np.bool_]] = []
    precisions, tops, bands = [], [], []
    held_out: list[dict[str, Any]] = []
    for trial, (train, test) in enumerate(splits):
        testing = table.subset(test)
        measured = testing.metric(metric)
        names = tuple(MODELS) if trial == 0 else _with_little_more(settings.model)
        fitted = fit_models(table.subset(train), metric, names, seed + trial, settings.predictor, use_features)
        predictors = {name: part.predictor for name, part in fitted.items()}
        scored = score_models(predictors, testing.graphs, [row.features for row in testing.rows])
        for name in names:
            taus[name].append(kendall_tau(scored[name].scores, measured))
        chosen, scores = predictors[settings.model], scored[settings.model].scores
        ends = [chosen.interval(scored[settings.model], level) for level in LEVELS]
        covered.append(np.stack([(low <= measured) & (measured <= high) for low, high in ends]))
        precisions.append(precision_at_top(scores, measured))
        tops.append(tau_in_top(scores, measured))
        bands.append(tau_in_band(scores, measured, np.array([graph.total("macs") for graph in testing.graphs])))
        if trial == 0:
            first = {name: scored[name].scores for name in MODELS}
            low, high = ends[LEVELS.index(0.8)]
            predicted = chosen.label_scores.value(scores)
            columns = zip(testing.rows, measured, predicted, low, high, strict=True)
            held_out = [
                {
                    "id": row.id,
                    "measured": float(truth),
                    "predicted": float(value),
                    "interval80": [float(below), float(above)],
                }
                for row, truth, value, below, above in columns
            ]
    measured = table.subset(splits[0].test).metric(metric)
    models: dict[str, dict[str, Any]] = {
        name: {
            "tau": kendall_tau(first[name], measured),
            "tau_ci95": list(tau_interval(first[name], measured, seed)),
            "tau_splits": float(np.mean(taus[name])) if len(taus[name]) == len(splits) else None,
            "tau_splits_ci95": list(mean_interval(taus[name])) if len(taus[name]) == len(splits) > 1 else None,
        }
        for name in MODELS
    }
    curve = _learning_curve(table, settings, seed, splits, float(np.mean(taus[settings.model])))
    noise = label_noise(table, metric)
    has_macs = np.ptp(first["macs"]) > 0 and settings.model != "macs"
    searching = models[settings.model]
    if searching["tau_ci95"][0] <= 0:  # a curve through chance tells nothing
        curve["more_labels"] = None
    sentence = verdict(
        searching["tau"],
        searching["tau_ci95"],
        models["macs"]["tau"] if has_macs else None,
        difference_interval(first[settings.model], first["macs"], measured, seed) if has_macs else None,
        None if noise is None else noise["ceiling"],
    )
    return {
        "metric": metric,
        "model": settings.model,
        "rows": rows,
        "train_size": train_size,
        "test_size": rows - train_size,
        "splits": len(splits),
        "models": models,
        "label_noise": noise,
        "trust": {
            "verdict": sentence,
            "precision_top5": float(np.mean(precisions)),
            "tau_top10": _mean(tops),
            "tau_same_macs": _mean(bands),
            "coverage": {
                f"{level:.0%}": float(share)
                for level, share in zip(LEVELS, np.concatenate(covered, axis=1).mean(axis=1), strict=True)
            },
            "learning_curve": curve,
        },
        "held_out": held_out,
    }


def _with_little_more(model: str) -> tuple[str, ...]:
    """The models that are fitted in no time, or with the one that searches."""
    parts = {*MODELS[model], *(part for name in _QUICK for part in MODELS[name])}
    return tuple(name for name, own in MODELS.items() if parts >= set(own))


def _learning_curve(
    table: LabelTable, settings: FitSettings, seed: int, splits: list[Split], last: float
) -> dict[str, Any]:
    """Mean tau after a quarter, half and all of the rows to fit on, and the labels that a better one would take."""
    train_size = len(splits[0].train)
    sizes = [size for part in _PARTS if (size := train_size // part) >= _FEWEST_LEARNT]
    taus = []
    for size in sizes:
        found = []
        for trial, (train, test) in enumerate(splits):
            learning = table.subset(train[:size])
            if np.ptp(learning.metric(settings.metric)) == 0:
                continue
            name = settings.model
            predictor = fit_models(
                learning, settings.metric, (name,), seed + trial, settings.predictor, bool(settings.features)
            )[name].predictor
            testing = table.subset(test)
            scores = predictor.score(testing.graphs, [row.features for row in testing.rows]).scores
            found.append(kendall_tau(scores, testing.metric(settings.metric)))
        taus.append(float(np.mean(found)) if found else 0.0)
    sizes, taus = [*sizes, train_size], [*taus, last]
    fitted = fit_learning_curve(sizes, taus)
    more = None if fitted is None else more_labels(fitted, train_size, GAIN)
    return {"labels": sizes, "tau": taus, "gain": GAIN, "more_labels": more}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
