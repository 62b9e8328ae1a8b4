"""FracAtlas in its published layout, from the phantoms' writer, with traps and with every mistake a user can make."""

import shutil

import pandas as pd
import pytest

from data.releases.registry import BENCHMARK
from phantoms.layouts.registry import WRITERS
from phantoms.plan import Plan, phantoms

FracAtlas, Implants = BENCHMARK["fracatlas"], BENCHMARK["fracatlas_implant"]


@pytest.fixture(scope="module")
def drawn():
    """Hands and knees of 24 pictures."""
    plan = Plan(4, 80, "clear", ("hand", "knee"), ("normal", "fracture", "implant"))
    return list(phantoms(plan, 24))


def write(folder, drawn, traps=False):
    writer = WRITERS["fracatlas"](folder, seed=4, traps=traps)
    names = [writer.add(phantom) for phantom in drawn]
    writer.close()
    return names


@pytest.fixture(scope="module")
def made(drawn, tmp_path_factory):
    root = tmp_path_factory.mktemp("fracatlas")
    return root, write(root, drawn), write(root / "trapped", drawn, traps=True)


@pytest.fixture
def root(made, tmp_path):
    """A copy that may be spoilt."""
    return shutil.copytree(made[0] / "trapped", tmp_path / "set")


def edit(root, row: int, **cells):
    table = pd.read_csv(root / "dataset.csv", dtype=str)
    for column, value in cells.items():
        table.loc[row, column] = value
    table.to_csv(root / "dataset.csv", index=False)


@pytest.mark.parametrize("cls, condition", [(FracAtlas, "fracture"), (Implants, "implant")])
def test_labels_are_what_was_drawn(cls, condition, made, drawn):
    root, names, _ = made
    records = cls.read(root)
    assert records["image"].tolist() == [str(root / name) for name in names]
    assert records["target"].tolist() == [
        float(phantom.condition == condition) for phantom in drawn
    ]
    assert 0 < records["target"].sum() < len(drawn)
    assert records["leg"].tolist() == [
        int(phantom.region == "knee") for phantom in drawn
    ]  # rides along
    assert records["patient"].nunique() == 24
    assert records.attrs["task"] == cls.task and cls.task.kind == "binary"
    assert records.attrs["notices"][-1].startswith(
        "no patient is named: 24 radiographs form 24 groups of near-dup"
    )


def test_traps(made):
    root = made[0] / "trapped"
    with pytest.raises(
        FileNotFoundError, match="1 of 27 radiographs are not there: .*/images/Non_fractured/IMG"
    ):
        FracAtlas.read(root)
    records = FracAtlas.read(root, keep_missing=True)
    first = next(i for i, name in enumerate(records["image"]) if "Non_fractured" in name)
    alike = records.index[records["patient"] == records["patient"][first]].tolist()
    assert alike == [first, 24, 25]  # the copy, and the smaller one
    assert records["patient"].nunique() == 25 and records["patient"][26].startswith("unread-")
    assert records.attrs["notices"][-1].startswith("1 radiograph could not be read, first ")


def test_groups_are_kept(made, tmp_path, monkeypatch):
    cache = tmp_path / "hashes.csv"
    first = FracAtlas.read(made[0], cache=cache)
    monkeypatch.setattr("data.reading.near_duplicates.load_radiograph", None)
    assert Implants.read(made[0], cache=cache)["patient"].tolist() == first["patient"].tolist()


def test_a_picture_in_the_other_folder_is_an_error(root):
    path = next((root / "images" / "Fractured").iterdir())
    path.rename(root / "images" / "Non_fractured" / path.name)
    with pytest.raises(
        ValueError,
        match=rf"dataset\.csv: 1 row and folders .* row \d+ says fractured = 1 of {path.name}",
    ):
        FracAtlas.read(root, keep_missing=True)
    shutil.copyfile(root / "images" / "Non_fractured" / path.name, path)
    with pytest.raises(
        ValueError, match=f"{path.name} is both in images/Fractured and in images/Non_fractured"
    ):
        FracAtlas.read(root, keep_missing=True)


def test_pictures_without_a_row_are_told(root):
    (root / "images" / "Fractured" / "IMG9999999.jpg").write_bytes(b"")
    (root / "images" / "Fractured" / ".hidden").write_bytes(b"")
    told = FracAtlas.read(root, keep_missing=True).attrs["notices"][0]
    assert told == "1 file in images not in the table, first IMG9999999.jpg"


@pytest.mark.parametrize(
    "cells, told",
    [
        ({"fractured": "2"}, "row 5: fractured is '2(.0)?'; expected 0 or 1"),
        ({"hardware": "yes"}, "row 5: hardware is 'yes'; expected 0 or 1"),
        ({"image_id": "IMG0000000.jpg"}, "row 5: image_id is 'IMG0000000.jpg' a second time"),
        ({"image_id": ""}, "row 5: image_id is empty"),
        (
            {"image_id": "12.0"},
            "row 5: image_id is '12.0', a number with decimals; save the column as text",
        ),
        (
            {"image_id": "../../../x.jpg"},
            "row 5: image_id is '../../../x.jpg', which is not the name of a file",
        ),
    ],
)
def test_bad_cells_are_named(cells, told, root):
    edit(root, 3, **cells)
    with pytest.raises(ValueError, match=rf"dataset\.csv: {told}") as caught:
        FracAtlas.read(root, keep_missing=True)
    assert len(str(caught.value).splitlines()) == 1


def test_wrong_roots_and_tables_are_named(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/dataset\.csv: no such table"):
        FracAtlas.read(tmp_path / "nowhere")
    table = pd.read_csv(root / "dataset.csv")
    table.drop(columns="hardware").to_csv(root / "dataset.csv", index=False)
    with pytest.raises(ValueError, match=r"no column 'hardware'; it has image_id, hand"):
        FracAtlas.read(root)
    table.iloc[:0].to_csv(root / "dataset.csv", index=False)
    with pytest.raises(ValueError, match="no radiographs are left"):
        FracAtlas.read(root)
    table.to_csv(root / "dataset.csv", index=False, encoding="utf-8-sig")  # with a byte order mark
    assert len(FracAtlas.read(root, keep_missing=True)) == 27
    shutil.rmtree(root / "images")
    with pytest.raises(
        FileNotFoundError, match="27 of 27 radiographs are not there: .*, .* and 24 more"
    ):
        FracAtlas.read(root, keep_missing=True)


def test_an_unknown_label_is_not_zero(root):
    edit(root, 3, hardware="")
    records = Implants.read(root, keep_missing=True)
    assert records["target"].isna().tolist() == [row == 3 for row in range(27)]
