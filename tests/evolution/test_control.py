import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution import closest_in_macs
from supernet import Darts, InputError, OpSubset, Stages, architectures
from supernet.op_subset import LayerSettings

DEFAULT = OpSubset()
TINY = OpSubset(layers=(LayerSettings(channels=8),), operations=("skip", "sep_conv_3", "dil_conv_3"))


def macs(space, architecture, cost="macs"):
    return int(space.costs(architecture.row())[cost][0])


DEEP = Stages.model_validate(
    {
        "stages": [
            {
                "channels": 16,
                "depth": (1, 12),
                "operations": ["skip", {"op": "mbconv", "kernel": (3, 5), "expansion": 1}],
            }
            for _ in range(3)
        ]
    }
)


@given(st.integers(9_000_000, 17_500_000), st.integers(0, 2**32), st.sampled_from(["macs", "conv_macs"]))
@settings(max_examples=15, deadline=None)
def test_matches_within_the_tolerance_and_the_limit(target, seed, cost):
    match = closest_in_macs(DEFAULT, target, {cost: target}, np.random.default_rng(seed), cost=cost)
    assert DEFAULT.is_valid(match.architecture.row())[0]
    assert match.cost == macs(DEFAULT, match.architecture, cost) <= target
    assert match.gap == pytest.approx(abs(match.cost - target) / target)
    assert match.gap <= 0.02


def test_the_seed_decides_and_draws_differ():
    drawn = [closest_in_macs(DEFAULT, 14_000_000, {}, np.random.default_rng(seed)) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("extreme", ["cheapest", "dearest"])
def test_walks_to_costs_that_uniform_draws_do_not_meet(extreme):
    row = DEFAULT.cheapest("macs").row() if extreme == "cheapest" else np.ones((1, 30), np.int8)
    target = int(DEFAULT.costs(row)["macs"][0])
    match = closest_in_macs(DEFAULT, target, {}, np.random.default_rng(0), tolerance=0.004)
    assert match.gap <= 0.004


def test_excluded_architectures_are_never_drawn_and_the_gap_is_reported():
    every = architectures(TINY, TINY.sample(500, np.random.default_rng(0)))
    by_gap = sorted(set(every), key=lambda one: macs(TINY, one))
    assert len(by_gap) == 7
    target = macs(TINY, by_gap[0])
    excluded: set[str] = set()
    for expected in by_gap:
        match = closest_in_macs(TINY, target, {}, np.random.default_rng(1), tolerance=1e-6, excluded=excluded)
        assert match.architecture.key not in excluded
        assert match.gap == pytest.approx((match.cost - target) / target)
        # Doubling tolerances pass at most a factor of two beyond the nearest one.
        assert match.gap <= max(1e-6, 2 * (macs(TINY, expected) - target) / target)
        excluded.add(expected.key)
    with pytest.raises(InputError, match="is excluded"):
        closest_in_macs(TINY, target, {}, np.random.default_rng(1), excluded=excluded)


@pytest.mark.parametrize(("target", "tolerance"), [(0, 0.02), (-5, 0.02), (100, 0.0), (100, float("nan"))])
def test_refuses_a_target_or_tolerance_that_makes_no_sense(target, tolerance):
    with pytest.raises(InputError, match="above 0"):
        closest_in_macs(DEFAULT, target, {}, np.random.default_rng(0), tolerance=tolerance)


def test_refuses_an_unknown_cost():
    with pytest.raises(InputError, match=r"unknown cost 'mac'; known: .* Did you mean 'macs'"):
        closest_in_macs(DEFAULT, 10_000_000, {}, np.random.default_rng(0), cost="mac")


@pytest.mark.parametrize("space", [DEEP, Darts(cells=3, channels=4)], ids=["stages", "darts"])
@pytest.mark.parametrize("seed", range(3))
def test_a_network_that_is_excluded_comes_in_no_other_form(space, seed):
    least = space.cheapest("macs")
    assert (space.canonical(least.row()) == least.row()).all()
    target = macs(space, least)
    match = closest_in_macs(space, target, {}, np.random.default_rng(seed), tolerance=1e-3, excluded=[least.key])
    assert (space.canonical(match.architecture.row()) == match.architecture.row()).all()
    assert match.architecture != least
