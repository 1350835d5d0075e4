import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from supernet.modules import GhostBatchNorm


def pair(channels, size, dtype=torch.float64):
    """A ghost norm with other weights than those of the first day, and a plain one with the same."""
    generator = torch.Generator().manual_seed(channels)
    ghost, plain = GhostBatchNorm(channels, size).to(dtype), nn.BatchNorm2d(channels).to(dtype)
    with torch.no_grad():
        for tensor in (ghost.weight, ghost.bias, ghost.running_mean):
            tensor.copy_(torch.randn(channels, generator=generator))
    plain.load_state_dict(ghost.state_dict())
    return ghost, plain


def pieces(count, size):
    """Sizes of the groups of a batch: the last takes what is left over."""
    groups = max(1, count // size)
    return [size] * (groups - 1) + [count - size * (groups - 1)]


def chunked(plain, images, size):
    """Each group through a copy of the plain norm; outputs, mean running statistics."""
    copies = [copy.deepcopy(plain) for _ in pieces(len(images), size)]
    outputs = [one(part) for one, part in zip(copies, images.split(pieces(len(images), size)), strict=True)]
    means, variances = (
        torch.stack([getattr(one, name) for one in copies]).mean(dim=0) for name in ("running_mean", "running_var")
    )
    return torch.cat(outputs), means, variances


@given(st.integers(2, 13), st.integers(1, 6), st.integers(1, 3), st.integers(1, 4))
def test_each_group_is_normalised_as_by_a_plain_batch_norm(count, size, channels, side):
    if side == 1 and min(pieces(count, size)) == 1:
        side = 2  # a single value has no variance
    ghost, plain = pair(channels, size)
    images = 3 + 2 * torch.randn(count, channels, side, side, dtype=torch.float64)
    expected, mean, variance = chunked(plain, images, size)
    torch.testing.assert_close(ghost(images), expected)
    torch.testing.assert_close(ghost.running_mean, mean)
    torch.testing.assert_close(ghost.running_var, variance)
    assert ghost.num_batches_tracked == 1


@pytest.mark.parametrize("count", [2, 3, 7])
def test_less_than_two_groups_and_all_of_evaluation_are_a_plain_batch_norm(count):
    ghost, plain = pair(3, 4)
    images = torch.randn(count, 3, 5, 5, dtype=torch.float64)
    assert torch.equal(ghost(images), plain(images))
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in ghost.state_dict().items())
    images = torch.randn(16, 3, 5, 5, dtype=torch.float64)
    assert torch.equal(ghost.eval()(images), plain.eval()(images))
    assert list(ghost.state_dict()) == list(plain.state_dict())


def test_a_group_of_one_value_is_refused_as_by_a_plain_batch_norm():
    ghost, plain = pair(3, 1)
    for norm, count in ((ghost, 4), (plain, 1)):
        with pytest.raises(ValueError, match=r"expected more|Expected more"):
            norm(torch.randn(count, 3, 1, 1, dtype=torch.float64))


@pytest.mark.parametrize("count", [4, 7])
def test_gradients(count):
    ghost, plain = pair(2, 2)
    images = torch.randn(count, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    ghost.momentum = 0.0  # else each call would change what the next is compared with
    assert torch.autograd.gradcheck(ghost, images)
    weights = torch.randn(count, 2, 3, 3, dtype=torch.float64)
    inputs = (images, ghost.weight, ghost.bias)
    found = torch.autograd.grad((ghost(images) * weights).sum(), inputs)
    expected = torch.autograd.grad((chunked_once(plain, images, 2) * weights).sum(), (images, plain.weight, plain.bias))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def chunked_once(plain, images, size):
    """As :func:`chunked`, through one norm whose weights get all gradients."""
    return torch.cat([plain(part) for part in images.split(pieces(len(images), size))])


@pytest.mark.parametrize("count", [8, 11])
def test_memory_format_and_type_are_kept_and_statistics_are_float32(count):
    """In bfloat16, whose 8 bits would lose a mean this far from zero."""
    ghost, plain = pair(8, 4, torch.float32)
    images = (100 + torch.randn(count, 8, 6, 6)).to(torch.bfloat16).to(memory_format=torch.channels_last)
    images.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = ghost(images)
    assert output.dtype == torch.bfloat16
    assert output.is_contiguous(memory_format=torch.channels_last)
    expected, mean, _ = chunked(plain, images.float(), 4)
    torch.testing.assert_close(output.float(), expected, rtol=0.01, atol=0.01)
    torch.testing.assert_close(ghost.running_mean, mean)
    output.float().square().sum().backward()
    assert images.grad.is_contiguous(memory_format=torch.channels_last)
    assert ghost.weight.grad.dtype == torch.float32


def test_shapes_are_known_without_values():
    with torch.device("meta"):
        ghost = GhostBatchNorm(4, 2)
        assert ghost(torch.empty(7, 4, 5, 5)).shape == (7, 4, 5, 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_cuda_graph_holds_a_step():
    ghost, plain = (norm.cuda() for norm in pair(4, 4, torch.float32))
    images = torch.randn(16, 4, 6, 6, device="cuda").to(memory_format=torch.channels_last)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        copy.deepcopy(ghost)(images)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = ghost(images)
    images.copy_(torch.randn_like(images))
    graph.replay()
    expected, mean, _ = chunked(plain, images, 4)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(ghost.running_mean, mean)
