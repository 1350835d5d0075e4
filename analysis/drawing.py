"""A network as a picture: any ArchGraph, drawn top down in layers, as SVG that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

from supernet import ArchGraph, Node
from supernet.operations import JOINS, OPERATIONS

FILLS = (
    "#a6cee3", "#fdc086", "#b2df8a", "#cab2d6", "#ffe08a", "#f4a6b8", "#9fd8cb", "#d9c3a5", "#c5cad3", "#d4e79e",
)  # fmt: skip
"""Light fills that carry dark text on a light and on a dark page. With more kinds of operation they recur."""

_INK = "#1b1e23"
_MARGIN = 12.0
_GAP_ACROSS, _GAP_DOWN = 14.0, 34.0
_LINE = 15.0
_CHARACTER, _BOLD = 6.7, 7.6  # widths of a character, on the safe side for the fonts in use
_LONGEST = 26
_SWEEPS = 6


@dataclass(frozen=True)
class _Item:
    """A box in a row; a long edge passes a row as an item without text."""

    width: float
    height: float
    lines: tuple[str, ...] = ()
    node: int = -1


def draw_graph(graph: ArchGraph) -> str:
    """The graph as a stand-alone ``<svg>`` element, inputs above outputs.

    Nodes are coloured by operation and say operation, kernel, channels in and out, stride and dilation
    where they have them, and the side of the picture where it changes. Made for up to some 40 nodes;
    larger graphs are drawn too. Lines and legend take the page's ``--ink`` and ``--muted`` colours.
    """
    fills = _fills(graph)
    items, rows, links = _layers(graph)
    _order(rows, links)
    centres = _across(items, rows, links)
    left = min(centres[key] - items[key].width / 2 for key in items) - _MARGIN
    width = max(centres[key] + items[key].width / 2 for key in items) + _MARGIN - left
    legend, width, top = _legend(fills, max(width, 260.0))
    # A drawing narrower than its legend stands in the middle.
    spread = max(centres[key] + items[key].width / 2 for key in items) + _MARGIN - left
    shift = (width - spread) / 2 - left
    tops: dict[int, float] = {}
    heights: dict[int, float] = {}
    for row in rows:
        height = max(items[key].height for key in row)
        for key in row:
            box = items[key].height if items[key].lines else height
            tops[key], heights[key] = top + (height - box) / 2, box
        top += height + _GAP_DOWN
    total = top - _GAP_DOWN + _MARGIN
    places = {key: (centres[key] + shift, tops[key], heights[key]) for key in items}
    body = [_edges(graph, items, links, places)]
    body += [
        _box(graph.nodes[item.node], item, fills[graph.nodes[item.node].op], places[key])
        for key, item in items.items()
        if item.lines
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="graph" role="img" '
        f'aria-label="Network of {len(graph.nodes)} operations" width="{width:.0f}" height="{total:.0f}" '
        f'viewBox="0 0 {width:.0f} {total:.0f}" font-family="system-ui, sans-serif" font-size="12">'
        f"{legend}{''.join(body)}</svg>"
    )


def _fills(graph: ArchGraph) -> dict[str, str]:
    """A fill for each kind of operation, in the order in which they come.

    Our own operations keep theirs, but for one that another of the drawing has.
    """
    kinds = list(dict.fromkeys(graph.nodes[position].op for position in graph.order()))
    known = [*OPERATIONS, *(op for op in kinds if op not in OPERATIONS)]
    fills: dict[str, str] = {}
    for op in kinds:
        own = FILLS[known.index(op) % len(FILLS)]
        free = [fill for fill in (own, *FILLS) if fill not in fills.values()]
        fills[op] = free[0] if free else own
    return fills


def _layers(graph: ArchGraph) -> tuple[dict[int, _Item], list[list[int]], list[tuple[int, int]]]:
    """Items by key (nodes by position, passing edges after them), rows of keys, and links between rows."""
    directed: nx.DiGraph[int] = nx.DiGraph()
    directed.add_nodes_from(range(len(graph.nodes)))
    directed.add_edges_from(graph.edges)
    rows = [sorted(generation) for generation in nx.topological_generations(directed)]
    rank = {position: number for number, row in enumerate(rows) for position in row}
    sources = graph.predecessors()
    items = {
        position: _item(node, position, [graph.nodes[source] for source in sources[position]])
        for position, node in enumerate(graph.nodes)
    }
    links = []
    for start, end in graph.edges:
        last = start
        for number in range(rank[start] + 1, rank[end]):
            key = len(items)
            items[key] = _Item(10.0, 0.0)
            rows[number].append(key)
            links.append((last, key))
            last = key
        links.append((last, end))
    return items, rows, links


def _item(node: Node, position: int, inputs: Sequence[Node]) -> _Item:
    lines = tuple(_shorten(line) for line in _lines(node, inputs))
    width = max(len(lines[0]) * _BOLD, *(len(line) * _CHARACTER for line in lines)) + 14
    return _Item(max(width, 44.0), len(lines) * _LINE + 8, lines, position)


def _lines(node: Node, inputs: Sequence[Node]) -> list[str]:
    """What a node says of itself."""
    kernel = node.get("kernel")
    first = _plain(node.op).replace("_", " ")
    if kernel > 1 or (kernel == 1 and "conv" in node.op):
        first += f" {kernel:g}×{kernel:g}"
    lines = [first]
    channels, stride, dilation, groups = (node.get(name) for name in ("out", "stride", "dilation", "groups"))
    if node.op not in JOINS:
        shape = []
        if node.get("in") and channels and node.get("in") != channels:
            shape.append(f"{node.get('in'):g} → {channels:g}")
        elif channels or node.get("in"):
            shape.append(f"{channels or node.get('in'):g} channels")
        if stride > 1:
            shape.append(f"stride {stride:g}")
        lines.append(", ".join(shape))
    numbers = (("dilation", dilation), ("groups", groups), ("expansion", node.get("expansion")))
    more = [f"{name} {value:g}" for name, value in numbers if value > 1]
    lines.append(", ".join(more))
    lines += [words for name, words in (("se", "squeeze-excitation"), ("hswish", "hard swish")) if node.get(name)]
    side = node.get("resolution")
    if side and all(side != source.get("resolution") for source in inputs):
        lines.append(f"{side:g}×{side:g} pixels")
    return [line for line in lines if line]


def _order(rows: list[list[int]], links: Sequence[tuple[int, int]]) -> None:
    """Sort each row by the mean place of its neighbours (Sugiyama et al. 1981): few edges cross then."""
    above, below = _neighbours(links)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        neighbours = above if down else below
        place = {key: _relative(number, row) for row in rows for number, key in enumerate(row)}
        for row in rows if down else reversed(rows):
            row.sort(key=lambda key: _mean([place[other] for other in neighbours.get(key, ())], place[key]))
            place |= {key: _relative(number, row) for number, key in enumerate(row)}


def _relative(number: int, row: Sequence[int]) -> float:
    return number - (len(row) - 1) / 2


def _neighbours(links: Sequence[tuple[int, int]]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    above: dict[int, list[int]] = {}
    below: dict[int, list[int]] = {}
    for start, end in links:
        above.setdefault(end, []).append(start)
        below.setdefault(start, []).append(end)
    return above, below


def _across(
    items: Mapping[int, _Item], rows: Sequence[Sequence[int]], links: Sequence[tuple[int, int]]
) -> dict[int, float]:
    """Horizontal centres: each item as near as it can be to the mean of its neighbours, rows never overlapping."""
    above, below = _neighbours(links)
    centres: dict[int, float] = {}
    for row in rows:
        centres |= _spaced(items, row, dict.fromkeys(row, 0.0))
    for sweep in range(_SWEEPS):
        neighbours = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = {key: _mean([centres[other] for other in neighbours.get(key, ())], centres[key]) for key in row}
            centres |= _spaced(items, row, wanted)
    return centres


def _spaced(items: Mapping[int, _Item], row: Sequence[int], wanted: Mapping[int, float]) -> dict[int, float]:
    """Centres in the row's order, at least a gap between boxes, with the least squared way from ``wanted``.

    Less the room that each item needs, centres must not fall: isotonic regression, by pooling neighbours.
    """
    room, offsets = 0.0, []
    for number, key in enumerate(row):
        if number:
            room += (items[row[number - 1]].width + items[key].width) / 2 + _GAP_ACROSS
        offsets.append(room)
    pools: list[tuple[float, int]] = []  # (mean, items)
    for key, offset in zip(row, offsets, strict=True):
        mean, count = wanted[key] - offset, 1
        while pools and pools[-1][0] > mean:
            before, members = pools.pop()
            mean = (mean * count + before * members) / (count + members)
            count += members
        pools.append((mean, count))
    free = [mean for mean, count in pools for _ in range(count)]
    return {key: place + offset for key, place, offset in zip(row, free, offsets, strict=True)}


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _edges(
    graph: ArchGraph,
    items: Mapping[int, _Item],
    links: Sequence[tuple[int, int]],
    places: Mapping[int, tuple[float, float, float]],
) -> str:
    lines, heads = [], []
    for start, end in links:
        x0, y0, height = places[start]
        x1, y1, _ = places[end]
        y0 += height
        middle = (y0 + y1) / 2
        path = f"M{x0:.1f} {y0:.1f}C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"
        if items[end].lines:
            heads.append(f"M{x1 - 3.5:.1f} {y1 - 6:.1f}h7L{x1:.1f} {y1:.1f}z")
        else:
            path += f"v{places[end][2]:.1f}"  # through the row
        lines.append(path)
    return (
        f'<path class="edges" fill="none" style="stroke: var(--muted, #666)" stroke-width="1.2" d="{"".join(lines)}"/>'
        f'<path class="heads" style="fill: var(--muted, #666)" d="{"".join(heads)}"/>'
    )


def _box(node: Node, item: _Item, fill: str, place: tuple[float, float, float]) -> str:
    centre, top, height = place
    texts = []
    for number, line in enumerate(item.lines):
        style = ' font-weight="600"' if number == 0 else ' font-size="11"'
        y = top + 4 + _LINE * (number + 0.78)
        texts.append(f'<text x="{centre:.1f}" y="{y:.1f}"{style}>{_escape(line)}</text>')
    tip = ", ".join([_plain(node.op), *(f"{name} {value:,.10g}" for name, value in node.attributes)])
    return (
        f'<g class="node" text-anchor="middle" fill="{_INK}"><title>{_escape(tip)}</title>'
        f'<rect x="{centre - item.width / 2:.1f}" y="{top:.1f}" width="{item.width:.1f}" height="{height:.1f}" '
        f'rx="6" fill="{fill}" stroke="{_INK}" stroke-opacity=".35"/>{"".join(texts)}</g>'
    )


def _legend(fills: Mapping[str, str], width: float) -> tuple[str, float, float]:
    """The legend, the width of the picture, and where the drawing may begin."""
    x, y, entries = _MARGIN, _MARGIN, []
    for op, fill in fills.items():
        text = _shorten(_plain(op))
        needed = len(text) * _CHARACTER + 36
        if x > _MARGIN and x + needed > width:
            x, y = _MARGIN, y + 20
        width = max(width, x + needed)
        entries.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="14" height="14" rx="3" fill="{fill}" '
            f'stroke="{_INK}" stroke-opacity=".35"/>'
            f'<text x="{x + 20:.1f}" y="{y + 11.5:.1f}" style="fill: var(--ink, {_INK})">{_escape(text)}</text>'
        )
        x += needed
    return f'<g class="legend">{"".join(entries)}</g>', width, y + 14 + 22


def _plain(text: str) -> str:
    """Without control characters, which have no place in a picture."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
