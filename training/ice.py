"""Textures of frost: read from a folder of pictures, or made."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from supernet import InputError
from training.filtering import cut, rounded
from training.images import stream
from training.robustness import texture_files

SMALL_SIDE = 96
"""Pictures with a shorter side below it meet the constants, and the texture's scale, of CIFAR-10-C."""

_COUNT = 5
_SCALE = 0.2  # of the textures for small pictures, as published


def frost_textures(folder: Path, side: int) -> Tensor:
    """The pictures of a folder as textures for pictures whose longer side is ``side``.

    For sides below 96 they are taken at a fifth of their size, as published; smaller ones are enlarged to the side.
    All are cut, from the middle, to the smallest height and width among them.

    Returns:
        uint8 (textures, height, width, 3).

    Raises:
        InputError: no such folder, no picture in it, or one that cannot be read.
    """
    paths = texture_files(folder)
    textures = []
    for path in paths:
        try:
            with Image.open(path) as image:
                scale = max(_SCALE if side < SMALL_SIDE else 1.0, side / min(image.size))
                width, height = (max(side, round(length * scale)) for length in image.size)
                small = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{path}: cannot be read as a picture: {error}") from error
        textures.append(torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(height, width, 3))
    height, width = (min(texture.shape[axis] for texture in textures) for axis in (0, 1))
    cuts = []
    for texture in textures:
        top, left = (texture.shape[0] - height) // 2, (texture.shape[1] - width) // 2
        cuts.append(texture[top : top + height, left : left + width])
    return torch.stack(cuts)


@functools.lru_cache(maxsize=2)
def made_textures(side: int) -> Tensor:
    """Five textures of ice for pictures whose longer side is ``side``: ferns of ice that grow over each other.

    Always the same ones. Small pictures see them from afar, as published: a fern is then about as long as the picture.

    Returns:
        uint8 (textures, height, width, 3).
    """
    far = side < SMALL_SIDE
    return torch.stack([_ice(number, (6 if far else 2) * side, 1.0 if far else 0.45) for number in range(_COUNT)])


def _ice(number: int, length: int, extent: float) -> Tensor:
    """One texture, uint8 (length, length, 3): a square of a pane whose side is 1."""
    generator = stream(number, "ice", "texture")
    line = (torch.arange(length, dtype=torch.float32) + 0.5) / length * extent
    down, across = torch.meshgrid(line, line, indexing="ij")
    rough = _noise(generator, across, down, 60) * 0.5 + _noise(generator, across, down, 130) * 0.5
    crowded = _noise(generator, across, down, 4)
    clear = torch.ones_like(down)  # what no fern covers
    for _ in range(round(90 * max(0.3, extent**2))):
        column, row, turn, size, pale = torch.rand(5, generator=generator).tolist()
        sine, cosine = math.sin(2 * math.pi * turn), math.cos(2 * math.pi * turn)
        right, below = across - column * extent, down - row * extent
        along = right * cosine + below * sine
        aside = (below * cosine - right * sine) + 0.15 * (2 * pale - 1) * along  # no two stems are quite straight
        clear *= 1 - _fern(along / (0.12 + 0.2 * size), aside / (0.12 + 0.2 * size), rough) * (0.45 + 0.5 * pale)
    film = torch.sigmoid(3 * crowded + 2 * rough - 0.6)  # between the ferns, frozen breath
    light = 1 - clear * (1 - 0.45 * film) + 0.10 * rough
    dark, light_colour = torch.tensor([22.0, 38.0, 60.0]), torch.tensor([240.0, 247.0, 252.0])
    return cut(rounded(dark + (light_colour - dark) * light.clamp_(0, 1)[..., None]))


def _fern(along: Tensor, aside: Tensor, rough: Tensor) -> Tensor:
    """How white a fern is, 0 to 1: a stem from 0 to 1 whose branches leave it at sixty degrees and grow shorter."""
    reach = aside.abs()
    foot = along - reach * 0.577 + 0.012 * rough  # where on the stem the branch begins
    number = foot * 13 + (aside > 0) * 0.5
    branches = 1 - (2 * number.frac() - 1).abs()
    twigs = 1 - (2 * (reach * 30 + number.floor() * 0.37 + 0.2 * rough).frac() - 1).abs()
    white = branches.clamp_(0, 1) ** 2 * (0.85 + 0.35 * twigs.clamp_(0, 1))
    white = torch.maximum(white, torch.exp(-((reach * 45) ** 2)))
    inside = torch.sigmoid((0.3 * (1 - foot) + 0.02 - reach) * 50) * torch.sigmoid(foot * 60)
    return (white * inside * (0.9 + 0.35 * rough)).clamp_(0, 1)


def _noise(generator: torch.Generator, across: Tensor, down: Tensor, frequency: float) -> Tensor:
    """Smooth noise at places: cubic between random values, of deviation about a half; it repeats after 64 values."""
    values = torch.randn(1, 1, 64, 64, generator=generator)
    values = torch.cat([values, values[..., :4]], dim=3)
    values = torch.cat([values, values[..., :4, :]], dim=2)
    places = (torch.stack([across, down], dim=-1) * frequency).remainder(64) + 1.5
    return torch.nn.functional.grid_sample(
        values, (places * 2 / 68 - 1)[None], mode="bicubic", padding_mode="border", align_corners=False
    )[0, 0].mul_(0.6)
