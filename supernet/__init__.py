"""Search spaces, the one graph that they speak, its costs, and label tables. Importing it needs no torch.

Networks (torch) are in :mod:`supernet.network`, those that share weights in :mod:`supernet.sharing`, stand-alone source
in :mod:`supernet.export`.
"""

from supernet.darts import Darts
from supernet.davidnet import DavidNet
from supernet.families import Families
from supernet.graph import ArchGraph, Node
from supernet.handmade import HandMade
from supernet.limits import Bound, Limits
from supernet.nasbench201 import NasBench201
from supernet.op_subset import OpSubset
from supernet.operations import COST_NAMES, Costs, graph_costs
from supernet.sampling import feasible_share, sample_distinct
from supernet.settings import InputError, Settings
from supernet.space import Architecture, Choices, SearchSpace, architectures
from supernet.stages import Stages
from supernet.supergraph import SuperGraph, derive
from supernet.table import LabelRow, LabelTable, read_table, write_table
from supernet.union import UnionSpace

__all__ = [
    "COST_NAMES",
    "ArchGraph",
    "Architecture",
    "Bound",
    "Choices",
    "Costs",
    "Darts",
    "DavidNet",
    "Families",
    "HandMade",
    "InputError",
    "LabelRow",
    "LabelTable",
    "Limits",
    "NasBench201",
    "Node",
    "OpSubset",
    "SearchSpace",
    "Settings",
    "Stages",
    "SuperGraph",
    "UnionSpace",
    "architectures",
    "derive",
    "feasible_share",
    "graph_costs",
    "read_table",
    "sample_distinct",
    "write_table",
]
