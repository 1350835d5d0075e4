import json

import pytest
import torch

from genas import timing
from genas.config import load_run
from genas.searching import search
from genas.timing import measured_latency
from supernet import InputError, OpSubset
from supernet.latency import read_latency
from supernet.settings import UnavailableError


def test_a_space_is_timed_and_then_searched_within_milliseconds(copy, genas, tmp_path):
    logs = ("--logs", copy.folder.parent)
    out = tmp_path / "latency.json"
    answer = genas("latency", "tiny", *logs, "--networks", 12, "--out", out)
    assert answer.code == 0, answer.err
    assert "12 networks from" in answer.out
    measured = read_latency(out)
    assert measured.operations
    assert json.loads(out.read_text())["device"] == "cpu"
    space = copy.settings.space
    values = measured.of([space.graph(space.cheapest("macs")), space.graph(space.read("1" * 12))])
    middle = float(values.mean())
    run = load_run("tiny", [f"latency={out}", f"limits={{latency: {middle:.6f}}}"], copy.folder.parent)
    found = search(run)
    assert all(one["latency"] <= middle for one in found["evolution"]["best"])


def test_latencies_of_a_table_are_taken_as_they_are(copy, genas, tmp_path):
    table, rows = tmp_path / "table.jsonl", []
    assert genas("export-table", "tiny", "--logs", copy.folder.parent, "--out", table).code == 0
    for line in table.read_text().splitlines():
        row = json.loads(line)
        row["metrics"]["ms"] = 1 + sum(node.get("macs", 0) for node in row["nodes"]) / 1e5
        rows.append(json.dumps(row))
    table.write_text("\n".join(rows))
    answer = genas("latency", table, "--metric", "ms", "--out", tmp_path / "l.json", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["error"] < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("quickstart", "--out", "l.txt"), "expected a name that ends with .json"),
        (("gone.jsonl", "--out", "l.json"), "say which is the latency with --metric NAME"),
        (("quickstart", "--out", "l.json", "--metric", "ms"), "--metric is of a table"),
        (("quickstart", "--out", "l.json", "--networks", "3"), "expected at least 10 networks"),
    ],
)
def test_what_it_cannot_do(genas, arguments, message):
    answer = genas("latency", *arguments)
    assert answer.code == 2
    assert message in " ".join(answer.err.replace("│", " ").split())


def graph():
    space = OpSubset(input_size=8, classes=10)
    return space.graph(space.cheapest("macs"))


def test_a_networks_latency_is_the_median_of_many_runs():
    threads = torch.get_num_threads()
    found = measured_latency(graph(), batch=3, device="cpu")
    low, high = found["quartiles"]
    assert 0 < found["least"] <= low <= found["milliseconds"] <= high
    assert (found["name"], found["batch"], found["device"]) == ("cpu batch 3", 3, "cpu")
    assert found["runs"] >= 20
    assert found["passes"] >= 1
    assert found["processor"]
    assert json.loads(json.dumps(found)) == found
    assert torch.get_num_threads() == threads


def test_the_median_is_told_and_the_fastest_is_fitted(monkeypatch):
    seen = []

    def timed(_graph, batch, device):
        seen.append((batch, device, torch.get_num_threads()))
        return [9.0, 1.0, 2.0, 4.0, 3.0], 7

    monkeypatch.setattr(timing, "_timed", timed)
    found = measured_latency(graph(), 2)
    assert (found["milliseconds"], found["quartiles"], found["least"]) == (3.0, [2.0, 4.0], 1.0)
    assert (found["runs"], found["passes"]) == (5, 7)
    assert seen == [(2, "cpu", 1)]
    assert timing._milliseconds(graph(), 1, "cpu") == 1.0


def test_odd_batches_and_devices_are_refused():
    for batch, device in ((0, "cpu"), (1, "abacus")):
        with pytest.raises(InputError, match="expected a batch of 1 or more on cpu or cuda"):
            measured_latency(graph(), batch, device)
    if not torch.cuda.is_available():
        with pytest.raises(UnavailableError, match="sees no GPU"):
            measured_latency(graph(), 1, "cuda")
