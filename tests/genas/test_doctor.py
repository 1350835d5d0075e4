"""Every check in its good state and in each bad one, by what it looks at; then the command."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import warnings
from contextlib import closing
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from genas import examining, run_checks
from genas.config import load_run
from genas.examining import Check, doctor, exit_code
from genas.stages import resolve
from genas.words import examined
from supernet.settings import UnavailableError
from training import native, open_prepared
from training.data import cache_folder

GIGABYTE = 2**30


def assert_bad(check, state, *words, mend):
    """Not ok, with these words in what was found and this in what mends it, on one line each."""
    assert check.state == state, check
    for word in words:
        assert word in check.found
    assert mend in check.mend
    assert "\n" not in check.found + check.mend


def assert_ok(check, *words):
    assert (check.state, check.mend) == ("ok", ""), check
    for word in words:
        assert word in check.found


@pytest.fixture
def kernel(monkeypatch):
    """The kernel's files by path; those left out are not there."""
    files = {}
    monkeypatch.setattr(examining, "_read", lambda path: files.get(path, ""))
    return files


@pytest.fixture
def versions(monkeypatch):
    """Versions of installed packages that differ from the true ones; None is not installed."""
    changed = {}
    true = examining.installed_version
    monkeypatch.setattr(
        examining, "installed_version", lambda name: changed[name] if name in changed else true(name)
    )  # fmt: skip
    return changed


@pytest.fixture
def ranges(monkeypatch):
    """What genas asks for, whatever is installed beside the tests."""
    texts = ["torch>=2.11", "torchvision>=0.26", "torch-geometric>=2.8", "numpy>=2.0", "scipy>=1.14",
             'setuptools; python_version >= "3.99"', 'ruff>=99; extra == "dev"']  # fmt: skip
    true = metadata.requires
    monkeypatch.setattr(metadata, "requires", lambda name: texts if name == "genas" else true(name))
    return texts


class Breaking:
    """An import that fails in its own way."""

    def __init__(self, name, error):
        self.name, self.error = name, error

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            raise self.error
        return None


@pytest.fixture
def broken(monkeypatch):
    def break_import(name, error):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "meta_path", [Breaking(name, error), *sys.meta_path])

    return break_import


class TestPython:
    def test_this_one(self):
        assert_ok(examining.python_version(), sys.prefix)

    def test_an_old_one(self, monkeypatch):
        monkeypatch.setattr(examining, "sys", SimpleNamespace(version_info=(3, 10, 4, "final", 0), prefix="/usr"))
        monkeypatch.setattr("platform.python_version", lambda: "3.10.4")
        assert_bad(examining.python_version(), "wrong", "3.10.4", "3.11", mend="-m venv")


class TestPackages:
    def test_these(self, ranges):
        checks = examining.packages()
        assert [check.name for check in checks] == ["torch", "torchvision", "torch-geometric", "packages"]
        for check in checks:
            assert_ok(check)
        assert "torch>=2.11" in checks[0].found
        assert checks[-1].found == "2 others in the ranges asked for"

    def test_missing_torch_is_told_once(self, ranges, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        checks = examining.packages()
        pair = "-m pip install --upgrade --force-reinstall 'torch>=2.11' 'torchvision>=0.26'"
        assert_bad(checks[0], "wrong", "cannot be imported (import of torch halted", mend=pair)
        for check in checks[1:3]:
            assert_bad(check, "warning", "not tried", mend="mend torch first")
        assert_ok(checks[3])
        assert_bad(examining.gpus(), "warning", "torch cannot be imported", mend="mend torch first")

    @pytest.mark.parametrize(
        "error",
        [
            OSError("libcudart.so.12: cannot open shared object file:\n No such file or directory"),
            ImportError("libcudnn.so.9: version mismatch"),
        ],
    )
    def test_broken_libraries_of_torch(self, ranges, broken, error):
        broken("torch", error)
        words = " ".join(str(error).split())
        assert_bad(examining.packages()[0], "wrong", words, mend="--force-reinstall")

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("operator torchvision::nms does not exist"),
            AttributeError("partially initialized module 'torchvision' has no attribute 'extension'"),
        ],
    )
    def test_a_pair_that_does_not_match(self, ranges, broken, versions, error):
        broken("torchvision", error)
        versions["torch"] = "2.12.0+cu126"
        check = examining.packages()[1]
        assert_bad(check, "wrong", str(error), mend="'torch>=2.11' 'torchvision>=0.26' --index-url")
        assert check.mend.endswith("https://download.pytorch.org/whl/cu126")

    def test_a_torchvision_for_another_torch(self, ranges, versions, monkeypatch):
        requires = metadata.requires
        monkeypatch.setattr(
            metadata, "requires", lambda name: ["torch==2.11.0"] if name == "torchvision" else requires(name)
        )
        versions["torch"] = "2.12.0"
        assert_bad(examining.packages()[1], "warning", "built for torch==2.11.0, not for 2.12.0", mend="torchvision")
        versions["torch"] = "2.11.0+cpu"
        assert_ok(examining.packages()[1])

    def test_missing_torch_geometric(self, ranges, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch_geometric", None)
        check = examining.packages()[2]
        assert_bad(check, "wrong", "cannot be imported", mend="install --upgrade 'torch-geometric>=2.8'")
        assert "--force" not in check.mend

    def test_a_version_that_is_too_old(self, ranges, versions):
        versions["torch"] = "2.10.1"
        assert_bad(examining.packages()[0], "wrong", "2.10.1, but torch>=2.11 is needed", mend="'torch>=2.11'")

    def test_a_version_of_tonight(self, ranges, versions):
        versions["torch-geometric"] = "2.9.0.dev20260101"
        assert_ok(examining.packages()[2])

    def test_others_missing_or_too_old(self, ranges, versions):
        versions.update({"numpy": "1.26.4", "scipy": None})
        check = examining.packages()[-1]
        assert_bad(check, "wrong", "numpy>=2.0 is needed, found 1.26.4", "scipy>=1.14 is needed, found none", mend="")
        assert check.mend.endswith("install --upgrade 'numpy>=2.0' 'scipy>=1.14'")

    def test_without_packaging_versions_are_only_told(self, monkeypatch, versions):
        for name in ("packaging", "packaging.requirements"):
            monkeypatch.setitem(sys.modules, name, None)
        versions["torch"] = "1.0"
        checks = examining.packages()
        for check in checks:
            assert_ok(check, "not compared")
        assert checks[0].found.startswith("1.0, ")

    def test_without_genas_installed_versions_are_only_told(self, monkeypatch):
        def requires(name):
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "requires", requires)
        for check in examining.packages():
            assert_ok(check, "not compared")

    def test_a_package_without_metadata(self, ranges, versions, monkeypatch):
        versions.update({"torch": None, "torchvision": None})
        monkeypatch.setattr("torch.__version__", "2.10.0")
        assert examining.packages()[0].found.startswith("2.10.0, but")
        assert_ok(examining.packages()[1])


@pytest.fixture
def cards(monkeypatch):
    """Two GPUs that torch sees, and multiplies on with the CPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", "Card {}".format)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda index: (30 * GIGABYTE, 40 * GIGABYTE))
    true = examining._multiplies
    monkeypatch.setattr(examining, "_multiplies", lambda device: true("cpu"))


class TestGpus:
    @pytest.fixture(autouse=True)
    def none_there(self, monkeypatch):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr("training.devices._DRIVERS", ())
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def test_none(self):
        assert_ok(examining.gpus(), f"none: trainings run on {len(os.sched_getaffinity(0))} cores")

    def test_not_asked_for(self, monkeypatch):
        monkeypatch.setattr("torch.cuda.is_available", lambda: pytest.fail("asked"))
        assert_ok(examining.gpus("cpu"), "not asked for")

    def test_none_but_asked_for(self):
        assert_bad(examining.gpus("cuda"), "wrong", "workers.device is cuda", mend="--set workers.device=auto")

    def test_a_driver_that_torch_cannot_use(self, monkeypatch):
        def available():
            warnings.warn("CUDA initialization: The NVIDIA driver\nis too old", UserWarning, stacklevel=1)
            return False

        monkeypatch.setattr("training.devices._DRIVERS", ("/",))
        monkeypatch.setattr("torch.cuda.is_available", available)
        words = ("torch sees no GPU (CUDA initialization: The NVIDIA driver is too old)", "cores")
        assert_bad(examining.gpus(), "warning", *words, mend="install a torch build for this driver: ")
        assert_bad(examining.gpus("cuda"), "wrong", *words, mend="whl/cuNNN")

    def test_hidden_cards(self, monkeypatch):
        monkeypatch.setattr("training.devices._DRIVERS", ("/",))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert_bad(examining.gpus(), "warning", "sees no GPU:", mend="unset CUDA_VISIBLE_DEVICES, which is ''")

    def test_two(self, cards):
        assert_ok(examining.gpus(), "0: Card 0, 30.0 GB of 40.0 GB free; 1: Card 1, 30.0 GB")

    def test_one_is_full(self, cards, monkeypatch):
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda index: ((index * 2 * GIGABYTE) + 2**28, 40 * GIGABYTE))
        assert_bad(examining.gpus(), "warning", "Card 0, 256 MB of 40.0 GB free", mend="nvidia-smi")

    def test_one_multiplies_wrongly(self, cards, monkeypatch):
        monkeypatch.setattr(examining, "_multiplies", lambda device: device == "cuda:0")
        assert_bad(examining.gpus(), "wrong", "GPU 1 multiplies wrongly", mend="install a torch build")

    def test_one_fails(self, cards, monkeypatch):
        def fail(device):
            raise RuntimeError("CUDA error: no kernel image is available\nfor execution on the device")

        monkeypatch.setattr(examining, "_multiplies", fail)
        check = examining.gpus()
        assert_bad(check, "wrong", "GPU 0 fails (CUDA error: no kernel image is", "GPU 1 fails", mend="CUDA_VISIBLE")

    def test_the_product_is_compared(self, monkeypatch):
        assert examining._multiplies("cpu")
        monkeypatch.setattr("torch.Tensor.to", lambda matrix, device: matrix + 1)
        assert not examining._multiplies("cpu")


class TestCores:
    @pytest.fixture(autouse=True)
    def eight(self, monkeypatch):
        monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(6)))
        monkeypatch.setattr("os.cpu_count", lambda: 8)

    def test_all(self, kernel):
        kernel["/sys/fs/cgroup/cpu.max"] = "max 100000\n"
        assert_ok(examining.cores(6), "6 of 8")
        assert "quota" not in examining.cores(6).found

    def test_no_control_group(self, kernel):
        assert_ok(examining.cores(6))

    def test_a_quota_that_the_workers_keep(self, kernel):
        kernel["/sys/fs/cgroup/cpu.max"] = "250000 100000\n"
        assert_ok(examining.cores(2), "a quota of 2.5")
        assert_ok(examining.cores(0))  # it trains on GPUs

    @pytest.mark.parametrize(("quota", "fitting"), [("250000 100000\n", 2), ("50000 100000\n", 1)])
    def test_a_quota_below_the_workers(self, kernel, quota, fitting):
        kernel["/sys/fs/cgroup/cpu.max"] = quota
        check = examining.cores(6)
        assert_bad(check, "warning", "for 6 worker processes", mend=f"--set workers.cpu_workers={fitting}")
        assert_ok(examining.cores(fitting))

    def test_more_workers_than_cores(self, kernel):
        assert_bad(examining.cores(7), "warning", "6 of 8", mend="--set workers.cpu_workers=6")


class TestCompiledKernels:
    @pytest.fixture(autouse=True)
    def _fresh(self):
        native.build.cache_clear()
        native.library.cache_clear()
        yield
        native.build.cache_clear()
        native.library.cache_clear()

    def test_there_are_some(self):
        if native.compiler() is None:
            pytest.skip("no C++ compiler")
        assert_ok(examining.compiled_kernels(), "compiled by")

    def test_none(self, monkeypatch):
        monkeypatch.setenv("CXX", "/no/such/compiler")
        assert_bad(examining.compiled_kernels(), "warning", "no C++ compiler", "slower", mend="install g++")
        monkeypatch.setenv("CXX", "/bin/false")
        assert_bad(examining.compiled_kernels(), "warning", "/bin/false cannot make them", mend="warning above")
        monkeypatch.setenv("GENAS_NATIVE", "0")
        assert_bad(examining.compiled_kernels(), "warning", "switched off", mend="unset GENAS_NATIVE")


class TestMemory:
    @pytest.fixture(autouse=True)
    def some(self, kernel):
        kernel["/proc/meminfo"] = "MemTotal: 16777216 kB\nMemFree: 100 kB\nMemAvailable: 4194304 kB\n"

    def test_enough(self):
        assert_ok(examining.memory(4), "4.0 GB of 16.0 GB available")

    def test_too_little_for_so_many_workers(self):
        assert_bad(examining.memory(5), "warning", "for 5 worker", mend="--set workers.cpu_workers=4")

    def test_a_limit_of_the_control_group(self, kernel):
        kernel["/sys/fs/cgroup/memory.max"] = f"{2 * GIGABYTE}\n"
        check = examining.memory(4)
        assert_bad(check, "warning", "a limit of 2.0 GB", mend="--set workers.cpu_workers=2")
        kernel["/sys/fs/cgroup/memory.max"] = "max\n"
        assert_ok(examining.memory(4))

    def test_less_than_one_worker_needs(self, kernel):
        kernel["/proc/meminfo"] = "MemTotal: 1048576 kB\nMemAvailable: 524288 kB\n"
        assert_bad(examining.memory(3), "warning", "512 MB of 1.0 GB", mend="--set workers.cpu_workers=1")
        assert_bad(examining.memory(1), "warning", "512 MB", mend="close other programs")
        assert_bad(examining.memory(0), "warning", "less than 1 GB", mend="close other programs")

    def test_asked_of_the_system_where_the_file_is_missing(self, kernel, monkeypatch):
        del kernel["/proc/meminfo"]
        answers = {"SC_PHYS_PAGES": 2**20, "SC_AVPHYS_PAGES": 2**19, "SC_PAGE_SIZE": 4096}
        monkeypatch.setattr("os.sysconf", answers.__getitem__)
        assert_ok(examining.memory(2), "2.0 GB of 4.0 GB available")
        assert_bad(examining.memory(3), "warning", mend="cpu_workers=2")

    def test_not_known(self, kernel, monkeypatch):
        def unknown(name):
            raise ValueError("unrecognized configuration name")

        kernel.clear()
        monkeypatch.setattr("os.sysconf", unknown)
        assert_ok(examining.memory(9), "not known")


class TestWorkers:
    def test_of_a_run(self, recipe, monkeypatch):
        assert examining.cpu_workers(load_run(recipe, ["workers.cpu_workers=5"])) == 5
        monkeypatch.setattr("data_gen.local.gpu_names", list)
        monkeypatch.setattr("os.sched_getaffinity", lambda process: {1, 2, 3})
        assert examining.cpu_workers(None) == 3
        monkeypatch.setattr("data_gen.local.gpu_names", lambda: ["one", "two"])
        assert examining.cpu_workers(None) == 0

    def test_not_known(self, monkeypatch):
        monkeypatch.setattr("os.sched_getaffinity", lambda process: {1, 2, 3})
        monkeypatch.setitem(sys.modules, "data_gen", None)
        assert examining.cpu_workers(None) == 3


class TestSqliteVersion:
    def test_this_one(self):
        assert_ok(examining.sqlite_version())

    def test_one_without_strict_tables(self, monkeypatch):
        monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 36, 0))
        monkeypatch.setattr("sqlite3.sqlite_version", "3.36.0")
        assert_bad(examining.sqlite_version(), "wrong", "3.36.0, older than 3.38", mend="SQLite 3.38 or newer")
        monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 38, 0))
        assert_ok(examining.sqlite_version())


def space(free, files=10**6, files_free=10**6):
    return SimpleNamespace(f_frsize=4096, f_bavail=free // 4096, f_files=files, f_favail=files_free)


class TestDisk:
    @pytest.mark.parametrize(
        ("status", "state", "words"),
        [
            (space(3 * GIGABYTE), "ok", "3.0 GB free"),
            (space(GIGABYTE), "ok", "1.0 GB free"),
            (space(GIGABYTE - 4096), "warning", "1024 MB free"),
            (space(100 * 2**20), "warning", "100 MB free"),
            (space(99 * 2**20), "wrong", "99 MB free"),
            (space(3 * GIGABYTE, files_free=9_999), "warning", "room for 9,999 files"),
            (space(3 * GIGABYTE, files_free=99), "wrong", "room for 99 files"),
            (space(3 * GIGABYTE, files=0, files_free=0), "ok", "3.0 GB free"),  # file systems that count none
        ],
    )
    def test_space(self, status, state, words, monkeypatch, tmp_path):
        asked = []
        monkeypatch.setattr("os.statvfs", lambda path: (asked.append(path), status)[1])
        check = examining.disk("logs", tmp_path / "not" / "yet", "go elsewhere")
        assert asked == [tmp_path]
        assert (check.name, check.state) == ("disk of logs", state)
        assert words in check.found
        assert ("go elsewhere" in check.mend) == (state != "ok")

    def test_unreadable(self, monkeypatch, tmp_path):
        def fail(path):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("os.statvfs", fail)
        assert_bad(examining.disk("logs", tmp_path, "go elsewhere"), "wrong", "Input/output error", mend="go elsewhere")


class TestWritable:
    def test_a_folder(self, tmp_path):
        assert_ok(examining.writable("logs folder", tmp_path, "x"), "can be written")
        assert_ok(examining.writable("logs folder", tmp_path / "a" / "b", "x"), "can be made")
        assert not list(tmp_path.iterdir())

    def test_a_file_in_its_place(self, tmp_path):
        (tmp_path / "logs").write_text("")
        for folder in (tmp_path / "logs", tmp_path / "logs" / "deep"):
            assert_bad(examining.writable("logs folder", folder, "go"), "wrong", "Not a directory", mend="go")

    def test_a_link_to_nowhere_or_to_itself_in_its_place(self, tmp_path):
        for target in ("nowhere", "logs"):
            (tmp_path / "logs").symlink_to(target)
            for check in examining.logs_folder(tmp_path / "logs")[1:]:
                assert_bad(check, "wrong", mend="--logs DIR")
            (tmp_path / "logs").unlink()

    def test_a_disk_that_forces_nothing(self, tmp_path, monkeypatch):
        def fail(file):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", fail)
        assert_bad(examining.writable("logs folder", tmp_path, "go"), "wrong", "No space left", mend="go")
        assert not list(tmp_path.iterdir())

    def test_a_name_that_is_too_long(self, tmp_path):
        assert_ok(examining.disk("logs", tmp_path / ("x" * 300), "go"))

    def test_the_temporary_folder(self, monkeypatch):
        def none():
            raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

        assert_ok(examining.temporary_folder())
        monkeypatch.setattr("tempfile.gettempdir", none)
        assert_bad(examining.temporary_folder(), "wrong", "No usable temporary directory", mend="TMPDIR")


class TestCache:
    def test_this_one(self):
        checks = examining.cache()
        assert [check.name for check in checks] == ["disk of cache", "cache folder"]
        for check in checks:
            assert_ok(check)

    def test_a_file_in_its_place(self, tmp_path, monkeypatch):
        (tmp_path / "cache").write_text("")
        monkeypatch.setenv("GENAS_CACHE", str(tmp_path / "cache"))
        assert_bad(examining.cache()[-1], "wrong", mend="set GENAS_CACHE")

    def test_a_user_without_a_home(self, monkeypatch):
        def nowhere():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("GENAS_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr("pathlib.Path.home", nowhere)
        assert_bad(examining.cache()[0], "wrong", "home directory", mend="set GENAS_CACHE")

    def test_not_known_without_numpy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "training.data", None)
        assert_bad(examining.cache()[0], "wrong", "not checked: training.data", mend="install what is missing")


MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw
30 27 0:40 / {folder} rw shared:9 - {kind} server:/export rw
31 27 0:41 / {folder}-other rw - btrfs /dev/vdb rw
"""


class TestFileSystem:
    @pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs", "overlay", "fuseblk", "fuse.mergerfs"])
    def test_local(self, kind, kernel, tmp_path):
        kernel["/proc/self/mountinfo"] = MOUNTS.format(folder=tmp_path, kind=kind)
        assert_ok(examining.file_system(tmp_path / "logs"), f"is on {kind}")

    @pytest.mark.parametrize(
        "kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "lustre", "ceph", "afs", "glusterfs",
                 "fuse.glusterfs", "beegfs"]
    )  # fmt: skip
    def test_of_another_machine(self, kind, kernel, tmp_path):
        kernel["/proc/self/mountinfo"] = MOUNTS.format(folder=tmp_path, kind=kind)
        assert_bad(examining.file_system(tmp_path / "logs"), "warning", f"is on {kind}:", mend="--logs DIR")
        assert_ok(examining.file_system(Path(f"{tmp_path}-more")), "is on ext4")  # no folder of that mount

    def test_the_later_of_two_mounts_on_one_folder(self, kernel, tmp_path):
        mounts = MOUNTS.format(folder=tmp_path, kind="ext4")
        kernel["/proc/self/mountinfo"] = f"{mounts}40 30 0:9 / {tmp_path} rw - nfs4 server:/ rw\n"
        assert_bad(examining.file_system(tmp_path), "warning", "nfs4", mend="--logs")

    def test_a_folder_with_a_space_behind_a_link(self, kernel, tmp_path):
        (tmp_path / "a b").mkdir()
        (tmp_path / "link").symlink_to("a b")
        kernel["/proc/self/mountinfo"] = MOUNTS.format(folder=f"{tmp_path}/a\\040b", kind="nfs")
        assert_bad(examining.file_system(tmp_path / "link" / "logs"), "warning", "nfs", mend="--logs")

    def test_not_known(self, kernel, tmp_path):
        assert_ok(examining.file_system(tmp_path), "not known")
        kernel["/proc/self/mountinfo"] = "no mount\n\n1 2 - ext4\n"
        assert_ok(examining.file_system(tmp_path), "not known")

    def test_the_true_one(self, tmp_path):
        assert examining.file_system(tmp_path).found.startswith(f"{tmp_path} is on ")


class Connection:
    """An SQLite that answers otherwise."""

    def __init__(self, mode="wal", seen=0):
        self.answers = {"PRAGMA journal_mode = WAL": (mode,), "SELECT COUNT(*) FROM numbers": (seen,)}

    def execute(self, text):
        return SimpleNamespace(fetchone=lambda: self.answers[text])

    def close(self):
        pass


class TestStoreFolder:
    def test_write_ahead_log(self, tmp_path):
        assert_ok(examining.write_ahead_log(tmp_path / "logs"))
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("connection", "words"),
        [(Connection("delete"), "SQLite uses 'delete'"), (Connection(seen=1), "saw what was not committed")],
    )
    def test_no_write_ahead_log(self, connection, words, tmp_path, monkeypatch):
        monkeypatch.setattr("sqlite3.connect", lambda *arguments, **options: connection)
        assert_bad(examining.write_ahead_log(tmp_path), "wrong", words, mend="--logs DIR")

    def test_no_store(self, tmp_path, monkeypatch):
        def fail(*arguments, **options):
            raise examining.sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr("sqlite3.connect", fail)
        assert_bad(examining.write_ahead_log(tmp_path), "wrong", "disk I/O error", mend="--logs DIR")
        assert not list(tmp_path.iterdir())

    def test_file_lock(self, tmp_path):
        assert_ok(examining.file_lock(tmp_path / "logs"))
        assert not list(tmp_path.iterdir())

    def test_a_lock_that_keeps_nobody_out(self, tmp_path, monkeypatch):
        monkeypatch.setattr("fcntl.lockf", lambda file, how: None)  # this process holds none, the second gets it
        assert_bad(examining.file_lock(tmp_path), "wrong", "a second process got the same lock", mend="--logs DIR")

    def test_no_lock(self, tmp_path, monkeypatch):
        def fail(file, how):
            raise OSError(37, "No locks available")

        monkeypatch.setattr("fcntl.lockf", fail)
        assert_bad(examining.file_lock(tmp_path), "wrong", "No locks available", mend="--logs DIR")

    def test_a_lock_that_never_answers(self, tmp_path, monkeypatch):
        def wait(command, **options):
            raise subprocess.TimeoutExpired(command, options["timeout"])

        monkeypatch.setattr("subprocess.run", wait)
        assert_bad(examining.file_lock(tmp_path), "wrong", "timed out", mend="--logs DIR")

    def test_a_second_process_that_dies(self, tmp_path, monkeypatch):
        monkeypatch.setattr(examining, "_TRY_LOCK", "raise SystemExit('no such module')")
        assert_bad(examining.file_lock(tmp_path), "wrong", "could not try the lock (no such module)", mend="--logs DIR")

    @pytest.mark.parametrize(
        ("seconds", "state"), [(0.004, "ok"), (0.099, "ok"), (0.101, "warning"), (0.25, "warning")]
    )
    def test_durable_write(self, seconds, state, tmp_path, monkeypatch):
        moments = iter(range(1000))
        monkeypatch.setattr("time.perf_counter", lambda: next(moments) * seconds)
        check = examining.durable_write(tmp_path / "logs")
        assert check.state == state
        assert f"{seconds * 1000:.0f} ms" in check.found
        assert ("--logs DIR" in check.mend) == (state != "ok")
        assert next(moments) == 40  # twenty writes
        assert not list(tmp_path.iterdir())

    def test_no_durable_write(self, tmp_path):
        (tmp_path / "logs").write_text("")
        assert_bad(examining.durable_write(tmp_path / "logs"), "wrong", "Not a directory", mend="--logs DIR")


@pytest.fixture
def prepared(recipe, tmp_path):
    """A copy of the prepared images of a recipe, to be changed."""
    _, info = resolve(load_run(recipe))
    folder = tmp_path / "prepared"
    shutil.copytree(info.folder, folder)
    return open_prepared(folder, info.memory_megabytes)


def change(info, name, position, value):
    values = np.load(info.folder / f"{name}.npy", allow_pickle=False)
    values[position] = value
    np.save(info.folder / f"{name}.npy", values)


def picture(info, split, position):
    return np.load(info.folder / f"{split}_images.npy", allow_pickle=False)[position]


class TestLabels:
    def test_good(self, prepared):
        assert_ok(run_checks.labels(prepared), "training images a class")

    @pytest.mark.parametrize("split", ["train", "validation"])
    @pytest.mark.parametrize("label", [-1, 10])
    def test_out_of_range(self, prepared, split, label):
        change(prepared, f"{split}_labels", [0, 3], label)
        check = run_checks.labels(prepared)
        assert_bad(check, "wrong", f"2 {split} labels are not from 0 to 9", mend="correct the labels of digits")
        assert check.part == "configuration"

    @pytest.mark.parametrize(("split", "state", "mend"), [
        ("train", "wrong", "data.train_images"), ("validation", "warning", "data.validation_fraction"),
    ])  # fmt: skip
    def test_a_class_without_images(self, prepared, split, state, mend):
        labels = np.load(prepared.folder / f"{split}_labels.npy", allow_pickle=False)
        change(prepared, f"{split}_labels", labels == 7, 6)
        assert_bad(run_checks.labels(prepared), state, "1 of 10 classes have no", "such as '7'", mend=mend)

    def test_labels_of_the_test_split_are_not_looked_at(self, prepared):
        (prepared.folder / "test_labels.npy").unlink()
        assert_ok(run_checks.labels(prepared))
        assert_ok(run_checks.copies(prepared))


class TestCopies:
    def test_none(self, prepared):
        assert_ok(run_checks.copies(prepared), "no picture is in two splits")

    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_in_the_test_split(self, prepared, split):
        change(prepared, "test_images", [4, 9], picture(prepared, split, 2))
        check = run_checks.copies(prepared)
        assert_bad(check, "warning", "2 of 60 test images", "0 of 60 validation images", mend="remove the copies")
        assert check.part == "configuration"

    def test_in_the_validation_split(self, prepared):
        change(prepared, "validation_images", 4, picture(prepared, "train", 2))
        assert_bad(run_checks.copies(prepared), "warning", "0 of 60 test", "1 of 60 validation", mend="remove")

    def test_twice_in_one_split_is_no_leak(self, prepared):
        change(prepared, "train_images", 4, picture(prepared, "train", 2))
        assert_ok(run_checks.copies(prepared))

    def test_nearly_the_same_is_no_copy(self, prepared):
        almost = picture(prepared, "train", 2)
        almost[0, 0] ^= 1
        change(prepared, "test_images", 4, almost)
        assert_ok(run_checks.copies(prepared))


class TestImages:
    def test_good(self, recipe):
        checks = run_checks.images(load_run(recipe))
        assert [check.name for check in checks] == ["images", "labels", "copies", "architectures"]
        for check in checks:
            assert_ok(check)
            assert check.part == "configuration"
        assert checks[0].found.startswith("100 train, 60 validation, 60 test images of 10 classes, 8x8, 1 channel,")
        assert checks[-1].found == "14 can be drawn under macs <= 200,000"

    @pytest.mark.parametrize(
        ("override", "words"),
        [
            ("data.source=folder:nowhere", "nowhere: no such folder"),
            ("data.source=cifar11", "Did you mean 'cifar10'"),
            ("space.classes=3", "space.classes is 3, but digits has 10"),
        ],
    )
    def test_wrong(self, override, words, recipe):
        (check,) = run_checks.images(load_run(recipe, [override]))
        assert_bad(check, "wrong", words, mend="change the recipe")
        assert check.part == "configuration"

    @pytest.mark.parametrize(
        "error", [UnavailableError("no connection"), RuntimeError("operator torchvision::nms does not exist")]
    )
    def test_not_to_be_had(self, error, recipe, monkeypatch):
        def fail(settings, side, splits):
            raise error

        monkeypatch.setattr("genas.stages.prepare", fail)
        (check,) = run_checks.images(load_run(recipe))
        assert_bad(check, "wrong", str(error), mend="mend what the message names")
        assert check.part == "machine"

    @pytest.mark.parametrize("content", [b"", b"no array", None])
    @pytest.mark.parametrize("name", ["train_labels.npy", "test_images.npy"])
    def test_damaged(self, name, content, recipe, prepared, monkeypatch):
        monkeypatch.setattr("genas.stages.prepare", lambda settings, side, splits: prepared)
        (prepared.folder / name).unlink()
        if content is not None:
            (prepared.folder / name).write_bytes(content)
        checks = run_checks.images(load_run(recipe))
        assert [check.name for check in checks] == ["images", "labels", "architectures"]
        assert_bad(
            checks[1], "wrong", "cannot be read" if content is None else "is damaged", mend=f"rm -r {prepared.folder}"
        )
        assert checks[1].part == "configuration"

    def test_limits_that_nothing_keeps(self, recipe):
        check = run_checks.images(load_run(recipe, ["limits.macs=10"]))[-1]
        assert_bad(check, "wrong", "below the cheapest", mend="change the recipe")
        assert check.part == "configuration"

    def test_not_imported(self, recipe, monkeypatch):
        run = load_run(recipe)
        monkeypatch.setitem(sys.modules, "genas.stages", None)
        (check,) = run_checks.images(run)
        assert_bad(check, "wrong", "not checked: genas.stages", mend="install")
        assert check.part == "machine"


class TestRunFiles:
    def test_before_anything_there_is_nothing_to_check(self, recipe, tmp_path):
        assert run_checks.run_files(load_run(recipe, logs=tmp_path / "logs")) == []

    def test_whole(self, copy):
        store, files = run_checks.run_files(copy)
        assert_ok(store)
        assert store.found == "every row is whole: 14 results of generate, 6 results of retrain"
        assert_ok(files)
        assert "JSON and YAML files" in files.found

    def test_a_damaged_store(self, copy):
        with closing(sqlite3.connect(copy.store)) as connection:
            connection.execute("UPDATE results SET loss = loss / 2 WHERE job = 3")
            connection.commit()
        (check,) = run_checks.run_files(copy)
        assert_bad(check, "wrong", "1 damaged row in results", mend="genas generate tiny")
        assert check.part == "configuration"

    @pytest.mark.parametrize("name", ["winner/retrain.json", "config.yml", "meta.json"])
    def test_a_damaged_file(self, name, copy):
        path = copy.folder / name
        path.write_bytes(path.read_bytes()[:-3] + b"   ")
        _, check = run_checks.run_files(copy)
        assert_bad(check, "wrong", "damaged", mend=f"rm {path}")


def summary(*checks):
    return {"checks": [examining.asdict(check) for check in checks], "wrong": 0, "warnings": 0}


class TestAll:
    def test_exit_code(self):
        fine, warned = Check("a", "ok", "x"), Check("b", "warning", "x", "y")
        machine, data = Check("c", "wrong", "x", "y"), Check("d", "wrong", "x", "y", "configuration")
        assert exit_code(summary(fine, warned)) == 0
        assert exit_code(summary(fine, warned, data)) == 2
        assert exit_code(summary(data, machine)) == 3

    def test_words(self):
        result = summary(Check("a", "ok", "found"), Check("b", "warning", "little", "free some"))
        assert examined({**result, "warnings": 1}).splitlines() == [
            "ok       a: found",
            "warning  b: little; mend: free some",
            "Nothing is wrong, 1 warning",
        ]
        assert examined({**result, "wrong": 1}).endswith("\n1 is wrong, no warnings")
        assert examined({**result, "wrong": 2, "warnings": 2}).endswith("\n2 are wrong, 2 warnings")

    def test_counts_and_names(self, recipe, tmp_path, monkeypatch):
        (tmp_path / "logs").write_text("")
        monkeypatch.setattr(examining, "cores", lambda workers: Check("cores", "warning", "few", "more"))
        monkeypatch.setattr(examining, "packages", list)
        result = doctor(load_run(recipe), tmp_path / "logs", [Check("recipe", "ok", "valid")])
        names = [check["name"] for check in result["checks"]]
        assert len(set(names)) == len(names)
        states = [check["state"] for check in result["checks"]]
        assert (states.count("wrong"), states.count("warning")) == (result["wrong"], result["warnings"])
        assert result["wrong"] >= 1
        assert result["warnings"] >= 1
        assert "logs folder" in names
        assert not {"write-ahead log", "file lock", "durable write"} & set(names)  # for the same reason
        assert names.index("recipe") < names.index("images")
        for check in result["checks"]:
            assert bool(check["mend"]) == (check["state"] != "ok")


@pytest.fixture
def sound(monkeypatch, kernel):
    """A machine that is in order as far as this one decides it."""
    kernel["/proc/meminfo"] = f"MemTotal: {2**40} kB\nMemAvailable: {2**40} kB\n"
    monkeypatch.setattr("os.statvfs", lambda path: space(50 * GIGABYTE))
    monkeypatch.setattr("training.devices._DRIVERS", ())
    monkeypatch.setattr(examining, "_OLDEST_SQLITE", (3, 0, 0))
    monkeypatch.setattr(examining, "_SLOW_WRITE", 1e9)


class TestCommand:
    def test_the_machine(self, genas, sound):
        answer = genas("doctor")
        assert (answer.code, answer.err) == (0, "")
        *lines, last = answer.out.splitlines()
        assert {line[:9].strip() for line in lines} == {"ok"}
        assert last == "Nothing is wrong, no warnings"
        assert "images:" not in answer.out
        assert not list(Path().iterdir())

    def test_a_recipe_for_machines(self, genas, recipe, sound):
        answer = genas("doctor", recipe, "--set", "data.train_images=50", "--json")
        assert (answer.code, answer.err) == (0, "")
        result = json.loads(answer.out)
        assert list(result) == ["checks", "wrong", "warnings"]
        assert (result["wrong"], result["warnings"]) == (0, 0)
        found = {check["name"]: check["found"] for check in result["checks"]}
        assert found["recipe"] == "valid, of run tiny"
        assert found["images"].startswith("50 train,")
        assert {"labels", "copies", "architectures", "file lock"} <= set(found)
        for check in result["checks"]:
            assert list(check) == ["name", "state", "found", "mend", "part"]

    def test_nothing_is_left_behind(self, genas, recipe, sound, monkeypatch, tmp_path):
        places = {name: tmp_path / name for name in ("cache", "temporary", "logs")}
        for place in places.values():
            place.mkdir()
        monkeypatch.setenv("GENAS_CACHE", str(places["cache"]))
        monkeypatch.setattr("tempfile.tempdir", str(places["temporary"]))
        assert genas("doctor", "--logs", places["logs"]).code == 0
        assert not [entry for place in places.values() for entry in place.iterdir()]
        assert genas("doctor", recipe, "--logs", places["logs"]).code == 0
        assert [entry.name for place in places.values() for entry in place.iterdir()] == ["prepared"]
        assert len(list((cache_folder() / "prepared").iterdir())) == 1
        assert not list(Path().iterdir())

    def test_warnings_are_0(self, genas, sound, monkeypatch):
        monkeypatch.setattr("os.statvfs", lambda path: space(GIGABYTE // 2))
        answer = genas("doctor")
        assert answer.code == 0
        assert "\nwarning  disk of logs: 512 MB free in logs" in answer.out
        assert "; mend: free some space there, or name a folder on a local disk with --logs DIR\n" in answer.out
        assert answer.out.endswith("Nothing is wrong, 2 warnings\n")

    def test_the_machine_is_3(self, genas, recipe, sound):
        Path("logs").write_text("not a folder")
        for arguments in ((), ("--json",), (recipe, "--set", "data.source=cifar11")):
            answer = genas("doctor", *arguments)
            assert (answer.code, answer.err) == (3, "")
            assert "Not a directory" in answer.out
        assert Path("logs").read_text() == "not a folder"

    @pytest.mark.parametrize(
        ("override", "words"),
        [
            ("data.source=cifar11", "wrong    images: data source 'cifar11' is unknown"),
            ("generate.architecture=3", "wrong    recipe: "),
            ("limits.macs=10", "wrong    architectures: "),
        ],
    )
    def test_the_recipe_is_2(self, override, words, genas, recipe, sound):
        answer = genas("doctor", recipe, "--set", override)
        assert (answer.code, answer.err) == (2, "")
        assert f"\n{words}" in answer.out
        assert "\nok       file lock" in answer.out  # the machine is told all the same
        assert answer.out.endswith("1 is wrong, no warnings\n")
        assert not list(Path().iterdir())

    def test_no_recipe_is_2(self, genas, sound):
        answer = genas("doctor", "quikstart")
        assert answer.code == 2
        assert "Did you mean 'quickstart'" in answer.out
        answer = genas("doctor", "--set", "seed=1")
        assert (answer.code, answer.out) == (2, "")
        assert "name CONFIG" in answer.err

    def test_stopped_it_leaves_nothing(self, genas, monkeypatch):
        monkeypatch.setattr(examining, "packages", list)
        monkeypatch.setattr("os.fsync", lambda file: signal.raise_signal(signal.SIGTERM))
        assert genas("doctor").code == 143
        assert not list(Path().iterdir())


MISSING = ["torch", "torchvision", "torch_geometric", "numpy", "yaml", "PIL", "scipy", "sklearn", "packaging"]


def speak(missing, code, logs):
    """What a fresh process prints in which packages cannot be imported, as after a failed installation."""
    code = f"import sys\nsys.modules.update(dict.fromkeys({missing}))\n{code}"
    answer = subprocess.run([sys.executable, "-c", code, "doctor", "quickstart", "--logs", logs],
                            capture_output=True, text=True, check=False)  # fmt: skip
    assert answer.stderr == ""
    assert "wrong    torch: cannot be imported" in answer.stdout
    assert "wrong    cache folder: not checked: " in answer.stdout
    assert "\nok       file lock: " in answer.stdout
    assert "wrong    recipe: not checked: " in answer.stdout
    assert not logs.exists()
    return answer.returncode


def test_the_command_speaks_where_packages_are_missing(tmp_path):
    assert speak(MISSING, "from genas.cli import main\nmain()", tmp_path / "logs") == 3


def test_the_function_speaks_even_without_what_the_command_line_needs(tmp_path):
    code = (
        "from pathlib import Path\nfrom genas.examining import doctor, load\nfrom genas.words import examined\n"
        "logs = Path(sys.argv[-1])\nprint(examined(doctor(None, logs, [load('quickstart', [], logs)[1]])))"
    )
    assert speak([*MISSING, "pydantic", "typer", "rich"], code, tmp_path / "logs") == 0
