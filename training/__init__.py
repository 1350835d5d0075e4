"""One network's training: images on the device, recipe, loop, result.

The names are loaded when first used: settings and prepared images need no torch, training does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.checkpoint import Checkpoint, Checkpoints
    from training.data import DataInfo, DataSettings, Normalisation, open_prepared, prepare
    from training.images import Split, load_split
    from training.loop import Curves, DivergedError, StoppedError, TrainResult, measure, train
    from training.recipe import Recipe

_HOMES = {
    "Checkpoint": "training.checkpoint",
    "Checkpoints": "training.checkpoint",
    "Curves": "training.loop",
    "DataInfo": "training.data",
    "DataSettings": "training.data",
    "DivergedError": "training.loop",
    "Normalisation": "training.data",
    "Recipe": "training.recipe",
    "Split": "training.images",
    "StoppedError": "training.loop",
    "TrainResult": "training.loop",
    "load_split": "training.images",
    "measure": "training.loop",
    "open_prepared": "training.data",
    "prepare": "training.data",
    "train": "training.loop",
}

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "Curves",
    "DataInfo",
    "DataSettings",
    "DivergedError",
    "Normalisation",
    "Recipe",
    "Split",
    "StoppedError",
    "TrainResult",
    "load_split",
    "measure",
    "open_prepared",
    "prepare",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'training' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
