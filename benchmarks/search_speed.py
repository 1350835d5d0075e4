"""Times evolution and random search with the default settings on a known score.

The score is a sum over the choices, so it takes no time worth mentioning (a fitted predictor's time comes
on top) and its optimum under the limit is known exactly, from integer programming.

    python benchmarks/search_speed.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from evolution import SearchResult, SearchSettings, evolve, random_search
from supernet import OpSubset

LIMIT = 13_000_000


def optimum(space: OpSubset, weights: NDArray[np.float64], limit: int) -> float:
    """The largest score within the limit. A layer needs at least one operation."""
    count = len(weights)
    macs = np.array([int(space.costs(row[None])["macs"][0]) for row in np.eye(count, dtype=np.int8)])
    fixed = int(space.costs(np.zeros((1, count), np.int8))["macs"][0])
    layers = np.kron(np.eye(len(space.layers)), np.ones(len(space.operations)))
    found = milp(
        -weights,
        constraints=[LinearConstraint(macs - fixed, -np.inf, limit - fixed), LinearConstraint(layers, 1, np.inf)],
        integrality=np.ones(count, np.int64),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        raise RuntimeError(f"integer programming: {found.message}")
    return float(weights @ np.round(found.x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 scores in place of 20")
    runs = 3 if parser.parse_args().quick else 20
    space, settings, limits = OpSubset(), SearchSettings(), {"macs": LIMIT}
    found: dict[str, list[SearchResult]] = {"evolve": [], "random_search": []}
    seconds: dict[str, list[float]] = {"evolve": [], "random_search": []}
    best = []
    for seed in range(runs):
        weights = np.random.default_rng(seed).normal(0.3, 1.0, len(space.cardinalities))
        best.append(optimum(space, weights, LIMIT))

        def score(choices: NDArray[np.int8], weights: NDArray[np.float64] = weights) -> NDArray[np.float64]:
            return np.asarray(choices @ weights, np.float64)

        start = time.perf_counter()
        found["evolve"].append(evolve(space, score, limits, settings, np.random.default_rng(seed)))
        middle = time.perf_counter()
        drawn = random_search(space, score, limits, settings.queries, np.random.default_rng(seed))
        found["random_search"].append(drawn)
        seconds["evolve"].append(middle - start)
        seconds["random_search"].append(time.perf_counter() - middle)
    figures: dict[str, object] = {"runs": runs, "limits": limits, "queries": settings.queries}
    for name, results in found.items():
        gaps = np.array(best) - [result.best[0].score for result in results]
        figures[name] = {
            "seconds": round(float(np.median(seconds[name])), 3),
            "optimum_found": float(np.mean(gaps < 1e-9)),
            "mean_gap_to_optimum": round(max(float(gaps.mean()), 0.0), 4),
        }
        print(f"{name}: {figures[name]}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
