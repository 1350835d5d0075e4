import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

import genas as package
from data_gen import plan, read_store
from genas.cli import _stopped, app
from genas.config import load_run
from genas.generating import export_table
from genas.stages import resolve
from supernet import InputError, read_table

WINNER = "111000 011101 111111 111111 011101"
HEAVY = {"torch", "numpy", "pydantic", "yaml", "scipy", "sklearn", "matplotlib", "supernet", "genas.config"}


def imported(code, *arguments):
    """Which heavy modules a fresh process has after some code."""
    text = f"import sys\n{code}\nprint(*sorted({HEAVY!r} & sys.modules.keys()) or ['none'])"
    answer = subprocess.run([sys.executable, "-c", text, *arguments], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


class TestImports:
    def test_help_is_quick_because_nothing_heavy_is_imported(self):
        code = "from genas.cli import main\ntry:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code"
        out = imported(code, "--help")
        stages = ("run", "generate", "fidelity", "fit", "search", "retrain", "report")
        for command in (*stages, "status", "cost", "evaluate", "memory", "doctor"):
            assert f"\n  {command} " in out
        assert "export-table" in out
        assert out.endswith("none\n")

    def test_the_package_is_lazy(self):
        assert imported("import genas") == "none\n"

    def test_every_public_name_is_there(self):
        assert sorted(package.__all__) == package.__all__
        for name in package.__all__:
            assert callable(getattr(package, name))
        with pytest.raises(AttributeError, match="no attribute 'generates'"):
            package.generates  # noqa: B018

    def test_commands_have_the_names_of_the_functions(self):
        names = {command.name or command.callback.__name__ for command in app.registered_commands}
        assert {name.replace("-", "_") for name in names} - {"run"} <= set(package.__all__)

    def test_every_command_has_help(self):
        for command in app.registered_commands:
            name = command.name or command.callback.__name__
            result = CliRunner().invoke(app, [name, "--help"])
            assert result.exit_code == 0
            assert name in result.output


@pytest.fixture(scope="module")
def table(finished, tmp_path_factory):
    """The labels of the finished run as a file."""
    path = tmp_path_factory.mktemp("table") / "labels.jsonl"
    export_table(finished.run.folder, path)
    return path


@pytest.fixture
def logs(finished):
    return finished.run.folder.parent


def run_copy(finished, tmp_path):
    shutil.copytree(finished.run.folder, tmp_path / "logs" / "tiny")
    return tmp_path / "logs"


class TestAnswers:
    def test_cost(self, genas):
        answer = genas("cost", "op_subset", "--arch", WINNER, "--json")
        assert answer.code == 0
        assert json.loads(answer.out)["conv_macs"] == 14_461_696
        text = genas("cost", "op_subset", "--arch", WINNER.replace(" ", "")).out
        assert "14,461,696" in text
        assert "1 MAC = 2 FLOPs" in text

    def test_cost_of_another_space(self, genas):
        answer = genas("cost", "davidnet", "--arch", "128r-max 256-max 512r-max", "--set", "classes=10", "--json")
        assert (answer.code, json.loads(answer.out)["params"]) == (0, 6_573_849)

    @pytest.mark.filterwarnings("ignore:distutils:DeprecationWarning")
    def test_cost_beside_other_counters(self, genas):
        result = json.loads(genas("cost", "op_subset", "--arch", WINNER, "--compare", "--json").out)
        assert list(result["compare"]) == ["torch", "thop", "fvcore"]
        assert result["compare"]["torch"]["macs"] == result["macs"]
        text = genas("cost", "op_subset", "--arch", WINNER, "--compare").out
        assert f"{result['compare']['thop']['macs']:,}" in text
        assert "batch norms, 4 a value" in text

    def test_status(self, genas, logs, finished):
        result = json.loads(genas("status", "tiny", "--logs", logs, "--json").out)
        assert result["run"] == "tiny"
        assert list(result["stages"]) == ["generate", "fit", "search", "retrain", "report"]
        by_folder = json.loads(genas("status", finished.run.folder, "--json").out)
        assert by_folder == result
        text = genas("status", "tiny", "--logs", logs).out
        assert "14 of 14 trained" in text
        winner = finished.results["search"]["evolution"]["best"][0]["architecture"]
        assert f"winner {winner}" in text
        # What status prints is what cost takes.
        assert genas("cost", "tiny", "--logs", logs, "--arch", winner).code == 0

    def test_export_table(self, genas, logs, finished):
        answer = genas("export-table", "tiny", "--logs", logs, "--out", "new/labels.jsonl")
        assert (answer.code, answer.out) == (0, "new/labels.jsonl: 14 architectures\n")
        table = read_table(Path("new/labels.jsonl"))
        store = read_store(finished.run.store)
        try:
            labels = {result.job.architecture.key: result.accuracy for result in store.results("generate")}
        finally:
            store.close()
        assert {row.id: row.metrics["accuracy"] for row in table.rows} == labels

    def test_evaluate(self, genas, table):
        answer = genas("evaluate", table, "--metric", "accuracy", "--train-size", 10, "--trials", 2, "--json")
        assert (answer.code, answer.err) == (0, "")
        result = json.loads(answer.out)
        assert (result["metric"], result["train_size"], result["test_size"], result["trials"]) == ("accuracy", 10, 4, 2)
        assert list(result["models"]) == ["hybrid", "graph", "gp", "ridge", "trees", "mlp", "macs"]
        for model in result["models"].values():
            assert list(model)[:5] == ["tau", "tau_std", "tau_ci95", "fit_seconds", "scored_per_second"]
            assert len(model["tau_ci95"]) == 2

    def test_evaluate_some_models_on_a_given_split(self, genas, table, tmp_path):
        names = [row.id for row in read_table(table).rows]
        split = tmp_path / "split.csv"
        split.write_text(
            "".join(["id,split\n", *(f"{name},{'test' if i % 2 else 'train'}\n" for i, name in enumerate(names))])
        )
        options = ("--trials", 1, "--models", "gp,macs", "--json")
        answer = genas("evaluate", table, "--split-file", split, *options)
        assert (answer.code, answer.err) == (0, "")
        result = json.loads(answer.out)
        assert (list(result["models"]), result["train_size"], result["test_size"]) == (["gp", "macs"], 7, 7)
        split.write_text("id,split\nnobody,train\n")
        answer = genas("evaluate", table, "--split-file", split, *options)
        assert answer.code == 2
        assert "the table has no row 'nobody'" in answer.err

    def test_fit_to_a_folder_and_predict(self, genas, table, tmp_path):
        home = tmp_path / "predictor"
        quick = ("--set", "fit.model=gp", "--set", "fit.splits=1")
        answer = genas("fit", table, "--out", home, *quick)
        assert (answer.code, answer.err) == (0, "")
        assert f"Next: genas predict {home} TABLE.jsonl" in answer.out
        assert sorted(path.name for path in home.glob("predictor*")) == ["predictor.json", "predictor.safetensors"]
        answer = genas("predict", home, table, "--json")
        entries = json.loads(answer.out)["architectures"]
        assert [entry["id"] for entry in entries] == [row.id for row in read_table(table).rows]
        for entry in entries:
            value = entry["metrics"]["accuracy"]
            assert value["interval"][0] <= value["predicted"] <= value["interval"][1]
            assert value["distance"] == pytest.approx(0, abs=1e-3)
        answer = genas("predict", home, table, "--out", tmp_path / "new.csv")
        assert "accuracy of 14 architectures, largest first; 80% interval" in answer.out
        written = (tmp_path / "new.csv").read_text().splitlines()
        assert written[0] == "id,accuracy,accuracy_low,accuracy_high,accuracy_distance"
        assert len(written) == 15
        for wrong in (
            ("predict", tmp_path / "nothing", table),
            ("predict", home, table, "--level", 1),
            ("predict", home, table, "--out", "x.txt"),
        ):
            assert genas(*wrong).code == 2

    def test_fit_of_several_metrics(self, genas, table, tmp_path):
        home = tmp_path / "predictors"
        metrics = ("--metric", "accuracy", "--metric", "seconds")
        if "seconds" not in read_table(table).metric_names:
            metrics = ("--metric", "accuracy", "--metric", read_table(table).metric_names[-1])
        answer = genas("fit", table, *metrics, "--out", home, "--set", "fit.model=ridge", "--set", "fit.splits=1")
        assert (answer.code, answer.err) == (0, "")
        answer = genas("predict", home, table, "--json")
        names = {metrics[1], metrics[3]}
        assert set(json.loads(answer.out)["architectures"][0]["metrics"]) == names
        assert genas("fit", table, *metrics).code == 2  # a search has one

    def test_every_stage_of_a_finished_run_answers_what_it_found(self, genas, finished, tmp_path):
        logs = run_copy(finished, tmp_path)
        for stage in ("fit", "search", "retrain"):
            answer = genas(stage, "tiny", "--logs", logs, "--json")
            assert (answer.code, answer.err) == (0, "")
            assert json.loads(answer.out) == finished.results[stage]
        answer = genas("run", "tiny", "--logs", logs)
        assert answer.code == 0
        assert "14 trainings planned, 14 found, 0 trained" in answer.out
        assert f"Report:  {logs / 'tiny' / 'report.html'}" in answer.out
        assert f"Network: {logs / 'tiny' / 'winner' / 'model.py'}" in answer.out
        assert "generate: 14 of 14" in answer.err  # plain lines where there is no terminal
        assert genas("report", "tiny", "--logs", logs).out == f"Report: {logs / 'tiny' / 'report.html'}\n"

    def test_fidelity(self, genas, finished, tmp_path):
        logs = run_copy(finished, tmp_path)
        settings = ("--set", "fidelity={architectures: 3, settings: {short: {epochs: 1}}}", "--logs", logs)
        answer = genas("fidelity", "tiny", *settings)
        assert answer.code == 0
        assert "on 3 architectures" in answer.out
        assert f"Saved in {logs / 'tiny' / 'fidelity.json'}.\n" in answer.out
        picked = "pick: short" in answer.out
        assert (
            picked == ("Next: genas fidelity tiny --setting short --all" in answer.out) == ("no pick" not in answer.out)
        )
        assert "short: 3 of 3" in answer.err
        again = genas("fidelity", "tiny", *settings, "--json")
        assert (again.code, again.err) == (0, "")
        assert list(json.loads(again.out)["settings"]) == ["short"]
        assert "fidelity: 3 of 3 trained" in genas("status", "tiny", "--logs", logs).out

    def test_fit_on_a_table_names_what_can_follow(self, genas, table):
        answer = genas("fit", table, "--set", "name=other", "--set", "fit.predictor.epochs=5")
        assert answer.code == 0
        assert "genas search CONFIG --set name=other" in answer.out
        assert [path.name for path in Path("logs").iterdir()] == ["other"]


class TestDryRun:
    def test_it_says_what_would_happen_and_writes_nothing(self, genas):
        answer = genas("run", "quickstart", "--dry-run")
        assert answer.code == 0
        settings = load_run("quickstart").settings
        assert f"generate: {settings.generate.architectures} trainings of about" in answer.out
        assert f"retrain:  {7 * settings.retrain.seeds} trainings, about" in answer.out
        assert "classes: 10  # set" in answer.out
        assert "no result was kept, the images are prepared" in answer.out
        assert not list(Path().iterdir())

    def test_for_machines(self, genas, recipe):
        answer = genas("generate", recipe, "--dry-run", "--json", "--set", "generate.architectures=20")
        result = json.loads(answer.out)
        assert result["trainings"] == result["settings"]["generate"]["architectures"] == 20
        assert result["settings"]["space"]["classes"] == result["classes"] == 10
        assert result["seconds_each"] > 0
        assert not list(Path().iterdir())


WRONG = {
    "unknown recipe": ("run quikstart", "Did you mean 'quickstart'"),
    "missing recipe": ("generate missing.yml", "missing.yml: cannot read"),
    "unknown key in a recipe": ("generate {bad_recipe}", "bad.yml:3"),
    "unknown run": ("status tinny --logs {logs}", "Did you mean 'tiny'"),
    "no run at all": ("status tiny", "there is no run"),
    "unknown space": ("cost op_subsets --arch 1", "'op_subsets'"),
    "unknown kind of space": ("generate {recipe} --set space.kind=davidnett", "Did you mean 'davidnet'"),
    "setting of another space": ("generate {recipe} --set space.widths=[1]", "a setting of davidnet"),
    "architecture of two stages too few": ("cost davidnet --arch 128-max", "a word for each of three stages"),
    "architecture too short": ("cost op_subset --arch 111000", "5 layers of 6 digits"),
    "architecture with an empty layer": (f"cost op_subset --arch {'0' * 30}", "layer 1 applies no"),
    "a counter by its name": (f"cost op_subset --arch {'1' * 30} --counter thop", "--counter"),
    "unknown command": ("genrate {recipe}", "genrate"),
    "unknown option": ("generate {recipe} --architectures 3", "--architectures"),
    "unknown override": ("generate {recipe} --set generate.architecture=3", "Did you mean 'architectures'"),
    "bad value": ("generate {recipe} --set generate.architectures=many", "whole number"),
    "not finite": ("generate {recipe} --set generate.recipe.learning_rate=.inf", "finite"),
    "no equals": ("generate {recipe} --set seed", "KEY=VALUE"),
    "limit of no cost": ("generate {recipe} --set limits.flops=1", "unknown cost"),
    "limit too low": ("generate {recipe} --set limits.macs=10", "below the cheapest"),
    "limit too low in a dry run": ("run {recipe} --dry-run --set limits.macs=10", "below the cheapest"),
    "limit too low to search": ("search tiny --logs {logs} --set limits.macs=10", "below the cheapest"),
    "unknown source": ("generate {recipe} --set data.source=cifar11", "Did you mean 'cifar10'"),
    "missing pictures": ("generate {recipe} --set data.source=folder:nowhere", "no such folder"),
    "name that climbs": ("generate {recipe} --set name=../x", "run name '../x'"),
    "name that is a path": ("status /etc", "run name '/etc'"),
    "name that climbs in status": ("status ../x", "run name '../x'"),
    "long name": (f"status {'x' * 300}", "run name"),
    "long path": (f"status ./{'x' * 300}", "run name"),
    "long name to run": (f"run {'x' * 300}", "neither a recipe file"),
    "long name of a table": (f"fit {'x' * 100}.jsonl", "run name"),
    "NUL": ("run a\0b", "neither a recipe file"),
    "fit before generate": ("fit {recipe}", "run generate first"),
    "search before fit": ("search {recipe}", "genas fit tiny"),
    "retrain before search": ("retrain {recipe}", "genas search tiny"),
    "missing table": ("evaluate missing.jsonl", "missing.jsonl: cannot read"),
    "bad accuracy in a table": ("evaluate {bad_table}", "bad.jsonl:3"),
    "cycle in a table": ("fit {cycle}", "cycle.jsonl:2"),
    "unknown metric": ("evaluate {table} --metric acuracy", "Did you mean 'accuracy'"),
    "unknown metric to fit": ("fit {table} --set fit.metric=acuracy", "Did you mean 'accuracy'"),
    "train size": ("evaluate {table} --train-size 14", "2 to 12 of 14"),
    "unknown cheap setting": (
        "fidelity {recipe} --setting half_epoch --set generate.recipe.epochs=4",
        "Did you mean 'half_epochs'",
    ),
    "every architecture with no setting": ("fidelity {recipe} --all", "name it with --setting"),
    "cheap setting that saves nothing": (
        "fidelity {recipe} --set fidelity.settings.half.epochs=2",
        "fidelity.settings.half.epochs: 2 saves nothing",
    ),
    "trials": ("evaluate {table} --trials 0", "at least 1"),
}


@pytest.fixture(scope="module")
def files(table, finished):
    """Good and bad files by name."""
    folder, lines = table.parent, table.read_text().splitlines()
    bad = lines[2].replace('"accuracy":', '"accuracy":1')
    (folder / "bad.jsonl").write_text("\n".join([*lines[:2], bad, *lines[3:]]))
    (folder / "cycle.jsonl").write_text("\n".join([lines[0], lines[1].replace('"edges":[', '"edges":[[1,0],')]))
    (folder / "bad.yml").write_text("seed: 0\ngenerate:\n  recipe: {epochs: 1, epoch: 2}\n")
    return {
        "table": table, "bad_table": folder / "bad.jsonl", "cycle": folder / "cycle.jsonl",
        "bad_recipe": folder / "bad.yml", "logs": finished.run.folder.parent,
    }  # fmt: skip


class TestExitCodes:
    @pytest.mark.parametrize("case", WRONG)
    def test_usage_is_2_with_one_sentence_and_nothing_written(self, case, genas, files, recipe):
        line, message = WRONG[case]
        answer = genas(*(part.format(recipe=recipe, **files) for part in line.split(" ")))
        assert answer.code == 2, answer
        assert message in answer.err
        assert "Traceback" not in answer.err
        assert answer.out == ""
        assert not list(Path().iterdir())

    def test_another_label_setting_is_2_and_nothing_is_lost(self, genas, finished, tmp_path):
        logs = run_copy(finished, tmp_path)
        answer = genas("generate", "tiny", "--logs", logs, "--set", "generate.recipe.epochs=5")
        assert answer.code == 2
        assert "generate.recipe.epochs: 2 -> 5" in answer.err
        assert genas("generate", "tiny", "--logs", logs).code == 0

    def test_a_file_where_the_folder_of_runs_should_be_is_3(self, genas, recipe):
        Path("logs").write_text("not a folder")
        answer = genas("generate", recipe)
        assert answer.code == 3
        assert "cannot write" in answer.err
        assert "Traceback" not in answer.err

    @pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
    def test_a_read_only_folder_is_3(self, genas, recipe):
        Path("logs").mkdir(mode=0o500)
        assert genas("generate", recipe).code == 3

    def test_no_connection_is_3(self, genas, recipe, monkeypatch, tmp_path):
        def offline(*arguments, **options):
            raise urllib.error.URLError("no route")

        monkeypatch.setattr(urllib.request, "urlopen", offline)
        source = ("--set", "data.source=cifar10", "--set", f"data.root={tmp_path / 'downloads'}")
        answer = genas("generate", recipe, *source)
        assert answer.code == 3
        assert "could not be downloaded" in answer.err
        assert "Traceback" not in answer.err
        answer = genas("generate", recipe, *source, "--set", "data.download=false")
        assert answer.code == 3
        assert not list(Path().iterdir())

    def test_no_gpu_is_3(self, genas, recipe, monkeypatch):
        monkeypatch.setattr("data_gen.local.gpu_names", list)
        answer = genas("run", recipe, "--dry-run", "--set", "workers.device=cuda")
        assert answer.code == 3
        assert "sees no GPU" in answer.err

    @pytest.mark.parametrize(("stage", "module"), [("generate", "generating"), ("retrain", "retraining")])
    def test_some_failed_trainings_are_4(self, stage, module, genas, recipe, finished, monkeypatch):
        result = {**finished.results[stage], "failed": 1}
        monkeypatch.setattr(f"genas.{module}.{stage}", lambda run, progress, *part: result)
        assert genas(stage, recipe).code == 4
        monkeypatch.setattr("genas.pipeline.run_all", lambda run, progress: {**finished.results, stage: result})
        assert genas("run", recipe).code == 4

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_interruptions_print_the_line_that_continues(self, number, code, genas, recipe, monkeypatch):
        monkeypatch.setattr("genas.generating.generate", lambda run, progress, *part: signal.raise_signal(number))
        answer = genas("generate", recipe, "--set", "limits={macs: 150000}")
        assert answer.code == code
        assert f"the same line continues: genas generate {recipe} --set 'limits={{macs: 150000}}'" in answer.err


def committed(run):
    """The moment in which each result was committed, by key; nothing while there is no store."""
    with contextlib.suppress(InputError, sqlite3.OperationalError):
        store = read_store(run.store)
        try:
            return {result.job.architecture.key: moment(run, result.job.id) for result in store.results("generate")}
        finally:
            store.close()
    return {}


def moment(run, job):
    with contextlib.closing(sqlite3.connect(f"{run.store.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT committed FROM results WHERE job = ?", (job,)).fetchone()[0]


def start(*arguments):
    """The same command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "genas.cli", *map(str, arguments)], stderr=subprocess.PIPE, text=True
    )


def wait_for_more(run, process, before, deadline=120.0):
    """Until a process has committed a result."""
    end = time.monotonic() + deadline
    while len(committed(run)) <= before:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_stopped_in_any_way_the_same_line_continues(genas, recipe, tmp_path):
    """Killed, terminated and interrupted in the middle: everything planned is trained, and once."""
    line = ("generate", recipe, "--logs", tmp_path / "logs",
            "--set", "generate.architectures=12", "--set", "generate.recipe.epochs=6")  # fmt: skip
    run = load_run(recipe, [line[5], line[7]], tmp_path / "logs")
    run = resolve(run)[0]
    planned = plan(run.settings.space, run.settings.generate, run.settings.limits, run.settings.seed)
    known = {}
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start(*line)
        try:
            wait_for_more(run, process, len(known))
            if number == signal.SIGKILL:  # a second driver keeps off and names the first
                second = genas(*line)
                assert second.code == 2
                assert f"in use by process {process.pid} on " in second.err
            process.send_signal(number)
            _, words = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == code
        if code > 0:
            assert f"the same line continues: genas generate {recipe}" in words
            assert "Traceback" not in words
        now = committed(run)
        assert {key: now[key] for key in known} == known
        assert len(known) < len(now) < 12
        known = now
    answer = genas(*line, "--json")
    assert answer.code == 0
    counts = json.loads(answer.out)
    assert (counts["planned"], counts["found"], counts["trained"]) == (12, len(known), 12 - len(known))
    now = committed(run)
    assert {key: now[key] for key in known} == known
    assert sorted(now) == sorted(architecture.key for architecture, _, _ in planned)
    store = read_store(run.store)
    try:
        assert store.attempts("generate")["done"] == 12
        assert "running" not in store.attempts("generate")
    finally:
        store.close()


def test_only_what_keeps_something_says_that_it_goes_on():
    assert _stopped(["generate", "my run.yml"]).endswith("the same line continues: genas generate 'my run.yml'")
    assert _stopped(["space", "lint", "darts"]) == "Stopped."
