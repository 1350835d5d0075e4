"""All architectures of a space in one graph: every choice a mixed operation. No torch.

A :class:`SuperGraph` is what a weight-sharing network is built from and what a differentiable search moves in. It is
made of the same nodes as the graphs of single architectures: of each mixed operation exactly the active options are
the architecture's own nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from supernet.graph import Node
from supernet.operations import COST_NAMES, layers, node_costs
from supernet.settings import InputError

Active: TypeAlias = tuple[tuple[int, ...], ...]
"""Of each group the options that are on; of a group whose input is not taken, none."""


@dataclass(frozen=True)
class Group:
    """Options that share one choice, wherever in the network it is made.

    Attributes:
        name: for people, such as ``normal 0 to 2``.
        options: names of the options.
        subset: any of them together, at least one, rather than exactly one.
        place: (set of inputs, place in it) where several groups compete to be the inputs of one node; else None.
    """

    name: str
    options: tuple[str, ...]
    subset: bool = False
    place: tuple[int, int] | None = None


@dataclass(frozen=True)
class Inputs:
    """Groups that feed one node.

    Attributes:
        groups: how many there are.
        kept: how many of them an architecture has.
    """

    groups: int
    kept: int


@dataclass(frozen=True)
class Edge:
    """A mixed operation: what may be applied to the output of one step.

    Attributes:
        source: position of that step.
        options: the node of each option; all take the same shape and give the same shape.
        group: position of the group that chooses.
    """

    source: int
    options: tuple[Node, ...]
    group: int


@dataclass(frozen=True)
class Step:
    """A node that every architecture has.

    Attributes:
        node: what is calculated; a ``sum`` where there are edges.
        feeds: positions of the steps that it reads, none where there are edges.
        edges: mixed operations that are added up.
    """

    node: Node
    feeds: tuple[int, ...] = ()
    edges: tuple[Edge, ...] = ()


@dataclass(frozen=True)
class SuperGraph:
    """A space as one network.

    Attributes:
        steps: in the order of calculation; the first is the input, the last gives the scores.
        groups, inputs: what is chosen.
        encode: the active options of a row of choices.
        decode: the row of choices that has these active options.
        pool_norms: whether pools end in a norm while they are searched, as in DARTS.
    """

    steps: tuple[Step, ...]
    groups: tuple[Group, ...]
    inputs: tuple[Inputs, ...]
    encode: Callable[[Sequence[int]], Active]
    decode: Callable[[Active], tuple[int, ...]]
    pool_norms: bool = False

    @cached_property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """The groups of each set of inputs, by their place in it."""
        found: list[dict[int, int]] = [{} for _ in self.inputs]
        for number, group in enumerate(self.groups):
            if group.place is not None:
                found[group.place[0]][group.place[1]] = number
        return tuple(tuple(one[place] for place in range(len(one))) for one in found)

    @cached_property
    def costs(self) -> tuple[NDArray[np.int64], tuple[NDArray[np.int64], ...]]:
        """What every architecture pays, (costs,), and what each option of each group adds, (options, costs).

        Costs are in the order of ``COST_NAMES`` and exact: those of an architecture are the sum over what is active.
        """
        fixed = np.zeros(len(COST_NAMES), np.int64)
        tables = [np.zeros((len(group.options), len(COST_NAMES)), np.int64) for group in self.groups]
        for step in self.steps:
            fixed += np.asarray(node_costs(step.node), np.int64)
            for edge in step.edges:
                tables[edge.group] += np.asarray([node_costs(node) for node in edge.options], np.int64)
        return fixed, tuple(tables)

    def cost(self, active: Active, name: str) -> int:
        """One exact cost of the architecture with these options."""
        column = COST_NAMES.index(name)
        fixed, tables = self.costs
        chosen = (int(table[list(on), column].sum()) for table, on in zip(tables, active, strict=True))
        return int(fixed[column]) + sum(chosen)

    def free(self, group: int) -> tuple[int, ...]:
        """Options of a group that have no weights: identities, pools and zeros."""
        return self._free[group]

    @cached_property
    def _free(self) -> tuple[tuple[int, ...], ...]:
        weighted = [[False] * len(group.options) for group in self.groups]
        for step in self.steps:
            for edge in step.edges:
                for place, node in enumerate(edge.options):
                    # The factorized reduce of a skip at stride 2 has weights; the option is an identity all the same.
                    weighted[edge.group][place] |= node.op != "skip" and any(
                        layer.kind in ("conv", "shifted_conv") for layer in layers(node)
                    )
        return tuple(tuple(place for place, one in enumerate(row) if not one) for row in weighted)

    def skips(self, group: int) -> tuple[int, ...]:
        """Options of a group that pass on what they get."""
        return tuple(place for place, name in enumerate(self.groups[group].options) if name.startswith("skip"))


def derive(
    graph: SuperGraph,
    options: Sequence[NDArray[np.float64]],
    inputs: Sequence[NDArray[np.float64]],
    most_skips: int | None = None,
) -> Active:
    """The architecture that weights of a relaxation stand for.

    Of each group the option with the largest weight, or of a subset all above a half and at least the largest; of each
    set of inputs those whose strongest option counts most, as in DARTS (Liu et al. 2019), ``none`` left aside, times
    the input's own strength (Xu et al. 2020).

    Args:
        options: the weight of each option, by group; of a group they sum to 1, of a subset each is from 0 to 1.
        inputs: the strength of each input, by set.
        most_skips: at most so many groups that keep an identity, in each part of the groups whose names begin with the
            same word (a kind of cell); the weakest give way to their second best (Chen et al. 2019, P-DARTS). Not of
            subsets.
    """
    weights = [np.array(row, np.float64) for row in options]
    while True:
        active = _derived(graph, weights, inputs)
        excess = _excess_skips(graph, weights, active, most_skips)
        if excess is None:
            return active
        group, option = excess
        weights[group][option] = -1.0


def _derived(
    graph: SuperGraph, weights: Sequence[NDArray[np.float64]], inputs: Sequence[NDArray[np.float64]]
) -> Active:
    active: list[tuple[int, ...]] = []
    strongest: list[float] = []
    for group, row in zip(graph.groups, weights, strict=True):
        best = int(row.argmax())
        if group.subset:
            active.append(tuple(int(place) for place in np.flatnonzero(row > 0.5)) or (best,))
            strongest.append(float(row[best]))
            continue
        active.append((best,))
        something = [value for name, value in zip(group.options, row, strict=True) if name != "none"]
        strongest.append(float(max(something, default=0.0)))
    for number, (one, strengths) in enumerate(zip(graph.inputs, inputs, strict=True)):
        if one.kept == one.groups:
            continue
        members = graph.members[number]
        counts = [strongest[group] * float(strengths[place]) for place, group in enumerate(members)]
        kept = np.argsort(-np.asarray(counts), kind="stable")[: one.kept]
        for place, member in enumerate(members):
            if place not in kept:
                active[member] = ()
    return tuple(active)


def _excess_skips(
    graph: SuperGraph, weights: Sequence[NDArray[np.float64]], active: Active, most: int | None
) -> tuple[int, int] | None:
    """(group, option) of the weakest identity in a part that has too many; None where none has."""
    if most is None:
        return None
    parts: dict[str, list[tuple[float, int, int]]] = {}
    for number, on in enumerate(active):
        if graph.groups[number].subset:  # there an identity stands beside the others, not in their place
            continue
        for option in set(on) & set(graph.skips(number)):
            replaceable = (weights[number] >= 0).sum() > 1
            if replaceable:
                part = graph.groups[number].name.split()[0]
                parts.setdefault(part, []).append((float(weights[number][option]), number, option))
    for found in parts.values():
        if len(found) > most:
            _, group, option = min(found)
            return group, option
    return None


def free_share(graph: SuperGraph, active: Active) -> float:
    """The share of operations without weights (identities, pools, zeros) among all that are on, 0 to 1.

    Near 1 the search has collapsed: such an operation is always easy to train (Zela et al. 2020).
    """
    total = sum(len(on) for on in active)
    without = sum(len(set(on) & set(graph.free(number))) for number, on in enumerate(active))
    return without / total if total else 0.0


def skip_share(graph: SuperGraph, active: Active) -> float:
    """The share of identities among all that are on, 0 to 1."""
    total = sum(len(on) for on in active)
    return sum(len(set(on) & set(graph.skips(number))) for number, on in enumerate(active)) / total if total else 0.0


def dominant(graph: SuperGraph, active: Active) -> dict[str, float]:
    """The share of each operation among all that are on, by its name, largest first."""
    names = [graph.groups[number].options[option] for number, on in enumerate(active) for option in on]
    shares = {name: names.count(name) / len(names) for name in sorted(set(names))}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def no_supergraph(space: str) -> InputError:
    """For a space that has none."""
    return InputError(
        f"space {space!r} has no weight-sharing network; nasbench201, darts and op_subset have one, and a space of "
        f"your own that defines supergraph()"
    )
