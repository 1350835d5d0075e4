"""The runner of a cluster without Ray: a program that speaks as the bridge does stands for it."""

import json
import sys
from pathlib import Path

import pytest

from data_gen import WorkerSettings, cluster
from data_gen.cluster import RayRunner
from data_gen.runner import Ended, Line, Node, Place, Placed
from supernet.settings import UnavailableError
from tests.data_gen.harness import SEEDS, Run, architectures, wait_for

FAKE = Path(__file__).with_name("fake_bridge.py")


def node(name, cpus=2, gpus=0, memory=(), alive=True, why=""):
    return {"id": f"id-{name}", "name": name, "alive": alive, "why": why, "memory": memory, "cpus": cpus, "gpus": gpus}


class Fake:
    """A cluster that does not exist, and runners on it."""

    def __init__(self, folder):
        self.folder, self.runners = folder / "cluster", []
        self.folder.mkdir()
        self.run = Run(folder, [(one, 0, "sample") for one in architectures(12)], "fake:1")

    def has(self, *nodes):
        (self.folder / "nodes.json").write_text(json.dumps(nodes))

    def runner(self, jobs=12, **settings):
        chosen = WorkerSettings(**{"runner": "ray", "address": "fake:1", **settings})
        self.runners.append(RayRunner(self.run.task, self.run.jobs[:jobs], chosen))
        return self.runners[-1]

    def said(self, key):
        """The commands of one kind that the bridges were given."""
        commands = [json.loads(line) for line in (self.folder / "said").read_text().splitlines()]
        return [command for command in commands if key in command]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    made = Fake(tmp_path)
    monkeypatch.setattr(cluster, "_BRIDGE", (sys.executable, "-I", "-S", str(FAKE), str(made.folder)))
    monkeypatch.setattr(cluster, "_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: name)  # whether it is installed or not
    yield made
    for runner in made.runners:
        runner.close()


def hear(runner, count):
    """The next events, at least so many."""
    events = []

    def heard():
        events.extend(runner.hear(0.25))
        return len(events) >= count

    wait_for(heard)
    return events


def start(runner):
    """A worker that is placed and ready; its number."""
    number = runner.start()
    placed, ready = hear(runner, 2)
    assert (placed.worker, ready) == (number, Line(number, b'{"ready": true}'))
    return number


@pytest.mark.parametrize("missing", ["ray", "grpc"])
def test_what_is_not_installed_is_told_with_the_line_that_installs_it(missing, fake, monkeypatch):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(UnavailableError, match=rf"'ray', but {missing} is not installed here: pip install 'genas\[ray"):
        fake.runner()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("auto", r"at auto \(nobody is there\); start one with `ray start --head`, or .* with --address local"),
        ("far:1", r"at far:1 \(nobody is there\)$"),
    ],
)
def test_no_cluster_is_one_clear_sentence(address, said, fake):
    with pytest.raises(UnavailableError, match=f"^no Ray cluster can be reached {said}"):
        fake.runner(address=address)


def test_a_cluster_that_says_nothing_is_not_waited_for_without_end(fake, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.1)
    monkeypatch.setattr(cluster, "_BRIDGE", (sys.executable, "-I", "-S", "-c", "import time; time.sleep(1000)"))
    with pytest.raises(UnavailableError, match=r"can be reached at fake:1 \(no answer within 0.1 s\)"):
        fake.runner()


CPUS = [node("a"), node("b", 3), node("head", 0)]
GPUS = [node("a", 8, 2, [80, 80]), node("b", 8, 1, [40]), node("c", 8), node("d", 8, 4, [8] * 4, why="old")]


@pytest.mark.parametrize(
    ("nodes", "jobs", "settings", "device", "capacity", "options"),
    [
        (CPUS, 12, {}, "cpu", 5, {"num_cpus": 1}),
        (CPUS, 12, {"most": 3}, "cpu", 3, {"num_cpus": 1}),
        (CPUS, 12, {"most": 30}, "cpu", 30, {"num_cpus": 1}),
        ([node("head", 0)], 12, {"most": 30}, "cpu", 30, {"num_cpus": 1}),  # it grows when it is asked
        ([*CPUS, node("c", why="old")], 12, {}, "cpu", 5, {"num_cpus": 1}),
        ([*CPUS, node("c", alive=False)], 12, {}, "cpu", 5, {"num_cpus": 1}),
        ([node("a", 2.5)], 12, {}, "cpu", 2, {"num_cpus": 1}),
        (GPUS, 12, {"per_gpu": 1}, "cuda", 3, {"num_cpus": 0, "num_gpus": 1.0}),
        (GPUS, 12, {"per_gpu": 3}, "cuda", 9, {"num_cpus": 0, "num_gpus": 0.3333}),
        (GPUS, 5, {"per_gpu": 3}, "cuda", 9, {"num_cpus": 0, "num_gpus": 0.5}),  # few jobs, all GPUs
        (GPUS, 2, {"per_gpu": 3}, "cuda", 9, {"num_cpus": 0, "num_gpus": 1.0}),
        (GPUS, 12, {}, "cuda", 12, {"num_cpus": 0, "num_gpus": 0.25}),
        (GPUS, 12, {"device": "cpu"}, "cpu", 24, {"num_cpus": 1}),
        ([node("a", gpus=1)], 12, {}, "cuda", 1, {"num_cpus": 0, "num_gpus": 1.0}),  # of a memory that is not known
        ([node("head", 0)], 12, {"device": "cuda", "most": 8}, "cuda", 8, {"num_cpus": 0, "num_gpus": 1.0}),
    ],
)
def test_what_nodes_hold_and_what_is_asked_for(nodes, jobs, settings, device, capacity, options, fake, monkeypatch):
    monkeypatch.setattr(cluster, "processes_that_fit", lambda task, jobs, total: {40: 4}[total])  # the least memory
    fake.has(*nodes)
    runner = fake.runner(jobs, **settings)
    assert runner.capacity() == capacity
    assert {one.device for one in runner.nodes()} == {device}
    runner.start()
    wait_for(lambda: fake.said("start"))
    (command,) = fake.said("start")
    assert command["options"] == options
    assert command["first"]["device"] == ("cuda:0" if device == "cuda" else "cpu")
    assert command["avoid"] == [one["id"] for one in nodes if one["alive"] and one["why"]]


@pytest.mark.parametrize(
    ("nodes", "settings", "said"),
    [
        (CPUS, {"device": "cuda"}, "'cuda', but .* has no GPU: a: 2 CPUs, 0 GPUs, b: 3 CPUs, .*; use 'auto' or 'cpu'"),
        ([node("a", 0)], {}, "has no node that can train: a: 0 CPUs, 0 GPUs; let nodes join, or .* workers.most"),
        ([node("a", why="old")], {}, r"has no node that can train: a: 2 CPUs, 0 GPUs \(old\)"),
        ([node("a", 8, 1, why="old")], {"device": "cuda"}, r"no GPU: a: 8 CPUs, 1 GPUs \(old\)"),
    ],
)
def test_a_cluster_that_cannot_train_is_told_before_anything_starts(nodes, settings, said, fake):
    fake.has(*nodes)
    with pytest.raises(UnavailableError, match=said):
        fake.runner(**settings)
    assert fake.said("start") == []


def test_what_the_bridge_is_told_of_the_run(fake):
    fake.has(*CPUS)
    runner = fake.runner(stall_seconds=40, checkpoint_seconds=2, dashboard=True)
    (first,) = fake.said("address")
    assert first == {
        "address": "fake:1", "dashboard": True, "cpus": None, "command": list(fake.run.task.command),
        "images": str(fake.run.folder / "data"), "splits": ["train", "validation"],
    }  # fmt: skip
    workers = [start(runner) for _ in range(3)]
    runner.send(workers[0], {"job": 1, "seed": 0, "choices": [1], "checkpoint_seconds": 2.0})
    hear(runner, 1)
    assert fake.said("send")[0]["message"]["checkpoint_seconds"] == 3.0  # of all together one a second
    assert [(one["beat"], one["silence"]) for one in fake.said("start")] == [(0.5, 30.0)] * 3
    runner.end(workers[0])
    runner.close()
    assert fake.said("end") == [{"end": workers[0]}]


def test_a_node_that_is_given_up_gets_no_more_workers(fake, caplog):
    fake.has(*CPUS)
    runner = fake.runner(most=4)
    runner.give_up("a", "its disk is full")
    assert "node a is used no more: its disk is full" in caplog.text
    assert runner.nodes() == [Node("a", "cpu", 2, why="its disk is full"), Node("b", "cpu", 3), Node("head", "cpu", 0)]
    start(runner)
    assert fake.said("start")[0]["avoid"] == ["id-a"]
    runner.give_up("a", "again, from a worker that was there still")
    with pytest.raises(UnavailableError, match=r"^node b: its disk too$"):  # a head without processors is no other
        runner.give_up("b", "its disk too")


def test_workers_that_die_before_they_are_anywhere_end_the_run(fake):
    fake.has(*CPUS)
    with pytest.raises(UnavailableError, match=r"^no folder$"):
        fake.runner().give_up("", "no folder")


def test_a_line_in_two_pieces_is_one(fake):
    fake.has(*CPUS)
    runner = fake.runner()
    number = start(runner)
    line = json.dumps({"line": number, "text": "words with ü"}) + "\n"
    runner.send(number, {"raw": line[:20]})
    assert runner.hear(10.0) == []
    runner.send(number, {"raw": line[20:] + line + line[:5]})
    assert hear(runner, 2) == [Line(number, "words with ü".encode())] * 2
    runner.send(number, {"raw": line[5:]})
    assert hear(runner, 1) == [Line(number, "words with ü".encode())]


def told(**content):
    return {"raw": json.dumps(content) + "\n"}


def test_what_happens_to_a_worker(fake):
    fake.has(*CPUS)
    runner = fake.runner()
    first = runner.start()
    assert hear(runner, 2)[0] == Placed(first, Place("b", "cpu", 1))
    second = start(runner)
    runner.send(first, told(ended=first, words="signal 9; ", lost=False, node="b"))
    assert hear(runner, 1) == [Ended(first, "signal 9; ", lost=False, node="b")]
    runner.send(second, told(ended=second, words="its node is gone", lost=True, node="a"))
    assert hear(runner, 1) == [Ended(second, "its node is gone", lost=True, node="a")]


def test_nodes_come_and_go(fake, caplog):
    fake.has(*CPUS[:1])
    runner = fake.runner()
    number = start(runner)
    for nodes, capacity in (([node("a"), node("b", 3)], 5), ([node("a", alive=False), node("b", 3)], 3)):
        runner.send(number, told(nodes=nodes))
        wait_for(lambda capacity=capacity: runner.hear(0.25) == [] and runner.capacity() == capacity)
    runner.send(number, told(nodes=[*nodes, node("c", why="another version")]))
    wait_for(lambda: runner.hear(0.25) == [] and len(runner.nodes()) == 3)
    assert runner.capacity() == 3
    assert [record.getMessage() for record in caplog.records] == [
        "node b has joined", "node a is lost; its trainings go on elsewhere", "node c cannot be used: another version",
    ]  # fmt: skip
    assert [(one.lost, one.why) for one in runner.nodes()] == [(True, ""), (False, ""), (False, "another version")]


def test_a_cluster_that_has_lost_its_last_node_is_waited_for_a_while(fake, monkeypatch):
    fake.has(*CPUS)
    runner = fake.runner()
    runner.send(start(runner), told(nodes=[node("a", alive=False), node("b", alive=False)]))
    wait_for(lambda: runner.hear(0.25) == [] and runner.capacity() == 0)
    assert runner.hear(0.0) == []
    monkeypatch.setattr(cluster, "_PATIENCE", 0.0)
    with pytest.raises(UnavailableError, match=r"has no node that can train: a: 2 CPUs, 0 GPUs \(lost\), b"):
        runner.hear(0.0)


def test_a_fault_of_the_drivers_machine_ends_the_run_after_what_was_heard_with_it(fake):
    fake.has(*CPUS)
    runner = fake.runner()
    number = start(runner)
    line = json.dumps({"line": number, "text": "a result"}) + "\n"
    runner.send(number, {"raw": line + json.dumps({"unavailable": "/weights: cannot write"}) + "\n" + line})
    assert hear(runner, 2) == [Line(number, b"a result")] * 2
    with pytest.raises(UnavailableError, match=r"^/weights: cannot write$"):
        runner.hear(0.0)


def test_a_bridge_that_dies_takes_its_workers_and_is_built_again(fake, caplog):
    fake.has(*CPUS)
    runner = fake.runner()
    first, second = start(runner), start(runner)
    runner.give_up("a", "its disk is full")
    runner.send(first, {"end": "the head is gone"})
    lost = [Ended(number, "the connection to the cluster is lost", lost=True) for number in (first, second)]
    assert hear(runner, 2) == lost
    assert runner.capacity() == 0
    assert "the cluster at fake:1 is lost (exit code 1; the head is gone); trying again" in caplog.text
    runner.send(first, {"job": 1, "checkpoint_seconds": 1})  # what is said meanwhile is lost with the worker
    runner.end(second)
    wait_for(lambda: runner.hear(0.25) == [] and runner.capacity())
    assert runner.capacity() == 3  # what was given up still is
    assert start(runner) == 3
    assert len(fake.said("address")) == 2


def test_a_cluster_that_does_not_come_back_ends_the_run(fake, monkeypatch):
    fake.has(*CPUS)
    runner = fake.runner()
    number = start(runner)
    (fake.folder / "nodes.json").unlink()
    runner.send(number, {"end": "the head is gone"})
    hear(runner, 1)
    wait_for(lambda: runner.hear(0.25) == [] and len(fake.said("address")) > 2)  # it is tried again and again
    monkeypatch.setattr(cluster, "_PATIENCE", 0.1)
    with pytest.raises(UnavailableError, match=r"no Ray cluster can be reached at fake:1 \(nobody is there\)"):
        wait_for(lambda: runner.hear(0.25))


def test_a_bridge_that_always_dies_at_once_ends_the_run(fake, monkeypatch):
    monkeypatch.setattr(cluster, "_FALLS", 3)
    fake.has(*CPUS)
    runner = fake.runner()
    runner.start()
    hear(runner, 2)
    with pytest.raises(UnavailableError, match=r"can be reached at fake:1 \(exit code 1; a fault of ours\)"):
        wait_for(lambda: runner.send(1, {"end": "a fault of ours"}) or runner.hear(0.05) is None)
    assert len(fake.said("address")) == 4


def test_jobs_of_a_bridge_that_dies_are_interrupted_and_not_failed(fake):
    """It ends whenever it is given a third job."""
    fake.has(node("a", 2))
    (fake.folder / "run").mkdir()
    run = Run(fake.folder / "run", [(one, SEEDS["killed"], "sample") for one in architectures(12)], "fake:1")
    run.drive(workers=2)
    assert set(run.check_whole()) == {"interrupted"}
    assert len(fake.said("address")) >= 6


def test_a_run_does_not_wait_for_workers_that_nobody_needs_any_more(fake):
    fake.has(node("a", 1))
    seen = []
    fake.run.drive(seen.append, workers=4)
    assert fake.run.check_whole() == {}
    assert max(progress.asked for progress in seen) == 3
    assert sorted(command["end"] for command in fake.said("end")) == [1, 2, 3, 4]


def test_a_job_that_loses_machine_after_machine_may_be_what_brings_them_down(fake, monkeypatch):
    send = RayRunner.send
    monkeypatch.setattr(RayRunner, "send", lambda runner, worker, message: send(runner, worker, {"end": "down"}))
    monkeypatch.setattr("data_gen.driver._LOSSES", 2)
    fake.has(node("a", 1))
    fake.run.drive(retries=1, jobs=fake.run.jobs[:1])
    assert fake.run.attempts() == {"interrupted": 2, "killed": 2}
