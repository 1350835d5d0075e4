"""Where worker processes run: what the driver asks of a runner, and what it hears from it.

A runner starts and ends processes and carries lines between them and the driver. It knows nothing of jobs, results
or the store; these are the driver's alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Place:
    """Where a worker is: the name of its machine, its device, and the number of its process there."""

    node: str
    device: str
    pid: int


@dataclass(frozen=True)
class Node:
    """A machine that workers run on.

    Attributes:
        places: most workers side by side.
        lost: whether it is gone.
        why: why it is there and not used; empty otherwise.
    """

    name: str
    device: str
    places: int
    lost: bool = False
    why: str = ""


@dataclass(frozen=True)
class Placed:
    """A worker that was asked for has been started."""

    worker: int
    place: Place


@dataclass(frozen=True)
class Line:
    """What a worker wrote."""

    worker: int
    text: bytes


@dataclass(frozen=True)
class Ended:
    """A worker is gone.

    Attributes:
        words: how it ended, and its last words.
        lost: not by itself: its machine is gone, or the connection to it.
        node: the name of its machine where that is known.
    """

    worker: int
    words: str
    lost: bool = False
    node: str = ""


Event = Placed | Line | Ended


class Runner(Protocol):
    """Starts worker processes and carries lines to and from them.

    Attributes:
        closing: seconds that :meth:`close` may take.
    """

    closing: float

    def capacity(self) -> int:
        """How many workers may be asked for in all; machines that come and go change it."""
        ...

    def start(self) -> int:
        """Ask for another worker and return its number. Where it is comes later, and that it is ready it says itself.

        Raises UnavailableError where none can be started.
        """
        ...

    def send(self, worker: int, message: Mapping[str, object]) -> None:
        """Write a worker a line. To one that is gone it is lost; :meth:`hear` tells that it is gone."""
        ...

    def hear(self, seconds: float) -> Sequence[Event]:
        """What has happened to workers and what they wrote, in order, after waiting at most so long for something.

        Raises UnavailableError where what the workers run on is gone for good.
        """
        ...

    def end(self, worker: int) -> None:
        """Kill a worker with all that it has started. It is not heard of any more."""
        ...

    def give_up(self, node: str, why: str) -> None:
        """Use a machine no more. Raises UnavailableError where no other is left."""
        ...

    def nodes(self) -> Sequence[Node]:
        """The machines by name, those too that are gone."""
        ...

    def close(self) -> None:
        """End all workers and what the runner itself has started."""
        ...
