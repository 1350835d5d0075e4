"""Training-free metrics of untrained networks, scores of many networks, and combinations of scores."""

from predictor.zero_cost.combining import convex, log_rank_sum
from predictor.zero_cost.metrics import METRICS, Metric, metric_names
from predictor.zero_cost.probe import Probe
from predictor.zero_cost.scoring import BATCH, FLOOR, Score, score_network, score_networks

__all__ = [
    "BATCH",
    "FLOOR",
    "METRICS",
    "Metric",
    "Probe",
    "Score",
    "convex",
    "log_rank_sum",
    "metric_names",
    "score_network",
    "score_networks",
]
