from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from predictor import GraphPredictor, GraphPredictorSettings, fit_graph, kendall_tau
from predictor.files import read_predictor, write_predictor
from predictor.graph import ranking_loss
from supernet import ArchGraph, InputError, LabelRow, LabelTable, Node
from supernet.settings import UnavailableError

SMALL = GraphPredictorSettings(members=2, width=8, layers=2, epochs=15)
FILES = ("predictor.safetensors", "predictor.json")


@pytest.fixture(scope="module")
def fitted(op_subset_table: LabelTable) -> GraphPredictor:
    return fit_graph(op_subset_table, "accuracy", SMALL, seed=3)


def test_learns_the_training_order_in_the_units_of_the_metric(fitted, op_subset_table):
    predicted, measured = fitted.predict(op_subset_table.graphs), op_subset_table.metric("accuracy")
    assert predicted.dtype == np.float64
    assert kendall_tau(predicted, measured) > 0.7
    assert np.abs(predicted - measured).mean() < measured.std()


def test_learns_cells_without_attributes_by_their_operations(cell_table):
    train, test = cell_table.subset(np.arange(45)), cell_table.subset(np.arange(45, 60))
    predictor = fit_graph(train, "score", SMALL, seed=0)
    assert kendall_tau(predictor.predict(test.graphs), test.metric("score")) > 0.5


def test_structure_matters_and_not_only_the_bag_of_nodes():
    """Two cells of the same nodes, wired in a row or side by side: only the edges tell them apart."""
    nodes = (Node("in"), Node("conv"), Node("conv"), Node("sum"))
    row = ArchGraph(nodes, ((0, 1), (1, 2), (2, 3), (0, 3)))
    side = ArchGraph(nodes, ((0, 1), (0, 2), (1, 3), (2, 3)))
    rows = tuple(LabelRow(str(i), row if i % 2 else side, {"m": float(i % 2)}) for i in range(20))
    scores = fit_graph(LabelTable(rows), "m", SMALL, seed=0).predict([row, side])
    assert scores[0] - scores[1] > 0.5


def test_same_seed_same_predictor_and_the_global_generator_is_left_alone(fitted, op_subset_table):
    torch.manual_seed(11)
    state = torch.random.get_rng_state()
    again = fit_graph(op_subset_table, "accuracy", SMALL, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())
    graphs = op_subset_table.graphs
    assert np.array_equal(again.predict(graphs), fitted.predict(graphs))
    other = fit_graph(op_subset_table, "accuracy", SMALL, seed=4)
    assert not np.array_equal(other.predict(graphs), fitted.predict(graphs))


def test_prediction_is_invariant_under_relabelling(fitted, op_subset_table):
    random = np.random.default_rng(0)
    relabelled = []
    for graph in op_subset_table.graphs:
        order = random.permutation(len(graph.nodes)).tolist()
        place = {old: new for new, old in enumerate(order)}
        edges = tuple((place[start], place[end]) for start, end in graph.edges)
        relabelled.append(ArchGraph(tuple(graph.nodes[old] for old in order), edges))
    np.testing.assert_allclose(fitted.predict(relabelled), fitted.predict(op_subset_table.graphs), atol=1e-5)


def test_a_score_does_not_depend_on_its_company(fitted, op_subset_table):
    graphs = op_subset_table.graphs
    together = fitted.predict(graphs * 3)  # more than one chunk
    np.testing.assert_allclose(together, np.tile(together[: len(graphs)], 3), atol=1e-6)
    np.testing.assert_allclose(fitted.predict(graphs[5:6]), together[5:6], atol=1e-6)
    assert fitted.predict([]).shape == (0,)


def test_foreign_graphs_are_scored(fitted, cell_table):
    assert np.isfinite(fitted.predict(cell_table.graphs)).all()
    assert np.isfinite(fitted.predict([ArchGraph((Node("alone", (("macs", -1e30),)),), ())])).all()


def test_features_enter_where_asked(cell_table):
    chosen = GraphPredictorSettings(members=2, width=8, layers=2, epochs=15, use_features=True)
    predictor = fit_graph(cell_table, "score", chosen, seed=0)
    features = [row.features for row in cell_table.rows]
    scores = predictor.predict(cell_table.graphs, features)
    assert not np.array_equal(scores, predictor.predict(cell_table.graphs, features[::-1]))
    with pytest.raises(InputError, match="synflow"):
        predictor.predict(cell_table.graphs)


def test_ranking_loss_prefers_the_right_order():
    target = torch.tensor([-1.0, 0.0, 1.0])
    right, wrong = target[:, None].repeat(1, 2), -target[:, None].repeat(1, 2)
    for share in (0.0, 0.5, 1.0):
        assert ranking_loss(right, target, share) < ranking_loss(wrong, target, share)
    shifted = right + 5
    assert ranking_loss(shifted, target, 1.0) == pytest.approx(float(ranking_loss(right, target, 1.0)))
    assert ranking_loss(shifted, target, 0.0) == pytest.approx(25.0)
    assert ranking_loss(right[:1], target[:1], 0.5) == 0  # no pair at all


def test_round_trip_and_no_leftovers(fitted, op_subset_table, tmp_path):
    fitted.save(tmp_path / "deep" / "predictor")
    fitted.save(tmp_path / "deep" / "predictor")  # over an old one
    assert sorted(path.name for path in (tmp_path / "deep" / "predictor").iterdir()) == sorted(FILES)
    again = GraphPredictor.load(tmp_path / "deep" / "predictor")
    assert (again.metric, again.settings, again.center, again.scale) == (
        fitted.metric, fitted.settings, fitted.center, fitted.scale,
    )  # fmt: skip
    assert np.array_equal(again.predict(op_subset_table.graphs), fitted.predict(op_subset_table.graphs))


@pytest.mark.parametrize("name", FILES)
def test_missing_file(fitted, tmp_path, name):
    fitted.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name}: cannot read the predictor"):
        GraphPredictor.load(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_no_truncation_and_no_flipped_byte_reads_as_valid(fitted, tmp_path, name):
    fitted.save(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for position in (0, 1, 9, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:position])
        with pytest.raises(InputError):
            GraphPredictor.load(tmp_path)
    for position in random.integers(0, len(whole), 60):
        if whole[position : position + 1].isspace():
            continue  # white space between JSON tokens carries nothing
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(random.integers(0, 7))
        path.write_bytes(bytes(damaged))
        with pytest.raises(InputError):
            GraphPredictor.load(tmp_path)


def test_weights_of_another_predictor(fitted, op_subset_table, tmp_path):
    fitted.save(tmp_path / "a")
    fit_graph(op_subset_table, "accuracy", SMALL, seed=4).save(tmp_path / "b")
    shutil.copy(tmp_path / "b" / FILES[0], tmp_path / "a" / FILES[0])
    with pytest.raises(InputError, match="belongs to another predictor"):
        GraphPredictor.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "newer version"),
        ({"version": 0}, "expected version 1"),
        ({"format": "other"}, "not a predictor"),
        ({"content": []}, "expected version 1"),
        ({"digest": "0"}, "damaged"),
    ],
)
def test_foreign_documents(fitted, tmp_path, change, message):
    fitted.save(tmp_path)
    document = json.loads((tmp_path / FILES[1]).read_text())
    (tmp_path / FILES[1]).write_text(json.dumps({**document, **change}))
    with pytest.raises(InputError, match=message):
        GraphPredictor.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"typical_nodes": 0},
        {"typical_nodes": 10**400},
        {"common": [{"op": "conv", "attributes": []}]},
        {"common": [{"op": "conv", "attributes": {"macs": 10**400}}]},
        {"ops": None},
        {"node": {"mean": [10**400], "weight": [1]}},
    ],
)
def test_contents_of_another_make(fitted, tmp_path, change):
    """Their digest is right, but they are not what this version writes."""
    fitted.save(tmp_path)
    tensors, content = read_predictor(tmp_path)
    write_predictor(tmp_path, tensors, {**content, "encoder": {**content["encoder"], **change}})
    with pytest.raises(InputError, match="the predictor's parts do not fit together"):
        GraphPredictor.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "[" * 100_000, "\xff"])
def test_not_our_json(fitted, tmp_path, text):
    fitted.save(tmp_path)
    (tmp_path / FILES[1]).write_text(text, encoding="latin-1")
    with pytest.raises(InputError):
        GraphPredictor.load(tmp_path)


def test_a_folder_that_cannot_be_written(fitted, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot write"):
        fitted.save(tmp_path / "file" / "predictor")


def test_bad_tables(op_subset_table):
    with pytest.raises(InputError, match="Did you mean 'accuracy'"):
        fit_graph(op_subset_table, "acuracy", SMALL)
    with pytest.raises(InputError, match="at least 2 rows"):
        fit_graph(op_subset_table.subset(np.arange(1)), "accuracy", SMALL)
    same = LabelTable(tuple(LabelRow(row.id, row.graph, {"m": 1.0}) for row in op_subset_table.rows))
    with pytest.raises(InputError, match="numbers that differ"):
        fit_graph(same, "m", SMALL)


@pytest.mark.parametrize("change", [{"members": 0}, {"dropout": 1.0}, {"learning_rate": float("nan")}, {"depth": 3}])
def test_settings_are_checked(change):
    with pytest.raises(ValidationError):
        GraphPredictorSettings(**change)
