"""What runs on a node of a Ray cluster: an actor that holds one worker process, and a look at the node itself.

The actor places the images in the node's cache, starts the worker, and carries lines and files between it and the
bridge. A training that hangs or crashes is in the worker, so that the actor can always answer.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from data_gen.processes import WorkerProcess
from data_gen.task import WORKER
from supernet.files import bytes_digest, sweep, write_bytes
from supernet.settings import UnavailableError
from training.checkpoint_files import found
from training.data import SplitName, cache_folder, damage
from training.native import build

File = tuple[str, str, bytes]
"""What it belongs to (``weights`` or ``checkpoints``), its name, its content."""

_FOLDER = "genas-"


def probe() -> dict[str, Any]:
    """What a node is: ``host``, the ``code`` of this tool there, versions, and the bytes of its GPUs."""
    return {"host": socket.gethostname(), "code": code_digest(), "torch": torch_version(), "memory": gpu_memory()}


def torch_version() -> str:
    """The version that is installed."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return "none"


def code_digest() -> str:
    """Tells whether the code that trains is the same here and there."""
    root = Path(__file__).parent.parent
    packages = [root / name for name in ("supernet", "training", "data_gen")]
    paths = sorted(path for package in packages for path in (*package.rglob("*.py"), *package.rglob("*.cpp")))
    whole = hashlib.blake2b(digest_size=16)
    for path in paths:
        whole.update(f"{path.relative_to(root)} {bytes_digest(path.read_bytes())}\n".encode())
    return whole.hexdigest()


def gpu_memory() -> list[int]:
    """Bytes of each NVIDIA GPU, also of those that this process may not use; empty where there is none."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
        return [int(line) * 2**20 for line in told.splitlines() if line.strip()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


class Keeper:
    """An actor that holds one worker process. Its methods are called in turn by the bridge."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._process: WorkerProcess | None = None
        self._lock: IO[str] | None = None
        self._images = Path()
        self._something, self._gone = asyncio.Event(), asyncio.Event()
        self._lines: list[bytes] = []
        self._beat: bytes | None = None
        self._ended: str | None = None
        self._job: dict[str, Any] = {}
        self._sent: set[str] = set()  # checkpoints, those too that came with the job
        self._beat_seconds = 1.0

    async def where(self) -> str:
        """Ray's number of this node."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    async def look(
        self, name: str, described: bytes, splits: Sequence[SplitName], memory_megabytes: float
    ) -> list[str]:
        """Which files of the prepared images are still to be brought here; nobody else on this node looks meanwhile.

        Args:
            name: of the folder; described: its info.json, by whose content the node's copy is named.
            memory_megabytes: of a larger file only the size is compared.
        """
        self._folder = own_folder(tempfile.gettempdir())
        copy = cache_folder() / "placed" / bytes_digest(described) / name
        try:
            copy.mkdir(parents=True, exist_ok=True)
            self._lock = (copy.parent / "lock").open("w")
            await asyncio.to_thread(fcntl.flock, self._lock, fcntl.LOCK_EX)
            sweep(copy)
        except OSError as error:
            raise UnavailableError(f"{copy}: cannot write images ({error.strerror})") from error
        self._images = cache_folder() / "prepared" / name  # where the driver is on this node
        missing = await self._missing(described, splits, memory_megabytes)
        if missing:
            self._images = copy
            missing = await self._missing(described, splits, memory_megabytes)
        if missing:
            write_bytes(copy / "info.json", described)
        return [f"{split}_{part}.npy" for split in missing for part in ("images", "labels")]

    async def _missing(
        self, described: bytes, splits: Sequence[SplitName], memory_megabytes: float
    ) -> Sequence[SplitName]:
        try:
            if (self._images / "info.json").read_bytes() != described:
                return splits
        except OSError:
            return splits
        return [split for split in splits if await asyncio.to_thread(damage, self._images, [split], memory_megabytes)]

    async def bring(self, name: str, pieces: Sequence[Any]) -> None:
        """Write a file from its pieces in the object store."""
        temporary = self._images / f".{name}.{os.getpid()}.tmp"
        try:
            with temporary.open("wb") as file:
                for piece in pieces:  # one at a time: the node need not hold all of it in memory
                    file.write(memoryview(await piece))
            temporary.replace(self._images / name)
        except OSError as error:
            raise UnavailableError(f"{self._images}: cannot write images ({error.strerror})") from error
        finally:
            temporary.unlink(missing_ok=True)

    async def begin(self, first: Mapping[str, Any], command: Sequence[str] | None, beat: float) -> int:
        """Start the worker; returns the number of its process.

        Args:
            first: its first message.
            command: None is the worker of this tool.
            beat: seconds between two signs of life that are passed on.
        """
        if command is None and first["device"] == "cpu":
            await asyncio.to_thread(build)  # once on this node, and not by all workers at the same time
        self._unlock()
        self._beat_seconds = beat
        process = self._process = WorkerProcess(WORKER if command is None else command, first["device"])
        process.send({**first, "data": str(self._images)})
        loop = asyncio.get_running_loop()

        def read() -> None:
            while (lines := process.read()) is not None:
                loop.call_soon_threadsafe(self._heard, lines)
            loop.call_soon_threadsafe(self._closed, process)

        threading.Thread(target=read, daemon=True).start()
        return process.pid

    async def send(self, message: Mapping[str, Any], checkpoints: Sequence[File]) -> None:
        """Pass a line on; a job's files are in this node's folder meanwhile."""
        if self._process is None or self._folder is None:
            return
        if "job" in message:
            self._job = dict(message)
            folder = self._folder / "checkpoints"
            try:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(exist_ok=True)
                for _, name, content in checkpoints:
                    (folder / name).write_bytes(content)
            except OSError as error:
                raise UnavailableError(f"{folder}: cannot write ({error.strerror})") from error
            if message["checkpoints"] is not None:
                self._job["checkpoints"] = [str(folder), message["checkpoints"][1]]
            self._sent = {Path(name).stem for _, name, _ in checkpoints}
            if message["weights"] is not None:
                self._job["weights"] = str(self._folder / "weights" / Path(message["weights"]).name)
            message = self._job
        self._process.send(message)

    async def listen(self) -> tuple[list[bytes], list[File], str | None]:
        """What the worker wrote since, the files that belong to it, and how it ended where it has.

        Answers at once where there is something to tell. Signs of life are told once in a while, and the answer that
        there is nothing to tell says that this node still is.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(self._something.wait(), self._beat_seconds)
        self._something.clear()
        lines, self._lines = self._lines, []
        if self._beat is not None:
            lines.insert(0, self._beat)
            self._beat = None
        return lines, self._files(lines), self._ended

    async def end(self) -> None:
        """Kill the worker with all that it has started, and remove its files."""
        if self._process is not None:
            self._process.kill()
            await self._gone.wait()
        self._unlock()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _heard(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            if b'"batches"' in line and b'"result"' not in line:
                self._beat = line
            else:
                self._lines.append(line)
                self._something.set()

    def _closed(self, process: WorkerProcess) -> None:
        self._ended, self._process = process.end(), None
        self._something.set()
        self._gone.set()

    def _files(self, lines: Sequence[bytes]) -> list[File]:
        """The weights of a result, else the newest checkpoint that was not sent yet."""
        if any(b'"result"' in line for line in lines):
            if not self._job.get("weights"):
                self._job = {}
                return []
            trained = Path(self._job["weights"])
            paths = [path for path in (trained, trained.with_suffix(".json")) if path.exists()]
            files = [("weights", path.name, path.read_bytes()) for path in paths]
            for path in paths:
                path.unlink()
            self._job = {}  # what it has left besides is worth nothing any more
            return files
        if not self._job.get("checkpoints"):
            return []
        folder, name = self._job["checkpoints"]
        there = {base.name: base for _, base in found(Path(folder), name)}
        if self._sent and not there:  # the training could not go on from any
            self._sent.clear()
            return [("checkpoints", f"{name}.", b"")]
        self._sent &= there.keys()
        for base in there.values():
            if base.name in self._sent:
                break
            described, weights = (base.with_name(f"{base.name}.{ending}") for ending in ("json", "safetensors"))
            with suppress(FileNotFoundError):  # it is being written or removed: whose JSON is there is whole
                files = [("checkpoints", path.name, path.read_bytes()) for path in (described, weights)]
                self._sent.add(base.name)
                return files[::-1]  # in the order in which they are written
        return []

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def own_folder(base: str) -> Path:
    """A temporary folder of this process; those of processes that were killed are removed.

    Raises UnavailableError where there can be none.
    """
    for path in Path(base).glob(f"{_FOLDER}*"):
        process = path.name.removeprefix(_FOLDER).partition("-")[0]
        if sys.platform == "linux" and process.isdecimal() and not Path(f"/proc/{process}").exists():
            shutil.rmtree(path, ignore_errors=True)
    try:
        return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=base))
    except OSError as error:
        raise UnavailableError(f"{base}: cannot write ({error.strerror})") from error
