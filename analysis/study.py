"""A study of robustness: many trained networks under corrupted pictures, and what may be said of them. No torch.

Corruptions and their mean follow Hendrycks and Dietterich 2019: 15 corruptions of 5 severities each; the 4 extra ones
are kept, and are in no mean.

Relative robustness, the accuracy under corruption over the clean one, is confounded by the clean accuracy: a network
that guesses has the accuracy 1 / classes on any picture, loses nothing, and gets 1. So it rises as networks get worse.
Read it beside the absolute accuracy under corruption, beside :func:`chance_corrected`, and at equal clean accuracy
(:func:`matched_difference`).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supernet.files import write_text
from supernet.settings import InputError, nearest
from training.corruption_names import CORRUPTIONS, EXTRA, SEVERITIES

Floats: TypeAlias = NDArray[np.float64]

CORRUPTION_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"noise": CORRUPTIONS[:3], "blur": CORRUPTIONS[3:7], "weather": CORRUPTIONS[7:11], "digital": CORRUPTIONS[11:]}
)
"""The 15 of every mean, by group."""

TRAINING_FLAW = "clean accuracy is on training images"
"""The flaw of a run whose clean accuracy compares with nothing: it is in no measure made of the clean accuracy."""

_ALL = (*CORRUPTIONS, *EXTRA)
_FEWEST = 5
"""Of fewer networks no interval is given: resamples of so few are mostly copies."""
_COLUMNS = ("key", "architecture", "family", "train_images", "seed", "convolutions", "macs", "params", "clean", "flaws")


@dataclass(frozen=True, slots=True)
class StudyRun:
    """One training of one network, tested on clean and on corrupted pictures.

    Attributes:
        key: of the network inside its family; runs of one network that differ in ``seed`` share it.
        architecture: the network as text.
        family: such as "vgg", "resnet" and "densenet", or the name of any space.
        train_images: how many pictures it learned from.
        seed: of the training.
        convolutions: convolution layers of the network.
        macs: multiply-accumulates for one picture, None where not known.
        params: parameters, None where not known.
        clean: accuracy on pictures as they are, a fraction.
        cells: accuracy as a fraction by ``fog_3`` (corruption, severity), or by ``fog`` where only the mean over the
            five severities is known. Raises InputError for an unknown cell, and for a number outside 0..1.
        flaws: what is wrong with the row, in words; empty where nothing is known to be.
    """

    key: str
    architecture: str
    family: str
    train_images: int
    seed: int
    convolutions: int
    macs: int | None
    params: int | None
    clean: float
    cells: Mapping[str, float]
    flaws: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (("clean", self.clean), *self.cells.items()):
            if name != "clean" and name not in _known_cells():
                raise InputError(f"run {self.key!r:.60}: cell {name!r:.60} does not exist; {nearest(name, _ALL)}")
            if not 0 <= value <= 1:
                raise InputError(f"run {self.key!r:.60}: {name} is {value}; expected an accuracy from 0 to 1")
        for corruption in _ALL:
            if corruption in self.cells and any(f"{corruption}_{severity}" in self.cells for severity in SEVERITIES):
                raise InputError(f"run {self.key!r:.60}: {corruption} is given as a mean and by severity; expected one")


@dataclass(frozen=True)
class Study:
    """Runs to be compared.

    Attributes:
        source: where the numbers come from, in words.
        notes: what a reader must know first, a sentence each.
        classes: of the pictures; 1 / classes is the accuracy of a guess.
    """

    runs: tuple[StudyRun, ...]
    source: str
    notes: tuple[str, ...] = ()
    classes: int = 10

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise InputError(f"study: expected at least 2 classes, got {self.classes}")
        seen: set[tuple[str, str, int, int]] = set()
        for run in self.runs:
            identity = run.family, run.key, run.train_images, run.seed
            if identity in seen:
                raise InputError(f"study: run {run.key!r:.60} on {run.train_images} images with seed {run.seed} "
                                 "is given twice")  # fmt: skip
            seen.add(identity)

    @cached_property
    def chance(self) -> float:
        """The accuracy of a guess."""
        return 1 / self.classes

    @cached_property
    def families(self) -> list[str]:
        """In alphabetical order."""
        return sorted({run.family for run in self.runs})

    @cached_property
    def sizes(self) -> list[int]:
        """Numbers of training images, least first."""
        return sorted({run.train_images for run in self.runs})

    @cached_property
    def corruptions(self) -> tuple[str, ...]:
        """Those of the 15 that every run has, by group."""
        return tuple(name for name in CORRUPTIONS if all(_severities(run, name) for run in self.runs))

    @cached_property
    def extra_corruptions(self) -> tuple[str, ...]:
        """Those of the 4 extra ones that every run has."""
        return tuple(name for name in EXTRA if all(_severities(run, name) for run in self.runs))

    @cached_property
    def severities(self) -> tuple[int, ...]:
        """Those that every run has of every one of :attr:`corruptions`; all five where there are means alone."""
        shared = set(SEVERITIES)
        for run in self.runs:
            for name in self.corruptions:
                shared &= _severities(run, name)
        return tuple(sorted(shared))

    @cached_property
    def by_severity(self) -> bool:
        """Whether accuracies of single severities are known."""
        return bool(self.corruptions) and all(
            f"{name}_{severity}" in run.cells
            for run in self.runs
            for name in self.corruptions
            for severity in self.severities
        )

    def only(self, keep: Callable[[StudyRun], bool]) -> Study:
        """The same study with the runs that are kept."""
        return Study(tuple(filter(keep, self.runs)), self.source, self.notes, self.classes)


@lru_cache(maxsize=1)
def _known_cells() -> frozenset[str]:
    return frozenset(_ALL) | {f"{name}_{severity}" for name in _ALL for severity in SEVERITIES}


def _severities(run: StudyRun, corruption: str) -> set[int]:
    """The severities that an accuracy under a corruption is known of; all where only their mean is."""
    if corruption in run.cells:
        return set(SEVERITIES)
    return {severity for severity in SEVERITIES if f"{corruption}_{severity}" in run.cells}


# Measures of one run


def corruption_accuracy(run: StudyRun, corruption: str, severities: Sequence[int] = SEVERITIES) -> float:
    """Mean accuracy under one corruption over severities, a fraction; higher is better.

    Raises:
        InputError: an unknown corruption, or one that the run lacks at a severity.
    """
    if corruption not in _ALL:
        raise InputError(f"corruption {corruption!r:.60} does not exist; {nearest(corruption, _ALL)}")
    if corruption in run.cells:
        if set(severities) != set(SEVERITIES):
            raise InputError(f"run {run.key!r:.60}: of {corruption} only the mean over severities is known")
        return run.cells[corruption]
    missing = [severity for severity in severities if f"{corruption}_{severity}" not in run.cells]
    if missing or not severities:
        raise InputError(f"run {run.key!r:.60}: {corruption} was not measured at severity {missing}")
    return math.fsum(run.cells[f"{corruption}_{severity}"] for severity in severities) / len(severities)


def robust_accuracy(
    run: StudyRun, corruptions: Sequence[str] = CORRUPTIONS, severities: Sequence[int] = SEVERITIES
) -> float:
    """Mean accuracy over the 75 cells of 15 corruptions and 5 severities, a fraction; higher is better.

    Args:
        corruptions: others than the 15 give a number that compares with no published one; say so beside it.
        severities: ``(3,)`` gives the mean at severity 3.

    Raises:
        InputError: a cell that the run lacks.
    """
    if not corruptions:
        raise InputError("robust accuracy: no corruption to take the mean over")
    return math.fsum(corruption_accuracy(run, name, severities) for name in corruptions) / len(corruptions)


def relative_robustness(run: StudyRun, corruption: str | None = None, **which: Any) -> float:  # noqa: ANN401
    """Accuracy under corruption over clean accuracy; 1 loses nothing, higher is better **at equal clean accuracy**.

    Confounded, see the module: a network that guesses gets 1. Values above 1 occur where the clean accuracy is low.

    Args:
        corruption: of this one alone, in place of :func:`robust_accuracy`.
        which: ``corruptions`` and ``severities`` of :func:`robust_accuracy`, ``severities`` of one corruption.

    Raises:
        InputError: a cell that the run lacks, or a clean accuracy of 0.
    """
    if run.clean <= 0:
        raise InputError(f"run {run.key!r:.60}: its clean accuracy is 0, nothing is relative to it")
    return _corrupted(run, corruption, which) / run.clean


def accuracy_lost(run: StudyRun, corruption: str | None = None, **which: Any) -> float:  # noqa: ANN401
    """Clean accuracy minus accuracy under corruption, a fraction; lower is better at equal clean accuracy.

    Arguments and errors as :func:`relative_robustness`.
    """
    return run.clean - _corrupted(run, corruption, which)


def chance_corrected(
    run: StudyRun,
    chance: float,
    corruption: str | None = None,
    margin: float = 0.0,
    **which: Any,  # noqa: ANN401
) -> float | None:
    """(corrupted - chance) / (clean - chance): the share of what was learned that is left; higher is better.

    A network that guesses no longer scores 1. Noise of the clean accuracy counts more the nearer it is to chance, so
    compare at equal clean accuracy too.

    Args:
        chance: accuracy of a guess, 1 / classes.
        margin: how far above chance the clean accuracy has to be.

    Returns:
        None where the clean accuracy is not above chance.
    """
    if run.clean <= chance + margin:
        return None
    return (_corrupted(run, corruption, which) - chance) / (run.clean - chance)


def _corrupted(run: StudyRun, corruption: str | None, which: Mapping[str, Any]) -> float:
    return robust_accuracy(run, **which) if corruption is None else corruption_accuracy(run, corruption, **which)


Value: TypeAlias = Callable[[StudyRun], float | None]
"""A number of a run, None where it has none."""

MEASURES: Mapping[str, Value] = MappingProxyType(
    {
        "clean": lambda run: run.clean,
        "robust": robust_accuracy,
        "relative": relative_robustness,
        "lost": accuracy_lost,
    }
)
"""Named measures over the 15 corruptions; :func:`measures` has those of a study that lacks some."""


def measures(study: Study) -> dict[str, Value]:
    """:data:`MEASURES` over the corruptions and severities that a study has, and ``chance_corrected``.

    All but ``robust`` are None where the clean accuracy is on training images (:data:`TRAINING_FLAW`);
    ``chance_corrected`` is None at chance too. Raises InputError where no corruption was measured in all runs.
    """
    which: dict[str, Any] = {"corruptions": study.corruptions, "severities": study.severities}
    if not study.corruptions or not study.severities:
        raise InputError("study: no corruption was measured in every run; expected at least one of the 15")
    made: dict[str, Value] = {
        "clean": lambda run: run.clean,
        "relative": lambda run: relative_robustness(run, **which),
        "lost": lambda run: accuracy_lost(run, **which),
        "chance_corrected": lambda run: chance_corrected(run, study.chance, **which),
    }
    return {
        "robust": lambda run: robust_accuracy(run, **which),
        **{name: _where_clean(value) for name, value in made.items()},
    }


def _where_clean(value: Value) -> Value:
    return lambda run: value(run) if has_clean(run) else None


def has_clean(run: StudyRun) -> bool:
    """Whether the clean accuracy is on pictures that the network did not learn from, and above 0."""
    return TRAINING_FLAW not in run.flaws and run.clean > 0


def corruption_errors(
    run: StudyRun,
    baseline: StudyRun | Sequence[StudyRun],
    relative: bool = False,
    corruptions: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
) -> dict[str, float]:
    """The error of a run over that of a baseline, by corruption (Hendrycks and Dietterich 2019); lower is better.

    For each corruption the sum of the error over severities is divided by the same sum of the baseline: 1 is as good
    as the baseline. Published numbers are 100 times these, of AlexNet as baseline; others do not compare with them.

    Args:
        baseline: a run, or a group whose errors are averaged.
        relative: sums of what is added to the clean error, in place of the error.

    Raises:
        InputError: a cell that is missing, no baseline, or a baseline with nothing to divide by: without error, or, of
            the relative one, no worse under a corruption than without, as networks of little accuracy are.
    """
    group = (baseline,) if isinstance(baseline, StudyRun) else tuple(baseline)
    if not group:
        raise InputError("corruption error: expected at least one run as baseline, got none")
    result = {}
    for name in corruptions:
        own = _error(run, name, relative, severities)
        theirs = sum(_error(one, name, relative, severities) for one in group) / len(group)
        if theirs <= 1e-12:
            why = "loses nothing" if relative else "makes no error"
            raise InputError(f"corruption error: the baseline {why} under {name}, there is nothing to divide by")
        result[name] = own / theirs
    return result


def _error(run: StudyRun, corruption: str, relative: bool, severities: Sequence[int]) -> float:
    """The mean over severities, which divides as the sum does."""
    return (run.clean if relative else 1.0) - corruption_accuracy(run, corruption, severities)


def mean_corruption_error(
    run: StudyRun,
    baseline: StudyRun | Sequence[StudyRun],
    relative: bool = False,
    corruptions: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
) -> float:
    """mCE: the mean of :func:`corruption_errors`, 1 at the baseline; lower is better. Same arguments and errors."""
    errors = corruption_errors(run, baseline, relative, corruptions, severities)
    return math.fsum(errors.values()) / len(errors)


def by_network(study: Study) -> Study:
    """The same study with one run for each network and number of training images: seeds are averaged, cell by cell."""
    groups: dict[tuple[str, str, int], list[StudyRun]] = {}
    for run in study.runs:
        groups.setdefault((run.family, run.key, run.train_images), []).append(run)
    return Study(tuple(map(_average, groups.values())), study.source, study.notes, study.classes)


def _average(runs: Sequence[StudyRun]) -> StudyRun:
    if len(runs) == 1:
        return runs[0]
    shared = [name for name in runs[0].cells if all(name in run.cells for run in runs)]
    cells = {name: math.fsum(run.cells[name] for run in runs) / len(runs) for name in shared}
    clean = math.fsum(run.clean for run in runs) / len(runs)
    return replace(runs[0], clean=clean, cells=cells)


def corruption_error(study: Study, baseline: str) -> Value:
    """mCE of a run against the networks of a family on the most training images, as a measure; lower is better.

    Raises InputError for a family that the study does not have.
    """
    if baseline not in study.families:
        raise InputError(
            f"study.baseline: {baseline!r:.60} is no family of the study; {nearest(baseline, study.families)}"
        )
    group = [run for run in by_network(study).runs if (run.family, run.train_images) == (baseline, study.sizes[-1])]
    if not group:
        raise InputError(f"study.baseline: family {baseline!r} has no network on {study.sizes[-1]:,} images")
    which: dict[str, Any] = {"corruptions": study.corruptions, "severities": study.severities}
    return lambda run: mean_corruption_error(run, group, **which)


# Groups, trends, differences


@dataclass(frozen=True, slots=True)
class Group:
    """Mean of a value over the networks of a group.

    Attributes:
        group: the values of the fields that it was made by.
        count: networks; the runs of one that differ in seed are averaged first.
        mean: None for an empty group.
        standard_deviation: between networks (n - 1); None of fewer than 2.
        low: lower end of the 95 % interval of the mean over networks (Student's t); None of fewer than 2.
        high: upper end.
    """

    group: tuple[Any, ...]
    count: int
    mean: float | None
    standard_deviation: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Trend:
    """How far a value goes with depth among the networks of one family and number of training images.

    Attributes:
        count: networks.
        spearman: rank correlation, -1 to 1; above 0 the value is higher in deeper networks. 0 where a side is constant.
        spearman_ci95: percentile bootstrap interval over networks; None of fewer than 5.
        kendall: tau-b, ties counted, likewise.
        kendall_ci95: likewise.
        p_value: share of random permutations (their number + 1, this order among them) whose Spearman correlation is
            at least as far from 0. Of many groups some are small by chance.
    """

    family: str
    train_images: int
    count: int
    spearman: float
    spearman_ci95: tuple[float, float] | None
    kendall: float
    kendall_ci95: tuple[float, float] | None
    p_value: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A value of one family minus that of another, at one number of training images.

    Attributes:
        counts: networks of the first and of the second family that it is made of.
        difference: in the value's unit; above 0 the first family's is higher.
        ci95: percentile bootstrap interval over networks, each family resampled by itself; None of fewer than 5.
        clean: the clean accuracies from least to most that it holds for.
    """

    first: str
    second: str
    train_images: int
    counts: tuple[int, int]
    difference: float
    ci95: tuple[float, float] | None
    clean: tuple[float, float] = field(default=(0.0, 1.0))


def grouped(
    study: Study, by: Sequence[str] = ("family", "train_images"), value: str | Value = "relative"
) -> list[Group]:
    """Mean, deviation and interval of a value in each group that has networks with it, sorted by group.

    Args:
        by: fields of :class:`StudyRun`.
        value: one of :func:`measures`, or a function of a run; runs where it is None are left out.
    """
    known = StudyRun.__slots__
    for name in by:
        if name not in known:
            raise InputError(f"groups: {name!r:.60} is no field of a run; {nearest(name, known)}")
    groups: dict[tuple[Any, ...], list[StudyRun]] = {}
    for run in study.runs:
        groups.setdefault(tuple(getattr(run, name) for name in by), []).append(run)
    number = _value(study, value)
    result = []
    for group in sorted(groups):
        values = [row[-1] for row in _networks(groups[group], number)]
        if values:
            result.append(Group(group, len(values), *mean_interval(values)))
    return result


def mean_interval(values: ArrayLike) -> tuple[float | None, float | None, float | None, float | None]:
    """Mean, standard deviation (n - 1), lower and upper end of the mean's 95 % interval (Student's t).

    None where there are too few: the mean of no value, the others of fewer than 2.
    """
    numbers = np.asarray(values, np.float64)
    if len(numbers) == 0:
        return None, None, None, None
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return mean, None, None, None
    deviation = float(numbers.std(ddof=1))
    from scipy.special import stdtrit  # late: a report of a run without a study needs none of it

    half = float(stdtrit(len(numbers) - 1, 0.975)) * deviation / math.sqrt(len(numbers))
    return mean, deviation, mean - half, mean + half


def trends(
    study: Study,
    value: str | Value = "clean",
    seed: int = 0,
    resamples: int = 1000,
) -> list[Trend]:
    """Correlation of a value with the number of convolutions inside each family and number of training images.

    Args:
        value: one of :func:`measures`, or a function of a run.
        seed: of resamples and permutations; each group has a generator of its own.
        resamples: of bootstrap and permutation.

    Returns:
        A trend for each group with at least 3 networks, sorted by family and training images.
    """
    number, result = _value(study, value), []
    for family in study.families:
        for images in study.sizes:
            runs = [run for run in study.runs if (run.family, run.train_images) == (family, images)]
            rows = np.array([(depth, amount) for depth, _, amount in _networks(runs, number)]).reshape(-1, 2)
            if len(rows) >= 3:
                random = np.random.default_rng((seed, images, *family.encode()))
                result.append(_trend(family, images, rows[:, 0], rows[:, 1], random, resamples))
    return result


def _trend(
    family: str, images: int, depth: Floats, values: Floats, random: np.random.Generator, resamples: int
) -> Trend:
    count = len(depth)
    spearman = float(_spearman(depth[None], values[None])[0])
    kendall = float(_kendall(depth, values, np.ones((1, count)))[0])
    permuted = random.permuted(np.tile(values, (resamples, 1)), axis=1)
    extreme = np.abs(_spearman(np.broadcast_to(depth, permuted.shape), permuted)) >= abs(spearman) - 1e-12
    ends: list[tuple[float, float] | None] = [None, None]
    if count >= _FEWEST:
        drawn = random.integers(0, count, (resamples, count))
        counts = np.apply_along_axis(np.bincount, 1, drawn, minlength=count).astype(np.float64)
        ends = [
            _quantiles(_spearman(depth[drawn], values[drawn])),
            _quantiles(_kendall(depth, values, counts)),
        ]
    return Trend(
        family, images, count, spearman, ends[0], kendall, ends[1], float((extreme.sum() + 1) / (resamples + 1))
    )


def _spearman(first: Floats, second: Floats) -> Floats:
    """Rank correlation of each row, (rows,); 0 where a side is constant."""
    from scipy.stats import rankdata

    one, other = (rankdata(side, axis=1) for side in (first, second))
    one, other = one - one.mean(axis=1, keepdims=True), other - other.mean(axis=1, keepdims=True)
    scale = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    return np.asarray(np.divide((one * other).sum(axis=1), scale, out=np.zeros(len(one)), where=scale > 0), np.float64)


def _kendall(first: Floats, second: Floats, counts: Floats) -> Floats:
    """tau-b where network ``i`` is there ``counts[r, i]`` times, (resamples,); 0 where a side is constant."""
    one, other = (np.sign(side[:, None] - side[None, :]) for side in (first, second))
    both, *ties = (((counts @ pairs) * counts).sum(axis=1) for pairs in (one * other, one**2, other**2))
    scale = np.sqrt(ties[0] * ties[1])
    return np.asarray(np.divide(both, scale, out=np.zeros(len(counts)), where=scale > 0), np.float64)


def family_difference(
    study: Study,
    first: str,
    second: str,
    train_images: int,
    value: str | Value = "relative",
    seed: int = 0,
    resamples: int = 1000,
) -> Difference:
    """Mean of a value over the networks of one family minus that of another.

    Of relative robustness this says little by itself: the family of lower clean accuracy is favoured. See
    :func:`matched_difference`.

    Raises:
        InputError: a family without networks at this number of training images.
    """
    sides = _sides(study, first, second, train_images, value)
    one, other = (side[:, 2] for side in sides)
    random = np.random.default_rng((seed, train_images))
    draws = None
    if min(len(one), len(other)) >= _FEWEST:
        draws = _quantiles(
            one[random.integers(0, len(one), (resamples, len(one)))].mean(axis=1)
            - other[random.integers(0, len(other), (resamples, len(other)))].mean(axis=1)
        )
    return Difference(
        first, second, train_images, (len(one), len(other)), float(one.mean() - other.mean()), draws, _span(*sides)
    )


def matched_difference(
    study: Study,
    first: str,
    second: str,
    train_images: int,
    value: str | Value = "robust",
    seed: int = 0,
    resamples: int = 1000,
) -> Difference | None:
    """The same difference between networks of equal clean accuracy.

    Least squares of the value on clean accuracy, its square, and the family, over the networks whose clean accuracy
    both families reach; the family's coefficient is the difference. It assumes that the families' curves are
    parallel. Where the clean accuracy is noisy, as of few test pictures, its slope comes out too flat and part of the
    families' difference in clean accuracy is left in the coefficient. Runs with :data:`TRAINING_FLAW` are left out.

    Returns:
        None where fewer than 10 networks of either family are in the range of clean accuracies of both: then the two
        cannot be compared at equal accuracy.

    Raises:
        InputError: a family without networks at this number of training images.
    """
    sides = _sides(study.only(has_clean), first, second, train_images, value)
    low, high = _overlap(*sides)
    one, other = (side[(side[:, 1] >= low) & (side[:, 1] <= high)] for side in sides)
    if min(len(one), len(other)) < 2 * _FEWEST:
        return None
    random = np.random.default_rng((seed, train_images, 1))
    gaps = [
        _coefficient(one[random.integers(0, len(one), len(one))], other[random.integers(0, len(other), len(other))])
        for _ in range(resamples)
    ]
    return Difference(
        first, second, train_images, (len(one), len(other)), _coefficient(one, other),
        _quantiles(np.array(gaps)), (low, high),
    )  # fmt: skip


def _coefficient(one: Floats, other: Floats) -> float:
    """The first family's height over the second's on parallel curves of the clean accuracy."""
    rows = np.concatenate([one, other])
    clean = rows[:, 1] - rows[:, 1].mean()
    family = np.r_[np.ones(len(one)), np.zeros(len(other))]
    design = np.stack([np.ones(len(rows)), clean, clean**2, family], axis=1)
    return float(np.linalg.lstsq(design, rows[:, 2], rcond=None)[0][-1])


def _overlap(one: Floats, other: Floats) -> tuple[float, float]:
    return float(max(one[:, 1].min(), other[:, 1].min())), float(min(one[:, 1].max(), other[:, 1].max()))


def _span(one: Floats, other: Floats) -> tuple[float, float]:
    clean = np.concatenate([one, other])[:, 1]
    return float(clean.min()), float(clean.max())


def _sides(study: Study, first: str, second: str, train_images: int, value: str | Value) -> tuple[Floats, Floats]:
    """Convolutions, clean accuracy and value of each network of two families, (networks, 3) each."""
    number, sides = _value(study, value), []
    for family in (first, second):
        runs = [run for run in study.runs if (run.family, run.train_images) == (family, train_images)]
        rows = _networks(runs, number)
        if not rows:
            known = sorted({run.family for run in study.runs if run.train_images == train_images})
            raise InputError(f"study: no network of {family!r:.60} with {train_images} training images and the value "
                             f"asked for; families of that size: {', '.join(known) or 'none'}")  # fmt: skip
        sides.append(np.array(rows, np.float64))
    return sides[0], sides[1]


def _networks(runs: Iterable[StudyRun], value: Value) -> list[tuple[float, float, float]]:
    """Convolutions, clean accuracy and value of each network that has the value, its seeds averaged."""
    networks: dict[tuple[str, str, int], list[tuple[float, float, float]]] = {}
    for run in runs:
        number = value(run)
        if number is not None:
            row = float(run.convolutions), run.clean, float(number)
            networks.setdefault((run.family, run.key, run.train_images), []).append(row)
    result = []
    for rows in networks.values():
        depth, clean, mean = np.mean(rows, axis=0).tolist()
        result.append((depth, clean, mean))
    return result


def _value(study: Study, value: str | Value) -> Value:
    if not isinstance(value, str):
        return value
    if value == "clean":
        return lambda run: None if TRAINING_FLAW in run.flaws else run.clean  # 0 is an accuracy too
    known = measures(study)
    if value not in known:
        raise InputError(f"measure {value!r:.60} does not exist; {nearest(value, known)}")
    return known[value]


def _quantiles(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


# Rows


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV with its header; None is an empty field."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return file.getvalue()


def write_rows(study: Study, path: Path, more: Mapping[str, Value] | None = None) -> None:
    """Write a CSV with one row for each run: its fields, its measures, its cells. Whole or not at all.

    ``robust``, ``relative``, ``lost`` and ``chance_corrected`` are over the corruptions that all runs have, and are
    left out where there is none. Flaws are joined by "; ".

    Args:
        more: further measures by the names of their columns.

    Raises:
        UnavailableError: the folder cannot be written.
    """
    names = [name for name in _ordered_cells() if any(name in run.cells for run in study.runs)]
    shown = {name: value for name, value in measures(study).items() if name != "clean"} if study.corruptions else {}
    shown |= more or {}
    rows = (
        [
            *(getattr(run, name) for name in _COLUMNS[:-1]), "; ".join(run.flaws),
            *(value(run) for value in shown.values()),
            *(run.cells.get(name) for name in names),
        ]
        for run in study.runs
    )  # fmt: skip
    write_text(path, csv_text([*_COLUMNS, *shown, *names], rows))


def read_rows(path: Path, source: str = "", notes: tuple[str, ...] = (), classes: int = 10) -> Study:
    """The study in a file of :func:`write_rows`; its measures are made anew from the cells.

    Raises:
        InputError: with file and line, for a file that cannot be read, a column that is missing, or a number that is
            none or outside its range.
    """
    runs = []
    known = _known_cells()
    for number, line in csv_lines(path, _COLUMNS):
        try:
            runs.append(
                StudyRun(
                    line["key"],
                    line["architecture"],
                    line["family"],
                    int(line["train_images"]),
                    int(line["seed"]),
                    int(line["convolutions"]),
                    int(line["macs"]) if line["macs"] else None,
                    int(line["params"]) if line["params"] else None,
                    float(line["clean"]),
                    {name: float(text) for name, text in line.items() if name in known and text},
                    tuple(line["flaws"].split("; ")) if line["flaws"] else (),
                )
            )
        except ValueError as error:
            raise InputError(f"{path}:{number}: {error}") from error
    return Study(tuple(runs), source or path.name, notes, classes)


def csv_lines(path: Path, columns: Sequence[str]) -> Iterable[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a CSV that has these columns, and others perhaps.

    Raises:
        InputError: with file and line, for a file that cannot be read, a column that is missing, or a row that has
            more or fewer fields than the header.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = reader.fieldnames or []
            for name in columns:
                if name not in names:
                    raise InputError(f"{path}:1: column {name!r} is missing; {nearest(name, names)}")
            for line in reader:
                if None in line or None in line.values():
                    raise InputError(f"{path}:{reader.line_num}: expected {len(names)} fields as in the header")
                yield reader.line_num, line
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: the table cannot be read ({error})") from error


def _ordered_cells() -> list[str]:
    return [cell for name in _ALL for cell in (name, *(f"{name}_{severity}" for severity in SEVERITIES))]
