"""From stored to displayed values of a grey DICOM picture: modality LUT, VOI LUT or window, polarity, padding.

DICOM PS3.3 C.7.6.3 (bits), C.11.1 (modality), C.11.2 (VOI). A linear window clips but keeps the grey steps, so a 12-bit
radiograph keeps its 12 bits. MONOCHROME1 is mirrored exactly: the same picture written as MONOCHROME1 and, inverted, as
MONOCHROME2 gives the same bits. PhotometricInterpretation alone decides the polarity (PresentationLUTShape repeats it).

H: height, W: width in pixels.
"""

import math

import numpy as np

from data.radiograph import UnreadableRadiograph

OVERLAY_POSITIONS = [(group << 16) + 0x0102 for group in range(0x6000, 0x6020, 2)]  # retired: planes inside the pixels


def display_values(path, dataset, stored: np.ndarray, index: int, voi: bool) -> np.ndarray:
    """Stored values -> [H, W] in the order of the standard; `bottom` and `top` are the ends of the mirror image."""
    mirror = dataset.PhotometricInterpretation == "MONOCHROME1"
    stored, bottom, top = _stored_range(dataset, stored)
    padding = _padding(dataset, stored)
    tables = _item(dataset, index, "PixelValueTransformationSequence", "ModalityLUTSequence")
    curves = _item(dataset, index, "FrameVOILUTSequence", "VOILUTSequence") if voi else None
    window = _window(path, dataset, index) if voi and not curves else None
    if tables:
        values, bottom, top = _apply_table(path, stored, tables[0])
    elif mirror and not window and not curves:
        stored, mirror = (bottom + top) - stored, False  # mirrored as integers, which is exact
        values = _rescale(path, dataset, stored, index)
    else:
        values = _rescale(path, dataset, stored, index)
        bottom, top = sorted(_rescale(path, dataset, np.array([bottom, top]), index).tolist())
    if curves:
        values, bottom, top = _apply_table(path, np.rint(values).astype(np.int64), curves[0])
    elif window:
        values, bottom, top = _apply_window(path, values, *window, mirror)
        mirror = False
    if mirror:
        values = (bottom + top) - values
    if padding is not None and not padding.all():
        values[padding] = values[~padding].min()  # padding is background: as dark as anything in the picture
    return _narrow(values)


def _stored_range(dataset, stored: np.ndarray) -> tuple[np.ndarray, int | float, int | float]:
    """Stored values without foreign bits, and the range that the header allows them.

    Unused bits are masked only where an overlay plane is declared to lie in them. Elsewhere a value beyond `BitsStored`
    means that `BitsStored` is wrong, and the range is widened: masking would wrap a 14-bit picture that says 12.
    """
    if stored.dtype.kind == "f":
        return stored.astype(np.float64), float(stored.min()), float(stored.max())
    allocated, bits = int(dataset.BitsAllocated), int(dataset.get("BitsStored") or dataset.BitsAllocated)
    shift = int(dataset.get("HighBit") or bits - 1) - (bits - 1)
    stored = stored.astype(np.int64)
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        overlay = any(0 < int(dataset[tag].value or 0) for tag in OVERLAY_POSITIONS if tag in dataset)
        stored = (stored >> max(shift, 0)) & ((1 << bits) - 1) if overlay or shift > 0 else stored
    if int(dataset.get("PixelRepresentation") or 0):
        if stored.min() >= -(1 << (bits - 1)) and 1 << (bits - 1) <= stored.max() < 1 << bits:
            stored = np.where(stored >> (bits - 1) == 1, stored - (1 << bits), stored)  # the sign was not extended
        while bits < allocated and (stored.max() >= 1 << (bits - 1) or stored.min() < -(1 << (bits - 1))):
            bits += 1
        return stored, -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    while bits < allocated and stored.max() >= 1 << bits:
        bits += 1
    return stored, 0, (1 << bits) - 1


def _padding(dataset, stored: np.ndarray) -> np.ndarray | None:
    """[H, W] bool, where nothing was exposed (PixelPaddingValue to PixelPaddingRangeLimit); None if nowhere."""
    first = dataset.get("PixelPaddingValue")
    if first is None or stored.dtype.kind == "f":
        return None
    last = dataset.get("PixelPaddingRangeLimit")
    wrap = 1 << int(dataset.BitsAllocated)  # compared modulo: writers disagree about the sign
    low, high = sorted((int(first) % wrap, int(first if last is None else last) % wrap))
    values = stored % wrap
    inside = (values >= low) & (values <= high)
    return inside if inside.any() else None


def _item(dataset, index: int, group: str, keyword: str):
    """An element of this frame: from the data set itself, else from the functional groups of an enhanced object."""
    if dataset.get(keyword) not in (None, ""):
        return dataset.get(keyword)
    for sequence, position in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        groups = dataset.get(sequence) or []
        inner = (groups[position].get(group) or []) if position < len(groups) else []
        if inner and inner[0].get(keyword) not in (None, ""):
            return inner[0].get(keyword)
    return None


def _rescale(path, dataset, values: np.ndarray, index: int) -> np.ndarray:
    """Rescale slope and intercept, float64; the identity leaves the integers alone."""
    slope = _item(dataset, index, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = _item(dataset, index, "PixelValueTransformationSequence", "RescaleIntercept")
    slope, intercept = float(1 if slope is None else slope), float(0 if intercept is None else intercept)
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise UnreadableRadiograph(path, "bad-metadata", "rescale slope or intercept without meaning")
    return values if (slope, intercept) == (1, 0) else values * slope + intercept


def _apply_table(path, values: np.ndarray, table) -> tuple[np.ndarray, int, int]:
    """A modality or VOI look-up table on integers; returns the values and the range of the table's output."""
    entries, first, bits = (int(number) for number in table.LUTDescriptor)
    entries = entries or 1 << 16
    content = table.LUTData
    if isinstance(content, bytes):
        content = np.frombuffer(content, np.uint8 if len(content) in (entries, entries + 1) else np.dtype("<u2"))
    content = np.atleast_1d(np.asarray(content, np.int64))[:entries]
    if len(content) < entries:
        raise UnreadableRadiograph(path, "bad-window", f"a look-up table with {len(content)} of {entries} entries")
    return content[np.clip(values - first, 0, entries - 1)], 0, max((1 << bits) - 1, int(content.max()))


def _window(path, dataset, index: int) -> tuple[float, float, str] | None:
    """The first window: (centre, width, function), checked; None without one."""
    centre, width, function = (
        _item(dataset, index, "FrameVOILUTSequence", key) for key in ("WindowCenter", "WindowWidth", "VOILUTFunction")
    )
    if centre is None and width is None:
        return None
    try:
        centre, width = (
            float(value if isinstance(value, str | float | int) else value[0]) for value in (centre, width)
        )
    except (TypeError, ValueError, IndexError, ArithmeticError):
        raise UnreadableRadiograph(path, "bad-window", "window centre or width is no number") from None
    function = str(function or "LINEAR").upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise UnreadableRadiograph(path, "bad-window", "the VOI LUT function is none of LINEAR, LINEAR_EXACT, SIGMOID")
    if not (math.isfinite(centre) and math.isfinite(width)) or width <= (1 if function == "LINEAR" else 0):
        raise UnreadableRadiograph(path, "bad-window", f"centre {centre:g}, width {width:g}")
    return centre, width, function


def _apply_window(path, values: np.ndarray, centre: float, width: float, function: str, mirror: bool):
    """PS3.3 C.11.2.1.2 and C.11.2.1.3. A linear window clips and keeps the grey steps: 0 is its dark end.

    The mirror image is taken around the window's own centre, so that twins agree in every bit.
    """
    if function == "SIGMOID":
        steepness = (centre - values if mirror else values - centre) * (-4 / width)
        return 1 / (1 + np.exp(np.clip(steepness, -700, 700))), 0, 1
    half = (width - 1) / 2 if function == "LINEAR" else width / 2
    middle = centre - 0.5 if function == "LINEAR" else centre
    offset = np.clip((middle - values) if mirror else (values - middle), -half, half)
    if offset.min() == offset.max() and values.min() != values.max():
        raise UnreadableRadiograph(
            path, "bad-window", f"the whole picture lies outside its window (centre {centre:g}, width {width:g})"
        )
    return offset + half, 0, 2 * half


def _narrow(values: np.ndarray) -> np.ndarray:
    """The smallest of uint8, uint16 and float32 that holds the values as they are."""
    low, high = float(values.min()), float(values.max())
    whole = values.dtype.kind in "iu" or (values == np.rint(values)).all()
    if whole and 0 <= low and high <= 65535:
        return values.astype(np.uint16 if high > 255 else np.uint8)
    return values.astype(np.float32)
