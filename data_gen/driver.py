"""The driver: hands jobs to worker processes and commits what they answer.

Every result is committed before the next job is handed out. A worker that dies, hangs or reports a
failure costs one attempt of one job; the process is replaced and the run goes on.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from data_gen.store import Job, Store
from supernet import InputError, Settings
from supernet.settings import UnavailableError
from training import DataInfo, Recipe
from training.devices import gpu_names


class WorkerSettings(Settings):
    """How many trainings run side by side, and when one counts as hung.

    Attributes:
        device: ``auto`` takes every GPU, and the CPU where there is none.
        per_gpu: worker processes on one GPU.
        cpu_workers: worker processes on the CPU, one thread each; None is one for each core.
        stall_seconds: a worker that makes no step for so long is killed, its job failed as ``timeout``.
        retries: how often a job is tried again after ``crash`` or ``killed``; other failures are final.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    per_gpu: Annotated[int, Field(ge=1, le=64)] = 1
    cpu_workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    stall_seconds: Annotated[float, Field(gt=0)] = 600.0
    retries: Annotated[int, Field(ge=0, le=10)] = 2


@dataclass(frozen=True)
class Task:
    """What all jobs of a stage share.

    Attributes:
        space: settings of the search space.
        data: the prepared images.
        measure: the split that gives the label; ``test`` also adds the validation images to training.
        weights: folder for the trained weights, as KEY-SEED.safetensors; None keeps none.
        command: the program that is a worker; tests put a fake one here.
    """

    space: Settings
    data: DataInfo
    recipe: Recipe
    measure: Literal["validation", "test"] = "validation"
    weights: Path | None = None
    command: tuple[str, ...] = (sys.executable, "-P", "-m", "data_gen.worker")


@dataclass(frozen=True)
class Progress:
    """What a progress display needs: finished trainings of all, and what each worker is at (0..1)."""

    done: int
    failed: int
    total: int
    running: tuple[float, ...]
    best: float | None


def device_names(settings: WorkerSettings) -> list[str]:
    """One device name for each worker process. Raises UnavailableError for a GPU that is not there."""
    gpus = len(gpu_names()) if settings.device != "cpu" else 0
    if gpus:
        return [f"cuda:{index}" for _ in range(settings.per_gpu) for index in range(gpus)]  # few jobs spread over all
    if settings.device == "cuda":
        raise UnavailableError("workers.device is 'cuda', but torch sees no GPU; use 'auto' or 'cpu'")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ["cpu"] * (settings.cpu_workers or cores)


def is_locked(folder: Path) -> bool:
    """Whether another process drives a run."""
    try:
        with (folder / "lock").open("r+", encoding="utf-8") as handle:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run folder: one driver at a time. The kernel frees it when the process dies, however it dies.

    Raises:
        InputError: another driver holds it; names its process and host.
        UnavailableError: the folder cannot be written.
    """
    path = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UnavailableError(f"{path}: cannot write ({error.strerror})") from error
    with handle:
        try:
            # lockf, not flock: a forked child would inherit the latter and hold the run after we died.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            owner = handle.read(200).strip() or "another process"
            raise InputError(f"{folder}: in use by {owner}; wait for it or stop it") from error
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        handle.flush()
        yield


@dataclass
class _Worker:
    """One process and what it is doing."""

    device: str
    process: subprocess.Popen[bytes]
    errors: int  # file descriptor of its standard error
    buffer: bytes = b""
    ready: bool = False
    job: Job | None = None
    attempt: int = 0
    share: float = 0.0
    heard: float = field(default_factory=time.monotonic)


def run_jobs(
    store: Store,
    jobs: Sequence[Job],
    task: Task,
    settings: WorkerSettings,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Train every job that has no result yet, and return when each has one or has failed for good.

    Raises:
        UnavailableError: no worker can start, or the store cannot be written.
        KeyboardInterrupt: passed on after the workers are stopped; what was committed stays.
    """
    stages = {job.stage for job in jobs}
    results = {result.job.id: result for stage in stages for result in store.results(stage)}
    failed = {failure.job.id for stage in stages for failure in store.failures(stage, settings.retries)}
    waiting = deque(job for job in jobs if job.id not in results and job.id not in failed)
    accuracies = [results[job.id].accuracy for job in jobs if job.id in results]
    pool = _Pool(store, waiting, task, settings)
    pool.done, pool.failed = len(accuracies), sum(job.id in failed for job in jobs)
    pool.best = max(accuracies, default=None)
    try:
        devices = device_names(settings)[: len(waiting)]
        for device in devices:
            pool.start_worker(device)
        while pool.workers:
            if progress is not None:
                shares = tuple(worker.share for worker in pool.workers if worker.job is not None)
                progress(Progress(pool.done, pool.failed, len(jobs), shares, pool.best))
            pool.step()
        if progress is not None:
            progress(Progress(pool.done, pool.failed, len(jobs), (), pool.best))
    finally:
        pool.stop()


class _Pool:
    """The worker processes and the jobs that wait for them."""

    def __init__(self, store: Store, waiting: deque[Job], task: Task, settings: WorkerSettings) -> None:
        self.store, self.waiting, self.task, self.settings = store, waiting, task, settings
        self.workers: list[_Worker] = []
        self.selector = selectors.DefaultSelector()
        self.done = self.failed = 0
        self.best: float | None = None
        self.unborn = 0  # workers in a row that died before they were ready

    def start_worker(self, device: str) -> None:
        errors, error_path = tempfile.mkstemp(prefix="genas-worker-")
        Path(error_path).unlink()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if device == "cpu":  # one thread a process: the BLAS libraries read these before torch does
            environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        process = subprocess.Popen(
            self.task.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the driver alone, which then stops the workers
        )
        worker = _Worker(device, process, errors)
        self.workers.append(worker)
        assert process.stdout is not None
        self.selector.register(process.stdout, selectors.EVENT_READ, worker)
        self._send(
            worker,
            {
                "device": device,
                "threads": 1,
                "data": str(self.task.data.folder),
                "memory_megabytes": self.task.data.memory_megabytes,
                "space": self.task.space.model_dump(mode="json"),
                "measure": self.task.measure,
            },
        )

    def step(self) -> None:
        """Wait for answers, at most a moment, and look for workers that make no progress."""
        for event, _ in self.selector.select(timeout=0.25):
            worker: _Worker = event.data
            assert worker.process.stdout is not None
            chunk = os.read(worker.process.stdout.fileno(), 1 << 16)
            worker.buffer += chunk
            *lines, worker.buffer = worker.buffer.split(b"\n")
            for line in lines:
                try:
                    answer = json.loads(line)
                except ValueError:
                    answer = None
                if not isinstance(answer, dict):
                    self._lose(worker, "crash", f"the worker wrote what is no answer: {line[:200]!r}")
                    break
                self._hear(worker, answer)
            if not chunk:
                self._lose(worker, "killed", "")
        now = time.monotonic()
        for worker in list(self.workers):
            if now - worker.heard > self.settings.stall_seconds:
                self._lose(worker, "timeout", f"no step for {self.settings.stall_seconds:g} s")

    def stop(self) -> None:
        """Kill what still runs; its attempts are marked as interrupted and do not count."""
        for worker in list(self.workers):
            self._remove(worker)
            if worker.job is not None:
                self.store.fail(worker.attempt, "interrupted", "")
        self.selector.close()

    def _hear(self, worker: _Worker, answer: dict[str, object]) -> None:
        worker.heard = time.monotonic()
        if "ready" in answer:
            worker.ready = True
            self.unborn = 0
            self._next_job(worker)
            return
        job = worker.job
        assert job is not None
        assert answer["job"] == job.id
        if "step" in answer:
            worker.share = float(str(answer["step"])) / float(str(answer["steps"]))
            return
        if "result" in answer:
            result = answer["result"]
            assert isinstance(result, dict)
            self.store.commit(job, worker.attempt, result)  # first of all
            self.done += 1
            accuracy = float(result["accuracy"])
            self.best = accuracy if self.best is None else max(self.best, accuracy)
            worker.job = None
            self._next_job(worker)
        elif answer["failure"] == "unavailable":  # the machine's fault: stop cleanly, the same line continues
            raise UnavailableError(str(answer["message"]))
        else:
            self._lose(worker, str(answer["failure"]), str(answer["message"]))

    def _next_job(self, worker: _Worker) -> None:
        if not self.waiting:
            self._remove(worker)
            return
        job = self.waiting.popleft()
        worker.attempt = self.store.start(job, worker.process.pid)
        worker.job, worker.share = job, 0.0
        weights = self.task.weights
        self._send(
            worker,
            {
                "job": job.id,
                "choices": list(job.architecture.choices),
                "seed": job.seed,
                "recipe": self.task.recipe.model_dump(mode="json"),
                "weights": None if weights is None else str(weights / f"{job.architecture.key}-{job.seed}.safetensors"),
            },
        )

    def _lose(self, worker: _Worker, outcome: str, message: str) -> None:
        """Take note of a failure, put the job back where another try is allowed, and replace the process."""
        if worker not in self.workers:
            return
        tail = self._error_tail(worker)
        self._remove(worker)
        job = worker.job
        if job is not None:
            if outcome == "killed":
                code = worker.process.returncode
                message = f"the worker ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}; {tail}"
            self.store.fail(worker.attempt, outcome, message)
            # Tries are counted in the store, so those of an earlier driver count too.
            if outcome in ("crash", "killed") and self.store.tries(job) <= self.settings.retries:
                self.waiting.appendleft(job)
            else:
                self.failed += 1
        elif not worker.ready:
            self.unborn += 1
            if self.unborn > self.settings.retries:
                raise UnavailableError(f"worker processes die before their first job: {tail or 'no message'}")
            self.start_worker(worker.device)
            return
        if self.waiting:
            self.start_worker(worker.device)

    def _remove(self, worker: _Worker) -> None:
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.wait()
        assert worker.process.stdout is not None
        assert worker.process.stdin is not None
        self.selector.unregister(worker.process.stdout)
        worker.process.stdout.close()
        with suppress(BrokenPipeError):
            worker.process.stdin.close()
        os.close(worker.errors)
        self.workers.remove(worker)

    def _send(self, worker: _Worker, message: dict[str, object]) -> None:
        assert worker.process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead; its closed output tells so in the next step
            worker.process.stdin.write(json.dumps(message).encode() + b"\n")
            worker.process.stdin.flush()

    def _error_tail(self, worker: _Worker) -> str:
        """The last words on its standard error."""
        size = os.fstat(worker.errors).st_size
        text = os.pread(worker.errors, 2000, max(0, size - 2000)).decode(errors="replace")
        return text.strip()
