import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.training.test_loop import SPACE, network
from training import Recipe
from training.optimizers import Average, Optimizer

RECIPES = [
    Recipe(weight_decay=5e-3),
    Recipe(weight_decay=0.0),
    Recipe(weight_decay=5e-3, momentum=0.0),
    Recipe(nesterov=False, weight_decay=5e-3, decay_all=True, bias_rate=4.0),
    Recipe(optimizer="adam", beta1=0.5, weight_decay=5e-3, decay_all=True),
    Recipe(optimizer="adam", weight_decay=0.0, bias_rate=0.5),
]


def reference(model, recipe):
    """torch's own, with the same two groups."""
    kernels = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    decay = recipe.weight_decay if recipe.decay_all else 0.0
    groups = [{"params": kernels, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": decay}]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=0.1, betas=(recipe.beta1, recipe.beta2), fused=True)
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(groups, lr=0.1, momentum=recipe.momentum, nesterov=nesterov, fused=True)


def batches(count):
    generator = torch.Generator().manual_seed(1)
    shape = (8, SPACE.input_channels, SPACE.input_size, SPACE.input_size)
    for number in range(count):
        labels = torch.randint(SPACE.classes, (8,), generator=generator)
        yield 0.1 / (1 + number), torch.randn(shape, generator=generator), labels


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_is_torchs_own_bit_for_bit(recipe):
    one = network().to(memory_format=torch.channels_last)
    other = copy.deepcopy(one)
    ours, theirs = Optimizer(one, recipe), reference(other, recipe)
    for rate, images, labels in batches(5):
        for model, optimizer in ((one, ours), (other, theirs)):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
        ours.step(torch.tensor(rate, dtype=torch.float64))
        for group, factor in zip(theirs.param_groups, (1.0, recipe.bias_rate), strict=True):
            group["lr"] = rate * factor
        theirs.step()
        assert all(torch.equal(mine, its) for mine, its in zip(one.parameters(), other.parameters(), strict=True))
    kept = [
        tensor for values in theirs.state_dict()["state"].values() for tensor in values.values() if tensor is not None
    ]
    assert sum(tensor.double().sum() for tensor in ours.state().values()) == pytest.approx(
        float(sum(tensor.double().sum() for tensor in kept)), rel=1e-12
    )


def test_a_step_is_skipped_where_a_gradient_overflowed():
    for recipe in (RECIPES[0], RECIPES[4]):
        model = network()
        optimizer = Optimizer(model, recipe)
        before = copy.deepcopy(model.state_dict()), {name: tensor.clone() for name, tensor in optimizer.state().items()}
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, torch.inf)
        optimizer.step(torch.tensor(0.1), skip=torch.ones(()))
        assert all(torch.equal(tensor, before[0][name]) for name, tensor in model.state_dict().items())
        assert all(torch.equal(tensor, before[1][name]) for name, tensor in optimizer.state().items())
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step(torch.tensor(0.1), skip=torch.zeros(()))
        assert not all(torch.equal(tensor, before[0][name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("decay_all", [False, True])
def test_weight_decay_leaves_norms_and_biases_alone_unless_told(decay_all):
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = Optimizer(model, Recipe(momentum=0.0, weight_decay=0.5, decay_all=decay_all))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(torch.tensor(1.0))
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        module, _, kind = name.rpartition(".")
        decays = decay_all or (kind == "weight" and not isinstance(modules[module], nn.BatchNorm2d))
        assert torch.equal(parameter, before[name] / 2 if decays else before[name])


def test_biases_and_norms_may_have_a_rate_of_their_own():
    model = nn.Linear(3, 3)
    before = copy.deepcopy(model.state_dict())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    Optimizer(model, Recipe(momentum=0.0, weight_decay=0.0, bias_rate=8.0)).step(torch.tensor(0.5))
    assert torch.equal(model.weight, before["weight"] - 0.5)
    assert torch.equal(model.bias, before["bias"] - 4.0)


def test_what_has_no_gradient_stays_as_it_is():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    before = copy.deepcopy(model.state_dict())
    optimizer = Optimizer(model, Recipe(weight_decay=0.5))
    optimizer.step(torch.tensor(1.0))  # none has
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model[1](torch.ones(1, 3)).sum().backward()
    optimizer.step(torch.tensor(1.0))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"1.weight", "1.bias"}


def test_what_is_not_learnt_has_no_state():
    model = nn.Linear(3, 3)
    model.bias.requires_grad_(False)
    assert list(Optimizer(model, Recipe()).state()) == ["0.0.momentum_buffer"]


def test_the_state_of_another_network_is_refused():
    optimizer = Optimizer(nn.Linear(3, 3), Recipe())
    own = optimizer.state()
    for state in (
        {},
        Optimizer(nn.Linear(4, 3), Recipe()).state(),
        Optimizer(nn.Linear(3, 3), Recipe(optimizer="adam")).state(),
        {**own, "0.0.momentum_buffer": torch.ones(1, 1)},
        {**own, "2.0.momentum_buffer": torch.ones(3)},
    ):
        with pytest.raises(ValueError, match="another network"):
            optimizer.load_state(state)
    assert not any(velocity.any() for velocity in own.values())


def test_an_average_follows_weights_and_statistics():
    model = network()
    average = Average(model)
    expected = {name: tensor.double() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    for number in range(4):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.add_(1 + number)
        for name, tensor in model.state_dict().items():
            if name in expected:
                expected[name] = 0.75 * expected[name] + 0.25 * tensor.double()
        average.update(torch.tensor(0.25))
    live = copy.deepcopy(model.state_dict())
    average.exchange()
    for name, tensor in model.state_dict().items():
        if name in expected:
            assert torch.allclose(tensor.double(), expected[name], atol=1e-5)
        else:  # the count of batches is that of the training
            assert torch.equal(tensor, live[name])
    average.exchange()
    assert all(torch.equal(tensor, live[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="another network"):
        average.load_state({})


def test_a_training_does_not_import_torchs_compiler():
    """It would cost every worker more than a second."""
    program = """
import sys
import data_gen.worker
from tests.training.test_loop import RECIPE, network
from training import DataSettings, load_split, prepare, train
data = prepare(DataSettings(train_images=64, validation_images=32, test_images=32), 8)
splits = load_split(data, "train"), load_split(data, "validation")
for optimizer in ("sgd", "adam"):
    changed = {"epochs": 1, "gradient_clip": 1.0, "precision": "bfloat16", "ema": 0.5, "optimizer": optimizer}
    train(network(), *splits, data.normalisation, RECIPE.model_copy(update=changed), 0, "a")
print("torch._dynamo" in sys.modules)
"""
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
