"""What each operation is made of: one description, read by costs, networks and exported code.

An operation is a chain of primitive layers (:class:`Layer`). To add one, write a function from a
node to its layers and enter it in :data:`OPERATIONS`; it then has costs, a torch module and
exported source for nothing. A stride belongs to the first convolution or pool of the chain.
``sum`` and ``concat`` join several inputs; every other operation takes one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from supernet.graph import ArchGraph, Node
from supernet.settings import InputError, nearest

LayerKind = Literal[
    "conv", "shifted_conv", "batch_norm", "relu", "relu6", "celu", "scale", "max_pool", "avg_pool", "global_mean",
    "flatten", "linear",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layer:
    """A primitive layer. Channels, kernel, stride, dilation and groups as in a convolution.

    ``shifted_conv`` is the factorized reduce of DARTS: two 1x1 convolutions with stride 2, one on
    the picture and one on the picture shifted by a pixel, each giving half of the output channels.
    A pool's stride is its kernel, and an incomplete window at the far edge is left out. ``bias`` is of
    linear layers; convolutions have none. ``value`` is the one number of the layers that need one: images
    in a ghost group of a batch norm (0: the whole batch), alpha of a CELU, factor of a scale.
    """

    kind: LayerKind
    in_channels: int = 0
    out_channels: int = 0
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    value: float = 0.0


class Costs(NamedTuple):
    """Exact costs of one image's forward pass; lower is cheaper.

    Attributes:
        macs: multiply-accumulates of convolutions and linear weights (one MAC is two FLOPs).
        conv_macs: those of the convolutions alone, the convention of many published tables.
        params: trainable weights, biases included.
        activations: output elements of convolutions and linear layers (Radosavovic et al. 2020).
    """

    macs: int
    conv_macs: int
    params: int
    activations: int


COST_NAMES = Costs._fields

JOINS = ("sum", "concat")
"""Operations that join several inputs and hold no weights."""


def _conv(cin: int, cout: int, kernel: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1) -> Layer:
    return Layer("conv", cin, cout, kernel, stride, dilation, groups)


def _batch_norm(channels: int) -> Layer:
    return Layer("batch_norm", channels, channels)


def _conv_bn_relu6(node: Node) -> tuple[Layer, ...]:
    cin, cout = node.integer("in"), node.integer("out")
    conv = _conv(cin, cout, node.integer("kernel"), node.integer("stride"))
    return (conv, _batch_norm(cout), Layer("relu6"))


def _skip(node: Node) -> tuple[Layer, ...]:
    """Identity, 1x1 convolution, or factorized reduce: whatever the shapes need."""
    cin, cout, stride = node.integer("in"), node.integer("out"), node.integer("stride")
    if stride == 2:
        return (Layer("relu"), Layer("shifted_conv", cin, cout, 1, 2), _batch_norm(cout))
    return () if cin == cout else (_conv(cin, cout),)


def _sep_conv(node: Node) -> tuple[Layer, ...]:
    """Depthwise separable convolution, applied twice."""
    cin, cout = node.integer("in"), node.integer("out")
    kernel, stride = node.integer("kernel"), node.integer("stride")
    return (
        Layer("relu"),
        _conv(cin, cin, kernel, stride, groups=cin),
        _conv(cin, cin),
        _batch_norm(cin),
        Layer("relu"),
        _conv(cin, cin, kernel, groups=cin),
        _conv(cin, cout),
        _batch_norm(cout),
    )


def _dil_conv(node: Node) -> tuple[Layer, ...]:
    """Depthwise separable convolution with holes."""
    cin, cout = node.integer("in"), node.integer("out")
    depthwise = _conv(cin, cin, node.integer("kernel"), node.integer("stride"), node.integer("dilation"), cin)
    return (Layer("relu"), depthwise, _conv(cin, cout), _batch_norm(cout))


def _global_mean(node: Node) -> tuple[Layer, ...]:
    return (Layer("global_mean"), Layer("flatten"))


def _linear(node: Node) -> tuple[Layer, ...]:
    """With a bias, but for ``bias`` 0."""
    return (Layer("linear", node.integer("in"), node.integer("out"), bias=bool(node.get("bias", 1))),)


def _plain_conv(node: Node) -> tuple[Layer, ...]:
    """A convolution and nothing else."""
    return (_conv(node.integer("in"), node.integer("out"), node.integer("kernel"), node.integer("stride")),)


def _norm(node: Node) -> tuple[Layer, ...]:
    """Batch norm, of groups of ``ghost`` images where that is not 0."""
    channels = node.integer("out")
    return (Layer("batch_norm", channels, channels, value=node.get("ghost")),)


def _global_max(node: Node) -> tuple[Layer, ...]:
    """The largest value of each channel; ``kernel`` is the side that is left."""
    return (Layer("max_pool", kernel=node.integer("kernel")), Layer("flatten"))


def _nothing(node: Node) -> tuple[Layer, ...]:
    return ()


OPERATIONS: dict[str, Callable[[Node], tuple[Layer, ...]]] = {
    "input": _nothing,
    "conv_bn_relu6": _conv_bn_relu6,
    "skip": _skip,
    "sep_conv": _sep_conv,
    "dil_conv": _dil_conv,
    "sum": _nothing,
    "concat": _nothing,
    "global_mean": _global_mean,
    "linear": _linear,
    "conv": _plain_conv,
    "batch_norm": _norm,
    "relu": lambda node: (Layer("relu"),),
    "celu": lambda node: (Layer("celu", value=node.get("alpha", 1.0)),),
    "max_pool": lambda node: (Layer("max_pool", kernel=node.integer("kernel")),),
    "avg_pool": lambda node: (Layer("avg_pool", kernel=node.integer("kernel")),),
    "global_max": _global_max,
    "scale": lambda node: (Layer("scale", value=node.get("factor", 1.0)),),
}


def layers(node: Node) -> tuple[Layer, ...]:
    """The chain of primitive layers of a node. Raises InputError for an operation we cannot build."""
    if node.op not in OPERATIONS:
        raise InputError(f"operation {node.op!r} cannot be built; {nearest(node.op, OPERATIONS)}")
    return OPERATIONS[node.op](node)


@lru_cache(maxsize=65536)
def node_costs(node: Node) -> Costs:
    """Exact costs of one node, in plain arithmetic."""
    conv_macs = linear_macs = params = activations = 0
    for layer in layers(node):
        if layer.kind in ("conv", "shifted_conv"):
            weights = layer.out_channels * (layer.in_channels // layer.groups) * layer.kernel**2
            pixels = node.integer("resolution") ** 2
            conv_macs += weights * pixels
            activations += layer.out_channels * pixels
            params += weights
        elif layer.kind == "linear":
            linear_macs += layer.in_channels * layer.out_channels
            activations += layer.out_channels
            params += (layer.in_channels + layer.bias) * layer.out_channels
        elif layer.kind == "batch_norm":
            params += 2 * layer.out_channels
    return Costs(conv_macs + linear_macs, conv_macs, params, activations)


def graph_costs(graph: ArchGraph) -> Costs:
    """Exact costs of a whole network: the sum over its nodes."""
    return Costs(*(sum(column) for column in zip(*(node_costs(node) for node in graph.nodes), strict=True)))


def operation(op: str, name: str = "", **attributes: float) -> Node:
    """A node that can be built, with its ``macs`` and ``params`` filled in.

    ``in_`` stands for the attribute ``in``, which is a keyword of Python.
    """
    plain = tuple((key.rstrip("_"), value) for key, value in attributes.items())
    costs = node_costs(Node(op, plain))
    return Node(op, (*plain, ("macs", costs.macs), ("params", costs.params)), name)
