"""Architecture graphs as tensors: what the graph predictor sees of a network.

Any graph is accepted: any ``op`` strings, any numeric node attributes, some of them absent. The
vocabulary of operations and the standardisation come from the training graphs and are saved with
the predictor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from predictor.geometric import Batch
from supernet import ArchGraph, InputError, Node

UNKNOWN = 0
"""Index of an operation that the training graphs do not hold."""

_TOTALS = ("macs", "params")
_COMMON_SHARE = 0.02
_COMMON_LIMIT = 256


@dataclass(frozen=True, slots=True)
class Standard:
    """Mean and reciprocal spread of columns; a constant column has weight 0."""

    mean: NDArray[np.float64]
    weight: NDArray[np.float64]

    @staticmethod
    def of(values: NDArray[np.float64]) -> Standard:
        """Mean and spread of each column, NaN left out."""
        known = np.isfinite(values)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, values, 0.0).sum(axis=0) / count
        variance = (np.where(known, values - mean, 0.0) ** 2).sum(axis=0) / count
        constant = variance <= 1e-12 * (1.0 + mean**2)
        return Standard(mean, np.where(constant, 0.0, 1.0 / np.sqrt(np.where(constant, 1.0, variance))))

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        """Standardised values, NaN as zero (the mean)."""
        return np.nan_to_num((values - self.mean) * self.weight, nan=0.0).astype(np.float32)

    def to_json(self) -> dict[str, list[float]]:
        """Two lists."""
        return {"mean": self.mean.tolist(), "weight": self.weight.tolist()}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Standard:
        """The inverse of :meth:`to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        mean, weight = (np.array(content[name], dtype=np.float64) for name in ("mean", "weight"))
        if mean.ndim != 1 or mean.shape != weight.shape:
            raise ValueError("means and weights differ in number")
        return Standard(mean, weight)


@dataclass(frozen=True, slots=True)
class GraphEncoder:
    """Turns graphs into one ``torch_geometric`` batch.

    Each node is its operation's index, one-hot; its place among the common nodes of the training
    graphs, one-hot; its attributes (signed log, standardised, with a column that says whether the
    attribute is there); and its numbers of inputs and outputs. Each
    graph has scalars: log total MACs and parameters, log number of nodes and of edges, the count of
    each operation, and the features named. Nothing depends on the order of nodes or edges.

    Attributes:
        ops: known operations; operation ``ops[i]`` has index ``i + 1``, index 0 is any other.
        common: nodes (operation and attributes) in at least 2 % of the training graphs, at most 256;
            ``common[i]`` has index ``i + 1``, index 0 is any other.
        attributes: node attributes that the training graphs hold.
        features: per-architecture numbers that every prediction must bring.
        node: standardisation of attributes, inputs and outputs of nodes.
        scalar: standardisation of the scalars of graphs.
        typical_nodes: mean number of nodes of the training graphs.
    """

    ops: tuple[str, ...]
    common: tuple[Node, ...]
    attributes: tuple[str, ...]
    features: tuple[str, ...]
    node: Standard
    scalar: Standard
    typical_nodes: float

    @staticmethod
    def fit(
        graphs: Sequence[ArchGraph],
        features: Sequence[Mapping[str, float]] | None = None,
    ) -> GraphEncoder:
        """Vocabulary and standardisation from training graphs, features where all rows have them."""
        graphs_with = Counter(node for graph in graphs for node in set(graph.nodes))
        nodes = sorted(graphs_with, key=lambda node: (-graphs_with[node], node.op, node.attributes))
        common = tuple(node for node in nodes if graphs_with[node] >= _COMMON_SHARE * len(graphs))[:_COMMON_LIMIT]
        ops = tuple(sorted({node.op for node in nodes}))
        attributes = tuple(sorted({name for node in nodes for name, _ in node.attributes}))
        shared = set.intersection(*(set(row) for row in features)) if features else set()
        free = Standard(np.zeros(1), np.ones(1))
        raw = GraphEncoder(ops, common, attributes, tuple(sorted(shared)), free, free, len(graphs_with))
        table = _Table(raw, graphs)
        return replace(
            raw,
            node=Standard.of(table.numbers),
            scalar=Standard.of(table.scalars(features)),
            typical_nodes=len(table.rows) / len(graphs),
        )

    @property
    def node_width(self) -> int:
        """Columns of a node."""
        return 1 + len(self.ops) + 1 + len(self.common) + 2 * len(self.attributes) + 2

    @property
    def unknown_columns(self) -> tuple[int, int]:
        """The columns of an unknown operation and of an uncommon node."""
        return UNKNOWN, 1 + len(self.ops)

    @property
    def scalar_width(self) -> int:
        """Scalars of a graph."""
        return len(_TOTALS) + 2 + len(self.ops) + len(self.features)

    def encode(self, graphs: Sequence[ArchGraph], features: Sequence[Mapping[str, float]] | None = None) -> Batch:
        """One batch of all graphs.

        Returns:
            ``x`` (nodes, node_width), ``edge_index`` (2, edges), ``batch`` (nodes,), ``ptr``
            (graphs + 1,) and ``scalars`` (graphs, scalar_width); float32 and int64.

        Raises:
            InputError: a feature that the encoder was fitted with is missing.
        """
        table = _Table(self, graphs)
        x = np.concatenate([table.marks[table.rows], self.node(table.numbers)], axis=1)
        return Batch(
            x=torch.from_numpy(x),
            edge_index=torch.from_numpy(table.edges),
            batch=torch.from_numpy(table.owner),
            ptr=torch.from_numpy(table.starts),
            scalars=torch.from_numpy(self.scalar(table.scalars(features))),
        )

    def to_json(self) -> dict[str, object]:
        """Everything, as plain lists and numbers."""
        return {
            "ops": list(self.ops),
            "common": [{"op": node.op, "attributes": dict(node.attributes)} for node in self.common],
            "attributes": list(self.attributes),
            "features": list(self.features),
            "node": self.node.to_json(),
            "scalar": self.scalar.to_json(),
            "typical_nodes": self.typical_nodes,
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> GraphEncoder:
        """The inverse of :meth:`to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        encoder = GraphEncoder(
            tuple(map(str, content["ops"])),
            tuple(Node(entry["op"], tuple(entry["attributes"].items())) for entry in content["common"]),
            tuple(map(str, content["attributes"])),
            tuple(map(str, content["features"])),
            Standard.from_json(content["node"]),
            Standard.from_json(content["scalar"]),
            float(content["typical_nodes"]),
        )
        if (len(encoder.node.mean), len(encoder.scalar.mean)) != (len(encoder.attributes) + 2, encoder.scalar_width):
            raise ValueError("the standardisation does not fit the columns")
        return encoder

    def feature_matrix(self, count: int, features: Sequence[Mapping[str, float]] | None) -> NDArray[np.float64]:
        """The features of ``count`` architectures, (count, features). Raises InputError for a missing one."""
        if not self.features:
            return np.empty((count, 0))
        if features is None or len(features) != count:
            got = "none" if features is None else f"{len(features)}"
            raise InputError(
                f"predictor: fitted with features {', '.join(self.features)}; "
                f"expected them for {count} architectures, got {got}"
            )
        for position, row in enumerate(features):
            for name in self.features:
                if name not in row:
                    raise InputError(f"predictor: architecture {position} lacks the feature {name!r}")
        return np.array([[row[name] for name in self.features] for row in features], dtype=np.float64)


class _Table:
    """Distinct nodes once, then arrays over all nodes of all graphs: no Python work per node and attribute."""

    def __init__(self, encoder: GraphEncoder, graphs: Sequence[ArchGraph]) -> None:
        self.encoder = encoder
        sizes = np.fromiter((len(graph.nodes) for graph in graphs), np.int64, len(graphs))
        self.edge_counts = np.fromiter((len(graph.edges) for graph in graphs), np.int64, len(graphs))
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        self.owner = np.repeat(np.arange(len(graphs)), sizes)
        total = int(self.starts[-1])

        index: dict[Node, int] = {}
        self.rows = np.fromiter(
            (index.setdefault(node, len(index)) for graph in graphs for node in graph.nodes), np.int64, total
        )
        pairs = np.fromiter(
            chain.from_iterable(chain.from_iterable(graph.edges for graph in graphs)),
            np.int64,
            2 * int(self.edge_counts.sum()),
        ).reshape(-1, 2)
        self.edges = np.ascontiguousarray((pairs + np.repeat(self.starts[:-1], self.edge_counts)[:, None]).T)

        position = {op: number for number, op in enumerate(encoder.ops, 1)}
        self.ops = np.fromiter((position.get(node.op, UNKNOWN) for node in index), np.int64, len(index))
        values = _attribute_matrix(index, encoder.attributes)
        place = {node: number for number, node in enumerate(encoder.common, 1)}
        places = np.fromiter((place.get(node, UNKNOWN) for node in index), np.int64, len(index))
        self.marks = np.concatenate(
            [
                np.eye(1 + len(encoder.ops), dtype=np.float32)[self.ops],
                np.eye(1 + len(encoder.common), dtype=np.float32)[places],
                np.isfinite(values).astype(np.float32),
            ],
            axis=1,
        )
        degrees = np.stack([np.bincount(self.edges[end], minlength=total) for end in (1, 0)], axis=1)
        self.numbers = np.concatenate([_signed_log(values)[self.rows], np.log1p(degrees)], axis=1)
        self.totals = np.nan_to_num(_attribute_matrix(index, _TOTALS))

    def scalars(self, features: Sequence[Mapping[str, float]] | None) -> NDArray[np.float64]:
        graphs, ops = len(self.starts) - 1, 1 + len(self.encoder.ops)
        totals = [np.bincount(self.owner, self.totals[self.rows, column], graphs) for column in range(len(_TOTALS))]
        counts = np.bincount(self.owner * ops + self.ops[self.rows], minlength=graphs * ops).reshape(graphs, ops)
        sizes = np.stack([*totals, np.diff(self.starts), self.edge_counts], axis=1)
        chosen = self.encoder.feature_matrix(graphs, features)
        return np.concatenate([_signed_log(sizes), counts[:, 1:], _signed_log(chosen)], axis=1)


def _attribute_matrix(nodes: Iterable[Node], names: Sequence[str]) -> NDArray[np.float64]:
    """Attributes of nodes, (nodes, names), NaN where a node has none."""
    values = [[node.get(name, np.nan) for name in names] for node in nodes]
    return np.array(values, dtype=np.float64).reshape(len(values), len(names))


def _signed_log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keeps order and sign, tames numbers that range over orders of magnitude (macs, channels)."""
    return np.sign(values) * np.log1p(np.abs(values))
