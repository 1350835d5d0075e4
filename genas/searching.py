"""The third stage: evolution under the hard limits against the fitted predictor, and how near to the optimum it is."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_gen import run_lock
from evolution import (
    Candidate,
    FrontSettings,
    Score,
    SearchResult,
    evolve,
    evolve_front,
    hypervolume,
    optimum,
    random_search,
    sweep_limits,
)
from evolution.search import candidates
from genas.config import Run, SearchStageSettings
from genas.limits import limits_json, sweep
from genas.stages import digest, resolve_space, single_thread
from predictor import Predictor
from predictor.acquisition import acquire, thompson
from supernet import ArchGraph, Architecture, Bound, Choices, InputError, UnionSpace, architectures
from supernet.additive import additive_ridge
from supernet.files import read_json, write_json
from supernet.graph import graph_to_json
from supernet.latency import latency_digest
from supernet.limits import LIMITED, cost_of, told, within
from supernet.sampling import up_to
from supernet.settings import nearest
from supernet.space import graphs as graphs_of
from supernet.spaces import AnySpace

LEVEL = 0.8
"""Probability of the winner's interval."""

FAR = 2.0
"""A candidate that is so many times as far from the labelled networks as those are from each other is flagged."""

_FORMAT = 3
"""Of search.json; another number makes search run again."""

_LOWER_IS_BETTER = {"loss", "seconds", "latency", "memory", "error", "ms", "energy"}
"""Words in the names of metrics of which less is better."""

_SURROGATE_ROWS = 4000  # feasible networks that an additive stand-in for a predictor is fitted to


@dataclass(frozen=True)
class Searcher:
    """A run's predictor as a score of its space.

    Attributes:
        score: from canonical choices to what is maximised, in normal scores.
        made_from: tells whether anything that a result was made from has changed.
    """

    run: Run
    predictor: Predictor
    score: Score
    made_from: str

    @property
    def space(self) -> AnySpace:
        return self.run.settings.space

    def predicted(self, choices: Choices) -> NDArray[np.float64]:
        """The metric expected of rows, (architectures,)."""
        return self.predictor.predict(graphs_of(self.space, choices))


def open_search(run: Run) -> Searcher:
    """The predictor of a run as a score, see ``search.acquisition``.

    Raises:
        InputError: no predictor yet, or one that no search can use.
    """
    run = resolve_space(run)
    settings, space = run.settings, run.settings.space
    evaluation = read_json(run.folder / "predictor" / "evaluation.json")
    if evaluation is None:
        raise InputError(f"search: run {run.name!r} has no predictor; run `genas fit {run.name}` first")
    described = (
        settings.search.model_dump(exclude={"keep"}),  # which only cuts what is told
        limits_json(settings.bounds),
        latency_digest(settings.latency),
        settings.seed,
        space.model_dump(mode="json"),
        *([list(space.members)] if isinstance(space, UnionSpace) else []),  # whose order a digest does not see
    )
    made_from = digest(_FORMAT, evaluation["made_from"], *described)
    predictor = Predictor.load(run.folder / "predictor")
    if lower_is_better(predictor.metric):
        raise InputError(f"search: fit.metric is {predictor.metric!r}, of which less is better; expected accuracy")
    if predictor.features:
        raise InputError(
            f"search: the predictor needs the features {', '.join(predictor.features)}, which cost about a "
            f"second of each of thousands of candidates; fit without fit.features"
        )
    asked = _asked(predictor, settings.search, settings.seed)

    def score(choices: Choices) -> NDArray[np.float64]:
        return asked(graphs_of(space, choices))

    return Searcher(run, predictor, score, made_from)


def _asked(
    predictor: Predictor, search: SearchStageSettings, seed: int
) -> Callable[[Sequence[ArchGraph]], NDArray[np.float64]]:
    """What is maximised, of graphs."""
    rule, best = search.acquisition, float(predictor.label_scores.scores[-1])
    if rule == "thompson":
        return thompson(predictor, np.random.default_rng([seed, 4])).score
    return lambda graphs: acquire(predictor.score(graphs, deviations=rule != "mean"), rule, best, search.caution)


def lower_is_better(metric: str) -> bool:
    """Whether a metric's name says that less of it is better."""
    return bool(_LOWER_IS_BETTER & set(metric.lower().split("_")))


def search(run: Run) -> dict[str, Any]:
    """Evolution under the hard limits against the fitted predictor, and random search with as many queries.

    Returns:
        The content of ``winner/search.json``, ``trust`` among it: the interval of the winner's label, were it drawn as
        the labelled ones were, and its distance from the nearest of those (1: as far as they are from each other).
        The winner is written to ``winner/architecture.json``.

    Raises:
        InputError: no predictor yet, or limits that no architecture keeps.
    """
    searcher = open_search(run)
    known = _known(searcher)
    if known is not None:
        return known
    with run_lock(searcher.run.folder / "winner"), single_thread():
        return _search(searcher)


def _known(searcher: Searcher) -> dict[str, Any] | None:
    folder = searcher.run.folder / "winner"
    known = read_json(folder / "search.json")
    if (
        known is None
        or known.get("taken")
        or known["made_from"] != searcher.made_from
        or not (folder / "architecture.json").is_file()
    ):
        return None
    told = len(known["evolution"]["best"])
    enough = told >= min(searcher.run.settings.search.keep, known["evolution"]["queries"])
    return known if enough else None


def _search(searcher: Searcher) -> dict[str, Any]:
    run, predictor = searcher.run, searcher.predictor
    settings, space = run.settings, searcher.space
    limits = settings.bounds
    started = time.perf_counter()
    found = evolve(space, searcher.score, limits, settings.search, np.random.default_rng([settings.seed, 1]))
    evolution_seconds = time.perf_counter() - started
    drawn = random_search(
        space, searcher.score, limits, found.queries, np.random.default_rng([settings.seed, 2]), settings.search.keep
    )
    seconds = time.perf_counter() - started
    evolved = _search_json(searcher, found)
    content = {
        "made_from": searcher.made_from,
        "metric": predictor.metric,
        "acquisition": settings.search.acquisition,
        "limits": limits_json(limits),
        "evolution": evolved,
        "random": _search_json(searcher, drawn),
        "evolution_seconds": evolution_seconds,
        "seconds": seconds,
    }
    write_winner(searcher, found.best[0].architecture, evolved["best"][0], content)
    return content


def take(run: Run, text: str) -> dict[str, Any]:
    """Make an architecture of the space the winner, such as a point of a front; the search itself stays as it is.

    Returns:
        As :func:`search`, with ``taken``, the architecture's key. Another search makes its own winner again.

    Raises:
        InputError: as :func:`search`, a text that is no architecture, or one beyond the limits.
    """
    searcher = open_search(run)
    space, limits, folder = searcher.space, searcher.run.settings.bounds, searcher.run.folder / "winner"
    row = space.canonical(space.read(text).row())
    if not within(space, row, limits)[0]:
        raise InputError(f"search --take {text!r:.80}: it does not keep the limits, {told(limits)}")
    with run_lock(folder), single_thread():
        known = read_json(folder / "search.json")
        if known is None or known["made_from"] != searcher.made_from or not (folder / "architecture.json").is_file():
            known = _search(searcher)
        architecture = architectures(space, row)[0]
        if known["winner"]["key"] == architecture.key:
            return known
        entry = _candidates_json(searcher, candidates(space, row, np.asarray(searcher.score(row)), 1, limits))[0]
        content = {key: value for key, value in known.items() if key != "top"} | {"taken": entry["key"]}
        write_winner(searcher, architecture, entry, content)
    return content


def write_winner(searcher: Searcher, winner: Architecture, entry: Mapping[str, Any], content: dict[str, Any]) -> None:
    """Write ``winner/architecture.json`` and ``search.json``; another, retrained winner is kept aside."""
    folder, space, predictor = searcher.run.folder / "winner", searcher.space, searcher.predictor
    low, high = predictor.interval(predictor.score([space.graph(winner)]), LEVEL)
    content["winner"] = dict(entry)
    content["trust"] = {
        "level": LEVEL,
        "interval": [float(low[0]), float(high[0])],
        "distance": entry["distance"],
        "far": entry["far"],
    }
    content["earlier_winner"] = _put_aside(folder, winner.key) or content.get("earlier_winner")
    # What says that the search is done comes last, so that a stop in between leaves nothing that contradicts another.
    (folder / "search.json").unlink(missing_ok=True)
    write_json(
        folder / "architecture.json",
        {
            **{key: value for key, value in entry.items() if key not in ("distance", "far")},
            "limits": content["limits"],
            "space": space.model_dump(mode="json"),
            "choices": list(winner.choices),
            "graph": graph_to_json(space.graph(winner)),
        },
    )
    write_json(folder / "search.json", content)


def search_exact(run: Run) -> dict[str, Any]:
    """How near evolution comes to the true optimum under the limits.

    Where the predictor adds up over the choices (``fit.model: ridge`` on a macro space), or the networks within the
    limits can be enumerated, that is the optimum of the predictor itself. Otherwise it is that of a sum over the
    choices that is fitted to what the predictor says of feasible networks: what evolution misses there, of the same
    space, limits and settings, is what can be known.

    Returns:
        ``method`` (integer programming or enumeration), ``of`` (predictor or stand-in, with the ``agreement``, Kendall
        tau, of the stand-in), the ``optimum`` and the ``evolution``'s best, the ``gap`` between their scores (below 0
        only where what was taken for the optimum is none) in units of normal scores, ``networks`` that were scored,
        and ``seconds``.

    Raises:
        InputError: no predictor yet, limits that no architecture keeps, or a space where neither way leads to an
            optimum.
    """
    searcher = open_search(run)
    settings, space, limits = searcher.run.settings, searcher.space, searcher.run.settings.bounds
    random = np.random.default_rng([settings.seed, 1])
    with single_thread():
        started = time.perf_counter()
        score, of, agreement = searcher.score, "predictor", None
        with _quiet():
            exact = optimum(space, score, limits)
        if exact is None:
            score, agreement = _stand_in(searcher)
            of = "stand-in"
            with _quiet():
                exact = optimum(space, score, limits)
        if exact is None:
            raise InputError(
                f"search --exact: space {space.name} does not say which rows of choices are valid and different "
                f"networks, or its costs do not add up over them, and its {space.size:,} architectures are too many "
                f"to enumerate"
            )
        seconds = time.perf_counter() - started
        found = evolve(space, score, limits, settings.search, random)
        difference = exact.best.score - found.best[0].score
        best = [exact.best, found.best[0]]
        entries = [_candidate_json(searcher, candidate) for candidate in best]
    return {
        "metric": searcher.predictor.metric,
        "limits": limits_json(limits),
        "method": exact.method,
        "of": of,
        "agreement": agreement,
        "optimum": {**entries[0], "score": exact.best.score},
        "evolution": {**entries[1], "score": found.best[0].score, "queries": found.queries},
        "gap": 0.0 if abs(difference) < 1e-9 else difference,
        "networks": exact.scored,
        "seconds": seconds,
    }


def _stand_in(searcher: Searcher) -> tuple[Score, float]:
    """A sum over the choices in place of the predictor, and Kendall tau between the two on other networks."""
    from predictor import kendall_tau

    settings, space = searcher.run.settings, searcher.space
    rows = up_to(space, _SURROGATE_ROWS, np.random.default_rng([settings.seed, 5]), settings.bounds)
    values = np.asarray(searcher.score(rows), np.float64)
    inside = np.arange(len(rows)) % 5 != 4
    tried = additive_ridge(rows[inside], values[inside], space.cardinalities, 1e-3 * len(rows))
    agreement = kendall_tau(tried.values(rows[~inside]), values[~inside]) if len(rows) > 10 else 0.0
    return additive_ridge(rows, values, space.cardinalities, 1e-3 * len(rows)).values, float(agreement)


def search_limits(run: Run, text: str) -> dict[str, Any]:
    """A winner for each of several limits on one cost, and the front of accuracy and that cost, from one fit.

    Args:
        text: ``5M:20M:20`` for 20 limits on MACs, or ``COST=LEAST:MOST:COUNT``, in place of the recipe's largest value.

    Returns:
        ``cost``, ``winners`` (for each limit ``limit`` and the winner, None where nothing keeps it), ``front``
        (cheapest first), ``queries``, ``seconds``, and ``limits``, which all keep besides.

    Raises:
        InputError: as :func:`search`, and for a text that says no limits.
    """
    name, values = sweep(text)
    searcher = open_search(run)
    settings, space = searcher.run.settings, searcher.space
    others = dict(settings.bounds)
    if name in others:  # the recipe's largest value gives way, its smallest stays
        others[name] = Bound(least=others[name].least)
    with single_thread():
        started = time.perf_counter()
        found = sweep_limits(
            space, searcher.score, name, values, others, settings.search, np.random.default_rng([settings.seed, 1])
        )
        seconds = time.perf_counter() - started
        winners = _candidates_json(searcher, [winner for winner in found.winners if winner is not None])
        entries = iter(winners)
        content = {
            "metric": searcher.predictor.metric,
            "cost": name,
            "limits": limits_json({cost: bound for cost, bound in others.items() if bound != Bound()}),
            "winners": [
                {"limit": limit, "winner": None if winner is None else next(entries)}
                for limit, winner in zip(found.limits, found.winners, strict=True)
            ],
            "front": _candidates_json(searcher, found.front),
            "queries": found.queries,
            "seconds": seconds,
        }
    write_json(searcher.run.folder / "winner" / "limits.json", content)
    return content


def search_front(
    run: Run,
    objectives: Sequence[str],
    further: Sequence[Path] = (),
    many: bool = False,
    engine: Literal["own", "pymoo"] = "own",
) -> dict[str, Any]:
    """The trade-off between the predicted metric, costs, and what further predictors say, under the limits.

    Args:
        objectives: costs to keep small, such as ``macs`` and ``params``.
        further: folders of predictors of other metrics, as ``genas fit --metric NAME --out DIR`` writes them. Less is
            better of those whose name says loss, error, latency, energy, memory or seconds; more of all others.
        many: NSGA-III in place of NSGA-II.
        engine: ``pymoo`` has its algorithms do it, which needs that package.

    Returns:
        ``objectives`` (name and whether it is ``maximised``), ``front`` (each with its values, its ``distance`` from
        the nearest labelled one and whether that is ``far``, see :func:`search`), ``queries``,
        ``seconds``, ``hypervolume`` as a share of the box between the best and the worst of the front.

    Raises:
        InputError: as :func:`search`, an unknown cost, a metric twice, or fewer than two objectives.
    """
    searcher = open_search(run)
    settings, space = searcher.run.settings, searcher.space
    for name in objectives:
        if name not in (*LIMITED, "latency") or (name == "latency" and "latency" not in settings.bounds):
            raise InputError(f"search --front {name!r:.80}: unknown cost; {nearest(name, LIMITED)}")
    # What is compared are the predictors' own scores: above the best label their values in the metric may be all alike.
    maximised: dict[str, Score] = {searcher.predictor.metric: _scores_of(space, searcher.predictor)}
    minimised: dict[str, Score] = {name: _cost(searcher, name) for name in objectives}
    values: dict[str, Score] = {searcher.predictor.metric: searcher.predicted}
    for folder in further:
        predictor = Predictor.load(folder)
        if predictor.metric in values or predictor.features:
            raise InputError(f"{folder}: expected a predictor without features of a metric that is not there yet")
        aim = minimised if lower_is_better(predictor.metric) else maximised
        aim[predictor.metric] = _scores_of(space, predictor)
        values[predictor.metric] = _metric(space, predictor)
    random = np.random.default_rng([settings.seed, 1])
    front_settings = FrontSettings(variant="nsga3" if many else "nsga2", queries=settings.search.queries)
    with single_thread():
        started = time.perf_counter()
        if engine == "pymoo":
            from evolution.pymoo_engine import pymoo_front

            found = pymoo_front(space, maximised, minimised, settings.bounds, front_settings, random)
        else:
            found = evolve_front(space, maximised, minimised, settings.bounds, front_settings, random)
        seconds = time.perf_counter() - started
        entries = []
        columns = {name: ask(found.choices).tolist() for name, ask in values.items()}
        columns |= {name: ask(found.choices).tolist() for name, ask in minimised.items() if name not in columns}
        far = searcher.predictor.distance(graphs_of(space, found.choices)).tolist()
        for place, architecture in enumerate(architectures(space, found.choices)):
            told = {name: column[place] for name, column in columns.items()}
            about = {"distance": far[place], "far": far[place] >= FAR}
            entries.append({"key": architecture.key, "architecture": space.format(architecture), **told, **about})
    content = {
        "objectives": [{"name": name, "maximised": name in maximised} for name in found.objectives],
        "limits": limits_json(settings.bounds),
        "front": entries,
        "queries": found.queries,
        "seconds": seconds,
        "hypervolume": _share_of_box(
            np.stack([np.array(columns[name]) * (-1.0 if name in maximised else 1.0) for name in found.objectives], 1)
        ),
    }
    write_json(searcher.run.folder / "winner" / "front.json", content)
    return content


def _share_of_box(values: NDArray[np.float64]) -> float:
    best, worst = values.min(axis=0), values.max(axis=0)
    scaled = (values - best) / np.maximum(worst - best, 1e-300)
    return hypervolume(scaled, np.ones(values.shape[1])) if len(values) > 1 else 0.0


def _cost(searcher: Searcher, name: str) -> Score:
    measure = searcher.run.settings.bounds[name].measure if name == "latency" else None
    if measure is not None:
        return measure
    return lambda rows: cost_of(searcher.space, rows, name).astype(np.float64)


def _scores_of(space: AnySpace, predictor: Predictor) -> Score:
    return lambda rows: predictor.score(graphs_of(space, rows)).scores


def _metric(space: AnySpace, predictor: Predictor) -> Score:
    return lambda rows: predictor.predict(graphs_of(space, rows))


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing reaches standard output: the solver of integer programs prints there what no option turns off."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # closed: there is nothing to keep quiet
        yield
        return
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device, not a path
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def _put_aside(folder: Path, key: str) -> str | None:
    """Move the files of another, retrained winner to ``earlier/KEY``; returns that folder, None where there is none."""
    before = read_json(folder / "architecture.json")
    if before is None or before["key"] == key or not (folder / "retrain.json").is_file():
        return None
    target = folder / "earlier" / str(before["key"])
    target.mkdir(parents=True, exist_ok=True)
    for name in ("search.json", "architecture.json", "retrain.json", "model.py", "weights.safetensors"):
        if (folder / name).is_file():
            (folder / name).replace(target / name)
    return str(target)


def _search_json(searcher: Searcher, result: SearchResult) -> dict[str, Any]:
    label_scores, rule = searcher.predictor.label_scores, searcher.run.settings.search.acquisition
    history = [list(point) for point in result.history]
    if rule in ("mean", "thompson", "lower") and history:  # in the units of the metric
        values = label_scores.value(np.array([value for _, value in history]))
        history = [[queries, float(value)] for (queries, _), value in zip(history, values, strict=True)]
    return {
        "queries": result.queries,
        "exhausted": result.exhausted,
        "history": history,
        "best": _candidates_json(searcher, result.best),
    }


def _candidates_json(searcher: Searcher, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    if not candidates:
        return []
    space, graphs = searcher.space, [searcher.space.graph(candidate.architecture) for candidate in candidates]
    predicted = searcher.predictor.predict(graphs).tolist()
    distances = searcher.predictor.distance(graphs).tolist()
    return [
        {
            "key": candidate.architecture.key,
            "architecture": space.format(candidate.architecture),
            "predicted": value,
            **candidate.costs,
            "distance": distance,
            "far": distance > FAR,
        }
        for candidate, value, distance in zip(candidates, predicted, distances, strict=True)
    ]


def _candidate_json(searcher: Searcher, candidate: Candidate) -> dict[str, Any]:
    return _candidates_json(searcher, [candidate])[0]
