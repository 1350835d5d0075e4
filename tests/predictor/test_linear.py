from __future__ import annotations

import numpy as np
import pytest
import torch

from predictor.linear import Linear, Perceptron, fit_perceptron, fit_ridge

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(80, 5))
Y = X @ np.array([1.0, -2.0, 0.0, 0.5, 0.0])


def test_ridge_finds_the_weights():
    model = fit_ridge(X, Y)
    np.testing.assert_allclose(model.weights, [1, -2, 0, 0.5, 0], atol=0.01)
    assert np.array_equal(Linear.from_arrays(model.to_arrays()).predict(X), model.predict(X))


def test_ridge_of_hardly_anything_is_the_mean():
    assert fit_ridge(X[:2], Y[:2]).predict(X[:1])[0] == pytest.approx(Y[:2].mean())
    assert fit_ridge(np.zeros((5, 0)), np.arange(5.0)).predict(np.zeros((1, 0))).tolist() == [2]


def test_perceptron_learns_and_repeats():
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    model = fit_perceptron(X, Y, 1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.corrcoef(model.predict(X), Y)[0, 1] > 0.95
    assert np.array_equal(fit_perceptron(X, Y, 1).predict(X), model.predict(X))
    assert not np.array_equal(fit_perceptron(X, Y, 2).predict(X), model.predict(X))
    assert np.array_equal(Perceptron.from_arrays(model.to_arrays()).predict(X), model.predict(X))
    assert np.isfinite(fit_perceptron(np.zeros((5, 0)), np.arange(5.0), 0).predict(np.zeros((2, 0)))).all()


@pytest.mark.parametrize("name", ["weight1", "bias0"])
def test_layers_that_do_not_fit_are_refused(name):
    arrays = fit_perceptron(X, Y, 1).to_arrays()
    with pytest.raises(ValueError, match="perceptron"):
        Perceptron.from_arrays({**arrays, name: arrays[name][:-1]})
