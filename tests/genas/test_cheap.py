from typing import Annotated

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from genas.cheap import CheapSetting, FidelitySettings, cheapen, default_settings, training_macs
from genas.config import load_run
from supernet import InputError, OpSubset
from training import DataSettings, Recipe, load_split, prepare

DATA = DataSettings(train_images=100, validation_images=60, test_images=60)
SPACE = OpSubset(
    layers=({"channels": 8}, {"channels": 16, "stride": 2}),
    head_channels=64,
    input_size=8,
    classes=10,
    input_channels=1,
)
RECIPE = Recipe(epochs=12, batch_size=30, crop_padding=3, schedule="step", step_epochs=5)
CHOICES = SPACE.sample(3, np.random.default_rng(0))


@pytest.fixture(scope="module")
def info():
    return prepare(DATA, 8)


def cheap(info, **values):
    return cheapen("some", CheapSetting(**values), SPACE, info, DATA, RECIPE)


def cost(made):
    return training_macs(made.space, made.info, made.recipe, CHOICES)


def test_the_defaults_are_six_and_more_and_all_save_something(info):
    found = default_settings(SPACE, info, RECIPE)
    assert list(found) == [
        "half_epochs", "quarter_epochs", "eighth_epochs", "quarter_images", "half_side", "half_width",
        "half_epochs_half_side", "quarter_epochs_half_side", "quarter_epochs_half_width",
    ]  # fmt: skip
    assert found["eighth_epochs"] == CheapSetting(epochs=2)
    assert found["quarter_images"] == CheapSetting(train_images=25)
    assert found["quarter_epochs_half_side"] == CheapSetting(epochs=3, input_size=4)
    full = training_macs(SPACE, info, RECIPE, CHOICES)
    for name, setting in found.items():
        assert cost(cheapen(name, setting, SPACE, info, DATA, RECIPE)) < full


def test_defaults_that_save_nothing_or_are_the_same_are_left_out(info):
    two = default_settings(SPACE, info, RECIPE.model_copy(update={"epochs": 2}))
    assert [name for name in two if name.endswith("epochs")] == ["half_epochs"]
    one = default_settings(SPACE.model_copy(update={"input_size": 7}), info, RECIPE.model_copy(update={"epochs": 1}))
    assert list(one) == ["quarter_images", "half_width"]


class Rigid(OpSubset):
    """A space that cannot be scaled, as any may be."""

    input_size: Annotated[int, Field(ge=8)] = 8

    def narrower(self, factor):
        raise InputError("it cannot")


def test_a_space_that_cannot_be_scaled_has_no_such_defaults_and_refuses_them(info):
    rigid = Rigid.model_validate(SPACE.model_dump())
    assert list(default_settings(rigid, info, RECIPE)) == [
        "half_epochs", "quarter_epochs", "eighth_epochs", "quarter_images",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"thin\.width: space .op_subset. cannot be made so narrow"):
        cheapen("thin", CheapSetting(width=0.5), rigid, info, DATA, RECIPE)
    with pytest.raises(InputError, match=r"small\.input_size: space 'op_subset' takes no pictures of 4x4"):
        cheapen("small", CheapSetting(input_size=4), rigid, info, DATA, RECIPE)


def test_fewer_epochs_have_a_schedule_of_their_own(info):
    made = cheap(info, epochs=4)
    changed = {"epochs": 4, "step_epochs": 2, "validate_every": 4}
    assert made.recipe == RECIPE.model_copy(update=changed)
    assert (made.space, made.info, made.stage) == (SPACE, info, "fidelity-some")
    assert cost(made) * 3 == training_macs(SPACE, info, RECIPE, CHOICES)


def test_fewer_images_are_among_the_full_ones_and_validation_stays(info):
    made = cheap(info, train_images=35)
    assert made.info.sizes == {"train": 35, "validation": 60, "test": 60}
    full, few = ({image.numpy().tobytes() for image in load_split(one, "train").images} for one in (info, made.info))
    assert few < full
    assert load_split(made.info, "validation").images.equal(load_split(info, "validation").images)
    assert made.recipe == RECIPE.model_copy(update={"validate_every": 12})
    # Batches of 30: three of them from 100 images, one from 35.
    assert cost(made) * 3 == training_macs(SPACE, info, RECIPE, CHOICES)


def test_smaller_pictures_have_a_smaller_padding(info):
    made = cheap(info, input_size=4)
    assert (made.info.side, made.space.input_size, made.recipe.crop_padding) == (4, 4, 2)
    assert made.space == OpSubset.model_validate({**SPACE.model_dump(), "input_size": 4})


def test_a_narrower_network_is_of_the_same_architecture(info):
    made = cheap(info, width=0.5)
    assert [layer.channels for layer in made.space.layers] == [4, 8]
    assert made.space.cardinalities == SPACE.cardinalities
    assert (made.info, made.recipe.epochs) == (info, 12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "fidelity.settings.some: saves nothing; expected epochs, train_images, input_size or width"),
        ({"epochs": 12}, "some.epochs: 12 saves nothing; expected less than the run's 12"),
        ({"epochs": 3, "train_images": 101}, "some.train_images: 101 saves nothing; expected less than the run's 100"),
        ({"input_size": 8}, "some.input_size: 8 saves nothing; expected less than the run's 8"),
        ({"train_images": 9}, "fidelity.settings.some: data digits: 1 of 10 classes have no training image"),
    ],
)
def test_what_saves_nothing_or_cannot_be_is_refused(values, message, info):
    with pytest.raises(InputError, match=message):
        cheap(info, **values)


@pytest.mark.parametrize("name", ["Half", "1st", "a-b", "a b", "", "a" * 49, "\u00e9"])
def test_names_must_be_fit_for_a_feature(name):
    with pytest.raises(ValidationError, match="expected up to 48"):
        FidelitySettings(settings={name: CheapSetting(epochs=1)})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fidelity.settings.half.epoch=1", "Did you mean 'epochs'"),
        ("fidelity.settings.half.width=1", "less than 1"),
        ("fidelity.settings={}", "at least 1"),
        ("fidelity.architectures=2", "at least 3"),
        ("fidelity.threshold=0", "expected more than 0"),
    ],
)
def test_settings_are_checked_and_named(override, message, recipe):
    with pytest.raises(InputError, match=message):
        load_run(recipe, [override])


@given(epochs=st.integers(1, 11), images=st.integers(10, 99), side=st.integers(2, 7), width=st.floats(0.01, 0.99))
def test_every_saving_costs_less_and_two_cost_no_more_than_one(info, epochs, images, side, width):
    """Images are cut at whole batches and channels at 2, so equal costs may come; more never."""
    fewer = info if images >= 90 else prepare(DATA, 8, train_images=30)
    full = training_macs(SPACE, info, RECIPE, CHOICES)
    short = RECIPE.model_copy(update={"epochs": epochs})
    small = OpSubset.model_validate({**SPACE.model_dump(), "input_size": side})
    alone = [
        training_macs(SPACE, info, short, CHOICES),
        training_macs(SPACE, fewer, RECIPE, CHOICES),
        training_macs(small, info, RECIPE, CHOICES),
        training_macs(SPACE.narrower(width), info, RECIPE, CHOICES),
    ]
    assert max(alone) <= full
    assert training_macs(small.narrower(width), fewer, short, CHOICES) <= min(alone)
