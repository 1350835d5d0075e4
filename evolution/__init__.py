"""Search for the best-scored architectures under hard limits. Pure: no torch, no files, no clock, no printing."""

from evolution.control import Match, closest_in_macs
from evolution.search import Candidate, Score, SearchResult, SearchSettings, evolve, random_search

__all__ = [
    "Candidate",
    "Match",
    "Score",
    "SearchResult",
    "SearchSettings",
    "closest_in_macs",
    "evolve",
    "random_search",
]
