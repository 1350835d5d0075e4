"""Wall seconds of the quickstart and of each of its stages, in a fresh folder.

    python benchmarks/quickstart.py [--quick] [--runs N]

Runs ``genas run quickstart`` N times as a new user would, images prepared anew. ``--quick`` is one run with 12
networks. The last line is one JSON object: seconds of each stage and of the whole command, one number a run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--runs", type=int, default=3, help="how often (default: 3)")
    arguments = parser.parse_args()
    overrides = ["--set", "generate.architectures=12", "--set", "retrain.seeds=1"] if arguments.quick else []
    seconds: dict[str, list[float]] = {}
    for _ in range(1 if arguments.quick else arguments.runs):
        with tempfile.TemporaryDirectory(prefix="genas-") as folder:
            environment = {**os.environ, "GENAS_CACHE": str(Path(folder) / "cache")}
            command = [sys.executable, "-m", "genas.cli"]
            started = time.perf_counter()
            subprocess.run([*command, "run", "quickstart", *overrides], cwd=folder, env=environment, check=True)
            seconds.setdefault("whole", []).append(round(time.perf_counter() - started, 1))
            answer = subprocess.run(
                [*command, "status", "quickstart", "--json"],
                cwd=folder,
                env=environment,
                check=True,
                capture_output=True,
            )
            status = json.loads(answer.stdout)
            for stage, value in status["seconds"].items():
                seconds.setdefault(stage, []).append(round(value, 2))
    print(json.dumps({"seconds": seconds, "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
