"""Which networks to train next: three Gaussian processes of the labels so far, and batches that are worth their cost.

Few labels decide here, and they are made anew after each batch, so a fit has to take tenths of a second; the predictor
that a search trusts (:mod:`predictor.models`) is fitted once, in the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from predictor.features import FlatEncoder
from predictor.gaussian import GaussianProcess, Term, fit_gaussian
from predictor.models import Scored
from predictor.structure import Floats, Ints
from predictor.trust import kendall_tau

_SHORTLIST = 500  # candidates among which a batch is chosen; the others are far below
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class RegretScores:
    """Labels as minus the log of what they miss of the best, standardised; higher is better.

    What lies at the top is drawn apart, what lies far below together: a search has to tell the best from the good,
    and must not be led by what fails.

    Attributes:
        best: highest label.
        unit: what the median misses of it, which is also the offset of the logarithm.
        center, spread: of the logarithms.
    """

    best: float
    unit: float
    center: float
    spread: float

    @staticmethod
    def of(labels: Floats) -> RegretScores:
        """Of labels, at least one."""
        best = float(labels.max())
        unit = max(best - float(np.median(labels)), 1e-12 * max(abs(best), 1.0))
        logs = -np.log((best - labels) / unit + 1)
        return RegretScores(best, unit, float(logs.mean()), max(float(logs.std()), 1e-12))

    def score(self, labels: Floats) -> Floats:
        """Of labels not above the best, shape as given."""
        return np.asarray((-np.log((self.best - labels) / self.unit + 1) - self.center) / self.spread, np.float64)

    def label(self, scores: Floats) -> Floats:
        """The inverse, shape as given; above the best label by at most what the median is below."""
        return np.asarray(self.best - self.unit * (np.exp(-(scores * self.spread + self.center)) - 1), np.float64)


class Choice(NamedTuple):
    """What was chosen of some candidates.

    Attributes:
        places: of the batch, the most promising first.
        scored: of all candidates, without the noise of a label.
    """

    places: Ints
    scored: Scored


@dataclass(frozen=True, slots=True)
class Surrogate:
    """The average of Gaussian processes over the same labels.

    Attributes:
        encoder: of graphs.
        labels: between labels and scores.
        processes: each over all columns of the encoder.
        tau: Kendall tau of labels with what is predicted without their fold.
    """

    encoder: FlatEncoder
    labels: RegretScores
    processes: tuple[GaussianProcess, ...]
    tau: float

    def score(self, rows: Floats) -> Scored:
        """Mean and standard deviation of what labels would be on average, in units of :class:`RegretScores`.

        Args:
            rows: what ``encoder`` makes of graphs, (architectures, columns).
        """
        means, squares = np.zeros(len(rows)), np.zeros(len(rows))
        for process in self.processes:
            mean, deviation = process.predict_with_deviation(rows)
            means += mean / len(self.processes)
            squares += (mean**2 + np.maximum(deviation**2 - process.noise, 0)) / len(self.processes)
        return Scored(means, np.sqrt(np.maximum(squares - means**2, 0)))

    def choose(self, rows: Floats, count: int, bonus: float = 0.5, diverse: bool = True) -> Choice:
        """A batch with much to gain: mean plus some deviations, the deviations as the batch before would leave them.

        Candidates that would tell the same lower each other's deviation, so a batch spreads out (Desautels et al.
        2014).

        Args:
            rows: candidates, as for :meth:`score`.
            bonus: deviations that are added.
            diverse: whether the batch counts, or each candidate stands alone.
        """
        scored = self.score(rows)
        order = np.argsort(-(scored.scores + bonus * scored.deviations), kind="stable")
        if not diverse or count < 2:
            return Choice(order[:count], scored)
        near = order[: max(_SHORTLIST, count)]
        covariance = np.zeros((len(near), len(near)))
        noise = 0.0
        for process in self.processes:
            covariance += _posterior_covariance(process, rows[near]) / len(self.processes)
            noise += process.noise / len(self.processes)
        spread = np.maximum(scored.deviations[near] ** 2 - np.diag(covariance), 0)  # between the processes
        chosen: list[int] = []
        for _ in range(min(count, len(near))):
            value = scored.scores[near] + bonus * np.sqrt(np.maximum(np.diag(covariance), 0) + spread)
            value[chosen] = -np.inf
            place = int(value.argmax())
            chosen.append(place)
            column = covariance[:, place]
            covariance = covariance - np.outer(column, column) / max(column[place] + noise, 1e-12)
        return Choice(near[np.array(chosen, np.int64)], scored)


def fit_surrogate(encoder: FlatEncoder, rows: Floats, labels: Floats, seed: int = 0) -> Surrogate:
    """Fit to the labels so far.

    Args:
        encoder: fitted to any graphs of the space, labelled or not.
        rows: what it makes of the labelled graphs, (labels, columns).
        labels: higher is better, (labels,).
    """
    regret = RegretScores.of(labels)
    target = regret.score(labels)
    processes = tuple(fit_gaussian(rows, target, terms, seed) for terms in _kernels(encoder))
    folds = np.random.default_rng([seed, 6]).permutation(np.arange(len(labels)) % min(_FOLDS, len(labels)))
    apart = np.mean([process.out_of_fold(target, folds)[0] for process in processes], axis=0)
    tau = kendall_tau(apart, target) if len(labels) > 2 else 0.0
    return Surrogate(encoder, regret, processes, float(tau))


def _kernels(encoder: FlatEncoder) -> Sequence[Sequence[Term]]:
    """One kernel in which everything plays together, as in cells, and two that add up, as in deep networks."""
    group = encoder.group
    return (
        (Term("matern", group("place", "summary")),),
        (Term("linear", group("place")), Term("matern", group("place")), Term("matern", group("summary"))),
        (
            Term("linear", group("place")),
            Term("linear", group("summary", "stage")),
            Term("matern", group("summary", "stage")),
            Term("matern", group("summary", "paths")),
            Term("matern", group("subtree")),
        ),
    )


def _posterior_covariance(process: GaussianProcess, rows: Floats) -> Floats:
    """Between candidates after the labels, (rows, rows), without noise."""
    known = solve_triangular(process.root, process.covariance(rows).T, lower=True, check_finite=False)
    return np.asarray(process.prior_covariance(rows) - known.T @ known, np.float64)
