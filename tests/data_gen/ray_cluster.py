"""A Ray cluster of several nodes on the loopback address of this machine, for tests and benchmarks.

``RayCluster`` is what they use. The cluster itself is this file run as a program: Ray has threads, so a process that
holds it must not be forked, and it takes whole processes with it when it is broken on purpose. The program reads
commands as JSON lines, answers each with one, and ends with all of its nodes when its input closes or its parent dies.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
INSTALLED = all(find_spec(name) is not None for name in ("ray", "grpc"))
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # under this name Ray keeps to the loopback address on Linux
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # or Ray looks for a token in the user's home
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "200",
    "RAY_health_check_timeout_ms": "2000",  # a stopped node counts as dead after two of these
    "RAY_health_check_failure_threshold": "2",
    "RAY_enable_metrics_collection": "0",
    "GRPC_ENABLE_FORK_SUPPORT": "0",  # with it a process that the server for ray:// starts hangs now and then
}


class RayCluster:
    """A head without a processor, and nodes that are added, stopped and killed. A context manager.

    Attributes:
        base: the folder of all its files.
        address: of the cluster, as HOST:PORT.
        client_address: of its server for ``ray://``.
    """

    def __init__(self):
        # Short: the address of a socket in it may have 107 bytes.
        self.base = Path(tempfile.mkdtemp(prefix="ray-"))

    def __enter__(self):
        environment = {**os.environ, **ENVIRONMENT, "RAY_TMPDIR": str(self.base), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._errors = (self.base / "errors").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(self.base)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, env=environment, text=True, start_new_session=True,
        )  # fmt: skip
        started = self._answer()
        self.address, self.client_address = started["address"], started["client"]
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        with suppress(ProcessLookupError):  # what is left where the program was killed: all of Ray is in its group
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()
        shutil.rmtree(self.base, ignore_errors=True)

    def add(self, cpus=1, gpus=0, **environment):
        """Start a node and return its number; it is part of the cluster then."""
        return self._ask(add={"cpus": cpus, "gpus": gpus, "environment": environment})["node"]

    def kill(self, node):
        """Kill everything on a node at once, as a power cut does."""
        self._ask(kill=node)

    def stop(self, node):
        """Stop everything on a node: to others it looks as if it were no longer on the network."""
        self._ask(stop=node)

    def kill_head(self):
        """Kill the process that knows of the whole cluster."""
        self._ask(kill_head=True)

    def node_of(self, pid):
        """The number of the node that a process of this machine belongs to; None where it belongs to none."""
        return self._ask(node_of=pid)["node"]

    def processes(self):
        """All processes of the cluster, first the one that holds it."""
        return self._ask(processes=True)["processes"]

    def folder(self, node):
        """What a node has on its disk: its cache and its temporary files."""
        return self.base / f"node{node}"

    def _ask(self, **command):
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the cluster has ended: {(self.base / 'errors').read_text()[-2000:]}")
        return json.loads(line)


def descendants(pid):
    """A process and all that it has started, directly or not, where a parent between is still there."""
    children = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for one in found:  # which grows meanwhile
        found += children.get(one, [])
    return found


def send(processes, number):
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


class _Program:
    """The cluster, in the process that holds it."""

    def __init__(self, folder):
        from ray.cluster_utils import Cluster

        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        head = {"num_cpus": 0, "include_dashboard": False, "include_log_monitor": False, "ray_client_server_port": port}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.client = f"ray://127.0.0.1:{port}"
        while True:  # its server is there a little later than the cluster
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        self.nodes = []

    def serve(self, command):
        match command:
            case {"add": wanted}:
                own = self.folder / f"node{len(self.nodes)}"
                for name in ("cache", "tmp"):
                    (own / name).mkdir(parents=True)
                kernels = Path(os.environ.get("GENAS_CACHE", "")) / "native"
                if kernels.is_dir():  # they are compiled once on this machine
                    (own / "cache" / "native").symlink_to(kernels.resolve())
                environment = {"GENAS_CACHE": str(own / "cache"), "TMPDIR": str(own / "tmp"), **wanted["environment"]}
                node = self.cluster.add_node(
                    num_cpus=wanted["cpus"], num_gpus=wanted["gpus"], env_vars=environment, include_log_monitor=False
                )
                self.nodes.append(raylet(node))
                return {"node": len(self.nodes) - 1}
            case {"kill": number}:
                everything = descendants(self.nodes[number])
                send(everything, signal.SIGSTOP)  # or one would start others meanwhile
                send(descendants(self.nodes[number]), signal.SIGKILL)
            case {"stop": number}:
                send(descendants(self.nodes[number]), signal.SIGSTOP)
            case {"kill_head": True}:
                self.cluster.head_node.kill_gcs_server(check_alive=False)
            case {"node_of": pid}:
                owners = [number for number, pid_of in enumerate(self.nodes) if pid in descendants(pid_of)]
                return {"node": owners[0] if owners else None}
            case {"processes": True}:
                return {"processes": descendants(os.getpid())}
            case _:
                raise ValueError(command)
        return {}

    def end(self):
        """Kill everything, stopped or not; whatever has lost its parent has lost its node too and goes by itself."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is heard
        send(descendants(os.getpid())[1:], signal.SIGKILL)
        for _ in range(50):  # until the last of them writes no more
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                return
            time.sleep(0.1)


def raylet(node):
    """The number of the process that all others of a node come from."""
    return node.all_processes["raylet"][0].process.pid


def main():
    import ctypes

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # which comes when the parent dies: its children may hold the pipe open
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever Ray prints
    program = _Program(Path(sys.argv[1]))
    try:
        answers.write(json.dumps({"address": program.cluster.address, "client": program.client}) + "\n")
        answers.flush()
        for line in sys.stdin:
            answers.write(json.dumps(program.serve(json.loads(line))) + "\n")
            answers.flush()
    finally:
        program.end()
        os._exit(0)  # Ray's own way out would wait for what is gone


if __name__ == "__main__":
    main()
