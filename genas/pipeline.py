"""The stages, joined: generate, fit, search, retrain. Each can be stopped and called again.

The stages are the public functions; the command line calls them and adds nothing but words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from genas.config import Run
from genas.generating import generate
from genas.stages import ShowProgress
from supernet import InputError


def run_all(run: Run, progress: Callable[[str], ShowProgress | None] = lambda stage: None) -> dict[str, Any]:
    """Every stage in turn, then the report. What is done already is found, not repeated.

    Args:
        progress: gives the progress function of a training stage by its name.

    Raises:
        InputError: at once, where a later stage would refuse: too few architectures to fit, or ``fit.features``.
            Others as the stages.
    """
    from analysis import write_report
    from genas.fitting import FEWEST_LABELS, fit
    from genas.retraining import retrain
    from genas.searching import search

    if run.settings.generate.architectures < FEWEST_LABELS:
        raise InputError(
            f"generate.architectures is {run.settings.generate.architectures}; "
            f"expected at least {FEWEST_LABELS} to fit a predictor on"
        )
    if run.settings.fit.features:
        raise InputError(
            f"fit.features is [{', '.join(run.settings.fit.features)}]; a search cannot use them, as each of its "
            f"thousands of candidates would have to be scored; leave them out, or run generate, score and fit alone"
        )
    results: dict[str, Any] = {"generate": generate(run, progress("generate"))}
    if run.settings.study is not None:
        from genas.studying import study

        results["study"] = study(run, progress)
    results["fit"] = fit(run)
    results["search"] = search(run)
    results["retrain"] = retrain(run, progress("retrain"))
    results["report"] = str(write_report(run.folder))
    return results
