"""The one reader of radiographs: a file of any common kind -> its pixels at native depth, bone bright and upright.

Content decides, not the extension. A file that cannot be read *as a radiograph* raises `UnreadableRadiograph` with one
reason out of the closed set `REASONS`; nothing is replaced, repaired or silently cut down to 8 bits. Sizes are judged
from the header, before a decoder is trusted with them. `data/reading/picture.py`, `data/reading/tiff/image.py` and
`data/reading/dicom/image.py` decode.

H: height, W: width in pixels.
"""

import errno
import os
import stat

import numpy as np

from core.files import printable
from core.system.os_errors import is_exhausted, meaning_of
from data.reading import picture
from data.reading.decoding import TIFF_SIGNATURES, _is_coloured, looks_like_dicom, luminance
from data.reading.dicom.image import read_dicom
from data.reading.listing import EXTENSIONS, list_radiographs, passed_over_message
from data.reading.refusal import REASONS, UnreadableRadiograph, check_content
from data.reading.tiff import image as tiff

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


def load_radiograph(
    path,
    *,
    colour: bool = False,
    frame: int | None = None,
    allow_constant: bool = False,
    voi: bool = True,
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
            return tiff.is_lossy(path, stream)
        return head.startswith(b"\xff\xd8\xff")


def radiograph_size(path) -> tuple[int, int]:
    """(H, W) of what `load_radiograph` gives, from the header alone where that says it. Raises UnreadableRadiograph."""
    with _open(path) as stream:
        head = _read_head(path, stream)
        if not looks_like_dicom(head):
            reader = tiff if head.startswith(TIFF_SIGNATURES) else picture
            return reader.header_size(path, stream)
    return _decode(path, None, True).shape[:2]


def _decode(path, frame: int | None, voi: bool) -> np.ndarray:
    """[H, W] or [H, W, 3] by the module that knows the kind of the file, which its first bytes say."""
    with _open(path) as stream:
        head = _read_head(path, stream)
        if looks_like_dicom(head):
            return read_dicom(path, stream, frame=frame, voi=voi)
        if head.startswith(TIFF_SIGNATURES):
            return tiff.read_tiff(path, stream, frame=frame)

        return picture.read_picture(path, stream, frame=frame)


def _read_head(path, stream) -> bytes:
    try:
        head = stream.read(132)
        stream.seek(0)
    except OSError as error:
        raise UnreadableRadiograph(path, "io-error", meaning_of(error)) from error
    return head


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
