"""How a run stands: read from its files, without torch, whether it is being driven or not."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_gen import Store, WorkerSettings, lock_owner, read_store
from data_gen.nodes import read_standing
from data_gen.store import FRONT_STAGES, STUDY_STAGE
from genas.cheap import PREFIX
from genas.config import Run, load_run
from supernet.files import read_json

_NOTHING: dict[str, Any] = {"planned": 0, "done": 0, "failed": 0, "running": 0, "failures": []}
"""Of a stage without trainings."""

_FRESH_SECONDS = 60.0
"""A driver that trains writes how its nodes stand every few seconds; what is older is of an earlier stage."""


def status(folder: Path) -> dict[str, Any]:
    """How a run stands: stages done, trainings by state, best accuracy, tau, winner, seconds.

    ``study`` counts the trainings on smaller sets of images; None where there are none.
    ``front`` counts the short and full trainings of a front, with its ``hypervolume``; None where there are none.
    ``fidelity`` counts the cheap trainings of all settings, with what was ``measured``; None where there are none.
    ``tau`` is that of the predictor, and ``predictor`` says with what: ``metric``, and whether it is a ``proxy``,
    on which nothing was trained. A folder may hold a predictor and no trainings.
    ``nodes`` counts under ``trained`` how attempts of all stages ended on each node, and holds as ``now`` what
    :class:`data_gen.nodes.Standing` does; None where nobody trains.

    Raises:
        InputError: neither a store nor a predictor there, or a file that is damaged.
    """
    evaluation = read_json(folder / "predictor" / "evaluation.json")
    training = {stage: dict(_NOTHING) for stage in ("generate", "retrain")}
    nodes: dict[str, Any] = {"now": None, "trained": []}
    cheaply = study = front = best = None
    seconds: dict[str, float] = {}
    if evaluation is None or (folder / "store.db").exists():
        store = read_store(folder / "store.db")
        driver = lock_owner(folder)
        try:
            retries = _retries(folder)
            training = {stage: _training(store, [stage], retries, driver) for stage in training}
            cheap = [stage for stage in store.stages() if stage.startswith(PREFIX)]
            cheaply = _training(store, cheap, retries, driver) if cheap else None
            sizes = [stage for stage in store.stages() if stage.startswith(STUDY_STAGE)]
            study = _training(store, sizes, retries, driver) if sizes else None
            own = [stage for stage in store.stages() if stage in FRONT_STAGES]
            front = _training(store, own, retries, driver) if own else None
            nodes = {"now": _now(folder) if driver else None, "trained": [one._asdict() for one in store.nodes()]}
            best = store.best("generate")
            for _, message in store.events("seconds"):
                entry = json.loads(message)
                seconds[entry["stage"]] = seconds.get(entry["stage"], 0.0) + float(entry["seconds"])
        finally:
            store.close()
    if cheaply is not None:
        measured = read_json(folder / "fidelity.json")
        cheaply["measured"] = None if measured is None else {key: measured[key] for key in measured if key != "rows"}
    if front is not None:
        front["hypervolume"] = (read_json(folder / "front" / "front.json") or {}).get("hypervolume")
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
            "retrain": _retrain_state(training["retrain"], winner),
            "report": "done" if (folder / "report.html").is_file() else "waiting",
        },
        "generate": training["generate"],
        "study": study,
        "front": front,
        "fidelity": cheaply,
        "retrain": training["retrain"],
        "nodes": nodes,
        "best": None if best is None else {"key": best[0], "accuracy": best[1], **best[2]},
        "tau": None if evaluation is None else evaluation["models"][evaluation.get("model", "graph")],
        "predictor": None if evaluation is None else _predictor(evaluation),
        "winner": None if found is None else found["evolution"]["best"][0],
        "test": None if winner is None else winner["roles"],
        "seconds": seconds,
    }


def _predictor(evaluation: dict[str, Any]) -> dict[str, Any]:
    return {"metric": evaluation["metric"], "proxy": "proxy" in evaluation}


def _now(folder: Path) -> dict[str, Any] | None:
    standing = read_standing(folder)
    return None if standing is None or time.time() - standing.time > _FRESH_SECONDS else asdict(standing)


def _training(store: Store, stages: list[str], retries: int, driver: str | None) -> dict[str, Any]:
    """Trainings of some stages by state."""
    counts = [store.counts(stage) for stage in stages]
    failures = [failure for stage in stages for failure in store.failures(stage, retries)]
    running = sum(store.attempts(stage).get("running", 0) for stage in stages)
    return {
        "planned": sum(planned for planned, _ in counts),
        "done": sum(done for _, done in counts),
        "failed": len(failures),
        "running": running if driver else 0,  # a killed driver leaves them open
        "failures": [
            {"key": failure.job.architecture.key, "seed": failure.job.seed, "kind": failure.kind}
            for failure in failures
        ],
    }


def _retries(folder: Path) -> int:
    path = folder / "config.yml"
    return load_run(path).settings.workers.retries if path.is_file() else WorkerSettings().retries


def _retrain_state(training: dict[str, Any], winner: dict[str, Any] | None) -> str:
    if winner is not None:
        return "failed" if winner["roles"]["winner"]["mean"] is None else "done"
    unfinished = training["planned"] - training["done"] - training["failed"]
    return "begun" if unfinished or training["running"] else "waiting"


def _state(training: dict[str, Any]) -> str:
    if not training["planned"]:
        return "waiting"
    return "done" if training["done"] + training["failed"] >= training["planned"] else "begun"


def report(run: Run) -> Path:
    """Write the run's report.html and return its path. Raises InputError where the run has no store."""
    from analysis import write_report

    return write_report(run.folder)
