import itertools
import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution import SearchSettings, evolve, random_search, warm_up
from evolution.archive import Archive
from supernet import Architecture, Bound, InputError, OpSubset, SearchSpace
from supernet.limits import cost_of, within
from supernet.moves import neighbours
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


TWO_LAYERS = OpSubset(layers=(LayerSettings(channels=16), LayerSettings(channels=24, stride=2)), classes=10)
"""3,969 architectures of 6 choices a layer, of which depth is no sum."""


def all_costs(space, rows):
    """What two-sided limits are on, by name, each (architectures,)."""
    names = ("macs", "params", "depth") if space.kind == "op_subset" else ("macs", "params")
    return {name: cost_of(space, rows, name) for name in names}


def kept_by(space, rows, limits):
    """Which rows keep bounds on both sides, written anew."""
    fits = np.ones(len(rows), bool)
    for name, values in all_costs(space, rows).items():
        fits &= (limits[name].least <= values) & (values <= limits[name].most)
    return fits


@st.composite
def bands(draw):
    """A small space and two-sided limits on everything around one of its architectures, so that it keeps them."""
    space = draw(st.sampled_from([SMALL, TWO_LAYERS, Digits()]))
    rows = every(space)
    costs = all_costs(space, rows)
    place = draw(st.integers(0, len(rows) - 1))
    limits = {}
    for name, values in costs.items():
        below, above = draw(st.tuples(st.floats(0, 0.6), st.floats(0, 0.6)))
        spread = int(np.ptp(values))
        limits[name] = Bound(int(values[place] - below * spread), int(values[place] + above * spread))
    return space, limits


@pytest.mark.parametrize("kind", ["truncation", "aging", "random"])
@given(band=bands(), seed=st.integers(0, 2**32), queries=st.integers(1, 300), population=st.integers(1, 60))
@settings(max_examples=25)
def test_two_sided_limits_on_everything_hold_from_the_first_generation(kind, band, seed, queries, population):
    space, limits = band
    score = Recorder(additive(space, seed))
    if kind == "random":
        result = run("random", space, score, limits, queries, seed)
    else:
        result = run("evolve", space, score, limits, queries, seed, population=population, variant=kind)
    feasible = every(space)[kept_by(space, every(space), limits)]
    assert space.is_valid(score.rows).all()
    assert all(kept_by(space, rows, limits).all() for rows in score.calls)
    assert len(np.unique(score.rows, axis=0)) == len(score.rows) == result.queries
    assert result.queries == min(queries, len(feasible))  # also of few among many
    assert result.exhausted == (len(feasible) < queries)
    assert result.limits == limits
    assert all(one.costs["macs"] >= limits["macs"].least for one in result.best)


THIN = {"macs": Bound(13_000_000, 13_300_000), "params": Bound(670_000, 680_000), "depth": Bound(19, 21)}


@pytest.mark.parametrize("kind", ["truncation", "aging", "random"])
def test_a_thin_band_is_met_from_the_first_generation(kind):
    """A few of a thousand architectures keep it."""
    drawn = DEFAULT.sample(100_000, np.random.default_rng(0))
    assert 1e-4 < kept_by(DEFAULT, drawn, THIN).mean() < 5e-3
    score = Recorder(additive(DEFAULT))
    if kind == "random":
        result = run("random", DEFAULT, score, THIN, 400, 0)
    else:
        result = run("evolve", DEFAULT, score, THIN, 400, 0, population=100, variant=kind)
        assert [len(rows) for rows in score.calls] == [100] * 4
    assert result.queries == 400
    assert kept_by(DEFAULT, score.rows, THIN).all()
    assert len(np.unique(score.rows, axis=0)) == 400


def test_a_band_that_uniform_draws_never_meet():
    least = int(DEFAULT.costs(DEFAULT.cheapest("macs").row())["macs"][0])
    limits = {"macs": Bound(least + 150_000, least + 250_000), "depth": Bound(least=9)}
    drawn = DEFAULT.sample(50_000, np.random.default_rng(0))
    assert not within(DEFAULT, drawn, limits).any()
    score = Recorder(additive(DEFAULT))
    result = run("evolve", DEFAULT, score, limits, 150, 0, population=50)
    assert within(DEFAULT, score.rows, limits).all()
    assert len(np.unique(score.rows, axis=0)) == len(score.rows) == result.queries == 150


def test_a_measure_is_limited_as_what_a_space_counts():
    weights = np.random.default_rng(1).uniform(0.1, 0.4, 8)
    limits = {"latency": Bound(0.8, 1.0, lambda rows: rows @ weights), "macs": 10_000_000}
    score = Recorder(additive(SMALL))
    result = run("evolve", SMALL, score, limits, 400, 0, population=20)
    latencies = every(SMALL) @ weights
    assert result.queries == ((latencies >= 0.8) & (latencies <= 1.0)).sum()
    assert result.exhausted
    assert result.best[0].costs["latency"] == pytest.approx((result.best[0].architecture.row() @ weights)[0])
    assert result.best[0].score == score.score(score.rows).max()


def test_lower_limits_that_nothing_keeps():
    most = int(SMALL.costs(np.ones((1, 8), np.int8))["macs"][0])
    with pytest.raises(
        InputError, match=r"limit macs: .* is above the costliest architecture of op_subset, which needs"
    ):
        run("evolve", SMALL, additive(SMALL), {"macs": Bound(least=most + 1)}, 10, 0)
    result = run("evolve", SMALL, additive(SMALL), {"macs": Bound(least=most)}, 10, 0)
    assert [one.architecture.choices for one in result.best] == [(1,) * 8]


@pytest.mark.parametrize("variant", ["truncation", "aging"])
@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_both_variants_find_the_optimum_of_a_small_space(variant, fraction):
    limits = limits_between(MEDIUM, fraction)
    rows = every(MEDIUM)
    rows = rows[MEDIUM.costs(rows)["macs"] <= limits["macs"]]
    score = additive(MEDIUM, 7)
    budget = SearchSettings(queries=1000, population=100, variant=variant)
    result = evolve(MEDIUM, score, limits, budget, np.random.default_rng(7))
    assert result.best[0].score == pytest.approx(score(rows).max())
    assert evolve(MEDIUM, score, limits, budget, np.random.default_rng(7)) == result


@pytest.mark.parametrize("variant", ["truncation", "aging"])
def test_nothing_differs_from_the_best_in_two_choices_and_is_better(variant):
    """Of a score that is no sum, where the queries allow it."""
    limits = {"macs": 14_000_000}
    weights = np.random.default_rng(3).normal(size=(30, 30))
    score = lambda rows: ((rows @ weights) * rows).sum(axis=1)  # noqa: E731
    result = run("evolve", DEFAULT, score, limits, 6000, 0, variant=variant)
    around = neighbours(np.array(result.best[0].architecture.choices, np.int8), DEFAULT.cardinalities)
    around = around[DEFAULT.is_valid(around)]
    around = around[within(DEFAULT, around, limits)]
    assert score(around).max() <= result.best[0].score + 1e-9


def test_a_first_generation_is_scored_first_but_for_what_no_search_may_score():
    limits = limits_between(SMALL, 0.5)
    rows = every(SMALL)
    fits = SMALL.costs(rows)["macs"] <= limits["macs"]
    invalid = np.zeros((1, 8), np.int8)
    first = np.concatenate([rows[fits][5:8], invalid, rows[~fits][:2], rows[fits][5:7], rows[fits][:1]])
    score = Recorder(additive(SMALL))
    budget = SearchSettings(queries=30, population=10)
    evolve(SMALL, score, limits, budget, np.random.default_rng(0), first)
    assert len(score.calls[0]) == 10
    np.testing.assert_array_equal(score.calls[0][:4], np.concatenate([rows[fits][5:8], rows[fits][:1]]))
    assert len(np.unique(score.rows, axis=0)) == 30


def test_a_warm_up_begins_with_the_best_of_a_cheap_score():
    limits = limits_between(MEDIUM, 0.4)
    score = Recorder(additive(MEDIUM, 1))
    first = warm_up(MEDIUM, score, limits, 300, 20, np.random.default_rng(0))
    assert len(np.unique(score.rows, axis=0)) == 300
    assert within(MEDIUM, score.rows, limits).all()
    values = score.score(first)
    assert values.tolist() == sorted(score.score(score.rows), reverse=True)[:20]
    assert len(warm_up(SMALL, additive(SMALL), {}, 1000, 500, np.random.default_rng(0))) == 225  # all that there is
    with pytest.raises(InputError, match="below the cheapest"):
        warm_up(MEDIUM, score, {"macs": 10}, 30, 20, np.random.default_rng(0))


@given(band=bands(), seed=st.integers(0, 2**32), count=st.integers(1, 40))
def test_what_is_mended_is_feasible_and_new(band, seed, count):
    space, limits = band
    random = np.random.default_rng(seed)
    archive = Archive(space, limits)
    known = archive.sample(3, random)
    proposed = random.integers(0, space.cardinalities, size=(60, len(space.cardinalities))).astype(np.int8)
    found = archive.admit_or_mend(proposed, count, random)
    assert len(found) <= count
    assert space.is_valid(found).all()
    assert kept_by(space, found, limits).all()
    together = np.concatenate([known, found])
    assert len(np.unique(together, axis=0)) == len(together) == len(archive)
    np.testing.assert_array_equal(archive.rows, together)
    direct = proposed[space.is_valid(proposed)]
    direct = {row.tobytes() for row in direct[kept_by(space, direct, limits)]} - {row.tobytes() for row in known}
    assert min(len(direct), count) <= len(found)  # what needs no mending comes first


def test_mending_leads_what_is_outside_back_to_the_limits():
    limits = {"macs": Bound(13_000_000, 13_400_000)}
    archive, random = Archive(DEFAULT, limits), np.random.default_rng(0)
    rows = DEFAULT.sample(1000, random)
    outside = rows[~within(DEFAULT, rows, limits)][:100]
    assert not len(archive.admit(outside, 100))
    assert len(archive.admit_or_mend(outside, 100, random)) > 50
