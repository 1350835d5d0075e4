"""One contract for all models, their files, and what is particular to the hybrid."""

from __future__ import annotations

import itertools
import json
import shutil

import numpy as np
import pytest
import torch

from predictor import MODELS, GraphPredictorSettings, Predictor, fit_models, fit_predictor, kendall_tau
from predictor.components import COMPONENTS, READERS
from predictor.files import read_predictor, write_predictor
from predictor.models import score_models
from supernet import ArchGraph, InputError, LabelRow, LabelTable, Node
from supernet.settings import UnavailableError

NAMES = sorted(MODELS)
LEARNERS = sorted(set(MODELS) - {"macs"})
SMALL = GraphPredictorSettings(members=5, width=8, layers=2, epochs=15, pretraining_steps=10)
FILES = ("predictor.safetensors", "predictor.json")


@pytest.fixture(scope="module")
def fitted(op_subset_table) -> dict[str, Predictor]:
    train = op_subset_table.subset(np.arange(60))
    return {name: part.predictor for name, part in fit_models(train, "accuracy", NAMES, 1, SMALL).items()}


def test_every_component_is_of_some_model():
    assert {name for names in MODELS.values() for name in names} == set(COMPONENTS) == set(READERS)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_finite_and_in_the_units_of_the_metric(fitted, op_subset_table, name):
    predicted, measured = fitted[name].predict(op_subset_table.graphs), op_subset_table.metric("accuracy")
    assert predicted.shape == (80,)
    assert predicted.dtype == np.float64
    assert np.abs(predicted - measured).mean() < 2 * measured.std()
    assert fitted[name].predict([]).shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_a_score_depends_on_its_graph_alone(fitted, op_subset_table, name):
    graphs = op_subset_table.graphs
    scores = fitted[name].score(graphs).scores
    random = np.random.default_rng(0)
    relabelled = []
    for graph in graphs:
        order = random.permutation(len(graph.nodes)).tolist()
        place = {old: new for new, old in enumerate(order)}
        edges = tuple((place[start], place[end]) for start, end in graph.edges)
        relabelled.append(ArchGraph(tuple(graph.nodes[old] for old in order), edges))
    np.testing.assert_allclose(fitted[name].score(relabelled).scores, scores, atol=1e-5)
    many = fitted[name].score(graphs * 8).scores  # more than one chunk
    np.testing.assert_allclose(many, np.tile(scores, 8), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_repeats_and_the_global_generators_are_left_alone(fitted, op_subset_table, name):
    torch.manual_seed(11)
    state, ours = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again = fit_predictor(op_subset_table.subset(np.arange(60)), "accuracy", name, 1, SMALL)
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.array_equal(ours, np.random.get_state()[1])  # noqa: NPY002
    graphs = op_subset_table.graphs
    assert np.array_equal(again.predict(graphs), fitted[name].predict(graphs))


@pytest.mark.parametrize("name", NAMES)
def test_ranks_held_out_architectures(fitted, op_subset_table, name):
    held_out = op_subset_table.subset(np.arange(60, 80))
    assert kendall_tau(fitted[name].predict(held_out.graphs), held_out.metric("accuracy")) > 0.3


@pytest.mark.parametrize("name", LEARNERS)
def test_tables_without_attributes(cell_table, name):
    train, test = cell_table.subset(np.arange(45)), cell_table.subset(np.arange(45, 60))
    predictor = fit_predictor(train, "score", name, 0, SMALL, use_features=False)
    assert kendall_tau(predictor.predict(test.graphs), test.metric("score")) > 0.3  # some of it goes by dead operations


@pytest.mark.parametrize("name", NAMES)
def test_foreign_graphs_are_scored(fitted, cell_table, name):
    assert np.isfinite(fitted[name].predict(cell_table.graphs)).all()
    assert np.isfinite(fitted[name].predict([ArchGraph((Node("alone", (("macs", -1e30),)),), ())])).all()
    assert np.isfinite(fitted[name].predict([ArchGraph((Node("none"),), ())])).all()  # nothing of it is alive


def odd_tables() -> dict[str, LabelTable]:
    random = np.random.default_rng(0)

    def table(graphs, values) -> LabelTable:
        rows = [
            LabelRow(str(i), graph, {"m": float(value)})
            for i, (graph, value) in enumerate(zip(graphs, values, strict=True))
        ]
        return LabelTable(tuple(rows))

    def chain(ops) -> ArchGraph:
        return ArchGraph(tuple(map(Node, ops)), tuple((i, i + 1) for i in range(len(ops) - 1)))

    lengths = random.integers(1, 9, 30)
    channels = random.choice([8.0, 16.0, 32.0], (30, 3))
    return {
        "two rows": table([chain("ab"), chain("b")], [0, 1]),
        "three rows": table([chain("a"), chain("b"), chain("c")], [0, 1, 1]),
        "one operation": table([chain("a" * length) for length in lengths], lengths),
        "one graph": table([chain("abc")] * 12, range(12)),
        "ties": table([chain("a" * length) for length in lengths], lengths > 4),
        "channels alone": table(
            [ArchGraph(tuple(Node("conv", (("out", out),)) for out in row), ((0, 1), (1, 2))) for row in channels],
            np.log(channels).sum(axis=1),
        ),
        "no edges": table(
            [ArchGraph(tuple(map(Node, random.choice(list("abc"), 4))), ()) for _ in range(20)], range(20)
        ),
        "zeros alone": table([chain(["input", "none", "output"]), chain("ab"), chain("b")], [0, 1, 2]),
    }


@pytest.mark.parametrize("kind", odd_tables())
@pytest.mark.parametrize("name", NAMES)
def test_odd_tables(name, kind):
    table = odd_tables()[kind]
    predictor = fit_predictor(table, "m", name, 0, SMALL)
    predicted = predictor.predict(table.graphs)
    assert np.isfinite(predicted).all()
    low, high = predictor.interval(predictor.score(table.graphs), 0.8)
    assert (low <= predicted).all()
    assert (predicted <= high).all()
    assert np.isfinite(predictor.distance(table.graphs)).all()
    if kind in ("one operation", "channels alone") and name in ("hybrid", "gp", "trees"):
        assert kendall_tau(predicted, table.metric("m")) > 0.6


def test_structure_matters_and_not_only_the_bag_of_nodes():
    """Two cells of the same nodes, wired in a row or side by side: only the edges tell them apart."""
    nodes = (Node("in"), Node("conv"), Node("conv"), Node("sum"))
    row = ArchGraph(nodes, ((0, 1), (1, 2), (2, 3), (0, 3)))
    side = ArchGraph(nodes, ((0, 1), (0, 2), (1, 3), (2, 3)))
    rows = tuple(LabelRow(str(i), row if i % 2 else side, {"m": float(i % 2)}) for i in range(20))
    for name in ("hybrid", "graph", "gp", "trees"):
        scores = fit_predictor(LabelTable(rows), "m", name, 0, SMALL).predict([row, side])
        assert scores[0] - scores[1] > 0.5, name


@pytest.mark.parametrize("name", LEARNERS)
def test_features_enter_where_rows_have_them(cell_table, name):
    predictor = fit_predictor(cell_table, "score", name, 0, SMALL)
    features = [row.features for row in cell_table.rows]
    assert predictor.features == ("synflow",)
    scores = predictor.predict(cell_table.graphs, features)
    assert not np.array_equal(scores, predictor.predict(cell_table.graphs, features[::-1]))
    with pytest.raises(InputError, match="features synflow; expected them for 60 architectures, got none"):
        predictor.predict(cell_table.graphs)
    assert fit_predictor(cell_table, "score", name, 0, SMALL, use_features=False).features == ()


def test_weights_are_of_the_components_that_are_there(fitted):
    for name, predictor in fitted.items():
        assert set(predictor.weights) == set(predictor.components) <= set(MODELS[name])
        assert sum(predictor.weights.values()) == pytest.approx(1)


def test_models_that_are_fitted_together_are_those_fitted_alone(fitted, op_subset_table):
    alone = fit_predictor(op_subset_table.subset(np.arange(60)), "accuracy", "hybrid", 1, SMALL)
    graphs = op_subset_table.graphs
    assert np.array_equal(alone.predict(graphs), fitted["hybrid"].predict(graphs))
    together = score_models({name: fitted[name] for name in ("hybrid", "gp", "macs")}, graphs)
    for name, scored in together.items():
        own = fitted[name].score(graphs)
        assert np.array_equal(scored.scores, own.scores)
        assert np.array_equal(scored.deviations, own.deviations)


def test_intervals_grow_with_the_level_and_hold_the_training_labels(fitted, op_subset_table):
    predictor, table = fitted["hybrid"], op_subset_table
    scored, measured = predictor.score(table.graphs), table.metric("accuracy")
    ends = [predictor.interval(scored, level) for level in (0.5, 0.8, 0.95)]
    for (low, high), (lower, higher) in itertools.pairwise(ends):
        assert (lower <= low).all()
        assert (high <= higher).all()
    assert ((ends[2][0] <= measured) & (measured <= ends[2][1])).mean() > 0.85
    low, high = predictor.interval(scored, 0.999)  # 60 labels cannot tell
    assert (low <= measured[:60].min()).all()
    assert (high >= measured[:60].max()).all()


def test_distance_is_nothing_to_training_graphs_and_grows(fitted, op_subset_table, cell_table):
    distance = fitted["hybrid"].distance(op_subset_table.graphs)
    np.testing.assert_allclose(distance[:60], 0, atol=1e-3)
    assert np.median(distance[60:]) == pytest.approx(1, abs=0.3)
    assert fitted["hybrid"].distance(cell_table.graphs).min() > distance.max()


def test_out_of_fold_scores_are_of_members_that_have_not_seen_the_label(op_subset_table):
    """Labels by chance are predicted no better than chance, however few members are asked for."""
    random = np.random.default_rng(0)
    rows = tuple(LabelRow(row.id, row.graph, {"m": float(random.normal())}) for row in op_subset_table.rows)
    for members in (1, 7):
        settings = SMALL.model_copy(update={"members": members, "epochs": 60})
        predictor = fit_predictor(LabelTable(rows), "m", "graph", 0, settings)
        # As far off as the labels spread: what was learnt by heart would be told far better.
        assert np.mean(predictor.surprises**2) ** 0.5 * predictor.deviation > 0.9


def test_an_unknown_model(op_subset_table):
    with pytest.raises(InputError, match="model 'hybird' does not exist"):
        fit_predictor(op_subset_table, "accuracy", "hybird")


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_and_no_leftovers(fitted, op_subset_table, tmp_path, name):
    fitted[name].save(tmp_path / "deep")
    fitted[name].save(tmp_path / "deep")  # over an old one
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == sorted(FILES)
    again = Predictor.load(tmp_path / "deep")
    graphs = op_subset_table.graphs
    one, two = fitted[name].score(graphs), again.score(graphs)
    np.testing.assert_allclose(two.scores, one.scores, atol=1e-9)
    np.testing.assert_allclose(two.deviations, one.deviations, atol=1e-9)
    assert (again.metric, again.model, again.weights) == ("accuracy", name, fitted[name].weights)
    np.testing.assert_allclose(again.interval(two, 0.8), fitted[name].interval(one, 0.8))
    assert np.array_equal(again.distance(graphs), fitted[name].distance(graphs))


@pytest.mark.parametrize("file", FILES)
def test_missing_file(fitted, tmp_path, file):
    fitted["gp"].save(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(InputError, match=f"{file}: cannot read the predictor"):
        Predictor.load(tmp_path)


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_found(fitted, tmp_path, file):
    fitted["ridge"].save(tmp_path)
    path = tmp_path / file
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 40).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(InputError):
            Predictor.load(tmp_path)


def test_files_of_two_predictors_are_not_mixed(fitted, tmp_path):
    fitted["ridge"].save(tmp_path / "one")
    fitted["gp"].save(tmp_path / "two")
    shutil.copy(tmp_path / "one" / FILES[0], tmp_path / "two" / FILES[0])
    with pytest.raises(InputError, match="belongs to another predictor"):
        Predictor.load(tmp_path / "two")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "else"}, "not a predictor"),
        ({"format": "genas-graph-predictor"}, "of an earlier version"),
        ({"version": 99}, "newer version"),
        ({"version": 0}, "expected version 1"),
        ({"content": 3}, "expected version 1"),
    ],
)
def test_foreign_documents(fitted, tmp_path, change, message):
    fitted["ridge"].save(tmp_path)
    path = tmp_path / "predictor.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        Predictor.load(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays, content: content["weights"].clear(),
        lambda arrays, content: content["components"].clear(),
        lambda arrays, content: content["encoder"]["columns"]["place"].append(10**6),
        lambda arrays, content: content.pop("reach"),
        lambda arrays, content: arrays.pop("gaussian/weights"),
        lambda arrays, content: arrays.update({"gaussian/inputs": np.array([10**6])}),
        lambda arrays, content: arrays.update({"boosted/left": arrays["boosted/left"] * 0}),
        lambda arrays, content: arrays.update(rows=arrays["rows"][:, :-1]),
        lambda arrays, content: content.update(model="else"),
    ],
)
def test_parts_that_do_not_fit_together(op_subset_table, tmp_path, damage):
    predictor = fit_models(op_subset_table, "accuracy", ["hybrid"], 1, SMALL)["hybrid"].predictor
    predictor.save(tmp_path)
    arrays, content = read_predictor(tmp_path)
    damage(arrays, content)
    write_predictor(tmp_path, arrays, content)
    with pytest.raises(InputError, match="parts do not fit together"):
        Predictor.load(tmp_path)


def test_a_folder_that_cannot_be_written(fitted, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError):
        fitted["ridge"].save(tmp_path / "file")
