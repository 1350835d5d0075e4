from __future__ import annotations

import json

import numpy as np
import pytest

from genas.config import FitSettings
from genas.trusting import _with_little_more, judge
from predictor import MODELS, GraphPredictorSettings
from supernet import LabelRow, LabelTable, OpSubset, architectures
from supernet.op_subset import LayerSettings

SPACE = OpSubset(layers=tuple(LayerSettings(channels=channels) for channels in (8, 16, 32)), classes=10)
SMALL = GraphPredictorSettings(members=2, width=4, layers=1, epochs=3)


def table(rows: int, noise: float = 0.0) -> LabelTable:
    random = np.random.default_rng(0)
    found = []
    for one in architectures(SPACE, SPACE.sample(rows, random)):
        value = 0.3 + 0.02 * float(sum(one.choices)) + noise * random.normal()
        twice = {f"accuracy_seed{seed}": value + 0.001 * random.normal() for seed in range(2)}
        found.append(LabelRow(one.key, SPACE.graph(one), {"accuracy": value, **twice}))
    return LabelTable(tuple(found))


def test_what_is_told_of_a_predictor_that_ranks_well():
    result = judge(table(80), FitSettings(model="gp", splits=2, predictor=SMALL), 0)
    json.dumps(result, allow_nan=False)
    assert (result["rows"], result["train_size"], result["test_size"], result["splits"]) == (80, 64, 16, 2)
    assert list(result["models"]) == list(MODELS)
    assert result["models"]["gp"]["tau"] > 0.8
    assert result["models"]["gp"]["tau_splits"] > 0.8
    assert result["models"]["graph"]["tau_splits"] is None  # slow, and searches nothing
    trust = result["trust"]
    assert "names the better of two" in trust["verdict"]
    assert trust["learning_curve"]["labels"] == [16, 32, 64]
    assert trust["learning_curve"]["tau"][-1] == pytest.approx(result["models"]["gp"]["tau_splits"])
    assert set(trust["coverage"]) == {"50%", "80%", "95%"}
    assert result["label_noise"]["architectures"] == 80
    assert len(result["held_out"]) == 16
    for row in result["held_out"]:
        low, high = row["interval80"]
        assert low <= row["predicted"] <= high


def test_it_says_so_when_there_is_nothing_in_it():
    random = np.random.default_rng(1)
    rows = tuple(LabelRow(row.id, row.graph, {"accuracy": random.random()}) for row in table(60).rows)
    result = judge(LabelTable(rows), FitSettings(model="ridge", splits=1, predictor=SMALL), 0)
    assert "not shown to be better" in result["trust"]["verdict"]
    assert result["trust"]["learning_curve"]["more_labels"] is None
    assert result["label_noise"] is None
    assert result["models"]["ridge"]["tau_splits_ci95"] is None


def test_few_labels():
    result = judge(table(10), FitSettings(model="gp", splits=2, predictor=SMALL), 0)
    assert result["test_size"] == 2
    assert result["models"]["gp"]["tau_ci95"] == [-1, 1]
    assert "not shown to be better than chance" in result["trust"]["verdict"]
    assert result["trust"]["learning_curve"]["labels"] == [8]


def test_models_that_cost_nothing_more():
    assert _with_little_more("gp") == ("gp", "ridge", "macs")
    assert set(_with_little_more("hybrid")) == {"hybrid", "graph", "gp", "ridge", "trees", "macs"}
