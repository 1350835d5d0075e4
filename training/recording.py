"""A training step as one recorded CUDA graph: no launch of a kernel waits for Python.

Small networks at batch 128 are bound by some hundred launches a step, not by the card.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

_FIRST_CALLS = 3
"""Ordinary calls before the recording: libraries choose their kernels and allocate their workspaces in these."""

_LOGGER = logging.getLogger("genas.recording")


class RecordedStep:
    """Calls a step; on a GPU it is recorded after some ordinary calls, and replayed from then on.

    The calls before the recording are real steps, so nothing of the training is lost or repeated. Where recording fails
    (an operation that needs the host), and for inputs of another shape, the step is called as it is.

    Args:
        step: takes tensors, gives nothing, and changes only tensors that stay where they are.
        graphs: whether to record; of a GPU.
    """

    def __init__(self, step: Callable[..., None], graphs: bool) -> None:
        self._step, self._graphs = step, graphs
        self._calls = 0
        self._inputs: tuple[Tensor, ...] = ()
        self._graph: torch.cuda.CUDAGraph | None = None
        # One stream for all: the allocator keeps what is freed for the stream that had it.
        self._side = torch.cuda.Stream() if graphs else None  # type: ignore[no-untyped-call]

    def __call__(self, *inputs: Tensor) -> None:
        if not self._graphs:
            self._step(*inputs)
            return
        side = self._side
        if self._calls < _FIRST_CALLS and side is not None:
            self._calls += 1
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._step(*inputs)
            torch.cuda.current_stream().wait_stream(side)
            return
        if self._graph is None:
            self._record(inputs)
        pairs = list(zip(self._inputs, inputs, strict=True)) if self._graph is not None else []
        if self._graph is None or any(own.shape != given.shape for own, given in pairs):
            self._step(*inputs)
            return
        for own, given in pairs:
            own.copy_(given)
        self._graph.replay()

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(given.clone() for given in inputs)
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Other threads of the process (checkpoints, pinned memory) may go on: only this one is recorded.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._step(*self._inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            torch.cuda.set_stream(current)  # the recording may not have got as far as giving it back
            _LOGGER.warning("this network's step cannot be recorded, so it runs slower: %s", str(error).split("\n")[0])
            self._graphs = False
            return
        self._graph = graph
