"""A worker process: reads jobs as JSON lines, trains, answers with JSON lines.

It learns everything from its first line, never touches the store, and dies with its driver: when
standard input closes, it stops at once, whatever it is doing.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from torch import Tensor

_HEARTBEAT_SECONDS = 0.5


def main() -> None:
    """Serve jobs until standard input closes."""
    # Only our lines may reach the driver: whatever a library prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin, lines), daemon=True).start()
    context = _Context(json.loads(lines.get()), answers)
    answers.write('{"ready": true}\n')
    answers.flush()
    while True:
        context.run(json.loads(lines.get()))


def _listen(source: TextIO, lines: queue.Queue[str]) -> None:
    for line in source:
        lines.put(line)
    os._exit(0)  # the driver is gone: an orphan must not go on using the device


class _Context:
    """What stays the same from job to job: device, splits, space."""

    def __init__(self, first: dict[str, object], answers: TextIO) -> None:
        import torch

        from supernet.spaces import make_space
        from training import load_split, open_prepared

        torch.set_num_threads(int(str(first["threads"])))
        self.device = torch.device(str(first["device"]))
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        self.answers = answers
        settings = first["space"]
        assert isinstance(settings, dict)
        self.space = make_space(settings)
        self.info = open_prepared(Path(str(first["data"])), int(str(first["memory_megabytes"])))
        self.training = load_split(self.info, "train").to(self.device)
        if first["measure"] == "test":
            # The last trainings learn from what chose as well: nothing is left to choose.
            validation = load_split(self.info, "validation").to(self.device)
            self.training = type(self.training)(
                torch.cat([self.training.images, validation.images]),
                torch.cat([self.training.labels, validation.labels]),
            )
            self.measured = load_split(self.info, "test").to(self.device)
        else:
            self.measured = load_split(self.info, "validation").to(self.device)
        self.measure = first["measure"]

    def run(self, job: dict[str, object]) -> None:
        import torch

        from supernet.settings import UnavailableError

        try:
            answer: dict[str, object] = {"result": self._train(job)}
        except UnavailableError as error:  # a full disk is no fault of the architecture
            answer = {"failure": "unavailable", "message": str(error)}
        except (MemoryError, torch.OutOfMemoryError) as error:
            answer = {"failure": "oom", "message": str(error) or type(error).__name__}
        except Exception as error:  # noqa: BLE001 - the one boundary: a failing architecture is a row, not the end
            kind = "diverged" if type(error).__name__ == "DivergedError" else "crash"
            if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
                kind = "oom"  # the CPU allocator has no error class of its own
            answer = {"failure": kind, "message": f"{type(error).__name__}: {error}"}
            if kind == "crash":
                traceback.print_exc()
        self.answers.write(json.dumps({"job": job["job"], **answer}, allow_nan=False) + "\n")
        self.answers.flush()
        if "failure" in answer:
            os._exit(1)  # a process that has seen an error is replaced: its memory and device state are suspect

    def _train(self, job: dict[str, object]) -> dict[str, object]:
        from supernet import Architecture
        from supernet.network import build_network
        from training import Recipe, train

        choices = job["choices"]
        assert isinstance(choices, list)
        architecture = Architecture(self.space.name, tuple(choices))
        seed = int(str(job["seed"]))
        network = build_network(self.space.graph(architecture), seed)
        last = time.monotonic()

        def progress(step: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= _HEARTBEAT_SECONDS:
                last = time.monotonic()
                self.answers.write(json.dumps({"job": job["job"], "step": step, "steps": total}) + "\n")
                self.answers.flush()

        result = train(
            network,
            self.training,
            self.measured,
            self.info.normalisation,
            Recipe.model_validate(job["recipe"]),
            seed,
            architecture.key,
            progress,
            watch=self.measure != "test",
        )
        if job.get("weights"):
            _save(network.state_dict(), Path(str(job["weights"])))
        return result.to_json()


def _save(state: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save

    from supernet.files import write_bytes

    write_bytes(path, save({name: tensor.contiguous().cpu() for name, tensor in state.items()}))


if __name__ == "__main__":
    main()
