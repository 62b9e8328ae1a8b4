"""Any table: what its columns become, and one sentence for whatever is wrong with them."""

import re
import unicodedata

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from core.task import Task
from data.datasets.csv_table import CsvTable

ROWS = {
    "file": ["pics/a.png", "pics/b.png", "pics/c.png", "pics/d.png", "pics/e.png", "pics/f.png"],
    "who": ["007", "007", "8", "9", "10", "11"],
    "sick": ["1", "0", "1", "0", "", "1"],
    "maker": ["Zimmer", "Depuy", " Depuy ", "Tornier", "Zimmer", "Tornier"],
    "grade": ["2", "10", "2.0", "0", "NA", "-3"],
    "sex": ["F", "M", "M", "F", "F", "M"],
    "months": ["12", "30.5", "", "100", "7", "-1"],
    "target": ["x"] * 6,
    "official": ["yes"] * 6,
}


@pytest.fixture
def table(tmp_path):
    (tmp_path / "pics").mkdir()
    rng = np.random.default_rng(0)
    for name in "abcdef":
        seed = rng if name != "c" else np.random.default_rng(0)  # c is a again
        Image.fromarray(seed.integers(0, 255, (40, 50), dtype=np.uint8)).save(
            tmp_path / "pics" / f"{name}.png"
        )
    pd.DataFrame(ROWS).to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


def read(table, target_col, task, **options):
    given = {
        "csv": table,
        "image_col": "file",
        "target_col": target_col,
        "patient_col": "who",
        "task": task,
    }
    return CsvTable.read(None, **(given | options))


@pytest.mark.parametrize(
    "column, task, classes, targets",
    [
        ("sick", "binary", ("0", "1"), [1, 0, 1, 0, np.nan, 1]),
        ("sex", "binary", ("F", "M"), [0, 1, 1, 0, 0, 1]),
        ("maker", "multiclass", ("Depuy", "Tornier", "Zimmer"), [2, 0, 0, 1, 2, 1]),
        ("grade", "multiclass", ("-3", "0", "2", "10"), [2, 3, 2, 1, np.nan, 0]),
        ("months", "regression", (), [12, 30.5, np.nan, 100, 7, -1]),
    ],
)
def test_columns_become_targets(table, column, task, classes, targets):
    records = read(table, column, task, unit="months" if task == "regression" else "")
    assert (
        np.array_equal(records["target"], targets, equal_nan=True)
        and records["target"].dtype == float
    )
    assert records.attrs["task"] == Task(task, classes, "months" if task == "regression" else "")
    assert records["patient"].tolist() == ["007", "007", "8", "9", "10", "11"]
    assert records["image"].tolist() == [str(table.parent / name) for name in ROWS["file"]]
    assert (
        records["target (table)"].tolist() == ["x"] * 6 and "official" not in records
    )  # ours mean something else
    told = records.attrs["notices"]
    assert ("1 radiograph without a label in " + column in told) == bool(np.isnan(targets).any())
    if column == "sex":
        assert told == ["sex: 0 = F, 1 = M"]


def test_without_patients_near_duplicates_are_groups(table):
    records = read(table, "maker", "multiclass", patient_col=None)
    assert records["patient"][0] == records["patient"][2] and records["patient"].nunique() == 5
    assert records.attrs["notices"][-1].endswith(
        "6 radiographs form 5 groups of near-duplicates, the largest of 2"
    )
    assert (
        read(table, "maker", "multiclass", patient_col=None, distance=400)["patient"].nunique() == 1
    )


def test_a_workbook_and_another_root(table, tmp_path):
    rows = pd.DataFrame(ROWS).assign(file=[name.removeprefix("pics/") for name in ROWS["file"]])
    rows.to_excel(tmp_path / "t.xlsx", index=False)
    given = {"image_col": "file", "target_col": "maker", "patient_col": "who", "task": "multiclass"}
    records = CsvTable.read(tmp_path / "pics", csv=tmp_path / "t.xlsx", **given)
    assert records["image"].tolist() == read(table, "maker", "multiclass")["image"].tolist()
    assert records["patient"].tolist() == ["007", "007", "8", "9", "10", "11"]


def test_a_missing_picture(table):
    (table.parent / "pics" / "b.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"t\.csv: 1 of 6 radiographs are not there: .*pics/b\.png"
    ):
        read(table, "sex", "binary")
    assert len(read(table, "sex", "binary", keep_missing=True)) == 6


@pytest.mark.parametrize(
    "options, told",
    [
        ({"task": "survival"}, "task 'survival': choose binary, multiclass, regression"),
        ({"target_col": "sicc"}, "no column 'sicc'; it has file, who, sick"),
        ({"image_col": "path"}, "no column 'path'; it has file"),
        ({"patient_col": "pid"}, "no column 'pid'; it has file"),
        (
            {"target_col": "maker"},
            "maker has 3 values .'Depuy', 'Tornier', 'Zimmer'.; binary needs two",
        ),
        (
            {"target_col": "maker", "task": "regression"},
            "row 2: maker is 'Zimmer'; expected a number",
        ),
        ({"target_col": "target"}, "target has only the class 'x'; two classes are needed"),
        ({"csv": "none.csv"}, "none.csv: no such table"),
    ],
)
def test_wrong_columns_are_named(table, options, told):
    with pytest.raises((ValueError, FileNotFoundError), match=told) as caught:
        read(table, **({"target_col": "sick", "task": "binary"} | options))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "column, value, told",
    [
        ("file", "", "row 3: file is empty"),
        ("file", "pics/a.png", "row 3: file is 'pics/a.png' a second time"),
        ("file", "../secret.png", r"t\.csv: row 3: '../secret.png' leads out of"),
        ("who", "", "row 3: who is empty"),
        ("who", "7.0", "row 3: who is '7.0', a number with decimals"),
        ("sick", "2", "sick has 3 values"),
        ("months", "inf", "row 3: months is 'inf'; expected a number"),
        ("months", "30,5", "row 3: months is '30,5'; expected a number"),
    ],
)
def test_bad_cells_are_named(table, column, value, told):
    rows = pd.DataFrame(ROWS)
    rows.loc[1, column] = value
    rows.to_csv(table, index=False)
    with pytest.raises(ValueError, match=told) as caught:
        read(
            table,
            "months" if column == "months" else "sick",
            "regression" if column == "months" else "binary",
        )
    assert len(str(caught.value).splitlines()) == 1


def test_labels_out_of_range(table):
    rows = pd.DataFrame(ROWS).assign(sick=["1", "2", "1", "2", "1", "2"], months="3")
    rows.to_csv(table, index=False)
    with pytest.raises(ValueError, match="sick has 1 and 2; expected 0 and 1, or two words"):
        read(table, "sick", "binary")
    with pytest.raises(ValueError, match="months has no two different numbers"):
        read(table, "months", "regression")


WORDS = ["None", "NA", "null", "nan", "N/A", "none", "-", "?", "#REF!"]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("ending", ["csv", "xlsx"])
def test_a_class_that_may_be_no_label_is_refused_by_name(table, word, ending):
    rows = pd.DataFrame(ROWS).assign(maker=["Buckle", word, "Buckle", word, "Green", word])
    file = table.with_suffix(f".{ending}")
    rows.to_csv(file, index=False) if ending == "csv" else rows.to_excel(file, index=False)
    told = rf"t\.{ending}: row 3: maker is '{re.escape(word)}', (which may|an error)"
    with pytest.raises(ValueError, match=told):
        read(file, "maker", "multiclass")
    rows.assign(maker=rows["maker"].replace(word, "no fracture")).to_csv(
        table, index=False
    )  # the advice
    assert read(table, "maker", "multiclass").attrs["task"].classes == (
        "Buckle",
        "Green",
        "no fracture",
    )
    rows.assign(maker=rows["maker"].replace(word, "")).to_csv(table, index=False)
    assert read(table, "maker", "multiclass")["target"].isna().sum() == 3


@pytest.mark.parametrize("word", ["None", "NA", "null"])
def test_among_numbers_such_a_word_is_no_label_and_told(table, word):
    for column, task, values in (
        ("sick", "binary", ["1", word, "0", "0", "", "1"]),
        ("months", "regression", ["12", word, "30", "7", "", "8"]),
    ):
        pd.DataFrame(ROWS).assign(**{column: values}).to_csv(table, index=False)
        records = read(table, column, task)
        assert records["target"].isna().tolist() == [False, True, False, False, True, False]
        assert f"{column}: {word!r} in 1 row is no label" in records.attrs["notices"]
        assert f"2 radiographs without a label in {column}" in records.attrs["notices"]
    pd.DataFrame(ROWS).assign(sick=["1", word, "1", word, "1", "1"]).to_csv(table, index=False)
    with pytest.raises(
        ValueError, match=f"sick has only the class '1'.*; sick: '{word}' in 2 rows is no label"
    ):
        read(table, "sick", "binary")


def test_plus_and_minus_are_classes(table):
    pd.DataFrame(ROWS).assign(sick=["+", "-", "+", "-", "", "+"]).to_csv(table, index=False)
    assert read(table, "sick", "binary").attrs["task"].classes == ("+", "-")


def test_a_word_in_another_column_stays(table):
    pd.DataFrame(ROWS).assign(maker=["None", "NA", "null", "Depuy", "", "x"]).to_csv(
        table, index=False
    )
    assert read(table, "sick", "binary")["maker"].tolist()[:4] == ["None", "NA", "null", "Depuy"]


def test_absolute_paths_below_data_root_are_read_as_the_message_says(table, tmp_path):
    elsewhere = tmp_path / "tables" / "t.csv"
    elsewhere.parent.mkdir()
    names = [str(table.parent / name) for name in ROWS["file"]]
    pd.DataFrame(ROWS).assign(file=names).to_csv(elsewhere, index=False)
    with pytest.raises(
        ValueError, match=r"t\.csv: row 2: '/.*a\.png' leads out of .*; --data_root FOLDER names"
    ):
        read(elsewhere, "sick", "binary")
    records = CsvTable.read(
        table.parent, csv=elsewhere, image_col="file", target_col="sick", patient_col="who"
    )
    assert records["image"].tolist() == names


def test_a_column_that_is_there_twice_is_refused(table):
    text = table.read_text()
    for name in ("sick", " Sick", "SICK"):
        table.write_text(text.replace("maker", name, 1))
        with pytest.raises(ValueError, match=r"t\.csv: columns '.*' and '.*' have the same name"):
            read(table, "sick", "binary")


def test_lost_zeros_of_file_names_and_decomposed_ones(table):
    folder = table.parent / "pics"
    (folder / "a.png").rename(folder / "0007.png")
    pd.DataFrame(ROWS).assign(file=["pics/7.png", *ROWS["file"][1:]]).to_csv(table, index=False)
    with pytest.raises(
        FileNotFoundError,
        match=r"1 of 6 .*pics/7\.png; 0007\.png is: a spreadsheet may have removed",
    ):
        read(table, "sick", "binary")
    (folder / "0007.png").rename(folder / unicodedata.normalize("NFD", "é.png"))
    pd.DataFrame(ROWS).assign(file=["pics/é.png", *ROWS["file"][1:]]).to_csv(table, index=False)
    assert len(read(table, "sick", "binary")) == 6


def test_one_file_under_two_names_is_refused(table):
    pd.DataFrame(ROWS).assign(file=["pics/a.png", "./pics/a.png", *ROWS["file"][2:]]).to_csv(
        table, index=False
    )
    with pytest.raises(ValueError, match="row 3: file is './pics/a.png' a second time"):
        read(table, "sick", "binary")


@pytest.mark.parametrize(
    "labels", [("1234567", "1234568"), ("0.1234567", "0.1234568"), ("20240101", "20240102")]
)
def test_long_numbers_stay_different_classes(table, labels):
    pd.DataFrame(ROWS).assign(grade=[*labels] * 3).to_csv(table, index=False)
    records = read(table, "grade", "multiclass")
    assert records.attrs["task"].classes == labels and records["target"].tolist() == [0.0, 1.0] * 3


@pytest.mark.parametrize("hidden", ["\u200b", "\u202e", "\u00ad", "\ufeff"])
def test_classes_that_differ_in_invisible_characters_are_refused(table, hidden):
    pd.DataFrame(ROWS).assign(
        maker=["Buckle", f"Buckle{hidden}", "Green", "Green", "", "x"]
    ).to_csv(table, index=False)
    with pytest.raises(
        ValueError, match="row 3: maker is .*, and 'Buckle' in row 2: they look alike"
    ):
        read(table, "maker", "multiclass")


def test_a_column_that_would_get_the_name_of_another_one_is_refused(table):
    pd.DataFrame(ROWS).assign(**{"target (table)": "y"}).to_csv(table, index=False)
    with pytest.raises(
        ValueError, match=r"columns 'target \(table\)' and 'target \(table\)' have the same name"
    ):
        read(table, "sick", "binary")


def test_ids_in_other_columns_are_kept(table):
    accession = ["007", "8", "", "9", "10", "11"]
    pd.DataFrame(ROWS).assign(accession=accession).to_csv(table, index=False)
    assert read(table, "sick", "binary")["accession"].fillna("").tolist() == accession
