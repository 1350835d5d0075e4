"""Several networks as one: the weighted mean of their class probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from supernet.settings import InputError


class Ensemble(nn.Module):
    """The logarithm of the weighted mean of the members' class probabilities, renormalised: (images, classes).

    As these are logarithms of probabilities, their largest is the answer and their cross entropy is that of the
    ensemble, as of any network's class scores. The keys of the state dict are ``temperatures``, ``weights`` and those
    of the members after ``member1.``, ``member2.``, ...; :func:`supernet.export.ensemble_source` writes source with
    the same keys.

    Attributes:
        temperatures: what each member's class scores are divided by, (members,), float32; 1 leaves them alone.
        weights: of each member for each class, (members, classes), float32; columns sum to 1.

    Raises:
        InputError: no members, or weights that are not theirs.
    """

    temperatures: Tensor
    weights: Tensor

    def __init__(self, members: Sequence[nn.Module], weights: Tensor, temperatures: Tensor | None = None) -> None:
        super().__init__()
        if not members or weights.ndim != 2 or len(weights) != len(members):
            shape = tuple(weights.shape)
            raise InputError(f"ensemble: expected weights of shape (members, classes), got {shape} for {len(members)}")
        sums = weights.sum(dim=0)
        if not (weights >= 0).all() or not torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
            raise InputError("ensemble: expected weights from 0 that sum to 1 for each class")
        temperatures = torch.ones(len(members)) if temperatures is None else temperatures
        if temperatures.shape != (len(members),) or not (temperatures > 0).all():
            raise InputError(f"ensemble: expected {len(members)} temperatures above 0, got {temperatures}")
        for number, member in enumerate(members, 1):
            self.add_module(f"member{number}", member)
        self.register_buffer("temperatures", temperatures.float())
        self.register_buffer("weights", weights.float())

    def forward(self, images: Tensor) -> Tensor:
        scores = torch.stack([member(images) for member in self.children()]).float()
        weighted = (scores / self.temperatures[:, None, None]).log_softmax(dim=2) + self.weights.log()[:, None]
        return weighted.logsumexp(dim=0).log_softmax(dim=1)
