"""Ensembles of regression trees: grown by scikit-learn, kept as plain arrays, followed by NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor
from sklearn.tree import DecisionTreeRegressor

from predictor.structure import Floats

_BOOSTED = 300
_RATE = 0.05
_EXTRA = 200
_EXTRA_LEAVES = 500_000  # of all extra trees, about: many rows grow fewer trees, 50 at least
_BLOCK = 256  # rows followed at a time: what the trees hold of them stays in the processor's cache


@dataclass(frozen=True, slots=True)
class Trees:
    """A sum of trees, their nodes in one row, children after parents and the two of a parent side by side.

    Attributes:
        feature: column that a node asks, (nodes,).
        threshold: rows with at most this go left; infinite at a leaf, (nodes,).
        left: a node's left child, the right one is next; a leaf is its own, (nodes,).
        value: of a leaf, what it adds, (nodes,).
        roots: first node of each tree, (trees,).
        depth: of the deepest tree.
        offset: added to the sum.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    value: Floats
    roots: NDArray[np.int32]
    depth: int
    offset: float

    def predict(self, x: Floats) -> Floats:
        """(rows, columns) to (rows,)."""
        result = np.full(len(x), self.offset)
        narrow = np.ascontiguousarray(x, np.float32)
        if not narrow.shape[1]:  # leaves ask column 0
            narrow = np.zeros((len(x), 1), np.float32)
        for start in range(0, len(x), _BLOCK):
            rows = narrow[start : start + _BLOCK]
            flat, offsets = rows.reshape(-1), (np.arange(len(rows), dtype=np.int32) * rows.shape[1])[None]
            at = np.broadcast_to(self.roots[:, None], (len(self.roots), len(rows)))
            for _ in range(self.depth):
                right = flat.take(self.feature.take(at) + offsets) > self.threshold.take(at)
                at = self.left.take(at) + right
            result[start : start + _BLOCK] += self.value.take(at).sum(axis=0)
        return result

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Arrays by name."""
        return {
            "feature": self.feature,
            "threshold": self.threshold,
            "left": self.left,
            "value": self.value,
            "roots": self.roots,
            "offset": np.array([self.offset]),
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> Trees:
        """The inverse of :meth:`to_arrays`. Raises KeyError, IndexError or ValueError for anything else."""
        feature, left, roots = (np.asarray(arrays[name], np.int32) for name in ("feature", "left", "roots"))
        threshold, value = np.asarray(arrays["threshold"], np.float32), np.asarray(arrays["value"], np.float64)
        count = len(feature)
        places = np.arange(count)
        if not threshold.shape == left.shape == value.shape == (count,) or (feature < 0).any():
            raise ValueError("the arrays of trees differ in length")
        inner = left != places
        if (left[inner] <= places[inner]).any() or (left[inner] + 1 >= count).any() or (left < 0).any():
            raise ValueError("a tree's child comes before its parent, or is not there")
        if not np.isposinf(threshold[~inner]).all() or ((roots < 0) | (roots >= count)).any():
            raise ValueError("a tree's leaf asks something, or its root is not there")
        levels = np.zeros(count, np.int64)
        for place in np.flatnonzero(inner).tolist():  # parents come first
            levels[left[place] : left[place] + 2] = levels[place] + 1
        offset = float(np.asarray(arrays["offset"], np.float64)[0])
        return Trees(feature, threshold, left, value, roots, int(levels.max(initial=0)), offset)


def fit_boosted(x: Floats, y: Floats, seed: int) -> Trees:
    """Gradient boosting with subsampled rows and columns (Friedman 2002); the seed decides what is drawn."""
    if not x.shape[1] or len(y) < 2:
        return _constant(float(y.mean()))
    model = GradientBoostingRegressor(
        n_estimators=_BOOSTED, learning_rate=_RATE, max_depth=4, subsample=0.5, max_features=0.3, random_state=seed
    ).fit(x, y)
    return _gathered([row[0] for row in model.estimators_], _RATE, float(y.mean()))


def fit_extra(x: Floats, y: Floats, seed: int) -> Trees:
    """Extremely randomised trees (Geurts et al. 2006); the seed decides what is drawn."""
    if not x.shape[1] or len(y) < 2:
        return _constant(float(y.mean()))
    count = min(_EXTRA, max(50, _EXTRA_LEAVES // len(y)))
    model = ExtraTreesRegressor(count, min_samples_leaf=2, max_features=0.4, random_state=seed).fit(x, y)
    return _gathered(list(model.estimators_), 1 / count, 0.0)


def _constant(value: float) -> Trees:
    return Trees(
        np.zeros(1, np.int32), np.full(1, np.inf, np.float32), np.zeros(1, np.int32), np.zeros(1),
        np.zeros(1, np.int32), 0, value,
    )  # fmt: skip


def _gathered(models: Sequence[DecisionTreeRegressor], weight: float, offset: float) -> Trees:
    """One array of the nodes of all trees, each tree's level by level."""
    parts: dict[str, list[NDArray[np.generic]]] = {name: [] for name in ("feature", "threshold", "left", "value")}
    roots, begin, depth = [], 0, 0
    for model in models:
        tree = model.tree_
        order, place = [0], 0
        while place < len(order):  # grows while it is read: breadth first
            if tree.children_left[order[place]] >= 0:
                order += [tree.children_left[order[place]], tree.children_right[order[place]]]
            place += 1
        nodes = np.array(order, np.int64)
        new = np.empty(len(nodes), np.int64)
        new[nodes] = np.arange(len(nodes))
        leaf = tree.children_left[nodes] < 0
        left = np.where(leaf, np.arange(len(nodes)), new[np.maximum(tree.children_left[nodes], 0)])
        parts["feature"].append(np.where(leaf, 0, tree.feature[nodes]).astype(np.int32))
        parts["threshold"].append(np.where(leaf, np.inf, _rounded_down(tree.threshold[nodes])).astype(np.float32))
        parts["left"].append((left + begin).astype(np.int32))
        parts["value"].append(np.where(leaf, weight * tree.value[nodes, 0, 0], 0.0))
        roots.append(begin)
        begin += len(nodes)
        depth = max(depth, int(tree.max_depth))
    joined = {name: np.concatenate(some) for name, some in parts.items()}
    return Trees(
        joined["feature"].astype(np.int32),
        joined["threshold"].astype(np.float32),
        joined["left"].astype(np.int32),
        joined["value"].astype(np.float64),
        np.array(roots, np.int32),
        depth,
        offset,
    )


def _rounded_down(thresholds: Floats) -> NDArray[np.float32]:
    """The largest single numbers that are not above: a single number is at most one if it is at most the other."""
    narrow = thresholds.astype(np.float32)
    return np.where(narrow > thresholds, np.nextafter(narrow, np.float32(-np.inf)), narrow)
