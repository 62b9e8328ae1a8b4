"""The reader: native depth in, refusals with a reason, listings that do not depend on the machine."""

import io
import itertools
import json
import os
import pickle
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from core.files import printable
from data.reading.radiograph import list_radiographs, load_radiograph, radiograph_size
from data.reading.refusal import REASONS, UnreadableRadiograph
from data.views.intensity import minmax

GOLDEN = Path(__file__).parents[2] / "golden"
GREY = (np.add.outer(np.arange(40) * 3, np.arange(60) * 2) % 251).astype(np.uint8)
RAMP = np.tile(np.arange(4096, dtype=np.uint16), (32, 1)).reshape(
    512, 256
)  # every 12-bit value, 32 times


def reason(path, **options) -> str:
    with pytest.raises(UnreadableRadiograph) as caught:
        load_radiograph(path, **options)
    assert caught.value.reason in REASONS and str(caught.value).startswith(printable(path))
    return caught.value.reason


def save(path: Path, pixels, **options) -> Path:
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def png(
    path: Path,
    width: int,
    height: int,
    kind: int,
    depth: int,
    raw: bytes = b"",
    filters=(0,),
    invisible: bytes = b"",
) -> Path:
    """A PNG written by hand, for what Pillow cannot.

    `raw` is unfiltered, rows get one of `filters` (0 or 2: up); `invisible` is the colour declared to be transparent.
    """

    def chunk(name, content):
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    stride, rows, above = len(raw) // height, b"", None
    for number in range(height if raw else 0):
        row = np.frombuffer(raw, np.uint8, stride, number * stride)
        above = np.zeros_like(row) if above is None else above
        method = filters[number % len(filters)]
        rows, above = rows + bytes([method]) + (row - above if method == 2 else row).tobytes(), row
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"tRNS", invisible),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    written = [chunk(name, content) for name, content in chunks if content or name != b"tRNS"]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))
    return path


def tiff(
    path: Path, pixels: np.ndarray, photometric: int, deflate: bool = False, order: str = "<"
) -> Path:
    """A one-strip TIFF written by hand: [H, W] or [H, W, C] of 8, 16 or 32 bits in either byte order."""
    height, width, channels = *pixels.shape[:2], pixels.shape[2] if pixels.ndim == 3 else 1
    content = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    content = zlib.compress(content) if deflate else content
    bits, start = [pixels.dtype.itemsize * 8] * channels, 8
    depth_at = start + len(content)
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, bits[0] if channels == 1 else depth_at),
        (259, 3, 1, 8 if deflate else 1),
        (262, 3, 1, photometric),
        (273, 4, 1, start),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, len(content)),
    ]
    table = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        field = (
            struct.pack(f"{order}HH", value, 0)
            if kind == 3 and count == 1
            else struct.pack(f"{order}I", value)
        )
        table += struct.pack(f"{order}HHI", tag, kind, count) + field
    depths = struct.pack(f"{order}{channels}H", *bits)
    head = (b"II" if order == "<" else b"MM") + struct.pack(
        f"{order}HI", 42, depth_at + len(depths)
    )
    path.write_bytes(head + content + depths + table + b"\0\0\0\0")
    return path


# --- what is accepted

# Where the reference is not followed: LA stays two channels there, palettes are shown as their indices, transparency is
# ignored, CMYK and non-finite pixels pass.
OURS = {"la8.png", "palette.png", "rgba8.png", "cmyk.tif", "float32_nan.tif", "float32_inf.tif"}


@pytest.mark.parametrize(
    "name",
    sorted(set(json.loads((GOLDEN / "g2_load_rgb_8bit.json").read_text())["outputs"]) - OURS),
)
def test_reads_and_stretches_like_skelex(name):
    expected = np.load(GOLDEN / "g2_load_rgb_8bit.npz")[name]
    grey = minmax(load_radiograph(GOLDEN / "assets" / name, colour=True, allow_constant=True))
    np.testing.assert_array_equal(
        grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=2), expected
    )


def test_where_the_reference_is_not_followed():
    assets = GOLDEN / "assets"
    assert [
        reason(assets / name) for name in ("cmyk.tif", "float32_nan.tif", "float32_inf.tif")
    ] == [
        "unsupported-colour",
        "non-finite",
        "non-finite",
    ]
    with Image.open(assets / "palette.png") as picture:
        np.testing.assert_array_equal(
            load_radiograph(assets / "palette.png"), np.asarray(picture.convert("RGB").convert("L"))
        )
    for name in ("la8.png", "rgba8.png"):
        with Image.open(assets / name) as picture:
            rgba = np.asarray(picture.convert("RGBA")).astype(float)
        black = np.rint(rgba[..., :3] * rgba[..., 3:] / 255).astype(np.uint8)
        np.testing.assert_array_equal(
            load_radiograph(assets / name), np.asarray(Image.fromarray(black).convert("L"))
        )


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.jpg"])
def test_eight_bit_kinds(tmp_path, name):
    read = load_radiograph(
        save(tmp_path / name, GREY, **({"quality": 95} if name == "a.jpg" else {}))
    )
    assert read.dtype == np.uint8 and read.flags.writeable
    assert np.abs(read.astype(int) - GREY).mean() < (8 if name == "a.jpg" else 1e-9)


def test_twelve_bit_ramp_survives_every_container(tmp_path):
    files = [
        save(tmp_path / "a.png", RAMP),
        save(tmp_path / "a.tif", RAMP),
        save(tmp_path / "f.tif", RAMP.astype(np.float32)),
        save(tmp_path / "i.tif", RAMP.astype(np.int32)),
        tiff(tmp_path / "be.tif", RAMP, 1, order=">"),
        png(
            tmp_path / "rgb.png",
            256,
            512,
            2,
            16,
            np.repeat(RAMP.astype(">u2")[..., None], 3, 2).tobytes(),
            (0, 2),
        ),
    ]
    for file in files:
        read = load_radiograph(file)
        np.testing.assert_array_equal(read, RAMP)
        np.testing.assert_array_equal(minmax(read), minmax(RAMP))
    levels, counts = np.unique(minmax(RAMP), return_counts=True)
    assert len(levels) == 256 and counts[-1] < RAMP.size / 200


@pytest.mark.parametrize("kind, channels", [(4, 2), (6, 4), (2, 3)])
def test_sixteen_bits_per_channel_png(tmp_path, kind, channels):
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, channels)).astype(np.uint16)
    read = load_radiograph(
        png(tmp_path / "a.png", 30, 20, kind, 16, deep.astype(">u2").tobytes(), (0, 2)), colour=True
    )
    exact = deep.astype(float)
    expected = exact if channels == 3 else np.rint(exact[..., :-1] * exact[..., -1:] / 65535)
    np.testing.assert_array_equal(read, expected[..., 0] if channels == 2 else expected)


@pytest.mark.parametrize("deflate, order", itertools.product([False, True], "<>"))
def test_sixteen_bits_per_channel_tiff(tmp_path, deflate, order):
    deep = np.random.default_rng(1).integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    np.testing.assert_array_equal(
        load_radiograph(tiff(tmp_path / "a.tif", deep, 2, deflate, order), colour=True), deep
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_luminance_is_rec_601_at_native_depth(tmp_path, dtype):
    top = np.iinfo(dtype).max
    colour = np.random.default_rng(2).integers(0, top + 1, (20, 30, 3)).astype(dtype)
    path = tiff(tmp_path / "a.tif", colour, 2)
    read = load_radiograph(path)
    assert (
        read.dtype == dtype
        and np.abs(read - colour @ [0.299, 0.587, 0.114]).max() < 0.5 + top * 2e-5
    )
    assert load_radiograph(path, colour=True).shape == (20, 30, 3)


def test_equal_channels_become_one_exactly(tmp_path):
    assert (
        load_radiograph(
            save(tmp_path / "a.png", np.repeat(GREY[..., None], 3, 2)), colour=True
        ).tolist()
        == GREY.tolist()
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_tiff_is_turned_bone_bright(tmp_path, dtype):
    pixels = np.random.default_rng(3).integers(0, np.iinfo(dtype).max + 1, (20, 30)).astype(dtype)
    np.testing.assert_array_equal(
        load_radiograph(tiff(tmp_path / "a.tif", pixels, 0)), np.iinfo(dtype).max - pixels
    )


def test_unsigned_32_bit_tiff_does_not_wrap(tmp_path):
    pixels = np.linspace(0, 2**32 - 1, 600).astype(np.uint32).reshape(20, 30)
    np.testing.assert_array_equal(
        load_radiograph(tiff(tmp_path / "a.tif", pixels, 1)), pixels.astype(np.float32)
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_exif_orientation_is_applied_once(tmp_path, name, orientation):
    upright = np.zeros((48, 32), np.uint8)
    upright[:8, :8], upright[:8, -8:] = 255, 120
    methods = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(upright)
    stored = stored.transpose(methods[orientation]) if orientation > 1 else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = load_radiograph(save(tmp_path / name, stored, exif=exif))
    assert (
        read.shape == (48, 32)
        and read[4, 4] > 240
        and 110 < read[4, -4] < 130
        and read[-4].max() < 16
    )


def test_one_bit(tmp_path):
    assert set(np.unique(load_radiograph(save(tmp_path / "a.png", GREY > 100)))) == {0, 255}


@pytest.mark.parametrize("kind, depth", [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)])
def test_the_colour_that_a_png_declares_transparent_is_black(tmp_path, kind, depth):
    """It is the brightest, so that black is a change."""
    top, channels = 2**depth - 1, 1 if kind == 0 else 3
    values = np.random.default_rng(5).integers(0, top + 1, (24, 32, channels))
    values[::2, ::3] = top
    if depth == 16:
        raw = values.astype(">u2").tobytes()
    else:
        bits = np.unpackbits(values.astype(np.uint8).reshape(24, -1, 1), axis=2)[..., -depth:]
        raw = np.packbits(bits.reshape(24, -1), axis=1).tobytes()
    hidden = (values == top).all(axis=2)
    expected = np.where(hidden[..., None], 0, values) * (255 // top if depth < 8 else 1)
    path = png(
        tmp_path / "a.png",
        32,
        24,
        kind,
        depth,
        raw,
        (0, 2),
        np.full(channels, top, ">u2").tobytes(),
    )
    read = load_radiograph(path, colour=True, allow_constant=True)
    np.testing.assert_array_equal(read, expected[..., 0] if channels == 1 else expected)
    visible = load_radiograph(png(path, 32, 24, kind, depth, raw, (0, 2)), colour=True)
    np.testing.assert_array_equal(visible[hidden], top * (255 // top if depth < 8 else 1))


def test_pages_are_chosen_never_taken(tmp_path):
    pages = [Image.fromarray(np.roll(GREY, shift, 1)) for shift in (0, 7)]
    for file in (
        save(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:]),
        save(tmp_path / "animated.png", pages[0], save_all=True, append_images=pages[1:]),
    ):
        assert (
            reason(file) == "several-frames"
            and reason(file, frame=2) == reason(file, frame=-1) == "no-such-frame"
        )
        np.testing.assert_array_equal(load_radiograph(file, frame=1), np.roll(GREY, 7, 1))


def several_jpegs(path: Path, attributes: tuple[int, ...]) -> Path:
    """A JPEG followed by a JPEG of a quarter of its sides (CIPA DC-007), with these attributes of the two."""
    first, second = (
        Image.fromarray(GREY),
        Image.fromarray(np.ascontiguousarray(255 - GREY[::2, ::2])),
    )
    save(path, first, format="MPO", save_all=True, append_images=[second], quality=95)
    content = bytearray(path.read_bytes())
    base = content.index(b"MPF\0") + 4
    (place,) = struct.unpack_from(
        "<I", content, base + 8 + 2 + 2 * 12 + 8
    )  # of the third entry, 0xB002
    for number, attribute in enumerate(attributes):
        struct.pack_into("<I", content, base + place + 16 * number, attribute)
    path.write_bytes(content)
    return path


PRIMARY, REPRESENTATIVE = 0x030000, 1 << 29


@pytest.mark.parametrize(
    "other", [0, 0x010001, 0x010002, 0x020002], ids=["gain map", "VGA", "HD", "stereo"]
)
def test_the_main_picture_of_a_phone_is_read(tmp_path, other):
    plain = load_radiograph(save(tmp_path / "plain.jpg", GREY, quality=95))
    path = several_jpegs(tmp_path / "a.jpg", (PRIMARY, other))
    np.testing.assert_array_equal(load_radiograph(path), plain)
    assert radiograph_size(path) == plain.shape
    assert (
        load_radiograph(path, frame=1).shape == (20, 30)
        and reason(path, frame=2) == "no-such-frame"
    )


@pytest.mark.parametrize(
    "kind", [0x020001, 0x020002, 0x020003, 0], ids=["panorama", "stereo", "angles", "undefined"]
)
def test_pictures_of_equal_rank_are_refused_unless_one_represents_them(tmp_path, kind):
    path = several_jpegs(tmp_path / "a.jpg", (kind, kind))
    assert reason(path) == "several-frames"
    with pytest.raises(UnreadableRadiograph, match="save the radiograph as a file of its own$"):
        radiograph_size(path)
    path = several_jpegs(tmp_path / "b.jpg", (kind, kind | REPRESENTATIVE))
    assert load_radiograph(path).shape == radiograph_size(path) == (20, 30)
    several_jpegs(path, (kind | REPRESENTATIVE, kind | REPRESENTATIVE))
    assert reason(path) == "several-frames"


# --- what is refused


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "a.bmp", "a.tif", "deflate.tif", "progressive.jpg"]
)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated(tmp_path, name, kept):
    noise = np.random.default_rng(4).integers(0, 256, (120, 160)).astype(np.uint8)
    options = {
        "deflate.tif": {"compression": "tiff_adobe_deflate"},
        "progressive.jpg": {"progressive": True},
    }.get(name, {})
    whole = save(tmp_path / name, noise, **options).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(kept * len(whole))])
    # a TIFF keeps its directory at the end: without it nothing can be recognised
    assert reason(tmp_path / name) in ("truncated", "damaged", "not-an-image")


def test_flipped_bits_in_a_png_are_refused(tmp_path):
    whole = save(tmp_path / "a.png", GREY).read_bytes()
    for position in range(
        16, len(whole) - 12
    ):  # all but the signature, the first length and the end
        (tmp_path / "b.png").write_bytes(
            whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :]
        )
        assert reason(tmp_path / "b.png") in (
            "damaged",
            "truncated",
            "not-an-image",
            "too-small",
            "too-many-pixels",
        )


def test_refusals(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("This is a letter, not a radiograph. " * 20)
    (tmp_path / "gif.png").write_bytes(b"GIF89a" + bytes(60))
    save(tmp_path / "thin.png", np.arange(500, dtype=np.uint8)[:, None])
    save(tmp_path / "strip.png", np.tile(np.arange(16, dtype=np.uint8), (400, 1)))
    save(tmp_path / "lab.tif", Image.fromarray(np.repeat(GREY[..., None], 3, 2)).convert("LAB"))
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("loop.png", tmp_path / "loop.png")
    expected = {
        "empty.png": "empty-file",
        "text.png": "not-an-image",
        "gif.png": "not-an-image",
        "thin.png": "too-small",
        "strip.png": "absurd-aspect",
        "lab.tif": "unsupported-colour",
        "pipe.png": "not-a-file",
        "": "not-a-file",
        "loop.png": "missing",
        "none.png": "missing",
        "x" * 300: "missing",
        "a\0b.png": "missing",
        "text.png/a.png": "missing",
    }
    assert {name: reason(os.path.join(tmp_path, name)) for name in expected} == expected


def test_content_decides_not_the_extension(tmp_path):
    save(tmp_path / "a.png", GREY).rename(tmp_path / "a.dcm")
    np.testing.assert_array_equal(load_radiograph(tmp_path / "a.dcm"), GREY)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("width, height", [(30_000, 30_000), (11_000, 11_000), (2**31 - 1, 40)])
def test_size_bombs_are_refused_by_their_header(tmp_path, width, height):
    assert reason(png(tmp_path / "bomb.png", width, height, 0, 8)) == "too-many-pixels"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite(tmp_path, value):
    pixels = GREY.astype(np.float32)
    pixels[3, 3] = value
    assert reason(save(tmp_path / "a.tif", pixels)) == "non-finite"


def test_blank_pictures_are_refused_and_sparse_ones_are_not(tmp_path):
    blank = np.full((100, 100), 800, np.uint16)
    blank[3, 5] = 4000  # one dead pixel does not make a radiograph
    assert reason(save(tmp_path / "a.png", blank)) == "constant"
    assert load_radiograph(tmp_path / "a.png", allow_constant=True).max() == 4000
    blank[:4, :4] = 4000
    assert load_radiograph(save(tmp_path / "b.png", blank)).max() == 4000


def test_grey_tail_of_a_repaired_jpeg(tmp_path):
    """A cut JPEG with a forged end marker decodes without any complaint: half a radiograph above grey."""
    tall = np.random.default_rng(6).integers(0, 256, (160, 64)).astype(np.uint8)
    whole = save(tmp_path / "a.jpg", tall).read_bytes()
    (tmp_path / "b.jpg").write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    assert reason(tmp_path / "b.jpg") == "flat-tail"
    Image.open(tmp_path / "b.jpg").save(tmp_path / "b.png")  # and so does whatever was made from it
    assert reason(tmp_path / "b.png") == "flat-tail"


@pytest.mark.parametrize("border", [0, 255, 40, 215])
def test_collimation_is_no_grey_tail(tmp_path, border):
    collimated = GREY.copy()
    collimated[20:] = border
    np.testing.assert_array_equal(load_radiograph(save(tmp_path / "a.png", collimated)), collimated)


def test_decoder_exceptions_become_reasons(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", GREY)
    for error, expected in [
        (MemoryError(), "out-of-memory"),
        (SyntaxError("x"), "damaged"),
        (struct.error("x"), "damaged"),
        (Image.DecompressionBombError("x"), "too-many-pixels"),
        (EOFError(), "truncated"),
        (OSError(5, "Input/output error"), "io-error"),
        (OSError(22, "Invalid argument"), "damaged"),  # a seek before the beginning
        (OSError("image file is truncated"), "truncated"),
        (TypeError("x"), "damaged"),
        (NotImplementedError("x"), "damaged"),
        (KeyError("offset"), "damaged"),
        (ValueError(), "damaged"),
    ]:

        def fail(*args, _error=error, **options):
            raise _error

        monkeypatch.setattr(Image, "open", fail)
        with pytest.raises(UnreadableRadiograph) as caught:
            load_radiograph(path)
        assert caught.value.reason == expected and caught.value.detail
        assert type(error).__name__ not in caught.value.detail


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif"])
def test_the_words_of_the_decoder_are_kept(tmp_path, name):
    """What Pillow says of a file that is cut short, and not what it calls its exceptions."""
    path = save(tmp_path / name, GREY)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(UnreadableRadiograph) as caught:
        load_radiograph(path)
    assert caught.value.reason == "truncated"
    assert not re.search(r"\w(Error|Exception|Warning)\b", caught.value.detail)
    if name == "a.jpg":
        assert re.fullmatch(
            r"image file is truncated \(\d+ bytes not processed\)", caught.value.detail
        )


def test_an_orientation_that_cannot_be_read_says_why(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise KeyError("Orientation")

    path = save(tmp_path / "a.png", GREY)
    monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    with pytest.raises(
        UnreadableRadiograph, match=r"bad-metadata: an EXIF block .* \(no entry 'Orientation'\)"
    ):
        load_radiograph(path)


def test_permission_denied(tmp_path, monkeypatch):
    def denied(*args, **options):
        raise PermissionError(13, "Permission denied")

    path = save(tmp_path / "a.png", GREY)
    monkeypatch.setattr("builtins.open", denied)
    assert reason(path) == "no-permission"


def test_the_error_travels(tmp_path):
    error = UnreadableRadiograph(tmp_path / "a.png", "truncated", "half of it")
    again = pickle.loads(pickle.dumps(error))
    assert (again.path, again.reason, again.detail, str(again)) == (
        error.path,
        error.reason,
        error.detail,
        str(error),
    )
    assert (
        str(UnreadableRadiograph("Caught it in a worker")) == "Caught it in a worker"
    )  # as a DataLoader raises it again


def test_names_that_are_not_utf8(tmp_path):
    raw = os.fsencode(tmp_path) + b"/r\xf6ntgen.png"
    Image.fromarray(GREY).save(stream := io.BytesIO(), "PNG")
    with open(raw, "wb") as file:
        file.write(stream.getvalue())
    with open(raw.replace(b"r\xf6", b"d\xf6"), "wb") as file:
        file.write(b"nothing")
    bad, good = list_radiographs(tmp_path)
    np.testing.assert_array_equal(load_radiograph(good), GREY)
    assert os.fsencode(good) == raw
    with pytest.raises(UnreadableRadiograph) as caught:
        load_radiograph(bad)
    str(caught.value).encode("utf-8")  # printable anywhere
    (tmp_path / "list.txt").write_bytes(b"r\xf6ntgen.png\n")
    assert list_radiographs(tmp_path / "list.txt") == [good]


# --- listings


def names(paths, root) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


@pytest.fixture
def tree(tmp_path):
    for name in (
        "b/2.PNG",
        "b/10.png",
        "b.1/a.jpeg",
        "a.tif",
        ".hidden.png",
        "._a.tif",
        ".git/x.png",
        "notes.pdf",
        "README",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 200)
    for name in ("IM0001", "b/1.2.840.113", "DICOMDIR"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    return tmp_path


def test_listing_is_sorted_and_complete(tree):
    assert names(list_radiographs(tree), tree) == [
        "IM0001",
        "a.tif",
        "b.1/a.jpeg",
        "b/1.2.840.113",
        "b/10.png",
        "b/2.PNG",
    ]
    assert names(list_radiographs(str(tree), recursive=False), tree) == ["IM0001", "a.tif"]
    assert names(list_radiographs([tree / "b", tree, tree / "a.tif"]), tree) == [
        "b/1.2.840.113",
        "b/10.png",
        "b/2.PNG",
        "IM0001",
        "a.tif",
        "b.1/a.jpeg",
    ]


def test_listing_follows_links_once(tree):
    before = names(list_radiographs(tree), tree)
    os.symlink(tree, tree / "b" / "loop")
    os.symlink(tree / "b", tree / "0_link")
    os.symlink(tree / "a.tif", tree / "z.tif")
    assert names(list_radiographs(tree), tree) == before
    os.symlink(tree / "gone.png", tree / "broken.png")  # the audit shall say that these are missing
    os.symlink("itself.png", tree / "itself.png")
    os.symlink("itself", tree / "itself")
    assert {"broken.png", "itself.png"} == {*names(list_radiographs(tree), tree)} - {*before}


def test_listing_does_not_depend_on_the_order_of_the_disk(tree, monkeypatch):
    before, scandir = list_radiographs(tree), os.scandir

    class Backwards:
        def __init__(self, folder):
            with scandir(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    assert list_radiographs(tree) == before


def test_a_folder_that_cannot_be_listed_is_an_error(tree, monkeypatch):
    scandir = os.scandir

    def guarded(folder):
        if Path(folder).name == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PermissionError, match="/b: this folder cannot be listed"):
        list_radiographs(tree)


def test_a_nameless_file_that_cannot_be_opened_is_left_to_the_reader(tree, monkeypatch):
    opened, before = open, list_radiographs(tree)

    def guarded(path, *args, **options):
        if Path(path).name == "IM0001":
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **options)

    monkeypatch.setattr("builtins.open", guarded)
    assert list_radiographs(tree) == before and tree / "IM0001" in before
    assert reason(tree / "IM0001") == "no-permission"


def test_nothing_found_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        list_radiographs(tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match=rf"no radiographs in {tmp_path}; looked for .png .jpg"
    ):
        list_radiographs([tmp_path])
    with pytest.raises(FileNotFoundError, match="nothing was given"):
        list_radiographs([])


@pytest.mark.parametrize(
    "name, content",
    [
        ("l.txt", b"b/2.PNG\na.tif\n"),
        ("l.txt", b"\xef\xbb\xbfb/2.PNG\r\n\r\n a.tif "),
        ("l.csv", b"id,image\n1,b/2.PNG\n2,a.tif\n"),
        ("l.CSV", b'\xef\xbb\xbfimage,id\r\nb/2.PNG,1\r\n"a.tif",2\r\nb/2.PNG,3\r\n'),
    ],
)
def test_lists_keep_their_order(tree, name, content):
    (tree / name).write_bytes(content)
    assert names(list_radiographs(tree / name), tree) == ["b/2.PNG", "a.tif"]


@pytest.mark.parametrize(
    "name, content, error, message",
    [
        (
            "l.txt",
            b"a.tif\ngone.png\n",
            FileNotFoundError,
            "1 of 2 named files do not exist, first in line 2: .*gone.png",
        ),
        ("l.csv", b"file,id\na.tif,1\n", ValueError, "no column 'image'; it has file, id"),
        ("l.txt", "a.tif\n".encode("utf-16"), ValueError, "UTF-16"),
        ("l.txt", b"", FileNotFoundError, "no radiographs in"),
    ],
)
def test_lists_that_are_wrong(tree, name, content, error, message):
    (tree / name).write_bytes(content)
    with pytest.raises(error, match=message):
        list_radiographs(tree / name)


def test_the_size_in_the_header_is_that_of_the_pixels(tmp_path):
    files = [
        path
        for path in sorted((GOLDEN / "assets").iterdir())
        if path.suffix in (".png", ".tif") and "nan" not in path.name
    ]
    sizes = {}
    for path in files:
        try:
            sizes[path.name] = load_radiograph(path, allow_constant=True).shape
        except UnreadableRadiograph:
            continue
        if "constant" not in path.name:
            assert radiograph_size(path) == sizes[path.name], path.name
    assert (
        sizes["exif_rotated.png"] != Image.open((GOLDEN / "assets") / "exif_rotated.png").size[::-1]
        and len(sizes) > 8
    )
    for name, content, reason in (
        ("a.png", b"no picture", "not-an-image"),
        ("b.png", b"", "empty-file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableRadiograph, match=reason):
            radiograph_size(tmp_path / name)
    with pytest.raises(UnreadableRadiograph, match="missing"):
        radiograph_size(tmp_path / "c.png")
