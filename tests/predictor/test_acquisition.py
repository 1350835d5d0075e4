import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from predictor import fit_predictor
from predictor.acquisition import acquire, thompson
from predictor.models import Scored


def scored(means, deviations):
    return Scored(np.atleast_1d(np.float64(means)), np.atleast_1d(np.float64(deviations)))


@given(st.floats(-3, 3), st.floats(0.05, 2), st.floats(-3, 3))
@settings(max_examples=40, deadline=None)
def test_improvement_is_the_log_of_the_integral(mean, deviation, best):
    found = acquire(scored(mean, deviation), "improvement", best)[0]
    if (mean - best) / deviation < -7:
        return
    gain = integrate.quad(
        lambda value: (value - best) * stats.norm.pdf(value, mean, deviation), best, max(best, mean) + 12 * deviation
    )[0]
    assert np.exp(found) == pytest.approx(gain, rel=1e-3, abs=1e-14)


def test_improvement_still_tells_the_hopeless_apart():
    means = -np.geomspace(1, 1e4, 200)
    values = acquire(Scored(means, np.ones(200)), "improvement", 0.0)
    assert np.isfinite(values).all()
    assert (np.diff(values) < 0).all()


def test_bounds_and_the_mean():
    one = Scored(np.array([1.0, 2.0]), np.array([0.5, 1.0]))
    assert acquire(one, "mean").tolist() == [1, 2]
    assert acquire(one, "lower", weight=2).tolist() == [0, 0]


@pytest.mark.parametrize("model", ["gp", "hybrid"])
def test_a_draw_is_one_function_near_what_is_predicted(op_subset_table, model):
    table = op_subset_table
    predictor = fit_predictor(table, "accuracy", model)
    graphs = list(table.graphs)
    draw = thompson(predictor, np.random.default_rng(0))
    first = draw.score(graphs)
    assert draw.score(graphs[::-1])[::-1] == pytest.approx(first, abs=1e-6)
    other = thompson(predictor, np.random.default_rng(1)).score(graphs)
    mean = predictor.score(graphs).scores
    assert np.abs(first - other).max() > 1e-3
    assert np.corrcoef(first, mean)[0, 1] > 0.8


def test_draws_of_a_process_vary_as_much_as_it_is_uncertain(op_subset_table):
    table = op_subset_table
    half = type(table)(table.rows[:25])
    predictor = fit_predictor(half, "accuracy", "gp")
    graphs = list(table.graphs[25:])
    told = predictor.score(graphs)
    draws = np.stack([thompson(predictor, np.random.default_rng(seed)).score(graphs) for seed in range(200)])
    process = predictor.components["gaussian"].model
    exact = np.sqrt(np.maximum(told.deviations**2 - process.noise, 0))
    np.testing.assert_allclose(draws.mean(axis=0), told.scores, atol=0.25)
    assert draws.std(axis=0).mean() == pytest.approx(exact.mean(), rel=0.2)
