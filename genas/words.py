"""Results in words, for people. Accuracies are percent here, fractions everywhere else."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genas.config import RunSettings

_MOST_FAILURES = 10  # named one by one in a terminal


def limits_words(limits: Mapping[str, Any]) -> str:
    """:func:`genas.limits.limits_json` as a person reads it: ``macs <= 15,000,000``."""
    return ", ".join(_limit(name, limit) for name, limit in limits.items()) or "no limit"


def _limit(name: str, limit: Any) -> str:  # noqa: ANN401 - a number, or a mapping of two
    ends = (limit.get("min"), limit.get("max")) if isinstance(limit, Mapping) else (None, limit)
    least, most = (None if end is None else f"{end:,.4g} ms" if name == "latency" else f"{end:,}" for end in ends)
    if least is None:
        return f"{name} <= {most}"
    return f"{name} >= {least}" if most is None else f"{name} {least} to {most}"


def generated(result: dict[str, Any]) -> str:
    """One line for ``generate``."""
    best = "" if result["best"] is None else f"; best validation accuracy {result['best']:.2%}"
    failed = f", {result['failed']} failed (see the report)" if result["failed"] else ""
    own = ""
    if "part" in result:
        number, parts = result["part"]
        own = f"part {number} of {parts} of a plan of {result['all']}: "
    line = (
        f"generate: {own}{result['planned']} trainings planned, {result['found']} found, {result['trained']} trained"
        f"{failed} in {duration(result['seconds'])}{best}"
    )
    if "rounds" not in result:
        return line
    rounds = [
        f"  after {one['labels']} labels: Kendall tau {one['tau']:.2f} held out, best prediction {one['best']:.2%}"
        for one in result["rounds"]
    ]
    return "\n".join([line, *rounds, f"  {_STOPPED[result['stopped']]}"])


def merged(result: dict[str, Any]) -> str:
    """A line for ``merge``, and one for what differs or is damaged."""
    into, sources = Path(result["into"]).name, ", ".join(result["sources"])
    counts = [f"{result['added'][name]} {words}" for name, words in _MERGED.items() if result["added"][name]]
    if result["added"]["jobs"]:  # that their networks and settings came too goes without saying
        counts = [text for text in counts if not text.endswith(_SAID)]
    line = f"merge: {', '.join(counts) or '0'} added to {into} from {sources}"
    if result["present"]:
        line += f"; {result['present']} results were there already"
    lines = [f"{line}; it {'is new and ' if result['made'] else ''}holds {result['results']} results"]
    if result["differing"]:
        named = ", ".join(f"{one['key']} seed {one['seed']} of {one['stage']}" for one in result["named"])
        more = result["differing"] - len(result["named"])
        lines.append(
            f"  {result['differing']} differing: there already with another label, which stays (devices round "
            f"differently): {named}{f' and {more} more' if more else ''}"
        )
    if result["damaged"]:
        lines.append(f"  {result['damaged']} files of kept weights are damaged and were left out")
    return "\n".join(lines)


_MERGED = {
    "results": "results",
    "jobs": "planned trainings",
    "failures": "failed attempts",
    "weights": "files of weights",
    "architectures": "architectures",
    "settings": "settings of stages",
}
_SAID = ("architectures", "settings of stages")


def timed(result: dict[str, Any]) -> str:
    """A few lines for ``latency``."""
    least, most = result["milliseconds"]
    where = f"; {result['device']}, batch {result['batch']}" if "device" in result else f"; {result['metric']}"
    return (
        f"latency: {result['networks']} networks from {least:.3g} to {most:.3g} ms{where}\n"
        f"  {result['operations']} operations and {result['overhead']:.3g} ms of every network; the sum is off by "
        f"{result['error']:.1%} on average on networks that were held out"
    )


_STOPPED = {
    "settled": "stopped: neither tau nor the best prediction has moved",
    "exhausted": "stopped: nothing within the limits is left to train",
    "generate.architectures": "stopped: as many as generate.architectures allows",
}


def fitted(result: dict[str, Any]) -> str:
    """A few lines for ``fit``."""
    proxy = result.get("proxy")
    lines = [
        f"fit: Kendall tau {'' if proxy is None else 'with the proxy '}on {result['test_size']} held-out architectures "
        f"after {result['train_size']} (larger is better, 95 % interval), {duration(result['seconds'])}"
    ]
    if proxy is not None:
        lines.append(f"  nothing was trained: the target is a proxy, not accuracy{_scoring(proxy)}")
    for name, model in result["models"].items():
        low, high = model["tau_ci95"]
        mean = model["tau_splits"] if result["splits"] > 1 else None
        over = "" if mean is None else f"{mean:8.3f}"
        mark = "  searches" if name == result["model"] else ""
        lines.append(f"  {name:6} {model['tau']:6.3f}  [{low:.3f}, {high:.3f}]{over}{mark}")
    if result["splits"] > 1:
        lines[0] += f"; then its mean over {result['splits']} splits"
    lines += [f"  {line}" for line in trusted(result)]
    noise = result["label_noise"]
    if noise is not None:
        lines.append(
            f"  two trainings of the same architecture agree with tau {noise['tau']:.3f} "
            f"({noise['architectures']} trained twice; one label varies by {noise['standard_deviation']:.2%}),\n"
            f"  so a perfect predictor would reach about {noise['ceiling']:.2f} against single trainings"
        )
    if "replaced" in result:
        lines.append(f"  it took the place of the predictor of {result['replaced']} that was here")
    return "\n".join(lines)


def trusted(result: dict[str, Any]) -> list[str]:
    """How far the order of the predictor that searches holds."""
    trust = result["trust"]
    lines = [] if "proxy" in result else [trust["verdict"]]
    if "proxy" in result and result["models"][result["model"]]["tau_ci95"][0] <= 0:
        lines.append("so few architectures do not show that the predictor is better than chance; score more")
    parts = [f"{trust['precision_top5']:.0%} of its best 5 % are in the measured best 5 %"]
    if trust["tau_same_macs"] is not None:
        parts.append(f"tau {trust['tau_same_macs']:.2f} among architectures of nearly equal MACs")
    if trust["tau_top10"] is not None:
        parts.append(f"{trust['tau_top10']:.2f} in the measured best tenth")
    lines.append(", ".join(parts))
    coverage = ", ".join(f"{level} intervals held {share:.0%}" for level, share in trust["coverage"].items())
    lines.append(f"of the held-out labels, {coverage}")
    curve = trust["learning_curve"]
    if len(curve["labels"]) > 1:
        points = ", ".join(
            f"{tau:.2f} after {labels}" for labels, tau in zip(curve["labels"], curve["tau"], strict=True)
        )
        more = curve["more_labels"]
        text = (
            f"about {more} more labels for +{curve['gain']:.2f}"
            if more is not None
            else (f"how many more labels would give +{curve['gain']:.2f} does not show")
        )
        lines.append(f"tau {points}: {text}")
    return lines


def predicted(entries: list[dict[str, Any]], level: float) -> str:
    """The best architectures for ``predict``."""
    lines = []
    for metric in entries[0]["metrics"]:
        order = sorted(entries, key=lambda entry: -float(entry["metrics"][metric]["predicted"]))
        lines += [
            f"predict: {metric} of {len(entries)} architectures, largest first; {level:.0%} interval; distance to the "
            "nearest labelled architecture (1: as far as those are from each other)"
        ]
        for entry in order[:_MOST_SCORED]:
            value = entry["metrics"][metric]
            low, high = value["interval"]
            lines.append(
                f"  {entry['id']:24}  {value['predicted']:10.6g}  [{low:.6g}, {high:.6g}]  {value['distance']:6.2f}"
            )
        if len(entries) > _MOST_SCORED:
            lines.append(f"  and {len(entries) - _MOST_SCORED} more; --out and --json tell them all")
    return "\n".join(lines)


def predicted_csv(entries: list[dict[str, Any]]) -> str:
    """A CSV of all rows, in the table's order."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{metric}{end}" for metric in entries[0]["metrics"] for end in ("", "_low", "_high", "_distance")]
    writer.writerow(["id", *columns])
    for entry in entries:
        values = [
            number
            for value in entry["metrics"].values()
            for number in (value["predicted"], *value["interval"], value["distance"])
        ]
        writer.writerow([entry["id"], *values])
    return text.getvalue()


def _scoring(proxy: dict[str, Any]) -> str:
    """What a proxy was made of, as far as it is known: a table does not tell."""
    if not proxy:
        return ""
    invalid = f", {proxy['invalid']} of them with an invalid score" if proxy["invalid"] else ""
    return (
        f" (rank by {', '.join(proxy['metrics'])}; {proxy['architectures']} architectures scored in "
        f"{duration(proxy['seconds'])}{invalid})"
    )


_MOST_SCORED = 10


def scored(result: dict[str, Any]) -> str:
    """A table of the best for ``score``."""
    entries, names = result["architectures"], result["metrics"]
    order = "" if len(names) == 1 else ", best first by the sum of log ranks"
    seconds = ", ".join(f"{name} {duration(value)}" for name, value in result["seconds"].items())
    width = max(len(entry["architecture"]) for entry in entries[:_MOST_SCORED])
    lines = [
        f"score: {len(entries)} architectures on {result['images']} training images{order}; higher is better in all, "
        "nothing was trained",
        f"  {'architecture':{width}}  " + "  ".join(f"{name:>12}" for name in names),
    ]
    for entry in entries[:_MOST_SCORED]:
        cells = ["invalid" if value is None else f"{value:.6g}" for value in entry["scores"].values()]
        lines.append(f"  {entry['architecture']:{width}}  " + "  ".join(f"{cell:>12}" for cell in cells))
    if len(entries) > _MOST_SCORED:
        lines.append(f"  and {len(entries) - _MOST_SCORED} more; --out and --json tell them all")
    invalid = [f"{name} {count}" for name, count in result["invalid"].items() if count]
    if invalid:
        lines.append(f"  invalid: {', '.join(invalid)}")
    lines.append(f"  median seconds a network: {seconds}")
    for metric, taus in result["agreement"].items():
        told = ", ".join(f"{name} {_tau(tau).strip()}" for name, tau in taus.items())
        lines.append(f"  Kendall tau with {metric.replace('_', ' ')} of the labels: {told}")
    return "\n".join(lines)


def found(result: dict[str, Any]) -> str:
    """A few lines for ``search``."""
    winner, drawn = result.get("winner", result["evolution"]["best"][0]), result["random"]["best"][0]
    picked = "" if "top" not in result else " (picked by validation among the best)"
    limits = limits_words(result["limits"])
    earlier = result.get("earlier_winner")
    ended = "; no further architecture keeps the limit" if result["evolution"]["exhausted"] else ""
    return "\n".join(
        [
            f"search: {result['evolution']['queries']:,} architectures scored in "
            f"{duration(result['evolution_seconds'])} under {limits}{ended}",
            f"  winner{picked} {winner['architecture']}: predicted {_score(result, winner['predicted'])}, "
            f"{_costs(winner, result['limits'])}, {winner['params']:,} parameters",
            f"  {_trusted_winner(result)}",
            f"  random search with as many queries: predicted {_score(result, drawn['predicted'])}",
            *([f"  the earlier winner and its network are kept in {earlier}"] if earlier else []),
        ]
    )


def taken(result: dict[str, Any]) -> str:
    """A few lines for ``search --take``."""
    winner = result["winner"]
    return (
        f"search: taken as the winner: {winner['architecture']}: predicted {_score(result, winner['predicted'])}, "
        f"{_costs(winner, result['limits'])}\n  {_trusted_winner(result)}"
    )


def best(result: dict[str, Any], count: int) -> str:
    """The best few of ``search``."""
    return "\n".join(["  best:", *(_candidate(result, entry) for entry in result["evolution"]["best"][:count])])


def _candidate(result: dict[str, Any], entry: dict[str, Any]) -> str:
    far = (
        f", {entry['distance']:.1f} times as far from the labelled ones as usual: hardly known" if entry["far"] else ""
    )
    costs = _costs(entry, result["limits"])
    return f"    {entry['architecture']}: predicted {_score(result, entry['predicted'])}, {costs}{far}"


def found_exact(result: dict[str, Any]) -> str:
    """A few lines for ``search --exact``."""
    exact, evolved = result["optimum"], result["evolution"]
    of = (
        "the predictor"
        if result["of"] == "predictor"
        else "a sum over the choices that stands for the predictor, whose own optimum cannot be had here (their orders "
        f"agree with tau {result['agreement']:.2f})"
    )
    gap = result["gap"]
    reached = f"evolution stays {gap:.4g} deviations of the labels below it" if gap > 0 else "evolution reaches it"
    if gap < 0:
        reached = f"evolution lies {-gap:.4g} above it: what was taken for the optimum is none, please report it"
    return "\n".join(
        [
            f"search --exact: by {result['method']}, {result['networks']:,} networks scored, "
            f"{duration(result['seconds'])}, under {limits_words(result['limits'])}; of {of}",
            f"  optimum   {_candidate(result, exact).strip()}",
            f"  evolution {_candidate(result, evolved).strip()} ({evolved['queries']:,} scored)",
            f"  {reached}",
        ]
    )


_MOST_SHOWN = 40


def found_limits(result: dict[str, Any]) -> str:
    """A table for ``search --limits``."""
    others = "" if not result["limits"] else f", besides {limits_words(result['limits'])}"
    lines = [
        f"search --limits: {len(result['winners'])} limits on {result['cost']}{others}; {result['queries']:,} "
        f"architectures scored in {duration(result['seconds'])}"
    ]
    for row in result["winners"]:
        entry = row["winner"]
        text = "nothing keeps it"
        if entry is not None:
            cost = f"{entry[result['cost']]:,}"
            text = f"predicted {_score(result, entry['predicted'])} at {cost}: {entry['architecture']}"
        lines.append(f"  {result['cost']} <= {row['limit']:>12,}  {text}")
    lines.append(f"  front of prediction and {result['cost']}: {len(result['front'])} architectures")
    return "\n".join(lines)


def found_front(result: dict[str, Any]) -> str:
    """A table for ``search --front``."""
    names = [one["name"] for one in result["objectives"]]
    wanted = ", ".join(f"{'most' if one['maximised'] else 'least'} {one['name']}" for one in result["objectives"])
    lines = [
        f"search --front: {wanted}, under {limits_words(result['limits'])}; {result['queries']:,} architectures scored "
        f"in {duration(result['seconds'])}, {len(result['front'])} that nothing dominates",
        "  " + " ".join(f"{name:>14}" for name in names) + "  distance  architecture",
    ]
    entries = result["front"]
    step = max(-(-len(entries) // _MOST_SHOWN), 1)
    for entry in [entry for place, entry in enumerate(entries) if place % step == 0 or place == len(entries) - 1]:
        lines.append(
            "  "
            + " ".join(f"{_objective(name, entry[name]):>14}" for name in names)
            + f"  {entry['distance']:8.1f}  {entry['architecture']}"
        )
    if step > 1:
        lines.append(f"  one in {step} of {len(entries)}; --json and the file have all")
    lines.append(
        "  distance from the nearest labelled one: 1 is as far as those are from each other; from 2 on little is known"
    )
    return "\n".join(lines)


def _objective(name: str, value: float) -> str:
    if "accuracy" in name:
        return f"{value:.2%}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.5g}"


def chosen(result: dict[str, Any]) -> str:
    """A table for ``search --top N --retrain``."""
    top = result["top"]
    lines = [
        f"search: the best {len(top['entries'])} by prediction, trained {_times(top['seeds'])} as the labels "
        f"were; {top['metric'].replace('_', ' ')} on the validation images picks, the test images stay unread"
    ]
    for entry in top["entries"]:
        measured = "failed" if entry["mean"] is None else _score({"metric": top["metric"]}, entry["mean"])
        mark = "*" if entry["key"] == top["picked"] else " "
        lines.append(
            f"  {mark} {entry['architecture']}: predicted {_score(result, entry['predicted'])}, measured {measured}"
        )
    if top["tau"] is not None:
        lines.append(f"  order of predictions and measurements among them: Kendall tau {top['tau']:.2f}")
    lines.append(
        f"  predicted - measured: {_difference(top['metric'], top['optimism'])} on average"
        if top["optimism"] is not None
        else ""
    )
    return "\n".join(line for line in lines if line)


def _difference(metric: str, value: float) -> str:
    return f"{value * 100:+.2f} points" if "accuracy" in metric else f"{value:+.4g}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times each"


def _trusted_winner(result: dict[str, Any]) -> str:
    trust = result["trust"]
    low, high = (_score(result, value) for value in trust["interval"])
    far = trust["distance"]
    return (
        f"an architecture like the labelled ones would lie between {low} and {high} ({trust['level']:.0%} interval); "
        + ("" if "taken" in result else "chosen for its prediction, it is likelier below; ")
        + f"{far:.1f} times as far from them as they are from each other"
    )


def _seeds(accuracies: list[float]) -> str:
    return "1 seed" if len(accuracies) == 1 else f"{len(accuracies)} seeds"


def _costs(entry: dict[str, Any], limits: dict[str, int]) -> str:
    """MACs, and whatever else is limited."""
    others = [name for name in limits if name not in ("macs", "params") and name in entry]
    return ", ".join(
        [f"{entry['macs'] / 1e6:.3f} M MACs", *(f"{name} {_amount(name, entry[name])}" for name in others)]
    )


def _amount(name: str, value: float) -> str:
    return f"{value:,.4g} ms" if name == "latency" else f"{value:,}"


def _score(result: dict[str, Any], value: float) -> str:
    metric = result["metric"]
    if metric == "accuracy":
        return f"{value:.2%}"
    told = f"{value:.2%}" if "accuracy" in metric else f"{value:.6g}"
    return f"{metric.replace('_', ' ')} {told}"


def retrained(result: dict[str, Any]) -> str:
    """A few lines for ``retrain``."""
    lines = [f"retrain: from scratch, accuracy on {result['test_images']} test images, read once a training"]
    for role, entry in result["roles"].items():
        if entry["mean"] is None:
            lines.append(f"  {role.replace('_', ' '):17} failed")
            continue
        spread = entry["standard_deviation"]
        around = "" if spread is None else f" +- {spread:.2%}"
        lines.append(
            f"  {role.replace('_', ' '):17} {entry['mean']:.2%}{around} ({_seeds(entry['test_accuracies'])}), "
            f"{_costs(entry, result['limits'])}"
        )
        if entry.get("robust_accuracy"):
            relative = entry.get("relative_robustness")
            more = f", relative robustness {fmean(relative):.3f}" if relative else ""
            lines.append(f"  {'':17} {fmean(entry['robust_accuracy']):.2%} on corrupted test images{more}")
    lines += _robust_gains(result.get("robust_gains", {}))
    for role, gain in result["gains"].items():
        interval = gain["ci95"]
        within = "" if interval is None else f" [{interval[0] * 100:+.2f}, {interval[1] * 100:+.2f}]"
        lines.append(
            f"  gain over {role.replace('_', ' ')}: {gain['difference'] * 100:+.2f} points{within}"
            + (" (95 % interval over seeds)" if interval else " (one seed: no interval)")
            + (": no difference that these seeds can show" if interval and interval[0] <= 0 <= interval[1] else "")
        )
    if result["model"] is not None:
        lines.append(f"  model.py agrees with the trained network to {result['model']['largest_difference']:.1e}")
    return "\n".join(lines)


def _robust_gains(gains: dict[str, Any]) -> list[str]:
    return [
        f"  gain over {role.replace('_', ' ')} on corrupted images: {gain['difference'] * 100:+.2f} points"
        + (f" [{gain['ci95'][0] * 100:+.2f}, {gain['ci95'][1] * 100:+.2f}]" if gain["ci95"] else "")
        for role, gain in gains.items()
    ]


_KINDS = ("validation", "train", "tse")


def compared(result: dict[str, Any]) -> str:
    """A table for ``fidelity``."""
    full = result["full"]
    lines = [
        f"fidelity: Kendall tau of cheap labels against the full recipe's ({full['epochs']} epochs, "
        f"{full['train_images']:,} images of {full['input_size']}x{full['input_size']}) on {result['architectures']} "
        "architectures",
        "  larger is better, 95 % interval over architectures; cost is exact: epochs x images x MACs",
        "  labels: validation accuracy, training accuracy of the last epoch, minus the sum of training losses (tse)",
        f"  {'setting':28} {'cost':>6} {'seconds':>7}  " + "  ".join(f"{kind:21}" for kind in _KINDS),
    ]
    for name, entry in result["settings"].items():
        taus = "  ".join(_tau(entry["labels"][kind]) for kind in _KINDS if kind in entry["labels"])
        fewer = f"  ({entry['architectures']} only)" if entry["architectures"] < result["architectures"] else ""
        lines.append(f"  {name:28} {entry['cost']:6.1%} {entry['seconds_share']:7.1%}  {taus or 'too few'}{fewer}")
    if result["macs"] is not None:
        lines.append(f"  {'MACs alone, no training':28} {0:6.1%} {0:7.1%}  {_tau(result['macs'])}")
    noise = result["label_noise"]
    if noise is not None:
        lines.append(
            f"  noise: two full trainings agree with tau {noise['tau']:.3f} ({noise['architectures']} trained twice); "
            f"what is free of noise would reach about {noise['ceiling']:.2f}"
        )
    return "\n".join([*lines, *(f"  {line}" for line in picked(result))])


def picked(result: dict[str, Any]) -> list[str]:
    """What a measurement of cheap settings comes to, claiming no more than was measured."""
    threshold, pick = result["threshold"], result["pick"]
    taus = [
        (label["tau"], name, kind)
        for name, entry in result["settings"].items()
        for kind, label in entry["labels"].items()
    ]
    if not taus:
        return ["no pick: too few architectures have a full and a cheap label"]
    if pick is None:
        tau, name, kind = max(taus)
        return [
            f"no pick: none of {len(taus)} labels reaches tau {threshold:g}; the nearest is {name}, {kind}, "
            f"with {tau:.3f} at {result['settings'][name]['cost']:.1%} of the cost"
        ]
    low = pick["tau_ci95"][0]
    lines = [
        f"pick: {pick['setting']}, {pick['label']}: tau {pick['tau']:.3f} at {pick['cost']:.1%} of the cost, "
        f"the cheapest of {len(taus)} labels with at least {threshold:g}"
    ]
    if low < threshold:
        lines.append(
            f"its interval reaches down to {low:.3f}: {result['architectures']} architectures do not show that tau is "
            f"{threshold:g} or more, and being chosen among {len(taus)} flatters it"
        )
    if result["macs"] is not None and result["macs"]["tau"] >= pick["tau"]:
        lines.append("MACs alone rank as well, and cost nothing")
    return lines


def _tau(entry: dict[str, Any]) -> str:
    low, high = entry["tau_ci95"]
    return f"{entry['tau']:6.3f} [{low:5.2f}, {high:5.2f}]"


def evaluated(result: dict[str, Any]) -> str:
    """A table for ``evaluate``."""
    lines = [
        f"Kendall tau on {result['test_size']} held-out architectures after {result['train_size']}, "
        f"{result['trials']} random splits (larger is better)",
        f"  {'model':6} {'tau':>6} {'std':>6}  {'95 % interval':16} {'fit':>9} {'scored/s':>10} {'top 5 %':>8} "
        f"{'80 % held':>9}",
    ]
    if result["features"]:
        lines[0] += f"; with the features {', '.join(result['features'])}"
    for name, model in result["models"].items():
        low, high = model["tau_ci95"]
        lines.append(
            f"  {name:6} {model['tau']:6.3f} {model['tau_std']:6.3f}  [{low:.3f}, {high:.3f}]   "
            f"{duration(model['fit_seconds']):>9} {model['scored_per_second']:>10,.0f} {model['precision_top5']:8.0%} "
            f"{model['coverage']['80%']:9.0%}"
        )
    return "\n".join(lines)


def benched(result: dict[str, Any]) -> str:
    """A table for ``bench``."""
    lines = [
        f"bench: strategy {result['strategy']} on {result['space']}, {result['budget']} networks paid for by "
        f"{result['score']}, {result['trials']} trials"
    ]
    if result["warmup"]:
        lines.append(f"  begun with the best of {result['warmup']:,} random networks by {result['warmup_score']}")
    if result["proxies"]:
        lines.append(f"  the model sees {', '.join(result['proxies'])}")
    lines.append(
        f"  {'data set':10} {'test':>7} {'std':>6} {'optimum':>8} {'regret':>7} {'paid':>6} "
        f"{'proxy calls':>11}  training"
    )
    for name, entry in result["datasets"].items():
        lines.append(
            f"  {name:10} {entry['accuracy']:7.2%} {entry['standard_deviation']:6.2%} {entry['optimum']:8.2%} "
            f"{entry['regret']:7.2%} {entry['evaluations']:6,.0f} {entry['proxy_calls']:11,.0f}  "
            f"{duration(entry['seconds'])}"
        )
    lines.append("  a network that is another one is paid for once; training: 12 epochs each, as the table has them")
    return "\n".join(lines)


def costs(result: dict[str, Any]) -> str:
    """A few lines for ``cost``."""
    from genas.costing import CONVENTION  # not before: doctor speaks where packages are missing

    names = ("macs", "conv_macs", "params", "activations")
    lines = [result["architecture"], *(f"  {name:11} {result[name]:>12,}" for name in names), f"  {CONVENTION}"]
    if "compare" in result:
        lines.append(f"  {'counted by':11} {'macs':>16} {'params':>14}  adds")
        for name, entry in {"genas": result, **result["compare"]}.items():
            added = [f"{value:+,} {rule}" for rule, value in entry.get("differences", {}).items()]
            if entry.get("unexplained"):
                added.append(f"{entry['unexplained']:+,} unexplained")
            lines.append(f"  {name:11} {entry['macs']:>16,} {entry['params']:>14,}  {'; '.join(added)}".rstrip())
        lines.append("  torch: FLOPs of torch.utils.flop_counter / 2; fvcore: its rules, one multiply-add is one FLOP")
    return "\n".join(lines)


def linted(result: dict[str, Any]) -> str:
    """A page for ``space lint``."""
    distinct, sampled = result["distinct"], f"{result['sampled']:,} sampled"
    networks = (
        f"{distinct['networks']:,} distinct networks, {distinct['share']:.1%} of the texts"
        if distinct["exact"]
        else f"{distinct['share']:.1%} of {sampled} are in the canonical form of their network"
    )
    lines = [
        f"space {result['space']}: {result['size']:,} architectures of {result['choices']} choices; {networks}; "
        f"{result['invalid_share']:.1%} of the rows of options are invalid",
        f"  {sampled:13}" + "".join(f" {head:>14}" for head in _percentiles(next(iter(result["costs"].values())))),
    ]
    for name, points in result["costs"].items():
        lines.append(f"  {name:13}" + "".join(f" {value:>14,}" for value in points.values()))
    for name, entry in result["limits"].items():
        lines.append(f"  {limits_words({name: entry['limit']})}: {share(entry['share'])} of the draws")
    if len(result["limits"]) > 1:
        binding = "" if result["binding"] is None else f"; {result['binding']} is the tightest"
        lines.append(f"  within all limits: {share(result['feasible_share'])} of the draws{binding}")
    if result["limits"] and distinct["exact"]:
        lines.append(f"  within the limits: {distinct['within_limits']:,} of {distinct['networks']:,} networks")
    if result["wanted"] is not None:
        lines.append(f"  generate.architectures: {result['found']:,} of {result['wanted']:,} found")
    if result["label_seconds"] is not None:
        lines.append(
            f"  labels: {result['trainings']:,} trainings, about {duration(result['label_seconds'])} with "
            f"{result['workers']} workers (first on {result['device']}), from one timed batch"
        )
    lines += [f"{entry['state']:8} {entry['found']}; mend: {entry['mend']}" for entry in result["findings"]]
    warned = f"{result['warnings'] or 'no'} warning{'' if result['warnings'] == 1 else 's'}"
    wrong = result["wrong"]
    return "\n".join([*lines, f"{wrong or 'Nothing'} {'are' if wrong > 1 else 'is'} wrong, {warned}"])


def _percentiles(points: dict[str, int]) -> list[str]:
    return [f"{point} %" if point.isdigit() else point for point in points]


def share(value: float) -> str:
    """A part of a whole: 81.5%, 3e-7, none."""
    if value >= 0.001:
        return f"{value:.1%}"
    return f"{value:.0e}".replace("e-0", "e-") if value else "none"


def remembered(result: dict[str, Any]) -> str:
    """A few lines for ``memory``."""
    kind = {"cpu": "the CPU", "cuda": "a GPU"}[result["device"]]
    lines = [
        f"memory: peak of a training on {kind} with batches of {result['batch_size']} pictures of "
        f"{result['input_size']}x{result['input_size']} in {result['precision']}; "
        f"{result['device_bytes'] / 1e9:.1f} GB are there"
    ]
    for one in result["networks"]:
        pieces = f", each batch in {one['pieces']} pieces" if one["pieces"] > 1 else ""
        lines.append(
            f"  {one['role']:8} {one['peak_bytes'] / 1e6:10,.0f} MB = {one['fixed_bytes'] / 1e6:,.1f} MB + "
            f"{one['bytes_per_image'] / 1e6:.3f} MB an image; largest batch {one['largest_batch']:,}{pieces}  "
            f"{one['architecture']}"
        )
    lines.append(f"  largest batch and pieces for {result['side_by_side']} side by side")
    return "\n".join(lines)


def examined(result: dict[str, Any]) -> str:
    """A line for each check of ``doctor``, and one for all."""
    lines = []
    for check in result["checks"]:
        mend = f"; mend: {check['mend']}" if check["mend"] else ""
        lines.append(f"{check['state']:8} {check['name']}: {check['found']}{mend}")
    wrong, warnings = result["wrong"], result["warnings"]
    warned = f"{warnings or 'no'} warning{'' if warnings == 1 else 's'}"
    lines.append(f"{wrong or 'Nothing'} {'are' if wrong > 1 else 'is'} wrong, {warned}")
    return "\n".join(lines)


def standing(result: dict[str, Any]) -> str:
    """A few lines for ``status``."""
    lines = [f"{result['run']} in {result['folder']}"]
    for stage, state in result["stages"].items():
        seconds = result["seconds"].get(stage)
        lines.append(f"  {stage:9} {state}" + ("" if seconds is None else f", {duration(seconds)}"))
    for stage in ("generate", "study", "front", "fidelity", "retrain"):
        count = result.get(stage)
        if count and count["planned"]:
            lines.append(
                f"  {stage}: {count['done']} of {count['planned']} trained, {count['running']} running, "
                f"{count['failed']} failed"
            )
            shown = count["failures"][:_MOST_FAILURES]
            lines += [f"    {failure['key']}, seed {failure['seed']}: {failure['kind']}" for failure in shown]
            if len(shown) < len(count["failures"]):
                lines.append(f"    and {len(count['failures']) - len(shown)} more; --json and the report list them all")
    lines += _nodes(result["nodes"]) if "nodes" in result else []
    if result["best"] is not None:
        lines.append(f"  best validation accuracy {result['best']['accuracy']:.2%} ({result['best']['key']})")
    volume = (result.get("front") or {}).get("hypervolume")
    if volume is not None:
        lines.append(f"  front: hypervolume {volume['value']:.4g} {volume['unit']}")
    cheap = result.get("fidelity")
    if cheap and cheap["measured"] is not None:
        lines += [f"  fidelity: {line}" for line in picked(cheap["measured"])]
    if result["tau"] is not None:
        of = result["predictor"]
        what = f"the proxy {of['metric']}, not accuracy" if of["proxy"] else of["metric"]
        lines.append(f"  predictor: Kendall tau {result['tau']['tau']:.3f} with {what}")
    if result["winner"] is not None:
        lines.append(f"  winner {result['winner']['architecture']}, {result['winner']['macs'] / 1e6:.3f} M MACs")
    if result["test"] is not None and result["test"]["winner"]["mean"] is not None:
        lines.append(f"  winner: test accuracy {result['test']['winner']['mean']:.2%}")
    return "\n".join(lines)


def _nodes(nodes: dict[str, Any]) -> list[str]:
    """Where a run trains, or was trained where that is known: one line for a single node."""
    ended = {one["name"]: _ended(one) for one in nodes["trained"]}
    now = nodes["now"]
    if now is not None:
        asked = f", {_count(now['asked'], 'worker')} asked for and not placed" if now["asked"] else ""
        queue = f"{_count(now['waiting'], 'job')} waiting{asked}"
        each = [f"{one['name']}: {_at_work(one)}; {ended.get(one['name'], '0 done')}" for one in now["nodes"]]
    elif any(ended):  # not the empty name alone
        queue = ""
        each = [f"{name or 'not known'}: {told}" for name, told in ended.items()]
    else:
        return []
    if len(each) == 1:
        return [f"  node {each[0]}" + (f"; {queue}" if queue else "")]
    return [f"  {len(each)} nodes" + (f", {queue}" if queue else ""), *(f"    {line}" for line in each)]


def _at_work(node: dict[str, Any]) -> str:
    if node["lost"]:
        return "lost"
    if node["why"]:
        return f"not used: {node['why']}"
    places = "" if node["places"] == node["workers"] else f", {_count(node['places'], 'place')}"
    use = ", ".join(f"{gpu['use']:.0%}" for gpu in node["gpus"])
    busy = f", GPU{'s' if len(node['gpus']) > 1 else ''} {use} busy" if use else ""
    return f"{node['device']}, {node['running']} of {_count(node['workers'], 'worker')} running{places}{busy}"


def _ended(node: dict[str, Any]) -> str:
    failed = ", ".join(f"{kind} {count}" for kind, count in node["failed"].items())
    return (
        f"{node['done']:,} done"
        + (f", {duration(node['seconds'])} of training" if node["done"] else "")
        + (f", {_count(sum(node['failed'].values()), 'attempt')} failed ({failed})" if failed else "")
    )


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def resolved(settings: RunSettings) -> str:
    """The resolved configuration as YAML, values that differ from the defaults marked."""
    return "\n".join(_marked(settings.model_dump(mode="json"), type(settings)().model_dump(mode="json")))


def _marked(values: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    import yaml

    lines: list[str] = []
    for key, value in values.items():
        default = defaults.get(key)
        if value and isinstance(value, dict) and isinstance(default, dict):
            lines += [f"{key}:", *(f"  {line}" for line in _marked(value, default))]
        else:
            first, *others = yaml.safe_dump({key: value}, sort_keys=False).rstrip().split("\n")
            lines += [first if value == default else f"{first}  # set", *others]
    return lines


def planned(result: dict[str, Any], folder: Path) -> str:
    """What a run would do."""
    images = ", ".join(f"{count:,} {name}" for name, count in result["images"].items())
    return "\n".join(
        [
            f"Would use {images} images of {result['classes']} classes, {result['workers']} workers "
            f"(first on {result['device']}), folder {folder}",
            f"generate: {result['trainings']} trainings of about {duration(result['seconds_each'])}, "
            f"about {duration(result['generate_seconds'])} in all",
            *(
                [f"study:    {result['study']} trainings, about {duration(result['study_seconds'])} in all"]
                if result["study"]
                else []
            ),
            f"retrain:  {result['retrainings']} trainings, about {duration(result['retrain_seconds'])} in all",
            *(f"note: {note}" for note in result["notes"]),
            "Expected from one timed batch of an architecture of median MACs; "
            "no result was kept, the images are prepared.",
        ]
    )


def duration(seconds: float) -> str:
    """Seconds in words: 8 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
