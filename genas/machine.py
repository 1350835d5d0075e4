"""What a run ran on: versions, machine, command, commit."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from training.devices import gpu_names

_PACKAGES = ("genas", "torch", "torchvision", "torch-geometric", "numpy", "scipy", "scikit-learn")


def describe_machine(seed: int) -> dict[str, Any]:
    """Content of ``meta.json``: enough to tell why two runs differ."""
    return {
        "command": sys.argv,
        "seed": seed,
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": processor(),
        "gpus": gpu_names(),
        "git_commit": _commit(),
    }


def installed_version(package: str) -> str | None:
    """By the metadata of the package, without importing it; None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The name of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _commit() -> str | None:
    """The commit of the source, where it runs from a checkout."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],  # noqa: S607 - the git that the user has
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError:  # there is none
        return None
    return answer.stdout.strip() or None
