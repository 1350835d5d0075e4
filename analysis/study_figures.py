"""The plots of a robustness study. Each is SVG text, and has a CSV of exactly what it draws."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures import GRID, INK, MUTED, STYLE, plain_label, svg_text
from analysis.study import (
    CORRUPTION_GROUPS,
    TRAINING_FLAW,
    Study,
    StudyRun,
    by_network,
    chance_corrected,
    corruption_accuracy,
    csv_text,
    has_clean,
    mean_interval,
    measures,
    relative_robustness,
)
from supernet.files import write_bytes, write_text

_SIZES = ("#d98c1f", "#c8553d", "#a8326e", "#7b4fb5", "#4a7fc1", "#2a9d8f")
"""Of few training images to many; legible on white and on black."""
_MARKS = "osD^vP"
_FAMILIES = {"vgg": "VGG", "resnet": "ResNet", "densenet": "DenseNet"}
_FEWEST_IN_BIN = 8
_MOST_BINS = 8
_FEW_POINTS = 40
_MOST_SHAPES = 400
"""Of more points the SVG has an image of them: it would be megabytes long."""

MEASURE_WORDS: Mapping[str, str] = {
    "clean": "clean accuracy (%)",
    "robust": "accuracy under corruption (%)",
    "relative": "relative robustness (%)",
    "chance_corrected": "relative robustness above chance (%)",
}


class Palette(NamedTuple):
    """Colours of text, of ticks and marks, of the grid; and of what is behind them."""

    ink: str
    muted: str
    grid: str


_PAGE = Palette(INK, MUTED, GRID)
_PAPER = Palette("#1b1e23", "#5c6670", "#dfe3e8")


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot and its data.

    Attributes:
        name: fit for a file.
        caption: what is drawn, in words, with what a reader must not take from it.
        columns: names of the CSV's columns.
        rows: exactly what is drawn; accuracies are fractions.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    draw: Callable[[Palette], Figure]

    @property
    def svg(self) -> str:
        """An element for a page, whose colours follow it."""
        return self._svg(_PAGE)

    @property
    def csv(self) -> str:
        """The rows under a header."""
        return csv_text(self.columns, self.rows)

    def write(self, folder: Path, png: bool = False) -> list[Path]:
        """Write ``NAME.svg``, ``NAME.csv`` and, if asked, ``NAME.png``; the SVG stands for itself, on white.

        Raises UnavailableError where the folder cannot be written.
        """
        svg, table, picture = (folder / f"{self.name}{end}" for end in (".svg", ".csv", ".png"))
        text = self._svg(_PAPER).replace("font-family: inherit", "font-family: 'DejaVu Sans', Arial, sans-serif")
        background = f'{text[: text.index(">") + 1]}<rect width="100%" height="100%" fill="#ffffff"/>'
        write_text(svg, f'<?xml version="1.0" encoding="utf-8"?>\n{background}{text[text.index(">") + 1 :]}\n')
        write_text(table, self.csv)
        if not png:
            return [svg, table]
        write_bytes(picture, self._png())
        return [svg, table, picture]

    def _svg(self, palette: Palette) -> str:
        with mpl.rc_context(_style(palette)):
            return svg_text(self.draw(palette), re.sub(r"\W", "-", self.name), self.caption.partition(". ")[0])

    def _png(self) -> bytes:
        with mpl.rc_context(_style(_PAPER)):
            file = io.BytesIO()
            self.draw(_PAPER).savefig(file, format="png", dpi=150, facecolor="#ffffff")
        return file.getvalue()


def _style(palette: Palette) -> dict[Any, Any]:
    swapped = dict(zip(_PAGE, palette, strict=True))
    return {name: swapped.get(value, value) if isinstance(value, str) else value for name, value in STYLE.items()}


def study_plots(study: Study) -> list[Plot]:
    """All that a study has the numbers for; of networks: their seeds are averaged."""
    study = by_network(study)
    plots = [accuracy_against_depth(study, "clean")]
    if study.corruptions:
        plots += [accuracy_against_depth(study, "robust"), robustness_by_corruption(study)]
        if any(map(has_clean, study.runs)):
            plots.append(robust_against_clean(study))
    return plots


def write_figures(study: Study, folder: Path, png: bool = False) -> list[Path]:
    """Write each plot as SVG and CSV, and as PNG if asked. Returns the paths; raises as :meth:`Plot.write`."""
    return [path for plot in study_plots(study) for path in plot.write(folder, png)]


# Accuracy against depth


def accuracy_against_depth(study: Study, value: str = "clean") -> Plot:
    """Accuracy against convolution layers, a panel a family, a colour a number of training images.

    Points are networks; lines join the means of bins of as many networks each, drawn at the mean of their depth.

    Args:
        value: a measure of :func:`analysis.study.measures`; ``clean`` draws training accuracies too, and says so.
    """
    number = (lambda run: run.clean) if value == "clean" else measures(study)[value]
    points: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for run in study.runs:
        amount = number(run)
        if amount is not None:
            points.setdefault((run.family, run.train_images), []).append((float(run.convolutions), float(amount)))
    bins = {group: _binned(own) for group, own in points.items()}
    rows: list[tuple[object, ...]] = []
    for family, images in sorted(points):
        rows += [("network", family, images, depth, amount, None, None, 1) for depth, amount in points[family, images]]
        rows += [("bin", family, images, *row) for row in bins[family, images]]
    trained_on = _trained_on(study) if value == "clean" else set()

    def draw(palette: Palette) -> Figure:
        families = sorted({family for family, _ in points})
        figure, grid = _panels(1, len(families))
        for axes, family in zip(grid[0], families, strict=True):
            axes.set_title(plain_label(_FAMILIES.get(family, family)), parse_math=False)
            for images, (color, mark) in _colors(study).items():
                if (family, images) not in points:
                    continue
                depth, amount = np.array(points[family, images]).T
                axes.scatter(
                    depth, 100 * amount, color=color, marker=mark, zorder=2, **_points(points, 0.28),
                    rasterized=len(rows) > _MOST_SHAPES,
                )  # fmt: skip
                if bins[family, images]:
                    middle, mean, low, high, _ = np.array(bins[family, images]).T
                    axes.fill_between(middle, 100 * low, 100 * high, color=color, alpha=0.25, linewidth=0, zorder=3)
                    line = "--" if (family, images) in trained_on else "-"
                    axes.plot(middle, 100 * mean, line, color=color, linewidth=2, zorder=4)
            axes.set_xlabel("convolution layers")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if value in ("clean", "robust"):
                axes.axhline(100 * study.chance, color=palette.muted, linewidth=1, linestyle=":")
        grid[0][0].set_ylabel(MEASURE_WORDS.get(value, value))
        words = {
            images: " (on training images)" if any(size == images for _, size in trained_on) else ""
            for images in study.sizes
        }
        _size_legend(figure, study, {images for _, images in points}, words, line=any(bins.values()))
        return figure

    what = {"clean": "Clean accuracy", "robust": "Mean accuracy under corruption"}.get(value, MEASURE_WORDS[value])
    caption = (
        f"{what} against convolution layers. A point is a network; lines join means of bins of about as many networks "
        "each, with the 95 % interval of the mean; dotted: a guess."
    )
    columns = ("kind", "family", "train_images", "convolutions", value, "low", "high", "networks")
    return Plot(f"{value}_against_depth", caption + _scope(study, value), columns, tuple(rows), draw)


def _binned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float, float, float, int]]:
    """Mean depth, mean value, its interval and networks of bins by depth, equal depths never parted."""
    ordered = np.array(sorted(points))
    count = min(_MOST_BINS, len(ordered) // _FEWEST_IN_BIN)
    if count < 2:
        return []
    edges = np.quantile(ordered[:, 0], np.linspace(0, 1, count + 1)[1:-1])
    place = np.searchsorted(edges, ordered[:, 0], side="left")
    result = []
    for number in range(count):
        own = ordered[place == number]
        if len(own) >= _FEWEST_IN_BIN // 2:
            mean, _, low, high = mean_interval(own[:, 1])
            assert mean is not None
            assert low is not None
            assert high is not None
            result.append((float(own[:, 0].mean()), mean, low, high, len(own)))
    return result


# By corruption


def robustness_by_corruption(study: Study) -> Plot:
    """Relative robustness and accuracy under each corruption, side by side, a row of panels a family.

    Means over networks with 95 % intervals; dashed: the mean over the corruptions. Runs whose clean accuracy is on
    training images have no relative robustness and are in the right panels alone.
    """
    corruptions, severities = study.corruptions, study.severities

    def relative(run: StudyRun, name: str) -> float | None:
        return relative_robustness(run, name, severities=severities) if has_clean(run) else None

    def absolute(run: StudyRun, name: str) -> float | None:
        return corruption_accuracy(run, name, severities)

    rows: list[tuple[object, ...]] = []
    drawn: dict[tuple[str, str, int], list[tuple[int, float, float, float]]] = {}
    for family in study.families:
        for images in study.sizes:
            runs = [run for run in study.runs if (run.family, run.train_images) == (family, images)]
            for measure, number in (("relative", relative), ("robust", absolute)):
                for place, name in enumerate(corruptions):
                    values = [value for run in runs if (value := number(run, name)) is not None]
                    mean, _, low, high = mean_interval(values)
                    if mean is not None:
                        ends = (mean if low is None else low, mean if high is None else high)
                        drawn.setdefault((measure, family, images), []).append((place, mean, *ends))
                        rows.append((measure, family, images, _group(name), name, mean, low, high, len(values)))
                if (measure, family, images) in drawn:
                    mean = float(np.mean([row[1] for row in drawn[measure, family, images]]))
                    rows.append((measure, family, images, "mean", "mean", mean, None, None, len(runs)))

    def draw(palette: Palette) -> Figure:
        figure, grid = _panels(len(study.families), 2, width=5.4, height=2.7, bottom=0.7, share="col")
        colors = _colors(study)
        for row, family in zip(grid, study.families, strict=True):
            for axes, measure in zip(row, ("relative", "robust"), strict=True):
                _corruption_axis(axes, corruptions, palette, labels=row is grid[-1])
                shown = [images for images in study.sizes if (measure, family, images) in drawn]
                for number, images in enumerate(shown):
                    color, mark = colors[images]
                    place, mean, low, high = np.array(drawn[measure, family, images]).T
                    beside = place + (number - (len(shown) - 1) / 2) * 0.12
                    axes.vlines(beside, 100 * low, 100 * high, color=color, linewidth=1.1, alpha=0.7)
                    axes.plot(beside, 100 * mean, mark, color=color, markersize=3.6, zorder=3)
                    axes.axhline(100 * mean.mean(), color=color, linewidth=1, linestyle=(0, (4, 3)), alpha=0.8)
                name = _FAMILIES.get(family, family)
                what = "relative to clean" if measure == "relative" else "absolute"
                axes.set_title(plain_label(f"{name}, {what}"), parse_math=False, pad=16)
            row[0].set_ylabel("corrupted / clean (%)")
            row[1].set_ylabel("accuracy (%)")
            row[1].axhline(100 * study.chance, color=palette.muted, linewidth=1, linestyle=":")
        _size_legend(figure, study, {images for _, _, images in drawn})
        return figure

    caption = (
        "Accuracy by corruption, relative to the clean accuracy (left) and as it is (right). Means over networks with "
        "95 % intervals; dashed: the mean over the corruptions; dotted: a guess. The relative number alone misleads: "
        "the less a network has learned, the less it can lose, and one that guesses is at 100 %."
    )
    columns = ("measure", "family", "train_images", "group", "corruption", "mean", "low", "high", "networks")
    return Plot("robustness_by_corruption", caption + _scope(study, "robust"), columns, tuple(rows), draw)


def robust_against_clean(study: Study) -> Plot:
    """Accuracy under corruption against clean accuracy: families compare where their clean accuracies are equal."""
    value, relative = measures(study)["robust"], measures(study)["relative"]
    rows: list[tuple[object, ...]] = []
    points: dict[tuple[str, int], list[tuple[float, float]]] = {}
    which: dict[str, Any] = {"corruptions": study.corruptions, "severities": study.severities}
    for run in study.runs:
        robust = value(run)
        if has_clean(run) and robust is not None:
            points.setdefault((run.family, run.train_images), []).append((run.clean, robust))
            corrected = chance_corrected(run, study.chance, **which)
            rows.append((run.family, run.train_images, run.key, run.seed, run.clean, robust, relative(run), corrected))

    def draw(palette: Palette) -> Figure:
        families = sorted({family for family, _ in points})
        figure, grid = _panels(1, len(families), width=4.0, height=3.6)
        ends = [number for own in points.values() for pair in own for number in pair]
        low, high = 100 * min([*ends, study.chance]), 100 * max([*ends, study.chance])
        for axes, family in zip(grid[0], families, strict=True):
            axes.set_title(plain_label(_FAMILIES.get(family, family)), parse_math=False)
            axes.plot([low, high], [low, high], color=palette.muted, linewidth=1, linestyle=":")
            chance = 100 * study.chance
            for left in (0.9, 0.8, 0.7):
                axes.plot(
                    [chance, high], [chance, chance + left * (high - chance)],
                    color=palette.muted, linewidth=0.8, linestyle=(0, (5, 4)), alpha=0.7,
                )  # fmt: skip
                axes.annotate(
                    f"{left:.0%}".replace("%", " %"), (high, chance + left * (high - chance)), xytext=(3, 0),
                    textcoords="offset points", fontsize=8, color=palette.muted, va="center", annotation_clip=False,
                )  # fmt: skip
            for images, (color, mark) in _colors(study).items():
                if (family, images) in points:
                    clean, robust = 100 * np.array(points[family, images]).T
                    axes.scatter(
                        clean, robust, color=color, marker=mark, zorder=3, **_points(points, 0.4),
                        rasterized=len(rows) > _MOST_SHAPES,
                    )  # fmt: skip
            axes.set(xlim=(low - 1, high + 1), ylim=(low - 1, high + 1))
            axes.set_xlabel("clean accuracy (%)")
        grid[0][0].set_ylabel("accuracy under corruption (%)")
        _size_legend(figure, study, {images for _, images in points})
        return figure

    caption = (
        "Accuracy under corruption against clean accuracy, a point a network. Dotted: nothing lost; dashed: a share of "
        "what is above a guess is left. Families compare where their clean accuracies are the same."
    )
    columns = ("family", "train_images", "key", "seed", "clean", "robust", "relative", "chance_corrected")
    return Plot("robust_against_clean", caption + _scope(study, "robust"), columns, tuple(rows), draw)


def _group(corruption: str) -> str:
    return next(group for group, names in CORRUPTION_GROUPS.items() if corruption in names)


def _corruption_axis(axes: Axes, corruptions: Sequence[str], palette: Palette, labels: bool) -> None:
    """Names below the last row, the groups' names above, lines between groups."""
    axes.set_xticks(range(len(corruptions)))
    if labels:
        names = [name.replace("_", " ").removesuffix(" compression").removesuffix(" transform") for name in corruptions]
        axes.set_xticklabels(names, rotation=55, ha="right", rotation_mode="anchor", fontsize=8.5)
    else:
        axes.set_xticklabels([])
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.6, len(corruptions) - 0.4)
    groups = [_group(name) for name in corruptions]
    for group in dict.fromkeys(groups):
        first, last = groups.index(group), len(groups) - 1 - groups[::-1].index(group)
        if first:
            axes.axvline(first - 0.5, color=palette.muted, linewidth=0.8, alpha=0.6)
        axes.annotate(
            group, ((first + last) / 2, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
            textcoords="offset points", ha="center", fontsize=8.5, color=palette.muted,
        )  # fmt: skip


# Spectra over depth


class Curve(NamedTuple):
    """A number by depth: places (such as 0 first layer to 1 last), means, lower and upper ends, all of one length."""

    places: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def spectra_over_depth(
    panels: Mapping[str, Mapping[str, Curve]],
    name: str = "spectra_over_depth",
    unit: str = "effective rank (share of channels)",
    place: str = "depth (first layer 0, last layer 1)",
) -> Plot:
    """Curves of a spectrum's number over depth, a panel a family.

    Args:
        panels: for each family the curves by label. A label is what was shown to the network and, after a comma, what
            else sets the curve apart: ``clean, 1,000 images`` and ``fog 5, 1,000 images`` share a colour. Those that
            begin with ``clean`` are solid, others dashed.
        unit: of the number, as on the axis.
        place: what the places are.
    """
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    rest = list(dict.fromkeys(_rest(label) for label in labels))
    rows = tuple(
        (family, label, *row)
        for family, curves in panels.items()
        for label, curve in curves.items()
        for row in zip(*curve, strict=True)
    )

    def draw(_: Palette) -> Figure:
        figure, grid = _panels(1, max(1, len(panels)))
        handles: dict[str, Line2D] = {}
        for axes, (family, curves) in zip(grid[0], panels.items(), strict=False):
            axes.set_title(plain_label(_FAMILIES.get(family, family)), parse_math=False)
            for label, curve in curves.items():
                color = _spaced(len(rest))[rest.index(_rest(label))]
                shade, line = (0.18, "-") if label.startswith("clean") else (0.1, (0, (5, 2)))
                axes.fill_between(curve.places, curve.low, curve.high, color=color, alpha=shade, linewidth=0)
                (handles[label],) = axes.plot(
                    curve.places, curve.mean, linestyle=line, color=color, linewidth=1.8, label=plain_label(label)
                )
            axes.set_xlabel(plain_label(place), parse_math=False)
        grid[0][0].set_ylabel(plain_label(unit), parse_math=False)
        shown = [handles[label] for label in labels]
        figure.legend(
            handles=shown, loc="outside upper left", ncols=_columns(len(shown), len(grid[0])), handlelength=2.4
        )
        return figure

    caption = (
        f"{unit[0].upper()}{unit[1:]} over depth. Means over networks with their intervals; solid: clean, dashed: "
        "corrupted."
    )
    columns = ("family", "curve", "place", "mean", "low", "high")
    return Plot(name, caption, columns, rows, draw)


def _rest(label: str) -> str:
    return label.partition(", ")[2] or label


# Shared


def _panels(
    rows: int,
    columns: int,
    width: float = 4.0,
    height: float = 3.1,
    bottom: float = 0.4,
    share: bool | Literal["col"] = True,
) -> tuple[Figure, list[list[Axes]]]:
    """Small multiples with a shared y axis, and room for a legend above."""
    width = max(width, 5.4) if columns == 1 else width
    figure = Figure(figsize=(width * columns, height * rows + bottom), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=share, squeeze=False)
    return figure, [list(row) for row in grid]


def _spaced(count: int) -> list[str]:
    """So many colours, as far apart as the row of colours allows, again from the first where there are too few."""
    if count > len(_SIZES):
        return [_SIZES[number % len(_SIZES)] for number in range(count)]
    places = np.linspace(len(_SIZES) - 1, 0, count).round().astype(int)[::-1] if count > 1 else [4]
    return [_SIZES[place] for place in places]


def _colors(study: Study) -> dict[int, tuple[str, str]]:
    """Colour and mark of each number of training images."""
    sizes = study.sizes
    marks = (_MARKS[number % len(_MARKS)] for number in range(len(sizes)))
    return dict(zip(sizes, zip(_spaced(len(sizes)), marks, strict=True), strict=True))


def _points(groups: Mapping[Any, Sequence[Any]], alpha: float) -> dict[str, Any]:
    """Size and strength of points: pale and small where they are many."""
    few = max(map(len, groups.values()), default=0) <= _FEW_POINTS
    return {"s": 22 if few else 9, "alpha": 0.85 if few else alpha, "linewidths": 0}


def _trained_on(study: Study) -> set[tuple[str, int]]:
    return {(run.family, run.train_images) for run in study.runs if TRAINING_FLAW in run.flaws}


def _size_legend(
    figure: Figure, study: Study, shown: set[int], words: Mapping[int, str] | None = None, line: bool = False
) -> None:
    handles = []
    for images, (color, mark) in _colors(study).items():
        if images in shown:
            more = words.get(images, "") if words else ""
            style: Literal["", "-", "--"] = ("--" if more else "-") if line else ""
            handles.append(
                Line2D(
                    [], [], color=color, marker=mark, markersize=4.5, linestyle=style, label=f"{images:,}{more}"
                )
            )  # fmt: skip
    figure.legend(
        handles=handles, loc="outside upper left", title="training images", alignment="left", title_fontsize=9,
        ncols=len(handles), handlelength=1.8 if line else 0.8, columnspacing=1.1, handletextpad=0.5,
    )  # fmt: skip


def _columns(entries: int, panels: int) -> int:
    return max(1, min(entries, 2 * panels))


def _scope(study: Study, value: str) -> str:
    """Of which corruptions the mean is, where it is not of all 15 and five severities."""
    if value == "clean" or (len(study.corruptions), len(study.severities)) == (15, 5):
        return ""
    severities = ", ".join(map(str, study.severities))
    return (
        f" Corruptions: {len(study.corruptions)} of the 15, at severities {severities}: no published number compares."
    )
