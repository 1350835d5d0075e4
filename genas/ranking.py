"""How well cheap trainings rank architectures as the full recipe does, and the cheapest that does it well enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_gen import Job, Store, Task, cheap_labels, open_store, plan, refuse_if_driven, run_lock
from data_gen.store import Label
from genas.cheap import PREFIX, Cheap, CheapSetting, cheapen, default_settings, training_macs
from genas.config import Run
from genas.labelling import first_labels
from genas.stages import ShowProgress, add_jobs, begin, claim, label_settings, label_task, resolve, train_jobs
from supernet import InputError
from supernet.files import write_json
from supernet.settings import nearest

LABEL_KINDS = ("validation", "train", "tse")
"""Validation accuracy, training accuracy of the last epoch, and minus the sum of the epochs' training losses."""

_FEWEST = 3
"""Of fewer architectures no tau is told."""

_SEED_STEP = 2
"""Neither the seed of the full training nor of its repeat: what two trainings share by chance is no agreement."""


def fidelity(
    run: Run,
    progress: Callable[[str], ShowProgress | None] = lambda stage: None,
    setting: str | None = None,
    everything: bool = False,
) -> dict[str, Any]:
    """Train a sample of the run's architectures with cheap settings, and measure how their labels rank them.

    Each cheap training gives three labels, all higher is better: validation accuracy, training accuracy of the
    last epoch, and minus the sum of the training losses (TSE; Ru et al. 2021, "Speedy Performance Estimation for
    Neural Architecture Search"). Each is compared with the full recipe's validation accuracy by Kendall's tau-b.
    Full labels that ``generate`` has are used, those missing are trained as ``generate`` would.

    Args:
        progress: gives the progress function of the full recipe (``generate``) and of each setting by its name.
        setting: train this one only; the others are compared as far as they are trained.
        everything: train ``setting`` for all architectures of the plan, so that its labels can be features.

    Returns:
        The content of ``fidelity.json``: ``settings`` by name, cheapest first, with ``cost`` (share of the full
        recipe's epochs x images x MACs, exact), ``seconds_share`` and ``labels`` (tau and its 95 % bootstrap
        interval over architectures by kind), and ``pick``, the cheapest that reaches the threshold, or None.

    Raises:
        InputError: a setting that is unknown, saves nothing or has changed since it was trained; others as
            :func:`genas.generate`, whose other exceptions come from here too.
    """
    refuse_if_driven(run.folder)
    run, info = resolve(run)
    settings, space, recipe = run.settings, run.settings.space, run.settings.generate.recipe
    known = settings.fidelity.settings or default_settings(space, info, recipe)
    if setting is not None and setting not in known:
        raise InputError(f"fidelity: setting {setting!r:.80} is unknown; {nearest(setting, known)}")
    if everything and setting is None:
        raise InputError("fidelity: all architectures are trained with one setting; name it with --setting NAME")
    planned = plan(space, first_labels(settings.generate), settings.bounds, settings.seed)
    # Images of every setting before the first training: what is wrong with one should not be found hours later.
    cheaps = [cheapen(name, one, space, info, settings.data, recipe) for name, one in known.items()]
    with run_lock(run.folder):
        store = open_store(run.store)
        try:
            claim(store, run, info, "generate", label_settings(settings))
            for cheap in cheaps:
                described = {"settings": {cheap.name: cheap.setting.model_dump(mode="json")}}
                claim(store, run, cheap.info, cheap.stage, {**label_settings(settings), "fidelity": described})
            begin(run, info, store, "fidelity")
            jobs = [job for job in add_jobs(store, space, "generate", planned) if job.role == "sample"]
            jobs = list(dict.fromkeys(jobs))
            sample = jobs[: settings.fidelity.architectures]
            checkpoints = run.folder / "checkpoints"
            task = label_task(run, info)
            failed = train_jobs(run, store, sample, task, progress("generate"))["failed"]
            for cheap in cheaps:
                if setting in (None, cheap.name):
                    wanted = [
                        (job.architecture, settings.seed + _SEED_STEP, "cheap")
                        for job in (jobs if everything else sample)
                    ]
                    task = Task(cheap.space, cheap.info, cheap.recipe, checkpoints=checkpoints)
                    entered = add_jobs(store, space, cheap.stage, wanted)
                    failed += train_jobs(run, store, entered, task, progress(cheap.name))["failed"]
            full = Cheap("full", CheapSetting(), space, info, recipe)
            content = {"failed": failed, **_measured(store, run, sample, full, cheaps)}
            store.seal()
        finally:
            store.close()
        write_json(run.folder / "fidelity.json", content)
    return content


def pick(settings: Mapping[str, Mapping[str, Any]], threshold: float) -> dict[str, Any] | None:
    """The cheapest setting and kind of label whose tau is at least the threshold; at equal cost the larger tau."""
    reached = [
        (entry["cost"], -label["tau"], name, kind)
        for name, entry in settings.items()
        for kind, label in entry["labels"].items()
        if label["tau"] >= threshold
    ]
    if not reached:
        return None
    cost, _, name, kind = min(reached)
    return {"setting": name, "label": kind, "cost": cost, **settings[name]["labels"][kind]}


def agreement(cheap: Sequence[float], full: Sequence[float], seed: int) -> dict[str, Any]:
    """Kendall's tau-b of a cheap number against the full label, and its 95 % bootstrap interval."""
    from predictor import kendall_tau, tau_interval  # torch comes with it, which a driver can do without

    return {"tau": kendall_tau(cheap, full), "tau_ci95": list(tau_interval(cheap, full, seed))}


def cheap_features(store: Store) -> dict[str, dict[str, float]]:
    """The cheap labels of a run by architecture, named ``fidelity_SETTING_KIND`` as features of a label table."""
    features: dict[str, dict[str, float]] = {}
    for stage in store.stages():
        if stage.startswith(PREFIX):
            name = stage.removeprefix(PREFIX)
            for label, values in cheap_labels(store, stage):
                known = features.setdefault(label.key, {})
                known.update({f"fidelity_{name}_{kind}": value for kind, value in values.items()})
    return features


def _measured(store: Store, run: Run, sample: Sequence[Job], full: Cheap, cheaps: Sequence[Cheap]) -> dict[str, Any]:
    from predictor.trust import noise_between

    seed, threshold = run.settings.seed, run.settings.fidelity.threshold
    jobs = {job.id for job in sample}
    labels = {label.key: label for label in store.labels("generate") if label.job in jobs}
    choices = np.array([job.architecture.choices for job in sample], np.int8)
    macs = dict(zip((job.architecture.key for job in sample), full.space.costs(choices)["macs"].tolist(), strict=True))
    work = training_macs(full.space, full.info, full.recipe, choices)
    rows: dict[str, dict[str, Any]] = {
        key: {"id": key, "accuracy": label.accuracy, "macs": macs[key], "labels": {}} for key, label in labels.items()
    }
    settings = {}
    for cheap in cheaps:
        pairs = [pair for pair in cheap_labels(store, cheap.stage) if pair[0].key in labels]
        for label, values in pairs:
            rows[label.key]["labels"][cheap.name] = values
        if pairs:
            cost = training_macs(cheap.space, cheap.info, cheap.recipe, choices) / work
            settings[cheap.name] = _compared(cheap, cost, labels, pairs, seed)
    settings = dict(sorted(settings.items(), key=lambda item: item[1]["cost"]))
    accuracies = [label.accuracy for label in labels.values()]
    enough = len(accuracies) >= _FEWEST
    twice = [group for group in store.labels_by_architecture("generate") if len(group) > 1]
    return {
        "architectures": len(labels),
        "threshold": threshold,
        "seed": seed,
        "full": {**_described(full), "seconds": sum(label.seconds for label in labels.values())},
        "settings": settings,
        "macs": agreement([macs[key] for key in labels], accuracies, seed) if enough else None,
        "label_noise": noise_between([(first.accuracy, second.accuracy) for first, second, *_ in twice]),
        "pick": pick(settings, threshold),
        "rows": list(rows.values()),
    }


def _compared(
    cheap: Cheap,
    cost: float,
    labels: Mapping[str, Label],
    pairs: Sequence[tuple[Label, Mapping[str, float]]],
    seed: int,
) -> dict[str, Any]:
    accuracies = [labels[label.key].accuracy for label, _ in pairs]
    kinds = LABEL_KINDS if len(pairs) >= _FEWEST else ()
    seconds = sum(label.seconds for label, _ in pairs)
    return {
        **_described(cheap),
        "architectures": len(pairs),
        "cost": cost,
        "seconds": seconds,
        "seconds_share": seconds / sum(labels[label.key].seconds for label, _ in pairs),
        "labels": {kind: agreement([values[kind] for _, values in pairs], accuracies, seed) for kind in kinds},
    }


def _described(cheap: Cheap) -> dict[str, Any]:
    return {
        "epochs": cheap.recipe.epochs,
        "train_images": cheap.info.sizes["train"],
        "input_size": cheap.space.input_size,
        "width": cheap.setting.width or 1.0,
    }
