"""The seal of a large store: the digest of its whole file, noted beside it once every row was found whole.

To check each row of 100,000 takes longer than to read them. A file that is, bit for bit, one that was checked
need not be checked again, and one digest of all of it takes a tenth of the time. Any other file has no seal that
fits and is checked row by row; so is that of a run that goes on, part of which is in SQLite's log.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from supernet.files import write_text

LEAST_SIZE = 16 * 2**20
"""Bytes: the rows of a smaller file are checked about as fast as the process for the digest starts."""

_CHECK = 1
"""What was checked where there is a seal. To be raised when more is: older seals then count for nothing."""

# SQLite's locks are POSIX locks, and a process loses those that it has on a file when it closes any descriptor
# of it. So another process reads the file.
_PROGRAM = """
import hashlib, sys
with open(sys.argv[1], "rb") as file:
    print(hashlib.file_digest(file, "sha256").hexdigest())
"""


def is_large(path: Path) -> bool:
    """Whether a store's file is large enough to be sealed."""
    try:
        return path.stat().st_size >= LEAST_SIZE
    except OSError:
        return False


def file_seal(path: Path) -> str | None:
    """What the seal of this file says; None for one that is small, not all in the file, or cannot be read."""
    path = path.resolve()  # SQLite has its log beside the file that a link leads to
    log = path.with_name(f"{path.name}-wal")
    try:
        if not is_large(path) or (log.exists() and log.stat().st_size):
            return None
        command = [sys.executable, "-I", "-S", "-c", _PROGRAM, str(path)]
        digest = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{_CHECK} {digest}"


def read_seal(path: Path) -> str | None:
    """What the seal of a store says, None where there is no seal; any text where it is damaged."""
    seal = _seal_path(path)
    try:
        return seal.read_text(encoding="utf-8", errors="replace").strip() if seal.is_file() else None
    except OSError:
        return None


def write_seal(path: Path, text: str) -> None:
    """Note that a file of which :func:`file_seal` said this was found whole. Raises UnavailableError."""
    write_text(_seal_path(path), f"{text}\n")


def _seal_path(path: Path) -> Path:
    path = path.resolve()
    return path.with_name(f"{path.name}-seal")
