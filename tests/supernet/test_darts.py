import ast
import csv
import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional as F

from supernet import COST_NAMES, Architecture, Darts, InputError, architectures, graph_costs, sample_distinct
from supernet.export import network_source
from supernet.network import build_network
from tests.data import TABLES
from tests.supernet.spaces import darts_spaces, with_architecture

SPACE = Darts()
DARTS_V1 = (
    "normal sep_conv_3x3@0+sep_conv_3x3@1 skip_connect@0+sep_conv_3x3@1 skip_connect@0+sep_conv_3x3@1 "
    "sep_conv_3x3@0+skip_connect@2 "
    "reduce max_pool_3x3@0+max_pool_3x3@1 max_pool_3x3@0+skip_connect@2 max_pool_3x3@0+skip_connect@2 "
    "avg_pool_3x3@0+skip_connect@2"
)
DARTS_V2 = (
    "normal sep_conv_3x3@0+sep_conv_3x3@1 sep_conv_3x3@0+sep_conv_3x3@1 skip_connect@0+sep_conv_3x3@1 "
    "skip_connect@0+dil_conv_3x3@2 "
    "reduce max_pool_3x3@0+max_pool_3x3@1 max_pool_3x3@1+skip_connect@2 max_pool_3x3@0+skip_connect@2 "
    "max_pool_3x3@1+skip_connect@2"
)
PC_DARTS = (
    "normal skip_connect@0+sep_conv_3x3@1 sep_conv_3x3@0+dil_conv_3x3@1 sep_conv_5x5@0+sep_conv_3x3@1 "
    "avg_pool_3x3@0+dil_conv_3x3@1 "
    "reduce max_pool_3x3@0+sep_conv_5x5@1 sep_conv_5x5@1+sep_conv_5x5@2 sep_conv_3x3@0+sep_conv_3x3@3 "
    "sep_conv_3x3@1+sep_conv_3x3@2"
)
# The only genotype with every kind of operation in both cells, by hand.
MIXED = (
    "normal dil_conv_5x5@0+avg_pool_3x3@1 sep_conv_3x3@0+skip_connect@2 max_pool_3x3@1+sep_conv_5x5@3 "
    "dil_conv_3x3@3+skip_connect@4 "
    "reduce skip_connect@0+dil_conv_5x5@1 avg_pool_3x3@0+sep_conv_3x3@2 max_pool_3x3@1+skip_connect@3 "
    "sep_conv_5x5@1+dil_conv_3x3@4"
)
AUXILIARY = 128 * 576 + 2 * 128 + 768 * 128 * 4 + 2 * 768 + 768 * 10 + 10
"""Weights of the auxiliary head of a published network with ten classes."""


def genotype(text):
    """The published form of what ``format`` writes."""
    words = text.split()
    pairs = {
        kind: [[name, int(number)] for word in part for name, _, number in (t.partition("@") for t in word.split("+"))]
        for kind, part in (("normal", words[1:5]), ("reduce", words[6:]))
    }
    return {**pairs, "normal_concat": [2, 3, 4, 5], "reduce_concat": [2, 3, 4, 5]}


@pytest.mark.parametrize(
    ("text", "params", "macs"),
    [(DARTS_V1, 3_169_414, 500_987_520), (DARTS_V2, 3_349_342, 528_359_040), (PC_DARTS, 3_634_678, 556_670_592)],
)
def test_published_networks_have_their_published_sizes(text, params, macs):
    """3.3 million for DARTS (second order), 3.6 for PC-DARTS."""
    graph = SPACE.graph(SPACE.parse(text))
    costs = graph_costs(graph)
    assert (costs.params, costs.macs, costs.conv_macs) == (params, macs, macs - 576 * 10)
    assert {name: int(values[0]) for name, values in SPACE.costs(SPACE.parse(text).row()).items()} == costs._asdict()
    assert len(graph.nodes) == 2 + 20 * 15 + 2


def test_the_size_of_the_second_order_network_by_hand():
    """A normal cell has five 3x3 separable convolutions and a dilated one; a reduction cell pools and skips."""
    total, width, before = 3 * 108 * 9 + 2 * 108, 36, [108, 108]
    for cell in range(20):
        reduces = cell in (6, 13)
        width *= 1 + reduces
        total += sum(channels * width + 2 * width for channels in before)
        depthwise = 9 * width + width * width
        total += 0 if reduces else 5 * (2 * depthwise + 4 * width) + depthwise + 2 * width
        before = [before[1], 4 * width]
    assert total + 576 * 10 + 10 == 3_349_342


@pytest.mark.skipif(not TABLES.exists(), reason="the published tables are not here")
@pytest.mark.parametrize(
    ("file", "rows", "head"),
    [
        ("logs_batch_train_cifar10_l1_loss_l2_fix_table.csv", 12, AUXILIARY),
        ("logs_batch_train_cifar10_l1_loss_table.csv", 8, AUXILIARY),
        ("logs_batch_train_cifar10_l2_loss_table.csv", 16, AUXILIARY),
        ("logs_batch-train-EXP-20221010-234054_cifar100.csv", 6, AUXILIARY),
        ("logs_multi-search-EXP-20210815-160715_l1_l2_fix_cifar10.csv", 12, 0),
        ("logs_multi-search-EXP-20220716-171022_l1_l2_fix_cifar100.csv", 19, 0),
    ],
)
def test_every_size_of_the_published_tables(file, rows, head):
    """FLOPs there are our macs. Parameters are of ten classes throughout, in four of six tables with the second head.

    The tables of the searches write L1_loss_X for l1_loss_X_l2_3e04, without naming the data set.
    """
    folder = TABLES / "mood_nas"
    known = json.loads((folder / "genotypes.json").read_text())
    found, wide = 0, Darts(classes=100 if "cifar100" in file else 10)
    with (folder / file).open() as lines:
        for row in csv.DictReader(lines):
            name = row["Model name"]
            if name.startswith("L1"):
                name = f"l{name[1:]}_l2_3e04" + "_cifar100" * ("cifar100" in file)
            if name not in known:
                assert name == "l2_loss_6e02"
                continue
            costs = graph_costs(SPACE.graph(SPACE.parse(json.dumps(known[name]))))
            assert (int(row["Parameters"]), int(row["FLOPs"])) == (costs.params + head, costs.macs), name
            if "multi-search" in file:  # this column, in millions, has the data set's own classes
                own = wide.costs(SPACE.parse(json.dumps(known[name])).row())["params"][0]
                assert float(row["Params"]) == pytest.approx(own / 1e6, abs=1e-9)
            found += 1
    assert found == rows


@pytest.mark.skipif(not TABLES.exists(), reason="the published genotypes are not here")
def test_every_published_genotype_that_belongs_is_read():
    known = json.loads((TABLES / "mood_nas" / "genotypes.json").read_text())
    refused = {}
    for name, content in known.items():
        try:
            architecture = SPACE.parse(json.dumps(content))
        except InputError as error:
            refused[name] = str(error)
            continue
        assert SPACE.parse(SPACE.format(architecture)) == architecture
        for kind, cell in genotype(SPACE.format(architecture)).items():  # the pairs of a node may come the other way
            expected = content[kind]
            if not kind.endswith("concat"):
                cell, expected = ([sorted(one[at : at + 2]) for at in range(0, 8, 2)] for one in (cell, expected))
            assert cell == expected
    assert len(known) - len(refused) == 67
    assert refused == {
        "NASNet": "genotype: normal_concat: expected [2, 3, 4, 5], all nodes of a cell, got [2, 3, 4, 5, 6]",
        "AmoebaNet": "genotype: normal_concat: expected [2, 3, 4, 5], all nodes of a cell, got [4, 5, 6]",
    }


def test_a_genotype_is_read_whatever_the_order_of_a_node_s_inputs():
    content = genotype(MIXED)
    turned = {**content, **{kind: [content[kind][at ^ 1] for at in range(8)] for kind in ("normal", "reduce")}}
    assert SPACE.format(SPACE.parse(json.dumps(turned, indent=1))) == MIXED
    first, *rest = MIXED.split()[1:]
    turned_word = "+".join(reversed(first.split("+")))
    assert SPACE.format(SPACE.parse(" ".join(["normal", turned_word, *rest]))) == MIXED


def changed(**cells):
    return json.dumps({**genotype(MIXED), **cells})


def with_pair(kind, position, pair):
    pairs = genotype(MIXED)[kind]
    pairs[position] = pair
    return changed(**{kind: pairs})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'normal' and 4 words such as max_pool_3x3@0.dil_conv_5x5@1, then 'reduce' and 4 more; got 0 words"),
        (MIXED.replace("reduce", "reduction"), "got 10 words"),
        (MIXED.partition(" reduce")[0], "got 5 words"),
        (MIXED.replace("dil_conv_5x5@0", "dil_conv_5x6@0"), "normal, node 2: operation 'dil_conv_5x6' is not of this"),
        (MIXED.replace("+skip_connect@4", ""), r"normal, node 5: expected OPERATION@INPUT\+OPERATION@INPUT, got 'dil"),
        (MIXED.replace("@4", "@-1"), "normal, node 5: expected OPERATION@INPUT"),
        (MIXED.replace("@4", "@10"), "normal, node 5: expected OPERATION@INPUT"),
        (MIXED.replace("@4", "@٤"), "normal, node 5: expected OPERATION@INPUT"),
        (MIXED.replace("conv_3x3@4", "conv_3x3@5"), "reduce, node 5: input 5; expected 0 to 4"),
        ("{", "no valid JSON"),
        ('{"a":' * 100_000, "no valid JSON"),
        ("{}", "expected the keys normal, normal_concat, reduce, reduce_concat, got"),
        (changed(colour=3), "expected the keys"),
        (changed(normal_concat=[2, 3, 4]), r"normal_concat: expected \[2, 3, 4, 5\], all nodes of a cell, got"),
        (changed(reduce_concat=[3, 4, 5, 6]), "reduce_concat"),
        (changed(reduce_concat=[2.0, 3, 4, 5]), "reduce_concat"),
        (changed(reduce_concat=4), "reduce_concat"),
        (changed(normal=3), "normal: expected a list of pairs, got 3"),
        (changed(reduce=genotype(MIXED)["reduce"] + [["skip_connect", 0]] * 2), "reduce: expected 8 pairs.*got 10"),
        (with_pair("normal", 2, ["conv_7x1_1x7", 0]), "normal, node 3: operation 'conv_7x1_1x7' is not of this space"),
        (with_pair("normal", 2, ["sep_conv_7x7", 0]), "node 3: .*Did you mean 'sep_conv_"),
        (with_pair("reduce", 7, ["skip_connect", 5]), "reduce, node 5: input 5; expected 0 to 4"),
        (with_pair("reduce", 0, ["skip_connect", -1]), "reduce, node 2: input -1; expected 0 to 1"),
        (with_pair("reduce", 1, ["skip_connect", 0]), "reduce, node 2: input 0 is taken twice"),
        (with_pair("reduce", 1, ["skip_connect", True]), r"expected \[operation, input\], got \['skip_connect', True"),
        (with_pair("reduce", 1, ["skip_connect"]), "node 2: expected"),
        (with_pair("reduce", 1, [["skip_connect"], 1]), "node 2: expected"),
        (with_pair("reduce", 1, "ab"), "node 2: expected"),
    ],
)  # fmt: skip
def test_text_that_is_no_genotype_is_refused(text, said):
    with pytest.raises(InputError, match=said):
        SPACE.parse(text)


def test_more_operations_and_other_cells_may_be_asked_for():
    text = MIXED.replace("sep_conv_5x5", "sep_conv_7x7")
    with pytest.raises(InputError, match="'sep_conv_7x7' is not of this space"):
        SPACE.parse(text)
    wide = Darts(operations=(*SPACE.operations, "sep_conv_7x7"))
    assert wide.format(wide.parse(text)) == text
    small = Darts(nodes=2)
    assert small.cardinalities == (1, 7, 7, 3, 7, 7) * 2
    text = "normal skip_connect@0+skip_connect@1 skip_connect@1+skip_connect@2 "
    text += text.strip().replace("normal", "reduce")
    assert small.format(small.parse(text)) == text
    assert SPACE.size == (1 * 3 * 6 * 10 * 7**8) ** 2


@pytest.mark.parametrize(("cells", "reductions"), [(3, (1, 2)), (4, (1, 2)), (5, (1, 3)), (8, (2, 5)), (20, (6, 13))])
def test_the_cells_at_a_third_and_two_thirds_reduce(cells, reductions):
    space = Darts(cells=cells, channels=2, input_size=15)
    nodes = space.graph(space.parse(MIXED)).nodes
    outputs = [node for node in nodes if node.op == "concat"]
    assert [node.name for node in outputs] == [f"cell{number}" for number in range(cells)]
    widths = [8 * 2 ** sum(number >= at for at in reductions) for number in range(cells)]
    assert [node.integer("out") for node in outputs] == widths
    sides = [{8: 15, 16: 8, 32: 4}[width] for width in widths]
    assert [node.integer("resolution") for node in outputs] == sides
    assert [node.name for node in nodes if node.get("auxiliary")] == [f"cell{reductions[1]}"]
    halving = {number + 1 for number in reductions if number + 1 < cells}
    assert {number for number in range(cells) for node in nodes
            if node.name == f"cell{number}_input0" and node.op == "skip"} == halving  # fmt: skip


def reference(state, text, images, cells, channels):
    """Scores of the network of a genotype, written down by hand."""

    def conv(x, name, **options):
        weight = state[name]
        reach = options.get("dilation", 1) * (weight.shape[2] - 1) // 2
        return F.conv2d(x, weight, padding=reach, groups=len(weight) if weight.shape[1] == 1 else 1, **options)

    def norm(x, name):
        return F.batch_norm(x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    def factorized(x, name):
        x = F.relu(x)
        shifted = F.conv2d(F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:], state[f"{name}.1.second.weight"], stride=2)
        return norm(torch.cat([F.conv2d(x, state[f"{name}.1.first.weight"], stride=2), shifted], dim=1), f"{name}.2")

    def projected(x, name):
        return norm(conv(F.relu(x), f"{name}.1.weight"), f"{name}.2")

    def applied(x, op, name, stride):
        if op == "max_pool_3x3":
            return F.max_pool2d(x, 3, stride, 1)
        if op == "avg_pool_3x3":
            return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
        if op == "skip_connect":
            return x if stride == 1 else factorized(x, name)
        if op.startswith("dil"):
            x = conv(F.relu(x), f"{name}.1.weight", stride=stride, dilation=2)
            return norm(conv(x, f"{name}.2.weight"), f"{name}.3")
        x = conv(conv(F.relu(x), f"{name}.1.weight", stride=stride), f"{name}.2.weight")
        x = conv(conv(F.relu(norm(x, f"{name}.3")), f"{name}.5.weight"), f"{name}.6.weight")
        return norm(x, f"{name}.7")

    content = genotype(text)
    before = after = norm(conv(images, "stem.0.weight"), "stem.1")
    reduced = False
    for cell in range(cells):
        reduces = cell in (cells // 3, 2 * cells // 3)
        name = f"cell{cell}"
        states = [(factorized if reduced else projected)(before, f"{name}_input0"), projected(after, f"{name}_input1")]
        pairs = content["reduce" if reduces else "normal"]
        for node in range(2, 6):
            terms = [
                applied(states[source], op, f"{name}_node{node}_{op}_of{source}", 2 if reduces and source < 2 else 1)
                for op, source in pairs[2 * node - 4 : 2 * node - 2]
            ]
            states.append(terms[0] + terms[1])
        before, after, reduced = after, torch.cat(states[2:], dim=1), reduces
    assert after.shape[1:] == (16 * channels, images.shape[2] // 4, images.shape[3] // 4)
    return F.linear(after.mean(dim=(2, 3)), state["classifier.0.weight"], state["classifier.0.bias"])


@pytest.mark.parametrize(("text", "cells"), [(MIXED, 5), (DARTS_V2, 3), (PC_DARTS, 8)])
def test_a_network_calculates_what_was_published(text, cells):
    space = Darts(cells=cells, channels=3, input_size=8)
    network = build_network(space.graph(space.parse(text)), 0).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network(images), reference(network.state_dict(), text, images, cells, 3))


def test_a_network_of_published_size_is_built_and_exported():
    graph = SPACE.graph(SPACE.parse(DARTS_V2))
    network = build_network(graph, 0).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_349_342
    source = network_source(graph, "DARTS_V2")
    assert "auxiliary" not in source
    namespace = {"__name__": "exported"}
    exec(compile(ast.parse(source), "model.py", "exec"), namespace)  # ours, just written
    exported = namespace["Network"]()
    exported.load_state_dict(network.state_dict())
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(exported.eval()(images), network(images))


@given(with_architecture(darts_spaces()))
@settings(max_examples=8)
def test_networks_train(given_pair):
    space, architecture = given_pair
    network = build_network(space.graph(architecture), 0)
    scores = network(torch.randn(5, space.input_channels, space.input_size, space.input_size))
    scores.square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters() if parameter.grad is not None)


def renumbered(text, kind, order):
    """The same cell with nodes 2.. given in another order; ``order[node]`` is the new number of node + 2."""
    content = genotype(text)
    names = {0: 0, 1: 1, **{node + 2: number + 2 for node, number in enumerate(order)}}
    pairs = [None] * 8
    for node, number in enumerate(order):
        for half in range(2):
            op, source = content[kind][2 * node + half]
            pairs[2 * number + half] = [op, names[source]]
    return {**content, kind: pairs}


def test_the_nodes_of_a_cell_may_be_numbered_in_another_order():
    """Of the 24 orders of each cell those in which no node comes before what it takes."""
    rows = []
    for kind in ("normal", "reduce"):
        for order in itertools.permutations(range(4)):
            try:
                rows.append(SPACE.parse(json.dumps(renumbered(DARTS_V2, kind, order))).row()[0])
            except InputError:
                continue
    assert len(rows) == 12 + 6  # of DARTS_V2 one node, or all three, take the first
    least = [min(tuple(row[part]) for row in rows) for part in (slice(12), slice(12, 24))]
    assert {tuple(row) for row in SPACE.canonical(np.array(rows)).tolist()} == {(*least[0], *least[1])}


@given(st.sampled_from((3, 4, 7)), st.sampled_from((1, 2, 3, 4)), st.integers(0, 2**32))
@settings(max_examples=10)
def test_canonical_rows_are_the_same_exactly_where_the_graphs_are(cells, nodes, seed):
    space = Darts(cells=cells, nodes=nodes, channels=2, operations=("skip_connect", "sep_conv_3x3", "max_pool_3x3"))
    random = np.random.default_rng(seed)
    rows = space.sample(40, random)
    rows[20:, len(space.cardinalities) // 2 :] = rows[0, len(space.cardinalities) // 2 :]  # so that some are the same
    rows[::2, 1::3] = rows[::2, 2::3] = 1
    found = space.canonical(rows)
    assert (space.canonical(found) == found).all()
    assert space.is_valid(found).all()
    for name, values in space.costs(rows).items():
        assert (space.costs(found)[name] == values).all()
    digests = [space.graph(one).digest() for one in architectures(space, rows)]
    assert digests == [space.graph(one).digest() for one in architectures(space, found)]
    keys = [one.key for one in architectures(space, found)]
    assert len(set(zip(digests, keys, strict=True))) == len(set(digests)) == len(set(keys))


def test_canonical_rows_are_the_least_and_counted_by_hand():
    """With two nodes and two operations: 6 of 48 cells say in another order what others say."""
    space = Darts(nodes=2, cells=4, operations=("skip_connect", "max_pool_3x3"))
    cells = list(itertools.product(*map(range, space.cardinalities[:6])))
    every = np.array([(*cell, *cells[0]) for cell in cells], dtype=np.int8)
    found = space.canonical(every)
    assert all(tuple(least) <= tuple(row) for least, row in zip(found.tolist(), every.tolist(), strict=True))
    # Both nodes on the two inputs: 4 x 4 pairs of operations, of which order does not count.
    assert len(cells) - len(np.unique(found, axis=0)) == 6
    assert space.canonical(every[:0]).shape == (0, 12)
    # Of three cells the normal one sees the stem twice.
    alike = Darts(nodes=2, cells=3, operations=space.operations)
    assert len(np.unique(alike.canonical(every), axis=0)) < len(np.unique(found, axis=0))


def test_every_architecture_of_a_small_space_is_costed_and_the_cheapest_found():
    space = Darts(nodes=2, cells=4, channels=2, operations=("sep_conv_5x5", "skip_connect"))
    every = np.array(list(itertools.product(*map(range, space.cardinalities))), dtype=np.int8)
    assert len(every) == space.size == 2304
    batch = space.costs(every)
    for position in range(0, 2304, 40):
        (architecture,) = architectures(space, every[position : position + 1])
        assert tuple(int(batch[name][position]) for name in COST_NAMES) == graph_costs(space.graph(architecture))
    for name in COST_NAMES:
        cheapest = space.cheapest(name).row()
        assert space.costs(cheapest)[name][0] == batch[name].min()
        assert (space.canonical(cheapest) == cheapest).all()
    assert len({space.format(one) for one in architectures(space, every[::7])}) == len(every[::7])


def test_networks_under_a_limit_are_found():
    rows = sample_distinct(SPACE, 20, np.random.default_rng(0), {"params": 2_500_000})
    assert SPACE.costs(rows)["params"].max() <= 2_500_000
    assert (SPACE.canonical(rows) == rows).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"input_size": 3}, "two reduction cells halve the side; expected at least 4"),
        ({"input_size": 1025}, "less than or equal to 1024"),
        ({"cells": 2}, "greater than or equal to 3"),
        ({"channels": 1}, "greater than or equal to 2"),
        ({"stem_multiplier": 0}, "greater than or equal to 1"),
        ({"nodes": 6}, "less than or equal to 5"),
        ({"operations": ()}, "at least 1"),
        ({"operations": ("skip_connect", "skip_connect")}, "named twice"),
        ({"operations": ("conv_7x1_1x7",)}, "'max_pool_3x3'"),
        ({"kind": "davidnet"}, "'darts'"),
        ({"layers": ()}, "Extra inputs"),
    ],
)
def test_settings_are_checked(wrong, said):
    with pytest.raises(ValidationError, match=said):
        Darts.model_validate(wrong)


@given(st.floats(0.01, 1))
@settings(max_examples=8)
def test_a_narrower_space_has_the_same_architectures_with_fewer_channels(factor):
    narrow = SPACE.narrower(factor)
    assert narrow.channels == max(2, round(36 * factor))
    assert narrow.model_dump(exclude={"channels"}) == SPACE.model_dump(exclude={"channels"})
    one = SPACE.parse(MIXED)
    assert narrow.parse(MIXED) == one
    assert all(narrow.costs(one.row())[name] <= SPACE.costs(one.row())[name] for name in COST_NAMES)


def test_an_architecture_that_does_not_exist_has_no_text():
    with pytest.raises(InputError, match="choice 4 is 3; expected 0 to 2"):
        SPACE.format(Architecture("darts", (0, 0, 0, 3, *(0,) * 20)))
