import json

import numpy as np
import pytest

from supernet import InputError, OpSubset
from supernet.latency import Latency, fit_latency, operation_key, read_latency, write_latency
from supernet.space import architectures

SPACE = OpSubset()


def planted(count, noise=0.0, seed=0):
    """Graphs and milliseconds that grow with each operation's MACs, by a factor of its own."""
    random = np.random.default_rng(seed)
    graphs = [SPACE.graph(one) for one in architectures(SPACE, SPACE.sample(count, random))]
    keys = {operation_key(node): node.get("macs") for graph in graphs for node in graph.nodes}
    own = {key: (0.01 + macs / 1e7) * random.uniform(0.5, 2) for key, macs in keys.items()}
    exact = Latency(0.3, own).of(graphs)
    return graphs, exact * np.exp(random.normal(0, noise, count)), exact


def test_planted_latencies_are_found():
    graphs, measured, _ = planted(300)
    found = fit_latency(graphs, measured)
    np.testing.assert_allclose(found.of(graphs), measured, rtol=0.01)
    assert found.error is not None
    assert found.error < 0.01


def test_the_error_on_held_out_networks_is_told_honestly():
    graphs, measured, exact = planted(200, noise=0.1)
    found = fit_latency(graphs[:150], measured[:150])
    off = np.abs(found.of(graphs[150:]) / exact[150:] - 1).mean()
    assert found.error is not None
    assert 0.05 < found.error < 0.2  # noise of a tenth is in what it is compared with
    assert off < 0.1


def test_fewer_networks_than_operations_still_give_an_order():
    graphs, measured, exact = planted(200, noise=0.05)
    found = fit_latency(graphs[:20], measured[:20])
    known = set(found.operations)
    others = [place for place in range(20, 200) if {operation_key(node) for node in graphs[place].nodes} <= known]
    assert len(others) > 50
    ranks = np.corrcoef(found.of([graphs[place] for place in others]), exact[others])[0, 1]
    assert ranks > 0.7


def test_a_space_whose_latency_adds_up_is_measured_by_a_table_of_its_choices():
    graphs, measured, _ = planted(300)
    found = fit_latency(graphs, measured)
    rows = SPACE.sample(50, np.random.default_rng(5))
    by_graphs = found.of([SPACE.graph(one) for one in architectures(SPACE, rows)])
    np.testing.assert_allclose(found.measure(SPACE)(rows), by_graphs, rtol=1e-9)


def test_an_operation_that_was_not_measured_is_named():
    graph = SPACE.graph(SPACE.cheapest("macs"))
    with pytest.raises(InputError, match=r"operation 'input .* is not among the 0 measured ones"):
        Latency(1.0, {}).of([graph])


@pytest.mark.parametrize("values", [np.ones(9), np.r_[np.ones(19), 0.0], np.r_[np.ones(19), np.nan]])
def test_what_no_model_can_be_fitted_to(values):
    graphs, _, _ = planted(20)
    with pytest.raises(InputError, match="latency: expected"):
        fit_latency(graphs[: len(values)], values)


def test_a_file_comes_back_and_one_by_hand_is_read(tmp_path):
    path = tmp_path / "latency.json"
    found = Latency(0.5, {"sep_conv in=16": 0.25}, 0.1)
    write_latency(path, found, {"device": "cpu"})
    assert read_latency(path) == found
    path.write_text(json.dumps({"kind": "genas-latency", "operations": {"conv": 1}}), encoding="utf-8")
    assert read_latency(path) == Latency(0.0, {"conv": 1.0})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ([], "expected an object"),
        ({"operations": {}}, "expected a table of latencies"),
        ({"kind": "genas-latency", "operations": {"conv": -1}}, "'conv' is -1; expected milliseconds"),
        ({"kind": "genas-latency", "operations": {"conv": "1"}}, "'conv' is '1'; expected milliseconds"),
        ({"kind": "genas-latency", "operations": {}, "overhead": True}, "'overhead' is True"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, message):
    path = tmp_path / "latency.json"
    if content is not None:
        path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_latency(path)
