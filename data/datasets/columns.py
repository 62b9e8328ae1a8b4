"""Columns of published tables as records need them: 0/1 flags, groups in place of patients, notices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from core.task import Task
from data.reading.listing import printable
from data.reading.near_duplicates import BITS, DISTANCE, HINT_DISTANCE, groups_of, look_at
from data.tables.files import MARKS, SHEET_ERROR, missing_words, refuse


def flags(
    table: Path, rows: pd.DataFrame, columns: Sequence[str], empty: float = np.nan
) -> pd.DataFrame:
    """Columns of 0 and 1 as float; an empty cell is `empty`: NaN unless the release itself says what it means.

    ValueError names table, row, column and value of anything else.
    """
    known = {}
    for column in columns:
        values = pd.to_numeric(rows[column], errors="coerce").astype(float)
        missing = missing_words(rows[column])
        refuse(
            table, column, rows[column], ~missing & ~values.isin([0, 1]), "is {!r}; expected 0 or 1"
        )
        known[column] = values.where(~missing, empty)
    return pd.DataFrame(known, index=rows.index)


def numbers(
    table: Path, values: pd.Series, low: float = -np.inf, high: float = np.inf, unit: str = ""
) -> pd.Series:
    """A column of numbers as float; NaN where it is empty or says NA, NaN, None or null, which no number is spelt as.

    ValueError names table, row, column and value of what is no finite number from `low` to `high` (in `unit`).
    """
    missing = missing_words(values)
    known = pd.to_numeric(values.where(~missing), errors="coerce").astype(float)
    wrong = ~missing & ~(np.isfinite(known) & known.between(low, high))
    expected = (
        "a number"
        if np.isinf(low)
        else f"{low:g} to {high:g}{unit and ' ' + unit}, or an empty cell"
    )
    refuse(table, str(values.name), values, wrong, f"is {{!r}}; expected {expected}")
    return known


def refuse_unclear_labels(table: Path, values: pd.Series) -> None:
    """ValueError with the row of a label in words that may mean a class or a missing one, or is a formula's error.

    Such are None, NA, NaN, null, dashes and question marks; "-" is a class if the other one is "+".
    """
    texts = values.astype("string").str.strip().fillna("")
    unclear = texts.isin(MARKS) & ~texts.isin(["-"] if set(texts) <= {"+", "-", ""} else [])
    unclear |= missing_words(values) & (texts != "")
    refuse(
        table,
        str(values.name),
        texts,
        unclear,
        "is {!r}, which may be a class or a missing label; leave the cell "
        "empty if it is missing, else call the class something else",
    )
    broken = texts.str.fullmatch(SHEET_ERROR).astype(bool)
    refuse(table, str(values.name), texts, broken, "is {!r}, an error of a spreadsheet's formula")


def counted(number: int, what: str = "radiograph", many: str = "") -> str:
    """1 radiograph, 2,000 radiographs; `many` where an s does not do."""
    return f"{number:,} {what if number == 1 else many or f'{what}s'}"


def finished(
    table: Path, records: pd.DataFrame, task: Task, notices: Sequence[str]
) -> pd.DataFrame:
    """The same records with rows numbered anew, `task` and `notices` in their attrs; ValueError if there are none."""
    if not len(records):
        raise ValueError(
            f"{printable(table)}: no radiographs are left ({'; '.join(notices) or 'no rows'})"
        )
    records = records.reset_index(drop=True)
    records.attrs |= {"task": task, "notices": list(notices)}
    return records


def grouped(
    records: pd.DataFrame,
    notices: list[str],
    hints: Sequence[str] = (),
    hint_distance: int = HINT_DISTANCE,
    told: str = "",
    distance: int = DISTANCE,
    **looking,
) -> pd.DataFrame:
    """Records with near-duplicate groups for patients, and a notice that says so.

    hints: columns, called `told` in the notice; see `groups_of` for them and `distance`, `look_at` for `looking`.

    A picture that cannot be read is alone in its group: whoever reads all of them decides what becomes of it.
    """
    if not len(records):
        return records.assign(patient="")
    paths = records["image"].tolist()
    looks = look_at(paths, **looking)
    groups = groups_of(
        paths,
        looks,
        distance=distance,
        hints=records[list(hints)] if hints else None,
        hint_distance=hint_distance,
    )
    largest = pd.Series(groups).value_counts()
    alike = " of near-duplicates"
    if hints:
        alike += (
            f" and of equal {told}"
            if hint_distance >= BITS
            else f" (at a laxer distance if {told} are equal)"
        )
    notices.append(
        f"no patient is named: {counted(len(paths))} form {counted(len(largest), 'group')}{alike}, the largest of "
        f"{largest.iloc[0]:,}"
    )
    unread = [path for path, seen in zip(paths, looks) if seen.reason]
    if unread:
        notices.append(f"{counted(len(unread))} could not be read, first {printable(unread[0])}")
    return records.assign(patient=groups)
