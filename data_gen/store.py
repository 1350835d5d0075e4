"""The run's store: SQLite, and the only place where results live.

Only the driver that holds the run's lock writes. A result is committed, with full synchronisation,
before anything else learns of it; readers open the file read-only and never block the writer.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from supernet import Architecture, InputError
from supernet.settings import UnavailableError

FORMAT = 1
APPLICATION_ID = 0x67656E61  # "gena"

_SCHEMA = """
CREATE TABLE architectures (
    key TEXT PRIMARY KEY,
    space TEXT NOT NULL,
    choices TEXT NOT NULL,
    macs INTEGER NOT NULL,
    conv_macs INTEGER NOT NULL,
    params INTEGER NOT NULL,
    activations INTEGER NOT NULL
) STRICT;
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    stage TEXT NOT NULL,
    key TEXT NOT NULL REFERENCES architectures (key),
    seed INTEGER NOT NULL,
    role TEXT NOT NULL DEFAULT '',
    UNIQUE (stage, key, seed)
) STRICT;
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    job INTEGER NOT NULL REFERENCES jobs (id),
    pid INTEGER NOT NULL,
    started REAL NOT NULL,
    finished REAL,
    outcome TEXT CHECK (outcome IN ('done', 'oom', 'diverged', 'timeout', 'crash', 'killed', 'interrupted')),
    message TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE results (
    job INTEGER PRIMARY KEY REFERENCES jobs (id),
    accuracy REAL NOT NULL CHECK (accuracy BETWEEN 0 AND 1),
    loss REAL NOT NULL CHECK (loss BETWEEN 0 AND 1e300),
    epochs INTEGER NOT NULL,
    seconds REAL NOT NULL,
    peak_memory INTEGER NOT NULL,
    images_per_second REAL NOT NULL,
    curves TEXT NOT NULL,
    committed REAL NOT NULL
) STRICT;
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL
) STRICT;
CREATE INDEX attempts_of_job ON attempts (job);
"""


@dataclass(frozen=True, slots=True)
class Job:
    """One training: an architecture, a seed and the stage that asked for it."""

    id: int
    stage: str
    architecture: Architecture
    seed: int
    role: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """One committed training. Accuracy is a fraction, loss in nats, memory in bytes, macs for one image."""

    job: Job
    accuracy: float
    loss: float
    epochs: int
    seconds: float
    peak_memory: int
    images_per_second: float
    curves: Mapping[str, Sequence[float]]
    costs: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Failure:
    """A job whose attempts are used up, or whose failure is not worth another."""

    job: Job
    kind: str
    message: str
    attempts: int


class Store:
    """An open store. Use :func:`open_store` or :func:`read_store`."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):  # disk full, read-only, I/O error
                raise UnavailableError(f"{self.path}: cannot write ({error}); committed results are safe") from error
            raise

    def add_jobs(
        self,
        stage: str,
        planned: Sequence[tuple[Architecture, int, str]],
        costs: Mapping[str, Mapping[str, int]],
    ) -> list[Job]:
        """Enter (architecture, seed, role) for a stage; those already there stay as they are.

        Args:
            costs: by architecture key.

        Returns:
            The planned jobs in the order given.
        """
        jobs = []
        with self._writing() as connection:
            for architecture, seed, role in planned:
                key = architecture.key
                connection.execute(
                    "INSERT OR IGNORE INTO architectures VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (key, architecture.space, json.dumps(architecture.choices), *(
                        int(costs[key][name]) for name in ("macs", "conv_macs", "params", "activations")
                    )),
                )  # fmt: skip
                connection.execute(
                    "INSERT OR IGNORE INTO jobs (stage, key, seed, role) VALUES (?, ?, ?, ?)", (stage, key, seed, role)
                )
                (number,) = connection.execute(
                    "SELECT id FROM jobs WHERE stage = ? AND key = ? AND seed = ?", (stage, key, seed)
                ).fetchone()
                jobs.append(Job(number, stage, architecture, seed, role))
        return jobs

    def forget(self, jobs: Sequence[Job]) -> None:
        """Take back results whose weights are gone, so that they are trained again."""
        with self._writing() as connection:
            for job in jobs:
                connection.execute("DELETE FROM results WHERE job = ?", (job.id,))
                connection.execute(
                    "UPDATE attempts SET outcome = 'interrupted' WHERE job = ? AND outcome = 'done'", (job.id,)
                )

    def forget_stage(self, stage: str) -> None:
        """Take back the plan of a stage that has no result. A stage with results is an error of the caller."""
        with self._writing() as connection:
            of_stage = "(SELECT id FROM jobs WHERE stage = ?)"
            if connection.execute(f"SELECT 1 FROM results WHERE job IN {of_stage}", (stage,)).fetchone():  # noqa: S608
                raise ValueError(f"stage {stage} has results")
            connection.execute(f"DELETE FROM attempts WHERE job IN {of_stage}", (stage,))  # noqa: S608
            connection.execute("DELETE FROM jobs WHERE stage = ?", (stage,))
            connection.execute("DELETE FROM events WHERE kind = ?", (f"settings:{stage}",))

    def close_open_attempts(self) -> int:
        """Mark attempts that a dead driver left behind; the lock says that nobody runs them. Returns how many."""
        with self._writing() as connection:
            return connection.execute(
                "UPDATE attempts SET finished = ?, outcome = 'interrupted' WHERE finished IS NULL", (time.time(),)
            ).rowcount

    def start(self, job: Job, pid: int) -> int:
        """Enter an attempt and return its number."""
        with self._writing() as connection:
            cursor = connection.execute(
                "INSERT INTO attempts (job, pid, started) VALUES (?, ?, ?)", (job.id, pid, time.time())
            )
        return int(cursor.lastrowid or 0)

    def commit(self, job: Job, attempt: int, result: Mapping[str, object]) -> None:
        """Write a result and close its attempt in one transaction. A second result for a job is an error."""
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job.id,
                    result["accuracy"],
                    result["loss"],
                    result["epochs"],
                    result["seconds"],
                    result["peak_memory"],
                    result["images_per_second"],
                    json.dumps(result["curves"], allow_nan=False),
                    time.time(),
                ),
            )
            connection.execute(
                "UPDATE attempts SET finished = ?, outcome = 'done' WHERE id = ?", (time.time(), attempt)
            )

    def fail(self, attempt: int, outcome: str, message: str) -> None:
        """Close an attempt that gave no result; one that is closed already stays as it is."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE attempts SET finished = ?, outcome = ?, message = ? WHERE id = ? AND finished IS NULL",
                (time.time(), outcome, message[:2000], attempt),
            )

    def event(self, kind: str, message: str) -> None:
        """Something worth telling in the report: a start, a stop, a stage's seconds."""
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO events (time, kind, message) VALUES (?, ?, ?)", (time.time(), kind, message)
            )

    def events(self, kind: str) -> list[tuple[float, str]]:
        """(time, message) of one kind, oldest first."""
        rows = self._connection.execute("SELECT time, message FROM events WHERE kind = ? ORDER BY id", (kind,))
        return [(float(moment), str(message)) for moment, message in rows]

    def jobs(self, stage: str) -> list[Job]:
        """All jobs of a stage, in the order in which they were planned."""
        rows = self._connection.execute(
            "SELECT id, stage, space, choices, seed, role FROM jobs JOIN architectures USING (key) "
            "WHERE stage = ? ORDER BY id",
            (stage,),
        )
        return [_job(*row) for row in rows]

    def results(self, stage: str) -> list[Result]:
        """Committed results of a stage, in the order in which they were planned."""
        rows = self._connection.execute(
            "SELECT jobs.id, stage, space, choices, seed, role, accuracy, loss, epochs, seconds, peak_memory, "
            "images_per_second, curves, macs, conv_macs, params, activations "
            "FROM results JOIN jobs ON jobs.id = results.job JOIN architectures USING (key) "
            "WHERE stage = ? ORDER BY jobs.id",
            (stage,),
        )
        return [
            Result(
                _job(*row[:6]),
                row[6],
                row[7],
                row[8],
                row[9],
                row[10],
                row[11],
                json.loads(row[12]),
                dict(zip(("macs", "conv_macs", "params", "activations"), row[13:], strict=True)),
            )
            for row in rows
        ]

    def failures(self, stage: str, retries: int) -> list[Failure]:
        """Jobs of a stage that have no result and will not be tried again.

        Args:
            retries: how often ``crash`` and ``killed`` are tried again.
        """
        rows = self._connection.execute(
            "SELECT jobs.id, stage, space, choices, seed, role, outcome, message FROM attempts "
            "JOIN jobs ON jobs.id = attempts.job JOIN architectures USING (key) "
            "LEFT JOIN results ON results.job = jobs.id "
            "WHERE stage = ? AND results.job IS NULL AND outcome IS NOT NULL AND outcome != 'interrupted' "
            "ORDER BY jobs.id, attempts.id",
            (stage,),
        ).fetchall()
        grouped: dict[int, list[tuple[str, str, Job]]] = {}
        for row in rows:
            grouped.setdefault(row[0], []).append((row[6], row[7], _job(*row[:6])))
        failures = []
        for tries in grouped.values():
            kind, message, job = tries[-1]
            if kind not in ("crash", "killed") or len(tries) > retries:
                failures.append(Failure(job, kind, message, len(tries)))
        return failures

    def tries(self, job: Job) -> int:
        """Attempts of a job that ended in a failure of its own."""
        (count,) = self._connection.execute(
            "SELECT COUNT(*) FROM attempts WHERE job = ? AND outcome NOT IN ('done', 'interrupted')", (job.id,)
        ).fetchone()
        return int(count)

    def attempts(self, stage: str) -> dict[str, int]:
        """How many attempts ended how; 'running' are those that have not."""
        rows = self._connection.execute(
            "SELECT COALESCE(outcome, 'running'), COUNT(*) FROM attempts JOIN jobs ON jobs.id = attempts.job "
            "WHERE stage = ? GROUP BY 1",
            (stage,),
        )
        return {str(outcome): int(count) for outcome, count in rows}


def _job(number: int, stage: str, space: str, choices: str, seed: int, role: str) -> Job:
    return Job(number, stage, Architecture(space, tuple(json.loads(choices))), seed, role)


def open_store(path: Path) -> Store:
    """Open for writing, and make it where there is none. The caller holds the run's lock.

    Raises:
        UnavailableError: the folder cannot be written.
        InputError: another program's file, a damaged one, or one written by a newer version.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    except sqlite3.OperationalError as error:
        raise UnavailableError(f"{path}: cannot open ({error})") from error
    with _closed_on_error(connection), _unwritable(path):
        new = _is_blank(connection, path)
        if not new:
            _check_format(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if new:
            connection.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID}; "
                f"PRAGMA user_version = {FORMAT}; COMMIT;"
            )
    return Store(connection, path)


def read_store(path: Path) -> Store:
    """Open read-only. Raises InputError as :func:`open_store`, and where there is no store."""
    if not path.is_file():
        raise InputError(f"{path}: no such store; run generate first")
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=30)
    with _closed_on_error(connection):
        _check_format(connection, path)
    return Store(connection, path)


@contextmanager
def _closed_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    with ExitStack() as stack:
        stack.callback(connection.close)
        yield
        stack.pop_all()  # all went well: it stays open


@contextmanager
def _unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise UnavailableError(f"{path}: cannot write ({error})") from error


def _is_blank(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the store is still to be made: no file, or one whose first driver died before its first commit."""
    if not path.exists() or path.stat().st_size == 0:
        return True
    try:
        tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        marks = connection.execute("PRAGMA application_id").fetchone()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path}: not a store of this tool, or damaged ({error})") from error
    return bool(tables == (0,) and marks == (0,))


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path}: not a store of this tool, or damaged ({error})") from error
    if application != APPLICATION_ID:
        raise InputError(f"{path}: not a store of this tool")
    if version > FORMAT:
        raise InputError(f"{path}: written by a newer version (format {version}, this one reads {FORMAT}); update")
