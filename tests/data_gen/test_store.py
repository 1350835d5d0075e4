import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from data_gen import cheap_labels, label_table, open_store, read_store, write_label_table
from data_gen.schema import APPLICATION_ID, FORMAT
from data_gen.store import Job, NodeCount
from supernet import Architecture, InputError, OpSubset, architectures, read_table, write_table
from supernet.op_subset import LayerSettings
from supernet.settings import UnavailableError

SPACE = OpSubset(layers=(LayerSettings(channels=8),) * 2, operations=("skip", "sep_conv_3", "dil_conv_3"), classes=3)
FIXTURES = Path(__file__).parent.parent / "fixtures"
RESULT = {
    "accuracy": 0.5,
    "loss": 1.25,
    "epochs": 3,
    "pieces": 1,
    "seconds": 2.5,
    "peak_memory": 12345,
    "images_per_second": 99.5,
    "curves": {"train_loss": [2.0, 1.5]},
}


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "store.db")
    yield opened
    opened.close()


def planned(count=4, seed=0, role="sample"):
    every = [Architecture("op_subset", tuple(int(bit) for bit in f"{code:06b}")) for code in range(64)]
    valid = [one for one in every if SPACE.is_valid(one.row())[0]]
    return [(one, seed, role) for one in valid[:count]]


def costs(plan):
    return {one.key: {name: int(value[0]) for name, value in SPACE.costs(one.row()).items()} for one, _, _ in plan}


def add(store, plan=None, stage="generate"):
    plan = planned() if plan is None else plan
    return store.add_jobs(stage, plan, costs(plan))


def finish(store, job, **changes):
    attempt = store.start(job, 1)
    store.commit(job, attempt, {**RESULT, **changes})
    return attempt


def test_a_result_comes_back_as_it_was_written(store):
    jobs = add(store)
    assert jobs == store.jobs("generate")
    finish(store, jobs[2])
    (result,) = store.results("generate")
    assert result.job == jobs[2]
    assert result.job.role == "sample"
    assert {name: getattr(result, name) for name in RESULT} == RESULT
    assert result.costs == costs(planned())[jobs[2].architecture.key]
    assert store.attempts("generate") == {"done": 1}


def test_what_is_written_together_is_there_at_once_and_only_what_is_refused_is_not(store):
    jobs = add(store)
    with closing(read_store(store.path)) as other:
        with store.together():
            first = finish(store, jobs[0])
            attempt = store.start(jobs[1], 1)
            with pytest.raises(sqlite3.IntegrityError):
                store.commit(jobs[1], attempt, {**RESULT, "accuracy": 2.0})
            with pytest.raises(sqlite3.IntegrityError):
                store.commit(jobs[0], first, RESULT)  # whose attempt is over
            finish(store, jobs[2])
            assert len(store.results("generate")) == 2
            assert other.results("generate") == []  # nobody else knows of it yet
        assert [result.job for result in other.results("generate")] == [jobs[0], jobs[2]]
        assert other.attempts("generate") == {"done": 2, "running": 1}


def test_an_error_between_two_writes_keeps_the_first(store):
    jobs = add(store)
    with suppress(KeyboardInterrupt), store.together():
        finish(store, jobs[0])
        raise KeyboardInterrupt
    with closing(read_store(store.path)) as other:
        assert [result.job for result in other.results("generate")] == [jobs[0]]
    finish(store, jobs[1])  # alone, as before
    assert store.attempts("generate") == {"done": 2}


def test_results_come_in_the_order_of_the_plan(store):
    jobs = add(store)
    for position in (3, 0, 2):
        finish(store, jobs[position], accuracy=position / 10)
    assert [result.accuracy for result in store.results("generate")] == [0, 0.2, 0.3]
    assert store.results("retrain") == []


def test_a_job_is_entered_once_and_a_larger_plan_adds_to_it(store):
    first = add(store)
    finish(store, first[1])
    larger = planned(6)
    again = add(store, larger)
    assert again[:4] == first
    assert len(store.jobs("generate")) == 6
    assert len(store.results("generate")) == 1
    other_stage = add(store, stage="retrain")
    other_seed = add(store, planned(seed=1))
    assert len({job.id for job in (*again, *other_stage, *other_seed)}) == 14
    assert [job.id for job in add(store, larger)] == [job.id for job in again]


def test_a_second_result_for_a_job_is_refused(store):
    job = add(store)[0]
    finish(store, job)
    attempt = store.start(job, 1)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        store.commit(job, attempt, {**RESULT, "accuracy": 0.9})
    assert [result.accuracy for result in store.results("generate")] == [0.5]
    assert store.attempts("generate") == {"done": 1, "running": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"accuracy": float("nan")},
        {"accuracy": 1.001},
        {"accuracy": -0.001},
        {"accuracy": None},
        {"accuracy": "good"},
        {"loss": float("nan")},
        {"loss": float("inf")},
        {"loss": -1.0},
        {"epochs": 2.5},
        {"epochs": "three"},
        {"seconds": float("nan")},
        {"images_per_second": None},
    ],
)
def test_numbers_that_are_no_labels_are_refused_whole(changes, store):
    job = add(store)[0]
    attempt = store.start(job, 1)
    with pytest.raises(sqlite3.IntegrityError):
        store.commit(job, attempt, {**RESULT, **changes})
    assert store.results("generate") == []
    assert store.attempts("generate") == {"running": 1}
    store.commit(job, attempt, RESULT)
    assert len(store.results("generate")) == 1


def test_curves_hold_no_nan(store):
    job = add(store)[0]
    attempt = store.start(job, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.commit(job, attempt, {**RESULT, "curves": {"train_loss": [float("nan")]}})
    assert store.results("generate") == []


def test_unknown_outcomes_and_foreign_jobs_are_refused(store):
    job = add(store)[0]
    attempt = store.start(job, 1)
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        store.fail(attempt, "bored", "")
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        store.start(Job(999, "generate", job.architecture, 0), 1)


def test_a_closed_attempt_stays_as_it_is(store):
    job = add(store)[0]
    attempt = finish(store, job)
    store.fail(attempt, "interrupted", "too late")
    assert store.attempts("generate") == {"done": 1}


def test_failures_say_kind_message_and_number_of_tries(store):
    jobs = add(store, planned(7))
    outcomes = {
        0: ["crash", "crash"],  # a third try is left
        1: ["crash", "killed", "crash"],
        2: ["oom", "crash", "oom"],
        3: ["interrupted", "killed", "interrupted", "timeout"],
        4: ["interrupted"],
        5: ["crash"],
        6: ["oom"],  # once more, with smaller pieces
    }
    for position, several in outcomes.items():
        for number, outcome in enumerate(several):
            store.fail(store.start(jobs[position], 1), outcome, f"{outcome} {number}" + "x" * 5000)
    finish(store, jobs[5])
    failures = store.failures("generate", retries=2)
    assert [(failure.job, failure.kind, failure.attempts) for failure in failures] == [
        (jobs[1], "crash", 3),
        (jobs[2], "oom", 3),
        (jobs[3], "timeout", 2),
    ]
    assert failures[0].message.startswith("crash 2x")
    assert len(failures[0].message) == 2000
    assert [len(store.tries(job)) for job in jobs] == [2, 3, 3, 2, 0, 1, 1]
    assert [failure.job for failure in store.failures("generate", retries=0)] == jobs[:4]
    assert [failure.job for failure in store.failures("generate", None)] == [*jobs[:4], jobs[6]]


def test_attempts_of_a_dead_driver_are_closed(store):
    jobs = add(store)
    finish(store, jobs[0])
    store.start(jobs[1], 1)
    store.start(jobs[2], 1)
    assert store.attempts("generate") == {"done": 1, "running": 2}
    assert store.close_open_attempts() == 2
    assert store.close_open_attempts() == 0
    assert store.attempts("generate") == {"done": 1, "interrupted": 2}
    assert store.failures("generate", retries=0) == []


def test_a_result_can_be_taken_back_to_be_trained_again(store):
    first, second = add(store)[:2]
    finish(store, first)
    finish(store, second)
    store.forget([first])
    assert [result.job for result in store.results("generate")] == [second]
    assert store.failures("generate", retries=0) == []
    finish(store, first)
    assert len(store.results("generate")) == 2


def test_a_plan_is_taken_back_only_where_nothing_was_made(store):
    jobs = add(store)
    store.event("settings:generate", "{}")
    store.fail(store.start(jobs[0], 1), "oom", "")
    store.forget_stage("generate")
    assert (store.jobs("generate"), store.attempts("generate"), store.events("settings:generate")) == ([], {}, [])
    finish(store, add(store)[0])
    with pytest.raises(ValueError, match="has results"):
        store.forget_stage("generate")
    assert len(store.results("generate")) == 1


def test_events(store):
    store.event("start", "one")
    store.event("stop", "two")
    store.event("start", "three")
    assert [message for _, message in store.events("start")] == ["one", "three"]
    assert store.events("nothing") == []


def test_everything_is_there_again_after_opening(store):
    jobs = add(store)
    finish(store, jobs[0])
    store.close()
    again = open_store(store.path)
    assert again.jobs("generate") == jobs
    assert len(again.results("generate")) == 1
    again.close()


def test_the_file_is_durable_and_marked(store):
    pragmas = {name: store._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in
               ("journal_mode", "synchronous", "foreign_keys", "application_id", "user_version")}  # fmt: skip
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "application_id": APPLICATION_ID,
        "user_version": FORMAT,
    }


def test_a_reader_sees_what_is_committed_and_cannot_write(store):
    jobs = add(store)
    reader = read_store(store.path)
    for count, job in enumerate(jobs, 1):
        finish(store, job)
        assert len(reader.results("generate")) == count
    with pytest.raises(UnavailableError, match="attempt to write a readonly database"):
        reader.event("start", "no")
    reader.close()


def test_a_reader_does_not_stop_the_writer(store):
    jobs = add(store)
    reader = read_store(store.path)
    cursor = reader._connection.execute("SELECT * FROM jobs")
    cursor.fetchone()  # a read transaction is open
    finish(store, jobs[0])
    cursor.close()
    reader.close()


def test_there_is_no_store_to_read(tmp_path):
    with pytest.raises(InputError, match=r"store\.db: no such store; run generate first"):
        read_store(tmp_path / "store.db")
    assert not list(tmp_path.iterdir())


def foreign(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text TEXT)")
    connection.commit()
    connection.close()


def marked(path):
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 42")
    connection.commit()
    connection.close()


def newer(path):
    open_store(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    connection.commit()
    connection.close()


FOREIGN = {
    "text": (lambda path: path.write_text("a file of somebody else " * 50), "not a store of this tool, or damaged"),
    "another program": (foreign, "not a store of this tool"),
    "another mark": (marked, "not a store of this tool"),
    "newer": (newer, rf"written by a newer version \(format {FORMAT + 1}, this one reads {FORMAT}\); update"),
}


@pytest.mark.parametrize("opened", [open_store, read_store])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_refused_and_left_alone(name, opened, tmp_path):
    make, said = FOREIGN[name]
    path = tmp_path / "store.db"
    make(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=said):
        opened(path)
    assert path.read_bytes() == before


def test_a_store_whose_driver_died_before_the_first_commit_is_made_anew(tmp_path):
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")  # as far as a first driver may have come
    connection.close()
    assert path.stat().st_size > 0
    store = open_store(path)
    assert len(add(store)) == 4
    store.close()


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(UnavailableError, match="cannot open"):
        open_store(tmp_path / "absent" / "store.db")


def test_a_full_disk_stops_the_run_and_loses_nothing(store):
    jobs = add(store)
    finish(store, jobs[0])
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    attempt = store.start(jobs[1], 1)
    with pytest.raises(UnavailableError, match=r"cannot write .*full.*committed results are safe"):
        store.commit(jobs[1], attempt, {**RESULT, "curves": {"train_loss": [0.5] * 100_000}})
    assert len(store.results("generate")) == 1
    store._connection.execute("PRAGMA max_page_count = 1000000")
    store.commit(jobs[1], attempt, RESULT)
    assert len(store.results("generate")) == 2


def test_a_torn_log_loses_at_most_what_was_torn(tmp_path):
    """Cut the write-ahead log anywhere: the store opens, and holds a first part of what was committed."""
    path = tmp_path / "store.db"
    store = open_store(path)
    jobs = add(store, planned(8))
    store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for position, job in enumerate(jobs):
        finish(store, job, accuracy=position / 10)
    database, log = path.read_bytes(), path.with_name("store.db-wal").read_bytes()
    store.close()
    random = np.random.default_rng(0)
    lengths = set()
    for number, size in enumerate([0, *random.integers(0, len(log), 25).tolist(), len(log)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "store.db").write_bytes(database)
        (folder / "store.db-wal").write_bytes(log[:size])
        again = open_store(folder / "store.db")
        found = [result.accuracy for result in again.results("generate")]
        assert found == [position / 10 for position in range(len(found))]
        assert again._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        lengths.add(len(found))
        again.close()
    assert {0, 8} < lengths


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE architectures SET choices = '[0, 1' WHERE rowid = 1",
        "UPDATE architectures SET choices = '[77]' WHERE rowid = 1",
        "UPDATE architectures SET choices = '3' WHERE rowid = 1",
        "UPDATE results SET curves = '3'",
        """UPDATE results SET curves = '{"train_loss": 3}'""",
        """UPDATE results SET curves = '{"train_loss": ["a"]}'""",
        """UPDATE results SET curves = '{"train_loss": [1e999]}'""",
        """UPDATE results SET curves = replace(curves, 'validation_epochs', 'validation_epocis')""",
        """UPDATE results SET curves = json_set(curves, '$.validation_epochs[0]', 1.5)""",
        """UPDATE results SET curves = json_set(curves, '$.validation_accuracy', json('[]'))""",
        "UPDATE architectures SET choices = ' ' || choices",
        "UPDATE results SET curves = '[' WHERE rowid = 1",
        "UPDATE events SET kind = 'seconds', message = '{}' WHERE id = 1",
        """UPDATE events SET kind = 'seconds', message = '{"stage": "fit", "seconds": "a"}' WHERE id = 1""",
        "UPDATE events SET kind = 'settings:generate', message = '3' WHERE id = 1",
    ],
)
@pytest.mark.parametrize("opened", [open_store, read_store])
def test_a_store_of_format_1_with_a_row_that_cannot_be_read_is_refused(opened, statement, tmp_path):
    path = tmp_path / "store.db"
    path.write_bytes((FIXTURES / "format1" / "store.db").read_bytes())
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(statement).rowcount
        connection.commit()
    with pytest.raises(InputError, match="damaged"):
        opened(path)


def test_labels(store, tmp_path):
    plan = planned(4)
    jobs = add(store, [*plan, *((one, 1, "repeat") for one, _, _ in plan[:1])])
    for position, accuracy in ((0, 0.2), (2, 0.6), (3, 0.8), (4, 0.4)):
        finish(store, jobs[position], accuracy=accuracy)
    table = label_table(store, SPACE)
    assert [row.id for row in table.rows] == [plan[position][0].key for position in (0, 2, 3)]
    twice, once, _ = table.rows
    assert twice.metrics == pytest.approx(
        {"accuracy": 0.3, "loss": 1.25, "seconds": 2.5, "accuracy_seed0": 0.2, "accuracy_seed1": 0.4}
    )
    assert once.metrics == {"accuracy": 0.6, "loss": 1.25, "seconds": 2.5}
    assert once.choices == plan[2][0].choices
    assert once.graph == SPACE.graph(plan[2][0])
    write_table(table, tmp_path / "labels.jsonl")
    assert read_table(tmp_path / "labels.jsonl") == table


def test_a_table_that_is_streamed_is_the_one_that_is_made_whole(store, tmp_path, monkeypatch):
    monkeypatch.setattr("data_gen.labels._ROWS_AT_ONCE", 3)
    plan = planned(8)
    jobs = add(store, [*plan, *((one, seed, "repeat") for seed in (1, 2) for one, _, _ in plan[5:1:-2])])
    for position, job in enumerate(jobs):
        if position != 3:  # of plan[3], whose other trainings came later, the first is missing
            finish(store, job, accuracy=position / 20, curves={"train_loss": [float(position)]})
    table = label_table(store, SPACE)
    assert [row.id for row in table.rows] == [plan[position][0].key for position in (0, 1, 2, 4, 5, 6, 7, 3)]
    assert [len(row.metrics) for row in table.rows] == [3, 3, 3, 3, 6, 3, 3, 5]
    assert write_label_table(store, SPACE, tmp_path / "streamed.jsonl") == 8
    write_table(table, tmp_path / "whole.jsonl")
    assert (tmp_path / "streamed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert store.counts("generate") == (12, 11)
    assert store.counts("retrain") == (0, 0)
    labels, results = list(store.labels("generate")), store.results("generate")
    assert [(label.job, label.architecture, label.accuracy) for label in labels] == [
        (result.job.id, result.job.architecture, result.accuracy) for result in results
    ]
    wanted = [labels[4].job, jobs[3].id, labels[0].job]  # one of them has no result
    assert list(store.curves(wanted)) == [results[4].curves, results[0].curves]


def test_labels_of_a_stage_that_has_none(store):
    add(store)
    finish(store, add(store, stage="retrain")[0])
    assert len(label_table(store, SPACE)) == 0


def test_a_hundred_architectures_keep_their_choices(store):
    space = OpSubset()
    found = architectures(space, space.sample(100, np.random.default_rng(0)))
    plan = [(one, 0, "sample") for one in found]
    prices = {one.key: dict.fromkeys(("macs", "conv_macs", "params", "activations"), 1) for one in found}
    store.add_jobs("generate", plan, prices)
    assert [job.architecture for job in store.jobs("generate")] == found


def test_stages_are_those_with_jobs(store):
    assert store.stages() == []
    add(store, planned(2))
    add(store, planned(1), "fidelity-short")
    assert store.stages() == ["fidelity-short", "generate"]


def test_cheap_labels_are_from_the_curves(store):
    jobs = add(store, stage="fidelity-short")
    curves = {"train_loss": [2.0, 1.5, 0.25], "train_accuracy": [0.25, 0.5, 0.75]}
    finish(store, jobs[1], curves=curves, accuracy=0.625)
    add(store)
    ((label, values),) = cheap_labels(store, "fidelity-short")
    assert label.key == jobs[1].architecture.key
    assert values == {"validation": 0.625, "train": 0.75, "tse": -3.75}
    assert list(cheap_labels(store, "generate")) == []


def test_features_stand_in_the_rows_of_their_architectures(store, tmp_path):
    jobs = add(store)
    for job in jobs[:2]:
        finish(store, job)
    key = jobs[1].architecture.key
    assert write_label_table(store, SPACE, tmp_path / "a.jsonl", {key: {"f": 0.5}, "other": {"f": 1.0}}) == 2
    assert [row.features for row in read_table(tmp_path / "a.jsonl").rows] == [{}, {"f": 0.5}]


@pytest.fixture(params=[2, 3])
def older(request, tmp_path):
    """A store of each older format whose rows have digests."""
    path = tmp_path / "store.db"
    path.write_bytes((FIXTURES / f"format{request.param}" / "store.db").read_bytes())
    return path


def columns_of(path, table):
    with closing(sqlite3.connect(path)) as connection:
        return [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})") if name != "digest"]


def rows_of(path, table, columns):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1").fetchall()


def as_it_was(path):
    """Every table of a store, by its columns, to be compared with the same columns later."""
    columns = {table: columns_of(path, table) for table in ("architectures", "jobs", "attempts", "results")}
    return {table: (names, rows_of(path, table, names)) for table, names in columns.items()}


def test_a_store_of_an_older_format_comes_whole_and_with_what_is_new(older):
    before = as_it_was(older)
    with_metrics = "metrics" in columns_of(older, "results")
    for opened in (read_store, open_store, read_store):
        with closing(opened(older)) as store:
            results = [result for stage in store.stages() for result in store.results(stage)]
            assert {bool(result.metrics) for result in results} == {with_metrics}
            assert store._connection.execute("SELECT DISTINCT node FROM attempts").fetchall() == [("",)]
    assert {table: (names, rows_of(older, table, names)) for table, (names, _) in before.items()} == before


def test_an_older_store_without_its_first_page_is_mended_whole(older, caplog):
    """The list of tables is gone: rows are then read by the columns of this format, of which they have fewer."""
    before = as_it_was(older)
    with older.open("r+b") as file:
        file.seek(100)
        file.write(bytes(3996))
    with closing(open_store(older)):
        assert "lost is at least: no row" in caplog.text
    assert {table: (names, rows_of(older, table, names)) for table, (names, _) in before.items()} == before
    assert rows_of(older, "attempts", ["DISTINCT node"]) == [("",)]


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_a_store_that_says_it_is_of_another_older_format_is_mended(version, tmp_path, caplog):
    path = tmp_path / "store.db"
    with closing(open_store(path)) as store:
        finish(store, add(store)[0])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(InputError, match="its format is given as another than its tables are of"):
        read_store(path)
    with closing(open_store(path)) as store:
        assert len(store.results("generate")) == 1
    assert "lost is at least: no row" in caplog.text


def test_the_node_of_an_attempt_stays_whatever_becomes_of_it(store):
    jobs = add(store)
    done, failed, taken_back, left = (store.start(job, 1, f"host-{number}") for number, job in enumerate(jobs))
    store.commit(jobs[0], done, RESULT)
    store.fail(failed, "oom", "")
    store.commit(jobs[2], taken_back, RESULT)
    store.forget([jobs[2]])
    assert store.close_open_attempts() == 1
    with closing(read_store(store.path)) as reader:  # every digest fits
        found = reader._connection.execute("SELECT id, node, outcome FROM attempts").fetchall()
    assert found == [
        (done, "host-0", "done"),
        (failed, "host-1", "oom"),
        (taken_back, "host-2", "interrupted"),
        (left, "host-3", "interrupted"),
    ]


def test_attempts_are_counted_by_node(store):
    assert store.nodes() == []
    plan = planned(8)
    jobs = [*add(store, plan[:5]), *add(store, plan[5:], "retrain")]
    nodes = ["host-b", "host-a", "host-b", "", "host-b", "host-a", "host-c", "host-b"]
    numbers = [store.start(job, 1, node) for job, node in zip(jobs, nodes, strict=True)]
    for position in (0, 3, 7):
        store.commit(jobs[position], numbers[position], RESULT)
    for position, outcome in ((1, "oom"), (2, "crash"), (4, "interrupted"), (5, "oom")):
        store.fail(numbers[position], outcome, "")
    store.fail(store.start(jobs[1], 1, "host-a"), "crash", "")
    spans = [
        store._connection.execute("SELECT finished - started FROM attempts WHERE id = ?", (numbers[position],))
        for position in (0, 3, 7)
    ]
    first, third, last = (cursor.fetchone()[0] for cursor in spans)
    assert store.nodes() == [
        NodeCount("", 1, {}, 0, pytest.approx(third)),
        NodeCount("host-a", 0, {"crash": 1, "oom": 2}, 0, 0.0),
        NodeCount("host-b", 2, {"crash": 1}, 1, pytest.approx(first + last)),
        NodeCount("host-c", 0, {}, 0, 0.0),  # it still runs
    ]


def test_a_damaged_store_of_an_older_format_is_mended(older, caplog):
    path = older
    before = rows_of(path, "results", ["job"])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE results SET accuracy = accuracy / 2 WHERE job = ?", before[0])
        connection.commit()
    with pytest.raises(InputError, match="damaged"):
        read_store(path)
    with closing(open_store(path)) as store:
        kept = sorted(label.job for stage in store.stages() for label in store.labels(stage))
    assert kept == [job for (job,) in before[1:]]
    assert "damaged rows in results" in caplog.text
    with closing(read_store(path)) as store:
        assert sum(store.counts(stage)[1] for stage in store.stages()) == len(before) - 1
        outcomes = [store.attempts(stage) for stage in store.stages()]
    assert sum(counts.get("done", 0) for counts in outcomes) == len(before) - 1
    assert sum(counts.get("interrupted", 0) for counts in outcomes) == 1


def test_metrics_come_back_and_are_in_labels(store):
    plan = planned(2)
    jobs = add(store, [*plan, (plan[0][0], 1, "repeat")])
    cells = {"accuracy_clean": 0.5, "accuracy_fog_1": 0.5, "accuracy_fog_2": 0.25, "accuracy_saturate_5": 0.125}
    finish(store, jobs[0], metrics=cells)
    finish(store, jobs[2], metrics={**cells, "accuracy_fog_2": 0.75})
    finish(store, jobs[1])
    assert store.results("generate")[0].metrics == cells
    assert [label.metrics for label in store.labels("generate")] == [
        cells,
        {},
        {**cells, "accuracy_fog_2": 0.75},
    ]
    twice, once = label_table(store, SPACE).rows
    expected = {"robust_accuracy": 0.5, "accuracy_fog": 0.5, "accuracy_saturate": 0.125, "accuracy_clean": 0.5}
    assert {name: twice.metrics[name] for name in expected} == pytest.approx(expected)
    assert twice.metrics["relative_robustness"] == pytest.approx(1.0)
    assert once.metrics.keys() == {"accuracy", "loss", "seconds"}


@pytest.mark.parametrize("metrics", [[0.5], {"a": "b"}, {"a": float("nan")}, {"a": None}, {"a": True}, 3, None])
def test_metrics_that_are_no_numbers_by_name_are_refused(store, metrics):
    (job, *_) = add(store)
    attempt = store.start(job, 1)
    with pytest.raises(sqlite3.IntegrityError):
        store.commit(job, attempt, {**RESULT, "metrics": metrics})
    store.commit(job, attempt, RESULT)
