import json

import numpy as np
import pytest

from genas.config import load_run
from genas.picking import pick
from genas.searching import search, search_exact, search_front, search_limits
from supernet import InputError
from supernet.limits import within


def again(run, *overrides):
    return load_run("tiny", list(overrides), run.folder.parent)


@pytest.mark.parametrize("rule", ["lower", "improvement", "thompson"])
def test_acquisitions_are_searched_and_predictions_told_in_the_units_of_the_metric(copy, rule):
    found = search(again(copy, f"search.acquisition={rule}"))
    assert found["acquisition"] == rule
    best = found["evolution"]["best"]
    assert all(0 < one["predicted"] < 1 and one["macs"] <= 200_000 for one in best)
    assert found["trust"]["far"] == (found["trust"]["distance"] > 2)
    plain = search(again(copy))
    assert plain["evolution"]["best"][0]["predicted"] >= max(one["predicted"] for one in best) - 1e-9


def test_exact_of_a_small_space_is_that_of_the_predictor(copy):
    result = search_exact(copy)
    assert (result["method"], result["of"]) == ("enumeration", "predictor")
    assert result["gap"] >= 0
    assert result["optimum"]["predicted"] >= result["evolution"]["predicted"] - 1e-9
    assert result["optimum"]["macs"] <= 200_000


def test_exact_of_ridge_is_an_integer_program_and_evolution_reaches_it(copy):
    from genas.fitting import fit

    run = again(copy, "fit.model=ridge", "search.queries=1500")
    fit(run)
    result = search_exact(run)
    assert (result["method"], result["of"], result["agreement"]) == ("integer programming", "predictor", None)
    assert result["gap"] == pytest.approx(0, abs=1e-9)
    assert result["networks"] < 1000  # of 3,969


def test_a_winner_for_each_limit(copy, genas):
    result = search_limits(copy, "100K:200K:5")
    limits = [row["limit"] for row in result["winners"]]
    assert limits == [100_000, 125_000, 150_000, 175_000, 200_000]
    predicted = []
    for row in result["winners"]:
        if row["winner"] is not None:
            assert row["winner"]["macs"] <= row["limit"]
            predicted.append(row["winner"]["predicted"])
    assert predicted == sorted(predicted)
    assert predicted
    assert json.loads((copy.folder / "winner" / "limits.json").read_text())["queries"] == result["queries"]
    answer = genas("report", "tiny", "--logs", copy.folder.parent)
    assert answer.code == 0
    assert "One winner for each limit" in (copy.folder / "report.html").read_text()


@pytest.mark.parametrize(("many", "engine"), [(False, "own"), (True, "own"), (False, "pymoo"), (True, "pymoo")])
def test_a_front_of_prediction_and_costs(copy, many, engine):
    if engine == "pymoo":
        pytest.importorskip("pymoo")
    result = search_front(copy, ["macs", "depth"], many=many, engine=engine)
    assert [one["name"] for one in result["objectives"]] == ["accuracy", "macs", "depth"]
    values = np.array([[-one["accuracy"], one["macs"], one["depth"]] for one in result["front"]])
    better = (values[:, None] <= values[None]).all(axis=2) & (values[:, None] < values[None]).any(axis=2)
    assert not better.any()
    assert (values[:, 1] <= 200_000).all()
    assert 0 <= result["hypervolume"] <= 1


def test_a_front_of_two_predictors(copy):
    with pytest.raises(InputError, match="expected a predictor without features of a metric that is not there yet"):
        search_front(copy, ["macs"], [copy.folder / "predictor"])
    with pytest.raises(InputError, match=r"unknown cost; .* Did you mean 'params'"):
        search_front(copy, ["parms"])
    with pytest.raises(InputError, match="expected two or more"):
        search_front(copy, [])


def test_both_ends_of_several_limits(copy):
    run = again(copy, "limits={macs: {min: 150K, max: 170K}, params: 90%, depth: {min: 8}}")
    found = search(run)
    space, limits = run.settings.space, run.settings.bounds
    rows = np.array([space.read(one["architecture"]).choices for one in found["evolution"]["best"]], np.int8)
    assert within(space, rows, limits).all()
    assert found["limits"]["macs"] == {"min": 150_000, "max": 170_000}
    assert all(one["depth"] >= 8 for one in found["evolution"]["best"])


def test_the_best_few_are_trained_and_validation_picks(copy, genas):
    result = pick(again(copy, "retrain.seeds=1"), 3)
    top = result["top"]
    assert len(top["entries"]) == 3
    means = {one["key"]: one["mean"] for one in top["entries"]}
    assert means[top["picked"]] == max(means.values())
    winner = json.loads((copy.folder / "winner" / "architecture.json").read_text())
    assert winner["key"] == top["picked"]
    assert top["failed"] == 0
    answer = genas("search", "tiny", "--logs", copy.folder.parent, "--top", 3, "--retrain", "--set", "retrain.seeds=1")
    assert answer.code == 0
    assert "accuracy on the validation images picks" in answer.out
    assert answer.out.count("measured") >= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--exact", "--limits", "1:2:3"), "--exact and --limits ask different questions"),
        (("--also", "DIR"), "--also, --many and --engine say how --front looks"),
        (("--retrain",), "say how many with --top N"),
        (("--top", "0"), "expected 1 to 1000"),
    ],
)
def test_arguments_that_do_not_go_together(genas, arguments, message):
    answer = genas("search", "quickstart", *arguments)
    assert answer.code == 2
    assert message in " ".join(answer.err.replace("│", " ").split())


def test_the_command_line_of_exact_limits_and_fronts(copy, genas):
    logs = ("--logs", copy.folder.parent)
    assert "evolution" in genas("search", "tiny", *logs, "--exact").out
    assert "macs <=      200,000" in genas("search", "tiny", *logs, "--limits", "150K:200K:2").out
    assert "that nothing dominates" in genas("search", "tiny", *logs, "--front", "macs").out
    answer = genas("search", "tiny", *logs, "--top", "4", "--json")
    assert len(json.loads(answer.out)["evolution"]["best"]) >= 4


def test_a_sweep_keeps_the_smallest_value_of_the_recipe_and_replaces_the_largest(copy):
    run = again(copy, "limits={macs: {min: 100_000, max: 120_000}}")
    result = search_limits(run, "60K:200K:4")
    assert result["winners"][0] == {"limit": 60_000, "winner": None}
    found = [row["winner"]["macs"] for row in result["winners"] if row["winner"] is not None]
    assert min(found) >= 100_000
    assert len(found) == 3
    assert result["limits"] == {"macs": {"min": 100_000, "max": None}}


def test_a_pick_stays_the_winner(copy, genas):
    run = again(copy, "retrain.seeds=1")
    picked = pick(run, 12)
    assert search(run)["winner"]["key"] == picked["top"]["picked"]
    assert search(run)["trust"]["distance"] == picked["winner"]["distance"]
    logs = ("--logs", copy.folder.parent)
    answer = genas("search", "tiny", *logs, "--set", "retrain.seeds=1")
    assert f"(picked by validation among the best) {picked['winner']['architecture']}" in answer.out
    winner = json.loads((copy.folder / "winner" / "architecture.json").read_text())
    assert winner["key"] == picked["top"]["picked"]


def test_other_limits_are_other_bounds(copy):
    settings = copy.settings
    assert settings.bounds["macs"].most == 200_000
    assert settings.with_limits({"macs": 150_000}).bounds["macs"].most == 150_000
