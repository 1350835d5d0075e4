import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet import COST_NAMES, Darts, DavidNet, NasBench201, OpSubset
from supernet.additive import Additive, additive_ridge, fit_additive, one_hot
from tests.evolution.test_search import SMALL, Digits, every
from tests.supernet.ladder import Ladder

SPACE = OpSubset()
MIXED = (3, 1, 5, 2)
seeds = st.integers(0, 2**32)


def planted(cardinalities, seed, size=1.0, shift=0.0):
    """A random sum over the choices."""
    random = np.random.default_rng(seed)
    return Additive(shift + size * random.normal(), tuple(size * random.normal(size=count) for count in cardinalities))


def test_a_sum_by_hand():
    additive = Additive(10.0, (np.array([0.0, 1.0]), np.array([2.0, 3.0, 4.0])))
    assert additive.values(np.array([[0, 0], [1, 2], [0, 1]], np.int8)).tolist() == [12, 15, 13]
    assert additive.values(np.empty((0, 2), np.int8)).shape == (0,)


def test_a_column_for_each_option_but_the_first():
    assert one_hot(np.array([[0, 0, 4, 1], [2, 0, 0, 0]], np.int8), MIXED).tolist() == [
        [0, 0, 0, 0, 0, 1, 1],
        [0, 1, 0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("space", [SPACE, SMALL, Digits(), DavidNet()], ids=lambda space: space.kind)
@given(seed=seeds, size=st.sampled_from((1e-9, 1.0, 1e9)), shift=st.sampled_from((0.0, 1.0, -1e4)))
def test_a_sum_is_recovered_on_every_row(space, seed, size, shift):
    truth = planted(space.cardinalities, seed, size, shift * size)
    found = fit_additive(space, truth.values, seed)
    assert found is not None
    rows = space.sample(500, np.random.default_rng(seed + 1))
    np.testing.assert_allclose(found.values(rows), truth.values(rows), rtol=0, atol=1e-9 * size * (1 + abs(shift)))
    assert all(table[0] == 0 for table in found.tables)


@pytest.mark.parametrize("cost", COST_NAMES)
def test_what_op_subset_counts_is_a_sum_to_the_unit(cost):
    found = fit_additive(SPACE, lambda rows: SPACE.costs(rows)[cost])
    rows = SPACE.sample(1000, np.random.default_rng(9))
    np.testing.assert_array_equal(np.round(found.values(rows)), SPACE.costs(rows)[cost])
    fixed, table = SPACE._cost_table
    column = COST_NAMES.index(cost)
    assert round(found.fixed) == fixed[column]
    assert [round(one[1]) for one in found.tables] == table[:, column].tolist()


@pytest.mark.parametrize("value", [0.0, 0.1, -3e9, 1e-12])
def test_a_constant_is_a_sum(value):
    found = fit_additive(SPACE, lambda rows: np.full(len(rows), value))
    assert found.values(SPACE.sample(5, np.random.default_rng(0))).tolist() == [value] * 5


@given(seeds, st.sampled_from(("product", "pair", "square", "threshold", "noise")))
def test_what_is_no_sum_is_refused(seed, kind):
    truth, random = planted(SPACE.cardinalities, seed), np.random.default_rng(seed)
    functions = {
        "product": lambda rows: np.exp(truth.values(rows)),
        "pair": lambda rows: truth.values(rows) + 0.01 * (rows[:, 3] * rows[:, 17]),
        "square": lambda rows: truth.values(rows) ** 2,
        "threshold": lambda rows: (truth.values(rows) > truth.fixed).astype(float),
        "noise": lambda rows: truth.values(rows) + 1e-3 * random.normal(size=len(rows)),
    }
    assert fit_additive(SPACE, functions[kind], seed) is None


def test_depth_is_no_sum():
    assert fit_additive(SPACE, SPACE.depths) is None


@pytest.mark.parametrize(
    "space", [NasBench201(channels=4, cells=1, input_size=8), Ladder(rungs=3)], ids=lambda space: space.kind
)
def test_costs_are_a_sum_over_canonical_rows_where_what_is_dead_costs_nothing(space):
    rows = space.canonical(every(space))
    found = fit_additive(space, lambda rows: space.costs(rows)["macs"])
    np.testing.assert_allclose(found.values(rows), space.costs(rows)["macs"], rtol=1e-9)


def test_costs_are_no_sum_where_parts_come_alive_together():
    space = Darts(cells=3, channels=2, nodes=2)
    assert fit_additive(space, lambda rows: space.costs(rows)["macs"]) is None


@given(seeds)
def test_the_number_of_parts_that_are_alive_times_what_they_are_is_no_sum(seed):
    """Canonical rows merge what is dead: a mean over what is alive depends on how much that is."""
    space, weights = Ladder(rungs=3), np.random.default_rng(seed).normal(size=3)
    assert fit_additive(space, lambda rows: (rows[:, 1:] * weights).sum(axis=1) / (rows[:, 0] + 1)) is None


def test_it_is_asked_of_canonical_rows():
    space, asked = Ladder(rungs=3), []

    def function(rows):
        asked.append(rows)
        return rows.sum(axis=1)

    assert fit_additive(space, function) is not None  # a sum over canonical rows
    (rows,) = asked
    assert (space.canonical(rows) == rows).all()


def test_a_space_of_one_row_or_of_too_many_options_is_refused():
    assert fit_additive(OpSubset(layers=({"channels": 4},), operations=("skip",)), lambda rows: rows[:, 0]) is not None
    assert fit_additive(Ladder(rungs=1), lambda rows: rows[:, 1]) is not None

    class Single(Digits):
        @property
        def cardinalities(self):
            return (1, 1)

    class Wide(Digits):
        @property
        def cardinalities(self):
            return (36,) * 58

    for space in (Single(), Wide()):
        assert fit_additive(space, lambda rows: rows.sum(axis=1).astype(float)) is None


@given(seeds)
def test_ridge_without_a_penalty_is_least_squares(seed):
    random = np.random.default_rng(seed)
    truth = planted(MIXED, seed)
    rows = random.integers(0, MIXED, size=(200, 4)).astype(np.int8)
    noise = random.normal(size=200)
    exact = additive_ridge(rows, truth.values(rows), MIXED, 1e-10)
    np.testing.assert_allclose(exact.values(rows), truth.values(rows), atol=1e-6)
    noisy = additive_ridge(rows, truth.values(rows) + noise, MIXED, 1e-10)
    columns = np.concatenate([np.ones((200, 1)), one_hot(rows, MIXED)], axis=1)
    expected = columns @ np.linalg.lstsq(columns, truth.values(rows) + noise, rcond=None)[0]
    np.testing.assert_allclose(noisy.values(rows), expected, atol=1e-6)
    assert [len(table) for table in noisy.tables] == list(MIXED)


def test_a_stronger_penalty_draws_to_the_mean():
    rows = every(SMALL)
    values = planted(SMALL.cardinalities, 0).values(rows)
    spreads = [
        np.ptp(additive_ridge(rows, values, SMALL.cardinalities, strength).values(rows))
        for strength in (1e-6, 10, 1e3, 1e9)
    ]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 1e-4
    assert additive_ridge(rows, values, SMALL.cardinalities, 1e12).values(rows).mean() == pytest.approx(values.mean())
