"""Fronts of error against cost: what stands on one, and what a front as a whole is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Member:
    """One trained network, or an ensemble, on a plane of error against cost.

    Attributes:
        name: key of the architecture, or the name under which it was published.
        series: what found it, such as ``preferences`` or ``published``: one colour in a figure.
        error: a fraction, lower is better.
        images: how many images the error is over.
        split: ``validation`` or ``test``.
        params, macs: of one image's forward pass; of an ensemble those of all its members.
        latency: milliseconds by place and batch, such as ``cpu batch 1``.
        note: a few words more, such as the preference or the width.
    """

    name: str
    series: str
    error: float
    images: int
    split: str
    params: int
    macs: int
    latency: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def cost(self, name: str) -> float | None:
        """``params``, ``macs`` or a latency by its name, lower is better; None where it was not measured."""
        if name in ("params", "macs"):
            return float(getattr(self, name))
        return self.latency.get(name)
