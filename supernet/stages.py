"""The space ``stages``: your own space without code, as a chain of stages written in YAML.

The bundled files under ``config/spaces`` are such spaces: ``op_subset`` once more, NAS-Bench-Macro (Su et al. 2021)
and a family like MobileNetV3 (Howard et al. 2019).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, ValidationError, model_validator

from supernet.graph import ArchGraph, Node
from supernet.operations import COST_NAMES, graph_costs, node_costs, operation
from supernet.settings import InputError, distinct, nearest
from supernet.space import DIGITS, Architecture, Choices, SearchSpace, check_cost, in_range
from supernet.stage_settings import (
    MOST,
    PLAIN,
    Candidate,
    ConvolutionSettings,
    HeadSettings,
    StageSettings,
)

_REMEMBERED = 20_000
"""Layers of which nodes and edges are kept."""

_LayerKey: TypeAlias = tuple[int, int, int, int, int, tuple[int, ...]]
"""(stage, layer, resolution, width before, width, the layer's choices)."""

_Place: TypeAlias = tuple[int, int, int, bool]
"""What a layer's nodes depend on besides its operations: resolution, width before, width, whether it is the first."""


@dataclass(frozen=True)
class _StagePlan:
    """Where the choices of a stage stand in a row; None is no choice. ``layers`` is one place where they share."""

    least: int
    most: int
    depth: int | None
    width: int | None
    layers: tuple[slice, ...]

    def depths(self, choices: Choices) -> NDArray[np.int64]:
        """Layers, shape (architectures,)."""
        more = np.zeros(len(choices), np.int64) if self.depth is None else choices[:, self.depth].astype(np.int64)
        return more + self.least

    def widths(self, choices: Choices) -> NDArray[np.intp]:
        """The width's option, shape (architectures,)."""
        return np.zeros(len(choices), np.intp) if self.width is None else choices[:, self.width].astype(np.intp)

    def active(self, choices: Choices) -> NDArray[np.bool_]:
        """Which of ``layers`` mean something, shape (architectures, layers)."""
        if len(self.layers) == 1:
            return np.ones((len(choices), 1), np.bool_)
        return np.arange(len(self.layers)) < self.depths(choices)[:, None]


@dataclass(frozen=True)
class _Plan:
    """Where each choice stands in a row."""

    cardinalities: tuple[int, ...]
    resolution_place: int | None
    stages: tuple[_StagePlan, ...]

    @staticmethod
    def of(space: Stages) -> _Plan:
        counts: list[int] = []

        def choice(count: int) -> int | None:
            if count == 1:
                return None
            counts.append(count)
            return len(counts) - 1

        resolution = choice(len(space.resolutions))
        stages = []
        for number, stage in enumerate(space.stages):
            least, most = stage.depths
            depth, width = choice(most - least + 1), choice(len(stage.widths))
            layers = []
            for layer in range(1 if stage.share else most):
                options = len(space.options(number, layer == 0))
                start = len(counts)
                if stage.apply == "any":
                    counts += [2] * options
                else:
                    choice(options)
                layers.append(slice(start, len(counts)))
            stages.append(_StagePlan(least, most, depth, width, tuple(layers)))
        return _Plan(tuple(counts), resolution, tuple(stages))

    def resolution(self, choices: Choices) -> NDArray[np.intp]:
        """The resolution's option, shape (architectures,)."""
        place = self.resolution_place
        return np.zeros(len(choices), np.intp) if place is None else choices[:, place].astype(np.intp)

    def widths(self, choices: Choices) -> NDArray[np.intp]:
        """The options of the widths: of the stem, which has one, then of each stage, (architectures, stages + 1)."""
        stem = np.zeros(len(choices), np.intp)
        return np.stack([stem, *(stage.widths(choices) for stage in self.stages)], axis=1)


def _width(value: float) -> str:
    """As short as it can be read again."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def _index(text: str, where: str, word: str, known: list[str]) -> int:
    """The position of a word among those known. Raises InputError naming the nearest."""
    if word not in known:
        raise InputError(f"architecture {text!r:.80}: {where}: {word!r:.40} is unknown; {nearest(word, known)}")
    return known.index(word)


class Stages(SearchSpace):
    """Settings and space in one.

    The choices, those with a single option left out: the resolution; then for each stage the number of layers, the
    width, and for each layer that there may be (once where they share) the operation, or a 0 or 1 for each operation
    where any subset may be applied. ``sample`` draws each choice uniformly, subsets among the non-empty ones.

    Attributes:
        resolutions: sides that the picture may be brought to first, by averaging, as fractions of ``input_size``.
        stem: the convolution before the stages.
        stages: see :class:`StageSettings`.
        head: the convolution after the stages; None for none. Then follow the global mean and a linear layer.
    """

    kind: Literal["stages"] = "stages"
    resolutions: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...],
        Field(min_length=1, max_length=MOST),
        AfterValidator(distinct),
    ] = (1.0,)
    stem: ConvolutionSettings = ConvolutionSettings()
    stages: Annotated[tuple[StageSettings, ...], Field(min_length=1, max_length=32)]
    head: HeadSettings | None = HeadSettings()

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Stages:
        sides = [self._pictures[number] for number in range(len(self.resolutions))]
        if len(set(sides)) != len(sides):
            raise ValueError(f"resolutions: two of them are the same side at input_size {self.input_size}")
        side = min(sides)
        parts = [("stem", self.stem.stride), *((f"stages.{n}", stage.stride) for n, stage in enumerate(self.stages))]
        total = sum(stride == 2 for _, stride in parts)
        for part, stride in parts:
            if stride == 2:
                if side < 2:
                    raise ValueError(
                        f"{part}: its stride finds a picture of {side} pixel; the space halves {min(sides)} pixels "
                        f"{total} times, which takes at least {2 ** (total - 1) + 1}"
                    )
                side = -(-side // 2)
        for number, stage in enumerate(self.stages):
            self._check_stage(number, stage)
        if self.size == 1:
            raise ValueError("nothing to choose: every network would be the same; expected several options")
        return self

    def _check_stage(self, number: int, stage: StageSettings) -> None:
        if not self.options(number, True):
            raise ValueError(
                f"stages.{number}: a dead end: none of {', '.join(one.name for one in stage.candidates)} can make "
                f"{' or '.join(map(str, stage.outputs))} channels of {' or '.join(map(str, self._inputs(number)))}, as "
                f"the first layer must whatever the widths"
            )
        if stage.share or stage.depths[1] == 1:
            never = [one.name for one in stage.candidates if one not in self.options(number, True)]
            if never:
                raise ValueError(
                    f"stages.{number}: no layer can apply {', '.join(never)}, which keep the channels: the first has "
                    f"{' or '.join(map(str, self._inputs(number)))} and makes {' or '.join(map(str, stage.outputs))}"
                )
        if {"skip", "shortcut"} <= {one.op for one in stage.candidates}:
            raise ValueError(
                f"stages.{number}: skip and shortcut are the same where the shape stays; expected one of them"
            )
        if stage.stride == 2 and min(stage.outputs) < 2 and any(one.op == "skip" for one in stage.candidates):
            raise ValueError(
                f"stages.{number}: skip with stride 2 makes channels by halves; expected at least 2 channels"
            )

    def _inputs(self, number: int) -> tuple[int, ...]:
        """Channels that a stage may be given, by the width before."""
        return self.stages[number - 1].outputs if number else (self.stem.channels,)

    def options(self, number: int, first: bool) -> tuple[Candidate, ...]:
        """What the first layer of a stage (counted from 0), or each later one, may apply."""
        stage = self.stages[number]
        if first or stage.share:
            pairs = list(product(self._inputs(number), stage.outputs))
            return tuple(one for one in stage.candidates if all(one.fits(*pair) for pair in pairs))
        return stage.candidates

    @cached_property
    def _pictures(self) -> tuple[int, ...]:
        """Side of the picture by resolution."""
        return tuple(max(1, round(self.input_size * scale)) for scale in self.resolutions)

    @cached_property
    def _plan(self) -> _Plan:
        return _Plan.of(self)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return self._plan.cardinalities

    @property
    def size(self) -> int:
        total = len(self.resolutions)
        for number, stage in enumerate(self.stages):
            first, later = (self._ways(number, first) for first in (True, False))
            least, most = stage.depths
            if stage.share:
                layers = first * (most - least + 1)
            else:
                layers = sum(first * later ** (depth - 1) for depth in range(least, most + 1))
            total *= len(stage.widths) * layers
        return total

    def _ways(self, number: int, first: bool) -> int:
        """How many things a layer may be."""
        count = len(self.options(number, first))
        return count if self.stages[number].apply == "one" else int(2**count - 1)

    def option_name(self, choice: int, option: int) -> str:
        if choice == self._plan.resolution_place:
            return f"resolution {self._pictures[option]}px"
        for number, (part, stage) in enumerate(zip(self._plan.stages, self.stages, strict=True)):
            if choice == part.depth:
                return f"stage {number + 1} of {part.least + option} layers"
            if choice == part.width:
                return f"stage {number + 1} @{_width(stage.widths[option])}"
            for layer, place in enumerate(part.layers):
                if place.start <= choice < place.stop:
                    known = self.options(number, layer == 0)
                    where = f"stage {number + 1}" if stage.share else f"stage {number + 1}, layer {layer + 1}"
                    if stage.apply == "one":
                        return f"{where}: {known[option].name}"
                    return f"{where} {'with' if option else 'without'} {known[choice - place.start].name}"
        return super().option_name(choice, option)

    # Rows of options.

    def is_valid(self, choices: Choices) -> NDArray[np.bool_]:
        valid = in_range(choices, self.cardinalities)
        for part, stage in zip(self._plan.stages, self.stages, strict=True):
            if stage.apply == "any":
                active = part.active(choices)
                for layer, bits in enumerate(part.layers):
                    valid &= choices[:, bits].any(axis=1) | ~active[:, layer]
        return valid

    def reason(self, architecture: Architecture) -> str:
        row = architecture.row()
        for number, (part, stage) in enumerate(zip(self._plan.stages, self.stages, strict=True)):
            for layer, bits in enumerate(part.layers):
                if stage.apply == "any" and part.active(row)[0, layer] and not row[0, bits].any():
                    return f"stage {number + 1}, layer {layer + 1} applies no operation; expected at least one a layer"
        return super().reason(architecture)

    def sample(self, count: int, random: np.random.Generator) -> Choices:
        rows = random.integers(0, self.cardinalities, size=(count, len(self.cardinalities))).astype(np.int8)
        for part, stage in zip(self._plan.stages, self.stages, strict=True):
            if stage.apply == "any":
                active = part.active(rows)
                for layer, bits in enumerate(part.layers):
                    width = bits.stop - bits.start
                    masks = random.integers(1, 2**width, size=count)
                    drawn = ((masks[:, None] >> np.arange(width)) & 1).astype(np.int8)
                    rows[:, bits] = np.where(active[:, layer, None], drawn, rows[:, bits])
        return rows

    def log_density(self, choices: Choices) -> NDArray[np.float64]:
        density = super().log_density(choices)
        for part, stage in zip(self._plan.stages, self.stages, strict=True):
            if stage.apply == "any":
                active = part.active(choices)
                for layer, bits in enumerate(part.layers):
                    # One of 2^n - 1 subsets where it means something, of 2^n where it does not.
                    density -= active[:, layer] * math.log1p(-(2.0 ** (bits.start - bits.stop)))
        return density

    def disguise(self, choices: Choices, random: np.random.Generator) -> Choices:
        rows = choices.copy()
        for part in self._plan.stages:
            active = part.active(choices)
            for layer, place in enumerate(part.layers):
                drawn = random.integers(0, self.cardinalities[place], size=(len(rows), place.stop - place.start))
                rows[:, place] = np.where(active[:, layer, None], rows[:, place], drawn)
        return rows

    def canonical(self, choices: Choices) -> Choices:
        """Within a stage, layers that hand on what they are given come last, and are left out where the depth allows.

        What two stages of the same shape might share between them is not looked at.
        """
        rows = choices.copy()
        widths = self._plan.widths(choices)
        for number, (part, stage) in enumerate(zip(self._plan.stages, self.stages, strict=True)):
            active = part.active(choices)
            applied = np.stack([self._bits(number, layer, rows) for layer in range(len(part.layers))], axis=1)
            plain = np.array([one.op in PLAIN for one in stage.candidates])
            idle = (applied.sum(axis=2) == 1) & (applied & plain).any(axis=2)
            if stage.share:
                if part.depth is not None:  # whatever the first layer does, the later ones hand it on
                    rows[:, part.depth] = np.where(idle[:, 0], 0, rows[:, part.depth])
                continue
            idle[:, 0] &= self._first_stays(number, widths)
            idle |= ~active
            order = np.argsort(idle, axis=1, kind="stable")
            front = np.take_along_axis(applied, order[:, :1, None], axis=1)[:, 0]
            fits = ~front[:, ~self._possible(number)].any(axis=1)  # what comes first must be able to
            idle[:, 0] &= fits
            order = np.argsort(idle, axis=1, kind="stable")
            applied = np.take_along_axis(applied, order[:, :, None], axis=1)
            if part.depth is not None:
                rows[:, part.depth] = np.maximum((~idle).sum(axis=1) - part.least, 0)
            active = part.active(rows)
            for layer, place in enumerate(part.layers):
                options = self._from_bits(number, layer, applied[:, layer])
                rows[:, place] = np.where(active[:, layer, None], options, 0)
        return rows

    def _first_stays(self, number: int, widths: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether a stage's first layer makes the shapes that its later ones do, shape (architectures,)."""
        stage = self.stages[number]
        before = np.asarray(self._inputs(number))[widths[:, number]]
        same = before == np.asarray(stage.outputs)[widths[:, number + 1]]
        return np.asarray((stage.stride == 1) & same, np.bool_)

    def _possible(self, number: int) -> NDArray[np.bool_]:
        """Which candidates of a stage its first layer may apply."""
        known = self.options(number, True)
        return np.array([one in known for one in self.stages[number].candidates])

    def _bits(self, number: int, layer: int, rows: Choices) -> NDArray[np.bool_]:
        """Which candidates of a stage a layer applies, (architectures, candidates)."""
        stage, options = self.stages[number], rows[:, self._plan.stages[number].layers[layer]]
        every = np.ones(len(stage.candidates), np.bool_)
        places = np.flatnonzero(self._possible(number) if layer == 0 or stage.share else every)
        bits = np.zeros((len(rows), len(stage.candidates)), np.bool_)
        if stage.apply == "any":
            bits[:, places] = options > 0
        else:
            chosen = options[:, 0].astype(np.intp) if options.shape[1] else np.zeros(len(rows), np.intp)
            bits[np.arange(len(rows)), places[chosen]] = True
        return bits

    def _from_bits(self, number: int, layer: int, bits: NDArray[np.bool_]) -> Choices:
        """The inverse of :meth:`_bits`: a layer's choices."""
        own = bits[:, self._possible(number)] if layer == 0 else bits
        if self.stages[number].apply == "any":
            return own.astype(np.int8)
        place = self._plan.stages[number].layers[layer]
        options: Choices = own.argmax(axis=1).astype(np.int8)[:, None]
        return options[:, : place.stop - place.start]

    # Text.

    def format(self, architecture: Architecture) -> str:
        """``160px mbconv_3_e3,mbconv_5_e6@0.75 skip+sep_conv_3``: a word for the resolution and for each stage.

        In a stage, layers stand with commas between them and an ``@`` before the width, where that is a choice.
        Layers that share are written once, as in ``3*mbconv_5_e6``.
        """
        self.check(architecture)
        row = architecture.row()
        words = [] if len(self.resolutions) == 1 else [f"{self._pictures[self._plan.resolution(row)[0]]}px"]
        for number, (part, stage) in enumerate(zip(self._plan.stages, self.stages, strict=True)):
            depth = int(part.active(row)[0].sum()) if not stage.share else int(part.depths(row)[0])
            layers = [
                "+".join(
                    one.name for one in self._applied(number, layer == 0, architecture.choices[part.layers[layer]])
                )
                for layer in range(1 if stage.share else depth)
            ]
            text = f"{depth}*{layers[0]}" if stage.share and part.depth is not None else ",".join(layers)
            width = f"@{_width(stage.widths[part.widths(row)[0]])}" if len(stage.widths) > 1 else ""
            words.append(text + width)
        return " ".join(words)

    def parse(self, text: str) -> Architecture:
        """What ``format`` writes, or a digit for each choice."""
        words = text.split()
        digits = "".join(words)
        is_row = len(digits) == len(self.cardinalities) and all(
            DIGITS.find(digit) in range(count) for digit, count in zip(digits, self.cardinalities, strict=True)
        )
        if is_row or (digits and set(digits) <= set("0123456789")):
            return super().parse(text)
        expected = len(self.stages) + (len(self.resolutions) > 1)
        if len(words) != expected:
            raise InputError(
                f"architecture {text!r:.80}: expected {expected} words, as {self.format(self.cheapest('macs'))!r}, "
                f"got {len(words)}"
            )
        row = np.zeros(len(self.cardinalities), np.int8)
        if len(self.resolutions) > 1:
            sides = [f"{side}px" for side in self._pictures]
            row[self._plan.resolution_place] = _index(text, "resolution", words[0], sides)
        for number, word in enumerate(words[-len(self.stages) :]):
            self._read_stage(text, number, word, row)
        architecture = Architecture(self.name, tuple(row.tolist()))
        self.check(architecture)
        return architecture

    def _read_stage(self, text: str, number: int, word: str, row: NDArray[np.int8]) -> None:
        stage, part, where = self.stages[number], self._plan.stages[number], f"stage {number + 1}"
        body, at, width = word.partition("@")
        if bool(at) != (len(stage.widths) > 1):
            wanted = "an @ and a width" if not at else "no width, which is no choice there"
            raise InputError(f"architecture {text!r:.80}: {where}: expected {wanted}, got {word!r:.60}")
        if part.width is not None:
            row[part.width] = _index(text, f"{where}, width", width, [_width(one) for one in stage.widths])
        least, most = stage.depths
        if stage.share and part.depth is not None:
            count, star, body = body.partition("*")
            if not star or not re.fullmatch("[0-9]{1,2}", count):
                raise InputError(f"architecture {text!r:.80}: {where}: expected as 2*OPERATION, got {word!r:.60}")
            layers, depth = [body], int(count)
        else:
            layers = body.split(",")
            depth = least if stage.share else len(layers)
        if not least <= depth <= most or (stage.share and len(layers) != 1):
            span = str(least) if least == most else f"{least} to {most}"
            raise InputError(
                f"architecture {text!r:.80}: {where}: expected {span} layers, got {max(depth, len(layers))}"
            )
        if part.depth is not None:
            row[part.depth] = depth - least
        for layer, (names, place) in enumerate(zip(layers, part.layers, strict=False)):
            known = [one.name for one in self.options(number, layer == 0)]
            which = f"{where}, layer {layer + 1}"
            found = [_index(text, which, name, known) for name in names.split("+")]
            if stage.apply == "any":
                if len(set(found)) != len(found):
                    raise InputError(
                        f"architecture {text!r:.80}: {where}, layer {layer + 1}: an operation is named twice"
                    )
                row[[place.start + one for one in found]] = 1
            elif len(found) > 1:
                raise InputError(f"architecture {text!r:.80}: {which}: expected one operation")
            else:
                row[place] = found[0]  # nothing where there is a single option

    def _applied(self, number: int, first: bool, options: tuple[int, ...]) -> tuple[Candidate, ...]:
        """The operations that a layer's choices stand for."""
        known = self.options(number, first)
        if self.stages[number].apply == "any":
            return tuple(one for one, on in zip(known, options, strict=True) if on)
        return (known[options[0] if options else 0],)

    # Graph and costs.

    def graph(self, architecture: Architecture) -> ArchGraph:
        choices, counts = architecture.choices, self.cardinalities
        known = architecture.space == self.name and len(choices) == len(counts)
        if not (known and all(choice < count for choice, count in zip(choices, counts, strict=True))):
            self.check(architecture)  # says what is wrong
        resolution = choices[self._plan.resolution_place] if self._plan.resolution_place is not None else 0
        nodes: list[Node] = [*self._before(resolution)]
        edges = [(position, position + 1) for position in range(len(nodes) - 1)]
        before = 0
        for number, (part, stage) in enumerate(zip(self._plan.stages, self.stages, strict=True)):
            width = choices[part.width] if part.width is not None else 0
            depth = part.least + (choices[part.depth] if part.depth is not None else 0)
            for layer in range(depth):
                key = (number, layer, resolution, before, width, choices[part.layers[0 if stage.share else layer]])
                made = self._layers.get(key)
                if made is None:
                    self.check(architecture)
                    if len(self._layers) >= _REMEMBERED:  # subsets of many operations hardly come again
                        self._layers.clear()
                    made = self._layers[key] = self._layer(*key)
                source = len(nodes) - 1
                nodes += made[0]
                edges += [(source + start, source + end) for start, end in made[1]]
            before = width
        after = self._after(resolution, before)
        edges += [(position - 1, position) for position in range(len(nodes), len(nodes) + len(after))]
        return ArchGraph((*nodes, *after), tuple(edges))

    @cached_property
    def _layers(self) -> dict[_LayerKey, tuple[tuple[Node, ...], tuple[tuple[int, int], ...]]]:
        """Nodes and edges of what was made of a layer's choices so far: a search asks for each many times."""
        return {}

    def _layer(
        self, number: int, layer: int, resolution: int, before: int, width: int, options: tuple[int, ...]
    ) -> tuple[tuple[Node, ...], tuple[tuple[int, int], ...]]:
        """The nodes of a layer, the last of which is its output, and its edges; 0 is what it is given."""
        place, stage = (resolution, before, width, layer == 0), self.stages[number]
        applied = self._applied(number, layer == 0, options)
        shortcut = self._shortcut(number, place, applied)
        name = f"stage{number + 1}_layer{layer + 1}"
        nodes = [self._node(number, place, one, f"{name}_{one.name}") for one in applied]
        if isinstance(shortcut, Candidate):
            nodes.append(self._node(number, place, shortcut, f"{name}_residual"))
        if stage.apply == "one" and shortcut is None:
            return tuple(nodes), ((0, 1),)
        total = len(nodes) + 1
        edges = [edge for position in range(1, total) for edge in ((0, position), (position, total))]
        if shortcut == "identity":
            edges.append((0, total))
        side = self._sides[resolution][number + 1]
        nodes.append(operation("sum", name, out=stage.outputs[width], resolution=side))
        return tuple(nodes), tuple(edges)

    def costs(self, choices: Choices) -> dict[str, NDArray[np.int64]]:
        resolution, widths = self._plan.resolution(choices), self._plan.widths(choices)
        totals = self._fixed_costs[resolution, widths[:, -1]]
        for number, (part, stage) in enumerate(zip(self._plan.stages, self.stages, strict=True)):
            depths, state = part.depths(choices), (resolution, widths[:, number], widths[:, number + 1])
            for layer in range(stage.depths[1]):
                table, residual = self._layer_costs[number][min(layer, 1)]
                options = choices[:, part.layers[0 if stage.share else layer]]
                works = self._works(number, layer == 0)
                own: NDArray[np.int64]
                working: NDArray[np.bool_]
                if stage.apply == "any":
                    if table[..., 0, 0].size == 1:  # one table for all: BLAS is fast, and exact below 2**53
                        own = (options.astype(np.float64) @ table[0, 0, 0].astype(np.float64)).astype(np.int64)
                    else:
                        own = (options[:, :, None] * table[state]).sum(axis=1)
                    working = np.asarray((options[:, works] > 0).any(axis=1), np.bool_)
                else:
                    option = options[:, 0].astype(np.intp) if options.shape[1] else np.zeros(len(options), np.intp)
                    own, working = table[(*state, option)], works[option]
                if residual.any():
                    own = own + working[:, None] * residual[state]
                if layer >= part.least:
                    own = own * (layer < depths)[:, None]
                totals = totals + own
        return {name: totals[:, column] for column, name in enumerate(COST_NAMES)}

    def cheapest(self, cost: str) -> Architecture:
        check_cost(cost)
        column = COST_NAMES.index(cost)
        best: tuple[int, list[int], list[int]] | None = None
        for resolution in range(len(self.resolutions)):
            # The least of each width of the stage at hand: (cost so far, widths, operations).
            ways: list[tuple[int, list[int], list[int]]] = [(0, [], [])]
            for number, stage in enumerate(self.stages):
                costs = [self._single_costs(number, first, resolution)[..., column] for first in (True, False)]
                added = []
                for width in range(len(stage.widths)):
                    reached = []
                    for before, (so_far, own_widths, operations) in enumerate(ways):
                        first, later = costs[0][before, width], costs[1][before, width]
                        if stage.share:
                            together = first + (stage.depths[0] - 1) * later
                            value, chosen = together.min(), [int(together.argmin())]
                        else:
                            value = first.min() + (stage.depths[0] - 1) * later.min()
                            chosen = [int(first.argmin())] + [int(later.argmin())] * (stage.depths[1] - 1)
                        reached.append((so_far + int(value), [*own_widths, width], [*operations, *chosen]))
                    added.append(min(reached))
                ways = added
            for width, (so_far, own_widths, operations) in enumerate(ways):
                value = so_far + int(self._fixed_costs[resolution, width, column])
                if best is None or value < best[0]:
                    best = (value, [resolution, *own_widths], operations)
        assert best is not None
        return self._architecture(best[1], best[2])

    def narrower(self, factor: float) -> Stages:
        def scaled(part: Mapping[str, Any]) -> dict[str, Any]:
            return {**part, "channels": max(2, round(part["channels"] * factor))}

        settings = self.model_dump()
        stages = [
            {**scaled(stage), "divisor": max(1, round(stage["divisor"] * factor))} for stage in settings["stages"]
        ]
        head = settings["head"] and scaled(settings["head"])
        try:
            narrow = Stages.model_validate(
                {**settings, "stem": scaled(settings["stem"]), "stages": stages, "head": head}
            )
        except ValidationError as error:
            raise InputError(f"stages: not at {factor:g} of its width ({error.errors()[0]['msg']})") from error
        for number in range(len(self.stages)):
            if narrow._kept(number) != self._kept(number):
                raise InputError(
                    f"stages: at {factor:g} of its width, layers of stages.{number} would have other operations to "
                    f"choose from, or keep other shapes"
                )
        return narrow

    def _kept(self, number: int) -> tuple[object, ...]:
        """What a narrower space must have as this one: operations, and where channels stay the same."""
        pairs = product(self._inputs(number), self.stages[number].outputs)
        return self.options(number, True), tuple(inputs == outputs for inputs, outputs in pairs)

    def _architecture(self, state: list[int], operations: list[int]) -> Architecture:
        """Of a resolution, a width a stage, an operation a layer that may differ, and the least layers."""
        row = np.zeros((1, len(self.cardinalities)), np.int8)
        if self._plan.resolution_place is not None:
            row[0, self._plan.resolution_place] = state[0]
        chosen = iter(operations)
        for part, stage, width in zip(self._plan.stages, self.stages, state[1:], strict=True):
            if part.width is not None:
                row[0, part.width] = width
            for place in part.layers:
                option = next(chosen)
                if stage.apply == "any":
                    row[0, place.start + option] = 1
                elif place.stop > place.start:
                    row[0, place.start] = option
        return Architecture(self.name, tuple(self.canonical(row)[0].tolist()))

    def _works(self, number: int, first: bool) -> NDArray[np.bool_]:
        """Which operations of a layer are more than a way to hand on its input: a residual goes beside them."""
        return np.array([one.op not in PLAIN for one in self.options(number, first)])

    def _shortcut(
        self, number: int, place: _Place, applied: tuple[Candidate, ...]
    ) -> Literal["identity"] | Candidate | None:
        """What is added to the operations of a layer."""
        stage = self.stages[number]
        if not stage.residual or all(one.op in PLAIN for one in applied):
            return None
        inputs, outputs, stride, _ = self._shapes(number, place)
        if stride == 1 and inputs == outputs:
            return "identity"
        return Candidate("shortcut", 1, 1, 0, 0) if stage.residual == "projected" else None

    def _shapes(self, number: int, place: _Place) -> tuple[int, int, int, int]:
        """(inputs, outputs, stride, side of the input) of a layer."""
        resolution, before, width, first = place
        stage = self.stages[number]
        outputs = stage.outputs[width]
        if first:
            return self._inputs(number)[before], outputs, stage.stride, self._sides[resolution][number]
        return outputs, outputs, 1, self._sides[resolution][number + 1]

    @cached_property
    def _sides(self) -> tuple[tuple[int, ...], ...]:
        """For each resolution the side of the stem's output and of each stage's."""
        result = []
        for picture in self._pictures:
            sides = [-(-picture // self.stem.stride)]
            for stage in self.stages:
                sides.append(-(-sides[-1] // stage.stride))
            result.append(tuple(sides))
        return tuple(result)

    def _node(self, number: int, place: _Place, candidate: Candidate, name: str) -> Node:
        return candidate.node(name, *self._shapes(number, place))

    def _before(self, resolution: int) -> tuple[Node, ...]:
        """Input and stem."""
        return self._ends[0][resolution]

    def _after(self, resolution: int, width: int) -> tuple[Node, ...]:
        """What follows the stages, by the last one's width."""
        return self._ends[1][resolution, width]

    @cached_property
    def _ends(self) -> tuple[tuple[tuple[Node, ...], ...], dict[tuple[int, int], tuple[Node, ...]]]:
        """What comes before the stages by resolution, and after them by resolution and last width."""
        before, after = [], {}
        for resolution, picture in enumerate(self._pictures):
            channels = self.input_channels
            nodes = [operation("input", "input", out=channels, resolution=self.input_size)]
            if picture != self.input_size:
                nodes.append(operation("resize", "resize", in_=channels, out=channels, resolution=picture))
            before.append((*nodes, _convolution_node("stem", self.stem, channels, picture)))
            for width, outputs in enumerate(self.stages[-1].outputs):
                wide, nodes = outputs, []
                if self.head is not None:
                    nodes = [_convolution_node("head", self.head, outputs, self._sides[resolution][-1])]
                    wide = self.head.channels
                nodes.append(operation("global_mean", "mean", in_=wide, out=wide, resolution=1))
                nodes.append(operation("linear", "classifier", in_=wide, out=self.classes, resolution=1))
                after[resolution, width] = tuple(nodes)
        return tuple(before), after

    @cached_property
    def _fixed_costs(self) -> NDArray[np.int64]:
        """Costs of what comes before and after the stages, (resolutions, last widths, costs)."""
        return np.array(
            [
                [
                    graph_costs(ArchGraph((*self._before(resolution), *self._after(resolution, width)), ()))
                    for width in range(len(self.stages[-1].widths))
                ]
                for resolution in range(len(self.resolutions))
            ],
            np.int64,
        )

    @cached_property
    def _layer_costs(self) -> tuple[tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...], ...]:
        """For each stage, of its first layer and of a later one: what each operation costs, (resolutions, widths
        before, widths, options, costs), and what the residual beside it costs, (resolutions, widths before, widths,
        costs)."""
        return tuple(
            tuple(self._costs_of(number, first) for first in (True, False)) for number in range(len(self.stages))
        )

    def _costs_of(self, number: int, first: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        stage, options = self.stages[number], self.options(number, first)
        shape = (len(self.resolutions), len(self._inputs(number)), len(stage.widths))
        table = np.zeros((*shape, len(options), len(COST_NAMES)), np.int64)
        residual = np.zeros((*shape, len(COST_NAMES)), np.int64)
        hard = Candidate("conv", 1, 1, 0, 0)  # stands for any operation that a residual goes beside
        for resolution, before, width in np.ndindex(shape):
            place = (resolution, before, width, first)
            table[resolution, before, width] = [node_costs(self._node(number, place, one, "")) for one in options]
            beside = self._shortcut(number, place, (hard,))
            if isinstance(beside, Candidate):
                residual[resolution, before, width] = node_costs(self._node(number, place, beside, ""))
        return table, residual

    def _single_costs(self, number: int, first: bool, resolution: int) -> NDArray[np.int64]:
        """Of a layer that applies one operation, its residual included, (widths before, widths, options, costs)."""
        table, residual = self._layer_costs[number][0 if first else 1]
        works = self._works(number, first)[:, None]
        return np.asarray(table[resolution] + works * residual[resolution][:, :, None], np.int64)


def _convolution_node(name: str, settings: ConvolutionSettings, inputs: int, side: int) -> Node:
    return operation(
        settings.op, name,
        in_=inputs, out=settings.channels, kernel=settings.kernel, stride=settings.stride,
        resolution=-(-side // settings.stride),
    )  # fmt: skip
