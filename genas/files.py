"""JSON files of a run folder: written whole or not at all, read with a clear error."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from supernet import InputError
from supernet.settings import UnavailableError


def write_text(path: Path, text: str) -> None:
    """Write a text file. Raises UnavailableError where the folder cannot be written or the disk is full."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UnavailableError(f"{path}: cannot write ({error.strerror})") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object. Raises as :func:`write_text`, and ValueError for numbers that are not finite."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, None where there is no file. Raises InputError for a damaged one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged or unreadable ({error}); delete it and run the stage again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object, got {type(content).__name__}; delete it and run the stage again")
    return content


def digest(*parts: object) -> str:
    """Tells whether anything that a result was made from has changed."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
