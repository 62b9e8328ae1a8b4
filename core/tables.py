"""CSV tables: written so that no spreadsheet runs their cells, and read back as they were before.

A text that a spreadsheet might run as a formula gets an apostrophe in front (https://owasp.org/www-community/attacks/
CSV_Injection); reading removes it. The two are inverse for every text, also for one that begins with an apostrophe.
"""

import codecs
import csv
import io
import numbers
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from core.files import printable, write_text

MOST_COLUMNS = 5_000  # tables of radiomics features have a few thousand
EXACT = 1e15  # a spreadsheet keeps 15 digits of a number
LONGEST_LIST = 500  # characters of the names of columns in an error
_FORMULA = frozenset("=+-@")
_CONTROLS = frozenset("\t\r\n")
_QUOTED = re.compile('[,"\r\n]')


def write_table(path: Path, columns: Sequence[str], rows: Iterable[dict]) -> None:
    """`table_text` as a UTF-8 file, written as a whole."""
    write_text(path, table_text(columns, rows))


def table_text(columns: Sequence[str], rows: Iterable[dict], raw_bytes: bool = False) -> str:
    """A CSV table; missing values are empty cells, texts that a spreadsheet would run are escaped (see the module).

    raw_bytes: bytes of file names that are not UTF-8 stay, as surrogate escapes; else they appear as \\udcNN.
    """
    lines = (line_text([row.get(column) for column in columns], raw_bytes) for row in rows)
    return "".join((line_text(columns, raw_bytes), *lines))


def read_cells(
    path: Path, header: bool = True, raw_bytes: bool = False, blank: bool = False
) -> tuple[list[str], list[list[str]]]:
    """(names of the columns, cells of each row) of a CSV file in UTF-8; without `header` there are no names.

    Apostrophes of `table_text` are removed. Empty rows at the end do not count, blank lines between rows only if
    `blank`, as rows of empty cells. Bytes that are not UTF-8 are refused, or with `raw_bytes` kept as surrogate
    escapes. ValueError names the file, and the row (the header is row 1) of one that has too few or too many cells; see
    `checked_names` for the names.
    """
    raw = Path(path).read_bytes()
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{printable(path)}: not a readable table (UTF-16; save it as UTF-8)")
    try:
        return parse_cells(
            path, raw.decode("utf-8", "surrogateescape" if raw_bytes else "strict"), header, blank
        )
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{printable(path)}: not a readable table (not UTF-8 at byte {error.start})"
        ) from None


def parse_cells(
    path: Path, text: str, header: bool = True, blank: bool = False
) -> tuple[list[str], list[list[str]]]:
    """The same of the `text` of a file; `path` is for messages."""
    shown = printable(path)
    try:
        lines = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
        rows = [row for row in lines if row or blank]
    except csv.Error as error:
        raise ValueError(f"{shown}: not a readable table ({error})") from None
    if "'" in text:
        rows = [[unescape(cell) for cell in row] for row in rows]
    while rows and not any(map(str.strip, rows[-1])):
        rows.pop()
    if not rows:
        raise ValueError(f"{shown}: not a readable table (it is empty)")
    names = checked_names(path, rows.pop(0)) if header else []
    _check_lengths(shown, rows, names or rows[0], 1 + header)
    return names, rows


def _check_lengths(shown: str, rows: list[list[str]], expected: list[str], first: int) -> None:
    """ValueError for a row that is not as long as `expected`; empty cells at its end beyond that are removed.

    first: the number of the first of the `rows`.
    """
    for number, row in enumerate(rows, first):
        row += [""] * len(expected) if not row else []
        while len(row) > len(expected) and not row[-1].strip():  # a comma at the end of a line
            row.pop()
        if len(row) != len(expected):
            known = f"the {'header' if first == 2 else 'first row'} {len(expected)}"
            raise ValueError(
                f"{shown}: row {number} has {len(row)} cells, {known}: not a readable table"
            )


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file of ours, by column. FileNotFoundError; ValueError also for one of `columns` it lacks."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{printable(path)}: no such table")
    names, rows = read_cells(path, raw_bytes=True)
    require_names(path, names, columns)
    return [dict(zip(names, row)) for row in rows]


def checked_names(path: Path, names: Sequence[str]) -> list[str]:
    """The names of a table's columns, without outer spaces.

    ValueError: more than `MOST_COLUMNS`, or two that differ at most in case, in spaces or in the form of their
    characters: a program that reads the table would take one of them, and another program the other. Columns without a
    name are left alone.
    """
    if len(names) > MOST_COLUMNS:
        raise ValueError(
            f"{printable(path)}: {len(names):,} columns; a table may have {MOST_COLUMNS:,}"
        )
    names = [name.strip() for name in names]
    first: dict[str, str] = {}
    for name in names:
        key = " ".join(unicodedata.normalize("NFKC", name).split()).casefold()
        if key and key in first:
            both = " and ".join(repr(printable(one)[:100]) for one in (first[key], name))
            raise ValueError(
                f"{printable(path)}: columns {both} have the same name; rename or remove one of them"
            )
        first[key] = name
    return names


def require_names(path: Path, names: Iterable[str], columns: Sequence[str]) -> None:
    """ValueError naming the table and the first of `columns` that is not among the `names` of its columns."""
    names = list(map(str, names))
    for column in columns:
        if column not in names:
            raise ValueError(f"{printable(path)}: no column {column!r}; it has {list_names(names)}")


def list_names(names: Iterable[object]) -> str:
    """Names for an error, separated by commas: as many as fit into `LONGEST_LIST` characters, and how many are left."""
    shown: list[str] = []
    names = list(names)
    length = 0
    for name in names:
        text = printable(str(name))[:100]
        length += len(text) + 2
        if length > LONGEST_LIST:
            return f"{', '.join(shown)} and {len(names) - len(shown):,} more"
        shown.append(text)
    return ", ".join(shown) or "none"


def escape(text: str) -> str:
    """`text` with an apostrophe in front if a spreadsheet might run it as a formula."""
    return "'" + text if _needs_apostrophe(text) else text


def unescape(cell: str) -> str:
    """What `escape` was given."""
    return cell[1:] if cell[:1] == "'" and _needs_apostrophe(cell[1:]) else cell


def _needs_apostrophe(text: str) -> bool:
    """Whether a text begins, possibly after spaces and invisible characters, with a sign of formulas in any width, or
    with a control character; or is what `escape` makes of such a text, which must stay distinct from it."""
    text = text.lstrip("'") if text[:1] == "'" else text
    if text[:1].isalnum() or not text:
        return False
    if text[0] in _CONTROLS:
        return True
    for character in text:
        if not (character.isspace() or unicodedata.category(character)[0] == "C"):
            return unicodedata.normalize("NFKC", character)[0] in _FORMULA
    return False


def number_text(value: float, digits: int = 17) -> str:
    """A number of at most `digits` digits, of which 17 tell any two apart; whole ones up to 15 are not cut."""
    value = float(value)
    if value.is_integer() and abs(value) < EXACT:
        return str(int(value))
    return repr(value) if digits >= 17 else f"{value:.{digits}g}"


def line_text(values: Sequence, raw_bytes: bool = False) -> str:
    """A line of a table. `csv.writer` of Python 3.11 and 3.12 leaves a lone carriage return without quotes."""
    cells = [_cell(value, raw_bytes) for value in values]
    cells = [
        '"' + cell.replace('"', '""') + '"' if _QUOTED.search(cell) else cell for cell in cells
    ]
    return (",".join(cells) or '""') + "\n"


def _cell(value, raw_bytes: bool) -> str:
    if not isinstance(value, str | os.PathLike):
        if value is None or value is pd.NA or value != value:
            return ""
        if isinstance(value, float):
            return number_text(value, digits=9)
        if isinstance(value, numbers.Number):
            return str(value)
    text = os.fsdecode(value) if isinstance(value, os.PathLike) else str(value)
    if not (raw_bytes or text.isascii()):
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return escape(text)
