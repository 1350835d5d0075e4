"""The searches of a front: from differentiable searches to distinct architectures of the space."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from genas.config import Run
from genas.front_settings import FrontSettings
from genas.stages import digest
from supernet import Architecture, InputError, SearchSpace
from supernet.files import read_json, write_json
from supernet.settings import UnavailableError
from supernet.supergraph import SuperGraph
from training import Checkpoints, DataInfo, DivergedError, Recipe, load_split
from training.devices import gpu_names
from training.differentiable import Objective, Searched, search_differentiably

_LOOKS = 257
"""Preferences, evenly spaced, at which a hypernetwork is asked for an architecture: that costs milliseconds."""

Counts = Callable[[int, int], None]


@dataclass(frozen=True)
class Candidate:
    """An architecture that a search stands for.

    Attributes:
        choices: canonical, of the space.
        preference: at which it was found first: from 0 (accuracy) to 1 (cost), or the strength of the norm.
        search: number of the search that found it, from 0.
    """

    choices: tuple[int, ...]
    preference: float
    search: int


@dataclass(frozen=True)
class Found:
    """What the searches of a front gave.

    Attributes:
        candidates: distinct, by the networks that they are.
        searches: of each its objective, history, seconds, whether it collapsed.
    """

    candidates: tuple[Candidate, ...]
    searches: tuple[Mapping[str, Any], ...]

    @property
    def seconds(self) -> float:
        return math.fsum(one["seconds"] for one in self.searches)


def shared_space(space: SearchSpace, settings: FrontSettings) -> SearchSpace:
    """The space as it is while it is searched: the same choices, other sizes. Raises InputError where they differ."""
    unknown = sorted(set(settings.shared) - set(type(space).model_fields) | set(settings.shared) & {"kind"})
    if unknown:
        raise InputError(f"front.shared.{unknown[0]}: no setting of space {space.name!r} that may differ")
    try:
        found = type(space).model_validate({**space.model_dump(), **settings.shared})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("front", "shared", *first["loc"]))
        raise InputError(f"{where}: {first['msg']}") from error
    one, other = space.supergraph(), found.supergraph()
    if one.groups != other.groups or one.inputs != other.inputs:
        raise InputError(f"front.shared: changes what is chosen in space {space.name!r}; expected other sizes only")
    for name in ("input_size", "input_channels", "classes"):
        if getattr(found, name) != getattr(space, name):
            raise InputError(f"front.shared.{name}: that is given by the images; leave it out")
    return found


def find(run: Run, info: DataInfo, progress: Counts | None, stop: Callable[[], bool] = lambda: False) -> Found:
    """Search, or find it done: the same line again continues and repeats nothing.

    Args:
        stop: asked after each step.

    Raises:
        InputError: a space without a weight-sharing network, ``front.shared`` that changes the choices, channels that
            ``front.search.partial`` does not divide, or searches that all diverged.
        StoppedError: ``stop`` answered True; a checkpoint was written first.
        UnavailableError: a GPU that is not there or whose memory is short, or a folder that cannot be written.
    """
    settings, space = run.settings.front, run.settings.space
    searched = shared_space(space, settings)
    graphs = searched.supergraph(), space.supergraph()
    one_search = settings.method == "preferences"
    total = 1 if one_search else settings.searches

    def steps(number: int) -> Counts | None:
        if progress is None:
            return None
        return lambda done, of: progress(number * 1000 + done * 1000 // of, total * 1000)

    done: list[tuple[Objective, dict[str, Any]]] = []
    while len(done) < total:
        if one_search:
            objective = Objective(budget=settings.scalarisation == "budget")
        else:
            objective = _next(settings, [(_strength(one), found) for one, found in done])
        done.append((objective, _search(run, info, graphs, objective, steps(len(done)), stop)))
    if all(found["diverged"] for _, found in done):
        raise InputError("front: every search diverged; lower front.search.learning_rate")
    candidates: dict[tuple[int, ...], Candidate] = {}
    for number, (_, found) in enumerate(done):
        for preference, choices in found["architectures"]:
            row = space.canonical(np.asarray([choices], np.int8))[0]
            key = tuple(int(choice) for choice in row)
            if key not in candidates:
                candidates[key] = Candidate(key, float(preference), number)
    return Found(_distinct(space, list(candidates.values())), tuple(found for _, found in done))


def _distinct(space: SearchSpace, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """One of each network, whatever its choices."""
    known: dict[str, Candidate] = {}
    for one in candidates:
        known.setdefault(space.graph(Architecture(space.name, one.choices)).digest(), one)
    return tuple(known.values())


def _strength(objective: Objective) -> float:
    return objective.norm_weight if objective.norm is not None else objective.preference or 0.0


def _next(settings: FrontSettings, done: Sequence[tuple[float, Mapping[str, Any]]]) -> Objective:
    """The next of several searches: both ends first, then between the neighbours that are farthest apart.

    Neighbours are compared on the plane of cost and of the error on the images that chose, each in units of its range,
    as the published sweep chooses between neighbours on its frontier. A strength at which a search diverged is the end
    from then on.
    """
    norms = settings.method == "norms"
    low, high = settings.norm_weights if norms else (0.0, 1.0)
    ordered = sorted((pair for pair in done if not pair[1]["diverged"]), key=lambda pair: pair[0])
    ceiling = min((strength for strength, found in done if found["diverged"]), default=high)
    if len(done) < 2:
        value = (low, high)[len(done)]
    elif len(ordered) < 2:
        value = _between(ordered[0][0] if ordered else low, ceiling, norms)
    else:
        points = np.array([[found["cost"], found["error"]] for _, found in ordered], np.float64)
        ranges = np.ptp(points, axis=0)
        gaps = np.linalg.norm(np.diff(points / np.where(ranges > 0, ranges, 1), axis=0), axis=1)
        strengths = np.array([strength for strength, _ in ordered])
        if not gaps.any():  # nothing is apart: halve the widest range of strengths
            gaps = np.diff(np.log(strengths) if norms else strengths)
        place = int(gaps.argmax())
        value = _between(float(strengths[place]), float(strengths[place + 1]), norms)
    if norms:
        return Objective(0.0, norm=settings.norm, norm_weight=value)
    return Objective(value)


def _between(first: float, second: float, norms: bool) -> float:
    return math.sqrt(first * second) if norms else (first + second) / 2


def _search(
    run: Run, info: DataInfo, graphs: tuple[SuperGraph, SuperGraph], objective: Objective, progress: Counts | None,
    stop: Callable[[], bool],
) -> dict[str, Any]:  # fmt: skip
    """One search, kept in the run's folder ``front/searches`` by what it is."""
    settings, space, augmentation = run.settings.front, run.settings.space, _augmentation(run)
    # Cards and processors need not agree in the last bit, so where it runs is no part of what it is.
    identity = digest(
        run.settings.seed, space.model_dump(mode="json"), settings.shared, settings.search.model_dump(mode="json"),
        settings.cost, asdict(objective), info.folder.name,
        augmentation.crop_padding, augmentation.flip, augmentation.cutout,
    )[:16]  # fmt: skip
    path = run.folder / "front" / "searches" / f"{identity}.json"
    kept = read_json(path)
    if kept is not None:
        return kept
    folder = run.folder / "front" / "checkpoints"
    checkpoints = Checkpoints(folder, identity, {"search": identity}, run.settings.workers.checkpoint_seconds)
    started = time.perf_counter()
    try:
        searched = _fitting(run, info, graphs, objective, progress, checkpoints, stop)
        content = _content(graphs[1], settings, objective, searched)
    except DivergedError as error:
        content = {
            "objective": asdict(objective), "diverged": str(error), "architectures": [], "epochs": 0,
            "seconds": time.perf_counter() - started, "collapsed": False, "history": [],
        }  # fmt: skip
    write_json(path, content)
    checkpoints.clear()
    return content


def _fitting(
    run: Run, info: DataInfo, graphs: tuple[SuperGraph, SuperGraph], objective: Objective, progress: Counts | None,
    checkpoints: Checkpoints, stop: Callable[[], bool],
) -> Searched:  # fmt: skip
    """The search, with batches in twice as many pieces until they fit the memory."""
    settings = run.settings.front.search
    training = load_split(info, "train").to(search_device(run))
    while settings.pieces <= settings.batch_size:
        try:
            return search_differentiably(
                *graphs, run.settings.front.cost, training, info.normalisation, settings, _augmentation(run),
                objective, run.settings.seed, "front", progress, checkpoints, stop,
            )  # fmt: skip
        except torch.OutOfMemoryError:
            settings = settings.model_copy(update={"pieces": settings.pieces * 2})
        torch.cuda.empty_cache()  # not before the error, which holds the network, is gone
    raise UnavailableError(
        f"front: the shared network does not fit the memory of {training.images.device} with one image at a time; "
        f"make front.shared smaller, or raise front.search.partial"
    )


def _augmentation(run: Run) -> Recipe:
    """What trainings do to the images is what searches do."""
    return run.settings.front.recipe or run.settings.generate.recipe


def search_device(run: Run) -> torch.device:
    """Where a search runs, and test images are measured. Raises UnavailableError for a GPU that is not there."""
    wanted = run.settings.workers.device
    has_gpu = wanted != "cpu" and bool(gpu_names())
    if wanted == "cuda" and not has_gpu:
        raise UnavailableError("workers.device is 'cuda', but torch sees no GPU; use 'auto' or 'cpu'")
    return torch.device("cuda" if has_gpu else "cpu")


def _content(graph: SuperGraph, settings: FrontSettings, objective: Objective, searched: Searched) -> dict[str, Any]:
    """What is kept of a search, as plain values."""
    if objective.preference is None:
        looks = np.linspace(0, 1, _LOOKS)
        found = [(float(look), graph.decode(searched.preferences.architecture(float(look)))) for look in looks]
    else:
        choices = graph.decode(searched.preferences.architecture(objective.preference))
        found = [(_strength(objective), choices)]
    unique: dict[tuple[int, ...], float] = {}
    for preference, choices in found:
        unique.setdefault(choices, preference)
    last = searched.history[-1]
    return {
        "objective": asdict(objective),
        "diverged": "",
        "architectures": [[preference, list(choices)] for choices, preference in unique.items()],
        "cost": graph.cost(graph.encode(found[0][1]), settings.cost),
        "error": 1 - (last.accuracy or 0.0),
        "seconds": searched.seconds,
        "images_per_second": searched.images_per_second,
        "epochs": len(searched.history),
        "collapsed": searched.collapsed,
        "history": [asdict(one) for one in searched.history],
    }
