"""What a search maximises where a prediction is uncertain: by how much to trust it, and what is worth finding out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from scipy.special import ndtr

from predictor.components import Flat, GraphNetworks, Scorer, View
from predictor.gaussian import GaussianProcess
from predictor.models import Predictor, Scored, blended
from predictor.structure import Floats
from supernet import ArchGraph

Rule: TypeAlias = Literal["mean", "lower", "improvement"]

_FAR = -8.0  # deviations below the best, from which on a series stands for the improvement


def acquire(scored: Scored, rule: Rule, best: float = 0.0, weight: float = 1.0) -> Floats:
    """What to maximise, (architectures,), in normal scores or, for ``improvement``, their logarithm.

    - ``mean``: the prediction.
    - ``lower``: less so many deviations, for a winner that has to hold what it promises.
    - ``improvement``: log of the improvement over the best label that is to be expected (Jones et al. 1998; Ament et
      al. 2023); 0 deviations would make it the mean.

    Args:
        best: normal score of the best label.
        weight: deviations of ``lower``.
    """
    if rule == "mean":
        return scored.scores
    if rule == "lower":
        return scored.scores - weight * scored.deviations
    deviations = np.maximum(scored.deviations, 1e-12)
    z = (scored.scores - best) / deviations
    near = np.maximum(z, _FAR)
    gain = near * ndtr(near) + np.exp(-0.5 * near**2) / np.sqrt(2 * np.pi)
    # Beyond: the first term of Mills' ratio, without which everything far is equally hopeless.
    tail = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) - 2 * np.log(np.maximum(-z, 1.0))
    return np.asarray(np.where(z > _FAR, np.log(np.maximum(gain, 1e-300)), tail) + np.log(deviations), np.float64)


@dataclass(frozen=True, slots=True)
class Draw:
    """One of the functions that the labels allow.

    Attributes:
        predictor: what it was drawn from.
        parts: drawn components, by the names of the predictor's.
    """

    predictor: Predictor
    parts: Mapping[str, Scorer]

    def score(self, graphs: Sequence[ArchGraph]) -> Floats:
        """Its normal scores, (graphs,); the same for the same graph, however often it is asked."""
        return blended(self.predictor.encoder, self.parts, self.predictor.weights, graphs)


def thompson(predictor: Predictor, random: np.random.Generator) -> Draw:
    """One of the functions that the labels allow, drawn from what the predictor knows (Thompson 1933).

    Of an ensemble of graph networks one member stands for all; of a Gaussian process a sample path: a draw of the
    prior, by random features, plus what the labels correct of it (Rahimi and Recht 2007; Wilson et al. 2020). Others
    stay as they are.
    """
    drawn: dict[str, Scorer] = {}
    for name, component in predictor.components.items():
        if isinstance(component, GraphNetworks):
            drawn[name] = _Member(component, int(random.integers(component.ensemble.members)))
        elif isinstance(component, Flat) and isinstance(component.model, GaussianProcess):
            drawn[name] = _Path.of(component, random)
        else:
            drawn[name] = component
    return Draw(predictor, drawn)


@dataclass(frozen=True, slots=True)
class _Member:
    """One graph network of an ensemble."""

    networks: GraphNetworks
    place: int

    def scores(self, view: View) -> Floats:
        return np.asarray(self.networks.each(view)[:, self.place], np.float64)


_FEATURES = 512


@dataclass(frozen=True, slots=True)
class _Path:
    """A sample path of a Gaussian process."""

    process: Flat
    frequencies: tuple[tuple[Floats, Floats] | None, ...]
    prior: tuple[Floats, ...]
    correction: Floats

    @staticmethod
    def of(component: Flat, random: np.random.Generator) -> _Path:
        process = component.model
        assert isinstance(process, GaussianProcess)
        frequencies: list[tuple[Floats, Floats] | None] = []
        prior = []
        for term, variance, length in zip(process.terms, process.variances, process.lengths, strict=True):
            width = len(term.columns)
            if term.shape == "linear":
                frequencies.append(None)
                prior.append(np.sqrt(variance / width) * random.standard_normal(width))
            else:  # the spectrum of a Matern 5/2 kernel is a Student t of 5 degrees of freedom
                spread = np.sqrt(5 / random.chisquare(5, _FEATURES)) / (length * np.sqrt(width))
                waves = random.standard_normal((width, _FEATURES)) * spread
                frequencies.append((waves, random.uniform(0, 2 * np.pi, _FEATURES)))
                prior.append(np.sqrt(2 * variance / _FEATURES) * random.standard_normal(_FEATURES))
        path = _Path(component, tuple(frequencies), tuple(prior), np.empty(0))
        noise = np.sqrt(process.noise) * random.standard_normal(len(process.rows))
        error = path._prior(process.rows) + noise
        half = np.linalg.solve(process.root, error)
        return replace(path, correction=process.weights - np.linalg.solve(process.root.T, half))

    def scores(self, view: View) -> Floats:
        process = self.process.model
        assert isinstance(process, GaussianProcess)
        x = view.flat[:, self.process.columns]
        return np.asarray(self._prior(x) + process.covariance(x) @ self.correction, np.float64)

    def _prior(self, x: Floats) -> Floats:
        process = self.process.model
        assert isinstance(process, GaussianProcess)
        total = np.zeros(len(x))
        for term, waves, weights in zip(process.terms, self.frequencies, self.prior, strict=True):
            part = x[:, term.columns]
            total += (part if waves is None else np.cos(part @ waves[0] + waves[1])) @ weights
        return total
