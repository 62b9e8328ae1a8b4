"""Look-up tables of DICOM pictures: modality, VOI and palette, in every form in which files have them."""

import warnings

import numpy as np
import pytest
from dicom_files import refusal, write
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from data.reading.radiograph import load_radiograph

RAMP = (np.add.outer(np.arange(64) * 8, np.arange(128) * 26) + 60).astype(np.uint16)  # 60 to 3866
SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
SEQUENCES = ["ModalityLUTSequence", "VOILUTSequence"]
SQUARE = (np.arange(4096) ** 2 // 256).astype(np.uint16)  # 0 to 65504
BENT = (np.sqrt(np.arange(4096) / 4095) * 255).astype(np.uint16)  # 0 to 255


def table(
    entries,
    *,
    vr="OW",
    bits=16,
    first=0,
    first_vr="US",
    packed=False,
    big_endian=False,
    length=None,
) -> Dataset:
    """One item of a LUT sequence, as a file of either byte order has it."""
    item = Dataset()
    length = (len(entries) if length is None else length) % 65536
    item.add_new("LUTDescriptor", first_vr, [length, first, bits])
    words = np.asarray(entries, np.uint16)
    if packed:
        octets = np.append(words, np.zeros(len(words) % 2, np.uint16)).astype(np.uint8)
        words = octets.view("<u2")
    if vr in ("US", "SS"):
        item.add_new("LUTData", vr, words.astype(np.int16 if vr == "SS" else np.uint16).tolist())
    elif packed and vr == "OB":
        item.add_new("LUTData", vr, octets.tobytes())
    else:
        item.add_new("LUTData", vr, words.astype(">u2" if big_endian else "<u2").tobytes())
    return item


def by_pydicom(path) -> np.ndarray:
    """Modality LUT or rescale, then VOI LUT or window, as pydicom applies them."""
    dataset = dcmread(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)


# --- how the entries are written


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("vr", ["OW", "US", "SS", "OB", "UN"])
def test_entries_of_any_representation_and_byte_order(tmp_path, sequence, syntax, vr):
    """SS is no sign of the output, which is unsigned: 65504 stays 65504."""
    item = table(SQUARE, vr=vr, big_endian=syntax == ExplicitVRBigEndian)
    path = write(tmp_path / "a.dcm", RAMP, syntax=syntax, **{sequence: [item]})
    np.testing.assert_array_equal(load_radiograph(path), SQUARE[RAMP])
    if vr in ("OW", "US") and syntax != ImplicitVRLittleEndian:
        np.testing.assert_array_equal(by_pydicom(path), SQUARE[RAMP])
    mirrored = write(
        tmp_path / "b.dcm",
        RAMP,
        syntax=syntax,
        PhotometricInterpretation="MONOCHROME1",
        **{sequence: [item]},
    )
    np.testing.assert_array_equal(load_radiograph(mirrored), 65535 - SQUARE[RAMP])


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    "vr, packed", [("OW", True), ("OW", False), ("US", True), ("US", False), ("OB", True)]
)
@pytest.mark.parametrize("length", [4096, 4095])
def test_entries_of_eight_bits(tmp_path, sequence, syntax, vr, packed, length):
    """Two in a word, or one in each."""
    item = table(
        BENT[:length], vr=vr, bits=8, packed=packed, big_endian=syntax == ExplicitVRBigEndian
    )
    path = write(tmp_path / "a.dcm", RAMP, syntax=syntax, **{sequence: [item]})
    np.testing.assert_array_equal(load_radiograph(path), BENT[RAMP])


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
def test_entries_of_any_depth(tmp_path, sequence, bits):
    entries = SQUARE >> (16 - bits)
    for photometric, sign, offset in (("MONOCHROME2", 1, 0), ("MONOCHROME1", -1, 2**bits - 1)):
        item = table(entries, bits=bits)
        path = write(
            tmp_path / "a.dcm", RAMP, PhotometricInterpretation=photometric, **{sequence: [item]}
        )
        np.testing.assert_array_equal(
            load_radiograph(path), offset + sign * entries[RAMP].astype(int)
        )


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("first_vr", ["US", "SS"])
def test_zero_entries_are_65536(tmp_path, syntax, first_vr):
    deep = RAMP * 16
    entries = (np.arange(65536) ** 2 >> 16).astype(np.uint16)
    item = table(entries, big_endian=syntax == ExplicitVRBigEndian, first_vr=first_vr)
    assert item.LUTDescriptor[0] == 0
    path = write(
        tmp_path / "a.dcm", deep, syntax=syntax, BitsStored=16, HighBit=15, VOILUTSequence=[item]
    )
    np.testing.assert_array_equal(load_radiograph(path), entries[deep])
    item = table(entries[:40000], first_vr=first_vr)
    path = write(tmp_path / "b.dcm", deep, BitsStored=16, HighBit=15, VOILUTSequence=[item])
    np.testing.assert_array_equal(load_radiograph(path), entries[np.minimum(deep, 39999)])


def test_table_of_a_compressed_picture(tmp_path):
    whole = dcmread(write(tmp_path / "a.dcm", RAMP, BitsStored=16, HighBit=15))
    whole.compress(RLELossless, generate_instance_uid=False)
    path = write(
        tmp_path / "b.dcm",
        RAMP,
        syntax=RLELossless,
        raw=whole.PixelData,
        VOILUTSequence=[table(SQUARE)],
    )
    np.testing.assert_array_equal(load_radiograph(path), SQUARE[RAMP])


# --- the first mapped value


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("first", [-2000, -100, 0, 500])
@pytest.mark.parametrize("first_vr", ["SS", "US"])
def test_first_mapped_value_of_a_signed_picture(tmp_path, sequence, syntax, first, first_vr):
    signed = RAMP.astype(np.int16) - 2000
    written = first % 65536 if first_vr == "US" else first
    item = table(
        SQUARE[::2], first=written, first_vr=first_vr, big_endian=syntax == ExplicitVRBigEndian
    )
    path = write(tmp_path / "a.dcm", signed, syntax=syntax, **{sequence: [item]})
    expected = SQUARE[::2][np.clip(signed.astype(int) - first, 0, 2047)]
    np.testing.assert_array_equal(load_radiograph(path), expected)


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("first_vr", ["SS", "US"])
@pytest.mark.parametrize(
    "first, length", [(40000, 4096), (33000, 25000), (50000, 15536), (61000, 500)]
)
def test_first_mapped_value_of_an_unsigned_picture(tmp_path, sequence, first_vr, first, length):
    """Large values, which a signed representation turns into negative ones."""
    deep = RAMP * 16
    entries = np.linspace(0, 65535, length).astype(np.uint16)
    item = table(entries, first=first - 65536 * (first_vr == "SS"), first_vr=first_vr)
    path = write(tmp_path / "a.dcm", deep, BitsStored=16, HighBit=15, **{sequence: [item]})
    np.testing.assert_array_equal(
        load_radiograph(path), entries[np.clip(deep.astype(int) - first, 0, length - 1)]
    )


def test_negative_first_value_of_an_unsigned_picture(tmp_path):
    path = write(
        tmp_path / "a.dcm", RAMP, VOILUTSequence=[table(SQUARE, first=-100, first_vr="SS")]
    )
    np.testing.assert_array_equal(load_radiograph(path), SQUARE[np.minimum(RAMP + 100, 4095)])


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("first_vr", ["SS", "US"])
def test_first_mapped_value_after_a_rescale_or_another_table(tmp_path, syntax, first_vr):
    """Its sign is that of the modality step's output, not that of the stored values."""
    big_endian = syntax == ExplicitVRBigEndian
    first = -1000 if first_vr == "SS" else 64536
    curve = table(SQUARE[::2], first=first, first_vr=first_vr, big_endian=big_endian)
    path = write(
        tmp_path / "a.dcm",
        RAMP,
        syntax=syntax,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        VOILUTSequence=[curve],
    )
    expected = SQUARE[::2][np.clip(RAMP.astype(int) - 24, 0, 2047)]
    np.testing.assert_array_equal(load_radiograph(path), expected)
    signed = RAMP.astype(np.int16) - 2000
    modality = table(SQUARE, first=-2048, first_vr="SS", big_endian=big_endian)
    first = 40000 - 65536 * (first_vr == "SS")
    curve = table(SQUARE[:4000], first=first, first_vr=first_vr, big_endian=big_endian)
    path = write(
        tmp_path / "b.dcm",
        signed,
        syntax=syntax,
        ModalityLUTSequence=[modality],
        VOILUTSequence=[curve],
    )
    expected = SQUARE[np.clip(SQUARE[signed.astype(int) + 2048].astype(int) - 40000, 0, 3999)]
    np.testing.assert_array_equal(load_radiograph(path), expected)


# --- which table counts


def test_first_of_several_tables_and_before_the_window(tmp_path):
    curves = [table(SQUARE), table(SQUARE[::-1])]
    path = write(tmp_path / "a.dcm", RAMP, VOILUTSequence=curves, WindowCenter=100, WindowWidth=50)
    np.testing.assert_array_equal(load_radiograph(path), SQUARE[RAMP])
    np.testing.assert_array_equal(load_radiograph(path, voi=False), RAMP)
    np.testing.assert_array_equal(by_pydicom(path), SQUARE[RAMP])


def test_sequence_without_items_is_no_table(tmp_path):
    path = write(
        tmp_path / "a.dcm",
        RAMP,
        ModalityLUTSequence=[],
        VOILUTSequence=[],
        WindowCenter=1000,
        WindowWidth=401,
    )
    np.testing.assert_array_equal(load_radiograph(path), np.clip(RAMP, 799.5, 1199.5) - 799.5)


def test_fractions_of_a_rescale_are_rounded(tmp_path):
    path = write(
        tmp_path / "a.dcm",
        RAMP,
        RescaleSlope=0.3,
        RescaleIntercept=0.2,
        VOILUTSequence=[table(SQUARE)],
    )
    np.testing.assert_array_equal(
        load_radiograph(path), SQUARE[np.rint(RAMP * 0.3 + 0.2).astype(int)]
    )


def test_padding_stays_background_behind_a_table(tmp_path):
    elements = dict(
        PixelPaddingValue=60, PixelPaddingRangeLimit=300, ModalityLUTSequence=[table(SQUARE[::-1])]
    )
    read = load_radiograph(write(tmp_path / "a.dcm", RAMP, **elements))
    np.testing.assert_array_equal(
        read, np.where(RAMP <= 300, SQUARE[4095 - 3866], SQUARE[4095 - RAMP])
    )


# --- tables that contradict themselves


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize(
    "change, keyword",
    [
        ({"LUTDescriptor": None}, "LUTDescriptor"),
        ({"LUTData": None}, "LUTData"),
        ({"LUTDescriptor": ("US", [4096, 0])}, "LUTDescriptor"),
        ({"LUTDescriptor": ("US", 4096)}, "LUTDescriptor"),
        ({"LUTDescriptor": ("LO", "CANARY")}, "LUTDescriptor"),
        ({"LUTDescriptor": ("US", [4096, 0, 17])}, "LUTDescriptor"),
        ({"LUTDescriptor": ("US", [4096, 0, 0])}, "LUTDescriptor"),
        ({"LUTData": ("OW", SQUARE[:-1].tobytes())}, "LUTData"),
        ({"LUTData": ("OW", SQUARE[:2048].tobytes())}, "LUTData"),  # not 4096 entries of 8 bits
        ({"LUTData": ("US", SQUARE[:-1].tolist())}, "LUTData"),
        ({"LUTData": ("US", [])}, "LUTData"),
        ({"LUTData": ("US", 7)}, "LUTData"),
        ({"LUTData": ("UL", SQUARE.tolist())}, "LUTData"),
        ({"LUTData": ("LO", "CANARY")}, "LUTData"),
    ],
)
def test_contradicting_tables(tmp_path, sequence, change, keyword):
    item = table(SQUARE)
    for key, content in change.items():
        del item[key]
        if content:
            item.add_new(key, *content)
    found, detail = refusal(write(tmp_path / "a.dcm", RAMP, **{sequence: [item]}))
    assert found == "bad-window" and keyword in detail


def test_longer_table_than_declared_is_read_as_far_as_declared(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP, VOILUTSequence=[table(SQUARE, length=3000)])
    np.testing.assert_array_equal(load_radiograph(path), SQUARE[np.minimum(RAMP, 2999)])
    np.testing.assert_array_equal(by_pydicom(path), load_radiograph(path))


@pytest.mark.parametrize("bits", [8, 12])
def test_deeper_entries_than_declared_are_kept(tmp_path, bits):
    """A wrong third value of the descriptor, which other readers tolerate, too: the order of the greys is right."""
    path = write(tmp_path / "a.dcm", RAMP, VOILUTSequence=[table(SQUARE, bits=bits)])
    np.testing.assert_array_equal(load_radiograph(path), SQUARE[RAMP])


# --- palettes


def palette(entries, bits, first=0, big_endian=False, segmented=False, packed=False) -> dict:
    """The elements of a palette whose three channels are different multiples of `entries`."""
    elements = {"PhotometricInterpretation": "PALETTE COLOR"}
    for channel, colour in enumerate(("Red", "Green", "Blue")):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [len(entries) % 65536, first, bits]
        values = np.asarray(entries) // (channel + 1)
        kind = (">u2" if big_endian else "<u2") if not packed else np.uint8
        content = values.astype(kind).tobytes()
        if packed and big_endian:
            content = np.frombuffer(content, "<u2").astype(">u2").tobytes()
        elements["Segmented" * segmented + f"{colour}PaletteColorLookupTableData"] = content
    return elements


def coloured(entries, indices) -> np.ndarray:
    return np.stack([(np.asarray(entries) // channel)[indices] for channel in (1, 2, 3)], -1)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("bits, packed", [(16, False), (8, False), (8, True)])
def test_palettes(tmp_path, syntax, bits, packed):
    entries = SQUARE if bits == 16 else BENT
    elements = palette(entries, bits, big_endian=syntax == ExplicitVRBigEndian, packed=packed)
    path = write(tmp_path / "a.dcm", RAMP, syntax=syntax, **elements)
    np.testing.assert_array_equal(load_radiograph(path, colour=True), coloured(entries, RAMP))
    marked = RAMP.copy()
    marked[5:9] |= 0x8000  # an overlay, which is no index
    path = write(tmp_path / "b.dcm", marked, syntax=syntax, **elements)
    np.testing.assert_array_equal(load_radiograph(path, colour=True), coloured(entries, RAMP))


def test_palette_of_a_signed_picture(tmp_path):
    path = write(
        tmp_path / "a.dcm", RAMP.astype(np.int16) - 2000, **palette(SQUARE, 16, first=-2000)
    )
    np.testing.assert_array_equal(load_radiograph(path, colour=True), coloured(SQUARE, RAMP))


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("bits", [8, 16])
def test_segmented_palettes(tmp_path, syntax, bits):
    """Discrete, linear and indirect segments; the offset of an indirect one counts bytes (PS3.3 C.7.9.2.3)."""
    big_endian = syntax == ExplicitVRBigEndian
    segments = [0, 4, 0, 90, 60, 33, 1, 100, 240, 2, 1]
    segments += [6 if bits == 8 else 12, 0] + [0, 0] * (bits == 8) + [1, 51, 180]
    segments += [0] * (len(segments) % 2)
    expected = [0, 90, 60, 33, *np.rint(33 + np.arange(1, 101) * 2.07).astype(int), *[240] * 100]
    expected += np.rint(240 - np.arange(1, 52) * 60 / 51).astype(int).tolist()
    pixels = (RAMP >> 4).astype(np.uint8)
    elements = {"PhotometricInterpretation": "PALETTE COLOR", "BitsStored": 8, "HighBit": 7}
    for colour in ("Red", "Green", "Blue"):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [len(expected), 0, bits]
        content = np.array(segments, np.uint8 if bits == 8 else "<u2").tobytes()
        words = np.frombuffer(content, "<u2").astype(">u2" if big_endian else "<u2")
        elements[f"Segmented{colour}PaletteColorLookupTableData"] = words.tobytes()
    path = write(tmp_path / "a.dcm", pixels, syntax=syntax, **elements)
    np.testing.assert_array_equal(
        load_radiograph(path), np.array(expected)[np.minimum(pixels, len(expected) - 1)]
    )


def test_palette_as_pydicom_applies_it(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP, **palette(SQUARE, 16))
    dataset = dcmread(path)
    np.testing.assert_array_equal(
        load_radiograph(path, colour=True), apply_color_lut(dataset.pixel_array, dataset)
    )


@pytest.mark.parametrize(
    "keyword, value",
    [
        ("GreenPaletteColorLookupTableDescriptor", None),
        ("BluePaletteColorLookupTableData", None),
        ("RedPaletteColorLookupTableDescriptor", [4096, 0, 5]),
        ("RedPaletteColorLookupTableData", SQUARE[:100].tobytes()),
    ],
)
def test_contradicting_palettes(tmp_path, keyword, value):
    found, detail = refusal(
        write(tmp_path / "a.dcm", RAMP, **(palette(SQUARE, 16) | {keyword: value}))
    )
    assert found == "bad-metadata" and keyword in detail


@pytest.mark.parametrize(
    "segments", [[3, 1, 1, 1], [1, 5, 7, 0], [2, 1, 0, 0], [0, 9, 1], [0, 2, 1, 2, 2, 9, 0, 0], [1]]
)
def test_malformed_segments(tmp_path, segments):
    elements = palette(np.arange(4096), 16) | {
        f"{c}PaletteColorLookupTableData": None for c in ("Red", "Green", "Blue")
    }
    for colour in ("Red", "Green", "Blue"):
        elements[f"Segmented{colour}PaletteColorLookupTableData"] = np.array(
            segments, "<u2"
        ).tobytes()
    found, detail = refusal(write(tmp_path / "a.dcm", RAMP, **elements))
    assert found == "bad-metadata" and "SegmentedRedPaletteColorLookupTableData" in detail
