"""Columns of ids: texts that name a patient, a study or a file, read so that one thing keeps one name.

Spreadsheets change ids that look like numbers or dates, and the change cannot be undone: 2.02401E+13 stands for
thousands of patients, 7.0 elsewhere is 7, "2-3" became 2-Mar. Each such form is refused with its row, also where a
release or a hospital may mean it: a letter in front ("p7.0") makes any id safe. What is no damage is read: "1E5" (a
spreadsheet would write 1.00E+05), UIDs ("1.2.840"), padded numbers ("007"), and ids that the names of the pictures
spell with more zeros (GRAZPEDWRI-DX has patient 1 in 0001_...png).
"""

import re
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd

from core.files import printable
from core.text import HIDDEN
from data.tables.files import MARKS, SHEET_ERROR, missing_words, refuse

_MONTHS = (
    "jan feb mar apr may jun jul aug sep sept oct nov dec jän mär mrz mai okt dez janv févr mars avr juin juil août "
    "déc ene abr ago dic gen mag giu lug set ott mrt mei fev out"
).split()  # English, German, French, Spanish, Italian, Dutch, Portuguese
_SPELLINGS = sorted(
    (form for name in _MONTHS for form in (name, name.title())), key=len, reverse=True
)
_MONTH = rf"(?:{'|'.join(_SPELLINGS)})\.?"
_DATE = "a date"
_DAMAGE = {
    SHEET_ERROR: "an error of a spreadsheet's formula or of a narrow column",
    r"[+-]?\d+[.,]\d*": "a number with decimals",
    r"[+-]?(?:\d+[.,]\d*[eE][+-]?\d+|\d+[eE][+-]\d+)": "a rounded number in scientific notation",
    rf"\d{{1,2}}[-. /]+{_MONTH}(?:[-. /]\d{{2}}|[-. /]\d{{4}})?|{_MONTH}[-. /](?:\d{{2}}|\d{{4}})": _DATE,
    r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d:\d\d(?:\.\d+)?)?": _DATE,
    r"\d{1,2}/\d{1,2}/(?:\d{2}|\d{4})|\d{1,2}\.\d{1,2}\.(?:19|20)\d\d": _DATE,
    r"\d{1,2}:\d\d:\d\d(?:\.\d+)?": "a time of day",
}
_DAMAGED = re.compile("|".join(f"(?:{pattern})" for pattern in _DAMAGE))
_DIGITS = 15  # that a spreadsheet keeps of a number
_REMEDY = (
    "save the column as text, with the ids as they were before a spreadsheet changed them, or put a letter in front of "
    "each id if they are meant so"
)
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-")


def ids(
    table: Path,
    rows: pd.DataFrame,
    column: str,
    unique: bool = False,
    files: bool = False,
    optional: bool = False,
) -> pd.Series:
    """A column of ids, read as text, without outer spaces, in Unicode's composed form (NFC).

    optional: an empty cell is NaN, not an error. ValueError names table, row and value of an id that is empty or stands
    for a missing one (`NO_VALUE` and `MARKS` of `data.tables.files`), holds an invisible character, was changed by a
    spreadsheet (see the module), looks like another one of the column, is there twice though ids must be `unique`, or
    is no plain name of one of the `files`. Two ids look alike if they differ only in spaces, dashes, invisible
    characters or the width of others, or, as numbers, in zeros in front.
    """
    values = rows[column].map(clean_text).astype(object)
    empty = values == ""
    if not optional:
        refuse(table, column, values, empty, "is empty")
    wrong = (missing_words(values) | values.isin(MARKS)) & ~empty
    refuse(
        table,
        column,
        values,
        wrong,
        "is {!r}, which names nothing; leave the cell empty, or use another id",
    )
    deceptive = values.isin([text for text in set(values) if HIDDEN.search(text)])
    if deceptive.any():
        refuse(
            table,
            column,
            values.map(ascii),
            deceptive,
            "is {}, with an invisible character; remove it",
        )
    refuse_damaged(table, column, values)
    refuse_look_alikes(table, column, values)
    if files:
        leading = values.map(lambda text: "/" in text or text in (".", ".."))
        refuse(table, column, values, leading, "is {!r}, which is not the name of a file")
    if unique or files:
        refuse(table, column, values, values.duplicated() & ~empty, "is {!r} a second time")
    return values.where(~empty, np.nan)


def refuse_damaged(table: Path, column: str, values: pd.Series) -> None:
    """ValueError with table and row of the first of some texts that a spreadsheet has changed, see the module."""
    damaged = values.isin([text for text in set(values) if _DAMAGED.fullmatch(text)])
    if damaged.any():
        kind = next(
            kind for form, kind in _DAMAGE.items() if re.fullmatch(form, values[damaged].iloc[0])
        )
        refuse(table, column, values, damaged, f"is {{!r}}, {kind}; {_REMEDY}")
    refuse(
        table,
        column,
        values,
        _cut_numbers(values),
        f"is {{!r}}, a number cut to {_DIGITS} digits; {_REMEDY}",
    )


def id_key(text: str) -> str:
    """What an id has in common with those that look like it, see `ids`: two of one key are hardly two patients."""
    if text.isascii() and text.isalnum():
        return text.lstrip("0") or "0" if text.isdecimal() else text
    if not text.isascii():
        text = "".join(
            character for character in text if character.isspace() or not HIDDEN.match(character)
        )
    key = " ".join(unicodedata.normalize("NFKC", text.translate(_DASHES)).split())
    return key.lstrip("0") or "0" if key.isdecimal() else key


def clean_text(value: object) -> str:
    """The text of a cell without outer spaces, in NFC; "" for a missing one."""
    if value is None or value is pd.NA or value != value:
        return ""
    text = str(value).strip()
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _cut_numbers(values: pd.Series) -> pd.Series:
    """Which ids are numbers that lost their last digits: longer than `_DIGITS`, and all such ids end in zeros there."""
    long = values.map(lambda text: len(text) > _DIGITS and text.isdecimal())
    return long & values[long].map(lambda text: not text[_DIGITS:].strip("0")).all()


def refuse_look_alikes(table: Path, column: str, values: pd.Series) -> None:
    """ValueError with the row of the first text that has the `id_key` of another one above it."""
    first: dict[str, tuple[int, str]] = {}
    for row, text in enumerate(values, 2):
        row_before, before = first.setdefault(id_key(text), (row, text))
        if before != text:
            reason = "zeros in front were lost" if text.isdecimal() else "they look alike"
            shown = printable(text)[:200]
            shown_before = printable(before)[:200]
            raise ValueError(
                f"{printable(table)}: row {row}: {column} is {shown!r}, and {shown_before!r} in row {row_before}: "
                f"{reason}; write both in one way, or put different letters in front if they are two"
            )
