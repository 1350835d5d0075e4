"""One network trained an architecture a step, and what its weights say of each."""

import numpy as np
import pytest
import torch
from torch import nn

from supernet import Architecture, InputError, NasBench201, OpSubset
from supernet.network import build_network
from supernet.op_subset import LayerSettings
from supernet.sharing import build_shared
from training import Checkpoints, DataSettings, DivergedError, Recipe, StoppedError, load_split, measure, prepare
from training.images import training_batches
from training.kernels import BatchNorm2d, DepthwiseConv2d, speed_up
from training.one_shot import SinglePath, check_recipe, drawn, inherited_accuracy, train_one_shot

SPACE = OpSubset(
    layers=(LayerSettings(channels=16), LayerSettings(channels=24, stride=2)),
    stem_channels=12,
    head_channels=64,
    input_size=8,
    input_channels=1,
    classes=10,
)
RECIPE = Recipe(epochs=2, batch_size=32, crop_padding=1, flip=False)


@pytest.fixture(scope="module")
def digits(cache):
    return prepare(DataSettings(train_images=400, validation_images=100), 8)


def trained(digits, recipe=RECIPE, seed=0, space=SPACE, **options):
    shared = build_shared(space.supergraph(), seed)
    return shared, train_one_shot(
        shared, space, load_split(digits, "train"), digits.normalisation, recipe, seed, **options
    )


@pytest.fixture(scope="module")
def learnt(digits):
    return trained(digits, RECIPE.model_copy(update={"epochs": 12}))[0]


def inherited(digits, shared, text, recipe=RECIPE, **options):
    active = shared.graph.encode(SPACE.parse(text).choices)
    splits = load_split(digits, "train"), load_split(digits, "validation")
    return inherited_accuracy(shared, active, *splits, digits.normalisation, recipe, **options)


def same(first, second):
    return all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_architectures_of_the_steps_are_a_function_of_seed_and_step():
    rows = [drawn(SPACE, 0, step) for step in range(300)]
    assert rows == [drawn(SPACE, 0, step) for step in range(300)]
    assert rows != [drawn(SPACE, 1, step) for step in range(300)]
    assert SPACE.is_valid(np.array(rows, np.int8)).all()
    assert len(set(rows)) > 250
    assert np.abs(np.array(rows).mean(axis=0) - 32 / 63).max() < 0.1  # of the 63 subsets 32 have an operation


def test_a_shared_network_learns_and_its_parts_know_something(digits, learnt):
    _, result = trained(digits, RECIPE.model_copy(update={"epochs": 12}))
    assert result.steps == 12 * 12
    assert len(result.train_loss) == len(result.train_accuracy) == result.epochs == 12
    assert result.train_loss[-1] < result.train_loss[0]
    assert result.train_accuracy[-1] > result.train_accuracy[0]
    assert result.images_per_second == pytest.approx(12 * 12 * 32 / result.seconds)
    assert set(result.to_json()) >= {"epochs", "train_loss"}
    assert inherited(digits, learnt, "111111 111111") > 0.4  # chance is 0.1


def test_the_same_seed_gives_the_same_weights_to_the_last_bit(digits):
    first, result = trained(digits)
    torch.manual_seed(123)  # global randomness has no part in it
    second, again = trained(digits)
    assert same(first, second)
    assert again.train_loss == result.train_loss
    assert not same(first, trained(digits, seed=1)[0])


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9, "optimizer": "adam", "learning_rate": 0.001}])
@pytest.mark.parametrize("stops", [(5,), (1, 12, 23)])
def test_a_training_that_was_stopped_ends_as_one_that_was_not(digits, tmp_path, changes, stops):
    recipe = RECIPE.model_copy(update=changes)
    whole, result = trained(digits, recipe)
    seen = []

    def checkpoints():
        return Checkpoints(tmp_path, "shared", {"seed": 0}, every=1e9)

    for limit in stops:
        with pytest.raises(StoppedError, match=f"stopped at step {limit} of 24"):
            trained(
                digits, recipe, checkpoints=checkpoints(), progress=lambda step, total: seen.append(step),
                stop=lambda limit=limit: seen[-1] == limit,
            )  # fmt: skip
    shared, again = trained(digits, recipe, checkpoints=checkpoints(), progress=lambda step, total: seen.append(step))
    assert seen == list(range(1, 25))
    assert same(whole, shared)
    assert (again.train_loss, again.train_accuracy) == (result.train_loss, result.train_accuracy)


def test_checkpoints_are_left_as_often_as_asked_and_one_of_another_network_is_refused(digits, tmp_path):
    trained(digits, checkpoints=Checkpoints(tmp_path, "shared", {}, every=0.0))
    assert len(list(tmp_path.glob("shared.*.json"))) in (1, 2)
    other = NasBench201(cells=1, channels=4, input_size=8, input_channels=1, classes=10)
    with pytest.raises((RuntimeError, KeyError)):
        trained(digits, space=other, checkpoints=Checkpoints(tmp_path, "shared", {}, every=1e9))
    assert not list(tmp_path.iterdir())  # no way on from there


def test_a_step_changes_the_weights_of_its_architecture_alone(digits):
    recipe = RECIPE.model_copy(update={"epochs": 1, "batch_size": 400, "weight_decay": 0.1})
    before = build_shared(SPACE.supergraph(), 0).state_dict()
    shared, result = trained(digits, recipe)
    assert result.steps == 1
    changed = {name for name, tensor in shared.state_dict().items() if not torch.equal(tensor, before[name])}
    active = shared.graph.encode(drawn(SPACE, 0, 0))
    used = {tensor.data_ptr() for tensor in shared.own_state(active).values()}
    assert {name for name, tensor in shared.state_dict().items() if tensor.data_ptr() in used} == changed


def test_faster_layers_are_put_in_and_own_networks_still_take_the_weights(digits, learnt):
    kinds = [type(module) for module in learnt.modules()]
    assert DepthwiseConv2d in kinds
    assert BatchNorm2d in kinds
    assert nn.BatchNorm2d not in kinds
    architecture = SPACE.parse("110101 001011")
    active = learnt.graph.encode(architecture.choices)
    own = build_network(SPACE.graph(architecture))
    own.load_state_dict(learnt.own_state(active))
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    learnt.eval()
    torch.testing.assert_close(learnt(images, active), own.eval()(images))


def test_inherited_accuracy_is_that_of_the_own_network_with_statistics_of_its_own(digits, learnt):
    architecture = SPACE.parse("011100 100110")
    own = build_network(SPACE.graph(architecture))
    own.load_state_dict(learnt.own_state(learnt.graph.encode(architecture.choices)))
    own.to(memory_format=torch.channels_last)
    speed_up(own)
    norms = [module for module in own.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
    training = load_split(digits, "train")
    batches = list(training_batches(training, RECIPE, digits.normalisation, 0, "calibration", 0))[:4]
    with torch.no_grad():
        for number, (images, _) in enumerate(batches):
            for norm in norms:
                norm.momentum = 1 / (number + 1)
            own.train()(images)
    expected = measure(own, load_split(digits, "validation"), digits.normalisation, RECIPE)[0]
    assert inherited(digits, learnt, "011100 100110", images=97) == expected  # four batches of 32
    assert expected > 0.2


def test_scoring_leaves_the_shared_network_as_it_was(digits, learnt):
    before = {name: tensor.clone() for name, tensor in learnt.state_dict().items()}
    learnt.train()
    momenta = [module.momentum for module in learnt.modules() if isinstance(module, nn.BatchNorm2d)]
    beats = []
    first = inherited(digits, learnt, "111000 000111", images=10**9, alive=lambda: beats.append(1))
    assert len(beats) == 12 + 1  # every batch of the training images, one of the others
    inherited(digits, learnt, "000111 111000")
    assert inherited(digits, learnt, "111000 000111", images=10**9) == first

    def stop():
        raise StoppedError

    with pytest.raises(StoppedError):
        inherited(digits, learnt, "111111 111111", alive=stop)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learnt.state_dict().items())
    assert learnt.training
    assert momenta == [module.momentum for module in learnt.modules() if isinstance(module, nn.BatchNorm2d)]


def test_statistics_of_its_own_make_an_architecture_better(digits, learnt):
    """The shared ones are of whatever was drawn: a small architecture does not fit them."""
    texts = ["100000 000100", "000010 000001", "010000 100000"]
    split = load_split(digits, "validation")
    plain = [
        measure(SinglePath(learnt, learnt.graph.encode(SPACE.parse(text).choices)), split, digits.normalisation, RECIPE)
        for text in texts
    ]
    assert sum(inherited(digits, learnt, text) for text in texts) > sum(accuracy for accuracy, _ in plain)


def test_half_precision_trains_and_measures(digits):
    recipe = RECIPE.model_copy(update={"precision": "bfloat16", "epochs": 1})
    shared, result = trained(digits, recipe)
    assert result.steps == 12
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in shared.state_dict().values())
    assert 0 <= inherited(digits, shared, "111111 111111", recipe) <= 1


def test_what_only_single_networks_have_is_refused(digits):
    for name in ("drop_path", "auxiliary"):
        with pytest.raises(InputError, match=rf"one-shot training: recipe\.{name} is for single networks; leave it"):
            trained(digits, RECIPE.model_copy(update={name: 0.2}))
    check_recipe(RECIPE)


def test_an_infinite_loss_ends_the_training(digits):
    recipe = RECIPE.model_copy(update={"epochs": 30, "learning_rate": 100.0, "momentum": 0.99, "weight_decay": 0.9})
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step \d+"):
        trained(digits, recipe)


def test_a_space_with_operations_without_weights_is_trained_too(digits):
    space = NasBench201(cells=1, channels=4, input_size=8, input_channels=1, classes=10)
    shared, result = trained(digits, space=space)
    assert result.steps == 24
    own = build_network(space.graph(Architecture(space.name, (3, 1, 0, 4, 2, 3))))
    own.load_state_dict(shared.own_state(shared.graph.encode((3, 1, 0, 4, 2, 3))))
