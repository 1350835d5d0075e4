import json
import subprocess
import sys

import pytest

from genas.costing import CONVENTION, cost, find_space
from supernet import DavidNet, InputError, OpSubset

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


@pytest.mark.filterwarnings("ignore:distutils:DeprecationWarning")
def test_thop_counts_more_by_the_convention_that_is_printed():
    """thop adds 4 operations for each value of a batch norm in evaluation mode, and the additions of the mean."""
    space = OpSubset(
        layers=({"channels": 8}, {"channels": 16, "stride": 2}), input_size=8, head_channels=64, classes=10
    )
    architecture = space.parse("110000 000011")
    result = cost(space, architecture, "thop")
    plain = cost(space, architecture)
    thop = result.pop("thop")
    assert result == plain  # the second counter leaves the first alone
    assert thop["difference"] == thop["macs"] - plain["macs"] > 0
    assert thop["params"] == plain["params"]
    assert "batch norm" in thop["convention"]


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


@pytest.mark.filterwarnings("ignore:distutils:DeprecationWarning")
def test_thop_counts_the_same_weights_of_a_davidnet():
    space = DavidNet(classes=10, input_size=8, widths=(0.0625,))
    result = cost(space, space.default, "thop")
    assert result["thop"]["params"] == result["params"]
    norms = 4 * (64 * 8**2 + 3 * 8 * 4**2 + 16 * 2**2 + 3 * 32)
    assert result["thop"]["difference"] == norms


def test_a_space_of_a_recipe_has_the_classes_of_its_images(recipe, tmp_path):
    space = find_space(str(recipe), logs=str(tmp_path))
    assert (space.classes, space.input_channels, len(space.layers)) == (10, 1, 2)


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        ("op_subsets", [], "neither a recipe file"),
        ("davidnets", [], "neither a recipe file"),
        ("davidnet", ["layers=3"], "unknown key 'layers'"),
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
