"""Latency of operations, measured here on networks of a space or taken from measured networks of a table."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genas.config import Run
from genas.machine import describe_machine, processor
from genas.stages import resolve_space, single_thread
from supernet import ArchGraph, InputError, LabelTable, architectures, sample_distinct
from supernet.latency import Latency, fit_latency, write_latency

Progress = Callable[[int, int], None]

_WARM = 2  # runs before the clock counts
_RUNS = 20
_DEVICES = ("cpu", "cuda")
_LEAST_SECONDS = 0.005  # of a run: shorter ones are repeated within it


def latency(
    run: Run, out: Path, networks: int = 60, batch: int = 1, device: str = "cpu", progress: Progress | None = None
) -> dict[str, Any]:
    """Time a sample of the run's space and fit what each operation takes; written to a file.

    Args:
        networks: sampled without regard to limits.
        batch: images in a forward pass; latency is of the whole batch.
        device: ``cpu``, one thread, or ``cuda``.
        progress: called with networks timed and in all.

    Returns:
        ``networks``, ``operations``, ``overhead`` (milliseconds), ``error`` (mean absolute, a fraction, on networks
        that were held out), least and most of the ``milliseconds``, ``device`` and ``batch``.

    Raises:
        InputError: fewer than 10 networks.
        UnavailableError: a device that is not there, or a file that cannot be written.
    """
    if networks < 10 or batch < 1:
        raise InputError(f"latency: expected at least 10 networks and a batch of 1, got {networks} and {batch}")
    run = resolve_space(run)
    space, seed = run.settings.space, run.settings.seed
    graphs = [
        space.graph(one)
        for one in architectures(space, sample_distinct(space, networks, np.random.default_rng([seed, 8])))
    ]
    milliseconds = []
    with single_thread():
        for place, graph in enumerate(graphs):
            milliseconds.append(_milliseconds(graph, batch, device))
            if progress is not None:
                progress(place + 1, len(graphs))
    machine = describe_machine(seed)
    about = {"space": space.name, "device": device, "batch": batch, "processor": machine.get("processor")}
    return _fitted(graphs, np.array(milliseconds), out, about)


def table_latency(table: LabelTable, metric: str, out: Path) -> dict[str, Any]:
    """Fit what each operation takes to the latencies of a table's networks, in milliseconds; written to a file.

    Returns:
        As :func:`latency`.

    Raises:
        InputError: a metric that a row lacks, fewer than 10 rows, or a latency that is not above 0.
    """
    return _fitted(list(table.graphs), np.asarray(table.metric(metric), np.float64), out, {"metric": metric})


def _fitted(graphs: list[ArchGraph], values: NDArray[np.float64], out: Path, about: dict[str, Any]) -> dict[str, Any]:
    latency: Latency = fit_latency(graphs, values)
    measured = {**about, "networks": len(graphs), "milliseconds": [float(values.min()), float(values.max())]}
    write_latency(out, latency, measured)
    return {
        **measured,
        "operations": len(latency.operations),
        "overhead": latency.overhead,
        "error": latency.error,
    }


def measured_latency(graph: ArchGraph, batch: int = 1, device: str = "cpu") -> dict[str, Any]:
    """What a forward pass of a network takes, in evaluation mode, warmed up, in milliseconds for the whole batch.

    A run is a row of passes of at least 5 ms together; each counts with its mean. The median of the runs is what a user
    waits; the fastest, which :func:`latency` fits, is what the network needs on a machine that does nothing else.

    Args:
        device: ``cpu``, one thread, or ``cuda``, which each run waits for.

    Returns:
        ``name`` (such as ``cpu batch 1``), ``milliseconds`` (median, lower is better), ``quartiles``, ``least``,
        ``runs``, ``passes`` in a run, ``batch``, ``device`` and ``processor``.

    Raises:
        InputError: a batch below 1 or another device.
        UnavailableError: a device that is not there.
    """
    if batch < 1 or device not in _DEVICES:
        raise InputError(f"latency: expected a batch of 1 or more on cpu or cuda, got {batch} on {device!r:.40}")
    with single_thread():
        milliseconds, passes = _timed(graph, batch, device)
    low, middle, high = (float(value) for value in np.quantile(milliseconds, (0.25, 0.5, 0.75)))
    return {
        "name": f"{device} batch {batch}",
        "milliseconds": middle,
        "quartiles": [low, high],
        "least": min(milliseconds),
        "runs": len(milliseconds),
        "passes": passes,
        "batch": batch,
        "device": device,
        "processor": _computes(device),
    }


def _computes(device: str) -> str:
    """The name of what computes."""
    if device == "cpu":
        return processor()
    import torch

    return str(torch.cuda.get_device_name())


def _milliseconds(graph: ArchGraph, batch: int, device: str) -> float:
    """The fastest of some runs: what other processes add is not the network's."""
    return min(_timed(graph, batch, device)[0])


def _timed(graph: ArchGraph, batch: int, device: str) -> tuple[list[float], int]:
    """Milliseconds of a forward pass in each run, warmed up, and passes in a run."""
    import torch

    from supernet.network import build_network
    from supernet.settings import UnavailableError

    if device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("latency: device is 'cuda', but torch sees no GPU; use cpu")
    node = graph.nodes[0]
    network = build_network(graph, 0).eval().to(device)
    side = int(node.get("resolution"))
    images = torch.zeros(batch, int(node.get("out")), side, side, device=device)
    network.to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)

    def passes(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            network(images)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    with torch.inference_mode():
        once = min(passes(1) for _ in range(_WARM))
        count = max(int(np.ceil(_LEAST_SECONDS / max(once, 1e-6))), 1)
        return [passes(count) / count * 1e3 for _ in range(_RUNS)], count
