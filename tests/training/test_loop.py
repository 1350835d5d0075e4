import math

import pytest
import torch
from torch import nn

from supernet import InputError, OpSubset
from supernet.network import build_network
from supernet.op_subset import LayerSettings
from training import (
    Checkpoints,
    DataSettings,
    DivergedError,
    Recipe,
    StoppedError,
    load_split,
    measure,
    prepare,
    train,
)  # fmt: skip
from training.images import normalise, whitening_filters

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


def network(seed=0, text="110000 010010"):
    return build_network(SPACE.graph(SPACE.parse(text)), seed)


def trained(digits, recipe=RECIPE, seed=0, key="a", **options):
    splits = load_split(digits, "train"), load_split(digits, "validation")
    model = network(seed)
    return model, train(model, *splits, digits.normalisation, recipe, seed, key, **options)


def test_a_small_network_learns_digits(digits):
    recipe = RECIPE.model_copy(update={"epochs": 6})
    model, result = trained(digits, recipe)
    assert result.accuracy > 0.6  # chance is 0.1
    assert 0 < result.loss < math.log(10)
    assert result.epochs == 6
    assert result.curves.train_loss[-1] < result.curves.train_loss[0]
    assert result.curves.train_accuracy[-1] > result.curves.train_accuracy[0]
    again = measure(model, load_split(digits, "validation"), digits.normalisation, recipe)
    assert again == (result.accuracy, result.loss)
    assert result.seconds > 0
    assert result.images_per_second == pytest.approx(6 * 12 * 32 / result.seconds)


def test_the_same_seed_gives_the_same_weights_to_the_last_bit(digits):
    first, first_result = trained(digits)
    torch.manual_seed(123)  # global randomness has no part in it
    second, second_result = trained(digits)
    assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in second.state_dict().items())
    assert first_result.curves == second_result.curves
    for other in (trained(digits, seed=1)[1], trained(digits, key="b")[1]):
        assert other.curves != first_result.curves


def test_validation_is_looked_at_as_often_as_asked(digits):
    recipe = RECIPE.model_copy(update={"epochs": 5, "validate_every": 2})
    _, result = trained(digits, recipe)
    assert result.curves.validation_epochs == [2, 4, 5]
    assert len(result.curves.validation_accuracy) == len(result.curves.validation_loss) == 3
    assert len(result.curves.train_loss) == len(result.curves.train_accuracy) == 5
    assert (result.accuracy, result.loss) == (result.curves.validation_accuracy[-1], result.curves.validation_loss[-1])


def test_looking_at_validation_changes_no_weight_and_may_be_left_out(digits):
    watched, first = trained(digits)
    alone, second = trained(digits, watch=False)
    assert all(torch.equal(watched.state_dict()[name], tensor) for name, tensor in alone.state_dict().items())
    assert (second.accuracy, second.loss) == (first.accuracy, first.loss)
    assert second.curves.validation_epochs == second.curves.validation_loss == []


def test_every_step_is_told(digits):
    steps = []
    trained(digits, progress=lambda step, total: steps.append((step, total)))
    assert list(dict.fromkeys(steps)) == [(step, 24) for step in range(1, 25)]
    assert len(steps) > 24  # each batch that is measured is a sign of life too


def test_a_batch_larger_than_the_split_is_the_whole_split(digits):
    steps = []
    recipe = RECIPE.model_copy(update={"batch_size": 4096})
    trained(digits, recipe, progress=lambda step, total: steps.append((step, total)))
    assert list(dict.fromkeys(steps)) == [(1, 2), (2, 2)]


def test_an_infinite_loss_ends_the_training(digits):
    recipe = RECIPE.model_copy(update={"epochs": 30, "learning_rate": 100.0, "momentum": 0.99, "weight_decay": 0.9})
    steps = []
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step \d+"):
        trained(digits, recipe, progress=lambda step, total: steps.append(step))
    assert steps[-1] < 360


def test_a_loss_that_is_not_finite_is_noticed_within_20_steps(digits):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(64, 10), 0

        def forward(self, x):
            self.calls += 1
            return self.linear(x.flatten(1)) * (math.nan if self.calls > 5 else 1)

    steps = []
    splits = load_split(digits, "train"), load_split(digits, "validation")
    recipe = RECIPE.model_copy(update={"batch_size": 4})
    with pytest.raises(DivergedError, match="the loss is nan at step 20"):
        train(Broken(), *splits, digits.normalisation, recipe, 0, "a", lambda step, total: steps.append(step))
    assert len(steps) < 20


@pytest.mark.parametrize(
    "change", [{"gradient_clip": 0.5}, {"precision": "bfloat16"}, {"schedule": "step"}, {"momentum": 0.0}]
)
def test_the_other_settings_train_too_and_give_another_result(change, digits):
    recipe = RECIPE.model_copy(update={"epochs": 1, **change})
    _, result = trained(digits, recipe)
    _, usual = trained(digits, RECIPE.model_copy(update={"epochs": 1}))
    assert math.isfinite(result.loss)
    assert result.curves.train_loss != usual.curves.train_loss


def test_a_result_is_plain_json(digits):
    import json

    _, result = trained(digits)
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert content["accuracy"] == result.accuracy
    assert content["curves"]["train_loss"] == result.curves.train_loss
    assert content["peak_memory"] > 2**20
    assert 0 <= content["accuracy"] <= 1


def test_an_average_of_the_weights_is_what_is_measured_and_kept(digits):
    recipe = RECIPE.model_copy(update={"epochs": 4, "ema": 0.9})
    model, result = trained(digits, recipe)
    plain, other = trained(digits, recipe.model_copy(update={"ema": 0.0}))
    assert result.curves.train_loss == other.curves.train_loss  # the training itself knows nothing of it
    assert result.loss != other.loss
    assert measure(model, load_split(digits, "validation"), digits.normalisation, recipe) == (
        result.accuracy, result.loss,
    )  # fmt: skip
    assert not torch.equal(model.state_dict()["stem.0.weight"], plain.state_dict()["stem.0.weight"])


def test_a_whitened_stem_is_set_and_not_learnt(digits):
    recipe = RECIPE.model_copy(update={"whitening": True})
    model, _ = trained(digits, recipe)
    filters = whitening_filters(load_split(digits, "train"), digits.normalisation, SPACE.stem_channels, 3)
    assert torch.equal(model.state_dict()["stem.0.weight"], filters)
    splits = load_split(digits, "train"), load_split(digits, "validation")
    with pytest.raises(InputError, match="does not begin with a convolution"):
        train(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), *splits, digits.normalisation, recipe, 0, "a")


def test_norm_scales_may_be_left_at_one(digits):
    model, _ = trained(digits, RECIPE.model_copy(update={"train_norm_scales": False}))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all((norm.weight == 1).all() and norm.bias.any() for norm in norms)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_as_well(digits, precision):
    recipe = RECIPE.model_copy(update={"epochs": 4, "precision": precision})
    model, result = trained(digits, recipe)
    _, full = trained(digits, recipe.model_copy(update={"precision": "float32"}))
    assert result.curves.train_loss[-1] == pytest.approx(full.curves.train_loss[-1], rel=0.15)
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in model.state_dict().values())


def test_adam_learns(digits):
    changed = {"optimizer": "adam", "beta1": 0.5, "learning_rate": 0.01, "epochs": 4}
    recipe = RECIPE.model_copy(update=changed)
    _, result = trained(digits, recipe)
    assert result.accuracy > 0.5


def test_measuring_mirror_images_too(digits):
    model, _ = trained(digits)
    split = load_split(digits, "validation")
    recipe = RECIPE.model_copy(update={"test_time_flip": True})
    both = type(split)(torch.cat([split.images, split.images.flip(2)]), split.labels.repeat(2))
    with torch.no_grad():
        scores = model.eval()(normalise(both.images, digits.normalisation)).reshape(2, len(split), -1).mean(dim=0)
    expected = (scores.argmax(dim=1) == split.labels).double().mean().item()
    assert measure(model, split, digits.normalisation, recipe)[0] == pytest.approx(expected)


@pytest.mark.parametrize("asked_at", [17, 12, 38])  # in a step, while measuring, while measuring at the end
@pytest.mark.parametrize("changed", [{"ema": 0.9}, {"precision": "float16"}, {"optimizer": "adam"}])
def test_every_kind_of_state_is_taken_up_again(digits, changed, asked_at, tmp_path):
    recipe = RECIPE.model_copy(update={"epochs": 3, **changed})
    whole, result = trained(digits, recipe)
    checkpoints = Checkpoints(tmp_path, "x", {}, 1e9)
    asked = iter([False] * asked_at + [True])
    with pytest.raises(StoppedError):
        trained(digits, recipe, checkpoints=checkpoints, stop=lambda: next(asked))
    resumed, second = trained(digits, recipe, checkpoints=checkpoints)
    assert second.curves == result.curves
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in resumed.state_dict().items())
