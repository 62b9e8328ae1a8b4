"""PNG, JPEG and BMP through Pillow, but at native depth: 16-bit colour, too. `data/reading/tiff/image.py` reads TIFF.

Pillow is asked for no other format, the header is judged before anything is decoded, and a file that is cut short or
damaged is refused, never completed. H: height, W: width in pixels.
"""

import contextlib
import errno
import os
import re
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from core.files import printable, reason_of
from core.system.os_errors import meaning_of
from data.reading.decoding import choose_frame, silence
from data.reading.refusal import UnreadableRadiograph, check_size

PICTURES = ("PNG", "JPEG", "BMP")  # what Pillow decodes here
FORMATS = (
    *PICTURES,
    "TIFF",
)  # every further Pillow plugin is attack surface and no radiograph needs it
QUIET = re.compile(r"PIL")  # modules whose warnings may quote a file


def read_picture(path, stream, *, frame: int | None = None) -> np.ndarray:
    """Read an open PNG, JPEG or BMP.

    Returns [H, W] uint8 or uint16, or [H, W, 3] uint8 or uint16; upright, transparency on black. frame: index from 0,
    needed where there are several and the file does not say which one is the main picture.
    Raises UnreadableRadiograph: every complaint of a decoder becomes a reason.
    """
    with refusals(path):
        picture = _open_frame(path, stream, frame)
        if picture.format == "PNG":
            _check_png(path, stream)
            if ";16" in layout_of(picture) and picture.mode in ("RGB", "RGBA"):
                invisible = picture.info.get("transparency")
                return _without(invisible, _deep_colour(path, stream, frame, layout_of(picture)))
        return decode_picture(path, picture)


def header_size(path, stream) -> tuple[int, int]:
    """(H, W) of an open picture when it is upright, from its header.

    Raises UnreadableRadiograph for a header that is refused; what is wrong with the pixels is not seen.
    """
    with refusals(path):
        picture = _open_frame(path, stream, None)
        sideways = picture.getexif().get(0x0112) in (5, 6, 7, 8)  # the EXIF orientation
        return (picture.width, picture.height) if sideways else (picture.height, picture.width)


@contextlib.contextmanager
def refusals(path):
    """Turn every complaint of a decoder into an UnreadableRadiograph with its reason."""
    try:
        yield
    except UnreadableRadiograph:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableRadiograph(
            path, "not-an-image", "no PNG, JPEG, TIFF, BMP or DICOM"
        ) from error
    except MemoryError as error:
        raise UnreadableRadiograph(
            path, "out-of-memory", "the decoder ran out of memory"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableRadiograph(
            path, "too-many-pixels", "more pixels than Pillow decodes"
        ) from error
    except Exception as error:  # decoders raise a dozen types for damaged files; all are refusals
        # an invalid argument is an offset in the file that no file can have
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise UnreadableRadiograph(path, "io-error", meaning_of(error)) from error
        message = str(error).lower()
        signs = ("truncated", "not enough", "buffer is not")
        cut = isinstance(error, EOFError) or any(sign in message for sign in signs)
        reason = "truncated" if cut else "damaged"
        raise UnreadableRadiograph(path, reason, printable(reason_of(error))) from error


def decode_picture(path, picture: Image.Image) -> np.ndarray:
    """[H, W] or [H, W, 3] of a picture that is open, upright and on black, by its colour mode in Pillow."""
    layout = layout_of(picture)
    invisible = picture.info.get("transparency")
    picture = _decode(path, picture)
    mode = picture.mode
    if mode in ("P", "PA"):
        picture = picture.convert("RGB" if mode == "P" and invisible is None else "RGBA")
        return lay_on_black(to_array(picture))
    pixels = to_array(picture)
    if mode == "1":
        pixels = pixels * np.uint8(255)
    if mode in ("LA", "RGBA"):
        return lay_on_black(pixels)
    if mode.startswith("I;16"):
        pixels = pixels.astype(np.uint16, copy=False)
    elif mode not in ("1", "L", "RGB"):
        raise UnreadableRadiograph(path, "unsupported-colour", f"colour mode {mode}")
    if (
        layout in ("L;2", "L;4") and invisible is not None
    ):  # Pillow stretches the pixels to 8 bits, but not this value
        invisible *= 85 if layout == "L;2" else 17
    return _without(invisible, pixels)


def open_picture(source, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Read the header only."""
    silence(("PIL", "PIL.TiffImagePlugin"), QUIET)  # the latter reads the EXIF of all formats
    return Image.open(source, formats=formats)


def _open_frame(path, stream, frame: int | None) -> Image.Image:
    """Read the header only, and refuse what it declares before anything is decoded."""
    stored = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    picture = open_picture(stream, PICTURES)
    check_size(path, picture.height, picture.width, stored)
    index = choose_frame(path, frame, getattr(picture, "n_frames", 1), _main_frame(picture))
    if index:
        picture.seek(index)
        check_size(path, picture.height, picture.width, stored)
    return picture


def _main_frame(picture: Image.Image) -> int | None:
    """The index of the main picture in a JPEG of several (CIPA DC-007, "MPO"), None if it names none or more than one.

    Phones add gain maps, depth maps and previews to the main picture. The pictures of a panorama or a stereo pair are
    equals, unless one of them is declared to represent them.
    """
    if picture.format != "MPO":
        return None
    attributes = [entry["Attribute"] for entry in picture.mpinfo[0xB002]]
    primary = [
        i
        for i, attribute in enumerate(attributes)
        if attribute["MPType"] == "Baseline MP Primary Image"
    ]
    representative = [
        i for i, attribute in enumerate(attributes) if attribute["RepresentativeImageFlag"]
    ]
    for candidates in (primary, representative):
        if len(candidates) == 1:
            return candidates[0]
    return None


def _check_png(path, stream) -> None:
    """Compare the checksum of every critical chunk: Pillow stops at the last row and never sees the last one."""
    start = stream.tell()
    stream.seek(8)
    name = b""
    while name != b"IEND":
        head = stream.read(8)
        length = int.from_bytes(head[:4], "big")
        name = head[4:]
        if len(head) < 8:
            raise UnreadableRadiograph(path, "truncated", "the PNG has no end")
        if name[:1].islower():  # text, times, profiles
            stream.seek(length + 4, os.SEEK_CUR)
            continue
        checksum = zlib.crc32(name)
        while length > 0 and (piece := stream.read(min(length, 1 << 20))):
            checksum = zlib.crc32(piece, checksum)
            length = length - len(piece)
        if length > 0:
            raise UnreadableRadiograph(path, "truncated", "the PNG ends within its pixels")
        if stream.read(4) != checksum.to_bytes(4, "big"):
            raise UnreadableRadiograph(path, "damaged", "a checksum of the PNG is wrong")
    stream.seek(start)


def _decode(path, picture: Image.Image) -> Image.Image:
    """Decode completely and turn upright."""
    picture.load()
    try:
        ImageOps.exif_transpose(picture, in_place=True)
    except Exception as error:  # without the orientation nobody knows which way is up
        detail = f"an EXIF block that cannot be read ({printable(reason_of(error))})"
        raise UnreadableRadiograph(path, "bad-metadata", detail) from error
    return picture


def to_array(picture: Image.Image) -> np.ndarray:
    """`np.array(picture)` in strips that stay in the processor's cache: five times as fast for a radiograph."""
    width, height = picture.size
    strip = max(1, 2**18 // width)  # rows
    first = np.asarray(picture.crop((0, 0, width, min(strip, height))))
    pixels = np.empty((height, *first.shape[1:]), first.dtype)
    pixels[:strip] = first
    for top in range(strip, height, strip):
        pixels[top : top + strip] = np.asarray(
            picture.crop((0, top, width, min(top + strip, height)))
        )
    return pixels


def layout_of(picture: Image.Image) -> str:
    """How the samples lie in the file, for example "RGB;16B": Pillow's raw mode."""
    arguments = picture.tile[0].args if picture.tile else ""
    layout = arguments if isinstance(arguments, str) else arguments[0] if arguments else ""
    return layout if isinstance(layout, str) else ""


def _deep_colour(path, stream, frame: int | None, layout: str) -> np.ndarray:
    """A PNG of 16 bits per channel. Pillow keeps the high byte, so it is decoded again as little-endian for the low."""
    channels = layout.split(";")[0]
    layouts = {
        "RGB": ("RGB;16B", "RGB;16L"),
        "RGBA": ("RGBA;16B", "RGBA;16L"),
        "LA": ("RGBA",),
    }.get(channels)
    if layouts is None:
        raise UnreadableRadiograph(
            path, "unsupported-colour", f"16 bits per channel in the layout {channels}"
        )
    halves = []
    for half in layouts:
        picture = _open_frame(path, stream, frame)
        picture.tile = [tile._replace(args=half) for tile in picture.tile]
        halves.append(to_array(_decode(path, picture)))
    if channels == "LA":  # four bytes a pixel: grey high, grey low, alpha high, alpha low
        halves = [halves[0][..., 0::2], halves[0][..., 1::2]]
    pixels = halves[0].astype(np.uint16) << 8 | halves[1]
    return pixels if channels == "RGB" else lay_on_black(pixels)


def _without(invisible, pixels: np.ndarray) -> np.ndarray:
    """The one colour that a PNG can declare to be transparent becomes black."""
    if not isinstance(invisible, int | tuple):
        return pixels
    match = pixels == np.asarray(invisible)
    return np.where(
        match.all(-1, keepdims=True) if pixels.ndim == 3 else match, pixels.dtype.type(0), pixels
    )


def lay_on_black(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 2 or 4] with alpha last -> [H, W] or [H, W, 3] laid on black; opaque and [H, W, 3] stay as they are."""
    if pixels.shape[-1] == 3:
        return pixels
    opaque = np.iinfo(pixels.dtype).max
    colour = pixels[..., :-1]
    alpha = pixels[..., -1:]
    if not (alpha == opaque).all():
        colour = ((colour.astype(np.uint32) * alpha + opaque // 2) // opaque).astype(pixels.dtype)
    return colour[..., 0] if colour.shape[-1] == 1 else colour
