"""The first stage: labels. Also what is done with them without a predictor: writing them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_gen import open_store, plan, read_store, refuse_if_driven, run_lock, write_label_table
from genas.config import Run
from genas.labelling import first_labels, label_actively
from genas.scoring import run_features
from genas.stages import (
    ShowProgress,
    add_jobs,
    begin,
    claim,
    label_settings,
    label_task,
    resolve,
    saved_settings,
    train_jobs,
)
from supernet import InputError, SearchSpace
from supernet.spaces import make_space


def generate(run: Run, progress: ShowProgress | None = None) -> dict[str, Any]:
    """Train the planned architectures that have no result yet.

    With ``generate.active`` the labels so far choose the next ones, see :func:`genas.labelling.label_actively`.

    Returns:
        Counts (``planned``, ``found`` before this call, ``trained`` by it, ``failed``), ``best`` accuracy,
        ``seconds``; of active labelling also ``rounds`` and why it ``stopped``.

    Raises:
        InputError: settings that contradict the run's labels, or limits that nothing keeps.
        UnavailableError: a device, download or folder that is not to be had.
        KeyboardInterrupt: stopped; what was finished is committed.
    """
    refuse_if_driven(run.folder)  # at once: preparing images may take long
    run, info = resolve(run)
    settings = run.settings
    # Before the folder is touched: a limit that nothing keeps must not bind the run to it.
    planned = plan(settings.space, first_labels(settings.generate), settings.bounds, settings.seed)
    with run_lock(run.folder):
        store = open_store(run.store)
        try:
            claim(store, run, info, "generate", label_settings(settings))
            begin(run, info, store, "generate")
            task = label_task(run, info)
            if settings.generate.active is not None:
                result = label_actively(run, store, task, progress)
            else:
                jobs = add_jobs(store, settings.space, "generate", planned)
                result = train_jobs(run, store, jobs, task, progress)
            store.seal()
            return result
        finally:
            store.close()


def export_table(run_folder: Path, out: Path, space: SearchSpace | None = None) -> int:
    """Write a run's labels as a graph-table file; returns the number of rows.

    Cheap labels and kept training-free scores are its features, each where an architecture has it.

    Raises:
        InputError: a run without labels, or scores that are damaged.
        UnavailableError: a folder that cannot be written.
    """
    store = read_store(run_folder / "store.db")
    try:
        saved = saved_settings(store, "generate")
        if saved is None or not store.counts("generate")[1]:
            raise InputError(f"export: run {run_folder.name!r} has no labels yet; run generate first")
        return write_label_table(
            store, space or make_space(saved["space"]), out, run_features(store, run_folder, saved["space"])
        )
    finally:
        store.close()
