"""Search for the best-scored architectures under hard limits. Pure: no torch, no files, no clock, no printing."""

from evolution.control import Match, closest_in_macs
from evolution.exact import Optimum, optimum
from evolution.multi import Front, FrontSettings, Sweep, evolve_front, sweep_limits
from evolution.search import Candidate, Score, SearchResult, SearchSettings, evolve, random_search, warm_up
from supernet.pareto import front, hypervolume

__all__ = [
    "Candidate",
    "Front",
    "FrontSettings",
    "Match",
    "Optimum",
    "Score",
    "SearchResult",
    "SearchSettings",
    "Sweep",
    "closest_in_macs",
    "evolve",
    "evolve_front",
    "front",
    "hypervolume",
    "optimum",
    "random_search",
    "sweep_limits",
    "warm_up",
]
