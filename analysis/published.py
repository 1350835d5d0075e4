"""The published table of random chains (3,653 trained networks, 19 corruptions), checked, mended and told of its flaws.

Its faults are of the source. Of each row is kept what was really trained, and said what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.study import (
    TRAINING_FLAW,
    Study,
    StudyRun,
    csv_lines,
    has_clean,
    relative_robustness,
    robust_accuracy,
    write_rows,
)
from analysis.study_figures import write_figures
from analysis.study_report import Table, write_study_report
from supernet.families import Families, used_nodes
from supernet.graph import ArchGraph
from supernet.settings import InputError, nearest
from supernet.table import LabelRow, LabelTable, write_table
from training.corruption_names import CORRUPTIONS, EXTRA

HALF_FLAW = "every second listed node was computed for nothing; the network here is what was computed"
"""Of the ResNets, see :func:`supernet.families.used_nodes`."""

_STEMS = {"densenet": "large", "resnet": "none", "vgg": "none"}
_ALL = (*CORRUPTIONS, *EXTRA)
_COLUMNS = ("family", "run", "num_train", "num_depth", "num_conv_layers", "normal", *_ALL, "arch")
_ALL_IMAGES = 50_000
"""Training pictures that there are: a network that learned from all was tested on them."""
_BATCH = 128
_FEW_PICTURES = 1_000
_CONVOLUTIONS = {"sep": 4, "res": 2}


def read_published(path: Path) -> Study:
    """The runs of the published CSV, one of ``family``, ``run``, ``num_train`` each.

    ``architecture`` and ``convolutions`` are of the network that was computed, convolutions counted as the table does:
    4 of a separable block, 2 of a residual block and of a dense layer, 1 of a DenseNet's stem, none of transitions.

    Raises:
        InputError: with file and line, for a file that cannot be read, a missing column, a number that is none or
            outside its range, an unknown family, an architecture that cannot be parsed, or a run given twice.
    """
    runs: list[StudyRun] = []
    lines: dict[str, int] = {}
    for number, line in csv_lines(path, _COLUMNS):
        try:
            run = _run(line)
            if run.key in lines:
                raise InputError(f"run {run.key!r} was given in line {lines[run.key]} already")
        except ValueError as error:
            raise InputError(f"{path}:{number}: {error}") from error
        lines[run.key] = number
        runs.append(run)
    if not runs:
        raise InputError(f"{path}: no rows; expected one trained network a line")
    runs = _with_costs(runs)
    return Study(tuple(runs), f"{path.name}: {len(runs):,} networks, one training each", _notes(runs))


def _run(line: Mapping[str, str]) -> StudyRun:
    family = line["family"]
    if family not in _STEMS:
        raise InputError(f"family {family!r:.60} does not exist; {nearest(family, _STEMS)}")
    images, position, listed = (_whole(line, name) for name in ("num_train", "run", "num_conv_layers"))
    text = used_nodes(line["arch"])
    every = published_space(family).parse(line["arch"])
    published_space(family).parse(text)
    flaws = []
    clean = _fraction(line, "normal")
    if images >= _ALL_IMAGES:
        flaws.append(TRAINING_FLAW)
    elif images <= _FEW_PICTURES and _is_multiple(clean, images // _BATCH * _BATCH):
        flaws.append(f"clean accuracy is of {images // _BATCH * _BATCH} pictures only")
    names = published_space(family).format(every)
    if names != text:
        flaws.append(HALF_FLAW)
    if _convolutions(names, family) != listed:
        flaws.append(f"num_conv_layers is {listed}, its architecture lists {_convolutions(names, family)}")
    cells = {name: _fraction(line, name) for name in _ALL}
    key = f"{family}-{images}-{position}"
    return StudyRun(
        key, text, family, images, 0, _convolutions(text, family), None, None, clean, cells, tuple(flaws)
    )  # fmt: skip


def _whole(line: Mapping[str, str], name: str) -> int:
    try:
        value = int(line[name])
    except ValueError as error:
        raise InputError(f"{name}: expected a whole number, got {line[name]!r:.60}") from error
    if not 0 <= value < 2**31:
        raise InputError(f"{name}: expected a whole number from 0, got {value}")
    return value


def _fraction(line: Mapping[str, str], name: str) -> float:
    try:
        value = float(line[name])
    except ValueError as error:
        raise InputError(f"{name}: expected an accuracy from 0 to 1, got {line[name]!r:.60}") from error
    if not 0 <= value <= 1:
        raise InputError(f"{name}: expected an accuracy from 0 to 1, got {value}")
    return value


def _convolutions(text: str, family: str) -> int:
    """As the published table counts them."""
    count = int(family == "densenet")
    for word in text.split():
        if word.startswith("dense"):
            count += 2 * int(word.split("x")[1])
        else:
            count += _CONVOLUTIONS.get(word[:3], 0)
    return count


@lru_cache(maxsize=len(_STEMS))
def published_space(family: str) -> Families:
    """The space that the networks of a family are in as they were trained: 32 pixels, 10 classes, the published stem.

    Raises InputError for an unknown family.
    """
    if family not in _STEMS:
        raise InputError(f"family {family!r:.60} does not exist; {nearest(family, _STEMS)}")
    return Families.model_validate({"family": family, "classes": 10, "stem": _STEMS[family], "depth": (1, 100)})


def network_graph(run: StudyRun) -> ArchGraph:
    """The graph of the network that a row's training computed. Raises InputError for a family that has no space."""
    space = published_space(run.family)
    return space.graph(space.parse(run.architecture))


def _with_costs(runs: list[StudyRun]) -> list[StudyRun]:
    """The same with MACs and parameters, all of a family at once."""
    found: dict[str, tuple[int, int]] = {}
    for family in sorted({run.family for run in runs}):
        space, own = published_space(family), [run for run in runs if run.family == family]
        costs = space.costs(np.array([space.parse(run.architecture).choices for run in own], np.int8))
        found |= {
            run.key: (int(macs), int(params))
            for run, macs, params in zip(own, costs["macs"], costs["params"], strict=True)
        }
    return [
        StudyRun(
            run.key, run.architecture, run.family, run.train_images, run.seed, run.convolutions, *found[run.key],
            run.clean, run.cells, run.flaws,
        )
        for run in runs
    ]  # fmt: skip


# What is wrong with it


def _notes(runs: list[StudyRun]) -> tuple[str, ...]:
    """The flaws, each a sentence with its extent."""
    trained_on = sum(TRAINING_FLAW in run.flaws for run in runs)
    half = sum(HALF_FLAW in run.flaws for run in runs)
    resnets = sum(run.family == "resnet" for run in runs)
    counted = sum(any(flaw.startswith("num_conv_layers") for flaw in run.flaws) for run in runs)
    notes = [
        "Every network was trained once: differences between networks hold the noise of a training.",
        "Accuracies and architectures were joined by two independent counters in the source; whether the join holds "
        "can only be tested, see below.",
        "Of each corruption only the mean over its five severities was published.",
    ]
    if {"densenet"} < {run.family for run in runs}:
        notes.append(
            "The DenseNets have a stem that leaves 8 x 8 of 32 x 32 pixels, the other families none: a difference "
            "between families is one of resolution too, and blurred or noisy fine detail is what a stem drops."
        )
    if trained_on:
        notes.append(
            f"{trained_on} networks were trained on all {_ALL_IMAGES:,} images, and their clean accuracy is on those "
            "images: relative robustness means nothing there, and is left out."
        )
    if half:
        notes.append(
            f"{half:,} of {resnets:,} ResNets computed every second node of their list for nothing. Architecture, "
            "depth, convolutions and costs here are of the network that was computed."
        )
    if pictures := tested_pictures(runs):
        notes.append(
            "Clean accuracies are whole multiples of one over the pictures of the whole batches of 128 that as many "
            "pictures as were trained on make: "
            + ", ".join(f"{count:,} at {images:,}" for images, count in pictures.items())
            + ". So the clean accuracy of few training images has a large sampling error "
            f"({_sampling_errors(runs, pictures)}), which relative robustness inherits; corrupted accuracies are of "
            "9,984 pictures and five severities."
        )
    if counted:
        notes.append(f"{counted} networks have a number of convolutions that is not that of their list.")
    return tuple(notes)


def tested_pictures(runs: Iterable[StudyRun]) -> dict[int, int]:
    """By number of training images, how many pictures the clean accuracies are of, where they agree with the rule.

    They do where every accuracy times the pictures of the whole batches of 128 is a whole number.
    """
    clean: dict[int, list[float]] = {}
    for run in runs:
        clean.setdefault(run.train_images, []).append(run.clean)
    result = {}
    for images, values in sorted(clean.items()):
        count = images // _BATCH * _BATCH
        if all(_is_multiple(value, count) for value in values):
            result[images] = count
    return result


def _is_multiple(accuracy: float, pictures: int) -> bool:
    """Whether an accuracy may be of so many pictures."""
    return pictures > 0 and abs(accuracy * pictures - round(accuracy * pictures)) < 1e-6


def _sampling_errors(runs: list[StudyRun], pictures: Mapping[int, int]) -> str:
    parts = []
    for images in sorted(pictures)[:2]:
        mean = float(np.mean([run.clean for run in runs if run.train_images == images]))
        error = (mean * (1 - mean) / pictures[images]) ** 0.5
        parts.append(f"{100 * error:.1f} points at {images:,}")
    return "standard error " + ", ".join(parts)


@dataclass(frozen=True, slots=True)
class JoinCheck:
    """Whether accuracies go with the architectures that they stand beside.

    Attributes:
        count: networks.
        spearman: of clean accuracy with convolutions.
        explained: share of the accuracy's variance that convolutions, log MACs and log parameters explain linearly.
        shifted: the most that they explain where the accuracies are shifted against the architectures, over all shifts.
        p_value: share of the shifts, and of the join as it is, that explain at least as much as it does.
    """

    family: str
    train_images: int
    count: int
    spearman: float
    explained: float
    shifted: float
    p_value: float


def join_checks(study: Study) -> list[JoinCheck]:
    """For each family and number of training images, whether another offset of the two counters would fit better.

    A small p-value says that most rows are joined rightly; a large one says only that accuracy does not go with cost
    there, which a wrong join would also look like.
    """
    result = []
    for family in study.families:
        for images in study.sizes:
            runs = [run for run in study.runs if (run.family, run.train_images) == (family, images)]
            if len(runs) < 20 or any(run.macs is None or run.params is None for run in runs):
                continue
            costs = np.array([(run.convolutions, np.log(run.macs or 1), np.log(run.params or 1)) for run in runs])
            design = np.c_[np.ones(len(runs)), (costs - costs.mean(axis=0)) / np.maximum(costs.std(axis=0), 1e-12)]
            clean = np.array([run.clean for run in runs])
            shifts = np.stack([np.roll(clean, shift) for shift in range(len(runs))], axis=1)
            left = shifts - design @ np.linalg.lstsq(design, shifts, rcond=None)[0]
            explained = 1 - (left**2).sum(axis=0) / ((clean - clean.mean()) ** 2).sum()
            spearman = float(stats.spearmanr(costs[:, 0], clean).statistic)
            result.append(
                JoinCheck(
                    family, images, len(runs), spearman, float(explained[0]), float(explained[1:].max()),
                    float((explained >= explained[0] - 1e-12).mean()),
                )
            )  # fmt: skip
    return result


@dataclass(frozen=True, slots=True)
class Repeats:
    """How far trainings of one architecture at one number of images agree.

    Attributes:
        pairs: of trainings; accuracies are standardised inside family and number of images first.
        correlation: between the trainings of a pair, every pair both ways; near 0 where rows are joined wrongly.
        deviation: standard deviation of one training, in standard deviations between networks.
    """

    family: str
    pairs: int
    correlation: float
    deviation: float


def repeats(study: Study, value: str = "clean") -> list[Repeats]:
    """Of each family that has at least 5 pairs of trainings of one architecture; the table names no repeats as such.

    Args:
        value: "clean" or "robust".
    """
    if value not in ("clean", "robust"):
        raise InputError(f"repeats: value {value!r:.60} does not exist; {nearest(value, ('clean', 'robust'))}")
    pairs: dict[str, list[tuple[float, float]]] = {}
    for family in study.families:
        for images in study.sizes:
            runs = [run for run in study.runs if (run.family, run.train_images) == (family, images)]
            if len(runs) < 20:
                continue
            values: NDArray[np.float64] = np.array(
                [run.clean if value == "clean" else robust_accuracy(run) for run in runs]
            )
            scaled = (values - values.mean()) / max(float(values.std()), 1e-12)
            same: dict[str, list[float]] = {}
            for run, amount in zip(runs, scaled.tolist(), strict=True):
                for other in same.setdefault(run.architecture, []):
                    pairs.setdefault(family, []).append((amount, other))
                same[run.architecture].append(amount)
    result = []
    for family, found in pairs.items():
        if len(found) >= 5:
            both = np.array([*found, *((other, one) for one, other in found)])
            deviation = float(np.sqrt(((both[:, 0] - both[:, 1]) ** 2).mean() / 2))
            result.append(Repeats(family, len(found), float(np.corrcoef(both.T)[0, 1]), deviation))
    return result


# Label tables


def label_table(study: Study, train_images: int, family: str | None = None) -> LabelTable:
    """Graphs and measurements of the networks of one number of training images, of one family or of all.

    Metrics, all fractions and higher is better: ``accuracy`` (clean), ``robust_accuracy`` (the 15),
    ``relative_robustness`` (confounded by the clean accuracy), and ``accuracy_fog`` and so on. Where the clean
    accuracy is on training images it is called ``train_accuracy``, and relative robustness is left out.

    Raises:
        InputError: no such networks, or a run that lacks a corruption.
    """
    rows = []
    for run in study.runs:
        if run.train_images != train_images or (family is not None and run.family != family):
            continue
        metrics = {"accuracy": run.clean} if TRAINING_FLAW not in run.flaws else {"train_accuracy": run.clean}
        metrics["robust_accuracy"] = robust_accuracy(run)
        if has_clean(run):
            metrics["relative_robustness"] = relative_robustness(run)
        metrics |= {f"accuracy_{name}": run.cells[name] for name in _ALL if name in run.cells}
        rows.append(LabelRow(run.key, network_graph(run), metrics))
    if not rows:
        what = f" of family {family!r:.60}" if family is not None else ""
        known = sorted({(run.family, run.train_images) for run in study.runs})
        raise InputError(f"study: no network{what} with {train_images} training images; there are "
                         f"{', '.join(f'{name} {images}' for name, images in known)}")  # fmt: skip
    return LabelTable(tuple(rows))


def import_study(source: Path, folder: Path) -> dict[str, Any]:
    """Read the published table and write all that is made of it into a folder, which is made.

    ``study.csv`` has all rows with flaws and measures; ``labels-densenet-1000.jsonl`` and ``labels-1000.jsonl`` are
    label tables for ``genas fit``; ``figures`` has each plot as SVG and CSV; ``report.html`` is the page.

    Returns:
        What was read: ``networks``, ``groups`` (networks by family and training images, as ``densenet-1000``),
        ``flaws`` (networks by flaw), and ``files`` (paths relative to the folder).

    Raises:
        InputError: as :func:`read_published`, or a folder that holds a run.
        UnavailableError: the folder cannot be written.
    """
    if (folder / "store.db").exists():
        raise InputError(f"{folder}: a run is there, whose report would be lost; name another folder")
    study = read_published(source)
    groups: dict[str, int] = {}
    flaws: dict[str, int] = {}
    for run in study.runs:
        name = f"{run.family}-{run.train_images}"
        groups[name] = groups.get(name, 0) + 1
        for flaw in run.flaws:
            flaws[flaw] = flaws.get(flaw, 0) + 1
    write_rows(study, folder / "study.csv")
    files = ["study.csv"]
    for images in study.sizes:
        table = label_table(study, images)
        parts: dict[str, LabelTable] = {f"labels-{images}.jsonl": table}
        for family in study.families:
            own = tuple(row for row in table.rows if row.id.startswith(f"{family}-"))
            if own:
                parts[f"labels-{family}-{images}.jsonl"] = LabelTable(own)
        for file, part in parts.items():
            write_table(part, folder / file)
        files += parts
    files += [str(path.relative_to(folder)) for path in write_figures(study, folder / "figures")]
    write_study_report(study, folder / "report.html", checks=_check_tables(study))
    return {"networks": len(study.runs), "groups": groups, "flaws": flaws, "files": [*files, "report.html"]}


def _check_tables(study: Study) -> list[Table]:
    """What the report says of the join."""
    joined = Table(
        "Do accuracies stand beside their architectures?",
        "Share of the variance of clean accuracy that convolutions, log MACs and log parameters explain: as joined, "
        "and the most of all other offsets of the two counters. A small p says that most rows are joined rightly; a "
        "large one says only that accuracy does not go with cost there, which a wrong join would look like too.",
        ("family", "training images", "networks", "Spearman with convolutions", "explained", "most, shifted", "p"),
        tuple(
            (check.family, f"{check.train_images:,}", str(check.count), f"{check.spearman:.2f}",
             f"{check.explained:.3f}", f"{check.shifted:.3f}", f"{check.p_value:.3f}")
            for check in join_checks(study)
        ),
    )  # fmt: skip
    found = [(value, one) for value in ("clean", "robust") for one in repeats(study, value)]
    again = Table(
        "Trainings of one architecture",
        "Some architectures were drawn twice. Accuracies, standardised inside family and training images, of such "
        "pairs; a wrong join would leave no correlation. It is also all that is known of the noise of a training.",
        ("accuracy", "family", "pairs", "correlation"),
        tuple((value, one.family, str(one.pairs), f"{one.correlation:.2f}") for value, one in found),
    )
    return [joined, again] if found else [joined]
