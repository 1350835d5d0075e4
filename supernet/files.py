"""Files that are written whole or not at all, and JSON that proves itself: the only way that anything but the
store and caches is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from supernet.settings import InputError, UnavailableError

_FORMAT = 2
"""Of every JSON file. Format 1 had neither ``format`` nor ``digest``; both are still read."""


def write_bytes(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a temporary file, force it to the disk, and give it the name; folders are made.

    Args:
        data: the content, or its pieces in order.

    Raises:
        UnavailableError: the folder cannot be written or the disk is full; an older file stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb", buffering=2**20) as file:
                file.writelines((data,) if isinstance(data, bytes) else data)
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


def sweep(folder: Path) -> None:
    """Remove what processes that are gone left half written, in a folder and those below. The caller owns it."""
    for path in folder.rglob(".*.tmp"):
        process = path.name.split(".")[-2]
        if process.isdecimal() and not Path(f"/proc/{process}").exists():
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write UTF-8 text, whole or in pieces. Raises as :func:`write_bytes`."""
    write_bytes(path, text.encode() if isinstance(text, str) else (piece.encode() for piece in text))


def bytes_digest(data: bytes) -> str:
    """The digest of a file's content that stands in the JSON beside it."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object with a digest of itself. Raises as :func:`write_bytes`, and ValueError for NaN and infinity."""
    write_bytes(path, _proved(content))


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file of :func:`write_json`, None where there is no file.

    Raises:
        InputError: a file that is damaged, edited by hand, or written by a newer version.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged, no valid JSON; delete it and run the stage again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object, got {type(content).__name__}; delete it and run the stage again")
    marks = {"format", "digest"} & content.keys()
    if not marks:
        return content  # format 1
    written = content.get("format")
    if type(written) is int and written > _FORMAT and "digest" in content:
        raise InputError(f"{path}: written by a newer version (format {written}, this one reads {_FORMAT}); update")
    inner = {key: value for key, value in content.items() if key not in marks}
    try:
        whole = len(marks) == 2 and data == _proved(inner)
    except (ValueError, RecursionError):  # NaN, or nested almost too deep to be read
        whole = False
    if not whole:
        raise InputError(f"{path}: damaged or edited by hand; delete it and run the stage again")
    return inner


_FORMAT_1_TEXT = "# The resolved configuration of the run "
_DIGEST_LINE = re.compile(r"# digest ([0-9a-f]{32})")


def write_proved_text(path: Path, note: str, text: str) -> None:
    """Write text under a comment line with a digest of the rest and a note. Raises as :func:`write_bytes`."""
    rest = f"; {note}\n{text}"
    write_text(path, f"# digest {_text_digest(rest)}{rest}")


def read_proved_text(path: Path) -> str:
    """The whole text of a file of :func:`write_proved_text`.

    Raises:
        InputError: a file that is not there, damaged, or edited by hand.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: damaged, no UTF-8 text") from error
    first = _DIGEST_LINE.match(text)
    if first is None and text.startswith(_FORMAT_1_TEXT):
        return text
    if first is None or first[1] != _text_digest(text[first.end() :]):
        raise InputError(f"{path}: damaged or edited by hand; use the recipe that it was made from, changed by --set")
    return text


def _text_digest(text: str) -> str:
    return bytes_digest(text.encode())


def _proved(content: Mapping[str, Any]) -> bytes:
    """The bytes of a file: the object between its format and its digest."""
    inner = json.dumps(content, separators=(",", ":"), allow_nan=False)
    whole = {"format": _FORMAT, **content, "digest": _text_digest(inner)}
    return (json.dumps(whole, indent=1, allow_nan=False) + "\n").encode()
