import csv
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional as F

from supernet import COST_NAMES, Architecture, InputError, NasBench201, architectures, graph_costs, sample_distinct
from supernet.nasbench201 import EDGES, OPERATION_NAMES, every_choice, indices
from supernet.network import build_network
from tests.data import TABLES
from tests.supernet.spaces import nasbench201_spaces, with_architecture

SPACE = NasBench201()
ROWS = every_choice()
TABLE = TABLES / "nasbench201.csv"
BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
needs_table = pytest.mark.skipif(not TABLE.exists(), reason="the published table is not there")


def row(text):
    return SPACE.parse(text).row()


def cell(*operations):
    """The string of a cell by the first letters of its operations."""
    names = [next(name for name in OPERATION_NAMES if name.endswith(short)) for short in operations]
    return SPACE.format(Architecture("nasbench201", tuple(map(OPERATION_NAMES.index, names))))


def test_the_string_names_the_edges_in_order():
    assert SPACE.parse(BEST).choices == (3, 3, 3, 1, 3, 2)
    assert SPACE.format(SPACE.parse(BEST)) == BEST
    assert SPACE.parse(BEST.replace("+", " + ").replace("|", " | ")) == SPACE.parse(BEST)


@given(st.integers(0, 15_624))
def test_indices_are_places_in_order(place):
    assert indices(ROWS[place : place + 1]).tolist() == [place]
    (architecture,) = architectures(SPACE, ROWS[place : place + 1])
    assert SPACE.parse(SPACE.format(architecture)) == architecture


def test_there_are_15625_members():
    assert SPACE.size == len(ROWS) == 15_625
    assert indices(ROWS).tolist() == list(range(15_625))
    assert indices(ROWS[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected 1, 2 and 3 edges, such as"),
        ("333132", "expected 1, 2 and 3 edges"),
        ("|none~0|+|none~0|+|none~0|none~1|none~2|", "expected 1, 2 and 3 edges"),
        (BEST + "|none~3|", "expected 1, 2 and 3 edges"),
        (
            BEST.replace("nor_conv_1x1", "nor_conv_5x5"),
            r"edge 2 to 3: operation 'nor_conv_5x5' is unknown; known: none",
        ),
        (BEST.replace("skip_connect", "skip_conect"), r"edge 0 to 3: .* Did you mean 'skip_connect'\?"),
        (BEST.replace("x3~0|+", "x3~1|+", 1), "edge 0 to 1: expected OPERATION~0, got 'nor_conv_3x3~1'"),
        (BEST.replace("nor_conv_1x1~2", "nor_conv_1x1"), "edge 2 to 3: expected OPERATION~2, got 'nor_conv_1x1'"),
        (BEST.replace("nor_conv_1x1~2", ""), "edge 2 to 3: expected OPERATION~2, got ''"),
        (BEST.replace("skip_connect~0", "x~y~0"), "edge 0 to 3: expected OPERATION~0, got 'x~y~0'"),
    ],
)
def test_bad_strings(text, message):
    with pytest.raises(InputError, match=message):
        SPACE.parse(text)


@pytest.mark.parametrize("side", [0, 2, 6, 30, 33])
def test_sides_that_cannot_be_halved_twice(side):
    with pytest.raises(ValidationError, match="halved twice; expected a multiple of 4, at least 4"):
        NasBench201(input_size=side)


def test_costs_by_hand():
    """Published: 1,073,466 parameters and 153.27 M MACs of the network with the best CIFAR-10 accuracy."""
    stem, last = 3 * 16 * 9 + 2 * 16, 2 * 64 + 64 * 10 + 10
    first, second = (16 + 32) * 32 * 9 + 4 * 32 + 16 * 32, (32 + 64) * 64 * 9 + 4 * 64 + 32 * 64
    fixed = stem + last + first + second
    convolution = {size: 5 * sum(size**2 * wide**2 + 2 * wide for wide in (16, 32, 64)) for size in (1, 3)}
    costs = graph_costs(SPACE.graph(SPACE.parse(BEST)))
    assert costs.params == fixed + 4 * convolution[3] + convolution[1] == 1_073_466
    reductions = ((16 + 32) * 9 + 16) * 32 * 16**2 + ((32 + 64) * 9 + 32) * 64 * 8**2
    assert costs.conv_macs == 3 * 16 * 9 * 32**2 + reductions + 5 * 3 * 16**2 * 32**2 * (4 * 9 + 1)
    assert (costs.macs - costs.conv_macs, costs.conv_macs) == (640, 153_272_320)
    assert (
        costs.activations == 5 * 5 * (16 * 32**2 + 32 * 16**2 + 64 * 8**2) + 16 * 32**2 + 3 * (32 * 256 + 64 * 64) + 10
    )


@given(with_architecture(nasbench201_spaces()))
def test_every_edge_is_built_and_counted(given_pair):
    space, architecture = given_pair
    ops = [node.op for node in space.graph(architecture).nodes]
    cells = 3 * space.cells
    convolutions = sum(choice in (2, 3) for choice in architecture.choices)
    assert ops.count("relu_conv_bn") == cells * convolutions + 4
    assert ops.count("zero") == cells * architecture.choices.count(0)
    assert ops.count("skip") == cells * architecture.choices.count(1)
    assert ops.count("avg_pool_same") == cells * architecture.choices.count(4)
    assert ops.count("sum") == 2 * cells + 2
    names = [node.name for node in space.graph(architecture).nodes]
    assert len(set(names)) == len(names)


@given(with_architecture(nasbench201_spaces()))
def test_networks_score_pictures_of_every_size(given_pair):
    space, architecture = given_pair
    network = build_network(space.graph(architecture), 0).eval()
    scores = network(torch.randn(2, space.input_channels, space.input_size, space.input_size))
    assert scores.shape == (2, space.classes)
    assert torch.isfinite(scores).all()


def test_it_calculates_what_was_published():
    """The network once more, written down by hand."""
    space = NasBench201(channels=4, cells=1, input_size=8)
    architecture = space.parse(cell("3x3", "none", "1x1", "skip_connect", "pool_3x3", "conv_3x3"))
    network = build_network(space.graph(architecture), 0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.bias.normal_(generator=generator)
    state = network.state_dict()

    def norm(x, key):
        parts = (state[f"{key}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts)

    def convolved(x, name, stride=1):
        weight = state[f"{name}.1.weight"]
        return norm(F.conv2d(F.relu(x), weight, stride=stride, padding=weight.shape[2] // 2), f"{name}.2")

    def pooled(x):
        count = F.avg_pool2d(torch.ones_like(x), 3, 1, 1)
        return F.avg_pool2d(x, 3, 1, 1) / count

    def cell_output(x, name):
        one = convolved(x, f"{name}_edge01")
        two = convolved(one, f"{name}_edge12")
        return x + pooled(one) + convolved(two, f"{name}_edge23")

    operations = ["nor_conv_3x3", "none", "nor_conv_1x1", "skip_connect", "avg_pool_3x3", "nor_conv_3x3"]
    assert [OPERATION_NAMES[choice] for choice in architecture.choices] == operations
    images = torch.randn(3, 3, 8, 8, generator=generator)
    with torch.no_grad():
        x = norm(F.conv2d(images, state["stem.0.weight"], padding=1), "stem.1")
        for stage in (1, 2):
            x = cell_output(x, f"stage{stage}_cell1")
            name = f"reduction{stage}"
            shortcut = F.conv2d(F.avg_pool2d(x, 2), state[f"{name}_shortcut.0.weight"])
            x = convolved(convolved(x, f"{name}_a", 2), f"{name}_b") + shortcut
        x = F.relu(norm(cell_output(x, "stage3_cell1"), "last.0"))
        expected = F.linear(x.mean(dim=(2, 3)), state["classifier.0.weight"], state["classifier.0.bias"])
        torch.testing.assert_close(network(images), expected)


def test_6466_networks_are_distinct():
    kept = SPACE.canonical(ROWS)
    assert len(np.unique(indices(kept))) == 6_466
    np.testing.assert_array_equal(SPACE.canonical(kept), kept)
    assert kept.dtype == np.int8
    assert SPACE.canonical(ROWS[:0]).shape == (0, 6)


@given(nasbench201_spaces())
def test_the_representative_is_the_cheapest(space):
    kept = space.canonical(ROWS)
    costs, least = space.costs(ROWS), space.costs(kept)
    for name in COST_NAMES:
        assert (least[name] <= costs[name]).all()
    cheap = [costs[name][indices(kept)] == costs[name] for name in ("macs", "params")]
    equal = cheap[0] & cheap[1]
    assert (indices(kept)[equal] <= np.flatnonzero(equal)).all()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # an identity is no step; sums have no order; what leads nowhere is nothing
        ("skip_connect none none none conv_3x3 none", "none none none conv_3x3 none none"),
        ("skip_connect none none pool_3x3 conv_1x1 none", "skip_connect none none conv_1x1 pool_3x3 none"),
        ("conv_3x3 conv_1x1 pool_3x3 skip_connect none none", "none none none skip_connect none none"),
    ],
)
def test_cells_that_are_the_same(one, other):
    first, second = (row(cell(*text.split())) for text in (one, other))
    np.testing.assert_array_equal(SPACE.canonical(first), SPACE.canonical(second))


def test_order_on_a_path_matters():
    first, second = (row(cell(*names, "none", "none", "skip_connect")) for names in (
        ("conv_3x3", "none", "pool_3x3"), ("pool_3x3", "none", "conv_3x3"),
    ))  # fmt: skip
    assert (SPACE.canonical(first) != SPACE.canonical(second)).any()


def test_cells_of_one_class_calculate_the_same():
    """Two that share no part twice, with the same weights where an operation is the same."""
    space = NasBench201(channels=2, cells=1, input_size=4)
    one = space.parse(cell("skip_connect", "none", "conv_3x3", "none", "pool_3x3", "skip_connect"))
    other = space.parse(cell("none", "conv_3x3", "none", "pool_3x3", "none", "skip_connect"))
    assert (space.canonical(one.row()) == space.canonical(other.row())).all()
    first, second = (build_network(space.graph(architecture), 0).eval() for architecture in (one, other))
    weights = {name.replace("edge12", "edge02"): value for name, value in first.state_dict().items()}
    second.load_state_dict(weights)
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(first(images), second(images))


@given(st.integers(0, 2**32))
def test_a_disguise_is_of_the_same_class(seed):
    random = np.random.default_rng(seed)
    rows = SPACE.sample(50, random)
    disguised = SPACE.disguise(rows, random)
    np.testing.assert_array_equal(SPACE.canonical(disguised), SPACE.canonical(rows))


def test_disguises_are_all_of_a_class():
    zero = np.zeros((20_000, 6), np.int8)
    own = (SPACE.canonical(ROWS) == 0).all(axis=1)
    seen = np.unique(indices(SPACE.disguise(zero, np.random.default_rng(0))))
    assert seen.tolist() == np.flatnonzero(own).tolist()


@pytest.mark.parametrize("cost", COST_NAMES)
def test_the_cheapest_of_all(cost):
    cheapest = SPACE.cheapest(cost)
    assert SPACE.costs(cheapest.row())[cost][0] == SPACE.costs(ROWS)[cost].min()
    assert (SPACE.canonical(cheapest.row()) == cheapest.row()).all()


def test_an_unknown_cost():
    with pytest.raises(InputError, match="cost 'flops' is not one of"):
        SPACE.cheapest("flops")


def test_sampling_within_limits_gives_each_class_once():
    rows = sample_distinct(SPACE, 300, np.random.default_rng(0), {"macs": 60_000_000})
    assert len(np.unique(indices(rows))) == 300
    assert (SPACE.costs(rows)["macs"] <= 60_000_000).all()


def test_a_narrower_space_has_the_same_members():
    narrow = SPACE.narrower(0.5)
    assert narrow == NasBench201(channels=8)
    assert NasBench201(channels=1).narrower(0.1) == NasBench201(channels=1)
    assert (narrow.costs(ROWS)["macs"] < SPACE.costs(ROWS)["macs"]).all()


@pytest.mark.parametrize("broken", [{"channels": 0}, {"cells": 0}, {"classes": 1}, {"depth": 3}])
def test_settings_that_make_no_network(broken):
    with pytest.raises(ValidationError):
        NasBench201(**broken)


@pytest.fixture(scope="module")
def table():
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def choices(table):
    return np.array([SPACE.parse(line["arch"]).choices for line in table], np.int8)


@needs_table
class TestPublishedTable:
    def test_it_has_every_member_once(self, table, choices):
        assert sorted(indices(choices).tolist()) == list(range(15_625))
        for line, architecture in zip(table[:500], architectures(SPACE, choices[:500]), strict=True):
            assert SPACE.format(architecture) == line["arch"]

    def test_parameters_are_equal_with_all_norms(self, table, choices):
        assert SPACE.costs(choices)["params"].tolist() == [int(line["params_c10"]) for line in table]

    def test_macs_are_equal_but_for_the_biases_of_the_classifier(self, table, choices):
        """The table counts an operation for each of the classifier's 640 weights and 10 biases."""
        costs = SPACE.costs(choices)
        published = [round(float(line["mmacs_c10"]) * 1e6) for line in table]
        assert (costs["macs"] + 10).tolist() == published
        assert (costs["conv_macs"] + 650).tolist() == published

    def test_classes_are_those_of_its_canonical_strings(self, table, choices):
        own = indices(SPACE.canonical(choices)).tolist()
        pairs = set(zip(own, (line["canonical"] for line in table), strict=True))
        assert len(pairs) == len({one for one, _ in pairs}) == len({text for _, text in pairs}) == 6_466


def test_edges_lead_from_every_node_to_all_later_ones():
    assert sorted(EDGES) == list(itertools.combinations(range(4), 2))
