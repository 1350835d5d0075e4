import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from data_gen import open_store, read_store, seal
from supernet import InputError
from supernet.settings import UnavailableError
from tests.data_gen.test_store import add, finish


@pytest.fixture(autouse=True)
def every_store_is_large(monkeypatch):
    monkeypatch.setattr(seal, "LEAST_SIZE", 0)


@pytest.fixture
def path(tmp_path):
    """A store with four results, closed, which has just been sealed."""
    path = tmp_path / "store.db"
    store = open_store(path)
    for job in add(store):
        finish(store, job)
    store.seal()
    store.close()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["store.db", "store.db-seal"]
    assert seal.read_seal(path) == seal.file_seal(path)
    return path


def rows_are_checked(path, monkeypatch, opened=read_store):
    """Whether opening this store reads all its rows."""
    with monkeypatch.context() as patch:
        checked = []
        patch.setattr("data_gen.store.damage", lambda *connections: checked.append(connections) or [])
        store = opened(path)
        assert store.counts("generate") == (4, 4)
        store.close()
    return bool(checked)


def test_what_was_checked_once_is_not_checked_again(path, monkeypatch):
    for opened in (read_store, open_store, read_store):
        assert not rows_are_checked(path, monkeypatch, opened)


def test_a_seal_of_fewer_checks_counts_for_nothing(path, monkeypatch):
    monkeypatch.setattr(seal, "_CHECK", 2)
    for opened in (read_store, open_store):
        (path.parent / "store.db-seal").write_text(seal.file_seal(path).replace("2", "1", 1) + "\n")
        assert rows_are_checked(path, monkeypatch, opened)
        assert not rows_are_checked(path, monkeypatch, opened)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM results; END",
        "CREATE VIEW endless AS WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
    ],
)
def test_a_seal_vouches_for_no_foreign_table(statement, path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
    seal.write_seal(path, seal.file_seal(path))
    with pytest.raises(InputError, match="tables or constraints that are not those of this format"):
        read_store(path)


def test_a_store_behind_a_link_with_an_open_log_is_not_sealed(path, tmp_path, monkeypatch):
    store = open_store(path)
    store.event("start", "in the log")
    link = tmp_path / "elsewhere" / "store.db"
    link.parent.mkdir()
    link.symlink_to(path)
    assert seal.file_seal(link) is None
    assert rows_are_checked(link, monkeypatch)
    store.seal()
    store.close()
    assert not rows_are_checked(link, monkeypatch)
    assert [entry.name for entry in link.parent.iterdir()] == ["store.db"]


def test_a_small_store_has_no_seal(tmp_path, monkeypatch):
    monkeypatch.setattr(seal, "LEAST_SIZE", 2**30)
    store = open_store(tmp_path / "store.db")
    store.seal()
    store.close()
    assert seal.file_seal(tmp_path / "store.db") is None
    assert not list(tmp_path.glob("*-seal"))


@pytest.mark.parametrize("text", [b"", b"\n", b"\xff\xfe", b"0" * 64])
def test_a_damaged_seal_means_that_rows_are_checked_and_is_replaced(text, path, monkeypatch):
    (path.parent / "store.db-seal").write_bytes(text)
    assert rows_are_checked(path, monkeypatch)
    assert not rows_are_checked(path, monkeypatch)


def test_a_reader_seals_what_a_killed_driver_left(path, monkeypatch):
    (path.parent / "store.db-seal").unlink()
    assert rows_are_checked(path, monkeypatch)
    assert not rows_are_checked(path, monkeypatch)


def test_a_store_that_is_written_to_is_checked_until_it_is_closed(path, monkeypatch):
    store = open_store(path)
    before = seal.read_seal(path)
    store.event("start", "again")
    assert seal.file_seal(path) is None  # the event is in the log
    assert rows_are_checked(path, monkeypatch)
    assert seal.read_seal(path) == before
    store.seal()
    store.event("start", "and again")
    assert rows_are_checked(path, monkeypatch)
    store.seal()
    store.close()
    assert seal.read_seal(path) not in (before, None)
    assert not rows_are_checked(path, monkeypatch)


def test_where_somebody_reads_the_log_stays_and_nothing_is_sealed(path):
    store = open_store(path)
    before = seal.read_seal(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM events").fetchall()
        store.event("start", "")
        store.seal()
        assert seal.read_seal(path) == before
    store.event("start", "goes on")
    store.seal()
    assert seal.read_seal(path) == seal.file_seal(path) != before
    store.close()


def test_damage_that_is_found_when_a_stage_is_done_is_told(path, caplog):
    store = open_store(path)
    store._connection.execute("UPDATE results SET accuracy = 0.75 WHERE job = 1")
    before = seal.read_seal(path)
    store.seal()
    store.close()
    assert "1 damaged row in results" in caplog.text
    assert seal.read_seal(path) == before != seal.file_seal(path)


def test_no_flipped_bit_passes_for_sealed(path):
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for position in [*range(0, 100, 9), *random.integers(0, len(whole), 60).tolist()]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            store = read_store(path)
        except InputError:
            refused += 1
            continue
        assert [label.accuracy for label in store.labels("generate")] == [0.5] * 4  # a byte that nothing uses
        store.close()
    assert refused > 10


def test_what_changed_while_it_was_checked_is_not_sealed(path, monkeypatch):
    (path.parent / "store.db-seal").unlink()
    digests = iter(["of what it was", "of what it is now"])
    monkeypatch.setattr("data_gen.store.file_seal", lambda path: next(digests))
    read_store(path).close()
    assert seal.read_seal(path) is None


def test_a_folder_that_cannot_be_written_has_no_seal(path, monkeypatch):
    def refuse(path, digest):
        raise UnavailableError("read-only")

    (path.parent / "store.db-seal").unlink()
    monkeypatch.setattr("data_gen.store.write_seal", refuse)
    read_store(path).close()
    store = open_store(path)
    store.seal()
    store.close()
    assert seal.read_seal(path) is None


def test_a_file_that_cannot_be_read_or_a_python_that_is_gone_has_no_digest(path, tmp_path, monkeypatch):
    assert seal.file_seal(tmp_path / "none.db") is None
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    assert seal.file_seal(path) is None


def in_another_process(path, query):
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); print(*c.execute(sys.argv[2]).fetchone()); c.close()"
    )
    done = subprocess.run([sys.executable, "-c", program, path, query], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_taking_the_digest_keeps_the_locks_of_this_process(path):
    """Closing any descriptor of the file here would drop them: another process would take the log away on leaving."""
    store = open_store(path)
    assert seal.file_seal(path) is not None
    assert in_another_process(path, "SELECT COUNT(*) FROM results") == "4"
    store.event("start", "is seen")
    assert in_another_process(path, "SELECT message FROM events WHERE kind = 'start'") == "is seen"
    store.close()
