import csv
import io
import json
import os
import re
import stat
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

from analysis import write_report
from analysis.record import Gain, read_record
from analysis.sections import quartiles
from analysis.words import gain, limits, percent
from data_gen.store import open_store, read_store
from supernet import InputError
from supernet.files import write_proved_text
from supernet.settings import UnavailableError

EVIL = "<script>alert('&\"')</script>"
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Tags, text by section and the contents of each ``<pre>``; complains about tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.sections, self.data, self.ids = [], [], {"": ""}, {}, []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        named = dict(attributes).get("id")
        if named:
            self.ids.append(named)
        if tag == "section":
            self.sections[named] = ""
        if tag == "pre":
            self.data.setdefault(list(self.sections)[-1], []).append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if "style" in self.open or "svg" in self.open:
            return
        self.sections[list(self.sections)[-1]] += text
        if "pre" in self.open:
            self.data[list(self.sections)[-1]][-1] += text

    def rows(self, section, number=0):
        return list(csv.DictReader(io.StringIO(self.data[section][number])))


def report(run):
    path = write_report(run.folder)
    assert path == run.folder / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    page.html = text
    page.words = {key: re.sub(r"\s+", " ", value) for key, value in page.sections.items()}
    return page


@pytest.fixture(scope="module")
def full(make_module_run):
    run = make_module_run().upto("retrain")
    return run, report(run)


def test_the_page_is_self_contained_and_runs_nothing(full):
    _, page = full
    names = {tag for tag, _ in page.tags}
    assert names.isdisjoint({"script", "link", "img", "iframe", "object", "base", "form", "image", "foreignObject"})
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name == "src" for name in attributes)
        assert all(value.startswith("#") for name, value in attributes.items() if name in ("href", "xlink:href"))
    assert "@import" not in page.html
    assert set(re.findall(r"url\((.)", page.html)) <= {"#"}
    assert set(re.findall(r"https?://[^\s\"<]+", page.html)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert len(page.ids) == len(set(page.ids))
    assert "prefers-color-scheme: dark" in page.html
    assert not re.search(r"#(0[0-6])\1\1", page.html)  # every colour of the plots follows the page


def test_a_whole_run_has_every_part_in_order_and_nothing_missing(full):
    _, page = full
    assert list(page.sections)[1:] == [
        "predicted", "accuracy", "search", "winner", "retrain", "curves", "failures", "time",
    ]  # fmt: skip
    assert sum(tag == "svg" for tag, _ in page.tags) == 5
    assert "Next:" not in page.html
    assert 'class="missing"' not in page.html


def test_the_summary_says_what_was_measured_in_honest_words(full):
    run, page = full
    words = page.words[""]
    assert "Test accuracy 96.0 % ± 0.5 (standard deviation of 3 seeds)" in words
    assert f"{run.retrained['roles']['winner']['macs'] / 1e6:.3f} million MACs" in words
    assert "limit: MACs at most 0.75 million" in words
    assert "+0.4 percentage points (95 % CI −0.9 to +1.6): no difference that these seeds can show" in words
    assert "+5.5 percentage points (95 % CI +4.4 to +6.6): better than seeds alone explain" in words
    assert "Kendall tau 0.73 (95 % CI 0.20 to 1.00) on 6 held-out architectures" in words
    assert "4 architectures trained twice: one training has a standard deviation of 1.2 percentage points" in words


def test_the_plotted_data_are_the_runs_own_as_fractions(full):
    run, page = full
    held = page.rows("predicted")
    assert [(row["id"], float(row["measured_accuracy"])) for row in held] == [
        (row["id"], row["measured"]) for row in run.evaluation["held_out"]
    ]
    generated = {row["architecture"]: row for row in page.rows("accuracy")}
    for architecture in run.sampled:
        labels = run.accuracy[architecture.key][: 2 if architecture in run.sampled[:4] else 1]
        row = generated[architecture.key]
        assert float(row["validation_accuracy"]) == pytest.approx(np.mean(labels))
        assert int(row["trainings"]) == len(labels)
        assert int(row["macs"]) <= 750_000
    history = [[int(row["queries"]), float(row["best_predicted_accuracy"])] for row in page.rows("search")]
    assert history == run.searched["evolution"]["history"] + run.searched["random"]["history"]
    measured = [float(row["test_accuracy"]) for row in page.rows("retrain") if row["role"] == "winner"]
    assert measured == run.retrained["roles"]["winner"]["test_accuracies"]
    assert len(page.rows("winner", 1)) == len(json.loads((run.folder / "winner/architecture.json").read_text())["graph"]["edges"])  # fmt: skip  # noqa: E501
    assert yaml.safe_load(page.data["time"][0]) == run.config


def test_plots_show_percent_units_and_the_limit(full):
    _, page = full
    for text in (
        "measured validation accuracy (%)",
        "MACs per image (million)",
        "validation accuracy (%)",
        "predictor queries (distinct architectures scored)",
        "limit 0.75",
        "winner, predicted",
    ):
        assert f">{text}</text>" in page.html
    assert "one MAC is two FLOPs" in page.words["accuracy"]
    assert "The test split was read here and nowhere before" in page.words["retrain"]
    assert "standard error of about 1.0 percentage points" in page.words["retrain"]


@pytest.mark.parametrize(
    ("stage", "command", "missing"),
    [
        ("generate", "genas fit trial", {"predicted", "search", "winner", "retrain"}),
        ("fit", "genas search trial", {"search", "winner", "retrain"}),
        ("search", "genas retrain trial", {"retrain"}),
    ],
)
def test_a_run_in_between_says_what_is_missing_and_what_comes_next(make_run, stage, command, missing):
    page = report(make_run().upto(stage))
    assert {key for key, text in page.words.items() if key and f"Next: {command}" in text} == missing
    assert f"This run is not finished. Next: {command}" in page.words[""]
    if stage == "search":
        assert "Predicted accuracy 95.1 %, not trained yet" in page.words[""]


def test_generation_cut_short_counts_what_is_done(make_run):
    run = make_run()
    run.generate(ended=10, failing={3: "crash", 5: "oom"})
    page = report(run)
    assert "8 of 28 trainings done, 2 failed" in page.words[""]
    assert "Next: genas generate trial" in page.words[""]
    failures = page.rows("failures")
    assert [(row["kind"], row["tried again"]) for row in failures] == [("crash", "yes"), ("oom", "yes")]


def test_where_it_was_trained_is_told_where_it_is_known(make_run):
    run = make_run()
    run.generate(nodes=("", f"host-a {EVIL}", "host-b"), failing={1: "oom", 2: "interrupted", 4: "crash", 7: "oom"})
    page = report(run)
    assert list(page.words)[-3:] == ["failures", "nodes", "time"]
    assert [
        (row["node"], *(int(row[name]) for name in ("done", "crash", "oom", "interrupted")))
        for row in page.rows("nodes")
    ] == [("", 10, 0, 0, 0), (f"host-a {EVIL}", 6, 1, 2, 0), ("host-b", 8, 0, 0, 1)]
    with closing(read_store(run.folder / "store.db")) as store:
        assert [float(row["seconds"]) for row in page.rows("nodes")] == [node.seconds for node in store.nodes()]
    assert "nodetrainings donecrashoominterruptedtraining time not known10000" in page.words["nodes"]
    assert "script" not in {tag for tag, _ in page.tags}


def test_nothing_but_failures(make_run):
    run = make_run()
    run.generate(failing=dict.fromkeys(range(28), "diverged"))
    page = report(run)
    assert "Every training failed" in page.words[""]
    assert "Next:" not in page.html
    assert len(page.rows("failures")) == 28


def test_nothing_done_yet_without_configuration(make_run):
    run = make_run()
    run.generate(ended=0)
    for name in ("config.yml", "meta.json"):
        (run.folder / name).unlink()
    page = report(run)
    assert "0 of 28 trainings done" in page.words[""]
    assert "Images: not recorded · limit: not recorded" in page.words[""]


def test_a_predictor_of_another_label_table_needs_no_store(make_run):
    run = make_run().upto("search")
    for path in run.folder.glob("store.db*"):
        path.unlink()
    evaluation = {**run.evaluation, "metric": "late$ncy <b>", "label_noise": None}
    evaluation["held_out"] = [{"id": EVIL, "measured": 31.0, "predicted": 30.5}]
    (run.folder / "predictor/evaluation.json").write_text(json.dumps(evaluation))
    page = report(run)
    assert "from another label table" in page.words["predicted"]
    assert ">measured late$ncy &lt;b&gt;</text>" in page.html
    assert page.rows("predicted")[0]["id"] == EVIL
    assert "script" not in {tag for tag, _ in page.tags}
    assert "not measured: fewer than 3 architectures" in page.words[""].lower()


def test_a_predictor_of_scores_is_said_to_be_one_of_a_proxy(make_run):
    run = make_run().upto("fit")
    evaluation = {**run.evaluation, "metric": "zero_cost_proxy", "proxy": {"metrics": ["params"]}, "rows": 300}
    (run.folder / "predictor/evaluation.json").write_text(json.dumps(evaluation))
    page = report(run)
    words = {key: text.replace("\xa0", " ") for key, text in page.words.items()}
    assert "Kendall tau with a training-free proxy, not accuracy, 0.73" in words[""]
    assert "the one that the proxy prefers" in words[""]
    assert "learnt from the training-free scores of 300 architectures: a proxy, not accuracy" in words[""]
    assert "Next: genas search trial" in words[""]  # not outdated by labels that it never saw
    assert "Label noise" not in words[""]
    assert "from training-free scores" in words["predicted"]
    assert "this run's labels" not in words["predicted"]


def test_text_from_elsewhere_is_escaped(make_run):
    run = make_run(name="a<img src=x onerror=alert(1)>", source=EVIL)
    run.generate(failing={1: "crash"}, message=f"RuntimeError: {EVIL}")
    page = report(run)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img"})
    assert page.rows("failures")[0]["message"] == f"RuntimeError: {EVIL}"
    assert EVIL in page.words[""]
    assert "genas generate 'a<img src=x onerror=alert(1)>'" in page.words[""]


def test_new_labels_make_the_predictor_outdated(make_run):
    run = make_run().upto("search")
    run.evaluation["rows"] -= 2
    (run.folder / "predictor/evaluation.json").write_text(json.dumps(run.evaluation))
    page = report(run)
    assert "learnt from 22 labels, and there are 24 now" in page.words[""]
    assert "Next: genas fit trial" in page.words[""]


def test_another_winner_makes_the_retraining_outdated(make_run):
    run = make_run().upto("retrain")
    run.winner = run.sampled[1]
    run.search()
    assert "an earlier winner was trained" in report(run).words[""]


def test_retraining_with_failures_and_one_seed(make_run):
    run = make_run().upto("retrain")
    roles = run.retrained["roles"]
    del roles["best_generated"]
    roles["winner"] |= {"test_accuracies": [0.9], "mean": 0.9, "standard_deviation": None}
    roles["random_same_macs"] |= {"test_accuracies": [], "mean": None, "standard_deviation": None}
    (run.folder / "winner/retrain.json").write_text(json.dumps({**run.retrained, "gains": {}, "model": None}))
    page = report(run)
    assert "Test accuracy 90.0 % (one training, so no spread)" in page.words[""]
    assert "Not known: a training is missing" in page.words[""]
    assert "best of the generated architectures" in page.words[""]
    assert "Next: genas retrain trial" in page.words[""]


@pytest.mark.parametrize(
    ("limited", "axis", "line"),
    [
        ({"conv_macs": 700_000}, "convolution MACs per image (million)", True),
        ({"params": 600_000}, "MACs per image (million)", False),
        ({}, "MACs per image (million)", False),
    ],
)
def test_the_axis_follows_the_limit(make_run, limited, axis, line):
    run = make_run()
    run.generate()
    write_proved_text(run.folder / "config.yml", "a test", yaml.safe_dump({**run.config, "limits": limited}))
    page = report(run)
    assert f">{axis}</text>" in page.html
    assert (">limit " in page.html) == line
    assert ("Not shown as a line: parameters at most 600,000" in page.words["accuracy"]) == ("params" in limited)


def test_one_label_is_enough_for_a_plot(make_run):
    run = make_run()
    run.generate(ended=1)
    assert "1 generated architecture," in report(run).words["accuracy"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("predictor/evaluation.json", "{"),
        ("predictor/evaluation.json", '{"metric": "accuracy"}'),
        ("winner/search.json", "[]"),
        ("fidelity.json", '{"architectures": 3}'),
        ("winner/architecture.json", '{"key": 3}'),
        ("winner/retrain.json", '{"test_images": NaN}'),
        ("meta.json", "\udcff"),
        ("config.yml", "a: [1"),
        ("config.yml", "- 1"),
        ("store.db", "not a store"),
    ],
)
def test_a_damaged_file_is_named_and_the_old_report_stays(make_run, name, content):
    run = make_run().upto("search")
    (run.folder / "report.html").write_text("old")
    for path in run.folder.glob("store.db-*"):
        path.unlink()
    (run.folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=re.escape(Path(name).name)):
        write_report(run.folder)
    assert (run.folder / "report.html").read_text() == "old"
    assert not list(run.folder.glob(".report*"))


def test_no_run_here(tmp_path):
    with pytest.raises(InputError, match="no run here"):
        write_report(tmp_path)


def test_a_folder_that_cannot_be_written(make_run):
    run = make_run().upto("generate")
    (run.folder / "report.html").mkdir()
    (run.folder / "report.html" / "a").touch()
    with pytest.raises(UnavailableError, match=r"report\.html"):
        write_report(run.folder)
    assert not list(run.folder.glob(".report*"))


def test_a_store_that_is_being_written_can_be_read(make_run):
    run = make_run()
    run.generate(ended=5)
    store = open_store(run.folder / "store.db")
    job = store.jobs("generate")[6]
    store.start(job, os.getpid())
    page = report(run)
    store.close()
    assert "5 of 28 trainings done, 1 running or cut off" in page.words[""]


def test_reading_changes_nothing(make_run):
    run = make_run().upto("retrain")
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file() and path.suffix != ".db-shm"}
    record = read_record(run.folder)
    assert len(record.generated) == 24
    write_report(run.folder)
    after = {path: path.read_bytes() for path in before if path.exists()}
    assert {path for path in before if before[path] != after.get(path)} <= set(run.folder.glob("store.db-*"))
    assert stat.S_ISREG((run.folder / "report.html").stat().st_mode)


def test_quartiles_by_epoch():
    assert quartiles({2: [0.5], 1: [0.1, 0.2, 0.3, 0.4, 0.5]}) == [
        (1, 5, pytest.approx(0.2), pytest.approx(0.3), pytest.approx(0.4)),
        (2, 1, 0.5, 0.5, 0.5),
    ]


@pytest.mark.parametrize(
    ("difference", "ci95", "says"),
    [
        (0.02, (0.01, 0.03), "better than seeds alone explain"),
        (-0.02, (-0.03, -0.01), "worse than seeds alone explain"),
        (0.02, (-0.01, 0.05), "no difference that these seeds can show"),
        (0.02, (0.0, 0.04), "no difference that these seeds can show"),
        (0.0, (0.0, 0.0), "the interval says nothing"),
        (0.02, None, "there is no interval"),
    ],
)
def test_a_gain_claims_no_more_than_its_interval(difference, ci95, says):
    assert says in gain(Gain(difference=difference, ci95=ci95))


def test_numbers_in_words():
    assert percent(0.93214) == "93.2\u00a0%"
    assert limits({"conv_macs": 15_000_000, "params": 10**6}) == (
        "convolution MACs at most 15\u00a0million, parameters at most 1,000,000"
    )
    assert limits({}) == "no limit"


@pytest.mark.parametrize("value", ["!!bool x", "!!int ''", "!!timestamp x", "!!float x", "*x"])
def test_a_configuration_of_format_1_with_a_tag_that_does_not_fit_is_refused(value, tmp_path):
    (tmp_path / "config.yml").write_text(f"# The resolved configuration of the run trial.\nseed: {value}\n")
    with pytest.raises(InputError, match=r"config\.yml: damaged or unreadable"):
        read_record(tmp_path)


def test_very_many_points_are_an_image_and_very_many_rows_are_cut(make_run, monkeypatch):
    monkeypatch.setattr("analysis.figures._MOST_MARKS", 10)
    monkeypatch.setattr("analysis.parts._MOST_ROWS", 5)
    run = make_run()
    run.generate()
    page = report(run)
    assert page.html.count("data:image/png;base64,") == 1
    assert "img-src data:" in page.html  # or a browser would not show it
    assert "the first 5 of 24 rows, `genas export-table` writes all" in page.html


def test_of_very_many_trainings_the_curves_of_some_are_read(make_run, monkeypatch):
    run = make_run()
    run.generate()
    assert "over 28 trainings of 24 generated architectures" in report(run).words["curves"]
    monkeypatch.setattr("analysis.record.MOST_CURVES", 10)
    record = read_record(run.folder)
    assert len(record.generate.curves) == 10
    assert len(record.generate.results) == 28
    page = report(run)
    assert "over 10 evenly spaced of 28 trainings of 24 generated architectures" in page.words["curves"]


def cheap(run):
    """Cheap trainings of a run, one of which failed, and what was measured."""
    run._train("fidelity-short", [(one, 2, "cheap") for one in run.sampled[:6]], failing={5: "diverged"})
    labels = {"validation": (0.6, 0.3, 0.8), "train": (0.75, 0.5, 0.9), "tse": (-0.2, -0.5, 0.1)}
    entry = {
        "epochs": 1, "train_images": 50, "input_size": 8, "width": 0.5, "architectures": 5, "cost": 0.125,
        "seconds_share": 0.2, "seconds": 1.5,
        "labels": {kind: {"tau": tau, "tau_ci95": [low, high]} for kind, (tau, low, high) in labels.items()},
    }  # fmt: skip
    content = {
        "architectures": 6, "threshold": 0.7, "macs": {"tau": 0.1, "tau_ci95": [-0.2, 0.4]},
        "settings": {"short": entry, "half": {**entry, "cost": 0.5}, "few": {**entry, "labels": {}}},
        "pick": {"setting": "short", "label": "train", "cost": 0.125, "tau": 0.75, "tau_ci95": [0.5, 0.9]},
    }  # fmt: skip
    (run.folder / "fidelity.json").write_text(json.dumps(content))
    return content


def test_cheap_labels_have_a_part_of_their_own(make_run):
    run = make_run().upto("retrain")
    content = cheap(run)
    page = report(run)
    assert list(page.sections)[2:5] == ["accuracy", "fidelity", "search"]
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"#(0[0-6])\1\1", page.html)
    rows = page.rows("fidelity")
    assert [(row["setting"], row["label"], float(row["tau"])) for row in rows] == [
        (name, kind, label["tau"])
        for name in ("short", "half")
        for kind, label in content["settings"][name]["labels"].items()
    ]  # fmt: skip
    for text in ("cost (% of the full recipe's epochs x images x MACs)", "Kendall tau against full labels", "pick"):
        assert f">{text}</text>" in page.html
    said = page.words["fidelity"]
    assert "short, training accuracy, ranks with Kendall tau 0.75 [0.50, 0.90] at 12.5 % of the cost" in said
    assert "6 architectures do not show that it ranks so well" in said
    assert "Cheap labels" in page.words[""]
    assert page.rows("failures")[0]["stage"] == "fidelity-short"
    assert "fidelity-short" in page.words["time"]


def test_no_cheap_label_ranks_well_enough(make_run):
    run = make_run().upto("generate")
    content = cheap(run)
    for changes in ({"settings": {}}, {"macs": None}):
        (run.folder / "fidelity.json").write_text(json.dumps({**content, "pick": None, **changes}))
        page = report(run)
        assert f"none of {6 * ('macs' in changes)} cheap labels reaches Kendall tau 0.70" in page.words["fidelity"]
