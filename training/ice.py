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
from training.layout import is_picture

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
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one of pictures of frost")
    paths = [path for path in sorted(folder.iterdir()) if is_picture(path.name)]
    if not paths:
        raise InputError(f"{folder}: no picture; expected files such as .png or .jpg")
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
    """Five textures of ice for pictures whose longer side is ``side``: needles, feathers and bare glass.

    Always the same ones. Ridges of noise that is stretched along a slowly turning direction, in several octaves, denser
    in some places than in others.

    Returns:
        uint8 (textures, height, width, 3).
    """
    length = 6 * side if side < SMALL_SIDE else 2 * side
    return torch.stack([_ice(number, length, length / (200 if side < SMALL_SIDE else 900)) for number in range(_COUNT)])


def _ice(number: int, length: int, scale: float) -> Tensor:
    """One texture, uint8 (length, length, 3). ``scale`` is the texture's length in units of a usual one."""
    generator = stream(number, "ice", "texture")
    line = (torch.arange(length, dtype=torch.float32) + 0.5) / length * scale
    down, across = torch.meshgrid(line, line, indexing="ij")
    angle = (torch.rand((), generator=generator) + _noise(generator, across, down, 1.5)) * math.pi
    bend = _noise(generator, across, down, 5) * 0.04
    light = torch.zeros(length, length)
    for octave, weight in enumerate((1.0, 0.8, 0.6, 0.45)):
        for turn in (0.0, math.pi / 3):  # ice branches at sixty degrees
            sine, cosine = torch.sin(angle + turn), torch.cos(angle + turn)
            along, aside = across * cosine + down * sine + bend, down * cosine - across * sine + bend
            frequency = 6 * 2**octave
            ridges = 1 - _noise(generator, along * 0.18, aside, frequency).abs().mul_(2.2).clamp_(max=1)
            light += ridges**3 * weight * (1.0 if turn == 0 else 0.6)
    dense = torch.sigmoid(_noise(generator, across, down, 2.5) * 5 + _noise(generator, across, down, 9) * 2)
    light = light / light.mean() * (0.25 + 0.75 * dense)
    light = 1 - torch.exp(-0.75 * light)
    dark, pale = torch.tensor([38.0, 58.0, 84.0]), torch.tensor([236.0, 244.0, 250.0])
    return cut(rounded(dark + (pale - dark) * light[..., None]))


def _noise(generator: torch.Generator, across: Tensor, down: Tensor, frequency: float) -> Tensor:
    """Smooth noise at places: cubic between random values, of deviation about a half; it repeats after 64 values."""
    values = torch.randn(1, 1, 64, 64, generator=generator)
    values = torch.cat([values, values[..., :4]], dim=3)
    values = torch.cat([values, values[..., :4, :]], dim=2)
    places = torch.stack([across, down], dim=-1) * frequency
    places = places.remainder(64) + 1.5
    return torch.nn.functional.grid_sample(
        values, (places * 2 / 68 - 1)[None], mode="bicubic", padding_mode="border", align_corners=False
    )[0, 0].mul_(0.6)
