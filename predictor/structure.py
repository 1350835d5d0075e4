"""Many graphs as arrays: what is alive in them, how deep it lies, and sums over paths.

No Python runs for each node but one dictionary look-up; what goes along edges goes one level at a time for all
graphs together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from supernet import ArchGraph, Node

ZERO_OPS = ("zero", "none", "zeroize")
"""Operations that give nothing: what hangs on them alone is dead. The names of the published cell benchmarks."""

JOIN_OPS = ("sum", "add", "concat", "output")
"""Operations that join what goes into them, and change nothing where that is one tensor."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Flow:
    """Edges in an order in which values can go along them, one level of targets at a time.

    Attributes:
        sources, targets: of the edges, sorted by the level of their targets, then by target, (edges,).
        level: of each node, the number of edges on the longest path to it, (nodes,).
        bounds: where the edges of each level begin, (levels + 1,).
    """

    sources: Ints
    targets: Ints
    level: Ints
    bounds: Ints

    @staticmethod
    def of(count: int, sources: Ints, targets: Ints) -> Flow:
        """Of an acyclic graph, or many side by side, with so many nodes."""
        level = np.zeros(count, np.int64)
        waiting = np.bincount(targets, minlength=count)
        by_source = np.argsort(sources, kind="stable")
        after = targets[by_source]
        fan = np.bincount(sources, minlength=count)
        first = np.concatenate([[0], np.cumsum(fan)[:-1]]) if count else np.zeros(0, np.int64)
        ready, depth = np.flatnonzero((waiting == 0) & (fan > 0)), 0
        while len(ready):
            depth += 1
            reached = after[spans(first[ready], fan[ready])]
            level[reached] = depth
            np.subtract.at(waiting, reached, 1)
            done = np.unique(reached)
            ready = done[(waiting[done] == 0) & (fan[done] > 0)]
        order = np.lexsort((targets, level[targets]))
        levels = level[targets][order]
        bounds = np.searchsorted(levels, np.arange(1, depth + 2))
        return Flow(sources[order], targets[order], level, bounds)

    def along(self, values: Floats, join: np.ufunc) -> Floats:
        """Each node's own value plus what ``join`` makes of the results of the nodes before it, (nodes, columns)."""
        result = values.copy()
        for start, end in zip(self.bounds[:-1], self.bounds[1:], strict=True):
            targets = self.targets[start:end]
            starts = np.flatnonzero(np.concatenate([[True], targets[1:] != targets[:-1]]))
            result[targets[starts]] += join.reduceat(result[self.sources[start:end]], starts, axis=0)
        return result

    def mean_along(self, values: Floats, paths: Floats) -> Floats:
        """As :meth:`along` with the mean over all paths to a node, given the log numbers of these paths."""
        result = values.copy()
        weights = np.exp(paths[self.sources] - paths[self.targets])
        for start, end in zip(self.bounds[:-1], self.bounds[1:], strict=True):
            targets = self.targets[start:end]
            starts = np.flatnonzero(np.concatenate([[True], targets[1:] != targets[:-1]]))
            carried = weights[start:end, None] * result[self.sources[start:end]]
            result[targets[starts]] += np.add.reduceat(carried, starts, axis=0)
        return result

    def log_paths(self) -> Floats:
        """Natural logarithm of the number of paths to each node from those that nothing leads to, (nodes,)."""
        result = np.zeros(len(self.level))
        for start, end in zip(self.bounds[:-1], self.bounds[1:], strict=True):
            targets = self.targets[start:end]
            starts = np.flatnonzero(np.concatenate([[True], targets[1:] != targets[:-1]]))
            result[targets[starts]] = np.logaddexp.reduceat(result[self.sources[start:end]], starts)
        return result


@dataclass(frozen=True, slots=True)
class Structure:
    """The live parts of some graphs, side by side.

    A node is alive if a path leads through it from an input to an output, past no operation that gives zeros. Inputs
    are the nodes that nothing leads to; outputs are those named ``output``, or else those that lead nowhere and lie
    deepest.

    Attributes:
        graphs: how many.
        distinct: the nodes that occur, each once.
        row: of each live node its place in ``distinct``, (nodes,).
        owner: of each live node its graph, ascending, (nodes,).
        sources, targets: of the live edges, (edges,).
        output: whether a live node is an output, (nodes,).
        forward, backward: along the edges, and against them.
        total_nodes, total_edges, total_macs: of each graph before pruning, (graphs,).
        all_row, all_owner: as ``row`` and ``owner``, of all nodes, dead ones too.
        paths, paths_after: log numbers of paths from the inputs to each node, and on to the outputs, (nodes,).
        all_paths: log number of paths of each graph, -inf where nothing is alive, (graphs,).
        cut: whether all paths lead through a node, (nodes,).
        block: how many blocks lie before a node, (nodes,); a block ends with a node that all paths lead through, but
            for one that merely joins a single tensor.
        blocks: the last block of each graph, (graphs,).
    """

    graphs: int
    distinct: tuple[Node, ...]
    row: Ints
    owner: Ints
    sources: Ints
    targets: Ints
    output: NDArray[np.bool_]
    forward: Flow
    backward: Flow
    total_nodes: Ints
    total_edges: Ints
    total_macs: Floats
    all_row: Ints
    all_owner: Ints
    paths: Floats
    paths_after: Floats
    all_paths: Floats
    cut: NDArray[np.bool_]
    block: Ints
    blocks: Ints

    @staticmethod
    def of(graphs: Sequence[ArchGraph]) -> Structure:
        """Of any graphs."""
        sizes = np.fromiter((len(graph.nodes) for graph in graphs), np.int64, len(graphs))
        edge_counts = np.fromiter((len(graph.edges) for graph in graphs), np.int64, len(graphs))
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        total = int(starts[-1])
        index: dict[Node, int] = {}
        row = np.fromiter(
            (index.setdefault(node, len(index)) for graph in graphs for node in graph.nodes), np.int64, total
        )
        pairs = np.fromiter(
            chain.from_iterable(chain.from_iterable(graph.edges for graph in graphs)),
            np.int64,
            2 * int(edge_counts.sum()),
        ).reshape(-1, 2)
        pairs += np.repeat(starts[:-1], edge_counts)[:, None]
        sources, targets = np.ascontiguousarray(pairs.T)
        owner = np.repeat(np.arange(len(graphs)), sizes)
        distinct = tuple(index)

        macs = np.bincount(owner, np.array([node.get("macs") for node in distinct])[row], len(graphs)).astype(
            np.float64
        )
        zero = np.fromiter((node.op.lower() in ZERO_OPS for node in distinct), bool, len(distinct))[row]
        named = np.fromiter((node.op.lower() == "output" for node in distinct), bool, len(distinct))[row]
        flow = Flow.of(total, sources, targets)
        leads = np.bincount(sources, minlength=total) > 0
        deepest = np.zeros(len(graphs), np.int64)
        np.maximum.at(deepest, owner[~leads], flow.level[~leads])
        has_named = np.bincount(owner[named], minlength=len(graphs)) > 0
        output = np.where(has_named[owner], named, ~leads & (flow.level == deepest[owner])) & ~zero
        kept = ~zero[sources] & ~zero[targets]
        given = (np.bincount(targets, minlength=total) == 0) & ~zero
        inner = flow if kept.all() else Flow.of(total, sources[kept], targets[kept])
        reached = inner.along(given[:, None].astype(np.float64), np.maximum)[:, 0] > 0
        back = Flow.of(total, targets[kept], sources[kept])
        live = reached & (back.along(output[:, None].astype(np.float64), np.maximum)[:, 0] > 0)

        place = np.cumsum(live) - 1
        kept &= live[sources] & live[targets]
        sources, targets = place[sources[kept]], place[targets[kept]]
        count = int(live.sum())
        all_row, all_owner = row, owner
        row, owner, output = row[live], owner[live], output[live]
        forward, backward = inner, back
        if count < total:
            forward, backward = Flow.of(count, sources, targets), Flow.of(count, targets, sources)
        paths, after = forward.log_paths(), backward.log_paths()
        whole = np.full(len(graphs), -np.inf)
        np.logaddexp.at(whole, owner[output], paths[output])
        cut = np.abs(paths + after - whole[owner]) < 1e-7
        joins = np.fromiter((node.op.lower() in JOIN_OPS for node in distinct), bool, len(distinct))[row]
        ends = cut & ~(joins & (np.bincount(targets, minlength=count) == 1))
        passed = forward.along(ends[:, None].astype(np.float64), np.maximum)[:, 0].astype(np.int64)
        block = passed - cut
        blocks = np.zeros(len(graphs), np.int64)
        np.maximum.at(blocks, owner, block)
        return Structure(
            len(graphs), distinct, row, owner, sources, targets, output, forward, backward, sizes, edge_counts, macs,
            all_row, all_owner, paths, after, whole, cut, block, blocks,
        )  # fmt: skip


def spans(starts: Ints, lengths: Ints) -> Ints:
    """``starts[0], starts[0] + 1, ...`` for ``lengths[0]`` numbers, then those of the next."""
    ends = np.cumsum(lengths)
    steps = np.arange(int(ends[-1]) if len(ends) else 0)
    return np.asarray(steps + np.repeat(starts - (ends - lengths), lengths), np.int64)
