"""A run folder with planned jobs, the fake worker that serves them, and drivers that can be killed."""

import math
import multiprocessing
import signal
import sqlite3
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from data_gen import Task, WorkerSettings, open_store, read_store, run_jobs, run_lock
from supernet import Architecture, OpSubset
from supernet.files import write_json
from supernet.op_subset import LayerSettings
from tests.data_gen.fake_worker import BEHAVIOURS, label
from training import Recipe
from training.data import file_digest, open_prepared

FAKE = Path(__file__).with_name("fake_worker.py")
SPACE = OpSubset(layers=(LayerSettings(channels=8),) * 2, operations=("skip", "sep_conv_3", "dil_conv_3"), classes=3)
SEEDS = {name: seed for seed, name in BEHAVIOURS.items()}
DEADLINE = 60
"""Seconds after which a condition that should come true at once counts as never coming."""


def wait_for(condition):
    """Poll until the condition holds."""
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
    return value


def alive(pid):
    """Whether a process runs; one that has ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def architectures(count):
    codes = (Architecture("op_subset", tuple(int(bit) for bit in f"{code:06b}")) for code in range(64))
    return [one for one in codes if SPACE.is_valid(one.row())[0]][:count]


def prepared(folder):
    """A small folder of prepared images, such as is brought to nodes."""
    folder.mkdir()
    content = {"images": np.zeros((4, 8, 8, 3), np.uint8), "labels": np.zeros(4, np.int64)}
    files = {}
    for split in ("train", "validation"):
        for part, array in content.items():
            path = folder / f"{split}_{part}.npy"
            np.save(path, array)
            files[path.name] = [path.stat().st_size, file_digest(path)]
    described = {"source": "fake", "classes": ["a", "b", "c"], "sizes": {"train": 4, "validation": 4}, "side": 8}
    normalisation = {"channels": 3, "mean": [0.0] * 3, "deviation": [1.0] * 3}
    write_json(folder / "info.json", {**described, **normalisation, "files": files})
    return open_prepared(folder, 512)


class Run:
    """A run folder with planned jobs, and the fake worker that serves them.

    Args:
        address: of the Ray cluster whose nodes the workers are on; None is this machine without one.
    """

    def __init__(self, folder, plan, address=None):
        self.path, self.notes = folder / "store.db", folder / "notes"
        self.folder, self.lives, self.address = folder, [], address
        self.notes.mkdir()
        command = (sys.executable, "-I", "-S", str(FAKE), str(self.notes))
        self.task = Task(SPACE, prepared(folder / "data"), Recipe(epochs=1), command=command)
        self.plan = plan
        self.costs = {one.key: {n: int(v[0]) for n, v in SPACE.costs(one.row()).items()} for one, _, _ in plan}
        with self.store() as store:
            self.jobs = store.add_jobs("generate", plan, self.costs)

    @contextmanager
    def store(self):
        with closing(open_store(self.path)) as store:
            yield store

    def drive(self, progress=None, workers=2, stall=60.0, retries=2, jobs=None, **options):
        """What the pipeline does: take the lock, close what a dead driver left, train. ``options``: of the workers."""
        where = {"cpu_workers": workers}
        if self.address is not None:
            where = {"runner": "ray", "address": self.address, "most": workers}
        chosen = {"device": "cpu", "stall_seconds": stall, "retries": retries, **where, **options}
        settings = WorkerSettings(**chosen)
        with run_lock(self.folder), self.store() as store:
            store.close_open_attempts()
            run_jobs(store, self.jobs if jobs is None else jobs, self.task, settings, progress)

    def _drive_alone(self, **options):
        # Whoever runs the tests in the background may have them ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.drive(**options)

    def life(self, **options):
        """A driver process of its own."""
        process = multiprocessing.get_context("fork").Process(target=self._drive_alone, kwargs=options)
        process.start()
        self.lives.append(process)
        return process

    def committed(self):
        """Job number: (accuracy, time of the commit)."""
        with closing(sqlite3.connect(self.path)) as connection:
            return {job: rest for job, *rest in connection.execute("SELECT job, accuracy, committed FROM results")}

    def attempts(self):
        with closing(read_store(self.path)) as store:
            return store.attempts("generate")

    def pids(self, running=False, tries=math.inf):
        """Of workers; ``running``: those at a job, but for jobs begun more often than ``tries``."""
        with closing(sqlite3.connect(self.path)) as connection:
            begun = "SELECT COUNT(*) FROM attempts AS other WHERE other.job = one.job"
            found = connection.execute(f"SELECT DISTINCT pid, outcome IS NULL, ({begun}) FROM attempts AS one")
            return sorted({pid for pid, at_work, count in found if not running or (at_work and count <= tries)})

    def started(self):
        """Process ids of all workers that were ever started."""
        return [int(path.stem.partition("-")[2]) for path in self.notes.glob("worker-*.json")]

    def check_whole(self):
        """Every job has its result once, and every result its one attempt."""
        committed = self.committed()
        assert {number: accuracy for number, (accuracy, _) in committed.items()} == {
            job.id: label(job.architecture.choices, job.seed) for job in self.jobs
        }
        attempts = self.attempts()
        assert attempts.pop("done") == len(committed) == len(self.jobs)
        assert "running" not in attempts
        return attempts
