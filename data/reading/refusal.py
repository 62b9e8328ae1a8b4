"""What is no radiograph, and why: the closed set of reasons, and the limits that every decoder obeys."""

import numpy as np

from core.files import printable
from core.text import percent

MAX_PIXELS = 120_000_000  # the largest flat panels have 20 million
LARGE_PIXELS = 25_000_000  # larger than any panel: a scan or a stitched picture, or a bomb
MIN_DENSITY = (
    1 / 50
)  # bytes of the file per pixel of a large picture; only blank ones compress further
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
        super().__init__(
            path, reason, detail
        )  # args as given: pickles, and survives a data-loader worker
        self.path = path
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return ": ".join(part for part in (printable(self.path), self.reason, self.detail) if part)


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
        raise UnreadableRadiograph(
            path, "too-many-pixels", f"{size} in {stored} bytes: blank, or a bomb"
        )
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UnreadableRadiograph(path, "absurd-aspect", size)


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
        common = np.partition(sample, sample.size // 2)[
            sample.size // 2
        ]  # only a median can hold such a majority
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
