"""The second stage: a predictor of the labels, and how far to trust it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_gen import label_table, read_store, run_lock
from genas.config import FitSettings, Run, save_settings
from genas.scoring import DEFAULT_METRICS, INHERITED, PROXY, Progress, proxy_table, run_features, unlike_results
from genas.stages import compare, digest, label_settings, resolve, resolve_space, saved_settings, single_thread
from genas.trusting import judge
from predictor import Predictor, fit_predictor
from predictor.zero_cost import METRICS, metric_names
from supernet import InputError, LabelTable
from supernet.files import read_json, write_json
from supernet.graph import graph_to_json
from supernet.settings import nearest

_FORMAT = 2
"""Of evaluation.json; another number makes fit run again."""

FEWEST_LABELS = 10
"""Below this many labelled architectures no predictor is fitted."""


def fit(
    run: Run, table: LabelTable | None = None, proxy: dict[str, Any] | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Fit a predictor on the run's labels and measure how far to trust it.

    Kendall tau is measured on held-out architectures, besides that of simpler models and plain MACs; the predictor
    that is saved has learnt from every label.

    Args:
        table: labels to use instead of the run's own.
        proxy: what the table's metric was made of where it is no measurement, see :func:`fit_zero_cost`.
        out: folder for the predictor and its evaluation; None is the run's ``predictor``.

    Returns:
        The content of ``evaluation.json``: with ``proxy`` where the metric is no measurement, and with
        ``replaced``, the metric of the predictor that was there, where it was another.

    Raises:
        InputError: too few labels, or a metric or ``fit.features`` that they do not have.
    """
    own = table is None
    if table is None:
        store = read_store(run.store)
        try:
            saved = saved_settings(store, "generate")
            if saved is not None:
                run = resolve_space(run)
                wanted = {
                    **saved,
                    **label_settings(run.settings),
                    "limits": saved["limits"],
                }  # one fit answers many limits
                compare(run, "generate", saved, wanted)
            table = label_table(store, run.settings.space)
            if run.settings.fit.features:
                features = run_features(store, run.folder, run.settings.space.model_dump(mode="json"))
                table = LabelTable(tuple(replace(row, features=features.get(row.id, {})) for row in table.rows))
        finally:
            store.close()
    if len(table) < FEWEST_LABELS:
        raise InputError(f"fit: {len(table)} labelled architectures; expected at least {FEWEST_LABELS}; generate more")
    folder, settings = out or run.folder / "predictor", run.settings.fit
    if settings.features:
        table = _with_features(table, settings.features, run.name if own else None)
    made_from = digest(
        _FORMAT, _table_digest(table, settings.metric), settings.model_dump(mode="json"), run.settings.seed
    )
    known = read_json(folder / "evaluation.json")
    if known is not None and known["made_from"] == made_from and (folder / "predictor.safetensors").is_file():
        return known
    with run_lock(folder), single_thread():
        (folder / "evaluation.json").unlink(missing_ok=True)  # never beside a predictor that it does not describe
        evaluation = _fit_table(table, settings, run.settings.seed, folder)
        evaluation["made_from"] = made_from
        if settings.metric == PROXY:
            evaluation["proxy"] = proxy or {}
        if known is not None and known["metric"] != settings.metric:
            evaluation["replaced"] = known["metric"]
        write_json(folder / "evaluation.json", evaluation)
    return evaluation


def fit_zero_cost(
    run: Run, count: int = 300, metrics: Iterable[str] = DEFAULT_METRICS, progress: Progress | None = None
) -> dict[str, Any]:
    """Fit the graph predictor without labels: on training-free scores of a sample of the space, combined.

    Its target is the rank of the sum of log ranks of the metrics, above 0 and at most 1, a proxy and not accuracy; so
    is what Kendall tau is measured with. Predictions may lie outside: only their order means something. ``search``
    works on it as on any other. The settings are kept in the run's folder, so that its name stands for them.

    Args:
        count: architectures to score, within the limits.
        progress: called with architectures scored and in all.

    Returns:
        As :func:`fit`, with ``proxy``: ``metrics``, ``architectures``, ``images``, ``seconds``, ``invalid``; and with
        ``not_kept``: why the scores were not kept, or None.

    Raises:
        InputError: an unknown metric, limits that leave too few architectures, a run whose trainings were made with
            another seed, images or space, or one that another process drives.
    """
    if count < FEWEST_LABELS:
        raise InputError(f"fit: {count} architectures to score; expected at least {FEWEST_LABELS}")
    metric_names(metrics := tuple(metrics))  # at once: preparing images may take long
    run, _ = resolve(run)
    settings = run.settings.fit.model_copy(update={"metric": PROXY, "features": ()})
    proxy_run = Run(folder=run.folder, settings=run.settings.model_copy(update={"fit": settings}))
    with run_lock(run.folder):
        has_store = run.store.is_file()
        unlike = unlike_results(run, run.settings.seed) if has_store else None
        if unlike is not None:  # a search of the run would take the predictor for one of its own space
            raise InputError(f"fit: {unlike}; set them back, or choose another name with --set name=NAME")
        table, about, not_kept = proxy_table(proxy_run, count, metrics, progress)
        evaluation = fit(proxy_run, table, about)
        if not has_store:
            save_settings(run)
    return {**evaluation, "not_kept": not_kept}


def _with_features(table: LabelTable, names: Sequence[str], run_name: str | None) -> LabelTable:
    """The table with these features alone. Raises InputError where a row lacks one.

    Args:
        run_name: the run whose labels these are, which can be scored; None for a table from elsewhere.
    """
    rows = []
    for row in table.rows:
        for name in names:
            if name not in row.features:
                lacks = f"fit.features: architecture {row.id!r} lacks {name!r}"
                if run_name is not None and name in METRICS:
                    scores = ",".join(name for name in names if name in METRICS)
                    raise InputError(
                        f"{lacks}; `genas score {run_name} --metrics {scores}` scores all that have labels"
                    )
                if run_name is not None and name == INHERITED:
                    raise InputError(f"{lacks}; `genas inherit {run_name}` scores all that have labels")
                known = dict.fromkeys((*row.features, *(METRICS if run_name is not None else ())))
                raise InputError(f"{lacks}; {nearest(name, known) if known else 'it has no features'}")
        rows.append(replace(row, features={name: row.features[name] for name in names}))
    return LabelTable(tuple(rows))


def _fit_table(table: LabelTable, settings: FitSettings, seed: int, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    predictor = fit_predictor(table, settings.metric, settings.model, seed, settings.predictor, bool(settings.features))
    predictor.save(folder)
    judged = judge(table, settings, seed)
    return {
        **judged,
        "seed": seed,
        "features": list(predictor.features),
        "weights": dict(predictor.weights),
        "seconds": time.perf_counter() - started,
    }


def _table_digest(table: LabelTable, metric: str) -> str:
    labels = table.metric(metric).tolist()
    rows = [
        (row.id, label, graph_to_json(row.graph), row.features) for row, label in zip(table.rows, labels, strict=True)
    ]
    return digest(rows)


def predict(folder: Path, table: LabelTable, level: float = 0.8) -> list[dict[str, Any]]:
    """What fitted predictors say of a table's architectures.

    Args:
        folder: that of one predictor, or of a folder for each metric.
        level: of the intervals, above 0, below 1.

    Returns:
        For each row ``id``, and for each metric ``predicted``, the ends of an ``interval`` that holds a new label with
        the given probability if the architecture were drawn as the labelled ones were, and ``distance``: 1 is as far
        from the nearest labelled architecture as those are from each other.

    Raises:
        InputError: no predictor there, a damaged one, a level outside, or a row without a feature that a fit used.
    """
    if not 0 < level < 1:
        raise InputError(f"level: expected a number above 0 and below 1, got {level}")
    homes = (
        [folder]
        if (folder / "predictor.json").is_file()
        else sorted(path.parent for path in folder.glob("*/predictor.json"))
    )
    features = [row.features for row in table.rows]
    entries: list[dict[str, Any]] = [{"id": row.id, "metrics": {}} for row in table.rows]
    with single_thread():
        for home in homes or [folder]:
            predictor = Predictor.load(home)
            scored = predictor.score(table.graphs, features)
            ends = predictor.interval(scored, level)
            columns = (predictor.label_scores.value(scored.scores), *ends, predictor.distance(table.graphs, features))
            for entry, value, low, high, far in zip(entries, *(column.tolist() for column in columns), strict=True):
                entry["metrics"][predictor.metric] = {"predicted": value, "interval": [low, high], "distance": far}
    return entries
