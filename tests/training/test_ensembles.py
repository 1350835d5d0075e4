import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet import InputError
from training.ensembles import (
    METHODS,
    Limits,
    Mixture,
    accuracy,
    best_method,
    best_temperature,
    calibrated,
    class_weights,
    combine,
    cross_entropy,
    expected_calibration_error,
    fit_mixtures,
    held_out,
    mixture_weights,
    paired_difference,
    tempered,
)


def made_up(seed, networks, images=60, classes=4):
    """Probabilities of networks that know something, each wrong in its own way, labels and costs."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    scores = random.normal(size=(networks, images, classes)) + random.normal(size=(images, classes))
    scores[:, np.arange(images), labels] += random.uniform(0.5, 3, networks)[:, None]
    scores *= random.uniform(0.3, 3, networks)[:, None, None]
    raised = np.exp(scores - scores.max(axis=2, keepdims=True))
    return raised / raised.sum(axis=2, keepdims=True), labels, random.integers(1, 20, networks).astype(float)


pools = st.builds(made_up, st.integers(0, 10_000), st.integers(1, 11))


def limits_for(costs, share, members=4):
    """A budget from the cheapest network to half of all."""
    return Limits(costs, costs.min() + share * max(0.0, costs.sum() / 2 - costs.min()), members)


@given(pools, st.floats(0, 1), st.integers(1, 5))
def test_ensembles_keep_to_budget_and_simplex(pool, share, members):
    probabilities, labels, costs = pool
    limits = limits_for(costs, share, members)
    found = fit_mixtures(probabilities, labels, limits)
    assert list(found) == list(METHODS)
    for mixture in found.values():
        assert list(mixture.members) == sorted(set(mixture.members))
        assert 1 <= len(mixture.members) <= members
        assert costs[list(mixture.members)].sum() <= limits.budget
        assert mixture.weights.shape == (len(mixture.members), probabilities.shape[2])
        assert (mixture.weights >= 0).all()
        np.testing.assert_allclose(mixture.weights.sum(axis=0), 1)
        np.testing.assert_allclose(mixture(probabilities).sum(axis=1), 1)
    for name in ("uniform", "accuracy", "greedy", "convex"):
        assert np.ptp(found[name].weights, axis=1).max() == 0
    np.testing.assert_allclose(found["uniform"].weights, 1 / len(found["uniform"].members))
    strengths = np.array([accuracy(probabilities[one], labels) for one in found["accuracy"].members])
    np.testing.assert_allclose(found["accuracy"].weights[:, 0], strengths / strengths.sum())


@given(st.builds(made_up, st.integers(0, 10_000), st.integers(1, 6)), st.floats(0, 1))
def test_convex_is_no_worse_than_what_it_contains(pool, share):
    """Of so few networks every subset is looked at; members are compared to 0.001 nats."""
    probabilities, labels, costs = pool
    limits = limits_for(costs, share)
    found = fit_mixtures(probabilities, labels, limits)
    losses = {name: cross_entropy(mixture(probabilities), labels) for name, mixture in found.items()}
    assert losses["convex"] <= min(losses[name] for name in ("uniform", "accuracy", "greedy")) + 2e-3
    for one in np.flatnonzero(costs <= limits.budget):
        alone = calibrated(one, probabilities[one], labels)
        assert losses["convex"] <= cross_entropy(alone(probabilities), labels) + 2e-3


@given(pools, st.floats(0, 1), st.integers(0, 1000))
def test_the_order_of_the_pool_does_not_matter(pool, share, seed):
    probabilities, labels, costs = pool
    limits = limits_for(costs, share)
    order = np.random.default_rng(seed).permutation(len(costs))
    before = fit_mixtures(probabilities, labels, limits)
    turned = probabilities[order]
    after = fit_mixtures(turned, labels, Limits(costs[order], limits.budget, limits.members))
    for name in METHODS:
        assert sorted(order[list(after[name].members)]) == list(before[name].members)
        np.testing.assert_allclose(after[name](turned), before[name](probabilities), atol=1e-4)


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_mixture_weights_satisfy_the_conditions_of_the_optimum(seed, members):
    likelihoods = np.random.default_rng(seed).uniform(0.01, 1, (members, 40)) ** 3
    weights = mixture_weights(likelihoods)
    assert weights.sum() == pytest.approx(1)
    assert ((likelihoods / (weights @ likelihoods)).mean(axis=1) <= 1 + 2e-6).all()
    for _ in range(20):  # whatever else: no better by more than that
        other = np.random.default_rng(seed).dirichlet(np.ones(members))
        assert np.log(other @ likelihoods).mean() <= np.log(weights @ likelihoods).mean() + 2e-6


def test_two_networks_that_each_know_half_weigh_the_same():
    likelihoods = np.array([[0.9] * 10 + [0.1] * 10, [0.1] * 10 + [0.9] * 10])
    np.testing.assert_allclose(mixture_weights(likelihoods), [0.5, 0.5])
    likelihoods = np.array([[0.9] * 20, [0.8] * 20])
    np.testing.assert_allclose(mixture_weights(likelihoods), [1, 0], atol=1e-4)


def test_few_images_leave_class_weights_near_those_of_all():
    probabilities, labels, _ = made_up(3, 3, images=4000)
    shared = mixture_weights(probabilities[:, np.arange(4000), labels])
    few = class_weights(probabilities[:, :5], labels[:5], shared)
    many = class_weights(probabilities, labels, shared)
    assert np.abs(few - shared[:, None]).max() < 0.1
    assert np.abs(many - shared[:, None]).max() > np.abs(few - shared[:, None]).max()


def test_class_weights_find_who_knows_a_class():
    """One network knows the first class alone, the other the second and third."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 600)
    right = np.eye(3)[labels] * 0.97 + 0.01
    vague = np.full((600, 3), 1 / 3)
    knows_first = np.where((labels == 0)[:, None], right, [0.02, 0.49, 0.49])
    knows_others = np.where((labels == 0)[:, None], vague, right)
    weights = class_weights(np.stack([knows_first, knows_others]), labels, np.array([0.5, 0.5]))
    assert weights[0, 0] > 0.8
    assert (weights[1, 1:] > 0.8).all()


def test_a_costly_network_does_not_keep_the_cheap_ones_out():
    """Ten cheap networks with errors of their own beat the best single one, which takes the whole budget."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 500)
    right = np.array([random.random(500) < (0.8 if one == 0 else 0.75) for one in range(11)])
    own = np.where(right, 0.8, 0.2)
    probabilities = np.empty((11, 500, 2))
    np.put_along_axis(probabilities, np.broadcast_to(labels, (11, 500))[..., None], own[..., None], axis=2)
    np.put_along_axis(probabilities, np.broadcast_to(1 - labels, (11, 500))[..., None], 1 - own[..., None], axis=2)
    limits = Limits(np.array([10.0] + [2.0] * 10), 10.0)
    for name, mixture in fit_mixtures(probabilities, labels, limits).items():
        assert len(mixture.members) >= 3, name
        assert 0 not in mixture.members
        assert accuracy(mixture(probabilities), labels) > accuracy(probabilities[0], labels) + 0.03


def test_greedy_weighs_by_how_often_it_takes():
    probabilities, labels, costs = made_up(5, 3, images=400)
    mixture = fit_mixtures(probabilities, labels, Limits(costs, costs.sum()), ["greedy"])["greedy"]
    best = fit_mixtures(probabilities, labels, Limits(costs, costs.sum()), ["convex"])["convex"]
    rounds = next(
        count for count in range(1, 41) if np.allclose(mixture.weights * count, np.round(mixture.weights * count))
    )
    assert rounds <= 40
    losses = [cross_entropy(one(probabilities), labels) for one in (mixture, best)]
    assert losses[1] - 1e-6 <= losses[0] <= losses[1] + 0.005


@given(st.integers(0, 10_000), st.floats(1, 5))
def test_the_temperature_undoes_one(seed, heat):
    probabilities, labels, _ = made_up(seed, 1, images=300)
    first = best_temperature(probabilities[0], labels)
    changed = tempered(probabilities[0], heat)
    assert best_temperature(changed, labels) == pytest.approx(first / heat, rel=2e-3)
    assert (changed.argmax(axis=1) == probabilities[0].argmax(axis=1)).all()
    own = cross_entropy(tempered(probabilities[0], first), labels)
    for other in (first * 0.9, first * 1.1, 1.0):
        assert own <= cross_entropy(tempered(probabilities[0], other), labels) + 1e-7


@pytest.mark.parametrize("right", [True, False])
def test_temperatures_of_a_network_without_a_mixed_record_end(right):
    labels = np.zeros(20, np.int64)
    probabilities = np.tile([0.6, 0.4] if right else [0.4, 0.6], (20, 1))
    assert best_temperature(probabilities, labels) == pytest.approx(0.05 if right else 20)


def test_combined_probabilities_by_hand():
    probabilities = np.array([[[0.6, 0.4]], [[0.2, 0.8]]])
    np.testing.assert_allclose(combine(probabilities, np.full((2, 2), 0.5)), [[0.4, 0.6]])
    each = np.array([[1.0, 0.25], [0.0, 0.75]])
    np.testing.assert_allclose(combine(probabilities, each), [[0.6 / 1.3, 0.7 / 1.3]])


def test_calibration_error_by_hand():
    """Two bins: four images at 0.95 of which three are right, two at 0.55 of which both are."""
    confident, unsure = [0.95, 0.05], [0.55, 0.45]
    probabilities = np.array([confident] * 4 + [unsure] * 2)
    labels = np.array([0, 0, 0, 1, 0, 0])
    assert expected_calibration_error(probabilities, labels) == pytest.approx((4 * 0.2 + 2 * 0.45) / 6)
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0
    assert accuracy(probabilities, labels) == pytest.approx(5 / 6)
    assert cross_entropy(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(1e-12))


def test_the_interval_of_a_difference_is_that_of_drawn_images():
    random = np.random.default_rng(0)
    first, second = random.random(400) < 0.8, random.random(400) < 0.75
    difference, low, high = paired_difference(first, second, np.random.default_rng(1))
    assert difference == pytest.approx(first.mean() - second.mean())
    drawn = random.integers(0, 400, (10_000, 400))
    plain = np.quantile((first.astype(int) - second)[drawn].mean(axis=1), (0.025, 0.975))
    np.testing.assert_allclose([low, high], plain, atol=0.004)
    assert paired_difference(first, first, random) == (0, 0, 0)


def test_held_out_images_are_answered_by_what_has_not_seen_them(monkeypatch):
    import training.ensembles

    probabilities, labels, costs = made_up(2, 3, images=23)
    seen = []

    def spy(own, *arguments):
        seen.append(own)
        return {"uniform": Mixture((0,), np.ones((1, 4)), np.ones(1))}

    monkeypatch.setattr(training.ensembles, "fit_mixtures", spy)
    found = held_out(probabilities, labels, Limits(costs, 100.0), np.random.default_rng(0), ["uniform"])
    np.testing.assert_allclose(found["uniform"], probabilities[0])
    assert len(seen) == 5
    shown = np.array([[(own[0] == image).all(axis=1).any() for image in probabilities[0]] for own in seen])
    assert (shown.sum(axis=0) == 4).all()
    assert {int(count) for count in shown.sum(axis=1)} <= {18, 19}


def test_a_method_that_only_fits_noise_is_not_chosen():
    labels = np.array([0, 1] * 10)
    good, bad = np.eye(2)[labels] * 0.8 + 0.1, np.full((20, 2), 0.5)
    assert best_method({"uniform": bad, "convex": good}, labels) == "convex"
    assert best_method({"uniform": good, "convex": good}, labels) == "uniform"
    surer = np.eye(2)[labels] * 0.9 + 0.05
    assert best_method({"uniform": good, "convex": surer}, labels) == "convex"


@pytest.mark.parametrize("images", [1, 2, 7])
def test_one_network_and_few_images(images):
    probabilities, labels, costs = made_up(4, 1, images=images)
    limits = Limits(costs, float(costs[0]))
    for mixture in fit_mixtures(probabilities, labels, limits).values():
        assert mixture.members == (0,)
        np.testing.assert_allclose(mixture.weights, 1)
    answers = held_out(probabilities, labels, limits, np.random.default_rng(0))
    assert all(np.isfinite(one).all() for one in answers.values())


def test_networks_that_are_the_same():
    probabilities, labels, _ = made_up(6, 1)
    pool = np.concatenate([probabilities] * 3)
    for mixture in fit_mixtures(pool, labels, Limits(np.ones(3), 3.0)).values():
        np.testing.assert_allclose(mixture(pool), tempered(pool[0], best_temperature(pool[0], labels)), atol=1e-6)
        assert len(mixture.members) == 1  # another one would add nothing


@pytest.mark.parametrize(("budget", "members"), [(0.5, 3), (5, 0)])
def test_limits_that_nothing_keeps_are_refused(budget, members):
    with pytest.raises(InputError, match="ensemble: "):
        Limits(np.array([1.0, 2.0]), budget, members)
