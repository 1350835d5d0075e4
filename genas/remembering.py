"""What trainings would need of a device's memory, before any is started."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from data_gen import device_names
from data_gen.memory import memory_share, networks_on_a_gpu
from genas.config import Run
from genas.stages import resolve_space, single_thread
from supernet import Architecture, InputError, Limits, architectures, sample_distinct
from supernet.settings import UnavailableError
from supernet.spaces import AnySpace
from training.devices import gpu_names, total_memory

Device = Literal["auto", "cpu", "cuda"]

_SAMPLE = 40
"""Architectures drawn within the limits, among which the median and the largest are looked for."""


def memory(
    run: Run, architecture: str | None = None, device: Device = "auto", gigabytes: float | None = None
) -> dict[str, Any]:
    """Peak memory of trainings with the recipe of ``generate``, from traces of fake tensors.

    Args:
        architecture: as a person types it; None looks at a small, a median and a large one within the limits.
        device: ``cuda`` needs no GPU if ``gigabytes`` says how much memory it has.
        gigabytes: memory of the device instead of what this machine has, in 10**9 bytes.

    Returns:
        ``networks``, each with ``architecture``, ``fixed_bytes``, ``bytes_per_image``, ``peak_bytes`` with the recipe's
        batch, ``largest_batch`` that fits its share of the device and ``pieces`` in which a batch is passed;
        ``side_by_side``, how many trainings share the device: the run's workers on a CPU, ``workers.per_gpu`` on a
        GPU, where ``auto`` goes by the largest of these networks; what all was calculated for. The pictures, which each
        process holds as well, are not counted.

    Raises:
        InputError: an architecture outside the space, or no memory to compare with.
        UnavailableError: a GPU that is not there.
    """
    from supernet.network import build_network
    from training.memory import memory_line

    run = resolve_space(run)
    settings, space = run.settings, run.settings.space
    recipe = settings.generate.recipe
    kind, total = _device(device, gigabytes)
    chosen = (
        {"given": space.read(architecture)}
        if architecture is not None
        else _some(space, settings.bounds, settings.seed)
    )
    with single_thread():
        pictures, batch = (space.input_channels, space.input_size), recipe.batch_size
        built = [build_network(space.graph(one), 0) for one in chosen.values()]
        lines = [memory_line(network, *pictures, recipe, batch, kind) for network in built]
    if kind == "cpu":
        side_by_side = len(device_names(settings.workers.model_copy(update={"device": "cpu"})))
    elif settings.workers.per_gpu == "auto":
        side_by_side = networks_on_a_gpu(total, lines[-1], recipe.batch_size, 0)
    else:
        side_by_side = settings.workers.per_gpu
    share = memory_share(kind, total, side_by_side)
    networks = [
        {
            "role": role,
            "architecture": space.format(one),
            "fixed_bytes": line.fixed,
            "bytes_per_image": line.per_image,
            "peak_bytes": line.peak(recipe.batch_size),
            "largest_batch": line.largest_batch(share),
            "pieces": line.pieces(recipe.batch_size, share),
        }
        for (role, one), line in zip(chosen.items(), lines, strict=True)
    ]
    return {
        "device": kind,
        "device_bytes": total,
        "batch_size": recipe.batch_size,
        "precision": recipe.precision,
        "input_size": space.input_size,
        "networks": networks,
        "side_by_side": side_by_side,
    }


def _device(device: Device, gigabytes: float | None) -> tuple[Literal["cpu", "cuda"], int]:
    """The kind of device, and its bytes."""
    gpus = len(gpu_names()) if device != "cpu" else 0
    kind: Literal["cpu", "cuda"] = "cuda" if gpus or device == "cuda" else "cpu"
    if gigabytes is not None:
        if not 0 < gigabytes < 1e6:
            raise InputError(f"memory: --gigabytes {gigabytes:g}; expected more than 0")
        return kind, int(gigabytes * 1e9)
    if kind == "cuda":
        if not gpus:
            raise UnavailableError("memory: torch sees no GPU; say how much memory it has with --gigabytes")
        return kind, min(total_memory(f"cuda:{index}") or 0 for index in range(gpus))
    total = total_memory("cpu")
    if total is None:
        raise InputError("memory: how much this machine has is not known; say it with --gigabytes")
    return kind, total


def _some(space: AnySpace, limits: Limits, seed: int) -> dict[str, Architecture]:
    """By activations: the cheapest, and the median and the largest of a sample within the limits."""
    drawn: list[Architecture] = []
    for count in (_SAMPLE, 1):  # small spaces and tight limits have few
        try:
            drawn = architectures(space, sample_distinct(space, count, np.random.default_rng([seed, 0]), limits))
            break
        except InputError:
            if count == 1:
                raise
    sizes = space.costs(np.array([one.choices for one in drawn], np.int8))["activations"]
    order = np.argsort(sizes, kind="stable")
    middle, last = drawn[order[len(order) // 2]], drawn[order[-1]]
    return {"smallest": space.cheapest("activations"), "median": middle, "largest": last}
