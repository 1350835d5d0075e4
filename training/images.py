"""Images on the device: seeded order, random crop, flip and cutout for a whole batch at once, normalisation.

The pictures stay uint8 until the batch is made. On a GPU a batch is a handful of tensor operations; on a CPU each
picture is one copy of a slice, which is what a core does fastest. Both give the same batches.
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

_PATCHED_AT_ONCE = 64
"""Images whose patches are in memory at the same time while filters are made."""


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


def stream(seed: int, key: str, epoch: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Randomness of one epoch: a function of run seed, architecture and epoch, so nothing of it is saved."""
    digest = hashlib.blake2b(f"{seed}/{key}/{epoch}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


@dataclass(frozen=True)
class Epoch:
    """What happens to each image in one epoch, in the order in which they are taken.

    Attributes:
        order: position in the split, (images,).
        rows, columns: of the crop's corner in the padded picture, (images,).
        mirrored: (images,) of bool.
        holes: row and column of the cutout's corner, (2, images).
    """

    order: Tensor
    rows: Tensor
    columns: Tensor
    mirrored: Tensor
    holes: Tensor

    @staticmethod
    def draw(count: int, side: int, recipe: Recipe, seed: int, key: str, epoch: int) -> Epoch:
        """A function of seed, key and epoch alone."""
        generator = stream(seed, key, epoch)
        order = torch.randperm(count, generator=generator)
        corners = torch.randint(0, 2 * recipe.crop_padding + 1, (2, count), generator=generator)
        mirrored = torch.rand(count, generator=generator) < (0.5 if recipe.flip else 0.0)
        if recipe.flip == "alternating":  # who begins is drawn once a training
            begins = torch.rand(count, generator=stream(seed, key, "flip")) < 0.5
            mirrored = begins[order] ^ (epoch % 2 == 1)
        room = max(1, side - recipe.cutout + 1)
        holes = torch.randint(0, room, (2, count), generator=generator)
        return Epoch(order, corners[0], corners[1], mirrored, holes)

    def to(self, device: torch.device) -> Epoch:
        return Epoch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class Scale:
    """uint8 pictures to normalised float ones."""

    def __init__(self, normalisation: Normalisation, device: torch.device) -> None:
        self._mean = torch.tensor(normalisation.mean, device=device)
        self._deviation = torch.tensor(normalisation.deviation, device=device)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (batch, side, side, channels) to float32 (batch, channels, side, side) in channels_last."""
        return ((images.float() / 255 - self._mean) / self._deviation).permute(0, 3, 1, 2)


def normalise(images: Tensor, normalisation: Normalisation) -> Tensor:
    """uint8 (batch, side, side, channels) to float32 (batch, channels, side, side) in channels_last."""
    return Scale(normalisation, images.device)(images)


def training_batches(
    split: Split, recipe: Recipe, normalisation: Normalisation, seed: int, key: str, epoch: int, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order from batch ``first``: (images, labels). The rest that fills no batch is left out."""
    device = split.images.device
    count, side = len(split), split.images.shape[1]
    size = min(recipe.batch_size, count)
    whole = Epoch.draw(count, side, recipe, seed, key, epoch).to(device)
    scale, cut = Scale(normalisation, device), (_cut_slices if device.type == "cpu" else _cut_tensors)
    for start in range(first * size, count - size + 1, size):
        part = slice(start, start + size)
        chosen = whole.order[part]
        if recipe.crop_padding or recipe.flip:
            images = cut(split.images, recipe.crop_padding, whole, part)
        else:
            images = split.images[chosen]
        batch = scale(images)
        if recipe.cutout:
            _blank(batch, whole.holes[:, part], recipe.cutout)
        yield batch, split.labels[chosen]


def _cut_tensors(pictures: Tensor, padding: int, epoch: Epoch, part: slice) -> Tensor:
    """The crops of a batch, by three operations for all of them."""
    side, device = pictures.shape[1], pictures.device
    images = torch.nn.functional.pad(pictures[epoch.order[part]], (0, 0, padding, padding, padding, padding))
    ahead = torch.arange(side, device=device)
    rows = epoch.rows[part, None] + ahead
    columns = epoch.columns[part, None] + torch.where(epoch.mirrored[part, None], ahead.flip(0), ahead)
    batch = torch.arange(len(images), device=device)[:, None, None]
    return images[batch, rows[:, :, None], columns[:, None, :]]


def _cut_slices(pictures: Tensor, padding: int, epoch: Epoch, part: slice) -> Tensor:
    """The same, one picture after the other."""
    source = pictures.numpy()
    _, height, width, channels = source.shape
    numbers = (epoch.order, epoch.rows - padding, epoch.columns - padding, epoch.mirrored)
    chosen = [values[part].tolist() for values in numbers]
    images = np.zeros((len(chosen[0]), height, width, channels), np.uint8)
    for image, number, row, column, mirrored in zip(images, *chosen, strict=True):
        top, bottom = max(0, row), min(height, height + row)
        left, right = max(0, column), min(width, width + column)
        if top >= bottom or left >= right:
            continue  # small pictures: nothing but border
        target = image[:, ::-1] if mirrored else image
        target[top - row : bottom - row, left - column : right - column] = source[number, top:bottom, left:right]
    return torch.from_numpy(images)


def _blank(batch: Tensor, corners: Tensor, side: int) -> None:
    """Set a square of each normalised picture to zero, which is the mean colour."""
    height, width = batch.shape[2:]
    rows = torch.arange(height, device=batch.device) - corners[0][:, None]
    columns = torch.arange(width, device=batch.device) - corners[1][:, None]
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    batch.masked_fill_(inside[:, None], 0.0)


def evaluation_batches(split: Split, batch_size: int, normalisation: Normalisation) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once, in order: (images, labels)."""
    scale = Scale(normalisation, split.images.device)
    for start in range(0, len(split), batch_size):
        end = start + batch_size
        yield scale(split.images[start:end]), split.labels[start:end]


def whitening_filters(split: Split, normalisation: Normalisation, count: int, kernel: int) -> Tensor:
    """Filters that make patches of the images uncorrelated and of equal variance (Coates, Ng and Lee 2011).

    The principal components of the patches, largest first, each divided by its standard deviation; where ``count`` is
    more than there are, their negatives follow, and so on in turn.

    Returns:
        (count, channels, kernel, kernel) on the split's device.
    """
    images = split.images[:: max(1, len(split) // 2_000)]
    channels = images.shape[3]
    size = channels * kernel**2
    moments, count_of_patches = torch.zeros(size, size, dtype=torch.float64, device=images.device), 0
    for start in range(0, len(images), _PATCHED_AT_ONCE):
        part = images[start : start + _PATCHED_AT_ONCE]
        patches = torch.nn.functional.unfold(
            normalise(part, normalisation).double(), kernel
        )  # (images, values, places)
        values = patches.transpose(0, 1).flatten(1)
        moments += values @ values.T
        count_of_patches += values.shape[1]
    variances, vectors = torch.linalg.eigh(moments / count_of_patches)
    vectors = vectors.T.flip(0) / (variances.flip(0) + 1e-2).sqrt()[:, None]  # what hardly varies is mostly noise
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    vectors = vectors * largest.sign()  # of the two directions of each, one that does not depend on the library
    numbers = torch.arange(count, device=vectors.device)
    signs = 1 - 2 * (numbers // len(vectors) % 2)
    chosen = vectors[numbers % len(vectors)] * signs[:, None]
    filters: Tensor = chosen.reshape(count, channels, kernel, kernel).float()
    return filters
