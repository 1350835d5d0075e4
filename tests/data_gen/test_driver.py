import json
import os
import signal
import socket
from collections import deque
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_gen import WorkerSettings, device_names, read_store, run_lock
from data_gen.driver import next_job
from data_gen.store import Job
from supernet import Architecture, InputError
from supernet.settings import UnavailableError
from tests.data_gen.fake_worker import label
from tests.data_gen.harness import DEADLINE, SEEDS, SPACE, Run, alive, architectures, wait_for

# Children of these tests are forked, so that each life of a driver costs milliseconds.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def test_every_job_is_trained_once(make_run):
    run = make_run()
    seen = []
    run.drive(seen.append)
    assert run.check_whole() == {}
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert (seen[0].done, seen[-1].done, seen[-1].failed, seen[-1].total) == (0, 12, 0, 12)
    assert seen[-1].running == ()
    assert seen[-1].best == max(label(one.choices, 0) for one, _, _ in run.plan)
    assert any(0 < share <= 1 for progress in seen for share in progress.running)
    assert len(run.pids()) == 2
    assert not any(alive(pid) for pid in run.pids())


def test_a_second_time_nothing_is_started(make_run):
    run = make_run()
    run.drive()
    before = run.committed()
    seen = []
    run.task = replace(run.task, command=("/no/such/program",))
    run.drive(seen.append)
    assert run.committed() == before
    assert [(progress.done, progress.total) for progress in seen] == [(12, 12)]
    assert seen[0].best == max(accuracy for accuracy, _ in before.values())


def test_more_jobs_add_to_the_same_run(make_run):
    run = make_run(6)
    run.drive()
    before = run.committed()
    run.plan = [(one, 0, "sample") for one in architectures(10)]
    run.costs |= {one.key: {n: int(v[0]) for n, v in SPACE.costs(one.row()).items()} for one, _, _ in run.plan}
    with run.store() as store:
        run.jobs = store.add_jobs("generate", run.plan, run.costs)
    run.drive()
    assert run.check_whole() == {}
    assert before.items() <= run.committed().items()


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


@pytest.mark.parametrize(
    ("behaviour", "outcome", "tries", "said"),
    [
        ("crash", "crash", 3, "crash, as asked"),
        ("killed", "killed", 3, "the worker ended with signal 9; "),
        ("exit", "killed", 3, "the worker ended with exit code 7; these are my last words"),
        ("torn", "killed", 3, "the worker ended with exit code 0; "),
        ("garbage", "crash", 3, "the worker wrote what is no answer: b'hello'"),
        ("number", "crash", 3, "the worker wrote what is no answer: b'3'"),
        ("oom", "oom", 2, "oom, as asked"),
        ("diverged", "diverged", 1, "diverged, as asked"),
    ],
)
def test_a_failure_is_a_row_and_never_the_end(behaviour, outcome, tries, said, tmp_path):
    good = architectures(5)
    plan = [(one, SEEDS[behaviour] if position == 1 else 0, "sample") for position, one in enumerate(good)]
    run = Run(tmp_path, plan)
    seen = []
    run.drive(seen.append)
    assert run.attempts() == {"done": 4, outcome: tries}
    with closing(read_store(run.path)) as store:
        (failure,) = store.failures("generate", retries=2)
    assert (failure.job, failure.kind, failure.message, failure.attempts) == (run.jobs[1], outcome, said, tries)
    assert (seen[-1].done, seen[-1].failed) == (4, 1)
    assert (run.notes / f"job-{run.jobs[1].id}").stat().st_size == tries
    run.drive(seen.append)  # final is final, for the next driver too
    assert run.attempts() == {"done": 4, outcome: tries}
    assert (seen[-1].done, seen[-1].failed) == (4, 1)


def test_a_full_disk_stops_the_run_and_costs_no_attempt(make_run):
    run = make_run(2, SEEDS["unavailable"])
    with pytest.raises(UnavailableError, match="unavailable, as asked"):
        run.drive()
    assert set(run.attempts()) == {"interrupted"}
    with closing(read_store(run.path)) as store:
        assert store.failures("generate", retries=0) == []


def test_a_crash_that_does_not_come_again_is_forgiven(make_run):
    run = make_run(3, SEEDS["twice"])
    run.drive()
    assert run.check_whole() == {"crash": 6}


def test_tries_of_an_earlier_driver_count(make_run):
    run = make_run(1, SEEDS["crash"])
    with run.store() as store:
        store.fail(store.start(run.jobs[0], 1), "killed", "")
        store.fail(store.start(run.jobs[0], 1), "interrupted", "")
    run.drive()
    assert run.attempts() == {"killed": 1, "interrupted": 1, "crash": 2}


def test_a_hang_is_a_timeout_and_the_others_go_on(tmp_path):
    seeds = [SEEDS["hang"], SEEDS["stop"], *[0] * 8]
    run = Run(tmp_path, [(one, seed, "sample") for one, seed in zip(architectures(10), seeds, strict=True)])
    run.drive(stall=2.0)
    assert run.attempts() == {"done": 8, "timeout": 2}
    with closing(read_store(run.path)) as store:
        assert {failure.message for failure in store.failures("generate", 2)} == {"no step for 2 s"}
    assert not any(alive(pid) for pid in run.pids())


def test_workers_that_cannot_start_end_the_run(make_run):
    run = make_run(3)
    (run.notes / "stillborn").write_text("")
    with pytest.raises(UnavailableError, match="worker processes die before their first job: no such device"):
        run.drive()
    assert run.attempts() == {}
    assert len(list(run.notes.glob("worker-*.json"))) <= 2 * 3
    (run.notes / "stillborn").unlink()
    run.drive()
    assert run.check_whole() == {}


@pytest.mark.parametrize("seed", [0, 1])
def test_workers_killed_at_random_lose_nothing(seed, make_run):
    run = make_run(49)
    random = np.random.default_rng(seed)
    killed = []

    def kill_some(progress):
        if len(killed) < 20 and random.random() < 0.2:
            running = run.pids(running=True)  # waited for by this very thread, so the number is still theirs
            if running:
                killed.append(running[random.integers(len(running))])
                os.kill(killed[-1], signal.SIGKILL)

    run.drive(kill_some, workers=3, retries=10)
    attempts = run.check_whole()
    assert set(attempts) <= {"killed"}
    assert 0 < attempts["killed"] <= len(killed)


def test_drivers_killed_at_random_lose_and_repeat_nothing(make_run):
    run = make_run(49)
    random = np.random.default_rng(2)
    before = {}
    lives = 0
    for goal in (1, 3, 4, 8, 12, 13, 18, 22):
        process = run.life()
        wait_for(lambda goal=goal: len(run.committed()) >= goal)
        process.join(random.random() * 0.02)
        process.kill()
        process.join()
        lives += process.exitcode == -signal.SIGKILL
        now = run.committed()
        assert before.items() <= now.items()  # none lost, none written again
        before = now
    assert lives >= 4  # on a busy machine a life may be over before it is taken
    run.drive()
    assert before.items() <= run.committed().items()
    attempts = run.check_whole()
    assert set(attempts) == {"interrupted"}
    assert attempts["interrupted"] <= 2 * lives
    wait_for(lambda: not any(alive(pid) for pid in run.pids()))


def test_an_interrupt_leaves_the_store_consistent_and_no_worker(make_run):
    run = make_run(49)
    random = np.random.default_rng(3)
    before = {}
    interrupted = 0
    for goal in (1, 6, 10, 15):
        process = run.life()
        wait_for(lambda goal=goal: len(run.committed()) >= goal)
        process.join(random.random() * 0.02)
        os.kill(process.pid, signal.SIGINT)
        process.join(DEADLINE)
        assert process.exitcode in (0, 1)
        interrupted += process.exitcode  # 1: KeyboardInterrupt came out
        wait_for(lambda: not any(alive(pid) for pid in run.pids()))
        now = run.committed()
        assert before.items() <= now.items()
        before = now
        assert run.attempts()["done"] == len(now)
    assert interrupted >= 2
    run.drive()
    assert set(run.check_whole()) <= {"interrupted"}


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


def test_no_more_workers_than_jobs(make_run):
    run = make_run(2)
    run.drive(workers=8)
    assert len(list(run.notes.glob("worker-*.json"))) <= 2


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
