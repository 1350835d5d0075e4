"""What the commands about robustness print."""

from __future__ import annotations

from typing import Any

_HEADS = {"clean": "accuracy", "robust": "robust accuracy", "relative": "relative robustness"}


def studied(result: dict[str, Any]) -> str:
    """A table for ``study``."""
    values = [value for value in _HEADS if value in result["groups"][0]] if result["groups"] else []
    lines = [
        "study: means over networks with their 95 % intervals, higher is better"
        + ("; relative robustness flatters networks that have learnt little" if "relative" in values else ""),
        f"  {'images':>8}  {'family':12} {'networks':>8}  " + "  ".join(f"{_HEADS[value]:23}" for value in values),
    ]
    lines += [
        f"  {entry['train_images']:8,}  {entry['family']:12} {entry['networks']:8}  "
        + "  ".join(_interval(entry[value], value != "relative") for value in values)
        for entry in sorted(result["groups"], key=lambda entry: (entry["train_images"], entry["family"]))
    ]
    failed = result.get("failed", 0)
    return "\n".join([*lines, *([f"  {failed} trainings failed; genas status says why"] if failed else [])])


def _interval(entry: dict[str, Any], percent: bool) -> str:
    numbers = [entry["mean"], *(entry["ci95"] or ())]
    mean, *ends = [f"{value:.1%}" if percent else f"{value:.3f}" for value in numbers]
    return f"{mean + (f' [{ends[0]}, {ends[1]}]' if ends else ''):23}"
