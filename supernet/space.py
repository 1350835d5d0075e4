"""Architectures and the spaces that they come from. No torch.

One architecture is a frozen value; many are the rows of an integer matrix, which is what sampling,
search and costs work on: ``choices[i, j]`` is the option that architecture ``i`` takes at choice ``j``.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from supernet import moves
from supernet.graph import ArchGraph
from supernet.operations import COST_NAMES, graph_costs, graph_depth
from supernet.settings import InputError, Settings, nearest
from supernet.supergraph import SuperGraph, no_supergraph

Choices: TypeAlias = NDArray[np.int8]
"""A batch of architectures, shape (architectures, choices)."""

_KEY_LIMIT = 64
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_OPTIONS = frozenset(range(len(DIGITS)))

_TRIES = 8
"""How often an invalid child is drawn again before it stays as its parent."""
_STARTS = 64
"""Random rows, besides the first option everywhere, that the search for a cheapest architecture descends from."""
_SAMPLE_ROUNDS = 1000


@dataclass(frozen=True, slots=True, order=True)
class Architecture:
    """A space's name and one option for each of its choices."""

    space: str
    choices: tuple[int, ...]

    def __post_init__(self) -> None:
        if set(map(type, self.choices)) != {int} or not _OPTIONS.issuperset(self.choices):
            raise InputError(f"architecture: choices must be integers from 0 to 35, got {self.choices!r:.80}")

    @property
    def key(self) -> str:
        """A name that is fit for a file: space and choices, one base-36 digit each.

        More than 64 choices are shortened to a digest. Two architectures whose networks are the same have the same
        key where their choices are canonical, see :meth:`SearchSpace.canonical`.
        """
        digits = self.digits
        if len(digits) > _KEY_LIMIT:
            digits = hashlib.blake2b(digits.encode(), digest_size=16).hexdigest()
        return f"{self.space}-{digits}"

    @property
    def digits(self) -> str:
        """The choices, one base-36 digit each."""
        return "".join([DIGITS[choice] for choice in self.choices])

    def row(self) -> Choices:
        """The architecture as a batch of one, shape (1, choices)."""
        return np.asarray([self.choices], dtype=np.int8)


class SearchSpace(Settings, ABC):
    """A search space: settings, and everything that is asked of the architectures that they allow.

    A space of your own gives a ``kind``, ``cardinalities`` and ``graph``; all else follows from them. What costs
    time works on batches. Overriding is worth it for ``costs`` (the default builds each graph, some thousand a
    second), and needed where rows of options are invalid (``is_valid``, ``size``; ``clauses`` tells an exact search
    which) or mean the same network (``canonical``).

    Attributes:
        kind: the space's name, as ``space.kind`` in a recipe.
        input_size: side of the square picture in pixels.
        input_channels: 3 for colour, 1 for gray.
        classes: outputs of the network.
    """

    kind: str = ""
    input_size: Annotated[int, Field(ge=1, le=1024)] = 32
    input_channels: Annotated[int, Field(ge=1, le=16)] = 3
    classes: Annotated[int, Field(ge=2, le=100_000)] = 100

    def __eq__(self, other: object) -> bool:
        """Whether the settings are the same; what was computed from them, arrays among it, is not looked at."""
        if type(other) is not type(self):
            return False
        return all(getattr(self, name) == getattr(other, name) for name in type(self).model_fields)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in type(self).model_fields)))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:  # noqa: ARG002 - pydantic's
        """A space of its own: what this one has computed from its settings is not handed on."""
        return type(self).model_validate({**self.model_dump(exclude_unset=True), **(update or {})})

    @property
    def name(self) -> str:
        """The first part of each key."""
        return self.kind

    @property
    @abstractmethod
    def cardinalities(self) -> tuple[int, ...]:
        """The number of options of each choice, 1 to 36."""

    @abstractmethod
    def graph(self, architecture: Architecture) -> ArchGraph:
        """The network as a graph. Raises InputError for an architecture outside the space (:meth:`check`)."""

    @property
    def size(self) -> int:
        """How many architectures ``format`` tells apart. The default holds where every row of options is valid."""
        return math.prod(self.cardinalities)

    def check(self, architecture: Architecture) -> None:
        """Raises InputError for an architecture that is not of this space."""
        counts = self.cardinalities
        if architecture.space != self.name or len(architecture.choices) != len(counts):
            raise InputError(
                f"architecture {architecture.key}: expected {len(counts)} choices of space {self.name!r}, "
                f"got {len(architecture.choices)} of {architecture.space!r}"
            )
        for number, (choice, count) in enumerate(zip(architecture.choices, counts, strict=True), 1):
            if choice >= count:
                raise InputError(
                    f"architecture {architecture.key}: choice {number} is {choice}; expected 0 to {count - 1}"
                )
        if not self.is_valid(architecture.row())[0]:
            raise InputError(f"architecture {architecture.key}: {self.reason(architecture)}")

    def reason(self, architecture: Architecture) -> str:  # noqa: ARG002 - for those that know more
        """Why a row of existing options is no architecture, for the error that says so."""
        return f"these options do not go together in space {self.name!r}"

    def read(self, text: str) -> Architecture:
        """An architecture from its text or, where that has a digit for each choice, its key. Raises InputError."""
        name, _, digits = text.strip().rpartition("-")
        if name == self.name and len(digits) == len(self.cardinalities) and set(digits) <= set(DIGITS):
            architecture = Architecture(self.name, tuple(map(DIGITS.index, digits)))
            self.check(architecture)
            return architecture
        return self.parse(text)

    def parse(self, text: str) -> Architecture:
        """An architecture from what a person types. Raises InputError.

        The default is a base-36 digit for each choice; blanks between them mean nothing.
        """
        digits, counts = "".join(text.split()).lower(), self.cardinalities
        if len(digits) != len(counts) or set(digits) - set(DIGITS):
            raise InputError(
                f"architecture {text!r:.80}: expected {len(counts)} digits, one for each choice of space "
                f"{self.name!r}, got {len(digits)} characters"
            )
        architecture = Architecture(self.name, tuple(map(DIGITS.index, digits)))
        self.check(architecture)
        return architecture

    def format(self, architecture: Architecture) -> str:
        """What ``parse`` reads; of options that change nothing in the network, only one form need come back."""
        return architecture.digits

    def option_name(self, choice: int, option: int) -> str:
        """What an option of a choice, both counted from 0, is called in reports."""
        return f"choice {choice + 1} = {option}"

    def is_valid(self, choices: Choices) -> NDArray[np.bool_]:
        """Which rows are architectures of the space, shape (architectures,). The default: all that exist."""
        return in_range(choices, self.cardinalities)

    def clauses(self) -> tuple[tuple[tuple[int, int], ...], ...] | None:
        """What makes a row of existing options valid: of each clause at least one (choice, option); None: not known.

        Tells an exact search what it may choose from. The default knows spaces where every row is valid.
        """
        return () if type(self).is_valid is SearchSpace.is_valid else None

    def canonical(self, choices: Choices) -> Choices:
        """For each valid row the representative of all rows whose network is the same, shape as given.

        It belongs to the space, is its own representative, and costs no more than any of them.
        """
        return choices

    def sample(self, count: int, random: np.random.Generator) -> Choices:
        """Valid rows, independent, shape (count, choices); uniform over the valid rows unless the space says else."""
        counts, rows = self.cardinalities, np.empty((0, len(self.cardinalities)), np.int8)
        for _ in range(_SAMPLE_ROUNDS):
            drawn = random.integers(0, counts, size=(max(count, 16), len(counts))).astype(np.int8)
            rows = np.concatenate([rows, drawn[self.is_valid(drawn)]])
            if len(rows) >= count:
                return rows[:count]
        raise InputError(
            f"space {self.name!r}: almost no row of options is valid; a space like this needs a sample of its own"
        )

    def log_density(self, choices: Choices) -> NDArray[np.float64]:
        """Log of the chance that ``sample`` draws a valid row, shape (architectures,).

        A space of your own may leave out a constant; one that is to be a member of a union may not. The default is
        exact where every row of options is valid.
        """
        return np.full(len(choices), -sum(map(math.log, self.cardinalities)))

    def disguise(self, choices: Choices, random: np.random.Generator) -> Choices:  # noqa: ARG002
        """For each row another whose network is the same, as ``sample`` might have drawn it; the default: itself.

        Spaces with options that mean nothing in some rows draw those anew, so that a change which brings them to
        life brings a random one to life.
        """
        return choices

    def mutate(self, choices: Choices, random: np.random.Generator, changes: float = 1.0) -> Choices:
        """Valid rows in which each choice was given another option with chance ``changes`` / choices.

        A row stays the same network where no valid one was met.
        """
        rows, counts = self.disguise(choices, random), self.cardinalities
        result, open_ = rows.copy(), np.arange(len(rows))
        for _ in range(_TRIES):
            where = random.random((len(open_), len(counts)), dtype=np.float32) < changes / len(counts)
            moved = moves.redraw(rows[open_], where, counts, random)
            good = self.is_valid(moved)
            result[open_[good]] = moved[good]
            open_ = open_[~good]
            if not len(open_):
                break
        return result

    def crossover(self, first: Choices, second: Choices, random: np.random.Generator) -> Choices:
        """Valid children of two batches of parents: each choice from either with equal chance.

        A child that is not valid is drawn again; where none is, it is the first parent's network.
        """
        first, second = self.disguise(first, random), self.disguise(second, random)
        result, open_ = first.copy(), np.arange(len(first))
        for _ in range(_TRIES):
            mixed = moves.crossover(first[open_], second[open_], random)
            good = self.is_valid(mixed)
            result[open_[good]] = mixed[good]
            open_ = open_[~good]
            if not len(open_):
                break
        return result

    def neighbours(self, choices: NDArray[np.int8]) -> Choices:
        """Every valid row that differs from one, shape (choices,), in a single choice."""
        around = moves.single_changes(choices, self.cardinalities)
        return around[self.is_valid(around)] if len(around) else around

    def costs(self, choices: Choices) -> dict[str, NDArray[np.int64]]:
        """Exact ``macs``, ``conv_macs``, ``params`` and ``activations`` of valid rows, each (architectures,)."""
        rows = [graph_costs(self.graph(Architecture(self.name, tuple(row)))) for row in choices.tolist()]
        values = np.array(rows, dtype=np.int64).reshape(len(rows), len(COST_NAMES))
        return {name: values[:, column] for column, name in enumerate(COST_NAMES)}

    def depths(self, choices: Choices) -> NDArray[np.int64]:
        """Convolutions and linear layers on the longest path of valid rows, shape (architectures,)."""
        return np.fromiter(map(graph_depth, graphs(self, choices)), np.int64, len(choices))

    def cheapest(self, cost: str) -> Architecture:
        """A valid architecture with the least of one cost. Raises InputError for an unknown cost.

        The default descends by single changes from some rows, which finds it where costs add up over the choices.
        """
        check_cost(cost)
        return _cheapest(self, cost)

    def descend(self, measure: Callable[[Choices], NDArray[Any]]) -> Choices:
        """A canonical row with little of a measure of valid rows, shape (1, choices): by single changes, from some.

        Where :meth:`clauses` rule out some rows, by changes of two choices too: what leaves has to be replaced.
        """
        pairs = bool(self.clauses())
        random = np.random.default_rng(0)
        starts = self.sample(_STARTS, random)
        first = np.zeros((1, len(self.cardinalities)), np.int8)
        if self.is_valid(first)[0]:
            starts = np.concatenate([first, starts])
        values = measure(starts)
        best: tuple[float, NDArray[np.int8]] | None = None
        for start in np.argsort(values, kind="stable")[:4]:
            row, value = starts[start], values[start]
            while True:
                around = self.neighbours(row)
                costs = measure(around) if len(around) else np.empty(0)
                if pairs and not (costs < value).any():
                    around = moves.neighbours(row, self.cardinalities)
                    around = around[self.is_valid(around)]
                    costs = measure(around) if len(around) else np.empty(0)
                if not (costs < value).any():
                    break
                row, value = around[costs.argmin()], costs.min()
            if best is None or value < best[0]:
                best = (value, row)
        assert best is not None
        return self.canonical(best[1][None])

    def narrower(self, factor: float) -> Self:  # noqa: ARG002
        """The space of the same architectures with about ``factor`` of the channels.

        Raises InputError where there is none; the default always does.
        """
        raise InputError(f"space {self.name!r} has no narrower version of itself")

    def supergraph(self) -> SuperGraph:
        """All architectures as one graph, for weight sharing. Raises InputError where there is none, as by default."""
        raise no_supergraph(self.name)


def check_cost(cost: str) -> None:
    """Raises InputError for a cost that there is not."""
    if cost not in COST_NAMES:
        raise InputError(f"cost {cost!r} is not one of {', '.join(COST_NAMES)}; {nearest(cost, COST_NAMES)}")


@lru_cache(maxsize=256)
def _cheapest(space: SearchSpace, cost: str) -> Architecture:
    return architectures(space, space.descend(lambda rows: space.costs(rows)[cost]))[0]


def in_range(choices: Choices, cardinalities: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which rows hold only options that exist, shape (architectures,)."""
    if choices.size and choices.min() >= 0 and choices.max() < min(cardinalities):
        return np.ones(len(choices), np.bool_)  # the common case, at a tenth of the time
    return np.asarray(((choices >= 0) & (choices < np.asarray(cardinalities))).all(axis=1), dtype=np.bool_)


def architectures(space: SearchSpace, choices: Choices) -> list[Architecture]:
    """The rows of a batch as values."""
    return [Architecture(space.name, tuple(row)) for row in choices.tolist()]


def graphs(space: SearchSpace, choices: Choices) -> list[ArchGraph]:
    """The networks of a batch of valid rows."""
    return [space.graph(architecture) for architecture in architectures(space, choices)]
