"""The local runner: worker processes on this machine, as many as its devices hold."""

from __future__ import annotations

import os
import selectors
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from data_gen.memory import processes_that_fit
from data_gen.processes import WorkerProcess
from data_gen.runner import Ended, Event, Line, Node, Place, Placed
from data_gen.store import Job
from data_gen.task import Task, WorkerSettings
from supernet.settings import UnavailableError
from training.devices import gpu_names, total_memory
from training.native import build


def device_names(settings: WorkerSettings, fitting: Callable[[int], int] | None = None) -> list[str]:
    """One device name for each worker process. Raises UnavailableError for a GPU that is not there.

    Args:
        fitting: how many processes fit on a GPU of so many bytes, asked of the smallest where ``per_gpu`` is ``auto``;
            None is one.
    """
    gpus = len(gpu_names()) if settings.device != "cpu" else 0
    if gpus:
        if settings.per_gpu != "auto":
            each = settings.per_gpu
        elif fitting is None:
            each = 1
        else:
            each = fitting(min(total_memory(f"cuda:{index}") or 0 for index in range(gpus)))
        return [f"cuda:{index}" for _ in range(each) for index in range(gpus)]  # few jobs spread over all
    if settings.device == "cuda":
        raise UnavailableError("workers.device is 'cuda', but torch sees no GPU; use 'auto' or 'cpu'")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ["cpu"] * (settings.cpu_workers or cores)


class LocalRunner:
    """A :class:`data_gen.runner.Runner` of processes on this machine.

    Args:
        jobs: all of the stage, not only those that are left: how a batch is passed must not depend on that.
    """

    closing = 1.0

    def __init__(self, task: Task, jobs: Sequence[Job], settings: WorkerSettings) -> None:
        self._task = task
        self._devices = device_names(settings, partial(processes_that_fit, task, jobs))
        self._workers: dict[int, tuple[str, WorkerProcess]] = {}
        self._started = 0
        self._placed: list[Event] = []
        self._selector = selectors.DefaultSelector()
        self._name = socket.gethostname()

    def capacity(self) -> int:
        return len(self._devices)

    def start(self) -> int:
        taken = Counter(device for device, _ in self._workers.values())
        all_of = Counter(self._devices)
        free = [one for one in all_of if taken[one] < all_of[one]]
        device = min(free, key=lambda one: taken[one])  # few jobs spread over all
        if device == "cpu":
            build()  # once, and not by all workers at the same time
        process = WorkerProcess(self._task.command, device)
        self._started += 1
        self._workers[self._started] = (device, process)
        self._selector.register(process.output, selectors.EVENT_READ, self._started)
        process.send(self._task.first_message(device, all_of[device]))
        self._placed.append(Placed(self._started, Place(self._name, device, process.pid)))
        return self._started

    def send(self, worker: int, message: Mapping[str, object]) -> None:
        self._workers[worker][1].send(message)

    def hear(self, seconds: float) -> list[Event]:
        heard, self._placed = self._placed, []
        for event, _ in self._selector.select(0 if heard else seconds):
            number: int = event.data
            lines = self._workers[number][1].read()
            heard += [Line(number, line) for line in lines or ()]
            if lines is None:
                heard.append(Ended(number, self._remove(number), node=self._name))
        return heard

    def end(self, worker: int) -> None:
        self._remove(worker)

    def give_up(self, node: str, why: str) -> None:  # noqa: ARG002 - there is no other machine
        raise UnavailableError(why)

    def nodes(self) -> list[Node]:
        return [Node(self._name, self._devices[0].partition(":")[0], len(self._devices))]

    def close(self) -> None:
        for number in list(self._workers):
            self._remove(number)
        self._selector.close()

    def _remove(self, number: int) -> str:
        _, process = self._workers.pop(number)
        self._selector.unregister(process.output)
        return process.end()
