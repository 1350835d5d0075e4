"""What every test shares: a cache folder of its own, one thread, reproducible examples without a clock."""

import os

import pytest
from hypothesis import settings

from tests.data_gen.ray_cluster import INSTALLED, RayCluster

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read before torch is imported: the suite shares its cores

settings.register_profile("suite", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Prepared images of the tests, and nothing of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "native"
    shared.mkdir(exist_ok=True)
    (folder / "native").symlink_to(shared)  # kernels are compiled once for all processes of the suite
    before = os.environ.get("GENAS_CACHE")
    os.environ["GENAS_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["GENAS_CACHE"]
    else:
        os.environ["GENAS_CACHE"] = before


@pytest.fixture(scope="session")
def ray_nodes(cache):
    """A Ray cluster of two nodes with two places each, which tests leave as it was."""
    if not INSTALLED:
        pytest.skip("ray is not installed")
    with pytest.MonkeyPatch.context() as environment, RayCluster() as cluster:
        environment.setenv("RAY_AUTH_MODE", "disabled")  # as the cluster's own
        cluster.add(cpus=2)
        cluster.add(cpus=2)
        yield cluster
