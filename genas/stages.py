"""What the stages share: images and space resolved, jobs entered, training driven, settings guarded."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from data_gen import Job, Progress, Store, Task, run_jobs
from genas.config import Run, RunSettings, differences, save_settings
from genas.machine import describe_machine
from supernet import Architecture, InputError, graph_costs
from supernet.files import sweep, write_json
from supernet.latency import latency_digest
from supernet.settings import UnavailableError
from supernet.spaces import AnySpace
from training import DataInfo, Recipe, prepare
from training.data import SplitName, file_digest
from training.robustness import texture_files

ShowProgress = Callable[[Progress], None]


@contextmanager
def single_thread() -> Iterator[None]:
    """One torch thread: the predictor's operations are too small for more, which only wait for each other."""
    import torch  # generate needs none

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def resolve(run: Run, splits: Sequence[SplitName] = ("train", "validation")) -> tuple[Run, DataInfo]:
    """The run with classes and channels taken from its images, and the prepared images.

    Args:
        splits: those that will be read.

    Raises:
        InputError: a recipe that sets other classes or channels than the images have.
    """
    space = run.settings.space
    info = prepare(run.settings.data, space.input_size, splits)
    found = {"classes": len(info.classes), "input_channels": info.channels}
    for key, value in found.items():
        if key in space.model_fields_set and getattr(space, key) != value:
            raise InputError(f"space.{key} is {getattr(space, key)}, but {info.source} has {value}; leave it out")
    resolved = type(space).model_validate({**space.model_dump(exclude_unset=True), **found})
    settings = run.settings.model_copy(update={"space": resolved})
    _check_auxiliary(settings)
    return Run(folder=run.folder, settings=settings), info


def _check_auxiliary(settings: RunSettings) -> None:
    """Raises InputError, before anything is trained, where a recipe wants an auxiliary head and no place is marked."""
    recipes = {
        "generate": settings.generate.recipe,
        "front": settings.front.recipe or settings.generate.recipe,
        "retrain": settings.retrain.recipe or settings.generate.recipe,
    }
    asking = [stage for stage, recipe in recipes.items() if recipe.auxiliary]
    if asking:
        graph = settings.space.graph(settings.space.cheapest("macs"))
        if not any(node.get("auxiliary") for node in graph.nodes):
            raise InputError(
                f"{asking[0]}.recipe.auxiliary: networks of space {settings.space.name!r} mark no place for an "
                f"auxiliary head; leave it out, or mark a node with the attribute 'auxiliary'"
            )


def resolve_space(run: Run) -> Run:
    """As :func:`resolve`, but images are left alone where the recipe sets classes and channels itself."""
    if {"classes", "input_channels"} <= run.settings.space.model_fields_set:
        return run
    return resolve(run)[0]


def label_settings(settings: RunSettings) -> dict[str, Any]:
    """The settings that decide a label of ``generate``: labels of one run must agree in them."""
    data = settings.data.model_dump(mode="json", exclude={"download", "root", "memory_megabytes"})
    textures = texture_digest(settings)
    return {
        "seed": settings.seed,
        "data": data,
        "space": settings.space.model_dump(mode="json"),
        "limits": settings.model_dump(mode="json", include={"limits"})["limits"],
        **({"latency": latency_digest(settings.latency)} if "latency" in settings.limits else {}),
        "generate": settings.generate.model_dump(mode="json", include={"recipe", "robustness"}),
        **({} if textures is None else {"textures": textures}),
    }


def digest(*parts: object) -> str:
    """Tells whether anything that a result was made from has changed."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def retrain_settings(settings: RunSettings, recipe: Recipe) -> dict[str, Any]:
    """The same for ``retrain``."""
    kept = label_settings(settings)
    return {
        **{key: kept[key] for key in ("seed", "data", "space", "textures") if key in kept},
        "retrain": {
            "recipe": recipe.model_dump(mode="json"),
            "robustness": settings.generate.model_dump(mode="json")["robustness"],
        },
    }


def saved_settings(store: Store, stage: str) -> dict[str, Any] | None:
    """What a stage's results were made with, None where it has not begun.

    Raises:
        InputError: there are results, and damage has taken what they were made with.
    """
    events = store.events(f"settings:{stage}")
    if not events and store.counts(stage)[1]:
        raise InputError(
            f"{store.path}: the settings that its results of {stage} were made with are lost to damage, so none may be "
            f"added; begin another run with --set name=NAME, or put a copy of the store in its place"
        )
    return None if not events else _completed(json.loads(events[0][1]))


def _completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """With the settings that an earlier version did not know: their defaults are what it did."""
    result = dict(saved)
    for stage in ("generate", "front", "retrain"):
        if "recipe" in saved.get(stage, {}):
            recipe = {**Recipe().model_dump(mode="json"), **saved[stage]["recipe"]}
            result[stage] = {"robustness": None, **saved[stage], "recipe": recipe}
    return result


def claim(store: Store, run: Run, info: DataInfo, stage: str, settings: Mapping[str, Any]) -> None:
    """Bind a stage's results to their settings. Raises InputError naming each key that differs."""
    # The number of images too: labels of other pictures under the same path cannot be compared.
    wanted = {**settings, "images": {**info.sizes, "classes": len(info.classes)}}
    saved = saved_settings(store, stage)
    if saved is not None and saved != json.loads(json.dumps(wanted)) and not store.counts(stage)[1]:
        store.forget_stage(stage)  # nothing was made with them yet
        saved = None
    if saved is None:
        store.event(f"settings:{stage}", json.dumps(wanted))
    else:
        compare(run, stage, saved, wanted)


def compare(run: Run, stage: str, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises InputError where settings differ from those that the run's results were made with."""
    changed = differences(saved, json.loads(json.dumps(wanted)))
    if changed:
        raise InputError(
            f"run {run.name!r}: results of {stage} were made with other settings ({'; '.join(changed)}); "
            f"set them back, or choose another name with --set name=NAME"
        )


def begin(run: Run, info: DataInfo, store: Store, stage: str) -> None:
    """Note the start, and write down the configuration and what it runs on."""
    store.close_open_attempts()
    sweep(run.folder)
    saved = saved_settings(store, "generate")
    if saved is not None:  # a search under other limits does not change what the labels were sampled under
        run = Run(folder=run.folder, settings=run.settings.with_limits(saved["limits"]))
    save_settings(run)
    images = {"source": info.source, "classes": list(info.classes), **info.sizes}
    write_json(run.folder / "meta.json", {**describe_machine(run.settings.seed), "images": images})
    store.event("start", stage)


def add_jobs(store: Store, space: AnySpace, stage: str, planned: Sequence[tuple[Architecture, int, str]]) -> list[Job]:
    """Enter the trainings of a stage; those that are there already stay as they are."""
    known = store.keys()
    new = {key: architecture for architecture, _, _ in planned if (key := architecture.key) not in known}
    costs, graphs = {}, {}
    for key, architecture in new.items():
        graph = space.graph(architecture)
        costs[key] = graph_costs(graph)._asdict()
        graphs[key] = graph.digest()
    return store.add_jobs(stage, planned, costs, graphs)


def texture_digest(settings: RunSettings) -> str | None:
    """What tells that the pictures of frost have changed; None where they are made.

    Raises InputError where ``generate.robustness.textures`` is no folder with pictures.
    """
    robustness = settings.generate.robustness
    if robustness is None or robustness.textures is None:
        return None
    return digest([[path.name, file_digest(path)] for path in texture_files(robustness.textures)])


def label_task(run: Run, info: DataInfo) -> Task:
    """How the labels of ``generate`` are made."""
    settings = run.settings.generate
    weights = run.folder / "weights" if settings.keep_weights else None
    return Task(
        run.settings.space, info, settings.recipe, weights=weights, checkpoints=run.folder / "checkpoints",
        robustness=settings.robustness,
    )  # fmt: skip


def train_jobs(
    run: Run, store: Store, jobs: Sequence[Job], task: Task, progress: ShowProgress | None
) -> dict[str, Any]:
    """Train what has no result yet; counts and seconds of this call."""
    stage = jobs[0].stage
    wanted = {job.id for job in jobs}
    found = len(wanted & store.accuracies(stage).keys())
    started = time.perf_counter()
    try:
        run_jobs(store, jobs, task, run.settings.workers, progress)
    finally:
        seconds = time.perf_counter() - started
        with suppress(UnavailableError):  # a full disk has been told already
            store.event("seconds", json.dumps({"stage": stage, "seconds": seconds}))
    accuracies = [accuracy for job, accuracy in store.accuracies(stage).items() if job in wanted]
    failed = [failure for failure in store.failures(stage, run.settings.workers.retries) if failure.job.id in wanted]
    return {
        "planned": len(wanted),
        "found": found,
        "trained": len(accuracies) - found,
        "failed": len(failed),
        "best": max(accuracies, default=None),
        "seconds": seconds,
    }
