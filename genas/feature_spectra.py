"""Feature spectra of the networks that a run has trained: how many directions their layers use, clean and corrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from analysis.spectra import (
    MEASURES,
    LayerSpectrum,
    average_by_depth,
    feature_spectra,
    spectrum_from_json,
    spectrum_rows,
    spectrum_to_json,
)
from analysis.study import csv_text
from analysis.study_store import family_of
from data_gen import Job, read_store
from data_gen.store import STUDY_STAGE
from genas.config import Run
from genas.kept_weights import HOW_KEPT, load_weights, read_weights
from genas.stages import digest, resolve, single_thread, texture_digest
from supernet import InputError
from supernet.files import bytes_digest, read_json, write_json, write_text
from supernet.network import build_network
from supernet.settings import nearest
from training import load_split
from training.corrupted import evenly_spaced
from training.corruption_names import CORRUPTIONS, EXTRA, SEVERITIES
from training.corruptions import corrupt, frost_textures
from training.images import evaluation_batches
from training.robustness import RobustnessSettings

CONDITIONS = ("clean", "gaussian_noise_3", "defocus_blur_3", "fog_3", "jpeg_compression_3")
"""What the images go through where nothing else is asked: nothing, and one corruption of each group."""

_FORMAT = 1
_AT_ONCE = 64


def spectra(
    run: Run,
    conditions: Sequence[str] = CONDITIONS,
    images: int = 512,
    positions: int = 64,
    progress: Callable[[int, int], None] | None = None,
    train_images: int | None = None,
) -> dict[str, Any]:
    """The spectra of the covariance of every convolution's features, of all networks of ``generate``.

    On the same validation images and positions for all. What is there already is found, not made again.

    Args:
        conditions: ``clean``, or corruption and severity, such as ``fog_3``.
        images: at most so many, evenly spaced in the split.
        positions: drawn in each layer of each image.
        progress: called with networks done and in all.
        train_images: the smaller set of ``study`` that they were trained on; None: all training images.

    Returns:
        ``networks``, ``missing`` (those whose weights are not there), ``conditions``, ``images``, ``means`` (of each
        family and condition the mean of each measure over layers and networks, relative to the channels), and the
        ``folder`` with a file for each network, ``spectra.csv`` and figures.

    Raises:
        InputError: an unknown condition, no labels, no kept weights at all, or damaged ones.
    """
    asked = [(name, *_condition(name)) for name in conditions]
    if not asked or len(set(conditions)) < len(asked):
        raise InputError(f"spectra: expected different conditions, got {', '.join(conditions) or 'none'}")
    if images < 2 or positions < 1:
        raise InputError(f"spectra: expected at least 2 images and 1 position, got {images} and {positions}")
    run, info = resolve(run)
    space, settings = run.settings.space, run.settings
    stage = "generate" if train_images is None else f"{STUDY_STAGE}{train_images}"
    folder = run.folder / "spectra" if train_images is None else run.folder / "spectra" / stage
    store = read_store(run.store)
    try:
        if stage not in store.stages():
            sizes = [one.removeprefix(STUDY_STAGE) for one in store.stages() if one.startswith(STUDY_STAGE)]
            raise InputError(f"spectra: run {run.name!r} has no trainings of {stage}; known sets: {', '.join(sizes)}")
        done = store.accuracies(stage)
        jobs = [job for job in store.jobs(stage) if job.id in done and job.role != "repeat"]
    finally:
        store.close()
    home = run.folder / "weights" if train_images is None else run.folder / "weights" / stage
    weights = {job: home / f"{job.architecture.key}-{job.seed}.safetensors" for job in jobs}
    there = [job for job in jobs if weights[job].is_file()]
    if not there:
        raise InputError(
            f"spectra: run {run.name!r} has kept the weights of none of its {len(jobs)} networks; {HOW_KEPT}"
        )
    robustness = settings.generate.robustness or RobustnessSettings(seed=settings.seed)
    device = torch.device("cuda" if settings.workers.device != "cpu" and torch.cuda.is_available() else "cpu")
    split = evenly_spaced(load_split(info, "validation"), images).to(device)
    textures = texture_digest(settings)
    ice = None if robustness.textures is None else frost_textures(robustness.textures, split.images.shape[1]).to(device)
    batches: dict[str, list[torch.Tensor]] = {}

    def pictures(name: str, corruption: str, severity: int) -> list[torch.Tensor]:
        if name not in batches:  # as each is needed: a run that is complete needs none
            changed = corrupt(split.images, corruption, severity, robustness.seed, ice)
            shown = evaluation_batches(type(split)(changed, split.labels), _AT_ONCE, info.normalisation)
            batches[name] = [batch for batch, _ in shown]
        return batches[name]

    found: dict[Job, dict[str, list[LayerSpectrum]]] = {}
    with single_thread():
        for count, job in enumerate(there):
            if progress is not None:
                progress(count, len(there))
            data = read_weights(weights[job])
            path = folder / f"{weights[job].stem}.json"
            made_from = digest(
                _FORMAT, bytes_digest(data), info.folder.name, images, positions, robustness.seed, textures
            )
            known = _whole(path)
            content = known if known is not None and known.get("made_from") == made_from else {}
            layers = dict(content.get("conditions", {}))
            missing = [entry for entry in asked if entry[0] not in layers]
            if missing:
                network = build_network(space.graph(job.architecture))
                load_weights(network, data, weights[job])
                network.to(device)
                for name, corruption, severity in missing:
                    made = feature_spectra(network, pictures(name, corruption, severity), positions=positions)
                    layers[name] = [spectrum_to_json(layer) for layer in made]
                write_json(path, {"made_from": made_from, "conditions": layers})
            found[job] = {name: [spectrum_from_json(layer) for layer in layers[name]] for name in conditions}
    if progress is not None:
        progress(len(there), len(there))
    families = {job: family_of(space, job.architecture) for job in found}
    return {
        "networks": len(there),
        "missing": len(jobs) - len(there),
        "conditions": list(conditions),
        "images": len(split),
        "means": _means(found, families, conditions),
        "folder": str(folder),
        "figures": _write(folder, found, families, conditions),
    }


def _condition(name: str) -> tuple[str, int]:
    """Corruption and severity of a condition. Raises InputError."""
    if name == "clean":
        return CORRUPTIONS[0], 0
    corruption, _, severity = name.rpartition("_")
    known = (*CORRUPTIONS, *EXTRA)
    if corruption not in known or severity not in map(str, SEVERITIES):
        raise InputError(
            f"spectra: condition {name!r:.60}: expected clean, or a corruption with its severity from 1 to 5, such as "
            f"fog_3; {nearest(corruption or name, known)}"
        )
    return corruption, int(severity)


def _whole(path: Path) -> dict[str, Any] | None:
    """What a file of spectra holds; None where it is not there or damaged: then they are made again."""
    try:
        content = read_json(path)
        for layers in {} if content is None else content["conditions"].values():
            for layer in layers:
                spectrum_from_json(layer)
    except (InputError, KeyError, TypeError, AttributeError):
        return None
    return content


Spectra = dict[Job, dict[str, list[LayerSpectrum]]]


def _groups(
    found: Spectra, families: dict[Job, str], conditions: Sequence[str]
) -> Iterator[tuple[str, str, list[list[LayerSpectrum]]]]:
    for family in dict.fromkeys(families.values()):
        for condition in conditions:
            yield family, condition, [own[condition] for job, own in found.items() if families[job] == family]


def _means(found: Spectra, families: dict[Job, str], conditions: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "family": family,
            "condition": condition,
            "networks": len(networks),
            **{
                measure: sum(
                    sum(layer.relative[measure] for layer in network) / len(network) for network in networks
                ) / len(networks)
                for measure in MEASURES
            },
        }
        for family, condition, networks in _groups(found, families, conditions)
    ]  # fmt: skip


def _write(folder: Path, found: Spectra, families: dict[Job, str], conditions: Sequence[str]) -> list[str]:
    """``spectra.csv`` with a row for each layer, and the figures; their names."""
    from analysis.robust_sections import SPECTRA_UNITS
    from analysis.study_figures import Curve, spectra_over_depth

    rows = [
        row
        for job, own in found.items()
        for condition in conditions
        for row in spectrum_rows(own[condition], job.architecture.key, families[job], condition)
    ]
    write_text(folder / "spectra.csv", csv_text(list(rows[0]), [list(row.values()) for row in rows]))
    written: list[Path] = []
    for measure, unit in SPECTRA_UNITS.items():
        curves: dict[str, dict[str, Curve]] = {}
        for family, condition, networks in _groups(found, families, conditions):
            curves.setdefault(family, {})[condition] = Curve(
                *(numbers.tolist() for numbers in average_by_depth(networks, measure))
            )
        written += spectra_over_depth(curves, f"spectra_{measure}", unit).write(folder)
    return [path.name for path in written]
