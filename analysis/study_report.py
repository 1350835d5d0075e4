"""The page of a robustness study: its flaws first, then what holds. One file, no script, no network."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.study import (
    Difference,
    Group,
    Study,
    family_difference,
    grouped,
    has_clean,
    matched_difference,
    trends,
)
from analysis.study_figures import Plot, study_plots
from analysis.words import percent, points
from supernet.files import write_text
from training.corruption_names import CORRUPTIONS

_MINUS = "\N{MINUS SIGN}"


class Table(NamedTuple):
    """A table of the page: what it says in words, then columns and rows of text."""

    title: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_study_report(
    study: Study, path: Path, checks: Sequence[Table] = (), plots: Sequence[Plot] = (), title: str = "Robustness study"
) -> None:
    """Write the page, whole or not at all.

    Args:
        checks: tables that belong to the flaws, shown right after them.
        plots: further plots, such as spectra, after the study's own.

    Raises:
        UnavailableError: the folder cannot be written.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    flaws: dict[str, int] = {}
    for run in study.runs:
        for flaw in run.flaws:
            flaws[flaw] = flaws.get(flaw, 0) + 1
    page = environment.get_template("study.html").render(
        title=title,
        source=study.source,
        notes=study.notes,
        flaws=flaws,
        networks=len({(run.family, run.key, run.train_images) for run in study.runs}),
        checks=checks,
        tables=study_tables(study),
        plots=[*study_plots(study), *plots],
        confounded=confounded(study),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_text(path, page)


def confounded(study: Study) -> str:
    """Why relative robustness must not be read alone."""
    return (
        "Relative robustness is the accuracy under corruption over the clean accuracy. It is confounded by a low clean "
        f"accuracy: a network that guesses has {percent(study.chance, 0)} on any picture, loses nothing, and is at "
        f"{percent(1, 0)}. Families or training sizes of different clean accuracy must not be compared by it; compare "
        "the absolute accuracy, what is left above chance, and networks of equal clean accuracy."
    )


def study_tables(study: Study) -> list[Table]:
    """What a study says: means by group, trends with depth, differences between families."""
    tables = [_means(study)] if study.corruptions else []
    if depth := _depth(study):
        tables.append(depth)
    if study.corruptions and (differences := _differences(study)):
        tables.append(differences)
    return tables


def _means(study: Study) -> Table:
    values = ("clean", "robust", "relative", "chance_corrected")
    found = {value: {group.group: group for group in grouped(study, value=value)} for value in values}
    rows = []
    for family in study.families:
        for images in study.sizes:
            robust = found["robust"].get((family, images))
            if robust is not None:
                cells = [_mean(found[value].get((family, images))) for value in values]
                rows.append((family, f"{images:,}", str(robust.count), *cells))
    which = (
        "15 corruptions and five severities"
        if (study.corruptions, len(study.severities)) == (CORRUPTIONS, 5)
        else f"{len(study.corruptions)} of the 15 corruptions at severities {', '.join(map(str, study.severities))}"
    )
    return Table(
        "Means by family and training images",
        f"In percent, with half of the 95 % interval over networks. Corrupted: the mean over {which}. Relative: "
        "corrupted over clean. Above chance: (corrupted - chance) / (clean - chance). A dash: no clean accuracy on "
        "pictures that the network did not learn from.",
        ("family", "training images", "networks", "clean", "corrupted", "relative", "above chance"),
        tuple(rows),
    )


def _mean(group: Group | None) -> str:
    if group is None or group.mean is None:
        return "\N{EN DASH}"
    half = "" if group.high is None else f" ± {100 * (group.high - group.mean):.1f}"
    return f"{100 * group.mean:.1f}{half}".replace("-", _MINUS)


def _depth(study: Study) -> Table | None:
    rows = []
    for value in ("clean", *(("robust", "relative") if study.corruptions else ())):
        for trend in trends(study, value):
            ends = "too few" if trend.spearman_ci95 is None else _interval(*trend.spearman_ci95)
            rows.append(
                (value, trend.family, f"{trend.train_images:,}", str(trend.count), _number(trend.spearman), ends,
                 _number(trend.kendall), f"{trend.p_value:.3f}")
            )  # fmt: skip
    if not rows:
        return None
    return Table(
        "Does depth help or hurt?",
        "Rank correlation of each number with the convolution layers, inside one family and training size; below 0 "
        "deeper networks are worse. Interval: bootstrap over networks. p: permutations; of many rows some are small by "
        "chance. Depth goes with cost here: that deeper networks are worse does not say that depth is why.",
        ("number", "family", "training images", "networks", "Spearman", "95 %", "Kendall", "p"),
        tuple(rows),
    )


def _differences(study: Study) -> Table | None:
    fair = study.only(has_clean)
    rows = []
    for images in fair.sizes:
        there = sorted({run.family for run in fair.runs if run.train_images == images})
        for first, second in combinations(there, 2):
            cells = [
                *(_difference(family_difference(fair, first, second, images, value))
                  for value in ("clean", "relative")),
                _difference(matched_difference(fair, first, second, images, "robust")),
                _difference(matched_difference(fair, first, second, images, "relative")),
            ]  # fmt: skip
            matched = matched_difference(fair, first, second, images, "robust", resamples=1)
            counts = "none" if matched is None else f"{matched.counts[0]} and {matched.counts[1]}"
            rows.append((f"{first} {_MINUS} {second}", f"{images:,}", *cells, counts))
    if not rows:
        return None
    return Table(
        "Is one family more robust?",
        "Differences in percentage points with 95 % bootstrap intervals over networks. First as they are, then between "
        "networks of equal clean accuracy (least squares on clean accuracy, its square, and family, where both "
        "families have networks). Where the clean accuracy is noisy the adjustment falls short.",
        ("families", "training images", "clean", "relative", "corrupted, equal clean", "relative, equal clean",
         "networks compared"),
        tuple(rows),
    )  # fmt: skip


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return "not comparable"
    if difference.ci95 is None:
        return f"{points(difference.difference)} (too few)"
    return f"{points(difference.difference)} ({points(difference.ci95[0])} to {points(difference.ci95[1])})"


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", _MINUS)


def _interval(low: float, high: float) -> str:
    return f"{_number(low)} to {_number(high)}"
