from __future__ import annotations

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern, WhiteKernel

import predictor.gaussian
from predictor.gaussian import GaussianProcess, Term, fit_gaussian

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 4))
Y = np.sin(X[:, 0]) + 0.5 * X[:, 1] + 0.1 * RANDOM.normal(size=60)
Y = (Y - Y.mean()) / Y.std()
TERMS = [Term("linear", np.array([0, 1, 2, 3])), Term("matern", np.array([0, 1])), Term("matern", np.array([2, 3]))]


def test_is_the_process_that_scikit_learn_has_of_the_same_settings():
    process = fit_gaussian(X, Y, [Term("matern", np.arange(4))])
    variance, length = float(process.variances[0]), float(process.lengths[0])
    # Distances here are means over columns: a length scale there is twice as long for four columns.
    kernel = variance * Matern(2 * length, nu=2.5) + WhiteKernel(process.noise)
    theirs = GaussianProcessRegressor(kernel, optimizer=None).fit(X, Y)
    other = RANDOM.normal(size=(20, 4))
    mean, deviation = theirs.predict(other, return_std=True)
    mine = process.predict_with_deviation(other)
    np.testing.assert_allclose(mine[0], mean, atol=1e-5)
    np.testing.assert_allclose(mine[1], deviation, atol=1e-5)
    np.testing.assert_allclose(process.predict(other), mine[0])


def test_out_of_fold_is_what_a_process_without_the_fold_says():
    process = fit_gaussian(X, Y, TERMS)
    folds = np.arange(60) % 4
    mean, deviation = process.out_of_fold(Y, folds)
    for fold in range(4):
        kept = folds != fold
        arrays = process.to_arrays()
        covariance = process.covariance(X)[np.ix_(kept, kept)] + (process.noise + 1e-8) * np.eye(kept.sum())
        weights = np.linalg.solve(covariance, Y[kept])
        without = GaussianProcess.from_arrays({**arrays, "rows": X[kept], "weights": weights})
        expected = without.predict_with_deviation(X[~kept])
        np.testing.assert_allclose(mean[~kept], expected[0], atol=1e-7)
        np.testing.assert_allclose(deviation[~kept], expected[1], atol=1e-5)


def test_settings_are_a_minimum_and_learn_what_matters():
    process = fit_gaussian(X, Y, TERMS)
    assert process.noise < 0.2
    assert process.variances[1] > process.variances[2]  # the columns that the labels are made of
    other = RANDOM.normal(size=(200, 4))
    truth = np.sin(other[:, 0]) + 0.5 * other[:, 1]
    assert np.corrcoef(process.predict(other), truth)[0, 1] > 0.95


def test_intervals_hold_what_they_should():
    other = RANDOM.normal(size=(2000, 4))
    labels = np.sin(other[:, 0]) + 0.5 * other[:, 1] + 0.3 * RANDOM.normal(size=2000)
    process = fit_gaussian(other[:200], labels[:200], TERMS)
    mean, deviation = process.predict_with_deviation(other[200:])
    assert np.mean(np.abs(labels[200:] - mean) < 1.2816 * deviation) == pytest.approx(0.8, abs=0.04)


def test_many_rows_choose_settings_on_some(monkeypatch):
    monkeypatch.setattr(predictor.gaussian, "_MOST", 30)
    process = fit_gaussian(X, Y, TERMS, seed=1)
    assert len(process.rows) == 60
    np.testing.assert_allclose(process.predict(X), Y, atol=1.0)
    assert np.array_equal(process.weights, fit_gaussian(X, Y, TERMS, seed=1).weights)


def test_terms_without_columns_are_left_out():
    process = fit_gaussian(X, Y, [*TERMS, Term("matern", np.zeros(0, np.int64))])
    assert len(process.terms) == 3
    alone = fit_gaussian(X, Y, [Term("matern", np.zeros(0, np.int64))])  # nothing to tell rows apart by
    np.testing.assert_allclose(alone.predict(X), 0, atol=1e-9)


def test_round_trip():
    process = fit_gaussian(X, Y, TERMS)
    again = GaussianProcess.from_arrays(process.to_arrays())
    np.testing.assert_allclose(again.predict(X), process.predict(X))
    np.testing.assert_allclose(again.predict_with_deviation(X)[1], process.predict_with_deviation(X)[1])


@pytest.mark.parametrize(
    ("name", "value"), [("weights", Y[:-1]), ("sizes", np.array([4, 2, 3])), ("columns", np.array([0, 1, 2, 9] * 2))]
)
def test_arrays_that_do_not_fit_are_refused(name, value):
    arrays = fit_gaussian(X, Y, TERMS).to_arrays()
    with pytest.raises(ValueError, match="Gaussian process"):
        GaussianProcess.from_arrays({**arrays, name: value})
