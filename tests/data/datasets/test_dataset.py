"""Labelled radiographs: tables with the usual faults, and samples that depend on nothing but their key."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from core.task import Task
from data.datasets.dataset import RadiographDataset
from data.reading.radiograph import load_radiograph
from data.tables.files import read_table
from data.views.augmentation import CropFlip
from data.views.preprocessing import Preprocessing


class Bones(RadiographDataset):
    table, image, target, patient = "bones.csv", "images/{File Name}.png", "finding", "who"
    task = Task("multiclass", ("normal", "fracture"))


class Ages(RadiographDataset):
    table, image, target = "bones.csv", "images/{File Name}.png", "months"
    task = Task("regression", unit="months")


class Tumours(RadiographDataset):
    table, image, target = "bones.csv", "images/{File Name}.png", "tumour"
    task = Task("binary")


ROWS = {
    "File Name": ["a", "b", "c"],
    "finding": ["fracture", None, "normal"],
    "months": [12, 30.5, None],
    "tumour": [1, 0, None],
    "who": [7, 7, 9],
    "machine": ["x", "y", "z"],
}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (40, 50), dtype=np.uint8)).save(
            tmp_path / "images" / f"{name}.png"
        )
    pd.DataFrame(ROWS).to_csv(tmp_path / "bones.csv", index=False)
    return tmp_path


def test_records(root):
    records = Bones.read(root)
    assert records["image"].tolist() == [str(root / "images" / f"{name}.png") for name in "abc"]
    assert records["target"].tolist()[::2] == [1, 0] and np.isnan(records["target"][1])
    assert records["patient"].tolist() == ["7", "7", "9"]
    assert records["machine"].tolist() == ["x", "y", "z"]  # rides along
    assert Ages.read(root)["target"].tolist()[:2] == [12, 30.5] and np.isnan(
        Ages.read(root)["target"][2]
    )
    assert Tumours.read(root)["target"].tolist()[:2] == [1, 0] and np.isnan(
        Tumours.read(root)["target"][2]
    )
    assert "patient" not in Ages.read(root)
    assert (Bones.task.outputs, Ages.task.outputs, Tumours.task.outputs) == (2, 1, 1)


@pytest.mark.parametrize("column", ["finding", "who", "File Name"])
def test_a_missing_column_is_named_with_those_that_are_there(root, column):
    pd.DataFrame(ROWS).drop(columns=column).to_csv(root / "bones.csv", index=False)
    with pytest.raises(ValueError) as caught:
        Bones.read(root)
    told = str(caught.value)
    assert (
        told.startswith(f"{root / 'bones.csv'}: no column '{column}'; it has ")
        and "machine" in told
    )


@pytest.mark.parametrize(
    "cls, column, value, told",
    [
        (Bones, "finding", "broken", "finding has 'broken'; choices normal, fracture"),
        (Bones, "finding", 3, "choices normal, fracture"),
        (Ages, "months", "twelve", "months has 'twelve'; expected a number"),
        (Ages, "months", float("inf"), "months has inf; expected a number"),
        (Tumours, "tumour", 2, r"tumour has 2(\.0)?; expected 0 or 1"),
        (Tumours, "tumour", "yes", "tumour has 'yes'; expected 0 or 1"),
    ],
)
def test_a_label_is_never_guessed(root, cls, column, value, told):
    rows = pd.DataFrame(ROWS).astype(object)
    rows.loc[1, column] = value
    rows.to_csv(root / "bones.csv", index=False)
    with pytest.raises(ValueError, match=told):
        cls.read(root)


def test_tables(root, tmp_path):
    rows = pd.DataFrame(ROWS)
    rows.to_excel(tmp_path / "t.xlsx", index=False)
    assert read_table(tmp_path / "t.xlsx").equals(read_table(root / "bones.csv"))
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbfage,b\n1,2\n")
    assert list(read_table(tmp_path / "bom.csv")) == ["age", "b"]
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such table"):
        read_table(tmp_path / "none.csv")


@pytest.mark.parametrize(
    "name, content",
    [
        ("t.csv", b""),
        ("t.csv", b'a,b\n1,"2\n'),
        ("t.csv", b"a\n\xff\xfe\xfd\n"),
        ("t.xlsx", b"no workbook"),
        ("t.xlsx", b"PK\x03\x04broken"),
        ("t.xlsx", b""),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: not a readable table \(.+\)"):
        read_table(tmp_path / name)


def test_samples_for_evaluation_are_the_preprocessing(root):
    preprocessing = Preprocessing(32, 24)
    data = Ages(Ages.read(root), preprocessing)
    assert len(data) == 3
    sample = data[1]
    assert torch.equal(sample["image"], preprocessing(load_radiograph(root / "images" / "b.png")))
    assert (
        sample["target"].item() == 30.5
        and sample["target"].dtype == torch.float32
        and sample["index"] == 1
    )
    assert data[5, 1]["index"] == 1 and torch.isnan(data[2]["target"])
    assert data[np.int64(1)]["index"] == 1


def test_augmentation_is_a_function_of_seed_epoch_and_row(root):
    records = Ages.read(root)

    def make(seed=1, keep=False):
        return Ages(records, Preprocessing(32, 32), CropFlip(32, 32), seed, keep)

    first = make()[0, 1]["image"]
    assert first.shape == (1, 32, 32) and first.dtype == torch.uint8
    data = make()
    data[0, 0], data[3, 1]
    assert torch.equal(data[0, 1]["image"], first)
    for other in (data[1, 1], make(seed=2)[0, 1], data[0, 0]):
        assert not torch.equal(other["image"], first)
    kept = make(keep=True)
    once = [kept[e, 1]["image"] for e in (0, 1)]
    (root / "images" / "b.png").unlink()
    assert [torch.equal(kept[e, 1]["image"], o) for e, o in enumerate(once)] == [True, True]
    assert torch.equal(once[0], first)  # and the crop did not change what is kept


def test_rows_may_be_selected_without_moving_labels(root):
    records = Ages.read(root)
    chosen = Ages(records.iloc[[1, 0]], Preprocessing(32, 32))
    assert [chosen[i]["target"].item() for i in range(2)] == [30.5, 12.0]
    assert torch.equal(chosen[0]["image"], Ages(records, Preprocessing(32, 32))[1]["image"])


def test_ids_stay_as_written(tmp_path):
    (tmp_path / "t.csv").write_text("id,label,who\n00012,1,007\n00013,0,1E5\n")

    class Numbered(RadiographDataset):
        """Ids with leading zeros."""

        table, image, target, patient, task = "t.csv", "{id}.png", "label", "who", Task("binary")

    records = Numbered.read(tmp_path)
    assert [Path(p).name for p in records["image"]] == ["00012.png", "00013.png"]
    assert list(records["patient"]) == ["007", "1E5"]
