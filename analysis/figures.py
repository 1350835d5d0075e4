"""The report's plots, as inline SVG whose colours follow the page, light or dark."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

# Colours that no plot would have by chance; each becomes a variable of the page's style sheet.
INK, MUTED, GRID, FIRST, SECOND, THIRD = (f"#0{number}0{number}0{number}" for number in range(1, 7))
_VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--grid", FIRST: "--first", SECOND: "--second", THIRD: "--third",
}  # fmt: skip
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "genas",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.formatter.useoffset": False,
}

_MOST_MARKS = 5_000
Points = Sequence[tuple[float, float]]


def predicted_against_measured(points: Points, unit: str) -> str:
    """Scatter of (measured, predicted) with the line where the two are equal.

    Args:
        unit: what the numbers are, such as ``validation accuracy (%)``.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _axes(3.9, 3.8)
        values = np.array([value for point in points for value in point])
        low, high = float(values.min()), float(values.max())
        space = (high - low) * 0.06 or 1.0
        ends = (low - space, high + space)
        axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle="--", label="predicted = measured")
        _scatter(axes, points, "a held-out architecture")
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        axes.set_xlabel(plain_label(f"measured {unit}"), parse_math=False)
        axes.set_ylabel(plain_label(f"predicted {unit}"), parse_math=False)
        _legend(figure, axes)
        return svg_text(
            figure, "measured", f"Predicted against measured {unit} of {len(points)} held-out architectures"
        )


def accuracy_against_cost(
    points: Points, winner: tuple[float, float] | None, limit: float | None, cost: str, unit: str
) -> str:
    """Scatter of (cost, accuracy) of the generated architectures, the limit, and the winner's prediction."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes(4.7, 3.5)
        _scatter(axes, points, "generated, measured")
        if winner is not None:
            axes.scatter(*winner, s=150, marker="*", color=SECOND, label="winner, predicted", zorder=4)
        if limit is not None:
            axes.axvline(limit, color=THIRD, linewidth=1.4, linestyle="--", label=f"limit {limit:.6g}")
        axes.set_xlabel(plain_label(cost), parse_math=False)
        axes.set_ylabel(plain_label(unit), parse_math=False)
        axes.margins(0.06)
        _legend(figure, axes)
        return svg_text(figure, "cost", f"{unit} against {cost} of {len(points)} generated architectures")


def tau_against_cost(
    kinds: Mapping[str, Sequence[tuple[float, float, float, float]]],
    threshold: float,
    baseline: float | None,
    pick: tuple[float, float] | None,
) -> str:
    """Kendall tau of cheap labels with its interval against what they cost.

    Args:
        kinds: (cost in percent, tau, lower and upper end of the interval) for each kind of label.
        baseline: tau of MACs alone.
        pick: (cost in percent, tau) of the label that was picked.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _axes(5.2, 3.9)
        shifts, colors = (0.96, 1.0, 1.04), (FIRST, SECOND, THIRD)  # side by side where costs are equal
        for (kind, rows), shift, color, marker in zip(kinds.items(), shifts, colors, "os^", strict=False):
            cost, tau, low, high = np.array(rows).T
            beside = cost * shift
            axes.vlines(beside, low, high, color=color, linewidth=1.2, alpha=0.55)
            axes.plot(beside, tau, marker, color=color, markersize=5, label=kind, zorder=3)
            if pick is not None and pick in zip(cost.tolist(), tau.tolist(), strict=True):
                axes.plot(pick[0] * shift, pick[1], "o", color=INK, markersize=12, fillstyle="none", label="pick")
                pick = None
        axes.axhline(threshold, color=MUTED, linewidth=1.2, linestyle="--", label="threshold")
        if baseline is not None:
            axes.axhline(baseline, color=MUTED, linewidth=1.2, linestyle=":", label="MACs alone")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("cost (% of the full recipe's epochs x images x MACs)")
        axes.set_ylabel("Kendall tau against full labels")
        _legend(figure, axes, 3)
        return svg_text(figure, "fidelity", "Kendall tau of cheap labels against their cost")


def search_curve(evolution: Points, random: Points, unit: str) -> str:
    """Best prediction so far against predictor queries, of evolution and of random search."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes(4.7, 3.3)
        for points, label, color, line in (
            (evolution, "evolution", FIRST, "-"),
            (random, "random search", SECOND, "--"),
        ):
            queries, best = zip(*points, strict=True)
            axes.step(queries, best, where="post", color=color, linestyle=line, linewidth=1.8, label=label)
            axes.plot(queries[-1], best[-1], "o", color=color, markersize=4)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("predictor queries (distinct architectures scored)")
        axes.set_ylabel(plain_label(f"best predicted {unit}"), parse_math=False)
        _legend(figure, axes)
        return svg_text(figure, "search", f"Best predicted {unit} so far against predictor queries")


def front_curve(front: Points, winners: Points, cost: str, unit: str) -> str:
    """Front of (cost, best predicted) and the winner of each limit, drawn at its limit."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes(4.7, 3.3)
        costs, best = zip(*sorted(front), strict=True)
        axes.step(costs, best, where="post", color=FIRST, linewidth=1.6, label="front of all that was scored")
        limits, found = zip(*winners, strict=True)
        axes.scatter(limits, found, s=26, color=SECOND, label="winner of each limit", zorder=3)
        axes.set_xlabel(plain_label(cost), parse_math=False)
        axes.set_ylabel(plain_label(f"predicted {unit}"), parse_math=False)
        axes.margins(0.06)
        _legend(figure, axes)
        return svg_text(figure, "limits", f"Predicted {unit} against {cost}, and the winner of each limit")


def front_points(columns: Sequence[Sequence[float]], units: Sequence[str], marked: int | None) -> str:
    """The first objective of a front's points against the second and, where there is one, the third.

    Args:
        columns: the values of two or three objectives, one for each point.
        marked: the point that is the winner.
    """
    with mpl.rc_context(STYLE):
        others = range(1, len(columns))
        figure = Figure(figsize=(4.2 * len(others), 3.3), layout="constrained")
        for number in others:
            axes = figure.add_subplot(1, len(others), number)
            axes.scatter(columns[number], columns[0], s=22, color=FIRST, alpha=0.65, linewidths=0, label="a network")
            if marked is not None:
                at = columns[number][marked], columns[0][marked]
                axes.scatter(*at, s=150, marker="*", color=SECOND, label="winner", zorder=4)
            axes.set_xlabel(plain_label(units[number]), parse_math=False)
            if number == 1:
                axes.set_ylabel(plain_label(units[0]), parse_math=False)
                handles, labels = axes.get_legend_handles_labels()
            axes.margins(0.06)
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels))
        return svg_text(figure, "front", f"{units[0]} against {', '.join(units[1:])} of {len(columns[0])} networks")


def training_curves(curves: Sequence[tuple[str, Sequence[tuple[int, float, float, float]]]]) -> str:
    """Median and quartiles of accuracy by epoch.

    Args:
        curves: (name, rows of epoch, lower quartile, median and upper quartile in percent).
    """
    with mpl.rc_context(STYLE):
        figure, axes = _axes(4.7, 3.3)
        for (name, rows), color, line in zip(curves, (FIRST, SECOND), ("--", "-"), strict=False):
            epochs, low, middle, high = zip(*rows, strict=True)
            axes.fill_between(epochs, low, high, color=color, alpha=0.22, linewidth=0)
            axes.plot(epochs, middle, line, color=color, linewidth=1.8, marker="o", markersize=3, label=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("accuracy (%)")
        _legend(figure, axes)
        return svg_text(figure, "curves", "Training and validation accuracy by epoch")


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _scatter(axes: Axes, points: Points, label: str) -> None:
    x, y = np.asarray(points, np.float64).T
    many = len(points) > _MOST_MARKS  # as an image inside the SVG, whose colour cannot follow the page
    color, size = ("#4a7fc1", 6) if many else (FIRST, 24)
    axes.scatter(x, y, s=size, color=color, alpha=0.65, linewidths=0, label=label, zorder=3, rasterized=many)


def _legend(figure: Figure, axes: Axes, columns: int | None = None) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=columns or len(labels),
        handlelength=1.6,
        columnspacing=1.1,
        handletextpad=0.5,
    )


def svg_text(figure: Figure, name: str, description: str) -> str:
    """A figure as an element of a page: its colours follow the page, its ids begin with ``name``, no prolog."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would style the whole page
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", text)
    text = text.replace("font-family: 'DejaVu Sans', sans-serif", "font-family: inherit")
    return text.replace("<svg ", f'<svg class="plot" role="img" aria-label="{html.escape(description)}" ', 1)


def plain_label(text: str) -> str:
    """What the plots' font can show."""
    return text.encode("ascii", "replace").decode()
