from __future__ import annotations

import json

import numpy as np
import pytest

from predictor import (
    MODELS,
    GraphPredictorSettings,
    Split,
    evaluate,
    kendall_tau,
    random_splits,
    read_split,
)
from predictor.evaluation import random_split
from supernet import InputError, LabelRow, LabelTable

FAST = ("ridge", "macs")


def run(table, metric="accuracy", train_size=60, trials=1, seed=0, models=FAST, **more):
    return evaluate(table, metric, random_splits(len(table), train_size, trials, seed), seed, models, **more)


def test_shape_of_the_json(op_subset_table):
    calls: list[tuple[int, int]] = []
    result = run(op_subset_table, trials=3, seed=7, progress=lambda done, total: calls.append((done, total)))
    entry = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert set(entry) == {"models", "metric", "train_size", "test_size", "trials", "seed", "features"}
    assert (entry["metric"], entry["train_size"], entry["test_size"]) == ("accuracy", 60, 20)
    assert (entry["trials"], entry["seed"], entry["features"]) == (3, 7, [])
    assert list(entry["models"]) == ["ridge", "macs"]
    for model in entry["models"].values():
        low, high = model["tau_ci95"]
        assert low <= model["tau"] <= high
        assert model["scored_per_second"] > 0
        assert set(model["coverage"]) == {"50%", "80%", "95%"}
        assert "taus" not in model
    assert calls == [(done, 3) for done in range(1, 4)]


def test_all_models_on_one_split(cell_table):
    settings = GraphPredictorSettings(members=5, width=8, layers=2, epochs=15)
    split = Split(np.arange(45), np.arange(45, 60))
    result = evaluate(cell_table, "score", [split], models=tuple(MODELS), use_features=False, settings=settings)
    assert set(result.models) == set(MODELS)
    assert (result.train_size, result.test_size, result.trials) == (45, 15, 1)
    assert result.models["hybrid"].tau > 0.4
    macs = result.models["macs"]  # no node has MACs: constant scores
    assert (macs.tau, macs.tau_std, macs.tau_ci95, macs.tau_same_macs) == (0.0, 0.0, (0.0, 0.0), None)
    json.dumps(result.to_json(), allow_nan=False)


def test_tau_is_that_of_the_held_out_rows(op_subset_table):
    result = run(op_subset_table, train_size=50, trials=2, seed=5, models=["macs"])
    taus = []
    for trial in range(2):
        _, test = random_split(80, 50, 5, trial)
        rows = op_subset_table.subset(test)
        taus.append(kendall_tau([graph.total("macs") for graph in rows.graphs], rows.metric("accuracy")))
    assert result.models["macs"].tau == pytest.approx(np.mean(taus))
    assert result.models["macs"].tau_std == pytest.approx(np.std(taus, ddof=1))
    assert result.models["macs"].taus == pytest.approx(taus)


def test_labels_of_held_out_rows_are_not_learnt(op_subset_table):
    """Other labels there change what is measured, and nothing of what is predicted."""
    split = random_split(80, 60, 0, 0)
    held = set(split.test.tolist())
    turned = LabelTable(
        tuple(
            LabelRow(
                row.id,
                row.graph,
                {"accuracy": 1 - row.metrics["accuracy"] if place in held else row.metrics["accuracy"]},
            )
            for place, row in enumerate(op_subset_table.rows)
        )
    )
    one, other = (evaluate(table, "accuracy", [split], models=("ridge", "gp")) for table in (op_subset_table, turned))
    for name, model in one.models.items():
        assert model.tau == pytest.approx(-other.models[name].tau)


def test_features_enter_where_all_rows_have_them(cell_table):
    assert run(cell_table, "score", 45).features == ("synflow",)
    assert run(cell_table, "score", 45, use_features=False).features == ()
    some = LabelTable((*cell_table.rows[:-1], LabelRow("x", cell_table.graphs[0], {"score": 0.5})))
    assert run(some, "score", 45).features == ()
    assert run(cell_table, "score", 45, models=["ridge"]).models["ridge"].tau > 0.9  # the feature tells the score


def test_splits_are_seeded_disjoint_and_whole():
    train, test = random_split(20, 15, 1, 0)
    assert sorted([*train, *test]) == list(range(20))
    assert np.array_equal(random_split(20, 15, 1, 0).train, train)
    assert not np.array_equal(random_split(20, 15, 1, 1).train, train)
    assert not np.array_equal(random_split(20, 15, 2, 0).train, train)
    large = random_splits(10_000, 100, 2)
    assert [len(split.test) for split in large] == [4000, 4000]


def test_splits_within_a_given_one():
    given = Split(np.arange(0, 40, 2), np.arange(1, 41, 2))
    splits = random_splits(60, 8, 3, 0, given)
    for train, test in splits:
        assert len(train) == 8
        assert set(train) <= set(given.train)
        assert set(test) == set(given.test)
    assert not np.array_equal(splits[0].train, splits[1].train)
    assert set(random_splits(60, 20, 1, 0, given)[0].train) == set(given.train)
    with pytest.raises(InputError, match="train size: expected 2 to 20 as the split has to fit on, got 21"):
        random_splits(60, 21, 1, 0, given)


def test_a_split_file(op_subset_table, tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("idx,split\n3,train\n5,test\n4,train\n6,test\n")
    split = read_split(path, op_subset_table)
    assert (split.train.tolist(), split.test.tolist()) == ([3, 4], [5, 6])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,part\n3,train\n", "expected a CSV with columns id and split, got 'id, part'"),
        ("id,split\n3,train\n3,test\n", "csv:3: row '3' was given in line 2 already"),
        ("id,split\n999,train\n", "csv:2: the table has no row '999'"),
        ("id,split\n3,training\n", "csv:2: split 'training'; expected train or test"),
        ("id,split\n3,train\n4,train\n5,test\n", "1 test rows; expected at least 2"),
        ("", "expected a CSV"),
        (None, "cannot be read"),
    ],
)
def test_bad_split_files(op_subset_table, tmp_path, text, message):
    path = tmp_path / "split.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_split(path, op_subset_table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_size": 79}, "train size: expected 2 to 78 of 80 rows, got 79"),
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
    with pytest.raises(InputError, match=message):
        run(op_subset_table, **change)


def test_bad_tables(op_subset_table):
    with pytest.raises(InputError, match="at least 10 rows"):
        run(op_subset_table.subset(np.arange(9)), train_size=5)
    same = LabelTable(tuple(LabelRow(row.id, row.graph, {"m": 0.5}) for row in op_subset_table.rows))
    with pytest.raises(InputError, match=r"all 80 rows have 0\.5"):
        run(same, "m")
