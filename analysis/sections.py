"""The report's parts, each from what the run has so far, or with the command that it still needs."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from analysis import figures, words
from analysis.drawing import draw_graph
from analysis.front_sections import front_sections, front_summary
from analysis.parts import Section, Table, csv_details
from analysis.record import (
    Candidate,
    Costed,
    Evaluation,
    Fidelity,
    Front,
    Record,
    Role,
    Trainings,
    Winner,
    is_fraction,
)
from analysis.robust_sections import robust_sections
from data_gen.store import Failure, NodeCount
from supernet.graph import graph_from_json

MODELS = {
    "hybrid": "hybrid of the models below",
    "graph": "graph networks",
    "gp": "Gaussian process",
    "trees": "boosted and random trees",
    "ridge": "ridge regression",
    "mlp": "perceptron",
    "macs": "MACs alone",
}

CONVENTION = (
    "MACs are multiply-accumulates of one image's forward pass, and one MAC is two FLOPs. “MACs” counts "
    "convolutions and linear weights, “convolution MACs” convolutions alone."
)

_MOST_POINTS = 15  # of a front in its table
_MESSAGE = 300  # characters of a failure's message in the table


@dataclass(frozen=True)
class Stage:
    """How far a stage is: ``state`` is done, partly, outdated, failed or not yet."""

    name: str
    state: str
    text: str


def stages(record: Record) -> list[Stage]:
    """The four stages and how far each is."""
    return [_generate_stage(record), _fit_stage(record), _search_stage(record), _retrain_stage(record)]


def next_command(record: Record) -> str:
    """What to type for the first stage that is not done; empty where all are, or where nothing can follow."""
    unfinished = next((stage for stage in stages(record) if stage.state != "done"), None)
    if unfinished is None or unfinished.state == "failed":
        return ""
    if record.trained_front is not None and not record.generate.planned:  # a front stands by itself
        return "" if record.ensembles else f"genas ensemble {shlex.quote(record.name)}"
    return f"genas {unfinished.name} {shlex.quote(record.name)}"


def summary(record: Record) -> list[tuple[str, str]]:
    """(heading, sentence) of what was found; only what is known."""
    lines = []
    winner, retrain, search, evaluation = record.winner, record.retrain, record.search, record.evaluation
    if retrain is not None and "winner" in retrain.roles:
        role = retrain.roles["winner"]
        lines.append(("Winner", f"test accuracy {words.measured(role)}; {_costs_and_limit(record, role)}."))
        for name in [name for name in words.ROLES if name != "winner"]:
            heading = f"Over {words.role(name)}"
            if name in retrain.gains:
                lines.append((heading, f"{words.gain(retrain.gains[name])}."))
            elif name in retrain.roles:
                lines.append((heading, "not known: a training is missing."))
            elif name == "best_generated" and record.generated:
                lines.append((heading, "the winner is itself the best of the generated architectures."))
    elif winner is not None and search is not None:
        predicted = words.metric(winner.predicted, is_fraction(search.metric, [winner.predicted]))
        lines.append(
            ("Winner", f"predicted {search.metric} {predicted}, not trained yet; {_costs_and_limit(record, winner)}.")
        )
    if search is not None:
        fraction = _is_fraction(record)
        best = [words.metric(kind.best[0].predicted, fraction) for kind in (search.evolution, search.random)]
        lines.append(
            ("Search", f"best prediction {best[0]} by evolution, {best[1]} by random search, "
             f"{search.evolution.queries:,} and {search.random.queries:,} queries.")
        )  # fmt: skip
        if search.trust is not None:
            low, high = (words.metric(value, fraction) for value in search.trust.interval)
            how = "was taken by hand" if search.taken else "was chosen for its prediction, and is likelier below"
            far = ", so little is known of it" if search.trust.far else ""
            lines.append(
                ("Winner's prediction", f"an architecture like the labelled ones would lie between {low} and {high} "
                 f"({words.percent(search.trust.level, 0)} interval); the winner {how}. It is "
                 f"{search.trust.distance:.1f} times as far from the nearest labelled one as those are from each "
                 f"other{far}.")
            )  # fmt: skip
    lines += front_summary(record)
    if evaluation is not None:
        lines.append(("Predictor", f"{words.trust(evaluation)}."))
        if evaluation.proxy is None:
            lines.append(("Label noise", f"{words.noise(evaluation.label_noise, evaluation.is_fraction)}."))
    if record.fidelity is not None:
        lines.append(("Cheap labels", f"{words.cheapest(record.fidelity)}."))
    if record.generated:
        best_label = max(record.generated, key=lambda row: row.accuracy)
        lines.append(
            ("Generated", f"{words.count(len(record.generated), 'architecture')} trained, "
             f"{words.count(len(record.generate.failures), 'failed training')}; the highest label is "
             f"{words.percent(best_label.accuracy)} validation accuracy (as the highest of many, it flatters).")
        )  # fmt: skip
    elif record.generate.failures:
        lines.append(("Generated", f"nothing: {words.count(len(record.generate.failures), 'training')} failed."))
    return [(heading, sentence[0].upper() + sentence[1:]) for heading, sentence in lines]


def sections(record: Record) -> list[Section]:
    """All parts in order."""
    return [
        _predicted(record),
        _accuracy(record),
        *([_fidelity(record.fidelity)] if record.fidelity is not None else []),
        _search(record),
        *([_sweep(record)] if record.sweep is not None else []),
        *([_front(record.front, record.winner)] if record.front is not None else []),
        *front_sections(record),
        *robust_sections(record),
        _drawing(record),
        _retrain(record),
        _curves(record),
        _failures(record),
        *([_nodes(record.nodes)] if any(node.name for node in record.nodes) else []),
        _time(record),
    ]


def _generate_stage(record: Record) -> Stage:
    generate = record.generate
    done = len(generate.results)
    if not generate.planned:
        if record.evaluation is not None:
            return Stage("generate", "done", f"not used: the predictor learnt from {_source(record.evaluation)}")
        return Stage("generate", "not yet", "nothing planned")
    text = f"{done} of {words.count(generate.planned, 'training')} done"
    if generate.failures:
        text += f", {len(generate.failures)} failed"
    if generate.running:
        text += f", {generate.running} running or cut off"
    ended = done + len(generate.final or ())
    if ended < generate.planned:
        return Stage("generate", "partly", text)
    return Stage("generate", "done" if done else "failed", text)


def _fit_stage(record: Record) -> Stage:
    evaluation = record.evaluation
    if evaluation is None:
        return Stage("fit", "not yet", "no predictor")
    if evaluation.proxy is not None:
        scored = words.count(evaluation.rows, "architecture")
        return Stage("fit", "done", f"learnt from the training-free scores of {scored}: a proxy, not accuracy")
    text = f"learnt from {words.count(evaluation.rows, 'label')}"
    if record.own_labels and evaluation.rows != len(record.generated):
        return Stage("fit", "outdated", f"{text}, and there are {len(record.generated)} now")
    return Stage("fit", "done", text)


def _search_stage(record: Record) -> Stage:
    if record.search is None or record.winner is None:
        return Stage("search", "not yet", "no winner")
    return Stage("search", "done", words.count(record.search.evolution.queries, "query").replace("querys", "queries"))


def _retrain_stage(record: Record) -> Stage:
    retrain, trainings = record.retrain, record.retraining
    text = f"{len(trainings.results)} of {words.count(trainings.planned, 'training')} done"
    if retrain is None:
        return Stage("retrain", "partly", text) if trainings.planned else Stage("retrain", "not yet", "not trained yet")
    if record.winner is not None and "winner" in retrain.roles and retrain.roles["winner"].key != record.winner.key:
        return Stage("retrain", "outdated", "an earlier winner was trained; the search has found another since")
    if any(not role.test_accuracies for role in retrain.roles.values()):
        return Stage("retrain", "partly", text)
    trained = sum(len(role.test_accuracies) for role in retrain.roles.values())
    return Stage("retrain", "done", words.count(trained, "training"))


def _predicted(record: Record) -> Section:
    evaluation = record.evaluation
    target = "measured accuracy" if evaluation is None or evaluation.proxy is None else "a training-free proxy"
    key, title = "predicted", f"Predicted against {target}"
    if evaluation is None or not evaluation.held_out:
        return Section(key, title, "There is no predictor yet.")
    scale = 100 if evaluation.is_fraction else 1
    source = "this run's labels" if record.own_labels else _source(evaluation)
    figure = figures.predicted_against_measured(
        [(scale * row.measured, scale * row.predicted) for row in evaluation.held_out], _unit(evaluation)
    )
    known = "labelled" if evaluation.proxy is None else "scored"
    caption = (
        f"{words.count(len(evaluation.held_out), 'held-out architecture')} of "
        f"{evaluation.rows} {known} ones. The predictor judged here learnt from {evaluation.train_size}; the one that "
        f"searches has learnt from all {evaluation.rows}. Source: predictor/evaluation.json, from {source}."
    )
    taus = Table(
        ("predictor", "Kendall tau", "95 % interval", f"mean of {words.count(evaluation.splits, 'split')}"),
        [
            (
                f"{MODELS.get(name, name)}{' (searches)' if name == evaluation.model else ''}",
                words.tau(model.tau),
                words.interval(model.tau_ci95),
                "" if model.tau_splits is None else words.tau(model.tau_splits),
            )
            for name, model in evaluation.models.items()
        ],
    )
    text = [
        "Kendall tau compares the predicted with the measured order of the held-out architectures. Larger is "
        "better: 1 is the same order, 0 no relation. Intervals come from resampling these architectures; they do "
        "not tell how another split would have gone.",
    ]
    if evaluation.proxy is not None:
        text.insert(0, "Nothing was trained for it: its target is a training-free proxy, and not accuracy.")
    if (remark := _baselines(evaluation)) is not None:
        text.append(remark)
    text += _trust(evaluation)
    rows = [(row.id, row.measured, row.predicted) for row in evaluation.held_out]
    return Section(
        key, title, text=text, figure=figure, caption=caption, tables=[taus],
        details=[csv_details(("id", f"measured_{evaluation.metric}", f"predicted_{evaluation.metric}"), rows)],
    )  # fmt: skip


def _source(evaluation: Evaluation) -> str:
    """What a predictor learnt from where it was not the run's own labels."""
    return "another label table" if evaluation.proxy is None else "training-free scores"


def _baselines(evaluation: Evaluation) -> str | None:
    own = evaluation.searching
    others = {name: model.tau for name, model in evaluation.models.items() if name != evaluation.model}
    if not others:
        return None
    best = max(others, key=lambda name: others[name])
    name = MODELS.get(best, best)
    if others[best] >= own.tau_ci95[0]:
        if others[best] > own.tau_ci95[1]:
            return f"The best of the others ({name}) lies above the interval of the one that searches."
        order = "behind" if others[best] < own.tau else "ahead" if others[best] > own.tau else "level"
        return (
            f"The best of the others ({name}) lies {order}, within the interval of the one that searches: this split "
            f"cannot tell the two apart."
        )
    return f"The best of the others ({name}) lies below the interval of the one that searches."


def _trust(evaluation: Evaluation) -> list[str]:
    """What else than tau tells how far the order holds."""
    trust, lines = evaluation.trust, list[str]()
    if trust is None:
        return lines
    if evaluation.proxy is None:
        lines.append(trust.verdict)
    parts = [f"{words.percent(trust.precision_top5, 0)} of the predicted best 5 % are in the measured best 5 %"]
    if trust.tau_same_macs is not None:
        parts.append(f"among architectures of nearly equal MACs tau is {words.tau(trust.tau_same_macs)}")
    if trust.tau_top10 is not None:
        parts.append(f"in the measured best tenth {words.tau(trust.tau_top10)}")
    held = ", ".join(f"{level} intervals {words.percent(share, 0)}" for level, share in trust.coverage.items())
    lines.append(f"{'; '.join(parts)}. Of the held-out labels, {held} held (the same share is right).")
    curve = trust.learning_curve
    if len(curve.labels) > 1:
        points = ", ".join(
            f"{words.tau(tau)} after {labels}" for labels, tau in zip(curve.labels, curve.tau, strict=True)
        )
        more = (
            f"By that curve about {curve.more_labels} more labels would add {words.tau(curve.gain)}."
            if curve.more_labels is not None
            else f"The curve does not show how many more labels would add {words.tau(curve.gain)}."
        )
        lines.append(f"Kendall tau {points} labels, mean over {words.count(evaluation.splits, 'split')}. {more}")
    return lines


def _accuracy(record: Record) -> Section:
    key, title = "accuracy", "Accuracy against MACs"
    generated = record.generated
    if not generated:
        return Section(key, title, "No architecture of this run has a label yet.")
    cost = next((name for name in record.limits if name.endswith("macs")), "macs")
    limited = record.limits.get(cost)
    limit = limited if isinstance(limited, int) else None
    winner = record.winner
    star = None
    if winner is not None and record.search is not None and record.search.metric == "accuracy":
        star = ((winner.cost(cost) or 0) / 1e6, 100 * winner.predicted)
    axis = "MACs per image (million)" if cost == "macs" else "convolution MACs per image (million)"
    figure = figures.accuracy_against_cost(
        [(row.costs[cost] / 1e6, 100 * row.accuracy) for row in generated],
        star, None if limit is None else limit / 1e6, axis, "validation accuracy (%)",
    )  # fmt: skip
    trainings = len(record.generate.results)
    images = None if record.meta is None else record.meta.images
    counts = "" if images is None else f" ({images.train:,} training and {images.validation:,} validation images)"
    caption = (
        f"{words.count(len(generated), 'generated architecture')}, {words.count(trainings, 'training')}; accuracy on "
        f"the validation split{counts} after the last epoch, the mean where one was trained more than once. "
        f"Source: store.db{', winner/architecture.json' if star else ''}. {CONVENTION}"
    )
    text = []
    others = {name: value for name, value in record.limits.items() if name != cost or limit is None}
    if others:
        text.append(f"Not shown as a line: {words.limits(others)}.")
    if star is not None:
        text.append(
            "The star is a prediction, and the highest of thousands: expect less of the measurement. "
            "Retraining uses another protocol (training and validation images together, measured on the test "
            "split), so its accuracies do not belong on this axis."
        )
    rows = [(row.key, *(row.costs[name] for name in words.COSTS), row.accuracy, row.trainings) for row in generated]
    return Section(
        key, title, text=text, figure=figure, caption=caption,
        details=[csv_details(("architecture", *words.COSTS, "validation_accuracy", "trainings"), rows)],
    )  # fmt: skip


def _fidelity(fidelity: Fidelity) -> Section:
    kinds = list(dict.fromkeys(kind for entry in fidelity.settings.values() for kind in entry.labels))
    measured = {
        kind: [
            (100 * entry.cost, entry.labels[kind].tau, *entry.labels[kind].tau_ci95)
            for entry in fidelity.settings.values()
            if kind in entry.labels
        ]
        for kind in kinds
    }
    pick = None if fidelity.pick is None else (100 * fidelity.pick.cost, fidelity.pick.tau)
    baseline = None if fidelity.macs is None else fidelity.macs.tau
    shown = {words.LABELS.get(kind, kind): rows for kind, rows in measured.items()}
    figure = figures.tau_against_cost(shown, fidelity.threshold, baseline, pick) if kinds else ""
    rows = [
        (
            name,
            f"{entry.epochs:,}",
            f"{entry.train_images:,}",
            f"{entry.input_size}",
            f"{entry.width:g}",
            f"{100 * entry.cost:.1f}",
            f"{100 * entry.seconds_share:.1f}",
            *(words.tau_and_interval(entry.labels[kind]) if kind in entry.labels else "" for kind in kinds),
        )
        for name, entry in fidelity.settings.items()
    ]
    head = ("setting", "epochs", "images", "side", "width", "cost (%)", "time (%)")
    table = Table((*head, *(f"tau of {words.LABELS.get(kind, kind)}" for kind in kinds)), rows)
    caption = (
        f"Kendall tau of each cheap label against the validation accuracy of the full recipe, on "
        f"{words.count(fidelity.architectures, 'architecture')}; larger is better, lines are 95 % intervals from "
        f"resampling the architectures. Cost is epochs × images × MACs, exact; time is what was measured, validation "
        f"included. Source: fidelity.json, from store.db."
    )
    data = [
        (name, kind, entry.cost, entry.seconds_share, label.tau, *label.tau_ci95, entry.architectures)
        for name, entry in fidelity.settings.items()
        for kind, label in entry.labels.items()
    ]
    columns = ("setting", "label", "cost", "seconds_share", "tau", "low", "high", "architectures")
    return Section(
        "fidelity", "Cheap labels", text=[f"{words.cheapest(fidelity)}."], figure=figure, caption=caption,
        tables=[table], details=[csv_details(columns, data)],
    )  # fmt: skip


def _search(record: Record) -> Section:
    key, title = "search", "Search"
    search = record.search
    if search is None:
        return Section(key, title, "Nothing has been searched yet.")
    fraction = _is_fraction(record)
    scale = 100 if fraction else 1
    histories = [("evolution", search.evolution), ("random", search.random)]
    curves = [[(float(queries), scale * best) for queries, best in found.history] for _, found in histories]
    unit = f"{search.metric.replace('_', ' ')} (%)" if fraction else search.metric
    figure = figures.search_curve(curves[0], curves[1], unit) if all(curves) else ""
    difference = search.evolution.best[0].predicted - search.random.best[0].predicted
    size = f"{words.points(abs(difference), sign=False)} percentage points" if fraction else f"{abs(difference):.3g}"
    place = f"lies {size} {'above' if difference > 0 else 'below'}" if difference else "equals"
    text = [
        f"The best prediction of evolution {place} that of random "
        f"search, after {search.evolution.queries:,} and {search.random.queries:,} queries. These are predictions, not "
        f"measurements: the difference shows how well the search uses the predictor, and retraining shows what that "
        f"is worth."
    ]
    if search.evolution.exhausted:
        text.append("Evolution ended early: it found no further architecture within the limits.")
    caption = (
        f"Best prediction after each generation, higher is better; one run of each. Every architecture scored is "
        f"distinct and within the limit ({words.limits(search.limits)}). Source: winner/search.json."
    )
    rows = [(name, queries, best) for name, found in histories for queries, best in found.history]
    limited = [name for name in record.limits if name not in ("macs", "params")]
    top = Table(
        ("best by prediction", f"predicted {unit}", "MACs (million)", "parameters", *limited, "distance"),
        [_candidate_row(candidate, scale, limited) for candidate in search.evolution.best[:_MOST_CANDIDATES]],
    )
    far = sum(candidate.far for candidate in search.evolution.best)
    if far:
        text.append(
            f"{words.count(far, 'candidate')} of the {len(search.evolution.best)} best "
            f"{'lies' if far == 1 else 'lie'} more than twice as far from the labelled architectures as those lie "
            f"from each other: predictions there are guesses."
        )
    if search.acquisition != "mean":
        text.append(f"What was maximised is not the mean prediction but: {search.acquisition}.")
    return Section(
        key, title, text=text, figure=figure, caption=caption, tables=[top],
        details=[csv_details(("search", "queries", f"best_predicted_{search.metric}"), rows)],
    )  # fmt: skip


_MOST_CANDIDATES = 10


def _candidate_row(candidate: Candidate, scale: float, limited: Sequence[str]) -> tuple[str, ...]:
    distance = "" if candidate.distance is None else f"{candidate.distance:.1f}{' (far)' if candidate.far else ''}"
    others = (candidate.cost(name) for name in limited)
    return (
        candidate.architecture,
        f"{scale * candidate.predicted:.2f}" if scale != 1 else f"{candidate.predicted:.4g}",
        f"{candidate.macs / 1e6:,.3f}",
        f"{candidate.params:,}",
        *("" if value is None else f"{value:,.6g}" for value in others),
        distance,
    )


def _sweep(record: Record) -> Section:
    key, title = "limits", "One winner for each limit"
    sweep = record.sweep
    assert sweep is not None
    fraction = is_fraction(sweep.metric, [candidate.predicted for candidate in sweep.front])
    scale, unit = (100, f"{sweep.metric.replace('_', ' ')} (%)") if fraction else (1, sweep.metric)
    million = 1e6 if sweep.cost.endswith("macs") else 1
    name = words.COSTS.get(sweep.cost, sweep.cost)
    axis = f"{name} per image (million)" if million > 1 else name
    points = [((one.cost(sweep.cost) or 0) / million, scale * one.predicted) for one in sweep.front]
    found = [row for row in sweep.winners if row.winner is not None]
    marks = [(row.limit / million, scale * row.winner.predicted) for row in found if row.winner is not None]
    figure = figures.front_curve(points, marks, axis, unit) if marks else ""
    rows = [
        (
            f"{row.limit / million:,.6g}",
            "nothing keeps it" if row.winner is None else row.winner.architecture,
            "" if row.winner is None else f"{scale * row.winner.predicted:.4g}",
            "" if row.winner is None else f"{(row.winner.cost(sweep.cost) or 0) / million:,.6g}",
        )
        for row in sweep.winners
    ]
    caption = (
        f"The line is what nothing cheaper is predicted to reach, of {sweep.queries:,} architectures scored in "
        f"{words.duration(sweep.seconds)}; dots are the winners at their limits. Predictions, not measurements; other "
        f"limits: {words.limits(sweep.limits)}. Source: winner/limits.json."
    )
    data = [(one.key, one.cost(sweep.cost), one.predicted) for one in sweep.front]
    return Section(
        key, title, figure=figure, caption=caption,
        tables=[Table((f"limit on {axis}", "winner", f"predicted {unit}", axis), rows)],
        details=[csv_details(("architecture", sweep.cost, f"predicted_{sweep.metric}"), data)],
    )  # fmt: skip


def _front(front: Front, winner: Winner | None) -> Section:
    """Two panels where there is a third objective: the first against each of the next two."""
    names = [one.name for one in front.objectives]
    units, columns = [], []
    for name in names:
        values = [row.value(name) for row in front.front]
        scale, unit = 1.0, f"predicted {name.replace('_', ' ')}"
        if is_fraction(name, values):
            scale, unit = 100.0, f"{unit} (%)"
        elif name in words.COSTS:
            million = name.endswith("macs") or name == "params"
            scale, unit = (1e-6, f"{words.COSTS[name]} (million)") if million else (1.0, words.COSTS[name])
        units.append(unit)
        columns.append([scale * value for value in values])
    taken = [number for number, row in enumerate(front.front) if winner is not None and row.key == winner.key]
    figure = figures.front_points(columns[:3], units[:3], taken[0] if taken else None)
    step = -(-len(front.front) // _MOST_POINTS)
    shown = [number for number in range(len(front.front)) if number % step == 0 or number in taken]
    rows = [
        (front.front[number].architecture + (" (winner)" if number in taken else ""),
         *(f"{column[number]:.4g}" for column in columns),
         "" if (distance := front.front[number].distance) is None else f"{distance:.1f}")
        for number in shown
    ]  # fmt: skip
    wanted = ", ".join(f"{'most' if one.maximised else 'least'} {one.name.replace('_', ' ')}"
                       for one in front.objectives)  # fmt: skip
    caption = (
        f"{len(front.front):,} architectures that nothing dominates ({wanted}), of {front.queries:,} scored in "
        f"{words.duration(front.seconds)}; limits: {words.limits(front.limits)}. Predictions, not measurements; the "
        f"distance is that from the nearest labelled network, 1 is as far as those are from each other, from 2 on "
        f"little is known. "
        f"{'' if step == 1 else f'The table has one in {step}. '}Source: winner/front.json."
    )
    data = [(row.key, *(row.value(name) for name in names), row.distance) for row in front.front]
    return Section(
        "front", "What is traded for what", figure=figure, caption=caption,
        tables=[Table(("architecture", *units, "distance"), rows)],
        details=[csv_details(("architecture", *names, "distance"), data)],
    )  # fmt: skip


def _drawing(record: Record) -> Section:
    key, title = "winner", "The winner"
    winner = record.winner
    if winner is None:
        return Section(key, title, "There is no winner yet.")
    graph = graph_from_json(winner.graph.get("nodes"), winner.graph.get("edges"))
    costs = Table(
        ("architecture", *words.COSTS.values()),
        [(winner.architecture, *(f"{winner.cost(name):,}" for name in words.COSTS))],
    )
    caption = (
        f"{len(graph.nodes)} operations, {len(graph.edges)} edges; the picture flows from top to bottom. Numbers are "
        f"channels (in → out), stride, dilation, and the side of the output where it changes. "
        f"Source: winner/architecture.json."
    )
    nodes = [
        (position, node.op, *(node.get(name) if node.get(name) else "" for name in _NODE_COLUMNS))
        for position, node in enumerate(graph.nodes)
    ]
    return Section(
        key, title, figure=draw_graph(graph), caption=caption, tables=[costs],
        details=[
            csv_details(("node", "operation", *_NODE_COLUMNS), nodes, "Nodes as CSV"),
            csv_details(("from", "to"), graph.edges, "Edges as CSV"),
        ],
    )  # fmt: skip


_NODE_COLUMNS = ("in", "out", "kernel", "stride", "dilation", "groups", "resolution", "macs", "params")


def _retrain(record: Record) -> Section:
    key, title = "retrain", "Retraining from scratch"
    retrain = record.retrain
    if retrain is None:
        trained = len(record.retraining.results)
        missing = f"Only {trained} of {record.retraining.planned} trainings are done." if trained else (
            "The winner has not been trained yet."
        )  # fmt: skip
        return Section(key, title, missing)
    rows, data = [], []
    corrupted = all(role.robust_accuracy for role in retrain.roles.values() if role.test_accuracies)
    for name, role in retrain.roles.items():
        spread = "" if role.standard_deviation is None else f" ± {words.points(role.standard_deviation, sign=False)}"
        rows.append(
            (
                words.role(name),
                role.architecture,
                f"{role.macs / 1e6:,.3f}",
                f"{role.params:,}",
                ", ".join(f"{100 * value:.1f}" for value in role.test_accuracies) or "none",
                "" if role.mean is None else f"{100 * role.mean:.1f}{spread}",
                *([_mean_of(role.robust_accuracy, 100, 1), _mean_of(role.relative_robustness, 1, 3)] * corrupted),
            )
        )
        columns_of = [role.test_accuracies, *((role.robust_accuracy, role.relative_robustness) if corrupted else ())]
        data += [
            (name, role.key, role.macs, role.conv_macs, role.params, number, *values)
            for number, values in enumerate(zip_longest(*columns_of))
        ]
    head = ("role", "architecture", "MACs (million)", "parameters", "test accuracy of each seed (%)", "mean ± sd (%)")
    more = ("corrupted (%)", "relative robustness") if corrupted else ()
    accuracies = Table((*head, *more), rows, left=2)
    metric = "accuracy" if record.search is None else record.search.metric
    text = [f"Winner less {words.role(name)}: {words.gain(gain)}." for name, gain in retrain.gains.items()]
    text += [
        f"Winner less {words.role(name)}, on corrupted test images: {words.gain(gain)}."
        for name, gain in retrain.robust_gains.items()
    ]
    winner = retrain.roles.get("winner")
    found = None if winner is None else _measured(winner, metric)
    if found is not None and _is_fraction(record):
        text.append(
            f"Predicted for the winner: {metric.replace('_', ' ')} {words.percent(retrain.predicted)} on validation "
            f"images, trained as the labelled ones were; measured here on other images after training on more: "
            f"{words.percent(found)}."
        )
    if "best_generated" in retrain.roles:
        text.append(
            f"The best generated architecture is the best by validation {metric.replace('_', ' ')} of "
            f"{len(record.generated):,} that were trained: of a random sample, what as many trainings find without a "
            f"search."
        )
    if record.generated and "best_generated" not in retrain.roles:
        text.append("The best generated architecture is the winner itself, so it is no control.")
    if winner is not None and winner.mean is not None:
        text.append(
            f"Intervals cover the seeds alone (Welch's t). The test split has {retrain.test_images:,} images, which "
            f"by itself gives each accuracy a standard error of about "
            f"{words.standard_error(winner.mean, retrain.test_images)} percentage points, shared by all rows."
        )
    text.append(
        "The test split was read here and nowhere before, once a training, after the last epoch; nothing was "
        "chosen by it."
    )
    if retrain.model is not None:
        text.append(
            f"winner/model.py and winner/weights.safetensors hold the training with seed {retrain.model.seed} (test "
            f"accuracy {words.percent(retrain.model.test_accuracy)}); its scores differ from the trained network's by "
            f"{retrain.model.largest_difference:.1g} at most."
        )
    caption = (
        f"All trained with one recipe on {retrain.training_images:,} images (training and validation split), measured "
        f"on the {retrain.test_images:,} of the test split. Higher is better. Source: winner/retrain.json."
    )
    measured = ("test_accuracy", *(("robust_accuracy", "relative_robustness") if corrupted else ()))
    columns = ("role", "architecture", "macs", "conv_macs", "params", "training", *measured)
    return Section(key, title, text=text, caption=caption, tables=[accuracies], details=[csv_details(columns, data)])


def _measured(role: Role, metric: str) -> float | None:
    """What a metric that was searched for came to on test images, where it was measured."""
    if metric == "accuracy":
        return role.mean
    values = role.robust_accuracy if metric == "robust_accuracy" else ()
    return sum(values) / len(values) if values else None


def _mean_of(values: Sequence[float], scale: float, digits: int) -> str:
    return f"{scale * sum(values) / len(values):.{digits}f}" if values else ""


def _curves(record: Record) -> Section:
    key, title = "curves", "Training curves"
    trainings, read = len(record.generate.results), len(record.generate.curves)
    training, validation = _by_epoch(record.generate.curves)
    curves = [("training", quartiles(training)), ("validation", quartiles(validation))]
    curves = [(name, rows) for name, rows in curves if rows]
    if not curves:
        return Section(key, title, "No architecture of this run has been trained yet.")
    figure = figures.training_curves(
        [(name, [(row[0], *(100 * value for value in row[2:])) for row in rows]) for name, rows in curves]  # type: ignore[misc]
    )
    which = "" if read == trainings else f"{read:,} evenly spaced of "
    caption = (
        f"Median (line) and middle half (band) over {which}{words.count(trainings, 'training')} of "
        f"{words.count(len(record.generated), 'generated architecture')}. Training accuracy is counted during the "
        f"epoch, on augmented images; validation accuracy after it, where it was looked at. Source: store.db."
    )
    data = [(name, *row) for name, rows in curves for row in rows]
    columns = ("split", "epoch", "trainings", "lower_quartile", "median", "upper_quartile")
    return Section(key, title, figure=figure, caption=caption, details=[csv_details(columns, data)])


def _by_epoch(
    trainings: Sequence[Mapping[str, Sequence[float]]],
) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Training and validation accuracies of the trainings with these curves by epoch."""
    training: dict[int, list[float]] = {}
    validation: dict[int, list[float]] = {}
    for curves in trainings:
        for epoch, value in enumerate(curves.get("train_accuracy", ()), 1):
            training.setdefault(epoch, []).append(value)
        watched = curves.get("validation_epochs", ()), curves.get("validation_accuracy", ())
        for number, value in zip(*watched, strict=True):
            validation.setdefault(int(number), []).append(value)
    return training, validation


def quartiles(grouped: Mapping[int, Sequence[float]]) -> list[tuple[int, int, float, float, float]]:
    """(epoch, trainings, lower quartile, median, upper quartile) for each epoch in order."""
    rows = []
    for epoch, values in sorted(grouped.items()):
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        rows.append((epoch, len(values), float(low), float(middle), float(high)))
    return rows


def _stages(record: Record) -> list[tuple[str, Trainings]]:
    """Every stage that trains, by its name, in order."""
    return [("generate", record.generate), *record.cheap.items(), ("retrain", record.retraining)]


def _failures(record: Record) -> Section:
    key, title = "failures", "Failures"
    rows = [
        (stage, failure.kind, failure.job.architecture.key, str(failure.job.seed), str(failure.attempts),
         _tried_again(trainings.final, failure), failure.message)
        for stage, trainings in _stages(record)
        for failure in trainings.failures
    ]  # fmt: skip
    cut = sum(label.pieces > 1 for _, trainings in _stages(record) for label in trainings.results)
    text = [
        f"{words.count(cut, 'training')} had each batch cut in pieces, for want of memory: batch norms there saw "
        f"fewer images at a time."
    ] if cut else []  # fmt: skip
    if not rows:
        return Section(key, title, text=["None.", *text])
    head = ("stage", "kind", "architecture", "seed", "attempts", "tried again", "message")
    short = [(*row[:-1], textwrap.shorten(row[-1], _MESSAGE, placeholder=" …")) for row in rows]
    caption = (
        f"{words.count(len(rows), 'training')} without a result; the message of the last attempt. The other trainings "
        f"are not affected. Source: store.db."
    )
    table = Table(head, short, left=len(head))
    details = [csv_details(head, rows, "Whole messages as CSV")]
    return Section(key, title, text=text, caption=caption, tables=[table], details=details)


def _tried_again(final: frozenset[int] | None, failure: Failure) -> str:
    if final is None:
        return "not known"
    return "no" if failure.job.id in final else "yes"


def _nodes(nodes: Sequence[NodeCount]) -> Section:
    kinds = sorted({kind for node in nodes for kind in node.failed})
    counts = [[node.done, *(node.failed.get(kind, 0) for kind in kinds), node.interrupted] for node in nodes]
    rows = [
        (node.name or "not known", *(f"{number:,}" for number in numbers), words.duration(node.seconds))
        for node, numbers in zip(nodes, counts, strict=True)
    ]
    caption = (
        "Attempts of all stages by the machine that they ran on. Training time is that of the trainings that are done, "
        "all workers of a node together. What was interrupted is no failure: it goes on, on any node. Source: store.db."
    )
    head = ("node", "trainings done", *kinds, "interrupted", "training time")
    data = [(node.name, *numbers, node.seconds) for node, numbers in zip(nodes, counts, strict=True)]
    columns = ("node", "done", *kinds, "interrupted", "seconds")
    return Section(
        "nodes",
        "Where it was trained",
        caption=caption,
        tables=[Table(head, rows)],
        details=[csv_details(columns, data, "The table as CSV")],
    )


def _time(record: Record) -> Section:
    rows = []
    for stage, trainings in _stages(record):
        results = trainings.results
        if results or trainings.seconds:
            rows.append(
                (
                    stage,
                    words.duration(sum(trainings.seconds)) if trainings.seconds else "not recorded",
                    str(len(trainings.seconds)),
                    str(len(results)),
                    words.duration(sum(result.seconds for result in results)),
                    words.duration(float(np.median([result.seconds for result in results]))) if results else "",
                    f"{max(result.peak_memory for result in results) / 2**20:,.0f}" if results else "",
                )
            )
    if record.evaluation is not None:
        rows.insert(1, ("fit", words.duration(record.evaluation.seconds), "1", "", "", "", ""))
    if record.search is not None:
        rows.insert(2, ("search", words.duration(record.search.seconds), "1", "", "", "", ""))
    order = ("generate", *record.cheap, "fit", "search", "retrain")
    rows.sort(key=lambda row: order.index(row[0]))
    times = Table(
        ("stage", "wall time", "calls", "trainings", "training time, all workers", "median training",
         "peak memory (MiB)"), rows,
    )  # fmt: skip
    tables = [times] if rows else []
    if record.meta is not None:
        tables.append(Table(("made with", ""), _machine(record), left=2))
    details = [("Resolved configuration (config.yml)", record.config_text)] if record.config_text else []
    caption = (
        "Wall time is that of calls that ended; one that was killed leaves its trainings and no time of its own. "
        "Sources: store.db, predictor/evaluation.json, winner/search.json, meta.json."
    )
    return Section("time", "Time, machine, settings", caption=caption, tables=tables, details=details)


def _machine(record: Record) -> list[tuple[str, str]]:
    meta = record.meta
    if meta is None:
        return []
    packages = ", ".join(f"{name} {version}" for name, version in meta.packages.items() if version)
    rows = [
        ("command", shlex.join(meta.command)),
        ("seed", "" if meta.seed is None else str(meta.seed)),
        ("processor", meta.processor or ""),
        ("GPUs", ", ".join(meta.gpus) or "none"),
        ("platform", meta.platform or ""),
        ("versions", f"Python {meta.python}, {packages}" if packages else f"Python {meta.python}"),
        ("git commit", meta.git_commit or ""),
    ]
    return [(name, value) for name, value in rows if value]


def _costs_and_limit(record: Record, costed: Costed) -> str:
    names = list(dict.fromkeys(("macs", *record.limits, "params")))
    parts = [words.cost(name, value) for name in names if (value := costed.cost(name)) is not None]
    return f"{', '.join(parts)} (limit: {words.limits(record.limits)})"


def _is_fraction(record: Record) -> bool:
    """Whether predictions of the search are accuracies to be shown in percent."""
    if record.evaluation is not None:
        return record.evaluation.is_fraction
    return record.search is not None and is_fraction(record.search.metric, [])


def _unit(evaluation: Evaluation) -> str:
    if evaluation.metric == "accuracy" and evaluation.is_fraction:
        return "validation accuracy (%)"
    return f"{evaluation.metric.replace('_', ' ')} (%)" if evaluation.is_fraction else evaluation.metric
