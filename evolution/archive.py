"""The one gate to scoring: what passes is valid, keeps every limit, and was never given out before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from supernet.limits import Limits, bounds, check_limits, excess, limited_costs, number, told, within
from supernet.moves import neighbours, single_changes, step
from supernet.sampling import feasible
from supernet.settings import InputError
from supernet.space import Choices, SearchSpace

_POOR = 0.005  # below this share of new architectures a way of drawing comes to its end
_PATIENCE = 0.1
_FEW = 300  # single changes, beyond which pairs of them are too many to look at
_REPAIRS = 6  # rounds of steps towards the limits
_STEPS = 8  # steps that are tried from each row in a round


class Archive:
    """The architectures given out so far, in order.

    Architectures are told apart by whole numbers of 64 bits: exact where a space has no more rows of options than
    that; otherwise, among ten million, two share one with a chance below one in 100,000, and the second is left out.

    Raises InputError for a limit that is no number or that no architecture keeps.
    """

    def __init__(self, space: SearchSpace, limits: Limits) -> None:
        self.limits = bounds(limits)
        check_limits(space, self.limits)
        self._space = space
        self._rows: Choices = np.empty((256, len(space.cardinalities)), np.int8)
        self._count = 0
        self._seen: set[int] = set()
        self._expanded = 0  # rows before this one have no unseen neighbour
        counts = np.array([1, *space.cardinalities[:-1]], object)
        radices = np.cumprod(counts)
        if radices[-1] * space.cardinalities[-1] < 2**64:
            self._radices = radices.astype(np.uint64)
        else:
            self._radices = np.random.default_rng(0).integers(0, 2**64, size=len(counts), dtype=np.uint64) | np.uint64(
                1
            )

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> Choices:
        """Everything given out, shape (architectures, choices)."""
        return self._rows[: self._count]

    def admit(self, choices: Choices, count: int) -> Choices:
        """The first ``count`` networks that are valid, feasible and new, as canonical rows, shape (found, choices)."""
        if not len(choices) or count <= 0:
            return self._rows[:0]
        valid = self._space.canonical(choices[self._space.is_valid(choices)])
        return self._enter(valid[within(self._space, valid, self.limits)], count)

    def admit_or_mend(self, choices: Choices, count: int, random: np.random.Generator) -> Choices:
        """As :meth:`admit`; where too few pass, those outside the limits first step towards them."""
        valid = self._space.canonical(choices[self._space.is_valid(choices)])
        fits = within(self._space, valid, self.limits)
        found = self._enter(valid[fits], count)
        outside = valid[~fits]
        if len(found) < count and len(outside):
            missing = count - len(found)
            found = np.concatenate([found, self._enter(self._mended(outside[: 2 * missing], random), missing)])
        return found

    def begin(self, first: Choices | None, count: int, random: np.random.Generator) -> Choices:
        """New feasible architectures: of those given, in their order, then at random."""
        start = self._count
        if first is not None:
            self.admit(first, count)
        self.sample(count - self._count + start, random)
        return self.rows[start:].copy()

    def sample(self, count: int, random: np.random.Generator) -> Choices:
        """New feasible architectures at random, fewer than ``count`` only when no more were found.

        Distributed as the space samples those within the limits (:func:`supernet.sampling.feasible`) as long as
        that finds new ones; then the neighbours of everything known, which ends when there are none left.
        """
        start, stale = self._count, 0.0
        draws = feasible(self._space, self.limits, random)
        while self._count - start < count and stale < _PATIENCE:
            rows, spent = next(draws, (None, 0.0))
            if rows is None:
                break
            found = self.admit(rows, count - self._count + start)
            stale = 0.0 if len(found) > _POOR * len(rows) else stale + spent
        self.explore(count - self._count + start, random)
        return self.rows[start:].copy()

    def explore(self, count: int, random: np.random.Generator) -> Choices:
        """New feasible architectures one or two choices away from known ones, each in one of its disguises.

        Fewer than ``count`` come back only when the neighbours of all known ones have been looked at.
        """
        start = self._count
        if count > 0 and not self._count:
            self.admit(self._nearest(), count)
        while self._count - start < count and self._expanded < self._count:
            around = self.around(self._space.disguise(self._rows[self._expanded][None], random)[0])
            missing = count - self._count + start
            if len(self.admit(random.permutation(around), missing)) < missing:
                self._expanded += 1
        return self.rows[start:].copy()

    def around(self, row: NDArray[np.int8]) -> Choices:
        """What differs from a row in one choice, in two as well where that is not too many; validity is not asked."""
        counts = self._space.cardinalities
        near = single_changes(row, counts)
        return near if len(near) > _FEW else neighbours(row, counts)

    def _enter(self, rows: Choices, count: int) -> Choices:
        """Of feasible canonical rows the first ``count`` new ones, now known."""
        seen, keys = self._seen, self._keys(rows).tolist()
        # From the last to the first, so that of equal ones the first place stays.
        first = {keys[place]: place for place in range(len(keys) - 1, -1, -1) if keys[place] not in seen}
        places = sorted(first.values())[:count]
        seen.update(keys[place] for place in places)
        new = rows[places]
        end = self._count + len(new)
        if end > len(self._rows):
            more = np.empty((max(end, 2 * len(self._rows)) - len(self._rows), self._rows.shape[1]), np.int8)
            self._rows = np.concatenate([self._rows, more])
        self._rows[self._count : end] = new
        self._count = end
        return new

    def _keys(self, rows: Choices) -> NDArray[np.uint64]:
        return rows.astype(np.uint64) @ self._radices

    def _mended(self, rows: Choices, random: np.random.Generator) -> Choices:
        """Where rows outside the limits come to by steps of one or two choices towards them, feasible ones alone."""
        space, done = self._space, [rows[:0]]
        for _ in range(_REPAIRS):
            stood = np.repeat(rows, _STEPS, axis=0)
            tried = step(stood, space.cardinalities, random)
            tried = np.where(space.is_valid(tried)[:, None], tried, stood)
            tried = space.canonical(tried)
            far = excess(space, tried, self.limits).reshape(len(rows), _STEPS)
            best = far.argmin(axis=1)
            every = np.arange(len(rows))
            nearest, left = tried.reshape(len(rows), _STEPS, -1)[every, best], far[every, best]
            done.append(nearest[left <= 0])
            rows = nearest[left > 0]
            if not len(rows):
                break
        return np.concatenate(done)

    def _nearest(self) -> Choices:
        """One feasible architecture, shape (1, choices): a cheapest one, or what descends from it."""
        space = self._space
        names = [name for name in self.limits if name in space.costs(space.cheapest("macs").row())] or ["macs"]
        cheapest: Choices = np.concatenate([space.cheapest(name).row() for name in names])
        starts = np.concatenate([cheapest, space.descend(lambda rows: excess(space, rows, self.limits))])
        far = excess(space, starts, self.limits)
        row: NDArray[np.int8] = starts[int(far.argmin())]
        left = float(far.min())
        while left > 0:
            around = self.around(row)
            around = around[space.is_valid(around)]
            far = excess(space, around, self.limits) if len(around) else np.array([left])
            if far.min() >= left:
                told_costs = {**space.costs(row[None]), **limited_costs(space, row[None], self.limits)}
                costs = ", ".join(f"{name} {number(value[0])}" for name, value in told_costs.items())
                raise InputError(
                    f"limits {told(self.limits)}: no architecture of {space.name} found that keeps them together; the "
                    f"nearest found has {costs}"
                )
            row, left = around[int(far.argmin())], float(far.min())
        return row[None]
