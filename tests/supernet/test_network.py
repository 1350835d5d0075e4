import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from supernet import ArchGraph, Architecture, InputError, Node, OpSubset, architectures, graph_costs
from supernet.modules import ShiftedConv
from supernet.network import build_network, node_names
from supernet.op_subset import LayerSettings
from supernet.operations import JOINS, OPERATIONS, node_costs, operation
from tests.supernet.spaces import spaces_with_architecture

SHAPES = (
    # input size, input channels, classes, (channels, stride) of each layer
    (32, 3, 100, ((16, 1), (32, 2), (40, 2), (80, 2), (320, 1))),
    (8, 1, 10, ((8, 2), (12, 2), (12, 2), (7, 1))),  # 8 -> 4 -> 2 -> 1 -> 1
    (7, 3, 2, ((6, 2), (6, 1), (9, 2))),
    (33, 4, 11, ((5, 2), (5, 1), (11, 2), (11, 2))),
    (1, 1, 3, ((4, 1), (6, 1))),
)


def random_networks(count):
    """Graphs of all shapes above in turn, with the shape of their pictures."""
    random = np.random.default_rng(0)
    for number in range(count):
        side, channels, classes, layers = SHAPES[number % len(SHAPES)]
        space = OpSubset(
            layers=[LayerSettings(channels=width, stride=stride) for width, stride in layers],
            input_size=side,
            input_channels=channels,
            classes=classes,
            stem_channels=int(random.integers(1, 17)),
            head_channels=int(random.integers(1, 65)),
        )
        (architecture,) = architectures(space, space.sample(1, random))
        yield space.graph(architecture), (channels, side, side)


def counted_macs(network, images):
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(images)
    return counter.get_total_flops() / 2


def test_macs_are_half_of_what_the_flop_counter_says_and_params_are_the_weights():
    for graph, shape in random_networks(100):
        with torch.device("meta"):
            network = build_network(graph).eval()
            macs = counted_macs(network, torch.empty(1, *shape))
        costs = graph_costs(graph)
        assert costs.macs == macs
        assert costs.params == sum(parameter.numel() for parameter in network.parameters())
        linear = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
        assert costs.macs - costs.conv_macs == sum(module.weight.numel() for module in linear)


def test_activations_are_the_outputs_of_convolutions_and_linear_layers():
    counted = []
    for graph, shape in random_networks(20):
        network = build_network(graph, 0).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(lambda _, __, output: counted.append(output.numel()))
        counted.clear()
        network(torch.zeros(1, *shape))
        assert graph_costs(graph).activations == sum(counted)


CONTRACT = {
    "input": ({"out": 3},),
    "conv_bn_relu6": (
        {"in": 3, "out": 8, "kernel": 3, "stride": 1},
        {"in": 5, "out": 4, "kernel": 5, "stride": 2},
        {"in": 4, "out": 4, "kernel": 1, "stride": 1},
    ),
    "skip": (
        {"in": 6, "out": 6, "stride": 1},
        {"in": 6, "out": 9, "stride": 1},
        {"in": 6, "out": 6, "stride": 2},
        {"in": 5, "out": 7, "stride": 2},
    ),
    "sep_conv": tuple(
        {"in": 5, "out": out, "kernel": kernel, "stride": stride}
        for kernel in (3, 5, 7)
        for stride, out in ((1, 5), (2, 8))
    ),
    "dil_conv": tuple(
        {"in": 6, "out": 4, "kernel": kernel, "stride": stride, "dilation": 2} for kernel in (3, 5) for stride in (1, 2)
    ),
    "sum": ({"out": 4},),
    "concat": ({"out": 8},),
    "global_mean": ({"in": 4, "out": 4},),
    "linear": ({"in": 4, "out": 7}, {"in": 4, "out": 7, "bias": 0}),
    "conv": (
        {"in": 5, "out": 4, "kernel": 1, "stride": 1},
        {"in": 5, "out": 4, "kernel": 3, "stride": 1},
        {"in": 4, "out": 5, "kernel": 3, "stride": 2},
    ),
    "batch_norm": ({"out": 4}, {"out": 4, "ghost": 2}),
    "relu": ({"out": 4},),
    "celu": ({"out": 4}, {"out": 4, "alpha": 0.075}),
    "max_pool": ({"out": 4, "kernel": 2, "stride": 2}, {"out": 4, "kernel": 3, "stride": 3}),
    "avg_pool": ({"out": 4, "kernel": 2, "stride": 2},),
    "global_max": ({"in": 4, "out": 4},),
    "scale": ({"out": 4, "factor": 0.125},),
    "conv_bn": ({"in": 5, "out": 4, "kernel": 1, "stride": 2}, {"in": 5, "out": 4, "kernel": 3, "stride": 1}),
    "conv_bn_relu": ({"in": 5, "out": 4, "kernel": 3, "stride": 2},),
    "conv_bn_hswish": ({"in": 5, "out": 4, "kernel": 3, "stride": 2},),
    "relu_conv_bn": ({"in": 5, "out": 4, "kernel": 3, "stride": 2}, {"in": 5, "out": 5, "kernel": 1, "stride": 1}),
    "bn_relu": ({"out": 4},),
    "mbconv": tuple(
        {"in": 3, "out": 4, "kernel": kernel, "stride": stride, "expansion": expansion, "se": se, "hswish": hswish}
        for kernel, stride, expansion, se, hswish in (
            (3, 1, 1, 0, 0),
            (3, 2, 3, 0, 1),
            (5, 1, 6, 1, 1),
            (5, 2, 4, 1, 0),
        )
    ),
    "res_branch": ({"in": 5, "out": 4, "kernel": 3}, {"in": 4, "out": 4, "kernel": 5}),
    "dense_layer": ({"in": 5, "out": 4, "kernel": 3}, {"in": 4, "out": 2, "kernel": 5}),
    "transition": ({"in": 5, "out": 2, "kernel": 2, "stride": 2},),
    "shortcut": tuple(
        {"in": 4, "out": out, "kernel": 1, "stride": stride} for out, stride in ((4, 1), (6, 1), (4, 2), (6, 2))
    ),
    "zero": ({"out": 4},),
    "max_pool_same": tuple({"out": 4, "kernel": 3, "stride": stride} for stride in (1, 2)),
    "avg_pool_same": tuple({"out": 4, "kernel": 3, "stride": stride} for stride in (1, 2)),
    "resize": ({"out": 4, "to": 3}, {"out": 4, "to": 8}),
    "pad_channels": ({"in": 4, "out": 7}, {"in": 4, "out": 4}),
    "cross_conv": tuple({"in": 5, "out": 4, "kernel": 7, "stride": stride} for stride in (1, 2)),
}
"""Attributes to try; ``to`` stands for the resolution where it does not follow from the input's."""


EXPECTED = {
    "relu": lambda images, node: images.clamp(min=0),
    "celu": lambda images, node: torch.where(
        images > 0, images, node.get("alpha", 1) * torch.expm1(images / node.get("alpha", 1))
    ),
    "max_pool": lambda images, node: windows(images, node.integer("kernel")).amax(dim=(3, 5)),
    "avg_pool": lambda images, node: windows(images, node.integer("kernel")).mean(dim=(3, 5)),
    "global_max": lambda images, node: images.amax(dim=(2, 3)),
    "global_mean": lambda images, node: images.mean(dim=(2, 3)),
    "scale": lambda images, node: images * node.get("factor"),
    "zero": lambda images, node: torch.zeros_like(images),
    "max_pool_same": lambda images, node: surrounded(images, node).nan_to_num(-torch.inf).amax(dim=(4, 5)),
    "avg_pool_same": lambda images, node: surrounded(images, node).nanmean(dim=(4, 5)),
    "pad_channels": lambda images, node: torch.cat(
        [images, images.new_zeros(len(images), node.integer("out") - images.shape[1], *images.shape[2:])], dim=1
    ),
}
"""What operations without weights give."""


def windows(images, size):
    """Whole windows alone, (batch, channels, rows, size, columns, size)."""
    count = images.shape[2] // size
    return images[:, :, : count * size, : count * size].unflatten(3, (count, size)).unflatten(2, (count, size))


def surrounded(images, node):
    """Windows around each pixel or each second one, NaN beyond the edge: (batch, channels, rows, columns, ...)."""
    size, stride = node.integer("kernel"), node.integer("stride")
    padded = torch.nn.functional.pad(images, (size // 2,) * 4, value=torch.nan)
    return padded.unfold(2, size, stride).unfold(3, size, stride)


def test_the_contract_covers_every_operation():
    assert CONTRACT.keys() == OPERATIONS.keys()


def halves(op):
    """Whether an odd row or column is left out."""
    return op.endswith("_pool") or op == "transition"


@pytest.mark.parametrize(
    ("op", "attributes", "side"),
    [
        (op, one, side)
        for op, several in CONTRACT.items()
        for one in several
        for side in (1, 7, 8)
        if not (halves(op) and side < one["kernel"])
    ],
)
def test_every_operation_builds_and_costs_what_the_flop_counter_says(op, attributes, side):
    """One node between an input and nothing else; joins are given the same tensor twice."""
    stride = attributes.get("stride", 1)
    flat = op in ("global_mean", "global_max", "linear")
    resolution = side // stride if halves(op) else 1 if flat else -(-side // stride)
    resolution = attributes.get("to", resolution)
    if op in ("mbconv", "transition", "cross_conv"):
        attributes = attributes | {"input_resolution": side}
    channels = 4 if op in JOINS else attributes.get("in", attributes["out"])
    first = Node("input", (("out", channels), ("resolution", side)), "images")
    images = torch.randn(2, channels) if op == "linear" else torch.randn(2, channels, side, side)
    window = {"kernel": side} if op == "global_max" else {}
    node = Node(op, tuple({**attributes, **window, "resolution": resolution}.items()), "tested")
    if op == "input":
        graph = ArchGraph((node,), ())
    elif op in JOINS:
        copy = Node("skip", (("in", 4), ("out", 4), ("stride", 1), ("resolution", side)), "copy")
        graph = ArchGraph((first, copy, node), ((0, 1), (0, 2), (1, 2)))
    else:
        graph = ArchGraph((first, node), ((0, 1),))
    network = build_network(graph, 0).eval()
    output = network(images)
    assert counted_macs(network, images[:1]) == node_costs(node).macs
    assert node_costs(node).params == sum(parameter.numel() for parameter in network.parameters())
    if flat:
        assert output.shape == (2, attributes["out"])
    else:
        assert output.shape == (2, attributes["out"] if op != "input" else channels, resolution, resolution)
    if op == "sum":
        torch.testing.assert_close(output, 2 * images)
    if op == "concat":
        torch.testing.assert_close(output, torch.cat([images, images], dim=1))
    if op in EXPECTED:
        torch.testing.assert_close(output, EXPECTED[op](images, node))


@given(spaces_with_architecture())
@settings(max_examples=30)
def test_networks_run_forward_and_backward(given_pair):
    space, architecture = given_pair
    network = build_network(space.graph(architecture), 0)
    images = torch.randn(2, space.input_channels, space.input_size, space.input_size)
    kept = images.clone()
    network.eval()
    scores = network(images)
    assert scores.shape == (2, space.classes)
    assert torch.equal(images, kept)  # no operation works in place on a tensor that others read
    scores.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_layer_is_the_sum_of_its_operations():
    space = OpSubset(layers=(LayerSettings(channels=8, stride=2),), stem_channels=4, input_size=9, classes=3)
    network = build_network(space.graph(space.parse("111111")), 1).eval()
    images = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        stem = network.stem(images)
        parts = [network.get_submodule(f"layer1_{name}")(stem) for name in space.operations]
        expected = network.classifier(network.mean(network.head(sum(parts[1:], parts[0]))))
        torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("side", [2, 8, 32])
def test_shifted_conv_on_even_sides_is_the_published_factorized_reduce(side):
    module = ShiftedConv(3, 7)
    images = torch.randn(2, 3, side, side)
    halves = (images, module.first), (images[:, :, 1:, 1:], module.second)
    published = torch.cat([F.conv2d(half, conv.weight, stride=2) for half, conv in halves], dim=1)
    torch.testing.assert_close(module(images), published)
    assert (module.first.out_channels, module.second.out_channels) == (3, 4)


@pytest.mark.parametrize("side", [1, 7])
def test_shifted_conv_on_odd_sides_sees_a_black_edge(side):
    module = ShiftedConv(3, 4)
    images = torch.randn(2, 3, side, side)
    padded = F.pad(images, (0, 1, 0, 1))
    halves = (images, module.first), (padded[:, :, 1:, 1:], module.second)
    expected = torch.cat([F.conv2d(half, conv.weight, stride=2) for half, conv in halves], dim=1)
    assert module(images).shape == (2, 4, (side + 1) // 2, (side + 1) // 2)
    torch.testing.assert_close(module(images), expected)


@pytest.mark.parametrize("channels", [1, 4, 7])
def test_no_strided_1x1_convolution_reaches_the_library(channels):
    """The CPU library's own writes past its buffer in the weight gradient where channels are few."""
    module = ShiftedConv(channels, 4)
    assert all(conv.stride == (1, 1) for conv in (module.first, module.second))
    images = torch.randn(4, channels, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module.double(), images)


def test_weights_are_a_function_of_the_seed_and_leave_the_global_randomness_alone():
    space = OpSubset(layers=(LayerSettings(channels=8),), classes=3)
    graph = space.graph(Architecture("op_subset", (0, 1, 0, 0, 1, 0)))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (build_network(graph, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])


def plain(op, name="", **attributes):
    return operation(op, name, **{"in_": 4, "out": 4, "stride": 1, "kernel": 1, "resolution": 4, **attributes})


@pytest.mark.parametrize(
    ("nodes", "edges", "said"),
    [
        (
            (plain("input"), Node("sep_convolution")),
            ((0, 1),),
            "'sep_convolution' cannot be built; known: .*'sep_conv'",
        ),
        ((plain("input"), Node("convolve")), ((0, 1),), "operation 'convolve' cannot be built"),
        ((plain("skip"),), (), "expected one input and one output, got 0 and 1"),
        ((plain("input"), plain("input"), plain("sum")), ((0, 2), (1, 2)), "one input and one output, got 2 and 1"),
        ((plain("input"), plain("skip"), plain("skip")), ((0, 1), (0, 2)), "one input and one output, got 1 and 2"),
        ((plain("input"), plain("skip"), plain("skip", "twice")), ((0, 1), (0, 2), (1, 2)), "'twice' .* has 2 inputs"),
        ((plain("input"), Node("linear", (("in", 4),))), ((0, 1),), "attribute 'out' must be an integer, got none"),
        ((plain("input"), plain("skip"), plain("skip", "alone")), ((0, 1),), "got 1 and 2"),
    ],
)
def test_graphs_that_cannot_be_built_are_refused(nodes, edges, said):
    with pytest.raises(InputError, match=said):
        build_network(ArchGraph(nodes, edges))


def test_costs_refuse_foreign_operations():
    with pytest.raises(InputError, match=r"operation 'dil_con' cannot be built; .*Did you mean 'dil_conv'"):
        graph_costs(ArchGraph((Node("dil_con"),), ()))


def test_node_names_are_distinct_identifiers_whatever_the_nodes_are_called():
    names = ["sum_1", "", "class", "1x1", "sum_1", "sum_4", "a b", "good"]
    graph = ArchGraph(tuple(plain("sum", name) for name in names), ())
    found = node_names(graph)
    assert len(set(found)) == len(found)
    assert all(name.isidentifier() for name in found)
    assert found[0] == "sum_1"
    assert found[-1] == "good"
    assert "class" not in found


def test_node_order_does_not_matter():
    space = OpSubset(layers=(LayerSettings(channels=6),), input_size=8, classes=3)
    graph = space.graph(space.parse("110010"))
    count = len(graph.nodes)
    turned = ArchGraph(
        tuple(reversed(graph.nodes)), tuple((count - 1 - start, count - 1 - end) for start, end in graph.edges)
    )
    first, second = build_network(graph, 0).eval(), build_network(turned).eval()
    second.load_state_dict(first.state_dict())
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(first(images), second(images))
    assert graph_costs(graph) == graph_costs(turned)
