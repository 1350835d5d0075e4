"""How architectures are changed and mixed. All moves work on batches and know only the cardinalities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # spaces are built on these
    from supernet.space import Choices


def redraw(
    choices: Choices, where: NDArray[np.bool_], cardinalities: tuple[int, ...], random: np.random.Generator
) -> Choices:
    """Give each marked choice another option, uniform over the others; a choice of one option keeps it.

    Args:
        where: the choices to change, shape (architectures, choices).
    """
    rows, places = np.nonzero(where)
    counts = np.asarray(cardinalities)[places]
    steps = 1 + (random.random(len(rows)) * (counts - 1)).astype(np.int64)
    result = choices.astype(np.int8)
    result[rows, places] = (result[rows, places] + steps) % counts
    return result


def step(choices: Choices, cardinalities: tuple[int, ...], random: np.random.Generator) -> Choices:
    """Redraw one choice of each row or two, each change as likely as the one back."""
    counts, every = np.asarray(cardinalities), np.arange(len(choices))
    moved = choices.copy()
    first, second = random.integers(len(counts), size=(2, len(every)))
    for places, again in ((first, np.False_), (second, second == first)):
        steps = 1 + (random.random(len(every)) * (counts[places] - 1)).astype(np.int64)
        old = moved[every, places]
        moved[every, places] = np.where(again, old, (old + steps) % counts[places])
    return moved


def swap(choices: Choices, cardinalities: tuple[int, ...], random: np.random.Generator) -> Choices:
    """Lower one choice and raise another, each to a uniform option; of two options: one off, another on.

    At a tight limit most single changes are dead ends: something has to go before something can come.
    A row in which nothing can be lowered (or raised) is only raised (or lowered).
    """
    counts = np.asarray(cardinalities)
    every = np.arange(len(choices))
    result = choices.astype(np.int64)
    # The largest of uniform numbers on the allowed positions is a uniform one of them.
    down = (random.random(choices.shape, dtype=np.float32) * (choices > 0)).argmax(axis=1)
    up = (random.random(choices.shape, dtype=np.float32) * (choices < counts - 1)).argmax(axis=1)
    amounts = random.random((2, len(choices)))
    low = (amounts[0] * result[every, down]).astype(np.int64)
    above = result[every, up] + 1
    high = above + (amounts[1] * (counts[up] - above)).astype(np.int64)
    result[every, down] = low
    result[every, up] = np.minimum(high, counts[up] - 1)
    return result.astype(np.int8)


def crossover(first: Choices, second: Choices, random: np.random.Generator) -> Choices:
    """Uniform crossover: each choice of a child comes from either parent with equal chance."""
    return np.where(random.integers(0, 2, size=first.shape, dtype=np.bool_), first, second).astype(np.int8, copy=False)


def single_changes(choices: NDArray[np.int8], cardinalities: tuple[int, ...]) -> Choices:
    """Every row that differs from one, shape (choices,), in a single choice."""
    positions, options = _changes(choices, cardinalities)
    result = np.tile(choices, (len(positions), 1))
    result[np.arange(len(positions)), positions] = options
    return result


def neighbours(choices: NDArray[np.int8], cardinalities: tuple[int, ...]) -> Choices:
    """Every row that differs from one, shape (choices,), in one or two choices; some are named twice."""
    positions, options = _changes(choices, cardinalities)
    first, second = np.triu_indices(len(positions))
    result = np.tile(choices, (len(first), 1))
    every = np.arange(len(first))
    result[every, positions[first]] = options[first]
    result[every, positions[second]] = options[second]
    return result


def _changes(choices: NDArray[np.int8], cardinalities: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions and options of all single changes."""
    changes = [
        (position, option)
        for position, (own, count) in enumerate(zip(choices.tolist(), cardinalities, strict=True))
        for option in range(count)
        if option != own
    ]
    positions, options = np.asarray(changes, dtype=np.int64).reshape(-1, 2).T
    return positions, options
