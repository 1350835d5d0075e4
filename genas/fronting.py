"""A front of error against cost: searched, ranked by short trainings, trained in full, measured once on the test split.

Members are the architectures that the searches found, each in every width and depth of the recipe: good cells made
small are the challengers of small cells. All of them are one space, a union, so that one store holds their trainings.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.torch import load

from analysis.fronts import Hypervolume, Member, front_volume, member_from_json, member_to_json, non_dominated
from data_gen import Job, Result, Store, Task, open_store, refuse_if_driven, run_lock
from data_gen.driver import Signals
from data_gen.store import FRONT_STAGES
from evolution.pareto import non_dominated_ranks
from genas.cheap import shortened
from genas.config import Run
from genas.machine import processor
from genas.relaxing import Candidate, Counts, Found, find, search_device, shared_space
from genas.retraining import is_whole, write_model
from genas.stages import (
    ShowProgress,
    begin,
    claim,
    compare,
    label_settings,
    resolve,
    saved_settings,
    single_thread,
    train_jobs,
)
from genas.timing import measured_latency
from supernet import COST_NAMES, Architecture, InputError, SearchSpace, UnionSpace, graph_costs
from supernet.files import bytes_digest, read_json, write_json
from supernet.limits import Limits, within
from supernet.network import build_network
from supernet.settings import nearest
from training import DataInfo, Recipe, StoppedError, load_split, measure
from training.devices import gpu_names

RANKING, STAGE = FRONT_STAGES

_PREDICTED = "winner/front.json"


@dataclass(frozen=True)
class _Point:
    """A network that could be a member.

    Attributes:
        architecture: of the union of all widths and depths.
        origin: what it was found as; None of a predictor's.
    """

    architecture: Architecture
    origin: Candidate | None
    cost: int


def front(
    run: Run, progress: Callable[[str], ShowProgress | None] = lambda stage: None, searching: Counts | None = None
) -> dict[str, Any]:
    """Find, train and measure a front of error against cost, see :class:`genas.front_settings.FrontSettings`.

    Validation errors choose what stands on the front; only of those the test images are asked, once. Weights of every
    full training are kept under ``front/weights``, and ``front/models`` has a ``model.py`` for each network on the
    front. The same line again continues, and repeats nothing.

    Args:
        progress: gives the progress function of a training stage by its name.
        searching: called with what of the searches is done, and of how much.

    Returns:
        The content of ``front/front.json``, see :class:`analysis.front_file.FrontFile`, and ``failed`` trainings.

    Raises:
        InputError: a space without a weight-sharing network, settings that do not fit it or contradict what was
            trained before, or trainings that all failed. Others as :func:`genas.generate`.
    """
    refuse_if_driven(run.folder)
    settings = run.settings.front
    if settings.method != "predictor":  # at once: preparing images and searching may take long
        shared_space(run.settings.space, settings)
    run, info = resolve(run, ("train", "validation", "test"))
    recipe = settings.recipe or run.settings.generate.recipe
    epochs = settings.cheap_epochs
    if epochs is not None and epochs >= recipe.epochs:
        raise InputError(f"front.cheap_epochs: {epochs} saves nothing; expected less than the recipe's {recipe.epochs}")
    union = scaled_space(run.settings.space, settings.widths, settings.depths)
    limits = run.settings.model_copy(update={"space": union}).bounds
    beside = _beside(settings.beside)
    predicted = _predicted(run) if settings.method == "predictor" else None
    with run_lock(run.folder):
        store = open_store(run.store)
        try:
            saved = saved_settings(store, "generate")
            if predicted is not None and saved is not None:  # images that chose must not come back as test images
                kept = {key: saved[key] for key in ("data", "space")}
                compare(run, "generate", kept, {key: label_settings(run.settings)[key] for key in kept})
            claim(store, run, info, STAGE, _front_settings(run, union, recipe))
            if epochs is not None:
                claim(store, run, info, RANKING, _front_settings(run, union, shortened(recipe, epochs)))
            begin(run, info, store, STAGE)
            found = predicted or _searched(run, info, searching)
            points, distinct = _points(run, union, found, limits)
            cheap, failed = _rank(run, info, store, union, points, recipe, progress(RANKING))
            chosen = _still_open(points, cheap, settings.margin, settings.train)
            trained, failures = _train(run, info, store, union, chosen, recipe, progress(STAGE))
            seconds = found.seconds + math.fsum(
                label.seconds for stage in FRONT_STAGES for label in store.labels(stage)
            )
            store.seal()
        finally:
            store.close()
        # Also what another call trained: networks of these spaces, trained alike.
        points += _earlier(union, trained, points, settings.cost)
        rows = np.array([point.architecture.choices for point in points], np.int8)
        keys = {
            point.architecture.key for point, keeps in zip(points, within(union, rows, limits), strict=True) if keeps
        }
        members = _members(run, info, union, points, cheap, {key: trained[key] for key in trained if key in keys})
        if not members:
            raise InputError("front: no trained network keeps the limits; raise them")
        content = {
            "method": settings.method,
            "cost": settings.cost,
            "distinct": distinct,
            "candidates": len(points),
            "ranked": len(cheap),
            "trained": len(members),
            "failed": failed + failures,
            **_summary(run, info, members, found, beside),
            "cheap_tau": _tau(members, run.settings.seed),
            "seconds": seconds,
        }
        write_json(run.folder / "front" / "front.json", content)
    return content


def _searched(run: Run, info: DataInfo, searching: Counts | None) -> Found:
    """What the searches found; a search that is stopped leaves a checkpoint."""
    found = None
    with Signals() as signals:
        try:
            found = find(run, info, searching, lambda: signals.number is not None)
        except StoppedError:
            if signals.number is None:
                raise
    if found is None:  # the signal was passed on to who ignores it
        raise KeyboardInterrupt
    return found


def scaled_space(space: SearchSpace, widths: Sequence[float], depths: Sequence[int]) -> UnionSpace:
    """The same architectures in every width and depth, as one space; the first member is the first width and depth.

    A union is what it is: it has its own members.

    Raises:
        InputError: depths of a space that has no ``cells``, or a width or depth that it cannot have.
    """
    if isinstance(space, UnionSpace):
        if tuple(widths) != (1.0,) or depths:
            raise InputError("front.widths, front.depths: a union has members of its own; leave them out")
        return space
    if depths and "cells" not in type(space).model_fields:
        raise InputError(f"front.depths: space {space.name!r} has no cells to count; leave it out")
    names = [f"width_{width:g}".replace(".", "_") for width in widths]
    if len(set(names)) < len(names):
        raise InputError("front.widths: two of them are the same to six digits; leave one out")
    members: dict[str, SearchSpace] = {}
    shared = {key: getattr(space, key) for key in ("input_size", "input_channels", "classes")}
    try:
        for depth in depths or (None,):
            deep = space if depth is None else space.model_copy(update={"cells": depth})
            for name, width in zip(names, widths, strict=True):
                end = "" if depth is None else f"_cells_{depth}"
                members[name + end] = deep if width == 1 else deep.narrower(width)
        return UnionSpace.model_validate({**shared, "members": members})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"front.widths, front.depths: not of space {space.name!r}: {where}: {first['msg']}, "
            f"got {first['input']!r:.60}"
        ) from error


def _predicted(run: Run) -> Found:
    """What ``genas search --front`` found, in place of a differentiable search."""
    content = read_json(run.folder / _PREDICTED)
    if content is None:
        raise InputError(
            f"front: run {run.name!r} has no {_PREDICTED}; run `genas search {run.name} "
            f"--front {run.settings.front.cost}` first"
        )
    space = run.settings.space
    choices = [space.read(str(point["architecture"])).choices for point in content["front"]]
    rows = space.canonical(np.array(choices, np.int8))
    return Found(tuple(Candidate(tuple(row), 0.0, 0) for row in rows.tolist()), ())


def _points(run: Run, union: UnionSpace, found: Found, limits: Limits) -> tuple[list[_Point], int]:
    """The networks to be ranked, cheapest first, and how many distinct ones were found."""
    settings = run.settings.front
    known: dict[str, _Point] = {}
    own = run.settings.space.name == union.name  # a union, whose architectures these are
    for number in range(1 if own else len(union.members)):
        for one in found.candidates:
            filled = one.choices if own else (number, *one.choices)
            filled += (0,) * (len(union.cardinalities) - len(filled))
            architecture = Architecture(union.name, filled)
            graph = union.graph(architecture)
            cost = int(getattr(graph_costs(graph), settings.cost))
            origin = None if settings.method == "predictor" else one
            known.setdefault(graph.digest(), _Point(architecture, origin, cost))
    every = sorted(known.values(), key=lambda point: point.cost)
    rows = np.array([point.architecture.choices for point in every], np.int8)
    every = [point for point, keeps in zip(every, within(union, rows, limits), strict=True) if keeps]
    if not every:
        raise InputError(
            f"front: none of the {len(rows)} networks that were found keeps the limits "
            f"({', '.join(run.settings.limits)}); raise them, or add smaller front.widths"
        )
    return _spread(every, settings.candidates), len(every)


def _earlier(
    union: UnionSpace, trained: Mapping[str, Sequence[Result]], points: Sequence[_Point], cost: str
) -> list[_Point]:
    """Trained networks that are not among the points."""
    known = {point.architecture.key for point in points}
    others = [results[0] for key, results in trained.items() if key not in known]
    architectures = [result.job.architecture for result in others]
    return [_Point(one, None, int(getattr(graph_costs(union.graph(one)), cost))) for one in architectures]


def _front_settings(run: Run, union: SearchSpace, recipe: Recipe) -> dict[str, Any]:
    """What decides a label of the front: as of ``generate``, its own space and recipe in place of those."""
    kept = label_settings(run.settings)
    kept = {key: kept[key] for key in ("seed", "data", "textures") if key in kept}
    robustness = run.settings.generate.model_dump(mode="json")["robustness"]
    described = {"recipe": recipe.model_dump(mode="json"), "robustness": robustness}
    return {**kept, "space": union.model_dump(mode="json"), "front": described}


def _jobs(run: Run, store: Store, stage: str, union: UnionSpace, points: Sequence[_Point], seeds: int) -> list[Job]:
    planned = [(point.architecture, run.settings.seed + seed, "member") for seed in range(seeds) for point in points]
    costs = {point.architecture.key: graph_costs(union.graph(point.architecture))._asdict() for point in points}
    # Without digests: a twin that another stage entered is an architecture of another space.
    return store.add_jobs(stage, planned, costs)


def _rank(
    run: Run, info: DataInfo, store: Store, union: UnionSpace, points: Sequence[_Point], recipe: Recipe,
    progress: ShowProgress | None,
) -> tuple[dict[str, float], int]:  # fmt: skip
    """Validation accuracy after a short training, by key, empty where none ranks; and how many trainings failed."""
    epochs = run.settings.front.cheap_epochs
    if epochs is None:
        return {}, 0
    short = shortened(recipe, epochs)
    jobs = _jobs(run, store, RANKING, union, points, 1)
    task = Task(union, info, short, checkpoints=run.folder / "checkpoints")
    train_jobs(run, store, jobs, task, progress)
    wanted = {job.id for job in jobs}
    ranked = {label.key: label.accuracy for label in store.labels(RANKING) if label.job in wanted}
    if not ranked:
        raise InputError(f"front: every short training failed; genas status {run.name} tells why")
    return ranked, len(wanted) - len(ranked)


def _still_open(points: Sequence[_Point], cheap: Mapping[str, float], margin: float, most: int) -> list[_Point]:
    """Those that may yet be on the front, cheapest first: fronts first where there are too many."""
    ranked = [point for point in points if not cheap or point.architecture.key in cheap]
    if not cheap:
        return _spread(ranked, most)
    costs = np.array([point.cost for point in ranked])
    errors = np.array([1 - cheap[point.architecture.key] for point in ranked])
    beaten = [
        bool(((costs <= cost) & (errors < error - margin)).any()) for cost, error in zip(costs, errors, strict=True)
    ]
    open_ = [point for point, gone in zip(ranked, beaten, strict=True) if not gone]
    if len(open_) <= most:
        return open_
    values = np.array([[point.cost, 1 - cheap[point.architecture.key]] for point in open_], np.float64)
    ranks: NDArray[np.int64] = non_dominated_ranks(values)
    chosen: list[_Point] = []
    for rank in range(int(ranks.max()) + 1):
        own = [point for point, other in zip(open_, ranks, strict=True) if other == rank]
        chosen += _spread(own, most - len(chosen))
    return sorted(chosen, key=lambda point: point.cost)


def _spread(points: Sequence[_Point], most: int) -> list[_Point]:
    """At most so many, evenly spaced in their order."""
    if len(points) <= most:
        return list(points)
    return (
        [points[place] for place in np.unique(np.linspace(0, len(points) - 1, most).round().astype(int))]
        if most
        else []
    )


def _train(
    run: Run, info: DataInfo, store: Store, union: UnionSpace, points: Sequence[_Point], recipe: Recipe,
    progress: ShowProgress | None,
) -> tuple[dict[str, list[Result]], int]:  # fmt: skip
    """Results of all full trainings, by key, and how many of those asked for failed."""
    weights = run.folder / "front" / "weights"
    jobs = _jobs(run, store, STAGE, union, points, run.settings.front.seeds)
    store.forget([job for job in jobs if not is_whole(_weights(weights, job.architecture.key, job.seed))])
    robustness = run.settings.generate.robustness
    task = Task(union, info, recipe, weights=weights, checkpoints=run.folder / "checkpoints", robustness=robustness)
    train_jobs(run, store, jobs, task, progress)
    failed = {job.id for job in jobs}
    results: dict[str, list[Result]] = {}
    for result in store.results(STAGE):
        if is_whole(_weights(weights, result.job.architecture.key, result.job.seed)):
            results.setdefault(result.job.architecture.key, []).append(result)
            failed.discard(result.job.id)
    if not results:
        raise InputError(f"front: every training failed; genas status {run.name} tells why")
    return results, len(failed)


def _weights(folder: Path, key: str, seed: int) -> Path:
    return folder / f"{key}-{seed}.safetensors"


def _members(
    run: Run, info: DataInfo, union: UnionSpace, points: Sequence[_Point], cheap: Mapping[str, float],
    trained: Mapping[str, Sequence[Result]],
) -> list[dict[str, Any]]:  # fmt: skip
    """Every trained network as ``front.json`` has it, cheapest first; those on the front with their test errors."""
    settings = run.settings.front
    by_key = {point.architecture.key: point for point in points}
    plain: dict[str, Member] = {}
    for key, results in trained.items():
        graph = union.graph(by_key[key].architecture)
        error = 1 - float(np.mean([result.accuracy for result in results]))
        costs = graph_costs(graph)
        images = info.sizes["validation"]
        plain[key] = Member(key, settings.method, error, images, "validation", costs.params, costs.macs)
    on_front = {member.name for member in non_dominated(list(plain.values()), settings.cost)}
    best = {key: trained[key] for key in trained if key in on_front}
    tests, latencies = (
        _tested(run, info, union, best),
        _latencies(run, union, [by_key[key].architecture for key in best]),
    )
    _write_models(run, info, union, best)
    entries = []
    for key, member in sorted(plain.items(), key=lambda item: item[1].cost(settings.cost) or 0.0):
        point, results = by_key[key], trained[key]
        architecture = point.architecture
        test = tests.get(key)
        if test is not None:
            images, latency = info.sizes["test"], latencies[key]
            member = replace(member, error=test, images=images, split="test", latency=latency)
        entries.append(
            {
                **member_to_json(replace(member, note=_note(run, union, point))),
                "key": key,
                "architecture": union.format(architecture),
                "preference": None if point.origin is None else point.origin.preference,
                "member": union.member(architecture),
                "validation_error": plain[key].error,
                "test_error": test,
                "cheap": cheap.get(key),
                "on_front": key in on_front,
                "seeds": len(results),
                # Not the store's: a key may once have been another network of other widths, of which none was trained.
                "costs": dict(zip(COST_NAMES, graph_costs(union.graph(architecture)), strict=True)),
            }
        )
    return entries


def _note(run: Run, union: UnionSpace, point: _Point) -> str:
    words = [union.member(point.architecture).replace("_", " ")] if len(union.members) > 1 else []
    if point.origin is not None:
        name = f"{run.settings.front.norm} " if run.settings.front.method == "norms" else "preference "
        words.append(f"{name}{point.origin.preference:.3g}")
    return ", ".join(words)


def _tested(run: Run, info: DataInfo, union: UnionSpace, results: Mapping[str, Sequence[Result]]) -> dict[str, float]:
    """Mean test error of each network on the front over its seeds; each training is measured once, ever."""
    path = run.folder / "front" / "test.json"
    kept = dict((read_json(path) or {}).get("errors", {}))
    recipe = run.settings.front.recipe or run.settings.generate.recipe
    device, split = search_device(run), None
    errors: dict[str, float] = {}
    for key, trained in results.items():
        own = []
        for result in trained:
            data = _weights(run.folder / "front" / "weights", key, result.job.seed).read_bytes()
            name = f"{key}-{result.job.seed} {bytes_digest(data)}"
            if name not in kept:
                split = split or load_split(info, "test").to(device)
                network = build_network(union.graph(result.job.architecture))
                network.load_state_dict(load(data))
                network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
                with single_thread():
                    kept[name] = 1 - measure(network, split, info.normalisation, recipe)[0]
                write_json(path, {"errors": kept})
            own.append(float(kept[name]))
        errors[key] = float(np.mean(own))
    return errors


def _write_models(run: Run, info: DataInfo, union: UnionSpace, results: Mapping[str, Sequence[Result]]) -> None:
    """``model.py`` and weights of the first training of each network on the front; others are removed."""
    folder = run.folder / "front" / "models"
    for old in folder.glob("*"):
        if old.name not in results:
            shutil.rmtree(old)
    for key, (first, *_) in results.items():
        weights, written = _weights(run.folder / "front" / "weights", key, first.job.seed), folder / key
        same = written / "weights.safetensors"
        if not (written / "model.py").is_file() or not same.is_file() or same.read_bytes() != weights.read_bytes():
            write_model(written, union, first.job.architecture, info, weights)


def _latencies(run: Run, union: UnionSpace, architectures: Sequence[Architecture]) -> dict[str, dict[str, float]]:
    """Milliseconds by place and batch, by key; measured once on each kind of processor."""
    path, devices = run.folder / "front" / "latency.json", ["cpu", *(["cuda"] if gpu_names() else [])]
    kept = dict(read_json(path) or {})
    found: dict[str, dict[str, float]] = {}
    for architecture in architectures:
        found[architecture.key] = {}
        for device in devices:
            for batch in run.settings.front.latency_batches:
                name = f"{architecture.key} {device} {batch} {processor()}"
                if name not in kept:
                    kept[name] = measured_latency(union.graph(architecture), batch, device)
                    write_json(path, kept)
                found[architecture.key][kept[name]["name"]] = float(kept[name]["milliseconds"])
    return found


def _beside(files: Mapping[str, Path]) -> dict[str, list[Member]]:
    """Members from elsewhere by name, each with the name as its series."""
    found: dict[str, list[Member]] = {}
    for name, path in files.items():
        content = read_json(path)
        if content is None:
            raise InputError(f"front.beside.{name}: no file {path}; genas import-study and genas front write such")
        if "method" in content:  # another run's front
            entries = [one for one in content["members"] if one.get("test_error") is not None]
        elif isinstance(content.get(name), list):
            entries = content[name]
        else:
            raise InputError(f"front.beside.{name}: {path} has no set {name!r:.60}; {nearest(name, content)}")
        known = [member_from_json(one, f"{path}: {name}.{place}") for place, one in enumerate(entries)]
        found[name] = [replace(one, series=name) for one in known]
    return found


def _summary(
    run: Run, info: DataInfo, members: Sequence[Mapping[str, Any]], found: Found, beside: Mapping[str, list[Member]]
) -> dict[str, Any]:
    """Volumes, what stands beside, and the searches."""
    settings, seed = run.settings.front, run.settings.seed
    if settings.reference is not None:
        reference = (settings.reference.cost, settings.reference.error)
    else:
        costliest = max(float(member[settings.cost]) for member in members)
        reference = (costliest * 1.001, 1 - 1 / len(info.classes))
    tested = [member_from_json(member, "front") for member in members if member["test_error"] is not None]
    return {
        "reference": {"cost": reference[0], "error": reference[1]},
        "members": list(members),
        "hypervolume": _volume(tested, settings.cost, reference, seed),
        "search": _searches(found),
        "beside": [
            {
                "name": name,
                "members": [member_to_json(one) for one in known],
                "hypervolume": _volume(known, settings.cost, reference, seed),
            }
            for name, known in beside.items()
        ],
    }


def _volume(members: Sequence[Member], cost: str, reference: tuple[float, float], seed: int) -> dict[str, Any]:
    volume: Hypervolume = front_volume(members, cost, *reference, seed)
    return dict(vars(volume))


def _searches(found: Found) -> dict[str, Any]:
    """All searches as one; the history is that of the first, which is for accuracy where there are several."""
    history = found.searches[0]["history"] if found.searches else []
    return {
        "seconds": found.seconds,
        "epochs": sum(one["epochs"] for one in found.searches if not one["diverged"]),
        "genotypes": len(found.candidates),
        "searches": len(found.searches),
        "diverged": sum(bool(one["diverged"]) for one in found.searches),
        "collapsed": any(one["collapsed"] for one in found.searches),
        "history": history,
    }


def _tau(members: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any] | None:
    """How well the short trainings rank those that were trained in full; None for fewer than three."""
    known = [(member["cheap"], 1 - member["validation_error"]) for member in members if member["cheap"] is not None]
    if len(known) < 3:
        return None
    from predictor import kendall_tau, tau_interval

    short, full = zip(*known, strict=True)
    low, high = tau_interval(short, full, seed)
    return {"tau": float(kendall_tau(short, full)), "ci95": [low, high], "architectures": len(known)}
