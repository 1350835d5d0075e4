import json
import shutil
import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

import genas.stages
from data_gen import cheap_labels, read_store
from genas.config import load_run
from genas.fitting import fit
from genas.generating import export_table, generate
from genas.ranking import agreement, fidelity, pick
from genas.standing import report, status
from supernet import InputError, read_table
from supernet.files import read_json
from tests.genas.test_pipeline import committed

CHEAP = "fidelity={architectures: 5, settings: {short: {epochs: 1}, few: {epochs: 1, train_images: 40, width: 0.5}}}"


def entry(cost, **taus):
    return {"cost": cost, "labels": {kind: {"tau": tau, "tau_ci95": [tau - 0.1, tau]} for kind, tau in taus.items()}}


class TestPick:
    def test_the_cheapest_that_reaches_the_threshold(self):
        settings = {
            "a": entry(0.1, train=0.69, tse=0.2),
            "b": entry(0.2, train=0.7, tse=0.72),
            "c": entry(0.5, tse=0.9),
        }
        assert pick(settings, 0.7) == {
            "setting": "b",
            "label": "tse",
            "cost": 0.2,
            "tau": 0.72,
            "tau_ci95": [0.62, 0.72],
        }

    def test_none_reaches_it_or_is_there(self):
        assert pick({"a": entry(0.1, train=0.69)}, 0.7) is None
        assert pick({"a": entry(0.1)}, 0.7) is None
        assert pick({}, 0.7) is None

    @given(
        st.dictionaries(
            st.sampled_from("abcdef"), st.tuples(st.sampled_from([0.1, 0.2, 0.4]), st.floats(-1, 1), st.floats(-1, 1))
        ),
        st.floats(0.05, 1),
    )
    def test_nothing_cheaper_reaches_it_and_nothing_as_cheap_is_better(self, made, threshold):
        settings = {name: entry(cost, train=first, tse=second) for name, (cost, first, second) in made.items()}
        every = [(one["cost"], label["tau"]) for one in settings.values() for label in one["labels"].values()]
        reached = [(cost, tau) for cost, tau in every if tau >= threshold]
        chosen = pick(settings, threshold)
        if chosen is None:
            assert not reached
            return
        assert (chosen["cost"], chosen["tau"]) in reached
        assert all((chosen["cost"], -chosen["tau"]) <= (cost, -tau) for cost, tau in reached)


def test_agreement_of_known_orders():
    full = [0.1, 0.2, 0.3, 0.4]
    assert agreement([1, 2, 3, 4], full, 0)["tau"] == pytest.approx(1)
    assert agreement([-3, -2, -4, -1], full, 0)["tau"] == pytest.approx(1 / 3)  # 4 pairs of 6 in order, 2 not
    assert agreement([4, 3, 2, 1], full, 0)["tau"] == pytest.approx(-1)
    assert agreement([7, 7, 7, 7], full, 0) == {"tau": 0.0, "tau_ci95": [0.0, 0.0]}
    assert agreement([1, 1, 2, 2], full, 0)["tau"] == pytest.approx(4 / 24**0.5)  # ties on one side: tau-b


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory):
    """A finished run with cheap labels, and what measuring them gave. Not to be changed."""
    logs = tmp_path_factory.mktemp("measured")
    shutil.copytree(finished.run.folder, logs / "tiny")
    run = load_run("tiny", [CHEAP], logs)
    before = committed(run)
    return run, before, fidelity(run)


@pytest.fixture
def again(measured, tmp_path):
    shutil.copytree(measured[0].folder, tmp_path / "logs" / "tiny")
    return load_run("tiny", logs=tmp_path / "logs")


class TestMeasuring:
    def test_full_labels_are_used_and_none_is_trained_twice(self, measured):
        run, before, result = measured
        after = committed(run)
        assert {job: after[job] for job in before} == before
        assert len(after) == len(before) + 2 * 5
        assert (result["failed"], result["architectures"]) == (0, 5)

    def test_every_number_is_that_of_the_store(self, measured):
        run, _, result = measured
        store = read_store(run.store)
        try:
            full = {label.key: label for label in list(store.labels("generate"))[:5]}
            curves = {one.job.architecture.key: one for one in store.results("fidelity-short")}
            cheap = {label.key: values for label, values in cheap_labels(store, "fidelity-short")}
            assert {job.seed for job in store.jobs("fidelity-short")} == {2}  # neither that of a label nor of a repeat
        finally:
            store.close()
        assert [row["id"] for row in result["rows"]] == list(full) == list(curves)
        for row in result["rows"]:
            one = curves[row["id"]]
            assert row["accuracy"] == full[row["id"]].accuracy
            assert (
                row["labels"]["short"]
                == cheap[row["id"]]
                == {
                    "validation": one.accuracy,
                    "train": one.curves["train_accuracy"][-1],
                    "tse": -sum(one.curves["train_loss"]),
                }
            )
        accuracies = [label.accuracy for label in full.values()]
        short = result["settings"]["short"]
        for kind in ("validation", "train", "tse"):
            assert short["labels"][kind] == agreement([cheap[key][kind] for key in full], accuracies, 0)
        spent = sum(one.seconds for one in curves.values())
        assert short["seconds_share"] == pytest.approx(spent / sum(label.seconds for label in full.values()))

    def test_costs_are_exact(self, measured):
        _, _, result = measured
        assert list(result["settings"]) == ["few", "short"]  # cheapest first
        assert result["settings"]["short"]["cost"] == 0.5
        # Half the epochs, 4 batches of 10, and less than half the MACs at half the width.
        assert result["settings"]["few"]["cost"] < 0.5 * 0.4 * 0.5
        few = {key: result["settings"]["few"][key] for key in ("epochs", "train_images", "input_size", "width")}
        assert few == {"epochs": 1, "train_images": 40, "input_size": 8, "width": 0.5}

    def test_the_file_holds_it_all_and_the_run_is_told_of_it(self, measured):
        run, _, result = measured
        assert read_json(run.folder / "fidelity.json") == result
        json.dumps(result, allow_nan=False)
        state = status(run.folder)
        assert {name: state["fidelity"][name] for name in ("planned", "done", "failed", "running")} == {
            "planned": 10, "done": 10, "failed": 0, "running": 0,
        }  # fmt: skip
        assert state["fidelity"]["measured"]["pick"] == result["pick"]
        assert set(state["stages"].values()) == {"done"}  # those of the pipeline are as before
        assert state["generate"]["planned"] == 14

    def test_the_report_tells_of_it(self, again):
        text = report(again).read_text()
        assert 'id="fidelity"' in text
        assert "fidelity-short" in text  # among times

    def test_once_more_repeats_nothing(self, again, measured):
        before = committed(again)
        assert fidelity(again) == measured[2]
        assert committed(again) == before

    def test_the_stages_of_the_pipeline_are_not_touched(self, again, finished):
        assert generate(again)["found"] == 14
        assert fit(again) == finished.results["fit"]

    def test_a_changed_setting_is_refused_by_its_name_and_nothing_is_lost(self, again):
        before = committed(again)
        for key, values in (("few.width", "0.5 -> 0.25"), ("short.train_images", "None -> 50")):
            other = load_run("tiny", [f"fidelity.settings.{key}={values.split()[-1]}"], again.folder.parent)
            with pytest.raises(InputError, match=rf"results of fidelity-.*fidelity\.settings\.{key}: {values}"):
                fidelity(other)
        changed = load_run("tiny", ["generate.recipe.epochs=3"], again.folder.parent)
        with pytest.raises(InputError, match=r"generate\.recipe\.epochs: 2 -> 3"):
            fidelity(changed)
        assert committed(again) == before

    def test_labels_become_features_of_the_exported_table(self, again, tmp_path):
        fidelity(again, setting="few", everything=True)
        assert export_table(again.folder, tmp_path / "out.jsonl") == 14
        rows = read_table(tmp_path / "out.jsonl").rows
        few = {f"fidelity_few_{kind}" for kind in ("validation", "train", "tse")}
        assert all(few <= set(row.features) for row in rows)
        known = {row["id"]: row["labels"] for row in read_json(again.folder / "fidelity.json")["rows"]}
        assert sum("fidelity_short_tse" in row.features for row in rows) == len(known) == 5
        for row in rows:
            if row.id in known:
                named = {
                    f"fidelity_{name}_{kind}": v for name, kinds in known[row.id].items() for kind, v in kinds.items()
                }
                assert row.features == named

    def test_a_damaged_cheap_label_is_trained_again_and_nothing_else(self, again, measured):
        before = committed(again)
        with closing(sqlite3.connect(again.store)) as connection:
            (job,) = connection.execute("SELECT MIN(id) FROM jobs WHERE stage = 'fidelity-few'").fetchone()
            connection.execute("UPDATE results SET accuracy = 1 - accuracy WHERE job = ?", (job,))
            connection.commit()
        result, after = fidelity(again), committed(again)
        assert {number for number in before if after[number] != before[number]} == {job}
        assert [row["labels"]["few"] for row in result["rows"]] == [row["labels"]["few"] for row in measured[2]["rows"]]

    def test_what_is_asked_wrongly(self, again):
        with pytest.raises(InputError, match="Did you mean 'short'"):
            fidelity(again, setting="shrot")
        with pytest.raises(InputError, match="name it with --setting"):
            fidelity(again, everything=True)


def test_a_stop_in_between_is_gone_on_from_and_missing_full_labels_are_trained_as_planned(
    recipe, tmp_path, monkeypatch
):
    run = load_run(recipe, [CHEAP, "fidelity.architectures=3", "generate.architectures=4"], tmp_path / "logs")
    serve = genas.stages.run_jobs

    def until_the_second_setting(store, jobs, *others):
        if jobs[0].stage == "fidelity-few":
            raise KeyboardInterrupt
        serve(store, jobs, *others)

    with monkeypatch.context() as patch:
        patch.setattr(genas.stages, "run_jobs", until_the_second_setting)
        with pytest.raises(KeyboardInterrupt):
            fidelity(run)
    state, before = status(run.folder), committed(run)
    assert (state["generate"]["planned"], state["generate"]["done"]) == (4, 3)
    assert (state["fidelity"]["planned"], state["fidelity"]["done"], state["fidelity"]["measured"]) == (6, 3, None)
    result = fidelity(run)
    after = committed(run)
    assert {job: after[job] for job in before} == before
    assert len(after) == 9
    assert set(result["settings"]) == {"short", "few"}
    assert generate(run)["found"] == 3


def test_failures_are_rows_and_too_few_labels_are_no_tau(recipe, tmp_path, monkeypatch):
    run = load_run(recipe, [CHEAP, "generate.architectures=3"], tmp_path / "logs")
    serve = genas.stages.run_jobs

    def some_diverge(store, jobs, *others):
        for job in jobs if jobs[0].stage == "fidelity-few" else jobs[:1] if jobs[0].stage == "generate" else ():
            store.fail(store.start(job, 1), "diverged", "no")
        serve(store, jobs, *others)

    monkeypatch.setattr(genas.stages, "run_jobs", some_diverge)
    result = fidelity(run)
    assert (result["failed"], result["architectures"], len(result["rows"])) == (4, 2, 2)
    assert (result["settings"].keys(), result["settings"]["short"]["labels"]) == ({"short"}, {})
    assert (result["macs"], result["pick"]) == (None, None)
    state = status(run.folder)["fidelity"]
    assert (state["failed"], {failure["kind"] for failure in state["failures"]}) == (3, {"diverged"})
    assert "diverged" in report(run).read_text()
