import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from supernet import COST_NAMES, Architecture, Bound, InputError, OpSubset, architectures, graph_costs, sample_distinct
from supernet.limits import check_limits, within
from supernet.op_subset import LayerSettings
from supernet.operations import graph_depth, node_costs
from supernet.spaces import make_space
from tests.supernet.spaces import OPERATION_NAMES, op_subset_spaces, with_architecture

SPACE = OpSubset()
WINNER = "111000 011101 111111 111111 011101"
ALL_ON = " ".join(["111111"] * 5)
ALL_SKIP = " ".join(["100000"] * 5)

# Convolution MACs in millions, layers by rows, operations in the order of the settings.
PUBLISHED = (
    (0.0, 0.8192, 1.3435, 2.1299, 0.4096, 0.6717),
    (0.1311, 0.2703, 0.4014, 0.5980, 0.1679, 0.2335),
    (0.0819, 0.1843, 0.2498, 0.3482, 0.1004, 0.1331),
    (0.0512, 0.0883, 0.1088, 0.1395, 0.0570, 0.0672),
    (0.4096, 0.5350, 0.5760, 0.6374, 0.4211, 0.4416),
)


def costs_of(space, text):
    return graph_costs(space.graph(space.parse(text)))


def test_each_operation_costs_what_was_published():
    for layer, published in enumerate(PUBLISHED):
        for position, expected in enumerate(published):
            bits = ["100000"] * 5
            bits[layer] = "".join("1" if index == position else "0" for index in range(6))
            graph = SPACE.graph(SPACE.parse(" ".join(bits)))
            node = next(node for node in graph.nodes if node.name == f"layer{layer + 1}_{SPACE.operations[position]}")
            # Below one unit of the last digit: the table was rounded in places and cut in others.
            assert abs(node_costs(node).conv_macs / 1e6 - expected) < 1e-4, (layer, position)


def test_what_every_network_pays_costs_what_was_published():
    graph = SPACE.graph(SPACE.parse(ALL_SKIP))
    by_name = {node.name: node_costs(node).conv_macs / 1e6 for node in graph.nodes}
    assert round(by_name["stem"], 4) == 0.4424
    assert round(by_name["head"], 4) == 6.5536
    assert round(by_name["stem"] + by_name["head"], 4) == 6.9960


def test_published_totals():
    everything, skips, winner = (costs_of(SPACE, text) for text in (ALL_ON, ALL_SKIP, WINNER))
    assert round(everything.conv_macs / 1e6, 3) == 18.803
    assert everything.params == 797_252
    assert round(skips.conv_macs / 1e6, 3) == 7.670
    assert skips.params == 571_620
    assert winner.conv_macs == 14_461_696
    assert winner.macs == 14_589_696
    assert winner.params == 740_132


def test_the_published_space_has_63_to_the_5_architectures():
    small = OpSubset(layers=(LayerSettings(channels=4),))
    every = np.array([[index >> bit & 1 for bit in range(6)] for index in range(64)], dtype=np.int8)
    assert small.is_valid(every).sum() == 63
    assert SPACE.cardinalities == (2,) * 30


def test_a_hundred_thousand_architectures_are_costed_as_one_batch():
    choices = SPACE.sample(100_000, np.random.default_rng(0))
    batch = SPACE.costs(choices)
    assert all(len(values) == 100_000 for values in batch.values())
    for position in range(0, 100_000, 1000):
        (architecture,) = architectures(SPACE, choices[position : position + 1])
        assert tuple(int(batch[name][position]) for name in COST_NAMES) == graph_costs(SPACE.graph(architecture))


@given(with_architecture(op_subset_spaces()))
def test_blanks_between_layers_may_be_left_out(given_pair):
    space, architecture = given_pair
    text = space.format(architecture)
    assert space.parse(text.replace(" ", "")) == architecture
    assert len(text.split()) == len(space.layers)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "got 0 characters"),
        ("1" * 29, "expected 5 layers of 6 digits 0 or 1 .30 digits., got 29 characters"),
        ("1" * 31, "got 31 characters"),
        ("2" + "1" * 29, "digits 0 or 1"),
        ("x" * 30, "digits 0 or 1"),
        ("١" * 30, "digits 0 or 1"),  # int() would take them
        ("111111 000000 111111 111111 111111", "layer 2 applies no operation; expected at least one a layer"),
    ],
)
def test_text_that_is_no_architecture_is_refused(text, said):
    with pytest.raises(InputError, match=said):
        SPACE.parse(text)


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("another", (1,) * 30),
        Architecture("op_subset", (1,) * 29),
        Architecture("op_subset", (0,) * 30),
        Architecture("op_subset", (2,) * 30),
    ],
)
def test_an_architecture_of_another_space_has_no_graph(architecture):
    with pytest.raises(InputError):
        SPACE.graph(architecture)


@pytest.mark.parametrize("choices", [(), (-1, 0), (36,), (True, False), (1.0,), ("1",)])
def test_choices_that_are_no_options_are_refused(choices):
    with pytest.raises(InputError, match="choices must be integers from 0 to 35"):
        Architecture("op_subset", choices)


def test_keys_are_distinct_and_fit_for_a_file():
    found = architectures(SPACE, sample_distinct(SPACE, 2000, np.random.default_rng(1)))
    keys = {architecture.key for architecture in found}
    assert len(keys) == 2000
    assert all(key.replace("_", "").replace("-", "").isalnum() and key.isascii() for key in keys)
    assert len({key.lower() for key in keys}) == 2000
    deep = OpSubset(layers=(LayerSettings(channels=4),) * 32)
    long_keys = {architecture.key for architecture in architectures(deep, deep.sample(500, np.random.default_rng(2)))}
    assert len(long_keys) == 500
    assert max(len(key) for key in long_keys) <= 80
    assert Architecture("op_subset", (10, 35, 0)).key == "op_subset-az0"


def test_samples_are_uniform():
    space = OpSubset(layers=(LayerSettings(channels=4), LayerSettings(channels=4)), operations=("skip", "sep_conv_3"))
    choices = space.sample(90_000, np.random.default_rng(3))
    counts = np.bincount(choices.astype(int) @ (8, 4, 2, 1), minlength=16)
    assert (counts > 0).sum() == 9
    # Nine cells of 10,000 expected: chi-square with 8 degrees of freedom stays below 26 with probability .999.
    assert ((counts[counts > 0] - 10_000) ** 2 / 10_000).sum() < 26


@given(op_subset_spaces())
def test_validity_wants_an_operation_in_each_layer(space):
    assert space.is_valid(np.empty((0, len(space.cardinalities)), np.int8)).shape == (0,)
    width = len(space.operations)
    rows = np.ones((len(space.layers) + 2, len(space.cardinalities)), np.int8)
    for layer in range(len(space.layers)):
        rows[layer, layer * width : (layer + 1) * width] = 0
    rows[-2, -1] = 2
    assert space.is_valid(rows).tolist() == [False] * len(space.layers) + [False, True]


@pytest.mark.parametrize("limits", [{}, {"macs": 15_000_000}, {"conv_macs": 10_000_000, "params": 650_000}])
def test_distinct_samples_keep_the_limits_and_a_larger_sample_begins_with_a_smaller(limits):
    large = sample_distinct(SPACE, 1500, np.random.default_rng(4), limits)
    small = sample_distinct(SPACE, 40, np.random.default_rng(4), limits)
    assert len(np.unique(large, axis=0)) == 1500
    assert SPACE.is_valid(large).all()
    assert within(SPACE, large, limits).all()
    np.testing.assert_array_equal(large[:40], small)
    costs = SPACE.costs(large)
    assert all((costs[name] <= limit).all() for name, limit in limits.items())


def test_a_whole_small_space_is_found_and_not_one_more():
    space = OpSubset(layers=(LayerSettings(channels=4),), operations=("skip", "sep_conv_3", "dil_conv_3"))
    assert len(sample_distinct(space, 7, np.random.default_rng(5))) == 7
    with pytest.raises(InputError, match="found 7 distinct architectures within no limits, expected 8"):
        sample_distinct(space, 8, np.random.default_rng(5))
    assert sample_distinct(space, 0, np.random.default_rng(5)).shape == (0, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": ()},
        {"layers": ({"channels": 1},)},
        {"layers": ({"channels": 8, "stride": 3},)},
        {"layers": ({"channels": 8, "kernel": 3},)},
        {"layers": ({"channels": 8},) * 33},
        {"operations": ()},
        {"operations": ("skip", "skip")},
        {"operations": ("max_pool",)},
        {"stem_channels": 0},
        {"stem_channels": 65_537},
        {"head_channels": -1},
        {"input_size": 0},
        {"input_size": 1025},
        {"input_size": 31.5},
        {"input_channels": 17},
        {"classes": 1},
        {"classes": float("nan")},
        {"classes": float("inf")},
        {"kind": "op_set"},
        {"colour": 3},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValidationError):
        OpSubset.model_validate(wrong)


def test_settings_are_frozen_and_come_back_from_json():
    with pytest.raises(ValidationError, match="frozen"):
        SPACE.classes = 10
    for space in (SPACE, OpSubset(layers=({"channels": 8, "stride": 2},), operations=OPERATION_NAMES[:2], classes=7)):
        space.costs(space.sample(1, np.random.default_rng(0)))  # what is computed once is no part of the identity
        again = make_space(space.model_dump(mode="json"))
        assert again == space
        assert hash(again) == hash(space)


@given(with_architecture(op_subset_spaces()), st.floats(0.05, 1))
def test_a_narrower_space_has_the_same_architectures_with_fewer_channels(made, factor):
    space, architecture = made
    narrow = space.narrower(factor)
    assert narrow.parse(space.format(architecture)) == architecture
    for name in ("layers", "stem_channels", "head_channels"):
        wide, thin = (
            [getattr(one, name)] if name != "layers" else [x.channels for x in one.layers] for one in (space, narrow)
        )
        assert thin == [max(2, round(channels * factor)) for channels in wide]
    kept = {"layers", "stem_channels", "head_channels"}
    assert narrow.model_dump(exclude=kept) == space.model_dump(exclude=kept)
    assert [layer.stride for layer in narrow.layers] == [layer.stride for layer in space.layers]
    assert len(narrow.graph(architecture).nodes) == len(space.graph(architecture).nodes)


def test_a_narrower_space_by_hand():
    narrow = SPACE.narrower(0.25)
    assert [layer.channels for layer in narrow.layers] == [4, 8, 10, 20, 80]
    assert (narrow.stem_channels, narrow.head_channels) == (4, 320)
    assert SPACE.narrower(1) == SPACE
    assert SPACE.narrower(0.001).head_channels == 2


def test_a_picture_too_small_for_its_strides_is_refused():
    said = r"layers\.3: its stride finds a picture of 1 pixel; the layers halve 4 pixels 3 times, .* at least 5"
    with pytest.raises(ValidationError, match=said):
        OpSubset(input_size=4)
    assert OpSubset(input_size=5)


@given(op_subset_spaces())
def test_clauses_want_an_operation_in_each_layer(space):
    clauses = space.clauses()
    assert len(clauses) == len(space.layers)
    assert sorted(literal for clause in clauses for literal in clause) == [
        (choice, 1) for choice in range(len(space.cardinalities))
    ]
    rows = np.random.default_rng(0).integers(0, 2, size=(200, len(space.cardinalities))).astype(np.int8)
    kept = [np.any([rows[:, choice] == option for choice, option in clause], axis=0) for clause in clauses]
    np.testing.assert_array_equal(space.is_valid(rows), np.all(kept, axis=0))


def test_depths_by_hand():
    """Stem, head and classifier are 3; a separable convolution is two, skips are one but where nothing changes."""
    depths = SPACE.depths(np.concatenate([SPACE.parse(text).row() for text in (ALL_ON, ALL_SKIP, WINNER)]))
    assert depths.tolist() == [graph_depth(SPACE.graph(SPACE.parse(text))) for text in (ALL_ON, ALL_SKIP, WINNER)]
    assert depths[1] == 3 + 4
    assert depths[0] == depths[2] == SPACE.depths(SPACE.sample(1000, np.random.default_rng(0))).max()


@given(op_subset_spaces(), st.integers(0, 2**32))
def test_descent_finds_the_least_of_every_sum(space, seed):
    """In each layer the cheapest operation is left alone, which single changes do not lead to."""
    width = len(space.operations)
    weights = np.random.default_rng(seed).integers(1, 1000, len(space.cardinalities))
    row = space.descend(lambda rows: rows.astype(np.int64) @ weights)
    assert (row.astype(np.int64) @ weights).tolist() == [weights.reshape(-1, width).min(axis=1).sum()]


@given(op_subset_spaces())
def test_the_least_and_the_largest_depth_are_found(space):
    fixed, table = space._depth_table
    least, most = (fixed + ends.sum() for ends in (table.min(axis=1), table.max(axis=1)))
    check_limits(space, {"depth": Bound(least, least)})
    check_limits(space, {"depth": Bound(most, most)})
    with pytest.raises(InputError, match=f"limit depth: {least - 1} is below the cheapest"):
        check_limits(space, {"depth": int(least) - 1})
    with pytest.raises(InputError, match=f"limit depth: {most + 1} is above the costliest"):
        check_limits(space, {"depth": Bound(least=most + 1)})
