"""Class folders: which split and class each picture belongs to, on the disk or in an archive."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import TypeVar

from supernet import InputError

_SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
SPLIT_FOLDERS = {name for names in _SPLITS.values() for name in names}
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}

Picture = TypeVar("Picture")


def is_picture(name: str) -> bool:
    """Whether a file is a picture by its name; the ``._`` companions that macOS writes beside files are none."""
    path = PurePosixPath(name)
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith("._")


def class_names(folders: Iterable[str]) -> set[str]:
    """Those that can be classes; hidden ones, such as those of notebooks and desktops, cannot."""
    return {name for name in folders if not name.startswith(".") and name != "__MACOSX"}


def arrange(
    place: Path, folders: Callable[[str], Iterable[str]], pictures: Callable[[str], list[Picture]]
) -> tuple[tuple[str, ...], dict[str, tuple[list[Picture], list[int]]]]:
    """Sort pictures into splits and classes.

    Args:
        place: what error messages begin with.
        folders: the names of the folders in a folder, whose path is given from the top ("" is the top).
        pictures: all pictures in and below a folder, in order.

    Returns:
        The class names in order, and for each split its pictures and their labels.

    Raises:
        InputError: fewer than two classes, a class without pictures, or one that is not in training.
    """
    top = set(folders(""))
    inner = {split: name for split, names in _SPLITS.items() for name in names if name in top}
    if "train" not in inner:
        inner = {"train": ""}
    classes = tuple(sorted(class_names(folders(inner["train"]))))
    if len(classes) < 2:
        raise InputError(f"{place / inner['train']}: {len(classes)} class folders; expected at least 2")
    arranged: dict[str, tuple[list[Picture], list[int]]] = {}
    for split, folder in inner.items():
        unknown = class_names(folders(folder)) - set(classes)
        if unknown:
            raise InputError(f"{place / folder}: class {min(unknown)!r} is not among the training classes")
        files: list[Picture] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            found = pictures(f"{folder}/{name}" if folder else name)
            if not found and split == "train":
                raise InputError(f"{place / folder / name}: no image; expected files such as .png or .jpg")
            files += found
            labels += [label] * len(found)
        arranged[split] = (files, labels)
    return classes, arranged
