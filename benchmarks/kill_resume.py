"""kill -9 of workers and of the driver in the middle of generate, then the same line again.

    python benchmarks/kill_resume.py [--quick]

Networks are trained for real on digits. Workers are killed at random moments, three times a life; each
life of the driver is ended with kill -9, the last is left alone. Counted are results that were
committed before a kill and are gone or changed afterwards (lost), jobs with more than one finished
training (repeated), and jobs that ended without a result (missing). All must be 0. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """
data: {source: digits, train_images: 200, validation_fraction: 0.3}
space: {input_size: 8, layers: [{channels: 8}, {channels: 16, stride: 2}], head_channels: 64}
generate:
  architectures: %d
  recipe: {epochs: 10, batch_size: 20, learning_rate: 0.05, flip: false, crop_padding: 1}
workers: {retries: 10}
"""


def rows(store: Path) -> dict[int, tuple[float, float]]:
    """Committed results: job to (accuracy, moment of the commit)."""
    if not store.exists():
        return {}
    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=30)
    try:
        query = "SELECT job, accuracy, committed FROM results"
        return {job: (accuracy, moment) for job, accuracy, moment in connection.execute(query)}
    except sqlite3.OperationalError:  # the first life has not made its tables yet
        return {}
    finally:
        connection.close()


def workers_of(driver: int) -> list[int]:
    """Process ids of a driver's children."""
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(driver)], capture_output=True, text=True, check=False)
    return [int(word) for word in listing.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 networks and 2 lives instead of 60 and 6")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    architectures, lives = (20, 2) if arguments.quick else (60, 6)
    chance = random.Random(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="genas-kill-"))
    recipe = folder / "kill.yml"
    recipe.write_text(RECIPE % architectures)
    store = folder / "logs" / "kill" / "store.db"
    command = [sys.executable, "-m", "genas.cli", "generate", str(recipe), "--logs", str(folder / "logs")]
    known: dict[int, tuple[float, float]] = {}
    lost = worker_kills = driver_kills = 0
    started = time.perf_counter()
    for life in range(lives):
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        goal = len(known) + architectures // (lives + 1)
        while life < lives - 1 and driver.poll() is None and len(rows(store)) < goal:
            time.sleep(chance.uniform(0.2, 1.0))
            victims = workers_of(driver.pid)
            if victims and worker_kills < 3 * (life + 1):
                os.kill(chance.choice(victims), signal.SIGKILL)
                worker_kills += 1
        if life < lives - 1 and driver.poll() is None:
            driver.send_signal(signal.SIGKILL)
            driver_kills += 1
        driver.wait()
        now = rows(store)
        lost += sum(now.get(job) != value for job, value in known.items())
        known = now
    connection = sqlite3.connect(store)
    (repeated,) = connection.execute(
        "SELECT COUNT(*) FROM (SELECT job FROM attempts WHERE outcome = 'done' GROUP BY job HAVING COUNT(*) > 1)"
    ).fetchone()
    (running,) = connection.execute("SELECT COUNT(*) FROM attempts WHERE finished IS NULL").fetchone()
    connection.close()
    figures = {
        "architectures": architectures,
        "driver_kills": driver_kills,
        "worker_kills": worker_kills,
        "results": len(known),
        "missing": architectures - len(known),
        "lost": lost,
        "repeated": repeated,
        "left_running": running,
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(figures))
    sys.exit(0 if lost == repeated == running == figures["missing"] == 0 else 1)


if __name__ == "__main__":
    main()
