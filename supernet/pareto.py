"""What none dominates, and the volume below a reference: all that a front asks for, in NumPy alone.

Every objective is minimised. One point dominates another that it is nowhere above and somewhere below; equal points do
not dominate each other. Values have the shape (points, objectives), and any number of points will do, none as well.
All functions raise InputError for another shape and for NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from supernet.settings import InputError

Array = NDArray[np.float64]
Positions = NDArray[np.intp]


def front(values: Array) -> Positions:
    """Positions of the points that none dominates, ascending by first objective, then the second and so on.

    Of equal points only the first position. Points n cost n log n for two objectives; for more, the points times those
    on the front at worst, far less where most points are far from the front.
    """
    return _front(checked(values))


def hypervolume(values: Array, reference: Array) -> float:
    """The exact volume between the points and a reference, in the product of the objectives' units, larger is better.

    Two objectives are swept; of more, what each point adds is sliced along the last one (WFG, While et al. 2012).
    Points that are not below the reference in every objective add nothing.

    Args:
        reference: shape (objectives,), finite; nothing at or above it in any objective counts.

    Raises:
        InputError: also for a reference of another shape or not finite, and for a value of minus infinity.
    """
    values, reference = checked(values), np.asarray(reference, np.float64)
    if reference.shape != values.shape[1:] or not np.isfinite(reference).all():
        raise InputError(f"reference: expected {values.shape[1]} finite numbers, got {reference!r:.80}")
    inside = checked(values[(values < reference).all(axis=1)], finite=True)
    return _volume(inside, reference) if len(inside) else 0.0


def checked(values: Array, finite: bool = False) -> Array:
    """The values themselves, if they are numbers of the right shape, and finite where that is asked."""
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[1] < 1:
        raise InputError(f"values: expected shape (points, objectives), got {values.shape}")
    wrong = ~np.isfinite(values) if finite else np.isnan(values)
    if wrong.any():
        point, objective = np.argwhere(wrong)[0]
        what = "finite numbers" if finite else "numbers"
        raise InputError(f"values: expected {what}, got {values[point, objective]} at [{point}, {objective}]")
    return values


def _front(values: Array) -> Positions:
    if values.shape[1] == 2:
        order = np.lexsort(values.T[::-1])
        second = values[order, 1]
        kept = np.ones(len(values), np.bool_)
        kept[1:] = second[1:] < np.minimum.accumulate(second)[:-1]
        return order[kept]
    # Dominating points have the smaller sum of ranks, whatever the scales: the first that is alive is on the front.
    sums = np.zeros(len(values), np.int64)
    for column in values.T:
        sums += np.searchsorted(np.sort(column), column)
    left = np.argsort(sums, kind="stable")
    columns, alive, found = values[left].T.copy(), np.ones(len(left), np.bool_), []
    while alive.any():
        place = int(alive.argmax())
        left, columns, alive = left[place:], columns[:, place:], alive[place:]
        if 2 * np.count_nonzero(alive) < len(alive):  # seldom: to copy what is left costs more than to compare it
            left, columns, alive = left[alive], columns[:, alive], alive[alive]
        found.append(left[0])
        below = columns[0] < columns[0, 0]
        for column in columns[1:]:
            below |= column < column[0]
        alive &= below
    result = np.array(found, np.intp)
    return result[np.lexsort(values[result].T[::-1])]


def _volume(points: Array, reference: Array) -> float:
    """The hypervolume of at least one point, all of them below the reference."""
    if points.shape[1] == 1:
        return float(reference[0] - points.min())
    points = points[_front(points)]
    if points.shape[1] == 2:
        heights = -np.diff(points[:, 1], prepend=reference[1])
        return float((reference[0] - points[:, 0]) @ heights)
    points = points[np.argsort(-points[:, -1], kind="stable")]
    depths, points, reference = reference[-1] - points[:, -1], points[:, :-1], reference[:-1]
    bases = (reference - points).prod(axis=1)
    for place in range(len(points) - 1):  # what reaches as deep or deeper covers a part of the base
        bases[place] -= _volume(np.maximum(points[place + 1 :], points[place]), reference)
    return float(depths @ bases)
