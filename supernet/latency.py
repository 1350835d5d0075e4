"""Latency of networks as a sum over their operations: a table, or a model fitted to measured networks. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supernet.additive import fit_additive
from supernet.files import read_json, write_json
from supernet.graph import ArchGraph, Node
from supernet.limits import Measure
from supernet.settings import InputError
from supernet.space import Choices, SearchSpace, graphs

_KIND = "genas-latency"
_STRENGTHS = (1e-6, 1e-3, 1e-2, 1e-1, 1.0)
_COUNTS = ("in", "out", "kernel", "stride", "dilation", "groups", "expansion", "resolution", "se", "hswish", "growth")


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a network: ``overhead``, and for each operation what its kind takes.

    Attributes:
        overhead: of every network, in milliseconds.
        operations: milliseconds by operation, see :func:`operation_key`.
        error: mean absolute error on networks that were held out, as a fraction; None where none was.
        others: milliseconds of an operation that was not measured, and of each of its MACs; None where such a one
            is refused.
    """

    overhead: float
    operations: Mapping[str, float]
    error: float | None = None
    others: tuple[float, float] | None = None

    def of(self, graphs: Sequence[ArchGraph]) -> NDArray[np.float64]:
        """Milliseconds of graphs, (graphs,). Raises InputError for an operation of which nothing is known."""
        known: dict[Node, float] = {}
        result = np.full(len(graphs), self.overhead)
        for place, graph in enumerate(graphs):
            for node in graph.nodes:
                if node not in known:
                    key = operation_key(node)
                    if key in self.operations:
                        known[node] = self.operations[key]
                    elif self.others is not None:
                        known[node] = self.others[0] + self.others[1] * node.get("macs")
                    else:
                        raise InputError(
                            f"latency: operation {key!r} of a network is not among the {len(self.operations)} measured "
                            f"ones; measure the space that is searched"
                        )
                result[place] += known[node]
        return result

    def measure(self, space: SearchSpace) -> Measure:
        """Milliseconds of rows of a space; by a table of its choices where they add up, which takes no graphs."""

        def by_graphs(choices: Choices) -> NDArray[np.float64]:
            return self.of(graphs(space, choices))

        additive = fit_additive(space, by_graphs)
        return by_graphs if additive is None else additive.values


def operation_key(node: Node) -> str:
    """An operation with its shapes, as ``sep_conv in=16 kernel=3 out=32 resolution=16 stride=2``."""
    shown = sorted((name, value) for name, value in node.attributes if name in _COUNTS)
    return " ".join([node.op, *(f"{name}={value:g}" for name, value in shown)])


def fit_latency(graphs: Sequence[ArchGraph], milliseconds: NDArray[np.float64]) -> Latency:
    """What each operation takes, at least 0, by least squares on measured networks.

    A fifth of the networks is first held out to measure the error; the model that is returned has seen all.

    Args:
        milliseconds: of each graph, above 0, (graphs,).

    Raises:
        InputError: fewer than 10 networks, or a latency that is not above 0.
    """
    values = np.asarray(milliseconds, np.float64)
    if len(graphs) < 10 or values.shape != (len(graphs),):
        raise InputError(f"latency: expected at least 10 measured networks, got {len(graphs)}")
    if not (np.isfinite(values) & (values > 0)).all():
        raise InputError(f"latency: expected milliseconds above 0, got {values.min()}")
    counts, keys, macs = _counted(graphs)
    held_out = np.arange(len(graphs)) % 5 == 4
    weights = _fitted(counts[~held_out], macs, values[~held_out])
    error = float(np.abs(counts[held_out] @ weights / values[held_out] - 1).mean())
    weights = _fitted(counts, macs, values)
    _, each, a_mac = _plain(counts, macs, values)
    operations = dict(zip(keys, weights[1:].tolist(), strict=True))
    return Latency(float(weights[0]), operations, error, (float(each), float(a_mac)))


def _counted(graphs: Sequence[ArchGraph]) -> tuple[NDArray[np.float64], list[str], NDArray[np.float64]]:
    """How often each operation occurs, after a column of ones; the operations, and the MACs of one of each."""
    macs: dict[str, float] = {}
    rows = []
    for graph in graphs:
        row: dict[str, int] = {}
        for node in graph.nodes:
            key = operation_key(node)
            row[key] = row.get(key, 0) + 1
            macs[key] = node.get("macs")
        rows.append(row)
    keys = sorted(macs)
    counts = np.array([[1, *(row.get(key, 0) for key in keys)] for row in rows], np.float64)
    return counts, keys, np.array([macs[key] for key in keys])


def _fitted(counts: NDArray[np.float64], macs: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Milliseconds of every network and of each operation, at least 0.

    Few networks cannot tell all operations apart: each is drawn to what so many MACs, and an operation of any kind,
    take on average. How strongly is chosen on networks that are left out.
    """
    inside = np.arange(len(values)) % 4 != 3
    errors = []
    for strength in _STRENGTHS:
        weights = _drawn(counts[inside], macs, values[inside], strength)
        errors.append(float(np.abs(counts[~inside] @ weights / values[~inside] - 1).mean()))
    return _drawn(counts, macs, values, _STRENGTHS[int(np.argmin(errors))])


def _drawn(
    counts: NDArray[np.float64], macs: NDArray[np.float64], values: NDArray[np.float64], strength: float
) -> NDArray[np.float64]:
    """Least squares of relative errors, each weight drawn to what MACs alone say of it."""
    from scipy.optimize import nnls  # takes longer to import than all else here

    scaled, ones = counts / values[:, None], np.ones(len(values))
    every, each, a_mac = _plain(counts, macs, values)
    expected = np.concatenate([[every], each + a_mac * macs])
    ridge = np.sqrt(strength * np.maximum((scaled**2).sum(axis=0), 1e-12))
    weights, _ = nnls(np.concatenate([scaled, np.diag(ridge)]), np.concatenate([ones, ridge * expected]))
    return np.asarray(weights, np.float64)


def _plain(counts: NDArray[np.float64], macs: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Milliseconds of every network, of an operation of any kind, and of a MAC."""
    from scipy.optimize import nnls

    scaled = counts / values[:, None]
    columns = np.stack([scaled[:, 0], scaled[:, 1:].sum(axis=1), scaled[:, 1:] @ macs], axis=1)
    size = np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
    return np.asarray(nnls(columns / size, np.ones(len(values)))[0] / size, np.float64)


def write_latency(path: Path, latency: Latency, about: Mapping[str, object]) -> None:
    """Write a model as JSON, with what it was measured on. Raises UnavailableError where that is impossible."""
    content = {
        "kind": _KIND,
        "unit": "ms",
        "overhead": latency.overhead,
        "operations": dict(latency.operations),
        "error": latency.error,
        "others": None if latency.others is None else list(latency.others),
        **about,
    }
    write_json(path, content)


def read_latency(path: Path) -> Latency:
    """What :func:`write_latency` wrote, or a table by hand. Raises InputError for anything else."""
    content = read_json(path)
    if content is None:
        raise InputError(f"{path}: no such file; genas latency CONFIG --out {path} measures one")
    operations = content.get("operations") if isinstance(content, dict) else None
    if not isinstance(operations, dict) or content.get("kind") != _KIND:
        raise InputError(f"{path}: expected a table of latencies of kind {_KIND!r} with operations")
    numbers = {"overhead": content.get("overhead", 0.0), **operations}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < np.inf:
            raise InputError(f"{path}: {name!r} is {value!r:.80}; expected milliseconds, at least 0")
    error, others = content.get("error"), content.get("others")
    if others is not None:
        whole = isinstance(others, list) and len(others) == 2
        if not whole or not all(isinstance(one, int | float) and 0 <= one < np.inf for one in others):
            raise InputError(f"{path}: 'others' is {others!r:.80}; expected milliseconds of an operation and of a MAC")
    return Latency(
        float(numbers["overhead"]),
        {str(key): float(value) for key, value in operations.items()},
        float(error) if isinstance(error, int | float) else None,
        None if others is None else (float(others[0]), float(others[1])),
    )


def latency_digest(path: Path | None) -> str | None:
    """Tells whether a table has changed; None without one."""
    if path is None:
        return None
    latency = read_latency(path)
    return hashlib.blake2b(
        repr((latency.overhead, sorted(latency.operations.items()))).encode(), digest_size=8
    ).hexdigest()
