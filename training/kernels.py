"""Faster layers for training on one core of a CPU and on a GPU: parameters, names and results are the ordinary ones.

What PyTorch does on a CPU with a depthwise convolution's gradients is the trap: its generic fallbacks take up to forty
times as long as the forward pass. Three ways out, by what is at hand (:mod:`training.native`):

- compiled kernels: forward, both gradients, the ReLU in front; batch norm with the ReLU6 behind; sums of many terms;
- without a compiler, the same convolution in other words: the input gradient at stride 1 is a convolution with the
  flipped kernel, one with holes is an ordinary one on every second pixel;
- anywhere but on a CPU in float32 or float64, the stock operators.

On a GPU a depthwise convolution is calculated in one of several ways, whichever is the fastest for its shape.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.network import Network
from training.choosing import card, cuda_seconds, fastest
from training.native import library

_Untyped: TypeAlias = Any
"""What autograd hands to a function has no type of its own, nor has an array of ctypes."""

_REALS = {torch.float32: "float", torch.float64: "double"}


@lru_cache
def _kernels(dtype: torch.dtype) -> ctypes.CDLL | None:
    if dtype == torch.float32:
        return library("float")
    return library("double") if dtype == torch.float64 else None


def _call(name: str, like: Tensor, *arguments: Any) -> None:  # noqa: ANN401 - what ctypes takes
    """Run a kernel on tensors of this type. Fake tensors, which only count memory, have nothing to work on."""
    if _is_real(like):
        kernels = _kernels(like.dtype)
        assert kernels is not None
        getattr(kernels, name)(*(_at(one) if one is None or isinstance(one, Tensor) else one for one in arguments))


def _dense(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _like(tensor: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=tensor.dtype, memory_format=torch.channels_last)


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _shape(x: Tensor, out: tuple[int, int], kernel: int, stride: int, dilation: int) -> _Untyped:
    images, channels, height, width = x.shape
    return (ctypes.c_int64 * 9)(images, height, width, channels, *out, kernel, stride, dilation)


class _Depthwise(torch.autograd.Function):
    """The compiled convolution, after a ReLU where asked."""

    @staticmethod
    def forward(ctx: _Untyped, x: Tensor, weight: Tensor, stride: int, dilation: int, relu: bool) -> Tensor:
        x, weight = _dense(x), weight.contiguous()
        images, channels, height, width = x.shape
        y = _like(x, images, channels, -(-height // stride), -(-width // stride))
        shape = _shape(x, (y.shape[2], y.shape[3]), weight.shape[2], stride, dilation)
        _call("depthwise_forward", x, x, weight, y, shape, int(relu))
        ctx.save_for_backward(x, weight)
        ctx.options = (shape, int(relu))
        return y

    @staticmethod
    def backward(ctx: _Untyped, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        shape, relu = ctx.options
        gradient = _dense(gradients[0])
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        of_weight = torch.empty_like(weight)
        _call("depthwise_backward", x, x, weight, gradient, of_x, of_weight, shape, relu)
        return of_x, of_weight, None, None, None


class _Flipped(torch.autograd.Function):
    """An ordinary depthwise convolution of stride 1 whose input gradient is a convolution with the flipped kernel."""

    @staticmethod
    def forward(ctx: _Untyped, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[2] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: _Untyped, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        gradient, border = _dense(gradients[0]), weight.shape[2] // 2
        of_x = F.conv2d(gradient, weight.flip(2, 3), padding=border, groups=len(weight))
        of_weight = torch.ops.aten.convolution_backward(
            gradient,
            x,
            weight,
            None,
            [1, 1],
            [border, border],
            [1, 1],
            False,
            [0, 0],
            len(weight),
            [False, True, False],
        )[1]
        return of_x, of_weight


def depthwise(x: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1, relu: bool = False) -> Tensor:
    """A depthwise convolution that keeps the side (divided by the stride, rounded up), after a ReLU where asked.

    Args:
        x: (batch, channels, height, width) on the CPU.
        weight: (channels, 1, kernel, kernel), kernel odd.
        stride, dilation: 1 or 2.
    """
    if _kernels(x.dtype) is not None and weight.shape[2] in (3, 5, 7):
        result: Tensor = _Depthwise.apply(x, weight, stride, dilation, relu)
        return result
    return depthwise_in_torch(F.relu(x) if relu else x, weight, stride, dilation)


def depthwise_in_torch(x: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """The same without a compiler."""
    result: Tensor
    if dilation == 2 and stride == 2:  # of every two pixels only the first is ever touched
        result = _Flipped.apply(_dense(x[:, :, ::2, ::2]), weight)
        return result
    if dilation == 2:
        images, channels, height, width = x.shape
        x = F.pad(x, (0, width % 2, 0, height % 2))
        parts = [_dense(x[:, :, row::2, column::2]) for row in (0, 1) for column in (0, 1)]
        done: Tensor = _Flipped.apply(torch.cat(parts), weight)
        rows, columns = done.shape[2:]
        grid = done.reshape(2, 2, images, channels, rows, columns).permute(2, 3, 4, 0, 5, 1)
        return grid.reshape(images, channels, 2 * rows, 2 * columns)[:, :, :height, :width]
    if stride == 1:
        result = _Flipped.apply(x, weight)
        return result
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2, groups=len(weight))


class _NoCudnn(torch.autograd.Function):
    """A depthwise convolution by PyTorch's own CUDA kernels, forward and backward."""

    @staticmethod
    def forward(ctx: _Untyped, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.options = (stride, dilation)
        with torch.backends.cudnn.flags(enabled=False):
            return _stock(x, weight, stride, dilation)

    @staticmethod
    def backward(ctx: _Untyped, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, dilation = ctx.options
        border = _border(weight, dilation)
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        with torch.backends.cudnn.flags(enabled=False):
            of_x, of_weight, _ = torch.ops.aten.convolution_backward(
                gradients[0].contiguous(), x, weight, None, [stride] * 2, [border] * 2, [dilation] * 2, False, [0, 0],
                len(weight), wanted,
            )  # fmt: skip
        return of_x, of_weight, None, None


def _border(weight: Tensor, dilation: int) -> int:
    return dilation * (weight.shape[2] - 1) // 2


def _stock(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    return F.conv2d(x, weight, None, stride, _border(weight, dilation), dilation, len(weight))


def _own_kernels(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    result: Tensor = _NoCudnn.apply(x, weight, stride, dilation)
    return _dense(result)


CUDA_WAYS: dict[str, Callable[[Tensor, Tensor, int, int], Tensor]] = {
    "cudnn": _stock,  # in channels_last, as everything around it
    "cudnn_contiguous": lambda x, weight, stride, dilation: _dense(_stock(x.contiguous(), weight, stride, dilation)),
    "own": _own_kernels,
}
"""How a GPU may calculate a depthwise convolution. Which is fast changes with shape, card and version, by up to ten."""


def depthwise_on_gpu(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """A depthwise convolution the way that is the fastest for this shape on this GPU, forward and backward."""
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        x, weight = x.to(dtype), weight.to(dtype)
    shape = f"depthwise {tuple(x.shape)} {tuple(weight.shape)} {stride} {dilation} {x.dtype}"

    def both_ways(way: Callable[[Tensor, Tensor, int, int], Tensor]) -> None:
        given = torch.empty_like(x).requires_grad_(), torch.empty_like(weight).requires_grad_()
        result = way(*given, stride, dilation)
        torch.autograd.grad(result, given, torch.empty_like(result))

    calls = {name: partial(both_ways, way) for name, way in CUDA_WAYS.items()}
    return CUDA_WAYS[fastest(card(x.device), shape, calls, cuda_seconds)](x, weight, stride, dilation)


class _Norm(torch.autograd.Function):
    """Batch norm by the batch's own statistics, clamped to 0..ceiling where that is positive."""

    @staticmethod
    def forward(
        ctx: _Untyped, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, ceiling: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = _dense(x)
        y, mean, variance = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        pixels, channels = x.numel() // x.shape[1], x.shape[1]
        tail = (ctypes.c_int64(pixels), ctypes.c_int64(channels), ctypes.c_double(epsilon), ctypes.c_double(ceiling))
        _call("norm_forward", x, x, y, weight, bias, mean, variance, *tail)
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.tail = tail
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: _Untyped, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, variance = ctx.saved_tensors
        gradient = _dense(gradients[0])
        of_x, of_weight, of_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        _call(
            "norm_backward", x, x, gradient, of_x, weight, bias, mean, variance, of_weight, of_bias, *ctx.tail
        )  # fmt: skip
        return of_x, of_weight, of_bias, None, None


class _Total(torch.autograd.Function):
    """The sum of tensors of one shape."""

    @staticmethod
    def forward(ctx: _Untyped, *terms: Tensor) -> Tensor:
        ctx.count = len(terms)
        dense = [_dense(term) for term in terms]
        result = torch.empty_like(dense[0])
        if _is_real(result):
            pointers = (ctypes.c_void_p * len(dense))(*(term.data_ptr() for term in dense))
            _call("total", result, pointers, ctypes.c_int64(len(dense)), result, ctypes.c_int64(result.numel()))
        return result

    @staticmethod
    def backward(ctx: _Untyped, *gradients: Tensor) -> tuple[Tensor, ...]:
        count: int = ctx.count
        return (gradients[0],) * count


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution, with the ReLU that stood before it."""

    relu: bool

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to (batch, channels, height / stride, width / stride), rounded up."""
        if _is_here(x) and torch.is_grad_enabled():
            return depthwise(x, self.weight, self.stride[0], self.dilation[0], self.relu)
        if x.device.type == "cuda" and torch.is_grad_enabled():
            return depthwise_on_gpu(F.relu(x) if self.relu else x, self.weight, self.stride[0], self.dilation[0])
        return super().forward(F.relu(x) if self.relu else x)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm, with the ReLU6 that stood behind it where ``ceiling`` is 6 rather than 0."""

    ceiling: float

    def forward(self, x: Tensor) -> Tensor:
        """Any (batch, channels, height, width) to the same."""
        same = self.weight is not None and x.dtype == self.weight.dtype
        if self.training and same and _is_here(x) and _kernels(x.dtype) is not None and x.numel() > x.shape[1]:
            y, mean, variance = _Norm.apply(x, self.weight, self.bias, self.eps, self.ceiling)
            with torch.no_grad():
                pixels = x.numel() // x.shape[1]
                assert self.num_batches_tracked is not None
                assert self.running_mean is not None
                assert self.running_var is not None
                assert self.momentum is not None
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * (pixels / (pixels - 1)), self.momentum)
            result: Tensor = y
            return result
        y = super().forward(x)
        return F.hardtanh(y, 0.0, self.ceiling) if self.ceiling > 0 else y


def total(terms: list[Tensor]) -> Tensor:
    """The sum of tensors of one shape, in one pass where there are kernels."""
    first = terms[0]
    alike = all((term.dtype, term.shape) == (first.dtype, first.shape) for term in terms)
    if len(terms) > 2 and alike and first.ndim == 4 and _is_here(first) and _kernels(first.dtype) is not None:
        result: Tensor = _Total.apply(*terms)
        return result
    return sum(terms[1:], first)


def _is_here(x: Tensor) -> bool:
    """Whether a tensor is on a CPU, or pretends to be, and is calculated with as it is."""
    return x.device.type == "cpu" and x.dtype in _REALS and not torch.is_autocast_enabled("cpu")


def _is_real(x: Tensor) -> bool:
    """Whether a tensor has content."""
    return type(x) in (Tensor, nn.Parameter)


def speed_up(network: nn.Module) -> None:
    """Put faster layers in the place of those that have one. Parameters stay the same tensors under the same names.

    Does nothing that another device or precision would notice: there the layers fall back to the stock operators.
    """
    for module in network.modules():
        if isinstance(module, Network):
            module.total = total
    for chain in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for position, layer in enumerate(list(chain)):
            before = chain[position - 1] if position else None
            after = chain[position + 1] if position + 1 < len(chain) else None
            if type(layer) is nn.Conv2d and _is_depthwise(layer):
                relu = type(before) is nn.ReLU
                if relu:
                    chain[position - 1] = nn.Identity()
                _become(layer, DepthwiseConv2d, relu=relu)
            elif type(layer) is nn.BatchNorm2d and layer.affine and layer.track_running_stats and layer.momentum:
                ceiling = 6.0 if type(after) is nn.ReLU6 else 0.0
                if ceiling:
                    chain[position + 1] = nn.Identity()
                _become(layer, BatchNorm2d, ceiling=ceiling)


def _become(layer: nn.Module, kind: type[nn.Module], **attributes: object) -> None:
    layer.__class__ = kind
    for name, value in attributes.items():
        setattr(layer, name, value)


def _is_depthwise(layer: nn.Conv2d) -> bool:
    kernel, stride, dilation = layer.kernel_size[0], layer.stride[0], layer.dilation[0]
    return (
        layer.groups == layer.in_channels == layer.out_channels > 1
        and layer.kernel_size == (kernel, kernel)
        and kernel in (3, 5, 7)
        and layer.stride == (stride, stride)
        and stride in (1, 2)
        and layer.dilation == (dilation, dilation)
        and dilation in (1, 2)
        and layer.padding == (dilation * (kernel - 1) // 2,) * 2
        and layer.bias is None
        and layer.padding_mode == "zeros"
    )
