from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from predictor.trust import (
    LearningCurve,
    difference_interval,
    fit_learning_curve,
    kendall_tau,
    label_noise,
    mean_interval,
    more_labels,
    noise_between,
    precision_at_top,
    tau_in_band,
    tau_in_top,
    tau_interval,
    verdict,
)
from supernet import ArchGraph, LabelRow, LabelTable, Node

NUMBERS = st.lists(st.integers(-5, 5), min_size=2, max_size=30)


def test_kendall_tau():
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1
    assert kendall_tau([3, 2, 1], [10, 20, 30]) == -1
    assert kendall_tau([1, 1, 1], [10, 20, 30]) == 0
    assert kendall_tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(2 * 3))


@given(NUMBERS, st.integers(0, 99))
def test_tau_goes_by_order_alone(values, seed):
    scores = np.random.default_rng(seed).normal(size=len(values))
    assert kendall_tau(scores, values) == pytest.approx(kendall_tau(np.exp(scores), 3 * np.array(values) - 1))
    assert kendall_tau(scores, values) == pytest.approx(-kendall_tau(-scores, values))


@pytest.mark.parametrize("values", [3, 1000])  # with many ties, with hardly any
def test_the_interval_is_that_of_resampled_architectures(values):
    random = np.random.default_rng(1)
    first, second = random.integers(0, values, (2, 30))
    drawing = np.random.default_rng(5)
    taus = []
    for _ in range(200):
        drawn = drawing.integers(0, 30, 30)
        taus.append(kendall_tau(first[drawn], second[drawn]))
    assert tau_interval(first, second, 5, 200) == pytest.approx(np.quantile(taus, (0.025, 0.975)))


def test_the_interval_of_very_many_is_made_in_another_way_and_is_the_same(monkeypatch):
    first, second = np.random.default_rng(2).normal(size=(2, 20))
    quick = tau_interval(first, second, 3, 50)
    gap = difference_interval(first, second, first + second, 3, 50)
    monkeypatch.setattr("predictor.trust._MOST_PAIRED", 19)
    assert tau_interval(first, second, 3, 50) == pytest.approx(quick)
    assert difference_interval(first, second, first + second, 3, 50) == pytest.approx(gap)


def test_tau_interval_holds_tau_and_narrows_with_more_architectures():
    random = np.random.default_rng(0)
    truth = random.normal(size=400)
    scores = truth + random.normal(size=400)
    wide, narrow = tau_interval(scores[:40], truth[:40], 0, 300), tau_interval(scores, truth, 0, 300)
    assert wide[0] < kendall_tau(scores[:40], truth[:40]) < wide[1]
    assert narrow[0] < kendall_tau(scores, truth) < narrow[1]
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 2
    assert tau_interval(scores[:40], truth[:40], 0, 300) == wide


def test_so_few_architectures_say_nothing():
    for count in (2, 3, 4):
        values = np.arange(float(count))
        assert tau_interval(values, values, 0) == (-1, 1)
        assert difference_interval(values, -values, values, 0) == (-2, 2)
    assert tau_interval([1, 1, 1], [1, 2, 3], 0) == (0, 0)  # whatever is drawn


def test_a_perfect_order_of_few_is_not_certain():
    values = np.arange(8.0)
    low, high = tau_interval(values, values, 0)
    assert (low, high) == (pytest.approx(2 * 0.025**0.25 - 1), 1)  # four pairs in order
    assert tau_interval(values, -values, 0) == (-1, pytest.approx(-low))
    assert tau_interval(np.arange(100.0), np.arange(100.0), 0)[0] > 0.8


def test_mean_interval_is_students():
    low, high = mean_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 2, 2.0, 1 / math.sqrt(3)))


def test_a_difference_of_the_same_rows_is_narrower_than_both_intervals():
    random = np.random.default_rng(0)
    truth = random.normal(size=60)
    one = truth + random.normal(size=60)
    other = one + 0.1 * random.normal(size=60)
    low, high = difference_interval(one, other, truth, 0)
    assert low < kendall_tau(one, truth) - kendall_tau(other, truth) < high
    alone = tau_interval(one, truth, 0)
    assert high - low < (alone[1] - alone[0]) / 2


def test_precision_at_top():
    measured = np.arange(40.0)
    assert precision_at_top(measured, measured) == 1
    assert precision_at_top(-measured, measured) == 0
    assert precision_at_top(np.zeros(40), measured) == pytest.approx(2 / 40)  # what chance would find
    assert precision_at_top([3, 2, 1, 0], [5, 5, 1, 0], 0.25) == 1
    assert precision_at_top([2, 3, 1, 0], [5, 5, 1, 0], 0.25) == 1  # both are best
    assert precision_at_top([1, 1, 0, 0], [5, 1, 1, 0], 0.25) == 0.5  # either might have been drawn


@given(NUMBERS, st.integers(0, 99), st.floats(0.01, 1))
def test_precision_is_a_share(values, seed, share):
    scores = np.random.default_rng(seed).integers(0, 4, len(values))
    assert 0 <= precision_at_top(scores, values, share) <= 1 + 1e-12


def test_tau_in_top():
    measured = np.arange(100.0)
    scores = measured.copy()
    scores[90:] = scores[90:][::-1]
    assert tau_in_top(scores, measured) == pytest.approx(-1)
    assert kendall_tau(scores, measured) > 0.9
    assert tau_in_top(scores[:50], measured[:50]) is None  # 5 of 50
    assert tau_in_top(scores, np.minimum(measured, 80)) is None  # all of the best are equal


def test_tau_in_band_is_what_is_known_besides_cost():
    random = np.random.default_rng(0)
    costs = random.normal(size=500)
    rest = random.normal(size=500)
    measured = 10 * costs + rest
    assert kendall_tau(costs, measured) > 0.9
    assert tau_in_band(rest, measured, costs) > tau_in_band(random.normal(size=500), measured, costs) + 0.05
    steps = np.repeat(np.arange(5.0), 20)  # bands of equal cost
    inner = np.tile(np.arange(20.0), 5)
    assert tau_in_band(steps, 100 * steps + inner, steps) == 0
    assert tau_in_band(inner, 100 * steps + inner, steps) == 1
    assert tau_in_band(inner, inner, np.ones(100)) is None
    assert tau_in_band([1, 2, 3], [1, 2, 3], [1, 2, 3]) is None


def test_noise_between_two_trainings():
    assert noise_between([(1, 2), (2, 3)]) is None
    random = np.random.default_rng(0)
    truth = random.normal(size=4000)
    pairs = np.stack([truth + 0.5 * random.normal(size=4000) for _ in range(2)], axis=1)
    noise = noise_between([tuple(pair) for pair in pairs])
    assert noise["architectures"] == 4000
    assert noise["standard_deviation"] == pytest.approx(0.5, rel=0.05)
    assert noise["ceiling"] == pytest.approx(kendall_tau(truth, pairs[:, 0]), abs=0.02)


def seeds_table(trainings: int, rows: int = 2000) -> tuple[LabelTable, np.ndarray]:
    random = np.random.default_rng(0)
    truth = random.normal(size=rows)
    labels = truth[:, None] + random.normal(size=(rows, trainings))
    return LabelTable(
        tuple(
            LabelRow(
                str(place),
                ArchGraph((Node("a"),), ()),
                {"m": float(row.mean()), **{f"m_seed{seed}": float(label) for seed, label in enumerate(row)}},
            )
            for place, row in enumerate(labels)
        )
    ), truth


def test_label_noise_of_means_of_trainings():
    table, truth = seeds_table(3)
    noise = label_noise(table, "m")
    assert noise["ceiling"] == pytest.approx(kendall_tau(truth, table.metric("m")), abs=0.02)
    assert noise["standard_deviation"] == pytest.approx(1, rel=0.05)
    assert label_noise(seeds_table(1)[0], "m") is None
    assert label_noise(seeds_table(2, 2)[0], "m") is None


def test_some_rows_trained_twice():
    table, _ = seeds_table(2, 200)
    rows = tuple(row if place < 50 else LabelRow(row.id, row.graph, {"m": 0.0}) for place, row in enumerate(table.rows))
    noise = label_noise(LabelTable(rows), "m")
    pairs = [(row.metrics["m_seed0"], row.metrics["m_seed1"]) for row in rows[:50]]
    assert noise == pytest.approx(noise_between(pairs))


@given(st.floats(0.5, 1.0), st.floats(0.5, 3.0), st.floats(0.3, 1.5))
def test_a_learning_curve_is_found_again(ceiling, drop, steepness):
    curve = LearningCurve(ceiling, drop, steepness)
    sizes = [25, 50, 100, 200]
    found = fit_learning_curve(sizes, [curve.tau(size) for size in sizes])
    assert found is not None
    for size in (25, 100, 400):
        assert found.tau(size) == pytest.approx(curve.tau(size), abs=0.03)
    needed = more_labels(curve, 100, (curve.ceiling - curve.tau(100)) / 4)
    assert needed is not None
    assert curve.tau(100 + needed) == pytest.approx(curve.tau(100) + (curve.ceiling - curve.tau(100)) / 4, abs=0.01)


def test_curves_that_tell_nothing():
    assert fit_learning_curve([10, 20], [0.3, 0.4]) is None
    assert fit_learning_curve([10, 20, 40], [0.4, 0.5, 0.4]) is None
    flat = LearningCurve(0.5, 1.0, 1.0)
    assert more_labels(flat, 100, 0.05) is None  # beyond the ceiling
    assert more_labels(LearningCurve(1.0, 1.0, 0.1), 100, 0.3) is None  # more than a hundred times as many


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.1, (-0.1, 0.3), 0.05, (-0.2, 0.2), None), "not shown to be better than chance"),
        ((0.4, (0.2, 0.6), 0.41, (-0.1, 0.1), None), "no better than plain MACs"),
        ((0.5, (0.3, 0.7), 0.41, (-0.05, 0.2), None), "not shown to be better than plain MACs"),
        ((0.7, (0.6, 0.8), 0.4, (0.2, 0.4), None), "in 85% of pairs (Kendall tau 0.70, plain MACs 0.40)."),
        ((0.7, (0.6, 0.8), None, None, 0.72), "little is left to learn"),
        ((0.5, (0.4, 0.6), None, None, 0.9), "a perfect one would reach 0.90"),
    ],
)
def test_verdict(arguments, words):
    assert words in verdict(*arguments)
