"""Accuracy predictors: a graph encoder, the baselines it has to beat, and their evaluation."""

from predictor.baselines import PREDICTORS, Predictor
from predictor.encoding import GraphEncoder
from predictor.evaluate import Evaluation, ModelEvaluation, evaluate, evaluate_split, kendall_tau, tau_interval
from predictor.graph import GraphPredictor, GraphPredictorSettings, fit_graph

__all__ = [
    "PREDICTORS",
    "Evaluation",
    "GraphEncoder",
    "GraphPredictor",
    "GraphPredictorSettings",
    "ModelEvaluation",
    "Predictor",
    "evaluate",
    "evaluate_split",
    "fit_graph",
    "kendall_tau",
    "tau_interval",
]
