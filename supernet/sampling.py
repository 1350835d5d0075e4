"""Random architectures within hard limits, also where hardly one in a billion keeps them.

Uniform draws are kept or thrown away as long as enough are kept. Below that a population is led down to the limits in
levels, each of which about half of it keeps, and made anew at each by random walks that stay below it: multilevel
splitting (Kahn and Harris 1951; Botev and Kroese 2012). The walks leave the distribution of ``sample`` among what is
below a level as it is, so what arrives is distributed as draws that were kept, and the product of the shares that each
level kept estimates the share of the space that is feasible.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from supernet.limits import Limits, bounds, check_limits, excess, told, within
from supernet.moves import step
from supernet.settings import InputError
from supernet.space import Choices, SearchSpace

_BATCHES = (1024,) * 64 + (65_536,) * 400
"""Draws at a time, 26 million in all."""
_LOOK = 4096
"""Draws after which it is decided whether enough are kept."""
_POOR = 0.005
"""Least share of draws kept; below it the walks are cheaper."""
_POPULATION = 1024
_KEPT = 0.5
"""Share of the population that the next level keeps."""
_FEW = 64
"""Where half of the population are equally far, it walks on until so many got below them."""
_APART = 3
"""Walks that let copies of a row part, which the last level has made."""
_STALE = 200_000
"""Draws or steps of walks without a new architecture after which a search for more is given up."""
_STALE_WALKS = 24
"""The same in rounds of walks."""


def sample_distinct(
    space: SearchSpace, count: int, random: np.random.Generator, limits: Limits | None = None
) -> Choices:
    """Canonical rows, no network twice, within hard limits, in order of drawing.

    Each is drawn as :meth:`SearchSpace.sample` draws among those within the limits, but for what was drawn before.
    The first rows do not depend on ``count``, so that a larger plan only adds to a smaller one.

    Args:
        limits: what costs may be, see :mod:`supernet.limits`.

    Raises:
        InputError: a limit below the cheapest architecture, or too few architectures found.
    """
    limits = dict(limits or {})
    check_limits(space, limits)
    rows = up_to(space, count, random, limits)
    if len(rows) < count:
        raise InputError(
            f"sampling: found {len(rows)} distinct architectures within {told(limits)}, "
            f"expected {count}; ask for fewer or raise the limit"
        )
    return rows


def up_to(space: SearchSpace, count: int, random: np.random.Generator, limits: Limits) -> Choices:
    """As :func:`sample_distinct`, but fewer rows where no more are found."""
    seen: set[bytes] = set()
    rows: list[NDArray[np.int8]] = []
    stale = 0.0  # how much of what may be spent without a new architecture has been
    draws = feasible(space, limits, random)
    while len(rows) < count and stale < 1:
        drawn, spent = next(draws, (None, 0.0))
        if drawn is None:
            break
        stale += spent
        for row in drawn:
            if row.tobytes() not in seen:
                seen.add(row.tobytes())
                stale = 0.0
                if len(rows) < count:
                    rows.append(row)
    return np.stack(rows) if rows else np.empty((0, len(space.cardinalities)), np.int8)


def feasible(space: SearchSpace, limits: Limits, random: np.random.Generator) -> Iterator[tuple[Choices, float]]:
    """Batches of canonical rows within the limits, and what share of the patience for new ones each has cost.

    Rows come with repetition, distributed as ``sample`` draws among those within the limits. Ends where nothing
    within them is found, or after 26 million draws.
    """
    drawn = kept = 0
    for batch in _BATCHES:
        rows = space.canonical(space.sample(batch, random))
        fits = within(space, rows, limits)
        drawn, kept = drawn + batch, kept + int(fits.sum())
        yield rows[fits], batch / _STALE
        if drawn >= _LOOK and kept < _POOR * drawn:
            break
    else:
        return
    levels = _Levels(space, limits, random)
    if levels.descend():
        for _ in range(_APART):
            levels.walk()
        while True:
            levels.walk()
            yield space.canonical(levels.rows), 1 / _STALE_WALKS


def feasible_share(space: SearchSpace, limits: Limits, random: np.random.Generator, draws: int = 20_000) -> float:
    """The chance that ``sample`` draws an architecture within the limits; 0 where none was found.

    Counted where it is large; otherwise by levels, with a relative standard error of about .03 times the root of the
    number of halvings: .16 at one in ten million.
    """
    bounds(limits)  # names are checked
    fits = 0
    for _ in range(-(-draws // _LOOK)):
        fits += int(within(space, space.canonical(space.sample(_LOOK, random)), limits).sum())
    drawn = -(-draws // _LOOK) * _LOOK
    if fits >= 10 * _POOR * drawn:
        return fits / drawn
    levels = _Levels(space, limits, random)
    return levels.share if levels.descend() else 0.0


class _Levels:
    """A population on its way down to the limits, and walking below them once it is there."""

    def __init__(self, space: SearchSpace, limits: Limits, random: np.random.Generator) -> None:
        self._space, self._limits, self._random = space, limits, random
        self.rows = space.sample(_POPULATION, random)
        self._values = self._excess(self.rows)
        self.share = 1.0
        self._level = np.inf

    def descend(self) -> bool:
        """Down to the limits; False where no level further down is reached."""
        while self._level > 0:
            rows, values = self.rows, self._values
            level = max(0.0, float(np.quantile(values, _KEPT)))
            if level >= self._level:  # half of the population are equally far: only what is below them leads on
                for _ in range(_STALE_WALKS):
                    if (values < self._level).sum() >= _FEW:
                        break
                    self.walk()
                    rows, values = np.concatenate([rows, self.rows]), np.concatenate([values, self._values])
                below = values[values < self._level]
                if not len(below):
                    return False
                level = max(0.0, float(below.max()))
            kept = np.flatnonzero(values <= level)
            self._level = level
            self.share *= len(kept) / len(values)
            chosen = kept[self._random.integers(len(kept), size=_POPULATION)]
            self.rows, self._values = rows[chosen], values[chosen]
            self.walk()
        return True

    def walk(self) -> None:
        """Steps of Metropolis et al. 1953 that keep the level, two for each choice: one or two choices are redrawn."""
        space, random = self._space, self._random
        self.rows, self._values = self.rows.copy(), self._values.copy()  # others hold what they were
        density = space.log_density(self.rows).copy()
        for _ in range(2 * len(space.cardinalities)):
            moved = step(self.rows, space.cardinalities, random)
            valid = np.flatnonzero(space.is_valid(moved))
            weights = space.log_density(moved[valid])
            likely = random.random(len(valid)) < np.exp(np.minimum(weights - density[valid], 0.0))
            tried, weights = valid[likely], weights[likely]
            values = self._excess(moved[tried])  # costs are what takes time: only of rows that may be taken
            below = values <= self._level
            taken = tried[below]
            self.rows[taken], self._values[taken], density[taken] = moved[taken], values[below], weights[below]

    def _excess(self, rows: Choices) -> NDArray[np.float64]:
        return excess(self._space, self._space.canonical(rows), self._limits)
