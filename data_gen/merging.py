"""Stores brought together: what other stores hold goes into one that lacks it, by stage, network and seed.

Rows keep their values and get the numbers of the store that they come into. What is there already stays as it is.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from data_gen.schema import COLUMNS, insert, insert_numbered
from data_gen.store import Store

LABEL = ("accuracy", "loss", "metrics")
"""What makes two results the same: the other columns are about time and memory."""


class Training(NamedTuple):
    """What a result is of."""

    stage: str
    key: str
    seed: int


@dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes:
        added: how many ``architectures``, ``jobs``, ``results``, ``failures`` (attempts) and ``settings`` (of a stage).
        present: results that were there already and say the same.
        differing: trainings whose results were there already and say something else; they stay.
        same: by source, the trainings of which the store now has the label of the source under the source's key.
    """

    added: Mapping[str, int]
    present: int
    differing: Sequence[Training]
    same: Mapping[str, Sequence[Training]]


def hold(store: Store) -> None:
    """Have a store that was opened to be read stay as it is now until it is closed, whoever drives its run."""
    store._connection.execute("BEGIN")
    store._connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()  # the snapshot is of the first reading


def merge_stores(into: Store, sources: Mapping[str, Store]) -> Merged:
    """Add to a store, in one transaction, what others hold and it lacks; an event notes it where that is anything.

    The caller holds the lock of the run, and has compared what the results were made with. A network that is isomorphic
    to one in the store is that one. Of attempts, failures come along, and those that gave a result which does.

    Args:
        sources: by a name that the event tells. Of two that have a result for one job the first counts.

    Raises:
        UnavailableError: the store cannot be written; it is as it was.
    """
    added: Counter[str] = Counter()
    differing: dict[Training, None] = {}
    present: set[Training] = set()
    same: dict[str, list[Training]] = {}
    with into._writing() as connection:
        for name, source in sources.items():
            other = source._connection
            keys = _architectures(connection, other, added)
            jobs = _jobs(connection, other, keys, added)
            taken, equal, unequal = _results(connection, other, jobs)
            added["results"] += len(taken)
            _attempts(connection, other, jobs, taken, added)
            _settings(connection, other, added)
            trainings = _trainings(other)
            present.update(_renamed(trainings[job], keys) for job in equal)
            differing.update(dict.fromkeys(_renamed(trainings[job], keys) for job in unequal))
            labelled = (trainings[job] for job in (*taken, *equal))
            same[name] = [training for training in labelled if keys[training.key] == training.key]
        if any(added.values()):
            note = json.dumps({"sources": list(sources), **{name: added[name] for name in _COUNTED}})
            insert_numbered(connection, "events", (time.time(), "merged", note))
    return Merged({name: added[name] for name in _COUNTED}, len(present), tuple(differing), same)


_COUNTED = ("architectures", "jobs", "results", "failures", "settings")


def _architectures(connection: sqlite3.Connection, other: sqlite3.Connection, added: Counter[str]) -> dict[str, str]:
    """For every key of the other store, that of the same network in this one."""
    keys: dict[str, str] = {}
    for row in _rows(other, "architectures", "ORDER BY rowid"):
        key, graph = row["key"], row["graph"]
        known = connection.execute("SELECT key FROM architectures WHERE key = ?", (key,)).fetchone()
        twin = known or connection.execute("SELECT key FROM architectures WHERE graph = ?", (graph,)).fetchone()
        if twin is None:
            insert(connection, "architectures", _values("architectures", row))
            added["architectures"] += 1
        keys[key] = key if twin is None else str(twin[0])
    return keys


def _jobs(
    connection: sqlite3.Connection, other: sqlite3.Connection, keys: Mapping[str, str], added: Counter[str]
) -> dict[int, int]:
    """For the number of every job of the other store, that of the same job in this one."""
    jobs: dict[int, int] = {}
    for row in _rows(other, "jobs", "ORDER BY id"):
        wanted = {**row, "key": keys[row["key"]]}
        found = connection.execute(
            "SELECT id FROM jobs WHERE stage = :stage AND key = :key AND seed = :seed", wanted
        ).fetchone()
        if found is None:
            jobs[row["id"]] = _enter(connection, "jobs", wanted)
            added["jobs"] += 1
        else:
            jobs[row["id"]] = int(found[0])
    return jobs


def _results(
    connection: sqlite3.Connection, other: sqlite3.Connection, jobs: Mapping[int, int]
) -> tuple[set[int], list[int], list[int]]:
    """Jobs of the other store by what became of their results: taken, there already and equal, there and unequal."""
    taken: set[int] = set()
    equal: list[int] = []
    unequal: list[int] = []
    label = f"SELECT {', '.join(LABEL)} FROM results WHERE job = ?"  # noqa: S608
    for row in _rows(other, "results", "ORDER BY job"):
        number = jobs[row["job"]]
        found = connection.execute(label, (number,)).fetchone()
        if found is None:
            insert(connection, "results", _values("results", {**row, "job": number}))
            taken.add(row["job"])
        else:
            (equal if found == tuple(row[name] for name in LABEL) else unequal).append(row["job"])
    return taken, equal, unequal


def _attempts(
    connection: sqlite3.Connection,
    other: sqlite3.Connection,
    jobs: Mapping[int, int],
    taken: set[int],
    added: Counter[str],
) -> None:
    """Those that gave the results that were taken, and failures that are not known; never one that is still open."""
    for row in _rows(other, "attempts", "WHERE outcome <> 'interrupted' ORDER BY id"):
        wanted = {**row, "job": jobs[row["job"]]}
        if row["outcome"] == "done":
            if row["job"] in taken:
                _enter(connection, "attempts", wanted)
            continue
        known = list(_rows(connection, "attempts", "WHERE job = ?", (wanted["job"],)))
        if not any({**one, "id": row["id"]} == wanted for one in known):
            _enter(connection, "attempts", wanted)
            added["failures"] += 1


def _settings(connection: sqlite3.Connection, other: sqlite3.Connection, added: Counter[str]) -> None:
    """What the results of a stage were made with, where this store does not know."""
    for row in _rows(other, "events", "WHERE kind IN (SELECT 'settings:' || stage FROM jobs) ORDER BY id"):
        if not connection.execute("SELECT 1 FROM events WHERE kind = ?", (row["kind"],)).fetchone():
            _enter(connection, "events", row)
            added["settings"] += 1


def _trainings(connection: sqlite3.Connection) -> dict[int, Training]:
    """What the results of a store are of, by the numbers of their jobs."""
    rows = connection.execute("SELECT id, stage, key, seed FROM results CROSS JOIN jobs ON jobs.id = results.job")
    return {job: Training(*rest) for job, *rest in rows}


def _renamed(training: Training, keys: Mapping[str, str]) -> Training:
    return training._replace(key=keys[training.key])


def _rows(
    connection: sqlite3.Connection, table: str, condition: str, values: Sequence[object] = ()
) -> Iterator[dict[str, Any]]:
    """Rows of a table by the names of its columns, without their digests."""
    names = COLUMNS[table]
    query = f"SELECT {', '.join(names)} FROM {table} {condition}"  # noqa: S608
    return (dict(zip(names, row, strict=True)) for row in connection.execute(query, values))


def _values(table: str, row: Mapping[str, Any]) -> list[Any]:
    return [row[name] for name in COLUMNS[table]]


def _enter(connection: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> int:
    """Enter a row under a number of this store; returns it."""
    return insert_numbered(connection, table, [row[name] for name in COLUMNS[table] if name != "id"])
