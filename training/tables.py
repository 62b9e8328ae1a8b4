"""Tables as spreadsheets read them, and as they must not run them."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from training.files import write_text


def write_table(path: Path, columns: Sequence[str], rows: Iterable[dict]) -> None:
    """`table_text` as a UTF-8 file, written as a whole."""
    write_text(path, table_text(columns, rows))


def table_text(columns: Sequence[str], rows: Iterable[dict]) -> str:
    """A CSV table; missing values are empty cells.

    A text cell that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(_cell, columns))
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return buffer.getvalue()


def _cell(value) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.9g}"
    text = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    return "'" + text if isinstance(value, str) and text[:1] in tuple("=+-@\t") else text
