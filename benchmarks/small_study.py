"""What a study says in numbers: do the published trends hold?

    genas study families_small --set data.source=npz:cifar10.npz
    genas spectra families_small
    python benchmarks/small_study.py logs/families_small [--out FILE]

Reads the run's store and kept spectra, trains nothing. For each family and number of training images: mean accuracy,
accuracy under corruption and relative robustness with 95 % intervals over networks; Spearman correlation of accuracy
with depth; differences between families, as they are and at equal clean accuracy; mean effective rank of the features.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from analysis.study import Study, family_difference, grouped, matched_difference, mean_interval, trends
from analysis.study_store import study_of_store
from data_gen import read_store
from genas.config import load_run
from supernet import InputError
from supernet.files import write_text


def read(folder: Path) -> Study:
    """The study of a run."""
    run = load_run(folder.name, logs=folder.parent)
    store = read_store(folder / "store.db")
    try:
        return study_of_store(store, run.settings.space)
    finally:
        store.close()


def groups(study: Study) -> list[dict[str, Any]]:
    """Means by family and number of training images."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for value in ("clean", "robust", "relative", "chance_corrected"):
        for group in grouped(study, value=value):
            family, images = group.group
            entry = found.setdefault(group.group, {"family": family, "train_images": images, "networks": group.count})
            entry[value] = {"mean": group.mean, "ci95": [group.low, group.high]}
    return list(found.values())


def differences(study: Study) -> Iterator[dict[str, Any]]:
    """Between every two families, of relative and of robust accuracy, also at equal clean accuracy."""
    for images in study.sizes:
        for first, second in combinations(study.families, 2):
            for value in ("clean", "robust", "relative"):
                try:
                    as_it_is = family_difference(study, first, second, images, value)
                    equal = None if value == "clean" else matched_difference(study, first, second, images, value)
                except InputError:  # a family that is not trained on so many yet
                    continue
                yield {
                    "value": value, **asdict(as_it_is), "at_equal_accuracy": None if equal is None else asdict(equal),
                }  # fmt: skip


def spectra(folder: Path) -> list[dict[str, Any]]:
    """Mean over networks of the mean over layers of the effective rank, as a share of the channels."""
    path = folder / "spectra" / "spectra.csv"
    if not path.is_file():
        return []
    networks: dict[tuple[str, str], dict[str, list[float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            share = float(row["effective_rank"]) / float(row["channels"])
            networks.setdefault((row["family"], row["condition"]), {}).setdefault(row["network"], []).append(share)
    result = []
    for (family, condition), layers in networks.items():
        mean, _, low, high = mean_interval([sum(one) / len(one) for one in layers.values()])
        result.append({"family": family, "condition": condition, "networks": len(layers), "mean": mean,
                       "ci95": [low, high]})  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    study = read(arguments.folder)
    content = {
        "command": "genas study families_small --set data.source=npz:cifar10.npz; genas spectra families_small; "
        "python benchmarks/small_study.py logs/families_small",
        "trainings": len(study.runs),
        "groups": groups(study),
        "depth": [asdict(trend) for value in ("clean",) for trend in trends(study, value)],
        "depth_robust": [asdict(trend) for trend in trends(study, "robust")],
        "differences": list(differences(study)),
        "effective_rank": spectra(arguments.folder),
    }
    for entry in content["groups"]:  # type: ignore[attr-defined]
        shown = "  ".join(f"{name} {entry[name]['mean']:.3f}" for name in ("clean", "robust", "relative"))
        print(f"{entry['family']:10} {entry['train_images']:6,} {entry['networks']:3}  {shown}")
    if arguments.out is not None:
        write_text(arguments.out, json.dumps(content, indent=1) + "\n")
    print(json.dumps(content))


if __name__ == "__main__":
    main()
