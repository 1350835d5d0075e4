"""The corruptions against plain loops over pictures, SciPy and Pillow; what all of them have in common."""

import colorsys
import io
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage, stats

from supernet import InputError
from tests.data import IMAGES
from training import corruptions
from training.blurs import disk, glass_sources
from training.corruption_names import CORRUPTIONS, EXTRA, SEVERITIES
from training.corruptions import LARGE, SMALL, corrupt, frost_textures
from training.filtering import Draws, along_a_line, places
from training.ice import made_textures
from training.images import stream
from training.jpeg import compressed
from training.weather import plasma

NAMES = (*CORRUPTIONS, *EXTRA)
STILL = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur",
         "saturate"}  # fmt: skip
"""Those that draw nothing."""


def natural(count=16, height=32, width=32, channels=3, seed=0):
    """Pictures with smooth parts, edges and a little grain, their channels alike: uint8."""
    random = np.random.default_rng(seed)
    pictures = np.empty((count, height, width, channels), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for picture in pictures:
        light = ndimage.gaussian_filter(random.normal(size=(height, width)), max(height, width) / 8, mode="wrap")
        light /= np.abs(light).max() + 1e-9
        for _ in range(4):
            angle, place = random.uniform(0, 2 * math.pi), random.uniform(0.2, 0.8)
            side = (rows / height - place) * math.sin(angle) + (columns / width - place) * math.cos(angle) > 0
            light = light + random.normal() * 0.35 * side
        colour = random.normal(size=channels) * 0.25
        levels = 110 + 55 * (light[..., None] + colour) + random.normal(size=(height, width, channels)) * 3
        picture[:] = np.clip(levels, 0, 255)
    return torch.from_numpy(pictures)


def draws_of(name, pictures, seed=0, block=256):
    return Draws(stream(seed, name, 0), block, len(pictures), torch.device("cpu"))


def apart(ours, reference):
    """Levels between two results, as (largest, mean)."""
    gap = np.abs(np.asarray(ours, dtype=int) - np.asarray(reference, dtype=int))
    return gap.max(), gap.mean()


def cut(levels):
    return np.uint8(np.clip(np.asarray(levels) + 2**-10, 0, 255))


def bytes_of(picture):
    return np.clip(np.floor(picture + 0.5), 0, 255)


# What all have in common.


def test_names():
    assert len(CORRUPTIONS) == 15
    assert len(EXTRA) == 4
    assert SEVERITIES == (1, 2, 3, 4, 5)
    assert set(SMALL) == set(LARGE) == set(NAMES)
    assert all(len(constants[name]) == 5 for constants in (SMALL, LARGE) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_shape_seed_and_first_pictures(name):
    pictures = natural(5)
    kept = pictures.clone()
    for severity in (1, 5):
        result = corrupt(pictures, name, severity, seed=3)
        assert result.shape == pictures.shape
        assert result.dtype == torch.uint8
        assert torch.equal(pictures, kept)
        torch.manual_seed(severity)  # and whatever else was drawn
        torch.rand(3)
        assert torch.equal(result, corrupt(pictures, name, severity, seed=3))
        assert torch.equal(result, corrupt(pictures, name, severity, seed=4)) == (name in STILL)
        assert torch.equal(result[:2], corrupt(pictures[:2], name, severity, seed=3))
        assert not torch.equal(result, pictures)
    assert corrupt(pictures, name, 0, seed=3) is pictures


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_later_blocks_have_draws_of_their_own(name, monkeypatch):
    monkeypatch.setattr(corruptions, "_BLOCK", 4)
    picture = natural(1).expand(11, -1, -1, -1)
    result = corrupt(picture, name, 5, seed=0)
    assert torch.equal(result[:6], corrupt(picture[:6], name, 5, seed=0))
    equal = [torch.equal(result[first], result[second]) for first, second in ((0, 4), (4, 8), (0, 1))]
    assert equal == [name in STILL] * 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "shape", [(2, 8, 8, 1), (2, 17, 17, 3), (2, 12, 20, 4), (2, 1, 1, 3), (2, 2, 3, 1), (0, 8, 8, 3), (1, 96, 100, 3)]
)
def test_any_side_and_number_of_channels(name, shape):
    pictures = natural(*shape) if shape[0] else torch.zeros(shape, dtype=torch.uint8)
    for severity in SEVERITIES:
        result = corrupt(pictures, name, severity, seed=0)
        assert result.shape == pictures.shape
        assert result.dtype == torch.uint8


@pytest.mark.parametrize("name", NAMES)
def test_black_and_white_pictures(name):
    """Divisions by the lightest level, by the span, by the number of drops."""
    for level in (0, 255):
        pictures = torch.full((3, 16, 16, 3), level, dtype=torch.uint8)
        for severity in SEVERITIES:
            result = corrupt(pictures, name, severity, seed=0)
            if name in STILL - {"brightness", "saturate"} or "transform" in name or "motion" in name or "glass" in name:
                assert (result.int() - level).abs().max() <= 1


FALLING = {
    "glass_blur": "each severity has its own deviation and rounds; more blur beforehand leaves less to move",
    "elastic_transform": "the published constants trade the affine map for the displacement",
    "frost": "the picture's share falls as the texture's rises, so the mean level comes back",
    "saturate": "severities 1 and 2 take colour away, 3 to 5 add it",
    "spatter": "1 to 3 are water, 4 and 5 mud",
    "motion_blur": "severities 3 and 4 differ by steps whose weight is nothing",
}
"""Where a published constant lets a severity do less than the one before it, and why."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [32, 96])
def test_damage_grows_with_severity(name, side):
    pictures = natural(48 if side == 32 else 6, side, side)
    damage = [
        float((corrupt(pictures, name, severity, seed=0).float() - pictures.float()).square().mean())
        for severity in SEVERITIES
    ]
    assert damage[0] > 0.1
    if name not in FALLING and not (side == 96 and name in ("snow", "contrast")):
        assert damage == sorted(set(damage))
    elif name == "motion_blur":
        assert all(later >= 0.98 * earlier for earlier, later in itertools.pairwise(damage))
    elif name == "spatter":
        assert damage[:3] == sorted(damage[:3])
        assert damage[3] < damage[4]


def test_severities_share_their_draws():
    """A stronger noise is the weaker one, scaled: where neither is cut off, ratios of the constants come out."""
    pictures = torch.full((4, 32, 32, 3), 128, dtype=torch.uint8)
    weak, strong = (corrupt(pictures, "gaussian_noise", severity, 0).float() - 128 for severity in (1, 5))
    assert float(np.corrcoef(weak.flatten(), strong.flatten())[0, 1]) > 0.999
    lost = [corrupt(pictures, "impulse_noise", severity, 0) != 128 for severity in SEVERITIES]
    for fewer, more in itertools.pairwise(lost):
        assert bool((more | ~fewer).all())
    photons = [corrupt(pictures, "shot_noise", severity, 0).float().flatten() for severity in (1, 5)]
    assert float(np.corrcoef(*photons)[0, 1]) > 0.98


def test_large_pictures_meet_the_other_constants():
    for side, constants in ((95, SMALL), (96, LARGE)):
        pictures = torch.full((1, side, side, 1), 128, dtype=torch.uint8)
        noise = corrupt(pictures, "gaussian_noise", 1, 0).float() - 127.5
        assert float(noise.std()) == pytest.approx(255 * constants["gaussian_noise"][0][0], rel=0.03)


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        ("gausian_noise", 1, "Did you mean 'gaussian_noise'"),
        ("", 1, "corruption: expected a known name"),
        ("fog", 6, "severity of fog: expected a whole number from 0 to 5, got 6"),
        ("fog", -1, "got -1"),
        ("fog", 1.5, "got 1.5"),
    ],
)
def test_unknown_names_and_severities_are_refused(name, severity, message):
    with pytest.raises(InputError, match=message):
        corrupt(natural(1), name, severity, seed=0)


@pytest.mark.parametrize("images", [torch.zeros(1, 8, 8, 3), torch.zeros(8, 8, 3, dtype=torch.uint8)])
def test_other_tensors_are_refused(images):
    with pytest.raises(ValueError, match="expected uint8"):
        corrupt(images, "fog", 1, seed=0)


# Noises.


@pytest.mark.parametrize("severity", SEVERITIES)
def test_normal_noises_from_the_same_draws(severity):
    pictures = natural(7)
    for name in ("gaussian_noise", "speckle_noise"):
        noise = draws_of(name, pictures).normal(32, 32, 3).numpy().astype(float)
        levels = pictures.numpy() / 255
        scale = SMALL[name][severity - 1][0]
        reference = levels + noise * scale if name == "gaussian_noise" else levels + levels * noise * scale
        assert apart(corrupt(pictures, name, severity, 0), cut(reference * 255))[0] <= 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise_is_poisson(severity):
    highest = SMALL["shot_noise"][severity - 1][0]
    for level in (0, 1, 20, 120, 200):
        pictures = torch.full((64, 32, 32, 3), level, dtype=torch.uint8)
        result = corrupt(pictures, "shot_noise", severity, seed=level)
        law = stats.poisson(level / 255 * highest)
        counts = torch.bincount(result.flatten(), minlength=256).numpy()
        numbers = np.arange(int(law.ppf(1 - 1e-7)) + 2)
        expected = np.zeros(256)
        np.add.at(expected, cut(numbers / highest * 255), law.pmf(numbers) * counts.sum())
        assert set(np.flatnonzero(counts)) <= set(np.flatnonzero(expected))
        large = expected > 50
        chi = ((counts - expected)[large] ** 2 / expected[large]).sum()
        assert chi <= stats.chi2(max(1, large.sum() - 1)).ppf(1 - 1e-6)


def test_impulse_noise_has_as_much_salt_as_pepper():
    pictures = torch.full((256, 32, 32, 3), 100, dtype=torch.uint8)
    for severity, (amount,) in enumerate(SMALL["impulse_noise"], start=1):
        result = corrupt(pictures, "impulse_noise", severity, 0)
        assert set(result.unique().tolist()) == {0, 100, 255}
        for level in (0, 255):
            count, total = int((result == level).sum()), result.numel()
            assert stats.binomtest(count, total, amount / 2).pvalue > 1e-6


# Filters.


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 40))
def test_places_of_padding_are_those_of_numpy(length, before, after):
    line = np.arange(length)
    for border, mode in (("nearest", "edge"), ("mirror", "reflect"), ("reflect", "symmetric")):
        assert places(length, before, after, border).tolist() == np.pad(line, (before, after), mode).tolist()


@pytest.mark.parametrize(
    ("shape", "constants"), [((4, 32, 32, 3), SMALL), ((3, 9, 9, 1), SMALL), ((1, 96, 97, 3), LARGE)]
)
def test_gaussian_blur_is_scipys(shape, constants):
    pictures = natural(*shape)
    for severity, (sigma,) in enumerate(constants["gaussian_blur"], start=1):
        reference = ndimage.gaussian_filter(pictures.numpy().astype(float), (0, sigma, sigma, 0), mode="nearest")
        assert apart(corrupt(pictures, "gaussian_blur", severity, 0), cut(reference))[0] <= 1


@pytest.mark.parametrize(
    ("shape", "constants"), [((4, 32, 32, 3), SMALL), ((3, 3, 4, 1), SMALL), ((1, 96, 97, 3), LARGE)]
)
def test_defocus_blur_is_a_plain_correlation(shape, constants):
    pictures = natural(*shape)
    for severity, (radius, sigma) in enumerate(constants["defocus_blur"], start=1):
        kernel = disk(radius, sigma).double().numpy()
        reference = np.stack(
            [ndimage.correlate(channel, kernel, mode="mirror")
             for picture in pictures.numpy() for channel in picture.astype(float).transpose(2, 0, 1)]
        ).reshape(shape[0], shape[3], *shape[1:3]).transpose(0, 2, 3, 1)  # fmt: skip
        assert apart(corrupt(pictures, "defocus_blur", severity, 0), cut(reference))[0] <= 1


@pytest.mark.parametrize(("radius", "sigma"), [(0.3, 0.4), (1, 0.2), (1.5, 0.1), (3, 0.1), (8, 0.5), (10, 0.5)])
def test_the_disk(radius, sigma):
    reach, size = (8, 3) if radius <= 8 else (int(radius), 5)
    whole = np.array([[float(row**2 + column**2 <= radius**2) for column in range(-reach, reach + 1)]
                      for row in range(-reach, reach + 1)])  # fmt: skip
    weights = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    reference = ndimage.correlate(whole / whole.sum(), np.outer(weights, weights), mode="mirror")
    kernel = disk(radius, sigma).numpy()
    margin = (len(reference) - len(kernel)) // 2
    inner = slice(margin, len(reference) - margin)
    assert np.allclose(kernel, reference[inner, inner], atol=1e-7)
    assert np.abs(reference).sum() - np.abs(reference[inner, inner]).sum() < 1e-6
    assert kernel.shape[0] % 2 == 1


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(0, 10**6))
def test_glass_moves_are_those_of_the_loop(height, width, reach, seed):
    """The published loop over a NumPy picture, with the same moves."""
    random = np.random.default_rng(seed)
    moves = random.integers(-reach, reach, (2, height, width))
    picture = np.arange(height * width).reshape(height, width, 1)
    for row in range(height - reach, reach, -1):
        for column in range(width - reach, reach, -1):
            other = row + moves[0, row, column], column + moves[1, row, column]
            picture[row, column], picture[other] = picture[other], picture[row, column]
    result = glass_sources(torch.from_numpy(moves)[None], reach)
    assert result[0].tolist() == picture[..., 0].tolist()


@pytest.mark.parametrize(
    ("shape", "constants"), [((3, 32, 32, 3), SMALL), ((3, 8, 8, 1), SMALL), ((1, 96, 96, 3), LARGE)]
)
def test_glass_blur_is_the_plain_loop(shape, constants):
    pictures = natural(*shape)
    height, width = shape[1:3]
    block = 256 if height < 64 else 2**18 // (height * width)
    for severity in (2, 3, 5):
        sigma, reach, rounds = constants["glass_blur"][severity - 1]
        draws = draws_of("glass_blur", pictures, block=block)
        first = cut(ndimage.gaussian_filter(pictures.numpy().astype(float), (0, sigma, sigma, 0), mode="nearest"))
        for _ in range(rounds):
            uniform = draws.uniform(2, height, width).numpy()
            for picture, moves in zip(first, np.floor(uniform * (2 * reach)).astype(int) - reach, strict=True):
                for row in range(height - reach, reach, -1):
                    for column in range(width - reach, reach, -1):
                        other = row + moves[0, row, column], column + moves[1, row, column]
                        picture[row, column], picture[other] = picture[other], picture[row, column]
        reference = cut(ndimage.gaussian_filter(first.astype(float), (0, sigma, sigma, 0), mode="nearest"))
        assert apart(corrupt(pictures, "glass_blur", severity, 0), reference)[0] <= 1


def motion_loop(picture, angle, radius, sigma):
    """ImageMagick's motion blur of one picture, pixel by pixel."""
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    radians = math.radians(angle)
    steps = [(math.ceil(step * math.sin(radians) - 0.5), math.ceil(step * math.cos(radians) - 0.5))
             for step in range(2 * radius + 1)]  # fmt: skip
    height, width = picture.shape[:2]
    output = np.zeros(picture.shape)
    for row in range(height):
        for column in range(width):
            for weight, (down, right) in zip(weights, steps, strict=True):
                place = min(max(row + down, 0), height - 1), min(max(column + right, 0), width - 1)
                output[row, column] += weight * picture[place]
    return bytes_of(output)


@pytest.mark.parametrize(("radius", "sigma"), [(6, 1.0), (9, 2.5), (14, 12.0)])
def test_blur_along_a_line_is_the_plain_loop(radius, sigma):
    pictures = natural(5, 9, 12)
    degrees = torch.tensor([-135.0, 17.3, -45.0, 44.9, -90.0])
    result = along_a_line(pictures, degrees, radius, sigma)
    reference = [motion_loop(picture.numpy().astype(float), float(angle), radius, sigma)
                 for picture, angle in zip(pictures, degrees, strict=True)]  # fmt: skip
    largest, mean = apart(result, np.stack(reference))
    assert largest <= 1
    assert mean < 0.01
    assert torch.equal(result[:2], along_a_line(pictures[:2], degrees[:2], radius, sigma))


def test_motion_blur_angles():
    pictures = natural(64, 16, 16)
    degrees = draws_of("motion_blur", pictures).uniform() * 90 - 45
    assert degrees.min() < -35
    assert degrees.max() > 35
    for severity, (radius, sigma) in enumerate(SMALL["motion_blur"], start=1):
        expected = along_a_line(pictures, degrees, radius, sigma)
        assert torch.equal(corrupt(pictures, "motion_blur", severity, 0).float(), expected)


def zoomed(picture, zoom):
    """The published clipped zoom of one picture (height, width, channels), by SciPy."""
    kept = [math.ceil(side / zoom) for side in picture.shape[:2]]
    top, left = ((side - part) // 2 for side, part in zip(picture.shape[:2], kept, strict=True))
    large = ndimage.zoom(picture[top : top + kept[0], left : left + kept[1]], (zoom, zoom, 1), order=1, mode="nearest")
    top, left = ((new - old) // 2 for new, old in zip(large.shape[:2], picture.shape[:2], strict=True))
    return large[top : top + picture.shape[0], left : left + picture.shape[1]]


@pytest.mark.parametrize(
    ("shape", "constants"), [((3, 32, 32, 3), SMALL), ((2, 9, 14, 1), SMALL), ((1, 96, 96, 3), LARGE)]
)
def test_zoom_blur_is_a_mean_of_scipys_zooms(shape, constants):
    pictures = natural(*shape)
    for severity, (end, step) in enumerate(constants["zoom_blur"], start=1):
        zooms = np.arange(1, end, step)
        reference = [
            sum((zoomed(picture, zoom) for zoom in zooms), start=picture) / (len(zooms) + 1)
            for picture in pictures.numpy().astype(float)
        ]
        assert apart(corrupt(pictures, "zoom_blur", severity, 0), cut(reference))[0] <= 1


@pytest.mark.parametrize(
    ("shape", "constants"), [((4, 32, 32, 3), SMALL), ((2, 11, 11, 1), SMALL), ((1, 96, 96, 3), LARGE)]
)
def test_elastic_transform_is_two_maps_of_coordinates(shape, constants):
    pictures = natural(*shape)
    _, height, width, channels = shape
    block = 256 if height < 64 else 2**18 // (height * width)
    rows, columns = np.mgrid[:height, :width].astype(float)
    for severity in SEVERITIES:
        alpha, sigma, reach = (
            constant * min(height, width) for constant in constants["elastic_transform"][severity - 1]
        )
        draws = draws_of("elastic_transform", pictures, block=block)
        shifts = (draws.uniform(3, 2).numpy().astype(float) * 2 - 1) * reach
        moves = draws.uniform(2, height, width).numpy().astype(float) * 2 - 1
        size, middle = min(height, width) // 3, np.array([width // 2, height // 2])
        before = middle + np.array([[size, size], [size, -size], [-size, -size]])
        result = corrupt(pictures, "elastic_transform", severity, 0).numpy()
        for picture, shift, (across, down), ours in zip(pictures.numpy(), shifts, moves, result, strict=True):
            inverse = np.linalg.solve(np.hstack([before + shift, np.ones((3, 1))]), before)
            wanted = np.stack([columns, rows, np.ones_like(rows)], axis=2) @ inverse
            for channel in range(channels):
                first = ndimage.map_coordinates(
                    picture[..., channel].astype(float), [wanted[..., 1], wanted[..., 0]], order=1, mode="mirror"
                )
                if alpha:
                    right, below = (
                        ndimage.gaussian_filter(values, sigma, mode="reflect", truncate=3) * alpha
                        for values in (across, down)
                    )
                    first = ndimage.map_coordinates(first, [rows + below, columns + right], order=1, mode="reflect")
                assert apart(ours[..., channel], cut(first))[0] <= 1


@pytest.mark.parametrize(
    ("shape", "constants"), [((6, 32, 32, 3), SMALL), ((6, 17, 23, 3), SMALL), ((1, 97, 96, 3), LARGE)]
)
def test_pixelate_is_pillows(shape, constants):
    pictures = natural(*shape)
    height, width = shape[1:3]
    for severity, (share,) in enumerate(constants["pixelate"], start=1):
        reference = []
        for picture in pictures.numpy():
            image = Image.fromarray(picture).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
            reference.append(np.asarray(image.resize((width, height), Image.Resampling.BOX)))
        largest, mean = apart(corrupt(pictures, "pixelate", severity, 0), np.stack(reference))
        assert largest <= 1
        assert mean < 0.01


def pillow_jpeg(picture, quality):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("shape", [(12, 32, 32), (12, 17, 23), (12, 18, 34), (12, 3, 4), (2, 96, 97)])
@pytest.mark.parametrize("quality", [95, 80, 58, 40, 7])
def test_jpeg_is_close_to_pillows(shape, quality):
    """Its cosines have thirteen bits, so that a coefficient here and there is rounded the other way."""
    pictures = natural(*shape)
    reference = np.stack([pillow_jpeg(picture, quality) for picture in pictures.numpy()])
    gap = np.abs(compressed(pictures, quality).numpy().astype(int) - reference)
    assert gap.mean() < 0.06
    assert (gap > 1).mean() < 0.015
    gray = pictures[..., :1]
    reference = np.stack([pillow_jpeg(picture[..., 0], quality) for picture in gray.numpy()])
    gap = np.abs(compressed(gray, quality)[..., 0].numpy().astype(int) - reference)
    assert gap.mean() < 0.05
    assert (gap > 1).mean() < 0.015
    several = compressed(pictures.repeat(1, 1, 1, 2), quality)
    assert torch.equal(several[..., :1], compressed(gray, quality))


# Colours.


@pytest.mark.parametrize("constants", [SMALL, LARGE])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_and_saturation_are_colorsys(constants, severity, monkeypatch):
    monkeypatch.setattr(corruptions, "SMALL", constants)
    random = np.random.default_rng(0)
    pictures = torch.from_numpy(random.integers(0, 256, (1, 24, 24, 3), dtype=np.uint8))
    pictures[0, 0] = torch.arange(24, dtype=torch.uint8)[:, None] * 11  # grays, black among them
    (added,), (factor, more) = constants["brightness"][severity - 1], constants["saturate"][severity - 1]

    def brighter(hue, saturation, value):
        return hue, saturation, min(1.0, value + added)

    def coloured(hue, saturation, value):
        return hue, min(1.0, saturation * factor + more), value

    for name, change in (("brightness", brighter), ("saturate", coloured)):
        flat = pictures.numpy().reshape(-1, 3) / 255
        reference = np.array([colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in flat.tolist()])
        result = corrupt(pictures, name, severity, 0).reshape(-1, 3)
        assert apart(result, cut(reference * 255))[0] <= 1


def test_saturation_of_one_channel_is_nothing():
    pictures = natural(2, channels=1)
    assert torch.equal(corrupt(pictures, "saturate", 5, 0), pictures)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_is_the_plain_formula(severity):
    pictures = natural(5)
    levels = pictures.numpy() / 255
    means = levels.mean(axis=(1, 2), keepdims=True)
    reference = (levels - means) * SMALL["contrast"][severity - 1][0] + means
    assert apart(corrupt(pictures, "contrast", severity, 0), cut(reference * 255))[0] <= 1


# Weather.


def plasma_loop(wobbles, decay):
    """Diamond and square, one place after the other on a torus."""
    side = len(wobbles)
    heights = np.zeros((side, side))
    step, wobble = side, 100.0
    while step >= 2:
        half = step // 2

        def mean(places, heights=heights):
            return sum(heights[row % side, column % side] for row, column in places) / 4

        for row in range(half, side, step):
            for column in range(half, side, step):
                corners = [(row + down, column + right) for down in (-half, half) for right in (-half, half)]
                heights[row, column] = mean(corners) + wobble**2 * wobbles[row, column]
        for first in (0, half):
            for row in range(first, side, step):
                for column in range(half - first, side, step):
                    beside = [(row - half, column), (row + half, column), (row, column - half), (row, column + half)]
                    heights[row, column] = mean(beside) + wobble**2 * wobbles[row, column]
        step //= 2
        wobble /= decay
    heights -= heights.min()
    return heights / heights.max()


@pytest.mark.parametrize("side", [2, 8, 32])
@pytest.mark.parametrize("decay", [3, 1.75])
def test_plasma_is_the_plain_loop(side, decay):
    wobbles = torch.rand(3, side, side, generator=stream(0, "plasma", 0)) * 2 - 1
    reference = [plasma_loop(each.double().numpy(), decay) for each in wobbles]
    assert np.allclose(plasma(wobbles, decay), np.stack(reference), atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 32, 32, 3), (4, 20, 17, 1)])
def test_fog_is_the_plain_formula(shape):
    pictures = natural(*shape)
    height, width = shape[1:3]
    for severity, (strength, decay) in enumerate(SMALL["fog"], start=1):
        layer = plasma(draws_of("fog", pictures).uniform(32, 32) * 2 - 1, decay).numpy()[:, :height, :width, None]
        levels = pictures.numpy() / 255
        lightest = levels.max(axis=(1, 2, 3), keepdims=True)
        reference = (levels + strength * layer) * lightest / (lightest + strength)
        assert apart(corrupt(pictures, "fog", severity, 0), cut(reference * 255))[0] <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_snow_is_the_plain_loop(channels):
    pictures = natural(3, channels=channels)
    for severity, constants in enumerate(SMALL["snow"], start=1):
        mean, deviation, zoom, least, radius, sigma, kept = constants
        draws = draws_of("snow", pictures)
        noise = draws.normal(32, 32).numpy().astype(float) * deviation + mean
        angles = (draws.uniform() * 90 - 135).tolist()
        result = corrupt(pictures, "snow", severity, 0)
        for picture, layer, angle, ours in zip(pictures.numpy() / 255, noise, angles, result, strict=True):
            flakes = zoomed(layer[..., None], zoom)
            flakes[flakes < least] = 0
            flakes = motion_loop(cut(flakes * 255).astype(float), angle, radius, sigma) / 255
            gray = picture @ [0.299, 0.587, 0.114] if channels == 3 else picture[..., 0]
            levels = kept * picture + (1 - kept) * np.maximum(picture, gray[..., None] * 1.5 + 0.5)
            reference = cut((levels + flakes + np.rot90(flakes, 2)) * 255)
            largest, average = apart(ours, reference)
            assert largest <= 2
            assert average < 0.1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_frost_adds_a_part_of_a_texture(severity):
    pictures = natural(6)
    textures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 40, 50, 3), dtype=np.uint8))
    number, top, left = (draws_of("frost", pictures).uniform(3) * torch.tensor([4, 9, 19])).long().unbind(1)
    own, other = SMALL["frost"][severity - 1]
    result = corrupt(pictures, "frost", severity, 0, textures=textures)
    for at, picture in enumerate(pictures.numpy()):
        part = textures[number[at], top[at] : top[at] + 32, left[at] : left[at] + 32].numpy()
        assert apart(result[at], cut(own * picture + other * part))[0] <= 1


def test_made_textures_are_always_the_same_and_have_light_and_dark_places():
    for side, length in ((32, 192), (96, 192)):
        textures = made_textures(side)
        assert textures.shape == (5, length, length, 3)
        assert 90 < float(textures.float().mean()) < 170
        assert float(textures.float().std()) > 40
        assert len({tuple(texture[:8, :8].flatten().tolist()) for texture in textures}) == 5
    made_textures.cache_clear()
    assert torch.equal(made_textures(96), textures)


def save(folder, name, size, colour=(10, 20, 30)):
    Image.new("RGB", size, colour).save(folder / name)


def test_textures_from_a_folder(tmp_path):
    save(tmp_path, "a.png", (500, 400), (1, 2, 3))
    save(tmp_path, "b.png", (300, 600), (4, 5, 6))
    (tmp_path / "notes.txt").write_text("not a picture")
    small = frost_textures(tmp_path, 32)  # a fifth: 80 x 100 and 120 x 60
    assert small.shape == (2, 80, 60, 3)
    assert small[:, 0, 0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert frost_textures(tmp_path, 70).shape == (2, 80, 70, 3)  # enlarged to the side
    assert frost_textures(tmp_path, 224).shape == (2, 400, 300, 3)
    result = corrupt(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), "frost", 5, 0, textures=small)
    assert result.amax() <= 3


def test_folders_without_textures_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        frost_textures(tmp_path / "missing", 32)
    with pytest.raises(InputError, match="no picture"):
        frost_textures(tmp_path, 32)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.png: cannot be read"):
        frost_textures(tmp_path, 32)


@pytest.mark.parametrize(
    "textures",
    [
        torch.zeros(2, 40, 31, 3, dtype=torch.uint8),
        torch.zeros(2, 40, 40, 3),
        torch.zeros(40, 40, 3, dtype=torch.uint8),
    ],
)
def test_unfit_textures_are_refused(textures):
    with pytest.raises(InputError, match="textures: expected"):
        corrupt(natural(1), "frost", 1, 0, textures=textures)


@pytest.mark.parametrize("severity", [4, 5])
def test_mud_is_the_plain_formula(severity):
    pictures = natural(6)
    mean, deviation, sigma, least, strength, _ = SMALL["spatter"][severity - 1]
    noise = draws_of("spatter", pictures).normal(32, 32).numpy().astype(float) * deviation + mean
    blur = partial(ndimage.gaussian_filter, mode="nearest")
    result = corrupt(pictures, "spatter", severity, 0)
    for picture, layer, ours in zip(pictures.numpy(), noise, result, strict=True):
        liquid = blur(layer, sigma)
        covered = blur((np.where(liquid < least, 0, liquid) > least).astype(float), strength)
        covered[covered < 0.8] = 0
        reference = picture * (1 - covered[..., None]) + covered[..., None] * np.array([63, 42, 20])
        assert apart(ours, cut(reference))[0] <= 1


def test_water_only_lightens_and_lies_where_the_liquid_is():
    pictures = natural(32)
    for severity in (1, 2, 3):
        mean, deviation, sigma, least, strength, _ = SMALL["spatter"][severity - 1]
        noise = draws_of("spatter", pictures).normal(32, 32).numpy().astype(float) * deviation + mean
        liquid = np.stack([ndimage.gaussian_filter(layer, sigma, mode="nearest") for layer in noise])
        gain = corrupt(pictures, "spatter", severity, 0).numpy().astype(int) - pictures.numpy()
        assert gain.min() >= 0
        assert gain.max() <= math.ceil(238 * strength)
        assert not gain[liquid < least - 1e-5].any()
        assert gain.reshape(32, -1).any(axis=1).mean() > 0.9


@pytest.mark.skipif(not IMAGES.is_dir(), reason="no published pictures here")
def test_published_pictures_lose_little_to_gentle_and_much_to_strong_corruptions():
    with np.load(IMAGES / "cifar10-test.npz", allow_pickle=False) as file:
        stored, offsets = file["webp"], file["offsets"]
        pictures = torch.from_numpy(
            np.stack([np.asarray(Image.open(io.BytesIO(stored[start:end].tobytes())).convert("RGB"))
                      for start, end in itertools.pairwise(offsets)])
        )  # fmt: skip
    for name in set(CORRUPTIONS) - set(FALLING):
        damage = [float((corrupt(pictures, name, severity, 0).float() - pictures.float()).square().mean())
                  for severity in SEVERITIES]  # fmt: skip
        assert damage == sorted(damage)
