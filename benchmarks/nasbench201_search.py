"""What search strategies find on NAS-Bench-201 with 50 paid evaluations, every proxy call counted.

    python benchmarks/nasbench201_search.py --table nasbench201.csv [--trials 100] [--quick]

The table has a row for each of the 15,625 networks: arch, and for cifar10, cifar100 and imagenet16 the columns
_test_mean (percent), _val12, _val12_seconds, _synflow and _hook_logdet. A strategy pays for and chooses by validation
accuracy after 12 epochs; the test accuracy is read of its pick alone. Trial n has the seed (0, n) everywhere. The last
line is one JSON object. Hardware: any CPU; one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from genas.benching import search_table, summary
from genas.tabular import DATASETS, read_tabular
from supernet import InputError

BUDGET = 50
QUICK_TRIALS = 3
BOTH = ("synflow", "hook_logdet")
ROWS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    # strategy, networks ranked by synflow before the first evaluation, proxies that the model sees
    "random": ("random", 0, ()),
    "evolution": ("evolution", 0, ()),
    "aging": ("aging", 0, ()),
    "model": ("model", 0, ()),
    "evolution, warm-up 1000": ("evolution", 1000, ()),
    "aging, warm-up 1000": ("aging", 1000, ()),
    "model, warm-up 1000, synflow": ("model", 1000, ("synflow",)),
    "model, warm-up 1000, both proxies": ("model", 1000, BOTH),
    "model, all 6466, both proxies": ("model", 6466, BOTH),
}
PUBLISHED = {
    "random": (93.39, 70.47, 44.00),
    "aging": (93.76, 71.48, 45.23),
    "aging, warm-up 1000": (94.11, 72.44, 45.89),
}
RIVAL = "aging, warm-up 1000"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=100, help="searches of each kind (default: 100)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TRIALS} trials")
    given = parser.parse_args()
    trials = QUICK_TRIALS if given.quick else given.trials
    try:
        table = read_tabular(given.table)
        print(f"{BUDGET} evaluations, {trials} trials; mean test accuracy in percent (standard deviation)")
        figures: dict[str, object] = {"budget": BUDGET, "trials": trials}
        picked: dict[str, list[np.ndarray]] = {}
        for name, (strategy, warmup, proxies) in ROWS.items():
            start, entry, texts, picked[name] = time.perf_counter(), {}, [], []
            for dataset in DATASETS:
                found = [
                    search_table(table, dataset, strategy, "val12", BUDGET, warmup, "synflow", proxies, [0, number])
                    for number in range(trials)
                ]
                picked[name].append(np.array([trial.accuracy for trial in found]))
                entry[dataset] = {key: round(value, 5) for key, value in summary(table, dataset, found).items()}
                texts.append(f"{entry[dataset]['accuracy']:.2%} ({entry[dataset]['standard_deviation'] * 100:.2f})")
            seconds = round(time.perf_counter() - start, 1)
            calls = entry[DATASETS[0]]["proxy_calls"]
            print(f"{name:34} {'  '.join(texts)}  {calls:8,.0f} proxy calls  {seconds:6.1f} s", flush=True)
            figures[name] = {**entry, "wall_seconds": seconds}
            if name in PUBLISHED:
                figures[name]["published_percent"] = PUBLISHED[name]
        gains = {}
        for name in ROWS:
            if not name.startswith("model"):
                continue
            gains[name] = {}
            for dataset, own, rival, published in zip(
                DATASETS, picked[name], picked[RIVAL], PUBLISHED[RIVAL], strict=True
            ):
                gain = float(own.mean() - rival.mean()) * 100
                reach = 1.96 * float(np.sqrt((own.var(ddof=1) + rival.var(ddof=1)) / trials)) * 100
                gains[name][dataset] = {
                    "points": round(gain, 3),
                    "ci95": [round(gain - reach, 3), round(gain + reach, 3)],
                    "points_over_published": round(float(own.mean()) * 100 - published, 3),
                    "standard_error": round(float(own.std(ddof=1)) * 100 / trials**0.5, 3),
                }
            print(f"{name} - {RIVAL}: {gains[name]}")
        figures["gain_over_aging_warmup"] = gains
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
