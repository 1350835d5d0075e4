"""Training-free scores of a run: looked at, kept as features, fitted instead of labels."""

import csv
import json

import pytest

import genas as package
from genas import scoring
from genas.config import load_run
from genas.fitting import fit, fit_zero_cost
from genas.generating import export_table
from genas.scoring import PROXY, proxy_table, score, score_features, write_scores
from genas.searching import search
from genas.words import fitted, scored
from predictor import kendall_tau
from predictor.zero_cost import FLOOR
from supernet import InputError, read_table
from supernet.files import read_json, write_json
from supernet.spaces import make_space

METRICS = ("synflow", "hook_logdet")


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
    with pytest.raises(InputError, match="at least 1"):
        score(run, count=0)
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
    assert score(copy, count=1, metrics=["params"], seed=5)["kept"] is None
    assert (copy.folder / "scores.json").read_bytes() == before


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
    assert informed["models"]["ridge"] == plain["models"]["ridge"]
    with pytest.raises(InputError, match="hook_logdet, synflow"):
        search(featured)
    with pytest.raises(InputError, match=r"lacks 'snipp'.*'snip'"):
        fit(with_fit(copy, features=["snipp"]))


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
    table, about = proxy_table(run, 12, ("params",))
    params = [graph.total("params") for graph in table.graphs]
    assert kendall_tau(table.metric(PROXY), params) == pytest.approx(1)
    assert about["invalid"] == 0
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


def test_a_large_batch_is_cut_to_what_there_is(recipe, tmp_path, monkeypatch):
    run = load_run(recipe, logs=tmp_path)
    seen = []
    monkeypatch.setattr(scoring, "_KEEP_EVERY", 1)
    scores = score(run, count=1, metrics=["params"], progress=lambda done, total: seen.append(done))
    assert scores["images"] == 100
    assert seen == [1]
