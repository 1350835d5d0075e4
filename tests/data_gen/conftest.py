"""Runs of the fake trainer."""

import pytest

from tests.data_gen.harness import Run, architectures


@pytest.fixture
def make_run(tmp_path):
    runs = []

    def make(count=12, seed=0):
        runs.append(Run(tmp_path, [(one, seed, "sample") for one in architectures(count)]))
        return runs[-1]

    yield make
    for process in (process for run in runs for process in run.lives):
        process.kill()  # only where a test failed does one still run
        process.join()
