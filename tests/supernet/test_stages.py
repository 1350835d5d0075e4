import csv
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from supernet import (
    ArchGraph,
    Architecture,
    InputError,
    Node,
    OpSubset,
    architectures,
    graph_costs,
)
from supernet.export import network_source
from supernet.network import build_network
from supernet.operations import layers
from supernet.stage_settings import CandidateSettings
from supernet.stages import Stages
from tests.data import TABLES
from tests.supernet.spaces import stages_spaces

FILES = Path(__file__).parents[2] / "config" / "spaces"


def bundled(name, **changes):
    return Stages.model_validate(yaml.safe_load((FILES / f"{name}.yml").read_text(encoding="utf-8")) | changes)


def small(**changes):
    """A space of one stage after another's width."""
    stage = {"channels": 8, "operations": ["skip", "mbconv_3_e2", "sep_conv_5"]}
    return Stages.model_validate(
        {"input_size": 8, "classes": 3, "stem": {"channels": 8}, "head": None, "stages": [stage | changes]}
    )


def every(space):
    """Every row of options that is an architecture."""
    rows = np.array(list(itertools.product(*map(range, space.cardinalities))), dtype=np.int8)
    return rows[space.is_valid(rows)]


# --- the bundled spaces --------------------------------------------------------------------------------------


def test_op_subset_in_yaml_is_the_built_in():
    written, built_in = bundled("op_subset"), OpSubset()
    assert (written.size, written.cardinalities) == (built_in.size, built_in.cardinalities)
    rows = np.concatenate([built_in.sample(200, np.random.default_rng(0)), np.ones((1, 30), np.int8)])
    for one in architectures(built_in, rows):
        assert written.graph(Architecture("stages", one.choices)) == built_in.graph(one)
    ours, theirs = written.costs(rows), built_in.costs(rows)
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    invalid = np.random.default_rng(1).integers(0, 2, (500, 30)).astype(np.int8)
    invalid[:100, :6] = 0
    assert (written.is_valid(invalid) == built_in.is_valid(invalid)).all()
    assert (written.canonical(rows) == rows).all()
    for cost in theirs:
        assert written.cheapest(cost).choices == built_in.cheapest(cost).choices


def test_nasbench_macro_has_published_figures():
    space = bundled("nasbench_macro", classes=10)
    assert space.size == 6561
    rows = np.array([[int(digit) for digit in text] for text in ("00000000", "00000001", "00000002", "00000100")])
    costs = space.costs(rows.astype(np.int8))
    assert costs["macs"].tolist() == [7_713_280, 14_115_328, 20_910_592, 11_962_880]
    assert costs["params"].tolist() == [387_882, 791_594, 1_219_370, 507_562]
    assert len(np.unique(space.canonical(every(space)), axis=0)) == 3969
    assert space.parse("00120121").choices == (0, 0, 1, 2, 0, 1, 2, 1)


@pytest.mark.skipif(not TABLES.exists(), reason="published tables are not here")
def test_nasbench_macro_is_its_whole_table():
    with (TABLES / "nasbench_macro_cifar10.csv").open() as file:
        table = list(csv.DictReader(file))
    space = bundled("nasbench_macro", classes=10)
    rows = np.array([[int(digit) for digit in row["arch"]] for row in table], dtype=np.int8)
    costs = space.costs(rows)
    assert costs["macs"].tolist() == [int(row["macs"]) for row in table]
    assert costs["params"].tolist() == [int(row["params"]) for row in table]
    # Those whose networks are the same were trained once: their three accuracies are equal, and only theirs.
    keys = [row.tobytes() for row in space.canonical(rows)]
    accuracies = [(row["test_acc_1"], row["test_acc_2"], row["test_acc_3"]) for row in table]
    assert len(set(zip(keys, accuracies, strict=True))) == len(set(keys)) == len(set(accuracies)) == 3969


@pytest.mark.parametrize("size", [64, 96, 224])
def test_mobile_networks_for_ordinary_pictures(size):
    space = bundled("mobile", input_size=size, classes=5)
    assert space.size > 10**11
    random = np.random.default_rng(size)
    for one in architectures(space, space.sample(3, random)):
        network = build_network(space.graph(one), 0).eval()
        assert network(torch.zeros(1, 3, size, size)).shape == (1, 5)
        assert sum(parameter.numel() for parameter in network.parameters()) == graph_costs(space.graph(one)).params
        assert space.parse(space.format(one)) == architectures(space, space.canonical(one.row()))[0]
    smallest = space.cheapest("macs")
    assert space.format(smallest).startswith(f"{size // 2}px mbconv_3_e1 1*mbconv_3_e3@0.67 ")
    compile(network_source(space.graph(smallest), "mobile"), "model.py", "exec")


def test_mobile_takes_no_picture_that_its_strides_use_up():
    assert bundled("mobile", input_size=34)
    said = r"stages\.5: its stride finds a picture of 1 pixel; the space halves 16 pixels 5 times, .* at least 17"
    with pytest.raises(ValidationError, match=said):
        bundled("mobile", input_size=32)


# --- what the settings say -----------------------------------------------------------------------------------


def test_lists_stand_for_every_combination():
    listed = CandidateSettings.model_validate({"op": "mbconv", "kernel": [3, 5], "expansion": 6, "se": [0, 1]})
    names = [one.name for one in listed.candidates]
    assert names == ["mbconv_3_e6", "mbconv_3_e6_se", "mbconv_5_e6", "mbconv_5_e6_se"]
    assert [CandidateSettings.model_validate(name).candidates for name in names] == [
        (one,) for one in listed.candidates
    ]
    assert listed.model_dump() == {"op": "mbconv", "kernel": (3, 5), "expansion": (6,), "se": (0, 1)}
    assert CandidateSettings.model_validate("sep_conv_5").model_dump() == "sep_conv_5"
    plain = CandidateSettings.model_validate({"op": "mbconv", "kernel": [3, 5], "expansion": 1})
    assert CandidateSettings.model_validate(plain.model_dump()) == plain


def test_choices_stand_in_the_order_of_the_settings():
    space = Stages.model_validate(
        {
            "resolutions": [0.5, 1.0],
            "stages": [
                {
                    "channels": 16,
                    "depth": [1, 3],
                    "widths": [0.5, 1.0],
                    "operations": ["skip", "conv_bn_3", "sep_conv_3"],
                },
                {"channels": 8, "depth": 2, "apply": "any", "operations": ["skip", "sep_conv_3"]},
                {"channels": 8, "depth": [2, 5], "share": True, "operations": ["mbconv_3_e1", "mbconv_5_e1"]},
                {"channels": 8, "operations": ["conv_bn_3"]},
            ],
        }
    )
    assert space.cardinalities == (2, 3, 2, 3, 3, 3, 2, 2, 2, 2, 4, 2)
    assert space.size == 2 * (2 * (3 + 9 + 27)) * (3 * 3) * (4 * 2)


def test_a_width_is_a_choice_of_channels():
    space = small(widths=[1.0, 2.0], operations=["conv_bn_3"])
    assert space.cardinalities == (2,)
    wide = space.graph(space.parse("conv_bn_3@2"))
    assert [node.get("out") for node in wide.nodes if node.op == "conv_bn"] == [16]


def test_residuals():
    ops = {"operations": ["shortcut", "sep_conv_3"]}

    def inputs_of_the_sum(space, text):
        graph = space.graph(space.parse(text))
        sums = [position for position, node in enumerate(graph.nodes) if node.op == "sum"]
        return [[graph.nodes[source].op for source in graph.predecessors()[position]] for position in sums]

    assert inputs_of_the_sum(small(**ops), "sep_conv_3") == []
    assert inputs_of_the_sum(small(**ops, residual=True), "sep_conv_3") == [["sep_conv", "conv_bn_relu6"]]
    assert inputs_of_the_sum(small(**ops, residual=True), "shortcut") == []  # an identity is not doubled
    assert inputs_of_the_sum(small(**ops, residual=True, stride=2), "sep_conv_3") == []
    assert inputs_of_the_sum(small(**ops, residual="projected", stride=2), "sep_conv_3") == [["sep_conv", "shortcut"]]


def test_a_layer_leaves_out_pools_that_cannot_make_its_channels():
    space = small(channels=16, depth=2, operations=["max_pool_same_3", "conv_bn_3", "sep_conv_3"])
    assert space.cardinalities == (2, 3)
    assert space.format(space.parse("02")) == "conv_bn_3,sep_conv_3"
    with pytest.raises(
        InputError, match=r"stage 1, layer 1: 'max_pool_same_3' is unknown; known: conv_bn_3, sep_conv_3"
    ):
        space.parse("max_pool_same_3,conv_bn_3")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"operations": ["max_pool_same_3"], "channels": 16},
            r"stages\.0: a dead end: none of max_pool_same_3 can",
        ),
        ({"operations": ["avg_pool_same_3", "max_pool_same_3"], "widths": [1.0, 2.0]}, "a dead end"),
        ({"operations": []}, "at least 1 item"),
        ({"operations": ["sep_conv"]}, "sep_conv needs a kernel, such as sep_conv_3"),
        ({"operations": ["sep_con_3"]}, "unknown operation 'sep_con'; known: .*Did you mean 'sep_conv'"),
        ({"operations": ["sep_conv_4"]}, "a kernel is even"),
        ({"operations": ["sep_conv_3_e6"]}, "sep_conv has no expansion; leave it out"),
        ({"operations": [{"op": "skip", "kernel": 3}]}, "skip has no kernel"),
        ({"operations": ["skip", "skip"]}, "operation skip is named twice"),
        ({"operations": ["skip", "shortcut"]}, "skip and shortcut are the same"),
        ({"operations": ["sep_conv_3", {"op": "sep_conv", "kernel": [5, 3]}]}, "operation sep_conv_3 is named twice"),
        ({"operations": [{"op": "mbconv", "kernel": [3, 5, 7], "expansion": list(range(1, 15))}]}, "42 operations"),
        ({"operations": ["Größe!"]}, "unknown operation 'Größe!'"),
        ({"depth": [3, 1]}, r"expected \[least, most\]"),
        ({"depth": [2, 2]}, r"expected \[least, most\]"),
        ({"depth": 0}, "greater than or equal to 1"),
        ({"widths": [1.0, 1.01]}, r"two widths of 8 channels are the same multiple of 8 \(1: 8, 1.01: 8\)"),
        ({"widths": [1.0, 1.0]}, "named twice"),
        ({"stride": 3}, "Input should be 1 or 2"),
        ({"operations": ["sep_conv_3"]}, "nothing to choose"),
        ({"repeat": 3}, "Extra inputs"),
        ({"operations": ["mbconv_3"]}, "mbconv needs an expansion, such as mbconv_3_e6"),
        ({"operations": ["sep_conv_1"]}, "a kernel of 1 sees a single pixel"),
        ({"channels": 1, "stride": 2}, "skip with stride 2 makes channels by halves"),
        (
            {"apply": "any", "operations": [{"op": "mbconv", "kernel": [3, 5], "expansion": list(range(1, 20))}]},
            "38 op",
        ),
        ({"channels": 65536, "widths": [1, 2]}, "262,144 channels, width and expansion included"),
        ({"channels": 65536, "operations": ["mbconv_3_e2", "skip"]}, "131,072 channels"),
        ({"apply": "any", "operations": ["skip"]}, "nothing to choose"),
        ({"channels": 16, "operations": ["max_pool_same_3", "skip"]}, "no layer can apply max_pool_same_3, which keep"),
        ({"operations": ["conv_bn_hswish", "skip"]}, "conv_bn_hswish needs a kernel"),
    ],
)
def test_settings_that_lead_nowhere_are_refused(changes, said):
    with pytest.raises(ValidationError, match=said):
        small(**changes)


def test_resolutions_that_are_the_same_side_are_refused():
    with pytest.raises(ValidationError, match="resolutions: two of them are the same side at input_size 8"):
        Stages.model_validate({**small().model_dump(), "resolutions": [0.99, 1.0]})


# --- architectures as text -----------------------------------------------------------------------------------

MIXED = Stages.model_validate(
    {
        "input_size": 16,
        "resolutions": [0.5, 1.0],
        "stages": [
            {"channels": 16, "depth": [1, 2], "widths": [1.0, 1.5], "operations": ["skip", "conv_bn_3"]},
            {"channels": 16, "apply": "any", "operations": ["skip", "sep_conv_3"]},
            {"channels": 16, "depth": [2, 3], "share": True, "operations": ["mbconv_3_e1", "mbconv_5_e1"]},
        ],
    }
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected 4 words, as .*, got 0"),
        ("8px skip@1 skip", "got 3"),
        ("9px skip@1 skip 2*mbconv_3_e1", "resolution: '9px' is unknown; known: 8px, 16px"),
        ("8px skip skip 2*mbconv_3_e1", "stage 1: expected an @ and a width, got 'skip'"),
        ("8px skip@2 skip 2*mbconv_3_e1", "stage 1, width: '2' is unknown; known: 1, 1.5"),
        ("8px skip@1 skip@1 2*mbconv_3_e1", "stage 2: expected no width"),
        ("8px skip,skip,skip@1 skip 2*mbconv_3_e1", "stage 1: expected 1 to 2 layers, got 3"),
        ("8px skip@1 skip,skip 2*mbconv_3_e1", "stage 2: expected 1 layers, got 2"),
        ("8px skip+conv_bn_3@1 skip 2*mbconv_3_e1", "stage 1, layer 1: expected one operation"),
        ("8px skip@1 skip+skip 2*mbconv_3_e1", "stage 2, layer 1: an operation is named twice"),
        ("8px skip@1 sip 2*mbconv_3_e1", "stage 2, layer 1: 'sip' is unknown; .* Did you mean 'skip'"),
        ("8px skip@1 skip mbconv_3_e1", r"stage 3: expected as 2\*OPERATION, got 'mbconv_3_e1'"),
        ("8px skip@1 skip 4*mbconv_3_e1", "stage 3: expected 2 to 3 layers, got 4"),
        ("8px skip@1 skip ٢*mbconv_3_e1", r"stage 3: expected as 2\*OPERATION"),
        ("8px skip@1 skip " + 5000 * "9" + "*mbconv_3_e1", r"stage 3: expected as 2\*OPERATION"),
        ("000000000", "expected 8 digits|expected 9 digits|stage 2"),
        ("00000", "digits, one for each choice"),
    ],
)
def test_text_that_is_no_architecture_is_refused(text, said):
    with pytest.raises(InputError, match=said):
        MIXED.parse(text)


def test_options_beyond_nine_are_digits_too():
    kernels = list(range(3, 27, 2))
    space = small(depth=2, operations=[{"op": "conv_bn", "kernel": kernels}])
    assert space.parse("1b") == space.parse("conv_bn_5,conv_bn_25")
    assert space.parse(space.parse("bb").digits) == space.parse("bb")


def test_widths_that_differ_little_are_told_apart():
    space = small(channels=40_000, widths=[1.00001, 1.00021], operations=["conv_bn_3"])
    texts = [space.format(one) for one in architectures(space, every(space))]
    assert [space.parse(text).choices for text in texts] == [(0,), (1,)]


@pytest.mark.parametrize("choices", [(2, 0), (0, 3), (0, 9)])
def test_options_that_there_are_not_have_no_graph_whatever_was_asked_before(choices):
    space = small(depth=[1, 2], operations=["skip", "conv_bn_3", "sep_conv_3"], share=True)
    for one in architectures(space, every(space)):
        space.graph(one)
    with pytest.raises(InputError, match="expected 0 to"):
        space.graph(Architecture("stages", choices))


def test_a_copy_computes_anew():
    space = small()
    space.graph(space.cheapest("macs"))
    other = space.model_copy(update={"classes": 7})
    assert other.graph(other.cheapest("macs")).nodes[-1].get("out") == 7


def test_a_layer_without_operations_is_named():
    with pytest.raises(InputError, match="stage 2, layer 1 applies no operation; expected at least one a layer"):
        MIXED.parse("000000000")


def test_text_of_every_part():
    text = "8px skip,conv_bn_3@1.5 skip+sep_conv_3 3*mbconv_5_e1"
    assert MIXED.format(MIXED.parse(text)) == text


# --- the same network ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("skip,sep_conv_5,mbconv_3_e2", "sep_conv_5,mbconv_3_e2"),
        ("sep_conv_5,skip,mbconv_3_e2", "sep_conv_5,mbconv_3_e2"),
        ("skip,skip,skip", "skip"),
    ],
)
def test_layers_that_hand_on_their_input_do_not_count(one, other):
    space = small(depth=[1, 3])
    rows = np.concatenate([space.parse(text).row() for text in (one, other)])
    canonical = space.canonical(rows)
    assert (canonical[0] == canonical[1]).all()
    assert space.format(architectures(space, canonical)[0]) == other


def test_a_first_layer_without_pools_takes_what_it_can():
    """Where one width keeps the shape and another does not, pools are no choice of the first layer."""
    ops = ["mbconv_3_e2", "avg_pool_same_3", "skip"]
    space = small(depth=[1, 2], widths=[1.0, 2.0], operations=ops)

    def form(text):
        return space.format(architectures(space, space.canonical(space.parse(text).row()))[0])

    assert form("skip,mbconv_3_e2@1") == form("mbconv_3_e2,skip@1") == "mbconv_3_e2@1"
    assert form("skip,avg_pool_same_3@1") == "skip,avg_pool_same_3@1"
    assert form("skip,mbconv_3_e2@2") == "skip,mbconv_3_e2@2"


def test_a_first_layer_that_changes_the_shape_counts():
    space = small(depth=3, stride=2)
    row = space.parse("skip,skip,sep_conv_5").row()
    assert space.format(architectures(space, space.canonical(row))[0]) == "skip,sep_conv_5,skip"


def test_later_layers_that_share_an_identity_are_left_out():
    space = small(depth=[1, 3], share=True, stride=2)
    row = space.parse("3*skip").row()
    assert space.format(architectures(space, space.canonical(row))[0]) == "1*skip"


@given(stages_spaces(), st.integers(0, 2**32))
@settings(max_examples=40)
def test_the_same_key_means_the_same_function(space, seed):
    random = np.random.default_rng(seed)
    row = space.sample(1, random)
    twin = space.disguise(row, random)
    assert (space.canonical(twin) == space.canonical(row)).all()
    pair = architectures(space, np.concatenate([row, space.canonical(row)]))
    first, second = (build_network(space.graph(one), 0).eval() for one in pair)
    # The same weights in the same order: identities hold none.
    values = list(first.state_dict().values())
    second.load_state_dict(dict(zip(second.state_dict(), values, strict=True)))
    images = torch.randn(2, space.input_channels, space.input_size, space.input_size)
    with torch.no_grad():
        torch.testing.assert_close(first(images), second(images))


def small_spaces():
    """Spaces of which every row can be looked at."""
    return stages_spaces(most=1).filter(lambda space: np.prod(space.cardinalities, dtype=float) <= 3000)


FEW = settings(max_examples=25, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])


@given(small_spaces())
@FEW
def test_the_size_counts_what_is_written(space):
    assert len({space.format(one) for one in architectures(space, every(space))}) == space.size


@given(small_spaces())
@FEW
def test_no_architecture_is_cheaper_than_the_cheapest_of_all(space):
    for name, values in space.costs(every(space)).items():
        assert space.costs(space.cheapest(name).row())[name][0] == values.min()


def without_identities(graph):
    """A graph without operations that hand on what they are given, and sums of one term."""
    sources = graph.predecessors()
    stands_for = {}
    for position in graph.order():
        node, feeds = graph.nodes[position], [stands_for[source] for source in sources[position]]
        idle = len(feeds) == 1 and not layers(node) and node.op in ("skip", "shortcut", "sum")
        stands_for[position] = feeds[0] if idle else position
    kept = sorted(set(stands_for.values()))
    edges = [(kept.index(stands_for[start]), kept.index(end)) for start, end in graph.edges if stands_for[end] == end]
    # A term that is there twice: counted, for an edge may stand once.
    twice = {end: sum(edge[1] == end for edge in edges) for end in range(len(kept))}
    nodes = tuple(
        Node(graph.nodes[position].op, (*graph.nodes[position].attributes, ("terms", twice[at])))
        for at, position in enumerate(kept)
    )
    return ArchGraph(nodes, tuple(dict.fromkeys(edges)))


@given(small_spaces())
@FEW
def test_there_are_as_many_keys_as_networks(space):
    rows = np.unique(space.canonical(every(space)), axis=0)
    networks = {without_identities(space.graph(one)).digest() for one in architectures(space, rows)}
    assert len(networks) == len(rows)


def test_narrower_has_the_same_choices_and_fewer_channels():
    space = bundled("mobile")
    narrow = space.narrower(0.5)
    assert narrow.cardinalities == space.cardinalities
    assert (narrow.stem.channels, narrow.head.channels, narrow.stages[-1].channels) == (8, 480, 80)
    with pytest.raises(InputError, match=re.escape("at 0.01 of its width")):
        space.narrower(0.01)
    stages = [
        {"channels": 9, "depth": 2, "operations": ["conv_bn_3", "max_pool_same_3"]},
        {"channels": 8, "operations": ["conv_bn_3", "conv_bn_5"]},
    ]
    odd = Stages.model_validate({"stem": {"channels": 8}, "stages": stages})
    with pytest.raises(InputError, match=r"layers of stages\.0 would have other operations"):
        odd.narrower(0.5)
