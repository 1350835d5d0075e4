"""Training-free metrics: against formulas written out, on every kind of network, leaving all as it was."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from predictor.zero_cost import (
    FLOOR,
    METRICS,
    Probe,
    convex,
    log_rank_sum,
    metric_names,
    score_network,
    score_networks,
)
from predictor.zero_cost.metrics import agreements
from predictor.zero_cost.probe import passages
from supernet import ArchGraph, DavidNet, InputError, Node, OpSubset, architectures
from supernet.network import build_network
from supernet.operations import OPERATIONS, Layer, operation
from tests.supernet.spaces import spaces_with_architecture


def chain(*nodes):
    """A network without branches, from 3 channels of side 4 to 5 classes."""
    whole = (operation("input", out=3, resolution=4), *nodes)
    return ArchGraph(whole, tuple((at, at + 1) for at in range(len(whole) - 1)))


def head(channels=6):
    return (
        operation("global_mean", in_=channels, out=channels, resolution=1),
        operation("linear", in_=channels, out=5, resolution=1),
    )


def stem(op="conv_bn_relu", channels=6):
    return operation(op, in_=3, out=channels, kernel=3, stride=1, resolution=4)


def norm_of(channels):
    return operation("bn_relu", out=channels, resolution=4)


def batch(space=None, count=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 4, 4) if space is None else (space.input_channels, space.input_size, space.input_size)
    classes = 5 if space is None else space.classes
    return torch.randn(count, *shape, generator=generator), torch.randint(0, classes, (count,), generator=generator)


def value(graph, name, seed=0, network=None, count=8):
    score = score_network(graph, [name], *batch(count=count), seed, network)[name]
    assert score.valid, score.reason
    return score.value


def test_synflow_of_a_network_worked_out_by_hand():
    """One pixel, one channel: R = |a| |b| (|c1| + |c2|), and each layer's sum of |w dR/dw| is R."""
    graph = ArchGraph(
        (
            operation("input", out=1, resolution=1),
            operation("conv", "first", in_=1, out=1, kernel=1, stride=1, resolution=1),
            operation("relu_conv_bn", "second", in_=1, out=1, kernel=1, stride=1, resolution=1),
            operation("global_mean", in_=1, out=1, resolution=1),
            operation("linear", "last", in_=1, out=2, resolution=1),
        ),
        ((0, 1), (1, 2), (2, 3), (3, 4)),
    )
    network = build_network(graph, 0)
    with torch.no_grad():
        network.first[0].weight.fill_(-2.0)
        network.second[1].weight.fill_(0.5)
        network.last[0].weight.copy_(torch.tensor([[3.0], [-4.0]]))
    images, labels = torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64)
    score = score_network(graph, ["synflow"], images, labels, network=network)["synflow"]
    assert score.value == math.log(3 * 2 * 0.5 * 7)


def plain_synflow(graph, network, images):
    """As written in the paper, in one go: no scaling."""
    network = network.double()
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    output = network(torch.ones(1, *images.shape[1:], dtype=torch.float64))
    gradients = torch.autograd.grad(output.sum(), weights)
    return math.fsum(
        float((weight * gradient).detach().abs().sum()) for weight, gradient in zip(weights, gradients, strict=True)
    )


@pytest.mark.parametrize("space", [DavidNet(input_size=16, widths=[0.1], ghost_images=2), DavidNet(input_size=8)])
def test_scaled_synflow_is_plain_synflow(space):
    graph = space.graph(space.parse(space.format(architectures(space, space.sample(1, np.random.default_rng(0)))[0])))
    images, labels = batch(space, 2)
    network = build_network(graph, 3)
    scaled = score_network(graph, ["synflow"], images, labels, network=network)["synflow"].value
    assert scaled == pytest.approx(math.log(plain_synflow(graph, network, images)), rel=1e-13)


@pytest.mark.parametrize("factor", [1.0, 1e4])
def test_synflow_overflows_at_no_depth(factor):
    """The plain value of 250 wide layers is beyond any float; a factor on every weight adds its log for each."""
    depth = 250
    convolutions = [operation("conv", in_=6, out=6, kernel=3, stride=1, resolution=4) for _ in range(depth)]
    graph = chain(stem("conv"), *convolutions, *head())
    network = build_network(graph, 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(factor)
    plain = value(graph, "synflow", network=network)
    assert plain > 250 * math.log(6)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(8)
    assert value(graph, "synflow", network=network) == pytest.approx(plain + (depth + 2) * math.log(8), rel=1e-12)


def test_a_branch_of_zeros_does_not_drown_the_other():
    """Its scale, as large as the flow before it was, must not count in the sum."""
    grown = operation("conv", "grown", in_=6, out=6, kernel=3, stride=1, resolution=4)
    nodes = (
        operation("input", out=3, resolution=4), stem("conv"), grown,
        operation("zero", out=6, resolution=4), operation("sum", out=6, resolution=4), *head(),
    )  # fmt: skip
    graph = ArchGraph(nodes, ((0, 1), (1, 2), (2, 3), (3, 4), (1, 4), (4, 5), (5, 6)))
    network = build_network(graph, 0)
    with torch.no_grad():
        network.grown[0].weight.fill_(1e38)
    assert value(graph, "synflow", network=network) == pytest.approx(
        math.log(plain_synflow(graph, build_network(graph, 0), batch()[0])), rel=1e-12
    )


@pytest.mark.parametrize("op", ["conv_bn_relu6", "conv_bn_hswish"])
def test_bounded_activations_do_not_stop_the_flow(op):
    assert value(chain(stem(op), *head()), "synflow") == value(chain(stem("conv_bn_relu"), *head()), "synflow")


def test_hook_logdet_is_the_formula():
    graph = chain(
        stem("conv_bn_relu6"), operation("relu_conv_bn", in_=6, out=6, kernel=3, stride=1, resolution=4), *head()
    )
    network = build_network(graph, 0).train()
    images, _ = batch()
    with torch.no_grad():
        first = network.get_submodule("conv_bn_relu6_1")[:2](images)
    kernel = np.zeros((8, 8))
    for inputs in (first, first.clamp(0, 6)):
        codes = (inputs > 0).flatten(1).double().numpy()
        kernel += codes @ codes.T + (1 - codes) @ (1 - codes).T
    assert value(graph, "hook_logdet") == pytest.approx(np.linalg.slogdet(kernel)[1], rel=1e-9)


@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 99))
def test_agreements_count_elements(count, channels, seed):
    inputs = torch.randn(count, channels, 3, 2, generator=torch.Generator().manual_seed(seed))
    codes = (inputs > 0).flatten(1)
    expected = (codes[:, None] == codes[None]).sum(dim=2).double().numpy()
    assert np.array_equal(agreements(inputs), expected)


def test_snip_and_grad_norm_are_their_formulas():
    graph = chain(stem(), *head())
    network = build_network(graph, 0).train()
    images, labels = batch()
    nn.functional.cross_entropy(network(images), labels).backward()
    weights = [network.conv_bn_relu_1[0].weight, network.linear_3[0].weight]
    assert value(graph, "snip") == pytest.approx(sum((w * w.grad).abs().sum().item() for w in weights), rel=1e-4)
    assert value(graph, "grad_norm") == pytest.approx(sum(w.grad.norm().item() for w in weights), rel=1e-4)


def test_jacob_cov_is_its_formula():
    graph = chain(stem(), *head())
    network = build_network(graph, 0).train()
    images = batch()[0].requires_grad_()
    network(images).sum().backward()
    values = np.linalg.eigvalsh(np.corrcoef(images.grad.flatten(1).double().numpy())) + 1e-5
    assert value(graph, "jacob_cov") == pytest.approx(-(np.log(values) + 1 / values).sum(), rel=1e-2)


def test_expressivity_is_entropy_of_the_spectrum():
    graph = chain(stem("conv"), *head())
    probe = Probe(graph, *batch())
    (features,) = (output.detach().permute(0, 2, 3, 1).reshape(-1, 6).double() for output in probe.block_outputs)
    shares = np.linalg.eigvalsh(np.cov(features.numpy(), rowvar=False))
    assert METRICS["expressivity"](probe) == pytest.approx(stats.entropy(shares), rel=1e-4)


def test_progressivity_is_the_least_gain_and_trainability_best_where_size_is_kept():
    narrow = operation("conv", in_=6, out=2, kernel=1, stride=1, resolution=4)
    assert value(chain(stem("conv"), narrow, *head(2)), "progressivity") < 0
    wide = operation("conv", in_=6, out=24, kernel=1, stride=1, resolution=4)
    for graph in (chain(stem("conv"), narrow, *head(2)), chain(stem("conv"), wide, *head(24))):
        assert value(graph, "trainability") <= 0
    assert value(chain(stem("conv"), narrow, *head(2)), "trainability") == value(
        chain(stem("conv"), operation("skip", in_=6, out=6, stride=1, resolution=4), narrow, *head(2)), "trainability"
    )


def test_passages_are_what_no_edge_leads_past():
    nodes = (operation("input", out=3, resolution=4), stem(), *(operation("skip", in_=6, out=6, stride=1, resolution=4)
             for _ in range(2)), operation("sum", out=6, resolution=4), *head())  # fmt: skip
    graph = ArchGraph(nodes, ((0, 1), (1, 2), (1, 3), (2, 4), (3, 4), (4, 5), (5, 6)))
    assert passages(graph) == [1, 4, 5, 6]


def test_a_block_convolves_or_joins():
    pool = operation("avg_pool", out=6, kernel=2, resolution=2)
    assert len(Probe(chain(stem("conv"), norm_of(6), pool, *head()), *batch()).block_outputs) == 1
    wide = operation("mbconv", in_=6, out=8, kernel=3, stride=1, expansion=2, resolution=4)
    outputs = Probe(chain(stem("conv"), norm_of(6), wide, norm_of(8), *head(8)), *batch()).block_outputs
    assert [output.shape[1] for output in outputs] == [6, 8]


@settings(max_examples=40)
@given(spaces_with_architecture())
def test_every_network_has_finite_scores(drawn):
    space, architecture = drawn
    scores = score_network(space.graph(architecture), METRICS, *batch(space, 6), 0)
    for name, score in scores.items():
        assert math.isfinite(score.value), name
        assert score.valid or (score.value == FLOOR and score.reason), name
    assert scores["macs"].valid
    assert scores["params"].valid
    assert all(score.value > FLOOR for score in scores.values() if score.valid)


@pytest.mark.parametrize("where", ["everywhere", "one branch"])
def test_zeros_give_invalid_scores_or_valid_ones_and_never_an_error(where):
    zero = operation("zero", out=6, resolution=4)
    if where == "everywhere":
        graph = chain(stem("conv_bn"), zero, operation("bn_relu", out=6, resolution=4), *head())
    else:
        nodes = (operation("input", out=3, resolution=4), stem(), zero, operation("sum", out=6, resolution=4), *head())
        graph = ArchGraph(nodes, ((0, 1), (1, 2), (2, 3), (1, 3), (3, 4), (4, 5)))
    scores = score_network(graph, METRICS, *batch())
    for name in ("hook_logdet", "synflow", "snip", "grad_norm", "jacob_cov"):
        # The bias of the classifier alone still learns, and no weight counts it.
        assert scores[name].valid == (where == "one branch"), name
        assert scores[name].value == FLOOR or where == "one branch"


def test_one_channel_one_image_and_no_activation():
    lonely = chain(stem("conv_bn", 1), *head(1))
    scores = score_network(lonely, METRICS, *batch())
    assert not scores["hook_logdet"].valid
    assert scores["synflow"].valid
    for score in score_network(lonely, METRICS, *batch(count=1)).values():
        assert math.isfinite(score.value)


def test_values_that_overflow_are_invalid():
    graph = chain(stem("conv"), *head())
    network = build_network(graph, 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(3e38)
    scores = score_network(graph, METRICS, *batch(), network=network)
    assert not scores["snip"].valid
    assert scores["snip"].value == FLOOR
    assert scores["synflow"].valid


def test_one_network_that_cannot_be_built_spoils_no_other():
    broken = ArchGraph((Node("input"), Node("magic")), ((0, 1),))
    seen = []
    scores = score_networks(
        [broken, chain(stem(), *head())], ["snip", "params"], *batch(), progress=lambda *counts: seen.append(counts)
    )
    assert not scores[0]["snip"].valid
    assert "magic" in scores[0]["snip"].reason
    assert scores[1]["snip"].valid
    assert scores[1]["params"].valid
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize("training", [True, False])
def test_the_callers_network_and_randomness_stay_as_they_are(training):
    space = DavidNet(input_size=16, widths=[0.1], ghost_images=2, activation="celu")
    graph = space.graph(architectures(space, space.sample(1, np.random.default_rng(0)))[0])
    network = build_network(graph, 0).train(training)
    images, labels = batch(space)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    pictures, state = images.clone(), torch.get_rng_state()
    numbers = np.random.get_state()[1].copy()  # noqa: NPY002 - the global one
    with torch.no_grad():
        score_network(graph, METRICS, images, labels, network=network)
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(numbers, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(images, pictures)
    assert not images.requires_grad
    assert network.training is training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(not module._forward_hooks for module in network.modules())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_seed_decides_all():
    space = OpSubset(input_size=8, head_channels=16, classes=5)
    graph = space.graph(architectures(space, space.sample(1, np.random.default_rng(1)))[0])
    first, again, other = (score_network(graph, METRICS, *batch(space), seed) for seed in (0, 0, 1))
    assert {name: score.value for name, score in first.items()} == {name: score.value for name, score in again.items()}
    differing = [name for name in METRICS if first[name].value != other[name].value]
    assert differing == [name for name in METRICS if name not in ("macs", "params")]


def test_scoring_works_where_gradients_are_off():
    graph = chain(stem(), *head())
    expected = value(graph, "snip")
    with torch.inference_mode():
        images, labels = batch()
        assert score_network(graph, ["snip"], images, labels)["snip"].value == expected


def test_squeeze_excitation_leaves_its_gate_open():
    attributes = {"in_": 6, "out": 6, "kernel": 3, "stride": 1, "expansion": 2, "resolution": 4}
    plain = chain(stem(), operation("mbconv", **attributes, se=0), *head())
    gated = chain(stem(), operation("mbconv", **attributes, se=1), *head())
    score = score_network(gated, METRICS, *batch())
    assert all(score[name].valid for name in METRICS if name != "progressivity")
    network, other = build_network(gated, 0), build_network(plain, 1)
    with torch.no_grad():
        for parameter in [*network.parameters(), *other.parameters()]:
            parameter.fill_(0.5)
    assert value(gated, "synflow", network=network) == value(plain, "synflow", network=other)


def test_metric_names_are_checked():
    assert metric_names(["snip", "snip", "macs"]) == ("snip", "macs")
    with pytest.raises(InputError, match="synflow"):
        metric_names(["sinflow"])
    with pytest.raises(InputError, match="none named"):
        metric_names([])


columns = st.integers(1, 12).flatmap(
    lambda count: st.fixed_dictionaries(
        {
            name: st.lists(
                st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6), st.sampled_from([math.nan, -math.inf])),
                min_size=count,
                max_size=count,
            )
            for name in ("hook_logdet", "synflow")
        }
    )
)


@pytest.mark.parametrize("combine", [convex, log_rank_sum])
@given(given_columns=columns, random=st.randoms(use_true_random=False))
def test_combinations(combine, given_columns, random):
    """Finite; the order of networks and of metrics is nothing; better in all is not worse; invalid ones come last."""
    arrays = {name: np.array(column) for name, column in given_columns.items()}
    combined = combine(arrays)
    count = len(combined)
    assert np.isfinite(combined).all()
    order = list(range(count))
    random.shuffle(order)
    assert combine({name: column[order] for name, column in arrays.items()}) == pytest.approx(combined[order])
    assert combine(dict(reversed(arrays.items()))) == pytest.approx(combined)
    valid = np.isfinite(np.array(list(arrays.values()))).all(axis=0)
    if valid.any() and not valid.all():
        assert combined[valid].min() > combined[~valid].max()
    for one in np.flatnonzero(valid):
        for other in np.flatnonzero(valid):
            if all(column[one] >= column[other] for column in arrays.values()):
                assert combined[one] >= combined[other] - 1e-9


def test_combinations_by_hand():
    values = {"hook_logdet": [0.0, 5.0, 10.0], "synflow": [4.0, 2.0, 2.0]}
    assert convex(values) == pytest.approx([0.4, 0.3, 0.6])
    assert convex(values, weights={"hook_logdet": 1, "synflow": 3}) == pytest.approx([0.75, 0.125, 0.25])
    assert log_rank_sum(values) == pytest.approx([math.log(1 / 3 * 3 / 3), math.log(2 / 3 * 0.5), math.log(0.5)])
    flagged = log_rank_sum(values, {"hook_logdet": [True, True, False], "synflow": [True] * 3})
    assert flagged.argmin() == 2
    assert log_rank_sum({"a": []}).shape == (0,)


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 1.0, "b": -1.0}, {"a": 0.0, "b": 0.0}])
def test_weights_must_fit(weights):
    with pytest.raises(InputError, match="expected a weight"):
        convex({"a": [1.0], "b": [2.0]}, weights=weights)


def test_columns_must_fit():
    with pytest.raises(InputError, match="one number for each"):
        log_rank_sum({"a": [1.0], "b": [1.0, 2.0]})


def test_a_new_operation_and_a_new_metric_need_nothing_else(monkeypatch):
    monkeypatch.setitem(OPERATIONS, "twice", lambda node: (Layer("scale", value=2.0),))
    monkeypatch.setitem(METRICS, "outputs", lambda probe: float(probe.network(probe.images).shape[1]))
    graph = chain(stem(), operation("twice", out=6, resolution=4), *head())
    assert value(graph, "outputs") == 5


def test_what_says_nothing_anywhere_in_a_chain_is_not_passed_over():
    """Blocks conv, conv, nothing, conv: two gains are no numbers, one is."""
    conv = operation("conv_bn_relu", in_=6, out=6, kernel=3, stride=1, resolution=4)
    dead = chain(stem(), conv, operation("zero", out=6, resolution=4), conv, *head())
    score = score_network(dead, ["expressivity", "progressivity"], *batch())
    assert not score["expressivity"].valid
    assert not score["progressivity"].valid


def test_a_machine_without_memory_says_nothing_of_the_network(monkeypatch):
    def full(probe):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(METRICS, "synflow", full)
    with pytest.raises(torch.OutOfMemoryError):
        score_network(chain(stem(), *head()), ["synflow"], *batch())
