"""A worker process: reads jobs as JSON lines, trains, answers with JSON lines.

It learns everything from its first line, never touches the store, and dies with its driver: when
standard input closes, it stops at once, whatever it is doing.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training import Checkpoints
    from training.corrupted import CorruptedSplit

_HEARTBEAT_SECONDS = 0.5
_GPU_SECONDS = 10.0
_PARENT_DEATH_SIGNAL = 1  # of prctl(2)
_SHORT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "bad_alloc",
    "not enough memory",
    "could not create a memory",
)


def main() -> None:
    """Serve jobs until standard input closes."""
    _die_with_driver()
    # Only our lines may reach the driver: whatever a library prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: queue.Queue[dict[str, Any]] = queue.Queue()
    stop = threading.Event()
    threading.Thread(target=_listen, args=(sys.stdin, lines, stop), daemon=True).start()
    logging.getLogger("genas").addHandler(_Relay(answers))
    context = _Context(lines.get(), answers, stop)
    answers.write('{"ready": true}\n')
    answers.flush()
    while True:
        context.run(lines.get())


class _Relay(logging.Handler):
    """Passes warnings on to the driver, whose user sees them; nobody reads a worker's own words."""

    def __init__(self, answers: TextIO) -> None:
        super().__init__(logging.WARNING)
        self._answers = answers

    def emit(self, record: logging.LogRecord) -> None:
        self._answers.write(json.dumps({"warning": record.getMessage()}) + "\n")
        self._answers.flush()


def _die_with_driver() -> None:
    """Have the kernel kill this process when its driver dies: also while it is stopped or deep in a library."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _listen(source: TextIO, lines: queue.Queue[dict[str, Any]], stop: threading.Event) -> None:
    for line in source:
        message = json.loads(line)
        if message.get("stop"):
            stop.set()
        else:
            lines.put(message)
    # The driver is gone: an orphan must not go on using the device, nor may what it has started.
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


class _Context:
    """What stays the same from job to job: device, splits, space."""

    def __init__(self, first: Mapping[str, Any], answers: TextIO, stop: threading.Event) -> None:
        import torch

        from training import load_split, open_prepared

        torch.set_num_threads(int(first["threads"]))
        self.device = torch.device(first["device"])
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        self.answers, self.stop = answers, stop
        self.space = first["space"]  # its settings, which a checkpoint is bound to
        self.info = open_prepared(Path(first["data"]), int(first["memory_megabytes"]))
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
        self.processes = int(first["processes"])
        self.pieces = 1  # of the training at hand
        self.gpu: dict[str, str | float] | None = None
        if self.device.type == "cuda":
            threading.Thread(target=self._watch_gpu, daemon=True).start()
        self.corrupted: CorruptedSplit | None = None
        if first.get("robustness") is not None:
            from training.corrupted import CorruptedSplit
            from training.robustness import RobustnessSettings

            settings = RobustnessSettings.model_validate_json(json.dumps(first["robustness"]))
            self.corrupted = CorruptedSplit(self.measured, settings)

    def run(self, job: Mapping[str, Any]) -> None:
        import torch

        from supernet.settings import UnavailableError
        from training import DivergedError, StoppedError

        try:
            answer: dict[str, object] = {"result": self._train(job)}
        except StoppedError:
            answer = {"stopped": True}
        except UnavailableError as error:  # a full disk is no fault of the architecture
            answer = {"failure": "unavailable", "message": str(error)}
        except DivergedError as error:
            answer = {"failure": "diverged", "message": str(error)}
        except (MemoryError, torch.OutOfMemoryError) as error:
            answer = {"failure": "oom", "message": self._short_of_memory(job, error)}
        except Exception as error:  # noqa: BLE001 - the one boundary: a failing architecture is a row, not the end
            if isinstance(error, RuntimeError) and any(words in str(error) for words in _SHORT_OF_MEMORY):
                answer = {"failure": "oom", "message": self._short_of_memory(job, error)}  # the CPU has no error class
            else:
                answer = {"failure": "crash", "message": f"{type(error).__name__}: {error}"}
                traceback.print_exc()
        self._answer(job, **answer)
        if "result" not in answer:
            os._exit(1)  # a process that has seen an error is replaced: its memory and device state are suspect

    def _answer(self, job: Mapping[str, Any], **content: object) -> None:
        self.answers.write(json.dumps({"job": job["job"], **content}, allow_nan=False) + "\n")
        self.answers.flush()

    def _train(self, job: Mapping[str, Any]) -> dict[str, object]:
        from data_gen.memory import pieces_needed
        from supernet.graph import named_graph_from_json
        from supernet.network import build_network
        from training import Recipe, StoppedError, train
        from training.corrupted import measure_robustness

        graph = named_graph_from_json(job["graph"])
        seed, recipe = int(job["seed"]), Recipe.model_validate(job["recipe"])
        network = build_network(graph, seed)
        size = min(recipe.batch_size, len(self.training))
        needed = pieces_needed(graph, network, recipe, size, self.budget())
        pieces = self.pieces = min(size, job["pieces"] * needed)
        batches, last = 0, time.monotonic()

        def progress(step: int, total: int) -> None:
            nonlocal batches, last
            batches += 1  # what the driver takes for progress: a process that only seems alive makes none
            if time.monotonic() - last >= _HEARTBEAT_SECONDS:
                last = time.monotonic()
                gpu = {} if self.gpu is None else {"gpu": self.gpu}
                self._answer(job, step=step, steps=total, batches=batches, **gpu)

        result = train(
            network,
            self.training,
            self.measured,
            self.info.normalisation,
            recipe,
            seed,
            job["key"],
            progress,
            watch=self.measure != "test",
            pieces=pieces,
            checkpoints=self._checkpoints(job, pieces),
            stop=self.stop.is_set,
            keep_last=self.corrupted is not None,
        )
        content = result.to_json()
        if self.corrupted is not None:

            def alive() -> None:
                progress(1, 1)
                if self.stop.is_set():
                    raise StoppedError("stopped while robustness was measured")

            content["metrics"] = measure_robustness(
                network, self.corrupted, self.info.normalisation, recipe, alive, pieces
            )
        if job["weights"]:
            _save(network, Path(job["weights"]))
        return content

    def _watch_gpu(self) -> None:
        from training.devices import gpu_use

        while True:
            self.gpu = gpu_use(str(self.device))
            if self.gpu is None:
                return
            time.sleep(_GPU_SECONDS)

    def budget(self) -> float:
        """Bytes that a training of this process may take: its share of the device, whatever is free just now."""
        from data_gen.memory import memory_share
        from training.devices import total_memory

        total = total_memory(str(self.device))
        if total is None:
            return math.inf
        data = sum(split.images.numel() for split in (self.training, self.measured))
        data += 0 if self.corrupted is None else self.corrupted.bytes
        return max(0.0, memory_share(str(self.device), total, self.processes) - data)

    def _checkpoints(self, job: Mapping[str, Any], pieces: int) -> Checkpoints | None:
        from training import Checkpoints

        if job["checkpoints"] is None:
            return None
        identity = {name: job[name] for name in ("choices", "seed", "recipe")} | {
            "pieces": pieces,
            "space": self.space,
            "images": self.info.folder.name,
            "measure": self.measure,
        }
        folder, name = job["checkpoints"]
        return Checkpoints(Path(folder), name, identity, float(job["checkpoint_seconds"]))

    def _short_of_memory(self, job: Mapping[str, Any], error: Exception) -> str:
        """What was tried, and how large it was."""
        from supernet import graph_costs
        from supernet.graph import named_graph_from_json

        costs = graph_costs(named_graph_from_json(job["graph"]))
        size = min(int(job["recipe"]["batch_size"]), len(self.training))
        return (
            f"batches of {size} images in {self.pieces} pieces of {-(-size // self.pieces)}, "
            f"{costs.activations:,} activations an image, {costs.params:,} parameters: "
            f"{str(error).strip().partition(chr(10))[0] or type(error).__name__}"
        )


def _save(network: nn.Module, path: Path) -> None:
    from safetensors.torch import save

    from supernet.files import bytes_digest, write_bytes, write_json

    state: Mapping[str, Tensor] = network.state_dict()
    weights = save({name: tensor.contiguous().cpu() for name, tensor in state.items()})
    write_bytes(path, weights)
    write_json(path.with_suffix(".json"), {"weights": bytes_digest(weights)})


if __name__ == "__main__":
    main()
