"""Which cheap trainings rank networks as a full recipe does: real CIFAR-100 pictures, small enough for two cores.

    python benchmarks/fidelity.py --npz cifar100.npz [--logs DIR] [--out FILE] [--quick]

``--npz`` is a file with train_images, train_labels, test_images, test_labels (uint8, N x 32 x 32 x 3). 24 networks of
the op_subset space, drawn without a limit, with a smaller head so that their MACs differ, are trained at 16x16 on 3,000
pictures for 10 epochs, and with each cheap setting; 6 of them twice, which says how much of a label is chance. Labels
are accuracies on 3,000 other pictures. Stopped, the same line with ``--logs`` continues. ``--quick`` is a small one, to
see that all works. Prints the table; the last line is one JSON object, which is also written to ``--out``
(benchmarks/results/fidelity.json), but for ``--quick``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import genas

RECIPE = """
data: {{source: "npz:{npz}", validation_fraction: 0.2, train_images: 3000, validation_images: 3000, test_images: 1000}}
space: {{input_size: 16, head_channels: 320}}
generate:
  architectures: 24
  repeat_fraction: 0.25
  recipe: {{epochs: 10, batch_size: 64, learning_rate: 0.1, crop_padding: 2, validate_every: 10}}
fidelity:
  architectures: 24
  settings:
    epochs_5: {{epochs: 5}}
    epochs_3: {{epochs: 3}}
    epochs_1: {{epochs: 1}}
    images_750: {{train_images: 750}}
    side_8: {{input_size: 8}}
    width_half: {{width: 0.5}}
    epochs_3_side_8: {{epochs: 3, input_size: 8}}
    epochs_3_width_half: {{epochs: 3, width: 0.5}}
"""
QUICK = ["generate.architectures=3", "generate.repeat_fraction=0", "generate.recipe.epochs=2", "data.train_images=256",
         "data.validation_images=200", "data.test_images=200",
         "fidelity.settings={epochs_1: {epochs: 1}, side_8: {input_size: 8}, width_half: {width: 0.5}}"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npz", type=Path, required=True)
    parser.add_argument(
        "--logs", type=Path, default=None, help="folder that keeps the run; a temporary one if left out"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fidelity.json")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    logs = arguments.logs or Path(tempfile.mkdtemp(prefix="genas-"))
    logs.mkdir(parents=True, exist_ok=True)
    recipe = logs / ("fidelity_quick.yml" if arguments.quick else "fidelity.yml")
    recipe.write_text(RECIPE.format(npz=arguments.npz.resolve()))
    run = genas.load_run(recipe, QUICK if arguments.quick else [], logs)
    from genas.display import Display
    from genas.words import compared

    with Display() as display:
        genas.generate(run, display.stage("generate"))  # the repeats too, which fidelity leaves out
        result = genas.fidelity(run, display.stage)
    print(f"report: {genas.report(run)}")
    print(compared(result))
    macs = [row["macs"] for row in result["rows"]]
    figures = {
        "command": f"python benchmarks/fidelity.py --npz FILE{' --quick' if arguments.quick else ''}",
        "machine": {"cores": os.cpu_count(), "torch": version("torch")},
        "macs_range": [min(macs), max(macs)],
        **{key: value for key, value in result.items() if key != "rows"},
        "seconds": genas.status(run.folder)["seconds"],
    }
    if not arguments.quick:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
