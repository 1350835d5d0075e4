"""Small tables that every test of the predictors can use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from supernet import ArchGraph, LabelRow, LabelTable, Node, OpSubset, architectures, sample_distinct
from supernet.op_subset import LayerSettings


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def op_subset_table() -> LabelTable:
    """80 networks of a small op_subset space; the accuracy saturates in the operations of each layer."""
    space = OpSubset(layers=tuple(LayerSettings(channels=channels) for channels in (8, 16, 32)), classes=10)
    rows = []
    for number, architecture in enumerate(architectures(space, sample_distinct(space, 80, np.random.default_rng(0)))):
        bits = architecture.row()[0].reshape(3, -1)
        accuracy = 0.5 + 0.1 * float(np.log1p(bits @ np.arange(1, 7)).mean())
        rows.append(
            LabelRow(str(number), space.graph(architecture), {"accuracy": accuracy}, choices=architecture.choices)
        )
    return LabelTable(tuple(rows))


@pytest.fixture(scope="session")
def cell_table() -> LabelTable:
    """60 cells as in NAS-Bench-201: foreign operations without any attribute, no choices, a feature."""
    random = np.random.default_rng(1)
    worth = {"none": 0.0, "skip_connect": 0.3, "nor_conv_1x1": 0.6, "nor_conv_3x3": 1.0, "avg_pool_3x3": 0.1}
    ends = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    rows = []
    for number in range(60):
        chosen = [list(worth)[index] for index in random.integers(0, 5, len(ends))]
        nodes = [Node("cell_input"), Node("add"), Node("add"), Node("add")]
        edges = []
        for op, (start, end) in zip(chosen, ends, strict=True):
            edges += [(start, len(nodes)), (len(nodes), end)]
            nodes.append(Node(op))
        score = sum(worth[op] for op in chosen) / len(ends)
        graph = ArchGraph(tuple(nodes), tuple(edges))
        rows.append(LabelRow(f"cell{number}", graph, {"score": score}, {"synflow": 10.0**score}))
    return LabelTable(tuple(rows))
