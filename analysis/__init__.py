"""What a run found, for a person to read: the report, its plots, and drawings of networks."""

from analysis.drawing import draw_graph
from analysis.report import write_report

__all__ = ["draw_graph", "write_report"]
