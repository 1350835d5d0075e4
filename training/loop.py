"""One network's training: from a module and two splits to a label."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data import Normalisation
from training.images import Split, evaluation_batches, stream, training_batches
from training.recipe import Recipe, learning_rate

_LOG_EVERY = 20
"""Steps between two looks at the loss: each look waits for the device."""


class DivergedError(RuntimeError):
    """The loss became infinite or not a number."""


@dataclass(frozen=True)
class Curves:
    """One number an epoch; accuracies are fractions. Validation is NaN-free: epochs not looked at are left out."""

    train_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    validation_epochs: list[int] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class TrainResult:
    """What one training gives.

    Attributes:
        accuracy: on the split that was measured, after the last epoch, a fraction; higher is better.
        loss: cross entropy there, without label smoothing, in nats; lower is better.
        seconds: wall time of training and measuring.
        peak_memory: bytes; of the device on a GPU, of the process on a CPU.
    """

    accuracy: float
    loss: float
    epochs: int
    seconds: float
    peak_memory: int
    images_per_second: float
    curves: Curves

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def train(
    network: nn.Module,
    training: Split,
    measured: Split,
    normalisation: Normalisation,
    recipe: Recipe,
    seed: int,
    key: str,
    progress: Callable[[int, int], None] | None = None,
    watch: bool = True,
) -> TrainResult:
    """Train a network in place and measure it after the last epoch.

    Args:
        training, measured: on the device to be used. ``measured`` is never trained on.
        seed, key: of the run and the architecture; with the epoch they fix order and augmentation.
        progress: called with (steps done, steps in all) after each step.
        watch: measure during training as well, for the curves. Off when ``measured`` is the test split,
            which is read once.

    Raises:
        DivergedError: the loss was not finite at one of the regular looks.
    """
    device = training.images.device
    started = time.perf_counter()
    _reset_peak_memory(device)
    # channels_last: plain NCHW depthwise training on a CPU is several times slower.
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _optimizer(network, recipe)
    steps_per_epoch = max(1, len(training) // min(recipe.batch_size, len(training)))
    total, step = recipe.epochs * steps_per_epoch, 0
    curves = Curves()

    def alive() -> None:
        if progress is not None:
            progress(step, total)

    for epoch in range(recipe.epochs):
        network.train()
        loss_sum = torch.zeros((), device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)
        seen = 0
        for images, labels in training_batches(training, recipe, normalisation, stream(seed, key, epoch)):
            rate = learning_rate(recipe, step, steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with _autocast(recipe, device):
                scores = network(images)
            loss = F.cross_entropy(scores.float(), labels, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if recipe.gradient_clip is not None:
                nn.utils.clip_grad_norm_(network.parameters(), recipe.gradient_clip)
            optimizer.step()
            loss_sum += loss.detach() * len(labels)
            correct += (scores.argmax(dim=1) == labels).sum()
            seen += len(labels)
            step += 1
            if step % _LOG_EVERY == 0:
                _check(loss_sum, step)
            alive()
        _check(loss_sum, step)
        curves.train_loss.append(float(loss_sum) / seen)
        curves.train_accuracy.append(float(correct) / seen)
        last = epoch + 1 == recipe.epochs
        if watch and (last or (epoch + 1) % recipe.validate_every == 0):
            accuracy, loss_value = measure(network, measured, normalisation, recipe, alive)
            curves.validation_epochs.append(epoch + 1)
            curves.validation_accuracy.append(accuracy)
            curves.validation_loss.append(loss_value)
    if watch:
        accuracy, loss_value = curves.validation_accuracy[-1], curves.validation_loss[-1]
    else:
        accuracy, loss_value = measure(network, measured, normalisation, recipe, alive)
    seconds = time.perf_counter() - started
    images_per_second = step * min(recipe.batch_size, len(training)) / seconds
    return TrainResult(accuracy, loss_value, recipe.epochs, seconds, _peak_memory(device), images_per_second, curves)


@torch.no_grad()
def measure(
    network: nn.Module,
    split: Split,
    normalisation: Normalisation,
    recipe: Recipe,
    alive: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """(accuracy, cross entropy) on a split in evaluation mode; ``alive`` is called each batch. Raises DivergedError."""
    network.eval()
    device = split.images.device
    loss_sum = torch.zeros((), device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    for images, labels in evaluation_batches(split, max(recipe.batch_size, 256), normalisation):
        with _autocast(recipe, device):
            scores = network(images)
        loss_sum += F.cross_entropy(scores.float(), labels, reduction="sum")
        correct += (scores.argmax(dim=1) == labels).sum()
        alive()
    _check(loss_sum, 0)
    return float(correct) / len(split), float(loss_sum) / len(split)


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Weight decay for convolution and linear weights alone."""
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0)


def _autocast(recipe: Recipe, device: torch.device) -> torch.autocast | nullcontext[None]:
    if recipe.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _check(loss: Tensor, step: int) -> None:
    value = float(loss)
    if not math.isfinite(value):
        raise DivergedError(f"the loss is {value} at step {step}")


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:  # Linux: writing 5 resets the high-water mark of this process
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
