"""The plots of a front: error against every cost, and how the search went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from analysis.figures import plain_label
from analysis.front_file import Epoch
from analysis.fronts import Hypervolume, Member, non_dominated, unit_of
from analysis.study_figures import Palette, Plot

_COLORS = ("#4a7fc1", "#d98c1f", "#a8326e", "#2a9d8f", "#7b4fb5", "#8a7340")
"""Of the series in turn; legible on white and on black."""
_MARKS = "os^vP<"
_COSTS = {"params": "parameters (million)", "macs": "MACs per image (million)"}
_DECADES = 2.5  # beyond which only powers of ten are marked
_WIDE = 6.0
"""Values that span more than this ratio are on a logarithmic axis."""
WITHOUT_WEIGHTS = frozenset({"none", "skip_connect", "max_pool_3x3", "avg_pool_3x3"})
"""Operations that a differentiable search prefers while the others have learned little."""


def front_plot(
    members: Sequence[Member], cost: str, reference: tuple[float, float], volumes: Mapping[str, Hypervolume]
) -> Plot:
    """Error against parameters, MACs and each latency, a panel each; a colour a series, its front a step line.

    Args:
        members: of all series.
        cost: what the reference and the volumes are of.
        reference: cost and error, drawn as a cross where its cost is the panel's.
        volumes: of the series that have one, for the legend.
    """
    latencies = list(dict.fromkeys(name for member in members for name in member.latency))
    costs = ["params", "macs", *latencies]
    series = list(dict.fromkeys(member.series for member in members))
    own = {name: [member for member in members if member.series == name] for name in series}
    fronts = {(name, axis): non_dominated(own[name], axis) for name in series for axis in costs}
    rows = tuple(
        (
            member.name, member.series, member.split, member.error, member.images, member.params, member.macs,
            *(member.latency.get(name) for name in latencies), member.note,
            *(int(member in fronts[member.series, axis]) for axis in costs),
        )
        for member in members
    )  # fmt: skip

    def draw(palette: Palette) -> Figure:
        columns = 2 if len(costs) > 1 else 1
        height = -(-len(costs) // columns)
        figure = Figure(figsize=(3.7 * columns, 3.0 * height + 0.5), layout="constrained")
        grid = list(figure.subplots(height, columns, sharey=True, squeeze=False).flat)
        for place, (axes, axis) in enumerate(zip(grid, costs, strict=False)):
            for number, name in enumerate(series):
                _series(axes, own[name], fronts[name, axis], axis, number)
            if axis == cost:
                axes.plot(reference[0] * _scale(axis), 100 * reference[1], "x", color=palette.ink, markersize=8, mew=2)
            _axis(axes, axis, members, reference if axis == cost else None)
            axes.set_xlabel(plain_label(_COSTS.get(axis, f"latency, {axis} (ms)")), parse_math=False)
            if place % columns == 0:
                axes.set_ylabel("error (%)")
        for axes in grid[len(costs) :]:
            axes.set_visible(False)
        handles = [
            Line2D(
                [], [], color=_color(number), marker=_mark(own[name], number), markersize=5,
                label=plain_label(_label(name, volumes.get(name))),
            )
            for number, name in enumerate(series)
        ]  # fmt: skip
        where = f"reference ({_amount(cost, reference[0])}, {100 * reference[1]:g} %)"
        corner = Line2D([], [], color=palette.ink, marker="x", markersize=7, mew=2, linestyle="", label=where)
        figure.legend(
            handles=[*handles, corner], loc="outside upper left", ncols=min(2, len(handles) + 1), handlelength=2.0,
            title=f"volume and 95 % interval ({unit_of(cost)})" if volumes else None, alignment="left",
            title_fontsize=9,
        )  # fmt: skip
        return figure

    split = " and ".join(sorted({member.split for member in members})) or "no"
    caption = (
        f"Error on {split} images against cost, of {len(members)} networks and ensembles. Steps are what no other of "
        f"the same series dominates; what is dominated is pale, diamonds are ensembles. A cross is the reference to "
        f"which volumes are measured."
    )
    head = ("name", "series", "split", "error", "images", "params", "macs")
    times = (f"latency_ms {name}" for name in latencies)
    return Plot("front_error", caption, (*head, *times, "note", *(f"on_front {axis}" for axis in costs)), rows, draw)


def search_plot(history: Sequence[Epoch]) -> Plot:
    """Shares of edges on which operations without weights weigh most, and the loss, epoch by epoch."""
    operations = list(dict.fromkeys(name for one in history for name in one.dominant))
    rows = tuple(
        (
            one.epoch, one.loss, one.accuracy, one.cost, one.skip_share,
            *(one.dominant.get(name, 0.0) for name in operations),
        )
        for one in history
    )  # fmt: skip
    epochs = [one.epoch for one in history]
    light = [100 * sum(one.dominant.get(name, 0.0) for name in WITHOUT_WEIGHTS) for one in history]
    losses = [(one.epoch, one.loss) for one in history if one.loss is not None]

    def draw(_: Palette) -> Figure:
        figure = Figure(figsize=(7.4, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        lines = left.plot(epochs, [100 * one.skip_share for one in history], color=_COLORS[0], label="skips")
        if operations:
            lines += left.plot(epochs, light, "--", color=_COLORS[1], label="all operations without weights")
        left.set_ylim(-3, 103)
        left.set_ylabel("share of edges (%)")
        if losses:
            lines += right.plot(*zip(*losses, strict=True), color=_COLORS[3], label="loss")
        right.set_ylabel("loss")
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.legend(handles=lines, loc="outside upper left", ncols=len(lines), handlelength=2.0)
        return figure

    caption = (
        "Epoch by epoch, the share of the edges on which a skip, or any operation without weights, weighs most, "
        "and the loss. A share that climbs to nearly all edges is a collapse: what has no weights is learned at once, "
        "and is worth little in a trained network."
    )
    columns = ("epoch", "loss", "accuracy", "cost", "skip_share", *(f"dominant {name}" for name in operations))
    return Plot("front_search", caption, columns, rows, draw)


def _series(axes: Axes, members: Sequence[Member], front: Sequence[Member], cost: str, number: int) -> None:
    """Dominated members pale, the front strong and joined by steps."""
    color, mark, ensembles = _color(number), _mark(members, number), any(member.ensemble for member in members)
    rest = _places([member for member in members if member not in front], cost)
    if len(rest):
        axes.scatter(rest[:, 0], rest[:, 1], s=15, color=color, marker=mark, alpha=0.3, linewidths=0, zorder=2)
    best = _places(front, cost)
    if len(best):
        axes.step(*best.T, where="post", color=color, linewidth=1.4, linestyle="--" if ensembles else "-", zorder=3)
        axes.scatter(
            best[:, 0], best[:, 1], s=30 if ensembles else 24, color=color, marker=mark, linewidths=0, zorder=4
        )


def _places(members: Sequence[Member], cost: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Costs as drawn and errors in percent of those that have this cost, shape (members, 2)."""
    known = [(value * _scale(cost), 100 * one.error) for one in members if (value := one.cost(cost)) is not None]
    return np.array(known, np.float64).reshape(-1, 2)


def _axis(axes: Axes, cost: str, members: Sequence[Member], reference: tuple[float, float] | None) -> None:
    """Logarithmic where the values span much, with plain numbers."""
    places = _places(members, cost)
    if reference is not None:
        places = np.vstack([places, [reference[0] * _scale(cost), 100 * reference[1]]])
    ticks = ((axes.xaxis, axes.set_xscale, (1, 2, 5)), (axes.yaxis, axes.set_yscale, (1, 2, 3, 5)))
    for values, (axis, scale, marked) in zip(places.T, ticks, strict=True):
        if len(values) and values.min() > 0 and values.max() > _WIDE * values.min():
            scale("log")
            decades = np.log10(values.max() / values.min())
            axis.set_major_locator(LogLocator(subs=marked if decades <= _DECADES else (1.0,)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(NullLocator())
    axes.margins(0.06)


def _amount(cost: str, value: float) -> str:
    return f"{value * _scale(cost):g} {'M' if cost in _COSTS else 'ms'}"


def _scale(cost: str) -> float:
    return 1e-6 if cost in _COSTS else 1.0


def _color(number: int) -> str:
    return _COLORS[number % len(_COLORS)]


def _mark(members: Sequence[Member], number: int) -> str:
    return "D" if any(member.ensemble for member in members) else _MARKS[number % len(_MARKS)]


def _label(name: str, volume: Hypervolume | None) -> str:
    if volume is None:
        return name
    return f"{name}: {volume.value:.2f} [{volume.low:.2f}, {volume.high:.2f}]"
