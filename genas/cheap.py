"""Cheap versions of a run's recipe: their settings, and the space, images and recipe that each stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from supernet import Choices, InputError, Settings
from supernet.spaces import AnySpace
from training import DataInfo, DataSettings, Recipe, prepare

PREFIX = "fidelity-"
"""What the stage of a cheap setting begins with in a store; fit for the name of a checkpoint's file."""

_PIXELS = ("crop_padding", "cutout")
"""Settings of a recipe that count pixels, which are scaled with the pictures and rounded up."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"name {name!r:.60}: expected up to 48 of a-z, 0-9 and _, the first a letter")
    return name


SettingName = Annotated[str, AfterValidator(_check_name)]


class CheapSetting(Settings):
    """What a cheap training saves; what is None is as in the full recipe.

    Attributes:
        epochs: fewer, with a schedule of their own that ends as low; ``step_epochs`` is scaled along.
        train_images: so many of the training images, by class, at least one of each.
        input_size: side of the pictures in pixels; ``crop_padding`` is scaled along.
        width: factor on the channels of the space; the architecture stays the same.
    """

    epochs: Annotated[int, Field(ge=1)] | None = None
    train_images: Annotated[int, Field(ge=2)] | None = None
    input_size: Annotated[int, Field(ge=1)] | None = None
    width: Annotated[float, Field(gt=0, lt=1)] | None = None


class FidelitySettings(Settings):
    """How cheap settings are measured.

    Attributes:
        architectures: so many of the run's plan, from its beginning, are trained with the full recipe and with
            every cheap setting.
        threshold: least Kendall tau between cheap and full labels that counts as good enough.
        settings: cheap settings by name; None derives some from the run's recipe.
    """

    architectures: Annotated[int, Field(ge=3, le=100_000)] = 24
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    settings: Annotated[dict[SettingName, CheapSetting], Field(min_length=1, max_length=100)] | None = None


@dataclass(frozen=True)
class Cheap:
    """A cheap setting applied to a run: what its trainings are made with."""

    name: str
    setting: CheapSetting
    space: AnySpace
    info: DataInfo
    recipe: Recipe

    @property
    def stage(self) -> str:
        """Its name in the store."""
        return PREFIX + self.name


def default_settings(space: AnySpace, info: DataInfo, recipe: Recipe) -> dict[str, CheapSetting]:
    """Cheap settings for a recipe: each saving alone, and two together. Those that would save nothing are left out."""
    epochs = [max(1, round(recipe.epochs / part)) for part in (2, 4, 8)]
    images = max(info.sizes["train"] // 4, len(info.classes), 2)
    savings: dict[str, dict[str, float]] = {
        "half_epochs": {"epochs": epochs[0]},
        "quarter_epochs": {"epochs": epochs[1]},
        "eighth_epochs": {"epochs": epochs[2]},
        "quarter_images": {"train_images": images},
    }
    together: dict[str, dict[str, float]] = {}
    side = space.input_size // 2
    if side >= 4 and _with_side(space, side) is not None:
        savings["half_side"] = {"input_size": side}
        together["half_epochs_half_side"] = savings["half_epochs"] | savings["half_side"]
        together["quarter_epochs_half_side"] = savings["quarter_epochs"] | savings["half_side"]
    if _narrower(space, 0.5) is not None:
        savings["half_width"] = {"width": 0.5}
        together["quarter_epochs_half_width"] = savings["quarter_epochs"] | savings["half_width"]
    full = {"epochs": recipe.epochs, "train_images": info.sizes["train"]}
    result: dict[str, CheapSetting] = {}
    for name, values in (savings | together).items():
        setting = CheapSetting.model_validate(values)
        saves = all(key not in full or value < full[key] for key, value in values.items())
        if saves and setting not in result.values():
            result[name] = setting
    return result


def cheapen(
    name: str, setting: CheapSetting, space: AnySpace, info: DataInfo, data: DataSettings, recipe: Recipe
) -> Cheap:
    """Apply a cheap setting; prepares its images where they are others.

    Args:
        space, info, data, recipe: the full ones, resolved.

    Raises:
        InputError: a setting that saves nothing, or that the space or the images do not allow.
        UnavailableError: see :func:`training.prepare`.
    """
    where = f"fidelity.settings.{name}"
    full = {"epochs": recipe.epochs, "train_images": info.sizes["train"], "input_size": space.input_size}
    given = setting.model_dump(exclude_none=True)
    if not given:
        raise InputError(f"{where}: saves nothing; expected epochs, train_images, input_size or width")
    for key in full.keys() & given.keys():
        if given[key] >= full[key]:
            raise InputError(f"{where}.{key}: {given[key]} saves nothing; expected less than the run's {full[key]}")
    epochs, side = setting.epochs or recipe.epochs, setting.input_size or space.input_size
    if setting.train_images is not None or side != space.input_size:
        try:
            info = prepare(data, side, train_images=setting.train_images)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    pixels = {key: -(-getattr(recipe, key) * side // space.input_size) for key in _PIXELS}
    recipe = shortened(recipe, epochs).model_copy(update=pixels)
    return Cheap(name, setting, _smaller(where, space, side, setting.width), info, recipe)


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe over other epochs, its schedule scaled along; only the last look at the validation images counts."""
    step_epochs = max(1, round(recipe.step_epochs * epochs / recipe.epochs))
    return recipe.model_copy(update={"epochs": epochs, "step_epochs": step_epochs, "validate_every": epochs})


def _with_side(space: AnySpace, side: int) -> AnySpace | None:
    """The space for pictures of another side; None where it takes none so small."""
    try:
        return type(space).model_validate({**space.model_dump(), "input_size": side})
    except ValidationError:
        return None


def _smaller(where: str, space: AnySpace, side: int, width: float | None) -> AnySpace:
    resized = space if side == space.input_size else _with_side(space, side)
    if resized is None:
        raise InputError(f"{where}.input_size: space {space.name!r} takes no pictures of {side}x{side}")
    if width is None:
        return resized
    narrow = _narrower(resized, width)
    if narrow is None:
        raise InputError(f"{where}.width: space {space.name!r} cannot be made so narrow; raise width or leave it out")
    return narrow


def _narrower(space: AnySpace, width: float) -> AnySpace | None:
    """The space with so much of its channels; None where it cannot be scaled so far."""
    try:
        return space.narrower(width)
    except InputError:
        return None


def training_macs(space: AnySpace, info: DataInfo, recipe: Recipe, choices: Choices) -> int:
    """Forward MACs of training these architectures: epochs x images of whole batches x MACs, exact.

    What a backward pass costs is in proportion, so ratios of this are ratios of arithmetic.
    """
    batch = min(recipe.batch_size, info.sizes["train"])
    images = info.sizes["train"] // batch * batch
    return recipe.epochs * images * int(space.costs(choices)["macs"].sum())
