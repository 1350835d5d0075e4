import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet import Bound, InputError, OpSubset
from supernet.limits import bounds, check_limits, cost_of, costliest, excess, limited_costs, told, within
from supernet.op_subset import LayerSettings
from supernet.operations import graph_depth
from supernet.space import architectures

SMALL = OpSubset(
    layers=(LayerSettings(channels=8), LayerSettings(channels=16, stride=2)),
    operations=("skip", "sep_conv_3", "dil_conv_3"),
    head_channels=32,
    classes=10,
)


def every(space):
    rows = np.array(list(itertools.product(*map(range, space.cardinalities))), np.int8)
    return rows[space.is_valid(rows)]


ROWS = every(SMALL)
COSTS = {**SMALL.costs(ROWS), "depth": SMALL.depths(ROWS)}


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_within_keeps_what_lies_between_the_ends_and_excess_is_0_there_alone(data):
    limits = {}
    for name in data.draw(st.lists(st.sampled_from(sorted(COSTS)), unique=True, max_size=3)):
        values = COSTS[name]
        ends = sorted(data.draw(st.tuples(*[st.integers(int(values.min()) - 1, int(values.max()) + 1)] * 2)))
        limits[name] = data.draw(st.sampled_from([ends[1], Bound(ends[0]), Bound(*ends)]))
    expected = np.ones(len(ROWS), bool)
    for name, bound in bounds(limits).items():
        expected &= (COSTS[name] >= bound.least) & (COSTS[name] <= bound.most)
    assert (within(SMALL, ROWS, limits) == expected).all()
    assert ((excess(SMALL, ROWS, limits) == 0) == expected).all()


def test_a_limit_is_kept_to_the_unit_however_large_the_cost():
    huge = Bound(most=2**53 - 2, measure=lambda rows: np.full(len(rows), 2**53 - 1))
    assert not within(SMALL, ROWS[:1], {"energy": huge}).any()
    assert excess(SMALL, ROWS[:1], {"energy": huge})[0] > 0


def test_a_measure_of_ones_own_is_a_limit_like_any_other():
    energy = Bound(most=2.0, measure=lambda rows: rows.sum(axis=1) / 1.5)
    assert (within(SMALL, ROWS, {"energy": energy}) == (ROWS.sum(axis=1) <= 3)).all()
    assert set(limited_costs(SMALL, ROWS, {"energy": energy, "depth": 9})) == {"energy", "depth"}


@pytest.mark.parametrize("name", sorted(COSTS))
def test_what_nothing_keeps_names_the_least_and_the_most_that_there_is(name):
    least, most = int(COSTS[name].min()), int(COSTS[name].max())
    check_limits(SMALL, {name: Bound(most, most)})
    check_limits(SMALL, {name: least})
    with pytest.raises(InputError, match=f"limit {name}: .* is below the cheapest .* needs {least:,} "):
        check_limits(SMALL, {name: least - 1})
    with pytest.raises(InputError, match=f"limit {name}: .* is above the costliest .* needs {most:,} "):
        check_limits(SMALL, {name: Bound(least=most + 1)})
    assert cost_of(SMALL, costliest(SMALL, name).row(), name)[0] == most


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"mac": 5}, "limit 'mac' is unknown; .* Did you mean 'macs'"),
        ({"macs": 5.5}, "expected a whole number, got 5.5"),
        ({"macs": Bound(6, 5)}, "expected least <= most, got 6 and 5"),
        ({"macs": Bound(float("nan"))}, "expected least <= most"),
        ({"energy": Bound(most=5)}, "limit 'energy' is unknown"),
    ],
)
def test_limits_that_make_no_sense(limits, message):
    with pytest.raises(InputError, match=message):
        bounds(limits)


def test_limits_in_words():
    limits = {"macs": 15_000_000, "depth": Bound(4), "params": Bound(5, 6), "latency": Bound(2, 2, len)}
    text = "macs at most 15,000,000 and depth at least 4 and params from 5 to 6 and latency exactly 2"
    assert told(limits) == text
    assert told({}) == "no limits"


def test_depth_counts_convolutions_on_the_longest_path():
    graphs = [SMALL.graph(one) for one in architectures(SMALL, ROWS)]
    assert SMALL.depths(ROWS).tolist() == [graph_depth(graph) for graph in graphs]
    skips, most = SMALL.read("100 100"), SMALL.read("111 111")
    # stem, head, classifier; a skip that changes channels is one, a separable convolution four
    assert SMALL.depths(skips.row())[0] == 3 + 1 + 1
    assert SMALL.depths(most.row())[0] == 3 + 4 + 4
