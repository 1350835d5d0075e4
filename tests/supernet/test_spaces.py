"""What every space keeps, whatever its kind."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet import COST_NAMES, Architecture, DavidNet, InputError, OpSubset, graph_costs, sample_distinct
from supernet.space import check_limits
from supernet.spaces import SPACES, make_space
from tests.supernet.spaces import spaces, spaces_with_architecture


@given(spaces_with_architecture())
def test_batch_costs_equal_graph_costs(given_pair):
    space, architecture = given_pair
    batch = space.costs(architecture.row())
    expected = graph_costs(space.graph(architecture))
    assert {name: int(values[0]) for name, values in batch.items()} == expected._asdict()
    assert all(values.dtype == np.int64 and values.shape == (1,) for values in batch.values())


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
def test_an_architecture_of_another_space_has_no_graph(given_pair):
    space, architecture = given_pair
    choices = architecture.choices
    for foreign in (
        Architecture("another", choices),
        Architecture(space.name, (*choices, 0)),
        Architecture(space.name, (*choices[:-1], space.cardinalities[-1])),
    ):
        with pytest.raises(InputError):
            space.graph(foreign)


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


@pytest.mark.parametrize("space", [OpSubset(), DavidNet()])
def test_a_limit_on_an_unknown_cost_is_refused(space):
    with pytest.raises(InputError, match="cost 'flops' is not one of macs, conv_macs, params, activations"):
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
