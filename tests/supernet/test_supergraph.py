"""Spaces as one graph: choices to active options and back, costs, and what weights of a relaxation stand for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet import COST_NAMES, Architecture, Darts, InputError, NasBench201, OpSubset, derive
from supernet.spaces import SPACES
from supernet.supergraph import Group, Inputs, SuperGraph, dominant, free_share, skip_share
from tests.supernet.spaces import darts_spaces, nasbench201_spaces, op_subset_spaces, union_spaces, with_architecture


def sharing_spaces():
    return st.one_of(op_subset_spaces(), nasbench201_spaces(), darts_spaces())


def space_and_architecture():
    return with_architecture(sharing_spaces())


def weights_of(graph, active):
    """Weights that are 1 for what is on and 0 for all else, and strengths of the inputs that are taken."""
    options = [np.zeros(len(group.options)) for group in graph.groups]
    inputs = [np.zeros(one.groups) for one in graph.inputs]
    for row, group, on in zip(options, graph.groups, active, strict=True):
        row[list(on)] = 1.0
        if group.place is not None and on:
            inputs[group.place[0]][group.place[1]] = 1.0
    return options, inputs


def random_weights(graph, seed):
    random = np.random.default_rng(seed)
    options = [
        random.random(len(group.options)) if group.subset else random.dirichlet(np.ones(len(group.options)))
        for group in graph.groups
    ]
    return options, [random.random(one.groups) for one in graph.inputs]


def skips_by_part(graph, active):
    counts = {}
    for number, on in enumerate(active):
        part = graph.groups[number].name.split()[0]
        counts[part] = counts.get(part, 0) + len(set(on) & set(graph.skips(number)))
    return counts


@given(space_and_architecture())
def test_choices_become_active_options_and_back(pair):
    space, architecture = pair
    graph = space.supergraph()
    active = graph.encode(architecture.choices)
    assert graph.decode(active) == architecture.choices
    assert len(active) == len(graph.groups)
    for group, on in zip(graph.groups, active, strict=True):
        assert set(on) <= set(range(len(group.options)))
        assert len(on) == 1 or group.subset or (not on and group.place is not None)
    for members, one in zip(graph.members, graph.inputs, strict=True):
        assert len(members) == one.groups
        assert sum(bool(active[member]) for member in members) == one.kept


@given(sharing_spaces(), st.integers(0, 2**32))
def test_costs_are_those_of_the_space(space, seed):
    rows = space.sample(3, np.random.default_rng(seed))
    costs, graph = space.costs(rows), space.supergraph()
    for number, row in enumerate(rows.tolist()):
        active = graph.encode(row)
        assert {name: graph.cost(active, name) for name in COST_NAMES} == {
            name: int(values[number]) for name, values in costs.items()
        }


@given(space_and_architecture())
def test_the_nodes_of_the_active_options_are_those_of_the_architecture(pair):
    space, architecture = pair
    graph = space.supergraph()
    active = graph.encode(architecture.choices)
    on = [edge.options[option] for step in graph.steps for edge in step.edges for option in active[edge.group]]
    own = {node.name: node for node in space.graph(architecture).nodes}
    assert all(own[node.name] == node for node in on)
    fixed = [step.node for step in graph.steps if not step.edges]
    assert all(own[node.name] == node for node in fixed)


@given(space_and_architecture())
def test_weights_of_an_architecture_stand_for_it(pair):
    space, architecture = pair
    graph = space.supergraph()
    active = graph.encode(architecture.choices)
    assert derive(graph, *weights_of(graph, active)) == active


@given(sharing_spaces(), st.integers(0, 2**32), st.integers(0, 3))
def test_any_weights_stand_for_an_architecture_and_the_cap_on_identities_holds(space, seed, most):
    graph = space.supergraph()
    options, inputs = random_weights(graph, seed)
    before = [row.copy() for row in options]
    free = derive(graph, options, inputs)
    capped = derive(graph, options, inputs, most)
    for active in (free, capped):
        space.check(Architecture(space.name, graph.decode(active)))
    assert all(np.array_equal(row, old) for row, old in zip(options, before, strict=True))  # the caller's stay
    if graph.groups[0].subset:  # identities there stand beside others, and are not capped
        assert capped == free
        return
    if all(count <= most for count in skips_by_part(graph, free).values()):
        assert capped == free
    if all(len(group.options) > 1 for group in graph.groups):  # else there is nothing to take in its place
        assert all(count <= most for count in skips_by_part(graph, capped).values())


def test_the_weakest_identities_give_way_to_their_second_best():
    space = NasBench201(cells=1, channels=2, input_size=4)
    graph = space.supergraph()
    skip = 1
    options = [np.array([0.0, 0.9, 0.1, 0.0, 0.0])] * 6
    options[2] = np.array([0.0, 0.5, 0.1, 0.4, 0.0])
    options[4] = np.array([0.1, 0.6, 0.1, 0.0, 0.2])
    inputs = [np.ones(one.groups) for one in graph.inputs]
    assert derive(graph, options, inputs) == ((skip,),) * 6
    assert derive(graph, options, inputs, 5) == ((1,), (1,), (3,), (1,), (1,), (1,))
    assert derive(graph, options, inputs, 4) == ((1,), (1,), (3,), (1,), (4,), (1,))


def test_inputs_are_those_whose_strongest_operation_counts_most():
    space = Darts(cells=3, channels=2, nodes=2, input_size=4, operations=["skip_connect", "sep_conv_3x3"])
    graph = space.supergraph()
    assert [group.name for group in graph.groups[:5]] == [
        "normal 0 to 2", "normal 1 to 2", "normal 0 to 3", "normal 1 to 3", "normal 2 to 3",
    ]  # fmt: skip
    options = [np.array(row) for row in [(0.9, 0.1), (0.4, 0.6), (0.9, 0.1), (0.3, 0.7), (0.4, 0.6)] * 2]
    even = [np.ones(one.groups) for one in graph.inputs]
    assert derive(graph, options, even)[:5] == ((0,), (1,), (0,), (1,), ())
    strengths = [np.ones(2), np.array([0.2, 0.5, 0.5]), np.ones(2), np.ones(3)]
    assert derive(graph, options, strengths) == ((0,), (1,), (), (1,), (1,), (0,), (1,), (0,), (1,), ())


def test_none_does_not_make_an_input_strong():
    groups = tuple(Group(f"normal {place} to 3", ("none", "conv"), place=(0, place)) for place in range(3))
    graph = SuperGraph((), groups, (Inputs(3, 2),), lambda row: (), lambda active: ())
    options = [np.array([0.9, 0.1]), np.array([0.4, 0.6]), np.array([0.7, 0.3])]
    assert derive(graph, options, [np.ones(3)]) == ((), (1,), (0,))


def test_of_a_subset_all_above_a_half_are_on_and_at_least_the_largest():
    space = OpSubset(layers=[{"channels": 4}, {"channels": 4}], input_size=4)
    options = [np.array([0.9, 0.5, 0.6, 0.0, 0.51, 0.1]), np.array([0.1, 0.2, 0.4, 0.3, 0.0, 0.0])]
    assert derive(space.supergraph(), options, []) == ((0, 2, 4), (2,))


def test_shares_by_hand():
    space = NasBench201(cells=1, channels=2, input_size=4)
    graph = space.supergraph()
    active = ((0,), (1,), (1,), (3,), (4,), (2,))  # none, skip, skip, conv, pool, conv
    assert graph.free(0) == (0, 1, 4)
    assert graph.skips(0) == (1,)
    assert free_share(graph, active) == pytest.approx(4 / 6)
    assert skip_share(graph, active) == pytest.approx(2 / 6)
    assert dominant(graph, active) == {
        "skip_connect": 2 / 6, "avg_pool_3x3": 1 / 6, "none": 1 / 6, "nor_conv_1x1": 1 / 6, "nor_conv_3x3": 1 / 6,
    }  # fmt: skip
    assert next(iter(dominant(graph, active))) == "skip_connect"
    subset = OpSubset(layers=[{"channels": 8}, {"channels": 8, "stride": 2}], input_size=4).supergraph()
    # An identity by name, whatever the shapes make of it.
    assert free_share(subset, ((0, 1), (0,))) == skip_share(subset, ((0, 1), (0,))) == pytest.approx(2 / 3)
    assert free_share(subset, ((), ())) == skip_share(subset, ((), ())) == 0.0


@pytest.mark.parametrize("kind", sorted(set(SPACES) - {"nasbench201", "darts", "op_subset", "union", "stages"}))
def test_other_spaces_have_none(kind):
    with pytest.raises(InputError, match=f"space '{kind}' has no weight-sharing network; nasbench201, darts and"):
        SPACES[kind]().supergraph()


@settings(max_examples=5)
@given(union_spaces())
def test_unions_have_none(space):
    with pytest.raises(InputError, match="no weight-sharing network"):
        space.supergraph()
