"""One worker process: started, spoken to in JSON lines, and ended with all that it has started itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from supernet.settings import UnavailableError

KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**26)}
"""Has glibc keep what is freed: to fetch each tensor anew from the kernel, page by page, is a tenth of a training."""


class WorkerProcess:
    """A process in a group of its own, a pipe to it and one back.

    Ctrl-C reaches the driver alone, which then stops the workers.

    Raises:
        UnavailableError: no more processes or files, no such program, no folder for its errors.
    """

    def __init__(self, command: Sequence[str], device: str) -> None:
        try:
            self._errors, error_path = tempfile.mkstemp(prefix="genas-worker-")
            Path(error_path).unlink()
        except OSError as error:
            raise UnavailableError(f"{tempfile.gettempdir()}: cannot write ({error.strerror})") from error
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if device == "cpu":  # one thread a process: the BLAS libraries read these before torch does
            environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **KEPT_MEMORY}
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._errors)
            raise UnavailableError(f"a worker process cannot be started ({error})") from error
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._input, self.output = process, process.stdin, process.stdout
        self._buffer = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Mapping[str, object]) -> None:
        """Write a line. To a dead process it is lost; its closed output tells so."""
        with suppress(BrokenPipeError):
            self._input.write(json.dumps(message).encode() + b"\n")
            self._input.flush()

    def read(self) -> list[bytes] | None:
        """The lines that are there, after waiting for something; None once the output is closed."""
        chunk = os.read(self.output.fileno(), 1 << 16)
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        return lines if chunk else None

    def kill(self) -> None:
        """Kill it with its whole group, before it is waited for: until then its number cannot belong to another."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def leave(self, seconds: float) -> None:
        """Close its input, which tells it to go, and give it so long."""
        with suppress(BrokenPipeError):
            self._input.close()
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._is_gone():
            time.sleep(0.02)

    def _is_gone(self) -> bool:
        """Whether it has ended; it is not waited for, see :meth:`kill`."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self) -> str:
        """Kill it with its group; says how it ended and its last words on standard error."""
        self.kill()
        code = self._process.wait()
        words = self._last_words()
        self.output.close()
        with suppress(BrokenPipeError):
            self._input.close()
        os.close(self._errors)
        return "; ".join(filter(None, (f"signal {-code}" if code < 0 else f"exit code {code}", words)))

    def _last_words(self) -> str:
        size = os.fstat(self._errors).st_size
        return os.pread(self._errors, 2000, max(0, size - 2000)).decode(errors="replace").strip()
