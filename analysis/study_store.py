"""A run's store as a study: every training of ``generate`` and of the smaller sets of images."""

from __future__ import annotations

import json

import numpy as np

from analysis.study import Study, StudyRun
from data_gen.store import STUDY_STAGE, Store
from supernet import Architecture, Families, SearchSpace, UnionSpace
from training.robustness import CLEAN, accuracies_by_cell

_RANDOM = ("sample", "repeat")
"""Roles of networks that were drawn at random."""


def family_of(space: SearchSpace, architecture: Architecture) -> str:
    """What an architecture is counted with: the member of a union, the family of families, otherwise its space."""
    if isinstance(space, UnionSpace):
        return space.member(architecture)
    return space.family if isinstance(space, Families) else space.name


def study_of_store(store: Store, space: SearchSpace) -> Study:
    """The trainings of a store as runs of a study, in the order in which they were planned.

    Accuracies are those on the images that corruptions were applied to, clean; of a run without corruptions those on
    the whole validation split. Networks that ``generate --active`` chose are left out: they are no random sample.
    Convolutions are those on the longest path.
    """
    stages = ["generate", *(stage for stage in store.stages() if stage.startswith(STUDY_STAGE))]
    runs, classes = [], space.classes
    every = list(dict.fromkeys(job.architecture for stage in stages for job in store.jobs(stage)))
    rows = np.array([one.choices for one in every], np.int8).reshape(len(every), len(space.cardinalities))
    depths = {one.key: depth - 1 for one, depth in zip(every, space.depths(rows).tolist(), strict=True)}  # no linear
    for stage in stages:
        events = store.events(f"settings:{stage}")
        if not events:
            continue
        images = json.loads(events[0][1])["images"]
        classes = int(images["classes"])
        jobs = {job.id: job for job in store.jobs(stage)}
        for label in store.labels(stage):
            job, architecture = jobs[label.job], label.architecture
            if stage == "generate" and job.role not in _RANDOM:
                continue  # chosen by what others had measured, so no sample of its family
            cells = {f"{name}_{severity}": value for (name, severity), value in
                     accuracies_by_cell(label.metrics).items()}  # fmt: skip
            runs.append(
                StudyRun(
                    label.key,
                    space.format(architecture),
                    family_of(space, architecture),
                    int(images["train"]),
                    job.seed,
                    depths[label.key],
                    label.macs,
                    label.params,
                    label.metrics.get(CLEAN, label.accuracy),
                    cells,
                )
            )
    return Study(tuple(runs), f"run {store.path.parent.name}", (), classes)
