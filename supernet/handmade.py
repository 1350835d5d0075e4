"""The space ``handmade``: four well-known networks made by hand, each at 1,296 widths.

They are controls: what a search finds is worth its cost if it beats these at the same MACs
(:func:`closest_handmade`). VGG (Simonyan and Zisserman 2015), ResNet (He et al. 2016), DenseNet (Huang et al. 2017)
and MobileNetV2 (Sandler et al. 2018), in the forms for small pictures.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from supernet.builder import Builder, Value
from supernet.graph import ArchGraph
from supernet.operations import COST_NAMES, graph_costs
from supernet.settings import InputError, nearest
from supernet.space import Architecture, Choices, SearchSpace, check_cost

FAMILIES = ("vgg", "resnet", "densenet", "mobilenet")
"""The families, in the order of the first choice's options."""

_STEPS = 36
_WIDTHS = _STEPS**2

_LEAST_SIDE = 4
"""A picture is halved where at least so many pixels a side are left."""
_LARGEST_SIDE = 64
"""The stem halves until a picture has at most so many pixels a side."""

_SCALES = {"vgg": (2, 130), "resnet": (4, 144), "densenet": (3, 197), "mobilenet": (4, 114)}
"""The largest width is 2 to the first number, and the second is how many widths double it. The smallest has channels
of two almost everywhere; 1.0, the published width, is one of them."""

_VGG = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each stage: configuration D."""
_RESNET_CHANNELS = (16, 32, 64)
_RESNET_BLOCKS = 2
_GROWTH = 12
_DENSE_BLOCKS, _DENSE_LAYERS = 3, 4
_MOBILENET_STEM, _MOBILENET_HEAD = 32, 1280
_MOBILENET = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and first stride of each stage."""


def _scaled(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    """Whole channels, at least 2."""
    return tuple(max(2, round(count * width)) for count in channels)


def _growths(width: float) -> tuple[int, ...]:
    """Channels of the stem and growth of each dense layer, at least 1.

    The last layers are rounded up first, so that the total follows the width though a growth is a small number.
    """
    layers, growth = _DENSE_BLOCKS * _DENSE_LAYERS, _GROWTH * width
    grown = (max(1, int(growth + (layer + 0.5) / layers)) for layer in range(layers))
    return (*_scaled((2 * _GROWTH,), width), *grown)


_CHANNELS: dict[str, Callable[[float], tuple[int, ...]]] = {
    "vgg": lambda width: _scaled(tuple(channels for channels, _ in _VGG), width),
    "resnet": lambda width: _scaled(_RESNET_CHANNELS, width),
    "densenet": _growths,
    "mobilenet": lambda width: _scaled((_MOBILENET_STEM, *(stage[1] for stage in _MOBILENET), _MOBILENET_HEAD), width),
}
"""What of a network depends on its width."""


def _width(family: str, index: int) -> float:
    """What the published channels are multiplied by."""
    octave, steps = _SCALES[family]
    return float(2 ** (octave - (_WIDTHS - 1 - index) / steps))


@lru_cache(maxsize=1)
def _representatives() -> NDArray[np.intp]:
    """For each family and width the smallest width with the same channels, shape (families, widths)."""
    rows = []
    for family in FAMILIES:
        first: dict[tuple[int, ...], int] = {}
        rows.append([first.setdefault(_CHANNELS[family](_width(family, index)), index) for index in range(_WIDTHS)])
    return np.asarray(rows, np.intp)


class HandMade(SearchSpace):
    """Settings and space in one. The choices are the family, and a width in coarse and in fine steps.

    Width 36 * coarse + fine is on a geometric scale. Channels are rounded to whole numbers, at least 2 (a growth: at
    least 1), so that a number of MACs can be met closely; different widths may be the same network. All end in the
    mean over the picture and a linear layer. A halving is left out where it would leave fewer than 4 pixels a side,
    and stems halve larger pictures, by a stride and then by pools, until they have at most 64.

    - ``vgg``: the 13 convolutions of configuration D, with norms, max pools between the stages.
    - ``resnet``: ResNet-14, three stages of two basic blocks, 16, 32 and 64 channels.
    - ``densenet``: three blocks of four bottleneck layers, growth 12, transitions to half of the channels.
    - ``mobilenet``: the inverted residuals of MobileNetV2, with ReLU for ReLU6 and a first stride of 1.
    """

    kind: Literal["handmade"] = "handmade"

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return (len(FAMILIES), _STEPS, _STEPS)

    def option_name(self, choice: int, option: int) -> str:
        return f"family {FAMILIES[option]}" if choice == 0 else f"{('coarse', 'fine')[choice - 1]} width {option}"

    def parse(self, text: str) -> Architecture:
        """A family and a multiple of its published channels, such as ``resnet x0.4321``: the nearest width there is."""
        family, _, width = text.strip().partition(" ")
        if family not in FAMILIES:
            raise InputError(
                f"architecture {text!r:.80}: family {family!r:.40} is unknown; {nearest(family, FAMILIES)}"
            )
        least, most = _width(family, 0), _width(family, _WIDTHS - 1)
        found = re.fullmatch(r"x([0-9]{1,9}(?:\.[0-9]{1,20})?)", width.strip())
        value = float(found[1]) if found else 0.0
        if not 0.999 * least <= value <= 1.001 * most:  # what format writes is rounded
            raise InputError(
                f"architecture {text!r:.80}: expected a width from x{least:.4g} to x{most:.4g}, such as "
                f"'{family} x1', got {width!r:.40}"
            )
        octave, steps = _SCALES[family]
        index = round(_WIDTHS - 1 - (octave - float(np.log2(value))) * steps)
        return _architecture(family, min(max(index, 0), _WIDTHS - 1))

    def format(self, architecture: Architecture) -> str:
        family, index = self._place(architecture)
        return f"{family} x{_width(family, index):.4g}"

    def _place(self, architecture: Architecture) -> tuple[str, int]:
        """The family and the width's index."""
        self.check(architecture)
        family, coarse, fine = architecture.choices
        return FAMILIES[family], coarse * _STEPS + fine

    def canonical(self, choices: Choices) -> Choices:
        family, coarse, fine = choices.astype(np.intp).T
        first = _representatives()[family, coarse * _STEPS + fine]
        return np.stack([family, first // _STEPS, first % _STEPS], axis=1).astype(np.int8)

    def costs(self, choices: Choices) -> dict[str, NDArray[np.int64]]:
        family, coarse, fine = self.canonical(choices).astype(np.intp).T
        places = family * _WIDTHS + coarse * _STEPS + fine
        for place in np.unique(places[self._known_costs[places, 0] < 0]).tolist():
            architecture = _architecture(FAMILIES[place // _WIDTHS], place % _WIDTHS)
            self._known_costs[place] = graph_costs(self.graph(architecture))
        values = self._known_costs[places]
        return {name: values[:, column] for column, name in enumerate(COST_NAMES)}

    @cached_property
    def _known_costs(self) -> NDArray[np.int64]:
        """Costs of each network, shape (families * widths, costs); -1 where nobody has asked yet."""
        return np.full((len(FAMILIES) * _WIDTHS, len(COST_NAMES)), -1, np.int64)

    def cheapest(self, cost: str) -> Architecture:
        """Exactly, as each family's costs rise with its width. Raises InputError for an unknown cost."""
        check_cost(cost)
        narrowest = np.zeros((len(FAMILIES), 3), np.int8)
        narrowest[:, 0] = range(len(FAMILIES))
        return _architecture(FAMILIES[int(self.costs(narrowest)[cost].argmin())], 0)

    def graph(self, architecture: Architecture) -> ArchGraph:
        family, index = self._place(architecture)
        builder = Builder()
        picture = builder.add("input", "input", (), self.input_channels, self.input_size)
        value = _NETWORKS[family](builder, picture, _CHANNELS[family](_width(family, index)))
        value = builder.add("global_mean", "mean", (value,), value.channels, 1)
        builder.add("linear", "classifier", (value,), self.classes, 1)
        return ArchGraph(tuple(builder.nodes), tuple(builder.edges))


def _architecture(family: str, index: int) -> Architecture:
    return Architecture("handmade", (FAMILIES.index(family), *divmod(index, _STEPS)))


def closest_handmade(space: HandMade, family: str, macs: int) -> tuple[Architecture, int]:
    """The network of a family whose MACs are nearest to ``macs``, the wider of two equally near ones, and its MACs.

    Raises InputError for an unknown family.
    """
    if family not in FAMILIES:
        raise InputError(f"family {family!r:.40} is unknown; {nearest(family, FAMILIES)}")

    def cost(index: int) -> int:
        return int(space.costs(_architecture(family, index).row())["macs"][0])

    above = min(bisect_left(range(_WIDTHS), macs, key=cost), _WIDTHS - 1)
    below = max(above - 1, 0)
    index = above if abs(cost(above) - macs) <= abs(cost(below) - macs) else below
    representative = int(_representatives()[FAMILIES.index(family), index])
    return _architecture(family, representative), cost(index)


def _stem(builder: Builder, value: Value, op: str, channels: int) -> Value:
    """A 3x3 convolution, and what brings the picture to at most 64 pixels a side: its stride, then pools."""
    stride = 2 if value.side > _LARGEST_SIDE else 1
    value = builder.add(op, "stem", (value,), channels, -(-value.side // stride), kernel=3, stride=stride)
    while value.side > _LARGEST_SIDE:
        value = builder.pool("max_pool", f"stem_pool{value.side}", value)
    return value


def _strided(side: int, stride: int) -> tuple[int, int]:
    """Stride and side of a convolution of so much stride, where enough is left of the picture."""
    half = -(-side // stride)
    return (stride, half) if half >= _LEAST_SIDE else (1, side)


def _vgg(builder: Builder, value: Value, channels: tuple[int, ...]) -> Value:
    for stage, (wide, (_, convolutions)) in enumerate(zip(channels, _VGG, strict=True), 1):
        if stage > 1 and value.side // 2 >= _LEAST_SIDE:
            value = builder.pool("max_pool", f"pool{stage - 1}", value)
        for number in range(1, convolutions + 1):
            if stage == number == 1:
                value = _stem(builder, value, "conv_bn_relu", wide)
            else:
                name = f"stage{stage}_conv{number}"
                value = builder.add("conv_bn_relu", name, (value,), wide, value.side, kernel=3, stride=1)
    return value


def _resnet(builder: Builder, value: Value, channels: tuple[int, ...]) -> Value:
    value = _stem(builder, value, "conv_bn_relu", channels[0])
    for stage, wide in enumerate(channels, 1):
        for number in range(1, _RESNET_BLOCKS + 1):
            name = f"stage{stage}_block{number}"
            stride, side = _strided(value.side, 2 if stage > 1 and number == 1 else 1)
            if stride == 1:
                branch = builder.add("res_branch", f"{name}_branch", (value,), wide, side, kernel=3)
            else:  # what res_branch is made of, with the stride that it has not
                branch = builder.add("conv_bn_relu", f"{name}_conv1", (value,), wide, side, kernel=3, stride=stride)
                branch = builder.add("conv_bn", f"{name}_conv2", (branch,), wide, side, kernel=3, stride=1)
            if (value.channels, value.side) != (wide, side):
                value = builder.add("shortcut", f"{name}_shortcut", (value,), wide, side, kernel=1, stride=stride)
            value = builder.add("sum", f"{name}_sum", (branch, value), wide, side)
            value = builder.add("relu", name, (value,), wide, side)
    return value


def _densenet(builder: Builder, value: Value, channels: tuple[int, ...]) -> Value:
    value = _stem(builder, value, "conv", channels[0])
    for layer, growth in enumerate(channels[1:]):
        block, number = layer // _DENSE_LAYERS + 1, layer % _DENSE_LAYERS + 1
        if block > 1 and number == 1:
            value = _transition(builder, f"transition{block - 1}", value)
        name = f"block{block}_layer{number}"
        new = builder.add("dense_layer", name, (value,), growth, value.side, kernel=3)
        value = builder.add("concat", f"{name}_concat", (value, new), value.channels + growth, value.side)
    return builder.add("bn_relu", "norm", (value,), value.channels, value.side)


def _transition(builder: Builder, name: str, value: Value) -> Value:
    channels, side = value.channels // 2, value.side
    if side // 2 >= _LEAST_SIDE:
        return builder.add("transition", name, (value,), channels, side // 2, input_resolution=side)
    value = builder.add("bn_relu", f"{name}_norm", (value,), value.channels, side)
    return builder.add("conv", name, (value,), channels, side, kernel=1, stride=1)


def _mobilenet(builder: Builder, value: Value, channels: tuple[int, ...]) -> Value:
    value = _stem(builder, value, "conv_bn_relu", channels[0])
    for stage, (wide, (expansion, _, blocks, first)) in enumerate(zip(channels[1:-1], _MOBILENET, strict=True), 1):
        for number in range(1, blocks + 1):
            name = f"stage{stage}_block{number}"
            stride, side = _strided(value.side, first if number == 1 else 1)
            branch = builder.add(
                "mbconv", name, (value,), wide, side,
                expansion=expansion, kernel=3, stride=stride, input_resolution=value.side,
            )  # fmt: skip
            same = (value.channels, value.side) == (wide, side)
            value = builder.add("sum", f"{name}_sum", (branch, value), wide, side) if same else branch
    return builder.add("conv_bn_relu", "head", (value,), channels[-1], value.side, kernel=1, stride=1)


_NETWORKS: dict[str, Callable[[Builder, Value, tuple[int, ...]], Value]] = {
    "vgg": _vgg,
    "resnet": _resnet,
    "densenet": _densenet,
    "mobilenet": _mobilenet,
}
