import json

import pytest

from training import choosing
from training.choosing import fastest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GENAS_CACHE", str(tmp_path))
    monkeypatch.setattr(choosing, "_known", {})
    return tmp_path / "kernels"


WAYS = {"slow": lambda: 3.0, "quick": lambda: 1.0, "middle": lambda: 2.0}


def counted(calls):
    def seconds(way):
        calls.append(way)
        return way()

    return seconds


def forget(monkeypatch):
    """As another process, which knows what is in the file."""
    monkeypatch.setattr(choosing, "_known", {})


def test_each_shape_is_timed_once_for_a_device(folder, monkeypatch):
    calls = []
    for device, shape, expected in (("a", "x", 3), ("a", "x", 3), ("a", "y", 6), ("b", "x", 9), ("b", "x", 9)):
        assert fastest(device, shape, WAYS, counted(calls)) == "quick"
        assert len(calls) == expected
    forget(monkeypatch)
    assert fastest("a", "y", WAYS, counted(calls)) == "quick"
    assert len(calls) == 9
    assert len(list(folder.iterdir())) == 2


def test_a_way_that_fails_is_none(folder):
    def broken():
        raise NotImplementedError("not on this card")

    assert fastest("a", "x", {"broken": broken, **WAYS}, lambda way: way()) == "quick"
    assert fastest("a", "y", {"broken": broken}, lambda way: way()) == "broken"  # which then tells the user


@pytest.mark.parametrize("content", ["", "{", "[]", '{"fastest": 3}', '{"fastest": {"x": "no such way"}}'])
def test_a_damaged_file_is_timed_again(folder, monkeypatch, content):
    fastest("a", "x", WAYS, lambda way: way())
    (path,) = folder.iterdir()
    path.write_text(content)
    forget(monkeypatch)
    calls = []
    assert fastest("a", "x", WAYS, counted(calls)) == "quick"
    assert len(calls) == 3
    assert json.loads(path.read_text())["fastest"]["x"] == "quick"


def test_what_others_have_learnt_meanwhile_is_kept(folder, monkeypatch):
    fastest("a", "x", WAYS, lambda way: way())
    mine = choosing._known["a"]
    forget(monkeypatch)
    fastest("a", "y", WAYS, lambda way: way())
    monkeypatch.setattr(choosing, "_known", {"a": mine})
    fastest("a", "z", WAYS, lambda way: way())
    (path,) = folder.iterdir()
    assert set(json.loads(path.read_text())["fastest"]) == {"x", "y", "z"}


def test_a_cache_that_cannot_be_written_costs_only_time(monkeypatch):
    monkeypatch.setattr(choosing, "_known", {})
    monkeypatch.setenv("GENAS_CACHE", "/dev/null/nowhere")
    assert fastest("a", "x", WAYS, lambda way: way()) == "quick"
