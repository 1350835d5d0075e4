from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.structure import Flow, Structure, spans
from supernet import ArchGraph, Node


def graph(ops: str, *edges: tuple[int, int]) -> ArchGraph:
    return ArchGraph(tuple(map(Node, ops.split())), edges)


def live(structure: Structure) -> list[str]:
    return [structure.distinct[row].op for row in structure.row]


@st.composite
def graphs(draw: st.DrawFn) -> ArchGraph:
    ops = draw(st.lists(st.sampled_from(["conv", "pool", "sum", "none", "input"]), min_size=1, max_size=7))
    possible = [(start, end) for end in range(len(ops)) for start in range(end)]
    edges = draw(st.lists(st.sampled_from(possible), unique=True)) if possible else []
    return graph(" ".join(ops), *edges)


def paths(one: ArchGraph) -> list[list[int]]:
    """All paths of a graph from a node without inputs to one without followers, none through a zero."""
    before, after = one.predecessors(), [[] for _ in one.nodes]
    for start, end in one.edges:
        after[start].append(end)
    found, waiting = [], [[place] for place in range(len(one.nodes)) if not before[place]]
    while waiting:
        path = waiting.pop()
        if one.nodes[path[-1]].op == "none":
            continue
        found += [path] if not after[path[-1]] else []
        waiting += [[*path, step] for step in after[path[-1]]]
    return found


@given(st.lists(graphs(), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_alive_is_what_lies_on_a_path_to_the_deepest_end(some):
    structure = Structure.of(some)
    for number, one in enumerate(some):
        depth = [0] * len(one.nodes)
        for place in one.order():
            for before in one.predecessors()[place]:
                depth[place] = max(depth[place], depth[before] + 1)
        ends = {place for place in range(len(one.nodes)) if all(start != place for start, _ in one.edges)}
        deepest = max(depth[place] for place in ends)
        good = [path for path in paths(one) if depth[path[-1]] == deepest]
        alive = sorted({place for path in good for place in path})
        mine = structure.owner == number
        assert [structure.distinct[row] for row in structure.row[mine]] == [one.nodes[place] for place in alive]
        expected = np.log(len(good)) if good else -np.inf
        assert structure.all_paths[number] == pytest.approx(expected)
        for place, cut in zip(alive, structure.cut[mine], strict=True):
            assert cut == all(place in path for path in good)


def test_dead_ends_and_zeros_are_left_out():
    dead_end = graph("input conv pool output", (0, 1), (1, 3), (0, 2))
    assert live(Structure.of([dead_end])) == ["input", "conv", "output"]
    zeros = graph("input none conv sum conv", (0, 1), (1, 2), (2, 3), (0, 3), (3, 4))
    assert live(Structure.of([zeros])) == ["input", "sum", "conv"]
    assert live(Structure.of([graph("input none output", (0, 1), (1, 2))])) == []
    assert live(Structure.of([graph("conv conv")])) == ["conv", "conv"]  # no edges at all: nothing is dead


def test_blocks_are_what_lies_between_nodes_that_all_paths_pass():
    # input, a layer of two, their sum, a layer of one with a sum of one, a last convolution
    one = graph("input conv pool sum conv sum conv", (0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (4, 5), (5, 6))
    structure = Structure.of([one])
    assert structure.cut.tolist() == [True, False, False, True, True, True, True]
    assert structure.block.tolist() == [0, 1, 1, 1, 2, 2, 3]  # the sum of one tensor ends no block of its own
    assert structure.blocks.tolist() == [3]


def test_flow_goes_along_edges_whatever_their_order():
    sources, targets = np.array([2, 0, 1, 0]), np.array([3, 2, 3, 1])
    flow = Flow.of(4, sources, targets)
    assert flow.level.tolist() == [0, 1, 1, 2]
    own = np.array([[1.0], [2.0], [4.0], [8.0]])
    assert flow.along(own, np.add)[:, 0].tolist() == [1, 3, 5, 16]
    assert flow.along(own, np.maximum)[:, 0].tolist() == [1, 3, 5, 13]
    assert flow.along(own, np.minimum)[:, 0].tolist() == [1, 3, 5, 11]
    np.testing.assert_allclose(flow.log_paths(), np.log([1, 1, 1, 2]))
    assert flow.mean_along(own, flow.log_paths())[:, 0].tolist() == [1, 3, 5, 12]


def test_paths_beyond_any_number_are_counted():
    rungs = 2000  # 2 ** 2000 paths
    ops, edges = ["sum"], []
    for rung in range(rungs):
        ops += ["conv", "conv", "sum"]
        edges += [
            (3 * rung, 3 * rung + 1),
            (3 * rung, 3 * rung + 2),
            (3 * rung + 1, 3 * rung + 3),
            (3 * rung + 2, 3 * rung + 3),
        ]
    structure = Structure.of([ArchGraph(tuple(map(Node, ops)), tuple(edges))])
    assert structure.all_paths[0] == pytest.approx(rungs * np.log(2))
    assert structure.blocks[0] == rungs


def test_spans():
    assert spans(np.array([5, 1, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert spans(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []
