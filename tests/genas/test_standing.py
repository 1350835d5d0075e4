import json
import time
from contextlib import closing

import pytest

from data_gen import open_store, run_lock
from data_gen.nodes import NodeState, Standing, write_standing
from genas.standing import status
from genas.words import standing
from tests.data_gen.harness import SPACE, architectures

RESULT = {
    "accuracy": 0.5, "loss": 1.25, "epochs": 3, "pieces": 1, "seconds": 2.5, "peak_memory": 12345,
    "images_per_second": 99.5, "curves": {"train_loss": [2.0, 1.5]},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A run with a training that is done on each of two nodes, and one that has failed."""
    plan = [(one, 0, "sample") for one in architectures(4)]
    costs = {one.key: {name: int(value[0]) for name, value in SPACE.costs(one.row()).items()} for one, _, _ in plan}
    with closing(open_store(tmp_path / "store.db")) as store:
        jobs = store.add_jobs("generate", plan, costs)
        for job, node in zip(jobs[:2], ("host-b", "host-a"), strict=True):
            store.commit(job, store.start(job, 1, node), RESULT)
        store.fail(store.start(jobs[2], 1, "host-a"), "oom", "")
    return tmp_path


def written(folder, seconds_ago=0.0):
    state = NodeState("host-a", "cpu", 2, 2, 1)
    write_standing(folder, Standing(time.time() - seconds_ago, "generate", "ray", 1, 3, (state,)))


def test_nodes_of_a_run_that_nobody_drives_are_those_of_the_store(folder):
    written(folder)
    nodes = status(folder)["nodes"]
    assert nodes["now"] is None
    assert [(one["name"], one["done"], one["failed"], one["interrupted"]) for one in nodes["trained"]] == [
        ("host-a", 1, {"oom": 1}, 0),
        ("host-b", 1, {}, 0),
    ]
    assert "\n  2 nodes\n    host-a: 1 done, " in standing(status(folder))


def test_nodes_of_a_driven_run_are_told_as_its_driver_wrote_them(folder):
    with run_lock(folder):
        assert status(folder)["nodes"]["now"] is None
        written(folder)
        result = status(folder)
        text = standing(result)
    now = result["nodes"]["now"]
    assert (now["stage"], now["runner"], now["waiting"], now["asked"]) == ("generate", "ray", 1, 3)
    assert [(one["name"], one["places"], one["running"], one["lost"]) for one in now["nodes"]] == [
        ("host-a", 2, 1, False)
    ]
    assert len(result["nodes"]["trained"]) == 2
    json.dumps(result, allow_nan=False)
    assert "  node host-a: cpu, 1 of 2 workers running; 1 done, " in text
    assert "1 attempt failed (oom 1); 1 job waiting, 3 workers asked for and not placed" in text


def test_nodes_of_an_earlier_stage_or_damaged_ones_are_not_told(folder):
    with run_lock(folder):
        written(folder, seconds_ago=61)
        assert status(folder)["nodes"]["now"] is None
        (folder / "nodes.json").write_text("{")
        assert status(folder)["nodes"]["now"] is None
