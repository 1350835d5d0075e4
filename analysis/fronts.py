"""Fronts of error against cost: what stands on one, and what a front as a whole is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from supernet.pareto import front, hypervolume
from supernet.settings import InputError

_UNITS = {"params": "M parameters", "macs": "M MACs"}
_DRAWS = 2_000
_LEVEL = 0.95

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Member:
    """One trained network, or an ensemble, on a plane of error against cost.

    Attributes:
        name: key of the architecture, or the name under which it was published.
        series: what found it, such as ``preferences`` or ``published``: one colour in a figure. Where the word
            ``ensemble`` is in it, a member is several networks that vote.
        error: a fraction, lower is better.
        images: how many images the error is over.
        split: ``validation`` or ``test``.
        params, macs: of one image's forward pass; of an ensemble those of all its members.
        latency: milliseconds by place and batch, such as ``cpu batch 1``.
        note: a few words more, such as the preference or the width.
    """

    name: str
    series: str
    error: float
    images: int
    split: str
    params: int
    macs: int
    latency: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def cost(self, name: str) -> float | None:
        """``params``, ``macs`` or a latency by its name, lower is better; None where it was not measured."""
        if name in ("params", "macs"):
            return float(getattr(self, name))
        return self.latency.get(name)

    @property
    def ensemble(self) -> bool:
        """Whether it is several networks."""
        return "ensemble" in self.series


class MemberFields(BaseModel):
    """A member as JSON. Further keys may stand beside these."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, strict=True)

    name: str = Field(min_length=1)
    series: str = Field(min_length=1)
    error: float = Field(ge=0, le=1)
    images: int = Field(ge=1)
    split: Literal["validation", "test"]
    params: int = Field(ge=0)
    macs: int = Field(ge=0)
    latency: dict[str, Annotated[float, Field(gt=0)]] = {}
    note: str = ""

    def plain(self) -> Member:
        """The member alone."""
        return Member(**{name: getattr(self, name) for name in MemberFields.model_fields})


def member_to_json(member: Member) -> dict[str, Any]:
    """The fields by name, as :func:`member_from_json` reads them."""
    return {**asdict(member), "latency": dict(member.latency)}


def member_from_json(content: object, place: str) -> Member:
    """The member that an object of a file holds; keys that a member does not have are left aside.

    Args:
        place: of the object, for the message.

    Raises:
        InputError: a field that is missing or wrong.
    """
    try:
        return MemberFields.model_validate(content).plain()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{place}: {where + ': ' if where else ''}{first['msg']}, got {first['input']!r:.60}"
        ) from error


@dataclass(frozen=True)
class Hypervolume:
    """What a front dominates below a reference, larger is better, in the unit's millions or milliseconds times points.

    Attributes:
        value: of the errors as measured, as published numbers are.
        low, high: a 95 % interval of the volume that endless images would give; see :func:`front_volume`.
        reference_cost: parameters, MACs or milliseconds, not millions; nothing at or above it counts.
        reference_error: a fraction; nothing at or above it counts.
        cost: ``params``, ``macs`` or the name of a latency.
        unit: such as ``M parameters x points``.
    """

    value: float
    low: float
    high: float
    reference_cost: float
    reference_error: float
    cost: str
    unit: str


@dataclass(frozen=True)
class Difference:
    """One front's volume less another's, above 0 where the first is better, with a 95 % interval."""

    value: float
    low: float
    high: float
    unit: str


def non_dominated(members: Sequence[Member], cost: str) -> tuple[Member, ...]:
    """The members that no other beats in one of error and cost and equals in the other, ascending by cost.

    Of equal ones the first. Members whose cost was not measured are left out.
    """
    known = _known(members, cost)
    return tuple(known[place] for place in front(_plane(known, cost)))


def front_volume(
    members: Sequence[Member],
    cost: str,
    reference_cost: float,
    reference_error: float,
    seed: int,
    shared: float = 0.5,
    draws: int = _DRAWS,
) -> Hypervolume:
    """The volume between the members and a reference, and how much of it the finite set of images leaves open.

    The interval is a parametric bootstrap: the count of errors of every member is drawn again, binomial on its images,
    and the volume taken of the front that comes out. The lowest of several noisy errors is lower than the true lowest:
    a volume is too large on average, and that of redrawn errors once more. The interval is therefore the basic one,
    from twice the value less the upper end to twice the value less the lower: it takes the bias off, and lies below
    the value where many members compete. Quantiles of the redrawn volumes themselves would hold next to never.

    On simulated fronts of 12 and of 37 members with 10,000 images, whose errors had a correlation of 0 to 0.7, the
    interval held the true volume in 90 to 100 % of cases; with ``shared=0`` in 41 to 95 %. It holds in 49 to 87 % where
    60 members are equally good: the volume flatters there by more than redrawing tells. Other trainings of the same
    networks would differ by more than other images.

    Args:
        members: of one split; those without this cost are left out.
        cost: ``params``, ``macs`` or the name of a latency.
        reference_cost: in parameters, MACs or milliseconds.
        reference_error: a fraction.
        shared: correlation between the errors of two members, from 0 to 1. Networks that were measured on the same
            images err on the same ones in part, and do not cancel each other; 0 is for images of their own, and
            otherwise too narrow.

    Raises:
        InputError: members of both splits, a reference that is not finite and above 0, or a correlation out of range.
    """
    known = _checked(members, cost, (reference_cost, reference_error), shared)
    scale, unit = _scale(cost)
    reference = np.array([reference_cost * scale, 100 * reference_error])
    value = hypervolume(_plane(known, cost), reference)
    redrawn = _redrawn(known, shared, draws, np.random.default_rng(seed))
    low, high = _basic(value, [hypervolume(_plane(known, cost, errors), reference) for errors in redrawn])
    low, high = max(0.0, low), max(0.0, high)  # which a difference may be below, not a volume
    return Hypervolume(value, low, high, float(reference_cost), float(reference_error), cost, unit)


def compare(
    first: Sequence[Member],
    second: Sequence[Member],
    cost: str,
    reference: tuple[float, float],
    seed: int = 0,
    shared: float = 0.0,
    draws: int = _DRAWS,
) -> Difference:
    """The volume of the first front less that of the second, with the interval of :func:`front_volume`.

    A member of both is drawn once, so that what two fronts have in common does not blur the difference.

    Args:
        reference: cost and error, as :func:`front_volume` has them.
        shared: as there; what members on the same images err in common cancels here, so 0 errs on the wide side.

    Raises:
        InputError: as :func:`front_volume`.
    """
    known = _checked([*first, *(one for one in second if one not in first)], cost, reference, shared)
    scale, unit = _scale(cost)
    corner = np.array([reference[0] * scale, 100 * reference[1]])
    sides = [np.array([one in side for one in known], np.bool_) for side in (first, second)]

    def difference(plane: Array) -> float:
        one, other = (hypervolume(plane[side], corner) for side in sides)
        return one - other

    value = difference(_plane(known, cost))
    redrawn = _redrawn(known, shared, draws, np.random.default_rng(seed))
    low, high = _basic(value, [difference(_plane(known, cost, errors)) for errors in redrawn])
    return Difference(value, low, high, unit)


def combine_seeds(members: Sequence[Member]) -> tuple[Member, ...]:
    """Trainings of one network with several seeds as one member: the mean error, over the images of all.

    Members of one name, series and split are one network. Seeds that were measured on the same images are taken for
    independent here. Latency and note are the first one's.

    Raises:
        InputError: parameters or MACs that differ within a network.
    """
    networks: dict[tuple[str, str, str], list[Member]] = {}
    for member in members:
        networks.setdefault((member.name, member.series, member.split), []).append(member)
    for seeds in networks.values():
        if len({(one.params, one.macs) for one in seeds}) > 1:
            raise InputError(f"front: {seeds[0].name:.60} of {seeds[0].series:.60} has several parameters or MACs")
    return tuple(
        replace(
            seeds[0],
            error=sum(one.error * one.images for one in seeds) / sum(one.images for one in seeds),
            images=sum(one.images for one in seeds),
        )
        for seeds in networks.values()
    )


def unit_of(cost: str) -> str:
    """Of the volume with a cost: millions for parameters and MACs, milliseconds for a latency, times points."""
    return f"{_UNITS.get(cost, 'ms')} x points"


def _scale(cost: str) -> tuple[float, str]:
    return (1e-6 if cost in _UNITS else 1.0), unit_of(cost)


def _known(members: Sequence[Member], cost: str) -> list[Member]:
    return [member for member in members if member.cost(cost) is not None]


def _checked(members: Sequence[Member], cost: str, reference: tuple[float, float], shared: float) -> list[Member]:
    if not all(np.isfinite(end) and end > 0 for end in reference):
        raise InputError(f"reference: expected a cost and an error that are finite and above 0, got {reference}")
    if not 0 <= shared <= 1:
        raise InputError(f"shared: expected a correlation from 0 to 1, got {shared}")
    splits = sorted({member.split for member in members})
    if len(splits) > 1:
        raise InputError(f"front: errors on {' and '.join(splits)} images do not compare; expected one split")
    return _known(members, cost)


def _plane(members: Sequence[Member], cost: str, errors: Array | None = None) -> Array:
    """Costs in millions or milliseconds and errors in percent, shape (members, 2)."""
    scale, _ = _scale(cost)
    values = [member.error for member in members] if errors is None else errors
    costs = [scale * (member.cost(cost) or 0.0) for member in members]
    return np.column_stack([np.array(costs, np.float64), 100 * np.asarray(values, np.float64)])


def _redrawn(members: Sequence[Member], shared: float, draws: int, random: np.random.Generator) -> Array:
    """Errors as fractions, shape (draws, members); binomial each, correlated through a Gaussian copula."""
    from scipy import stats  # late: it takes longer to import than the rest of a report

    common, own = random.standard_normal((draws, 1)), random.standard_normal((draws, len(members)))
    images = np.array([member.images for member in members], np.int64)
    errors = np.array([member.error for member in members], np.float64)
    chance = stats.norm.cdf(np.sqrt(shared) * common + np.sqrt(1 - shared) * own)
    redrawn: Array = stats.binom.ppf(chance, images, errors) / images
    return redrawn


def _basic(value: float, redrawn: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(redrawn, ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    return float(2 * value - high), float(2 * value - low)
