"""One network's training: from a module and two splits to a label."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.checkpoint import Checkpoint, Checkpoints
from training.data import Normalisation
from training.images import Split, evaluation_batches, stream, training_batches
from training.recipe import Recipe, learning_rate
from training.sgd import Sgd

_LOG_EVERY = 20
"""Steps between two looks at the loss: each look waits for the device."""


class DivergedError(RuntimeError):
    """The loss became infinite or not a number."""


class StoppedError(RuntimeError):
    """The training was asked to stop, and has left a checkpoint where it has somewhere to leave one."""


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
        pieces: in how many pieces each batch was passed.
        seconds: wall time of training and measuring, that before an interruption included.
        peak_memory: bytes; of the device on a GPU, of the process on a CPU.
    """

    accuracy: float
    loss: float
    epochs: int
    pieces: int
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
    pieces: int = 1,
    checkpoints: Checkpoints | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train a network in place and measure it after the last epoch.

    With checkpoints it goes on where an earlier call was cut off; on the CPU the result is bit for bit that
    of a training that was not.

    Args:
        training, measured: on the device to be used. ``measured`` is never trained on.
        seed, key: of the run and the architecture; with the epoch they fix order and augmentation.
        progress: called with (steps done, steps in all) after each step and each batch measured.
        watch: measure during training as well, for the curves. Off when ``measured`` is the test split,
            which is read once.
        pieces: each batch is passed in so many pieces and their gradients are added: less memory, the same
            recipe but for the batch norms, which see a piece at a time.
        stop: asked after each step and each batch measured.

    Raises:
        DivergedError: the loss was not finite at one of the regular looks.
        StoppedError: ``stop`` answered True; a checkpoint was written first.
        UnavailableError: a checkpoint cannot be written.
    """
    device = training.images.device
    started = time.perf_counter()
    _reset_peak_memory(device)
    # channels_last: plain NCHW depthwise training on a CPU is several times slower.
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Sgd(network, recipe.momentum, recipe.weight_decay)
    size = min(recipe.batch_size, len(training))
    steps_per_epoch = max(1, len(training) // size)
    total = recipe.epochs * steps_per_epoch
    at = _Position.begin(device)
    saved = None if checkpoints is None else checkpoints.newest()
    if checkpoints is not None and saved is not None:
        try:
            at = _restore(saved, network, optimizer, device)
        except (RuntimeError, KeyError, TypeError, ValueError):
            # Whole, of this training, and yet it does not fit: the network may be half loaded, so no way on from here.
            checkpoints.clear()
            raise
    before = at.seconds

    def keep() -> None:
        if checkpoints is not None:
            at.seconds = before + time.perf_counter() - started
            checkpoints.save(at.step, *_state(network, optimizer, at))

    def alive() -> None:
        if progress is not None:
            progress(at.step, total)
        if stop():
            keep()
            raise StoppedError(f"stopped at step {at.step} of {total}")

    while at.epoch < recipe.epochs:
        network.train()
        batches = training_batches(training, recipe, normalisation, stream(seed, key, at.epoch), at.step_in_epoch)
        for images, labels in batches:
            optimizer.zero_grad()
            for part, part_labels in zip(images.chunk(pieces), labels.chunk(pieces), strict=True):
                with _autocast(recipe, device):
                    scores = network(part)
                loss = F.cross_entropy(scores.float(), part_labels, label_smoothing=recipe.label_smoothing)
                (loss * (len(part) / len(images)) if pieces > 1 else loss).backward()  # type: ignore[no-untyped-call]
                at.loss_sum += loss.detach() * len(part_labels)
                at.correct += (scores.argmax(dim=1) == part_labels).sum()
            if recipe.gradient_clip is not None:
                nn.utils.clip_grad_norm_(network.parameters(), recipe.gradient_clip)
            optimizer.step(learning_rate(recipe, at.step, steps_per_epoch))
            at.seen += len(labels)
            at.step += 1
            at.step_in_epoch += 1
            if at.step % _LOG_EVERY == 0:
                _check(at.loss_sum, at.step)
            alive()
            if checkpoints is not None and checkpoints.due():
                _check(at.loss_sum, at.step)  # what has diverged is not worth keeping
                keep()
        _check(at.loss_sum, at.step)
        last = at.epoch + 1 == recipe.epochs
        if last or (watch and (at.epoch + 1) % recipe.validate_every == 0):
            accuracy, loss_value = measure(network, measured, normalisation, recipe, alive)
            if watch:
                at.curves.validation_epochs.append(at.epoch + 1)
                at.curves.validation_accuracy.append(accuracy)
                at.curves.validation_loss.append(loss_value)
        at.curves.train_loss.append(float(at.loss_sum) / at.seen)
        at.curves.train_accuracy.append(float(at.correct) / at.seen)
        at = at.next_epoch(device)
    seconds = before + time.perf_counter() - started
    return TrainResult(
        accuracy, loss_value, recipe.epochs, pieces, seconds, _peak_memory(device), at.step * size / seconds, at.curves
    )


@dataclass
class _Position:
    """How far a training is: everything that a checkpoint holds besides weights and momentum.

    Order and augmentation of the images are a function of seed, architecture and epoch, so nothing of them.
    """

    epoch: int
    step: int
    step_in_epoch: int
    seen: int
    seconds: float
    curves: Curves
    loss_sum: Tensor
    correct: Tensor

    @staticmethod
    def begin(device: torch.device) -> _Position:
        zero, none = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
        return _Position(0, 0, 0, 0, 0.0, Curves(), zero, none)

    def next_epoch(self, device: torch.device) -> _Position:
        fresh = _Position.begin(device)
        return replace(fresh, epoch=self.epoch + 1, step=self.step, seconds=self.seconds, curves=self.curves)


def _state(network: nn.Module, optimizer: Sgd, at: _Position) -> tuple[dict[str, Tensor], dict[str, object]]:
    """(tensors, plain values) of a checkpoint."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.state().items()}
    tensors |= {"loss_sum": at.loss_sum, "correct": at.correct}
    plain = {name: getattr(at, name) for name in ("epoch", "step", "step_in_epoch", "seen", "seconds")}
    return tensors, {**plain, "curves": asdict(at.curves)}


def _restore(saved: Checkpoint, network: nn.Module, optimizer: Sgd, device: torch.device) -> _Position:
    """The inverse of :func:`_state`."""
    tensors: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}}
    for name, tensor in saved.tensors.items():
        group, _, rest = name.partition(".")
        if rest:
            tensors[group][rest] = tensor
    network.load_state_dict(tensors["network"])
    optimizer.load_state(tensors["optimizer"])
    content = dict(saved.content)
    curves = Curves(**content.pop("curves"))
    loss_sum, correct = saved.tensors["loss_sum"].to(device), saved.tensors["correct"].to(device)
    return _Position(**content, curves=curves, loss_sum=loss_sum, correct=correct)


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
