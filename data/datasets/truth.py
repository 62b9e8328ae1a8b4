"""Where the findings are: boxes, polygons and masks that radiologists (or phantoms) drew.

`read_truth` takes any of

* a folder of mask pictures (PNG, TIFF, BMP; opaque and not black = finding, read as radiographs are), of LabelMe JSON
  (rectangles, polygons, circles) or of YOLO text files (`class cx cy w h` or `class x1 y1 x2 y2 x3 y3 ...`, fractions
  of width and height), named like the radiographs: `TRUTH/a/b.png` belongs to every radiograph whose path ends in
  `a/b`, whatever its suffix;
* a CSV table with columns image, xmin, ymin, xmax, ymax (pixels; several rows per radiograph; four empty cells mean
  that nothing was found);
* a CSV table of records with columns image and boxes (JSON `[[x0, y0, x1, y1], ...]`), mask (path of a picture in the
  table's folder or below it) or both.

The columns `condition` and `patient` are kept, where there are such. A radiograph that the truth does not mention is
unknown (None), never "no finding".
"""

import math
import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePath

import numpy as np
import pandas as pd
from PIL import Image

from core.tables import list_names, read_cells
from data.datasets.annotation_files import (
    check_size,
    parse_boxes,
    read_labelme,
    read_yolo,
    yolo_box,
)
from data.datasets.finding_masks import box_mask, polygon_mask, shape_mask
from data.reading.listing import Listings, near_hint
from data.reading.radiograph import is_jpeg, load_mask, radiograph_size
from data.reading.refusal import UnreadableRadiograph
from data.tables.id_columns import ids

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
SUFFIXES = (*MASK_SUFFIXES, ".json", ".txt")
MOST_LEVELS = 16  # distinct values in a mask picture; more, and it is a radiograph by mistake
MOST_PIXELS = 25_000_000  # of a mask that is larger than its radiograph
_BOX = ("xmin", "ymin", "xmax", "ymax")


class Truth:
    """Findings of many radiographs, looked up by path; drawn only when asked for."""

    def __init__(self, source: Path):
        self.source = source
        self._entries: dict[
            str, dict[tuple[str, ...], list]
        ] = {}  # last path part -> whole key -> marks
        self._facts: dict[tuple[str, ...], dict[str, str]] = {}

    def __len__(self) -> int:
        return sum(len(keys) for keys in self._entries.values())

    def add(self, name: str, marks: list, **facts: str) -> None:
        """Append `marks` to the findings of the radiograph called `name` (its path or the end of it).

        `facts`: its condition, its patient.
        """
        key = _parts(name.replace("\\", "/"))
        if not key:
            raise ValueError(f"{self.source}: an entry without an image name")
        self._entries.setdefault(key[-1], {}).setdefault(key, []).extend(marks)
        self._facts.setdefault(key, {}).update({k: v for k, v in facts.items() if v})

    def lookup(self, image_path: Path, size: tuple[int, int]) -> np.ndarray | None:
        """The findings of a radiograph of `size` (height, width) as a bool mask [H, W]; None if it is not mentioned.

        Raises ValueError naming the file (and row) of an entry that is damaged or does not fit the size.
        """
        key = self._find(image_path)
        if key is None:
            return None
        mask = np.zeros(size, bool)
        for mark in self._entries[key[-1]][key]:
            mask |= mark(size)
        return mask

    def mentions(self, image_path: Path) -> bool:
        """Whether the truth says anything about this radiograph."""
        return self._find(image_path) is not None

    def condition(self, image_path: Path) -> str:
        """The condition that the truth gives for this radiograph, or ""."""
        return self._facts.get(self._find(image_path), {}).get("condition", "")

    def patient(self, image_path: Path) -> str:
        """The patient that the truth gives for this radiograph, or ""."""
        return self._facts.get(self._find(image_path), {}).get("patient", "")

    def _find(self, image_path: Path) -> tuple[str, ...] | None:
        """The longest key that the path, with or without its suffix, ends in."""
        parts = _parts(str(image_path))
        found = []
        for last in {parts[-1], PurePath(parts[-1]).stem}:
            path = (*parts[:-1], last)
            found += [key for key in self._entries.get(last, ()) if path[-len(key) :] == key]
        return max(found, key=lambda key: (len(key), len(key[-1])), default=None)


def _parts(path: str) -> tuple[str, ...]:
    """The parts of a path, with composed letters (NFC): macOS decomposes those of file names."""
    return PurePath(unicodedata.normalize("NFC", path)).parts


def read_truth(path: Path | str) -> Truth:
    """Read a folder or a CSV table of findings (see the module); nothing is drawn before it is looked up."""
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such truth folder or CSV table")
    if path.suffix.lower() != ".csv":
        raise ValueError(f"{path}: expected a folder or a .csv table of findings")
    if not path.is_file():  # reading a pipe would wait for ever
        raise ValueError(f"{path}: a pipe or a device, not a table")
    return _read_table(path)


def _read_folder(folder: Path) -> Truth:
    truth = Truth(folder)
    seen = {}
    for file in sorted(
        f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file()
    ):
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in seen:
            raise ValueError(
                f"{file}: {seen[name].name} already holds the truth of {name}; keep one of the two"
            )
        seen[name] = file
        truth.add(name, [_reader(file)])
    if not seen:
        raise ValueError(
            f"{folder}: no masks ({', '.join(MASK_SUFFIXES)}), LabelMe .json or YOLO .txt files in it"
        )
    return truth


def _reader(file: Path):
    read = {".json": _labelme, ".txt": _yolo}.get(file.suffix.lower(), _mask)
    return lambda size: read(file, size)


def _mask(file: Path, size: tuple[int, int]) -> np.ndarray:
    """A mask picture, brought to `size` if only its scale differs: marked is what is opaque and not black."""
    height, width = size
    limit = max(MOST_PIXELS, height * width)
    try:
        rows, columns = radiograph_size(file)
        if is_jpeg(file):
            raise ValueError(
                f"{file}: a JPEG, which changes the values of a mask; save masks as PNG"
            )
        unlike = abs(math.log((rows * width) / (columns * height))) > 0.02
        values = load_mask(file) if not unlike and rows * columns <= limit else None
    except UnreadableRadiograph as error:
        raise ValueError(
            f"{file}: not a readable mask picture ({error.reason}: {error.detail})"
        ) from error
    if values is None:
        detail = f"{file}: the mask is {rows} x {columns} (height x width), the radiograph {height} x {width}"
        if not unlike:
            detail += f"; a mask larger than its radiograph may have {MOST_PIXELS / 1e6:.0f} million pixels"
        raise ValueError(detail)
    _check_levels(file, values)
    mask = values.any(axis=2) if values.ndim == 3 else values != 0
    if mask.shape != size:
        mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    return mask


def _check_levels(file: Path, values: np.ndarray) -> None:
    """ValueError for [H, W] or [H, W, 3] pixels that are a picture, or labels without a background."""
    if values.ndim == 3:
        wide = values.astype(np.uint64)
        values = wide[..., 0] << np.uint64(32) | wide[..., 1] << np.uint64(16) | wide[..., 2]
    levels = np.unique(values)
    if values.dtype.kind == "f" and not np.isfinite(levels).all():
        raise ValueError(f"{file}: NaN or infinite values, which say neither marked nor unmarked")
    if len(levels) > MOST_LEVELS:
        raise ValueError(
            f"{file}: more than {MOST_LEVELS} distinct values; a mask has 0 and a few labels, this is a picture or its "
            "edges are smoothed"
        )
    if len(levels) > 1 and 0 not in levels:
        raise ValueError(
            f"{file}: {len(levels)} values and none is black, so that the mask would mark the whole radiograph; "
            "what is not marked must be 0 or transparent"
        )


def _labelme(file: Path, size: tuple[int, int]) -> np.ndarray:
    """LabelMe 3-5: points in pixels of the picture the file describes."""
    mask = np.zeros(size, bool)
    for number, shape in enumerate(read_labelme(file, size), 1):
        mask |= shape_mask(f"{file}: shape {number}", shape.kind, shape.points, size)
    return mask


def _yolo(file: Path, size: tuple[int, int]) -> np.ndarray:
    """YOLO boxes and polygons; an empty file means that nothing was found.

    The edges of a box are a centre and half a size, both of which are rounded.
    """
    height, width = size
    mask = np.zeros(size, bool)
    for mark in read_yolo(file):
        where = f"{file}: line {mark.line}"
        if len(mark.numbers) == 4:
            rounding = 1.5 * mark.rounding
            mask |= box_mask(
                where, yolo_box(mark, size), size, (rounding * width, rounding * height)
            )
        else:
            xs = mark.numbers[::2]
            ys = mark.numbers[1::2]
            mask |= polygon_mask(where, [(x * width, y * height) for x, y in zip(xs, ys)], size)
    return mask


def _read_table(path: Path) -> Truth:
    truth = Truth(path)
    listings = Listings()
    for where, row in table_rows(path):
        marks = [
            *_row_box(where, row),
            *_row_boxes(where, row),
            *_row_mask(where, row, path.parent, listings),
        ]
        marks = [_sized(where, row, mark) for mark in marks]
        truth.add(
            row["image"], marks, condition=row.get("condition", ""), patient=row.get("patient", "")
        )
    if not len(truth):
        raise ValueError(f"{path}: the table has no rows")
    return truth


def _sized(where: str, row: dict[str, str], mark: Callable) -> Callable:
    """`mark`, which refuses a radiograph of another size than the row says."""

    def draw(size: tuple[int, int]) -> np.ndarray:
        check_size(where, row, size)
        return mark(size)

    return draw


def table_rows(path: Path) -> list[tuple[str, dict[str, str]]]:
    """("FILE: row N", cells by column) of a checked table of boxes or masks; the header is row 1."""
    names, rows = read_cells(path, blank=True)
    if "image" not in names or not (set(_BOX) <= set(names) or {"boxes", "mask"} & set(names)):
        raise ValueError(
            f"{path}: columns {list_names(names)}; expected image and either {', '.join(_BOX)} or boxes or mask"
        )
    table = pd.DataFrame(rows, columns=names, dtype=object)
    if "patient" in names:
        table["patient"] = ids(path, table, "patient", optional=True).fillna("")
    return [
        (f"{path}: row {number}", {name: cell.strip() for name, cell in row.items()})
        for number, row in enumerate(table.to_dict("records"), 2)
        if any(row.values())
    ]


def _row_box(where: str, row: dict[str, str]) -> list:
    cells = [row.get(name, "") for name in _BOX]
    if not any(cells):
        return []
    try:
        box = tuple(float(cell) for cell in cells)
    except ValueError as error:
        raise ValueError(
            f"{where}: {', '.join(_BOX)} = {', '.join(map(repr, cells))} are not four numbers"
        ) from error
    return [lambda size: box_mask(where, box, size)]


def _row_boxes(where: str, row: dict[str, str]) -> list:
    text = row.get("boxes", "")
    if not text:
        return []
    boxes = parse_boxes(where, text)
    if row.get("mask"):  # the mask is the finer description of the same findings
        return []
    return [lambda size, box=box: box_mask(where, box, size) for box in boxes]


def _row_mask(where: str, row: dict[str, str], folder: Path, listings: Listings) -> list:
    if not row.get("mask"):
        return []
    try:
        file = listings.below(folder, row["mask"])
    except ValueError as error:
        raise ValueError(f"{where}: mask {error}") from None
    if not listings.is_file(file):  # also a name too long, or with a NUL
        raise ValueError(
            f"{where}: mask {row['mask'][:200]!r} is not a file below {folder}{near_hint(file)}"
        )
    return [lambda size: _mask(file, size)]
