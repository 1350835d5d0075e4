"""Sampling within limits: distinct, exact in its distribution, and where hardly anything is feasible."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from supernet import COST_NAMES, InputError, OpSubset, SearchSpace, feasible_share, sample_distinct
from supernet.limits import within
from supernet.sampling import feasible, up_to
from tests.supernet.ladder import Ladder, every_row
from tests.supernet.spaces import spaces

THREE_LAYERS = OpSubset(
    layers=({"channels": 8}, {"channels": 16, "stride": 2}, {"channels": 16}),
    stem_channels=8, head_channels=8, input_size=8, classes=10,
)  # fmt: skip
LONG = Ladder(rungs=8)


class Needle(SearchSpace):
    """Every row costs 10 but those whose first options are all 0, which cost 1: there is no slope to go down."""

    kind: Literal["needle"] = "needle"
    zeros: int = 5

    @property
    def cardinalities(self):
        return (4,) * (self.zeros + 2)

    def graph(self, architecture):
        raise NotImplementedError

    def costs(self, choices):
        found = (choices[:, : self.zeros] == 0).all(axis=1)
        return {name: np.where(found, 1, 10) for name in COST_NAMES}


def chances(space, limits):
    """Every feasible network as bytes with its share of the feasible draws, and the share of all draws that fit."""
    rows = every_row(space)
    weights = np.exp(space.log_density(rows))
    fits = within(space, rows, limits)
    result = {}
    for row, weight in zip(space.canonical(rows[fits]), weights[fits], strict=True):
        result[row.tobytes()] = result.get(row.tobytes(), 0.0) + weight
    total = sum(result.values())
    return {key: value / total for key, value in result.items()}, total / weights.sum()


def tight(space, names, share):
    """Limits on some costs that a small part of the space keeps."""
    costs = space.costs(space.sample(100_000, np.random.default_rng(5)))
    return {name: int(np.quantile(costs[name], share)) for name in names}


def walked(space, limits, populations):
    """How often each network is in populations that were led down to the limits, one for each seed."""
    counts = {}
    for seed in range(populations):
        for rows, _ in feasible(space, limits, np.random.default_rng(seed)):
            if len(rows) == 1024:  # what was drawn before and kept is less
                for row in rows:
                    counts[row.tobytes()] = counts.get(row.tobytes(), 0) + 1
                break
    return counts


CASES = [
    (THREE_LAYERS, ("macs",), 0.001),
    (THREE_LAYERS, ("macs", "params", "activations"), 0.006),
    (LONG, ("macs",), 0.003),
    (LONG, ("conv_macs", "activations"), 0.003),
]


@pytest.mark.parametrize(("space", "names", "share"), CASES)
def test_what_walks_arrive_at_is_distributed_as_draws_that_were_kept(space, names, share):
    limits = tight(space, names, share)
    expected, total = chances(space, limits)
    assert total < 0.005
    counts = walked(space, limits, 3)
    assert counts.keys() <= expected.keys()
    observed = np.array([counts.get(key, 0) for key in expected])
    assert observed.sum() == 3 * 1024
    assert chisquare(observed, observed.sum() * np.array(list(expected.values()))).pvalue > 0.001


def test_the_density_of_a_space_is_kept_by_the_walks():
    """Rows with equal chance would be another distribution of networks, and the test above would see it."""
    limits = tight(LONG, ("macs",), 0.003)
    expected, _ = chances(LONG, limits)
    rows = every_row(LONG)
    rows = LONG.canonical(rows[within(LONG, rows, limits)])
    flat = dict.fromkeys(expected, 0)
    for row in rows:
        flat[row.tobytes()] += 1
    counts = walked(LONG, limits, 2)
    observed = np.array([counts.get(key, 0) for key in expected])
    assert chisquare(observed, observed.sum() * np.array(list(flat.values())) / len(rows)).pvalue < 1e-6


@pytest.mark.parametrize(("space", "names", "share"), CASES)
def test_the_estimated_share_is_near_the_exact_one(space, names, share):
    limits = tight(space, names, share)
    _, exact = chances(space, limits)
    estimates = np.array([feasible_share(space, limits, np.random.default_rng(seed)) for seed in range(4)])
    assert np.abs(estimates / exact - 1).max() < 0.4
    assert abs(estimates.mean() / exact - 1) < 0.15


def test_a_large_share_is_counted():
    limits = tight(THREE_LAYERS, ("params",), 0.3)
    _, exact = chances(THREE_LAYERS, limits)
    assert feasible_share(THREE_LAYERS, limits, np.random.default_rng(0)) == pytest.approx(exact, abs=0.015)
    assert feasible_share(THREE_LAYERS, {}, np.random.default_rng(0)) == 1.0


def exact_count(space, cost, limit):
    """How many architectures of ``op_subset`` keep a limit: layers are free of each other, so their costs convolve."""
    fixed = int(space.costs(np.zeros((1, len(space.cardinalities)), np.int8))[cost][0])
    each = space.costs(np.eye(len(space.cardinalities), dtype=np.int8))[cost] - fixed
    totals = {fixed: 1}
    for options in each.reshape(len(space.layers), -1):
        layer = [sum(options[place] for place in range(len(options)) if mask >> place & 1)
                 for mask in range(1, 2 ** len(options))]  # fmt: skip
        sums = {}
        for before, ways in totals.items():
            for own in layer:
                if before + own <= limit:
                    sums[before + own] = sums.get(before + own, 0) + ways
        totals = sums
    return sum(totals.values())


def test_one_in_ten_million():
    space = OpSubset()
    least = int(space.costs(space.cheapest("macs").row())["macs"][0])
    limit = round(least * 1.015)
    count = exact_count(space, "macs", limit)
    assert exact_count(THREE_LAYERS, "macs", 10**12) == THREE_LAYERS.size
    assert 5e-8 < count / space.size < 2e-7
    estimates = [feasible_share(space, {"macs": limit}, np.random.default_rng(seed)) for seed in range(2)]
    assert np.mean(estimates) == pytest.approx(count / space.size, rel=0.3)
    # All of them are found, and no more.
    rows = sample_distinct(space, count, np.random.default_rng(0), {"macs": limit})
    assert len(np.unique(rows, axis=0)) == count
    assert within(space, rows, {"macs": limit}).all()
    with pytest.raises(InputError, match=f"found {count} distinct architectures within .*expected {count + 1}"):
        sample_distinct(space, count + 1, np.random.default_rng(0), {"macs": limit})


def test_the_single_cheapest_of_a_thousand_million_is_found():
    space = OpSubset()
    cheapest = space.cheapest("macs")
    limits = {"macs": int(space.costs(cheapest.row())["macs"][0])}
    assert sample_distinct(space, 1, np.random.default_rng(3), limits).tolist() == [list(cheapest.choices)]
    assert feasible_share(space, limits, np.random.default_rng(3)) == pytest.approx(1 / space.size, rel=0.6)


@pytest.mark.parametrize("seed", range(4))
def test_a_population_that_is_equally_far_walks_on_until_some_get_below(seed):
    space = Needle()
    assert feasible_share(space, {"macs": 1}, np.random.default_rng(seed)) == pytest.approx(4**-5, rel=0.5)
    rows = sample_distinct(space, 16, np.random.default_rng(seed), {"macs": 1})
    assert (rows[:, :5] == 0).all()


def test_nothing_within_limits_that_exclude_each_other():
    """Each limit alone is kept by something: only together they leave nothing."""

    class Traded(Needle):
        kind: Literal["traded"] = "traded"

        def costs(self, choices):
            total = choices.sum(axis=1).astype(np.int64)
            return {name: total if name == "macs" else 30 - total for name in COST_NAMES}

    space = Traded()
    limits = {"macs": 10, "params": 19}
    assert feasible_share(space, limits, np.random.default_rng(0)) == 0.0
    with pytest.raises(InputError, match="found 0 distinct architectures within macs at most 10 and params at most 19"):
        sample_distinct(space, 1, np.random.default_rng(0), limits)
    assert len(sample_distinct(space, 5, np.random.default_rng(0), {"macs": 10, "params": 20})) == 5


@given(spaces(), st.integers(1, 12), st.integers(0, 12), st.integers(0, 2**32))
def test_a_larger_plan_begins_with_a_smaller_one(space, few, more, seed):
    count = min(few + more, space.size // 2)
    large = sample_distinct(space, count, np.random.default_rng(seed))
    small = sample_distinct(space, min(few, count), np.random.default_rng(seed))
    assert (large[: len(small)] == small).all()
    assert len(np.unique(large, axis=0)) == count
    assert space.is_valid(large).all()
    assert (space.canonical(large) == large).all()


@pytest.mark.parametrize(("space", "names", "share"), CASES)
def test_a_larger_plan_begins_with_a_smaller_one_where_walks_find_it(space, names, share):
    limits = tight(space, names, share)
    expected, _ = chances(space, limits)
    large = sample_distinct(space, len(expected), np.random.default_rng(7), limits)
    small = sample_distinct(space, 9, np.random.default_rng(7), limits)
    assert (large[:9] == small).all()
    assert {row.tobytes() for row in large} == set(expected)


def test_rows_of_the_same_network_count_once():
    space = Ladder(rungs=3)
    rows = sample_distinct(space, space.size, np.random.default_rng(0))
    assert len(every_row(space)) == 81
    assert len(rows) == space.size == 39
    assert (space.canonical(rows) == rows).all()
    with pytest.raises(InputError, match=r"found 39 distinct architectures within no limits, expected 40"):
        sample_distinct(space, 40, np.random.default_rng(0))


def test_the_first_of_a_sample_are_drawn_with_the_chances_of_the_space():
    space = Ladder(rungs=2)
    expected, _ = chances(space, {})
    firsts = [sample_distinct(space, 1, np.random.default_rng(seed))[0].tobytes() for seed in range(600)]
    observed = np.array([firsts.count(key) for key in expected])
    assert chisquare(observed, 600 * np.array(list(expected.values()))).pvalue > 0.001
    assert np.allclose(list(expected.values()), 1 / 12)


def test_none_may_be_asked_for():
    assert sample_distinct(LONG, 0, np.random.default_rng(0), {"macs": 10**9}).shape == (0, 9)


@pytest.mark.parametrize("name", COST_NAMES)
def test_a_limit_is_kept_to_the_unit(name):
    rows = every_row(THREE_LAYERS)[::97]
    values = THREE_LAYERS.costs(rows)[name]
    limit = int(np.median(values))
    for batch, (drawn, _) in enumerate(feasible(THREE_LAYERS, {name: limit}, np.random.default_rng(1))):
        assert THREE_LAYERS.costs(drawn)[name].max() <= limit
        if batch == 3:
            break


def test_a_batch_stays_as_it_was_given_while_the_walk_goes_on():
    limits = tight(THREE_LAYERS, ("macs",), 0.001)
    batches = (rows for rows, _ in feasible(THREE_LAYERS, limits, np.random.default_rng(2)))
    first = next(rows for rows in batches if len(rows) == 1024)
    before = first.copy()
    second = next(batches)
    assert (first == before).all()
    assert (first != second).any()


def test_as_many_as_there_are():
    space = Ladder(rungs=2)
    assert len(up_to(space, 50, np.random.default_rng(0), {})) == 12
    rows = sample_distinct(space, 12, np.random.default_rng(0))
    assert (up_to(space, 7, np.random.default_rng(0), {}) == rows[:7]).all()


def test_a_limit_on_an_unknown_cost_has_no_share():
    with pytest.raises(InputError, match="limit 'flops' is unknown; known: macs"):
        feasible_share(OpSubset(), {"flops": 1}, np.random.default_rng(0))
