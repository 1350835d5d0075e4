import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution import SearchSettings, evolve
from evolution.gaussian import normal_ranks, posterior, squared_distances
from evolution.strategies import STRATEGIES, aging_strategy, model_strategy
from supernet import DavidNet, InputError, NasBench201, OpSubset
from supernet.nasbench201 import indices
from supernet.op_subset import LayerSettings

CELLS = NasBench201()
LAYERS = OpSubset(
    layers=(LayerSettings(channels=8), LayerSettings(channels=16, stride=2)),
    operations=("skip", "sep_conv_3", "dil_conv_3"),
    head_channels=32,
)
"""49 networks."""
NINE = DavidNet().cardinalities

strategies = pytest.mark.parametrize("name", STRATEGIES)


class Recorder:
    """A score, and every row that it was asked of."""

    def __init__(self, weights):
        self.weights, self.rows = weights, []

    def __call__(self, choices):
        self.rows += [tuple(row) for row in choices.tolist()]
        return choices @ self.weights


def recorder(space, seed=0):
    return Recorder(np.random.default_rng(seed).normal(size=len(space.cardinalities)))


@strategies
@given(st.sampled_from([CELLS, LAYERS, DavidNet()]), st.integers(1, 30), st.integers(0, 2**32))
@settings(max_examples=5, deadline=None)
def test_each_network_is_paid_for_once_and_told_of_in_order(name, space, budget, seed):
    score = recorder(space)
    trace = STRATEGIES[name](space, score, budget, np.random.default_rng(seed))
    assert score.rows == [tuple(row) for row in trace.choices.tolist()]
    assert len(set(score.rows)) == len(score.rows) == budget
    np.testing.assert_array_equal(space.canonical(trace.choices), trace.choices)
    np.testing.assert_allclose(trace.scores, trace.choices @ score.weights)
    assert trace.scores.max() == pytest.approx(trace.best @ score.weights)


@strategies
def test_the_seed_decides(name):
    first, again, other = (
        STRATEGIES[name](CELLS, recorder(CELLS), 25, np.random.default_rng(seed)).choices for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@strategies
def test_a_small_space_is_paid_for_to_the_end(name):
    trace = STRATEGIES[name](LAYERS, recorder(LAYERS), 60, np.random.default_rng(0))
    assert len(trace.choices) == LAYERS.size == 49


@strategies
def test_limits_are_kept(name):
    limits = {"macs": 60_000_000}
    trace = STRATEGIES[name](CELLS, recorder(CELLS), 30, np.random.default_rng(0), limits=limits)
    assert (CELLS.costs(trace.choices)["macs"] <= 60_000_000).all()
    assert len(trace.choices) == 30


@strategies
def test_what_comes_first_is_paid_for_first(name):
    first = CELLS.canonical(CELLS.sample(8, np.random.default_rng(9)))
    _, places = np.unique(indices(first), return_index=True)
    first = first[np.sort(places)]
    twice = np.concatenate([first[:1], first])
    trace = STRATEGIES[name](CELLS, recorder(CELLS), 20, np.random.default_rng(0), first=twice)
    np.testing.assert_array_equal(trace.choices[: len(first)], first)


@strategies
@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_of_nothing(name, budget):
    with pytest.raises(InputError, match="budget: expected at least 1"):
        STRATEGIES[name](CELLS, recorder(CELLS), budget, np.random.default_rng(0))


@strategies
@pytest.mark.parametrize("answer", [lambda rows: np.full(len(rows), np.nan), lambda rows: np.zeros((len(rows), 2))])
def test_scores_that_are_no_numbers(name, answer):
    with pytest.raises(InputError, match=r"score: expected .* finite numbers, got shape"):
        STRATEGIES[name](CELLS, answer, 10, np.random.default_rng(0))


@strategies
def test_equal_scores_are_searched_too(name):
    trace = STRATEGIES[name](CELLS, lambda rows: np.ones(len(rows)), 30, np.random.default_rng(0))
    assert len(trace.choices) == 30


def regret(name, seed):
    """How far from the best of a score that adds up over the choices."""
    space = DavidNet()
    weights = [np.random.default_rng((seed, place)).normal(size=count) for place, count in enumerate(NINE)]

    def score(choices):
        return sum(own[column] for own, column in zip(weights, choices.T, strict=True))

    trace = STRATEGIES[name](space, score, 50, np.random.default_rng(seed))
    return sum(own.max() for own in weights) - trace.scores.max()


def test_evolution_beats_random_and_the_model_beats_both():
    means = {name: np.mean([regret(name, seed) for seed in range(4)]) for name in STRATEGIES}
    assert means["model"] < min(means["aging"], means["evolution"])
    assert max(means["aging"], means["evolution"]) < means["random"]


def test_aging_forgets_the_best():
    """Of a population of one, each child comes from the one before, be it better or not."""
    trace = aging_strategy(CELLS, recorder(CELLS), 12, np.random.default_rng(0), population=1, sample=1)
    scores = trace.scores
    assert (np.diff(scores) < 0).any()
    assert len(scores) == 12


class TestModel:
    def test_features_are_asked_once_of_each_candidate(self):
        asked = []

        def features(rows):
            asked.extend(indices(rows).tolist())
            return np.stack([rows.sum(axis=1), np.where(rows[:, 0] == 0, -np.inf, 1e49)], axis=1)

        candidates = CELLS.sample(100, np.random.default_rng(3))
        trace = model_strategy(
            CELLS, recorder(CELLS), 30, np.random.default_rng(0), features=features, candidates=candidates
        )
        assert len(asked) == len(set(asked))
        assert set(indices(trace.choices).tolist()) <= set(asked)

    def test_a_feature_that_knows_the_score_leads_to_the_best(self):
        """The score has nothing to do with the choices, one by one."""
        hidden = np.random.default_rng(5).normal(size=15_625)

        def known(rows):
            return hidden[indices(rows)]

        def features(rows):
            return np.exp(20 * known(rows))[:, None]

        with_it = model_strategy(CELLS, known, 40, np.random.default_rng(0), features=features)
        without = model_strategy(CELLS, known, 40, np.random.default_rng(0))
        kept = np.unique(indices(CELLS.canonical(CELLS.sample(100_000, np.random.default_rng(0)))))
        assert with_it.scores.max() == pytest.approx(hidden[kept].max())
        assert without.scores.max() < with_it.scores.max()

    @pytest.mark.parametrize("wrong", [lambda rows: np.zeros(len(rows)), lambda rows: np.full((len(rows), 1), np.nan)])
    def test_features_that_are_no_numbers(self, wrong):
        with pytest.raises(InputError, match="features: expected numbers for"):
            model_strategy(CELLS, recorder(CELLS), 30, np.random.default_rng(0), features=wrong)

    def test_only_the_order_of_scores_counts(self):
        score = recorder(CELLS)
        plain = model_strategy(CELLS, score, 30, np.random.default_rng(0))
        bent = model_strategy(CELLS, lambda rows: np.exp(score(rows)), 30, np.random.default_rng(0))
        np.testing.assert_array_equal(plain.choices, bent.choices)

    def test_candidates_bound_the_choice_but_for_neighbours_of_the_best(self):
        candidates = CELLS.canonical(CELLS.sample(40, np.random.default_rng(3)))
        trace = model_strategy(
            CELLS, recorder(CELLS), 30, np.random.default_rng(0), first=candidates, candidates=candidates
        )
        allowed = {tuple(row) for row in candidates.tolist()}
        for row in trace.choices:
            allowed |= {tuple(one) for one in CELLS.canonical(CELLS.neighbours(row)).tolist()}
        assert {tuple(row) for row in trace.choices.tolist()} <= allowed


class TestGaussianProcess:
    def test_ranks_become_normal_quantiles(self):
        values = np.array([[3.0], [1.0], [2.0], [2.0], [np.inf]])
        ranks = normal_ranks(values, values)[:, 0]
        assert ranks[1] < ranks[2] == ranks[3] < ranks[0] < ranks[4]
        assert ranks[1] == pytest.approx(-ranks[4])
        far = normal_ranks(np.array([[-np.inf], [9.0]]), values[:4])[:, 0]
        assert np.isfinite(far).all()
        assert far[0] < 0 < far[1]

    def test_distances_are_means_over_a_groups_columns(self):
        random = np.random.default_rng(0)
        groups, others = ([random.normal(size=(count, wide)) for wide in (3, 5)] for count in (4, 2))
        expected = [((one[:, None] - other[None]) ** 2).mean(axis=2) for one, other in zip(groups, others, strict=True)]
        np.testing.assert_allclose(squared_distances(groups, others), expected)

    @given(st.integers(0, 2**32))
    def test_it_is_surest_of_what_it_has_seen(self, seed):
        random = np.random.default_rng(seed)
        rows = random.normal(size=(30, 2))
        scores = 10 + 3 * np.sin(rows[:20, 0])
        near = squared_distances([rows], [rows[:20]])
        mean, deviation = posterior(near[:, :20], near, scores)
        assert mean.shape == deviation.shape == (30,)
        assert deviation[:20].mean() < deviation[20:].mean()
        assert np.abs(mean[:20] - scores).max() < np.ptp(scores)
        away = squared_distances([rows + 100], [rows[:20]])
        assert posterior(near[:, :20], away, scores)[0] == pytest.approx(np.full(30, scores.mean()), abs=1e-6)

    def test_it_interpolates_a_smooth_function(self):
        rows = np.linspace(-2, 2, 41)[:, None]
        scores = np.sin(2 * rows[::4, 0])
        near = squared_distances([rows], [rows[::4]])
        mean, _ = posterior(near[:, ::4], near, scores)
        assert np.abs(mean - np.sin(2 * rows[:, 0])).max() < 0.15

    def test_one_score_and_equal_scores(self):
        rows = np.arange(6.0)[:, None]
        for count in (1, 3):
            near = squared_distances([rows], [rows[:count]])
            mean, deviation = posterior(near[:, :count], near, np.full(count, 7.0))
            assert mean == pytest.approx(np.full(6, 7.0))
            assert deviation.argmax() == 5


class TestEvolveFromAPopulation:
    def test_it_is_the_first_generation(self):
        first = LAYERS.sample(10, np.random.default_rng(4))
        distinct = [tuple(row) for row in dict.fromkeys(map(tuple, first.tolist()))]
        score = recorder(LAYERS)
        evolve(LAYERS, score, {}, SearchSettings(population=12, queries=12), np.random.default_rng(0), first)
        assert score.rows[: len(distinct)] == distinct
        assert len(score.rows) == 12

    def test_what_is_over_a_limit_is_left_out(self):
        costs = LAYERS.costs(LAYERS.sample(500, np.random.default_rng(0)))["macs"]
        limits = {"macs": int(np.median(costs))}
        first = LAYERS.sample(30, np.random.default_rng(4))
        score = recorder(LAYERS)
        evolve(LAYERS, score, limits, SearchSettings(population=5, queries=5), np.random.default_rng(0), first)
        assert (LAYERS.costs(np.array(score.rows, np.int8))["macs"] <= limits["macs"]).all()

    def test_without_one_nothing_changes(self):
        settings_ = SearchSettings(population=10, queries=30)
        plain, empty = (
            evolve(LAYERS, recorder(LAYERS), {}, settings_, np.random.default_rng(0), first)
            for first in (None, np.empty((0, 6), np.int8))
        )
        assert plain == empty


def test_strategies_need_no_torch():
    code = "import sys, evolution.strategies; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_evolution_alone_needs_no_scipy():
    """Recipes are read with it, and reading one must be quick."""
    code = "import sys, evolution; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_row_of_wider_integers_is_the_same_network():
    first = LAYERS.sample(20, np.random.default_rng(0))
    score = recorder(LAYERS)
    trace = STRATEGIES["evolution"](LAYERS, score, 30, np.random.default_rng(0), first=first.astype(np.int64))
    assert len({tuple(row) for row in trace.choices.tolist()}) == len(trace.choices) == 30


@pytest.mark.parametrize(
    ("strategy", "wrong"),
    [("aging", "population"), ("aging", "sample"), ("evolution", "parents"), ("model", "batch"), ("model", "start")],
)
def test_arguments_below_one_are_refused(strategy, wrong):
    with pytest.raises(InputError, match=f"{wrong}: expected at least 1, got 0"):
        STRATEGIES[strategy](LAYERS, recorder(LAYERS), 10, np.random.default_rng(0), **{wrong: 0})
