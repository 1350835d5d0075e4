import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training import Normalisation, Recipe, Split
from training.images import (
    Epoch,
    _cut_slices,
    _cut_tensors,
    evaluation_batches,
    normalise,
    training_batches,
    whitening_filters,
)  # fmt: skip

PLAIN = Normalisation((0.0, 0.0), (1.0, 1.0))


def split(count, side, seed=0):
    """Random pictures of two channels whose labels are their positions."""
    random = np.random.default_rng(seed)
    images = random.integers(1, 256, (count, side, side, 2), dtype=np.uint8)
    return Split(torch.from_numpy(images), torch.arange(count))


def epoch(images, recipe, seed=0, key="a", number=0):
    """One epoch as uint8 pictures (images, side, side, channels) and their labels."""
    batches = list(training_batches(images, recipe, PLAIN, seed, key, number))
    pictures = torch.cat([batch for batch, _ in batches]) * 255
    return pictures.round().to(torch.uint8).permute(0, 2, 3, 1), torch.cat([labels for _, labels in batches])


@given(st.integers(2, 40), st.integers(2, 12), st.integers(2, 50))
def test_without_crop_and_flip_an_epoch_is_the_pictures_in_another_order(count, side, batch):
    images = split(count, side)
    pictures, labels = epoch(images, Recipe(batch_size=batch, crop_padding=0, flip=False))
    size = min(batch, count)
    assert len(labels) == count // size * size
    assert len(set(labels.tolist())) == len(labels)
    assert torch.equal(pictures, images.images[labels])


@given(st.integers(2, 10), st.integers(0, 5), st.booleans(), st.integers(0, 1000))
@settings(max_examples=40)
def test_each_picture_is_a_window_of_its_padded_self(side, padding, flip, seed):
    images = split(12, side, seed)
    pictures, labels = epoch(images, Recipe(batch_size=4, crop_padding=padding, flip=flip), seed=seed)
    assert len(labels) == 12
    padded = torch.nn.functional.pad(images.images, (0, 0, padding, padding, padding, padding))
    for picture, label in zip(pictures, labels, strict=True):
        windows = [
            padded[label, top : top + side, left : left + side]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
        if flip:
            windows += [window.flip(1) for window in windows]
        assert any(torch.equal(picture, window) for window in windows)


def test_crops_and_flips_take_every_value():
    """Pictures that say where each pixel came from: with padding 1 and flip there are 18 equally likely views."""
    side, count = 4, 3600
    own = torch.arange(1, side * side + 1, dtype=torch.uint8).reshape(1, side, side, 1).expand(count, -1, -1, 2)
    pictures, _ = epoch(Split(own, torch.arange(count)), Recipe(batch_size=count, crop_padding=1, flip=True))
    views, counts = torch.unique(pictures[..., 0].flatten(1), dim=0, return_counts=True)
    assert len(views) == 18
    # 200 of each expected: chi-square with 17 degrees of freedom stays below 41 with probability .999.
    assert float(((counts - 200) ** 2 / 200).sum()) < 41


def test_the_order_is_a_function_of_seed_key_and_epoch():
    images, recipe = split(64, 6), Recipe(batch_size=8, crop_padding=2)
    first = epoch(images, recipe)
    torch.manual_seed(99)  # and of nothing else
    again = epoch(images, recipe)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    for other in ({"seed": 1}, {"key": "b"}, {"number": 1}):
        assert not torch.equal(first[1], epoch(images, recipe, **other)[1])


def test_augmentation_does_not_change_the_order():
    images = split(64, 6)
    orders = [
        epoch(images, Recipe(batch_size=16, crop_padding=padding, flip=flip))[1]
        for padding, flip in ((0, False), (3, False), (3, True))
    ]
    assert torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], orders[2])


def test_pictures_stay_as_they_are():
    images = split(16, 6)
    kept = images.images.clone()
    epoch(images, Recipe(batch_size=4))
    assert torch.equal(images.images, kept)


def test_normalisation():
    images = np.random.default_rng(0).integers(0, 256, (500, 5, 5, 3), dtype=np.uint8)
    images[..., 2] = 77
    normalisation = Normalisation.of(images)
    result = normalise(torch.from_numpy(images), normalisation)
    assert result.shape == (500, 3, 5, 5)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert result.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    deviation = result.std(dim=(0, 2, 3), correction=0)
    assert deviation[:2].tolist() == pytest.approx([1, 1], abs=1e-4)
    assert float(deviation[2]) == pytest.approx(0, abs=1e-3)  # a constant channel divides by no zero
    pixel = (float(images[3, 1, 2, 0]) / 255 - normalisation.mean[0]) / normalisation.deviation[0]
    assert float(result[3, 0, 1, 2]) == pytest.approx(pixel, abs=1e-5)


def test_normalisation_looks_at_evenly_spread_pictures():
    images = np.zeros((20_000, 1, 1, 1), np.uint8)
    images[10_000:] = 255
    assert Normalisation.of(images).mean == (0.5,)


@given(st.integers(1, 30), st.integers(1, 40))
def test_evaluation_sees_every_picture_once_in_order(count, batch):
    images = split(count, 3)
    batches = list(evaluation_batches(images, batch, PLAIN))
    assert torch.equal(torch.cat([labels for _, labels in batches]), images.labels)
    pictures = torch.cat([pictures for pictures, _ in batches])
    assert torch.equal(pictures, normalise(images.images, PLAIN))


@given(st.integers(1, 12), st.integers(0, 14), st.sampled_from([True, False, "alternating"]), st.integers(0, 1000))
def test_slices_and_tensors_cut_the_same(side, padding, flip, seed):
    images = split(20, side, seed)
    recipe = Recipe(crop_padding=padding, flip=flip)
    drawn = Epoch.draw(20, side, recipe, seed, "a", 3)
    for part in (slice(0, 8), slice(8, 20)):
        one, other = (cut(images.images, padding, drawn, part) for cut in (_cut_slices, _cut_tensors))
        assert torch.equal(one, other)


def test_alternating_mirrors_each_picture_in_every_other_epoch():
    recipe = Recipe(flip="alternating")
    mirrored = []
    for number in range(4):
        drawn = Epoch.draw(200, 8, recipe, 1, "a", number)
        in_place = torch.empty(200, dtype=torch.bool)
        in_place[drawn.order] = drawn.mirrored
        mirrored.append(in_place)
    assert torch.equal(mirrored[0], mirrored[2])
    assert torch.equal(mirrored[1], mirrored[3])
    assert torch.equal(mirrored[0], ~mirrored[1])
    assert 60 < mirrored[0].sum() < 140
    other = Epoch.draw(200, 8, recipe, 2, "a", 0)
    assert not torch.equal(other.mirrored, Epoch.draw(200, 8, recipe, 1, "a", 0).mirrored)


@given(st.integers(2, 10), st.integers(1, 12))
def test_cutout_blanks_a_square_to_the_mean(side, hole):
    images = split(6, side)
    recipe = Recipe(batch_size=6, crop_padding=0, flip=False, cutout=hole)
    pictures, labels = epoch(images, recipe)
    for picture, label in zip(pictures, labels, strict=True):
        blank = (picture == 0).all(dim=2)  # no value of a picture is 0, and PLAIN has mean 0
        assert blank.sum() == min(hole, side) ** 2
        rows, columns = (blank.any(dim=axis).nonzero().flatten() for axis in (1, 0))
        assert blank[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        assert torch.equal(picture[~blank], images.images[label][~blank])


def test_whitened_patches_are_uncorrelated_and_of_one_variance():
    random = np.random.default_rng(0)
    smooth = random.normal(size=(300, 10, 10, 3)).cumsum(axis=1).cumsum(axis=2)  # neighbours are alike
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min()) * 255
    images = Split(torch.from_numpy(smooth.astype(np.uint8)), torch.zeros(300, dtype=torch.int64))
    normalisation = Normalisation.of(images.images.numpy())
    filters = whitening_filters(images, normalisation, 40, 3)
    assert filters.shape == (40, 3, 3, 3)
    assert torch.equal(filters[27:], -filters[:13])
    answers = torch.nn.functional.conv2d(normalise(images.images, normalisation), filters[:27])
    values = answers.transpose(0, 1).flatten(1)
    moments = values @ values.T / values.shape[1]
    strong = 6  # components well above the regularisation of 0.01
    assert torch.allclose(moments[:strong, :strong], torch.eye(strong), atol=0.1)
    assert moments.diagonal().max() < 1.01
    assert (moments.diagonal().diff() < 1e-3).all()  # largest first
    again = whitening_filters(images, normalisation, 5, 3)
    assert torch.equal(again, filters[:5])
