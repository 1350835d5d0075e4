import csv
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional as F

from supernet import (
    COST_NAMES,
    Architecture,
    Families,
    InputError,
    architectures,
    feasible_share,
    graph_costs,
    sample_distinct,
)
from supernet.export import network_source
from supernet.families import used_nodes
from supernet.network import build_network
from supernet.sampling import feasible
from tests.data import TABLES
from tests.supernet.spaces import families_spaces, with_architecture

TABLE = TABLES / "random_families_cifar10c.csv"
with_table = pytest.mark.skipif(not TABLE.exists(), reason="the published table is not here")

TINY = Families(
    family="resnet", depth=(1, 3), channels=(2,), kernels=(3,), max_pools=1, stem_channels=3, input_size=8, classes=4
)
SHORT = Families(
    family="resnet", depth=(1, 12), channels=(2, 4, 6), kernels=(1, 3), stem_channels=4, input_size=9, classes=5
)
DENSE = Families(
    family="densenet", depth=(1, 7), growths=(2, 3), layers=(1, 2), kernels=(1, 3), stem_channels=5, input_size=8,
    classes=5,
)  # fmt: skip


def every(space):
    """All valid rows."""
    rows = np.array(list(itertools.product(*map(range, space.cardinalities))), dtype=np.int8)
    return rows[space.is_valid(rows)]


def nodes(space, text):
    return space.graph(space.parse(text)).nodes


def ops(space, text):
    return [node.op for node in nodes(space, text)]


def rows_of_the_table():
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@with_table
def test_every_chain_of_the_published_table_is_read_and_counted():
    spaces = {
        "resnet": Families(family="resnet", depth=(19, 65), classes=10),
        "densenet": Families(family="densenet", depth=(1, 6), stem="large", classes=10),
    }
    rows = rows_of_the_table()
    assert len(rows) == 3653
    for number, row in enumerate(rows):
        space = spaces[row["family"]]
        architecture = space.parse(row["arch"])
        words = space.format(architecture).split()
        assert space.convolutions(architecture) == int(row["num_conv_layers"])
        assert len(words) == int(row["num_depth"]) - 1  # the linear layer is counted there
        # Of a ResNet every second node is used, and of the last two the first.
        assert number % 8 or used_nodes(row["arch"]).split() == (
            words if row["family"] == "densenet" else words[len(words) % 2 :: 2]
        )


@with_table
def test_the_accuracies_of_published_resnets_go_by_the_nodes_that_are_used():
    shares = {}
    for row in rows_of_the_table():
        if row["family"] == "resnet" and row["num_train"] in ("1000", "5000", "25000"):
            used = used_nodes(row["arch"]).count("sep")
            unused = row["arch"].count("SepBlock") - used
            shares.setdefault(row["num_train"], []).append((used, unused, float(row["normal"])))
    for values in shares.values():
        used, unused, accuracy = np.array(values).T
        assert np.corrcoef(used, accuracy)[0, 1] < -0.25
        assert abs(np.corrcoef(unused, accuracy)[0, 1]) < 0.15


def test_a_published_list_is_read():
    space = Families(depth=(2, 5))
    text = "[['input', 0, 0], ['S_SepBlock_32_5', 0, 0], ['Max_Pool', 0, 0], ['Sum', 1, 1], ['full', 2, 2]]"
    assert space.format(space.parse(text)) == "sep32x5 max sum"
    assert space.format(space.parse(f"  {text}\n")) == "sep32x5 max sum"
    assert used_nodes(text) == "max"
    text = "[['input', 0], ['S_DenseBlock_16_3_5', 0], ['S_DenseBlock_64_12_3', 1], ['full', 2]]"
    dense = Families(family="densenet")
    assert dense.format(dense.parse(text)) == "dense16x3x5 dense64x12x3" == used_nodes(text)
    assert dense.convolutions(dense.parse(text)) == 2 * (3 + 12) + 1
    assert space.convolutions(space.parse("sep32x5 res16x3 max avg sum")) == 6


def test_blanks_mean_nothing():
    assert SHORT.parse(" sep2x1\tmax\n  sum ") == SHORT.parse("sep2x1 max sum")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"expected 1 to 12 nodes \(depth\), got 0"),
        ("sum " * 13, r"expected 1 to 12 nodes \(depth\), got 13"),
        ("max avg sum max max", r"expected at most 3 pools \(max_pools\), got 4"),
        ("sum sep2x3 sep2x4", "node 3: block 'sep2x4' is not one of family 'resnet'; .* Did you mean 'sep2x"),
        ("sum, sum", "node 1: block 'sum,'"),
        ("dense2x2x3", "node 1: block 'dense2x2x3' is not one of family 'resnet'"),
        ("sep٢x3", "node 1: block"),
        ("x" * 20_000, "expected at most 16384 characters, got 20000"),
        ("[" * 20_000, "expected at most 16384 characters, got 20000"),
        ("[" * 10_000, "expected a list such as"),
        ("[['input', 0, 0], __import__('os')]", "expected a list such as"),
        ("[]", "expected 'input' first, 'full' last"),
        ("[['input', 0, 0], ['full', 0, 0]]", "nodes between them"),
        ("[['input', 0], ['Sum', 0], ['Sum', 0], ['full', 0]]", "its numbers are no chain's: .* got .0, 0, 0."),
        ("[['input', 0], ['Sum', 0, 1], ['full', 1]]", "entry 1: expected a name and one number or the same twice"),
        ("[['input', 0], ['Sum', True], ['full', 1]]", "entry 1: expected a name"),
        ("[['input', 0], [['Sum'], 0], ['full', 1]]", "entry 1: expected a name"),
        ("[['input', 0], 'Sum', ['full', 1]]", "entry 1: expected a name"),
        ("[['input', 0], ['S_SepBlock_2_7', 0], ['full', 1]]", "Did you mean 'S_SepBlock_2_"),
    ],
)
def test_text_that_is_no_chain_is_refused(text, said):
    with pytest.raises(InputError, match=said):
        SHORT.parse(text)


def test_rows_that_are_no_chain_say_why():
    for choices, said in (((0, 0, 0), "expected 1 to 3 nodes .*, got 0"), ((4, 0, 5), "at most 1 pools .*, got 2")):
        with pytest.raises(InputError, match=said):
            TINY.graph(Architecture("families", choices))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"input_size": 7}, r"input_size 7 is too small for 3 pools \(max_pools\); expected at least 8"),
        ({"input_size": 3, "family": "densenet", "stem": "large"}, "strides of the large stem; expected at least 4"),
        ({"stem": "large"}, "stem 'large' is not one of family 'resnet'; expected none and small"),
        ({"stem": "none", "family": "densenet"}, "stem 'none' is not one of family 'densenet'"),
        ({"family": "alexnet"}, "'vgg', 'resnet' or 'densenet'"),
        ({"depth": (5, 4)}, "expected least and most, got 5 above 4"),
        ({"depth": (0, 4)}, "greater than or equal to 1"),
        ({"depth": (1, 101)}, "less than or equal to 100"),
        ({"kernels": (3, 4)}, "a kernel is even"),
        ({"kernels": ()}, "at least 1"),
        ({"channels": (8, 8)}, "named twice"),
        ({"channels": tuple(range(1, 19)), "kernels": (3,)}, "39 blocks are too many for a slot; expected at most 35"),
        ({"max_pools": -1}, "greater than or equal to 0"),
        ({"blocks": 3}, "Extra inputs"),
    ],
)
def test_settings_are_checked(wrong, said):
    with pytest.raises(ValidationError, match=said):
        Families.model_validate(wrong)


def test_each_family_has_its_blocks_and_depth():
    assert [len(Families(family=family).cardinalities) for family in ("vgg", "resnet", "densenet")] == [70, 70, 7]
    assert [Families(family=family).cardinalities[0] for family in ("vgg", "resnet", "densenet")] == [9, 16, 25]
    assert Families.model_validate({"family": "densenet", "depth": [3, 4]}).depth == (3, 4)
    assert Families(family="densenet", input_size=1).size == sum(24**depth for depth in range(2, 8))


def test_the_network_of_a_chain_calculates_what_its_words_say():
    """The blocks once more, written down by hand."""
    text = "sum sep4x3 sum res2x3 max sum res6x1 avg sum sep2x3 sum"
    network = build_network(SHORT.graph(SHORT.parse(text)), 0).eval()
    state = network.state_dict()
    x = torch.randn(3, 3, 9, 9)

    def conv(x, name, groups=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, padding=weight.shape[2] // 2, groups=groups)

    def norm(x, name):
        mean, variance, weight, bias = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias)

    def sep(x, name):
        for first in (0, 4):
            x = conv(F.relu(x), f"{name}.{first + 1}", groups=x.shape[1])
            x = norm(conv(x, f"{name}.{first + 2}"), f"{name}.{first + 3}")
        return x

    def plus(x, y):
        wide = max(x.shape[1], y.shape[1])
        return sum(torch.cat([term, torch.zeros(3, wide - term.shape[1], *x.shape[2:])], dim=1) for term in (x, y))

    def res(x, name):
        branch = F.relu(norm(conv(x, f"{name}_branch.0"), f"{name}_branch.1"))
        return F.relu(plus(norm(conv(branch, f"{name}_branch.3"), f"{name}_branch.4"), x))

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        values = [x, F.relu(norm(conv(x, "stem.0"), "stem.1"))]
        values.append(plus(values[-1], values[-2]))
        values.append(sep(values[-1], "node2"))
        values.append(plus(values[-1], values[-2]))
        values.append(res(values[-1], "node4"))
        values.append(F.max_pool2d(values[-1], 2))
        values.append(plus(values[-1], F.max_pool2d(values[-2], 2)))
        values.append(res(values[-1], "node7"))
        assert values[-1].shape == (3, 6, 4, 4)
        values.append(F.avg_pool2d(values[-1], 2))
        values.append(plus(values[-1], F.max_pool2d(values[-2], 2)))
        values.append(sep(values[-1], "node10"))
        values.append(plus(values[-1], values[-2]))
        mean = values[-1].mean(dim=(2, 3))
        expected = F.linear(mean, state["classifier.0.weight"], state["classifier.0.bias"])
        torch.testing.assert_close(network(x), expected)


def test_a_first_sum_without_a_stem_adds_nothing():
    space = Families(**{**SHORT.model_dump(), "stem": "none"})
    assert ops(space, "sum sum") == ["input", "sum", "sum", "global_mean", "linear"]
    assert space.graph(space.parse("sum sum")).edges == ((0, 1), (1, 2), (0, 2), (2, 3), (3, 4))
    images = torch.randn(2, 3, 9, 9)
    network = build_network(space.graph(space.parse("sum sum")), 0)
    torch.testing.assert_close(network(images), network.classifier(2 * images.mean(dim=(2, 3))))


def test_a_dense_net_is_made_of_layers_and_transitions():
    assert ops(DENSE, "dense2x2x3 dense3x1x1") == [
        "input", "conv_bn_relu", *["dense_layer", "concat"] * 2, "transition", "dense_layer", "concat",
        "bn_relu", "global_mean", "linear",
    ]  # fmt: skip
    graph = nodes(DENSE, "dense2x2x3 dense3x1x1")
    assert [node.integer("out") for node in graph] == [3, 5, 2, 7, 2, 9, 4, 3, 7, 7, 7, 5]


def test_a_picture_of_one_pixel_is_not_pooled_any_more():
    found = nodes(DENSE, " ".join(["dense2x1x3"] * 7))
    transitions = [node for node in found if node.name.startswith("transition") and not node.name.endswith("norm")]
    assert [node.integer("resolution") for node in transitions] == [4, 2, 1, 1, 1, 1]
    assert [node.op for node in transitions] == ["transition"] * 3 + ["conv"] * 3


@pytest.mark.parametrize(("side", "first"), [(32, 8), (33, 9), (4, 1), (7, 2)])
def test_the_large_stem_quarters_the_side(side, first):
    space = Families(**{**DENSE.model_dump(), "stem": "large", "input_size": side})
    graph = space.graph(space.parse("dense2x1x3 dense2x1x3 dense3x2x1"))
    stem = next(node for node in graph.nodes if node.op == "max_pool_same")
    assert stem.integer("resolution") == first
    network = build_network(graph, 0)
    with torch.no_grad():
        assert network.stem_pool(network.stem(torch.randn(2, 3, side, side))).shape == (2, 5, first, first)
        assert network(torch.randn(2, 3, side, side)).shape == (2, 5)


@given(with_architecture(families_spaces()))
@settings(max_examples=30)
def test_networks_train_and_are_exported(given_pair):
    space, architecture = given_pair
    graph = space.graph(architecture)
    network = build_network(graph, 0)
    images = torch.randn(4, space.input_channels, space.input_size, space.input_size)
    network(images).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    source: dict[str, object] = {"__name__": "model"}
    exec(compile(network_source(graph, "a network"), "model.py", "exec"), source)
    copy = source["Network"]()
    copy.load_state_dict(network.state_dict())
    torch.testing.assert_close(copy.eval()(images), network.eval()(images))


@pytest.mark.parametrize("family", ["vgg", "resnet", "densenet"])
@pytest.mark.parametrize("cost", COST_NAMES)
def test_the_cheapest_is_found_and_all_are_costed(family, cost):
    # So many classes that the last block decides; the cheapest chain is then not the shortest.
    space = Families(
        family=family, depth=(2, 4), channels=(2, 5), kernels=(3,), growths=(1, 4), layers=(1, 3), max_pools=2,
        stem_channels=9, input_size=6, classes=300,
    )  # fmt: skip
    rows = every(space)
    rows = rows[(rows == space.canonical(rows)).all(axis=1)]
    assert len(rows) == space.size
    costs = space.costs(rows)
    assert space.costs(space.cheapest(cost).row())[cost][0] == costs[cost].min()
    for place in range(0, len(rows), 97):
        (architecture,) = architectures(space, rows[place : place + 1])
        assert tuple(int(costs[name][place]) for name in COST_NAMES) == graph_costs(space.graph(architecture))


def test_long_chains_are_costed():
    for family in ("vgg", "resnet", "densenet"):
        space = Families(family=family, classes=10, input_size=33)
        rows = space.sample(4, np.random.default_rng(5))
        costs = space.costs(rows)
        for place, architecture in enumerate(architectures(space, rows)):
            assert tuple(int(costs[name][place]) for name in COST_NAMES) == graph_costs(space.graph(architecture))


def chances(space, rows):
    """The chance of each valid row, from the words of the law: depth, then filling, then slots."""
    least, most = space.depth
    depths = (rows > 0).sum(axis=1)
    fillings = {
        depth: len({row.tobytes() for row in space.canonical(rows[depths == depth])})
        for depth in range(least, most + 1)
    }
    return np.array([1 / (most - least + 1) / fillings[depth] / math.comb(most, depth) for depth in depths.tolist()])


def keys(rows):
    """Each row as a number."""
    return rows.astype(np.int64) @ (10 ** np.arange(rows.shape[1]))


def test_samples_follow_the_law():
    rows = every(TINY)
    law = chances(TINY, rows)
    assert abs(law.sum() - 1) < 1e-12
    assert TINY.size == len(np.unique(keys(TINY.canonical(rows))))
    density = np.exp(TINY.log_density(rows))
    np.testing.assert_allclose(density / density.sum(), law, rtol=1e-9)
    drawn = keys(TINY.sample(200_000, np.random.default_rng(1)))
    counts = np.array([(drawn == key).sum() for key in keys(rows).tolist()])
    assert counts.sum() == 200_000
    # Chi-square with so many degrees of freedom stays within four and a half deviations.
    freedom = len(rows) - 1
    assert ((counts - 200_000 * law) ** 2 / (200_000 * law)).sum() < freedom + 4.5 * math.sqrt(2 * freedom)


def test_disguises_are_uniform_and_of_the_same_chain():
    row = TINY.parse("sep2x3 sum").row()
    rows = TINY.disguise(np.repeat(row, 9000, axis=0), np.random.default_rng(2))
    assert (TINY.canonical(rows) == row).all()
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    assert len(counts) == 3
    assert abs(counts - 3000).max() < 200


def test_depths_of_the_published_sizes_are_uniform():
    for family, (least, most) in (("vgg", (20, 70)), ("densenet", (2, 7))):
        space = Families(family=family)
        rows = space.sample(20_000, np.random.default_rng(3))
        assert space.is_valid(rows).all()
        depths = np.bincount((rows > 0).sum(axis=1), minlength=most + 1)[least:]
        expected = 20_000 / len(depths)
        assert ((depths - expected) ** 2 / expected).sum() < len(depths) + 4.5 * math.sqrt(2 * len(depths))


def test_under_a_tight_limit_the_law_is_kept_by_the_levels():
    space = Families(
        family="vgg", depth=(4, 6), channels=(2, 8, 16, 24), kernels=(3,), max_pools=1, stem_channels=2, input_size=8,
        classes=3,
    )  # fmt: skip
    rows = every(space)
    law = chances(space, rows)
    macs = space.costs(rows)["macs"]
    order = np.argsort(macs, kind="stable")
    limit = int(macs[order][np.searchsorted(law[order].cumsum(), 0.0042)])
    fits = macs <= limit
    share = law[fits].sum()
    assert 0.003 < share < 0.005  # below which draws are made by levels
    assert len(np.unique((rows[fits] > 0).sum(axis=1))) > 1
    exact = dict.fromkeys(keys(space.canonical(rows[fits])).tolist(), 0.0)
    for key, chance in zip(keys(space.canonical(rows[fits])).tolist(), law[fits].tolist(), strict=True):
        exact[key] += chance / share
    batches = list(itertools.islice(feasible(space, {"macs": limit}, np.random.default_rng(4)), 45))
    drawn = np.concatenate([batch for batch, spent in batches if spent == batches[-1][1]])
    assert len(drawn) > 30 * 1024
    assert (space.costs(drawn)["macs"] <= limit).all()
    depths = np.bincount((drawn > 0).sum(axis=1), minlength=7) / len(drawn)
    wanted = np.bincount((rows[fits] > 0).sum(axis=1), weights=law[fits], minlength=7) / share
    assert abs(depths - wanted).max() < 0.02
    found = keys(drawn)
    for key, chance in exact.items():
        if chance > 0.02:
            assert 0.8 < (found == key).mean() / chance < 1.25
    assert 0.6 < feasible_share(space, {"macs": limit}, np.random.default_rng(5)) / share < 1.6


def test_distinct_chains_are_all_found():
    rows = sample_distinct(TINY, TINY.size, np.random.default_rng(6))
    assert len(rows) == TINY.size
    assert len({TINY.format(one) for one in architectures(TINY, rows)}) == TINY.size


@given(st.integers(0, 2**32))
@settings(max_examples=20)
def test_a_change_puts_in_or_takes_out_anywhere(seed):
    random = np.random.default_rng(seed)
    parents = SHORT.sample(200, random)
    children = SHORT.mutate(parents, random)
    crossed = SHORT.crossover(parents, parents[::-1], random)
    assert SHORT.is_valid(children).all()
    assert SHORT.is_valid(crossed).all()
    inner = 0
    for parent, child in zip(SHORT.canonical(parents).tolist(), SHORT.canonical(children).tolist(), strict=True):
        before, after = [one for one in parent if one], [one for one in child if one]
        inner += len(after) == len(before) + 1 and after[: len(before)] != before
    assert inner > 5


@given(st.floats(0.5, 1))
@settings(max_examples=8)
def test_a_narrower_space_has_the_same_chains_with_fewer_channels(factor):
    for family in ("resnet", "densenet"):
        space = Families(family=family, depth=(2, 5))
        narrow = space.narrower(factor)
        assert narrow.cardinalities == space.cardinalities
        rows = space.sample(5, np.random.default_rng(7))
        costs = [one.costs(rows)["macs"] for one in (narrow, space)]
        assert (costs[0] <= costs[1]).all()
        kept = {"channels", "growths", "stem_channels"}
        assert narrow.model_dump(exclude=kept) == space.model_dump(exclude=kept)


def test_a_space_can_be_too_narrow():
    with pytest.raises(InputError, match=r"families: at 0\.01 of its width two options become the same"):
        Families().narrower(0.01)


def test_a_sum_that_changes_nothing_is_drawn_as_often_as_others():
    space = Families(family="resnet", stem="none", depth=(1, 2), channels=(2,), kernels=(3,), max_pools=0)
    rows = space.sample(3000, np.random.default_rng(0)).tolist()
    # Half of the chains have two blocks, and a ninth of those each pair of the three.
    assert all(110 < rows.count([3, other]) < 230 for other in (1, 2, 3))
