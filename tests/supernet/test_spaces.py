"""What every space keeps, whatever its kind."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from supernet import (
    COST_NAMES,
    Architecture,
    Bound,
    DavidNet,
    InputError,
    OpSubset,
    SearchSpace,
    architectures,
    graph_costs,
    sample_distinct,
)
from supernet.limits import check_limits, cost_of, costliest
from supernet.operations import graph_depth
from supernet.spaces import SPACES, make_space
from tests.supernet.ladder import Ladder, every_row
from tests.supernet.spaces import spaces, spaces_with_architecture

DROP_DEAD_PARTS = {"nasbench201"}
"""Spaces whose representative lacks operations that change nothing, so that its graph is another."""


def every_kind():
    """Small spaces of every kind, and one with options that mean nothing in some rows."""
    return st.one_of(spaces(), st.builds(Ladder, rungs=st.integers(1, 4), width=st.integers(1, 3)))


def small():
    """Those of which every row can be looked at."""
    return every_kind().filter(lambda space: math.prod(space.cardinalities) <= 1500)


seeds = st.integers(0, 2**32)


@given(spaces_with_architecture())
def test_batch_costs_equal_graph_costs(given_pair):
    space, architecture = given_pair
    batch = space.costs(architecture.row())
    expected = graph_costs(space.graph(architecture))
    assert {name: int(values[0]) for name, values in batch.items()} == expected._asdict()
    assert all(values.dtype == np.int64 and values.shape == (1,) for values in batch.values())


@given(every_kind(), seeds)
def test_depths_are_the_depths_of_the_graphs(space, seed):
    rows = space.sample(8, np.random.default_rng(seed))
    depths = space.depths(rows)
    assert depths.shape == (8,)
    assert depths.dtype == np.int64
    assert depths.tolist() == [graph_depth(space.graph(one)) for one in architectures(space, rows)]
    assert space.depths(rows[:0]).shape == (0,)


@given(spaces_with_architecture())
def test_the_costs_on_the_nodes_are_the_costs_of_the_graph(given_pair):
    space, architecture = given_pair
    graph = space.graph(architecture)
    costs = graph_costs(graph)
    assert (graph.total("macs"), graph.total("params")) == (costs.macs, costs.params)


@given(spaces_with_architecture())
def test_parse_and_format_are_inverse(given_pair):
    space, architecture = given_pair
    assert space.is_valid(architecture.row()).all()
    again = space.parse(space.format(architecture))
    assert space.parse(f"  {space.format(architecture)}\n") == again
    assert space.format(again) == space.format(architecture)
    assert space.graph(again) == space.graph(architecture)
    assert (space.canonical(again.row()) == space.canonical(architecture.row())).all()


@given(spaces_with_architecture())
def test_an_architecture_is_read_from_its_key(given_pair):
    space, architecture = given_pair
    assert space.read(f" {architecture.key}\n") == architecture
    assert space.graph(space.read(space.format(architecture))) == space.graph(architecture)
    with pytest.raises(InputError):
        space.read("another" + architecture.key)


@given(spaces_with_architecture(), st.data())
def test_an_architecture_of_another_space_has_no_graph(given_pair, data):
    space, architecture = given_pair
    choices = architecture.choices
    place = data.draw(st.integers(0, len(choices) - 1))
    space.graph(architecture)  # what was made before must not stand in for what is refused
    for name, foreign in (
        ("another", choices),
        (space.name, (*choices, 0)),
        (space.name, (*choices[:place], space.cardinalities[place], *choices[place + 1 :])),
    ):
        with pytest.raises(InputError):
            space.graph(Architecture(name, foreign))


@given(spaces(), st.integers(0, 50), st.integers(0, 2**32))
def test_samples_are_valid(space, count, seed):
    choices = space.sample(count, np.random.default_rng(seed))
    assert choices.shape == (count, len(space.cardinalities))
    assert choices.dtype == np.int8
    assert space.is_valid(choices).all()
    assert all(values.shape == (count,) for values in space.costs(choices).values())


@given(spaces(), st.integers(0, 2**32), st.data())
def test_an_option_that_there_is_not_is_not_valid(space, seed, data):
    choices = space.sample(3, np.random.default_rng(seed))
    place = data.draw(st.integers(0, len(space.cardinalities) - 1))
    choices[0, place] = space.cardinalities[place]
    choices[1, place] = -1
    assert space.is_valid(choices).tolist() == [False, False, True]


@given(spaces(), st.sampled_from(COST_NAMES))
def test_nothing_is_cheaper_than_the_cheapest(space, cost):
    least = space.costs(space.cheapest(cost).row())[cost][0]
    assert space.is_valid(space.cheapest(cost).row()).all()
    assert least <= space.costs(space.sample(100, np.random.default_rng(6)))[cost].min()
    check_limits(space, {cost: int(least)})
    with pytest.raises(InputError, match=f"limit {cost}: .* is below the cheapest architecture of {space.name}"):
        check_limits(space, {cost: int(least) - 1})
    with pytest.raises(InputError, match="is below the cheapest"):
        sample_distinct(space, 1, np.random.default_rng(6), {cost: int(least) - 1})


@given(every_kind(), seeds, st.sampled_from((*COST_NAMES, "depth")))
@settings(max_examples=60)
def test_nothing_is_costlier_than_the_costliest(space, seed, cost):
    most = costliest(space, cost)
    assert space.is_valid(most.row()).all()
    value = int(cost_of(space, most.row(), cost)[0])
    assert value >= cost_of(space, space.canonical(space.sample(30, np.random.default_rng(seed))), cost).max()
    check_limits(space, {cost: Bound(least=value)})
    with pytest.raises(InputError, match=f"limit {cost}: .* is above the costliest architecture of {space.name}"):
        check_limits(space, {cost: Bound(least=value + 1)})


@given(small(), seeds)
def test_descent_by_single_changes_ends_where_none_is_better(space, seed):
    weights = np.random.default_rng(seed).normal(size=len(space.cardinalities))
    measure = lambda rows: space.canonical(rows) @ weights  # noqa: E731
    row = space.descend(measure)
    assert row.shape == (1, len(weights))
    assert space.is_valid(row).all()
    assert (space.canonical(row) == row).all()
    if type(space).descend is SearchSpace.descend:
        assert measure(row)[0] <= measure(space.sample(64, np.random.default_rng(0))).min() + 1e-9  # where it starts
    if type(space).canonical is SearchSpace.canonical and len(space.neighbours(row[0])):
        assert measure(space.neighbours(row[0])).min() >= measure(row)[0] - 1e-9


@given(small())
def test_clauses_tell_which_rows_are_valid(space):
    clauses = space.clauses()
    rows = np.array(list(product(*map(range, space.cardinalities))), np.int8)
    if clauses is None:
        assert not space.is_valid(rows).all() or type(space).is_valid is not SearchSpace.is_valid
        return
    kept = [np.any([rows[:, choice] == option for choice, option in clause], axis=0) for clause in clauses]
    expected = np.logical_and.reduce([np.ones(len(rows), bool), *kept])
    np.testing.assert_array_equal(space.is_valid(rows), expected)


@pytest.mark.parametrize("space", [OpSubset(), DavidNet()])
def test_a_limit_on_an_unknown_cost_is_refused(space):
    with pytest.raises(
        InputError, match="limit 'flops' is unknown; known: macs, conv_macs, params, activations, depth"
    ):
        sample_distinct(space, 1, np.random.default_rng(0), {"flops": 10})


@given(spaces())
def test_settings_come_back_from_json(space):
    space.costs(space.sample(1, np.random.default_rng(0)))  # what is computed once is no part of the identity
    again = make_space(space.model_dump(mode="json"))
    assert again == space
    assert hash(again) == hash(space)


def test_the_spaces_are_known_by_the_kind_of_their_settings():
    assert {name: space.model_fields["kind"].default for name, space in SPACES.items()} == {
        name: name for name in SPACES
    }
    assert make_space({}) == OpSubset()  # as runs of the time with one space have it
    assert make_space({"kind": "davidnet", "classes": 10}) == DavidNet(classes=10)


def test_an_unknown_space_names_the_nearest():
    with pytest.raises(InputError, match=r"space 'opsubset' is unknown; known: .*Did you mean 'op_subset'"):
        make_space({"kind": "opsubset"})


@given(every_kind(), seeds)
def test_the_representative_belongs_to_the_space_and_stands_for_itself(space, seed):
    rows = space.sample(20, np.random.default_rng(seed))
    before = rows.copy()
    canonical = space.canonical(rows)
    assert (rows == before).all()  # what is given stays as it was
    assert (canonical.shape, canonical.dtype) == (rows.shape, np.int8)
    assert space.is_valid(canonical).all()
    assert (space.canonical(canonical) == canonical).all()
    own, other = space.costs(rows), space.costs(canonical)
    assert all((other[name] <= own[name]).all() for name in COST_NAMES)
    if space.kind not in DROP_DEAD_PARTS:
        for one, same in zip(architectures(space, rows), architectures(space, canonical), strict=True):
            assert space.graph(one).digest() == space.graph(same).digest()


@given(every_kind(), seeds)
def test_another_form_of_a_row_has_the_same_representative(space, seed):
    random = np.random.default_rng(seed)
    rows = space.sample(20, random)
    for other in (space.disguise(rows, random), space.disguise(space.canonical(rows), random)):
        assert (other.shape, other.dtype) == (rows.shape, np.int8)
        assert space.is_valid(other).all()
        assert (space.canonical(other) == space.canonical(rows)).all()


@given(every_kind(), seeds)
def test_the_text_of_a_row_leads_to_its_representative(space, seed):
    rows = space.sample(10, np.random.default_rng(seed))
    again = np.concatenate([space.parse(space.format(one)).row() for one in architectures(space, rows)])
    assert (space.canonical(again) == space.canonical(rows)).all()


@given(every_kind(), seeds, st.sampled_from((0.5, 1.0, 3.0)))
def test_mutants_are_valid_and_of_the_shape_of_their_parents(space, seed, changes):
    random = np.random.default_rng(seed)
    rows = space.sample(30, random)
    mutants = space.mutate(rows, random, changes)
    assert (mutants.shape, mutants.dtype) == (rows.shape, np.int8)
    assert space.is_valid(mutants).all()
    if max(space.cardinalities) > 1 and space.size > 2:
        assert any((space.mutate(rows, random, changes) != rows).any() for _ in range(20))


@given(every_kind(), seeds)
def test_children_are_valid_and_have_their_choices_from_their_parents(space, seed):
    random = np.random.default_rng(seed)
    first, second = space.sample(30, random), space.sample(30, random)
    children = space.crossover(first, second, random)
    assert (children.shape, children.dtype) == (first.shape, np.int8)
    assert space.is_valid(children).all()
    if type(space).disguise is SearchSpace.disguise:
        assert ((children == first) | (children == second)).all()


@given(every_kind(), seeds)
def test_neighbours_are_every_valid_row_that_differs_in_one_choice(space, seed):
    row = space.sample(1, np.random.default_rng(seed))[0]
    around = space.neighbours(row)
    assert around.shape == (len(around), len(row))
    assert ((around != row).sum(axis=1) == 1).all()
    assert space.is_valid(around).all()
    assert len(np.unique(around, axis=0)) == len(around)
    expected = 0
    for place, count in enumerate(space.cardinalities):
        changed = np.tile(row, (count, 1))
        changed[:, place] = np.arange(count)
        expected += int(space.is_valid(changed).sum()) - 1
    assert len(around) == expected


@given(small())
def test_the_size_is_the_number_of_texts(space):
    rows = every_row(space)
    texts = {space.format(one) for one in architectures(space, rows)}
    assert space.size == len(texts)
    assert len(np.unique(space.canonical(rows), axis=0)) <= space.size


@given(spaces().filter(lambda space: math.prod(space.cardinalities) <= 1500))
def test_the_chances_of_all_rows_add_up_to_1(space):
    assert np.exp(space.log_density(every_row(space))).sum() == pytest.approx(1)


@given(small().filter(lambda space: space.size > 1), seeds)
def test_samples_come_with_the_chances_that_the_space_says(space, seed):
    rows = every_row(space)
    weights = np.exp(space.log_density(rows))
    assert weights.shape == (len(rows),)
    index = {row.tobytes(): place for place, row in enumerate(rows)}
    drawn = space.sample(20 * len(rows), np.random.default_rng(seed))
    observed = np.bincount([index[row.tobytes()] for row in drawn], minlength=len(rows))
    assert chisquare(observed, len(drawn) * weights / weights.sum()).pvalue > 1e-6
