"""Zip and tar archives of class folders, read where they lie.

Nothing is unfolded onto the disk: pictures are read into memory one at a time, so that no archive can write
anything anywhere. What an archive announces is checked member by member before the member is unfolded, and no
more than that is ever read of it.

A zip or a plain tar is the fast choice: a picture is read by going to it. A compressed tar can only be unfolded
from its start, so pictures should be asked for in the order of their ``place``: then one reading of all of them
unfolds the archive once, and each step back to an earlier picture unfolds it again up to there.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from supernet import InputError
from training.layout import SPLIT_FOLDERS, class_names, is_picture

_TARS: dict[str, Callable[[Path], BufferedIOBase]] = {
    ".tar": lambda path: path.open("rb"),
    ".tar.gz": gzip.GzipFile,
    ".tgz": gzip.GzipFile,
    ".tar.bz2": bz2.BZ2File,
    ".tar.xz": lzma.LZMAFile,
}
_KNOWN = ", ".join([".zip", *_TARS])

_MEMBERS = 2_000_000
_RATIO = 1000
_FREE_OF_RATIO = 2**26  # bytes that a single member may unfold to, however small it is
_ALL_FREE_OF_RATIO = 2**30  # the same for all members together
_PICTURE_BYTES = 2**30
_ALL_BYTES = 2**40
_HEADER_BYTES = 2**20  # of one member of a tar
_PADDING_BYTES = 2**26  # after the end mark of a tar

# What the standard library raises over damaged archives; RuntimeError includes NotImplementedError and RecursionError.
_DAMAGE = (OSError, EOFError, ValueError, LookupError, ArithmeticError, RuntimeError, MemoryError, struct.error,
           zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """A file or folder in an archive.

    Attributes:
        name: path from the archive's top, with single slashes.
        place: grows along the archive: its number in a zip, the position of its first byte in a tar.
        size: bytes when unfolded, as announced.
        folded: bytes of the archive that it can come from: its own in a zip, all of them in a tar.
    """

    name: str
    place: int
    size: int
    folded: int
    is_folder: bool


class _TarStream(BufferedIOBase):
    """An unfolded tar that gives no more bytes than ``left``: tarfile reads whatever size a header announces."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self.left = 0
        self.last = b""  # what was read last

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= self.left:
            raise tarfile.ReadError(f"{size} bytes where at most {self.left} are read")
        self.last = self._file.read(size)
        self.left -= len(self.last)
        return self.last

    def seek(self, position: int, whence: int = 0, /) -> int:
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


class Archive:
    """An open archive whose members were checked."""

    def __init__(self, path: Path, file: zipfile.ZipFile | _TarStream, members: list[Member]) -> None:
        self._path = path
        self._file = file
        self._folders: dict[str, set[str]] = {"": set()}
        self._pictures: dict[str, list[Member]] = {}
        enclosing = _enclosing(members)
        # By the parts of their paths, as files in a folder are sorted.
        for member in sorted(members, key=lambda member: member.name.split("/")):
            if not member.name.startswith(enclosing):
                continue
            parts = member.name.removeprefix(enclosing).split("/")
            folders = parts if member.is_folder else parts[:-1]
            for depth, name in enumerate(folders[:2]):  # a split and a class: nobody asks for folders below
                self._folders.setdefault("/".join(folders[:depth]), set()).add(name)
                if not member.is_folder and is_picture(member.name):
                    self._pictures.setdefault("/".join(folders[: depth + 1]), []).append(member)

    def folders(self, folder: str) -> set[str]:
        """Names of the folders in a folder at most one below the top ("")."""
        return self._folders.get(folder, set())

    def pictures(self, folder: str) -> list[Member]:
        """Sorted pictures in and below a folder at most two below the top."""
        return self._pictures.get(folder, [])

    def read(self, member: Member) -> bytes:
        """Unfold one member into memory.

        Raises:
            InputError: it is damaged, or does not have the announced size.
        """
        with _refusing_damage(self._path / member.name):
            if isinstance(self._file, zipfile.ZipFile):
                with self._file.open(self._file.infolist()[member.place]) as file:
                    content = file.read(member.size + 1)
            else:
                self._file.left = member.size
                self._file.seek(member.place)
                content = self._file.read(member.size)
        if len(content) != member.size:
            raise InputError(
                f"{self._path / member.name}: {len(content)} bytes; expected the announced {member.size}; "
                f"the archive is damaged"
            )
        return content

    def close(self) -> None:
        """Close the file; nothing can be read any more."""
        self._file.close()


def open_archive(path: Path) -> Archive:
    """Open a .zip, .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz and check every member.

    Raises:
        InputError: no such file, a damaged archive, a member that is no plain file or folder, whose name leads
            elsewhere, or that unfolds to more than pictures do.
    """
    suffix = next((known for known in (".zip", *_TARS) if path.name.lower().endswith(known)), None)
    if suffix is None:
        raise InputError(f"{path}: not an archive by its name; expected one that ends in {_KNOWN}")
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an archive of one folder of images for each class")
    with _refusing_damage(path), ExitStack() as stack:
        length = path.stat().st_size
        file: zipfile.ZipFile | _TarStream
        if suffix == ".zip":
            file = zipfile.ZipFile(path)
            stack.callback(file.close)
            members = _checked(path, length, _zip_members(path, file))
        else:
            file = _TarStream(_TARS[suffix](path))
            stack.callback(file.close)
            members = _checked(path, length, _tar_members(path, length, file))
        archive = Archive(path, file, members)
        stack.pop_all()
    return archive


@contextmanager
def _refusing_damage(place: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except _DAMAGE as error:
        said = str(error) or type(error).__name__
        raise InputError(f"{place}: cannot be unfolded ({said}); expected a whole archive") from error


def _checked(path: Path, length: int, announced: Iterator[Member]) -> list[Member]:
    """The members, each checked before the next one is asked for. ``length`` is that of the archive in bytes."""
    members: list[Member] = []
    names: set[str] = set()
    total = 0
    for number, member in enumerate(announced):
        if number >= _MEMBERS:
            raise InputError(f"{path}: more than {_MEMBERS} members; expected an archive of pictures; refused")
        if member.name in names:
            raise InputError(f"{path}: member {member.name!r} is there twice; expected each name once; refused")
        if member.size < 0:
            raise InputError(f"{path}: member {member.name!r} announces {member.size} bytes; refused")
        if member.size > max(_FREE_OF_RATIO, _RATIO * member.folded):
            raise InputError(f"{path}: member {member.name!r} unfolds more than a thousandfold; refused")
        if member.size > _PICTURE_BYTES and is_picture(member.name):
            raise InputError(
                f"{path}: member {member.name!r} unfolds to {member.size} bytes; "
                f"expected a picture of at most {_PICTURE_BYTES}; refused"
            )
        total += member.size
        if total > min(_ALL_BYTES, max(_ALL_FREE_OF_RATIO, _RATIO * length)):
            raise InputError(
                f"{path}: unfolds to {total} bytes or more, reached at member {member.name!r}; expected at most "
                f"{_ALL_BYTES}, and at most a thousand times its {length}; refused"
            )
        names.add(member.name)
        if member.name:  # "./" is the top itself
            members.append(member)
    return members


def _zip_members(path: Path, archive: zipfile.ZipFile) -> Iterator[Member]:
    for number, info in enumerate(archive.infolist()):
        # The name before zipfile cut it at a zero byte; some Windows programs write backslashes.
        name = _name(path, info.orig_filename.replace("\\", "/"))
        if info.flag_bits & 1:
            raise InputError(f"{path}: member {name!r} is encrypted; expected an archive without a password")
        # zipfile unfolds the other methods in pieces of any size, whatever size was announced.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"{path}: member {name!r} is compressed by method {info.compress_type}; expected deflate or none"
            )
        # The upper half holds the file's mode where Unix wrote the archive, and no type elsewhere.
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _no_plain_member(path, name)
        yield Member(name, number, info.file_size, info.compress_size, info.is_dir())


def _tar_members(path: Path, length: int, stream: _TarStream) -> Iterator[Member]:
    stream.left = _HEADER_BYTES
    archive = tarfile.TarFile(fileobj=stream)
    count = 0
    while (info := archive.next()) is not None:
        name = _name(path, info.name)
        if not (info.isreg() or info.isdir()) or info.issparse():
            raise _no_plain_member(path, name)
        yield Member(name, info.offset_data, info.size, length, info.isdir())
        count += 1
        archive.members.clear()  # type: ignore[attr-defined]  # else tarfile keeps a kilobyte for each
        stream.left = _HEADER_BYTES
    # At a broken header, or where the file is cut off, tarfile stops as if that were the end.
    if stream.last != bytes(tarfile.BLOCKSIZE):
        raise InputError(f"{path}: broken after {count} members; expected a whole archive with an end mark")
    stream.left = _PADDING_BYTES
    while stream.read(2**16):  # the checksum is at the end of the file
        pass


def _name(path: Path, raw: str) -> str:
    """The name with single slashes. Raises InputError where it leads out of the archive."""
    if "\0" in raw or re.match(r"[/\\]|[A-Za-z]:", raw) or ".." in re.split(r"[/\\]", raw):
        raise InputError(f"{path}: member {raw!r} leads elsewhere; expected a path below the top; refused")
    return "/".join(part for part in raw.split("/") if part not in ("", "."))


def _no_plain_member(path: Path, name: str) -> InputError:
    return InputError(
        f"{path}: member {name!r} is a link, a device or the like; expected plain files and folders; refused"
    )


def _enclosing(members: list[Member]) -> str:
    """The path of the one folder that holds everything, with a slash, or nothing."""
    tops = {member.name.split("/")[0] for member in members if member.is_folder or "/" in member.name}
    alone = class_names(tops)
    return f"{alone.pop()}/" if len(alone) == 1 and not alone & SPLIT_FOLDERS else ""
