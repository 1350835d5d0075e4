import csv

import numpy as np
import pytest

from analysis.mood import MemoryPoint, memory_error, mood_graph, mood_members, mood_table, read_mood
from supernet import InputError, graph_costs
from supernet.pareto import front, hypervolume
from tests.analysis.moods import GENOTYPES, MEMORY, costs, hundred, searched, study, trained, write
from tests.data import TABLES

FOLDER = TABLES / "mood_nas"
needs_data = pytest.mark.skipif(not FOLDER.exists(), reason="the published tables are not here")


@pytest.fixture(scope="module")
def published():
    return read_mood(FOLDER)


def test_a_study_that_agrees_has_no_flaws(tmp_path):
    read = read_mood(write(tmp_path / "mood", study()))
    assert read.flaws == {}
    assert [network.name for network in read.networks] == [*GENOTYPES][:4]
    assert [network.sweep for network in read.networks] == ["l1 + l2 fixed", "l1 + l2 fixed", "l2", "l1 + l2 fixed"]
    assert [point.name for point in read.points] == [*GENOTYPES][:2]
    assert all(point.trained is None for point in read.points)
    assert len(read.memory) == len(MEMORY)
    assert "1 of 5 genotypes are in no table." in read.notes
    assert read.notes[-1] == (
        "Latencies of one network in two tables differ by 9% on the GPU and 9% on the CPU (median of 2)."
    )
    first, *_, last = read.networks
    assert (first.params, first.macs) == costs(first.name)
    assert (first.trained.test_accuracy, first.trained.validation_accuracy, first.search_accuracy) == (0.95, 0.96, 0.8)
    assert (last.data, last.trained.validation_accuracy) == ("cifar100", None)
    params, macs = costs(last.name)
    assert (last.params, last.macs) == (params + 90 * 577, macs + 90 * 576)  # counted with 10 classes, built with 100
    built = graph_costs(mood_graph(last.genotype, "cifar100"))
    assert (last.params, last.macs) == (built.params, built.macs)


def test_members_and_labels_are_of_one_data_set(tmp_path):
    read = read_mood(write(tmp_path / "mood", study()))
    first, *others = mood_members(read, "cifar10")
    assert (first.name, first.series, first.error, first.images) == ("l1_loss_2e04_l2_3e04", "published", 0.05, 10_000)
    assert (first.split, first.note) == ("test", "l1 + l2 fixed, weight 0.002")
    assert first.latency == {"gpu batch not stated": 10.0, "cpu batch not stated": 60.0}
    assert len(others) == 2
    table = mood_table(read, "cifar10")
    assert table.metric("accuracy").tolist() == [0.95, 0.94, 0.9]
    assert table.metric("validation_accuracy").tolist() == [0.96, 0.95, 0.91]
    assert table.metric("latency_gpu").tolist() == [10.0] * 3
    assert table.rows[0].features == {"search_accuracy": 0.8, "search_loss": 0.5}
    assert [graph_costs(row.graph).params for row in table.rows] == [member.params for member in (first, *others)]
    assert mood_table(read, "cifar100").metric_names == sorted({*table.metric_names} - {"validation_accuracy"})
    with pytest.raises(InputError, match=r"no network was trained on 'cifar1'.*Did you mean 'cifar10'"):
        mood_members(read, "cifar1")


@pytest.mark.parametrize(
    ("changed", "flaw"),
    [
        ({"Parameters": 1_000_000}, "Parameters less auxiliary head are 523,574, its genotype builds"),
        ({"FLOPs": 7}, "FLOPs are 7, its genotype has"),
        ({"Size": 9.5}, "its size is said to be 9.5 million parameters, and is"),
        ({"Search accuracy": 61.0}, "the numbers of its search are not those of the search's own table"),
        ({"search_reg_loss": 7.5}, "the numbers of its search are not those of the search's own table"),
    ],
)
def test_a_row_that_disagrees_is_kept_and_told(tmp_path, changed, flaw):
    tables = study()
    tables["trained_cifar10.csv"][0] |= changed
    read = read_mood(write(tmp_path / "mood", tables))
    assert len(read.networks) == 4
    assert list(read.flaws) == ["l1_loss_2e04_l2_3e04"]
    (found,) = read.flaws["l1_loss_2e04_l2_3e04"]
    assert found.startswith(flaw)
    assert (read.networks[0].params, read.networks[0].macs) == costs("l1_loss_2e04_l2_3e04")


def test_a_size_of_a_search_is_exact(tmp_path):
    tables = study()
    tables["searched_cifar10.csv"][0]["Params"] += 1e-6
    assert list(read_mood(write(tmp_path / "mood", tables)).flaws) == ["l1_loss_2e04_l2_3e04"]


def test_a_network_without_a_genotype_has_the_table_s_costs_and_no_row(tmp_path):
    without = {name: one for name, one in GENOTYPES.items() if name not in ("l2_loss_7e03", "another")}
    tables = study()
    tables["trained_cifar100.csv"].append(hundred("l2_loss_7e03", **{"Search acc": 50.0}))
    read = read_mood(write(tmp_path / "mood", tables, without))
    ten, wide = (network for network in read.networks if network.name == "l2_loss_7e03")
    params, macs = costs("l2_loss_7e03")
    assert (ten.params, ten.macs) == (params, macs)
    assert (wide.params, wide.macs) == (params + 90 * 577, macs + 90 * 576)
    assert len(mood_members(read, "cifar10")) == 3
    assert len(mood_table(read, "cifar10")) == 2
    assert read.flaws == {
        "l2_loss_7e03": ["no genotype is published: costs are the table's, and it is in no label table"] * 2
    }


def test_numbers_of_another_s_search_are_told(tmp_path):
    tables = study()
    tables["trained_cifar10.csv"][2]["Search accuracy"] = 80.0
    read = read_mood(write(tmp_path / "mood", tables))
    assert read.flaws == {"l2_loss_7e03": ["the numbers of its search are those of l1_loss_2e04_l2_3e04"]}


@pytest.mark.parametrize(
    ("file", "row", "changed", "said"),
    [
        ("trained_cifar10.csv", 1, {"test_acc": 101}, ":3: test acc: expected a number from 0 to 100, got 101"),
        ("trained_cifar10.csv", 0, {"test_acc": "good"}, ":2: test acc: expected a number .*, got 'good'"),
        ("trained_cifar10.csv", 0, {"test_loss": "nan"}, ":2: test loss: expected a number from 0, got nan"),
        ("trained_cifar10.csv", 0, {"Latency CPU": "inf"}, ":2: latency cpu: expected a number from 0, got inf"),
        ("trained_cifar10.csv", 0, {"Parameters": 1.5}, ":2: parameters: expected a whole number, got 1.5"),
        ("trained_cifar10.csv", 0, {"Model name": "l3_loss_1"}, ":2: model name 'l3_loss_1': expected such as l1_loss"),
        ("trained_cifar10.csv", 0, {"Model name": ""}, ":2: model name '': expected"),
        ("searched_cifar10.csv", 1, {"Model name": "L1_loss_2e04"}, ":3: network .* was given in .*:2 already"),
        ("memory.csv", 3, {"GPU mb": 0}, ":5: gpu mb: expected a number from 1, got 0"),
        ("memory.csv", 3, {"batch size": "x"}, ":5: batch size: expected a number from 0, got 'x'"),
    ],
)  # fmt: skip
def test_a_wrong_number_is_refused_with_its_line(tmp_path, file, row, changed, said):
    tables = study()
    tables[file][row] = tables[file][row] | changed
    with pytest.raises(InputError, match=f"{file}{said}"):
        read_mood(write(tmp_path / "mood", tables))


@pytest.mark.parametrize(
    ("tables", "genotypes", "said"),
    [
        ({"odd_cifar10.csv": [{"a": 1}]}, GENOTYPES, "odd_cifar10.csv:2: column 'model name' is missing"),
        ({"odd.csv": [trained("l2_loss_7e03")]}, GENOTYPES, "odd.csv:2: the file's name says no data set"),
        ({"memory.csv": MEMORY}, GENOTYPES, "no table of trained networks"),
        ({}, GENOTYPES, "no table of trained networks"),
        (study(), "{", "genotypes.json: no valid JSON"),
        (study(), "[]", "genotypes.json: expected an object of genotypes by name, got list"),
        (study(), '{"a": 3}', "genotypes.json: 'a': genotype 3: expected the keys"),
        (study(), '{"a": {"normal": []}}', "genotypes.json: 'a': genotype .*: expected the keys"),
        ({"a_cifar10.csv": [searched("l1_loss_2e04_l2_3e04")]}, GENOTYPES, "no table of trained networks"),
    ],
)
def test_a_folder_that_is_no_study_is_refused(tmp_path, tables, genotypes, said):
    with pytest.raises(InputError, match=said):
        read_mood(write(tmp_path / "mood", tables, genotypes))


def test_a_missing_column_and_a_missing_file_are_named(tmp_path):
    tables = study()
    for row in tables["trained_cifar10.csv"]:
        row.pop("FLOPs")
    with pytest.raises(InputError, match="column 'flops' is missing"):
        read_mood(write(tmp_path / "mood", tables))
    with pytest.raises(InputError, match=r"genotypes\.json: the genotypes cannot be read"):
        read_mood(tmp_path)


def test_memory_that_is_linear_is_foretold_exactly():
    points = [MemoryPoint(row["model size"], row["batch size"], row["GPU mb"]) for row in MEMORY]
    assert memory_error(points) == pytest.approx(0, abs=1e-9)
    off = [*points[:-1], MemoryPoint(points[-1].millions, points[-1].batch, points[-1].megabytes * 1.5)]
    rest = np.array([(one.millions, one.batch, one.megabytes) for one in off])
    design = np.c_[np.ones(len(off)), rest[:, 0], rest[:, 1], rest[:, 0] * rest[:, 1]]
    errors = []
    for place in range(len(off)):  # by fitting as often as there are points
        kept = np.arange(len(off)) != place
        found = np.linalg.lstsq(design[kept], rest[kept, 2], rcond=None)[0]
        errors.append(abs(design[place] @ found / rest[place, 2] - 1))
    assert memory_error(off) == pytest.approx(np.mean(errors))
    with pytest.raises(InputError, match="expected at least 6 points, got 5"):
        memory_error(points[:5])


@needs_data
def test_the_published_tables_agree_with_their_genotypes(published):
    """Every parameter and MAC of 74 rows but those of the one network without a genotype."""
    assert len(published.genotypes) == 69
    assert [sum(one.data == data for one in published.networks) for data in ("cifar10", "cifar100")] == [37, 6]
    assert [sum(one.data == data for one in published.points) for data in ("cifar10", "cifar100")] == [12, 19]
    assert published.flaws == {
        "l2_loss_6e02": [
            "no genotype is published: costs are the table's, and it is in no label table",
            "the numbers of its search are those of l2_loss_1e01",
        ]
    }
    assert len(mood_table(published, "cifar10")) == 36
    assert len(mood_table(published, "cifar100")) == 6
    for network in (*published.networks, *published.points):
        if network.genotype is not None:
            built = graph_costs(mood_graph(network.genotype, network.data))
            assert (network.params, network.macs) == (built.params, built.macs)


@needs_data
def test_parameters_are_those_of_the_tables_read_without_us(published):
    found = {(one.name, one.data): one.params for one in published.points}
    tables = {"20210815-160715_l1_l2_fix_cifar10": "cifar10", "20220716-171022_l1_l2_fix_cifar100": "cifar100"}
    for path, data in tables.items():
        with (FOLDER / f"logs_multi-search-EXP-{path}.csv").open() as lines:
            for row in csv.DictReader(lines):
                name = f"l{row['Model name'][1:]}_l2_3e04" + "_cifar100" * (data == "cifar100")
                assert found.pop((name, data)) == round(float(row["Params"]) * 1e6)
    assert found == {}


@needs_data
def test_the_published_hypervolume(published):
    members = mood_members(published, "cifar10")
    plane = np.array([(member.params / 1e6, 100 * member.error) for member in members])
    assert hypervolume(plane, np.array([5.0, 15.0])) == pytest.approx(39.06, abs=0.005)
    on_front = [members[place] for place in front(plane)]
    assert len(on_front) == 12
    assert (on_front[-1].name, on_front[-1].params, on_front[-1].error) == ("l2_loss_9e04", 3_807_694, 0.0292)
    # Each sweep alone is worth less.
    alone = [
        hypervolume(plane[[member.note.startswith(f"{sweep},") for member in members]], np.array([5.0, 15.0]))
        for sweep in ("l1 + l2 fixed", "l1", "l2")
    ]
    assert alone == pytest.approx([38.44, 36.40, 35.08], abs=0.005)


@needs_data
def test_published_accuracies_are_of_whole_pictures(published):
    """45,000 to train on, 5,000 to validate and 10,000 to test; of CIFAR-100 all 50,000 to train on."""
    for network in published.networks:
        training = network.trained
        pictures = {training.test_accuracy: 10_000, training.train_accuracy: 45_000}
        if network.data == "cifar100":
            pictures[training.train_accuracy] = 50_000
        else:
            pictures[training.validation_accuracy] = 5_000
        for accuracy, count in pictures.items():
            assert accuracy * count == pytest.approx(round(accuracy * count), abs=0.05)


@needs_data
def test_published_memory_is_linear_in_batch_and_parameters(published):
    assert len(published.memory) == 28
    assert memory_error(published.memory) == pytest.approx(0.040, abs=0.0005)
