"""One network's training: from a module and two splits to a label."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet import InputError
from training.checkpoint import Checkpoint, Checkpoints
from training.data import Normalisation
from training.images import Split, evaluation_batches, stream, training_batches, whitening_filters
from training.kernels import speed_up
from training.optimizers import Average, Optimizer
from training.recipe import Recipe, drop_chance, ema_decay, learning_rate
from training.recording import RecordedStep
from training.regularisation import auxiliary_head, branches, kept, scores_of

_LOG_EVERY = 20
"""Steps between two looks at the loss."""

_FIRST_SCALE, _SCALE_STEPS = 2.0**12, 1000
"""Of the loss in float16: where it begins, and after how many steps without overflow it is doubled."""


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
    keep_last: bool = False,
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
        keep_last: leave a checkpoint after the last epoch too, for a caller who does more with the trained network.

    Raises:
        DivergedError: the loss was not finite at one of the regular looks.
        InputError: the recipe asks for what this network has no place for.
        StoppedError: ``stop`` answered True; a checkpoint was written first.
        UnavailableError: a checkpoint cannot be written.
    """
    device = training.images.device
    if device.type == "cuda":
        torch.cuda.set_device(device)  # streams, events and recorded graphs are those of the current one
    started = time.perf_counter()
    _reset_peak_memory(device)
    # channels_last: plain NCHW depthwise training on a CPU is several times slower.
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    speed_up(network)
    freeze(network, training, normalisation, recipe)
    size = min(recipe.batch_size, len(training))
    steps_per_epoch = max(1, len(training) // size)
    total = recipe.epochs * steps_per_epoch
    state = TrainingState(network, recipe, device, pieces, seed)
    at = Position()
    saved = None if checkpoints is None else checkpoints.newest()
    if checkpoints is not None and saved is not None:
        try:
            at = state.restore(saved)
        except (RuntimeError, KeyError, TypeError, ValueError):
            # Whole, of this training, and yet it does not fit: the network may be half loaded, so no way on from here.
            checkpoints.clear()
            raise
    before = at.seconds
    step = RecordedStep(state.step, graphs=device.type == "cuda")
    watch_loss = _LossWatch(state.sums)

    def keep() -> None:
        if checkpoints is not None:
            state.show(averaged=False)  # a checkpoint holds each set of weights in its place
            at.seconds = before + time.perf_counter() - started
            checkpoints.save(at.step, state.tensors(), asdict(at))

    def alive() -> None:
        if progress is not None:
            progress(at.step, total)
        if stop():
            keep()
            raise StoppedError(f"stopped at step {at.step} of {total}")

    if at.epoch == recipe.epochs:  # a checkpoint after the last epoch: what it measured is measured again
        state.show(averaged=True)
        loss_sum, correct = _measure(network, measured, normalisation, recipe, alive, pieces).tolist()
        accuracy, loss_value = correct / len(measured), loss_sum / len(measured)
        keep_last = False
    while at.epoch < recipe.epochs:
        network.train()
        batches = training_batches(training, recipe, normalisation, seed, key, at.epoch, at.step_in_epoch)
        numbers = state.numbers(range(at.step, (at.epoch + 1) * steps_per_epoch), steps_per_epoch)
        for (images, labels), (rate, ema) in zip(batches, numbers, strict=True):
            step(images, labels, rate, ema, *state.factors(len(images), at.epoch, seed, f"{key}/{at.step}"))
            at.step += 1
            at.step_in_epoch += 1
            if at.step % _LOG_EVERY == 0:
                watch_loss.look(at.step)
            alive()
            if checkpoints is not None and checkpoints.due():
                check_finite(state.sums[0], at.step)  # what has diverged is not worth keeping
                keep()
        seen = steps_per_epoch * size
        last = at.epoch + 1 == recipe.epochs
        look = last or (watch and (at.epoch + 1) % recipe.validate_every == 0)
        if not look or device.type == "cpu":  # on a GPU it would be a second wait in one epoch
            check_finite(state.sums[0], at.step)
        measured_sums = state.sums
        if look:
            state.show(averaged=True)
            measured_sums = _measure(network, measured, normalisation, recipe, alive, pieces)
            state.show(averaged=last)  # in the end they are the network's own
        # The one place in an epoch where the device is waited for.
        loss_sum, correct, measured_loss, measured_correct = torch.cat([state.sums, measured_sums]).tolist()
        check_finite(loss_sum, at.step)
        if look:
            accuracy, loss_value = measured_correct / len(measured), measured_loss / len(measured)
            check_finite(loss_value, at.step)
            if watch:
                at.curves.validation_epochs.append(at.epoch + 1)
                at.curves.validation_accuracy.append(accuracy)
                at.curves.validation_loss.append(loss_value)
        at.curves.train_loss.append(loss_sum / seen)
        at.curves.train_accuracy.append(correct / seen)
        state.sums.zero_()
        at = replace(at, epoch=at.epoch + 1, step_in_epoch=0)
    if keep_last:
        keep()
        state.show(averaged=True)
    seconds = before + time.perf_counter() - started
    return TrainResult(
        accuracy, loss_value, recipe.epochs, pieces, seconds, _peak_memory(device), at.step * size / seconds, at.curves
    )


def freeze(network: nn.Module, training: Split, normalisation: Normalisation, recipe: Recipe) -> None:
    """Set what the recipe does not have learnt. Raises InputError where there is nothing to whiten with."""
    if recipe.whitening:
        first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
        if first is None or first.in_channels != training.images.shape[3] or first.groups != 1:
            raise InputError("whitening: the network does not begin with a convolution of the images; switch it off")
        filters = whitening_filters(training, normalisation, first.out_channels, first.kernel_size[0])
        with torch.no_grad():
            first.weight.copy_(filters)
        first.weight.requires_grad_(False)
    if not recipe.train_norm_scales:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.weight is not None:
                module.weight.requires_grad_(False)


@dataclass
class Position:
    """How far a training is: with the tensors of :class:`TrainingState` everything that a checkpoint holds.

    Order and augmentation of the images are a function of seed, architecture and epoch, so nothing of them.
    """

    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    seconds: float = 0.0
    curves: Curves = field(default_factory=Curves)


class TrainingState:
    """All tensors that a step changes. They stay where they are, so that a step can be recorded.

    Attributes:
        sums: of the loss and of correct answers over the images of the epoch so far, (2,), float64.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, device: torch.device, pieces: int, seed: int = 0) -> None:
        self._network, self._recipe, self._device, self._pieces = network, recipe, device, pieces
        self._head = auxiliary_head(network, seed, device) if recipe.auxiliary else None
        self._learnt = network if self._head is None else nn.ModuleList([network, self._head])
        self._branches = branches(network) if recipe.drop_path else 0
        self._optimizer = Optimizer(self._learnt, recipe)
        self._average = Average(network) if recipe.ema else None
        self._averaged = False
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        self._scale = torch.full((), _FIRST_SCALE, device=device) if recipe.precision == "float16" else None
        self._grown = torch.zeros((), dtype=torch.int32, device=device)
        self._overflow = torch.zeros((), device=device)

    def numbers(self, steps: range, steps_per_epoch: int) -> list[tuple[Tensor, Tensor]]:
        """(learning rate, weight of the new in the average) of each step, on the device in one transfer."""
        rates = [learning_rate(self._recipe, step, steps_per_epoch) for step in steps]
        weights = [1 - ema_decay(self._recipe, step) for step in steps]
        table = torch.tensor([rates, weights]).to(self._device)
        return list(zip(table[0], table[1], strict=True))

    def factors(self, images: int, epoch: int, seed: int, key: str) -> tuple[Tensor, ...]:
        """What :meth:`step` multiplies the terms of sums by, as its last argument; none where nothing is dropped.

        Drawn outside of the step, which is recorded, and a function of seed and key, so that nothing of it is saved.
        """
        if not self._branches:
            return ()
        generator = stream(seed, key, "drop path", self._device)
        return (kept(self._branches, images, drop_chance(self._recipe, epoch), generator),)

    def step(self, images: Tensor, labels: Tensor, rate: Tensor, ema: Tensor, factors: Tensor | None = None) -> None:
        """One step of training; no value is read on the host."""
        recipe, scale = self._recipe, self._scale
        self._optimizer.zero_grad()
        parts = images.chunk(self._pieces)
        scaled = [None] * len(parts) if factors is None else factors.chunk(self._pieces, dim=1)
        for part, part_labels, part_factors in zip(parts, labels.chunk(self._pieces), scaled, strict=True):
            with autocast(recipe, self._device):
                scores, second = scores_of(self._network, part, self._head, part_factors)
            loss = F.cross_entropy(scores.float(), part_labels, label_smoothing=recipe.label_smoothing)
            whole = loss
            if second is not None:
                extra = F.cross_entropy(second.float(), part_labels, label_smoothing=recipe.label_smoothing)
                whole = loss + recipe.auxiliary * extra
            share = whole * (len(part) / len(images)) if self._pieces > 1 else whole
            (share if scale is None else share * scale).backward()  # type: ignore[no-untyped-call]
            correct = (scores.argmax(dim=1) == part_labels).sum()
            self.sums += torch.stack([loss.detach() * len(part_labels), correct])
        if scale is not None:
            self._overflow.zero_()
            torch._amp_foreach_non_finite_check_and_unscale_(
                self._optimizer.gradients(), self._overflow, scale.double().reciprocal().float()
            )
        if recipe.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self._learnt.parameters(), recipe.gradient_clip)
        self._optimizer.step(rate, None if scale is None else self._overflow)
        if scale is not None:
            torch._amp_update_scale_(scale, self._grown, self._overflow, 2.0, 0.5, _SCALE_STEPS)
        if self._average is not None:
            self._average.update(ema)

    def show(self, averaged: bool) -> None:
        """Give the network its averaged weights, or those that are trained; nothing where there is no average."""
        if self._average is not None and averaged != self._averaged:
            self._average.exchange()
            self._averaged = averaged

    def _own(self) -> dict[str, Tensor]:
        own = {"sums": self.sums, "grown": self._grown}
        return own if self._scale is None else {**own, "scale": self._scale}

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        groups = {"network": self._network.state_dict(), "optimizer": self._optimizer.state(), "own": self._own()}
        if self._average is not None:
            groups["average"] = self._average.state()
        if self._head is not None:
            groups["auxiliary"] = self._head.state_dict()
        return {f"{group}.{name}": tensor for group, named in groups.items() for name, tensor in named.items()}

    def restore(self, saved: Checkpoint) -> Position:
        """The inverse of :meth:`tensors`."""
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in saved.tensors.items():
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = tensor
        self._network.load_state_dict(groups["network"])
        self._optimizer.load_state(groups.get("optimizer", {}))
        if self._average is not None:
            self._average.load_state(groups["average"])
        if self._head is not None:
            self._head.load_state_dict(groups["auxiliary"])
        for name, own in self._own().items():
            own.copy_(groups["own"][name])
        content = dict(saved.content)
        return Position(**{**content, "curves": Curves(**content["curves"])})


class _LossWatch:
    """Looks at the loss now and then. On a GPU it asks for the number and reads it when it has come: nobody waits."""

    def __init__(self, sums: Tensor) -> None:
        self._sums = sums
        self._asked: tuple[Tensor, torch.cuda.Event, int] | None = None

    def look(self, step: int) -> None:
        """Raises DivergedError where the sum of losses, of this step or of an earlier look, is not finite."""
        if self._sums.device.type != "cuda":
            check_finite(self._sums[0], step)
            return
        if self._asked is not None:
            copied, event, then = self._asked
            if not event.query():  # type: ignore[no-untyped-call]
                return
            check_finite(copied[0], then)
        copied = torch.empty_like(self._sums, device="cpu", pin_memory=True).copy_(self._sums, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._asked = (copied, event, step)


@torch.no_grad()
def measure(
    network: nn.Module,
    split: Split,
    normalisation: Normalisation,
    recipe: Recipe,
    alive: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """(accuracy, cross entropy) on a split in evaluation mode; ``alive`` is called each batch. Raises DivergedError."""
    loss_sum, correct = _measure(network, split, normalisation, recipe, alive).tolist()
    check_finite(loss_sum, 0)
    return correct / len(split), loss_sum / len(split)


@torch.no_grad()
def measure_accuracy(
    network: nn.Module,
    split: Split,
    normalisation: Normalisation,
    recipe: Recipe,
    alive: Callable[[], None] = lambda: None,
    pieces: int = 1,
) -> float:
    """Accuracy alone, a fraction: pictures that a network has no finite scores for are answered wrongly, or by chance.

    Args:
        pieces: as in :func:`train`: memory that was short for training is short here.
    """
    _, correct = _measure(network, split, normalisation, recipe, alive, pieces).tolist()
    return float(correct) / len(split)


@torch.no_grad()
def _measure(
    network: nn.Module,
    split: Split,
    normalisation: Normalisation,
    recipe: Recipe,
    alive: Callable[[], None],
    pieces: int = 1,
) -> Tensor:
    """Sums of the cross entropy and of correct answers, (2,), float64, on the device."""
    network.eval()
    device = split.images.device
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    at_once = -(-max(recipe.batch_size, 256) // pieces)  # memory that is short for training is short here
    for images, labels in evaluation_batches(split, at_once, normalisation):
        with autocast(recipe, device):
            scores = network(images).float()
            if recipe.test_time_flip:
                scores = (scores + network(images.flip(3)).float()) / 2
        loss = F.cross_entropy(scores, labels, reduction="sum")
        sums += torch.stack([loss, (scores.argmax(dim=1) == labels).sum()])
        alive()
    return sums


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast | nullcontext[None]:
    """The arithmetic that the recipe asks for, as a context of a forward pass."""
    if recipe.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, recipe.precision))


def check_finite(loss: Tensor | float, step: int) -> None:
    """Raises DivergedError for a loss that is infinite or not a number; on a GPU it is waited for."""
    value = float(loss)
    if not math.isfinite(value):
        raise DivergedError(f"the loss is {value} at step {step}")


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    # Linux: what an earlier training has left is given back, and writing 5 resets the high-water mark.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
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
