"""Weights that a run has kept of the networks that it trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from data_gen.store import STUDY_STAGE
from supernet import InputError
from supernet.files import bytes_digest, read_json

if TYPE_CHECKING:
    from torch import nn

HOW_KEPT = "they are kept where generate.keep_weights is true from the beginning"

_FOLDERS = {"generate": "weights", "front": "front/weights", "retrain": "checkpoints"}


def weights_folder(stage: str) -> Path | None:
    """Where weights of a stage are kept, in the run's folder; None where they never are."""
    if stage.startswith(STUDY_STAGE):
        return Path("weights") / stage
    return Path(_FOLDERS[stage]) if stage in _FOLDERS else None


def read_weights(path: Path) -> bytes:
    """A file of weights, whole. Raises InputError where it cannot be read or is not what the JSON beside it says."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if described_digest(path) != bytes_digest(data):
        raise InputError(f"{path}: damaged: not the weights that the file beside it describes; delete it")
    return data


def described_digest(path: Path) -> str | None:
    """The digest of a file of weights according to the JSON beside it; None where that says nothing."""
    described = read_json(path.with_suffix(".json")) or {}
    found = described.get("weights")
    return found if isinstance(found, str) and len(described) == 1 else None


def load_weights(network: nn.Module, data: bytes, path: Path) -> None:
    """Give a network its weights. Raises InputError where they are another network's."""
    from safetensors import SafetensorError  # whoever moves files about needs no torch
    from safetensors.torch import load

    try:
        network.load_state_dict(load(data))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: weights of another network, or damaged ({str(error)[:200]}); delete it") from error
