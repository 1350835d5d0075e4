"""Runs brought together, and plans that are divided. Labels are made up: nothing is trained."""

import json
import multiprocessing
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import supernet.files
from data_gen import Job, WorkerSettings, lock_owner, open_store, plan, read_store, run_lock
from data_gen.merging import merge_stores
from genas import merging, stages
from genas.config import load_run
from genas.generating import _own, generate, read_part
from genas.kept_weights import weights_folder
from genas.merging import home, merge
from genas.stages import resolve
from supernet import Architecture, InputError
from supernet.files import bytes_digest, write_bytes, write_json
from tests.data_gen.fake_worker import label, result

SHORT = ["generate.architectures=6", "generate.repeat_fraction=0.5"]
EVERY = 9
"""Trainings of such a plan."""


def train(store, jobs, task, settings, progress):
    """Commit a made-up label for each job that has none, and keep what stands for its weights."""
    done = {number for stage in store.stages() for number in store.accuracies(stage)}
    for job in dict.fromkeys(jobs):
        if job.id not in done:
            attempt = store.start(job, 1)
            if task.weights is not None:
                data = f"weights of {job.architecture.key} {job.seed}".encode()
                path = task.weights / f"{job.architecture.key}-{job.seed}.safetensors"
                write_bytes(path, data)
                write_json(path.with_suffix(".json"), {"weights": bytes_digest(data)})
            store.commit(job, attempt, result(job.architecture.choices, job.seed))


@pytest.fixture(autouse=True)
def _made_up(monkeypatch):
    monkeypatch.setattr(stages, "run_jobs", train)


@pytest.fixture
def make(recipe, tmp_path):
    """Makes a run of part of the plan, under another folder of runs for each name."""

    def run(name, part=None, *overrides):
        made = load_run(recipe, [*SHORT, f"name={name}", *overrides], tmp_path / "logs")
        return made, generate(made, part=part)

    return run


def labels(folder, stage="generate"):
    with closing(read_store(folder / "store.db")) as store:
        return {(one.job.architecture.key, one.job.seed): one.accuracy for one in store.results(stage)}


def files(folder):
    """Everything but the lock and what SQLite has beside a store."""
    every = [
        path for path in folder.rglob("*") if path.is_file() and path.name != "lock" and "store.db-" not in path.name
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in every}


def weight_names(folder):
    return sorted(path.name for path in (folder / "weights").glob("*.safetensors"))


class TestParts:
    def test_parts_of_a_plan_are_trained_apart_and_make_the_whole(self, make):
        (one, first), (two, second), (three, third) = (make(f"part{number}", (number, 3)) for number in (1, 2, 3))
        whole, everything = make("whole")
        assert [one["planned"] for one in (first, second, third)] == [3, 3, 3]
        assert (first["part"], first["all"], everything["planned"]) == ([1, 3], EVERY, EVERY)
        for run in (one, two, three):
            with closing(read_store(run.store)) as store:
                assert store.counts("generate") == (EVERY, 3)
        merge(one.folder, [three.folder, two.folder])
        assert labels(one.folder) == labels(whole.folder)
        assert len(labels(whole.folder)) == EVERY
        again = generate(load_run(one.name, logs=one.folder.parent))
        assert (again["planned"], again["found"], again["trained"]) == (EVERY, EVERY, 0)

    def test_a_part_is_every_nth_training_of_the_plan(self, make):
        run, _ = make("part", (2, 4))
        settings = resolve(run)[0].settings
        planned = plan(settings.space, settings.generate, settings.bounds, settings.seed)
        assert labels(run.folder) == {(one.key, seed): label(one.choices, seed) for one, seed, _ in planned[1::4]}

    def test_without_a_part_the_rest_is_trained(self, make):
        make("run", (2, 3))
        _, other = make("run", (3, 3))  # one machine may train several
        assert (other["planned"], other["found"], other["trained"]) == (3, 0, 3)
        _, rest = make("run")
        assert (rest["planned"], rest["found"], rest["trained"]) == (EVERY, 6, 3)
        assert "part" not in rest

    def test_a_job_that_isomorphic_networks_share_is_of_one_part(self):
        jobs = [Job(number, "generate", Architecture("toy", (number,)), 0) for number in (1, 2, 1, 3, 2, 4)]
        one, two = (_own(jobs, read_part(text)) for text in ("1/2", "2/2"))
        assert [[job.id for job in part] for part in (one, two)] == [[1, 3], [2, 4]]

    @pytest.mark.parametrize(
        "text", ["0/2", "3/2", "a", "1", "1/0", "0/0", "-1/2", "1/2/3", "1.0/2", " 1/2", "²/2", ""]
    )
    def test_other_parts_are_refused(self, text, genas, recipe):
        answer = genas("generate", recipe, "--part", text)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.startswith("genas: part ")
        assert "expected I/N" in answer.err
        assert text in answer.err
        assert not Path("logs").exists()

    def test_a_part_beyond_the_plan_is_refused(self, make):
        with pytest.raises(InputError, match=r"part 10/10: the plan has 9 trainings"):
            make("run", (10, 10))
        with pytest.raises(InputError, match=r"part 0/2"):
            make("run", (0, 2))

    def test_there_is_no_plan_to_divide_where_labels_choose(self, genas, recipe):
        answer = genas("generate", recipe, "--active", "--part", "1/2")
        assert answer.code == 2
        assert "part 1/2: with generate.active there is no plan to divide" in answer.err
        assert not Path("logs").exists()

    def test_a_dry_run_is_of_the_whole_plan(self, genas, recipe):
        answer = genas("generate", recipe, "--dry-run", "--part", "1/2")
        assert answer.code == 2
        assert "leave --part out" in answer.err

    def test_words(self, genas, recipe):
        answer = genas("generate", recipe, "--part", "2/3", "--set", "generate.architectures=5")
        assert answer.code == 0
        assert "generate: part 2 of 3 of a plan of 5: 2 trainings planned, 0 found, 2 trained in " in answer.out
        assert answer.out.endswith(
            "Next: genas merge tiny RUN..., the folders of the other parts; then genas fit tiny\n"
        )
        assert genas("generate", recipe, "--part", "1/1").out.endswith("Next: genas fit tiny\n")


class TestMerge:
    def test_a_run_that_is_not_there_is_made(self, make, genas, tmp_path):
        one, _ = make("one", (1, 2), "generate.keep_weights=true")
        two, _ = make("two", (2, 2), "generate.keep_weights=true")
        logs = one.folder.parent
        answer = genas("merge", "all", "one", two.folder, "--logs", logs)
        assert (answer.code, answer.err) == (0, "")
        assert answer.out == (
            f"merge: 9 results, 9 planned trainings, 9 files of weights added to all from {one.folder}, {two.folder}; "
            f"it is new and holds 9 results\n"
            f"Next: genas fit all\n"
        )
        both = load_run("all", logs=logs)
        settings = load_run("one", logs=logs).settings
        assert settings.workers != WorkerSettings()  # where the first source trained: of its machine
        assert both.settings == settings.model_copy(update={"workers": WorkerSettings()})
        assert "of the run all, not to be edited" in (both.folder / "config.yml").read_text()
        assert (both.folder / "meta.json").read_bytes() == (one.folder / "meta.json").read_bytes()
        assert labels(both.folder) == {**labels(one.folder), **labels(two.folder)}
        assert weight_names(both.folder) == sorted([*weight_names(one.folder), *weight_names(two.folder)])
        before = files(both.folder)
        answer = genas("merge", both.folder, "two", "one", "one", "--logs", logs)
        assert answer.out.splitlines()[0] == (
            f"merge: 0 added to all from {two.folder}, {one.folder}; 9 results were there already; it holds 9 results"
        )
        assert files(both.folder) == before
        assert genas("status", "all", "--logs", logs).code == 0
        assert genas("generate", "all", "--logs", logs).out.startswith(
            "generate: 9 trainings planned, 9 found, 0 trained"
        )

    def test_json(self, make, genas):
        one, _ = make("one", (1, 2))
        two, _ = make("two")
        answer = json.loads(genas("merge", "one", "two", "--logs", one.folder.parent, "--json").out)
        added = {"architectures": 0, "jobs": 0, "results": 4, "failures": 0, "settings": 0, "weights": 0}
        assert answer == {
            "into": str(one.folder), "sources": [str(two.folder)], "made": False, "added": added, "present": 5,
            "differing": 0, "named": [], "damaged": 0, "results": 9, "missing": 0,
        }  # fmt: skip

    def test_labels_that_differ_are_told_and_stay(self, make, genas, monkeypatch):
        one, _ = make("one")
        monkeypatch.setattr(stages, "run_jobs", other_labels)
        two, _ = make("two")
        before = labels(one.folder)
        answer = genas("merge", "one", "two", "--logs", one.folder.parent)
        assert answer.code == 0
        told = answer.out.splitlines()[1]
        assert told.startswith("  9 differing: there already with another label, which stays")
        assert told.endswith(" and 4 more")
        assert told.count(" of generate") == 5
        assert labels(one.folder) == before != labels(two.folder)

    def test_into_itself_is_refused(self, make, genas, tmp_path):
        run, _ = make("one")
        before = files(run.folder)
        (tmp_path / "logs" / "link").symlink_to(run.folder)
        for name in ("one", run.folder, "link"):
            for pair in (("one", name), (name, "one")):
                answer = genas("merge", *pair, "--logs", run.folder.parent)
                assert answer.code == 2
                assert "cannot be merged into itself" in answer.err
        assert files(run.folder) == before

    def test_a_source_that_is_no_run(self, make, genas):
        run, _ = make("one")
        answer = genas("merge", "one", "won", "--logs", run.folder.parent)
        assert answer.code == 2
        assert "run 'won': nothing under" in answer.err
        assert "known: one" in answer.err

    @pytest.mark.parametrize("new", [False, True])
    def test_other_settings_are_refused_before_anything_is_written(self, new, make, genas):
        one, _ = make("one", (1, 2))
        make("two", (2, 2), "generate.recipe.epochs=3", "data.validation_images=50")
        before = files(one.folder)
        names = ("all", "one", "two") if new else ("one", "two")
        answer = genas("merge", *names, "--logs", one.folder.parent)
        assert (answer.code, answer.out) == (2, "")
        assert "trainings of generate were planned with different settings (" in answer.err
        for key in ("data.validation_images: ", "generate.recipe.epochs: ", "images.validation: "):
            assert key in answer.err
        assert files(one.folder) == before
        assert not (one.folder.parent / "all").exists()

    def test_more_architectures_are_no_other_settings(self, make):
        one, _ = make("one", (1, 2))
        two, _ = make("two", None, "generate.architectures=8")
        assert merge(one.folder, [two.folder])["results"] == 12
        assert labels(one.folder) == labels(two.folder)

    def test_a_run_that_is_driven_is_refused_and_a_source_that_is_driven_is_not(self, make, genas):
        one, _ = make("one", (1, 2))
        make("two", (2, 2))
        with run_lock(one.folder), closing(open_store(one.store)) as store:
            answer = genas("merge", "two", "one", "--logs", one.folder.parent)
            assert answer.code == 0
            assert answer.out.startswith("merge: 5 results added to two from ")
            answer = genas("merge", "one", "two", "--logs", one.folder.parent)
            assert answer.code == 2
            assert f"{one.folder}: in use by process {os.getpid()}" in answer.err
            assert store.counts("generate") == (9, 5)

    def test_the_run_is_locked_while_it_is_written(self, make, monkeypatch):
        (one, _), (two, _) = make("one", (1, 2)), make("two", (2, 2))
        owners = []

        def watched(into, sources):
            owners.append((lock_owner(one.folder) is not None, lock_owner(two.folder)))
            return merge_stores(into, sources)

        monkeypatch.setattr(merging, "merge_stores", watched)
        merge(one.folder, [two.folder])
        assert owners == [(True, None)]

    def test_a_damaged_source_is_refused(self, make, genas):
        one, _ = make("one", (1, 2))
        two, _ = make("two", (2, 2))
        with closing(sqlite3.connect(two.store)) as connection:
            connection.execute("UPDATE results SET accuracy = accuracy / 2")
            connection.commit()
        before = files(one.folder)
        answer = genas("merge", "one", "two", "--logs", one.folder.parent)
        assert answer.code == 2
        assert "4 damaged rows in results" in answer.err
        assert files(one.folder) == before
        with run_lock(one.folder):  # which is told before sources are read, which may take long
            assert "in use by process" in genas("merge", "one", "two", "--logs", one.folder.parent).err

    def test_a_damaged_configuration_makes_no_run(self, make):
        one, _ = make("one")
        (one.folder / "config.yml").write_text("seed: 1\n")
        with pytest.raises(InputError, match="damaged or edited by hand"):
            merge(one.folder.with_name("all"), [one.folder])
        assert files(one.folder.with_name("all")) == {}

    def test_a_recipe_is_the_name_of_its_run(self, make, recipe, tmp_path):
        assert home(str(recipe), tmp_path) == tmp_path / "tiny"
        assert home("a/b") == Path("a/b")
        assert home("a") == Path("logs/a")
        with pytest.raises(InputError, match="run name"):
            home("a b")


def other_labels(store, jobs, task, settings, progress):
    for job in jobs:
        made = result(job.architecture.choices, job.seed)
        store.commit(job, store.start(job, 1), {**made, "accuracy": made["accuracy"] / 2})


class TestWeights:
    def test_what_is_lacking_or_not_whole_comes_and_what_is_whole_stays(self, make):
        one, _ = make("one", None, "generate.keep_weights=true")
        two, _ = make("two", None, "generate.keep_weights=true")
        first, second, third, *_ = sorted((one.folder / "weights").glob("*.safetensors"))
        expected = files(two.folder / "weights")
        first.unlink()
        second.with_suffix(".json").unlink()
        third.write_bytes(b"ours")
        found = merge(one.folder, [two.folder])
        assert (found["added"]["weights"], found["added"]["results"]) == (2, 0)
        assert {**files(one.folder / "weights"), third.name: expected[third.name]} == expected
        assert third.read_bytes() == b"ours"

    def test_damaged_weights_are_left_out_and_told(self, make, genas):
        one, _ = make("one", None, "generate.keep_weights=true")
        for path in sorted((one.folder / "weights").glob("*.safetensors"))[:2]:
            path.write_bytes(b"damaged")
        answer = genas("merge", "all", "one", "--logs", one.folder.parent)
        assert answer.code == 0
        assert "7 files of weights" in answer.out
        assert "  2 files of kept weights are damaged and were left out\n" in answer.out
        assert len(weight_names(one.folder.with_name("all"))) == 7

    def test_weights_of_another_label_do_not_come(self, make, monkeypatch):
        two, _ = make("two", None, "generate.keep_weights=true")
        monkeypatch.setattr(stages, "run_jobs", other_labels)
        one, _ = make("one")
        found = merge(one.folder, [two.folder])
        assert (found["differing"], found["added"]["weights"]) == (9, 0)
        assert weight_names(one.folder) == []

    def test_every_stage_keeps_its_own(self):
        found = {stage: weights_folder(stage) for stage in ("generate", "study-500", "front", "retrain", "handmade")}
        assert {stage: path and str(path) for stage, path in found.items()} == {
            "generate": "weights", "study-500": "weights/study-500", "front": "front/weights", "retrain": "checkpoints",
            "handmade": None,
        }  # fmt: skip


class Dying:
    """Kills this process at the n-th step, before or after it."""

    def __init__(self, number, after):
        self.number, self.after, self.count = number, after, 0

    def wrap(self, function):
        def step(*arguments, **options):
            self.count += 1
            if self.count == self.number and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = function(*arguments, **options)
            if self.count == self.number:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return step


def merge_and_die(into, sources, dying):
    supernet.files.os.fsync = dying.wrap(os.fsync)
    for name in ("open_store", "merge_stores"):
        setattr(merging, name, dying.wrap(getattr(merging, name)))
    merge(into, sources)
    os._exit(0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_merge_killed_at_any_step_is_finished_by_the_same_line(after, make):
    """Before and after the store is opened and merged, and each file that is forced to the disk."""
    sources = [make(f"part{number}", (number, 9), "generate.keep_weights=true")[0].folder for number in (1, 2)]
    fork = multiprocessing.get_context("fork")
    logs = sources[0].parent
    expected = None
    for number in range(1, 100):
        into = logs / f"all{number}"
        process = fork.Process(target=merge_and_die, args=(into, sources, Dying(number, after)))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        if (into / "store.db").exists():
            with closing(open_store(into / "store.db")) as store:
                assert store.counts("generate") in ((0, 0), (9, 2))
        merge(into, sources)
        assert len(labels(into)) == 2
        whole = {name: data for name, data in files(into).items() if name.startswith("weights/") and "/." not in name}
        expected = expected or whole
        assert whole == expected
        assert len(weight_names(into)) == 2
        settings = load_run("part1", logs=logs).settings.model_copy(update={"workers": WorkerSettings()})
        assert load_run(into.name, logs=logs).settings == settings
    assert number > 12
