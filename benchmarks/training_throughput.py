"""Our training engine against a plain loop, on the same networks, pictures and epochs.

    python benchmarks/training_throughput.py --npz cifar100.npz [--device cuda] [--quick] [--classes NAME,...]

``--npz`` is a file with train_images, train_labels, test_images, test_labels (uint8, N x 32 x 32 x 3).

The plain loop is what a competent user writes: a torchvision data set, PIL transforms (random crop, flip, to tensor,
normalise), a DataLoader with workers, plain NCHW, ``torch.optim.SGD`` with momentum and the same schedule and label
smoothing, automatic mixed precision on a GPU. It is tuned first: one training at a time on all cores with 0, 1 or 2
loader workers, or as many trainings at a time as there are cores; the fastest on each class of networks is the rival.
Our engine runs as the workers of a run do: a process and a thread for each core.

Networks are trained as many at a time as there are cores, by one and by the other in turn; a ratio is the plain loop's
images a second over all cores against ours, from the moment that all processes are ready to the end of the last one's
training and measuring. Classes: ``op_subset`` (random members, dilated operations and all), ``no_dilation`` (random
members without dilated operations), ``dense`` (chains of plain convolutions), ``davidnet`` (ResNet-9).

On a GPU, 12 networks of op_subset are trained besides in as many processes as share a card well, and the time of 300
networks with 60 epochs of 50,000 images is extrapolated from them. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_gen.processes import KEPT_MEMORY
from supernet import ArchGraph, OpSubset, architectures
from supernet.network import build_network
from supernet.operations import operation
from supernet.spaces import make_space
from training import Normalisation, Recipe, Split, train

CORES = len(os.sched_getaffinity(0))
NO_DILATION = ["skip", "sep_conv_3", "sep_conv_5", "sep_conv_7"]
DENSE = ((32, 64, 128), (24, 48, 96, 96), (48, 48, 96), (16, 64, 64, 128))
PLANS = {  # class of networks: (images, epochs, networks), and the same for --quick
    "op_subset": ((1024, 3, 10), (256, 1, 2)),
    "no_dilation": ((1024, 3, 8), (256, 1, 2)),
    "dense": ((1024, 3, 4), (256, 1, 2)),
    "davidnet": ((256, 1, 2), (128, 1, 2)),
}
VALIDATION = 1000


def graph(kind: str, number: int) -> ArchGraph:
    """One network of a class."""
    if kind == "dense":
        widths = DENSE[number % len(DENSE)]
        nodes = [operation("input", "input", out=3, resolution=32)]
        side, channels = 32, 3
        for width in widths:
            stride = 1 if channels == 3 else 2
            side //= stride
            nodes.append(
                operation(
                    "conv_bn_relu6", f"layer{len(nodes)}", in_=channels, out=width, kernel=3, stride=stride,
                    resolution=side,
                )
            )  # fmt: skip
            channels = width
        nodes.append(operation("global_mean", "mean", in_=channels, out=channels, resolution=1))
        nodes.append(operation("linear", "classifier", in_=channels, out=100, resolution=1))
        return ArchGraph(tuple(nodes), tuple((at, at + 1) for at in range(len(nodes) - 1)))
    if kind == "davidnet":
        space: Any = make_space({"kind": "davidnet", "classes": 100, "ghost_images": 0})
        members = [space.default, *architectures(space, space.sample(8, np.random.default_rng(0)))]
        return space.graph(members[number])  # type: ignore[no-any-return]
    space = OpSubset() if kind == "op_subset" else OpSubset(operations=NO_DILATION)  # type: ignore[arg-type]
    return space.graph(architectures(space, space.sample(64, np.random.default_rng(0)))[number])


def recipe(job: dict[str, Any]) -> Recipe:
    return Recipe(
        epochs=job["epochs"], batch_size=job["batch"], learning_rate=0.05, validate_every=job["epochs"],
        precision="bfloat16" if job["device"] == "cuda" else "float32",
    )  # fmt: skip


def load(job: dict[str, Any]) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    with np.load(job["npz"], allow_pickle=False) as arrays:
        images, labels = arrays["train_images"], arrays["train_labels"].astype(np.int64)
    kept, held = job["images"], job["validation"]
    return (images[:kept], labels[:kept]), (images[-held:], labels[-held:])


def say_ready() -> None:
    """All processes begin together, when each has its imports and pictures."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """One training by our engine."""
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    training, held = (
        Split(torch.from_numpy(images), torch.from_numpy(labels)).to(torch.device(job["device"]))
        for images, labels in load(job)
    )
    network = build_network(graph(job["kind"], job["number"]), 0)
    normalisation = Normalisation.of(training.images[:5000].cpu().numpy())
    say_ready()
    result = train(network, training, held, normalisation, recipe(job), 0, str(job["number"]))
    return {"accuracy": result.accuracy, "loss": result.curves.train_loss[-1], "memory": result.peak_memory}


def plain(job: dict[str, Any]) -> dict[str, Any]:
    """One training as a user would write it."""
    from PIL import Image
    from torch.utils.data import DataLoader
    from torchvision.datasets import VisionDataset
    from torchvision.transforms import v2 as transforms

    torch.set_num_threads(job["threads"])
    torch.backends.cudnn.benchmark = True
    device, options = job["device"], recipe(job)
    training, held = load(job)
    normalisation = Normalisation.of(training[0][:5000])
    tail = [
        transforms.PILToTensor(),
        transforms.ToDtype(torch.float32, scale=True),
        transforms.Normalize(normalisation.mean, normalisation.deviation),
    ]
    augmented = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *tail])

    class Pictures(VisionDataset):
        def __init__(self, images: Any, labels: Any, transform: Any) -> None:
            super().__init__("", transform=transform)
            self.images, self.labels = images, labels

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])

    workers = {"num_workers": job["workers"], "persistent_workers": job["workers"] > 0, "pin_memory": device == "cuda"}
    loader = DataLoader(Pictures(*training, augmented), job["batch"], shuffle=True, drop_last=True, **workers)  # type: ignore[arg-type]
    checker = DataLoader(Pictures(*held, transforms.Compose(tail)), 512, **workers)  # type: ignore[arg-type]
    network = build_network(graph(job["kind"], job["number"]), 0).to(device)
    loss_function = nn.CrossEntropyLoss(label_smoothing=options.label_smoothing)
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=options.learning_rate, momentum=options.momentum, nesterov=True,
    )  # fmt: skip
    steps = len(loader) * options.epochs
    rising = options.warmup * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (step + 1) / (rising + 1) if step < rising else (steps - step) / (steps - rising)
    )
    say_ready()
    for _ in range(options.epochs):
        network.train()
        total, count = 0.0, 0
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            optimizer.zero_grad()
            with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
                loss = loss_function(network(images), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            total, count = total + loss.item() * len(labels), count + len(labels)
    network.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in checker:
            with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
                scores = network(images.to(device))
            correct += int((scores.argmax(dim=1).cpu() == labels).sum())
    return {"accuracy": correct / job["validation"], "loss": total / count}


def together(jobs: list[dict[str, Any]]) -> tuple[float, list[dict[str, Any]]]:
    """(seconds from a common start to the last end, results) of jobs that run at the same time."""
    environment = dict(os.environ)
    if jobs[0]["engine"] == "ours" and jobs[0]["device"] == "cpu":
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **KEPT_MEMORY}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--job", json.dumps(job)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=environment,
        )
        for job in jobs
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "a training failed; see above"
    began = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = []
    for process in processes:
        assert process.stdout is not None
        results.append(json.loads(process.stdout.read().splitlines()[-1]))
        assert process.wait() == 0
    return max(result["finished"] for result in results) - began, results


def rate(jobs: list[dict[str, Any]], at_once: int) -> tuple[float, list[dict[str, Any]]]:
    """(images a second, results) of jobs, so many at a time."""
    seconds, results = 0.0, []
    for start in range(0, len(jobs), at_once):
        took, found = together(jobs[start : start + at_once])
        seconds += took
        results += found
    return sum(job["images"] // job["batch"] * job["batch"] * job["epochs"] for job in jobs) / seconds, results


def ways(device: str) -> list[dict[str, Any]]:
    """What the plain loop may be run with: trainings at a time, threads and loader workers of each."""
    if device == "cuda":
        return [{"at_once": 1, "threads": CORES, "workers": count} for count in (4, 8, CORES)]
    alone = [{"at_once": 1, "threads": CORES, "workers": count} for count in (0, 1, 2)]
    return [*alone, {"at_once": CORES, "threads": 1, "workers": 0}]


def compare(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Ratios and accuracies of one class of networks."""
    images, epochs, count = PLANS[kind][1 if options.quick else 0]
    if options.device == "cuda":
        images, epochs, count = 48_000, 2, 4 if kind == "op_subset" else 2
    batch = 512 if options.device == "cuda" else 64
    base = {
        "npz": str(options.npz), "kind": kind, "device": options.device, "images": images, "epochs": epochs,
        "batch": batch, "validation": VALIDATION,
    }  # fmt: skip

    def jobs(engine: str, numbers: range, **more: Any) -> list[dict[str, Any]]:
        return [{**base, "engine": engine, "number": number, **more} for number in numbers]

    small = {"images": max(batch * 4, images // 8), "epochs": 1, "validation": 64}
    group = range(min(count, CORES if options.device == "cpu" else 1))
    tuned = {}
    for way in ways(options.device):
        name = f"{way['at_once']} at a time, {way['threads']} threads, {way['workers']} loader workers"
        tuned[name] = (rate(jobs("plain", group, **way, **small), way["at_once"])[0], way)
        print(f"{kind}: plain loop with {name}: {tuned[name][0]:.0f} images/s", flush=True)
    best = max(tuned, key=lambda name: tuned[name][0])
    way = tuned[best][1]
    pairs, found = [], []
    for start in range(0, count, len(group)):
        numbers = range(start, min(count, start + len(group)))
        slow, theirs = rate(jobs("plain", numbers, **way), way["at_once"])
        fast, mine = rate(jobs("ours", numbers), len(group))
        pairs.append((slow, fast))
        found += list(zip(theirs, mine, strict=True))
        print(f"{kind}: plain {slow:.0f}, ours {fast:.0f} images/s, ratio {fast / slow:.2f}", flush=True)
    ratios = sorted(fast / slow for slow, fast in pairs)
    gaps = [mine["accuracy"] - theirs["accuracy"] for theirs, mine in found]
    return {
        "networks": count, "images": images, "epochs": epochs, "batch": batch, "plain_way": best,
        "plain_images_per_second": round(statistics.median(slow for slow, _ in pairs), 1),
        "our_images_per_second": round(statistics.median(fast for _, fast in pairs), 1),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "ratio_median": round(statistics.median(ratios), 2),
        "accuracy": {
            "plain": round(statistics.mean(theirs["accuracy"] for theirs, _ in found), 4),
            "ours": round(statistics.mean(mine["accuracy"] for _, mine in found), 4),
            "difference": round(statistics.mean(gaps), 4),
            "standard_error": round(statistics.stdev(gaps) / len(gaps) ** 0.5, 4) if len(gaps) > 1 else None,
        },
        "last_training_loss": {
            "plain": round(statistics.mean(theirs["loss"] for theirs, _ in found), 4),
            "ours": round(statistics.mean(mine["loss"] for _, mine in found), 4),
        },
    }  # fmt: skip


def whole_experiment(options: argparse.Namespace) -> dict[str, Any]:
    """12 networks on one GPU, and what 300 x 60 x 50,000 images would take."""
    base = {
        "npz": str(options.npz), "kind": "op_subset", "device": "cuda", "images": 49_000, "epochs": 1 if options.quick
        else 3, "batch": 1024, "validation": VALIDATION, "engine": "ours",
    }  # fmt: skip
    rates = {}
    for at_once in (1, 2, 4):
        rates[at_once] = rate([{**base, "number": number} for number in range(12)], at_once)[0]
        print(f"12 networks, {at_once} at a time: {rates[at_once]:.0f} images/s", flush=True)
    best = max(rates.values())
    return {
        "images_per_second": {str(at_once): round(value) for at_once, value in rates.items()},
        "hours_extrapolated_300x60x50k": round(300 * 60 * 50_000 / best / 3600, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npz", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--classes", default=",".join(PLANS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job = json.loads(options.job)
        result = {"ours": ours, "plain": plain}[job["engine"]](job)
        print(json.dumps({**result, "finished": time.perf_counter()}))
        return
    if options.npz is None:
        parser.error("--npz is needed")
    figures: dict[str, Any] = {"device": options.device, "cores": CORES, "torch": torch.__version__}
    if options.device == "cuda":
        figures["card"] = torch.cuda.get_device_name()
    for kind in options.classes.split(","):
        figures[kind] = compare(kind, options)
    if options.device == "cuda":
        figures["whole_experiment"] = whole_experiment(options)
    on_cpu = options.device == "cpu"
    ratio = {kind: figures.get(kind, {}).get("ratio_median") for kind in PLANS}
    figures["cpu_ratio_op_subset"] = ratio["op_subset"] if on_cpu else None
    figures["cpu_ratio_no_dilation"] = ratio["no_dilation"] if on_cpu else None
    figures["gpu_ratio"] = None if on_cpu else ratio["op_subset"]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
