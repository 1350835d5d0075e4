"""The four stages on real CIFAR-100 pictures, small enough for two cores.

    python benchmarks/cifar100_pipeline.py --npz cifar100.npz [--runs DIR] [--quick]

``--npz`` is a file with train_images, train_labels, test_images, test_labels (uint8, N x 32 x 32 x 3).
40 networks of the op_subset space are trained at 16x16 for 5 epochs, the predictor is fitted on 30 and
judged on 10, and the winner under 3.4 M MACs is retrained with 3 seeds beside its controls. Stopped, the
same line continues. ``--quick`` trains 12 networks for one epoch. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import genas

RECIPE = """
data: {{source: "npz:{npz}", validation_fraction: 0.2}}
space: {{input_size: 16}}
limits: {{macs: 3_400_000}}
generate:
  architectures: 40
  recipe: {{epochs: 5, batch_size: 64, learning_rate: 0.05, crop_padding: 2, label_smoothing: 0.1, validate_every: 5}}
fit: {{train_fraction: 0.75}}
retrain:
  seeds: 3
"""
QUICK = ["generate.architectures=12", "generate.recipe.epochs=1", "search.queries=500", "retrain.seeds=1",
         "data.train_images=500", "data.validation_images=200", "data.test_images=200"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npz", type=Path, required=True)
    parser.add_argument(
        "--runs", type=Path, default=None, help="folder that keeps the run; a temporary one if left out"
    )
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    runs = arguments.runs or Path(tempfile.mkdtemp(prefix="genas-"))
    runs.mkdir(parents=True, exist_ok=True)
    recipe = runs / ("cifar100_quick.yml" if arguments.quick else "cifar100_pipeline.yml")
    recipe.write_text(RECIPE.format(npz=arguments.npz.resolve()))
    run = genas.load_run(recipe, QUICK if arguments.quick else [], runs)
    from genas.display import Display

    with Display() as display:
        results = genas.run_all(run, display.stage)
    status = genas.status(run.folder)
    print(f"report: {results['report']}")
    figures = {
        "trained": status["generate"]["done"],
        "failed": status["generate"]["failed"],
        "best_validation_accuracy": status["best"]["accuracy"],
        "tau": {name: model["tau"] for name, model in results["fit"]["models"].items()},
        "tau_ci95": results["fit"]["models"]["hybrid"]["tau_ci95"],
        "held_out": results["fit"]["test_size"],
        "test_accuracy": {
            role: {"mean": entry["mean"], "standard_deviation": entry["standard_deviation"], "macs": entry["macs"]}
            for role, entry in results["retrain"]["roles"].items()
        },
        "gains": results["retrain"]["gains"],
        "seconds": status["seconds"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
