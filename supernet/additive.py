"""Functions of an architecture that are a sum over its choices, found by asking. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet.space import Choices, SearchSpace

_MOST_COLUMNS = 2000
_CHECKED = 256  # further rows that must agree
_TOLERANCE = 1e-7  # of the spread; what is rounded on the way to a sum is not more
_ROUNDING = 1e-12  # of the size; what differs by no more is constant


@dataclass(frozen=True)
class Additive:
    """A sum over the choices.

    Attributes:
        fixed: what every architecture has.
        tables: what each option of each choice adds, one array a choice.
    """

    fixed: float
    tables: tuple[NDArray[np.float64], ...]

    def values(self, choices: Choices) -> NDArray[np.float64]:
        """The sum for each row, (architectures,)."""
        total = np.full(len(choices), self.fixed)
        for column, table in zip(choices.T, self.tables, strict=True):
            total += table[column]
        return total


def one_hot(choices: Choices, cardinalities: tuple[int, ...]) -> NDArray[np.float64]:
    """A column for each option of each choice but the first, (architectures, options)."""
    columns = [column[:, None] == np.arange(1, count) for column, count in zip(choices.T, cardinalities, strict=True)]
    return np.concatenate(columns, axis=1).astype(np.float64)


def additive_ridge(choices: Choices, values: NDArray[Any], cardinalities: tuple[int, ...], strength: float) -> Additive:
    """The sum over choices that is nearest to values of rows, by ridge regression on their options.

    Args:
        strength: of the penalty on squares; as good as 0 is least squares.
    """
    columns = one_hot(choices, cardinalities)
    center, mean = columns.mean(axis=0), float(np.mean(values))
    deviations = columns - center
    gram = deviations.T @ deviations
    gram[np.diag_indices_from(gram)] += strength
    weights = np.linalg.lstsq(gram, deviations.T @ (np.asarray(values, np.float64) - mean), rcond=None)[0]
    ends = np.cumsum([count - 1 for count in cardinalities])
    tables = tuple(np.concatenate([[0.0], part]) for part in np.split(weights, ends[:-1]))
    return Additive(mean - float(center @ weights), tables)


def fit_additive(space: SearchSpace, function: Callable[[Choices], NDArray[Any]], seed: int = 0) -> Additive | None:
    """The sum over choices that a function of canonical rows is; None where it is no such sum.

    It is fitted to some rows and has to agree on others, to within rounding: on random ones, and on such as have little
    or much of everything, where what several choices do together shows.

    Args:
        function: from rows to one number each.
    """
    counts = space.cardinalities
    width = sum(counts) - len(counts)
    if not width or width > _MOST_COLUMNS:
        return None
    random = np.random.default_rng(seed)
    rows = np.concatenate([space.sample(4 * width + _CHECKED, random), _lopsided(space, random)])
    networks = space.canonical(rows)
    values = np.asarray(function(networks), np.float64)
    fitted, checked = slice(0, 4 * width), slice(4 * width, None)
    if np.ptp(values) <= _ROUNDING * np.abs(values).max():
        return Additive(float(values[0]), tuple(np.zeros(count) for count in counts))
    columns = np.concatenate([np.ones((len(rows), 1)), one_hot(networks, counts)], axis=1)
    weights = np.linalg.lstsq(columns[fitted], values[fitted], rcond=None)[0]
    if float(np.abs(columns[checked] @ weights - values[checked]).max()) > _TOLERANCE * float(np.ptp(values)):
        return None
    ends = np.cumsum([count - 1 for count in counts])
    tables = tuple(np.concatenate([[0.0], part]) for part in np.split(weights[1:], ends[:-1]))
    return Additive(float(weights[0]), tables)


def _lopsided(space: SearchSpace, random: np.random.Generator) -> Choices:
    """Valid rows of which most choices are their first, or their last, option."""
    counts = np.asarray(space.cardinalities)
    rows = random.integers(0, counts, size=(2 * _CHECKED, len(counts)))
    ends = np.where(np.arange(len(rows))[:, None] % 2, 0, counts - 1)
    kept = random.random(rows.shape) < 0.5 * random.random((len(rows), 1))
    kept[:2] = False
    lopsided: Choices = np.where(kept, rows, ends).astype(np.int8)
    return lopsided[space.is_valid(lopsided)]
