"""Ensembles of a few tiny networks, trained once for all tests here."""

import json
import runpy
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

import genas.ensemble_measures
import genas.ensemble_pool
from analysis.fronts import Member
from data_gen import open_store, read_store
from genas.config import load_run
from genas.ensemble_pool import kept_networks
from genas.ensemble_words import ensembled
from genas.ensembling import ensemble
from genas.generating import generate
from genas.stages import resolve
from supernet import InputError
from supernet.files import bytes_digest, read_json, write_bytes, write_json
from training import load_split
from training.ensembles import METHODS, accuracy
from training.images import normalise

RECIPE = """
data: {source: digits, train_images: 120, validation_images: 100, test_images: 120}
space: {input_size: 8, layers: [{channels: 8}, {channels: 16, stride: 2}], head_channels: 64}
generate:
  architectures: 4
  repeat_fraction: 0.5
  recipe: {epochs: 3, batch_size: 20, learning_rate: 0.1, crop_padding: 1, flip: false}
  robustness: {corruptions: [gaussian_noise], severities: [1], images: 50}
  keep_weights: true
workers: {device: cpu, cpu_workers: 1, retries: 0}
"""
BUDGET = 20_000


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Not to be changed: see ``run``."""
    recipe = tmp_path_factory.mktemp("recipes") / "tiny.yml"
    recipe.write_text(RECIPE)
    run = load_run(recipe, logs=tmp_path_factory.mktemp("trained"))
    generate(run)
    ensemble([run], BUDGET)
    return run


@pytest.fixture
def run(trained, tmp_path):
    """With an ensemble of its networks."""
    shutil.copytree(trained.folder, tmp_path / "logs" / "tiny")
    return load_run("tiny", logs=tmp_path / "logs")


@pytest.fixture
def fresh(run):
    """Without one."""
    shutil.rmtree(run.folder / "ensemble")
    return run


def results(run):
    store = read_store(run.store)
    try:
        return store.results("generate")
    finally:
        store.close()


def weights_of(run):
    return sorted((run.folder / "weights").glob("*.safetensors"))


def rewrite(path, change):
    """Other weights, as a training would have left them."""
    data = save({name: change(name, tensor) for name, tensor in load_file(path).items()})
    write_bytes(path, data)
    write_json(path.with_suffix(".json"), {"weights": bytes_digest(data)})


def without_numbers(name, tensor):
    return tensor * float("nan") if name == "classifier.0.weight" else tensor


def refuse(*arguments, **options):
    raise AssertionError("measured again")


class TestEnsemble:
    def test_every_method_keeps_the_budget(self, run):
        result = ensemble([run], BUDGET)
        assert list(result["methods"]) == list(METHODS)
        assert result["chosen"] in METHODS
        best = max(entry["held_out"]["accuracy"] for entry in result["methods"].values())
        assert result["methods"][result["chosen"]]["held_out"]["accuracy"] == best
        costs = {f"{one.job.architecture.key}-{one.job.seed}": one.costs for one in results(run)}
        for entry in result["methods"].values():
            names = [one["name"] for one in entry["networks"]]
            for cost in ("params", "macs"):
                assert entry[cost] == sum(costs[name][cost] for name in names)
            assert entry["params"] <= BUDGET
            assert sum(one["weight"] for one in entry["networks"]) == pytest.approx(1)
        assert result["pool"] == {"networks": len(costs), "too_costly": 0, "not_finite": []}

    def test_the_single_networks_are_the_best_by_validation(self, run):
        result = ensemble([run], BUDGET)
        accuracies = {f"{one.job.architecture.key}-{one.job.seed}": one.accuracy for one in results(run)}
        best = result["singles"]["best_within_budget"]
        assert best["validation"]["accuracy"] == pytest.approx(max(accuracies.values()))
        assert accuracies[best["name"]] == pytest.approx(max(accuracies.values()))
        own = {one["name"] for one in result["methods"][result["chosen"]]["networks"]}
        assert result["singles"]["best_member"]["name"] in own

    def test_test_numbers_are_those_of_the_exported_model(self, run):
        result = ensemble([run], BUDGET)
        folder = run.folder / "ensemble"
        model = runpy.run_path(str(folder / "model.py"))["load"](folder / "weights.safetensors")
        _, info = resolve(run, ("test",))
        split = load_split(info, "test")
        with torch.no_grad():
            answers = model(normalise(split.images, info.normalisation)).exp().numpy()
        test = result["methods"][result["chosen"]]["test"]
        assert test["accuracy"] == pytest.approx(accuracy(answers, split.labels.numpy()))
        assert test["cross_entropy"] == pytest.approx(-np.log(answers[np.arange(120), split.labels]).mean(), abs=1e-4)
        assert result["largest_difference"] <= 1e-4

    def test_gains_are_differences_of_test_accuracy(self, run):
        result = ensemble([run], BUDGET)
        own = result["methods"][result["chosen"]]["test"]["accuracy"]
        for role, gain in result["gains"].items():
            assert gain["difference"] == pytest.approx(own - result["singles"][role]["test"]["accuracy"])
            assert gain["ci95"][0] <= gain["difference"] <= gain["ci95"][1]

    def test_robustness_is_that_of_the_recipe(self, run):
        robust = ensemble([run], BUDGET)["robust"]
        assert robust["images"] == 50
        for role in ("ensemble", "best_member", "best_within_budget"):
            assert robust[role]["robust_accuracy"] * 50 == pytest.approx(round(robust[role]["robust_accuracy"] * 50))
        assert ensemble([run], BUDGET, robust=False)["robust"] is None

    def test_members_are_points_of_a_front(self, run):
        ensemble([run], BUDGET)
        content = read_json(run.folder / "ensemble" / "ensemble.json")
        points = [Member(**one) for one in content["members"]]
        assert {one.split for one in points} == {"validation", "test"}
        named = {(one.name, one.split): one for one in points}
        assert len(named) == len(points)
        chosen = content["methods"][content["chosen"]]
        point = named[f"ensemble-{content['chosen']}", "test"]
        assert (point.params, point.macs, point.images) == (chosen["params"], chosen["macs"], 120)
        assert point.error == pytest.approx(1 - chosen["test"]["accuracy"])
        seen = [one for one in points if one.split == "validation"]
        assert len(seen) == content["pool"]["networks"] + len(METHODS)
        for name in content["front"]:
            own = named[name, "validation"]
            assert not any(
                other.params <= own.params and other.error <= own.error
                and (other.params, other.error) != (own.params, own.error)
                for other in seen
            )  # fmt: skip

    def test_a_budget_of_macs_and_a_folder_of_its_own(self, run, tmp_path):
        before = (run.folder / "ensemble" / "ensemble.json").read_bytes()
        cheapest = min(one.costs["macs"] for one in results(run))
        result = ensemble([run], 2 * cheapest, "macs", members=2, robust=False, out=tmp_path / "out")
        assert all(entry["macs"] <= 2 * cheapest for entry in result["methods"].values())
        assert all(len(entry["networks"]) <= 2 for entry in result["methods"].values())
        assert (tmp_path / "out" / "model.py").is_file()
        assert (run.folder / "ensemble" / "ensemble.json").read_bytes() == before


class TestOnce:
    def test_a_second_time_asks_no_network(self, run, monkeypatch):
        first = read_json(run.folder / "ensemble" / "ensemble.json")
        monkeypatch.setattr(genas.ensemble_pool, "class_probabilities", refuse)
        monkeypatch.setattr(genas.ensemble_measures, "measure_robustness", refuse)
        monkeypatch.setattr(genas.ensemble_measures, "load_split", refuse)
        again = ensemble([run], BUDGET)
        differing = {key for key in again if key != "folder" and json.loads(json.dumps(again[key])) != first[key]}
        assert differing == set()

    def test_another_budget_and_back_measures_nothing_again(self, run, monkeypatch):
        first = ensemble([run], BUDGET)
        cheapest = min(one.costs["params"] for one in results(run))
        other = ensemble([run], cheapest, robust=False)
        assert other["identity"] != first["identity"]
        monkeypatch.setattr(genas.ensemble_measures, "load_split", refuse)
        assert ensemble([run], BUDGET) == first

    def test_other_weights_are_asked_and_measured(self, run):
        first = ensemble([run], BUDGET)
        path = run.folder / "weights" / f"{first['singles']['best_within_budget']['name']}.safetensors"
        rewrite(path, lambda name, tensor: -tensor if name == "classifier.0.weight" else tensor)
        second = ensemble([run], BUDGET)
        assert second["identity"] != first["identity"]
        assert second["singles"]["best_within_budget"]["name"] != path.stem

    def test_damaged_files_are_made_again(self, run):
        first = ensemble([run], BUDGET)
        torn, foreign, *_ = sorted((run.folder / "ensemble" / "probabilities").glob("*.npz"))
        torn.write_bytes(torn.read_bytes()[:-100])
        foreign.write_bytes(b"no archive")
        (run.folder / "ensemble" / "measured.json").write_text("{")
        (run.folder / "ensemble" / "ensemble.json").write_text("{")
        assert ensemble([run], BUDGET) == first
        assert np.load(torn, allow_pickle=False)["probabilities"].shape == (first["validation_images"], 10)


class TestPool:
    def test_networks_without_weights_are_left_out(self, run):
        first, *others = weights_of(run)
        first.unlink()
        assert len(kept_networks([run])[0]) == len(others)
        for path in others:
            path.unlink()
        with pytest.raises(InputError, match=r"of the \d+ networks of tiny no weights were kept; .*keep_weights"):
            ensemble([run], BUDGET)

    def test_the_same_run_twice_is_that_run(self, run):
        networks, *_ = kept_networks([run, run])
        assert len(networks) == len(weights_of(run))
        assert all("/" not in network.name for network in networks)

    def test_networks_of_a_front_join(self, fresh):
        """As the stage leaves them: settings, results, and weights in a folder of its own."""
        store = open_store(fresh.store)
        try:
            _, content = store.events("settings:generate")[0]
            store.event("settings:front", content)
            one = store.results("generate")[0]
            (job,) = store.add_jobs("front", [(one.job.architecture, one.job.seed, "front")], {})
            names = ("accuracy", "loss", "epochs", "pieces", "seconds", "peak_memory", "images_per_second")
            store.commit(
                job, store.start(job, 1), {**{name: getattr(one, name) for name in names}, "curves": one.curves}
            )
        finally:
            store.close()
        own = fresh.folder / "weights" / f"{one.job.architecture.key}-{one.job.seed}.safetensors"
        kept = fresh.folder / "front" / "weights" / own.name
        kept.parent.mkdir(parents=True)
        shutil.copy(own, kept)
        shutil.copy(own.with_suffix(".json"), kept.with_suffix(".json"))
        assert len(kept_networks([fresh])[0]) == len(weights_of(fresh))  # the same weights count once
        rewrite(kept, lambda name, tensor: tensor * 1.01)
        names = [network.name for network in kept_networks([fresh])[0]]
        assert len(set(names)) == len(names) == len(weights_of(fresh)) + 1
        assert f"front/{kept.stem}" in names
        result = ensemble([fresh], BUDGET, robust=False)
        assert result["pool"]["networks"] == len(names)
        assert (fresh.folder / "ensemble" / "probabilities" / "front" / f"{kept.stem}.npz").is_file()

    def test_two_runs_of_the_same_images(self, run, tmp_path):
        shutil.copytree(run.folder, tmp_path / "logs" / "other")
        other = load_run("other", logs=tmp_path / "logs")
        for path in weights_of(other):
            rewrite(path, lambda name, tensor: tensor * 1.001)
        result = ensemble([run, other], BUDGET, robust=False, out=tmp_path / "out")
        assert result["runs"] == ["tiny", "other"]
        assert result["pool"]["networks"] == 2 * len(weights_of(run))
        assert {one["name"].partition("/")[0] for one in result["members"] if one["series"] == "single"} == {
            "tiny", "other",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("where", "key", "value", "said"),
        [
            ("data", "split_seed", 1, "data.split_seed: 1 -> 0"),
            ("images", "classes", 9, "images.classes: 9 -> 10"),
            ("space", "input_size", 9, "space.input_size: 9 -> 8"),
        ],
    )
    def test_runs_of_other_images_are_refused(self, run, tmp_path, monkeypatch, where, key, value, said):
        shutil.copytree(run.folder, tmp_path / "logs" / "other")
        other = load_run("other", logs=tmp_path / "logs")
        saved = genas.ensemble_pool.saved_settings

        def changed(store, stage):
            content = saved(store, stage)
            if store.path == other.store and content is not None:
                content = {**content, where: {**content[where], key: value}}
            return content

        monkeypatch.setattr(genas.ensemble_pool, "saved_settings", changed)
        with pytest.raises(InputError, match=rf"generate of run 'other' have learnt from other images .*{said}"):
            ensemble([run, other], BUDGET)

    def test_networks_whose_scores_are_not_finite_are_left_out(self, run):
        path, *others = weights_of(run)
        rewrite(path, without_numbers)
        result = ensemble([run], BUDGET, robust=False)
        assert result["pool"]["not_finite"] == [path.stem]
        assert "1 without finite scores" in ensembled(result)
        for other in others:
            rewrite(other, without_numbers)
        with pytest.raises(InputError, match=r"none of .* networks within the budget has finite scores"):
            ensemble([run], BUDGET)

    def test_damaged_and_foreign_weights_are_named(self, fresh):
        path, *_ = weights_of(fresh)
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(InputError, match=f"{path.name}: damaged"):
            ensemble([fresh], BUDGET)
        data = save({"one": torch.zeros(3)})
        write_bytes(path, data)
        write_json(path.with_suffix(".json"), {"weights": bytes_digest(data)})
        with pytest.raises(InputError, match="weights of another network, or damaged"):
            ensemble([fresh], BUDGET)

    def test_one_network_alone_is_its_own_ensemble(self, run):
        for path in weights_of(run)[1:]:
            path.unlink()
        result = ensemble([run], BUDGET, robust=False)
        assert [len(entry["networks"]) for entry in result["methods"].values()] == [1] * len(METHODS)
        assert all(gain == {"difference": 0.0, "ci95": [0.0, 0.0]} for gain in result["gains"].values())
        assert "it is a single network" in ensembled(result)


class TestQuestions:
    def test_a_budget_below_the_cheapest(self, run):
        cheapest = min(one.costs["params"] for one in results(run))
        with pytest.raises(InputError, match=rf"10 params is below the cheapest of \d+ networks, .* with {cheapest:,}"):
            ensemble([run], 10)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"cost": "mac"}, "unknown cost 'mac'; .*Did you mean 'macs'"),
            ({"methods": ["convext"]}, "unknown method 'convext'; .*Did you mean 'convex'"),
            ({"methods": []}, "expected different methods"),
            ({"methods": ["convex", "convex"]}, "expected different methods"),
            ({"members": 0}, "at least 1 member"),
        ],
    )
    def test_what_means_nothing(self, run, options, said):
        with pytest.raises(InputError, match=said):
            ensemble([run], BUDGET, **options)

    def test_no_run(self):
        with pytest.raises(InputError, match="at least one run"):
            ensemble([], BUDGET)


class TestCommand:
    def test_it_tells_what_was_chosen(self, run, genas):
        answer = genas("ensemble", "tiny", "--logs", run.folder.parent, "--budget", "20K")
        assert answer.code == 0, answer.err
        content = read_json(run.folder / "ensemble" / "ensemble.json")
        assert f"* {content['chosen']}" in answer.out
        assert all(method in answer.out for method in METHODS)
        assert "test accuracy against its best member" in answer.out
        assert "model.py agrees with the trained networks" in answer.out
        assert f"Saved in {run.folder / 'ensemble'}" in answer.out

    def test_json_is_one_object(self, run, genas, tmp_path):
        answer = genas("ensemble", run.folder, "--budget", "0.3M", "--cost", "macs", "--members", "2", "--no-robust",
                       "--methods", "uniform,convex", "--out", tmp_path / "out", "--json")  # fmt: skip
        assert answer.code == 0, answer.err
        content = json.loads(answer.out)
        assert (content["budget"], content["cost"], list(content["methods"])) == (
            300_000,
            "macs",
            ["uniform", "convex"],
        )
        assert (tmp_path / "out" / "ensemble.json").is_file()

    @pytest.mark.parametrize("budget", ["60%", "much", "0"])
    def test_a_budget_is_a_number(self, run, genas, budget):
        answer = genas("ensemble", "tiny", "--logs", run.folder.parent, "--budget", budget)
        assert (answer.code, answer.out) == (2, "")
        assert f"--budget '{budget}': expected a number above 0, such as 15M" in answer.err

    def test_a_gain_that_may_be_none_is_called_so(self, run):
        result = ensemble([run], BUDGET)
        assert len(result["methods"][result["chosen"]]["networks"]) > 1
        shown = {role: {"difference": 0.01, "ci95": [-0.002, 0.022]} for role in result["gains"]}
        assert "no difference that 120 images can show" in ensembled({**result, "gains": shown})
        shown = {role: {"difference": 0.01, "ci95": [0.002, 0.022]} for role in result["gains"]}
        assert "no difference" not in ensembled({**result, "gains": shown})
        assert "+1.00 points [+0.20, +2.20]" in ensembled({**result, "gains": shown})
