import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from genas.config import load_run
from genas.limits import LimitSettings, LimitValue, amount, limits_json, resolve_limits, sweep
from genas.words import limits_words
from supernet import Bound, InputError, OpSubset, architectures
from supernet.latency import Latency, operation_key, write_latency
from supernet.limits import within

SPACE = OpSubset()
WINNER = "111000 011101 111111 111111 011101"
MOST = 18_930_688  # MACs of all operations
EXPECTED = "expected a number above 0, such as 15M or 15_000_000, or a share such as 60%"
read = TypeAdapter(LimitValue).validate_python


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("15M", 15_000_000),
        ("15 M", 15_000_000),
        (" 1.5G ", 1_500_000_000),
        ("0.5K", 500),
        ("2.3M", 2_300_000),
        ("15_000_000", 15_000_000),
        ("8", 8),
        ("8.0", 8),
        ("1.5", 1.5),
        ("0.25", 0.25),
        ("60%", "60%"),
        (" 62.5 %", "62.5 %"),
        ("150%", "150%"),
    ],
)
def test_amounts(text, expected):
    assert amount(text) == expected
    assert type(amount(text)) is type(expected)


@pytest.mark.parametrize(
    "text",
    ["", "M", "15m", "15MB", "1e6", "-5", "+5", "0", "0%", "0.0M", "_5", "5,000", "%", "5%%", "five", "nan", "9" * 400],
)
def test_what_is_no_amount(text):
    with pytest.raises(ValueError, match=EXPECTED):
        amount(text)


@given(st.integers(1, 10**15))
def test_a_whole_number_is_what_its_digits_say(value):
    assert amount(str(value)) == amount(f"{value:_}") == value
    assert amount(f"{value % 1000 + 1}M") == (value % 1000 + 1) * 10**6


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (15_000_000, 15_000_000),
        ("15M", 15_000_000),
        ("60%", LimitSettings(max="60%")),
        (1.5, LimitSettings(max=1.5)),
        ("1.5", LimitSettings(max=1.5)),
        ({"max": "15M"}, LimitSettings(max=15_000_000)),
        ({"min": "5M", "max": "60%", "of": WINNER}, LimitSettings(min=5_000_000, max="60%", of=WINNER)),
        ({"min": 0.5}, LimitSettings(min=0.5)),
        ({"min": None, "max": 3}, LimitSettings(max=3)),
        (LimitSettings(min=3), LimitSettings(min=3)),
    ],
)
def test_limits_as_a_recipe_says_them(value, expected):
    assert read(value) == expected
    assert type(read(value)) is type(expected)
    again = TypeAdapter(LimitValue).dump_python(expected, mode="json")
    assert read(again) == expected  # as a run's folder keeps them


@pytest.mark.parametrize(
    "value",
    [0, -1, 0.0, -0.5, True, None, [1, 2], "lots", float("nan"), float("inf"), {}, {"of": WINNER}, {"max": 0},
     {"max": True}, {"max": "lots"}, {"max": [1]}, {"max": float("nan")}, {"most": 5}, {"max": 5, "of": WINNER}],
)  # fmt: skip
def test_what_is_no_limit(value):
    with pytest.raises(ValidationError):
        read(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mac: 5", r"key 'limits.mac': unknown cost; known: macs, .*, depth, latency\. Did you mean 'macs'"),
        ("macs: lots", f"key 'limits.macs': {EXPECTED}, got 'lots'"),
        ("macs: 0", f"key 'limits.macs': {EXPECTED}, got 0"),
        ("macs: true", f"key 'limits.macs': {EXPECTED}, got true"),
        ("macs:", f"key 'limits.macs': {EXPECTED}, got nothing"),
        ("macs: {}", "key 'limits.macs': neither min nor max is given"),
        ("macs: {min: 5M, max: -1}", f"key 'limits.macs.max': {EXPECTED}, got -1"),
        ("macs: {most: 5M}", r"unknown key 'limits.macs.most'; known: min, max, of\."),
        ("macs: {max: 5M, of: '111'}", "key 'limits.macs.of': means nothing without a share of it, such as max: 60%"),
    ],
)
def test_a_wrong_limit_in_a_recipe_is_told_with_its_key_and_line(text, said, recipe):
    recipe.write_text(f"seed: 1\nlimits: {{ {text} }}\n")
    with pytest.raises(InputError, match=said) as caught:
        load_run(recipe)
    assert f"{recipe}:2: " in str(caught.value)


def test_limits_of_a_recipe_and_from_the_command_line(recipe):
    run = load_run(recipe, ["limits={macs: 60%, depth: {min: 5, max: 8}}"])
    whole = int(run.settings.space.costs(np.ones((1, 12), np.int8))["macs"][0])
    assert run.settings.bounds == {"macs": Bound(most=int(0.6 * whole)), "depth": Bound(5, 8)}
    kept = run.settings.with_limits(limits_json(run.settings.bounds))
    assert kept.bounds == run.settings.bounds
    assert load_run(recipe, ["limits.macs=1.5M"]).settings.limits == {"macs": 1_500_000}


def resolved(**limits):
    return resolve_limits(SPACE, {name: read(limit) for name, limit in limits.items()})


def test_what_limits_mean_for_a_space():
    assert resolved() == {}
    assert resolved(macs="15M", params={"min": 600_000}) == {
        "macs": Bound(most=15_000_000),
        "params": Bound(least=600_000),
    }
    assert resolved(macs=14_500_000.5)["macs"].most == 14_500_000.5
    assert resolved(depth={"min": 8, "max": 8}) == {"depth": Bound(8, 8)}


def test_a_share_is_of_the_costliest_network_or_of_one_that_is_named():
    assert int(SPACE.costs(np.ones((1, 30), np.int8))["macs"][0]) == MOST
    assert resolved(macs="60%") == {"macs": Bound(most=int(0.6 * MOST))}
    assert resolved(macs="100%") == {"macs": Bound(most=MOST)}
    winner = SPACE.parse(WINNER)
    for of in (WINNER, WINNER.replace(" ", ""), winner.key):
        assert resolved(macs={"min": "80%", "max": "100%", "of": of}) == {
            "macs": Bound(-(-14_589_696 * 8 // 10), 14_589_696)
        }
    assert resolved(depth="50%") == {"depth": Bound(most=23 // 2)}
    assert resolved(depth={"min": "50%"}) == {"depth": Bound(least=12)}  # never below half


@given(st.integers(1, 200), st.sampled_from(("macs", "conv_macs", "params", "activations", "depth")))
def test_a_share_is_rounded_inwards(share, name):
    most = resolved(**{name: f"{share}%"})[name].most
    least = resolved(**{name: {"min": f"{share}%"}})[name].least
    reference = resolved(**{name: "100%"})[name].most
    assert type(most) is type(least) is int
    assert most <= share * reference / 100 <= least
    assert least - most <= 1


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"macs": {"min": "10M", "max": "5M"}}, "limits.macs: expected min <= max, got 10,000,000 and 5,000,000"),
        ({"macs": {"min": "60%", "max": "5M"}}, "limits.macs: expected min <= max"),
        ({"macs": {"max": "60%", "of": "nonsense"}}, "architecture 'nonsense': expected 5 layers of 6 digits"),
        ({"macs": {"max": "60%", "of": "0" * 30}}, "layer 1 applies no operation"),
        ({"latency": 5}, "limits.latency needs the latency of operations: genas latency CONFIG --out FILE measures it"),
    ],
)
def test_limits_that_mean_nothing_for_a_space(limits, said):
    with pytest.raises(InputError, match=said):
        resolved(**limits)


@pytest.fixture
def latency(tmp_path):
    """A tenth of a millisecond for each operation that convolves, and one for every network."""
    nodes = [node for one in architectures(SPACE, np.ones((1, 30), np.int8)) for node in SPACE.graph(one).nodes]
    times = {operation_key(node): 0.1 * ("conv" in node.op) for node in nodes}
    write_latency(tmp_path / "latency.json", Latency(1.0, times), {})
    return tmp_path / "latency.json"


def test_a_limit_on_latency_is_in_milliseconds(latency):
    bound = resolve_limits(SPACE, {"latency": read({"min": 1.95, "max": 3.05})}, latency)["latency"]
    assert (bound.least, bound.most) == (1.95, 3.05)
    rows = SPACE.sample(100, np.random.default_rng(0))
    convolutions = rows.reshape(100, 5, 6)[:, :, 1:].sum(axis=(1, 2)) + 2
    np.testing.assert_allclose(bound.measure(rows), 1 + 0.1 * convolutions)
    np.testing.assert_array_equal(within(SPACE, rows, {"latency": bound}), (convolutions >= 10) & (convolutions <= 20))
    most = resolve_limits(SPACE, {"latency": 2}, latency)["latency"]
    assert (most.least, most.most) == (-np.inf, 2)


def test_a_share_of_latency_needs_a_network_and_is_not_rounded(latency):
    with pytest.raises(InputError, match=r"limits\.latency: a share needs a network, of: ARCHITECTURE"):
        resolve_limits(SPACE, {"latency": read("60%")}, latency)
    whole = resolve_limits(SPACE, {"latency": read({"max": "50%", "of": "1" * 30})}, latency)["latency"]
    assert whole.most == pytest.approx((1 + 2.7) / 2)
    with pytest.raises(InputError, match="no such file"):
        resolve_limits(SPACE, {"latency": 5}, latency.with_name("other.json"))


@pytest.mark.parametrize(
    ("bound", "content", "words"),
    [
        (Bound(most=15_000_000), 15_000_000, "macs <= 15,000,000"),
        (Bound(least=5), {"min": 5, "max": None}, "macs >= 5"),
        (Bound(5_000, 6_000), {"min": 5_000, "max": 6_000}, "macs 5,000 to 6,000"),
        (Bound(most=15.5), {"min": None, "max": 15.5}, "macs <= 15.5"),
    ],
)
def test_limits_in_files_and_in_words(bound, content, words):
    assert limits_json({"macs": bound}) == {"macs": content}
    assert limits_words({"macs": content}) == words
    assert resolve_limits(SPACE, {"macs": read(content)}) == {"macs": bound}


def test_latency_in_words():
    content = limits_json({"latency": Bound(0.5, 1234.5, lambda rows: rows[:, 0]), "depth": Bound(most=8)})
    assert content == {"latency": {"min": 0.5, "max": 1234.5}, "depth": 8}
    assert limits_words(content) == "latency 0.5 ms to 1,234 ms, depth <= 8"
    assert limits_words({}) == "no limit"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5M:20M:4", ("macs", [5_000_000, 10_000_000, 15_000_000, 20_000_000])),
        ("macs=5M:20M:2", ("macs", [5_000_000, 20_000_000])),
        (" params = 1.5K : 2K : 3", ("params", [1500, 1750, 2000])),
        ("depth=8:10:20", ("depth", [8, 9, 10])),
        ("activations=7:7:1", ("activations", [7])),
        ("100:101:3", ("macs", [100, 101])),
    ],
)
def test_a_sweep_of_limits(text, expected):
    assert sweep(text) == expected


@given(st.integers(1, 10**9), st.integers(0, 10**9), st.integers(2, 1000))
def test_a_sweep_goes_from_end_to_end_evenly(first, more, count):
    name, values = sweep(f"conv_macs={first}:{first + more}:{count}")
    assert name == "conv_macs"
    assert values == sorted(set(values))
    assert (values[0], values[-1]) == (first, first + more)
    assert len(values) <= count
    if more >= count:
        assert len(values) == count
        assert np.ptp(np.diff(values)) <= 1


@pytest.mark.parametrize(
    "text",
    ["", "5M", "5M:20M", "5M:20M:", "5M:20M:4:5", "20M:5M:4", "5M:20M:0", "5M:20M:-1", "5M:20M:1001", "5M:20M:2.5",
     "5%:20M:4", "5M:60%:4", "0:5M:4", "a:b:c", ":::", "macs=", "1.5:2.5:2", f"1:{'9' * 400}:3"],
)  # fmt: skip
def test_what_is_no_sweep(text):
    with pytest.raises(InputError, match="expected LEAST:MOST:COUNT, such as 5M:20M:20, or COST=LEAST:MOST:COUNT"):
        sweep(text)


@pytest.mark.parametrize(("text", "name"), [("mac=1:2:3", "mac"), ("latency=1:2:3", "latency"), ("a=b=1:2:3", "a=b")])
def test_a_sweep_of_an_unknown_cost(text, name):
    with pytest.raises(InputError, match=f"unknown cost '{name}'; known: macs, conv_macs, params, activations, depth"):
        sweep(text)
