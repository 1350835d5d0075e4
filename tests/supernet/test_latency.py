import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution import SearchSettings, evolve, optimum
from supernet import ArchGraph, Bound, InputError, NasBench201, Node, OpSubset, architectures, graph_costs
from supernet.files import write_json
from supernet.latency import Latency, fit_latency, latency_digest, operation_key, read_latency, write_latency
from supernet.settings import UnavailableError
from tests.evolution.test_search import SMALL, every
from tests.supernet.spaces import op_subset_spaces, spaces

SPACE = OpSubset()
NODE = Node("sep_conv", (("in", 16), ("out", 32), ("kernel", 3), ("stride", 2), ("resolution", 16), ("macs", 5)), "a")
seeds = st.integers(0, 2**32)


def sampled(space, count, seed=0):
    return [space.graph(one) for one in architectures(space, space.sample(count, np.random.default_rng(seed)))]


def planted(space, seed, overhead=0.5):
    """Milliseconds of each operation of a space: partly by MACs, partly at random."""
    random = np.random.default_rng(seed)
    nodes = {operation_key(node): node for graph in sampled(space, 200) for node in graph.nodes}
    free = {"input", "sum"}
    times = {
        key: 0.0 if node.op in free else 0.05 + 1e-6 * node.get("macs") * random.uniform(0.3, 3)
        for key, node in nodes.items()
    }
    return Latency(overhead, times)


def test_an_operation_is_named_by_its_shapes_in_one_order():
    assert operation_key(NODE) == "sep_conv in=16 kernel=3 out=32 resolution=16 stride=2"
    assert operation_key(Node("input")) == "input"
    shapes = [(name, value) for name, value in NODE.attributes if name != "macs"]
    other = Node("sep_conv", (*reversed(shapes), ("macs", 7), ("params", 9)), "b")
    assert operation_key(other) == operation_key(NODE)
    assert operation_key(Node("mbconv", (("expansion", 1.5),))) == "mbconv expansion=1.5"


@given(spaces(), seeds)
def test_operations_of_one_name_cost_the_same(space, seed):
    costs = {}
    for graph in sampled(space, 5, seed):
        for node in graph.nodes:
            macs_and_params = (node.get("macs"), node.get("params"))
            assert costs.setdefault(operation_key(node), macs_and_params) == macs_and_params


def test_a_network_takes_the_sum_of_its_operations():
    latency = Latency(0.5, {"a": 1.0, "b in=2": 0.25})
    first = ArchGraph((Node("a"), Node("b", (("in", 2),)), Node("b", (("in", 2), ("macs", 9)))), ())
    assert latency.of([first, ArchGraph((Node("a"),), ())]).tolist() == [2.0, 1.5]
    assert latency.of([]).shape == (0,)


def test_an_unknown_operation_is_refused():
    latency = Latency(0.5, {"a": 1.0})
    with pytest.raises(InputError, match=r"operation 'a in=2' of a network is not among the 1 measured ones"):
        latency.of([ArchGraph((Node("a"), Node("a", (("in", 2),))), ())])
    with pytest.raises(InputError, match="is not among the 1 measured ones; measure the space that is searched"):
        latency.measure(SPACE)


@given(seeds)
@settings(max_examples=5)
def test_a_fit_recovers_what_was_planted(seed):
    truth = planted(SPACE, seed)
    graphs, others = sampled(SPACE, 80, seed), sampled(SPACE, 200, seed + 1)
    fitted = fit_latency(graphs, truth.of(graphs))
    assert fitted.error < 0.01
    assert (np.abs(fitted.of(others) / truth.of(others) - 1)).max() < 0.01
    differing = [key for key in truth.operations if key.split()[0] in ("sep_conv", "dil_conv", "skip")]
    errors = [abs(fitted.operations[key] - truth.operations[key]) for key in differing]
    assert max(errors) < 0.02 * truth.of(graphs).mean()


@given(seeds)
@settings(max_examples=5)
def test_noise_does_not_spoil_a_fit(seed):
    truth, random = planted(SPACE, seed), np.random.default_rng(seed)
    graphs, others = sampled(SPACE, 120, seed), sampled(SPACE, 200, seed + 1)
    fitted = fit_latency(graphs, truth.of(graphs) * random.normal(1, 0.03, len(graphs)))
    assert 0.005 < fitted.error < 0.08
    assert np.abs(fitted.of(others) / truth.of(others) - 1).mean() < 0.04
    assert fitted.overhead >= 0
    assert min(fitted.operations.values()) >= 0


@pytest.mark.parametrize("count", [0, 1, 9])
def test_few_networks_are_refused(count):
    with pytest.raises(InputError, match=f"latency: expected at least 10 measured networks, got {count}"):
        fit_latency(sampled(SPACE, count), np.ones(count))
    with pytest.raises(InputError, match="at least 10 measured networks"):
        fit_latency(sampled(SPACE, 20), np.ones(19))


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_latencies_that_are_none_are_refused(value):
    with pytest.raises(InputError, match="expected milliseconds above 0"):
        fit_latency(sampled(SPACE, 12), np.array([1.0] * 11 + [value]))


def test_networks_that_are_all_alike_are_fitted():
    graph = SPACE.graph(SPACE.cheapest("macs"))
    assert fit_latency([graph] * 12, np.full(12, 3.0)).of([graph])[0] == pytest.approx(3.0)


@given(op_subset_spaces(), seeds)
@settings(max_examples=25)
def test_the_measure_of_op_subset_is_a_sum_over_choices_and_that_of_the_graphs(space, seed):
    latency = planted(space, seed)
    measure = latency.measure(space)
    rows = space.sample(50, np.random.default_rng(seed))
    graphs = [space.graph(one) for one in architectures(space, rows)]
    assert measure.__name__ == "values"  # of a table: no graphs are built
    np.testing.assert_allclose(measure(rows), latency.of(graphs), rtol=1e-9)


def test_the_measure_of_another_space_is_that_of_its_networks():
    space = NasBench201(channels=4, cells=1, input_size=8)
    latency = planted(space, 0)
    rows = space.canonical(space.sample(100, np.random.default_rng(1)))
    graphs = [space.graph(one) for one in architectures(space, rows)]
    np.testing.assert_allclose(latency.measure(space)(rows), latency.of(graphs), rtol=1e-9)


def test_a_limit_on_latency_is_kept_and_its_optimum_is_proved():
    measure = planted(SMALL, 2).measure(SMALL)
    values = measure(every(SMALL))
    limits = {"latency": Bound(float(np.quantile(values, 0.3)), float(np.quantile(values, 0.6)), measure)}
    score = lambda rows: rows @ np.arange(1.0, 9)  # noqa: E731
    expected = score(every(SMALL)[limits["latency"].keeps(values)]).max()
    found = optimum(SMALL, score, limits)
    assert found.method == "integer programming"
    assert found.best.score == expected
    assert limits["latency"].least <= found.best.costs["latency"] <= limits["latency"].most
    evolved = evolve(SMALL, score, limits, SearchSettings(queries=225, population=20), np.random.default_rng(0))
    assert evolved.best[0].score == expected
    assert evolved.queries == limits["latency"].keeps(values).sum()


def test_the_file_comes_back(tmp_path):
    latency = Latency(0.25, {"a in=2": 1.5, "b": 0.0}, 0.03)
    write_latency(tmp_path / "latency.json", latency, {"device": "cpu", "batch": 8})
    assert read_latency(tmp_path / "latency.json") == latency
    content = json.loads((tmp_path / "latency.json").read_text())
    assert (content["unit"], content["device"], content["batch"]) == ("ms", "cpu", 8)
    write_latency(tmp_path / "other.json", Latency(0.0, {}), {})
    assert read_latency(tmp_path / "other.json") == Latency(0.0, {}, None)
    with pytest.raises(UnavailableError):
        write_latency(tmp_path / "latency.json" / "below.json", latency, {})


def test_a_table_by_hand_is_read(tmp_path):
    path = tmp_path / "latency.json"
    path.write_text('{"kind": "genas-latency", "operations": {"conv in=3": 2}}')
    assert read_latency(path) == Latency(0.0, {"conv in=3": 2.0}, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "damaged, no valid JSON"),
        ("[1]", "expected an object, got list"),
        ("{}", "expected a table of latencies of kind 'genas-latency' with operations"),
        ('{"kind": "genas-latency"}', "expected a table of latencies"),
        ('{"kind": "other", "operations": {}}', "expected a table of latencies"),
        ('{"kind": "genas-latency", "operations": [1]}', "expected a table of latencies"),
        ('{"kind": "genas-latency", "operations": {"a": -1}}', "'a' is -1; expected milliseconds, at least 0"),
        ('{"kind": "genas-latency", "operations": {"a": "1"}}', "'a' is '1'; expected milliseconds"),
        ('{"kind": "genas-latency", "operations": {"a": true}}', "'a' is True; expected milliseconds"),
        ('{"kind": "genas-latency", "operations": {"a": null}}', "'a' is None; expected milliseconds"),
        ('{"kind": "genas-latency", "operations": {"a": NaN}}', "'a' is nan; expected milliseconds"),
        ('{"kind": "genas-latency", "operations": {"a": Infinity}}', "'a' is inf; expected milliseconds"),
        ('{"kind": "genas-latency", "overhead": -0.5, "operations": {}}', "'overhead' is -0.5; expected milliseconds"),
        ('{"kind": "genas-latency", "overhead": null, "operations": {}}', "'overhead' is None; expected milliseconds"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_its_name(content, message, tmp_path):
    path = tmp_path / "latency.json"
    path.write_text(content)
    for read in (read_latency, latency_digest):
        with pytest.raises(InputError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_or_was_edited_is_refused(tmp_path):
    path = tmp_path / "latency.json"
    with pytest.raises(InputError, match=r"no such file; genas latency CONFIG --out .* measures one"):
        read_latency(path)
    write_latency(path, Latency(0.25, {"a": 1.5}), {})
    path.write_text(path.read_text().replace("1.5", "1.4"))
    with pytest.raises(InputError, match="damaged or edited by hand"):
        read_latency(path)


def test_the_digest_tells_whether_latencies_have_changed(tmp_path):
    path = tmp_path / "latency.json"
    digests = []
    for latency, about in (
        (Latency(0.25, {"a": 1.5, "b": 2.0}), {}),
        (Latency(0.25, {"b": 2.0, "a": 1.5}, 0.1), {"device": "cuda"}),
        (Latency(0.25, {"a": 1.5, "b": 2.1}), {}),
        (Latency(0.5, {"a": 1.5, "b": 2.0}), {}),
    ):
        write_latency(path, latency, about)
        digests.append(latency_digest(path))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert latency_digest(None) is None
    write_json(path, {"kind": "genas-latency", "operations": {}})
    assert latency_digest(path) not in digests


def test_what_was_not_measured_takes_what_its_macs_take():
    random = np.random.default_rng(0)
    space, other = OpSubset(), OpSubset(input_size=16)
    graphs = [space.graph(one) for one in architectures(space, space.sample(60, random))]
    found = fit_latency(graphs, np.array([1 + graph_costs(graph).macs / 1e7 for graph in graphs]))
    more = [other.graph(one) for one in architectures(other, other.sample(5, random))]
    values = found.of(more)
    assert (values > 0).all()
    assert values.max() < found.of(graphs).max()  # a quarter of the pixels
