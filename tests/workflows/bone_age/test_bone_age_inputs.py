"""Lists and tables as spreadsheets and people write them; tags of DICOM files; nothing is guessed or silently lost."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from PIL import Image

from data.reading.dicom.patient import patient_facts
from data.releases.rsna_bone_age import own_table
from data.views.preprocessing import Preprocessing
from workflows.bone_age.inputs import BoneAgeInputs, add_patient_tags, read_inputs


@pytest.fixture
def hands(tmp_path) -> Path:
    folder = tmp_path / "hands"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 30), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{1377 + number}.png")
    return folder


def names(records: pd.DataFrame) -> list[str]:
    return [Path(image).name for image in records["image"]]


def test_a_list_from_windows_with_a_byte_order_mark_and_blank_lines(hands):
    source = hands / "list.txt"
    source.write_bytes(
        b"\xef\xbb\xbf1377.png\r\n\r\n  1379.png  \r\nlost.png\r\n"
        + str(hands / "1378.png").encode()
    )
    records, lost = read_inputs([source])
    assert (
        names(records) == ["1377.png", "1379.png", "1378.png"] and records["name"][0] == "1377.png"
    )
    (path, reason, detail) = lost[0]
    assert str(path) == "lost.png" and reason == "missing" and "line 4" in detail and len(lost) == 1
    assert list(records["sex"]) == ["", "", ""] and records["target"].isna().all()


def test_a_list_elsewhere_names_files_from_here(hands, tmp_path):
    source = tmp_path / "elsewhere.txt"
    source.write_text("hands/1377.png\n1378.png\n")
    records, lost = read_inputs([source])
    assert names(records) == ["1377.png"] and len(lost) == 1
    records, lost = read_inputs([source], beside=hands)
    assert names(records) == ["1377.png", "1378.png"] and not lost
    source.write_bytes("1377.png".encode("utf-16"))
    with pytest.raises(ValueError, match="UTF-16"):
        read_inputs([source])
    with pytest.raises(FileNotFoundError, match="no such list"):
        read_inputs([tmp_path / "none.txt"])


def test_a_table_with_a_sex_for_each(hands):
    table = hands / "table.csv"
    table.write_bytes(
        b"\xef\xbb\xbfImage,Sex,age_years,bone_age_months,patient\r\n1377.png, F ,10.5,120,007\r\n"
        b"1378.png,,,,8\r\nlost.png,M,1,1,9\r\n"
    )
    records, lost = read_inputs([table])
    assert names(records) == ["1377.png", "1378.png"] and list(records["sex"]) == ["F", ""]
    assert (
        records["age_months"][0] == 126
        and records["target"][0] == 120
        and list(records["patient"]) == ["007", "8"]
    )
    assert math.isnan(records["age_months"][1]) and math.isnan(records["target"][1])
    assert "row 4" in lost[0][2] and records["said"][1].endswith("table.csv: row 3")


def test_the_tables_of_rsna(hands):
    for name, text in (
        ("hands.csv", "id,boneage,male\n1377,136,False\n1378,42,True\n"),
        ("test.csv", "Case ID,Sex\n1377,F\n1378,M\n"),
    ):
        place = (
            hands.parent if name == "hands.csv" else hands
        )  # beside the folder of its own name, or in it
        (place / name).write_text(text)
        records, lost = read_inputs([place / name])
        assert names(records) == ["1377.png", "1378.png"] and not lost
        assert [word.lower() for word in records["sex"]] in (["false", "true"], ["f", "m"])
    images = hands.parent / "Test Set Images"
    hands.rename(images)
    table = hands.parent / "truth.csv"
    table.write_text(
        "Case ID,Sex,Ground truth bone age (months)\n1377,F,136.5\n1378,M,42\n9,M,42\n"
    )
    records, lost = read_inputs([table])
    assert names(records) == ["1377.png", "1378.png"] and records["target"].tolist() == [136.5, 42]
    assert lost[0][2].startswith("no such file; row 4")
    images.rename(hands)
    records, _ = read_inputs([hands.parent / "hands.csv"])
    assert records["target"].tolist() == [136, 42]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("image,age\n1377.png,5\n", "call it age_months or age_years"),
        ("image,gender\n1377.png,F\n", "call it sex"),
        ("image,sex,male\n1377.png,F,False\n", "'sex' and 'male' say the same"),
        ("picture,sex\n1377.png,F\n", "no column 'image'"),
        ("image,age_months\n1377.png,old\n", "row 2: age_months is 'old'; expected 0 to 1200"),
        ("image,boneage\n1377.png,400\n", "row 2: boneage is '400'; expected 0 to 240"),
        ("image,sex\n,F\n", "row 2: image is empty"),
        ("image,sex\n1377.png,F\n1377.png,M\n", "named twice, with sex 'F' and 'M'"),
        (
            "image,sex\n1377.png,1\n",
            "row 2: sex is '1'; expected M or F, male or female .1 and 0 only in a column",
        ),
        ("image,Sex\n1377.png,0\n", "row 2: Sex is '0'; expected M or F"),
        ("image,sex\n1377.png,2\n", "row 2: sex is '2'; expected M or F"),
        ("image,sex,Sex\n1377.png,F,M\n", "columns 'sex' and 'Sex' have the same name"),
        ("id,male\n1377.0,1\n", "row 2: id is '1377.0', a number with decimals"),
        ("image,patient\n1377.png,1.2E+13\n", "row 2: patient is '1.2E.13', a rounded number"),
        (
            "image,patient\n1377.png,12\n1378.png,0012\n",
            "row 3: patient is '0012', and '12' in row 2",
        ),
    ],
)
def test_tables_that_are_unclear(hands, text, told):
    (hands / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=told):
        read_inputs([hands / "table.csv"])


def test_the_sex_means_the_same_in_training_and_prediction(hands):
    table = hands / "table.csv"
    words = {
        "M": "M",
        "female": "F",
        "TRUE": "M",
        "unknown": "unknown",
        "NA": "unknown",
        "u": "unknown",
        "": "",
    }
    flags = {"1": "M", "0": "F", "True": "M", "false": "F"}
    for column, known in (("sex", words), ("male", flags)):
        for word, sex in known.items():
            table.write_text(f"image,{column},boneage\n1377.png,{word},100\n1378.png,F,90\n")
            records, _ = read_inputs([table])
            assert records["sex"].tolist() == [sex, "F"]
            learnt = own_table(None, csv=table, sex_col=column)["sex"]
            assert learnt[1] == "F" and (
                learnt[0] == sex if sex in ("M", "F") else pd.isna(learnt[0])
            )
    for word in ("0", "1", "2", "boy"):
        table.write_text(f"image,sex,boneage\n1377.png,{word},100\n1378.png,F,90\n")
        for read in (
            lambda: read_inputs([table]),
            lambda: own_table(None, csv=table, sex_col="sex"),
        ):
            with pytest.raises(ValueError, match=f"row 2: sex is '{word}'; expected M or F"):
                read()


def test_a_radiograph_named_twice_is_there_once(hands):
    (hands / "table.csv").write_text("image,sex\n1378.png,F\n")
    records, _ = read_inputs([hands, hands / "table.csv", hands / "1377.png"])
    assert sorted(names(records)) == ["1377.png", "1378.png", "1379.png"]
    assert records.set_index(pd.Index(names(records)))["sex"]["1378.png"] == "F"
    with pytest.raises(FileNotFoundError, match="no such folder or file"):
        read_inputs([hands / "none.png"])


def dicom(path: Path, **tags) -> Path:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 40, 30, 1
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = (
        np.random.default_rng(0).integers(0, 4000, (40, 30)).astype(np.uint16).tobytes()
    )
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    ("tags", "sex", "months"),
    [
        ({"PatientSex": "F", "PatientAge": "010Y"}, "F", 126),
        ({"PatientSex": "M", "PatientAge": "007M"}, "M", 7),
        ({"PatientSex": "O", "PatientAge": "052W"}, "", 12),
        ({"PatientSex": "", "PatientAge": "091D"}, "", 3),
        (
            {
                "PatientSex": "M",
                "PatientAge": "010Y",
                "PatientBirthDate": "20100301",
                "StudyDate": "20200915",
            },
            "M",
            127,
        ),
        (
            {
                "PatientBirthDate": "20100301",
                "StudyDate": "20200915",
                "AcquisitionDate": "20150301",
            },
            "",
            60,
        ),
        ({"PatientBirthDate": "20250301", "StudyDate": "20200915"}, "", None),
    ],
)
def test_sex_and_age_of_a_dicom(tmp_path, tags, sex, months):
    empty = {"PatientSex": "", "PatientAge": "", "PatientBirthDate": "", "StudyDate": ""}
    facts = patient_facts(dicom(tmp_path / "a.dcm", **empty | tags))
    assert facts.sex == sex
    assert math.isnan(facts.age_months) if months is None else facts.age_months == months


def test_files_without_tags(tmp_path, hands):
    for path in (hands / "1377.png", tmp_path / "none.dcm", tmp_path):
        assert patient_facts(path).sex == "" and math.isnan(patient_facts(path).age_months)
    cut = dicom(tmp_path / "cut.dcm", PatientSex="F")
    cut.write_bytes(cut.read_bytes()[:140])
    assert patient_facts(cut).sex == ""


def test_tags_only_if_asked_and_never_over_the_table(tmp_path):
    dicom(tmp_path / "a.dcm", PatientSex="F", PatientAge="010Y")
    dicom(tmp_path / "b.dcm", PatientSex="F", PatientAge="010Y")
    (tmp_path / "t.csv").write_text("image,sex,age_months\na.dcm,M,100\nb.dcm,,\n")
    records, _ = read_inputs([tmp_path / "t.csv"])
    assert add_patient_tags(records, sex=False, age=False) == 0 and list(records["sex"]) == [
        "M",
        "",
    ]
    assert add_patient_tags(records, sex=True, age=False) == 1 and list(records["sex"]) == [
        "M",
        "F",
    ]
    assert (
        records["age_months"].isna().tolist() == [False, True]
        and records["said"][1] == "PatientSex"
    )
    assert add_patient_tags(records, sex=True, age=True) == 1 and records[
        "age_months"
    ].tolist() == [100, 126]


def test_what_a_network_gets(hands):
    Image.new("L", (40, 40)).save(hands / "black.png")
    dataset = BoneAgeInputs(
        [str(hands / "1377.png"), str(hands / "black.png")],
        Preprocessing(height=16, width=12),
        lambda picture: np.float32([picture.mean()]),
        1,
    )
    good, black = dataset[0], dataset[1]
    assert good["image"].shape == (1, 16, 12) and good["image"].dtype == torch.uint8
    assert good["size"].tolist() == [40, 30]
    assert (
        good["look"][0] == pytest.approx(good["image"].float().mean().item())
        and good["reason"] == ""
    )
    assert (
        black["reason"] == "constant" and black["image"].dtype == torch.uint8 and len(dataset) == 2
    )
