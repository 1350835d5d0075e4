import pytest
import torch

from data_gen import Task, memory
from data_gen.memory import memory_share, networks_on_a_gpu, pieces_needed, processes_that_fit
from data_gen.store import Job
from supernet import Architecture, OpSubset
from supernet.network import build_network
from training import DataSettings, Recipe, prepare
from training.memory import MemoryLine, memory_line

SPACE = OpSubset(input_size=8, input_channels=1, classes=10)
SMALL, LARGE = (SPACE.parse(" ".join([bits] * 5)) for bits in ("100000", "111111"))
GIGABYTE = 2**30


def test_shares_of_a_device():
    assert memory_share("cpu", 10 * GIGABYTE, 2) == 4 * GIGABYTE - memory._PROCESS
    shares = [memory_share("cuda", 80 * GIGABYTE, count) for count in (1, 2, 4)]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares[2:] * 4) < 80 * GIGABYTE * 0.9 - 4 * memory._CONTEXT
    assert memory_share("cuda", GIGABYTE // 2, 1) == 0  # not even a context fits


@pytest.mark.parametrize(("total", "expected"), [(141, 4), (80, 4), (24, 2), (16, 1), (4, 1)])
def test_as_many_networks_share_a_gpu_as_fit(total, expected):
    line = MemoryLine(GIGABYTE // 10, 10 * 2**20)  # batches of 512: 5.1 GB
    assert networks_on_a_gpu(total * GIGABYTE, line, 512, GIGABYTE // 4) == expected


def test_the_largest_planned_network_counts(cache, monkeypatch):
    data = prepare(DataSettings(train_images=200, validation_images=60, test_images=40), 8)
    task = Task(SPACE, data, Recipe(batch_size=64))
    jobs = [Job(number, "generate", one, 0) for number, one in enumerate((SMALL, LARGE, SMALL))]
    lines = []
    monkeypatch.setattr(
        memory, "networks_on_a_gpu", lambda total, line, batch, data: lines.append((total, line, batch)) or 3
    )
    assert processes_that_fit(task, jobs, 80 * GIGABYTE) == 3
    expected = memory_line(build_network(SPACE.graph(LARGE)), 1, 8, task.recipe, 64, "cuda")
    assert lines == [(80 * GIGABYTE, expected, 64)]
    assert processes_that_fit(task, [], 80 * GIGABYTE) == 1


@pytest.mark.parametrize("architecture", [SMALL, LARGE])
def test_a_batch_that_does_not_fit_is_passed_in_pieces(architecture):
    recipe, network = Recipe(), build_network(SPACE.graph(architecture))
    line = memory_line(network, 1, 8, recipe, 512)
    for budget, expected in ((line.peak(512) + 1, 1), (line.peak(512) - 10_000, 2), (line.peak(100), 6), (0, 512)):
        assert pieces_needed(SPACE.graph(architecture), network, recipe, 512, budget) == expected


def test_the_bound_that_saves_the_trace_is_one(monkeypatch):
    """Where it says that a training fits, the trace says so too."""
    for architecture in (SMALL, LARGE, Architecture("op_subset", (0, 0, 0, 0, 0, 1) * 5)):
        network = build_network(SPACE.graph(architecture))
        costs = {name: int(values[0]) for name, values in SPACE.costs(architecture.row()).items()}
        for recipe in (Recipe(), Recipe(optimizer="adam", ema=0.9)):
            bound = memory._MOST_BYTES * (costs["activations"] * 64 + costs["params"])
            assert memory_line(network, 1, 8, recipe, 64).peak(64) <= bound
    monkeypatch.setattr("training.memory.memory_line", lambda *_: pytest.fail("traced for nothing"))
    assert pieces_needed(SPACE.graph(LARGE), network, Recipe(), 64, torch.inf) == 1
