"""Settings of ``genas front``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from genas.limits import number
from supernet import Settings
from supernet.settings import distinct
from training import Recipe
from training.search_settings import DifferentiableSettings


class ReferenceSettings(Settings):
    """The corner that a hypervolume is measured from: what is costlier or wronger counts for nothing.

    Attributes:
        cost: in units of ``front.cost``, such as 5_000_000 parameters.
        error: a fraction.
    """

    cost: Annotated[float, BeforeValidator(number), Field(gt=0)]
    error: Annotated[float, Field(gt=0, le=1)]


class FrontSettings(Settings):
    """How a front of error against cost is found and trained.

    Attributes:
        method: ``preferences`` searches once, with a hypernetwork from preferences to architectures; ``costs`` searches
            once for each of several preferences; ``norms`` is the published sweep: several searches for accuracy alone,
            whose shared weights are regularised more and more; ``predictor`` takes what ``genas search --front`` found.
        scalarisation: of ``preferences``: a preference is a ``budget``, the share of the range of costs that may be
            spent, or ``weighted``, the weight of the cost against the loss.
        cost: what error is traded for: parameters or MACs of one image.
        searches: how many, of the methods that search several times.
        norm: of ``norms``: the norm that is added to the loss.
        norm_weights: of ``norms``: the least and the largest strength; those between are chosen one after the other,
            where neighbours are farthest apart.
        search: how the shared network is searched.
        shared: settings of the space that are others while it is searched, such as ``{cells: 8, channels: 16}``.
        widths: each cell that is found is also a member with its channels times these factors.
        depths: and with so many cells, of spaces that have ``cells``; empty: those of the space.
        candidates: networks that are ranked, at most; evenly spaced in cost where more were found.
        cheap_epochs: epochs of the short trainings that rank them; None ranks none, and all are trained in full.
        margin: a candidate is left out where another of at most its cost was better by more than this in its short
            training, as a fraction of the images.
        train: networks that are trained in full, at most.
        seeds: trainings of each.
        recipe: of the full trainings; None is that of ``generate``.
        reference: of the hypervolume; None: the costliest member and the error of guessing.
        latency_batches: images in a forward pass whose latency is measured; empty measures none.
        beside: files of members from elsewhere, as ``genas import-study`` writes them, for the same plot.
    """

    method: Literal["preferences", "costs", "norms", "predictor"] = "preferences"
    scalarisation: Literal["budget", "weighted"] = "budget"
    cost: Literal["params", "macs"] = "params"
    searches: Annotated[int, Field(ge=2, le=1000)] = 8
    norm: Literal["l1", "l2"] = "l2"
    norm_weights: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (7e-4, 0.2)
    search: DifferentiableSettings = DifferentiableSettings()
    shared: dict[str, Any] = Field(default_factory=dict)
    widths: Annotated[tuple[Annotated[float, Field(ge=0.001, le=16)], ...], Field(min_length=1, max_length=12)] = (1.0,)
    depths: Annotated[tuple[Annotated[int, Field(ge=1, le=100)], ...], Field(max_length=12)] = ()
    candidates: Annotated[int, Field(ge=1, le=10_000)] = 64
    cheap_epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    margin: Annotated[float, Field(ge=0, le=1)] = 0.02
    train: Annotated[int, Field(ge=1, le=10_000)] = 24
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    recipe: Recipe | None = None
    reference: ReferenceSettings | None = None
    latency_batches: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=4)] = (1,)
    beside: tuple[Path, ...] = ()

    _widths = field_validator("widths")(distinct)
    _depths = field_validator("depths")(distinct)
