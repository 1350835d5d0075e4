from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor

from predictor.trees import Trees, _rounded_down, fit_boosted, fit_extra

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 7)).round(1)  # with ties
Y = X[:, 0] + X[:, 1] * X[:, 2]


@pytest.mark.parametrize(
    ("fit", "theirs"),
    [
        (
            fit_boosted,
            GradientBoostingRegressor(
                n_estimators=300, learning_rate=0.05, max_depth=4, subsample=0.5, max_features=0.3, random_state=3
            ),
        ),
        (
            fit_extra,
            ExtraTreesRegressor(200, min_samples_leaf=2, max_features=0.4, random_state=3),
        ),
    ],
)
def test_says_what_scikit_learn_says(fit, theirs):
    trees = fit(X, Y, 3)
    theirs.fit(X, Y)
    others = np.concatenate([X, RANDOM.normal(size=(700, 7))])  # more than one block
    np.testing.assert_allclose(trees.predict(others), theirs.predict(others), atol=1e-12)
    again = Trees.from_arrays(trees.to_arrays())
    assert np.array_equal(again.predict(others), trees.predict(others))
    assert again.depth == trees.depth


@pytest.mark.parametrize("fit", [fit_boosted, fit_extra])
def test_nothing_to_learn_from(fit):
    assert fit(np.zeros((5, 0)), np.arange(5.0), 0).predict(np.zeros((3, 0))).tolist() == [2, 2, 2]
    assert fit(np.zeros((1, 2)), np.array([7.0]), 0).predict(np.ones((2, 2))).tolist() == [7, 7]
    np.testing.assert_allclose(fit(np.ones((6, 2)), np.arange(6.0), 0).predict(np.ones((1, 2))), 2.5, atol=0.5)
    np.testing.assert_allclose(fit(X, np.full(60, 4.0), 0).predict(X), 4)
    assert fit(X, Y, 0).predict(X[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("left", lambda left: np.zeros_like(left)),  # a circle
        ("left", lambda left: left + 10**6),
        ("left", lambda left: -left - 1),
        ("feature", lambda feature: feature - 100),
        ("roots", lambda roots: roots + 10**6),
        ("value", lambda value: value[:-1]),
        ("threshold", lambda threshold: np.zeros_like(threshold)),
    ],
)
def test_damaged_arrays_are_refused(name, value):
    arrays = fit_boosted(X, Y, 0).to_arrays()
    with pytest.raises(ValueError, match="tree"):
        Trees.from_arrays({**arrays, name: value(arrays[name])})


@given(st.floats(-3e38, 3e38))
def test_a_threshold_rounded_down_compares_as_before(threshold):
    rounded = _rounded_down(np.array([threshold]))
    above = np.nextafter(rounded, np.float32(np.inf))
    assert rounded.dtype == np.float32
    assert float(rounded[0]) <= threshold < float(above[0])


def test_values_on_and_beside_a_threshold_go_as_in_scikit_learn():
    """Thresholds are of double precision there, of single precision here, features single in both."""
    theirs = ExtraTreesRegressor(200, min_samples_leaf=2, max_features=0.4, random_state=3).fit(X, Y)
    trees = fit_extra(X, Y, 3)
    asked = np.flatnonzero(np.isfinite(trees.threshold))[:500]
    exact = trees.threshold[asked]
    rows = np.zeros((3, len(asked), 7), np.float32)
    for place, values in enumerate((exact, np.nextafter(exact, np.float32(9)), np.nextafter(exact, np.float32(-9)))):
        rows[place, np.arange(len(asked)), trees.feature[asked]] = values
    flat = rows.reshape(-1, 7)
    np.testing.assert_allclose(trees.predict(flat), theirs.predict(flat), atol=1e-12)
