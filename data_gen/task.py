"""What the trainings of a stage share, and where they run."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from supernet import SearchSpace, Settings
from training import DataInfo, Recipe
from training.robustness import RobustnessSettings

WORKER = (sys.executable, "-P", "-m", "data_gen.worker")
"""The program that is a worker. On another machine it is the Python there that runs it."""


_ADDRESS = re.compile(r"(ray://)?[A-Za-z0-9._-]+:([0-9]{1,5})")


def _check_address(address: str) -> str:
    found = _ADDRESS.fullmatch(address)
    if address not in ("auto", "local") and (found is None or not 0 < int(found[2]) < 2**16):
        raise ValueError(f"expected auto, local, HOST:PORT or ray://HOST:PORT with a port below 65536, got {address!r}")
    return address


class WorkerSettings(Settings):
    """Where trainings run, how many side by side, and when one counts as hung.

    Attributes:
        runner: ``local`` starts processes on this machine; ``ray`` starts them on the nodes of a Ray cluster, which
            needs the extra ``genas[ray]``.
        address: of the cluster: ``auto`` is the one that this machine belongs to, ``local`` one that is started here
            for this run and reached from here alone, else ``HOST:PORT`` or ``ray://HOST:PORT``.
        dashboard: whether the cluster of ``address: local`` gets Ray's dashboard.
        most: at most so many trainings at once on a cluster, and as many are asked of one that grows by itself; None
            is as many as its nodes hold. A cluster that has none to train on is then waited for.
        device: ``auto`` takes every GPU, and the CPU where there is none.
        per_gpu: worker processes on one GPU; ``auto`` is as many as fit its memory with the largest network
            that is planned, at most four.
        cpu_workers: worker processes on the CPU of this machine, one thread each; None is one for each core. On the
            nodes of a cluster there is one for each core that Ray offers.
        stall_seconds: a worker that makes no step for so long is killed, its job failed as ``timeout``.
        retries: how often a job is tried again after ``crash`` or ``killed``; after ``oom`` it is tried once more
            with each batch in twice as many pieces; other failures are final.
        checkpoint_seconds: how often a training that takes longer leaves a checkpoint to go on from; on a cluster,
            where they travel, not more often than once a second for all workers together.
    """

    runner: Literal["local", "ray"] = "local"
    address: Annotated[str, AfterValidator(_check_address)] = "auto"
    dashboard: bool = False
    most: Annotated[int, Field(ge=1, le=100_000)] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    per_gpu: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = "auto"
    cpu_workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    stall_seconds: Annotated[float, Field(gt=0)] = 600.0
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0


@dataclass(frozen=True)
class Task:
    """What all jobs of a stage share.

    Attributes:
        space: the search space.
        data: the prepared images.
        measure: the split that gives the label; ``test`` also adds the validation images to training.
        weights: folder for the trained weights, as KEY-SEED.safetensors; None keeps none.
        checkpoints: folder for checkpoints inside a training; None keeps none.
        robustness: what corrupted images each trained network is measured on as well; None: on none.
        command: the program that is a worker; tests put a fake one here.
    """

    space: SearchSpace
    data: DataInfo
    recipe: Recipe
    measure: Literal["validation", "test"] = "validation"
    weights: Path | None = None
    checkpoints: Path | None = None
    robustness: RobustnessSettings | None = None
    command: tuple[str, ...] = WORKER

    def first_message(self, device: str, processes: int) -> dict[str, Any]:
        """What a worker is told before its first job.

        Args:
            processes: workers that share the device.
        """
        return {
            "device": device,
            "threads": 1,
            "data": str(self.data.folder),
            "memory_megabytes": self.data.memory_megabytes,
            "space": self.space.model_dump(mode="json"),
            "measure": self.measure,
            "processes": processes,
            "robustness": None if self.robustness is None else self.robustness.model_dump(mode="json"),
        }
