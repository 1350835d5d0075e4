import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from training import Recipe
from training.recipe import RECIPES, ema_decay, learning_rate

recipes = st.builds(
    Recipe,
    epochs=st.integers(1, 30),
    learning_rate=st.floats(1e-4, 10),
    schedule=st.sampled_from(("one_cycle", "cosine", "step")),
    warmup=st.floats(0, 0.99),
    step_epochs=st.integers(1, 20),
    step_factor=st.floats(0.01, 1),
)


def rates(recipe, steps_per_epoch):
    return [learning_rate(recipe, step, steps_per_epoch) for step in range(recipe.epochs * steps_per_epoch)]


@given(recipes, st.integers(1, 20))
def test_rates_are_positive_and_never_above_the_highest(recipe, steps):
    found = rates(recipe, steps)
    assert min(found) > 0
    assert max(found) <= recipe.learning_rate * (1 + 1e-12)


@given(recipes, st.integers(1, 20))
def test_rates_rise_once_and_fall_once(recipe, steps):
    found = rates(recipe, steps)
    top = found.index(max(found))
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
    if recipe.schedule != "step":
        assert top <= recipe.warmup * len(found) + 1


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_a_cycle_ends_low(schedule):
    recipe = Recipe(epochs=10, schedule=schedule, warmup=0.2, learning_rate=0.4)
    found = rates(recipe, 10)
    assert found[20] == pytest.approx(0.4)
    assert found[0] == pytest.approx(0.4 / 21)
    assert found[60] == pytest.approx(0.2)  # half way down, by a line and by a cosine
    assert found[99] < 0.4 / 79
    assert rates(recipe.model_copy(update={"warmup": 0.0}), 10)[0] == pytest.approx(0.4)


def test_the_cosine_is_a_cosine():
    recipe = Recipe(epochs=1, schedule="cosine", warmup=0, learning_rate=1)
    assert rates(recipe, 4) == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])


def test_steps_fall_by_their_factor():
    """The published training: 60 epochs, times .1 every 25."""
    recipe = Recipe(schedule="step")
    found = rates(recipe, 3)
    assert [found.count(rate) for rate in sorted(set(found), reverse=True)] == [75, 75, 30]
    assert (found[0], found[75], found[150]) == pytest.approx((0.1, 0.01, 0.001))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"epochs": 2.5},
        {"batch_size": 1},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"momentum": 1},
        {"weight_decay": -1e-4},
        {"schedule": "linear"},
        {"warmup": 1},
        {"label_smoothing": 1},
        {"crop_padding": -1},
        {"gradient_clip": 0},
        {"drop_path": 1},
        {"auxiliary": -0.1},
        {"precision": "float64"},
        {"flip": "sometimes"},
        {"beta1": 1},
        {"base": "slow"},
        {"base": 3},
        "slow",
        {"ema": 1},
        {"cutout": -1},
        {"epoch": 3},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValidationError):
        Recipe.model_validate(wrong)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_by_name_is_its_differences_from_the_defaults(name):
    recipe = Recipe.model_validate(name)
    assert recipe == Recipe.model_validate({"base": name}) == Recipe.model_validate(RECIPES[name])
    assert recipe.base is None
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    changed = Recipe.model_validate({"base": name, "epochs": 3})
    assert changed == recipe.model_copy(update={"epochs": 3})
    assert all(getattr(Recipe(), key) != getattr(recipe, key) for key in RECIPES[name] if key not in ALSO_DEFAULT)


ALSO_DEFAULT = {"epochs", "batch_size", "schedule"}  # said all the same: they are what the recipe is known by


def test_the_published_recipes():
    reference = Recipe.model_validate("reference")
    assert (reference.batch_size, reference.epochs, reference.learning_rate, reference.momentum) == (1024, 60, 0.1, 0.9)
    assert (reference.weight_decay, reference.schedule, reference.label_smoothing) == (4e-4, "step", 0.1)
    families = Recipe.model_validate("families")
    assert (families.optimizer, families.learning_rate, families.beta1, families.beta2) == ("adam", 0.001, 0.5, 0.999)
    assert (families.schedule, families.epochs) == ("cosine", 100)


def test_the_average_forgets_its_first_steps_soon():
    recipe = Recipe(ema=0.99)
    found = [ema_decay(recipe, step) for step in range(2000)]
    assert found[0] == pytest.approx(0.1)
    assert found == sorted(found)
    assert found[-1] == 0.99
    assert ema_decay(Recipe(), 5) == 0
