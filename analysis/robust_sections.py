"""The report's parts about robustness: a study's figures and tables, and feature spectra over depth."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from analysis.parts import Section, Table
from analysis.record import Record
from analysis.study import Study, corruption_error, grouped
from analysis.study_figures import Curve, Plot, spectra_over_depth, study_plots
from analysis.study_report import confounded, study_tables
from supernet import InputError

SPECTRA_UNITS: Mapping[str, str] = {
    "effective_rank": "effective rank (share of channels)",
    "participation_ratio": "participation ratio (share of channels)",
    "directions_95": "directions for 95 % of the variance (share of channels)",
}
"""Measures of spectra that are drawn, by name, and what stands on their axis."""

_TITLES = {
    "clean_against_depth": "Accuracy and depth",
    "robust_against_depth": "Accuracy under corruption and depth",
    "robustness_by_corruption": "Robustness by corruption",
    "robust_against_clean": "Accuracy under corruption and clean accuracy",
    "spectra_effective_rank": "Feature spectra: effective rank",
    "spectra_participation_ratio": "Feature spectra: participation ratio",
    "spectra_directions_95": "Feature spectra: directions",
}


def robust_sections(record: Record) -> list[Section]:
    """What corruptions and smaller sets of images say, and how features vary; nothing where neither was looked at."""
    section = record.config.get("study")
    baseline = section.get("baseline") if isinstance(section, dict) else None
    study = _study(record.study, baseline) if record.study is not None and record.study.runs else []
    spectra = [
        _drawn(spectra_over_depth(_curves(text), f"spectra_{name}", SPECTRA_UNITS[name]))
        for name, text in record.spectra.items()
        if name in SPECTRA_UNITS
    ]
    return [*study, *spectra]


def _study(study: Study, baseline: str | None) -> list[Section]:
    plots = [_drawn(plot) for plot in study_plots(study)]
    tables = [
        Section(f"study-{number}", table.title, text=[table.text], tables=[Table(table.columns, table.rows, 2)])
        for number, table in enumerate(study_tables(study), 1)
    ]
    if baseline in study.families and study.corruptions:
        tables.append(_corruption_errors(study, baseline))
    warning = Section("confounded", "How to read robustness", text=[confounded(study)])
    return [*plots, *([warning] if study.corruptions else []), *tables]


def _corruption_errors(study: Study, baseline: str) -> Section:
    groups = grouped(study, value=corruption_error(study, baseline))
    rows = [
        (family, f"{images:,}", str(group.count), "" if group.mean is None else f"{group.mean:.3f}",
         "" if group.low is None else f"{group.low:.3f} to {group.high:.3f}")
        for group in groups for family, images in [group.group]
    ]  # fmt: skip
    text = (
        f"Error under each corruption over the mean error of the networks of {baseline} on {study.sizes[-1]:,} images, "
        f"then the mean over corruptions (mCE; Hendrycks and Dietterich 2019): 1 is as good as those, lower is better. "
        f"Published numbers have another baseline."
    )
    head = ("family", "training images", "networks", "mCE", "95 % interval over networks")
    return Section("mce", "Mean corruption error", text=[text], tables=[Table(head, rows, 2)])


def _drawn(plot: Plot) -> Section:
    title = _TITLES.get(plot.name, plot.name)
    return Section(plot.name, title, figure=plot.svg, caption=plot.caption, details=[("Plotted data as CSV", plot.csv)])


def _curves(text: str) -> dict[str, dict[str, Curve]]:
    """The curves by family and condition that a figure's CSV holds. Raises InputError for a damaged one."""
    panels: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    try:
        for row in csv.DictReader(io.StringIO(text)):
            points = panels.setdefault(row["family"], {}).setdefault(row["curve"], [])
            points.append(tuple(float(row[name]) for name in ("place", "mean", "low", "high")))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"spectra: the curves of a figure are damaged; run genas spectra again ({error!r})") from error
    return {
        family: {name: Curve(*zip(*points, strict=True)) for name, points in curves.items()}
        for family, curves in panels.items()
    }
