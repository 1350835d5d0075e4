"""What a training adds to a network and takes away again: a second head, and sums that lose some of their terms."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from supernet import InputError
from supernet.network import Network
from training.kernels import speed_up

_NARROW, _WIDE = 128, 768


class AuxiliaryHead(nn.Module):
    """The second head of Liu et al. 2019: maps (batch, channels, side, side) to scores (batch, classes).

    Published for a side of 8, where a pool of 5 with stride 3 leaves 2; from any other side 2 is pooled adaptively.
    """

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=3) if side == 8 else nn.AdaptiveAvgPool2d(2),
            nn.Conv2d(channels, _NARROW, 1, bias=False),
            nn.BatchNorm2d(_NARROW),
            nn.ReLU(),
            nn.Conv2d(_NARROW, _WIDE, 2, bias=False),
            nn.BatchNorm2d(_WIDE),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(_WIDE, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layers(x)
        return scores


def auxiliary_head(network: nn.Module, seed: int, device: torch.device) -> AuxiliaryHead:
    """A second head for the marked node of a network, drawn from the seed. Raises InputError where none is marked."""
    core = _core(network)
    if core is None or core.marked is None:
        raise InputError(
            "recipe: auxiliary: no node of this network has the attribute 'auxiliary', as one in the space darts has; "
            "expected one, or auxiliary 0"
        )
    node = core.marked
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = AuxiliaryHead(node.integer("out"), node.integer("resolution"), core.output.integer("out"))
    speed_up(head)
    if device.type != "cpu":  # fake tensors, with which memory is estimated, cannot be moved
        head.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return head.train()


def branches(network: nn.Module) -> int:
    """How many terms of sums may be dropped."""
    core = _core(network)
    return 0 if core is None else core.branches


def kept(count: int, images: int, chance: float, generator: torch.Generator) -> Tensor:
    """What each term of each image is multiplied by, (count, images): 0 with the chance, else what keeps the mean."""
    drawn = torch.rand(count, images, generator=generator, device=generator.device)
    return (drawn >= chance).float() / (1 - chance)


def scores_of(
    network: nn.Module, images: Tensor, head: AuxiliaryHead | None, factors: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """A forward pass in training: the scores, and those of the second head where there is one.

    Args:
        factors: of each term that may be dropped, (terms, images); None drops nothing.
    """
    core = None if head is None and factors is None else _core(network)
    if core is None:
        return network(images), None
    seen: list[Tensor] = []
    if head is not None:
        core.tap = seen.append
    if factors is not None:
        core.branch = _Scaled(factors)
    try:
        scores = network(images)
    finally:  # whoever evaluates, saves or copies the network finds it as it was
        core.tap = core.branch = None
    return scores, None if head is None else head(seen[0])


class _Scaled:
    """Multiplies each term in turn by its factors."""

    def __init__(self, factors: Tensor) -> None:
        self._rows: Iterator[Tensor] = iter(factors.unbind())

    def __call__(self, term: Tensor) -> Tensor:
        return term * next(self._rows).to(term.dtype).reshape(-1, *[1] * (term.ndim - 1))


def _core(network: nn.Module) -> Network | None:
    """The network of a graph, which may be inside another module."""
    return next((module for module in network.modules() if isinstance(module, Network)), None)
