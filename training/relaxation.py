"""Architectures as weights that a gradient can move: logits, what is drawn from them, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from supernet import COST_NAMES
from supernet.sharing import Gates
from supernet.supergraph import Active, SuperGraph, derive

Relaxation = Literal["mixture", "sampled"]

_HIDDEN = 64
_TINY = 1e-12
_CHEAP = 0.5
"""Preference from which the cost counts for more."""

_SMALL = 1e-3  # of the first logits: nothing is preferred, and nothing is exactly equal


class Plain(nn.Module):
    """One set of logits, (logits,), whatever the preference."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.logits = nn.Parameter(_SMALL * torch.randn(count, generator=generator))

    def forward(self, preference: Tensor) -> Tensor:  # noqa: ARG002 - as a hypernetwork is called
        return self.logits


class Hypernetwork(nn.Module):
    """Logits as a function of the preference: a whole front in one search.

    The Pareto hypernetwork of Navon et al. 2021 ("Learning the Pareto Front with Hypernetworks"), which maps a
    preference vector, a point of the simplex over the objectives, to parameters. Here these are the architecture's
    alone, as of the MetaHypernetwork of Sukthanker et al. 2025 ("Multi-objective Differentiable Neural Architecture
    Search"); the weights of the operations are shared by all preferences. With two objectives the preference is one
    number: the share of the cost. Training draws it anew in each step and descends on the objectives so weighed
    (linear scalarisation).
    """

    def __init__(self, count: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            last = nn.Linear(_HIDDEN, count)
            with torch.no_grad():
                last.weight.mul_(0.1)
                last.bias.normal_(0, _SMALL)
            self.layers = nn.Sequential(nn.Linear(2, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.SiLU(), last)

    def forward(self, preference: Tensor) -> Tensor:
        """Logits (logits,) of a preference from 0 (accuracy alone) to 1 (cost alone), a tensor of no dimension."""
        logits: Tensor = self.layers(torch.stack([1 - preference, preference]) * 2 - 1)
        return logits


@dataclass(frozen=True)
class Relaxed:
    """Logits by group and by set of inputs, and their probabilities.

    Attributes:
        logits: of each group, (options,).
        options: of each group the probability of each option; of a subset of each by itself.
        inputs: of each set its strengths, which sum to 1.
    """

    graph: SuperGraph
    logits: Sequence[Tensor]
    options: Sequence[Tensor]
    inputs: Sequence[Tensor]

    @staticmethod
    def count(graph: SuperGraph) -> int:
        """How many logits a space has."""
        return sum(len(group.options) for group in graph.groups) + sum(one.groups for one in graph.inputs)

    @staticmethod
    def of(graph: SuperGraph, flat: Tensor, temperature: float = 1.0, strengths: bool = True) -> Relaxed:
        """From all logits in a row.

        Args:
            temperature: logits are divided by it: near 0 a choice is all but made.
            strengths: False: inputs of a node are equally strong, as in DARTS without edge normalisation.
        """
        sizes = [len(group.options) for group in graph.groups] + [one.groups for one in graph.inputs]
        parts = [part / temperature for part in torch.split(flat, sizes)]
        logits, inputs = parts[: len(graph.groups)], parts[len(graph.groups) :]
        options = [
            torch.sigmoid(part) if group.subset else torch.softmax(part, 0)
            for group, part in zip(graph.groups, logits, strict=True)
        ]
        if not strengths:
            inputs = [torch.zeros_like(part) for part in inputs]
        return Relaxed(graph, logits, options, [torch.softmax(part, 0) for part in inputs])

    def mixture(self, normalised: bool) -> tuple[Active, Gates]:
        """Every option, weighed by its probability; with edge normalisation inputs by their strengths too."""
        active = tuple(tuple(range(len(group.options))) for group in self.graph.groups)
        if not normalised:
            return active, Gates(self.options)
        return active, Gates(self.options, self._strengths(self.inputs))

    def sampled(self, generator: torch.Generator) -> tuple[Active, Gates]:
        """One architecture, drawn by its probability; gates are 1, and gradients those of the probabilities.

        Where no option of a subset is drawn, one is by the softmax of the logits. Inputs are drawn one after the other.

        Drawn by the Gumbel trick; only the drawn options are computed, as in GDAS (Dong and Yang 2019). The gradient is
        the straight-through one of the probabilities themselves, without the noise of the draw.
        """
        sizes = [len(part) for part in (*self.logits, *self.inputs)]
        # One copy to the host, where draws are made: they decide what is computed.
        flat = torch.cat([*self.logits, *(part.log() for part in self.inputs)]).detach().float().cpu()
        known = torch.split(flat, sizes)
        logits, strengths = known[: len(self.logits)], known[len(self.logits) :]
        active: list[tuple[int, ...]] = []
        for group, own in zip(self.graph.groups, logits, strict=True):
            if group.subset:
                noisy = own + _gumbel(len(own), generator) - _gumbel(len(own), generator)  # logistic
                on = [place for place, value in enumerate(noisy.tolist()) if value > 0]
                active.append(tuple(on) or (_one(own, generator),))
            else:
                active.append((_one(own, generator),))
        options = [through(part) for part in self.options]
        if not self.graph.inputs:
            return tuple(active), Gates(options)
        for number, (one, own) in enumerate(zip(self.graph.inputs, strengths, strict=True)):
            kept = (own + _gumbel(len(own), generator)).topk(one.kept).indices.tolist()
            for place, group_number in enumerate(self.graph.members[number]):
                if place not in kept:
                    active[group_number] = ()
        return tuple(active), Gates(options, self._strengths([through(part) for part in self.inputs]))

    def _strengths(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        one = self.options[0].new_ones(())
        return [one if group.place is None else inputs[group.place[0]][group.place[1]] for group in self.graph.groups]

    def architecture(self, most_skips: int | None = None) -> Active:
        """What the probabilities stand for, see :func:`supernet.supergraph.derive`."""
        options, inputs = (
            [part.detach().double().cpu().numpy() for part in parts] for parts in (self.options, self.inputs)
        )
        return derive(self.graph, options, inputs, most_skips)


def through(probabilities: Tensor) -> Tensor:
    """Ones whose gradient is that of the probabilities."""
    return 1 + (probabilities - probabilities.detach())  # the difference first: it is exactly 0


def _gumbel(count: int, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(count, generator=generator).clamp(1e-10, 1 - 1e-7)
    return -(-uniform.log()).log()


def _one(logits: Tensor, generator: torch.Generator) -> int:
    """An option, drawn by the softmax of its logits."""
    return int((logits + _gumbel(len(logits), generator)).argmax())


def kept_chances(strengths: Tensor, kept: int) -> Tensor:
    """The chance of each input to be among those kept where they are drawn one after the other by their strengths.

    Args:
        strengths: (..., inputs), sums are 1.
        kept: how many, fewer than there are.

    Returns:
        (..., inputs), each at most 1; sums are ``kept``.
    """
    return _kept_chances(strengths.clamp(min=_TINY), kept)


def _kept_chances(strengths: Tensor, kept: int) -> Tensor:
    if kept == 1:
        return strengths
    count = strengths.shape[-1]
    rest = strengths[..., None, :] * (1 - torch.eye(count, device=strengths.device))
    after = _kept_chances(rest / rest.sum(dim=-1, keepdim=True), kept - 1)  # where the input of the row came first
    return strengths + (strengths[..., None] * after).sum(dim=-2)


class ExpectedCost:
    """What a draw of one cost is expected to be where choices are probabilities, as a share of the range of the space.

    Attributes:
        least, most: of any architecture, where costs are added up over the choices.

    Args:
        graph: of the networks that will be trained, which may be deeper or wider than the one that is searched.
        cost: one of ``COST_NAMES``; lower is cheaper.
    """

    def __init__(self, graph: SuperGraph, cost: str, device: torch.device) -> None:
        column = COST_NAMES.index(cost)
        fixed, tables = graph.costs
        self._graph = graph
        rows = [table[:, column].astype(np.float64) for table in tables]
        self.least = float(fixed[column]) + self._extreme(rows, least=True)
        self.most = float(fixed[column]) + self._extreme(rows, least=False)
        self._fixed = float(fixed[column])
        self._rows = [torch.tensor(row, dtype=torch.float32, device=device) for row in rows]

    def _extreme(self, rows: Sequence[NDArray[np.float64]], least: bool) -> float:
        single = [
            float(row.min() if least else row.sum() if group.subset else row.max())
            for group, row in zip(self._graph.groups, rows, strict=True)
        ]
        inside = {number for members in self._graph.members for number in members}
        total = sum(value for number, value in enumerate(single) if number not in inside)
        for one, members in zip(self._graph.inputs, self._graph.members, strict=True):
            total += sum(sorted((single[number] for number in members), reverse=not least)[: one.kept])
        return total

    def __call__(self, relaxed: Relaxed) -> Tensor:
        """0 for the cheapest architecture to 1 for the costliest, no dimension; differentiable."""
        kept = [
            kept_chances(strengths, one.kept) if one.kept < one.groups else None
            for one, strengths in zip(self._graph.inputs, relaxed.inputs, strict=True)
        ]
        total = relaxed.options[0].new_full((), self._fixed - self.least)
        for number, (group, options, row) in enumerate(
            zip(self._graph.groups, relaxed.options, self._rows, strict=True)
        ):
            own = options @ row
            if group.subset:  # or it would be cheapest to have no operation at all
                none = (1 - options).prod()
                own = own + none * (torch.softmax(relaxed.logits[number], 0) @ row)
            chances = None if group.place is None else kept[group.place[0]]
            if group.place is not None and chances is not None:
                own = own * chances[group.place[1]]
            total = total + own
        return total / max(self.most - self.least, 1.0)


def beta_decay(relaxed: Relaxed) -> Tensor:
    """The regulariser of beta-DARTS (Ye et al. 2022): the mean over groups of the log of the sum of exponentials.

    Its gradient takes more from a logit the larger it is, so that no operation runs away from the others.
    """
    terms = [
        F.softplus(logits).mean() if group.subset else torch.logsumexp(logits, 0)
        for group, logits in zip(relaxed.graph.groups, relaxed.logits, strict=True)
    ]
    return torch.stack(terms).mean()


@dataclass(frozen=True)
class Preferences:
    """The architectures of a search, by preference.

    Attributes:
        network: :class:`Plain` or :class:`Hypernetwork`.
    """

    graph: SuperGraph
    network: nn.Module
    temperature: float
    strengths: bool
    most_skips: int | None

    @cached_property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    @torch.no_grad()
    def relaxed(self, preference: float) -> Relaxed:
        """Probabilities at a preference from 0 (accuracy alone) to 1 (cost alone)."""
        flat = self.network(torch.tensor(float(preference), device=self._device))
        return Relaxed.of(self.graph, flat, self.temperature, self.strengths)

    def architecture(self, preference: float) -> Active:
        """The single architecture there."""
        # At the cheap end identities are what is asked for.
        return self.relaxed(preference).architecture(self.most_skips if preference < _CHEAP else None)
