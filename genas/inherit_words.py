"""What the command line says of scores by shared weights."""

from __future__ import annotations

from typing import Any

from genas.words import duration

_MOST = 5


def inherited(result: dict[str, Any]) -> str:
    """Some lines for ``inherit``."""
    entries = result["architectures"]
    trained = "trained" if result["trained"] else "was trained"
    found = len(entries) - result["scored"]
    before = f", {found} of them before" if result["scored"] and found else ""
    lines = [
        f"inherit: the shared network of space {result['space']} {trained} for {result['epochs']} epochs, one "
        f"architecture in each of {result['steps']:,} steps, in {duration(result['seconds'])}; training accuracy of "
        f"the last epoch {result['train_accuracy'][-1]:.1%}",
        f"  {len(entries)} architectures scored with its weights on {result['images']:,} validation images{before}, "
        f"{duration(result['score_seconds'])} each; no estimate of what their own training would give",
    ]
    lines += [f"  {entry['inherited']:7.2%}  {entry['architecture']}" for entry in entries[:_MOST]]
    for metric, taus in result["agreement"].items():
        told = ", ".join(f"{name} {_tau(tau)}" for name, tau in taus.items())
        lines.append(f"  Kendall tau with {metric.replace('_', ' ')} of the labels: {told}")
    if not result["agreement"]:
        lines.append("  too few labels to say how well these scores rank")
    else:
        costs = {name: tau["tau"] for name, tau in result["agreement"]["accuracy"].items() if name != "inherited"}
        best = max(costs, key=lambda name: costs[name])
        if result["agreement"]["accuracy"]["inherited"]["tau"] <= costs[best]:
            lines.append(
                f"  {best} alone, which cost nothing, rank as well: these scores say nothing more by themselves"
            )
    return "\n".join(lines)


def _tau(entry: dict[str, Any]) -> str:
    low, high = entry["tau_ci95"]
    return f"{entry['tau']:.3f} [{low:.2f}, {high:.2f}]"
