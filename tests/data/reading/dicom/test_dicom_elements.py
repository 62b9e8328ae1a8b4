"""Elements that are missing, empty, of a wrong type or out of range: read, or refused by their name."""

import re
import struct

import numpy as np
import pytest
from dicom_files import CANARY, PATCHY, check_text, refusal, write
from pydicom import dcmread
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from data.reading.radiograph import load_radiograph
from data.reading.refusal import UnreadableRadiograph

COLOUR = np.stack([PATCHY, PATCHY[::-1], PATCHY[:, ::-1]], -1)
WORD = struct.Struct("<H").pack


def item(**elements) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    for keyword, vr in (("LUTDescriptor", "US"), ("LUTData", "OW")):
        if keyword in dataset:
            dataset[keyword].VR = vr
    return dataset


def curve() -> Dataset:
    return item(LUTDescriptor=[4096, 0, 12], LUTData=np.arange(4096, dtype="<u2").tobytes())


def groups(**elements) -> list[Dataset]:
    """Functional groups of two frames."""
    return [
        item(**{keyword: [item(**inner)] for keyword, inner in elements.items()}) for _ in range(2)
    ]


def base(path, kind: str):
    """A file of one kind that is read, with all elements that this kind can have."""
    grey = dict(
        PixelPaddingValue=9,
        PixelPaddingRangeLimit=12,
        RescaleSlope=2,
        RescaleIntercept=-4,
        NumberOfFrames=1,
    )
    if kind == "window":
        window = dict(WindowCenter=2000, WindowWidth=3000, VOILUTFunction="LINEAR_EXACT")
        return write(path, PATCHY, **grey, **window)
    if kind == "implicit":
        return write(
            path,
            PATCHY.astype(np.int16) - 2048,
            syntax=ImplicitVRLittleEndian,
            VOILUTSequence=[curve()],
            **grey,
        )
    if kind == "tables":
        return write(path, PATCHY, **grey, ModalityLUTSequence=[curve()], VOILUTSequence=[curve()])
    if kind == "enhanced":
        inner = dict(
            PixelValueTransformationSequence=dict(RescaleSlope=2, RescaleIntercept=-4),
            FrameVOILUTSequence=dict(WindowCenter=2000, WindowWidth=3000, VOILUTFunction="SIGMOID"),
        )
        stack = np.stack([PATCHY, PATCHY])
        return write(
            path, stack, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=groups(**inner)
        )
    if kind == "float":
        absent = dict.fromkeys(("BitsStored", "HighBit", "PixelRepresentation"))
        values = PATCHY.astype(np.float32)
        padding = dict(FloatPixelPaddingValue=-1.0, FloatPixelPaddingRangeLimit=-2.0)
        return write(path, values, raw=b"", FloatPixelData=values.tobytes(), **padding, **absent)
    if kind == "colour":
        return write(
            path, COLOUR, SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="RGB"
        )
    if kind == "palette":
        table = np.arange(4096, dtype="<u2").tobytes()
        elements = {
            f"{c}PaletteColorLookupTableDescriptor": [4096, 0, 16] for c in ("Red", "Green", "Blue")
        }
        elements |= {f"{c}PaletteColorLookupTableData": table for c in ("Red", "Green", "Blue")}
        return write(path, PATCHY, PhotometricInterpretation="PALETTE COLOR", **elements)
    dataset = dcmread(write(path, PATCHY, NumberOfFrames=1))
    dataset.compress(
        {"rle": RLELossless, "jpeg2000": JPEG2000Lossless}[kind], encapsulate_ext=kind == "rle"
    )
    dataset.save_as(path)
    return path


# the elements that are changed in each kind: those that no earlier kind has, or that mean something else in it
KINDS = {
    "window": r".*",
    "implicit": r"LUT|VOI|Padding|PixelRepresentation|Rescale|Rows",
    "tables": r"Modality|LUT",
    "enhanced": r"Sequence|Window|Function|Rescale|NumberOfFrames",
    "float": r"Float|Bits",
    "colour": r"Samples|Planar|Photometric|Bits|High|Representation|Pixel",
    "palette": r"Red|Photometric|Representation",
    "rle": r"PixelData|Offset|Bits|High|NumberOfFrames",
    "jpeg2000": r"PixelData|Rows|Bits|High|Samples",
}
LEGAL = [
    ("BitsStored", "one"),
    ("BitsStored", "two"),
]  # a picture of one or two bits, here without contrast
# value representation and bytes
WRONG = {
    "empty": (None, b""),
    "text": ("LO", CANARY.encode()),
    "texts": ("LO", b"CANARY\\PATIENT!"),
    "one byte": (None, b"\x01"),
    "three bytes": (None, b"\x01\x02\x03"),
    "two values": ("US", WORD(1) + WORD(2)),
    "zero": ("US", WORD(0)),
    "one": ("US", WORD(1)),
    "two": ("US", WORD(2)),
    "large": ("US", WORD(65535)),
    "negative": ("SS", WORD(65531)),
    "fraction": ("FD", struct.pack("<d", 0.5)),
    "not a number": ("FD", struct.pack("<d", float("nan"))),
    "infinite": ("FD", struct.pack("<d", float("inf"))),
    "huge": ("FD", struct.pack("<d", 1e300)),
    "tiny": ("FD", struct.pack("<d", 1e-300)),
    "decimal text": ("DS", b"abc "),
    "integer text": ("IS", b"1.5 "),
    "long integer": ("IS", b"999999999999"),
    "unknown representation": ("ZZ", b"\x01\x02"),
    "bytes": ("OB", b"\x01\x02\x03\x04"),
    "unknown bytes": ("UN", b"\x01\x02\x03\x04"),
    "sequence": ("SQ", []),
    "name": ("PN", CANARY.encode()),
    "tag": ("AT", b"\x28\x00\x10\x00"),
}


def read_tree(dataset) -> dict:
    """{tag: (representation, content)} of a data set not yet accessed; the content of a sequence is a list of trees."""
    tree = {}
    for tag in sorted(dataset.keys()):
        raw = dataset.get_item(tag)
        if dataset[tag].VR == "SQ":
            tree[tag] = ("SQ", [read_tree(inner) for inner in dataset[tag].value])
        else:
            tree[tag] = (dataset[tag].VR, raw.value or b"")
    return tree


def encode(tree: dict, implicit: bool, encapsulated: bool) -> bytes:
    """A data set in little endian, whatever the representations and contents are."""
    parts = []
    for tag, element in tree.items():
        if element is None:
            continue
        vr, content = element
        if isinstance(content, list):
            items = [encode(inner, implicit, False) for inner in content]
            content = b"".join(
                b"\xfe\xff\x00\xe0" + struct.pack("<L", len(inner)) + inner for inner in items
            )
        parts.append(struct.pack("<HH", tag.group, tag.element))
        long = implicit or vr in (
            "OB",
            "OD",
            "OF",
            "OL",
            "OW",
            "OV",
            "SQ",
            "UN",
            "UC",
            "UR",
            "UT",
            "SV",
            "UV",
        )
        undefined = encapsulated and long and tag == 0x7FE00010
        length = 0xFFFFFFFF if undefined else len(content)
        parts.append(
            (b"" if implicit else vr.encode() + b"\0\0" * long)
            + struct.pack("<L" if long else "<H", length)
        )
        parts.append(content + (b"\xfe\xff\xdd\xe0\0\0\0\0" if undefined else b""))
    return b"".join(parts)


def places(tree: dict):
    """(tree, tag, keyword) of every element that describes the picture; of the items of a sequence, the last."""
    for tag, (vr, content) in tree.items():
        if tag.group in (0x28, 0x7FE0) or vr == "SQ":
            yield tree, tag, keyword_for_tag(tag)
        if vr == "SQ":
            for inner in content[-1:]:
                yield from places(inner)


def judge(path, keyword: str, **options) -> str | None:
    """The detail of the refusal where it does not name the element, "" where it does; None for a file that is read."""
    try:
        assert np.isfinite(load_radiograph(path, **options)).all()
        return None
    except UnreadableRadiograph as error:
        detail = check_text(error)
        return "" if keyword in detail else detail


@pytest.mark.parametrize("kind, chosen", KINDS.items())
def test_every_element_is_read_or_refused_by_name(tmp_path, kind, chosen):
    """Every element of nine kinds of files: missing, and replaced by 25 wrong values."""
    path = base(tmp_path / "a.dcm", kind)
    options = {"frame": 1} if kind == "enhanced" else {}
    expected = load_radiograph(path, **options)
    dataset = dcmread(path)
    syntax = dataset.file_meta.TransferSyntaxUID
    form = (syntax.is_implicit_VR, syntax.is_encapsulated)
    tree = read_tree(dataset)
    start = path.read_bytes()[: 144 + dataset.file_meta.FileMetaInformationGroupLength]
    changed = tmp_path / "b.dcm"
    changed.write_bytes(start + encode(tree, *form))
    np.testing.assert_array_equal(load_radiograph(changed, **options), expected)
    details = {}
    for holder, tag, keyword in [place for place in places(tree) if re.search(chosen, place[2])]:
        right = holder[tag]
        for case in ("missing", *WRONG):
            vr, content = WRONG.get(case, (None, None))
            holder[tag] = None if case == "missing" else (vr or right[0], content)
            changed.write_bytes(start + encode(tree, *form))
            details[keyword, case] = judge(changed, keyword, **options)
        holder[tag] = right
    assert [
        (*place, detail) for place, detail in details.items() if detail and place not in LEGAL
    ] == []
    assert sum(detail == "" for detail in details.values()) >= 50


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("keyword", ["Rows", "BitsStored", "WindowWidth", "PixelRepresentation"])
def test_element_that_is_present_twice(tmp_path, implicit, keyword):
    """Which of the two counts would be a guess."""
    path = write(
        tmp_path / "a.dcm",
        PATCHY,
        WindowCenter=2000,
        WindowWidth=3000,
        **({"syntax": ImplicitVRLittleEndian} if implicit else {}),
    )
    content = path.read_bytes()
    dataset = dcmread(path)
    start = content[: 144 + dataset.file_meta.FileMetaInformationGroupLength]
    tree = read_tree(dataset)
    tag = tag_for_keyword(keyword)
    before = {other: element for other, element in tree.items() if other <= tag}
    after = {other: element for other, element in tree.items() if other >= tag}
    path.write_bytes(start + encode(before, implicit, False) + encode(after, implicit, False))
    assert refusal(path) == ("bad-metadata", f"{keyword} is present more than once")


def test_contradictions_between_elements(tmp_path):
    """Each is refused by the name of one of the elements, before or instead of decoding."""
    cases = [
        ({"Rows": None, "Columns": None}, "Rows, Columns are missing"),
        ({"SamplesPerPixel": 2}, "SamplesPerPixel is 2"),
        ({"SamplesPerPixel": 4}, "SamplesPerPixel is 4"),
        ({"PhotometricInterpretation": "RGB"}, "SamplesPerPixel is 1"),
        ({"BitsStored": 20}, "BitsStored is 20"),
        ({"BitsStored": 0}, "BitsStored is 0"),
        ({"BitsAllocated": 24}, "BitsAllocated is 24"),
        ({"BitsAllocated": 64}, "BitsAllocated is 64"),
        ({"BitsAllocated": 8}, "BitsStored is 12"),
        ({"BitsAllocated": 32}, "PixelData holds 4800 of the 9600 bytes"),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "PixelData holds 4800 bytes where"),
        ({"Rows": 20}, "PixelData holds 4800 bytes where"),
        ({"raw": PATCHY.tobytes() * 2}, "PixelData holds 9600 bytes where"),
        ({"HighBit": 3}, "HighBit is 3"),
        ({"PixelRepresentation": 7}, "PixelRepresentation is 7"),
        ({"NumberOfFrames": -1}, "NumberOfFrames is -1"),
        ({"FloatPixelData": bytes(9600)}, "FloatPixelData"),
        ({"WindowCenter": 100}, "WindowWidth is missing"),
        ({"WindowWidth": 100}, "WindowCenter is missing"),
        ({"RescaleSlope": [1, 2]}, "RescaleSlope has 2 values"),
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
        ({"PixelPaddingRangeLimit": 4}, "PixelPaddingValue is missing"),
        (
            {
                "ExtendedOffsetTable": bytes(8),
                "syntax": RLELossless,
                "raw": encapsulate([bytes(64)]),
            },
            "ExtendedOffset",
        ),
        ({"VOILUTSequence": [item()]}, "VOILUTSequence: LUTDescriptor is missing"),
        (
            {
                "PerFrameFunctionalGroupsSequence": [item()],
                "NumberOfFrames": 2,
                "raw": PATCHY.tobytes() * 2,
            },
            "PerFrame",
        ),
    ]
    for changes, expected in cases:
        options = {"frame": 1} if changes.get("NumberOfFrames") == 2 else {}
        _, detail = refusal(write(tmp_path / "a.dcm", PATCHY, **changes), **options)
        assert expected in detail, detail


def test_codestream_that_contradicts_the_header(tmp_path):
    whole = dcmread(write(tmp_path / "a.dcm", PATCHY))
    whole.compress(JPEG2000Lossless, generate_instance_uid=False)
    options = dict(syntax=JPEG2000Lossless, raw=whole.PixelData)
    eight = dict(BitsAllocated=8, BitsStored=8, HighBit=7)
    colour = dict(SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="RGB")
    for changes, expected in [
        (
            {"Rows": 41},
            "Rows and Columns are 41 and 60, the compressed picture is 40 rows of 60 pixels",
        ),
        (eight, "BitsAllocated is 8, the compressed picture has 12 bits"),
        (colour, "SamplesPerPixel is 3, the compressed picture has 1"),
        (dict(BitsStored=10, HighBit=12), "HighBit is 12, the compressed picture has 12 bits"),
        (dict(NumberOfFrames=2), "PixelData does not hold 2 compressed frames"),
    ]:
        frame = 1 if "NumberOfFrames" in changes else 0
        found, detail = refusal(
            write(tmp_path / "b.dcm", PATCHY, **options, **changes), frame=frame
        )
        assert found in ("bad-metadata", "damaged") and expected in detail


def test_missing_elements_with_a_usual_default(tmp_path):
    for changes in (
        {"HighBit": None},
        {"NumberOfFrames": None},
        {"NumberOfFrames": 0},
        {"RescaleSlope": 1},
    ):
        np.testing.assert_array_equal(
            load_radiograph(write(tmp_path / "a.dcm", PATCHY, **changes)), PATCHY
        )
    slope = write(tmp_path / "b.dcm", PATCHY, RescaleSlope=3)
    np.testing.assert_array_equal(load_radiograph(slope), PATCHY * 3)
    intercept = write(tmp_path / "c.dcm", PATCHY, RescaleIntercept=7)
    np.testing.assert_array_equal(load_radiograph(intercept), PATCHY + 7)
