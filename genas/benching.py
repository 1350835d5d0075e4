"""Search strategies on a table in which every network was trained: what they find for what they pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.strategies import STRATEGIES, Strategy, model_strategy
from genas.tabular import COSTS, DATASETS, PROXIES, Table, read_tabular
from supernet import Choices, InputError, sample_distinct
from supernet.nasbench201 import indices
from supernet.settings import nearest

SCORES = ("val12", *PROXIES, *COSTS)
SPACES = ("nasbench201",)


@dataclass(frozen=True, slots=True)
class Trial:
    """One search.

    Attributes:
        accuracy: test accuracy of what was picked, a fraction.
        evaluations: distinct networks that the score was paid for.
        proxy_calls: distinct pairs of network and proxy that were calculated, the warm-up's included.
        seconds: what the 12-epoch trainings took when the table was made, added up; 0 for other scores.
    """

    accuracy: float
    evaluations: int
    proxy_calls: int
    seconds: float


class _Ledger:
    """The table as a search sees it, and what it has asked so far."""

    def __init__(self, table: Table, dataset: str) -> None:
        self._table, self._dataset = table, dataset
        self._asked: dict[str, set[int]] = {}

    def ask(self, score: str, choices: Choices) -> NDArray[np.float64]:
        """A score of each row, (architectures,), finite, with a network's later calls free of charge."""
        self._asked.setdefault(score, set()).update(indices(choices).tolist())
        return np.maximum(self._table.values(self._dataset, score, choices), np.finfo(np.float64).min)

    @property
    def proxy_calls(self) -> int:
        return sum(len(self._asked.get(proxy, ())) for proxy in PROXIES)

    @property
    def seconds(self) -> float:
        trained = sorted(self._asked.get("val12", ()))
        return float(self._table.column(f"{self._dataset}_val12_seconds")[trained].sum()) if trained else 0.0


def bench(
    space: str,
    table: Path,
    strategy: str = "model",
    score: str = "val12",
    dataset: str = "all",
    budget: int = 50,
    warmup: int = 0,
    warmup_score: str = "synflow",
    proxies: Sequence[str] = (),
    trials: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """Mean test accuracy of what a strategy picks by a score, over trials, and what it paid.

    Networks that are the same (:meth:`supernet.SearchSpace.canonical`) are one: the cheapest of them is what the table
    is asked for, paid for once. The test accuracy is read of the pick alone, after the search.

    Args:
        space: the space of the table, ``nasbench201``.
        strategy: a name in ``evolution.STRATEGIES``.
        score: what is paid for and chosen by: ``val12`` (accuracy after 12 epochs), a proxy or a cost.
        dataset: one of the table's three, or ``all``.
        budget: networks paid for in a trial.
        warmup: random distinct networks that are ranked by ``warmup_score`` first; the search begins with the best,
            and the strategy ``model`` chooses among them and what is near.
        proxies: scores that the strategy ``model`` may see of each candidate.
        trials: searches, with seeds of their own.

    Raises:
        InputError: a name that there is not, a number that makes no sense, or a table that cannot be read.
    """
    for what, given, known in (
        ("space", [space], SPACES),
        ("strategy", [strategy], tuple(STRATEGIES)),
        ("score", [score], SCORES),
        ("dataset", [dataset], ("all", *DATASETS)),
        ("warmup score", [warmup_score], (*PROXIES, *COSTS)),
        ("proxy", proxies, PROXIES),
    ):
        for name in given:
            if name not in known:
                raise InputError(f"bench: {what} {name!r:.80} is unknown; {nearest(name, known)}")
    for what, number, least in (("budget", budget, 1), ("trials", trials, 1), ("warmup", warmup, 0), ("seed", seed, 0)):
        if number < least:
            raise InputError(f"bench: {what} is {number}; expected at least {least}")
    if len(set(proxies)) != len(proxies):
        raise InputError(f"bench: a proxy is named twice: {', '.join(proxies)}")
    if proxies and strategy != "model":
        raise InputError(f"bench: strategy {strategy!r} looks at no proxies; expected strategy 'model'")
    read = read_tabular(table)
    chosen = DATASETS if dataset == "all" else (dataset,)
    found = {}
    for name in chosen:
        results = [
            search_table(read, name, strategy, score, budget, warmup, warmup_score, proxies, [seed, number])
            for number in range(trials)
        ]
        found[name] = summary(read, name, results)
    return {
        "space": space,
        "strategy": strategy,
        "score": score,
        "budget": budget,
        "warmup": warmup,
        "warmup_score": warmup_score if warmup else None,
        "proxies": list(proxies),
        "trials": trials,
        "seed": seed,
        "datasets": found,
    }


def search_table(
    table: Table,
    dataset: str,
    strategy: str,
    score: str,
    budget: int,
    warmup: int,
    warmup_score: str,
    proxies: Sequence[str],
    seed: Sequence[int],
) -> Trial:
    """One search on a table that is read already; arguments as :func:`bench`, which checks them."""
    random, space, ledger = np.random.default_rng(seed), table.space, _Ledger(table, dataset)
    first = None
    if warmup:
        drawn = sample_distinct(space, warmup, random)
        first = drawn[np.argsort(-ledger.ask(warmup_score, drawn), kind="stable")]
    run: Strategy = STRATEGIES[strategy]
    if strategy == "model":

        def features(choices: Choices) -> NDArray[np.float64]:
            return np.stack([ledger.ask(proxy, choices) for proxy in proxies], axis=1)

        run = partial(model_strategy, features=features if proxies else None, candidates=first)
    trace = run(space, partial(ledger.ask, score), budget, random, first=first)
    accuracy = table.values(dataset, "test_mean", trace.best[None])[0] / 100
    return Trial(float(accuracy), len(trace.choices), ledger.proxy_calls, ledger.seconds)


def summary(table: Table, dataset: str, trials: Sequence[Trial]) -> dict[str, float]:
    """Means over trials, and the spread (standard deviation) of the accuracies; all of them fractions."""
    accuracies = np.array([trial.accuracy for trial in trials])
    best = float(table.column(f"{dataset}_test_mean").max() / 100)
    return {
        "accuracy": float(accuracies.mean()),
        "standard_deviation": float(accuracies.std(ddof=1)) if len(trials) > 1 else 0.0,
        "optimum": best,
        "regret": best - float(accuracies.mean()),
        "evaluations": float(np.mean([trial.evaluations for trial in trials])),
        "proxy_calls": float(np.mean([trial.proxy_calls for trial in trials])),
        "seconds": float(np.mean([trial.seconds for trial in trials])),
    }
