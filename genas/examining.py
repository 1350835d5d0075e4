"""Whether this machine, and a recipe's images, can do a run, and what mends what they lack: ``genas doctor``.

Only the standard library is imported before a check needs more: that a package is missing or broken is what
some checks are there to tell. What is written is removed again, except prepared images, which stay in the
cache as with ``--dry-run``.

Sizes are in bytes, 1 GB being 2**30 of them.
"""

from __future__ import annotations

import fcntl
import importlib
import importlib.util
import os
import platform
import re
import shlex
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genas.machine import installed_version
from training.devices import has_driver

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from genas.config import Run

State = Literal["ok", "warning", "wrong"]

_MEGABYTE = 2**20
_GIGABYTE = 2**30

_OLDEST_PYTHON = (3, 11)
_OLDEST_SQLITE = (3, 38, 0)
"""STRICT tables came with 3.37, JSON functions in every build with 3.38."""

_WORKER_MEMORY = _GIGABYTE
"""Roughly what torch and a small data set take in one worker process."""

_LITTLE_SPACE, _NO_SPACE = _GIGABYTE, 100 * _MEGABYTE
_LITTLE_FILES, _NO_FILES = 10_000, 100
_SLOW_WRITE = 100.0
"""Milliseconds: every result is one durable write or two, which a training must not wait for."""

_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "sshfs", "9p", "lustre", "ceph", "afs", "glusterfs", "beegfs"}
"""File systems of other machines: SQLite's write-ahead log and the run's lock need a local one."""

IMPORT_FAILURES = (ImportError, OSError, RuntimeError, AttributeError, ValueError)
"""How packages fail to import: not there, broken CUDA libraries, pairs of versions that do not match."""

_OTHER_LOGS = "name a folder on a local disk with --logs DIR"
_OTHER_CACHE = "set GENAS_CACHE to a folder on a local disk"
_OTHER_TEMPORARY = "set TMPDIR to a folder that can be written"
CHANGE_RECIPE = "change the recipe, or override it with --set KEY=VALUE"

# What a second process does to see whether a lock keeps it out: 0 it got the lock, 3 it did not.
_TRY_LOCK = """
import fcntl, sys
with open(sys.argv[1], "r+") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(3)
"""
_KEPT_OUT = 3


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: what was looked at.
        state: ``warning`` where a run is slower or less safe than it could be, ``wrong`` where it would fail.
        found: in words, on one line.
        mend: the command or change that mends it; empty where the state is ``ok``.
        part: what is to be mended, on which the exit code depends.
    """

    name: str
    state: State
    found: str
    mend: str = ""
    part: Literal["machine", "configuration"] = "machine"


def doctor(run: Run | None = None, logs: Path = Path("logs"), made: Sequence[Check] = ()) -> dict[str, Any]:
    """Check the machine and, where a run is given, its images; a failing check is an entry, not an error.

    Args:
        run: whose settings and images are checked; its images are prepared, which may download them.
        logs: the folder of all runs. It need not be there yet, and is not made.
        made: checks that were made already, put before those of the images.

    Returns:
        ``checks``, each a :class:`Check` as an object, and how many are ``wrong`` and ``warnings``.
    """
    checks = [python_version(), *packages(), gpus("auto" if run is None else run.settings.workers.device)]
    if run is not None and run.settings.workers.runner == "ray":
        checks.append(ray_version(run.settings.workers.address))
    workers = cpu_workers(run)
    checks += [cores(workers), compiled_kernels(), memory(workers), sqlite_version()]
    checks += [*logs_folder(logs), *cache(), temporary_folder(), *made]
    if run is not None:
        from genas.run_checks import images, run_files

        checks += [*images(run), *run_files(run)]
    return {
        "checks": [asdict(check) for check in checks],
        "wrong": sum(check.state == "wrong" for check in checks),
        "warnings": sum(check.state == "warning" for check in checks),
    }


def exit_code(result: dict[str, Any]) -> int:
    """Of the command: 3 where something of the machine is wrong, 2 where only the configuration is, 0 otherwise."""
    parts = {check["part"] for check in result["checks"] if check["state"] == "wrong"}
    return 3 if "machine" in parts else 2 if parts else 0


def load(source: str, overrides: Iterable[str], logs: Path) -> tuple[Run | None, Check]:
    """The run that ``genas.load_run`` gives, None where there is none, and what was found on the way."""
    try:
        from genas.config import load_run
        from supernet import InputError
    except IMPORT_FAILURES as error:
        return None, not_imported("recipe", error)
    try:
        run = load_run(source, overrides, logs)
    except InputError as error:
        return None, Check("recipe", "wrong", one_line(error), CHANGE_RECIPE, "configuration")
    return run, Check("recipe", "ok", f"valid, of run {run.name}", part="configuration")


def python_version() -> Check:
    """Whether Python is new enough."""
    found = platform.python_version()
    if sys.version_info[:2] < _OLDEST_PYTHON:
        return Check(
            "Python", "wrong", f"{found}, older than 3.11",
            "install Python 3.11 or newer, make a new environment (python3.11 -m venv .venv) and install genas there",
        )  # fmt: skip
    return Check("Python", "ok", f"{found} in {sys.prefix}")


def packages() -> list[Check]:
    """torch and what depends on it imported, the versions of all packages against what genas asks for."""
    wanted = _requirements()
    checks = [package("torch", wanted)]
    for name in ("torchvision", "torch-geometric"):
        if sys.modules.get("torch") is None:  # they would only fail for the same reason
            checks.append(Check(name, "warning", "not tried: torch cannot be imported", "mend torch first"))
        else:
            checks.append(package(name, wanted))
    tried = {check.name for check in checks}
    return [*checks, other_packages({name: asked for name, asked in wanted.items() if name not in tried})]


def package(name: str, wanted: dict[str, Requirement]) -> Check:
    """Whether a package imports and has a version that genas asks for.

    Args:
        name: of the distribution, such as ``torch-geometric``.
        wanted: by name, from the installed metadata; what is missing there is not compared.
    """
    mend = _install([name], wanted)
    if name in ("torch", "torchvision"):  # compiled for each other: only a matching pair works
        mend = _install(["torch", "torchvision"], wanted, again=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(name.replace("-", "_"))
    except IMPORT_FAILURES as error:
        return Check(name, "wrong", f"cannot be imported ({one_line(error)})", mend)
    version = installed_version(name) or getattr(module, "__version__", None)
    if name not in wanted or version is None:
        return Check(name, "ok", f"{version or 'of unknown version'}, not compared with what genas asks for")
    if not _fits(wanted[name], version):
        return Check(name, "wrong", f"{version}, but {wanted[name]} is needed", mend)
    partner = _partner(name)
    if partner is not None:
        return Check(name, "warning", f"{version} was built for {partner}, not for {installed_version('torch')}", mend)
    return Check(name, "ok", f"{version} ({wanted[name]})")


def other_packages(wanted: dict[str, Requirement]) -> Check:
    """Whether the other packages that genas asks for are installed, by their metadata alone."""
    if not wanted:
        return Check("packages", "ok", "not compared: genas or packaging is not installed, so no ranges are known")
    faults = []
    for name, asked in wanted.items():
        version = installed_version(name)
        if version is None or not _fits(asked, version):
            faults.append((name, f"{asked.name}{asked.specifier} is needed, found {version or 'none'}"))
    if faults:
        mend = _install([name for name, _ in faults], wanted)
        return Check("packages", "wrong", "; ".join(fault for _, fault in faults), mend)
    return Check("packages", "ok", f"{len(wanted)} others in the ranges asked for")


def gpus(device: str = "auto") -> Check:
    """The GPUs that torch sees: names, memory, and whether each multiplies rightly.

    Args:
        device: ``workers.device`` of the run: a missing GPU is wrong only where it asks for one.
    """
    cpu = f"trainings run on {_cores()} cores"
    if device == "cpu":
        return Check("GPU", "ok", f"not asked for (workers.device is cpu): {cpu}")
    try:
        import torch
    except IMPORT_FAILURES:
        return Check("GPU", "warning", "not known: torch cannot be imported", "mend torch first")
    with warnings.catch_warnings(record=True) as caught:  # it is a warning that says why torch sees none
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        return _describe_gpus(count)
    if has_driver():
        reason = f" ({one_line(caught[-1].message)})" if caught else ""
        state: State = "wrong" if device == "cuda" else "warning"
        return Check("GPU", state, f"a driver is there, but torch sees no GPU{reason}: {cpu}", _mend_gpu())
    if device == "cuda":
        return Check("GPU", "wrong", "none, but workers.device is cuda", "--set workers.device=auto")
    return Check("GPU", "ok", f"none: {cpu}")


def ray_version(address: str) -> Check:
    """Ray, where a run wants its nodes. Whether the cluster answers is told when it is needed."""
    missing = [name for name in ("ray", "grpc") if importlib.util.find_spec(name) is None]
    if missing:
        mend = "pip install 'genas[ray]', or --set workers.runner=local"
        return Check("Ray", "wrong", f"{missing[0]} is not installed, but workers.runner is ray", mend)
    return Check("Ray", "ok", f"{metadata.version('ray')}, for the cluster at {address}")


def cpu_workers(run: Run | None) -> int:
    """Worker processes on the CPU that a run would start: none where it trains on GPUs."""
    try:
        from data_gen import WorkerSettings, device_names

        return device_names(WorkerSettings() if run is None else run.settings.workers).count("cpu")
    except IMPORT_FAILURES:  # told by the checks of the packages and of the GPU
        return _cores()


def cores(workers: int) -> Check:
    """Cores that this process may use, by its affinity and by the quota of its control group."""
    usable = _cores()
    found = f"{usable} of {os.cpu_count()}"
    fitting = float(usable)
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdecimal() and period.strip().isdecimal():  # "max" where there is none
        fitting = min(fitting, int(quota) / int(period))
        found += f", with a quota of {int(quota) / int(period):g} (/sys/fs/cgroup/cpu.max)"
    if workers > max(1.0, fitting):
        mend = f"--set workers.cpu_workers={max(1, int(fitting))}"
        return Check("cores", "warning", f"{found}, for {workers} worker processes of one thread", mend)
    return Check("cores", "ok", found)


def compiled_kernels() -> Check:
    """What trainings on a CPU are fast with."""
    name = "CPU kernels"
    try:
        from training import native

        if os.environ.get("GENAS_NATIVE") == "0":
            mend = "unset GENAS_NATIVE"
            return Check(name, "warning", "switched off by GENAS_NATIVE=0: trainings on a CPU are slower", mend)
        program, library = native.compiler(), native.library()
    except IMPORT_FAILURES as error:
        return not_imported(name, error)
    if program is None:
        found = "no C++ compiler: trainings on a CPU are slower"
        return Check(name, "warning", found, "install g++ or clang++, or name one with CXX")
    if library is None:
        found = f"{program} cannot make them: trainings on a CPU are slower"
        mend = "see the warning above, or set GENAS_CACHE to a folder that can hold programs"
        return Check(name, "warning", found, mend)
    return Check(name, "ok", f"compiled by {program}")


def memory(workers: int) -> Check:
    """Physical and available memory, against roughly 1 GB for each worker process on the CPU."""
    fields = dict(re.findall(r"^(MemTotal|MemAvailable):\s*(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE))
    total = int(fields["MemTotal"]) * 1024 if "MemTotal" in fields else _system_memory("SC_PHYS_PAGES")
    available = int(fields["MemAvailable"]) * 1024 if "MemAvailable" in fields else _system_memory("SC_AVPHYS_PAGES")
    if total is None or available is None:
        return Check("memory", "ok", "not known on this system")
    found = f"{_size(available)} of {_size(total)} available"
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdecimal() and int(limit) < total:
        available = min(available, int(limit))
        found += f", with a limit of {_size(int(limit))} (/sys/fs/cgroup/memory.max)"
    fitting = available // _WORKER_MEMORY
    if fitting >= max(1, workers):
        return Check("memory", "ok", found)
    found += f", for {workers} worker processes of about 1 GB each" if workers else ", less than 1 GB"
    mend = "close other programs" if workers <= 1 else f"--set workers.cpu_workers={max(1, fitting)}"
    return Check("memory", "warning", found, mend)


def sqlite_version() -> Check:
    """Whether SQLite knows the tables of a run's store."""
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        mend = "use a Python that is linked with SQLite 3.38 or newer, such as one from python.org or conda-forge"
        return Check("SQLite", "wrong", f"{sqlite3.sqlite_version}, older than 3.38", mend)
    return Check("SQLite", "ok", sqlite3.sqlite_version)


def logs_folder(logs: Path) -> list[Check]:
    """Every check of the folder of all runs; where it cannot be written, none that would write more."""
    checks = [file_system(logs), disk("logs", logs, _OTHER_LOGS), writable("logs folder", logs, _OTHER_LOGS)]
    if checks[-1].state == "ok":
        checks += [write_ahead_log(logs), file_lock(logs), durable_write(logs)]
    return checks


def cache() -> list[Check]:
    """The checks of the folder of prepared and downloaded images."""
    try:
        from training.data import cache_folder
    except IMPORT_FAILURES as error:
        return [not_imported("cache folder", error)]
    try:
        folder = cache_folder()
    except RuntimeError as error:  # the user has no home
        return [Check("cache folder", "wrong", one_line(error), _OTHER_CACHE)]
    return [disk("cache", folder, _OTHER_CACHE), writable("cache folder", folder, _OTHER_CACHE)]


def temporary_folder() -> Check:
    """Whether workers can write down their errors."""
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:
        return Check("temporary folder", "wrong", one_line(error), _OTHER_TEMPORARY)
    return writable("temporary folder", folder, _OTHER_TEMPORARY)


def disk(name: str, folder: Path, elsewhere: str) -> Check:
    """Free bytes and files where a folder is or will be.

    Args:
        elsewhere: how another folder is named.
    """
    try:
        status = os.statvfs(_existing(folder))
    except OSError as error:
        return Check(f"disk of {name}", "wrong", f"{folder}: {one_line(error)}", elsewhere)
    free = status.f_bavail * status.f_frsize
    found = f"{_size(free)} free in {folder}"
    files = status.f_favail if status.f_files else None  # None: as many as there is room for
    if files is not None:
        found += f", room for {files:,} files"
    mend = f"free some space there, or {elsewhere}"
    if free < _NO_SPACE or (files is not None and files < _NO_FILES):
        return Check(f"disk of {name}", "wrong", found, mend)
    if free < _LITTLE_SPACE or (files is not None and files < _LITTLE_FILES):
        return Check(f"disk of {name}", "warning", found, mend)
    return Check(f"disk of {name}", "ok", found)


def writable(name: str, folder: Path, elsewhere: str) -> Check:
    """Whether a file can be made, forced to the disk and removed where a folder is or will be.

    Args:
        elsewhere: how another folder is named.
    """
    place = _existing(folder)
    try:
        with tempfile.NamedTemporaryFile(prefix=".genas-doctor-", dir=place) as file:
            file.write(b"genas")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Check(name, "wrong", f"{place} cannot be written ({error.strerror})", elsewhere)
    return Check(name, "ok", f"{folder} can be written" if place == folder else f"{folder} can be made")


def file_system(logs: Path) -> Check:
    """Whether the folder of all runs lies on a disk of this machine, by ``/proc/self/mountinfo``."""
    place = Path(os.path.realpath(_existing(logs)))  # Path.resolve raises for a link to itself
    kind, longest = "", -1
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        if len(before.split()) < 5 or not after:
            continue
        # Spaces and the like are written as octal numbers there.
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), before.split()[4])
        # Of two mounts on one folder the later covers the earlier.
        if place.is_relative_to(point) and len(point) >= longest:
            kind, longest = after.split()[0], len(point)
    if kind.removeprefix("fuse.") in _REMOTE:
        found = f"{logs} is on {kind}: locks and the write-ahead log of SQLite need a local file system"
        return Check("file system", "warning", found, _OTHER_LOGS)
    return Check("file system", "ok", f"{logs} is on {kind}" if kind else "not known on this system")


def write_ahead_log(logs: Path) -> Check:
    """Whether a store with a write-ahead log can be written and read at the same time."""
    name = "write-ahead log"
    try:
        with tempfile.TemporaryDirectory(prefix=".genas-doctor-", dir=_existing(logs)) as folder:
            path = Path(folder) / "store.db"
            with closing(sqlite3.connect(path, isolation_level=None)) as writer:
                (mode,) = writer.execute("PRAGMA journal_mode = WAL").fetchone()
                if mode != "wal":
                    return Check(name, "wrong", f"SQLite uses {mode!r} in {logs} instead", _OTHER_LOGS)
                writer.execute("CREATE TABLE numbers (number INTEGER)")
                writer.execute("BEGIN IMMEDIATE")
                writer.execute("INSERT INTO numbers VALUES (1)")
                with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as reader:
                    (count,) = reader.execute("SELECT COUNT(*) FROM numbers").fetchone()
                writer.execute("COMMIT")
    except (OSError, sqlite3.Error) as error:
        return Check(name, "wrong", f"SQLite cannot write a store in {logs} ({one_line(error)})", _OTHER_LOGS)
    if count:
        return Check(name, "wrong", f"a reader in {logs} saw what was not committed", _OTHER_LOGS)
    return Check(name, "ok", "a store is read while it is written")


def file_lock(logs: Path) -> Check:
    """Whether the lock of a run keeps a second process out."""
    name = "file lock"
    try:
        with tempfile.NamedTemporaryFile(prefix=".genas-doctor-", dir=_existing(logs)) as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            second = subprocess.run(
                [sys.executable, "-I", "-c", _TRY_LOCK, file.name],
                capture_output=True, text=True, check=False, timeout=60,
            )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name, "wrong", f"files in {logs} cannot be locked ({one_line(error)})", _OTHER_LOGS)
    if second.returncode == 0:
        return Check(name, "wrong", f"a second process got the same lock in {logs}", _OTHER_LOGS)
    if second.returncode != _KEPT_OUT:
        reason = one_line(second.stderr) or f"exit code {second.returncode}"
        return Check(name, "wrong", f"a second process could not try the lock ({reason})", _OTHER_LOGS)
    return Check(name, "ok", "a second process is kept out")


def durable_write(logs: Path) -> Check:
    """Median milliseconds of 20 writes of 4 KB that are forced to the disk."""
    name = "durable write"
    times: list[float] = []
    try:
        with tempfile.NamedTemporaryFile(prefix=".genas-doctor-", dir=_existing(logs)) as file:
            for _ in range(20):
                started = time.perf_counter()
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
                times.append((time.perf_counter() - started) * 1000)
    except OSError as error:
        return Check(name, "wrong", f"{logs} cannot be written ({one_line(error)})", _OTHER_LOGS)
    median = statistics.median(times)
    found = f"{median:.2g} ms for 4 KB in {logs}" if median < 10 else f"{median:.0f} ms for 4 KB in {logs}"
    if median > _SLOW_WRITE:
        return Check(name, "warning", f"{found}: every result waits so long", _OTHER_LOGS)
    return Check(name, "ok", found)


def not_imported(name: str, error: Exception) -> Check:
    """A check that cannot be made, because a package is missing or broken."""
    missing = getattr(error, "name", None) or "a package"
    mend = "install what is missing (see packages), or install genas again"
    return Check(name, "wrong", f"not checked: {missing} cannot be imported ({one_line(error)})", mend)


def _requirements() -> dict[str, Requirement]:
    """What genas asks of other packages here, from its installed metadata; nothing where that cannot be read."""
    try:
        from packaging.requirements import Requirement

        texts = metadata.requires("genas") or []
    except ImportError:
        return {}
    found = [Requirement(text) for text in texts]
    # Without an extra: what developers need is not asked of others.
    return {asked.name: asked for asked in found if asked.marker is None or asked.marker.evaluate({"extra": ""})}


def _fits(asked: Requirement, version: str) -> bool:
    return asked.specifier.contains(version, prereleases=True)


def _partner(name: str) -> str | None:
    """The torch that the installed torchvision was built for, where it is another than the installed one."""
    from packaging.requirements import Requirement

    version = installed_version("torch")
    if name != "torchvision" or version is None or installed_version(name) is None:
        return None
    for text in metadata.requires(name) or []:
        asked = Requirement(text)
        if asked.name == "torch" and not _fits(asked, version):
            return str(asked)
    return None


def _install(names: Sequence[str], wanted: dict[str, Requirement], again: bool = False) -> str:
    """The command that installs packages in the ranges asked for; torch in the build that is there, such as cu126."""
    specified = [f"{name}{wanted[name].specifier}" if name in wanted else name for name in names]
    options = ["--upgrade", *(["--force-reinstall"] if again else [])]
    build = (installed_version("torch") or "").partition("+")[2]
    index = ["--index-url", f"https://download.pytorch.org/whl/{build}"] if build and "torch" in names else []
    return shlex.join([sys.executable, "-m", "pip", "install", *options, *specified, *index])


def _describe_gpus(count: int) -> Check:
    import torch

    found, faults, full = [], [], []
    for index in range(count):
        try:
            name = f"{index}: {torch.cuda.get_device_name(index)}"
            free, total = torch.cuda.mem_get_info(index)
            found.append(f"{name}, {_size(free)} of {_size(total)} free")
            if not _multiplies(f"cuda:{index}"):
                faults.append(f"GPU {index} multiplies wrongly")
        except RuntimeError as error:
            faults.append(f"GPU {index} fails ({one_line(error)})")
        else:
            if free < _GIGABYTE:
                full.append(index)
    if faults:
        mend = f"{_mend_gpu()}; or leave it out with CUDA_VISIBLE_DEVICES, or train with --set workers.device=cpu"
        return Check("GPU", "wrong", "; ".join([*found, *faults]), mend)
    if full:
        mend = "stop the programs that nvidia-smi names, or leave such a GPU out with CUDA_VISIBLE_DEVICES"
        return Check("GPU", "warning", "; ".join(found), mend)
    return Check("GPU", "ok", "; ".join(found))


def _multiplies(device: str) -> bool:
    """Whether a product of matrices of small whole numbers, which every precision holds, is exact."""
    import torch

    matrix = (torch.arange(64 * 64) % 3).reshape(64, 64).float()
    product = matrix.to(device) @ matrix.to(device)
    return torch.equal(product.cpu(), matrix @ matrix)


def _mend_gpu() -> str:
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return f"unset CUDA_VISIBLE_DEVICES, which is {os.environ['CUDA_VISIBLE_DEVICES']!r}"
    command = shlex.join([sys.executable, "-m", "pip", "install", "--force-reinstall", "torch", "torchvision"])
    return (
        f"install a torch build for this driver: {command} --index-url https://download.pytorch.org/whl/cuNNN, "
        "NNN at most the CUDA version that nvidia-smi shows (rocmN.N for AMD)"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _system_memory(pages: str) -> int | None:
    try:
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # a name that this system does not know
        return None


def _read(path: str) -> str:
    """A file that the kernel writes; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    for place in (folder, *folder.parents):
        if os.path.lexists(place):  # a link to nowhere too: no folder can be made in its place
            return place
    return Path()


def _size(size: int) -> str:
    return f"{size / _GIGABYTE:.1f} GB" if size >= _GIGABYTE else f"{size / _MEGABYTE:.0f} MB"


def one_line(message: object) -> str:
    """A message on one line, its beginning where it is long."""
    return " ".join(str(message).split())[:400]
