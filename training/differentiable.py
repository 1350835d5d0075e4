"""Differentiable search: weights of a shared network and weights of its architecture, in turn (Liu et al. 2019).

First-order bilevel optimisation. The weights learn from one half of the training images, the architecture from the
other, in alternating steps; the validation and test splits are not seen. The architecture may be one set of logits, or
a function of the preference between accuracy and cost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.sharing import SharedNetwork
from supernet.supergraph import Active, SuperGraph, dominant, free_share, skip_share
from training.checkpoint import Checkpoints
from training.data import Normalisation
from training.images import Split, stream, training_batches
from training.kernels import speed_up
from training.loop import DivergedError, StoppedError, autocast
from training.optimizers import Optimizer
from training.recipe import Recipe, learning_rate
from training.relaxation import ExpectedCost, Hypernetwork, Plain, Preferences, Relaxed, beta_decay
from training.search_settings import DifferentiableSettings

_CLIP = 5.0
"""Largest norm of the weights' gradient (Liu et al. 2019)."""

_BUDGET_PENALTY = 20.0
"""Of the squared distance from a budget, in units of the range of costs: a tenth of the range is a fifth of a loss."""

_COLLAPSED = 2 / 3
"""Share of operations without weights from which a search for accuracy is said to have collapsed."""


@dataclass(frozen=True)
class Objective:
    """What one search is for, with the preference r from 0 (accuracy) to 1 (cost).

    Weighted: least (1 - r) x cross entropy / log(classes) + r x expected cost (linear scalarisation). As a budget:
    least cross entropy / log(classes) where the expected cost is 1 - r, held there by a quadratic penalty (a constraint
    in place of a weight, Haimes et al. 1971). Weights have to match the scale of the losses, which is not known before,
    or all preferences end at one end of the front; budgets reach all of it, also where it is not convex.

    Attributes:
        preference: r; None draws it anew in each step, for a hypernetwork.
        budget: as a budget, not weighted.
        norm: adds ``norm_weight`` times the L1 or the L2 norm of the shared weights to what the weights learn, as the
            published sweep does (MOOD-NAS): strong regularisation leaves the operations with weights little to say.
        norm_weight: its strength.
    """

    preference: float | None = None
    budget: bool = False
    norm: Literal["l1", "l2"] | None = None
    norm_weight: float = 0.0


@dataclass(frozen=True)
class Epoch:
    """One epoch of a search.

    Attributes:
        loss: cross entropy on the half that weights learn from, in nats; lower is better.
        accuracy: of the mixture on the other half, a fraction; None during the warm-up.
        cost: expected, as a share of the range of the space, 0 to 1.
        norm: of the shared weights, where one is asked for.
        skip_share, free_share: share of identities, and of all operations without weights, in what the logits stand
            for when accuracy alone counts (of budgets at half of the range, else at the search's own preference).
        dominant: share of each operation there.
    """

    epoch: int
    loss: float
    accuracy: float | None
    cost: float
    norm: float
    skip_share: float
    free_share: float
    dominant: dict[str, float]


@dataclass(frozen=True)
class Searched:
    """What a search gives.

    Attributes:
        collapsed: whether two thirds or more of the operations that it ends with have no weights, where accuracy alone
            counts, or half of the budget may be spent; of a search at another preference, or for a norm, that tells
            nothing, and it is False.
        history: one entry an epoch.
        seconds: wall time, that before an interruption included.
    """

    preferences: Preferences
    collapsed: bool
    history: tuple[Epoch, ...]
    seconds: float
    images_per_second: float


@dataclass
class _Position:
    """How far a search is; with the tensors everything that a checkpoint holds."""

    epoch: int = 0
    step_in_epoch: int = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)
    history: list[dict[str, Any]] = field(default_factory=list)


def search_differentiably(
    graph: SuperGraph,
    target: SuperGraph,
    cost: str,
    training: Split,
    normalisation: Normalisation,
    settings: DifferentiableSettings,
    augmentation: Recipe,
    objective: Objective,
    seed: int,
    key: str,
    progress: Callable[[int, int], None] | None = None,
    checkpoints: Checkpoints | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Searched:
    """Search one shared network; on the CPU the same seed gives the same result, and so does one that was cut off.

    Args:
        graph: the network that is searched.
        target: that of the networks that are to be trained, whose cost counts: the same choices, maybe deeper or wider.
        cost: one of ``COST_NAMES``.
        training: on the device to be used, split in two halves by classes.
        augmentation: its crop, flip and cutout are used.
        key: with the seed decides halves, order, augmentation and draws; first weights are the seed's.
        progress: called with (steps done, steps in all).

    Raises:
        DivergedError: the loss was not finite.
        InputError: channels that ``settings.partial`` does not divide.
        StoppedError: ``stop`` answered True; a checkpoint was written first.
    """
    device = training.images.device
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shared = SharedNetwork(graph, settings.partial, searching=True)
    speed_up(shared)
    shared.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    count = Relaxed.count(graph)
    logits = (Hypernetwork(count, seed) if objective.preference is None else Plain(count, seed)).to(device)
    recipe = _recipe(settings, augmentation)
    adam = Recipe(
        optimizer="adam", beta1=0.5, weight_decay=settings.architecture_decay, decay_all=True,
        learning_rate=settings.architecture_rate,
    )  # fmt: skip
    state = _State(shared, logits, Optimizer(shared, recipe), Optimizer(logits, adam))
    halves = _halves(training, seed, key)
    size = min(recipe.batch_size, *(len(half) for half in halves))
    recipe = recipe.model_copy(update={"batch_size": size})
    steps = min(len(half) for half in halves) // size
    at = _Position()
    saved = None if checkpoints is None else checkpoints.newest()
    if checkpoints is not None and saved is not None:
        try:
            state.load(saved.tensors)
            at = _Position(**saved.content)
        except (RuntimeError, KeyError, TypeError, ValueError):
            # Whole, of this search, and yet it does not fit: the network may be half loaded, so no way on from here.
            checkpoints.clear()
            raise
    before = at.seconds
    expected = ExpectedCost(target, cost, device)
    learnt = [parameter for parameter in shared.parameters() if parameter.requires_grad]
    step = _Step(state, graph, expected, settings, objective, recipe, learnt)

    def keep() -> None:
        if checkpoints is not None:
            at.seconds = before + time.perf_counter() - started
            checkpoints.save(at.epoch * steps + at.step_in_epoch, state.tensors(), asdict(at))

    while at.epoch < settings.epochs:
        shared.train()
        learns = at.epoch >= settings.warmup
        names = (f"{key}/weights", f"{key}/architecture")
        first, second = (
            training_batches(half, recipe, normalisation, seed, name, at.epoch, at.step_in_epoch)
            for half, name in zip(halves, names, strict=True)
        )
        for weights_batch, architecture_batch in zip(first, second, strict=False):  # halves may differ by an image
            if at.step_in_epoch == steps:
                break
            generator = stream(seed, key, f"draws {at.epoch} {at.step_in_epoch}")
            temperature = _temperature(settings, at.epoch)
            rate = learning_rate(recipe, at.epoch * steps + at.step_in_epoch, steps)
            if learns:
                correct = step.architecture(*architecture_batch, temperature, at.epoch, generator)
                at.sums[1] += correct / size
            loss, price, norm = step.weights(*weights_batch, temperature, rate, generator)
            at.sums[0] += loss
            at.sums[2] += price
            at.sums[3] = norm
            at.step_in_epoch += 1
            if progress is not None:
                progress(at.epoch * steps + at.step_in_epoch, settings.epochs * steps)
            if stop():
                keep()
                raise StoppedError(f"stopped in epoch {at.epoch + 1} of {settings.epochs}")
            if checkpoints is not None and checkpoints.due():
                keep()
        at.history.append(asdict(_epoch(at, steps, learns, state.preferences(graph, settings, at.epoch), objective)))
        at.epoch, at.step_in_epoch, at.sums = at.epoch + 1, 0, [0.0] * 4
    found = state.preferences(graph, settings, settings.epochs - 1)
    last = found.architecture(_watched(objective))
    for_accuracy = not objective.preference and objective.norm is None
    collapsed = for_accuracy and free_share(graph, last) >= _COLLAPSED
    seconds = before + time.perf_counter() - started
    history = tuple(Epoch(**one) for one in at.history)
    passes = settings.epochs + max(0, settings.epochs - settings.warmup)
    return Searched(found, collapsed, history, seconds, passes * steps * size / seconds)


def _watched(objective: Objective) -> float:
    """The preference at which collapse is watched: for accuracy; of budgets half, where what is spent is chosen."""
    if objective.preference is None:
        return 0.5 if objective.budget else 0.0
    return objective.preference


def _recipe(settings: DifferentiableSettings, augmentation: Recipe) -> Recipe:
    """How the weights learn."""
    return Recipe(
        epochs=settings.epochs, batch_size=settings.batch_size, optimizer="sgd", momentum=0.9, nesterov=False,
        learning_rate=settings.learning_rate, schedule="cosine", warmup=0.0, weight_decay=settings.weight_decay,
        decay_all=True, precision=settings.precision, crop_padding=augmentation.crop_padding, flip=augmentation.flip,
        cutout=augmentation.cutout,
    )  # fmt: skip


def _halves(split: Split, seed: int, key: str) -> tuple[Split, Split]:
    """Two halves with as many of each class, (weights, architecture)."""
    order = torch.randperm(len(split), generator=stream(seed, key, "halves")).to(split.labels.device)
    order = order[split.labels[order].argsort(stable=True)]
    parts = order[::2].sort().values, order[1::2].sort().values
    return tuple(Split(split.images[part], split.labels[part]) for part in parts)  # type: ignore[return-value]


def _temperature(settings: DifferentiableSettings, epoch: int) -> float:
    first, last = settings.temperature
    return float(first * (last / first) ** (epoch / max(1, settings.epochs - 1)))


@dataclass(frozen=True)
class _State:
    """All tensors that steps change."""

    shared: SharedNetwork
    logits: nn.Module
    weights_optimizer: Optimizer
    logits_optimizer: Optimizer

    def tensors(self) -> dict[str, Tensor]:
        groups = {
            "shared": self.shared.state_dict(),
            "logits": self.logits.state_dict(),
            "weights": self.weights_optimizer.state(),
            "adam": self.logits_optimizer.state(),
        }
        return {f"{group}.{name}": tensor for group, named in groups.items() for name, tensor in named.items()}

    def load(self, tensors: Any) -> None:  # noqa: ANN401 - a mapping of tensors
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = tensor
        self.shared.load_state_dict(groups["shared"])
        self.logits.load_state_dict(groups["logits"])
        self.weights_optimizer.load_state(groups.get("weights", {}))
        self.logits_optimizer.load_state(groups.get("adam", {}))

    def preferences(self, graph: SuperGraph, settings: DifferentiableSettings, epoch: int) -> Preferences:
        return Preferences(graph, self.logits, _temperature(settings, epoch), settings.strengths, settings.most_skips)


@dataclass(frozen=True)
class _Step:
    """The two kinds of steps."""

    state: _State
    graph: SuperGraph
    expected: ExpectedCost
    settings: DifferentiableSettings
    objective: Objective
    recipe: Recipe
    learnt: Sequence[nn.Parameter]

    def architecture(
        self, images: Tensor, labels: Tensor, temperature: float, epoch: int, generator: torch.Generator
    ) -> int:
        """One step of the logits; returns how many images the shared network was right about."""
        optimizer, settings = self.state.logits_optimizer, self.settings
        preference = self._preference(generator)
        optimizer.zero_grad()
        relaxed = self._relaxed(preference, temperature)
        active, gates = self._drawn(relaxed, generator)
        price = self.expected(relaxed)
        if self.objective.budget:
            share, total = 0.0, _BUDGET_PENALTY * (price - (1 - float(preference))) ** 2
        else:
            share = float(preference)
            total = share * price
        correct, parts = 0, images.chunk(settings.pieces)
        if settings.beta_decay:
            total = total + settings.beta_decay * (epoch + 1) / settings.epochs * beta_decay(relaxed)
        for parameter in self.learnt:  # their gradients would take a third of the time, for nothing
            parameter.requires_grad_(False)
        for number, (part, part_labels) in enumerate(zip(parts, labels.chunk(settings.pieces), strict=True), 1):
            with autocast(self.recipe, images.device):
                scores = self.state.shared(part, active, gates).float()
            loss = F.cross_entropy(scores, part_labels) / math.log(scores.shape[1])
            term = (1 - share) * loss * (len(part) / len(images))
            if number == len(parts):
                (term + total).backward()  # type: ignore[no-untyped-call]
            elif term.requires_grad:  # not where a draw of zeros alone left nothing to weigh
                # All pieces go through the same logits.
                term.backward(retain_graph=True)  # type: ignore[no-untyped-call]
            correct += int((scores.argmax(dim=1) == part_labels).sum())
            del scores, loss, term  # or what was retained would last through the next piece
        for parameter in self.learnt:
            parameter.requires_grad_(True)
        optimizer.step(torch.tensor(settings.architecture_rate, device=images.device))
        return correct

    def weights(
        self, images: Tensor, labels: Tensor, temperature: float, rate: float, generator: torch.Generator
    ) -> tuple[float, float, float]:
        """One step of the weights; returns cross entropy, expected cost and norm."""
        optimizer, settings = self.state.weights_optimizer, self.settings
        with torch.no_grad():
            relaxed = self._relaxed(self._preference(generator), temperature)
            active, gates = self._drawn(relaxed, generator)
            price = float(self.expected(relaxed))
        optimizer.zero_grad()
        loss_sum = 0.0
        for part, part_labels in zip(images.chunk(settings.pieces), labels.chunk(settings.pieces), strict=True):
            with autocast(self.recipe, images.device):
                scores = self.state.shared(part, active, gates).float()
            loss = F.cross_entropy(scores, part_labels)
            (loss * (len(part) / len(images))).backward()  # type: ignore[no-untyped-call]
            loss_sum += float(loss.detach()) * len(part) / len(images)
        norm = 0.0
        if self.objective.norm is not None:
            size = self._norm()
            (self.objective.norm_weight * size).backward()  # type: ignore[no-untyped-call]
            norm = float(size.detach())
        if not loss_sum < float("inf"):
            raise DivergedError(f"the loss of the search is {loss_sum}")
        nn.utils.clip_grad_norm_(self.learnt, _CLIP)
        optimizer.step(torch.tensor(rate, device=images.device))
        return loss_sum, price, norm

    def _norm(self) -> Tensor:
        """L1: the sum of magnitudes. L2: the sum over tensors of the root of the sum of squares."""
        if self.objective.norm == "l1":
            return torch.stack([weight.abs().sum() for weight in self.learnt]).sum()
        return torch.stack([torch.linalg.vector_norm(weight) for weight in self.learnt]).sum()

    def _preference(self, generator: torch.Generator) -> Tensor:
        if self.objective.preference is not None:
            return torch.tensor(float(self.objective.preference))
        return torch.rand((), generator=generator)

    def _relaxed(self, preference: Tensor, temperature: float) -> Relaxed:
        flat = self.state.logits(preference.to(self._device))
        return Relaxed.of(self.graph, flat, temperature, self.settings.strengths)

    @property
    def _device(self) -> torch.device:
        return next(self.state.logits.parameters()).device

    def _drawn(self, relaxed: Relaxed, generator: torch.Generator) -> Any:  # noqa: ANN401 - (Active, Gates)
        if self.settings.relaxation == "sampled":
            return relaxed.sampled(generator)
        return relaxed.mixture(self.settings.strengths)


def _epoch(at: _Position, steps: int, learns: bool, found: Preferences, objective: Objective) -> Epoch:
    active: Active = found.architecture(_watched(objective))
    loss, accuracy, price, norm = at.sums
    return Epoch(
        at.epoch + 1,
        loss / steps,
        accuracy / steps if learns else None,
        price / steps,
        norm,
        skip_share(found.graph, active),
        free_share(found.graph, active),
        dominant(found.graph, active),
    )
