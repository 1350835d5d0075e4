"""What a network costs. Needs no torch, unless other counters are compared with or the source is a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from supernet import ArchGraph, Architecture, SearchSpace, graph_costs
from supernet.spaces import AnySpace

CONVENTION = (
    "macs: multiply-accumulates of convolutions and linear weights for one image; "
    "conv_macs: of convolutions alone; 1 MAC = 2 FLOPs"
)


def cost(space: SearchSpace, architecture: Architecture, compare: bool = False) -> dict[str, Any]:
    """Exact costs of one architecture for one image.

    Args:
        compare: count the built network by the conventions of other tools besides. ``compare`` then holds, for
            ``torch`` (half the FLOPs of ``torch.utils.flop_counter``), ``thop`` (that package) and ``fvcore`` (the
            rules of ``fvcore.nn.FlopCountAnalysis``, applied here), ``macs`` and ``params``, ``differences``, which
            say how many each rule adds to ours, and what of the difference is ``unexplained``: 0.
    """
    graph = space.graph(architecture)
    result: dict[str, Any] = {
        **graph_costs(graph)._asdict(),
        "architecture": space.format(architecture),
        "convention": CONVENTION,
    }
    if compare:
        result["compare"] = _compare(graph, result["macs"])
    return result


def find_space(source: str, overrides: Sequence[str] = (), logs: str = "logs") -> AnySpace:
    """The space of that name or file, or that of a recipe or run, with overrides. Raises InputError."""
    from genas.config import load_run, load_space
    from genas.space_files import is_space
    from genas.stages import resolve_space

    if is_space(source, logs):
        return load_space(source, overrides).space
    return resolve_space(load_run(source, overrides, logs)).settings.space


def _compare(graph: ArchGraph, macs: int) -> dict[str, Any]:
    """What other counters make of the network in evaluation mode, and by which of their rules they differ."""
    import torch
    from thop import profile
    from thop.vision.basic_hooks import count_normalization
    from torch import Tensor, nn
    from torch.utils.flop_counter import FlopCounterMode

    from supernet.modules import GhostBatchNorm
    from supernet.network import build_network

    first = next(node for node in graph.nodes if node.op == "input")
    side = first.integer("resolution")
    images = torch.zeros(1, first.integer("out"), side, side)
    network = build_network(graph).eval()
    params = sum(parameter.numel() for parameter in network.parameters())
    weights = norms = pooled = averaged_in = averaged = 0

    def see(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal weights, norms, pooled, averaged_in, averaged
        before, after = inputs[0].numel(), output.numel()
        if isinstance(module, nn.Conv2d):
            weights += module.weight.numel() * output.shape[2] * output.shape[3]
        elif isinstance(module, nn.Linear):
            weights += module.weight.numel()
        elif isinstance(module, nn.BatchNorm2d):
            norms += before
        elif isinstance(module, nn.AvgPool2d):
            pooled += after
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            window = (inputs[0].shape[2] / output.shape[2]) * (inputs[0].shape[3] / output.shape[3])
            averaged_in += before
            averaged += int((window + 1) * after)

    hooks = [module.register_forward_hook(see) for module in network.modules() if not list(module.children())]
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(images)
    for hook in hooks:
        hook.remove()
    # Last: thop leaves buffers in what it counts. It knows a norm by its very class.
    by_thop, thop_params = profile(network, (images,), {GhostBatchNorm: count_normalization}, verbose=False)
    counts = {
        "torch": (counter.get_total_flops() // 2, params, {}),
        "thop": (
            int(by_thop),
            int(thop_params),
            {
                "batch norms, 4 a value": 4 * norms,
                "global and adaptive means, 1 a value in and out": averaged,
                "average pools, 1 a value out": pooled,
            },
        ),
        "fvcore": (
            weights + 2 * norms + averaged_in,
            params,
            {"batch norms, 2 a value": 2 * norms, "global and adaptive means, 1 a value in": averaged_in},
        ),
    }
    return {
        name: {
            "macs": counted,
            "params": weights_,
            "differences": {rule: value for rule, value in rules.items() if value},
            "unexplained": counted - macs - sum(rules.values()),
        }
        for name, (counted, weights_, rules) in counts.items()
    }
