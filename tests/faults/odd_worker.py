"""The real worker with something that happens in the middle of a training; called with what and a folder for notes.

``short``: the training of seed 102 gets little address space, so that torch's own allocator fails.
``kill N``: kill -9 of itself at the N-th file that is given its name, before it is.
``killed N``: the same after it.
``watch``: every file that is opened is noted, and every use of the network, as an audit hook sees it.
"""

import os
import resource
import signal
import sys
from pathlib import Path

import training
from data_gen import worker

what, notes = sys.argv[1], Path(sys.argv[2])
_train, _replace = training.train, Path.replace


def short(network, split, measured, normalisation, recipe, seed, *arguments, **options):
    if seed == 102:
        status = Path("/proc/self/status").read_text()
        now = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmSize:"))
        resource.setrlimit(resource.RLIMIT_AS, (now + 96 * 2**20, resource.RLIM_INFINITY))
    return _train(network, split, measured, normalisation, recipe, seed, *arguments, **options)


class Fatal:
    """Kills this process at the N-th call, once in the life of the notes."""

    def __init__(self, number, after):
        self.number, self.after, self.count = number, after, 0

    def __call__(self, path, target):
        self.count += 1
        due = self.count == self.number and not (notes / "killed").exists()
        if due:
            (notes / "killed").touch()
        if due and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = _replace(path, target)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


opened = os.open(notes / f"opened-{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        os.write(opened, f"{arguments[0]}\n".encode())
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        os.write(opened, f"network: {event}\n".encode())


if __name__ == "__main__":
    if what == "short":
        training.train = short
    elif what in ("kill", "killed"):
        fatal = Fatal(int(sys.argv[3]), what == "killed")
        Path.replace = lambda path, target: fatal(path, target)
    elif what == "watch":
        sys.addaudithook(note)
    worker.main()
