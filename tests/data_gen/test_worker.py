import io
import json
import multiprocessing
import sqlite3
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_gen import Task, WorkerSettings, label_table, measured, open_store, run_jobs, worker
from supernet import Architecture, OpSubset
from supernet.graph import named_graph_to_json
from supernet.network import build_network
from supernet.op_subset import LayerSettings
from tests.data_gen.test_driver import alive, wait_for
from training import DataSettings, Recipe, load_split, prepare, train
from training.corrupted import CorruptedSplit, measure_robustness
from training.robustness import RobustnessSettings

SPACE = OpSubset(
    layers=(LayerSettings(channels=8), LayerSettings(channels=12, stride=2)),
    operations=("skip", "sep_conv_3", "dil_conv_3"),
    stem_channels=8,
    head_channels=32,
    input_size=8,
    input_channels=1,
    classes=10,
)
RECIPE = Recipe(epochs=1, batch_size=32, crop_padding=1, flip=False)
ARCHITECTURES = (Architecture("op_subset", (1, 0, 1, 0, 1, 0)), Architecture("op_subset", (0, 1, 0, 1, 0, 1)))
NOISY = (sys.executable, "-P", str(Path(__file__).with_name("noisy_worker.py")))


@pytest.fixture
def digits(cache):
    return prepare(DataSettings(train_images=200, validation_images=60, test_images=40), 8)


@pytest.fixture
def untested(digits, tmp_path):
    """The same digits in a folder without the test split: who reads it fails."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in digits.folder.iterdir():
        if not path.name.startswith("test"):
            (folder / path.name).write_bytes(path.read_bytes())
    return replace(digits, folder=folder)


def planned(store, recipe=RECIPE, seed=0):
    costs = {one.key: {n: int(v[0]) for n, v in SPACE.costs(one.row()).items()} for one in ARCHITECTURES}
    return store.add_jobs("generate", [(one, seed, "sample") for one in ARCHITECTURES], costs)


def test_the_real_worker_from_end_to_end(untested, tmp_path):
    """Labels are those of a training here, noise is no answer, and the test split stays shut."""
    task = Task(SPACE, untested, RECIPE, weights=tmp_path / "weights", command=NOISY)
    with closing(open_store(tmp_path / "store.db")) as store:
        jobs = planned(store)
        run_jobs(store, jobs, task, WorkerSettings(device="cpu", cpu_workers=1))
        results = store.results("generate")
        assert store.attempts("generate") == {"done": 2}, store.failures("generate", 2)
    assert [result.job for result in results] == jobs
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for result in results:
        key = result.job.architecture.key
        network = build_network(SPACE.graph(result.job.architecture), 0)
        splits = load_split(untested, "train"), load_split(untested, "validation")
        expected = train(network, *splits, untested.normalisation, RECIPE, 0, key)
        assert (result.accuracy, result.loss) == (expected.accuracy, expected.loss)
        assert result.curves["train_loss"] == expected.curves.train_loss
        assert result.epochs == 1
        assert result.peak_memory > 2**20
        weights = load_file(tmp_path / "weights" / f"{key}-0.safetensors")
        assert weights.keys() == network.state_dict().keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())
    torch.set_num_threads(threads)
    assert len(list((tmp_path / "weights").iterdir())) == 4


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_real_worker_ends_with_its_driver_whatever_it_is_doing(untested, tmp_path):
    path = tmp_path / "store.db"
    task = Task(SPACE, untested, RECIPE, command=(*NOISY, "hang"))

    with closing(open_store(path)) as store:
        jobs = planned(store)[:1]

    def drive():
        with closing(open_store(path)) as store:
            run_jobs(store, jobs, task, WorkerSettings(device="cpu", cpu_workers=1))

    def worker_pid():
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute("SELECT pid FROM attempts").fetchone()

    driver = multiprocessing.get_context("fork").Process(target=drive)
    driver.start()
    try:
        (pid,) = wait_for(worker_pid)
        assert alive(pid)
    finally:
        driver.kill()
        driver.join()
    wait_for(lambda: not alive(pid))


class Ended(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def context(untested, monkeypatch):
    """A worker's context in this process, and what it answers."""

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(worker.os, "_exit", end)
    answers = io.StringIO()
    return worker._Context(first_line(untested), answers, threading.Event()), answers


def first_line(info, measure="validation"):
    return {
        "device": "cpu",
        "threads": 1,
        "data": str(info.folder),
        "memory_megabytes": 0,
        "space": SPACE.model_dump(mode="json"),
        "measure": measure,
        "processes": 1,
    }


def job(**changes):
    one = ARCHITECTURES[0]
    return {
        "job": 7, "key": one.key, "choices": list(one.choices), "graph": named_graph_to_json(SPACE.graph(one)),
        "seed": 0, "recipe": RECIPE.model_dump(mode="json"), "pieces": 1,
        "weights": None, "checkpoints": None, "checkpoint_seconds": 60, **changes,
    }  # fmt: skip


def answered(answers):
    """What was answered, but for signs of life, of which a busy machine sees more."""
    return [answer for answer in map(json.loads, answers.getvalue().splitlines()) if "batches" not in answer]


def test_a_validation_worker_opens_no_test_split(context):
    serving, answers = context  # made from a folder without one
    serving.run(job())
    (answer,) = answered(answers)
    assert answer["job"] == 7
    assert 0 <= answer["result"]["accuracy"] <= 1


def test_a_test_worker_learns_from_validation_too_and_needs_the_test_split(digits, untested):
    serving = worker._Context(first_line(digits, "test"), io.StringIO(), threading.Event())
    assert len(serving.training) == digits.sizes["train"] + digits.sizes["validation"]
    assert torch.equal(serving.measured.images, load_split(digits, "test").images)
    with pytest.raises(FileNotFoundError, match="test_images"):
        worker._Context(first_line(untested, "test"), io.StringIO(), threading.Event())


def test_the_test_split_is_measured_once(digits, monkeypatch):
    import training.loop

    calls = []
    measure = training.loop._measure
    monkeypatch.setattr(training.loop, "_measure", lambda *arguments: calls.append(1) or measure(*arguments))
    answers = io.StringIO()
    serving = worker._Context(first_line(digits, "test"), answers, threading.Event())
    serving.run(job(recipe=RECIPE.model_copy(update={"epochs": 3}).model_dump(mode="json")))
    (answer,) = answered(answers)
    assert calls == [1]
    assert answer["result"]["curves"]["validation_epochs"] == []


ROBUSTNESS = RobustnessSettings(corruptions=("gaussian_noise", "fog"), severities=(1, 5), images=20)
CELLS = ["accuracy_gaussian_noise_1", "accuracy_gaussian_noise_5", "accuracy_fog_1", "accuracy_fog_5"]


class TestRobustness:
    def serve(self, info, stop=None, measure="validation"):
        answers = io.StringIO()
        first = {**first_line(info, measure), "robustness": ROBUSTNESS.model_dump(mode="json")}
        return worker._Context(first, answers, stop or threading.Event()), answers

    def test_it_is_measured_on_the_network_that_was_trained(self, digits):
        serving, answers = self.serve(digits)
        serving.run(job())
        result = answered(answers)[0]["result"]
        network = build_network(SPACE.graph(ARCHITECTURES[0]), 0)
        splits = load_split(digits, "train"), load_split(digits, "validation")
        train(network, *splits, digits.normalisation, RECIPE, 0, ARCHITECTURES[0].key)
        expected = measure_robustness(network, CorruptedSplit(splits[1], ROBUSTNESS), digits.normalisation, RECIPE)
        assert result["metrics"] == expected
        assert list(expected) == ["accuracy_clean", *CELLS]

    def test_a_test_worker_measures_it_on_the_test_split(self, digits):
        serving, _ = self.serve(digits, measure="test")
        assert torch.equal(serving.corrupted.clean.labels, load_split(digits, "test").labels[::2])

    def test_without_it_nothing_is_measured(self, context):
        serving, answers = context
        serving.run(job())
        assert "metrics" not in answered(answers)[0]["result"]

    def test_a_stop_while_it_is_measured_is_a_stop(self, digits, monkeypatch):
        def end(code):
            raise Ended(code)

        def train_and_stop(*arguments, **options):
            result = train(*arguments, **options)
            stop.set()
            return result

        monkeypatch.setattr(worker.os, "_exit", end)
        monkeypatch.setattr("training.train", train_and_stop)
        stop = threading.Event()
        serving, answers = self.serve(digits, stop)
        with pytest.raises(Ended):
            serving.run(job())
        assert answered(answers) == [{"job": 7, "stopped": True}]

    def test_a_driver_keeps_what_was_measured(self, digits, tmp_path):
        task = Task(SPACE, digits, RECIPE, robustness=ROBUSTNESS)
        with closing(open_store(tmp_path / "store.db")) as store:
            run_jobs(store, planned(store)[:1], task, WorkerSettings(device="cpu", cpu_workers=1))
            (result,) = store.results("generate")
            (row,) = label_table(store, SPACE).rows
        assert list(result.metrics) == ["accuracy_clean", *CELLS]
        assert row.metrics["robust_accuracy"] == pytest.approx(sum(result.metrics[name] for name in CELLS) / 4)
        assert row.metrics["accuracy_fog"] == pytest.approx(sum(result.metrics[name] for name in CELLS[2:]) / 2)
        assert measured(result, "robust_accuracy") == row.metrics["robust_accuracy"]
        assert measured(result, "accuracy") == result.accuracy
        assert measured(result, "accuracy_snow") is None


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (MemoryError(), "oom", "MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory"), "oom", "CUDA out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "oom",
            "DefaultCPUAllocator: can't allocate memory",
        ),
        (RuntimeError("size mismatch"), "crash", "RuntimeError: size mismatch"),
        (ValueError("what"), "crash", "ValueError: what"),
    ],
)
def test_an_exception_is_an_answer_and_the_end_of_the_process(error, kind, said, context, monkeypatch, capsys):
    def failing(*arguments, **options):
        raise error

    monkeypatch.setattr("training.train", failing)
    serving, answers = context
    with pytest.raises(Ended):
        serving.run(job())
    (answer,) = answered(answers)
    assert (answer["job"], answer["failure"]) == (7, kind)
    if kind == "oom":  # with its size
        size, _, reason = answer["message"].partition(" parameters: ")
        assert size.startswith("batches of ")
        assert " images in 1 pieces of " in size
        assert " activations an image, " in size
        assert reason == said
    else:
        assert answer["message"].startswith(said)
    assert ("Traceback" in capsys.readouterr().err) == (kind == "crash")


def test_a_training_that_diverges_and_a_foreign_architecture_are_answers(context):
    serving, answers = context
    wild = RECIPE.model_copy(update={"epochs": 30, "learning_rate": 100.0, "momentum": 0.99, "weight_decay": 0.9})
    with pytest.raises(Ended):
        serving.run(job(recipe=wild.model_dump(mode="json")))
    graph = job()["graph"]
    foreign = {**graph, "nodes": [{**node, "op": f"my_{node['op']}"} for node in graph["nodes"]]}
    with pytest.raises(Ended):
        serving.run(job(graph=foreign))
    diverged, crash = (answer for answer in answered(answers) if "failure" in answer)
    assert diverged["failure"] == "diverged"
    assert "the loss is" in diverged["message"]
    assert crash["failure"] == "crash"
    assert "expected one input and one output" in crash["message"]
