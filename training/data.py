"""A user's images: decoded once into uint8 arrays, split once, read by every worker.

Sources are ``digits`` (bundled with scikit-learn), ``npz:PATH``, ``folder:PATH``, ``archive:PATH`` and
torchvision data sets by name. :func:`prepare` decodes into a cache folder and describes it;
:func:`training.images.load_split` reads one split from there, into memory or, beyond a set size, as a
memory map that all workers share. No torch: the driver needs none.

The test split is a file of its own, and only the retraining of the winner measures on it. Besides, ``genas doctor``
compares its pictures, without their labels, with those of the other splits.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from supernet import InputError, Settings
from supernet.files import read_json, write_json
from supernet.settings import UnavailableError
from training.sources import Source, fingerprint, open_source

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

_FORMAT = 2
_CHUNK = 1024
_LOGGER = logging.getLogger("genas.data")

Fraction = Annotated[float, Field(gt=0, lt=0.9)]


class DataSettings(Settings):
    """Where the images come from and how they are split.

    Attributes:
        source: ``digits``, ``npz:PATH``, ``folder:PATH``, ``archive:PATH`` (.zip, .tar, .tar.gz, .tgz, .tar.bz2,
            .tar.xz), or the name of a torchvision data set.
        channels: 3 for colour, 1 for gray, None as in the source.
        validation_fraction: share of the training images held out to choose by, where the source has no
            validation split of its own.
        test_fraction: share held out for the winner alone, where the source has no test split.
        train_images, validation_images, test_images: keep at most so many, by class; None keeps all.
        split_seed: decides which images go where.
        download: fetch a torchvision data set that is not under ``root`` yet.
        root: folder of downloaded data sets; None for the user's cache.
        memory_megabytes: beyond this size a split is memory-mapped instead of loaded.
    """

    source: str = "digits"
    channels: Literal[1, 3] | None = None
    validation_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.2
    train_images: Annotated[int, Field(ge=2)] | None = None
    validation_images: Annotated[int, Field(ge=2)] | None = None
    test_images: Annotated[int, Field(ge=2)] | None = None
    split_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    download: bool = True
    root: str | None = None
    memory_megabytes: Annotated[int, Field(ge=0)] = 4096


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel of the training images, pixels in 0..1."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @staticmethod
    def of(images: NDArray[np.uint8]) -> Normalisation:
        """Exact, from a histogram of each channel, so that large sets need no memory beyond a piece of them."""
        channels = images.shape[-1]
        counts = np.zeros((channels, 256), np.int64)
        for start in range(0, len(images), 256):
            for channel in range(channels):
                piece = images[start : start + 256, ..., channel]
                counts[channel] += np.bincount(piece.ravel(), minlength=256)
        levels = np.arange(256) / 255
        share = counts / counts.sum(axis=1, keepdims=True)
        mean = share @ levels
        deviation = np.sqrt(np.maximum(share @ levels**2 - mean**2, 0))
        # A constant channel must not divide by zero.
        return Normalisation(tuple(mean.tolist()), tuple(np.maximum(deviation, 1e-3).tolist()))


@dataclass(frozen=True)
class DataInfo:
    """A prepared data set.

    Attributes:
        folder: where the arrays lie.
        classes: names, in the order of the labels.
        sizes: images in each split.
        side, channels: of each picture.
    """

    folder: Path
    source: str
    classes: tuple[str, ...]
    sizes: dict[str, int]
    side: int
    channels: int
    normalisation: Normalisation
    memory_megabytes: int


def cache_folder() -> Path:
    """Where prepared and downloaded data lie: GENAS_CACHE, or the user's cache folder."""
    base = os.environ.get("GENAS_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genas"


def prepare(
    settings: DataSettings,
    side: int,
    splits: Sequence[SplitName] = ("train", "validation"),
    train_images: int | None = None,
) -> DataInfo:
    """Decode, resize and split a source, or find it done already. What has been damaged since is decoded again.

    Args:
        side: pictures are scaled to this many pixels, cropped at the centre where they are not square.
        splits: those that will be read, whose bytes are checked; beyond ``memory_megabytes`` only their sizes.
        train_images: keep so many of the training images that the settings choose, by class, at least one of each;
            fewer are among more, and the other splits stay as they are.

    Raises:
        InputError: an unknown source, a broken file, or too few pictures.
        UnavailableError: no connection for a download, or a cache that cannot be written.
    """
    identity = {
        "format": _FORMAT,
        "side": side,
        "settings": settings.model_dump(exclude={"memory_megabytes", "download"}),
        "files": fingerprint(settings.source),
        **({} if train_images is None else {"train_images": train_images}),
    }
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=12).hexdigest()
    folder = cache_folder() / "prepared" / digest
    wrong = damage(folder, splits, settings.memory_megabytes) if folder.exists() else ""
    if wrong:
        _LOGGER.warning("%s: %s; the images are prepared again", folder, wrong)
        shutil.rmtree(folder, ignore_errors=True)
    if not (folder / "info.json").exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{digest}-", dir=folder.parent))
        except OSError as error:
            raise UnavailableError(
                f"{folder.parent}: cannot write prepared images ({error.strerror}); set GENAS_CACHE to a folder"
            ) from error
        try:
            try:
                _decode(settings, side, temporary, train_images)
            except OSError as error:
                raise UnavailableError(
                    f"{folder.parent}: cannot write prepared images ({error.strerror}); set GENAS_CACHE to a folder"
                ) from error
            try:
                temporary.rename(folder)
            except OSError:  # another run prepared the same data meanwhile
                if not (folder / "info.json").exists():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return open_prepared(folder, settings.memory_megabytes)


def open_prepared(folder: Path, memory_megabytes: int) -> DataInfo:
    """The description of a prepared folder. Raises InputError where it is not one."""
    try:
        info = _read_info(folder)
        return DataInfo(
            folder,
            info["source"],
            tuple(info["classes"]),
            dict(info["sizes"]),
            int(info["side"]),
            int(info["channels"]),
            Normalisation(tuple(info["mean"]), tuple(info["deviation"])),
            memory_megabytes,
        )
    except (InputError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{folder}: not a folder of prepared images; delete it and run again") from error


def damage(folder: Path, splits: Sequence[SplitName], memory_megabytes: float = math.inf) -> str:
    """What is wrong with prepared images; empty where nothing is.

    Args:
        splits: whose files are read and compared with their digests.
        memory_megabytes: of a larger file only the size is compared.
    """
    try:
        files = _read_info(folder)["files"]
        for name in (f"{split}_{part}.npy" for split in splits for part in ("images", "labels")):
            size, digest = files[name]
            path = folder / name
            if path.stat().st_size != size:
                return f"{name} is damaged"
            if size <= memory_megabytes * 2**20 and file_digest(path) != digest:
                return f"{name} is damaged"
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    except (InputError, KeyError, TypeError, ValueError):
        return "info.json is damaged"
    return ""


def _read_info(folder: Path) -> dict[str, Any]:
    info = read_json(folder / "info.json")
    if info is None:
        raise InputError(f"{folder}: no prepared images there")
    return info


def file_digest(path: Path) -> str:
    """A digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _decode(settings: DataSettings, side: int, folder: Path, train_images: int | None) -> None:
    root = Path(settings.root).expanduser() if settings.root else cache_folder() / "downloads"
    with closing(open_source(settings.source, root, settings.download)) as source:
        _write(source, settings, side, folder, train_images)


def _write(source: Source, settings: DataSettings, side: int, folder: Path, train_images: int | None) -> None:
    random = np.random.default_rng(settings.split_seed)
    chosen = _assign(source, settings, random)
    kept: dict[SplitName, int | None] = {
        "train": settings.train_images,
        "validation": settings.validation_images,
        "test": settings.test_images,
    }
    for name, (_, positions) in chosen.items():
        if len(positions) < 2:
            raise InputError(f"data {settings.source}: {len(positions)} {name} images; expected at least 2")
    first_name, first_positions = chosen["train"]
    first_part = source.parts[first_name]
    # Several pictures are looked at, so that one gray one in front does not turn all the others gray.
    looked_at = first_positions[:: max(1, len(first_positions) // 32)]
    looked_at = looked_at[first_part.reading_order(looked_at)]
    channels = settings.channels or max(picture.shape[2] for picture in first_part.read(looked_at.tolist()))
    sizes: dict[str, int] = {}
    for name in SPLITS:
        part_name, positions = chosen[name]
        part = source.parts[part_name]
        positions = positions[_by_class(part.labels[positions], kept[name], random)]
        if name == "train":
            again = np.random.default_rng(
                (settings.split_seed, 1)
            )  # of its own: the other splits must not depend on it
            positions = positions[_by_class(part.labels[positions], train_images, again, each=True)]
        labels = part.labels[positions]
        order = part.reading_order(positions)
        images = np.lib.format.open_memmap(
            folder / f"{name}_images.npy", "w+", np.uint8, (len(positions), side, side, channels)
        )
        for start in range(0, len(positions), _CHUNK):
            chunk = order[start : start + _CHUNK]
            for row, picture in zip(chunk, part.read(positions[chunk].tolist()), strict=True):
                images[row] = _fit(picture, side, channels)
        images.flush()
        np.save(folder / f"{name}_labels.npy", labels.astype(np.int64))
        sizes[name] = len(positions)
        if name == "train":
            missing = len(source.classes) - len(np.unique(labels))
            if missing:
                raise InputError(
                    f"data {settings.source}: {missing} of {len(source.classes)} classes have no training image; "
                    f"raise train_images or remove the empty classes"
                )
            normalisation = Normalisation.of(images)
    info = {
        "source": settings.source,
        "classes": list(source.classes),
        "sizes": sizes,
        "side": side,
        "channels": channels,
        "mean": normalisation.mean,
        "deviation": normalisation.deviation,
        "files": {path.name: [path.stat().st_size, file_digest(path)] for path in sorted(folder.glob("*.npy"))},
    }
    write_json(folder / "info.json", info)


def _assign(
    source: Source, settings: DataSettings, random: np.random.Generator
) -> dict[SplitName, tuple[str, NDArray[np.int64]]]:
    """For each split the part of the source it comes from and the positions there."""
    remaining = np.arange(len(source.parts["train"].labels))
    chosen: dict[SplitName, tuple[str, NDArray[np.int64]]] = {}
    wanted: tuple[tuple[SplitName, float], ...] = (
        ("test", settings.test_fraction),
        ("validation", settings.validation_fraction),
    )
    for name, fraction in wanted:
        if name in source.parts:
            chosen[name] = (name, np.arange(len(source.parts[name].labels)))
            continue
        labels = source.parts["train"].labels[remaining]
        held = _by_class(labels, max(2, round(fraction * len(remaining))), random)
        chosen[name] = ("train", remaining[held])
        remaining = np.delete(remaining, held)
    chosen["train"] = ("train", remaining)
    return chosen


def _by_class(
    labels: NDArray[np.int64], count: int | None, random: np.random.Generator, each: bool = False
) -> NDArray[np.int64]:
    """Sorted positions of ``count`` images, classes in their proportions; all where count is None.

    Args:
        each: at least one of each class, where ``count`` is not below the number of classes.
    """
    if count is None or count >= len(labels):
        return np.arange(len(labels))
    shuffled = random.permutation(len(labels))
    # Each image's place within its class, as a share of the class: taking the smallest keeps proportions.
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    starts = np.searchsorted(labels[order], labels[order])
    sizes = np.bincount(labels)[labels[order]]
    place = np.arange(len(order)) - starts
    share = (place + random.random(len(order))) / sizes
    if each:
        share[place == 0] = 0
    return np.sort(order[np.argsort(share, kind="stable")[:count]])


def _fit(picture: NDArray[np.uint8], side: int, channels: int) -> NDArray[np.uint8]:
    """Gray or colour as asked, shorter side scaled, centre cut out: (side, side, channels)."""
    height, width, found = picture.shape
    if (height, width, found) == (side, side, channels):
        return picture
    image = Image.fromarray(picture[:, :, 0] if found == 1 else picture)
    image = image.convert("L" if channels == 1 else "RGB")
    if (height, width) != (side, side):
        scale = side / min(height, width)
        size = (max(side, round(width * scale)), max(side, round(height * scale)))
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image, dtype=np.uint8).reshape(side, side, channels)
