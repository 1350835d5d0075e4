"""The arrows between the rooms, and what no room may do, read from the syntax trees."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "supernet": set(),
    "training": {"supernet"},
    "data_gen": {"supernet", "training"},
    "predictor": {"supernet"},
    "evolution": {"supernet"},
    "analysis": {"supernet", "training", "data_gen"},
    "genas": {"supernet", "training", "data_gen", "predictor", "evolution", "analysis", "config"},
}
FILES = [path for package in (*ALLOWED, "config") for path in sorted((ROOT / package).rglob("*.py"))]
TREES = {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def imported(tree):
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their package"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", TREES)
def test_arrows_point_the_right_way(name):
    package = name.partition("/")[0]
    roots = {module.partition(".")[0] for module in imported(TREES[name])}
    foreign = roots & {*ALLOWED, "config", "tests", "benchmarks"}
    assert foreign <= {package} | ALLOWED.get(package, set())


@pytest.mark.parametrize("name", [name for name in TREES if name.startswith("analysis/")])
def test_analysis_only_reads_the_store(name):
    ours = {module for module in imported(TREES[name]) if module.startswith("data_gen.")}
    assert all(module in {"data_gen.store", "data_gen.read_store"} or module.startswith("data_gen.store.") or
               module.rpartition(".")[2][0].isupper() for module in ours)  # fmt: skip


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "os.system", "os.popen", "pandas.read_pickle", "pd.read_pickle",
}  # fmt: skip


def faults(tree):
    """What could run a foreign file's code, as (line, what)."""
    for module in imported(tree):
        if module.partition(".")[0] in FORBIDDEN_MODULES or module in FORBIDDEN_CALLS:
            yield 0, module
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in FORBIDDEN_CALLS:
            yield node.lineno, called
        if called in ("np.load", "numpy.load") and "allow_pickle=False" not in ast.unparse(node):
            yield node.lineno, called
        for keyword in node.keywords:
            value = ast.unparse(keyword.value)
            if (keyword.arg == "shell" and value != "False") or (keyword.arg == "allow_pickle" and value != "False"):
                yield node.lineno, f"{keyword.arg}={value}"


@pytest.mark.parametrize("name", TREES)
def test_nothing_runs_the_code_of_a_file(name):
    assert list(faults(TREES[name])) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('a')",
        "from torch import load",
        "import yaml\nyaml.load('a', Loader=None)",
        "eval('1')",
        "def f():\n    exec('1')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import numpy as np\nnp.load('a')",
        "import numpy as np\nnp.load('a', allow_pickle=True)",
    ],
)
def test_the_reader_of_trees_sees_faults(source):
    assert list(faults(ast.parse(source)))


@pytest.mark.parametrize("name", TREES)
def test_broad_excepts_live_at_the_one_worker_boundary(name):
    broad = [
        node
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
    ]
    assert len(broad) == (name == "data_gen/worker.py")


@pytest.mark.parametrize("name", TREES)
def test_only_what_runs_beside_a_cluster_knows_ray(name):
    knows = any(module.partition(".")[0] == "ray" for module in imported(TREES[name]))
    assert knows == (name in ("data_gen/keeper.py", "data_gen/ray_bridge.py"))


TORCH_FREE = [
    "supernet, supernet.spaces", "evolution", "training, training.data, training.recipe", "data_gen",
    "training.corruption_names",
    "data_gen.cluster, data_gen.keeper, data_gen.ray_bridge",
    "predictor.settings",
    "genas.config, genas.yaml_reader", "genas.generating", "genas.merging", "genas.standing", "genas.pipeline",
    "genas.examining, genas.words", "analysis.report",
]  # fmt: skip


@pytest.mark.parametrize("modules", TORCH_FREE)
def test_what_trains_nothing_leaves_torch_alone(modules):
    """A wrong recipe, a status, a second driver must not wait seconds, nor a driver hold a gigabyte."""
    check = f"import sys, {modules}; print({{'torch', 'torch_geometric', 'sklearn'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_benchmark_that_has_the_name_of_a_package_gives_way_to_it(tmp_path):
    """Python looks in a script's folder first, and there lies benchmarks/predictor.py."""
    script = ROOT / "benchmarks" / "tables.py"
    command = [sys.executable, script, tmp_path, "--data", tmp_path, "--only", "opsubset300"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "opsubset_cifar100_300.csv: cannot read the table" in done.stderr
