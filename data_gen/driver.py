"""The driver: hands jobs to worker processes and commits what they answer.

Every result is committed before the next job is handed out. A worker that dies, hangs or reports a
failure costs one attempt of one job; the process is replaced and the run goes on. Ctrl-C or SIGTERM
has the workers leave a checkpoint and go, a second one ends them at once.
"""

from __future__ import annotations

import json
import logging
import math
import os
import selectors
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated, Literal

from pydantic import Field

from data_gen.memory import processes_that_fit
from data_gen.store import Job, Store, is_final
from supernet import SearchSpace, Settings
from supernet.files import sweep
from supernet.graph import named_graph_to_json
from supernet.settings import UnavailableError
from training import DataInfo, Recipe
from training.devices import gpu_names
from training.native import build
from training.robustness import RobustnessSettings

_TAIL = 4
"""How many jobs of each worker are handed out longest first, at the end of the queue."""

_STOP_SECONDS = 8.0
"""How long a worker may take to leave its checkpoint: a driver that is asked to stop is gone within 10 s."""

_NO_RESULT = (
    sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError,
    KeyError, ValueError, TypeError, OverflowError, RecursionError,
)  # fmt: skip
"""How the store and Python refuse what a worker calls a result."""

KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**26)}
"""Has glibc keep what is freed: to fetch each tensor anew from the kernel, page by page, is a tenth of a training."""

_FAILURES = ("oom", "diverged", "timeout", "crash", "killed")
_LOGGER = logging.getLogger("genas.driver")


class WorkerSettings(Settings):
    """How many trainings run side by side, and when one counts as hung.

    Attributes:
        device: ``auto`` takes every GPU, and the CPU where there is none.
        per_gpu: worker processes on one GPU; ``auto`` is as many as fit its memory with the largest network
            that is planned, at most four.
        cpu_workers: worker processes on the CPU, one thread each; None is one for each core.
        stall_seconds: a worker that makes no step for so long is killed, its job failed as ``timeout``.
        retries: how often a job is tried again after ``crash`` or ``killed``; after ``oom`` it is tried once more
            with each batch in twice as many pieces; other failures are final.
        checkpoint_seconds: how often a training that takes longer leaves a checkpoint to go on from.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    per_gpu: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = "auto"
    cpu_workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    stall_seconds: Annotated[float, Field(gt=0)] = 600.0
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0


@dataclass(frozen=True)
class Task:
    """What all jobs of a stage share.

    Attributes:
        space: the search space.
        data: the prepared images.
        measure: the split that gives the label; ``test`` also adds the validation images to training.
        weights: folder for the trained weights, as KEY-SEED.safetensors; None keeps none.
        checkpoints: folder for checkpoints inside a training; None keeps none.
        robustness: what corrupted images each trained network is measured on as well; None: on none.
        command: the program that is a worker; tests put a fake one here.
    """

    space: SearchSpace
    data: DataInfo
    recipe: Recipe
    measure: Literal["validation", "test"] = "validation"
    weights: Path | None = None
    checkpoints: Path | None = None
    robustness: RobustnessSettings | None = None
    command: tuple[str, ...] = (sys.executable, "-P", "-m", "data_gen.worker")


@dataclass(frozen=True)
class Progress:
    """What a progress display needs: finished trainings of all, and what each worker is at (0..1)."""

    done: int
    failed: int
    total: int
    running: tuple[float, ...]
    best: float | None


def device_names(settings: WorkerSettings, fitting: Callable[[int], int] = lambda gpus: 1) -> list[str]:
    """One device name for each worker process. Raises UnavailableError for a GPU that is not there.

    Args:
        fitting: of the number of GPUs, how many processes fit on each; asked where ``per_gpu`` is ``auto``.
    """
    gpus = len(gpu_names()) if settings.device != "cpu" else 0
    if gpus:
        each = fitting(gpus) if settings.per_gpu == "auto" else settings.per_gpu
        return [f"cuda:{index}" for _ in range(each) for index in range(gpus)]  # few jobs spread over all
    if settings.device == "cuda":
        raise UnavailableError("workers.device is 'cuda', but torch sees no GPU; use 'auto' or 'cpu'")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ["cpu"] * (settings.cpu_workers or cores)


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
    batches: int = 0
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

    A first SIGINT or SIGTERM has the workers leave checkpoints, and is then passed on to whoever handled it
    before; a second one is passed on at once.

    Raises:
        UnavailableError: no worker can start, or the store cannot be written.
        KeyboardInterrupt: passed on after the workers are stopped; what was committed stays.
    """
    jobs = list(dict.fromkeys(jobs))  # isomorphic networks share a job
    stages = {job.stage for job in jobs}
    results = {number: accuracy for stage in stages for number, accuracy in store.accuracies(stage).items()}
    failed = {failure.job.id for stage in stages for failure in store.failures(stage, settings.retries)}
    waiting = [job for job in jobs if job.id not in results and job.id not in failed]
    accuracies = [results[job.id] for job in jobs if job.id in results]
    pool = _Pool(store, deque(), task, settings)
    pool.done, pool.failed = len(accuracies), sum(job.id in failed for job in jobs)
    pool.best = max(accuracies, default=None)
    pool.clear_checkpoints([job for job in jobs if job.id in results])  # a driver may have died after a commit
    with Signals() as signals:
        try:
            # Of all jobs and all workers, not of those that are left: how a batch is passed must not depend on it.
            devices = device_names(settings, partial(processes_that_fit, task, jobs))
            pool.processes = Counter(devices)
            devices = devices[: len(waiting)]
            pool.waiting.extend(longest_last(waiting, len(devices), store.sizes()))
            if "cpu" in devices:
                build()  # once, and not by all workers at the same time
            for device in devices:
                pool.start_worker(device)
            while pool.workers:
                if progress is not None:
                    shares = tuple(worker.share for worker in pool.workers if worker.job is not None)
                    progress(Progress(pool.done, pool.failed, len(jobs), shares, pool.best))
                if signals.number is not None:
                    pool.ask_to_stop()
                pool.step()
            if progress is not None:
                progress(Progress(pool.done, pool.failed, len(jobs), (), pool.best))
        finally:
            pool.stop()


def longest_last(jobs: Sequence[Job], workers: int, sizes: Mapping[str, float]) -> list[Job]:
    """The jobs in their order, but for the last few of each worker: of these the longest comes first.

    All workers then end at nearly the same time (Graham 1969). Sorting everything would gain nothing more, and whoever
    stops early would be left with labels of large networks alone.

    Args:
        sizes: of each architecture, by key: a rough measure of the time that its training takes.
    """
    tail = _TAIL * workers
    head, rest = jobs[: max(0, len(jobs) - tail)], jobs[max(0, len(jobs) - tail) :]
    return [*head, *sorted(rest, key=lambda job: -sizes.get(job.architecture.key, 0.0))]


class Signals:
    """Takes note of the first SIGINT or SIGTERM, and passes it on at the end; a second one is passed on at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # no other may handle signals
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()
        if self.number is not None and error is None:
            signal.raise_signal(self.number)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number is None:
            self.number = number
            return
        self._give_back()
        signal.raise_signal(number)

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class _Pool:
    """The worker processes and the jobs that wait for them."""

    def __init__(self, store: Store, waiting: deque[Job], task: Task, settings: WorkerSettings) -> None:
        self.store, self.waiting, self.task, self.settings = store, waiting, task, settings
        self.workers: list[_Worker] = []
        self.selector = selectors.DefaultSelector()
        self.done = self.failed = 0
        self.best: float | None = None
        self.unborn = 0  # workers in a row that died before they were ready
        self.processes: Counter[str] = Counter()  # on each device
        self.deadline = math.inf  # of a stop that was asked for

    def start_worker(self, device: str) -> None:
        try:
            errors, error_path = tempfile.mkstemp(prefix="genas-worker-")
            Path(error_path).unlink()
        except OSError as error:
            raise UnavailableError(f"{tempfile.gettempdir()}: cannot write ({error.strerror})") from error
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if device == "cpu":  # one thread a process: the BLAS libraries read these before torch does
            environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **KEPT_MEMORY}
        try:
            process = subprocess.Popen(
                self.task.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the driver alone, which then stops the workers
            )
        except OSError as error:  # no more processes or files, or no such program
            os.close(errors)
            raise UnavailableError(f"a worker process cannot be started ({error})") from error
        worker = _Worker(device, process, errors)
        self.workers.append(worker)
        robustness = self.task.robustness
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
                "processes": self.processes[device],
                "robustness": None if robustness is None else robustness.model_dump(mode="json"),
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
                except (ValueError, RecursionError):
                    answer = None
                if worker not in self.workers:
                    break  # an earlier line was its last
                if not isinstance(answer, dict):
                    self._lose(worker, "crash", f"the worker wrote what is no answer: {line[:200]!r}")
                    break
                self._hear(worker, answer)
            if not chunk:
                self._lose(worker, "killed", "")
        now = time.monotonic()
        for worker in list(self.workers):
            if now > self.deadline:
                self._lose(worker, "interrupted", "")
            elif now - worker.heard > self.settings.stall_seconds:
                self._lose(worker, "timeout", f"no step for {self.settings.stall_seconds:g} s")

    def ask_to_stop(self) -> None:
        """Have every worker leave a checkpoint and go; those that do not within some seconds are killed."""
        if self.deadline < math.inf:
            return
        self.deadline = time.monotonic() + _STOP_SECONDS
        _LOGGER.warning("stopping: running trainings leave a checkpoint; once more stops at once")
        for worker in list(self.workers):
            if worker.job is None:
                self._remove(worker)
            else:
                self._send(worker, {"stop": True})

    def stop(self) -> None:
        """Kill what still runs; its attempts are marked as interrupted and do not count."""
        left = list(self.workers)
        for worker in left:
            self._remove(worker)
        self.selector.close()
        if self.task.checkpoints is not None:
            sweep(self.task.checkpoints)  # workers may have been killed in the middle of a file
        for worker in left:
            if worker.job is not None:
                with suppress(UnavailableError):  # a full disk, told already: the next driver closes the attempt
                    self.store.fail(worker.attempt, "interrupted", "")

    def clear_checkpoints(self, jobs: Sequence[Job]) -> None:
        """Remove what finished jobs could have gone on from."""
        names = {_checkpoint_name(job) for job in jobs}
        for path in self.task.checkpoints.glob("*") if self.task.checkpoints is not None else ():
            if path.name.rsplit(".", 2)[0] in names:  # NAME.STEP.json and NAME.STEP.safetensors
                path.unlink(missing_ok=True)

    def _hear(self, worker: _Worker, answer: dict[str, object]) -> None:
        if "ready" in answer and not worker.ready:
            worker.heard = time.monotonic()
            worker.ready = True
            self.unborn = 0
            self._next_job(worker)
            return
        if "warning" in answer:
            _LOGGER.warning("%s", str(answer["warning"])[:1000])
            return
        job = worker.job
        if job is None or answer.get("job") != job.id:
            self._lose(worker, "crash", f"the worker answered for another job: {str(answer)[:200]}")
        elif "batches" in answer:
            try:
                batches = int(str(answer["batches"]))
                worker.share = float(str(answer["step"])) / float(str(answer["steps"]))
            except (KeyError, ValueError, ZeroDivisionError):
                self._lose(worker, "crash", f"the worker wrote what is no answer: {str(answer)[:200]}")
                return
            # Words alone are no sign of life: the count of batches has to grow.
            if batches > worker.batches:
                worker.batches, worker.heard = batches, time.monotonic()
        elif "result" in answer:
            result = answer["result"]
            try:
                accuracy = self._commit(job, worker.attempt, result)  # first of all
            except _NO_RESULT as error:
                self._lose(worker, "crash", f"the worker gave a result that is none ({type(error).__name__}: {error})")
                return
            self.clear_checkpoints([job])
            self.done += 1
            self.best = accuracy if self.best is None else max(self.best, accuracy)
            worker.job = None
            self._next_job(worker)
        elif "stopped" in answer and self.deadline < math.inf:  # unasked, it would be tried again without end
            self._lose(worker, "interrupted", "")
        elif answer.get("failure") == "unavailable":  # the machine's fault: stop cleanly, the same line continues
            raise UnavailableError(str(answer.get("message", "the worker says that the machine lacks something")))
        elif answer.get("failure") in _FAILURES:
            self._lose(worker, str(answer["failure"]), str(answer.get("message", "")))
        else:
            self._lose(worker, "crash", f"the worker wrote what is no answer: {str(answer)[:200]}")

    def _commit(self, job: Job, attempt: int, result: object) -> float:
        if not isinstance(result, dict):
            raise TypeError("expected an object")
        self.store.commit(job, attempt, result)
        return float(result["accuracy"])

    def _next_job(self, worker: _Worker) -> None:
        if not self.waiting or self.deadline < math.inf:
            self._remove(worker)
            return
        job = self.waiting.popleft()
        pieces = 2 if "oom" in self.store.tries(job) else 1
        worker.attempt = self.store.start(job, worker.process.pid)
        worker.job, worker.share, worker.batches, worker.heard = job, 0.0, 0, time.monotonic()
        weights, checkpoints = self.task.weights, self.task.checkpoints
        self._send(
            worker,
            {
                "job": job.id,
                "key": job.architecture.key,
                "choices": list(job.architecture.choices),
                # Not the space: a worker need not know one that is written in Python.
                "graph": named_graph_to_json(self.task.space.graph(job.architecture)),
                "seed": job.seed,
                "recipe": self.task.recipe.model_dump(mode="json"),
                "pieces": pieces,
                "weights": None if weights is None else str(weights / f"{job.architecture.key}-{job.seed}.safetensors"),
                "checkpoints": None if checkpoints is None else [str(checkpoints), _checkpoint_name(job)],
                "checkpoint_seconds": self.settings.checkpoint_seconds,
            },
        )

    def _lose(self, worker: _Worker, outcome: str, message: str) -> None:
        """Take note of a failure, put the job back where another try is allowed, and replace the process."""
        if worker not in self.workers:
            return
        tail = self._error_tail(worker)
        self._remove(worker)
        job = worker.job
        stopping = self.deadline < math.inf
        if job is not None:
            if outcome == "killed":
                code = worker.process.returncode
                message = f"the worker ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}; {tail}"
            self.store.fail(worker.attempt, outcome, message)
            # Tries are counted in the store, so those of an earlier driver count too.
            if outcome != "interrupted" and is_final(self.store.tries(job), self.settings.retries):
                self.failed += 1
                self.clear_checkpoints([job])
            else:
                self.waiting.appendleft(job)
        elif not worker.ready and not stopping:
            self.unborn += 1
            if self.unborn > self.settings.retries:
                raise UnavailableError(f"worker processes die before their first job: {tail or 'no message'}")
            self.start_worker(worker.device)
            return
        if self.waiting and not stopping:
            self.start_worker(worker.device)

    def _remove(self, worker: _Worker) -> None:
        # The whole group, and before it is waited for: until then its number cannot belong to another.
        with suppress(ProcessLookupError):
            os.killpg(worker.process.pid, signal.SIGKILL)
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


def _checkpoint_name(job: Job) -> str:
    return f"{job.stage}-{job.architecture.key}-{job.seed}"
