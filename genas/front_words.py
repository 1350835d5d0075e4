"""What ``genas front`` prints."""

from __future__ import annotations

from typing import Any

from genas.words import duration

_SEARCHES = {
    "preferences": "one search for all preferences",
    "costs": "{searches} searches, the cost weighed in each",
    "norms": "{searches} searches, each with another norm of the weights",
    "predictor": "the points of search --front",
}
_MOST = 20  # rows


def fronted(result: dict[str, Any]) -> str:
    """The front as a table, and how it came about."""
    search, cost, volume = result["search"], result["cost"], result["hypervolume"]
    how = _SEARCHES[result["method"]].format(**search)
    lines = [
        f"front: {how} ({duration(search['seconds'])}): {_count(search['genotypes'], 'architecture')}, "
        f"{result['distinct']} networks with their widths and depths; {result['ranked']} ranked, "
        f"{result['trained']} trained in full",
        *_warnings(result),
    ]
    best = [member for member in result["members"] if member["on_front"]]
    lines.append(f"  {'parameters':>12} {'MACs':>9} {'validation':>11} {'test':>8} {'latency':>9}  architecture")
    for member in best[:_MOST]:
        times = list(member["latency"].values())
        lines.append(
            f"  {member['params']:12,} {member['macs'] / 1e6:7.1f} M {member['validation_error']:10.2%} "
            f"{member['test_error']:8.2%} {f'{times[0]:.2f} ms' if times else '':>9}  {member['architecture']:.120}"
        )
    if len(best) > _MOST:
        lines.append(f"  and {len(best) - _MOST} more")
    places = best[0]["latency"] if best else {}
    lines.append(
        f"  errors; validation chose these {len(best)}, test images were read once"
        + (f"; latency: {next(iter(places))}" if places else "")
    )
    corner = f"{result['reference']['cost'] / 1e6:,.3g} M {cost}, {result['reference']['error']:.0%} error"
    lines.append(f"  hypervolume up to {corner} on the test images: {_volume(volume)}, larger is better")
    lines += [f"  beside it {one['name']}: {_volume(one['hypervolume'])}" for one in result["beside"]]
    if result["cheap_tau"] is not None:
        tau = result["cheap_tau"]
        lines.append(
            f"  short trainings against full ones: Kendall tau {tau['tau']:.2f} "
            f"[{tau['ci95'][0]:.2f}, {tau['ci95'][1]:.2f}] over {tau['architectures']} that were trained in full"
        )
    return "\n".join(lines)


def _warnings(result: dict[str, Any]) -> list[str]:
    search, lines = result["search"], []
    if search["collapsed"]:
        lines.append(
            "  collapsed: most of what the search chose are operations without weights (skips, pools); raise "
            "front.search.warmup or beta_decay, or choose scalarisation budget where it is not"
        )
    if search["diverged"]:
        lines.append(f"  {_count(search['diverged'], 'search', 'searches')} diverged and gave nothing")
    if result["failed"]:
        lines.append(f"  {_count(result['failed'], 'training')} failed; genas status says why")
    return lines


def _volume(volume: dict[str, Any]) -> str:
    return f"{volume['value']:.3g} [{volume['low']:.3g}, {volume['high']:.3g}] {volume['unit']}"


def _count(number: int, name: str, several: str = "") -> str:
    return f"{number} {name if number == 1 else several or f'{name}s'}"
