import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet import COST_NAMES, Bound, InputError, OpSubset
from supernet.limits import (
    LIMITED,
    bounds,
    check_limits,
    cost_of,
    costliest,
    excess,
    limited_costs,
    number,
    told,
    within,
)
from supernet.operations import graph_depth
from supernet.space import architectures
from tests.supernet.spaces import spaces

SPACE = OpSubset()
ROWS = SPACE.sample(200, np.random.default_rng(0))
seeds = st.integers(0, 2**32)


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (Bound(most=15_000_000), "at most 15,000,000"),
        (Bound(least=8), "at least 8"),
        (Bound(5, 6.5), "from 5 to 6.5"),
        (Bound(7, 7), "exactly 7"),
        (Bound(most=0.00123456), "at most 0.001235"),
    ],
)
def test_bounds_in_words(bound, text):
    assert bound.text == text
    assert told({"macs": bound}) == f"macs {text}"


def test_limits_in_words():
    assert told({}) == "no limits"
    assert told({"macs": 15_000_000, "depth": Bound(least=8)}) == "macs at most 15,000,000 and depth at least 8"
    assert [number(value) for value in (0, 1234567, 1234567.0, 2.5)] == ["0", "1,234,567", "1,234,567", "2.5"]


def test_a_number_is_the_largest_allowed_value():
    assert bounds({"macs": 5, "depth": np.int64(6)}) == {"macs": Bound(most=5), "depth": Bound(most=6)}
    measured = Bound(1, 2, lambda rows: rows.sum(axis=1))
    assert bounds({"anything": measured}) == {"anything": measured}
    assert bounds(bounds({"macs": 5})) == {"macs": Bound(most=5)}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"macs": 1.5}, "limit macs: expected a whole number, got 1.5"),
        ({"macs": True}, "limit macs: expected a whole number, got True"),
        ({"macs": "15M"}, "limit macs: expected a whole number, got '15M'"),
        ({"macs": None}, "limit macs: expected a whole number, got None"),
        ({"mac": 5}, r"limit 'mac' is unknown; known: macs, .*, depth\. Did you mean 'macs'"),
        ({"latency": Bound(most=5)}, "limit 'latency' is unknown"),
        ({"macs": Bound(6, 5)}, "limit macs: expected least <= most, got 6 and 5"),
        ({"macs": Bound(most=np.nan)}, "limit macs: expected least <= most, got -inf and nan"),
        ({"macs": Bound(least=np.nan)}, "limit macs: expected least <= most, got nan and inf"),
    ],
)
def test_limits_that_are_none(limits, message):
    for refuse in (bounds, told, lambda limits: check_limits(SPACE, limits)):
        with pytest.raises(InputError, match=message):
            refuse(limits)


@given(seeds, st.lists(st.sampled_from(LIMITED), unique=True))
def test_within_and_excess_by_definition(seed, names):
    random = np.random.default_rng(seed)
    limits = {}
    for name in names:
        low, high = sorted(random.choice(cost_of(SPACE, ROWS, name), 2).tolist())
        sides = random.integers(4)
        limits[name] = high if sides == 0 else Bound(low if sides > 1 else -np.inf, high if sides != 2 else np.inf)
    fits, far = np.ones(len(ROWS), bool), np.zeros(len(ROWS))
    for name, limit in bounds(limits).items():
        values = cost_of(SPACE, ROWS, name)
        fits &= (limit.least <= values) & (values <= limit.most)
        np.testing.assert_array_equal(limit.keeps(values), (limit.least <= values) & (values <= limit.most))
        for value_place, value in enumerate(values):
            far[value_place] += max(value - limit.most, 0) / abs(limit.most)
            far[value_place] += max(limit.least - value, 0) / abs(limit.least)
    np.testing.assert_array_equal(within(SPACE, ROWS, limits), fits)
    np.testing.assert_allclose(excess(SPACE, ROWS, limits), far, atol=1e-15)
    np.testing.assert_array_equal(excess(SPACE, ROWS, limits) == 0, fits)
    np.testing.assert_array_equal(within(SPACE, ROWS, bounds(limits)), fits)
    costs = limited_costs(SPACE, ROWS, limits)
    assert list(costs) == names
    assert all((costs[name] == cost_of(SPACE, ROWS, name)).all() for name in names)


def test_no_rows_and_no_limits():
    def measure(rows):
        raise AssertionError("asked of no rows")

    limits = {"latency": Bound(most=1, measure=measure), "macs": 5}
    assert within(SPACE, ROWS[:0], limits).shape == excess(SPACE, ROWS[:0], limits).shape == (0,)
    assert within(SPACE, ROWS, {}).all()
    assert (excess(SPACE, ROWS, {}) == 0).all()
    assert limited_costs(SPACE, ROWS, {}) == {}
    check_limits(SPACE, {})


def test_a_measure_stands_in_for_what_a_space_counts():
    limits = {
        "macs": Bound(10, 12, lambda rows: rows.sum(axis=1)),
        "ones": Bound(most=11, measure=lambda rows: rows.sum(axis=1)),
    }
    sums = ROWS.sum(axis=1)
    np.testing.assert_array_equal(within(SPACE, ROWS, limits), (sums >= 10) & (sums <= 11))
    np.testing.assert_allclose(
        excess(SPACE, ROWS, limits),
        np.maximum(sums - 12, 0) / 12 + np.maximum(10 - sums, 0) / 10 + np.maximum(sums - 11, 0) / 11,
    )


def test_excess_of_a_limit_of_nothing():
    limits = {"loss": Bound(most=0, measure=lambda rows: rows.sum(axis=1) - 12.0)}
    np.testing.assert_array_equal(excess(SPACE, ROWS, limits) > 0, ROWS.sum(axis=1) > 12)
    assert np.isfinite(excess(SPACE, ROWS, limits)).all()


@given(spaces(), seeds)
def test_each_cost_of_a_space(space, seed):
    rows = space.sample(5, np.random.default_rng(seed))
    costs = space.costs(rows)
    for name in COST_NAMES:
        assert (cost_of(space, rows, name) == costs[name]).all()
    assert cost_of(space, rows, "depth").tolist() == [
        graph_depth(space.graph(one)) for one in architectures(space, rows)
    ]
    for ask in (lambda: cost_of(space, rows, "flops"), lambda: costliest(space, "flops")):
        with pytest.raises(
            InputError, match="cost 'flops' is unknown; known: macs, conv_macs, params, activations, depth"
        ):
            ask()


def test_a_refusal_names_the_nearest_that_there_is():
    most = int(SPACE.costs(np.ones((1, 30), np.int8))["macs"][0])
    least = int(SPACE.costs(SPACE.cheapest("macs").row())["macs"][0])
    check_limits(SPACE, {"macs": Bound(most, most)})
    check_limits(SPACE, {"macs": Bound(least, least)})
    with pytest.raises(InputError) as caught:
        check_limits(SPACE, {"macs": Bound(least=most + 1)})
    assert str(caught.value) == (
        f"limit macs: {most + 1:,} is above the costliest architecture of op_subset, which needs {most:,} "
        f"(011111 111111 111111 111111 111111)"  # the first skip is an identity
    )
    with pytest.raises(InputError) as caught:
        check_limits(SPACE, {"macs": Bound(most=least - 0.5)})
    assert str(caught.value) == (
        f"limit macs: {least - 0.5:.4g} is below the cheapest architecture of op_subset, which needs {least:,} "
        f"({SPACE.format(SPACE.cheapest('macs'))})"
    )


@given(seeds)
def test_a_measure_that_is_a_sum_is_refused_only_beyond_its_ends(seed):
    """The cheapest operation of each layer alone, and all operations, are what there is the least and the most of."""
    weights = np.random.default_rng(seed).integers(1, 1000, 30)
    measure = lambda rows: rows.astype(np.int64) @ weights  # noqa: E731
    least, most = int(weights.reshape(5, 6).min(axis=1).sum()), int(weights.sum())
    check_limits(SPACE, {"latency": Bound(least, least, measure)})
    check_limits(SPACE, {"latency": Bound(most, most, measure)})
    with pytest.raises(InputError, match=r"limit latency: .* is below the cheapest"):
        check_limits(SPACE, {"latency": Bound(most=least - 1, measure=measure)})
    with pytest.raises(InputError, match=r"limit latency: .* is above the costliest"):
        check_limits(SPACE, {"latency": Bound(least=most + 1, measure=measure)})


def test_the_costliest_of_the_published_space():
    for name in COST_NAMES:
        everything = SPACE.costs(np.ones((1, 30), np.int8))[name]
        assert SPACE.costs(costliest(SPACE, name).row())[name] == everything
    assert SPACE.depths(costliest(SPACE, "depth").row())[0] == 23
