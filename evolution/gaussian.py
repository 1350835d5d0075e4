"""An exact Gaussian process for a few hundred scored architectures. NumPy alone.

The kernel is Matern 5/2 over several groups of columns, each with a length scale of its own. Nothing is optimised:
predictions are averaged over the best settings of a grid, weighted by their likelihood (Rasmussen and Williams 2006).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import ndtri

Array = NDArray[np.float64]
_Float = TypeVar("_Float", np.float32, np.float64)

_SCALES = (0.7, 1.5, 3.0, 6.0)
"""Length scales, where columns have variance 1 and distance is the root of the mean square over a group's columns."""
_NOISES = (0.02, 0.1, 0.4)
"""Variances of the noise as a share of the signal's."""
_AVERAGED = 5


def normal_ranks(values: Array, reference: Array) -> Array:
    """Each value as a normal quantile of its rank among others of its column, ties at their middle, shape as given.

    Args:
        values: any numbers but NaN, (rows, columns); infinite ones are the largest or smallest.
        reference: what they are ranked among, (others, columns).
    """
    result, count = np.empty(values.shape), len(reference)
    for column, others in enumerate(reference.T):
        ordered = np.sort(others)
        below = np.searchsorted(ordered, values[:, column], "left")
        upto = np.searchsorted(ordered, values[:, column], "right")
        result[:, column] = ndtri(np.clip((below + upto) / 2, 0.5, count - 0.5) / count)
    return result


def squared_distances(groups: Sequence[Array], others: Sequence[Array]) -> Array:
    """Mean squares of differences within each group of columns, shape (groups, rows, other rows)."""
    result = []
    for one, other in zip(groups, others, strict=True):
        total = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None] - 2 * one @ other.T
        result.append(np.maximum(total, 0) / one.shape[1])
    return np.stack(result)


def posterior(own: Array, cross: Array, scores: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of what other rows would score, each (rows,), in units of ``scores``.

    Args:
        own: squared distances between scored rows, (groups, scored, scored).
        cross: those from others to them, (groups, rows, scored).
        scores: of the scored rows, (scored,), at least one.
    """
    center, spread = scores.mean(), max(float(scores.std()), 1e-12)
    target, count = (scores - center) / spread, len(scores)
    grid = np.array(list(product(*(_SCALES,) * len(own), _NOISES)))
    scales, noises = 1 / grid[:, :-1] ** 2, grid[:, -1]
    kernels = _matern(np.tensordot(scales, own, 1)) + noises[:, None, None] * np.eye(count)
    roots = np.linalg.cholesky(kernels)
    halves = np.linalg.solve(roots, np.broadcast_to(target[:, None], (len(grid), count, 1)))[..., 0]
    variances = np.maximum((halves**2).mean(axis=1), 1e-12)  # equal scores: what is far is the least certain
    likelihoods = -count / 2 * np.log(variances) - np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
    best = np.argsort(-likelihoods, kind="stable")[:_AVERAGED]
    weights = np.exp(likelihoods[best] - likelihoods[best[0]])
    near = cross.astype(np.float32)  # ranks need no more, and most of the time goes here
    mean, square = np.zeros(cross.shape[1]), np.zeros(cross.shape[1])
    for weight, place in zip(weights / weights.sum(), best, strict=True):
        kernel = _matern(np.tensordot(scales[place].astype(np.float32), near, 1))
        solved = solve_triangular(roots[place].astype(np.float32), kernel.T, lower=True, check_finite=False)
        one = halves[place].astype(np.float32) @ solved
        mean += weight * one
        square += weight * (one**2 + variances[place] * np.maximum(1 - (solved**2).sum(axis=0), 0))
    return center + spread * mean, spread * np.sqrt(np.maximum(square - mean**2, 0))


def _matern(squares: NDArray[_Float]) -> NDArray[_Float]:
    root = np.sqrt(5 * squares)
    decay = np.exp(-root)
    decay *= 1 + root * (1 + root / 3)
    return decay
