"""The two files of a fitted predictor: arrays as safetensors, everything else as JSON.

``predictor.json`` is ``{"format", "version", "digest", "content"}``; the digest covers the arrays'
bytes and the content, so that a flipped bit or a file of another predictor is never read as valid.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from supernet import InputError
from supernet.files import write_bytes, write_text

_FORMAT = "genas-predictor"
_VERSION = 1
_EARLIER = "genas-graph-predictor"
_WEIGHTS, _CONTENT = "predictor.safetensors", "predictor.json"


def write_predictor(folder: Path, arrays: Mapping[str, NDArray[np.generic]], content: Mapping[str, object]) -> None:
    """Write both files, each whole or not at all, the JSON last. Raises UnavailableError where that is impossible."""
    weights = save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    text = _canonical(content)
    document = {"format": _FORMAT, "version": _VERSION, "digest": _digest(weights, text), "content": content}
    write_bytes(folder / _WEIGHTS, weights)
    write_text(folder / _CONTENT, json.dumps(document, indent=1, allow_nan=False) + "\n")


def read_predictor(folder: Path) -> tuple[dict[str, NDArray[np.generic]], dict[str, Any]]:
    """Arrays and content. Raises InputError for files that are missing, damaged, foreign or from a newer version."""
    path = folder / _CONTENT
    try:
        text, weights = path.read_bytes(), (folder / _WEIGHTS).read_bytes()
    except OSError as error:
        raise InputError(f"{error.filename}: cannot read the predictor ({error.strerror}); fit one first") from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged, or not a predictor: no valid JSON") from error
    if isinstance(document, dict) and document.get("format") == _EARLIER:
        raise InputError(f"{path}: of an earlier version, whose predictors were others; fit again")
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise InputError(f"{path}: not a predictor; expected a file with format {_FORMAT!r}")
    version, content = document.get("version"), document.get("content")
    if type(version) is int and version > _VERSION:
        raise InputError(f"{path}: written by a newer version (format {version}, this one reads up to {_VERSION})")
    if version != _VERSION or not isinstance(content, dict):
        raise InputError(f"{path}: expected version {_VERSION} with its content, got version {version!r:.40}")
    if document.get("digest") != _digest(weights, _canonical(content)):
        raise InputError(f"{path}: damaged, or {_WEIGHTS} belongs to another predictor; fit again")
    try:
        return load_arrays(weights), content
    except SafetensorError as error:
        raise InputError(f"{folder / _WEIGHTS}: no valid safetensors ({error})") from error


def _canonical(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _digest(weights: bytes, content: bytes) -> str:
    return hashlib.blake2b(weights + content, digest_size=16).hexdigest()
