"""The bridge between a driver and a Ray cluster: a process of its own, and the only one of the driver's that knows Ray.

Ray ends a process that has lost its head for a minute, without a word that Python could hear, and takes signals for
itself. Here it ends the bridge; the driver notices, keeps its store, and builds another. The bridge reads commands as
JSON lines, keeps one actor for each worker (:class:`data_gen.keeper.Keeper`), and answers with JSON lines. Images go
once to Ray's object store; results, weights and checkpoints come back as files and lines. When its input closes, it
ends all actors and itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import socket
import sys
import threading
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from data_gen.keeper import File, Keeper, code_digest, own_folder, probe, torch_version
from supernet.files import write_bytes
from supernet.settings import UnavailableError
from training.checkpoint_files import found, keep_newest, remove

_PIECE = 64 * 2**20
"""Bytes of images that are one object of the store: a node holds no more of them in memory than that."""

_LOOK_SECONDS = 1.0
"""Between two looks at which nodes there are."""

_PROBE_SECONDS = 45.0
"""How long nodes may take to answer what they are; those that take longer are used once they have answered."""

_SILENCE_SECONDS = 10.0
"""After which the user is told that the head does not answer."""

_POLL_SECONDS = 0.2
_ANSWER_SECONDS = 10.0
_BRING_SECONDS = 600.0
"""How long a node may take at least to bring a file of images there."""

_END_SECONDS = 2.0
_LEAVE_SECONDS = 4.0


def main() -> None:
    """Serve a driver until standard input closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints
    os.chdir("/")  # Ray has the actors of this machine import from the folder that its driver is in
    first = json.loads(sys.stdin.readline())
    folder = _prepare_environment(first)
    import ray

    try:
        _connect(first)
        asyncio.run(_Bridge(first, answers).serve())
    except (ConnectionError, ValueError, RuntimeError, ImportError, OSError, ray.exceptions.RayError) as error:
        kind = "unavailable" if isinstance(error, UnavailableError) else "failure"
        answers.write(json.dumps({kind: _first_line(error)}) + "\n")
        answers.flush()
    finally:
        if folder is not None:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def _prepare_environment(first: Mapping[str, Any]) -> Path | None:
    """Set what Ray reads before it is imported; returns the folder of a cluster that is started here."""
    address = _address(first)
    if address == "local" or address.removeprefix("ray://").startswith(("127.", "localhost:")):
        # Under this name Ray keeps to the loopback address on Linux; without it, it listens on all.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if address == "local":
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # nobody else on this machine has business there
        # Of its own, or it would count as the cluster of this machine. Short: its sockets may have 107 bytes.
        folder = own_folder(os.environ.get("RAY_TMPDIR", "/tmp"))  # noqa: S108 - Ray's
        os.environ["RAY_TMPDIR"] = str(folder)
        return folder
    return None


def _address(first: Mapping[str, Any]) -> str:
    """Of the cluster; for ``auto`` what ``ray start`` on this machine has left, empty where it has left nothing.

    Ray itself would take any cluster that it finds among the processes here, also one that is another's own.
    """
    if first["address"] != "auto":
        return str(first["address"])
    base = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - where Ray looks
    try:
        left = Path(base, "ray", "ray_current_cluster").read_text(encoding="utf-8").strip()
    except OSError:
        left = ""
    return os.environ.get("RAY_ADDRESS") or left


def _connect(first: Mapping[str, Any]) -> None:
    """Raises ConnectionError where nobody answers, at once: Ray itself tries for minutes."""
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = _address(first)
    if address == "local":
        dashboard, cpus = first["dashboard"], first["cpus"]
        ray.init("local", num_cpus=cpus, include_dashboard=dashboard, _node_ip_address="127.0.0.1", **quiet)
        return
    if not address:
        raise ConnectionError("none runs on this machine")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"{host}:{port}: {error.strerror or error}") from error
    ray.init(address=address, **quiet)


class _Bridge:
    """The actors of a driver's workers, and the nodes that they may be on."""

    def __init__(self, first: Mapping[str, Any], answers: TextIO) -> None:
        self._answers = answers
        self._command = first["command"]
        self._images = Path(first["images"])
        self._splits: list[str] = first["splits"]
        self._placed: dict[str, asyncio.Task[list[Any]]] = {}  # by file, what is in the object store
        self._code = code_digest()
        self._torch = torch_version()
        self._nodes: dict[str, dict[str, Any]] = {}  # by Ray's number
        self._told: set[str] = set()  # those that the driver knows of
        self._keepers: dict[int, Any] = {}
        self._standing: set[int] = set()  # workers whose actor has been placed
        self._jobs: dict[int, dict[str, Any]] = {}  # what each worker was sent last: where its files belong
        self._tasks: set[asyncio.Task[None]] = set()
        self._commands: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()

        def read() -> None:
            for line in sys.stdin:
                loop.call_soon_threadsafe(self._commands.put_nowait, json.loads(line))
            loop.call_soon_threadsafe(self._commands.put_nowait, None)
            timer = threading.Timer(_LEAVE_SECONDS, os._exit, (1,))  # the driver is gone, whatever Ray is waiting for
            timer.daemon = True
            timer.start()

        threading.Thread(target=read, daemon=True).start()
        looking = self._begin(self._look_at_nodes())
        while True:
            command = await self._commands.get()
            if command is None:
                break
            if "start" in command:
                self._begin(self._tend(command))
            elif "send" in command:
                self._send(command["send"], command["message"])
            elif "end" in command:
                self._begin(self._end(command["end"]))
        looking.cancel()
        await asyncio.gather(*(self._end(number) for number in list(self._keepers)))

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # or it may be collected before it is done
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if isinstance(error, UnavailableError):  # the driver's own disk
            self._say(unavailable=str(error))
        else:
            task.print_stack()
            self._say(failure=_last_line(error))
        self._commands.put_nowait(None)

    def _say(self, **content: object) -> None:
        self._answers.write(json.dumps(content) + "\n")
        self._answers.flush()

    async def _look_at_nodes(self) -> None:
        """Tell the driver of nodes that come and go."""

        told, asked = "", dict[str, asyncio.Task[None]]()
        while True:
            found = {node["NodeID"]: node for node in await self._nodes_of_head()}
            for number, node in found.items():
                if node["Alive"] and number not in asked:
                    asked[number] = self._begin(self._look_at(number, node))
            if asked and not told:  # the driver decides by what it hears first
                await asyncio.wait(asked.values(), timeout=_PROBE_SECONDS)
            for number, node in self._nodes.items():
                node["alive"] = number in found and found[number]["Alive"]
            state = json.dumps(list(self._nodes.values()))
            if self._nodes and state != told:
                self._say(nodes=list(self._nodes.values()))
                self._told, told = set(self._nodes), state
            await asyncio.sleep(_LOOK_SECONDS)

    async def _nodes_of_head(self) -> list[dict[str, Any]]:
        """What the head knows of nodes. Where it is gone, Ray ends this process a minute later; till then, a word."""
        import ray

        asking = asyncio.create_task(asyncio.to_thread(ray.nodes))
        done, _ = await asyncio.wait([asking], timeout=_SILENCE_SECONDS)
        if not done:
            self._say(warning="the head of the cluster does not answer")
        return list(await asking)

    async def _look_at(self, number: str, node: Mapping[str, Any]) -> None:
        """Ask a new node what it is; one that cannot train is named, with the reason."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        why, memory, name = "", list[int](), str(node["NodeManagerHostname"])
        there = NodeAffinitySchedulingStrategy(number, soft=False)
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
        task: Any = ray.remote(probe)
        try:
            told = await task.options(**options).remote()
            name, memory = told["host"], told["memory"]
            if told["code"] != self._code:
                why = "another version of this tool is installed there"
            elif told["torch"] != self._torch:
                why = f"torch {told['torch']} is installed there, {self._torch} here"
        except ray.exceptions.RayTaskError as error:
            why = _last_line(error)
        except ray.exceptions.RayError as error:
            why = _first_line(error)
        if any(other["name"] == name and other["alive"] for other in self._nodes.values()):
            name = f"{name}/{number[:6]}"  # several nodes on a machine
        resources = node["Resources"]
        self._nodes[number] = {
            "id": number, "name": name, "alive": True, "why": why, "memory": memory,
            "cpus": float(resources.get("CPU", 0)), "gpus": float(resources.get("GPU", 0)),
        }  # fmt: skip

    async def _tend(self, command: Mapping[str, Any]) -> None:
        """A worker's life: its actor is placed, its images are brought, its lines are passed on."""
        import ray

        number, first = command["start"], command["first"]
        options: dict[str, Any] = {"scheduling_strategy": "SPREAD", **command["options"]}
        if command["avoid"]:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(command['avoid'])})"}
        actor: Any = ray.remote(Keeper)
        keeper = self._keepers[number] = actor.options(**options).remote()
        name = ""
        try:
            identity = await keeper.where.remote()
            self._standing.add(number)
            node = await self._known(identity)
            name = node["name"]
            if node["why"]:
                self._tell(number, ended=number, words=node["why"], lost=True, node=name)
                return
            described = await asyncio.to_thread(_read, self._images / "info.json")
            wanted = self._images.name, described, self._splits, first["memory_megabytes"]
            patience = max(_BRING_SECONDS, command["silence"])
            for file in await asyncio.wait_for(_answer(keeper.look.remote(*wanted)), patience):
                await asyncio.wait_for(_answer(keeper.bring.remote(file, await self._place(file))), patience)
            if first["device"] == "cpu":
                first["processes"] = max(1, int(node["cpus"]))
            process = await asyncio.wait_for(
                _answer(keeper.begin.remote(first, self._command, command["beat"])), patience
            )
            self._tell(number, placed=number, node=name, device=first["device"], pid=process)
            while True:
                lines, files, ended = await asyncio.wait_for(_answer(keeper.listen.remote()), command["silence"])
                if files and number in self._keepers:
                    await asyncio.to_thread(_write, files, self._jobs[number])
                for line in lines:
                    self._tell(number, line=number, text=line.decode(errors="replace"))
                    if b'"result"' in line:
                        self._jobs.pop(number, None)
                if ended is not None:
                    self._tell(number, ended=number, words=ended, lost=False, node=name)
                    return
        except ray.exceptions.RayTaskError as error:
            self._fault(number, name, error)
        except TimeoutError:
            self._tell(number, ended=number, words="no word from its node for too long", lost=True, node=name)
        except ray.exceptions.RayError as error:  # the actor is gone, and most often its node
            self._tell(number, ended=number, words=_last_line(error), lost=True, node=name)
        finally:
            await self._end(number)

    async def _known(self, identity: str) -> Mapping[str, Any]:
        """A node by Ray's number, once the driver knows of it too: an actor may be placed on one that has just come."""
        for _ in range(int(_PROBE_SECONDS / _POLL_SECONDS)):
            if identity in self._told:
                break
            await asyncio.sleep(_POLL_SECONDS)
        return self._nodes.get(identity, {"name": "", "cpus": 1, "why": "lost before it could be asked what it is"})

    def _fault(self, number: int, node: str, error: Exception) -> None:
        """An actor could not do its part, such as where a disk is full: its node's fault, not that of a job."""
        if number in self._jobs:
            job = self._jobs[number]["job"]
            answer = json.dumps({"job": job, "failure": "unavailable", "message": _last_line(error)})
            self._tell(number, line=number, text=answer)
        else:
            self._tell(number, ended=number, words=f"a fault of its node; {_last_line(error)}", lost=False, node=node)

    def _tell(self, number: int, **content: object) -> None:
        """Say something of a worker that the driver has not ended."""
        if number in self._keepers:
            self._say(**content)

    def _send(self, number: int, message: dict[str, Any]) -> None:
        keeper = self._keepers.get(number)
        if keeper is None:
            return
        files: list[File] = []
        if "job" in message:
            self._jobs[number] = message
            if message["checkpoints"] is not None:
                folder, name = message["checkpoints"]
                for _, base in found(Path(folder), name):
                    for path in (base.with_name(f"{base.name}.{ending}") for ending in ("safetensors", "json")):
                        with suppress(FileNotFoundError):
                            files.append(("checkpoints", path.name, path.read_bytes()))
        self._begin(self._sent(number, keeper.send.remote(message, files)))

    async def _sent(self, number: int, reference: Any) -> None:  # noqa: ANN401 - Ray's
        """Where a message could not be taken, the worker's job would never be heard of again."""
        import ray

        try:
            await reference
        except ray.exceptions.RayTaskError as error:
            self._fault(number, "", error)
        except ray.exceptions.RayError:
            pass  # listening to the actor tells

    async def _end(self, number: int) -> None:
        import ray

        keeper = self._keepers.pop(number, None)
        self._jobs.pop(number, None)
        if keeper is None:
            return
        if number in self._standing:  # else it waits for a node
            self._standing.discard(number)
            with suppress(TimeoutError, ray.exceptions.RayError):
                await asyncio.wait_for(_answer(keeper.end.remote()), _END_SECONDS)
        with suppress(ray.exceptions.RayError, ValueError):
            ray.kill(keeper)

    async def _place(self, name: str) -> list[Any]:
        """The pieces of a file in the object store, put there once."""
        if name not in self._placed:
            self._placed[name] = asyncio.create_task(asyncio.to_thread(_put, self._images / name))
        return await self._placed[name]


def _put(path: Path) -> list[Any]:
    """Raises UnavailableError where it cannot be read, or the object store takes no more."""
    import numpy as np
    import ray

    try:
        size = path.stat().st_size
        return [
            ray.put(np.fromfile(path, np.uint8, min(_PIECE, size - start), offset=start))  # read without a copy
            for start in range(0, size, _PIECE)
        ]
    except (OSError, ray.exceptions.RayError) as error:
        raise UnavailableError(f"{path}: cannot be put in the object store of the cluster ({error})") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnavailableError(f"{path}: cannot be read ({error.strerror})") from error


def _write(files: Sequence[File], job: Mapping[str, Any]) -> None:
    """Put files that have come from a node where the driver wants them."""
    weights, checkpoints = job["weights"], job["checkpoints"]
    for kind, name, content in files:
        folder = Path(weights).parent if kind == "weights" else Path(checkpoints[0])
        if kind == "checkpoints":
            for _, base in found(folder, checkpoints[1]):
                if base.name > Path(name).stem:  # the training could not go on from it and has begun again
                    remove(base)
        if content:
            write_bytes(folder / Path(name).name, content)
    if any(kind == "checkpoints" for kind, _, _ in files):
        keep_newest(Path(checkpoints[0]), checkpoints[1])


async def _answer(reference: Any) -> Any:  # noqa: ANN401 - Ray's, of whatever the method gives
    return await reference


def _first_line(error: BaseException) -> str:
    """The words of an error without advice that follows; where only a trace does, what that says."""
    first = str(error).strip().partition("\n")[0]
    return f"{first} {_last_line(error)}"[:300] if first.endswith(":") else first[:300] or type(error).__name__


def _last_line(error: BaseException) -> str:
    """The words of an error of Ray's that say what was wrong: what happened on a node has its trace before them."""
    return str(error).strip().rpartition("\n")[2].strip()[:300] or type(error).__name__


if __name__ == "__main__":
    main()
