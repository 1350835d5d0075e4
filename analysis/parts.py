"""What a report is made of: sections with tables, figures and data."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_MOST_ROWS = 20_000  # of one table of data in the page


@dataclass(frozen=True)
class Table:
    """Cells as text; the first ``left`` columns are words, the others numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Attributes:
        missing: what is not there yet.
        figure: SVG; everything else is plain text that the template escapes.
        details: (summary, text) that can be opened.
    """

    key: str
    title: str
    missing: str = ""
    text: Sequence[str] = ()
    figure: str = ""
    caption: str = ""
    tables: Sequence[Table] = ()
    details: Sequence[tuple[str, str]] = ()


def csv_details(
    head: Sequence[str], rows: Iterable[Sequence[object]], summary: str = "Plotted data as CSV"
) -> tuple[str, str]:
    """Fractions and plain numbers, as a spreadsheet reads them; of very many rows only the first."""
    rows = list(rows)
    if len(rows) > _MOST_ROWS:
        summary = f"{summary}: the first {_MOST_ROWS:,} of {len(rows):,} rows, `genas export-table` writes all"
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows[:_MOST_ROWS])
    return summary, file.getvalue()
