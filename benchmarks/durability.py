"""What durability costs: forced writes of the store and checkpoints, as a share of the training time.

    python benchmarks/durability.py [--quick]

Networks of the quickstart are trained for real while every transaction of the driver is timed: results that came
together with the claims of the next jobs, or an event. A worker waits for that, so the time of all over the
training's is the share. Checkpoints are timed on the published winner of op_subset (740,132
parameters, momentum included); a training leaves one every ``workers.checkpoint_seconds``, or less often where
saving takes more than a hundredth of that. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from data_gen import WorkerSettings, read_store
from data_gen.store import Store
from genas.config import load_run
from genas.generating import generate
from supernet import OpSubset
from supernet.network import build_network
from training import Checkpoints

WINNER = "111000 011101 111111 111111 011101"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 networks and 5 checkpoints instead of 40 and 30")
    arguments = parser.parse_args()
    networks, saves = (8, 5) if arguments.quick else (40, 30)
    folder = Path(tempfile.mkdtemp(prefix="genas-durability-"))
    transactions: list[float] = []
    writing, force = Store._writing, Store._force
    parts: list[float] = []  # of a transaction that is not forced to the disk yet

    @contextmanager
    def timed(store: Store) -> Iterator[object]:
        began = time.perf_counter()
        with writing(store) as connection:
            yield connection
        (parts if store._grouped else transactions).append(time.perf_counter() - began)

    def forced(store: Store) -> None:
        began = time.perf_counter()
        force(store)
        if parts:
            transactions.append(sum(parts) + time.perf_counter() - began)
            parts.clear()

    Store._writing = timed  # type: ignore[method-assign, assignment]
    Store._force = forced  # type: ignore[method-assign]
    run = load_run("quickstart", [f"generate.architectures={networks}"], folder)
    generate(run)
    store = read_store(run.store)
    results = store.results("generate")
    store.close()
    training = sum(result.seconds for result in results)

    space = OpSubset()
    network = build_network(space.graph(space.parse(WINNER)))
    tensors = dict(network.state_dict())
    tensors |= {f"momentum.{name}": torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
    checkpoints = Checkpoints(folder / "checkpoints", "winner", {}, every=60)
    costs = []
    for step in range(saves):
        began = time.perf_counter()
        checkpoints.save(step, tensors, {})
        costs.append(time.perf_counter() - began)
    size = max(path.stat().st_size for path in (folder / "checkpoints").iterdir())
    interval = WorkerSettings().checkpoint_seconds
    print(
        json.dumps(
            {
                "trainings": len(results),
                "median_training_seconds": round(statistics.median(result.seconds for result in results), 2),
                "transactions": len(transactions),
                "median_transaction_milliseconds": round(1000 * statistics.median(transactions), 2),
                "slowest_transaction_milliseconds": round(1000 * max(transactions), 2),
                "store_share_of_training": round(sum(transactions) / training, 6),
                "checkpoint_bytes": size,
                "median_checkpoint_milliseconds": round(1000 * statistics.median(costs), 2),
                "slowest_checkpoint_milliseconds": round(1000 * max(costs), 2),
                "checkpoint_interval_seconds": interval,
                "checkpoint_share_of_training": round(statistics.median(costs) / interval, 6),
            }
        )
    )


if __name__ == "__main__":
    main()
