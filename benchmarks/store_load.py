"""A run with 100,000 results: time and memory of opening its store, status, export-table and report.

The folder is as a run leaves it, except that nothing was trained: distinct architectures of the default
space, made-up labels with a curve each, and failed jobs for one architecture in a hundred more. Every
figure is of a fresh process as a user starts it; memory is the largest that was resident. ``sealed`` is a store
whose last writer closed it, ``unsealed`` one that is read for the first time after a kill, where every row is
checked. The last line is one JSON object.

    python benchmarks/store_load.py [--quick] [--epochs 60]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from data_gen import open_store
from data_gen.schema import insert
from genas.config import Run, RunSettings
from genas.stages import begin, claim, label_settings
from supernet import COST_NAMES, OpSubset, architectures, sample_distinct
from training import DataInfo, Recipe

TRAIN_IMAGES, VALIDATION_IMAGES = 45_000, 5_000


def curves(random: np.random.Generator, epochs: int) -> dict[str, list[float]]:
    """Made-up curves with the digits of real ones: each accuracy is a count over the images."""
    rise = random.uniform(0.3, 0.7) * (1 - np.exp(-np.arange(1, epochs + 1) / epochs * 3))
    every = Recipe().validate_every
    watched = sorted({*range(every, epochs + 1, every), epochs})
    validation = rise[np.array(watched) - 1] * 0.97
    return {
        "train_loss": (4.6 - 4 * rise).tolist(),
        "train_accuracy": (np.round(rise * TRAIN_IMAGES) / TRAIN_IMAGES).tolist(),
        "validation_epochs": watched,
        "validation_accuracy": (np.round(validation * VALIDATION_IMAGES) / VALIDATION_IMAGES).tolist(),
        "validation_loss": (4.6 - 4 * validation).tolist(),
    }


def build(folder: Path, results: int, epochs: int) -> None:
    """Make a run's folder with so many results."""
    space = OpSubset()
    failed = results // 100
    settings = RunSettings.model_validate({
        "data": {"source": "cifar100"},
        "generate": {"architectures": results + failed, "recipe": {"epochs": epochs}},
    })  # fmt: skip
    run = Run(folder=folder, settings=settings)
    folder.mkdir(parents=True)
    sizes = {"train": TRAIN_IMAGES, "validation": VALIDATION_IMAGES, "test": 10_000}
    info = DataInfo(
        folder / "images", "cifar100", tuple(f"class {number}" for number in range(100)), sizes, 32, 3,
        ((0.5,) * 3, (0.25,) * 3), 4096,
    )  # fmt: skip
    random = np.random.default_rng(0)
    choices = sample_distinct(space, results + failed, random)
    costs = space.costs(choices)
    store = open_store(run.store)
    claim(store, run, info, "generate", label_settings(settings))
    begin(run, info, store, "generate")
    with store._writing() as connection:
        for position, architecture in enumerate(architectures(space, choices)):
            number, key = position + 1, architecture.key
            graph = space.graph(architecture).digest()
            prices = [int(costs[name][position]) for name in COST_NAMES]
            insert(
                connection, "architectures",
                (key, architecture.space, json.dumps(architecture.choices), graph, *prices),
            )  # fmt: skip
            insert(connection, "jobs", (number, "generate", key, 0, "sample"))
            seconds = float(random.uniform(60, 600))
            started = 1.7e9 + 600.0 * position
            ended = started + seconds
            if position % 101 == 100:
                message = "RuntimeError: made up"
                insert(connection, "attempts", (number, number, 4242, "", started, ended, "diverged", message))
                continue
            insert(connection, "attempts", (number, number, 4242, "", started, ended, "done", ""))
            curve = curves(random, epochs)
            accuracy, loss = curve["validation_accuracy"][-1], curve["validation_loss"][-1]
            values = (accuracy, loss, epochs, 1, seconds, int(random.integers(2**28, 2**31)))
            speed = TRAIN_IMAGES * epochs / seconds
            insert(connection, "results", (number, *values, speed, json.dumps(curve), ended))
    store.event("seconds", json.dumps({"stage": "generate", "seconds": 1e6}))
    store.close()


def measure(command: list[str]) -> tuple[float, float]:
    """(seconds, peak memory in megabytes) of a fresh process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2,000 results in place of 100,000, measured once")
    parser.add_argument("--epochs", type=int, default=6, help="the length of each training's curve")
    parser.add_argument("--folder", type=Path, help="keep the run here, or use the one that is there already")
    arguments = parser.parse_args()
    results, repeats = (2_000, 1) if arguments.quick else (100_000, 3)
    with tempfile.TemporaryDirectory(prefix="genas-load-") as temporary:
        folder: Path = arguments.folder or Path(temporary) / "logs" / "load"
        started = time.perf_counter()
        if not folder.exists():
            build(folder, results, arguments.epochs)
            print(f"built in {time.perf_counter() - started:.1f} s")
        path, seal, table = folder / "store.db", folder / "store.db-seal", folder / "labels.jsonl"
        opening = "import sys, pathlib, data_gen; data_gen.{}(pathlib.Path(sys.argv[1])).close()"
        commands = {
            "read_store": ["-c", opening.format("read_store"), str(path)],
            "open_store": ["-c", opening.format("open_store"), str(path)],
            "status": ["-m", "genas.cli", "status", str(folder)],
            "export_table": ["-m", "genas.cli", "export-table", str(folder), "--out", str(table)],
            "report": ["-m", "genas.cli", "report", str(folder)],
        }
        figures: dict[str, Any] = {"results": results, "epochs": arguments.epochs}
        subprocess.run([sys.executable, *commands["open_store"]], check=True)  # seals it, where it was used before
        for name, command in commands.items():
            figures[name] = {}
            for state in ("sealed", "unsealed"):
                measured = []
                for _ in range(repeats):
                    if state == "unsealed":
                        seal.unlink(missing_ok=True)
                    measured.append(measure(command))
                seconds = [second for second, _ in measured]
                figures[name][state] = {
                    "median_seconds": round(statistics.median(seconds), 2),
                    "least_seconds": round(min(seconds), 2),
                    "most_seconds": round(max(seconds), 2),
                    "peak_megabytes": round(max(memory for _, memory in measured)),
                }
                print(f"{name} {state}: {figures[name][state]}", flush=True)
        files = {"store": path, "table": table, "report_page": folder / "report.html"}
        figures["megabytes"] = {name: round(file.stat().st_size / 1e6, 1) for name, file in files.items()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
