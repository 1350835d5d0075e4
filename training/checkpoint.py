"""Checkpoints inside a training: two are kept, each whole or not at all, and one that is damaged is never loaded.

A checkpoint is ``NAME.STEP.safetensors`` and, written after it, ``NAME.STEP.json``: whose training it is, where
it stood, and a digest over both. Loading takes the newest that is whole and of this very training, else the one
before, else none, with one warning.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from supernet import InputError
from supernet.files import bytes_digest, read_json, write_bytes, write_json
from training.checkpoint_files import found, keep_newest, remove

FORMAT = 1
_SHARE = 0.01  # of the training time that saving may take
_LOGGER = logging.getLogger("genas.checkpoint")


@dataclass(frozen=True)
class Checkpoint:
    """Where a training stood: tensors by name, and plain values."""

    tensors: Mapping[str, Tensor]
    content: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one training.

    Attributes:
        folder, name: where they lie and what their names begin with.
        identity: plain values that say whose they are (architecture, seed, recipe, images); a checkpoint
            with another identity is not this training's.
        every: least seconds between two that :meth:`due` asks for. It waits longer where saving is slow, so
            that saving never takes more than a hundredth of the time.
    """

    def __init__(self, folder: Path, name: str, identity: Mapping[str, Any], every: float) -> None:
        self.folder, self.name, self.every = folder, name, every
        self.identity = json.loads(json.dumps({"format": FORMAT, **identity}))
        self._last, self._cost = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether it is time for another one."""
        return time.monotonic() - self._last >= max(self.every, self._cost / _SHARE)

    def save(self, step: int, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
        """Write a checkpoint and remove all but the newest two. Raises UnavailableError where the disk is full."""
        started = time.monotonic()
        weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        base = self.folder / f"{self.name}.{step:09d}"
        write_bytes(_weights(base), weights)
        described = {"identity": self.identity, "content": content, "weights": bytes_digest(weights)}
        write_json(base.with_name(f"{base.name}.json"), described)
        keep_newest(self.folder, self.name)
        self._last = time.monotonic()
        self._cost = self._last - started

    def newest(self) -> Checkpoint | None:
        """The newest one that is whole and this training's; None where there is none."""
        problems = []
        for step, base in found(self.folder, self.name):
            try:
                checkpoint = self._load(base)
            except InputError as error:
                problems.append(str(error))
                continue
            if problems:
                _LOGGER.warning("%s; going on from step %d", "; ".join(problems), step)
            return checkpoint
        if problems:
            _LOGGER.warning("%s; this training begins again", "; ".join(problems))
            self.clear()  # or they would count among the two that are kept
        return None

    def clear(self) -> None:
        """Remove them all: the training has its result."""
        for _, base in found(self.folder, self.name):
            remove(base)

    def _load(self, base: Path) -> Checkpoint:
        """Raises InputError for one that is damaged, incomplete, or another training's."""
        path = base.with_name(f"{base.name}.json")
        described = read_json(path)
        if described is None:
            raise InputError(f"{path}: missing, so its weights are not read")
        if described.get("identity") != self.identity:
            raise InputError(f"{path}: of another training (architecture, recipe, pieces of a batch) or version")
        try:
            weights = _weights(base).read_bytes()
        except OSError as error:
            raise InputError(f"{_weights(base)}: cannot be read ({error.strerror})") from error
        if described.get("weights") != bytes_digest(weights):
            raise InputError(f"{_weights(base)}: damaged")
        try:
            return Checkpoint(load(weights), described["content"])
        except (SafetensorError, KeyError) as error:
            raise InputError(f"{_weights(base)}: no valid checkpoint ({error})") from error


def _weights(base: Path) -> Path:
    return base.with_name(f"{base.name}.safetensors")
