"""How much each component of a predictor counts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import nnls

from predictor.structure import Floats
from predictor.trust import kendall_tau

_SHARPNESS = 20.0
"""A component whose tau is .05 below the best counts 1/e as much, before the errors are asked."""
_LEAST = 0.05
"""Components of a smaller share are left out: they change little, and cost as much as others."""
_PULL = 30.0
"""How many training graphs the weights by tau count as much as."""


def blend_weights(out_of_fold: Mapping[str, Floats], y: Floats) -> dict[str, float]:
    """Positive weights that sum to 1, by what each component said of graphs that it had not learnt from.

    Components that would count little are left out.

    Least squares with the pull of weights by Kendall tau (stacked regressions, Breiman 1996): few labels leave it at
    those by tau, many decide for themselves.

    Args:
        out_of_fold: of each component its scores, (graphs,).
        y: the labels in the same units, (graphs,).
    """
    names = list(out_of_fold)
    taus = np.array([kendall_tau(out_of_fold[name], y) for name in names])
    prior = np.exp(_SHARPNESS * (taus - taus.max()))
    prior /= prior.sum()
    scores = np.stack([out_of_fold[name] for name in names], axis=1)
    pull = np.sqrt(_PULL)
    rows = np.concatenate([scores, pull * np.eye(len(names))])
    found, _ = nnls(rows, np.concatenate([y, pull * prior]))
    weights = found if found.sum() > 0 else prior
    weights = np.where(weights >= _LEAST * weights.sum(), weights, 0.0)
    weights /= weights.sum()
    return {name: float(weight) for name, weight in zip(names, weights, strict=True) if weight > 0}
