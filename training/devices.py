"""Which GPUs there are, without paying for torch where there can be none."""

from __future__ import annotations

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
