import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution import optimum
from evolution.exact import every_row, solve_additive
from supernet import Bound, InputError, NasBench201, OpSubset, Stages
from supernet.limits import within
from supernet.op_subset import LayerSettings
from tests.evolution.test_search import MEDIUM, SMALL, Digits, additive, every
from tests.supernet.ladder import Ladder

CELLS = NasBench201(channels=4, cells=1, input_size=8, classes=10)
STAGES = Stages.model_validate(
    {
        "input_size": 8,
        "stages": [{"channels": 4, "depth": (1, 2), "operations": ["conv_bn_3", "sep_conv_3", "skip"]}] * 2,
    }
)
seeds = st.integers(0, 2**32)


class Triples(Digits):
    """Digits whose sum must be even, and no two of which cost the same."""

    def costs(self, choices):
        assert self.is_valid(choices).all(), "costs asked of an invalid architecture"
        wide = choices.astype(np.int64)
        return {
            "macs": 100 + wide @ np.array([1, 3, 0, 15, 60, 120]),
            "params": 50 - wide @ np.array([1, 2, 3, 1, 2, 3]),
        }


def interacting(space, seed=0):
    """A score that is no sum: pairs of choices count."""
    weights = np.random.default_rng(seed).normal(size=(len(space.cardinalities),) * 2)
    return lambda rows: ((rows.astype(float) @ weights) * rows).sum(axis=1)


def distinct(space):
    """All networks of a small space, once each."""
    return np.unique(space.canonical(every(space)), axis=0)


def by_brute_force(space, score, limits):
    """The best score within the limits; None where nothing keeps them."""
    rows = distinct(space)
    rows = rows[within(space, rows, limits)]
    return score(rows).max() if len(rows) else None


@st.composite
def random_limits(draw, space, names):
    """One side or both of some costs, between what there is; the joint ones may exclude each other."""
    costs = {**space.costs(distinct(space)), **({"depth": space.depths(distinct(space))} if "depth" in names else {})}
    limits = {}
    for name in draw(st.lists(st.sampled_from(names), unique=True)):
        ordered = np.sort(costs[name])
        low, high = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
        low, high = (int(ordered[int(share * (len(ordered) - 1))]) for share in (low, high))
        sides = draw(st.sampled_from(("most", "least", "both")))
        limits[name] = Bound(-np.inf if sides == "most" else low, np.inf if sides == "least" else high)
    return limits


def check(space, score, limits, method, most=2_000_000):
    """The optimum is that of brute force, and refused where nothing keeps the limits."""
    expected = by_brute_force(space, score, limits)
    if expected is None:
        with pytest.raises(InputError, match=r"no architecture of .* keeps them"):
            optimum(space, score, limits, most)
        return
    found = optimum(space, score, limits, most)
    assert found.method == method
    assert found.best.score == pytest.approx(expected, rel=1e-9, abs=1e-9)
    row = found.best.architecture.row()
    assert space.is_valid(row).all()
    assert (space.canonical(row) == row).all()
    assert within(space, row, limits).all()
    assert found.best.score == pytest.approx(score(row)[0])
    assert all(found.best.costs[name] == values[0] for name, values in space.costs(row).items())
    assert set(limits) <= set(found.best.costs)


@given(st.data(), seeds)
def test_the_optimum_of_a_sum_by_integer_programming(data, seed):
    space = data.draw(st.sampled_from([SMALL, MEDIUM]))
    limits = data.draw(random_limits(space, ("macs", "conv_macs", "params", "activations")))
    check(space, additive(space, seed), limits, "integer programming")


@given(st.data(), seeds)
@settings(max_examples=20)
def test_the_optimum_of_a_sum_under_a_limit_that_is_none(data, seed):
    """Depth adds up over layers, not over choices, so that all are looked at."""
    limits = {**data.draw(random_limits(SMALL, ("macs", "params"))), "depth": Bound(5, 6)}
    check(SMALL, additive(SMALL, seed), limits, "enumeration")


@given(st.data(), seeds)
@settings(max_examples=20)
def test_the_optimum_of_what_is_no_sum_by_enumeration(data, seed):
    space = data.draw(st.sampled_from([SMALL, MEDIUM]))
    limits = data.draw(random_limits(space, ("macs", "params", "depth")))
    check(space, interacting(space, seed), limits, "enumeration")


@given(st.data(), seeds)
@settings(max_examples=20)
def test_the_optimum_where_options_do_not_go_together(data, seed):
    """What makes a row valid is not told by clauses, so that a sum is no help."""
    space = Triples()
    limits = data.draw(random_limits(space, ("macs", "params")))
    score = data.draw(st.sampled_from([additive(space, seed), interacting(space, seed)]))
    check(space, score, limits, "enumeration")


@pytest.fixture(scope="module")
def cells():
    """All networks of nasbench201 are asked for their costs once: these take graphs, and seconds."""
    return distinct(CELLS)


@pytest.mark.parametrize("make", [additive, interacting])
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_the_optimum_of_nasbench201_where_rows_mean_the_same(make, share, cells):
    macs = np.sort(CELLS.costs(cells)["macs"])
    low, high = (int(macs[int(place * (len(macs) - 1))]) for place in (share, share + 0.1))
    limits, score = {"macs": Bound(low, high)}, make(CELLS, 1)
    found = optimum(CELLS, score, limits)
    fits = cells[within(CELLS, cells, limits)]
    assert found.method == "enumeration"
    assert found.scored == len(fits)
    assert found.best.score == pytest.approx(score(fits).max())
    assert low <= found.best.costs["macs"] <= high


@pytest.mark.parametrize("space", [Ladder(rungs=3), STAGES], ids=["ladder", "stages"])
@pytest.mark.parametrize("make", [additive, interacting])
def test_the_optimum_of_spaces_with_options_that_mean_nothing(space, make):
    costs = space.costs(distinct(space))
    limits = {"macs": Bound(least=int(np.median(costs["macs"])) - 1), "params": int(np.quantile(costs["params"], 0.8))}
    check(space, make(space, 3), limits, "enumeration")


@given(st.data(), seeds, st.sampled_from((2.0**-20, 1.0, 2.0**20)))
@settings(max_examples=25)
def test_a_solution_keeps_a_measure_that_is_not_whole_of_any_size(data, seed, size):
    random = np.random.default_rng(seed)
    # Powers of 2 are exact in any order, so that a limit may be what a row costs.
    weights, fixed = size * random.integers(1, 1024, 8) / 1024, size * random.integers(0, 3000) / 1024
    values = np.sort(every(SMALL) @ weights + fixed)
    low, high = sorted(data.draw(st.tuples(st.integers(0, 224), st.integers(0, 224))))
    limits = {"latency": Bound(values[low], values[high], lambda rows: rows @ weights + fixed), "macs": 10**9}
    check(SMALL, additive(SMALL, seed), limits, "integer programming")


def test_a_cost_that_all_have_is_a_sum_too():
    limits = {"seconds": Bound(0.1, 0.1, lambda rows: np.full(len(rows), 0.1))}
    check(SMALL, additive(SMALL), limits, "integer programming")
    check(SMALL, lambda rows: np.full(len(rows), 0.3), {"macs": Bound(least=2_000_000)}, "integer programming")


def test_a_limit_that_the_solver_rounds_away_leaves_the_proof_to_enumeration():
    """Many rows are above it by less than the solver tells: none of them is given out, nor is it said that none is."""
    tenths = lambda rows: 0.1 * rows.sum(axis=1)  # noqa: E731
    limits = {"latency": Bound(most=0.7 - 1e-9, measure=tenths)}
    score = lambda rows: rows @ (1 + np.arange(12) / 1024)  # noqa: E731
    assert solve_additive(MEDIUM, score, limits) is None
    check(MEDIUM, score, limits, "enumeration")


@pytest.mark.parametrize("above", [0, 1, 2, 1000])
def test_limits_of_a_large_space_are_exact_to_a_unit(above):
    """992 million architectures; the most MACs that any has, or one fewer."""
    space = OpSubset()
    most = int(space.costs(np.ones((1, 30), np.int8))["macs"][0])
    score = lambda rows: space.costs(rows)["macs"].astype(float)  # noqa: E731
    found = optimum(space, score, {"macs": most - above})
    assert found.method == "integer programming"
    assert found.best.score <= most - above
    assert (found.best.architecture.choices == (1,) * 30) == (above == 0)
    assert found.scored < 1000


def test_a_large_space_by_hand():
    """Without a limit the best is all options that add something; layers without such have the least bad one."""
    space, weights = OpSubset(), np.round(np.random.default_rng(2).normal(size=30), 3)
    weights[6:12] = -1 - np.arange(6)
    expected = (weights > 0).astype(int)
    expected[6] = 1
    found = optimum(space, lambda rows: rows @ weights, {})
    assert found.best.architecture.choices == tuple(expected)


def test_none_where_neither_way_leads_to_the_optimum():
    assert optimum(OpSubset(), interacting(OpSubset()), {"macs": 15_000_000}) is None  # too many to be looked at
    assert optimum(OpSubset(), additive(OpSubset()), {"depth": Bound(12, 20)}) is None
    assert optimum(SMALL, interacting(SMALL), {}, most=224) is None
    assert optimum(SMALL, interacting(SMALL), {}, most=225).scored == 225
    assert solve_additive(SMALL, interacting(SMALL), {}) is None
    assert solve_additive(SMALL, additive(SMALL), {"depth": Bound(5, 6)}) is None
    assert solve_additive(Digits(), additive(Digits()), {}) is None
    assert solve_additive(Ladder(), additive(Ladder()), {}) is None


@pytest.mark.parametrize("make", [additive, interacting])
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"macs": 10}, "limit macs: 10 is below the cheapest architecture of op_subset"),
        (
            {"params": Bound(least=10**9)},
            "limit params: 1,000,000,000 is above the costliest architecture of op_subset",
        ),
        ({"depth": Bound(least=50)}, "limit depth: 50 is above the costliest"),
        ({"mac": 10}, "Did you mean 'macs'"),
        ({"macs": 1.5}, "expected a whole number, got 1.5"),
    ],
)
def test_limits_that_nothing_keeps_are_refused(make, limits, message):
    with pytest.raises(InputError, match=message):
        optimum(SMALL, make(SMALL), limits)


@pytest.mark.parametrize("make", [additive, interacting])
def test_limits_that_exclude_each_other_are_refused(make):
    costs = SMALL.costs(every(SMALL))
    cheapest = int(np.sort(costs["macs"])[3])
    limits = {"macs": cheapest, "params": Bound(least=int(costs["params"][costs["macs"] <= cheapest].max()) + 1)}
    with pytest.raises(
        InputError, match=r"limits macs at most .* and params at least .*: no architecture of op_subset"
    ):
        optimum(SMALL, make(SMALL), limits)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="expected a finite number"):
        optimum(SMALL, lambda rows: np.where(rows[:, 0] == 1, np.nan, 1.0), {})


@pytest.mark.parametrize("space", [SMALL, Digits(), OpSubset(layers=(LayerSettings(channels=4),) * 3)])
def test_every_row_comes_once(space):
    rows = np.concatenate(list(every_row(space)))
    assert rows.dtype == np.int8
    assert len(np.unique(rows, axis=0)) == len(rows) == np.prod(space.cardinalities)
    assert ((rows >= 0) & (rows < np.array(space.cardinalities))).all()


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1.0, 1e9])
def test_the_scale_of_a_score_does_not_matter(scale):
    space = OpSubset()
    weights = np.random.default_rng(4).normal(0.2, 1, 30)
    limits = {"macs": 13_000_000}
    plain = optimum(space, lambda rows: rows @ weights, limits)
    scaled = optimum(space, lambda rows: rows @ weights * scale, limits)
    assert plain is not None
    assert scaled is not None
    assert scaled.best.architecture == plain.best.architecture


def test_what_only_shows_where_much_is_on_is_no_sum():
    space = OpSubset()
    weights = np.random.default_rng(4).normal(0.2, 1, 30)
    score = lambda rows: rows @ weights + 1000 * rows[:, :12].all(axis=1)  # noqa: E731
    assert optimum(space, score, {}) is None
