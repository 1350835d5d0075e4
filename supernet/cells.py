"""What networks of two repeated cells are made of, and how such cells are written: read by spaces and by genotypes.

A network is a 3x3 stem, cells, the mean of each channel and a linear layer. The cells at a third and at two thirds are
reduction cells (kind 1), all others normal ones (kind 0). A cell takes the outputs of the two cells before it as states
0 and 1, and its nodes are states from 2 on: each the sum of two operations, each on an earlier state.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from supernet.graph import Node
from supernet.operations import operation
from supernet.settings import InputError, nearest

KINDS = ("normal", "reduce")

_OPS = {
    "max_pool": "max_pool_same", "avg_pool": "avg_pool_same", "skip": "skip",
    "sep_conv": "sep_conv", "dil_conv": "dil_conv", "conv_7x1": "cross_conv",
}  # fmt: skip


class Place(NamedTuple):
    """Where in a network a cell stands.

    Attributes:
        channels: of its nodes.
        side: of its inputs in pixels.
        widths: channels of its two inputs.
        reduces: whether it is a reduction cell, 0 or 1.
        before: whether the cell before it was.
        marked: whether an auxiliary head reads its output.
    """

    number: int
    channels: int
    side: int
    widths: tuple[int, int]
    reduces: int
    before: int
    marked: bool

    @property
    def after(self) -> int:
        """The side of its nodes."""
        return -(-self.side // 2) if self.reduces else self.side


def places(cells: int, channels: int, stem: int, side: int, given: tuple[int, int]) -> tuple[Place, ...]:
    """Every cell's place.

    Args:
        channels: of a node in the first cells; reduction cells double them.
        stem: channels of the stem.
        side: of the picture.
        given: how many nodes a normal and a reduction cell give side by side.
    """
    result: list[Place] = []
    reductions = (cells // 3, 2 * cells // 3)
    before, widths = 0, (stem, stem)
    for number in range(cells):
        reduces = int(number in reductions)
        channels *= 1 + reduces
        result.append(Place(number, channels, side, widths, reduces, before, number == reductions[1]))
        side, before, widths = result[-1].after, reduces, (widths[1], given[reduces] * channels)
    return tuple(result)


def stem_nodes(images: int, stem: int, side: int) -> tuple[Node, Node]:
    """Input and stem; ``images`` is the channels of a picture."""
    return (
        operation("input", "input", out=images, resolution=side),
        operation("conv_bn", "stem", in_=images, out=stem, kernel=3, stride=1, resolution=side),
    )


def head_nodes(wide: int, classes: int) -> tuple[Node, Node]:
    """Mean and linear layer over the ``wide`` channels of the last cell."""
    return (
        operation("global_mean", "mean", in_=wide, out=wide, resolution=1),
        operation("linear", "classifier", in_=wide, out=classes, resolution=1),
    )


def input_nodes(place: Place) -> tuple[Node, Node]:
    """The projections of both inputs to the cell's channels, of the older one with a factorized reduce if need be."""
    name = f"cell{place.number}"
    projected: dict[str, float] = {"out": place.channels, "kernel": 1, "resolution": place.side}
    return (
        operation("skip", f"{name}_input0", in_=place.widths[0], stride=2, **projected)
        if place.before
        else operation("relu_conv_bn", f"{name}_input0", in_=place.widths[0], stride=1, **projected),
        operation("relu_conv_bn", f"{name}_input1", in_=place.widths[1], stride=1, **projected),
    )


def applied_node(place: Place, node: int, text: str, source: int, again: bool = False) -> Node:
    """One operation of a node on one state; in a reduction cell it has stride 2 on the cell's own inputs.

    Args:
        text: the operation as genotypes call it.
        again: whether the node applies the same to the same state twice, and this is the second.
    """
    op, _, kernel = text.rpartition("_")
    stride = 2 if place.reduces and source < 2 else 1
    attributes: dict[str, float] = {
        "in_": place.channels, "out": place.channels, "stride": stride, "resolution": place.after,
        "kernel": 1 if op == "skip" else int(kernel[-1]),
    }  # fmt: skip
    if op == "dil_conv":
        attributes["dilation"] = 2
    if op == "conv_7x1" and stride == 2:
        attributes["input_resolution"] = place.side
    return operation(_OPS[op], f"cell{place.number}_node{node}_{text}_of{source}{'_again' * again}", **attributes)


def sum_node(place: Place, node: int) -> Node:
    """What a node is: the sum of its two operations."""
    return operation("sum", f"cell{place.number}_node{node}", out=place.channels, resolution=place.after)


def output_node(place: Place, given: int) -> Node:
    """What a cell gives: so many of its nodes side by side."""
    mark = {"auxiliary": 1} if place.marked else {}
    return operation("concat", f"cell{place.number}", out=given * place.channels, resolution=place.after, **mark)


# How cells are written


def genotype_object(content: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """The JSON object of a genotype, from its text or as it is. Raises InputError for other keys than it has."""
    genotype: Any = content
    if isinstance(content, str):
        try:
            genotype = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(f"genotype {content!r:.80}: no valid JSON ({error})") from error
    keys = [key for kind in KINDS for key in (kind, f"{kind}_concat")]
    if not isinstance(genotype, Mapping) or set(genotype) != set(keys):
        got = list(genotype) if isinstance(genotype, Mapping) else genotype
        raise InputError(f"genotype {content!r:.80}: expected the keys {', '.join(keys)}, got {got!r:.80}")
    for kind in KINDS:
        if not isinstance(genotype[kind], list):
            raise InputError(f"genotype: {kind}: expected a list of pairs, got {genotype[kind]!r:.80}")
    return genotype


def read_pair(
    where: str, node: int, pair: Any, operations: Collection[str]  # noqa: ANN401 - whatever a file holds
) -> tuple[int, str]:  # fmt: skip
    """State and operation of one [operation, state] of a node that is the state ``node``.

    Raises InputError for anything else, an operation not among these, or a state that is not before the node.
    """
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str) or type(pair[1]) is not int:
        raise InputError(f"{where}: expected [operation, input], got {pair!r:.80}")
    name, source = pair
    if name not in operations:
        raise InputError(f"{where}: operation {name!r:.40} is not of this space; {nearest(name, operations)}")
    if not 0 <= source < node:
        raise InputError(f"{where}: input {source}; expected 0 to {node - 1}")
    return source, name
