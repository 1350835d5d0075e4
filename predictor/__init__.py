"""Accuracy predictors: a graph encoder, the baselines it has to beat, and their evaluation.

The names are loaded when first used: settings need no torch, predictors do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from predictor.baselines import PREDICTORS, Predictor
    from predictor.encoding import GraphEncoder
    from predictor.evaluation import Evaluation, ModelEvaluation, evaluate, evaluate_split, kendall_tau, tau_interval
    from predictor.graph import GraphPredictor, fit_graph
    from predictor.settings import GraphPredictorSettings

_HOMES = {
    "PREDICTORS": "predictor.baselines",
    "Evaluation": "predictor.evaluation",
    "GraphEncoder": "predictor.encoding",
    "GraphPredictor": "predictor.graph",
    "GraphPredictorSettings": "predictor.settings",
    "ModelEvaluation": "predictor.evaluation",
    "Predictor": "predictor.baselines",
    "evaluate": "predictor.evaluation",
    "evaluate_split": "predictor.evaluation",
    "fit_graph": "predictor.graph",
    "kendall_tau": "predictor.evaluation",
    "tau_interval": "predictor.evaluation",
}

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


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'predictor' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
