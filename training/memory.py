"""How much memory a training needs, before it needs it.

One training step is traced with fake tensors, which have shapes and no content, so no memory of that size is used and
nothing is calculated; the storages alive are counted. Peak memory is affine in the batch, so two traces give a line.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training.kernels import speed_up
from training.loop import TrainingState
from training.recipe import Recipe

_BLOCK = 512
"""Allocators hand out multiples of this many bytes."""


@dataclass(frozen=True)
class MemoryLine:
    """Peak memory of a training as a function of the images passed at once.

    Attributes:
        fixed: bytes of weights, gradients, the optimizer's state and what else does not depend on the batch.
        per_image: bytes that each image of a batch adds.
    """

    fixed: int
    per_image: float

    def peak(self, batch: int) -> int:
        """Bytes with so many images at once."""
        return round(self.fixed + self.per_image * batch)

    def largest_batch(self, budget: float) -> int:
        """The most images at once that fit in so many bytes; 0 where not even one does."""
        return max(0, int((budget - self.fixed) // self.per_image))

    def pieces(self, batch: int, budget: float) -> int:
        """In how many pieces a batch fits in so many bytes; as many as images where nothing would."""
        largest = self.largest_batch(budget)
        return batch if largest == 0 else -(-batch // largest)


def memory_line(
    network: nn.Module, channels: int, side: int, recipe: Recipe, batch: int, device: str = "cpu"
) -> MemoryLine:
    """The line through the peaks at a batch and at half of it.

    Args:
        network: left as it is.
        channels, side: of the pictures.
        batch: images at once, near which the line is wanted.
        device: ``cpu`` or ``cuda``, which calculate some layers in other ways. No GPU is needed.
    """
    high = max(4, batch)
    low = high // 2
    peaks = [trace_peak(network, channels, side, recipe, batch, device) for batch in (low, high)]
    slope = (peaks[1] - peaks[0]) / (high - low)
    return MemoryLine(round(peaks[1] - slope * high), slope)


def trace_peak(network: nn.Module, channels: int, side: int, recipe: Recipe, batch: int, device: str = "cpu") -> int:
    """Bytes at the worst moment of a training step.

    Weights, gradients, the optimizer's state, the average of weights, the batch, and everything between are counted;
    the data set is not, nor are a library's workspaces.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # half a second, which other trainings need not pay

    with FakeTensorMode(), _Alive() as alive:
        fake = _faked(network)
        if device == "cpu":
            speed_up(fake)
        # Fake tensors of a CPU stand for those of a GPU too: autocast treats what is used here in the same way.
        state = TrainingState(fake.train(), recipe, torch.device("cpu"), pieces=1)
        images = torch.empty(batch, side, side, channels).permute(0, 3, 1, 2)
        labels = torch.zeros(batch, dtype=torch.int64)
        state.step(images, labels, torch.zeros(()), torch.zeros(()), *state.factors(batch, 0, 0, ""))
        peak: int = alive.peak
    return peak


def _faked(network: nn.Module) -> nn.Module:
    """A copy whose tensors have no content. Called in fake mode."""
    memo: dict[int, Any] = {}
    for tensor in (*network.parameters(), *network.buffers()):
        layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
        fake: Tensor = torch.empty(tensor.shape, dtype=tensor.dtype, memory_format=layout)
        memo[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
    return copy.deepcopy(network, memo)


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operators make, for as long as each lives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if "_fused_" in str(func):  # in place: makes nothing, and has no fake version
            return None
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        number = storage._cdata
        if number in self._known:
            return
        size = -(-storage.nbytes() // _BLOCK) * _BLOCK
        self._known.add(number)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, number, size)

    def _forget(self, number: int, size: int) -> None:
        self._known.discard(number)
        self.now -= size
