"""A study of robustness on a few tiny chains, trained once for all tests here."""

import csv
import json
import shutil
from dataclasses import dataclass

import pytest

import genas.feature_spectra
from analysis.record import read_record
from analysis.report import write_report
from analysis.study import Study, StudyRun, read_rows
from analysis.study_store import study_of_store
from data_gen import read_store
from genas.config import Run, load_run
from genas.feature_spectra import spectra
from genas.fitting import fit
from genas.generating import export_table, generate
from genas.picking import pick
from genas.retraining import retrain
from genas.robust_words import studied as told
from genas.searching import search, take
from genas.studying import study, write_study
from genas.words import retrained
from supernet import InputError, read_table
from supernet.files import bytes_digest, write_json
from tests.genas.test_pipeline import committed
from training.robustness import RobustnessSettings, robustness_metrics

RECIPE = """
data: {source: digits, train_images: 60, validation_images: 40, test_images: 40}
space:
  kind: union
  input_size: 8
  members:
    vgg: {kind: families, family: vgg, depth: [1, 2], channels: [2, 4], kernels: [3], max_pools: 1, stem_channels: 4}
    dense: {kind: families, family: densenet, depth: [1, 2], growths: [2], layers: [1, 2], kernels: [3],
            stem_channels: 4}
generate:
  architectures: 10
  recipe: {epochs: 1, batch_size: 20, learning_rate: 0.1, crop_padding: 1, flip: false}
  robustness: {corruptions: [gaussian_noise, fog], severities: [1, 5], images: 20}
  keep_weights: true
study: {sizes: [{train_images: 20, epochs: 2}]}
workers: {device: cpu, cpu_workers: 1, retries: 0}
fit: {model: ridge, metric: robust_accuracy, splits: 1}
search: {queries: 60, population: 10, parents: 5, keep: 5}
retrain: {seeds: 1, handmade: []}
"""
CELLS = ["gaussian_noise_1", "gaussian_noise_5", "fog_1", "fog_5"]
CONDITIONS = ("clean", "fog_3")


def read_study(run):
    """What the store holds."""
    store = read_store(run.store)
    try:
        return study_of_store(store, run.settings.space)
    finally:
        store.close()


@dataclass(frozen=True)
class Studied:
    """A run that was studied, and what the stages returned."""

    run: Run
    study: dict
    spectra: dict


@pytest.fixture(scope="module")
def chains(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "chains.yml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def studied(chains, tmp_path_factory):
    """Not to be changed: see ``again``."""
    run = load_run(chains, logs=tmp_path_factory.mktemp("studied"))
    return Studied(run, study(run), spectra(run, CONDITIONS, images=20))


@pytest.fixture(scope="module")
def searched(studied, tmp_path_factory):
    """A copy in which the predictor has been fitted and searched. Not to be changed."""
    logs = tmp_path_factory.mktemp("searched")
    shutil.copytree(studied.run.folder, logs / "chains")
    run = load_run("chains", logs=logs)
    fit(run)
    return run, search(run)


def copied(run, tmp_path, *overrides):
    shutil.copytree(run.folder, tmp_path / "logs" / "chains")
    return load_run("chains", list(overrides), tmp_path / "logs")


@pytest.fixture
def again(studied, tmp_path):
    return copied(studied.run, tmp_path)


def other(run, *overrides):
    return load_run("chains", list(overrides), run.folder.parent)


def labels(run, stage="generate"):
    store = read_store(run.store)
    try:
        return list(store.labels(stage))
    finally:
        store.close()


class TestStudy:
    def test_every_architecture_is_trained_on_every_set(self, studied):
        sizes = studied.study["sizes"]
        assert {stage: (one["train_images"], one["trained"], one["failed"]) for stage, one in sizes.items()} == {
            "generate": (60, 10, 0),
            "study-20": (20, 10, 0),
        }
        full, few = (labels(studied.run, stage) for stage in sizes)
        assert [label.key for label in few] == [label.key for label in full]
        assert {label.architecture.choices[0] for label in few} == {0, 1}
        assert studied.study["failed"] == 0

    def test_groups_are_means_of_the_store(self, studied):
        groups = {(one["family"], one["train_images"]): one for one in studied.study["groups"]}
        assert set(groups) == {(family, images) for family in ("dense", "vgg") for images in (20, 60)}
        for stage, images in (("generate", 60), ("study-20", 20)):
            for number, family in enumerate(("vgg", "dense")):
                own = [
                    robustness_metrics(label.metrics)["robust_accuracy"]
                    for label in labels(studied.run, stage)
                    if label.architecture.choices[0] == number
                ]
                assert groups[family, images]["networks"] == len(own) == 5
                assert groups[family, images]["robust"]["mean"] == pytest.approx(sum(own) / 5)

    def test_rows_and_figures_are_files(self, studied):
        folder = studied.run.folder / "study"
        assert str(folder) == studied.study["folder"]
        rows = read_rows(folder / "study.csv")
        assert len(rows.runs) == 20
        assert {run.train_images for run in rows.runs} == {20, 60}
        assert all(sorted(run.cells) == sorted(CELLS) for run in rows.runs)
        assert studied.study["figures"]
        assert all((folder / name).is_file() for name in studied.study["figures"])

    def test_every_network_was_measured_on_the_same_twenty_images(self, studied):
        for stage in ("generate", "study-20"):
            for label in labels(studied.run, stage):
                assert list(label.metrics) == ["accuracy_clean", *(f"accuracy_{cell}" for cell in CELLS)]
                assert all(value * 20 == pytest.approx(round(value * 20)) for value in label.metrics.values())

    def test_a_second_time_trains_nothing(self, again, studied):
        before = committed(again)
        result = study(again)
        assert {stage: (one["found"], one["trained"]) for stage, one in result["sizes"].items()} == {
            "generate": (10, 0),
            "study-20": (10, 0),
        }
        assert committed(again) == before
        assert result["groups"] == studied.study["groups"]

    def test_another_set_adds_to_it(self, again):
        run = other(again, "study.sizes=[20, 30]", "study.sizes.0={train_images: 20, epochs: 2}",
                    "generate.architectures=2")  # fmt: skip
        result = study(run)
        assert {stage: one["trained"] for stage, one in result["sizes"].items()} == {
            "generate": 0, "study-20": 0, "study-30": 2,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("override", "said"),
        [
            ("generate.robustness.images=10", r"generate\.robustness\.images: 20 -> 10"),
            ("generate.robustness.severities=[1]", r"generate\.robustness\.severities: \[1, 5\] -> \[1\]"),
            ("generate.robustness=null", r"generate\.robustness: .* -> None"),
            ("study.sizes=[20]", r"study\.recipe\.epochs: 2 -> 1"),
            ("space.members.vgg.stem_channels=3", r"space\.members\.vgg\.stem_channels: 4 -> 3"),
        ],
    )
    def test_results_are_bound_to_their_settings(self, again, override, said):
        before = committed(again)
        with pytest.raises(InputError, match=said):
            study(other(again, override))
        assert committed(again) == before

    def test_members_in_another_order_would_be_other_networks(self, again, tmp_path):
        lines = RECIPE.splitlines()
        place = next(number for number, line in enumerate(lines) if line.startswith("    vgg:"))
        turned = [*lines[:place], *lines[place + 1 : place + 3], lines[place], *lines[place + 3 :]]
        (tmp_path / "chains.yml").write_text("\n".join(turned))
        run = load_run(tmp_path / "chains.yml", logs=again.folder.parent)
        assert list(run.settings.space.members) == ["dense", "vgg"]
        with pytest.raises(InputError, match=r"space\.members: vgg, dense -> dense, vgg"):
            generate(run)

    @pytest.mark.parametrize(
        ("override", "said"),
        [
            ("study=null", "study: the recipe says nothing of one"),
            ("study.sizes=[60]", "study.sizes: 60 images: expected fewer than the run's 60"),
            ("study.sizes=[20, 61]", "study.sizes: 61 images: expected fewer than the run's 60"),
            ("study.sizes=[9]", "study.sizes: 9 images: expected at least one of each of 10 classes"),
        ],
    )
    def test_what_cannot_be_leaves_no_trace(self, chains, tmp_path, override, said):
        run = load_run(chains, [override], tmp_path / "logs")
        with pytest.raises(InputError, match=said):
            study(run)
        assert not run.folder.exists()

    def test_where_every_training_failed_there_is_nothing_to_draw(self, again):
        assert write_study(again, Study((), "nothing"))["groups"] == []
        assert "means over networks" in told({"groups": [], "failed": 3})
        assert "3 trainings failed" in told({"groups": [], "failed": 3})

    def test_networks_that_get_nothing_right_are_told(self, again):
        runs = [StudyRun(f"a{number}", "a", "vgg", 20, 0, 1, 1, 1, 0.0, {"fog_1": 0.1}) for number in range(2)]
        result = write_study(again, Study(tuple(runs), "made up"))
        (group,) = result["groups"]
        assert (group["clean"]["mean"], group["robust"]["mean"]) == (0.0, pytest.approx(0.1))
        assert "relative" not in group
        assert "0.0%" in told(result)

    def test_a_store_is_read_without_training(self, studied):
        found = read_study(studied.run)
        assert (len(found.runs), found.classes, found.sizes) == (20, 10, [20, 60])


class TestLabels:
    def test_the_label_table_has_what_was_measured(self, studied, tmp_path):
        assert export_table(studied.run.folder, tmp_path / "labels.jsonl") == 10
        for row, label in zip(read_table(tmp_path / "labels.jsonl").rows, labels(studied.run), strict=True):
            expected = robustness_metrics(label.metrics)
            assert {name: row.metrics[name] for name in expected} == pytest.approx(expected)

    def test_fit_metric_chooses_what_is_labelled_next(self, again, monkeypatch):
        import predictor.active

        seen = []
        fitted = predictor.active.fit_surrogate

        def spy(encoder, encoded, values, **options):
            seen.extend(values.tolist())
            return fitted(encoder, encoded, values, **options)

        monkeypatch.setattr(predictor.active, "fit_surrogate", spy)
        run = other(again, "generate.active={first: 10, batch: 1, patience: 9}", "generate.architectures=11")
        result = generate(run)
        assert (result["trained"], result["stopped"]) == (1, "generate.architectures")
        assert seen == pytest.approx(
            [robustness_metrics(label.metrics)["robust_accuracy"] for label in labels(again)[:10]]
        )

    @pytest.mark.parametrize("metric", ["robust", "loss", "seconds"])
    def test_a_metric_that_labels_lack_or_that_should_be_small_cannot_choose(self, again, metric):
        run = other(again, f"fit.metric={metric}", "generate.active={first: 10}", "generate.architectures=11")
        before = len(labels(again))
        with pytest.raises(InputError, match=rf"chosen by fit.metric, '{metric}'; expected one that a training"):
            generate(run)
        assert len(labels(again)) == before


class TestSearch:
    def test_the_predictor_is_of_the_metric(self, searched):
        _, found = searched
        assert found["metric"] == "robust_accuracy"
        assert {one["architecture"].partition(":")[0] for one in found["evolution"]["best"]} <= {"vgg", "dense"}

    def test_an_architecture_is_taken_until_the_next_search(self, searched, tmp_path, genas):
        run = copied(searched[0], tmp_path)
        own = searched[1]["winner"]
        text = next(one["architecture"] for one in searched[1]["evolution"]["best"] if one["key"] != own["key"])
        taken = take(run, text)
        assert taken["winner"]["architecture"] == text
        assert taken["taken"] == taken["winner"]["key"] != own["key"]
        assert taken["evolution"] == searched[1]["evolution"]
        kept = json.loads((run.folder / "winner" / "architecture.json").read_text())
        assert kept["key"] == taken["taken"]
        assert run.settings.space.format(run.settings.space.read(taken["taken"])) == text
        assert search(run)["winner"] == own
        assert json.loads((run.folder / "winner" / "architecture.json").read_text())["key"] == own["key"]
        answer = genas("search", "chains", "--logs", run.folder.parent, "--take", text)
        assert answer.code == 0
        assert f"taken as the winner: {text}" in answer.out
        assert "Next: genas retrain chains" in answer.out

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--take", "vg: sep2x3"), "Did you mean 'vgg'"),
            (("--take", "vgg: sep2x3 sep3x3"), "block 'sep3x3'"),
            (
                ("--take", "vgg: sep4x3 sep4x3", "--set", "limits.depth=4"),
                "it does not keep the limits, depth at most 4",
            ),
            (("--take", "vgg: sep2x3", "--top", "3"), "ask different questions"),
        ],
    )
    def test_what_cannot_be_taken(self, searched, tmp_path, genas, arguments, said):
        run = copied(searched[0], tmp_path)
        answer = genas("search", "chains", "--logs", run.folder.parent, *arguments)
        assert (answer.code, answer.out) == (2, "")
        assert said in " ".join(answer.err.split())
        assert "Traceback" not in answer.err

    def test_the_metric_that_was_searched_for_picks(self, searched, tmp_path):
        run = copied(searched[0], tmp_path)
        top = pick(run, 2)["top"]
        assert top["metric"] == "robust_accuracy"
        values = {label.key: robustness_metrics(label.metrics)["robust_accuracy"] for label in labels(run, "top")}
        assert {one["key"]: one["mean"] for one in top["entries"]} == pytest.approx(values)
        assert values[top["picked"]] == max(values.values())

    def test_retraining_tells_of_robustness_on_test_images(self, searched, tmp_path):
        run = copied(searched[0], tmp_path)
        result = retrain(run)
        for entry in result["roles"].values():
            (robust,), (relative,) = entry["robust_accuracy"], entry["relative_robustness"]
            assert 0 <= robust <= 1
            assert relative >= 0
        winner = result["roles"]["winner"]["robust_accuracy"][0]
        assert set(result["robust_gains"]) == set(result["roles"]) - {"winner"}
        for role, gain in result["robust_gains"].items():
            assert gain["difference"] == pytest.approx(winner - result["roles"][role]["robust_accuracy"][0])
            assert gain["ci95"] is None
        assert "on corrupted test images, relative robustness" in retrained(result)
        best = result["roles"].get("best_generated")
        if best is not None:
            values = {label.key: robustness_metrics(label.metrics)["robust_accuracy"] for label in labels(run)}
            assert values[best["key"]] == max(values.values())


class TestSpectra:
    def test_every_network_under_every_condition(self, studied):
        result = studied.spectra
        assert (result["networks"], result["missing"], result["images"]) == (10, 0, 20)
        assert [(one["family"], one["condition"], one["networks"]) for one in result["means"]] == [
            (family, condition, 5) for family in ("vgg", "dense") for condition in CONDITIONS
        ]
        assert all(0 < one["effective_rank"] <= 1 for one in result["means"])
        with (studied.run.folder / "spectra" / "spectra.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert {row["condition"] for row in rows} == set(CONDITIONS)
        assert len(list((studied.run.folder / "spectra").glob("union-*.json"))) == 10

    def test_a_second_time_makes_nothing_and_another_condition_only_itself(self, again, studied, monkeypatch):
        made = []
        whole = genas.feature_spectra.feature_spectra
        monkeypatch.setattr(genas.feature_spectra, "feature_spectra", lambda *a, **o: made.append(1) or whole(*a, **o))
        assert spectra(again, CONDITIONS, images=20)["means"] == studied.spectra["means"]
        assert not made
        more = spectra(again, (*CONDITIONS, "snow_1"), images=20)
        assert len(made) == 10
        assert [one for one in more["means"] if one["condition"] != "snow_1"] == studied.spectra["means"]
        spectra(again, ("clean",), images=20)
        assert len(made) == 10
        spectra(again, ("clean",), images=19)  # other images are other features
        assert len(made) == 20

    def test_networks_without_weights_are_left_out(self, again):
        paths = sorted((again.folder / "weights").glob("*.safetensors"))
        paths[0].unlink()
        result = spectra(again, CONDITIONS, images=20)
        assert (result["networks"], result["missing"]) == (9, 1)
        for path in paths[1:]:
            path.unlink()
        with pytest.raises(
            InputError, match=r"has kept the weights of none of its 10 networks; .*generate.keep_weights"
        ):
            spectra(again, CONDITIONS, images=20)

    def test_damaged_and_foreign_weights_are_named(self, again):
        path, *others = sorted((again.folder / "weights").glob("*.safetensors"))
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(InputError, match=rf"{path.name}: damaged"):
            spectra(again, CONDITIONS, images=20)
        foreign = next(one.read_bytes() for one in reversed(others) if len(one.read_bytes()) != len(data))
        for content in (foreign, b"no tensors"):
            path.write_bytes(content)
            write_json(path.with_suffix(".json"), {"weights": bytes_digest(content)})
            with pytest.raises(InputError, match="weights of another network, or damaged"):
                spectra(again, CONDITIONS, images=20)

    @pytest.mark.parametrize("text", ["[]", "{"])
    def test_a_damaged_result_is_made_again(self, again, text):
        path = sorted((again.folder / "spectra").glob("union-*.json"))[0]
        before = path.read_text()
        path.write_text(text)
        spectra(again, CONDITIONS, images=20)
        assert path.read_text() == before

    @pytest.mark.parametrize(
        ("conditions", "images", "said"),
        [
            (("fog_6",), 20, "condition 'fog_6': expected clean, or a corruption with its severity"),
            (("fogg_3",), 20, "Did you mean 'fog'"),
            (("fog",), 20, "Did you mean 'fog'"),
            (("clean", "clean"), 20, "expected different conditions, got clean, clean"),
            ((), 20, "got none"),
            (("clean",), 1, "expected at least 2 images"),
        ],
    )
    def test_questions_that_mean_nothing(self, studied, conditions, images, said):
        with pytest.raises(InputError, match=said):
            spectra(studied.run, conditions, images=images)

    def test_a_run_without_labels(self, chains, tmp_path):
        with pytest.raises(InputError, match=r"store\.db"):
            spectra(load_run(chains, logs=tmp_path / "logs"))


class TestReport:
    def test_it_has_the_parts_about_robustness(self, again):
        page = write_report(again.folder).read_text()
        for title in ("Accuracy and depth", "Accuracy under corruption and depth", "Robustness by corruption",
                      "How to read robustness", "Means by family and training images",
                      "Feature spectra: effective rank", "Feature spectra: directions"):  # fmt: skip
            assert title in page, title
        assert "<script" not in page

    def test_a_study_is_no_cheap_training(self, studied):
        record = read_record(studied.run.folder)
        assert not record.cheap
        assert len(record.study.runs) == 20
        assert set(record.spectra) == {"effective_rank", "participation_ratio", "directions_95"}


class TestCommands:
    def test_a_finished_study_is_found(self, again, genas, studied):
        answer = genas("study", "chains", "--logs", again.folder.parent, "--json")
        assert (answer.code, answer.err) == (0, "")
        assert json.loads(answer.out)["groups"] == studied.study["groups"]
        answer = genas("study", "chains", "--logs", again.folder.parent)
        assert "robust accuracy" in answer.out
        assert "Next: genas report chains" in answer.out

    def test_spectra_are_found(self, again, genas):
        line = ("spectra", "chains", "--logs", again.folder.parent, "--images", 20, "--under", "clean,fog_3")
        answer = genas(*line, "--json")
        assert (answer.code, answer.err) == (0, "")
        assert json.loads(answer.out)["networks"] == 10
        assert "fog_3" in genas(*line).out

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("study {recipe}", "the recipe says nothing of one"),
            ("study {chains} --set study.sizes=[60]", "expected fewer than the run's 60 training images"),
            ("study {chains} --set study.sizes=[20,20]", "20 is named twice"),
            ("study {chains} --set generate.robustness.corruptions=[fogg]", "Did you mean 'fog'"),
            ("spectra {chains} --under fog_9", "expected clean, or a corruption"),
            ("spectra {chains} --images 1", "expected at least 2 images"),
            ("spectra {chains}", "store.db"),
            ("import-study missing.csv --out out", "missing.csv: the table cannot be read"),
            ("search {chains} --take x", "genas fit chains"),
        ],
    )
    def test_usage_is_2_with_one_sentence_and_nothing_written(self, line, said, genas, recipe, chains, tmp_path):
        answer = genas(*line.format(recipe=recipe, chains=chains).split(" "))
        assert (answer.code, answer.out) == (2, "")
        assert said in answer.err
        assert "Traceback" not in answer.err
        assert not list((tmp_path / "here").iterdir())

    def test_a_published_study_is_imported(self, genas, tmp_path):
        table = tmp_path / "published.csv"
        table.write_text(published(12))
        out = tmp_path / "out"
        answer = genas("import-study", table, "--out", out, "--json")
        assert (answer.code, answer.err) == (0, "")
        result = json.loads(answer.out)
        assert (result["networks"], result["groups"]) == (12, {"vgg-5000": 12})
        assert all((out / name).is_file() for name in result["files"])
        assert len(read_table(out / "labels-vgg-5000.jsonl").rows) == 12
        answer = genas("import-study", table, "--out", out)
        assert "12 networks in 1 groups" in answer.out
        assert "--metric robust_accuracy" in answer.out

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("0.5,", "1.5,", ":2: normal: expected an accuracy from 0 to 1"),
            ("vgg,", "vg,", ":2: family 'vg' does not exist; known: densenet, resnet, vgg. Did you mean 'vgg'"),
            ("normal", "norml", ":1: column 'normal' is missing"),
            ("S_SepBlock_32_3", "S_SepBlock_31_3", ":2: architecture"),
        ],
    )
    def test_a_published_study_with_a_fault_is_refused_with_its_line(self, genas, tmp_path, old, new, said):
        table = tmp_path / "published.csv"
        table.write_text(published(2).replace(old, new, 1))
        answer = genas("import-study", table, "--out", tmp_path / "out")
        assert (answer.code, answer.out) == (2, "")
        assert f"{table}{said}" in answer.err
        assert not (tmp_path / "out").exists()


def published(count):
    """A table like the published one, with chains of one to ``count`` blocks."""
    names = (*RobustnessSettings().corruptions, "speckle_noise", "gaussian_blur", "spatter", "saturate")
    lines = [",".join(["family", "run", "num_train", "num_depth", "num_conv_layers", "normal", *names, "arch"])]
    for number in range(1, count + 1):
        chain = [["input", 0, 0], *(["S_SepBlock_32_3", at, at] for at in range(number)), ["full", number, number]]
        accuracies = [f"{0.3 + 0.01 * number + 0.001 * at:.4f}" for at in range(len(names))]
        arch = str(chain).replace('"', "'")
        numbers = ["vgg", number, 5000, number + 1, 4 * number, "0.5" if number == 1 else f"{0.5 + 0.01 * number}"]
        lines.append(",".join([*map(str, numbers), *accuracies, f'"{arch}"']))
    return "\n".join(lines) + "\n"
