"""What the commands about robustness print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_HEADS = {
    "clean": "accuracy",
    "robust": "robust accuracy",
    "relative": "relative robustness",
    "mce": "mCE (lower is better)",
}


def studied(result: dict[str, Any]) -> str:
    """A table for ``study``."""
    values = [value for value in _HEADS if any(value in group for group in result["groups"])]
    lines = [
        "study: means over networks with their 95 % intervals, higher is better"
        + ("; relative robustness flatters networks that have learnt little" if "relative" in values else ""),
        f"  {'images':>8}  {'family':12} {'networks':>8}  " + "  ".join(f"{_HEADS[value]:23}" for value in values),
    ]
    lines += [
        f"  {entry['train_images']:8,}  {entry['family']:12} {entry['networks']:8}  "
        + "  ".join(_interval(entry.get(value), value in ("clean", "robust")) for value in values)
        for entry in sorted(result["groups"], key=lambda entry: (entry["train_images"], entry["family"]))
    ]
    failed = result.get("failed", 0)
    return "\n".join([*lines, *([f"  {failed} trainings failed; genas status says why"] if failed else [])])


def spanned(result: dict[str, Any]) -> str:
    """A table for ``spectra``."""
    kinds = ("effective_rank", "participation_ratio", "rankme", "stable_rank", "directions_95")
    lines = [
        f"spectra: {result['networks']} networks, {result['images']} images; means over layers and networks, as shares "
        "of the channels",
        f"  {'family':12} {'images':20} " + " ".join(f"{kind.replace('_', ' '):>19}" for kind in kinds),
    ]
    lines += [
        f"  {entry['family']:12} {entry['condition']:20} " + " ".join(f"{entry[kind]:19.3f}" for kind in kinds)
        for entry in result["means"]
    ]
    if result["missing"]:
        lines.append(f"  {result['missing']} networks are left out: their weights were not kept")
    return "\n".join(lines)


def imported(result: dict[str, Any], folder: Path) -> str:
    """What ``import-study`` read."""
    if "genotypes" in result:
        return _searched(result, folder)
    lines = [f"study: {result['networks']:,} networks in {len(result['groups'])} groups of family and training images"]
    lines += [f"  flaw: {flaw} ({count:,} networks)" for flaw, count in result["flaws"].items()]
    tables = [name for name in result["files"] if name.endswith(".jsonl")]
    return "\n".join(
        [
            *lines,
            f"Saved in {folder}: report.html, study.csv, figures, and {len(tables)} label tables.",
            f"Next: genas evaluate {folder / tables[0]} --metric robust_accuracy" if tables else "",
        ]
    )


def _searched(result: dict[str, Any], folder: Path) -> str:
    """What it read of a study of a front."""
    lines = [f"study: {result['genotypes']} genotypes, {result['searched']} points of searches"]
    for data, count in result["networks"].items():
        line = (
            f"  {data:8} {count:3} trained networks, {len(result['front'][data])} on the front of error and parameters"
        )
        if data in result["hypervolume"]:
            volume, (millions, percent) = (
                result["hypervolume"][data]["volume"],
                result["hypervolume"][data]["reference"],
            )
            line += f"; hypervolume {volume:.2f} M x % below {millions:g} M and {percent:g} %"
        lines.append(line)
    if result["memory_error"] is not None:
        error = result["memory_error"]
        lines.append(f"  {result['memory']} points of memory, a + bN + cB + dNB is {error:.1%} off one left out")
    lines += [f"  flaw: {name}: {flaw}" for name, flaws in result["flaws"].items() for flaw in flaws]
    lines += [f"  note: {note}" for note in result["notes"]]
    return "\n".join(
        [
            *lines,
            f"Saved in {folder}: {', '.join(result['files'])}.",
            f"Next: genas evaluate {folder / result['files'][0]}",
        ]
    )


def _interval(entry: dict[str, Any] | None, percent: bool) -> str:
    if entry is None:  # nothing is relative to a clean accuracy of 0
        return f"{'-':23}"
    numbers = [entry["mean"], *(entry["ci95"] or ())]
    mean, *ends = [f"{value:.1%}" if percent else f"{value:.3f}" for value in numbers]
    return f"{mean + (f' [{ends[0]}, {ends[1]}]' if ends else ''):23}"
