"""The network of shared weights: each architecture in it is its own network; gates weigh mixtures."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from supernet import Architecture, Darts, InputError, NasBench201, OpSubset
from supernet.network import build_network
from supernet.sharing import Gates, SharedNetwork, build_shared
from tests.supernet.test_supergraph import space_and_architecture

SPACES = (
    OpSubset(layers=[{"channels": 8}, {"channels": 8, "stride": 2}], head_channels=8, input_size=8, classes=4),
    NasBench201(cells=1, channels=4, input_size=8, classes=4),
    Darts(cells=3, channels=4, nodes=2, input_size=8, classes=4),
)
NAMES = [space.kind for space in SPACES]
FEW = settings(max_examples=25)


def pictures(space, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, space.input_channels, space.input_size, space.input_size, generator=generator)
    return images.contiguous(memory_format=torch.channels_last)


def some_rows(space, count=4, seed=0):
    return space.sample(count, np.random.default_rng(seed)).tolist()


def everything(graph):
    return tuple(tuple(range(len(group.options))) for group in graph.groups)


def one_hot(graph, active):
    rows = [torch.zeros(len(group.options)) for group in graph.groups]
    for row, on in zip(rows, active, strict=True):
        row[list(on)] = 1.0
    return Gates(rows)


@FEW
@given(space_and_architecture(), st.integers(0, 99))
def test_an_architecture_is_its_own_network_to_the_last_bit(pair, seed):
    space, architecture = pair
    shared = build_shared(space.supergraph(), seed)
    active = shared.graph.encode(architecture.choices)
    own = build_network(space.graph(architecture))
    own.load_state_dict(shared.own_state(active))
    images = pictures(space)
    for training in (True, False):  # evaluation with the statistics that training has just left in both
        shared.train(training)
        own.train(training)
        assert torch.equal(shared(images, active), own(images))
    state = shared.own_state(active)
    assert all(torch.equal(state[name], tensor) for name, tensor in own.state_dict().items())


@pytest.mark.parametrize("space", SPACES, ids=NAMES)
def test_gradients_are_those_of_the_own_network_and_of_nothing_else(space):
    shared = build_shared(space.supergraph(), 1)
    (row,) = some_rows(space, 1)
    active = shared.graph.encode(row)
    own = build_network(space.graph(Architecture(space.name, tuple(row))))
    own.load_state_dict(shared.own_state(active))
    for network in (lambda images: shared(images, active), own):
        network(pictures(space)).square().sum().backward()
    sums = [
        sorted(float(one.grad.abs().sum()) for one in network.parameters() if one.grad is not None)
        for network in (shared, own)
    ]
    # What feeds zeros alone has no gradient here and a gradient of zero there.
    assert [one for one in sums[0] if one] == [one for one in sums[1] if one] != []


def test_initial_weights_are_a_function_of_the_seed():
    graph = SPACES[0].supergraph()
    first, second, other = (build_shared(graph, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    build_shared(graph, 3)
    assert torch.equal(torch.rand(2), expected)  # nobody else's randomness is touched
    assert build_shared(graph).graph is graph


@pytest.mark.parametrize("space", SPACES, ids=NAMES)
def test_a_mixture_with_gates_of_one_architecture_is_that_architecture(space):
    shared = build_shared(space.supergraph(), 2)
    images = pictures(space)
    shared.eval()  # in training the other operations would move their own statistics
    for row in some_rows(space):
        active = shared.graph.encode(row)
        mixed = shared(images, everything(shared.graph), one_hot(shared.graph, active))
        torch.testing.assert_close(mixed, shared(images, active))


@pytest.mark.parametrize("space", SPACES, ids=NAMES)
@pytest.mark.parametrize("searching", [False, True])
def test_gradients_reach_the_gates(space, searching):
    shared = SharedNetwork(space.supergraph(), searching=searching)
    graph = shared.graph
    gates = Gates(
        [torch.full((len(group.options),), 0.5, requires_grad=True) for group in graph.groups],
        [torch.tensor(0.7, requires_grad=True) for _ in graph.groups],
    )
    shared(pictures(space, 6), everything(graph), gates).square().sum().backward()
    for number, (row, strength) in enumerate(zip(gates.options, gates.strengths, strict=True)):
        zero = [name == "none" for name in graph.groups[number].options]
        assert row.grad[~torch.tensor(zero)].abs().min() > 0
        assert row.grad[torch.tensor(zero)].abs().sum() == 0  # what adds nothing has no slope
        assert strength.grad.abs() > 0


def test_strengths_weigh_whole_mixed_operations():
    space = SPACES[1]
    shared = build_shared(space.supergraph(), 0).eval()
    graph, images = shared.graph, pictures(space)
    active = graph.encode((3, 2, 1, 4, 3, 2))
    gates = one_hot(graph, active)
    ones = Gates(gates.options, [torch.ones(()) for _ in graph.groups])
    torch.testing.assert_close(shared(images, active, ones), shared(images, active))
    halves = Gates([row / 2 for row in gates.options])
    half_strengths = Gates(gates.options, [torch.full((), 0.5) for _ in graph.groups])
    torch.testing.assert_close(shared(images, active, halves), shared(images, active, half_strengths))


def test_nodes_that_only_get_zeros_are_zero():
    space = SPACES[1]
    shared = build_shared(space.supergraph(), 0).eval()
    images = pictures(space)
    nothing = shared(images, shared.graph.encode((0,) * 6))
    assert nothing.shape == (3, 4)
    own = build_network(space.graph(Architecture(space.name, (0,) * 6)))
    own.load_state_dict(shared.own_state(shared.graph.encode((0,) * 6)))
    assert torch.equal(nothing, own.eval()(images))
    left_out = shared(images, ((),) * 6)
    assert torch.equal(left_out, nothing)
    partial = SharedNetwork(space.supergraph(), partial=4)  # what passes by is not nothing
    assert partial(images, shared.graph.encode((0,) * 6)).shape == (3, 4)


@pytest.mark.parametrize("space", SPACES, ids=NAMES)
@pytest.mark.parametrize("searching", [False, True])
def test_partial_channels_keep_shapes(space, searching):
    whole, partial = (SharedNetwork(space.supergraph(), parts, searching) for parts in (1, 2))
    assert sum(p.numel() for p in partial.parameters()) < sum(p.numel() for p in whole.parameters())
    images, graph = pictures(space), partial.graph
    for row in some_rows(space):
        assert partial(images, graph.encode(row)).shape == (3, 4)
    assert partial(images, everything(graph), Gates([torch.ones(len(g.options)) for g in graph.groups])).shape == (3, 4)


def test_partial_channels_of_odd_sides_are_halved_as_convolutions_do():
    space = OpSubset(layers=[{"channels": 8}, {"channels": 8, "stride": 2}, {"channels": 8, "stride": 2}],
                     stem_channels=8, head_channels=8, input_size=7, classes=4)  # fmt: skip
    partial = SharedNetwork(space.supergraph(), partial=4)
    for row in some_rows(space):
        assert partial(pictures(space), partial.graph.encode(row)).shape == (3, 4)


def test_channels_that_pass_by_are_not_changed_and_all_are_dealt_out():
    space = OpSubset(layers=[{"channels": 8}], stem_channels=8, head_channels=8, input_size=4, operations=["skip"])
    partial, seen = SharedNetwork(space.supergraph(), partial=4), {}
    partial.stem.register_forward_hook(lambda _, __, output: seen.update(stem=output))
    partial.head.register_forward_pre_hook(lambda _, inputs: seen.update(head=inputs[0]))
    partial(pictures(space), ((0,),))
    # The first of four parts and the three others in turn, two channels each.
    assert torch.equal(seen["head"], seen["stem"][:, [0, 2, 4, 6, 1, 3, 5, 7]])


def test_parts_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(InputError, match=r"partial channels: 3 parts of 4 channels \(.*\); expected a divisor of 4"):
        SharedNetwork(SPACES[1].supergraph(), partial=3)
    with pytest.raises(InputError, match=r"8 parts of 8 channels \(layer2_skip\) leave a skip of stride 2 one"):
        SharedNetwork(OpSubset(layers=[{"channels": 8}, {"channels": 8, "stride": 2}], stem_channels=4).supergraph(), 8)
    widening = OpSubset(layers=[{"channels": 9}], stem_channels=4, input_size=4)  # whole where channels change
    assert SharedNetwork(widening.supergraph(), partial=4)(pictures(widening), ((0, 1),)).shape == (3, 100)


def test_a_network_for_mixtures_has_no_weights_of_single_ones_nor_scales():
    graph = SPACES[2].supergraph()
    searching = SharedNetwork(graph, searching=True)
    mixed = [module for name, module in searching.named_modules() if name.startswith("mixed")]
    norms = [module for module in mixed if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.weight.requires_grad or norm.bias.requires_grad for norm in norms)
    pools = [number for number, name in enumerate(graph.groups[0].options) if "pool" in name]
    edge = next(module for module in mixed if hasattr(module, "options"))
    assert all(isinstance(edge.options[number][-1], nn.BatchNorm2d) for number in pools)
    for network in (searching, SharedNetwork(graph, partial=2)):
        with pytest.raises(InputError, match="one made for a mixture holds no weights of single architectures"):
            network.own_state(everything(graph))


def test_architectures_share_what_they_have_in_common():
    space = SPACES[0]
    shared = build_shared(space.supergraph(), 0)
    first, second = (shared.own_state(shared.graph.encode(row)) for row in some_rows(space, 2, 5))
    common = first.keys() & second.keys()
    assert any("layer" in name for name in common)
    assert all(first[name].data_ptr() == second[name].data_ptr() for name in common)
