"""Rows 1, 2, 3, 6 and 10: workers and drivers that are killed, stopped, doubled or hang."""

import multiprocessing
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_gen import read_store, run_lock
from data_gen.store import Store
from genas.config import load_run
from genas.generating import generate
from supernet import InputError
from supernet.settings import UnavailableError
from tests.data_gen.fake_worker import label
from tests.data_gen.harness import FAKE, SEEDS, Run, alive, architectures, wait_for
from tests.data_gen.ray_cluster import descendants

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def big_run(folder, seeds, address=None):
    """49 architectures, several seeds each: more work than is done between the kills."""
    return Run(folder, [(one, seed, "sample") for seed in range(seeds) for one in architectures(49)], address)


def children():
    """Process ids of this process's children."""
    listing = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(word) for word in listing.split()]


def drive_with_kills(run, count, random, owned):
    """Drive a run while so many of its workers are killed; (moment, process) of each kill.

    Args:
        owned: the processes that are ours: others might have got the number of a worker that is gone.
    """
    kills = []
    done = threading.Event()

    def kill():
        while len(kills) < count and not done.wait(random.exponential(0.03)):
            # On a busy machine a job may be met more often than it is tried: its last try is left alone.
            running = sorted(set(run.pids(running=True, tries=10)) & set(owned()))
            if running:
                victim = running[random.integers(len(running))]
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    kills.append((time.time(), victim))

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run.drive(workers=4, retries=10)
    finally:
        done.set()
        killer.join()
    assert len(kills) == count  # the work was not over before the killing
    return kills


def taken_again(run, kills):
    """Seconds from each kill that fell into a training to the next try at it."""
    with closing(sqlite3.connect(run.path)) as connection:
        starts = connection.execute("SELECT job, pid, started FROM attempts ORDER BY started").fetchall()
    waits = []
    for moment, victim in kills:
        job = max((started, job) for job, pid, started in starts if pid == victim and started <= moment)[1]
        again = [started for other, _, started in starts if other == job and started > moment]
        waits += [min(again) - moment] if again else []  # none where its result was committed before the kill
    return waits


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_workers_killed_a_hundred_times_at_random(seed, tmp_path, figure):
    run = big_run(tmp_path, 12)
    kills = drive_with_kills(run, 100, np.random.default_rng(seed), children)
    attempts = run.check_whole()  # every result once, none lost, none left running
    assert set(attempts) == {"killed"}
    waits = taken_again(run, kills)
    figure(
        1, f"seed {seed}: 100 kills, {attempts['killed']} fell into a training; 0 lost, 0 twice, 0 left running; "
        f"taken again after {np.median(waits):.2f} s median, {max(waits):.2f} s at most",
    )  # fmt: skip


def test_workers_on_a_cluster_killed_twenty_times_at_random(tmp_path, figure, ray_nodes):
    run = big_run(tmp_path, 6, ray_nodes.address)
    kills = drive_with_kills(run, 20, np.random.default_rng(0), ray_nodes.processes)
    attempts = run.check_whole()
    assert set(attempts) == {"killed"}
    waits = taken_again(run, kills)
    figure(
        1, f"on a cluster of 2 nodes: 20 kills, {attempts['killed']} fell into a training; 0 lost, 0 twice, "
        f"0 left running; taken again after {np.median(waits):.2f} s median, {max(waits):.2f} s at most",
    )  # fmt: skip


def drive_and_be_killed(run, count, random, pause):
    """Lives of drivers that are killed at random; how long each left something behind, and what was committed."""
    before, lives, orphans = {}, 0, []
    while lives < count and len(before) < len(run.jobs):
        process = run.life()
        goal = len(before) + int(random.integers(0, 4))
        wait_for(lambda goal=goal, process=process: len(run.committed()) >= goal or not process.is_alive())
        process.join(random.random() * pause)
        theirs = descendants(process.pid)[1:]
        process.kill()
        process.join()
        killed = time.monotonic()
        lives += process.exitcode == -signal.SIGKILL
        now = run.committed()
        assert before.items() <= now.items()  # none lost, none written again
        before = now
        wait_for(lambda theirs=theirs: not any(alive(pid) for pid in [*theirs, *run.started()]))
        orphans.append(time.monotonic() - killed)
    run.drive()
    assert before.items() <= run.committed().items()
    assert set(run.check_whole()) == {"interrupted"}
    assert lives == count
    return orphans


def test_drivers_killed_fifty_times_at_random(tmp_path, figure):
    orphans = drive_and_be_killed(big_run(tmp_path, 14), 50, np.random.default_rng(0), pause=0.1)
    figure(2, f"50 kills: 0 lost, 0 twice; workers gone after {max(orphans):.2f} s at most")


def test_drivers_of_a_cluster_killed_five_times_at_random(tmp_path, figure, ray_nodes):
    """Also while they connect: a goal may be reached before they begin."""
    orphans = drive_and_be_killed(big_run(tmp_path, 6, ray_nodes.address), 5, np.random.default_rng(0), pause=2.0)
    figure(2, f"with a cluster, 5 kills: 0 lost, 0 twice; bridge and workers gone after {max(orphans):.2f} s at most")


class KillAt:
    """Kills this process at the n-th durable step, before or after it."""

    def __init__(self, number, after):
        self.number, self.after, self.count = number, after, 0

    def wrap(self, function):
        def step(*arguments, **options):
            self.count += 1
            if self.count == self.number and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            if self.count == self.number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return step


DURABLE = ("add_jobs", "close_open_attempts", "start", "commit", "_force", "event")


def pipeline(recipe, logs, notes, at=None):
    """``generate`` as a user calls it, with the fake trainer, to be killed at a durable step."""
    import genas.stages
    import supernet.files

    if at is not None:
        for name in DURABLE:
            setattr(Store, name, at.wrap(getattr(Store, name)))
        supernet.files.os.fsync = at.wrap(os.fsync)  # of every file that is written whole
    command = (sys.executable, "-I", "-S", str(FAKE), str(notes))
    serve = genas.stages.run_jobs

    def with_fake_workers(store, jobs, task, settings, progress):
        serve(store, jobs, replace(task, command=command), settings, progress)

    genas.stages.run_jobs = with_fake_workers
    generate(load_run(recipe, ["generate.architectures=5", "workers.cpu_workers=2"], logs))


def results_of(logs):
    path = logs / "tiny" / "store.db"
    if not path.is_file() or not path.stat().st_size:
        return {}
    try:
        with closing(read_store(path)) as store:
            return {result.job.architecture.key: result.accuracy for result in store.results("generate")}
    except InputError:  # it died before the tables were made
        return {}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_driver_killed_at_every_durable_step(after, recipe, tmp_path, figure, monkeypatch):
    """Before and after each claim, start, commit and event, and each file that is forced to the disk."""
    notes = tmp_path / "notes"
    notes.mkdir()
    fork = multiprocessing.get_context("fork")
    steps = 0
    expected = None
    while True:
        steps += 1
        logs = tmp_path / f"logs{steps}"
        process = fork.Process(target=pipeline, args=(recipe, logs, notes, KillAt(steps, after)))
        process.start()
        process.join()
        if process.exitcode == 0:  # past the last step
            steps -= 1
            break
        assert process.exitcode == -signal.SIGKILL
        before = results_of(logs)
        again = fork.Process(target=pipeline, args=(recipe, logs, notes))
        again.start()
        again.join()
        assert again.exitcode == 0
        now = results_of(logs)
        assert before.items() <= now.items()
        expected = expected or now
        assert now == expected  # the final set of an unkilled run
        assert len(now) == 5
    assert steps > 15
    assert results_of(logs) == expected
    wait_for(lambda: not any(alive(int(path.stem.partition("-")[2])) for path in notes.glob("worker-*.json")))
    figure(2, f"killed {'after' if after else 'before'} each of {steps} durable steps: the same 5 labels each time")


LONG = ["generate.architectures=2", "generate.recipe.epochs=5000", "workers.cpu_workers=1"]


def start(*arguments):
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "genas.cli", *map(str, arguments)], stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def attempts_of(path):
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection, suppress(sqlite3.OperationalError):
        return connection.execute("SELECT pid, outcome FROM attempts").fetchall()
    return []


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop(number, code, times, recipe, tmp_path, figure):
    store = tmp_path / "logs" / "tiny" / "store.db"
    overrides = [word for text in LONG for word in ("--set", text)]
    process = start("generate", recipe, "--logs", tmp_path / "logs", *overrides)
    try:
        ((pid, _),) = wait_for(lambda: attempts_of(store))
        if times == 2:
            os.kill(pid, signal.SIGSTOP)  # it cannot leave a checkpoint: only the second signal ends this soon
        began = time.monotonic()
        process.send_signal(number)
        if times == 2:
            line = process.stderr.readline()
            while "stopping" not in line:
                assert line, "ended too soon"
                line = process.stderr.readline()
            began = time.monotonic()
            process.send_signal(number)
        _, words = process.communicate(timeout=60)
        took = time.monotonic() - began
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code, words
    assert f"the same line continues: genas generate {recipe}" in words
    assert "Traceback" not in words
    assert attempts_of(store) == [(pid, "interrupted")]
    wait_for(lambda: not alive(pid))
    kept = sorted((tmp_path / "logs" / "tiny" / "checkpoints").glob("*.json"))
    assert len(kept) == (1 if times == 1 else 0)
    figure(3, f"{signal.Signals(number).name} {times}x: exit {code} after {took:.2f} s, {len(kept)} checkpoint")


def contest(folder, number, results):
    """One of several drivers that start at once: what became of it, and after how many seconds."""
    began = time.monotonic()
    try:
        with run_lock(folder):
            results.put((number, "ran", os.getpid(), time.monotonic() - began))
            while not (folder / "over").exists():
                time.sleep(0.005)
    except InputError as error:
        results.put((number, str(error), os.getpid(), time.monotonic() - began))


@pytest.mark.parametrize("count", [2, 5])
def test_several_drivers_start_at_once(count, tmp_path, figure):
    fork = multiprocessing.get_context("fork")
    longest = 0.0
    for round_ in range(20):
        folder = tmp_path / str(round_)
        results = fork.Queue()
        drivers = [fork.Process(target=contest, args=(folder, number, results)) for number in range(count)]
        for driver in drivers:
            driver.start()
        answers = [results.get(timeout=60) for _ in drivers]
        (folder / "over").touch()
        for driver in drivers:
            driver.join()
        winners = [pid for _, word, pid, _ in answers if word == "ran"]
        assert len(winners) == 1, answers
        for _, word, _, seconds in answers:
            if word != "ran":
                assert f"in use by process {winners[0]} on {socket.gethostname()}; wait for it or stop it" in word
                longest = max(longest, seconds)
    figure(6, f"{count} at once, 20 rounds: exactly 1 ran; the others gave up after {longest:.2f} s at most")


def test_further_drivers_leave_soon_and_name_the_first(recipe, tmp_path, figure):
    store = tmp_path / "logs" / "tiny" / "store.db"
    overrides = [word for text in LONG for word in ("--set", text)]
    first = start("generate", recipe, "--logs", tmp_path / "logs", *overrides)
    took = []
    try:
        wait_for(lambda: attempts_of(store))
        for command in ("generate", "run", "retrain"):
            began = time.monotonic()
            second = start(command, recipe, "--logs", tmp_path / "logs", *overrides)
            _, words = second.communicate(timeout=60)
            took.append(time.monotonic() - began)
            assert second.returncode == 2
            assert f"in use by process {first.pid} on {socket.gethostname()}" in words
    finally:
        first.kill()
        first.communicate()
    figure(6, f"generate, run and retrain beside a running driver: exit 2 after {max(took):.2f} s at most")


@pytest.mark.parametrize(
    ("behaviour", "what"),
    [
        ("hang", "a loader that sleeps for ever"),
        ("stop", "SIGSTOP on a worker"),
        ("chatter", "a worker that speaks and makes no batch"),
        ("brood", "a hang with a child process"),
    ],
)
def test_a_hang_is_seen_by_lack_of_progress(behaviour, what, tmp_path, figure):
    seeds = [SEEDS[behaviour], *[0] * 8]
    run = Run(tmp_path, [(one, seed, "sample") for one, seed in zip(architectures(9), seeds, strict=True)])
    began = time.monotonic()
    run.drive(stall=2.0)
    took = time.monotonic() - began
    assert run.attempts() == {"done": 8, "timeout": 1}
    with closing(read_store(run.path)) as store:
        (failure,) = store.failures("generate", 2)
    assert (failure.kind, failure.message) == ("timeout", "no step for 2 s")
    assert not any(alive(pid) for pid in run.started())
    if behaviour == "brood":
        assert not alive(int((run.notes / "grandchild").read_text()))
    assert {job: value for job, (value, _) in run.committed().items()} == {
        job.id: label(job.architecture.choices, 0) for job in run.jobs[1:]
    }
    figure(10, f"{what}: failed(timeout) after {took:.1f} s with a limit of 2 s, 8 of 8 others trained, group gone")


def test_a_worker_outlives_its_driver_in_no_state(tmp_path, figure):
    """The real worker, stopped or not, is killed by the kernel with its driver."""
    code = "import data_gen.worker as w, time; w._die_with_driver(); print('ready', flush=True); time.sleep(1000)"
    driver_code = (
        "import subprocess, sys, time\n"
        f"worker = subprocess.Popen([sys.executable, '-c', {code!r}], stdout=subprocess.PIPE)\n"
        "worker.stdout.readline()\nprint(worker.pid, flush=True)\ntime.sleep(1000)"
    )
    driver = subprocess.Popen([sys.executable, "-c", driver_code], stdout=subprocess.PIPE, text=True)
    pid = int(driver.stdout.readline())
    os.kill(pid, signal.SIGSTOP)
    driver.kill()
    driver.wait()
    driver.stdout.close()
    killed = time.monotonic()
    wait_for(lambda: not alive(pid))
    figure(2, f"a stopped worker is gone {time.monotonic() - killed:.2f} s after its driver")


def test_the_owner_is_told_from_elsewhere_without_taking_the_lock(tmp_path):
    from data_gen import lock_owner

    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    driver = fork.Process(target=contest, args=(tmp_path, 0, results))
    driver.start()
    results.get(timeout=60)
    assert lock_owner(tmp_path) == f"process {driver.pid} on {socket.gethostname()}"
    (tmp_path / "lock").write_text("process 1 on another\n")  # an owner that is not the one that the kernel knows
    assert re.fullmatch(rf"process {driver.pid} on .+", lock_owner(tmp_path))
    (tmp_path / "over").touch()
    driver.join()
    assert lock_owner(tmp_path) is None
    with run_lock(tmp_path):
        assert lock_owner(tmp_path) == f"process {os.getpid()} on {socket.gethostname()}"  # and did not lose it
        with pytest.raises(InputError, match=f"in use by process {os.getpid()}"), run_lock(tmp_path):
            pytest.fail("held twice")
        late = fork.Process(target=contest, args=(tmp_path, 1, results))
        late.start()
        assert "in use by" in results.get(timeout=60)[1]
        late.join()
    assert lock_owner(tmp_path / "absent") is None
    (tmp_path / "folder" / "lock").mkdir(parents=True)
    with pytest.raises(UnavailableError, match="cannot be read"):
        lock_owner(tmp_path / "folder")
