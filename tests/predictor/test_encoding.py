from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor import GraphEncoder
from supernet import ArchGraph, InputError, LabelTable, Node

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


@given(st.lists(_graphs(), min_size=1, max_size=4), st.randoms())
@settings(max_examples=50, deadline=None)
def test_relabelling_permutes_nodes_and_leaves_scalars(graphs, random):
    encoder = GraphEncoder.fit(graphs)
    orders = [random.sample(range(len(graph.nodes)), len(graph.nodes)) for graph in graphs]
    one = encoder.encode(graphs)
    two = encoder.encode([relabel(graph, order) for graph, order in zip(graphs, orders, strict=True)])
    moved = torch.tensor([int(one.ptr[g]) + old for g, order in enumerate(orders) for old in order])
    torch.testing.assert_close(two.x, one.x[moved])
    torch.testing.assert_close(two.scalars, one.scalars)
    pairs = {(int(moved[start]), int(moved[end])) for start, end in two.edge_index.T}
    assert pairs == {(int(start), int(end)) for start, end in one.edge_index.T}


@given(st.lists(_graphs(), min_size=2, max_size=5))
@settings(max_examples=30, deadline=None)
def test_batch_is_the_graphs_side_by_side_and_finite(graphs):
    encoder = GraphEncoder.fit(graphs[:1])  # the others may hold unknown operations and attributes
    batch = encoder.encode(graphs)
    assert batch.x.shape == (sum(len(graph.nodes) for graph in graphs), encoder.node_width)
    assert batch.scalars.shape == (len(graphs), encoder.scalar_width)
    assert torch.isfinite(batch.x).all()
    assert torch.isfinite(batch.scalars).all()
    for number, graph in enumerate(graphs):
        alone = encoder.encode([graph])
        span = slice(int(batch.ptr[number]), int(batch.ptr[number + 1]))
        torch.testing.assert_close(batch.x[span], alone.x)
        torch.testing.assert_close(batch.scalars[number], alone.scalars[0])


def test_unknown_operation_has_the_reserved_index():
    encoder = GraphEncoder.fit([ArchGraph((Node("conv"), Node("sum")), ((0, 1),))])
    known, foreign = encoder.encode([ArchGraph((Node("conv"), Node("never_seen")), ((0, 1),))]).x
    operation, node = encoder.unknown_columns
    assert (known[operation], known[node]) == (0, 0)
    assert (foreign[operation], foreign[node]) == (1, 1)
    assert foreign[1 : 1 + len(encoder.ops)].sum() == 0


def test_missing_attribute_is_marked_and_its_value_the_mean():
    graphs = [ArchGraph((Node("conv", (("out", out),)), Node("conv")), ((0, 1),)) for out in (8.0, 64.0)]
    encoder = GraphEncoder.fit(graphs)
    mark, value = encoder.node_width - 4, encoder.node_width - 3
    x = encoder.encode(graphs).x
    assert x[:, mark].tolist() == [1, 0, 1, 0]
    assert x[1, value] == x[3, value] == 0
    torch.testing.assert_close(x[[0, 2], value], torch.tensor([-1.0, 1.0]))


def test_only_features_of_every_row_are_used():
    graphs = [ArchGraph((Node("a"),), ())] * 2
    encoder = GraphEncoder.fit(graphs, [{"x": 1.0, "y": 2.0}, {"x": 3.0}])
    assert encoder.features == ("x",)
    assert encoder.encode(graphs, [{"x": 1.0}, {"x": 3.0}]).scalars[:, -1].tolist() == [-1.0, 1.0]
    with pytest.raises(InputError, match="lacks the feature 'x'"):
        encoder.encode(graphs, [{"x": 1.0}, {"y": 3.0}])
    with pytest.raises(InputError, match="features x; expected them for 2 architectures, got none"):
        encoder.encode(graphs)


def test_json_round_trip(op_subset_table: LabelTable, cell_table: LabelTable):
    graphs = [*op_subset_table.graphs, *cell_table.graphs]
    encoder = GraphEncoder.fit(graphs)
    again = GraphEncoder.from_json(json.loads(json.dumps(encoder.to_json())))
    one, two = encoder.encode(graphs), again.encode(graphs)
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.scalars, two.scalars)


def test_scalars_are_standardised(op_subset_table: LabelTable):
    scalars = GraphEncoder.fit(op_subset_table.graphs).encode(op_subset_table.graphs).scalars.numpy()
    np.testing.assert_allclose(scalars.mean(axis=0), 0, atol=1e-4)
    spread = scalars.std(axis=0)
    assert set(np.round(spread, 3)) == {0.0, 1.0}  # constant columns are zero
