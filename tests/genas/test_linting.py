import json
import re
import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings

from genas.config import load_run, load_space
from genas.linting import exit_code, lint, lint_run
from genas.words import linted, share
from supernet import COST_NAMES, ArchGraph, InputError, OpSubset, SearchSpace
from supernet.operations import operation
from supernet.settings import UnavailableError
from tests.supernet.ladder import Ladder, every_row
from tests.supernet.spaces import spaces

SIZES = {"layers": ({"channels": 12}, {"channels": 16}), "operations": ("skip", "sep_conv_3"), "head_channels": 4}
CLEAN = OpSubset(**SIZES)


class Odd(SearchSpace):
    """Three choices of a chain: a kernel of 1, 3, 3 or 5; nothing; a second kernel of 1 or 3.

    ``switch`` 1 makes rows of all but the first options invalid, ``side`` is that of the picture.
    """

    kind: Literal["odd"] = "odd"
    input_size: int = 8
    switch: int = 0

    @property
    def cardinalities(self):
        return (4, 3, 2)

    def is_valid(self, choices):
        known = super().is_valid(choices)
        return known & (choices.sum(axis=1) < 1) if self.switch else known

    def graph(self, architecture):
        self.check(architecture)
        first, _, second = architecture.choices
        side = self.input_size
        kernels = ((1, 3, 3, 5)[first], (1, 3)[second])
        nodes = [
            operation("input", "input", out=3, resolution=side),
            operation("conv_bn_relu", "stem", in_=3, out=8, kernel=3, stride=1, resolution=side),
            *(
                operation("conv_bn_relu", f"conv{number}", in_=8, out=8, kernel=kernel, stride=1, resolution=side)
                for number, kernel in enumerate(kernels)
            ),
            operation("global_mean", "mean", in_=8, out=8, resolution=1),
            operation("linear", "classifier", in_=8, out=self.classes, resolution=1),
        ]
        return ArchGraph(tuple(nodes), tuple((at, at + 1) for at in range(len(nodes) - 1)))


class Known(Odd):
    """The same, where the space knows what is equal."""

    kind: Literal["known"] = "known"

    def canonical(self, choices):
        rows = choices.copy()
        rows[:, 1] = 0
        rows[rows[:, 0] == 2, 0] = 1
        return rows


def found(result, words, state="warning"):
    """The one finding that says so."""
    (finding,) = [one for one in result["findings"] if words in one["found"]]
    assert finding["state"] == state
    assert finding["mend"]
    return finding["found"]


def test_a_clean_space_has_no_finding():
    result = lint(CLEAN)
    assert (result["findings"], result["wrong"], result["warnings"]) == ([], 0, 0)
    assert exit_code(result) == 0
    assert linted(result).splitlines()[-1] == "Nothing is wrong, no warnings"
    assert (result["size"], result["rows"], result["choices"]) == (9, 16, 4)
    assert result["invalid_share"] == 7 / 16
    assert result["distinct"] == {"share": 1.0, "networks": 9, "exact": True, "within_limits": 9}
    assert (result["feasible_share"], result["binding"], result["limits"]) == (1.0, None, {})
    assert result["wanted"] is result["found"] is result["label_seconds"] is None


@given(spaces())
@settings(max_examples=10)
def test_what_is_said_of_any_space_can_be_counted(space):
    result = lint(space)
    json.dumps(result, allow_nan=False)
    assert (result["space"], result["size"], result["rows"]) == (
        space.name, space.size, int(np.prod(space.cardinalities)),
    )  # fmt: skip
    sample = space.sample(500, np.random.default_rng(1))
    for name, points in result["costs"].items():
        values = list(points.values())
        assert list(points) == ["min", "5", "25", "50", "75", "95", "max"]
        assert values == sorted(values)
        assert values[0] <= space.costs(sample)[name].min()
    if result["rows"] < 5000:
        rows = every_row(space)
        assert result["invalid_share"] == pytest.approx(1 - len(rows) / result["rows"])
        assert result["distinct"]["networks"] == len(np.unique(space.canonical(rows), axis=0))
    assert result["wrong"] == (result["distinct"]["networks"] == 1)


def test_large_spaces_are_sampled():
    result = lint(OpSubset())
    assert result["distinct"] == {"share": 1.0, "networks": None, "exact": False, "within_limits": None}
    assert result["invalid_share"] == pytest.approx(1 - (63 / 64) ** 5, abs=0.02)
    assert result["costs"]["macs"]["min"] == 7_797_760


def test_rows_that_are_the_same_network_are_counted():
    result = lint(Ladder(rungs=3))
    assert (result["size"], result["rows"]) == (39, 81)
    assert result["distinct"] == {"share": 1.0, "networks": 39, "exact": True, "within_limits": 39}
    result = lint(Known())
    assert result["distinct"] == {"share": 6 / 24, "networks": 6, "exact": True, "within_limits": 6}
    assert "6 distinct networks, 25.0% of the texts" in linted(result)


@pytest.mark.parametrize("space", [Odd(), Known()])
def test_choices_and_options_that_do_nothing_are_named(space):
    result = lint(space)
    assert found(result, "change nothing") == "choices that change nothing in the network: 2"
    assert found(result, "the same as another") == "options that do the same as another: choice 1 = 2 (as choice 1 = 1)"


def test_networks_under_two_keys_are_found_where_the_space_does_not_know_them():
    wasted, seen = map(int, re.match(r"(\d+) of (\d+) sampled", found(lint(Odd()), "under a second key")).groups())
    assert wasted == seen - 6  # kernels 1, 3, 5 and 1, 3: six networks
    assert not [one for one in lint(Known())["findings"] if "second key" in one["found"]]


def test_options_that_matter_in_few_architectures_are_not_called_idle():
    """The kernel of the last rung of eight means something in the longest ladders alone."""
    result = lint(Ladder(rungs=8, input_size=8))
    assert not [one for one in result["findings"] if "choice" in one["found"]]


@pytest.mark.parametrize(("side", "blind"), [(1, True), (2, True), (3, False)])
def test_weights_that_only_see_padding(side, blind):
    """A kernel of 5 reaches 2 pixels to each side."""
    texts = [one["found"] for one in lint(Known(input_size=side))["findings"] if "padding" in one["found"]]
    assert bool(texts) == blind
    if side == 2:
        assert texts == ["kernels with weights that see nothing but padding: conv_bn_relu 5 on side 2"]


def test_dilation_reaches_further():
    sizes = SIZES | {"operations": ("skip", "dil_conv_5")}
    assert "dil_conv 5 dilated by 2 on side 4" in found(lint(OpSubset(**sizes, input_size=4)), "padding")
    assert lint(OpSubset(**sizes, input_size=5))["findings"] == []


def test_a_head_that_outweighs_what_is_chosen():
    result = lint(OpSubset(**SIZES | {"head_channels": 400}))
    head = 16 * 400 + 2 * 400 + 401 * 100  # convolution, norm, classifier with its bias
    assert f"has {head:,} of {result['costs']['params']['50']:,} params" in found(result, "which no choice changes")


def test_invalid_rows():
    result = lint(Odd(switch=1))
    assert result["invalid_share"] == pytest.approx(23 / 24)
    assert found(result, "invalid") == "100.0% of single changes lead to an invalid row"


def limited(space, share_, name="macs"):
    return {name: int(np.quantile(space.costs(space.sample(5000, np.random.default_rng(0)))[name], share_))}


def test_limits_one_by_one_and_together():
    space = OpSubset()
    limits = {**limited(space, 0.3), **limited(space, 0.6, "params")}
    result = lint(space, limits, wanted=100)
    assert result["limits"]["macs"] == {"limit": limits["macs"], "share": pytest.approx(0.3, abs=0.03)}
    assert result["limits"]["params"]["share"] == pytest.approx(0.6, abs=0.03)
    assert 0.1 < result["feasible_share"] < 0.31
    assert (result["binding"], result["wanted"], result["found"]) == ("macs", 100, 100)
    text = linted(result)
    assert "of the draws; macs is the tightest" in text
    assert "generate.architectures: 100 of 100 found" in text


def test_a_limit_that_leaves_one_in_a_million_shuts_options_out():
    space = OpSubset()
    result = lint(space, {"macs": 8_100_000}, wanted=500)
    assert 5e-7 < result["feasible_share"] < 2e-5
    assert result["found"] == 500
    assert "e-" in linted(result)
    text = found(result, "in none of")
    assert "layer 1 with sep_conv_7" in text  # the 7x7 of the first layer alone costs more than is left
    assert exit_code(result) == 0


def test_a_limit_that_decides_nothing():
    result = lint(CLEAN, {"macs": 10**12})
    assert found(result, "sampled") == "limits.macs: all of 2,000 sampled architectures have at most 1,000,000,000,000"
    assert (result["limits"]["macs"]["share"], result["binding"]) == (1.0, None)


def test_a_limit_below_everything_is_wrong():
    result = lint(CLEAN, {"macs": 10, "params": 10**9}, wanted=5)
    assert "limits.macs: 10 is below the cheapest architecture of op_subset, which needs" in found(
        result, "below", "wrong"
    )
    assert (result["feasible_share"], result["found"], result["binding"], exit_code(result)) == (0.0, 0, "macs", 2)
    assert "macs <= 10: none of the draws" in linted(result)
    assert linted(result).splitlines()[-1] == "1 is wrong, 1 warning"


def test_limits_that_exclude_each_other_are_wrong():
    """Each alone is kept by some: the least of either cost comes with much of the other."""

    class Traded(Odd):
        kind: Literal["traded"] = "traded"

        def costs(self, choices):
            total = choices.sum(axis=1).astype(np.int64)
            return {name: 10 - total if name == "params" else total for name in COST_NAMES}

    result = lint(Traded(), {"macs": 2, "params": 7}, wanted=1)
    assert result["feasible_share"] == 0.0
    assert min(one["share"] for one in result["limits"].values()) > 0
    assert "1 are wanted, 0 networks were found" in found(result, "are wanted", "wrong")


@pytest.mark.parametrize(("wanted", "state"), [(4, None), (5, "warning"), (9, "warning"), (10, "wrong")])
def test_enough_networks_for_the_labels(wanted, state):
    result = lint(CLEAN, wanted=wanted)
    assert [one["state"] for one in result["findings"]] == ([state] if state else [])
    assert result["found"] == min(wanted, 9)
    assert exit_code(result) == (2 if state == "wrong" else 0)


def test_an_unknown_cost_is_refused():
    with pytest.raises(InputError, match="limit 'flops' is unknown; known: macs, conv_macs"):
        lint(CLEAN, {"flops": 3})


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "100.0%"), (0.0123, "1.2%"), (3.2e-7, "3e-7"), (1e-12, "1e-12"), (0.0, "none")]
)
def test_shares_in_words(value, text):
    assert share(value) == text


class TestOfARecipe:
    def test_the_time_that_labels_would_take(self, recipe, tmp_path):
        run = load_run(recipe, logs=tmp_path / "logs")
        result = lint_run(run)
        assert (result["wanted"], result["found"], result["trainings"], result["workers"]) == (14, 14, 14, 1)
        assert result["label_seconds"] > 0
        assert list(result["limits"]) == ["macs"]
        assert "labels: 14 trainings, about" in linted(result)
        assert not (tmp_path / "logs").exists()

    def test_a_wrong_recipe_is_not_timed(self, recipe, tmp_path, monkeypatch):
        monkeypatch.setattr("genas.overview.estimate", lambda run: pytest.fail("timed"))
        result = lint_run(load_run(recipe, ["limits.macs=100"], tmp_path))
        assert (result["label_seconds"], result["wrong"]) == (None, 1)

    def test_images_that_are_not_to_be_had(self, recipe, tmp_path, monkeypatch):
        def fail(run):
            raise UnavailableError("no network")

        monkeypatch.setattr("genas.overview.estimate", fail)
        assert lint_run(load_run(recipe, [], tmp_path))["label_seconds"] is None


class TestCommand:
    def test_of_a_space(self, genas):
        answer = genas("space", "lint", "op_subset", "--set", "classes=10", "--json")
        assert answer.code == 0
        result = json.loads(answer.out)
        assert (result["space"], result["label_seconds"]) == ("op_subset", None)
        assert "992,436,543 architectures of 30 choices" in genas("space", "lint", "op_subset").out

    def test_of_a_recipe_with_a_limit_that_nothing_keeps(self, genas, recipe):
        answer = genas("space", "lint", recipe, "--set", "limits.macs=10")
        assert answer.code == 2
        assert "wrong    limits.macs: 10 is below the cheapest architecture" in answer.out

    def test_of_what_there_is_not(self, genas):
        answer = genas("space", "lint", "op_subsets")
        assert (answer.code, answer.out) == (2, "")
        assert "'op_subsets'" in answer.err


def test_a_space_alone_needs_no_torch():
    code = "import sys; from genas.linting import lint; from supernet import DavidNet; lint(DavidNet(), {}, 20); "
    code += "print({'torch', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_networks_within_the_limits_are_counted_where_there_are_few():
    result = lint(load_space("nasbench_macro", ["classes=10"]).space, {"macs": 12_000_000})
    assert result["distinct"]["within_limits"] == 2  # shortcuts alone, or a 3x3 in the first layer of the second stage
    assert "within the limits: 2 of 3,969 networks" in linted(result)


def test_a_run_of_too_few_labels_is_told(tmp_path):
    recipe = tmp_path / "few.yml"
    recipe.write_text("data: {source: digits}\nspace: {input_size: 8}\ngenerate: {architectures: 9}\n")
    result = lint_run(load_run(recipe, logs=tmp_path))
    assert "9; a predictor wants at least 10" in found(result, "generate.architectures")
