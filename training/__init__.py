"""One network's training: images on the device, recipe, loop, result. Importing it imports torch."""

from training.data import DataInfo, DataSettings, load_split, open_prepared, prepare
from training.images import Normalisation, Split
from training.loop import Curves, DivergedError, TrainResult, measure, train
from training.recipe import Recipe

__all__ = [
    "Curves",
    "DataInfo",
    "DataSettings",
    "DivergedError",
    "Normalisation",
    "Recipe",
    "Split",
    "TrainResult",
    "load_split",
    "measure",
    "open_prepared",
    "prepare",
    "train",
]
