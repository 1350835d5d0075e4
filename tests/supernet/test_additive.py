import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet import NasBench201, OpSubset
from supernet.additive import additive_ridge, fit_additive

SPACE = OpSubset()
CELLS = NasBench201()


def tables(space, seed):
    random = np.random.default_rng(seed)
    return [random.normal(size=count) for count in space.cardinalities]


@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-9, 1.0, 1e12]))
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("space", [SPACE, OpSubset(operations=("skip", "dil_conv_3"))])
def test_a_sum_over_the_choices_is_found_whatever_its_scale(space, seed, scale):
    parts = tables(space, seed)

    def total(rows):
        return scale * (3 + sum(part[column] for part, column in zip(parts, rows.T, strict=True)))

    found = fit_additive(space, total)
    rows = space.sample(200, np.random.default_rng(seed + 1))
    assert found is not None
    np.testing.assert_allclose(found.values(rows), total(rows), rtol=0, atol=1e-6 * scale)


def test_macs_are_such_a_sum_and_depth_is_not():
    assert fit_additive(SPACE, lambda rows: SPACE.costs(rows)["macs"]) is not None
    assert fit_additive(SPACE, SPACE.depths) is None


def test_what_is_no_sum_is_not_taken_for_one():
    assert fit_additive(SPACE, lambda rows: rows[:, 0] * rows[:, 7] + rows[:, 3]) is None
    assert fit_additive(CELLS, lambda rows: (rows == 0).all(axis=1).astype(float) + (rows[:, 0] == rows[:, 5])) is None


def test_a_constant_is_a_sum():
    found = fit_additive(SPACE, lambda rows: np.full(len(rows), 2.5))
    assert found is not None
    np.testing.assert_allclose(found.values(SPACE.sample(9, np.random.default_rng(0))), 2.5)


def test_ridge_comes_near_a_noisy_sum_and_a_strong_penalty_is_the_mean():
    parts, random = tables(SPACE, 0), np.random.default_rng(1)
    rows = SPACE.sample(2000, random)
    exact = sum(part[column] for part, column in zip(parts, rows.T, strict=True))
    noisy = exact + random.normal(0, 0.1, len(rows))
    near = additive_ridge(rows[:1000], noisy[:1000], SPACE.cardinalities, 1e-3)
    assert np.abs(near.values(rows[1000:]) - exact[1000:]).max() < 0.15
    flat = additive_ridge(rows, noisy, SPACE.cardinalities, 1e12)
    np.testing.assert_allclose(flat.values(rows), noisy.mean(), atol=1e-3)
