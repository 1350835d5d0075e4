"""A user's images: decoded once into uint8 arrays, split once, read by every worker.

Sources are ``digits`` (bundled with scikit-learn), ``npz:PATH``, ``folder:PATH`` and torchvision data
sets by name. :func:`prepare` decodes into a cache folder and describes it; :func:`load_split` reads one
split from there, into memory or, beyond a set size, as a memory map that all workers share.

The test split is a file of its own, and only the retraining of the winner opens it.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import tempfile
import tokenize
import urllib.error
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from supernet import InputError, Settings
from supernet.settings import UnavailableError, nearest
from training.images import Normalisation, Split

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

_FORMAT = 1
_NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_FOLDER_SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
_CHUNK = 1024
_CLASS_LIMIT = 100_000

Fraction = Annotated[float, Field(gt=0, lt=0.9)]


class DataSettings(Settings):
    """Where the images come from and how they are split.

    Attributes:
        source: ``digits``, ``npz:PATH``, ``folder:PATH``, or the name of a torchvision data set.
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


@dataclass(frozen=True)
class _Part:
    """Some pictures of a source: labels in memory, pixels read when asked, in chunks."""

    labels: NDArray[np.int64]
    read: Callable[[Sequence[int]], list[NDArray[np.uint8]]]


@dataclass(frozen=True)
class _Source:
    """A decoded source: class names, and the parts it already has."""

    classes: tuple[str, ...]
    parts: dict[str, _Part]


def cache_folder() -> Path:
    """Where prepared and downloaded data lie: GENAS_CACHE, or the user's cache folder."""
    base = os.environ.get("GENAS_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genas"


def prepare(settings: DataSettings, side: int) -> DataInfo:
    """Decode, resize and split a source, or find it done already.

    Args:
        side: pictures are scaled to this many pixels, cropped at the centre where they are not square.

    Raises:
        InputError: an unknown source, a broken file, or too few pictures.
        UnavailableError: no connection for a download, or a cache that cannot be written.
    """
    identity = {
        "format": _FORMAT,
        "side": side,
        "settings": settings.model_dump(exclude={"memory_megabytes", "download"}),
        "files": _fingerprint(settings.source),
    }
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=12).hexdigest()
    folder = cache_folder() / "prepared" / digest
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
                _decode(settings, side, temporary)
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
        info = json.loads((folder / "info.json").read_text())
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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: not a folder of prepared images; delete it and run again") from error


def load_split(info: DataInfo, name: SplitName) -> Split:
    """One split on the CPU, in memory or memory-mapped."""
    path = info.folder / f"{name}_images.npy"
    mapped = path.stat().st_size > info.memory_megabytes * 2**20
    # "c" maps copy-on-write: torch wants memory that it may write to, and the file stays as it is.
    images = np.load(path, mmap_mode="c" if mapped else None, allow_pickle=False)
    labels = np.load(info.folder / f"{name}_labels.npy", allow_pickle=False)
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def _decode(settings: DataSettings, side: int, folder: Path) -> None:
    source = _open(settings)
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
    first_part, first_positions = chosen["train"]
    # Several pictures are looked at, so that one gray one in front does not turn all the others gray.
    looked_at = first_positions[:: max(1, len(first_positions) // 32)].tolist()
    channels = settings.channels or max(picture.shape[2] for picture in source.parts[first_part].read(looked_at))
    sizes: dict[str, int] = {}
    for name in SPLITS:
        part, positions = chosen[name]
        labels = source.parts[part].labels[positions]
        positions = positions[_by_class(labels, kept[name], random)]
        labels = source.parts[part].labels[positions]
        images = np.lib.format.open_memmap(
            folder / f"{name}_images.npy", "w+", np.uint8, (len(positions), side, side, channels)
        )
        for start in range(0, len(positions), _CHUNK):
            pictures = source.parts[part].read(positions[start : start + _CHUNK].tolist())
            for offset, picture in enumerate(pictures):
                images[start + offset] = _fit(picture, side, channels)
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
    }
    (folder / "info.json").write_text(json.dumps(info, indent=1))


def _assign(
    source: _Source, settings: DataSettings, random: np.random.Generator
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


def _by_class(labels: NDArray[np.int64], count: int | None, random: np.random.Generator) -> NDArray[np.int64]:
    """Sorted positions of ``count`` images, classes in their proportions; all where count is None."""
    if count is None or count >= len(labels):
        return np.arange(len(labels))
    shuffled = random.permutation(len(labels))
    # Each image's place within its class, as a share of the class: taking the smallest keeps proportions.
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    starts = np.searchsorted(labels[order], labels[order])
    sizes = np.bincount(labels)[labels[order]]
    share = (np.arange(len(order)) - starts + random.random(len(order))) / sizes
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


def _open(settings: DataSettings) -> _Source:
    scheme, _, rest = settings.source.partition(":")
    if settings.source == "digits":
        return _open_digits()
    if scheme == "npz" and rest:
        return _open_npz(Path(rest).expanduser())
    if scheme == "folder" and rest:
        return _open_folder(Path(rest).expanduser())
    if settings.source in TORCHVISION:
        return _open_torchvision(settings)
    known = ["digits", "npz:PATH", "folder:PATH", *TORCHVISION]
    raise InputError(f"data source {settings.source!r} is unknown; {nearest(settings.source, known)}")


def _fingerprint(source: str) -> object:
    """What tells that the files behind a source have changed."""
    scheme, _, rest = source.partition(":")
    path = Path(rest).expanduser()
    if scheme == "npz" and path.is_file():
        status = path.stat()
        return [str(path.resolve()), status.st_size, status.st_mtime_ns]
    if scheme == "folder" and path.is_dir():
        digest = hashlib.blake2b(digest_size=16)
        try:
            for file in sorted(path.rglob("*")):
                if file.is_file():  # a link to nowhere is none
                    status = file.stat()
                    digest.update(f"{file.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
        return [str(path.resolve()), digest.hexdigest()]
    return source


def _open_digits() -> _Source:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    # 17 gray levels, 0..16, spread over a byte.
    images = np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return _Source(tuple("0123456789"), {"train": _in_memory(images, labels.astype(np.int64))})


def _in_memory(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> _Part:
    return _Part(labels, lambda positions: [images[position] for position in positions])


def _open_npz(path: Path) -> _Source:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                # A few bytes that unfold into gigabytes are no pictures.
                if member.file_size > 2**26 and member.file_size > 1000 * max(1, member.compress_size):
                    raise InputError(f"{path}: member {member.filename!r} unfolds more than a thousandfold; refused")
        with np.load(path, allow_pickle=False) as file:
            for key in _NPZ_KEYS[:2]:
                if key not in file.files:
                    raise InputError(f"{path}: array {key!r} is missing; {nearest(key, file.files)}")
            arrays = {key: file[key] for key in file.files if key in (*_NPZ_KEYS, "classes")}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected an .npz with {', '.join(_NPZ_KEYS)}") from error
    except InputError:
        raise
    except (OSError, ValueError, EOFError, MemoryError, RuntimeError, SyntaxError,
            zipfile.BadZipFile, zlib.error, tokenize.TokenError) as error:  # fmt: skip
        raise InputError(f"{path}: not a readable .npz of plain arrays ({error})") from error
    highest = 0
    parts: dict[str, _Part] = {}
    for name in ("train", "test"):
        if f"{name}_images" not in arrays:
            continue
        if f"{name}_labels" not in arrays:
            raise InputError(f"{path}: {name}_images is there, but not {name}_labels")
        images, labels = arrays[f"{name}_images"], arrays[f"{name}_labels"]
        if images.ndim == 3:
            images = images[..., None]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
            raise InputError(
                f"{path}: {name}_images must be uint8 (images, height, width[, 1 or 3]), "
                f"got {images.dtype} {images.shape}"
            )
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(
                f"{path}: {name}_labels must be {len(images)} whole numbers, got {labels.dtype} {labels.shape}"
            )
        if labels.min() < 0 or labels.max() >= _CLASS_LIMIT:
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise InputError(f"{path}: {name}_labels holds {wrong}; expected labels from 0 to {_CLASS_LIMIT - 1}")
        highest = max(highest, int(labels.max()))
        parts[name] = _in_memory(images, labels.astype(np.int64))
    if "classes" in arrays and arrays["classes"].ndim != 1:
        raise InputError(f"{path}: classes must be a list of names, got an array of shape {arrays['classes'].shape}")
    classes = tuple(str(name) for name in arrays["classes"]) if "classes" in arrays else ()
    if not classes:
        classes = tuple(str(label) for label in range(highest + 1))
    if highest >= len(classes) or len(classes) < 2:
        raise InputError(f"{path}: label {highest} with {len(classes)} classes; expected at least 2 and labels below")
    return _Source(classes, parts)


def _open_folder(path: Path) -> _Source:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected one folder of images for each class")
    split_folders: dict[str, Path] = {}
    for split, names in _FOLDER_SPLITS.items():
        for name in names:
            if (path / name).is_dir():
                split_folders[split] = path / name
    if "train" not in split_folders:
        split_folders = {"train": path}
    classes = tuple(sorted(_class_folders(split_folders["train"])))
    if len(classes) < 2:
        raise InputError(f"{split_folders['train']}: {len(classes)} class folders; expected at least 2")
    parts = {}
    for split, folder in split_folders.items():
        unknown = _class_folders(folder) - set(classes)
        if unknown:
            raise InputError(f"{folder}: class {min(unknown)!r} is not among the training classes")
        files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            found = sorted(
                file for file in (folder / name).rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file()
            )
            if not found and split == "train":
                raise InputError(f"{folder / name}: no image; expected files such as .png or .jpg")
            files += found
            labels += [label] * len(found)
        parts[split] = _Part(np.array(labels, dtype=np.int64), _file_reader(files))
    return _Source(classes, parts)


def _class_folders(folder: Path) -> set[str]:
    """Names of its folders; hidden ones, such as those of notebooks and desktops, are no classes."""
    return {entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")}


def _file_reader(files: list[Path]) -> Callable[[Sequence[int]], list[NDArray[np.uint8]]]:
    return lambda positions: [_read_image(files[position]) for position in positions]


def _read_image(file: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            if image.mode.startswith("I;16"):  # Pillow would clip at 255: the high byte is the picture
                return (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)[..., None]
            if image.mode in ("I", "F"):
                raise ValueError(f"pixels of mode {image.mode} have no fixed range; expected 8 or 16 bits a channel")
            gray = image.mode in ("1", "L", "LA")
            return _pixels(image.convert("L" if gray else "RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise InputError(f"{file}: not a readable image ({error})") from error


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    array = np.asarray(image, dtype=np.uint8)
    return array[..., None] if array.ndim == 2 else array


TORCHVISION: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
    "cifar10": ("CIFAR10", {"train": True}, {"train": False}),
    "cifar100": ("CIFAR100", {"train": True}, {"train": False}),
    "mnist": ("MNIST", {"train": True}, {"train": False}),
    "fashion_mnist": ("FashionMNIST", {"train": True}, {"train": False}),
    "kmnist": ("KMNIST", {"train": True}, {"train": False}),
    "svhn": ("SVHN", {"split": "train"}, {"split": "test"}),
    "stl10": ("STL10", {"split": "train"}, {"split": "test"}),
    "gtsrb": ("GTSRB", {"split": "train"}, {"split": "test"}),
    "food101": ("Food101", {"split": "train"}, {"split": "test"}),
    "oxford_iiit_pet": ("OxfordIIITPet", {"split": "trainval"}, {"split": "test"}),
    "eurosat": ("EuroSAT", {}, {}),
}
"""Name: torchvision's class, and its arguments for the training and the test part."""


def _open_torchvision(settings: DataSettings) -> _Source:
    from torchvision import datasets

    class_name, train, test = TORCHVISION[settings.source]
    root = Path(settings.root).expanduser() if settings.root else cache_folder() / "downloads"
    parts: dict[str, _Part] = {}
    classes: tuple[str, ...] = ()
    for name, options in (("train", train), ("test", test)):
        if name == "test" and test == train:
            continue
        try:
            root.mkdir(parents=True, exist_ok=True)
            data = getattr(datasets, class_name)(str(root), download=settings.download, **options)
        except (urllib.error.URLError, http.client.HTTPException, OSError, RuntimeError) as error:
            raise UnavailableError(
                f"data source {settings.source!r}: not under {root} and could not be downloaded ({error}); "
                f"connect to the network, or use npz:PATH or folder:PATH"
            ) from error
        labels = _labels(data)
        classes = tuple(getattr(data, "classes", ())) or tuple(str(label) for label in range(int(labels.max()) + 1))
        parts[name] = _Part(labels, _item_reader(data))
    return _Source(classes, parts)


def _labels(data: Iterable[tuple[object, int]]) -> NDArray[np.int64]:
    for attribute in ("targets", "labels", "_labels"):
        values = getattr(data, attribute, None)
        if values is not None:
            return np.asarray(values, dtype=np.int64)
    return np.array([label for _, label in data], dtype=np.int64)


def _item_reader(data: Sequence[tuple[Image.Image, int]]) -> Callable[[Sequence[int]], list[NDArray[np.uint8]]]:
    def read(positions: Sequence[int]) -> list[NDArray[np.uint8]]:
        images: Iterator[Image.Image] = (data[position][0] for position in positions)
        return [_pixels(image if image.mode == "L" else image.convert("RGB")) for image in images]

    return read
