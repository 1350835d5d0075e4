from __future__ import annotations

import json
import math

import numpy as np
import pytest

from predictor import evaluate, evaluate_split, kendall_tau, tau_interval
from predictor.evaluation import random_split
from supernet import InputError, LabelRow, LabelTable

FAST = ("ridge", "macs")


def test_shape_of_the_json(op_subset_table):
    calls: list[tuple[int, int]] = []
    result = evaluate(op_subset_table, "accuracy", 60, 3, 7, FAST, lambda done, total: calls.append((done, total)))
    entry = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert set(entry) == {"models", "metric", "train_size", "test_size", "trials", "seed"}
    assert (entry["metric"], entry["train_size"], entry["test_size"]) == ("accuracy", 60, 20)
    assert (entry["trials"], entry["seed"]) == (3, 7)
    assert list(entry["models"]) == ["ridge", "macs"]
    for model in entry["models"].values():
        assert set(model) == {"tau", "tau_std", "tau_ci95", "fit_seconds", "scored_per_second"}
        low, high = model["tau_ci95"]
        assert low <= model["tau"] <= high
        assert model["scored_per_second"] > 0
    assert calls == [(done, 6) for done in range(1, 7)]


def test_all_four_models_on_one_split(cell_table):
    result = evaluate_split(cell_table, "score", range(45), range(45, 60), models=("graph", "ridge", "mlp", "macs"))
    assert set(result.models) == {"graph", "ridge", "mlp", "macs"}
    assert (result.train_size, result.test_size, result.trials) == (45, 15, 1)
    assert result.models["graph"].tau > 0.5
    macs = result.models["macs"]  # no node has MACs: constant scores
    assert (macs.tau, macs.tau_std, macs.tau_ci95) == (0.0, 0.0, (0.0, 0.0))
    json.dumps(result.to_json(), allow_nan=False)


def test_tau_is_that_of_the_held_out_rows(op_subset_table):
    result = evaluate(op_subset_table, "accuracy", 50, 2, 5, ["macs"])
    taus = []
    for trial in range(2):
        _, test = random_split(80, 50, 5, trial)
        rows = op_subset_table.subset(test)
        taus.append(kendall_tau([graph.total("macs") for graph in rows.graphs], rows.metric("accuracy")))
    assert result.models["macs"].tau == pytest.approx(np.mean(taus))
    assert result.models["macs"].tau_std == pytest.approx(np.std(taus, ddof=1))


@pytest.mark.parametrize("values", [3, 1000])  # with many ties, with hardly any
def test_the_interval_is_that_of_resampled_architectures(values):
    random = np.random.default_rng(1)
    first, second = random.integers(0, values, (2, 30))
    drawing = np.random.default_rng(5)
    taus = []
    for _ in range(200):
        drawn = drawing.integers(0, 30, 30)
        taus.append(kendall_tau(first[drawn], second[drawn]))
    assert tau_interval(first, second, 5, 200) == pytest.approx(np.quantile(taus, (0.025, 0.975)))


def test_the_interval_of_very_many_is_made_in_another_way_and_is_the_same(monkeypatch):
    first, second = np.random.default_rng(2).normal(size=(2, 20))
    quick = tau_interval(first, second, 3, 50)
    monkeypatch.setattr("predictor.evaluation._MOST_PAIRED", 19)
    assert tau_interval(first, second, 3, 50) == pytest.approx(quick)


def test_splits_are_seeded_disjoint_and_whole():
    train, test = random_split(20, 15, 1, 0)
    assert sorted([*train, *test]) == list(range(20))
    assert np.array_equal(random_split(20, 15, 1, 0)[0], train)
    assert not np.array_equal(random_split(20, 15, 1, 1)[0], train)
    assert not np.array_equal(random_split(20, 15, 2, 0)[0], train)


def test_kendall_tau():
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1
    assert kendall_tau([3, 2, 1], [10, 20, 30]) == -1
    assert kendall_tau([1, 1, 1], [10, 20, 30]) == 0
    assert kendall_tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(2 * 3))


def test_tau_interval_holds_tau_and_narrows_with_more_architectures():
    random = np.random.default_rng(0)
    truth = random.normal(size=400)
    scores = truth + random.normal(size=400)
    wide, narrow = tau_interval(scores[:40], truth[:40], 0, 300), tau_interval(scores, truth, 0, 300)
    assert wide[0] < kendall_tau(scores[:40], truth[:40]) < wide[1]
    assert narrow[0] < kendall_tau(scores, truth) < narrow[1]
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 2
    assert tau_interval(scores[:40], truth[:40], 0, 300) == wide


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_size": 80}, "train size: expected 2 to 78 of 80 rows, got 80"),
        ({"train_size": 0}, "train size"),
        ({"train_size": -5}, "train size"),
        ({"seed": -1}, "seed: expected a whole number from 0, got -1"),
        ({"trials": 0}, "trials: expected at least 1, got 0"),
        ({"metric": "acc"}, "known: accuracy"),
        ({"models": ["rige"]}, "Did you mean 'ridge'"),
        ({"models": []}, "none named"),
    ],
)
def test_bad_arguments(op_subset_table, change, message):
    arguments = {"metric": "accuracy", "train_size": 60, "trials": 1, "models": FAST, **change}
    with pytest.raises(InputError, match=message):
        evaluate(op_subset_table, **arguments)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (range(10), range(9, 20), "row 9 is both"),
        (range(10), range(75, 81), "expected positions 0 to 79, got 80"),
        ([-1, 2], range(10, 20), "got -1"),
        ([3], range(10, 20), "train rows: expected at least 2"),
        ([3, 3, 4], range(10, 20), "train rows"),
        (range(10), [], "test rows"),
    ],
)
def test_bad_splits(op_subset_table, train, test, message):
    with pytest.raises(InputError, match=message):
        evaluate_split(op_subset_table, "accuracy", train, test, models=FAST)


def test_bad_tables(op_subset_table):
    with pytest.raises(InputError, match="at least 10 rows"):
        evaluate(op_subset_table.subset(np.arange(9)), "accuracy", 5)
    same = LabelTable(tuple(LabelRow(row.id, row.graph, {"m": 0.5}) for row in op_subset_table.rows))
    with pytest.raises(InputError, match=r"all 80 rows have 0\.5"):
        evaluate(same, "m", 60)
