import json

import pytest

from genas.config import load_run
from genas.searching import search
from supernet.latency import read_latency


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
