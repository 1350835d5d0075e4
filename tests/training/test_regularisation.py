import math

import pytest
import torch
from torch import nn

from supernet import Darts, DavidNet, InputError, OpSubset, graph_costs
from supernet.graph import ArchGraph, Node
from supernet.network import Network, build_network
from supernet.op_subset import LayerSettings
from supernet.operations import operation
from tests.supernet.test_darts import AUXILIARY, MIXED
from training import Checkpoints, DataSettings, Recipe, StoppedError, load_split, prepare, train
from training.images import stream
from training.recipe import RECIPES, drop_chance
from training.regularisation import AuxiliaryHead, auxiliary_head, branches, kept, scores_of

SPACE = Darts(cells=3, channels=4, stem_multiplier=1, nodes=2, input_size=8, input_channels=1)
TEXT = (
    "normal sep_conv_3x3@0+skip_connect@1 max_pool_3x3@1+dil_conv_3x3@2 "
    "reduce skip_connect@0+avg_pool_3x3@1 dil_conv_3x3@0+sep_conv_3x3@2"
)
RECIPE = Recipe(epochs=2, batch_size=32, crop_padding=1, flip=False)
BOTH = RECIPE.model_copy(update={"drop_path": 0.4, "auxiliary": 0.4, "gradient_clip": 5.0})
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits(cache):
    return prepare(DataSettings(train_images=200, validation_images=100), 8)


def network(space=SPACE, text=TEXT):
    return build_network(space.graph(space.parse(text)), 0)


def trained(digits, recipe, model=None, seed=0, **options):
    splits = load_split(digits, "train"), load_split(digits, "validation")
    model = model or network()
    return model, train(model, *splits, digits.normalisation, recipe, seed, "a", **options)


def same(first, second):
    states = first.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_the_chance_rises_linearly_from_zero():
    recipe = Recipe(epochs=10, drop_path=0.2)
    assert [drop_chance(recipe, epoch) for epoch in (0, 5, 9)] == pytest.approx([0, 0.1, 0.18])
    assert drop_chance(Recipe(), 30) == 0


@pytest.mark.parametrize("chance", [0.0, 0.2, 0.75])
def test_the_mean_is_kept(chance):
    factors = kept(300, 400, chance, stream(0, "a", "drop path"))
    assert factors.unique().tolist() == pytest.approx([0, 1 / (1 - chance)] if chance else [1])
    assert factors.mean().item() == pytest.approx(1, abs=4 * math.sqrt(chance / (1 - chance) / 120_000) + 1e-6)
    assert ((factors == 0).float().mean(dim=1) - chance).abs().max() < 0.12  # every term, and every image
    assert ((factors == 0).float().mean(dim=0) - chance).abs().max() < 0.14


def test_drawn_factors_are_a_function_of_seed_and_key():
    first, again, *others = (
        kept(3, 50, 0.5, stream(seed, key, "drop path")) for seed, key in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))
    )
    assert torch.equal(first, again)
    assert not any(torch.equal(first, other) for other in others)


def test_what_may_be_dropped():
    """What calculates something for one sum alone: no identities, no shortcuts."""
    residuals = DavidNet(input_size=8)
    assert branches(network(residuals, "32-max 64-max 128-max")) == 0
    assert branches(network(residuals, "32r-max 64r-max 128-max")) == 2
    layers = (LayerSettings(channels=16), LayerSettings(channels=24))
    space = OpSubset(layers=layers, stem_channels=16, head_channels=8)
    assert branches(network(space, "110000 110000")) == 3  # the first skip is an identity, the second a convolution
    # Each of 3 cells has 8 operations; a skip of stride 2 calculates, the others do not.
    assert [branches(network(Darts(channels=2, cells=cells), MIXED)) for cells in (3, 4)] == [20, 26]
    assert branches(nn.Linear(3, 3)) == 0


def test_terms_are_scaled_image_by_image():
    """A sum of two convolutions and a shortcut, by hand."""
    nodes = (
        operation("input", "x", out=4, resolution=5),
        operation("relu", "before", out=4, resolution=5),
        operation("conv", "one", in_=4, out=4, kernel=1, stride=1, resolution=5),
        operation("conv", "two", in_=4, out=4, kernel=3, stride=1, resolution=5),
        operation("skip", "same", in_=4, out=4, stride=1, resolution=5),
        operation("sum", "added", out=4, resolution=5),
    )
    model = Network(ArchGraph(nodes, ((0, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 5), (3, 5), (4, 5))))
    images = torch.randn(3, 4, 5, 5)
    factors = torch.tensor([[0.0, 2.0, 1.0], [2.0, 0.0, 0.0]])
    with torch.no_grad():
        scores, second = scores_of(model, images, None, factors)
        x = images.relu()
        one, two = factors[:, :, None, None, None]
        torch.testing.assert_close(scores, 2 * x + one * model.one(x) + two * model.two(x))
        assert second is None
        torch.testing.assert_close(model(images), 2 * x + model.one(x) + model.two(x))


def test_a_first_epoch_drops_nothing_and_off_is_what_it_was(digits):
    short = RECIPE.model_copy(update={"epochs": 1})
    plain, first = trained(digits, short)
    dropped, second = trained(digits, short.model_copy(update={"drop_path": 0.5}))
    assert same(plain, dropped)
    assert first.curves == second.curves
    graph = SPACE.graph(SPACE.parse(TEXT))
    bare = tuple(
        Node(node.op, tuple(pair for pair in node.attributes if pair[0] != "auxiliary"), node.name)
        for node in graph.nodes
    )
    unmarked, third = trained(digits, short, build_network(ArchGraph(bare, graph.edges), 0))
    assert same(plain, unmarked)
    assert first.curves == third.curves
    assert graph_costs(graph) == graph_costs(ArchGraph(bare, graph.edges))


@pytest.mark.parametrize("on", [{"drop_path": 0.5}, {"auxiliary": 0.4}])
def test_each_of_them_trains_to_another_result(digits, on):
    plain, _ = trained(digits, RECIPE)
    model, result = trained(digits, RECIPE.model_copy(update=on))
    assert not same(plain, model)
    assert math.isfinite(result.loss)
    assert result.curves.train_loss[1] < result.curves.train_loss[0]


@pytest.mark.parametrize(("changed", "asked_at"), [({}, 4), ({"ema": 0.9}, 9), ({"precision": "float16"}, 16)])
def test_a_training_is_taken_up_again_to_the_last_bit(digits, changed, asked_at, tmp_path):
    recipe = BOTH.model_copy(update={**changed, "epochs": 3})
    whole, result = trained(digits, recipe)
    checkpoints = Checkpoints(tmp_path, "x", {}, 1e9)
    asked = iter([False] * asked_at + [True])
    with pytest.raises(StoppedError):
        trained(digits, recipe, checkpoints=checkpoints, stop=lambda: next(asked))
    saved = checkpoints.newest()
    assert any(name.startswith("auxiliary.layers.2.") for name in saved.tensors)
    torch.manual_seed(asked_at)  # global randomness has no part in it
    resumed, second = trained(digits, recipe, checkpoints=checkpoints)
    assert second.curves == result.curves
    assert same(whole, resumed)


def test_a_checkpoint_without_the_second_head_is_not_gone_on_from(digits, tmp_path):
    checkpoints = Checkpoints(tmp_path, "x", {}, 1e9)
    asked = iter([False] * 4 + [True])
    with pytest.raises(StoppedError):
        trained(digits, RECIPE, checkpoints=checkpoints, stop=lambda: next(asked))
    with pytest.raises((KeyError, ValueError)):
        trained(digits, BOTH, checkpoints=checkpoints)
    assert checkpoints.newest() is None


def test_the_trained_network_is_the_graph_s_and_nothing_more(digits):
    model, _ = trained(digits, BOTH)
    assert model.state_dict().keys() == network().state_dict().keys()
    assert (model.tap, model.branch) == (None, None)
    assert (
        sum(parameter.numel() for parameter in model.parameters()) == graph_costs(SPACE.graph(SPACE.parse(TEXT))).params
    )


def test_a_batch_in_pieces_drops_the_same_terms(digits):
    one, first = trained(digits, BOTH)
    several, second = trained(digits, BOTH, pieces=3)
    assert second.curves.train_loss == pytest.approx(first.curves.train_loss, rel=0.1)
    assert not same(one, several)  # the norms see a piece at a time


def test_the_second_head_needs_a_place(digits):
    recipe = RECIPE.model_copy(update={"auxiliary": 0.4})
    space = OpSubset(layers=(LayerSettings(channels=4),), input_size=8, input_channels=1, classes=10)
    for model in (network(space, "110000"), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))):
        with pytest.raises(InputError, match="auxiliary: no node of this network has the attribute 'auxiliary'"):
            trained(digits, recipe, model)
    graph = SPACE.graph(SPACE.parse(TEXT))
    twice = tuple(Node(node.op, (*node.attributes, ("auxiliary", 1)), node.name) if node.name == "cell0" else node
                  for node in graph.nodes)  # fmt: skip
    with pytest.raises(InputError, match="2 nodes have the attribute 'auxiliary'; expected at most one"):
        build_network(ArchGraph(twice, graph.edges))


def test_the_second_head_has_its_published_size_and_begins_from_the_seed():
    published = Darts()
    with torch.device("meta"):
        model = Network(published.graph(published.parse(MIXED)))
    first, again, other = (auxiliary_head(model, seed, CPU) for seed in (0, 0, 1))
    assert sum(parameter.numel() for parameter in first.parameters()) == AUXILIARY == 476_426
    assert same(first, again)
    assert not same(first, other)
    pool = first.layers[1]
    assert (pool.kernel_size, pool.stride, pool.padding) == (5, 3, 0)


@pytest.mark.parametrize("side", [1, 2, 4, 7, 8, 9, 16])
def test_the_second_head_takes_maps_of_any_side(side):
    scores = AuxiliaryHead(6, side, 5)(torch.randn(3, 6, side, side))
    assert scores.shape == (3, 5)


def test_the_loss_of_the_second_head_reaches_what_is_before_it_alone():
    model = network().train()
    head = auxiliary_head(model, 0, CPU)
    _, second = scores_of(model, torch.randn(4, 1, 8, 8), head, None)
    second.square().sum().backward()
    reached = {name.partition(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert "stem" in reached
    assert "classifier" not in reached
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_the_published_training_by_name():
    recipe = Recipe.model_validate("darts")
    assert "darts" in RECIPES
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.momentum) == (600, 96, 0.025, 0.9)
    assert (recipe.drop_path, recipe.auxiliary, recipe.cutout, recipe.gradient_clip) == (0.2, 0.4, 16, 5.0)
    assert (recipe.schedule, recipe.warmup, recipe.nesterov, recipe.decay_all) == ("cosine", 0.0, False, True)
