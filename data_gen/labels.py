"""A run's store as a label table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from data_gen.store import Label, Store
from supernet import LabelRow, LabelTable, SearchSpace
from supernet.files import write_bytes
from supernet.table import table_line

_ROWS_AT_ONCE = 200  # of a streamed table: each step works on many rows while its code and data are in the cache


def label_table(store: Store, space: SearchSpace) -> LabelTable:
    """One row for each trained architecture.

    ``accuracy`` is the mean over the seeds trained so far; ``accuracy_seed0``, ``accuracy_seed1``, ... the
    single trainings of those trained more than once; ``loss`` and ``seconds`` are means too.
    """
    return LabelTable(tuple(_row(trained, space) for trained in store.labels_by_architecture("generate")))


def write_label_table(store: Store, space: SearchSpace, path: Path) -> int:
    """Write :func:`label_table` as a graph-table file; returns the number of rows.

    Its graphs are never all in memory. Raises UnavailableError where the folder cannot be written.
    """
    count = 0

    def lines() -> Iterator[bytes]:
        nonlocal count
        trained = store.labels_by_architecture("generate")
        while rows := [_row(labels, space) for labels in islice(trained, _ROWS_AT_ONCE)]:
            count += len(rows)
            yield b"".join([table_line(row) for row in rows])

    write_bytes(path, lines())
    return count


def _row(trained: Sequence[Label], space: SearchSpace) -> LabelRow:
    first = trained[0]
    if len(trained) == 1:
        metrics = {"accuracy": first.accuracy, "loss": first.loss, "seconds": first.seconds}
    else:
        metrics = {
            name: sum(getattr(label, name) for label in trained) / len(trained)
            for name in ("accuracy", "loss", "seconds")
        }
        metrics |= {f"accuracy_seed{number}": label.accuracy for number, label in enumerate(trained)}
    architecture = first.architecture
    return LabelRow(first.key, space.graph(architecture), metrics, {}, architecture.choices)
