"""The parts that predictors are made of: models of flat columns, and of graphs.

A *component* scores architectures in normal scores (see :mod:`predictor.labels`). To add one, write a :data:`Fit` that
returns what the Protocol asks for, enter it in :data:`COMPONENTS` and its reader in :data:`READERS`, and name it in
:data:`predictor.models.MODELS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from predictor.encoding import GraphEncoder
from predictor.features import GROUPS, FlatEncoder
from predictor.gaussian import GaussianProcess, Term, fit_gaussian
from predictor.graph import GraphEnsemble, fit_ensemble, member_scores
from predictor.linear import Linear, Perceptron, fit_perceptron, fit_ridge
from predictor.settings import GraphPredictorSettings
from predictor.structure import Floats, Ints, Structure
from predictor.trees import Trees, fit_boosted, fit_extra

Arrays: TypeAlias = Mapping[str, NDArray[np.generic]]

_MOST_GAUSSIAN = 2000  # rows of a Gaussian process: its cost grows with their cube


class View(NamedTuple):
    """Some graphs as the components see them.

    Attributes:
        flat: standardised columns of :class:`FlatEncoder`, (graphs, columns).
        structure: what is alive in them.
        macs: total of all nodes, dead ones too, (graphs,).
    """

    flat: Floats
    structure: Structure
    macs: Floats


class Scorer(Protocol):
    """What scores architectures."""

    def scores(self, view: View) -> Floats:
        """Normal scores, larger where the metric is expected to be larger, (graphs,)."""


class Component(Scorer, Protocol):
    """A fitted component, which can be kept."""

    def state(self) -> tuple[Mapping[str, NDArray[np.generic]], Mapping[str, object]]:
        """Arrays, and what JSON can hold."""


class Fitted(NamedTuple):
    """A component, and what it says of each training graph when it has not learnt from that graph's fold."""

    component: Component
    out_of_fold: Floats
    deviation: Floats | None = None


class Task(NamedTuple):
    """What a component is fitted to: normal scores ``y`` of the graphs in ``view``, with ``folds`` from 0.

    ``unlabelled`` are graphs to pre-train on, those in ``view`` among them; None where that is not asked for.
    """

    view: View
    encoder: FlatEncoder
    y: Floats
    folds: Ints
    seed: int
    settings: GraphPredictorSettings
    unlabelled: View | None


Fit: TypeAlias = Callable[[Task], Fitted]


@dataclass(frozen=True, slots=True)
class _Macs:
    """Multiply-accumulates alone: log MACs, standardised."""

    center: float
    scale: float

    def scores(self, view: View) -> Floats:
        return np.asarray((np.log1p(np.maximum(view.macs, 0)) - self.center) / self.scale, np.float64)

    def state(self) -> tuple[Arrays, Mapping[str, object]]:
        return {}, {"center": self.center, "scale": self.scale}


@dataclass(frozen=True, slots=True)
class Flat:
    """A model of flat columns: a Gaussian process, trees, ridge or a perceptron."""

    model: GaussianProcess | Trees | Linear | Perceptron
    columns: Ints

    def scores(self, view: View) -> Floats:
        return self.model.predict(view.flat[:, self.columns])

    def scores_and_deviations(self, view: View) -> tuple[Floats, Floats]:
        """Of a Gaussian process."""
        assert isinstance(self.model, GaussianProcess)
        return self.model.predict_with_deviation(view.flat[:, self.columns])

    def state(self) -> tuple[Arrays, Mapping[str, object]]:
        return {"inputs": self.columns, **self.model.to_arrays()}, {}


@dataclass(frozen=True, slots=True)
class GraphNetworks:
    """An ensemble of graph networks, which sees some flat columns besides the graph."""

    encoder: GraphEncoder
    ensemble: GraphEnsemble
    columns: Ints
    settings: GraphPredictorSettings

    def scores(self, view: View) -> Floats:
        return np.asarray(self.each(view).mean(axis=1), np.float64)

    def each(self, view: View) -> Floats:
        """Scores of each network, (graphs, networks)."""
        encoded = self.encoder.encode(view.structure, _SCALARS * view.flat[:, self.columns])
        return member_scores(self.ensemble, encoded)

    def state(self) -> tuple[Arrays, Mapping[str, object]]:
        arrays = {f"network.{name}": value.numpy() for name, value in self.ensemble.state_dict().items()}
        content = {"encoder": self.encoder.to_json(), "settings": self.settings.model_dump()}
        return {"inputs": self.columns, **arrays}, content


_SCALARS = 0.2
"""Flat columns are many and rank badly alone: small numbers make a graph network learn them late."""


def _fit_macs(task: Task) -> Fitted:
    values = np.log1p(np.maximum(task.view.macs, 0))
    component = _Macs(float(values.mean()), max(float(values.std()), 1e-9))
    return Fitted(component, component.scores(task.view))


def _flat(groups: Sequence[str], fit: Callable[[Floats, Floats, int], Trees | Linear | Perceptron]) -> Fit:
    """Fit to some groups of columns, and once more without each fold."""

    def fitted(task: Task) -> Fitted:
        columns = task.encoder.group(*groups, "features")
        x = task.view.flat[:, columns]
        out_of_fold = np.empty(len(task.y))
        for fold in np.unique(task.folds):
            inside = task.folds == fold
            out_of_fold[inside] = fit(x[~inside], task.y[~inside], task.seed).predict(x[inside])
        return Fitted(Flat(fit(x, task.y, task.seed), columns), out_of_fold)

    return fitted


def _fit_gaussian(task: Task) -> Fitted:
    chosen = np.arange(len(task.y))
    if len(chosen) > _MOST_GAUSSIAN:
        chosen = np.sort(np.random.default_rng(task.seed).choice(chosen, _MOST_GAUSSIAN, replace=False))
    group = task.encoder.group
    terms = [
        Term("linear", group("place")),
        Term("linear", group("summary", "stage")),
        Term("matern", group("summary", "stage")),
        Term("matern", group("summary", "paths")),
        Term("matern", group("subtree")),
        Term("linear", group("features")),
        Term("matern", group("features")),
        Term("matern", group("summary", "paths", "features") if task.encoder.features else group()),
    ]
    x, y = task.view.flat[chosen], task.y[chosen]
    process = fit_gaussian(x, y, terms, task.seed)
    columns = np.arange(task.encoder.width)
    mean, deviation = process.out_of_fold(y, task.folds[chosen])
    if len(chosen) == len(task.y):
        return Fitted(Flat(process, columns), mean, deviation)
    all_mean, all_deviation = process.predict_with_deviation(task.view.flat)
    all_mean[chosen], all_deviation[chosen] = mean, deviation
    return Fitted(Flat(process, columns), all_mean, all_deviation)


def _graph(*groups: str) -> Fit:
    """Train members that each leave out a fold, so that out-of-fold scores cost nothing."""

    def fitted(task: Task) -> Fitted:
        folds = int(task.folds.max()) + 1
        members = max(task.settings.members, folds)  # each fold must be left out by one
        settings = task.settings.model_copy(update={"members": members})
        columns = task.encoder.group(*groups)
        encoder = GraphEncoder.fit(task.view.structure)
        encoded = encoder.encode(task.view.structure, _SCALARS * task.view.flat[:, columns])
        described = None
        if task.unlabelled is not None:
            told = task.unlabelled.flat[:, task.encoder.group("summary", "stage", "paths")]
            scalars = _SCALARS * task.unlabelled.flat[:, columns]
            described = (encoder.encode(task.unlabelled.structure, scalars), told)
        ensemble = fit_ensemble(encoder, encoded, task.y, settings, task.seed, task.folds, described)
        scores = member_scores(ensemble, encoded)
        without = np.arange(members)[None] % folds == task.folds[:, None]
        out_of_fold = (scores * without).sum(axis=1) / without.sum(axis=1)
        return Fitted(GraphNetworks(encoder, ensemble, columns, settings), out_of_fold)

    return fitted


_ALL = tuple(group for group in GROUPS if group != "features")

COMPONENTS: dict[str, Fit] = {
    "macs": _fit_macs,
    "ridge": _flat(("place",), lambda x, y, seed: fit_ridge(x, y)),
    "perceptron": _flat(("place",), fit_perceptron),
    "gaussian": _fit_gaussian,
    "boosted": _flat(_ALL, fit_boosted),
    "extra": _flat(_ALL, fit_extra),
    "graph": _graph("features"),
    "informed": _graph("summary", "paths", "features"),
}
"""What fits each component. ``graph`` sees the graph alone, ``informed`` its summary and counts of paths besides."""


def _read_flat(model: type[GaussianProcess] | type[Trees] | type[Linear] | type[Perceptron]) -> Reader:
    def read(arrays: Arrays, state: Mapping[str, Any], width: int) -> Component:
        own = {name: value for name, value in arrays.items() if name != "inputs"}
        return Flat(model.from_arrays(own), _columns(arrays, width))

    return read


def _read_graph(arrays: Arrays, state: Mapping[str, Any], width: int) -> Component:
    settings = GraphPredictorSettings.model_validate(state["settings"])
    encoder, columns = GraphEncoder.from_json(state["encoder"]), _columns(arrays, width)
    ensemble = GraphEnsemble(encoder, len(columns), settings, torch.Generator())
    ensemble.load_state_dict(
        {
            name.removeprefix("network."): torch.from_numpy(np.array(value))
            for name, value in arrays.items()
            if name.startswith("network.")
        }
    )
    return GraphNetworks(encoder, ensemble.eval(), columns, settings)


def _columns(arrays: Arrays, width: int) -> Ints:
    columns = np.asarray(arrays["inputs"], np.int64)
    if columns.ndim != 1 or (len(columns) and not 0 <= columns.min() <= columns.max() < width):
        raise ValueError("a component names a column that is not there")
    return columns


Reader: TypeAlias = Callable[[Arrays, Mapping[str, Any], int], Component]

READERS: dict[str, Reader] = {
    "macs": lambda arrays, state, width: _Macs(float(state["center"]), float(state["scale"])),
    "ridge": _read_flat(Linear),
    "perceptron": _read_flat(Perceptron),
    "gaussian": _read_flat(GaussianProcess),
    "boosted": _read_flat(Trees),
    "extra": _read_flat(Trees),
    "graph": _read_graph,
    "informed": _read_graph,
}
"""What reads each component again: arrays, what was JSON, and the columns that the encoder has."""
