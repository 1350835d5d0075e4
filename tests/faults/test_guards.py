"""Every guard has a test that fails when the guard is taken out.

Each check below holds as the product is; then one guard is taken out, and the same check has to fail.
"""

import io
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import pytest

import data_gen.schema
import data_gen.store
import data_gen.worker
from data_gen import lock_owner, open_store, read_store, run_lock
from data_gen.driver import _Pool
from data_gen.mending import ready_name
from data_gen.store import Store
from supernet import InputError, files
from tests.data_gen.harness import SPACE, Run, architectures
from training import Checkpoints

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
RESULT = {
    "accuracy": 0.5, "loss": 1.25, "epochs": 3, "pieces": 1, "seconds": 2.5, "peak_memory": 12345,
    "images_per_second": 99.5, "curves": {},
}  # fmt: skip


@pytest.fixture
def goes_red():
    """A check has to fail; for what reason is the check's own business."""

    def go(check, *arguments):
        with pytest.raises((AssertionError, sqlite3.Error, InputError, pytest.fail.Exception)):
            check(*arguments)

    return go


@contextmanager
def stored(folder, count=2):
    """A store with jobs in it."""
    folder.mkdir(parents=True)
    plan = [(one, 0, "sample") for one in architectures(count)]
    costs = {one.key: {name: int(value[0]) for name, value in SPACE.costs(one.row()).items()} for one, _, _ in plan}
    with closing(open_store(folder / "store.db")) as store:
        yield store, store.add_jobs("generate", plan, costs)


def without(monkeypatch, old, new=""):
    """Take a piece of text out of the schema, wherever it is kept."""
    assert old in data_gen.schema.SCHEMA
    schema = data_gen.schema.SCHEMA.replace(old, new)
    monkeypatch.setattr(data_gen.schema, "SCHEMA", schema)
    statements = tuple(part.strip() for part in schema.split(";\n") if part.strip())
    monkeypatch.setattr(data_gen.schema, "_STATEMENTS", statements)


# --- the unique keys -----------------------------------------------------------------------------------------


def check_a_job_is_one_row(folder):
    with stored(folder) as (store, jobs), store._writing() as connection:
        row = ("generate", jobs[0].architecture.key, 0, "sample")
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            data_gen.schema.insert_numbered(connection, "jobs", row)


def check_a_job_has_one_result(folder):
    with stored(folder) as (store, jobs), store._writing() as connection:
        row = (jobs[0].id, 0.5, 1.0, 1, 1, 1.0, 1, 1.0, "{}", "{}", 1.0)
        data_gen.schema.insert(connection, "results", row)
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            data_gen.schema.insert(connection, "results", row)


def check_a_job_is_tried_once_at_a_time(folder):
    with stored(folder) as (store, jobs):
        store.start(jobs[0], 1)
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            store.start(jobs[0], 2)


def check_a_network_is_one_row(folder):
    with stored(folder) as (store, _), store._writing() as connection:
        data_gen.schema.insert(connection, "architectures", ("a", "s", "[]", "same graph", 1, 1, 1, 1))
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            data_gen.schema.insert(connection, "architectures", ("b", "s", "[]", "same graph", 1, 1, 1, 1))


def check_a_label_is_a_number_from_0_to_1(folder):
    with stored(folder) as (store, jobs):
        for value in (float("nan"), float("inf"), 1.5, None, "good"):
            attempt = store.start(jobs[0], 1)
            with pytest.raises(sqlite3.IntegrityError):
                store.commit(jobs[0], attempt, {**RESULT, "accuracy": value})
            store.fail(attempt, "crash", "")


def check_a_result_belongs_to_a_job(folder):
    row = (99, 0.5, 1.0, 1, 1, 1.0, 1, 1.0, "{}", "{}", 1.0)
    with stored(folder) as (store, _), store._writing() as connection:  # noqa: SIM117 - the store has to be open still
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            data_gen.schema.insert(connection, "results", row)


SCHEMA_GUARDS = {
    "unique job": (check_a_job_is_one_row, ",\n    UNIQUE (stage, key, seed)", ""),
    "unique result": (check_a_job_has_one_result, "job INTEGER PRIMARY KEY REFERENCES", "job INTEGER REFERENCES"),
    "one open attempt": (check_a_job_is_tried_once_at_a_time, "CREATE UNIQUE INDEX one_open", "CREATE INDEX one_open"),
    "unique graph": (check_a_network_is_one_row, "graph TEXT UNIQUE", "graph TEXT"),
    "label's range": (check_a_label_is_a_number_from_0_to_1, " CHECK (accuracy BETWEEN 0 AND 1)", ""),
    "label is there": (check_a_label_is_a_number_from_0_to_1, "accuracy REAL NOT NULL", "accuracy REAL"),
    "foreign key": (check_a_result_belongs_to_a_job, "job INTEGER PRIMARY KEY REFERENCES jobs (id)",
                    "job INTEGER PRIMARY KEY"),
}  # fmt: skip


@pytest.mark.parametrize("guard", SCHEMA_GUARDS)
def test_constraints(guard, tmp_path, monkeypatch, goes_red):
    check, old, new = SCHEMA_GUARDS[guard]
    check(tmp_path / "as it is")
    without(monkeypatch, old, new)
    goes_red(check, tmp_path / "without")


# --- the owner check -----------------------------------------------------------------------------------------


def check_only_the_owner_of_an_attempt_commits(folder):
    """A worker was given up, another has the job: what the first still answers is no result."""
    with stored(folder) as (store, jobs):
        first = store.start(jobs[0], 1)
        store.fail(first, "timeout", "")
        second = store.start(jobs[0], 2)
        with pytest.raises(sqlite3.IntegrityError, match="is not the open one"):
            store.commit(jobs[0], first, RESULT)
        with pytest.raises(sqlite3.IntegrityError, match="is not the open one"):
            store.commit(jobs[1], second, RESULT)
        assert store.counts("generate")[1] == 0
        store.commit(jobs[0], second, RESULT)
        assert store.attempts("generate") == {"timeout": 1, "done": 1}


def test_the_owner_check(tmp_path, monkeypatch, goes_red):
    check_only_the_owner_of_an_attempt_commits(tmp_path / "as it is")
    monkeypatch.setattr(data_gen.store, "end_attempt", lambda *arguments: True)
    goes_red(check_only_the_owner_of_an_attempt_commits, tmp_path / "without")


def check_one_driver_runs(folder):
    folder.mkdir()
    run = Run(folder, [(one, 0, "sample") for one in architectures(12)])
    lives = [run.life() for _ in range(4)]
    for process in lives:
        process.join(60)
    assert sorted(process.exitcode for process in lives) == [0, 1, 1, 1]  # one runs, the others are refused
    run.drive()
    assert run.check_whole() == {}


def test_the_lock(tmp_path, monkeypatch, goes_red):
    check_one_driver_runs(tmp_path / "as it is")
    monkeypatch.setattr("tests.data_gen.harness.run_lock", lambda folder: nullcontext())
    goes_red(check_one_driver_runs, tmp_path / "without")


# --- commit before acknowledge -------------------------------------------------------------------------------


def check_what_is_told_is_committed(folder):
    """When progress tells of a result, another process can read it: whoever dies then loses nothing that was told."""
    folder.mkdir()
    run = Run(folder, [(one, 0, "sample") for one in architectures(12)])
    told = []

    def progress(state):
        with closing(read_store(run.path)) as store:
            told.append((state.done, store.counts("generate")[1]))

    run.drive(progress)
    assert told[-1] == (12, 12)
    assert all(done <= committed for done, committed in told)


def test_commit_before_acknowledge(tmp_path, monkeypatch, goes_red):
    check_what_is_told_is_committed(tmp_path / "as it is")
    commit, waiting = Store.commit, []

    def late(self, *arguments):
        """Told first, committed when three have gathered."""
        waiting.append(arguments)
        if len(waiting) == 3:
            for each in waiting:
                commit(self, *each)
            waiting.clear()

    monkeypatch.setattr(Store, "commit", late)
    goes_red(check_what_is_told_is_committed, tmp_path / "without")


def check_a_result_comes_before_the_next_job(folder):
    """The store's steps in the order in which they happen: a result is committed before another job is taken."""
    folder.mkdir()
    run = Run(folder, [(one, 0, "sample") for one in architectures(4)])
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("start", "commit"):
            function = getattr(Store, name)
            patch.setattr(Store, name, lambda self, *rest, f=function, n=name: (steps.append(n), f(self, *rest))[1])
        run.drive(workers=1)
    assert steps == ["start", "commit"] * 4


def test_a_result_before_the_next_job(tmp_path, monkeypatch, goes_red):
    check_a_result_comes_before_the_next_job(tmp_path / "as it is")
    following, kept = _Pool._next_job, []

    def eager(self, worker):
        """The next job first, and only then the result."""
        if kept:
            kept.pop()()
        following(self, worker)

    def later(self, job, attempt, result):
        kept.append(lambda: self.store.commit(job, attempt, result))
        self.store.start(self.waiting[0], 0) if self.waiting else None
        return float(result["accuracy"])

    monkeypatch.setattr(_Pool, "_next_job", eager)
    monkeypatch.setattr(_Pool, "_commit", later)
    goes_red(check_a_result_comes_before_the_next_job, tmp_path / "without")


# --- the digests ---------------------------------------------------------------------------------------------


def check_a_changed_label_is_noticed(folder):
    with stored(folder) as (store, jobs):
        store.commit(jobs[0], store.start(jobs[0], 1), RESULT)
    with closing(sqlite3.connect(folder / "store.db")) as connection:
        connection.execute("UPDATE results SET accuracy = 0.75")
        connection.commit()
    with pytest.raises(InputError, match="1 damaged row in results"):
        read_store(folder / "store.db")


def test_the_digest_of_a_row(tmp_path, monkeypatch, goes_red):
    check_a_changed_label_is_noticed(tmp_path / "as it is")
    monkeypatch.setattr(data_gen.schema, "_hashed", lambda text: "")
    goes_red(check_a_changed_label_is_noticed, tmp_path / "without")


def check_a_changed_number_in_json_is_noticed(folder):
    folder.mkdir()
    files.write_json(folder / "a.json", {"tau": 0.25})
    (folder / "a.json").write_text((folder / "a.json").read_text().replace("0.25", "0.75"))
    with pytest.raises(InputError, match="damaged or edited"):
        files.read_json(folder / "a.json")


def test_the_digest_of_json(tmp_path, monkeypatch, goes_red):
    check_a_changed_number_in_json_is_noticed(tmp_path / "as it is")
    monkeypatch.setattr(files, "_text_digest", lambda text: "")
    goes_red(check_a_changed_number_in_json_is_noticed, tmp_path / "without")


# --- the fsync -----------------------------------------------------------------------------------------------

PRELOAD = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void note(int descriptor) {
    char link[64], name[4096], line[4200];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, name, sizeof name - 1);
    if (size < 0) return;
    name[size] = 0;
    int length = snprintf(line, sizeof line, "%s\n", name);
    int file = open(getenv("SYNC_NOTES"), O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (write(file, line, length) < 0) abort();
    close(file);
}
int fsync(int descriptor) { note(descriptor); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(descriptor); }
int fdatasync(int descriptor) { note(descriptor); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(descriptor); }
"""

COMMITS = """
import os, sys
from pathlib import Path
import data_gen.store
from tests.faults.test_guards import RESULT, stored
notes = Path(os.environ["SYNC_NOTES"])
count = lambda: notes.read_text().count("store.db-wal\\n") if notes.exists() else 0
{mutation}
with stored(Path(sys.argv[1]), 5) as (store, jobs):
    for job in jobs:
        attempt = store.start(job, 1)
        before = count()
        store.commit(job, attempt, RESULT)
        assert count() > before, "a result was told of before it was forced to the disk"
"""


@pytest.fixture(scope="module")
def preload(tmp_path_factory):
    """A library that notes every file that is forced to the disk, for a process that is started with it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("preload")
    (folder / "sync.c").write_text(PRELOAD)
    built = subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(folder / "sync.so"), str(folder / "sync.c"), "-ldl"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return folder / "sync.so"


def committed_with(preload, folder, mutation=""):
    """Whether every commit of a process was on the disk before it returned."""
    folder.mkdir()
    root = str(Path(__file__).parent.parent.parent)
    environment = {**os.environ, "LD_PRELOAD": str(preload), "SYNC_NOTES": str(folder / "notes"), "PYTHONPATH": root}
    code = COMMITS.format(mutation=textwrap.dedent(mutation))
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "run")], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    assert done.returncode == 0 or "before it was forced to the disk" in done.stderr, done.stderr
    return done.returncode == 0


def test_the_fsync_of_the_store(preload, tmp_path):
    assert committed_with(preload, tmp_path / "as it is")
    mutation = """
    commit = data_gen.store.Store.commit
    def careless(self, *arguments):
        self._connection.execute("PRAGMA synchronous = OFF")
        commit(self, *arguments)
    data_gen.store.Store.commit = careless
    """
    assert not committed_with(preload, tmp_path / "without", mutation)


def check_a_file_is_on_the_disk_before_it_has_its_name(folder):
    folder.mkdir()
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        sync, replace = files.os.fsync, Path.replace

        def note(descriptor):
            steps.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            sync(descriptor)

        patch.setattr(files.os, "fsync", note)
        patch.setattr(Path, "replace", lambda path, target: (steps.append("name"), replace(path, target))[1])
        files.write_bytes(folder / "a", b"x")
    assert len(steps) == 3
    assert Path(steps[0]).name.startswith(".a.")
    assert steps[1] == "name"
    assert steps[2] == str(folder)  # or a power cut takes the new name back


def test_the_fsync_of_files(tmp_path, monkeypatch, goes_red):
    check_a_file_is_on_the_disk_before_it_has_its_name(tmp_path / "as it is")

    def careless(path, data):
        path.with_suffix(".tmp").write_bytes(data)
        path.with_suffix(".tmp").replace(path)

    monkeypatch.setattr(files, "write_bytes", careless)
    goes_red(check_a_file_is_on_the_disk_before_it_has_its_name, tmp_path / "without")


# --- the death of the driver ---------------------------------------------------------------------------------


def check_no_child_of_a_worker_is_left(folder):
    from tests.data_gen.harness import SEEDS, alive, wait_for

    folder.mkdir()
    run = Run(folder, [(architectures(1)[0], SEEDS["brood"], "sample")])
    process = multiprocessing.get_context("fork").Process(target=run.drive, kwargs={"stall": 0.5})
    process.start()
    child = int(wait_for(lambda: (run.notes / "grandchild").exists() and (run.notes / "grandchild").read_text()))
    process.join(60)
    try:
        assert not alive(child)
    finally:
        if alive(child):
            os.kill(child, signal.SIGKILL)


def test_the_group(tmp_path, monkeypatch, goes_red):
    check_no_child_of_a_worker_is_left(tmp_path / "as it is")
    monkeypatch.setattr("data_gen.processes.os.killpg", os.kill)
    goes_red(check_no_child_of_a_worker_is_left, tmp_path / "without")


# --- what a review found -------------------------------------------------------------------------------------


def test_labels_whose_settings_are_lost_take_no_new_ones(whole, genas):
    """Damage has taken the row that says what the labels were made with: another recipe must not add to them."""
    with closing(sqlite3.connect(whole / "store.db")) as connection:
        connection.execute("DELETE FROM events WHERE kind = 'settings:generate'")
        connection.commit()
    for line in (("generate", "tiny", "--set", "generate.recipe.epochs=3"), ("generate", "tiny"), ("fit", "tiny")):
        code, words = genas(*line, "--logs", whole.parent)
        assert code == 2, words
        assert "are lost to damage" in words
    with closing(read_store(whole / "store.db")) as store:
        assert store.events("settings:generate") == []


def test_checkpoints_of_another_training_do_not_push_out_its_own(tmp_path):
    import torch

    other = Checkpoints(tmp_path, "a", {"pieces": 1}, every=60)
    for step in (4900, 5000):
        other.save(step, {"x": torch.zeros(1)}, {"step": step})
    own = Checkpoints(tmp_path, "a", {"pieces": 2}, every=60)
    assert own.newest() is None
    own.save(60, {"x": torch.ones(1)}, {"step": 60})
    assert own.newest().content == {"step": 60}


def test_two_threads_of_one_process_do_not_both_drive(tmp_path):
    outcomes = []
    for number in range(20):
        folder, start = tmp_path / str(number), threading.Barrier(4)
        over = threading.Barrier(4)

        def drive(folder=folder, start=start, over=over):
            start.wait()
            try:
                with run_lock(folder):
                    outcomes.append("ran")
                    over.wait()
            except InputError:
                outcomes.append("refused")
                over.wait()

        threads = [threading.Thread(target=drive) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert lock_owner(folder) is None
    assert (outcomes.count("ran"), outcomes.count("refused")) == (20, 60)


def test_a_mended_store_whose_driver_died_takes_its_place(tmp_path):
    with stored(tmp_path / "run") as (store, jobs):
        store.commit(jobs[0], store.start(jobs[0], 1), RESULT)
    path = tmp_path / "run" / "store.db"
    path.replace(ready_name(path))
    path.write_bytes(b"what was damaged")
    with closing(open_store(path)) as store:
        assert store.counts("generate") == (2, 1)
    assert not ready_name(path).exists()


@pytest.mark.parametrize("version", [0, 1])
def test_a_damaged_format_number_is_mended(version, tmp_path):
    with stored(tmp_path / "run") as (store, jobs):
        store.commit(jobs[0], store.start(jobs[0], 1), RESULT)
    path = tmp_path / "run" / "store.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(InputError):
        read_store(path)
    with closing(open_store(path)) as store:
        assert store.counts("generate") == (2, 1)
        assert store.events("mended")


@pytest.mark.parametrize("change", [{"accuracy": "0.5"}, {"epochs": 3.0}, {"pieces": True}, {"epochs": 10**30}])
def test_what_is_only_nearly_a_number_is_no_result(change, tmp_path):
    """A column would turn it into one, and the row's digest would no longer fit."""
    with stored(tmp_path / "run") as (store, jobs):
        attempt = store.start(jobs[0], 1)
        with pytest.raises(sqlite3.IntegrityError, match="is no"):
            store.commit(jobs[0], attempt, RESULT | change)
        store.commit(jobs[0], attempt, RESULT | {"loss": -0.0})
    read_store(tmp_path / "run" / "store.db").close()


def test_a_warning_of_a_worker_reaches_the_user(caplog):
    import logging
    import types

    pool = types.SimpleNamespace()
    worker = types.SimpleNamespace(ready=True)
    with caplog.at_level(logging.WARNING):
        _Pool._hear(pool, worker, {"warning": "a checkpoint is damaged"})
    assert "a checkpoint is damaged" in caplog.text
    answers = io.StringIO()
    relay = data_gen.worker._Relay(answers)
    relay.emit(logging.LogRecord("genas.checkpoint", logging.WARNING, "", 0, "%s is damaged", ("it",), None))
    assert answers.getvalue() == '{"warning": "it is damaged"}\n'
