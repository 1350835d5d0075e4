import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution import FrontSettings, SearchSettings, evolve_front, hypervolume, optimum, sweep_limits
from evolution.multi import _divisions
from evolution.pareto import reference_directions
from supernet import Bound, InputError, OpSubset
from supernet.limits import cost_of, within
from tests.evolution.test_exact import interacting
from tests.evolution.test_search import MEDIUM, SMALL, Recorder, additive, bands, every, kept_by

DEFAULT = OpSubset()
variants = pytest.mark.parametrize("variant", ["nsga2", "nsga3"])
seeds = st.integers(0, 2**32)


def cost(space, name):
    return lambda rows: cost_of(space, rows, name)


def true_front(rows, values):
    """Rows that nothing dominates, and their values (less is better), once for each point, by definition."""
    ahead = (values[:, None] <= values[None]).all(axis=2) & (values[:, None] < values[None]).any(axis=2)
    return np.unique(values[~ahead.any(axis=0)], axis=0)


def points(front, maximised):
    """Of a front, with less better in every objective, in the order of numbers."""
    signs = np.where([name in maximised for name in front.objectives], -1.0, 1.0)
    return np.unique(front.values * signs, axis=0)


@variants
@given(band=bands(), seed=seeds, queries=st.integers(2, 300), population=st.integers(2, 60))
@settings(max_examples=20)
def test_only_new_valid_feasible_architectures_are_scored(variant, band, seed, queries, population):
    space, limits = band
    score, macs = Recorder(additive(space, seed)), Recorder(cost(space, "macs"))
    budget = FrontSettings(variant=variant, population=population, queries=queries)
    found = evolve_front(space, {"a": score}, {"m": macs}, limits, budget, np.random.default_rng(seed))
    feasible = every(space)[kept_by(space, every(space), limits)]
    np.testing.assert_array_equal(score.rows, macs.rows)
    assert space.is_valid(score.rows).all()
    assert all(kept_by(space, rows, limits).all() for rows in score.calls)
    assert len(np.unique(score.rows, axis=0)) == len(score.rows) == found.queries == min(queries, len(feasible))
    assert found.exhausted == (len(feasible) < queries)
    # The front is of everything that was scored, best first in the first objective.
    values = np.stack([-score.score(score.rows), macs.score(score.rows)], axis=1)
    np.testing.assert_array_equal(points(found, {"a"}), true_front(score.rows, values))
    assert found.objectives == ("a", "m")
    np.testing.assert_array_equal(found.values[:, 0], score.score(found.choices))
    np.testing.assert_array_equal(found.values[:, 1], macs.score(found.choices))
    assert found.values[:, 0].tolist() == sorted(found.values[:, 0], reverse=True)


@variants
@pytest.mark.parametrize("names", [("macs",), ("macs", "params"), ("macs", "activations", "depth")])
def test_the_front_is_the_true_one_where_queries_cover_the_space(variant, names):
    score, minimised = interacting(MEDIUM), {name: cost(MEDIUM, name) for name in names}
    limits = {"macs": Bound(*np.quantile(MEDIUM.costs(every(MEDIUM))["macs"], (0.2, 0.7)))}
    rows = every(MEDIUM)
    rows = rows[within(MEDIUM, rows, limits)]
    budget = FrontSettings(variant=variant, population=100, queries=5000)
    found = evolve_front(MEDIUM, {"score": score}, minimised, limits, budget, np.random.default_rng(0))
    assert found.exhausted
    assert found.queries == len(rows)
    values = np.stack([-score(rows), *(function(rows) for function in minimised.values())], axis=1)
    np.testing.assert_allclose(points(found, {"score"}), true_front(rows, values))


@variants
def test_a_quarter_of_a_space_leads_to_its_front(variant):
    score, rows = additive(MEDIUM, 3), every(MEDIUM)
    values = np.stack([-score(rows), MEDIUM.costs(rows)["macs"].astype(float)], axis=1)
    budget = FrontSettings(variant=variant, population=100, queries=1000)
    found = evolve_front(MEDIUM, {"s": score}, {"m": cost(MEDIUM, "macs")}, {}, budget, np.random.default_rng(0))
    corner = values.max(axis=0) + 1
    true = hypervolume(true_front(rows, values), corner)
    assert hypervolume(points(found, {"s"}), corner) >= 0.99 * true
    assert not found.exhausted
    assert found.queries == 1000


@variants
def test_the_seed_decides(variant):
    budget = FrontSettings(variant=variant, population=50, queries=400)
    objectives = {"s": interacting(DEFAULT)}, {"macs": cost(DEFAULT, "macs"), "params": cost(DEFAULT, "params")}
    first, again, other = (
        evolve_front(DEFAULT, *objectives, {"macs": 14_000_000}, budget, np.random.default_rng(seed))
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.choices, again.choices)
    np.testing.assert_array_equal(first.values, again.values)
    assert first.choices.shape != other.choices.shape or (first.choices != other.choices).any()


def test_what_is_given_is_scored_first():
    first = DEFAULT.sample(20, np.random.default_rng(5))
    score = Recorder(additive(DEFAULT))
    budget = FrontSettings(population=50, queries=120)
    evolve_front(DEFAULT, {"s": score}, {"m": cost(DEFAULT, "macs")}, {}, budget, np.random.default_rng(0), first)
    assert [len(rows) for rows in score.calls] == [50, 50, 20]
    np.testing.assert_array_equal(score.calls[0][:20], first)


def test_two_scores_and_no_cost():
    one, other = additive(SMALL, 1), additive(SMALL, 2)
    budget = FrontSettings(population=20, queries=300)
    found = evolve_front(SMALL, {"one": one, "other": other}, {}, {}, budget, np.random.default_rng(0))
    values = -np.stack([one(every(SMALL)), other(every(SMALL))], axis=1)
    np.testing.assert_array_equal(points(found, {"one", "other"}), true_front(every(SMALL), values))


def test_what_makes_no_sense_is_refused():
    score, macs, random, budget = (
        additive(SMALL),
        cost(SMALL, "macs"),
        np.random.default_rng(0),
        FrontSettings(queries=50),
    )
    with pytest.raises(InputError, match="two or more with different names, got none"):
        evolve_front(SMALL, {}, {}, {}, budget, random)
    with pytest.raises(InputError, match="two or more with different names, got s"):
        evolve_front(SMALL, {"s": score}, {}, {}, budget, random)
    with pytest.raises(InputError, match="two or more with different names, got s, s"):
        evolve_front(SMALL, {"s": score}, {"s": macs}, {}, budget, random)
    with pytest.raises(InputError, match="is below the cheapest"):
        evolve_front(SMALL, {"s": score}, {"m": macs}, {"macs": 5}, budget, random)
    with pytest.raises(InputError, match="expected a finite number"):
        evolve_front(SMALL, {"s": lambda rows: np.full(len(rows), np.nan)}, {"m": macs}, {}, budget, random)


@pytest.mark.parametrize("wrong", [{"variant": "nsga"}, {"population": 1}, {"queries": 1}, {"generations": 3}])
def test_settings_of_a_front_are_checked(wrong):
    with pytest.raises(ValueError, match="FrontSettings"):
        FrontSettings.model_validate(wrong)


@pytest.mark.parametrize("objectives", [2, 3, 4, 6])
@pytest.mark.parametrize("population", [2, 10, 91, 100, 1000])
def test_directions_are_as_many_as_the_population_allows(objectives, population):
    divisions = _divisions(objectives, population)
    count = len(reference_directions(objectives, divisions))
    assert count <= population or divisions == 1
    assert divisions == 99 or len(reference_directions(objectives, divisions + 1)) > population


def test_as_good_as_pymoo_with_as_many_queries():
    """Hypervolume against NSGA-II of pymoo, which begins with valid rows, on 250,047 networks."""
    pytest.importorskip("pymoo")
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.bitflip import BitflipMutation
    from pymoo.optimize import minimize

    space = OpSubset(
        layers=({"channels": 16}, {"channels": 24, "stride": 2}, {"channels": 40, "stride": 2}), classes=10
    )
    score, macs = interacting(space, 4), cost(space, "macs")
    corner = np.array(
        [-score(space.sample(2000, np.random.default_rng(0))).min(), float(macs(np.ones((1, 18), np.int8))[0])]
    )

    class Networks(Problem):
        def __init__(self):
            super().__init__(n_var=18, n_obj=2, n_ieq_constr=1, xl=0, xu=1, vtype=bool)

        def _evaluate(self, x, out, *_, **__):
            rows = np.asarray(x, bool).astype(np.int8)
            valid = space.is_valid(rows)
            filled = np.where(valid[:, None], rows, np.int8(1))
            out["F"] = np.stack([-score(filled), macs(filled)], axis=1)
            out["G"] = np.where(valid, -1.0, 1.0)[:, None]

    ours, theirs = [], []
    for seed in range(3):
        budget = FrontSettings(population=100, queries=2000)
        found = evolve_front(space, {"s": score}, {"m": macs}, {}, budget, np.random.default_rng(seed))
        ours.append(hypervolume(points(found, {"s"}), corner))
        start = space.sample(100, np.random.default_rng(seed)).astype(bool)
        algorithm = NSGA2(pop_size=100, sampling=start, crossover=UniformCrossover(), mutation=BitflipMutation())
        theirs.append(hypervolume(minimize(Networks(), algorithm, ("n_eval", 2000), seed=seed).F, corner))
    assert np.mean(ours) >= 0.98 * np.mean(theirs)


@given(band=bands(), seed=seeds, count=st.integers(1, 6), queries=st.integers(1, 600))
@settings(max_examples=20)
def test_a_sweep_scores_nothing_twice_and_nothing_outside_the_other_limits(band, seed, count, queries):
    space, limits = band
    others = {name: bound for name, bound in limits.items() if name != "macs"}
    rows = every(space)
    costs = space.costs(rows)["macs"]
    open_limits = {**limits, "macs": Bound()}
    fits = kept_by(space, rows, open_limits)
    values = np.random.default_rng(seed).integers(costs.min(), costs.max() + 1, count).tolist()
    values.append(int(costs[fits].min()) + int(np.ptp(costs)) // 3)  # one that something keeps
    values.append(int(costs.max()))
    score = Recorder(additive(space, seed))
    budget = SearchSettings(population=20, queries=queries)
    found = sweep_limits(space, score, "macs", values, others, budget, np.random.default_rng(seed))
    assert found.limits == tuple(sorted(set(values)))
    assert len(np.unique(score.rows, axis=0)) == len(score.rows) == found.queries
    assert found.queries <= (2 * len(found.limits) - 1) * max(queries // len(values), 2 * 20)
    assert space.is_valid(score.rows).all()
    assert kept_by(space, score.rows, open_limits).all()
    assert len(found.winners) == len(found.limits)
    best = -np.inf
    for limit, winner in zip(found.limits, found.winners, strict=True):
        kept = score.rows[space.costs(score.rows)["macs"] <= limit]
        assert (winner is None) == (len(kept) == 0)
        assert (winner is None) == (not (fits & (costs <= limit)).any())
        if winner is not None:
            assert winner.costs["macs"] <= limit
            assert winner.score == score.score(kept).max() >= best
            best = winner.score
    scores = [one.score for one in found.front]
    macs = [one.costs["macs"] for one in found.front]
    assert macs == sorted(set(macs))
    assert scores == sorted(set(scores))
    values_of_all = np.stack([space.costs(score.rows)["macs"], -score.score(score.rows)], axis=1)
    np.testing.assert_array_equal(np.stack([macs, -np.array(scores)], axis=1), true_front(score.rows, values_of_all))


@pytest.mark.parametrize("name", ["macs", "params", "depth"])
@pytest.mark.parametrize("make", [additive, interacting])
def test_winners_of_a_sweep_are_the_optima_where_queries_are_ample(name, make):
    score, costs = make(MEDIUM, 2), cost_of(MEDIUM, every(MEDIUM), name)
    values = [int(costs.min()) - 1, *np.unique(np.quantile(costs, np.linspace(0, 1, 8)).astype(int)).tolist()]
    others = {"activations": Bound(least=int(np.quantile(MEDIUM.costs(every(MEDIUM))["activations"], 0.1)))}
    budget = SearchSettings(population=100, queries=len(values) * 1200)
    found = sweep_limits(MEDIUM, score, name, values, others, budget, np.random.default_rng(0))
    for limit, winner in zip(found.limits, found.winners, strict=True):
        try:
            expected = optimum(MEDIUM, score, {**others, name: limit})
        except InputError:
            assert winner is None
            continue
        assert winner.score == pytest.approx(expected.best.score)
    assert found.winners[0] is None


def test_the_same_seed_gives_the_same_sweep():
    values = [10_000_000, 12_000_000, 14_000_000]
    budget = SearchSettings(population=50, queries=450)
    first, again = (
        sweep_limits(DEFAULT, interacting(DEFAULT), "macs", values, {}, budget, np.random.default_rng(3))
        for _ in range(2)
    )
    assert first == again
    assert first.queries <= 2 * 450


def test_what_a_sweep_keeps_of_limits_on_its_own_cost():
    costs = np.sort(SMALL.costs(every(SMALL))["macs"])
    low, high = int(costs[60]), int(costs[150])
    score = Recorder(additive(SMALL))
    values = [int(costs[20]), int(costs[100]), int(costs[-1])]
    budget = SearchSettings(population=20, queries=900)
    found = sweep_limits(SMALL, score, "macs", values, {"macs": Bound(low, high)}, budget, np.random.default_rng(0))
    asked = SMALL.costs(score.rows)["macs"]
    assert (asked.min(), asked.max()) == (low, high)
    assert found.winners[0] is None
    for winner, most in zip(found.winners[1:], (values[1], high), strict=True):
        assert winner.score == optimum(SMALL, score.score, {"macs": Bound(low, most)}).best.score


def test_a_sweep_of_nothing_is_refused():
    budget, random = SearchSettings(queries=20, population=5), np.random.default_rng(0)
    with pytest.raises(InputError, match="limits: expected at least one"):
        sweep_limits(SMALL, additive(SMALL), "macs", [], {}, budget, random)
    with pytest.raises(InputError, match="limit macs: 7 is below the cheapest"):
        sweep_limits(SMALL, additive(SMALL), "macs", [5, 6, 7], {}, budget, random)
    with pytest.raises(InputError, match="limit 'flops' is unknown"):
        sweep_limits(SMALL, additive(SMALL), "flops", [5], {}, budget, random)


@pytest.mark.parametrize("spoiled", ["all", "cheap"])
def test_a_score_that_is_no_number_is_refused_at_any_limit(spoiled):
    """Also where it is so only of what the tighter limits lead to."""
    costs = np.sort(SMALL.costs(every(SMALL))["macs"])
    edge = int(costs[-1] if spoiled == "all" else costs[2])
    score = lambda rows: np.where(SMALL.costs(rows)["macs"] <= edge, np.nan, rows.sum(axis=1))  # noqa: E731
    budget = SearchSettings(queries=20, population=5)
    with pytest.raises(InputError, match="expected a finite number"):
        sweep_limits(SMALL, score, "macs", [int(costs[2]), int(costs[-1])], {}, budget, np.random.default_rng(0))
