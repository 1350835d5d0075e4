"""Labels as normal scores, and back.

Accuracies crowd at the top and straggle at the bottom; only their order is to be predicted. Models learn the normal
quantile of each label's rank (van der Waerden 1952) and answer in the metric's units by the inverse of that map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from supernet import InputError, LabelTable

Floats = NDArray[np.float64]

_BEYOND = 0.05  # how far predictions may leave the range of the labels, as a share of it


def labels(table: LabelTable, metric: str) -> Floats:
    """The labels to fit on. Raises InputError where a row lacks them, or they are fewer than 2 or all equal."""
    values = table.metric(metric)
    if len(values) < 2:
        raise InputError(f"label table: expected at least 2 rows to fit on, got {len(values)}")
    if values.min() == values.max():
        raise InputError(f"metric {metric!r}: all {len(values)} rows have {values[0]}; expected numbers that differ")
    return values


@dataclass(frozen=True, slots=True)
class NormalScores:
    """A rising map between labels and normal scores.

    Attributes:
        scores: of the distinct labels, ascending, (labels,).
        values: these labels, ascending, (labels,).
    """

    scores: Floats
    values: Floats

    @staticmethod
    def of(values: Floats) -> NormalScores:
        """Of labels, at least two of them different; ties share the score of their mean rank."""
        distinct, first = np.unique(values, return_index=True)
        return NormalScores(normal_scores(values)[first], distinct)

    def value(self, scores: Floats) -> Floats:
        """Labels of scores, any shape; beyond the ends as steep as the outer tenth, and not far."""
        few = max(len(self.values) // 10, 1)
        reach = _BEYOND * (self.values[-1] - self.values[0])
        inner = np.interp(scores, self.scores, self.values)
        for end, other, sign in ((0, few, -1.0), (-1, -1 - few, 1.0)):
            slope = (self.values[end] - self.values[other]) / (self.scores[end] - self.scores[other])
            over = np.maximum(sign * (scores - self.scores[end]), 0)
            inner = inner + sign * reach * np.tanh(slope * over / reach)
        return np.asarray(inner, np.float64)


def normal_scores(values: Floats) -> Floats:
    """The normal quantile of each value's rank among all, ties at their mean rank, (values,)."""
    return np.asarray(ndtri((rankdata(values) - 0.5) / len(values)), np.float64)
