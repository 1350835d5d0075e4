"""The space ``union``: the architectures of several spaces, searched as one.

    space:
      kind: union
      input_size: 32
      members:
        vgg: {kind: families, family: vgg}
        dense: {kind: families, family: densenet}

Pictures and classes are the union's; the members have all else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BeforeValidator,
    Field,
    SerializationInfo,
    StringConstraints,
    ValidationInfo,
    field_serializer,
)

from supernet.graph import ArchGraph
from supernet.kinds import OneSpace
from supernet.limits import Bound, Limits, bounds
from supernet.operations import COST_NAMES
from supernet.settings import InputError, nearest
from supernet.space import Architecture, Choices, SearchSpace

_SHARED = ("input_size", "input_channels", "classes")

MemberName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$")]


def _with_shared(settings: object, info: ValidationInfo) -> object:
    """Settings of a member with what is the union's, so that they are checked for the pictures that they will get."""
    shared = {key: info.data[key] for key in _SHARED if key in info.data}
    if isinstance(settings, SearchSpace):
        own = [key for key in settings.model_fields_set & shared.keys() if getattr(settings, key) != shared[key]]
        settings = {**settings.model_dump(exclude_unset=True, exclude=set(_SHARED)), "kind": settings.kind}
    elif isinstance(settings, Mapping):
        own = [key for key in _SHARED if key in settings]
        if "kind" not in settings:
            raise ValueError("nothing says what space this member is; expected its kind, such as kind: families")
    else:
        return settings
    if own:
        raise ValueError(f"{own[0]} is the union's; expected it beside members")
    return _with_tuples({**settings, **shared})


def _with_tuples(value: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    """Tuples for lists, which a strict reader no longer takes for them once they come from here."""
    if isinstance(value, Mapping):
        return {key: _with_tuples(one) for key, one in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value


if TYPE_CHECKING:
    MemberSpace: TypeAlias = SearchSpace
else:
    MemberSpace = Annotated[OneSpace, BeforeValidator(_with_shared)]


class UnionSpace(SearchSpace):
    """Settings and space in one. The first choice is the member, the others are its own, filled up with 0.

    A member's architecture reads ``MEMBER: WORDS`` with the words of its own space. A change of the first choice that
    makes no network of another member is none; mutation goes to a random network of another member now and then.

    Attributes:
        members: the spaces by names of the user's, 1 to 36.
    """

    kind: Literal["union"] = "union"
    members: Annotated[dict[MemberName, MemberSpace], Field(min_length=1, max_length=36)]

    @field_serializer("members")
    def _own_settings(self, members: dict[str, SearchSpace], info: SerializationInfo) -> dict[str, Any]:
        """Without what is the union's, and always with the kind."""
        return {
            name: {
                "kind": member.kind,
                **member.model_dump(mode=info.mode, exclude=set(_SHARED), exclude_unset=bool(info.exclude_unset)),
            }
            for name, member in members.items()
        }

    def __eq__(self, other: object) -> bool:
        """Whether the settings are the same, and the members in the same order: the first choice counts them."""
        return super().__eq__(other) and list(self.members) == list(getattr(other, "members", ()))

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in _SHARED), *self.members.items()))

    @cached_property
    def _spaces(self) -> tuple[SearchSpace, ...]:
        return tuple(self.members.values())

    @cached_property
    def cardinalities(self) -> tuple[int, ...]:
        longest = max(len(space.cardinalities) for space in self._spaces)
        counts = [space.cardinalities + (1,) * (longest - len(space.cardinalities)) for space in self._spaces]
        return (len(counts), *(max(options) for options in zip(*counts, strict=True)))

    @property
    def size(self) -> int:
        return sum(space.size for space in self._spaces)

    def member(self, architecture: Architecture) -> str:
        """The name of the member that an architecture is of."""
        return tuple(self.members)[architecture.choices[0]]

    def within_member(self, architecture: Architecture) -> Architecture:
        """The same network as an architecture of its member."""
        space = self._spaces[architecture.choices[0]]
        return Architecture(space.name, architecture.choices[1 : 1 + len(space.cardinalities)])

    def _parts(self, choices: Choices) -> Iterator[tuple[SearchSpace, NDArray[np.intp], Choices]]:
        """For each member that rows are of: its space, the places of its rows, and the rows in its own choices."""
        for number, space in enumerate(self._spaces):
            places = np.flatnonzero(choices[:, 0] == number)
            if len(places):
                yield space, places, np.ascontiguousarray(choices[places, 1 : 1 + len(space.cardinalities)])

    def _rows(self, number: int, choices: Choices) -> Choices:
        """Rows of a member as rows of the union."""
        rows = np.zeros((len(choices), len(self.cardinalities)), np.int8)
        rows[:, 0] = number
        rows[:, 1 : 1 + choices.shape[1]] = choices
        return rows

    def graph(self, architecture: Architecture) -> ArchGraph:
        self.check(architecture)
        return self._spaces[architecture.choices[0]].graph(self.within_member(architecture))

    def is_valid(self, choices: Choices) -> NDArray[np.bool_]:
        valid = np.zeros(len(choices), np.bool_)
        for space, places, rows in self._parts(choices):
            filled = (choices[places, 1 + rows.shape[1] :] == 0).all(axis=1)
            valid[places] = space.is_valid(rows) & filled
        return valid

    def reason(self, architecture: Architecture) -> str:
        space, inside = self._spaces[architecture.choices[0]], self.within_member(architecture)
        begin = f"member {self.member(architecture)!r}: "
        try:
            space.check(inside)
        except InputError as error:
            return f"{begin}{error}"
        return f"{begin}choices behind its own {len(inside.choices)} must be 0"

    def canonical(self, choices: Choices) -> Choices:
        result = choices.copy()
        for space, places, rows in self._parts(choices):
            result[places, 1 : 1 + rows.shape[1]] = space.canonical(rows)
        return result

    def sample(self, count: int, random: np.random.Generator) -> Choices:
        """Each row is of a uniform member, and drawn as that one draws, shape (count, choices)."""
        numbers = random.integers(len(self._spaces), size=count)
        result = np.zeros((count, len(self.cardinalities)), np.int8)
        for number, space in enumerate(self._spaces):
            places = np.flatnonzero(numbers == number)
            result[places] = self._rows(number, space.sample(len(places), random))
        return result

    def log_density(self, choices: Choices) -> NDArray[np.float64]:
        result = np.full(len(choices), -math.log(len(self._spaces)))
        for space, places, rows in self._parts(choices):
            result[places] += space.log_density(rows)
        return result

    def disguise(self, choices: Choices, random: np.random.Generator) -> Choices:
        result = choices.copy()
        for space, places, rows in self._parts(choices):
            result[places, 1 : 1 + rows.shape[1]] = space.disguise(rows, random)
        return result

    def mutate(self, choices: Choices, random: np.random.Generator, changes: float = 1.0) -> Choices:
        """As each member does it; a row in (choices / ``changes``) is drawn anew, of any member."""
        result = choices.copy()
        for space, places, rows in self._parts(choices):
            result[places, 1 : 1 + rows.shape[1]] = space.mutate(rows, random, changes)
        jumping = np.flatnonzero(random.random(len(choices)) < changes / len(self.cardinalities))
        result[jumping] = self.sample(len(jumping), random)
        return result

    def crossover(self, first: Choices, second: Choices, random: np.random.Generator) -> Choices:
        """As a member does it where both parents are its own; otherwise the first parent's network."""
        result = first.copy()
        alike = first[:, 0] == second[:, 0]
        for space, places, rows in self._parts(np.where(alike[:, None], first, -1)):
            others = np.ascontiguousarray(second[places, 1 : 1 + rows.shape[1]])
            result[places, 1 : 1 + rows.shape[1]] = space.crossover(rows, others, random)
        return result

    def costs(self, choices: Choices) -> dict[str, NDArray[np.int64]]:
        result = {name: np.zeros(len(choices), np.int64) for name in COST_NAMES}
        for space, places, rows in self._parts(choices):
            for name, values in space.costs(rows).items():
                result[name][places] = values
        return result

    def depths(self, choices: Choices) -> NDArray[np.int64]:
        result = np.zeros(len(choices), np.int64)
        for space, places, rows in self._parts(choices):
            result[places] = space.depths(rows)
        return result

    def descend(self, measure: Callable[[Choices], NDArray[Any]]) -> Choices:
        """The best that the descents of all members lead to: from one of them no single change leads to another."""
        rows = np.concatenate(
            [
                self._rows(number, space.descend(lambda own, number=number: measure(self._rows(number, own))))  # type: ignore[misc]
                for number, space in enumerate(self._spaces)
            ]
        )
        return rows[[int(np.asarray(measure(rows)).argmin())]]

    def cheapest(self, cost: str) -> Architecture:
        rows = np.concatenate(
            [self._rows(number, space.cheapest(cost).row()) for number, space in enumerate(self._spaces)]
        )
        row = rows[int(self.costs(rows)[cost].argmin())]
        return Architecture(self.name, tuple(row.tolist()))

    def narrower(self, factor: float) -> Self:
        members = {}
        for name, space in self.members.items():
            try:
                members[name] = space.narrower(factor)
            except InputError as error:
                raise InputError(f"member {name!r}: {error}") from error
        return self.model_copy(update={"members": members})

    def parse(self, text: str) -> Architecture:
        """``MEMBER: WORDS``, the words as the member's space reads them."""
        name, colon, words = text.partition(":")
        if not colon or name.strip() not in self.members:
            raise InputError(
                f"architecture {text!r:.80}: expected MEMBER: ARCHITECTURE; {nearest(name.strip()[:40], self.members)}"
            )
        number = list(self.members).index(name.strip())
        row = self._rows(number, self._spaces[number].parse(words).row())[0]
        return Architecture(self.name, tuple(row.tolist()))

    def format(self, architecture: Architecture) -> str:
        space = self._spaces[architecture.choices[0]]
        return f"{self.member(architecture)}: {space.format(self.within_member(architecture))}"

    def option_name(self, choice: int, option: int) -> str:
        if choice == 0:
            return f"member {tuple(self.members)[option]}"
        return super().option_name(choice, option)

    def evenly(self, count: int, random: np.random.Generator, limits: Limits) -> Choices:
        """Distinct rows within limits, of each member in turn, shape (count, choices).

        The first rows do not depend on ``count``.

        Raises:
            InputError: a member with too few architectures within the limits.
        """
        from supernet.sampling import sample_distinct  # which knows spaces, not this one

        each = -(-count // len(self._spaces))
        streams = random.spawn(len(self._spaces))
        parts = []
        for number, (name, space) in enumerate(self.members.items()):
            try:
                own = self._limits_of(number, limits)
                parts.append(self._rows(number, sample_distinct(space, each, streams[number], own)))
            except InputError as error:
                raise InputError(f"member {name!r}: {error}") from error
        return np.stack(parts, axis=1).reshape(-1, len(self.cardinalities))[:count]

    def _limits_of(self, number: int, limits: Limits) -> dict[str, Bound]:
        """The same limits for rows of a member: what measures them knows rows of the union."""

        def inside(bound: Bound) -> Bound:
            measure = bound.measure
            if measure is None:
                return bound
            return replace(bound, measure=lambda rows: measure(self._rows(number, rows)))

        return {name: inside(bound) for name, bound in bounds(limits).items()}
