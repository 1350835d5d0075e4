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
    "conv", "row_conv", "column_conv", "shifted_conv", "subsample", "batch_norm", "relu", "relu6", "hard_swish", "celu",
    "scale", "max_pool", "avg_pool", "max_pool_same", "avg_pool_same", "resize", "squeeze_excite", "pad_channels",
    "global_mean", "flatten", "linear",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layer:
    """A primitive layer. Channels, kernel, stride, dilation and groups as in a convolution.

    ``shifted_conv`` is the factorized reduce of DARTS: two 1x1 convolutions with stride 2, one on
    the picture and one on the picture shifted by a pixel, each giving half of the output channels.
    ``row_conv`` and ``column_conv`` reach and stride along a row (1 x kernel) or a column (kernel x 1) alone.
    ``subsample`` takes every second row and column. A pool's stride is its kernel, and an incomplete window
    at the far edge is left out; a ``_same`` pool has a stride of its own, and what lies beyond the edge counts
    for nothing. ``squeeze_excite`` weighs the channels by what a bottleneck of ``out_channels`` makes of their
    means (Hu et al. 2018). ``pad_channels`` adds channels of zeros. ``bias`` is of linear layers; convolutions
    have none, but for those of ``squeeze_excite``. ``value`` is the one number of the layers that need one:
    images in a ghost group of a batch norm (0: the whole batch), alpha of a CELU, factor of a scale, side of a
    resize.
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

CONVOLUTIONS = ("conv", "row_conv", "column_conv", "shifted_conv")
"""Kinds of layers that convolve."""


def _conv(cin: int, cout: int, kernel: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1) -> Layer:
    return Layer("conv", cin, cout, kernel, stride, dilation, groups)


def _batch_norm(channels: int) -> Layer:
    return Layer("batch_norm", channels, channels)


def _convolution(node: Node) -> tuple[Layer, ...]:
    """The convolution that a node's attributes say."""
    cin, cout, kernel, stride = (node.integer(name) for name in ("in", "out", "kernel", "stride"))
    if kernel == 1 and stride == 2:
        # oneDNN's own strided 1x1 kernel writes past its buffer where channels are few (its issue 6035).
        return (Layer("subsample", stride=2), _conv(cin, cout))
    return (_conv(cin, cout, kernel, stride),)


def _conv_bn(*activation: Layer) -> Callable[[Node], tuple[Layer, ...]]:
    """Convolution, batch norm, and an activation where one is given."""
    return lambda node: (*_convolution(node), _batch_norm(node.integer("out")), *activation)


def _relu_conv_bn(node: Node) -> tuple[Layer, ...]:
    return (Layer("relu"), *_convolution(node), _batch_norm(node.integer("out")))


def _bn_relu(node: Node) -> tuple[Layer, ...]:
    return (_batch_norm(node.integer("out")), Layer("relu"))


def _pool(kind: LayerKind) -> Callable[[Node], tuple[Layer, ...]]:
    """A pool whose stride is its own, and that leaves an odd row or column in."""
    return lambda node: (Layer(kind, kernel=node.integer("kernel"), stride=node.integer("stride")),)


def squeezed(channels: int) -> int:
    """The bottleneck of squeeze-excitation: a quarter of the channels, the nearest multiple of 8, at least 8."""
    return max(8, (channels // 4 + 4) // 8 * 8)


def _mbconv(node: Node) -> tuple[Layer, ...]:
    """Inverted residual without its shortcut (Sandler et al. 2018): widen, depthwise, squeeze-excitation, narrow.

    ``expansion`` 1 widens nothing; ``se`` 1 has squeeze-excitation, ``hswish`` 1 hard swish in place of ReLU
    (Howard et al. 2019). ``input_resolution`` is the side of its input, where the stride is not 1.
    """
    cin, cout = node.integer("in"), node.integer("out")
    wide = cin * node.integer("expansion")
    activation = Layer("hard_swish") if node.get("hswish") else Layer("relu")
    first = () if wide == cin else (_conv(cin, wide), _batch_norm(wide), activation)
    excite = (Layer("squeeze_excite", wide, squeezed(wide)),) if node.get("se") else ()
    depthwise = _conv(wide, wide, node.integer("kernel"), node.integer("stride"), groups=wide)
    return (*first, depthwise, _batch_norm(wide), activation, *excite, _conv(wide, cout), _batch_norm(cout))


def _res_branch(node: Node) -> tuple[Layer, ...]:
    """What a residual block adds to its input: two convolutions, ReLU between them."""
    cin, cout, kernel = node.integer("in"), node.integer("out"), node.integer("kernel")
    return (
        _conv(cin, cout, kernel), _batch_norm(cout), Layer("relu"), _conv(cout, cout, kernel), _batch_norm(cout),
    )  # fmt: skip


def _dense_layer(node: Node) -> tuple[Layer, ...]:
    """What a layer of a dense block adds to the channels before it (Huang et al. 2017)."""
    cin, growth = node.integer("in"), node.integer("out")
    return (
        _batch_norm(cin), Layer("relu"), _conv(cin, 4 * growth),
        _batch_norm(4 * growth), Layer("relu"), _conv(4 * growth, growth, node.integer("kernel")),
    )  # fmt: skip


def _transition(node: Node) -> tuple[Layer, ...]:
    """Between dense blocks: fewer channels, half the side. ``input_resolution`` is the side of its input."""
    cin, cout = node.integer("in"), node.integer("out")
    return (_batch_norm(cin), Layer("relu"), _conv(cin, cout), Layer("avg_pool", kernel=2))


def _skip(node: Node) -> tuple[Layer, ...]:
    """Identity, 1x1 convolution, or factorized reduce: whatever the shapes need."""
    cin, cout, stride = node.integer("in"), node.integer("out"), node.integer("stride")
    if stride == 2:
        return (Layer("relu"), Layer("shifted_conv", cin, cout, 1, 2), _batch_norm(cout))
    return () if cin == cout else (_conv(cin, cout),)


def _shortcut(node: Node) -> tuple[Layer, ...]:
    """Identity, or 1x1 convolution and norm where the shape changes (He et al. 2016)."""
    cin, cout, stride = node.integer("in"), node.integer("out"), node.integer("stride")
    return () if stride == 1 and cin == cout else (*_convolution(node), _batch_norm(cout))


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


def _cross_conv(node: Node) -> tuple[Layer, ...]:
    """A convolution along the rows, one along the columns, and a norm (``conv_7x1_1x7`` of NASNet, Zoph et al. 2018).

    ``input_resolution`` is the side of its input, where the stride is not 1.
    """
    cin, cout, kernel, stride = (node.integer(name) for name in ("in", "out", "kernel", "stride"))
    rows = Layer("row_conv", cin, cout, kernel, stride)
    return (Layer("relu"), rows, Layer("column_conv", cout, cout, kernel, stride), _batch_norm(cout))


def _global_mean(node: Node) -> tuple[Layer, ...]:
    return (Layer("global_mean"), Layer("flatten"))


def _linear(node: Node) -> tuple[Layer, ...]:
    """With a bias, but for ``bias`` 0."""
    return (Layer("linear", node.integer("in"), node.integer("out"), bias=bool(node.get("bias", 1))),)


def _plain_conv(node: Node) -> tuple[Layer, ...]:
    """A convolution and nothing else."""
    return _convolution(node)


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
    "conv_bn_relu6": _conv_bn(Layer("relu6")),
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
    "conv_bn": _conv_bn(),
    "conv_bn_relu": _conv_bn(Layer("relu")),
    "conv_bn_hswish": _conv_bn(Layer("hard_swish")),
    "relu_conv_bn": _relu_conv_bn,
    "bn_relu": _bn_relu,
    "mbconv": _mbconv,
    "res_branch": _res_branch,
    "dense_layer": _dense_layer,
    "transition": _transition,
    "shortcut": _shortcut,
    "zero": lambda node: (Layer("scale", value=0.0),),
    "max_pool_same": _pool("max_pool_same"),
    "avg_pool_same": _pool("avg_pool_same"),
    "resize": lambda node: (Layer("resize", value=node.integer("resolution")),),
    "pad_channels": lambda node: (Layer("pad_channels", node.integer("in"), node.integer("out")),),
    "cross_conv": _cross_conv,
}


def layers(node: Node) -> tuple[Layer, ...]:
    """The chain of primitive layers of a node. Raises InputError for an operation we cannot build."""
    if node.op not in OPERATIONS:
        raise InputError(f"operation {node.op!r} cannot be built; {nearest(node.op, OPERATIONS)}")
    return OPERATIONS[node.op](node)


_HALVES = ("max_pool", "avg_pool", "resize")


@lru_cache(maxsize=65536)
def node_costs(node: Node) -> Costs:
    """Exact costs of one node, in plain arithmetic.

    What comes before the layer that has the stride works on the side ``input_resolution``, the others on
    ``resolution``. Raises InputError where a convolution comes before it and ``input_resolution`` is missing.
    """
    conv_macs = linear_macs = params = activations = 0
    chain = layers(node)
    strided = [index for index, layer in enumerate(chain) if layer.stride > 1 or layer.kind in _HALVES]
    for index, layer in enumerate(chain):
        if layer.kind in CONVOLUTIONS:
            before = bool(strided) and index < strided[0]
            taps = layer.kernel if layer.kind in ("row_conv", "column_conv") else layer.kernel**2
            weights = layer.out_channels * (layer.in_channels // layer.groups) * taps
            columns = node.integer("input_resolution" if before else "resolution")
            # A stride along the rows leaves as many rows as there were.
            whole = layer.kind == "row_conv" and layer.stride > 1
            pixels = columns * (node.integer("input_resolution") if whole else columns)
            conv_macs += weights * pixels
            activations += layer.out_channels * pixels
            params += weights
        elif layer.kind == "squeeze_excite":
            weights = 2 * layer.in_channels * layer.out_channels
            conv_macs += weights
            activations += layer.in_channels + layer.out_channels
            params += weights + layer.in_channels + layer.out_channels
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


@lru_cache(maxsize=65536)
def node_depth(node: Node) -> int:
    """Convolutions and linear layers of one node, which follow each other."""
    return sum(layer.kind in (*CONVOLUTIONS, "linear") for layer in layers(node))


def graph_depth(graph: ArchGraph) -> int:
    """Convolutions and linear layers on the longest path of a network."""
    depths = [0] * len(graph.nodes)
    before = graph.predecessors()
    for position in graph.order():
        ahead = max((depths[source] for source in before[position]), default=0)
        depths[position] = ahead + node_depth(graph.nodes[position])
    return max(depths)


def operation(op: str, name: str = "", **attributes: float) -> Node:
    """A node that can be built, with its ``macs`` and ``params`` filled in.

    ``in_`` stands for the attribute ``in``, which is a keyword of Python.
    """
    plain = tuple((key.rstrip("_"), value) for key, value in attributes.items())
    costs = node_costs(Node(op, plain))
    return Node(op, (*plain, ("macs", costs.macs), ("params", costs.params)), name)
