"""Architectures and the spaces that they come from. No torch.

One architecture is a frozen value; many are the rows of an integer matrix, which is what sampling,
search and costs work on: ``choices[i, j]`` is the option that architecture ``i`` takes at choice ``j``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from supernet.graph import ArchGraph
from supernet.settings import InputError

Choices: TypeAlias = NDArray[np.int8]
"""A batch of architectures, shape (architectures, choices)."""

_KEY_LIMIT = 64
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_OPTIONS = frozenset(range(len(_DIGITS)))

_BATCHES = (1024,) * 64 + (65_536,) * 400
"""Draws at a time. Limits that leave too few among all these, 26 million, count as too tight for sampling."""


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
        """A canonical name that is fit for a file: space and choices, one base-36 digit each.

        More than 64 choices are shortened to a digest.
        """
        digits = "".join([_DIGITS[choice] for choice in self.choices])
        if len(digits) > _KEY_LIMIT:
            digits = hashlib.blake2b(digits.encode(), digest_size=16).hexdigest()
        return f"{self.space}-{digits}"

    def row(self) -> Choices:
        """The architecture as a batch of one, shape (1, choices)."""
        return np.asarray([self.choices], dtype=np.int8)


class SearchSpace(Protocol):
    """What a search space offers. Everything that costs time works on batches."""

    @property
    def name(self) -> str:
        """The first part of each key."""

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """The number of options of each choice."""

    def graph(self, architecture: Architecture) -> ArchGraph:
        """The network as a graph. Raises InputError for an architecture outside the space."""

    def parse(self, text: str) -> Architecture:
        """An architecture from what a person types. Raises InputError."""

    def format(self, architecture: Architecture) -> str:
        """The inverse of ``parse``."""

    def is_valid(self, choices: Choices) -> NDArray[np.bool_]:
        """Which rows are architectures of the space, shape (architectures,)."""

    def sample(self, count: int, random: np.random.Generator) -> Choices:
        """Valid architectures, uniform and independent, shape (count, choices)."""

    def costs(self, choices: Choices) -> dict[str, NDArray[np.int64]]:
        """Exact ``macs``, ``conv_macs``, ``params`` and ``activations``, each (architectures,)."""

    def cheapest(self, cost: str) -> Architecture:
        """A valid architecture with the least of one cost."""

    def narrower(self, factor: float) -> SearchSpace:
        """The space of the same architectures with about ``factor`` of the channels. Raises InputError."""


def architectures(space: SearchSpace, choices: Choices) -> list[Architecture]:
    """The rows of a batch as values."""
    return [Architecture(space.name, tuple(row)) for row in choices.tolist()]


def sample_distinct(
    space: SearchSpace,
    count: int,
    random: np.random.Generator,
    limits: dict[str, int] | None = None,
) -> Choices:
    """Distinct valid architectures within hard limits, uniform over those, in order of drawing.

    The first rows do not depend on ``count``, so that a larger plan only adds to a smaller one.

    Args:
        limits: largest allowed value for each cost named.

    Raises:
        InputError: a limit below the cheapest architecture, or too few architectures found.
    """
    check_limits(space, limits or {})
    seen: set[bytes] = set()
    rows: list[NDArray[np.int8]] = []
    for batch in _BATCHES:
        if len(rows) >= count:
            break
        drawn = space.sample(batch, random)
        for row in drawn[within(space, drawn, limits or {})]:
            if len(rows) < count and row.tobytes() not in seen:
                seen.add(row.tobytes())
                rows.append(row)
    if len(rows) < count:
        raise InputError(
            f"sampling: found {len(rows)} distinct architectures within {limits or 'no limits'}, "
            f"expected {count}; ask for fewer or raise the limit"
        )
    return np.stack(rows) if rows else np.empty((0, len(space.cardinalities)), np.int8)


def within(space: SearchSpace, choices: Choices, limits: dict[str, int]) -> NDArray[np.bool_]:
    """Which rows keep every limit, shape (architectures,). Validity is not asked."""
    fits = np.ones(len(choices), dtype=np.bool_)
    if limits:
        costs = space.costs(choices)
        for name, limit in limits.items():
            fits &= costs[name] <= limit
    return fits


def check_limits(space: SearchSpace, limits: dict[str, int]) -> None:
    """Raises InputError for a limit that not even the cheapest architecture keeps."""
    for name, limit in limits.items():
        least = space.cheapest(name)
        value = int(space.costs(least.row())[name][0])
        if value > limit:
            raise InputError(
                f"limit {name}: {limit:,} is below the cheapest architecture of {space.name}, "
                f"which needs {value:,} ({space.format(least)})"
            )
