"""The optimizers of the trainings, and the running average of weights.

PyTorch's fused steps without its optimizer classes: those import its compiler at their first step, which costs every
worker more than a second, as much as a whole small training. A rate may be a tensor, so that a step can be part of a
recorded CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from training.recipe import Recipe


@dataclass
class _Group:
    """Parameters that share a rate and a decay, with the optimizer's own tensors for each."""

    parameters: list[Tensor]
    rate: float
    decay: float
    state: dict[str, list[Tensor]] = field(default_factory=dict)

    def used(self) -> tuple[list[Tensor], list[Tensor], dict[str, list[Tensor]]]:
        """(parameters, gradients, state) of those that have a gradient."""
        numbers = [number for number, parameter in enumerate(self.parameters) if parameter.grad is not None]
        parameters = [self.parameters[number] for number in numbers]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        return parameters, gradients, {name: [own[at] for at in numbers] for name, own in self.state.items()}


class Optimizer:
    """Stochastic gradient descent or Adam, as the recipe says: what ``torch.optim`` calculates with ``fused=True``.

    Parameters that need no gradient when it is made are left alone, and so are those without one in a step.
    """

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        learnt: list[Tensor] = [parameter for parameter in network.parameters() if parameter.requires_grad]
        weights = [parameter for parameter in learnt if parameter.ndim > 1]
        others = [parameter for parameter in learnt if parameter.ndim <= 1]
        self._recipe = recipe
        self._groups = [
            _Group(weights, 1.0, recipe.weight_decay),
            _Group(others, recipe.bias_rate, recipe.weight_decay if recipe.decay_all else 0.0),
        ]
        for group in self._groups:
            if recipe.optimizer == "adam":
                group.state = {name: [torch.zeros_like(one) for one in group.parameters] for name in ("mean", "square")}
                group.state["step"] = [torch.zeros((), device=one.device) for one in group.parameters]
            elif recipe.momentum:
                group.state = {"momentum_buffer": [torch.zeros_like(one) for one in group.parameters]}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self._groups:
            for parameter in group.parameters:
                parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """All there are, to be changed in place."""
        return [gradient for group in self._groups for gradient in group.used()[1]]

    @torch.no_grad()
    def step(self, rate: Tensor, skip: Tensor | None = None) -> None:
        """One step along the gradients, which may be changed.

        Args:
            rate: the learning rate, a tensor of no dimension.
            skip: nothing is done where this single number is 1.
        """
        recipe = self._recipe
        for group in self._groups:
            parameters, gradients, state = group.used()
            if not parameters:
                continue
            here = rate if group.rate == 1 else rate * group.rate
            if recipe.optimizer == "adam":
                torch._fused_adam_(
                    parameters, gradients, state["mean"], state["square"], [], self._counted(state["step"], skip),
                    lr=here, beta1=recipe.beta1, beta2=recipe.beta2, weight_decay=group.decay, eps=1e-8,
                    amsgrad=False, maximize=False, found_inf=skip,
                )  # fmt: skip
            else:
                torch._fused_sgd_(
                    parameters, gradients, state.get("momentum_buffer", []), lr=here, momentum=recipe.momentum,
                    weight_decay=group.decay, dampening=0.0, nesterov=recipe.nesterov and recipe.momentum > 0,
                    maximize=False, is_first_step=False, found_inf=skip,
                )  # fmt: skip

    @staticmethod
    def _counted(steps: list[Tensor], skip: Tensor | None) -> list[Tensor]:
        torch._foreach_add_(steps, 1)
        if skip is not None:
            torch._foreach_sub_(steps, [skip] * len(steps))
        return steps

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold besides the weights."""
        return {
            f"{place}.{number}.{name}": tensor
            for place, group in enumerate(self._groups)
            for name, own in group.state.items()
            for number, tensor in enumerate(own)
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`. Raises ValueError where it is of another network or optimizer."""
        _copy(self.state(), state, "the optimizer's state")


class Average:
    """An exponential moving average of a network's weights and statistics (Polyak and Juditsky 1992).

    It starts as a copy of the network.
    """

    def __init__(self, network: nn.Module) -> None:
        self._live = {
            name: tensor.detach() for name, tensor in network.state_dict().items() if tensor.is_floating_point()
        }
        self._kept = {name: tensor.clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self, weight: Tensor) -> None:
        """Move towards the network by ``weight``, which is 1 - decay: a tensor of no dimension."""
        live, kept = list(self._live.values()), list(self._kept.values())
        change = torch._foreach_sub(live, kept)
        torch._foreach_mul_(change, weight)  # a tensor, which is another number in each replay of a recorded step
        torch._foreach_add_(kept, change)

    @torch.no_grad()
    def exchange(self) -> None:
        """Swap the network's weights with the averaged ones; a second time swaps back."""
        for name, live in self._live.items():
            kept = self._kept[name]
            before = live.clone()
            live.copy_(kept)
            kept.copy_(before)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold."""
        return dict(self._kept)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`. Raises ValueError where it is of another network."""
        _copy(self._kept, state, "the average of weights")


@torch.no_grad()
def _copy(own: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> None:
    shapes, others = ({name: tensor.shape for name, tensor in one.items()} for one in (own, state))
    if shapes != others:
        raise ValueError(f"{what} is that of another network")
    for name, tensor in own.items():
        tensor.copy_(state[name])
