"""How well predictors rank architectures that they were not fitted on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from predictor.baselines import PREDICTORS, Predictor
from supernet import InputError, LabelTable
from supernet.settings import nearest

Progress = Callable[[int, int], None]
"""Called after each fit with fits done and fits in all."""

_FEWEST_ROWS = 10
_SPEED_ROWS = 2000
_MOST_PAIRED = 1000  # architectures whose pairs are all kept: 8 MB a matrix


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
        taus: of the single trials, in order; models share the splits, so they may be paired.
    """

    tau: float
    tau_std: float
    tau_ci95: tuple[float, float]
    fit_seconds: float
    scored_per_second: float
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

    def to_json(self) -> dict[str, object]:
        """Plain dictionaries, lists and numbers, single trials left out; no NaN."""
        result = asdict(self)
        for model in result["models"].values():
            model["tau_ci95"] = list(model["tau_ci95"])
            del model["taus"]
        return result


def kendall_tau(predicted: ArrayLike, measured: ArrayLike) -> float:
    """Kendall's tau-b, ties counted (Kendall 1945); 0 where either side is constant.

    Args:
        predicted: scores, (architectures,), larger is better where larger measurements are.
        measured: measurements, (architectures,).
    """
    tau = float(stats.kendalltau(np.asarray(predicted, np.float64), np.asarray(measured, np.float64)).statistic)
    return tau if math.isfinite(tau) else 0.0


def tau_interval(predicted: ArrayLike, measured: ArrayLike, seed: int, resamples: int = 1000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of :func:`kendall_tau` over architectures."""
    first, second = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    random = np.random.default_rng(seed)
    draws = (random.integers(0, len(first), len(first)) for _ in range(resamples))
    if len(first) > _MOST_PAIRED:
        taus = np.array([kendall_tau(first[drawn], second[drawn]) for drawn in draws])
    else:
        taus = _resampled_taus(first, second, np.array([np.bincount(drawn, minlength=len(first)) for drawn in draws]))
    low, high = np.quantile(taus, (0.025, 0.975))
    return float(low), float(high)


def _resampled_taus(
    first: NDArray[np.float64], second: NDArray[np.float64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """:func:`kendall_tau` where row ``i`` is there ``counts[r, i]`` times, (resamples,): all pairs once for all."""
    weights = counts.astype(np.float64)
    one, other = (np.sign(values[:, None] - values[None, :]) for values in (first, second))
    both, *ties = (((weights @ pairs) * weights).sum(axis=1) for pairs in (one * other, one**2, other**2))
    scale = np.sqrt(ties[0] * ties[1])
    taus: NDArray[np.float64] = np.divide(both, scale, out=np.zeros(len(counts)), where=scale > 0)
    return taus


def random_split(rows: int, train_size: int, seed: int, trial: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to fit on and positions held out, a function of seed and trial alone."""
    order = np.random.default_rng((seed, trial)).permutation(rows)
    return order[:train_size], order[train_size:]


def evaluate(
    table: LabelTable,
    metric: str,
    train_size: int,
    trials: int = 20,
    seed: int = 0,
    models: Sequence[str] = tuple(PREDICTORS),
    progress: Progress | None = None,
) -> Evaluation:
    """Fit on ``train_size`` random rows, rank the others, ``trials`` times; all models on the same splits.

    Raises:
        InputError: an unknown metric or model, fewer than 10 rows, equal labels, or a train size
            that leaves fewer than 2 rows on either side.
    """
    _check(table, metric, seed)
    if not 2 <= train_size <= len(table) - 2:
        raise InputError(f"train size: expected 2 to {len(table) - 2} of {len(table)} rows, got {train_size}")
    if trials < 1:
        raise InputError(f"trials: expected at least 1, got {trials}")
    splits = [random_split(len(table), train_size, seed, trial) for trial in range(trials)]
    return _evaluate(table, metric, splits, seed, models, progress)


def evaluate_split(
    table: LabelTable,
    metric: str,
    train: Sequence[int],
    test: Sequence[int],
    seed: int = 0,
    models: Sequence[str] = tuple(PREDICTORS),
    progress: Progress | None = None,
) -> Evaluation:
    """One given split: row positions to fit on and to hold out. Raises InputError as :func:`evaluate`."""
    _check(table, metric, seed)
    for name, positions in (("train", train), ("test", test)):
        outside = [position for position in positions if not 0 <= position < len(table)]
        if outside:
            raise InputError(f"{name} rows: expected positions 0 to {len(table) - 1}, got {outside[0]}")
        if len(set(positions)) < 2 or len(set(positions)) != len(positions):
            raise InputError(f"{name} rows: expected at least 2 different positions, got {list(positions)!r:.80}")
    if set(train) & set(test):
        raise InputError(f"row {min(set(train) & set(test))} is both in train and in test rows")
    split = (np.asarray(train, np.int64), np.asarray(test, np.int64))
    return _evaluate(table, metric, [split], seed, models, progress)


def _check(table: LabelTable, metric: str, seed: int) -> None:
    if seed < 0:
        raise InputError(f"seed: expected a whole number from 0, got {seed}")
    if len(table) < _FEWEST_ROWS:
        raise InputError(f"label table: expected at least {_FEWEST_ROWS} rows to evaluate predictors, got {len(table)}")
    values = table.metric(metric)
    if values.min() == values.max():
        raise InputError(f"metric {metric!r}: all {len(table)} rows have {values[0]}; expected numbers that differ")


def _evaluate(
    table: LabelTable,
    metric: str,
    splits: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    seed: int,
    models: Iterable[str],
    progress: Progress | None,
) -> Evaluation:
    names = list(dict.fromkeys(models))
    for name in names:
        if name not in PREDICTORS:
            raise InputError(f"model {name!r} does not exist; {nearest(name, PREDICTORS)}")
    if not names:
        raise InputError(f"models: none named; known: {', '.join(PREDICTORS)}")
    result = {}
    done = 0
    for name in names:
        taus: list[float] = []
        seconds: list[float] = []
        for trial, (train, test) in enumerate(splits):
            held_out = table.subset(test)
            start = time.perf_counter()
            predictor = PREDICTORS[name](table.subset(train), metric, seed + trial)
            seconds.append(time.perf_counter() - start)
            predicted = predictor.predict(held_out)
            taus.append(kendall_tau(predicted, held_out.metric(metric)))
            done += 1
            if progress is not None:
                progress(done, len(names) * len(splits))
        spread, interval = 0.0, (taus[0], taus[0])
        if len(taus) > 1:
            low, high = mean_interval(taus)
            spread, interval = float(np.std(taus, ddof=1)), (max(low, -1.0), min(high, 1.0))
        else:
            interval = tau_interval(predicted, held_out.metric(metric), seed)
        speed = _scored_per_second(predictor, held_out)
        result[name] = ModelEvaluation(
            float(np.mean(taus)), spread, interval, float(np.median(seconds)), speed, tuple(taus)
        )
    return Evaluation(result, metric, len(splits[0][0]), len(splits[0][1]), len(splits), seed)


def mean_interval(taus: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean (Student's t)."""
    mean, error = float(np.mean(taus)), float(np.std(taus, ddof=1)) / math.sqrt(len(taus))
    half = float(stats.t.ppf(0.975, len(taus) - 1)) * error
    return mean - half, mean + half


def _scored_per_second(predictor: Predictor, table: LabelTable) -> float:
    """Timed on the held-out rows, repeated under other ids to a number that a search would ask for."""
    rows = tuple(replace(table.rows[number % len(table)], id=str(number)) for number in range(_SPEED_ROWS))
    large = LabelTable(rows)
    start = time.perf_counter()
    predictor.predict(large)
    return len(large) / max(time.perf_counter() - start, 1e-9)
