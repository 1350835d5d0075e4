"""What every exported model has in common: constants of the images, and proof that it gives what was trained."""

from __future__ import annotations

import runpy
from pathlib import Path

import torch
from torch import nn

from supernet import InputError, SearchSpace
from training import DataInfo


def image_constants(info: DataInfo) -> dict[str, object]:
    """What a ``model.py`` says of the images that it was trained on."""
    return {"CLASSES": info.classes, "MEAN": info.normalisation.mean, "DEVIATION": info.normalisation.deviation}


def largest_difference(folder: Path, network: nn.Module, space: SearchSpace) -> float:
    """How far the class scores of an exported model are from those of the network, on a batch of random images.

    Args:
        folder: with ``model.py`` and ``weights.safetensors``.
        space: knows the shape of the images.

    Raises:
        InputError: by more than 1e-4; the files stay, to be looked at.
    """
    # An import would leave a __pycache__.
    exported = runpy.run_path(str(folder / "model.py"))["load"](folder / "weights.safetensors")
    images = torch.randn(4, space.input_channels, space.input_size, space.input_size,
                         generator=torch.Generator().manual_seed(0))  # fmt: skip
    with torch.inference_mode():
        difference = float((network.cpu().eval()(images) - exported(images)).abs().max())
    if not difference <= 1e-4:
        raise InputError(f"{folder / 'model.py'}: its scores differ from the trained network's by {difference}")
    return difference
