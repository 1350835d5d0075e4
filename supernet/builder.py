"""Graphs in the making: nodes on top of others, whose channels and side need not be said again."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from supernet.graph import Node
from supernet.operations import operation

_operation = lru_cache(maxsize=65_536)(operation)


class Value(NamedTuple):
    """A tensor: the position of the node that gives it, its channels and side."""

    position: int
    channels: int
    side: int


@dataclass
class Builder:
    """A graph in the making."""

    nodes: list[Node] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)

    def add(self, op: str, name: str, inputs: tuple[Value, ...], channels: int, side: int, **more: int) -> Value:
        """A node on top of others; ``in`` is the channels of its one input."""
        if len(inputs) == 1 and op not in ("sum", "relu", "max_pool", "avg_pool"):
            more["in_"] = inputs[0].channels
        position = len(self.nodes)
        self.nodes.append(_operation(op, name, out=channels, resolution=side, **more))
        self.edges += [(value.position, position) for value in inputs]
        return Value(position, channels, side)

    def pool(self, op: str, name: str, value: Value) -> Value:
        """Half the side; an odd row or column at the far edge is left out."""
        return self.add(op, name, (value,), value.channels, value.side // 2, kernel=2, stride=2)

    def total(self, name: str, value: Value, other: Value) -> Value:
        """The sum of two values: the larger one is max-pooled, the one with fewer channels filled up with zeros."""
        if other.side > value.side:
            other = self.pool("max_pool", f"{name}_pool", other)
        channels, side = max(value.channels, other.channels), value.side
        padded = [
            term if term.channels == channels else self.add("pad_channels", f"{name}_pad", (term,), channels, side)
            for term in (value, other)
        ]
        return self.add("sum", name, tuple(padded), channels, side)
