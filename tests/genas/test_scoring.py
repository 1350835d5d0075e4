"""Training-free scores of a run: looked at, kept as features, fitted instead of labels."""

import csv
import json
from pathlib import Path

import pytest

import genas as package
from data_gen import run_lock
from genas import scoring
from genas.config import load_run
from genas.fitting import fit, fit_zero_cost
from genas.generating import export_table
from genas.pipeline import run_all
from genas.scoring import PROXY, proxy_table, score, score_features, write_scores
from genas.searching import search
from genas.words import fitted, scored
from predictor import kendall_tau
from predictor.zero_cost import BATCH, FLOOR
from supernet import InputError, read_table
from supernet.files import read_json, write_json
from supernet.spaces import make_space

METRICS = ("synflow", "hook_logdet")
QUICK = ("--set", "fit.predictor.members=1", "--set", "fit.predictor.epochs=2")


def test_a_sample_is_scored_within_the_limits(recipe, tmp_path):
    run = load_run(recipe, logs=tmp_path)
    seen = []
    result = score(run, count=4, metrics=METRICS, progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert result["kept"] is None
    assert not run.folder.exists()
    entries = result["architectures"]
    assert len({entry["key"] for entry in entries}) == 4
    combined = [entry["combined"] for entry in entries]
    assert combined == sorted(combined, reverse=True)
    space = make_space(result["space"])
    for entry in entries:
        assert space.costs(space.parse(entry["architecture"]).row())["macs"][0] <= 200_000
        assert set(entry["scores"]) == set(METRICS)
    assert result["invalid"] == dict.fromkeys(METRICS, 0)
    again = score(run, count=4, metrics=METRICS)
    assert [entry["scores"] for entry in again["architectures"]] == [entry["scores"] for entry in entries]
    other = score(run, count=4, metrics=METRICS, seed=9)
    assert {entry["key"] for entry in other["architectures"]} == {entry["key"] for entry in entries}
    assert [entry["scores"] for entry in other["architectures"]] != [entry["scores"] for entry in entries]


def test_named_architectures_are_scored_as_in_any_company(recipe, tmp_path):
    run = load_run(recipe, logs=tmp_path)
    result = score(run, count=3, metrics=METRICS)
    one = result["architectures"][1]
    alone = score(run, texts=[one["architecture"], one["architecture"]], metrics=METRICS)
    assert [entry["scores"] for entry in alone["architectures"]] == [one["scores"]]


def test_what_is_asked_wrongly_is_named(recipe, tmp_path):
    run = load_run(recipe, logs=tmp_path)
    with pytest.raises(InputError, match=r"'sinflow' is unknown.*synflow"):
        score(run, metrics=["sinflow"])
    with pytest.raises(InputError, match="count is 0; expected at least 1"):
        score(run, count=0)
    with pytest.raises(InputError, match="count or architectures, got both"):
        score(run, count=2, texts=["000"])
    for seed in (-1, 2**31, 10**23):
        with pytest.raises(InputError, match=rf"seed is {seed}; expected 0 or more and less than 2,147,483,648"):
            score(run, count=1, metrics=["params"], seed=seed)
    assert score(run, count=1, metrics=["params"], seed=2**31 - 1)["seed"] == 2**31 - 1
    with pytest.raises(InputError, match="architecture"):
        score(run, texts=["000"])
    with pytest.raises(InputError, match=r"\.csv or \.jsonl"):
        write_scores({"architectures": []}, tmp_path / "scores.txt")


def test_files_hold_every_architecture(recipe, tmp_path):
    result = score(load_run(recipe, logs=tmp_path), count=3, metrics=METRICS)
    result["architectures"][2]["scores"]["synflow"] = None
    write_scores(result, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["key"] for line in lines] == [entry["key"] for entry in result["architectures"]]
    assert float(lines[0]["synflow"]) == result["architectures"][0]["scores"]["synflow"]
    assert lines[2]["synflow"] == ""
    write_scores(result, tmp_path / "scores.jsonl")
    table = read_table(tmp_path / "scores.jsonl")
    assert table.metric(PROXY).tolist() == [1.0, pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert table.rows[0].features == result["architectures"][0]["scores"]
    assert table.rows[2].features["synflow"] == FLOOR


def test_scores_of_labelled_architectures_become_features(copy, tmp_path):
    result = score(copy, metrics=METRICS)
    assert len(result["architectures"]) == 14
    assert result["kept"] == str(copy.folder / "scores.json")
    export_table(copy.folder, tmp_path / "labels.jsonl")
    table = read_table(tmp_path / "labels.jsonl")
    scores = {entry["key"]: entry["scores"] for entry in result["architectures"]}
    assert {row.id: dict(row.features) for row in table.rows} == scores


def test_nothing_is_scored_twice(copy, monkeypatch):
    score(copy, metrics=["synflow"])
    before = read_json(copy.folder / "scores.json")
    score(copy, metrics=METRICS)
    after = read_json(copy.folder / "scores.json")
    for key, known in before["scores"].items():
        assert after["scores"][key]["synflow"] == known["synflow"]
    monkeypatch.setattr("predictor.zero_cost.score_network", lambda *_: pytest.fail("scored again"))
    assert len(score(copy, metrics=METRICS)["architectures"]) == 14


def test_what_was_scored_before_a_stop_is_kept(copy):
    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(copy, metrics=["synflow"], progress=stop)
    assert len(read_json(copy.folder / "scores.json")["scores"]) == 3


def test_another_seed_leaves_kept_scores_alone(copy):
    score(copy, metrics=["params"])
    before = (copy.folder / "scores.json").read_bytes()
    result = score(copy, count=1, metrics=["params"], seed=5)
    assert result["kept"] is None
    assert "results of generate in run 'tiny' were made with other settings (seed: 0 -> 5)" in result["not_kept"]
    assert (copy.folder / "scores.json").read_bytes() == before


@pytest.mark.parametrize(
    ("override", "said"), [("space.head_channels=8", "space.head_channels: 64 -> 8"), ("seed=1", "seed: 0 -> 1")]
)
def test_scores_with_other_settings_than_the_labels_leave_kept_ones_alone(override, said, copy, genas, tmp_path):
    logs = copy.folder.parent
    other = load_run("tiny", [override], logs)
    first = score(other, count=2, metrics=["params"])
    assert not (copy.folder / "scores.json").exists()  # or the labels' own would never be kept
    assert said in first["not_kept"]
    assert genas("score", "tiny", "--logs", logs, "--metrics", "params,macs").code == 0
    before = (copy.folder / "scores.json").read_bytes()
    answer = genas("score", "tiny", "--logs", logs, "--count", 2, "--metrics", "params", "--set", override)
    assert answer.code == 0
    assert f"Not kept: results of generate in run 'tiny' were made with other settings ({said})." in answer.out
    assert "Next" not in answer.out
    answer = genas("fit", "tiny", "--logs", logs, "--zero-cost-only", "--count", 10, "--set", override)
    assert answer.code == 2
    assert f"({said}); set them back" in answer.err
    assert (copy.folder / "scores.json").read_bytes() == before
    export_table(copy.folder, tmp_path / "labels.jsonl")
    assert all(set(row.features) == {"params", "macs"} for row in read_table(tmp_path / "labels.jsonl").rows)


def test_kept_scores_of_other_settings_are_not_replaced(recipe, genas):
    """Without labels there is nothing to say which are right: those that are there stay."""
    fit = ("fit", recipe, "--zero-cost-only", "--count", 10, "--metrics", "params")
    assert "not kept" not in genas(*fit).out
    before = Path("logs/tiny/scores.json").read_bytes()
    answer = genas(*fit, "--set", "seed=4")
    assert answer.code == 0
    assert "Scores not kept: logs/tiny/scores.json holds scores made with other settings (seed: 0 -> 4)" in answer.out
    assert Path("logs/tiny/scores.json").read_bytes() == before


def test_a_run_that_is_driven_keeps_no_scores(copy):
    before = sorted(path.name for path in copy.folder.iterdir())
    with run_lock(copy.folder):
        with pytest.raises(InputError, match="in use by process"):
            score(copy, metrics=["params"])
        with pytest.raises(InputError, match="in use by process"):
            fit_zero_cost(copy, count=10, metrics=["params"])
        assert score(copy, count=1, metrics=["params"], seed=5)["images"] == 100  # only looks
    assert sorted({path.name for path in copy.folder.iterdir()} - {"lock"}) == sorted({*before} - {"lock"})


def test_scores_of_another_space_are_no_features(copy):
    score(copy, metrics=["params"])
    space = read_json(copy.folder / "scores.json")["made_with"]["space"]
    assert len(score_features(copy.folder, space)) == 14
    assert score_features(copy.folder, {**space, "head_channels": 65}) == {}
    content = read_json(copy.folder / "scores.json")
    key = next(iter(content["scores"]))
    content["scores"][key]["params"] = [None, 0.0]
    write_json(copy.folder / "scores.json", content)
    assert score_features(copy.folder, space)[key] == {"params": FLOOR}
    (copy.folder / "scores.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        score_features(copy.folder, space)


def with_fit(run, **changes):
    settings = run.settings.fit.model_copy(update=changes)
    return type(run)(folder=run.folder, settings=run.settings.model_copy(update={"fit": settings}))


def test_features_enter_the_fit_and_no_search(copy):
    featured = with_fit(copy, features=METRICS)
    with pytest.raises(InputError, match=r"lacks 'synflow'.*genas score tiny --metrics synflow,hook_logdet"):
        fit(featured)
    score(copy, metrics=[*METRICS, "snip"])
    plain, informed = fit(copy), fit(featured)
    assert informed["held_out"] != plain["held_out"]
    assert informed["models"]["macs"] == plain["models"]["macs"]
    with pytest.raises(InputError, match="hook_logdet, synflow"):
        search(featured)
    with pytest.raises(InputError, match=r"lacks 'snipp'.*'snip'"):
        fit(with_fit(copy, features=["snipp"]))


def test_only_metrics_are_advised_to_be_scored(copy, tmp_path):
    with pytest.raises(InputError) as raised:
        fit(with_fit(copy, features=["synflw", "snip"]))
    assert "genas score" not in str(raised.value)
    assert "known: hook_logdet, synflow, " in str(raised.value)
    assert "Did you mean 'synflow'?" in str(raised.value)
    with pytest.raises(InputError, match=r"lacks 'snip'; `genas score tiny --metrics snip` scores"):
        fit(with_fit(copy, features=["snip", "fidelity_short_train"]))
    export_table(copy.folder, tmp_path / "labels.jsonl")  # which is no run that could be scored
    with pytest.raises(InputError, match=r"lacks 'snip'; it has no features"):
        fit(with_fit(copy, features=["snip"]), read_table(tmp_path / "labels.jsonl"))


def test_the_whole_pipeline_refuses_features_before_it_trains(recipe, tmp_path):
    run = with_fit(load_run(recipe, logs=tmp_path), features=METRICS)
    with pytest.raises(InputError, match=r"fit.features is \[synflow, hook_logdet\]; a search cannot use them"):
        run_all(run)
    assert not run.folder.exists()


def test_a_predictor_without_labels(recipe, tmp_path):
    """Fitted on the order of the scores, told as what it is, and searched with as any other."""
    run = load_run(recipe, logs=tmp_path)
    result = fit_zero_cost(run, count=16, metrics=("synflow", "params"))
    assert result["metric"] == PROXY
    assert result["proxy"]["metrics"] == ["synflow", "params"]
    assert result["proxy"]["architectures"] == 16
    assert result["rows"] == 16
    assert all(0 < row["measured"] <= 1 for row in result["held_out"])
    assert "not accuracy" in fitted(result)
    assert "%]" not in fitted(result)
    found = search(run)
    assert found["metric"] == PROXY
    assert found["evolution"]["best"][0]["macs"] <= 200_000
    assert fit_zero_cost(run, count=16, metrics=("synflow", "params")) == result
    page = package.report(run)
    assert "training-free proxy, and not accuracy" in page.read_text()


def test_the_proxy_is_the_rank_of_the_combination(recipe, tmp_path):
    run = load_run(recipe, logs=tmp_path)
    table, about, not_kept = proxy_table(run, 12, ("params",))
    params = [graph.total("params") for graph in table.graphs]
    assert kendall_tau(table.metric(PROXY), params) == pytest.approx(1)
    assert about["invalid"] == 0
    assert not_kept is None
    with pytest.raises(InputError, match="at least 10"):
        fit_zero_cost(run, count=9)


def test_words_tell_invalid_scores_and_the_rest(recipe, tmp_path):
    result = score(load_run(recipe, logs=tmp_path), count=3, metrics=METRICS)
    result["architectures"][2]["scores"]["synflow"] = None
    result["invalid"]["synflow"] = 1
    text = scored(result)
    assert "3 architectures on 100 training images, best first by the sum of log ranks" in text
    assert "invalid: synflow 1" in text
    assert result["architectures"][0]["architecture"] in text
    result["architectures"] = result["architectures"] * 4
    assert "and 2 more" in scored(result)


def test_the_command(genas, recipe, tmp_path):
    answer = genas("score", recipe, "--count", 2, "--metrics", "synflow, params", "--out", "scores.csv", "--json")
    assert answer.code == 0, answer.err
    result = json.loads(answer.out)
    assert result["metrics"] == ["synflow", "params"]
    assert "sinflow" in genas("score", recipe, "--metrics", "sinflow").err
    assert genas("score", recipe, "--out", "scores.txt").code == 2
    answer = genas("score", recipe, "--arch", result["architectures"][0]["architecture"], "--metrics", "params")
    assert answer.code == 0
    assert "1 architectures on 100 training images; higher is better" in answer.out


def test_the_command_fits_without_labels(genas, recipe):
    answer = genas("fit", recipe, "--zero-cost-only", "--count", 12, "--metrics", "params")
    assert answer.code == 0, answer.err
    assert "the target is a proxy, not accuracy" in answer.out
    assert "score: 12 of 12" in answer.err
    assert genas("search", recipe).code == 0
    assert genas("fit", recipe, "--zero-cost-only", "--features", "params").code == 2
    lacking = genas("fit", recipe, "--features", "params")
    assert lacking.code == 2


def test_the_name_of_a_run_without_labels_stands_for_it(genas, recipe):
    """What each command says comes next works, from the name alone."""
    assert genas("fit", recipe, "--zero-cost-only", "--count", 12, "--metrics", "params").code == 0
    answer = genas("status", "tiny")
    assert answer.code == 0, answer.err
    assert "with the proxy zero_cost_proxy, not accuracy" in answer.out
    assert "generate  waiting" in answer.out
    assert load_run("tiny").settings.fit.metric == "accuracy"  # the recipe's own
    assert "Next: genas retrain tiny" in genas("search", recipe).out
    answer = genas("retrain", "tiny", "--set", "retrain.seeds=1", "--set", "retrain.recipe={epochs: 1, batch_size: 50}")
    assert answer.code == 0, answer.err
    assert "retrain: 2 of 2 trained" in genas("status", "tiny").out


def test_a_predictor_of_a_table_has_a_standing(genas, copy):
    export_table(copy.folder, Path("other.jsonl"))
    assert genas("fit", "other.jsonl", *QUICK).code == 0
    answer = genas("status", "other")
    assert answer.code == 0, answer.err
    assert answer.out.rstrip().endswith(" with accuracy")
    state = json.loads(genas("status", "other", "--json").out)
    assert state["predictor"] == {"metric": "accuracy", "proxy": False}
    assert state["generate"]["planned"] == 0
    assert genas("status", "none").code == 2


def test_a_table_of_scores_is_a_proxy_too(genas, recipe):
    assert genas("score", recipe, "--count", 12, "--metrics", "params", "--out", "scores.jsonl").code == 0
    answer = genas("fit", "scores.jsonl", *QUICK, "--set", f"fit.metric={PROXY}")
    assert "the target is a proxy, not accuracy" in answer.out
    assert json.loads(genas("status", "scores", "--json").out)["predictor"] == {"metric": PROXY, "proxy": True}


def test_a_predictor_that_took_the_place_of_another_says_so(genas, copy):
    logs = ("--logs", copy.folder.parent)
    labels = json.loads(genas("fit", "tiny", *logs, "--json").out)
    assert "replaced" not in labels
    answer = genas("fit", "tiny", *logs, "--zero-cost-only", "--count", 14, "--metrics", "params")
    assert "it took the place of the predictor of accuracy that was here" in answer.out
    assert "with the proxy zero_cost_proxy, not accuracy" in genas("status", "tiny", *logs).out
    assert load_run("tiny", logs=copy.folder.parent) == copy  # the settings of the labels stay
    page = package.report(copy).read_text()
    assert "learnt from the training-free scores of 14 architectures: a proxy, not accuracy" in page.replace(
        "\xa0", " "
    )
    assert "it took the place of the predictor of zero_cost_proxy" in genas("fit", "tiny", *logs).out


def test_a_predictor_with_features_is_not_said_to_search(genas, copy):
    logs = ("--logs", copy.folder.parent)
    answer = genas("score", "tiny", *logs, "--metrics", "params,macs")
    assert "Next: genas export-table tiny --out labels.jsonl | genas fit tiny --features params,macs" in answer.out
    answer = genas("fit", "tiny", *logs, "--features", "params,, macs,")
    assert answer.code == 0, answer.err
    assert "Next" not in answer.out
    assert "A search cannot use it: each candidate would need macs, params" in answer.out
    assert "Next: genas search tiny" in genas("fit", "tiny", *logs).out
    assert "Next" not in genas("score", "tiny", *logs, "--count", 2, "--metrics", "snip").out  # the others lack it


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--count", "-5"], "--zero-cost-only"),
        (["--count", "300"], "--zero-cost-only"),
        (["--metrics", "nope"], "--zero-cost-only"),
        (["--features", " , "], "names joined by commas"),
        (["--zero-cost-only", "--table", "a.jsonl"], "no table"),
        (["--zero-cost-only", "--count", "9"], "at least 10"),
        (["--zero-cost-only", "--metrics", "nope"], "'nope' is unknown"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, said, genas, recipe):
    answer = genas("fit", recipe, *options)
    assert answer.code == 2
    assert said in answer.err
    assert not Path("logs").exists()


def test_two_tables_are_refused(genas, copy):
    export_table(copy.folder, Path("one.jsonl"))
    answer = genas("fit", "one.jsonl", "--table", "two.jsonl")
    assert answer.code == 2
    assert "two tables" in answer.err


def test_scores_are_kept_every_so_many(copy, monkeypatch):
    monkeypatch.setattr(scoring, "_KEEP_EVERY", 4)
    kept = []

    def look(done, total):
        content = read_json(copy.folder / "scores.json")
        kept.append(0 if content is None else len(content["scores"]))

    score(copy, metrics=["params"], progress=look)
    assert kept == [0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12]
    assert len(read_json(copy.folder / "scores.json")["scores"]) == 14


def test_a_large_batch_is_cut_to_what_there_is(recipe, tmp_path):
    assert BATCH > 100
    assert score(load_run(recipe, logs=tmp_path), count=1, metrics=["params"])["images"] == 100
