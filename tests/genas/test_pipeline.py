import json
import shutil
import sqlite3

import numpy as np
import pytest

from data_gen import plan, read_store
from genas.config import load_run
from genas.fitting import fit
from genas.generating import export_table, generate
from genas.merging import merge
from genas.overview import estimate
from genas.pipeline import run_all
from genas.retraining import retrain
from genas.searching import search
from genas.stages import resolve
from genas.standing import status
from supernet import InputError, LabelTable, read_table
from supernet.files import read_json
from supernet.settings import UnavailableError


def committed(run):
    """Every result with the moment in which it was committed."""
    connection = sqlite3.connect(f"{run.store.resolve().as_uri()}?mode=ro", uri=True)
    try:
        return dict(connection.execute("SELECT job, committed FROM results"))
    finally:
        connection.close()


def keys(run, stage="generate"):
    store = read_store(run.store)
    try:
        return [result.job.architecture.key for result in store.results(stage)]
    finally:
        store.close()


def digest_of_labels(run):
    store = read_store(run.store)
    try:
        return sorted((result.job.architecture.key, result.accuracy) for result in store.results("generate"))
    finally:
        store.close()


class TestAFinishedRun:
    def test_everything_is_where_it_belongs(self, finished):
        folder = finished.run.folder
        names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert {
            "config.yml", "meta.json", "store.db", "report.html",
            "predictor/predictor.safetensors", "predictor/predictor.json", "predictor/evaluation.json",
            "winner/architecture.json", "winner/search.json", "winner/retrain.json",
            "winner/model.py", "winner/weights.safetensors",
        } <= names  # fmt: skip
        assert not [name for name in names if name.endswith(".tmp") or "__pycache__" in name]
        assert finished.results["report"].endswith("report.html")

    def test_counts(self, finished):
        result = finished.results["generate"]
        assert (result["planned"], result["found"], result["trained"], result["failed"]) == (14, 0, 14, 0)
        assert 0 <= result["best"] <= 1
        assert result["seconds"] > 0

    def test_exactly_the_plan_was_trained(self, finished):
        settings = finished.run.settings
        planned = plan(settings.space, settings.generate, settings.limits, settings.seed)
        assert keys(finished.run) == [architecture.key for architecture, _, _ in planned]

    def test_nothing_is_ever_over_the_limit(self, finished):
        limit = finished.run.settings.limits["macs"]
        store = read_store(finished.run.store)
        try:
            trained = [result.costs["macs"] for stage in ("generate", "retrain") for result in store.results(stage)]
        finally:
            store.close()
        found = finished.results["search"]
        scored = [entry["macs"] for way in ("evolution", "random") for entry in found[way]["best"]]
        assert max(trained) <= limit
        assert max(scored) <= limit
        assert max(entry["macs"] for entry in finished.results["retrain"]["roles"].values()) <= limit

    def test_the_fit_compares_its_predictor_with_the_baselines_on_held_out_rows(self, finished):
        result = finished.results["fit"]
        assert (result["rows"], result["train_size"], result["test_size"]) == (14, 11, 3)
        assert {"hybrid", "graph", "gp", "trees", "ridge", "mlp", "macs"} == set(result["models"])
        assert result["model"] == "hybrid"
        for model in result["models"].values():
            low, high = model["tau_ci95"]
            assert -1 <= low <= high <= 1
            assert -1 <= model["tau"] <= 1
        assert len({row["id"] for row in result["held_out"]}) == 3
        assert {row["id"] for row in result["held_out"]} <= set(keys(finished.run))

    def test_both_searches_ask_the_predictor_equally_often(self, finished):
        found = finished.results["search"]
        assert found["evolution"]["queries"] == found["random"]["queries"] == 200
        for way in ("evolution", "random"):
            best = [entry["key"] for entry in found[way]["best"]]
            assert len(set(best)) == len(best)
            predicted = [entry["predicted"] for entry in found[way]["best"]]
            assert predicted == sorted(predicted, reverse=True)

    def test_the_winner_is_the_best_of_the_search(self, finished):
        winner = json.loads((finished.run.folder / "winner" / "architecture.json").read_text())
        assert winner["key"] == finished.results["search"]["evolution"]["best"][0]["key"]
        assert winner["key"] == finished.results["retrain"]["roles"]["winner"]["key"]
        space = finished.run.settings.space
        assert space.parse(winner["architecture"]).choices == tuple(winner["choices"])

    def test_the_saved_configuration_knows_the_images(self, finished):
        settings = finished.run.settings
        assert (settings.space.classes, settings.space.input_channels) == (10, 1)
        assert settings.generate.architectures == 14

    def test_status(self, finished):
        result = status(finished.run.folder)
        assert set(result["stages"].values()) == {"done"}
        assert result["generate"] == {"planned": 14, "done": 14, "failed": 0, "running": 0, "failures": []}
        assert result["retrain"]["done"] == result["retrain"]["planned"] == 6
        assert result["best"]["accuracy"] == finished.results["generate"]["best"]
        assert result["tau"]["tau"] == finished.results["fit"]["models"]["hybrid"]["tau"]
        assert result["winner"]["key"] == result["test"]["winner"]["key"]
        assert set(result["seconds"]) == {"generate", "fit", "search", "retrain"}
        json.dumps(result, allow_nan=False)

    def test_the_exported_table_is_the_labels(self, finished, tmp_path):
        out = tmp_path / "labels.jsonl"
        assert export_table(finished.run.folder, out) == 14
        table = read_table(out)
        assert sorted(zip([row.id for row in table.rows], table.metric("accuracy"), strict=True)) == digest_of_labels(
            finished.run
        )
        space = finished.run.settings.space
        for row in table.rows:
            assert row.graph == space.graph(space.parse(row.id.partition("-")[2]))
            assert row.choices == space.parse(row.id.partition("-")[2]).choices


def test_every_stage_finds_its_results_in_a_run_that_was_merged(copy, finished):
    """Those of ``retrain`` count only beside their weights."""
    folder = copy.folder.with_name("merged")
    found = merge(folder, [copy.folder])
    assert (found["added"]["results"], found["added"]["weights"]) == (20, 6)
    merged = load_run("merged", logs=folder.parent)
    results = run_all(merged)
    assert committed(merged) == committed(copy)
    assert results["generate"]["trained"] == 0
    assert results["retrain"]["roles"] == finished.results["retrain"]["roles"]


class TestOnceMore:
    def test_nothing_is_repeated(self, copy, finished):
        before = committed(copy)
        predictor = (copy.folder / "predictor" / "predictor.safetensors").stat().st_mtime_ns
        results = run_all(copy)
        assert committed(copy) == before
        assert (copy.folder / "predictor" / "predictor.safetensors").stat().st_mtime_ns == predictor
        assert (results["generate"]["found"], results["generate"]["trained"]) == (14, 0)
        for stage in ("fit", "search", "retrain"):
            assert results[stage] == finished.results[stage]

    def test_every_stage_alone_finds_its_result(self, copy, finished):
        assert generate(copy)["trained"] == 0
        assert fit(copy) == finished.results["fit"]
        assert search(copy) == finished.results["search"]
        assert retrain(copy) == finished.results["retrain"]

    def test_the_recipe_finds_the_run_too(self, copy, recipe):
        again = load_run(recipe, logs=copy.folder.parent)
        assert again.folder == copy.folder
        assert generate(again)["found"] == 14

    def test_a_result_that_is_gone_is_made_again(self, copy, finished):
        shutil.rmtree(copy.folder / "predictor")
        (copy.folder / "winner" / "architecture.json").unlink()
        again, first = fit(copy), finished.results["fit"]
        assert {**again, "seconds": 0} == {**first, "seconds": 0}
        found, first = search(copy), finished.results["search"]
        assert (found["evolution"], found["random"]) == (first["evolution"], first["random"])
        assert (copy.folder / "winner" / "architecture.json").is_file()

    def test_what_should_be_low_is_not_searched_for_its_highest(self, copy):
        run = load_run(copy.name, ["fit.metric=loss"], copy.folder.parent)
        fit(run)
        with pytest.raises(InputError, match="'loss', of which less is better"):
            search(run)

    def test_other_limits_for_the_search_alone(self, copy, finished):
        before = committed(copy)
        limit = finished.results["search"]["evolution"]["best"][0]["macs"] - 1
        other = load_run("tiny", [f"limits.macs={limit}"], copy.folder.parent)
        found = search(other)
        assert max(entry["macs"] for entry in found["evolution"]["best"] + found["random"]["best"]) <= limit
        assert fit(other) == finished.results["fit"]
        assert committed(copy) == before
        # What was retrained is not this winner, and says so.
        now = status(copy.folder)
        assert now["winner"]["key"] == found["evolution"]["best"][0]["key"] != finished.results["retrain"]["predicted"]
        assert now["test"] is None


@pytest.mark.parametrize(
    ("override", "key", "values"),
    [
        ("generate.recipe.epochs=3", "generate.recipe.epochs", "2 -> 3"),
        ("seed=1", "seed", "0 -> 1"),
        ("data.split_seed=1", "data.split_seed", "0 -> 1"),
        ("limits.macs=150000", "limits.macs", "200000 -> 150000"),
        ("space.head_channels=32", "space.head_channels", "64 -> 32"),
    ],
)
def test_labels_of_two_kinds_never_mix(override, key, values, copy):
    before = committed(copy)
    other = load_run("tiny", [override], copy.folder.parent)
    with pytest.raises(InputError, match=f"run 'tiny'.*{key}: {values}"):
        generate(other)
    assert committed(copy) == before
    assert load_run("tiny", logs=copy.folder.parent) == copy
    if key != "limits.macs":  # one fit answers many limits
        with pytest.raises(InputError, match=f"{key}: {values}"):
            fit(other)


def test_settings_bind_a_run_only_once_there_is_a_result(recipe, tmp_path, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    logs = tmp_path / "logs"
    first = load_run(recipe, ["seed=5"], logs)
    with monkeypatch.context() as patch:
        patch.setattr("genas.stages.run_jobs", stopped)
        with pytest.raises(KeyboardInterrupt):
            generate(first)
    run = load_run(recipe, ["generate.architectures=1", "generate.recipe.epochs=1"], logs)
    assert generate(run)["planned"] == 1
    store = read_store(run.store)
    assert [job.seed for job in store.jobs("generate")] == [0]
    store.close()


def test_a_run_that_could_not_be_fitted_is_refused_before_it_trains(recipe, tmp_path):
    run = load_run(recipe, ["generate.architectures=9"], tmp_path / "logs")
    with pytest.raises(InputError, match="expected at least 10"):
        run_all(run)
    assert not run.folder.exists()


def test_more_architectures_extend_a_run(copy):
    before, labels = committed(copy), digest_of_labels(copy)
    larger = load_run("tiny", ["generate.architectures=16"], copy.folder.parent)
    result = generate(larger)
    assert (result["planned"], result["found"], result["trained"]) == (16, 14, 2)
    after = committed(copy)
    assert {job: after[job] for job in before} == before
    assert set(labels) < set(digest_of_labels(copy))
    assert load_run("tiny", logs=copy.folder.parent).settings.generate.architectures == 16
    # The predictor learns of them.
    assert fit(larger)["rows"] == 16


def test_the_test_split_is_opened_by_retrain_alone(recipe, tmp_path):
    """With other images than any other test, whose test split is taken away before the first training."""
    run = load_run(recipe, ["data.split_seed=11", "generate.architectures=10", "retrain.seeds=1"], tmp_path / "logs")
    _, info = resolve(run)
    for path in info.folder.glob("test_*"):
        path.rename(path.with_name(f"away_{path.name}"))
    assert generate(run)["trained"] == 10
    fit(run)
    search(run)
    assert not list(info.folder.glob("test_*"))
    retrain(run)  # wants it, and makes it again
    assert len(list(info.folder.glob("test_*"))) == 2
    assert status(run.folder)["stages"]["retrain"] == "done"


class TestBeforeAnything:
    def test_stages_name_the_one_before(self, recipe, tmp_path):
        run = load_run(recipe, logs=tmp_path / "logs")
        with pytest.raises(InputError, match="run generate first"):
            fit(run)
        with pytest.raises(InputError, match="genas fit tiny"):
            search(run)
        with pytest.raises(InputError, match="genas search tiny"):
            retrain(run)
        with pytest.raises(InputError, match="run generate first"):
            export_table(run.folder, tmp_path / "out.jsonl")
        assert not run.folder.exists()
        assert not (tmp_path / "out.jsonl").exists()

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("limits.macs=10", "below the cheapest architecture"),
            ("data.source=digit", "Did you mean 'digits'"),
            ("data.source=npz:missing.npz", "no such file"),
            ("space.classes=7", "space.classes is 7, but digits has 10"),
            ("space.input_channels=3", "space.input_channels is 3, but digits has 1"),
            ("generate.architectures=4000", "found 3969 distinct"),  # 63 choices for each of two layers
        ],
    )
    def test_a_plan_that_cannot_be_leaves_no_trace(self, override, message, recipe, tmp_path):
        with pytest.raises(InputError, match=message):
            generate(load_run(recipe, ["limits.macs=1e9", override], tmp_path / "logs"))
        assert not (tmp_path / "logs").exists()

    def test_the_estimate_writes_nothing(self, recipe, tmp_path):
        result = estimate(load_run(recipe, logs=tmp_path / "logs"))
        assert (result["trainings"], result["retrainings"], result["workers"]) == (14, 6, 1)
        assert result["images"] == {"train": 100, "validation": 60, "test": 60}
        assert result["generate_seconds"] == pytest.approx(14 * result["seconds_each"])
        assert not (tmp_path / "logs").exists()

    def test_the_estimate_of_a_space_with_few_architectures(self, recipe, tmp_path):
        overrides = ["space.layers=[{channels: 8}]", "space.operations=[skip, sep_conv_3]", "generate.architectures=3"]
        assert estimate(load_run(recipe, overrides, tmp_path / "logs"))["trainings"] == 3


class TestFittingATable:
    def test_a_table_instead_of_the_labels(self, finished, recipe, tmp_path):
        """Fit and search need nothing but a table and a recipe that says what the space is."""
        out = tmp_path / "labels.jsonl"
        export_table(finished.run.folder, out)
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        for line, (first, second) in zip(lines, [(0.1, 0.2), (0.3, 0.4), (0.5, 0.6)], strict=False):
            line["metrics"] |= {"accuracy_seed0": first, "accuracy_seed1": second}
        out.write_text("".join(json.dumps(line) + "\n" for line in lines))
        run = load_run(recipe, ["name=from_table"], tmp_path / "logs")
        result = fit(run, read_table(out))
        assert result["models"] == finished.results["fit"]["models"]
        noise = result["label_noise"]
        assert (noise["architectures"], noise["tau"]) == (3, pytest.approx(1))
        assert noise["ceiling"] == pytest.approx(1)
        assert noise["standard_deviation"] == pytest.approx(0.1 / np.sqrt(2))  # of one label, not of a difference
        assert search(run)["evolution"] == finished.results["search"]["evolution"]
        assert not run.store.exists()

    def test_too_few_rows_and_unknown_metrics(self, finished, recipe, tmp_path):
        out = tmp_path / "labels.jsonl"
        export_table(finished.run.folder, out)
        table = read_table(out)
        run = load_run(recipe, logs=tmp_path / "logs")
        with pytest.raises(InputError, match="9 labelled architectures; expected at least 10"):
            fit(run, table.subset(np.arange(9)))
        with pytest.raises(InputError, match="0 labelled"):
            fit(run, LabelTable(()))
        other = load_run(recipe, ["fit.metric=acuracy"], tmp_path / "logs")
        with pytest.raises(InputError, match="Did you mean 'accuracy'"):
            fit(other, table)
        assert not run.folder.exists()


class TestFiles:
    def test_a_damaged_result_is_named(self, copy):
        path = copy.folder / "predictor" / "evaluation.json"
        for text in ('{"rows": 1', "[]", '"text"'):
            path.write_text(text)
            with pytest.raises(InputError, match=r"evaluation\.json.*delete it and run the stage again"):
                search(copy)

    def test_json(self, tmp_path):
        assert read_json(tmp_path / "missing.json") is None
        (tmp_path / "file.json").write_text('{"a": 1.5}')
        assert read_json(tmp_path / "file.json") == {"a": 1.5}

    def test_a_table_is_written_whole_or_not_at_all(self, finished, tmp_path):
        out = tmp_path / "labels.jsonl"
        out.mkdir()
        with pytest.raises(UnavailableError, match="cannot write"):
            export_table(finished.run.folder, out)
        assert [path.name for path in tmp_path.iterdir()] == ["labels.jsonl"]


def test_a_run_in_another_space(recipe, tmp_path):
    """Every stage reads the graph alone, so a space needs nothing but its graphs."""
    text = recipe.read_text().replace("space: {", "old: {")
    lines = [line for line in text.splitlines() if not line.startswith(("old", "limits"))]
    lines.append("space: {kind: davidnet, input_size: 8, stem_channels: 8, widths: [0.0625, 0.125], ghost_images: 4}")
    recipe.write_text("\n".join(lines))
    overrides = ["generate.architectures=10", "retrain.seeds=1", "generate.recipe.epochs=1", "limits.macs=400_000"]
    run = load_run(recipe, overrides, tmp_path / "logs")
    results = run_all(run)
    assert (results["generate"]["trained"], results["retrain"]["failed"]) == (10, 0)
    saved = load_run("tiny", logs=tmp_path / "logs").settings.space
    assert (saved.kind, saved.classes, saved.input_channels) == ("davidnet", 10, 1)
    assert saved.costs(saved.parse(results["search"]["evolution"]["best"][0]["architecture"]).row())["macs"] <= 400_000
    assert export_table(run.folder, tmp_path / "labels.jsonl") == 10
    assert {"conv", "batch_norm", "celu", "global_max"} <= {
        node.op for graph in read_table(tmp_path / "labels.jsonl").graphs for node in graph.nodes
    }
    assert "class GhostBatchNorm" in (run.folder / "winner" / "model.py").read_text()
