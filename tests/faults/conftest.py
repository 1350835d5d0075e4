"""The table of faults: each row's tests say what they measured, and the table is printed at the end.

``GENAS_FAULTS`` names a file that it is written to as well.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from genas.config import load_run
from genas.pipeline import run_all

TITLES = {
    1: "kill -9 of a worker",
    2: "kill -9 of the driver",
    3: "Ctrl-C and SIGTERM, once and twice",
    4: "torn write, flipped byte",
    5: "disk full",
    6: "two drivers, one run",
    7: "8 writers and a reader",
    8: "out of memory",
    9: "loss that is not finite",
    10: "a hang",
    11: "corrupt checkpoint",
    12: "malicious file",
    13: "bad YAML",
    14: "bad labels in a table",
    15: "the same architecture twice",
    16: "archive with '..', links, a bomb",
    17: "run names",
    18: "old formats",
    19: "resume equals uninterrupted",
    20: "leak of the test split",
    21: "read-only folder, no permission",
}


@pytest.fixture
def figure(record_property):
    """Takes note of what a test of one row of the table has measured."""

    def note(row, measured):
        record_property("fault", (row, measured))

    return note


def _noted(terminalreporter, name):
    """(test, value) of every property of this name, also where the tests ran in several processes."""
    return [
        (report.nodeid.partition("::")[2], value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "teardown"  # the last of its reports, which has all
        for kind, value in report.user_properties
        if kind == name
    ]


def pytest_terminal_summary(terminalreporter):
    fuzzed = sorted(pair for _, pair in _noted(terminalreporter, "fuzzed"))
    if fuzzed:
        terminalreporter.section("inputs")
        for target, count in fuzzed:
            terminalreporter.write_line(f"{count:9,} {target}")
        terminalreporter.write_line(f"{sum(count for _, count in fuzzed):9,} in all")
    figures = sorted((row, test, measured) for test, (row, measured) in _noted(terminalreporter, "fault"))
    if not figures:
        return
    terminalreporter.section("faults")
    for row, test, measured in figures:
        terminalreporter.write_line(f"{row:2} {TITLES[row]} | {test} | {measured}")
    path = os.environ.get("GENAS_FAULTS")
    if path:
        rows = [{"row": row, "fault": TITLES[row], "test": test, "measured": text} for row, test, text in figures]
        Path(path).write_text(json.dumps({"command": "make faults", "rows": rows}, indent=1) + "\n")


TINY = """
data: {source: digits, train_images: 100, validation_images: 60, test_images: 60}
space: {input_size: 8, stem_channels: 8, layers: [{channels: 8}, {channels: 16, stride: 2}], head_channels: 32}
limits: {macs: 200_000}
generate:
  architectures: 12
  recipe: {epochs: 2, batch_size: 10, learning_rate: 0.05, crop_padding: 1, flip: false}
workers: {device: cpu, cpu_workers: 1}
fit: {splits: 1, predictor: {members: 1, width: 4, layers: 1, epochs: 3}}
search: {queries: 200, population: 20, parents: 10}
retrain: {seeds: 1}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a run that went through every stage. Not to be changed: see ``whole``."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yml").write_text(TINY)
    run = load_run(folder / "tiny.yml", logs=folder / "logs")
    run_all(run)
    return run.folder


@pytest.fixture
def whole(finished, tmp_path):
    """A copy of a finished run, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "logs" / "tiny"))


@pytest.fixture
def genas(monkeypatch, capfd, tmp_path):
    """Calls the command line in this process, in an empty folder: exit code and what it said."""
    from genas.cli import main

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["genas", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        return stopped.value.code or 0, out + err

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def open_folder():
    """A folder that every user may enter, for tests that give up root's rights."""
    folder = Path(tempfile.mkdtemp(prefix="genas-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
