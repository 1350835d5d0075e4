"""Rows 4, 5, 7, 9, 15, 18 and 21: what the disk, other programs and other versions do to the store and the files."""

import json
import logging
import multiprocessing
import os
import resource
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from analysis import write_report
from data_gen import open_store, read_store
from data_gen.schema import FORMAT
from genas.config import load_run
from genas.fitting import fit
from genas.generating import export_table, generate
from genas.retraining import retrain
from genas.searching import search
from genas.stages import add_jobs
from genas.standing import status
from predictor import Predictor
from supernet import ArchGraph, Architecture, InputError, OpSubset, architectures, read_table
from supernet.files import read_json, read_proved_text, write_bytes
from supernet.settings import UnavailableError
from tests.data_gen.harness import SPACE, Run
from tests.data_gen.harness import architectures as small
from training import Checkpoints, DataSettings, open_prepared, prepare
from training.data import damage
from training.native import build

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
FIXTURES = Path(__file__).parent.parent / "fixtures"
RESULT = {
    "accuracy": 0.5, "loss": 1.25, "epochs": 3, "pieces": 1, "seconds": 2.5, "peak_memory": 12345,
    "images_per_second": 99.5, "curves": {"train_loss": [2.0, 1.5]},
}  # fmt: skip


def fill(path, count=20, seed=0):
    """A store with so many results, each with an accuracy of its own."""
    plan = [(one, seed, "sample") for one in small(count)]
    costs = {one.key: {name: int(value[0]) for name, value in SPACE.costs(one.row()).items()} for one, _, _ in plan}
    with closing(open_store(path)) as store:
        for number, job in enumerate(store.add_jobs("generate", plan, costs)):
            store.commit(job, store.start(job, 1), {**RESULT, "accuracy": number / 1000})
    return labels(path)


def labels(path):
    with closing(read_store(path)) as store:
        return {(row.job.architecture, row.job.seed): row for row in store.results("generate")}


def same(found, known):
    """Whether every result found is one that was written."""
    return all(known.get(key) == row for key, row in found.items())


# --- row 4 ---------------------------------------------------------------------------------------------------


def test_a_log_cut_at_every_byte_of_its_last_two_results(tmp_path, figure):
    path = tmp_path / "store.db"
    fill(path, 4)
    with closing(open_store(path)) as store:
        jobs = store.add_jobs("generate", [(one, 1, "sample") for one in small(4)], {})
        log = path.with_name("store.db-wal")
        sizes = []
        for number, job in enumerate(jobs[:3]):
            attempt = store.start(job, 1)
            sizes.append(log.stat().st_size)
            store.commit(job, attempt, {**RESULT, "accuracy": 0.9 + number / 1000})
        database, written = path.read_bytes(), log.read_bytes()[: log.stat().st_size]
        known = labels(path)
    assert len(known) == 7
    cuts = range(sizes[1], len(written))
    lost = {0: 0, 1: 0, 2: 0}
    folder = tmp_path / "torn"
    for size in [*cuts[::97], *range(len(written) - 30, len(written) + 1)]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "store.db").write_bytes(database)
        (folder / "store.db-wal").write_bytes(written[:size])
        with closing(open_store(folder / "store.db")) as store:
            assert not store.events("mended")  # a torn log is no damage
            found = {(row.job.architecture, row.job.seed): row for row in store.results("generate")}
        assert same(found, known)
        lost[len(known) - len(found)] += 1  # no more than the last two
    assert lost[0]
    assert lost[1]
    figure(
        4, f"store's log cut at {sum(lost.values())} places of its last two results: reopened, none wrong; lost {lost}"
    )


@pytest.mark.parametrize("kind", ["flipped", "cut"])
def test_a_damaged_store_never_gives_a_wrong_result(kind, tmp_path, figure, caplog):
    path = tmp_path / "store.db"
    known = fill(path, 40)
    whole = path.read_bytes()
    random = np.random.default_rng(4)
    outcomes = {"as it was": 0, "mended": 0, "refused": 0}
    missing = []
    for _ in range(120 if kind == "flipped" else 25):
        data = bytearray(whole)
        if kind == "flipped":
            data[random.integers(len(data))] ^= 1 << random.integers(8)
        else:
            data = data[: random.integers(len(data))]
        target = tmp_path / "copy" / "store.db"
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir()
        target.write_bytes(data)
        with suppress(InputError):
            assert same(labels(target), known)
        assert target.read_bytes() == bytes(data)  # a reader changes nothing
        try:
            with closing(open_store(target)) as store:
                mended = store.events("mended")
        except InputError:
            outcomes["refused"] += 1
            assert target.read_bytes() == bytes(data)
            continue
        found = labels(target)
        assert same(found, known)
        outcomes["mended" if mended else "as it was"] += 1
        missing.append(len(known) - len(found))
        if mended:
            assert (target.parent / "store.damaged-1.db").read_bytes() == bytes(data)
            assert "damaged file is kept as store.damaged-1.db" in caplog.text
        elif kind == "flipped":
            assert missing[-1] == 0
    if kind == "flipped":
        assert outcomes["mended"] > 20
        assert np.mean(np.array(missing) > 1) < 0.05  # more only where a page's own head was hit
    lost = f"{np.median(missing):g} median, {np.mean(missing):.1f} mean, {max(missing)} at most"
    figure(4, f"store's file {kind}: {outcomes}, 0 wrong results; of 40 lost {lost}")


def test_a_mended_run_trains_again_what_was_lost(tmp_path, figure):
    run = Run(tmp_path, [(one, 0, "sample") for one in small(12)])
    run.drive()
    with closing(sqlite3.connect(run.path)) as connection:
        connection.execute("UPDATE results SET accuracy = 0.999 WHERE job = 5")  # as a flipped byte does
        connection.commit()
    with pytest.raises(InputError, match=r"1 damaged row in results.*`genas generate .*` mends it"):
        read_store(run.path)
    run.drive()
    assert run.check_whole() == {"interrupted": 1}
    figure(4, "a result of which one number was changed: found at opening, that network alone trained again")


def test_json_and_text_cut_at_every_byte_and_flipped(whole, figure):
    """Every file of a run that is JSON or text: refused, or read as it was."""
    count = 0
    for path in [*whole.rglob("*.json"), whole / "config.yml"]:
        if path.name == "predictor.json":  # with its weights, below
            continue
        read = read_proved_text if path.suffix == ".yml" else read_json
        data, known = path.read_bytes(), read(path)
        assert known
        for size in range(len(data)):
            path.write_bytes(data[:size])
            with pytest.raises(InputError):
                read(path)
        random = np.random.default_rng(0)
        for place in random.permutation(len(data))[:150]:
            flipped = bytearray(data)
            flipped[place] ^= 1 << random.integers(8)
            path.write_bytes(flipped)
            with pytest.raises(InputError):
                read(path)
        path.write_bytes(data)
        count += 1
    figure(4, f"{count} JSON and YAML files cut at every byte and flipped at 150: refused each time")


def test_the_predictor_flipped_or_cut_is_never_loaded(whole, figure):
    folder = whole / "predictor"
    random = np.random.default_rng(0)
    tried = 0
    for name in ("predictor.safetensors", "predictor.json"):
        data = (folder / name).read_bytes()
        for number in range(150):
            damaged = bytearray(data)
            if number % 3:
                damaged[random.integers(len(data))] ^= 1 << random.integers(8)
            else:
                damaged = damaged[: random.integers(len(data))]
            (folder / name).write_bytes(damaged)
            tried += 1
            try:
                Predictor.load(folder)
            except InputError:
                continue
            assert json.loads(damaged) == json.loads(data)  # white space: the same content
        (folder / name).write_bytes(data)
    Predictor.load(folder)
    figure(4, f"predictor: {tried} damaged copies, none loaded with other content")


def test_a_table_that_is_cut_or_flipped_is_refused_or_says_what_it_says(whole, tmp_path, figure):
    """JSON lines have no digest: they are an exchange format. A cut line is refused, the lines before it stay whole."""
    path = tmp_path / "labels.jsonl"
    export_table(whole, path)
    data, known = path.read_bytes(), read_table(path)
    last_two = len(b"".join(data.splitlines(keepends=True)[-2:]))
    refused = 0
    for size in range(len(data) - last_two, len(data)):
        path.write_bytes(data[:size])
        try:
            assert read_table(path).rows == known.rows[: len(read_table(path))]
        except InputError:
            refused += 1
    assert refused > last_two - 5
    figure(
        4,
        f"label table cut at each of its last {last_two} bytes: {refused} refused with file and line, else whole",
    )


def test_prepared_images_that_are_damaged_are_made_again(tmp_path, monkeypatch, figure, caplog):
    monkeypatch.setenv("GENAS_CACHE", str(tmp_path / "cache"))
    settings = DataSettings(train_images=40, validation_images=20, test_images=20)
    info = prepare(settings, 8)
    random = np.random.default_rng(0)
    files = {path.name: path.read_bytes() for path in info.folder.iterdir()}
    rounds = 0
    for name, data in files.items():
        for number in range(6):
            damaged = bytearray(data)
            if number % 2:
                damaged[random.integers(len(data))] ^= 1 << random.integers(8)
            else:
                damaged = damaged[: random.integers(len(data))]
            (info.folder / name).write_bytes(damaged)
            assert damage(info.folder, ("train", "validation", "test"))
            caplog.clear()
            assert prepare(settings, 8, ("train", "validation", "test")) == info
            assert caplog.text.count("prepared again") == 1
            assert {path.name: path.read_bytes() for path in info.folder.iterdir()} == files
            rounds += 1
    (info.folder / "info.json").unlink()
    with pytest.raises(InputError, match="not a folder of prepared images"):
        open_prepared(info.folder, 4096)
    assert prepare(settings, 8) == info
    figure(4, f"prepared images damaged {rounds} times: seen and made again each time, with one warning")


# --- row 5 ---------------------------------------------------------------------------------------------------


def limited(run, size):
    """A driver for whose files the disk is full beyond a size."""
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        run.drive(workers=1)
    except UnavailableError as error:
        os._exit(3 if "cannot write" in str(error) or "cannot open" in str(error) else 4)
    os._exit(0)


def test_the_nth_write_fails(tmp_path, figure):
    """Limits between two writes of the log, each let in one write more: a clean stop, and nothing lost."""
    run = Run(tmp_path, [(one, seed, "sample") for seed in range(10) for one in small(25)])
    fork = multiprocessing.get_context("fork")
    build()  # or each driver would begin to compile, which its limit does not let it end
    before, stops = {}, 0
    base = run.path.stat().st_size
    for number in range(1, 51):
        process = fork.Process(target=limited, args=(run, base + 2000 * number))
        process.start()
        process.join()
        assert process.exitcode in (0, 3)
        stops += process.exitcode == 3
        now = run.committed()
        assert before.items() <= now.items()
        before = now
        with closing(read_store(run.path)) as store:  # whole, whatever was being written
            assert len(store.results("generate")) == len(now)
    assert stops > 40
    run.drive()  # space was freed
    assert before.items() <= run.committed().items()
    assert set(run.check_whole()) <= {"interrupted"}
    figure(5, f"{stops} of 50 drivers stopped by a full disk, exit 3: store whole each time, then all 250 trained")


@pytest.mark.parametrize("number", range(1, 6))
def test_a_file_of_which_the_nth_step_fails_stays_as_it_was(number, tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_bytes(path, b"old")
    steps = 0

    def failing(function):
        def step(*arguments, **options):
            nonlocal steps
            steps += 1
            if steps == number:
                raise OSError(28, "No space left on device")
            return function(*arguments, **options)

        return step

    for owner, name in ((os, "fsync"), (Path, "open"), (Path, "replace"), (os, "open")):
        monkeypatch.setattr(owner, name, failing(getattr(owner, name)))
    with pytest.raises(UnavailableError, match="No space left"):
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() in (b"old", b"new")
    assert number > 3 or path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# --- row 7 ---------------------------------------------------------------------------------------------------


def write_many(path, number, count, results):
    try:
        with closing(open_store(path)) as store:
            plan = [(one, 1000 * (number + 1) + seed, "sample") for seed in range(count // 25) for one in small(25)]
            for job in store.add_jobs("generate", plan, {}):
                store.commit(job, store.start(job, os.getpid()), {**RESULT, "accuracy": number / 10})
        results.put("")
    except (sqlite3.Error, UnavailableError, InputError) as error:
        results.put(str(error))


def test_eight_writers_and_a_reader(tmp_path, figure):
    path = tmp_path / "store.db"
    fill(path, 25)
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    writers = [fork.Process(target=write_many, args=(path, number, 250, results)) for number in range(8)]
    began = time.monotonic()
    for writer in writers:
        writer.start()
    counts, looks = [], 0
    while any(writer.is_alive() for writer in writers):
        with closing(read_store(path)) as store:
            counts.append(store.counts("generate")[1])
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                store._connection.execute("DELETE FROM results")
        looks += 1
    for writer in writers:
        writer.join()
    assert [results.get(timeout=60) for _ in writers] == [""] * 8  # no "database is locked"
    assert counts == sorted(counts)
    assert len(labels(path)) == 2025
    figure(7, f"2000 of 2000 rows in {time.monotonic() - began:.1f} s, 0 locked, {looks} looks of a reader beside them")


# --- row 9 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["accuracy", "loss", "seconds", "images_per_second"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None, -1.0])
def test_the_store_takes_no_number_that_is_none(column, value, tmp_path):
    fill(tmp_path / "store.db", 1)
    with closing(open_store(tmp_path / "store.db")) as store:
        (job,) = store.add_jobs("generate", [(small(2)[1], 1, "sample")], {small(2)[1].key: dict.fromkeys(
            ("macs", "conv_macs", "params", "activations"), 1)})  # fmt: skip
        attempt = store.start(job, 1)
        with pytest.raises(sqlite3.IntegrityError):
            store.commit(job, attempt, {**RESULT, column: value})
        assert store.counts("generate") == (2, 1)
        store.commit(job, attempt, RESULT)


def test_a_worker_that_answers_nan_is_a_crash_and_no_label(tmp_path, figure):
    from tests.data_gen.harness import SEEDS

    run = Run(tmp_path, [(one, SEEDS["nan"] if number == 1 else 0, "sample") for number, one in enumerate(small(4))])
    run.drive()
    assert run.attempts() == {"done": 3, "crash": 3}
    with closing(read_store(run.path)) as store:
        (failure,) = store.failures("generate", 2)
    assert "gave a result that is none" in failure.message
    figure(9, "a worker that answers NaN: refused by the store's constraints, a row failed(crash), 3 others trained")


# --- row 15 --------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_sampled_and_mutated_are_entered_once_each(tmp_path, figure):
    space = OpSubset()
    random = np.random.default_rng(0)
    sampled = space.sample(50_000, random)
    mutated = sampled.copy()
    flips = random.integers(0, sampled.shape[1], len(sampled))
    mutated[np.arange(len(mutated)), flips] ^= 1
    rows = np.concatenate([sampled, mutated[space.is_valid(mutated)]])
    again = rows[random.integers(0, len(rows), 100_000)]  # many of them several times
    drawn = architectures(space, again)
    distinct = {one.key for one in drawn}
    assert len(distinct) == len({row.tobytes() for row in again}) < len(drawn)
    costs = {name: values.tolist() for name, values in space.costs(again).items()}
    described = {one.key: {name: costs[name][number] for name in costs} for number, one in enumerate(drawn)}
    with closing(open_store(tmp_path / "store.db")) as store:
        jobs = store.add_jobs("generate", [(one, 0, "sample") for one in drawn], described)
        assert len({job.id for job in jobs}) == len(distinct) == store.counts("generate")[0]
    digests = {space.graph(one).digest() for one in drawn[:3000]}
    assert len(digests) == len({one.key for one in drawn[:3000]})  # no two of the space are isomorphic
    figure(15, f"100,000 drawn, {len(distinct):,} distinct: each entered once")


def relabelled(graph, random):
    """The same graph with its nodes and edges in another order."""
    order = random.permutation(len(graph.nodes))
    place = np.argsort(order)
    edges = [(int(place[start]), int(place[end])) for start, end in graph.edges]
    random.shuffle(edges)
    return ArchGraph(tuple(graph.nodes[position] for position in order), tuple(edges))


def test_isomorphic_networks_are_trained_once(tmp_path, figure):
    random = np.random.default_rng(0)

    @dataclass(frozen=True)
    class Relabelling:
        """Two choices more that number the nodes otherwise, and change nothing."""

        name: str = "relabelling"

        def graph(self, architecture):
            inner = Architecture(SPACE.name, architecture.choices[:-1])
            return relabelled(SPACE.graph(inner), np.random.default_rng(architecture.choices[-1]))

    drawn = [Architecture("relabelling", (*one.choices, number)) for one in small(20) for number in range(5)]
    random.shuffle(drawn)
    with closing(open_store(tmp_path / "store.db")) as store:
        jobs = add_jobs(store, Relabelling(), "generate", [(one, 0, "sample") for one in drawn])
        assert len(jobs) == 100
        assert store.counts("generate")[0] == len({job.id for job in jobs}) == 20
        assert {one.choices[:-1] for one in drawn} == {job.architecture.choices[:-1] for job in jobs}
        for job, one in zip(jobs, drawn, strict=True):
            assert job.architecture.choices[:-1] == one.choices[:-1]
        assert add_jobs(store, Relabelling(), "generate", [(one, 0, "sample") for one in drawn]) == jobs
    figure(15, "100 networks, 5 numberings of each of 20: 20 trainings")


# --- row 18 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_run_of_every_format_that_landed_opens_and_goes_on(version, tmp_path, figure):
    folder = Path(shutil.copytree(FIXTURES / f"format{version}", tmp_path / "logs" / f"format{version}"))
    known = read_table(folder / "labels.jsonl")
    before = (folder / "store.db").read_bytes()
    state = status(folder)
    assert {state["stages"][stage] for stage in ("generate", "fit", "search", "retrain")} == {"done"}
    assert export_table(folder, tmp_path / "labels.jsonl") == 12
    assert read_table(tmp_path / "labels.jsonl") == known
    assert write_report(folder).is_file()
    assert (folder / "store.db").read_bytes() == before  # readers migrate a copy
    if version < 3:
        with pytest.raises(InputError, match=r"of an earlier version.*fit again"):
            Predictor.load(folder / "predictor")
    else:
        Predictor.load(folder / "predictor")
    run = load_run(f"format{version}", logs=tmp_path / "logs")
    result = generate(run)
    assert (result["planned"], result["found"], result["trained"]) == (15, 15, 0)
    with closing(sqlite3.connect(folder / "store.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT,)
        counts = dict(connection.execute("SELECT outcome, COUNT(*) FROM attempts GROUP BY 1").fetchall())
    assert counts == ({"crash": 1, "done": 18, "interrupted": 1} if version == 1 else {"done": 18})
    assert fit(run)["rows"] == 12
    found = search(run)["evolution"]["best"][0]["key"]  # of another predictor
    winner = retrain(run)["roles"]["winner"]
    assert winner["key"] == found
    if found == state["winner"]["key"]:
        assert winner["test_accuracies"] == state["test"]["winner"]["test_accuracies"]
    export_table(folder, tmp_path / "labels.jsonl")
    assert read_table(tmp_path / "labels.jsonl") == known
    figure(18, f"a run of format {version} read and continued by every stage: 0 trained again, labels equal")


def test_a_checkpoint_of_every_format_that_landed_is_gone_on_from():
    (described,) = (FIXTURES / "format2" / "inside").glob("*.json")
    name, step = described.name.split(".")[:2]
    identity = read_json(described)["identity"]
    saved = Checkpoints(described.parent, name, identity, every=60).newest()
    assert saved.content["step"] == int(step) == 551
    assert saved.tensors["correct"].dtype.is_floating_point is False


def test_what_a_newer_version_wrote_is_refused(whole, figure):
    with closing(sqlite3.connect(whole / "store.db")) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    for opened in (open_store, read_store):
        with pytest.raises(InputError, match=r"written by a newer version .* update"):
            opened(whole / "store.db")
    path = whole / "winner" / "search.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(InputError, match=r"written by a newer version .* update"):
        read_json(path)
    path = whole / "predictor" / "predictor.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(InputError, match="written by a newer version"):
        Predictor.load(whole / "predictor")
    figure(18, "store, JSON and predictor of a newer version: refused, with 'update'")


# --- row 21 --------------------------------------------------------------------------------------------------


def as_nobody(function, *arguments):
    """Exit code of a function that is run without root's rights."""
    if os.getuid() != 0:
        process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    else:

        def bound():
            os.setgid(65534)
            os.setuid(65534)
            function(*arguments)

        process = multiprocessing.get_context("fork").Process(target=bound)
    process.start()
    process.join()
    return process.exitcode


def command(*arguments):
    import sys

    from genas.cli import main

    sys.argv = ["genas", *map(str, arguments)]
    main()


def test_a_folder_that_may_not_be_written(finished, open_folder, recipe, figure, capfd, monkeypatch):
    """chmod 500: an error, exit 3, and nothing half made; reading still works."""
    import training.loop  # noqa: F401 - what a command imports must be there before the rights are given up

    logs = open_folder / "logs"
    shutil.copytree(finished, logs / "tiny")
    shutil.copy(recipe, open_folder / "tiny.yml")
    monkeypatch.setenv("GENAS_CACHE", str(open_folder / "cache"))
    prepare(load_run(recipe).settings.data, 8)
    for path in [open_folder, *open_folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in open_folder.rglob("*")}
    codes = {}
    for name, line in {
        "generate": ("generate", open_folder / "tiny.yml", "--logs", logs),
        "generate, new run": ("generate", open_folder / "tiny.yml", "--logs", logs, "--set", "name=other"),
        "report": ("report", "tiny", "--logs", logs),
        "export-table": ("export-table", "tiny", "--logs", logs, "--out", open_folder / "labels.jsonl"),
        "status": ("status", "tiny", "--logs", logs),
    }.items():
        codes[name] = as_nobody(command, *line)
        words = "".join(capfd.readouterr())
        assert "Traceback" not in words, words
        assert (codes[name] == 0) == (name == "status"), words
    assert {**codes, "status": 3} == dict.fromkeys(codes, 3)
    assert {path: path.stat().st_mtime_ns for path in open_folder.rglob("*")} == before
    figure(21, "generate, report and export in folders of mode 555: exit 3 with one sentence; status reads, exit 0")


def test_a_store_whose_log_was_left_in_a_folder_that_may_not_be_written(open_folder, figure):
    """A driver was killed, so that results are in the log alone: they are read, or the reader says what is wrong."""
    path = open_folder / "store.db"
    known = fill(path, 3)
    with closing(open_store(path)) as store:
        jobs = store.add_jobs("generate", [(one, 1, "sample") for one in small(3)], {})
        for job in jobs:
            store.commit(job, store.start(job, 1), RESULT)
        (open_folder / "left").mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", open_folder / "left" / f"store.db{suffix}")
    for entry in [*(open_folder / "left").iterdir(), open_folder / "left"]:
        entry.chmod(0o555 if entry.is_dir() else 0o444)

    def look():
        try:
            found = len(labels(open_folder / "left" / "store.db"))
        except UnavailableError:
            os._exit(3)
        os._exit(0 if found == 6 else 1)

    code = as_nobody(look)
    assert code in (0, 3)  # never fewer results than were committed
    assert len(known) == 3
    figure(21, f"a log left behind where nothing may be written: {'read whole' if code == 0 else 'refused, exit 3'}")
