"""Which of several ways to calculate the same is the fastest on this device: timed once for each shape, then known.

What is known is kept in the user's cache, one file a device, so that only the first training of a shape pays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from supernet import InputError
from supernet.files import read_json, write_json
from supernet.settings import UnavailableError
from training.data import cache_folder

_WARM_UP, _TIMED = 3, 5
_known: dict[str, dict[str, str]] = {}


def fastest(
    device: str, shape: str, ways: Mapping[str, Callable[[], object]], seconds: Callable[[Callable[[], object]], float]
) -> str:
    """The name of the fastest way; a way that fails is none.

    Args:
        device: what the answer holds for: card and versions.
        shape: what else decides.
        ways: by name, in order of preference where none was timed.
        seconds: how long one takes.
    """
    path = cache_folder() / "kernels" / f"{hashlib.blake2b(device.encode(), digest_size=8).hexdigest()}.json"
    known = _known.setdefault(device, _read(path))
    if known.get(shape) not in ways:
        times, short = {}, False
        for name, way in ways.items():
            try:
                times[name] = seconds(way)
            except torch.OutOfMemoryError:
                short = True  # no fault of the way
            except (NotImplementedError, ValueError):
                continue  # this device or version does not have it
        known[shape] = min(times, key=lambda name: times[name]) if times else next(iter(ways))
        if times and not short:
            with suppress(UnavailableError):  # then it is timed again next time
                # Other processes may have learnt other shapes meanwhile.
                write_json(path, {"device": device, "fastest": {**_read(path), **known}})
    return known[shape]


def _read(path: Path) -> dict[str, str]:
    try:
        content = read_json(path)
    except (InputError, OSError):
        return {}
    found = {} if content is None else content.get("fastest")
    return {str(shape): str(name) for shape, name in found.items()} if isinstance(found, dict) else {}


def card(device: torch.device) -> str:
    """A GPU, and the versions that decide what is fast on it."""
    return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, cudnn {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]


def cuda_seconds(way: Callable[[], object]) -> float:
    """The median time of a call on the current GPU. Waits for it."""
    for _ in range(_WARM_UP):
        way()
    times = []
    for _ in range(_TIMED):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        way()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return float(sorted(times)[_TIMED // 2])
