"""Reader of the published table of all 15,625 networks of ``nasbench201``."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supernet import Choices, InputError, NasBench201
from supernet.nasbench201 import indices
from supernet.settings import nearest

DATASETS = ("cifar10", "cifar100", "imagenet16")
PROXIES = ("synflow", "hook_logdet", "snip")
"""Scores of a network before training, a column a data set. Each may be -inf; higher is better."""
COSTS = ("params", "macs")
"""Scores that the space tells by itself."""


@dataclass(frozen=True)
class Table:
    """Columns of numbers by name, in the order of :func:`supernet.nasbench201.indices`, each (15625,)."""

    path: Path
    columns: dict[str, NDArray[np.float64]]

    @cached_property
    def space(self) -> NasBench201:
        """The space of its networks."""
        return NasBench201()

    def column(self, name: str) -> NDArray[np.float64]:
        """One column. Raises InputError where the table has none of that name."""
        if name not in self.columns:
            raise InputError(f"{self.path}: there is no column {name!r:.80}; {nearest(name, self.columns)}")
        return self.columns[name]

    def values(self, dataset: str, score: str, choices: Choices) -> NDArray[np.float64]:
        """A score of some rows, (architectures,): from its column, or from the space where it is a cost."""
        if score in COSTS:
            return self.space.costs(choices)[score].astype(np.float64)
        return self.column(f"{dataset}_{score}")[indices(choices)]


def read_tabular(path: Path) -> Table:
    """A CSV with a column ``arch`` and any number of columns of numbers.

    Raises:
        InputError: with file and line, for a file, string or number that cannot be read, a network that is there
            twice, and networks that are missing.
    """
    space, rows = NasBench201(), []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if "arch" not in header:
                raise InputError(f"{path}: expected a CSV with a column 'arch', got {', '.join(header)!r:.80}")
            place = header.index("arch")
            for line in reader:
                if len(line) != len(header):
                    raise InputError(f"{path}:{reader.line_num}: expected {len(header)} columns, got {len(line)}")
                try:
                    rows.append((space.parse(line[place]).choices, line, reader.line_num))
                except InputError as error:
                    raise InputError(f"{path}:{reader.line_num}: {error}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: the table cannot be read ({error})") from error
    places = indices(np.array([choices for choices, _, _ in rows], np.int8).reshape(-1, 6))
    _check_complete(path, places, [number for *_, number in rows], space.size)
    order = np.argsort(places)
    lines = [rows[number] for number in order]
    skipped = {"arch", "canonical", "idx"}
    columns = {
        name: _numbers(path, name, [line[column] for _, line, _ in lines], [number for *_, number in lines])
        for column, name in enumerate(header)
        if name not in skipped
    }
    return Table(path, columns)


def _check_complete(path: Path, places: NDArray[np.int64], numbers: list[int], size: int) -> None:
    _, first = np.unique(places, return_index=True)
    again = np.setdiff1d(np.arange(len(places)), first)
    if len(again):
        raise InputError(f"{path}:{numbers[again[0]]}: this network is there twice")
    if len(places) != size:
        raise InputError(f"{path}: expected all {size:,} networks, got {len(places):,}")


def _numbers(path: Path, name: str, texts: list[str], lines: list[int]) -> NDArray[np.float64]:
    try:
        values = np.array(texts).astype(np.float64)
    except ValueError:
        values = np.array([_number(text) for text in texts])
    known = np.isfinite(values)
    if name.partition("_")[2] in PROXIES:
        known |= values == -math.inf
    bad = np.flatnonzero(~known)
    if len(bad):
        raise InputError(f"{path}:{lines[bad[0]]}: column {name!r}: expected a number, got {texts[int(bad[0])]!r:.40}")
    return values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
