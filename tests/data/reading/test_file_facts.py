"""Headers told in a few words, none of which can identify anybody."""

import numpy as np
import pytest
from dicom_files import PATCHY, write
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless

from data.reading.file_facts import BODY_PARTS, OTHER, VIEWS, FileFacts, file_facts
from phantoms.body.anatomy import REGIONS

GREY = (np.add.outer(np.arange(40) * 3, np.arange(60) * 2) % 251).astype(np.uint8)
DEEP = GREY.astype(np.uint16) * 200


@pytest.mark.parametrize(
    "name, pixels, options, expected",
    [
        ("a.png", GREY, {}, ("PNG", 40, 60, 8, "grey")),
        ("a.png", DEEP, {}, ("PNG", 40, 60, 16, "grey")),
        ("a.png", GREY, {"mode": "1"}, ("PNG", 40, 60, 1, "grey")),
        ("a.png", GREY, {"mode": "P"}, ("PNG", 40, 60, 8, "palette")),
        ("a.png", GREY, {"mode": "P", "bits": 4}, ("PNG", 40, 60, 4, "palette")),
        ("a.png", GREY, {"mode": "LA"}, ("PNG", 40, 60, 8, "grey")),
        ("a.png", np.stack([GREY] * 3, 2), {}, ("PNG", 40, 60, 8, "colour")),
        ("a.jpg", GREY, {}, ("JPEG", 40, 60, 8, "grey")),
        ("a.jpg", np.stack([GREY] * 3, 2), {}, ("JPEG", 40, 60, 8, "colour")),
        ("a.bmp", GREY, {}, ("BMP", 40, 60, 8, "grey")),
        ("a.tif", GREY, {}, ("TIFF", 40, 60, 8, "grey")),
        ("a.tif", DEEP, {}, ("TIFF", 40, 60, 16, "grey")),
        ("a.tif", GREY, {"tiffinfo": {262: 0}}, ("TIFF", 40, 60, 8, "white is zero")),
    ],
)
def test_pictures(tmp_path, name, pixels, options, expected):
    mode, options = (
        options.get("mode"),
        {key: value for key, value in options.items() if key != "mode"},
    )
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(tmp_path / name, **options)
    assert file_facts(tmp_path / name) == FileFacts(*expected)


def test_dicom(tmp_path):
    path = write(
        tmp_path / "a.dcm", PATCHY, ViewPosition="pa", BodyPartExamined="LOWER LEG", PatientName=""
    )
    assert file_facts(path) == FileFacts(
        "DICOM (Explicit VR Little Endian)",
        40,
        60,
        12,
        "MONOCHROME2",
        "PA",
        "LOWERLEG",
        named=False,
    )
    frame = b"\xff\x4f\xff\x51" + bytes(40)
    path = write(tmp_path / "b.dcm", PATCHY, syntax=JPEG2000Lossless, raw=encapsulate([frame]))
    found = file_facts(path)  # whose pixels cannot be decoded
    assert found.format == "DICOM (JPEG 2000 Image Compression (Lossless Only))" and found.named
    assert (found.view, found.body_part) == ("", "")


@pytest.mark.parametrize(
    "elements, named",
    [
        ({"PatientName": None}, False),
        ({"PatientName": " ^^= "}, False),
        ({"PatientName": "A^B"}, True),
        ({"PatientName": "", "OtherPatientNames": "C^D"}, True),
        ({"PatientName": None, "PatientMotherBirthName": "E"}, True),
        ({"PatientName": "", "OperatorsName": "NO^PATIENT"}, False),
    ],
)
def test_whether_there_is_a_name(tmp_path, elements, named):
    assert file_facts(write(tmp_path / "a.dcm", PATCHY, **elements)).named is named


def test_a_name_in_another_element_is_not_repeated(tmp_path):
    elements = {"ViewPosition": "MILLER JANE", "BodyPartExamined": "MILLER^JANE"}
    found = file_facts(
        write(tmp_path / "a.dcm", PATCHY, PhotometricInterpretation="MILLER", **elements)
    )
    assert (found.view, found.body_part, found.photometric) == (
        OTHER,
        OTHER,
        OTHER,
    ) and "MILLER" not in str(found)


def test_what_cannot_be_looked_at(tmp_path):
    (tmp_path / "text.png").write_text("no picture" * 20)
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "cut.tif").write_bytes(b"II*\0" + bytes(20))
    for name in ("text.png", "empty.dcm", "cut.tif", "gone.png", "."):
        assert file_facts(tmp_path / name) is None


def test_a_deflated_bomb_is_not_inflated(tmp_path, monkeypatch):
    path = write(
        tmp_path / "a.dcm", PATCHY, syntax=DeflatedExplicitVRLittleEndian, raw=bytes(64 << 20)
    )
    monkeypatch.setattr("pydicom.dcmread", lambda *_, **__: pytest.fail("it was inflated"))
    assert path.stat().st_size < 1 << 20 and file_facts(path) is None


def test_the_lists_know_what_phantoms_are_called():
    assert {region.body_part for region in REGIONS.values()} - {""} <= BODY_PARTS and {
        "AP",
        "PA",
    } <= VIEWS
