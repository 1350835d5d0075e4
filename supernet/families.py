"""The space ``families``: random chains of nodes of the kinds of VGG, ResNet and DenseNet.

With its defaults (and ``classes: 10``) these are the chains of a published study of how robust the three families are:
SepBlocks and pools (VGG), the same with ResBlocks and sums (ResNet), DenseBlocks (DenseNet; Huang et al. 2017).
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from functools import cached_property
from itertools import product
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator, model_validator

from supernet.builder import Builder, Value
from supernet.graph import ArchGraph
from supernet.operations import COST_NAMES, graph_costs
from supernet.settings import InputError, distinct, nearest
from supernet.space import Architecture, Choices, SearchSpace, check_cost, in_range

Channels = Annotated[int, Field(ge=1, le=4096)]
Growth = Annotated[int, Field(ge=1, le=1024)]
Kernel = Annotated[int, Field(ge=1, le=15)]
Depth = Annotated[int, Field(ge=1, le=100)]

_DENSE_DEPTH = (2, 7)
_LONGEST = 16_384
"""Characters of a text that is read."""
_POOLS = {"max": "Max_Pool", "avg": "Avg_Pool"}
_CONVOLUTIONS = {"sep": 4, "res": 2, "dense": 2}
"""Convolutions of a node, and of each layer of a dense block, as the published tables count them."""


class _Block(NamedTuple):
    """What a slot may hold: kind, its word, its name in the published tables, outputs or growth, kernel, layers."""

    kind: Literal["sep", "res", "sum", "max", "avg", "dense"]
    word: str
    published: str
    channels: int = 0
    kernel: int = 0
    layers: int = 1


class Families(SearchSpace):
    """Settings and space in one. A choice is one slot: option 0 is nothing, the others are blocks.

    A chain is what is in the slots from first to last, so that a change of one slot puts a block in, takes one out or
    changes one, anywhere. After the stem come the blocks, after them (a norm with ReLU in a DenseNet and) the mean
    over the picture and a linear layer.

    The blocks, and their words in text:

    - ``sep32x5``: the separable convolution applied twice, stride 1, 32 outputs, kernel 5.
    - ``max``, ``avg``: a pool of 2x2 pixels.
    - ``res32x5``: convolution, norm, ReLU, convolution, norm, added to its input, ReLU. Where input and outputs differ
      the fewer channels are filled up with zeros, so a block with fewer outputs than inputs keeps the inputs' number.
    - ``sum``: the value of the node before, plus the value before that node. Channels are filled up with zeros; where
      the node before is a pool, the earlier value is max-pooled. A chain's first node adds the picture itself to the
      stem's output; without a stem there is nothing to add, and it changes nothing.
    - ``dense32x12x3``: 12 dense layers of growth 32, kernel 3. Between two of them is a transition: norm, ReLU, 1x1
      convolution to half of the channels, average pool; a picture of one pixel is not pooled any more.

    Attributes:
        input_size: side of the square picture in pixels; at least 2 ** ``max_pools``, or 4 under a large stem.
        family: "vgg" has sep and pools, "resnet" also res and sum, "densenet" has dense alone.
        depth: least and most blocks of a chain, both included; 20 to 70, but 2 to 7 in a DenseNet. The published
            tables count the linear layer as well: their ``num_depth`` is one more.
        channels: outputs of sep and res.
        kernels: of sep, res and dense.
        growths: of dense.
        layers: of dense.
        max_pools: most pools in a chain; transitions are no pools.
        stem: "small" is a 3x3 convolution with norm and ReLU; "large", of a DenseNet alone, the published 7x7
            convolution of stride 2 and 3x3 max pool of stride 2; "none", of the others alone, is theirs as published.
        stem_channels: outputs of the stem.
    """

    kind: Literal["families"] = "families"
    family: Literal["vgg", "resnet", "densenet"] = "resnet"
    depth: tuple[Depth, Depth] = (20, 70)
    channels: Annotated[tuple[Channels, ...], Field(min_length=1)] = (16, 32, 64)
    kernels: Annotated[tuple[Kernel, ...], Field(min_length=1)] = (3, 5)
    growths: Annotated[tuple[Growth, ...], Field(min_length=1)] = (16, 32, 64)
    layers: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1)] = (3, 6, 9, 12)
    max_pools: Annotated[int, Field(ge=0, le=10)] = 3
    stem: Literal["none", "small", "large"] = "small"
    stem_channels: Channels = 16

    @model_validator(mode="before")
    @classmethod
    def _depth_of_the_family(cls, data: Any) -> Any:  # noqa: ANN401 - what pydantic passes
        if not isinstance(data, Mapping):
            return data
        default = {"depth": _DENSE_DEPTH} if data.get("family") == "densenet" else {}
        # A strict reader no longer takes lists for tuples once they come from here.
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        return default | given

    _distinct = field_validator("channels", "kernels", "growths", "layers")(distinct)

    @field_validator("kernels")
    @classmethod
    def _odd(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(kernel % 2 == 0 for kernel in value):
            raise ValueError("a kernel is even; expected odd ones, which keep the side")
        return value

    @field_validator("depth")
    @classmethod
    def _ordered(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[0] > value[1]:
            raise ValueError(f"expected least and most, got {value[0]} above {value[1]}")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        dense = self.family == "densenet"
        if self.stem == ("none" if dense else "large"):
            known = "small and large" if dense else "none and small"
            raise ValueError(f"stem {self.stem!r} is not one of family {self.family!r}; expected {known}")
        strides, pools = (4 if self.stem == "large" else 1), (0 if dense else self.max_pools)
        if self.input_size < strides * 2**pools:
            what = "the strides of the large stem" if dense else f"{pools} pools (max_pools)"
            raise ValueError(f"input_size {self.input_size} is too small for {what}; expected at least "
                             f"{strides * 2**pools}")  # fmt: skip
        if len(self._blocks) > 35:
            raise ValueError(f"{len(self._blocks)} blocks are too many for a slot; expected at most 35")
        return self

    @cached_property
    def _blocks(self) -> tuple[_Block, ...]:
        """What a slot may hold, pools last; option 1 is the first."""
        if self.family == "densenet":
            return tuple(
                _Block("dense", f"dense{growth}x{layers}x{kernel}", f"S_DenseBlock_{growth}_{layers}_{kernel}",
                       growth, kernel, layers)
                for growth, layers, kernel in product(self.growths, self.layers, self.kernels)
            )  # fmt: skip
        sizes = tuple(product(self.channels, self.kernels))
        blocks = [_Block("sep", f"sep{wide}x{kernel}", f"S_SepBlock_{wide}_{kernel}", wide, kernel)
                  for wide, kernel in sizes]  # fmt: skip
        if self.family == "resnet":
            blocks += [_Block("res", f"res{wide}x{kernel}", f"S_ResBlock_{wide}_{kernel}", wide, kernel)
                       for wide, kernel in sizes]  # fmt: skip
            blocks.append(_Block("sum", "sum", "Sum"))
        return (*blocks, _Block("max", "max", _POOLS["max"]), _Block("avg", "avg", _POOLS["avg"]))

    @property
    def _pool_options(self) -> int:
        return 0 if self.family == "densenet" else len(_POOLS)

    @property
    def _first_pool(self) -> int:
        """The first option that is a pool; those after it are too."""
        return len(self._blocks) + 1 - self._pool_options

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return (len(self._blocks) + 1,) * self.depth[1]

    @cached_property
    def _fillings(self) -> tuple[tuple[int, ...], ...]:
        """For each depth and number of pools the chains there are."""
        others, pools = self._first_pool - 1, self._pool_options
        return tuple(
            tuple(
                math.comb(depth, count) * pools**count * others ** (depth - count)
                for count in range(min(self.max_pools, depth) + 1)
            )
            for depth in range(self.depth[0], self.depth[1] + 1)
        )

    @property
    def size(self) -> int:
        """How many chains there are."""
        return sum(map(sum, self._fillings))

    def is_valid(self, choices: Choices) -> NDArray[np.bool_]:
        least, most = self.depth
        depths, pools = self._counts(choices)
        fits = (depths >= least) & (depths <= most) & (pools <= self.max_pools)
        return np.asarray(in_range(choices, self.cardinalities) & fits, dtype=np.bool_)

    def _counts(self, choices: Choices) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Blocks and pools of each row."""
        return (choices > 0).sum(axis=1), (choices >= self._first_pool).sum(axis=1)

    def canonical(self, choices: Choices) -> Choices:
        """The same chains in the first slots, without a first ``sum`` that has nothing to add, where depth allows."""
        order = np.argsort(choices == 0, axis=1, kind="stable")
        rows = np.take_along_axis(choices, order, axis=1)
        sums = [option for option, block in enumerate(self._blocks, 1) if block.kind == "sum"]
        if self.stem == "none" and sums and self.depth[1] > 1:
            idle = (rows[:, 0] == sums[0]) & (rows[:, 1] != sums[0]) & ((rows > 0).sum(axis=1) > self.depth[0])
            rows = np.where(idle[:, None], np.roll(rows, -1, axis=1), rows)
            rows[idle, -1] = 0
        return rows

    def sample(self, count: int, random: np.random.Generator) -> Choices:
        """Chains of a uniform depth, uniform over those of that depth, in uniform slots, shape (count, choices)."""
        least, most = self.depth
        chances = np.zeros((most - least + 1, self.max_pools + 1))
        for row, counts in zip(chances, self._fillings, strict=True):
            row[: len(counts)] = [ways / sum(counts) for ways in counts]
        depths = random.integers(least, most + 1, size=count)
        bounds = chances.cumsum(axis=1)[depths - least, :-1]
        pools = (random.random((count, 1)) >= bounds).sum(axis=1)
        pools = np.minimum(pools, depths)  # a bound may be rounded to less than 1
        rows = random.integers(1, self._first_pool, size=(count, most)).astype(np.int8)
        if self._pool_options:
            drawn = random.integers(self._first_pool, len(self._blocks) + 1, size=(count, most))
            rows = np.where(_places(pools, depths, most, random), drawn, rows).astype(np.int8)
        rows[np.arange(most) >= depths[:, None]] = 0
        return self._scattered(rows, random)

    def log_density(self, choices: Choices) -> NDArray[np.float64]:
        least, most = self.depth
        table = [
            -math.log(most - least + 1) - math.log(math.comb(most, depth)) - math.log(sum(counts))
            for depth, counts in enumerate(self._fillings, least)
        ]
        return np.asarray(table)[self._counts(choices)[0] - least]

    def disguise(self, choices: Choices, random: np.random.Generator) -> Choices:
        """The same chains in uniform slots."""
        return self._scattered(self.canonical(choices), random)

    def _scattered(self, choices: Choices, random: np.random.Generator) -> Choices:
        """Chains that stand in the first slots, each block as it is, in uniform slots."""
        most = self.depth[1]
        depths = self._counts(choices)[0]
        taken = _places(depths, np.full(len(choices), most), most, random)
        source = np.maximum(taken.cumsum(axis=1) - 1, 0)
        return np.where(taken, np.take_along_axis(choices, source, axis=1), 0).astype(np.int8)

    def narrower(self, factor: float) -> Families:
        """The same architectures with the channels of stem and blocks times a factor, rounded.

        Raises InputError where two options become one.
        """

        def scaled(channels: int) -> int:
            return max(1, round(channels * factor))

        narrow = {
            "channels": tuple(map(scaled, self.channels)),
            "growths": tuple(map(scaled, self.growths)),
            "stem_channels": scaled(self.stem_channels),
        }
        try:
            return Families.model_validate({**self.model_dump(), **narrow})
        except ValidationError as error:
            raise InputError(
                f"families: at {factor:g} of its width two options become the same, or one is too wide"
            ) from error

    def parse(self, text: str) -> Architecture:
        """Words such as ``sep32x5 res64x3 max sum``, or the list of a published table.

        Such a list, ``[['input', 0, 0], ['S_SepBlock_32_5', 0, 0], ..., ['full', 18, 18]]`` (a DenseNet's with one
        number each), is read as the chain of all that it names. Its ResNets were trained as something else, see
        :func:`used_nodes`.
        """
        _check_length(text)
        listed = text.lstrip().startswith("[")
        words = [name for name, _ in _read_list(text)[1:-1]] if listed else text.split()
        known = self._known[listed]
        for number, word in enumerate(words, 1):
            if word not in known:
                raise InputError(
                    f"architecture {text!r:.80}: node {number}: block {word!r:.40} is not one of family "
                    f"{self.family!r}; {nearest(word[:40], known)}"
                )
        options = [known[word] for word in words]
        if fault := self._fault(options):
            raise InputError(f"architecture {text!r:.80}: {fault}")
        return Architecture(self.name, tuple(options + [0] * (self.depth[1] - len(options))))

    @cached_property
    def _known(self) -> tuple[dict[str, int], dict[str, int]]:
        """The options by word, and by their names in published lists."""
        named = list(enumerate(self._blocks, 1))
        return {block.word: option for option, block in named}, {block.published: option for option, block in named}

    def format(self, architecture: Architecture) -> str:
        return " ".join(block.word for block in self._chain(architecture))

    def reason(self, architecture: Architecture) -> str:
        return self._fault([option for option in architecture.choices if option])

    def _fault(self, options: list[int]) -> str:
        """What is wrong with a chain of existing options, empty where nothing is."""
        least, most = self.depth
        if not least <= len(options) <= most:
            return f"expected {least} to {most} nodes (depth), got {len(options)}"
        first = self._first_pool
        pools = sum(option >= first for option in options)
        if pools > self.max_pools:
            return f"expected at most {self.max_pools} pools (max_pools), got {pools}"
        return ""

    def _chain(self, architecture: Architecture) -> list[_Block]:
        self.check(architecture)
        return [self._blocks[option - 1] for option in architecture.choices if option]

    def convolutions(self, architecture: Architecture) -> int:
        """How many convolutions the published tables would count: their column ``num_conv_layers``.

        4 a SepBlock (two depthwise, two pointwise), 2 a ResBlock, 2 a dense layer, and 1 for the stem of a DenseNet.
        Transitions are not counted, nor the stem of the other families.
        """
        blocks = self._chain(architecture)
        return sum(_CONVOLUTIONS.get(block.kind, 0) * block.layers for block in blocks) + (self.family == "densenet")

    def graph(self, architecture: Architecture) -> ArchGraph:
        chain, builder = self._chain(architecture), Builder()
        value, before = self._add_stem(builder)
        for number, block in enumerate(chain, 1):
            before, value = value, self._add_block(builder, number, block, value, before)
        self._add_head(builder, value)
        return ArchGraph(tuple(builder.nodes), tuple(builder.edges))

    def _add_stem(self, builder: Builder) -> tuple[Value, Value | None]:
        """The first value of a chain, and the picture where it is another one."""
        channels, side = self.stem_channels, self.input_size
        picture = builder.add("input", "input", (), self.input_channels, side)
        if self.stem == "none":
            return picture, None
        if self.stem == "small":
            return builder.add("conv_bn_relu", "stem", (picture,), channels, side, kernel=3, stride=1), picture
        half, quarter = -(-side // 2), self._first_side
        value = builder.add("conv_bn_relu", "stem", (picture,), channels, half, kernel=7, stride=2)
        return builder.add("max_pool_same", "stem_pool", (value,), channels, quarter, kernel=3, stride=2), picture

    @property
    def _first_side(self) -> int:
        """The side after the stem."""
        return -(-self.input_size // 4) if self.stem == "large" else self.input_size

    def _add_block(self, builder: Builder, number: int, block: _Block, value: Value, before: Value | None) -> Value:
        """A block on top of a value; ``before`` is the value before that one."""
        name, wide, side = f"node{number}", block.channels, value.side
        if block.kind == "sep":
            return builder.add("sep_conv", name, (value,), wide, side, kernel=block.kernel, stride=1)
        if block.kind == "res":
            branch = builder.add("res_branch", f"{name}_branch", (value,), wide, side, kernel=block.kernel)
            total = builder.total(f"{name}_sum", branch, value)
            return builder.add("relu", name, (total,), total.channels, side)
        if block.kind == "sum":
            if before is None:
                return builder.add("sum", name, (value,), value.channels, side)
            return builder.total(name, value, before)
        if block.kind in _POOLS:
            return builder.pool(f"{block.kind}_pool", name, value)
        if number > 1:
            value = self._add_transition(builder, f"transition{number - 1}", value)
        return self._add_dense(builder, f"block{number}", block, value)

    def _add_transition(self, builder: Builder, name: str, value: Value) -> Value:
        channels, side = value.channels // 2, value.side
        if side > 1:
            return builder.add("transition", name, (value,), channels, side // 2, input_resolution=side)
        normed = builder.add("bn_relu", f"{name}_norm", (value,), value.channels, side)
        return builder.add("conv", name, (normed,), channels, side, kernel=1, stride=1)

    def _add_dense(self, builder: Builder, name: str, block: _Block, value: Value) -> Value:
        for layer in range(1, block.layers + 1):
            new = builder.add(
                "dense_layer", f"{name}_layer{layer}", (value,), block.channels, value.side, kernel=block.kernel
            )
            value = builder.add(
                "concat", f"{name}_concat{layer}", (value, new), value.channels + block.channels, value.side
            )
        return value

    def _add_head(self, builder: Builder, value: Value) -> None:
        if self.family == "densenet":
            value = builder.add("bn_relu", "norm", (value,), value.channels, value.side)
        mean = builder.add("global_mean", "mean", (value,), value.channels, 1)
        builder.add("linear", "classifier", (mean,), self.classes, 1)

    def costs(self, choices: Choices) -> dict[str, NDArray[np.int64]]:
        totals = self._dense_costs(choices) if self.family == "densenet" else self._walked_costs(choices)
        return {name: totals[:, column] for column, name in enumerate(COST_NAMES)}

    def _walked_costs(self, choices: Choices) -> NDArray[np.int64]:
        """Costs of chains without dense blocks, (architectures, costs): each row walks from state to state."""
        walk, options = self._walk, len(self._blocks) + 1
        after, prices = walk.after.ravel(), walk.prices.reshape(-1, len(COST_NAMES))
        totals = np.zeros((len(choices), len(COST_NAMES)), np.int64)
        states = np.zeros(len(choices), np.intp)
        for slot in range(self.depth[1]):
            steps = states * options + choices[:, slot]
            totals += prices.take(steps, axis=0)
            states = after.take(steps)
        return totals + walk.heads[states]

    @cached_property
    def _walk(self) -> _Walk:
        """Every state that a chain may be in, found from the stem on, and what each option makes of it."""
        stem = Builder()
        value, before = self._add_stem(stem)
        states = [(value.channels, before.channels if before else 0, 0)]
        places = {states[0]: 0}
        after, prices, heads = [], [], []
        for place, (channels, earlier, pools) in enumerate(states):  # grows while it is read
            side = self.input_size >> pools
            value, before = Value(0, channels, side), Value(1, earlier, side) if earlier else None
            targets, row = [place], [(0,) * len(COST_NAMES)]
            for block in self._blocks:
                target, price = -1, row[0]
                pooled = pools + (block.kind in _POOLS)
                if pooled <= self.max_pools:
                    builder = Builder()
                    state = (self._add_block(builder, 1, block, value, before).channels, channels, pooled)
                    price = tuple(graph_costs(ArchGraph(tuple(builder.nodes), ())))
                    target = places.setdefault(state, len(states))
                    states += [state] * (target == len(states))
                targets.append(target)
                row.append(price)
            head = Builder([*stem.nodes])
            self._add_head(head, value)
            after.append(targets)
            prices.append(row)
            heads.append(graph_costs(ArchGraph(tuple(head.nodes), ())))
        return _Walk(np.asarray(after, np.intp), np.asarray(prices, np.int64), np.asarray(heads, np.int64))

    def _dense_costs(self, choices: Choices) -> NDArray[np.int64]:
        """Costs of chains of dense blocks, (architectures, costs)."""
        rows = self.canonical(choices)  # block by block, as the side goes by the number of blocks before
        totals, channels = np.zeros((len(rows), len(COST_NAMES)), np.int64), np.full(len(rows), self.stem_channels)
        for number in range(self.depth[1]):
            there = rows[:, number] > 0
            options = np.maximum(rows[:, number].astype(np.intp) - 1, 0)
            added, grown = self._dense_step(number, channels, options)
            totals += np.where(there[:, None], added, 0)
            channels = np.where(there, grown, channels)
        return totals + self._dense_heads(channels)

    def _dense_step(
        self, number: int, channels: NDArray[np.int64], options: NDArray[np.intp]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What a block, after ``number`` others, costs on top of so many channels, and the channels then."""
        before = np.zeros((len(channels), len(COST_NAMES)), np.int64)
        if number:
            half, pixels = channels // 2, max(1, self._first_side >> (number - 1)) ** 2
            weights = channels * half
            before = np.stack([weights * pixels, weights * pixels, weights + 2 * channels, half * pixels], axis=1)
            channels = half
        fixed, each, grown = self._dense_prices[number]
        return before + fixed[options] + each[options] * channels[:, None], channels + grown[options]

    @cached_property
    def _dense_prices(self) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], ...]:
        """For the blocks of each number: costs that do not go by the input's channels, those a channel, channels."""
        result = []
        for number in range(self.depth[1]):
            side = max(1, self._first_side >> number)
            prices = np.zeros((2, len(self._blocks), len(COST_NAMES)), np.int64)
            for option, block in enumerate(self._blocks):
                for channels in (1, 2):  # two points of a line
                    builder = Builder()
                    self._add_dense(builder, "", block, Value(0, channels, side))
                    prices[channels - 1, option] = graph_costs(ArchGraph(tuple(builder.nodes), ()))
            grown = np.asarray([block.channels * block.layers for block in self._blocks], np.int64)
            result.append((2 * prices[0] - prices[1], prices[1] - prices[0], grown))
        return tuple(result)

    def _dense_heads(self, channels: NDArray[np.int64]) -> NDArray[np.int64]:
        """What stem and head cost on so many channels, (architectures, costs)."""
        points = []
        for wide in (1, 2):
            builder = Builder()
            self._add_stem(builder)
            self._add_head(builder, Value(0, wide, 1))
            points.append(np.asarray(graph_costs(ArchGraph(tuple(builder.nodes), ())), np.int64))
        return 2 * points[0] - points[1] + (points[1] - points[0]) * channels[:, None]

    def cheapest(self, cost: str) -> Architecture:
        """A chain with the least of one cost, exactly. Raises InputError for an unknown cost."""
        check_cost(cost)
        column = COST_NAMES.index(cost)
        chain = self._cheapest_dense(column) if self.family == "densenet" else self._cheapest_walk(column)
        return Architecture(self.name, chain + (0,) * (self.depth[1] - len(chain)))

    def _cheapest_walk(self, column: int) -> tuple[int, ...]:
        """The shortest way of a permitted length through the states (Bellman 1957)."""
        walk, options = self._walk, len(self._blocks) + 1
        prices, heads = walk.prices[:, :, column], walk.heads[:, column]
        usable = (walk.after >= 0) & (np.arange(options) > 0)
        best = np.full(len(heads), -1, np.int64)  # -1: not reached by so many blocks
        best[0] = 0
        steps: list[NDArray[np.intp]] = []
        winner: tuple[int, int, int] | None = None
        for depth in range(1, self.depth[1] + 1):
            at, option = np.nonzero(usable & (best >= 0)[:, None])
            values, targets = best[at] + prices[at, option], walk.after[at, option]
            order = np.lexsort((values, targets))
            targets, first = np.unique(targets[order], return_index=True)
            best = np.full(len(heads), -1, np.int64)
            best[targets] = values[order[first]]
            step = np.zeros((len(heads), 2), np.intp)
            step[targets] = np.stack([at, option], axis=1)[order[first]]
            steps.append(step)
            if depth >= self.depth[0]:
                totals = best[targets] + heads[targets]
                least = int(totals.argmin())
                if winner is None or int(totals[least]) < winner[0]:
                    winner = (int(totals[least]), depth, int(targets[least]))
        assert winner is not None
        chain, state = [], winner[2]
        for step in reversed(steps[: winner[1]]):
            state, option_taken = map(int, step[state])
            chain.append(option_taken)
        return tuple(reversed(chain))

    def _cheapest_dense(self, column: int) -> tuple[int, ...]:
        """Of chains of one length only those are kept that no other one beats in cost and channels alike.

        All that comes later costs no more on fewer channels, so the cheapest is among what is made of them.
        """
        kept: list[tuple[int, int, tuple[int, ...]]] = [(0, self.stem_channels, ())]
        best: tuple[int, tuple[int, ...]] | None = None
        every = np.arange(len(self._blocks))
        for number in range(self.depth[1]):
            made = []
            for value, channels, chain in kept:
                added, grown = self._dense_step(number, np.full(len(every), channels), every)
                made += [
                    (value + price, wide, (*chain, option))
                    for option, price, wide in zip(
                        (every + 1).tolist(), added[:, column].tolist(), grown.tolist(), strict=True
                    )
                ]
            made.sort()
            kept, narrowest = [], math.inf
            for entry in made:
                if entry[1] < narrowest:
                    narrowest = entry[1]
                    kept.append(entry)
            if number + 1 >= self.depth[0]:
                heads = self._dense_heads(np.asarray([entry[1] for entry in kept]))[:, column].tolist()
                for entry, head in zip(kept, heads, strict=True):
                    if best is None or entry[0] + head < best[0]:
                        best = (entry[0] + head, entry[2])
        assert best is not None
        return best[1]


class _Walk(NamedTuple):
    """What each option (0: nothing) makes of a state: channels, channels of the value before, pools so far.

    ``after`` (states, options) is the state then, -1 where there are pools enough; ``prices`` (states, options, costs)
    what it costs; ``heads`` (states, costs) what stem and head cost where the chain ends.
    """

    after: NDArray[np.intp]
    prices: NDArray[np.int64]
    heads: NDArray[np.int64]


def _places(
    counts: NDArray[np.int64], widths: NDArray[np.int64], width: int, random: np.random.Generator
) -> NDArray[np.bool_]:
    """So many random places in each row, all of them among its first ``widths``, shape (rows, width)."""
    keys = random.random((len(counts), width))
    keys[np.arange(width) >= widths[:, None]] = 2.0
    bounds = np.sort(keys, axis=1)[np.arange(len(counts)), np.maximum(counts - 1, 0)]
    return np.asarray((keys <= bounds[:, None]) & (counts > 0)[:, None], dtype=np.bool_)


def used_nodes(text: str) -> str:
    """The words of the nodes that a network of a published list computed: those that reach its linear layer.

    The numbers of a list are positions in it, the picture's being 0. Those of DenseNets name the entry before each.
    Those of ResNets name the entry before that one, so that every second node is computed for nothing, and half of
    the network was trained; both numbers of a ``sum`` are the same, so it doubled its input. The accuracies of the
    ResNets agree: they go by the nodes named here, and not by the others. Raises InputError for any other text.
    """
    entries = _read_list(text)
    names, position = [], entries[-1][1]
    while position > 0:
        name, position = entries[position]
        names.append(name)
    words = {published: word for word, published in _POOLS.items()}
    return " ".join(words.get(name, _word(name)) for name in reversed(names))


def _word(published: str) -> str:
    """``sep32x5`` of ``S_SepBlock_32_5``."""
    kind, *numbers = published.removeprefix("S_").split("_")
    return kind.removesuffix("Block").lower() + "x".join(numbers)


def _check_length(text: str) -> None:
    if len(text) > _LONGEST:
        raise InputError(f"architecture {text!r:.80}: expected at most {_LONGEST} characters, got {len(text)}")


def _read_list(text: str) -> list[tuple[str, int]]:
    """Name and input of each entry of a published list, first and last included. Raises InputError."""
    begin = f"architecture {text!r:.80}: "
    _check_length(text)
    try:
        entries = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise InputError(f"{begin}expected a list such as [['input', 0, 0], ..., ['full', 3, 3]]") from error
    result: list[tuple[str, int]] = []
    for position, entry in enumerate(entries if isinstance(entries, list) else ()):
        if (
            not isinstance(entry, list) or len(entry) not in (2, 3) or not isinstance(entry[0], str)
            or any(type(number) is not int or number != entry[1] for number in entry[1:])
        ):  # fmt: skip
            raise InputError(
                f"{begin}entry {position}: expected a name and one number or the same twice, got {entry!r:.80}"
            )
        result.append((entry[0], entry[1]))
    if len(result) < 3 or result[0][0] != "input" or result[-1][0] != "full":
        raise InputError(f"{begin}expected 'input' first, 'full' last and nodes between them")
    inputs = [number for _, number in result[1:]]
    if inputs not in ([*range(len(inputs))], [0, *range(len(inputs) - 1)]):
        raise InputError(f"{begin}its numbers are no chain's: expected 0 1 2 ... or 0 0 1 2 ..., got {inputs!r:.80}")
    return result
