"""The space ``davidnet``: a stem, three stages that halve the side, a linear layer.

Its default architecture has the layers of the ResNet-9 of D. Page, "How to train your ResNet" (2018-2019), whose
last part trains it to 94 % on CIFAR-10 in ten epochs.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from itertools import product
from typing import Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator

from supernet.graph import ArchGraph, Node
from supernet.operations import COST_NAMES, graph_costs, operation
from supernet.settings import InputError, distinct, nearest
from supernet.space import Architecture, Choices, SearchSpace, check_cost

Pooling: TypeAlias = Literal["max", "average"]
Multiplier = Annotated[float, Field(gt=0, le=16)]

_CHANNELS = (128, 256, 512)
_PUBLISHED = ((1.0, 1, "max"), (1.0, 0, "max"), (1.0, 1, "max"))
_POOLS = {"max": "max_pool", "average": "avg_pool"}


@lru_cache(maxsize=1024)
def _edges(lengths: tuple[int, ...], residual: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """A chain of parts of so many nodes; a residual part ends in a sum of its fourth node and the one before it."""
    edges, start = [], 0
    for length, branches in zip(lengths, residual, strict=True):
        edges += [(position - 1, position) for position in range(max(start, 1), start + length)]
        if branches:
            edges.append((start + 3, start + length - 1))
        start += length
    return tuple(edges)


class DavidNet(SearchSpace):
    """Settings and space in one. The choices are width, residual and pooling of the first stage, then of the others.

    A stage is a 3x3 convolution, a pool that halves the side (an odd row or column at the far edge is left out), norm
    and activation, and where it has a residual the sum x + F(F(x)), F a 3x3 convolution with norm and activation. After
    the stages: the largest value of each channel, a linear layer without bias, the output scale.

    Attributes:
        input_size: side of the square picture in pixels; three poolings need at least 8.
        stem_channels: outputs of the stem.
        widths: what a stage may multiply its published channels by (128, 256 and 512 from first to last);
            rounded to multiples of 8, at least 8.
        residuals: whether a stage may go without a residual (0) and with one (1).
        poolings: how a stage may pool.
        activation: after each norm.
        celu_alpha: of a CELU; not looked at with "relu".
        ghost_images: images in a group of the batch norms (Hoffer et al. 2017); 0 is ordinary batch norm. 32 are 16
            groups of a batch of 512.
        pool_before_norm: convolution, pool, norm, activation; False: convolution, norm, activation, pool.
        whitening_stem: a 3x3 convolution from c to 9 c channels, meant to hold whitening filters, then a 1x1
            convolution, norm, activation; False: a 3x3 convolution, norm, activation.
        output_scale: what the scores are multiplied by.

    The defaults are the network of Page's last part; his first one had ReLU, ordinary norms before the pools, no
    whitening and an output scale of 0.125. The recipe ``davidnet`` holds the scales of the norms at 1, as he did.
    """

    kind: Literal["davidnet"] = "davidnet"
    input_size: Annotated[int, Field(le=1024)] = 32
    stem_channels: Annotated[int, Field(ge=1, le=65536)] = 64
    widths: Annotated[tuple[Multiplier, ...], Field(min_length=1, max_length=36)] = (0.25, 0.5, 0.75, 1.0, 1.25)
    residuals: Annotated[tuple[Literal[0, 1], ...], Field(min_length=1)] = (0, 1)
    poolings: Annotated[tuple[Pooling, ...], Field(min_length=1)] = ("max", "average")
    activation: Literal["relu", "celu"] = "celu"
    celu_alpha: Annotated[float, Field(gt=0, le=100)] = 0.3
    ghost_images: Annotated[int, Field(ge=0, le=65536)] = 32
    pool_before_norm: bool = True
    whitening_stem: bool = True
    output_scale: Annotated[float, Field(gt=0, le=1000)] = 0.0625

    @field_validator("input_size")
    @classmethod
    def _survives(cls, value: int) -> int:
        if value < 8:
            raise ValueError("three poolings halve the side; expected at least 8")
        return value

    @field_validator("ghost_images")
    @classmethod
    def _varies(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one image of one pixel has no variance; expected 0 or at least 2")
        return value

    _distinct = field_validator("residuals", "poolings", "widths")(distinct)

    @field_validator("widths")
    @classmethod
    def _distinct_channels(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        for channels in _CHANNELS:
            if len({_rounded(channels * width) for width in value}) != len(value):
                raise ValueError(f"two widths of {channels} channels are the same multiple of 8")
        return value

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return (len(self.widths), len(self.residuals), len(self.poolings)) * 3

    def narrower(self, factor: float) -> DavidNet:
        """The same architectures with all channels times a factor. Raises InputError where two widths become one."""
        narrow = {
            "widths": tuple(width * factor for width in self.widths),
            "stem_channels": max(1, round(self.stem_channels * factor)),
        }
        try:
            return DavidNet.model_validate({**self.model_dump(), **narrow})
        except ValidationError as error:
            raise InputError(f"davidnet: at {factor:g} of its width two options of a stage become the same") from error

    @property
    def default(self) -> Architecture:
        """The published layers; of each option that the settings leave out, the nearest that they have."""
        choices: list[int] = []
        for width, residual, pooling in _PUBLISHED:
            distances = [abs(option - width) for option in self.widths]
            choices.append(distances.index(min(distances)))
            choices.append(self.residuals.index(residual) if residual in self.residuals else 0)
            choices.append(self.poolings.index(pooling) if pooling in self.poolings else 0)
        return Architecture(self.name, tuple(choices))

    def option_name(self, choice: int, option: int) -> str:
        stage, place = divmod(choice, 3)
        if place == 0:
            return f"stage {stage + 1} with {self._channels[stage][option]} channels"
        if place == 1:
            return f"stage {stage + 1} {'with' if self.residuals[option] else 'without'} residual"
        return f"stage {stage + 1} with {self.poolings[option]} pooling"

    def costs(self, choices: Choices) -> dict[str, NDArray[np.int64]]:
        width, residual, _ = choices.reshape(-1, 3, 3).transpose(2, 1, 0).astype(np.intp)
        first, second, third, last = self._cost_tables
        totals = first[0, width[0], residual[0]] + second[width[0], width[1], residual[1]]
        totals += third[width[1], width[2], residual[2]] + last[width[2]]
        return {name: totals[:, column] for column, name in enumerate(COST_NAMES)}

    def cheapest(self, cost: str) -> Architecture:
        check_cost(cost)
        column = COST_NAMES.index(cost)
        first, second, third, last = (table[..., column] for table in self._cost_tables)
        # Over every combination of widths; residuals are free of each other.
        totals = first.min(axis=2)[0][:, None, None] + second.min(axis=2)[:, :, None] + third.min(axis=2) + last
        one, two, three = (int(index) for index in np.unravel_index(totals.argmin(), totals.shape))
        pairs = ((one, first[0, one]), (two, second[one, two]), (three, third[two, three]))
        return Architecture(
            self.name, tuple(choice for width, row in pairs for choice in (width, int(row.argmin()), 0))
        )

    def parse(self, text: str) -> Architecture:
        """Three words such as ``128r-max 256-max 512r-max``: channels, r for a residual, pooling."""
        words = text.split()
        if len(words) != 3:
            raise InputError(
                f"architecture {text!r:.80}: expected a word for each of three stages, such as "
                f"{self.format(self.default)!r}, got {len(words)} words"
            )
        choices: list[int] = []
        for number, (word, known) in enumerate(zip(words, self._words, strict=True), 1):
            if word not in known:
                hint = nearest(word, known).partition(" Did you mean")
                raise InputError(
                    f"architecture {text!r:.80}: stage {number}: expected {self._expected(number - 1)}, "
                    f"got {word!r:.40}.{hint[1]}{hint[2]}"
                )
            choices += known[word]
        return Architecture(self.name, tuple(choices))

    def format(self, architecture: Architecture) -> str:
        self.check(architecture)
        return " ".join(self._word(stage, *row) for stage, row in enumerate(_stages(architecture)))

    def graph(self, architecture: Architecture) -> ArchGraph:
        self.check(architecture)
        parts, before = [self._stem], 0
        for stage, (width, residual, pooling) in enumerate(_stages(architecture)):
            place = (stage, before, width, residual, pooling)
            nodes = self._stage_nodes.get(place)
            if nodes is None:
                nodes = self._stage_nodes[place] = self._stage(*place)
            parts.append(nodes)
            before = width
        parts.append(self._heads[before])
        residuals = tuple(self.residuals[row[1]] for row in _stages(architecture))
        edges = _edges(tuple(map(len, parts)), (0, *residuals, 0))
        return ArchGraph(tuple(node for part in parts for node in part), edges)

    def _word(self, stage: int, width: int, residual: int, pooling: int) -> str:
        mark = "r" if self.residuals[residual] else ""
        return f"{self._channels[stage][width]}{mark}-{self.poolings[pooling]}"

    def _expected(self, stage: int) -> str:
        marks = " or ".join("an r for a residual" if option else "no r for none" for option in self.residuals)
        channels = ", ".join(map(str, self._channels[stage]))
        return f"channels ({channels}), {marks}, -{' or -'.join(self.poolings)}"

    @cached_property
    def _words(self) -> tuple[dict[str, tuple[int, int, int]], ...]:
        """For each stage the options by their word."""
        options = list(product(range(len(self.widths)), range(len(self.residuals)), range(len(self.poolings))))
        return tuple({self._word(stage, *row): row for row in options} for stage in range(3))

    @cached_property
    def _channels(self) -> tuple[tuple[int, ...], ...]:
        """For each stage the channels by width."""
        return tuple(tuple(_rounded(channels * width) for width in self.widths) for channels in _CHANNELS)

    @cached_property
    def _sides(self) -> tuple[int, ...]:
        """The side of the stem's output and of each stage's."""
        return tuple(self.input_size >> poolings for poolings in range(4))

    def _conv(self, name: str, inputs: int, outputs: int, side: int, kernel: int = 3) -> Node:
        return operation("conv", name, in_=inputs, out=outputs, kernel=kernel, stride=1, resolution=side)

    def _norm(self, name: str, channels: int, side: int) -> tuple[Node, Node]:
        """Norm and activation."""
        alpha = {"alpha": self.celu_alpha} if self.activation == "celu" else {}
        return (
            operation("batch_norm", f"{name}_norm", out=channels, ghost=self.ghost_images, resolution=side),
            operation(self.activation, f"{name}_activation", out=channels, resolution=side, **alpha),
        )

    @cached_property
    def _stem(self) -> tuple[Node, ...]:
        side, channels, wide = self.input_size, self.input_channels, 9 * self.input_channels
        if self.whitening_stem:
            first = self._conv("whitening", channels, wide, side)
            convs = [first, self._conv("stem_conv", wide, self.stem_channels, side, 1)]
        else:
            convs = [self._conv("stem_conv", channels, self.stem_channels, side)]
        return (
            operation("input", "input", out=channels, resolution=side),
            *convs,
            *self._norm("stem", self.stem_channels, side),
        )

    @cached_property
    def _stage_nodes(self) -> dict[tuple[int, int, int, int, int], tuple[Node, ...]]:
        """What was made of a stage's choices so far: a search asks for each many times."""
        return {}

    def _stage(self, stage: int, before: int, width: int, residual: int, pooling: int) -> tuple[Node, ...]:
        """The nodes of a stage; ``before`` is the width of the one before it."""
        name = f"stage{stage + 1}"
        inputs = self._channels[stage - 1][before] if stage else self.stem_channels
        channels = self._channels[stage][width]
        large, side = self._sides[stage : stage + 2]
        pool = operation(
            _POOLS[self.poolings[pooling]], f"{name}_pool", out=channels, kernel=2, stride=2, resolution=side
        )  # fmt: skip
        if self.pool_before_norm:
            rest: tuple[Node, ...] = (pool, *self._norm(name, channels, side))
        else:
            rest = (*self._norm(name, channels, large), pool)
        nodes = (self._conv(f"{name}_conv", inputs, channels, large), *rest)
        if self.residuals[residual]:
            for inner in (f"{name}_residual1", f"{name}_residual2"):
                nodes += (self._conv(f"{inner}_conv", channels, channels, side), *self._norm(inner, channels, side))
            nodes += (operation("sum", name, out=channels, resolution=side),)
        return nodes

    @cached_property
    def _heads(self) -> tuple[tuple[Node, ...], ...]:
        """The nodes after the stages by the last stage's width."""
        side, classes = self._sides[3], self.classes
        return tuple(
            (
                operation("global_max", "maximum", out=channels, kernel=side, resolution=1),
                operation("linear", "classifier", in_=channels, out=classes, bias=0, resolution=1),
                operation("scale", "scores", out=classes, factor=self.output_scale, resolution=1),
            )
            for channels in self._channels[2]
        )

    @cached_property
    def _cost_tables(self) -> tuple[NDArray[np.int64], ...]:
        """Costs of each stage's nodes, (width before, width, residual, costs), and of the rest, (last width, costs)."""
        count = len(self.widths)
        tables = [
            [
                [[_costs(self._stage(stage, before, width, residual, 0)) for residual in range(len(self.residuals))]
                 for width in range(count)]
                for before in range(count if stage else 1)
            ]
            for stage in range(3)
        ]  # fmt: skip
        rest = [_costs((*self._stem, *head)) for head in self._heads]
        return (*(np.asarray(table, np.int64) for table in tables), np.asarray(rest, np.int64))


def _costs(nodes: tuple[Node, ...]) -> tuple[int, ...]:
    return graph_costs(ArchGraph(nodes, ()))


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, at least 8."""
    return max(8, 8 * round(channels / 8))


def _stages(architecture: Architecture) -> tuple[tuple[int, int, int], ...]:
    """(width, residual, pooling) of each stage."""
    width, residual, pooling = (architecture.choices[start::3] for start in range(3))
    return tuple(zip(width, residual, pooling, strict=True))
