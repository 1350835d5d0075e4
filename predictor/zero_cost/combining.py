"""Several metrics as one number. Weights are given, never tuned on accuracies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from supernet import InputError

Columns = Mapping[str, ArrayLike]
"""Values of each metric, (networks,), higher is better."""

PUBLISHED_WEIGHTS = {"hook_logdet": 0.6, "synflow": 0.4}
"""Of the published combination on NAS-Bench-201, where they were chosen by test accuracies."""


def convex(
    values: Columns, valid: Columns | None = None, weights: Mapping[str, float] | None = None
) -> NDArray[np.float64]:
    """Weighted mean of metrics that are scaled to 0..1 over the networks, (networks,); higher is better.

    A metric that is the same everywhere counts as 0. Networks with an invalid score come below all others, in -2..-1.

    Args:
        valid: whether each value is, by metric; finite ones where left out.
        weights: by metric, at least 0. Where left out, .6 for hook_logdet and .4 for synflow, as published for
            synflow itself, not its log.

    Raises:
        InputError: metrics and weights that do not go together.
    """
    weights = dict(PUBLISHED_WEIGHTS if weights is None else weights)
    if set(weights) != set(values) or min(weights.values()) < 0 or not sum(weights.values()) > 0:
        raise InputError(f"convex: expected a weight from 0 for each of {sorted(values)}, got {weights}")
    columns, good = _columns(values, valid)
    result = np.zeros(len(good))
    for name, column in columns.items():
        known = column[np.isfinite(column)]
        low, high = (known.min(), known.max()) if len(known) else (0.0, 0.0)
        share = (column - low) / (high - low) if high > low else np.zeros(len(column))
        result += weights[name] / sum(weights.values()) * np.nan_to_num(share, nan=0.0)
    return np.where(good, result, result - 2)


def log_rank_sum(values: Columns, valid: Columns | None = None) -> NDArray[np.float64]:
    """Sum over metrics of log(rank / networks), (networks,); higher is better (Lee and Ham 2024, AZ-NAS).

    The worst has rank 1; equal values share their mean rank. Networks with an invalid score come below all others.

    Args:
        valid: whether each value is, by metric; finite ones where left out.
    """
    columns, good = _columns(values, valid)
    count = len(good)
    if not count:
        return np.zeros(0)
    result = np.zeros(count)
    for column in columns.values():
        ranks = stats.rankdata(np.where(np.isnan(column), -np.inf, column))
        result += np.log(ranks / count)
    return np.where(good, result, result - len(columns) * np.log(count) - 1)


def _columns(values: Columns, valid: Columns | None) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_]]:
    """Each metric with NaN where it is not valid, and which networks are valid in all."""
    columns = {}
    for name, given in values.items():
        column = np.asarray(given, np.float64)
        known = np.isfinite(column) if valid is None else np.isfinite(column) & np.asarray(valid[name], np.bool_)
        columns[name] = np.where(known, column, np.nan)
    if not columns or len({column.shape for column in columns.values()}) != 1:
        raise InputError("metrics: expected at least one, each with one number for each network")
    return columns, np.isfinite(np.array(list(columns.values()))).all(axis=0)
