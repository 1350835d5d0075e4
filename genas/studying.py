"""A robustness study: the run's networks again, trained on fewer images, and what all of them say together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from analysis.study import Study, Value, corruption_error, grouped, write_rows
from analysis.study_store import family_of, study_of_store
from data_gen import open_store, plan, refuse_if_driven, run_lock
from data_gen.store import STUDY_STAGE
from genas.config import Run, StudySize, recipe_of
from genas.labelling import first_labels
from genas.stages import (
    ShowProgress,
    add_jobs,
    begin,
    claim,
    label_settings,
    label_task,
    resolve,
    train_jobs,
)
from supernet import InputError
from supernet.settings import nearest
from training import DataInfo, Recipe, prepare


def study(run: Run, progress: Callable[[str], ShowProgress | None] = lambda stage: None) -> dict[str, Any]:
    """Train the architectures of ``generate`` on each smaller set of images too, and compare what they are worth.

    Sets are nested and balanced by class; the images that networks are measured on are the same for all and in none
    of them. The labels of ``generate`` itself are the largest set. What is trained already is found, not repeated.

    Args:
        progress: gives the progress function of ``generate`` and of each set by its name, such as ``study-500``.

    Returns:
        ``sizes`` (counts of each set, as :func:`genas.generate` gives them, with ``train_images``), ``groups`` (mean
        accuracy, robust accuracy, relative robustness and, with ``study.baseline``, mean corruption error by family
        and set, with 95 % intervals over networks), and the ``folder`` with ``study.csv`` and figures.

    Raises:
        InputError: no ``study`` in the recipe, a set that is not smaller than the run's, or has fewer images than
            classes. Others as :func:`genas.generate`, whose other exceptions come from here too.
    """
    refuse_if_driven(run.folder)
    if run.settings.study is None:
        raise InputError("study: the recipe says nothing of one; add study: {sizes: [500, 1000]}, numbers of images")
    run, info = resolve(run)
    settings, space = run.settings, run.settings.space
    assert settings.study is not None
    planned = plan(space, first_labels(settings.generate), settings.bounds, settings.seed)
    once = [entry for entry in planned if entry[2] == "sample"]
    baseline, families = settings.study.baseline, {family_of(space, architecture) for architecture, *_ in once}
    if baseline is not None and baseline not in families:
        raise InputError(f"study.baseline: {baseline!r:.60} is no family of the plan; {nearest(baseline, families)}")
    smaller = [_smaller(run, info, size) for size in settings.study.sizes]
    counts: dict[str, dict[str, Any]] = {}
    with run_lock(run.folder):
        store = open_store(run.store)
        try:
            claim(store, run, info, "generate", label_settings(settings))
            for size, (own, recipe) in zip(settings.study.sizes, smaller, strict=True):
                described = {"recipe": recipe.model_dump(mode="json")}
                stage = f"{STUDY_STAGE}{size.train_images}"
                claim(store, run, own, stage, {**label_settings(settings), "study": described})
            begin(run, info, store, "study")
            task = label_task(run, info)
            jobs = add_jobs(store, space, "generate", planned)
            counts["generate"] = {
                "train_images": info.sizes["train"],
                **train_jobs(run, store, jobs, task, progress("generate")),
            }
            for size, (own, recipe) in zip(settings.study.sizes, smaller, strict=True):
                stage = f"{STUDY_STAGE}{size.train_images}"
                weights = None if task.weights is None else task.weights / stage
                jobs = add_jobs(store, space, stage, once)
                own_task = replace(task, data=own, recipe=recipe, weights=weights)
                counts[stage] = {
                    "train_images": own.sizes["train"],
                    **train_jobs(run, store, jobs, own_task, progress(stage)),
                }
            store.seal()
            found = study_of_store(store, space)
        finally:
            store.close()
    return {"sizes": counts, "failed": sum(one["failed"] for one in counts.values()), **write_study(run, found)}


def write_study(run: Run, found: Study) -> dict[str, Any]:
    """Write the rows and figures of a study to the run's folder ``study``; what :func:`study` says of them."""
    from analysis.study_figures import write_figures

    folder = run.folder / "study"
    corrupted = bool(found.runs and found.corruptions)
    baseline = run.settings.study.baseline if run.settings.study is not None else None
    more: dict[str, Value] = {}
    if corrupted and baseline is not None:
        more["mce"] = corruption_error(found, baseline)
    write_rows(found, folder / "study.csv", more)
    figures = write_figures(found, folder) if corrupted else []
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in found.runs:
        entry = groups.setdefault((one.family, one.train_images), {"networks": set()})
        entry["networks"].add(one.key)
    measures: dict[str, str | Value] = {"clean": "clean", **more}
    if corrupted:
        measures |= {"robust": "robust", "relative": "relative"}
    for value, measure in measures.items():
        for group in grouped(found, value=measure):
            ends = None if group.low is None else [group.low, group.high]
            groups[group.group][value] = {"mean": group.mean, "ci95": ends}
    told = [
        {"family": family, "train_images": images, **entry, "networks": len(entry["networks"])}
        for (family, images), entry in sorted(groups.items())
    ]
    return {"groups": told, "folder": str(folder), "figures": [path.name for path in figures]}


def _smaller(run: Run, info: DataInfo, size: StudySize) -> tuple[DataInfo, Recipe]:
    """Images and recipe of a smaller set."""
    data = run.settings.data
    where = f"study.sizes: {size.train_images} images"
    if size.train_images >= info.sizes["train"]:
        raise InputError(f"{where}: expected fewer than the run's {info.sizes['train']} training images")
    if size.train_images < len(info.classes):
        raise InputError(f"{where}: expected at least one of each of {len(info.classes)} classes")
    info = prepare(data, run.settings.space.input_size, train_images=size.train_images)
    return info, recipe_of(run.settings.generate.recipe, size)
