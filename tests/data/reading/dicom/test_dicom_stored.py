"""Stored values of DICOM pictures: bits that are no part of them, and padding."""

import numpy as np
import pytest
from dicom_files import PATCHY, reason, refusal, write
from pydicom import dcmread
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from data.reading.radiograph import load_radiograph

SMOOTH = (np.add.outer(np.arange(64) * 8, np.arange(128) * 26) + 60).astype(
    np.uint16
)  # 60 to 3866, neighbours alike
OVERLAY = np.zeros(SMOOTH.shape, bool)
OVERLAY[10:20, 50:90] = True
SIGNED = SMOOTH.astype(np.int16) - 2000
SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEG2000Lossless,
]


def write_compressed(path, pixels, syntax, **elements):
    """Like `write`, encoded by pydicom where `syntax` compresses; all bits of the words are encoded."""
    if not syntax.is_encapsulated:
        return write(path, pixels, syntax=syntax, **elements)
    whole = dcmread(write(path, pixels, BitsStored=16, HighBit=15))
    options = {"j2k_cr": [1]} if syntax == JPEG2000 else {}
    whole.compress(syntax, generate_instance_uid=False, **options)
    return write(path, pixels, syntax=syntax, raw=whole.PixelData, **elements)


# --- bits that are no part of the picture


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("bits", [0x1000, 0x4000, 0x8000, 0xF000])
def test_bits_above_the_stored_ones_never_reach_the_picture(tmp_path, syntax, bits):
    """Overlay planes, with or without the elements that declare them."""
    marked = SMOOTH | np.where(OVERLAY, np.uint16(bits), np.uint16(0))
    np.testing.assert_array_equal(
        load_radiograph(write_compressed(tmp_path / "a.dcm", marked, syntax)), SMOOTH
    )
    signed = (SIGNED.view(np.uint16) & 0xFFF | marked & 0xF000).view(np.int16)
    read = load_radiograph(write_compressed(tmp_path / "b.dcm", signed, syntax))
    np.testing.assert_array_equal(read, SIGNED)


@pytest.mark.parametrize("group, position", [(0x6000, 15), (0x6002, 12), (0x601E, 0)])
def test_declared_overlays(tmp_path, group, position):
    path = write(tmp_path / "a.dcm", SMOOTH | np.where(OVERLAY, np.uint16(0x8000), np.uint16(0)))
    dataset = dcmread(path)
    dataset.add_new((group, 0x0100), "US", 16)
    dataset.add_new((group, 0x0102), "US", position)
    dataset.save_as(path)
    np.testing.assert_array_equal(load_radiograph(path), SMOOTH)


def test_rubbish_in_all_unused_bits(tmp_path):
    rubbish = np.random.default_rng(0).integers(0, 16, SMOOTH.shape).astype(np.uint16)
    np.testing.assert_array_equal(
        load_radiograph(write(tmp_path / "a.dcm", SMOOTH | rubbish << 12)), SMOOTH
    )
    eight = write(tmp_path / "b.dcm", SMOOTH >> 4 | rubbish << 8, BitsStored=8, HighBit=7)
    np.testing.assert_array_equal(load_radiograph(eight), SMOOTH >> 4)
    np.testing.assert_array_equal(
        load_radiograph(write(tmp_path / "c.dcm", SMOOTH | 0x4000)), SMOOTH
    )


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_overlay_in_the_low_bits(tmp_path, syntax):
    """The value lies in the bits 4 to 15, or 2 to 13 with rubbish above, too."""
    for shift, above in ((4, 0), (2, 0x8000)):
        words = SMOOTH << shift | np.where(OVERLAY, np.uint16(1 | above), np.uint16(0))
        path = write_compressed(tmp_path / "a.dcm", words, syntax, HighBit=11 + shift)
        np.testing.assert_array_equal(load_radiograph(path), SMOOTH)
        signed = (SIGNED.view(np.uint16) & 0xFFF) << shift | np.where(
            OVERLAY, np.uint16(1 | above), np.uint16(0)
        )
        path = write_compressed(
            tmp_path / "b.dcm", signed.view(np.int16), syntax, HighBit=11 + shift
        )
        np.testing.assert_array_equal(load_radiograph(path), SIGNED)


def test_codestream_of_the_stored_bits_alone_is_not_shifted(tmp_path):
    """A JPEG 2000 of 12 bits has no low bits that the high bit of the header could count."""
    whole = dcmread(write(tmp_path / "a.dcm", SMOOTH))
    whole.compress(JPEG2000Lossless, generate_instance_uid=False)
    path = write(
        tmp_path / "b.dcm", SMOOTH, syntax=JPEG2000Lossless, raw=whole.PixelData, HighBit=15
    )
    np.testing.assert_array_equal(load_radiograph(path), SMOOTH)


def test_values_beyond_the_range_after_lossy_compression_are_clipped(tmp_path):
    """They must not wrap around to the other end."""
    beyond = SMOOTH.copy()
    beyond[30:, 100:] = 4100
    beyond[:4, :4] = 0
    expected = np.minimum(beyond, 4095)
    read = load_radiograph(write_compressed(tmp_path / "a.dcm", beyond, JPEG2000))
    np.testing.assert_allclose(read, expected, atol=20)
    assert read[40:, 110:].min() > 4000
    deep = write_compressed(tmp_path / "b.dcm", SMOOTH * 4, JPEG2000)
    assert refusal(deep)[0] == "bad-metadata" and "BitsStored" in refusal(deep)[1]


@pytest.mark.parametrize("pixels", [SMOOTH * 4, SMOOTH * 16, SIGNED * 8])
def test_picture_deeper_than_it_says_is_refused(tmp_path, pixels):
    """Without the bits above it would wrap around; with them it would not be what the header says."""
    found, detail = refusal(write(tmp_path / "a.dcm", pixels))
    assert found == "bad-metadata" and detail.startswith("BitsStored is 12")


def test_sign_that_was_not_extended(tmp_path):
    for signed in (PATCHY.astype(np.int16) - 2048, SIGNED):
        for written in (
            signed & 0xFFF,
            np.where(signed < -1000, signed, signed & 0xFFF).astype(np.int16),
        ):
            np.testing.assert_array_equal(
                load_radiograph(write(tmp_path / "a.dcm", written)), signed
            )


def test_signed_picture_of_one_bit_more(tmp_path):
    """12 bits less an offset, written as 12 signed bits: the bits above hold the sign and nothing else."""
    signed = SMOOTH.astype(np.int16) - 1000
    np.testing.assert_array_equal(load_radiograph(write(tmp_path / "a.dcm", signed)), signed)


@pytest.mark.parametrize(
    "bits, high, element", [(12, 10, "HighBit"), (12, 16, "HighBit"), (17, 16, "BitsStored")]
)
def test_bits_that_contradict_each_other(tmp_path, bits, high, element):
    found, detail = refusal(write(tmp_path / "a.dcm", SMOOTH, BitsStored=bits, HighBit=high))
    assert found == "bad-metadata" and detail.startswith(element)


def test_high_bit_of_values_that_lie_low(tmp_path):
    """12 of 16 bits, said to be the upper 12: taken at its word, the picture would lose its four lowest bits."""
    found, detail = refusal(write(tmp_path / "a.dcm", SMOOTH, HighBit=15))
    assert found == "bad-metadata" and detail.startswith("HighBit")


def test_colour_without_unused_bits(tmp_path):
    colour = np.stack([SMOOTH, SMOOTH[::-1], SMOOTH[:, ::-1]], -1)
    elements = dict(SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="RGB")
    marked = colour | np.where(OVERLAY, np.uint16(0x4000), np.uint16(0))[..., None]
    read = load_radiograph(write(tmp_path / "a.dcm", marked, **elements), colour=True)
    np.testing.assert_array_equal(read, colour)


# --- padding


def padded(values, low, high):
    """`values` with the range from `low` to `high` as dark as the darkest other one."""
    inside = (values >= low) & (values <= high)
    assert inside.any() and not inside.all()
    return np.where(inside, values[~inside].min(), values)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
@pytest.mark.parametrize(
    "first, last",
    [
        (-10, 10),
        (10, -10),
        (-2000, -1000),
        (-2000, 0),
        (0, 0),
        (-1, None),
        (500, 600),
        (1800, 2047),
    ],
)
def test_padding_of_a_signed_picture(tmp_path, syntax, first, last):
    elements = {"PixelPaddingValue": first, "PixelPaddingRangeLimit": last}
    read = load_radiograph(write(tmp_path / "a.dcm", SIGNED, syntax=syntax, **elements))
    low, high = sorted((first, first if last is None else last))
    signed = SIGNED.copy()
    if last is None or first == last:
        signed[:, :3] = first
        read = load_radiograph(write(tmp_path / "a.dcm", signed, syntax=syntax, **elements))
    np.testing.assert_array_equal(read, padded(signed, low, high))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    "first, last", [(0, 100), (100, 0), (3000, 4095), (4000, 3000), (60, None)]
)
def test_padding_of_an_unsigned_picture(tmp_path, syntax, first, last):
    elements = {"PixelPaddingValue": first, "PixelPaddingRangeLimit": last}
    read = load_radiograph(write(tmp_path / "a.dcm", SMOOTH, syntax=syntax, **elements))
    low, high = sorted((first, first if last is None else last))
    np.testing.assert_array_equal(read, padded(SMOOTH, low, high))
    mirrored = write(
        tmp_path / "b.dcm",
        SMOOTH,
        syntax=syntax,
        PhotometricInterpretation="MONOCHROME1",
        **elements,
    )
    shown = (4095 - SMOOTH).astype(np.int64)
    np.testing.assert_array_equal(load_radiograph(mirrored), padded(shown, 4095 - high, 4095 - low))


def with_padding(path, pixels, representation, first, last, **elements):
    """`write` with padding elements of a representation (US or SS) that need not fit PixelRepresentation."""
    dataset = dcmread(write(path, pixels, **elements))
    dataset.add_new("PixelPaddingValue", representation, first)
    if last is not None:
        dataset.add_new("PixelPaddingRangeLimit", representation, last)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("first, last", [(-2000, -1000), (-10, 10), (-2000, 0), (-5, None)])
def test_signed_padding_written_as_unsigned(tmp_path, first, last):
    ends = [None if end is None else end % 65536 for end in (first, last)]
    signed = SIGNED.copy()
    signed[:5] = first
    read = load_radiograph(with_padding(tmp_path / "a.dcm", signed, "US", *ends))
    np.testing.assert_array_equal(read, padded(signed, first, first if last is None else last))


def test_signed_padding_whose_sign_was_not_extended(tmp_path):
    read = load_radiograph(
        with_padding(tmp_path / "a.dcm", SIGNED & 0xFFF, "SS", -1900 & 0xFFF, -1500 & 0xFFF)
    )
    np.testing.assert_array_equal(read, padded(SIGNED, -1900, -1500))


@pytest.mark.parametrize(
    "first, last", [(40_000, 50_000), (50_000, 40_000), (30_000, 40_000), (61_000, None)]
)
def test_unsigned_padding_written_as_signed(tmp_path, first, last):
    deep = SMOOTH * 16
    deep[:5] = first
    ends = [None if end is None else end - 65536 if end >= 32768 else end for end in (first, last)]
    read = load_radiograph(
        with_padding(tmp_path / "a.dcm", deep, "SS", *ends, BitsStored=16, HighBit=15)
    )
    np.testing.assert_array_equal(
        read, padded(deep, *sorted((first, first if last is None else last)))
    )


@pytest.mark.parametrize(
    "representation, first, last", [("SS", -10, 100), ("SS", 100, -10), ("US", 65526, 100)]
)
def test_padding_of_an_unsigned_picture_across_zero(tmp_path, representation, first, last):
    read = load_radiograph(with_padding(tmp_path / "a.dcm", SMOOTH, representation, first, last))
    np.testing.assert_array_equal(read, padded(SMOOTH, 0, 100))


@pytest.mark.parametrize("value", [-2000, 63536, 65535])
def test_padding_in_the_unused_bits(tmp_path, value):
    """A word outside BitsStored marks padding; a stored value with the same low bits is none."""
    words = SMOOTH.copy()
    words[:, :20] = value % 65536
    words[30:, 60:64] = value & 0xFFF
    representation = "SS" if value < 0 else "US"
    read = load_radiograph(with_padding(tmp_path / "a.dcm", words, representation, value, None))
    expected = words.copy()
    expected[:, :20] = words[:, 20:].min()
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("first, last", [(-1, None), (255, None), (250, 255), (-6, -1)])
def test_padding_of_eight_bits(tmp_path, first, last):
    pixels = (SMOOTH >> 4).astype(np.uint8)
    pixels[:8] = 255
    representation = "SS" if first < 0 else "US"
    path = with_padding(
        tmp_path / "a.dcm", pixels, representation, first, last, BitsStored=8, HighBit=7
    )
    np.testing.assert_array_equal(
        load_radiograph(path), padded(pixels, 255 if last is None else 250, 255)
    )


@pytest.mark.parametrize(
    "keyword, kind", [("FloatPixel", np.float32), ("DoubleFloatPixel", np.float64)]
)
@pytest.mark.parametrize(
    "first, last", [(-2.5, 2.5), (2.5, -2.5), (-1e30, None), (float("nan"), None), (-1e30, -1e20)]
)
def test_padding_of_floats(tmp_path, keyword, kind, first, last):
    values = (SMOOTH / 7 - 200).astype(kind)
    values[:5] = first
    elements = {f"{keyword}PaddingValue": first, f"{keyword}PaddingRangeLimit": last}
    absent = dict.fromkeys(("BitsStored", "HighBit", "PixelRepresentation"))
    for photometric, sign in (("MONOCHROME2", 1), ("MONOCHROME1", -1)):
        elements |= {f"{keyword}Data": values.tobytes(), "PhotometricInterpretation": photometric}
        read = load_radiograph(write(tmp_path / "a.dcm", values, raw=b"", **absent, **elements))
        low, high = (first, first) if last is None else sorted((first, last))
        inside = np.isnan(values) | ((values >= low) & (values <= high))
        assert inside[:5].all() or last is not None
        shown = sign * values[~inside]
        np.testing.assert_allclose(
            read[~inside] - read.min(), shown - shown.min(), rtol=1e-5, atol=1e-4
        )
        assert (read[inside] == read[~inside].min()).all()


def test_floats_that_are_not_finite(tmp_path):
    values = (SMOOTH / 7).astype(np.float32)
    values[3, 3] = np.inf
    absent = dict.fromkeys(("BitsStored", "HighBit", "PixelRepresentation"))
    window = {"WindowCenter": 100, "WindowWidth": 50}  # which would hide it
    assert reason(
        write(
            tmp_path / "a.dcm", values, raw=b"", FloatPixelData=values.tobytes(), **absent, **window
        )
    ) == ("non-finite")


def test_padding_after_rescale_and_window(tmp_path):
    """The range is one of stored values, whatever is made of them."""
    signed = SIGNED.copy()
    elements = dict(
        PixelPaddingValue=-10, PixelPaddingRangeLimit=10, RescaleSlope=-0.5, RescaleIntercept=3
    )
    read = load_radiograph(write(tmp_path / "a.dcm", signed, **elements))
    inside = np.abs(signed) <= 10
    np.testing.assert_array_equal(read[~inside], signed[~inside] * -0.5 + 3)
    assert (read[inside] == read[~inside].min()).all()
    elements |= dict(WindowCenter=0, WindowWidth=401)
    read = load_radiograph(write(tmp_path / "a.dcm", signed, **elements))
    assert (read[inside] == 0).all() and read[~inside].max() == 400


def test_padding_limit_without_value(tmp_path):
    found, detail = refusal(write(tmp_path / "a.dcm", SMOOTH, PixelPaddingRangeLimit=7))
    assert found == "bad-metadata" and detail.startswith("PixelPaddingValue")


def test_padding_of_compressed_frames(tmp_path):
    path = write_compressed(
        tmp_path / "a.dcm", SMOOTH, RLELossless, PixelPaddingValue=0, PixelPaddingRangeLimit=200
    )
    np.testing.assert_array_equal(load_radiograph(path), padded(SMOOTH, 0, 200))
