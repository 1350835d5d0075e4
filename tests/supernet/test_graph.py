import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet import ArchGraph, InputError, Node, OpSubset
from supernet.graph import graph_from_json, graph_to_json, named_graph_from_json, named_graph_to_json

NODES = tuple(Node(op) for op in "abcdef")
ATTRIBUTES = ("in", "out", "kernel", "stride", "resolution", "macs", "params", "latency")
finite = st.one_of(st.integers(-(10**9), 10**18), st.floats(allow_nan=False, allow_infinity=False))


@st.composite
def graphs(draw):
    """Acyclic graphs with nodes in any order."""
    nodes = draw(
        st.lists(
            st.builds(
                lambda op, attributes: Node(op, tuple(attributes.items())),
                st.text(min_size=1, max_size=8),
                st.dictionaries(st.sampled_from(ATTRIBUTES), finite, max_size=4),
            ),
            min_size=1,
            max_size=7,
        )
    )
    place = draw(st.permutations(range(len(nodes))))
    pairs = [(place[start], place[end]) for start, end in itertools.combinations(range(len(nodes)), 2)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return ArchGraph(tuple(nodes), tuple(edges))


@given(graphs())
def test_order_puts_every_node_after_its_inputs(graph):
    order = graph.order()
    assert sorted(order) == list(range(len(graph.nodes)))
    place = {position: index for index, position in enumerate(order)}
    assert all(place[start] < place[end] for start, end in graph.edges)


@given(graphs())
def test_predecessors_are_the_edges_read_backwards(graph):
    predecessors = graph.predecessors()
    assert sorted((start, end) for end, starts in enumerate(predecessors) for start in starts) == sorted(graph.edges)


@given(graphs())
def test_json_round_trip(graph):
    entry = json.loads(json.dumps(graph_to_json(graph), allow_nan=False))
    assert graph_from_json(entry["nodes"], entry["edges"]) == graph


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        (((0, 1), (1, 2), (2, 0)), "cycle"),
        (((0, 1), (1, 0)), "cycle"),
        (((2, 2),), "cycle"),
        (((5, 4), (4, 3), (3, 5), (0, 1)), "cycle through or before node 3"),
        (((0, 1), (0, 1)), "an edge is given twice"),
        (((1, 0), (1, 0)), "an edge is given twice"),
        (((0, 6),), r"edge \[0, 6\] names a node outside 0..5"),
        (((-1, 2),), r"edge \[-1, 2\] names a node outside"),
    ],
)
def test_edges_that_make_no_acyclic_graph_are_refused(edges, said):
    with pytest.raises(InputError, match=said):
        ArchGraph(NODES, edges)


def test_a_graph_without_nodes_is_refused():
    with pytest.raises(InputError, match="no nodes"):
        ArchGraph((), ())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_attributes_are_finite(value):
    with pytest.raises(InputError, match=r"attribute 'macs' is .*expected a finite number"):
        Node("conv", (("macs", value),))


def test_the_operation_is_no_attribute():
    with pytest.raises(InputError, match="cannot be an attribute"):
        Node("conv", (("op", 3),))


def test_equal_graphs_have_one_digest():
    """Also where one has whole numbers and the other the same as floats, as a table from elsewhere may."""
    values = (3, 3.0, np.float64(3), 3.5, np.float64(3.5))
    digests = [ArchGraph((Node("conv", (("macs", value),)),), ()).digest() for value in values]
    assert len(set(digests[:3])) == len(set(digests[3:])) == 1
    assert digests[0] != digests[3]


def test_nodes_are_checked():
    with pytest.raises(InputError, match="empty"):
        Node("")
    with pytest.raises(InputError, match="given twice"):
        Node("conv", (("macs", 1), ("macs", 2)))
    node = Node("conv", (("kernel", 3), ("in", 2.5)))
    assert node == Node("conv", (("in", 2.5), ("kernel", 3)), name="another")
    assert hash(node) == hash(Node("conv", (("in", 2.5), ("kernel", 3.0)), name="another"))
    assert (node.get("kernel"), node.get("out"), node.get("out", 7), node.integer("kernel")) == (3, 0, 7, 3)
    for attribute, got in (("in", "2.5"), ("out", "none")):
        with pytest.raises(InputError, match=f"node 'conv': attribute '{attribute}' must be an integer, got {got}"):
            node.integer(attribute)


@pytest.mark.parametrize(
    ("nodes", "edges", "said"),
    [
        ("abc", [], "'nodes' must be a list"),
        ({"op": "a"}, [], "'nodes' must be a list"),
        ([{"op": "a"}], "0", "'edges' must be a list"),
        ([{"op": "a"}], None, "'edges' must be a list"),
        (["a"], [], "node 0 must be an object"),
        ([{"op": "a"}, {"macs": 3}], [], "node 1 must be an object with a string 'op'"),
        ([{"op": 3}], [], "node 0 must be an object with a string 'op'"),
        ([{"op": ""}], [], "'op' is an empty string"),
        ([{"op": "a", "macs": "3"}], [], "node 0: attribute 'macs' must be a finite number, got '3'"),
        ([{"op": "a", "macs": True}], [], "attribute 'macs' must be a finite number"),
        ([{"op": "a", "macs": 10**400}], [], "attribute 'macs' must be a finite number"),
        ([{"op": "a", "macs": math.inf}], [], "attribute 'macs' must be a finite number"),
        ([{"op": "a"}, {"op": "b"}], [[0]], "edge 0 must be a pair"),
        ([{"op": "a"}, {"op": "b"}], [[0, 1, 1]], "edge 0 must be a pair"),
        ([{"op": "a"}, {"op": "b"}], [[0, 1.0]], "edge 0 must be a pair"),
        ([{"op": "a"}, {"op": "b"}], [[False, True]], "edge 0 must be a pair"),
        ([{"op": "a"}, {"op": "b"}], ["01"], "edge 0 must be a pair"),
    ],
)
def test_json_that_is_no_graph_is_refused(nodes, edges, said):
    with pytest.raises(InputError, match=said):
        graph_from_json(nodes, edges)


def test_absent_and_null_attributes_are_the_same():
    assert graph_from_json([{"op": "a", "macs": None}], []) == graph_from_json([{"op": "a"}], [])


def test_names_of_nodes_come_back_where_they_are_asked_for():
    space = OpSubset()
    graph = space.graph(space.cheapest("macs"))
    content = json.loads(json.dumps(named_graph_to_json(graph)))
    again = named_graph_from_json(content)
    assert again == graph
    assert [node.name for node in again.nodes] == [node.name for node in graph.nodes]
    with pytest.raises(ValueError, match=r"shorter|longer"):
        named_graph_from_json({**content, "names": content["names"][:-1]})
