"""Ensembles of a run's trained networks under one budget, and whether they are worth more than one network of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save

from analysis.fronts import Member
from data_gen import run_lock
from genas.config import Run
from genas.ensemble_measures import measures, module_of, robustness, tested
from genas.ensemble_pool import Kept, Pool, Progress, ask, device_of, kept_networks
from genas.exporting import image_constants, largest_difference
from supernet import InputError
from supernet.export import ensemble_source
from supernet.files import write_bytes, write_json, write_text
from supernet.pareto import front
from supernet.settings import nearest
from training import DataInfo, load_split
from training.ensembles import (
    METHODS,
    Limits,
    Mixture,
    accuracy,
    best_method,
    calibrated,
    fit_mixtures,
    held_out,
)

COSTS = ("params", "macs")
MOST_MEMBERS = 8


def ensemble(
    runs: Sequence[Run],
    budget: float,
    cost: str = "params",
    methods: Sequence[str] = METHODS,
    members: int = MOST_MEMBERS,
    robust: bool = True,
    out: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The best ensemble of networks whose weights some runs have kept, within a budget on the sum of their costs.

    The validation images choose members, weights and method; then each method's ensemble, the best of its members and
    the best single network within the budget are measured on the test images, once: what was measured is kept beside
    the model, and read wherever a line comes to the same ensembles again.

    All is measured in float32 and without test-time flips, as the exported ``model.py`` answers. Networks are
    calibrated on the validation images, members and single ones alike; their accuracy does not change by that.

    Args:
        runs: all of the same images and classes; the first has the settings that count.
        budget: largest total cost of the distinct members.
        cost: ``params`` or ``macs``.
        methods: of :data:`training.ensembles.METHODS`, compared on held-out validation images.
        members: most distinct ones.
        robust: measure the chosen ensemble and the single networks on corrupted test images too.
        out: where ``model.py``, ``weights.safetensors``, ``ensemble.json`` and what was measured go; None: the first
            run's folder ``ensemble``.
        progress: called with networks asked and in all.

    Returns:
        The content of ``ensemble.json``: ``methods`` (networks with weights, costs, and accuracy, cross entropy and
        expected calibration error on validation and test), ``chosen``, ``singles``, ``gains`` (differences of test
        accuracy with 95 % intervals over images), ``robust``, ``members`` (what :class:`analysis.fronts.Member` is
        made of) and ``front`` (names of those that no other dominates in validation error and cost).

    Raises:
        InputError: no kept weights, damaged ones, runs of different images, a budget below the cheapest network, an
            unknown cost or method. Others as :func:`genas.generate`.
    """
    _check(runs, cost, methods)
    networks, run, info = kept_networks(runs)
    affordable = [one for one in networks if one.costs[cost] <= budget]
    if not affordable:
        cheapest = min(networks, key=lambda one: one.costs[cost])
        raise InputError(
            f"ensemble: a budget of {budget:,.10g} {cost} is below the cheapest of {len(networks)} networks, "
            f"{cheapest.name} with {cheapest.costs[cost]:,}"
        )
    out = run.folder / "ensemble" if out is None else out
    with run_lock(out):
        pool = ask(affordable, load_split(info, "validation").to(device_of(run)), info, progress)
        limits = Limits(np.array([one.costs[cost] for one in pool.networks], np.float64), budget, members)
        fitted = fit_mixtures(pool.probabilities, pool.labels, limits, methods)
        mixtures = {name: _as_kept(mixture) for name, mixture in fitted.items()}
        random = np.random.default_rng([run.settings.seed, 5])
        unseen = held_out(pool.probabilities, pool.labels, limits, random, methods)
        chosen = best_method(unseen, pool.labels)
        best = {
            "best_member": pool.best(mixtures[chosen].members),
            "best_within_budget": pool.best(range(len(pool.networks))),
        }
        singles = {role: _as_kept(calibrated(one, pool.probabilities[one], pool.labels)) for role, one in best.items()}
        kept = out / "measured.json"
        test = tested(run, pool, mixtures, chosen, singles, kept)
        corrupted = robustness(run, pool, mixtures[chosen], singles, kept) if robust else None
        entries = {
            name: _entry(pool, mixture, unseen[name], test["methods"][name]) for name, mixture in mixtures.items()
        }
        content: dict[str, Any] = {
            "runs": [one.name for one in runs],
            "cost": cost,
            "budget": budget,
            "most_members": members,
            "pool": {
                "networks": len(pool.networks),
                "too_costly": len(networks) - len(affordable),
                "not_finite": list(pool.left_out),
            },
            "validation_images": len(pool.labels),
            "test_images": test["images"],
            "methods": entries,
            "chosen": chosen,
            "singles": {
                role: {
                    **_described(pool.networks[best[role]]),
                    "validation": measures(single(pool.probabilities), pool.labels),
                    "test": test["singles"][role],
                }
                for role, single in singles.items()
            },
            "gains": test["gains"],
            "identity": test["identity"],
            "robust": corrupted,
        }
        content |= _points(content, pool)
        content["largest_difference"] = _write_model(out, pool, mixtures[chosen], info, content)
        content["folder"] = str(out)
        write_json(out / "ensemble.json", content)
    return content


def _check(runs: Sequence[Run], cost: str, methods: Sequence[str]) -> None:
    if not runs:
        raise InputError("ensemble: expected at least one run")
    if cost not in COSTS:
        raise InputError(f"ensemble: unknown cost {cost!r:.80}; {nearest(cost, COSTS)}")
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods or len(set(methods)) < len(methods):
        what = f"unknown method {unknown[0]!r:.80}" if unknown else f"expected different methods, got {list(methods)}"
        raise InputError(f"ensemble: {what}; {nearest(unknown[0] if unknown else '', METHODS)}")


def _as_kept(mixture: Mixture) -> Mixture:
    """With its numbers as a file of weights has them."""
    weights, temperatures = (
        numbers.astype(np.float32).astype(np.float64) for numbers in (mixture.weights, mixture.temperatures)
    )
    return Mixture(mixture.members, weights, temperatures)


def _described(network: Kept) -> dict[str, Any]:
    return {
        "name": network.name,
        "run": network.run.name,
        "stage": network.stage,
        "key": network.architecture.key,
        "seed": network.seed,
        "architecture": network.space.format(network.architecture),
        **{name: int(network.costs[name]) for name in COSTS},
    }


def _entry(pool: Pool, mixture: Mixture, unseen: NDArray[np.float64], test: Mapping[str, float]) -> dict[str, Any]:
    """What is told of one method's ensemble."""
    networks = [
        {**_described(pool.networks[one]), "weight": float(weights.mean()), "temperature": float(temperature)}
        for one, weights, temperature in zip(mixture.members, mixture.weights, mixture.temperatures, strict=True)
    ]
    best = pool.best(mixture.members)
    return {
        "networks": networks,
        **{name: sum(one[name] for one in networks) for name in COSTS},
        "validation": measures(mixture(pool.probabilities), pool.labels),
        "held_out": measures(unseen, pool.labels),
        "test": {name: value for name, value in test.items() if name != "best_member_accuracy"},
        "best_member": {
            "name": pool.networks[best].name,
            "validation_accuracy": accuracy(pool.probabilities[best], pool.labels),
            "test_accuracy": test["best_member_accuracy"],
        },
    }


def _points(content: Mapping[str, Any], pool: Pool) -> dict[str, Any]:
    """Ensembles and single networks as points of one front; the error of an ensemble is that on held-out images."""
    sizes = {"validation": content["validation_images"], "test": content["test_images"]}
    points: list[dict[str, Any]] = []

    def add(name: str, series: str, errors: Mapping[str, float], costs: Mapping[str, Any], note: str) -> None:
        for split, error in errors.items():
            own = {cost: int(costs[cost]) for cost in COSTS}
            points.append(
                {"name": name, "series": series, "error": error, "images": sizes[split], "split": split, **own}
                | ({"note": note} if note else {})
            )

    tested = {one["name"]: one["test"] for one in content["singles"].values()}
    for network, probabilities in zip(pool.networks, pool.probabilities, strict=True):
        errors = {"validation": 1 - accuracy(probabilities, pool.labels)}
        if network.name in tested:
            errors["test"] = 1 - tested[network.name]["accuracy"]
        add(network.name, "single", errors, network.costs, "")
    for method, entry in content["methods"].items():
        errors = {"validation": 1 - entry["held_out"]["accuracy"], "test": 1 - entry["test"]["accuracy"]}
        add(f"ensemble-{method}", "ensemble", errors, entry, f"{len(entry['networks'])} networks")
    seen = [Member(**one) for one in points if one["split"] == "validation"]
    values = np.array([[getattr(one, content["cost"]), one.error] for one in seen], np.float64)
    # What a report draws beside the run's own front, whose errors are those on the test images.
    ensembles = [one for one in points if one["series"] == "ensemble" and one["split"] == "test"]
    names = [seen[place].name for place in front(values)]
    return {"members": points, "front": names, "front_members": ensembles}


def _write_model(folder: Path, pool: Pool, mixture: Mixture, info: DataInfo, content: Mapping[str, Any]) -> float:
    """Write ``model.py`` and ``weights.safetensors``; the largest difference of their scores from the ensemble's."""
    networks = [pool.networks[one] for one in mixture.members]
    entry = content["methods"][content["chosen"]]
    listed = [
        f"- member {number}: {one['name']}, {one['weight']:.1%} of the weight"
        for number, one in enumerate(entry["networks"], 1)
    ]
    title = "\n".join(
        [f"An ensemble found for {info.source}; weights: {content['chosen'].replace('_', ' ')}.", "", *listed]
    )
    graphs = [one.space.graph(one.architecture) for one in networks]
    write_text(folder / "model.py", ensemble_source(graphs, len(info.classes), title, image_constants(info)))
    module = module_of(pool, mixture)
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    write_bytes(folder / "weights.safetensors", save(state))
    return largest_difference(folder, module, networks[0].space)
