"""Corruptions that move pixels: blurs, elastic transform, pixelate. Formulas: Hendrycks and Dietterich (2019).

Each takes uint8 pictures (images, height, width, channels), the constants of one severity and the block's draws, and
returns uint8 pictures. Constants are explained where they are named.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from training.filtering import (
    Draws,
    along_a_line,
    cut,
    padded,
    pictures_of,
    places,
    planes_of,
    rounded,
    smoothed,
    zoom_steps,
)

Constants = tuple[float, ...]


def gaussian_blur(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """Gaussian filter of one deviation, edge pixels repeated, cut off at four deviations."""
    (sigma,) = constants
    return pictures_of(cut(smoothed(planes_of(pictures), sigma)))


def defocus_blur(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """Mean over a disk (radius, deviation of the disk's own blur), mirrored at the borders."""
    kernel = disk(*constants).to(pictures.device)
    reach = kernel.shape[0] // 2
    images, height, width, channels = pictures.shape
    planes = padded(planes_of(pictures), (reach, reach), (reach, reach), "mirror", first=2)
    blurred = torch.nn.functional.conv2d(planes.flatten(0, 1)[:, None], kernel[None, None])
    return pictures_of(cut(blurred).view(images, channels, height, width))


@functools.lru_cache(maxsize=16)
def disk(radius: float, sigma: float) -> Tensor:
    """float32 square of odd side: a disk on a grid, blurred by 3 x 3 (above radius 8: 5 x 5) Gaussian weights."""
    reach, width = (8, 3) if radius <= 8 else (int(radius), 5)
    line = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = ((line**2 + line[:, None] ** 2) <= radius**2).double()
    kernel /= kernel.sum()
    weights = torch.exp(-0.5 * (torch.arange(width, dtype=torch.float64) - width // 2) ** 2 / sigma**2)
    windows = places(len(line), width // 2, width // 2, "mirror").unfold(0, width, 1)
    matrix = torch.zeros(len(line), len(line), dtype=torch.float64)
    matrix.scatter_add_(1, windows, (weights / weights.sum()).expand(len(line), -1))
    kernel = matrix @ kernel @ matrix.T
    used = int((kernel[reach, reach:] > 1e-9).sum())
    return kernel[reach + 1 - used : reach + used, reach + 1 - used : reach + used].float()


def glass_blur(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """Gaussian filter, pixels moved about, Gaussian filter: (deviation, reach of the moves, rounds)."""
    sigma, reach, rounds = constants[0], int(constants[1]), int(constants[2])
    height, width, channels = pictures.shape[1:]
    first = cut(smoothed(planes_of(pictures), sigma)).float().flatten(2)
    for _ in range(rounds):
        moves = (draws.uniform(2, height, width) * (2 * reach)).floor_().long() - reach
        source = glass_sources(moves, reach).flatten(1)
        first = first.gather(2, source[:, None].expand(-1, channels, -1))
    return pictures_of(cut(smoothed(first.view(-1, channels, height, width), sigma)))


def glass_sources(moves: Tensor, reach: int) -> Tensor:
    """Which pixel each one holds after a round: int64 (images, height, width), row x width + column.

    The published script goes through the pixels from the last to the first and means to swap each with the one that
    ``moves`` (rows and columns, (images, 2, height, width)) away from it. Its NumPy arrays hand out views, so the
    second half of a swap writes back what the first has just written: a pixel takes its neighbour's colour and the
    neighbour keeps it. All published pictures and accuracies were made so, and so are these. A pixel whose neighbour
    was visited before it holds what the neighbour then held: such chains are followed to their ends, all at once, by
    doubling the steps.
    """
    images, _, height, width = moves.shape
    device = moves.device
    rows = torch.arange(height, device=device)[:, None]
    columns = torch.arange(width, device=device)
    visited = ((rows > reach) & (rows <= height - reach)) & ((columns > reach) & (columns <= width - reach))
    own = (rows * width + columns).expand(images, -1, -1)
    source = torch.where(visited, own + moves[:, 0] * width + moves[:, 1], own).flatten(1)
    own, seen = own.flatten(1), visited.flatten().expand(images, -1)
    before = (source > own) & seen.gather(1, source)
    link = torch.where(before, source, own)
    while True:
        further = link.gather(1, link)
        if torch.equal(further, link):
            return source.gather(1, link).view(images, height, width)
        link = further


def motion_blur(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """Blur along a line at -45 to 45 degrees: (radius, deviation)."""
    degrees = draws.uniform().cpu() * 90 - 45
    return along_a_line(pictures, degrees, int(constants[0]), constants[1]).to(torch.uint8)


_MATRIX_PIXELS = 96 * 96
"""Up to so many, the zooms of a picture are one sparse matrix; of larger pictures it would take too much memory."""


def zoom_blur(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """Mean of the picture and its zooms from 1 (end of the zooms, step between them)."""
    images, height, width, channels = pictures.shape
    if height * width <= _MATRIX_PIXELS:
        matrix = _zooms(height, width, *constants).to(pictures.device)
        columns = pictures.permute(1, 2, 0, 3).reshape(height * width, images * channels).float()
        blurred = cut(torch.sparse.mm(matrix, columns))
        return blurred.view(height, width, images, channels).permute(2, 0, 1, 3)
    levels = pictures.float()
    total = levels.clone()
    zooms = np.arange(1, *constants).tolist()
    for zoom in zooms:
        zoomed = levels
        for dimension, side in ((1, height), (2, width)):
            first, second, share = (each.to(pictures.device) for each in zoom_steps(side, zoom))
            share = share.float().view(-1, *(1,) * (3 - dimension))
            zoomed = zoomed.index_select(dimension, first).lerp_(zoomed.index_select(dimension, second), share)
        total += zoomed
    return cut(total.div_(len(zooms) + 1))


@functools.lru_cache(maxsize=2)
def _zooms(height: int, width: int, end: float, step: float) -> Tensor:
    """The mean as a sparse matrix (pixels, pixels): a pixel is a sum of the few that lie between it and the middle."""
    zooms = np.arange(1, end, step).tolist()
    shape = (height * width, height * width)
    own = torch.arange(height * width)
    places_, weights = [torch.stack([own, own])], [torch.ones(height * width, dtype=torch.float64)]
    for zoom in zooms:
        above, below, down = zoom_steps(height, zoom)
        left, right, across = zoom_steps(width, zoom)
        for row, row_weight in ((above, 1 - down), (below, down)):
            for column, column_weight in ((left, 1 - across), (right, across)):
                places_.append(torch.stack([own, (row[:, None] * width + column).flatten()]))
                weights.append((row_weight[:, None] * column_weight).flatten())
    whole = torch.sparse_coo_tensor(
        torch.cat(places_, 1), torch.cat(weights) / (len(zooms) + 1), shape, check_invariants=True
    )
    return whole.coalesce().float()


def elastic_transform(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """Random affine map and a smooth random displacement: (its height, its deviation, the map's reach) in sides.

    Bilinear both times, as published; the affine map mirrors at the outer pixels' centres and the displacement at
    their edges. The map takes three points to where each is moved by up to the reach in either direction.
    """
    _, height, width, _ = pictures.shape
    alpha, sigma, reach = (constant * min(height, width) for constant in constants)
    shift = (draws.uniform(3, 2) * 2 - 1) * reach
    size = max(1, min(height, width) // 3)
    corners = torch.tensor([[size, size], [size, -size], [-size, -size]]) + torch.tensor([width // 2, height // 2])
    corners = corners.to(shift)
    ones = torch.ones_like(shift[..., :1])
    # From a place (column, row, 1) in the result to its place in the picture.
    maps = torch.linalg.solve(torch.cat([corners + shift, ones], 2).double(), corners.double()).float()
    rows = torch.arange(height, device=shift.device, dtype=torch.float32)[:, None].expand(-1, width)
    columns = torch.arange(width, device=shift.device, dtype=torch.float32).expand(height, -1)
    base = torch.stack([columns, rows, torch.ones_like(rows)], 2)
    planes = _sampled(planes_of(pictures), (base.flatten(0, 1) @ maps).view(-1, height, width, 2), True)
    if alpha:
        moves = draws.uniform(2, height, width) * 2 - 1
        moves = smoothed(moves, sigma, 3.0, "reflect") * alpha
        planes = _sampled(planes, base[..., :2] + moves.permute(0, 2, 3, 1), False)
    return pictures_of(cut(planes))


def _sampled(planes: Tensor, wanted: Tensor, at_centres: bool) -> Tensor:
    """Bilinear values at (images, height, width, column and row), mirrored at the outer pixels' centres or edges."""
    height, width = planes.shape[2:]
    sides = torch.tensor([width, height], device=planes.device)
    grid = wanted * (2 / (sides - 1).clamp(min=1)) - 1 if at_centres else (wanted * 2 + 1) / sides - 1
    return torch.nn.functional.grid_sample(planes, grid, "bilinear", "reflection", align_corners=at_centres)


def pixelate(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """Means over boxes, at a share of the picture's side, and back: the levels are rounded after each axis."""
    height, width = pictures.shape[1:3]
    small = [max(1, int(side * constants[0])) for side in (height, width)]
    planes = planes_of(pictures)
    for (old_height, old_width), (new_height, new_width) in (((height, width), small), (small, (height, width))):
        for old, new, columns in ((old_width, new_width, True), (old_height, new_height, False)):
            if old != new:
                matrix = box_matrix(old, new).to(planes.device)
                planes = rounded(torch.matmul(planes, matrix.T) if columns else torch.matmul(matrix, planes))
    return pictures_of(planes).to(torch.uint8)


@functools.lru_cache(maxsize=64)
def box_matrix(old: int, new: int) -> Tensor:
    """float32 (new, old): Pillow's box filter, which takes whole pixels only, all alike."""
    matrix = torch.zeros(new, old, dtype=torch.float64)
    scale = old / new
    reach = max(scale, 1.0) / 2
    for number in range(new):
        centre = (number + 0.5) * scale
        start, end = max(0, int(centre - reach + 0.5)), min(old, int(centre + reach + 0.5))
        inside = [at for at in range(start, end) if -reach < at - centre + 0.5 <= reach]
        matrix[number, inside or [min(old - 1, math.floor(centre))]] = 1.0
    return (matrix / matrix.sum(dim=1, keepdim=True)).float()
