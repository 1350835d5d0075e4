"""How far to trust predictions: rank correlation, the top, label noise, intervals, the worth of labels. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from supernet import LabelTable

Floats = NDArray[np.float64]

FEWEST_HELD_OUT = 5
"""Of fewer held-out architectures tau says nothing: 2 or 3 agree by chance too often for any interval."""

_MOST_PAIRED = 1000  # architectures whose pairs are all kept: 8 MB a matrix
_RESAMPLED = 200  # resamples of more
_FEWEST_IN_BAND = 8
_BANDS = 5
_MOST_FACTOR = 100  # more labels than so many times what there are is no plan
_STEEP = (0.1, 2.0)  # exponents of a learning curve


def kendall_tau(predicted: ArrayLike, measured: ArrayLike) -> float:
    """Kendall's tau-b, ties counted (Kendall 1945); 0 where either side is constant.

    Args:
        predicted: scores, (architectures,), larger is better where larger measurements are.
        measured: measurements, (architectures,).
    """
    tau = float(stats.kendalltau(np.asarray(predicted, np.float64), np.asarray(measured, np.float64)).statistic)
    return tau if math.isfinite(tau) else 0.0


def tau_interval(predicted: ArrayLike, measured: ArrayLike, seed: int, resamples: int = 1000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of :func:`kendall_tau` over architectures.

    Of fewer than 5 architectures it is all from -1 to 1: resamples of so few are mostly copies, and their spread says
    nothing. A perfect order has the exact bound that as many disjoint pairs in order give (Clopper and Pearson 1934).
    Of a constant side it is (0, 0), as tau then is 0 whatever is drawn. Of more than 1,000, 200 resamples.
    """
    first, second = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0, 0.0
    count = len(first)
    if count < FEWEST_HELD_OUT:
        return -1.0, 1.0
    random = np.random.default_rng(seed)
    if count > _MOST_PAIRED:
        draws = (random.integers(0, count, count) for _ in range(min(resamples, _RESAMPLED)))
        taus = np.array([kendall_tau(first[drawn], second[drawn]) for drawn in draws])
    else:
        drawn = [np.bincount(random.integers(0, count, count), minlength=count) for _ in range(resamples)]
        taus = _resampled_taus(first, second, np.array(drawn))
    low, high = np.quantile(taus, (0.025, 0.975))
    if high - low < 1e-9:  # a perfect order stays perfect in every resample
        bound = 2 * 0.025 ** (1 / (count // 2)) - 1
        return (bound, 1.0) if low > 0 else (-1.0, -bound)
    return float(low), float(high)


def _resampled_taus(first: Floats, second: Floats, counts: NDArray[np.int64]) -> Floats:
    """:func:`kendall_tau` where row ``i`` is there ``counts[r, i]`` times, (resamples,): all pairs once for all."""
    weights = counts.astype(np.float64)
    one, other = (np.sign(values[:, None] - values[None, :]) for values in (first, second))
    both, *ties = (((weights @ pairs) * weights).sum(axis=1) for pairs in (one * other, one**2, other**2))
    scale = np.sqrt(ties[0] * ties[1])
    return np.asarray(np.divide(both, scale, out=np.zeros(len(counts)), where=scale > 0), np.float64)


def difference_interval(
    one: ArrayLike, other: ArrayLike, measured: ArrayLike, seed: int, resamples: int = 500
) -> tuple[float, float]:
    """95 % bootstrap interval of tau of one minus tau of the other over the same architectures; -2 to 2 of too few."""
    first, second, truth = (np.asarray(values, np.float64) for values in (one, other, measured))
    count = len(truth)
    if count < FEWEST_HELD_OUT:
        return -2.0, 2.0
    random = np.random.default_rng(seed)
    if count > _MOST_PAIRED:
        draws = [random.integers(0, count, count) for _ in range(min(resamples, _RESAMPLED))]
        gaps = np.array([kendall_tau(first[i], truth[i]) - kendall_tau(second[i], truth[i]) for i in draws])
    else:
        counts = np.array([np.bincount(random.integers(0, count, count), minlength=count) for _ in range(resamples)])
        gaps = _resampled_taus(first, truth, counts) - _resampled_taus(second, truth, counts)
    low, high = np.quantile(gaps, (0.025, 0.975))
    return float(low), float(high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean of at least 2 values (Student's t)."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return mean - half, mean + half


def precision_at_top(predicted: ArrayLike, measured: ArrayLike, share: float = 0.05) -> float:
    """Share of the predicted best that are among the measured best, 0 to 1, larger is better.

    The best are the given share, at least one; equal measurements at the edge are all in. Equal predictions at the edge
    count as if some of them were drawn.
    """
    first, second = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    count = max(1, round(share * len(first)))
    good = second >= np.sort(second)[-count]
    edge = np.sort(first)[-count]
    sure, tied = first > edge, first == edge
    hits = good[sure].sum() + (count - sure.sum()) * good[tied].mean()
    return float(hits / count)


def tau_in_top(predicted: ArrayLike, measured: ArrayLike, share: float = 0.1) -> float | None:
    """Kendall tau among the measured best, where a search ends; None of fewer than 8 or where all are equal."""
    first, second = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    count = round(share * len(second))
    if count < _FEWEST_IN_BAND:
        return None
    best = second >= np.sort(second)[-count]
    return None if np.ptp(second[best]) == 0 else kendall_tau(first[best], second[best])


def tau_in_band(predicted: ArrayLike, measured: ArrayLike, costs: ArrayLike) -> float | None:
    """Kendall tau among architectures of nearly equal cost: what the predictor knows besides the cost.

    The mean over fifths by cost, weighted by their pairs; fifths of fewer than 8, or whose measurements are all equal,
    are left out. None where none is left, or costs are all equal.
    """
    first, second, cost = (np.asarray(values, np.float64) for values in (predicted, measured, costs))
    if np.ptp(cost) == 0:
        return None
    taus, weights = [], []
    for band in np.array_split(np.argsort(cost, kind="stable"), _BANDS):
        if len(band) >= _FEWEST_IN_BAND and np.ptp(second[band]) > 0:
            taus.append(kendall_tau(first[band], second[band]))
            weights.append(len(band) * (len(band) - 1))
    return float(np.average(taus, weights=weights)) if taus else None


def noise_between(pairs: Sequence[tuple[float, float]]) -> dict[str, float] | None:
    """How far two trainings of one architecture agree, and what a perfect predictor would reach on one of them.

    If the labels are Gaussian, tau gives their correlation r = sin(pi tau / 2) (Greiner 1909); what is free of
    noise correlates with one noisy label by the square root of r (Spearman 1904).

    Args:
        pairs: the labels of each architecture's first and second training; None is the answer for fewer than 3.
    """
    if len(pairs) < 3:
        return None
    first, second = np.array(pairs).T
    return _noise(len(pairs), [kendall_tau(first, second)], [float(np.mean((first - second) ** 2) / 2)], 1)


def label_noise(table: LabelTable, metric: str) -> dict[str, float] | None:
    """As :func:`noise_between`, of the rows whose single trainings are there as ``METRIC_seed0``, ``METRIC_seed1``, ...

    Where all rows have them, their metric is the mean of so many trainings, and ``ceiling`` is of that mean (Spearman
    and Brown 1910). None where fewer than 3 rows have at least two.
    """
    names = [f"{metric}_seed{seed}" for seed in range(100)]
    names = [name for name in names if any(name in row.metrics for row in table.rows)]
    if len(names) < 2:
        return None
    rows = [row for row in table.rows if all(name in row.metrics for name in names)]
    if len(rows) < 3:
        return None
    seeds = np.array([[row.metrics[name] for name in names] for row in rows]).T
    taus = [kendall_tau(one, other) for one, other in combinations(seeds, 2)]
    variances = [float(np.mean((one - other) ** 2) / 2) for one, other in combinations(seeds, 2)]
    return _noise(len(rows), taus, variances, len(names) if len(rows) == len(table) else 1)


def _noise(architectures: int, taus: Sequence[float], variances: Sequence[float], trainings: int) -> dict[str, float]:
    tau = float(np.mean(taus))
    correlation = math.sin(math.pi * max(tau, 0.0) / 2)
    correlation = trainings * correlation / (1 + (trainings - 1) * correlation)
    return {
        "architectures": architectures,
        "tau": tau,
        "ceiling": 2 / math.pi * math.asin(math.sqrt(correlation)),
        "standard_deviation": math.sqrt(float(np.mean(variances))),
    }


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """tau(N) = ceiling - drop * N ** -steepness."""

    ceiling: float
    drop: float
    steepness: float

    def tau(self, labels: float) -> float:
        """What is to be expected of so many labels."""
        return float(self.ceiling - self.drop * labels**-self.steepness)


def fit_learning_curve(sizes: Sequence[int], taus: Sequence[float]) -> LearningCurve | None:
    """A power law through some points, or None where they do not rise, or are fewer than 3."""
    if len(sizes) < 3 or not taus[-1] > taus[0]:
        return None
    x, y = np.asarray(sizes, np.float64), np.asarray(taus, np.float64)

    def loss(steepness: float) -> tuple[float, float, float]:
        design = np.stack([np.ones(len(x)), -(x**-steepness)], axis=1)
        (ceiling, drop), *_ = np.linalg.lstsq(design, y, rcond=None)
        ceiling = min(float(ceiling), 1.0)
        drop = max(float(((ceiling - y) * x**-steepness).sum() / (x ** (-2 * steepness)).sum()), 0.0)
        return float(((ceiling - drop * x**-steepness - y) ** 2).sum()), ceiling, drop

    found = optimize.minimize_scalar(lambda steepness: loss(steepness)[0], bounds=_STEEP, method="bounded")
    _, ceiling, drop = loss(float(found.x))
    return LearningCurve(ceiling, drop, float(found.x)) if drop > 0 else None


def more_labels(curve: LearningCurve, labels: int, gain: float) -> int | None:
    """How many more labels the curve asks for so much more tau; None where that is beyond it, or beyond a plan."""
    goal = curve.tau(labels) + gain
    if goal >= curve.ceiling:
        return None
    needed = (curve.drop / (curve.ceiling - goal)) ** (1 / curve.steepness)
    return math.ceil(needed - labels) if needed <= _MOST_FACTOR * labels else None


def verdict(
    tau: float,
    interval: tuple[float, float],
    macs: float | None,
    over_macs: tuple[float, float] | None,
    ceiling: float | None,
) -> str:
    """One sentence on what the predictor's order is worth.

    Args:
        tau: of the predictor.
        interval: of it.
        macs: tau of plain MACs on the same rows; None where the table has no MACs.
        over_macs: interval of the difference between the two, of the same rows.
        ceiling: what a perfect predictor would reach; None where that is unknown.
    """
    if interval[0] <= 0:
        return (
            f"The predictor's order is not shown to be better than chance (Kendall tau {_two(tau)}, 95 % interval "
            f"{_range(interval)}): train more architectures before a search."
        )
    if macs is not None and over_macs is not None and over_macs[0] <= 0:
        better = "no better than" if tau <= macs else "not shown to be better than"
        return (
            f"The predictor is {better} plain MACs (Kendall tau {_two(tau)} against {_two(macs)}): the largest network "
            f"that keeps the limit is as good a guess; more labels may change that."
        )
    text = (
        f"The predictor names the better of two architectures in {(1 + tau) / 2:.0%} of pairs (Kendall tau {_two(tau)}"
    )
    text += ")" if macs is None else f", plain MACs {_two(macs)})"
    if ceiling is None:
        return f"{text}."
    if tau >= ceiling - 0.05:
        return f"{text}; labels are so noisy that a perfect one would reach {_two(ceiling)}: little is left to learn."
    return f"{text}; a perfect one would reach {_two(ceiling)}."


def _two(value: float) -> str:
    return f"{value:.2f}"


def _range(ends: tuple[float, float]) -> str:
    return f"{_two(ends[0])} to {_two(ends[1])}"
