import ast
import sys

import pytest
import torch
from safetensors.torch import save_file

from supernet import InputError
from supernet.ensembles import Ensemble
from supernet.export import ensemble_source, network_source
from tests.supernet.test_export import DAVIDNET, SPACE, TEXTS, images_for, imported, trained_a_little

SHIFTED = "010000 001000 000010"
"""Needs a layer that torch lacks."""


def graphs_of(texts, space=SPACE):
    return [space.graph(space.parse(text)) for text in texts]


def made(graphs, space=SPACE, per_class=True):
    """An ensemble with weights of its own for each class, and temperatures."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(len(graphs), space.classes if per_class else 1, generator=generator) + 0.1
    weights = (weights / weights.sum(dim=0)).expand(-1, space.classes).clone()
    members = [trained_a_little(space, graph, seed) for seed, graph in enumerate(graphs)]
    return Ensemble(members, weights, torch.rand(len(graphs), generator=generator) + 0.5).eval()


@pytest.mark.parametrize(
    ("texts", "classes"),
    [
        ([TEXTS[0]], {"Network"}),
        ([TEXTS[0], TEXTS[0]], {"Network"}),
        ([TEXTS[0], TEXTS[1], TEXTS[0], SHIFTED], {"Network1", "Network2", "Network3"}),
    ],
)
def test_exported_source_is_the_ensemble(texts, classes, tmp_path):
    graphs = graphs_of(texts)
    ours = made(graphs)
    source = ensemble_source(graphs, SPACE.classes, "a title", {"CLASSES": ("a", "b")})
    module = imported(source, tmp_path / "model.py")
    save_file(ours.state_dict(), tmp_path / "weights.safetensors")
    loaded = module.load(tmp_path / "weights.safetensors")
    assert not loaded.training
    assert list(loaded.state_dict()) == list(ours.state_dict())
    images = images_for(SPACE, 5)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), ours(images), rtol=0, atol=0)
    assert module.CLASSES == ("a", "b")
    tree = ast.parse(source)
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert {name for name in defined if name.startswith("Network")} == classes
    assert "Ensemble" in defined
    roots = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    roots |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {root.partition(".")[0] for root in roots} - {"torch"} <= sys.stdlib_module_names


def test_networks_with_layers_that_torch_lacks_bring_them_once(tmp_path):
    graphs = graphs_of(["8r-max 24-average 104r-max", "16-max 48r-max 48-average"], DAVIDNET)
    source = ensemble_source(graphs, DAVIDNET.classes, "two")
    assert source.count("class GhostBatchNorm(") == source.count("class Scale(") == 1
    ours = made(graphs, DAVIDNET, per_class=False)
    save_file(ours.state_dict(), tmp_path / "weights.safetensors")
    loaded = imported(source, tmp_path / "model.py").load(tmp_path / "weights.safetensors")
    images = images_for(DAVIDNET, 3)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), ours(images), rtol=0, atol=0)


def test_costs_are_those_of_all_members():
    graphs = graphs_of([TEXTS[0]] * 3)
    alone, three = network_source(graphs[0], "one"), ensemble_source(graphs, SPACE.classes, "three")

    def told(source):
        line = next(line for line in source.splitlines() if "MACs of convolutions" in line)
        return [int(word.strip("(").replace(",", "")) for word in line.split() if word.strip("(")[0].isdigit()]

    assert len(told(alone)) == 3
    assert told(three) == [3 * number for number in told(alone)]


def test_a_weighted_mean_of_calibrated_probabilities():
    members = [trained_a_little(SPACE, graph, 3) for graph in graphs_of(TEXTS[:2])]
    weights = torch.tensor([[0.25, 0.5, 1.0, 0.0, 0.75], [0.75, 0.5, 0.0, 1.0, 0.25]])
    temperatures = torch.tensor([0.5, 2.0])
    images = images_for(SPACE, 4)
    with torch.no_grad():
        found = Ensemble(members, weights, temperatures)(images)
        own = [(member(images) / heat).softmax(dim=1) for member, heat in zip(members, temperatures, strict=True)]
    mixed = sum(one * weight for one, weight in zip(own, weights, strict=True))
    torch.testing.assert_close(found.exp(), mixed / mixed.sum(dim=1, keepdim=True))
    assert torch.isfinite(found).all()


def test_an_ensemble_of_one_is_the_network():
    (graph,) = graphs_of([TEXTS[1]])
    network = trained_a_little(SPACE, graph, 0)
    images = images_for(SPACE, 4)
    with torch.no_grad():
        torch.testing.assert_close(Ensemble([network], torch.ones(1, 5))(images), network(images).log_softmax(dim=1))


@pytest.mark.parametrize(
    ("weights", "temperatures"),
    [
        (torch.ones(2, 5), None),
        (torch.full((3, 5), 1 / 3), None),
        (torch.tensor([0.5, 0.5]), None),
        (torch.tensor([[1.5] * 5, [-0.5] * 5]), None),
        (torch.full((2, 5), float("nan")), None),
        (torch.full((2, 5), 0.5), torch.ones(3)),
        (torch.full((2, 5), 0.5), torch.tensor([1.0, 0.0])),
    ],
)
def test_weights_that_are_none_are_refused(weights, temperatures):
    members = [trained_a_little(SPACE, graph, 0) for graph in graphs_of(TEXTS[:2])]
    with pytest.raises(InputError, match="ensemble: expected"):
        Ensemble(members, weights, temperatures)


def test_no_members():
    with pytest.raises(InputError, match="ensemble: expected weights"):
        Ensemble([], torch.ones(0, 5))


def test_a_title_of_several_lines_stays_one(tmp_path):
    graphs = graphs_of([TEXTS[0]])
    module = imported(ensemble_source(graphs, 5, 'first "line"\n\n- member 1'), tmp_path / "model.py")
    assert module.__doc__.startswith('first "line"\n\n- member 1\n')


def test_spaces_may_be_mixed(tmp_path):
    """Members of different spaces, of the same pictures."""
    other = SPACE.model_copy(update={"input_size": 17, "input_channels": 2})
    graphs = [*graphs_of([TEXTS[0]], other), *graphs_of(["8r-max 24-average 104r-max"], DAVIDNET)]
    ours = made(graphs, other)
    save_file(ours.state_dict(), tmp_path / "weights.safetensors")
    module = imported(ensemble_source(graphs, 5, "two spaces"), tmp_path / "model.py")
    images = images_for(other, 2)
    with torch.no_grad():
        torch.testing.assert_close(module.load(tmp_path / "weights.safetensors")(images), ours(images))
