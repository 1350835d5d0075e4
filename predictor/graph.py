"""The graph predictor: an ensemble of small two-way message-passing networks on any architecture graph.

Messages run along the edges and against them, so that an operation hears of its siblings (Ning et
al. 2022, TA-GATES); the loss ranks pairs (Burges et al. 2005, RankNet) besides squared error; scalars
of the whole graph enter the head. All members live in one tensor dimension and train in one pass.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from predictor.encoding import EncodedGraphs, GraphEncoder
from predictor.geometric import MessagePassing
from predictor.settings import GraphPredictorSettings

_CHUNK = 64  # graphs scored at a time: their hidden channels stay in the processor's cache
_FEWEST_STEPS = 5  # in an epoch
_MOST_STEPS, _FEWEST_EPOCHS = 1500, 10  # thousands of labels need fewer passes
_DESCRIBED = 32  # numbers that a graph is described by in pre-training
_STEEPNESS = 2.0  # how fast the pair loss falls with the difference of two standardised scores


class MemberLinear(nn.Module):
    """One linear map for each member: (rows, members, inputs) to (rows, members, outputs)."""

    def __init__(self, members: int, inputs: int, outputs: int, generator: torch.Generator, gain: float = 1.0) -> None:
        super().__init__()
        weight = torch.randn(members, inputs, outputs, generator=generator) * (gain / math.sqrt(max(inputs, 1)))
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight).transpose(0, 1)


class TwoWayLayer(MessagePassing):  # type: ignore[misc]
    """Adds to each node what it makes of itself, the sum of its inputs, and the sum of its followers."""

    def __init__(self, members: int, width: int, reverse: bool, generator: torch.Generator) -> None:
        super().__init__(aggr="sum", node_dim=0)
        self.reverse = reverse
        self.own, self.inputs, self.followers = (
            MemberLinear(members, width, width, generator, gain=3**-0.5) for _ in range(3)
        )

    def forward(self, hidden: Tensor, edges: Tensor) -> Tensor:
        """Hidden (nodes, members, width), edges (2, edges)."""
        heard = self.own(hidden)
        for part, along in ((self.inputs, edges), (self.followers, edges.flip(0)))[: 1 + self.reverse]:
            told = part(hidden).flatten(1)  # two dimensions: the fast path of scatter
            heard = heard + self.propagate(along, x=told).view(hidden.shape)
        return hidden.add(F.relu(heard), alpha=0.5)


class GraphEnsemble(nn.Module):
    """Scores of each member, (graphs, members), from :class:`predictor.encoding.EncodedGraphs`."""

    def __init__(
        self, encoder: GraphEncoder, scalars: int, settings: GraphPredictorSettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        members, width = settings.members, settings.width
        self.members, self.width, self.dropout = members, width, settings.dropout
        self.pool_scale = 2 / encoder.typical_nodes
        self.embed = nn.utils.skip_init(nn.Linear, encoder.node_width, members * width)  # type: ignore[no-untyped-call]
        layers = [TwoWayLayer(members, width, settings.reverse_edges, generator) for _ in range(settings.layers)]
        self.layers = nn.ModuleList(layers)
        self.pool = MemberLinear(members, width, width, generator)
        self.hidden = MemberLinear(members, width + scalars, width, generator)
        self.score = MemberLinear(members, width, 1, generator)
        self.wide = MemberLinear(members, scalars, 1, generator, gain=0.1)
        with torch.no_grad():
            weight = torch.randn(members * width, encoder.node_width, generator=generator)
            weight[:, encoder.unknown_columns] = 0  # never trained: an unknown node is its attributes alone
            self.embed.weight.copy_(weight / 4)
            self.embed.bias.zero_()

    def forward(self, batch: EncodedGraphs) -> Tensor:
        """Scores, (graphs, members)."""
        scalars = batch.scalars[:, None].expand(-1, self.members, -1)
        whole = torch.cat([self.pooled(batch), scalars], dim=-1)
        whole = F.dropout(whole, self.dropout, self.training)
        score: Tensor = self.score(F.relu(self.hidden(whole))) + self.wide(scalars)
        return score.squeeze(-1)

    def pooled(self, batch: EncodedGraphs) -> Tensor:
        """What the nodes of each graph add up to, (graphs, members, width)."""
        nodes, graphs = len(batch.x), len(batch.scalars)
        hidden = F.relu(self.embed(batch.x)).view(nodes, self.members, self.width)
        for layer in self.layers:
            hidden = layer(hidden, batch.edges)
        hidden = F.dropout(F.relu(self.pool(hidden)), self.dropout, self.training).flatten(1)
        pooled = hidden.new_zeros(graphs, hidden.shape[1]).index_add_(0, batch.owner, hidden) * self.pool_scale
        return pooled.view(graphs, self.members, self.width)


def fit_ensemble(
    encoder: GraphEncoder,
    graphs: EncodedGraphs,
    target: NDArray[np.float64],
    settings: GraphPredictorSettings,
    seed: int,
    folds: NDArray[np.int64] | None = None,
    described: tuple[EncodedGraphs, NDArray[np.float64]] | None = None,
) -> GraphEnsemble:
    """Train all members at once; the same arguments give the same members on one machine.

    Args:
        target: labels of mean 0 and variance about 1, (graphs,).
        described: graphs to describe before there are labels, and what to tell of them, (graphs, columns).
        folds: of each graph a number; member ``m`` never sees the graphs of fold ``m`` modulo the number of folds.
    """
    generator = torch.Generator().manual_seed(seed)
    ensemble = GraphEnsemble(encoder, graphs.scalars.shape[1], settings, generator)
    seen = torch.ones(len(target), settings.members)
    if folds is not None:
        left_out = torch.arange(settings.members) % (int(folds.max()) + 1)
        seen = (torch.from_numpy(folds)[:, None] != left_out[None]).float()
    with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
        torch.manual_seed(seed)
        if described is not None:
            _describe(ensemble, *described, settings, generator)
        _train(ensemble, graphs, torch.from_numpy(target).float(), seen, settings, generator)
    return ensemble.eval()


def _describe(
    ensemble: GraphEnsemble,
    graphs: EncodedGraphs,
    columns: NDArray[np.float64],
    settings: GraphPredictorSettings,
    generator: torch.Generator,
) -> None:
    """Train all but the head to tell flat columns of graphs, which needs no label."""
    centered = columns - columns.mean(axis=0)
    _, spread, axes = np.linalg.svd(centered, full_matrices=False)
    kept = min(_DESCRIBED, int((spread > 1e-6 * max(spread[:1].sum(), 1e-12)).sum()))
    if not kept:
        return
    target = torch.from_numpy(centered @ axes[:kept].T / (spread[:kept] / math.sqrt(len(columns)))).float()
    head = MemberLinear(settings.members, settings.width, kept, generator)
    values = [value for part in (ensemble.embed, ensemble.layers, ensemble.pool, head) for value in part.parameters()]
    optimizer = torch.optim.AdamW(values, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps = settings.pretraining_steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=max(steps, 6))
    ensemble.train()
    for _ in range(steps):
        drawn = torch.randint(len(target), (settings.batch_size,), generator=generator)
        told = head(ensemble.pooled(graphs.select(drawn.numpy())))
        optimizer.zero_grad()
        torch.autograd.backward((told - target[drawn][:, None]).square().mean())
        optimizer.step()
        schedule.step()


def _train(
    ensemble: GraphEnsemble,
    graphs: EncodedGraphs,
    target: Tensor,
    seen: Tensor,
    settings: GraphPredictorSettings,
    generator: torch.Generator,
) -> None:
    count = len(target)
    steps = min(count // 2, max(_FEWEST_STEPS, round(count / settings.batch_size)))
    epochs = min(settings.epochs, max(_FEWEST_EPOCHS, _MOST_STEPS // steps))
    weights = [value for name, value in ensemble.named_parameters() if name.endswith("weight")]
    biases = [value for name, value in ensemble.named_parameters() if not name.endswith("weight")]
    groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        settings.learning_rate,
        total_steps=max(steps * epochs, 6),
        pct_start=0.2,  # it divides by zero at 5
    )
    ensemble.train()
    for _ in range(epochs):
        for drawn in torch.randperm(count, generator=generator).chunk(steps):
            scores = ensemble(graphs.select(drawn.numpy()))
            optimizer.zero_grad()
            torch.autograd.backward(ranking_loss(scores, target[drawn], seen[drawn], settings.pair_weight))
            optimizer.step()
            schedule.step()


def ranking_loss(scores: Tensor, target: Tensor, seen: Tensor, pair_weight: float) -> Tensor:
    """Logistic loss over all pairs of a batch and squared error, mixed; lower is better.

    Args:
        scores: (graphs, members).
        target: standardised labels, (graphs,).
        seen: 1 where a member learns from a graph, 0 where not, (graphs, members).
        pair_weight: share of the pair loss, 0 to 1.
    """
    members = scores.shape[1]
    squared = ((scores - target[:, None]).square() * seen).sum() / seen.sum().clamp(min=1) * members
    better, worse = torch.nonzero(target[:, None] > target[None, :], as_tuple=True)
    both = seen[better] * seen[worse]
    if not both.any():
        return squared
    pairs = (F.softplus(-_STEEPNESS * (scores[better] - scores[worse])) * both).sum() / both.sum() * members
    return (1 - pair_weight) * squared + pair_weight * pairs


def member_scores(ensemble: GraphEnsemble, graphs: EncodedGraphs) -> NDArray[np.float64]:
    """Scores of each member, (graphs, members)."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(graphs.scalars), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(graphs.scalars)))
            parts.append(ensemble(graphs.select(rows)).double().numpy())
    return np.concatenate(parts) if parts else np.empty((0, ensemble.members))
