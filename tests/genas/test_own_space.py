"""A space written in Python, which no worker knows, goes through every stage."""

import warnings
from typing import Literal

import pytest

import genas
from genas.config import load_run
from genas.generating import export_table
from supernet import ArchGraph, InputError, SearchSpace, read_table
from supernet.operations import operation

SETTINGS = [
    "generate.architectures=12", "generate.recipe={epochs: 1, batch_size: 64, flip: false}", "retrain.seeds=1",
    "retrain.recipe=null", "fit.predictor.epochs=5", "search.queries=50", "limits={macs: 400_000}", "name=own",
]  # fmt: skip


class Chain(SearchSpace):
    kind: Literal["chain"] = "chain"
    width: int = 8

    @property
    def cardinalities(self):
        return (3, 3, 3)

    def graph(self, architecture):
        self.check(architecture)
        wide, side = self.width, self.input_size
        nodes = [
            operation("input", "input", out=self.input_channels, resolution=side),
            operation("conv_bn_relu6", "stem", in_=self.input_channels, out=wide, kernel=3, stride=1, resolution=side),
        ]
        for number, choice in enumerate(architecture.choices, 1):
            kernel = (3, 5, 7)[choice]
            nodes.append(
                operation("sep_conv", f"block{number}", in_=wide, out=wide, kernel=kernel, stride=1, resolution=side)
            )
        nodes.append(operation("global_mean", "mean", in_=wide, out=wide, resolution=1))
        nodes.append(operation("linear", "classifier", in_=wide, out=self.classes, resolution=1))
        return ArchGraph(tuple(nodes), tuple((at, at + 1) for at in range(len(nodes) - 1)))


def test_an_own_space_goes_through_every_stage(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pydantic tells of values that it did not expect
        run = load_run("quickstart", SETTINGS, tmp_path, space=Chain(input_size=8))
        labels = genas.generate(run)
    assert (labels["trained"], labels["failed"]) == (12, 0)
    assert genas.generate(run)["trained"] == 0
    genas.fit(run)
    found = genas.search(run)
    assert found["evolution"]["best"][0]["macs"] <= 400_000
    assert set(found["evolution"]["best"][0]["architecture"]) <= set("012")
    assert genas.retrain(run)["roles"]["winner"]["mean"] > 0
    assert (run.folder / "winner" / "model.py").exists()
    assert genas.report(run).exists()
    table = tmp_path / "labels.jsonl"
    assert export_table(run.folder, table, Chain(input_size=8, input_channels=1, classes=10)) == 12
    assert len(read_table(table)) == 12
    # From the command line the class is not to be had, which is said.
    with pytest.raises(InputError, match=r"config\.yml:\d+: key 'space\.kind': unknown kind 'chain'"):
        load_run("own", logs=tmp_path)
