"""The stages, joined: generate, fit, search, retrain. Each can be stopped and called again.

These are the public functions; the command line calls them and adds nothing but words.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_gen import Task, label_table, open_store, plan, read_store, run_lock
from evolution import Candidate, Score, SearchResult, evolve, random_search
from genas.config import FitSettings, Run
from genas.files import digest, read_json
from genas.retraining import retrain
from genas.stages import (
    ShowProgress,
    add_jobs,
    begin,
    claim,
    compare,
    label_settings,
    resolve,
    resolve_space,
    saved_settings,
    single_thread,
    train_jobs,
)
from predictor import PREDICTORS, GraphPredictor, fit_graph, kendall_tau, tau_interval
from predictor.evaluate import random_split
from supernet import Choices, InputError, LabelTable, architectures, write_table
from supernet.files import write_json
from supernet.graph import graph_to_json
from supernet.spaces import AnySpace, make_space

_FORMAT = 1
"""Of evaluation.json and search.json; another number makes fit and search run again."""

_LOWER_IS_BETTER = ("loss", "seconds")
"""Metrics of a run that a search must not maximise."""

FEWEST_LABELS = 10
"""Below this many labelled architectures no predictor is fitted."""


def generate(run: Run, progress: ShowProgress | None = None) -> dict[str, Any]:
    """Train the planned architectures that have no result yet.

    Returns:
        Counts (``planned``, ``found`` before this call, ``trained`` by it, ``failed``), ``best`` accuracy,
        ``seconds``.

    Raises:
        InputError: settings that contradict the run's labels, or limits that nothing keeps.
        UnavailableError: a device, download or folder that is not to be had.
        KeyboardInterrupt: stopped; what was finished is committed.
    """
    run, info = resolve(run)
    settings = run.settings
    # Before the folder is touched: a limit that nothing keeps must not bind the run to it.
    planned = plan(settings.space, settings.generate, settings.limits, settings.seed)
    with run_lock(run.folder):
        store = open_store(run.store)
        try:
            claim(store, run, info, "generate", label_settings(settings))
            begin(run, info, store, "generate")
            jobs = add_jobs(store, settings.space, "generate", planned)
            task = Task(settings.space, info, settings.generate.recipe)
            return train_jobs(run, store, jobs, task, progress)
        finally:
            store.close()


def fit(run: Run, table: LabelTable | None = None) -> dict[str, Any]:
    """Fit the graph predictor on the run's labels and measure how far to trust it.

    Kendall tau is measured on held-out architectures, besides ridge regression and a perceptron on the
    choices, and plain MACs; the predictor that is saved has learnt from every label.

    Args:
        table: labels to use instead of the run's own.

    Returns:
        The content of ``predictor/evaluation.json``.

    Raises:
        InputError: too few labels, or a metric that they do not have.
    """
    if table is None:
        store = read_store(run.store)
        try:
            saved = saved_settings(store, "generate")
            if saved is not None:
                run = resolve_space(run)
                wanted = {
                    **saved,
                    **label_settings(run.settings),
                    "limits": saved["limits"],
                }  # one fit answers many limits
                compare(run, "generate", saved, wanted)
            table = label_table(store, run.settings.space)
        finally:
            store.close()
    if len(table) < FEWEST_LABELS:
        raise InputError(f"fit: {len(table)} labelled architectures; expected at least {FEWEST_LABELS}; generate more")
    folder, settings = run.folder / "predictor", run.settings.fit
    made_from = digest(
        _FORMAT, _table_digest(table, settings.metric), settings.model_dump(mode="json"), run.settings.seed
    )
    known = read_json(folder / "evaluation.json")
    if known is not None and known["made_from"] == made_from and (folder / "predictor.safetensors").is_file():
        return known
    with run_lock(folder), single_thread():
        (folder / "evaluation.json").unlink(missing_ok=True)  # never beside a predictor that it does not describe
        evaluation = _fit_table(table, settings, run.settings.seed, folder)
        evaluation["made_from"] = made_from
        write_json(folder / "evaluation.json", evaluation)
    return evaluation


def _fit_table(table: LabelTable, settings: FitSettings, seed: int, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    train_size = min(max(round(settings.train_fraction * len(table)), 2), len(table) - 2)
    learnt, held = random_split(len(table), train_size, seed, 0)
    learning, testing = table.subset(learnt), table.subset(held)
    measured = testing.metric(settings.metric)
    models: dict[str, dict[str, object]] = {}
    predictions: dict[str, NDArray[np.float64]] = {}
    for name, fit_model in PREDICTORS.items():
        if name == "graph":
            graph_predictor = fit_graph(learning, settings.metric, settings.predictor, seed)
            predicted = graph_predictor.predict(testing.graphs, [row.features for row in testing.rows])
        else:
            predicted = fit_model(learning, settings.metric, seed).predict(testing)
        predictions[name] = predicted
        models[name] = {
            "tau": kendall_tau(predicted, measured),
            "tau_ci95": list(tau_interval(predicted, measured, seed)),
        }
    fit_graph(table, settings.metric, settings.predictor, seed).save(folder)
    return {
        "metric": settings.metric,
        "rows": len(table),
        "train_size": len(learnt),
        "test_size": len(held),
        "seed": seed,
        "models": models,
        "label_noise": _label_noise(table, settings.metric),
        "held_out": [
            {"id": row.id, "measured": float(truth), "predicted": float(value)}
            for row, truth, value in zip(testing.rows, measured, predictions["graph"], strict=True)
        ],
        "seconds": time.perf_counter() - started,
    }


def search(run: Run) -> dict[str, Any]:
    """Evolution under the hard limits against the fitted predictor, and random search with as many queries.

    Returns:
        The content of ``winner/search.json``; the winner is written to ``winner/architecture.json``.

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
    predictor = GraphPredictor.load(run.folder / "predictor")
    if predictor.metric in _LOWER_IS_BETTER:
        raise InputError(f"search: fit.metric is {predictor.metric!r}, of which less is better; expected accuracy")

    def score(choices: Choices) -> NDArray[np.float64]:
        return predictor.predict([space.graph(architecture) for architecture in architectures(space, choices)])

    with run_lock(run.folder / "winner"), single_thread():
        return _search(run, score, predictor.metric, made_from)


def _search(run: Run, score: Score, metric: str, made_from: str) -> dict[str, Any]:
    settings, space, folder = run.settings, run.settings.space, run.folder / "winner"
    started = time.perf_counter()
    found = evolve(space, score, settings.limits, settings.search, np.random.default_rng([settings.seed, 1]))
    evolution_seconds = time.perf_counter() - started
    drawn = random_search(space, score, settings.limits, found.queries, np.random.default_rng([settings.seed, 2]))
    seconds = time.perf_counter() - started
    content = {
        "made_from": made_from,
        "metric": metric,
        "limits": dict(settings.limits),
        "evolution": _search_json(space, found),
        "random": _search_json(space, drawn),
        "evolution_seconds": evolution_seconds,
        "seconds": seconds,
    }
    winner = found.best[0]
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


def _table_digest(table: LabelTable, metric: str) -> str:
    labels = table.metric(metric).tolist()
    rows = [
        (row.id, label, graph_to_json(row.graph), row.features) for row, label in zip(table.rows, labels, strict=True)
    ]
    return digest(rows)


def _label_noise(table: LabelTable, metric: str) -> dict[str, float] | None:
    """How far two trainings of one architecture agree, and what a perfect predictor would reach on one of them.

    If the labels are Gaussian, tau gives their correlation r = sin(pi tau / 2) (Greiner 1909); what is free of
    noise correlates with one noisy label by the square root of r (Spearman 1904).
    """
    twice = [row for row in table.rows if f"{metric}_seed1" in row.metrics]
    if len(twice) < 3:
        return None
    first = np.array([row.metrics[f"{metric}_seed0"] for row in twice])
    second = np.array([row.metrics[f"{metric}_seed1"] for row in twice])
    tau = kendall_tau(first, second)
    return {
        "architectures": len(twice),
        "tau": tau,
        "ceiling": 2 / math.pi * math.asin(math.sqrt(math.sin(math.pi * max(tau, 0.0) / 2))),
        "standard_deviation": float(np.sqrt(np.mean((first - second) ** 2) / 2)),
    }


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


def run_all(run: Run, progress: Callable[[str], ShowProgress | None] = lambda stage: None) -> dict[str, Any]:
    """Every stage in turn, then the report. What is done already is found, not repeated.

    Args:
        progress: gives the progress function of a training stage by its name.
    """
    from analysis import write_report  # matplotlib is slow to import and only needed here

    if run.settings.generate.architectures < FEWEST_LABELS:
        raise InputError(
            f"generate.architectures is {run.settings.generate.architectures}; "
            f"expected at least {FEWEST_LABELS} to fit a predictor on"
        )
    results: dict[str, Any] = {"generate": generate(run, progress("generate"))}
    results["fit"] = fit(run)
    results["search"] = search(run)
    results["retrain"] = retrain(run, progress("retrain"))
    results["report"] = str(write_report(run.folder))
    return results


def export_table(run_folder: Path, out: Path) -> int:
    """Write a run's labels as a graph-table file; returns the number of rows. Raises InputError."""
    store = read_store(run_folder / "store.db")
    try:
        saved = saved_settings(store, "generate")
        table = label_table(store, make_space(saved["space"])) if saved else LabelTable(())
    finally:
        store.close()
    if not len(table):
        raise InputError(f"export: run {run_folder.name!r} has no labels yet; run generate first")
    write_table(table, out)
    return len(table)
