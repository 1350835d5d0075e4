"""GENAS: finds a network for your own images under a hard limit.

The whole pipeline::

    import genas

    run = genas.load_run("quickstart")
    genas.generate(run)
    genas.fit(run)
    genas.search(run)
    genas.retrain(run)
    genas.report(run)

The names are those of the command line. They are loaded when first used, so importing this is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genas.benching import bench
    from genas.config import Run, RunSettings, load_run
    from genas.costing import cost
    from genas.ensembling import ensemble
    from genas.examining import doctor
    from genas.feature_spectra import spectra
    from genas.fitting import fit, fit_zero_cost, predict
    from genas.fronting import front
    from genas.generating import export_table, generate
    from genas.importing import import_study
    from genas.inheriting import inherit
    from genas.linting import lint, lint_run
    from genas.merging import merge
    from genas.overview import evaluate
    from genas.picking import pick
    from genas.pipeline import run_all
    from genas.ranking import fidelity
    from genas.remembering import memory
    from genas.retraining import retrain
    from genas.scoring import score
    from genas.searching import search, search_exact, search_front, search_limits
    from genas.standing import report, status
    from genas.studying import study
    from genas.timing import latency
    from supernet import InputError, read_table

_HOMES = {
    "InputError": "supernet",
    "Run": "genas.config",
    "RunSettings": "genas.config",
    "bench": "genas.benching",
    "cost": "genas.costing",
    "doctor": "genas.examining",
    "ensemble": "genas.ensembling",
    "evaluate": "genas.overview",
    "export_table": "genas.generating",
    "fidelity": "genas.ranking",
    "fit": "genas.fitting",
    "fit_zero_cost": "genas.fitting",
    "front": "genas.fronting",
    "generate": "genas.generating",
    "import_study": "genas.importing",
    "inherit": "genas.inheriting",
    "latency": "genas.timing",
    "lint": "genas.linting",
    "lint_run": "genas.linting",
    "load_run": "genas.config",
    "memory": "genas.remembering",
    "merge": "genas.merging",
    "pick": "genas.picking",
    "predict": "genas.fitting",
    "read_table": "supernet",
    "report": "genas.standing",
    "retrain": "genas.retraining",
    "run_all": "genas.pipeline",
    "score": "genas.scoring",
    "search": "genas.searching",
    "search_exact": "genas.searching",
    "search_front": "genas.searching",
    "search_limits": "genas.searching",
    "spectra": "genas.feature_spectra",
    "status": "genas.standing",
    "study": "genas.studying",
}

__all__ = [
    "InputError",
    "Run",
    "RunSettings",
    "bench",
    "cost",
    "doctor",
    "ensemble",
    "evaluate",
    "export_table",
    "fidelity",
    "fit",
    "fit_zero_cost",
    "front",
    "generate",
    "import_study",
    "inherit",
    "latency",
    "lint",
    "lint_run",
    "load_run",
    "memory",
    "merge",
    "pick",
    "predict",
    "read_table",
    "report",
    "retrain",
    "run_all",
    "score",
    "search",
    "search_exact",
    "search_front",
    "search_limits",
    "spectra",
    "status",
    "study",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'genas' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
