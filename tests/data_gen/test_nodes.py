import json
import math

import pytest

from data_gen.nodes import GpuUse, NodeState, Standing, read_standing, write_standing
from supernet.files import write_json

STANDING = Standing(
    1e9, "generate", "ray", 12, 2,
    (
        NodeState("host-a", "cuda", 8, 8, 7, (GpuUse(0.93, 0.41), GpuUse(0.0, 0.5))),
        NodeState("host-b", "cpu", 4, 0, 0, lost=True, why="no answer for 60 s"),
    ),
)  # fmt: skip


def test_a_standing_comes_back_as_it_was_written(tmp_path):
    write_standing(tmp_path, STANDING)
    assert read_standing(tmp_path) == STANDING
    content = json.loads((tmp_path / "nodes.json").read_text())
    assert {key: content[key] for key in ("time", "stage", "runner", "waiting", "asked")} == {
        "time": 1e9, "stage": "generate", "runner": "ray", "waiting": 12, "asked": 2,
    }  # fmt: skip
    assert content["nodes"][0] == {
        "name": "host-a", "device": "cuda", "places": 8, "workers": 8, "running": 7,
        "gpus": [{"use": 0.93, "memory": 0.41}, {"use": 0.0, "memory": 0.5}], "lost": False, "why": "",
    }  # fmt: skip


def test_a_standing_that_is_not_there_or_damaged_is_none(tmp_path):
    assert read_standing(tmp_path / "absent") is None
    write_standing(tmp_path, STANDING)
    path = tmp_path / "nodes.json"
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert read_standing(tmp_path) is None
    path.unlink()
    path.mkdir()
    assert read_standing(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"time": 1.0, "stage": "generate", "runner": "ray", "waiting": 1, "asked": 0, "nodes": [{"name": "host-a"}]},
        {"time": "then", "stage": "generate", "runner": "ray", "waiting": 1, "asked": 0, "nodes": []},
        {"time": 1.0, "stage": "generate", "runner": "ray", "waiting": 1, "asked": 0, "nodes": None},
    ],
)
def test_what_another_version_wrote_is_none_where_it_does_not_fit(content, tmp_path):
    write_json(tmp_path / "nodes.json", content)
    assert read_standing(tmp_path) is None


def test_what_a_later_version_adds_is_passed_over(tmp_path):
    write_json(
        tmp_path / "nodes.json",
        {"time": 1.0, "stage": "generate", "runner": "ray", "waiting": 1, "asked": 0, "nodes": [], "more": math.pi},
    )
    assert read_standing(tmp_path) == Standing(1.0, "generate", "ray", 1, 0, ())
