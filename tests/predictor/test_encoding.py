from __future__ import annotations

import json

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.encoding import EncodedGraphs, GraphEncoder
from predictor.structure import Structure
from supernet import ArchGraph, LabelTable, Node

_NODES = st.builds(
    Node,
    st.sampled_from(["conv", "pool", "sum", "x"]),
    st.dictionaries(st.sampled_from(["in", "out", "macs", "odd"]), st.floats(-1e12, 1e12), max_size=4).map(
        lambda attributes: tuple(attributes.items())
    ),
)


@st.composite
def _graphs(draw: st.DrawFn) -> ArchGraph:
    nodes = draw(st.lists(_NODES, min_size=1, max_size=7))
    possible = [(start, end) for end in range(len(nodes)) for start in range(end)]
    return ArchGraph(tuple(nodes), tuple(draw(st.lists(st.sampled_from(possible), unique=True)) if possible else ()))


def relabel(graph: ArchGraph, order: list[int]) -> ArchGraph:
    """The same graph with node ``order[i]`` at position i and the edges turned round in their list."""
    place = {old: new for new, old in enumerate(order)}
    edges = tuple((place[start], place[end]) for start, end in reversed(graph.edges))
    return ArchGraph(tuple(graph.nodes[old] for old in order), edges)


def fit(graphs: list[ArchGraph]) -> GraphEncoder:
    return GraphEncoder.fit(Structure.of(graphs))


def encode(encoder: GraphEncoder, graphs: list[ArchGraph]) -> EncodedGraphs:
    return encoder.encode(Structure.of(graphs), np.arange(len(graphs), dtype=float)[:, None])


def of_graph(encoded: EncodedGraphs, number: int) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """The nodes of one graph and its edges by what they join, in an order of their own."""
    first, last = encoded.starts[0, number : number + 2]
    edges = encoded.edges[:, slice(*encoded.starts[1, number : number + 2])]
    text = [np.round(row.numpy(), 4).tobytes() for row in encoded.x]
    return sorted(text[first:last]), sorted((text[int(start)], text[int(end)]) for start, end in edges.T)


@given(st.lists(_graphs(), min_size=1, max_size=4), st.randoms())
@settings(max_examples=50, deadline=None)
def test_relabelling_permutes_nodes(graphs, random):
    encoder = fit(graphs)
    orders = [random.sample(range(len(graph.nodes)), len(graph.nodes)) for graph in graphs]
    one = encode(encoder, graphs)
    two = encode(encoder, [relabel(graph, order) for graph, order in zip(graphs, orders, strict=True)])
    for number in range(len(graphs)):
        assert of_graph(one, number) == of_graph(two, number)


@given(st.lists(_graphs(), min_size=2, max_size=5))
@settings(max_examples=30, deadline=None)
def test_a_batch_is_the_graphs_side_by_side_finite_and_can_be_taken_apart(graphs):
    encoder = fit(graphs[:1])  # the others may hold unknown operations and attributes
    batch = encode(encoder, graphs)
    assert batch.x.shape[1] == encoder.node_width
    assert torch.isfinite(batch.x).all()
    for number, graph in enumerate(graphs):
        assert of_graph(batch, number) == of_graph(encode(encoder, [graph]), 0)
    rows = np.array([len(graphs) - 1, 0, 0])
    chosen = batch.select(rows)
    assert chosen.scalars[:, 0].tolist() == rows.tolist()
    assert chosen.owner.tolist() == sorted(chosen.owner.tolist())
    for place, row in enumerate(rows):
        assert of_graph(chosen, place) == of_graph(batch, row)


def test_unknown_operation_has_the_reserved_index():
    encoder = fit([ArchGraph((Node("conv"), Node("sum")), ((0, 1),))])
    known, foreign = encode(encoder, [ArchGraph((Node("conv"), Node("never_seen")), ((0, 1),))]).x
    operation, node = encoder.unknown_columns
    assert (known[operation], known[node]) == (0, 0)
    assert (foreign[operation], foreign[node]) == (1, 1)
    assert foreign[1 : 1 + len(encoder.ops)].sum() == 0


def test_missing_attribute_is_marked_and_its_value_the_mean():
    graphs = [ArchGraph((Node("conv", (("out", out),)), Node("conv")), ((0, 1),)) for out in (8.0, 64.0)]
    encoder = fit(graphs)
    mark = 1 + len(encoder.ops) + 1 + len(encoder.common)
    x = encode(encoder, graphs).x
    assert x[:, mark].tolist() == [1, 0, 1, 0]
    assert x[1, mark + 1] == x[3, mark + 1] == 0
    torch.testing.assert_close(x[[0, 2], mark + 1], torch.tensor([-1.0, 1.0]))


def test_json_round_trip(op_subset_table: LabelTable, cell_table: LabelTable):
    graphs = [*op_subset_table.graphs, *cell_table.graphs]
    encoder = fit(graphs)
    again = GraphEncoder.from_json(json.loads(json.dumps(encoder.to_json())))
    assert torch.equal(encode(encoder, graphs).x, encode(again, graphs).x)
