"""What training-free metrics are given: one untrained network with a batch, and what several of them share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet import ArchGraph, Node
from supernet.network import Network, build_network, node_names
from supernet.operations import CONVOLUTIONS, JOINS, layers

Value = TypeVar("Value")

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.CELU, nn.Hardswish)
"""Layers whose output is about zero or their input, by the sign of the input."""

_NOISE_IMAGES = 64


class Probe:
    """One network at initialisation, in training mode, and one batch.

    Attributes:
        graph: what the network was built from.
        images: normalised, (batch, channels, side, side), float32, channels last.
        labels: (batch,), int64.
        seed: of whatever a metric draws.
    """

    def __init__(
        self, graph: ArchGraph, images: Tensor, labels: Tensor, seed: int = 0, network: Network | None = None
    ) -> None:
        self.graph, self.labels, self.seed = graph, labels.clone(), seed  # clones may be tracked by autograd
        self.images = images.detach().float().clone(memory_format=torch.channels_last)
        self._given = network

    @cached_property
    def network(self) -> Network:
        """A network of the probe's own: what is done to it, nobody else sees. Raises InputError as building does."""
        network = build_network(self.graph, self.seed) if self._given is None else copy.deepcopy(self._given)
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        network.to(device=self.images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network.train()

    @cached_property
    def weight_gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Weights of convolutions and linear layers, each with the gradient of the batch's mean cross entropy."""
        weights = weights_of(self.network)
        loss = F.cross_entropy(self.network(self.images), self.labels)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        return [
            (weight.detach(), torch.zeros_like(weight) if gradient is None else gradient)
            for weight, gradient in zip(weights, gradients, strict=True)
        ]

    @cached_property
    def block_outputs(self) -> list[Tensor]:
        """What each block gives for Gaussian noise, (64, channels, side, side), joined by one autograd graph.

        A block ends at each node that all paths through the network pass and that convolves or joins, up to where
        pictures end: a norm, an activation or a pool alone is no block. Convolutions and linear layers are drawn anew
        from He et al. 2015 (normal, fan-in), as AZ-NAS has it.
        """
        generator = torch.Generator().manual_seed(self.seed)
        network = copy.deepcopy(self.network)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                deviation = (2 / max(module.weight[0].numel(), 1)) ** 0.5
                drawn = torch.randn(module.weight.shape, generator=generator) * deviation
                with torch.no_grad():
                    module.weight.copy_(drawn)
                    if module.bias is not None:
                        module.bias.zero_()
        network.requires_grad_(False)
        noise = torch.randn(_NOISE_IMAGES, *self.images.shape[1:], generator=generator).to(self.images.device)
        noise = noise.contiguous(memory_format=torch.channels_last).requires_grad_()
        ends, outputs = {end for end in passages(self.graph) if _works(self.graph.nodes[end])}, {}

        def apply(position: int, module: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
            output = module(inputs[0])
            return keep(position, output)

        def join(position: int, op: str, inputs: Sequence[Tensor]) -> Tensor:
            return keep(position, torch.cat(list(inputs), dim=1) if op == "concat" else total(inputs))

        def keep(position: int, output: Tensor) -> Tensor:
            if position in ends and output.dim() == 4 and output.shape[2] * output.shape[3] > 1:
                outputs[position] = output
            return output

        walk(self.graph, network, noise, apply, join)
        return list(outputs.values())


def _works(node: Node) -> bool:
    """Whether a node convolves or joins."""
    return node.op in JOINS or any(layer.kind in CONVOLUTIONS for layer in layers(node))


def total(terms: Sequence[Tensor]) -> Tensor:
    """The sum of tensors, without touching one of them."""
    return terms[0] if len(terms) == 1 else torch.stack(list(terms)).sum(dim=0)


def weights_of(network: nn.Module) -> list[Tensor]:
    """The weights of convolutions and linear layers; no biases, no batch norms."""
    return [module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def passages(graph: ArchGraph) -> list[int]:
    """The nodes that every path from the input to the output passes, in order; the input is none of them."""
    order = graph.order()
    place = {position: rank for rank, position in enumerate(order)}
    reach, found = 0, []
    followers: list[list[int]] = [[] for _ in graph.nodes]
    for start, end in graph.edges:
        followers[start].append(place[end])
    for rank, position in enumerate(order):
        if reach <= rank and graph.nodes[position].op != "input":  # no edge leads past it
            found.append(position)
        reach = max([reach, *followers[position]])
    return found


def walk(
    graph: ArchGraph,
    network: Network,
    start: Value,
    apply: Callable[[int, nn.Module, Sequence[Value]], Value],
    join: Callable[[int, str, Sequence[Value]], Value],
) -> Value:
    """What the last node gives, with other values than tensors or more done at each node than :class:`Network` does.

    Args:
        apply: position of a node, its module, its one input: what it gives.
        join: position, ``sum`` or ``concat``, inputs: what they give.
    """
    names, sources, order = node_names(graph), graph.predecessors(), graph.order()
    values: dict[int, Value] = {}
    last = {source: position for position in order for source in sources[position]}
    for position in order:
        op, inputs = graph.nodes[position].op, [values[source] for source in sources[position]]
        if op == "input":
            values[position] = start
        elif op in JOINS:
            values[position] = join(position, op, inputs)
        else:
            values[position] = apply(position, network.get_submodule(names[position]), inputs)
        for source in sources[position]:
            if last[source] == position:
                del values[source]
    (output,) = values.values()
    return output
