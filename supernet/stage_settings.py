"""What a recipe says of one stage of the space ``stages``, and the operations that its layers may apply."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_serializer, model_validator

from supernet.graph import Node
from supernet.operations import operation
from supernet.settings import Settings, distinct, nearest

MOST = 36
"""Options of a choice: one base-36 digit in a key."""

PLAIN = ("skip", "shortcut")
"""Operations that are an identity where the shape stays."""
_KERNELS = (
    "sep_conv", "dil_conv", "mbconv", "conv", "conv_bn", "conv_bn_relu", "conv_bn_relu6", "conv_bn_hswish",
    "relu_conv_bn", "max_pool_same", "avg_pool_same",
)  # fmt: skip
_POOLS = ("max_pool_same", "avg_pool_same")
_SPATIAL = (*_POOLS, "sep_conv", "dil_conv", "mbconv")
_OPS = PLAIN + _KERNELS
_LISTS = ("kernel", "expansion", "se", "hswish")
_SHORT = re.compile(
    r"(?P<op>[a-z][a-z0-9_]*?)(?:_(?P<kernel>\d+))?(?:_e(?P<expansion>\d+))?(?P<se>_se)?(?P<hswish>_hswish)?"
)


def _as_tuple(value: object) -> object:
    """One number stands for a list of it."""
    return (value,) if isinstance(value, int) else tuple(value) if isinstance(value, list) else value


Kernel = Annotated[int, Field(ge=1, le=31)]
_CHANNELS = 65536
Channels = Annotated[int, Field(ge=1, le=_CHANNELS)]
Kernels = Annotated[tuple[Kernel, ...], Field(min_length=1), AfterValidator(distinct)]
Expansions = Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1), AfterValidator(distinct)]
Switches = Annotated[tuple[Literal[0, 1], ...], Field(min_length=1), AfterValidator(distinct)]
Widths = Annotated[
    tuple[Annotated[float, Field(gt=0, le=16)], ...], Field(min_length=1, max_length=MOST), AfterValidator(distinct)
]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One operation that a layer may apply; ``name`` is what a person types."""

    op: str
    kernel: int
    expansion: int
    se: int
    hswish: int

    @property
    def name(self) -> str:
        parts = [self.op]
        if self.op not in PLAIN:
            parts.append(str(self.kernel))
        if self.op == "mbconv":
            parts.append(f"e{self.expansion}")
            parts += ["se"] * self.se + ["hswish"] * self.hswish
        return "_".join(parts)

    def fits(self, inputs: int, outputs: int) -> bool:
        """Whether it can make so many channels of so many: pools keep them."""
        return self.op not in _POOLS or inputs == outputs

    def node(self, name: str, inputs: int, outputs: int, stride: int, side: int) -> Node:
        """The operation from a picture of ``side`` pixels."""
        attributes: dict[str, float] = {"in_": inputs, "out": outputs, "kernel": self.kernel, "stride": stride}
        if self.op == "dil_conv":
            attributes["dilation"] = 2
        if self.op == "mbconv":
            attributes |= {"expansion": self.expansion, "se": self.se, "hswish": self.hswish, "input_resolution": side}
        return operation(self.op, name, **attributes, resolution=-(-side // stride))


class CandidateSettings(Settings):
    """Operations that a layer may apply: a list stands for any of its members, several lists for every combination.

    A text such as ``sep_conv_5``, ``mbconv_3_e6_se`` or ``skip`` is short for one.

    Attributes:
        op: ``skip`` (identity, 1x1 convolution or factorized reduce, whatever the shapes need), ``shortcut`` (identity,
            or 1x1 convolution and norm), ``sep_conv``, ``dil_conv`` (dilation 2), ``mbconv`` (inverted residual),
            ``conv``, ``conv_bn``, ``conv_bn_relu``, ``conv_bn_relu6``, ``conv_bn_hswish``, ``relu_conv_bn``,
            ``max_pool_same`` or ``avg_pool_same``; see :data:`supernet.operations.OPERATIONS`.
        kernel: odd; not of ``skip`` and ``shortcut``.
        expansion: of ``mbconv``: times so many channels inside.
        se: of ``mbconv``: 1 with squeeze-excitation.
        hswish: of ``mbconv``: 1 with hard swish, 0 with ReLU.
    """

    op: str
    kernel: Kernels = (1,)
    expansion: Expansions = (1,)
    se: Switches = (0,)
    hswish: Switches = (0,)

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, value: Any) -> Any:  # noqa: ANN401 - whatever a file holds
        if isinstance(value, str) and value in _OPS:
            return {"op": value}
        if isinstance(value, str):
            found = _SHORT.fullmatch(value)
            if found is None:
                return {"op": value}
            given = {name: text for name, text in found.groupdict().items() if text is not None}
            numbers = {name: (int(given[name]),) for name in ("kernel", "expansion") if name in given}
            return {"op": given["op"], **numbers, **{name: (1,) for name in ("se", "hswish") if name in given}}
        if isinstance(value, Mapping):  # a strict reader no longer takes lists for tuples once they come from here
            return {key: _as_tuple(one) if key in _LISTS else one for key, one in value.items()}
        return value

    @field_validator("op")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in _OPS:
            raise ValueError(f"unknown operation {value!r:.60}; {nearest(value, _OPS)}")
        return value

    @field_validator("kernel")
    @classmethod
    def _odd(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(kernel % 2 == 0 for kernel in value):
            raise ValueError("a kernel is even; expected odd ones, which keep the side")
        return value

    @model_validator(mode="after")
    def _belong(self) -> CandidateSettings:
        own = {"kernel": self.op in _KERNELS, **dict.fromkeys(("expansion", "se", "hswish"), self.op == "mbconv")}
        for name, belongs in own.items():
            if not belongs and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{self.op} has no {name}; leave it out")
        if self.op in _SPATIAL and "kernel" in self.model_fields_set and 1 in self.kernel:
            raise ValueError(f"{self.op} with a kernel of 1 sees a single pixel; expected at least 3")
        if self.op == "mbconv" and "expansion" not in self.model_fields_set:
            raise ValueError("mbconv needs an expansion, such as mbconv_3_e6 or {op: mbconv, kernel: 3, expansion: 6}")
        if self.op in _KERNELS and "kernel" not in self.model_fields_set:
            raise ValueError(f"{self.op} needs a kernel, such as {self.op}_3 or {{op: {self.op}, kernel: [3, 5]}}")
        return self

    @model_serializer
    def _short(self) -> str | dict[str, Any]:
        """As a person would write it."""
        candidates = self.candidates
        if len(candidates) == 1:
            return candidates[0].name
        fields = type(self).model_fields
        needed = ("expansion",) if self.op == "mbconv" else ()
        given = {key: getattr(self, key) for key in _LISTS}
        kept = {key: value for key, value in given.items() if key in needed or value != fields[key].default}
        return {"op": self.op, **kept}

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every combination."""
        return tuple(
            Candidate(self.op, *values) for values in product(self.kernel, self.expansion, self.se, self.hswish)
        )


class ConvolutionSettings(Settings):
    """A convolution that every network has.

    Attributes:
        op: convolution, norm and activation.
        channels: its outputs.
        kernel: its kernel, odd.
        stride: 2 halves the side.
    """

    op: Literal["conv_bn", "conv_bn_relu", "conv_bn_relu6", "conv_bn_hswish"] = "conv_bn_relu6"
    channels: Channels = 16
    kernel: Annotated[int, Field(ge=1, le=31)] = 3
    stride: Literal[1, 2] = 1

    @field_validator("kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("the kernel is even; expected an odd one, which keeps the side")
        return value


class HeadSettings(ConvolutionSettings):
    """The convolution before the global mean; its kernel is 1 unless it is said."""

    channels: Channels = 1280
    kernel: Annotated[int, Field(ge=1, le=31)] = 1


class StageSettings(Settings):
    """Layers of the same width, of which the first has the stride.

    Attributes:
        channels: outputs of each layer.
        stride: of the first layer; the others have 1.
        depth: layers, or ``[least, most]``, which makes their number a choice.
        widths: factors on ``channels``, a choice where there are several.
        divisor: what ``widths`` give is rounded to multiples of it, at least one.
        operations: what a layer may apply. A layer leaves out what cannot make the channels it must, which are pools
            where the number of channels changes.
        apply: ``one`` of the operations, or ``any`` non-empty subset of them, whose outputs are summed.
        share: all layers of the stage apply the same, which then is one choice.
        residual: add a layer's input to what it gives: where the shape stays (True), or always, through a 1x1
            convolution and norm where it changes ("projected"). Not where the layer is an identity.
    """

    channels: Channels
    stride: Literal[1, 2] = 1
    depth: Annotated[int, Field(ge=1, le=32)] | tuple[int, int] = 1
    widths: Widths = (1.0,)
    divisor: Annotated[int, Field(ge=1, le=64)] = 8
    operations: Annotated[tuple[CandidateSettings, ...], Field(min_length=1)]
    apply: Literal["one", "any"] = "one"
    share: bool = False
    residual: bool | Literal["projected"] = False

    @field_validator("depth")
    @classmethod
    def _ordered(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if not isinstance(value, int) and not 1 <= value[0] < value[1] <= 32:
            raise ValueError(f"expected [least, most] with 1 <= least < most <= 32, or one number, got {list(value)}")
        return value

    @field_validator("operations")
    @classmethod
    def _named_once(cls, value: tuple[CandidateSettings, ...]) -> tuple[CandidateSettings, ...]:
        names = Counter(candidate.name for settings in value for candidate in settings.candidates)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ValueError(f"operation {twice[0]} is named twice")
        return value

    @model_validator(mode="after")
    def _scaled(self) -> StageSettings:
        if len(set(self.outputs)) != len(self.widths):
            made = ", ".join(f"{width:g}: {outputs}" for width, outputs in zip(self.widths, self.outputs, strict=True))
            raise ValueError(f"two widths of {self.channels} channels are the same multiple of {self.divisor} ({made})")
        inside = max(self.outputs) * max(one.expansion for one in self.candidates)
        if inside > _CHANNELS:
            raise ValueError(f"{inside:,} channels, width and expansion included; expected at most {_CHANNELS:,}")
        if len(self.candidates) > MOST:
            raise ValueError(f"{len(self.candidates)} operations; expected at most {MOST}")
        return self

    @property
    def depths(self) -> tuple[int, int]:
        """Least and most layers."""
        return (self.depth, self.depth) if isinstance(self.depth, int) else self.depth

    @property
    def outputs(self) -> tuple[int, ...]:
        """Channels by width."""
        if self.widths == (1.0,):
            return (self.channels,)
        return tuple(self.divisor * max(1, round(self.channels * width / self.divisor)) for width in self.widths)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        return tuple(candidate for settings in self.operations for candidate in settings.candidates)
