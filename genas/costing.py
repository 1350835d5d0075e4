"""What a network costs. Needs no torch, unless thop counts a second time or the source is a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supernet import ArchGraph, Architecture, SearchSpace, graph_costs
from supernet.spaces import AnySpace, space_class

CONVENTION = (
    "macs: multiply-accumulates of convolutions and linear weights for one image; "
    "conv_macs: of convolutions alone; 1 MAC = 2 FLOPs"
)


def cost(space: SearchSpace, architecture: Architecture, counter: str = "genas") -> dict[str, Any]:
    """Exact costs of one architecture for one image.

    Args:
        counter: ``genas`` counts in plain arithmetic; ``thop`` runs the thop package on a copy of the
            network besides, and tells what its convention counts differently.
    """
    graph = space.graph(architecture)
    result: dict[str, Any] = {
        **graph_costs(graph)._asdict(),
        "architecture": space.format(architecture),
        "convention": CONVENTION,
    }
    if counter == "thop":
        result["thop"] = _thop(graph, result["macs"])
    return result


def find_space(source: str, overrides: Sequence[str] = (), logs: str = "logs") -> AnySpace:
    """The space of that name or file with overrides ``space.KEY=VALUE``, or that of a recipe or run.

    Raises InputError.
    """
    from genas.space_files import defaults, read_space, space_names
    from genas.yaml_reader import apply_overrides, validate

    if source in space_names() or _is_space(source):
        bare = [override.removeprefix("space.") for override in overrides]
        document = read_space(source, Path(), source)
        choosing = [override for override in bare if override.partition("=")[0].strip() == "kind"]
        chosen = space_class(apply_overrides(document, choosing).value)
        return validate(chosen, apply_overrides(document, bare, defaults(chosen)))
    from genas.config import load_run
    from genas.stages import resolve_space

    return resolve_space(load_run(source, overrides, logs)).settings.space


def _is_space(source: str) -> bool:
    """Whether a file holds the settings of a space, and not a recipe."""
    from genas.yaml_reader import read_yaml_file

    return (
        source.endswith((".yml", ".yaml")) and Path(source).is_file() and "kind" in read_yaml_file(Path(source)).value
    )


def _thop(graph: ArchGraph, macs: int) -> dict[str, Any]:
    import torch
    from thop import profile
    from thop.vision.basic_hooks import count_normalization

    from supernet.modules import GhostBatchNorm
    from supernet.network import build_network

    first = next(node for node in graph.nodes if node.op == "input")
    side = first.integer("resolution")
    network = build_network(graph).eval()  # a copy of its own: thop leaves buffers in what it counts
    images = torch.zeros(1, first.integer("out"), side, side)
    counted, params = profile(network, (images,), {GhostBatchNorm: count_normalization}, verbose=False)
    return {
        "macs": int(counted),
        "params": int(params),
        "difference": int(counted) - macs,
        "convention": ("thop also counts batch norms, four operations a value, and the additions of averages"),
    }
