"""Accuracy predictors: a graph encoder, the models it has to beat, their hybrid, and how far to trust them.

The names are loaded when first used: settings need no torch, predictors do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from predictor.evaluation import Evaluation, ModelEvaluation, Split, evaluate, random_splits, read_split
    from predictor.features import FlatEncoder
    from predictor.models import MODELS, Predictor, fit_models, fit_predictor
    from predictor.settings import GraphPredictorSettings
    from predictor.trust import kendall_tau, tau_interval

_HOMES = {
    "MODELS": "predictor.models",
    "Evaluation": "predictor.evaluation",
    "FlatEncoder": "predictor.features",
    "GraphPredictorSettings": "predictor.settings",
    "ModelEvaluation": "predictor.evaluation",
    "Predictor": "predictor.models",
    "Split": "predictor.evaluation",
    "evaluate": "predictor.evaluation",
    "fit_models": "predictor.models",
    "fit_predictor": "predictor.models",
    "kendall_tau": "predictor.trust",
    "random_splits": "predictor.evaluation",
    "read_split": "predictor.evaluation",
    "tau_interval": "predictor.trust",
}

__all__ = [
    "MODELS",
    "Evaluation",
    "FlatEncoder",
    "GraphPredictorSettings",
    "ModelEvaluation",
    "Predictor",
    "Split",
    "evaluate",
    "fit_models",
    "fit_predictor",
    "kendall_tau",
    "random_splits",
    "read_split",
    "tau_interval",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'predictor' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
