"""How one network is trained: every number that decides its label."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from supernet import Settings

RecipeName = Literal["reference", "fast", "families", "davidnet", "darts"]

RECIPES: dict[RecipeName, dict[str, object]] = {
    # As the networks of the published op_subset space were trained, 300 of them on CIFAR-100.
    "reference": {
        "epochs": 60,
        "batch_size": 1024,
        "schedule": "step",
        "nesterov": False,
        "decay_all": True,
    },
    # The same label for less: the rate ends at zero whatever the budget, so that few epochs rank as many do.
    "fast": {
        "epochs": 20,
        "batch_size": 512,
        "schedule": "one_cycle",
        "learning_rate": 0.2,
        "flip": "alternating",
        "ema": 0.98,
    },
    # As random VGG, ResNet and DenseNet families were trained for a study of robustness on CIFAR-10.
    "families": {
        "epochs": 100,
        "batch_size": 128,
        "optimizer": "adam",
        "learning_rate": 0.001,
        "beta1": 0.5,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "warmup": 0.0,
        "label_smoothing": 0.0,
    },
    # The bag of tricks for the ResNet-9 of the davidnet space (Page, How to train your ResNet, 2019).
    "davidnet": {
        "epochs": 10,
        "batch_size": 512,
        "learning_rate": 1.0,
        "bias_rate": 64.0,
        "weight_decay": 5e-4,
        "train_norm_scales": False,
        "label_smoothing": 0.2,
        "flip": "alternating",
        "cutout": 8,
        "ema": 0.998,
        "whitening": True,
        "test_time_flip": True,
    },
    # As the networks of the darts space are trained on CIFAR-10 (Liu et al. 2019).
    "darts": {
        "epochs": 600,
        "batch_size": 96,
        "learning_rate": 0.025,
        "nesterov": False,
        "weight_decay": 3e-4,
        "decay_all": True,
        "schedule": "cosine",
        "warmup": 0.0,
        "label_smoothing": 0.0,
        "cutout": 16,
        "gradient_clip": 5.0,
        "drop_path": 0.2,
        "auxiliary": 0.4,
    },
}
"""Recipes by name, as differences from the defaults: ``recipe: fast``, or ``recipe: {base: fast, epochs: 10}``."""


class Recipe(Settings):
    """One network's training: gradient descent under a schedule that ends low.

    Attributes:
        base: a recipe by name that the other keys change; see ``RECIPES``. Resolved at once, so None ever after.
        epochs: passes over the training images.
        batch_size: images a step; fewer where the training split is smaller.
        optimizer: ``sgd`` with momentum, or ``adam`` (Kingma and Ba 2015).
        learning_rate: the highest of the schedule.
        bias_rate: factor on the learning rate of biases and norms.
        momentum: of ``sgd``.
        nesterov: look ahead along the momentum (Sutskever et al. 2013).
        beta1, beta2: decay of ``adam``'s averages of gradients and of their squares.
        weight_decay: L2 penalty on convolution and linear weights.
        decay_all: on biases and norms too.
        train_norm_scales: learn the scale of each norm; False leaves it at one.
        schedule: ``one_cycle`` rises linearly for ``warmup`` of the steps and falls linearly to zero,
            ``cosine`` rises the same way and falls along a cosine, ``step`` multiplies the rate by
            ``step_factor`` every ``step_epochs`` epochs.
        label_smoothing: share of the target spread over all classes.
        crop_padding: pixels of black border from which a random crop of the original size is cut.
        flip: mirror half of the images left to right, drawn anew each epoch; ``alternating`` mirrors each
            image in every other epoch (Jordan 2024). Leave it off for digits and letters.
        cutout: side of a square at a random place that is blanked (DeVries and Taylor 2017); 0 is none.
        whitening: the first convolution is not learnt but set to the principal components of the training
            images' patches, each scaled to the same variance.
        ema: decay a step of an exponential moving average of the weights, which then are what is measured and
            kept; early steps decay faster. 0 is none.
        gradient_clip: largest norm of the whole gradient; None leaves it alone.
        drop_path: chance that an operation is left out of the sum that it feeds, for each image anew (Larsson et al.
            2017); it rises linearly over the epochs from zero to this. The others count for more in its place.
        auxiliary: weight of the loss of a second head, on the node that the space marks for it (Szegedy et al.
            2015); 0 is none. The head is in training alone: no part of the network, its weights or its costs.
        precision: arithmetic of the forward pass. ``bfloat16`` and ``float16`` are automatic mixed precision:
            weights, norms' statistics and the loss stay float32; ``float16`` scales the loss.
        validate_every: epochs between two looks at the validation split; the last is always looked at.
        test_time_flip: measure on the mean score of each image and its mirror image, which takes twice the
            time and makes labels less noisy.
    """

    base: RecipeName | None = None
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 60
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 512
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 0.1
    bias_rate: Annotated[float, Field(gt=0, le=1000)] = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 4e-4
    decay_all: bool = False
    train_norm_scales: bool = True
    schedule: Literal["one_cycle", "cosine", "step"] = "one_cycle"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2
    step_epochs: Annotated[int, Field(ge=1)] = 25
    step_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    crop_padding: Annotated[int, Field(ge=0, le=128)] = 4
    flip: bool | Literal["alternating"] = True
    cutout: Annotated[int, Field(ge=0, le=1024)] = 0
    whitening: bool = False
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    auxiliary: Annotated[float, Field(ge=0, le=10)] = 0.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    validate_every: Annotated[int, Field(ge=1)] = 1
    test_time_flip: bool = False

    @model_validator(mode="before")
    @classmethod
    def _resolve_base(cls, value: Any) -> Any:  # noqa: ANN401 - whatever a file holds
        if isinstance(value, str):
            value = {"base": value}
        base = value.get("base") if isinstance(value, Mapping) else None
        if isinstance(base, str) and base in RECIPES:  # any other is refused as the key that it is
            return {**RECIPES[base], **value, "base": None}
        return value


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of one step, counted from 0 over the whole training."""
    if recipe.schedule == "step":
        return recipe.learning_rate * recipe.step_factor ** (step // steps_per_epoch // recipe.step_epochs)
    total = recipe.epochs * steps_per_epoch
    rising = recipe.warmup * total
    if step < rising:
        return recipe.learning_rate * (step + 1) / (rising + 1)
    left = (total - step) / (total - rising)
    if recipe.schedule == "cosine":
        return recipe.learning_rate * (1 - math.cos(math.pi * left)) / 2
    return recipe.learning_rate * left


def ema_decay(recipe: Recipe, step: int) -> float:
    """The decay of the weights' average at one step, counted from 0: the first steps are soon forgotten."""
    return min(recipe.ema, (1 + step) / (10 + step))


def drop_chance(recipe: Recipe, epoch: int) -> float:
    """The chance of an operation to be dropped in one epoch, counted from 0."""
    return recipe.drop_path * epoch / recipe.epochs
