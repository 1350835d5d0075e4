"""The corruptions of CIFAR-10-C and ImageNet-C (Hendrycks and Dietterich 2019), for whole batches on any device.

:func:`corrupt` damages pictures in one of nineteen ways at a severity from 1 to 5. The formulas and constants are the
published scripts'; where a formula was written for three channels it is generalised, and each function says how.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from supernet import InputError
from supernet.settings import nearest
from training.blurs import (
    defocus_blur,
    elastic_transform,
    gaussian_blur,
    glass_blur,
    motion_blur,
    pixelate,
    zoom_blur,
)
from training.corruption_names import CORRUPTIONS, EXTRA, SEVERITIES
from training.filtering import Draws, cut
from training.ice import SMALL_SIDE, frost_textures, made_textures
from training.images import stream
from training.jpeg import compressed
from training.weather import fog, frost, snow, spatter

__all__ = ["CORRUPTIONS", "EXTRA", "LARGE", "SEVERITIES", "SMALL", "corrupt", "frost_textures"]

Constants = tuple[float, ...]


def _single(*values: float) -> tuple[Constants, ...]:
    return tuple((value,) for value in values)


SMALL: dict[str, tuple[Constants, ...]] = {
    "gaussian_noise": _single(0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": _single(500, 250, 100, 75, 50),
    "impulse_noise": _single(0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": _single(0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": _single(0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic_transform": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    "pixelate": _single(0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": _single(80, 65, 58, 50, 40),
    "speckle_noise": _single(0.06, 0.1, 0.12, 0.16, 0.2),
    "gaussian_blur": _single(0.4, 0.6, 0.7, 0.8, 1),
    "spatter": (
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
}
"""Constants of CIFAR-10-C, severities 1 to 5; the functions say what they mean."""

_GROWN = 244 / 224
"""The published elastic transform of pictures of 224 pixels was written for 244."""

LARGE: dict[str, tuple[Constants, ...]] = {
    "gaussian_noise": _single(0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": _single(60, 25, 12, 5, 3),
    "impulse_noise": _single(0.03, 0.06, 0.09, 0.17, 0.27),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": _single(0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": _single(0.4, 0.3, 0.2, 0.1, 0.05),
    "elastic_transform": (
        (2 * _GROWN, 0.7 * _GROWN, 0.1 * _GROWN),
        (2 * _GROWN, 0.08 * _GROWN, 0.2 * _GROWN),
        (0.05 * _GROWN, 0.01 * _GROWN, 0.02 * _GROWN),
        (0.07 * _GROWN, 0.01 * _GROWN, 0.02 * _GROWN),
        (0.12 * _GROWN, 0.01 * _GROWN, 0.02 * _GROWN),
    ),
    "pixelate": _single(0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg_compression": _single(25, 18, 15, 10, 7),
    "speckle_noise": _single(0.15, 0.2, 0.35, 0.45, 0.6),
    "gaussian_blur": _single(1, 2, 3, 4, 6),
    "spatter": (
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
    "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
}
"""Constants of ImageNet-C, severities 1 to 5."""

_BLOCK = 256
_BLOCK_PIXELS = 2**18
"""A block is at most so many pictures and, if it is more than one, at most so many pixels: it stays in a cache."""


def corrupt(images: Tensor, name: str, severity: int, seed: int, textures: Tensor | None = None) -> Tensor:
    """Damaged copies of pictures.

    A function of pictures, name, severity and seed alone, whatever was drawn before. All severities of a corruption
    meet the same draws, so that they differ by strength; each picture meets the same ones however many follow it, and
    on every device, where a sum may be rounded to the next level.

    Args:
        images: uint8 (images, height, width, channels), with any number of channels; three are red, green and blue.
            Constants are those of CIFAR-10-C (``SMALL``) where the shorter side is below 96 pixels, else those of
            ImageNet-C (``LARGE``).
        name: one of ``CORRUPTIONS`` or ``EXTRA``.
        severity: from 1 to 5; 0 gives the pictures as they are.
        textures: for frost, uint8 (textures, height, width, 3), at least as large as the pictures (see
            :func:`frost_textures`). By default they are made.

    Returns:
        uint8 of the same shape, on the same device.

    Raises:
        InputError: an unknown name, a severity outside 0 to 5, or textures that are too small.
        ValueError: images that are not uint8 of four dimensions.
    """
    if name not in SMALL:
        raise InputError(f"corruption: expected a known name, got {name!r}; {nearest(name, SMALL)}")
    if severity not in (0, *SEVERITIES):
        raise InputError(f"severity of {name}: expected a whole number from 0 to {SEVERITIES[-1]}, got {severity}")
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"images: expected uint8 (images, height, width, channels), got {images.dtype} {tuple(images.shape)}"
        )
    if severity == 0 or images.numel() == 0:
        return images
    count, height, width, _ = images.shape
    constants = (SMALL if min(height, width) < SMALL_SIDE else LARGE)[name][severity - 1]
    function: Callable[[Tensor, Constants, Draws], Tensor]
    if name == "frost":
        function = functools.partial(frost, textures=_checked(textures, height, width).to(images.device))
    else:
        function = _FUNCTIONS[name]
    size = min(_BLOCK, max(1, _BLOCK_PIXELS // (height * width)))
    output = torch.empty_like(images)
    for number, start in enumerate(range(0, count, size)):
        part = images[start : start + size]
        draws = Draws(stream(seed, name, number), size, len(part), images.device)
        output[start : start + size] = function(part, constants, draws)
    return output


def _checked(textures: Tensor | None, height: int, width: int) -> Tensor:
    if textures is None:
        return made_textures(max(height, width))
    shape = tuple(textures.shape)
    if textures.dtype != torch.uint8 or len(shape) != 4 or shape[3] != 3 or not len(textures):
        raise InputError(f"textures: expected uint8 (textures, height, width, 3), got {textures.dtype} {shape}")
    if shape[1] < height or shape[2] < width:
        raise InputError(f"textures: expected at least {height} x {width} pixels, got {shape[1]} x {shape[2]}")
    return textures


def gaussian_noise(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """Normal noise: (deviation, of the range from 0 to 1)."""
    return cut(draws.normal(*pictures.shape[1:]).mul_(255 * constants[0]).add_(pictures))


def speckle_noise(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """Normal noise in proportion to the level: (deviation, as a share of it)."""
    return cut(draws.normal(*pictures.shape[1:]).mul_(constants[0]).add_(1).mul_(pictures))


def shot_noise(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """Poisson noise: (photons that the highest level stands for).

    Drawn as quantiles, to one part in 65,536, so that the severities share their draws.
    """
    table = _photons(int(constants[0])).to(pictures.device)
    index = pictures.int().mul_(_QUANTILES).add_(draws.integers(_QUANTILES, *pictures.shape[1:]))
    return table.index_select(0, index.flatten()).view_as(pictures)


_QUANTILES = 2**16


@functools.lru_cache(maxsize=1)
def _photons(highest: int) -> Tensor:
    """uint8 (256 x quantiles,): the level that comes of each level at each quantile of its photons' number."""
    number = torch.arange(highest, dtype=torch.float64)
    mean = torch.arange(256, dtype=torch.float64)[:, None] / 255 * highest
    share = torch.exp(torch.xlogy(number, mean) - mean - torch.lgamma(number + 1)).cumsum(dim=1)
    ends = (share * _QUANTILES + 0.5).floor_().clamp_(max=_QUANTILES)
    ends = torch.cat([torch.zeros(256, 1), ends, torch.full((256, 1), float(_QUANTILES))], dim=1)
    levels = torch.arange(highest + 1, dtype=torch.float64).mul_(255 / highest)
    # NumPy's repeat is several times faster than torch's.
    return torch.from_numpy(np.repeat(cut(levels).repeat(256).numpy(), ends.diff(dim=1).flatten().long().numpy()))


def impulse_noise(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """Salt and pepper, on each channel by itself: (share of the values that is lost)."""
    luck = draws.uniform(*pictures.shape[1:]).mul_(2).sub_(1)
    return torch.where(luck.abs() < constants[0], (luck > 0).to(torch.uint8).mul_(255), pictures)


def brightness(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """More of the value of hue, saturation and value: (what is added, of the range from 0 to 1).

    The value is the largest channel, so all channels grow by the factor by which it does. Black becomes gray.
    """
    value = _largest(pictures)[..., None].float()
    brighter = (value + 255 * constants[0]).clamp_(max=255)
    return cut(torch.where(value > 0, pictures * (brighter / value.clamp(min=1)), brighter))


def saturate(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """Another saturation of hue, saturation and value: (factor, what is added to it).

    Saturation is one less the smallest channel's share of the largest. A gray pixel has the hue of the first channel
    (red), as published: severities 4 and 5 tint it. Pictures of one channel stay as they are.
    """
    factor, added = constants
    channels = pictures.shape[3]
    if channels == 1:
        return pictures
    value = _largest(pictures).float()
    span = value - (-_largest(-pictures.short())).float()
    wanted = (span * factor).add_(value, alpha=added)
    wanted = torch.minimum(wanted, value)
    below = value[..., None] - pictures
    coloured = below * (wanted / span.clamp(min=1))[..., None]
    if added:
        tint = torch.ones(channels, device=pictures.device)
        tint[0] = 0
        coloured = torch.where(span[..., None] > 0, coloured, wanted[..., None] * tint)
    return cut(value[..., None] - coloured)


def _largest(pictures: Tensor) -> Tensor:
    """The largest channel of each pixel: (images, height, width)."""
    return functools.reduce(torch.maximum, pictures.unbind(3))


def contrast(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """Levels drawn towards the mean of their channel in their picture: (share of the distance that is left)."""
    levels = pictures.float()
    means = levels.mean(dim=(1, 2), keepdim=True)
    return cut(levels.mul_(constants[0]).add_(means * (1 - constants[0])))


def jpeg_compression(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """As it comes back from a JPEG file: (quality). See :mod:`training.jpeg`."""
    return compressed(pictures, int(constants[0]))


_FUNCTIONS: dict[str, Callable[[Tensor, Constants, Draws], Tensor]] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
    "speckle_noise": speckle_noise,
    "gaussian_blur": gaussian_blur,
    "spatter": spatter,
    "saturate": saturate,
}
