"""The part of the cluster's runner that is on a node, here without Ray: its actor is a plain object."""

import asyncio
import fcntl
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

from data_gen import keeper
from data_gen.keeper import Keeper
from supernet.settings import UnavailableError
from tests.data_gen.fake_worker import label
from tests.data_gen.harness import FAKE, SEEDS, alive, prepared, wait_for
from training.data import damage

SPLITS = ["train", "validation"]
CHOICES = [0, 1]


@pytest.fixture
def node(tmp_path, monkeypatch):
    """The folders of a node."""
    for name in ("cache", "tmp", "notes"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("GENAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


@pytest.fixture
def images(tmp_path):
    """Prepared images where the driver is."""
    return prepared(tmp_path / "images").folder


async def piece(content):
    return content


async def place(one, images):
    """What the bridge does to bring images; the names of the files that were brought."""
    names = await one.look(images.name, (images / "info.json").read_bytes(), SPLITS, 512)
    for name in names:
        content = (images / name).read_bytes()
        await one.bring(name, [piece(content[:100]), piece(content[100:])])
    return names


async def begin(one, images, node, beat=0.05):
    command = [sys.executable, "-I", "-S", str(FAKE), str(node / "notes")]
    await place(one, images)
    pid = await one.begin({"device": "cpu"}, command, beat)
    assert await lines_of(one) == [b'{"ready": true}']
    return pid


async def lines_of(one):
    """What it says next, when it says something."""
    lines = []
    while not lines:
        lines, _, ended = await one.listen()
        assert ended is None
    return lines


def job(number, seed=0, **more):
    basic = {"job": number, "key": f"key{number}", "choices": CHOICES, "seed": seed, "pieces": 1}
    return {**basic, "weights": None, "checkpoints": None, **more}


FILES = ["train_images.npy", "train_labels.npy", "validation_images.npy", "validation_labels.npy"]


def test_images_are_brought_once_and_again_where_they_are_damaged(node, images):
    async def bring():
        one = Keeper()
        brought = await place(one, images)
        await one.begin({"device": "cpu"}, [sys.executable, "-c", ""], 1.0)
        await one.end()
        return brought, one._images

    brought, copy = asyncio.run(bring())
    assert brought == FILES
    assert damage(copy, SPLITS) == ""
    assert (copy / "info.json").read_bytes() == (images / "info.json").read_bytes()
    assert copy.name == images.name  # checkpoints know images by it
    assert asyncio.run(bring()) == ([], copy)
    (copy / "train_images.npy").write_bytes(b"torn")
    (copy / f".train_images.npy.{2**22 + 1}.tmp").write_bytes(b"left by one that was killed")
    assert asyncio.run(bring()) == (FILES[:2], copy)
    assert damage(copy, SPLITS) == ""
    (copy / "info.json").write_text("{}")
    assert asyncio.run(bring()) == (FILES, copy)
    assert sorted(path.name for path in copy.iterdir()) == ["info.json", *FILES]
    assert list((node / "tmp").iterdir()) == []


def test_the_drivers_own_images_are_used_where_it_is(node, images):
    own = node / "cache" / "prepared"
    own.mkdir()
    images.rename(own / images.name)

    async def look():
        one = Keeper()
        described = (own / images.name / "info.json").read_bytes()
        missing = await one.look(images.name, described, SPLITS, 512)
        await one.end()
        return missing, one._images

    assert asyncio.run(look()) == ([], own / images.name)
    (own / images.name / "train_images.npy").write_bytes(b"torn")  # not ours to repair
    missing, chosen = asyncio.run(look())
    assert missing == FILES
    assert chosen != own / images.name


def test_one_at_a_time_looks_for_images(node, images):
    async def both():
        one, other = Keeper(), Keeper()
        assert await place(one, images) == FILES
        second = asyncio.create_task(place(other, images))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not second.done()
        await one.begin({"device": "cpu"}, [sys.executable, "-c", ""], 1.0)  # from here on they are only read
        assert await second == []
        await one.end()
        await other.end()

    asyncio.run(both())


def test_one_that_is_ended_while_it_looks_leaves_the_images_to_others(node, images):
    async def run():
        one = Keeper()
        await place(one, images)
        await one.end()
        lock = next((node / "cache" / "placed").glob("*/lock")).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.close()

    asyncio.run(run())


@pytest.mark.parametrize("where", ["cache", "tmp"])
def test_a_disk_that_cannot_be_written_is_told(where, node, images):
    (node / where).rmdir()
    (node / where).write_text("no folder")
    with pytest.raises(UnavailableError, match=rf"{node / where}.*: cannot write .*\(Not a directory\)"):
        asyncio.run(place(Keeper(), images))


def test_images_and_checkpoints_that_find_no_room_are_told(node, images, monkeypatch):
    async def run():
        one = Keeper()
        await one.look(images.name, (images / "info.json").read_bytes(), SPLITS, 512)
        one._images = node / "absent"
        with pytest.raises(UnavailableError, match="absent: cannot write images"):
            await one.bring("train_images.npy", [])
        await one.begin({"device": "cpu"}, [sys.executable, "-c", "input()"], 1.0)
        (one._folder / "checkpoints").write_text("no folder")
        with pytest.raises(UnavailableError, match="checkpoints: cannot write"):
            await one.send(job(1, checkpoints=["/far", "name"]), [])
        await one.end()

    asyncio.run(run())


def test_a_worker_is_carried_to_and_from(node, images):
    async def run():
        one = Keeper()
        pid = await begin(one, images, node, beat=100.0)  # no signs of life then
        first = json.loads((node / "notes" / f"worker-{pid}.json").read_text())
        assert first == {"device": "cpu", "data": str(one._images)}
        weights = {"weights": "/far/away/key1-0.safetensors"}
        await one.send(job(1, **weights), [])
        lines, files, ended = await one.listen()
        assert json.loads(lines[-1])["result"]["accuracy"] == label(CHOICES, 0)
        assert files == [
            ("weights", "key1-0.safetensors", b"weights of key1"), ("weights", "key1-0.json", b"about key1"),
        ]  # fmt: skip
        assert ended is None
        await one.send(job(2, SEEDS["exit"]), [])
        assert await one.listen() == ([], [], "exit code 7; these are my last words")
        await one.send(job(3), [])  # nobody is there
        await one.end()
        assert list((node / "tmp").iterdir()) == []

    asyncio.run(run())


def test_signs_of_life_are_told_once_in_a_while_and_silence_at_once(node, images):
    async def run():
        one = Keeper()
        pid = await begin(one, images, node, beat=0.3)
        assert await one.listen() == ([], [], None)  # the node is there, and has nothing to tell
        await one.send(job(1, SEEDS["wait"]), [])
        told = [json.loads(line)["batches"] for _ in range(3) for line in await lines_of(one)]
        assert len(told) == 3  # of some twenty
        assert told == sorted(set(told))
        await one.end()
        wait_for(lambda: not alive(pid))

    asyncio.run(run())


def test_checkpoints_come_as_they_are_made_and_go_along_with_a_job(node, images):
    def pair(step):
        return [
            ("checkpoints", f"name.{step:09d}.{ending}", f"{ending} of step {step}".encode())
            for ending in ("safetensors", "json")
        ]

    async def run():
        one = Keeper()
        await begin(one, images, node)
        place = {"checkpoints": ["/far", "name"]}
        await one.send(job(1, SEEDS["long"], **place), [])
        found = []
        while not found:
            _, found, _ = await one.listen()
        assert found == pair(1)
        assert (await one.listen())[1] == []  # each once
        await one.send({"stop": True}, [])
        lines, found, ended = [], [], None
        while ended is None:
            more, files, ended = await one.listen()
            lines, found = lines + more, found + files
        assert json.loads(lines[-1]) == {"job": 1, "stopped": True}
        assert found == pair(2)
        await one.end()

        other = Keeper()
        await begin(other, images, node)
        await other.send(job(1, SEEDS["long"], **place), pair(1) + pair(2))
        lines, files, _ = await other.listen()
        assert "result" in json.loads(lines[-1])
        assert files == []  # what came along does not go back
        assert (node / "notes" / "continued-1").read_text() == "json of step 2, safetensors of step 2"
        await other.send(job(2, **place), [])
        await other.listen()
        assert list((other._folder / "checkpoints").iterdir()) == []
        await other.end()

    asyncio.run(run())


def test_what_killed_ones_have_left_is_removed(node, images):
    dead, mine = (node / "tmp" / f"genas-node-{pid}-x" for pid in (2**22 + 1, os.getpid()))
    for folder in (dead, mine):
        folder.mkdir()
        (folder / "weights").write_text("")

    async def run():
        one = Keeper()
        await place(one, images)
        await one.end()

    asyncio.run(run())
    assert not dead.exists()
    assert mine.exists()


def test_ending_before_anything_has_begun_touches_nothing(node, monkeypatch):
    monkeypatch.chdir(node)
    before = sorted(node.iterdir())
    asyncio.run(Keeper().end())
    assert sorted(node.iterdir()) == before


def test_what_a_node_is(monkeypatch):
    monkeypatch.setattr(keeper, "gpu_memory", lambda: [2**30])
    told = keeper.probe()
    assert told.keys() == {"host", "code", "torch", "memory"}
    assert told["code"] == keeper.code_digest()
    assert told["memory"] == [2**30]


def test_memory_of_gpus_as_their_tool_tells_it(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\nprintf "81559\\n24564\\n"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert keeper.gpu_memory() == [81559 * 2**20, 24564 * 2**20]
    tool.write_text('#!/bin/sh\nprintf "N/A\\n"\n')
    assert keeper.gpu_memory() == []
    monkeypatch.setenv("PATH", "/no/such/folder")
    assert keeper.gpu_memory() == []


def test_another_version_is_told_by_its_code(tmp_path, monkeypatch):
    for package in ("supernet", "training", "data_gen"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "one.py").write_text("")
    monkeypatch.setattr(keeper, "__file__", str(tmp_path / "data_gen" / "keeper.py"))
    seen = {keeper.code_digest()}
    (tmp_path / "training" / "one.py").write_text("x = 1\n")
    seen.add(keeper.code_digest())
    (tmp_path / "training" / "one.py").rename(tmp_path / "training" / "two.cpp")
    seen.add(keeper.code_digest())
    (tmp_path / "training" / "notes.txt").write_text("of no weight")
    seen.add(keeper.code_digest())
    assert len(seen) == 3
    assert Path(keeper.__file__).parent.parent == tmp_path
