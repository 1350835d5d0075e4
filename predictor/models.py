"""Fitted predictors: components on one encoding of graphs, weighted by how they rank what they have not seen."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from predictor.components import COMPONENTS, READERS, Arrays, Component, Fitted, Flat, Scorer, Task, View
from predictor.features import FlatEncoder
from predictor.files import read_predictor, write_predictor
from predictor.labels import NormalScores, labels, normal_scores
from predictor.settings import GraphPredictorSettings
from predictor.structure import Floats, Ints, Structure
from predictor.weighting import blend_weights
from supernet import ArchGraph, InputError, LabelTable
from supernet.settings import nearest

_Result = TypeVar("_Result")

_FOLDS = 5
_MOST_ROWS = 2000  # training graphs that distances are measured to
_EVERYTHING = 100.0  # deviations that no label is off by
_MOST_THREADS = 4
_CHUNK = 512  # architectures encoded and scored at a time: memory stays flat


MODELS: dict[str, tuple[str, ...]] = {
    "hybrid": ("gaussian", "boosted", "extra", "graph", "informed"),
    "graph": ("graph", "informed"),
    "gp": ("gaussian",),
    "ridge": ("ridge",),
    "trees": ("boosted", "extra"),
    "mlp": ("perceptron",),
    "macs": ("macs",),
}
"""Components of each model; ``hybrid`` is the default."""


class Scored(NamedTuple):
    """Normal scores of graphs, and how uncertain they are in the same units, each (graphs,)."""

    scores: Floats
    deviations: Floats


@dataclass(frozen=True)
class Predictor:
    """A fitted predictor.

    Attributes:
        model: a key of :data:`MODELS`.
        metric: what it predicts, in the units of its labels.
        encoder: of graphs.
        components: by name, those with a weight; the weights sum to 1.
        label_scores: between normal scores and labels.
        surprises: for the training graphs, how many deviations the label lay from what was predicted without its fold,
            ascending, (graphs,).
        deviation: in normal scores, where no Gaussian process says one for each architecture.
        rows: flat columns of the training graphs, (graphs, columns).
        reach: median distance between a training graph and the nearest other.
    """

    model: str
    metric: str
    encoder: FlatEncoder
    components: Mapping[str, Component]
    weights: Mapping[str, float]
    label_scores: NormalScores
    surprises: Floats
    deviation: float
    rows: NDArray[np.float32]
    reach: float

    @property
    def features(self) -> tuple[str, ...]:
        """Per-architecture numbers that every prediction must bring."""
        return self.encoder.features

    def predict(self, graphs: Sequence[ArchGraph], features: Sequence[Mapping[str, float]] | None = None) -> Floats:
        """The metric expected of each graph, in its own units, (graphs,).

        Args:
            features: per-architecture numbers, needed where the fit used them.

        Raises:
            InputError: a feature that the fit used is missing.
        """
        return self.label_scores.value(self.score(graphs, features, deviations=False).scores)

    def score(
        self,
        graphs: Sequence[ArchGraph],
        features: Sequence[Mapping[str, float]] | None = None,
        deviations: bool = True,
    ) -> Scored:
        """Normal scores, whose order is that of :meth:`predict`, and their deviations.

        Args:
            deviations: each its own, which takes as long as the scores; without them all are alike.
        """
        return score_models({"": self}, graphs, features, deviations)[""]

    def interval(self, scored: Scored, level: float) -> tuple[Floats, Floats]:
        """Ends of intervals that hold a new label with a given probability, each (graphs,).

        Cross-conformal (Vovk 2015): as many deviations wide as held the labels of the training graphs when those were
        predicted without their fold. It holds for architectures drawn as the training graphs were; a winner is not.
        Where labels are too few for the level, the interval is the whole range of labels and somewhat more.

        Args:
            level: above 0, below 1.
        """
        count = len(self.surprises)
        rank = math.ceil(level * (count + 1))
        width = scored.deviations * (self.surprises[rank - 1] if rank <= count else _EVERYTHING)
        return self.label_scores.value(scored.scores - width), self.label_scores.value(scored.scores + width)

    def distance(self, graphs: Sequence[ArchGraph], features: Sequence[Mapping[str, float]] | None = None) -> Floats:
        """How far each graph is from the nearest training graph, (graphs,); 1 is as far as those are from each other.

        Root mean square over standardised columns; larger means that the predictor has seen less like it.
        """
        rows = self.rows.astype(np.float64)
        parts = _each_chunk(
            lambda start: _nearest(_view(self.encoder, graphs, features, start).flat, rows), len(graphs)
        )
        return np.concatenate(parts or [np.empty(0)]) / self.reach

    def save(self, folder: Path) -> None:
        """Write predictor.safetensors and predictor.json. Raises UnavailableError where that is impossible."""
        arrays: dict[str, NDArray[np.generic]] = {
            "label_scores": self.label_scores.scores,
            "label_values": self.label_scores.values,
            "surprises": self.surprises,
            "rows": self.rows,
        }
        states = {}
        for name, component in self.components.items():
            own, states[name] = component.state()
            arrays |= {f"{name}/{key}": value for key, value in own.items()}
        content = {
            "model": self.model,
            "metric": self.metric,
            "encoder": self.encoder.to_json(),
            "components": states,
            "weights": dict(self.weights),
            "deviation": self.deviation,
            "reach": self.reach,
        }
        write_predictor(folder, arrays, content)

    @staticmethod
    def load(folder: Path) -> Predictor:
        """The predictor that :meth:`save` wrote. Raises InputError for missing, damaged or foreign files."""
        arrays, content = read_predictor(folder)
        try:
            return _from_parts(arrays, content)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
            raise InputError(f"{folder}: the predictor's parts do not fit together ({error!s:.200})") from error


def fit_predictor(
    table: LabelTable,
    metric: str,
    model: str = "hybrid",
    seed: int = 0,
    settings: GraphPredictorSettings | None = None,
    use_features: bool = True,
) -> Predictor:
    """Fit one model, see :func:`fit_models`."""
    return fit_models(table, metric, (model,), seed, settings, use_features)[model].predictor


class FittedModel(NamedTuple):
    """A predictor, and the seconds that it would take to fit alone."""

    predictor: Predictor
    seconds: float


def fit_models(
    table: LabelTable,
    metric: str,
    models: Sequence[str] = ("hybrid",),
    seed: int = 0,
    settings: GraphPredictorSettings | None = None,
    use_features: bool = True,
    unlabelled: Sequence[ArchGraph] = (),
) -> dict[str, FittedModel]:
    """Fit some models, which share what they have in common; the same arguments give the same on one machine.

    Args:
        settings: of the graph networks.
        use_features: whether the table's ``features`` enter, those that all rows have; a prediction must then bring
            them.
        unlabelled: further graphs that the graph networks learn to describe, where
            ``settings.pretraining_steps`` is not 0 and no features are used.

    Raises:
        InputError: an unknown model, rows without the metric, fewer than 2 rows, or labels that are all equal.
    """
    for model in models:
        if model not in MODELS:
            raise InputError(f"model {model!r} does not exist; {nearest(model, MODELS)}")
    values = labels(table, metric)
    start = time.perf_counter()
    graphs = table.graphs
    features = [row.features for row in table.rows] if use_features else None
    encoder = FlatEncoder.fit(graphs, features)
    structure = Structure.of(graphs)
    view = View(encoder.encode(graphs, features), structure, structure.total_macs)
    y = normal_scores(values)
    settings = settings or GraphPredictorSettings()
    more = None
    if settings.pretraining_steps and not encoder.features:
        both = [*graphs, *unlabelled]
        whole = Structure.of(both)
        more = View(encoder.encode(both), whole, whole.total_macs)
    task = Task(view, encoder, y, _folds(len(y), seed), seed, settings, more)
    seconds = {"": time.perf_counter() - start}
    fitted = {}
    for name in dict.fromkeys(name for model in models for name in MODELS[model]):
        start = time.perf_counter()
        fitted[name] = COMPONENTS[name](task)
        seconds[name] = time.perf_counter() - start
    label_scores = NormalScores.of(values)
    return {
        model: FittedModel(
            _blend(model, metric, task, label_scores, {name: fitted[name] for name in MODELS[model]}),
            sum(seconds[name] for name in ("", *MODELS[model])),
        )
        for model in models
    }


def _blend(model: str, metric: str, task: Task, label_scores: NormalScores, fitted: Mapping[str, Fitted]) -> Predictor:
    weights = blend_weights({name: part.out_of_fold for name, part in fitted.items()}, task.y)
    blended = sum((weight * fitted[name].out_of_fold for name, weight in weights.items()), np.zeros(len(task.y)))
    errors = np.abs(task.y - blended)
    deviation = max(float(np.sqrt((errors**2).mean())), 1e-9)
    deviations = fitted["gaussian"].deviation if "gaussian" in weights else None
    rows = task.view.flat[:_MOST_ROWS].astype(np.float32)
    return Predictor(
        model,
        metric,
        task.encoder,
        {name: fitted[name].component for name in weights},
        weights,
        label_scores,
        np.sort(errors / (deviation if deviations is None else deviations)),
        deviation,
        rows,
        _reach(rows),
    )


def score_models(
    predictors: Mapping[str, Predictor],
    graphs: Sequence[ArchGraph],
    features: Sequence[Mapping[str, float]] | None = None,
    deviations: bool = True,
) -> dict[str, Scored]:
    """What predictors of one :func:`fit_models` say; each component is asked once.

    Chunks of graphs are scored side by side, one on each core; memory does not grow with their number.

    Args:
        deviations: also those of a Gaussian process, which take as long as its scores; without them they are all alike.
    """
    encoder = next(iter(predictors.values())).encoder
    components = {name: part for predictor in predictors.values() for name, part in predictor.components.items()}

    def score_chunk(start: int) -> dict[str, Scored]:
        view = _view(encoder, graphs, features, start)
        scores, own = {}, None
        for name, component in components.items():
            if name == "gaussian" and deviations and isinstance(component, Flat):
                scores[name], own = component.scores_and_deviations(view)
            else:
                scores[name] = component.scores(view)
        found = {}
        for name, predictor in predictors.items():
            blended = np.sum([weight * scores[part] for part, weight in predictor.weights.items()], axis=0)
            alike = "gaussian" not in predictor.components
            found[name] = Scored(blended, np.full(len(blended), predictor.deviation) if alike or own is None else own)
        return found

    chunks = _each_chunk(score_chunk, len(graphs))
    return {
        name: Scored(*(np.concatenate(column) for column in zip(*(chunk[name] for chunk in chunks), strict=True)))
        if chunks
        else Scored(np.empty(0), np.empty(0))
        for name in predictors
    }


def blended(
    encoder: FlatEncoder, scorers: Mapping[str, Scorer], weights: Mapping[str, float], graphs: Sequence[ArchGraph]
) -> Floats:
    """Weighted sum of what scorers say of graphs, (graphs,); in chunks, as :func:`score_models`."""

    def score_chunk(start: int) -> Floats:
        view = _view(encoder, graphs, None, start)
        return np.asarray(np.sum([weights[name] * scorers[name].scores(view) for name in weights], axis=0), np.float64)

    return np.concatenate([np.empty(0), *_each_chunk(score_chunk, len(graphs))])


def _each_chunk(work: Callable[[int], _Result], count: int) -> list[_Result]:
    """The results for the start of each chunk, in order."""
    starts = range(0, count, _CHUNK)
    workers = min(os.cpu_count() or 1, _MOST_THREADS, len(starts))
    if workers < 2:
        return [work(start) for start in starts]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, starts))


def _folds(count: int, seed: int) -> Ints:
    numbers = np.arange(count) % min(_FOLDS, count)
    return np.random.default_rng([seed, 5]).permutation(numbers)


def _view(
    encoder: FlatEncoder, graphs: Sequence[ArchGraph], features: Sequence[Mapping[str, float]] | None, start: int
) -> View:
    """Of one chunk."""
    structure = Structure.of(graphs[start : start + _CHUNK])
    flat = encoder.encode_structure(structure, features[start : start + _CHUNK] if features is not None else None)
    return View(flat, structure, structure.total_macs)


def _from_parts(arrays: Arrays, content: Mapping[str, Any]) -> Predictor:
    encoder = FlatEncoder.from_json(content["encoder"])
    components = {}
    for name, state in content["components"].items():
        own = {key.partition("/")[2]: value for key, value in arrays.items() if key.startswith(f"{name}/")}
        components[name] = READERS[name](own, state, encoder.width)
    weights = {str(name): float(weight) for name, weight in content["weights"].items()}
    rows = np.asarray(arrays["rows"], np.float32)
    scores, values, surprises = (
        np.asarray(arrays[name], np.float64) for name in ("label_scores", "label_values", "surprises")
    )
    if set(weights) != set(components) or not set(components) <= set(MODELS[content["model"]]):
        raise ValueError("the weights are of other components")
    if rows.ndim != 2 or rows.shape[1] != encoder.width or scores.shape != values.shape or len(scores) < 2:
        raise ValueError("the training graphs do not fit the encoder")
    return Predictor(
        str(content["model"]),
        str(content["metric"]),
        encoder,
        components,
        weights,
        NormalScores(scores, values),
        surprises,
        float(content["deviation"]),
        rows,
        float(content["reach"]),
    )


def _nearest(one: Floats, other: Floats) -> Floats:
    if not one.shape[1]:
        return np.zeros(len(one))
    one = one.astype(np.float32).astype(np.float64)  # rounded as the rows are
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None] - 2 * one @ other.T
    return np.asarray(np.sqrt(np.maximum(squares.min(axis=1), 0) / one.shape[1]), np.float64)


def _reach(rows: NDArray[np.float32]) -> float:
    if len(rows) < 2 or not rows.shape[1]:
        return 1.0
    squares = (rows**2).sum(axis=1)[:, None] + (rows**2).sum(axis=1)[None] - 2 * rows @ rows.T
    np.fill_diagonal(squares, np.inf)
    return max(float(np.median(np.sqrt(np.maximum(squares.min(axis=1), 0) / rows.shape[1]))), 1e-6)
