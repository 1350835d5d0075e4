import ast
import importlib.util
import sys

import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import save_file

from supernet import DavidNet, OpSubset
from supernet.export import network_source
from supernet.network import build_network
from supernet.op_subset import LayerSettings
from tests.supernet.spaces import spaces_with_architecture

SPACE = OpSubset(
    layers=(LayerSettings(channels=8, stride=2), LayerSettings(channels=8), LayerSettings(channels=12, stride=2)),
    input_size=7,
    head_channels=16,
    classes=5,
)
DAVIDNET = DavidNet(
    input_size=17, input_channels=2, classes=5, stem_channels=6, widths=(0.0625, 0.1, 0.2), ghost_images=2
)
TEXTS = ("100000 100000 100000", "111111 111111 111111", "010000 001000 000010", "000100 100001 110000")


def imported(source, path):
    """The exported file as a module of its own."""
    path.write_text(source, encoding="utf-8")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def images_for(space, count):
    return torch.randn(count, space.input_channels, space.input_size, space.input_size)


def trained_a_little(space, graph, seed):
    """A network whose running statistics and biases are not those of the first day."""
    network = build_network(graph, seed)
    network.train()
    for _ in range(2):
        network(images_for(space, 4))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return network.eval()


@pytest.mark.parametrize(
    ("space", "text"),
    [
        *((SPACE, text) for text in TEXTS),
        (DAVIDNET, "8r-max 24-average 104r-max"),
        (DAVIDNET, "16-max 48r-max 48-average"),
    ],
)
def test_exported_source_is_the_network(space, text, tmp_path):
    graph = space.graph(space.parse(text))
    network = trained_a_little(space, graph, 3)
    module = imported(network_source(graph, "a title"), tmp_path / "model.py")
    exported = module.Network()
    assert list(exported.state_dict()) == list(network.state_dict())
    save_file(network.state_dict(), tmp_path / "weights.safetensors", metadata={"note": "left alone"})
    loaded = module.load(tmp_path / "weights.safetensors")
    assert not loaded.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
        assert loaded.state_dict()[name].dtype == tensor.dtype
    images = images_for(space, 5)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), network(images), rtol=0, atol=1e-6)
        # Trained further, too: two groups of a ghost norm are no plain one.
        torch.testing.assert_close(loaded.train()(images), network.train()(images), rtol=0, atol=1e-6)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor)


def test_source_brings_along_what_torch_does_not_have_and_no_more(tmp_path):
    plain = DavidNet(ghost_images=0)
    for space, helpers in ((DavidNet(), {"GhostBatchNorm", "Scale"}), (plain, {"Scale"}), (SPACE, {"ShiftedConv"})):
        tree = ast.parse(network_source(space.graph(space.parse(TEXTS[0]) if space is SPACE else space.default), "one"))
        assert {node.name for node in tree.body if isinstance(node, ast.ClassDef)} == {*helpers, "Network"}


@given(spaces_with_architecture())
@settings(max_examples=40)
def test_exported_source_needs_torch_and_the_standard_library_alone(given_pair):
    space, architecture = given_pair
    graph = space.graph(architecture)
    tree = ast.parse(network_source(graph, architecture.key))
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            roots.add(node.module.partition(".")[0])
    assert "torch" in roots
    assert roots - {"torch"} <= sys.stdlib_module_names
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not used & {"eval", "exec", "compile", "__import__"}
    names: dict[str, object] = {"__name__": "exported"}
    exec(compile(tree, "model.py", "exec"), names)
    exported, network = names["Network"](), build_network(graph)
    assert {name: value.shape for name, value in exported.state_dict().items()} == {
        name: value.shape for name, value in network.state_dict().items()
    }
    exported.load_state_dict(network.state_dict())
    images = images_for(space, 2)
    with torch.no_grad():
        torch.testing.assert_close(exported.eval()(images), network.eval()(images))


def test_constants_and_costs_are_in_the_file(tmp_path):
    space = OpSubset()
    graph = space.graph(space.parse("111000 011101 111111 111111 011101"))
    constants = {"CLASSES": ("cat", 'a "quoted" dog', "l'oiseau\n"), "MEAN": (0.5, 0.25)}
    source = network_source(graph, "the winner", constants)
    module = imported(source, tmp_path / "model.py")
    assert {name: getattr(module, name) for name in constants} == constants
    assert module.__doc__.startswith("the winner\n")
    assert "14,589,696 MACs" in module.__doc__
    assert "14,461,696 of convolutions alone" in module.__doc__
    assert "740,132 parameters" in module.__doc__


@pytest.mark.parametrize("title", ['ends """ early', "back\\slash \\u00 \\", 'one quote"', "{braces}", "plain"])
def test_a_title_stays_a_title(title, tmp_path):
    graph = SPACE.graph(SPACE.parse(TEXTS[0]))
    module = imported(network_source(graph, title), tmp_path / "model.py")
    assert module.__doc__.split("\n")[0] == title


def test_weights_of_another_network_are_refused(tmp_path):
    graph, other = (SPACE.graph(SPACE.parse(text)) for text in TEXTS[:2])
    module = imported(network_source(graph, "a title"), tmp_path / "model.py")
    save_file(build_network(other).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(RuntimeError, match="Unexpected key"):
        module.load(tmp_path / "weights.safetensors")
