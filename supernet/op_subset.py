"""The space ``op_subset``: each layer applies a non-empty subset of operations and sums the outputs.

With its defaults this is the published CIFAR-100 space of 5 layers, 6 operations and
63^5 = 992,436,543 networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import compress
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from supernet.graph import ArchGraph, Node
from supernet.operations import COST_NAMES, graph_costs, node_costs, node_depth, operation
from supernet.settings import InputError, Settings, distinct
from supernet.space import Architecture, Choices, SearchSpace, check_cost, in_range
from supernet.supergraph import Active, Edge, Group, Step, SuperGraph

OperationName = Literal["skip", "sep_conv_3", "sep_conv_5", "sep_conv_7", "dil_conv_3", "dil_conv_5"]
Channels = Annotated[int, Field(ge=1, le=65536)]


class LayerSettings(Settings):
    """One layer: output channels and stride."""

    channels: Annotated[int, Field(ge=2, le=65536)]  # the factorized reduce gives each half at least one
    stride: Literal[1, 2] = 1


_PUBLISHED_LAYERS = tuple(
    LayerSettings(channels=channels, stride=stride)
    for channels, stride in ((16, 1), (32, 2), (40, 2), (80, 2), (320, 1))
)


@lru_cache(maxsize=32_768)
def _edges(counts: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """The edges where each layer applies so many operations. Shared: a table of graphs holds few patterns."""
    edges, source = [(0, 1)], 1
    for count in counts:
        total = source + count + 1
        for position in range(source + 1, total):
            edges += ((source, position), (position, total))
        source = total
    return (*edges, (source, source + 1), (source + 1, source + 2), (source + 2, source + 3))


class OpSubset(SearchSpace):
    """Settings and space in one. A choice is one operation of one layer: 0 off, 1 on.

    Attributes:
        layers: output channels and stride of each layer.
        operations: what a layer may apply; the number in a name is the kernel, ``dil_conv`` has
            dilation 2, ``skip`` is an identity, 1x1 convolution or factorized reduce.
        stem_channels: outputs of the 3x3 stem.
        head_channels: outputs of the 1x1 convolution before the global mean.
    """

    kind: Literal["op_subset"] = "op_subset"
    layers: Annotated[tuple[LayerSettings, ...], Field(min_length=1, max_length=32)] = _PUBLISHED_LAYERS
    operations: Annotated[tuple[OperationName, ...], Field(min_length=1)] = (
        "skip", "sep_conv_3", "sep_conv_5", "sep_conv_7", "dil_conv_3", "dil_conv_5",
    )  # fmt: skip
    stem_channels: Channels = 16
    head_channels: Channels = 1280

    _distinct = field_validator("operations")(distinct)

    @model_validator(mode="after")
    def _survives(self) -> OpSubset:
        side = self.input_size
        for number, layer in enumerate(self.layers):
            if layer.stride == 2 and side < 2:
                halvings = sum(layer.stride == 2 for layer in self.layers)
                raise ValueError(
                    f"layers.{number}: its stride finds a picture of {side} pixel; the layers halve {self.input_size} "
                    f"pixels {halvings} times, so input_size must be at least {2 ** (halvings - 1) + 1}"
                )
            side = -(-side // layer.stride)
        return self

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return (2,) * (len(self.layers) * len(self.operations))

    @property
    def size(self) -> int:
        return int((2 ** len(self.operations) - 1) ** len(self.layers))

    def option_name(self, choice: int, option: int) -> str:
        layer, place = divmod(choice, len(self.operations))
        return f"layer {layer + 1} {'with' if option else 'without'} {self.operations[place]}"

    def is_valid(self, choices: Choices) -> NDArray[np.bool_]:
        options = in_range(choices, self.cardinalities)
        used = (choices.astype(np.float32) @ self._layer_of > 0).all(axis=1)  # a sum by BLAS takes a third of the time
        return np.asarray(options & used, dtype=np.bool_)

    def clauses(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        width = len(self.operations)
        return tuple(tuple((layer * width + place, 1) for place in range(width)) for layer in range(len(self.layers)))

    def sample(self, count: int, random: np.random.Generator) -> Choices:
        width = len(self.operations)
        masks = random.integers(1, 2**width, size=(count, len(self.layers)))
        return ((masks[:, :, None] >> np.arange(width)) & 1).astype(np.int8).reshape(count, len(self.cardinalities))

    def log_density(self, choices: Choices) -> NDArray[np.float64]:
        return np.full(len(choices), -math.log(self.size))

    def narrower(self, factor: float) -> OpSubset:
        """The same architectures with the channels of stem, layers and head times a factor, rounded, at least 2."""

        def scaled(channels: int) -> int:
            return max(2, round(channels * factor))

        layers = [{"channels": scaled(layer.channels), "stride": layer.stride} for layer in self.layers]
        wide = {"stem_channels": scaled(self.stem_channels), "head_channels": scaled(self.head_channels)}
        return OpSubset.model_validate({**self.model_dump(), "layers": layers, **wide})

    def costs(self, choices: Choices) -> dict[str, NDArray[np.int64]]:
        fixed, table = self._cost_table
        totals = fixed + choices.astype(np.float64) @ table  # exact: far below 2**53, and BLAS is fast
        return {name: totals[:, column].astype(np.int64) for column, name in enumerate(COST_NAMES)}

    def depths(self, choices: Choices) -> NDArray[np.int64]:
        fixed, table = self._depth_table
        layers = choices.reshape(len(choices), *table.shape) * table
        return np.asarray(fixed + layers.max(axis=2).sum(axis=1), np.int64)

    def cheapest(self, cost: str) -> Architecture:
        check_cost(cost)
        column = self._cost_table[1][:, COST_NAMES.index(cost)].reshape(len(self.layers), -1)
        choices = np.zeros_like(column, dtype=np.int8)
        choices[np.arange(len(self.layers)), column.argmin(axis=1)] = 1
        return Architecture(self.name, tuple(choices.ravel().tolist()))

    def parse(self, text: str) -> Architecture:
        """Layers of 0 and 1 in the order of ``operations``, with or without blanks between them."""
        bits = "".join(text.split())
        count = len(self.cardinalities)
        if len(bits) != count or set(bits) - {"0", "1"}:
            raise InputError(
                f"architecture {text!r:.80}: expected {len(self.layers)} layers of {len(self.operations)} "
                f"digits 0 or 1 ({count} digits), got {len(bits)} characters"
            )
        architecture = Architecture(self.name, tuple(int(bit) for bit in bits))
        self.check(architecture)
        return architecture

    def format(self, architecture: Architecture) -> str:
        width = len(self.operations)
        bits = "".join(str(choice) for choice in architecture.choices)
        return " ".join(bits[start : start + width] for start in range(0, len(bits), width))

    def graph(self, architecture: Architecture) -> ArchGraph:
        choices, width, layers = architecture.choices, len(self.operations), len(self.layers)
        if architecture.space != self.name or len(choices) != width * layers:
            self.check(architecture)  # says what is wrong
        nodes = [*self._stem]
        counts = []
        for index in range(layers):
            bits = choices[index * width : (index + 1) * width]
            layer = self._layer_nodes.get((index, bits))
            if layer is None:
                self.check(architecture)
                layer = (*compress(self._operations[index], bits), self._sums[index])
                self._layer_nodes[index, bits] = layer
            nodes += layer
            counts.append(len(layer) - 1)
        return ArchGraph((*nodes, *self._head), _edges(tuple(counts)))

    def supergraph(self) -> SuperGraph:
        width = len(self.operations)
        steps = [Step(self._stem[0]), Step(self._stem[1], (0,))]
        for number, (options, total) in enumerate(zip(self._operations, self._sums, strict=True)):
            steps.append(Step(total, edges=(Edge(len(steps) - 1, options, number),)))
        for node in self._head:
            steps.append(Step(node, (len(steps) - 1,)))
        groups = tuple(Group(f"layer {layer + 1}", self.operations, subset=True) for layer in range(len(self.layers)))

        def encode(row: Sequence[int]) -> Active:
            layers = [row[start : start + width] for start in range(0, len(row), width)]
            return tuple(tuple(place for place, bit in enumerate(bits) if bit) for bits in layers)

        def decode(active: Active) -> tuple[int, ...]:
            return tuple(int(place in on) for on in active for place in range(width))

        return SuperGraph(tuple(steps), groups, (), encode, decode)

    def reason(self, architecture: Architecture) -> str:
        layers = self.format(architecture).split()
        empty = next(number for number, bits in enumerate(layers, 1) if "1" not in bits)
        return f"layer {empty} applies no operation; expected at least one a layer, got {' '.join(layers)!r}"

    @cached_property
    def _resolutions(self) -> tuple[int, ...]:
        """The side of each layer's output, after the stem's."""
        sides = [self.input_size]
        for layer in self.layers:
            sides.append(-(-sides[-1] // layer.stride))
        return tuple(sides[1:])

    @cached_property
    def _stem(self) -> tuple[Node, ...]:
        side, channels = self.input_size, self.input_channels
        return (
            operation("input", "input", out=channels, resolution=side),
            operation(
                "conv_bn_relu6", "stem",
                in_=channels, out=self.stem_channels, kernel=3, stride=1, resolution=side,
            ),
        )  # fmt: skip

    @cached_property
    def _operations(self) -> tuple[tuple[Node, ...], ...]:
        result = []
        channels = self.stem_channels
        for number, (layer, side) in enumerate(zip(self.layers, self._resolutions, strict=True), 1):
            row = []
            for text in self.operations:
                op, _, kernel = text.rpartition("_") if text[-1].isdigit() else (text, "", "1")
                attributes = {"in_": channels, "out": layer.channels, "kernel": int(kernel), "stride": layer.stride}
                if op == "dil_conv":
                    attributes["dilation"] = 2
                row.append(operation(op, f"layer{number}_{text}", **attributes, resolution=side))
            result.append(tuple(row))
            channels = layer.channels
        return tuple(result)

    @cached_property
    def _sums(self) -> tuple[Node, ...]:
        pairs = zip(self.layers, self._resolutions, strict=True)
        return tuple(
            operation("sum", f"layer{number}", out=layer.channels, resolution=side)
            for number, (layer, side) in enumerate(pairs, 1)
        )

    @cached_property
    def _layer_nodes(self) -> dict[tuple[int, tuple[int, ...]], tuple[Node, ...]]:
        """What was made of a layer's choices so far, operations and sum: a search asks for each many times."""
        return {}

    @cached_property
    def _head(self) -> tuple[Node, ...]:
        last, side, wide = self.layers[-1].channels, self._resolutions[-1], self.head_channels
        return (
            operation("conv_bn_relu6", "head", in_=last, out=wide, kernel=1, stride=1, resolution=side),
            operation("global_mean", "mean", in_=wide, out=wide, resolution=1),
            operation("linear", "classifier", in_=wide, out=self.classes, resolution=1),
        )

    @cached_property
    def _layer_of(self) -> NDArray[np.float32]:
        """Which choice is of which layer, (choices, layers)."""
        return np.kron(np.eye(len(self.layers)), np.ones((len(self.operations), 1))).astype(np.float32)

    @cached_property
    def _cost_table(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What every network pays, (costs,), and what each choice adds, (choices, costs)."""
        fixed = graph_costs(ArchGraph((*self._stem, *self._sums, *self._head), ()))
        table = [node_costs(node) for row in self._operations for node in row]
        return np.asarray(fixed, np.float64), np.asarray(table, np.float64)

    @cached_property
    def _depth_table(self) -> tuple[int, NDArray[np.int64]]:
        """Convolutions and linear layers that every network has, and those of each operation, (layers, operations)."""
        fixed = sum(map(node_depth, (*self._stem, *self._head)))
        return fixed, np.array([[node_depth(node) for node in row] for row in self._operations], np.int64)
