"""What corruptions are made of: draws in blocks, borders, matrices of separable filters, blur along a line.

Layouts: *pictures* are (images, height, width, channels), *planes* are float32 (..., height, width), and a *layer* is
float32 (images, height, width). Levels run from 0 to 255 unless a function says otherwise.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Border = Literal["nearest", "mirror", "reflect"]
"""a a | a b c | c c, c b | a b c | b a, and b a | a b c | c b."""

_HAIR = 2**-10
"""Levels: what rounding in float32 may take from a whole number before it is cut off to one."""


@dataclass(frozen=True)
class Draws:
    """The randomness of one block of pictures, drawn on the CPU and always for the whole block.

    So it is the same on every device, and for every number of pictures that the block holds.
    """

    generator: torch.Generator
    block: int
    images: int
    device: torch.device

    def uniform(self, *shape: int) -> Tensor:
        """float32 (images, *shape) from 0 up to 1."""
        return self._moved(torch.rand((self.block, *shape), generator=self.generator))

    def normal(self, *shape: int) -> Tensor:
        """float32 (images, *shape) of mean 0 and deviation 1."""
        return self._moved(torch.randn((self.block, *shape), generator=self.generator))

    def integers(self, bound: int, *shape: int) -> Tensor:
        """int32 (images, *shape) from 0 up to the bound."""
        draws = torch.randint(bound, (self.block, *shape), generator=self.generator, dtype=torch.int32)
        return self._moved(draws)

    def _moved(self, draws: Tensor) -> Tensor:
        return draws[: self.images].to(self.device)


def planes_of(pictures: Tensor) -> Tensor:
    """float32 (images, channels, height, width)."""
    return pictures.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)


def pictures_of(planes: Tensor) -> Tensor:
    """The way back: a view."""
    return planes.permute(0, 2, 3, 1)


def cut(levels: Tensor) -> Tensor:
    """uint8, the fraction cut off as in the published scripts. Overwrites the levels."""
    return levels.add_(_HAIR).clamp_(0, 255).to(torch.uint8)


def rounded(levels: Tensor) -> Tensor:
    """Whole levels in the range, halves up. Overwrites the levels."""
    return levels.add_(0.5).floor_().clamp_(0, 255)


def gray(pictures: Tensor) -> Tensor:
    """float32 layer: luma of three channels, else the mean of the channels."""
    if pictures.shape[3] == 3:
        red, green, blue = pictures.unbind(3)
        return (red * 0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114)
    return pictures.mean(dim=3, dtype=torch.float32)


def places(length: int, before: int, after: int, border: Border) -> Tensor:
    """Where each element of a padded line comes from: int64 (before + length + after,). Pads may exceed the line."""
    wanted = torch.arange(-before, length + after)
    if border == "nearest":
        return wanted.clamp_(0, length - 1)
    if border == "mirror":
        wanted = wanted.remainder(max(1, 2 * length - 2))
        return torch.minimum(wanted, 2 * length - 2 - wanted)
    wanted = wanted.remainder(2 * length)
    return torch.minimum(wanted, 2 * length - 1 - wanted)


def padded(values: Tensor, rows: tuple[int, int], columns: tuple[int, int], border: Border, first: int) -> Tensor:
    """Values with more rows (dimension ``first``) and columns (the next one): before and after."""
    for dimension, (before, after) in ((first, rows), (first + 1, columns)):
        if before or after:
            where = places(values.shape[dimension], before, after, border).to(values.device)
            values = values.index_select(dimension, where)
    return values


def windowed(layer: Tensor, kernel: list[list[float]], border: Border = "mirror") -> Tensor:
    """Correlation of a layer with a kernel of odd sides, written as a sum of shifted layers."""
    height, width = layer.shape[1:]
    down, right = len(kernel) // 2, len(kernel[0]) // 2
    around = padded(layer, (down, down), (right, right), border, first=1)
    output = torch.zeros_like(layer)
    for row, weights in enumerate(kernel):
        for column, weight in enumerate(weights):
            if weight:
                output.add_(around[:, row : row + height, column : column + width], alpha=weight)
    return output


@functools.lru_cache(maxsize=64)
def gaussian_matrix(length: int, sigma: float, truncate: float = 4.0, border: Border = "nearest") -> Tensor:
    """float32 (length, length): a Gaussian filter of a line, cut off at so many deviations as SciPy does."""
    radius = int(truncate * sigma + 0.5)
    distance = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (distance / sigma) ** 2) if radius else torch.ones(1, dtype=torch.float64)
    windows = places(length, radius, radius, border).unfold(0, 2 * radius + 1, 1)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    return matrix.scatter_add_(1, windows, (weights / weights.sum()).expand(length, -1)).float()


def separable(planes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """A linear map of the rows' axis, (new height, height), and one of the columns', (new width, width)."""
    return torch.matmul(torch.matmul(rows.to(planes.device), planes), columns.to(planes.device).T)


def smoothed(planes: Tensor, sigma: float, truncate: float = 4.0, border: Border = "nearest") -> Tensor:
    """A Gaussian filter of the planes."""
    height, width = planes.shape[-2:]
    if int(truncate * sigma + 0.5) == 0:
        return planes
    matrices = (gaussian_matrix(length, sigma, truncate, border) for length in (height, width))
    return separable(planes, *matrices)


def zoom_steps(length: int, zoom: float) -> tuple[Tensor, Tensor, Tensor]:
    """Clipped zoom of a line: the middle of it, enlarged to at least its length, cut to its length.

    Returns:
        For each element the two that it lies between, int64 (length,), and the second one's weight, float64.
    """
    kept = math.ceil(length / zoom)
    enlarged = round(kept * zoom)
    start = (length - kept) // 2
    numbers = torch.arange(length, dtype=torch.float64) + (enlarged - length) // 2
    wanted = numbers * ((kept - 1) / (enlarged - 1) if enlarged > 1 else 0.0)
    below = wanted.floor().long().clamp_(max=kept - 1)
    return start + below, start + (below + 1).clamp_(max=kept - 1), wanted - below


@functools.lru_cache(maxsize=64)
def zoom_matrix(length: int, zoom: float) -> Tensor:
    """float32 (length, length): the clipped zoom as a matrix."""
    below, above, share = zoom_steps(length, zoom)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    matrix.scatter_add_(1, below[:, None], 1 - share[:, None])
    return matrix.scatter_add_(1, above[:, None], share[:, None]).float()


def along_a_line(pictures: Tensor, degrees: Tensor, radius: int, sigma: float) -> Tensor:
    """ImageMagick's motion blur: half a Gaussian of 2 x radius + 1 steps along a line, edge pixels repeated.

    Args:
        pictures: levels, (images, height, width, channels).
        degrees: of each picture, (images,), on the CPU; from the columns' axis towards later rows.

    Returns:
        float32, whole levels.
    """
    steps = torch.arange(2 * radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    steps, weights = steps[weights > 1e-6], weights[weights > 1e-6]  # the rest is less than a thousandth of a level
    order = degrees.argsort(stable=True)
    radians = torch.deg2rad(degrees[order].double())[:, None]
    rows, columns = (torch.ceil(steps * side - 0.5).int() for side in (radians.sin(), radians.cos()))
    top, left = -int(rows.min()), -int(columns.min())
    around = padded(
        pictures.index_select(0, order.to(pictures.device)).float(),
        (top, int(rows.max())), (left, int(columns.max())), "nearest", first=1,
    )  # fmt: skip
    height, width = pictures.shape[1:3]
    output = torch.zeros(pictures.shape, device=pictures.device)
    # In the order of angles, neighbours share the offset of most steps: each run of them is one addition.
    changes = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
    offsets = list(zip((rows + top).T.tolist(), (columns + left).T.tolist(), strict=True))
    for step, weight in enumerate(weights.tolist()):
        starts = [0, *(changes[:, step].nonzero().flatten() + 1).tolist(), len(pictures)]
        for start, end in itertools.pairwise(starts):
            row, column = offsets[step][0][start], offsets[step][1][start]
            moved = around[start:end, row : row + height, column : column + width]
            output[start:end].add_(moved, alpha=weight)
    result = torch.empty_like(output)
    result[order.to(pictures.device)] = rounded(output)
    return result
