"""Costs of many architectures at once, against building each network and counting it by other tools' conventions.

    python benchmarks/cost_speed.py [--quick]

100,000 op_subset architectures are costed as one batch; 200 of them are costed from their graphs and 5
by building the network and counting it with torch's flop counter and thop, as `genas cost --compare` does, each in
the same process. Also checked: batch and graphs agree exactly. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from genas.costing import cost
from supernet import COST_NAMES, OpSubset, architectures, graph_costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 networks built and 3 rounds instead of 5 and 11")
    arguments = parser.parse_args()
    rounds, networks = (3, 2) if arguments.quick else (11, 5)
    space = OpSubset()
    choices = space.sample(100_000, np.random.default_rng(0))
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        batch = space.costs(choices)
        seconds.append(time.perf_counter() - started)
    few = architectures(space, choices[:200])
    started = time.perf_counter()
    single = [graph_costs(space.graph(architecture)) for architecture in few]
    by_graph = (time.perf_counter() - started) / len(few)
    agree = all(tuple(int(batch[name][row]) for name in COST_NAMES) == tuple(costs) for row, costs in enumerate(single))
    cost(space, few[0], compare=True)  # imports are not counted
    started = time.perf_counter()
    for architecture in few[:networks]:
        cost(space, architecture, compare=True)
    by_network = (time.perf_counter() - started) / networks
    figures = {
        "architectures": len(choices),
        "batch_seconds_median": statistics.median(seconds),
        "batch_seconds_range": [min(seconds), max(seconds)],
        "graph_seconds_each": by_graph,
        "network_seconds_each": by_network,
        "times_faster_than_networks": by_network / (statistics.median(seconds) / len(choices)),
        "batch_equals_graphs": agree,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
