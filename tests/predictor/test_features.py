from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.features import GROUPS, FlatEncoder
from supernet import ArchGraph, InputError, LabelTable, Node
from tests.predictor.test_structure import graph, graphs


def relabelled(one: ArchGraph, random: np.random.Generator) -> ArchGraph:
    order = random.permutation(len(one.nodes)).tolist()
    place = {old: new for new, old in enumerate(order)}
    edges = [(place[start], place[end]) for start, end in one.edges]
    random.shuffle(edges)
    return ArchGraph(tuple(one.nodes[old] for old in order), tuple(tuple(edge) for edge in edges))


@given(st.lists(graphs(), min_size=2, max_size=6), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_columns_do_not_depend_on_order_or_company(some, seed):
    encoder = FlatEncoder.fit(some)
    columns = encoder.encode(some)
    assert columns.shape == (len(some), encoder.width)
    assert np.isfinite(columns).all()
    random = np.random.default_rng(seed)
    np.testing.assert_allclose(encoder.encode([relabelled(one, random) for one in some]), columns, atol=1e-9)
    np.testing.assert_allclose(np.concatenate([encoder.encode([one]) for one in some]), columns, atol=1e-9)


@given(st.lists(graphs(), min_size=2, max_size=5), graphs())
@settings(max_examples=60, deadline=None)
def test_what_is_dead_changes_nothing_but_the_totals(some, dead):
    """A branch behind an operation that gives zeros."""
    encoder = FlatEncoder.fit(some)
    one = some[0]
    first = len(one.nodes)
    nodes = (*one.nodes, Node("none"), *dead.nodes)
    edges = (*one.edges, (0, first), *((start + first + 1, end + first + 1) for start, end in dead.edges))
    hidden = ArchGraph(nodes, (*edges, *((first, first + 1 + place) for place in range(len(dead.nodes)))))
    alive = encoder.group("place", "paths", "subtree")
    if any(start == 0 for start, _ in one.edges):  # node 0 keeps its followers, so that ends stay ends
        deep = max(len(dead.nodes) + 2, 2)
        tail = tuple(Node("tail") for _ in range(deep))  # the graph's own end stays the deepest
        ends = [place for place in range(first) if all(start != place for start, _ in one.edges)]
        count = len(hidden.nodes)
        chain = [(end, count) for end in ends] + [(count + step, count + step + 1) for step in range(deep - 1)]
        plain_chain = [(end, first) for end in ends] + [(first + step, first + step + 1) for step in range(deep - 1)]
        long = ArchGraph((*hidden.nodes, *tail), (*hidden.edges, *chain))
        plain = ArchGraph((*one.nodes, *tail), (*one.edges, *plain_chain))
        np.testing.assert_allclose(encoder.encode([long])[:, alive], encoder.encode([plain])[:, alive], atol=1e-9)


def holds(encoder: FlatEncoder, some: list[ArchGraph], wanted: list[float]) -> bool:
    """Whether a column is these numbers, but for shift and scale."""
    columns, target = encoder.encode(some), np.array(wanted, float)
    target = (target - target.mean()) / target.std()
    return bool((np.abs(columns.T @ target) > len(some) - 1e-6).any())


def test_paths_are_counted_by_what_they_hold():
    some = [
        graph("input conv conv output", (0, 1), (1, 2), (2, 3), (0, 3)),
        graph("input conv conv output", (0, 1), (0, 2), (1, 3), (2, 3), (0, 3)),
        graph("input conv pool output", (0, 1), (0, 2), (1, 3), (2, 3), (0, 3)),
        graph("input conv skip conv output", (0, 1), (1, 2), (2, 3), (1, 4), (3, 4), (0, 4)),
        graph("input pool conv conv conv output", (0, 1), (1, 2), (2, 5), (0, 3), (0, 4), (3, 5), (4, 5), (0, 5)),
    ]  # the edge from input to output makes each of them one block
    encoder = FlatEncoder.fit(some)
    assert holds(encoder, some, np.log1p([0, 2, 1, 1, 3]))  # paths with one convolution
    assert holds(encoder, some, [1, 0, 0, 1, 0])  # with two
    assert holds(encoder, some, np.log1p([0, 2, 2, 1, 2]))  # of one node, not counting what changes nothing
    assert holds(encoder, some, np.log1p([0, 2, 1, 1, 2]))  # with one convolution and nothing else
    assert holds(encoder, some, np.log1p([1, 2, 1, 2, 2]))  # that start with a convolution


def test_only_the_edges_tell_these_apart():
    pool_first = graph("input pool conv output", (0, 1), (1, 2), (2, 3))
    conv_first = graph("input conv pool output", (0, 1), (1, 2), (2, 3))
    columns = FlatEncoder.fit([pool_first, conv_first]).encode([pool_first, conv_first])
    assert np.abs(columns[0] - columns[1]).max() > 1


def test_an_operation_in_some_layer_is_a_column_of_its_own():
    def layers(*sets: str) -> ArchGraph:
        nodes, edges, last = [Node("input")], [], 0
        for ops in sets:
            places = []
            for op in ops.split():
                edges.append((last, len(nodes)))
                places.append(len(nodes))
                nodes.append(Node(op))
            edges += [(place, len(nodes)) for place in places]
            last = len(nodes)
            nodes.append(Node("sum"))
        return ArchGraph(tuple(nodes), tuple(edges))

    some = [layers("a b", "b"), layers("b", "a"), layers("a", "a b"), layers("b", "b"), layers("a", "b")]
    encoder = FlatEncoder.fit(some)
    assert holds(encoder, some, [1, 0, 1, 0, 1])  # a in the first layer
    assert holds(encoder, some, [0, 1, 1, 0, 0])  # in the second


def test_no_column_is_there_twice_and_all_vary(op_subset_table: LabelTable, cell_table: LabelTable):
    for table in (op_subset_table, cell_table):
        encoder = FlatEncoder.fit(table.graphs)
        columns = encoder.encode(table.graphs)
        np.testing.assert_allclose(columns.std(axis=0), 1, atol=1e-6)
        alike = np.abs(columns.T @ columns) / len(columns) - np.eye(encoder.width)
        assert alike.max() < 1 - 1e-6


def test_choices_of_layers_are_found_without_attributes(op_subset_table: LabelTable):
    """The 18 bits of three layers can be read off the columns of graphs that have names of operations alone."""
    bare = [
        ArchGraph(tuple(Node(f"{node.op}{node.get('kernel'):g}") for node in one.nodes), one.edges)
        for one in op_subset_table.graphs
    ]
    encoder = FlatEncoder.fit(bare)
    place = encoder.encode(bare)[:, encoder.group("place")]
    bits = np.array([row.choices for row in op_subset_table.rows], float)
    design = np.concatenate([place, np.ones((len(place), 1))], axis=1)
    solved, *_ = np.linalg.lstsq(design, bits, rcond=None)
    assert np.abs(design @ solved - bits).max() < 1e-6


def test_only_features_of_every_row_are_used():
    some = [graph("a"), graph("b"), graph("a")]
    encoder = FlatEncoder.fit(some, [{"x": 1.0, "y": 2.0}, {"x": 3.0}, {"x": 5.0}])
    assert encoder.features == ("x",)
    assert len(encoder.group("features")) == 1
    with pytest.raises(InputError, match="architecture 1 lacks the feature 'x'"):
        encoder.encode(some, [{"x": 1.0}, {"y": 3.0}, {"x": 1.0}])
    with pytest.raises(InputError, match="features x; expected them for 3 architectures, got none"):
        encoder.encode(some)


def test_equal_graphs_have_no_columns():
    encoder = FlatEncoder.fit([graph("a b", (0, 1))] * 3)
    assert encoder.width == 0
    assert encoder.encode([graph("c")] * 2).shape == (2, 0)
    assert encoder.encode([]).shape == (0, 0)


def test_json_round_trip(op_subset_table: LabelTable, cell_table: LabelTable):
    some = [*op_subset_table.graphs[:20], *cell_table.graphs[:20]]
    encoder = FlatEncoder.fit(some)
    again = FlatEncoder.from_json(json.loads(json.dumps(encoder.to_json())))
    assert np.array_equal(again.encode(some), encoder.encode(some))
    assert sorted(again.columns) == sorted(GROUPS)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content["columns"].update(place=[10**6]),
        lambda content: content["mean"].pop(),
        lambda content: content["scale"].__setitem__(0, 0.0),
        lambda content: content["labels"].pop("op"),
    ],
)
def test_json_that_does_not_fit_is_refused(cell_table, damage):
    content = json.loads(json.dumps(FlatEncoder.fit(cell_table.graphs).to_json()))
    damage(content)
    with pytest.raises((KeyError, ValueError)):
        FlatEncoder.from_json(content)


def test_more_paths_than_numbers_can_count():
    """A block of 1,500 nodes, each fed by all before it: 2 ** 1498 paths, and no infinite column."""
    count = 1500
    near = [(start, end) for end in range(count) for start in range(max(end - 4, 0), end)]
    dense = ArchGraph(tuple(Node("conv") for _ in range(count)), (*near, (0, count - 1)))
    columns = FlatEncoder.fit([dense, graph("conv conv", (0, 1))]).encode([dense])
    assert np.isfinite(columns).all()


def test_an_operation_has_weights_by_its_own_costs_alone():
    """What the others of a batch tell of theirs changes nothing."""
    plain = [graph("input conv pool output", (0, 1), (1, 2), (2, 3)), graph("input pool output", (0, 1), (1, 2))]
    told = ArchGraph((Node("conv", (("macs", 5.0), ("params", 2.0))),), ())
    encoder = FlatEncoder.fit([*plain, told])
    np.testing.assert_allclose(encoder.encode([*plain, told])[:2], encoder.encode(plain), atol=1e-9)
