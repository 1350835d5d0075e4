"""Label tables: graphs with measured numbers, and their file.

The file is JSON lines, one architecture a line, so that any benchmark's or tool's results fit::

    {"id": "a17", "nodes": [{"op": "conv", "in": 16, "out": 32, "macs": 1179648}, ...],
     "edges": [[0, 1], ...], "metrics": {"accuracy": 0.5571}, "features": {"synflow": 93.1},
     "choices": [1, 0, 1]}

``features`` and ``choices`` (one whole number for each choice of the space) may be absent.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supernet.files import write_bytes
from supernet.graph import ArchGraph, graph_from_json
from supernet.settings import InputError, nearest

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_KEYS = ("id", "nodes", "edges", "metrics", "features", "choices")


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One measured architecture.

    Attributes:
        id: unique in its table.
        metrics: measured numbers by name; accuracies are fractions 0..1.
        features: numbers known without training, such as zero-cost scores.
        choices: the option taken at each choice, where the space has choices.
    """

    id: str
    graph: ArchGraph
    metrics: Mapping[str, float]
    features: Mapping[str, float] = field(default_factory=dict)
    choices: tuple[int, ...] | None = None


@dataclass(frozen=True)
class LabelTable:
    """Rows in a fixed order. Raises InputError for an id given twice or choices of unequal length."""

    rows: tuple[LabelRow, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for row in self.rows:
            if row.id in seen:
                raise InputError(f"label table: id {row.id!r} is given twice")
            seen.add(row.id)
        lengths = {len(row.choices) for row in self.rows if row.choices is not None}
        if len(lengths) > 1:
            raise InputError(f"label table: rows have {sorted(lengths)} choices; expected one number of choices")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def graphs(self) -> list[ArchGraph]:
        return [row.graph for row in self.rows]

    @property
    def metric_names(self) -> list[str]:
        return sorted({name for row in self.rows for name in row.metrics})

    def metric(self, name: str) -> NDArray[np.float64]:
        """One measured number for each row. Raises InputError where a row lacks it."""
        for row in self.rows:
            if name not in row.metrics:
                raise InputError(f"metric {name!r} is missing in row {row.id!r}; {nearest(name, self.metric_names)}")
        return np.array([row.metrics[name] for row in self.rows], dtype=np.float64)

    def subset(self, positions: NDArray[np.int64]) -> LabelTable:
        """The rows at these positions, in this order."""
        return LabelTable(tuple(self.rows[int(position)] for position in positions))


def write_table(table: LabelTable, path: Path) -> None:
    """Write the file whole or not at all. Raises UnavailableError where the folder cannot be written."""
    write_bytes(path, map(table_line, table.rows))


def table_line(row: LabelRow) -> bytes:
    """A row's line in the file, with its end. Raises ValueError for a number that is not finite."""
    # A table of 100,000 lines is a quarter of a gigabyte: what is slow here takes seconds there.
    nodes = ",".join([node._text or node.text for node in row.graph.nodes])
    features = f',"features":{_numbers_text(row.features)}' if row.features else ""
    choices = "" if row.choices is None else f',"choices":{str(list(row.choices)).replace(" ", "")}'
    return (
        f'{{"id":{_encode(row.id)},"nodes":[{nodes}],"edges":{_edges_text(row.graph.edges)},'
        f'"metrics":{_numbers_text(row.metrics)}{features}{choices}}}\n'
    ).encode()


def _numbers_text(numbers: Mapping[str, float]) -> str:
    if not all(map(math.isfinite, numbers.values())):
        raise ValueError(f"{dict(numbers)} are not all finite")
    return f"{{{','.join([f'{_name_text(name)}:{float.__repr__(float(numbers[name]))}' for name in numbers])}}}"


@lru_cache(maxsize=1024)
def _name_text(name: str) -> str:
    return _encode(name)


@lru_cache(maxsize=32_768)  # the graphs of a space share few patterns of edges
def _edges_text(edges: tuple[tuple[int, int], ...]) -> str:
    return _encode(edges)


def read_table(path: Path) -> LabelTable:
    """Read a graph-table file. Raises InputError with file, line number and reason."""
    try:
        with path.open(encoding="utf-8") as file:
            rows = tuple(_rows(file, path))
    except OSError as error:
        raise InputError(f"{path}: cannot read the table ({error.strerror})") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        # No UTF-8, or a path with a NUL character.
        raise InputError(f"{path}: not a text file; expected JSON lines, one architecture a line") from error
    if not rows:
        raise InputError(f"{path}: no rows; expected JSON lines, one architecture a line")
    try:
        return LabelTable(rows)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _rows(lines: Iterator[str], path: Path) -> Iterator[LabelRow]:
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _row(line)
            if row.id in first_line:
                raise InputError(f"id {row.id!r} was given in line {first_line[row.id]} already")
        except (ValueError, RecursionError) as error:  # InputError, bad JSON, a number of thousands of digits
            raise InputError(f"{path}:{number}: {error}") from error
        first_line[row.id] = number
        yield row


def _row(line: str) -> LabelRow:
    entry = json.loads(line, parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)
    if not isinstance(entry, dict):
        raise InputError(f"expected an object with {', '.join(_KEYS[:4])}, got {type(entry).__name__}")
    for key in entry:
        if key not in _KEYS:
            raise InputError(f"unknown key {key!r}; {nearest(key, _KEYS)}")
    for key in _KEYS[:4]:
        if key not in entry:
            raise InputError(f"key {key!r} is missing")
    if not isinstance(entry["id"], str) or not entry["id"]:
        raise InputError(f"'id' must be a text that is not empty, got {entry['id']!r:.80}")
    metrics = _numbers(entry["metrics"], "metrics")
    if not metrics:
        raise InputError("'metrics' is empty; expected at least one measured number")
    if "accuracy" in metrics and not 0 <= metrics["accuracy"] <= 1:
        raise InputError(f"'accuracy' must be a fraction from 0 to 1, got {metrics['accuracy']}")
    choices = entry.get("choices")
    if choices is not None and (
        not isinstance(choices, list)
        or not choices
        or any(type(choice) is not int or not 0 <= choice < 2**31 for choice in choices)
    ):
        raise InputError(f"'choices' must be a list of whole numbers from 0, got {choices!r:.80}")
    return LabelRow(
        entry["id"],
        graph_from_json(entry["nodes"], entry["edges"]),
        metrics,
        _numbers(entry.get("features", {}), "features"),
        None if choices is None else tuple(choices),
    )


def _numbers(value: object, what: str) -> dict[str, float]:
    if not isinstance(value, dict):
        raise InputError(f"{what!r} must be an object of numbers, got {value!r:.80}")
    for name, number in value.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= sys.float_info.max:
            raise InputError(f"{what} {name!r} must be a finite number, got {number!r:.80}")
    return {str(name): float(number) for name, number in value.items()}


def _refuse_constant(text: str) -> float:
    raise InputError(f"{text} is not a finite number")


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"key {twice!r} is given twice")
    return result
