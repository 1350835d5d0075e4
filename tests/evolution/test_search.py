import itertools
import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution import SearchSettings, evolve, random_search, warm_up
from supernet import Architecture, Bound, InputError, OpSubset, SearchSpace
from supernet.limits import within
from supernet.op_subset import LayerSettings

SMALL = OpSubset(
    layers=(LayerSettings(channels=8), LayerSettings(channels=16, stride=2)),
    operations=("skip", "sep_conv_3", "sep_conv_5", "dil_conv_3"),
    head_channels=32,
    classes=10,
)
MEDIUM = OpSubset(layers=SMALL.layers, head_channels=32, classes=10)
DEFAULT = OpSubset()


class Digits(SearchSpace):
    """A space with several options a choice, of which the sum must be even, and one choice without options."""

    kind: Literal["digits"] = "digits"

    @property
    def cardinalities(self):
        return (3, 5, 1, 4, 2, 3)

    def graph(self, architecture):
        raise NotImplementedError

    def is_valid(self, choices):
        return super().is_valid(choices) & (choices.sum(axis=1) % 2 == 0)

    def costs(self, choices):
        assert self.is_valid(choices).all(), "costs asked of an invalid architecture"
        wide = choices.astype(np.int64)
        return {"macs": wide.sum(axis=1), "params": 50 - wide @ np.array([1, 2, 3, 1, 2, 3])}

    def cheapest(self, cost):
        rows = every(self)
        return Architecture(self.name, tuple(rows[self.costs(rows)[cost].argmin()].tolist()))


def every(space):
    """All valid architectures of a small space."""
    rows = np.array(list(itertools.product(*map(range, space.cardinalities))), dtype=np.int8)
    return rows[space.is_valid(rows)]


def additive(space, seed=0):
    """A score that is a sum over the choices; the weights are such that the order of summing does not show."""
    weights = np.round(1024 * np.random.default_rng(seed).normal(0.2, 1.0, len(space.cardinalities))) / 1024
    return lambda choices: choices @ weights


class Recorder:
    """A score that keeps what it was asked."""

    def __init__(self, score):
        self.score = score
        self.calls = []

    def __call__(self, choices):
        self.calls.append(choices.copy())
        return self.score(choices)

    @property
    def rows(self):
        return np.concatenate(self.calls)


def limits_between(space, fraction):
    macs = np.sort(space.costs(every(space))["macs"])
    return {"macs": int(macs[int(fraction * (len(macs) - 1))])}


def run(kind, space, score, limits, queries, seed, **changes):
    random = np.random.default_rng(seed)
    if kind == "evolve":
        return evolve(space, score, limits, SearchSettings(queries=queries, **changes), random)
    return random_search(space, score, limits, queries, random)


kinds = pytest.mark.parametrize("kind", ["evolve", "random"])


@kinds
@given(
    space=st.sampled_from([SMALL, Digits()]),
    seed=st.integers(0, 2**32),
    fraction=st.floats(0, 1),
    queries=st.integers(1, 400),
    population=st.integers(1, 60),
    parents=st.integers(1, 60),
)
@settings(max_examples=40, deadline=None)
def test_only_new_valid_feasible_architectures_are_scored(kind, space, seed, fraction, queries, population, parents):
    limits = limits_between(space, fraction)
    score = Recorder(additive(space, seed))
    changes = {"population": population, "parents": parents} if kind == "evolve" else {}
    result = run(kind, space, score, limits, queries, seed, **changes)

    assert space.is_valid(score.rows).all()
    assert (space.costs(score.rows)["macs"] <= limits["macs"]).all()
    assert len({row.tobytes() for row in score.rows}) == len(score.rows) == result.queries
    feasible = int((space.costs(every(space))["macs"] <= limits["macs"]).sum())
    assert result.queries == min(queries, feasible)  # the smallest sets are searched to the end
    assert result.exhausted == (feasible < queries)

    steps, best = zip(*result.history, strict=True)
    assert list(steps) == sorted(set(steps))
    assert steps[-1] == result.queries
    assert list(best) == sorted(best)
    assert best[-1] == result.best[0].score == max(score.score(score.rows))

    scores = [one.score for one in result.best]
    assert scores == sorted(scores, reverse=True)
    assert len({one.architecture for one in result.best}) == len(result.best) == min(10, result.queries)
    for one in result.best:
        row = one.architecture.row()
        assert one.costs == {name: values[0] for name, values in space.costs(row).items()}
        assert one.score == pytest.approx(score.score(row)[0])


@kinds
@pytest.mark.parametrize("limits", [{}, {"macs": 14_000_000}, {"conv_macs": 10_000_000, "params": 620_000}])
def test_the_seed_decides(kind, limits):
    score = additive(DEFAULT)
    first = run(kind, DEFAULT, score, limits, 500, 3)
    assert run(kind, DEFAULT, score, limits, 500, 3) == first
    assert run(kind, DEFAULT, score, limits, 500, 4).best != first.best


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.3, 0.6, 1.0])
def test_finds_the_optimum_that_brute_force_finds(seed, fraction):
    limits = limits_between(MEDIUM, fraction)
    rows = every(MEDIUM)
    rows = rows[MEDIUM.costs(rows)["macs"] <= limits["macs"]]
    score = additive(MEDIUM, seed)
    budget = SearchSettings(queries=1000)  # of 3,969 architectures
    result = evolve(MEDIUM, score, limits, budget, np.random.default_rng(seed))
    assert result.best[0].score == pytest.approx(score(rows).max())


@pytest.mark.parametrize("seed", range(3))
def test_beats_random_search_with_as_many_queries(seed):
    score = additive(DEFAULT, seed)
    limits = {"macs": 13_000_000}
    evolved = run("evolve", DEFAULT, score, limits, 2000, seed)
    drawn = run("random", DEFAULT, score, limits, 2000, seed)
    assert evolved.queries == drawn.queries == 2000
    assert evolved.best[0].score > drawn.best[0].score


def test_the_score_is_called_once_a_generation():
    score = Recorder(additive(DEFAULT))
    result = run("evolve", DEFAULT, score, {"macs": 15_000_000}, 330, 0, population=100)
    assert [len(rows) for rows in score.calls] == [100, 100, 100, 30]
    assert [queries for queries, _ in result.history] == [100, 200, 300, 330]


@kinds
def test_limits_that_uniform_draws_never_meet(kind):
    least = int(DEFAULT.costs(DEFAULT.cheapest("macs").row())["macs"][0])
    limits = {"macs": least + 250_000}
    assert not (DEFAULT.costs(DEFAULT.sample(50_000, np.random.default_rng(0)))["macs"] <= limits["macs"]).any()
    score = Recorder(additive(DEFAULT))
    result = run(kind, DEFAULT, score, limits, 300, 0)
    assert result.queries == 300
    assert (DEFAULT.costs(score.rows)["macs"] <= limits["macs"]).all()


@kinds
def test_a_limit_that_only_the_cheapest_keeps(kind):
    cheapest = DEFAULT.cheapest("macs")
    limits = {"macs": int(DEFAULT.costs(cheapest.row())["macs"][0])}
    result = run(kind, DEFAULT, additive(DEFAULT), limits, 50, 0)
    assert result.exhausted
    assert [one.architecture for one in result.best] == [cheapest]


@kinds
def test_several_limits_at_once(kind):
    space = Digits()
    rows = every(space)
    costs = space.costs(rows)
    limits = {"macs": 6, "params": 38}
    feasible = int(((costs["macs"] <= 6) & (costs["params"] <= 38)).sum())
    assert 0 < feasible < 40
    result = run(kind, space, additive(space), limits, 100, 0)
    assert result.exhausted
    assert result.queries == feasible


@kinds
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"macs": 1000}, "below the cheapest"),
        ({"mac": 15_000_000}, "limit 'mac' is unknown; known: macs, .* Did you mean 'macs'"),
        ({"macs": 15e6}, "expected a whole number, got 15000000.0"),
        ({"macs": True}, "expected a whole number, got True"),
    ],
)
def test_limits_that_make_no_sense(kind, limits, message):
    with pytest.raises(InputError, match=message):
        run(kind, DEFAULT, additive(DEFAULT), limits, 10, 0)


@kinds
def test_limits_that_exclude_each_other(kind):
    with pytest.raises(InputError, match=r"macs at most 2 and params at most 36: no architecture of digits"):
        run(kind, Digits(), additive(Digits()), {"macs": 2, "params": 36}, 10, 0)


@kinds
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_names_the_architecture(kind, value):
    def score(choices):
        scores = np.zeros(len(choices))
        scores[3] = value
        bad.append(DEFAULT.format(Architecture("op_subset", tuple(choices[3].tolist()))))
        return scores

    bad = []
    with pytest.raises(InputError, match="expected a finite number") as caught:
        run(kind, DEFAULT, score, {}, 10, 0)
    assert bad[0] in str(caught.value)
    assert str(value) in str(caught.value)


@kinds
def test_a_score_of_the_wrong_shape(kind):
    with pytest.raises(InputError, match=r"each of 10 architectures, got shape \(10, 1\)"):
        run(kind, DEFAULT, lambda choices: np.zeros((len(choices), 1)), {}, 10, 0)


def test_a_score_that_writes_to_its_argument_changes_nothing():
    def score(choices):
        scores = choices.sum(axis=1).astype(float)
        choices[:] = 0
        return scores

    result = run("evolve", DEFAULT, score, {}, 300, 0)
    assert result.best[0].score == sum(result.best[0].architecture.choices)


def test_importing_evolution_imports_no_torch():
    code = "import sys, evolution; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


ROWS = every(SMALL)
COSTS = {**SMALL.costs(ROWS), "depth": SMALL.depths(ROWS)}


@given(data=st.data(), variant=st.sampled_from(["truncation", "aging"]), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_both_ends_of_any_limits_are_kept_from_the_first_generation_on(data, variant, seed):
    limits = {}
    for name in data.draw(st.lists(st.sampled_from(sorted(COSTS)), unique=True, min_size=1, max_size=3)):
        low, high = sorted(data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
        ends = np.sort(COSTS[name])[[int(low * (len(ROWS) - 1)), int(high * (len(ROWS) - 1))]]
        limits[name] = Bound(int(ends[0]), int(ends[1]))
    kept = ROWS[within(SMALL, ROWS, limits)]
    score = Recorder(additive(SMALL, seed))
    wanted = SearchSettings(variant=variant, queries=400, population=15, parents=7, tournament=3)
    if not len(kept):
        with pytest.raises(InputError, match="limit"):
            evolve(SMALL, score, limits, wanted, np.random.default_rng(seed))
        assert not score.calls
        return
    result = evolve(SMALL, score, limits, wanted, np.random.default_rng(seed))
    assert within(SMALL, score.rows, limits).all()
    assert len({row.tobytes() for row in score.rows}) == len(score.rows) == result.queries
    assert result.queries <= len(kept)
    assert set(limits) <= set(result.best[0].costs)


@pytest.mark.parametrize("width", [1_000, 20_000])
def test_a_thin_band_is_met(width):
    """Of uniform draws a few in ten thousand, or in a thousand, lie in it."""
    limits = {"macs": Bound(12_000_000 - width, 12_000_000)}
    score = Recorder(additive(DEFAULT))
    result = evolve(DEFAULT, score, limits, SearchSettings(queries=600), np.random.default_rng(0))
    macs = DEFAULT.costs(score.rows)["macs"]
    assert result.queries == 600
    assert ((macs >= 12_000_000 - width) & (macs <= 12_000_000)).all()
    drawn = random_search(DEFAULT, score, limits, 600, np.random.default_rng(0))
    assert result.best[0].score > drawn.best[0].score


def test_a_measure_of_ones_own_is_kept_and_told():
    energy = Bound(most=3.0, measure=lambda rows: rows.sum(axis=1) / 2)
    score = Recorder(additive(DEFAULT))
    result = evolve(DEFAULT, score, {"energy": energy}, SearchSettings(queries=300), np.random.default_rng(0))
    assert (score.rows.sum(axis=1) <= 6).all()
    assert all(one.costs["energy"] == sum(one.architecture.choices) / 2 for one in result.best)


def test_aging_forgets_and_still_remembers_the_best():
    score = additive(DEFAULT)
    limits = {"macs": 13_000_000}
    wanted = SearchSettings(variant="aging", population=50, tournament=5, queries=3000)
    result = evolve(DEFAULT, score, limits, wanted, np.random.default_rng(0))
    drawn = random_search(DEFAULT, score, limits, 3000, np.random.default_rng(0))
    assert result.best[0].score > drawn.best[0].score
    assert result.best[0].score == result.history[-1][1]


def test_a_best_that_stands_is_an_optimum_among_its_neighbours():
    """Where nothing leads towards the best: it is alone above a plain, and has to be found by looking around."""
    score = additive(DEFAULT, 3)
    result = evolve(DEFAULT, score, {}, SearchSettings(queries=5000), np.random.default_rng(0))
    best = np.array(result.best[0].architecture.choices, np.int8)
    around = np.tile(best, (30, 1)) ^ np.eye(30, dtype=np.int8)
    around = around[DEFAULT.is_valid(around)]
    assert score(around).max() <= result.best[0].score


def test_a_warm_up_is_the_best_of_a_sample_and_begins_a_search():
    score = additive(DEFAULT)
    limits = {"macs": 13_000_000}
    first = warm_up(DEFAULT, score, limits, 500, 20, np.random.default_rng(0))
    assert first.shape == (20, 30)
    assert (np.diff(score(first)) <= 0).all()
    assert within(DEFAULT, first, limits).all()
    recorder = Recorder(score)
    evolve(DEFAULT, recorder, limits, SearchSettings(population=20, queries=40), np.random.default_rng(1), first)
    assert (recorder.calls[0] == first).all()


def test_networks_of_many_choices_are_told_apart():
    """More rows of options than 64 bits can number."""
    wide = OpSubset(layers=(LayerSettings(channels=8),) * 13, head_channels=16, classes=10)
    score = Recorder(additive(wide))
    result = evolve(wide, score, {}, SearchSettings(queries=3000), np.random.default_rng(0))
    assert len({row.tobytes() for row in score.rows}) == result.queries == 3000
