"""Tables of radiographs as files: .csv and .xlsx into columns that are text, numbers or flags, nothing lost on the way.

A cell is first of all a text. Columns that a reader asks for as text stay as written. Of the others, those that hold
only numbers become numbers, those that hold only True and False become flags, and the rest stays text, as do columns
with ids such as 007 or those of 16 digits, which a number would change. An empty cell is missing (NaN) everywhere. The
words in `NO_VALUE` are missing among numbers and flags, where they can mean nothing else; in a column of texts they are
words as any other ("None" may be a class, "NA" a manufacturer). Errors of a spreadsheet's formulas (#N/A, #REF!) are
never missing values: whoever needs the column refuses them.
"""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from openpyxl import load_workbook

from core.files import check_archive, printable, reason_of
from core.tables import MOST_COLUMNS, checked_names, number_text, read_cells, require_names
from data.reading.listing import Listings

MOST_CELLS = 5_000_000  # of an .xlsx sheet
NO_VALUE = frozenset(("na", "n/a", "nan", "none", "null", "<na>"))  # in any case
MARKS = ("-", "--", "---", ".", "?")  # where something is missing
SHEET_ERROR = r"#(?:[^\W\d_]+(?:/0)?[!?]|N/?[ADV]|#+)"  # #REF!, #DIV/0!, #N/A (#NV, #N/D), ########
_FLAGS = {"True": True, "TRUE": True, "true": True, "False": False, "FALSE": False, "false": False}
_ID = re.compile(
    r"\s*(?:0\d+|\d{16,})\s*"
)  # digits that a number does not keep: zeros in front, the last of many


def read_table(
    path: Path, text: Sequence[str] | None = (), names: Sequence[str] = ()
) -> pd.DataFrame:
    """A .csv (UTF-8) or .xlsx table; see the module for what its columns become. Names of columns are stripped.

    text: columns that stay as written ("00012" is no number); None for all. names: the columns of a csv table without
    header, all of them text; empty cells are "" there.
    FileNotFoundError; ValueError names the path: not a table, cells missing or left over in a row, two columns of the
    same name, more than `MOST_COLUMNS` columns.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{printable(path)}: no such table")
    if names:
        return _without_header(path, names)
    columns, rows = _read_workbook(path) if path.suffix.lower() == ".xlsx" else read_cells(path)
    columns = checked_names(
        path, [name or f"Unnamed: {place}" for place, name in enumerate(columns)]
    )
    cells = zip(*rows) if rows else [()] * len(columns)
    as_text = set(columns if text is None else text)
    content = [
        _texts(words) if name in as_text else _typed(words) for name, words in zip(columns, cells)
    ]
    return pd.concat(content, axis=1, keys=columns) if content else pd.DataFrame()


def require_columns(path: Path, rows: pd.DataFrame, columns: Sequence[str]) -> None:
    """ValueError naming the table and the first of `columns` that it lacks."""
    require_names(path, rows.columns, columns)


def paths_below(
    root: str | Path, table: str, names: Sequence[str], first_row: int = 2
) -> list[str]:
    """The files that a table of the data set `root` names; ValueError naming its row if one lies elsewhere.

    A name without extension means the one file of that name that has one; see `data.reading.listing.Listings`.
    first_row: number of the first row, 1 for a table without header.
    """
    listings = Listings()
    paths = []
    for row, name in enumerate(names, first_row):
        try:
            paths.append(str(listings.below(Path(root), name)))
        except ValueError as error:
            raise ValueError(f"{Path(root) / table}: row {row}: {error}") from None
    return paths


def refuse(table: Path, column: str, values: pd.Series, wrong: pd.Series, reason: str) -> None:
    """ValueError with table, row and column of the first of the `wrong` values; {} in `reason` is the value."""
    places = np.flatnonzero(wrong.to_numpy(bool))
    if places.size:
        value = printable(str(values.iloc[places[0]]))[:200]
        raise ValueError(
            f"{printable(table)}: row {places[0] + 2}: {column} {reason.format(value)}"
        )


def missing_words(values: pd.Series) -> pd.Series:
    """Which texts are words for a missing value: `NO_VALUE` in any case, empty or NaN. Bool, one per row."""
    missing = {value for value in set(values) if isinstance(value, str) and _is_missing(value)}
    return values.isna() | values.isin(missing)


def _is_missing(text: str) -> bool:
    word = text.strip()
    return not word or word.casefold() in NO_VALUE


def _without_header(path: Path, names: Sequence[str]) -> pd.DataFrame:
    _, rows = read_cells(path, header=False)
    if len(rows[0]) != len(names):
        raise ValueError(
            f"{printable(path)}: not a readable table ({len(rows[0])} columns; expected {' and '.join(names)} without "
            "a header)"
        )
    return pd.DataFrame(rows, columns=list(names), dtype=object)


def _read_workbook(path: Path) -> tuple[list[str], list[list[str]]]:
    """(names of the columns, cells of each row as text) of the first sheet of a workbook."""
    check_archive(path)
    try:
        rows = _sheet_cells(path)
    except Exception as error:  # no workbook, damaged, too large: the parser raises a dozen types
        raise ValueError(f"{printable(path)}: not a readable table ({reason_of(error)})") from None
    if not rows:
        return [], []
    width = max(map(len, rows))
    rows = [row + [""] * (width - len(row)) for row in rows]
    return checked_names(path, rows[0]), rows[1:]


def _sheet_cells(path: Path) -> list[list[str]]:
    """The cells of the first sheet up to the last row and, in each row, the last cell that holds anything.

    A few far cells could make a rectangle that fills the memory, so that it is measured on the way.
    """
    workbook = load_workbook(path, read_only=True, data_only=True, keep_links=False)
    sheet = workbook.worksheets[0]
    sheet.reset_dimensions()
    rows: list[list[str]] = []
    widest = 0
    for count, values in enumerate(sheet.iter_rows(values_only=True), 1):
        if not values and rows:  # sheets may have a million of them
            rows.append(rows[-1] if not rows[-1] else [])
            continue
        row = [_text(value) for value in values]
        while row and not row[-1]:
            row.pop()
        widest = max(widest, len(row))
        if count * max(widest, len(values)) > MOST_CELLS:
            raise ValueError(
                f"a sheet of more than {MOST_CELLS / 1e6:.0f} million cells; save it as .csv"
            )
        if widest > MOST_COLUMNS:
            raise ValueError(f"a sheet of more than {MOST_COLUMNS:,} columns")
        rows.append(row)
    workbook.close()
    while rows and not rows[-1]:
        rows.pop()
    return rows


def _text(value: object) -> str:
    """The text of a cell of a workbook: whole numbers without decimals, dates in ISO's form."""
    if value is None:
        return ""
    if isinstance(value, float):
        return number_text(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat(" ") if isinstance(value, datetime.datetime) else value.isoformat()
    return str(value)


def _texts(words: Sequence[str]) -> pd.Series:
    """Cells as written; empty ones are NaN."""
    return pd.Series([word or np.nan for word in words], dtype=object)


def _typed(words: Sequence[str]) -> pd.Series:
    """Cells as numbers or flags where all of them are such, or missing; else as text."""
    cells = _texts(words)
    if any(map(_ID.fullmatch, set(words))):
        return cells
    try:
        return pd.to_numeric(cells)
    except (ValueError, TypeError):  # there are words among them
        missing = missing_words(cells)
    known = cells[~missing]
    if known.isin(_FLAGS.keys()).all() and len(known):
        flags = cells.where(~missing).map(_FLAGS)
        return flags if missing.any() else flags.astype(bool)
    try:
        return pd.to_numeric(cells.where(~missing))
    except (ValueError, TypeError):
        return cells
