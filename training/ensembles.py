"""Ensembles of trained networks: which networks, what each weighs, and how good that is. NumPy alone.

Everything follows from class probabilities, shape (networks, images, classes), and labels, shape (images,). An
ensemble's probabilities are the mean of its members', with a weight for each member and class, renormalised: all
weightings have that one form. Members are calibrated first, each by one temperature: how sure of itself a recipe makes
its networks is no merit, and the mean of networks that are too unsure is more so still, whatever it gets right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from supernet import InputError

Array = NDArray[np.float64]
Probabilities = NDArray[np.float32] | Array
Labels = NDArray[np.int64]

METHODS = ("uniform", "accuracy", "greedy", "convex", "per_class")
"""What weights may be, those with the fewest numbers to fit first."""

_LEAST = 1e-12
"""Of a probability where its logarithm is taken, and of a weight while it is fitted."""
_IDLE = 1e-4
"""A member that weighs no more for any class is left out: it costs as much as the others."""
_GAP, _LOOSE_GAP = 1e-6, 1e-3
"""Nats between a fit and the optimum: of the last fit, and while members are compared."""
_MOST_STEPS = 2_000
_LONGEST_STRETCH = 16.0
_MOST_NEWTON_STEPS, _NEWTON_END = 30, 1e-4
_HOTTEST = 20.0
_SHARED_IMAGES = 50.0
"""How many images of each class's evidence the weights that all classes share are worth."""
_FEW = 7
"""Of so many networks every subset is looked at: 127."""
_SHORTLIST = 12
_ROUNDS = 40
_BINS = 15


@dataclass(frozen=True)
class Mixture:
    """An ensemble.

    Attributes:
        members: positions in the pool, ascending, each once.
        weights: (members, classes), none negative; each column sums to 1.
        temperatures: what the logarithms of each member's probabilities are divided by, (members,), above 0.
    """

    members: tuple[int, ...]
    weights: Array
    temperatures: Array

    def __call__(self, probabilities: Mapping[int, Probabilities] | Probabilities) -> Array:
        """Combined probabilities (images, classes) from those of networks by their positions in the pool."""
        own = [tempered(probabilities[one], heat) for one, heat in zip(self.members, self.temperatures, strict=True)]
        return combine(np.stack(own), self.weights)


@dataclass(frozen=True)
class Limits:
    """What an ensemble may be made of.

    Attributes:
        costs: of each network of the pool, (networks,), above 0.
        budget: largest sum of the costs of distinct members.
        members: most distinct ones.
    """

    costs: Array
    budget: float
    members: int = 8

    def __post_init__(self) -> None:
        if self.members < 1:
            raise InputError(f"ensemble: expected at least 1 member, got {self.members}")
        if not len(self.costs) or not self.costs.min() <= self.budget:
            raise InputError(f"ensemble: no network costs at most {self.budget:,.10g}")

    def allow(self, chosen: Sequence[int]) -> bool:
        """Whether these, all different, are within the budget."""
        return len(chosen) <= self.members and float(self.costs[list(chosen)].sum()) <= self.budget

    def ceilings(self) -> list[float]:
        """Costs that single members may be held to, so that 1, 2, 4, ... and the most of them fit.

        Going forward without one, the first and costliest member would leave no room for another.
        """
        counts = sorted({*(2**power for power in range(self.members.bit_length())), self.members})
        ceilings = [self.budget / count for count in counts]
        return [ceiling for ceiling in ceilings if ceiling >= self.costs.min()]


def combine(probabilities: Probabilities, weights: Array) -> Array:
    """The weighted mean of the members' probabilities, renormalised.

    Args:
        probabilities: (members, images, classes).
        weights: (members, classes).

    Returns:
        (images, classes), rows sum to 1.
    """
    mixed = np.einsum("mic,mc->ic", probabilities, weights, dtype=np.float64)
    mixed = np.maximum(mixed, np.finfo(np.float64).tiny)
    result: Array = mixed / mixed.sum(axis=1, keepdims=True)
    return result


def tempered(probabilities: Probabilities, temperature: float) -> Array:
    """Probabilities (images, classes), their logarithms divided by a temperature: above 1 less sure, below more."""
    scaled = np.log(np.maximum(probabilities, _LEAST, dtype=np.float64)) / temperature
    raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: Array = raised / raised.sum(axis=1, keepdims=True)
    return result


def best_temperature(probabilities: Probabilities, labels: Labels) -> float:
    """The temperature of the least cross entropy, from 0.05 to 20 (Guo et al. 2017).

    The problem is convex in its inverse: Newton's steps, of at most a factor of 2.
    """
    logs = np.log(np.maximum(probabilities, _LEAST, dtype=np.float64))
    logs -= logs.max(axis=1, keepdims=True)
    own = logs[np.arange(len(labels)), labels].mean()
    sharpness = 1.0
    for _ in range(_MOST_NEWTON_STEPS):
        raised = np.exp(sharpness * logs)
        raised /= raised.sum(axis=1, keepdims=True)
        means = (raised * logs).sum(axis=1)
        slope = float(means.mean() - own)
        curvature = float(((raised * logs**2).sum(axis=1) - means**2).mean())
        step = -slope / max(curvature, _LEAST)
        following = float(np.clip(sharpness + step, max(sharpness / 2, 1 / _HOTTEST), min(sharpness * 2, _HOTTEST)))
        if abs(following - sharpness) <= _NEWTON_END * sharpness:
            break
        sharpness = following
    return 1 / sharpness


def calibrated(place: int, probabilities: Probabilities, labels: Labels) -> Mixture:
    """A single network as an ensemble: its probabilities (images, classes) under their best temperature."""
    return Mixture((place,), np.ones((1, probabilities.shape[1])), np.array([best_temperature(probabilities, labels)]))


def accuracy(probabilities: Probabilities, labels: Labels) -> float:
    """Share of images (images, classes) whose most probable class is the label; higher is better."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def cross_entropy(probabilities: Probabilities, labels: Labels) -> float:
    """Mean of minus the logarithm of the label's probability, in nats, at most 27.6 an image; lower is better."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(own, _LEAST)).mean())


def expected_calibration_error(probabilities: Probabilities, labels: Labels) -> float:
    """How far confidence is from accuracy, a fraction; lower is better, 0 is calibrated.

    Over 15 equal bins of the largest probability: the mean distance of a bin's accuracy from its mean confidence,
    weighted by its images (Guo et al. 2017).
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    excess = (probabilities.argmax(axis=1) == labels) - confidence
    bins = np.clip(np.ceil(confidence * _BINS).astype(np.intp) - 1, 0, _BINS - 1)
    return float(np.abs(np.bincount(bins, excess, minlength=_BINS)).sum() / len(labels))


def paired_difference(
    first: NDArray[np.bool_], second: NDArray[np.bool_], random: np.random.Generator, draws: int = 10_000
) -> tuple[float, float, float]:
    """Accuracy of the first less the second on the same images, and its 95 % bootstrap interval over images.

    Args:
        first, second: whether each image is answered rightly, (images,).

    Returns:
        (difference, low, high), fractions.
    """
    differences = first.astype(np.int64) - second
    counts = np.array([(differences == value).sum() for value in (-1, 0, 1)])
    # To draw images is to draw how many there are of each of the three differences.
    drawn = random.multinomial(len(differences), counts / len(differences), size=draws)
    low, high = np.quantile((drawn[:, 2] - drawn[:, 0]) / len(differences), (0.025, 0.975))
    return float(differences.mean()), float(low), float(high)


def fit_mixtures(
    probabilities: Probabilities, labels: Labels, limits: Limits, methods: Sequence[str] = METHODS
) -> dict[str, Mixture]:
    """Members and weights by each method, from the images that choose.

    - ``uniform``: all members weigh the same.
    - ``accuracy``: as much as their accuracy on these images.
    - ``greedy``: as often as each is taken, one after the other with replacement, to lower the cross entropy of the
      plain mean (Caruana et al. 2004); the best of the first 40 rounds.
    - ``convex``: the weights of the least cross entropy, a convex problem, see :func:`mixture_weights`.
    - ``per_class``: the members of ``convex`` with weights for each class, see :func:`class_weights`.

    Members of ``uniform``, ``accuracy`` and ``convex`` are those of the least cross entropy under their own weights:
    of at most 7 networks the best of all subsets within the limits; of more, the best set that going forward comes
    to, adding the network that lowers it most as long as one does, with members of any cost and of at most a half, a
    quarter, ... of the budget. Which network may lower it is foreseen from the gradient: 12 are tried.

    Args:
        probabilities: (networks, images, classes), finite, as the networks give them.
    """
    temperatures = np.array([best_temperature(one, labels) for one in probabilities])
    likelihoods = np.stack(
        [_of_labels(one, heat, labels) for one, heat in zip(probabilities, temperatures, strict=True)]
    )
    accuracies = np.array([accuracy(one, labels) for one in probabilities])
    shared: dict[str, tuple[list[int], Array]] = {}
    for method in dict.fromkeys("convex" if method == "per_class" else method for method in methods):
        if method == "greedy":
            shared[method] = _with_replacement(likelihoods, limits)
        else:
            weigh = _WEIGHTINGS[method]
            chosen = sorted(_best_subset(weigh, likelihoods, accuracies, limits))
            shared[method] = chosen, weigh(likelihoods[chosen], accuracies[chosen], _GAP)
    fitted = {}
    for method in methods:
        chosen, simplex = shared["convex" if method == "per_class" else method]
        if method == "per_class":
            own = np.stack([tempered(probabilities[one], temperatures[one]) for one in chosen])
            weights = class_weights(own, labels, simplex)
        else:
            weights = np.repeat(simplex[:, None], probabilities.shape[2], axis=1)
        used = weights.max(axis=1) > _IDLE
        kept = weights[used] / weights[used].sum(axis=0)
        members = np.array(chosen)[used]
        fitted[method] = Mixture(tuple(members.tolist()), kept, temperatures[members])
    return fitted


def held_out(
    probabilities: Probabilities,
    labels: Labels,
    limits: Limits,
    random: np.random.Generator,
    methods: Sequence[str] = METHODS,
    folds: int = 5,
) -> dict[str, Array]:
    """Each method's probabilities on images that neither its members nor its weights were fitted on.

    Images are dealt into folds, class by class; each fold is answered by what was fitted on the others.

    Returns:
        (images, classes) by method.
    """
    places = np.empty(len(labels), np.intp)
    places[np.lexsort((random.permutation(len(labels)), labels))] = np.arange(len(labels)) % min(folds, len(labels))
    found = {method: np.empty(probabilities.shape[1:]) for method in methods}
    for fold in np.unique(places):
        inside = places == fold
        known = ~inside if not inside.all() else inside  # a single image leaves no others
        fitted = fit_mixtures(probabilities[:, known], labels[known], limits, methods)
        for method, mixture in fitted.items():
            found[method][inside] = mixture(probabilities[:, inside])
    return found


def best_method(validated: Mapping[str, Array], labels: Labels) -> str:
    """The method of the highest accuracy on held-out images, of equal ones that of the lower cross entropy.

    Args:
        validated: what :func:`held_out` gives.
    """
    return min(
        validated,
        key=lambda method: (-accuracy(validated[method], labels), cross_entropy(validated[method], labels)),
    )


def mixture_weights(likelihoods: Array, gap: float = _GAP, prior: Array | None = None, images: float = 0.0) -> Array:
    """The weights on the simplex under which the logarithm of the mixture is largest on average.

    A concave problem. Steps are those of expectation maximisation, each weight times its gradient, stretched as long
    as that helps (Salakhutdinov and Roweis 2003), so the objective never falls; as the objective is concave, no weights
    are better by more than the largest gradient less 1, where it ends.

    Args:
        likelihoods: (members, images), above 0.
        gap: from the optimum, in nats.
        prior: weights, (members,), that as many ``images`` speak for.

    Returns:
        (members,).
    """
    members, count = likelihoods.shape
    prior = np.zeros(members) if prior is None else prior
    weights = np.full(members, 1 / members)
    mixed = weights @ likelihoods
    value, stretch = -np.inf, 1.0
    for _ in range(_MOST_STEPS):
        gradient = ((1 / mixed) @ likelihoods.T + images * prior / weights) / (count + images)
        if gradient.max() - 1 <= gap:
            break
        for power in dict.fromkeys((stretch, 1.0)):  # a plain step cannot fail
            stepped = np.maximum(weights * gradient**power, _LEAST)
            stepped /= stepped.sum()
            mixed = stepped @ likelihoods
            reached = (np.log(mixed).sum() + images * (prior @ np.log(stepped))) / (count + images)
            if reached >= value:
                stretch = min(power * 1.5, _LONGEST_STRETCH)
                break
            stretch = 1.0
        weights, value = stepped, reached
    return weights


def class_weights(probabilities: Probabilities, labels: Labels, shared: Array) -> Array:
    """Weights of each member for each class, (members, classes), columns on the simplex.

    For each class on its own, whether an image is of it is answered by the members' probabilities of it, mixed by the
    weights of the largest likelihood: :func:`mixture_weights` again. ``shared`` weights count as much as 50 images, so
    that a class of which there are few images stays near them.

    Args:
        probabilities: (members, images, classes).
        shared: those of all classes, (members,).
    """
    columns = []
    for number in range(probabilities.shape[2]):
        own = probabilities[:, :, number].astype(np.float64)
        answers = np.maximum(np.where(labels == number, own, 1 - own), _LEAST)
        columns.append(mixture_weights(answers, _GAP, shared, _SHARED_IMAGES))
    return np.column_stack(columns)


Weighting = Callable[[Array, Array, float], Array]
"""Likelihoods (members, images), accuracies (members,) and a gap to weights (members,)."""


def _uniform(likelihoods: Array, accuracies: Array, gap: float) -> Array:
    return np.full(len(likelihoods), 1 / len(likelihoods))


def _by_accuracy(likelihoods: Array, accuracies: Array, gap: float) -> Array:
    total = float(accuracies.sum())
    return accuracies / total if total > 0 else _uniform(likelihoods, accuracies, gap)


def _convex(likelihoods: Array, accuracies: Array, gap: float) -> Array:
    return mixture_weights(likelihoods, gap)


_WEIGHTINGS: dict[str, Weighting] = {"uniform": _uniform, "accuracy": _by_accuracy, "convex": _convex}


def _of_labels(probabilities: Probabilities, temperature: float, labels: Labels) -> Array:
    """The calibrated probability of each image's label, (images,)."""
    own: Array = tempered(probabilities, temperature)[np.arange(len(labels)), labels]
    return np.maximum(own, _LEAST)


def _loss(likelihoods: Array) -> float:
    return -float(np.log(likelihoods).mean())


def _best_subset(weigh: Weighting, likelihoods: Array, accuracies: Array, limits: Limits) -> list[int]:
    """The members of the least cross entropy; of equal ones the first that is found, which has the fewest."""

    def loss(chosen: list[int]) -> float:
        own = likelihoods[chosen]
        return _loss(weigh(own, accuracies[chosen], _LOOSE_GAP) @ own)

    if len(likelihoods) <= _FEW:
        sets = (list(one) for size in range(1, _FEW + 1) for one in combinations(range(len(likelihoods)), size))
        return min((one for one in sets if limits.allow(one)), key=loss)
    return min(_forward(weigh, likelihoods, accuracies, limits, loss), key=loss)


def _forward(
    weigh: Weighting, likelihoods: Array, accuracies: Array, limits: Limits, loss: Callable[[list[int]], float]
) -> Iterator[list[int]]:
    """What adding one network after the other comes to, under each ceiling."""
    alone = -np.log(likelihoods).mean(axis=1)
    for ceiling in limits.ceilings():
        allowed = np.flatnonzero(limits.costs <= ceiling)
        chosen = [int(allowed[alone[allowed].argmin()])]
        reached = loss(chosen)
        while True:
            more = [int(one) for one in allowed if one not in chosen and limits.allow([*chosen, int(one)])]
            mixed = weigh(likelihoods[chosen], accuracies[chosen], _LOOSE_GAP) @ likelihoods[chosen]
            losses = {one: loss([*chosen, one]) for one in _promising(likelihoods, mixed, more)}
            best = min(losses, key=lambda one: losses[one], default=None)
            if best is None or not losses[best] < reached:
                break
            chosen, reached = [*chosen, best], losses[best]
        yield chosen


def _promising(likelihoods: Array, mixed: Array, among: Sequence[int]) -> list[int]:
    """Those that the mixture gains most from at first, at most 12, best first."""
    gradient = likelihoods[among] @ (1 / mixed)
    return [among[place] for place in np.argsort(-gradient, kind="stable")[:_SHORTLIST]]


def _with_replacement(likelihoods: Array, limits: Limits) -> tuple[list[int], Array]:
    """Members and shares of the best of all rounds under all ceilings (Caruana et al. 2004)."""
    best, least = [0], np.inf
    for ceiling in limits.ceilings():
        allowed = np.flatnonzero(limits.costs <= ceiling)
        taken: list[int] = []
        total = np.zeros(likelihoods.shape[1])
        for _ in range(_ROUNDS):
            distinct = list(dict.fromkeys(taken))
            open_ones = [int(one) for one in allowed if one in distinct or limits.allow([*distinct, int(one)])]
            tried = open_ones if not taken else _promising(likelihoods, total / len(taken), open_ones)
            losses = [_loss((total + likelihoods[one]) / (len(taken) + 1)) for one in tried]
            place = int(np.argmin(losses))
            taken.append(tried[place])
            total += likelihoods[tried[place]]
            if losses[place] < least:
                best, least = list(taken), losses[place]
    members, counts = np.unique(best, return_counts=True)
    return members.tolist(), counts / counts.sum()
