"""What only a real cluster shows: nodes that are lost and added, what is brought to them, who listens where."""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from data_gen import Task, WorkerSettings, cluster, open_store, read_store, run_jobs
from supernet import OpSubset
from supernet.op_subset import LayerSettings
from supernet.settings import UnavailableError
from tests.data_gen.harness import DEADLINE, SEEDS, alive, architectures, prepared, wait_for
from tests.data_gen.ray_cluster import INSTALLED, ROOT, RayCluster, descendants
from training import DataSettings, Recipe, prepare

pytestmark = [
    pytest.mark.skipif(not INSTALLED, reason="ray is not installed"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@pytest.fixture
def runner():
    return "ray"


def until(condition):
    """For a story that is told step by step while a run is driven: waits until the condition holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        yield


def drive(run, story, **options):
    """Drive a run and go on with a story at each of its steps, which has to come to its end."""
    ended = []

    def tell():
        yield from story
        ended.append(True)

    steps = tell()
    run.drive(lambda _: next(steps, None), **options)
    assert ended


@contextmanager
def nodes(ray_nodes, *wanted):
    """Further nodes for one test; their numbers."""
    added = [ray_nodes.add(**one) for one in wanted]
    try:
        yield added
    finally:
        for number in added:
            ray_nodes.kill(number)


def attempts_by_node(run):
    with closing(read_store(run.path)) as store:
        return {count.name: (count.done, count.interrupted) for count in store.nodes()}


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_lost_node_costs_nothing_and_a_new_one_is_used(how, make_run, ray_nodes, caplog):
    """Its training goes on elsewhere, from its last checkpoint."""
    run = make_run(5, SEEDS["long"])
    run.task = replace(run.task, checkpoints=run.folder / "checkpoints")
    added = []

    def story(lost):
        def here(node):
            return [pid for pid in run.pids(running=True) if ray_nodes.node_of(pid) == node]

        yield from until(lambda: len(run.pids(running=True)) == 5)
        assert len(here(lost)) == 1
        yield from until(lambda: len(list(run.task.checkpoints.glob("*.json"))) == 5)
        getattr(ray_nodes, how)(lost)
        yield from until(lambda: run.attempts().get("interrupted"))
        added.append(ray_nodes.add())
        yield from until(lambda: here(added[0]))
        (run.notes / "go").touch()

    with nodes(ray_nodes, {}) as (lost,):
        try:
            drive(run, story(lost), workers=None)
        finally:
            for number in added:
                ray_nodes.kill(number)
    assert run.check_whole() == {"interrupted": 1}
    (continued,) = run.notes.glob("continued-*")
    assert continued.read_text() == "json of step 1, safetensors of step 1"
    assert "has joined" in caplog.text
    assert "is lost; its trainings go on elsewhere" in caplog.text


@pytest.mark.parametrize("who", ["actor", "bridge"])
def test_what_stands_between_driver_and_worker_is_no_failure_of_a_job(who, make_run, ray_nodes, monkeypatch):
    monkeypatch.setattr(cluster, "_AGAIN_SECONDS", 0.1)
    run = make_run(4, SEEDS["wait"])

    def parent(pid):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    def left():
        return [path for node in (0, 1) for path in (ray_nodes.folder(node) / "tmp").glob("genas-*")]

    def story():
        yield from until(lambda: len(run.pids(running=True)) == 4)
        workers = run.pids(running=True)
        ours = set(descendants(os.getpid())) - set(ray_nodes.processes())
        (bridge,) = (pid for pid in ours if b"ray_bridge" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(parent(workers[0]) if who == "actor" else bridge, signal.SIGKILL)
        yield from until(lambda: run.attempts().get("interrupted"))
        yield from until(lambda: len(run.pids(running=True)) == 4)  # all places are free again
        assert any(alive(pid) for pid in workers) == (who == "actor")
        (run.notes / "go").touch()

    drive(run, story(), workers=4)
    assert run.check_whole() == {"interrupted": 1 if who == "actor" else 4}
    wait_for(lambda: not left())  # what those had there that were killed was removed by the next


def test_a_node_with_a_full_disk_is_given_up_and_the_others_go_on(make_run, ray_nodes, caplog):
    plan = [(one, SEEDS["full"] if number == 0 else 0, "sample") for number, one in enumerate(architectures(8))]
    run = make_run(plan=plan)
    run.drive(workers=4)
    assert run.check_whole() == {"interrupted": 1}
    assert caplog.text.count("is used no more: unavailable, as asked") == 1


def test_images_are_put_once_and_brought_once_to_each_node(make_run, ray_nodes, monkeypatch):
    run = make_run(4, SEEDS["wait"])
    run.task = replace(run.task, data=prepared(run.folder / "others", level=7))
    counting = Path(__file__).with_name("counting_bridge.py")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(cluster, "_BRIDGE", (sys.executable, "-P", str(counting), str(run.notes / "brought")))

    def story():
        yield from until(lambda: len(run.pids(running=True)) == 4)  # two on each node have begun at once
        (run.notes / "go").touch()

    drive(run, story(), workers=4)
    assert run.check_whole() == {}
    files = [f"{split}_{part}.npy" for split in ("train", "validation") for part in ("images", "labels")]
    noted = Counter((run.notes / "brought").read_text().splitlines())
    assert noted == {f"put {name}": 1 for name in files} | {f"bring {name}": 2 for name in files}
    copies = [path for node in (0, 1) for path in ray_nodes.folder(node).glob("cache/placed/*/others")]
    assert len(copies) == 2
    for copy in copies:
        assert {path.name for path in copy.iterdir()} == {*files, "info.json"}
        assert all((copy / name).read_bytes() == (run.folder / "others" / name).read_bytes() for name in files)
    first_lines = [path.read_text() for path in run.notes.glob("worker-*.json")]
    assert all('"processes": 2' in line for line in first_lines)
    assert Counter(next(copy for copy in copies if str(copy) in line) for line in first_lines) == dict.fromkeys(
        copies, 2
    )


def test_nodes_without_this_very_code_are_refused(make_run, ray_nodes, tmp_path, caplog):
    old, half = tmp_path / "old", tmp_path / "half"
    for copy in (old, half):
        for package in ("supernet", "training", "data_gen"):
            shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    (old / "training" / "loop.py").write_text("# of last year\n")
    (half / "data_gen" / "keeper.py").write_text("raise ImportError('only half of it is there')\n")
    run = make_run(12, SEEDS["wait"])

    def story():
        yield from until(lambda: len(run.pids(running=True)) == 4)
        (run.notes / "go").touch()

    with nodes(ray_nodes, {"PYTHONPATH": str(old)}, {"PYTHONPATH": str(half)}):
        drive(run, story(), workers=8)  # more than there is place for
    assert run.check_whole() == {}
    refused = [record.getMessage() for record in caplog.records if "cannot be used" in record.getMessage()]
    assert len(refused) == 2
    assert any("another version of this tool is installed there" in words for words in refused)
    assert any("only half of it is there" in words for words in refused)
    assert len(attempts_by_node(run)) == 2


def test_gpus_are_shared_and_few_jobs_spread_over_all(make_run, ray_nodes):
    """None is needed to see who gets which."""
    seen = {}
    with nodes(ray_nodes, {"cpus": 0, "gpus": 2}):
        for count in (8, 2):
            run = make_run(count, SEEDS["wait"])

            def story(run=run, count=count):
                yield from until(lambda: len(run.pids(running=True)) == min(count, 4))
                (run.notes / "go").touch()

            drive(run, story(), workers=None, device="auto", per_gpu=2)
            assert run.check_whole() == {}
            seen[count] = Counter(path.read_text() for path in run.notes.glob("visible-*"))
            lines = [path.read_text() for path in run.notes.glob("worker-*.json")]
            assert all('"device": "cuda:0"' in line and '"processes": 2' in line for line in lines)
    assert seen == {8: {"0": 2, "1": 2}, 2: {"0": 1, "1": 1}}


SPACE = OpSubset(
    layers=(LayerSettings(channels=8), LayerSettings(channels=16, stride=2)), stem_channels=8, head_channels=32,
    input_size=8, input_channels=1, classes=10,
)  # fmt: skip


def test_a_training_gives_the_same_label_on_any_runner(ray_nodes, cache, tmp_path):
    """Bit for bit on the CPU, in all that is kept of it: accuracy, loss, curves, weights."""
    digits = prepare(DataSettings(train_images=100, validation_images=60, test_images=40), 8)
    recipe = Recipe(epochs=2, batch_size=20, crop_padding=1, flip=False, learning_rate=0.05)
    plan = [(SPACE.parse(text), 3, "sample") for text in ("110000 010010", "001010 100001")]
    costs = {one.key: {name: int(value[0]) for name, value in SPACE.costs(one.row()).items()} for one, _, _ in plan}
    found = {}
    for name, where in {
        "local": {"cpu_workers": 2},
        "ray": {"runner": "ray", "address": ray_nodes.address, "most": 2},
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        task = Task(SPACE, digits, recipe, weights=folder / "weights", checkpoints=folder / "checkpoints")
        with closing(open_store(folder / "store.db")) as store:
            jobs = store.add_jobs("generate", plan, costs)
            run_jobs(store, jobs, task, WorkerSettings(device="cpu", checkpoint_seconds=0, **where))
            results = store.results("generate")
            assert store.attempts("generate") == {"done": 2}
        weights = {path.name: path.read_bytes() for path in task.weights.iterdir()}
        found[name] = [(one.job, one.accuracy, one.loss, one.curve_text) for one in results], weights
    assert len(found["local"][1]) == 4
    assert found["ray"] == found["local"]


def listening(processes):
    """Addresses on which any of some processes takes connections, as the kernel lists them."""
    inodes = set()
    for pid in processes:
        for path in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(FileNotFoundError):
                inodes.add(str(path.readlink()))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in inodes:
                found.add(local.partition(":")[0])
    return found


@pytest.fixture
def base():
    """Where a cluster of its own puts its files: of a short name, as its sockets need it."""
    folder = Path(tempfile.mkdtemp(prefix="r-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


LOOPBACK = {
    "0100007F",  # 127.0.0.1
    "0000000000000000FFFF00000100007F",  # the same in the newer notation
    "00000000000000000000000001000000",  # ::1
}


def test_a_cluster_of_its_own_is_for_the_run_alone(make_run, base, tmp_path, monkeypatch, ray_nodes):
    """It listens to this machine alone, is not taken for the machine's cluster, and goes with its driver."""
    monkeypatch.setenv("RAY_TMPDIR", str(base))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run = make_run(2, SEEDS["wait"])
    run.address = "local"
    processes, before = set(), set(descendants(os.getpid()))

    def story():
        yield from until(lambda: run.pids(running=True))
        processes.update(set(descendants(os.getpid())) - before)
        assert listening(processes)
        assert listening(processes) <= LOOPBACK
        assert not (base / "ray").exists()
        (run.notes / "go").touch()

    drive(run, story(), workers=1)
    assert run.check_whole() == {}
    assert len(processes) > 5
    wait_for(lambda: not any(alive(pid) for pid in processes))
    assert list(base.iterdir()) == []
    assert not (tmp_path / "home").exists()


def test_a_cluster_of_its_own_goes_with_a_driver_that_is_killed(make_run, base, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(base))
    run = make_run(2, SEEDS["wait"])
    run.address = "local"
    driver = run.life(workers=1)
    wait_for(lambda: run.pids(running=True))
    processes = descendants(driver.pid)
    assert len(processes) > 5
    driver.kill()
    driver.join()
    wait_for(lambda: not any(alive(pid) for pid in processes))
    wait_for(lambda: list(base.iterdir()) == [])


def test_a_cluster_behind_its_client_server(make_run, ray_nodes):
    run = make_run(6)
    run.address = ray_nodes.client_address
    run.task = replace(run.task, weights=run.folder / "weights")
    run.drive(workers=2)
    assert run.check_whole() == {}
    assert len(list(run.task.weights.iterdir())) == 12


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("auto", "reached at auto (none runs on this machine); start one with `ray start --head`"),
        ("127.0.0.1:1", "reached at 127.0.0.1:1 (127.0.0.1:1: Connection refused)"),
        ("ray://127.0.0.1:1", "reached at ray://127.0.0.1:1 (127.0.0.1:1: Connection refused)"),
    ],
)
def test_no_cluster_is_one_clear_sentence(address, said, make_run, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "_AGAIN_SECONDS", 0.1)
    run = make_run(1)
    run.address = address
    with pytest.raises(UnavailableError) as told:
        run.drive()
    assert said in str(told.value)
    assert "\n" not in str(told.value)
    assert run.attempts() == {}


def test_a_cluster_that_loses_its_head_ends_the_run_and_nothing_is_lost(make_run, monkeypatch):
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "2")
    monkeypatch.setattr(cluster, "_AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(cluster, "_PATIENCE", 1.0)
    run = make_run(
        plan=[(one, SEEDS["wait"] if number > 1 else 0, "sample") for number, one in enumerate(architectures(4))]
    )

    with RayCluster() as own:
        own.add(cpus=2)

        def story():
            yield from until(lambda: len(run.committed()) == 2 and len(run.pids(running=True)) == 2)
            own.kill_head()

        run.address = own.address
        with pytest.raises(UnavailableError, match=f"no Ray cluster can be reached at {own.address}"):
            drive(run, story())
        assert run.attempts() == {"done": 2, "interrupted": 2}
        wait_for(lambda: not any(alive(pid) for pid in run.started()))
    (run.notes / "go").touch()
    run.address = None
    run.drive()
    assert run.check_whole() == {"interrupted": 2}
