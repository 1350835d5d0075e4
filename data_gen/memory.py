"""Memory before it is needed: how many trainings share a device, and in how many pieces a batch is passed.

All decisions follow from what the device has, not from what is free at the moment, so that they repeat.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from data_gen.store import Job
from supernet import ArchGraph, graph_costs
from training import Recipe

if TYPE_CHECKING:
    from torch import nn

    from data_gen.task import Task
    from training.memory import MemoryLine

_LOGGER = logging.getLogger("genas.memory")

MOST_ON_A_GPU = 4
"""Worker processes; more do not train more images a second on the cards of today."""

_GPU_SHARE, _CPU_SHARE = 0.9, 0.8
_CONTEXT = 700 * 2**20
"""What a process takes on a GPU before its first tensor: driver, libraries, workspaces."""

_PROCESS = 400 * 2**20
"""What a process takes on a CPU: Python, torch and its libraries."""

_GRAPH = 1.5
"""A recorded step keeps memory of its own beside what the steps before it have left in the allocator's hands."""

_MOST_BYTES = 48
"""A generous bound: bytes of a training for each element that convolutions and linear layers give, twelve float32."""


def memory_share(device: str, total: int, processes: int) -> float:
    """Bytes for the tensors of one training, where so many processes share a device with ``total`` bytes."""
    if device == "cpu":
        return max(0.0, total * _CPU_SHARE / processes - _PROCESS)
    return max(0.0, (total * _GPU_SHARE / processes - _CONTEXT) / _GRAPH)


def networks_on_a_gpu(total: int, line: MemoryLine, batch: int, data: int) -> int:
    """How many trainings fit on a GPU side by side, at least one and at most :data:`MOST_ON_A_GPU`.

    Args:
        total: bytes of the card.
        batch: images at once.
        data: bytes of the pictures, which each process has for itself.
    """
    fitting = [
        count for count in range(1, MOST_ON_A_GPU + 1) if line.peak(batch) + data <= memory_share("cuda", total, count)
    ]
    return max(fitting, default=1)


def processes_that_fit(task: Task, jobs: Sequence[Job], total: int) -> int:
    """How many trainings fit on a GPU of so many bytes, by the network with the most activations among the jobs."""
    if not jobs:
        return 1
    from supernet.network import build_network
    from training.memory import memory_line

    space = task.space
    largest = max(jobs, key=lambda job: int(space.costs(job.architecture.row())["activations"][0]))
    info, recipe = task.data, task.recipe
    network = build_network(space.graph(largest.architecture))
    parts = ("train", "validation") if task.measure == "validation" else ("train", "validation", "test")
    data = sum(info.sizes[name] for name in parts) * info.side**2 * info.channels
    batch = min(recipe.batch_size, info.sizes["train"])
    try:
        line = memory_line(network, info.channels, info.side, recipe, batch, "cuda")
    except RuntimeError as error:  # an operation of the user's own without a fake version
        _LOGGER.warning("memory cannot be estimated (%s): one training a GPU", str(error).split("\n")[0])
        return 1
    return networks_on_a_gpu(total, line, batch, data)


def pieces_needed(graph: ArchGraph, network: nn.Module, recipe: Recipe, batch: int, budget: float) -> int:
    """In how many pieces a batch has to be passed so that its training fits in so many bytes.

    Exact costs rule out nearly every network that fits anyway; only the others are traced.
    """
    costs = graph_costs(graph)
    if _MOST_BYTES * (costs.activations * batch + costs.params) <= budget:
        return 1
    from training.memory import memory_line

    first = next(node for node in graph.nodes if node.op == "input")
    side, channels = first.integer("resolution"), first.integer("out")
    device = next(network.parameters()).device.type
    try:
        return memory_line(network, channels, side, recipe, batch, device).pieces(batch, budget)
    except RuntimeError:  # an operation of the user's own without a fake version
        return 1
