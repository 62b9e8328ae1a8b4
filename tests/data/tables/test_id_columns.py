"""Ids: every form that a spreadsheet gives them is refused by row; look-alikes are joined or refused; others stay."""

import unicodedata

import openpyxl
import pandas as pd
import pytest

from data.tables.files import read_table
from data.tables.id_columns import ids


def read(values, **options):
    return ids("t.csv", pd.DataFrame({"who": pd.Series(values, dtype=object)}), "who", **options)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        *((value, "a number with decimals") for value in ("7.0", "7,0", "7.", "-12.50", "1,234")),
        *(
            (value, "a rounded number in scientific")
            for value in ("2.02401E+13", "1,2E+13", "1e+05", "1.5E13", "3E-5")
        ),
        *(
            (value, "a date")
            for value in (
                "2-Mar",
                "02-Mar",
                "Mar-02",
                "2. Mrz",
                "2-févr.",
                "2-Mar-2024",
                "2024-03-02",
                "2024-03-02 00:00:00",
                "3/2/2024",
                "02.03.2024",
            )
        ),
        ("12:30:00", "a time of day"),
        *(
            (value, "an error of a spreadsheet")
            for value in ("#N/A", "#REF!", "#DIV/0!", "#NAME?", "#WERT!", "######")
        ),
        *(
            (value, "a number cut to 15 digits")
            for value in ("123456789012345000", "1234567890123450")
        ),
        *(
            (value, "which names nothing")
            for value in ("NA", "None", "null", "nan", "N/A", "-", "--", "?")
        ),
        ("", "is empty"),
        (" \u00a0", "is empty"),
        (None, "is empty"),
    ],
)
def test_damaged_ids_are_refused_by_row(value, reason):
    with pytest.raises(ValueError, match=r"t\.csv: row 3: who is ") as caught:
        read(["p1", value, "p2"])
    assert reason in str(caught.value) and len(str(caught.value)) < 400
    if value and reason not in ("is empty", "which names nothing"):
        assert read(["p1", f"p{value}", "p2"])[1] == f"p{value}"  # the advice can be followed


@pytest.mark.parametrize(
    "value",
    [
        "007",
        "7",
        "1E5",
        "12E4",
        "1.2.840.10008",
        "2-3",
        "MAR-02",
        "MAR-001",
        "12-7",
        "#12",
        "20240100000000",
        "12345678901234567",
        "study/7",
        "p 7",
        "1.2.84",
        "True",
        "München",
    ],
)
def test_ids_that_are_no_damage(value):
    assert read(["p1", value])[1] == value


def test_long_numbers_are_fine_if_one_of_them_is_exact():
    assert read(["1234567890123450", "1234567890123457"]).tolist() == [
        "1234567890123450",
        "1234567890123457",
    ]


def test_numbers_dates_and_errors_of_a_workbook(tmp_path):
    book = openpyxl.Workbook()
    for cell in ("who", 12, 12.5):
        book.active.append([cell])
    book.save(tmp_path / "t.xlsx")
    rows = read_table(tmp_path / "t.xlsx", text=["who"])
    with pytest.raises(ValueError, match=r"t\.xlsx: row 3: who is '12\.5', a number with decimals"):
        ids(tmp_path / "t.xlsx", rows, "who")
    assert ids(tmp_path / "t.xlsx", rows[:1], "who").tolist() == ["12"]
    for cell in (1.23456789012346e17, pd.Timestamp("2024-03-02").to_pydatetime(), "#REF!"):
        book.active.cell(3, 1).value = cell
        book.save(tmp_path / "t.xlsx")
        with pytest.raises(ValueError, match=r"row 3: who is .*save the column as text"):
            ids(tmp_path / "t.xlsx", read_table(tmp_path / "t.xlsx", text=["who"]), "who")


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ("007", "7", "zeros in front were lost"),
        ("0012", "12", "zeros in front were lost"),
        ("0", "000", "zeros in front were lost"),
        ("p\u20137", "p-7", "they look alike"),
        ("\uff10\uff17", "07", "they look alike|zeros in front"),
        ("p  7", "p 7", "they look alike"),
        ("p\u00a07", "p 7", "they look alike"),
    ],
)
def test_ids_that_look_alike_are_refused(one, other, reason):
    with pytest.raises(ValueError, match=rf"row 4: who is .* in row 2: ({reason})"):
        read([one, "x", other])
    assert len(set(read([one, "x", one]))) == 2


def test_composed_and_decomposed_letters_are_one_id():
    name = "Zoë Müller"
    values = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    assert values[0] != values[1] and read(values).tolist() == [name, name]


@pytest.mark.parametrize(
    "sign",
    [
        "\u200b",
        "\x00",
        "\u202e",
        "\u00ad",
        "\u2060",
        "\ufe0f",
        "\u3164",
        "\x1b",
        "\u2800",
        "\uf8ff",
    ],
)
def test_invisible_characters_are_refused(sign):
    with pytest.raises(
        ValueError, match=r"row 3: who is 'p\\(x|u).*7', with an invisible character; remove it"
    ):
        read(["p7", f"p{sign}7"])


def test_gaps_only_where_they_may_be():
    assert pd.isna(read(["a", "", "b"], optional=True)[1])
    with pytest.raises(ValueError, match="row 3: who is 'NA', which names nothing"):
        read(["a", "NA"], optional=True)
    with pytest.raises(ValueError, match="row 3: who is 'a' a second time"):
        read(["a", "a"], unique=True)
    with pytest.raises(ValueError, match="row 3: who is '../a', which is not the name of a file"):
        read(["a", "../a"], files=True)
