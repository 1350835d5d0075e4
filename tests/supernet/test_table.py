import json
import string

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supernet import ArchGraph, InputError, LabelRow, LabelTable, Node, read_table, write_table
from supernet.settings import UnavailableError
from tests.supernet.test_graph import graphs

GRAPH = ArchGraph((Node("input"), Node("conv", (("macs", 9),))), ((0, 1),))
GOOD = {
    "id": "a1",
    "nodes": [{"op": "input"}, {"op": "conv", "macs": 9}],
    "edges": [[0, 1]],
    "metrics": {"accuracy": 0.5},
}
numbers = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(string.ascii_letters + "_é", min_size=1, max_size=6)


@st.composite
def tables(draw):
    ids = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5, unique=True))
    choices = draw(st.integers(1, 4))
    rows = []
    for name in ids:
        metrics = draw(st.dictionaries(names, numbers, min_size=1, max_size=3))
        metrics["accuracy"] = draw(st.floats(0, 1))
        rows.append(
            LabelRow(
                name,
                draw(graphs()),
                metrics,
                draw(st.dictionaries(names, numbers, max_size=3)),
                draw(st.none() | st.tuples(*[st.integers(0, 35)] * choices)),
            )
        )
    return LabelTable(tuple(rows))


@given(tables())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_table_comes_back_from_its_file(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("table") / "deep" / "labels.jsonl"
    write_table(table, path)
    assert read_table(path) == table
    assert [entry.name for entry in path.parent.iterdir()] == ["labels.jsonl"]


def variant(**changes):
    return json.dumps({**GOOD, **changes})


BAD = {
    "not json": ("{", "Expecting property name"),
    "cut off": (json.dumps(GOOD)[:-9], ""),
    "two objects": (json.dumps(GOOD) * 2, "Extra data"),
    "a list": ("[1, 2]", "expected an object with id, nodes, edges, metrics, got list"),
    "unknown key": (variant(metric={}), "unknown key 'metric'; .*Did you mean 'metrics'"),
    "id missing": (json.dumps({key: GOOD[key] for key in GOOD if key != "id"}), "key 'id' is missing"),
    "edges missing": (json.dumps({key: GOOD[key] for key in GOOD if key != "edges"}), "key 'edges' is missing"),
    "id a number": (variant(id=3), "'id' must be a text that is not empty, got 3"),
    "id empty": (variant(id=""), "'id' must be a text"),
    "id again": (variant(id="first"), "id 'first' was given in line 1 already"),
    "key twice": (json.dumps(GOOD)[:-1] + ', "id": "a2"}', "key 'id' is given twice"),
    "metric twice": (variant(metrics=None).replace("null", '{"a": 1, "a": 2}'), "key 'a' is given twice"),
    "no metrics": (variant(metrics={}), "'metrics' is empty"),
    "metrics a list": (variant(metrics=[0.5]), "'metrics' must be an object of numbers"),
    "metric a text": (variant(metrics={"accuracy": "0.5"}), "metrics 'accuracy' must be a finite number, got '0.5'"),
    "metric true": (variant(metrics={"accuracy": True}), "metrics 'accuracy' must be a finite number"),
    "metric NaN": (variant(metrics={"loss": float("nan")}), "NaN is not a finite number"),
    "metric infinite": (variant(metrics={"loss": float("inf")}), "Infinity is not a finite number"),
    "metric 1e999": (variant(metrics={"loss": 1}).replace('"loss": 1', '"loss": 1e999'), "must be a finite number"),
    "metric of 400 digits": (variant(metrics={"loss": 10**400}), "must be a finite number"),
    "number of 5000 digits": (variant(metrics={"loss": 1}).replace('"loss": 1', '"loss": ' + "9" * 5000), "digits"),
    "accuracy in percent": (variant(metrics={"accuracy": 55.7}), "'accuracy' must be a fraction from 0 to 1, got 55.7"),
    "accuracy negative": (variant(metrics={"accuracy": -0.1}), "'accuracy' must be a fraction"),
    "feature a list": (variant(features={"synflow": [1]}), "features 'synflow' must be a finite number"),
    "choices a text": (variant(choices="010"), "'choices' must be a list of whole numbers"),
    "choices empty": (variant(choices=[]), "'choices' must be a list of whole numbers"),
    "choice a fraction": (variant(choices=[0, 1.5]), "'choices' must be a list of whole numbers"),
    "choice true": (variant(choices=[True]), "'choices' must be a list of whole numbers"),
    "choice negative": (variant(choices=[-1]), "'choices' must be a list of whole numbers from 0"),
    "choice enormous": (variant(choices=[10**30]), "'choices' must be a list of whole numbers from 0"),
    "no nodes": (variant(nodes=[], edges=[]), "graph: no nodes"),
    "node a text": (variant(nodes=["conv", "conv"]), "node 0 must be an object"),
    "node without op": (variant(nodes=[{"op": "a"}, {"macs": 1}]), "node 1 must be an object with a string 'op'"),
    "node number NaN": (variant(nodes=[{"op": "a", "macs": float("nan")}], edges=[]), "NaN is not a finite number"),
    "node number enormous": (
        variant(nodes=[{"op": "a", "macs": 10**400}], edges=[]),
        "node 0: attribute 'macs' must be",
    ),
    "edge leaves": (variant(edges=[[0, 2]]), r"edge \[0, 2\] names a node outside 0..1"),
    "edge twice": (variant(edges=[[0, 1], [0, 1]]), "an edge is given twice"),
    "cycle": (variant(edges=[[0, 1], [1, 0]]), "cycle"),
    "nested too deep": ("[" * 100_000, ""),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_refused_with_its_place_and_reason(name, tmp_path):
    line, said = BAD[name]
    path = tmp_path / "labels.jsonl"
    path.write_text(f"{variant(id='first')}\n\n{line}\n", encoding="utf-8")  # an empty line counts as a line
    with pytest.raises(InputError, match=rf"(?s)labels\.jsonl:3: .*{said}"):
        read_table(path)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    path = tmp_path / "labels.jsonl"
    with pytest.raises(InputError, match="cannot read the table"):
        read_table(path)
    path.write_text("\n \n")
    with pytest.raises(InputError, match="no rows"):
        read_table(path)
    path.write_bytes(b"\x93NUMPY\xff\xfe")
    with pytest.raises(InputError, match="not a text file"):
        read_table(path)
    path.write_text(variant() + "\n" + variant(id="b", choices=[0]) + "\n" + variant(id="c", choices=[0, 1]) + "\n")
    with pytest.raises(InputError, match=r"labels\.jsonl: label table: rows have \[1, 2\] choices"):
        read_table(path)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    table = LabelTable((LabelRow("a", GRAPH, {"accuracy": 0.5}),))
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot write"):
        write_table(table, tmp_path / "file" / "labels.jsonl")
    kept = tmp_path / "labels.jsonl"
    write_table(table, kept)
    before = kept.read_bytes()
    broken = LabelTable((LabelRow("a", GRAPH, {"accuracy": 0.5}), LabelRow("b", GRAPH, {"accuracy": float("nan")})))
    with pytest.raises(ValueError, match="not all finite"):
        write_table(broken, kept)
    assert kept.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "labels.jsonl"]


def test_table_access():
    rows = tuple(
        LabelRow(f"a{number}", GRAPH, {"accuracy": number / 10, "loss": 1.0}, choices=(number, 0))
        for number in range(5)
    )
    table = LabelTable(rows)
    assert len(table) == 5
    assert table.metric_names == ["accuracy", "loss"]
    np.testing.assert_array_equal(table.metric("accuracy"), [0, 0.1, 0.2, 0.3, 0.4])
    some = table.subset(np.array([3, 0]))
    assert [row.id for row in some.rows] == ["a3", "a0"]
    assert some.graphs == [GRAPH, GRAPH]
    with pytest.raises(InputError, match=r"metric 'acuracy' is missing in row 'a0'; .*Did you mean 'accuracy'"):
        table.metric("acuracy")
    with pytest.raises(InputError, match="id 'a1' is given twice"):
        LabelTable((rows[1], rows[1]))
    with pytest.raises(InputError, match=r"rows have \[1, 2\] choices"):
        LabelTable((rows[1], LabelRow("b", GRAPH, {"accuracy": 1}, choices=(1,))))
