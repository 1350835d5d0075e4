"""Published genotypes: two cells as differentiable searches write them, and the network that they make.

More general than the space :class:`supernet.darts.Darts`, which holds what its searches can find: the cells of NASNet
(Zoph et al. 2018) and AmoebaNet (Real et al. 2019), in the form that DARTS (Liu et al. 2019) gave them, take an input
twice, give only some of their nodes, and have a convolution along rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from supernet.cells import (
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
from supernet.darts import Darts, OperationName
from supernet.graph import ArchGraph, Node
from supernet.settings import InputError

GENOTYPE_OPERATIONS: tuple[str, ...] = (*get_args(OperationName), "conv_7x1_1x7")
"""What a node may apply: the operations of ``Darts``, and ReLU, a 1x7 and a 7x1 convolution, and batch norm."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        nodes: of each node, the first being state 2, two (operation, state) with a state before it.
        given: the states that the cell gives side by side, in this order; nodes, not inputs.
    """

    nodes: tuple[tuple[tuple[str, int], tuple[str, int]], ...]
    given: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Genotype:
    """The two cells of a network."""

    normal: Cell
    reduce: Cell


def parse_genotype(content: str | Mapping[str, Any]) -> Genotype:
    """A genotype from its published JSON, text or object: ``normal``, ``normal_concat``, ``reduce``, ``reduce_concat``.

    Raises:
        InputError: for other keys, anything that is no [operation, state], an unknown operation, a state that is not
            before its node, a concatenation of anything but different nodes, and a state that nothing reads: such
            a node would be calculated for nothing.
    """
    genotype = genotype_object(content)
    return Genotype(*(_cell(kind, genotype[kind], genotype[f"{kind}_concat"]) for kind in ("normal", "reduce")))


def genotype_graph(genotype: Genotype, space: Darts) -> ArchGraph:
    """The network with these cells, and the shape, channels and classes of a space.

    The space's nodes and operations do not matter; for a genotype that it holds, this is the graph that it gives.
    """
    cells = (genotype.normal, genotype.reduce)
    stem = space.stem_multiplier * space.channels
    nodes: list[Node] = []
    edges: list[tuple[int, int]] = []

    def add(node: Node, *sources: int) -> int:
        nodes.append(node)
        edges.extend((source, len(nodes) - 1) for source in sources)
        return len(nodes) - 1

    image, first = stem_nodes(space.input_channels, stem, space.input_size)
    last = add(first, add(image))
    outputs, wide = (last, last), 0
    given = (len(genotype.normal.given), len(genotype.reduce.given))
    for place in places(space.cells, space.channels, stem, space.input_size, given):
        cell = cells[place.reduces]
        states = [add(node, source) for node, source in zip(input_nodes(place), outputs, strict=True)]
        for number, pairs in enumerate(cell.nodes, 2):
            terms = [
                add(applied_node(place, number, name, source, half == 1 and pairs[0] == pairs[1]), states[source])
                for half, (name, source) in enumerate(pairs)
            ]
            states.append(add(sum_node(place, number), *terms))
        output = output_node(place, len(cell.given))
        outputs, wide = (outputs[1], add(output, *(states[state] for state in cell.given))), output.integer("out")
    mean, classifier = head_nodes(wide, space.classes)
    add(classifier, add(mean, outputs[1]))
    return ArchGraph(tuple(nodes), tuple(edges))


def _cell(kind: str, pairs: list[Any], given: Any) -> Cell:  # noqa: ANN401 - whatever a file holds
    if not pairs or len(pairs) % 2:
        raise InputError(f"genotype: {kind}: expected two pairs for each node, got {len(pairs)}")
    read = []
    for position, pair in enumerate(pairs):
        node = position // 2 + 2
        source, name = read_pair(f"genotype: {kind}, node {node}", node, pair, GENOTYPE_OPERATIONS)
        read.append((name, source))
    end = len(pairs) // 2 + 2
    whole = isinstance(given, list) and all(type(state) is int and 2 <= state < end for state in given)
    if not whole or not given or len(set(given)) != len(given):
        raise InputError(f"genotype: {kind}_concat: expected different nodes out of 2 to {end - 1}, got {given!r:.80}")
    if idle := sorted(set(range(end)) - {source for _, source in read} - set(given)):
        raise InputError(f"genotype: {kind}: state {idle[0]} is read by no node and is not in {kind}_concat")
    return Cell(tuple(zip(read[::2], read[1::2], strict=True)), tuple(given))
