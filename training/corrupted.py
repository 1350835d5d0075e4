"""Measuring a trained network on corrupted images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from training.corruptions import corrupt, frost_textures
from training.data import Normalisation
from training.images import Split
from training.loop import measure_accuracy
from training.recipe import Recipe
from training.robustness import CLEAN, RobustnessSettings, cell_name

_KEPT_BYTES = 512 * 2**20
"""Corrupted images that are kept for the next network; what goes beyond is made anew for each."""


class CorruptedSplit:
    """The images that robustness is measured on: clean, and each cell of corruption and severity.

    Attributes:
        bytes: on the device, at most.

    Args:
        split: on the device to be used.

    Raises:
        InputError: a folder of textures that has none.
    """

    def __init__(self, split: Split, settings: RobustnessSettings) -> None:
        self._settings = settings
        self.clean = evenly_spaced(split, settings.images)
        self._textures = _textures(settings.textures, self.clean.images)
        self._kept: dict[tuple[str, int], Tensor] = {}
        cells = len(settings.corruptions) * len(settings.severities)
        self.bytes = cells * self.clean.images.numel()
        self._keeps = self.bytes <= _KEPT_BYTES
        if not self._keeps:
            self.bytes = self.clean.images.numel()

    def __iter__(self) -> Iterator[tuple[str, int, Split]]:
        """(corruption, severity, images) of every cell."""
        settings = self._settings
        for name, severity in settings.cells:
            images = self._kept.get((name, severity))
            if images is None:
                images = corrupt(self.clean.images, name, severity, settings.seed, self._textures)
                if self._keeps:
                    self._kept[name, severity] = images
            yield name, severity, Split(images, self.clean.labels)


def evenly_spaced(split: Split, count: int | None) -> Split:
    """At most so many of a split's images, evenly spaced: a split may have its classes one after the other."""
    if count is None or count >= len(split):
        return split
    places = torch.arange(count, device=split.images.device) * len(split) // count
    return Split(split.images[places], split.labels[places])


def _textures(folder: Path | None, images: Tensor) -> Tensor | None:
    return None if folder is None else frost_textures(folder, images.shape[1]).to(images.device)


def measure_robustness(
    network: nn.Module,
    corrupted: CorruptedSplit,
    normalisation: Normalisation,
    recipe: Recipe,
    alive: Callable[[], None] = lambda: None,
    pieces: int = 1,
) -> dict[str, float]:
    """Accuracy of a trained network on clean images and on every cell, see :mod:`training.robustness`; fractions.

    Args:
        alive: called each batch.
        pieces: in how many the batches of the training were passed.
    """
    found = {CLEAN: measure_accuracy(network, corrupted.clean, normalisation, recipe, alive, pieces)}
    for name, severity, images in corrupted:
        found[cell_name(name, severity)] = measure_accuracy(network, images, normalisation, recipe, alive, pieces)
    return found
