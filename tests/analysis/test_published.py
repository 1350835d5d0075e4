import csv
import json

import pytest

from analysis.published import (
    HALF_FLAW,
    import_study,
    join_checks,
    label_table,
    network_graph,
    read_published,
    repeats,
)
from analysis.study import TRAINING_FLAW, trends
from supernet import InputError, graph_costs, read_table
from tests.data import TABLES
from training.corruption_names import CORRUPTIONS, EXTRA

SOURCE = TABLES / "random_families_cifar10c.csv"
RESNET = (
    "[['input', 0, 0], ['S_SepBlock_32_5', 0, 0], ['S_ResBlock_16_3', 0, 0], ['Max_Pool', 1, 1], "
    "['S_ResBlock_64_5', 2, 2], ['full', 3, 3]]"
)
DENSENET = "[['input', 0], ['S_DenseBlock_32_12_3', 0], ['S_DenseBlock_16_6_3', 1], ['full', 2]]"


def line(family="densenet", **more):
    arch, convolutions, depth = (DENSENET, 37, 3) if family == "densenet" else (RESNET, 8, 5)
    values = {
        "family": family, "run": 0, "num_train": 1000, "num_depth": depth, "num_conv_layers": convolutions,
        "normal": 448 / 896, **dict.fromkeys(CORRUPTIONS, 0.4), **dict.fromkeys(EXTRA, 0.1), "arch": arch,
    }  # fmt: skip
    return values | more


def write(path, *rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_row_is_what_was_computed(tmp_path):
    study = read_published(write(tmp_path / "a.csv", line(), line("resnet"), line(run=1, num_train=50000)))
    dense, res, whole = study.runs
    assert dense.architecture == "dense32x12x3 dense16x6x3"
    assert (dense.key, dense.convolutions) == ("densenet-1000-0", 37)
    assert dense.flaws == ("clean accuracy is of 896 pictures only",)
    assert res.architecture == "sep32x5 max"
    assert res.convolutions == 4
    assert HALF_FLAW in res.flaws
    assert whole.flaws == (TRAINING_FLAW,)
    for run in study.runs:
        costs = graph_costs(network_graph(run))
        assert (run.macs, run.params) == (costs.macs, costs.params)


def test_a_label_table_has_all_metrics(tmp_path):
    study = read_published(write(tmp_path / "a.csv", line(), line("resnet"), line(run=1, num_train=50000)))
    table = label_table(study, 1000)
    assert len(table) == 2
    assert len(table.metric_names) == 3 + 19
    assert table.metric("relative_robustness") == pytest.approx([0.8, 0.8])
    assert table.metric("robust_accuracy") == pytest.approx([0.4, 0.4])
    assert [row.id for row in label_table(study, 1000, "resnet").rows] == ["resnet-1000-0"]
    assert "accuracy" not in label_table(study, 50000).metric_names
    with pytest.raises(InputError, match="no network of family 'vgg' with 1000"):
        label_table(study, 1000, "vgg")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"normal": 1.2}, r"a\.csv:3: normal: expected an accuracy from 0 to 1, got 1\.2"),
        ({"fog": "nan"}, r"a\.csv:3: fog: expected an accuracy"),
        ({"fog": "x"}, r"a\.csv:3: fog: expected an accuracy"),
        ({"num_train": "many"}, r"a\.csv:3: num_train: expected a whole number"),
        ({"run": -1}, r"a\.csv:3: run: expected a whole number from 0"),
        ({"family": "desnet"}, r"a\.csv:3: family 'desnet' does not exist.*Did you mean 'densenet'"),
        ({"arch": "[["}, r"a\.csv:3: architecture"),
        ({"arch": DENSENET.replace("_32_", "_33_")}, r"a\.csv:3: .*S_DenseBlock_33_12_3"),
        ({"run": 0}, r"a\.csv:3: run 'densenet-1000-0' was given in line 2 already"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, more, message):
    path = write(tmp_path / "a.csv", line(), line(run=1) | more)
    with pytest.raises(InputError, match=message):
        read_published(path)


def test_a_wrong_table_is_named(tmp_path):
    short = {name: value for name, value in line().items() if name != "fog"}
    with pytest.raises(InputError, match=r"a\.csv:1: column 'fog' is missing"):
        read_published(write(tmp_path / "a.csv", short))
    with pytest.raises(InputError, match="cannot be read"):
        read_published(tmp_path / "none.csv")
    path = write(tmp_path / "a.csv", line())
    path.write_text(path.read_text().splitlines()[0])
    with pytest.raises(InputError, match="no rows"):
        read_published(path)


def test_a_published_number_that_is_not_its_lists_is_a_flaw(tmp_path):
    study = read_published(write(tmp_path / "a.csv", line(num_conv_layers=38)))
    assert "num_conv_layers is 38, its architecture lists 37" in study.runs[0].flaws


def test_a_join_that_slipped_is_seen(tmp_path):
    """Accuracies go with depth; shifted by three rows against the architectures they do so at that offset alone."""
    lists = [
        "[['input', 0], " + ", ".join(f"['S_DenseBlock_32_{3 * (1 + number * 7 % 4)}_3', {place}]"
        for place in range(1 + number * 5 % 6)) + f", ['full', {1 + number * 5 % 6}]]"
        for number in range(40)
    ]  # fmt: skip
    depth = [sum(int(part.split("_")[3]) for part in text.split("'") if part.startswith("S_")) for text in lists]

    def checked(shift):
        rows = [
            line(run=number, num_conv_layers=1 + 2 * depth[number], arch=lists[number],
                 normal=0.6 - 0.004 * depth[(number + shift) % 40])
            for number in range(40)
        ]  # fmt: skip
        return join_checks(read_published(write(tmp_path / "a.csv", *rows)))[0]

    assert checked(0).explained == pytest.approx(1)
    assert checked(0).spearman == pytest.approx(-1)
    slipped = checked(3)
    assert slipped.explained < 0.9 < slipped.shifted


def test_an_import_writes_all_of_it(tmp_path):
    source = write(tmp_path / "a.csv", *(line(run=number, normal=(300 + number) / 896) for number in range(6)),
                   *(line("resnet", run=number, normal=(400 + number) / 896) for number in range(6)))  # fmt: skip
    found = import_study(source, tmp_path / "out")
    assert found["networks"] == 12
    assert found["groups"] == {"densenet-1000": 6, "resnet-1000": 6}
    assert found["flaws"][HALF_FLAW] == 6
    json.dumps(found)
    assert all((tmp_path / "out" / name).is_file() for name in found["files"])
    assert len(read_table(tmp_path / "out" / "labels-1000.jsonl")) == 12
    assert len(read_table(tmp_path / "out" / "labels-resnet-1000.jsonl")) == 6
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("computed for nothing") < page.index("What they say")


@pytest.mark.skipif(not SOURCE.is_file(), reason="the published table is not here")
def test_the_published_table():
    study = read_published(SOURCE)
    assert len(study.runs) == 3653
    assert sum(HALF_FLAW in run.flaws for run in study.runs) == 1910
    assert sum(TRAINING_FLAW in run.flaws for run in study.runs) == 227
    assert not any(flaw.startswith("num_conv") for run in study.runs for flaw in run.flaws)
    assert any("384 at 500, 896 at 1,000" in note for note in study.notes)
    checks = join_checks(study)
    assert len(checks) == 11
    assert all(check.explained > 2 * check.shifted for check in checks)
    (again,) = repeats(study)
    assert again.pairs == 38
    assert again.correlation == pytest.approx(0.689, abs=0.001)
    deep = {(trend.family, trend.train_images): trend for trend in trends(study, resamples=20)}
    assert deep["densenet", 1000].spearman == pytest.approx(-0.645, abs=0.001)
    assert deep["resnet", 500].spearman_ci95[1] < 0
