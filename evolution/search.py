"""Evolution and random search over a space, against a score, under hard limits.

A score is any function from a batch of choices to one number each, higher is better; usually a
fitted predictor. Nothing that is invalid, outside a limit, or already scored is ever given to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evolution.archive import Archive
from supernet.limits import Bound, Limits, limited_costs
from supernet.moves import step, swap
from supernet.settings import InputError, Settings
from supernet.space import Architecture, Choices, SearchSpace, architectures

Score: TypeAlias = Callable[[Choices], NDArray[np.floating[Any]]]
"""From choices, shape (architectures, choices), to one finite number each, shape (architectures,)."""

_ATTEMPTS = 8
_MOST_CHILDREN = 16  # for each that is wanted, made at a time
_STALE = 4  # generations without a better one, after which the surroundings of the best are scored
_RANDOM_STEP = 100
_RANDOM_BATCH = 1000


class SearchSettings(Settings):
    """How evolution searches.

    Attributes:
        variant: which architectures the next generation is made from. ``truncation``: the best ``parents`` of all that
            was scored. ``aging``: of the latest ``population``, for each child the best of ``tournament`` of them (Real
            et al. 2019), however good what is older was.
        population: architectures scored in each generation, the first included.
        parents: how many the next generation is made from.
        tournament: see ``variant``.
        queries: distinct architectures to score in all.
        crossover: chance that a child mixes two parents; otherwise it copies one.
        mutations: expected number of choices of a child that are given another option.
        swap: chance that a child further lowers one choice and raises another.
        keep: best architectures in the result.
    """

    variant: Literal["truncation", "aging"] = "truncation"
    population: Annotated[int, Field(ge=1, le=100_000)] = 250
    parents: Annotated[int, Field(ge=1, le=100_000)] = 100
    tournament: Annotated[int, Field(ge=1, le=100_000)] = 5
    queries: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    crossover: Annotated[float, Field(ge=0, le=1)] = 0.5
    mutations: Annotated[float, Field(ge=0, le=100)] = 1.0
    swap: Annotated[float, Field(ge=0, le=1)] = 0.5
    keep: Annotated[int, Field(ge=1, le=100_000)] = 10


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scored architecture. ``score``: higher is better. ``costs``: exact, by name, lower is cheaper."""

    architecture: Architecture
    score: float
    costs: dict[str, int | float]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        best: distinct architectures, best first; equal scores in the order in which they were found.
        queries: architectures scored, all distinct, valid and within the limits.
        history: (queries so far, best score so far) after each generation.
        limits: what each cost may be.
        settings: those of evolution; None for random search.
        exhausted: the search ended because no further feasible architecture was found.
    """

    best: tuple[Candidate, ...]
    queries: int
    history: tuple[tuple[int, float], ...]
    limits: dict[str, Bound]
    settings: SearchSettings | None
    exhausted: bool


def evolve(
    space: SearchSpace,
    score: Score,
    limits: Limits,
    settings: SearchSettings,
    random: np.random.Generator,
    first: Choices | None = None,
) -> SearchResult:
    """(mu + lambda) evolution, whole generations at a time.

    Children come from uniform crossover, mutation and swaps (:mod:`supernet.moves`); those outside the limits are led
    back to them. A best that has not changed for some generations is looked around: what differs from it in one or two
    choices is scored, which is why the result is an optimum among its neighbours where ``queries`` allow that. The
    score is called once a generation. The same seed gives the same result.

    Args:
        limits: largest allowed value or :class:`supernet.Bound` for each cost named, such as
            ``{"macs": 15_000_000}``; may be empty.
        first: the first generation, best first, shape (architectures, choices); what it has that is not valid,
            outside a limit or twice is left out, and what it lacks is drawn at random. See :func:`warm_up`.

    Raises:
        InputError: a limit that no architecture keeps, or a score that is not one finite number
            for each architecture.
    """
    archive = Archive(space, limits)
    rows = archive.begin(first, min(settings.population, settings.queries), random)
    breeding = Breeding(space, archive, settings)
    survivors, scores = rows[:0], np.empty(0)
    pool, pool_scores = rows[:0], np.empty(0)
    history: list[tuple[int, float]] = []
    stale, looked_around = 0, b""
    while len(rows):
        new = scored(space, score, rows)
        before = scores[0] if len(scores) else -np.inf
        survivors, scores = _best(
            np.concatenate([survivors, rows]),
            np.concatenate([scores, new]),
            max(settings.parents, settings.keep),
        )
        if settings.variant == "aging":
            pool = np.concatenate([pool, rows])[-settings.population :]
            pool_scores = np.concatenate([pool_scores, new])[-settings.population :]
        else:
            pool, pool_scores = survivors[: settings.parents], scores[: settings.parents]
        history.append((len(archive), float(scores[0])))
        stale = 0 if scores[0] > before else stale + 1
        missing = min(settings.population, settings.queries - len(archive))
        if missing <= 0:
            break
        best = survivors[0].tobytes()
        rows = rows[:0]
        if stale >= _STALE and best != looked_around:
            around = archive.around(space.disguise(survivors[:1], random)[0])
            rows = archive.admit(random.permutation(around), missing)
            looked_around = best if len(rows) < missing else b""
        rows = np.concatenate([rows, breeding.children(pool, pool_scores, missing - len(rows), random)])
    return SearchResult(
        candidates(space, survivors, scores, settings.keep, archive.limits),
        len(archive),
        tuple(history),
        archive.limits,
        settings,
        len(archive) < settings.queries,
    )


def warm_up(
    space: SearchSpace, score: Score, limits: Limits, count: int, keep: int, random: np.random.Generator
) -> Choices:
    """Random feasible architectures, the best of them by any cheap score, best first, shape (at most keep, choices).

    Args:
        score: a proxy, or a part of the score that is searched with.
        count: architectures drawn and scored.

    Raises:
        InputError: as :func:`evolve`.
    """
    rows = Archive(space, limits).sample(count, random)
    return _best(rows, scored(space, score, rows), keep)[0]


def random_search(
    space: SearchSpace,
    score: Score,
    limits: Limits,
    queries: int,
    random: np.random.Generator,
    keep: int = 10,
) -> SearchResult:
    """Score distinct random feasible architectures: what evolution has to beat with as many queries.

    Uniform over the feasible ones, unless the limits are so tight that only random walks find them.

    Raises:
        InputError: as :func:`evolve`.
    """
    archive = Archive(space, limits)
    rows = archive.sample(queries, random)
    batches = [rows[start : start + _RANDOM_BATCH] for start in range(0, len(rows), _RANDOM_BATCH)]
    scores = np.concatenate([np.empty(0), *(scored(space, score, batch) for batch in batches)])
    ends = [*range(_RANDOM_STEP, len(rows), _RANDOM_STEP), len(rows)] if len(rows) else []
    best = np.maximum.accumulate(scores)
    return SearchResult(
        candidates(space, rows, scores, keep, archive.limits),
        len(rows),
        tuple((end, float(best[end - 1])) for end in ends),
        archive.limits,
        None,
        len(rows) < queries,
    )


def scored(space: SearchSpace, score: Score, rows: Choices) -> NDArray[np.float64]:
    """The score of rows, shape (rows,). Raises InputError where it is not one finite number each."""
    values = np.asarray(score(rows.copy()), dtype=np.float64)
    if values.shape != (len(rows),):
        raise InputError(f"score: expected one number for each of {len(rows)} architectures, got shape {values.shape}")
    if not np.isfinite(values).all():
        position = int(np.flatnonzero(~np.isfinite(values))[0])
        name = space.format(architectures(space, rows[position : position + 1])[0])
        raise InputError(f"score: architecture {name!r} got {values[position]}, expected a finite number")
    return values


def candidates(
    space: SearchSpace, rows: Choices, scores: NDArray[np.float64], keep: int, limits: Limits
) -> tuple[Candidate, ...]:
    """The best rows as values, best first, with what they cost; what is limited is among that."""
    rows, scores = _best(rows, scores, keep)
    costs: dict[str, NDArray[Any]] = {**space.costs(rows), **limited_costs(space, rows, limits)} if len(rows) else {}
    return tuple(
        Candidate(architecture, float(scores[place]), {name: values[place].item() for name, values in costs.items()})
        for place, architecture in enumerate(architectures(space, rows))
    )


def _best(rows: Choices, scores: NDArray[np.float64], count: int) -> tuple[Choices, NDArray[np.float64]]:
    order = np.argsort(-scores, kind="stable")[:count]
    return rows[order], scores[order]


class Breeding:
    """Makes generations, and learns how many children it takes for as many new feasible ones."""

    def __init__(self, space: SearchSpace, archive: Archive, settings: SearchSettings) -> None:
        self._space, self._archive, self._settings = space, archive, settings
        self._needed = 2.0

    def children(
        self, pool: Choices, scores: NDArray[np.float64], missing: int, random: np.random.Generator
    ) -> Choices:
        """New feasible children; neighbours of known architectures where the parents have none left."""
        found = [pool[:0]]
        for _ in range(_ATTEMPTS):
            if missing <= 0:
                break
            count = int(np.ceil(min(self._needed, _MOST_CHILDREN) * missing)) + 8
            children = self._proposed(pool, scores, count, random)
            found.append(self._archive.admit_or_mend(children, missing, random))
            share = len(found[-1]) / count
            if len(found[-1]) < missing:
                self._needed = min(1.2 / max(share, 1e-3), _MOST_CHILDREN)
            else:
                self._needed = max(0.95 * self._needed, 1.0)
            missing -= len(found[-1])
        found.append(self._archive.explore(missing, random))
        return np.concatenate(found)

    def _proposed(self, pool: Choices, scores: NDArray[np.float64], count: int, random: np.random.Generator) -> Choices:
        """Proposals, shape (count, choices); neither the limits nor, after a swap, validity are asked."""
        space, settings = self._space, self._settings
        if settings.variant == "aging":
            entered = random.integers(len(pool), size=(2, count, settings.tournament))
            winners = np.take_along_axis(entered, scores[entered].argmax(axis=2)[..., None], axis=2)[..., 0]
        else:
            winners = random.integers(len(pool), size=(2, count))
        mothers = pool[winners[0]]
        rows = mothers.copy()
        mixed = np.flatnonzero(random.random(count) < settings.crossover)
        rows[mixed] = space.crossover(rows[mixed], pool[winners[1][mixed]], random)
        rows = space.mutate(rows, random, settings.mutations)
        swapped = np.flatnonzero(random.random(count) < settings.swap)
        rows[swapped] = swap(rows[swapped], space.cardinalities, random)
        same = np.flatnonzero((rows == mothers).all(axis=1))  # known already: a change is what they lack
        rows[same] = step(rows[same], space.cardinalities, random)
        return rows
