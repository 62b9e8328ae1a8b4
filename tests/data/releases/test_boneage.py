"""RSNA bone age from the layouts of its releases: three tables with three schemas, plain and nested folders."""

import shutil

import numpy as np
import pandas as pd
import pytest
from release_layouts import by_path, refusal, swap, write_release

from data.releases.rsna_bone_age import BoneAge

TRAIN, VAL = "boneage-training-dataset.csv", "Bone Age Validation Set/Validation Dataset.csv"
TRUTH = "Bone Age Test Set/Bone age ground truth.xlsx"
COUNT = 20  # 16 training, 2 validation, 2 test


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boneage")
    return folder, write_release("rsna_bone_age", folder, COUNT)


@pytest.fixture(scope="module")
def trapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boneage traps")
    return folder, write_release("rsna_bone_age", folder, COUNT, traps=True)


@pytest.fixture
def copy(plain, tmp_path):
    return shutil.copytree(plain[0], tmp_path / "boneage")


def test_records_are_what_was_drawn(plain):
    folder, drawn = plain
    records = BoneAge.read(folder)
    rows = by_path(records, folder)
    assert set(rows) == set(drawn)
    for path, phantom in drawn.items():
        row = rows[path]
        assert (
            row["target"] == pytest.approx(phantom.bone_age_months, abs=0.5)
            and row["sex"] == phantom.sex
        )
        assert row["id"] == row["patient"] == path.rpartition("/")[2].removesuffix(".png")
    assert list(records["official"]) == ["train"] * 16 + ["val"] * 2 + ["test"] * 2
    assert (
        set(records["sex"]) == {"M", "F"}
        and records["target"].std() > 20
        and records.attrs["notices"] == []
    )
    assert list(records["id"][:2]) == ["1377", "1378"] and list(records["id"][-2:]) == [
        "4360",
        "4361",
    ]
    assert {"boneage-validation-dataset-1", "boneage-validation-dataset-2"} == {
        path.split("/")[1] for path in rows if "Validation" in path
    }


def test_a_nested_folder_a_bom_and_a_second_test_table_change_nothing(plain, trapped):
    folder, drawn = trapped
    records = BoneAge.read(folder, keep_missing=True)
    plain_records = BoneAge.read(plain[0])
    assert (folder / TRAIN).read_bytes().startswith(b"\xef\xbb\xbf")
    assert (
        records["image"][0]
        == f"{folder}/boneage-training-dataset/boneage-training-dataset/1377.png"
    )
    assert (folder / "boneage-test-dataset.csv").is_file() and not records["target"].isna().any()
    usual = records[~records["id"].isin(["15000", "15600"])].reset_index(drop=True)
    assert usual.drop(columns="image").equals(plain_records.drop(columns="image"))
    by_path(usual, folder)
    twin = records.set_index("id").loc[["1377", "15000"]]
    assert (
        twin["target"].nunique() == 1
        and len({open(path, "rb").read() for path in twin["image"]}) == 1
    )


def test_a_missing_picture_is_counted_and_named(trapped, copy):
    refusal(
        lambda: BoneAge.read(trapped[0]),
        f"{TRAIN}: 1 of 18 radiographs are not there: ",
        "15600.png",
    )
    shutil.rmtree(copy / "boneage-training-dataset")
    refusal(
        lambda: BoneAge.read(copy),
        f"{TRAIN}: 16 of 16 radiographs are not there: ",
        "1377.png, ",
        "and 13 more",
    )


def test_a_test_set_without_ground_truth_has_no_target_and_a_notice(copy):
    truth = pd.read_excel(copy / TRUTH)
    truth[["Case ID", "Sex"]].to_csv(copy / "boneage-test-dataset.csv", index=False)
    (copy / TRUTH).unlink()
    (copy / "Bone Age Test Set" / "Test Set Images").rename(copy / "boneage-test-dataset")
    records = BoneAge.read(copy)
    assert records["target"].isna().tolist() == [False] * 18 + [True] * 2
    assert list(records["sex"][-2:]) == list(truth["Sex"])
    assert records.attrs["notices"] == ["2 radiographs of the test set without bone age"]


def test_each_set_but_training_may_be_absent_or_lie_in_the_root(copy):
    shutil.rmtree(copy / "Bone Age Test Set")
    for path in (copy / "Bone Age Validation Set").iterdir():
        path.rename(copy / path.name)
    (copy / TRAIN).rename(copy / "train.csv")
    assert list(BoneAge.read(copy)["official"]) == ["train"] * 16 + ["val"] * 2
    (copy / "Validation Dataset.csv").unlink()
    assert len(BoneAge.read(copy)) == 16
    (copy / "train.csv").unlink()
    refusal(
        lambda: BoneAge.read(copy),
        f"no training table {TRAIN} or train.csv",
        "; it has Bone Age Validation Set, ",
    )
    refusal(lambda: BoneAge.read(copy / "nowhere"), "nowhere: no such folder")


def test_empty_cells_are_unknown(copy):
    lines = (copy / TRAIN).read_text().splitlines()
    lines[1], lines[2] = "1377,,True", "1378,90,"
    (copy / TRAIN).write_text("\n".join(lines))
    records = BoneAge.read(copy)
    assert np.isnan(records["target"][0]) and records["target"][1] == 90
    assert (
        records["sex"].isna().tolist() == [False, True] + [False] * 18 and records["sex"][0] == "M"
    )
    assert records.attrs["notices"] == ["1 radiograph of the train set without bone age"]


@pytest.mark.parametrize(
    "line, told",
    [
        ("1378.0,90,True", "row 3: id is '1378.0', a number with decimals"),
        ("1378.,90,True", "row 3: id is '1378.', a number with decimals"),
        ("../1378,90,True", "row 3: id is '../1378'; expected digits"),
        ("1378.png,90,True", "row 3: id is '1378.png'; expected digits"),
        ("-1378,90,True", "row 3: id is '-1378'; expected digits"),
        ("٣,90,True", "row 3: id is '٣'; expected digits"),
        (",90,True", "row 3: id is empty"),
        ("1377,90,True", "row 3: id is '1377' a second time"),
        ("1386,90,True", "1 of 16 radiographs are not there: "),
        ("1378,1100,True", "row 3: boneage is '1100'; expected 0 to 240 months"),
        ("1378,-1,True", "row 3: boneage is '-1'; expected 0 to 240 months"),
        ("1378,ten,True", "row 3: boneage is 'ten'; expected 0 to 240 months"),
        ("1378,inf,True", "row 3: boneage is 'inf'; expected"),
        ("1378,90,M", "row 3: male is 'M'; expected True or False"),
        ("1378,90,2", "row 3: male is '2'; expected True or False"),
        ("1378,90,True,7", "not a readable table"),
    ],
)
def test_a_wrong_row_is_named(copy, line, told):
    lines = (copy / TRAIN).read_text().splitlines()
    lines[2] = line
    (copy / TRAIN).write_text("\n".join(lines))
    refusal(lambda: BoneAge.read(copy), f"{copy / TRAIN}: ", told)


@pytest.mark.parametrize(
    "table, old, new, told",
    [
        (
            TRAIN,
            "id,",
            "number,",
            "none of the columns 'id', 'Image ID', 'Case ID'; it has number, boneage, male",
        ),
        (TRAIN, "boneage", "age", "no column 'boneage'; it has id, age, male"),
        (TRAIN, "male", "sex", "no column 'male'"),
        (
            VAL,
            "Bone Age (months)",
            "boneage",
            "no column 'Bone Age (months)'; it has Image ID, male, boneage",
        ),
        (VAL, "1385", "1385.0", "row 2: Image ID is '1385.0', a number"),
    ],
)
def test_a_missing_column_is_named_with_those_that_are_there(copy, table, old, new, told):
    swap(copy / table, old, new)
    refusal(lambda: BoneAge.read(copy), f"{copy / table}: {told}")


def test_a_ground_truth_without_its_column_is_no_set_without_labels(copy):
    truth = pd.read_excel(copy / TRUTH)
    truth.drop(columns="Ground truth bone age (months)").to_excel(copy / TRUTH, index=False)
    refusal(
        lambda: BoneAge.read(copy),
        "no column 'Ground truth bone age (months)'; it has Case ID, Sex",
    )
    truth.assign(Sex="male").to_excel(copy / TRUTH, index=False)
    refusal(lambda: BoneAge.read(copy), "row 2: Sex is 'male'; expected M or F")


def test_one_child_is_in_one_set(copy):
    swap(copy / VAL, "1385", "1377")
    shutil.copyfile(
        copy / "boneage-training-dataset/1377.png",
        copy / "Bone Age Validation Set/boneage-validation-dataset-1/1377.png",
    )
    refusal(lambda: BoneAge.read(copy), "boneage: 1 id more than once: 1377")
