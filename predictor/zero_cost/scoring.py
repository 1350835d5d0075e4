"""Scores of networks: each metric a finite number, and whether it means anything."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from predictor.zero_cost.metrics import METRICS, metric_names
from predictor.zero_cost.probe import Probe
from supernet import ArchGraph
from supernet.network import Network

BATCH = 128
"""Images of the published values."""

FLOOR = -1e12
"""The value of a score that is not valid: below every valid one, and finite."""

Progress = Callable[[int, int], None]
"""Called after each network with networks done and networks in all."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one metric says of one network.

    Attributes:
        value: finite, higher is better; :data:`FLOOR` where it is not valid.
        valid: whether the metric gave a finite number.
        seconds: what it took beyond what an earlier metric had computed (snip and grad_norm share gradients, the
            metrics of AZ-NAS features).
        reason: why it is not valid.
    """

    value: float
    valid: bool
    seconds: float
    reason: str = ""


def score_networks(
    graphs: Sequence[ArchGraph],
    metrics: Iterable[str],
    images: Tensor,
    labels: Tensor,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[dict[str, Score]]:
    """Scores of each network by metric. A network that cannot be scored has invalid scores.

    Args:
        metrics: keys of :data:`METRICS`.
        images: one batch, normalised, (images, channels, side, side).
        labels: (images,), int64.
        seed: of initial weights, the same for every network, and of whatever metrics draw.

    Raises:
        InputError: an unknown metric.
    """
    names, results = metric_names(metrics), []
    for number, graph in enumerate(graphs, 1):
        results.append(score_network(graph, names, images, labels, seed))
        if progress is not None:
            progress(number, len(graphs))
    return results


def score_network(
    graph: ArchGraph,
    metrics: Iterable[str],
    images: Tensor,
    labels: Tensor,
    seed: int = 0,
    network: Network | None = None,
) -> dict[str, Score]:
    """Scores of one network by metric; the same graph, batch and seed give the same on one machine.

    Args:
        network: score these weights of the graph's network instead of initial ones; they, running statistics, mode
            and random state stay as they are. The metrics of AZ-NAS draw weights of their own all the same.

    Raises:
        InputError: an unknown metric.
    """
    names = metric_names(metrics)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.default_generator.manual_seed(seed)  # the CPU's alone: that of a GPU is the caller's
        probe = Probe(graph, images, labels, seed, network)
        return {name: _score(name, probe) for name in names}


def _score(name: str, probe: Probe) -> Score:
    started = time.perf_counter()
    reason = "not a finite number"
    try:
        value = METRICS[name](probe)
    except (torch.OutOfMemoryError, torch.AcceleratorError):  # says something of the machine, not of the network
        raise
    except (ValueError, RuntimeError, ArithmeticError) as error:  # cannot be built, too small a picture, no convergence
        value, reason = math.nan, f"{type(error).__name__}: {error!s:.200}"
    seconds = time.perf_counter() - started
    return Score(value, True, seconds) if math.isfinite(value) else Score(FLOOR, False, seconds, reason)
