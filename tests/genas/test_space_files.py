import pytest

from genas.config import load_run, save_settings
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
    assert {"nasbench_macro", "mobile", *SPACES} - {"stages", "union"} == set(space_names())
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
        ("space: nothing.yml", r"mine\.yml:1: there is no file '.*nothing\.yml'; expected the settings of a space"),
        (f"space: {300 * 'a'}.yml", r"mine\.yml:1: there is no file"),
        ("space: bare.yml", r"bare\.yml:1: key 'kind' is missing"),
        ("space: null.yml", r"null\.yml:1: key 'kind' is missing"),
        ("space: odd.yml", r"odd\.yml:1: unknown kind 'stage'; .*Did you mean 'stages'"),
        ("space: dead.yml", r"dead\.yml:3: key 'stages\.0': a dead end"),
        ("space: {base: 3}", "key 'space.base'"),
        ("space: {base: mobile, colour: 3}", r"mine\.yml:1: unknown key 'space\.colour'"),
        ("space: {base: mobile, input_size: 16}", r"mine\.yml:1: key 'space.*its stride finds a picture of 1 pixel"),
    ],
)
def test_what_is_no_space_is_named_with_its_place(recipe, tmp_path, text, said):
    (tmp_path / "bare.yml").write_text("stages: []\n")
    (tmp_path / "null.yml").write_text("kind: null\n")
    (tmp_path / "odd.yml").write_text("kind: stage\n")
    (tmp_path / "dead.yml").write_text("kind: stages\nstages:\n  - {channels: 3, operations: [max_pool_same_3]}\n")
    with pytest.raises(InputError, match=said):
        space_of(recipe, text)


def test_a_name_or_file_of_a_space_stands_for_it_where_no_recipe_is_needed(tmp_path):
    (tmp_path / "own.yml").write_text(OWN)
    assert find_space(str(tmp_path / "own.yml"), ["space.classes=6"]).classes == 6
    assert find_space("mobile", ["input_size=64", "stages.1.channels=32"]).stages[1].channels == 32
    assert find_space("davidnet", ["widths.0=0.3"]).widths[0] == 0.3


@pytest.mark.parametrize("name", sorted({"own.yml", *space_names()} - {"stages"}))
def test_a_run_keeps_the_whole_space(name, recipe, tmp_path):
    (tmp_path / "own.yml").write_text(OWN)
    recipe.write_text(f"space: {name}\n")
    run = load_run(recipe, logs=tmp_path)
    run.folder.mkdir()
    save_settings(run)
    again = load_run(run.name, logs=tmp_path)
    assert again.settings.space == run.settings.space
    assert load_run(run.name, ["space.input_size=160"], tmp_path).settings.space.input_size == 160


def test_lists_of_families_come_from_a_file(recipe):
    space = space_of(recipe, "space: {base: families, family: densenet, depth: [2, 3], growths: [8]}")
    assert (space.depth, space.growths) == ((2, 3), (8,))
    assert space_of(recipe, "space: {base: families, family: densenet}").depth == (2, 7)


def test_a_whole_space_in_one_override(recipe):
    space = space_of(recipe, "space: davidnet", "space={base: mobile, input_size: 128}")
    assert (len(space.stages), space.input_size) == (6, 128)


def test_a_run_comes_before_a_space_of_its_name(recipe, tmp_path):
    recipe.write_text("name: mobile\nspace: {base: mobile, input_size: 96, classes: 5, input_channels: 3}\n")
    assert find_space("mobile", logs=str(tmp_path)).input_size == 224
    run = load_run(recipe, logs=tmp_path)
    run.folder.mkdir()
    save_settings(run)
    assert find_space("mobile", logs=str(tmp_path)).input_size == 96


def test_a_space_is_no_recipe_and_says_so(tmp_path):
    with pytest.raises(InputError, match=r"'mobile' is a space; expected a recipe or run\. .*: space: mobile"):
        load_run("mobile", logs=tmp_path)
    with pytest.raises(InputError, match="Did you mean 'op_subset'"):
        find_space("op_subse", logs=str(tmp_path))


@pytest.mark.parametrize("text", ["seed=3", "name=a", "data.source=digits", "limits.macs=3"])
def test_what_means_nothing_for_a_space_alone_is_refused(text):
    with pytest.raises(InputError, match=f"--set {text}: means nothing for a space alone; known: space"):
        find_space("mobile", [text])
