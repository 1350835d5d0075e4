"""Which GPUs there are, without paying for torch where there can be none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""What NVIDIA's driver, WSL's and AMD's put there. Where all are missing, torch sees no GPU either."""


_GROUPS = Path("/sys/fs/cgroup")


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


def gpu_use(device: str) -> dict[str, str | float] | None:
    """Which GPU a device is, how busy it is and how full its memory, as fractions; None where nobody can tell.

    The whole card counts, whoever uses it.
    """
    import torch

    if not device.startswith("cuda"):
        return None
    identity = f"GPU-{str(torch.cuda.get_device_properties(device).uuid).removeprefix('GPU-')}"
    query = "utilization.gpu,memory.used,memory.total"
    command = ["nvidia-smi", f"--id={identity}", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
        use, used, total = (float(number) for number in told.strip().split(","))
    except (OSError, ValueError, subprocess.SubprocessError):  # no such program, or a card that it does not know
        return None
    return {"id": identity, "use": use / 100, "memory": used / total}


def total_memory(device: str) -> int | None:
    """Bytes of a device, for a CPU those of the machine or of its control group; None where it is not known.

    What is there, not what happens to be free: what is decided by it must be the same tomorrow.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine_memory()


def machine_memory() -> int | None:
    """The memory of this machine, or of this process's control group where that is less; None where unknown."""
    try:
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (ValueError, OSError):  # a name that this system does not know
        found = []
    # A container may see its own group as the root, or the whole path of the host.
    files = [_GROUPS / "memory.max", _GROUPS / "memory" / "memory.limit_in_bytes"]
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        for folder in (Path(path), *Path(path).parents):
            within = str(folder).lstrip("/")
            if not kinds:
                files.append(_GROUPS / within / "memory.max")
            elif "memory" in kinds.split(","):
                files.append(_GROUPS / "memory" / within / "memory.limit_in_bytes")
    found += [int(limit) for file in files if (limit := _read(file).strip()).isdecimal()]  # "max" is none
    return min((size for size in found if size > 0), default=None)


def _read(path: Path) -> str:
    """A file that the kernel writes; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
