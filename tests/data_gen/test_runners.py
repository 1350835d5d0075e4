"""What holds wherever the workers are: processes of this machine, or of a Ray cluster.

A run over Ray takes seconds to start, so there what can be seen in one run is.
"""

import os
import signal
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_gen import read_store
from supernet.settings import UnavailableError
from tests.data_gen.fake_worker import label
from tests.data_gen.harness import DEADLINE, SEEDS, SPACE, alive, architectures, wait_for

# Children of these tests are forked, so that each life of a driver costs milliseconds.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(params=["local", "ray"])
def runner(request):
    return request.param


def planned(*behaviours):
    """An architecture for each way to behave; None is the good one."""
    seeds = [SEEDS.get(behaviour, 0) for behaviour in behaviours]
    return [(one, seed, "sample") for one, seed in zip(architectures(len(seeds)), seeds, strict=True)]


def failures(run, retries):
    """By the seed of the job: kind, words, tries."""
    with closing(read_store(run.path)) as store:
        found = store.failures("generate", retries)
    return {failure.job.seed: (failure.kind, failure.message, failure.attempts) for failure in found}


def test_every_job_is_trained_once(make_run):
    run = make_run()
    seen = []
    run.drive(seen.append)
    assert run.check_whole() == {}
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert (seen[0].done, seen[-1].done, seen[-1].failed, seen[-1].total) == (0, 12, 0, 12)
    assert seen[-1].running == ()
    assert seen[-1].best == max(label(one.choices, 0) for one, _, _ in run.plan)
    if run.address is None:  # over a network, signs of life of jobs as short as these are left out
        assert any(0 < share <= 1 for progress in seen for share in progress.running)
    assert len(run.pids()) == 2
    assert not any(alive(pid) for pid in run.pids())

    before, again = run.committed(), []
    command = run.task.command
    run.task = replace(run.task, command=("/no/such/program",))
    run.drive(again.append)  # a second time nothing is started
    assert run.committed() == before
    assert [(progress.done, progress.total, progress.best) for progress in again] == [(12, 12, seen[-1].best)]

    run.task = replace(run.task, command=command)
    run.plan = [(one, 0, "sample") for one in architectures(14)]
    run.costs |= {one.key: {n: int(v[0]) for n, v in SPACE.costs(one.row()).items()} for one, _, _ in run.plan}
    with run.store() as store:
        run.jobs = store.add_jobs("generate", run.plan, run.costs)
    run.drive(workers=8)  # more jobs add to the run, and no more workers are started than there are jobs
    assert run.check_whole() == {}
    assert before.items() <= run.committed().items()
    assert len(run.started()) <= 2 + 2


def test_a_failure_is_a_row_and_never_the_end(make_run, runner):
    retries = 2 if runner == "local" else 0  # on Ray each try costs a second
    expected = {
        "crash": ("crash", "crash, as asked", retries + 1),
        "killed": ("killed", "the worker ended with signal 9", retries + 1),
        "exit": ("killed", "the worker ended with exit code 7; these are my last words", retries + 1),
        "torn": ("killed", "the worker ended with exit code 0", retries + 1),
        "garbage": ("crash", "the worker wrote what is no answer: b'hello'", retries + 1),
        "number": ("crash", "the worker wrote what is no answer: b'3'", retries + 1),
        "oom": ("oom", "oom, as asked", 2),
        "diverged": ("diverged", "diverged, as asked", 1),
    }
    run = make_run(plan=planned(*expected, *[None] * 4))
    seen = []
    run.drive(seen.append, retries=retries)
    assert failures(run, retries) == {SEEDS[behaviour]: failure for behaviour, failure in expected.items()}
    for job in run.jobs[: len(expected)]:
        assert (run.notes / f"job-{job.id}").stat().st_size == failures(run, retries)[job.seed][2]
    assert run.attempts() == {"done": 4, "crash": 3 * retries + 3, "killed": 3 * retries + 3, "oom": 2, "diverged": 1}
    assert (seen[-1].done, seen[-1].failed) == (4, 8)
    before = run.attempts()
    run.drive(seen.append, retries=retries)  # final is final, for the next driver too
    assert run.attempts() == before
    assert (seen[-1].done, seen[-1].failed) == (4, 8)


def test_a_full_disk_stops_the_run_and_costs_no_attempt(make_run):
    """On a cluster it gives up one node after the other."""
    run = make_run(2, SEEDS["unavailable"])
    with pytest.raises(UnavailableError, match="unavailable, as asked"):
        run.drive()
    assert set(run.attempts()) == {"interrupted"}
    assert failures(run, retries=0) == {}
    wait_for(lambda: not any(alive(pid) for pid in run.started()))


def test_tries_count_and_some_are_forgiven(make_run):
    """A crash that does not come again is forgiven; tries of an earlier driver count."""
    run = make_run(plan=planned("twice", "crash"))
    with run.store() as store:
        store.fail(store.start(run.jobs[1], 1), "killed", "")
        store.fail(store.start(run.jobs[1], 1), "interrupted", "")
    run.drive()
    assert run.attempts() == {"done": 1, "killed": 1, "interrupted": 1, "crash": 2 + 2}
    assert list(run.committed()) == [run.jobs[0].id]


def test_a_hang_is_a_timeout_and_the_others_go_on(make_run, runner):
    """So is chatter without batches. A process that was started by one that hangs goes with it."""
    stall = 2.0 if runner == "local" else 4.0
    run = make_run(plan=planned("hang", "stop", "chatter", "brood", *[None] * 6))
    run.drive(stall=stall, workers=4)
    assert run.attempts() == {"done": 6, "timeout": 4}
    assert {words for _, words, _ in failures(run, 2).values()} == {f"no step for {stall:g} s"}
    wait_for(lambda: not any(alive(pid) for pid in [*run.started(), int((run.notes / "grandchild").read_text())]))


def test_workers_that_cannot_start_end_the_run(make_run):
    run = make_run(3)
    (run.notes / "stillborn").write_text("")
    with pytest.raises(UnavailableError, match="worker processes die before their first job: no such device"):
        run.drive(retries=1)
    assert run.attempts() == {}
    assert 2 <= len(run.started()) <= 2 * 2 * 2  # at most on two nodes, while there are two at once
    (run.notes / "stillborn").unlink()
    run.drive()
    assert run.check_whole() == {}


@pytest.mark.parametrize("seed", [0, 1])
def test_workers_killed_at_random_lose_nothing(seed, make_run, runner):
    most = 20 if runner == "local" else 6
    run = make_run(49)
    random = np.random.default_rng(seed)
    killed = []

    def kill_some(progress):
        if len(killed) < most and random.random() < 0.2:
            running = run.pids(running=True)
            if running:
                killed.append(running[random.integers(len(running))])
                os.kill(killed[-1], signal.SIGKILL)

    run.drive(kill_some, workers=3, retries=10)
    attempts = run.check_whole()
    assert set(attempts) <= {"killed"}
    assert 0 < attempts["killed"] <= len(killed)


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_drivers_killed_at_random_lose_and_repeat_nothing(make_run, runner):
    run = make_run(49)
    random = np.random.default_rng(2)
    before = {}
    lives = 0
    goals = (1, 3, 4, 8, 12, 13, 18, 22) if runner == "local" else (0, 3, 20)
    for goal in goals:
        process = run.life()
        wait_for(lambda goal=goal, process=process: len(run.committed()) >= goal and children(process.pid))
        process.join(random.random() * 0.02)
        theirs = children(process.pid)  # workers, or the bridge to the cluster
        process.kill()
        process.join()
        lives += process.exitcode == -signal.SIGKILL
        wait_for(lambda theirs=theirs: not any(alive(pid) for pid in [*theirs, *run.started()]))
        now = run.committed()
        assert before.items() <= now.items()  # none lost, none written again
        before = now
    assert lives >= len(goals) // 2  # on a busy machine a life may be over before it is taken
    run.drive()
    assert before.items() <= run.committed().items()
    attempts = run.check_whole()
    assert set(attempts) <= {"interrupted"}
    assert attempts.get("interrupted", 0) <= 2 * lives


def test_an_interrupt_leaves_the_store_consistent_and_no_worker(make_run, runner):
    run = make_run(49)
    random = np.random.default_rng(3)
    before = {}
    interrupted = 0
    goals = (1, 6, 10, 15) if runner == "local" else (0, 3)
    for goal in goals:
        process = run.life()
        wait_for(lambda goal=goal, process=process: len(run.committed()) >= goal and children(process.pid))
        process.join(random.random() * 0.02)
        os.kill(process.pid, signal.SIGINT)
        process.join(DEADLINE)
        assert process.exitcode in (0, 1)
        interrupted += process.exitcode  # 1: KeyboardInterrupt came out
        wait_for(lambda: not any(alive(pid) for pid in run.started()))
        now = run.committed()
        assert before.items() <= now.items()
        before = now
        assert run.attempts().get("done", 0) == len(now)
    assert interrupted >= len(goals) // 2
    run.drive()
    assert set(run.check_whole()) <= {"interrupted"}


def test_a_stopped_training_goes_on_from_its_checkpoint_on_any_runner(make_run, runner, ray_nodes):
    """Checkpoints come to the run's folder while it trains, and from there to wherever the next driver's worker is."""
    run = make_run(plan=planned("long", "long"))
    run.task = replace(run.task, weights=run.folder / "weights", checkpoints=run.folder / "checkpoints")
    run.task.checkpoints.mkdir()

    def kept():
        return sorted((path.name.split(".")[1], path.read_text()) for path in run.task.checkpoints.glob("[!.]*"))

    first = [(f"{1:09d}", f"{ending} of step 1") for ending in ("json", "safetensors")]
    second = [(f"{2:09d}", f"{ending} of step 2") for ending in ("json", "safetensors")]
    process = run.life()
    wait_for(lambda: kept() == sorted(2 * first))
    os.kill(process.pid, signal.SIGINT)
    process.join(DEADLINE)
    assert process.exitcode == 1
    assert run.attempts() == {"interrupted": 2}
    assert kept() == sorted(2 * first + 2 * second)
    assert not list(run.task.weights.glob("*"))

    run.address = ray_nodes.address if runner == "local" else None
    run.drive()
    assert run.check_whole() == {"interrupted": 2}
    for job in run.jobs:
        assert (run.notes / f"continued-{job.id}").read_text() == "json of step 2, safetensors of step 2"
        name = f"{job.architecture.key}-{job.seed}"
        assert (run.task.weights / f"{name}.safetensors").read_text() == f"weights of {job.architecture.key}"
        assert (run.task.weights / f"{name}.json").read_text() == f"about {job.architecture.key}"
    assert len(list(run.task.weights.glob("*"))) == 4
    assert kept() == []
