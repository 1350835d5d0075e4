from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from supernet import Architecture, HandMade, InputError, graph_costs
from supernet.handmade import FAMILIES, closest_handmade
from supernet.network import build_network

SPACE = HandMade()
TINY = HandMade(input_size=8, input_channels=1, classes=10)
families = st.sampled_from(FAMILIES)
indices = st.integers(0, 1295)


def architecture(family, index):
    return Architecture("handmade", (FAMILIES.index(family), index // 36, index % 36))


def rows(family, indices_):
    return np.concatenate([architecture(family, index).row() for index in indices_])


def nodes(space, text):
    return space.graph(space.parse(text)).nodes


@pytest.mark.parametrize("side", [4, 8, 32, 96])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_networks_calculate_and_cost_what_the_space_says(family, side):
    space = HandMade(input_size=side, input_channels=2, classes=7)
    one = closest_handmade(space, family, 10_000 * side**2)[0]
    graph = space.graph(one)
    network = build_network(graph, 0).eval()
    with FlopCounterMode(display=False) as counter:
        assert network(torch.randn(2, 2, side, side)).shape == (2, 7)
    costs = {name: int(values[0]) for name, values in space.costs(one.row()).items()}
    assert counter.get_total_flops() == 2 * 2 * costs["macs"]
    assert sum(weights.numel() for weights in network.parameters()) == costs["params"]
    assert costs == graph_costs(graph)._asdict()


@pytest.mark.parametrize("side", [5, 11, 65, 131, 1024])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_sides_on_the_nodes_are_those_of_the_tensors(family, side):
    graph = HandMade(input_size=side).graph(architecture(family, 0))
    network, sides = build_network(graph, 0).eval(), {}
    for name, module in network.named_children():
        module.register_forward_hook(lambda _, __, output, name=name: sides.__setitem__(name, output.shape[1:]))
    network(torch.randn(1, 3, side, side))
    for node in graph.nodes:
        if node.name in sides and node.op not in ("global_mean", "linear"):
            assert sides[node.name] == (node.integer("out"), node.integer("resolution"), node.integer("resolution"))
    last = min(node.integer("resolution") for node in graph.nodes[:-2])
    assert 4 <= last <= 17
    assert all(node.integer("resolution") <= 64 for node in graph.nodes[5:])


@pytest.mark.parametrize(
    ("family", "published"),
    [
        # 3x3 convolutions of VGG-16 and its norms; the fully connected layers are one of 512 to 10 here.
        ("vgg", 14_710_464 + 2 * 4224 + 5130),
        (
            "resnet",
            432 + 4 * 2304 + 4608 + 3 * 9216 + 18_432 + 3 * 36_864 + 512 + 2048 + 2 * (16 + 64 + 160 + 320) + 650,
        ),
    ],
)
def test_width_1_is_published(family, published):
    assert HandMade(classes=10).costs(SPACE.parse(f"{family} x1").row())["params"][0] == published


def test_densenet_and_mobilenet_at_width_1_have_the_published_channels():
    dense = [node.integer("out") for node in nodes(SPACE, "densenet x1") if node.op == "dense_layer"]
    assert dense == [12] * 12
    widths = [node.integer("in") for node in nodes(SPACE, "densenet x1") if node.op in ("transition", "bn_relu")]
    assert widths == [24 + 48, 36 + 48, 42 + 48]
    mobile = [node for node in nodes(SPACE, "mobilenet x1") if node.op == "mbconv"]
    assert [node.integer("out") for node in mobile] == [
        16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320,
    ]  # fmt: skip
    assert [node.integer("expansion") for node in mobile] == [1, *[6] * 16]
    assert sum(node.op == "sum" for node in nodes(SPACE, "mobilenet x1")) == 10


@pytest.mark.parametrize("family", FAMILIES)
def test_a_halving_that_leaves_fewer_than_4_pixels_is_left_out(family):
    def sides(size):
        found = [node.integer("resolution") for node in nodes(HandMade(input_size=size), f"{family} x0.5")]
        return set(found[:-2])

    assert sides(4) == {4}
    assert sides(8) == {8, 4}
    assert sides(32) == ({32, 16, 8} if family in ("resnet", "densenet") else {32, 16, 8, 4})
    assert {256, 128, 64} <= sides(256)


@pytest.mark.parametrize("space", [SPACE, TINY], ids=["colour", "gray"])
@pytest.mark.parametrize("family", FAMILIES)
def test_costs_rise_with_the_width_and_the_representative_is_the_first(family, space):
    every = rows(family, range(0, 1296, 3))
    canonical = space.canonical(every).astype(int)
    places = canonical[:, 1] * 36 + canonical[:, 2]
    assert (places <= np.arange(0, 1296, 3)).all()
    for values in space.costs(every).values():
        assert ((np.diff(values) > 0) == (np.diff(places) > 0)).all()
        assert (np.diff(values) >= 0).all()


def test_from_very_cheap_to_very_expensive():
    for family in FAMILIES:
        least, most = architecture(family, 0).row(), architecture(family, 1295).row()
        assert TINY.costs(least)["macs"][0] < 50_000
        assert SPACE.costs(most)["macs"][0] > 2 * 10**9


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("space", "target", "tolerance"),
    [
        *[(SPACE, target, 0.05) for target in (500_000, 1_000_000, 5_000_000, 15_000_000, 60_000_000)],
        *[(TINY, target, 0.1) for target in (300_000, 1_000_000)],
    ],
)
def test_a_number_of_macs_is_met(family, space, target, tolerance):
    found, macs = closest_handmade(space, family, target)
    assert space.costs(found.row())["macs"][0] == macs
    assert abs(macs - target) <= tolerance * target


@pytest.mark.parametrize("family", FAMILIES)
def test_none_is_closer_than_the_closest(family):
    every = TINY.costs(rows(family, range(1296)))["macs"]
    distinct = np.unique(every)
    middle = next(pair for pair in pairwise(distinct) if sum(pair) % 2 == 0)
    targets = (0, 10**5, 123_456, 10**6, 10**12, sum(middle) // 2)
    for target in targets:
        found, macs = closest_handmade(TINY, family, int(target))
        assert abs(macs - target) == np.abs(every - target).min()
        assert (TINY.canonical(found.row()) == found.row()).all()
    assert macs == middle[1]  # the wider of two that are equally near


def test_the_closest_of_an_unknown_family_is_refused():
    with pytest.raises(InputError, match=r"family 'resnett' is unknown; .*Did you mean 'resnet'"):
        closest_handmade(SPACE, "resnett", 10**6)


@given(families, indices)
def test_every_width_has_a_text_of_its_own(family, index):
    one = architecture(family, index)
    assert SPACE.parse(SPACE.format(one)) == one


def test_texts():
    assert SPACE.format(SPACE.parse("resnet x1")) == "resnet x1"
    assert SPACE.format(SPACE.parse(" vgg  x0.25\n")) == "vgg x0.25"
    assert SPACE.format(architecture("resnet", 0)) == "resnet x0.0314"
    assert SPACE.format(architecture("mobilenet", 1295)) == "mobilenet x16"
    assert SPACE.option_name(0, 2) == "family densenet"
    assert SPACE.option_name(2, 7) == "fine width 7"
    assert SPACE.size == 4 * 1296


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "family '' is unknown; known: vgg, resnet, densenet, mobilenet"),
        ("resnt x1", "family 'resnt' is unknown; .*Did you mean 'resnet'"),
        ("resnet", r"expected a width from x0\.0314 to x16, such as 'resnet x1', got ''"),
        ("vgg 1", "got '1'"),
        ("vgg x5", "expected a width from x0.004.* to x4, .*got 'x5'"),
        ("vgg x0", "got 'x0'"),
        ("vgg x-1", "got 'x-1'"),
        ("vgg xnan", "got 'xnan'"),
        ("vgg x\N{ARABIC-INDIC DIGIT ONE}", "expected a width"),
        ("vgg x1 x2", "got 'x1 x2'"),
    ],
)
def test_text_that_is_no_architecture_is_refused(text, said):
    with pytest.raises(InputError, match=said):
        SPACE.parse(text)


@pytest.mark.parametrize("wrong", [{"input_size": 0}, {"input_size": 1025}, {"kind": "vgg"}, {"widths": [1]}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValidationError):
        HandMade.model_validate(wrong)
