"""Architecture graphs as tensors: what the graph predictor sees of a network.

Any graph is accepted: any ``op`` strings, any numeric node attributes, some of them absent. The
vocabulary of operations and the standardisation come from the training graphs and are saved with
the predictor. Dead nodes are left out; see :class:`predictor.structure.Structure`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from predictor.structure import Floats, Ints, Structure, spans
from supernet import Node

UNKNOWN = 0
"""Index of an operation that the training graphs do not hold."""

_COMMON_SHARE = 0.02
_COMMON_LIMIT = 256
_PLACES = 8  # columns that say where in its graph a node lies


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
class EncodedGraphs:
    """Graphs side by side.

    Attributes:
        x: of the live nodes, (nodes, node_width), float32.
        edges: (2, edges), int64, from and to.
        starts: where the nodes and edges of each graph begin, (2, graphs + 1).
        scalars: of the graphs, (graphs, scalars), float32.
    """

    x: Tensor
    edges: Tensor
    starts: Ints
    scalars: Tensor

    @property
    def owner(self) -> Tensor:
        """The graph of each node, (nodes,), int64."""
        return torch.from_numpy(np.repeat(np.arange(len(self.scalars)), np.diff(self.starts[0])))

    def select(self, rows: Ints) -> EncodedGraphs:
        """Some of them, in this order."""
        begins, sizes = self.starts[:, rows], np.diff(self.starts, axis=1)[:, rows]
        nodes, edges = spans(begins[0], sizes[0]), spans(begins[1], sizes[1])
        starts = np.concatenate([np.zeros((2, 1), np.int64), np.cumsum(sizes, axis=1)], axis=1)
        moved = np.repeat(starts[0, :-1] - begins[0], sizes[1])
        return EncodedGraphs(
            self.x[torch.from_numpy(nodes)],
            self.edges[:, torch.from_numpy(edges)] + torch.from_numpy(moved),
            starts,
            self.scalars[torch.from_numpy(rows)],
        )


@dataclass(frozen=True, slots=True)
class GraphEncoder:
    """Turns graphs into :class:`EncodedGraphs`.

    Each node is its operation's index, one-hot; its place among the common nodes of the training
    graphs, one-hot; its attributes (signed log, standardised, with a column that says whether the
    attribute is there); and where it lies: numbers of inputs and outputs, steps and blocks from the start and to the
    end, share of the paths that lead through it. Nothing depends on the order of nodes or edges.

    Attributes:
        ops: known operations; operation ``ops[i]`` has index ``i + 1``, index 0 is any other.
        common: nodes (operation and attributes) in at least 2 % of the training graphs, at most 256;
            ``common[i]`` has index ``i + 1``, index 0 is any other.
        attributes: node attributes that the training graphs hold.
        node: standardisation of attributes and places of nodes.
        typical_nodes: mean number of live nodes of the training graphs.
    """

    ops: tuple[str, ...]
    common: tuple[Node, ...]
    attributes: tuple[str, ...]
    node: Standard
    typical_nodes: float

    @staticmethod
    def fit(structure: Structure) -> GraphEncoder:
        """Vocabulary and standardisation from training graphs."""
        pairs = np.unique(structure.owner * max(len(structure.distinct), 1) + structure.row)
        graphs_with = np.bincount(pairs % max(len(structure.distinct), 1), minlength=len(structure.distinct))
        order = sorted(
            range(len(structure.distinct)),
            key=lambda place: (-graphs_with[place], structure.distinct[place].op, structure.distinct[place].attributes),
        )
        common = tuple(
            structure.distinct[place] for place in order if graphs_with[place] >= _COMMON_SHARE * structure.graphs
        )
        ops = tuple(sorted({node.op for node in structure.distinct}))
        attributes = tuple(sorted({name for node in structure.distinct for name, _ in node.attributes}))
        free = Standard(np.zeros(1), np.ones(1))
        raw = GraphEncoder(ops, common[:_COMMON_LIMIT], attributes, free, 1.0)
        typical = max(len(structure.row) / max(structure.graphs, 1), 1.0)
        return replace(raw, node=Standard.of(raw._numbers(structure)), typical_nodes=typical)

    @property
    def node_width(self) -> int:
        """Columns of a node."""
        return 1 + len(self.ops) + 1 + len(self.common) + 2 * len(self.attributes) + _PLACES

    @property
    def unknown_columns(self) -> tuple[int, int]:
        """The columns of an unknown operation and of an uncommon node."""
        return UNKNOWN, 1 + len(self.ops)

    def encode(self, structure: Structure, scalars: Floats) -> EncodedGraphs:
        """All graphs of a structure.

        Args:
            scalars: standardised numbers of the graphs, (graphs, scalars).
        """
        x = np.concatenate([self._marks(structure), self.node(self._numbers(structure))], axis=1)
        sizes = np.bincount(structure.owner, minlength=structure.graphs)
        edge_owner = structure.owner[structure.sources]
        order = np.argsort(edge_owner, kind="stable")
        edges = np.stack([structure.sources[order], structure.targets[order]])
        edge_sizes = np.bincount(edge_owner, minlength=structure.graphs)
        starts = np.concatenate([np.zeros((2, 1), np.int64), np.cumsum(np.stack([sizes, edge_sizes]), axis=1)], axis=1)
        return EncodedGraphs(
            torch.from_numpy(x),
            torch.from_numpy(edges),
            starts,
            torch.from_numpy(scalars.astype(np.float32)),
        )

    def _marks(self, structure: Structure) -> NDArray[np.float32]:
        nodes = structure.distinct
        position = {op: number for number, op in enumerate(self.ops, 1)}
        place = {node: number for number, node in enumerate(self.common, 1)}
        ops = np.array([position.get(node.op, UNKNOWN) for node in nodes], np.int64)
        places = np.array([place.get(node, UNKNOWN) for node in nodes], np.int64)
        marks = [
            np.eye(1 + len(self.ops), dtype=np.float32)[ops],
            np.eye(1 + len(self.common), dtype=np.float32)[places],
            np.isfinite(_attribute_matrix(nodes, self.attributes)).astype(np.float32),
        ]
        return np.concatenate(marks, axis=1)[structure.row]

    def _numbers(self, structure: Structure) -> Floats:
        s, count = structure, len(structure.row)
        values = _signed_log(_attribute_matrix(s.distinct, self.attributes))[s.row]
        places = np.stack(
            [
                np.log1p(np.bincount(s.targets, minlength=count)),
                np.log1p(np.bincount(s.sources, minlength=count)),
                np.log1p(s.forward.level),
                np.log1p(s.backward.level),
                np.log1p(s.block),
                np.log1p(s.blocks[s.owner] - s.block),
                s.paths + s.paths_after - s.all_paths[s.owner],
                s.cut.astype(np.float64),
            ],
            axis=1,
        )
        return np.concatenate([values, places], axis=1)

    def to_json(self) -> dict[str, object]:
        """Everything, as plain lists and numbers."""
        return {
            "ops": list(self.ops),
            "common": [{"op": node.op, "attributes": dict(node.attributes)} for node in self.common],
            "attributes": list(self.attributes),
            "node": self.node.to_json(),
            "typical_nodes": self.typical_nodes,
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> GraphEncoder:
        """The inverse of :meth:`to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        encoder = GraphEncoder(
            tuple(map(str, content["ops"])),
            tuple(Node(entry["op"], tuple(entry["attributes"].items())) for entry in content["common"]),
            tuple(map(str, content["attributes"])),
            Standard.from_json(content["node"]),
            float(content["typical_nodes"]),
        )
        if len(encoder.node.mean) != len(encoder.attributes) + _PLACES or not encoder.typical_nodes >= 1:
            raise ValueError("the standardisation does not fit the columns")
        return encoder


def _attribute_matrix(nodes: Iterable[Node], names: Sequence[str]) -> NDArray[np.float64]:
    """Attributes of nodes, (nodes, names), NaN where a node has none."""
    values = [[node.get(name, np.nan) for name in names] for node in nodes]
    return np.array(values, dtype=np.float64).reshape(len(values), len(names))


def _signed_log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keeps order and sign, tames numbers that range over orders of magnitude (macs, channels)."""
    return np.sign(values) * np.log1p(np.abs(values))
