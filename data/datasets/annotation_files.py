"""What annotation files say, before anything is made of it: the shapes of LabelMe, the lines of YOLO, boxes in JSON.

Reading alone: points are checked to be numbers, lines to have a possible length. `data/datasets/truth.py` draws masks
of them, the region-guided sources take boxes. Every error names the file, and the shape or the line.

A box is (x0, y0, x1, y1) in pixels of the upright radiograph, x to the right and y downwards.
"""

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from core.files import printable, read_small, reason_of

MOST_BYTES = 32 << 20  # of one JSON or text file; LabelMe may store the picture in it
TOLERANCE = 1e-3  # by which YOLO fractions may lie outside 0 to 1: they are written with few digits
BEYOND = 0.005  # of a side, or 2 pixels: as far as a hand that draws a box slips over the edge
PIXELS_BEYOND = 2.0

Box = tuple[float, float, float, float]


class Shape(NamedTuple):
    """One shape of a LabelMe file: `kind` as written ("rectangle", "polygon", ...), points (x, y) in pixels."""

    kind: str
    label: str
    points: list[tuple[float, float]]


class Mark(NamedTuple):
    """One line of a YOLO file: four numbers (centre, size) or three and more points, as fractions of the sides.

    `rounding`: by how much each number may be off, half a unit of the last decimal of the line (0: whole numbers).
    """

    line: int
    text: str
    label: str
    numbers: list[float]
    rounding: float = 0.0


def read_labelme(file: Path, size: tuple[int, int]) -> list[Shape]:
    """The shapes of a file of LabelMe 3 to 5 about a radiograph of `size` (H, W); a kind that is missing is a polygon.

    ValueError: no such file, drawn on a picture of another size, coordinates that are not finite.
    """
    text = read_small(file, MOST_BYTES)
    try:
        content = json.loads(text, object_pairs_hook=_once)
        declared = (content.get("imageHeight") or size[0], content.get("imageWidth") or size[1])
        shapes = [
            Shape(
                s.get("shape_type") or "polygon",
                str(s.get("label") or ""),
                [tuple(map(float, p)) for p in s["points"]],
            )
            for s in content["shapes"]
        ]
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(
            f"{printable(file)}: not a LabelMe file ({printable(reason_of(error))})"
        ) from error
    if tuple(declared) != tuple(size):
        raise ValueError(
            f"{printable(file)}: drawn on a picture of {declared[0]} x {declared[1]} (height x width), the radiograph "
            f"is {size[0]} x {size[1]}"
        )
    for number, shape in enumerate(shapes, 1):
        if not all(len(point) == 2 for point in shape.points):
            raise ValueError(f"{printable(file)}: shape {number}: a point that is not x and y")
        if not all(math.isfinite(value) for point in shape.points for value in point):
            raise ValueError(f"{printable(file)}: shape {number}: coordinates that are not finite")
    return shapes


def _once(pairs: list[tuple[str, object]]) -> dict:
    """An object of JSON; ValueError for a key that is there twice, of which a parser keeps the last."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{printable(twice)[:100]!r} is there twice")
    return content


def read_yolo(file: Path) -> list[Mark]:
    """The lines of a YOLO file, `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 ...`; empty ones do not count.

    ValueError names file and line: not numbers, of another length, outside 0 to 1.
    """
    marks = []
    for number, line in enumerate(read_small(file, MOST_BYTES).splitlines(), 1):
        where = f"{printable(file)}: line {number}"
        words = line.split()
        if not words:
            continue
        shown = printable(line)[:100]
        try:
            numbers = [float(word) for word in words[1:]]
        except ValueError as error:
            raise ValueError(f"{where}: {shown!r} is not `class` and numbers") from error
        if any(not -TOLERANCE <= value <= 1 + TOLERANCE for value in numbers):
            raise ValueError(f"{where}: {shown!r} has coordinates outside 0 to 1")
        if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
            raise ValueError(
                f"{where}: {shown!r} is neither `class cx cy w h` nor `class` and three or more points"
            )
        marks.append(Mark(number, line, words[0], numbers, _rounding(words[1:])))
    return marks


def _rounding(words: list[str]) -> float:
    """Half a unit of the last decimal of the finest of some numbers, 0 if all are whole."""
    decimals = max(-Decimal(word).as_tuple().exponent for word in words)
    return 0.5 * 10.0**-decimals if decimals > 0 else 0.0


def yolo_box(mark: Mark, size: tuple[int, int]) -> Box:
    """The box of a line, or around its polygon, in pixels of a radiograph of `size` (H, W); not checked."""
    (height, width), numbers = size, mark.numbers
    if len(numbers) == 4:
        x, y, w, h = numbers
        return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
    return around([(x * width, y * height) for x, y in zip(numbers[::2], numbers[1::2])])


def parse_boxes(where: str, text: str) -> list[Box]:
    """JSON `[[x0, y0, x1, y1], ...]` of a table's cell; ValueError begins with `where` (file and row)."""
    try:
        boxes = [tuple(float(v) for v in box) for box in json.loads(text)]
        if any(len(box) != 4 for box in boxes):
            raise ValueError("a box needs four numbers")
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        told = printable(text)[:80]
        raise ValueError(
            f"{where}: boxes {told!r} are not [[x0, y0, x1, y1], ...] ({error})"
        ) from error
    return boxes


def around(points: list[tuple[float, float]]) -> Box:
    """The smallest box around some points."""
    xs, ys = zip(*points)
    return min(xs), min(ys), max(xs), max(ys)


def check_size(where: str, row: Mapping[str, str], size: tuple[int, int]) -> None:
    """ValueError if a table's row has cells `height` and `width` that differ from the radiograph's `size` (H, W)."""
    declared = row.get("height", ""), row.get("width", "")
    if not all(declared):
        return
    try:
        same = tuple(map(float, declared)) == tuple(size)
    except ValueError:
        same = False
    if not same:
        raise ValueError(
            f"{where}: drawn on a picture of {' x '.join(declared)} (height x width), the radiograph is "
            f"{size[0]} x {size[1]}"
        )


def reaches_over(points: list[tuple[float, float]], size: tuple[int, int]) -> bool:
    """Whether a point (x, y) lies outside a radiograph of `size` (H, W) by more than a hand's slip (`checked_box`)."""
    height, width = size
    right, below = (max(PIXELS_BEYOND, BEYOND * side) for side in (width, height))
    return any(
        x < -right or y < -below or x > width + right or y > height + below for x, y in points
    )


def checked_box(where: str, box: Box, size: tuple[int, int]) -> Box:
    """The box, cut at the edge of a radiograph of `size` (H, W) where it reaches over it by a hand's slip.

    ValueError begins with `where` (file and shape, line or row): not finite, without area, its corners in the wrong
    order, within the first pixel (fractions instead of pixels), or outside the radiograph by more than 0.5 % of the
    side and 2 pixels. Such a box belongs to another picture or to another unit, and nobody knows to which.
    """
    x0, y0, x1, y1 = box
    shown = [round(float(v), 2) for v in box]
    if not all(math.isfinite(v) for v in box) or x1 <= x0 or y1 <= y0:
        raise ValueError(f"{where}: box {shown} is empty or its corners are in the wrong order")
    height, width = size
    if max(x1, y1) <= 1 < max(height, width) and min(x0, y0) >= 0:
        raise ValueError(
            f"{where}: box {shown} lies in the first pixel; expected pixels, not fractions of the sides"
        )
    if reaches_over([(x0, y0), (x1, y1)], size):
        raise ValueError(
            f"{where}: box {shown} lies outside the radiograph of {height} x {width} (height x width)"
        )
    cut = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        raise ValueError(
            f"{where}: box {shown} lies outside the radiograph of {height} x {width} (height x width)"
        )
    return cut
