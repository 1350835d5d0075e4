import numpy as np
import pytest

from genas.config import load_run
from genas.limits import amount, limits_json, resolve_limits, sweep
from genas.words import limits_words
from supernet import Bound, InputError, OpSubset
from supernet.latency import Latency, operation_key, write_latency

SPACE = OpSubset(classes=100)
RECIPE = "data: {source: digits}\nspace: {classes: 100, input_channels: 3}\n"


def bounds_of(tmp_path, text):
    recipe = tmp_path / "mine.yml"
    recipe.write_text(f"{RECIPE}{text}\n", encoding="utf-8")
    return load_run(recipe, logs=tmp_path / "logs").settings.bounds


@pytest.mark.parametrize(
    ("text", "value"),
    [("15M", 15_000_000), ("1.5 G", 1_500_000_000), ("700K", 700_000), ("12_000", 12_000), ("60%", "60%"), ("7", 7)],
)
def test_amounts(text, value):
    assert amount(text) == value


@pytest.mark.parametrize("text", ["", "M", "-5", "0", "5 T", "1e", "5M5", "0%"])
def test_what_is_no_amount(text):
    with pytest.raises(ValueError, match="expected a number above 0"):
        amount(text)


def test_a_number_text_and_both_ends(tmp_path):
    found = bounds_of(tmp_path, "limits: {macs: 15M, params: {min: 600K, max: 700_000}, depth: {min: 8}}")
    assert found == {"macs": Bound(most=15_000_000), "params": Bound(600_000, 700_000), "depth": Bound(8)}


def test_a_share_is_of_the_costliest_network_or_of_one_that_is_named(tmp_path):
    most = SPACE.costs(np.ones((1, 30), np.int8))
    found = bounds_of(tmp_path, "limits: {macs: 60%, params: {min: 50%, max: 75%}}")
    assert found["macs"].most == int(0.6 * int(most["macs"][0]))
    params = int(most["params"][0])
    assert (found["params"].least, found["params"].most) == (-(-params // 2), int(0.75 * params))
    given = "100000 100000 100000 100000 100000"
    own = int(SPACE.costs(SPACE.read(given).row())["macs"][0])
    found = bounds_of(tmp_path, f"limits: {{macs: {{max: 120%, of: '{given}'}}}}")
    assert found["macs"].most == int(1.2 * own)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits: {mac: 5M}", "key 'limits.mac': unknown cost; .* Did you mean 'macs'"),
        ("limits: {macs: 5X}", "key 'limits.macs.*': expected a number above 0, such as 15M"),
        ("limits: {macs: 0}", "limits.macs"),
        ("limits: {macs: {}}", "neither min nor max is given"),
        ("limits: {macs: {max: 5M, of: '111'}}", "means nothing without a share"),
        ("limits: {macs: {max: 5M, most: 3}}", "most"),
    ],
)
def test_limits_that_a_recipe_cannot_have(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        bounds_of(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits: {macs: {min: 6M, max: 5M}}", r"limits.macs: expected min <= max, got 6,000,000 and 5,000,000"),
        ("limits: {latency: 3.5}", "limits.latency needs the latency of operations"),
        ("limits: {macs: {max: 50%, of: '111'}}", "architecture '111'"),
        ("latency: gone.json\nlimits: {latency: 3.5}", "gone.json: no such file"),
    ],
)
def test_limits_that_mean_nothing_for_the_space(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        bounds_of(tmp_path, text)


def test_latency_is_limited_by_a_model_of_its_operations(tmp_path):
    graph = SPACE.graph(SPACE.read("1" * 30))
    write_latency(tmp_path / "l.json", Latency(1.0, {operation_key(node): 0.1 for node in graph.nodes}), {})
    found = bounds_of(tmp_path, f"latency: {tmp_path / 'l.json'}\nlimits: {{latency: 2.55}}")["latency"]
    assert found.measure is not None
    rows = SPACE.sample(40, np.random.default_rng(0))
    np.testing.assert_allclose(found.measure(rows), 1 + 0.1 * (rows.sum(axis=1) + 10), rtol=1e-6)
    assert (found.keeps(found.measure(rows)) == (rows.sum(axis=1) <= 5)).all()


def test_what_files_and_people_are_told():
    limits = resolve_limits(SPACE, {"macs": 15_000_000, "depth": 12})
    assert limits_json(limits) == {"macs": 15_000_000, "depth": 12}
    both = {"macs": Bound(5, 10), "latency": Bound(most=2.5)}
    assert limits_json(both) == {"macs": {"min": 5, "max": 10}, "latency": {"min": None, "max": 2.5}}
    assert limits_words(limits_json(both)) == "macs 5 to 10, latency <= 2.5 ms"
    assert limits_words({"macs": {"min": 5000, "max": None}}) == "macs >= 5,000"
    assert limits_words({}) == "no limit"


def test_a_sweep():
    assert sweep("5M:20M:4") == ("macs", [5_000_000, 10_000_000, 15_000_000, 20_000_000])
    assert sweep("params=1K:1K:3") == ("params", [1000])


@pytest.mark.parametrize(
    "text", ["", "5M", "5M:20M", "20M:5M:3", "5M:20M:0", "5M:20M:x", "50%:20M:3", "a:b:c", "1:2:3:4"]
)
def test_what_is_no_sweep(text):
    with pytest.raises(InputError, match="expected LEAST:MOST:COUNT"):
        sweep(text)


def test_a_sweep_of_an_unknown_cost():
    with pytest.raises(InputError, match=r"unknown cost 'mac'; .* Did you mean 'macs'"):
        sweep("mac=5M:20M:3")
