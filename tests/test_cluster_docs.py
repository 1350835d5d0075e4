"""docs/cluster.md is true: its scripts run here with stand-ins for what needs other machines, and what they ask of
genas and of Ray exists."""

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import typer
import yaml

from genas.cli import app
from genas.config import settings_of
from genas.yaml_reader import Document

PAGE = (Path(__file__).parent.parent / "docs" / "cluster.md").read_text()
SCRIPTS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
MANIFESTS = [
    manifest for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) for manifest in yaml.safe_load_all(text)
]
SLURM = next(script for script in SCRIPTS if "#SBATCH" in script)
RECORD = """#!/bin/sh
printf '%s\n' "$(printf '%s\037' "${0##*/}" "$@")" >> "$CALLS" # in one piece: some are called at the same time
"""
STANDS_IN = {
    "genas": "",
    "ray": "",
    "nft": "cat > /dev/null",
    "ssh": "",
    "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
    "scontrol": '[ "$1" = requeue ] || printf "one\\ntwo\\nthree\\n"',
    "hostname": "echo 10.0.0.1 10.1.0.1",
}


def stands_in(folder):
    """Programs of these names that write down how they were called; the environment in which they are found."""
    programs = folder / "bin"
    programs.mkdir()
    for name, body in STANDS_IN.items():
        (programs / name).write_text(RECORD + body + "\n")
        (programs / name).chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder),
        "CALLS": str(folder / "calls"),
        "SLURMD_NODENAME": "one",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "[...]",
        "SLURM_CPUS_PER_TASK": "32",
        "SLURM_GPUS_ON_NODE": "4",
    }


def calls(folder):
    return [line.split("\037")[:-1] for line in (folder / "calls").read_text().splitlines()]


def run(script, folder):
    answer = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=stands_in(folder), capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    return calls(folder)


def understood(command, words):
    """What a command line of click's or typer's gives; an unknown option is an error."""
    while hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands, name
        command = command.commands[name]
    return command.make_context(command.name, list(words)).params


def check_genas(words):
    """The command is there, and its options and settings are."""
    given = understood(typer.main.get_command(app), words)
    settings = list(given.get("overrides") or [])
    settings += [f"workers.{name}={given[name]}" for name in ("runner", "address") if given.get(name)]
    settings_of(Document({}, "test", {}), settings, Path())


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_scripts_are_bash(script):
    answer = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_what_scripts_ask_of_genas(script, tmp_path):
    for name, *words in run(script, tmp_path):
        if name == "genas":
            check_genas(words)


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_what_scripts_ask_of_ray(script, tmp_path):
    ray = pytest.importorskip("ray.scripts.scripts", reason="the extra ray is not installed")
    for name, *words in run(script, tmp_path):
        if name == "ray":
            understood(ray.cli, words)


def test_what_is_found():
    assert len(SCRIPTS) == 5
    assert [manifest["kind"] for manifest in MANIFESTS] == ["RayCluster", "NetworkPolicy", "Job"]


def test_lines_within_the_text():
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    lines = [shlex.split(line) for line in re.findall(r"`([^`]*\bgenas [^`]*)`", prose)]
    lines = [words[words.index("genas") + 1 :] for words in lines if words[0] != "kubectl"]
    assert ["status", "mine"] in lines
    for words in lines:
        assert words[0] in typer.main.get_command(app).commands
        if len(words) > 1:  # else the command is named, not given
            check_genas(words)


def test_the_ports_of_the_table_are_those_that_ray_is_given(tmp_path):
    script = next(script for script in SCRIPTS if "ray get-auth-token" in script)
    starts = [words for name, *words in run(script, tmp_path) if name == "ray" and words[0] == "start"]
    assert len(starts) == 2
    for words in starts:
        numbers = {int(number) for word in words if "port" in word for number in re.findall(r"=(\d+)", word)}
        assert numbers >= {6380, 6381, 6382, 6383, 6384, 6385, 20000, 20999}
    assert {"--port=6379", "--ray-client-server-port=10001", "--include-dashboard=false"} <= set(starts[0])
    opened = re.search(r"tcp dport \{ (.*?) \}", PAGE)
    assert opened is not None
    assert opened[1] == "6379-6385, 10001, 20000-20999"


def test_slurm_starts_ray_on_every_node_and_then_genas(tmp_path):
    made = run(SLURM, tmp_path)
    started = {words[3]: words[4:] for name, *words in made if name == "srun"}
    assert set(started) == {"--nodelist=one", "--nodelist=two", "--nodelist=three"}
    assert "--head" in started["--nodelist=one"]
    for node in ("two", "three"):
        assert "--address=10.0.0.1:6379" in started[f"--nodelist={node}"]
    assert all({"--num-cpus=32", "--num-gpus=4", "--block"} <= set(words) for words in started.values())
    (genas,) = [words for name, *words in made if name == "genas"]
    assert genas[-1] == "10.0.0.1:6379"
    assert not [words for name, *words in made if name == "scontrol" and words[0] == "requeue"]


def test_slurm_passes_term_on_and_goes_back_into_the_queue(tmp_path):
    environment = stands_in(tmp_path)
    (tmp_path / "bin" / "genas").write_text(
        f"#!{sys.executable}\n"
        "import os, signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "open('number', 'w').write(str(os.getpid()))\n"
        "print('ready', flush=True)\n"
        "signal.sigwait({signal.SIGTERM})\n"
        "open(os.environ['CALLS'], 'a').write('stopped\\037\\n')\n"
        "raise SystemExit(143)\n"
    )
    with (tmp_path / "bin" / "scontrol").open("a") as requeue:
        requeue.write('[ "$1" != requeue ] || ! kill -0 "$(cat number)" 2> /dev/null || : > early\n')
    script = subprocess.Popen(
        ["bash", "-c", SLURM], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert script.stdout is not None
    try:
        assert script.stdout.readline() == "ready\n"
        script.terminate()
        assert script.wait(20) == 143
    finally:
        with suppress(ProcessLookupError):
            os.killpg(script.pid, signal.SIGKILL)
        script.wait()
        script.stdout.close()
    made = calls(tmp_path)
    assert made.index(["stopped"]) < made.index(["scontrol", "requeue", "7"])
    assert not (tmp_path / "early").exists()  # the job goes back only when genas is gone


def test_ray_cluster():
    cluster, _, job = MANIFESTS
    assert cluster["apiVersion"] == "ray.io/v1"
    spec, name = cluster["spec"], cluster["metadata"]["name"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    head, (workers,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert head["serviceType"] == "ClusterIP"
    assert head["rayStartParams"]["include-dashboard"] == "false"
    assert workers["groupName"]
    assert 0 <= workers["minReplicas"] <= workers["replicas"] < workers["maxReplicas"]
    (container,) = workers["template"]["spec"]["containers"]
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    (driver,) = job["spec"]["template"]["spec"]["containers"]
    (first,) = head["template"]["spec"]["containers"]
    assert first["image"] == container["image"] == driver["image"]
    for group, one in ((head, first), (workers, container)):
        parameters = group["rayStartParams"]
        assert all(isinstance(value, str) for value in parameters.values())
        asked = {one[probe]["tcpSocket"]["port"] for probe in ("readinessProbe", "livenessProbe")}
        assert asked == {int(parameters.get("node-manager-port", 6379))}
    ports = {port["containerPort"] for port in first["ports"]}
    command = driver["command"]
    assert command[command.index("--address") + 1] == f"ray://{name}-head-svc:10001"
    assert 10001 in ports
    tokens = [one["valueFrom"]["secretKeyRef"] for one in driver["env"] if one["name"] == "RAY_AUTH_TOKEN"]
    assert tokens == [{"name": name, "key": "auth_token"}]
    settings = dict(word.split("=") for word in command if word.startswith("workers."))
    assert int(settings["workers.most"]) == int(settings["workers.per_gpu"]) * gpus * workers["maxReplicas"]


def test_ray_cluster_is_of_the_version_that_the_tests_run_with():
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    assert MANIFESTS[0]["spec"]["rayVersion"] == ray.__version__
    scripts = pytest.importorskip("ray.scripts.scripts")
    known = {option for one in scripts.cli.commands["start"].params for option in one.opts}
    spec = MANIFESTS[0]["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert {f"--{name}" for name in group["rayStartParams"]} <= known


def test_only_own_pods_reach_the_cluster():
    cluster, policy, job = MANIFESTS
    assert len({manifest["metadata"]["namespace"] for manifest in (cluster, policy, job)}) == 1
    assert policy["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {}}]}],
    }


def test_the_job_asks_for_what_there_is():
    (container,) = MANIFESTS[2]["spec"]["template"]["spec"]["containers"]
    program, *words = container["command"]
    assert program == "genas"
    check_genas(words)
    assert MANIFESTS[2]["spec"]["template"]["spec"]["restartPolicy"] == "Never"  # as a podFailurePolicy demands


def test_times_are_those_of_ray():
    raylet = pytest.importorskip("ray._raylet", reason="the extra ray is not installed")
    told = re.findall(r"`RAY_(health_check_\w+)`\s*\((\d+)\)", PAGE)
    assert len(told) == 4
    assert {name: int(number) for name, number in told} == {name: getattr(raylet.Config, name)() for name, _ in told}
