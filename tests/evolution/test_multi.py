import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution import FrontSettings, SearchSettings, evolve_front, front, hypervolume, optimum, sweep_limits
from supernet import Bound, InputError, OpSubset
from supernet.limits import within
from supernet.op_subset import LayerSettings

SMALL = OpSubset(
    layers=(LayerSettings(channels=8), LayerSettings(channels=16, stride=2)),
    operations=("skip", "sep_conv_3", "sep_conv_5", "dil_conv_3"),
    head_channels=32,
    classes=10,
)
SPACE = OpSubset()
ROWS = np.array(list(itertools.product((0, 1), repeat=8)), np.int8)
ROWS = ROWS[SMALL.is_valid(ROWS)]
MACS = SMALL.costs(ROWS)["macs"]


def additive(space, seed=0):
    weights = np.round(1024 * np.random.default_rng(seed).normal(0.2, 1.0, len(space.cardinalities))) / 1024
    return lambda rows: rows @ weights


class Recorder:
    def __init__(self, score):
        self.score, self.calls = score, []

    def __call__(self, rows):
        self.calls.append(rows.copy())
        return self.score(rows)

    @property
    def rows(self):
        return np.concatenate(self.calls)


def macs(space):
    return lambda rows: space.costs(rows)["macs"].astype(float)


@given(seed=st.integers(0, 1000), variant=st.sampled_from(["nsga2", "nsga3"]))
@settings(max_examples=15, deadline=None)
def test_a_small_space_gives_its_true_front(seed, variant):
    score = Recorder(additive(SMALL, seed))
    limits = {"params": Bound(0, int(np.median(SMALL.costs(ROWS)["params"])))}
    wanted = FrontSettings(variant=variant, population=20, queries=1000)
    found = evolve_front(SMALL, {"a": score}, {"macs": macs(SMALL)}, limits, wanted, np.random.default_rng(seed))
    kept = ROWS[within(SMALL, ROWS, limits)]
    values = np.stack([-score.score(kept), macs(SMALL)(kept)], axis=1)
    expected = values[front(values)]
    assert found.exhausted
    assert found.queries == len(kept) == len(np.unique(score.rows, axis=0)) == len(score.rows)
    np.testing.assert_array_equal(np.sort(found.values * [-1, 1], axis=0), np.sort(expected, axis=0))
    assert found.objectives == ("a", "macs")
    assert (np.diff(found.values[:, 0]) <= 0).all()


@pytest.mark.parametrize("variant", ["nsga2", "nsga3"])
def test_the_seed_decides_a_front_and_nothing_infeasible_is_scored(variant):
    score = Recorder(additive(SPACE))
    limits = {"macs": Bound(12_000_000, 12_300_000), "depth": 18}
    wanted = FrontSettings(variant=variant, population=50, queries=600)

    def search(seed):
        return evolve_front(
            SPACE, {"a": score}, {"params": lambda rows: SPACE.costs(rows)["params"]}, limits, wanted,
            np.random.default_rng(seed),
        )  # fmt: skip

    one, again, other = search(0), search(0), search(1)
    assert (one.choices == again.choices).all()
    assert one.choices.shape != other.choices.shape or (one.choices != other.choices).any()
    assert within(SPACE, score.rows, limits).all()
    assert SPACE.is_valid(score.rows).all()


@pytest.mark.parametrize(
    ("maximised", "minimised"), [({"a": additive(SMALL)}, {}), ({"macs": additive(SMALL)}, {"macs": macs(SMALL)})]
)
def test_fewer_than_two_objectives_are_refused(maximised, minimised):
    with pytest.raises(InputError, match="expected two or more with different names"):
        evolve_front(SMALL, maximised, minimised, {}, FrontSettings(), np.random.default_rng(0))


def test_the_front_covers_no_less_than_that_of_pymoo():
    pytest.importorskip("pymoo")
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.bitflip import BitflipMutation
    from pymoo.operators.sampling.rnd import BinaryRandomSampling
    from pymoo.optimize import minimize

    score, count = additive(SPACE), len(SPACE.cardinalities)

    class Bits(Problem):
        def __init__(self):
            super().__init__(n_var=count, n_obj=2, n_ieq_constr=1, xl=0, xu=1, vtype=bool)

        def _evaluate(self, x, out, *args, **kwargs):
            rows = x.astype(np.int8)
            out["F"] = np.stack([-score(rows), macs(SPACE)(rows) / 1e6], axis=1)
            out["G"] = np.where(SPACE.is_valid(rows), 0.0, 1.0)[:, None]

    ours, theirs = [], []
    for seed in range(3):
        found = evolve_front(
            SPACE, {"a": score}, {"macs": macs(SPACE)}, {}, FrontSettings(population=100, queries=2000),
            np.random.default_rng(seed),
        )  # fmt: skip
        ours.append(hypervolume(found.values * [-1, 1e-6], np.array([5.0, 20.0])))
        algorithm = NSGA2(
            pop_size=100, sampling=BinaryRandomSampling(), crossover=UniformCrossover(), mutation=BitflipMutation(),
            eliminate_duplicates=True,
        )  # fmt: skip
        other = minimize(Bits(), algorithm, ("n_eval", 2000), seed=seed, verbose=False)
        theirs.append(hypervolume(np.asarray(other.F, float), np.array([5.0, 20.0])))
    assert np.mean(ours) >= 0.98 * np.mean(theirs)


@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_winners_of_a_small_space_are_the_optima_of_their_limits(seed):
    score = Recorder(additive(SMALL, seed))
    values = np.quantile(MACS, [0, 0.1, 0.3, 0.6, 1.0]).astype(int).tolist()
    wanted = SearchSettings(population=20, parents=10, queries=5 * len(ROWS))
    found = sweep_limits(SMALL, score, "macs", [*values, int(MACS.min()) - 1], {}, wanted, np.random.default_rng(seed))
    assert found.limits == tuple(sorted({*values, int(MACS.min()) - 1}))
    assert found.winners[0] is None
    for limit, winner in list(zip(found.limits, found.winners, strict=True))[1:]:
        best = optimum(SMALL, score.score, {"macs": limit})
        assert best is not None
        assert winner is not None
        assert winner.costs["macs"] <= limit
        assert winner.score == pytest.approx(best.best.score)
    assert len(np.unique(score.rows, axis=0)) == len(score.rows) == found.queries
    costs = [one.costs["macs"] for one in found.front]
    scores = [one.score for one in found.front]
    assert costs == sorted(set(costs))
    assert scores == sorted(set(scores))
    assert scores[-1] == score.score(ROWS).max()


def test_a_sweep_keeps_other_limits_and_a_larger_limit_is_never_worse():
    score = Recorder(additive(SPACE))
    others = {"params": 720_000, "macs": Bound(least=9_000_000)}
    values = list(range(10_000_000, 16_000_001, 1_000_000))
    found = sweep_limits(SPACE, score, "macs", values, others, SearchSettings(queries=4000), np.random.default_rng(0))
    assert within(SPACE, score.rows, {"params": 720_000, "macs": Bound(9_000_000, 16_000_000)}).all()
    scores = [winner.score for winner in found.winners if winner is not None]
    assert len(scores) == len(values)
    assert scores == sorted(scores)


@pytest.mark.parametrize(("values", "message"), [([], "expected at least one"), ([5], "below the cheapest")])
def test_a_sweep_of_nothing(values, message):
    with pytest.raises(InputError, match=message):
        sweep_limits(SMALL, additive(SMALL), "macs", values, {}, SearchSettings(), np.random.default_rng(0))
