"""Architectures a second of every space: costs as a batch, graphs, costs of graphs, and lint of the whole space.

    python benchmarks/space_costs.py [--quick] [--out FILE]

Of each space with its defaults, 20,000 architectures are sampled, costed as one batch and made canonical, 500 of them
are made graphs and costed from these, and `genas space lint` looks the space over. Each is timed five times after one
that is not counted; figures are medians, and the range beside them. Also checked: batch and graphs agree exactly. The
figures are written to benchmarks/results/space_costs.json, but for --quick. The last line is one JSON object.
Hardware: any CPU; one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from genas.config import load_space
from genas.linting import lint
from genas.space_files import space_names
from supernet import COST_NAMES, SearchSpace, architectures, graph_costs

SPACES: dict[str, list[str]] = {
    **{name: [] for name in space_names() if name not in ("families", "stages")},
    **{f"families {family}": [f"family={family}"] for family in ("vgg", "resnet", "densenet")},
    "config/spaces/op_subset.yml": [],
}
"""Spaces and what is changed of them; ``stages`` itself has no default."""


def seconds(work: Callable[[], object], rounds: int) -> list[float]:
    """Of each round, after one that is not counted: what a space keeps is made then."""
    work()
    result = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        result.append(time.perf_counter() - started)
    return result


def figures_of(space: SearchSpace, many: int, few: int, rounds: int) -> dict[str, Any]:
    """Architectures a second, median and range, and whether the two ways to cost agree."""
    rows = space.sample(many, np.random.default_rng(0))
    some = architectures(space, rows[:few])
    graphs = [space.graph(one) for one in some]
    batch = space.costs(rows[:few])
    counted = [graph_costs(graph) for graph in graphs]
    agree = all(tuple(int(batch[name][at]) for name in COST_NAMES) == tuple(costs) for at, costs in enumerate(counted))
    work: dict[str, tuple[int, Callable[[], object]]] = {
        "sample": (many, lambda: space.sample(many, np.random.default_rng(1))),
        "canonical": (many, lambda: space.canonical(rows)),
        "costs": (many, lambda: space.costs(rows)),
        "graph": (few, lambda: [space.graph(one) for one in some]),
        "graph_and_costs": (few, lambda: [graph_costs(space.graph(one)) for one in some]),
    }
    if type(space).canonical is SearchSpace.canonical:  # nothing is done
        del work["canonical"]
    rates = {}
    for name, (number, call) in work.items():
        each = seconds(call, rounds)
        rates[name] = {
            "per_second": number / statistics.median(each),
            "range": [number / max(each), number / min(each)],
        }
    return {
        "size": space.size,
        "choices": len(space.cardinalities),
        "rates": rates,
        "lint_seconds": statistics.median(seconds(lambda: lint(space), rounds)),
        "batch_equals_graphs": agree,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the architectures, once")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "space_costs.json")
    arguments = parser.parse_args()
    many, few, rounds = (2_000, 50, 1) if arguments.quick else (20_000, 500, 5)
    spaces = {}
    for name, overrides in SPACES.items():
        spaces[name] = figures_of(load_space(name.partition(" ")[0], overrides).space, many, few, rounds)
        rates = {key: f"{rate['per_second']:,.0f}/s" for key, rate in spaces[name]["rates"].items()}
        print(name, *(f"{key} {rate}" for key, rate in rates.items()), f"lint {spaces[name]['lint_seconds']:.1f} s")
    figures = {
        "command": f"python benchmarks/space_costs.py{' --quick' if arguments.quick else ''}",
        "machine": {"cores": os.cpu_count(), "numpy": version("numpy")},
        "architectures": {"batch": many, "graphs": few, "rounds": rounds},
        "spaces": spaces,
    }
    if not arguments.quick:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
