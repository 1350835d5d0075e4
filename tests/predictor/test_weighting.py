from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.weighting import blend_weights

RANDOM = np.random.default_rng(0)
Y = RANDOM.normal(size=200)


@given(st.integers(2, 40), st.integers(1, 4), st.integers(0, 100))
def test_weights_are_positive_and_sum_to_1(rows, components, seed):
    random = np.random.default_rng(seed)
    scores = {str(place): random.normal(size=rows) for place in range(components)}
    weights = blend_weights(scores, random.normal(size=rows))
    assert weights
    assert set(weights) <= set(scores)
    assert sum(weights.values()) == pytest.approx(1)
    assert min(weights.values()) >= 0.05


def test_a_single_component_has_all():
    assert blend_weights({"a": -Y}, Y) == {"a": 1.0}


def test_what_ranks_badly_is_left_out_and_equals_share():
    noisy = {name: Y + 0.5 * RANDOM.normal(size=200) for name in ("one", "two")}
    weights = blend_weights({**noisy, "chance": RANDOM.normal(size=200)}, Y)
    assert set(weights) == {"one", "two"}
    assert abs(weights["one"] - weights["two"]) < 0.2


def test_few_labels_go_by_tau():
    scores = {"right": np.array([1.0, 2.0, 3.0]), "wrong": np.array([3.0, 2.0, 1.0])}
    assert blend_weights(scores, np.array([-1.0, 0.0, 1.0])) == {"right": 1.0}
