"""Architecture graphs as flat columns, for the models that know no graph.

The columns describe any graph without a word about its space:

- ``place``: how often each distinct node occurs, and each kind of node in each block from the start and the end. A
  *block* is what lies between two nodes that every path passes: a layer of a macro space, a cell of a cell space.
- ``summary``: how often each operation and kind occurs, dead ones counted apart; the most, fewest and mean of it on a
  path; MACs; totals of the graph, number of paths, longest and shortest path, receptive field.
- ``stage``: the same for each operation at each size of tensors and in each block, so that "some separable convolution
  in this layer" is a column; MACs, parameters and nodes of each block.
- ``paths``: within blocks, how many paths hold a kind so many times, are so long, start with a kind (after Wei et al.
  2022, who encode cells by their paths; counted here by sums along edges, so that no path is listed).
- ``subtree``: how often each neighbourhood of one and two edges occurs (Weisfeiler and Leman 1968; Ru et al. 2021).
- ``features``: the numbers that the table gives of each architecture.

Dead nodes are left out of all else; see :class:`predictor.structure.Structure`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor.structure import JOIN_OPS, Floats, Ints, Structure
from supernet import ArchGraph, InputError, Node

GROUPS = ("place", "summary", "stage", "paths", "subtree", "features")

IDENTITY_OPS = (*JOIN_OPS, "input", "skip", "skip_connect", "identity", "id", "shortcut")
"""Operations that change nothing, where they have no parameters: a path is as long without them."""

_SIZES = ("in", "out", "resolution", "macs", "params")
"""Attributes that are no part of a node's kind."""
_BLOCKS = 64  # those after are taken for the last
_TIMES = 4  # how often a path holds a kind: 0, 1, 2, 3 or more
_MOST_PATHS = 1e30  # counts are finite, however many there are
_COMMON = 0.02  # share of the training graphs that a label must be in
_LIMITS = {
    "any": 64,
    "op": 64,
    "kind": 64,
    "stage": 128,
    "block": 128,
    "node": 256,
    "at": 256,
    "end": 256,
    "near": 128,
    "far": 128,
}
_CHUNK = 512  # graphs encoded at a time
_FITTED_ON = 1000  # graphs that the vocabulary and the columns are chosen on, at most


@dataclass(frozen=True, slots=True)
class FlatEncoder:
    """Turns graphs into one matrix.

    Attributes:
        labels: known labels of each family, as texts.
        columns: of each group the raw columns that are kept, ascending.
        mean, scale: of the kept columns, group after group.
        features: per-architecture numbers that every prediction must bring.
    """

    labels: Mapping[str, tuple[str, ...]]
    columns: Mapping[str, Ints]
    mean: Floats
    scale: Floats
    features: tuple[str, ...]

    @staticmethod
    def fit(graphs: Sequence[ArchGraph], features: Sequence[Mapping[str, float]] | None = None) -> FlatEncoder:
        """Vocabulary, columns that differ, and their standardisation, from training graphs.

        Args:
            features: of each graph; those that all graphs have are used.
        """
        names = tuple(sorted(set.intersection(*(set(row) for row in features)))) if features else ()
        step = -(-len(graphs) // _FITTED_ON)
        graphs, features = graphs[::step], features[::step] if features else None
        seen = _Seen(Structure.of(graphs))
        labels = {family: seen.common(family, limit) for family, limit in _LIMITS.items()}
        encoder = FlatEncoder(labels, {}, np.empty(0), np.empty(0), names)
        for last in (False, True):  # the second time without the labels that make no column
            raw = encoder._raw(seen, features)
            columns = _distinct_columns(raw)
            encoder = replace(encoder, columns=columns)
            if not last:
                encoder = replace(encoder, labels=encoder._labels_used(raw))
        matrix = encoder._select(raw)
        return replace(encoder, mean=matrix.mean(axis=0), scale=matrix.std(axis=0))

    def _labels_used(self, raw: Mapping[str, list[_Part]]) -> dict[str, tuple[str, ...]]:
        used: dict[str, set[int]] = {family: set() for family in self.labels}
        for group, parts in raw.items():
            start = 0
            for part in parts:
                end = start + part.values.shape[1]
                kept = self.columns[group]
                if part.family:
                    inside = kept[(kept >= start) & (kept < end)] - start
                    used[part.family].update(inside.tolist())
                start = end
        return {
            family: tuple(label for place, label in enumerate(known) if place in used[family])
            for family, known in self.labels.items()
        }

    @property
    def width(self) -> int:
        """Columns in all."""
        return len(self.mean)

    def group(self, *names: str) -> Ints:
        """Positions of the columns of some groups."""
        positions, start = [], 0
        for group in GROUPS:
            width = len(self.columns[group])
            if group in names:
                positions.append(np.arange(start, start + width))
            start += width
        return np.concatenate(positions) if positions else np.zeros(0, np.int64)

    def encode(self, graphs: Sequence[ArchGraph], features: Sequence[Mapping[str, float]] | None = None) -> Floats:
        """Standardised columns, (graphs, width). Raises InputError where a feature is missing."""
        parts = []
        for start in range(0, len(graphs), _CHUNK):
            some = features[start : start + _CHUNK] if features is not None else None
            parts.append(self.encode_structure(Structure.of(graphs[start : start + _CHUNK]), some))
        return np.concatenate(parts) if parts else np.empty((0, self.width))

    def encode_structure(self, structure: Structure, features: Sequence[Mapping[str, float]] | None = None) -> Floats:
        """As :meth:`encode`, of graphs that are arrays already; memory grows with their number."""
        return (self._select(self._raw(_Seen(structure), features)) - self.mean) / self.scale

    def to_json(self) -> dict[str, object]:
        """Everything, as plain lists and numbers."""
        return {
            "labels": {family: list(known) for family, known in self.labels.items()},
            "columns": {group: kept.tolist() for group, kept in self.columns.items()},
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "features": list(self.features),
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> FlatEncoder:
        """The inverse of :meth:`to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        encoder = FlatEncoder(
            {family: tuple(map(str, content["labels"][family])) for family in _LIMITS},
            {group: np.array(content["columns"][group], np.int64).reshape(-1) for group in GROUPS},
            np.array(content["mean"], np.float64),
            np.array(content["scale"], np.float64),
            tuple(map(str, content["features"])),
        )
        width = sum(map(len, encoder.columns.values()))
        if encoder.mean.shape != (width,) or encoder.scale.shape != (width,) or not (encoder.scale > 0).all():
            raise ValueError("the standardisation does not fit the columns")
        example = encoder._raw(
            _Seen(Structure.of([ArchGraph((Node("input"),), ())])),
            None if not encoder.features else [dict.fromkeys(encoder.features, 0.0)],
        )
        for group, parts in example.items():
            known, kept = sum(part.values.shape[1] for part in parts), encoder.columns[group]
            if len(kept) and not 0 <= kept.min() <= kept.max() < known:
                raise ValueError(f"group {group!r} names a column that is not there")
        return encoder

    def _select(self, raw: Mapping[str, list[_Part]]) -> Floats:
        chosen = []
        for group in GROUPS:
            matrix = np.concatenate([part.values for part in raw[group]], axis=1)
            chosen.append(matrix[:, self.columns[group]])
        return np.concatenate(chosen, axis=1)

    def _raw(self, seen: _Seen, features: Sequence[Mapping[str, float]] | None) -> dict[str, list[_Part]]:
        s, count = seen.structure, seen.structure.graphs
        ids = {family: seen.ids(family, known) for family, known in self.labels.items()}

        def counted(family: str) -> _Part:
            return _Part(family, _counts(seen.owner(family), count, ids[family], len(self.labels[family])))

        def onehot(family: str) -> Floats:
            return _onehot(ids[family], len(self.labels[family]))

        # What is joined along paths: all families in one matrix.
        families = ("op", "kind", "stage", "block")
        widths = [len(self.labels[family]) for family in families]
        own = np.concatenate([*(onehot(family) for family in families), seen.measures], axis=1)
        most, fewest = (seen.at_output(s.forward.along(own, join), join) for join in (np.maximum, np.minimum))
        mean = seen.at_output_mean(s.forward.mean_along(own, s.paths))
        bounds = np.cumsum([0, *widths, seen.measures.shape[1]])
        joined: dict[str, list[_Part]] = {
            family: [_Part(family, values[:, bounds[place] : bounds[place + 1]]) for values in (most, fewest, mean)]
            for place, family in enumerate(families)
        }
        measures = [_Part("", values[:, bounds[-2] :]) for values in (most, fewest, mean)]
        costs = {
            family: [_Part(family, np.log1p(_sums(s, ids[family], widths[place], seen.macs)))]
            for place, family in enumerate(families)
        }
        histogram = self._histograms(seen, onehot("kind"))
        return {
            "place": [counted("node"), counted("at"), counted("end")],
            "summary": [
                counted("any"),
                *(part for family in ("op", "kind") for part in (counted(family), *joined[family], *costs[family])),
                *measures,
                _Part("", seen.totals),
            ],
            "stage": [
                *(part for family in ("stage", "block") for part in (counted(family), *joined[family], *costs[family])),
                _Part("", seen.by_block),
            ],
            "paths": histogram,
            "subtree": [counted("near"), counted("far")],
            "features": [_Part("", _feature_matrix(self.features, count, features))],
        }

    def _histograms(self, seen: _Seen, kinds: Floats) -> list[_Part]:
        """Numbers of paths within blocks by what they hold."""
        s, width = seen.structure, kinds.shape[1]
        inner = kinds * ~seen.identity[:, None]
        length = (~seen.identity).astype(np.float64)[:, None]
        weights = (seen.weighted & ~seen.identity).astype(np.float64)[:, None]
        held = np.concatenate([inner, length, weights], axis=1)  # (nodes, what is counted)
        what = held.shape[1]
        unit = np.zeros((what, _TIMES))
        unit[:, 0] = 1
        starts = np.bincount(s.targets, minlength=len(s.row)) == 0
        result = np.zeros((len(s.row), what, _TIMES))
        pure = np.zeros((len(s.row), _TIMES))  # weights on paths that hold nothing else
        # Paths by the kind that they start with; the last column: those that hold nothing yet.
        first = np.zeros((len(s.row), width + 1))
        unit_first = np.zeros(width + 1)
        unit_first[-1] = 1
        alone = ~seen.identity & ~seen.weighted

        def enter(nodes: Ints, paths: Floats, firsts: Floats, purely: Floats) -> None:
            """What goes into nodes, moved by what they hold."""
            moved = paths.copy()
            moved[:, :, 1:] = paths[:, :, :-1]
            moved[:, :, 0] = 0
            moved[:, :, -1] += paths[:, :, -1]
            hold = held[nodes][:, :, None] > 0
            result[nodes] = np.where(hold, moved, paths)
            shifted = np.concatenate([np.zeros((len(nodes), 1)), purely[:, :-1]], axis=1)
            shifted[:, -1] += purely[:, -1]
            purely = np.where(weights[nodes] > 0, shifted, purely)
            pure[nodes] = np.where(alone[nodes][:, None], 0, purely)
            begins = ~seen.identity[nodes]
            firsts = firsts.copy()
            firsts[:, :-1] += np.where(begins[:, None], firsts[:, -1:] * inner[nodes], 0)
            firsts[begins, -1] = 0
            first[nodes] = firsts

        origins = np.flatnonzero(starts)
        enter(
            origins,
            np.broadcast_to(unit, (len(origins), what, _TIMES)),
            np.broadcast_to(unit_first, (len(origins), width + 1)),
            np.broadcast_to(unit[0], (len(origins), _TIMES)),
        )
        flow, cut = s.forward, s.cut
        for start, end in zip(flow.bounds[:-1], flow.bounds[1:], strict=True):
            sources, targets = flow.sources[start:end], flow.targets[start:end]
            begins = np.flatnonzero(np.concatenate([[True], targets[1:] != targets[:-1]]))
            renewed = cut[sources]
            paths = np.where(renewed[:, None, None], unit, result[sources])
            firsts = np.where(renewed[:, None], unit_first, first[sources])
            purely = np.where(renewed[:, None], unit[0], pure[sources])
            arriving = (np.add.reduceat(values, begins, axis=0) for values in (paths, firsts, purely))
            enter(targets[begins], *(np.minimum(values, _MOST_PATHS) for values in arriving))
        ends = np.flatnonzero(cut & ~starts)
        owner = s.owner[ends]

        def collected(values: Floats) -> Floats:
            total = np.zeros((s.graphs, values.shape[1]))
            np.add.at(total, owner, values)
            return np.log1p(total)

        times = [collected(result[ends][:, :width, time]) for time in range(_TIMES)]
        return [
            *(_Part("kind", values) for values in times),
            _Part("kind", collected(first[ends][:, :-1])),
            _Part("", collected(result[ends][:, width:].reshape(len(ends), (what - width) * _TIMES))),
            _Part("", collected(pure[ends])),
        ]


@dataclass(frozen=True, slots=True)
class _Part:
    """Raw columns, which are some repetitions of the labels of a family; of none where that is empty."""

    family: str
    values: Floats


class _Seen:
    """What is the same for every vocabulary: labels of nodes, blocks, totals."""

    def __init__(self, structure: Structure) -> None:
        self.structure = s = structure
        nodes = s.distinct
        self.block, self.blocks = np.minimum(s.block, _BLOCKS - 1), np.minimum(s.blocks, _BLOCKS - 1)
        inputs = np.bincount(s.targets, minlength=len(s.row))

        def attribute(name: str) -> Floats:
            return np.array([node.get(name) for node in nodes], dtype=np.float64)[s.row] if nodes else np.zeros(0)

        self.macs, self.params = (np.maximum(attribute(name), 0) for name in ("macs", "params"))
        kernel, dilation = attribute("kernel"), attribute("dilation")
        self.weighted = np.array([_has_weights(node) for node in nodes], bool)[s.row]
        identity = [node.op.lower() in IDENTITY_OPS and not node.get("params") > 0 for node in nodes]
        self.identity = np.array(identity, bool)[s.row]
        reach = np.where(kernel > 0, (kernel - 1) * np.maximum(dilation, 1), 0)
        self.measures = np.stack([np.ones(len(s.row)), self.weighted, ~self.identity, reach], axis=1).astype(np.float64)
        per_graph = [
            np.log1p(np.bincount(s.owner, self.macs, s.graphs)),
            np.log1p(np.bincount(s.owner, self.params, s.graphs)),
            np.bincount(s.owner, minlength=s.graphs),
            np.bincount(s.owner[s.sources], minlength=s.graphs),
            np.bincount(s.owner, np.log1p(self.macs), s.graphs),
            np.bincount(s.owner, np.log(np.maximum(inputs, 1)), s.graphs),
            np.where(np.isfinite(s.all_paths), s.all_paths, -1),
            s.blocks,
            s.total_nodes,
            s.total_edges,
        ]
        self.totals = np.stack(per_graph, axis=1).astype(np.float64)
        place = s.owner * _BLOCKS + self.block
        size = s.graphs * _BLOCKS
        sums = [np.log1p(np.bincount(place, values, size)) for values in (self.macs, self.params, np.ones(len(s.row)))]
        self.by_block = np.concatenate([values.reshape(s.graphs, _BLOCKS) for values in sums], axis=1)
        self._texts: dict[str, tuple[list[str], Ints]] = {}

    def at_output(self, values: Floats, join: np.ufunc) -> Floats:
        s = self.structure
        return _per_graph(s.graphs, s.owner[s.output], values[s.output], join)

    def at_output_mean(self, values: Floats) -> Floats:
        s = self.structure
        owner = s.owner[s.output]
        share = np.exp(s.paths[s.output] - s.all_paths[owner])
        return _per_graph(s.graphs, owner, values[s.output] * share[:, None], np.add)

    def common(self, family: str, limit: int) -> tuple[str, ...]:
        """Labels in enough of the graphs, the most frequent first up to the limit; then in order of their texts."""
        texts, label = self.texts(family)
        s = self.structure
        pairs = np.unique(self.owner(family) * max(len(texts), 1) + label)
        within = np.bincount(pairs % max(len(texts), 1), minlength=len(texts))
        order = sorted(range(len(texts)), key=lambda place: (-within[place], texts[place]))
        chosen = [place for place in order[:limit] if within[place] >= _COMMON * s.graphs]
        return tuple(sorted(texts[place] for place in chosen))

    def owner(self, family: str) -> Ints:
        """The graph of each node that a family labels."""
        return self.structure.all_owner if family == "any" else self.structure.owner

    def ids(self, family: str, known: tuple[str, ...]) -> Ints:
        """Of each node the place of its label among those known, -1 for others."""
        texts, label = self.texts(family)
        places = {text: place for place, text in enumerate(known)}
        return np.array([places.get(text, -1) for text in texts], np.int64)[label] if texts else np.zeros(0, np.int64)

    def texts(self, family: str) -> tuple[list[str], Ints]:
        """Distinct labels of a family, and of each node the place of its own."""
        if family not in self._texts:
            self._texts[family] = _FAMILIES[family](self)
        return self._texts[family]


def _of_nodes(text: Callable[[Node], str]) -> Callable[[_Seen], tuple[list[str], Ints]]:
    def labels(seen: _Seen) -> tuple[list[str], Ints]:
        index: dict[str, int] = {}
        places = [index.setdefault(text(node), len(index)) for node in seen.structure.distinct]
        return list(index), np.array(places, np.int64)[seen.structure.row]

    return labels


def _in_blocks(family: str, from_end: bool = False) -> Callable[[_Seen], tuple[list[str], Ints]]:
    def labels(seen: _Seen) -> tuple[list[str], Ints]:
        texts, label = seen.texts(family)
        block = seen.blocks[seen.structure.owner] - seen.block if from_end else seen.block
        keys, label = np.unique(label * _BLOCKS + block, return_inverse=True)
        mark = "-" if from_end else "+"
        return [f"{texts[key // _BLOCKS]} {mark}{key % _BLOCKS}" for key in keys.tolist()], label

    return labels


def _subtrees(rounds: int) -> Callable[[_Seen], tuple[list[str], Ints]]:
    def labels(seen: _Seen) -> tuple[list[str], Ints]:
        s = seen.structure
        texts, label = seen.texts("kind")
        hashes = np.array([_hashed(text) for text in texts], np.uint64)[label]
        with np.errstate(over="ignore"):  # modulo 2**64 is meant
            for _ in range(rounds):
                around = np.zeros(len(hashes), np.uint64)
                np.add.at(around, s.targets, _mixed(hashes[s.sources] * np.uint64(3) + np.uint64(1)))
                hashes = _mixed(hashes * np.uint64(5) + _mixed(around + np.uint64(7)))
        keys, label = np.unique(hashes, return_inverse=True)
        return [f"{key:016x}" for key in keys.tolist()], label

    return labels


def _has_weights(node: Node) -> bool:
    """By its costs, or by its name where it tells none."""
    costs = [value for name, value in node.attributes if name in ("macs", "params")]
    return max(costs) > 0 if costs else "conv" in node.op.lower()


def _kind(node: Node) -> str:
    rest = "".join(f" {name}={value:g}" for name, value in node.attributes if name not in _SIZES)
    return node.op + rest


def _stage(node: Node) -> str:
    return node.op + "".join(f" {name}={node.get(name):g}" for name in ("out", "resolution"))


def _everything(seen: _Seen) -> tuple[list[str], Ints]:
    """Operations of all nodes: dead ones cost time all the same."""
    index: dict[str, int] = {}
    places = [index.setdefault(node.op, len(index)) for node in seen.structure.distinct]
    return list(index), np.array(places, np.int64)[seen.structure.all_row]


_FAMILIES: dict[str, Callable[[_Seen], tuple[list[str], Ints]]] = {
    "any": _everything,
    "op": _of_nodes(lambda node: node.op),
    "kind": _of_nodes(_kind),
    "stage": _of_nodes(_stage),
    "node": _of_nodes(lambda node: node.text),
    "block": _in_blocks("op"),
    "at": _in_blocks("kind"),
    "end": _in_blocks("kind", from_end=True),
    "near": _subtrees(1),
    "far": _subtrees(2),
}


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _onehot(ids: Ints, width: int) -> Floats:
    result = np.zeros((len(ids), width))
    known = np.flatnonzero(ids >= 0)
    result[known, ids[known]] = 1
    return result


def _counts(owner: Ints, graphs: int, ids: Ints, width: int) -> Floats:
    known = ids >= 0
    flat = np.bincount(owner[known] * width + ids[known], minlength=graphs * width)
    return flat.reshape(graphs, width).astype(np.float64)


def _sums(s: Structure, ids: Ints, width: int, values: Floats) -> Floats:
    known = ids >= 0
    flat = np.bincount(s.owner[known] * width + ids[known], values[known], s.graphs * width)
    return flat.reshape(s.graphs, width).astype(np.float64)


def _per_graph(graphs: int, owner: Ints, values: Floats, join: np.ufunc) -> Floats:
    result = np.zeros((graphs, values.shape[1]))
    if len(owner):
        starts = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
        result[owner[starts]] = join.reduceat(values, starts, axis=0)
    return result


def _distinct_columns(raw: Mapping[str, list[_Part]]) -> dict[str, Ints]:
    """Of each group the columns that vary and are no scaled and shifted copy of one before, in any group."""
    result, known = {}, set()
    for group, parts in raw.items():
        matrix = np.concatenate([part.values for part in parts], axis=1)
        spread = matrix.std(axis=0)
        varied = np.flatnonzero(spread > 1e-9 * (1 + np.abs(matrix).max(axis=0, initial=0)))
        shapes = np.round((matrix[:, varied] - matrix[:, varied].mean(axis=0)) / spread[varied], 5)
        kept = []
        for place, shape in zip(varied.tolist(), shapes.T, strict=True):
            first = shape[np.flatnonzero(shape)[0]]
            text = (shape * np.sign(first) + 0.0).astype(np.float32).tobytes()
            if text not in known:
                known.add(text)
                kept.append(place)
        result[group] = np.array(kept, np.int64)
    return result


def _feature_matrix(names: tuple[str, ...], count: int, features: Sequence[Mapping[str, float]] | None) -> Floats:
    if not names:
        return np.empty((count, 0))
    if features is None or len(features) != count:
        got = "none" if features is None else f"{len(features)}"
        raise InputError(
            f"predictor: fitted with features {', '.join(names)}; expected them for {count} architectures, got {got}"
        )
    for position, row in enumerate(features):
        for name in names:
            if name not in row:
                raise InputError(f"predictor: architecture {position} lacks the feature {name!r}")
    values = np.array([[row[name] for name in names] for row in features], dtype=np.float64)
    return np.sign(values) * np.log1p(np.abs(values))
