"""What lies in a run folder, read and checked: the report is written from this and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from analysis.content import Content, read_content
from analysis.front_file import ENSEMBLE_FILE, FRONT_FILE, FrontFile, ensemble_members, read_front
from analysis.fronts import Member
from analysis.study import Study
from analysis.study_store import study_of_store
from data_gen.store import FRONT_STAGES, STUDY_STAGE, Failure, Label, NodeCount, Store, read_store
from supernet import COST_NAMES, InputError
from supernet.files import read_proved_text
from supernet.spaces import make_space

MOST_CURVES = 2_000
"""Of more trainings the report reads the curves of so many: their quartiles would look the same."""


_SPECTRA = "spectra_"

_OWN_STAGES = ("generate", "retrain", "top", "handmade", *FRONT_STAGES)
"""Stages of a store that are no cheap settings."""


class ModelTau(Content):
    """Kendall tau of one predictor on the held-out architectures; larger is better."""

    tau: float
    tau_ci95: tuple[float, float]
    tau_splits: float | None = None


class LabelNoise(Content):
    """How far two trainings of one architecture agree."""

    architectures: int
    tau: float
    ceiling: float
    standard_deviation: float


class HeldOut(Content):
    """One held-out architecture."""

    id: str
    measured: float
    predicted: float
    interval80: tuple[float, float] | None = None


class Curve(Content):
    """Kendall tau after so many labels, and how many more would give so much more."""

    labels: tuple[int, ...]
    tau: tuple[float, ...]
    gain: float
    more_labels: int | None


class Trust(Content):
    """How far the order of the predictor that searches holds."""

    verdict: str
    precision_top5: float
    tau_top10: float | None
    tau_same_macs: float | None
    coverage: dict[str, float]
    learning_curve: Curve


class Evaluation(Content):
    """``predictor/evaluation.json``; ``proxy`` is there where the metric is a training-free proxy, not measured.

    Earlier versions fitted the graph networks alone, on one split, and told of nothing but tau.
    """

    metric: str
    model: str = "graph"
    rows: int
    train_size: int
    test_size: int
    splits: int = 1
    models: dict[str, ModelTau]
    trust: Trust | None = None
    label_noise: LabelNoise | None = None
    held_out: tuple[HeldOut, ...]
    seconds: float
    proxy: dict[str, Any] | None = None

    @property
    def searching(self) -> ModelTau:
        """Of the model that searches."""
        return self.models[self.model]

    @property
    def is_fraction(self) -> bool:
        """Whether the metric is an accuracy that can be shown in percent."""
        return is_fraction(self.metric, [row.measured for row in self.held_out])


class CheapLabels(Content):
    """What one cheap setting costs, as shares of the full recipe, and how each kind of its labels ranks."""

    epochs: int
    train_images: int
    input_size: int
    width: float
    architectures: int
    cost: float = Field(gt=0)
    seconds_share: float
    labels: dict[str, ModelTau]


class Pick(ModelTau):
    """The cheapest label that ranks well enough."""

    setting: str
    label: str
    cost: float


class Fidelity(Content):
    """``fidelity.json``."""

    architectures: int
    threshold: float
    settings: dict[str, CheapLabels]
    macs: ModelTau | None
    pick: Pick | None


class Costed(Content):
    """An architecture and its exact costs for one image."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="allow")  # other costs, where those are limited

    key: str
    architecture: str
    macs: int
    conv_macs: int
    params: int
    activations: int

    def cost(self, name: str) -> float | None:
        """One of the costs by its name; None where it was not counted."""
        value = getattr(self, name, None)
        return None if value is None else float(value)


class Candidate(Costed):
    """An architecture that was searched for, with its predicted metric."""

    predicted: float
    distance: float | None = None
    far: bool = False


class Winner(Candidate):
    """``winner/architecture.json``."""

    graph: dict[str, Any]


class Searched(Content):
    """One search: (queries so far, best prediction so far) in ``history``, best first in ``best``."""

    queries: int
    exhausted: bool = False
    history: tuple[tuple[int, float], ...]
    best: tuple[Candidate, ...] = Field(min_length=1)


class WinnerTrust(Content):
    """An interval that holds a label with a given probability, and the distance to the nearest labelled one."""

    level: float
    interval: tuple[float, float]
    distance: float
    far: bool = False


class Search(Content):
    """``winner/search.json``; earlier versions do not tell how far to trust the winner's prediction."""

    metric: str
    limits: dict[str, Any]
    acquisition: str = "mean"
    evolution: Searched
    random: Searched
    evolution_seconds: float
    seconds: float
    trust: WinnerTrust | None = None
    taken: str | None = None


class LimitWinner(Content):
    """What was found under one of several limits; None where nothing keeps it."""

    limit: int
    winner: Candidate | None


class Sweep(Content):
    """``winner/limits.json``: a winner for each of several limits on one cost, and the front of all that was scored."""

    metric: str
    cost: str
    limits: dict[str, Any]
    winners: tuple[LimitWinner, ...]
    front: tuple[Candidate, ...]
    queries: int
    seconds: float


class Objective(Content):
    """What a front trades: its name, and whether more of it is better."""

    name: str
    maximised: bool


class FrontPoint(Content):
    """One architecture of a front; its objectives stand beside these."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="allow")

    key: str
    architecture: str
    distance: float | None = None

    def value(self, name: str) -> float:
        """Of one objective."""
        return float(getattr(self, name))


class Front(Content):
    """``winner/front.json``: what nothing dominates of all that was scored; each has a value of every objective."""

    objectives: tuple[Objective, ...] = Field(min_length=2)
    limits: dict[str, Any]
    front: tuple[FrontPoint, ...] = Field(min_length=1)
    queries: int
    seconds: float

    @model_validator(mode="after")
    def _has_values(self) -> Front:
        for point in self.front:
            for objective in self.objectives:
                if type(getattr(point, objective.name, None)) not in (int, float):
                    raise ValueError(f"architecture {point.key:.60} has no {objective.name}")
        return self


class Role(Costed):
    """One architecture that was trained from scratch; accuracies are fractions."""

    test_accuracies: tuple[float, ...]
    mean: float | None
    standard_deviation: float | None
    robust_accuracy: tuple[float, ...] = ()
    relative_robustness: tuple[float, ...] = ()


class Gain(Content):
    """Mean test accuracy of the winner less that of a control, a fraction; the interval is over seeds."""

    difference: float
    ci95: tuple[float, float] | None


class Model(Content):
    """The exported network and its check against the trained one."""

    seed: int
    test_accuracy: float
    largest_difference: float


class Retrain(Content):
    """``winner/retrain.json``."""

    test_images: int
    training_images: int
    predicted: float
    roles: dict[str, Role]
    gains: dict[str, Gain]
    robust_gains: dict[str, Gain] = Field(default_factory=dict)
    model: Model | None = None


class Images(Content):
    """How many images each split has."""

    train: int
    validation: int
    test: int


class Meta(Content):
    """``meta.json``."""

    command: tuple[str, ...] = ()
    seed: int | None = None
    python: str | None = None
    packages: dict[str, str | None] = Field(default_factory=dict)
    platform: str | None = None
    processor: str | None = None
    gpus: tuple[str, ...] = ()
    git_commit: str | None = None
    images: Images | None = None


@dataclass(frozen=True)
class Generated:
    """A trained architecture: mean validation accuracy over its trainings, a fraction, and its costs."""

    key: str
    accuracy: float
    trainings: int
    costs: dict[str, int]


@dataclass(frozen=True)
class Trainings:
    """What the store holds of a stage that trains.

    Attributes:
        planned: trainings that the stage wants.
        failures: trainings that failed and have no result, also those that will be tried again.
        final: ids of the failed jobs that will not be tried again; None where that is not known.
        running: attempts without an end.
        seconds: wall time of each call that ended.
        curves: those of all generated networks, or of evenly spaced ones where there are very many.
    """

    planned: int = 0
    results: Sequence[Label] = ()
    failures: Sequence[Failure] = ()
    final: frozenset[int] | None = None
    running: int = 0
    seconds: Sequence[float] = ()
    curves: Sequence[Mapping[str, Sequence[float]]] = ()


@dataclass(frozen=True)
class Record:
    """Everything that the report is written from. What a stage has not written yet is None or empty.

    Attributes:
        front: what ``search --front`` predicts; ``trained_front`` is of networks that were trained,
            and ``ensembles`` of such networks.
        cheap: the trainings of each cheap setting, by the name of its stage.
        nodes: how attempts of all stages ended on each node.
        study: trainings under corruptions or on smaller sets of images, with those of ``generate``; None where no
            network was measured so, or the space is one that only a Python program knows.
        spectra: curves over depth, as CSV text by the name of the measure.
        config: the resolved configuration, empty where there is none.
    """

    folder: Path
    generate: Trainings
    retraining: Trainings
    cheap: Mapping[str, Trainings]
    nodes: Sequence[NodeCount]
    fidelity: Fidelity | None
    evaluation: Evaluation | None
    search: Search | None
    winner: Winner | None
    retrain: Retrain | None
    sweep: Sweep | None
    front: Front | None
    trained_front: FrontFile | None
    ensembles: Sequence[Member]
    study: Study | None
    spectra: Mapping[str, str]
    meta: Meta | None
    config: Mapping[str, Any]
    config_text: str

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def source(self) -> str | None:
        """Where the images came from, as the user wrote it."""
        data = self.config.get("data")
        return str(data["source"]) if isinstance(data, dict) and "source" in data else None

    @property
    def limits(self) -> dict[str, Any]:
        """What each cost may be: the limits of the search, before it those of the configuration."""
        if self.search is not None:
            return self.search.limits
        limits = self.config.get("limits")
        if not isinstance(limits, dict):
            return {}
        return {str(name): value for name, value in limits.items()}

    @cached_property
    def generated(self) -> list[Generated]:
        """The trained architectures, in the order in which they were planned."""
        grouped: dict[str, list[Label]] = {}
        for label in self.generate.results:
            grouped.setdefault(label.key, []).append(label)
        return [
            Generated(
                key,
                sum(label.accuracy for label in labels) / len(labels),
                len(labels),
                {name: getattr(labels[0], name) for name in COST_NAMES},
            )
            for key, labels in grouped.items()
        ]

    @property
    def own_labels(self) -> bool:
        """Whether the predictor was judged on this run's own labels, not on another table or a training-free proxy."""
        if self.evaluation is None or self.evaluation.proxy is not None:
            return False
        keys = {row.key for row in self.generated}
        return all(row.id in keys for row in self.evaluation.held_out)


def read_record(folder: Path) -> Record:
    """Read a run folder at any stage.

    Raises:
        InputError: no run there, or a file that is damaged.
    """
    folder = folder.resolve()
    evaluation = read_content(folder / "predictor" / "evaluation.json", Evaluation)
    config, config_text = _read_config(folder / "config.yml")
    generate = retraining = Trainings()
    cheap: dict[str, Trainings] = {}
    nodes: list[NodeCount] = []
    study = None
    if (folder / "store.db").is_file():
        workers = config.get("workers")
        retries = workers.get("retries") if isinstance(workers, dict) else None
        store = read_store(folder / "store.db")
        try:
            generate = _trainings(store, "generate", retries)
            retraining = _trainings(store, "retrain", retries)
            others = [stage for stage in store.stages() if stage not in _OWN_STAGES]
            cheap = {stage: _trainings(store, stage, retries) for stage in others if not stage.startswith(STUDY_STAGE)}
            nodes = store.nodes()
            if len(cheap) < len(others) or any(label.metric_text != "{}" for label in generate.results):
                study = _study(store, config)
        finally:
            store.close()
    elif evaluation is None and not (folder / FRONT_FILE).is_file():
        raise InputError(f"{folder}: no run here (neither store.db nor predictor/evaluation.json); run generate first")
    return Record(
        folder,
        generate,
        retraining,
        cheap,
        nodes,
        read_content(folder / "fidelity.json", Fidelity),
        evaluation,
        read_content(folder / "winner" / "search.json", Search),
        read_content(folder / "winner" / "architecture.json", Winner),
        read_content(folder / "winner" / "retrain.json", Retrain),
        read_content(folder / "winner" / "limits.json", Sweep),
        read_content(folder / "winner" / "front.json", Front),
        read_front(folder),
        ensemble_members(folder / ENSEMBLE_FILE),
        study,
        {
            path.stem.removeprefix(_SPECTRA): path.read_text(encoding="utf-8", errors="replace")
            for path in sorted((folder / "spectra").glob(f"{_SPECTRA}*.csv"))
        },
        read_content(folder / "meta.json", Meta),
        config,
        config_text,
    )


def _study(store: Store, config: Mapping[str, Any]) -> Study | None:
    space = config.get("space")
    if not isinstance(space, dict):
        return None
    try:
        return study_of_store(store, make_space(space))
    except (InputError, ValidationError):  # of a space that is written in Python, or of earlier settings
        return None


def is_fraction(metric: str, values: Sequence[float]) -> bool:
    """Whether a metric is an accuracy between 0 and 1, which is shown in percent."""
    return "accuracy" in metric and all(0 <= value <= 1 for value in values)


def _trainings(store: Store, stage: str, retries: object) -> Trainings:
    entries = [json.loads(message) for _, message in store.events("seconds")]
    final = None
    if isinstance(retries, int):
        final = frozenset(failure.job.id for failure in store.failures(stage, retries))
    results = list(store.labels(stage))
    step = -(-len(results) // MOST_CURVES) or 1
    return Trainings(
        store.counts(stage)[0],
        results,
        store.failures(stage, None),
        final,
        store.attempts(stage).get("running", 0),
        [float(entry["seconds"]) for entry in entries if entry["stage"] == stage],
        list(store.curves([label.job for label in results[::step]])) if stage == "generate" else [],
    )


def _read_config(path: Path) -> tuple[dict[str, Any], str]:
    if not path.exists():
        return {}, ""
    text = read_proved_text(path)
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # PyYAML's own, and what it lets through where a tag and its value do not fit, such as "!!bool x".
        raise InputError(f"{path}: damaged or unreadable ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected settings by name, got {type(content).__name__}")
    return content, text
