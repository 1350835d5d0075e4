"""The true optimum, where it can be had: by integer programming where everything adds up, otherwise by enumeration."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evolution.archive import Archive
from evolution.search import Candidate, Score, candidates, scored
from supernet.additive import Additive, fit_additive
from supernet.limits import Bound, Limits, bounds, limited_costs, told, within
from supernet.settings import InputError
from supernet.space import Choices, SearchSpace

_MOST_ROWS = 50_000_000  # rows of options that are looked at
_CHUNK = 65_536
_TRIES = 20
_ROUNDING = 1e-6
_ROUNDING = 1e-12  # of the size of a sum that is not whole
_INFEASIBLE = 2  # what scipy calls it


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best architecture that there is within the limits.

    Attributes:
        best: of equally good ones, one.
        method: how it is known to be the best.
        scored: architectures that the score was asked of.
    """

    best: Candidate
    method: Literal["integer programming", "enumeration"]
    scored: int


def optimum(space: SearchSpace, score: Score, limits: Limits, most: int = 2_000_000) -> Optimum | None:
    """The best architecture within the limits, with proof; None where neither way leads to one.

    Integer programming (Dantzig 1957; solved by HiGHS) needs a score and limited costs that add up over the choices of
    a space whose valid rows :meth:`SearchSpace.clauses` tells; whether they add up is found out by asking.
    Enumeration asks the score of every feasible network.

    Args:
        score: from canonical choices to one number each, higher is better.
        limits: what costs may be.
        most: networks that the score may be asked of.

    Raises:
        InputError: limits that nothing keeps, or a score that is not one finite number each.
    """
    archive = Archive(space, limits)  # checks the limits
    limits = archive.limits
    additive = solve_additive(space, score, limits)
    if additive is not None:
        return additive
    if math.prod(space.cardinalities) > _MOST_ROWS:
        return None
    feasible: list[Choices] = []
    count = 0
    for rows in every_row(space):
        found = archive.admit(rows, len(rows))
        count += len(found)
        feasible.append(found.copy())
        if count > most:
            return None
    if not count:
        raise InputError(f"limits {told(limits)}: no architecture of {space.name} keeps them")
    best: tuple[NDArray[np.int8], float] | None = None
    for rows in feasible:
        if len(rows):
            values = scored(space, score, rows)
            place = int(values.argmax())
            if best is None or values[place] > best[1]:
                best = (rows[place], float(values[place]))
    assert best is not None
    return Optimum(_candidate(space, best[0], best[1], limits), "enumeration", count)


def every_row(space: SearchSpace) -> Iterator[Choices]:
    """All rows of options, valid or not, in batches."""
    counts = space.cardinalities
    total = math.prod(counts)
    for start in range(0, total, _CHUNK):
        numbers = np.arange(start, min(start + _CHUNK, total))
        yield np.stack(np.unravel_index(numbers, counts), axis=1).astype(np.int8)


def solve_additive(space: SearchSpace, score: Score, limits: Limits) -> Optimum | None:
    """The optimum of a score that adds up over the choices, by integer programming; None where something does not.

    Raises:
        InputError: limits that nothing keeps.
    """
    clauses = space.clauses()
    if clauses is None or type(space).canonical is not SearchSpace.canonical:
        return None  # what a row means is not a matter of its choices alone
    asked = 0

    def counted(rows: Choices) -> NDArray[Any]:
        nonlocal asked
        asked += len(rows)
        return scored(space, score, rows)

    value = fit_additive(space, counted)
    if value is None:
        return None
    limited = bounds(limits)
    costs: dict[str, Additive] = {}
    for name, bound in limited.items():
        cost = fit_additive(space, lambda rows, one={name: bound}: next(iter(limited_costs(space, rows, one).values())))  # type: ignore[misc]
        if cost is None:
            return None
        costs[name] = cost
    row = _solve(space, value, costs, limited, clauses)
    if row is None:
        return None
    around = np.concatenate([row[None], space.neighbours(row)])
    expected = value.values(around)
    if np.abs(expected - counted(around)).max() > _ROUNDING * float(np.abs(expected).max()):
        return None  # what random networks did not show shows where the optimum would be
    return Optimum(_candidate(space, row, float(counted(row[None])[0]), limited), "integer programming", asked)


def _solve(
    space: SearchSpace,
    value: Additive,
    costs: dict[str, Additive],
    limits: dict[str, Bound],
    clauses: tuple[tuple[tuple[int, int], ...], ...],
) -> NDArray[np.int8] | None:
    """The best row within the limits; None where the solver does not find it. Raises InputError where there is none."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # takes longer to import than all else here

    counts = space.cardinalities
    starts = np.concatenate([[0], np.cumsum(counts)])
    one_each = np.zeros((len(counts), starts[-1]))
    for choice in range(len(counts)):
        one_each[choice, starts[choice] : starts[choice + 1]] = 1
    constraints = [LinearConstraint(one_each, 1, 1)]
    if clauses:
        held = np.zeros((len(clauses), starts[-1]))
        for place, clause in enumerate(clauses):
            for choice, option in clause:
                held[place, starts[choice] + option] = 1
        constraints.append(LinearConstraint(held, 1, np.inf))
    for name, cost in costs.items():
        constraints.append(LinearConstraint(*_constraint(cost, limits[name])))
    worth = np.concatenate(value.tables)
    for _ in range(_TRIES):
        found = milp(
            -worth / max(float(np.abs(worth).max()), 1e-300),  # the solver's tolerances are absolute
            constraints=constraints,
            integrality=np.ones(starts[-1]),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0.0},
        )
        if found.status == _INFEASIBLE:
            raise InputError(f"limits {told(limits)}: no architecture of {space.name} keeps them together")
        if found.x is None:
            return None
        row = np.array([found.x[starts[j] : starts[j + 1]].argmax() for j in range(len(counts))], np.int8)
        if within(space, row[None], limits)[0]:
            return row
        taken = starts[:-1] + row  # allowed by the solver's rounding alone: leave out this one
        cut = np.zeros((1, starts[-1]))
        cut[0, taken] = 1
        constraints.append(LinearConstraint(cut, -np.inf, len(counts) - 1))
    return None


def _constraint(cost: Additive, bound: Bound) -> tuple[NDArray[np.float64], float, float]:
    """Weights, (1, options), and both ends.

    Whole costs are in units of their common divisor, so that the solver's tolerance is far below one unit.
    """
    weights, low, high = np.concatenate(cost.tables), bound.least - cost.fixed, bound.most - cost.fixed
    whole = np.round(weights)
    counted = bound.measure is None  # what a space itself counts is whole
    if counted and np.abs(weights - whole).max() < 1e-3 and abs(cost.fixed - round(cost.fixed)) < 1e-3:
        unit = int(np.gcd.reduce(whole.astype(np.int64))) or 1
        fixed = round(cost.fixed)
        low = np.ceil((bound.least - fixed) / unit) if np.isfinite(bound.least) else -np.inf
        high = np.floor((bound.most - fixed) / unit) if np.isfinite(bound.most) else np.inf
        return (whole / unit)[None], float(low), float(high)
    scale = max(float(np.abs(weights).max()), 1e-300)
    size = abs(cost.fixed) + sum(float(np.abs(table).max()) for table in cost.tables)
    low, high = low - _ROUNDING * size, high + _ROUNDING * size  # what that lets in is looked at afterwards
    return (weights / scale)[None], low / scale, high / scale


def _candidate(space: SearchSpace, row: NDArray[np.int8], value: float, limits: Limits) -> Candidate:
    return candidates(space, row[None], np.array([value]), 1, limits)[0]
