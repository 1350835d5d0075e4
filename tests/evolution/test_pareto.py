from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evolution.pareto import (
    crowding_distance,
    non_dominated_ranks,
    nsga2_survivors,
    nsga3_survivors,
    reference_directions,
)
from supernet import InputError
from supernet.pareto import front, hypervolume

seeds = st.integers(0, 2**32 - 1)


def points(least=0, most=40, objectives=5):
    """Few distinct numbers, so that ties, equal points and several fronts are the rule."""
    shapes = st.tuples(st.integers(least, most), st.integers(1, objectives))
    return shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=st.integers(-4, 4).map(float)))


def dominance(values):
    """Whether the row's point dominates the column's, by definition, (points, points)."""
    one, other = values[:, None], values[None]
    return (one <= other).all(axis=2) & (one < other).any(axis=2)


def sphere(count, objectives, seed=0):
    """A concave front that bulges to the ideal point 0: nobody dominates anybody."""
    values = np.abs(np.random.default_rng(seed).normal(size=(count, objectives)))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def layers(seed, objectives, count=60):
    """Points of several fronts, without ties."""
    return np.random.default_rng(seed).random((count, objectives)) * 10.0 ** np.arange(objectives)


@pytest.fixture(scope="module")
def pymoo():
    return pytest.importorskip("pymoo")


@given(points())
def test_ranks_follow_from_domination(values):
    ranks, dominates = non_dominated_ranks(values), dominance(values)
    assert ranks.dtype == np.int64
    assert ranks.shape == (len(values),)
    assert not (dominates & (ranks[:, None] >= ranks[None])).any()
    from_the_front_before = dominates & (ranks[:, None] == ranks[None] - 1)
    assert from_the_front_before[:, ranks > 0].any(axis=0).all()


@given(points(), seeds)
def test_ranks_and_front_ask_for_order_alone(values, seed):
    """Neither the order of the points nor a growing scale of an objective changes anything, infinity included."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(values))
    scaled = values * 10.0 ** random.integers(-9, 9, values.shape[1])
    infinite = np.where(values == 4, np.inf, np.where(values == -4, -np.inf, values))
    for other in (scaled, infinite):
        np.testing.assert_array_equal(non_dominated_ranks(other), non_dominated_ranks(values))
        np.testing.assert_array_equal(front(other), front(values))
    np.testing.assert_array_equal(non_dominated_ranks(values[order]), non_dominated_ranks(values)[order])
    np.testing.assert_array_equal(values[order][front(values[order])], values[front(values)])


@given(points())
def test_the_front_is_what_none_dominates_once_each_in_order(values):
    firsts = [place for place, row in enumerate(values) if not (values[:place] == row).all(axis=1).any()]
    expected = [place for place in firsts if not dominance(values)[:, place].any()]
    assert front(values).tolist() == sorted(expected, key=lambda place: tuple(values[place]))


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_a_front_of_many_among_more(objectives):
    """Long enough that what is dominated is dropped on the way, and more than once."""
    shell = sphere(1200, objectives) * np.random.default_rng(1).choice([1, 1.05, 2], 1200, p=[0.2, 0.3, 0.5])[:, None]
    inner = np.flatnonzero(~dominance(shell).any(axis=0))
    assert sorted(front(shell)) == inner.tolist()
    np.testing.assert_array_equal(np.flatnonzero(non_dominated_ranks(shell) == 0), inner)


def test_two_objectives_by_hand():
    values = np.array([[1.0, 5], [2, 3], [2, 3], [3, 3], [4, 1], [4, 4], [5, 5]])
    assert non_dominated_ranks(values).tolist() == [0, 0, 0, 1, 0, 2, 3]
    assert front(values).tolist() == [0, 1, 4]
    assert hypervolume(values, np.array([6.0, 6])) == 5 * 1 + 4 * 2 + 2 * 2


def test_crowding_by_hand():
    values = np.array([[0.0, 10, 7], [1, 4, 7], [2, 3, 7], [4, 0, 7]])
    np.testing.assert_allclose(crowding_distance(values), [np.inf, 2 / 4 + 7 / 10, 3 / 4 + 4 / 10, np.inf])
    assert crowding_distance(np.ones((3, 2))).tolist() == [0, 0, 0]
    assert crowding_distance(np.ones((2, 2))).tolist() == [np.inf, np.inf]


@given(points(most=12, objectives=4), seeds)
def test_hypervolume_counts_the_cells_below_the_reference(values, seed):
    """Whole numbers cut space into unit cells: each counts where a point is at or below its lower corner."""
    reference = np.random.default_rng(seed).integers(-3, 4, values.shape[1])
    axes = [np.arange(-4, end) for end in reference]
    corners = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, values.shape[1])
    covered = (values[None] <= corners[:, None]).all(axis=2).any(axis=1)
    assert hypervolume(values, reference) == pytest.approx(covered.sum(), abs=1e-9)


@given(seeds, st.integers(1, 5), st.integers(0, 20))
def test_hypervolume_never_falls_with_a_point_and_rises_on_the_front(seed, objectives, count):
    values = layers(seed, objectives, count + 1)
    reference = 10.0 ** np.arange(objectives) * 0.9
    with_all, without = hypervolume(values, reference), hypervolume(values[:-1], reference)
    if count in front(values) and (values[-1] < reference).all():
        assert with_all > without
    else:
        assert with_all == pytest.approx(without, rel=1e-12)


def test_what_does_not_dominate_the_reference_adds_nothing():
    assert hypervolume(np.array([[2.0, 0], [0, 2], [np.inf, -1], [-np.inf, 3]]), np.array([2.0, 2])) == 0
    assert hypervolume(np.empty((0, 3)), np.ones(3)) == 0


@pytest.mark.parametrize(("objectives", "divisions"), [(1, 4), (2, 1), (2, 7), (3, 12), (5, 4)])
def test_reference_directions_are_the_grid_of_the_simplex(objectives, divisions):
    directions = reference_directions(objectives, divisions)
    assert directions.shape == (comb(divisions + objectives - 1, divisions), objectives)
    np.testing.assert_allclose(directions.sum(axis=1), 1)
    np.testing.assert_allclose(directions * divisions, np.round(directions * divisions), atol=1e-12)
    assert directions.min() == 0 or objectives == 1
    assert directions.tolist() == sorted(directions.tolist())
    assert len(np.unique(directions, axis=0)) == len(directions)


@pytest.mark.parametrize("select", ["nsga2", "nsga3"])
@given(points(), st.integers(0, 45), seeds)
def test_survivors_are_distinct_and_of_the_best_fronts(select, values, count, seed):
    directions = reference_directions(values.shape[1], 3)
    if select == "nsga2":
        survivors = nsga2_survivors(values, count)
    else:
        survivors = nsga3_survivors(values, count, directions, np.random.default_rng(seed))
        again = nsga3_survivors(values, count, directions, np.random.default_rng(seed))
        np.testing.assert_array_equal(survivors, again)
    assert survivors.dtype == np.intp
    assert len(set(survivors.tolist())) == len(survivors) == min(count, len(values))
    ranks = non_dominated_ranks(values)
    assert ranks[survivors].tolist() == sorted(ranks)[:count]


@given(seeds, st.integers(1, 4), st.integers(0, 60))
def test_nsga2_keeps_the_loneliest_of_the_last_front(seed, objectives, count):
    values = layers(seed, objectives)
    ranks, survivors = non_dominated_ranks(values), nsga2_survivors(values, count)
    last = np.flatnonzero(ranks == ranks[survivors].max(initial=0))
    crowding = crowding_distance(values[last])
    kept = np.isin(last, survivors)
    assert crowding[kept].min(initial=np.inf) >= crowding[~kept].max(initial=0)


@pytest.mark.parametrize("shape", ["simplex", "sphere"])
@given(seeds, st.integers(2, 4))
def test_nsga3_keeps_the_nearest_of_every_direction(shape, seed, objectives):
    """Points on all directions and others beside them, in units that differ by far: intercepts must undo those."""
    random = np.random.default_rng(seed)
    directions = reference_directions(objectives, 5)
    others = random.dirichlet(np.ones(objectives), 3 * len(directions))
    values = np.concatenate([directions, others])
    if shape == "sphere":  # as of DTLZ2
        values /= np.linalg.norm(values, axis=1, keepdims=True)
    order = random.permutation(len(values))
    values = values[order] * 10.0 ** random.integers(-6, 6, objectives) + random.integers(-3, 3, objectives)
    survivors = nsga3_survivors(values, len(directions), directions, random)
    assert set(order[survivors]) == set(range(len(directions)))


@given(points(least=1), st.integers(1, 40), seeds)
def test_nsga3_knows_no_units(values, count, seed):
    """Powers of 2 are exact, so nothing but the units can change."""
    random, directions = np.random.default_rng(seed), reference_directions(values.shape[1], 3)
    other = (values + random.integers(-3, 3, values.shape[1])) * 2.0 ** random.integers(-30, 30, values.shape[1])
    one, two = (nsga3_survivors(each, count, directions, np.random.default_rng(1)) for each in (values, other))
    np.testing.assert_array_equal(one, two)


def test_nsga3_scales_by_later_fronts_where_the_first_has_no_range():
    values = np.array([[0.0, 0], [1, 3000], [2, 2000], [3, 1000]])
    directions = np.array([[1.0, 3], [1, 1], [3, 1]])
    survivors = nsga3_survivors(values, 3, directions, np.random.default_rng(0))
    assert sorted(survivors) == [0, 2, 3]  # the ideal point itself counts as of the first direction


def test_nsga3_takes_from_niches_with_the_fewest_survivors():
    """Two directions are the axes; the first front crowds the first axis, so all room is for the second."""
    crowd = np.array([[10.0, 0], [10, 0], [10, 0], [0, 10]])
    rest = np.array([[10.0, 2], [11, 1], [1, 10], [2, 11], [3, 12]])
    values, directions = np.concatenate([crowd, rest]), np.eye(2)
    assert non_dominated_ranks(values).tolist() == [0] * 4 + [1] * 3 + [2, 3]
    for seed in range(10):
        assert 6 in nsga3_survivors(values, 5, directions, np.random.default_rng(seed))
    # Of the first axis, which has survivors, the farther one comes as often.
    survivors = {tuple(nsga3_survivors(values, 6, directions, np.random.default_rng(seed))[4:]) for seed in range(40)}
    assert survivors == {(6, 4), (6, 5)}


def test_nsga3_prefers_the_nearest_only_for_a_direction_without_survivors():
    values = np.array([[0.0, 1], [1, 0], [0.5, 0.5], [0.48, 0.52], [0.44, 0.56]])
    directions = np.array([[0.0, 1], [1, 1], [1, 0]])
    chosen = [nsga3_survivors(values, 4, directions, np.random.default_rng(seed)) for seed in range(40)]
    assert {tuple(survivors[:3]) for survivors in map(sorted, chosen)} == {(0, 1, 2)}
    assert {max(survivors) for survivors in chosen} == {3, 4}


@pytest.mark.parametrize(
    "values",
    [
        np.ones((6, 3)),
        np.array([[1.0, 2, 3]] * 2 + [[1, 2, 4]] * 4),
        np.column_stack([np.arange(6.0), -np.arange(6.0), np.zeros(6)]),
        np.column_stack([np.arange(6.0), -np.arange(6.0), np.arange(6.0)]),
        np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0], [0.6, 0.6, 0.6], [0.61, 0.6, 0.59], [0.6, 0.61, 0.59]]),
        np.column_stack([np.arange(6.0) * 1e-300, -np.arange(6.0) * 1e200, np.arange(6.0)[::-1]]),
    ],
    ids=["equal", "one ideal", "flat", "parallel", "inverted", "far apart"],
)
def test_nsga3_without_a_hyperplane(values):
    directions = reference_directions(3, 4)
    survivors = nsga3_survivors(values, 3, directions, np.random.default_rng(0))
    assert len(set(survivors.tolist())) == 3


NOT_VALUES = [np.ones(3), np.ones((2, 0)), np.ones((2, 2, 2)), np.array([[1.0, np.nan]])]
NEED_VALUES = {
    "ranks": non_dominated_ranks,
    "front": front,
    "crowding": crowding_distance,
    "hypervolume": lambda values: hypervolume(values, np.full(2, 3.0)),
    "nsga2": lambda values: nsga2_survivors(values, 1),
    "nsga3": lambda values: nsga3_survivors(values, 1, np.eye(2), np.random.default_rng(0)),
}


@pytest.mark.parametrize("name", NEED_VALUES)
@pytest.mark.parametrize("values", NOT_VALUES, ids=["line", "none", "cube", "nan"])
def test_what_are_no_values_is_refused(name, values):
    with pytest.raises(InputError, match="values: expected"):
        NEED_VALUES[name](values)


@pytest.mark.parametrize("name", ["crowding", "nsga2", "nsga3"])
def test_distances_refuse_infinity(name):
    with pytest.raises(InputError, match=r"values: expected finite numbers, got inf at \[1, 0\]"):
        NEED_VALUES[name](np.array([[1.0, 2], [np.inf, 1]]))


@pytest.mark.parametrize("reference", [np.ones(3), np.ones((1, 2)), np.array([1, np.nan]), np.array([np.inf, 1])])
def test_a_reference_must_fit(reference):
    with pytest.raises(InputError, match="reference: expected 2 finite numbers"):
        hypervolume(np.zeros((1, 2)), reference)


def test_a_volume_without_end_is_refused():
    with pytest.raises(InputError, match="values: expected finite numbers, got -inf"):
        hypervolume(np.array([[-np.inf, 0]]), np.ones(2))


@pytest.mark.parametrize(
    "directions", [np.eye(3), np.ones(2), np.empty((0, 2)), -np.eye(2), np.zeros((1, 2)), np.full((1, 2), np.nan)]
)
def test_directions_must_fit(directions):
    with pytest.raises(InputError, match="directions: expected rows of 2 finite numbers"):
        nsga3_survivors(np.zeros((2, 2)), 1, directions, np.random.default_rng(0))


def test_counts_must_be_possible():
    with pytest.raises(InputError, match="count: expected at least 0 survivors, got -1"):
        nsga2_survivors(np.zeros((2, 2)), -1)
    with pytest.raises(InputError, match="count: expected at least 0 survivors, got -1"):
        nsga3_survivors(np.zeros((2, 2)), -1, np.eye(2), np.random.default_rng(0))
    with pytest.raises(InputError, match="objectives: expected at least 1, got 0"):
        reference_directions(0, 3)
    with pytest.raises(InputError, match="divisions: expected at least 1, got 0"):
        reference_directions(3, 0)


@given(values=points(least=1))
def test_ranks_as_of_pymoo(pymoo, values):
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    _, ranks = NonDominatedSorting().do(values, return_rank=True)
    np.testing.assert_array_equal(non_dominated_ranks(values), ranks)


@pytest.mark.parametrize("objectives", [2, 3, 4])
@pytest.mark.parametrize("shape", ["layers", "sphere"])
def test_hypervolume_as_of_pymoo(pymoo, shape, objectives):
    from pymoo.indicators.hv import HV

    values = layers(3, objectives, 200) if shape == "layers" else sphere(100, objectives)
    reference = values.max(axis=0) * 0.95
    assert hypervolume(values, reference) == pytest.approx(float(HV(ref_point=reference)(values)), rel=1e-9)


@given(values=points(least=1, objectives=4))
def test_crowding_as_of_pymoo(pymoo, values):
    """Its "cd" keeps equal points, as ours does, but is the mean over the objectives where the paper has the sum."""
    from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function

    theirs = get_crowding_function("cd").do(values) * values.shape[1]
    np.testing.assert_allclose(crowding_distance(values), theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("objectives", "divisions"), [(2, 9), (3, 12), (4, 5), (6, 3)])
def test_reference_directions_as_of_pymoo(pymoo, objectives, divisions):
    from pymoo.util.ref_dirs import get_reference_directions

    theirs = get_reference_directions("das-dennis", objectives, n_partitions=divisions)
    np.testing.assert_allclose(reference_directions(objectives, divisions), theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("shape", ["concave", "convex", "resistant"])
@given(seed=seeds, objectives=st.integers(2, 4), later=st.booleans())
def test_nsga3_as_of_pymoo(pymoo, shape, seed, objectives, later):
    """As many survivors as niches still empty leave nothing to chance: the nearest point of each.

    The front has one range in all objectives: pymoo looks for extreme points in the units given, ours in shares of the
    range. Hyperplanes cut the axes before the front ends (resistant: points that are bad in one objective for almost
    nothing in another), beyond it, and not at all.
    """
    from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival, associate_to_niches
    from pymoo.core.population import Population

    random = np.random.default_rng(seed)
    values = sphere(30, objectives, seed)
    if shape == "convex":
        values = 1 - values
    elif shape == "resistant":
        bad = np.concatenate([[3, 0], 0.5 + random.random(objectives - 2)])
        values = np.concatenate([0.05 + values, bad[None]])
    if later:
        values = np.concatenate([values, 0.2 + 1.3 * sphere(20, objectives, seed + 1)])
    values = values[non_dominated_ranks(values) <= later]
    first = values[front(values)]
    values = 1000 * (values - first.min(axis=0)) / (first.max(axis=0) - first.min(axis=0))
    directions = random.dirichlet(np.ones(objectives), 30)

    def survive(count):
        survival = ReferenceDirectionSurvival(directions)
        population = Population.new(F=values, place=np.arange(len(values)))
        return survival.norm, survival._do(None, population, count, random_state=random).get("place")

    norm, _ = survive(len(values))
    niches, _, _ = associate_to_niches(values, directions, norm.ideal_point, norm.nadir_point)
    whole = front(values) if non_dominated_ranks(values).any() else np.empty(0, np.intp)
    count = len(whole) + len(np.setdiff1d(niches, niches[whole]))
    ours = nsga3_survivors(values, count, directions, random)
    assert sorted(ours) == sorted(survive(count)[1])
    assert set(niches[ours]) == set(niches)
