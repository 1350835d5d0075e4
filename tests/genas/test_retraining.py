import json
import subprocess
import sys
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from safetensors.torch import load_file
from scipy import stats

import genas.retraining
from genas.config import load_run
from genas.retraining import _controls, _gain, retrain, write_model
from genas.searching import search
from genas.stages import resolve
from genas.standing import status
from supernet import Architecture, InputError, OpSubset, architectures, sample_distinct
from training import load_split

SPACE = OpSubset(layers=({"channels": 8}, {"channels": 16, "stride": 2}), input_size=8, classes=10, head_channels=64)

STANDALONE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
import model

images = torch.frombuffer(bytearray(open(sys.argv[2], "rb").read()), dtype=torch.uint8).reshape(-1, 8, 8, 1)
mean, deviation = torch.tensor(model.MEAN), torch.tensor(model.DEVIATION)
network = model.load(sys.argv[1] + "/weights.safetensors")
with torch.inference_mode():
    scores = network(((images / 255 - mean) / deviation).permute(0, 3, 1, 2))
ours = {"supernet", "training", "data_gen", "predictor", "evolution", "analysis", "genas", "safetensors"}
imported = sorted(ours & set(sys.modules))
print(json.dumps({"classes": scores.argmax(1).tolist(), "names": model.CLASSES, "ours": imported}))
"""


def test_model_py_stands_alone_and_has_the_accuracy_that_was_stored(finished, tmp_path):
    _, info = resolve(finished.run)
    test = load_split(info, "test")
    (tmp_path / "images.bin").write_bytes(test.images.numpy().tobytes())
    folder = finished.run.folder / "winner"
    command = [sys.executable, "-I", "-B", "-c", STANDALONE, str(folder), str(tmp_path / "images.bin")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    result = json.loads(answer.stdout)
    assert result["ours"] == []
    assert tuple(result["names"]) == info.classes
    stored = json.loads((folder / "retrain.json").read_text())
    accuracy = float(np.mean(np.array(result["classes"]) == test.labels.numpy()))
    assert accuracy == pytest.approx(stored["model"]["test_accuracy"], abs=1e-9)
    assert stored["model"]["test_accuracy"] in stored["roles"]["winner"]["test_accuracies"]


def test_the_content(finished):
    result = finished.results["retrain"]
    assert (result["test_images"], result["training_images"], result["failed"]) == (60, 160, 0)
    assert {"winner", "random_same_macs"} <= set(result["roles"]) <= {"winner", "best_generated", "random_same_macs"}
    assert len({entry["key"] for entry in result["roles"].values()}) == len(result["roles"])
    for entry in result["roles"].values():
        assert len(entry["test_accuracies"]) == 2
        assert entry["mean"] == pytest.approx(np.mean(entry["test_accuracies"]))
        assert entry["standard_deviation"] == pytest.approx(np.std(entry["test_accuracies"], ddof=1))
    assert set(result["gains"]) == set(result["roles"]) - {"winner"}
    assert result["model"]["largest_difference"] <= 1e-4


@dataclass(frozen=True)
class FakeJob:
    architecture: Architecture


@dataclass(frozen=True)
class FakeResult:
    job: FakeJob
    accuracy: float
    costs: dict
    metrics: dict = field(default_factory=dict)


def results_of(pairs):
    return [
        FakeResult(FakeJob(architecture), accuracy, {k: int(v[0]) for k, v in SPACE.costs(architecture.row()).items()})
        for architecture, accuracy in pairs
    ]


def by_macs(count):
    """Architectures in the order of their MACs."""
    rows = sample_distinct(SPACE, count, np.random.default_rng(0))
    return architectures(SPACE, rows[np.argsort(SPACE.costs(rows)["macs"], kind="stable")])


def macs_of(architecture):
    return int(SPACE.costs(architecture.row())["macs"][0])


def test_weights_that_are_gone_are_trained_again(copy, finished):
    before = retrain(copy)
    lost, damaged, *_ = sorted((copy.folder / "checkpoints").glob("*.safetensors"))
    kept = lost.read_bytes(), damaged.read_bytes()
    lost.unlink()
    flipped = bytearray(kept[1])
    flipped[-7] ^= 1
    damaged.write_bytes(flipped)
    assert retrain(copy) == before
    assert (lost.read_bytes(), damaged.read_bytes()) == kept


def test_another_winner_puts_the_old_ones_network_aside(copy):
    key, network = search(copy)["evolution"]["best"][0]["key"], (copy.folder / "winner" / "model.py").read_text()
    found = search(copy)["evolution"]["best"][0]
    run = load_run(copy.name, [f"limits.macs={found['macs'] - 1}"], copy.folder.parent)
    search(run)
    assert sorted(file.name for file in (copy.folder / "winner").iterdir() if file.name != "lock") == [
        "architecture.json", "earlier", "search.json",
    ]  # fmt: skip
    kept = copy.folder / "winner" / "earlier" / key
    assert (kept / "model.py").read_text() == network
    assert {"weights.safetensors", "retrain.json", "architecture.json"} <= {file.name for file in kept.iterdir()}
    assert status(copy.folder)["stages"]["retrain"] == "waiting"


class TestControls:
    def test_the_best_generated_is_the_best_mean_within_the_limits(self):
        small, middle, lucky, large = by_macs(4)
        results = results_of([(small, 0.5), (middle, 0.6), (lucky, 0.9), (lucky, 0.2), (large, 0.95)])
        limits = {"macs": macs_of(lucky)}
        assert macs_of(large) > limits["macs"]
        roles = _controls(SPACE, small, results, "accuracy", limits, 0)
        assert roles["winner"] == small
        assert roles["best_generated"] == middle

    def test_the_best_is_that_by_the_metric_that_was_searched_for(self):
        small, middle, lucky, large = by_macs(4)
        accurate, robust, neither = results_of([(middle, 0.9), (lucky, 0.6), (large, 0.5)])
        accurate, robust, neither = (
            replace(one, metrics={"accuracy_clean": one.accuracy, "accuracy_fog_1": value})
            for one, value in ((accurate, 0.1), (robust, 0.4), (neither, 0.2))
        )
        results = [accurate, robust, neither]
        assert _controls(SPACE, small, results, "robust_accuracy", {}, 0)["best_generated"] == lucky
        assert _controls(SPACE, small, results, "accuracy", {}, 0)["best_generated"] == middle
        # Where it was not measured, as in runs of before, accuracy stands for it.
        old = [replace(one, metrics={}) for one in results]
        assert _controls(SPACE, small, old, "robust_accuracy", {}, 0)["best_generated"] == middle

    def test_a_control_that_is_the_winner_is_left_out(self):
        small, middle = by_macs(2)
        roles = _controls(SPACE, middle, results_of([(small, 0.5), (middle, 0.6)]), "accuracy", {}, 0)
        assert set(roles) == {"winner", "random_same_macs"}
        assert set(_controls(SPACE, small, [], "accuracy", {}, 0)) == {"winner", "random_same_macs"}

    @pytest.mark.parametrize("limits", [{}, {"macs": 150_000}, {"conv_macs": 150_000}, {"params": 5_000}])
    def test_the_random_one_has_the_winners_macs_and_keeps_the_limits(self, limits):
        winner = architectures(SPACE, sample_distinct(SPACE, 1, np.random.default_rng(1), limits))[0]
        random = _controls(SPACE, winner, [], "accuracy", limits, 0)["random_same_macs"]
        assert random != winner
        assert abs(macs_of(random) - macs_of(winner)) <= 0.02 * macs_of(winner)
        costs = SPACE.costs(random.row())
        assert all(costs[name][0] <= limit for name, limit in limits.items())
        assert _controls(SPACE, winner, [], "accuracy", limits, 0)["random_same_macs"] == random


class TestGain:
    def test_it_is_welchs_interval(self):
        winner, control = [0.62, 0.6, 0.65], [0.58, 0.55]
        gain = _gain(winner, control)
        expected = stats.ttest_ind(winner, control, equal_var=False).confidence_interval(0.95)
        assert gain["difference"] == pytest.approx(np.mean(winner) - np.mean(control))
        assert gain["ci95"] == pytest.approx([expected.low, expected.high])

    def test_too_few_trainings(self):
        assert _gain([], [0.5]) is None
        assert _gain([0.5], []) is None
        assert _gain([0.5], [0.25, 0.3]) == {"difference": pytest.approx(0.225), "ci95": None}
        assert _gain([0.5, 0.5], [0.25, 0.25]) == {"difference": 0.25, "ci95": [0.25, 0.25]}


def test_a_winner_of_another_space_is_refused(copy):
    other = load_run("tiny", ["space.head_channels=32"], copy.folder.parent)
    with pytest.raises(InputError, match="of another space"):
        retrain(other)
    assert load_run("tiny", logs=copy.folder.parent) == copy


def test_another_split_is_refused_because_it_could_test_on_what_chose_the_winner(copy):
    run = load_run(copy.name, ["data.split_seed=1"], copy.folder.parent)
    with pytest.raises(InputError, match=r"data\.split_seed: 0 -> 1"):
        retrain(run)


def test_another_recipe_is_refused_by_key_and_both_values(copy):
    before = (copy.folder / "winner" / "retrain.json").read_text()
    other = load_run("tiny", ["retrain.recipe={epochs: 3}"], copy.folder.parent)
    with pytest.raises(InputError, match=r"retrain\.recipe\.epochs: 2 -> 3"):
        retrain(other)
    assert (copy.folder / "winner" / "retrain.json").read_text() == before


def test_trainings_that_fail_are_counted_and_leave_no_mean(copy, finished, monkeypatch):
    limit = finished.results["search"]["evolution"]["best"][0]["macs"] - 1
    other = load_run("tiny", [f"limits.macs={limit}"], copy.folder.parent)
    search(other)
    monkeypatch.setattr(genas.retraining, "train_jobs", lambda *arguments: None)
    result = retrain(other)
    assert result["roles"]["winner"]["mean"] is None
    assert result["model"] is None
    assert result["gains"] == {}
    trained = sum(len(entry["test_accuracies"]) for entry in result["roles"].values())
    assert result["failed"] == 2 * len(result["roles"]) - trained >= 2


class TestWriteModel:
    def written(self, run, weights=None):
        """Writes the winner again, from its checkpoint or from other weights."""
        winner = json.loads((run.folder / "winner" / "architecture.json").read_text())
        architecture = run.settings.space.parse(winner["architecture"])
        _, info = resolve(run)
        path = run.folder / "checkpoints" / f"{architecture.key}-0.safetensors"
        return write_model(run.folder / "winner", run.settings.space, architecture, info, weights or path)

    def test_weights_are_those_of_the_training(self, copy):
        before = load_file(copy.folder / "winner" / "weights.safetensors")
        (copy.folder / "winner" / "weights.safetensors").unlink()
        assert self.written(copy) <= 1e-4
        after = load_file(copy.folder / "winner" / "weights.safetensors")
        assert all(bool((before[name] == after[name]).all()) for name in before)

    def test_a_model_that_says_something_else_is_refused(self, copy, monkeypatch):
        source = genas.retraining.network_source

        def wrong(*arguments):
            text = source(*arguments)
            assert "return classifier" in text
            return text.replace("return classifier", "return 2 * classifier")

        monkeypatch.setattr(genas.retraining, "network_source", wrong)
        with pytest.raises(InputError, match=r"model\.py: its scores differ"):
            self.written(copy)

    def test_damaged_and_missing_weights(self, copy, tmp_path):
        before = (copy.folder / "winner" / "weights.safetensors").read_bytes()
        with pytest.raises(InputError, match="gone or damaged"):
            self.written(copy, tmp_path / "missing.safetensors")
        (tmp_path / "torn.safetensors").write_bytes(before[:1000])
        with pytest.raises(InputError, match="gone or damaged"):
            self.written(copy, tmp_path / "torn.safetensors")
        assert (copy.folder / "winner" / "weights.safetensors").read_bytes() == before


def test_networks_made_by_hand_have_the_macs_of_the_winner(copy):
    run = load_run("tiny", ["retrain.handmade=[resnet, vgg]", "retrain.seeds=1"], copy.folder.parent)
    result = retrain(run)
    winner = result["roles"]["winner"]
    for family in ("resnet", "vgg"):
        entry = result["roles"][family]
        assert entry["architecture"].startswith(family)
        assert entry["macs"] == pytest.approx(winner["macs"], rel=0.1)
        assert len(entry["test_accuracies"]) == 1
        assert family in result["gains"]
