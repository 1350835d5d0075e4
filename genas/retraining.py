"""The last stage: the winner and its controls from scratch, and what the user takes home."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load
from scipy import stats

from data_gen import Job, Result, Store, Task, measured, open_store, run_lock
from evolution import closest_in_macs
from genas.config import Run, differences
from genas.exporting import image_constants, largest_difference
from genas.stages import (
    ShowProgress,
    add_jobs,
    begin,
    claim,
    compare,
    label_settings,
    resolve,
    retrain_settings,
    saved_settings,
    train_jobs,
)
from supernet import COST_NAMES, Architecture, HandMade, InputError, Limits
from supernet.export import network_source
from supernet.files import bytes_digest, read_json, write_bytes, write_json, write_text
from supernet.handmade import closest_handmade
from supernet.limits import within
from supernet.network import build_network
from supernet.spaces import AnySpace
from training import DataInfo, Recipe
from training.robustness import robustness_metrics


def retrain(run: Run, progress: ShowProgress | None = None) -> dict[str, Any]:
    """Train the winner from scratch with several seeds, and its controls under the same recipe.

    Controls are the best generated architecture within the limits, by the metric that was searched for (of a random
    sample that is what the same trainings find without a predictor), a random one with the winner's MACs, and networks
    made by hand, as wide as those MACs allow. Training uses the training and validation images; the test split is
    measured on here and nowhere else, once a training (and its corrupted versions, with ``generate.robustness``).

    Returns:
        The content of ``winner/retrain.json``. ``winner/`` also gets ``model.py`` and ``weights.safetensors``.

    Raises:
        InputError: no winner yet. Others as :func:`generate`.
    """
    winner_file = read_json(run.folder / "winner" / "architecture.json")
    if winner_file is None:
        raise InputError(f"retrain: run {run.name!r} has no winner; run `genas search {run.name}` first")
    with run_lock(run.folder), run_lock(run.folder / "winner"):
        run, info = resolve(run, ("train", "validation", "test"))
        settings, space = run.settings, run.settings.space
        recipe = settings.retrain.recipe or settings.generate.recipe
        if differences(winner_file["space"], space.model_dump(mode="json")):
            raise InputError(f"retrain: the winner of run {run.name!r} is of another space; run search again")
        winner = Architecture(space.name, tuple(winner_file["choices"]))
        store = open_store(run.store)
        try:
            saved = saved_settings(store, "generate")
            if saved is not None:  # images that chose the winner must not come back as test images
                kept = {key: saved[key] for key in ("data", "space")}
                compare(run, "generate", kept, {key: label_settings(settings)[key] for key in kept})
            claim(store, run, info, "retrain", retrain_settings(settings, recipe))
            begin(run, info, store, "retrain")
            # The limits that the winner was searched under, which may be others than the sample's.
            limits = settings.with_limits(winner_file["limits"]).bounds
            metric = str((read_json(run.folder / "winner" / "search.json") or {}).get("metric", "accuracy"))
            roles = _controls(space, winner, store.results("generate"), metric, limits, settings.seed)
            planned = [
                (architecture, settings.seed + number, role)
                for number in range(settings.retrain.seeds)
                for role, architecture in roles.items()
            ]
            jobs = add_jobs(store, space, "retrain", planned)
            # An isomorphic network that was entered earlier stands for the one that was found.
            roles = {role: job.architecture for (_, _, role), job in zip(planned, jobs, strict=True)}
            weights = run.folder / "checkpoints"
            store.forget([job for job in jobs if not is_whole(_weights(weights, job))])
            robustness = settings.generate.robustness
            train_jobs(run, store, jobs, Task(space, info, recipe, "test", weights, weights, robustness), progress)
            wanted = {job.id for job in jobs}
            results = [result for result in store.results("retrain") if result.job.id in wanted]
            made = handmade(space, int(space.costs(winner.row())["macs"][0]), settings.retrain.handmade)
            made = {family: one for family, one in made.items() if one not in roles.values()}
            more = _train_handmade(run, info, recipe, store, made, progress)
            written = _write_retrained(run, info, recipe, {**roles, **made}, winner_file, [*results, *more], weights)
            store.seal()
            return written
        finally:
            store.close()


_HANDMADE = "handmade"
_WIDTH_GAP = 0.1  # of the MACs asked for; what is further off is no comparison at equal cost


def handmade(space: AnySpace, macs: int, families: Sequence[str]) -> dict[str, Architecture]:
    """Networks made by hand with nearly so many MACs on the same pictures, by family; where there are none, none."""
    own = _handmade_space(space)
    found = {family: closest_handmade(own, family, macs) for family in families}
    return {family: one for family, (one, got) in found.items() if abs(got - macs) <= _WIDTH_GAP * macs}


def _handmade_space(space: AnySpace) -> HandMade:
    """Networks made by hand for the same pictures and classes."""
    shared = {"input_size": space.input_size, "input_channels": space.input_channels, "classes": space.classes}
    return HandMade.model_validate(shared)


def _train_handmade(
    run: Run,
    info: DataInfo,
    recipe: Recipe,
    store: Store,
    made: Mapping[str, Architecture],
    progress: ShowProgress | None,
) -> list[Result]:
    """Results of networks made by hand, trained as the winner is; a stage of its own, as their space is another."""
    if not made:
        return []
    space = _handmade_space(run.settings.space)
    settings = run.settings.model_copy(update={"space": space})
    recipe = recipe.model_copy(update={"auxiliary": 0.0})  # these networks mark no place for an auxiliary head
    claim(store, run, info, _HANDMADE, retrain_settings(settings, recipe))
    planned = [
        (architecture, settings.seed + number, family)
        for number in range(settings.retrain.seeds)
        for family, architecture in made.items()
    ]
    jobs = add_jobs(store, space, _HANDMADE, planned)
    robustness = settings.generate.robustness
    task = Task(space, info, recipe, "test", checkpoints=run.folder / "checkpoints", robustness=robustness)
    train_jobs(run, store, jobs, task, progress)
    wanted = {job.id for job in jobs}
    return [result for result in store.results(_HANDMADE) if result.job.id in wanted]


def _weights(folder: Path, job: Job) -> Path:
    return folder / f"{job.architecture.key}-{job.seed}.safetensors"


def is_whole(weights: Path) -> bool:
    """Whether trained weights are there and agree with the JSON beside them, which format 1 did not have."""
    try:
        described = read_json(weights.with_suffix(".json"))
        return described in (None, {"weights": bytes_digest(weights.read_bytes())})
    except (InputError, OSError):
        return False


def _controls(
    space: AnySpace, winner: Architecture, generated: Sequence[Result], metric: str, limits: Limits, seed: int
) -> dict[str, Architecture]:
    """The winner and what it must beat, by role. A control that is the winner, or is not to be had, is left out."""
    roles = {"winner": winner}
    rows = np.array([result.job.architecture.choices for result in generated], np.int8)
    fits = within(space, rows, limits) if len(rows) else np.zeros(0, np.bool_)
    feasible = [result for result, keeps in zip(generated, fits, strict=True) if keeps]
    if feasible:
        if any(measured(result, metric) is None for result in feasible):
            metric = "accuracy"
        labels: dict[Architecture, list[float]] = {}
        for result in feasible:
            labels.setdefault(result.job.architecture, []).append(measured(result, metric) or 0.0)
        best = max(labels, key=lambda architecture: float(np.mean(labels[architecture])))
        if best != winner:
            roles["best_generated"] = best
    costs = space.costs(winner.row())
    random = np.random.default_rng([seed, 3])
    excluded = [architecture.key for architecture in roles.values()]
    with suppress(InputError):  # nothing else keeps the limits
        match = closest_in_macs(space, int(costs["macs"][0]), limits, random, excluded=excluded)
        roles["random_same_macs"] = match.architecture
    return roles


def _write_retrained(
    run: Run,
    info: DataInfo,
    recipe: Recipe,
    roles: Mapping[str, Architecture],
    winner: Mapping[str, Any],
    results: Sequence[Result],
    weights: Path,
) -> dict[str, Any]:
    space = run.settings.space
    spaces = {one.name: one for one in (space, _handmade_space(space))}
    entries: dict[str, Any] = {}
    for role, architecture in roles.items():
        trained = [result for result in results if result.job.architecture == architecture]
        costs = spaces[architecture.space].costs(architecture.row())
        accuracies = [result.accuracy for result in trained]
        entries[role] = {
            "key": architecture.key,
            "architecture": spaces[architecture.space].format(architecture),
            **{name: int(costs[name][0]) for name in COST_NAMES},
            "test_accuracies": accuracies,
            "mean": float(np.mean(accuracies)) if accuracies else None,
            "standard_deviation": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
            **_robustness([robustness_metrics(result.metrics) for result in trained]),
        }
    content: dict[str, Any] = {
        "test_images": info.sizes["test"],
        "training_images": info.sizes["train"] + info.sizes["validation"],
        "recipe": recipe.model_dump(mode="json"),
        "predicted": winner["predicted"],
        "limits": winner["limits"],
        "roles": entries,
        "failed": len(roles) * run.settings.retrain.seeds - len(results),
        "gains": {
            role: gain
            for role in entries
            if role != "winner"
            and (gain := _gain(entries["winner"]["test_accuracies"], entries[role]["test_accuracies"])) is not None
        },
        "robust_gains": {
            role: gain
            for role in entries
            if role != "winner"
            and (gain := _gain(*(entries[one].get("robust_accuracy", []) for one in ("winner", role)))) is not None
        },
    }
    first = next((result for result in results if result.job.architecture == roles["winner"]), None)
    if first is None:
        content["model"] = None
    else:
        trained_weights = _weights(weights, first.job)
        content["model"] = {
            "seed": first.job.seed,
            "test_accuracy": first.accuracy,
            "largest_difference": write_model(run.folder / "winner", space, roles["winner"], info, trained_weights),
        }
    write_json(run.folder / "winner" / "retrain.json", content)
    return content


def _robustness(trained: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Accuracy on corrupted test images, over seeds; empty where it was not measured."""
    names = ("robust_accuracy", "relative_robustness")
    return {name: [one[name] for one in trained] for name in names if trained and all(name in one for one in trained)}


def _gain(winner: list[float], control: list[float]) -> dict[str, Any] | None:
    """Difference of mean test accuracies with a 95 % interval over seeds (Welch's t), None without trainings."""
    if not winner or not control:
        return None
    difference = float(np.mean(winner) - np.mean(control))
    if len(winner) < 2 or len(control) < 2:
        return {"difference": difference, "ci95": None}
    variances = [float(np.var(values, ddof=1)) / len(values) for values in (winner, control)]
    error = math.sqrt(sum(variances))
    if error == 0:
        return {"difference": difference, "ci95": [difference, difference]}
    counts = (len(winner), len(control))
    freedom = error**4 / sum(v**2 / (n - 1) for v, n in zip(variances, counts, strict=True))
    half = float(stats.t.ppf(0.975, freedom)) * error
    return {"difference": difference, "ci95": [difference - half, difference + half]}


def write_model(folder: Path, space: AnySpace, architecture: Architecture, info: DataInfo, weights: Path) -> float:
    """Write ``model.py`` and ``weights.safetensors``, and check that they give what the trained network gives.

    Returns:
        The largest difference of the class scores on a batch of random images.

    Raises:
        InputError: the two do not agree, and the files stay, to be looked at; or the weights are damaged.
        UnavailableError: the folder cannot be written.
    """
    graph = space.graph(architecture)
    title = f"{architecture.key}: a network found for {info.source}."
    write_text(folder / "model.py", network_source(graph, title, image_constants(info)))
    try:
        data = weights.read_bytes()
        state = load(data)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{weights}: trained weights that are gone or damaged ({error})") from error
    write_bytes(folder / "weights.safetensors", data)
    ours = build_network(graph)
    ours.load_state_dict(state)
    return largest_difference(folder, ours, space)
