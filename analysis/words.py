"""Numbers and findings in words that claim no more than was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from analysis.record import Evaluation, Fidelity, Gain, LabelNoise, ModelTau, Record, Role

_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"

COSTS = {
    "macs": "MACs",
    "conv_macs": "convolution MACs",
    "params": "parameters",
    "activations": "activation elements",
}

ROLES = {
    "winner": "winner",
    "best_generated": "best generated",
    "random_same_macs": "random, same MACs",
    "vgg": "VGG, same MACs",
    "resnet": "ResNet, same MACs",
    "densenet": "DenseNet, same MACs",
    "mobilenet": "MobileNetV2, same MACs",
}

LABELS = {"validation": "validation accuracy", "train": "training accuracy", "tse": "minus sum of losses"}
"""Kinds of label that a cheap training gives."""


def percent(fraction: float, digits: int = 1) -> str:
    """``0.9321`` as ``93.2 %``."""
    return f"{100 * fraction:.{digits}f}{_SPACE}%".replace("-", _MINUS)


def points(fraction: float, sign: bool = True) -> str:
    """A difference of two fractions in percentage points, without the unit."""
    text = f"{100 * fraction:{'+' if sign else ''}.1f}"
    return ("0.0" if float(text) == 0 else text).replace("-", _MINUS)


def metric(value: float, fraction: bool) -> str:
    """A measured or predicted number: an accuracy in percent, anything else as it is."""
    return percent(value) if fraction else f"{value:.4g}".replace("-", _MINUS)


def cost(name: str, value: float) -> str:
    """``0.743 million MACs``; parameters and activations by their number."""
    return f"{amount(name, value)}{_SPACE}{COSTS.get(name, name)}"


def amount(name: str, value: float) -> str:
    """MACs in millions, other costs by their number."""
    return f"{value / 1e6:,.3f}{_SPACE}million" if name.endswith("macs") else f"{value:,.0f}"


def limits(values: Mapping[str, Any]) -> str:
    """All limits, as ``MACs at most 0.75 million``."""
    return ", ".join(f"{COSTS.get(name, name)} {_limit(name, value)}" for name, value in values.items()) or "no limit"


def _limit(name: str, value: Mapping[str, float | None] | float | str) -> str:
    ends = (value.get("min"), value.get("max")) if isinstance(value, Mapping) else (None, value)
    least, most = (None if end is None else _bound(name, end) for end in ends)
    if least is None:
        return f"at most {most}"
    return f"at least {least}" if most is None else f"from {least} to {most}"


def _bound(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return f"{value} of the reference"
    if name == "latency":
        return f"{value:,.4g}{_SPACE}ms"
    return f"{value / 1e6:,.10g}{_SPACE}million" if name.endswith("macs") else f"{value:,}"


def duration(seconds: float) -> str:
    """``8.2 s``, ``3 min 20 s`` or ``1 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {rest}{_SPACE}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{_SPACE}h {minutes}{_SPACE}min"


def count(number: int, what: str) -> str:
    """``1 training``, ``2 trainings``."""
    return f"{number:,}{_SPACE}{what}" + ("" if number == 1 else "s")


def measured(role: Role) -> str:
    """Mean test accuracy and its spread over seeds."""
    if role.mean is None:
        return "no training ended"
    trained = len(role.test_accuracies)
    if role.standard_deviation is None:
        return f"{percent(role.mean)} (one training, so no spread)"
    return (
        f"{percent(role.mean)} ± {points(role.standard_deviation, sign=False)} (standard deviation of {trained} seeds)"
    )


def gain(value: Gain) -> str:
    """A gain and what it shows."""
    if value.ci95 is None:
        return f"{points(value.difference)} percentage points; with a single training there is no interval"
    low, high = value.ci95
    size = f"{points(value.difference)} percentage points (95{_SPACE}% CI {points(low)} to {points(high)})"
    if low == high:
        return f"{size}: all seeds agreed, so the interval says nothing about the spread"
    if low > 0:
        return f"{size}: better than seeds alone explain"
    if high < 0:
        return f"{size}: worse than seeds alone explain"
    return f"{size}: no difference that these seeds can show"


def trust(evaluation: Evaluation) -> str:
    """How far the predictor's order can be trusted."""
    graph = evaluation.searching
    better = "better one" if evaluation.proxy is None else "one that the proxy prefers"
    pairs = f"of two held-out architectures it names the {better} in about {percent((1 + graph.tau) / 2, 0)} of pairs"
    if graph.tau_ci95[0] <= 0:
        pairs = "so few architectures do not show that it is better than chance"
    return (
        f"Kendall tau {'' if evaluation.proxy is None else 'with a training-free proxy, not accuracy, '}"
        f"{tau(graph.tau)} (95{_SPACE}% CI {interval(graph.tau_ci95)}) on "
        f"{count(evaluation.test_size, 'held-out architecture')}: {pairs}"
    )


def tau(value: float) -> str:
    """Kendall tau with two digits."""
    return f"{value:.2f}".replace("-", _MINUS)


def interval(ends: tuple[float, float]) -> str:
    """Both ends of an interval of Kendall tau."""
    return f"{tau(ends[0])}{_SPACE}to{_SPACE}{tau(ends[1])}"


def tau_and_interval(value: ModelTau) -> str:
    """Kendall tau with its interval in brackets."""
    return f"{tau(value.tau)} [{tau(value.tau_ci95[0])}, {tau(value.tau_ci95[1])}]"


def cheapest(fidelity: Fidelity) -> str:
    """What the measurement of cheap settings comes to."""
    pick, labels = fidelity.pick, sum(len(entry.labels) for entry in fidelity.settings.values())
    if pick is None:
        return f"none of {count(labels, 'cheap label')} reaches Kendall tau {tau(fidelity.threshold)}"
    text = (
        f"{pick.setting}, {LABELS.get(pick.label, pick.label)}, ranks with Kendall tau {tau_and_interval(pick)} at "
        f"{percent(pick.cost)} of the cost: the cheapest of {count(labels, 'label')} with at least "
        f"{tau(fidelity.threshold)}"
    )
    if pick.tau_ci95[0] < fidelity.threshold:
        text += (
            f"; its interval reaches below that, so {count(fidelity.architectures, 'architecture')} do not show that "
            f"it ranks so well, and being chosen among {labels} flatters it"
        )
    if fidelity.macs is not None and fidelity.macs.tau >= pick.tau:
        text += "; MACs alone rank as well, and cost nothing"
    return text


def noise(value: LabelNoise | None, fraction: bool) -> str:
    """How much of a label is chance."""
    if value is None:
        return "not measured: fewer than 3 architectures were trained twice"
    spread = f"{points(value.standard_deviation, sign=False)} percentage points" if fraction else (
        f"{value.standard_deviation:.3g}"
    )  # fmt: skip
    return (
        f"{count(value.architectures, 'architecture')} trained twice: one training has a standard deviation of "
        f"{spread}, and the two orders agree with tau {tau(value.tau)}; a perfect predictor, judged on single "
        f"trainings, would reach about {tau(value.ceiling)}"
    )


def role(name: str) -> str:
    """A role's name on screen."""
    return ROLES.get(name, name)


def standard_error(accuracy: float, images: int) -> str:
    """Of an accuracy measured on so many images (binomial)."""
    return points(math.sqrt(accuracy * (1 - accuracy) / max(images, 1)), sign=False)


def title(record: Record) -> str:
    """The line under the title: data source, limit."""
    known = record.config or record.search is not None
    limit = limits(record.limits) if known else "not recorded"
    return f"Images: {record.source or 'not recorded'} · limit: {limit}"
