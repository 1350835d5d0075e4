"""The first stage: labels. Also what is done with them without a predictor: writing them out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_gen import Job, open_store, plan, read_store, refuse_if_driven, run_lock, write_label_table
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


class Part(NamedTuple):
    """One of several parts of a plan, which other machines train: of ``parts`` trainings the ``number``-th, from 1."""

    number: int
    parts: int


def read_part(text: str) -> Part:
    """A part as it is written: ``1/2`` is the first of two. Raises InputError for what is no two numbers."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if found is None:
        raise InputError(f"part {text!r:.80}: expected I/N, such as 1/2 for the first of two parts")
    return Part(int(found[1]), int(found[2]))


def generate(run: Run, progress: ShowProgress | None = None, part: tuple[int, int] | None = None) -> dict[str, Any]:
    """Train the planned architectures that have no result yet.

    With ``generate.active`` the labels so far choose the next ones, see :func:`genas.labelling.label_actively`.

    Args:
        part: (I, N): plan everything, but train only every N-th training, beginning with the I-th; other machines
            train the other parts, see :func:`genas.merge`.

    Returns:
        Counts (``planned``, ``found`` before this call, ``trained`` by it, ``failed``), ``best`` accuracy,
        ``seconds``; of active labelling also ``rounds`` and why it ``stopped``. Of a part the counts are its own, with
        ``part``, [I, N], and how many trainings ``all`` parts have.

    Raises:
        InputError: settings that contradict the run's labels, limits that nothing keeps, or a part that there is not:
            it has no training, or labels choose what is trained.
        UnavailableError: a device, download or folder that is not to be had.
        KeyboardInterrupt: stopped; what was finished is committed.
    """
    refuse_if_driven(run.folder)  # at once: preparing images may take long
    if part is not None:
        part = _checked(Part(*part))
        if run.settings.generate.active is not None:
            raise InputError(f"part {_name(part)}: with generate.active there is no plan to divide; leave one out")
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
                own = jobs if part is None else _own(jobs, part)
                result = train_jobs(run, store, own, task, progress)
                if part is not None:
                    result |= {"part": list(part), "all": len(set(jobs))}
            store.seal()
            return result
        finally:
            store.close()


def _checked(part: Part) -> Part:
    if not 1 <= part.number <= part.parts:
        raise InputError(f"part {_name(part)}: expected I/N with I from 1 to N, such as 1/2 for the first of two parts")
    return part


def _name(part: Part) -> str:
    return f"{part.number}/{part.parts}"


def _own(jobs: Sequence[Job], part: Part) -> list[Job]:
    """The jobs of a part. Raises InputError where there are none."""
    distinct = list(dict.fromkeys(jobs))  # isomorphic networks share a job, which is of one part alone
    own = distinct[part.number - 1 :: part.parts]
    if not own:
        raise InputError(f"part {_name(part)}: the plan has {len(distinct)} trainings; expected at most so many parts")
    return own


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
