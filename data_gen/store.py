"""The run's store: SQLite, and the only place where results live.

Only the driver that holds the run's lock writes. A result is committed, with full synchronisation,
before anything else learns of it; readers open the file read-only and never block the writer. Whoever
opens it checks every row first, so that what is read afterwards can be trusted, or finds the seal of one
who did; readers too leave that seal beside a large store, see :mod:`data_gen.seal`.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_gen.mending import finish, mend
from data_gen.schema import (
    CACHE,
    FORMAT,
    DamagedRowsError,
    ForeignError,
    are_metrics,
    check_format,
    create,
    damage,
    end_attempt,
    has_our_tables,
    insert,
    insert_numbered,
    migrate,
    take_back,
)
from data_gen.seal import file_seal, is_large, read_seal, write_seal
from supernet import COST_NAMES, Architecture, InputError
from supernet.settings import UnavailableError

_LOGGER = logging.getLogger("genas.store")

_decode = json.JSONDecoder().raw_decode  # of text that was written here: a third of the time that json.loads takes

STUDY_STAGE = "study-"
"""What the stage of a smaller set of images begins with; its number of images follows."""

FRONT_STAGES = ("front-ranking", "front")
"""Of a front: short trainings that rank, and full ones."""

OOM_TRIES = 2
"""A network that needs too much memory is tried once more with each batch in twice as many pieces."""


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
    """One committed training. Accuracy is a fraction, loss in nats, memory in bytes, macs for one image.

    Attributes:
        pieces: in how many pieces each batch was trained; more than 1 where memory was short.
    """

    job: Job
    accuracy: float
    loss: float
    epochs: int
    pieces: int
    seconds: float
    peak_memory: int
    images_per_second: float
    curve_text: str
    metric_text: str
    costs: Mapping[str, int]

    @property
    def curves(self) -> Mapping[str, Sequence[float]]:
        """One number an epoch by name, parsed when asked for: most readers of many results do not ask."""
        content: Mapping[str, Sequence[float]] = json.loads(self.curve_text)
        return content

    @property
    def metrics(self) -> Mapping[str, float]:
        """What was measured besides, by name."""
        content: Mapping[str, float] = json.loads(self.metric_text)
        return content


class Label(NamedTuple):
    """What one committed training measured, without its curves, in plain values: 100,000 are read in a second.

    The units are those of :class:`Result`; ``job`` is its number, ``choices`` and ``metric_text`` JSON.
    """

    job: int
    key: str
    space: str
    choices: str
    accuracy: float
    loss: float
    seconds: float
    peak_memory: int
    pieces: int
    macs: int
    conv_macs: int
    params: int
    activations: int
    metric_text: str

    @property
    def metrics(self) -> Mapping[str, float]:
        """What was measured besides, by name."""
        content: Mapping[str, float] = {} if self.metric_text == "{}" else json.loads(self.metric_text)
        return content

    @property
    def architecture(self) -> Architecture:
        return _architecture(self.space, self.choices)


@dataclass(frozen=True, slots=True)
class Failure:
    """A job whose attempts are used up, or whose failure is not worth another."""

    job: Job
    kind: str
    message: str
    attempts: int


class NodeCount(NamedTuple):
    """How attempts of all stages ended on one node; those that have not ended are not counted.

    Attributes:
        name: of the node; empty for attempts of which it is not known.
        failed: by kind, those that happened.
        seconds: from start to end, of all that are done.
    """

    name: str
    done: int
    failed: Mapping[str, int]
    interrupted: int
    seconds: float


class Store:
    """An open store. Use :func:`open_store` or :func:`read_store`.

    The queries say CROSS JOIN where SQLite shall keep their order of tables: from results to jobs, both by
    number, is several times faster over 100,000 results than from jobs by stage, which needs sorting.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        connection.execute(CACHE)
        self._connection = connection
        self._grouped = False
        self.path = path

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def seal(self) -> None:
        """Check a large store once more when a stage is done, so that nobody who reads it needs to."""
        if not is_large(self.path):
            return
        connection = self._connection
        with suppress(sqlite3.OperationalError):  # then those who read it check it
            connection.execute("PRAGMA busy_timeout = 0")
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            connection.execute("PRAGMA busy_timeout = 30000")
            if not busy:  # nobody is reading: all of it is in the file
                with closing(_connect(self.path)) as fresh:  # which has nothing of it in its memory
                    wrong = _damage(fresh, self.path)
                if wrong:
                    _LOGGER.warning("%s: damaged (%s); the next generate mends it", self.path, "; ".join(wrong)[:200])

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is written inside is forced to the disk at the end, at once: many results cost what one does.

        What of it is refused leaves the rest as it is; the rest is kept too where an error ends the block.

        Raises:
            UnavailableError: the disk is full or cannot be written; nothing of the block may be there.
        """
        self._grouped = True
        try:
            yield
        finally:
            self._grouped = False
            self._force()

    def _force(self) -> None:
        """Commit what is written, if anything is."""
        try:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise self._not_written(error) from error
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        if self._grouped:
            with self._part() as connection:
                yield connection
            return
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except sqlite3.OperationalError as error:  # disk full, read-only, I/O error
            raise self._not_written(error) from error
        finally:
            if self._connection.in_transaction:  # it was not committed, whatever came between
                self._connection.execute("ROLLBACK")

    @contextmanager
    def _part(self) -> Iterator[sqlite3.Connection]:
        """One of several writes that are committed together: it alone is taken back where it fails."""
        connection = self._connection
        try:
            if not connection.in_transaction:
                connection.execute("BEGIN IMMEDIATE")
            connection.execute("SAVEPOINT part")
            is_whole = False
            try:
                yield connection
                is_whole = True
            finally:
                if connection.in_transaction:  # a full disk has taken all of it back already
                    if not is_whole:
                        connection.execute("ROLLBACK TO part")
                    connection.execute("RELEASE part")
        except sqlite3.OperationalError as error:
            raise self._not_written(error) from error

    def _not_written(self, error: sqlite3.OperationalError) -> UnavailableError:
        return UnavailableError(f"{self.path}: cannot write ({error}); committed results are safe")

    def add_jobs(
        self,
        stage: str,
        planned: Sequence[tuple[Architecture, int, str]],
        costs: Mapping[str, Mapping[str, int]],
        graphs: Mapping[str, str] | None = None,
    ) -> list[Job]:
        """Enter (architecture, seed, role) for a stage; those already there stay as they are.

        Args:
            costs: by architecture key, for those that the store does not know yet.
            graphs: digests that isomorphic networks share, by key: of those only the first is entered.

        Returns:
            A job for each entry of the plan, in its order. The job of a network that is isomorphic to one
            entered earlier is that one's, so the same job may come twice.
        """
        jobs = []
        known = self.keys()
        with self._writing() as connection:
            for architecture, seed, role in planned:
                key = architecture.key
                if key not in known:
                    graph = (graphs or {}).get(key)
                    twin = connection.execute(
                        "SELECT key, space, choices FROM architectures WHERE graph = ?", (graph,)
                    ).fetchone()
                    if twin is not None:
                        key, space, choices = twin
                        architecture = Architecture(space, tuple(json.loads(choices)))
                    else:
                        numbers = (int(costs[key][name]) for name in COST_NAMES)
                        choices = json.dumps(architecture.choices)
                        insert(connection, "architectures", (key, architecture.space, choices, graph, *numbers))
                        known.add(key)
                row = connection.execute(
                    "SELECT id FROM jobs WHERE stage = ? AND key = ? AND seed = ?", (stage, key, seed)
                ).fetchone()
                number = row[0] if row else insert_numbered(connection, "jobs", (stage, key, seed, role))
                jobs.append(Job(number, stage, architecture, seed, role))
        return jobs

    def keys(self) -> set[str]:
        """The keys of all architectures entered."""
        return {str(key) for (key,) in self._connection.execute("SELECT key FROM architectures")}

    def sizes(self) -> dict[str, float]:
        """By key, a rough measure of the time that a training of the architecture takes; it only orders the last ones.

        Small networks wait for memory as much as for arithmetic, so an element of activations counts as twenty MACs.
        """
        rows = self._connection.execute("SELECT key, macs + 20 * activations FROM architectures")
        return {str(key): float(size) for key, size in rows}

    def forget(self, jobs: Sequence[Job]) -> None:
        """Take back results whose weights are gone, so that they are trained again."""
        with self._writing() as connection:
            for job in jobs:
                connection.execute("DELETE FROM results WHERE job = ?", (job.id,))
            take_back(connection)

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
            open_ones = connection.execute("SELECT id FROM attempts WHERE outcome IS NULL").fetchall()
            return sum(end_attempt(connection, number, "interrupted", "") for (number,) in open_ones)

    def start(self, job: Job, pid: int, node: str = "") -> int:
        """Enter an attempt and return its number. A job that is being tried already is an error of the caller.

        Args:
            pid: of the worker, on its node.
            node: the name of the machine that the worker is on; empty where it is not known.
        """
        with self._writing() as connection:
            return insert_numbered(connection, "attempts", (job.id, pid, node, time.time(), None, None, ""))

    def commit(self, job: Job, attempt: int, result: Mapping[str, object]) -> None:
        """Write a result and close its attempt in one transaction.

        Raises:
            sqlite3.IntegrityError: a second result for a job, numbers that are no label, or an attempt that is
                not the job's open one any more: its owner was given up, and another may be at the job.
        """
        values = (
            job.id,
            _real(result["accuracy"]),
            _real(result["loss"]),
            _whole(result["epochs"]),
            _whole(result["pieces"]),
            _real(result["seconds"]),
            _whole(result["peak_memory"]),
            _real(result["images_per_second"]),
            json.dumps(result["curves"], allow_nan=False),
            _named(result.get("metrics", {})),
            time.time(),
        )
        with self._writing() as connection:
            owner = connection.execute("SELECT job FROM attempts WHERE id = ?", (attempt,)).fetchone()
            if owner != (job.id,) or not end_attempt(connection, attempt, "done", ""):
                raise sqlite3.IntegrityError(f"attempt {attempt} is not the open one of job {job.id}")
            insert(connection, "results", values)

    def fail(self, attempt: int, outcome: str, message: str) -> None:
        """Close an attempt that gave no result; one that is closed already stays as it is."""
        with self._writing() as connection:
            end_attempt(connection, attempt, outcome, message[:2000].encode(errors="replace").decode())

    def event(self, kind: str, message: str) -> None:
        """Something worth telling in the report: a start, a stop, a stage's seconds."""
        with self._writing() as connection:
            insert_numbered(connection, "events", (time.time(), kind, message))

    def events(self, kind: str) -> list[tuple[float, str]]:
        """(time, message) of one kind, oldest first."""
        rows = self._connection.execute("SELECT time, message FROM events WHERE kind = ? ORDER BY id", (kind,))
        return [(float(moment), str(message)) for moment, message in rows]

    def stages(self) -> list[str]:
        """The stages that have jobs, in the order of their names."""
        return [str(stage) for (stage,) in self._connection.execute("SELECT DISTINCT stage FROM jobs ORDER BY stage")]

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
            "SELECT jobs.id, stage, space, choices, seed, role, accuracy, loss, epochs, pieces, seconds, peak_memory, "
            "images_per_second, curves, metrics, macs, conv_macs, params, activations "
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
                row[12],
                row[13],
                row[14],
                dict(zip(COST_NAMES, row[15:], strict=True)),
            )
            for row in rows
        ]

    def labels(self, stage: str) -> Iterator[Label]:
        """What :meth:`results` gives, in its order, without curves and one at a time."""
        return self._labels("stage = ?", stage)

    def labels_by_architecture(self, stage: str) -> Iterator[list[Label]]:
        """All labels of each architecture, in the order in which the first of them was planned."""
        several = "SELECT key FROM jobs WHERE stage = ? GROUP BY key HAVING COUNT(*) > 1"
        grouped: dict[str, list[Label]] = {}
        if self._connection.execute(several, (stage,)).fetchone():
            for label in self._labels(f"stage = ? AND key IN ({several})", stage, stage):
                grouped.setdefault(label.key, []).append(label)
        for label in self.labels(stage):
            group = grouped.get(label.key)
            if group is None:
                yield [label]
            elif group[0].job == label.job:
                yield group

    def _labels(self, condition: str, *values: str) -> Iterator[Label]:
        rows = self._connection.execute(
            f"SELECT results.job, {', '.join(Label._fields[1:-1])}, metrics FROM results "  # noqa: S608
            "CROSS JOIN jobs ON jobs.id = results.job CROSS JOIN architectures USING (key) "
            f"WHERE {condition} ORDER BY results.job",
            values,
        )
        return map(Label._make, rows)

    def curves(self, jobs: Sequence[int]) -> Iterator[Mapping[str, Sequence[float]]]:
        """What :attr:`Result.curves` gives, of those of these jobs that have a result."""
        for job in jobs:
            for (text,) in self._connection.execute("SELECT curves FROM results WHERE job = ?", (job,)):
                yield json.loads(text)

    def accuracies(self, stage: str) -> dict[int, float]:
        """Accuracy of every committed result of a stage by the number of its job."""
        rows = self._connection.execute(
            "SELECT job, accuracy FROM results CROSS JOIN jobs ON jobs.id = results.job WHERE stage = ?", (stage,)
        )
        return {int(job): float(accuracy) for job, accuracy in rows}

    def counts(self, stage: str) -> tuple[int, int]:
        """(jobs planned, results committed) of a stage."""
        row = self._connection.execute(
            "SELECT (SELECT COUNT(*) FROM jobs WHERE stage = :stage), (SELECT COUNT(*) FROM results "
            "CROSS JOIN jobs ON jobs.id = results.job WHERE stage = :stage)",
            {"stage": stage},
        ).fetchone()
        return int(row[0]), int(row[1])

    def best(self, stage: str) -> tuple[str, float, dict[str, int]] | None:
        """(key, accuracy, costs) of the result with the highest accuracy, None where there is none."""
        row = self._connection.execute(
            f"SELECT key, accuracy, {', '.join(COST_NAMES)} FROM ("  # noqa: S608
            "SELECT key, accuracy FROM results CROSS JOIN jobs ON jobs.id = results.job "
            "WHERE stage = ? ORDER BY accuracy DESC, jobs.id LIMIT 1) JOIN architectures USING (key)",
            (stage,),
        ).fetchone()
        return None if row is None else (str(row[0]), float(row[1]), dict(zip(COST_NAMES, row[2:], strict=True)))

    def failures(self, stage: str, retries: int | None) -> list[Failure]:
        """Jobs of a stage that have failed, have no result and will not be tried again.

        Args:
            retries: how often ``crash`` and ``killed`` are tried again; None also gives those that will be.
        """
        rows = self._connection.execute(
            "SELECT jobs.id, stage, space, choices, seed, role, outcome, message FROM attempts "
            "CROSS JOIN jobs ON jobs.id = attempts.job CROSS JOIN architectures USING (key) "
            "WHERE stage = ? AND outcome NOT IN ('done', 'interrupted') "
            "AND NOT EXISTS (SELECT 1 FROM results WHERE results.job = attempts.job) "
            "ORDER BY jobs.id, started, attempts.id",
            (stage,),
        ).fetchall()
        grouped: dict[int, list[tuple[str, str, Job]]] = {}
        for row in rows:
            grouped.setdefault(row[0], []).append((row[6], row[7], _job(*row[:6])))
        return [
            Failure(tries[-1][2], tries[-1][0], tries[-1][1], len(tries))
            for tries in grouped.values()
            if retries is None or is_final([kind for kind, _, _ in tries], retries)
        ]

    def tries(self, job: Job) -> list[str]:
        """How the attempts of a job that ended in a failure of its own ended, oldest first."""
        rows = self._connection.execute(
            "SELECT outcome FROM attempts WHERE job = ? AND outcome NOT IN ('done', 'interrupted') "
            "ORDER BY started, id",
            (job.id,),
        )
        return [str(outcome) for (outcome,) in rows]

    def attempts(self, stage: str) -> dict[str, int]:
        """How many attempts ended how; 'running' are those that have not."""
        rows = self._connection.execute(
            "SELECT COALESCE(outcome, 'running'), COUNT(*) FROM attempts CROSS JOIN jobs ON jobs.id = attempts.job "
            "WHERE stage = ? GROUP BY 1",
            (stage,),
        )
        return {str(outcome): int(count) for outcome, count in rows}

    def nodes(self) -> list[NodeCount]:
        """What became of the attempts on each node, in the order of their names."""
        rows = self._connection.execute(
            "SELECT node, COALESCE(outcome, 'running'), COUNT(*), SUM(finished - started) FROM attempts "
            "GROUP BY 1, 2 ORDER BY 1, 2"
        )
        grouped: dict[str, dict[str, tuple[int, float | None]]] = {}
        for node, outcome, count, seconds in rows:
            grouped.setdefault(node, {})[outcome] = count, seconds
        found = []
        for node, ends in grouped.items():
            done, seconds = ends.pop("done", (0, None))
            interrupted, _ = ends.pop("interrupted", (0, None))
            failed = {kind: count for kind, (count, _) in ends.items() if kind != "running"}
            found.append(NodeCount(node, done, failed, interrupted, seconds or 0.0))
        return found


def is_final(kinds: Sequence[str], retries: int) -> bool:
    """Whether a job that has failed so, oldest first, is given up.

    ``crash`` and ``killed`` may be an accident and are tried again ``retries`` times; ``oom`` is tried once
    more with smaller pieces; ``diverged`` and ``timeout`` would come again.
    """
    if kinds[-1] in ("crash", "killed"):
        return sum(kind in ("crash", "killed") for kind in kinds) > retries
    return kinds[-1] != "oom" or kinds.count("oom") >= OOM_TRIES


def _real(value: object) -> float:
    """As a REAL column gives it back, so that the digest is of the same value. Raises sqlite3.IntegrityError."""
    if type(value) not in (int, float):
        raise sqlite3.IntegrityError(f"{value!r:.80} is no number")
    return float(str(value)) + 0.0  # no negative zero


def _whole(value: object) -> int:
    """As an INTEGER column gives it back. Raises sqlite3.IntegrityError."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise sqlite3.IntegrityError(f"{value!r:.80} is no whole number from 0")
    return value


def _named(metrics: object) -> str:
    """Numbers by name as JSON. Raises sqlite3.IntegrityError for anything else."""
    if not are_metrics(metrics):
        raise sqlite3.IntegrityError(f"{metrics!r:.80}: expected finite numbers by name")
    return json.dumps(metrics)


def _job(number: int, stage: str, space: str, choices: str, seed: int, role: str) -> Job:
    return Job(number, stage, _architecture(space, choices), seed, role)


def _architecture(space: str, choices: str) -> Architecture:
    return Architecture(space, tuple(_decode(choices)[0]))


def open_store(path: Path) -> Store:
    """Open for writing, and make it where there is none. The caller holds the run's lock.

    An older format is brought to this one; a damaged file is mended, with a warning that says what was lost.

    Raises:
        UnavailableError: the folder cannot be written.
        InputError: another program's file, one damaged beyond reading, or one written by a newer version.
    """
    try:
        finish(path)
    except OSError as error:
        raise UnavailableError(f"{path}: cannot write ({error.strerror})") from error
    connection = _connect(path)
    with ExitStack() as stack:
        stack.callback(lambda: connection.close())  # the one that is open by then
        with _unwritable(path):
            try:
                if _is_blank(connection, path):
                    connection.execute("PRAGMA journal_mode = WAL")
                    create(connection)
                wrong = _whole_or_why(connection, path)
            except ForeignError as error:  # unless a row proves that it is ours, mending raises the same
                wrong = [str(error).removeprefix(f"{path}: ")]
            if wrong:
                connection.close()
                sentence = mend(path, wrong)
                _LOGGER.warning("%s", sentence)
                connection = _connect(path)
                insert_numbered(connection, "events", (time.time(), "mended", sentence))
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA wal_autocheckpoint = 100")  # pages: a short log, the part that a tear can reach
        stack.pop_all()  # all went well: it stays open
    return Store(connection, path)


def read_store(path: Path) -> Store:
    """Open read-only, never blocking a driver that writes.

    Raises:
        InputError: no store there, another program's, a damaged one, or one written by a newer version.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such store; run generate first")
    connection = _connect_readonly(path)
    with ExitStack() as stack:
        stack.callback(lambda: connection.close())
        stack.enter_context(_readable(path))
        if check_format(connection, path) < FORMAT:  # a reader cannot migrate the file: it migrates a copy
            memory = sqlite3.connect(":memory:", isolation_level=None)
            connection.backup(memory)
            connection.close()
            connection = memory
            _migrate(connection, path)
            connection.execute("PRAGMA query_only = ON")
            wrong = damage(connection)
        else:
            wrong = _damage(connection, path)
        if wrong:
            raise InputError(
                f"{path}: damaged ({'; '.join(wrong)[:200]}); `genas generate {path.parent.name}` mends it: what is "
                f"whole is kept, what is lost is trained again"
            )
        stack.pop_all()
    return Store(connection, path)


def _damage(connection: sqlite3.Connection, path: Path) -> list[str]:
    """What is wrong with a store of this format; a large file is sealed where nothing is."""
    seal = file_seal(path)
    if seal is not None and seal == read_seal(path) and has_our_tables(connection):
        return []
    with closing(_connect_readonly(path)) as beside:
        wrong = damage(connection, beside)
    if not wrong and seal is not None and seal == file_seal(path):  # so this is what was checked
        with suppress(UnavailableError):  # a folder that cannot be written: it is checked again the next time
            write_seal(path, seal)
    return wrong


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise UnavailableError(f"{path}: cannot be read ({error})") from error
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path}: damaged ({error}); `genas generate {path.parent.name}` mends it") from error


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
    except sqlite3.OperationalError as error:
        raise UnavailableError(f"{path}: cannot open ({error})") from error


def _connect_readonly(path: Path) -> sqlite3.Connection:
    """Read-only, also where the folder cannot be written and the file was left with or without its log."""
    uri = f"{path.resolve().as_uri()}?mode=ro"
    for options in ("", "&immutable=1"):
        connection = sqlite3.connect(uri + options, uri=True, isolation_level=None, timeout=30, check_same_thread=False)
        try:
            connection.execute("PRAGMA schema_version").fetchone()
        except sqlite3.OperationalError as error:
            connection.close()
            log = Path(f"{path.resolve()}-wal")
            # Without its log an immutable file is whole; with one, committed results would be missing.
            if options or (log.is_file() and log.stat().st_size):
                raise UnavailableError(f"{path}: cannot be read ({error}); is its folder writable?") from error
        except (sqlite3.DatabaseError, UnicodeDecodeError):  # check_format says it better
            return connection
        else:
            return connection
    raise AssertionError("the loop returns or raises")


def _whole_or_why(connection: sqlite3.Connection, path: Path) -> list[str]:
    """What is wrong with a store, which is brought to the current format first."""
    if check_format(connection, path) < FORMAT:
        try:
            _migrate(connection, path)
        except DamagedRowsError as error:
            return [str(error)]
    return _damage(connection, path)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    try:
        migrate(connection)
    except DamagedRowsError:
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if any(words in str(error) for words in ("full", "locked", "readonly", "I/O")):
            raise  # the machine's fault, which the caller tells
        raise InputError(f"{path}: of an older format and damaged, so that it cannot be migrated ({error})") from error


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
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise ForeignError(f"{path}: not a store of this tool, or damaged ({error})") from error
    return bool(tables == (0,) and marks == (0,))
