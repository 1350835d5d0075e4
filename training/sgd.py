"""The optimizer of the trainings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Sgd:
    """Stochastic gradient descent with Nesterov momentum (Sutskever et al. 2013), weight decay for weights alone.

    What ``torch.optim.SGD`` calculates, to the last bit on a CPU but for the sign of zeros. That one imports
    torch's compiler at its first step, which costs every worker more than a second: as much as a whole small training.

    Args:
        momentum: 0 for plain gradient descent.
        weight_decay: for convolution and linear weights; biases and the weights of norms have none.
    """

    def __init__(self, network: nn.Module, momentum: float, weight_decay: float) -> None:
        parameters = list(network.parameters())
        self._decayed = sum(parameter.ndim > 1 for parameter in parameters)
        self._parameters: list[Tensor] = sorted(parameters, key=lambda parameter: parameter.ndim <= 1)
        self._momentum, self._weight_decay = momentum, weight_decay
        self._velocities = [torch.zeros_like(parameter) for parameter in self._parameters] if momentum else []

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step at this learning rate along the gradients, which are changed; those without stay as they are."""
        used = [number for number, parameter in enumerate(self._parameters) if parameter.grad is not None]
        parameters = [self._parameters[number] for number in used]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        decayed = sum(number < self._decayed for number in used)
        if self._weight_decay and decayed:
            torch._foreach_add_(gradients[:decayed], parameters[:decayed], alpha=self._weight_decay)
        if self._momentum and used:
            velocities = [self._velocities[number] for number in used]
            torch._foreach_mul_(velocities, self._momentum)
            torch._foreach_add_(velocities, gradients)
            torch._foreach_add_(gradients, velocities, alpha=self._momentum)
        if used:
            torch._foreach_add_(parameters, gradients, alpha=-rate)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold: each parameter's momentum."""
        return {f"{number}.momentum_buffer": velocity for number, velocity in enumerate(self._velocities)}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`. Raises ValueError where it is of another network."""
        own = self.state()
        shapes, others = ({name: tensor.shape for name, tensor in one.items()} for one in (own, state))
        if shapes != others:
            raise ValueError("the momentum is that of another network")
        for name, velocity in own.items():
            velocity.copy_(state[name])
