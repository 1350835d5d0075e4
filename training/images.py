"""Images on the device: seeded order, random crop and flip for a whole batch at once, normalisation.

The pictures stay uint8 until the batch is made; nothing is done one image at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.data import DataInfo, Normalisation, SplitName
from training.recipe import Recipe


@dataclass(frozen=True)
class Split:
    """One part of a data set on one device.

    Attributes:
        images: uint8, (images, side, side, channels).
        labels: int64, (images,).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


def load_split(info: DataInfo, name: SplitName) -> Split:
    """One split on the CPU, in memory or memory-mapped."""
    path = info.folder / f"{name}_images.npy"
    mapped = path.stat().st_size > info.memory_megabytes * 2**20
    # "c" maps copy-on-write: torch wants memory that it may write to, and the file stays as it is.
    images = np.load(path, mmap_mode="c" if mapped else None, allow_pickle=False)
    labels = np.load(info.folder / f"{name}_labels.npy", allow_pickle=False)
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def stream(seed: int, key: str, epoch: int) -> torch.Generator:
    """Randomness of one epoch: a function of run seed, architecture and epoch, so nothing of it is saved."""
    digest = hashlib.blake2b(f"{seed}/{key}/{epoch}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def normalise(images: Tensor, normalisation: Normalisation) -> Tensor:
    """uint8 (batch, side, side, channels) to float32 (batch, channels, side, side) in channels_last."""
    mean = torch.tensor(normalisation.mean, device=images.device)
    deviation = torch.tensor(normalisation.deviation, device=images.device)
    return ((images.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)


def training_batches(
    split: Split, recipe: Recipe, normalisation: Normalisation, generator: torch.Generator, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order from batch ``first``: (images, labels). The rest that fills no batch is left out."""
    device = split.images.device
    count, side = len(split), split.images.shape[1]
    size = min(recipe.batch_size, count)
    padding = recipe.crop_padding
    order = torch.randperm(count, generator=generator)
    shifts = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    flips = torch.rand(count, generator=generator) < (0.5 if recipe.flip else 0.0)
    positions = torch.arange(side)
    rows = (shifts[0][:, None] + positions).to(device)
    columns = (shifts[1][:, None] + torch.where(flips[:, None], positions.flip(0), positions)).to(device)
    order = order.to(device)
    for start in range(first * size, count - size + 1, size):
        chosen = order[start : start + size]
        images = split.images[chosen]
        if padding or recipe.flip:
            images = torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
            here = slice(start, start + size)
            batch = torch.arange(size, device=device)[:, None, None]
            images = images[batch, rows[here][:, :, None], columns[here][:, None, :]]
        yield normalise(images, normalisation), split.labels[chosen]


def evaluation_batches(split: Split, batch_size: int, normalisation: Normalisation) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once, in order: (images, labels)."""
    for start in range(0, len(split), batch_size):
        end = start + batch_size
        yield normalise(split.images[start:end], normalisation), split.labels[start:end]
