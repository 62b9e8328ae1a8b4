"""Columns of published tables as records need them: ids, 0/1 flags, groups in place of patients, notices."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data.dataset import Task
from data.duplicates import BITS, HINT_DISTANCE, groups_of, look_at
from data.listing import printable

_DECIMAL = re.compile(r"[+-]?\d+\.\d*")


def ids(table: Path, rows: pd.DataFrame, column: str, unique: bool = False, files: bool = False) -> pd.Series:
    """A column of ids, read as text, without outer spaces.

    ValueError names table and row of an id that is missing, was turned into a decimal number ("7.0": elsewhere the same
    id may be "7"), stands there twice though they must be `unique`, or is no plain name of one of the `files`.
    """
    found = rows[column].astype("string").str.strip()
    empty = found.isna() | (found == "")
    decimal = found.fillna("").map(lambda text: bool(_DECIMAL.fullmatch(text)))
    refuse(table, column, found, empty, "is empty")
    refuse(table, column, found, decimal, "is {!r}, a number with decimals; save the column as text or whole numbers")
    if files:
        leading = found.fillna("").map(lambda text: "/" in text or "\0" in text or text in (".", ".."))
        refuse(table, column, found, leading, "is {!r}, which is not the name of a file")
    if unique or files:
        refuse(table, column, found, found.duplicated(), "is {!r} a second time")
    return found.astype(object)


def flags(table: Path, rows: pd.DataFrame, columns: Sequence[str], empty: float = np.nan) -> pd.DataFrame:
    """Columns of 0 and 1 as float; an empty cell is `empty`: NaN unless the release itself says what it means.

    ValueError names table, row, column and value of anything else.
    """
    known = {}
    for column in columns:
        numbers = pd.to_numeric(rows[column], errors="coerce").astype(float)
        refuse(table, column, rows[column], rows[column].notna() & ~numbers.isin([0, 1]), "is {!r}; expected 0 or 1")
        known[column] = numbers.where(rows[column].notna(), empty)
    return pd.DataFrame(known, index=rows.index)


def refuse(table: Path, column: str, values: pd.Series, wrong: pd.Series, told: str) -> None:
    """ValueError with table, row and column of the first of the `wrong` values; {} in `told` is the value."""
    places = np.flatnonzero(wrong.to_numpy(bool))
    if places.size:
        value = printable(str(values.iloc[places[0]]))[:200]
        raise ValueError(f"{printable(table)}: row {places[0] + 2}: {column} {told.format(value)}")


def counted(number: int, what: str = "radiograph", many: str = "") -> str:
    """1 radiograph, 2,000 radiographs; `many` where an s does not do."""
    return f"{number:,} {what if number == 1 else many or f'{what}s'}"


def finished(table: Path, records: pd.DataFrame, task: Task, notices: Sequence[str]) -> pd.DataFrame:
    """The same records with rows numbered anew, `task` and `notices` in their attrs; ValueError if there are none."""
    if not len(records):
        raise ValueError(f"{printable(table)}: no radiographs are left ({'; '.join(notices) or 'no rows'})")
    records = records.reset_index(drop=True)
    records.attrs |= {"task": task, "notices": list(notices)}
    return records


def grouped(
    records: pd.DataFrame, notices: list[str], hints: Sequence[str] = (), hint_distance: int = HINT_DISTANCE,
    told: str = "", **looking,
) -> pd.DataFrame:  # fmt: skip
    """Records with near-duplicate groups for patients, and a notice that says so.

    hints: columns, called `told` in the notice; see `groups_of` for them and `look_at` for `looking`.

    A picture that cannot be read is alone in its group: whoever reads all of them decides what becomes of it.
    """
    if not len(records):
        return records.assign(patient="")
    paths = records["image"].tolist()
    looks = look_at(paths, **looking)
    groups = groups_of(paths, looks, hints=records[list(hints)] if hints else None, hint_distance=hint_distance)
    largest = pd.Series(groups).value_counts()
    alike = " of near-duplicates"
    if hints:
        alike += f" and of equal {told}" if hint_distance >= BITS else f" (at a laxer distance if {told} are equal)"
    notices.append(
        f"no patient is named: {counted(len(paths))} form {counted(len(largest), 'group')}{alike}, the largest of "
        f"{largest.iloc[0]:,}"
    )
    unread = [path for path, seen in zip(paths, looks) if seen.reason]
    if unread:
        notices.append(f"{counted(len(unread))} could not be read, first {printable(unread[0])}")
    return records.assign(patient=groups)
