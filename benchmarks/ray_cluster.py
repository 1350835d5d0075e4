"""Labels beyond one machine: what Ray costs, what it survives, and what a large cluster would run into first.

    python benchmarks/ray_cluster.py [--only chaos,overhead,efficiency,memory,rates,thousand] [--out FILE]

Everything runs on this machine: a Ray cluster of several nodes on the loopback address, as its authors test it. Parts:

chaos       200 real trainings on 3 nodes while nodes are killed and added at random; the same 200 with local workers.
overhead    between two jobs of a worker: from its answer to the next job, local and over Ray, one worker and four.
efficiency  1,000 jobs of .1 s that only sleep, over 4 nodes; 100 % is 4 workers that never wait.
memory      of a driver whose store has 100,000 results, beside one whose store has none.
rates       commits a second alone and together; processor time of driver and bridge a job; images brought to nodes.
thousand    the calculation for 1,000 GPUs and 100,000 architectures from what the other parts have measured.

Each part writes its figures to the file at once, so that parts can be measured one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUT = Path(__file__).parent / "results" / "ray_cluster.json"
SLEEPER = (sys.executable, "-I", "-S", str(Path(__file__).resolve()), "--worker")


def sleeper(seconds: float) -> None:
    """A worker whose jobs sleep; each result says how long the worker had waited for its job."""
    json.loads(sys.stdin.readline())

    def answer(content: Mapping[str, object]) -> None:
        sys.stdout.write(json.dumps(content) + "\n")
        sys.stdout.flush()

    answer({"ready": True})
    answered = None
    for line in sys.stdin:
        waited = 0.0 if answered is None else time.perf_counter() - answered
        job = json.loads(line)
        if "job" not in job:
            return
        time.sleep(seconds)
        result = {
            "accuracy": 0.5, "loss": 1.0, "epochs": 1, "pieces": 1, "seconds": seconds, "peak_memory": 1,
            "images_per_second": 1.0, "curves": {}, "metrics": {"waited": waited},
        }  # fmt: skip
        answer({"job": job["job"], "result": result})
        answered = time.perf_counter()


def planned(count: int) -> tuple[Any, list[tuple[Any, int, str]], dict[str, dict[str, int]]]:
    """A space and so many of its architectures, with their costs."""
    import numpy as np

    from supernet import OpSubset, architectures, sample_distinct

    space = OpSubset(classes=10, input_channels=1)
    rows = sample_distinct(space, count, np.random.default_rng(0))
    drawn = architectures(space, rows)
    costs = space.costs(rows)
    table = {
        one.key: {name: int(values[index]) for name, values in costs.items()} for index, one in enumerate(drawn)
    }  # fmt: skip
    return space, [(one, 0, "sample") for one in drawn], table


def images(train: int = 100) -> Any:
    from training import DataSettings, prepare

    return prepare(DataSettings(source="digits", train_images=train, validation_images=60, test_images=60), 8)


def drive(folder: Path, count: int, settings: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Jobs that sleep, in a store of their own: waits of workers between two jobs, and when all was done."""
    from data_gen import Task, WorkerSettings, open_store, run_jobs
    from training import Recipe

    folder.mkdir(parents=True, exist_ok=True)
    space, plan, costs = planned(count)
    task = Task(space, images(), Recipe(epochs=1), command=(*SLEEPER, str(seconds)))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    with closing(open_store(folder / "store.db")) as store:
        jobs = store.add_jobs("generate", plan, costs)
        run_jobs(store, jobs, task, WorkerSettings(device="cpu", **settings))
        waits = [label.metrics["waited"] for label in store.labels("generate")]
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    with closing(sqlite3.connect(folder / "store.db")) as connection:
        first, last, done = connection.execute(
            "SELECT MIN(started), MAX(finished), COUNT(*) FROM attempts WHERE outcome = 'done'"
        ).fetchone()
    assert done == count
    return {
        "waits": [wait for wait in waits if wait],
        "working": last - first,
        "wall": wall,
        "processor": after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime,
    }


def spread(values: Sequence[float], unit: float = 1000.0) -> dict[str, float]:
    low, middle, high = statistics.quantiles([value * unit for value in values], n=4)
    return {"median": round(middle, 2), "quartiles": [round(low, 2), round(high, 2)]}  # type: ignore[dict-item]


def overhead(folder: Path, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {"unit": "milliseconds from a worker's answer to its next job", "jobs": count}
    with cluster(4) as ray:
        for workers in (1, 4):
            ways = {"local": {"cpu_workers": workers}, "ray": {**over(ray), "most": workers}}
            for name, settings in ways.items():
                told = drive(folder / f"{name}{workers}", count, settings, 0.02)
                found[f"{name}_{workers}"] = spread(told["waits"])
    return found


def efficiency(folder: Path, count: int, seconds: float, repeats: int) -> dict[str, Any]:
    found: dict[str, Any] = {"jobs": count, "seconds_each": seconds, "workers": 4}
    ideal = count * seconds / 4
    with cluster(4) as ray:
        for name, settings in {"local": {"cpu_workers": 4}, "ray": over(ray)}.items():
            told = [drive(folder / f"{name}{number}", count, settings, seconds) for number in range(repeats)]
            found[name] = {
                "efficiency": [round(ideal / one["working"], 3) for one in told],
                "with_start_and_end": [round(ideal / one["wall"], 3) for one in told],
                "start_and_end_seconds": [round(one["wall"] - one["working"], 2) for one in told],
                "driver_processor_milliseconds_a_job": round(
                    1000 * statistics.median(one["processor"] for one in told) / count, 2
                ),
            }
    return found


def cluster(nodes: int) -> Any:
    """A cluster whose nodes are there."""
    from tests.data_gen.ray_cluster import RayCluster
    from training.data import cache_folder

    os.environ["GENAS_CACHE"] = str(cache_folder())  # so that its nodes find the kernels that are compiled there

    class Ready(RayCluster):
        def __enter__(self) -> Ready:
            super().__enter__()
            for _ in range(nodes):
                self.add()
            return self

    return Ready()


def over(ray: Any) -> dict[str, Any]:
    return {"runner": "ray", "address": ray.address}


def train_all(folder: Path, count: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Real trainings: every label by key, and how the attempts ended."""
    from data_gen import Task, WorkerSettings, open_store, run_jobs
    from training import Recipe

    folder.mkdir(parents=True, exist_ok=True)
    space, plan, costs = planned(count)
    recipe = Recipe(epochs=15, batch_size=50, learning_rate=0.05, crop_padding=1, flip=False)
    task = Task(space, images(), recipe, checkpoints=folder / "checkpoints")
    began = time.perf_counter()
    with closing(open_store(folder / "store.db")) as store:
        jobs = store.add_jobs("generate", plan, costs)
        run_jobs(store, jobs, task, WorkerSettings(device="cpu", **settings))
        labels = {
            one.job.architecture.key: (one.accuracy, one.loss, one.curve_text) for one in store.results("generate")
        }
        return {"labels": labels, "attempts": store.attempts("generate"), "seconds": time.perf_counter() - began}


def chaos(folder: Path, count: int, seeds: Sequence[int]) -> dict[str, Any]:
    """The same trainings undisturbed on this machine, then once for each seed on nodes that come and go."""
    here = train_all(folder / "local", count, {"cpu_workers": 2})
    found: dict[str, Any] = {"jobs": count, "seconds_local_2_workers": round(here["seconds"], 1), "seeds": []}
    for seed in seeds:
        found["seeds"].append(disturbed(folder / str(seed), count, seed, here["labels"]))
        print(json.dumps(found["seeds"][-1]), flush=True)
    return found


def disturbed(folder: Path, count: int, seed: int, labels: Mapping[str, object]) -> dict[str, Any]:
    import numpy as np

    random = np.random.default_rng(seed)
    events: list[str] = []
    over_now = threading.Event()
    seen: list[dict[int, float]] = []
    with cluster(3) as ray:
        alive = [0, 1, 2]

        def disturb() -> None:
            while not over_now.wait(random.exponential(DISTURBANCE)):
                seen.append(committed(folder / "store.db"))
                if len(alive) > 1 and (len(alive) >= 4 or random.random() < 0.5):
                    ray.kill(alive.pop(int(random.integers(len(alive)))))
                    events.append("killed")
                else:
                    alive.append(ray.add())
                    events.append("added")

        disturber = threading.Thread(target=disturb)
        disturber.start()
        try:
            there = train_all(folder, count, over(ray))
        finally:
            over_now.set()
            disturber.join()
    final = committed(folder / "store.db")
    changed = sum(final.get(job) != moment for then in seen for job, moment in then.items())
    done = there["attempts"].pop("done")
    return {
        "seed": seed,
        "nodes_killed": events.count("killed"),
        "nodes_added": events.count("added"),
        "lost": count - len(there["labels"]),
        "trained_again_after_their_commit": done - count + changed,
        "attempts_that_did_not_end_in_a_result": there["attempts"],
        "labels_that_differ_from_local": sum(there["labels"].get(key) != one for key, one in labels.items()),
        "seconds": round(there["seconds"], 1),
    }


def committed(path: Path) -> dict[int, float]:
    """When each result was committed."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT job, committed FROM results").fetchall())
    return {}


DISTURBANCE = 5.0
"""Seconds between two nodes that are killed or added, on average."""

RESULT = {
    "accuracy": 0.5, "loss": 1.0, "epochs": 10, "pieces": 1, "seconds": 60.0, "peak_memory": 10**9,
    "images_per_second": 1000.0,
    "curves": {"train_loss": [0.123456789 + n for n in range(30)], "validation_accuracy": [0.123456789] * 30},
}  # fmt: skip


def filled(path: Path, count: int, left: int) -> float:
    """A store with so many results and some jobs that have none; seconds for a result, 500 together."""
    from data_gen import open_store

    _, plan, costs = planned(count + left)
    with closing(open_store(path)) as store:
        jobs = store.add_jobs("generate", plan, costs)
        began = time.perf_counter()
        for start in range(0, count, 500):
            with store.together():
                for job in jobs[start : min(count, start + 500)]:
                    store.commit(job, store.start(job, 1, "node"), RESULT)
        return (time.perf_counter() - began) / max(1, count)


def memory_of(folder: Path, count: int, ray: bool) -> dict[str, Any]:
    """A process that only drives; it prints its own peak and that of its largest child."""
    command = [sys.executable, __file__, "--drive", str(folder / "store.db"), "ray" if ray else "local"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return {"results": count, **json.loads(done.stdout.splitlines()[-1])}


def drive_alone(path: Path, runner: str) -> None:
    """The driver of :func:`memory_of`: the jobs that are left, with workers that sleep."""
    from data_gen import Task, WorkerSettings, open_store, run_jobs
    from supernet import OpSubset
    from training import Recipe

    began = time.perf_counter()
    with closing(open_store(path)) as store:
        opened = time.perf_counter() - began
        jobs = store.jobs("generate")
        task = Task(OpSubset(classes=10, input_channels=1), images(), Recipe(epochs=1), command=(*SLEEPER, "0.01"))
        first: list[float] = []

        def note(_: object) -> None:
            if not first:
                first.append(time.perf_counter() - began)

        where = {"runner": "ray", "address": "local"} if runner == "ray" else {"cpu_workers": 2}
        run_jobs(store, jobs, task, WorkerSettings(device="cpu", **where), note)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_megabytes": round(peak), "seconds_to_open": round(opened, 1),
                      "seconds_to_first_handout": round(first[0], 1)}))  # fmt: skip


def memory(folder: Path, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for results in (0, count):
        for ray in (False, True):
            own = folder / f"{results}-{ray}"
            own.mkdir(parents=True)
            filled(own / "store.db", results, 40)
            found[f"{'ray' if ray else 'local'}_{results}"] = memory_of(own, results, ray)
    return found


def rates(folder: Path, count: int) -> dict[str, Any]:
    from data_gen import open_store

    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"commits": {}}
    for size in (1, 4, 32, 256):
        _, plan, costs = planned(count)
        with closing(open_store(folder / f"{size}.db")) as store:
            jobs = store.add_jobs("generate", plan, costs)
            attempts = [store.start(job, 1, "node") for job in jobs[:size]]
            began = time.perf_counter()
            steps = range(0, count - 2 * size + 1, size)
            for start in steps:
                with store.together():  # what a step of the driver does: results, and the next attempts
                    for offset in range(size):
                        store.commit(jobs[start + offset], attempts[start + offset], RESULT)
                        attempts.append(store.start(jobs[start + offset + size], 1, "node"))
            each = (time.perf_counter() - began) / (len(steps) * size)
        found["commits"][f"{size}_together"] = {
            "results_a_second": round(1 / each),
            "milliseconds_each": round(1000 * each, 3),
        }
    found["images"] = bring(folder)
    return found


def bring(folder: Path) -> dict[str, Any]:
    """Images of the size of CIFAR-10 brought to 3 nodes of this machine: one worker there, and the first job done."""
    import numpy as np

    from data_gen import Task, WorkerSettings, open_store, run_jobs
    from supernet.files import write_json
    from training import Recipe
    from training.data import file_digest, open_prepared

    data = folder / "images"
    data.mkdir()
    sizes = {"train": 45_000, "validation": 5_000}
    files = {}
    random = np.random.default_rng(0)
    for split, size in sizes.items():
        arrays = {"images": random.integers(0, 256, (size, 32, 32, 3), np.uint8), "labels": np.zeros(size, np.int64)}
        for part, array in arrays.items():
            path = data / f"{split}_{part}.npy"
            np.save(path, array)
            files[path.name] = [path.stat().st_size, file_digest(path)]
    described = {"source": "random", "classes": ["a", "b"], "sizes": sizes, "side": 32, "channels": 3}
    write_json(data / "info.json", {**described, "mean": [0.0] * 3, "deviation": [1.0] * 3, "files": files})
    space, plan, costs = planned(3)
    seconds = {}
    with cluster(3) as ray:
        for name in ("brought", "there"):  # the second time every node has them
            task = Task(space, open_prepared(data, 1024), Recipe(epochs=1), command=(*SLEEPER, "0.01"))
            began = time.perf_counter()
            with closing(open_store(folder / f"{name}.db")) as store:
                jobs = store.add_jobs("generate", plan, costs)
                run_jobs(store, jobs, task, WorkerSettings(device="cpu", **over(ray)))
            seconds[name] = time.perf_counter() - began
    size = sum(length for length, _ in files.values())
    return {
        "megabytes": round(size / 1e6), "nodes": 3,
        "seconds_a_run": {name: round(value, 2) for name, value in seconds.items()},
    }  # fmt: skip


def bridge_processor(folder: Path, count: int) -> dict[str, Any]:
    """Processor time of the bridge for a job, from the kernel's account of the driver's children."""
    with cluster(4) as ray:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        told = drive(folder, count, over(ray), 0.02)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        few = drive(folder.with_name("few"), 8, over(ray), 0.02)
        last = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    start = last.ru_utime + last.ru_stime - after.ru_utime - after.ru_stime
    return {
        "jobs": count,
        "driver_milliseconds_a_job": round(1000 * (told["processor"] - few["processor"]) / (count - 8), 2),
        "bridge_milliseconds_a_job": round(1000 * (whole - start) / (count - 8), 2),
        "bridge_seconds_to_start_and_end": round(start, 2),
    }


GPUS, ARCHITECTURES = 1000, 100_000
TRAINING_SECONDS = (30.0, 300.0, 2304.0)
"""Of one training: a minute's half, 5 minutes, and the published 300 labels in two days on four GPUs."""


def thousand(found: Mapping[str, Any]) -> dict[str, Any]:
    """What saturates first on 1,000 GPUs with 100,000 architectures."""
    alone = found["rates"]["commits"]["1_together"]["results_a_second"]
    together = found["rates"]["commits"]["256_together"]["results_a_second"]
    driver = 1000 / found["processor"]["driver_milliseconds_a_job"]
    bridge = 1000 / found["processor"]["bridge_milliseconds_a_job"]
    rows = []
    for seconds in TRAINING_SECONDS:
        needed = GPUS / seconds
        rows.append(
            {
                "training_seconds": seconds,
                "hours_in_all": round(ARCHITECTURES * seconds / GPUS / 3600, 1),
                "results_a_second": round(needed, 2),
                "share_of_commits_one_by_one": round(needed / alone, 3),
                "share_of_commits_together": round(needed / together, 3),
                "share_of_driver": round(needed / driver, 3),
                "share_of_bridge": round(needed / bridge, 3),
            }
        )
    limits = {"commits one by one": alone, "commits together": together, "driver": driver, "bridge": bridge}
    return {
        "results_a_second": {name: round(value) for name, value in limits.items()},
        "shortest_training_that_keeps_1000_gpus_busy_seconds": {
            name: round(GPUS / value, 2) for name, value in limits.items()
        },
        "rows": rows,
    }


PARTS: dict[str, Callable[[Path, dict[str, Any]], dict[str, Any]]] = {
    "overhead": lambda folder, found: overhead(folder, 300),
    "efficiency": lambda folder, found: efficiency(folder, 1000, 0.1, 3),
    "chaos": lambda folder, found: chaos(folder, 200, range(3)),
    "rates": lambda folder, found: rates(folder, 2000),
    "processor": lambda folder, found: bridge_processor(folder / "many", 1000),
    "memory": lambda folder, found: memory(folder, 100_000),
    "thousand": lambda folder, found: thousand(found),
}


def main() -> None:
    if "--worker" in sys.argv[1:]:
        sleeper(float(sys.argv[-1]))
        return
    sys.path.insert(0, str(ROOT))  # the tests' cluster
    if "--drive" in sys.argv[1:]:
        drive_alone(Path(sys.argv[-2]), sys.argv[-1])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, joined by commas")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    found["command"] = "python benchmarks/ray_cluster.py"
    found["machine"] = f"{os.cpu_count()} processors, one machine for all nodes"
    for part in arguments.only.split(","):
        with tempfile.TemporaryDirectory(prefix="genas-") as folder:
            found[part] = PARTS[part](Path(folder), found)
        print(json.dumps({part: found[part]}), flush=True)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
