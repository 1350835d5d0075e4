"""How robust a trained network is: which corruptions it is measured on, and what the measurements mean. No torch.

The numbers of one training are ``accuracy_clean`` and ``accuracy_CORRUPTION_SEVERITY``, all on the same images of the
measured split; what a label table holds follows from them, see :func:`robustness_metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import Field, field_validator

from supernet import InputError, Settings
from supernet.settings import distinct
from training.corruption_names import CORRUPTIONS, EXTRA, SEVERITIES
from training.layout import is_picture

Severity: TypeAlias = Annotated[int, Field(ge=1, le=5)]
CorruptionName: TypeAlias = Literal[
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
    "speckle_noise", "gaussian_blur", "spatter", "saturate",
]  # fmt: skip

CLEAN = "accuracy_clean"
_PREFIX = "accuracy_"

assert get_args(CorruptionName) == (*CORRUPTIONS, *EXTRA)


class RobustnessSettings(Settings):
    """On what corrupted images a trained network is measured.

    Attributes:
        corruptions: by name; by default the 15 of CIFAR-10-C and ImageNet-C. Four more may be named: speckle_noise,
            gaussian_blur, spatter, saturate. They count in the mean only where none of the 15 is measured.
        severities: 1 (slight) to 5.
        images: measure on at most so many images of the split, evenly spaced in it; None takes all. 75 cells of
            corruption and severity take 75 times as long to measure as clean images do.
        textures: folder of pictures of frost; None makes some.
        seed: of the corruptions, the same for every network: all meet the same pictures.
    """

    corruptions: Annotated[tuple[CorruptionName, ...], Field(min_length=1)] = CORRUPTIONS  # type: ignore[assignment]
    severities: Annotated[tuple[Severity, ...], Field(min_length=1)] = SEVERITIES
    images: Annotated[int, Field(ge=1)] | None = None
    textures: Path | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    _distinct = field_validator("corruptions", "severities")(distinct)

    @property
    def cells(self) -> Iterator[tuple[str, int]]:
        """Every (corruption, severity)."""
        return ((name, severity) for name in self.corruptions for severity in self.severities)


def texture_files(folder: Path) -> list[Path]:
    """The pictures of frost in a folder, by name. Raises InputError where there is no folder, or none in it."""
    if not folder.is_dir():
        raise InputError(f"robustness.textures: {folder}: no such folder; expected one with pictures of frost")
    paths = [path for path in sorted(folder.iterdir()) if is_picture(path.name)]
    if not paths:
        raise InputError(f"robustness.textures: {folder}: no picture; expected files such as .png or .jpg")
    return paths


def cell_name(corruption: str, severity: int) -> str:
    """What the accuracy on one cell is called where results are kept."""
    return f"{_PREFIX}{corruption}_{severity}"


def accuracies_by_cell(metrics: Mapping[str, float]) -> dict[tuple[str, int], float]:
    """The accuracy on each (corruption, severity) that was measured, from the numbers of one training."""
    cells = ((name, severity) for name in (*CORRUPTIONS, *EXTRA) for severity in SEVERITIES)
    return {cell: metrics[cell_name(*cell)] for cell in cells if cell_name(*cell) in metrics}


def robustness_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """What a label says of robustness, from the numbers of one training; empty where it was not measured.

    - ``robust_accuracy``: mean accuracy over all cells of the 15 corruptions (of the others where only those were
      measured, which no study counts), a fraction, higher is better.
    - ``relative_robustness``: that over the accuracy on the same images, clean; left out where that is 0. Alone it
      misleads: a network that has learnt nothing loses nothing.
    - ``accuracy_clean``, and ``accuracy_CORRUPTION``, the mean over severities.
    """
    cells = accuracies_by_cell(metrics)
    if not cells:
        return {}
    counted = [value for (name, _), value in cells.items() if name in CORRUPTIONS] or list(cells.values())
    robust = math.fsum(counted) / len(counted)
    by_name: dict[str, list[float]] = {}
    for (name, _), value in cells.items():
        by_name.setdefault(f"{_PREFIX}{name}", []).append(value)
    clean = metrics[CLEAN]
    return {
        "robust_accuracy": robust,
        **({"relative_robustness": robust / clean} if clean > 0 else {}),
        CLEAN: clean,
        **{name: math.fsum(values) / len(values) for name, values in by_name.items()},
    }
