"""JPEG compression of many pictures at once: what a picture looks like after it, without the file.

The steps of the standard with the choices of libjpeg: luma and colour differences, colour at half the sides, cosine
transform of 8 x 8 blocks, the standard tables scaled by the quality, rounding, and the same back with a triangle
filter for the colours.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from training.filtering import padded, pictures_of, planes_of, rounded

_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_COLOUR = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
"""Quantisation of luma and colour at quality 50 (ITU-T T.81, annex K)."""


def compressed(pictures: Tensor, quality: int) -> Tensor:
    """uint8 pictures (images, height, width, channels) as they come back from a JPEG file of that quality (1 to 100).

    Three channels are red, green and blue; of any other number, each is a gray picture of its own.
    """
    planes = planes_of(pictures)
    if planes.shape[1] != 3:
        return pictures_of(_coded(planes, _LUMA, quality)).to(torch.uint8)
    height, width = planes.shape[2:]
    red, green, blue = planes.unbind(1)
    luma = rounded((red * 0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114))
    colours = torch.stack(
        [
            (red * -0.168735892).add_(green, alpha=-0.331264108).add_(blue, alpha=0.5),
            (red * 0.5).add_(green, alpha=-0.418687589).add_(blue, alpha=-0.081312411),
        ],
        dim=1,
    )
    colours = colours.add_(128.5 - 2**-16).floor_()  # a half goes down here, as in libjpeg
    luma = _coded(luma, _LUMA, quality)
    colours = _enlarged(_coded(_halved(colours), _COLOUR, quality), height, width) - 128
    blues, reds = colours.unbind(1)
    red = reds * 1.402
    green = (blues * -0.344136286).sub_(reds, alpha=0.714136286)
    blue = blues * 1.772
    # The sum is rounded, not the difference alone: luma is a whole number.
    return pictures_of(torch.stack([rounded(part.add_(luma)) for part in (red, green, blue)], 1).to(torch.uint8))


def _coded(planes: Tensor, table: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """Planes of whole levels after the cosine transform, rounded to multiples of the table, and back."""
    height, width = planes.shape[-2:]
    first = planes.ndim - 2
    whole = padded(planes, (0, -height % 8), (0, -width % 8), "nearest", first)
    rows, columns = whole.shape[-2:]
    along, down = (matrix.to(planes.device) for matrix in _cosines())
    steps = _steps(table, quality).to(planes.device)
    blocks = whole.reshape(-1, rows // 8, 8, columns // 8, 8).permute(0, 1, 3, 2, 4).reshape(-1, 64) - 128
    # As in libjpeg's whole numbers: one axis to a quarter, then the other; eight times the orthonormal values.
    values = torch.mm(blocks, along.T).mul_(4).add_(0.5).floor_()
    values = torch.mm(values, down.T).mul_(0.25).add_(0.5).floor_().div_(steps * 8)
    values = values.add_(torch.full_like(values, 0.5).copysign_(values)).trunc_().mul_(steps)  # halves away from zero
    values = torch.mm(values, down).mul_(4).add_(0.5).floor_()
    levels = rounded(torch.mm(values, along).mul_(1 / 32).add_(128))
    levels = levels.view(-1, rows // 8, columns // 8, 8, 8).permute(0, 1, 3, 2, 4).reshape(whole.shape)
    return levels[..., :height, :width]


@functools.lru_cache(maxsize=1)
def _cosines() -> tuple[Tensor, Tensor]:
    """float32 (64, 64): the cosine transform along the rows of a block of 64 pixels, and down its columns.

    Each is the square root of eight times the orthonormal one, so that means are sums.
    """
    line = torch.arange(8, dtype=torch.float64)
    matrix = torch.cos(math.pi / 8 * (line + 0.5) * line[:, None]) * math.sqrt(2)
    matrix[0] = 1.0
    unit = torch.eye(8, dtype=torch.float64)
    return torch.kron(unit, matrix).float(), torch.kron(matrix, unit).float()


@functools.lru_cache(maxsize=32)
def _steps(table: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """float32 (64,): the multiples that each coefficient is rounded to."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(table).flatten() * scale + 50) // 100).clamp_(1, 255).float()


def _halved(planes: Tensor) -> Tensor:
    """Means of 2 x 2, rounded down and up in turn along a row."""
    height, width = planes.shape[2:]
    # To the right, pixels are repeated before the means are taken; below, the means are repeated.
    whole = padded(planes, (0, height % 2), (0, -width % 16), "nearest", first=2)
    pairs = whole[..., ::2, :] + whole[..., 1::2, :]
    sums = pairs[..., ::2] + pairs[..., 1::2]
    sums[..., ::2] += 1
    sums[..., 1::2] += 2
    return sums.mul_(0.25).floor_()


def _enlarged(planes: Tensor, height: int, width: int) -> Tensor:
    """Twice the sides by the triangle filter in whole numbers, then cut to the picture."""
    rows, columns = (height + 1) // 2, (width + 1) // 2
    planes = planes[..., :columns]
    if columns <= 2:  # libjpeg has no filter for so few
        return planes.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :height, :width]
    down, across = _triangle(rows).to(planes.device), _triangle(columns).to(planes.device)
    sums = torch.matmul(torch.matmul(down, planes), across.T)
    sums[..., ::2] += 8
    sums[..., 1::2] += 7
    return sums.mul_(1 / 16).floor_()[..., :height, :width]


@functools.lru_cache(maxsize=16)
def _triangle(length: int) -> Tensor:
    """float32 (2 x length, length): three parts of the nearer and one of the further neighbour, undivided."""
    matrix = torch.zeros(2 * length, length)
    numbers = torch.arange(length)
    for side, further in ((0, numbers - 1), (1, numbers + 1)):
        matrix[2 * numbers + side, numbers] += 3
        matrix[2 * numbers + side, further.clamp(0, length - 1)] += 1
    return matrix
