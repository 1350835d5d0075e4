"""``RUN/front/front.json``: what ``genas front`` found and trained, and how good that is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from analysis.content import Content, read_content
from analysis.fronts import Hypervolume, Member, MemberFields, member_from_json
from supernet.files import read_json
from supernet.settings import InputError

FRONT_FILE = Path("front") / "front.json"
ENSEMBLE_FILE = Path("ensemble") / "ensemble.json"


class FrontMember(MemberFields):
    """A network that was trained.

    Attributes:
        error: on validation images, which choose, or on test images where those were read; ``split`` says which.
        preference: at which the search stood for it, from 0 (accuracy) to 1 (cost), or the strength of the norm; None
            where a method has none.
        member: name of the space that the network is in, one of several widths and depths.
        cheap: accuracy after a short training, by which it was chosen for training.
        on_front: whether no other member of the method has less error at no more cost.
        seeds: trainings that the errors are the mean of.
    """

    key: str
    architecture: str
    preference: float | None = None
    member: str = ""
    validation_error: float = Field(ge=0, le=1)
    test_error: float | None = Field(default=None, ge=0, le=1)
    cheap: float | None = None
    on_front: bool
    seeds: int = Field(default=1, ge=1)


class Reference(Content):
    """The corner that a volume is measured to: parameters or MACs, and a fraction."""

    cost: float = Field(gt=0)
    error: float = Field(gt=0, le=1)


class Epoch(Content):
    """The search after one epoch.

    Attributes:
        skip_share: of the edges on which a skip weighs most, a fraction.
        dominant: share of the edges on which each operation weighs most.
    """

    epoch: int
    loss: float | None = None
    accuracy: float | None = None
    cost: float | None = None
    skip_share: float = Field(ge=0, le=1)
    dominant: dict[str, float] = Field(default_factory=dict)


class FrontSearch(Content):
    """The search for genotypes."""

    seconds: float
    epochs: int
    genotypes: int
    collapsed: bool
    history: tuple[Epoch, ...] = ()


class RankTau(Content):
    """How well accuracies that choose rank networks as their full trainings do; Kendall tau, larger is better."""

    tau: float
    ci95: tuple[float, float]
    architectures: int


class Beside(Content):
    """A front that the run's own is compared with."""

    name: str
    members: tuple[MemberFields, ...]
    hypervolume: Hypervolume


class FrontFile(Content):
    """``front.json``: of ``distinct`` networks ``candidates`` were ranked, and of those some trained.

    Attributes:
        seconds: of the searches and of all trainings, by their own clocks: trainings run side by side.
    """

    method: Literal["preferences", "costs", "norms", "predictor"]
    cost: Literal["params", "macs"]
    reference: Reference
    members: tuple[FrontMember, ...]
    hypervolume: Hypervolume
    distinct: int
    candidates: int
    ranked: int
    trained: int
    search: FrontSearch
    cheap_tau: RankTau | None = None
    beside: tuple[Beside, ...] = ()
    seconds: float


def read_front(run: Path) -> FrontFile | None:
    """The front of a run's folder, None where there is none. Raises InputError for a damaged file."""
    return read_content(run / FRONT_FILE, FrontFile)


def ensemble_members(path: Path) -> tuple[Member, ...]:
    """The ensembles that a file tells of under ``front_members``, none where there is no file or nothing of the kind.

    Raises:
        InputError: a damaged file, or a member with a field that is missing or wrong.
    """
    found = (read_json(path) or {}).get("front_members", [])
    if not isinstance(found, list):
        raise InputError(f"{path}: front_members: expected a list, got {type(found).__name__}")
    return tuple(member_from_json(one, f"{path}: front_members.{number}") for number, one in enumerate(found))
