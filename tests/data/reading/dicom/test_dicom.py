"""The DICOM chain: depth kept, order of the standard, bone bright, refusals that name no person."""

import itertools
import logging
import struct
import warnings

import numpy as np
import pydicom
import pytest
import torch
from dicom_files import CANARY, PATCHY, reason, refusal, write
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_windowing
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    RLELossless,
)

from data.reading.dicom import image as dicom
from data.reading.dicom.header import Codestream, read_codestream
from data.reading.radiograph import load_radiograph
from data.views.intensity import minmax
from data.views.preprocessing import Preprocessing

RAMP = np.tile(np.arange(4096, dtype=np.uint16), (8, 1)).reshape(128, 256)


def twins(tmp_path, pixels, top, **elements):
    """The same picture as MONOCHROME2 and, inverted, as MONOCHROME1."""
    mirrored = {
        key: elements.pop(f"{key}1", value)
        for key, value in list(elements.items())
        if not key.endswith("1")
    }
    straight = {key: value for key, value in elements.items() if not key.endswith("1")}
    return (
        load_radiograph(write(tmp_path / "2.dcm", pixels, **straight)),
        load_radiograph(
            write(
                tmp_path / "1.dcm",
                (top - pixels.astype(np.int64)).astype(pixels.dtype),
                PhotometricInterpretation="MONOCHROME1",
                **mirrored,
            )
        ),
    )


# --- depth, order


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
@pytest.mark.parametrize("bits", [12, 16])
def test_twelve_bit_ramp_is_read_as_it_is(tmp_path, syntax, bits):
    read = load_radiograph(
        write(tmp_path / "a.dcm", RAMP, syntax=syntax, BitsStored=bits, HighBit=bits - 1)
    )
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, RAMP)


def test_twelve_bit_ramp_gives_the_same_tensor_from_every_container(tmp_path):
    """Three kinds of pictures; DICOM of 12 and 16 bits, plain and rescaled, each as MONOCHROME1 and 2."""
    paths = [tmp_path / name for name in ("16.png", "16.tif", "float.tif", "int32.tif")]
    for path, kind in zip(paths, (np.uint16, np.uint16, np.float32, np.int32)):
        Image.fromarray(RAMP.astype(kind)).save(path)
    for bits, slope, syntax in itertools.product(
        (12, 16), (None, 2), (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    ):
        elements = {"syntax": syntax, "BitsStored": bits, "HighBit": bits - 1}
        elements |= {} if slope is None else {"RescaleSlope": slope, "RescaleIntercept": -1000}
        for number, stored in ((2, RAMP), (1, (2**bits - 1 - RAMP.astype(int)).astype(np.uint16))):
            path = tmp_path / f"{len(paths)}.dcm"
            paths.append(
                write(path, stored, PhotometricInterpretation=f"MONOCHROME{number}", **elements)
            )
    assert len(paths) == 20
    for size in ((64, 48), RAMP.shape):  # made smaller, and as it is
        preprocessing = Preprocessing(*size)
        first, *others = (preprocessing(load_radiograph(path)) for path in paths)
        assert [
            path.name for path, tensor in zip(paths[1:], others) if not torch.equal(tensor, first)
        ] == []
    assert len(first.unique()) == 256
    assert (first == 255).sum() == (RAMP == 4095).sum() and (first == 0).sum() == (
        RAMP <= 16
    ).sum()  # none saturated


@pytest.mark.parametrize(
    "bits, window",
    itertools.product([12, 16], [None, ("LINEAR", 2048, 4096), ("LINEAR_EXACT", 2047.5, 4095)]),
)
def test_a_window_that_spans_everything_changes_no_grey_level(tmp_path, bits, window):
    elements = (
        {}
        if window is None
        else dict(zip(("VOILUTFunction", "WindowCenter", "WindowWidth"), window))
    )
    for read in twins(
        tmp_path,
        RAMP,
        4095,
        BitsStored=12,
        HighBit=11,
        **elements,
        **(
            {}
            if window is None
            else {
                "WindowCenter1": 4095 - window[1] + (window[0] == "LINEAR"),
                "WindowWidth1": window[2],
            }
        ),
    ):
        np.testing.assert_array_equal(minmax(read), minmax(RAMP))
        assert len(np.unique(minmax(read))) >= 200


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_follow_the_formula_of_the_standard(tmp_path, function):
    centre, width, values = 1000, 600, PATCHY.astype(float)
    read = load_radiograph(
        write(
            tmp_path / "a.dcm",
            PATCHY,
            VOILUTFunction=function,
            WindowCenter=[centre, 7],
            WindowWidth=[width, 9],
        )
    )
    expected = {
        "LINEAR": np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1),
        "LINEAR_EXACT": np.clip((values - centre) / width + 0.5, 0, 1),
        "SIGMOID": 1 / (1 + np.exp(-4 * (values - centre) / width)),
    }[function]
    stretched = (read.astype(float) - read.min()) / (read.max() - read.min())
    np.testing.assert_allclose(stretched, (expected - expected.min()) / np.ptp(expected), atol=1e-6)
    assert load_radiograph(tmp_path / "a.dcm", voi=False).tolist() == PATCHY.tolist()


@pytest.mark.parametrize("centre", [1000, 1000.5, 2000.25])
def test_window_of_width_one_is_a_threshold(tmp_path, centre):
    """PS3.3 C.11.2.1.2.1: all values up to centre - 0.5 are dark, all others bright."""
    elements = dict(WindowCenter=centre, WindowWidth=1)
    read = load_radiograph(write(tmp_path / "a.dcm", PATCHY, **elements))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, PATCHY > centre - 0.5)
    by_pydicom = apply_windowing(PATCHY, pydicom.dcmread(tmp_path / "a.dcm"))
    np.testing.assert_array_equal(read, by_pydicom == 4095)
    mirrored = load_radiograph(
        write(tmp_path / "b.dcm", PATCHY, PhotometricInterpretation="MONOCHROME1", **elements)
    )
    np.testing.assert_array_equal(mirrored, PATCHY <= centre - 0.5)
    elements |= dict(RescaleSlope=0.5, RescaleIntercept=700)
    read = load_radiograph(write(tmp_path / "c.dcm", PATCHY, **elements))
    np.testing.assert_array_equal(read, PATCHY * 0.5 + 700 > centre - 0.5)


@pytest.mark.parametrize(
    "function, width", [("LINEAR_EXACT", 1), ("LINEAR_EXACT", 0.2), ("SIGMOID", 1), ("LINEAR", 1.5)]
)
def test_narrow_windows_of_other_functions(tmp_path, function, width):
    elements = dict(WindowCenter=1000, WindowWidth=width, VOILUTFunction=function)
    read = load_radiograph(write(tmp_path / "a.dcm", PATCHY, **elements))
    by_pydicom = apply_windowing(PATCHY, pydicom.dcmread(tmp_path / "a.dcm"))
    np.testing.assert_allclose(read / read.max(), by_pydicom / by_pydicom.max(), atol=1e-6)


def test_rescale_comes_before_the_window(tmp_path):
    elements = dict(RescaleSlope=0.5, RescaleIntercept=-100, WindowCenter=500, WindowWidth=401)
    read = load_radiograph(write(tmp_path / "a.dcm", PATCHY, **elements))
    np.testing.assert_array_equal(read, np.clip(PATCHY * 0.5 - 100, 299.5, 699.5) - 299.5)


def test_look_up_tables(tmp_path):
    curve = Dataset()
    curve.LUTDescriptor, curve.LUTData = [256, 1000, 12], (np.arange(256) ** 2 // 16).tolist()
    curve["LUTDescriptor"].VR, curve["LUTData"].VR = "US", "US"
    expected = np.asarray(curve.LUTData)[np.clip(PATCHY.astype(int) - 1000, 0, 255)]
    for sequence in ("VOILUTSequence", "ModalityLUTSequence"):
        straight = load_radiograph(write(tmp_path / "a.dcm", PATCHY, **{sequence: [curve]}))
        np.testing.assert_array_equal(straight, expected)
        mirrored = write(
            tmp_path / "b.dcm",
            PATCHY,
            PhotometricInterpretation="MONOCHROME1",
            **{sequence: [curve]},
        )
        np.testing.assert_array_equal(load_radiograph(mirrored), 4095 - expected)
    curve.LUTData = curve.LUTData[:9]
    assert reason(write(tmp_path / "a.dcm", PATCHY, VOILUTSequence=[curve])) == "bad-window"


# --- polarity


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"RescaleSlope": 0.37, "RescaleIntercept": -3.3},
        {"WindowCenter": 2000, "WindowWidth": 1000, "WindowCenter1": 2096, "WindowWidth1": 1000},
        {
            "WindowCenter": 2000.3,
            "WindowWidth": 777.7,
            "WindowCenter1": 2095.7,
            "WindowWidth1": 777.7,
        },
        {
            "VOILUTFunction": "SIGMOID",
            "WindowCenter": 1800,
            "WindowWidth": 900,
            "WindowCenter1": 2295,
            "WindowWidth1": 900,
        },
        {
            "VOILUTFunction": "LINEAR_EXACT",
            "WindowCenter": 1800,
            "WindowWidth": 900,
            "WindowCenter1": 2295,
            "WindowWidth1": 900,
        },
    ],
)
def test_monochrome_twins_agree_in_every_bit(tmp_path, elements):
    straight, mirrored = twins(tmp_path, PATCHY, 4095, **elements)
    assert straight.dtype == mirrored.dtype
    if (
        "WindowCenter" in elements and elements["WindowCenter"] % 1
    ):  # 2095.7 is not exactly 4095 - 2000.3 + 1 in binary
        np.testing.assert_allclose(straight, mirrored, rtol=0, atol=1e-3)
    else:
        np.testing.assert_array_equal(straight, mirrored)
    assert np.corrcoef(straight.ravel(), PATCHY.ravel())[0, 1] > 0.7


def test_signed_twins(tmp_path):
    signed = PATCHY.astype(np.int16) - 2048
    straight, mirrored = twins(tmp_path, signed, -1)
    np.testing.assert_array_equal(straight, signed)
    np.testing.assert_array_equal(straight, mirrored)


def test_padding_is_background_in_either_polarity(tmp_path):
    padded = PATCHY.copy()
    padded[:, :5] = 4000
    mirrored = 4095 - padded
    for pixels, value, photometric in (
        (padded, 4000, "MONOCHROME2"),
        (mirrored, 95, "MONOCHROME1"),
    ):
        read = load_radiograph(
            write(
                tmp_path / "a.dcm",
                pixels,
                PixelPaddingValue=value,
                PhotometricInterpretation=photometric,
            )
        )
        np.testing.assert_array_equal(read[:, 5:], PATCHY[:, 5:])
        assert (read[:, :5] == PATCHY[:, 5:].min()).all()


# --- headers that lie


def test_frames_are_chosen(tmp_path):
    path = write(tmp_path / "a.dcm", np.stack([PATCHY, PATCHY[::-1]]), NumberOfFrames=2)
    assert reason(path) == "several-frames" and reason(path, frame=2) == "no-such-frame"
    np.testing.assert_array_equal(load_radiograph(path, frame=1), PATCHY[::-1])


def test_window_of_one_frame_of_an_enhanced_object(tmp_path):
    groups = []
    for centre in (500, 1000):
        window, group = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth, group.FrameVOILUTSequence = centre, 401, None
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    path = write(
        tmp_path / "a.dcm",
        np.stack([PATCHY, PATCHY]),
        NumberOfFrames=2,
        PerFrameFunctionalGroupsSequence=groups,
    )
    np.testing.assert_array_equal(
        load_radiograph(path, frame=1), np.clip(PATCHY, 799.5, 1199.5) - 799.5
    )


def test_without_preamble(tmp_path):
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        path = write(tmp_path / "a.dcm", PATCHY, syntax=syntax, preamble=False)
        np.testing.assert_array_equal(load_radiograph(path), PATCHY)
    (tmp_path / "b.dcm").write_bytes(b"\x08\0\x05\0CS\x0a\0ISO_IR 100" * 20)
    assert reason(tmp_path / "b.dcm") == "not-an-image"


def test_colour(tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    elements = dict(
        SamplesPerPixel=3,
        PlanarConfiguration=0,
        PhotometricInterpretation="RGB",
        BitsStored=8,
        HighBit=7,
    )
    np.testing.assert_array_equal(
        load_radiograph(write(tmp_path / "a.dcm", colour, **elements), colour=True), colour
    )
    colour[..., 1:] = colour[..., :1]
    np.testing.assert_array_equal(
        load_radiograph(write(tmp_path / "a.dcm", colour, **elements)), colour[..., 0]
    )


# --- refusals


@pytest.mark.parametrize(
    "centre, width, function",
    [
        ("NaN", "100", None),
        ("100", "Inf", None),
        ("100", "0", None),
        ("100", "-5", None),
        ("100", "1", None),  # a threshold below all values
        ("2000", "0.9", None),
        ("2000", "0", "LINEAR_EXACT"),
        ("a", "b", None),
        ("100", None, None),
        ("1000", "100", "CUBIC"),
        ("60000", "100", None),
        ("100", CANARY, None),
    ],
)
def test_windows_without_meaning(tmp_path, centre, width, function):
    path = write(tmp_path / "a.dcm", PATCHY, **({"VOILUTFunction": function} if function else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
        for tag, value in ((0x00281050, centre), (0x00281051, width)):
            if value is not None:
                dataset.add_new(tag, "LO", value)  # as text, so that the writer does not object
        dataset.save_as(path)
    path.write_bytes(
        path.read_bytes()
        .replace(b"\x50\x10LO", b"\x50\x10DS")
        .replace(b"\x51\x10LO", b"\x51\x10DS")
    )
    assert reason(path) == "bad-window"
    np.testing.assert_array_equal(load_radiograph(path, voi=False), PATCHY)


@pytest.mark.parametrize(
    "elements, expected",
    [
        ({"raw": PATCHY.tobytes()[:-100]}, "truncated"),
        ({"raw": b""}, "truncated"),
        ({"raw": PATCHY.tobytes() * 16}, "bad-metadata"),
        ({"raw": b"", "Rows": None}, "no-pixels"),
        ({"Rows": None}, "bad-metadata"),
        ({"PhotometricInterpretation": None}, "bad-metadata"),
        ({"Rows": 65535, "Columns": 65535}, "too-many-pixels"),
        ({"Rows": 8}, "too-small"),
        ({"SamplesPerPixel": 3}, "bad-metadata"),
        ({"PhotometricInterpretation": "CMYK"}, "unsupported-colour"),
        ({"PhotometricInterpretation": CANARY}, "unsupported-colour"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "bad-metadata"),
        ({"BitsAllocated": 12}, "bad-metadata"),
        (
            {"syntax": JPEG2000Lossless, "raw": encapsulate([b"\xff\x4f\xff\x51" + bytes(40)])},
            "bad-metadata",
        ),
        ({"syntax": JPEG2000Lossless, "raw": encapsulate([b"not a codestream"])}, "damaged"),
        ({"syntax": RLELossless, "raw": encapsulate([bytes(64)])}, "damaged"),
    ],
)
def test_refusals(tmp_path, elements, expected):
    assert reason(write(tmp_path / "a.dcm", PATCHY, **elements)) == expected


def test_constant_and_all_padding(tmp_path):
    flat = np.full((40, 60), 7, np.uint16)
    assert (
        reason(write(tmp_path / "a.dcm", flat))
        == reason(write(tmp_path / "b.dcm", flat, PixelPaddingValue=7))
        == "constant"
    )


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_file(tmp_path, kept):
    path = write(tmp_path / "a.dcm", PATCHY)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert reason(path) == "truncated"


def test_codec_is_refused_by_name(tmp_path):
    frame = b"\xff\xd8\xff\xc1" + struct.pack(">HBHHB", 17, 12, 40, 60, 1) + bytes(40) + b"\xff\xd9"
    refused, detail = refusal(
        write(tmp_path / "a.dcm", PATCHY, syntax=JPEGExtended12Bit, raw=encapsulate([frame]))
    )
    assert refused == "unknown-syntax"
    head, words = detail.split(" with 12 bits: ")
    assert (
        head == "PixelData cannot be decoded as JPEG Extended (Process 2 and 4)"
        and "12-bit precision" in words
    )
    private = write(tmp_path / "b.dcm", PATCHY)
    private.write_bytes(
        private.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.1.2.1\0")
    )
    assert reason(private) == "unknown-syntax"


def test_panic_of_a_rust_decoder_is_a_refusal(tmp_path, monkeypatch):
    """It is no Exception for Python, and would take a whole data-loader worker down."""
    path = write(tmp_path / "a.dcm", PATCHY, syntax=RLELossless, raw=encapsulate([bytes(64)]))

    def panic(*args, **options):
        raise type("PanicException", (BaseException,), {})("index out of bounds")

    monkeypatch.setattr("data.reading.dicom.image.pixel_array", panic)
    assert refusal(path) == (
        "damaged",
        "PixelData cannot be decoded as RLE Lossless: index out of bounds",
    )

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("data.reading.dicom.image.pixel_array", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_radiograph(path)


def test_codestream_larger_than_the_header_is_refused_before_decoding():
    siz = b"\xff\x4f\xff\x51" + struct.pack(
        ">HHIIII16xHB", 41, 0, 60_000, 50_000, 0, 0, 1, 0x80 | 11
    )
    assert read_codestream(siz) == Codestream(50_000, 60_000, bits=12, samples=1)
    jpeg = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc3" + struct.pack(">HBHHB", 11, 16, 1000, 800, 3)
    assert read_codestream(jpeg) == Codestream(1000, 800, bits=16, samples=3)
    assert read_codestream(b"\xff\xd8\xff") is read_codestream(b"") is None


def test_deflate_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr("data.reading.dicom.image.MAX_DATA_SET_BYTES", 1 << 20)
    path = write(
        tmp_path / "a.dcm", np.zeros((2000, 2000), np.uint16), syntax=DeflatedExplicitVRLittleEndian
    )
    assert path.stat().st_size < 20_000 and reason(path) == "too-many-pixels"


def test_pydicom_own_files():
    """Real files, each decoded by a second route or refused for a known reason."""
    expected = {
        "rtplan.dcm": "no-pixels",
        "test-SR.dcm": "no-pixels",
        "DICOMDIR": "no-pixels",
        "reportsi.dcm": "no-pixels",
        "MR_truncated.dcm": "truncated",
        "examples_ybr_color.dcm": "several-frames",
        "rtdose_1frame.dcm": "too-small",
        "ExplVR_LitEndNoMeta.dcm": "not-an-image",
        "badVR.dcm": "bad-metadata",
        "JPEG-lossy.dcm": "unknown-syntax",
    }
    found = {name: get_testdata_file(name, download=False) for name in expected}
    assert {name: reason(file) for name, file in found.items() if file} == {
        name: expected[name] for name in found if found[name]
    }
    compared = 0
    for name in (
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_expb.dcm",
        "CT_small.dcm",
    ):
        if file := get_testdata_file(name, download=False):
            dataset = pydicom.dcmread(file)
            exact = dataset.pixel_array * float(dataset.get("RescaleSlope", 1)) + float(
                dataset.get("RescaleIntercept", 0)
            )
            np.testing.assert_array_equal(load_radiograph(file, voi=False), exact)
            compared += 1
    assert compared >= 5


def test_reading_leaves_the_filters_of_other_threads_alone(tmp_path, monkeypatch):
    """No enter and exit around a read: one of two interleaved reads would undo the other's."""
    path = write(tmp_path / "a.dcm", PATCHY)
    load_radiograph(path)
    before = list(warnings.filters)

    def refused(*args, **options):
        raise AssertionError("catch_warnings is not thread-safe")

    monkeypatch.setattr(warnings, "catch_warnings", refused)
    dicom.silence(("pydicom",), dicom.QUIET)
    assert warnings.filters == before
    assert sum(module == dicom.QUIET for _, _, _, module, _ in before) == 1


def test_no_identifying_value_leaks(tmp_path, caplog, recwarn):
    """Malformed personal elements that pydicom would quote in a warning or a debug line."""
    path = write(tmp_path / "a.dcm", PATCHY)
    path.write_bytes(path.read_bytes().replace(b"19010203", b"CANARY!!"))
    with caplog.at_level(logging.DEBUG):
        pydicom.config.debug(True, default_handler=False)
        try:
            load_radiograph(path)
            path.write_bytes(path.read_bytes()[:-500])
            assert reason(path) == "truncated"
        finally:
            pydicom.config.debug(False, default_handler=False)
    assert "CANARY" not in caplog.text and not [str(warning.message) for warning in recwarn]
