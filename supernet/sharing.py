"""A network that all architectures of a space share their weights in (Pham et al. 2018; Liu et al. 2019).

It runs as a mixture, each operation weighed by a gate, or as one architecture alone, which then computes exactly what
its own network with the same weights would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.graph import Node
from supernet.network import build_node
from supernet.operations import JOINS, layers, operation
from supernet.settings import InputError
from supernet.supergraph import Active, Edge, SuperGraph


@dataclass(frozen=True)
class Gates:
    """What the outputs of operations are multiplied by.

    Attributes:
        options: of each group the factor of each option, (options,).
        strengths: of each group the factor of its whole mixed operation, no dimension; None is 1 everywhere.
    """

    options: Sequence[Tensor]
    strengths: Sequence[Tensor] | None = None


class SharedNetwork(nn.Module):
    """Images (batch, channels, side, side) to scores (batch, classes).

    Args:
        graph: of the space.
        partial: mixed operations that keep the number of channels see the first of so many parts of the channels
            alone, the others pass by, and channels are shuffled (PC-DARTS, Xu et al. 2020): less memory and time, and
            less advantage for operations without weights. Those that change the number are whole. 1: all channels.
        searching: as relaxations are searched: batch norms of mixed operations have no scale and shift, and pools of
            some spaces one of their own, so that gates alone weigh operations. Not what single architectures are.

    Raises:
        InputError: channels of a mixed operation that ``partial`` does not divide, or of which it leaves a factorized
            reduce fewer than two.
    """

    def __init__(self, graph: SuperGraph, partial: int = 1, searching: bool = False) -> None:
        super().__init__()
        self.graph, self.partial, self.searching = graph, partial, searching
        self._last_use: dict[int, int] = {}
        for position, step in enumerate(graph.steps):
            for source in (*step.feeds, *(edge.source for edge in step.edges)):
                self._last_use[source] = position
            if step.edges:
                for edge in step.edges:
                    self.add_module(edge_name(position, edge), _MixedEdge(edge, partial, searching, graph.pool_norms))
            elif step.node.op not in (*JOINS, "input"):
                self.add_module(step.node.name, build_node(step.node))

    def forward(self, images: Tensor, active: Active, gates: Gates | None = None) -> Tensor:
        """Scores, with the active options of each group; a group without one is left out.

        Args:
            gates: None adds the active options as they are, as a single architecture does.
        """
        values: dict[int, Tensor] = {0: images}
        for position, step in enumerate(self.graph.steps):
            if step.edges:
                terms = [
                    self._mixed(position, edge, values[edge.source], active[edge.group], gates)
                    for edge in step.edges
                    if active[edge.group]
                ]
                known = [term for term in terms if term is not None]
                values[position] = sum(known[1:], known[0]) if known else _zeros(step.node, images)
            elif step.node.op == "sum":
                first, *more = (values[feed] for feed in step.feeds)
                values[position] = sum(more, first)
            elif step.node.op == "concat":
                values[position] = torch.cat([values[feed] for feed in step.feeds], dim=1)
            elif position:
                values[position] = self.get_submodule(step.node.name)(values[step.feeds[0]])
            for feed in (*step.feeds, *(edge.source for edge in step.edges)):
                if self._last_use[feed] == position:
                    values.pop(feed, None)
        return values[len(self.graph.steps) - 1]

    def _mixed(self, position: int, edge: Edge, x: Tensor, on: tuple[int, ...], gates: Gates | None) -> Tensor | None:
        module = self.get_submodule(edge_name(position, edge))
        assert isinstance(module, _MixedEdge)
        factors = None if gates is None else gates.options[edge.group]
        strength = None if gates is None or gates.strengths is None else gates.strengths[edge.group]
        result = module.run(x, on, factors)
        return result if result is None or strength is None else result * strength

    def own_state(self, active: Active) -> dict[str, Tensor]:
        """Weights of the architecture with these options, by the names that its own network gives them.

        Raises InputError for a network made to be searched as a mixture, whose layers are others.
        """
        if self.searching or self.partial != 1:
            raise InputError("shared network: one made for a mixture holds no weights of single architectures")
        state: dict[str, Tensor] = {}
        for position, step in enumerate(self.graph.steps):
            for edge in step.edges:
                module = self.get_submodule(edge_name(position, edge))
                assert isinstance(module, _MixedEdge)
                for option in active[edge.group]:
                    _prefixed(state, edge.options[option].name, module.options[option].state_dict())
            if not step.edges and step.node.op not in (*JOINS, "input"):
                _prefixed(state, step.node.name, self.get_submodule(step.node.name).state_dict())
        return state


def build_shared(graph: SuperGraph, seed: int | None = None) -> SharedNetwork:
    """The shared network of single architectures, initial weights drawn from ``seed`` where one is given."""
    if seed is None:
        return SharedNetwork(graph)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SharedNetwork(graph)


def edge_name(position: int, edge: Edge) -> str:
    """What a mixed operation is called in the shared network's state."""
    return f"mixed{position}_of{edge.source}"


def _prefixed(state: dict[str, Tensor], name: str, own: Mapping[str, Tensor]) -> None:
    state.update({f"{name}.{key}": tensor for key, tensor in own.items()})


def _zeros(node: Node, images: Tensor) -> Tensor:
    side = node.integer("resolution")
    zeros = images.new_zeros(len(images), node.integer("out"), side, side)
    return zeros.contiguous(memory_format=torch.channels_last)


class _MixedEdge(nn.Module):
    """The options of one edge."""

    def __init__(self, edge: Edge, partial: int, searching: bool, pool_norms: bool) -> None:
        super().__init__()
        first = edge.options[0]
        channels = {(node.get("in", node.get("out")), node.get("out")) for node in edge.options}
        keeps = all(before == after for before, after in channels)
        self._parts = partial if keeps else 1
        self._halves = any(node.get("stride", 1) == 2 for node in edge.options)
        wide = first.integer("out")
        if wide % self._parts:
            raise InputError(
                f"partial channels: {partial} parts of {wide} channels ({first.name}); expected a divisor of {wide}"
            )
        shifted = any(layer.kind == "shifted_conv" for node in edge.options for layer in layers(node))
        if shifted and wide // self._parts < 2:
            raise InputError(
                f"partial channels: {partial} parts of {wide} channels ({first.name}) leave a skip of stride 2 one; "
                f"expected at most {wide // 2} parts"
            )
        self._dead = tuple(node.op == "zero" for node in edge.options)
        nodes = [node if self._parts == 1 else _part(node, self._parts) for node in edge.options]
        self.options = nn.ModuleList([build_node(node) for node in nodes])
        if searching:
            for node, chain in zip(nodes, self.options, strict=True):
                assert isinstance(chain, nn.Sequential)
                _for_mixing(node, chain, pool_norms)

    def run(self, x: Tensor, on: tuple[int, ...], factors: Tensor | None) -> Tensor | None:
        """The sum of the options that are on, each times its factor; None where all are zeros and nothing passes by."""
        part, rest = x, None
        if self._parts > 1:
            size = x.shape[1] // self._parts
            part, rest = x[:, :size], x[:, size:]
        total: Tensor | None = None
        for option in on:
            if self._dead[option]:
                continue
            term = self.options[option](part)
            if factors is not None:
                term = term * factors[option]
            total = term if total is None else total + term
        if rest is None:
            return total
        if self._halves:
            rest = F.max_pool2d(rest, 2, 2, ceil_mode=True)
        if total is None:
            total = rest.new_zeros(len(x), part.shape[1], *rest.shape[2:])
        return _shuffled(torch.cat([total, rest], dim=1), self._parts)


def _part(node: Node, parts: int) -> Node:
    """The same operation on one of so many parts of the channels."""
    attributes = {name: value for name, value in node.attributes if name not in ("macs", "params")}
    for name in ("in", "out"):
        if name in attributes:
            attributes[name] = attributes[name] / parts
    return operation(node.op, node.name, **attributes)


def _for_mixing(node: Node, chain: nn.Sequential, pool_norms: bool) -> None:
    """Norms without scale and shift: an operation's size must be told by its gate alone."""
    for module in chain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.requires_grad_(False)
            module.bias.requires_grad_(False)
    if pool_norms and any("pool" in layer.kind for layer in layers(node)):
        norm = nn.BatchNorm2d(node.integer("out"))
        norm.weight.requires_grad_(False)
        norm.bias.requires_grad_(False)
        chain.append(norm)


def _shuffled(x: Tensor, parts: int) -> Tensor:
    """Channels dealt out in turn, so that the next operation sees others."""
    batch, channels, height, width = x.shape
    # Through channels_last, where channels are the innermost dimension: a copy of one tensor, not of two.
    innermost = x.permute(0, 2, 3, 1).reshape(batch, height, width, parts, channels // parts)
    return innermost.transpose(3, 4).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
