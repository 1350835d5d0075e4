"""What an ensemble gains over its best member, and over one bigger network of the same MACs, on real trained networks.

    python benchmarks/ensembles.py RUN_FOLDER...

The runs are those of `benchmarks/fronts.py`: networks of cells, trained on 2,500 CIFAR-10 pictures of 16x16. For each
run the budget on the sum of the members' MACs is first that of the costliest network, which then stands against the
ensemble, then twice as much. Validation chooses members, weights and method; test accuracy with 95 % intervals over
2,000 images. Results: results/ensembles.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from genas.config import load_run
from genas.ensemble_pool import kept_networks
from genas.ensembling import ensemble

RESULTS = Path(__file__).parent / "results" / "ensembles.json"
_SHARES = (1.0, 2.0)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for folder in arguments.folders:
        run = load_run(folder.name, logs=folder.parent)
        dearest = max(network.costs["macs"] for network in kept_networks([run])[0])
        for share in _SHARES:
            out = folder / "ensemble" / f"share_{share:g}"
            first = ensemble([run], dearest * share, "macs", robust=False, out=out)
            results.append(_entry(folder.name, share, dearest, first))
            print(json.dumps(results[-1]), flush=True)
    content = {"command": "python benchmarks/ensembles.py RUN_FOLDER...", "runs": results}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    for share in _SHARES:
        own = [one for one in results if one["share"] == share]
        for name in ("best_member", "best_within_budget"):
            gains = [100 * one["gains"][name]["difference"] for one in own if name in one["gains"]]
            if gains:
                spread = f"mean {np.mean(gains):+.2f} points, {min(gains):+.2f} to {max(gains):+.2f}"
                print(f"budget {share:g} x the costliest, over {name}, {len(gains)} runs: {spread}")


def _entry(name: str, share: float, dearest: int, found: dict[str, Any]) -> dict[str, Any]:
    chosen = found["methods"][found["chosen"]]
    return {
        "run": name,
        "share": share,
        "budget_macs": dearest * share,
        "chosen": found["chosen"],
        "networks": len(chosen["networks"]),
        "macs": chosen["macs"],
        "test": chosen["test"],
        "singles": {key: {"macs": one["macs"], "test": one["test"]} for key, one in found["singles"].items()},
        "gains": found["gains"],
    }


if __name__ == "__main__":
    main()
