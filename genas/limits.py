"""Limits as a recipe says them, and what they mean for a space."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
from pydantic import BeforeValidator, Discriminator, Tag, model_validator

from supernet import COST_NAMES, Bound, InputError, SearchSpace, Settings
from supernet.latency import read_latency
from supernet.limits import LIMITED, cost_of, costliest
from supernet.settings import nearest

_UNITS = {"": 1, "K": 1_000, "M": 1_000_000, "G": 1_000_000_000}
_AMOUNT = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?)\s*([KMG%]?)")
_COSTS = (*LIMITED, "latency")
_EXPECTED = "expected a number above 0, such as 15M or 15_000_000, or a share such as 60%"


def amount(text: str) -> int | float | str:
    """``15M`` as a whole number, ``1.5`` as it is; ``60%`` stays text. Raises ValueError for anything else."""
    found = _AMOUNT.fullmatch(text.strip())
    value = float(found[1].replace("_", "")) if found else 0.0
    if found is not None and found[2] != "%":
        value *= _UNITS[found[2]]
    if found is None or not 0 < value < np.inf:
        raise ValueError(_EXPECTED)
    if found[2] == "%":
        return text.strip()
    whole = round(value)
    return whole if np.isclose(whole, value, rtol=1e-9, atol=0) else value


def budget_of(text: str) -> int | float:
    """``15M`` as :func:`amount` reads it, without shares. Raises InputError for anything else."""
    try:
        value = amount(text)
    except ValueError:
        value = ""
    if isinstance(value, str):
        raise InputError(f"--budget {text!r:.80}: expected a number above 0, such as 15M or 15_000_000")
    return value


def number(value: Any) -> Any:  # noqa: ANN401 - whatever a recipe holds
    """A number above 0, also as ``15M``; a share such as ``60%`` stays text. Raises ValueError for anything else."""
    if isinstance(value, str):
        return amount(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(_EXPECTED)
    return value


_Amount = Annotated[int | float | str, BeforeValidator(number)]


class LimitSettings(Settings):
    """The values that a cost may take, ends included.

    Attributes:
        min: smallest allowed value: a number, ``5M``, or a share of a reference network such as ``60%``.
        max: largest allowed value.
        of: the reference network, as a person types it; None is the costliest of the space.
    """

    min: _Amount | None = None
    max: _Amount | None = None
    of: str | None = None

    @model_validator(mode="after")
    def _something(self) -> LimitSettings:
        if self.min is None and self.max is None:
            raise ValueError("neither min nor max is given")
        if self.of is not None and not any(isinstance(end, str) for end in (self.min, self.max)):
            raise ValueError("of: means nothing without a share of it, such as max: 60%")
        return self


def _limit(value: Any) -> Any:  # noqa: ANN401 - whatever a recipe holds
    if isinstance(value, Mapping | LimitSettings):
        return value
    value = number(value)
    return value if isinstance(value, int) else {"max": value}


def _kind(value: Any) -> str:  # noqa: ANN401 - what a limit was made into
    return "number" if isinstance(value, int) else LimitSettings.__name__


LimitValue: TypeAlias = Annotated[
    Annotated[
        Annotated[int, Tag("number")] | Annotated[LimitSettings, Tag(LimitSettings.__name__)], Discriminator(_kind)
    ],
    BeforeValidator(_limit),
]
"""The largest allowed value, or both ends."""


def check_name(name: str) -> str:
    """Raises ValueError for what no limit is known of."""
    if name not in _COSTS:
        raise ValueError(f"unknown cost; {nearest(name, _COSTS)}")
    return name


def resolve_limits(
    space: SearchSpace, limits: Mapping[str, int | LimitSettings], latency: Path | None = None
) -> dict[str, Bound]:
    """What a recipe's limits mean for a space.

    Args:
        latency: the model that latency is counted with.

    Raises:
        InputError: a limit on latency without a model, a reference that is not of the space, or a share that leaves
            the least above the most.
    """
    result = {}
    for name, limit in limits.items():
        measure = None
        if name == "latency":
            if latency is None:
                raise InputError(
                    "limits.latency needs the latency of operations: genas latency CONFIG --out FILE measures it, "
                    "latency: FILE in the recipe names it"
                )
            measure = read_latency(latency).measure(space)
        if not isinstance(limit, LimitSettings):
            limit = LimitSettings(max=limit)
        least, most = limit.min, limit.max
        reference = None
        if any(isinstance(end, str) for end in (least, most)):
            if limit.of is None and name == "latency":
                raise InputError("limits.latency: a share needs a network, of: ARCHITECTURE")
            whole = costliest(space, name) if limit.of is None else space.read(limit.of)
            row = whole.row()
            reference = float((measure(row) if measure is not None else cost_of(space, row, name))[0])
        ends = [_end(end, reference, whole=measure is None, up=up) for end, up in ((least, True), (most, False))]
        bound = Bound(-np.inf if ends[0] is None else ends[0], np.inf if ends[1] is None else ends[1], measure)
        if bound.least > bound.most:
            raise InputError(f"limits.{name}: expected min <= max, got {bound.least:,.10g} and {bound.most:,.10g}")
        result[name] = bound
    return result


def _end(end: float | str | None, reference: float | None, whole: bool, up: bool) -> float | None:
    if end is None or not isinstance(end, str):
        return end
    assert reference is not None
    value = Fraction(end.rstrip("%").strip().replace("_", "")) / 100 * Fraction(reference)  # exact: a limit is hard
    if not whole:
        return float(value)
    return math.ceil(value) if up else math.floor(value)


def limits_json(limits: Mapping[str, Bound]) -> dict[str, Any]:
    """As files keep them: the largest allowed value alone, or both ends."""
    content: dict[str, Any] = {}
    for name, bound in limits.items():
        most, least = (None if np.isinf(end) else end for end in (bound.most, bound.least))
        content[name] = most if least is None and isinstance(most, int) else {"min": least, "max": most}
    return content


def sweep(text: str) -> tuple[str, list[int]]:
    """``macs=5M:20M:20`` as a cost and 20 limits from 5 to 20 million, evenly apart; macs where no cost is named.

    Raises:
        InputError: anything else.
    """
    name, _, ends = text.rpartition("=")
    name = name.strip() or "macs"
    if name not in (*COST_NAMES, "depth"):
        raise InputError(f"--limits {text!r:.80}: unknown cost {name!r}; {nearest(name, (*COST_NAMES, 'depth'))}")
    parts = ends.split(":")
    try:
        first, last = (amount(part) for part in parts[:2])
        count = int(parts[2])
    except (ValueError, IndexError):
        first = last = ""
        count = 0
    if (
        len(parts) != 3
        or not isinstance(first, int)
        or not isinstance(last, int)
        or not first <= last
        or not 1 <= count <= 1000
    ):
        raise InputError(
            f"--limits {text!r:.80}: expected LEAST:MOST:COUNT, such as 5M:20M:20, or COST=LEAST:MOST:COUNT"
        )
    return name, list(dict.fromkeys(int(value) for value in np.linspace(first, last, count).round()))
