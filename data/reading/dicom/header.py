"""What the header of a DICOM image declares (PS3.3 C.7.6.3), checked before a decoder sees it, and a codestream's own.

H: height, W: width in pixels.
"""

import math
from typing import NamedTuple

from pydicom.encaps import get_frame
from pydicom.uid import UID, RLELossless

from data.reading.decoding import choose_frame
from data.reading.dicom.elements import Elements
from data.reading.refusal import check_size

PIXEL_KEYS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
FLOAT_BITS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
REQUIRED = ("Rows", "Columns", "PhotometricInterpretation", "SamplesPerPixel", "BitsAllocated")
REQUIRED_OF_INTEGERS = ("BitsStored", "PixelRepresentation")
SIZE_NAMES = " (Columns x Rows)"  # which elements give the size in a message


class Header(NamedTuple):
    """The declared form of the pixels. keyword: of the element that holds them. frame: index from 0 of the chosen one.

    A stored value has `bits` bits, in two's complement where `signed`, and lies `shift` bits above the lowest of the
    `allocated` bits of its word. Floating-point pixels have bits = allocated and are signed.
    """

    keyword: str
    height: int
    width: int
    frame: int
    frames: int
    photometric: str
    samples: int
    planar: int | None
    allocated: int
    bits: int
    shift: int
    signed: bool


class Codestream(NamedTuple):
    """What a compressed frame declares itself; bits: of each of its `samples`."""

    height: int
    width: int
    bits: int
    samples: int


def read_header(elements: Elements, frame: int | None) -> Header:
    """Check the elements that describe the pixels; frame: the index that the user chose, None where none was.

    Raises UnreadableRadiograph, which names the element that is missing, malformed or contradicts another one.
    """
    keyword = _pixel_keyword(elements)
    required = REQUIRED if keyword in FLOAT_BITS else REQUIRED + REQUIRED_OF_INTEGERS
    if absent := [key for key in required if elements.value(key) is None]:
        raise elements.refusal(
            ", ".join(absent), "is missing" if len(absent) == 1 else "are missing"
        )
    height = elements.integer("Rows", allowed=range(1, 1 << 16))
    width = elements.integer("Columns", allowed=range(1, 1 << 16))
    frames = (
        elements.integer("NumberOfFrames", default=1) or 1
    )  # some old files say 0 where there is one
    if frames < 0:
        raise elements.refusal("NumberOfFrames", f"is {frames}")
    check_size(elements.path, height, width, len(elements.content(keyword)) // frames, SIZE_NAMES)
    index = choose_frame(elements.path, frame, frames, source=" (NumberOfFrames)")
    photometric, samples = _colour_model(elements)
    planar = elements.integer("PlanarConfiguration", allowed=(0, 1))
    if samples == 3 and planar is None:
        raise elements.refusal("PlanarConfiguration", "is missing")
    allocated, bits, shift, signed = _bits(elements, keyword)
    if samples == 3 and (signed or shift):
        contradicting = "PixelRepresentation" if signed else "HighBit and BitsStored"
        raise elements.refusal(contradicting, f"contradict PhotometricInterpretation {photometric}")
    return Header(
        keyword,
        height,
        width,
        index,
        frames,
        photometric,
        samples,
        planar,
        allocated,
        bits,
        shift,
        signed,
    )


def _pixel_keyword(elements: Elements) -> str:
    """The element that holds the pixels."""
    keywords = [key for key in PIXEL_KEYS if key in elements]
    if len(keywords) > 1:
        raise elements.refusal(
            " and ".join(keywords), "contradict each other: only one may be present"
        )
    if not elements.content(keywords[0]):
        raise elements.refusal(keywords[0], "is empty", "truncated")
    return keywords[0]


def _colour_model(elements: Elements) -> tuple[str, int]:
    """PhotometricInterpretation and SamplesPerPixel, which must agree."""
    photometric = elements.text("PhotometricInterpretation")
    known = (*GREY, "PALETTE COLOR", *COLOUR)
    if photometric not in known:
        problem = f"is none of {', '.join(known)}"
        raise elements.refusal("PhotometricInterpretation", problem, "unsupported-colour")
    samples = elements.integer("SamplesPerPixel")
    if samples != (3 if photometric in COLOUR else 1):
        problem = f"is {samples}, which contradicts PhotometricInterpretation {photometric}"
        raise elements.refusal("SamplesPerPixel", problem)
    return photometric, samples


def _bits(elements: Elements, keyword: str) -> tuple[int, int, int, bool]:
    """BitsAllocated, BitsStored, how far a value is shifted (from HighBit), and whether it is signed."""
    if keyword in FLOAT_BITS:
        allocated = elements.integer("BitsAllocated", allowed=(FLOAT_BITS[keyword],))
        return allocated, allocated, 0, True
    allocated = elements.integer("BitsAllocated", allowed=(1, 8, 16, 32))
    bits = elements.integer("BitsStored", allowed=range(1, 33))
    if bits > allocated:
        raise elements.refusal(
            "BitsStored", f"is {bits}, more than BitsAllocated, which is {allocated}"
        )
    high = elements.integer("HighBit", default=bits - 1)
    if not bits - 1 <= high < allocated:
        problem = f"is {high}, which contradicts BitsStored {bits} and BitsAllocated {allocated}"
        raise elements.refusal("HighBit", problem)
    signed = elements.integer("PixelRepresentation", allowed=(0, 1)) == 1
    return allocated, bits, high - (bits - 1), signed


def check_pixel_data(elements: Elements, header: Header, syntax: UID) -> Header:
    """Compare the amount of pixel data, or what a compressed frame declares itself, with the header.

    Returns the header of what the decoder returns: a codestream of exactly the stored bits does not know `shift`.
    """
    raw = elements.content(header.keyword)
    if not syntax.is_encapsulated:
        _check_length(elements, header, len(raw))
        return header
    codestream = codestream_of(elements, header, syntax)
    if codestream is None:
        return header
    return _compare(elements, header, codestream)


def codestream_of(elements: Elements, header: Header, syntax: UID) -> Codestream | None:
    """What the compressed frame of the header says of itself; None where it is not compressed, or says nothing.

    Raises UnreadableRadiograph if there is no such frame.
    """
    if not syntax.is_encapsulated:
        return None
    offsets = _extended_offsets(elements, header)
    raw = elements.content(header.keyword)
    try:
        frame = get_frame(
            raw, header.frame, number_of_frames=header.frames, extended_offsets=offsets
        )
    except Exception:  # not in fragments, or fewer than declared
        problem = f"does not hold {header.frames} compressed frames, as TransferSyntaxUID and NumberOfFrames say"
        raise elements.refusal(header.keyword, problem, "damaged") from None
    return None if syntax == RLELossless else read_codestream(frame)


def _check_length(elements: Elements, header: Header, length: int) -> None:
    """Compare the `length` of uncompressed pixel data in bytes with the header."""
    samples = header.height * header.width * header.samples * header.frames
    expected = math.ceil(samples * header.allocated / 8)
    if header.photometric == "YBR_FULL_422":
        expected = expected // 3 * 2
    declared = "Rows, Columns, SamplesPerPixel, NumberOfFrames and BitsAllocated"
    if length < expected:
        problem = f"holds {length} of the {expected} bytes that {declared} declare"
        raise elements.refusal(header.keyword, problem, "truncated")
    if length >= 2 * expected:  # as if BitsAllocated were 8 of 16, or one of several frames
        problem = f"holds {length} bytes where {declared} declare {expected}"
        raise elements.refusal(header.keyword, problem)


def _extended_offsets(elements: Elements, header: Header) -> tuple[bytes, bytes] | None:
    """The table of the positions and lengths of the compressed frames, where there is one."""
    offsets, lengths = (
        elements.content(key) for key in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
    )
    if not offsets and not lengths:
        return None
    for keyword, table in (
        ("ExtendedOffsetTable", offsets),
        ("ExtendedOffsetTableLengths", lengths),
    ):
        if len(table) != 8 * header.frames:
            raise elements.refusal(
                keyword, f"holds {len(table)} bytes, not 8 for each of {header.frames} frames"
            )
    return offsets, lengths


def _compare(elements: Elements, header: Header, codestream: Codestream) -> Header:
    """Compare the header with the codestream; returns the header of what a decoder makes of it."""
    if (codestream.height, codestream.width) != (header.height, header.width):
        sizes = f"are {header.height} and {header.width}, the compressed picture is "
        raise elements.refusal(
            "Rows and Columns", sizes + f"{codestream.height} rows of {codestream.width} pixels"
        )
    if codestream.samples != header.samples:
        problem = f"is {header.samples}, the compressed picture has {codestream.samples}"
        raise elements.refusal("SamplesPerPixel", problem)
    if codestream.bits > header.allocated:
        problem = f"is {header.allocated}, the compressed picture has {codestream.bits} bits"
        raise elements.refusal("BitsAllocated", problem)
    if codestream.bits <= header.bits:
        return header._replace(shift=0)
    if header.shift + header.bits > codestream.bits:
        problem = f"is {header.shift + header.bits - 1}, the compressed picture has {codestream.bits} bits"
        raise elements.refusal("HighBit", problem)
    return header


def read_codestream(frame: bytes) -> Codestream | None:
    """What a JPEG, JPEG-LS or JPEG 2000 codestream declares in its own header; None for anything else."""
    if (
        frame[:4] == b"\xff\x4f\xff\x51" and len(frame) >= 43
    ):  # SOC, SIZ: Xsiz, Ysiz, XOsiz, YOsiz; Csiz, Ssiz
        right, bottom, left, top = (
            int.from_bytes(frame[at : at + 4], "big") for at in (8, 12, 16, 20)
        )
        return Codestream(
            bottom - top, right - left, (frame[42] & 0x7F) + 1, int.from_bytes(frame[40:42], "big")
        )
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 10 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height, width = (
                int.from_bytes(frame[start : start + 2], "big") for start in (at + 5, at + 7)
            )
            return Codestream(height, width, frame[at + 4], frame[at + 9])
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
