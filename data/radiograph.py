"""The one reader of radiographs: a file of any common kind -> its pixels at native depth, bone bright and upright.

Content decides, not the extension. A file that cannot be read *as a radiograph* raises `UnreadableRadiograph` with one
reason out of the closed set `REASONS`; nothing is replaced, repaired or silently cut down to 8 bits. Sizes are judged
from the header, before a decoder is trusted with them. `data/picture.py`, `data/tiff.py` and `data/dicom.py` decode.

H: height, W: width in pixels.
"""

import errno
import logging
import os
import re
import stat
import warnings

import numpy as np

from data.listing import EXTENSIONS, list_radiographs, passed_over_message
from training.files import printable
from training.os_errors import is_exhausted, meaning_of
from training.text import percent

__all__ = [
    "EXTENSIONS",
    "REASONS",
    "UnreadableRadiograph",
    "is_jpeg",
    "list_radiographs",
    "load_mask",
    "load_radiograph",
    "passed_over_message",
    "printable",
    "radiograph_size",
]

# how a TIFF begins; in the last two, the version is swapped
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0")
MAX_PIXELS = 120_000_000  # the largest flat panels have 20 million
LARGE_PIXELS = 25_000_000  # larger than any panel: a scan or a stitched picture, or a bomb
MIN_DENSITY = 1 / 50  # bytes of the file per pixel of a large picture; only blank ones compress further
MIN_SIDE = 16  # pixels
MAX_ASPECT = 20
CONSTANT_SHARE = 0.999  # of the pixels with one value: nothing was exposed
FLAT_TAIL_SHARE = 0.25  # of the rows
FLAT_TAIL_VALUES = range(126, 131)  # what a JPEG decoder fills in for missing data

REASONS = {
    "missing": "there is no such file",
    "not-a-file": "a folder, a pipe or a device",
    "no-permission": "the operating system does not allow reading it",
    "io-error": "the operating system failed while reading it",
    "empty-file": "0 bytes",
    "not-an-image": "the content is no PNG, JPEG, TIFF, BMP or DICOM that can be recognised",
    "truncated": "the file ends before the picture does",
    "damaged": "the decoder refuses the content",
    "out-of-memory": "decoding needs more memory than there is",
    "too-small": f"a side shorter than {MIN_SIDE} pixels",
    "absurd-aspect": f"one side more than {MAX_ASPECT} times the other",
    "too-many-pixels": f"more than {MAX_PIXELS / 1e6:.0f} million pixels, or very many in very few bytes",
    "several-frames": "several frames or pages, and the file does not say which one is the radiograph",
    "no-such-frame": "the chosen frame does not exist",
    "unsupported-colour": "a colour model that radiographs do not use (CMYK, LAB, ...)",
    "unsupported-tiff": "a TIFF whose sample type, compression or layout is not supported",
    "constant": "(nearly) every pixel has the same value",
    "flat-tail": "the last rows are the uniform grey that decoders fill in for missing data",
    "non-finite": "NaN or infinite pixels",
    "no-pixels": "DICOM without a picture (report, plan, directory)",
    "unknown-syntax": "compressed in a way that the installed decoders do not know",
    "bad-window": "DICOM window or look-up table without meaning",
    "bad-metadata": "the header lacks something, or contradicts itself or the picture",
}


class UnreadableRadiograph(ValueError):
    """A file that is no usable radiograph: `path`, `reason` (a key of `REASONS`), `detail` (one sentence, no tags)."""

    def __init__(self, path, reason: str = "", detail: str = ""):
        super().__init__(path, reason, detail)  # args as given: pickles, and survives a data-loader worker
        self.path, self.reason, self.detail = path, reason, detail

    def __str__(self) -> str:
        return ": ".join(part for part in (printable(self.path), self.reason, self.detail) if part)


def load_radiograph(
    path, *, colour: bool = False, frame: int | None = None, allow_constant: bool = False, voi: bool = True
) -> np.ndarray:
    """Read one radiograph.

    Returns [H, W] uint8, uint16 or float32 at native depth, bone bright (MONOCHROME1 and white-is-zero are inverted),
    upright by EXIF; with `colour` a colour picture stays [H, W, 3]. A colour picture with equal channels becomes one
    channel exactly, any other by Rec. 601 luminance. Palettes are expanded, transparency is laid on black, 1-bit
    pictures become 0 and 255.
    frame: index of the page of a multi-page file, from 0. allow_constant: accept a picture without content.
    voi: apply the window or VOI look-up table of a DICOM, the presentation its maker intended.
    Raises UnreadableRadiograph, and nothing else, for whatever is wrong with the file.
    """
    pixels = _decode(path, frame, voi)
    if pixels.ndim == 3 and not (colour and _is_coloured(pixels)):
        pixels = luminance(pixels)
    check_content(path, pixels, allow_constant)
    return np.require(pixels, requirements=["C", "W"])


def load_mask(path) -> np.ndarray:
    """Read a picture that marks findings, exactly as `load_radiograph` reads a radiograph, whatever it shows.

    Returns [H, W] uint8, uint16 or float32, or [H, W, 3] uint8 or uint16: upright, palettes expanded, transparency on
    black. Raises UnreadableRadiograph.
    """
    return _decode(path, None, True)


def is_jpeg(path) -> bool:
    """Whether JPEG (or WebP in a TIFF) has changed the values of a picture. Raises UnreadableRadiograph."""
    with _open(path) as stream:
        head = _read_head(path, stream)
        if head.startswith(TIFF_SIGNATURES) and not looks_like_dicom(head):
            from data.tiff import is_lossy

            return is_lossy(path, stream)
        return head.startswith(b"\xff\xd8\xff")


def radiograph_size(path) -> tuple[int, int]:
    """(H, W) of what `load_radiograph` gives, from the header alone where that says it. Raises UnreadableRadiograph."""
    with _open(path) as stream:
        head = _read_head(path, stream)
        if not looks_like_dicom(head):
            if head.startswith(TIFF_SIGNATURES):
                from data.tiff import header_size
            else:
                from data.picture import header_size

            return header_size(path, stream)
    return _decode(path, None, True).shape[:2]


def _decode(path, frame: int | None, voi: bool) -> np.ndarray:
    """[H, W] or [H, W, 3] by the module that knows the kind of the file, which its first bytes say."""
    with _open(path) as stream:
        head = _read_head(path, stream)
        if looks_like_dicom(head):
            from data.dicom import read_dicom

            return read_dicom(path, stream, frame=frame, voi=voi)
        if head.startswith(TIFF_SIGNATURES):
            from data.tiff import read_tiff

            return read_tiff(path, stream, frame=frame)
        from data.picture import read_picture

        return read_picture(path, stream, frame=frame)


def _read_head(path, stream) -> bytes:
    try:
        head = stream.read(132)
        stream.seek(0)
    except OSError as error:
        raise UnreadableRadiograph(path, "io-error", meaning_of(error)) from error
    return head


def silence(logs: tuple[str, ...], modules: re.Pattern) -> None:
    """Keep a decoder from repeating what is written in a file: its `logs` below CRITICAL, all warnings of `modules`.

    The filter stays: `warnings.catch_warnings` would undo what other threads that read at the same time have set.
    """
    for log in map(logging.getLogger, logs):
        if log.level < logging.CRITICAL:
            log.setLevel(logging.CRITICAL)
    if not any(module == modules for _, _, _, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", module=modules.pattern)


def looks_like_dicom(head: bytes) -> bool:
    """Whether the first 132 bytes of a file are DICOM: the preamble or, in older files, group 0002 or 0008."""
    return head[128:132] == b"DICM" or head[:2] in (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08")


def luminance(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 or uint16 -> [H, W] of the same type: the common channel, or Rec. 601 where they differ."""
    if not _is_coloured(pixels):
        return np.ascontiguousarray(pixels[..., 0])
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    grey = red * np.uint32(19595)  # 0.299, 0.587, 0.114 in 1/65536: Pillow's "L" at 8 bits, no overflow at 16
    grey += green * np.uint32(38470)
    grey += blue * np.uint32(7471)
    grey += np.uint32(32768)
    grey >>= np.uint32(16)
    return grey.astype(pixels.dtype)


def check_size(path, height: int, width: int, stored: int, source: str = "") -> None:
    """Refuse sizes that no radiograph has, from the header and the number of bytes that hold the pixels.

    source: where the header says the size, appended to it in the message.
    """
    size = f"{width} x {height} pixels{source}"
    if min(height, width) < MIN_SIDE:
        raise UnreadableRadiograph(path, "too-small", size)
    if height * width > MAX_PIXELS:
        raise UnreadableRadiograph(path, "too-many-pixels", size)
    if height * width > LARGE_PIXELS and stored < MIN_DENSITY * height * width:
        raise UnreadableRadiograph(path, "too-many-pixels", f"{size} in {stored} bytes: blank, or a bomb")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UnreadableRadiograph(path, "absurd-aspect", size)


def choose_frame(path, frame: int | None, frames: int, main: int | None = None, source: str = "") -> int:
    """The index of the frame to read: the chosen one, else the one that the file declares to be its `main` picture.

    source: what gives the number of frames, for the message.
    """
    if frame is None and main is not None:
        return main
    if frame is None and frames > 1:
        advice = "save the radiograph as a file of its own"
        detail = f"{frames} frames{source}, and none is marked as the main picture; {advice}"
        raise UnreadableRadiograph(path, "several-frames", detail)
    if frames < 1 or (frame is not None and not 0 <= frame < frames):
        raise UnreadableRadiograph(path, "no-such-frame", f"frame {frame} of {frames}{source}, counted from 0")
    return frame or 0


def check_content(path, pixels: np.ndarray, allow_constant: bool = False) -> None:
    """Refuse pixels that decoded well and are no radiograph: non-finite, without content, or filled up by a decoder.

    A picture of two values is accepted (1-bit scans exist). One value in 99.9 % of the pixels is not: that is a blank
    exposure with a few dead pixels. The grey tail is judged at 8 bits only; black or white collimation is never
    mid-grey.
    """
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        count = np.count_nonzero(~np.isfinite(pixels))
        raise UnreadableRadiograph(path, "non-finite", f"{count} pixels are NaN or infinite")
    if not allow_constant:
        sample = pixels.ravel()[::256]  # others than the constant are at most a quarter of these
        common = np.partition(sample, sample.size // 2)[sample.size // 2]  # only a median can hold such a majority
        share = np.count_nonzero(pixels == common) / pixels.size
        if share > CONSTANT_SHARE:
            raise UnreadableRadiograph(
                path, "constant", f"{percent(share, '.2f')} of the pixels have the value {common}"
            )
    if pixels.dtype == np.uint8:
        rows = _flat_tail(pixels)
        if FLAT_TAIL_SHARE * len(pixels) <= rows < len(pixels):
            raise UnreadableRadiograph(
                path,
                "flat-tail",
                f"the last {rows} of {len(pixels)} rows are one uniform "
                "grey, probably missing data; restore the original file",
            )


def _flat_tail(pixels: np.ndarray) -> int:
    """The number of rows at the bottom that hold nothing but one and the same mid-grey."""
    value = pixels[-1].flat[0]
    if value not in FLAT_TAIL_VALUES or (pixels[-1] != value).any():
        return 0
    uneven = np.flatnonzero((pixels != value).reshape(len(pixels), -1).any(axis=1))
    return len(pixels) - 1 - int(uneven[-1]) if uneven.size else len(pixels)


def _is_coloured(pixels: np.ndarray) -> bool:
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return not (np.array_equal(red, green) and np.array_equal(red, blue))


def _open(path):
    """Open a regular file that is not empty, or say why that is impossible.

    OSError if this process has no descriptor or no memory left: that is not the file's fault, and no file may be left
    out for it.
    """
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode) and status.st_size > 0:
            return open(path, "rb")
    except PermissionError as error:
        raise UnreadableRadiograph(path, "no-permission", "permission denied") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UnreadableRadiograph(path, "missing", "no such file") from error
    except ValueError as error:  # a NUL in the name
        raise UnreadableRadiograph(path, "missing", str(error)) from error
    except OSError as error:
        if is_exhausted(error):
            raise
        reason = "missing" if error.errno in (errno.ELOOP, errno.ENAMETOOLONG) else "io-error"
        raise UnreadableRadiograph(path, reason, meaning_of(error)) from error
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise UnreadableRadiograph(path, "not-a-file", kind)
    raise UnreadableRadiograph(path, "empty-file", "0 bytes")
