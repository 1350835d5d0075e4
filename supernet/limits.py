"""Hard limits on what an architecture costs: any number of them, above and below. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from supernet.operations import COST_NAMES
from supernet.settings import InputError, nearest
from supernet.space import Architecture, Choices, SearchSpace, architectures

Measure: TypeAlias = Callable[[Choices], NDArray[Any]]
"""From valid choices, shape (architectures, choices), to one finite number each; lower is cheaper."""

LIMITED = (*COST_NAMES, "depth")
"""What every space can be limited in; anything else needs a :class:`Bound` with a measure."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The values that a cost may take, ends included.

    Attributes:
        least: smallest allowed value.
        most: largest allowed value.
        measure: what gives the cost, such as a table of latencies; None for what a space itself counts
            (:data:`LIMITED`).
    """

    least: float = -np.inf
    most: float = np.inf
    measure: Measure | None = None

    def keeps(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Which values are allowed, shape as given."""
        return np.asarray((values >= self.least) & (values <= self.most), np.bool_)

    @property
    def text(self) -> str:
        """As a person says it: ``at most 15,000,000``."""
        if self.least == self.most:
            return f"exactly {number(self.most)}"
        if np.isfinite(self.least) and np.isfinite(self.most):
            return f"from {number(self.least)} to {number(self.most)}"
        return f"at least {number(self.least)}" if np.isfinite(self.least) else f"at most {number(self.most)}"


Limits: TypeAlias = Mapping[str, int | Bound]
"""By the name of a cost: the largest allowed value, or a bound."""


def number(value: float) -> str:
    """A cost as a person reads it: whole ones in groups of three digits, others with four digits."""
    return f"{int(value):,}" if float(value).is_integer() else f"{value:.4g}"


def bounds(limits: Limits) -> dict[str, Bound]:
    """Each limit as a bound.

    Raises:
        InputError: an unknown cost, a limit that is no number, or one whose least is above its most.
    """
    result = {}
    for name, limit in limits.items():
        if not isinstance(limit, Bound):
            if isinstance(limit, bool) or not isinstance(limit, int | np.integer):
                raise InputError(f"limit {name}: expected a whole number, got {limit!r:.80}")
            limit = Bound(most=int(limit))
        if limit.measure is None and name not in LIMITED:
            raise InputError(f"limit {name!r} is unknown; {nearest(name, LIMITED)}")
        if not limit.least <= limit.most:
            raise InputError(f"limit {name}: expected least <= most, got {limit.least} and {limit.most}")
        result[name] = limit
    return result


def told(limits: Limits) -> str:
    """All limits in words: ``macs at most 15,000,000 and depth at least 8``."""
    return " and ".join(f"{name} {bound.text}" for name, bound in bounds(limits).items()) or "no limits"


def cost_of(space: SearchSpace, choices: Choices, name: str) -> NDArray[np.int64]:
    """One of :data:`LIMITED`, shape (architectures,). Raises InputError for another."""
    if name == "depth":
        return space.depths(choices)
    if name not in LIMITED:
        raise InputError(f"cost {name!r} is unknown; {nearest(name, LIMITED)}")
    return space.costs(choices)[name]


def limited_costs(space: SearchSpace, choices: Choices, limits: Limits) -> dict[str, NDArray[Any]]:
    """What is limited, and nothing else, each (architectures,). Asked of valid rows alone."""
    if not limits:
        return {}
    counted = space.costs(choices) if any(name in COST_NAMES for name in limits) else {}
    result: dict[str, NDArray[Any]] = {}
    for name, limit in limits.items():
        if isinstance(limit, Bound) and limit.measure is not None:
            result[name] = np.asarray(limit.measure(choices))
        else:
            result[name] = space.depths(choices) if name == "depth" else counted[name]
    return result


def within(space: SearchSpace, choices: Choices, limits: Limits) -> NDArray[np.bool_]:
    """Which valid rows keep every limit, shape (architectures,)."""
    fits = np.ones(len(choices), dtype=np.bool_)
    if len(choices):
        for name, values in limited_costs(space, choices, limits).items():
            limit = limits[name]
            fits &= limit.keeps(values) if isinstance(limit, Bound) else values <= limit
    return fits


def excess(space: SearchSpace, choices: Choices, limits: Limits) -> NDArray[np.float64]:
    """How far valid rows are outside the limits, as a sum of fractions of them, (architectures,); 0 is feasible."""
    total = np.zeros(len(choices), dtype=np.float64)
    if len(choices):
        for name, values in limited_costs(space, choices, limits).items():
            limit = limits[name]
            least, most = (limit.least, limit.most) if isinstance(limit, Bound) else (-np.inf, limit)
            if np.isfinite(most):
                total += np.maximum(values - most, 0) / max(abs(most), 1e-12)
            if np.isfinite(least):
                total += np.maximum(least - values, 0) / max(abs(least), 1e-12)
    return total


def check_limits(space: SearchSpace, limits: Limits) -> None:
    """Raises InputError for a limit that nothing keeps, with the least or the most that there is.

    Both are found by descent (:meth:`SearchSpace.cheapest`), exact where costs add up over the choices.
    """
    for name, bound in bounds(limits).items():
        measure = bound.measure or (lambda rows, name=name: cost_of(space, rows, name))  # type: ignore[misc]
        if np.isfinite(bound.most):
            least = (
                space.cheapest(name) if bound.measure is None and name in COST_NAMES else _end(space, bound, name, 1)
            )
            value = measure(least.row())[0]
            if value > bound.most:
                raise InputError(
                    f"limit {name}: {number(bound.most)} is below the cheapest architecture of {space.name}, "
                    f"which needs {number(value)} ({space.format(least)})"
                )
        if np.isfinite(bound.least):
            largest = _end(space, bound, name, -1)
            value = measure(largest.row())[0]
            if value < bound.least:
                raise InputError(
                    f"limit {name}: {number(bound.least)} is above the costliest architecture of {space.name}, "
                    f"which needs {number(value)} ({space.format(largest)})"
                )


def costliest(space: SearchSpace, name: str) -> Architecture:
    """The architecture with the most of one of :data:`LIMITED`, found by climbing. Raises InputError for another."""
    cost_of(space, space.cheapest("macs").row(), name)
    return _end(space, Bound(), name, -1)


def _end(space: SearchSpace, bound: Bound, name: str, sign: int) -> Architecture:
    """An architecture with the least of a cost, or the most where the sign is -1."""
    own = bound.measure
    if own is None:
        return _counted_end(space, name, sign)
    return architectures(space, space.descend(lambda rows: sign * np.asarray(own(rows))))[0]


@lru_cache(maxsize=256)  # each search asks, and each of its limits
def _counted_end(space: SearchSpace, name: str, sign: int) -> Architecture:
    def measure(rows: Choices) -> NDArray[Any]:
        if name != "depth":
            return sign * cost_of(space, rows, name)
        # Few single changes alter the longest path: of equally deep ones, those with fewer MACs lead on.
        macs = space.costs(rows)["macs"]
        return sign * (space.depths(rows) + macs / (macs + 1e9))

    return architectures(space, space.descend(measure))[0]
