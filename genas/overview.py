"""Questions that keep nothing: how long a run would take, which predictor is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_gen import WorkerSettings, device_names, plan
from genas.config import Run, recipe_of
from genas.labelling import first_labels
from genas.stages import resolve, single_thread
from predictor.evaluation import Evaluation, Progress, random_splits, read_split
from predictor.evaluation import evaluate as evaluate_predictors
from predictor.models import MODELS
from supernet import ArchGraph, LabelTable
from supernet.network import build_network
from training import DataInfo, Recipe, Split, load_split, train
from training.robustness import RobustnessSettings

_TIMED_ON_CPU = 32
"""Images of a timed batch there."""


def estimate(run: Run) -> dict[str, Any]:
    """What a run would do: trainings, and seconds from one timed batch of an architecture of median MACs."""
    run, info = resolve(run)
    settings, space = run.settings, run.settings.space
    active = settings.generate.active is not None
    planned = plan(space, first_labels(settings.generate), settings.bounds, settings.seed)
    trainings = settings.generate.architectures if active else len(planned)  # at most, where labels may settle before
    retrainings = (3 + len(settings.retrain.handmade)) * settings.retrain.seeds
    devices = device_names(settings.workers)
    macs = space.costs(np.array([architecture.choices for architecture, _, _ in planned], np.int8))["macs"]
    graph = space.graph(planned[int(np.argsort(macs)[len(macs) // 2])][0])
    split, sizes = load_split(info, "train"), info.sizes
    recipe = settings.generate.recipe
    again = settings.retrain.recipe or recipe
    looks = -(-recipe.epochs // recipe.validate_every)
    with single_thread():  # as in a worker
        step = _step_seconds(graph, split, info, recipe, devices[0])
        corrupted = _corrupted(settings.generate.robustness, sizes["validation"])
        one = _training_seconds(step, recipe, sizes["train"], looks * sizes["validation"] + corrupted)
        smaller = [
            _training_seconds(step, recipe_of(recipe, size), size.train_images, sizes["validation"] + corrupted)
            for size in (settings.study.sizes if settings.study is not None else ())
        ]
        step = _step_seconds(graph, split, info, again, devices[0])
        measured = sizes["test"] + _corrupted(settings.generate.robustness, sizes["test"])
        other = _training_seconds(step, again, sizes["train"] + sizes["validation"], measured)
    once = len({architecture for architecture, _, _ in planned})
    side_by_side = len(set(devices)) if devices[0] != "cpu" else len(devices)  # sharing a card is not counted on
    return {
        "trainings": trainings,
        "retrainings": retrainings,
        "workers": len(devices),
        "device": devices[0],
        "seconds_each": one,
        "generate_seconds": one * -(-trainings // side_by_side),
        "study": once * len(smaller),
        "study_seconds": sum(smaller) * -(-once // side_by_side),
        "retrain_seconds": other * -(-retrainings // side_by_side),
        "images": dict(info.sizes),
        "classes": len(info.classes),
        "notes": [*_notes(recipe, sizes), *_of_cluster(settings.workers)],
    }


def _corrupted(robustness: RobustnessSettings | None, images: int) -> int:
    """Corrupted images that a training is measured on."""
    if robustness is None:
        return 0
    return (1 + len(list(robustness.cells))) * min(images, robustness.images or images)


def _notes(recipe: Recipe, sizes: Mapping[str, int]) -> list[str]:
    """What a user may not have meant."""
    notes = []
    if recipe.batch_size > sizes["train"]:
        notes.append(
            f"generate.recipe.batch_size {recipe.batch_size} is more than the {sizes['train']} training images: "
            "one step an epoch"
        )
    if sizes["validation"] < 200:
        notes.append(
            f"{sizes['validation']} validation images make coarse labels (steps of {1 / sizes['validation']:.1%}); "
            "raise data.validation_fraction"
        )
    return notes


def _of_cluster(workers: WorkerSettings) -> list[str]:
    if workers.runner == "local":
        return []
    return [
        f"workers.runner is ray: the hours are those of the workers of this machine, not of the cluster at "
        f"{workers.address}, which is not asked"
    ]


def _step_seconds(graph: ArchGraph, split: Split, info: DataInfo, recipe: Recipe, device: str) -> float:
    """Seconds of one training step with a whole batch, timed after a warm-up; a batch measured counts a third.

    On a CPU a batch is timed by a part of it: there a recipe that was made for GPUs takes minutes a step.
    """
    on_cpu = device == "cpu"
    batch = min(recipe.batch_size, len(split), _TIMED_ON_CPU if on_cpu else recipe.batch_size)
    one = Split(split.images[:batch], split.labels[:batch]).to(torch.device(device))
    network = build_network(graph, 0)
    epochs = 2 if on_cpu else 20  # the first few steps on a GPU are not the recorded ones
    quick = recipe.model_copy(update={"epochs": epochs, "learning_rate": 1e-6})
    train(network, one, one, info.normalisation, quick, 0, "estimate", watch=False)
    result = train(network, one, one, info.normalisation, quick, 0, "estimate", watch=False)
    return result.seconds / (epochs + 0.33) * recipe.batch_size / batch


def _training_seconds(step: float, recipe: Recipe, images: int, measured: int) -> float:
    """Seconds of a training on so many images that measures so many in all."""
    return step * (recipe.epochs * images + measured / 3) / recipe.batch_size


def evaluate(
    table: LabelTable,
    metric: str = "accuracy",
    train_size: int | None = None,
    trials: int = 20,
    seed: int = 0,
    models: Sequence[str] | None = None,
    split_file: Path | None = None,
    use_features: bool = True,
    progress: Progress | None = None,
) -> Evaluation:
    """Models on the same random splits of a table.

    Args:
        train_size: rows to fit on; None is five sixths of them, or all that the split file has to fit on.
        models: names of models; None is all.
        split_file: CSV of ids and ``train`` or ``test``: rows to fit on are drawn from the former, and the latter are
            held out.
        use_features: whether the table's ``features`` enter, those that all rows have.

    Raises:
        InputError: see :func:`predictor.evaluate`, :func:`predictor.random_splits` and :func:`predictor.read_split`.
    """
    given = None if split_file is None else read_split(split_file, table)
    if train_size is None:
        train_size = round(len(table) * 5 / 6) if given is None else len(given.train)
    splits = random_splits(len(table), train_size, trials, seed, given)
    names = tuple(MODELS) if models is None else tuple(models)
    with single_thread():
        return evaluate_predictors(table, metric, splits, seed, names, use_features, progress)
