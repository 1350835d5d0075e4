"""The driver: hands jobs to worker processes and commits what they answer.

Every result is committed before the next job is handed out. A worker that dies, hangs or reports a
failure costs one attempt of one job; the process is replaced and the run goes on. Ctrl-C or SIGTERM
has the workers leave a checkpoint and go, a second one ends them at once. Where the workers are is the
runner's business: processes of this machine, or of a cluster.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Literal

from data_gen.local import LocalRunner
from data_gen.nodes import GpuUse, NodeState, Standing, write_standing
from data_gen.runner import Ended, Event, Line, Place, Placed, Runner
from data_gen.store import Job, Store, is_final
from data_gen.task import Task, WorkerSettings
from supernet.files import sweep
from supernet.graph import named_graph_to_json
from supernet.settings import UnavailableError

_TAIL = 4
"""How many jobs of each worker are handed out longest first, at the end of the queue."""

_STOP_SECONDS = 9.0
"""In which a driver that is asked to stop is gone: workers leave checkpoints, and their runner is closed."""

_LOSSES = 5
"""How often a job may lose the machine that it is on at no cost; after that it may be what brings machines down."""

_STRAYS = 30
"""How often in a row workers may be lost on a machine before one of them was placed."""

_STANDING_SECONDS = 5.0
"""Between two notes of how the machines stand, for `genas status`."""

_NO_RESULT = (
    sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError,
    KeyError, ValueError, TypeError, OverflowError, RecursionError,
)  # fmt: skip
"""How the store and Python refuse what a worker calls a result."""

_FAILURES = ("oom", "diverged", "timeout", "crash", "killed")
_LOGGER = logging.getLogger("genas.driver")


@dataclass(frozen=True)
class Progress:
    """What a progress display needs: finished trainings of all, and what each worker is at (0..1).

    Attributes:
        asked: workers that were asked for and are not there yet.
    """

    done: int
    failed: int
    total: int
    running: tuple[float, ...]
    best: float | None
    asked: int = 0


@dataclass
class _Worker:
    """A worker and what it is doing."""

    number: int
    place: Place | None = None
    ready: bool = False
    job: Job | None = None
    attempt: int = 0
    batches: int = 0
    share: float = 0.0
    gpu: tuple[str, GpuUse] | None = None
    heard: float = field(default_factory=time.monotonic)

    @property
    def node(self) -> str:
        """The name of its machine; empty where that is not known yet."""
        return "" if self.place is None else self.place.node


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
        UnavailableError: no worker can start, the cluster is lost, or the store cannot be written.
        KeyboardInterrupt: passed on after the workers are stopped; what was committed stays.
    """
    jobs = list(dict.fromkeys(jobs))  # isomorphic networks share a job
    stages = {job.stage for job in jobs}
    results = {number: accuracy for stage in stages for number, accuracy in store.accuracies(stage).items()}
    failed = {failure.job.id for stage in stages for failure in store.failures(stage, settings.retries)}
    waiting = [job for job in jobs if job.id not in results and job.id not in failed]
    accuracies = [results[job.id] for job in jobs if job.id in results]
    state = Progress(
        len(accuracies), sum(job.id in failed for job in jobs), len(jobs), (), max(accuracies, default=None)
    )
    _clear_checkpoints(task, [job for job in jobs if job.id in results])  # a driver may have died after a commit
    runner = _runner(task, jobs, settings) if waiting else None  # a signal that comes meanwhile ends this at once
    with Signals() as signals:
        if runner is not None:
            pool = _Pool(store, waiting, task, settings, runner, state)
            try:
                pool.grow()
                while pool.workers or pool.waiting:
                    if signals.number is not None:
                        pool.ask_to_stop()
                        if not pool.workers:
                            break
                    pool.step()
                    if progress is not None:
                        progress(pool.progress())
                state = pool.progress()
            finally:
                pool.stop()
        if progress is not None:
            progress(state)


def _runner(task: Task, jobs: Sequence[Job], settings: WorkerSettings) -> Runner:
    if settings.runner == "local":
        return LocalRunner(task, jobs, settings)
    from data_gen.cluster import RayRunner

    return RayRunner(task, jobs, settings)


def next_job(waiting: deque[Job], workers: int, sizes: Mapping[str, float]) -> Job:
    """Take the first of the jobs that wait, but among the last few of each worker the longest.

    All workers then end at nearly the same time (Graham 1969). Sorting everything would gain nothing more, and whoever
    stops early would be left with labels of large networks alone.

    Args:
        workers: how many there are; on a cluster the number changes.
        sizes: of each architecture, by key: a rough measure of the time that its training takes.
    """
    if len(waiting) > _TAIL * workers:
        return waiting.popleft()
    longest = max(waiting, key=lambda job: sizes.get(job.architecture.key, 0.0))
    waiting.remove(longest)
    return longest


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
    """The workers and the jobs that wait for them."""

    def __init__(
        self,
        store: Store,
        waiting: Sequence[Job],
        task: Task,
        settings: WorkerSettings,
        runner: Runner,
        state: Progress,
    ) -> None:
        self.store, self.task, self.settings, self.runner = store, task, settings, runner
        self.waiting, self.sizes = deque(waiting), store.sizes()
        self.stage = waiting[0].stage if waiting else ""
        self.workers: dict[int, _Worker] = {}
        self.done, self.failed, self.total, self.best = state.done, state.failed, state.total, state.best
        self.unborn: Counter[str] = Counter()  # workers in a row that died before they were ready, by machine
        self.losses: Counter[int] = Counter()  # machines that each job has lost
        self.strays: Counter[str] = Counter()  # losses in a row before a worker was placed, by machine
        self.shunned: set[str] = set()  # machines that are used no more
        self.deadline = math.inf  # of a stop that was asked for
        self._told = -math.inf  # when it was noted how the machines stand
        self._messages: list[tuple[int, dict[str, object]]] = []  # to be sent once all that was heard is committed
        self._finished: list[Job] = []  # whose checkpoints go then

    def progress(self) -> Progress:
        """Where the work stands: what is told was committed."""
        shares = tuple(worker.share for worker in self.workers.values() if worker.job is not None)
        asked = sum(worker.place is None for worker in self.workers.values())
        return Progress(self.done, self.failed, self.total, shares, self.best, asked)

    def grow(self) -> None:
        """Ask for as many workers as there are jobs that wait for one, and as the machines hold."""
        if self.deadline < math.inf:
            return
        idle = sum(worker.job is None for worker in self.workers.values())
        used = sum(worker.node not in self.shunned for worker in self.workers.values())
        for _ in range(min(len(self.waiting) - idle, self.runner.capacity() - used)):
            worker = _Worker(self.runner.start())
            self.workers[worker.number] = worker
        if idle > len(self.waiting):  # nobody waits for a worker that is not placed and has nothing to do
            unplaced = [worker for worker in self.workers.values() if worker.place is None]
            for worker in unplaced[: idle - len(self.waiting)]:
                self._remove(worker)

    def step(self) -> None:
        """Hear what the workers say, at most a moment; commit it all at once; only then hand out the next jobs."""
        heard = self.runner.hear(0.25)
        strays = self._strays(heard)
        with self.store.together():
            for event in heard:
                worker = self.workers.get(event.worker)
                if worker is None:  # an earlier line was its last
                    continue
                if isinstance(event, Placed):
                    worker.place, worker.heard = event.place, time.monotonic()
                    self.strays.pop(worker.node, None)
                    self.strays.pop("", None)
                elif isinstance(event, Line):
                    self._read(worker, event.text)
                else:
                    self._has_ended(worker, event)
            now = time.monotonic()
            for worker in list(self.workers.values()):
                if now > self.deadline:
                    self._lose(worker, "interrupted", "")
                elif worker.place is not None and now - worker.heard > self.settings.stall_seconds:
                    self._lose(worker, "timeout", f"no step for {self.settings.stall_seconds:g} s")
            for node, words in strays.items():
                self.strays[node] += 1
                if self.strays[node] > _STRAYS:
                    self._give_up(node, f"workers are lost before they are placed: {words}")
        for number, message in self._messages:
            if number in self.workers:
                self.runner.send(number, message)
        self._messages.clear()
        _clear_checkpoints(self.task, self._finished)
        self._finished.clear()
        self.grow()
        self._tell_standing()

    def _tell_standing(self) -> None:
        """Note once in a while how the machines stand: for display alone."""
        now = time.monotonic()
        if now - self._told < _STANDING_SECONDS:
            return
        self._told = now
        self._see_nodes()
        states = []
        for node in self.runner.nodes():
            here = [worker for worker in self.workers.values() if worker.node == node.name]
            gpus = dict(worker.gpu for worker in here if worker.gpu is not None)
            running = sum(worker.job is not None for worker in here)
            device: Literal["cpu", "cuda"] = "cuda" if node.device == "cuda" else "cpu"
            states.append(
                NodeState(node.name, device, node.places, len(here), running, tuple(gpus.values()), node.lost, node.why)
            )
        asked = self.progress().asked
        standing = Standing(time.time(), self.stage, self.settings.runner, len(self.waiting), asked, tuple(states))
        with suppress(UnavailableError):  # a full disk is told where it costs something
            write_standing(self.store.path.parent, standing)

    def ask_to_stop(self) -> None:
        """Have every worker leave a checkpoint and go; those that do not within some seconds are killed."""
        if self.deadline < math.inf:
            return
        self.deadline = time.monotonic() + _STOP_SECONDS - self.runner.closing
        _LOGGER.warning("stopping: running trainings leave a checkpoint; once more stops at once")
        for worker in list(self.workers.values()):
            if worker.job is None:
                self._remove(worker)
            else:
                self.runner.send(worker.number, {"stop": True})

    def stop(self) -> None:
        """Kill what still runs; its attempts are marked as interrupted and do not count."""
        left = list(self.workers.values())
        self.workers.clear()
        self.runner.close()
        if self.task.checkpoints is not None:
            sweep(self.task.checkpoints)  # workers may have been killed in the middle of a file
        for worker in left:
            if worker.job is not None:
                with suppress(UnavailableError):  # a full disk, told already: the next driver closes the attempt
                    self.store.fail(worker.attempt, "interrupted", "")

    def _read(self, worker: _Worker, line: bytes) -> None:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict):
            self._hear(worker, answer)
        else:
            self._lose(worker, "crash", f"the worker wrote what is no answer: {line[:200]!r}")

    def _hear(self, worker: _Worker, answer: dict[str, object]) -> None:
        if "ready" in answer and not worker.ready:
            worker.heard = time.monotonic()
            worker.ready = True
            self.unborn.pop(worker.node, None)
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
            worker.gpu = _gpu(answer.get("gpu"))
        elif "result" in answer:
            result = answer["result"]
            try:
                accuracy = self._commit(job, worker.attempt, result)  # first of all
            except _NO_RESULT as error:
                self._lose(worker, "crash", f"the worker gave a result that is none ({type(error).__name__}: {error})")
                return
            self._finished.append(job)
            self.done += 1
            self.best = accuracy if self.best is None else max(self.best, accuracy)
            worker.job = None
            self._next_job(worker)
        elif "stopped" in answer and self.deadline < math.inf:  # unasked, it would be tried again without end
            self._lose(worker, "interrupted", "")
        elif answer.get("failure") == "unavailable":  # the machine's fault, which costs the job nothing
            words = str(answer.get("message", "the worker says that the machine lacks something"))
            self._lose(worker, "interrupted", words)
            self._give_up(worker.node, words)
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
        if not self.waiting or self.deadline < math.inf or worker.node in self.shunned:
            self._remove(worker)
            return
        job = next_job(self.waiting, len(self.workers), self.sizes)
        pieces = 2 if "oom" in self.store.tries(job) else 1
        worker.attempt = self.store.start(job, 0 if worker.place is None else worker.place.pid, worker.node)
        worker.job, worker.share, worker.batches, worker.heard = job, 0.0, 0, time.monotonic()
        weights, checkpoints = self.task.weights, self.task.checkpoints
        message: dict[str, object] = {
            "job": job.id,
            "key": job.architecture.key,
            "choices": list(job.architecture.choices),
            # Not the space: a worker need not know one that is written in Python.
            "graph": named_graph_to_json(self.task.space.graph(job.architecture)),
            "seed": job.seed,
            "recipe": self.task.recipe.model_dump(mode="json"),
            "pieces": pieces,
            "weights": None if weights is None else str(weights.absolute() / _weights_name(job)),
            "checkpoints": None if checkpoints is None else [str(checkpoints.absolute()), _checkpoint_name(job)],
            "checkpoint_seconds": self.settings.checkpoint_seconds,
        }
        self._messages.append((worker.number, message))

    def _has_ended(self, worker: _Worker, event: Ended) -> None:
        """A worker is gone that was not told to go."""
        del self.workers[worker.number]
        if worker.job is not None:
            outcome = "killed"
            if event.lost:
                self.losses[worker.job.id] += 1
                outcome = "interrupted" if self.losses[worker.job.id] <= _LOSSES else "killed"
            self._failed(worker, outcome, event.words if event.lost else f"the worker ended with {event.words}")
        elif not event.lost:
            self._died_unborn(event.node, event.words.partition("; ")[2])

    def _died_unborn(self, node: str, words: str) -> None:
        if self.deadline < math.inf:
            return
        self.unborn[node] += 1
        if self.unborn[node] > self.settings.retries:
            self._give_up(node, f"worker processes die before their first job: {words or 'no message'}")

    def _give_up(self, node: str, words: str) -> None:
        self.runner.give_up(node, words)
        self._see_nodes()

    def _see_nodes(self) -> None:
        """A machine that was mended comes back under its name."""
        nodes = self.runner.nodes()
        self.shunned = {node.name for node in nodes if node.why} - {node.name for node in nodes if not node.why}

    def _strays(self, heard: Sequence[Event]) -> dict[str, str]:
        """Of each machine that has lost workers before they were placed, the words of the last."""
        lost = [event for event in heard if isinstance(event, Ended) and event.lost and event.worker in self.workers]
        return {event.node: event.words for event in lost if self.workers[event.worker].place is None}

    def _lose(self, worker: _Worker, outcome: str, message: str) -> None:
        """End a worker and take note of why."""
        self._remove(worker)
        self._failed(worker, outcome, message)
        if worker.job is None:  # it hung, or spoke out of turn
            self._died_unborn(worker.node, message)

    def _failed(self, worker: _Worker, outcome: str, message: str) -> None:
        """Take note of how a job has ended, and put it back where another try is allowed."""
        job = worker.job
        if job is None:
            return
        self.store.fail(worker.attempt, outcome, message)
        # Tries are counted in the store, so those of an earlier driver count too.
        if outcome != "interrupted" and is_final(self.store.tries(job), self.settings.retries):
            self.failed += 1
            self._finished.append(job)
        else:
            self.waiting.appendleft(job)

    def _remove(self, worker: _Worker) -> None:
        del self.workers[worker.number]
        self.runner.end(worker.number)


def _clear_checkpoints(task: Task, jobs: Sequence[Job]) -> None:
    """Remove what finished jobs could have gone on from."""
    names = {_checkpoint_name(job) for job in jobs}
    for path in task.checkpoints.glob("*") if names and task.checkpoints is not None else ():
        if path.name.rsplit(".", 2)[0] in names:  # NAME.STEP.json and NAME.STEP.safetensors
            path.unlink(missing_ok=True)


def _gpu(told: object) -> tuple[str, GpuUse] | None:
    """What a worker says of its GPU: which, and how busy; None where it says nothing that can be shown."""
    try:
        use, memory = float(told["use"]), float(told["memory"])  # type: ignore[index]
        name = str(told["id"])  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        return None
    return (name, GpuUse(use, memory)) if 0 <= use <= 1 and 0 <= memory <= 1 else None


def _weights_name(job: Job) -> str:
    return f"{job.architecture.key}-{job.seed}.safetensors"


def _checkpoint_name(job: Job) -> str:
    return f"{job.stage}-{job.architecture.key}-{job.seed}"
