"""How the nodes of a run that is being driven stand: a small file that the driver writes again and again.

It is for display alone: nothing is read from it that a label or a decision could depend on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from supernet import InputError
from supernet.files import read_json, write_json

_FILE = "nodes.json"


@dataclass(frozen=True)
class GpuUse:
    """How busy one GPU is, and how full its memory; fractions."""

    use: float
    memory: float


@dataclass(frozen=True)
class NodeState:
    """One machine that trains, or did.

    Attributes:
        places: the most workers that it can hold.
        workers: those that are there.
        running: those that are at a job.
        gpus: one entry each; empty where nothing is known of them.
        lost: whether it is gone.
        why: why it is there and not used; empty otherwise.
    """

    name: str
    device: Literal["cpu", "cuda"]
    places: int
    workers: int
    running: int
    gpus: tuple[GpuUse, ...] = ()
    lost: bool = False
    why: str = ""


@dataclass(frozen=True)
class Standing:
    """What a driver knows at one moment.

    Attributes:
        time: when it was written, in seconds since 1970.
        stage: what is trained.
        runner: what holds the workers: ``local`` processes, or ``ray``.
        waiting: jobs that are not handed out yet.
        asked: workers that were asked for and are not placed yet.
    """

    time: float
    stage: str
    runner: str
    waiting: int
    asked: int
    nodes: tuple[NodeState, ...]


def write_standing(folder: Path, standing: Standing) -> None:
    """Write it to a run's folder. Raises UnavailableError where that cannot be written."""
    write_json(folder / _FILE, asdict(standing))


def read_standing(folder: Path) -> Standing | None:
    """What was written last; None where nothing was, and where it is damaged or not what this version writes."""
    try:
        content = read_json(folder / _FILE)
        return None if content is None else TypeAdapter(Standing).validate_python(content)
    except (InputError, ValidationError):
        return None
