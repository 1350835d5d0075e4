"""Predictors that the graph predictor has to beat, and the dictionary of all of them.

A fit is a function of a table, the metric to predict and a seed; what it returns scores tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from torch import nn

from predictor.graph import fit_graph, labels
from predictor.settings import GraphPredictorSettings
from supernet import InputError, LabelTable, Node

Columns: TypeAlias = Callable[[LabelTable], NDArray[np.float64]]


class Predictor(Protocol):
    """What a fit returns."""

    def predict(self, table: LabelTable) -> NDArray[np.float64]:
        """A score for each row, larger where the metric is expected to be larger, shape (rows,)."""


Fit: TypeAlias = Callable[[LabelTable, str, int], Predictor]
"""Table, metric, seed: a fitted predictor. Raises InputError for a metric that rows lack."""


@dataclass(frozen=True)
class _Scores:
    """A predictor made of one function."""

    predict: Columns = field(repr=False)


def fit_graph_baseline(table: LabelTable, metric: str, seed: int) -> Predictor:
    """The graph predictor with its default settings, on graphs alone."""
    predictor = fit_graph(table, metric, GraphPredictorSettings(), seed)
    return _Scores(lambda rows: predictor.predict(rows.graphs))


def fit_ridge(table: LabelTable, metric: str, seed: int) -> Predictor:
    """Ridge regression on the choices, its strength by leave-one-out error; the seed plays no part."""
    columns = fit_columns(table)
    x, y = columns(table), labels(table, metric)
    model = RidgeCV(alphas=np.logspace(-2, 4, 25)).fit(x, y)
    return _Scores(lambda rows: np.asarray(model.predict(columns(rows)), np.float64))


def fit_mlp(table: LabelTable, metric: str, seed: int) -> Predictor:
    """A multi-layer perceptron on the choices, the "NN predictor" of published comparisons."""
    columns = fit_columns(table)
    x, y = columns(table), labels(table, metric)
    center, scale = y.mean(), y.std()
    inputs = torch.from_numpy(x).float()
    target = torch.from_numpy((y - center) / scale).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(inputs.shape[1], 64), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 1),
        )  # fmt: skip
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
        for _ in range(60):
            for batch in torch.split(torch.randperm(len(target)), 32):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(inputs[batch]).squeeze(1), target[batch])
                torch.autograd.backward(loss)
                optimizer.step()
    model.eval()

    def predict(rows: LabelTable) -> NDArray[np.float64]:
        with torch.no_grad():
            scores: torch.Tensor = model(torch.from_numpy(columns(rows)).float())
        return np.asarray(scores.squeeze(1).double().numpy() * scale + center, np.float64)

    return _Scores(predict)


def fit_macs(table: LabelTable, metric: str, seed: int) -> Predictor:
    """Multiply-accumulates alone: the sum of the nodes' ``macs``, zero where a table has none."""
    labels(table, metric)
    return _Scores(lambda rows: np.array([graph.total("macs") for graph in rows.graphs]))


PREDICTORS: dict[str, Fit] = {
    "graph": fit_graph_baseline,
    "ridge": fit_ridge,
    "mlp": fit_mlp,
    "macs": fit_macs,
}


def fit_columns(table: LabelTable) -> Columns:
    """The table's columns for models that know no graph, standardised on the table.

    They are the choices, one-hot (one column for a choice of two options), where every row has
    them; otherwise how often each distinct node (operation and attributes) occurs, and log MACs.
    An option or node that the table does not hold counts as absent.
    """
    choices = table.choices()
    raw = _bag_of_nodes(table) if choices is None else _one_hot(choices)
    x = raw(table)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    varied = scale > 1e-12
    if not varied.any():  # graphs that differ in their edges alone: nothing to tell them apart by
        return lambda rows: np.zeros((len(rows), 1))

    def columns(rows: LabelTable) -> NDArray[np.float64]:
        return np.asarray((raw(rows)[:, varied] - mean[varied]) / scale[varied], np.float64)

    return columns


def _one_hot(choices: NDArray[np.int64]) -> Columns:
    options = []
    for number, column in enumerate(choices.T):
        values = np.unique(column)
        options += [(number, int(value)) for value in (values[1:] if len(values) == 2 else values)]

    def columns(table: LabelTable) -> NDArray[np.float64]:
        given = table.choices()
        if given is None or given.shape[1] != choices.shape[1]:
            got = "some rows have none" if given is None else f"got {given.shape[1]}"
            raise InputError(f"predictor: fitted on {choices.shape[1]} choices an architecture, {got}")
        return np.stack([given[:, number] == value for number, value in options], axis=1).astype(np.float64)

    return columns


def _bag_of_nodes(table: LabelTable) -> Columns:
    index: dict[Node, int] = {}
    for graph in table.graphs:
        for node in graph.nodes:
            index.setdefault(node, len(index))

    def columns(rows: LabelTable) -> NDArray[np.float64]:
        counts = np.zeros((len(rows), len(index) + 1))
        for number, graph in enumerate(rows.graphs):
            for node in graph.nodes:
                if node in index:
                    counts[number, index[node]] += 1
            counts[number, -1] = np.log1p(max(graph.total("macs"), 0.0))
        return counts

    return columns
