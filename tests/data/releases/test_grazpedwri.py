"""GRAZPEDWRI-DX in its published layout, from the phantoms' writer: flags that are empty, codes as people type them."""

import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.releases.grazpedwri import CLASSES, FLAGS, ao_combination
from data.releases.registry import BENCHMARK
from phantoms.layouts.grazpedwri import COLUMNS, COMBINATIONS
from phantoms.layouts.registry import WRITERS, fit_plan
from phantoms.plan import Plan, phantoms

FRACTURE, IMPLANT, AO = (
    BENCHMARK[name] for name in ("pediatricfx", "pediatricfx_implant", "pediatricfx_ao")
)


@pytest.fixture(scope="module")
def drawn():
    return list(phantoms(fit_plan("grazpedwri", Plan(seed=7, size=48, difficulty="clear")), 60))


@pytest.fixture(scope="module")
def made(drawn, tmp_path_factory):
    folders = tmp_path_factory.mktemp("graz") / "plain", tmp_path_factory.mktemp("graz") / "trapped"
    names = []
    for folder in folders:
        writer = WRITERS["grazpedwri"](folder, seed=7, traps=folder.name == "trapped")
        names.append([writer.add(phantom) for phantom in drawn])
        writer.close()
    return *folders, *names


@pytest.fixture
def root(made, tmp_path):
    """A copy that may be spoilt."""
    return shutil.copytree(made[0], tmp_path / "set")


def test_layout(made, drawn):
    table = pd.read_csv(made[0] / "dataset.csv", dtype=str)
    assert tuple(table.columns) == COLUMNS and len(table) == 60
    assert set(table[list(FLAGS)].stack().dropna()) == {"1"}  # or nothing
    assert {name.split("/")[0] for name in made[2]} == {f"images_part{n}" for n in range(1, 5)}
    with Image.open(made[0] / made[2][0]) as picture:
        assert picture.mode == "I;16" and np.array_equal(np.asarray(picture), drawn[0].pixels)
    assert table["filestem"].str.fullmatch(r"\d{4}_\d{10}_01_WRI-[LR][12]_[FM]0[01]\d").all()
    assert max(phantom.age_years for phantom in drawn) < 18
    boxes = (made[0] / "folder_structure/yolov5/labels").glob("*.txt")
    assert (
        Counter(line.split()[0] for path in boxes for line in path.open())["3"]
        == table["fracture_visible"].count()
    )


@pytest.mark.parametrize("cls, condition", [(FRACTURE, "fracture"), (IMPLANT, "implant")])
def test_labels_are_what_was_drawn(cls, condition, made, drawn):
    records = cls.read(made[0])
    assert records["image"].tolist() == [str(made[0] / name) for name in made[2]]
    assert records["target"].tolist() == [
        float(phantom.condition == condition) for phantom in drawn
    ]  # empty is 0
    assert 0 < records["target"].sum() < 60
    assert records["patient"].tolist() == [str(phantom.patient + 1) for phantom in drawn]
    assert records["study"].tolist() == [f"{phantom.patient + 1}-1" for phantom in drawn]
    assert not records[list(FLAGS)].isna().any().any()
    assert records.attrs == {"task": cls.task, "notices": []}


def test_ao_classes_are_those_of_the_table(made, drawn):
    records = AO.read(made[1], keep_missing=True)
    task = records.attrs["task"]
    assert (
        task.kind == "multiclass"
        and list(task.classes) == sorted(task.classes)
        and len(task.classes) > 1
    )
    assert set(task.classes) <= set(map(ao_combination, COMBINATIONS))
    assert [task.classes[int(i)] for i in records["target"]] == records["ao"].tolist()
    raw = set(records["ao_classification"])
    assert any(code.endswith(" ") for code in raw) and len(raw) > len(
        task.classes
    )  # one class typed in several ways
    every = FRACTURE.read(made[1], keep_missing=True)
    uncertain = every["diagnosis_uncertain"] == 1
    assert uncertain.any() and not (records["diagnosis_uncertain"] == 1).any()
    left = (every["ao_classification"].isna() & ~uncertain).sum()
    assert len(records) == 62 - uncertain.sum() - left
    assert records.attrs["notices"][:2] == [
        f"{uncertain.sum()} radiographs of uncertain diagnosis left out",
        f"{left} radiographs without an AO code left out",
    ]


def test_codes_in_any_order_and_spacing_are_one_combination():
    typed = ("{0};{1}", "{1} ; {0} ", " {0}; {1};", "{0};{1};{0}", "\t{1};{0}")
    both = "23r-M/2.1", "23u-M/2.1"
    assert {ao_combination(cell.format(*both)) for cell in typed} == {"23r-M/2.1;23u-M/2.1"}
    assert ao_combination(np.nan) == ao_combination(" ; ") == ""


def test_the_twenty_most_frequent_combinations_are_kept(root):
    table = pd.read_csv(root / "dataset.csv", dtype=str)
    codes = [
        f"23r-M/{n:02d}" for n in range(24)
    ]  # 0 to 11 three times, 12 to 23 twice: the first eight of these stay
    table["ao_classification"] = ([*codes, *codes, *codes[:12]])[::-1]
    table["diagnosis_uncertain"] = np.nan
    table.to_csv(root / "dataset.csv", index=False)
    records = AO.read(root)
    assert records.attrs["task"].classes == tuple(codes[:CLASSES])
    assert len(records) == 12 * 3 + 8 * 2
    assert records.attrs["notices"] == ["8 radiographs with one of 4 rarer combinations left out"]
    assert (records["target"] == records["ao"].str[-2:].astype(int)).all()


def test_traps(made, drawn):
    trapped = made[1]
    with pytest.raises(
        FileNotFoundError, match=r"1 of 62 radiographs are not there: .*/images_part1/0001_"
    ):
        FRACTURE.read(trapped)
    records = FRACTURE.read(trapped, keep_missing=True)
    studies = records.groupby("patient")["study"].nunique()
    assert (studies > 1).sum() > 3 and (records.groupby("study")["patient"].nunique() == 1).all()
    copy, first = (trapped / records["image"][row] for row in (60, 0))
    assert (
        copy.read_bytes() == first.read_bytes() and records["patient"][60] == records["patient"][0]
    )


def test_pictures_may_be_in_one_folder(root):
    plain = FRACTURE.read(root)
    (root / "images").mkdir()
    for part in root.glob("images_part*"):
        for path in part.iterdir():
            path.rename(root / "images" / path.name)
        part.rmdir()
    records = FRACTURE.read(root)
    assert set(records["image"].map(lambda path: path.rsplit("/", 1)[0])) == {str(root / "images")}
    assert records.drop(columns="image").equals(plain.drop(columns="image"))
    (root / "images_part2").mkdir()
    name = records["filestem"][0] + ".png"
    shutil.copyfile(root / "images" / name, root / "images_part2" / name)
    with pytest.raises(ValueError, match=f"{name} is both in images and in images_part2"):
        FRACTURE.read(root)


@pytest.mark.parametrize(
    "cells, told",
    [
        ({"fracture_visible": "maybe"}, "row 4: fracture_visible is 'maybe'; expected 0 or 1"),
        ({"metal": "3"}, "row 4: metal is '3(.0)?'; expected 0 or 1"),
        ({"patient_id": ""}, "row 4: patient_id is empty"),
        ({"patient_id": "2.0"}, "row 4: patient_id is '2.0', a number with decimals"),
        (
            {"ao_classification": "NA"},
            "row 4: ao_classification is .NA., which may be a class or a missing label",
        ),
        ({"filestem": "../x"}, "row 4: filestem is '../x', which is not the name of a file"),
    ],
)
def test_bad_cells_are_named(cells, told, root):
    table = pd.read_csv(root / "dataset.csv", dtype=str)
    for column, value in cells.items():
        table.loc[2, column] = value
    table.to_csv(root / "dataset.csv", index=False)
    with pytest.raises(ValueError, match=rf"dataset\.csv: {told}"):
        FRACTURE.read(root, keep_missing=True)
