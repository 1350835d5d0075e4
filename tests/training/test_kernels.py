import copy
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from supernet import OpSubset, architectures
from supernet.network import build_network
from training import kernels, native
from training.kernels import (
    CUDA_WAYS,
    BatchNorm2d,
    DepthwiseConv2d,
    _Norm,
    depthwise,
    depthwise_in_torch,
    speed_up,
    total,
)

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")
SIDES = ((9, 7), (8, 8), (5, 12), (1, 1), (2, 3), (16, 4), (13, 17))


def images(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, dtype=dtype, generator=generator)
    return values.to(memory_format=torch.channels_last).requires_grad_()


def stock(x, weight, stride, dilation):
    border = dilation * (weight.shape[2] - 1) // 2
    return F.conv2d(x, weight, stride=stride, padding=border, dilation=dilation, groups=len(weight))


def compare(ours, theirs, inputs, tolerance=1e-10):
    assert torch.allclose(ours, theirs, atol=tolerance, rtol=tolerance)
    assert ours.shape == theirs.shape
    gradient = torch.randn(theirs.shape, dtype=theirs.dtype, generator=torch.Generator().manual_seed(1))
    mine = torch.autograd.grad(ours, inputs, gradient)
    its = torch.autograd.grad(theirs, inputs, gradient)
    for one, other in zip(mine, its, strict=True):
        assert torch.allclose(one, other, atol=tolerance, rtol=tolerance)


@needs_compiler
@pytest.mark.parametrize(("kernel", "dilation", "stride"), list(product((3, 5, 7), (1, 2), (1, 2))))
def test_compiled_convolution_and_gradients_are_those_of_the_stock_operator(kernel, dilation, stride):
    for (height, width), channels, relu in product(SIDES, (3, 8, 20), (False, True)):
        x, weight = images(2, channels, height, width), images(channels, 1, kernel, kernel, seed=2)
        ours = depthwise(x, weight, stride, dilation, relu)
        compare(ours, stock(F.relu(x) if relu else x, weight, stride, dilation), (x, weight))


@pytest.mark.parametrize(("kernel", "dilation", "stride"), list(product((3, 5, 7), (1, 2), (1, 2))))
def test_without_a_compiler_they_are_the_same(kernel, dilation, stride):
    for (height, width), channels in product(SIDES, (3, 8)):
        x, weight = images(2, channels, height, width), images(channels, 1, kernel, kernel, seed=2)
        compare(depthwise_in_torch(x, weight, stride, dilation), stock(x, weight, stride, dilation), (x, weight))


@pytest.mark.parametrize("name", CUDA_WAYS)
def test_each_way_of_a_gpu_is_the_same(name):
    """They are ordinary operators, so a CPU can check them."""
    for kernel, dilation, stride in product((3, 5, 7), (1, 2), (1, 2)):
        x, weight = images(2, 8, 9, 7), images(8, 1, kernel, kernel, seed=2)
        ours = CUDA_WAYS[name](x, weight, stride, dilation)
        assert ours.is_contiguous(memory_format=torch.channels_last)
        compare(ours, stock(x, weight, stride, dilation), (x, weight))


def test_a_gpu_takes_the_way_that_was_fastest(monkeypatch, tmp_path):
    monkeypatch.setenv("GENAS_CACHE", str(tmp_path))
    monkeypatch.setattr(kernels, "card", lambda device: "a card")
    timed = []
    monkeypatch.setattr(kernels, "cuda_seconds", lambda way: timed.append(way()) or -len(timed))
    x, weight = images(2, 8, 9, 7), images(8, 1, 3, 3, seed=2)
    for _ in range(2):
        compare(kernels.depthwise_on_gpu(x, weight, 1, 1), stock(x, weight, 1, 1), (x, weight))
    assert len(timed) == len(CUDA_WAYS)  # once a shape, forward and backward


@needs_compiler
def test_gradients_by_finite_differences():
    x, weight = images(1, 3, 6, 5), images(3, 1, 3, 3, seed=2)
    for stride, dilation in product((1, 2), (1, 2)):
        assert torch.autograd.gradcheck(lambda *inputs: depthwise(*inputs, stride, dilation), (x, weight))  # noqa: B023


@needs_compiler
@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 20), st.integers(1, 9), st.integers(1, 9), st.sampled_from((0.0, 6.0)),
    st.floats(-1e3, 1e3),
)  # fmt: skip
def test_batch_norm_and_its_gradients_are_those_of_the_stock_operator(count, channels, height, width, ceiling, offset):
    if count * height * width < 2:
        return
    x = (images(count, channels, height, width).detach() + offset).requires_grad_()
    scale, shift = (images(channels, 1, 1, 1, seed=seed).detach().flatten().requires_grad_() for seed in (3, 4))
    theirs = F.batch_norm(x, None, None, scale, shift, training=True, eps=1e-5)
    ours, mean, variance = _Norm.apply(x, scale, shift, 1e-5, ceiling)
    # Beside a corner of the clamp, rounding decides which side a value is on.
    if ceiling and min(theirs.abs().min(), (theirs - ceiling).abs().min()) < 1e-6:
        return
    compare(ours, F.hardtanh(theirs, 0.0, ceiling) if ceiling else theirs, (x, scale, shift), 1e-6)
    assert torch.allclose(mean, x.mean(dim=(0, 2, 3)))
    assert torch.allclose(variance, x.var(dim=(0, 2, 3), unbiased=False), atol=1e-7)


@needs_compiler
@pytest.mark.parametrize("count", [3, 4, 8])
def test_a_sum_in_one_pass(count):
    terms = [images(2, 5, 3, 3, seed=seed) for seed in range(count)]
    terms[0] = images(2, 5, 3, 3).detach().contiguous().requires_grad_()  # another layout
    compare(total(terms), sum(terms), terms)


@needs_compiler
def test_what_is_not_a_number_goes_through():
    x = images(1, 8, 4, 4).detach()
    x[0, 2, 1, 1] = torch.nan
    assert depthwise(x, images(8, 1, 3, 3), relu=True)[0, 2].isnan().any()
    scale = torch.ones(8, dtype=torch.float64)
    assert _Norm.apply(x, scale, scale, 1e-5, 6.0)[0][0, 2].isnan().all()


def networks(dtype):
    space = OpSubset(input_size=9, classes=7)
    generator = torch.Generator().manual_seed(0)
    for number, architecture in enumerate(architectures(space, space.sample(4, np.random.default_rng(0)))):
        network = build_network(space.graph(architecture), number).to(dtype=dtype, memory_format=torch.channels_last)
        yield network, torch.randn(6, 3, 9, 9, generator=generator, dtype=dtype)


def test_a_network_made_faster_is_the_same_network():
    for network, pictures in networks(torch.float64):
        plain = copy.deepcopy(network)
        names = [name for name, _ in network.named_parameters()]
        speed_up(network)
        assert any(isinstance(module, DepthwiseConv2d) for module in network.modules())
        assert any(isinstance(module, BatchNorm2d) and module.ceiling for module in network.modules())
        assert [name for name, _ in network.named_parameters()] == names
        one, other = network(pictures), plain(pictures)
        assert torch.allclose(one, other, rtol=1e-6)
        one.square().sum().backward()
        other.square().sum().backward()
        for (name, mine), its in zip(network.named_parameters(), plain.parameters(), strict=True):
            assert torch.allclose(mine.grad, its.grad, rtol=1e-6, atol=1e-8), name
        for name, tensor in plain.state_dict().items():  # running statistics too
            assert torch.allclose(network.state_dict()[name], tensor, rtol=1e-6), name
        network.eval()
        plain.eval()
        with torch.no_grad():
            assert torch.allclose(network(pictures), plain(pictures), rtol=1e-6)


def test_other_devices_and_precisions_have_the_stock_operators():
    network, pictures = next(networks(torch.float32))
    speed_up(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(pictures).isfinite().all()
    network.to("meta")
    assert network(pictures.to("meta")).shape == (6, 7)


def test_a_layer_that_is_not_understood_is_left_alone():
    kinds = [
        nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=0, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=True),
        nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(4, 4, (3, 5), padding=(1, 2), groups=4, bias=False),
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, momentum=None),
    ]
    before = [type(layer) for layer in kinds]
    speed_up(nn.Sequential(*kinds))
    assert [type(layer) for layer in kinds] == before


def test_the_library_is_built_once_and_again_where_it_is_damaged(tmp_path, monkeypatch):
    if native.compiler() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setenv("GENAS_CACHE", str(tmp_path))
    compiled = []
    monkeypatch.setattr(native, "_compile", lambda program, real, made: compiled.append(made.write_bytes(b"x")) or True)
    for expected in (1, 1):
        path = native.build.__wrapped__("float")
        assert len(compiled) == expected
    path.write_bytes(b"y")
    assert native.build.__wrapped__("float") == path
    assert len(compiled) == 2
    assert path.read_bytes() == b"x"
    assert sorted(entry.suffix for entry in (tmp_path / "native").iterdir()) == [".json", ".so"]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"GENAS_NATIVE": "0"}, ""),
        ({"CXX": "/no/such/compiler"}, ""),
        ({"CXX": "/bin/false"}, "cannot compile"),
        ({"GENAS_CACHE": "/dev/null/nowhere"}, "no compiled kernels can be kept"),
    ],
)
def test_without_kernels_a_training_is_as_good(environment, words, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("GENAS_CACHE", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert native.build.__wrapped__("float") is None
    assert words in caplog.text
    assert bool(caplog.text) == bool(words)


def test_the_pure_path_trains():
    """In a process that may not compile."""
    program = """
import json
from tests.training.test_loop import RECIPE, network
from training import DataSettings, load_split, prepare, train
from training.native import library
data = prepare(DataSettings(train_images=64, validation_images=32, test_images=32), 8)
splits = load_split(data, "train"), load_split(data, "validation")
result = train(network(text="111111 111111"), *splits, data.normalisation, RECIPE, 0, "a")
print(json.dumps([library() is None, result.curves.train_loss]))
"""
    root = Path(__file__).parent.parent.parent
    losses = {}
    for switch in ("0", "1"):
        environment = {**os.environ, "GENAS_NATIVE": switch}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True, env=environment
        )
        without, losses[switch] = json.loads(done.stdout)
        assert without == (switch == "0" or native.compiler() is None)
    assert losses["0"] == pytest.approx(losses["1"], rel=0.05)
