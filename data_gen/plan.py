"""Which architectures are trained: a seeded sample, and a second training of some of them."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from supernet import Architecture, Limits, SearchSpace, Settings, UnionSpace, architectures, sample_distinct
from training import Recipe
from training.robustness import RobustnessSettings


class ActiveSettings(Settings):
    """How labels choose what is labelled next.

    Attributes:
        first: random networks trained before there is a model of them.
        batch: networks trained between two models.
        bonus: deviations added to the mean of what a network would be worth; larger explores more.
        patience: batches after which it may stop: neither did Kendall tau on held-out labels move by ``tau_change``,
            nor did the best prediction under the limits rise by ``gain``.
        tau_change: see ``patience``.
        gain: see ``patience``; accuracy, a fraction.
    """

    first: Annotated[int, Field(ge=5, le=1_000_000)] = 40
    batch: Annotated[int, Field(ge=1, le=10_000)] = 20
    bonus: Annotated[float, Field(ge=0, le=100)] = 0.5
    patience: Annotated[int, Field(ge=1, le=10_000)] = 3
    tau_change: Annotated[float, Field(ge=0, le=2)] = 0.05
    gain: Annotated[float, Field(ge=0, le=1)] = 0.002


class GenerateSettings(Settings):
    """How the labels are made.

    Attributes:
        architectures: distinct networks to train, at most. Raising it later adds to the same run.
        active: let the labels so far choose the next ones, batch by batch; None samples all at random.
        repeat_fraction: share of them trained a second time with another seed, which measures how much
            of a label is noise; with ``active`` a share of its first ones.
        recipe: how each is trained.
        robustness: measure each trained network on corrupted images too, which gives labels besides accuracy, such as
            ``robust_accuracy``; None does not.
        keep_weights: keep the weights of each trained network, in the run's folder ``weights``.
    """

    architectures: Annotated[int, Field(ge=1, le=1_000_000)] = 300
    active: ActiveSettings | None = None
    repeat_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    recipe: Recipe = Recipe()
    robustness: RobustnessSettings | None = None
    keep_weights: bool = False


def plan(
    space: SearchSpace, settings: GenerateSettings, limits: Limits, seed: int
) -> list[tuple[Architecture, int, str]]:
    """(architecture, training seed, role) of every training, first trainings before repeats.

    A larger plan begins with the architectures of a smaller one. Of a union each member has as many as the others.

    Raises:
        InputError: the limits leave too few architectures.
    """
    sampled = sample_planned(space, settings.architectures, limits, seed)
    repeated = round(settings.repeat_fraction * len(sampled))
    first = [(architecture, seed, "sample") for architecture in sampled]
    return first + [(architecture, seed + 1, "repeat") for architecture in sampled[:repeated]]


def sample_planned(space: SearchSpace, count: int, limits: Limits, seed: int) -> list[Architecture]:
    """The first architectures of any plan with this seed, in its order.

    Raises:
        InputError: the limits leave too few architectures.
    """
    random = np.random.default_rng([seed, 0])
    if isinstance(space, UnionSpace):
        return architectures(space, space.evenly(count, random, limits))
    return architectures(space, sample_distinct(space, count, random, limits))
