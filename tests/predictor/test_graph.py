from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from predictor import GraphPredictorSettings, kendall_tau
from predictor.encoding import GraphEncoder
from predictor.graph import GraphEnsemble, fit_ensemble, member_scores, ranking_loss
from predictor.structure import Structure
from supernet import ArchGraph, Node

SMALL = GraphPredictorSettings(members=4, width=8, layers=2, epochs=15)


def encoded(graphs):
    structure = Structure.of(graphs)
    encoder = GraphEncoder.fit(structure)
    return encoder, encoder.encode(structure, np.zeros((len(graphs), 0)))


def standard(values):
    return (values - values.mean()) / values.std()


def test_members_learn_and_differ(op_subset_table):
    encoder, graphs = encoded(op_subset_table.graphs)
    target = standard(op_subset_table.metric("accuracy"))
    scores = member_scores(fit_ensemble(encoder, graphs, target, SMALL, 0), graphs)
    assert scores.shape == (80, 4)
    assert all(kendall_tau(member, target) > 0.6 for member in scores.T)
    assert len({member.tobytes() for member in scores.T}) == 4


def test_a_member_knows_nothing_of_its_fold(op_subset_table):
    """Whatever the labels of a fold are, the member that leaves it out comes to the same."""
    encoder, graphs = encoded(op_subset_table.graphs)
    target, folds = standard(op_subset_table.metric("accuracy")), np.arange(80) % 2
    other = np.where(folds == 1, target[::-1], target)
    # Which pairs there are in a batch depends on labels: squared error alone is free of that.
    settings = SMALL.model_copy(update={"pair_weight": 0.0, "dropout": 0.0})
    one, two = (member_scores(fit_ensemble(encoder, graphs, y, settings, 0, folds), graphs) for y in (target, other))
    np.testing.assert_allclose(one[:, 1::2], two[:, 1::2], atol=1e-3)
    assert np.abs(one[:, ::2] - two[:, ::2]).max() > 0.1


def test_pre_training_learns_to_tell_columns(op_subset_table):
    encoder, graphs = encoded(op_subset_table.graphs)
    target = standard(op_subset_table.metric("accuracy"))
    columns = np.random.default_rng(0).normal(size=(80, 5))
    settings = SMALL.model_copy(update={"pretraining_steps": 20})
    plain = member_scores(fit_ensemble(encoder, graphs, target, SMALL, 0), graphs)
    told = member_scores(fit_ensemble(encoder, graphs, target, settings, 0, None, (graphs, columns)), graphs)
    assert not np.array_equal(plain, told)
    assert kendall_tau(told.mean(axis=1), target) > 0.6
    constant = member_scores(fit_ensemble(encoder, graphs, target, settings, 0, None, (graphs, 0 * columns)), graphs)
    assert np.array_equal(plain, constant)  # nothing to tell


def test_without_reverse_edges_nothing_is_heard_of_followers():
    """In a chain, the first node hears of the last only against the edges."""
    settings = GraphPredictorSettings(members=2, width=8, layers=2, reverse_edges=False)
    one, other = (ArchGraph(tuple(map(Node, ops)), ((0, 1), (1, 2))) for ops in ("aab", "aac"))
    structure = Structure.of([one, other])
    encoder = GraphEncoder.fit(structure)
    graphs = encoder.encode(structure, np.zeros((2, 0)))
    for reverse in (False, True):
        chosen = settings.model_copy(update={"reverse_edges": reverse})
        ensemble = GraphEnsemble(encoder, 0, chosen, torch.Generator().manual_seed(0))
        with torch.inference_mode():
            hidden = torch.relu(ensemble.embed(graphs.x)).view(6, 2, 8)
            for layer in ensemble.layers:
                hidden = layer(hidden, graphs.edges)
        assert torch.equal(hidden[0], hidden[3]) != reverse


def test_ranking_loss_prefers_the_right_order():
    target = torch.tensor([-1.0, 0.0, 1.0])
    right, wrong, seen = target[:, None].repeat(1, 2), -target[:, None].repeat(1, 2), torch.ones(3, 2)
    for share in (0.0, 0.5, 1.0):
        assert ranking_loss(right, target, seen, share) < ranking_loss(wrong, target, seen, share)
    shifted = right + 5
    assert ranking_loss(shifted, target, seen, 1.0) == pytest.approx(float(ranking_loss(right, target, seen, 1.0)))
    assert ranking_loss(shifted, target, seen, 0.0) == pytest.approx(2 * 25.0)  # the sum over members
    assert ranking_loss(right[:1], target[:1], seen[:1], 0.5) == 0  # no pair at all
    half = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    mixed = torch.stack([right[:, 0], wrong[:, 0]], dim=1)
    assert ranking_loss(mixed, target, half, 0.0) == 0  # the wrong member has not seen them


@pytest.mark.parametrize("change", [{"members": 0}, {"pair_weight": 1.5}, {"dropout": 1.0}, {"wdith": 3}])
def test_settings_are_checked(change):
    with pytest.raises(ValidationError):
        GraphPredictorSettings.model_validate(change)


def test_settings_of_earlier_runs_are_read():
    assert GraphPredictorSettings.model_validate({"use_features": False}) == GraphPredictorSettings()
    with pytest.raises(ValidationError, match="use_features"):
        GraphPredictorSettings.model_validate({"use_features": True})
