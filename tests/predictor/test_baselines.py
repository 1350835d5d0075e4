"""One contract for all predictors, and what is particular to the baselines."""

from __future__ import annotations

import numpy as np
import pytest

from predictor import PREDICTORS, kendall_tau
from predictor.baselines import fit_columns
from supernet import ArchGraph, InputError, LabelRow, LabelTable, Node

NAMES = sorted(PREDICTORS)
LEARNERS = sorted(set(PREDICTORS) - {"macs"})


@pytest.fixture(scope="module")
def fitted(op_subset_table):
    train = op_subset_table.subset(np.arange(60))
    return {name: PREDICTORS[name](train, "accuracy", 1) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_finite_and_one_for_each_row(fitted, op_subset_table, name):
    scores = fitted[name].predict(op_subset_table)
    assert scores.shape == (80,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_score_depends_on_its_row_alone(fitted, op_subset_table, name):
    order = np.random.default_rng(0).permutation(80)
    scores = fitted[name].predict(op_subset_table)
    np.testing.assert_allclose(fitted[name].predict(op_subset_table.subset(order)), scores[order], rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_labels_of_scored_rows_are_not_read(fitted, op_subset_table, name):
    blind = LabelTable(
        tuple(LabelRow(row.id, row.graph, {"none": 0.0}, choices=row.choices) for row in op_subset_table.rows)
    )
    assert np.array_equal(fitted[name].predict(blind), fitted[name].predict(op_subset_table))


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_repeats(fitted, op_subset_table, name):
    again = PREDICTORS[name](op_subset_table.subset(np.arange(60)), "accuracy", 1)
    assert np.array_equal(again.predict(op_subset_table), fitted[name].predict(op_subset_table))


@pytest.mark.parametrize("name", NAMES)
def test_ranks_held_out_architectures(fitted, op_subset_table, name):
    held_out = op_subset_table.subset(np.arange(60, 80))
    assert kendall_tau(fitted[name].predict(held_out), held_out.metric("accuracy")) > 0.3


@pytest.mark.parametrize("name", LEARNERS)
def test_tables_without_choices_and_attributes(cell_table, name):
    train, test = cell_table.subset(np.arange(45)), cell_table.subset(np.arange(45, 60))
    predictor = PREDICTORS[name](train, "score", 0)
    assert kendall_tau(predictor.predict(test), test.metric("score")) > 0.3


def test_macs_of_a_table_without_macs_are_all_alike(cell_table):
    assert set(PREDICTORS["macs"](cell_table, "score", 0).predict(cell_table)) == {0.0}


@pytest.mark.parametrize("name", NAMES)
def test_unknown_metric_is_refused(op_subset_table, name):
    with pytest.raises(InputError, match="known: accuracy"):
        PREDICTORS[name](op_subset_table, "latency", 0)


def test_macs_are_the_sum_over_nodes(op_subset_table):
    scores = PREDICTORS["macs"](op_subset_table, "accuracy", 0).predict(op_subset_table)
    expected = [sum(node.get("macs") for node in graph.nodes) for graph in op_subset_table.graphs]
    assert scores.tolist() == expected


def _choice_table(choices: list[tuple[int, ...]]) -> LabelTable:
    graph = ArchGraph((Node("a"),), ())
    return LabelTable(tuple(LabelRow(str(i), graph, {"m": float(i)}, choices=row) for i, row in enumerate(choices)))


def test_columns_of_choices_are_one_hot_and_one_for_a_choice_of_two():
    table = _choice_table([(0, 0, 5), (1, 1, 5), (0, 2, 5), (1, 0, 5)])
    columns = fit_columns(table)
    assert columns(table).shape == (4, 1 + 3)  # two options, three options, one option
    unseen = columns(_choice_table([(0, 9, 5)]))
    assert (unseen < columns(table).max(axis=0)).all()  # an unseen option counts as absent
    with pytest.raises(InputError, match="fitted on 3 choices an architecture, got 2"):
        columns(_choice_table([(0, 1)]))


def test_columns_without_choices_count_distinct_nodes():
    small, large = Node("conv", (("out", 8),)), Node("conv", (("out", 16),))
    rows = [(small,), (small, small), (large, small)]
    table = LabelTable(tuple(LabelRow(str(i), ArchGraph(row, ()), {"m": float(i)}) for i, row in enumerate(rows)))
    columns = fit_columns(table)(table)
    assert columns.shape == (3, 2)  # no MACs anywhere: that column is constant and dropped
    assert np.argmax(columns, axis=0).tolist() == [1, 2]


@pytest.mark.parametrize("name", NAMES)
def test_graphs_that_differ_in_their_edges_alone_are_no_crash(name):
    nodes = tuple(Node(op) for op in "abcd")
    rows = []
    for number in range(12):
        edges = ((0, 1), (1, 2), (2, 3)) if number % 2 else ((0, 1), (0, 2), (0, 3))
        rows.append(
            LabelRow(str(number), ArchGraph(nodes, edges), {"accuracy": 0.5 + 0.2 * (number % 2) + number / 100})
        )
    table = LabelTable(tuple(rows))
    assert np.isfinite(PREDICTORS[name](table, "accuracy", 0).predict(table)).all()
