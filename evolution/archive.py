"""The one gate to scoring: what passes is valid, keeps every limit, and was never given out before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evolution.moves import neighbours, redraw
from supernet.settings import InputError
from supernet.space import Choices, SearchSpace, check_limits, within

_BATCH = 2048
_POOR = 0.005  # below this share of new feasible architectures a way of drawing is given up


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
        """The first ``count`` rows that are valid, feasible and new, shape (found, choices)."""
        start = len(self._rows)
        for row in choices[self._feasible(choices)]:
            if len(self._rows) - start >= count:
                break
            key = row.tobytes()
            if key not in self._seen:
                self._seen.add(key)
                self._rows.append(row)
        return self._since(start)

    def sample(self, count: int, random: np.random.Generator) -> Choices:
        """New feasible architectures at random, fewer than ``count`` only when no more were found.

        Uniform draws of the space as long as enough of them are feasible; then random walks inside the
        limits; then the neighbours of everything known, which ends when there are none left.
        """
        start = len(self._rows)
        admitted = _BATCH
        while len(self._rows) - start < count and admitted > _POOR * _BATCH:
            admitted = len(self.admit(self._space.sample(_BATCH, random), count - len(self._rows) + start))
        walkers = min(count, _BATCH)
        if len(self._rows) - start < count:
            known = self._since(0) if self._rows else self._cheap()
            rows = known[random.integers(len(known), size=walkers)]
            admitted = walkers
            while len(self._rows) - start < count and admitted > _POOR * walkers:
                rows = self._walk(rows, random)
                admitted = len(self.admit(rows, count - len(self._rows) + start))
        self.explore(count - len(self._rows) + start, random)
        return self._since(start)

    def explore(self, count: int, random: np.random.Generator) -> Choices:
        """New feasible architectures one or two choices away from known ones.

        Fewer than ``count`` come back only when no known architecture has an unseen neighbour.
        """
        start = len(self._rows)
        if count > 0 and not self._rows:
            self.admit(self._cheap(), count)
        while len(self._rows) - start < count and self._expanded < len(self._rows):
            around = neighbours(self._rows[self._expanded], self._space.cardinalities)
            around = around[self._feasible(around)]
            missing = count - len(self._rows) + start
            if len(self.admit(random.permutation(around), missing)) < missing:
                self._expanded += 1
        return self._since(start)

    def _since(self, start: int) -> Choices:
        rows = self._rows[start:]
        return np.stack(rows) if rows else np.empty((0, len(self._space.cardinalities)), np.int8)

    def _feasible(self, choices: Choices) -> NDArray[np.bool_]:
        if not len(choices):
            return np.zeros(0, np.bool_)  # spaces need not know what an empty batch is
        fits = self._space.is_valid(choices)
        fits[fits] = within(self._space, choices[fits], self._limits)  # costs are asked of valid rows alone
        return fits

    def _walk(self, rows: Choices, random: np.random.Generator) -> Choices:
        """Random walks that never leave the limits. The step is symmetric, so they tend to a uniform draw."""
        length = rows.shape[1]
        for _ in range(2 * length):
            where = np.zeros(rows.shape, dtype=np.bool_)
            for positions in random.integers(length, size=(2, len(rows))):  # the same one twice: a single change
                where[np.arange(len(rows)), positions] = True
            moved = redraw(rows, where, self._space.cardinalities, random)
            rows = np.where(self._feasible(moved)[:, None], moved, rows).astype(np.int8)
        return rows

    def _cheap(self) -> Choices:
        """One feasible architecture, shape (1, choices): a cheapest one, or what descends from it."""
        names = list(self._limits) or ["macs"]
        cheapest: Choices = np.concatenate([self._space.cheapest(name).row() for name in names])
        row: NDArray[np.int8] = cheapest[int(self._excess(cheapest).argmin())]
        while self._excess(row[None])[0] > 0:
            around = neighbours(row, self._space.cardinalities)
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
