"""Stores brought together: nothing is lost, nothing is twice, and the order does not matter but for conflicts."""

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import data_gen.store
from data_gen import open_store, read_store
from data_gen.merging import Training, hold, merge_stores
from data_gen.schema import COLUMNS, create, damage
from data_gen.store import Store
from supernet import COST_NAMES, Architecture
from supernet.settings import UnavailableError

FIXTURES = Path(__file__).parent.parent / "fixtures"
COSTS = dict.fromkeys(COST_NAMES, 7)
OUTCOMES = ("planned", "done", "crash", "diverged", "interrupted", "running")


def memory_store():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    create(connection)
    connection.execute("PRAGMA foreign_keys = ON")
    return Store(connection, Path("store.db"))


def copy(store):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    store._connection.backup(connection)
    connection.execute("PRAGMA foreign_keys = ON")
    return Store(connection, store.path)


def network(kind, look=0):
    return Architecture("toy", (kind, look))


def graph(architecture):
    """Networks of one kind are isomorphic, whatever they look like; of kind 3 that is not known."""
    return None if architecture.choices[0] == 3 else f"graph {architecture.choices[0]}"


def enter(store, architecture, outcomes=("done",), accuracy=0.5, stage="generate", seed=0, metrics=None):
    """Plan a training and let its attempts end so; returns its job."""
    (job,) = store.add_jobs(
        stage, [(architecture, seed, "sample")], {architecture.key: COSTS}, {architecture.key: graph(architecture)}
    )
    for outcome in outcomes:
        if outcome in ("planned", *(["done"] if job.id in store.accuracies(stage) else [])):
            continue
        attempt = store.start(job, 1)
        if outcome == "done":
            result = {"accuracy": accuracy, "loss": 1 - accuracy, "epochs": 1, "pieces": 1, "seconds": 1.0}
            result |= {"peak_memory": 1, "images_per_second": 1.0, "curves": {}, "metrics": metrics or {}}
            store.commit(job, attempt, result)
        elif outcome == "running":
            break
        else:
            store.fail(attempt, outcome, "as asked")
    return job


def rows(store):
    """Every row of every table, with its digest."""
    return {
        table: set(store._connection.execute(f"SELECT {', '.join((*COLUMNS[table], 'digest'))} FROM {table}"))
        for table in COLUMNS
    }


JOINED = "JOIN jobs ON jobs.id = job JOIN architectures USING (key)"


def trainings(store):
    query = "SELECT stage, COALESCE(graph, key), seed FROM jobs JOIN architectures USING (key)"
    found = list(store._connection.execute(query))
    assert len(found) == len(set(found))
    return set(found)


def labels(store):
    """By training, as whose network counts every one that is isomorphic to it."""
    query = f"SELECT stage, COALESCE(graph, key), seed, accuracy, loss, metrics FROM results {JOINED}"
    return {tuple(row[:3]): row[3:] for row in store._connection.execute(query)}


def attempts(store, outcomes):
    query = f"SELECT stage, COALESCE(graph, key), seed, started, finished, outcome, message FROM attempts {JOINED}"
    return sorted(row for row in store._connection.execute(query) if row[5] in outcomes)


@st.composite
def stores(draw):
    store = memory_store()
    for _ in range(draw(st.integers(0, 5))):
        stage = draw(st.sampled_from(["generate", "retrain"]))
        architecture = network(draw(st.integers(0, 3)), draw(st.integers(0, 1)))
        seed, accuracy = draw(st.integers(0, 1)), draw(st.sampled_from([0.25, 0.5]))
        key = (stage, graph(architecture) or architecture.key, seed)
        if key not in trainings(store):
            enter(store, architecture, draw(st.lists(st.sampled_from(OUTCOMES), max_size=3)), accuracy, stage, seed)
        if not store.events(f"settings:{stage}"):
            store.event(f"settings:{stage}", '{"seed":0}')
    return store


def merged(into, *sources):
    into = copy(into)
    found = merge_stores(into, {str(number): source for number, source in enumerate(sources)})
    assert damage(into._connection) == []
    return into, found


@given(stores(), stores())
def test_a_second_time_adds_nothing(a, b):
    once, _ = merged(a, b)
    twice, found = merged(once, b)
    assert rows(twice) == rows(once)
    assert not any(found.added.values())
    assert found.present + len(found.differing) == len(labels(b))
    itself, found = merged(a, a)
    assert rows(itself) == rows(a)
    assert found.differing == ()


@given(stores(), stores())
def test_what_is_there_stays_and_what_is_not_comes(a, b):
    both, found = merged(a, b)
    for table, before in rows(a).items():
        assert before <= rows(both)[table]
    assert trainings(both) == trainings(a) | trainings(b)
    assert labels(both) == labels(b) | labels(a)
    assert found.added["results"] == len(labels(both)) - len(labels(a))
    assert len(found.differing) == sum(labels(a).get(one, label) != label for one, label in labels(b).items())
    taken = labels(both).keys() - labels(a).keys()
    expected = attempts(a, ["done"]) + [one for one in attempts(b, ["done"]) if one[:3] in taken]
    assert attempts(both, ["done"]) == sorted(expected)
    assert attempts(both, ["crash", "diverged"]) == sorted(
        attempts(a, ["crash", "diverged"]) + attempts(b, ["crash", "diverged"])
    )
    assert attempts(both, ["interrupted", None]) == attempts(a, ["interrupted", None])
    assert len(both.events("merged")) == any(found.added.values())


@given(stores(), stores())
def test_the_order_of_two_does_not_matter_but_for_conflicts(a, b):
    (one, first), (other, second) = merged(a, b), merged(b, a)
    assert trainings(one) == trainings(other)
    assert attempts(one, ["crash", "diverged"]) == attempts(other, ["crash", "diverged"])
    assert labels(one).keys() == labels(other).keys()
    unequal = {key for key in labels(one) if labels(one)[key] != labels(other)[key]}
    assert len(unequal) == len(first.differing) == len(second.differing)


@given(stores(), stores(), stores())
def test_how_three_are_grouped_does_not_matter(a, b, c):
    left = merged(merged(a, b)[0], c)[0]
    for other in (merged(a, merged(b, c)[0])[0], merged(a, b, c)[0], merged(a, b, b, c, b)[0]):
        assert trainings(other) == trainings(left)
        assert labels(other) == labels(left)
        assert attempts(other, ["done", "crash", "diverged"]) == attempts(left, ["done", "crash", "diverged"])


def test_an_isomorphic_network_goes_under_the_key_that_is_there():
    a, b = memory_store(), memory_store()
    enter(a, network(0, 0))
    enter(b, network(0, 1), accuracy=0.5)
    enter(b, network(0, 1), accuracy=0.75, seed=1)
    both, found = merged(a, b)
    assert both.keys() == {"toy-00"}
    assert [(label.key, label.accuracy) for label in both.labels("generate")] == [("toy-00", 0.5), ("toy-00", 0.75)]
    assert found.added == {"architectures": 0, "jobs": 1, "results": 1, "failures": 0, "settings": 0}
    assert (found.present, found.differing) == (1, ())
    assert found.same == {"0": []}  # weights of the other look would not fit
    enter(b, network(1))
    assert merged(a, b)[1].same == {"0": [Training("generate", "toy-10", 0)]}


def test_results_that_differ_are_named_and_stay():
    a, b = memory_store(), memory_store()
    for kind, accuracy in enumerate((0.5, 0.5, 0.25)):
        enter(a, network(kind), accuracy=0.5)
        enter(b, network(kind, look=1), accuracy=accuracy)
    enter(a, network(0), seed=1, metrics={"accuracy_clean": 0.5})
    enter(b, network(0), seed=1, metrics={"accuracy_clean": 0.25})
    both, found = merged(a, b)
    assert (found.present, found.added["results"]) == (2, 0)
    assert found.differing == (Training("generate", "toy-20", 0), Training("generate", "toy-00", 1))
    assert labels(both) == labels(a)
    assert rows(both) == rows(a)


def test_the_event_tells_sources_and_counts():
    a, b = memory_store(), memory_store()
    enter(b, network(0), outcomes=("crash", "done"))
    b.event("settings:generate", "{}")
    b.event("settings:retrain", "{}")  # of a stage that never began
    b.event("seconds", '{"stage":"generate","seconds":1.0}')
    both, _ = merged(a, b)
    ((_, message),) = both.events("merged")
    counts = {"architectures": 1, "jobs": 1, "results": 1, "failures": 1, "settings": 1}
    assert json.loads(message) == {"sources": ["0"], **counts}
    assert both.events("settings:generate") == b.events("settings:generate")
    assert both.events("settings:retrain") == both.events("seconds") == []


def test_a_store_that_is_written_stays_as_it_was_when_it_was_held(tmp_path):
    with closing(open_store(tmp_path / "store.db")) as writer:
        enter(writer, network(0))
        with closing(read_store(tmp_path / "store.db")) as reader:
            hold(reader)
            enter(writer, network(1))
            assert labels(merged(memory_store(), reader)[0]).keys() == {("generate", "graph 0", 0)}
        assert len(labels(writer)) == 2


def test_a_folder_that_was_copied_with_its_log_has_everything(tmp_path):
    """As one whose driver was killed."""
    with closing(open_store(tmp_path / "store.db")) as writer:
        enter(writer, network(0))
        assert (tmp_path / "store.db-wal").stat().st_size
        shutil.copytree(tmp_path, tmp_path / "copy")
    with closing(read_store(tmp_path / "copy" / "store.db")) as source:
        assert len(labels(merged(memory_store(), source)[0])) == 1


@pytest.mark.parametrize("version", ["format1", "format2"])
def test_a_store_of_an_older_format_comes_as_one_of_this(version, tmp_path):
    shutil.copy(FIXTURES / version / "store.db", tmp_path)
    with closing(read_store(tmp_path / "store.db")) as source, closing(open_store(tmp_path / "new.db")) as store:
        expected = labels(source)
        merge_stores(store, {version: source})
        assert labels(store) == expected
        assert len(expected) > 0
    with closing(read_store(tmp_path / "new.db")) as store:
        assert labels(store) == expected


def merge_and_die(folder, moment):
    """Merge ``b`` into ``a``, and die before or after the transaction is committed."""
    connect = data_gen.store._connect

    def watched(path):
        connection = connect(path)

        def look(statement):
            if statement == "COMMIT" and connection.execute("SELECT COUNT(*) FROM results").fetchone()[0] > 1:
                os.kill(os.getpid(), signal.SIGKILL)

        connection.set_trace_callback(look)
        return connection

    if moment == "before":
        data_gen.store._connect = watched
    with closing(read_store(folder / "b.db")) as source:
        store = open_store(folder / "a.db")
        merge_stores(store, {"b": source})
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_merge_that_is_killed_did_nothing_or_everything(moment, tmp_path):
    for name, kinds in (("a", (0,)), ("b", (1, 2))):
        with closing(open_store(tmp_path / f"{name}.db")) as store:
            for kind in kinds:
                enter(store, network(kind), outcomes=("crash", "done"))
    process = multiprocessing.get_context("fork").Process(target=merge_and_die, args=(tmp_path, moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with closing(read_store(tmp_path / "a.db")) as store:
        assert len(labels(store)) == (1 if moment == "before" else 3)
    with closing(open_store(tmp_path / "a.db")) as store, closing(read_store(tmp_path / "b.db")) as source:
        found = merge_stores(store, {"b": source})
        assert found.added["results"] == (2 if moment == "before" else 0)
        assert len(labels(store)) == 3
        assert len(attempts(store, ["crash"])) == 3


def test_a_store_that_cannot_be_written_is_as_it_was(tmp_path):
    with closing(open_store(tmp_path / "store.db")) as store:
        enter(store, network(0))
        before = rows(store)
        source = memory_store()
        for kind in (1, 2, 3):
            enter(source, network(kind))
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        source.event("settings:generate", json.dumps({"long": "x" * 100_000}))
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(UnavailableError, match="full"):
            merge_stores(store, {"b": source})
        assert rows(store) == before
