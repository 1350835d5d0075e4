"""The one gate to scoring: what passes is valid, keeps every limit, and was never given out before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from supernet.moves import neighbours, single_changes
from supernet.sampling import feasible
from supernet.settings import InputError
from supernet.space import Choices, SearchSpace, check_limits, within

_POOR = 0.005  # below this share of new architectures a way of drawing comes to its end
_PATIENCE = 0.1
_FEW = 300  # single changes, beyond which pairs of them are too many to look at


class Archive:
    """The architectures given out so far, in order.

    Raises InputError for a limit that is no whole number or that no architecture keeps.
    """

    def __init__(self, space: SearchSpace, limits: dict[str, int]) -> None:
        for name, limit in limits.items():
            if isinstance(limit, bool) or not isinstance(limit, int | np.integer):
                raise InputError(f"limit {name}: expected a whole number, got {limit!r:.80}")
        check_limits(space, limits)
        self._space = space
        self._limits = limits
        self._rows: list[NDArray[np.int8]] = []
        self._seen: set[bytes] = set()
        self._expanded = 0  # rows before this one have no unseen neighbour

    def __len__(self) -> int:
        return len(self._rows)

    def admit(self, choices: Choices, count: int) -> Choices:
        """The first ``count`` networks that are valid, feasible and new, as canonical rows, shape (found, choices)."""
        start = len(self._rows)
        choices = np.ascontiguousarray(choices, np.int8)  # the bytes of a row are its key
        valid = choices[self._space.is_valid(choices)] if len(choices) else choices
        valid = self._space.canonical(valid)
        for row in valid[within(self._space, valid, self._limits)]:
            if len(self._rows) - start >= count:
                break
            key = row.tobytes()
            if key not in self._seen:
                self._seen.add(key)
                self._rows.append(row)
        return self._since(start)

    def begin(self, first: Choices | None, count: int, random: np.random.Generator) -> Choices:
        """New feasible architectures: of those given, in their order, then at random."""
        start = len(self._rows)
        if first is not None:
            self.admit(first, count)
        self.sample(count - len(self._rows) + start, random)
        return self._since(start)

    def sample(self, count: int, random: np.random.Generator) -> Choices:
        """New feasible architectures at random, fewer than ``count`` only when no more were found.

        Distributed as the space samples those within the limits (:func:`supernet.sampling.feasible`) as long as
        that finds new ones; then the neighbours of everything known, which ends when there are none left.
        """
        start, stale = len(self._rows), 0.0
        draws = feasible(self._space, self._limits, random)
        while len(self._rows) - start < count and stale < _PATIENCE:
            rows, spent = next(draws, (None, 0.0))
            if rows is None:
                break
            found = self.admit(rows, count - len(self._rows) + start)
            stale = 0.0 if len(found) > _POOR * len(rows) else stale + spent
        self.explore(count - len(self._rows) + start, random)
        return self._since(start)

    def explore(self, count: int, random: np.random.Generator) -> Choices:
        """New feasible architectures one or two choices away from known ones, each in one of its disguises.

        Fewer than ``count`` come back only when the neighbours of all known ones have been looked at.
        """
        start = len(self._rows)
        if count > 0 and not self._rows:
            self.admit(self._cheap(), count)
        while len(self._rows) - start < count and self._expanded < len(self._rows):
            around = self._around(self._space.disguise(self._rows[self._expanded][None], random)[0])
            around = around[self._feasible(around)]
            missing = count - len(self._rows) + start
            if len(self.admit(random.permutation(around), missing)) < missing:
                self._expanded += 1
        return self._since(start)

    def _around(self, row: NDArray[np.int8]) -> Choices:
        """What differs from a row in one choice, in two as well where that is not too many; validity is not asked."""
        counts = self._space.cardinalities
        near = single_changes(row, counts)
        return near if len(near) > _FEW else neighbours(row, counts)

    def _since(self, start: int) -> Choices:
        rows = self._rows[start:]
        return np.stack(rows) if rows else np.empty((0, len(self._space.cardinalities)), np.int8)

    def _feasible(self, choices: Choices) -> NDArray[np.bool_]:
        if not len(choices):
            return np.zeros(0, np.bool_)  # spaces need not know what an empty batch is
        fits = self._space.is_valid(choices)
        fits[fits] = within(self._space, choices[fits], self._limits)  # costs are asked of valid rows alone
        return fits

    def _cheap(self) -> Choices:
        """One feasible architecture, shape (1, choices): a cheapest one, or what descends from it."""
        names = list(self._limits) or ["macs"]
        cheapest: Choices = np.concatenate([self._space.cheapest(name).row() for name in names])
        row: NDArray[np.int8] = cheapest[int(self._excess(cheapest).argmin())]
        while self._excess(row[None])[0] > 0:
            around = self._around(row)
            around = around[self._space.is_valid(around)]
            better = around[int(self._excess(around).argmin())] if len(around) else row
            if self._excess(better[None])[0] >= self._excess(row[None])[0]:
                text = " and ".join(f"{name} {limit:,}" for name, limit in self._limits.items())
                raise InputError(f"limits {text}: no architecture of {self._space.name} found that keeps them together")
            row = better
        return row[None]

    def _excess(self, choices: Choices) -> NDArray[np.float64]:
        """How far over the limits, as a sum of fractions of them; 0 is feasible."""
        costs = self._space.costs(choices)
        total = np.zeros(len(choices), dtype=np.float64)
        for name, limit in self._limits.items():
            total += np.maximum(costs[name] - limit, 0) / max(limit, 1)
        return total
