import json

import pytest

from data_gen import WorkerSettings
from data_gen.memory import memory_share
from genas.config import load_run
from genas.remembering import memory
from genas.words import remembered
from supernet import InputError
from supernet.settings import UnavailableError
from training import devices

RECIPE = """
data: {source: digits}
space: {input_size: 8, layers: [{channels: 8}, {channels: 16, stride: 2}], head_channels: 64, classes: 10,
  input_channels: 1}
generate: {recipe: {batch_size: 64}}
"""


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "small.yml"
    path.write_text(RECIPE)
    return load_run(path, logs=tmp_path / "logs")


def test_a_small_a_median_and_a_large_network(run, monkeypatch):
    monkeypatch.setattr("genas.remembering.total_memory", lambda device: 2**31)
    settings = run.settings.model_copy(update={"workers": WorkerSettings(cpu_workers=2)})
    run = run.model_copy(update={"settings": settings})
    result = memory(run, device="cpu")
    assert [one["role"] for one in result["networks"]] == ["smallest", "median", "largest"]
    peaks = [one["peak_bytes"] for one in result["networks"]]
    assert peaks == sorted(peaks)
    for one in result["networks"]:
        assert one["peak_bytes"] == round(one["fixed_bytes"] + 64 * one["bytes_per_image"])
        assert one["pieces"] == 1
        fits = one["fixed_bytes"] + one["largest_batch"] * one["bytes_per_image"]
        assert fits <= memory_share("cpu", 2**31, 2) < fits + one["bytes_per_image"]
    assert result["side_by_side"] == 2
    text = remembered(result)
    assert "batches of 64 pictures of 8x8 in float32; 2.1 GB are there" in text
    assert text.count("MB an image") == 3
    assert "each batch in" not in text


def test_one_architecture_on_a_card_that_is_not_here(run):
    result = memory(run, "111111 111111", device="cuda", gigabytes=80)
    (one,) = result["networks"]
    assert (one["role"], one["architecture"]) == ("given", "111111 111111")
    assert (result["device"], result["device_bytes"], result["side_by_side"]) == ("cuda", 80_000_000_000, 4)
    # What is too much is passed in pieces, and told.
    tight = memory(run, "111111 111111", device="cuda", gigabytes=0.82)
    assert tight["networks"][0]["pieces"] > 1
    assert "each batch in" in remembered(tight)


def test_tight_limits_leave_few_architectures(run):
    least = run.settings.space.cheapest("macs")
    limit = int(run.settings.space.costs(least.row())["macs"][0])
    limited = run.model_copy(update={"settings": run.settings.model_copy(update={"limits": {"macs": limit}})})
    assert len(memory(limited, device="cpu", gigabytes=1)["networks"]) == 3


def test_what_is_refused(run, monkeypatch):
    monkeypatch.setattr(devices, "_DRIVERS", ())
    with pytest.raises(InputError, match="expected 2 layers"):
        memory(run, "1")
    for gigabytes in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="--gigabytes"):
            memory(run, gigabytes=gigabytes)
    with pytest.raises(UnavailableError, match="sees no GPU; say how much"):
        memory(run, device="cuda")
    monkeypatch.setattr("genas.remembering.total_memory", lambda device: None)
    with pytest.raises(InputError, match="is not known; say it with --gigabytes"):
        memory(run, device="cpu")


def test_the_command(run, genas, tmp_path):
    answer = genas("memory", str(tmp_path / "small.yml"), "--arch", "100000 100000", "--gigabytes", "1", "--json")
    assert answer.code == 0
    assert json.loads(answer.out)["networks"][0]["role"] == "given"
    assert genas("memory", str(tmp_path / "small.yml"), "--gigabytes", "0").code == 2


def test_the_public_function_stays_one(run):
    import genas as package

    for _ in range(2):  # a module of the same name would take its place
        assert package.memory(run, device="cpu", gigabytes=1)["device"] == "cpu"
