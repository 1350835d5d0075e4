"""Layers that torch does not have. Exported source holds a copy of those it needs, so each needs torch alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ShiftedConv(nn.Module):
    """Halve the side: two 1x1 convolutions with stride 2, the second on the picture shifted by one pixel."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, out_channels // 2, 1, bias=False)
        self.second = nn.Conv2d(in_channels, out_channels - out_channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # An odd side needs a pixel at the far edge, so that both halves have the same shape.
        padded = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        # The stride is a slice: oneDNN's own strided 1x1 kernel writes past its buffer where channels
        # are few (its issue 6035), which crashes training on a CPU.
        return torch.cat([self.first(x[:, :, ::2, ::2]), self.second(padded[:, :, 1::2, 1::2])], dim=1)


class GhostBatchNorm(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of groups of consecutive images (Hoffer et al. 2017).

    The last group takes the images left over, so it holds fewer than two groups' worth; a batch that makes
    one group is normalised as by ``nn.BatchNorm2d``, and so is everything in evaluation. Running statistics
    learn from the mean over the groups. Statistics are float32 or wider. Its state dict is that of ``nn.BatchNorm2d``.

    Args:
        num_features: channels.
        ghost_images: images in a group.

    Raises:
        ValueError: groups of one image of one pixel in training, as from ``nn.BatchNorm2d``.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, num_features: int, ghost_images: int) -> None:
        super().__init__(num_features)
        self.ghost_images = ghost_images

    def forward(self, x: Tensor) -> Tensor:
        """Images (batch, channels, height, width) to the same shape, type and memory format."""
        size = self.ghost_images
        if not self.training or len(x) < 2 * size:
            return super().forward(x)
        self._check_input_dim(x)
        # Groups are views, in channels_last too: only the batch is divided.
        full = len(x) if len(x) % size == 0 else len(x) - len(x) % size - size
        parts = [x[:full].view(-1, size, *x.shape[1:])] if full else []
        if full < len(x):
            parts.append(x[full:].unsqueeze(0))
        normalised, means, variances = [], [], []
        for groups in parts:
            values = groups.to(torch.promote_types(x.dtype, torch.float32))
            count = values[0, :, 0].numel()
            if count == 1:
                raise ValueError(f"ghost batch norm: {tuple(x.shape)} has one value a group and channel; expected more")
            variance, mean = torch.var_mean(values, dim=(1, 3, 4), correction=0, keepdim=True)
            scale = self.weight[:, None, None] * torch.rsqrt(variance + self.eps)
            shifted = torch.addcmul(self.bias[:, None, None] - mean * scale, values, scale)
            normalised.append(shifted.to(x.dtype).flatten(0, 1))
            means.append(mean.detach().flatten(1))
            variances.append(variance.detach().flatten(1) * (count / (count - 1)))
        with torch.no_grad():  # in place and without a look at a value, so that a CUDA graph can hold it
            for running, seen in ((self.running_mean, means), (self.running_var, variances)):
                running.lerp_(torch.cat(seen).mean(dim=0).to(running.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        return normalised[0] if len(normalised) == 1 else torch.cat(normalised)


class Scale(nn.Module):
    """Multiply by a fixed number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class SqueezeExcite(nn.Module):
    """Weigh each channel by what a small network makes of the means of all (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.excite(F.relu(self.squeeze(x.mean(dim=(2, 3), keepdim=True))))
        return x * F.hardsigmoid(weights)


class PadChannels(nn.Module):
    """Add channels of zeros after those that are there."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, self.channels - x.shape[1]))


HELPERS: tuple[type[nn.Module], ...] = (ShiftedConv, GhostBatchNorm, Scale, SqueezeExcite, PadChannels)
"""What exported source has to bring along; everything else is torch's."""
