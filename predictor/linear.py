"""The simple models that every other has to beat: plain MACs, ridge regression, a perceptron."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from torch import nn

from predictor.structure import Floats

Arrays = Mapping[str, NDArray[np.generic]]

_STRENGTHS = np.logspace(-1, 5, 25)
_HIDDEN = 64
_EPOCHS = 60


@dataclass(frozen=True, slots=True)
class Linear:
    """A weighted sum of columns.

    Attributes:
        weights: (columns,).
        offset: added to the sum.
    """

    weights: Floats
    offset: float

    def predict(self, x: Floats) -> Floats:
        """(rows, columns) to (rows,)."""
        return np.asarray(x @ self.weights + self.offset, np.float64)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Arrays by name."""
        return {"weights": self.weights, "offset": np.array([self.offset])}

    @staticmethod
    def from_arrays(arrays: Arrays) -> Linear:
        """The inverse of :meth:`to_arrays`. Raises KeyError, IndexError or ValueError for anything else."""
        return Linear(np.asarray(arrays["weights"], np.float64), float(np.asarray(arrays["offset"], np.float64)[0]))


def fit_ridge(x: Floats, y: Floats) -> Linear:
    """Ridge regression, its strength by leave-one-out error (Hoerl and Kennard 1970)."""
    if len(y) < 3 or not x.shape[1]:  # nothing to choose a strength by
        return Linear(np.zeros(x.shape[1]), float(y.mean()))
    model = RidgeCV(alphas=_STRENGTHS).fit(x, y)
    return Linear(np.asarray(model.coef_, np.float64), float(model.intercept_))


@dataclass(frozen=True, slots=True)
class Perceptron:
    """Two hidden layers, the "NN predictor" of published comparisons.

    Attributes:
        layers: weights (outputs, inputs) and biases (outputs,) of each layer.
    """

    layers: tuple[tuple[Floats, Floats], ...]

    def predict(self, x: Floats) -> Floats:
        """(rows, columns) to (rows,)."""
        hidden = x
        for place, (weight, bias) in enumerate(self.layers):
            hidden = hidden @ weight.T + bias
            if place < len(self.layers) - 1:
                hidden = np.maximum(hidden, 0)
        return np.asarray(hidden[:, 0], np.float64)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Arrays by name."""
        return {
            f"{name}{place}": value
            for place, layer in enumerate(self.layers)
            for name, value in zip(("weight", "bias"), layer, strict=True)
        }

    @staticmethod
    def from_arrays(arrays: Arrays) -> Perceptron:
        """The inverse of :meth:`to_arrays`. Raises KeyError or ValueError for anything else."""
        layers: list[tuple[Floats, Floats]] = []
        for place in range(len(arrays) // 2):
            weight, bias = (np.asarray(arrays[f"{name}{place}"], np.float64) for name in ("weight", "bias"))
            before = layers[-1][0].shape[0] if layers else weight.shape[1]
            if weight.ndim != 2 or weight.shape != (len(bias), before):
                raise ValueError("the layers of a perceptron do not fit together")
            layers.append((weight, bias))
        if not layers or len(layers[-1][1]) != 1:
            raise ValueError("a perceptron has one output")
        return Perceptron(tuple(layers))


def fit_perceptron(x: Floats, y: Floats, seed: int) -> Perceptron:
    """Squared error with dropout and decoupled weight decay; the same arguments give the same weights."""
    if not x.shape[1]:
        return Perceptron(((np.zeros((1, 0)), np.array([y.mean()])),))
    inputs, target = torch.from_numpy(x).float(), torch.from_numpy(y).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(inputs.shape[1], _HIDDEN), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU(), nn.Dropout(0.2), nn.Linear(_HIDDEN, 1),
        )  # fmt: skip
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
        for _ in range(_EPOCHS):
            for batch in torch.split(torch.randperm(len(target)), 32):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(inputs[batch]).squeeze(1), target[batch])
                torch.autograd.backward(loss)
                optimizer.step()
    linear = [module for module in model if isinstance(module, nn.Linear)]
    return Perceptron(
        tuple((layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()) for layer in linear)
    )
