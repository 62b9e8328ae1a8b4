"""What the decoders of all formats share: first bytes, frames, colours and silence."""

import logging
import re
import warnings

import numpy as np

from data.reading.refusal import UnreadableRadiograph

# how a TIFF begins; in the last two, the version is swapped
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0")


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
    red = pixels[..., 0]
    green = pixels[..., 1]
    blue = pixels[..., 2]
    grey = red * np.uint32(
        19595
    )  # 0.299, 0.587, 0.114 in 1/65536: Pillow's "L" at 8 bits, no overflow at 16
    grey += green * np.uint32(38470)
    grey += blue * np.uint32(7471)
    grey += np.uint32(32768)
    grey >>= np.uint32(16)
    return grey.astype(pixels.dtype)


def choose_frame(
    path, frame: int | None, frames: int, main: int | None = None, source: str = ""
) -> int:
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
        raise UnreadableRadiograph(
            path, "no-such-frame", f"frame {frame} of {frames}{source}, counted from 0"
        )
    return frame or 0


def _is_coloured(pixels: np.ndarray) -> bool:
    red = pixels[..., 0]
    green = pixels[..., 1]
    blue = pixels[..., 2]
    return not (np.array_equal(red, green) and np.array_equal(red, blue))
