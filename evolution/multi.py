"""Several objectives at once: NSGA-II and NSGA-III under hard limits, and every limit of a row from one search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evolution.archive import Archive
from evolution.pareto import nsga2_survivors, nsga3_survivors, reference_directions
from evolution.search import Breeding, Candidate, Score, SearchSettings, candidates, evolve, scored
from supernet.limits import Bound, Limits, bounds, limited_costs, within
from supernet.pareto import front
from supernet.settings import InputError, Settings
from supernet.space import Choices, SearchSpace

_CENTRAL = 99  # divisions of two objectives; more objectives have fewer, so that directions stay about as many


class FrontSettings(Settings):
    """How a front is searched.

    Attributes:
        variant: ``nsga2`` keeps points apart by crowding (Deb et al. 2002), the choice for two or three objectives;
            ``nsga3`` by reference directions (Deb and Jain 2014), for more.
        population: architectures alive, and scored in each generation.
        queries: distinct architectures to score in all.
        breeding: how parents are paired (by default the better of two by rank and crowding), and chances of crossover,
            mutation and swaps; its other settings play no part.
    """

    variant: Literal["nsga2", "nsga3"] = "nsga2"
    population: Annotated[int, Field(ge=2, le=100_000)] = 200
    queries: Annotated[int, Field(ge=2, le=10_000_000)] = 20_000
    breeding: SearchSettings = SearchSettings(variant="aging", tournament=2, crossover=0.9, mutations=0.5, swap=0.0)


@dataclass(frozen=True, slots=True)
class Front:
    """What dominates everything else that was scored.

    Attributes:
        choices: canonical rows, by the first objective, best first, (architectures, choices).
        values: of each objective, in its own direction, (architectures, objectives).
        objectives: their names.
        queries: architectures scored.
        exhausted: no further feasible architecture was found.
    """

    choices: Choices
    values: NDArray[np.float64]
    objectives: tuple[str, ...]
    queries: int
    exhausted: bool


def evolve_front(
    space: SearchSpace,
    maximised: Mapping[str, Score],
    minimised: Mapping[str, Score],
    limits: Limits,
    settings: FrontSettings,
    random: np.random.Generator,
    first: Choices | None = None,
) -> Front:
    """The trade-off between several objectives within the limits.

    Everything that was scored counts for the front, not only what is alive in the end. The same seed gives the same.

    Args:
        maximised: scores of which more is better, by name, such as a predicted accuracy.
        minimised: those of which less is better, such as costs (``lambda rows: space.costs(rows)["macs"]``).
        limits: what costs may be.
        first: what the first generation begins with.

    Raises:
        InputError: fewer than two objectives, one name twice, limits that nothing keeps, or a score that is not one
            finite number each.
    """
    names, signs, scores = objectives(maximised, minimised)
    archive = Archive(space, limits)
    breeding = Breeding(space, archive, settings.breeding)
    directions = reference_directions(len(names), _divisions(len(names), settings.population))
    rows = archive.begin(first, min(settings.population, settings.queries), random)
    alive, values = rows[:0], np.empty((0, len(names)))
    best, best_values = alive, values
    while len(rows):
        new = signs * np.stack([scored(space, score, rows) for score in scores], axis=1)
        alive, values = np.concatenate([alive, rows]), np.concatenate([values, new])
        kept = (
            nsga2_survivors(values, settings.population)
            if settings.variant == "nsga2"
            else nsga3_survivors(values, settings.population, directions, random)
        )
        alive, values = alive[kept], values[kept]
        best, best_values = np.concatenate([best, rows]), np.concatenate([best_values, new])
        ahead = front(best_values)
        best, best_values = best[ahead], best_values[ahead]
        missing = min(settings.population, settings.queries - len(archive))
        if missing <= 0:
            break
        rows = breeding.children(alive, -np.arange(len(alive), dtype=np.float64), missing, random)  # best first
    order = np.argsort(best_values[:, 0], kind="stable")
    return Front(best[order], signs * best_values[order], names, len(archive), len(archive) < settings.queries)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The best architecture for each of several limits on one cost.

    Attributes:
        limits: on that cost, ascending.
        winners: of each limit; None where nothing keeps it.
        front: of everything that was scored, what nothing cheaper is as good as, cheapest first.
        queries: distinct architectures scored, in all.
    """

    limits: tuple[int, ...]
    winners: tuple[Candidate | None, ...]
    front: tuple[Candidate, ...]
    queries: int


def sweep_limits(
    space: SearchSpace,
    score: Score,
    cost: str,
    values: Sequence[int],
    limits: Limits,
    settings: SearchSettings,
    random: np.random.Generator,
) -> Sweep:
    """Evolution under each of several limits, from the loosest to the tightest and back.

    Each begins with the best of what is known. Nothing is scored twice, and what one limit finds counts for all others
    that it keeps.

    Args:
        score: from canonical choices to one number each, higher is better.
        cost: what is limited, a name of :data:`supernet.limits.LIMITED`.
        values: largest allowed values.
        limits: others, that all of them keep; bounds on ``cost`` may be among them.
        settings: ``queries`` are shared out among the limits, and at most as many once more on the way back.

    Raises:
        InputError: no limits, or none that anything keeps; others as :func:`evolution.evolve`.
    """
    if not values:
        raise InputError("limits: expected at least one")
    known = _Known(space, score)
    each = settings.model_copy(update={"queries": max(settings.queries // len(values), 2 * settings.population)})
    others = bounds(limits)
    own = others.get(cost, Bound())
    order = sorted(set(values))
    error: InputError | None = None
    kept: dict[int, dict[str, Bound]] = {}
    for value in (*reversed(order), *order[1:]):  # once more on the way back, with what tighter ones have found
        if error is not None and value not in kept:
            continue
        now = {**others, cost: replace(own, most=min(own.most, float(value)))}
        asked = known.asked
        try:
            evolve(space, known, now, each, random, known.best(now, settings.population))
        except InputError as refused:
            if not kept or known.asked > asked:  # the score is what is wrong
                raise
            error = refused  # tighter ones are refused too
            continue
        kept[value] = now
    rows, scores = known.rows, known.scores
    winners: list[Candidate | None] = []
    for value in order:
        fits = within(space, rows, kept[value]) if value in kept else np.zeros(len(rows), np.bool_)
        winners.append(candidates(space, rows[fits], scores[fits], 1, kept[value])[0] if fits.any() else None)
    costs = limited_costs(space, rows, {cost: own})[cost]
    places = front(np.stack([costs.astype(np.float64), -scores], axis=1))
    best = [candidates(space, rows[[place]], scores[[place]], 1, {cost: own})[0] for place in places]
    return Sweep(tuple(order), tuple(winners), tuple(best), len(rows))


class _Known:
    """A score that remembers, by canonical row."""

    def __init__(self, space: SearchSpace, score: Score) -> None:
        self._space, self._score = space, score
        self._places: dict[bytes, int] = {}
        self.rows: Choices = np.empty((0, len(space.cardinalities)), np.int8)
        self.scores = np.empty(0)
        self.asked = 0  # times

    def __call__(self, choices: Choices) -> NDArray[np.float64]:
        self.asked += 1
        keys = [row.tobytes() for row in choices]
        new = [place for place, key in enumerate(keys) if key not in self._places]
        if new:
            values = scored(self._space, self._score, choices[new])
            self._places.update({keys[place]: len(self.rows) + number for number, place in enumerate(new)})
            self.rows = np.concatenate([self.rows, choices[new]])
            self.scores = np.concatenate([self.scores, values])
        return self.scores[[self._places[key] for key in keys]]

    def best(self, limits: Limits, count: int) -> Choices:
        """The best known rows within limits, best first."""
        fits = np.flatnonzero(within(self._space, self.rows, limits))
        return self.rows[fits[np.argsort(-self.scores[fits], kind="stable")[:count]]]


def objectives(
    maximised: Mapping[str, Score], minimised: Mapping[str, Score]
) -> tuple[tuple[str, ...], NDArray[np.float64], list[Score]]:
    """Names, signs that make less of each better, and scores. Raises InputError as :func:`evolve_front`."""
    names = (*maximised, *minimised)
    if len(names) < 2 or len(set(names)) != len(names):
        raise InputError(f"objectives: expected two or more with different names, got {', '.join(names) or 'none'}")
    signs = np.array([-1.0] * len(maximised) + [1.0] * len(minimised))
    return names, signs, [*maximised.values(), *minimised.values()]


def _divisions(objectives: int, population: int) -> int:
    """As many as give at most ``population`` directions, at least 1."""
    divisions, count = 0, 1
    while True:
        following = count * (divisions + objectives) // (divisions + 1)
        if (divisions and following > population) or divisions >= _CENTRAL:
            return divisions
        divisions, count = divisions + 1, following
