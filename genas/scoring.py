"""Training-free scores of a run's architectures: looked at, kept as features of its labels, or fitted instead of them.

Kept scores lie in ``scores.json`` of the run's folder, whole or not at all, and none is computed twice.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_gen import Store, measured, read_store, run_lock
from data_gen.plan import sample_planned
from data_gen.store import Label
from genas.config import Run, differences
from genas.ranking import agreement, cheap_features
from genas.stages import label_settings, resolve, saved_settings, single_thread
from supernet import Architecture, InputError, LabelRow, LabelTable
from supernet.files import read_json, write_json, write_text
from supernet.spaces import AnySpace, make_space
from supernet.table import write_table
from training import DataInfo

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_METRICS = ("hook_logdet", "synflow", "params")
"""Combined where none are named: on NAS-Bench-201 their log ranks say more than any of them."""

PROXY = "zero_cost_proxy"
"""The metric that scores are fitted as: the share of the scored architectures that one is as good as or better than."""

INHERITED = "inherited"
"""The feature that ``genas inherit`` keeps besides: accuracy with the weights of a shared network."""

_SAMPLE = 20
"""Architectures that ``score`` draws where nothing else is said."""
_KEEP_EVERY = 50
_SEEDS = 2**31

Progress = Callable[[int, int], None]

Kept = dict[str, dict[str, tuple[float | None, float]]]
"""For each architecture's key and metric the value, None where invalid, and seconds."""


def score(
    run: Run,
    count: int | None = None,
    texts: Sequence[str] = (),
    metrics: Iterable[str] = DEFAULT_METRICS,
    seed: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Scores of architectures of the run's space on a batch of its training images, without training.

    Those named by ``texts``; or the first ``count`` that ``generate`` would train; or all that have labels where the
    run has any, else 20. The scores of a run with labels are kept in its ``scores.json``, and ``export_table`` writes
    them as features; those made with other settings than its labels, or than the scores that are there, are not kept.

    Args:
        seed: of the batch and initial weights, from 0 and below 2^31; the run's where left out.
        progress: called with architectures done and in all.

    Returns:
        ``metrics``; ``architectures``, best first by the sum of log ranks, each with ``key``, ``architecture``,
        ``scores`` (None where invalid, higher is better) and ``combined``; ``seconds`` (median) and ``invalid`` by
        metric; ``images`` in the batch; ``seed``; ``kept``, the file or None; ``not_kept``, why not where there are
        labels; ``labelled``, whether these are all that have labels; ``agreement``, for accuracy, robust accuracy and
        relative robustness, as far as the labels have them, Kendall tau of each metric with it, and of ``macs`` and
        ``params`` alone, with 95 % bootstrap intervals over architectures, where at least 10 of them have labels.

    Raises:
        InputError: an unknown metric or architecture, a seed out of range, limits that leave too few architectures,
            or a run that another process drives.
    """
    names = _metric_names(metrics)
    if count is not None and texts:
        raise InputError("score: expected a count or architectures, got both; leave out one of them")
    if count is not None and count < 1:
        raise InputError(f"score: count is {count}; expected at least 1")
    if seed is not None and not 0 <= seed < _SEEDS:
        raise InputError(f"score: seed is {seed}; expected 0 or more and less than {_SEEDS:,}")
    run, info = resolve(run)
    space, settings = run.settings.space, run.settings
    labelled = [] if texts or count is not None or not run.store.is_file() else labelled_architectures(run)
    if texts:
        chosen = list(dict.fromkeys(space.read(text) for text in texts))
    else:
        chosen = labelled or sampled(run, _SAMPLE if count is None else count)
    seed = settings.seed if seed is None else seed
    has_store = run.store.is_file()
    not_kept = unlike_results(run, seed) if has_store else None
    kept = run.folder / "scores.json" if has_store and not_kept is None else None
    with nullcontext() if kept is None else run_lock(run.folder):
        scores, images, unlike = _scores(run, info, chosen, names, seed, kept, progress)
    if unlike is not None:
        kept, not_kept = None, unlike
    combined = _combined(scores, names, chosen)
    entries = [
        {
            "key": one.key,
            "architecture": space.format(one),
            "scores": {name: scores[one.key][name][0] for name in names},
            "combined": float(combined[position]),
            "choices": list(one.choices),
        }
        for position, one in enumerate(chosen)
    ]
    return {
        "run": run.name,
        "metrics": list(names),
        "images": images,
        "seed": seed,
        "seconds": {name: statistics.median(scores[one.key][name][1] for one in chosen) for name in names},
        "invalid": {name: sum(scores[one.key][name][0] is None for one in chosen) for name in names},
        "kept": None if kept is None else str(kept),
        "not_kept": not_kept,
        "labelled": bool(labelled),
        "agreement": agreements(run, scores, names, chosen) if has_store else {},
        "space": space.model_dump(mode="json"),
        "architectures": [entries[position] for position in np.argsort(-combined, kind="stable")],
    }


_COMPARED = ("accuracy", "robust_accuracy", "relative_robustness")
_FEWEST_COMPARED = 10


def _measured(trained: Sequence[Label]) -> dict[str, float]:
    """What the trainings of one architecture measured of what is compared, on average."""
    columns = {metric: [measured(label, metric) for label in trained] for metric in _COMPARED}
    return {
        metric: statistics.fmean(value for value in values if value is not None)
        for metric, values in columns.items()
        if None not in values
    }


def agreements(run: Run, scores: Kept, names: Sequence[str], chosen: Sequence[Architecture]) -> dict[str, Any]:
    """Kendall tau of every score, and of plain costs, with what the labels of the same architectures measured."""
    store = read_store(run.store)
    try:
        labels = {trained[0].key: _measured(trained) for trained in store.labels_by_architecture("generate")}
    finally:
        store.close()
    keys = [one.key for one in chosen if one.key in labels]
    if len(keys) < _FEWEST_COMPARED:
        return {}
    costs = run.settings.space.costs(np.array([one.choices for one in chosen if one.key in labels], np.int8))
    columns = {name: [_floored(scores[key][name][0]) for key in keys] for name in names}
    columns |= {name: costs[name].tolist() for name in ("macs", "params")}
    compared = [metric for metric in _COMPARED if all(metric in labels[key] for key in keys)]
    return {
        metric: {
            name: agreement(values, [labels[key][metric] for key in keys], run.settings.seed)
            for name, values in columns.items()
        }
        for metric in compared
    }


def write_scores(result: Mapping[str, Any], path: Path) -> None:
    """Write what :func:`score` returned as ``.csv``, or as a graph-table file with features (``.jsonl``).

    An invalid score is empty in the CSV and the floor of scores, -1e12, among features. The graph table's metric is
    the combination, ``zero_cost_proxy``.

    Raises:
        InputError: another ending.
        UnavailableError: a folder that cannot be written.
    """
    entries = result["architectures"]
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["key", "architecture", "combined", *result["metrics"]])
        for entry in entries:
            writer.writerow([entry["key"], entry["architecture"], entry["combined"], *entry["scores"].values()])
        write_text(path, text.getvalue())
    elif path.suffix == ".jsonl":
        write_table(_table(make_space(result["space"]), entries), path)
    else:
        raise InputError(f"{path}: expected a name that ends with .csv or .jsonl")


def proxy_table(
    run: Run, count: int, metrics: Iterable[str] = DEFAULT_METRICS, progress: Progress | None = None
) -> tuple[LabelTable, dict[str, Any], str | None]:
    """A sample of the run's space within its limits as a label table whose metric is the combined rank of its scores.

    The caller holds the lock of the run, whose ``scores.json`` keeps the scores.

    Returns:
        The table, its metric ``zero_cost_proxy`` above 0 and at most 1; what it was made of; and why its scores were
        not kept, or None.

    Raises:
        InputError: as :func:`score`.
    """
    names = _metric_names(metrics)
    run, info = resolve(run)
    chosen = sampled(run, count)
    path = run.folder / "scores.json"
    scores, images, not_kept = _scores(run, info, chosen, names, run.settings.seed, path, progress)
    combined = _combined(scores, names, chosen)
    entries = [
        {"key": one.key, "choices": list(one.choices), "combined": float(combined[position]), "scores": {}}
        for position, one in enumerate(chosen)
    ]
    about = {
        "metrics": list(names),
        "architectures": len(chosen),
        "images": images,
        "seconds": sum(seconds for one in chosen for _, seconds in scores[one.key].values()),
        "invalid": sum(any(value is None for value, _ in scores[one.key].values()) for one in chosen),
    }
    return _table(run.settings.space, entries), about, not_kept


def score_features(folder: Path, space: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The kept scores of a run by architecture, as features of its labels; an invalid one is -1e12.

    Args:
        space: the settings of the space that the labels are of; scores of another one are left out.

    Raises:
        InputError: a file that is damaged or edited by hand.
    """
    content = read_json(folder / "scores.json")
    if content is None or content["made_with"]["space"] != space:
        return {}
    return {
        key: {name: _floored(entry[0]) for name, entry in known.items()} for key, known in content["scores"].items()
    }


def run_features(store: Store, folder: Path, space: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """All that is known of a run's architectures besides their labels: cheap labels and kept scores, by key."""
    features = cheap_features(store)
    for key, scores in score_features(folder, space).items():
        features.setdefault(key, {}).update(scores)
    return features


def _floored(value: float | None) -> float:
    if value is not None:
        return value
    from predictor.zero_cost import FLOOR  # torch comes with it

    return FLOOR


def _metric_names(metrics: Iterable[str]) -> tuple[str, ...]:
    from predictor.zero_cost import metric_names  # torch comes with it

    return metric_names(metrics)


def sampled(run: Run, count: int) -> list[Architecture]:
    """The first that ``generate`` would train."""
    return sample_planned(run.settings.space, count, run.settings.bounds, run.settings.seed)


def unlike_results(run: Run, seed: int) -> str | None:
    """How the seed, images and space of scores differ from those of the run's trainings; None where they do not."""
    store = read_store(run.store)
    try:
        stages = {stage: saved_settings(store, stage) for stage in ("generate", "retrain")}
    finally:
        store.close()
    wanted = {**label_settings(run.settings), "seed": seed}
    for stage, saved in stages.items():
        if saved is None:
            continue
        names = ("seed", "data", "space")
        changed = differences({name: saved[name] for name in names}, {name: wanted[name] for name in names})
        if changed:
            return f"results of {stage} in run {run.name!r} were made with other settings ({'; '.join(changed)})"
    return None


def labelled_architectures(run: Run) -> list[Architecture]:
    """All that have labels of ``generate``. Raises InputError where these are of the space with other settings."""
    store = read_store(run.store)
    try:
        saved = saved_settings(store, "generate")
        if saved is not None and saved["space"] != run.settings.space.model_dump(mode="json"):
            raise InputError(f"score: the labels of run {run.name!r} are of a space with other settings; set them back")
        return [labels[0].architecture for labels in store.labels_by_architecture("generate")]
    finally:
        store.close()


def made_with(run: Run, info: DataInfo, seed: int) -> dict[str, Any]:
    """What kept scores depend on, as ``scores.json`` tells it."""
    from predictor.zero_cost import BATCH

    return {
        "seed": seed,
        "images": min(BATCH, info.sizes["train"]),
        "sizes": dict(info.sizes),
        "space": run.settings.space.model_dump(mode="json"),
        "data": label_settings(run.settings)["data"],
    }


def read_kept(path: Path, conditions: Mapping[str, Any]) -> tuple[Kept, str | None]:
    """The scores in a file; none, and why none may be added, where they were made under other conditions."""
    content = read_json(path)
    if content is None:
        return {}, None
    if content["made_with"] != conditions:
        changed = "; ".join(differences(content["made_with"], conditions))
        return {}, f"{path} holds scores made with other settings ({changed}); move it away to keep these"
    return {
        key: {name: (value, seconds) for name, (value, seconds) in known.items()}
        for key, known in content["scores"].items()
    }, None


def write_kept(path: Path, conditions: Mapping[str, Any], scores: Kept) -> None:
    """Write all that is kept, whole or not at all. The caller holds the run's lock."""
    write_json(path, {"made_with": conditions, "scores": scores})


def _scores(
    run: Run,
    info: DataInfo,
    chosen: Sequence[Architecture],
    names: Sequence[str],
    seed: int,
    path: Path | None,
    progress: Progress | None,
) -> tuple[Kept, int, str | None]:
    """Scores of all, those that are kept already left as they are; images in the batch; and why none was kept.

    Kept scores of other settings stay as they are: they took time, and may be features of the run's labels.
    """
    from predictor.zero_cost import BATCH, score_network

    space = run.settings.space
    images, labels = _batch(run, info, seed, BATCH)
    conditions = made_with(run, info, seed)
    found, not_kept = ({}, None) if path is None else read_kept(path, conditions)

    def keep() -> None:
        if path is not None and not_kept is None:
            write_kept(path, conditions, found)

    fresh = 0
    try:
        for number, one in enumerate(chosen, 1):
            known = found.setdefault(one.key, {})
            missing = [name for name in names if name not in known]
            if missing:
                with single_thread():
                    measured = score_network(space.graph(one), missing, images, labels, seed)
                known.update({name: (s.value if s.valid else None, s.seconds) for name, s in measured.items()})
                fresh += 1
                if fresh % _KEEP_EVERY == 0:
                    keep()
            if progress is not None:
                progress(number, len(chosen))
    finally:  # stopped too
        if fresh:
            keep()
    return found, len(images), not_kept


def _batch(run: Run, info: DataInfo, seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Training images as the network gets them, without augmentation, and their labels."""
    import torch

    from data_gen import device_names
    from training import load_split

    split = load_split(info, "train")
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:count]
    mean, deviation = (torch.tensor(values) for values in (info.normalisation.mean, info.normalisation.deviation))
    images = (split.images[chosen].float() / 255 - mean) / deviation
    device = device_names(run.settings.workers)[0]
    return images.permute(0, 3, 1, 2).to(device), split.labels[chosen].to(device)


def _combined(scores: Kept, names: Sequence[str], chosen: Sequence[Architecture]) -> NDArray[np.float64]:
    from predictor.zero_cost import log_rank_sum

    values = {name: np.array([scores[one.key][name][0] for one in chosen], np.float64) for name in names}
    return log_rank_sum(values)


def _table(space: AnySpace, entries: Sequence[Mapping[str, Any]]) -> LabelTable:
    """Ranks of ``combined`` as the metric, from 1 / count to 1; scores as features."""
    from scipy.stats import rankdata

    ranks = rankdata([entry["combined"] for entry in entries]) / len(entries)
    rows = []
    for entry, rank in zip(entries, ranks.tolist(), strict=True):
        architecture = Architecture(space.name, tuple(entry["choices"]))
        features = {name: _floored(value) for name, value in entry["scores"].items()}
        rows.append(LabelRow(entry["key"], space.graph(architecture), {PROXY: rank}, features, architecture.choices))
    return LabelTable(tuple(rows))
