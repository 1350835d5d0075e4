"""One search for all preferences against the published sweep and against random search with a predictor, at equal cost.

    python benchmarks/fronts.py --npz cifar10.npz --folder DIR [--seeds 3] [--methods preferences,norms,random]

Each method ends with a front of error against parameters of networks trained alike, and may spend `--seconds` of one
core on searches and trainings together, by the clocks of the searches and of the trainings themselves:

- `preferences`: one differentiable search with a hypernetwork; the cells found in two widths; trainings of those that
  are evenly spaced in cost.
- `norms`: the published sweep (MOOD-NAS): a differentiable search and a training for each of several strengths of the
  L2 norm, each chosen between the neighbours that are farthest apart.
- `random`: random networks of the same two widths, trained; the predictor (graph networks, Gaussian process and trees)
  fitted on them; those on the front that it predicts, trained. Fit and search count, too.

Reduced on purpose: 2,500 CIFAR-10 pictures of 16x16, cells of two nodes, 3 cells of 8 channels, 10 epochs. Validation
errors choose a front, test errors measure it; reference 0.04 M parameters and 90 % error. Results are kept run by run
in results/fronts.json; the same line continues.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.torch import load

from analysis.fronts import Member, front_volume, non_dominated
from data_gen import read_store
from genas.stages import saved_settings
from supernet import graph_costs
from supernet.files import read_json, write_json
from supernet.network import build_network
from supernet.spaces import make_space
from training import Recipe, load_split, measure, open_prepared

RESULTS = Path(__file__).parent / "results" / "fronts.json"
REFERENCE = (40_000.0, 0.9)
_SPACE = {"kind": "darts", "input_size": 16, "cells": 3, "channels": 8, "nodes": 2}
_WIDTHS = [0.5, 1]
_RECIPE = {"epochs": 10, "batch_size": 64, "learning_rate": 0.1, "label_smoothing": 0, "crop_padding": 2}
_SEARCH = {"epochs": 15, "warmup": 5, "batch_size": 64, "architecture_rate": 0.02, "architecture_decay": 0.0}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--npz", required=True)
    parser.add_argument("--folder", required=True, type=Path, help="runs are kept there")
    parser.add_argument("--methods", default="preferences,norms,random")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=280.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    for seed in range(arguments.seeds):
        for method in arguments.methods.split(","):
            name = f"{method} / {seed}"
            kept = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"runs": {}}
            if name not in kept["runs"]:
                found = METHODS[method](arguments, seed)
                kept = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"runs": {}}
                kept["runs"][name] = found
                kept["command"] = f"python benchmarks/fronts.py --seconds {arguments.seconds:g}"
                arguments.out.write_text(json.dumps(kept, indent=1) + "\n")
                print(name, f"volume {found['hypervolume']:.3f}, {found['seconds']:.0f} s", flush=True)
    _tell(json.loads(arguments.out.read_text())["runs"])


def _recipe(arguments: argparse.Namespace, name: str, seed: int, content: dict[str, Any]) -> Path:
    data = {"source": f"npz:{Path(arguments.npz).resolve()}", "train_images": 2_500, "validation_images": 1_000}
    whole = {"name": name, "seed": seed, "data": data, "workers": {"cpu_workers": 1}, "space": _SPACE, **content}
    path = arguments.folder / f"{name}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(whole))
    return path


def _genas(arguments: argparse.Namespace, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "genas.cli", *words, "--logs", str(arguments.folder), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _preferences(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """A first training tells what one takes; the rest of the time is for as many more."""
    name = f"preferences-{seed}"
    search = {**_SEARCH, "relaxation": "sampled", "partial": 1}
    front = {"widths": _WIDTHS, "candidates": 1000, "search": search, "latency_batches": []}
    path = _recipe(arguments, name, seed, {"front": front, "generate": {"recipe": _RECIPE}})
    return _filled(arguments, path, name, "front.train", lambda found: found["search"]["seconds"])


def _norms(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Searches and trainings in equal numbers, as many as the time allows."""
    name = f"norms-{seed}"
    short = {"epochs": 5, "warmup": 1}  # a search as long as three trainings, not ten: published ones are shorter still
    search = {**_SEARCH, **short, "relaxation": "mixture", "partial": 4, "most_skips": None}
    front = {"method": "norms", "norm": "l2", "train": 1000, "search": search, "latency_batches": []}
    path = _recipe(arguments, name, seed, {"front": front, "generate": {"recipe": _RECIPE}})
    found: dict[str, Any] = {}
    for searches in range(2, 1000):
        found = _genas(arguments, "front", str(path), "--set", f"front.searches={searches}")
        seconds = found["search"]["seconds"] + sum(_trainings(arguments, name).values())
        if seconds * (searches + 1) / searches > arguments.seconds:
            break
    return _result(arguments, name, found["search"])


def _filled(arguments: argparse.Namespace, path: Path, name: str, setting: str, searched: Any) -> dict[str, Any]:
    """As many trainings as the time allows: evenly spaced ones anew where there is room for more."""
    count, found = 2, _genas(arguments, "front", str(path), "--set", f"{setting}=2")
    while True:
        seconds = _trainings(arguments, name)
        each = sum(seconds.values()) / len(seconds)
        more = math.floor((arguments.seconds - searched(found) - sum(seconds.values())) / each)
        # Of another number of evenly spaced ones some are trained already.
        if more < 1 or found["trained"] < count:
            return _result(arguments, name, found["search"])
        count += max(1, more // 2)
        found = _genas(arguments, "front", str(path), "--set", f"{setting}={count}")


def _random(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Three fifths of the time for labels, the rest for the predictor and the front that it predicts."""
    name = f"random-{seed}"
    shared = {key: value for key, value in _SPACE.items() if key != "input_size"}
    members = {f"width_{number}": {**shared, "channels": round(8 * width)} for number, width in enumerate(_WIDTHS)}
    space = {"kind": "union", "input_size": 16, "members": members}
    content = {
        "space": space,
        "generate": {"architectures": 4, "recipe": _RECIPE, "keep_weights": True},
        "fit": {"splits": 1},
        "search": {"queries": 5_000},
        "front": {"method": "predictor", "latency_batches": []},
    }
    path = _recipe(arguments, name, seed, content)
    _genas(arguments, "generate", str(path))
    each = float(np.mean(list(_trainings(arguments, name).values())))
    total = math.floor(arguments.seconds / each)
    labels = max(10, round(total * 0.6))
    _genas(arguments, "generate", str(path), "--set", f"generate.architectures={labels}")
    fitted = _genas(arguments, "fit", str(path))
    searched = _genas(arguments, "search", str(path), "--front", "params")
    _leave_out_labelled(arguments, name)
    other = fitted["seconds"] + searched["seconds"]
    left = max(1, math.floor((arguments.seconds - other - sum(_trainings(arguments, name).values())) / each))
    _genas(arguments, "front", str(path), "--set", f"front.train={left}")
    return _result(arguments, name, {"seconds": other})


def _leave_out_labelled(arguments: argparse.Namespace, name: str) -> None:
    """Points of the predicted front that are trained already are not to be paid for twice."""
    store = read_store(arguments.folder / name / "store.db")
    try:
        labelled = {label.key for label in store.labels("generate")}
    finally:
        store.close()
    path = arguments.folder / name / "winner" / "front.json"
    content = read_json(path)
    assert content is not None
    content["front"] = [point for point in content["front"] if point["key"] not in labelled]
    write_json(path, content)


METHODS = {"preferences": _preferences, "norms": _norms, "random": _random}


def _trainings(arguments: argparse.Namespace, name: str) -> dict[str, float]:
    """Seconds of every training of a run."""
    store = read_store(arguments.folder / name / "store.db")
    try:
        return {f"{stage} {label.key}": label.seconds for stage in store.stages() for label in store.labels(stage)}
    finally:
        store.close()


def _result(arguments: argparse.Namespace, name: str, search: dict[str, Any]) -> dict[str, Any]:
    """Every trained network of a run as one front: validation chooses, test measures."""
    folder = arguments.folder / name
    store = read_store(folder / "store.db")
    networks: dict[str, tuple[Any, float, Path]] = {}
    trained = 0
    try:
        for stage, weights in (("generate", folder / "weights"), ("front", folder / "front" / "weights")):
            saved = saved_settings(store, stage)
            if saved is None:
                continue
            space = make_space(saved["space"])
            for result in store.results(stage):
                trained += 1
                graph = space.graph(result.job.architecture)
                path = weights / f"{result.job.architecture.key}-{result.job.seed}.safetensors"
                networks.setdefault(graph.digest(), (graph, result.accuracy, path))
    finally:
        store.close()
    info = open_prepared(_prepared(arguments), 4096)
    plain = []
    for key, (graph, accuracy, _) in networks.items():
        costs = graph_costs(graph)
        plain.append(Member(key, name, 1 - accuracy, info.sizes["validation"], "validation", costs.params, costs.macs))
    test = load_split(info, "test")
    members = []
    for member in non_dominated(plain, "params"):
        graph, _, path = networks[member.name]
        network = build_network(graph)
        network.load_state_dict(load(path.read_bytes()))
        accuracy, _ = measure(network, test, info.normalisation, Recipe(batch_size=256))
        members.append(Member(member.name, name, 1 - accuracy, len(test), "test", member.params, member.macs))
    volume = front_volume(members, "params", *REFERENCE, seed=0)
    seconds = _trainings(arguments, name)
    return {
        "hypervolume": volume.value,
        "ci95_images": [volume.low, volume.high],
        "trained": trained,
        "distinct": len(networks),
        "non_dominated": len(non_dominated(members, "params")),
        "front": [[member.params, round(member.error, 4)] for member in members],
        "seconds": sum(seconds.values()) + search.get("seconds", 0.0),
        "other_seconds": search.get("seconds", 0.0),
        "genotypes": search.get("genotypes"),
    }


def _prepared(arguments: argparse.Namespace) -> Path:
    from training import DataSettings, prepare

    source = f"npz:{Path(arguments.npz).resolve()}"
    settings = DataSettings(source=source, train_images=2_500, validation_images=1_000)
    return prepare(settings, 16, ("train", "validation", "test")).folder


def _tell(runs: dict[str, dict[str, Any]]) -> None:
    methods = list(dict.fromkeys(name.partition(" / ")[0] for name in runs))
    by = {method: [one for name, one in runs.items() if name.partition(" / ")[0] == method] for method in methods}
    print("hypervolume, M parameters x points, to (0.04 M, 90 %); mean over seeds [lowest, highest]")
    for method, found in by.items():
        volumes = [one["hypervolume"] for one in found]
        trained, distinct, best, hours = (
            np.mean([one[key] for one in found]) for key in ("trained", "distinct", "non_dominated", "seconds")
        )
        spread = f"{np.mean(volumes):.3f} [{min(volumes):.3f}, {max(volumes):.3f}], {len(found)} seeds"
        counts = f"{trained:.1f} trained, {distinct:.1f} distinct, {best:.1f} not dominated"
        print(f"  {method:12} {spread}; {counts}; {hours / 3600:.3f} hours")


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"{time.perf_counter() - started:.0f} s in all")
