"""Search for the best-scored architectures under hard limits. Pure: no torch, no files, no clock, no printing."""

from evolution.control import Match, closest_in_macs
from evolution.search import Candidate, Score, SearchResult, SearchSettings, evolve, random_search
from evolution.strategies import (
    STRATEGIES,
    Strategy,
    Trace,
    aging_strategy,
    evolution_strategy,
    model_strategy,
    random_strategy,
)

__all__ = [
    "STRATEGIES",
    "Candidate",
    "Match",
    "Score",
    "SearchResult",
    "SearchSettings",
    "Strategy",
    "Trace",
    "aging_strategy",
    "closest_in_macs",
    "evolution_strategy",
    "evolve",
    "model_strategy",
    "random_search",
    "random_strategy",
]
