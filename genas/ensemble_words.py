"""What ``genas ensemble`` prints."""

from __future__ import annotations

from typing import Any

_SINGLES = {"best_member": "its best member", "best_within_budget": "the best single network within the budget"}


def ensembled(result: dict[str, Any]) -> str:
    """A table of methods and single networks for ``ensemble``, and what the chosen one is worth."""
    cost, pool = result["cost"], result["pool"]
    chosen = result["methods"][result["chosen"]]
    count = len(chosen["networks"])
    left_out = [f"{pool['too_costly']} cost more"] * (pool["too_costly"] > 0)
    left_out += [f"{len(pool['not_finite'])} without finite scores"] * bool(pool["not_finite"])
    lines = [
        f"ensemble: {pool['networks']} networks of {', '.join(result['runs'])} within {result['budget']:,} {cost}"
        + (f" ({', '.join(left_out)})" if left_out else ""),
        f"  {result['validation_images']:,} validation images choose (accuracy on held-out folds of them), "
        f"{result['test_images']:,} test images are read once",
        f"  {'':18} {'networks':>8} {cost:>13} {'held out':>8} {'test':>7} {'ECE':>6} {'cross entropy':>13}",
    ]
    for name, entry in result["methods"].items():
        mark = "*" if name == result["chosen"] else " "
        lines.append(
            f"{mark} {name:18} {len(entry['networks']):8} {entry[cost]:13,} {entry['held_out']['accuracy']:8.2%} "
            + _tested(entry["test"])
        )
    for role, entry in result["singles"].items():
        words = "best member of *" if role == "best_member" else "single in budget"
        lines.append(
            f"  {words:18} {1:8} {entry[cost]:13,} {entry['validation']['accuracy']:8.2%} " + _tested(entry["test"])
        )
    lines.append("  of single networks accuracy on all validation images, which chose them; ECE, cross entropy: test")
    lines.append(
        f"  * {result['chosen'].replace('_', ' ')}: {count} network{'s' if count > 1 else ''}, "
        f"{chosen['params']:,} parameters, {chosen['macs'] / 1e6:,.3f} M MACs"
    )
    lines += [
        f"    {one['weight']:6.1%}  {one['name']}  {one['params']:,} parameters  {one['architecture']}"
        for one in chosen["networks"]
    ]
    if count == 1:
        lines.append("  it is a single network: on validation no ensemble within the budget does better")
    own = chosen["networks"][0]["name"] if count == 1 else None  # of itself it is no gain
    lines += [
        _gain(role, gain, result["test_images"])
        for role, gain in result["gains"].items()
        if result["singles"][role]["name"] != own
    ]
    if result["robust"] is not None:
        lines.append(_robust(result["robust"]))
    standing = [name for name in result["front"] if name.startswith("ensemble-")]
    lines.append(
        f"  front of validation error and {cost}: {len(result['front'])} points, "
        + (f"among them {', '.join(standing)}" if standing else "none of them an ensemble")
    )
    lines.append(f"  model.py agrees with the trained networks to {result['largest_difference']:.1e}")
    return "\n".join(lines)


def _tested(test: dict[str, Any]) -> str:
    return f"{test['accuracy']:7.2%} {test['ece']:6.3f} {test['cross_entropy']:13.3f}"


def _gain(role: str, gain: dict[str, Any], images: int) -> str:
    low, high = gain["ci95"]
    nothing = f": no difference that {images:,} images can show" if low <= 0 <= high else ""
    return (
        f"  test accuracy against {_SINGLES[role]}: {gain['difference'] * 100:+.2f} points "
        f"[{low * 100:+.2f}, {high * 100:+.2f}]{nothing}"
    )


def _robust(robust: dict[str, Any]) -> str:
    roles = {"ensemble": "the ensemble", **_SINGLES}
    told = [f"{words} {robust[role]['robust_accuracy']:.2%}" for role, words in roles.items()]
    return f"  accuracy on {robust['images']:,} test images, corrupted: {', '.join(told)}"
