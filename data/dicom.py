"""DICOM radiographs: stored values -> modality LUT -> VOI LUT or window -> bone bright (PS3.3 C.7.6.3, C.11.1, C.11.2).

Only the elements that the picture needs are parsed, none about patient, study or device, and no message repeats a value
that could identify a person. Sizes are compared with the pixel data before a decoder sees them.

H: height, W: width in pixels.
"""

import re
import zlib

import numpy as np

from data.dicom_values import OVERLAY_POSITIONS, display_values
from data.radiograph import UnreadableRadiograph, check_size, choose_frame, silence

PIXEL_KEYS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
REQUIRED = ("Rows", "Columns", "PhotometricInterpretation")
QUIET = re.compile(r"(pydicom|openjpeg|libjpeg|data\.dicom)")  # modules whose warnings may quote a file
MAX_DATA_SET_BYTES = 1 << 30  # after inflating a deflated data set
FREE_BYTES, MAX_INFLATION = 1 << 24, 100  # and beyond so many bytes, at most so many for each compressed one
ELEMENTS = [
    *"""
    SOPClassUID Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation PlanarConfiguration
    BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit
    ModalityLUTSequence RescaleSlope RescaleIntercept VOILUTSequence VOILUTFunction WindowCenter WindowWidth
    PixelValueTransformationSequence FrameVOILUTSequence SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
    RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor
    RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData
    SegmentedRedPaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData
    SegmentedBluePaletteColorLookupTableData ExtendedOffsetTable ExtendedOffsetTableLengths
    """.split(),
    *PIXEL_KEYS,
    *OVERLAY_POSITIONS,
]


def read_dicom(path, stream, *, frame: int | None = None, voi: bool = True) -> np.ndarray:
    """Read the picture of an open DICOM file.

    Returns [H, W] uint8, uint16 or float32, bone bright; colour pictures [H, W, 3]. Integers stay integers unless a
    rescale, a sigmoid or negative values forbid it. frame: index from 0, needed where there are several. voi: apply
    window or VOI LUT.
    Raises UnreadableRadiograph.
    """
    silence(("pydicom",), QUIET)
    try:
        dataset = _read_data_set(path, stream)
        index = _check_header(path, dataset, frame)
        stored = _decode(path, dataset, index)
        if stored.ndim == 3:
            return _colour(path, stored)
        return display_values(path, dataset, stored, index, voi)
    except UnreadableRadiograph:
        raise
    except MemoryError:
        raise UnreadableRadiograph(path, "out-of-memory", "the decoder ran out of memory") from None
    except Exception as error:  # a malformed element somewhere; the text of the error may quote it
        detail = f"malformed DICOM element ({type(error).__name__})"
        raise UnreadableRadiograph(path, "bad-metadata", detail) from None


def _read_data_set(path, stream):
    """The few elements of `ELEMENTS`. A file without preamble must hold a picture to count as DICOM at all."""
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    preamble = stream.read(132)[128:] == b"DICM"
    stream.seek(0)
    try:
        _check_inflated_size(path, stream)
        dataset = pydicom.dcmread(stream, force=not preamble, specific_tags=ELEMENTS)
    except UnreadableRadiograph:
        raise
    except EOFError:
        raise UnreadableRadiograph(path, "truncated", "the DICOM data set ends too early") from None
    except MemoryError:
        raise
    except Exception as error:
        reason = "damaged" if preamble else "not-an-image"
        raise UnreadableRadiograph(path, reason, f"no readable DICOM data set ({type(error).__name__})") from None
    if not any(key in dataset for key in PIXEL_KEYS):
        if not preamble:
            raise UnreadableRadiograph(path, "not-an-image", "no PNG, JPEG, TIFF, BMP or DICOM")
        uid = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
        kind = uid.name if uid is not None and uid.name != str(uid) else "an object of unknown kind"
        reason = "truncated" if "Rows" in dataset else "no-pixels"
        raise UnreadableRadiograph(path, reason, f"no pixel data in this DICOM file ({kind})")
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        )
    return dataset


def _check_inflated_size(path, stream) -> None:
    """A deflated data set is inflated at once by pydicom: measure it first, piece by piece."""
    from pydicom.filereader import read_dataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian

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
        inflater, read, size = zlib.decompressobj(-zlib.MAX_WBITS), 0, 0
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


def _check_header(path, dataset, frame: int | None) -> int:
    """Size, frames and colour model as declared; returns the index of the frame to decode."""
    if absent := [key for key in REQUIRED if dataset.get(key) in (None, "")]:
        raise UnreadableRadiograph(path, "bad-metadata", f"{', '.join(absent)} is missing")
    height, width = int(dataset.Rows), int(dataset.Columns)
    frames = int(dataset.get("NumberOfFrames") or 1)
    stored = sum(len(dataset[key].value or b"") for key in PIXEL_KEYS if key in dataset)
    check_size(path, height, width, stored // frames if frames > 0 else 0)
    index = choose_frame(path, frame, frames)
    photometric, samples = str(dataset.PhotometricInterpretation), int(dataset.get("SamplesPerPixel") or 1)
    if photometric not in (*GREY, "PALETTE COLOR", *COLOUR):
        known = ", ".join((*GREY, "PALETTE COLOR", *COLOUR))
        raise UnreadableRadiograph(path, "unsupported-colour", f"photometric interpretation is none of {known}")
    if samples != (3 if photometric in COLOUR else 1):
        raise UnreadableRadiograph(path, "bad-metadata", f"{samples} samples per pixel contradict {photometric}")
    return index


def _decode(path, dataset, index: int) -> np.ndarray:
    """The stored values of one frame as [H, W], or [H, W, 3] of a colour picture."""
    from pydicom.pixels import apply_color_lut, get_decoder, pixel_array
    from pydicom.uid import JPEGExtended12Bit

    syntax = dataset.file_meta.TransferSyntaxUID
    name = syntax.name if syntax.name != str(syntax) else "a private or unknown transfer syntax"
    try:
        ready = get_decoder(syntax).is_available
    except NotImplementedError:
        ready = False
    if not ready:
        raise UnreadableRadiograph(path, "unknown-syntax", f"no decoder for {name} is installed")
    _check_length(path, dataset, syntax, index)
    try:
        pixels = pixel_array(dataset, index=index, correct_unused_bits=False)
    except MemoryError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # a decoder in Rust gave up
            raise
        # few decoders know the 12-bit form of JPEG Extended
        reason = "unknown-syntax" if syntax == JPEGExtended12Bit else "damaged"
        detail = f"the pixel data cannot be decoded as {name} ({type(error).__name__})"
        raise UnreadableRadiograph(path, reason, detail) from None
    if pixels.shape[:2] != (dataset.Rows, dataset.Columns):
        sizes = f"decodes to {pixels.shape[1]} x {pixels.shape[0]} pixels, declares {dataset.Columns} x {dataset.Rows}"
        raise UnreadableRadiograph(path, "bad-metadata", sizes)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    return pixels


def _check_length(path, dataset, syntax, index: int) -> None:
    """Compare the length of the pixel data, or the size inside a compressed frame, with the header, before decoding."""
    from pydicom.encaps import get_frame
    from pydicom.pixels.utils import get_expected_length

    key = next(key for key in PIXEL_KEYS if key in dataset)
    raw = dataset[key].value
    if not raw:
        raise UnreadableRadiograph(path, "truncated", "the pixel data are empty")
    if not syntax.is_encapsulated:
        if key != "PixelData":
            return
        expected = get_expected_length(dataset)
        if len(raw) < expected:
            raise UnreadableRadiograph(path, "truncated", f"{len(raw)} of {expected} bytes of pixel data")
        if len(raw) >= 2 * expected + 2:
            detail = f"{len(raw)} bytes of pixel data where {expected} are declared"
            raise UnreadableRadiograph(path, "bad-metadata", detail)
        return
    frames = int(dataset.get("NumberOfFrames") or 1)
    size = codestream_size(get_frame(raw, index, number_of_frames=frames))
    if size is not None and size != (dataset.Rows, dataset.Columns):
        sizes = f"compressed are {size[1]} x {size[0]} pixels, declared {dataset.Columns} x {dataset.Rows}"
        raise UnreadableRadiograph(path, "bad-metadata", sizes)


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """(H, W) that a JPEG, JPEG-LS or JPEG 2000 codestream declares itself; None for anything else."""
    if frame[:4] == b"\xff\x4f\xff\x51":  # SOC, SIZ: Xsiz, Ysiz, XOsiz, YOsiz
        right, bottom, left, top = (int.from_bytes(frame[at : at + 4], "big") for at in (8, 12, 16, 20))
        return bottom - top, right - left
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 7 : at + 9], "big")
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def _colour(path, pixels: np.ndarray) -> np.ndarray:
    """[H, W, 3] as uint8 or uint16; wider channels only if the values fit."""
    if pixels.dtype not in (np.uint8, np.uint16):
        if pixels.min() < 0 or pixels.max() > 65535:
            raise UnreadableRadiograph(path, "unsupported-colour", "more than 16 bits per colour channel")
        return pixels.astype(np.uint16)
    return pixels
