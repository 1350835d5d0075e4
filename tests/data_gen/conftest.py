"""Runs of the fake trainer."""

import pytest

from tests.data_gen.harness import Run, architectures


@pytest.fixture
def runner():
    """Where the workers of a run are: processes of this machine, unless a module says otherwise."""
    return "local"


@pytest.fixture
def make_run(tmp_path, runner, request):
    runs = []
    address = request.getfixturevalue("ray_nodes").address if runner == "ray" else None

    def make(count=12, seed=0, plan=None):
        planned = [(one, seed, "sample") for one in architectures(count)] if plan is None else plan
        runs.append(Run(tmp_path, planned, address))
        return runs[-1]

    yield make
    for process in (process for run in runs for process in run.lives):
        process.kill()  # only where a test failed does one still run
        process.join()
