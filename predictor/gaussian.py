"""An exact Gaussian process over groups of columns, its settings by maximum posterior likelihood.

The kernel is a sum, one term for each group of columns: linear, or Matern 5/2 with a length scale of its own; each term
has a variance. Priors keep few labels from deciding much (Rasmussen and Williams 2006, chapters 2, 4 and 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from predictor.structure import Floats, Ints

Shape = Literal["linear", "matern"]

_MOST = 600  # rows that the settings are searched on; more would only cost time
_LENGTH, _LENGTH_SPREAD = 0.7, 1.0  # prior of the logarithm of a length scale
_VARIANCE_SPREAD = 1.5  # of the logarithm of a variance; the mean shares one among the terms
_NOISE, _NOISE_SPREAD = -1.6, 1.5  # of the logarithm of the noise's variance
_JITTER = 1e-8
_FARTHEST = 25.0  # logarithms of settings beyond which numbers overflow


@dataclass(frozen=True, slots=True)
class Term:
    """One term of the kernel: its shape, and the columns that it sees."""

    shape: Shape
    columns: Ints


@dataclass(frozen=True, slots=True)
class GaussianProcess:
    """A fitted process.

    Attributes:
        terms: of the kernel.
        variances, lengths: of the terms; a linear term's length plays no part.
        noise: variance of the labels' noise.
        rows: standardised columns of the rows it was fitted on, (rows, columns).
        root: lower Cholesky factor of their covariance.
        weights: covariance's inverse times the labels.
    """

    terms: tuple[Term, ...]
    variances: Floats
    lengths: Floats
    noise: float
    rows: Floats
    root: Floats
    weights: Floats

    def predict(self, x: Floats) -> Floats:
        """Posterior mean, (rows,)."""
        return self.covariance(x) @ self.weights

    def predict_with_deviation(self, x: Floats) -> tuple[Floats, Floats]:
        """Posterior mean and standard deviation of a new label, its noise included, each (rows,)."""
        covariance = self.covariance(x)
        own = np.full(len(x), self.noise)
        for term, variance in zip(self.terms, self.variances, strict=True):
            part = x[:, term.columns]
            own += variance * ((part**2).mean(axis=1) if term.shape == "linear" else 1.0)
        known = solve_triangular(self.root, covariance.T, lower=True, check_finite=False)
        return covariance @ self.weights, np.sqrt(np.maximum(own - (known**2).sum(axis=0), self.noise * 0.1))

    def out_of_fold(self, y: Floats, folds: Ints) -> tuple[Floats, Floats]:
        """Mean and standard deviation of each fitted row as predicted without its fold, in closed form.

        Args:
            y: the labels it was fitted on.
            folds: number of each row's fold.
        """
        inverse = cho_solve((self.root, True), np.eye(len(y)))
        mean, deviation = np.empty(len(y)), np.empty(len(y))
        for fold in np.unique(folds):
            inside = np.flatnonzero(folds == fold)
            covariance = np.linalg.inv(inverse[np.ix_(inside, inside)])
            mean[inside] = y[inside] - covariance @ self.weights[inside]
            deviation[inside] = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
        return mean, deviation

    def covariance(self, x: Floats) -> Floats:
        """Of rows with the fitted ones, (rows, fitted rows)."""
        return self._between(x, self.rows)

    def prior_covariance(self, x: Floats) -> Floats:
        """Of rows with each other before any label, (rows, rows)."""
        return self._between(x, x)

    def _between(self, x: Floats, rows: Floats) -> Floats:
        total = np.zeros((len(x), len(rows)))
        for term, variance, length in zip(self.terms, self.variances, self.lengths, strict=True):
            one, other = x[:, term.columns], rows[:, term.columns]
            if term.shape == "linear":
                total += (variance / len(term.columns)) * (one @ other.T)
            else:
                total += variance * _matern(_squares(one, other), length)[0]
        return total

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything but the factor, which is made again, as arrays by name."""
        return {
            "variances": self.variances,
            "lengths": self.lengths,
            "noise": np.array([self.noise]),
            "rows": self.rows,
            "weights": self.weights,
            "shapes": np.array([term.shape == "matern" for term in self.terms], np.int64),
            "sizes": np.array([len(term.columns) for term in self.terms], np.int64),
            "columns": np.concatenate([term.columns for term in self.terms]).astype(np.int64),
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> GaussianProcess:
        """The inverse of :meth:`to_arrays`. Raises KeyError or ValueError for arrays that do not fit together."""
        rows, weights = np.asarray(arrays["rows"], np.float64), np.asarray(arrays["weights"], np.float64)
        variances, lengths = (np.asarray(arrays[name], np.float64) for name in ("variances", "lengths"))
        shapes, sizes, columns = (np.asarray(arrays[name], np.int64) for name in ("shapes", "sizes", "columns"))
        fits = rows.ndim == 2 and weights.shape == (len(rows),) and sizes.sum() == len(columns) and (sizes > 0).all()
        if not fits or not (shapes.shape == sizes.shape == variances.shape == lengths.shape):
            raise ValueError("the parts of a Gaussian process differ in number")
        if len(columns) and not 0 <= columns.min() <= columns.max() < rows.shape[1]:
            raise ValueError("a Gaussian process names a column that is not there")
        ends = np.cumsum(sizes)
        terms = tuple(
            Term("matern" if shape else "linear", columns[end - size : end])
            for shape, size, end in zip(shapes.tolist(), sizes.tolist(), ends.tolist(), strict=True)
        )
        noise = float(np.asarray(arrays["noise"], np.float64)[0])
        squares = [_own_squares(rows, term) for term in terms]
        root = cholesky(_total(terms, squares, variances, lengths, noise), lower=True)
        return GaussianProcess(terms, variances, lengths, noise, rows, root, weights)


def fit_gaussian(x: Floats, y: Floats, terms: Sequence[Term], seed: int = 0, iterations: int = 60) -> GaussianProcess:
    """Fit to standardised columns and labels of mean 0 and variance about 1.

    Args:
        x: (rows, columns).
        y: (rows,).
        terms: those without columns are left out.
        seed: chooses the rows that settings are searched on, where there are more than 600.
    """
    terms = tuple(term for term in terms if len(term.columns))
    count = len(terms)
    chosen = np.arange(len(y))
    if len(y) > _MOST:
        chosen = np.sort(np.random.default_rng(seed).choice(len(y), _MOST, replace=False))
    few, target = x[chosen], y[chosen]
    squares = [_own_squares(few, term) for term in terms]
    start = np.concatenate([np.full(count, -np.log(max(count, 1))), np.full(count, _LENGTH), [_NOISE]])
    spread = np.concatenate([np.full(count, _VARIANCE_SPREAD), np.full(count, _LENGTH_SPREAD), [_NOISE_SPREAD]])

    def loss(point: Floats) -> tuple[float, Floats]:
        if np.abs(point).max() > _FARTHEST:
            return 1e12, np.zeros_like(point)  # a step that leads nowhere: a shorter one is tried
        variances, lengths, noise = np.exp(point[:count]), np.exp(point[count : 2 * count]), float(np.exp(point[-1]))
        covariance = (noise + _JITTER) * np.eye(len(target))
        slopes: list[tuple[Floats, Floats | None]] = []
        for term, square, variance, length in zip(terms, squares, variances, lengths, strict=True):
            if term.shape == "linear":
                part, slope = variance * square, None
            else:
                part, slope = _matern(square, length, slope=True)
                part, slope = variance * part, variance * slope
            covariance += part
            slopes.append((part, slope))
        try:
            root = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            return 1e12, np.zeros_like(point)
        inverse = cho_solve((root, True), np.eye(len(target)), overwrite_b=True, check_finite=False)
        weights = inverse @ target
        pull = 0.5 * (inverse - np.outer(weights, weights))
        gradient = (point - start) / spread**2
        for place, (part, slope) in enumerate(slopes):
            gradient[place] += np.vdot(pull, part)
            if slope is not None:
                gradient[count + place] += np.vdot(pull, slope)
        gradient[-1] += noise * np.trace(pull)
        prior = 0.5 * float((((point - start) / spread) ** 2).sum())
        return 0.5 * float(target @ weights) + float(np.log(np.diag(root)).sum()) + prior, gradient

    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations}).x
    variances, lengths, noise = np.exp(found[:count]), np.exp(found[count : 2 * count]), float(np.exp(found[-1]))
    if len(y) > _MOST:
        squares = [_own_squares(x, term) for term in terms]
    root = cholesky(_total(terms, squares, variances, lengths, noise, len(y)), lower=True)
    return GaussianProcess(terms, variances, lengths, noise, x, root, cho_solve((root, True), y))


def _total(
    terms: Sequence[Term], squares: Sequence[Floats], variances: Floats, lengths: Floats, noise: float, count: int = 0
) -> Floats:
    count = count or len(squares[0])
    total = (noise + _JITTER) * np.eye(count)
    for term, square, variance, length in zip(terms, squares, variances, lengths, strict=True):
        total += variance * (square if term.shape == "linear" else _matern(square, length)[0])
    return total


def _own_squares(x: Floats, term: Term) -> Floats:
    """What the term needs of each pair of rows: mean product of columns, or mean squared difference."""
    part = x[:, term.columns]
    if term.shape == "linear":
        return np.asarray(part @ part.T / part.shape[1], np.float64)
    squares = _squares(part, part)
    np.fill_diagonal(squares, 0.0)
    return squares


def _squares(one: Floats, other: Floats) -> Floats:
    total = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None] - 2 * one @ other.T
    return np.asarray(np.maximum(total, 0) / one.shape[1], np.float64)


def _matern(squares: Floats, length: float, slope: bool = False) -> tuple[Floats, Floats]:
    """The kernel, and its slope in the logarithm of the length scale."""
    root = np.sqrt(5 * squares) / length
    decay = np.exp(-root)
    kernel = (1 + root * (1 + root / 3)) * decay
    return kernel, root**2 * (1 + root) / 3 * decay if slope else kernel
