import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from supernet import Darts, DavidNet, OpSubset
from supernet.network import build_network
from tests.supernet.test_darts import MIXED
from training import Recipe
from training.kernels import speed_up
from training.loop import TrainingState
from training.memory import MemoryLine, memory_line, trace_peak

SPACE = OpSubset(input_size=16, classes=10)
ALL = "111111 111111 111111 111111 111111"


def network(text=ALL, space=SPACE):
    return build_network(space.graph(space.parse(text)), 0)


def true_peak(make, recipe, batch, folder):
    """Bytes that the allocator reports at the worst moment of two real steps."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = make().to(memory_format=torch.channels_last)
        speed_up(model)
        state = TrainingState(model.train(), recipe, torch.device("cpu"), pieces=1)
        images, labels = torch.randn(batch, 32, 32, 3).permute(0, 3, 1, 2), torch.zeros(batch, dtype=torch.int64)
        for _ in range(2):
            state.step(images, labels, torch.zeros(()), torch.zeros(()), *state.factors(batch, 1, 0, ""))
    profiler.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    memory = sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"])
    totals = [event["args"] for event in memory if event["args"]["Device Type"] == 0]
    return max(one["Total Allocated"] for one in totals) - (totals[0]["Total Allocated"] - totals[0]["Bytes"])


@pytest.mark.parametrize("text", [ALL, "100000 100000 100000 100000 100000", "001001 000100 100010 111000 000001"])
def test_the_estimate_is_the_true_peak(text, tmp_path):
    recipe = Recipe(ema=0.9)
    true = true_peak(lambda: network(text), recipe, 64, tmp_path)
    assert trace_peak(network(text), 3, 32, recipe, 64) == pytest.approx(true, rel=0.02)


def test_the_estimate_holds_with_a_second_head_and_dropped_paths(tmp_path):
    space, recipe = Darts(cells=4, channels=8, input_size=32), Recipe(auxiliary=0.4, drop_path=0.2, gradient_clip=5.0)
    architecture = space.parse(MIXED)

    def make():
        return build_network(space.graph(architecture), 0)

    true = true_peak(make, recipe, 64, tmp_path)
    assert trace_peak(make(), 3, 32, recipe, 64) == pytest.approx(true, rel=0.02)
    assert trace_peak(make(), 3, 32, Recipe(), 64) < true


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_it_is_a_line(precision, device):
    recipe = Recipe(precision=precision)
    line = memory_line(network(), 3, 16, recipe, 512, device)
    for batch in (300, 1000):  # with few images another moment is the worst: the optimizer's, not the first layer's
        assert line.peak(batch) == pytest.approx(trace_peak(network(), 3, 16, recipe, batch, device), rel=0.01)


def test_what_takes_more_and_what_takes_less():
    def peak(recipe, model=None):
        return trace_peak(model or network(), 3, 16, recipe, 64)

    plain = peak(Recipe())
    weights = sum(tensor.numel() for tensor in network().parameters()) * 4
    assert plain > 3 * weights / 2
    assert peak(Recipe(momentum=0.0)) < plain < peak(Recipe(optimizer="adam")) < peak(Recipe(optimizer="adam", ema=0.9))
    assert peak(Recipe(precision="bfloat16")) < plain
    assert peak(Recipe(), network("100000 100000 100000 100000 100000")) < plain


def test_any_network_and_it_is_left_as_it_was():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(784, 5))
    before = copy.deepcopy(model.state_dict())
    assert trace_peak(model, 3, 16, Recipe(), 8) > 784 * 5 * 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(type(parameter) is torch.nn.Parameter and parameter.grad is None for parameter in model.parameters())
    space = DavidNet(input_size=16)
    assert trace_peak(build_network(space.graph(space.default), 0), 3, 16, Recipe(), 64) > 2e7


@given(st.integers(0, 10**9), st.floats(1, 1e7), st.integers(1, 4096), st.floats(1, 1e12))
def test_pieces_fit_and_fewer_would_not(fixed, per_image, batch, budget):
    line = MemoryLine(fixed, per_image)
    pieces = line.pieces(batch, budget)
    assert 1 <= pieces <= batch
    if line.peak(1) + 1 < budget:
        assert line.peak(-(-batch // pieces)) <= budget + 1
    if pieces > 1:
        assert line.peak(-(-batch // (pieces - 1))) > budget - 1 or line.largest_batch(budget) == 0
    assert line.peak(line.largest_batch(budget)) <= budget + 1 or line.largest_batch(budget) == 0
