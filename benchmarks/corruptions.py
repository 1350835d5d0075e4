"""Seconds of each corruption at each severity on 10,000 pictures of 32 x 32.

    python benchmarks/corruptions.py [--npz cifar10.npz] [--device cuda] [--threads N] [--out FILE.json] [--quick]

``--npz`` is a file with train_images (uint8, N x 32 x 32 x 3), of which the first 10,000 are taken; without it the
pictures are smooth noise. Each cell is measured once, after 256 pictures that nobody counts: tables and textures are
made then. ``--quick`` takes 1,000 pictures. Beside the wall clock stands the processor's time, which says more on a
machine that is shared. The last line is one JSON object: seconds of all cells, of each corruption
(one number a severity) and of the slowest cell.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.corruptions import CORRUPTIONS, EXTRA, SEVERITIES, corrupt


def load(npz: Path | None, count: int) -> Tensor:
    """uint8 (count, 32, 32, 3)."""
    if npz is not None:
        with np.load(npz, allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["train_images"][:count])
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic")
    return smooth.mul(255).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npz", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="of the CPU (default: torch's own choice)")
    parser.add_argument("--out", type=Path, help="also write the figures here")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    pictures = load(arguments.npz, 1_000 if arguments.quick else 10_000).to(device)
    seconds: dict[str, list[float]] = {}
    processor = 0.0
    for name in (*CORRUPTIONS, *EXTRA):
        seconds[name] = []
        for severity in SEVERITIES:
            corrupt(pictures[:256], name, severity, seed=0)
            wait(device)
            started, used = time.perf_counter(), time.process_time()
            corrupt(pictures, name, severity, seed=0)
            wait(device)
            seconds[name].append(round(time.perf_counter() - started, 3))
            processor += time.process_time() - used
        print(f"{name:<18}", *(f"{value:7.3f}" for value in seconds[name]), flush=True)
    cells = [value for values in seconds.values() for value in values]
    options = [f"--device {device.type}", *(["--npz FILE"] if arguments.npz else [])]
    options += [f"--threads {arguments.threads}"] if arguments.threads else []
    options += ["--quick"] if arguments.quick else []
    figures = {
        "command": " ".join(["python benchmarks/corruptions.py", *options]),
        "pictures": len(pictures),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "seconds": round(sum(cells), 2),
        "processor_seconds": round(processor, 2),
        "seconds_of_fifteen": round(sum(sum(seconds[name]) for name in CORRUPTIONS), 2),
        "slowest_cell": max(cells),
        "seconds_by_corruption": seconds,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
