from importlib import resources

import numpy as np
import pytest

from data_gen import plan
from genas.config import RunSettings, bundled_recipes, load_run
from genas.stages import resolve
from genas.yaml_reader import read_yaml
from supernet.limits import within

DEFAULTS = RunSettings().model_dump(mode="json")


def values(name):
    return read_yaml(resources.files("config").joinpath(f"{name}.yml").read_text(encoding="utf-8"), name).value


def same_as_default(given, default, path=()):
    """Keys of a recipe that say what holds anyway."""
    for key, value in given.items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(default.get(key), dict):
            yield from same_as_default(value, default[key], here)
        elif key in default and value == default[key]:
            yield ".".join(here)


def test_the_two_recipes_that_the_documentation_names_are_there():
    assert {"quickstart", "cifar100"} <= set(bundled_recipes())


@pytest.mark.parametrize("name", bundled_recipes())
class TestEveryRecipe:
    def test_it_loads_from_any_folder(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        run = load_run(name)
        assert run.name == name
        assert not list(tmp_path.iterdir())

    def test_it_holds_only_differences(self, name):
        # The source may be said although it is the default: it is what a reader looks for first.
        assert set(same_as_default(values(name), DEFAULTS)) <= {"data.source"}

    def test_its_limits_leave_something_to_find(self, name):
        settings = load_run(name).settings
        for cost, limit in settings.limits.items():
            cheapest = settings.space.cheapest(cost)
            assert settings.space.costs(cheapest.row())[cost][0] < limit


def test_only_differences_finds_what_is_no_difference():
    given = {"seed": 0, "generate": {"recipe": {"epochs": 60, "momentum": 0.5}}, "limits": {"macs": 1}}
    assert list(same_as_default(given, DEFAULTS)) == ["seed", "generate.recipe.epochs"]


@pytest.mark.parametrize(
    "name", [name for name in bundled_recipes() if load_run(name).settings.data.source == "digits"]
)
def test_recipes_on_the_bundled_digits_resolve(name):
    run, info = resolve(load_run(name))
    assert info.source == "digits"
    assert (run.settings.space.classes, run.settings.space.input_channels) == (10, 1)
    assert info.side == run.settings.space.input_size


def test_cifar100_is_the_published_experiment():
    settings = load_run("cifar100").settings
    recipe, space = settings.generate.recipe, settings.space
    assert settings.data.source == "cifar100"
    assert settings.generate.architectures == 300
    assert settings.limits == {"conv_macs": 15_000_000}
    assert (recipe.epochs, recipe.batch_size) == (60, 1024)
    assert (recipe.learning_rate, recipe.momentum, recipe.weight_decay) == (0.1, 0.9, 4e-4)
    assert (recipe.schedule, recipe.step_epochs, recipe.step_factor) == ("step", 25, 0.1)
    assert (recipe.label_smoothing, recipe.flip) == (0.1, True)
    assert recipe.crop_padding > 0
    assert (space.input_size, space.input_channels, space.classes) == (32, 3, 100)
    assert [(layer.channels, layer.stride) for layer in space.layers] == [(16, 1), (32, 2), (40, 2), (80, 2), (320, 1)]
    assert round(settings.fit.train_fraction * settings.generate.architectures) == 250


def test_quickstart_needs_no_download_and_few_trainings():
    settings = load_run("quickstart").settings
    assert settings.data.source == "digits"
    assert settings.generate.architectures <= 100


PUBLISHED = {"vgg": (20, 70), "resnet": (20, 70), "densenet": (2, 7)}
"""Least and most nodes of the published random chains."""


def test_a_recipe_wins_over_the_space_of_its_name():
    run = load_run("families")
    assert (run.name, run.settings.space.kind, list(run.settings.space.members)) == (
        "families",
        "union",
        list(PUBLISHED),
    )


def test_families_is_the_published_study_searched_as_one():
    settings = load_run("families").settings
    for name, member in settings.space.members.items():
        assert (member.family, member.depth, member.max_pools) == (name, PUBLISHED[name], 3)
        assert (member.channels, member.kernels) == ((16, 32, 64), (3, 5))
        assert (member.growths, member.layers) == ((16, 32, 64), (3, 6, 9, 12))
    assert len(list(settings.generate.robustness.cells)) == 75
    assert settings.generate.robustness.images is None
    assert settings.generate.keep_weights
    assert [size.train_images for size in settings.study.sizes] == [500, 1000, 5000, 10_000, 25_000]
    assert settings.fit.metric == "robust_accuracy"


def test_the_small_families_are_narrow_and_their_sets_small():
    settings = load_run("families_small").settings
    assert [size.train_images for size in settings.study.sizes] == [500, 1000]
    assert max(size.train_images for size in settings.study.sizes) < settings.data.train_images
    for name, member in settings.space.members.items():
        assert member.depth[1] <= PUBLISHED[name][1] / 1.4
    assert max(settings.space.members["vgg"].channels) <= 32


@pytest.mark.parametrize(("name", "count"), [("families_small", 36), ("families", 9)])
def test_limits_leave_each_family_what_is_planned(name, count):
    settings = load_run(name).settings
    generate = settings.generate.model_copy(update={"architectures": count})
    planned = [architecture for architecture, _, _ in plan(settings.space, generate, settings.bounds, settings.seed)]
    assert [settings.space.member(one) for one in planned] == list(PUBLISHED) * (count // 3)
    rows = np.concatenate([one.row() for one in planned])
    assert within(settings.space, rows, settings.bounds).all()
    for number in range(3):  # not all as shallow as can be: the limit leaves a choice
        depths = {int(depth) for depth in settings.space.depths(rows[rows[:, 0] == number])}
        assert len(depths) > 1
