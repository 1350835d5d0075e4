import json

import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from supernet import Darts, InputError, graph_costs
from supernet.export import network_source
from supernet.genotypes import GENOTYPE_OPERATIONS, genotype_graph, parse_genotype
from supernet.network import build_network
from tests.data import TABLES
from tests.supernet.spaces import darts_spaces, with_architecture

SMALL = Darts(input_size=9, cells=5, channels=2)
# Every operation, an input twice, the same operation on it twice, nodes that are not given, cells of unlike length.
ODD = {
    "normal": [
        ["avg_pool_3x3", 0], ["avg_pool_3x3", 0], ["conv_7x1_1x7", 1], ["max_pool_3x3", 0],
        ["sep_conv_7x7", 2], ["dil_conv_5x5", 2], ["skip_connect", 3], ["skip_connect", 3],
        ["sep_conv_3x3", 4], ["sep_conv_5x5", 1],
    ],
    "normal_concat": [6, 3, 5],
    "reduce": [
        ["conv_7x1_1x7", 0], ["conv_7x1_1x7", 1], ["skip_connect", 0], ["skip_connect", 2],
        ["conv_7x1_1x7", 2], ["dil_conv_3x3", 1],
    ],
    "reduce_concat": [3, 4],
}  # fmt: skip


def published():
    path = TABLES / "mood_nas" / "genotypes.json"
    return json.loads(path.read_text()) if path.exists() else {}


needs_data = pytest.mark.skipif(not published(), reason="the published genotypes are not here")


def as_json(space, architecture):
    """The published form of what a space's ``format`` writes."""
    words = space.format(architecture).split()
    halves = {"normal": words[1 : space.nodes + 1], "reduce": words[space.nodes + 2 :]}
    content = {}
    for kind, half in halves.items():
        terms = [term.split("@") for word in half for term in word.split("+")]
        content[kind] = [[name, int(source)] for name, source in terms]
        content[f"{kind}_concat"] = list(range(2, space.nodes + 2))
    return content


def counted(content, cells=20, width=36, classes=10):
    """Parameters by a count that knows neither graphs nor operations of ours."""

    def weights(name, c, stride):
        kernel = int(name[-1]) if name[-1].isdigit() else 0
        return {
            "sep": 2 * (c * kernel**2 + c * c + 2 * c), "dil": c * kernel**2 + c * c + 2 * c,
            "con": 2 * 7 * c * c + 2 * c, "ski": (c * c + 2 * c) * (stride - 1),
        }.get(name[:3], 0)  # fmt: skip

    total = 27 * 3 * width + 2 * 3 * width
    before, c = [3 * width] * 2, width
    for cell in range(cells):
        kind = "reduce" if cell in (cells // 3, 2 * cells // 3) else "normal"
        c *= 1 + (kind == "reduce")
        total += sum(wide * c + 2 * c for wide in before)
        total += sum(weights(name, c, 1 + (kind == "reduce" and source < 2)) for name, source in content[kind])
        before = [before[1], len(content[f"{kind}_concat"]) * c]
    return total + before[1] * classes + classes


@given(with_architecture(darts_spaces()))
@settings(max_examples=50)
def test_a_genotype_that_a_space_holds_is_the_space_s_own_graph(given_pair):
    space, architecture = given_pair
    content = as_json(space, architecture)
    assert space.parse(json.dumps(content)) == architecture
    graph = genotype_graph(parse_genotype(content), space)
    assert graph.digest() == space.graph(architecture).digest()
    assert graph.nodes == space.graph(architecture).nodes
    assert sorted(graph.edges) == sorted(space.graph(architecture).edges)
    assert [node.name for node in graph.nodes] == [node.name for node in space.graph(architecture).nodes]


@needs_data
def test_all_published_genotypes_build():
    space, seen = Darts(), set()
    for name, content in published().items():
        genotype = parse_genotype(content)
        assert parse_genotype(json.dumps(content)) == genotype
        graph = genotype_graph(genotype, space)
        assert graph_costs(graph).params == counted(content), name
        assert sum(node.get("auxiliary") for node in graph.nodes) == 1
        if name not in ("NASNet", "AmoebaNet"):
            assert graph.digest() == space.graph(space.parse(json.dumps(content))).digest()
        seen.add(graph.digest())
    assert len(seen) == 69
    wide = Darts(classes=100)
    assert {
        name: graph_costs(genotype_graph(parse_genotype(published()[name]), wide)).params
        - graph_costs(genotype_graph(parse_genotype(published()[name]), space)).params
        for name in ("NASNet", "AmoebaNet", "DARTS_V2")
    } == {"NASNet": 90 * (5 * 144 + 1), "AmoebaNet": 90 * (3 * 144 + 1), "DARTS_V2": 90 * (4 * 144 + 1)}


@pytest.mark.parametrize("name", ["NASNet", "AmoebaNet", "l2_loss_9e04", "odd"])
@pytest.mark.parametrize("side", [8, 9])
def test_networks_run_and_cost_what_is_said(name, side):
    content = {**published(), "odd": ODD}.get(name)
    if content is None:
        pytest.skip("the published genotypes are not here")
    space = SMALL.model_copy(update={"input_size": side})
    graph = genotype_graph(parse_genotype(content), space)
    network = build_network(graph, 0)
    assert network(torch.randn(2, 3, side, side)).shape == (2, 10)
    network.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.randn(1, 3, side, side))
    costs = graph_costs(graph)
    assert counter.get_total_flops() == 2 * costs.macs
    assert sum(parameter.numel() for parameter in network.parameters()) == costs.params == counted(content, 5, 2)


def test_an_odd_network_is_exported_as_it_is():
    graph = genotype_graph(parse_genotype(ODD), SMALL)
    names: dict[str, object] = {"__name__": "exported"}
    source = network_source(graph, "odd")
    assert "nn.Conv2d(4, 4, (1, 7), stride=(1, 2), padding=(0, 3), bias=False)" in source
    assert "nn.Conv2d(4, 4, (7, 1), stride=(2, 1), padding=(3, 0), bias=False)" in source
    exec(compile(source, "model.py", "exec"), names)
    exported, network = names["Network"](), build_network(graph, 1)
    exported.load_state_dict(network.state_dict())
    images = torch.randn(3, 3, 9, 9)
    torch.testing.assert_close(exported.eval()(images), network.eval()(images))
    assert "cell0_node2_avg_pool_3x3_of0_again" in dict(network.named_children())


def test_a_cell_gives_the_nodes_that_are_listed_in_their_order():
    graph = genotype_graph(parse_genotype(ODD), SMALL)
    before = graph.predecessors()
    by_name = {node.name: position for position, node in enumerate(graph.nodes)}
    assert [graph.nodes[source].name for source in before[by_name["cell0"]]] == [
        "cell0_node6", "cell0_node3", "cell0_node5",
    ]  # fmt: skip
    # Of five cells the second and the fourth reduce, and have three nodes and two outputs.
    outputs = [graph.nodes[by_name[f"cell{cell}"]] for cell in range(5)]
    assert [node.integer("out") for node in outputs] == [3 * 2, 2 * 4, 3 * 4, 2 * 8, 3 * 8]
    assert [node.integer("resolution") for node in outputs] == [9, 5, 5, 3, 3]
    assert [node.get("auxiliary") for node in outputs] == [0, 0, 0, 1, 0]
    # Only what reads the cell's own inputs halves the side.
    strides = {node.name: node.get("stride") for node in graph.nodes if node.name.startswith("cell1_node")}
    assert strides["cell1_node3_skip_connect_of0"] == 2
    assert strides["cell1_node3_skip_connect_of2"] == strides["cell1_node4_conv_7x1_1x7_of2"] == 1


@pytest.mark.parametrize("stride", [1, 2])
def test_the_cross_convolution_is_a_row_then_a_column(stride):
    graph = genotype_graph(parse_genotype(ODD), SMALL)
    name = {1: "cell0_node3_conv_7x1_1x7_of1", 2: "cell1_node2_conv_7x1_1x7_of0"}[stride]
    chain = build_network(graph, 0).get_submodule(name).eval()
    weights = chain.state_dict()
    images = torch.randn(2, weights["1.weight"].shape[1], 9, 6)
    rows = F.conv2d(images.relu(), weights["1.weight"], stride=(1, stride), padding=(0, 3))
    columns = F.conv2d(rows, weights["2.weight"], stride=(stride, 1), padding=(3, 0))
    assert [tuple(weights[f"{place}.weight"].shape[2:]) for place in (1, 2)] == [(1, 7), (7, 1)]
    torch.testing.assert_close(chain(images), columns / (1 + 1e-5) ** 0.5)


def changed(**more):
    return {**ODD, **more}


def with_pair(place, pair):
    pairs = [*ODD["reduce"]]
    pairs[place] = pair
    return changed(reduce=pairs)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no valid JSON"),
        ("3", "expected the keys normal, normal_concat, reduce, reduce_concat, got 3"),
        (None, "expected the keys"),
        ([], "expected the keys"),
        ({"normal": []}, r"expected the keys .*, got \['normal'\]"),
        (changed(colour=3), "expected the keys"),
        (changed(normal=3), "normal: expected a list of pairs, got 3"),
        (changed(normal=[]), "normal: expected two pairs for each node, got 0"),
        (changed(reduce=ODD["reduce"][:-1]), "reduce: expected two pairs for each node, got 5"),
        (changed(normal_concat=[]), r"normal_concat: expected different nodes out of 2 to 6, got \[\]"),
        (changed(normal_concat=[1, 5, 6]), "normal_concat: expected different nodes"),
        (changed(normal_concat=[5, 5, 6]), "normal_concat: expected different nodes"),
        (changed(normal_concat=[5, 6, 7]), "normal_concat: expected different nodes"),
        (changed(reduce_concat=[3, 4.0]), "reduce_concat: expected different nodes out of 2 to 4"),
        (changed(reduce_concat=[3, True]), "reduce_concat: expected different nodes"),
        (changed(reduce_concat=4), "reduce_concat: expected different nodes"),
        (changed(reduce_concat=[4]), "reduce: state 3 is read by no node and is not in reduce_concat"),
        (with_pair(1, ["skip_connect", 2]), "reduce, node 2: input 2; expected 0 to 1"),
        (with_pair(0, ["skip_connect", -1]), "reduce, node 2: input -1"),
        (with_pair(3, ["conv_1x7_7x1", 0]), "reduce, node 3: operation 'conv_1x7_7x1'.*Did you mean 'conv_7x1_1x7'"),
        (with_pair(3, ["none", 0]), "operation 'none' is not of this space"),
        (with_pair(3, ["skip_connect", True]), r"expected \[operation, input\]"),
        (with_pair(3, "ab"), r"expected \[operation, input\]"),
    ],
)  # fmt: skip
def test_what_is_no_genotype_is_refused(content, said):
    with pytest.raises(InputError, match=said):
        parse_genotype(content)


def test_an_input_that_nothing_reads_is_refused():
    cell = [["skip_connect", 0], ["skip_connect", 0]]
    content = {"normal": cell, "normal_concat": [2], "reduce": cell, "reduce_concat": [2]}
    with pytest.raises(InputError, match="normal: state 1 is read by no node"):
        parse_genotype(content)


def test_operations_are_those_of_the_space_and_one_more():
    assert len(set(GENOTYPE_OPERATIONS)) == 9
    assert set(Darts().operations) < set(GENOTYPE_OPERATIONS)
