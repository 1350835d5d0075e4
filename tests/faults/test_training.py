"""Rows 8, 9, 11, 19 and 20: what happens inside a training, with the real trainer."""

import json
import logging
import math
import os
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import genas.stages
from data_gen import Task, WorkerSettings, open_store, read_store, run_jobs, run_lock
from genas.config import load_run
from genas.fitting import fit
from genas.generating import generate
from genas.retraining import retrain
from genas.searching import search
from supernet import OpSubset
from supernet.files import read_json, write_json
from supernet.network import build_network
from supernet.op_subset import LayerSettings
from tests.data_gen.harness import SEEDS, Run
from tests.data_gen.harness import architectures as small
from training import Checkpoints, DataSettings, DivergedError, Recipe, StoppedError, load_split, prepare, train

ODD = Path(__file__).with_name("odd_worker.py")
SPACE = OpSubset(
    layers=(LayerSettings(channels=8), LayerSettings(channels=16, stride=2)), stem_channels=8, head_channels=32,
    input_size=8, input_channels=1, classes=10,
)  # fmt: skip
RECIPE = Recipe(epochs=4, batch_size=32, crop_padding=1, flip=False, learning_rate=0.05, validate_every=2)
ARCHITECTURE = SPACE.parse("110000 010010")


@pytest.fixture(scope="module")
def digits(cache):
    return prepare(DataSettings(train_images=200, validation_images=64, test_images=40), 8)


def drive(folder, digits, jobs, command, recipe=RECIPE, **options):
    """Real workers on (architecture, seed) pairs; the run's attempts by outcome."""
    settings = WorkerSettings(device="cpu", cpu_workers=1, **options)
    task = Task(SPACE, digits, recipe, weights=folder / "weights", checkpoints=folder / "checkpoints", command=command)
    with run_lock(folder), closing(open_store(folder / "store.db")) as store:
        store.close_open_attempts()
        planned = [(one, seed, "sample") for one, seed in jobs]
        costs = {one.key: {name: int(value[0]) for name, value in SPACE.costs(one.row()).items()} for one, _ in jobs}
        run_jobs(store, store.add_jobs("generate", planned, costs), task, settings)
        return store.attempts("generate")


def odd(*what, notes):
    return (sys.executable, "-P", str(ODD), what[0], str(notes), *what[1:])


@pytest.fixture(autouse=True)
def _path_of_the_worker(monkeypatch):
    """The odd worker lies among the tests: it finds the packages where these run."""
    root = str(Path(__file__).parent.parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))))


# --- row 8 ---------------------------------------------------------------------------------------------------


def test_memory_that_is_really_short(digits, tmp_path, figure):
    """RLIMIT_AS: torch's allocator fails in one training; it fails with half batches too; the next trains."""
    recipe = Recipe(epochs=1, batch_size=200, crop_padding=0, flip=False, learning_rate=0.01)
    large = OpSubset(**{**SPACE.model_dump(), "head_channels": 16_384})
    settings = WorkerSettings(device="cpu", cpu_workers=1)
    one, other = large.parse("110000 010010"), large.parse("100000 010000")
    task = Task(large, digits, recipe, command=odd("short", notes=tmp_path))
    with closing(open_store(tmp_path / "store.db")) as store:
        costs = {a.key: {name: int(value[0]) for name, value in large.costs(a.row()).items()} for a in (one, other)}
        jobs = store.add_jobs("generate", [(one, 102, "sample"), (other, 0, "sample")], costs)
        run_jobs(store, jobs, task, settings)
        assert store.attempts("generate") == {"done": 1, "oom": 2}
        (failure,) = store.failures("generate", 2)
    assert failure.kind == "oom"
    assert failure.message.startswith("batches of 200 images in 2 pieces of 100, ")
    assert f"{costs[one.key]['params']:,} parameters: " in failure.message
    assert "emory" in failure.message
    figure(8, f"RLIMIT_AS: failed(oom) after 2 tries, '{failure.message[:90]}...'; the next trained")


def test_a_network_that_is_too_large_is_tried_once_more_in_pieces(tmp_path, figure):
    run = Run(tmp_path, [(one, SEEDS["large"] if number == 1 else 0, "sample") for number, one in enumerate(small(4))])
    run.drive()
    assert run.check_whole() == {"oom": 1}
    other = tmp_path / "other"
    other.mkdir()
    run = Run(other, [(one, SEEDS["oom"] if number == 1 else 0, "sample") for number, one in enumerate(small(4))])
    run.drive()
    assert run.attempts() == {"done": 3, "oom": 2}
    run.drive()  # given up for good
    assert run.attempts() == {"done": 3, "oom": 2}
    figure(8, "injected: batch halved once and trained; where that fails too, given up after 2 tries")


def test_pieces_are_the_same_recipe_but_for_batch_norms(digits):
    """Without norms, gradients that are added over pieces are those of the batch."""

    def trained(pieces):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).double()
        splits = load_split(digits, "train"), load_split(digits, "validation")
        result = train(_Double(network), *splits, digits.normalisation, RECIPE, 0, "a", pieces=pieces)
        return network, result

    (whole, one), (pieces, two) = trained(1), trained(2)
    assert (one.pieces, two.pieces) == (1, 2)
    assert two.curves.train_loss == pytest.approx(one.curves.train_loss, rel=1e-5)
    for first, second in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-7)


class _Double(nn.Module):
    """Arithmetic in which sums of gradients agree."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images.double())


# --- row 9 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [1, 7, 19, 20, 21, 46])
def test_a_loss_that_is_not_finite_stops_within_one_logging_interval(at, value, digits, tmp_path):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(64, 10), 0

        def forward(self, images):
            if self.training:
                self.calls += 1
            return self.linear(images.flatten(1)) + (value if self.calls >= at else 0.0)

    steps = []
    splits = load_split(digits, "train"), load_split(digits, "validation")
    recipe = RECIPE.model_copy(update={"batch_size": 4})
    checkpoints = Checkpoints(tmp_path, "a", {}, every=0)
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf)"):
        train(Broken(), *splits, digits.normalisation, recipe, 0, "a", lambda step, total: steps.append(step),
              checkpoints=checkpoints)  # fmt: skip
    assert at <= steps[-1] + 1 <= at + 20
    saved = checkpoints.newest()
    assert saved is None or all(tensor.isfinite().all() for tensor in saved.tensors.values())


def test_a_training_that_diverges_is_a_row_and_no_number(digits, tmp_path, figure):
    wild = RECIPE.model_copy(update={"epochs": 30, "learning_rate": 100.0, "momentum": 0.99, "weight_decay": 0.9})
    command = (sys.executable, "-P", "-m", "data_gen.worker")
    assert drive(tmp_path, digits, [(ARCHITECTURE, 0)], command, wild) == {"diverged": 1}
    with closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        assert connection.execute("SELECT COUNT(*) FROM results").fetchone() == (0,)
    assert not list((tmp_path / "checkpoints").glob("*"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"accuracy": math.nan})
    figure(9, "NaN and infinity injected at 6 steps: stopped within 20 steps, failed(diverged), none stored")


# --- rows 11 and 19 ------------------------------------------------------------------------------------------


def network():
    return build_network(SPACE.graph(ARCHITECTURE), 0)


def trained(digits, checkpoints=None, stop=lambda: False, recipe=RECIPE, **options):
    model = network()
    splits = load_split(digits, "train"), load_split(digits, "validation")
    return model, train(
        model, *splits, digits.normalisation, recipe, 0, "a", checkpoints=checkpoints, stop=stop, **options
    )


def after(count):
    """A ``stop`` that answers yes at the so many-th question."""
    asked = iter(range(1, 10**6))
    return lambda: next(asked) == count


IDENTITY = {"choices": [1, 0], "seed": 0}


def same_weights(one, other):
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize(("watch", "schedule"), [(True, "one_cycle"), (False, "step")])
def test_stopped_anywhere_and_resumed_is_bit_for_bit_uninterrupted(watch, schedule, digits, tmp_path, figure):
    """4 epochs of 6 steps, validation in between: stopped at every step and at batches that are being measured."""
    recipe = RECIPE.model_copy(update={"schedule": schedule, "step_epochs": 2})
    whole, expected = trained(digits, watch=watch, recipe=recipe)
    torch.manual_seed(123)  # what else happened in the process decides nothing
    places = 0
    for place in range(1, 40):
        folder = tmp_path / str(place)
        try:
            trained(digits, Checkpoints(folder, "a", IDENTITY, every=1e9), after(place), recipe, watch=watch)
        except StoppedError:
            places += 1
        else:
            break
        resumed, result = trained(digits, Checkpoints(folder, "a", IDENTITY, every=1e9), watch=watch, recipe=recipe)
        assert same_weights(resumed, whole)
        assert (result.accuracy, result.loss, result.curves) == (expected.accuracy, expected.loss, expected.curves)
    assert places >= 24
    figure(19, f"stopped at each of {places} places of 4 epochs: weights, label and curves equal bit for bit")


def test_killed_many_times_is_bit_for_bit_uninterrupted(digits, tmp_path):
    """Stopped every third step, so that nothing but checkpoints leads to the end."""
    whole, expected = trained(digits)
    lives = 0
    while True:
        try:
            resumed, result = trained(digits, Checkpoints(tmp_path, "a", IDENTITY, every=1e9), after(3))
            break
        except StoppedError:
            lives += 1
    assert lives >= 8
    assert same_weights(resumed, whole)
    assert (result.accuracy, result.curves) == (expected.accuracy, expected.curves)


LONG = RECIPE.model_copy(update={"epochs": 40, "validate_every": 40})


def outcome(folder):
    """Weights, label and curves of the only training of a run."""
    with closing(read_store(folder / "store.db")) as store:
        (result,) = store.results("generate")
    return load_file(folder / "weights" / f"{ARCHITECTURE.key}-0.safetensors"), (
        result.accuracy,
        result.loss,
        result.curves,
    )


@pytest.fixture(scope="module")
def uninterrupted(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    plain = (sys.executable, "-P", "-m", "data_gen.worker")
    assert drive(folder, digits, [(ARCHITECTURE, 0)], plain, LONG, checkpoint_seconds=1e6) == {"done": 1}
    return outcome(folder)


@pytest.mark.parametrize("when", ["kill", "killed"])
@pytest.mark.parametrize("number", ["3", "4"])
def test_a_worker_killed_at_the_rename_of_a_checkpoint(when, number, digits, uninterrupted, tmp_path, figure):
    """kill -9 of the real worker around the naming of a checkpoint's weights (3rd file) and its JSON (4th)."""
    notes = tmp_path / "notes"
    notes.mkdir()
    command = odd(when, number, notes=notes)
    assert drive(tmp_path, digits, [(ARCHITECTURE, 0)], command, LONG, checkpoint_seconds=0) == {"done": 1, "killed": 1}
    assert (notes / "killed").exists()
    assert not list((tmp_path / "checkpoints").glob("*"))  # the result is there, nothing of the way is left
    weights, label = outcome(tmp_path)
    assert all(torch.equal(weights[key], uninterrupted[0][key]) for key in weights)
    assert label == uninterrupted[1]
    place = f"{'after' if when == 'killed' else 'before'} the rename of its {'weights' if number == '3' else 'JSON'}"
    figure(2, f"worker killed {place}: resumed, weights and label equal bit for bit")


def corruptions(folder):
    """Name: what is done to the newest checkpoint."""
    newest = max(folder.glob("*.json"))
    weights = newest.with_suffix(".safetensors")
    content = read_json(newest)
    flipped = bytearray(weights.read_bytes())
    flipped[len(flipped) // 2] ^= 1

    def version():
        write_json(newest, {**content, "identity": {**content["identity"], "format": 99}})

    def other():
        write_json(newest, {**content, "identity": {**content["identity"], "choices": [0, 1]}})

    return {
        "truncated": lambda: weights.write_bytes(weights.read_bytes()[:-100]),
        "flipped": lambda: weights.write_bytes(flipped),
        "empty": lambda: weights.write_bytes(b""),
        "absent": weights.unlink,
        "JSON truncated": lambda: newest.write_bytes(newest.read_bytes()[:-10]),
        "JSON absent": newest.unlink,
        "another architecture": other,
        "another version": version,
    }


@pytest.mark.parametrize("all_of_them", [False, True], ids=["newest", "both"])
@pytest.mark.parametrize("kind", [
    "truncated", "flipped", "empty", "absent", "JSON truncated", "JSON absent", "another architecture",
    "another version",
])  # fmt: skip
def test_a_corrupt_checkpoint(kind, all_of_them, digits, tmp_path, figure, caplog):
    whole, expected = trained(digits)
    with pytest.raises(StoppedError):
        trained(digits, Checkpoints(tmp_path, "a", IDENTITY, every=0), after(15))
    steps = sorted(int(path.name.split(".")[1]) for path in tmp_path.glob("*.json"))
    assert len(steps) == 2  # two are kept
    corruptions(tmp_path)[kind]()
    if all_of_them:
        first = min(tmp_path.glob("*.json"))
        first.write_bytes(first.read_bytes()[:50])
    seen = []
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        resumed, result = trained(
            digits, Checkpoints(tmp_path, "a", IDENTITY, every=1e9), progress=lambda step, total: seen.append(step)
        )
    assert len(caplog.records) == 1
    assert ("begins again" in caplog.text) == all_of_them
    assert seen[0] == (1 if all_of_them else steps[0] + 1)
    assert same_weights(resumed, whole)
    assert (result.accuracy, result.curves) == (expected.accuracy, expected.curves)
    if kind == "truncated":
        word = "from scratch" if all_of_them else "from the one before"
        figure(
            11,
            f"8 kinds of damage, both={all_of_them}: {word}, 1 warning, result equal bit for bit",
        )


def test_a_checkpoint_that_does_not_fit_is_not_half_loaded(digits, tmp_path):
    """Whole and of this name, but of other code: an error and no training on top of it; the next begins anew."""
    checkpoints = Checkpoints(tmp_path, "a", IDENTITY, every=1e9)
    checkpoints.save(5, {"network.no.such": torch.zeros(2)}, {"epoch": 0})
    with pytest.raises((RuntimeError, KeyError)):
        trained(digits, checkpoints)
    assert not list(tmp_path.iterdir())
    whole, _ = trained(digits)
    assert same_weights(trained(digits, checkpoints)[0], whole)


def test_saving_takes_a_hundredth_of_the_time_at_most(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("training.checkpoint.time.monotonic", lambda: now[0])
    checkpoints = Checkpoints(tmp_path, "a", IDENTITY, every=10)
    assert not checkpoints.due()
    now[0] = 10.0
    assert checkpoints.due()
    write = checkpoints.folder.__class__.replace

    def slow(path, target):
        now[0] += 1.0  # two files: saving takes 2 s
        return write(path, target)

    monkeypatch.setattr(Path, "replace", slow)
    checkpoints.save(1, {"x": torch.zeros(1)}, {})
    now[0] += 199
    assert not checkpoints.due()
    now[0] += 2
    assert checkpoints.due()


# --- row 20 --------------------------------------------------------------------------------------------------


NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


def test_no_stage_before_retrain_reads_the_test_split_and_none_uses_the_network(recipe, tmp_path, monkeypatch, figure):
    """Every file that the driver and its workers open, seen by the interpreter's audit hook."""
    notes = tmp_path / "notes"
    notes.mkdir()
    run = load_run(recipe, ["data.split_seed=23"], tmp_path / "logs")
    prepare(run.settings.data, 8)  # decoding writes all splits
    serve = genas.stages.run_jobs
    monkeypatch.setattr(
        genas.stages, "run_jobs",
        lambda store, jobs, task, *rest: serve(store, jobs, replace(task, command=odd("watch", notes=notes)), *rest),
    )  # fmt: skip
    opened = []
    watching = [True]

    def hook(event, arguments):
        if watching[0] and event == "open" and isinstance(arguments[0], str):
            opened.append(arguments[0])
        if watching[0] and event in NETWORK:
            opened.append(f"network: {event}")

    sys.addaudithook(hook)
    try:
        generate(run)
        fit(run)
        search(run)
        files = opened + [line for path in notes.iterdir() for line in path.read_text().splitlines()]
        reads = {split: sum(f"{split}_images" in file or f"{split}_labels" in file for file in files)
                 for split in ("train", "validation", "test")}  # fmt: skip
        assert reads["test"] == 0
        assert reads["train"] > 0
        assert reads["validation"] > 0
        retrain(run)
        files = opened + [line for path in notes.iterdir() for line in path.read_text().splitlines()]
        assert any("test_images" in file for file in files)
        assert not [file for file in files if file.startswith("network: ")]
    finally:
        watching[0] = False
    counts = f"train {reads['train']}, validation {reads['validation']}, test {reads['test']}"
    figure(20, f"files opened in generate, fit and search: {counts}")


def test_json_of_results_holds_no_nan(finished):
    for path in finished.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)
    with closing(read_store(finished / "store.db")) as store:
        assert all(np.isfinite(result.accuracy) for result in store.results("generate"))
