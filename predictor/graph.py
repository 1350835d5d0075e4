"""The graph predictor: an ensemble of small two-way message-passing networks on any architecture graph.

Messages run along the edges and against them, so that an operation hears of its siblings (Ning et
al. 2022, TA-GATES); the loss ranks pairs (Burges et al. 2005, RankNet) besides squared error; scalars
of the whole graph enter the head. All members live in one tensor dimension and train in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from predictor.encoding import GraphEncoder
from predictor.files import read_predictor, write_predictor
from predictor.geometric import Batch, MessagePassing
from predictor.settings import GraphPredictorSettings
from supernet import ArchGraph, InputError, LabelTable

_CHUNK = 200  # graphs scored at a time: their hidden channels stay in the processor's cache
_FEWEST_STEPS = 5  # in an epoch
_STEEPNESS = 2.0  # how fast the pair loss falls with the difference of two standardised scores


class MemberLinear(nn.Module):
    """One linear map for each member: (rows, members, inputs) to (rows, members, outputs)."""

    def __init__(self, members: int, inputs: int, outputs: int, generator: torch.Generator, gain: float = 1.0) -> None:
        super().__init__()
        weight = torch.randn(members, inputs, outputs, generator=generator) * (gain / math.sqrt(inputs))
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight).transpose(0, 1)


class TwoWayLayer(MessagePassing):  # type: ignore[misc]
    """Adds to each node what it makes of itself, the sum of its inputs, and the sum of its followers."""

    def __init__(self, members: int, width: int, generator: torch.Generator) -> None:
        super().__init__(aggr="sum", node_dim=0)
        self.combine = MemberLinear(members, 3 * width, width, generator)

    def forward(self, hidden: Tensor, edges: Tensor) -> Tensor:
        """Hidden (nodes, members, width), edges (2, edges)."""
        flat = hidden.reshape(len(hidden), -1)  # two dimensions: the fast path of scatter
        inputs = self.propagate(edges, x=flat).view(hidden.shape)
        followers = self.propagate(edges.flip(0), x=flat).view(hidden.shape)
        heard: Tensor = self.combine(torch.cat([hidden, inputs, followers], dim=-1))
        return hidden.add(F.relu(heard), alpha=0.5)


class GraphEnsemble(nn.Module):
    """Scores of each member, (graphs, members), from a batch of :class:`GraphEncoder`."""

    def __init__(self, encoder: GraphEncoder, settings: GraphPredictorSettings, generator: torch.Generator) -> None:
        super().__init__()
        members, width, scalars = settings.members, settings.width, encoder.scalar_width
        self.members, self.dropout = members, settings.dropout
        self.pool_scale = 2 / encoder.typical_nodes
        self.embed = nn.utils.skip_init(nn.Linear, encoder.node_width, members * width)  # type: ignore[no-untyped-call]
        self.layers = nn.ModuleList([TwoWayLayer(members, width, generator) for _ in range(settings.layers)])
        self.pool = MemberLinear(members, width, width, generator)
        self.hidden = MemberLinear(members, width + scalars, width, generator)
        self.score = MemberLinear(members, width, 1, generator)
        self.wide = MemberLinear(members, scalars, 1, generator, gain=0.1)
        with torch.no_grad():
            weight = torch.randn(members * width, encoder.node_width, generator=generator)
            weight[:, encoder.unknown_columns] = 0  # never trained: an unknown node is its attributes alone
            self.embed.weight.copy_(weight / 4)
            self.embed.bias.zero_()

    def forward(self, batch: Batch) -> Tensor:
        nodes, graphs = len(batch.x), len(batch.scalars)
        hidden = F.relu(self.embed(batch.x)).view(nodes, self.members, -1)
        for layer in self.layers:
            hidden = layer(hidden, batch.edge_index)
        hidden = F.dropout(F.relu(self.pool(hidden)), self.dropout, self.training).reshape(nodes, -1)
        pooled = hidden.new_zeros(graphs, hidden.shape[1]).index_add_(0, batch.batch, hidden) * self.pool_scale
        scalars = batch.scalars[:, None].expand(-1, self.members, -1)
        whole = torch.cat([pooled.view(graphs, self.members, -1), scalars], dim=-1)
        whole = F.dropout(whole, self.dropout, self.training)
        score: Tensor = self.score(F.relu(self.hidden(whole))) + self.wide(scalars)
        return score.squeeze(-1)


@dataclass(frozen=True)
class GraphPredictor:
    """A fitted graph predictor.

    Attributes:
        metric: the metric that it predicts.
        center, scale: mean and standard deviation of the training labels.
    """

    metric: str
    settings: GraphPredictorSettings
    encoder: GraphEncoder
    ensemble: GraphEnsemble
    center: float
    scale: float

    def predict(
        self, graphs: Sequence[ArchGraph], features: Sequence[Mapping[str, float]] | None = None
    ) -> NDArray[np.float64]:
        """The metric expected of each graph, in its own units, (graphs,): the mean of the members.

        Args:
            features: per-architecture numbers, needed where the fit used them.

        Raises:
            InputError: a feature that the fit used is missing.
        """
        parts = [
            self._members(graphs[start : start + _CHUNK], features[start : start + _CHUNK] if features else None)
            for start in range(0, len(graphs), _CHUNK)
        ]
        scores = np.concatenate(parts) if parts else np.empty((0, 1))
        return np.asarray(scores.mean(axis=1) * self.scale + self.center, np.float64)

    def _members(
        self, graphs: Sequence[ArchGraph], features: Sequence[Mapping[str, float]] | None
    ) -> NDArray[np.float64]:
        with torch.inference_mode():
            scores: Tensor = self.ensemble(self.encoder.encode(graphs, features))
        return scores.double().numpy()

    def save(self, folder: Path) -> None:
        """Write predictor.safetensors and predictor.json. Raises UnavailableError where that is impossible."""
        content = {
            "metric": self.metric,
            "settings": self.settings.model_dump(),
            "encoder": self.encoder.to_json(),
            "center": self.center,
            "scale": self.scale,
        }
        write_predictor(folder, dict(self.ensemble.state_dict()), content)

    @staticmethod
    def load(folder: Path) -> GraphPredictor:
        """The predictor that :meth:`save` wrote. Raises InputError for missing, damaged or foreign files."""
        weights, content = read_predictor(folder)
        try:
            settings = GraphPredictorSettings.model_validate(content["settings"])
            encoder = GraphEncoder.from_json(content["encoder"])
            ensemble = GraphEnsemble(encoder, settings, torch.Generator())
            ensemble.load_state_dict(weights)
            metric, center, scale = str(content["metric"]), float(content["center"]), float(content["scale"])
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
            raise InputError(f"{folder}: the predictor's parts do not fit together ({error!s:.200})") from error
        return GraphPredictor(metric, settings, encoder, ensemble.eval(), center, scale)


def labels(table: LabelTable, metric: str) -> NDArray[np.float64]:
    """The labels to fit on. Raises InputError where a row lacks them, or they are fewer than 2 or all equal."""
    values = table.metric(metric)
    if len(values) < 2:
        raise InputError(f"label table: expected at least 2 rows to fit on, got {len(values)}")
    if values.min() == values.max():
        raise InputError(f"metric {metric!r}: all {len(values)} rows have {values[0]}; expected numbers that differ")
    return values


def fit_graph(
    table: LabelTable, metric: str, settings: GraphPredictorSettings | None = None, seed: int = 0
) -> GraphPredictor:
    """Fit the graph predictor; the same table, settings and seed give the same predictor on one machine.

    Raises:
        InputError: rows without the metric, fewer than 2 rows, or labels that are all equal.
    """
    settings = settings or GraphPredictorSettings()
    values = labels(table, metric)
    center, scale = float(values.mean()), float(values.std())
    graphs = table.graphs
    features = [row.features for row in table.rows] if settings.use_features else None
    encoder = GraphEncoder.fit(graphs, features)
    generator = torch.Generator().manual_seed(seed)
    ensemble = GraphEnsemble(encoder, settings, generator)
    target = torch.from_numpy((values - center) / scale).float()
    with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
        torch.manual_seed(seed)
        _train(ensemble, encoder, graphs, features, target, settings, generator)
    return GraphPredictor(metric, settings, encoder, ensemble.eval(), center, scale)


def _train(
    ensemble: GraphEnsemble,
    encoder: GraphEncoder,
    graphs: Sequence[ArchGraph],
    features: Sequence[Mapping[str, float]] | None,
    target: Tensor,
    settings: GraphPredictorSettings,
    generator: torch.Generator,
) -> None:
    steps = min(len(graphs) // 2, max(_FEWEST_STEPS, round(len(graphs) / settings.batch_size)))
    weights = [value for name, value in ensemble.named_parameters() if name.endswith("weight")]
    biases = [value for name, value in ensemble.named_parameters() if not name.endswith("weight")]
    groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        settings.learning_rate,
        total_steps=max(steps * settings.epochs, 6),
        pct_start=0.2,  # it divides by zero at 5
    )
    ensemble.train()
    for _ in range(settings.epochs):
        for drawn in torch.randperm(len(graphs), generator=generator).chunk(steps):
            rows = drawn.tolist()
            batch = encoder.encode([graphs[row] for row in rows], features and [features[row] for row in rows])
            optimizer.zero_grad()
            torch.autograd.backward(ranking_loss(ensemble(batch), target[drawn], settings.pair_weight))
            optimizer.step()
            schedule.step()


def ranking_loss(scores: Tensor, target: Tensor, pair_weight: float) -> Tensor:
    """Logistic loss over all pairs of a batch and squared error, mixed; lower is better.

    Args:
        scores: (graphs, members).
        target: standardised labels, (graphs,).
        pair_weight: share of the pair loss, 0 to 1.
    """
    squared = (scores - target[:, None]).square().mean()
    better, worse = torch.nonzero(target[:, None] > target[None, :], as_tuple=True)
    if len(better) == 0:
        return squared
    pairs = F.softplus(-_STEEPNESS * (scores[better] - scores[worse])).mean()
    return (1 - pair_weight) * squared + pair_weight * pairs
