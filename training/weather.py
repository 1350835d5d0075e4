"""Corruptions of the weather: snow, frost, fog and spatter. Formulas: Hendrycks and Dietterich (2019).

Each takes uint8 pictures (images, height, width, channels), the constants of one severity and the block's draws, and
returns uint8 pictures. Water and mud have a colour on three channels and are as light as its luma on any other number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.filtering import (
    Draws,
    along_a_line,
    cut,
    gray,
    separable,
    smoothed,
    windowed,
    zoom_matrix,
)

Constants = tuple[float, ...]

_WATER = (175.0, 238.0, 238.0)
_MUD = (63.0, 42.0, 20.0)
_FARTHEST = 20
"""Pixels: beyond, the distance from the water's edge no longer counts."""


def snow(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """Flakes blown along a line, over a picture that is whitened.

    Constants: mean and deviation of the layer's noise, its zoom, the level (0 to 1) below which there is no flake,
    radius and deviation of the blur along the line, and the share of the picture that is not whitened.
    """
    mean, deviation, zoom, least, radius, sigma, kept = constants
    height, width = pictures.shape[1:3]
    noise = draws.normal(height, width)
    degrees = draws.uniform().cpu() * 90 - 135
    layer = separable(noise.mul_(deviation).add_(mean), zoom_matrix(height, zoom), zoom_matrix(width, zoom))
    layer = cut(torch.where(layer < least, 0.0, layer).mul_(255))
    layer = along_a_line(layer[..., None], degrees, int(radius), sigma)
    levels = pictures.float()
    white = (gray(pictures).mul_(1.5).add_(127.5))[..., None]
    levels = torch.maximum(levels, white).mul_(1 - kept).add_(levels, alpha=kept)
    return cut(levels.add_(layer).add_(layer.flip(1, 2)))


def frost(pictures: Tensor, constants: Constants, draws: Draws, textures: Tensor) -> Tensor:
    """A part of one of the textures, uint8 (textures, height, width, 3), added: (picture's share, texture's share).

    Textures must be at least as large as the pictures. Any number of channels but three takes their luma.
    """
    height, width, channels = pictures.shape[1:]
    place = draws.uniform(3)
    if channels != 3:
        textures = cut(gray(textures))[..., None]
    textures = textures.to(pictures.device)
    room = torch.tensor(textures.shape[:3]) - torch.tensor([0, height - 1, width - 1])
    number, top, left = (place * room.to(place)).long().unbind(1)
    rows = top[:, None] + torch.arange(height, device=top.device)
    columns = left[:, None] + torch.arange(width, device=top.device)
    layer = textures[number[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cut(pictures.float().mul_(constants[0]).add_(layer, alpha=constants[1]))


def fog(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """A plasma fractal added, the whole then no lighter than the picture was: (strength, decay of the fractal)."""
    strength, decay = constants
    height, width = pictures.shape[1:3]
    side = 2 ** max(1, (max(height, width) - 1).bit_length())
    layer = plasma(draws.uniform(side, side).mul_(2).sub_(1), decay)[:, :height, :width]
    lightest = pictures.amax(dim=(1, 2, 3))[:, None, None].float()
    share = lightest / (lightest + 255 * strength)
    layer = layer * (share * (255 * strength))
    return cut((pictures * share[..., None]).add_(layer[..., None]))


def plasma(wobbles: Tensor, decay: float) -> Tensor:
    """Diamond-square fractals from 0 to 1, (images, side, side).

    Args:
        wobbles: from -1 to 1, one for each place, (images, side, side); the side is a power of two.
        decay: what the wobble is divided by from one step to the next.
    """
    side = wobbles.shape[1]
    heights = torch.zeros_like(wobbles)
    step, wobble = side, 100.0
    while step >= 2:
        corner, middle = slice(0, None, step), slice(step // 2, None, step)

        def fill(rows: slice, columns: slice, total: Tensor, strength: float = wobble**2) -> None:
            heights[:, rows, columns] = (total * 0.25).add_(wobbles[:, rows, columns], alpha=strength)

        corners = heights[:, corner, corner]
        pairs = corners + corners.roll(-1, 1)
        fill(middle, middle, pairs + pairs.roll(-1, 2))
        middles = heights[:, middle, middle]
        fill(corner, middle, middles + middles.roll(1, 1) + corners + corners.roll(-1, 2))
        fill(middle, corner, middles + middles.roll(1, 2) + corners + corners.roll(-1, 1))
        step //= 2
        wobble /= decay
    heights -= heights.amin(dim=(1, 2), keepdim=True)
    return heights.div_(heights.amax(dim=(1, 2), keepdim=True).clamp_(min=1e-30))


def spatter(pictures: Tensor, constants: Constants, draws: Draws) -> Tensor:
    """Drops of water (severities 1 to 3) or mud (4 and 5) on the lens.

    Constants: mean and deviation of the liquid's noise, deviation of its filter, the level (0 to 1) below which there
    is none, strength of water or deviation of the mud's filter, and whether it is mud.

    All steps of the published script, for a block at once: edges (Canny), distance from them, equalised, embossed and
    blurred. The distance is exact where OpenCV's is within two percent of it. A picture without a drop stays as it
    is; the published script divides by zero there.
    """
    mean, deviation, sigma, least, strength, mud = constants
    height, width, channels = pictures.shape[1:]
    liquid = smoothed(draws.normal(height, width).mul_(deviation).add_(mean), sigma)
    colour = torch.tensor(_MUD if mud else _WATER, device=pictures.device)
    if channels != 3:
        colour = gray(colour.view(1, 1, 1, 3)).view(1)
    if mud:
        covered = smoothed((liquid > least).float(), strength)
        covered = torch.where(covered < 0.8, 0.0, covered)[..., None]
        return cut((pictures * (1 - covered)).add_(covered * colour))
    liquid = torch.where(liquid < least, 0.0, liquid).mul_(255).floor_().clamp_(max=255)
    relief = _equalised(windowed(_distance(_edges(liquid)), [[1 / 9] * 3] * 3).floor_())
    relief = windowed(relief, [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]).clamp_(0, 255)
    relief = windowed(relief, [[1 / 9] * 3] * 3).round_()
    light = liquid * relief
    light /= light.amax(dim=(1, 2), keepdim=True).clamp_(min=1e-6)
    return cut(pictures + (light * strength)[..., None] * colour)


def _edges(layer: Tensor, low: float = 50.0, high: float = 150.0) -> Tensor:
    """Canny's edges (1986) with OpenCV's choices: Sobel, sum of magnitudes. A layer of whole levels to bool."""
    across = windowed(layer, [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], "nearest")
    down = windowed(layer, [[-1, -2, -1], [0, 0, 0], [1, 2, 1]], "nearest")
    size = torch.nn.functional.pad(across.abs().add_(down.abs()), (1, 1, 1, 1))
    width = size.shape[2]
    # Only where there is a gradient: is it larger than on either side along its own direction?
    places = (size > low).flatten().nonzero().squeeze(1)
    across, down = (torch.nn.functional.pad(each, (1, 1, 1, 1)).flatten()[places] for each in (across, down))
    sizes = size.flatten()
    own, flat, steep = sizes[places], down.abs() < across.abs() * 0.41421356, down.abs() > across.abs() * 2.41421356
    slanted = torch.where((across < 0) == (down < 0), width + 1, width - 1)
    step = torch.where(flat, 1, torch.where(steep, width, slanted))
    before, after = sizes[places - step], sizes[places + step]
    ridge = (own > before) & ((own > after) | ((own == after) & (flat | steep)))
    weak = torch.zeros_like(sizes, dtype=torch.bool)
    edges = weak.clone()
    weak[places[ridge]] = True
    edges[places[ridge & (own > high)]] = True
    while True:  # weak edges count where they touch others; the pad keeps rows and pictures apart
        beside = edges.clone()
        beside[1:] |= edges[:-1]
        beside[:-1] |= edges[1:]
        spread = beside.clone()
        spread[width:] |= beside[:-width]
        spread[:-width] |= beside[width:]
        spread &= weak
        if torch.equal(spread, edges):
            return edges.view_as(size)[:, 1:-1, 1:-1]
        edges = spread


def _distance(edges: Tensor) -> Tensor:
    """Pixels to the nearest edge, at most the farthest that counts: float32 layer."""
    height, width = edges.shape[1:]
    line = torch.arange(width, device=edges.device, dtype=torch.float32)
    far = float(width + _FARTHEST)
    before = line - torch.where(edges, line, -far).cummax(dim=2).values
    after = torch.where(edges, line, 2 * far).flip(2).cummin(dim=2).values.flip(2) - line
    squares = torch.minimum(before, after).clamp_(max=_FARTHEST).square_()
    nearest = squares.clone()
    for rows in range(1, min(_FARTHEST, height)):
        moved = squares + rows**2
        torch.minimum(nearest[:, rows:], moved[:, :-rows], out=nearest[:, rows:])
        torch.minimum(nearest[:, :-rows], moved[:, rows:], out=nearest[:, :-rows])
    return nearest.sqrt_()


def _equalised(layer: Tensor) -> Tensor:
    """Histogram equalisation of each picture, from whole numbers up to the farthest distance to levels."""
    values = layer.long().flatten(1)
    counts = torch.zeros(len(layer), _FARTHEST + 1, device=layer.device)
    counts.scatter_add_(1, values, torch.ones_like(layer).flatten(1))
    below = counts.cumsum(dim=1)
    least = below.gather(1, values.amin(dim=1, keepdim=True))
    rest = values.shape[1] - least
    table = ((below - least) * (255 / rest.clamp(min=1))).round_().clamp_(0, 255)
    # One value all over stays as it is.
    table = torch.where(rest > 0, table, torch.arange(_FARTHEST + 1, device=layer.device))
    return table.gather(1, values).view_as(layer)
