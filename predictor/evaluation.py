"""How well models rank architectures that they were not fitted on."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.models import MODELS, Predictor, fit_models, score_models
from predictor.settings import GraphPredictorSettings
from predictor.trust import kendall_tau, mean_interval, precision_at_top, tau_in_band, tau_in_top, tau_interval
from supernet import InputError, LabelTable
from supernet.settings import nearest

Progress = Callable[[int, int], None]
"""Called after each trial with trials done and trials in all."""

LEVELS = (0.5, 0.8, 0.95)
"""Probabilities of the intervals whose coverage is measured."""
MOST_TESTED = 4000
"""Architectures that a trial ranks, at most."""

_FEWEST_ROWS = 10
_SPEED_ROWS = 2000


class Split(NamedTuple):
    """Positions to fit on, and positions held out."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ModelEvaluation:
    """One model over all trials.

    Attributes:
        tau: mean Kendall tau-b on held-out architectures, -1 to 1, larger is better; 0 where a
            model scores all architectures alike.
        tau_std: standard deviation over trials, 0 for a single one.
        tau_ci95: 95 % interval of the mean over trials (Student's t); for a single trial, bootstrap
            interval over the held-out architectures. Random splits of one table share rows, so the
            interval tells of the split, not of another table.
        fit_seconds: median seconds of a fit.
        scored_per_second: architectures scored in a second from their graphs, encoding included.
        precision_top5: share of the predicted best twentieth that is in the measured best twentieth.
        tau_top10: tau among the measured best tenth; None where that is too few.
        tau_same_macs: tau among architectures of nearly the same MACs; None without MACs.
        coverage: share of held-out labels in the intervals of each level, by its percentage.
        weights: mean weight of each component that had one in some trial.
        taus: of the single trials, in order; models share the splits, so they may be paired.
    """

    tau: float
    tau_std: float
    tau_ci95: tuple[float, float]
    fit_seconds: float
    scored_per_second: float
    precision_top5: float
    tau_top10: float | None
    tau_same_macs: float | None
    coverage: Mapping[str, float]
    weights: Mapping[str, float]
    taus: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Several models on the same splits of one table."""

    models: dict[str, ModelEvaluation]
    metric: str
    train_size: int
    test_size: int
    trials: int
    seed: int
    features: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Plain dictionaries, lists and numbers, single trials left out; no NaN."""
        result = asdict(self)
        result["features"] = list(self.features)
        for model in result["models"].values():
            model["tau_ci95"] = list(model["tau_ci95"])
            del model["taus"]
        return result


def random_split(rows: int, train_size: int, seed: int, trial: int) -> Split:
    """Positions to fit on and positions held out, a function of seed and trial alone."""
    order = np.random.default_rng((seed, trial)).permutation(rows)
    return Split(order[:train_size], order[train_size:])


def random_splits(rows: int, train_size: int, trials: int, seed: int = 0, given: Split | None = None) -> list[Split]:
    """``trials`` draws of ``train_size`` rows to fit on, and the rest, at most 4,000 of it, to hold out.

    Args:
        given: draw the rows to fit on from its train rows, and those to hold out from its test rows.

    Raises:
        InputError: fewer than 10 rows, a train size that leaves fewer than 2 rows on either side, or no trial.
    """
    if seed < 0:
        raise InputError(f"seed: expected a whole number from 0, got {seed}")
    if rows < _FEWEST_ROWS:
        raise InputError(f"label table: expected at least {_FEWEST_ROWS} rows to evaluate predictors, got {rows}")
    most = rows - 2 if given is None else len(given.train)
    if not 2 <= train_size <= most:
        of = f"of {rows} rows" if given is None else "as the split has to fit on"
        raise InputError(f"train size: expected 2 to {most} {of}, got {train_size}")
    if trials < 1:
        raise InputError(f"trials: expected at least 1, got {trials}")
    splits = []
    for trial in range(trials):
        train, test = random_split(most if given else rows, train_size, seed, trial)
        if given is not None:
            random = np.random.default_rng((seed, trial, 1))
            train, test = given.train[train], random.permutation(given.test)
        splits.append(Split(train, test[:MOST_TESTED]))
    return splits


def read_split(path: Path, table: LabelTable) -> Split:
    """A CSV of rows to fit on and rows to hold out: columns ``id`` (or ``idx``) and ``split``, train or test.

    Raises:
        InputError: with file and line, for a file that cannot be read, an id that the table lacks or that is named
            twice, another word than train or test, or fewer than 2 rows of either.
    """
    places = {row.id: place for place, row in enumerate(table.rows)}
    chosen: dict[str, list[int]] = {"train": [], "test": []}
    seen: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            key = next((name for name in ("id", "idx") if name in names), None)
            if key is None or "split" not in names:
                raise InputError(f"{path}: expected a CSV with columns id and split, got {', '.join(names)!r:.80}")
            for line in reader:
                where, name, part = f"{path}:{reader.line_num}", line[key], line["split"]
                if part not in chosen:
                    raise InputError(f"{where}: split {part!r:.40}; expected train or test")
                if name not in places:
                    raise InputError(f"{where}: the table has no row {name!r:.80}; {nearest(str(name), places)}")
                if name in seen:
                    raise InputError(f"{where}: row {name!r:.80} was given in line {seen[name]} already")
                seen[name] = reader.line_num
                chosen[part].append(places[name])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: the split cannot be read ({error})") from error
    for part, rows in chosen.items():
        if len(rows) < 2:
            raise InputError(f"{path}: {len(rows)} {part} rows; expected at least 2")
    return Split(np.array(chosen["train"], np.int64), np.array(chosen["test"], np.int64))


def evaluate(
    table: LabelTable,
    metric: str,
    splits: Sequence[Split],
    seed: int = 0,
    models: Sequence[str] = tuple(MODELS),
    use_features: bool = True,
    progress: Progress | None = None,
    settings: GraphPredictorSettings | None = None,
) -> Evaluation:
    """Fit on each split's train rows and rank its test rows; all models on the same splits.

    Args:
        seed: of the fits; trial ``i`` has ``seed + i``.
        use_features: whether the table's ``features`` enter, where all rows have them.
        settings: of the graph networks.

    Raises:
        InputError: an unknown metric or model, or equal labels.
    """
    names = list(dict.fromkeys(models))
    for name in names:
        if name not in MODELS:
            raise InputError(f"model {name!r} does not exist; {nearest(name, MODELS)}")
    if not names:
        raise InputError(f"models: none named; known: {', '.join(MODELS)}")
    values = table.metric(metric)
    if values.min() == values.max():
        raise InputError(f"metric {metric!r}: all {len(table)} rows have {values[0]}; expected numbers that differ")
    shared = set.intersection(*(set(row.features) for row in table.rows)) if use_features else set()
    table = LabelTable(
        tuple(replace(row, features={name: row.features[name] for name in sorted(shared)}) for row in table.rows)
    )
    trials: dict[str, list[_Trial]] = {name: [] for name in names}
    for number, (train, test) in enumerate(splits):
        learning, held_out = table.subset(train), table.subset(test)
        fitted = fit_models(learning, metric, names, seed + number, settings, use_features)
        predictors = {name: part.predictor for name, part in fitted.items()}
        scored = score_models(predictors, held_out.graphs, [row.features for row in held_out.rows])
        measured = held_out.metric(metric)
        macs = np.array([graph.total("macs") for graph in held_out.graphs])
        for name, predictor in predictors.items():
            scores = scored[name].scores
            coverage = []
            for level in LEVELS:
                low, high = predictor.interval(scored[name], level)
                coverage.append(float(((low <= measured) & (measured <= high)).mean()))
            trials[name].append(
                _Trial(
                    kendall_tau(scores, measured),
                    precision_at_top(scores, measured, 0.05),
                    tau_in_top(scores, measured, 0.1),
                    tau_in_band(scores, measured, macs),
                    coverage,
                    predictor.weights,
                    fitted[name].seconds,
                    tau_interval(scores, measured, seed) if len(splits) == 1 else None,
                )
            )
        if progress is not None:
            progress(number + 1, len(splits))
    return Evaluation(
        {name: _summary(trials[name], _scored_per_second(predictors[name], held_out)) for name in names},
        metric,
        len(splits[0].train),
        len(splits[0].test),
        len(splits),
        seed,
        tuple(sorted(shared)),
    )


class _Trial(NamedTuple):
    tau: float
    precision: float
    top: float | None
    band: float | None
    coverage: list[float]
    weights: Mapping[str, float]
    seconds: float
    interval: tuple[float, float] | None


def _summary(trials: Sequence[_Trial], speed: float) -> ModelEvaluation:
    taus = [trial.tau for trial in trials]
    spread, interval = 0.0, trials[0].interval or (taus[0], taus[0])
    if len(taus) > 1:
        low, high = mean_interval(taus)
        spread, interval = float(np.std(taus, ddof=1)), (max(low, -1.0), min(high, 1.0))
    coverage = np.mean([trial.coverage for trial in trials], axis=0)
    parts = {name for trial in trials for name in trial.weights}
    return ModelEvaluation(
        float(np.mean(taus)),
        spread,
        interval,
        float(np.median([trial.seconds for trial in trials])),
        speed,
        float(np.mean([trial.precision for trial in trials])),
        _mean([trial.top for trial in trials]),
        _mean([trial.band for trial in trials]),
        {f"{level:.0%}": float(share) for level, share in zip(LEVELS, coverage, strict=True)},
        {name: float(np.mean([trial.weights.get(name, 0.0) for trial in trials])) for name in sorted(parts)},
        tuple(taus),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _scored_per_second(predictor: Predictor, table: LabelTable) -> float:
    """Timed on the held-out rows, repeated to a number that a search would ask for."""
    places = np.arange(_SPEED_ROWS) % len(table)
    graphs, rows = table.graphs, table.rows
    start = time.perf_counter()
    predictor.score([graphs[place] for place in places], [rows[place].features for place in places])
    return _SPEED_ROWS / max(time.perf_counter() - start, 1e-9)
