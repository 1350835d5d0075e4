"""Active labelling: rounds of fitting what is labelled, choosing what is worth a training, and training it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_gen import ActiveSettings, GenerateSettings, Job, Store, Task, measured, plan
from evolution import SearchSettings, evolve
from genas.config import Run, RunSettings
from genas.stages import ShowProgress, add_jobs, single_thread, train_jobs
from supernet import Architecture, Choices, InputError, SearchSpace, architectures
from supernet.sampling import up_to
from supernet.settings import nearest
from supernet.space import graphs as graphs_of
from training.robustness import CLEAN, cell_name, robustness_metrics

_EVENT = "active"
_UNLABELLED = 500  # random networks that say, without labels, what networks of the space look like
_SEARCH = SearchSettings(population=200, parents=100, queries=4000)
_SHORTLIST = 40  # candidates of the search for each that is trained


class Round(NamedTuple):
    """What the labels before a batch said.

    Attributes:
        labels: architectures with a label.
        tau: Kendall tau on labels that were held out.
        best: highest accuracy predicted under the limits.
    """

    labels: int
    tau: float
    best: float


def label_actively(run: Run, store: Store, task: Task, progress: ShowProgress | None) -> dict[str, Any]:
    """Train a random sample, then batches that promise most, until ``generate.architectures`` or nothing changes.

    What a batch was is entered in the store before it is trained, so that a run that was stopped goes on with it. The
    caller has claimed the settings of the labels.

    Returns:
        As :func:`genas.stages.train_jobs`, with ``rounds`` (each a :class:`Round` as an object) and why it ``stopped``.

    Raises:
        InputError: limits that leave too few architectures, or fewer than 5 first labels that succeeded.
    """
    settings = run.settings
    active, space, most = settings.generate.active, settings.space, settings.generate.architectures
    assert active is not None
    _check_metric(settings)
    first = plan(space, first_labels(settings.generate), settings.bounds, settings.seed)
    jobs = add_jobs(store, space, "generate", first)
    entered = _entered(store)
    known = {job.id for job in jobs}
    jobs += [job for job in store.jobs("generate") if job.id not in known]  # batches, and labels of other plans
    result = train_jobs(run, store, jobs, task, progress)
    totals = {**result}
    told = [json.loads(message) for _, message in store.events(_EVENT)]
    # A stop between a round and its batch leaves a round that is made again: the last one counts.
    by_number = {one.pop("number"): Round(**one) for one in told}
    rounds = [by_number[number] for number in sorted(by_number)]
    stopped = "generate.architectures"
    while len({job.architecture for job in jobs}) < most:
        if settled(rounds, active):
            stopped = "settled"
            break
        number = max(entered, default=0) + 1
        missing = min(active.batch, most - len({job.architecture for job in jobs}))
        with single_thread():
            chosen, seen = _choose(run, store, active, jobs, missing, number)
        rounds = [*rounds[: number - 1], seen]
        if not chosen:
            stopped = "exhausted"
            break
        store.event(_EVENT, json.dumps({"number": number, **seen._asdict()}))
        planned = [(architecture, settings.seed, _role(number)) for architecture in chosen]
        entered[number] = add_jobs(store, space, "generate", planned)
        jobs += entered[number]
        result = train_jobs(run, store, jobs, task, progress)
        for key in ("trained", "seconds"):
            totals[key] += result[key]
    totals |= {key: result[key] for key in ("planned", "failed", "best")}
    return {**totals, "rounds": [one._asdict() for one in rounds], "stopped": stopped}


def _check_metric(settings: RunSettings) -> None:
    """Raises InputError, before anything is trained, for a metric that no label has or that should be small."""
    robustness = settings.generate.robustness
    cells = {} if robustness is None else {CLEAN: 1.0, **{cell_name(*cell): 1.0 for cell in robustness.cells}}
    known = ["accuracy", *robustness_metrics(cells)]
    if settings.fit.metric not in known:
        raise InputError(
            f"generate.active: labels are chosen by fit.metric, {settings.fit.metric!r:.80}; expected one that a "
            f"training measures and of which more is better; {nearest(settings.fit.metric, known)}"
        )


def first_labels(settings: GenerateSettings) -> GenerateSettings:
    """What is sampled at random: everything, or the first labels where those choose the others."""
    if settings.active is None:
        return settings
    return settings.model_copy(update={"architectures": min(settings.active.first, settings.architectures)})


def _is_new(space: SearchSpace, architecture: Architecture, known: set[str]) -> bool:
    """Whether no network like this, under whatever choices, is known; from now on it is."""
    digest = space.graph(architecture).digest()
    if digest in known:
        return False
    known.add(digest)
    return True


def settled(rounds: list[Round], settings: ActiveSettings) -> bool:
    """Whether neither Kendall tau nor the best prediction has moved over the last ``patience`` batches."""
    last = rounds[-settings.patience - 1 :]
    if len(last) <= settings.patience:
        return False
    taus = [one.tau for one in last]
    gains = max(one.best for one in last) - last[0].best
    return max(taus) - min(taus) <= settings.tau_change and gains <= settings.gain


def _role(number: int) -> str:
    return f"batch{number}"


def _entered(store: Store) -> dict[int, list[Job]]:
    """The batches that were chosen so far, by their number from 1."""
    batches: dict[int, list[Job]] = {}
    for job in store.jobs("generate"):
        if job.role.startswith("batch"):
            batches.setdefault(int(job.role.removeprefix("batch")), []).append(job)
    return batches


def _choose(
    run: Run, store: Store, active: ActiveSettings, jobs: list[Job], count: int, number: int
) -> tuple[list[Architecture], Round]:
    """The next batch, and what the labels before it say."""
    from predictor.active import fit_surrogate
    from predictor.features import FlatEncoder

    settings, space = run.settings, run.settings.space
    labels: dict[Architecture, list[float]] = {}
    for label in store.labels("generate"):
        value = measured(label, settings.fit.metric)
        if value is None:  # nothing is relative to a clean accuracy of 0
            continue
        labels.setdefault(label.architecture, []).append(value)
    if len(labels) < 5:
        raise InputError(f"generate: {len(labels)} of the first trainings succeeded; expected at least 5 to go on from")
    labelled = list(labels)
    values = np.array([float(np.mean(labels[one])) for one in labelled])
    random = np.random.default_rng([settings.seed, 7, number])
    loose = up_to(space, _UNLABELLED, random, settings.bounds)
    graphs = [space.graph(one) for one in labelled]
    encoder = FlatEncoder.fit([*graphs, *graphs_of(space, loose)])
    surrogate = fit_surrogate(encoder, encoder.encode(graphs), values, seed=settings.seed)

    def score(choices: Choices) -> NDArray[np.float64]:
        scored = surrogate.score(encoder.encode(graphs_of(space, choices)))
        return scored.scores + active.bonus * scored.deviations

    order = np.argsort(-values, kind="stable")[: _SEARCH.population // 2]
    first = np.array([labelled[place].choices for place in order], np.int8)
    wanted = _SEARCH.model_copy(update={"keep": _SHORTLIST * count + len(jobs)})
    found = evolve(space, score, settings.bounds, wanted, random, first)
    known = {space.graph(job.architecture).digest() for job in jobs}
    rows = np.array(
        [one.architecture.choices for one in found.best if _is_new(space, one.architecture, known)], np.int8
    )
    everything = np.array([one.architecture.choices for one in found.best], np.int8)
    best = surrogate.score(encoder.encode(graphs_of(space, everything))).scores.max(keepdims=True)
    seen = Round(len(labelled), surrogate.tau, float(surrogate.labels.label(best)[0]))
    if not len(rows):
        return [], seen
    choice = surrogate.choose(encoder.encode(graphs_of(space, rows)), count, active.bonus)
    return architectures(space, rows[choice.places]), seen
