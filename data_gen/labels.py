"""A run's store as a label table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from data_gen.store import Label, Result, Store
from supernet import LabelRow, LabelTable, SearchSpace
from supernet.files import write_bytes
from supernet.table import table_line
from training.robustness import robustness_metrics

_ROWS_AT_ONCE = 200  # of a streamed table: each step works on many rows while its code and data are in the cache


def label_table(store: Store, space: SearchSpace) -> LabelTable:
    """One row for each trained architecture.

    ``accuracy`` is the mean over the seeds trained so far; ``accuracy_seed0``, ``accuracy_seed1``, ... the
    single trainings of those trained more than once; ``loss``, ``seconds`` and what was measured besides, such as
    ``robust_accuracy``, are means too.
    """
    return LabelTable(tuple(_row(trained, space, {}) for trained in store.labels_by_architecture("generate")))


def write_label_table(
    store: Store, space: SearchSpace, path: Path, features: Mapping[str, Mapping[str, float]] | None = None
) -> int:
    """Write :func:`label_table` as a graph-table file; returns the number of rows.

    Its graphs are never all in memory. Raises UnavailableError where the folder cannot be written.

    Args:
        features: numbers of an architecture besides its labels, by its key.
    """
    count, known = 0, features or {}

    def lines() -> Iterator[bytes]:
        nonlocal count
        trained = store.labels_by_architecture("generate")
        while rows := [_row(labels, space, known) for labels in islice(trained, _ROWS_AT_ONCE)]:
            count += len(rows)
            yield b"".join([table_line(row) for row in rows])

    write_bytes(path, lines())
    return count


def _row(trained: Sequence[Label], space: SearchSpace, features: Mapping[str, Mapping[str, float]]) -> LabelRow:
    first = trained[0]
    if len(trained) == 1:
        metrics = {"accuracy": first.accuracy, "loss": first.loss, "seconds": first.seconds}
    else:
        metrics = {
            name: sum(getattr(label, name) for label in trained) / len(trained)
            for name in ("accuracy", "loss", "seconds")
        }
        metrics |= {f"accuracy_seed{number}": label.accuracy for number, label in enumerate(trained)}
    metrics |= _means([robustness_metrics(label.metrics) for label in trained if label.metric_text != "{}"])
    architecture = first.architecture
    return LabelRow(first.key, space.graph(architecture), metrics, features.get(first.key, {}), architecture.choices)


def measured(trained: Label | Result, metric: str) -> float | None:
    """What one training measured by the name that it has in a label table; None where it did not."""
    if metric in ("accuracy", "loss", "seconds"):
        return float(getattr(trained, metric))
    return robustness_metrics(trained.metrics).get(metric)


def _means(several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number, of those that all have."""
    names = [name for name in several[0] if all(name in one for one in several)] if several else []
    return {name: math.fsum(one[name] for one in several) / len(several) for name in names}


def cheap_labels(store: Store, stage: str) -> Iterator[tuple[Label, dict[str, float]]]:
    """What each training of a stage says of its architecture, cheaply; higher is better in all.

    ``validation`` is the validation accuracy and ``train`` the training accuracy of the last epoch, fractions;
    ``tse`` is minus the sum of the epochs' mean training losses (Ru et al. 2021), in nats.
    """
    for label in store.labels(stage):
        for curves in store.curves([label.job]):
            losses, accuracies = curves["train_loss"], curves["train_accuracy"]
            yield label, {"validation": label.accuracy, "train": accuracies[-1], "tse": -math.fsum(losses)}
