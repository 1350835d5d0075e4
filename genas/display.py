"""Progress of the training stages: a bar with time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from data_gen import Progress
from genas.words import duration

_PLAIN_SECONDS = 10.0


class Display:
    """Shows progress on standard error; ``quiet`` shows nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True)
        self._quiet = quiet
        self._bar: Bar | None = None
        if not quiet and self._console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description:9}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[best]}"),
                console=self._console,
            )

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stage(self, name: str) -> Callable[[Progress], None] | None:
        """The progress function of one training stage."""
        if self._quiet:
            return None
        clock = _Clock()
        task: TaskID | None = None
        if self._bar is not None:
            task = self._bar.add_task(name, total=None, left="", best="")

        def show(progress: Progress) -> None:
            done = progress.done + progress.failed
            left = clock.left(done + sum(progress.running), progress.total)
            best = "" if progress.best is None else f"best {progress.best:.2%}"
            failed = f", {progress.failed} failed" if progress.failed else ""
            if progress.asked and not progress.running:  # of a cluster
                failed += f", waiting for {progress.asked} worker{'s' if progress.asked > 1 else ''}"
            if self._bar is not None and task is not None:
                self._bar.update(
                    task, total=progress.total, completed=done, left=left.removesuffix(", "), best=best + failed
                )
            elif clock.due(done == progress.total):
                sys.stderr.write(f"{name}: {done} of {progress.total}{failed}, {left}{best}\n".replace(", \n", "\n"))
                sys.stderr.flush()

        return show

    def counts(self, name: str) -> Callable[[int, int], None] | None:
        """The progress function of what is counted and not trained, (done, in all)."""
        show = self.stage(name)
        if show is None:
            return None
        return lambda done, total: show(Progress(done, 0, total, (), None))


class _Clock:
    """Time left from the share of the work done since the first look, and when a plain line is due."""

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None
        self._shown = 0.0
        self._ended = False

    def left(self, done: float, total: int) -> str:
        now = time.monotonic()
        if self._start is None:
            self._start = (now, done)
        since, before = self._start
        if done <= before or done >= total:
            return ""
        seconds = (now - since) / (done - before) * (total - done)
        return f"{duration(seconds)} left, "

    def due(self, last: bool) -> bool:
        now = time.monotonic()
        if (last and self._ended) or (not last and now - self._shown < _PLAIN_SECONDS):
            return False
        self._shown, self._ended = now, last
        return True
