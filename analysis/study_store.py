"""A run's store as a study: every training of ``generate`` and of the smaller sets of images."""

from __future__ import annotations

import json

from analysis.study import Study, StudyRun
from data_gen.store import STUDY_STAGE, Store
from supernet import Architecture, Families, SearchSpace, UnionSpace
from supernet.operations import graph_depth
from training.robustness import CLEAN, accuracies_by_cell


def family_of(space: SearchSpace, architecture: Architecture) -> str:
    """What an architecture is counted with: the member of a union, the family of families, otherwise its space."""
    if isinstance(space, UnionSpace):
        return space.member(architecture)
    return space.family if isinstance(space, Families) else space.name


def study_of_store(store: Store, space: SearchSpace) -> Study:
    """The trainings of a store as runs of a study, in the order in which they were planned.

    Accuracies are those on the images that corruptions were applied to, clean; of a run without corruptions those on
    the whole validation split.
    """
    stages = ["generate", *(stage for stage in store.stages() if stage.startswith(STUDY_STAGE))]
    runs, classes = [], space.classes
    depths: dict[str, int] = {}
    for stage in stages:
        events = store.events(f"settings:{stage}")
        if not events:
            continue
        images = json.loads(events[0][1])["images"]
        classes = int(images["classes"])
        jobs = {job.id: job for job in store.jobs(stage)}
        for label in store.labels(stage):
            job, architecture = jobs[label.job], label.architecture
            if label.key not in depths:
                depths[label.key] = graph_depth(space.graph(architecture)) - 1  # but for the linear layer
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
