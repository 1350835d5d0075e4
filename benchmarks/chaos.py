"""kill -9 of workers and of the driver at random moments, again and again, then the same line to its end.

    python benchmarks/chaos.py [--quick]

Networks are trained for real on digits. Counted over 100 kills of workers and 50 of the driver are results
that were committed before a kill and are gone or changed afterwards (lost), jobs with more than one finished
training (repeated), jobs that ended without a result (missing), labels that differ from those of a run that
nobody killed (wrong), attempts left running, and workers that outlived their driver by 5 s (orphans). All must
be 0. Recovery is measured from a kill to the next attempt at the same training (worker), or at any (driver).
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

RECIPE = """
data: {source: digits, train_images: 200, validation_fraction: 0.3}
space: {input_size: 8, layers: [{channels: 8}, {channels: 16, stride: 2}], head_channels: 64}
generate:
  architectures: %d
  recipe: {epochs: 12, batch_size: 20, learning_rate: 0.02, flip: false, crop_padding: 1}
workers: {retries: 10, checkpoint_seconds: 0.3}
"""


# Whose training has been killed so often that one more could use up its retries is spared: that it is given up then
# is meant, and not what is looked for here.
OPEN = """
SELECT pid FROM attempts AS open WHERE outcome IS NULL
AND (SELECT COUNT(*) FROM attempts WHERE job = open.job AND outcome = 'killed') < 9
"""


def query(store: Path, text: str) -> list[Any]:
    """Rows of a store that may be written meanwhile, or not be there yet."""
    if not store.exists():
        return []
    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=30)
    try:
        return connection.execute(text).fetchall()
    except sqlite3.OperationalError:  # the first life has not made its tables yet
        return []
    finally:
        connection.close()


def labels(store: Path) -> dict[str, float]:
    """Committed labels by architecture key."""
    return dict(query(store, "SELECT key, accuracy FROM results JOIN jobs ON jobs.id = results.job"))


def workers_of(driver: int) -> list[int]:
    """Process ids of a driver's children."""
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(driver)], capture_output=True, text=True, check=False)
    return [int(word) for word in listing.stdout.split()]


def alive(process: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def spread(values: list[float]) -> dict[str, float] | None:
    """Median and extremes of seconds."""
    if not values:
        return None
    return {"median": round(statistics.median(values), 2), "min": round(min(values), 2), "max": round(max(values), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 worker kills and 5 driver kills")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    architectures, lives, wanted = (20, 5, 10) if arguments.quick else (180, 50, 100)
    chance = random.Random(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="genas-chaos-"))
    recipe = folder / "chaos.yml"
    recipe.write_text(RECIPE % architectures)
    store = folder / "logs" / "chaos" / "store.db"
    command = [sys.executable, "-P", "-m", "genas.cli", "generate", str(recipe), "--logs"]
    started = time.perf_counter()
    known: dict[str, float] = {}
    kills: list[tuple[float, int]] = []
    ends: list[float] = []
    gone: list[float] = []
    lost = orphans = life = 0
    while life < lives or len(kills) < wanted:
        life += 1
        driver = subprocess.Popen(
            [*command, str(folder / "logs")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        quota = 3
        end = time.monotonic() + chance.uniform(3.0, 13.0)
        while time.monotonic() < end and driver.poll() is None:
            time.sleep(chance.uniform(0.1, 1.0))
            training = {pid for (pid,) in query(store, OPEN)}
            victims = sorted(training & set(workers_of(driver.pid)))
            if victims and quota and len(kills) < wanted:
                victim = chance.choice(victims)
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    kills.append((time.time(), victim))
                    quota -= 1
        if driver.poll() is not None:
            print("the work was over before the killing", file=sys.stderr)
            break
        workers = workers_of(driver.pid)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        killed = time.monotonic()
        ends.append(time.time())
        while any(map(alive, workers)) and time.monotonic() - killed < 5:
            time.sleep(0.005)
        gone.append(time.monotonic() - killed)
        orphans += sum(map(alive, workers))
        now = labels(store)
        lost += sum(now.get(key) != value for key, value in known.items())
        known = now
    subprocess.run([*command, str(folder / "logs")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    chaos_seconds = time.perf_counter() - started
    now = labels(store)
    lost += sum(now.get(key) != value for key, value in known.items())
    subprocess.run([*command, str(folder / "calm")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    calm = labels(folder / "calm" / "chaos" / "store.db")
    attempts = query(store, "SELECT job, pid, started, outcome FROM attempts ORDER BY started")
    again = []
    for moment, victim in kills:
        job = max(((start, job) for job, pid, start, _ in attempts if pid == victim and start <= moment), default=None)
        later = [start for other, _, start, _ in attempts if job and other == job[1] and start > moment]
        again += [min(later) - moment] if later else []
    back = [min(start for *_, start, _ in attempts if start > moment) - moment for moment in ends]
    done = [job for job, *_, outcome in attempts if outcome == "done"]
    figures = {
        "architectures": architectures,
        "driver_kills": len(ends),
        "worker_kills": len(kills),
        "results": len(now),
        "lost": lost,
        "repeated": len(done) - len(set(done)),
        "missing": architectures - len(now),
        "wrong": sum(now.get(key) != value for key, value in calm.items()),
        "left_running": sum(outcome is None for *_, outcome in attempts),
        "orphans": orphans,
        "workers_gone_seconds": spread(gone),
        "worker_recovery_seconds": spread(again),
        "driver_recovery_seconds": spread(back),
        "seconds": round(chaos_seconds, 1),
        "seconds_without_kills": round(time.perf_counter() - started - chaos_seconds, 1),
    }
    print(json.dumps(figures))
    faults = ("lost", "repeated", "missing", "wrong", "left_running", "orphans")
    sys.exit(0 if not any(figures[name] for name in faults) else 1)


if __name__ == "__main__":
    main()
