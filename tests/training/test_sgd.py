import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.training.test_loop import SPACE, network
from training.sgd import Sgd

SETTINGS = [(0.9, 5e-3), (0.9, 0.0), (0.0, 5e-3), (0.0, 0.0)]


def reference(model, momentum, weight_decay):
    """torch's own, with the same two groups."""
    kernels = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.1, momentum=momentum, nesterov=momentum > 0)


def batches(count):
    generator = torch.Generator().manual_seed(1)
    shape = (8, SPACE.input_channels, SPACE.input_size, SPACE.input_size)
    for number in range(count):
        labels = torch.randint(SPACE.classes, (8,), generator=generator)
        yield 0.1 / (1 + number), torch.randn(shape, generator=generator), labels


@pytest.mark.parametrize(("momentum", "weight_decay"), SETTINGS)
def test_it_is_torchs_own_bit_for_bit(momentum, weight_decay):
    one = network().to(memory_format=torch.channels_last)
    other = copy.deepcopy(one)
    ours, theirs = Sgd(one, momentum, weight_decay), reference(other, momentum, weight_decay)
    for rate, images, labels in batches(5):
        for model, optimizer in ((one, ours), (other, theirs)):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
        ours.step(rate)
        for group in theirs.param_groups:
            group["lr"] = rate
        theirs.step()
        assert all(torch.equal(mine, its) for mine, its in zip(one.parameters(), other.parameters(), strict=True))
    state = theirs.state_dict()["state"]
    kept = (
        {f"{number}.momentum_buffer": values["momentum_buffer"] for number, values in state.items()} if momentum else {}
    )
    assert ours.state().keys() == kept.keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in ours.state().items())


def test_weight_decay_leaves_norms_and_biases_alone():
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = Sgd(model, 0.0, 0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(1.0)
    modules = dict(model.named_modules())
    halved = 0
    for name, parameter in model.named_parameters():
        module, _, kind = name.rpartition(".")
        decays = kind == "weight" and not isinstance(modules[module], nn.BatchNorm2d)
        halved += decays
        assert torch.equal(parameter, before[name] / 2 if decays else before[name])
    assert halved


def test_what_has_no_gradient_stays_as_it_is():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    before = copy.deepcopy(model.state_dict())
    optimizer = Sgd(model, 0.9, 0.5)
    optimizer.step(1.0)  # none has
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model[1](torch.ones(1, 3)).sum().backward()
    optimizer.step(1.0)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"1.weight", "1.bias"}


def test_the_state_of_another_network_is_refused():
    optimizer = Sgd(nn.Linear(3, 3), 0.9, 0.0)
    own = optimizer.state()
    for state in (
        {},
        Sgd(nn.Linear(4, 3), 0.9, 0.0).state(),
        {**own, "0.momentum_buffer": torch.ones(1, 1)},
        {**own, "2.momentum_buffer": torch.ones(3)},
    ):
        with pytest.raises(ValueError, match="another network"):
            optimizer.load_state(state)
    assert not any(velocity.any() for velocity in own.values())


def test_a_training_does_not_import_torchs_compiler():
    """It would cost every worker more than a second."""
    program = """
import sys
import data_gen.worker
from tests.training.test_loop import RECIPE, network
from training import DataSettings, load_split, prepare, train
data = prepare(DataSettings(train_images=64, validation_images=32, test_images=32), 8)
splits = load_split(data, "train"), load_split(data, "validation")
recipe = RECIPE.model_copy(update={"epochs": 1, "gradient_clip": 1.0, "precision": "bfloat16", "flip": True})
train(network(), *splits, data.normalisation, recipe, 0, "a")
print("torch._dynamo" in sys.modules)
"""
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
