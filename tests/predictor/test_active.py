import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.active import RegretScores, fit_surrogate
from predictor.features import FlatEncoder


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
@settings(deadline=None)
def test_regret_scores_keep_the_order_and_come_back(values):
    labels = np.array(values)
    regret = RegretScores.of(labels)
    scores = regret.score(labels)
    order = np.argsort(labels, kind="stable")
    assert (np.diff(scores[order]) >= 0).all()
    np.testing.assert_allclose(regret.label(scores), labels, atol=1e-9)


def test_the_top_is_drawn_apart_and_the_bottom_together():
    regret = RegretScores.of(np.array([0.1, 0.2, 0.90, 0.91, 0.92]))
    low, high = regret.score(np.array([0.1, 0.11, 0.91, 0.92])).reshape(2, 2)
    assert high[1] - high[0] > 5 * (low[1] - low[0])


@pytest.fixture(scope="module")
def columns(op_subset_table):
    encoder = FlatEncoder.fit(op_subset_table.graphs)
    return encoder, encoder.encode(op_subset_table.graphs), op_subset_table.metric("accuracy")


def test_a_surrogate_ranks_what_it_has_not_seen(columns):
    encoder, rows, labels = columns
    surrogate = fit_surrogate(encoder, rows[:50], labels[:50])
    scored = surrogate.score(rows[50:])
    assert np.corrcoef(scored.scores, labels[50:])[0, 1] > 0.7
    assert surrogate.tau > 0.4
    known = surrogate.score(rows[:50])
    assert known.deviations.mean() < scored.deviations.mean()


def test_a_batch_is_distinct_and_its_first_is_the_most_promising(columns):
    encoder, rows, labels = columns
    surrogate = fit_surrogate(encoder, rows[:30], labels[:30])
    choice = surrogate.choose(rows[30:], 8, bonus=0.7)
    value = choice.scored.scores + 0.7 * choice.scored.deviations
    assert len(set(choice.places.tolist())) == 8
    assert choice.places[0] == value.argmax()
    assert (surrogate.choose(rows[30:], 8, 0.7, diverse=False).places == np.argsort(-value, kind="stable")[:8]).all()
    assert len(surrogate.choose(rows[30:33], 8).places) == 3


def test_copies_of_one_candidate_do_not_fill_a_batch(columns):
    encoder, rows, labels = columns
    surrogate = fit_surrogate(encoder, rows[:30], labels[:30])
    others = rows[30:]
    best = surrogate.choose(others, 1, bonus=5.0).places[0]
    copies = np.concatenate([np.tile(others[best], (10, 1)), others])
    alone = surrogate.choose(copies, 5, bonus=5.0, diverse=False).places
    together = surrogate.choose(copies, 5, bonus=5.0).places
    assert (alone < 10).sum() >= 4
    assert ((together < 10) | (together == 10 + best)).sum() < 4


def test_the_same_arguments_give_the_same(columns):
    encoder, rows, labels = columns
    one, two = (fit_surrogate(encoder, rows[:30], labels[:30]).choose(rows[30:], 5) for _ in range(2))
    assert (one.places == two.places).all()
