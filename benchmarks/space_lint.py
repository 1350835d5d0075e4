"""`genas space lint` of every bundled recipe, as a user sees it.

    python benchmarks/space_lint.py --npz cifar100.npz [--out FILE]

Recipes whose images are downloaded are given the pictures of an npz file instead (train_images, train_labels,
test_images, test_labels; N x 32 x 32 x 3), so that the hours of labels are those of this machine. What each says is
written to benchmarks/results/space_lint.json. The last line is one JSON object.
Hardware: any CPU; labels of recipes made for GPUs take what they take there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from genas.config import bundled_recipes, load_run
from genas.linting import lint_run
from genas.words import linted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npz", required=True, help="pictures for recipes whose own are downloaded")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "space_lint.json")
    arguments = parser.parse_args()
    figures: dict[str, object] = {
        "command": "python benchmarks/space_lint.py --npz cifar100.npz",
        "cores": os.cpu_count(),
    }
    for name in bundled_recipes():
        downloaded = not load_run(name).settings.data.source.startswith("digits")
        run = load_run(name, [f"data.source=npz:{arguments.npz}"] if downloaded else [])
        started = time.perf_counter()
        result = lint_run(run)
        seconds = time.perf_counter() - started
        print(f"== {name}, {seconds:.1f} s", linted(result), sep="\n", flush=True)
        figures[name] = {"seconds": seconds, **result}
    arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
