import csv
import io
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from analysis.spectra import (
    MEASURES,
    Covariance,
    LayerSpectrum,
    average_by_depth,
    feature_spectra,
    measures,
    spectrum_from_json,
    spectrum_rows,
    spectrum_to_json,
)
from supernet import Architecture, Families, InputError, OpSubset, architectures
from supernet.network import build_network
from supernet.op_subset import LayerSettings

VGG = Families(family="vgg", depth=(1, 6), channels=(4, 6), kernels=(3,), stem_channels=5, input_size=16, classes=4)
RESNET = VGG.model_copy(update={"family": "resnet"})
DENSENET = Families(family="densenet", depth=(1, 3), growths=(3,), layers=(2,), kernels=(3,), stem_channels=6,
                    input_size=8, classes=4)  # fmt: skip
OP_SUBSET = OpSubset(
    layers=[LayerSettings(channels=6, stride=2), LayerSettings(channels=8, stride=1)],
    operations=("skip", "sep_conv_3", "dil_conv_3"), stem_channels=4, head_channels=9, input_size=8, classes=3,
)  # fmt: skip


def network_of(space, text):
    return build_network(space.graph(space.parse(text)), seed=0)


def plain():
    """Layers of 8x8, 4x4 and 1x1 pixels."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 2, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(5, 4),
    )  # fmt: skip


def pictures(count=12, channels=3, side=8, seed=0):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def hooks_of(network):
    return sum(len(module._forward_hooks) for module in network.modules())


def covariance_of(*pieces):
    covariance = Covariance()
    for piece in pieces:
        covariance.add(torch.as_tensor(piece))
    return covariance


# Measures.


@pytest.mark.parametrize("count", [1, 2, 10, 64, 1000])
@pytest.mark.parametrize("size", [1e-300, 1.0, 1e300])
def test_equal_eigenvalues_are_as_many_directions(count, size):
    found = measures(np.full(count, size))
    assert tuple(found) == MEASURES
    for name in ("participation_ratio", "effective_rank", "stable_rank"):
        assert found[name] == pytest.approx(count, rel=1e-12)
    assert found["rankme"] == pytest.approx(count, rel=1e-3)  # for the 1e-7 added to each share
    for share in (90, 95, 99):
        assert found[f"directions_{share}"] == math.ceil(count * share / 100)
    assert max(found.values()) <= count


def test_one_direction_is_one_whatever_else_could_vary():
    found = measures(np.array([0.0, 7.0, 0.0, 0.0]))
    rankme = found.pop("rankme")
    assert set(found.values()) == {1.0}
    assert rankme == pytest.approx(1 + 3e-7 * (-math.log(1e-7)) - 1e-7, abs=1e-9)


def test_nothing_that_varies_is_no_direction():
    assert measures(np.zeros(5)) == dict.fromkeys(MEASURES, 0.0)


def test_a_geometric_spectrum_has_the_values_of_its_sums():
    ratio, count = 0.5, 40  # so many that the rest is lost in rounding
    found = measures(ratio ** np.arange(count))
    assert found["participation_ratio"] == pytest.approx((1 + ratio) / (1 - ratio))
    assert found["stable_rank"] == pytest.approx(1 / (1 - ratio))
    # Entropy of a geometric distribution with success 1 - q: (-(1-q) log(1-q) - q log q) / (1 - q).
    assert found["effective_rank"] == pytest.approx(4.0)
    root = math.sqrt(ratio)
    entropy = (-(1 - root) * math.log(1 - root) - root * math.log(root)) / (1 - root)
    assert found["rankme"] == pytest.approx(math.exp(entropy), rel=1e-3)
    # 1 - q^k reaches the share.
    assert [found[f"directions_{share}"] for share in (90, 95, 99)] == [4, 5, 7]


def test_rankme_is_what_the_paper_computes_from_the_features():
    features = np.random.default_rng(0).standard_normal((200, 7)) * np.arange(1, 8)
    singular = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
    shares = singular / singular.sum() + 1e-7
    found = measures(covariance_of(features).eigenvalues)
    assert found["rankme"] == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-10)
    assert found["stable_rank"] == pytest.approx((singular**2).sum() / singular[0] ** 2, rel=1e-10)


spectra_of_some = st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=30).map(np.array)


@given(spectra_of_some, st.floats(1e-6, 1e6))
def test_measures_are_bounded_ordered_and_know_neither_scale_nor_order(values, scale):
    found = measures(values)
    if values.max() == 0:
        assert set(found.values()) == {0.0}
        return
    assert all(1 <= value <= len(values) for value in found.values())
    assert found["stable_rank"] <= found["participation_ratio"] * (1 + 1e-9)  # sum(l^2) <= max(l) sum(l)
    assert found["participation_ratio"] <= found["effective_rank"] * (1 + 1e-9)  # Renyi's entropy of order 2
    assert found["effective_rank"] <= found["rankme"] * (1 + 1e-4)
    assert found["directions_90"] <= found["directions_95"] <= found["directions_99"]
    again = measures(values[::-1] * scale)
    for name in MEASURES[:4]:
        assert again[name] == pytest.approx(found[name], rel=1e-9)


@pytest.mark.parametrize("values", [[], [[1.0]], [1.0, -1e-3], [math.nan], [math.inf, 1.0], 3.0])
def test_what_are_no_eigenvalues_is_refused(values):
    with pytest.raises(InputError, match="eigenvalues: expected"):
        measures(np.array(values))


# Covariance.


@given(st.integers(0, 10**6), st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_any_pieces_in_any_order_give_the_covariance_of_the_whole(seed, sizes, channels):
    random = np.random.default_rng(seed)
    whole = random.standard_normal((sum(sizes) + 2, channels)) * 10 ** random.uniform(-3, 3, channels)
    pieces = np.split(whole, np.cumsum(sizes))
    random.shuffle(pieces)
    found = covariance_of(*pieces)
    expected = np.cov(whole.T).reshape(channels, channels)
    sizes_of = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert found.count == len(whole)
    assert np.abs(found.matrix - expected).max() <= 1e-12 * sizes_of.max()
    assert np.allclose(found.eigenvalues, np.linalg.eigvalsh(expected)[::-1], atol=1e-12 * sizes_of.max())


def test_pictures_are_samples_of_their_channels():
    images = pictures(5, 4, 3)
    rows = images.permute(0, 2, 3, 1).reshape(-1, 4).double().numpy()
    found = covariance_of(images[:2], images[2:])
    assert found.count == 45
    assert np.allclose(found.matrix, np.cov(rows.T), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mean", [1e6, -1e9])
def test_a_large_mean_takes_no_digits(mean):
    # Multiples of 1/1024 stay exact on top of the mean, so whatever is lost is lost by the sums.
    small = np.random.default_rng(0).integers(-1024, 1024, (4000, 3)) / 1024
    found = covariance_of(*np.array_split(small + mean, 7))
    assert np.abs(found.matrix / np.cov(small.T) - 1).max() < 1e-9


def test_a_mean_that_wanders_takes_no_digits():
    small = np.random.default_rng(0).integers(-1024, 1024, (4000, 2)) / 1024 + np.repeat([[0], [1e6]], 2000, axis=0)
    assert np.allclose(covariance_of(*np.array_split(small, 9)).matrix, np.cov(small.T), rtol=1e-13)


def test_what_never_changes_has_exactly_no_variance():
    covariance = Covariance()
    for _ in range(7):
        covariance.add(torch.full((3, 4, 5, 5), 0.1))
    assert (covariance.matrix == 0).all()
    assert measures(covariance.eigenvalues) == dict.fromkeys(MEASURES, 0.0)


def test_memory_does_not_grow_with_samples():
    def elements(covariance):
        return sum(value.numel() for value in vars(covariance).values() if isinstance(value, torch.Tensor))

    covariance = covariance_of(pictures(2, 6))
    assert elements(covariance) == 6 * 6 + 2 * 6
    storages = sum(
        value.untyped_storage().nbytes() for value in vars(covariance).values() if not isinstance(value, int)
    )
    assert storages == 8 * (6 * 6 + 2 * 6)  # no view that holds the batch
    for seed in range(20):
        covariance.add(pictures(9, 6, seed=seed))
    assert covariance.count == (2 + 20 * 9) * 64
    assert elements(covariance) == 6 * 6 + 2 * 6


def test_the_first_batch_is_left_as_it_was():
    images = torch.randn(4, 3, dtype=torch.float64)
    before = images.clone()
    covariance = covariance_of(images, images)
    assert torch.equal(images, before)
    matrix = covariance.matrix.copy()
    images.zero_()
    assert np.array_equal(covariance.matrix, matrix)


def test_half_precision_is_added_up_in_double():
    rows = (torch.arange(4096) % 7).half()[:, None]
    assert covariance_of(rows).matrix[0, 0] == pytest.approx(np.cov(rows[:, 0].double().numpy()), rel=1e-12)


def test_features_that_cannot_be_are_refused():
    with pytest.raises(InputError, match=r"got \(2, 3, 4\)"):
        Covariance().add(torch.zeros(2, 3, 4))
    covariance = covariance_of(torch.zeros(1, 3))
    with pytest.raises(InputError, match=r"at least 2 samples .* got 1"):
        _ = covariance.matrix
    with pytest.raises(InputError, match="expected 3 channels as before, got 4"):
        covariance.add(torch.zeros(2, 4))
    covariance.add(torch.tensor([[0.0, math.inf, 0.0]]))
    with pytest.raises(InputError, match="not finite"):
        _ = covariance.eigenvalues
    with pytest.raises(InputError, match="got 0"):
        _ = Covariance().matrix


# Networks.


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_features_of_a_planted_rank_have_it(rank):
    layer = nn.Conv2d(rank, 20, 1, bias=True).double()
    basis, _ = torch.linalg.qr(torch.randn(20, rank, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    with torch.no_grad():
        layer.weight.copy_(basis[:, :, None, None])
    network = nn.Sequential(layer)
    (found,) = feature_spectra(network, [pictures(400, rank, 4).double()], positions=16)
    values = np.array(found.eigenvalues)
    assert (values > 0).sum() == rank
    assert found.channels == 20
    assert found.measures["participation_ratio"] == pytest.approx(rank, rel=0.02)  # noise of equal strength
    assert found.relative["participation_ratio"] == found.measures["participation_ratio"] / 20
    assert found.measures["directions_99"] == rank


FAMILIES = (
    (VGG, "sep4x3 max sep6x3 avg sep4x3", ["stem", "node1", "node3", "node5"], ["conv_bn_relu", *["sep_conv"] * 3]),
    (
        RESNET, "res6x3 sum max res4x3 sum sep4x3", ["stem", "node1_branch", "node4_branch", "node6"],
        ["conv_bn_relu", "res_branch", "res_branch", "sep_conv"],
    ),
    (
        DENSENET, "dense3x2x3 dense3x2x3",
        ["stem", "block1_layer1", "block1_layer2", "transition1", "block2_layer1", "block2_layer2"],
        ["conv_bn_relu", "dense_layer", "dense_layer", "transition", "dense_layer", "dense_layer"],
    ),
    (
        OP_SUBSET, "111 101",
        ["stem", "layer1_skip", "layer1_sep_conv_3", "layer1_dil_conv_3", "layer2_skip", "layer2_dil_conv_3", "head"],
        ["conv_bn_relu6", "skip", "sep_conv", "dil_conv", "skip", "dil_conv", "conv_bn_relu6"],
    ),
)  # fmt: skip


@pytest.mark.parametrize(("space", "text", "layers", "operations"), FAMILIES)
def test_a_built_network_gives_its_nodes_with_convolutions_in_order(space, text, layers, operations):
    network = network_of(space, text)
    images = pictures(6, side=space.input_size)
    found = feature_spectra(network, [images[:4], images[4:]], positions=32)
    assert [one.layer for one in found] == layers
    assert [one.operation for one in found] == operations
    assert [one.place for one in found] == [number / (len(layers) - 1) for number in range(len(layers))]
    assert {one.samples for one in found} == {6 * 32}
    for one in found:
        assert one.channels == len(one.eigenvalues)
        assert all(1 <= value <= one.channels for value in one.measures.values())
        assert list(one.eigenvalues) == sorted(one.eigenvalues, reverse=True)
        assert one.eigenvalues[-1] >= 0


@pytest.mark.parametrize("space", [VGG, RESNET, DENSENET, OP_SUBSET])
def test_random_networks_of_a_space_are_read(space):
    rows = space.sample(3, np.random.default_rng(0))
    for architecture in architectures(space, rows):
        assert isinstance(architecture, Architecture)
        network = build_network(space.graph(architecture), seed=0)
        found = feature_spectra(network, [pictures(4, side=space.input_size)], positions=8)
        assert {one.samples for one in found} == {32}
        assert (found[0].place, found[0].layer) == (0.0, "stem")


def test_layers_are_named_in_any_order_and_come_as_they_run():
    found = feature_spectra(plain(), [pictures()], layers=["4", "2", "1", "5"], positions=10)
    assert [one.layer for one in found] == ["1", "2", "4", "5"]
    assert [one.operation for one in found] == ["ReLU", "Conv2d", "Flatten", "Linear"]
    assert [one.place for one in found] == [0, 1 / 3, 2 / 3, 1]
    assert [one.channels for one in found] == [6, 5, 5, 4]
    assert [one.layer for one in feature_spectra(plain(), [pictures()])] == ["0", "2"]
    (alone,) = feature_spectra(plain(), [pictures()], layers=["2"])
    assert alone.place == 0


def test_every_layer_has_as_many_samples_and_says_how_many_differ():
    found = feature_spectra(plain(), [pictures(12), pictures(5, seed=1)], layers=["0", "2", "4"], positions=200)
    assert {one.samples for one in found} == {17 * 200}
    large, small, vector = (one.distinct for one in found)
    assert vector == 17
    assert 17 * 15 <= small <= 17 * 16  # of 16 pixels 200 draws miss hardly one
    assert 17 * 50 <= large <= 17 * 64


def test_a_vector_has_the_covariance_of_its_images():
    network = plain().double()
    images = pictures(40).double()
    (found,) = feature_spectra(network, [images], layers=["4"], positions=3)
    with torch.no_grad():
        vectors = network[:5](images).numpy()
    expected = np.linalg.eigvalsh(np.cov(vectors.T, ddof=0))[::-1] * 120 / 119
    assert np.allclose(found.eigenvalues, expected, rtol=1e-9)


def test_the_draw_is_over_all_pixels_alike():
    """Channels are the pixel's own row and column: the mean and the variance are those of a uniform grid."""
    side, count = 5, 4000
    grid = torch.stack(torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij")).expand(count, 2, 5, 5)
    (found,) = feature_spectra(nn.Sequential(nn.Identity()), [grid], layers=["0"], positions=4)
    assert found.samples == 4 * count
    assert np.allclose(found.eigenvalues, (side**2 - 1) / 12, rtol=0.05)


def test_the_same_places_are_read_in_every_layer_network_and_condition():
    """A layer of half the side reads where the full one does: pooled places equal the pixels they came from."""
    coarse = pictures(6, 3, 4)
    fine = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    network = nn.Sequential(nn.Identity(), nn.MaxPool2d(2))
    large, small = feature_spectra(network, [fine], layers=["0", "1"], positions=9)
    assert large.eigenvalues == small.eigenvalues
    (alone,) = feature_spectra(nn.Sequential(nn.Identity()), [coarse], layers=["0"], positions=9)
    assert alone.eigenvalues == small.eigenvalues
    (other,) = feature_spectra(nn.Sequential(nn.Identity()), [coarse], layers=["0"], positions=9, seed=1)
    assert other.eigenvalues != small.eigenvalues


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_the_size_of_batches_makes_no_difference(sizes):
    network = plain().double()
    images = pictures(sum(sizes)).double()
    whole = feature_spectra(network, [images], positions=5)
    parts = feature_spectra(network, torch.split(images, sizes), positions=5)
    for one, other in zip(whole, parts, strict=True):
        assert replace(one, eigenvalues=()) == replace(other, eigenvalues=())
        assert np.allclose(one.eigenvalues, other.eigenvalues, rtol=1e-9, atol=1e-12)


def test_a_later_layer_that_writes_in_place_changes_nothing():
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 6, 3)
    before = feature_spectra(nn.Sequential(convolution), [pictures()])
    after = feature_spectra(nn.Sequential(convolution, nn.ReLU(inplace=True)), [pictures()])
    assert before[0].eigenvalues == after[0].eigenvalues


def test_training_modes_come_back_module_by_module_and_statistics_stay():
    network = network_of(VGG, "sep4x3 max sep6x3")
    network.train()
    network.get_submodule("node1").eval()
    modes = [module.training for module in network.modules()]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    random = torch.get_rng_state()
    feature_spectra(network, [pictures(side=16)], positions=4)
    assert [module.training for module in network.modules()] == modes
    assert len(set(modes)) == 2
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert hooks_of(network) == 0


def test_dropout_is_off():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5)).train()
    plainly, dropped = feature_spectra(network, [pictures()], layers=["0", "1"])
    assert plainly.eigenvalues == dropped.eigenvalues


def test_hooks_and_mode_come_back_after_an_exception():
    network = plain().train()

    def batches():
        yield pictures()
        assert not network.training
        assert hooks_of(network) == 2
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        feature_spectra(network, batches())
    with pytest.raises(RuntimeError, match="channels"):
        feature_spectra(network, [pictures(channels=4)])
    assert hooks_of(network) == 0
    assert all(module.training for module in network.modules())


class Unusual(nn.Module):
    """Layers that do not run, run twice, or give no tensor."""

    def __init__(self):
        super().__init__()
        self.twice, self.never, self.recurrent = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.GRU(3, 3)

    def forward(self, x):
        x = self.twice(self.twice(x))
        self.recurrent(x.mean(dim=(2, 3)))
        return x


def test_layers_that_cannot_be_read_are_named():
    network = Unusual()
    (found,) = feature_spectra(network, [pictures(4)], layers=["twice"], positions=6)
    assert found.samples == 24
    with torch.no_grad():
        last = nn.Sequential(network.twice, network.twice)(pictures(4))
    (expected,) = feature_spectra(nn.Sequential(nn.Identity()), [last], layers=["0"], positions=6)
    assert found.eigenvalues == expected.eigenvalues
    with pytest.raises(InputError, match="'never' does not run"):
        feature_spectra(network, [pictures()])
    with pytest.raises(InputError, match=r"'recurrent': expected .* got tuple"):
        feature_spectra(network, [pictures()], layers=["recurrent"])
    broken = plain()
    with torch.no_grad():
        broken[0].weight[0] = math.nan
    with pytest.raises(InputError, match="layer '0': features are not finite"):
        feature_spectra(broken, [pictures()])


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"layers": ["stme"]}, "layer 'stme' is unknown; known: .* Did you mean 'stem'"),
        ({"layers": [""]}, "layer '' is unknown"),
        ({"layers": ["stem", "stem"]}, "'stem' is named twice"),
        ({"layers": []}, "at least one name"),
        ({"positions": 0}, "positions: expected at least 1, got 0"),
        ({"batches": []}, "at least one image"),
        ({"batches": [torch.zeros(0, 3, 16, 16)]}, "at least one image"),
        ({"batches": [torch.zeros(1, 3, 16, 16)], "positions": 1}, "layer 'stem': .* at least 2 samples"),
        ({"batches": [(torch.zeros(1, 3, 16, 16), torch.zeros(1))]}, "expected tensors of images, got tuple"),
        ({"network": nn.Sequential(nn.Linear(3, 3))}, "no child of the network holds a convolution"),
    ],
)
def test_wrong_input_is_refused_by_name(settings_, message):
    network = network_of(VGG, "sep4x3")
    with pytest.raises(InputError, match=message):
        feature_spectra(**{"network": network, "batches": [pictures(2, side=16)], **settings_})
    assert hooks_of(network) == 0


def test_a_layer_that_is_constant_has_no_directions():
    network = plain()
    with torch.no_grad():
        network[0].weight.zero_()
        network[2].weight.zero_()
    for found in feature_spectra(network, [pictures()]):
        assert found.measures == found.relative == dict.fromkeys(MEASURES, 0.0)


# Over networks.


def spectrum(place, *eigenvalues, layer="node1"):
    return LayerSpectrum(layer, "sep_conv", place, len(eigenvalues), 640, 600, eigenvalues)


def test_curves_of_networks_of_different_depth_are_averaged_place_by_place():
    one = [spectrum(0.0, 1.0, 1.0, 1.0, 1.0), spectrum(1.0, 1.0, 0.0, 0.0, 0.0)]  # 4 of 4, then 1 of 4
    other = [spectrum(1.0, 1.0, 1.0), spectrum(0.0, 1.0, 0.0), spectrum(0.5, 1.0, 0.0)]  # 1, 1, 2 of 2, in any order
    found = average_by_depth([one, other], "participation_ratio", points=5, relative=False)
    assert found.places.tolist() == [0, 0.25, 0.5, 0.75, 1]
    pairs = np.array([[4, 3.25, 2.5, 1.75, 1], [1, 1, 1, 1.5, 2]])
    assert np.allclose(found.mean, pairs.mean(axis=0))
    half = stats.t.ppf(0.975, 1) * np.abs(pairs[0] - pairs[1]) / 2  # of two: sd / sqrt(2) is half their distance
    assert np.allclose(found.low, found.mean - half)
    assert np.allclose(found.high, found.mean + half)
    share = average_by_depth([one, other], "participation_ratio", points=5)
    assert np.allclose(share.mean, (pairs / [[4], [2]]).mean(axis=0))


def test_of_one_network_there_is_a_mean_and_no_interval():
    places, mean, low, high = average_by_depth([[spectrum(0.0, 1.0, 1.0)]], "stable_rank")
    assert len(places) == 21
    assert (mean == 1).all()
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_three_networks_have_the_interval_of_student():
    networks = [[spectrum(0.0, *[1.0] * count, *[0.0] * (4 - count))] for count in (1, 2, 4)]
    found = average_by_depth(networks, "stable_rank", points=2, relative=False)
    expected = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem([1, 2, 4]))
    assert np.allclose([found.low[0], found.high[1]], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[spectrum(0.0, 1.0)]], "rank_me"), "'rank_me' is unknown; .* Did you mean 'rankme'"),
        (([], "rankme"), "at least one network"),
        (([[spectrum(0.0, 1.0)], []], "rankme"), "at least one layer"),
        (([[spectrum(0.0, 1.0)]], "rankme", 1), "points: expected at least 2, got 1"),
    ],
)
def test_what_cannot_be_averaged_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        average_by_depth(*arguments)


def test_rows_are_a_table():
    found = feature_spectra(plain(), [pictures()], positions=10)
    rows = spectrum_rows(found, "abc", "vgg", "clean")
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    header, *lines = text.getvalue().splitlines()
    assert header == "network,family,condition,layer,operation,place,channels,samples,distinct," + ",".join(MEASURES)
    assert lines[1].startswith("abc,vgg,clean,2,Conv2d,1.0,5,120,")
    assert [row["rankme"] for row in rows] == [one.measures["rankme"] for one in found]


def test_a_spectrum_is_read_back_with_six_digits():
    for one in feature_spectra(plain(), [pictures()]):
        content = json.loads(json.dumps(spectrum_to_json(one), allow_nan=False))
        back = spectrum_from_json(content)
        assert np.allclose(back.eigenvalues, one.eigenvalues, rtol=5.1e-6, atol=0)
        assert replace(back, eigenvalues=one.eigenvalues) == one
        assert spectrum_to_json(back) == content
        for name in MEASURES[:4]:
            assert back.measures[name] == pytest.approx(one.measures[name], rel=1e-4)
    assert spectrum_to_json(spectrum(0.5, 123456789.0, 1.23456789e-8))["eigenvalues"] == [123457000.0, 1.23457e-8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eigenvalues": [1.0, 2.0]}, "do not descend"),
        ({"eigenvalues": [1.0]}, "1 eigenvalues of 2 channels"),
        ({"eigenvalues": [1.0, -1.0]}, r"eigenvalues\.1: .* greater than or equal to 0"),
        ({"eigenvalues": [math.nan, 1.0]}, r"eigenvalues\.0: .* finite"),
        ({"place": 1.5}, "place: "),
        ({"samples": "many"}, "samples: "),
        ({"distinct": 641}, "641 of 640 samples are distinct"),
        ({"colour": "red"}, "colour: "),
    ],
)
def test_a_damaged_spectrum_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        spectrum_from_json({**asdict(spectrum(0.0, 2.0, 1.0)), "eigenvalues": [2.0, 1.0], **changes})
