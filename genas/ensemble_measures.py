"""What ensembles and single networks are worth on validation and test images: measured once for the same ensembles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from genas.config import Run
from genas.ensemble_pool import Pool, device_of
from genas.stages import digest, resolve, texture_digest
from supernet import InputError
from supernet.ensembles import Ensemble
from supernet.files import read_json, write_json
from training import Recipe, load_split
from training.corrupted import CorruptedSplit, measure_robustness
from training.ensembles import (
    Mixture,
    accuracy,
    cross_entropy,
    expected_calibration_error,
    paired_difference,
)
from training.robustness import RobustnessSettings, robustness_metrics

_ROBUST_IMAGES = 500
"""Test images that are corrupted, at most: each of 75 cells takes as long as all of them do."""
_FORMAT = 1


def measures(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, float]:
    """``accuracy``, ``cross_entropy`` in nats and ``ece``, see :mod:`training.ensembles`."""
    return {
        "accuracy": accuracy(probabilities, labels),
        "cross_entropy": cross_entropy(probabilities, labels),
        "ece": expected_calibration_error(probabilities, labels),
    }


def once(path: Path, identity: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured on the test images of one thing; measured where the file does not say it, and added to it."""
    known: dict[str, Any] = {}
    with suppress(InputError):  # damaged: all is measured again, to the same numbers
        known = read_json(path) or {}
    if identity not in known:
        known[identity] = measure()
        write_json(path, known)
    return dict(known[identity])


def _parts(pool: Pool, mixture: Mixture) -> list[Any]:
    """What makes an ensemble: trained weights, how much each counts, and how it is calibrated."""
    digests = [pool.networks[one].digest for one in mixture.members]
    return [digests, mixture.weights.tolist(), mixture.temperatures.tolist()]


def tested(
    run: Run, pool: Pool, mixtures: Mapping[str, Mixture], chosen: str, singles: Mapping[str, Mixture], path: Path
) -> dict[str, Any]:
    """What is measured on the test images, of the same ensembles once.

    Args:
        singles: the calibrated networks that the chosen ensemble is compared with, by role.
        path: of the file that keeps it, see :func:`once`.

    Returns:
        ``identity``, ``images``, ``methods`` and ``singles`` (numbers of :func:`measures` by method and by role), and
        ``gains``: accuracy of the chosen ensemble less that of each role, with its 95 % interval over images.
    """
    _, info = resolve(run, ("test",))
    identity = digest(
        _FORMAT,
        info.folder.name,
        {name: _parts(pool, mixture) for name, mixture in mixtures.items()},
        chosen,
        {role: _parts(pool, single) for role, single in singles.items()},
    )

    def measure() -> dict[str, Any]:
        split = load_split(info, "test").to(device_of(run))
        labels = split.labels.cpu().numpy()
        best = {name: pool.best(mixture.members) for name, mixture in mixtures.items()}
        asked = {one for mixture in (*mixtures.values(), *singles.values()) for one in mixture.members}
        answers = {one: np.nan_to_num(pool.networks[one].answers(split, info)) for one in sorted(asked)}
        combined = {name: mixture(answers) for name, mixture in mixtures.items()}
        alone = {role: single(answers) for role, single in singles.items()}
        right = combined[chosen].argmax(axis=1) == labels
        gains = {}
        for role, probabilities in alone.items():
            random = np.random.default_rng([run.settings.seed, 6])
            difference, low, high = paired_difference(right, probabilities.argmax(axis=1) == labels, random)
            gains[role] = {"difference": difference, "ci95": [low, high]}
        return {
            "images": len(labels),
            "methods": {
                name: {
                    **measures(combined[name], labels),
                    "best_member_accuracy": accuracy(answers[best[name]], labels),
                }
                for name in mixtures
            },
            "singles": {role: measures(probabilities, labels) for role, probabilities in alone.items()},
            "gains": gains,
        }

    return {"identity": identity, **once(path, identity, measure)}


def robustness(run: Run, pool: Pool, mixture: Mixture, singles: Mapping[str, Mixture], path: Path) -> dict[str, Any]:
    """Accuracy on corrupted test images of an ensemble and of single networks, of each once.

    Args:
        singles, path: as of :func:`tested`.

    Returns:
        ``images``, and ``robust_accuracy``, ``relative_robustness`` and ``accuracy_clean`` of the ``ensemble`` and of
        each role, see :func:`training.robustness.robustness_metrics`.
    """
    settings = run.settings.generate.robustness or RobustnessSettings(seed=run.settings.seed)
    settings = settings.model_copy(update={"images": min(settings.images or _ROBUST_IMAGES, _ROBUST_IMAGES)})
    _, info = resolve(run, ("test",))
    device = device_of(run)
    made_from = [_FORMAT, info.folder.name, settings.model_dump(mode="json"), texture_digest(run.settings)]
    pictures: list[CorruptedSplit] = []

    def measured(network: nn.Module) -> dict[str, Any]:
        if not pictures:  # where all is known, none are needed
            pictures.append(CorruptedSplit(load_split(info, "test").to(device), settings))
        accuracies = measure_robustness(network.to(device), pictures[0], info.normalisation, Recipe())
        found = robustness_metrics(accuracies)
        names = ("robust_accuracy", "relative_robustness", "accuracy_clean")
        return {name: found[name] for name in names if name in found}

    told: dict[str, Any] = {"images": min(settings.images or _ROBUST_IMAGES, info.sizes["test"])}
    whole = digest(*made_from, _parts(pool, mixture))
    told["ensemble"] = once(path, whole, lambda: measured(module_of(pool, mixture)))
    for role, single in singles.items():
        network = pool.networks[single.members[0]]
        told[role] = once(path, digest(*made_from, network.digest), lambda: measured(network.network()))  # noqa: B023
    return told


def module_of(pool: Pool, mixture: Mixture) -> Ensemble:
    """The ensemble as a network, on the CPU."""
    networks = [pool.networks[one].network() for one in mixture.members]
    weights, temperatures = (torch.from_numpy(numbers).float() for numbers in (mixture.weights, mixture.temperatures))
    return Ensemble(networks, weights, temperatures)
