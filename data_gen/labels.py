"""A run's store as a label table."""

from __future__ import annotations

from data_gen.store import Store
from supernet import LabelRow, LabelTable, SearchSpace


def label_table(store: Store, space: SearchSpace) -> LabelTable:
    """One row for each trained architecture.

    ``accuracy`` is the mean over the seeds trained so far; ``accuracy_seed0``, ``accuracy_seed1``, ... the
    single trainings of those trained more than once; ``loss`` and ``seconds`` are means too.
    """
    grouped: dict[str, list[int]] = {}
    results = store.results("generate")
    for position, result in enumerate(results):
        grouped.setdefault(result.job.architecture.key, []).append(position)
    rows = []
    for key, positions in grouped.items():
        trained = [results[position] for position in positions]
        metrics = {
            "accuracy": sum(result.accuracy for result in trained) / len(trained),
            "loss": sum(result.loss for result in trained) / len(trained),
            "seconds": sum(result.seconds for result in trained) / len(trained),
        }
        if len(trained) > 1:
            metrics |= {f"accuracy_seed{number}": result.accuracy for number, result in enumerate(trained)}
        architecture = trained[0].job.architecture
        rows.append(LabelRow(key, space.graph(architecture), metrics, {}, architecture.choices))
    return LabelTable(tuple(rows))
