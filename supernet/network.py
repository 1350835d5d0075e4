"""Any graph as a torch network: generic, one module for each node.

The keys of the state dict are NODE.POSITION.weight, with the node's name and the position of the
layer in its chain; :mod:`supernet.export` writes source with the same keys.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable

import torch
from torch import Tensor, nn

from supernet.graph import ArchGraph, Node
from supernet.modules import GhostBatchNorm, PadChannels, Scale, ShiftedConv, SqueezeExcite
from supernet.operations import JOINS, Layer, layers
from supernet.settings import InputError


def layer_call(layer: Layer) -> tuple[type[nn.Module], tuple[float | tuple[int, ...], ...], dict[str, object]]:
    """The class and arguments that make a layer: what the builder calls and what exported source says."""
    if layer.kind == "conv":
        options: dict[str, object] = {}
        if layer.stride != 1:
            options["stride"] = layer.stride
        if layer.kernel != 1:
            options["padding"] = layer.dilation * (layer.kernel - 1) // 2
        if layer.dilation != 1:
            options["dilation"] = layer.dilation
        if layer.groups != 1:
            options["groups"] = layer.groups
        options["bias"] = False
        return nn.Conv2d, (layer.in_channels, layer.out_channels, layer.kernel), options
    if layer.kind in ("row_conv", "column_conv"):
        order = 1 if layer.kind == "row_conv" else -1
        options = {"stride": (1, layer.stride)[::order]} if layer.stride != 1 else {}
        options |= {"padding": (0, layer.kernel // 2)[::order], "bias": False}
        return nn.Conv2d, (layer.in_channels, layer.out_channels, (1, layer.kernel)[::order]), options
    if layer.kind == "shifted_conv":
        return ShiftedConv, (layer.in_channels, layer.out_channels), {}
    if layer.kind == "batch_norm":
        if layer.value:
            return GhostBatchNorm, (layer.out_channels, int(layer.value)), {}
        return nn.BatchNorm2d, (layer.out_channels,), {}
    if layer.kind == "squeeze_excite":
        return SqueezeExcite, (layer.in_channels, layer.out_channels), {}
    if layer.kind == "pad_channels":
        return PadChannels, (layer.out_channels,), {}
    if layer.kind == "hard_swish":
        return nn.Hardswish, (), {}
    if layer.kind == "relu":
        return nn.ReLU, (), {}
    if layer.kind == "relu6":
        return nn.ReLU6, (), {}
    if layer.kind == "celu":
        return nn.CELU, (layer.value,), {}
    if layer.kind == "scale":
        return Scale, (layer.value,), {}
    if layer.kind == "subsample":
        return nn.MaxPool2d, (1,), {"stride": layer.stride}
    if layer.kind == "resize":
        return nn.AdaptiveAvgPool2d, (int(layer.value),), {}
    if layer.kind == "max_pool_same":
        return nn.MaxPool2d, (layer.kernel,), {"stride": layer.stride, "padding": layer.kernel // 2}
    if layer.kind == "avg_pool_same":
        edges = {"padding": layer.kernel // 2, "count_include_pad": False}
        return nn.AvgPool2d, (layer.kernel,), {"stride": layer.stride, **edges}
    if layer.kind == "max_pool":
        return nn.MaxPool2d, (layer.kernel,), {}
    if layer.kind == "avg_pool":
        return nn.AvgPool2d, (layer.kernel,), {}
    if layer.kind == "global_mean":
        return nn.AdaptiveAvgPool2d, (1,), {}
    if layer.kind == "flatten":
        return nn.Flatten, (), {}
    return nn.Linear, (layer.in_channels, layer.out_channels), {} if layer.bias else {"bias": False}


def build_node(node: Node) -> nn.Sequential:
    """The layers of a node, with PyTorch's default initialisation."""
    modules = []
    for layer in layers(node):
        kind, arguments, options = layer_call(layer)
        modules.append(kind(*arguments, **options))
    return nn.Sequential(*modules)


def node_names(graph: ArchGraph) -> list[str]:
    """A distinct Python identifier for each node: its own name, or operation and position."""
    names: list[str] = []
    for position, node in enumerate(graph.nodes):
        usable = node.name.isidentifier() and not keyword.iskeyword(node.name) and node.name not in names
        name = node.name if usable else f"{node.op}_{position}"
        while name in names:  # another node is called so by hand
            name += "_"
        names.append(name)
    return names


class Network(nn.Module):
    """The network of a graph: images (batch, channels, side, side) to what its last node gives.

    Attributes:
        total: how the inputs of a sum are added.
        branch: what the terms of a sum go through first, in the order of the steps; None is nothing. Not those that
            hold nothing to calculate, nor shortcuts, which are read elsewhere too.
        branches: how many terms that are.
        tap: is called with what the node marked by the attribute ``auxiliary`` gives.
        marked: that node; None where there is none.
        output: the last node.

    Raises:
        InputError: an operation that cannot be built, a graph without one input and one output, two marked nodes.
    """

    def __init__(self, graph: ArchGraph) -> None:
        super().__init__()
        inputs = [position for position, node in enumerate(graph.nodes) if node.op == "input"]
        outputs = set(range(len(graph.nodes))) - {start for start, _ in graph.edges}
        if len(inputs) != 1 or len(outputs) != 1:
            raise InputError(f"network: expected one input and one output, got {len(inputs)} and {len(outputs)}")
        names, sources = node_names(graph), graph.predecessors()
        self._steps: list[tuple[str, str, list[str]]] = []
        for position in graph.order():
            node = graph.nodes[position]
            feeds = [names[source] for source in sources[position]]
            if node.op == "input":
                continue
            if len(feeds) != 1 and node.op not in JOINS:
                raise InputError(f"network: node {names[position]!r} ({node.op}) has {len(feeds)} inputs; expected 1")
            if node.op not in JOINS:
                self.add_module(names[position], build_node(node))
            self._steps.append((names[position], node.op, feeds))
        self.output = graph.nodes[max(outputs)]
        self._input, self._output = names[inputs[0]], names[max(outputs)]
        marked = [position for position, node in enumerate(graph.nodes) if node.get("auxiliary")]
        if len(marked) > 1:
            raise InputError(f"network: {len(marked)} nodes have the attribute 'auxiliary'; expected at most one")
        self.marked = graph.nodes[marked[0]] if marked else None
        self._marked = names[marked[0]] if marked else ""
        self._branches = _branches(graph, names)
        self.branches = len(self._branches)
        self.total: Callable[[list[Tensor]], Tensor] = _total
        self.branch: Callable[[Tensor], Tensor] | None = None
        self.tap: Callable[[Tensor], object] | None = None
        self._last_use = {feed: name for name, _, feeds in self._steps for feed in feeds}

    @property
    def operations(self) -> dict[str, str]:
        """The operation of each node by its name, in topological order, without the input."""
        return {name: op for name, op, _ in self._steps}

    def forward(self, images: Tensor) -> Tensor:
        values = {self._input: images}
        for name, op, feeds in self._steps:
            if op == "sum":
                terms = [values[feed] for feed in feeds]
                if self.branch is not None:
                    own = self._branches
                    terms = [
                        self.branch(term) if feed in own else term for feed, term in zip(feeds, terms, strict=True)
                    ]
                values[name] = self.total(terms)
            elif op == "concat":
                values[name] = torch.cat([values[feed] for feed in feeds], dim=1)
            else:
                values[name] = self.get_submodule(name)(values[feeds[0]])
            if self.tap is not None and name == self._marked:
                self.tap(values[name])
            for feed in feeds:  # in evaluation nothing else keeps a tensor alive
                if self._last_use[feed] == name:
                    values.pop(feed, None)
        return values[self._output]


def _branches(graph: ArchGraph, names: list[str]) -> set[str]:
    """The nodes that calculate something for one sum alone."""
    readers: dict[int, list[int]] = {}
    for start, end in graph.edges:
        readers.setdefault(start, []).append(end)
    return {
        names[start]
        for start, (first, *more) in readers.items()
        if not more and graph.nodes[first].op == "sum" and layers(graph.nodes[start])
    }


def _total(terms: list[Tensor]) -> Tensor:
    """The sum, without touching a term that is also read elsewhere."""
    if len(terms) == 1:
        return terms[0]
    total = terms[0] + terms[1]
    for term in terms[2:]:
        total = total + term
    return total


def build_network(graph: ArchGraph, seed: int | None = None) -> Network:
    """The network with PyTorch's default initialisation, drawn from ``seed`` where one is given."""
    if seed is None:
        return Network(graph)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(graph)
