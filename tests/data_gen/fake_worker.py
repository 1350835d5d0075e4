"""A worker that trains nothing: it speaks the protocol and answers with a label made from the choices.

Called with a folder for its notes. The training seed of a job says how it behaves; see BEHAVIOURS.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

BEHAVIOURS = {100: "crash", 101: "killed", 102: "oom", 103: "diverged", 104: "hang", 105: "stop", 106: "garbage",
              107: "number", 108: "twice", 109: "exit", 110: "torn", 111: "unavailable", 112: "large", 113: "chatter",
              114: "brood", 115: "nan", 116: "long", 117: "full", 118: "wait"}  # fmt: skip


def label(choices, seed):
    """The accuracy that a job gets: a function of its architecture and seed."""
    return (sum(choice * (position + 1) for position, choice in enumerate(choices)) * 7 + seed) % 97 / 97


def result(choices, seed):
    accuracy = label(choices, seed)
    return {
        "accuracy": accuracy, "loss": 1 - accuracy, "epochs": 1, "pieces": 1, "seconds": 0.02, "peak_memory": 1000,
        "images_per_second": 50.0, "curves": {"train_loss": [2.0, 1.0]},
    }  # fmt: skip


STOP = threading.Event()


def listen(lines):
    for line in sys.stdin:
        if "stop" in json.loads(line):
            STOP.set()
        else:
            lines.put(line)
    os._exit(0)


def answer(**content):
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


def fail(job, kind):
    answer(job=job, failure=kind, message=f"{kind}, as asked")
    os._exit(1)


def write(path, words):
    """A file of a training, in the way and order in which the real worker writes it: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(words)
    temporary.replace(path)


def train_long(job, notes):
    """Without a checkpoint to go on from, leave one, go on until the stop, and leave another."""
    folder, name = Path(job["checkpoints"][0]), job["checkpoints"][1]
    found = sorted(folder.glob(f"{name}.*.json"))
    if found:
        weights = found[-1].with_suffix(".safetensors").read_text()
        (notes / f"continued-{job['job']}").write_text(f"{found[-1].read_text()}, {weights}")
        return
    for step in (1, 2):
        for ending in ("safetensors", "json"):
            write(folder / f"{name}.{step:09d}.{ending}", f"{ending} of step {step}")
        batches = 0
        while step == 1 and not STOP.is_set():
            batches += 1
            answer(job=job["job"], step=1, steps=2, batches=batches)
            time.sleep(0.05)
    answer(job=job["job"], stopped=True)
    os._exit(1)


def serve(job, notes):
    number, seed = job["job"], job["seed"]
    with (notes / f"job-{number}").open("a") as file:
        file.write("x")
    behaviour = BEHAVIOURS.get(seed, "ok")
    if behaviour in ("crash", "oom", "diverged", "unavailable"):
        fail(number, behaviour)
    if behaviour == "twice" and (notes / f"job-{number}").stat().st_size <= 2:
        fail(number, "crash")
    if behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if behaviour == "exit":
        print("these are my last words", file=sys.stderr)
        os._exit(7)
    if behaviour in ("garbage", "number", "torn"):
        sys.stdout.write({"garbage": "hello\n", "number": "3\n", "torn": '{"job": 1, "resu'}[behaviour])
        sys.stdout.flush()
        os._exit(0)
    if behaviour == "large" and job["pieces"] == 1:
        fail(number, "oom")
    if behaviour == "full" and (notes / f"job-{number}").stat().st_size == 1:
        fail(number, "unavailable")
    if behaviour == "long":
        train_long(job, notes)
    if behaviour == "nan":
        answer(job=number, result={**result(job["choices"], seed), "accuracy": float("nan")})
    if behaviour == "brood":
        (notes / "grandchild").write_text(str(subprocess.Popen(["sleep", "1000"]).pid))
    while behaviour == "chatter":  # alive, and no batch further
        answer(job=number, step=1, steps=2, batches=1)
        time.sleep(0.05)
    batches = 2
    while behaviour == "wait" and not (notes / "go").exists() and not STOP.is_set():
        batches += 1
        answer(job=number, step=1, steps=2, batches=batches)
        time.sleep(0.05)
    while behaviour in ("hang", "brood", "nan"):
        time.sleep(60)
    for step in (1, 2):
        time.sleep(0.01)
        if STOP.is_set():
            answer(job=number, stopped=True)
            os._exit(1)
        answer(job=number, step=step, steps=2, batches=batches + step)
    if job["weights"]:
        write(Path(job["weights"]), f"weights of {job['key']}")
        write(Path(job["weights"]).with_suffix(".json"), f"about {job['key']}")
    answer(job=number, result=result(job["choices"], seed))


def main():
    notes = Path(sys.argv[1])
    lines = queue.Queue()
    threading.Thread(target=listen, args=(lines,), daemon=True).start()
    first = json.loads(lines.get())
    (notes / f"worker-{os.getpid()}.json").write_text(json.dumps(first))
    (notes / f"visible-{os.getpid()}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
    if (notes / "stillborn").exists():
        print("no such device", file=sys.stderr)
        os._exit(3)
    answer(ready=True)
    while True:
        serve(json.loads(lines.get()), notes)


if __name__ == "__main__":
    main()
