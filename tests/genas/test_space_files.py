import pytest

from genas.config import load_run
from genas.costing import find_space
from genas.space_files import read_space, space_names
from supernet import DavidNet, InputError, OpSubset
from supernet.spaces import SPACES, make_space


@pytest.fixture
def recipe(tmp_path):
    return tmp_path / "mine.yml"


def space_of(recipe, text, *overrides):
    recipe.write_text(text)
    return load_run(recipe, list(overrides)).settings.space


OWN = """
kind: stages
input_size: 16
stages:
  - {channels: 8, operations: [skip, sep_conv_3]}
"""


def test_every_name_is_a_space():
    assert {"nasbench_macro", "mobile", *SPACES} == set(space_names())
    for name in set(space_names()) - SPACES.keys():
        assert make_space(read_space(name, recipe, "here").value).size > 1000


@pytest.mark.parametrize("text", ["space: davidnet", "space: {base: davidnet}", "space: {kind: davidnet}"])
def test_a_name_is_short_for_a_kind(recipe, text):
    assert space_of(recipe, text) == DavidNet()


def test_settings_beside_a_base_change_it(recipe):
    space = space_of(recipe, "space: {base: mobile, input_size: 96, classes: 7}")
    assert (space.kind, space.input_size, space.classes, len(space.stages)) == ("stages", 96, 7, 6)
    deeper = space_of(recipe, "space: mobile", "space.stages.1.depth=[2, 5]", "space.input_size=128")
    assert (deeper.stages[1].depth, deeper.input_size) == ((2, 5), 128)


def test_a_file_is_looked_for_beside_the_recipe(recipe, monkeypatch, tmp_path):
    (tmp_path / "own.yml").write_text(OWN)
    monkeypatch.chdir("/")
    space = space_of(recipe, "space: own.yml")
    assert space.cardinalities == (2,)
    assert space_of(recipe, "space: {base: own.yml, classes: 4}").classes == 4
    assert load_run(recipe, [f"space={tmp_path / 'own.yml'}"]).settings.space.input_size == 16


def test_an_override_names_another_base_and_forgets_the_recipes(recipe):
    text = "space: {base: mobile, input_size: 96}"
    assert space_of(recipe, text, "space=davidnet") == DavidNet()
    assert space_of(recipe, text, "space.base=op_subset", "space.classes=5") == OpSubset(classes=5)
    assert space_of(recipe, text, "space=nasbench_macro", "space.classes=5").input_size == 32


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("space: mobil", r"mine\.yml:1: unknown space 'mobil'; known: op_subset, .*Did you mean 'mobile'\?"),
        ("data: {source: digits}\nspace: {base: op_subse}", r"mine\.yml:2: unknown space 'op_subse'.*'op_subset'"),
        ("space: nothing.yml", r"nothing\.yml: cannot read the recipe"),
        ("space: bare.yml", r"bare\.yml:1: key 'kind' is missing"),
        ("space: odd.yml", r"odd\.yml:1: unknown kind 'stage'; .*Did you mean 'stages'"),
        ("space: dead.yml", r"dead\.yml:3: key 'stages': stages\.0: a dead end|dead\.yml:1: .*stages\.0: a dead end"),
        ("space: {base: 3}", "key 'space.base'"),
        ("space: {base: mobile, colour: 3}", r"mine\.yml:1: unknown key 'space\.colour'"),
        ("space: {base: mobile, input_size: 16}", r"mine\.yml:1: key 'space.*its stride finds a picture of 1 pixel"),
    ],
)
def test_what_is_no_space_is_named_with_its_place(recipe, tmp_path, text, said):
    (tmp_path / "bare.yml").write_text("stages: []\n")
    (tmp_path / "odd.yml").write_text("kind: stage\n")
    (tmp_path / "dead.yml").write_text("kind: stages\nstages:\n  - {channels: 3, operations: [max_pool_same_3]}\n")
    with pytest.raises(InputError, match=said):
        space_of(recipe, text)


def test_a_name_or_file_of_a_space_stands_for_it_where_no_recipe_is_needed(tmp_path):
    (tmp_path / "own.yml").write_text(OWN)
    assert find_space(str(tmp_path / "own.yml"), ["space.classes=6"]).classes == 6
    assert find_space("mobile", ["input_size=64", "stages.1.channels=32"]).stages[1].channels == 32
    assert find_space("davidnet", ["widths.0=0.3"]).widths[0] == 0.3


def test_a_run_keeps_the_whole_space(recipe, tmp_path):
    (tmp_path / "own.yml").write_text(OWN)
    recipe.write_text("space: own.yml\n")
    run = load_run(recipe)
    assert make_space(run.settings.model_dump(mode="json")["space"]) == run.settings.space
