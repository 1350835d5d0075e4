"""Strategies for scores that cost a training each: a budget of some tens, and no architecture is paid for twice.

Each takes a space, a score, a budget and where to begin, and tells what it paid for. Rows that mean the same network
(:meth:`SearchSpace.canonical`) are one architecture: the score is asked of the canonical row, once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evolution.archive import Archive
from evolution.exact import every_row
from evolution.gaussian import normal_ranks, posterior, squared_distances
from evolution.search import Score, SearchSettings, evolve
from supernet.limits import Limits, within
from supernet.settings import InputError
from supernet.space import Choices, SearchSpace

Features: TypeAlias = Callable[[Choices], NDArray[np.float64]]
"""From canonical choices to numbers that may tell about the score, (architectures, numbers); none may be NaN."""

_ATTEMPTS = 100
_ENUMERATED = 20_000
"""A space of no more rows is looked at as a whole."""
_CANDIDATES = 5000


@dataclass(frozen=True, slots=True)
class Trace:
    """What a strategy paid for, in order.

    Attributes:
        choices: canonical rows, all distinct, shape (paid, choices).
        scores: shape (paid,), higher is better.
    """

    choices: Choices
    scores: NDArray[np.float64]

    @property
    def best(self) -> NDArray[np.int8]:
        """The row with the highest score, the first of equal ones, shape (choices,)."""
        row: NDArray[np.int8] = self.choices[int(self.scores.argmax())]
        return row


class Strategy(Protocol):
    """A way to spend a budget."""

    def __call__(
        self,
        space: SearchSpace,
        score: Score,
        budget: int,
        random: np.random.Generator,
        *,
        first: Choices | None = None,
        limits: Limits | None = None,
    ) -> Trace:
        """Pay for ``budget`` architectures, fewer only where there are no more; the same seed gives the same.

        Args:
            score: from canonical choices to one finite number each, higher is better.
            first: what to pay for first, best first, such as the best of many by a cheap score.
            limits: what costs may be, see :mod:`supernet.limits`.

        Raises:
            InputError: a budget below 1, a limit that no architecture keeps, or a score that is not one finite number
                each.
        """


class _Payments:
    """What was paid for so far, through the one gate that lets nothing pass twice."""

    def __init__(self, space: SearchSpace, score: Score, budget: int, limits: Limits | None) -> None:
        if budget < 1:
            raise InputError(f"budget: expected at least 1 architecture to pay for, got {budget}")
        self.archive = Archive(space, limits or {})
        self._score = score
        self.rows: Choices = np.empty((0, len(space.cardinalities)), np.int8)
        self.scores = np.empty(0)

    def pay(self, rows: Choices) -> NDArray[np.float64]:
        """Scores of rows that the archive has let pass, shape (rows,)."""
        scores = np.asarray(self._score(rows.copy()), np.float64)
        if scores.shape != (len(rows),) or not np.isfinite(scores).all():
            raise InputError(f"score: expected {len(rows)} finite numbers, got shape {scores.shape}, {scores!r:.80}")
        self.rows = np.concatenate([self.rows, rows])
        self.scores = np.concatenate([self.scores, scores])
        return scores

    def trace(self) -> Trace:
        return Trace(self.rows, self.scores)


def _at_least_one(**arguments: int) -> None:
    """Raises InputError for an argument below 1."""
    for name, value in arguments.items():
        if value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}")


def random_strategy(
    space: SearchSpace,
    score: Score,
    budget: int,
    random: np.random.Generator,
    *,
    first: Choices | None = None,
    limits: Limits | None = None,
) -> Trace:
    """Whatever ``first`` has, then random architectures. See :class:`Strategy`."""
    payments = _Payments(space, score, budget, limits)
    payments.pay(payments.archive.begin(first, budget, random))
    return payments.trace()


def evolution_strategy(
    space: SearchSpace,
    score: Score,
    budget: int,
    random: np.random.Generator,
    *,
    first: Choices | None = None,
    limits: Limits | None = None,
    population: int = 10,
    parents: int = 5,
) -> Trace:
    """(mu + lambda) evolution as :func:`evolution.evolve` does it, in small generations. See :class:`Strategy`."""
    _at_least_one(population=population, parents=parents)
    payments = _Payments(space, score, budget, None)
    settings = SearchSettings(population=population, parents=parents, queries=budget, keep=1)
    evolve(space, payments.pay, limits or {}, settings, random, first)
    return payments.trace()


def aging_strategy(
    space: SearchSpace,
    score: Score,
    budget: int,
    random: np.random.Generator,
    *,
    first: Choices | None = None,
    limits: Limits | None = None,
    population: int = 10,
    sample: int = 3,
) -> Trace:
    """Regularized evolution (Real et al. 2019): the best of a few is changed in one choice, the oldest dies.

    See :class:`Strategy`. A child that was paid for before is drawn again.

    Args:
        population: architectures alive.
        sample: how many of them, at random, the parent is the best of.
    """
    _at_least_one(population=population, sample=sample)
    payments = _Payments(space, score, budget, limits)
    payments.pay(payments.archive.begin(first, min(population, budget), random))
    alive = deque(zip(payments.rows, payments.scores, strict=True), maxlen=population)
    while alive and len(payments.archive) < budget:
        child = payments.rows[:0]
        for _ in range(_ATTEMPTS):
            picked = [alive[place] for place in random.permutation(len(alive))[:sample]]
            parent = max(picked, key=lambda one: one[1])[0]
            around = space.neighbours(space.disguise(parent[None], random)[0])
            if len(around):
                child = payments.archive.admit(around[random.integers(len(around))][None], 1)
            if len(child):
                break
        else:
            child = payments.archive.explore(1, random)
            if not len(child):
                break
        alive.append((child[0], payments.pay(child)[0]))  # the deque lets the oldest go
    return payments.trace()


def model_strategy(
    space: SearchSpace,
    score: Score,
    budget: int,
    random: np.random.Generator,
    *,
    first: Choices | None = None,
    limits: Limits | None = None,
    features: Features | None = None,
    candidates: Choices | None = None,
    start: int | None = None,
    batch: int = 5,
    bonus: float = 0.5,
) -> Trace:
    """A Gaussian process of the scores so far picks what to pay for: highest mean plus a part of the deviation.

    It sees the choices, one column for each option, and as a second group MACs, parameters and ``features`` by their
    ranks; scores by their ranks too, so that only their order counts. See :class:`Strategy`.

    Args:
        features: asked once for each candidate.
        candidates: what to choose from; where left out, all of a small space, otherwise 5,000 random ones. What
            differs from the best so far in one choice joins them.
        start: how many are paid for before there is a model; 10 of ``first``, where it is given, otherwise 20.
        batch: how many are paid for between two models.
        bonus: how many standard deviations are added to the mean.
    """
    _at_least_one(batch=batch, **({} if start is None else {"start": start}))
    payments = _Payments(space, score, budget, limits)
    begun = start if start is not None else 20 if first is None else 10
    payments.pay(payments.archive.begin(first, min(begun, budget), random))
    pool = _Pool(space, limits or {}, features, payments.rows, candidates, random)
    while len(payments.archive) < budget:
        around = space.neighbours(payments.rows[int(payments.scores.argmax())])
        pool.add(np.concatenate([payments.rows, around]))
        order = pool.ranked(payments.rows, payments.scores, bonus)
        rows = payments.archive.admit(pool.rows[order], min(batch, budget - len(payments.archive)))
        if not len(rows):
            rows = payments.archive.explore(budget - len(payments.archive), random)
        if not len(rows):
            break
        payments.pay(rows)
    return payments.trace()


class _Pool:
    """Candidates, what the model knows of them, and their distances to what was paid for."""

    def __init__(
        self,
        space: SearchSpace,
        limits: Limits,
        features: Features | None,
        paid: Choices,
        candidates: Choices | None,
        random: np.random.Generator,
    ) -> None:
        self._space, self._limits, self._features = space, limits, features
        self.rows: Choices = paid[:0]
        self._places: dict[bytes, int] = {}
        self._options = np.empty((0, sum(space.cardinalities)))
        self._numbers: NDArray[np.float64] | None = None
        self._reference: NDArray[np.float64] | None = None
        self._near = np.empty((2, 0, 0))
        if candidates is None:
            few = math.prod(space.cardinalities) <= _ENUMERATED
            candidates = (
                np.concatenate(list(every_row(space))) if few else Archive(space, limits).sample(_CANDIDATES, random)
            )
        self.add(np.concatenate([paid, candidates]))

    def add(self, rows: Choices) -> None:
        """Let new valid rows within the limits join, as canonical ones."""
        space = self._space
        rows = space.canonical(rows[space.is_valid(rows)])
        new = []
        for row in rows[within(space, rows, self._limits)]:
            key = row.tobytes()
            if key not in self._places:
                self._places[key] = len(self._places)
                new.append(row)
        if not new:
            return
        added = np.stack(new)
        costs = space.costs(added)
        numbers = [costs["macs"], costs["params"]]
        if self._features is not None:
            told = np.asarray(self._features(added.copy()), np.float64)
            if told.ndim != 2 or len(told) != len(added) or np.isnan(told).any():
                raise InputError(f"features: expected numbers for {len(added)} architectures, got shape {told.shape}")
            numbers += list(told.T)
        raw = np.stack(numbers, axis=1).astype(np.float64)
        if self._reference is None:
            self._reference, self._numbers = raw, np.empty((0, raw.shape[1]))
        assert self._numbers is not None
        self.rows = np.concatenate([self.rows, added])
        self._options = np.concatenate([self._options, _one_hot(added, space.cardinalities)])
        self._numbers = np.concatenate([self._numbers, normal_ranks(raw, self._reference)])
        self._near = np.empty((2, 0, 0))  # measured anew

    def ranked(self, paid: Choices, scores: NDArray[np.float64], bonus: float) -> NDArray[np.intp]:
        """Places of all candidates, the most promising first."""
        assert self._numbers is not None
        places = [self._places[row.tobytes()] for row in paid]
        groups = (self._options, self._numbers)
        known = self._near.shape[2]
        others = [group[places[known:]] for group in groups]
        far = squared_distances(groups, others)
        self._near = far if known == 0 else np.concatenate([self._near, far], axis=2)
        mean, deviation = posterior(
            self._near[:, places], self._near, normal_ranks(scores[:, None], scores[:, None])[:, 0]
        )
        return np.argsort(-(mean + bonus * deviation), kind="stable")


def _one_hot(rows: Choices, cardinalities: tuple[int, ...]) -> NDArray[np.float64]:
    """One column for each option of each choice, to variance 1 where options are equally frequent."""
    columns = []
    for column, count in zip(rows.T, cardinalities, strict=True):
        share = 1 / max(count, 2)
        columns.append((column[:, None] == np.arange(count)) / np.sqrt(share * (1 - share)))
    return np.concatenate(columns, axis=1)


STRATEGIES: dict[str, Strategy] = {
    "random": random_strategy,
    "evolution": evolution_strategy,
    "aging": aging_strategy,
    "model": model_strategy,
}
"""The strategies by name."""
