"""The runner of a Ray cluster, as the driver sees it: a bridge process that it talks to, see data_gen.ray_bridge."""

from __future__ import annotations

import importlib.util
import json
import logging
import select
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from data_gen.memory import processes_that_fit
from data_gen.processes import WorkerProcess
from data_gen.runner import Ended, Event, Line, Node, Place, Placed
from data_gen.store import Job
from data_gen.task import WORKER, Task, WorkerSettings
from supernet.settings import UnavailableError

_BRIDGE = (sys.executable, "-P", "-m", "data_gen.ray_bridge")
_PATIENCE = 120.0
"""Seconds in which a cluster that has lost its head, or all nodes that can train, may get another."""

_FALLS = 30
"""Bridges in a row that may end before any worker is placed."""

_CONNECT_SECONDS = 60.0
"""Until a cluster, or the nodes of it that are asked what they are, have to have answered."""

_AGAIN_SECONDS = 5.0
"""Between two attempts to reach it."""

_SHARES = 10_000
"""Ray counts a GPU in so many parts."""

_BEATS = 50
"""Signs of life that all workers together give in a second."""

_LOGGER = logging.getLogger("genas.cluster")


class RayRunner:
    """A :class:`data_gen.runner.Runner` of worker processes on the nodes of a Ray cluster.

    Args:
        jobs: all of the stage: how a batch is passed must not depend on how many of them are left.

    Attributes:
        closing: the bridge ends its actors, and a cluster of its own.

    Raises:
        UnavailableError: Ray is not installed, no cluster answers, or it has no device of the kind that is asked for.
    """

    closing = 5.0

    def __init__(self, task: Task, jobs: Sequence[Job], settings: WorkerSettings) -> None:
        missing = [name for name in ("ray", "grpc") if importlib.util.find_spec(name) is None]
        if missing:
            raise UnavailableError(
                f"workers.runner is 'ray', but {missing[0]} is not installed here: pip install 'genas[ray]'"
            )
        self._task, self._settings, self._jobs = task, settings, len(jobs)
        self._workers: set[int] = set()
        self._started = 0
        self._nodes: list[dict[str, Any]] = []
        self._given_up: dict[str, str] = {}  # by Ray's number of the node
        self._bridge: WorkerProcess | None = None
        self._words = ""  # why a bridge has ended
        self._refusal = ""  # why it makes no sense to go on
        self._falls = 0
        self._useful = time.monotonic()  # when there was last a node that can train
        self._again = 0.0  # when it is tried to reach the cluster again
        latest = time.monotonic() + _CONNECT_SECONDS
        tries = 3 if settings.address.startswith("ray://") else 1  # its server starts slowly
        with ExitStack() as stack:
            stack.callback(self.close)
            while not self._nodes:
                self.hear(0.25)
                if (self._bridge is None and self._falls >= tries) or time.monotonic() > latest:
                    raise self._unreachable()
            self._device = self._kind()
            self._each = self._side_by_side(task, jobs) if self._device == "cuda" else 1
            if not self.capacity():
                raise UnavailableError(
                    f"{self._useless()}; let nodes join, or say with workers.most how many trainings a cluster that "
                    f"grows shall take"
                )
            stack.pop_all()  # it stays connected

    def capacity(self) -> int:
        if not self._nodes:  # the connection is lost
            return 0
        if self._settings.most is not None:
            return self._settings.most  # also where nodes for it are still to come
        return self._all_places()

    def start(self) -> int:
        self._started += 1
        self._workers.add(self._started)
        self._say(
            start=self._started,
            first=self._task.first_message("cuda:0" if self._device == "cuda" else "cpu", self._each),
            options={"num_cpus": 1} if self._device == "cpu" else {"num_cpus": 0, "num_gpus": self._share()},
            avoid=[node["id"] for node in self._nodes if node["alive"] and self._why(node)],
            beat=min(self._settings.stall_seconds / 4, max(0.5, self.capacity() / _BEATS)),
            silence=self._settings.stall_seconds * 3 / 4,  # a node that is gone is no hang of a training
        )
        return self._started

    def send(self, worker: int, message: Mapping[str, object]) -> None:
        if "job" in message:
            # Checkpoints travel: of all workers together about one a second.
            seconds = max(self._settings.checkpoint_seconds, float(len(self._workers)))
            message = {**message, "checkpoint_seconds": seconds}
        self._say(send=worker, message=message)

    def hear(self, seconds: float) -> list[Event]:
        now = time.monotonic()
        if self._refusal:
            raise UnavailableError(self._refusal)
        if self.capacity():
            self._useful = now
        elif self._started and now - self._useful > _PATIENCE:
            raise self._unreachable() if not self._nodes else UnavailableError(self._useless())
        if self._bridge is None:
            if now < self._again:
                time.sleep(min(seconds, self._again - now))
                return []
            self._build()
        assert self._bridge is not None
        ready, _, _ = select.select([self._bridge.output], [], [], seconds)
        if not ready:
            return []
        lines = self._bridge.read()
        if lines is None:
            return self._lose()
        return [event for line in lines for event in self._read(json.loads(line))]

    def end(self, worker: int) -> None:
        self._workers.discard(worker)
        self._say(end=worker)

    def give_up(self, node: str, why: str) -> None:
        for one in self._nodes:
            if one["name"] == node and not self._why(one):
                self._given_up[one["id"]] = why
                _LOGGER.warning("node %s is used no more: %s", node, why)
        if not node or not self._all_places():
            raise UnavailableError(f"node {node}: {why}" if node else why)

    def nodes(self) -> list[Node]:
        by_name = {one["name"]: one for one in sorted(self._nodes, key=lambda one: bool(one["alive"]))}
        return [
            Node(name, self._device, self._places(one), not one["alive"], self._why(one) if one["alive"] else "")
            for name, one in sorted(by_name.items())
        ]

    def close(self) -> None:
        if self._bridge is not None:
            if self._nodes:  # otherwise it is connecting, and does not listen
                self._bridge.leave(self.closing - 0.5)
            self._bridge.end()
            self._bridge = None

    def _build(self) -> None:
        """Start a bridge."""
        self._words = ""
        self._bridge = WorkerProcess(_BRIDGE, "none")
        self._say(
            address=self._settings.address,
            dashboard=self._settings.dashboard,
            cpus=self._settings.cpu_workers,
            command=None if self._task.command == WORKER else list(self._task.command),
            images=str(self._task.data.folder.absolute()),
            splits=["train", "validation", *(["test"] if self._task.measure == "test" else [])],
        )

    def _say(self, **content: object) -> None:
        if self._bridge is not None:
            self._bridge.send(content)

    def _read(self, told: Mapping[str, Any]) -> list[Event]:
        """What a line of the bridge means."""
        if "nodes" in told:
            self._take_nodes(told["nodes"])
        elif "unavailable" in told:
            self._refusal = told["unavailable"]  # what was heard with it counts
        elif "warning" in told:
            _LOGGER.warning("%s (%s)", told["warning"], self._settings.address)
        elif "failure" in told:
            self._words = told["failure"]
        elif "placed" in told:
            self._falls = 0
            return [Placed(told["placed"], Place(told["node"], told["device"], told["pid"]))]
        elif "line" in told:
            return [Line(told["line"], told["text"].encode())]
        elif "ended" in told:
            self._workers.discard(told["ended"])
            return [Ended(told["ended"], told["words"], told["lost"], told["node"])]
        return []

    def _take_nodes(self, nodes: list[dict[str, Any]]) -> None:
        before = {node["id"]: node for node in self._nodes}
        for node in nodes:
            name, old = node["name"], before.get(node["id"])
            if old is None and not node["alive"]:
                continue
            if old is None and node["why"]:
                _LOGGER.warning("node %s cannot be used: %s", name, node["why"])
            elif old is None and before:
                _LOGGER.warning("node %s has joined", name)
            elif old is not None and old["alive"] and not node["alive"]:
                _LOGGER.warning("node %s is lost; its trainings go on elsewhere", name)
        self._nodes = nodes

    def _lose(self) -> list[Event]:
        """The bridge has ended: with it all workers are lost, and perhaps the cluster."""
        assert self._bridge is not None
        said = self._bridge.end()
        self._bridge = None
        self._words = self._words or said.strip("; \n").rpartition("\n")[2]
        self._again = time.monotonic() + _AGAIN_SECONDS
        self._falls += 1
        if self._started and self._falls == 1:
            _LOGGER.warning("the cluster at %s is lost (%s); trying again", self._settings.address, self._words)
        elif self._falls > _FALLS:
            raise self._unreachable()
        gone = sorted(self._workers)
        self._workers.clear()
        self._nodes = []
        return [Ended(number, "the connection to the cluster is lost", lost=True) for number in gone]

    def _unreachable(self) -> UnavailableError:
        address = self._settings.address
        words = self._words or f"no answer within {_CONNECT_SECONDS:g} s"
        hint = "; start one with `ray start --head`, or have one started for this run with --address local"
        return UnavailableError(
            f"no Ray cluster can be reached at {address} ({words}){hint if address == 'auto' else ''}"
        )

    def _useless(self) -> str:
        return f"the cluster at {self._settings.address} has no node that can train: {self._described()}"

    def _why(self, node: Mapping[str, Any]) -> str:
        """Why a node is not used; empty where it is."""
        if not node["alive"]:
            return "lost"
        return str(node["why"] or self._given_up.get(node["id"], ""))

    def _all_places(self) -> int:
        return sum(self._places(node) for node in self._nodes if not self._why(node))

    def _places(self, node: Mapping[str, Any]) -> int:
        return int(node["cpus"] if self._device == "cpu" else node["gpus"] * self._each)

    def _kind(self) -> str:
        gpus = sum(node["gpus"] for node in self._nodes if not self._why(node))
        if self._settings.device == "cuda" and not gpus and self._settings.most is None:
            raise UnavailableError(
                f"workers.device is 'cuda', but the cluster at {self._settings.address} has no GPU: "
                f"{self._described()}; use 'auto' or 'cpu', or say with workers.most how many trainings to ask for"
            )
        return "cuda" if self._settings.device == "cuda" or (self._settings.device == "auto" and gpus) else "cpu"

    def _side_by_side(self, task: Task, jobs: Sequence[Job]) -> int:
        """Trainings on one GPU, by the one with the least memory."""
        if self._settings.per_gpu != "auto":
            return self._settings.per_gpu
        known = [size for node in self._nodes if node["gpus"] and not self._why(node) for size in node["memory"]]
        if not known:
            _LOGGER.warning("no node tells the memory of its GPUs: one training on each; workers.per_gpu sets another")
            return 1
        return processes_that_fit(task, jobs, min(known))

    def _share(self) -> float:
        """Of a GPU, for one training: no less than is needed for all GPUs to be used by few jobs."""
        gpus = int(sum(node["gpus"] for node in self._nodes if not self._why(node)))
        wanted = self._each if not gpus else min(self._each, -(-self._jobs // gpus))
        return int(_SHARES / max(1, wanted)) / _SHARES

    def _described(self) -> str:
        words = [
            f"{node['name']}: {node['cpus']:g} CPUs, {node['gpus']:g} GPUs{why and f' ({why})'}"
            for node in self._nodes
            for why in [self._why(node)]
        ]
        return ", ".join(words) or "it has none"
