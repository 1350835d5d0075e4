"""The third stage: evolution under the hard limits against the fitted predictor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_gen import run_lock
from evolution import Candidate, Score, SearchResult, evolve, random_search
from genas.config import Run
from genas.stages import digest, resolve_space, single_thread
from predictor import Predictor
from supernet import Choices, InputError, architectures
from supernet.files import read_json, write_json
from supernet.graph import graph_to_json
from supernet.spaces import AnySpace

LEVEL = 0.8
"""Probability of the winner's interval."""

_FORMAT = 2
"""Of search.json; another number makes search run again."""

_LOWER_IS_BETTER = {"loss", "seconds", "latency", "memory", "error", "ms", "energy"}
"""Words in the names of metrics that a search must not maximise."""


def search(run: Run) -> dict[str, Any]:
    """Evolution under the hard limits against the fitted predictor, and random search with as many queries.

    Returns:
        The content of ``winner/search.json``, ``trust`` among it: the interval of the winner's label, were it drawn as
        the labelled ones were, and its distance from the nearest of those (1: as far as they are from each other).
        The winner is written to ``winner/architecture.json``.

    Raises:
        InputError: no predictor yet, or limits that no architecture keeps.
    """
    run = resolve_space(run)
    settings, space = run.settings, run.settings.space
    evaluation = read_json(run.folder / "predictor" / "evaluation.json")
    if evaluation is None:
        raise InputError(f"search: run {run.name!r} has no predictor; run `genas fit {run.name}` first")
    described = (settings.search.model_dump(), settings.limits, settings.seed, space.model_dump(mode="json"))
    made_from = digest(_FORMAT, evaluation["made_from"], *described)
    known, winner_file = read_json(run.folder / "winner" / "search.json"), run.folder / "winner" / "architecture.json"
    if known is not None and known["made_from"] == made_from and winner_file.is_file():
        return known
    predictor = Predictor.load(run.folder / "predictor")
    if _LOWER_IS_BETTER & set(predictor.metric.lower().split("_")):
        raise InputError(f"search: fit.metric is {predictor.metric!r}, of which less is better; expected accuracy")
    if predictor.features:
        raise InputError(
            f"search: the predictor needs the features {', '.join(predictor.features)}, which cost about a "
            f"second of each of thousands of candidates; fit without fit.features"
        )

    def score(choices: Choices) -> NDArray[np.float64]:
        return predictor.predict([space.graph(architecture) for architecture in architectures(space, choices)])

    with run_lock(run.folder / "winner"), single_thread():
        return _search(run, score, predictor, made_from)


def _search(run: Run, score: Score, predictor: Predictor, made_from: str) -> dict[str, Any]:
    settings, space, folder = run.settings, run.settings.space, run.folder / "winner"
    started = time.perf_counter()
    found = evolve(space, score, settings.limits, settings.search, np.random.default_rng([settings.seed, 1]))
    evolution_seconds = time.perf_counter() - started
    drawn = random_search(space, score, settings.limits, found.queries, np.random.default_rng([settings.seed, 2]))
    seconds = time.perf_counter() - started
    content = {
        "made_from": made_from,
        "metric": predictor.metric,
        "limits": dict(settings.limits),
        "evolution": _search_json(space, found),
        "random": _search_json(space, drawn),
        "evolution_seconds": evolution_seconds,
        "seconds": seconds,
    }
    winner = found.best[0]
    graphs = [space.graph(winner.architecture)]
    low, high = predictor.interval(predictor.score(graphs), LEVEL)
    content["trust"] = {
        "level": LEVEL,
        "interval": [float(low[0]), float(high[0])],
        "distance": float(predictor.distance(graphs)[0]),
    }
    content["earlier_winner"] = _put_aside(folder, winner.architecture.key)
    # What says that the search is done comes last, so that a stop in between leaves nothing that contradicts another.
    (folder / "search.json").unlink(missing_ok=True)
    write_json(
        folder / "architecture.json",
        {
            **_candidate_json(space, winner),
            "limits": dict(settings.limits),
            "space": space.model_dump(mode="json"),
            "choices": list(winner.architecture.choices),
            "graph": graph_to_json(space.graph(winner.architecture)),
        },
    )
    write_json(folder / "search.json", content)
    return content


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


def _search_json(space: AnySpace, result: SearchResult) -> dict[str, Any]:
    return {
        "queries": result.queries,
        "exhausted": result.exhausted,
        "history": [list(point) for point in result.history],
        "best": [_candidate_json(space, candidate) for candidate in result.best],
    }


def _candidate_json(space: AnySpace, candidate: Candidate) -> dict[str, Any]:
    return {
        "key": candidate.architecture.key,
        "architecture": space.format(candidate.architecture),
        "predicted": candidate.score,
        **candidate.costs,
    }
