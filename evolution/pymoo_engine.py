"""The front by pymoo's NSGA-II or NSGA-III (Blank and Deb 2020), for those who want its algorithms. Needs pymoo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from evolution.archive import Archive
from evolution.multi import Front, FrontSettings, objectives
from evolution.search import Score, scored
from supernet.limits import Limits, excess
from supernet.pareto import front
from supernet.settings import UnavailableError
from supernet.space import SearchSpace


def pymoo_front(
    space: SearchSpace,
    maximised: Mapping[str, Score],
    minimised: Mapping[str, Score],
    limits: Limits,
    settings: FrontSettings,
    random: np.random.Generator,
) -> Front:
    """As :func:`evolution.evolve_front`, with pymoo's survival and our crossover, mutation and sampling.

    Limits are constraints here: what lies outside is counted as a query, but no score is asked of it. Networks that
    are the same are scored once.

    Raises:
        UnavailableError: pymoo is not installed.
        InputError: as :func:`evolution.evolve_front`.
    """
    try:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.algorithms.moo.nsga3 import NSGA3
        from pymoo.core.crossover import Crossover
        from pymoo.core.mutation import Mutation
        from pymoo.core.problem import Problem
        from pymoo.optimize import minimize
        from pymoo.util.ref_dirs import get_reference_directions
    except ImportError as error:
        raise UnavailableError("search --engine pymoo: pymoo is not installed; pip install genas[pymoo]") from error

    names, signs, scores = objectives(maximised, minimised)
    archive = Archive(space, limits)
    known: dict[bytes, Any] = {}

    class Space(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            last = np.array(space.cardinalities) - 1
            super().__init__(n_var=len(last), n_obj=len(names), n_ieq_constr=1, xl=0, xu=last, vtype=int)

        def _evaluate(self, x: Any, out: dict[str, Any], *args: object, **kwargs: object) -> None:  # noqa: ANN401, ARG002
            rows = space.canonical(x.astype(np.int8))
            outside = excess(space, rows, archive.limits)
            keys = [row.tobytes() for row in rows]
            new = list(
                {key: place for place, key in enumerate(keys) if key not in known and outside[place] <= 0}.values()
            )
            if new:
                values = signs * np.stack([scored(space, score, rows[new]) for score in scores], axis=1)
                known.update({keys[place]: value for place, value in zip(new, values, strict=True)})
            worst = np.full(len(names), 1e30)
            out["F"] = np.stack([known.get(key, worst) for key in keys])
            out["G"] = outside[:, None]

    class Mix(Crossover):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(2, 2, prob=settings.breeding.crossover)

        def _do(self, problem: object, parents: Any, *args: object, **kwargs: object) -> Any:  # noqa: ANN401, ARG002
            first, second = parents.astype(np.int8)
            return np.stack([space.crossover(first, second, random), space.crossover(second, first, random)])

    class Change(Mutation):  # type: ignore[misc]
        def _do(self, problem: object, x: Any, *args: object, **kwargs: object) -> Any:  # noqa: ANN401, ARG002
            return space.mutate(x.astype(np.int8), random, settings.breeding.mutations)

    common = {
        "pop_size": settings.population,
        "sampling": archive.sample(settings.population, random).astype(int),
        "crossover": Mix(),
        "mutation": Change(),
        "eliminate_duplicates": True,
    }
    if settings.variant == "nsga3":
        directions = get_reference_directions("energy", len(names), settings.population, seed=1)
        algorithm = NSGA3(directions, **common)
    else:
        algorithm = NSGA2(**common)
    seed = int(random.integers(2**31))
    result = minimize(Space(), algorithm, ("n_eval", settings.queries), seed=seed, verbose=False)
    rows = np.stack([np.frombuffer(key, np.int8) for key in known])
    values = np.stack(list(known.values()))
    best = front(values)
    return Front(rows[best], signs * values[best], names, int(result.algorithm.evaluator.n_eval), False)
