import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional as F

from supernet import COST_NAMES, Architecture, DavidNet, InputError, architectures, graph_costs, sample_distinct
from supernet.network import build_network
from tests.supernet.spaces import davidnet_spaces, with_architecture

SPACE = DavidNet(classes=10)
PUBLISHED = "128r-max 256-max 512r-max"
STAGE = ["conv", "max_pool", "batch_norm", "celu"]
RESIDUAL = [*["conv", "batch_norm", "celu"] * 2, "sum"]
HEAD = ["global_max", "linear", "scale"]


def ops(space, text):
    return [node.op for node in space.graph(space.parse(text)).nodes]


def test_the_default_has_the_weights_of_the_published_network():
    assert SPACE.format(SPACE.default) == PUBLISHED
    costs = graph_costs(SPACE.graph(SPACE.default))
    stem, first, second = 3 * 27 * 9 + 27 * 64, 64 * 128 * 9 + 2 * 128 * 128 * 9, 128 * 256 * 9
    third, linear = 256 * 512 * 9 + 2 * 512 * 512 * 9, 512 * 10
    norms = 2 * (64 + 3 * 128 + 256 + 3 * 512)
    assert costs.params == stem + first + second + third + linear + norms == 6_573_849
    macs = (3 * 27 * 9 + 27 * 64 + 64 * 128 * 9) * 32**2 + (2 * 128 * 128 * 9 + 128 * 256 * 9) * 16**2
    macs += 256 * 512 * 9 * 8**2 + 2 * 512 * 512 * 9 * 4**2
    assert (costs.conv_macs, costs.macs) == (macs, macs + linear) == (380_003_328, 380_008_448)
    pixels = (27 + 64 + 128) * 32**2 + (2 * 128 + 256) * 16**2 + 512 * 8**2 + 2 * 512 * 4**2
    assert costs.activations == pixels + 10


def test_the_default_calculates_what_was_published():
    """The network once more, written down by hand."""
    network = build_network(SPACE.graph(SPACE.default), 0).eval()
    state = network.state_dict()
    images = torch.randn(3, 3, 32, 32)

    def conv(x, name):
        return F.conv2d(x, state[f"{name}_conv.0.weight"], padding=state[f"{name}_conv.0.weight"].shape[2] // 2)

    def norm(x, name):
        mean, variance, weight, bias = (
            state[f"{name}_norm.0.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.celu(F.batch_norm(x, mean, variance, weight, bias), alpha=0.3)

    def residual(x, name):
        inner = norm(conv(x, f"{name}_residual1"), f"{name}_residual1")
        return x + norm(conv(inner, f"{name}_residual2"), f"{name}_residual2")

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        x = norm(conv(F.conv2d(images, state["whitening.0.weight"], padding=1), "stem"), "stem")
        x = residual(norm(F.max_pool2d(conv(x, "stage1"), 2), "stage1"), "stage1")
        x = norm(F.max_pool2d(conv(x, "stage2"), 2), "stage2")
        x = residual(norm(F.max_pool2d(conv(x, "stage3"), 2), "stage3"), "stage3")
        expected = 0.0625 * F.linear(x.amax(dim=(2, 3)), state["classifier.0.weight"])
        torch.testing.assert_close(network(images), expected)


def test_the_options_of_the_network_are_in_the_graph():
    stem = ["input", "conv", "conv", "batch_norm", "celu"]
    assert ops(SPACE, PUBLISHED) == [*stem, *STAGE, *RESIDUAL, *STAGE, *STAGE, *RESIDUAL, *HEAD]
    space = DavidNet(pool_before_norm=False, whitening_stem=False, activation="relu", ghost_images=0)
    late = ["conv", "batch_norm", "relu", "avg_pool"]
    assert ops(space, "32-average 64-average 128-average") == [
        "input", "conv", "batch_norm", "relu", *late, *late, *late, *HEAD,
    ]  # fmt: skip
    space = DavidNet(pool_before_norm=False, residuals=(1,), poolings=("max",))
    late = ["conv", "batch_norm", "celu", "max_pool"]
    assert ops(space, "32r-max 64r-max 128r-max")[5:-3] == [*late, *RESIDUAL] * 3


@pytest.mark.parametrize("side", [8, 9, 15, 16, 17, 33])
def test_what_is_left_of_the_side_is_pooled(side):
    space = DavidNet(input_size=side, widths=(0.0625,), stem_channels=4, classes=5)
    graph = space.graph(space.default)
    assert graph.nodes[-3].integer("kernel") == side // 8
    network = build_network(graph, 0)
    assert network(torch.randn(4, 3, side, side)).shape == (4, 5)


@given(with_architecture(davidnet_spaces()))
@settings(max_examples=20)
def test_networks_train(given_pair):
    space, architecture = given_pair
    network = build_network(space.graph(architecture), 0)
    scores = network(torch.randn(5, space.input_channels, space.input_size, space.input_size))
    scores.square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_every_architecture_is_costed_and_the_cheapest_found():
    every = np.array(list(itertools.product(*map(range, SPACE.cardinalities))), dtype=np.int8)
    assert len(every) == 8000
    batch = SPACE.costs(every)
    for position in range(0, 8000, 40):
        (architecture,) = architectures(SPACE, every[position : position + 1])
        assert tuple(int(batch[name][position]) for name in COST_NAMES) == graph_costs(SPACE.graph(architecture))
    for name in COST_NAMES:
        assert SPACE.costs(SPACE.cheapest(name).row())[name][0] == batch[name].min()


def test_samples_are_uniform():
    space = DavidNet(widths=(0.5, 1.0), residuals=(1, 0), poolings=("average",))
    choices = space.sample(64_000, np.random.default_rng(3))
    counts = np.bincount(choices[:, [0, 1, 3, 4, 6, 7]].astype(int) @ (32, 16, 8, 4, 2, 1), minlength=64)
    # 64 cells of 1,000 expected: chi-square with 63 degrees of freedom stays below 103 with probability .999.
    assert ((counts - 1000) ** 2 / 1000).sum() < 103
    assert len(sample_distinct(space, 64, np.random.default_rng(4))) == 64


def test_widths_are_multiples_of_8_and_residual_and_pooling_are_read():
    space = DavidNet(widths=(0.01, 0.3, 1.0))
    assert space.format(Architecture("davidnet", (0, 0, 1, 1, 1, 0, 1, 1, 1))) == "8-average 80r-max 152r-average"
    assert space.parse("128-max 256r-average 512-max").choices == (2, 0, 0, 2, 1, 1, 2, 0, 0)


def test_the_default_keeps_to_the_options_there_are():
    space = DavidNet(widths=(0.25, 0.8), residuals=(0,), poolings=("average",))
    assert space.format(space.default) == "104-average 208-average 408-average"
    space = DavidNet(widths=(1.25, 1.0), residuals=(1, 0), poolings=("average", "max"))
    assert space.format(space.default) == PUBLISHED


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a word for each of three stages, such as '128r-max 256-max 512r-max', got 0 words"),
        ("128r-max 256-max", "got 2 words"),
        ("128r-max 256-max 512r-max 512r-max", "got 4 words"),
        ("120r-max 256-max 512r-max", r"stage 1: expected channels \(32, 64, 96, 128, 160\), no r for none or an r"),
        ("128r-max 256-mx 512r-max", "stage 2: .* -max or -average, got '256-mx'. Did you mean '256-max'"),
        ("128r-max 256-max 512rr-max", "stage 3: .*Did you mean '512r-max'"),
        ("١٢٨r-max 256-max 512r-max", "stage 1"),
        ("-1-max 256-max 512r-max", "stage 1"),
        ("128r 256-max 512r-max", "stage 1"),
        ("310300310", "got 1 words"),
    ],
)
def test_text_that_is_no_architecture_is_refused(text, said):
    with pytest.raises(InputError, match=said):
        SPACE.parse(text)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"input_size": 7}, "three poolings halve the side; expected at least 8"),
        ({"input_size": 1025}, "less than or equal to 1024"),
        ({"widths": ()}, "at least 1"),
        ({"widths": (1.0, 1.0)}, "named twice"),
        ({"widths": (1.0, 1.01)}, "two widths of 128 channels are the same multiple of 8"),
        ({"widths": (0.0,)}, "greater than 0"),
        ({"widths": (17.0,)}, "less than or equal to 16"),
        ({"widths": (float("nan"),)}, "finite"),
        ({"residuals": ()}, "at least 1"),
        ({"residuals": (0, 2)}, "0 or 1"),
        ({"residuals": (1, 1)}, "named twice"),
        ({"poolings": ("median",)}, "'max' or 'average'"),
        ({"activation": "gelu"}, "'relu' or 'celu'"),
        ({"celu_alpha": 0}, "greater than 0"),
        ({"ghost_images": 1}, "expected 0 or at least 2"),
        ({"ghost_images": -1}, "greater than or equal to 0"),
        ({"output_scale": 0}, "greater than 0"),
        ({"classes": 1}, "greater than or equal to 2"),
        ({"kind": "op_subset"}, "'davidnet'"),
        ({"layers": ()}, "Extra inputs"),
    ],
)
def test_settings_are_checked(wrong, said):
    with pytest.raises(ValidationError, match=said):
        DavidNet.model_validate(wrong)


@given(st.floats(0.3, 1))
def test_a_narrower_space_has_the_same_architectures_with_fewer_channels(factor):
    space = DavidNet()
    narrow = space.narrower(factor)
    assert narrow.cardinalities == space.cardinalities
    costs = [one.costs(space.default.row()) for one in (narrow, space)]
    assert all(costs[0][name] <= costs[1][name] for name in costs[0])
    kept = {"widths", "stem_channels"}
    assert narrow.model_dump(exclude=kept) == space.model_dump(exclude=kept)


def test_a_space_can_be_too_narrow():
    with pytest.raises(InputError, match="two options of a stage become the same"):
        DavidNet().narrower(0.01)
