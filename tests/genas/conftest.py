"""One tiny run of the whole pipeline, and the command line called without a new process."""

import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from genas.cli import main
from genas.config import Run, load_run
from genas.pipeline import run_all

TINY = """
data: {source: digits, train_images: 100, validation_images: 60, test_images: 60}
space: {input_size: 8, layers: [{channels: 8}, {channels: 16, stride: 2}], head_channels: 64}
limits: {macs: 200_000}
generate:
  architectures: 14
  recipe: {epochs: 2, batch_size: 10, learning_rate: 0.1, crop_padding: 1, flip: false}
workers: {device: cpu, cpu_workers: 1, retries: 0}
fit: {splits: 1, predictor: {members: 1, width: 8, layers: 1, epochs: 5}}
search: {queries: 200, population: 20, parents: 10}
retrain: {seeds: 2, handmade: []}
"""


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipes" / "tiny.yml"
    path.parent.mkdir()
    path.write_text(TINY)
    return path


@dataclass(frozen=True)
class Finished:
    """A run that went through every stage, and what the stages returned."""

    run: Run
    results: dict


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Called from a folder that holds neither the recipe nor the package. Not to be changed: see ``copy``."""
    recipes, elsewhere = tmp_path_factory.mktemp("recipes"), tmp_path_factory.mktemp("elsewhere")
    (recipes / "tiny.yml").write_text(TINY)
    before = Path.cwd()
    os.chdir(elsewhere)
    try:
        results = run_all(load_run(recipes / "tiny.yml"))
    finally:
        os.chdir(before)
    return Finished(load_run("tiny", logs=elsewhere / "logs"), results)


@pytest.fixture
def copy(finished, tmp_path):
    """The finished run once more, to be changed."""
    logs = tmp_path / "logs"
    shutil.copytree(finished.run.folder, logs / "tiny")
    return load_run("tiny", logs=logs)


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture
def genas(monkeypatch, capfd, tmp_path):
    """Calls the command line in this process, in an empty folder."""
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
        return Answer(0 if stopped.value.code is None else stopped.value.code, out, err)

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)
