import itertools
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution import optimum
from evolution.exact import every_row, solve_additive
from supernet import Bound, InputError, NasBench201, OpSubset, SearchSpace
from supernet.limits import within
from supernet.op_subset import LayerSettings

SMALL = OpSubset(
    layers=(LayerSettings(channels=8), LayerSettings(channels=16, stride=2)),
    operations=("skip", "sep_conv_3", "sep_conv_5", "dil_conv_3"),
    head_channels=32,
    classes=10,
)
CELLS = NasBench201(classes=10)


class Even(SearchSpace):
    """Rows whose options sum to an even number; no clauses say so."""

    kind: Literal["even"] = "even"

    @property
    def cardinalities(self):
        return (3, 4, 2, 3)

    def graph(self, architecture):
        raise NotImplementedError

    def is_valid(self, choices):
        return super().is_valid(choices) & (choices.sum(axis=1) % 2 == 0)

    def costs(self, choices):
        wide = choices.astype(np.int64)
        names = ("macs", "conv_macs", "params", "activations")
        return dict.fromkeys(names, wide @ np.array([5, 3, 2, 1]))


def every(space):
    rows = np.array(list(itertools.product(*map(range, space.cardinalities))), np.int8)
    return rows[space.is_valid(rows)]


ROWS = {space.name: every(space) for space in (SMALL, Even())}


@given(seed=st.integers(0, 10_000), low=st.floats(0, 1), high=st.floats(0, 1), both=st.booleans())
@settings(max_examples=60, deadline=None)
def test_integer_programming_finds_what_brute_force_finds(seed, low, high, both):
    rows, costs = ROWS["op_subset"], SMALL.costs(ROWS["op_subset"])
    weights = np.random.default_rng(seed).normal(0.1, 1, len(SMALL.cardinalities))
    ends = np.sort(costs["macs"])[[int(min(low, high) * (len(rows) - 1)), int(max(low, high) * (len(rows) - 1))]]
    limits = {"macs": Bound(int(ends[0]) if both else -np.inf, int(ends[1]))}
    found = solve_additive(SMALL, lambda some: some @ weights, limits)
    kept = rows[within(SMALL, rows, limits)]
    assert found is not None
    assert found.method == "integer programming"
    assert found.best.score == pytest.approx((kept @ weights).max())
    assert within(SMALL, found.best.architecture.row(), limits).all()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_the_published_space_keeps_several_limits_at_once(seed):
    space = OpSubset()
    weights = np.random.default_rng(seed).normal(0.2, 1, len(space.cardinalities))
    limits = {"macs": Bound(12_990_000, 13_000_000), "params": 690_000}
    found = optimum(space, lambda rows: rows @ weights, limits)
    assert found is not None
    assert within(space, found.best.architecture.row(), limits).all()
    sample = space.sample(50_000, np.random.default_rng(seed))
    sample = sample[within(space, sample, {"macs": 13_000_000, "params": 690_000})]
    kept = sample[within(space, sample, limits)]
    assert not len(kept) or found.best.score >= (kept @ weights).max() - 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_any_score_of_a_small_space_is_enumerated(seed):
    space, rows = Even(), ROWS["even"]
    values = np.random.default_rng(seed).normal(size=36 * 4)

    def score(some):
        return values[some @ np.array([1, 3, 12, 24])]

    found = optimum(space, score, {"macs": 12})
    kept = rows[within(space, rows, {"macs": 12})]
    assert found is not None
    assert found.method == "enumeration"
    assert found.scored == len(kept)
    assert found.best.score == score(kept).max()


def test_networks_that_are_the_same_are_scored_once():
    asked = []

    def score(rows):
        asked.append(rows)
        return rows.sum(axis=1) ** 2.0

    limit = int(np.median(CELLS.costs(CELLS.sample(100, np.random.default_rng(0)))["macs"]))
    found = optimum(CELLS, score, {"macs": limit})
    rows = np.concatenate([rows for rows in asked if len(rows) != 1])
    assert found is not None
    assert len(np.unique(rows, axis=0)) == len(rows) == found.scored
    assert (CELLS.costs(rows)["macs"] <= limit).all()
    assert (CELLS.canonical(rows) == rows).all()


def test_none_where_neither_way_leads_to_the_optimum():
    assert optimum(OpSubset(), lambda rows: (rows.sum(axis=1) % 7).astype(float), {}) is None
    assert optimum(CELLS, lambda rows: rows.sum(axis=1) ** 2.0, {}, most=100) is None


@pytest.mark.parametrize("space", [SMALL, Even()])
def test_limits_that_nothing_keeps_together(space):
    costs = space.costs(every(space))["macs"]
    gap = next(value for value in range(int(costs.min()), int(costs.max())) if value not in set(costs.tolist()))
    with pytest.raises(InputError, match=r"limit.*macs"):
        optimum(space, lambda rows: rows.sum(axis=1).astype(float), {"macs": Bound(gap, gap)})


def test_every_row_is_there_once():
    rows = np.concatenate(list(every_row(Even())))
    assert len(np.unique(rows, axis=0)) == len(rows) == 72
