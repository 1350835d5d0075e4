"""Files that are written whole or not at all: the only way that anything but the store and caches is written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from supernet.settings import UnavailableError


def write_bytes(path: Path, data: bytes) -> None:
    """Write a temporary file, force it to the disk, and give it the name; folders are made.

    Raises:
        UnavailableError: the folder cannot be written or the disk is full; an older file stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # or a power cut could take the new name back
            finally:
                os.close(folder)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UnavailableError(f"{path}: cannot write ({error.strerror})") from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text. Raises as :func:`write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write an object. Raises as :func:`write_bytes`, and ValueError for numbers that are not finite."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
