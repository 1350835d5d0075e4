"""Which GPUs there are, without paying for torch where there can be none."""

from __future__ import annotations

import os
from pathlib import Path

_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""What NVIDIA's driver, WSL's and AMD's put there. Where all are missing, torch sees no GPU either."""


def has_driver() -> bool:
    """Whether a driver of a GPU is there, whatever torch makes of it."""
    return any(Path(driver).exists() for driver in _DRIVERS)


def gpu_names() -> list[str]:
    """The names of the GPUs that torch can use, in its order."""
    if not has_driver():
        return []
    import torch  # seconds: not before

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_name(index) for index in range(count)]


def total_memory(device: str) -> int | None:
    """Bytes of a device, for a CPU those of the machine or of its control group; None where it is not known.

    What is there, not what happens to be free: what is decided by it must be the same tomorrow.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # a name that this system does not know
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        limit = ""
    return min(total, int(limit)) if limit.isdecimal() else total
