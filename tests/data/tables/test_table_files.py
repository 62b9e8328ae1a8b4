"""Tables of users: .csv and .xlsx give the same columns; nothing is lost or merged without a word."""

import datetime

import numpy as np
import openpyxl
import pandas as pd
import pytest

from data.tables.files import read_table

ROWS = [
    ["id", "n", "flag", "word", "mixed", "gap"],
    ["007", "1", "True", "None", "1", ""],
    ["8", "2.5", "False", "NA", "x", "NA"],
    ["1E5", "", "", "plain", "null", "null"],
]


def save(path, rows):
    if path.suffix == ".csv":
        path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
        return path
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append([None if cell == "" else cell for cell in row])
    book.save(path)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.xlsx"])
def test_words_stay_in_columns_of_words_and_are_missing_among_numbers(tmp_path, name):
    rows = read_table(save(tmp_path / name, ROWS), text=["id"])
    assert rows["id"].tolist() == ["007", "8", "1E5"]
    assert rows["n"].dtype == float and np.array_equal(rows["n"], [1, 2.5, np.nan], equal_nan=True)
    assert rows["flag"].tolist()[:2] == [True, False] and pd.isna(rows["flag"][2])
    assert rows["word"].tolist() == ["None", "NA", "plain"] and rows["mixed"].tolist() == [
        "1",
        "x",
        "null",
    ]
    assert rows["gap"].isna().all()
    words = read_table(tmp_path / name, text=None)
    assert (
        words["gap"].tolist()[1:] == ["NA", "null"]
        and pd.isna(words["gap"][0])
        and words["n"][1] == "2.5"
    )


@pytest.mark.parametrize("name", ["t.csv", "t.xlsx"])
@pytest.mark.parametrize(
    "ids", [["007", "8"], ["12345678901234567", ""], ["1", "00"], ["1234567890123456", "NA"]]
)
def test_ids_in_columns_of_numbers_stay_text(tmp_path, name, ids):
    column = read_table(save(tmp_path / name, [["id", "n"], [ids[0], 1], [ids[1], 2]]))["id"]
    assert column.fillna("").tolist() == ids


@pytest.mark.parametrize("name", ["t.csv", "t.xlsx"])
def test_a_column_without_a_name_is_not_mixed_up_with_another_one(tmp_path, name):
    with pytest.raises(
        ValueError, match="columns 'Unnamed: 1' and 'Unnamed: 1' have the same name"
    ):
        read_table(save(tmp_path / name, [["Unnamed: 1", "", "a"], [1, 2, 3]]))


def test_cells_of_a_workbook_as_text(tmp_path):
    cells = [
        7,
        7.0,
        2.5,
        1.5e20,
        True,
        datetime.datetime(2024, 3, 2),
        datetime.time(1, 2, 3),
        "#N/A",
        " 7\u00a0",
    ]
    rows = read_table(save(tmp_path / "t.xlsx", [["a"], *([cell] for cell in cells)]), text=["a"])
    assert rows["a"].tolist() == [
        "7",
        "7",
        "2.5",
        "1.5e+20",
        "True",
        "2024-03-02 00:00:00",
        "01:02:03",
        "#N/A",
        " 7\u00a0",
    ]


@pytest.mark.parametrize("name", ["t.csv", "t.xlsx"])
@pytest.mark.parametrize("twice", [["a", "a"], ["a", " A"], ["sex", "Sex "]])
def test_two_columns_of_one_name_are_refused(tmp_path, name, twice):
    with pytest.raises(ValueError, match=rf"{name}: columns '.*' and '.*' have the same name"):
        read_table(save(tmp_path / name, [twice, ["1", "2"]]))


@pytest.mark.parametrize("name", ["t.csv", "t.xlsx"])
def test_a_limit_of_columns(tmp_path, name):
    book = openpyxl.Workbook(write_only=True)
    book.create_sheet().append([f"c{k}" for k in range(6_000)])
    if name == "t.csv":
        save(tmp_path / name, [[f"c{k}" for k in range(50_000)]])
    else:
        book.save(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: .*5,000"):
        read_table(tmp_path / name)


def test_unnamed_columns_and_spaces_in_names(tmp_path):
    rows = read_table(save(tmp_path / "t.csv", [["", " patient ", ""], ["1", "2", "3"]]))
    assert list(rows) == ["Unnamed: 0", "patient", "Unnamed: 2"]
