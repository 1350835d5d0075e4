import os

import pytest

from training import devices


def test_without_a_driver_there_is_no_gpu_and_torch_is_not_asked(monkeypatch):
    monkeypatch.setattr(devices, "_DRIVERS", ())
    monkeypatch.setattr("torch.cuda.is_available", lambda: pytest.fail("asked"))
    assert devices.gpu_names() == []


def test_with_a_driver_torch_is_asked(monkeypatch):
    monkeypatch.setattr(devices, "_DRIVERS", ("/",))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", "GPU {}".format)
    assert devices.gpu_names() == ["GPU 0", "GPU 1"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert devices.gpu_names() == []


MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("file", "content", "limit"),
    [
        ("memory.max", "1000000\n", 1_000_000),
        ("memory/memory.limit_in_bytes", "2000000\n", 2_000_000),
        ("memory.max", "max\n", MACHINE),
        ("memory.max", f"{MACHINE * 2}\n", MACHINE),
    ],
)
def test_the_memory_of_the_machine_or_of_its_group(file, content, limit, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_GROUPS", tmp_path)
    assert devices.machine_memory() == MACHINE
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    assert devices.machine_memory() == limit


def test_the_group_of_this_process_and_those_above_it(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_GROUPS", tmp_path)
    read = devices._read
    groups = "5:cpu:/x\n4:memory,other:/one/two\n0::/slice/service\n"
    monkeypatch.setattr(devices, "_read", lambda path: groups if str(path) == "/proc/self/cgroup" else read(path))
    for folder, limit in (("memory/one", 3_000_000), ("slice/service", 4_000_000), ("cpu/x", 5)):
        (tmp_path / folder).mkdir(parents=True)
        name = "memory.max" if folder.startswith("slice") else "memory.limit_in_bytes"
        (tmp_path / folder / name).write_text(str(limit))
    assert devices.machine_memory() == 3_000_000
