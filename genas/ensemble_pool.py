"""The trained networks that ensembles are made of: those of some runs whose weights were kept, and what they answer."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_gen import Store, read_store
from genas.config import Run, differences
from genas.kept_weights import HOW_KEPT, described_digest, load_weights, read_weights
from genas.stages import digest, label_settings, resolve, saved_settings
from supernet import Architecture, InputError
from supernet.files import write_bytes
from supernet.network import Network, build_network
from supernet.spaces import AnySpace, make_space
from training import DataInfo, Split
from training.ensembles import accuracy, cross_entropy
from training.probabilities import class_probabilities

_HOMES = {"generate": "weights", "front": "front/weights"}
"""Where a stage keeps the weights of its networks, in the run's folder."""
_FORMAT = 1

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Kept:
    """A trained network whose weights are there.

    Attributes:
        run: its folder.
        name: key and seed, after the names of run and stage where there are several.
        weights: the file, which ``digest`` is of; empty where nothing beside it says so.
        costs: by name, of one image.
    """

    run: Path
    stage: str
    name: str
    space: AnySpace
    architecture: Architecture
    seed: int
    weights: Path
    digest: str
    costs: Mapping[str, int]

    def network(self) -> Network:
        """With its weights, in evaluation mode. Raises InputError where they are damaged or another network's."""
        network = build_network(self.space.graph(self.architecture))
        load_weights(network, read_weights(self.weights), self.weights)
        return network.eval()

    def probabilities(self, split: Split, info: DataInfo) -> NDArray[np.float32]:
        """Of each validation image and class, (images, classes). What is in the run's folder is not made again."""
        folder = self.run / "ensemble" / "probabilities"
        path = (folder if self.stage == "generate" else folder / self.stage) / f"{self.weights.stem}.npz"
        made_from = digest(_FORMAT, self.digest, info.folder.name)
        found = _read(path, made_from, (len(split), len(info.classes)))
        if found is None:
            found = self.answers(split, info)
            data = io.BytesIO()
            np.savez(data, probabilities=found, made_from=np.array(made_from))
            write_bytes(path, data.getvalue())
        return found

    def answers(self, split: Split, info: DataInfo) -> NDArray[np.float32]:
        """The same of any split, and not kept."""
        return class_probabilities(self.network().to(split.images.device), split, info.normalisation)


def kept_networks(runs: Sequence[Run]) -> tuple[list[Kept], Run, DataInfo]:
    """The networks of all runs whose weights are there, each once, with the first run resolved and its images.

    Raises:
        InputError: none is there, or not all have learnt from the same images.
    """
    first, info = resolve(runs[0])
    images = {
        "data": label_settings(first.settings)["data"],
        "images": {**info.sizes, "classes": len(info.classes)},
        "space": {"input_size": info.side, "input_channels": info.channels, "classes": len(info.classes)},
    }
    found: dict[str, Kept] = {}
    trained = 0
    for run in runs:
        store = read_store(run.store)
        try:
            for stage in _HOMES:
                saved = saved_settings(store, stage)
                if saved is not None:
                    space = _space(run, saved["space"])
                    networks = list(_of_stage(run, store, stage, space))
                    trained += store.counts(stage)[1]
                    if networks:
                        _compare(run, stage, images, saved, space)
                    for network in networks:
                        found.setdefault(network.digest or str(network.weights), network)
        finally:
            store.close()
    if not found:
        names = ", ".join(run.name for run in runs)
        raise InputError(f"ensemble: of the {trained} networks of {names} no weights were kept; {HOW_KEPT}")
    return list(_named(list(found.values()))), first, info


@dataclass(frozen=True)
class Pool:
    """What is chosen from.

    Attributes:
        networks: within the budget, with finite scores.
        probabilities: of the validation images, (networks, images, classes).
        labels: of these, (images,).
        left_out: names of those whose scores are not finite.
    """

    networks: Sequence[Kept]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    left_out: Sequence[str]

    def best(self, among: Sequence[int]) -> int:
        """Of these the one of the highest validation accuracy, of equal ones that of the lower cross entropy."""
        scores = {
            one: (-accuracy(self.probabilities[one], self.labels), cross_entropy(self.probabilities[one], self.labels))
            for one in among
        }
        return min(among, key=lambda one: scores[one])


def ask(networks: Sequence[Kept], split: Split, info: DataInfo, progress: Progress | None) -> Pool:
    """What all networks answer on the validation images."""
    found = []
    for done, network in enumerate(networks):
        if progress is not None:
            progress(done, len(networks))
        found.append(network.probabilities(split, info))
    if progress is not None:
        progress(len(networks), len(networks))
    finite = [bool(np.isfinite(one).all()) for one in found]
    if not any(finite):
        raise InputError(f"ensemble: none of {len(networks)} networks within the budget has finite scores")
    return Pool(
        [one for one, is_finite in zip(networks, finite, strict=True) if is_finite],
        np.stack([one for one, is_finite in zip(found, finite, strict=True) if is_finite]),
        split.labels.cpu().numpy(),
        [one.name for one, is_finite in zip(networks, finite, strict=True) if not is_finite],
    )


def _of_stage(run: Run, store: Store, stage: str, space: AnySpace) -> Iterator[Kept]:
    for result in store.results(stage):
        architecture, seed = result.job.architecture, result.job.seed
        name = f"{architecture.key}-{seed}"
        path = run.folder / _HOMES[stage] / f"{name}.safetensors"
        if path.is_file():
            told = described_digest(path) or ""
            yield Kept(run.folder, stage, name, space, architecture, seed, path, told, result.costs)


def _space(run: Run, saved: Mapping[str, Any]) -> AnySpace:
    """The space that networks are of: the run's own, which may be written in Python, or the one that was saved."""
    own = run.settings.space
    resolved = {key: saved[key] for key in ("classes", "input_channels") if key in saved}
    space = type(own).model_validate({**own.model_dump(exclude_unset=True), **resolved})
    return space if space.model_dump(mode="json") == saved else make_space(saved)


def _compare(run: Run, stage: str, images: Mapping[str, Any], saved: Mapping[str, Any], space: AnySpace) -> None:
    own = {name: getattr(space, name) for name in images["space"]}
    there = {key: saved[key] for key in ("data", "images") if key in saved}
    differing = differences({**images, **there, "space": own}, images)
    if differing:
        raise InputError(
            f"ensemble: networks of {stage} of run {run.name!r} have learnt from other images than those of the first "
            f"run has now ({'; '.join(differing)}); expected the same images and classes for all"
        )


def _named(networks: Sequence[Kept]) -> Iterator[Kept]:
    """With names that tell runs and stages apart where there are several."""
    runs, stages = ({getattr(one, kind) for one in networks} for kind in ("run", "stage"))
    for one in networks:
        parts = [one.run.name] * (len(runs) > 1) + [one.stage] * (len(stages) > 1)
        yield replace(one, name="/".join([*parts, one.name]))


def _read(path: Path, made_from: str, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """Kept probabilities; None where they are not there, damaged, or of something else."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:  # NumPy leaves a torn one open
            found = arrays["probabilities"]
            fits = str(arrays["made_from"]) == made_from and found.shape == shape and found.dtype == np.float32
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return found if fits else None


def device_of(run: Run) -> torch.device:
    """Where networks are asked."""
    return torch.device("cuda" if run.settings.workers.device != "cpu" and torch.cuda.is_available() else "cpu")
