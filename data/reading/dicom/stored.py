"""Stored values of a DICOM picture without foreign bits, and where they are padding (PS3.3 C.7.5.1.1.2, PS3.5 8.1.1).

Nothing may be assumed about bits outside BitsStored: they may hold overlay planes, an extended sign or rubbish.

H: height, W: width in pixels.
"""

from typing import NamedTuple

import numpy as np

from data.reading.dicom.elements import Elements
from data.reading.dicom.header import FLOAT_BITS, Header
from data.reading.refusal import check_content

OVERSHOOT = (
    1 / 4
)  # of the range: how far values of a lossy codestream may lie outside it and be clipped


class Stored(NamedTuple):
    """values: [H, W] int64 or float64. bottom, top: the range that the header allows, or that of floats.
    padding: [H, W] bool, True where nothing was exposed; None if that is nowhere."""

    values: np.ndarray
    bottom: int | float
    top: int | float
    padding: np.ndarray | None


def stored_values(elements: Elements, header: Header, decoded: np.ndarray, lossy: bool) -> Stored:
    """Separate the stored values of `decoded` [H, W] from what else is in the words, and find the padding.

    lossy: the pixels were compressed with loss, so that values slightly beyond the range are no foreign bits.
    Raises UnreadableRadiograph if values use more bits than BitsStored, if floats are not finite or for bad elements.
    """
    if header.keyword in FLOAT_BITS:
        return _float_values(elements, header, decoded.astype(np.float64))
    _check_high_bit(elements, header, decoded)
    shifted = decoded >> header.shift if header.shift else decoded
    words = shifted.astype(np.int64)
    values = words
    bits = header.bits
    bottom, top = value_range(bits, header.signed)
    if shifted.min() < bottom or shifted.max() > top:
        values, bits = _without_foreign_bits(elements, header, words, lossy)
        bottom, top = value_range(bits, header.signed)
    padding = _integer_padding(elements, header, words, values, top)
    return Stored(values, bottom, top, padding)


def value_range(bits: int, signed: bool) -> tuple[int, int]:
    """The smallest and the largest integer of `bits` bits."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def low_bits(words: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """The lowest `bits` of integers, in two's complement where `signed`."""
    values = words & ((1 << bits) - 1)
    return values - ((values >> (bits - 1)) << bits) if signed else values


def _check_high_bit(elements: Elements, header: Header, decoded: np.ndarray) -> None:
    """Refuse values in the low bits of words whose HighBit says that they lie higher."""
    if not header.shift:
        return
    words = decoded.astype(np.int64) & ((1 << header.allocated) - 1)
    if (words & ((1 << header.shift) - 1)).any() and not (words >> header.bits).any():
        high = header.shift + header.bits - 1
        raise elements.refusal(
            "HighBit", f"is {high}, but all values lie in the lowest {header.bits} bits"
        )


def _without_foreign_bits(
    elements: Elements, header: Header, words: np.ndarray, lossy: bool
) -> tuple[np.ndarray, int]:
    """(values, bits of each) of `words` that use bits above BitsStored.

    Overlays and rubbish are dropped. The sign of a signed picture is extended where its writer did not; where the bits
    above hold a sign that belongs to the picture, BitsStored is one less than it should be. Bits above that continue
    the picture otherwise contradict BitsStored: without them it would wrap around.
    """
    bits = header.bits
    values = low_bits(words, bits, header.signed)
    above = words >> bits
    if header.signed and above.min() >= -1 and above.max() <= 0:
        return (words, bits + 1) if _is_continued(words, values) else (values, bits)
    if lossy:
        bottom, top = value_range(bits, header.signed)
        margin = OVERSHOOT * (top - bottom)
        contradicting = words.min() < bottom - margin or words.max() > top + margin
        values = np.clip(words, bottom, top)
    else:
        contradicting = _is_continued(words, values)
    if contradicting:
        raise elements.refusal(
            "BitsStored", f"is {bits}, but the pixel values continue in the bits above"
        )
    return values, bits


def _is_continued(words: np.ndarray, values: np.ndarray) -> bool:
    """Whether the bits by which `words` differ from `values` belong to the picture.

    They do if neighbours that differ in them are more alike with them than without, as in a picture of 14 bits that
    says 12. At the borders of an overlay it is the other way round.
    """
    borders = [np.diff(words - values, axis=axis) != 0 for axis in (0, 1)]
    if not any(border.any() for border in borders):
        return False
    with_bits, without = (
        np.concatenate(
            [np.abs(np.diff(pixels, axis=axis)[border]) for axis, border in enumerate(borders)]
        )
        for pixels in (words, values)
    )
    return bool(np.median(with_bits) < np.median(without))


def _float_values(elements: Elements, header: Header, values: np.ndarray) -> Stored:
    """Floating-point pixels; the range is that of the exposed ones, and padding may be NaN."""
    name = header.keyword.replace("Data", "Padding")
    ends = _padding_ends(elements, f"{name}Value", f"{name}RangeLimit", elements.number)
    padding = None
    if ends:
        padding = (values >= min(ends)) & (values <= max(ends))
        if np.isnan(ends).any():
            padding |= np.isnan(values)
        padding = None if padding.all() or not padding.any() else padding
    exposed = values if padding is None else values[~padding]
    check_content(elements.path, exposed, allow_constant=True)  # finite
    bottom = float(exposed.min())
    if padding is not None:
        values[padding] = bottom
    return Stored(values, bottom, float(exposed.max()), padding)


def _integer_padding(
    elements: Elements, header: Header, words: np.ndarray, values: np.ndarray, top: int
) -> np.ndarray | None:
    """[H, W] bool, True from PixelPaddingValue to PixelPaddingRangeLimit; None if that is nowhere or everywhere.

    Both elements have 16 bits, of which files disagree whether they are signed, and may lie outside BitsStored, as the
    words that they mark then do.
    """
    ends = _padding_ends(elements, "PixelPaddingValue", "PixelPaddingRangeLimit", elements.integer)
    if not ends:
        return None
    if header.signed:
        ends = [_sign_extended(end, header.bits, top) for end in ends]
        outside = min(ends) < -top - 1 or max(ends) > top
        candidates = words if outside else values
    elif _is_signed_range(ends, header, top):
        ends = [low_bits(end, 16, True) for end in ends]
        candidates = low_bits(words, header.allocated, True)
    else:
        ends = [low_bits(end, 16, False) for end in ends]
        candidates = words if max(ends) > top else values
    inside = (candidates >= min(ends)) & (candidates <= max(ends))
    return inside if inside.any() and not inside.all() else None


def _padding_ends(elements: Elements, first: str, last: str, read) -> list:
    """The two ends of the padding by the keywords `first` and `last`; empty without padding."""
    start = read(first)
    end = read(last)
    if start is None and end is not None:
        raise elements.refusal(first, f"is missing, but {last} is present")
    return [] if start is None else [start, start if end is None else end]


def _sign_extended(end: int, bits: int, top: int) -> int:
    """An end of the padding of a signed picture, read as unsigned or written without extending its sign."""
    end = int(low_bits(end, 16, True))
    return end - (1 << bits) if top < end < 1 << bits else end


def _is_signed_range(ends: list[int], header: Header, top: int) -> bool:
    """Whether the padding of an unsigned picture runs from a negative value, which the words then hold as a pattern.

    Negative ends may also be large values that were read as signed: the shorter of the two ranges is meant. Ends that
    were read as unsigned, beyond BitsStored and in the wrong order for the polarity (PS3.3 C.7.5.1.1.2), are signed.
    """
    signed = [low_bits(end, 16, True) for end in ends]
    unsigned = [low_bits(end, 16, False) for end in ends]
    if min(ends) < 0:
        return abs(signed[0] - signed[1]) <= abs(unsigned[0] - unsigned[1])
    descending = ends[0] > ends[1]
    wrong_order = descending != (header.photometric == "MONOCHROME1") and ends[0] != ends[1]
    return max(ends) > top and (wrong_order or max(ends) >= 1 << header.allocated)
