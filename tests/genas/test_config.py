from contextlib import closing
from pathlib import Path

import pytest
import yaml

from data_gen import read_store
from genas.config import StudySettings, check_name, differences, find_run, load_run, save_settings
from genas.stages import compare, label_settings, resolve, retrain_settings, saved_settings
from supernet import DavidNet, InputError, OpSubset
from supernet.settings import UnavailableError

BAD_NAMES = ["../x", "/etc", "a/b", "", ".", "..", ".hidden", "-x", "a b", "a\0b", "a\n", "é", "x" * 65, "x" * 300]


@pytest.mark.parametrize("name", ["a", "A1", "0", "run-2.b_c", "x" * 64])
def test_good_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused_wherever_they_come_from(name, recipe, tmp_path):
    with pytest.raises(InputError, match="run name"):
        check_name(name)
    with pytest.raises(InputError):
        find_run(name, tmp_path)
    with pytest.raises(InputError):
        load_run(name, logs=tmp_path / "logs")
    recipe.write_text(yaml.safe_dump({"name": name}))
    with pytest.raises(InputError, match=r"tiny\.yml:1"):
        load_run(recipe, logs=tmp_path / "logs")


@pytest.mark.parametrize("path", ["x" * 300, "a/" + "x" * 300, "./" + "x" * 300 + "/y", "x" * 300 + ".yml", "a\0/b"])
def test_paths_that_no_file_system_takes(path, tmp_path):
    with pytest.raises(InputError):
        load_run(path, logs=tmp_path)
    with pytest.raises(InputError):
        find_run(path, tmp_path)
    with pytest.raises(InputError):
        load_run("nothing", logs=tmp_path / path)


def test_a_recipe_file_names_the_run(recipe, tmp_path):
    run = load_run(recipe, logs=tmp_path / "logs")
    assert run.folder == tmp_path / "logs" / "tiny"
    assert run.store == run.folder / "store.db"
    assert run.settings.generate.architectures == 14
    assert run.settings.limits == {"macs": 200_000}
    assert not run.folder.exists()


def test_a_recipe_file_is_known_by_being_there_whatever_its_name(recipe, tmp_path):
    other = recipe.rename(recipe.with_name("other"))
    assert load_run(other).name == "other"


def test_the_name_in_the_recipe_or_override_wins(recipe):
    assert load_run(recipe, ["name=second"]).name == "second"
    recipe.write_text("name: third\nseed: 4\n")
    run = load_run(recipe)
    assert (run.name, run.settings.seed) == ("third", 4)


def test_overrides_are_checked_and_named(recipe):
    run = load_run(recipe, ["generate.architectures=40", "space.layers.0.channels=4", "limits.macs=15e4"])
    assert run.settings.generate.architectures == 40
    assert run.settings.space.layers[0].channels == 4
    assert run.settings.limits == {"macs": 150_000}
    with pytest.raises(InputError, match=r"--set generate\.architecture=40.*Did you mean 'architectures'"):
        load_run(recipe, ["generate.architecture=40"])
    with pytest.raises(InputError, match=r"--set generate\.architectures=no.*whole number"):
        load_run(recipe, ["generate.architectures=no"])
    with pytest.raises(InputError, match=r"--set limits\.mac=5.*Did you mean 'macs'"):
        load_run(recipe, ["limits.mac=5"])
    with pytest.raises(InputError, match=r"expected a number above 0"):
        load_run(recipe, ["limits.macs=0"])


def test_spaces_are_told_apart_by_their_kind(recipe):
    recipe.write_text("space: {input_size: 8}\n")
    assert load_run(recipe).settings.space == OpSubset(input_size=8)
    chosen = load_run(recipe, ["space.widths.0=0.3", "space.kind=davidnet", "space.residuals=[1]"]).settings.space
    assert chosen == DavidNet(input_size=8, widths=(0.3, 0.5, 0.75, 1.0, 1.25), residuals=(1,))
    assert chosen.model_fields_set == {"input_size", "kind", "widths", "residuals"}
    recipe.write_text("space:\n  kind: davidnet\n  widths: [1]\n  poolings: [average]\n")
    assert load_run(recipe).settings.space == DavidNet(widths=(1.0,), poolings=("average",))


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("space: {kind: davidnt}", [], r"tiny\.yml:1: key 'space.kind': unknown kind 'davidnt'; .*mean 'davidnet'"),
        ("space: {kind: 3}", [], "unknown kind '3'; known: op_subset, davidnet"),
        ("space: {}", ["space.kind=dag"], "--set space.kind=dag: key 'space.kind': unknown kind 'dag'"),
        ("space: 3", [], r"tiny\.yml:1: key 'space': expected keys and values, got 3"),
        (
            "space:\n  kind: davidnet\n  head_channels: 8",
            [],
            r"tiny\.yml:3: unknown key 'space.head_channels' \(a setting of op_subset\); known: kind, input_size",
        ),
        ("space: {widths: [1]}", [], r"unknown key 'space.widths' \(a setting of davidnet\); known: kind, input_size"),
        (
            "space:\n  layers: [{channels: 8}]",
            ["space.kind=davidnet"],
            r"tiny\.yml:2: unknown key 'space.layers' \(a setting of op_subset",
        ),
        ("space: {kind: davidnet}", ["space.layers.0.channels=8"], r"unknown key 'space.layers' \(a setting of op_s"),
        ("space: {kind: davidnet, widths: [1, 2.x]}", [], "'space.widths.1': expected a number"),
        ("space: {kind: davidnet, poolings: [mx]}", [], "expected one of 'max' or 'average', got 'mx'. Did you mean"),
        ("space: {kind: davidnet, colour: 3}", [], "unknown key 'space.colour'; known: kind"),
    ],
)
def test_settings_of_one_space_are_not_taken_for_another(text, overrides, said, recipe):
    recipe.write_text(text)
    with pytest.raises(InputError, match=said):
        load_run(recipe, overrides)


def test_what_is_nowhere_is_refused_with_the_nearest_recipe(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'quickstart'"):
        load_run("quikstart", logs=tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        load_run(tmp_path / "missing.yml")


def test_saved_settings_are_the_run(recipe, tmp_path):
    run = load_run(recipe, ["generate.architectures=40"], logs=tmp_path / "logs")
    save_settings(run)
    again = load_run("tiny", logs=tmp_path / "logs")
    assert again == run
    assert sorted(path.name for path in run.folder.iterdir()) == ["config.yml"]


def test_saved_settings_of_another_space_are_the_run(recipe, tmp_path):
    recipe.write_text("space: {kind: davidnet, input_size: 8, classes: 10}\n")
    run = load_run(recipe, logs=tmp_path / "logs")
    save_settings(run)
    assert load_run("tiny", logs=tmp_path / "logs") == run


def test_a_run_goes_before_a_bundled_recipe_of_its_name(tmp_path):
    run = load_run("quickstart", ["seed=7"], logs=tmp_path)
    save_settings(run)
    assert load_run("quickstart", logs=tmp_path).settings.seed == 7


def test_settings_that_cannot_be_saved(recipe, tmp_path):
    (tmp_path / "logs").write_text("a file where the folder should be")
    with pytest.raises(UnavailableError, match="cannot write"):
        save_settings(load_run(recipe, logs=tmp_path / "logs"))


def test_find_run(tmp_path):
    with pytest.raises(InputError, match="there is no run"):
        find_run("first", tmp_path)
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "store.db").touch()
    assert find_run("first", tmp_path) == tmp_path / "first"
    assert find_run(str(tmp_path / "first"), "elsewhere") == tmp_path / "first"
    with pytest.raises(InputError, match="Did you mean 'first'"):
        find_run("frist", tmp_path)


def test_differences():
    before = {"seed": 0, "data": {"source": "digits", "root": None}, "limits": {}}
    after = {"seed": 0, "data": {"source": "svhn", "root": None}, "limits": {"macs": 5}}
    assert differences(before, after) == ["data.source: digits -> svhn", "limits.macs: None -> 5"]
    assert differences(before, before) == []


@pytest.mark.parametrize("stage", ["generate", "retrain"])
def test_an_auxiliary_head_needs_its_place(stage, recipe, tmp_path):
    recipe.write_text(f"data: {{source: digits}}\n{stage}: {{recipe: {{auxiliary: 0.4}}}}\n")
    with pytest.raises(InputError, match=rf"{stage}\.recipe\.auxiliary: networks of space 'op_subset' mark no place"):
        resolve(load_run(recipe, logs=tmp_path))
    settings = resolve(load_run(recipe, ["space=darts", "space.cells=3", "space.input_size=8"], tmp_path))[0].settings
    assert getattr(settings, stage).recipe.auxiliary == 0.4


class TestStudySettings:
    def test_sizes_are_numbers_or_objects(self):
        sizes = StudySettings.model_validate({"sizes": [500, {"train_images": 1000, "epochs": 30}]}).sizes
        assert [(size.train_images, size.epochs) for size in sizes] == [(500, None), (1000, 30)]
        saved = StudySettings(sizes=sizes).model_dump(mode="json")
        assert StudySettings.model_validate(saved).sizes == sizes

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("study: {sizes: [20, 20]}", r"mine\.yml:1: key 'study\.sizes': 20 is named twice"),
            ("study:\n  sizes: [20, {train_images: 20, epochs: 3}]", r"mine\.yml:2: key 'study\.sizes': 20 is named"),
            ("study: {sizes: []}", r"mine\.yml:1: key 'study\.sizes'"),
            ("study: {sizes: 20}", r"mine\.yml:1: key 'study\.sizes'"),
            ("study: {sizes: [1]}", r"mine\.yml:1: key 'study\.sizes\.0"),
            ("study: {sizes: [many]}", r"mine\.yml:1: key 'study\.sizes\.0"),
            ("study: {sizes: [{train_images: 20, epochs: 0}]}", r"mine\.yml:1: key 'study\.sizes\.0\.epochs'"),
            ("study: {sizes: [{train_images: 20, epoch: 3}]}", r"mine\.yml:1: .*Did you mean 'epochs'"),
            ("study: {}", r"mine\.yml:1: key 'study\.sizes' is missing"),
        ],
    )
    def test_what_is_none_is_named_with_its_place(self, tmp_path, text, said):
        path = tmp_path / "mine.yml"
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            load_run(path)


def test_results_of_format_2_agree_with_their_settings(tmp_path):
    """What was made before robustness was known was made without it."""
    fixture = Path(__file__).parent.parent / "fixtures" / "format2"
    (tmp_path / "old").mkdir()
    for name in ("config.yml", "store.db"):
        (tmp_path / "old" / name).write_bytes((fixture / name).read_bytes())
    run = load_run("old", logs=tmp_path)
    with closing(read_store(run.store)) as store:
        for stage in ("generate", "retrain"):
            saved = saved_settings(store, stage)
            recipe = run.settings.retrain.recipe or run.settings.generate.recipe
            own = label_settings(run.settings) if stage == "generate" else retrain_settings(run.settings, recipe)
            compare(run, stage, {key: saved[key] for key in own}, own)
        other = load_run("old", ["generate.robustness={}"], tmp_path)
        with pytest.raises(InputError, match=r"generate\.robustness: None -> "):
            compare(other, "generate", saved_settings(store, "generate"), label_settings(other.settings))
