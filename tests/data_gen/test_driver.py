import json
import os
import socket
from collections import deque
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_gen import WorkerSettings, device_names, run_lock
from data_gen.driver import _gpu, next_job
from data_gen.local import LocalRunner
from data_gen.nodes import GpuUse
from data_gen.runner import Placed
from data_gen.store import Job
from supernet import Architecture, InputError
from supernet.settings import UnavailableError
from tests.data_gen.harness import DEADLINE, SEEDS, SPACE, alive, wait_for

# Children of these tests are forked, so that each life of a driver costs milliseconds.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def test_a_worker_learns_everything_from_its_first_line(make_run):
    run = make_run(4)
    run.drive(workers=1)
    (path,) = run.notes.glob("worker-*.json")
    assert json.loads(path.read_text()) == {
        "device": "cpu",
        "threads": 1,
        "data": str(run.folder / "data"),
        "memory_megabytes": 512,
        "space": SPACE.model_dump(mode="json"),
        "measure": "validation",
        "processes": 1,
        "robustness": None,
    }


def test_two_drivers_on_one_folder(make_run):
    run = make_run(2, SEEDS["hang"])
    first = run.life()
    wait_for(lambda: len(run.pids(running=True)) == 2)
    owner = f"in use by process {first.pid} on {socket.gethostname()}; wait for it or stop it"
    for _ in range(3):
        with pytest.raises(InputError, match=owner):
            run.drive()
    assert run.attempts() == {"running": 2}
    first.kill()
    first.join()
    with run_lock(run.folder):  # free at once
        assert (run.folder / "lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    wait_for(lambda: not any(alive(pid) for pid in run.pids()))


def test_exactly_one_of_many_drivers_runs(make_run):
    run = make_run(8)
    lives = [run.life() for _ in range(4)]
    for process in lives:
        process.join(DEADLINE)
    assert 0 in {process.exitcode for process in lives}
    assert run.check_whole() == {}


def test_a_lock_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot write"), run_lock(tmp_path / "file"):
        pytest.fail("held")


def test_devices(monkeypatch):
    assert device_names(WorkerSettings(device="cpu", cpu_workers=3)) == ["cpu"] * 3
    assert device_names(WorkerSettings(device="cpu")) == ["cpu"] * len(os.sched_getaffinity(0))
    monkeypatch.setattr("data_gen.local.gpu_names", list)
    assert device_names(WorkerSettings(cpu_workers=1)) == ["cpu"]
    with pytest.raises(UnavailableError, match="'cuda', but torch sees no GPU"):
        device_names(WorkerSettings(device="cuda"))
    monkeypatch.setattr("data_gen.local.gpu_names", lambda: ["one", "other"])
    monkeypatch.setattr("data_gen.local.total_memory", {"cuda:0": 80, "cuda:1": 24}.get)
    assert device_names(WorkerSettings(per_gpu=2)) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert device_names(WorkerSettings(), lambda total: {24: 3}[total]) == ["cuda:0", "cuda:1"] * 3
    assert device_names(WorkerSettings(per_gpu=1), lambda total: 3) == ["cuda:0", "cuda:1"]
    assert device_names(WorkerSettings(device="cpu", cpu_workers=1)) == ["cpu"]


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 6))
def test_only_the_last_jobs_come_longest_first(sizes, workers):
    jobs = [Job(number, "generate", Architecture("a", (number % 36, number // 36)), 0) for number in range(len(sizes))]
    by_key = {job.architecture.key: float(size) for job, size in zip(jobs, sizes, strict=True)}
    waiting = deque(jobs)
    ordered = [next_job(waiting, workers, by_key) for _ in jobs]
    tail = min(len(jobs), 4 * workers)
    assert ordered[: len(jobs) - tail] == jobs[: len(jobs) - tail]
    last = [by_key[job.architecture.key] for job in ordered[len(jobs) - tail :]]
    assert last == sorted(last, reverse=True)
    assert sorted(job.id for job in ordered) == list(range(len(jobs)))
    assert not waiting


def test_few_jobs_spread_over_all_gpus(make_run, monkeypatch):
    run = make_run(2)
    monkeypatch.setattr("data_gen.local.gpu_names", lambda: ["one", "other"])
    with closing(LocalRunner(run.task, run.jobs, WorkerSettings(per_gpu=2))) as runner:
        assert runner.capacity() == 4
        workers = [runner.start() for _ in range(4)]
        placed = [event.place.device for event in runner.hear(0) if isinstance(event, Placed)]
        assert placed == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
        runner.end(workers[1])
        runner.start()
        assert [event.place.device for event in runner.hear(0) if isinstance(event, Placed)] == ["cuda:1"]


@pytest.mark.parametrize(
    "told", [None, 3, "busy", {}, {"id": "a", "use": 2, "memory": 0.5}, {"id": "a", "use": float("nan"), "memory": 0.5}]
)
def test_what_a_worker_says_of_its_gpu_is_checked(told):
    assert _gpu({"id": "a", "use": 0.5, "memory": 0.25}) == ("a", GpuUse(0.5, 0.25))
    assert _gpu(told) is None
