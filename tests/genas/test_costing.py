import json
import subprocess
import sys
from typing import Literal

import pytest
from hypothesis import given, settings

from genas.costing import CONVENTION, cost, find_space
from supernet import ArchGraph, Architecture, DavidNet, InputError, OpSubset, SearchSpace
from supernet.operations import operation
from tests.supernet.spaces import spaces_with_architecture

pytestmark = pytest.mark.filterwarnings("ignore:distutils:DeprecationWarning")

WINNER = "111000 011101 111111 111111 011101"


def test_the_published_winner():
    space = OpSubset()
    result = cost(space, space.parse(WINNER))
    assert {name: result[name] for name in ("macs", "conv_macs", "params")} == {
        "macs": 14_589_696,
        "conv_macs": 14_461_696,
        "params": 740_132,
    }
    assert result["architecture"] == WINNER
    assert result["convention"] == CONVENTION
    assert list(result) == ["macs", "conv_macs", "params", "activations", "architecture", "convention"]


def test_the_command_of_other_tools_needs_no_torch():
    """Its output is fixed, and it is quick because nothing heavy is imported."""
    code = """
import sys
from genas.cli import main
try:
    main()
finally:
    heavy = sorted({"torch", "sklearn", "scipy", "matplotlib"} & set(sys.modules))
    assert not heavy, heavy
"""
    arguments = ["cost", "op_subset", "--arch", WINNER, "--json"]
    answer = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith('{"macs": 14589696, "conv_macs": 14461696, "params": 740132, "activations": ')
    assert json.loads(answer.stdout)["architecture"] == WINNER


def test_other_counters_differ_by_the_rules_that_are_named():
    space = OpSubset(
        layers=({"channels": 8}, {"channels": 16, "stride": 2}), input_size=8, head_channels=64, classes=10
    )
    architecture = space.parse("110000 000011")
    result = cost(space, architecture, compare=True)
    plain = cost(space, architecture)
    compared = result.pop("compare")
    assert result == plain  # the other counters leave ours alone
    # Stem, twice in sep_conv_3 of layer 1 (8x8), two dil_convs of layer 2 (4x4), head.
    norms = 16 * 8**2 + (16 + 8) * 8**2 + 2 * 16 * 4**2 + 64 * 4**2
    mean = 64 * 4**2
    assert {name: entry["macs"] - plain["macs"] for name, entry in compared.items()} == {
        "torch": 0,
        "thop": 4 * norms + mean + 64,
        "fvcore": 2 * norms + mean,
    }
    assert list(compared["thop"]["differences"].values()) == [4 * norms, mean + 64]
    assert list(compared["fvcore"]["differences"].values()) == [2 * norms, mean]
    assert {entry["params"] for entry in compared.values()} == {plain["params"]}


@given(spaces_with_architecture())
@settings(max_examples=12)
def test_nothing_of_a_difference_is_unexplained(given_pair):
    space, architecture = given_pair
    result = cost(space, architecture, compare=True)
    for entry in result["compare"].values():
        assert entry["unexplained"] == 0
        assert entry["macs"] == result["macs"] + sum(entry["differences"].values())
        assert entry["params"] == result["params"]


class Varied(SearchSpace):
    """A chain with one node of every kind that some counter looks at, and of those that none does."""

    kind: Literal["varied"] = "varied"
    input_size: int = 14

    @property
    def cardinalities(self):
        return (2,)

    def graph(self, architecture):
        wide = {"in_": 16, "out": 16}
        nodes = [
            operation("input", "input", out=3, resolution=14),
            operation("conv_bn_hswish", "stem", in_=3, out=16, kernel=3, stride=1, resolution=14),
            operation(
                "mbconv", "block", **wide, kernel=3, stride=2, expansion=3, se=architecture.choices[0], hswish=1,
                resolution=7, input_resolution=14,
            ),
            operation("avg_pool_same", "average", out=16, kernel=3, stride=1, resolution=7),
            operation("max_pool_same", "maximum", out=16, kernel=3, stride=1, resolution=7),
            operation("resize", "resize", out=16, resolution=3),
            operation("pad_channels", "pad", in_=16, out=24, resolution=3),
            operation("skip", "halve", in_=24, out=32, stride=2, resolution=2),
            operation("avg_pool", "pool", out=32, kernel=2, resolution=1),
            operation("scale", "scale", out=32, factor=2.0, resolution=1),
            operation("global_mean", "mean", in_=32, out=32, resolution=1),
            operation("linear", "classifier", in_=32, out=self.classes, resolution=1),
        ]  # fmt: skip
        return ArchGraph(tuple(nodes), tuple((at, at + 1) for at in range(len(nodes) - 1)))


@pytest.mark.parametrize("excited", [0, 1])
def test_squeeze_excitation_pools_and_resizes_are_explained_too(excited):
    space = Varied()
    result = cost(space, Architecture("varied", (excited,)), compare=True)
    assert {name: entry["unexplained"] for name, entry in result["compare"].items()} == {
        "torch": 0, "thop": 0, "fvcore": 0,
    }  # fmt: skip
    assert {entry["params"] for entry in result["compare"].values()} == {result["params"]}
    pools = 16 * 7**2 + 32
    windows = int((49 / 9 + 1) * 16 * 9) + 2 * 32
    norms, averages, pooled = result["compare"]["thop"]["differences"].values()
    assert (averages, pooled) == (windows, pools)
    assert list(result["compare"]["fvcore"]["differences"].values()) == [norms // 2, 16 * 7**2 + 32]


def test_a_space_by_its_name_takes_overrides_with_and_without_prefix():
    assert find_space("op_subset") == OpSubset()
    assert find_space("op_subset", ["classes=10", "space.stem_channels=8"]) == OpSubset(classes=10, stem_channels=8)


def test_a_kind_of_space_may_be_chosen_and_then_set():
    assert find_space("davidnet", ["classes=10", "space.widths.0=0.1", "widths.2=0.7"]) == DavidNet(
        classes=10, widths=(0.1, 0.5, 0.7, 1.0, 1.25)
    )
    assert find_space("op_subset", ["widths.1=0.6", "space.kind=davidnet"]) == DavidNet(
        widths=(0.25, 0.6, 0.75, 1.0, 1.25)
    )


def test_ghost_norms_count_as_norms():
    space = DavidNet(classes=10, input_size=8, widths=(0.0625,))
    result = cost(space, space.default, compare=True)
    norms = 64 * 8**2 + 3 * 8 * 4**2 + 16 * 2**2 + 3 * 32
    assert result["compare"]["thop"]["differences"] == {"batch norms, 4 a value": 4 * norms}
    assert result["compare"]["fvcore"]["differences"] == {"batch norms, 2 a value": 2 * norms}


def test_a_space_of_a_recipe_has_the_classes_of_its_images(recipe, tmp_path):
    space = find_space(str(recipe), logs=str(tmp_path))
    assert (space.classes, space.input_channels, len(space.layers)) == (10, 1, 2)


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        ("op_subsets", [], "neither a recipe file"),
        ("davidnets", [], "neither a recipe file"),
        ("davidnet", ["layers=3"], "unknown key .*layers"),
        ("davidnet", ["input_size=7"], "at least 8"),
        ("op_subset", ["kind=davidnett"], "Did you mean 'davidnet'"),
        ("op_subset", ["clases=10"], "Did you mean 'classes'"),
        ("op_subset", ["classes=1"], "at least 2"),
        ("op_subset", ["classes"], "expected KEY=VALUE"),
    ],
)
def test_bad_spaces(source, overrides, message, tmp_path):
    with pytest.raises(InputError, match=message):
        find_space(source, overrides, str(tmp_path))
