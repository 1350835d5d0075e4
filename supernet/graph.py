"""The one graph that every search space speaks.

An :class:`ArchGraph` is a directed acyclic graph: nodes are operations, edges are tensors.
Costs, networks, predictor encodings, drawings and exported code are all read from it, and from
nothing else. It needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from supernet.settings import InputError


@dataclass(frozen=True, slots=True)
class Node:
    """One operation.

    Attributes:
        op: kind of the operation, a key of :data:`supernet.operations.OPERATIONS` where the graph
            is to be built; any string in a label table from elsewhere.
        attributes: (name, number) pairs sorted by name. ``in`` and ``out`` are channels, ``kernel``,
            ``stride``, ``dilation``, ``groups`` as in a convolution, ``resolution`` the side of the
            output in pixels, ``macs`` and ``params`` the node's own cost for one image.
        name: what code and drawings call the node; no part of its identity.
    """

    op: str
    attributes: tuple[tuple[str, float], ...] = ()
    name: str = field(default="", compare=False)
    _hash: int = field(init=False, repr=False, compare=False, default=0)
    _text: str = field(init=False, repr=False, compare=False, default="")

    def __post_init__(self) -> None:
        if not self.op:
            raise InputError("node: 'op' is an empty string; expected the kind of the operation")
        for name, value in self.attributes:
            if not math.isfinite(value):
                raise InputError(f"node {self.op!r}: attribute {name!r} is {value}; expected a finite number")
            if name == "op":
                raise InputError(f"node {self.op!r}: 'op' is the operation, and cannot be an attribute")
        ordered = tuple(sorted(self.attributes))
        if len({name for name, _ in ordered}) != len(ordered):
            raise InputError(f"node {self.op!r}: an attribute is given twice")
        object.__setattr__(self, "attributes", ordered)
        # Encoders look nodes up in tables thousands of times a search: hash once.
        object.__setattr__(self, "_hash", hash((self.op, ordered)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def text(self) -> str:
        """Its JSON in a graph-table file, made once: the graphs of a space share few nodes."""
        if not self._text:
            object.__setattr__(self, "_text", json.dumps(node_to_json(self), separators=(",", ":"), allow_nan=False))
        return self._text

    def get(self, attribute: str, default: float = 0.0) -> float:
        """The attribute's value, or ``default`` where the node has none."""
        for name, value in self.attributes:
            if name == attribute:
                return value
        return default

    def integer(self, attribute: str) -> int:
        """An attribute that must be there and whole. Raises InputError otherwise."""
        value = self.get(attribute, math.nan)
        if not float(value).is_integer():
            got = "none" if math.isnan(value) else str(value)
            raise InputError(f"node {self.name or self.op!r}: attribute {attribute!r} must be an integer, got {got}")
        return int(value)


@lru_cache(maxsize=32_768)  # the graphs of a space share few patterns of edges
def _is_ordered(edges: tuple[tuple[int, int], ...], count: int) -> bool:
    """Whether edges are of a graph of so many nodes, distinct, and all lead to later nodes: the common case."""
    return all(0 <= start < end < count for start, end in edges) and len(set(edges)) == len(edges)


@dataclass(frozen=True, slots=True)
class ArchGraph:
    """A directed acyclic graph of operations.

    Attributes:
        nodes: in any order that the edges allow.
        edges: (from, to) positions in ``nodes``. Raises InputError when an edge leaves the graph,
            joins a node to itself, is given twice, or closes a cycle.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not self.nodes:
            raise InputError("graph: no nodes; expected at least one")
        count = len(self.nodes)
        if _is_ordered(self.edges, count):
            return
        for start, end in self.edges:
            if not (0 <= start < count and 0 <= end < count):
                raise InputError(f"graph: edge [{start}, {end}] names a node outside 0..{count - 1}")
        if len(set(self.edges)) != len(self.edges):
            raise InputError("graph: an edge is given twice")
        self.order()

    def predecessors(self) -> list[list[int]]:
        """For each node the positions that feed it, in the order of the edges."""
        result: list[list[int]] = [[] for _ in self.nodes]
        for start, end in self.edges:
            result[end].append(start)
        return result

    def order(self) -> list[int]:
        """Node positions such that every node comes after its inputs. Raises InputError on a cycle."""
        waiting = [0] * len(self.nodes)
        followers: list[list[int]] = [[] for _ in self.nodes]
        for start, end in self.edges:
            waiting[end] += 1
            followers[start].append(end)
        ready = [position for position, count in enumerate(waiting) if count == 0]
        done: list[int] = []
        for position in ready:  # grows while it is read
            done.append(position)
            for follower in followers[position]:
                waiting[follower] -= 1
                if waiting[follower] == 0:
                    ready.append(follower)
        if len(done) != len(self.nodes):
            stuck = next(position for position, count in enumerate(waiting) if count > 0)
            raise InputError(f"graph: there is a cycle through or before node {stuck}; expected an acyclic graph")
        return done

    def digest(self) -> str:
        """The same text for isomorphic graphs, whatever the order of their nodes and edges.

        Colour refinement (Weisfeiler and Leman 1968) along and against the edges, twice each. Other graphs
        get another digest but for pairs that refinement cannot tell apart, which differ only in how equal
        parts are wired.
        """
        colours = [_hashed(repr((node.op, _plain(node.attributes))).encode()) for node in self.nodes]
        order, before = self.order(), self.predecessors()
        after: list[list[int]] = [[] for _ in self.nodes]
        for start, end in self.edges:
            after[start].append(end)
        for _ in range(2):
            for sequence, neighbours in ((order, before), (order[::-1], after)):
                for position in sequence:
                    around = sorted(colours[neighbour] for neighbour in neighbours[position])
                    colours[position] = _hashed(colours[position] + b"".join(around))
        return _hashed(b"".join(sorted(colours))).hex()

    def total(self, attribute: str) -> float:
        """The sum of one attribute over the nodes that have it."""
        return math.fsum(node.get(attribute) for node in self.nodes)


def _plain(attributes: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
    """The same text for equal numbers, such as 3 and 3.0."""
    return tuple((name, int(value) if float(value).is_integer() else float(value)) for name, value in attributes)


def _hashed(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def graph_to_json(graph: ArchGraph) -> dict[str, object]:
    """``{"nodes": [...], "edges": [...]}`` as in the graph-table file. Whole numbers stay whole."""
    return {"nodes": [node_to_json(node) for node in graph.nodes], "edges": [list(edge) for edge in graph.edges]}


def named_graph_to_json(graph: ArchGraph) -> dict[str, object]:
    """As :func:`graph_to_json`, and the ``names`` of the nodes, which weights are called by."""
    return {**graph_to_json(graph), "names": [node.name for node in graph.nodes]}


def named_graph_from_json(content: Mapping[str, Any]) -> ArchGraph:
    """The inverse of :func:`named_graph_to_json`. Raises InputError naming the node or edge that is wrong."""
    graph = graph_from_json(content["nodes"], content["edges"])
    names = zip(graph.nodes, content["names"], strict=True)
    return ArchGraph(tuple(Node(node.op, node.attributes, str(name)) for node, name in names), graph.edges)


def node_to_json(node: Node) -> dict[str, object]:
    """``{"op": ..., "in": 16, ...}``. Whole numbers stay whole."""
    entry: dict[str, object] = {"op": node.op}
    for name, value in node.attributes:
        entry[name] = int(value) if float(value).is_integer() else value
    return entry


def graph_from_json(nodes: object, edges: object) -> ArchGraph:
    """The inverse of :func:`graph_to_json`. Raises InputError naming the node or edge that is wrong."""
    if not isinstance(nodes, Sequence) or isinstance(nodes, str):
        raise InputError(f"'nodes' must be a list of objects, got {type(nodes).__name__}")
    if not isinstance(edges, Sequence) or isinstance(edges, str):
        raise InputError(f"'edges' must be a list of [from, to] pairs, got {type(edges).__name__}")
    parsed = []
    for position, entry in enumerate(nodes):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("op"), str):
            raise InputError(f"node {position} must be an object with a string 'op', got {entry!r:.80}")
        attributes = []
        for name, value in entry.items():
            if name == "op" or value is None:
                continue
            # Compared, not converted: a whole number of 400 digits is no float.
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
                raise InputError(f"node {position}: attribute {name!r} must be a finite number, got {value!r:.80}")
            attributes.append((str(name), value))
        parsed.append(Node(str(entry["op"]), tuple(attributes)))
    pairs = []
    for position, edge in enumerate(edges):
        if not isinstance(edge, Sequence) or len(edge) != 2 or any(type(end) is not int for end in edge):
            raise InputError(f"edge {position} must be a pair of node positions, got {edge!r:.80}")
        pairs.append((edge[0], edge[1]))
    return ArchGraph(tuple(parsed), tuple(pairs))
