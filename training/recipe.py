"""How one network is trained: every number that decides its label."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from supernet import Settings


class Recipe(Settings):
    """Stochastic gradient descent with momentum and a schedule that ends low.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step; fewer where the training split is smaller.
        learning_rate: the highest of the schedule.
        momentum: Nesterov momentum.
        weight_decay: L2 penalty on convolution and linear weights; norms and biases are left alone.
        schedule: ``one_cycle`` rises linearly for ``warmup`` of the steps and falls linearly to zero,
            ``cosine`` rises the same way and falls along a cosine, ``step`` multiplies the rate by
            ``step_factor`` every ``step_epochs`` epochs.
        label_smoothing: share of the target spread over all classes.
        crop_padding: pixels of black border from which a random crop of the original size is cut.
        flip: mirror half of the images left to right; leave it off for digits and letters.
        gradient_clip: largest norm of the whole gradient; None leaves it alone.
        precision: arithmetic of the forward pass; ``bfloat16`` is automatic mixed precision.
        validate_every: epochs between two looks at the validation split; the last is always looked at.
    """

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 60
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 512
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 4e-4
    schedule: Literal["one_cycle", "cosine", "step"] = "one_cycle"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2
    step_epochs: Annotated[int, Field(ge=1)] = 25
    step_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    crop_padding: Annotated[int, Field(ge=0, le=128)] = 4
    flip: bool = True
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    validate_every: Annotated[int, Field(ge=1)] = 1


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
