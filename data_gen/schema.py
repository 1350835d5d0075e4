"""What a store's file looks like: its tables, what they refuse, and the digest that every row carries.

The guards of a run are constraints of the database wherever they can be: one job for a stage, network and
seed; one result for a job; one open attempt for a job; labels that are numbers. A row's digest covers the
row, so that a damaged page can never be read as a label.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from supernet import Architecture, InputError

FORMAT = 4
APPLICATION_ID = 0x67656E61  # "gena"

SCHEMA = """
CREATE TABLE architectures (
    key TEXT PRIMARY KEY,
    space TEXT NOT NULL,
    choices TEXT NOT NULL,
    graph TEXT UNIQUE, -- the same for isomorphic networks; NULL where it is not known
    macs INTEGER NOT NULL CHECK (macs >= 0),
    conv_macs INTEGER NOT NULL CHECK (conv_macs >= 0),
    params INTEGER NOT NULL CHECK (params >= 0),
    activations INTEGER NOT NULL CHECK (activations >= 0),
    digest TEXT NOT NULL
) STRICT;
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    stage TEXT NOT NULL,
    key TEXT NOT NULL REFERENCES architectures (key),
    seed INTEGER NOT NULL,
    role TEXT NOT NULL DEFAULT '',
    digest TEXT NOT NULL,
    UNIQUE (stage, key, seed)
) STRICT;
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    job INTEGER NOT NULL REFERENCES jobs (id),
    pid INTEGER NOT NULL,
    node TEXT NOT NULL DEFAULT '', -- the name of the machine; '' where it is not known
    started REAL NOT NULL,
    finished REAL,
    outcome TEXT CHECK (outcome IN ('done', 'oom', 'diverged', 'timeout', 'crash', 'killed', 'interrupted')),
    message TEXT NOT NULL DEFAULT '',
    digest TEXT NOT NULL,
    CHECK ((finished IS NULL) = (outcome IS NULL))
) STRICT;
CREATE INDEX attempts_of_job ON attempts (job);
CREATE UNIQUE INDEX one_open_attempt ON attempts (job) WHERE outcome IS NULL;
CREATE TABLE results (
    job INTEGER PRIMARY KEY REFERENCES jobs (id),
    accuracy REAL NOT NULL CHECK (accuracy BETWEEN 0 AND 1),
    loss REAL NOT NULL CHECK (loss BETWEEN 0 AND 1e300),
    epochs INTEGER NOT NULL CHECK (epochs >= 0),
    pieces INTEGER NOT NULL CHECK (pieces >= 1), -- of each batch: more than 1 where memory was short
    seconds REAL NOT NULL CHECK (seconds BETWEEN 0 AND 1e300),
    peak_memory INTEGER NOT NULL CHECK (peak_memory >= 0),
    images_per_second REAL NOT NULL CHECK (images_per_second BETWEEN 0 AND 1e300),
    curves TEXT NOT NULL CHECK (json_valid(curves)),
    metrics TEXT NOT NULL CHECK (json_valid(metrics)), -- what else was measured, such as accuracy on corrupted images
    committed REAL NOT NULL,
    digest TEXT NOT NULL
) STRICT;
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    digest TEXT NOT NULL
) STRICT;
"""

COLUMNS: dict[str, tuple[str, ...]] = {
    "architectures": ("key", "space", "choices", "graph", "macs", "conv_macs", "params", "activations"),
    "jobs": ("id", "stage", "key", "seed", "role"),
    "attempts": ("id", "job", "pid", "node", "started", "finished", "outcome", "message"),
    "results": (
        "job", "accuracy", "loss", "epochs", "pieces", "seconds", "peak_memory", "images_per_second", "curves",
        "metrics", "committed",
    ),
    "events": ("id", "time", "kind", "message"),
}  # fmt: skip
"""Every table with its columns but for the digest; what a table refers to comes before it."""

ADDED: dict[int, dict[str, str | int | None]] = {
    1: {"graph": None, "pieces": 1, "metrics": "{}", "node": ""},
    2: {"metrics": "{}", "node": ""},
    3: {"node": ""},
}
"""What columns hold that an older format did not have."""

CACHE = "PRAGMA cache_size = -65536"
"""64 MiB, which a connection fills as it needs: with the usual 2 a large store's indexes are read again and again."""

_STATEMENTS = tuple(statement.strip() for statement in SCHEMA.split(";\n") if statement.strip())

_encode = json.JSONEncoder(separators=(",", ":"), default=repr).encode  # a damaged value may be a blob
_encode_lines = json.JSONEncoder(separators=("\n", ":"), default=repr).encode

_ROWS_AT_ONCE = 256
_CURVES = ("train_loss", "train_accuracy", "validation_epochs", "validation_accuracy", "validation_loss")


class ForeignError(InputError):
    """A file that is no store of this tool, or is damaged so that it does not look like one."""


class DamagedRowsError(sqlite3.DatabaseError):
    """Rows of an older format that has digests do not have theirs."""


def row_digest(table: str, values: Sequence[object]) -> str:
    """The digest of a row, from its values as the database gives them back (a REAL column gives floats)."""
    return _hashed(_encode([table, *values]))


def _hashed(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def insert(connection: sqlite3.Connection, table: str, values: Sequence[object]) -> None:
    """Enter a row, values in the order of :data:`COLUMNS`, with its digest."""
    marks = ", ".join("?" * (len(values) + 1))
    connection.execute(f"INSERT INTO {table} VALUES ({marks})", (*values, row_digest(table, values)))  # noqa: S608


def insert_numbered(connection: sqlite3.Connection, table: str, values: Sequence[object]) -> int:
    """Enter a row of a table that numbers its rows, in a transaction; returns the number."""
    (number,) = connection.execute(f"SELECT COALESCE(MAX(id), 0) + 1 FROM {table}").fetchone()  # noqa: S608
    insert(connection, table, (number, *values))
    return int(number)


def end_attempt(connection: sqlite3.Connection, attempt: int, outcome: str, message: str) -> bool:
    """Close an open attempt; False, and nothing is changed, where it is not open any more."""
    row = connection.execute(
        "SELECT id, job, pid, node, started FROM attempts WHERE id = ? AND outcome IS NULL", (attempt,)
    ).fetchone()
    if row is None:
        return False
    values = (*row, time.time(), outcome, message)
    connection.execute(
        "UPDATE attempts SET finished = ?, outcome = ?, message = ?, digest = ? WHERE id = ?",
        (*values[-3:], row_digest("attempts", values), attempt),
    )
    return True


def take_back(connection: sqlite3.Connection) -> None:
    """Have attempts whose result is gone count as interrupted: their jobs are trained again."""
    gone = "outcome = 'done' AND job NOT IN (SELECT job FROM results)"
    rows = connection.execute(f"SELECT {', '.join(COLUMNS['attempts'])} FROM attempts WHERE {gone}").fetchall()  # noqa: S608
    for *row, _, message in rows:
        connection.execute(
            "UPDATE attempts SET outcome = 'interrupted', digest = ? WHERE id = ?",
            (row_digest("attempts", (*row, "interrupted", message)), row[0]),
        )


def create(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty database, all or none."""
    connection.executescript(
        f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; COMMIT;"
    )


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a store of an older format to this one in a single transaction.

    Format 1 had no digests, format 2 no metrics besides accuracy and loss, format 3 no nodes.
    """
    tables = tuple(COLUMNS)
    connection.execute("PRAGMA foreign_keys = OFF")  # has no effect inside a transaction
    connection.execute("PRAGMA legacy_alter_table = ON")  # references keep the names of the new tables
    try:
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone() != (FORMAT,):  # another process may have been first
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if not _are_of(connection, version):
                raise ForeignError("its format is given as another than its tables are of")
            if version > 1 and (wrong := [table for table in tables if _damaged_rows(connection, table, version)]):
                raise DamagedRowsError(f"damaged rows in {', '.join(wrong)}")
            connection.execute("DROP INDEX attempts_of_job")
            connection.execute("DROP INDEX IF EXISTS one_open_attempt")
            for table in tables:
                connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
            for statement in _STATEMENTS:
                connection.execute(statement)
            for table in tables:
                _copy_older(connection, table, version)
            for table in reversed(tables):
                connection.execute(f"DROP TABLE old_{table}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:  # it was not committed, whatever came between
            connection.execute("ROLLBACK")
        connection.execute("PRAGMA legacy_alter_table = OFF")
        connection.execute("PRAGMA foreign_keys = ON")


def columns_of(table: str, version: int) -> tuple[str, ...]:
    """What :data:`COLUMNS` says of a table in this format or an older one."""
    return tuple(name for name in COLUMNS[table] if name not in ADDED.get(version, {}))


def as_now(table: str, version: int, values: Sequence[Any]) -> tuple[Any, ...]:
    """The values of a row of this format or an older one as one of this has them."""
    named = {**ADDED.get(version, {}), **dict(zip(columns_of(table, version), values, strict=True))}
    return tuple(named[name] for name in COLUMNS[table])


def _are_of(connection: sqlite3.Connection, version: int) -> bool:
    """Whether the tables are of this older format."""
    digest = set() if version == 1 else {"digest"}
    return version in ADDED and all(
        {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}
        == {*columns_of(table, version), *digest}
        for table in COLUMNS
    )


def _copy_older(connection: sqlite3.Connection, table: str, version: int) -> None:
    columns = ", ".join(columns_of(table, version))
    open_jobs: set[int] = set()
    # Latest attempts first: of several open ones, left by several dead drivers, only one may stay open.
    order = "ORDER BY id DESC" if table == "attempts" else ""
    for row in connection.execute(f"SELECT {columns} FROM old_{table} {order}").fetchall():  # noqa: S608
        values = list(as_now(table, version, row))
        if not _can_be_read(table, values):  # nothing else says that it is damaged
            raise sqlite3.DatabaseError(f"a row of {table} that is none: {values!r:.80}")
        if table == "attempts":
            _, job, _, _, started, _, outcome, _ = values
            if outcome is None and job in open_jobs:
                values[5:7] = started, "interrupted"
            elif outcome is None:
                open_jobs.add(job)
        insert(connection, table, values)


def _can_be_read(table: str, values: Sequence[Any]) -> bool:
    """Whether the JSON within a row is what readers of the row expect."""
    try:
        if table == "architectures":
            choices = json.loads(values[2])
            Architecture(values[1], tuple(choices))
            return bool(values[2] == json.dumps(choices))  # as it is written
        elif table == "results":
            return _are_curves(json.loads(values[8])) and are_metrics(json.loads(values[9]))
        elif table == "events" and values[2] == "seconds":
            entry = json.loads(values[3])
            return isinstance(entry["stage"], str) and math.isfinite(entry["seconds"])
        elif table == "events" and values[2].startswith("settings:"):
            return isinstance(json.loads(values[3]), dict)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return False
    return True


def are_metrics(metrics: object) -> bool:
    """Whether this is a finite number for each of some names."""
    return isinstance(metrics, dict) and all(
        isinstance(name, str) and type(value) in (int, float) and math.isfinite(value)
        for name, value in metrics.items()
    )


def _are_curves(curves: Mapping[str, Any]) -> bool:
    numbers = all(
        isinstance(curve, list) and all(type(number) in (int, float) and math.isfinite(number) for number in curve)
        for curve in curves.values()
    )
    watched = [curves.get(name, []) for name in _CURVES[2:]]
    return (
        numbers
        and curves.keys() <= set(_CURVES)
        and len({len(curve) for curve in watched}) == 1
        and all(type(epoch) is int and 0 < epoch < 2**31 for epoch in watched[0])
    )


def damage(connection: sqlite3.Connection, beside: sqlite3.Connection | None = None) -> list[str]:
    """What is wrong with a store: its structure, its constraints, and every row's digest. Empty where nothing is.

    Args:
        beside: another connection to the same file, of any thread: SQLite checks the structure over it, without
            Python's lock, while the digests are calculated here.
    """
    try:
        for one in (connection, beside):
            if one is not None:
                one.execute(CACHE)
        with ThreadPoolExecutor(1) as pool:
            structure = None if beside is None else pool.submit(_broken_structure, beside)
            whole = has_our_tables(connection)
            found = [] if whole else ["tables or constraints that are not those of this format"]
            for table in COLUMNS if whole else ():
                wrong = _damaged_rows(connection, table)
                if wrong:
                    found.append(f"{wrong} damaged row{'s' if wrong > 1 else ''} in {table}")
            for table, child, number, _ in connection.execute("PRAGMA foreign_key_check") if whole else ():
                found.append(f"row {child} of {table} belongs to no row of {number}")
            return (_broken_structure(connection) if structure is None else structure.result()) + found
    except sqlite3.OperationalError as error:
        if "UTF-8" in str(error):  # text that is none any more
            return ["text that cannot be read"]
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        return [str(error)]


def has_our_tables(connection: sqlite3.Connection) -> bool:
    """Whether the store has the tables and constraints of this format, and nothing else, such as a trigger."""
    kept = {str(text) for (text,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    return kept == set(_STATEMENTS)


def _broken_structure(connection: sqlite3.Connection) -> list[str]:
    return [str(line) for (line,) in connection.execute("PRAGMA integrity_check(3)") if line != "ok"]


def _damaged_rows(connection: sqlite3.Connection, table: str, version: int = FORMAT) -> int:
    """How many rows of a table do not have the digest that :func:`row_digest` gives; many are encoded at once."""
    rows = connection.execute(f"SELECT {', '.join(columns_of(table, version))}, digest FROM {table}")  # noqa: S608
    wrong = 0
    while several := rows.fetchmany(_ROWS_AT_ONCE):
        # JSON has no line break within a text: these stand between values and between rows, and nowhere else.
        for line in _encode_lines(several)[2:-2].split("]\n["):
            values, _, digest = line.rpartition("\n")
            text = f'["{table}",{values}]'.replace("\n", ",")
            wrong += digest != f'"{_hashed(text)}"'
    return wrong


def check_format(connection: sqlite3.Connection, path: object) -> int:
    """The format of a store's file.

    Raises:
        ForeignError: another program's file, or one that is damaged.
        InputError: a newer format.
    """
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.OperationalError:
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise ForeignError(f"{path}: not a store of this tool, or damaged ({error})") from error
    if application != APPLICATION_ID:
        raise ForeignError(f"{path}: not a store of this tool")
    if version > FORMAT:
        raise InputError(f"{path}: written by a newer version (format {version}, this one reads {FORMAT}); update")
    return int(version)
