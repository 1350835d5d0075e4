"""Compiled kernels for training on a CPU: built once a machine where there is a compiler, kept in the user's cache.

PyTorch's own extension loader is not used: it wants ninja besides the compiler, parses torch's headers for half a
minute, and waits for ever for a lock that a killed process has left. These kernels know no torch: plain pointers, some
seconds, and a library that outlives an upgrade of torch.

``GENAS_NATIVE=0`` in the environment does without them.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Literal

from supernet import InputError
from supernet.files import bytes_digest, read_json, write_json
from supernet.settings import UnavailableError
from training.data import cache_folder

Real = Literal["float", "double"]

_SOURCE = Path(__file__).with_name("native.cpp")
_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-ffp-contract=fast", "-fno-math-errno", "-w")
_COMPILE_SECONDS = 300
_LOGGER = logging.getLogger("genas.native")


def compiler() -> str | None:
    """The C++ compiler: CXX, or the first of the usual names that is there."""
    named = shlex.split(os.environ.get("CXX", ""))[:1]  # "g++ -m64" names g++
    found = (shutil.which(name) for name in (named or _COMPILERS))
    return next((path for path in found if path is not None), None)


@lru_cache
def build(real: Real = "float") -> Path | None:
    """The compiled library, made now where it is not there yet; None without a compiler that can make it."""
    program = compiler()
    if program is None or os.environ.get("GENAS_NATIVE") == "0":
        return None
    source = _SOURCE.read_bytes()
    # A home folder may be shared by machines whose processors differ.
    identity = [source, program.encode(), real.encode(), *(flag.encode() for flag in _FLAGS), _processor()]
    name = hashlib.blake2b(b"\0".join(identity), digest_size=12).hexdigest()
    path = cache_folder() / "native" / f"{name}.so"
    if _is_whole(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as folder:
            made = Path(folder) / path.name
            if not _compile(program, real, made):
                return None
            digest = bytes_digest(made.read_bytes())
            made.replace(path)
        write_json(path.with_suffix(".json"), {"library": digest})
    except (OSError, UnavailableError) as error:
        _LOGGER.warning("%s: no compiled kernels can be kept there (%s); trainings are slower", path.parent, error)
        return None
    return path


@lru_cache
def library(real: Real = "float") -> ctypes.CDLL | None:
    """The kernels, loaded; None where they cannot be had."""
    path = build(real)
    if path is None:
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        _LOGGER.warning("%s: cannot be loaded (%s); trainings are slower", path, error)
        return None


def _is_whole(path: Path) -> bool:
    try:
        note = read_json(path.with_suffix(".json"))
        return note is not None and note.get("library") == bytes_digest(path.read_bytes())
    except (OSError, InputError):
        return False


def _compile(program: str, real: Real, made: Path) -> bool:
    message = ""
    for tuned in (["-march=native"], ["-mcpu=native"], []):  # not every compiler knows each
        command = [program, *_FLAGS, *tuned, f"-DREAL={real}", "-o", str(made), str(_SOURCE)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            message = str(error)
            break
        if done.returncode == 0:
            return True
        message = done.stderr.strip()[:300]
    _LOGGER.warning("%s cannot compile the training kernels; trainings are slower: %s", program, message)
    return False


def _processor() -> bytes:
    """What the compiler's ``native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().split(b"\n")
    except OSError:
        return platform.processor().encode() + platform.machine().encode()
    kinds = (b"model name", b"flags", b"Features", b"CPU part")
    return b"\n".join(sorted({line for line in lines if line.startswith(kinds)}))
