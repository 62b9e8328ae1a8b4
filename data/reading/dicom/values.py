"""From stored to displayed values of a grey DICOM picture: modality LUT, VOI LUT or window, polarity, padding.

DICOM PS3.3 C.11.1 (modality), C.11.2 (VOI). A linear window clips but keeps the grey steps, so a 12-bit radiograph
keeps its 12 bits. MONOCHROME1 is mirrored exactly: the same picture written as MONOCHROME1 and, inverted, as
MONOCHROME2 gives the same bits. PhotometricInterpretation alone decides the polarity (PresentationLUTShape repeats it).

H: height, W: width in pixels.
"""

import contextlib
import math
from typing import NamedTuple

import numpy as np

from data.reading.dicom.elements import Elements
from data.reading.dicom.header import Header
from data.reading.dicom.stored import Stored
from data.reading.dicom.tables import Table, read_table
from data.reading.refusal import UnreadableRadiograph

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
MODALITY = "PixelValueTransformationSequence"  # where enhanced objects keep the rescale of a frame
VOI = "FrameVOILUTSequence"  # and its window


class Window(NamedTuple):
    """A VOI window; function: one of `FUNCTIONS`."""

    centre: float
    width: float
    function: str


def display_values(
    elements: Elements, header: Header, stored: Stored, voi: bool, little_endian: bool
) -> np.ndarray:
    """Stored values -> [H, W] in the order of the standard; `bottom` and `top` are the ends of the mirror image."""
    mirror = header.photometric == "MONOCHROME1"
    values, bottom, top, padding = stored
    table = _table(elements, header, MODALITY, "ModalityLUTSequence", (bottom, top), little_endian)
    curves = _holder(elements, header, VOI, "VOILUTSequence").items("VOILUTSequence") if voi else []
    window = _window(elements, header) if voi and not curves else None
    if table:
        values = table.apply(_whole(values))
        bottom = 0
        top = table.top
    elif mirror and not window and not curves:
        values = (bottom + top) - values  # mirrored as integers, which is exact
        mirror = False
        values = _rescale(elements, header, values)
    else:
        values = _rescale(elements, header, values)
        bottom, top = sorted(_rescale(elements, header, np.array([bottom, top])).tolist())
    if curves:
        curve = _table(elements, header, VOI, "VOILUTSequence", (bottom, top), little_endian)
        values = curve.apply(_whole(values))
        bottom = 0
        top = curve.top
    elif window:
        values, bottom, top = _apply_window(elements, values, window, mirror)
        mirror = False
    if mirror:
        values = (bottom + top) - values
    if padding is not None:
        values[padding] = values[
            ~padding
        ].min()  # padding is background: as dark as anything in the picture
    return _narrow(values)


def _holder(elements: Elements, header: Header, group: str, keyword: str) -> Elements:
    """Where the element `keyword` of this frame lies: in the data set, or in a functional group of an enhanced object.

    The data set where it is nowhere.
    """
    if elements.value(keyword) is not None:
        return elements
    frames = elements.items("PerFrameFunctionalGroupsSequence")
    if frames and header.frame >= len(frames):
        problem = f"has {len(frames)} items for {header.frames} frames"
        raise elements.refusal("PerFrameFunctionalGroupsSequence", problem)
    own = frames[header.frame : header.frame + 1]
    for item in (*own, *elements.items("SharedFunctionalGroupsSequence")[:1]):
        for holder in item.items(group)[:1]:
            if holder.value(keyword) is not None:
                return holder
    return elements


@contextlib.contextmanager
def _as_bad_window():
    """Give refusals of windows and look-up tables their own reason."""
    try:
        yield
    except UnreadableRadiograph as error:
        raise UnreadableRadiograph(error.path, "bad-window", error.detail) from None


def _table(
    elements: Elements,
    header: Header,
    group: str,
    keyword: str,
    domain: tuple[float, float],
    little_endian: bool,
) -> Table | None:
    """The first look-up table of the sequence `keyword`; None without one."""
    with _as_bad_window():
        tables = _holder(elements, header, group, keyword).items(keyword)
        return read_table(tables[0], domain, little_endian) if tables else None


def _whole(values: np.ndarray) -> np.ndarray:
    """Input of a look-up table: the nearest integers, within what int64 holds."""
    return (
        values
        if values.dtype.kind in "iu"
        else np.rint(np.clip(values, -(2.0**62), 2.0**62)).astype(np.int64)
    )


def _rescale(elements: Elements, header: Header, values: np.ndarray) -> np.ndarray:
    """Rescale slope and intercept, float64; the identity leaves the integers alone."""
    slope, intercept = (
        _holder(elements, header, MODALITY, keyword).number(keyword, default)
        for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    if not math.isfinite(slope) or slope == 0:
        raise elements.refusal("RescaleSlope", f"is {slope:g}")
    if not math.isfinite(intercept):
        raise elements.refusal("RescaleIntercept", f"is {intercept:g}")
    if (slope, intercept) == (1, 0):
        return values
    low, high = (float(end) * slope + intercept for end in (values.min(), values.max()))
    if max(abs(low), abs(high)) > np.finfo(np.float32).max:
        raise elements.refusal(
            "RescaleSlope and RescaleIntercept", "lead to values beyond the range of float32"
        )
    if values.min() != values.max() and np.float32(low) == np.float32(high):
        raise elements.refusal(
            "RescaleSlope and RescaleIntercept", "map all values to the same float32 number"
        )
    return values * slope + intercept


def _window(elements: Elements, header: Header) -> Window | None:
    """The first window, checked; None without one. Raises UnreadableRadiograph."""
    with _as_bad_window():
        holders = {
            key: _holder(elements, header, VOI, key) for key in ("WindowCenter", "WindowWidth")
        }
        given = {key: holder.numbers(key)[:1] for key, holder in holders.items()}
        if not any(given.values()):
            return None
        for keyword, numbers in given.items():
            if not numbers:
                raise elements.refusal(keyword, "is missing")
            if not math.isfinite(numbers[0]):
                raise elements.refusal(keyword, f"is {numbers[0]:g}")
        function = (
            _holder(elements, header, VOI, "VOILUTFunction").text("VOILUTFunction") or "LINEAR"
        )
        if function.upper() not in FUNCTIONS:
            raise elements.refusal("VOILUTFunction", f"is none of {', '.join(FUNCTIONS)}")
        window = Window(*(float(numbers[0]) for numbers in given.values()), function.upper())
        if window.width <= 0 or (window.width < 1 and window.function == "LINEAR"):
            raise elements.refusal(
                "WindowWidth", f"is {window.width:g}, too small for {window.function}"
            )
        return window


def _apply_window(
    elements: Elements, values: np.ndarray, window: Window, mirror: bool
) -> tuple[np.ndarray, float, float]:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3. A linear window clips and keeps the grey steps: 0 is its dark end.

    The mirror image is taken around the window's own centre, so that twins agree in every bit. A linear window of
    width 1 has no steps: it is a threshold, 0 below and 1 above.
    """
    centre, width, function = window
    half = (width - 1) / 2 if function == "LINEAR" else width / 2
    middle = centre - 0.5 if function == "LINEAR" else centre
    top = 1
    if function == "SIGMOID":
        steepness = (centre - values if mirror else values - centre) * (-4 / width)
        shown = 1 / (1 + np.exp(np.clip(steepness, -700, 700)))
    elif half == 0:
        shown = ((values > middle) != mirror).astype(np.int64)
    else:
        shown = half + np.clip((middle - values) if mirror else (values - middle), -half, half)
        top = 2 * half
    with np.errstate(over="ignore"):
        ends = np.array([shown.min(), shown.max()]).astype(np.float32)
    if ends[0] == ends[1] and values.min() != values.max():
        problem = f"are {centre:g} and {width:g}, which leave no contrast after RescaleSlope and RescaleIntercept"
        raise elements.refusal("WindowCenter and WindowWidth", problem, "bad-window")
    return shown, 0, top


def _narrow(values: np.ndarray) -> np.ndarray:
    """The smallest of uint8, uint16 and float32 that holds the values as they are."""
    low = float(values.min())
    high = float(values.max())
    whole = values.dtype.kind in "iu" or (values == np.rint(values)).all()
    if whole and 0 <= low and high <= 65535:
        return values.astype(np.uint16 if high > 255 else np.uint8)
    return values.astype(np.float32)
