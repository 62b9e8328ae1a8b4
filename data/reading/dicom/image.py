"""DICOM radiographs: stored values -> modality LUT -> VOI LUT or window -> bone bright (PS3.3 C.7.6.3, C.11.1, C.11.2).

Only the elements that the picture needs are parsed, none about patient, study or device, and no message repeats a value
that could identify a person. Sizes are compared with the pixel data before a decoder sees them.

H: height, W: width in pixels.
"""

import re
import zlib
from collections import Counter

import numpy as np
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_partial
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from core.files import printable, reason_of
from data.reading.decoding import silence
from data.reading.dicom.elements import Elements
from data.reading.dicom.header import (
    PIXEL_KEYS,
    Header,
    check_pixel_data,
    codestream_of,
    read_header,
)
from data.reading.dicom.stored import low_bits, stored_values, value_range
from data.reading.dicom.tables import apply_palette
from data.reading.dicom.values import display_values
from data.reading.refusal import UnreadableRadiograph

QUIET = re.compile(
    r"(pydicom|openjpeg|libjpeg|data\.dicom)"
)  # modules whose warnings may quote a file
MOST_WORDS = 400  # characters of what decoders say
MAX_DATA_SET_BYTES = 1 << 30  # after inflating a deflated data set
# and beyond so many bytes, at most so many for each compressed one
FREE_BYTES = 1 << 24
MAX_INFLATION = 100
LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)
KEYWORDS = [
    *"""
    SOPClassUID Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation PlanarConfiguration
    BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit
    FloatPixelPaddingValue FloatPixelPaddingRangeLimit DoubleFloatPixelPaddingValue DoubleFloatPixelPaddingRangeLimit
    ModalityLUTSequence RescaleSlope RescaleIntercept VOILUTSequence VOILUTFunction WindowCenter WindowWidth
    PixelValueTransformationSequence FrameVOILUTSequence SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
    RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor
    RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData
    SegmentedRedPaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData
    SegmentedBluePaletteColorLookupTableData ExtendedOffsetTable ExtendedOffsetTableLengths
    """.split(),
    *PIXEL_KEYS,
]
ELEMENTS = {tag_for_keyword(keyword): keyword for keyword in KEYWORDS}


def read_dicom(path, stream, *, frame: int | None = None, voi: bool = True) -> np.ndarray:
    """Read the picture of an open DICOM file.

    Returns [H, W] uint8, uint16 or float32, bone bright; colour pictures [H, W, 3]. Integers stay integers unless a
    rescale, a sigmoid or negative values forbid it. frame: index from 0, needed where there are several. voi: apply
    window or VOI LUT.
    Raises UnreadableRadiograph.
    """
    silence(("pydicom",), QUIET)
    try:
        elements = _read_data_set(path, stream)
        syntax = _transfer_syntax(elements)
        header = read_header(elements, frame)
        header = check_pixel_data(elements, header, syntax)
        return _picture(elements, header, syntax, _decode(elements, header, syntax), voi)
    except UnreadableRadiograph:
        raise
    except MemoryError:
        raise UnreadableRadiograph(path, "out-of-memory", "the decoder ran out of memory") from None
    except (
        Exception
    ):  # whatever the checks of single elements do not foresee; the text of the error may quote one
        raise UnreadableRadiograph(
            path, "bad-metadata", "the elements of the DICOM file contradict each other"
        ) from None


def _read_data_set(path, stream) -> Elements:
    """The few elements of `ELEMENTS`. A file without preamble must hold a picture to count as DICOM at all."""
    preamble = stream.read(132)[128:] == b"DICM"
    stream.seek(0)
    tags: list[int] = []  # in the order of the file

    def watch(tag, *_) -> bool:
        tags.append(int(tag))
        return False

    try:
        check_inflated_size(path, stream)
        dataset = read_partial(stream, watch, force=not preamble, specific_tags=list(ELEMENTS))
    except UnreadableRadiograph:
        raise
    except EOFError:
        raise UnreadableRadiograph(path, "truncated", "the DICOM data set ends too early") from None
    except MemoryError:
        raise
    except Exception:
        reason = "damaged" if preamble else "not-an-image"
        last = keyword_for_tag(tags[-1]) if tags else ""
        where = f" beyond {last}" if last else ""
        raise UnreadableRadiograph(
            path, reason, f"the DICOM data set cannot be read{where}"
        ) from None
    elements = Elements(path, dataset)
    if not any(key in elements for key in PIXEL_KEYS):
        if not preamble:
            raise UnreadableRadiograph(path, "not-an-image", "no PNG, JPEG, TIFF, BMP or DICOM")
        reason = "truncated" if "Rows" in elements else "no-pixels"
        raise UnreadableRadiograph(
            path, reason, f"no {', '.join(PIXEL_KEYS)} in this DICOM file ({_kind(elements)})"
        )
    if repeated := [
        ELEMENTS[tag] for tag, count in Counter(tags).items() if count > 1 and tag in ELEMENTS
    ]:
        raise elements.refusal(", ".join(repeated), "is present more than once")
    return elements


def _kind(elements: Elements) -> str:
    """What an object without pixels is, by the registered name of its class."""
    meta = Elements(elements.path, elements.dataset.file_meta)
    uid = elements.value("SOPClassUID") or meta.value("MediaStorageSOPClassUID")
    return (
        uid.name if isinstance(uid, UID) and uid.name != str(uid) else "an object of unknown kind"
    )


def _transfer_syntax(elements: Elements) -> UID:
    """The transfer syntax, for which a decoder is installed; that of the data set where the file does not say it."""
    syntax = Elements(elements.path, elements.dataset.file_meta).value("TransferSyntaxUID")
    if syntax is None:
        implicit, little = elements.dataset.original_encoding
        syntax = (
            ImplicitVRLittleEndian
            if implicit
            else ExplicitVRLittleEndian
            if little
            else ExplicitVRBigEndian
        )
        elements.dataset.file_meta.TransferSyntaxUID = syntax
    if not isinstance(syntax, UID):
        raise elements.refusal("TransferSyntaxUID", "is not a single UID")
    try:
        ready = get_decoder(syntax).is_available
    except NotImplementedError:
        ready = False
    if not ready:
        detail = f"no decoder for {syntax_name(syntax)} (TransferSyntaxUID) is installed"
        raise UnreadableRadiograph(elements.path, "unknown-syntax", detail)
    return syntax


def syntax_name(syntax: UID) -> str:
    """The registered name of a transfer syntax; the number of a private one may say which hospital has it."""
    return syntax.name if syntax.name != str(syntax) else "a private or unknown transfer syntax"


def check_inflated_size(path, stream) -> None:
    """A deflated data set is inflated at once by pydicom: measure it first, piece by piece."""
    start = 132 if stream.read(132)[128:] == b"DICM" else 0
    for implicit in (False, True):  # the same two attempts that pydicom makes
        stream.seek(start)
        meta = read_dataset(stream, implicit, True, stop_when=lambda tag, *_: tag >> 16 != 2)
        try:
            syntax = meta.get("TransferSyntaxUID")
        except NotImplementedError:  # an unknown kind of value: it is not explicit
            syntax = None
        if syntax:
            break
    if syntax == DeflatedExplicitVRLittleEndian:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        read = 0
        size = 0
        piece = stream.read(1 << 16)
        while piece:
            read += len(piece)
            while piece:
                size += len(inflater.decompress(piece, 1 << 22))
                if size > min(MAX_DATA_SET_BYTES, max(FREE_BYTES, MAX_INFLATION * read)):
                    detail = f"inflates to more than {size >> 20} MiB"
                    raise UnreadableRadiograph(path, "too-many-pixels", detail)
                piece = inflater.unconsumed_tail
            piece = stream.read(1 << 16)
    stream.seek(0)


def _decode(elements: Elements, header: Header, syntax: UID) -> np.ndarray:
    """The words of one frame as [H, W], or [H, W, 3] of a colour picture, as the checked `header` describes them."""
    source = Dataset()
    source.file_meta = elements.dataset.file_meta
    for keyword in (header.keyword, "ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in elements:
            source[keyword] = elements.dataset[keyword]
    try:
        pixels = pixel_array(
            source,
            index=header.frame,
            correct_unused_bits=header.samples
            == 3,  # before pydicom converts YBR; grey words are cleaned later
            rows=header.height,
            columns=header.width,
            number_of_frames=header.frames,
            photometric_interpretation=header.photometric,
            samples_per_pixel=header.samples,
            planar_configuration=header.planar,
            bits_allocated=header.allocated,
            bits_stored=header.bits,
            pixel_representation=int(header.signed),
        )
    except MemoryError:
        raise
    except BaseException as error:
        if (
            not isinstance(error, Exception) and type(error).__name__ != "PanicException"
        ):  # a decoder in Rust gave up
            raise
        # few decoders know the 12-bit form of JPEG Extended
        reason = "unknown-syntax" if syntax == JPEGExtended12Bit else "damaged"
        codestream = codestream_of(elements, header, syntax)
        bits = f" with {codestream.bits} bits" if codestream else ""
        problem = f"cannot be decoded as {syntax_name(syntax)}{bits}: {_words(error)}"
        raise elements.refusal(header.keyword, problem, reason) from None
    if pixels.shape[:2] != (header.height, header.width):
        decoded = f"{pixels.shape[0]} rows of {pixels.shape[1]} pixels"
        sizes = f"are {header.height} and {header.width}, decoded are {decoded}"
        raise elements.refusal("Rows and Columns", sizes)
    return pixels


def _words(error: BaseException) -> str:
    """Why a frame cannot be decoded, in the words of each decoder that has tried.

    A decoder is given the frame and numbers out of the checked header. It knows no other element, so that it can quote
    none.
    """
    lines = [line.strip() for line in str(error).splitlines()]
    tried = [line for line in lines[1:] if re.match(r"\w+: .", line)]
    words = "; ".join(tried) if tried else reason_of(error)
    return printable(re.sub(r"\b\w+(Error|Exception|Warning)\b:?\s*", "", words))[:MOST_WORDS]


def _picture(
    elements: Elements, header: Header, syntax: UID, decoded: np.ndarray, voi: bool
) -> np.ndarray:
    """The picture of a decoded frame: colour as it is, a palette expanded, grey through the whole chain."""
    little_endian = syntax.is_little_endian
    if header.samples == 3:
        return _colour(elements, decoded)
    if header.photometric == "PALETTE COLOR":
        indices = low_bits(decoded.astype(np.int64) >> header.shift, header.bits, header.signed)
        return apply_palette(
            elements, indices, value_range(header.bits, header.signed), little_endian
        )
    stored = stored_values(elements, header, decoded, syntax in LOSSY)
    return display_values(elements, header, stored, voi, little_endian)


def _colour(elements: Elements, pixels: np.ndarray) -> np.ndarray:
    """[H, W, 3] as uint8 or uint16; wider channels only if the values fit."""
    if pixels.dtype not in (np.uint8, np.uint16):
        if pixels.max() > 65535:
            raise elements.refusal(
                "BitsStored", "is more than 16 bits per colour channel", "unsupported-colour"
            )
        return pixels.astype(np.uint16)
    return pixels
