"""The real worker, with a training that writes to standard output by every way there is, or one that hangs."""

import os
import subprocess
import sys
import time

import training
from data_gen import worker

_train = training.train


def noisy(*arguments, **options):
    print("a library says hello")
    print('{"job": 1, "result": {}}', flush=True)
    os.write(1, b"bytes\n")
    sys.__stdout__.flush()
    subprocess.run([sys.executable, "-I", "-S", "-c", "print('a child says hello')"], check=True)
    return _train(*arguments, **options)


def hanging(*arguments, **options):
    while True:
        time.sleep(60)


if __name__ == "__main__":
    training.train = hanging if "hang" in sys.argv else noisy
    worker.main()
