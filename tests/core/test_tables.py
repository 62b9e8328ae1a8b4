"""CSV tables of ours: no cell that a spreadsheet runs, and every text read back as it was."""

import csv
import io
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.tables import (
    MOST_COLUMNS,
    escape,
    list_names,
    read_cells,
    read_rows,
    table_text,
    unescape,
    write_table,
)

RUN = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "\u00a0=1",
    "\u200b=1",
    "\ufeff=1",
    "\x00=1",
    "\uff1d1",
    "\uff0b1",
    "\uff0d1",
    "\uff20a",
    "\ufe63a",
    "\u207a1",
    Path("=1"),
    "'=1",
    "''=1",
    "\r",
    "\tx",
]
SAFE = [
    "",
    "a",
    "1",
    "é",
    "'",
    "'a",
    "a=1",
    "./=1",
    "1-2",
    "\u4e00",
    " a",
    "a\rb",
    "a\nb",
    'a"b',
    "a,b",
    "'1",
]


def test_texts_that_a_spreadsheet_runs_get_an_apostrophe_and_come_back(tmp_path):
    write_table(
        tmp_path / "t.csv", ["=name", "b"], [{"=name": text, "b": "x"} for text in (*RUN, *SAFE)]
    )
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["'=name", "b"] and [row[0] for row in rows] == [
        *("'" + str(text) for text in RUN),
        *SAFE,
    ]
    names, rows = read_cells(tmp_path / "t.csv")
    assert names == ["=name", "b"] and [row[0] for row in rows] == [
        str(text) for text in (*RUN, *SAFE)
    ]


def test_escaping_is_undone_for_every_text():
    for length in range(5):
        for letters in itertools.product("'=a \u00a0\uff1d\t1", repeat=length):
            text = "".join(letters)
            assert unescape(escape(text)) == text
            assert escape(text) == text or escape(text)[0] == "'"


def test_numbers_stay_numbers_and_missing_values_are_empty():
    values = [-1.5, np.float32(-0.5), np.int64(-3), True, None, np.nan, pd.NA, pd.NaT, -7]
    cells = [
        row[0]
        for row in csv.reader(
            io.StringIO(table_text(["a", "b"], [{"a": v, "b": 0} for v in values]))
        )
    ][1:]
    assert cells == ["-1.5", "-0.5", "-3", "True", "", "", "", "", "-7"]


@pytest.mark.parametrize(
    "number", [1234567890.0, 202401011234.0, 123456789012345.0, np.float64(-9876543210), 1e14]
)
def test_whole_numbers_keep_all_digits(number):
    """A column of ids with one gap is a column of floats."""
    assert table_text(["id"], [{"id": number}]) == f"id\n{int(number)}\n"


def test_names_that_are_not_utf8_stay_if_asked(tmp_path):
    rows = [{"path": "./a\udcff.png"}]
    assert table_text(["path"], rows, raw_bytes=True) == "path\n./a\udcff.png\n"
    assert table_text(["path"], rows) == "path\n./a\\udcff.png\n"
    (tmp_path / "t.csv").write_bytes(b"path\n./a\xff.png\n")
    assert read_rows(tmp_path / "t.csv", ["path"]) == rows
    with pytest.raises(ValueError, match=r"t\.csv: not a readable table \(not UTF-8 at byte 8\)"):
        read_cells(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,a\n1,2\n", "columns 'a' and 'a' have the same name; rename or remove one"),
        ("id, ID \n1,2\n", "columns 'id' and 'ID' have the same name"),
        ("\u00e9,e\u0301\n1,2\n", "have the same name"),
        ("a b,a\u00a0 b\n1,2\n", "have the same name"),
        ("a,b\n1,2\n1\n", "row 3 has 1 cells, the header 2"),
        ("a,b\n1,2,3\n", "row 2 has 3 cells, the header 2"),
        ('a,b\n1,"2\n3,4\n', "not a readable table"),
        ("\n", "it is empty"),
        (
            ",".join(f"c{k}" for k in range(50_000)) + "\n",
            f"50,000 columns; a table may have {MOST_COLUMNS:,}",
        ),
    ],
)
def test_tables_that_could_be_read_in_two_ways_are_refused(tmp_path, text, reason):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=reason) as caught:
        read_cells(tmp_path / "t.csv")
    assert str(tmp_path / "t.csv") in str(caught.value) and len(str(caught.value)) < 500


def test_what_is_no_fault_of_a_table(tmp_path):
    (tmp_path / "t.csv").write_bytes("\ufeff,a.1,a,\r\n\r\n1,2,3,,\r\n,,,\r\n".encode())
    assert read_cells(tmp_path / "t.csv") == (["", "a.1", "a", ""], [["1", "2", "3", ""]])
    assert read_cells(tmp_path / "t.csv", blank=True)[1] == [[""] * 4, ["1", "2", "3", ""]]


def test_long_lists_of_names_are_cut():
    told = list_names(f"column {k}" for k in range(50_000))
    assert told.startswith("column 0, column 1, ") and told.endswith(" more") and len(told) < 600
    assert list_names(["a", "b\n"]) == "a, b\\n" and list_names([]) == "none"
