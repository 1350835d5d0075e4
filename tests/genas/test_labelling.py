import pytest

from data_gen import ActiveSettings, read_store
from genas.config import load_run
from genas.generating import generate
from genas.labelling import Round, settled
from supernet import InputError
from supernet.latency import Latency, operation_key, write_latency

ACTIVE = "generate.active={first: 6, batch: 3, patience: 20}"


def jobs(run):
    store = read_store(run.store)
    try:
        return [(job.architecture.key, job.role) for job in store.jobs("generate")]
    finally:
        store.close()


def test_batches_follow_the_sample_within_the_limits_and_no_network_twice(recipe, tmp_path):
    run = load_run(recipe, [ACTIVE, "generate.architectures=13"], tmp_path / "logs")
    result = generate(run)
    known = jobs(run)
    assert [role for _, role in known] == ["sample"] * 6 + ["batch1"] * 3 + ["batch2"] * 3 + ["batch3"]
    assert len({key for key, _ in known}) == 13
    assert result["stopped"] == "generate.architectures"
    assert (result["planned"], result["trained"], result["failed"]) == (13, 13, 0)
    assert [one["labels"] for one in result["rounds"]] == [6, 9, 12]
    store = read_store(run.store)
    try:
        assert all(one.costs["macs"] <= 200_000 for one in store.results("generate"))
    finally:
        store.close()
    again = generate(run)
    assert (again["found"], again["trained"], again["rounds"]) == (13, 0, result["rounds"])
    assert jobs(run) == known


def test_a_run_that_was_stopped_goes_on_with_the_same_batches(recipe, tmp_path):
    whole = load_run(recipe, [ACTIVE, "generate.architectures=12"], tmp_path / "whole")
    generate(whole)
    parts = load_run(recipe, [ACTIVE, "generate.architectures=12"], tmp_path / "parts")

    class Stop(BaseException):
        pass

    def stop(progress):
        if progress.done == 8:
            raise Stop

    with pytest.raises(Stop):
        generate(parts, stop)
    assert 8 <= len(jobs(parts)) < 12
    generate(parts)
    assert jobs(parts) == jobs(whole)


def test_it_stops_when_nothing_changes(recipe, tmp_path):
    easy = "generate.active={first: 6, batch: 2, patience: 1, tau_change: 2, gain: 1}"
    result = generate(load_run(recipe, [easy, "generate.architectures=14"], tmp_path / "logs"))
    assert result["stopped"] == "settled"
    assert result["planned"] == 10


def test_a_space_that_is_used_up(recipe, tmp_path):
    few = ["limits.macs=120_000", "generate.architectures=60", "generate.active={first: 5, batch: 40, patience: 9}"]
    run = load_run(recipe, [*few, "space.operations=[skip, dil_conv_3]", "generate.recipe.epochs=1"], tmp_path / "logs")
    result = generate(run)
    assert result["stopped"] == "exhausted"
    assert result["planned"] < 60


def test_settled():
    settings = ActiveSettings(patience=2, tau_change=0.05, gain=0.01)
    flat = [Round(10, 0.4, 0.8), Round(20, 0.44, 0.805), Round(30, 0.42, 0.801)]
    assert settled(flat, settings)
    assert not settled(flat[:2], settings)
    assert not settled([*flat, Round(40, 0.5, 0.8)], settings)
    assert not settled([*flat[:2], Round(30, 0.42, 0.82)], settings)
    assert settled([Round(5, 0.1, 0.5), *flat], settings)


def test_labels_that_are_there_count(recipe, tmp_path):
    logs = tmp_path / "logs"
    generate(load_run(recipe, ["generate.architectures=9"], logs))
    run = load_run(recipe, [ACTIVE, "generate.architectures=12"], logs)
    result = generate(run)
    assert result["trained"] == 3
    known = jobs(run)
    assert len({key for key, _ in known}) == len(known) == 12
    assert [role for _, role in known].count("batch1") == 3


def test_a_used_up_space_stays_used_up(recipe, tmp_path):
    few = ["limits.macs=120_000", "generate.architectures=60", "generate.active={first: 5, batch: 40, patience: 1}"]
    run = load_run(recipe, [*few, "space.operations=[skip, dil_conv_3]", "generate.recipe.epochs=1"], tmp_path / "logs")
    first = generate(run)
    assert [generate(run)["stopped"] for _ in range(3)] == ["exhausted"] * 3
    assert generate(run)["rounds"] == first["rounds"]


def test_another_latency_is_another_limit(recipe, tmp_path):
    run = load_run(recipe, [], tmp_path / "logs")
    space = run.settings.space.model_copy(update={"classes": 10, "input_channels": 1})
    graph = space.graph(space.read("1" * 12))
    table = tmp_path / "latency.json"
    write_latency(table, Latency(1.0, {operation_key(node): 1.0 for node in graph.nodes}), {})
    limited = [f"latency={table}", "limits.latency=14", "generate.architectures=5"]
    generate(load_run(recipe, limited, tmp_path / "logs"))
    write_latency(table, Latency(1.0, {operation_key(node): 1.4 for node in graph.nodes}), {})
    with pytest.raises(InputError, match="latency"):
        generate(load_run(recipe, limited, tmp_path / "logs"))
