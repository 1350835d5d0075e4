"""One self-contained page for a run: no script, no network, readable at any stage of the run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis import words
from analysis.record import Record, read_record
from analysis.sections import next_command, sections, stages, summary
from supernet.files import write_text


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a run's folder, whole or not at all; an older one is replaced.

    It tells what the run has found so far, what is missing and the command that makes it.

    Returns:
        The path of the page.

    Raises:
        InputError: no run in the folder, or a damaged file.
        UnavailableError: the folder cannot be written.
    """
    record = read_record(folder)
    path = folder / "report.html"
    write_text(path, render(record))
    return path


def render(record: Record) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    progress = stages(record)
    return environment.get_template("report.html").render(
        name=record.name,
        subtitle=words.title(record),
        stages=progress,
        next_command=next_command(record),
        all_failed=any(stage.state == "failed" for stage in progress),
        summary=summary(record),
        sections=sections(record),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
