"""Evolution and random search over a space, against a score, under hard limits.

A score is any function from a batch of choices to one number each, higher is better; usually a
fitted predictor. Nothing that is invalid, over a limit, or already scored is ever given to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evolution.archive import Archive
from supernet.moves import swap
from supernet.settings import InputError, Settings
from supernet.space import Architecture, Choices, SearchSpace, architectures

Score: TypeAlias = Callable[[Choices], NDArray[np.floating[Any]]]
"""From choices, shape (architectures, choices), to one finite number each, shape (architectures,)."""

_ATTEMPTS = 8
_RANDOM_STEP = 100
_RANDOM_BATCH = 1000


class SearchSettings(Settings):
    """How evolution searches.

    Attributes:
        population: architectures scored in each generation, the first included.
        parents: the best architectures so far, from which the next generation is made.
        queries: distinct architectures to score in all.
        crossover: chance that a child mixes two parents; otherwise it copies one.
        mutations: expected number of choices of a child that are given another option.
        swap: chance that a child further lowers one choice and raises another.
        keep: best architectures in the result.
    """

    population: Annotated[int, Field(ge=1, le=100_000)] = 100
    parents: Annotated[int, Field(ge=1, le=100_000)] = 50
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
    costs: dict[str, int]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        best: distinct architectures, best first; equal scores in the order in which they were found.
        queries: architectures scored, all distinct, valid and within the limits.
        history: (queries so far, best score so far) after each generation.
        limits: the largest allowed value of each cost named.
        settings: those of evolution; None for random search.
        exhausted: the search ended because no further feasible architecture was found.
    """

    best: tuple[Candidate, ...]
    queries: int
    history: tuple[tuple[int, float], ...]
    limits: dict[str, int]
    settings: SearchSettings | None
    exhausted: bool


def evolve(
    space: SearchSpace,
    score: Score,
    limits: dict[str, int],
    settings: SearchSettings,
    random: np.random.Generator,
    first: Choices | None = None,
) -> SearchResult:
    """(mu + lambda) evolution: the best ``parents`` of all that was scored make the next generation.

    Children come from uniform crossover, mutation and swaps (:mod:`supernet.moves`). The score is
    called once a generation. The same seed gives the same result.

    Args:
        limits: largest allowed value for each cost named, such as ``{"macs": 15_000_000}``; may be empty.
        first: the first generation, best first, shape (architectures, choices); what it has that is not valid, over
            a limit or twice is left out, and what it lacks is drawn at random.

    Raises:
        InputError: a limit that no architecture keeps, or a score that is not one finite number
            for each architecture.
    """
    archive = Archive(space, limits)
    rows = archive.begin(first, min(settings.population, settings.queries), random)
    survivors, scores = rows[:0], np.empty(0)
    history: list[tuple[int, float]] = []
    while len(rows):
        survivors = np.concatenate([survivors, rows])
        scores = np.concatenate([scores, _scored(space, score, rows)])
        order = np.argsort(-scores, kind="stable")[: max(settings.parents, settings.keep)]
        survivors, scores = survivors[order], scores[order]
        history.append((len(archive), float(scores[0])))
        missing = min(settings.population, settings.queries - len(archive))
        rows = _next_generation(archive, survivors[: settings.parents], space, missing, settings, random)
    return SearchResult(
        _candidates(space, survivors, scores, settings.keep),
        len(archive),
        tuple(history),
        dict(limits),
        settings,
        len(archive) < settings.queries,
    )


def random_search(
    space: SearchSpace,
    score: Score,
    limits: dict[str, int],
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
    scores = np.concatenate([np.empty(0), *(_scored(space, score, batch) for batch in batches)])
    ends = [*range(_RANDOM_STEP, len(rows), _RANDOM_STEP), len(rows)] if len(rows) else []
    best = np.maximum.accumulate(scores)
    return SearchResult(
        _candidates(space, rows, scores, keep),
        len(rows),
        tuple((end, float(best[end - 1])) for end in ends),
        dict(limits),
        None,
        len(rows) < queries,
    )


def _next_generation(
    archive: Archive,
    parents: Choices,
    space: SearchSpace,
    count: int,
    settings: SearchSettings,
    random: np.random.Generator,
) -> Choices:
    """New feasible children; neighbours of known architectures where the parents have none left."""
    found = [parents[:0]]
    missing = count
    for _ in range(_ATTEMPTS):
        if missing <= 0:
            break
        children = _children(parents, 4 * count, space, settings, random)
        found.append(archive.admit(children, missing))
        missing -= len(found[-1])
    found.append(archive.explore(missing, random))
    return np.concatenate(found)


def _children(
    parents: Choices,
    count: int,
    space: SearchSpace,
    settings: SearchSettings,
    random: np.random.Generator,
) -> Choices:
    """Proposals, shape (count, choices); neither the limits nor, after a swap, validity are asked."""
    mothers, fathers = parents[random.integers(len(parents), size=(2, count))]
    mixed = random.random((count, 1)) < settings.crossover
    rows = np.where(mixed, space.crossover(mothers, fathers, random), mothers)
    rows = space.mutate(rows, random, settings.mutations)
    swapped = random.random((count, 1)) < settings.swap
    return np.where(swapped, swap(rows, space.cardinalities, random), rows)


def _scored(space: SearchSpace, score: Score, rows: Choices) -> NDArray[np.float64]:
    values = np.asarray(score(rows.copy()), dtype=np.float64)
    if values.shape != (len(rows),):
        raise InputError(f"score: expected one number for each of {len(rows)} architectures, got shape {values.shape}")
    if not np.isfinite(values).all():
        position = int(np.flatnonzero(~np.isfinite(values))[0])
        name = space.format(architectures(space, rows[position : position + 1])[0])
        raise InputError(f"score: architecture {name!r} got {values[position]}, expected a finite number")
    return values


def _candidates(space: SearchSpace, rows: Choices, scores: NDArray[np.float64], keep: int) -> tuple[Candidate, ...]:
    order = np.argsort(-scores, kind="stable")[:keep]
    costs = space.costs(rows[order])
    return tuple(
        Candidate(architecture, float(scores[position]), {name: int(values[rank]) for name, values in costs.items()})
        for rank, (position, architecture) in enumerate(zip(order, architectures(space, rows[order]), strict=True))
    )
