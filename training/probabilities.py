"""The class probabilities of a trained network on a split."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.data import Normalisation
from training.images import Split, evaluation_batches

_AT_ONCE = 256


@torch.no_grad()
def class_probabilities(network: nn.Module, split: Split, normalisation: Normalisation) -> NDArray[np.float32]:
    """(images, classes), rows sum to 1; not finite where the network's scores are not.

    In float32 and without test-time flips: what an exported network gives.

    Args:
        network: on the split's device; gives class scores or logarithms of probabilities.
    """
    network.eval()
    batches = evaluation_batches(split, _AT_ONCE, normalisation)
    parts = [network(images).double().softmax(dim=1).float() for images, _ in batches]
    found: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    return found
