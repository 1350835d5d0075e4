"""Several objectives at once: ranks, and who survives a generation. NumPy alone.

Every objective is minimised. One point dominates another that it is nowhere above and somewhere below; equal points do
not dominate each other. Values have the shape (points, objectives), and any number of points will do, none as well.
All functions raise InputError for another shape, for NaN, and where a distance is asked for infinite values.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from supernet.pareto import Array, Positions, checked
from supernet.settings import InputError

_OFF_AXIS = 1e6
"""How much more the other objectives weigh than its own where the extreme point of an objective is looked for."""
_SMALLEST_INTERCEPT = 1e-6
"""In units of the front's range; a hyperplane that cuts an axis below this is not taken for the front's."""


def non_dominated_ranks(values: Array) -> NDArray[np.int64]:
    """The front that each point is on, shape (points,): 0 dominated by none, 1 by those of front 0 alone, and so on.

    Equal points share a rank (Deb et al. 2002). Points n cost n log n for two objectives, n squared time and n memory
    for more.
    """
    values = checked(values)
    if values.shape[1] == 1:
        values = np.column_stack([values, np.zeros(len(values))])
    order = np.lexsort(values.T[::-1])
    ordered = values[order]
    new = np.ones(len(values), np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    distinct = ordered[new]
    found = _ranks_of_two(distinct[:, 1]) if values.shape[1] == 2 else _ranks_of_more(distinct)
    ranks = np.empty(len(values), np.int64)
    ranks[order] = found[np.cumsum(new) - 1]
    return ranks


def crowding_distance(values: Array) -> Array:
    """How far apart the neighbours of each point of one front are, shape (points,), larger is lonelier.

    The sum over the objectives of the distance between the next smaller and the next larger value as a share of the
    range (Deb et al. 2002). The ends of each objective are infinite, and so are all of one or two points; of equal ends
    it is the first for the smallest value and the last for the largest. An objective with a range of 0 adds nothing.
    """
    values = checked(values, finite=True)
    if len(values) <= 2:
        return np.full(len(values), np.inf)
    total = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        if ordered[0] == ordered[-1]:
            continue
        total[order[1:-1]] += (ordered[2:] - ordered[:-2]) / (ordered[-1] - ordered[0])
        total[order[[0, -1]]] = np.inf
    return total


def reference_directions(objectives: int, divisions: int) -> Array:
    """All points of the unit simplex whose coordinates are multiples of 1 / divisions, shape (directions, objectives).

    Rows sum to 1 and ascend by first coordinate, then the second and so on (Das and Dennis 1998); there are
    ``divisions + objectives - 1`` over ``divisions`` of them. Raises InputError for an argument below 1.
    """
    for name, value in {"objectives": objectives, "divisions": divisions}.items():
        if value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}")
    places = divisions + objectives - 1
    bars = np.array(list(combinations(range(places), objectives - 1)), np.int64)
    bars = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, places)))
    directions: Array = (np.diff(bars, axis=1) - 1) / divisions
    return directions


def nsga2_survivors(values: Array, count: int) -> Positions:
    """Positions of the ``count`` points that survive, all where there are fewer, best front first.

    Whole fronts, and of the first that does not fit its loneliest points by crowding distance (NSGA-II, Deb et al.
    2002); of equally lonely ones the first. Raises InputError also for a count below 0.
    """
    values = checked(values, finite=True)
    ranks = non_dominated_ranks(values)
    whole, partly = _fitting(ranks, count)
    lonely = np.argsort(-crowding_distance(values[partly]), kind="stable")
    return np.concatenate([whole, partly[lonely[: count - len(whole)]]])


def nsga3_survivors(values: Array, count: int, directions: Array, random: np.random.Generator) -> Positions:
    """Positions of the ``count`` points that survive, all where there are fewer, best front first.

    Whole fronts, and of the first that does not fit those near the directions with the fewest survivors (NSGA-III, Deb
    and Jain 2014). Normalisation knows this generation alone: it keeps no ideal or extreme points of earlier ones.

    Args:
        directions: none negative, no row all 0, shape (directions, objectives); see :func:`reference_directions`.
        random: decides between directions with as few survivors, and between points near one that has survivors.

    Raises:
        InputError: also for a count below 0 or directions other than these.
    """
    values, directions = checked(values, finite=True), np.asarray(directions, np.float64)
    fits = directions.ndim == 2 and directions.shape[1] == values.shape[1] and len(directions) > 0
    if not (fits and np.isfinite(directions).all() and (directions >= 0).all() and directions.any(axis=1).all()):
        raise InputError(
            f"directions: expected rows of {values.shape[1]} finite numbers, none negative and not all 0, "
            f"got shape {directions.shape}, {directions!r:.80}"
        )
    ranks = non_dominated_ranks(values)
    whole, partly = _fitting(ranks, count)
    candidates = np.concatenate([whole, partly])
    if len(candidates) <= count:
        return candidates
    normalised = _normalised(values[candidates], ranks[candidates] == 0)
    niches, distances = _associated(normalised, directions)
    taken = np.bincount(niches[: len(whole)], minlength=len(directions))
    order = _niching_order(niches[len(whole) :], distances[len(whole) :], taken, random)
    return np.concatenate([whole, partly[order[: count - len(whole)]]])


def _ranks_of_two(second: Array) -> NDArray[np.int64]:
    """Ranks of distinct points in lexicographic order from their second objective, by patience sorting."""
    lowest: list[float] = []  # of each front so far, never descending: a point below it is dominated by none of them
    ranks = np.empty(len(second), np.int64)
    for place, value in enumerate(second.tolist()):
        rank = bisect_right(lowest, value)
        if rank == len(lowest):
            lowest.append(value)
        else:
            lowest[rank] = value
        ranks[place] = rank
    return ranks


def _ranks_of_more(ordered: Array) -> NDArray[np.int64]:
    """Ranks of distinct points in lexicographic order: one more than the highest of those that dominate."""
    ranks = np.empty(len(ordered), np.int64)
    columns = np.ascontiguousarray(ordered.T[1:])  # those before are nowhere above in the first objective
    for place in range(len(ordered)):
        dominating = (columns[:, :place] <= columns[:, place, None]).all(axis=0)
        ranks[place] = ranks[:place][dominating].max(initial=-1) + 1
    return ranks


def _fitting(ranks: NDArray[np.int64], count: int) -> tuple[Positions, Positions]:
    """Positions on the fronts that fit into ``count`` together with the next front, and on that next one."""
    if count < 0:
        raise InputError(f"count: expected at least 0 survivors, got {count}")
    order = np.argsort(ranks, kind="stable")
    if not 0 < count < len(ranks):
        return order[:count], order[:0]
    last = ranks[order[count - 1]]
    return order[ranks[order] < last], np.flatnonzero(ranks == last)


def _normalised(values: Array, first: NDArray[np.bool_]) -> Array:
    """Values with the ideal point at 0 and the intercepts of the front's hyperplane at 1, shape as given.

    Args:
        first: which points are on the first front, at least one, shape (points,).
    """
    ideal, worst = values.min(axis=0), values.max(axis=0)
    span = values[first].max(axis=0) - ideal
    span = np.where(span > 0, span, worst - ideal)
    scaled = (values - ideal) / np.where(span > 0, span, 1)  # where the front itself ends at 1
    weights = np.where(np.eye(values.shape[1]) > 0, 1, _OFF_AXIS)
    ends = scaled[first]
    extremes = ends[(ends[None] * weights[:, None]).max(axis=2).argmin(axis=1)]
    normalised: Array = scaled / _intercepts(extremes, scaled.max(axis=0))
    return normalised


def _intercepts(extremes: Array, worst: Array) -> Array:
    """Where the hyperplane through the extreme points cuts each axis, no farther than the worst value, (objectives,).

    All are 1, the maximum of the front, where there is no such hyperplane or it cuts an axis near or below 0.
    """
    fallback = np.ones(len(extremes))
    try:
        plane = np.linalg.solve(extremes, fallback)
    except np.linalg.LinAlgError:
        return fallback
    if not (np.allclose(extremes @ plane, 1) and (plane > 0).all() and (plane < 1 / _SMALLEST_INTERCEPT).all()):
        return fallback
    intercepts: Array = 1 / np.maximum(plane, 1 / np.maximum(worst, 1))
    return intercepts


def _associated(normalised: Array, directions: Array) -> tuple[NDArray[np.intp], Array]:
    """The direction whose line through 0 is the nearest to each point, and the distance to it, each (points,)."""
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    along = normalised @ units.T
    niches = along.argmax(axis=1)  # the distance to a line is the least where the projection on it is the longest
    feet = np.take_along_axis(along, niches[:, None], axis=1) * units[niches]
    return niches, np.linalg.norm(normalised - feet, axis=1)


def _niching_order(
    niches: NDArray[np.intp], distances: Array, taken: NDArray[np.intp], random: np.random.Generator
) -> Positions:
    """Positions in the order in which niching takes them.

    Niching takes from a random one of the niches with the fewest survivors: the nearest point where there is none yet,
    a random one otherwise. So each point waits until its niche has as many survivors as were there before plus its
    place in the niche, and points that wait equally long come in random order.

    Args:
        taken: survivors near each direction so far, (directions,).
    """
    shuffled = random.permutation(len(niches))
    niches, distances = niches[shuffled], distances[shuffled]
    by_distance = np.lexsort((distances, niches))
    nearest = by_distance[np.unique(niches[by_distance], return_index=True)[1]]
    later = np.ones(len(niches), np.bool_)
    later[nearest] = taken[niches[nearest]] > 0
    grouped = np.lexsort((later, niches))
    inside = niches[grouped]
    waits = taken[inside] + np.arange(len(inside)) - np.searchsorted(inside, inside)
    return shuffled[grouped[np.lexsort((random.permutation(len(inside)), waits))]]
