"""Stand-alone source of a network: plain PyTorch that a person can read, and nothing of ours to import."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping

from supernet.graph import ArchGraph
from supernet.modules import HELPERS
from supernet.network import layer_call, node_names
from supernet.operations import graph_costs, layers


def network_source(graph: ArchGraph, title: str, constants: Mapping[str, object] | None = None) -> str:
    """The text of a ``model.py`` that needs only torch.

    It defines ``Network`` with the same state dict as :func:`supernet.network.build_network` gives,
    and ``load(weights)`` which fills it from a safetensors file.

    Args:
        title: the first line of its docstring, for instance the architecture's key.
        constants: module constants by name, such as class names; tuples of numbers and texts.
    """
    names, sources = node_names(graph), graph.predecessors()
    first = next(node for node in graph.nodes if node.op == "input")
    shape = f"(batch, {first.integer('out')}, {first.integer('resolution')}, {first.integer('resolution')})"
    construct: list[str] = []
    forward: list[str] = []
    helpers: dict[str, str] = {}
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
    costs = graph_costs(graph)
    input_name = names[next(position for position, node in enumerate(graph.nodes) if node.op == "input")]
    body = _TEMPLATE.format(
        title=title.replace("\\", "\\\\").replace('"', '\\"'),  # a path in it must not end the docstring
        shape=shape,
        macs=costs.macs,
        conv_macs=costs.conv_macs,
        params=costs.params,
        constants="".join(f"{name} = {value!r}\n" for name, value in (constants or {}).items()),
        helpers="".join(f"{source}\n\n" for source in helpers.values()),
        construct=textwrap.indent("\n".join(construct), " " * 8),
        forward=textwrap.indent("\n".join(forward), " " * 8),
        input=input_name,
        output=last,
        padding="from torch.nn import functional as F\n" if "F." in "".join(helpers.values()) else "",
    )
    return body


_TEMPLATE = '''"""{title}

Images {shape} to class scores: pixels from 0 to 1, the shorter side scaled and the centre cut out,
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

{helpers}class Network(nn.Module):
    """The network, layer by layer."""

    def __init__(self) -> None:
        super().__init__()
{construct}

    def forward(self, {input}: Tensor) -> Tensor:
{forward}
        return {output}


def load(weights: str | Path) -> Network:
    """The network with its trained weights, ready to predict."""
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
    network = Network()
    network.load_state_dict(state)
    return network.eval()
'''
