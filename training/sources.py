"""Where images come from, decoded to arrays.

``digits``, ``npz:PATH``, ``folder:PATH``, ``archive:PATH`` and torchvision's data sets.
A source is class names and parts (train, and what else it has); its pixels are read when they are asked for.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import struct
import tokenize
import urllib.error
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from supernet import InputError
from supernet.settings import UnavailableError, nearest
from training.archives import Archive, Member, open_archive
from training.layout import arrange, is_picture

_NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_NPZ_MEMBERS = 64
_CLASS_LIMIT = 100_000


@dataclass(frozen=True)
class Part:
    """Some pictures of a source: labels in memory, pixels read when asked, in chunks.

    Attributes:
        places: where the pictures stand in their file, if reading them in that order is faster.
    """

    labels: NDArray[np.int64]
    read: Callable[[Sequence[int]], list[NDArray[np.uint8]]]
    places: NDArray[np.int64] | None = None

    def reading_order(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices that put positions into the order in which they are read fastest."""
        return np.arange(len(positions)) if self.places is None else np.argsort(self.places[positions])


@dataclass(frozen=True)
class Source:
    """A decoded source: class names, the parts it already has, and what closes the file that these read from."""

    classes: tuple[str, ...]
    parts: dict[str, Part]
    close: Callable[[], None] = lambda: None


def open_source(source: str, root: Path, download: bool) -> Source:
    """Open a source by its name. The caller closes it.

    Args:
        root: folder of torchvision's data sets.
        download: whether one that is not there may be fetched.

    Raises:
        InputError: an unknown name, or files that are no pictures.
        UnavailableError: a data set that is not there and cannot be fetched.
    """
    scheme, _, rest = source.partition(":")
    if source == "digits":
        return _open_digits()
    if scheme == "npz" and rest:
        return _open_npz(Path(rest).expanduser())
    if scheme == "folder" and rest:
        return _open_folder(Path(rest).expanduser())
    if scheme == "archive" and rest:
        return _open_archive(Path(rest).expanduser())
    if source in TORCHVISION:
        return _open_torchvision(source, root, download)
    known = ["digits", "npz:PATH", "folder:PATH", "archive:PATH", *TORCHVISION]
    raise InputError(f"data source {source!r} is unknown; {nearest(source, known)}")


def fingerprint(source: str) -> object:
    """What tells that the files behind a source have changed."""
    scheme, _, rest = source.partition(":")
    path = Path(rest).expanduser()
    if scheme in ("npz", "archive") and path.is_file():
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


def _open_digits() -> Source:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    # 17 gray levels, 0..16, spread over a byte.
    images = np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return Source(tuple("0123456789"), {"train": _in_memory(images, labels.astype(np.int64))})


def _in_memory(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Part:
    return Part(labels, lambda positions: [images[position] for position in positions])


def _open_npz(path: Path) -> Source:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _NPZ_MEMBERS:
                raise InputError(f"{path}: {len(members)} arrays; expected at most {_NPZ_MEMBERS}; refused")
            total, memory = sum(member.file_size for member in members), _memory_bytes()
            if total > memory:
                raise InputError(f"{path}: unfolds to {total} bytes; expected at most this machine's {memory}; refused")
            for member in members:
                # zipfile unfolds the other methods in pieces of any size, whatever size was announced.
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise InputError(
                        f"{path}: member {member.filename!r} is compressed by method {member.compress_type}; "
                        f"expected deflate or none"
                    )
                # A few bytes that unfold into gigabytes are no pictures.
                if member.file_size > 2**26 and member.file_size > 1000 * max(1, member.compress_size):
                    raise InputError(f"{path}: member {member.filename!r} unfolds more than a thousandfold; refused")
        with np.load(path, allow_pickle=False) as file:
            for key in _NPZ_KEYS[:2]:
                if key not in file.files:
                    raise InputError(f"{path}: array {key!r} is missing; {nearest(key, file.files)}")
            arrays = {key: file[key] for key in file.files if key in (*_NPZ_KEYS, "classes")}
        for key, array in arrays.items():
            if not isinstance(array, np.ndarray):  # numpy hands out what does not begin as an array as it is
                raise InputError(f"{path}: member {key!r} is no array")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected an .npz with {', '.join(_NPZ_KEYS)}") from error
    except InputError:
        raise
    except (OSError, ValueError, EOFError, MemoryError, RuntimeError, SyntaxError, TypeError, LookupError,
            ArithmeticError, struct.error, zipfile.BadZipFile, zlib.error, tokenize.TokenError) as error:  # fmt: skip
        raise InputError(f"{path}: not a readable .npz of plain arrays ({error})") from error
    highest = 0
    parts: dict[str, Part] = {}
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
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":  # timedelta64 is an integer too
            raise InputError(
                f"{path}: {name}_labels must be {len(images)} whole numbers, got {labels.dtype} {labels.shape}"
            )
        if labels.min() < 0 or labels.max() >= _CLASS_LIMIT:
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise InputError(f"{path}: {name}_labels holds {wrong}; expected labels from 0 to {_CLASS_LIMIT - 1}")
        highest = max(highest, int(labels.max()))
        parts[name] = _in_memory(images, labels.astype(np.int64))
    if "classes" in arrays and (arrays["classes"].ndim != 1 or len(arrays["classes"]) > _CLASS_LIMIT):
        raise InputError(
            f"{path}: classes must be a list of names, at most {_CLASS_LIMIT}, "
            f"got an array of shape {arrays['classes'].shape}"
        )
    classes = tuple(str(name) for name in arrays["classes"]) if "classes" in arrays else ()
    if not classes:
        classes = tuple(str(label) for label in range(highest + 1))
    if highest >= len(classes) or len(classes) < 2:
        raise InputError(f"{path}: label {highest} with {len(classes)} classes; expected at least 2 and labels below")
    return Source(classes, parts)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _open_folder(path: Path) -> Source:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected one folder of images for each class")
    classes, arranged = arrange(
        path,
        lambda inner: [entry.name for entry in (path / inner).iterdir() if entry.is_dir()],
        lambda inner: sorted(file for file in (path / inner).rglob("*") if is_picture(file.name) and file.is_file()),
    )
    parts = {
        split: Part(np.array(labels, dtype=np.int64), _file_reader(files))
        for split, (files, labels) in arranged.items()
    }
    return Source(classes, parts)


def _file_reader(files: list[Path]) -> Callable[[Sequence[int]], list[NDArray[np.uint8]]]:
    return lambda positions: [_read_image(files[position], files[position]) for position in positions]


def _open_archive(path: Path) -> Source:
    with ExitStack() as stack:
        archive = stack.enter_context(closing(open_archive(path)))
        classes, arranged = arrange(path, archive.folders, archive.pictures)
        parts = {
            split: Part(
                np.array(labels, dtype=np.int64),
                _member_reader(path, archive, members),
                np.array([member.place for member in members], dtype=np.int64),
            )
            for split, (members, labels) in arranged.items()
        }
        return Source(classes, parts, stack.pop_all().close)


def _member_reader(
    path: Path, archive: Archive, members: list[Member]
) -> Callable[[Sequence[int]], list[NDArray[np.uint8]]]:
    def read(positions: Sequence[int]) -> list[NDArray[np.uint8]]:
        chosen = [members[position] for position in positions]
        return [_read_image(path / member.name, BytesIO(archive.read(member))) for member in chosen]

    return read


def _read_image(name: Path, file: Path | BytesIO) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            if image.mode.startswith("I;16"):  # Pillow would clip at 255: the high byte is the picture
                return (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)[..., None]
            if image.mode in ("I", "F"):
                raise ValueError(f"pixels of mode {image.mode} have no fixed range; expected 8 or 16 bits a channel")
            gray = image.mode in ("1", "L", "LA")
            return _pixels(image.convert("L" if gray else "RGB"))
    except (OSError, EOFError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError,
            TypeError, LookupError, ArithmeticError, MemoryError, struct.error) as error:  # fmt: skip
        raise InputError(f"{name}: not a readable image ({error})") from error


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


def _open_torchvision(source: str, root: Path, download: bool) -> Source:
    from torchvision import datasets

    class_name, train, test = TORCHVISION[source]
    parts: dict[str, Part] = {}
    classes: tuple[str, ...] = ()
    for name, options in (("train", train), ("test", test)):
        if name == "test" and test == train:
            continue
        try:
            root.mkdir(parents=True, exist_ok=True)
            data = getattr(datasets, class_name)(str(root), download=download, **options)
        except (urllib.error.URLError, http.client.HTTPException, OSError, RuntimeError) as error:
            raise UnavailableError(
                f"data source {source!r}: not under {root} and could not be downloaded ({error}); "
                f"connect to the network, or use npz:PATH or folder:PATH"
            ) from error
        labels = _labels(data)
        classes = tuple(getattr(data, "classes", ())) or tuple(str(label) for label in range(int(labels.max()) + 1))
        parts[name] = Part(labels, _item_reader(data))
    return Source(classes, parts)


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
