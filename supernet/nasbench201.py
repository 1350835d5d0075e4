"""The space ``nasbench201``: one cell of four nodes, repeated (Dong and Yang 2020; Dong et al. 2021).

With its defaults these are the 15,625 networks whose measured accuracies were published.
"""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from itertools import product
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from supernet.graph import ArchGraph, Node
from supernet.operations import COST_NAMES, graph_costs, node_costs, operation
from supernet.settings import InputError, nearest
from supernet.space import Architecture, Choices, SearchSpace, check_cost
from supernet.supergraph import Active, Edge, Group, Inputs, Step, SuperGraph

OPERATION_NAMES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""(from, to) nodes of the cell, in the order of the choices and of the architecture string."""

_COUNT = len(OPERATION_NAMES)
_SIZE = _COUNT ** len(EDGES)
_EXAMPLE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|skip_connect~2|"
_PATTERN = re.compile(r"\+".join(r"\|" + r"([^|+]*)\|" * edges for edges in (1, 2, 3)))
_CONVOLUTIONS = (0, 0, 1, 9, 0)
"""Weights of each operation relative to those of a 1x1 convolution: MACs are in the same proportion."""


class NasBench201(SearchSpace):
    """Settings and space in one. A choice is the operation of an edge of the cell, a place in ``OPERATION_NAMES``.

    A node of the cell is the sum of its edges: nothing (zeros), the identity, ReLU-convolution-norm with kernel 1 or 3,
    or a 3x3 average pool. The network is a 3x3 stem with norm, three stages of ``cells`` cells, a residual block
    between stages that halves the side and doubles the channels, norm, ReLU, global mean and a linear layer. What an
    edge computes is built and counted also where nothing reads it, as in the published table.

    Attributes:
        input_size: side of the square picture in pixels, a multiple of 4.
        classes: outputs of the network; the published networks have 10, 100 or 120.
        channels: of the first stage.
        cells: of each stage.
    """

    kind: Literal["nasbench201"] = "nasbench201"
    input_size: Annotated[int, Field(le=1024)] = 32
    classes: Annotated[int, Field(ge=2, le=100_000)] = 10
    channels: Annotated[int, Field(ge=1, le=16384)] = 16
    cells: Annotated[int, Field(ge=1, le=100)] = 5

    @field_validator("input_size")
    @classmethod
    def _halves(cls, value: int) -> int:
        if value < 4 or value % 4:
            raise ValueError("the side is halved twice; expected a multiple of 4, at least 4")
        return value

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return (_COUNT,) * len(EDGES)

    def narrower(self, factor: float) -> NasBench201:
        """The same architectures with the channels times a factor, rounded, at least 1."""
        channels = max(1, round(self.channels * factor))
        return NasBench201.model_validate({**self.model_dump(), "channels": channels})

    def canonical(self, choices: Choices) -> Choices:
        """The cheapest row whose cell has the same expression, in MACs, then parameters, then order.

        The expression is the published one, of which 6,466 are distinct: what the last node adds up, in any order, each
        term written out to the input, identities left out. Two edges of the same operation from the same input are
        taken for one; and so are some, not all, cells that differ only in what is made of zeros.
        """
        classes = _classes()
        return classes.rows[classes.representatives[classes.of[indices(choices)]]]

    def disguise(self, choices: Choices, random: np.random.Generator) -> Choices:
        classes = _classes()
        own = classes.of[indices(choices)]
        first, after = classes.starts[own], classes.starts[own + 1]
        return classes.rows[classes.members[random.integers(first, after)]]

    def costs(self, choices: Choices) -> dict[str, NDArray[np.int64]]:
        fixed, table = self._cost_table
        totals = fixed + table[choices].sum(axis=1)
        return {name: totals[:, column] for column, name in enumerate(COST_NAMES)}

    def cheapest(self, cost: str) -> Architecture:
        check_cost(cost)
        option = int(self._cost_table[1][:, COST_NAMES.index(cost)].argmin())
        return Architecture(self.name, (option,) * len(EDGES))

    def option_name(self, choice: int, option: int) -> str:
        return f"edge {choice + 1}: {OPERATION_NAMES[option]}"

    def parse(self, text: str) -> Architecture:
        """The published string: ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``, the edges into each node by their source."""
        match = _PATTERN.fullmatch("".join(text.split()))
        if match is None:
            raise InputError(f"architecture {text!r:.120}: expected 1, 2 and 3 edges, such as {_EXAMPLE!r}")
        choices = []
        for word, (source, target) in zip(match.groups(), EDGES, strict=True):
            name, _, given = word.partition("~")
            where = f"architecture {text!r:.120}: edge {source} to {target}"
            if given != str(source):
                raise InputError(f"{where}: expected OPERATION~{source}, got {word!r:.40}")
            if name not in OPERATION_NAMES:
                raise InputError(f"{where}: operation {name!r:.40} is unknown; {nearest(name, OPERATION_NAMES)}")
            choices.append(OPERATION_NAMES.index(name))
        return Architecture(self.name, tuple(choices))

    def format(self, architecture: Architecture) -> str:
        self.check(architecture)
        words: list[list[str]] = [[], [], []]
        for choice, (source, target) in zip(architecture.choices, EDGES, strict=True):
            words[target - 1].append(f"{OPERATION_NAMES[choice]}~{source}")
        return "+".join(f"|{'|'.join(node)}|" for node in words)

    def graph(self, architecture: Architecture) -> ArchGraph:
        self.check(architecture)
        return ArchGraph(self._nodes(architecture.choices), self._wiring)

    def _nodes(self, choices: tuple[int, ...]) -> tuple[Node, ...]:
        nodes, operations = [*self._stem], self._operations
        for stage in range(3):
            for cell in range(self.cells):
                own, sums = operations[stage][cell], self._sums[stage][cell]
                first, second, third, *rest = (own[edge][choice] for edge, choice in enumerate(choices))
                nodes += (first, second, third, sums[0], *rest, sums[1])
            nodes += self._ends[stage]
        return tuple(nodes)

    def supergraph(self) -> SuperGraph:
        steps = [Step(self._stem[0]), Step(self._stem[1], (0,))]
        for stage in range(3):
            for cell in range(self.cells):
                states = [len(steps) - 1]
                for target, node in enumerate(self._states[stage][cell], 1):
                    mixed = tuple(
                        Edge(states[source], self._operations[stage][cell][group], group)
                        for group, (source, end) in enumerate(EDGES)
                        if end == target
                    )
                    steps.append(Step(node, edges=mixed))
                    states.append(len(steps) - 1)
            last = len(steps) - 1
            if stage < 2:
                first, second, pool, shortcut, total = self._ends[stage]
                steps += [Step(first, (last,)), Step(second, (last + 1,)), Step(pool, (last,))]
                steps += [Step(shortcut, (last + 3,)), Step(total, (last + 2, last + 4))]
            else:
                steps += [Step(node, (last + place,)) for place, node in enumerate(self._ends[stage])]
        groups = tuple(
            Group(f"edge {source} to {target}", OPERATION_NAMES, place=(target - 1, source)) for source, target in EDGES
        )
        inputs = tuple(Inputs(count, count) for count in (1, 2, 3))
        return SuperGraph(
            tuple(steps), groups, inputs, lambda row: tuple((int(option),) for option in row), _only_options
        )

    @cached_property
    def _states(self) -> tuple[tuple[tuple[Node, Node, Node], ...], ...]:
        """For each stage and cell its nodes 1, 2 and 3 as sums: of node 1 a graph has the single operation alone."""
        return tuple(
            tuple(
                (operation("sum", f"{own[0][0].name}_sum", out=channels, resolution=side), *sums)
                for own, sums in zip(operations, totals, strict=True)
            )
            for operations, totals, (channels, side) in zip(self._operations, self._sums, self._stages, strict=True)
        )

    @cached_property
    def _wiring(self) -> tuple[tuple[int, int], ...]:
        """The edges, which are the same for all: each operation is one node."""
        edges, last = [(0, 1)], 1
        for stage in range(3):
            for _ in range(self.cells):
                # A cell: operations 01 (which is node 1), 02, 12, their sum node 2, operations 03, 13, 23, node 3.
                inputs, one, two, three = last, last + 1, last + 4, last + 8
                edges += [(inputs, one), (inputs, last + 2), (one, last + 3), (last + 2, two), (last + 3, two)]
                edges += [(inputs, last + 5), (one, last + 6), (two, last + 7)]
                edges += [(last + position, three) for position in (5, 6, 7)]
                last = three
            if stage < 2:
                edges += [(last, last + 1), (last + 1, last + 2), (last, last + 3), (last + 3, last + 4)]
                edges += [(last + 2, last + 5), (last + 4, last + 5)]
                last += 5
        return (*edges, *((last + step, last + step + 1) for step in range(3)))

    @cached_property
    def _stages(self) -> tuple[tuple[int, int], ...]:
        """(channels, side) of each stage."""
        return tuple((self.channels << stage, self.input_size >> stage) for stage in range(3))

    @cached_property
    def _stem(self) -> tuple[Node, ...]:
        side, channels = self.input_size, self.input_channels
        return (
            operation("input", "input", out=channels, resolution=side),
            operation("conv_bn", "stem", in_=channels, out=self.channels, kernel=3, stride=1, resolution=side),
        )

    @cached_property
    def _operations(self) -> tuple[tuple[tuple[tuple[Node, ...], ...], ...], ...]:
        """For each stage, cell, edge and option the node."""
        return tuple(
            tuple(
                tuple(
                    tuple(
                        _edge(option, f"stage{stage}_cell{cell}_edge{source}{target}", channels, side)
                        for option in range(_COUNT)
                    )
                    for source, target in EDGES
                )
                for cell in range(1, self.cells + 1)
            )
            for stage, (channels, side) in enumerate(self._stages, 1)
        )

    @cached_property
    def _sums(self) -> tuple[tuple[tuple[Node, Node], ...], ...]:
        """For each stage and cell its nodes 2 and 3."""

        def total(name: str, channels: int, side: int) -> Node:
            return operation("sum", name, out=channels, resolution=side)

        return tuple(
            tuple(
                (
                    total(f"stage{stage}_cell{cell}_node2", channels, side),
                    total(f"stage{stage}_cell{cell}", channels, side),
                )
                for cell in range(1, self.cells + 1)
            )
            for stage, (channels, side) in enumerate(self._stages, 1)
        )

    @cached_property
    def _ends(self) -> tuple[tuple[Node, ...], ...]:
        """What follows each stage: twice the residual block that halves the side, then the head."""
        wide, side = self._stages[2]
        head = (
            operation("bn_relu", "last", out=wide, resolution=side),
            operation("global_mean", "mean", in_=wide, out=wide, resolution=1),
            operation("linear", "classifier", in_=wide, out=self.classes, resolution=1),
        )
        return (self._reduction(1), self._reduction(2), head)

    def _reduction(self, stage: int) -> tuple[Node, ...]:
        name = f"reduction{stage}"
        (before, _), (channels, side) = self._stages[stage - 1 : stage + 1]
        convolution = {"kernel": 3, "resolution": side}
        return (
            operation("relu_conv_bn", f"{name}_a", in_=before, out=channels, stride=2, **convolution),
            operation("relu_conv_bn", f"{name}_b", in_=channels, out=channels, stride=1, **convolution),
            operation("avg_pool", f"{name}_pool", out=before, kernel=2, stride=2, resolution=side),
            operation("conv", f"{name}_shortcut", in_=before, out=channels, kernel=1, stride=1, resolution=side),
            operation("sum", name, out=channels, resolution=side),
        )

    @cached_property
    def _cost_table(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What every network pays, (costs,), and what an edge pays for each option, (options, costs)."""
        fixed = graph_costs(ArchGraph(self._nodes((0,) * len(EDGES)), ()))
        table = np.zeros((_COUNT, len(COST_NAMES)), np.int64)
        for stage in self._operations:
            table += self.cells * np.asarray([node_costs(node) for node in stage[0][0]], np.int64)
        return np.asarray(fixed, np.int64), table


def _only_options(active: Active) -> tuple[int, ...]:
    """The choices of groups that each have one option on."""
    return tuple(option for (option,) in active)


def indices(choices: Choices) -> NDArray[np.int64]:
    """The place of each valid row among all 15,625 in lexicographic order, shape (architectures,)."""
    return choices.astype(np.int64) @ (_COUNT ** np.arange(len(EDGES) - 1, -1, -1, dtype=np.int64))


def every_choice() -> Choices:
    """All 15,625 rows in the order of :func:`indices`, shape (15625, 6)."""
    return np.array(list(product(range(_COUNT), repeat=len(EDGES))), np.int8)


class _Classes(NamedTuple):
    """All rows in order, the class of each, and of each class its cheapest row, its rows, and where these begin."""

    rows: Choices
    of: NDArray[np.int64]
    representatives: NDArray[np.int64]
    members: NDArray[np.int64]
    starts: NDArray[np.int64]


@lru_cache(maxsize=1)
def _classes() -> _Classes:
    rows = every_choice()
    numbers: dict[str, int] = {}
    of = np.array([numbers.setdefault(_expression(row), len(numbers)) for row in rows.tolist()], np.int64)
    # Up to six convolutions: one 3x3 is dearer than they are, and of equal MACs are equal parameters.
    weights = np.asarray(_CONVOLUTIONS)[rows].sum(axis=1)
    members = np.lexsort((np.arange(_SIZE), weights, of))
    starts = np.searchsorted(of[members], np.arange(len(numbers) + 1))
    return _Classes(rows, of, members[starts[:-1]], members, starts)


def _expression(row: list[int]) -> str:
    """What the last node computes, the same text for cells that the published table takes for the same.

    Which sums are the same depends there on how terms are sorted as text, an identity's sum as one term, and a zero is
    carried on only where it is a node's single term: both as there, or the classes would be others.
    """
    nodes = ["0", "", "", ""]
    terms: list[list[str]] = [[], [], [], []]
    for choice, (source, target) in zip(row, EDGES, strict=True):
        inner = nodes[source]
        if choice == 0 or inner == "#":
            terms[target].append("#")
        else:
            terms[target].append(inner if choice == 1 else f"({inner})@{OPERATION_NAMES[choice]}")
        if source == target - 1:
            nodes[target] = "+".join(sorted(terms[target]))
    return nodes[3]


def _edge(option: int, name: str, channels: int, side: int) -> Node:
    """The node of an edge with one of the operations."""
    if option == 0:
        return operation("zero", name, out=channels, resolution=side)
    if option == 1:
        return operation("skip", name, in_=channels, out=channels, stride=1, resolution=side)
    if option == _COUNT - 1:
        return operation("avg_pool_same", name, out=channels, kernel=3, stride=1, resolution=side)
    kernel = 1 if option == OPERATION_NAMES.index("nor_conv_1x1") else 3
    return operation("relu_conv_bn", name, in_=channels, out=channels, kernel=kernel, stride=1, resolution=side)
