"""The control of a search: a random architecture that costs the same."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from evolution.archive import Archive
from supernet.limits import Limits, told, within
from supernet.moves import redraw
from supernet.settings import InputError, nearest
from supernet.space import Architecture, Choices, SearchSpace, architectures

_POOL = 2000
_WALKERS = 256


@dataclass(frozen=True, slots=True)
class Match:
    """A random architecture of nearly a given cost.

    Attributes:
        cost: the architecture's exact cost.
        gap: distance to the cost asked for, as a fraction of it; at most the tolerance asked for,
            unless nothing was found within that.
    """

    architecture: Architecture
    cost: int
    gap: float


def closest_in_macs(
    space: SearchSpace,
    target: int,
    limits: Limits,
    random: np.random.Generator,
    cost: str = "macs",
    tolerance: float = 0.02,
    excluded: Collection[str] = (),
) -> Match:
    """A random valid architecture within the limits whose cost is within a tolerance of a given one.

    Uniform over those where uniform draws find one; otherwise the end of a random walk towards the cost.
    Where both find none, the tolerance is doubled until one fits. The same seed gives the same architecture.

    Args:
        target: cost to match, above 0, such as the MACs of a winner.
        cost: name of the cost to match.
        tolerance: largest distance to the target as a fraction of it, above 0.
        excluded: keys of architectures that must not be drawn.

    Raises:
        InputError: a target or tolerance that is not above 0, or no architecture is left.
    """
    if target <= 0 or not 0 < tolerance < np.inf:
        raise InputError(f"control: expected target and tolerance above 0, got {target} and {tolerance}")
    pool = Archive(space, limits).sample(_POOL, random)
    if cost not in space.costs(pool):
        raise InputError(f"control: unknown cost {cost!r}; {nearest(cost, space.costs(pool))}")
    match = _first(space, pool, target, cost, tolerance, excluded)
    if match is None:
        stops = _approach(space, pool[:_WALKERS], target, limits, random, cost, tolerance)
        pool = np.concatenate([stops, pool])
        farthest = np.abs(space.costs(pool)[cost] - target).max() / target
        match = _first(space, pool, target, cost, tolerance, excluded)
        while match is None and tolerance < farthest:
            tolerance *= 2
            match = _first(space, pool, target, cost, tolerance, excluded)
    if match is None:
        raise InputError(f"control: every architecture found within {told(limits)} is excluded")
    return match


def _first(
    space: SearchSpace, pool: Choices, target: int, cost: str, tolerance: float, excluded: Collection[str]
) -> Match | None:
    values = space.costs(pool)[cost]
    gaps = np.abs(values - target) / target
    for position in np.flatnonzero(gaps <= tolerance):
        architecture = architectures(space, pool[position : position + 1])[0]
        if architecture.key not in excluded:
            return Match(architecture, int(values[position]), float(gaps[position]))
    return None


def _approach(
    space: SearchSpace,
    rows: Choices,
    target: int,
    limits: Limits,
    random: np.random.Generator,
    cost: str,
    tolerance: float,
) -> Choices:
    """Where random walks come by that never go further from the target than the tolerance; last stops first.

    They walk among all forms of the networks; what is returned is canonical.
    """
    stops, rows = [rows], space.disguise(rows, random)
    gaps = np.abs(space.costs(rows)[cost] - target)
    for _ in range(4 * rows.shape[1]):
        where = random.random(rows.shape) < 1.5 / rows.shape[1]
        moved = redraw(rows, where, space.cardinalities, random)
        moved = np.where(space.is_valid(moved)[:, None], moved, rows)  # costs are asked of valid rows alone
        networks = space.canonical(moved)
        ahead = np.abs(space.costs(networks)[cost] - target)
        taken = within(space, networks, limits) & (ahead <= np.maximum(gaps, tolerance * target))
        rows = np.where(taken[:, None], moved, rows)
        gaps = np.where(taken, ahead, gaps)
        stops.append(space.canonical(rows))
    return np.concatenate(stops[::-1])
