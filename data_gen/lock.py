"""Who drives a run: a lock of the kernel's on a file in the run's folder. Whoever dies, however, gives it back."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

from supernet import InputError
from supernet.settings import UnavailableError

_PATIENCE = 1.0  # seconds for an owner that has just taken the lock to write down who it is
_FLOCK = "hhqqi"  # struct flock of Linux: type, whence, start, length, process

_held: dict[Path, int] = {}
"""Locks of this process. The kernel does not tell a process of its own locks, and drops them all when it closes any
handle of the file, so such a file is not even opened."""

_guard = threading.RLock()
"""Threads share the process's locks: only one at a time opens or closes such a file."""


def _new_guard() -> None:
    global _guard
    _guard = threading.RLock()


os.register_at_fork(after_in_child=_new_guard)


def lock_owner(folder: Path) -> str | None:
    """Who drives a run, as ``process N on HOST``; None where nobody does. The lock itself is left alone."""
    path = (folder / "lock").resolve()
    try:
        with _guard:
            if _held.get(path) == os.getpid():
                return _own_name()
            with path.open("rb", buffering=0) as handle:
                return _owner(handle)
    except (FileNotFoundError, NotADirectoryError):  # whoever writes there will say so
        return None
    except OSError as error:
        raise UnavailableError(f"{path}: cannot be read ({error.strerror})") from error


def refuse_if_driven(folder: Path) -> None:
    """Raises InputError that names the process and host which drive a run, where one does."""
    owner = lock_owner(folder)
    if owner is not None:
        raise InputError(f"{folder}: in use by {owner}; wait for it or stop it")


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run folder: one driver at a time.

    Raises:
        InputError: another driver holds it; names its process and host.
        UnavailableError: the folder cannot be written.
    """
    path = (folder / "lock").resolve()
    with _guard:
        handle = _take(folder, path)
    try:
        yield
    finally:
        with _guard:
            del _held[path]
            handle.close()


def _take(folder: Path, path: Path) -> FileIO:
    """Open and lock the file; the caller holds the guard."""
    if _held.get(path) == os.getpid():
        raise InputError(f"{folder}: in use by {_own_name()}; wait for it or stop it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+b", buffering=0)
    except OSError as error:
        raise UnavailableError(f"{path}: cannot write ({error.strerror})") from error
    with ExitStack() as stack:
        stack.callback(handle.close)
        while True:
            try:
                # lockf, not flock: a forked child would inherit the latter and hold the run after we died.
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                owner = _owner(handle)
                if owner is not None:  # else it has gone meanwhile
                    raise InputError(f"{folder}: in use by {owner}; wait for it or stop it") from error
        try:
            handle.truncate(0)
            handle.write(f"{_own_name()}\n".encode())
        except OSError as error:
            raise UnavailableError(f"{path}: cannot write ({error.strerror})") from error
        _held[path] = os.getpid()
        stack.pop_all()  # it stays open
    return handle


def _own_name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _owner(handle: FileIO) -> str | None:
    """The owner that the kernel names, with the host that it wrote down itself."""
    end = time.monotonic() + _PATIENCE
    while True:
        pid = _locking_process(handle)
        if pid is None:
            return None
        handle.seek(0)
        text = handle.read(200).decode(errors="replace").strip()
        written = re.match(r"process (\d+) on ", text)
        # In another container or on another machine the kernel gives no number that means anything here.
        if written and (int(written[1]) == pid or pid <= 0):
            return text
        if time.monotonic() > end:
            return f"process {pid} on {socket.gethostname()}"
        time.sleep(0.01)


def _locking_process(handle: FileIO) -> int | None:
    wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(handle, fcntl.F_GETLK, wanted))
    return None if kind == fcntl.F_UNLCK else int(pid)
