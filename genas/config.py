"""A run's configuration: the settings of every room, read from a recipe that holds only differences.

What a stage is given may be a recipe file, the name of a run, or the name of a recipe that came with
the package (``genas run quickstart``), looked for in this order.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import AfterValidator, Field, SerializeAsAny, TypeAdapter, field_validator

from data_gen import GenerateSettings, WorkerSettings
from evolution import SearchSettings
from genas.cheap import FidelitySettings, shortened
from genas.front_settings import FrontSettings
from genas.limits import LimitValue, resolve_limits
from genas.limits import check_name as check_cost
from genas.space_files import defaults, space_names, with_base
from genas.yaml_reader import Document, apply_overrides, read_yaml, read_yaml_file, validate
from predictor import GraphPredictorSettings
from supernet import Bound, InputError, OpSubset, SearchSpace, Settings
from supernet.files import read_proved_text, write_proved_text
from supernet.kinds import kind
from supernet.settings import distinct, nearest
from supernet.spaces import SPACES, AnySpace
from training import DataSettings, Recipe

_RECIPES = Path(__file__).resolve().parent.parent / "config"
"""Beside this package, in a checkout and where it is installed; not the user's own package of that name."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: str) -> str:
    """A run's name, which becomes a folder. Raises InputError for anything else."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"run name {name!r:.80}: expected up to 64 letters, digits, '.', '_' and '-', the first a letter or digit"
        )
    return name


LimitsSettings: TypeAlias = dict[Annotated[str, AfterValidator(check_cost)], LimitValue]
"""By the name of a cost: the largest allowed value, or both ends."""


class FitSettings(Settings):
    """How the predictor is fitted and trusted.

    Attributes:
        metric: the measured number that it learns.
        model: what is fitted, and searches: hybrid, graph, gp, ridge, trees, mlp or macs.
        train_fraction: share of the labels that the predictor learns from while its Kendall tau is
            measured on the others. The predictor that searches learns from all.
        splits: random splits that Kendall tau is measured on; the first also tells of each held-out architecture.
        features: numbers of each architecture, such as scores of ``genas score``, that the predictor sees
            besides the graph. A predictor with features says how far they help; a search cannot use it.
        predictor: the graph networks in it.
    """

    metric: str = "accuracy"
    model: Literal["hybrid", "graph", "gp", "ridge", "trees", "mlp", "macs"] = "hybrid"
    features: tuple[str, ...] = ()
    train_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.8
    splits: Annotated[int, Field(ge=1, le=100)] = 3
    predictor: GraphPredictorSettings = GraphPredictorSettings()


class SearchStageSettings(SearchSettings):
    """How the predictor is searched.

    Attributes:
        acquisition: what is maximised: the ``mean`` prediction; ``lower``, that less ``caution`` deviations, for a
            winner that holds what it promises; the expected ``improvement`` over the best label; or ``thompson``, one
            of the functions that the labels allow, which another seed draws anew.
        caution: deviations that ``lower`` takes off.
    """

    acquisition: Literal["mean", "lower", "improvement", "thompson"] = "mean"
    caution: Annotated[float, Field(ge=0, le=100)] = 1.0


class RetrainSettings(Settings):
    """How the winner and its controls are trained from scratch.

    Attributes:
        seeds: trainings of each, for the spread.
        recipe: how each is trained; None is the recipe of ``generate``.
        handmade: networks made by hand that the winner is compared with, each as wide as the winner's MACs allow.
    """

    seeds: Annotated[int, Field(ge=1, le=100)] = 3
    recipe: Recipe | None = None
    handmade: tuple[Literal["vgg", "resnet", "densenet", "mobilenet"], ...] = ("vgg", "resnet", "densenet", "mobilenet")

    _distinct = field_validator("handmade")(distinct)


class StudySize(Settings):
    """One smaller set of images.

    Attributes:
        train_images: so many of the training images, by class.
        epochs: passes over them; None is as many as on all images, which then are fewer steps.
    """

    train_images: Annotated[int, Field(ge=2)]
    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None


class StudySettings(Settings):
    """What else the architectures of ``generate`` are trained on.

    Attributes:
        sizes: smaller sets of images, each within the next larger; a number alone is ``train_images``.
        baseline: family whose mean error on all images every network is divided by, which gives the mean corruption
            error (mCE; Hendrycks and Dietterich 2019); None: it is not told.
    """

    sizes: Annotated[tuple[StudySize, ...], Field(min_length=1, max_length=20)]
    baseline: str | None = None

    @field_validator("sizes", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:  # noqa: ANN401 - whatever a file holds
        if not isinstance(value, list | tuple):
            return value
        return tuple({"train_images": one} if isinstance(one, int) else one for one in value)

    @field_validator("sizes")
    @classmethod
    def _differ(cls, value: tuple[StudySize, ...]) -> tuple[StudySize, ...]:
        distinct(tuple(one.train_images for one in value))
        return value


def recipe_of(full: Recipe, size: StudySize) -> Recipe:
    """How networks are trained on a smaller set; only the last look at the validation images is a label."""
    return shortened(full, size.epochs or full.epochs)


class InheritSettings(Settings):
    """How one network that all architectures share is trained, and what is told of them by its weights.

    Attributes:
        recipe: how it is trained; None is the recipe of ``generate`` without ``drop_path`` and ``auxiliary``.
        epochs: passes over the training images; None is as the recipe says, and five times as many where that is the
            recipe of ``generate``: a step trains the weights of one architecture.
        architectures: how many of the run's plan are scored where none has a label.
        calibration_images: training images from which the norms of each get statistics of its own.
    """

    recipe: Recipe | None = None
    epochs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    architectures: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    calibration_images: Annotated[int, Field(ge=2)] = 2048


class RunSettings(Settings):
    """The whole configuration of a run.

    Attributes:
        name: of the run's folder; None is the name of the recipe's file.
        seed: decides the sample, the initial weights, the order of the images, the split and the search.
        limits: what each cost named may be, for sampling and search: the largest allowed value (``10_000_000``,
            ``10M``, or ``60%`` of the costliest network), or ``{min: , max: , of: ARCHITECTURE}``. Costs are MACs,
            convolution MACs, parameters, activation elements, depth, and latency in milliseconds.
        latency: file of the latency of operations, which ``genas latency`` measures; needed to limit it.
        study: smaller sets of images that the architectures are trained on as well, see ``genas study``.
        front: how a front of error against cost is found, see ``genas front``.
    """

    name: Annotated[str, AfterValidator(check_name)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataSettings = DataSettings()
    space: SerializeAsAny[AnySpace] = OpSubset()
    limits: LimitsSettings = Field(default_factory=dict)
    latency: Path | None = None
    generate: GenerateSettings = GenerateSettings()
    study: StudySettings | None = None
    workers: WorkerSettings = WorkerSettings()
    fidelity: FidelitySettings = FidelitySettings()
    inherit: InheritSettings = InheritSettings()
    fit: FitSettings = FitSettings()
    search: SearchStageSettings = SearchStageSettings()
    front: FrontSettings = FrontSettings()
    retrain: RetrainSettings = RetrainSettings()

    @property
    def bounds(self) -> dict[str, Bound]:
        """What the limits mean for the space, whose classes and channels must be known. Raises InputError."""
        return resolve_limits(self.space, self.limits, self.latency)

    def with_limits(self, limits: Mapping[str, Any]) -> RunSettings:
        """These settings with other limits, as a file keeps them."""
        return self.model_copy(update={"limits": TypeAdapter(LimitsSettings).validate_python(limits)})


class Run(Settings):
    """A named run: its folder and its configuration."""

    folder: Path
    settings: RunSettings

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def store(self) -> Path:
        return self.folder / "store.db"


def load_run(
    source: str | Path, overrides: Iterable[str] = (), logs: str | Path = "logs", space: SearchSpace | None = None
) -> Run:
    """The run that a recipe file, a run's name or a bundled recipe's name stands for.

    Args:
        overrides: ``key=value`` texts, values as in YAML, such as ``generate.architectures=40``.
        logs: the folder of all runs.
        space: one written in Python, in place of the recipe's; such a run is gone on with in Python, too.

    Raises:
        InputError: no such recipe or run, or a setting that is not valid; says where.
    """
    document, name = _document(str(source), Path(logs))
    settings = settings_of(document, overrides, Path(source).parent)
    if space is not None:
        settings = settings.model_copy(update={"space": space})
    return Run(folder=Path(logs) / check_name(settings.name or name), settings=settings)


def settings_of(document: Document, overrides: Iterable[str], folder: Path) -> RunSettings:
    """A recipe's settings with overrides; ``folder`` is where a file that it names as its space is looked for.

    Raises:
        InputError: a setting that is not valid; says where.
    """
    document, overrides = with_base(document, list(overrides), folder)
    rebased = {override.partition("=")[0].strip() for override in overrides}
    for stage in ("generate", "inherit", "front", "retrain"):
        _spell_out(document.value, stage, f"{stage}.recipe.base" in rebased)
    return validate(RunSettings, override(document, overrides))


def load_space(source: str, overrides: Iterable[str] = (), sections: Sequence[str] = ("space",)) -> RunSettings:
    """Settings of a space's name or file alone, otherwise the defaults; ``space.`` may be left out of overrides.

    Args:
        sections: keys of a recipe that overrides may be of.

    Raises:
        InputError: as :func:`load_run`, and for an override of anything else.
    """
    whole = []
    for text in overrides:
        first = text.partition("=")[0].strip().partition(".")[0]
        if first in RunSettings.model_fields and first not in sections:
            raise InputError(f"--set {text:.200}: means nothing for a space alone; known: {', '.join(sections)}")
        whole.append(text if first in sections else f"space.{text}")
    return settings_of(Document({"space": source}, source, {}), whole, Path())


def override(document: Document, overrides: Iterable[str]) -> Document:
    """A recipe with ``key=value`` texts applied; defaults of lists are those of the space that it has with them."""
    overrides = list(overrides)
    choosing = [text for text in overrides if text.partition("=")[0].strip() in ("space", "space.kind")]
    chosen = SPACES.get(kind(apply_overrides(document, choosing).value.get("space")))
    space = {} if chosen is None else defaults(chosen)
    return apply_overrides(document, overrides, {**RunSettings().model_dump(mode="json"), "space": space})


def find_run(name: str, logs: str | Path = "logs") -> Path:
    """The folder of an existing run, by its name, its folder or its recipe. Raises InputError naming the runs."""
    path = Path(name)
    if path.suffix in (".yml", ".yaml"):
        name = load_run(path, logs=logs).name
    if len(path.parts) > 1 and _is_run(path):
        return path
    folder = Path(logs) / check_name(name)
    if not _is_run(folder):
        runs = sorted(entry.name for entry in Path(logs).glob("*") if _is_run(entry))
        raise InputError(f"run {name!r}: nothing under {folder}; {nearest(name, runs) if runs else 'there is no run'}")
    return folder


def bundled_recipes() -> list[str]:
    """Names of the recipes that came with the package."""
    return sorted(path.stem for path in _RECIPES.glob("*.yml"))


def save_settings(run: Run) -> None:
    """Write the resolved configuration to the run's folder, whole or not at all."""
    text = yaml.safe_dump(run.settings.model_dump(mode="json", exclude={"name"}), sort_keys=False)
    _write_settings(run.folder, text)


def copy_settings(source: Path, folder: Path) -> None:
    """Give the configuration of one run to another, by their folders. Raises InputError where it is damaged.

    Where the one trained, on which devices or cluster, is not the other's business.
    """
    content = yaml.safe_load(read_proved_text(source / "config.yml"))
    content.pop("workers", None)
    _write_settings(folder, yaml.safe_dump(content, sort_keys=False))


def _write_settings(folder: Path, text: str) -> None:
    note = f"the resolved configuration of the run {folder.name}, not to be edited: change the recipe, or use --set"
    write_proved_text(folder / "config.yml", note, text)


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``key: before -> after`` for every setting that differs, keys joined by dots.

    Of the members of a union their order differs too: choices count them.
    """
    lines = []
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if key == "members" and old.keys() == new.keys() and list(old) != list(new):
                lines.append(f"{prefix}{key}: {', '.join(old)} -> {', '.join(new)}")
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old} -> {new}")
    return lines


def _spell_out(value: Any, stage: str, rebased: bool) -> None:  # noqa: ANN401 - whatever a file holds
    """``recipe: fast`` as ``recipe: {base: fast}``, so that overrides can change one of its settings.

    Args:
        rebased: an override names another base: what the file says of the recipe no longer holds.
    """
    section = value.get(stage) if isinstance(value, dict) else None
    if isinstance(section, dict) and (rebased or isinstance(section.get("recipe"), str)):
        section["recipe"] = {} if rebased else {"base": section["recipe"]}


def _document(source: str, logs: Path) -> tuple[Document, str]:
    path = Path(source)
    if path.suffix in (".yml", ".yaml") or _is_file(path):
        return read_yaml_file(path), path.stem
    if _NAME.fullmatch(source) and _is_file(logs / source / "config.yml"):
        saved = logs / source / "config.yml"
        return read_yaml(read_proved_text(saved), str(saved)), source
    recipes = bundled_recipes()
    if source in recipes:
        text = (_RECIPES / f"{source}.yml").read_text(encoding="utf-8")
        return read_yaml(text, f"{source}.yml"), source
    if source in space_names():
        raise InputError(f"{source!r} is a space; expected a recipe or run. A recipe names it: space: {source}")
    raise InputError(
        f"{source!r:.80}: neither a recipe file, nor a run under {logs}, nor a bundled recipe; "
        f"{nearest(source, recipes + space_names())}"
    )


def _is_run(folder: Path) -> bool:
    """Whether anything was trained there, or at least a predictor fitted on a table."""
    return _is_file(folder / "store.db") or _is_file(folder / "predictor" / "evaluation.json")


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for a name that is too long
