"""The best few of a search, trained: validation accuracy picks the winner among them, the test images stay unread."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_gen import Task, measured, open_store, run_lock
from genas.config import Run
from genas.searching import open_search, search, write_winner
from genas.stages import (
    ShowProgress,
    add_jobs,
    begin,
    claim,
    compare,
    label_settings,
    resolve,
    saved_settings,
    train_jobs,
)
from supernet import Architecture, InputError

STAGE = "top"

_BOUND = ("seed", "data", "space", "generate", "textures")
"""Settings of the labels that a pick is made with too."""


def pick(run: Run, count: int, progress: ShowProgress | None = None) -> dict[str, Any]:
    """Train the best of a search as the labels were trained, and write the one that measures best.

    What counts is the metric that was searched for, on the validation images; validation accuracy where a training
    does not measure that.

    The winner of a search is the highest of thousands of predictions, and so too good on average; a few trainings find
    out which of the best few holds. Results are kept as those of ``generate`` are: the same line continues.

    Args:
        count: architectures to train, ``retrain.seeds`` times each.

    Returns:
        As :func:`genas.search`, with ``top``: ``metric``, ``entries`` (with its values on the validation images as
        ``accuracies`` and their ``mean``), the ``picked`` key, ``tau`` between predictions and measurements, their
        mean difference ``optimism``, ``failed`` trainings and ``seeds``.

    Raises:
        InputError: as :func:`genas.search`; every training failed.
    """
    from predictor import kendall_tau

    wide = run.settings.search.model_copy(update={"keep": max(run.settings.search.keep, count)})
    found = search(run.model_copy(update={"settings": run.settings.model_copy(update={"search": wide})}))
    with run_lock(run.folder), run_lock(run.folder / "winner"):
        run, info = resolve(run)
        settings, space = run.settings, run.settings.space
        recipe = settings.generate.recipe  # that of ``retrain`` may be made for more images than the training split
        entries = found["evolution"]["best"][:count]
        chosen = [space.read(entry["architecture"]) for entry in entries]
        store = open_store(run.store)
        try:
            kept_settings = label_settings(settings)
            saved = saved_settings(store, "generate")
            if saved is not None:
                same = {key: saved[key] for key in ("data", "space")}
                compare(run, "generate", same, {key: kept_settings[key] for key in same})
            claim(
                store,
                run,
                info,
                STAGE,
                {key: kept_settings[key] for key in _BOUND if key in kept_settings},
            )
            begin(run, info, store, STAGE)
            planned = [
                (architecture, settings.seed + number, "top")
                for number in range(settings.retrain.seeds)
                for architecture in chosen
            ]
            jobs = add_jobs(store, space, STAGE, planned)
            robustness = settings.generate.robustness
            task = Task(space, info, recipe, checkpoints=run.folder / "checkpoints", robustness=robustness)
            counts = train_jobs(run, store, jobs, task, progress)
            wanted = {job.id for job in jobs}
            results = [result for result in store.results(STAGE) if result.job.id in wanted]
            metric = (
                found["metric"] if all(measured(one, found["metric"]) is not None for one in results) else "accuracy"
            )
            values: dict[Architecture, list[float]] = {}
            for result in results:
                values.setdefault(result.job.architecture, []).append(measured(result, metric) or 0.0)
            trained_as = {planned[place][0]: job.architecture for place, job in enumerate(jobs)}
            store.seal()
        finally:
            store.close()
        entered = []
        for entry, architecture in zip(entries, chosen, strict=True):
            own = trained_as[architecture]  # an isomorphic network that was entered earlier stands for it
            accuracies = values.get(own, [])
            entered.append(
                {**entry, "accuracies": accuracies, "mean": float(np.mean(accuracies)) if accuracies else None}
            )
        whole = [entry for entry in entered if entry["mean"] is not None]
        if not whole:
            raise InputError(f"search --top {count}: every training failed; genas status {run.name} tells why")
        best = max(whole, key=lambda entry: float(entry["mean"]))
        predicted, means = ([float(entry[key]) for entry in whole] for key in ("predicted", "mean"))
        varied = len(whole) > 1 and len(set(predicted)) > 1 and len(set(means)) > 1
        found["top"] = {
            "metric": metric,
            "entries": entered,
            "picked": best["key"],
            "tau": float(kendall_tau(np.array(predicted), np.array(means))) if varied else None,
            "optimism": float(np.mean(predicted) - np.mean(means)) if metric == found["metric"] else None,
            "failed": counts["failed"],
            "seeds": settings.retrain.seeds,
        }
        entry = {key: value for key, value in best.items() if key not in ("accuracies", "mean")}
        write_winner(open_search(run), chosen[entered.index(best)], entry, found)
    return found
