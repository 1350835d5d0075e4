"""Stand-alone source of networks and ensembles: plain PyTorch that a person can read, and nothing of ours to import."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from supernet.graph import ArchGraph
from supernet.modules import HELPERS
from supernet.network import layer_call, node_names
from supernet.operations import Costs, graph_costs, layers


def network_source(graph: ArchGraph, title: str, constants: Mapping[str, object] | None = None) -> str:
    """The text of a ``model.py`` that needs only torch.

    It defines ``Network`` with the same state dict as :func:`supernet.network.build_network` gives,
    and ``load(weights)`` which fills it from a safetensors file.

    Args:
        title: the first line of its docstring, for instance the architecture's key.
        constants: module constants by name, such as class names; tuples of numbers and texts.
    """
    helpers: dict[str, str] = {}
    body = _network_body(graph, helpers)
    classes = [_CLASS.format(name="Network", words="The network, layer by layer.", body=body)]
    return _module(title, graph, "class scores", graph_costs(graph), constants, helpers, classes, "Network")


def ensemble_source(
    graphs: Sequence[ArchGraph], classes: int, title: str, constants: Mapping[str, object] | None = None
) -> str:
    """The text of a ``model.py`` of several networks, as :func:`network_source` gives it of one.

    It defines a class for each different network and ``Ensemble`` with the same state dict as
    :class:`supernet.ensembles.Ensemble`, weights and temperatures of the members included; ``load(weights)`` fills it.

    Args:
        graphs: of the members in their order; the same network may come several times, trained with other seeds.
        classes: that the networks tell apart.
        title, constants: as of :func:`network_source`.
    """
    helpers: dict[str, str] = {}
    bodies = [_network_body(graph, helpers) for graph in graphs]
    distinct = list(dict.fromkeys(bodies))
    names = {body: "Network" if len(distinct) == 1 else f"Network{place}" for place, body in enumerate(distinct, 1)}
    written = []
    for body, name in names.items():
        whose = _listed([f"member {number}" for number, own in enumerate(bodies, 1) if own == body])
        written.append(_CLASS.format(name=name, words=f"The network of {whose}, layer by layer.", body=body))
    members = {f"member{number}": names[body] for number, body in enumerate(bodies, 1)}
    ensemble = _ENSEMBLE.format(
        count=len(graphs),
        classes=classes,
        construct="\n".join(f"        self.{member} = {name}()" for member, name in members.items()),
        members="".join(f"self.{member}, " for member in members).removesuffix(" " if len(members) == 1 else ", "),
    )
    costs = Costs(*map(sum, zip(*map(graph_costs, graphs), strict=True)))
    gives = "log probabilities"
    return _module(title, graphs[0], gives, costs, constants, helpers, [*written, ensemble], "Ensemble")


def _network_body(graph: ArchGraph, helpers: dict[str, str]) -> str:
    """The methods of a network's class; the source of layers that torch lacks is added to ``helpers`` by name."""
    names, sources = node_names(graph), graph.predecessors()
    construct: list[str] = []
    forward: list[str] = []
    last = ""
    for position in graph.order():
        node, name = graph.nodes[position], names[position]
        feeds = [names[source] for source in sources[position]]
        if node.op == "input":
            continue
        last = name
        if node.op == "sum":
            forward.append(f"{name} = {' + '.join(feeds)}")
            continue
        if node.op == "concat":
            forward.append(f"{name} = torch.cat([{', '.join(feeds)}], dim=1)")
            continue
        calls = []
        for layer in layers(node):
            kind, arguments, options = layer_call(layer)
            if kind in HELPERS:
                helpers[kind.__name__] = inspect.getsource(kind)
            prefix = "" if kind in HELPERS else "nn."
            values = [repr(value) for value in arguments] + [f"{key}={value!r}" for key, value in options.items()]
            calls.append(f"{prefix}{kind.__name__}({', '.join(values)})")
        if len(calls) <= 1:
            construct.append(f"self.{name} = nn.Sequential({''.join(calls)})")
        else:
            construct.append(f"self.{name} = nn.Sequential(")
            construct += [f"    {call}," for call in calls]
            construct.append(")")
        forward.append(f"{name} = self.{name}({feeds[0]})")
    return _BODY.format(
        construct=textwrap.indent("\n".join(construct), " " * 8),
        forward=textwrap.indent("\n".join(forward), " " * 8),
        input=names[next(position for position, node in enumerate(graph.nodes) if node.op == "input")],
        output=last,
    )


def _module(
    title: str,
    graph: ArchGraph,
    gives: str,
    costs: Costs,
    constants: Mapping[str, object] | None,
    helpers: Mapping[str, str],
    classes: Iterable[str],
    main: str,
) -> str:
    """The whole file.

    Args:
        graph: one whose input is that of the file.
        main: the class that ``load`` fills.
    """
    first = next(node for node in graph.nodes if node.op == "input")
    side = first.integer("resolution")
    return _MODULE.format(
        title=title.replace("\\", "\\\\").replace('"', '\\"'),  # a path in it must not end the docstring
        shape=f"(batch, {first.integer('out')}, {side}, {side})",
        gives=gives,
        macs=costs.macs,
        conv_macs=costs.conv_macs,
        params=costs.params,
        constants="".join(f"{name} = {value!r}\n" for name, value in (constants or {}).items()),
        classes="\n\n".join([*helpers.values(), *classes]),
        main=main,
        kind=main.lower(),
        padding="from torch.nn import functional as F\n" if "F." in "".join(helpers.values()) else "",
    )


def _listed(words: Sequence[str]) -> str:
    """``member 1, member 2 and member 3``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


_BODY = """    def __init__(self) -> None:
        super().__init__()
{construct}

    def forward(self, {input}: Tensor) -> Tensor:
{forward}
        return {output}
"""

_CLASS = '''class {name}(nn.Module):
    """{words}"""

{body}'''

_ENSEMBLE = '''class Ensemble(nn.Module):
    """The mean of the members' class probabilities, with a weight for each member and class; its logarithm.

    A temperature for each member first makes it as sure of itself as it has reason to be.
    """

    def __init__(self) -> None:
        super().__init__()
{construct}
        self.register_buffer("temperatures", torch.ones({count}))
        self.register_buffer("weights", torch.full(({count}, {classes}), 1 / {count}))

    def forward(self, images: Tensor) -> Tensor:
        members = ({members})
        scores = torch.stack([member(images) for member in members]).float()
        weighted = (scores / self.temperatures[:, None, None]).log_softmax(dim=2) + self.weights.log()[:, None]
        return weighted.logsumexp(dim=0).log_softmax(dim=1)
'''

_MODULE = '''"""{title}

Images {shape} to {gives}: pixels from 0 to 1, the shorter side scaled and the centre cut out,
minus the mean of each channel, divided by its deviation (MEAN and DEVIATION, where they stand below).
{macs:,} MACs of convolutions and linear weights ({conv_macs:,} of convolutions alone), {params:,} parameters.
Needs only torch; weights are read from a safetensors file by ``load``.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch
from torch import Tensor, nn
{padding}
{constants}

{classes}

def load(weights: str | Path) -> {main}:
    """The {kind} with its trained weights, ready to predict."""
    data = Path(weights).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    types = {{"F32": torch.float32, "I64": torch.int64}}
    state = {{}}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = (8 + size + offset for offset in entry["data_offsets"])
            flat = torch.frombuffer(bytearray(data[start:end]), dtype=types[entry["dtype"]])
            state[name] = flat.reshape(entry["shape"])
    {kind} = {main}()
    {kind}.load_state_dict(state)
    return {kind}.eval()
'''
