"""Scores by the weights of one shared network: trained once, kept as features, taken up where stopped."""

import signal

import pytest

import genas as package
from data_gen import run_lock
from genas import inheriting
from genas.config import load_run
from genas.fitting import fit
from genas.generating import export_table
from genas.inherit_words import inherited
from genas.inheriting import inherit
from genas.scoring import score
from predictor import kendall_tau
from supernet import InputError, read_table
from supernet.files import bytes_digest, read_json

SHORT = {"epochs": 3, "calibration_images": 20}


def with_inherit(run, seed=None, **changes):
    settings = run.settings.inherit.model_copy(update={**SHORT, **changes})
    update = {"inherit": settings, **({} if seed is None else {"seed": seed})}
    return run.model_copy(update={"settings": run.settings.model_copy(update=update)})


@pytest.fixture
def short(copy):
    return with_inherit(copy)


def kept(run):
    content = read_json(run.folder / "scores.json")
    return {key: known["inherited"] for key, known in content["scores"].items() if "inherited" in known}


def test_labelled_architectures_are_scored_and_compared_with_their_labels(short, tmp_path):
    seen = []
    result = inherit(short, lambda name: lambda done, total: seen.append((name, done, total)))
    assert seen == [("inherit", step, 30) for step in range(1, 31)] + [("score", done, 14) for done in range(1, 15)]
    assert (result["trained"], result["scored"], result["labelled"]) == (True, 14, True)
    assert (result["epochs"], result["steps"], result["images"]) == (3, 30, 60)
    values = [entry["inherited"] for entry in result["architectures"]]
    assert values == sorted(values, reverse=True)
    assert {entry["key"]: entry["inherited"] for entry in result["architectures"]} == {
        key: value for key, (value, _) in kept(short).items()
    }
    weights = short.folder / "inherit" / "shared.safetensors"
    assert result["shared"] == str(weights)
    assert result["digest"] == bytes_digest(weights.read_bytes())
    assert {path.name for path in weights.parent.iterdir()} == {"shared.safetensors", "shared.json"}  # no checkpoint
    export_table(short.folder, tmp_path / "labels.jsonl")
    table = read_table(tmp_path / "labels.jsonl")
    scores = {entry["key"]: entry["inherited"] for entry in result["architectures"]}
    assert {row.id: dict(row.features) for row in table.rows} == {key: {"inherited": v} for key, v in scores.items()}
    taus = result["agreement"]["accuracy"]
    assert set(taus) == {"inherited", "macs", "params"}
    expected = kendall_tau([scores[row.id] for row in table.rows], table.metric("accuracy"))
    assert taus["inherited"]["tau"] == pytest.approx(expected)
    low, high = taus["inherited"]["tau_ci95"]
    assert low <= taus["inherited"]["tau"] <= high


def test_nothing_is_made_twice(short, monkeypatch):
    first = inherit(short)
    before = {path: path.read_bytes() for path in (short.folder / "inherit").iterdir()}
    monkeypatch.setattr("training.one_shot.train_one_shot", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr("training.one_shot.inherited_accuracy", lambda *_: pytest.fail("scored again"))
    second = inherit(short)
    assert second == {**first, "trained": False, "scored": 0}
    assert {path: path.read_bytes() for path in (short.folder / "inherit").iterdir()} == before


def test_scores_from_the_file_of_weights_are_those_of_the_network_in_memory(short):
    inherit(short)
    first = kept(short)
    (short.folder / "scores.json").unlink()
    result = inherit(short)
    assert (result["trained"], result["scored"]) == (False, 14)
    assert {key: value for key, (value, _) in kept(short).items()} == {key: value for key, (value, _) in first.items()}


@pytest.mark.parametrize("where", [("inherit", 17), ("score", 6)])
def test_a_call_that_was_stopped_is_gone_on_with_and_ends_the_same(short, where):
    whole = inherit(short)
    for path in (*(short.folder / "inherit").iterdir(), short.folder / "scores.json"):
        path.unlink()

    def progress(name):
        def show(done, total):
            if (name, done) == where:
                signal.raise_signal(signal.SIGINT)

        return show

    with pytest.raises(KeyboardInterrupt):
        inherit(short, progress)
    if where[0] == "score":
        assert len(kept(short)) == 6
    else:
        assert len(list((short.folder / "inherit").glob("shared.0*.json"))) == 1
    steps = []
    again = inherit(short, lambda name: lambda done, total: steps.append((name, done)))
    expected = [("inherit", step) for step in range(18, 31)] if where[0] == "inherit" else []
    scores = range(7, 15) if where[0] == "score" else range(1, 15)
    assert steps == expected + [("score", done) for done in scores]
    assert (again["digest"], again["architectures"]) == (whole["digest"], whole["architectures"])


def test_another_network_takes_the_place_of_the_one_before_and_its_scores(short):
    score(short, metrics=["params"])
    first = inherit(short)
    longer = inherit(with_inherit(short, epochs=4))
    assert (longer["trained"], longer["scored"], longer["steps"]) == (True, 14, 40)
    assert longer["digest"] != first["digest"]
    content = read_json(short.folder / "scores.json")["scores"]
    assert all(set(known) == {"params", "inherited"} for known in content.values())
    more = inherit(with_inherit(short, epochs=4, calibration_images=60))  # the same network, other statistics
    assert (more["trained"], more["scored"], more["digest"]) == (False, 14, longer["digest"])
    score(short, metrics=["synflow"])  # and neither disturbs the other
    content = read_json(short.folder / "scores.json")["scores"]
    assert all(set(known) == {"params", "synflow", "inherited"} for known in content.values())


def test_scores_of_the_network_before_are_gone_while_the_next_is_trained(short):
    inherit(short)
    seen = []

    def progress(name):
        return lambda done, total: seen.append((name, len(kept(short)))) if name == "inherit" else None

    inherit(with_inherit(short, epochs=4), progress)
    assert set(seen) == {("inherit", 0)}
    assert len(kept(short)) == 14


def test_without_labels_the_first_of_the_plan_are_scored(recipe, tmp_path):
    run = with_inherit(load_run(recipe, logs=tmp_path), architectures=3)
    result = inherit(run)
    assert (len(result["architectures"]), result["labelled"], result["agreement"]) == (3, False, {})
    assert "too few labels to say how well these scores rank" in inherited(result)
    macs = run.settings.space.model_copy(update={"classes": 10, "input_channels": 1})
    for entry in result["architectures"]:
        assert macs.costs(macs.parse(entry["architecture"]).row())["macs"][0] <= 200_000
    more = inherit(with_inherit(run, architectures=5))
    assert (more["trained"], more["scored"]) == (False, 2)
    assert load_run("tiny", logs=tmp_path).settings.inherit.epochs == 3  # the run's name stands for it


def test_the_fit_takes_the_feature_and_says_where_it_comes_from(short):
    featured = short.settings.fit.model_copy(update={"features": ("inherited",)})
    run = short.model_copy(update={"settings": short.settings.model_copy(update={"fit": featured})})
    with pytest.raises(InputError, match=r"lacks 'inherited'; `genas inherit tiny` scores all that have labels"):
        fit(run)
    inherit(short)
    assert fit(run)["features"] == ["inherited"]


def test_the_recipe_is_that_of_generate_for_longer_or_an_own_one(copy):
    generate = copy.settings.generate.recipe.model_copy(update={"drop_path": 0.2, "auxiliary": 0.4, "step_epochs": 3})
    settings = copy.settings.inherit
    assert inheriting._recipe(settings, generate) == generate.model_copy(
        update={"epochs": 10, "step_epochs": 15, "drop_path": 0.0, "auxiliary": 0.0}
    )
    assert inheriting._recipe(settings.model_copy(update={"epochs": 4}), generate).epochs == 4
    own = load_run("tiny", ["inherit.recipe={base: fast, batch_size: 7}"], copy.folder.parent).settings.inherit
    assert inheriting._recipe(own, generate) == own.recipe
    assert (own.recipe.epochs, own.recipe.batch_size, own.recipe.ema) == (20, 7, 0.98)
    assert inheriting._recipe(own.model_copy(update={"epochs": 40}), generate).epochs == 40


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["space={kind: davidnet, input_size: 8}"], "space 'davidnet' has no weight-sharing network; nasbench201"),
        (["space={kind: union, members: {a: {kind: op_subset}}, input_size: 8}"], "has no weight-sharing network"),
        (["inherit.recipe={drop_path: 0.1}"], r"recipe\.drop_path is for single networks; leave it out"),
        (["inherit.epochs=0"], r"inherit\.epochs"),
        (["inherit.calibration=5"], r"inherit\.calibration.*calibration_images"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_at_once(recipe, tmp_path, overrides, said):
    with pytest.raises(InputError, match=said):
        inherit(load_run(recipe, overrides, tmp_path))
    assert not (tmp_path / "tiny").exists()


def test_a_run_with_other_settings_or_another_driver_is_left_alone(short):
    inherit(short)
    before = {path: path.read_bytes() for path in short.folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"results of generate in run 'tiny' were made with other .*seed: 0 -> 1"):
        inherit(with_inherit(short, seed=1))
    with run_lock(short.folder), pytest.raises(InputError, match="in use by process"):
        inherit(short)
    assert {path: path.read_bytes() for path in before} == before


def test_kept_scores_of_other_settings_are_not_mixed_with(recipe, tmp_path):
    run = with_inherit(load_run(recipe, logs=tmp_path), architectures=1)
    inherit(run)
    with pytest.raises(InputError, match=r"scores\.json holds scores made with other settings \(seed: 0 -> 1\)"):
        inherit(with_inherit(run, seed=1))
    assert len(kept(run)) == 1


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_damaged_weights_are_never_used(short, damage):
    inherit(short)
    (short.folder / "scores.json").unlink()
    path = short.folder / "inherit" / "shared.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink() if damage == "remove" else path.write_bytes(data)
    with pytest.raises(
        InputError, match=rf"shared\.safetensors: {'damaged' if damage == 'change' else 'cannot be read'}"
    ):
        inherit(short)
    for left in path.parent.iterdir():
        left.unlink()
    assert inherit(short)["trained"]


def result_of(**changes):
    interval = [0.1, 0.5]
    taus = {name: {"tau": tau, "tau_ci95": interval} for name, tau in changes.pop("taus", {}).items()}
    return {
        "space": "op_subset", "epochs": 30, "steps": 1200, "seconds": 130.0, "train_accuracy": [0.1, 0.456],
        "trained": True, "scored": 14, "score_seconds": 0.5, "images": 500, "labelled": True,
        "architectures": [{"key": "a", "architecture": "100 001", "inherited": 0.5}] * 14,
        "agreement": {"accuracy": taus} if taus else {}, **changes,
    }  # fmt: skip


def test_the_words_say_how_far_to_trust_the_scores():
    good = inherited(result_of(taus={"inherited": 0.4, "macs": 0.1, "params": 0.2}))
    assert "in each of 1,200 steps" in good
    assert "training accuracy of the last epoch 45.6%" in good
    assert good.count("100 001") == 5
    assert "Kendall tau with accuracy of the labels: inherited 0.400 [0.10, 0.50], macs 0.100 [0.10, 0.50]" in good
    assert "rank as well" not in good
    bad = inherited(result_of(taus={"inherited": 0.2, "macs": 0.1, "params": 0.2}))
    assert "params alone, which cost nothing, rank as well" in bad
    again = inherited(result_of(trained=False, scored=4))
    assert "was trained for 30 epochs" in again
    assert "10 of them before" in again


def test_the_command(genas, copy):
    logs = copy.folder.parent
    line = ("inherit", "tiny", "--logs", logs, "--set", "inherit.epochs=2", "--set", "inherit.calibration_images=20")
    answer = genas(*line)
    assert answer.code == 0, answer.err
    assert "inherit: the shared network of space op_subset trained for 2 epochs" in answer.out
    assert f"Kept in {copy.folder / 'scores.json'}. Next: genas fit tiny --features inherited\n" in answer.out
    assert "was trained" in genas(*line).out
    quick = ("--set", "fit.predictor.members=1", "--set", "fit.predictor.epochs=2")
    answer = genas("fit", "tiny", "--logs", logs, "--features", "inherited", *quick)
    assert answer.code == 0, answer.err
    assert "inherited" in answer.out
    assert package.inherit is inherit
