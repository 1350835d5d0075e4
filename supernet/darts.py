"""The space ``darts``: two cells, found by the search and repeated along a network of fixed shape.

The cells, operations and network are those of DARTS (Liu et al. 2019), which PC-DARTS and most differentiable searches
after it kept. Published networks have 20 cells and 36 channels; the searches themselves went over 8 cells and 16.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import chain, combinations, permutations
from math import prod
from typing import Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from supernet.cells import (
    KINDS,
    Place,
    applied_node,
    genotype_object,
    head_nodes,
    input_nodes,
    output_node,
    places,
    read_pair,
    stem_nodes,
    sum_node,
)
from supernet.graph import ArchGraph, Node
from supernet.operations import COST_NAMES, graph_costs, node_costs
from supernet.settings import InputError, distinct
from supernet.space import Architecture, Choices, SearchSpace, architectures, check_cost
from supernet.supergraph import Active, Edge, Group, Inputs, Step, SuperGraph

OperationName = Literal[
    "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7",
    "dil_conv_3x3", "dil_conv_5x5",
]  # fmt: skip
Pair: TypeAlias = tuple[int, int]

_NUMBER = re.compile("[0-9]")  # of an input; no cell has more than seven


@lru_cache(maxsize=16)
def _pairs(node: int) -> tuple[Pair, ...]:
    """The inputs that a node may take, the first node being 0: any two of the cell's own and the nodes before."""
    return tuple(combinations(range(node + 2), 2))


@lru_cache(maxsize=65_536)
def _edges(cell: int, sources: tuple[Pair, ...]) -> tuple[Pair, ...]:
    """The edges of a cell, its positions in the whole graph following from its number."""
    length = 3 * len(sources) + 3
    start = 2 + cell * length

    def output(number: int) -> int:
        return 1 if number < 0 else 1 + (number + 1) * length

    def state(number: int) -> int:
        return start + number if number < 2 else start + 3 * number - 2

    edges = [(output(cell - 2), start), (output(cell - 1), start + 1)]
    for node, (first, second) in enumerate(sources, 2):
        total = state(node)
        edges += [(state(first), total - 2), (state(second), total - 1), (total - 2, total), (total - 1, total)]
    return (*edges, *((state(node), output(cell)) for node in range(2, len(sources) + 2)))


@lru_cache(maxsize=8192)
def _renumberings(
    options: tuple[int, ...], operations: int, twins: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Every way to number the nodes of a cell, as what makes its place in the order of all cells.

    Args:
        options: the choice of inputs of each node.
        operations: how many there are to choose from.
        twins: whether the two inputs of the cell may be swapped as well.

    Returns:
        (weights, offsets): a row of the cell's operations @ weights + offsets are the places, one for each way.
    """
    nodes = len(options)
    counts = tuple(chain.from_iterable((len(_pairs(node)), operations, operations) for node in range(nodes)))
    places = [prod(counts[position + 1 :]) for position in range(len(counts))]
    weights, offsets = [], []
    for inputs in ((0, 1), (1, 0))[: 1 + twins]:
        for order in permutations(range(2, nodes + 2)):
            renamed = (*inputs, *order)
            weight, offset = [0] * (2 * nodes), 0
            for node, option in enumerate(options):
                first, second = (renamed[source] for source in _pairs(node)[option])
                new = renamed[node + 2] - 2
                if max(first, second) >= new + 2:
                    break  # an input that comes later
                swapped = first > second
                offset += places[3 * new] * _pairs(new).index((min(first, second), max(first, second)))
                weight[2 * node], weight[2 * node + 1] = places[3 * new + 1 + swapped], places[3 * new + 2 - swapped]
            else:
                weights.append(weight)
                offsets.append(offset)
    return np.asarray(weights, np.float64).T, np.asarray(offsets, np.float64)


class Darts(SearchSpace):
    """Settings and space in one. Three choices for each node: its two inputs, and what is applied to each of them.

    A network is a 3x3 stem, ``cells`` cells, the mean of each channel and a linear layer. The cells at a third and at
    two thirds are reduction cells: operations on their own inputs have stride 2, and channels are doubled. All others
    are normal cells. A cell takes the outputs of the two cells before it as inputs 0 and 1, each brought to its width
    by a 1x1 convolution (a factorized reduce where the cell before reduced), and its nodes are numbered from 2. A node
    is the sum of two operations, each on another earlier input; a cell gives its nodes side by side. The output of the
    second reduction cell is marked for an auxiliary head, which only trainings have.

    Attributes:
        input_size: side of the square picture in pixels; it is halved twice, so at least 4.
        cells: 20 in published networks, 8 while searching for them.
        channels: of a node in the first cells, 36 in published networks, 16 while searching.
        stem_multiplier: the stem's channels in multiples of these.
        nodes: of a cell.
        operations: what may be applied; the numbers in a name are the kernel, ``dil_conv`` has dilation 2,
            ``skip_connect`` is an identity, or a factorized reduce where the stride is 2. Pools have no norm.
    """

    kind: Literal["darts"] = "darts"
    input_size: Annotated[int, Field(le=1024)] = 32
    classes: Annotated[int, Field(ge=2, le=100_000)] = 10
    cells: Annotated[int, Field(ge=3, le=100)] = 20  # with fewer there is no normal cell, or no second reduction
    channels: Annotated[int, Field(ge=2, le=16_384)] = 36  # the factorized reduce gives each half at least one
    stem_multiplier: Annotated[int, Field(ge=1, le=16)] = 3
    nodes: Annotated[int, Field(ge=1, le=5)] = 4
    operations: Annotated[tuple[OperationName, ...], Field(min_length=1)] = (
        "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
    )  # fmt: skip

    @field_validator("input_size")
    @classmethod
    def _survives(cls, value: int) -> int:
        if value < 4:
            raise ValueError("two reduction cells halve the side; expected at least 4")
        return value

    _distinct = field_validator("operations")(distinct)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return self._cell_counts * 2

    def canonical(self, choices: Choices) -> Choices:
        """The least row of all that number the nodes of a cell in another order."""
        if not len(choices):
            return choices
        halves = np.split(choices, 2, axis=1)
        # Of three cells the only normal one has the stem on both sides.
        return np.concatenate([self._least(halves[0], self.cells == 3), self._least(halves[1], False)], axis=1)

    def narrower(self, factor: float) -> Darts:
        """The same architectures with the channels times a factor, rounded, at least 2."""
        return Darts.model_validate({**self.model_dump(), "channels": max(2, round(self.channels * factor))})

    def costs(self, choices: Choices) -> dict[str, NDArray[np.int64]]:
        fixed, tables = self._cost_tables
        options, width = choices.reshape(len(choices), len(tables), 3).astype(np.intp), len(self.operations)
        totals = np.tile(fixed, (len(choices), 1))
        for node, table in enumerate(tables):
            pair, first, second = options[:, node].T
            totals += table[(pair * width + first) * width + second]
        return {name: totals[:, column] for column, name in enumerate(COST_NAMES)}

    def cheapest(self, cost: str) -> Architecture:
        check_cost(cost)
        row: list[int] = []
        column = COST_NAMES.index(cost)
        for node, table in enumerate(self._cost_tables[1]):
            shape = self.cardinalities[3 * node : 3 * node + 3]
            # What a node costs does not depend on the others.
            row += [int(option) for option in np.unravel_index(table[:, column].argmin(), shape)]
        return architectures(self, self.canonical(np.asarray([row], dtype=np.int8)))[0]

    def parse(self, text: str) -> Architecture:
        """A genotype as it is published in JSON, or what :meth:`format` writes.

        The JSON has ``normal`` and ``reduce``, each two [operation, input] for each node, and ``normal_concat`` and
        ``reduce_concat``, which are all nodes. The short form says the same in two times four words:
        ``normal sep_conv_3x3@0+skip_connect@1 ... reduce max_pool_3x3@0+max_pool_3x3@1 ...``.
        """
        cells = self._from_json(text) if text.lstrip().startswith("{") else self._from_words(text)
        return Architecture(self.name, (*self._cell("normal", cells[0]), *self._cell("reduce", cells[1])))

    def format(self, architecture: Architecture) -> str:
        self.check(architecture)
        words = []
        for kind, cell in zip(KINDS, self._halves(architecture), strict=True):
            words.append(kind)
            for (first, second), *operations in cell:
                names = [self.operations[number] for number in operations]
                words.append(f"{names[0]}@{first}+{names[1]}@{second}")
        return " ".join(words)

    def graph(self, architecture: Architecture) -> ArchGraph:
        self.check(architecture)
        halves = self._halves(architecture)
        sources = [tuple(pair for pair, _, _ in cell) for cell in halves]
        nodes, edges = [*self._stem], [(0, 1)]
        for number, (kind, (inputs, operations, sums, output)) in enumerate(self._cells):
            nodes += inputs
            for known, total, (pair, first, second) in zip(operations, sums, halves[kind], strict=True):
                nodes += (known[pair[0]][first], known[pair[1]][second], total)
            nodes.append(output)
            edges += _edges(number, sources[kind])
        last = len(nodes) - 1
        edges += [(last, last + 1), (last + 1, last + 2)]
        return ArchGraph((*nodes, *self._head), tuple(edges))

    def supergraph(self) -> SuperGraph:
        steps = [Step(self._stem[0]), Step(self._stem[1], (0,))]
        outputs = [1, 1]  # of the two cells before
        first_of = [self._first_group(node) for node in range(2, self.nodes + 3)]
        for kind, (projections, operations, sums, output) in self._cells:
            states = []
            for projection, source in zip(projections, outputs, strict=True):
                steps.append(Step(projection, (source,)))
                states.append(len(steps) - 1)
            for known, total, first in zip(operations, sums, first_of[:-1], strict=True):
                begin = kind * first_of[-1] + first
                mixed = (Edge(states[source], nodes, begin + source) for source, nodes in enumerate(known))
                steps.append(Step(total, edges=tuple(mixed)))
                states.append(len(steps) - 1)
            steps.append(Step(output, tuple(states[2:])))
            outputs = [outputs[1], len(steps) - 1]
        for node in self._head:
            steps.append(Step(node, (len(steps) - 1,)))
        groups = tuple(
            Group(f"{kind} {source} to {node}", self.operations, place=(number * self.nodes + node - 2, source))
            for number, kind in enumerate(KINDS)
            for node in range(2, self.nodes + 2)
            for source in range(node)
        )
        inputs = tuple(Inputs(node, 2) for _ in KINDS for node in range(2, self.nodes + 2))
        return SuperGraph(tuple(steps), groups, inputs, self._active, self._choices, pool_norms=True)

    @staticmethod
    def _first_group(node: int) -> int:
        """Groups of one kind of cell before those that lead to a node."""
        return (node - 2) * (node + 1) // 2

    def _active(self, row: Sequence[int]) -> Active:
        """The options that are on: of the two inputs of each node, one each."""
        active: list[tuple[int, ...]] = []
        for place in range(2 * self.nodes):
            option, *applied = (int(one) for one in row[3 * place : 3 * place + 3])
            node = place % self.nodes
            on = dict(zip(_pairs(node)[option], applied, strict=True))
            active += [(on[source],) if source in on else () for source in range(node + 2)]
        return tuple(active)

    def _choices(self, active: Active) -> tuple[int, ...]:
        """The inverse of :meth:`_active`."""
        row: list[int] = []
        own = iter(active)
        for place in range(2 * self.nodes):
            node = place % self.nodes
            on = {source: options[0] for source in range(node + 2) if (options := next(own))}
            first, second = sorted(on)
            row += [_pairs(node).index((first, second)), on[first], on[second]]
        return tuple(row)

    def _halves(self, architecture: Architecture) -> tuple[tuple[tuple[Pair, int, int], ...], ...]:
        """For each node of the normal and of the reduction cell its inputs and its operations."""
        options, count = architecture.choices, 3 * self.nodes
        return tuple(
            tuple(
                (_pairs(node)[options[start + 3 * node]], options[start + 3 * node + 1], options[start + 3 * node + 2])
                for node in range(self.nodes)
            )
            for start in (0, count)
        )

    def _from_json(self, text: str) -> tuple[Sequence[object], Sequence[object]]:
        """The pairs of both cells."""
        genotype = genotype_object(text)
        expected = list(range(2, self.nodes + 2))
        for kind in KINDS:
            found = genotype[f"{kind}_concat"]
            if found != expected or any(type(number) is not int for number in found):
                raise InputError(
                    f"genotype: {kind}_concat: expected {expected}, all nodes of a cell, got {found!r:.80}"
                )
        return genotype["normal"], genotype["reduce"]

    def _from_words(self, text: str) -> tuple[Sequence[object], Sequence[object]]:
        """The pairs of both cells."""
        words, half = text.split(), self.nodes + 1
        if len(words) != 2 * half or (words[0], words[half]) != KINDS:
            raise InputError(
                f"architecture {text!r:.80}: expected a genotype in JSON, or 'normal' and {self.nodes} words such as "
                f"{self.operations[0]}@0+{self.operations[-1]}@1, then 'reduce' and {self.nodes} more; "
                f"got {len(words)} words"
            )
        cells: list[list[object]] = []
        for kind, part in zip(KINDS, (words[1:half], words[half + 1 :]), strict=True):
            cells.append([])
            for node, word in enumerate(part, 2):
                pairs = [term.partition("@") for term in word.split("+")]
                if len(pairs) != 2 or not all(_NUMBER.fullmatch(number) for _, _, number in pairs):
                    raise InputError(
                        f"architecture: {kind}, node {node}: expected OPERATION@INPUT+OPERATION@INPUT, got {word!r:.80}"
                    )
                cells[-1] += [[name, int(number)] for name, _, number in pairs]
        return cells[0], cells[1]

    def _cell(self, kind: str, pairs: Sequence[object]) -> list[int]:
        """The choices of a cell that is given as [operation, input] for each half of each node."""
        if len(pairs) != 2 * self.nodes:
            raise InputError(
                f"genotype: {kind}: expected {2 * self.nodes} pairs, two for each of {self.nodes} nodes, "
                f"got {len(pairs)}"
            )
        choices: list[int] = []
        for node in range(self.nodes):
            place, taken = f"genotype: {kind}, node {node + 2}", []
            for pair in pairs[2 * node : 2 * node + 2]:
                source, name = read_pair(place, node + 2, pair, self.operations)
                taken.append((source, self.operations.index(name)))
            (first, one), (second, other) = sorted(taken)
            if first == second:
                raise InputError(f"{place}: input {first} is taken twice; expected two different ones")
            choices += [_pairs(node).index((first, second)), one, other]
        return choices

    @cached_property
    def _cell_counts(self) -> tuple[int, ...]:
        """The options of one cell's choices."""
        width = len(self.operations)
        return tuple(chain.from_iterable((len(_pairs(node)), width, width) for node in range(self.nodes)))

    def _least(self, cells: Choices, twins: bool) -> Choices:
        """Of each cell the least of its renumberings, shape as given. Grouped by inputs, which decide what may come."""
        parts = cells.reshape(len(cells), self.nodes, 3)
        inputs = parts[:, :, 0]
        applied = parts[:, :, 1:].reshape(len(cells), 2 * self.nodes).astype(np.float64)
        patterns = np.ravel_multi_index(tuple(inputs.T.astype(np.intp)), self._cell_counts[::3])
        order = np.argsort(patterns, kind="stable")
        places = np.empty(len(cells))  # whole numbers far below 2**53
        for group in np.split(order, np.flatnonzero(np.diff(patterns[order])) + 1):
            weights, offsets = _renumberings(tuple(inputs[group[0]].tolist()), len(self.operations), twins)
            places[group] = (applied[group] @ weights + offsets).min(axis=1)
        return np.stack(np.unravel_index(places.astype(np.int64), self._cell_counts), axis=1).astype(np.int8)

    @cached_property
    def _stem(self) -> tuple[Node, ...]:
        return stem_nodes(self.input_channels, self.stem_multiplier * self.channels, self.input_size)

    @cached_property
    def _cells(self) -> tuple[tuple[int, _Cell], ...]:
        """Of each cell whether it reduces (1), and its nodes."""
        stem, given = self.stem_multiplier * self.channels, (self.nodes, self.nodes)
        found = places(self.cells, self.channels, stem, self.input_size, given)
        return tuple((place.reduces, self._nodes_of(place)) for place in found)

    def _nodes_of(self, place: Place) -> _Cell:
        """Every node that a cell may have."""
        states = range(2, self.nodes + 2)
        applied = tuple(
            tuple(tuple(applied_node(place, node, text, source) for text in self.operations) for source in range(node))
            for node in states
        )
        sums = tuple(sum_node(place, node) for node in states)
        return input_nodes(place), applied, sums, output_node(place, self.nodes)

    @cached_property
    def _head(self) -> tuple[Node, ...]:
        return head_nodes(self._cells[-1][1][3].integer("out"), self.classes)

    @cached_property
    def _cost_tables(self) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
        """What every network pays, (costs,), and for each node of both cells what its options add, (options, costs)."""
        fixed = [*self._stem, *self._head, *chain.from_iterable(inputs for _, (inputs, _, _, _) in self._cells)]
        tables = []
        for kind in range(len(KINDS)):
            for node in range(self.nodes):
                known = [applied[node] for reduces, (_, applied, _, _) in self._cells if reduces == kind]
                single = np.asarray([[[node_costs(one) for one in row] for row in rows] for rows in known]).sum(axis=0)
                first, second = single[np.asarray(_pairs(node))].transpose(1, 0, 2, 3)
                table = first[:, :, None] + second[:, None, :]
                tables.append(table.reshape(-1, len(COST_NAMES)).astype(np.int64))
        return np.asarray(graph_costs(ArchGraph(tuple(fixed), ())), np.int64), tables


_Cell: TypeAlias = tuple[
    tuple[Node, Node], tuple[tuple[tuple[Node, ...], ...], ...], tuple[Node, ...], Node
]  # projections of the inputs; operations by node, source and number; sums; output
