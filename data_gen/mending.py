"""Mending a damaged store: what can be read and proves its digest goes into a new file, the old one is kept.

What is lost is planned and trained again by the next ``generate``, as if it had never been there.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from data_gen.schema import ADDED, COLUMNS, FORMAT, ForeignError, as_now, columns_of, create, row_digest, take_back
from supernet.settings import UnavailableError

_MOST_ROWS = 5_000_000
_LEAST_ROW = 32  # bytes


def mend(path: Path, reasons: list[str]) -> str:
    """Replace a damaged store by what is whole in it. The caller holds the run's lock.

    The damaged file stays as ``store.damaged-N.db``; the new one takes the name in one step.

    Args:
        reasons: what was found to be wrong.

    Returns:
        A sentence for the user: what was wrong, what was lost, where the old file is.

    Raises:
        ForeignError: no row proves that it is a store of this tool; the file is left as it is.
        UnavailableError: the folder cannot be written.
    """
    copy, new = (path.with_name(f".{path.name}.{word}") for word in ("copy", "mended"))
    try:
        new.unlink(missing_ok=True)
        try:
            kept, lost = _rescue(path, copy, new)
        finally:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{copy}{suffix}").unlink(missing_ok=True)
        if not sum(kept.values()):
            new.unlink()
            raise ForeignError(f"{path}: {'; '.join(reasons)}")
        number = 1
        while (aside := path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")).exists():
            number += 1
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                os.link(f"{path}{suffix}", f"{aside}{suffix}")
        new.replace(ready_name(path))
        finish(path)
    except OSError as error:
        raise UnavailableError(f"{path}: damaged, and cannot be mended here ({error.strerror})") from error
    rows = ", ".join(f"{count} {table}" for table, count in lost.items() if count) or "no row"
    return (
        f"{path}: was damaged ({'; '.join(reasons)[:200]}); {kept['results']} results are whole; lost is at least: "
        f"{rows}; what is missing is trained again; the damaged file is kept as {aside.name}"
    )


def ready_name(path: Path) -> Path:
    """The name of a mended store that is complete and only waits to take its place."""
    return path.with_name(f"{path.name}.ready")


def finish(path: Path) -> None:
    """Put a mended store in its place, also one whose driver died before it could. Raises OSError."""
    if ready_name(path).exists():
        for suffix in ("-wal", "-shm"):  # or SQLite would take the old log for the new file's
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        ready_name(path).replace(path)


def _rescue(path: Path, copy: Path, new: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Copy the rows that are whole into a new store; for each table, how many rows are and how many are not."""
    shutil.copyfile(path, copy)
    with suppress(FileNotFoundError):
        shutil.copyfile(f"{path}-wal", f"{copy}-wal")
    _make_readable(copy)
    with closing(sqlite3.connect(copy, isolation_level=None)) as old, closing(
        sqlite3.connect(new, isolation_level=None)
    ) as target:  # fmt: skip
        old.text_factory = bytes  # what is no text any more must not stop the reading
        create(target)
        target.execute("PRAGMA foreign_keys = ON")
        target.execute("BEGIN IMMEDIATE")
        kept: dict[str, int] = {}
        lost: dict[str, int] = {}
        for table, columns in COLUMNS.items():
            kept[table] = lost[table] = 0
            insertion = f"INSERT INTO {table} VALUES ({', '.join('?' * (len(columns) + 1))})"  # noqa: S608
            for row in _rows(old, table, copy.stat().st_size):
                whole = None if row is None else _whole(table, row)
                if whole is not None:
                    try:
                        target.execute(insertion, whole)
                        kept[table] += 1
                        continue
                    except sqlite3.IntegrityError:  # it belongs to a row that is lost, or there are two of it
                        pass
                lost[table] += 1
        take_back(target)
        target.execute("COMMIT")
        target.execute("PRAGMA journal_mode = WAL")
    handle = os.open(new, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return kept, lost


def _make_readable(copy: Path) -> None:
    """Give a copy the length that its first page announces, and a whole first page where it has none.

    SQLite opens no file that is too short, and none whose first page is damaged: it holds the list of tables. That
    page is the same in every store that was not migrated, but for counters.
    """
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        create(fresh)
        first = fresh.serialize()[: fresh.execute("PRAGMA page_size").fetchone()[0]]
    with copy.open("r+b") as file:
        head = file.read(100)
        pages, size = int.from_bytes(head[28:32], "big"), len(first)
        # A damaged count of pages must not make the copy huge.
        if head[:16] == first[:16] and pages * size <= 64 * file.seek(0, os.SEEK_END):
            file.truncate(max(pages * size, file.seek(0, os.SEEK_END)))
        for attempt in (1, 2):
            try:
                with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
                    for table in COLUMNS:
                        connection.execute(f"SELECT rowid FROM {table} LIMIT 0")  # noqa: S608
            except (sqlite3.DatabaseError, UnicodeDecodeError):
                if attempt == 1:
                    pages = max(1, file.seek(0, os.SEEK_END) // size)
                    file.seek(0)
                    file.write(first[:28] + pages.to_bytes(4, "big") + first[32:])
                    file.truncate(pages * size)
            else:
                return


def _rows(connection: sqlite3.Connection, table: str, size: int) -> Iterator[tuple[object, ...] | None]:
    """Rows with their digest as text and numbers; None for one that is there and cannot be read."""
    try:
        found = connection.execute(f"SELECT * FROM {table} NOT INDEXED").fetchall()  # noqa: S608
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        pass  # one page is not whole: the others are reached row by row
    else:
        yield from map(_as_text, found)
        return
    query = f"SELECT * FROM {table} NOT INDEXED WHERE rowid = ?"  # noqa: S608
    for number in range(1, min(size // _LEAST_ROW, _MOST_ROWS)):
        try:
            row = connection.execute(query, (number,)).fetchone()
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            continue  # nobody knows whether there was one
        if row is not None:
            yield _as_text(row)


def _as_text(row: tuple[object, ...]) -> tuple[object, ...] | None:
    try:
        return tuple(value.decode() if isinstance(value, bytes) else value for value in row)
    except UnicodeDecodeError:
        return None


def _whole(table: str, row: tuple[object, ...]) -> tuple[object, ...] | None:
    """A row that proves its digest, as one of this format; None for any other.

    Where the page that holds the list of tables was damaged and replaced, rows of an older format are read by the
    columns of this one: they have fewer values, and None comes behind their digest. So the digest alone tells.
    """
    for version in (FORMAT, *sorted(ADDED, reverse=True)):
        values, rest = row[: (count := len(columns_of(table, version)))], row[count:]
        if rest and row_digest(table, values) == rest[0]:
            if table == "architectures" and not isinstance(json.loads(str(row[2])), list):
                return None
            now = as_now(table, version, values)
            return (*now, row_digest(table, now))
    return None
