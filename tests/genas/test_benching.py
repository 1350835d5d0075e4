import csv
import json
from functools import partial

import numpy as np
import pytest
from typer.testing import CliRunner

from genas.benching import bench, search_table, summary
from genas.cli import app
from genas.tabular import DATASETS, read_tabular
from genas.words import benched
from supernet import InputError, NasBench201, architectures
from supernet.nasbench201 import every_choice, indices
from tests.data import TABLES

SPACE = NasBench201()
ROWS = every_choice()
TEXTS = [SPACE.format(architecture) for architecture in architectures(SPACE, ROWS)]
PUBLISHED = TABLES / "nasbench201.csv"
needs_table = pytest.mark.skipif(not PUBLISHED.exists(), reason="the published table is not there")


def numbers():
    """Columns of a made-up table: deep and wide is good, short trainings and proxies tell of it with noise."""
    random = np.random.default_rng(0)
    size = np.log(SPACE.costs(ROWS)["macs"])
    true = (size - size.min()) / np.ptp(size) + 0.1 * random.normal(size=len(ROWS))
    columns = {}
    for dataset in DATASETS:
        columns[f"{dataset}_test_mean"] = 50 + 40 * np.tanh(true)
        columns[f"{dataset}_val12"] = 30 + 40 * np.tanh(true + 0.05 * random.normal(size=len(ROWS)))
        columns[f"{dataset}_val12_seconds"] = np.full(len(ROWS), 100.0)
        columns[f"{dataset}_synflow"] = np.exp(30 * (true + 0.2 * random.normal(size=len(ROWS))))
        columns[f"{dataset}_hook_logdet"] = np.where(true < 0, -np.inf, true)
        columns[f"{dataset}_snip"] = np.maximum(true, 0)
    return columns


COLUMNS = numbers()


def write(path, columns, texts=TEXTS, order=None):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["idx", "arch", "canonical", *columns])
        for place in range(len(texts)) if order is None else order:
            writer.writerow([place, texts[place], "", *(f"{column[place]:.9g}" for column in columns.values())])
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    order = np.random.default_rng(1).permutation(len(TEXTS))
    return write(tmp_path_factory.mktemp("tables") / "made_up.csv", COLUMNS, order=order)


@pytest.fixture(scope="module")
def table(path):
    return read_tabular(path)


@pytest.fixture
def search(table):
    return partial(
        search_table, table, "cifar10", score="val12", budget=20, warmup=0, warmup_score="synflow", proxies=()
    )


class TestReader:
    def test_rows_come_back_in_the_order_of_the_space(self, table):
        np.testing.assert_allclose(table.column("cifar100_val12"), COLUMNS["cifar100_val12"], rtol=1e-8)
        assert set(table.columns) == set(COLUMNS)
        some = ROWS[[7, 15_624, 0]]
        np.testing.assert_allclose(
            table.values("cifar10", "snip", some), COLUMNS["cifar10_snip"][[7, 15_624, 0]], rtol=1e-8
        )
        assert table.values("cifar10", "macs", some).tolist() == SPACE.costs(some)["macs"].tolist()

    def test_infinite_numbers_are_kept(self, table):
        assert np.isneginf(table.column("cifar10_hook_logdet")).any()

    def test_a_column_that_there_is_not(self, table):
        with pytest.raises(InputError, match=r"no column 'cifar10_val21'; .*Did you mean 'cifar10_val12'"):
            table.column("cifar10_val21")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "expected a CSV with a column 'arch', got ''"),
            ("idx,architecture\n", "expected a CSV with a column 'arch', got 'idx, architecture'"),
            (f"arch,x\n{TEXTS[0]},1\n", "expected all 15,625 networks, got 1"),
            ("arch,x\n", "expected all 15,625 networks, got 0"),
            (f"arch,x\n{TEXTS[3]},1\n{TEXTS[0]},1\n{TEXTS[3]},2\n", "small.csv:4: this network is there twice"),
            (f"arch,x\n{TEXTS[0]}\n", "small.csv:2: expected 2 columns, got 1"),
            (f"arch,x\n{TEXTS[0]},1\nnone,1\n", "small.csv:3: architecture 'none': expected 1, 2 and 3 edges"),
        ],
    )
    def test_tables_that_are_wrong(self, tmp_path, text, message):
        path = tmp_path / "small.csv"
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_tabular(path)

    @pytest.mark.parametrize("bad", ["", "high", "nan"])
    def test_a_number_that_is_none_is_named_by_its_line(self, tmp_path, bad):
        values = ["1"] * len(TEXTS)
        values[41] = bad
        path = tmp_path / "bad.csv"
        lines = [f"{text},{value}" for text, value in zip(TEXTS, values, strict=True)]
        path.write_text("\n".join(["arch,x", *lines]))
        with pytest.raises(InputError, match=f"bad.csv:43: column 'x': expected a number, got '{bad}'"):
            read_tabular(path)

    def test_a_file_that_there_is_not(self, tmp_path):
        with pytest.raises(InputError, match=r"nothing.csv: the table cannot be read"):
            read_tabular(tmp_path / "nothing.csv")


class TestAccounts:
    def test_trainings_are_counted_and_timed(self, search):
        trial = search("random", seed=[0, 0])
        assert (trial.evaluations, trial.proxy_calls, trial.seconds) == (20, 0, 2000.0)

    def test_every_call_of_the_warm_up_is_counted(self, search):
        assert search("aging", warmup=300, seed=[0, 0]).proxy_calls == 300
        assert search("aging", warmup=300, warmup_score="params", seed=[0, 0]).proxy_calls == 0

    def test_proxies_of_the_model_are_counted_besides(self, search):
        trial = search("model", warmup=300, proxies=("synflow", "snip"), seed=[0, 0])
        assert trial.proxy_calls >= 600
        assert trial.proxy_calls % 2 == 0  # what joined later is seen by both
        assert search("model", proxies=("snip",), seed=[0, 0]).proxy_calls == 6_466

    def test_a_proxy_as_the_score_is_no_training(self, search):
        trial = search("random", score="hook_logdet", seed=[0, 0])
        assert (trial.evaluations, trial.proxy_calls, trial.seconds) == (20, 20, 0.0)
        trial = search("random", score="macs", seed=[0, 0])
        assert (trial.evaluations, trial.proxy_calls, trial.seconds) == (20, 0, 0.0)

    def test_the_pick_is_the_best_by_the_score(self, search):
        """Paid for to the end, the largest network is found by its MACs."""
        trial = search("evolution", score="macs", budget=300, seed=[0, 0])
        kept = SPACE.canonical(ROWS)
        largest = kept[SPACE.costs(kept)["macs"].argmax()]
        expected = COLUMNS["cifar10_test_mean"][indices(largest[None])][0] / 100
        assert trial.accuracy == pytest.approx(expected)

    def test_the_test_accuracy_chooses_nothing(self, table, search):
        """Other test accuracies, the same search."""
        trials = [search("model", warmup=100, proxies=("synflow",), seed=[0, number]) for number in range(2)]
        columns = {**table.columns, "cifar10_test_mean": np.zeros(15_625)}
        blind = type(table)(table.path, columns)
        for number, trial in enumerate(trials):
            again = search_table(blind, "cifar10", "model", "val12", 20, 100, "synflow", ("synflow",), [0, number])
            assert again.accuracy == 0
            assert (again.evaluations, again.proxy_calls) == (trial.evaluations, trial.proxy_calls)

    def test_a_summary(self, table, search):
        trials = [search("random", seed=[0, number]) for number in range(4)]
        result = summary(table, "cifar10", trials)
        accuracies = [trial.accuracy for trial in trials]
        assert result["accuracy"] == pytest.approx(np.mean(accuracies))
        assert result["standard_deviation"] == pytest.approx(np.std(accuracies, ddof=1))
        assert result["optimum"] == pytest.approx(COLUMNS["cifar10_test_mean"].max() / 100)
        assert result["regret"] == pytest.approx(result["optimum"] - result["accuracy"])
        assert result["evaluations"] == 20
        assert summary(table, "cifar10", trials[:1])["standard_deviation"] == 0


class TestBench:
    @pytest.fixture(autouse=True)
    def _read_once(self, table, monkeypatch):
        monkeypatch.setattr("genas.benching.read_tabular", lambda path: table)

    def test_all_data_sets_or_one(self, path):
        one = bench("nasbench201", path, "random", dataset="cifar100", budget=5, trials=2)
        every = bench("nasbench201", path, "random", budget=5, trials=2)
        assert list(every["datasets"]) == list(DATASETS)
        assert every["datasets"]["cifar100"] == one["datasets"]["cifar100"]
        assert bench("nasbench201", path, "random", budget=5, trials=2, seed=1) != every

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"space": "op_subset"}, "space 'op_subset' is unknown; known: nasbench201"),
            ({"strategy": "ageing"}, r"strategy 'ageing' is unknown; .*Did you mean 'aging'"),
            ({"score": "val_12"}, r"score 'val_12' is unknown; .*Did you mean 'val12'"),
            ({"score": "test_mean"}, "score 'test_mean' is unknown"),
            ({"dataset": "cifar"}, "dataset 'cifar' is unknown"),
            ({"warmup_score": "val12"}, "warmup score 'val12' is unknown"),
            ({"proxies": ["sinflow"]}, r"proxy 'sinflow' is unknown; .*Did you mean 'synflow'"),
            ({"strategy": "aging", "proxies": ["snip"]}, "strategy 'aging' looks at no proxies"),
            ({"budget": 0}, "budget is 0; expected at least 1"),
            ({"trials": 0}, "trials is 0; expected at least 1"),
            ({"warmup": -1}, "warmup is -1; expected at least 0"),
            ({"seed": -1}, "seed is -1; expected at least 0"),
            ({"warmup": 7000, "trials": 1}, "found 6466 distinct architectures"),
        ],
    )
    def test_questions_that_make_no_sense(self, path, changes, message):
        with pytest.raises(InputError, match=message):
            bench(**{"space": "nasbench201", "table": path, "budget": 3, **changes})

    def test_the_command(self, path):
        arguments = [
            "bench", "nasbench201", "--table", str(path), "--strategy", "model", "--budget", "15", "--warmup", "50",
            "--proxy", "synflow", "--proxy", "snip", "--dataset", "cifar10", "--trials", "2",
        ]  # fmt: skip
        answer = CliRunner().invoke(app, [*arguments, "--json"])
        assert answer.exit_code == 0, answer.output
        result = json.loads(answer.stdout)
        assert result["datasets"]["cifar10"]["evaluations"] == 15
        assert (result["warmup"], result["proxies"]) == (50, ["synflow", "snip"])
        words = CliRunner().invoke(app, arguments).stdout
        assert words.rstrip() == benched(result)
        assert "best of 50 random networks by synflow" in words
        assert "the model sees synflow, snip" in words
        assert f"{result['datasets']['cifar10']['accuracy']:.2%}" in words


@pytest.fixture(scope="module")
def published():
    return read_tabular(PUBLISHED)


@needs_table
class TestPublishedTable:
    def means(self, table, strategy, warmup, trials=40):
        result = []
        for dataset in DATASETS:
            found = [
                search_table(table, dataset, strategy, "val12", 50, warmup, "synflow", (), [0, number])
                for number in range(trials)
            ]
            result.append(summary(table, dataset, found)["accuracy"] * 100)
        return result

    def test_optima(self, published):
        best = [published.column(f"{dataset}_test_mean").max() for dataset in DATASETS]
        assert np.round(best, 2).tolist() == [94.37, 73.51, 47.31]

    @pytest.mark.parametrize(
        ("strategy", "warmup", "expected"),
        [
            ("random", 0, (93.39, 70.47, 44.00)),
            ("aging", 0, (93.76, 71.48, 45.23)),
            ("aging", 1000, (94.11, 72.44, 45.89)),
        ],
    )
    def test_means_are_near_the_published_ones(self, published, strategy, warmup, expected):
        means = self.means(published, strategy, warmup)
        assert np.abs(np.subtract(means, expected)).max() < 0.7
        assert abs(means[0] - expected[0]) < 0.25

    def test_the_model_with_proxies_finds_more(self, published):
        for dataset, rival in zip(DATASETS, (94.11, 72.44, 45.89), strict=True):
            found = [
                search_table(
                    published, dataset, "model", "val12", 50, 1000, "synflow", ("synflow", "hook_logdet"), [0, number]
                )
                for number in range(8)
            ]
            assert summary(published, dataset, found)["accuracy"] * 100 > rival
            assert all(trial.evaluations == 50 and trial.proxy_calls < 2_500 for trial in found)
