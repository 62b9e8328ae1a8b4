"""Rectangles, circles and polygons of a radiograph as masks of its pixels; what lies outside of it is refused.

Sizes are (H, W); points (x, y) and boxes (x0, y0, x1, y1) are in pixels of the upright radiograph. Errors begin with
`where`, the file and the shape, line or row.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

from data.datasets.annotation_files import Box, around, checked_box, reaches_over

EXACT = 1e-3  # pixels: nobody means less


def shape_mask(
    where: str, kind: str, points: list[tuple[float, float]], size: tuple[int, int]
) -> np.ndarray:
    """A shape of LabelMe, [H, W] bool: "rectangle", "circle" or "polygon"; ValueError for another kind."""
    if kind == "rectangle" and len(points) in (2, 4):
        return box_mask(where, around(points), size)
    if kind == "circle" and len(points) == 2:
        return circle_mask(where, points, size)
    if kind == "polygon" and len(points) >= 3:
        return polygon_mask(where, points, size)
    raise ValueError(
        f"{where}: {kind!r} with {len(points)} points; only rectangles, polygons and circles are read"
    )


def circle_mask(where: str, points: list[tuple[float, float]], size: tuple[int, int]) -> np.ndarray:
    """A circle by its middle and a point of its rim, both in the radiograph; what reaches over its edge is cut off."""
    (x, y), radius = points[0], math.dist(*points)
    place = (*points[0], *points[1])
    if reaches_over(points, size):
        shown = [round(float(value), 2) for value in place]
        raise ValueError(
            f"{where}: circle {shown} lies outside the radiograph of {size[0]} x {size[1]}"
        )
    if max(place) <= 1 < max(size):
        raise ValueError(
            f"{where}: circle {place} lies in the first pixel; expected pixels, not fractions of the sides"
        )
    rows, columns = np.ogrid[: size[0], : size[1]]
    mask = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2
    if not mask.any():
        raise ValueError(f"{where}: circle {place} holds the middle of no pixel")
    return mask


def polygon_mask(
    where: str, points: list[tuple[float, float]], size: tuple[int, int]
) -> np.ndarray:
    """A polygon with its outline, [H, W] bool."""
    checked_box(where, around(points), size)
    canvas = Image.new("1", (size[1], size[0]))
    ImageDraw.Draw(canvas).polygon(points, fill=1, outline=1)
    mask = np.asarray(canvas)
    if not mask.any():
        raise ValueError(f"{where}: the polygon holds no pixel")
    return mask


def box_mask(
    where: str, box: Box, size: tuple[int, int], rounding: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """A box (x0, y0, x1, y1) in pixels, edges rounded outwards, or to the next whole pixel if that is as near as the
    box is exact: `rounding`, in pixels along x and y, and at least `EXACT`."""
    x0, y0, x1, y1 = checked_box(where, box, size)
    left, right = _whole_edges(x0, x1, rounding[0], size[1])
    top, bottom = _whole_edges(y0, y1, rounding[1], size[0])
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def _whole_edges(low: float, high: float, rounding: float, side: int) -> tuple[int, int]:
    """The first pixel of a stretch, and the one after its last; at least one pixel."""
    near = max(rounding, EXACT)
    first = round(low) if abs(low - round(low)) <= near else math.floor(low)
    end = round(high) if abs(high - round(high)) <= near else math.ceil(high)
    first = min(max(first, 0), side - 1)
    return first, min(max(end, first + 1), side)
