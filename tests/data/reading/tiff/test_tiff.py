"""TIFF: every layout gives the numbers that were stored, or is refused as a TIFF that is not supported."""

import itertools
import struct

import numpy as np
import pytest
from PIL import Image
from tiff_files import COMPRESSIONS, page, tiff

from data.reading.radiograph import load_mask, load_radiograph, radiograph_size
from data.reading.refusal import UnreadableRadiograph

H, W = 40, 35
STEPS = np.add.outer(np.arange(H) * 5, np.arange(W) * 7) + np.random.default_rng(2).integers(
    0, 9, (H, W)
)
ARRANGEMENTS = ({}, {"rows": 13}, {"tile": (16, 32)})
TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")


def values(kind: str, samples: int = 1) -> np.ndarray:
    """[H, W] or [H, W, S] that fill the range of 8- and 16-bit types and whose swapped bytes are other numbers."""
    dtype = np.dtype(kind)
    steps = (
        np.stack([np.roll(STEPS, 3 * s, 1) for s in range(samples)], axis=2)
        if samples > 1
        else STEPS
    )
    if dtype.kind == "f":
        return (steps / 300 - 0.5).astype(dtype)
    low = int(np.iinfo(dtype).min) if dtype.itemsize < 4 else -(10**6) * (dtype.kind == "i")
    return (
        low + steps * (100 if dtype.itemsize > 1 else 1) % 2 ** (8 * min(dtype.itemsize, 4))
    ).astype(dtype)


def read(tmp_path, content: bytes, **options) -> np.ndarray:
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    pixels = load_radiograph(path, **options)
    if "frame" not in options:
        assert radiograph_size(path) == pixels.shape[:2]
    return pixels


def refusal(tmp_path, content: bytes) -> UnreadableRadiograph:
    with pytest.raises(UnreadableRadiograph) as caught:
        read(tmp_path, content)
    assert "Error" not in caught.value.detail, "the name of an exception tells nobody anything"
    return caught.value


@pytest.mark.parametrize("kind", TYPES)
def test_the_numbers_do_not_depend_on_how_they_are_stored(tmp_path, kind):
    pixels = values(kind)
    expected = pixels.astype(np.float32)
    compressions = COMPRESSIONS if kind in ("u1", "u2", "f4") else (1, 5, 8)
    for compression, order, big, arrangement in itertools.product(
        compressions, "<>", (False, True), ARRANGEMENTS
    ):
        if big and compression not in (1, 8):
            continue
        predictors = (1,) if compression in (1, 32773) else (1, 2, 3) if kind[0] == "f" else (1, 2)
        for predictor in predictors:
            stored = page(
                pixels, order=order, compression=compression, predictor=predictor, **arrangement
            )
            got = read(tmp_path, tiff(stored, order=order, big=big))
            np.testing.assert_array_equal(
                got, expected, f"{compression} {order} {big} {arrangement} {predictor}"
            )
    assert got.dtype == {"u1": np.uint8, "u2": np.uint16, "u4": np.uint16, "u8": np.uint16}.get(
        kind, np.float32
    )


@pytest.mark.parametrize("kind", TYPES)
def test_white_is_zero_is_turned_bone_bright(tmp_path, kind):
    pixels = values(kind)
    wide = pixels.astype(np.float64)
    top = np.iinfo(kind).max if kind in ("u1", "u2") else wide.min() + wide.max()
    for order, compression in itertools.product("<>", (1, 8)):
        got = read(
            tmp_path, tiff(page(pixels, 0, order=order, compression=compression), order=order)
        )
        np.testing.assert_array_equal(got, (top - wide).astype(np.float32))


@pytest.mark.parametrize("bits", range(1, 16))
def test_samples_that_share_bytes(tmp_path, bits):
    """1, 2 and 4 bits are stretched to 8, as in a PNG; others stay as they are."""
    pixels = (STEPS % 2**bits).astype(np.uint16)
    pixels[0, 0] = 2**bits - 1
    factor = 255 // (2**bits - 1) if bits in (1, 2, 4, 8) else 1
    for order, compression, arrangement, photometric in itertools.product(
        "<>", (1, 5, 8), ARRANGEMENTS, (0, 1)
    ):
        stored = page(
            pixels, photometric, order=order, compression=compression, bits=bits, **arrangement
        )
        expected = factor * (pixels if photometric else 2**bits - 1 - pixels)
        np.testing.assert_array_equal(read(tmp_path, tiff(stored, order=order)), expected)


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("separate", [False, True])
def test_colours_in_one_plane_or_three(tmp_path, kind, separate):
    pixels = values(kind, 3)
    for compression, order, arrangement in itertools.product((1, 5, 8), "<>", ARRANGEMENTS):
        predictor = 1 if compression == 1 else 2
        options = {
            "order": order,
            "compression": compression,
            "predictor": predictor,
            "separate": separate,
        }
        got = read(
            tmp_path, tiff(page(pixels, 2, **options, **arrangement), order=order), colour=True
        )
        np.testing.assert_array_equal(got, pixels)
        assert got.dtype == pixels.dtype


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("samples", [2, 4])
@pytest.mark.parametrize("separate", [False, True])
def test_transparency_is_laid_on_black(tmp_path, kind, samples, separate):
    """Extra samples: 0 means something else, 1 is alpha that colours are multiplied by already, 2 is plain alpha."""
    pixels = values(kind, samples)
    top = int(np.iinfo(kind).max)
    colours, alpha = pixels[..., :-1].astype(np.int64), pixels[..., -1:]
    black = (colours * alpha + top // 2) // top
    for meaning, expected in ((0, colours), (1, colours), (2, black)):
        stored = page(
            pixels,
            1 if samples == 2 else 2,
            order=">",
            separate=separate,
            tags={338: ("H", (meaning,))},
        )
        got = read(tmp_path, tiff(stored, order=">"), colour=True)
        np.testing.assert_array_equal(got, expected[..., 0] if samples == 2 else expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_are_expanded(tmp_path, bits):
    colours = np.random.default_rng(3).integers(0, 256, (2**bits, 3))
    indices = (STEPS % 2**bits).astype(np.uint8)
    table = {320: ("H", tuple((colours.T * 257).ravel().tolist()))}
    for order, compression, arrangement in itertools.product("<>", (1, 5, 32773), ARRANGEMENTS):
        stored = page(
            indices, 3, order=order, compression=compression, bits=bits, tags=table, **arrangement
        )
        np.testing.assert_array_equal(
            read(tmp_path, tiff(stored, order=order), colour=True), colours[indices]
        )


@pytest.mark.parametrize("compression", [1, 5, 8])
def test_the_lowest_bit_may_come_first(tmp_path, compression):
    pixels = values("u1")
    described = page(pixels, compression=compression, rows=13, tags={266: ("H", (2,))})
    described["stored"] = [
        bytes(int(f"{b:08b}"[::-1], 2) for b in piece) for piece in described["stored"]
    ]
    np.testing.assert_array_equal(read(tmp_path, tiff(described)), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_any_sample_type(tmp_path, orientation):
    upright = values("u2")
    stored = {  # TIFF 6.0, page 36: where row 0 and column 0 of the file are in the picture
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    for kind in ("u2", "f8"):
        content = tiff(page(np.ascontiguousarray(stored, kind), tags={274: ("H", (orientation,))}))
        np.testing.assert_array_equal(read(tmp_path, content), upright)


@pytest.mark.parametrize("compression", ["jpeg", "group3", "group4", "tiff_ccitt"])
def test_jpeg_and_fax_pages_are_decoded(tmp_path, compression):
    grey = np.add.outer(np.arange(H), np.arange(W)).astype(np.uint8)
    picture = Image.fromarray(grey if compression == "jpeg" else grey > 30)
    quality = {"quality": 100} if compression == "jpeg" else {}
    picture.save(tmp_path / "a.tif", compression=compression, **quality)
    expected = grey if compression == "jpeg" else (grey > 30) * 255
    assert np.abs(load_radiograph(tmp_path / "a.tif").astype(int) - expected).max() <= 2 * (
        compression == "jpeg"
    )
    assert radiograph_size(tmp_path / "a.tif") == (H, W)


UNSUPPORTED = {
    "complex": ({"pixels": "f8", "tags": {339: ("H", (6,))}}, "format 6"),
    "24-bit float": ({"pixels": "f4", "tags": {258: ("H", (24,))}}, "24 bits"),
    "JPEG 2000": ({"pixels": "u1", "tags": {259: ("H", (34712,))}}, "compression 34712"),
    "12-bit JPEG": ({"pixels": "u2", "tags": {259: ("H", (7,)), 258: ("H", (12,))}}, "12 bits"),
    "sensor mosaic": (
        {"pixels": "u2", "tags": {262: ("H", (32803,))}},
        "photometric interpretation 32803",
    ),
    "float colours": ({"pixels": ("f4", 3), "photometric": 2}, "colours of 32 bits"),
    "signed colours": ({"pixels": ("i2", 3), "photometric": 2}, "colours of 16 bits, format 2"),
    "unequal samples": (
        {"pixels": ("u1", 3), "photometric": 2, "tags": {258: ("H", (5, 6, 5))}},
        "5, 6, 5 bits",
    ),
    "many samples": ({"pixels": ("u1", 9)}, "9 samples"),
    "unknown predictor": (
        {"pixels": "u2", "compression": 8, "tags": {317: ("H", (34892,))}},
        "predictor 34892",
    ),
    "predictor of plain samples": ({"pixels": "u2", "tags": {317: ("H", (2,))}}, "predictor 2"),
    "volume": ({"pixels": "u1", "tags": {32997: ("I", (4,))}}, "4 slices"),
    "16-bit palette": ({"pixels": "u2", "photometric": 3}, "colours of 16 bits"),
    "float transparency": ({"pixels": ("f4", 2), "tags": {338: ("H", (2,))}}, "transparency"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_called_a_tiff(tmp_path, name):
    options, message = UNSUPPORTED[name]
    kind = options["pixels"]
    pixels = values(kind) if isinstance(kind, str) else values(*kind)
    for order in "<>":
        others = {key: value for key, value in options.items() if key != "pixels"}
        error = refusal(tmp_path, tiff(page(pixels, order=order, **others), order=order))
        assert error.reason == "unsupported-tiff"
        assert (
            error.detail.startswith("a TIFF of a kind that is not supported: ")
            and message in error.detail
        )


@pytest.mark.parametrize("photometric", [5, 8])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_colours_of_print_are_refused_as_that(tmp_path, kind, photometric):
    for compression in (1, 8):
        content = tiff(
            page(values(kind, 4 if photometric == 5 else 3), photometric, compression=compression)
        )
        assert refusal(tmp_path, content).reason == "unsupported-colour"


def test_a_jpeg_that_does_not_say_what_white_is_is_not_inverted(tmp_path):
    Image.fromarray(values("u1")).save(tmp_path / "a.tif", compression="jpeg")
    content = (tmp_path / "a.tif").read_bytes()
    entry = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    assert content.count(entry) == 1
    error = refusal(tmp_path, content.replace(entry, struct.pack("<HHIHH", 263, 3, 1, 1, 0)))
    assert error.reason == "bad-metadata" and "PhotometricInterpretation" in error.detail


CONTRADICTIONS = {
    "no photometric interpretation": (
        {262: ("H", ())},
        "bad-metadata",
        "whether 0 is black or white",
    ),
    "no height": ({257: ("I", ())}, "bad-metadata", "how high"),
    "too few strips": ({278: ("I", (13,))}, "bad-metadata", "1 offsets and 1 sizes for 4 strips"),
    "empty rows": ({278: ("I", (0,))}, "bad-metadata", "strips of 35 x 0 pixels"),
    "short strip": ({279: ("I", (100,))}, "damaged", "1 of 1 strips"),
    "strip outside the file": ({273: ("I", (10**6,))}, "truncated", "ends before"),
    "list outside the file": ({273: ("I", (1,) * 3)}, "bad-metadata", "3 offsets"),
    "palette of another depth": (
        {262: ("H", (3,)), 320: ("H", (1,) * 48)},
        "bad-metadata",
        "48 values",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_refused(tmp_path, name):
    tags, reason, message = CONTRADICTIONS[name]
    described = page(values("u1"), tags=tags)
    described["tags"] = {tag: entry for tag, entry in described["tags"].items() if entry[1] != ()}
    error = refusal(tmp_path, tiff(described))
    assert error.reason == reason and message in error.detail


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_files_cut_short_anywhere_are_refused(tmp_path, compression):
    """The directory comes last; here the file is cut in front of it, and the header is told where it would be."""
    whole = tiff(page(values("u2"), compression=compression, rows=13))
    for kept in range(0, len(whole), 97):
        assert refusal(tmp_path, whole[:kept] or b"II*\0").reason in (
            "truncated",
            "damaged",
            "not-an-image",
        )
    described = page(values("u2"), compression=compression, rows=13)
    described["stored"][1] = described["stored"][1][:40]
    described["tags"][279] = ("I", tuple(map(len, described["stored"])))
    path = tmp_path / "short.tif"
    path.write_bytes(tiff(described))
    with pytest.raises(UnreadableRadiograph, match="damaged|truncated"):
        load_radiograph(path)


# --- several pages

SMALL = {"pixels": values("u1")[::2, ::2]}
THUMBNAILS = {
    "NewSubfileType 1": {254: ("I", (1,))},
    "thumbnail of a page of a document": {254: ("I", (3,))},
    "SubfileType 2": {255: ("H", (2,))},
    "transparency mask": {254: ("I", (4,))},
}


@pytest.mark.parametrize("name", THUMBNAILS)
@pytest.mark.parametrize("kind", ["u1", "u2", "f8"])
def test_the_main_picture_is_read_wherever_its_thumbnail_is(tmp_path, name, kind):
    main = page(values(kind))
    thumbnail = page(values("u1")[:20, :20].copy(), tags=THUMBNAILS[name])
    for pages in ((main, thumbnail), (thumbnail, main), (thumbnail, main, thumbnail)):
        np.testing.assert_array_equal(read(tmp_path, tiff(*pages)), values(kind).astype(np.float32))
        np.testing.assert_array_equal(
            load_mask(tmp_path / "a.tif"), values(kind).astype(np.float32)
        )


def test_pages_of_equal_rank_are_refused_with_advice_that_works(tmp_path):
    pages = [
        page(values("u2") + shift, tags={254: ("I", (kind,))})
        for shift, kind in ((0, 0), (1, 2), (2, 2))
    ]
    error = refusal(tmp_path, tiff(*pages))
    assert error.reason == "several-frames" and "3 frames" in error.detail
    assert "--" not in error.detail and "save the radiograph as a file of its own" in error.detail
    with Image.open(tmp_path / "a.tif") as picture:
        picture.seek(1)
        picture.save(tmp_path / "own.tif")
    np.testing.assert_array_equal(load_radiograph(tmp_path / "own.tif"), values("u2") + 1)
    for frame in range(3):
        np.testing.assert_array_equal(
            read(tmp_path, tiff(*pages), frame=frame), values("u2") + frame
        )
    with pytest.raises(UnreadableRadiograph, match="no-such-frame"):
        read(tmp_path, tiff(*pages), frame=3)


STACKS = {
    "ImageJ": "ImageJ=1.53t\nimages=3\nslices=3\nunit=micron\n",
    "ImageJ, Windows": "ImageJ=1.53t\r\nimages=3\r\nslices=3\r\n",
    "tifffile": f'{{"shape": [3, {H}, {W}]}}',
}
SINGLE = (
    "ImageJ=1.53t\nunit=mm\n",
    "ImageJ=1.53t\nimages=1\n",
    "images=3",
    f'{{"shape": [{H}, {W}]}}',
    '{"shape": "of things to come"}',
    '{"shape": [3,',
    '{"shape": [1e999]}',
    '{"shape": ' + "[" * 60_000,
    "left hand, ap",
)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("name", STACKS)
def test_a_stack_under_one_directory_is_several_frames(tmp_path, name, big):
    description = {270: ("T", tuple(STACKS[name].encode() + b"\0"))}
    content = tiff(page(values("u2"), tags=description), big=big) + values("u2").tobytes() * 2
    error = refusal(tmp_path, content)
    assert error.reason == "several-frames" and "3 frames under one directory" in error.detail
    np.testing.assert_array_equal(read(tmp_path, content, frame=0), values("u2"))
    with pytest.raises(UnreadableRadiograph, match="only frame 0 of a stack"):
        read(tmp_path, content, frame=2)
    with pytest.raises(UnreadableRadiograph, match="no-such-frame"):
        read(tmp_path, content, frame=3)


@pytest.mark.parametrize("text", SINGLE)
def test_other_descriptions_do_not_matter(tmp_path, text):
    content = tiff(page(values("u2"), tags={270: ("T", tuple(text.encode() + b"\0"))}))
    np.testing.assert_array_equal(read(tmp_path, content), values("u2"))


def test_a_raw_picture_of_a_camera_is_not_its_thumbnail(tmp_path):
    content = tiff(page(values("u1"), tags={254: ("I", (1,)), 330: ("I", (8,))}))
    assert refusal(tmp_path, content).reason == "unsupported-tiff"
    only = tiff(
        page(values("u1"), tags={254: ("I", (1,))})
    )  # nothing else in the file, whatever it calls itself
    np.testing.assert_array_equal(read(tmp_path, only), values("u1"))


def test_a_chain_of_pages_that_leads_back_ends(tmp_path):
    content = bytearray(tiff(page(values("u1"))))
    content[-4:] = content[4:8]
    np.testing.assert_array_equal(read(tmp_path, bytes(content)), values("u1"))
    content[-4:] = (10**9).to_bytes(4, "little")
    assert refusal(tmp_path, bytes(content)).reason == "truncated"
