"""The training-free metrics. Each is a function of a :class:`Probe`; higher is better in all.

What is not a finite number, or says nothing (a network that passes nothing on), is NaN or infinite here and becomes
an invalid score in :mod:`predictor.zero_cost.scoring`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from predictor.zero_cost.probe import ACTIVATIONS, Probe, total, walk, weights_of
from supernet import InputError, graph_costs
from supernet.modules import SqueezeExcite
from supernet.settings import nearest

Metric: TypeAlias = Callable[[Probe], float]
"""A network at initialisation and a batch: a number, higher is better; not finite where it says nothing."""

_EXACT = 2**17
"""Codes added up at a time: their count is exact in float32."""
_SINGULAR = 1e-12
"""A kernel's least eigenvalue over its largest below which it has no determinant."""
_JITTER = 1e-5
"""Added to each eigenvalue by jacob_cov."""
_NOTHING = -(10**9)
"""Exponent of a tensor of zeros: below every other."""


def hook_logdet(probe: Probe) -> float:
    """How well the activations tell the images of the batch apart (Mellor et al. 2021, NASWOT).

    The log-determinant of the kernel of binary codes: with the codes c of an activation layer, (images, elements),
    K = sum over layers of c c' + (1 - c)(1 - c)'. A code is 1 where the layer's input is positive. That is where a ReLU
    passes it on; for ReLU6, CELU and hard swish the sign of the input too, which is that of the output. Not finite
    where two images have the same codes everywhere.
    """
    kernel = np.zeros((len(probe.images), len(probe.images)))

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kernel[...] += agreements(inputs[0])

    layers = [module for module in probe.network.modules() if isinstance(module, ACTIVATIONS)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            probe.network(probe.images)
    finally:
        for hook in hooks:
            hook.remove()
    values = np.linalg.eigvalsh(kernel)
    if not values[0] > _SINGULAR * values[-1]:
        return -math.inf
    return float(np.linalg.slogdet(kernel)[1])


def agreements(inputs: Tensor) -> NDArray[np.float64]:
    """In how many elements each pair of images has the same sign, (images, images): c c' + (1 - c)(1 - c)'."""
    codes = (inputs > 0).movedim(1, -1).flatten(1)  # no copy of channels-last pictures
    alike = np.zeros((len(codes), len(codes)))
    for part in torch.split(codes, _EXACT, dim=1):
        signs = part.float().mul_(2).sub_(1)
        alike += (signs @ signs.T).cpu().numpy().astype(np.float64)
    return (alike + codes.shape[1]) / 2


Scaled: TypeAlias = tuple[Tensor, int]
"""A tensor x and an exponent e: x times two to the e."""


def synflow(probe: Probe) -> float:
    """Log of the synaptic flow (Tanaka et al. 2020): log of sum |w * dR/dw|, R the sum of the outputs; no data.

    Weights are absolute values, pictures are ones, batch norms are left out, all is float64. With nothing negative
    a ReLU passes all on; so do ReLU6, CELU and hard swish here, whose upper parts would stop the flow, and gates of
    squeeze-excitation are open. Convolutions and linear layers count. Each node's values are scaled by a power of
    two, which changes no digit, so that no depth overflows. Not finite where nothing flows.
    """
    network = copy.deepcopy(probe.network).double()
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (nn.BatchNorm2d, SqueezeExcite, *ACTIVATIONS)):
                setattr(parent, name, nn.Identity())
            elif isinstance(child, nn.Linear):
                child.register_parameter("bias", None)
    weights = weights_of(network)
    with torch.no_grad():
        for weight in weights:
            weight.abs_()

    def apply(position: int, module: nn.Module, inputs: Sequence[Scaled]) -> Scaled:
        flow, exponent = inputs[0]
        return _rescaled(module(flow), exponent)

    def join(position: int, op: str, inputs: Sequence[Scaled]) -> Scaled:
        largest = max(exponent for _, exponent in inputs)
        terms = [flow * 2.0 ** (exponent - largest) for flow, exponent in inputs]
        return _rescaled(torch.cat(terms, dim=1) if op == "concat" else total(terms), largest)

    ones = torch.ones(1, *probe.images.shape[1:], dtype=torch.float64, device=probe.images.device)
    flow, exponent = walk(probe.graph, network, (ones, 0), apply, join)
    gradients = torch.autograd.grad(flow.sum(), weights, allow_unused=True)
    result = _product_sum(zip(weights, gradients, strict=True))
    if not result > 0:
        return -math.inf
    if -1000 < exponent + math.frexp(result)[1] < 1000:
        return math.log(math.ldexp(result, exponent))
    return math.log(result) + exponent * math.log(2)


def _rescaled(flow: Tensor, exponent: int) -> Scaled:
    largest = float(flow.detach().max())
    if largest == 0:
        return flow, _NOTHING
    shift = math.frexp(largest)[1]
    return flow * 2.0**-shift, exponent + shift


def _product_sum(pairs: Iterable[tuple[Tensor, Tensor | None]]) -> float:
    """Sum of absolute products of weights and gradients."""
    return math.fsum(
        float((weight.detach() * gradient).abs().sum()) for weight, gradient in pairs if gradient is not None
    )


def snip(probe: Probe) -> float:
    """How much the loss hangs on single weights (Lee et al. 2019): sum |w * dL/dw|, cross entropy on the batch.

    Convolutions and linear layers count. Not finite where it is 0: no weight has a say.
    """
    value = _product_sum(probe.weight_gradients)
    return value if value > 0 else -math.inf


def grad_norm(probe: Probe) -> float:
    """Sum over convolutions and linear layers of the norm of the loss's gradient (Abdelfattah et al. 2021).

    Not finite where it is 0.
    """
    value = math.fsum(float(torch.linalg.vector_norm(gradient)) for _, gradient in probe.weight_gradients)
    return value if value > 0 else -math.inf


def jacob_cov(probe: Probe) -> float:
    """How little the slopes at different images go together (Mellor et al. 2020).

    With the eigenvalues v of the correlations between the images' gradients of the summed outputs, (images, pixels):
    minus the sum of log(v + k) + 1 / (v + k), k = 1e-5. Not finite where an image has no gradient.
    """
    images = probe.images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(probe.network(images).sum(), images)
    slopes = gradient.flatten(1).double()
    slopes = F.normalize(slopes - slopes.mean(dim=1, keepdim=True), eps=0)
    if not torch.isfinite(slopes).all():
        return -math.inf
    values = torch.linalg.eigvalsh(slopes @ slopes.T).clamp(min=0) + _JITTER
    return -float((values.log() + 1 / values).sum())


def expressivity(probe: Probe) -> float:
    """How evenly features spread over their directions (Lee and Ham 2024, AZ-NAS), mean over blocks, in nats.

    The entropy of the normalised eigenvalues of the features' covariance over images and positions. The paper takes
    the sum; here the number of blocks may differ between networks and must not be what decides.
    """
    return math.fsum(entropies) / len(entropies) if (entropies := _entropies(probe)) else math.nan


def progressivity(probe: Probe) -> float:
    """The least gain in :func:`expressivity` from a block to the next (Lee and Ham 2024, AZ-NAS), in nats."""
    gains = [after - before for before, after in pairwise(_entropies(probe))]
    return float(np.min(gains)) if gains else math.nan  # NumPy's: it does not pass over what is not a number


def trainability(probe: Probe) -> float:
    """How well gradients keep their size (Lee and Ham 2024, AZ-NAS), mean over blocks; 0 is the best.

    A block's value is 2 - s - 1 / s, with s the largest singular value of the mean product of random signs at its
    output and what of them arrives at its input. Blocks that pass everything on as it is are left out.
    """
    generator = torch.Generator().manual_seed(probe.seed)
    values = []
    for before, after in pairwise(probe.block_outputs):
        if after is before:
            continue
        signs = torch.randint(0, 2, after.shape, generator=generator).to(after).mul_(2).sub_(1)
        (arrived,) = torch.autograd.grad(after, before, signs, retain_graph=True, allow_unused=True)
        if arrived is None or (arrived.shape == signs.shape and torch.equal(arrived, signs)):
            continue
        largest = _largest_singular(arrived, signs)
        values.append(2 - largest - 1 / (largest + 1e-6))
    return math.fsum(values) / len(values) if values else math.nan


def _entropies(probe: Probe) -> list[float]:
    values = []
    for output in probe.block_outputs:
        features = output.detach().movedim(1, -1).flatten(0, 2)
        features = features - features.mean(dim=0)
        spread = features.T @ features if features.shape[0] >= features.shape[1] else features @ features.T
        eigenvalues = torch.linalg.eigvalsh(spread.double()).clamp(min=0)
        share = eigenvalues / eigenvalues.sum()
        values.append(float(torch.special.entr(share).sum()))
    return values


def _largest_singular(arrived: Tensor, signs: Tensor) -> float:
    """Of the mean over images and positions of the products of what arrived and the signs, (inputs, outputs)."""
    stride = max(-(-wide // narrow) for wide, narrow in zip(arrived.shape[2:], signs.shape[2:], strict=True))
    if stride > 1:  # the pixels that one output pixel was made of, as channels
        rows, columns = (side * stride for side in signs.shape[2:])
        arrived = F.pad(arrived, (0, columns - arrived.shape[3], 0, rows - arrived.shape[2]))
        arrived = F.pixel_unshuffle(arrived, stride)
    wide, narrow = (values.movedim(1, -1).flatten(0, 2) for values in (arrived, signs))
    product = (wide.T @ narrow / len(narrow)).double()
    gram = product @ product.T if product.shape[0] < product.shape[1] else product.T @ product
    return math.sqrt(max(float(torch.linalg.eigvalsh(gram)[-1]), 0.0))


def macs(probe: Probe) -> float:
    """Multiply-accumulates of one image, exact. Complexity in AZ-NAS, and what every metric has to beat."""
    return float(graph_costs(probe.graph).macs)


def params(probe: Probe) -> float:
    """Trainable weights, exact. What every metric has to beat."""
    return float(graph_costs(probe.graph).params)


METRICS: dict[str, Metric] = {
    "hook_logdet": hook_logdet,
    "synflow": synflow,
    "snip": snip,
    "grad_norm": grad_norm,
    "jacob_cov": jacob_cov,
    "expressivity": expressivity,
    "progressivity": progressivity,
    "trainability": trainability,
    "macs": macs,
    "params": params,
}
"""Every metric. A new one is entered here."""

AZ_NAS = ("expressivity", "progressivity", "trainability", "macs")
"""What AZ-NAS combines, by the sum of log ranks (Lee and Ham 2024)."""


def metric_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names of metrics, each once. Raises InputError for an unknown one or none."""
    chosen = tuple(dict.fromkeys(names))
    for name in chosen:
        if name not in METRICS:
            raise InputError(f"metric {name!r:.80} is unknown; {nearest(name, METRICS)}")
    if not chosen:
        raise InputError(f"metrics: none named; known: {', '.join(METRICS)}")
    return chosen
