"""Questions that train nothing: how a run stands, how long one would take, which predictor is best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_gen import WorkerSettings, device_names, plan, read_store
from genas.config import Run, load_run
from genas.files import read_json
from genas.stages import resolve, single_thread
from predictor.evaluate import Evaluation, Progress
from predictor.evaluate import evaluate as evaluate_predictors
from supernet import ArchGraph, LabelTable
from supernet.network import build_network
from training import DataInfo, Recipe, Split, load_split, train

STAGES = ("generate", "fit", "search", "retrain", "report")


def status(folder: Path) -> dict[str, Any]:
    """How a run stands: stages done, trainings by state, best accuracy, tau, winner, seconds."""
    store = read_store(folder / "store.db")
    try:
        training = {}
        for stage in ("generate", "retrain"):
            results = store.results(stage)
            attempts = store.attempts(stage)
            failures = store.failures(stage, retries=_retries(folder))
            training[stage] = {
                "planned": len(store.jobs(stage)),
                "done": len(results),
                "failed": len(failures),
                "running": attempts.get("running", 0),
                "failures": {failure.job.architecture.key: failure.kind for failure in failures},
            }
        best = max(store.results("generate"), key=lambda result: result.accuracy, default=None)
        seconds: dict[str, float] = {}
        for _, message in store.events("seconds"):
            entry = json.loads(message)
            seconds[entry["stage"]] = seconds.get(entry["stage"], 0.0) + float(entry["seconds"])
    finally:
        store.close()
    evaluation = read_json(folder / "predictor" / "evaluation.json")
    found = read_json(folder / "winner" / "search.json")
    winner = read_json(folder / "winner" / "retrain.json")
    if winner and found and winner["roles"]["winner"]["key"] != found["evolution"]["best"][0]["key"]:
        winner = None  # of an earlier search
    for stage, content in (("fit", evaluation), ("search", found)):
        if content is not None:
            seconds[stage] = float(content["seconds"])
    return {
        "run": folder.name,
        "folder": str(folder),
        "stages": {
            "generate": _state(training["generate"]),
            "fit": "done" if evaluation else "waiting",
            "search": "done" if found else "waiting",
            "retrain": "done" if winner else _state(training["retrain"]),
            "report": "done" if (folder / "report.html").is_file() else "waiting",
        },
        "generate": training["generate"],
        "retrain": training["retrain"],
        "best": None if best is None else {"key": best.job.architecture.key, "accuracy": best.accuracy, **best.costs},
        "tau": None if evaluation is None else evaluation["models"]["graph"],
        "winner": None if found is None else found["evolution"]["best"][0],
        "test": None if winner is None else winner["roles"],
        "seconds": seconds,
    }


def _retries(folder: Path) -> int:
    path = folder / "config.yml"
    return load_run(path).settings.workers.retries if path.is_file() else WorkerSettings().retries


def _state(training: dict[str, Any]) -> str:
    if not training["planned"]:
        return "waiting"
    return "done" if training["done"] + training["failed"] >= training["planned"] else "begun"


def estimate(run: Run) -> dict[str, Any]:
    """What a run would do: trainings, and seconds from one timed batch of an architecture of median MACs."""
    run, info = resolve(run)
    settings, space = run.settings, run.settings.space
    planned = plan(space, settings.generate, settings.limits, settings.seed)
    retrainings = 3 * settings.retrain.seeds
    devices = device_names(settings.workers)
    macs = space.costs(np.array([architecture.choices for architecture, _, _ in planned], np.int8))["macs"]
    graph = space.graph(planned[int(np.argsort(macs)[len(macs) // 2])][0])
    split = load_split(info, "train")
    with single_thread():  # as in a worker
        recipe = settings.generate.recipe
        one = _training_seconds(graph, split, info, recipe, devices[0])
        again = settings.retrain.recipe or recipe
        other = one if again == recipe else _training_seconds(graph, split, info, again, devices[0])
    return {
        "trainings": len(planned),
        "retrainings": retrainings,
        "workers": len(devices),
        "device": devices[0],
        "seconds_each": one,
        "generate_seconds": one * -(-len(planned) // len(devices)),
        "retrain_seconds": other * -(-retrainings // len(devices)),
        "images": dict(info.sizes),
        "classes": len(info.classes),
    }


def _training_seconds(graph: ArchGraph, split: Split, info: DataInfo, recipe: Recipe, device: str) -> float:
    """Seconds of a whole training: one timed step after a warm-up, and a third of a step for each batch measured."""
    batch = min(recipe.batch_size, len(split))
    one = Split(split.images[:batch], split.labels[:batch]).to(torch.device(device))
    network = build_network(graph, 0)
    quick = recipe.model_copy(update={"epochs": 2, "learning_rate": 1e-6})
    train(network, one, one, info.normalisation, quick, 0, "estimate", watch=False)
    result = train(network, one, one, info.normalisation, quick, 0, "estimate", watch=False)
    step = result.seconds / 2.33
    looks = -(-recipe.epochs // recipe.validate_every)
    return step * (recipe.epochs * (len(split) // batch) + looks * info.sizes["validation"] / batch / 3)


def evaluate(
    table: LabelTable,
    metric: str = "accuracy",
    train_size: int | None = None,
    trials: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Every predictor on the same random splits of a table.

    Args:
        train_size: rows to fit on; None is five sixths of them.

    Raises:
        InputError: see :func:`predictor.evaluate.evaluate`.
    """
    rows = round(len(table) * 5 / 6) if train_size is None else train_size
    return evaluate_predictors(table, metric, rows, trials, seed, progress=progress)


def report(run: Run) -> Path:
    """Write the run's report.html and return its path. Raises InputError where the run has no store."""
    from analysis import write_report

    return write_report(run.folder)
