"""One network for all architectures of a space, trained one architecture a step, and what its weights say of each.

Single path one-shot (Guo et al. 2020): every step draws an architecture as the space samples it, and trains the weights
that this one uses. An architecture's *inherited accuracy* is that of its part of the trained network.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from supernet import InputError, SearchSpace
from supernet.sharing import SharedNetwork
from supernet.supergraph import Active
from training.checkpoint import Checkpoints
from training.data import Normalisation
from training.images import Split, training_batches
from training.kernels import speed_up
from training.loop import Position, StoppedError, TrainingState, autocast, check_finite, freeze, measure_accuracy
from training.recipe import Recipe

_KEY = "one-shot"
"""Stands where a single training has the architecture's key: with the seed it fixes order and augmentation."""

_DRAWS = 1
"""Sets the architectures of the steps apart from the sample that ``generate`` trains, which is seeded with 0."""

_LOG_EVERY = 20


class SinglePath(nn.Module):
    """One architecture of a shared network as an ordinary network: images to scores.

    Attributes:
        active: its options; may be set to those of another.
    """

    def __init__(self, shared: SharedNetwork, active: Active = ()) -> None:
        super().__init__()
        self.shared, self.active = shared, active

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channels, side, side) to scores (batch, classes)."""
        scores: Tensor = self.shared(images, self.active)
        return scores


@dataclass(frozen=True)
class OneShotResult:
    """What the training of a shared network tells.

    Attributes:
        train_loss, train_accuracy: of each epoch's steps, each of an architecture of its own; accuracies are fractions.
        seconds: wall time, that before an interruption included.
    """

    epochs: int
    steps: int
    seconds: float
    images_per_second: float
    train_loss: list[float]
    train_accuracy: list[float]

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def check_recipe(recipe: Recipe) -> None:
    """Raises InputError for what only the training of a single network has a place for."""
    for name in ("drop_path", "auxiliary"):
        if getattr(recipe, name):
            raise InputError(f"one-shot training: recipe.{name} is for single networks; leave it out")


def drawn(space: SearchSpace, seed: int, step: int) -> tuple[int, ...]:
    """The choices that are trained in one step, counted from 0: as the space samples them, limits not looked at."""
    row = space.sample(1, np.random.default_rng([seed, _DRAWS, step]))[0]
    return tuple(row.tolist())


def prepare_shared(shared: SharedNetwork, device: torch.device) -> None:
    """Move a shared network to a device, and have it calculate as fast as it can there, as training does."""
    shared.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    speed_up(shared)


def train_one_shot(
    shared: SharedNetwork,
    space: SearchSpace,
    training: Split,
    normalisation: Normalisation,
    recipe: Recipe,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    checkpoints: Checkpoints | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> OneShotResult:
    """Train a shared network in place, one architecture a step.

    With checkpoints it goes on where an earlier call was cut off; on the CPU the weights are bit for bit those of a
    training that was not. The batch norms' running statistics are those of all architectures together, fit for none.

    Args:
        space: that the network is of.
        training: on the device to be used.
        progress: called with (steps done, steps in all) after each step.
        stop: asked after each step.

    Raises:
        DivergedError: the loss was not finite at one of the regular looks.
        InputError: the recipe asks for what a shared network has no place for.
        StoppedError: ``stop`` answered True; a checkpoint was written first, where there is somewhere to write it.
        UnavailableError: a checkpoint cannot be written.
    """
    check_recipe(recipe)
    device = training.images.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    started = time.perf_counter()
    prepare_shared(shared, device)
    freeze(shared, training, normalisation, recipe)
    size = min(recipe.batch_size, len(training))
    steps_per_epoch = max(1, len(training) // size)
    total = recipe.epochs * steps_per_epoch
    path = SinglePath(shared)
    # Each step takes other weights, so none is recorded; those without a gradient are left as they are.
    state = TrainingState(path, recipe, device, pieces=1, seed=seed)
    at = Position()
    saved = None if checkpoints is None else checkpoints.newest()
    if checkpoints is not None and saved is not None:
        try:
            at = state.restore(saved)
        except (RuntimeError, KeyError, TypeError, ValueError):
            checkpoints.clear()  # the network may be half loaded
            raise
    before = at.seconds

    def keep() -> None:
        if checkpoints is not None:
            at.seconds = before + time.perf_counter() - started
            checkpoints.save(at.step, state.tensors(), asdict(at))

    shared.train()
    while at.epoch < recipe.epochs:
        batches = training_batches(training, recipe, normalisation, seed, _KEY, at.epoch, at.step_in_epoch)
        numbers = state.numbers(range(at.step, (at.epoch + 1) * steps_per_epoch), steps_per_epoch)
        for (images, labels), (rate, ema) in zip(batches, numbers, strict=True):
            path.active = shared.graph.encode(drawn(space, seed, at.step))
            state.step(images, labels, rate, ema)
            at.step += 1
            at.step_in_epoch += 1
            if at.step % _LOG_EVERY == 0:
                check_finite(state.sums[0], at.step)
            if progress is not None:
                progress(at.step, total)
            if stop():
                keep()
                raise StoppedError(f"stopped at step {at.step} of {total}")
            if checkpoints is not None and checkpoints.due():
                check_finite(state.sums[0], at.step)
                keep()
        loss_sum, correct = state.sums.tolist()
        check_finite(loss_sum, at.step)
        at.curves.train_loss.append(loss_sum / (steps_per_epoch * size))
        at.curves.train_accuracy.append(correct / (steps_per_epoch * size))
        state.sums.zero_()
        at = replace(at, epoch=at.epoch + 1, step_in_epoch=0)
    state.show(averaged=True)
    seconds = before + time.perf_counter() - started
    curves = at.curves
    return OneShotResult(
        recipe.epochs, at.step, seconds, at.step * size / seconds, curves.train_loss, curves.train_accuracy
    )


@torch.no_grad()
def inherited_accuracy(
    shared: SharedNetwork,
    active: Active,
    training: Split,
    measured: Split,
    normalisation: Normalisation,
    recipe: Recipe,
    seed: int = 0,
    images: int = 2048,
    alive: Callable[[], None] = lambda: None,
) -> float:
    """The accuracy of one architecture with the weights of a trained shared network, a fraction; higher is better.

    Its batch norms get statistics of its own, from some training images (Yu and Huang 2019): the shared ones are of
    all architectures. The shared network is left as it was, those statistics included.

    Args:
        active: the architecture, as ``shared.graph.encode`` gives it.
        training, measured: on the network's device; statistics come from the first alone.
        recipe: how the images were augmented, and in what arithmetic to measure.
        seed: which images the statistics are from; the same for all architectures that are compared.
        images: so many training images, rounded up to whole batches; at most all.
        alive: called each batch.
    """
    path = SinglePath(shared, active)
    norms = [module for module in shared.modules() if isinstance(module, nn.BatchNorm2d)]
    buffers = [buffer for norm in norms for buffer in norm.buffers()]
    before = [buffer.clone() for buffer in buffers]
    momenta = [norm.momentum for norm in norms]
    was_training = shared.training
    device = measured.images.device
    batches = training_batches(training, recipe, normalisation, seed, "calibration", 0)
    count = -(-images // min(recipe.batch_size, len(training)))
    try:
        path.train()
        for number, (batch, _) in enumerate(islice(batches, count)):
            for norm in norms:
                norm.momentum = 1 / (number + 1)  # the mean over the batches
            with autocast(recipe, device):
                path(batch)
            alive()
        return measure_accuracy(path, measured, normalisation, recipe, alive)
    finally:
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(old)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        shared.train(was_training)
