"""Regions of radiographs that the region-guided classifier looks at beside the whole: from marks, windows or a table.

A region is a box and the crop around it that the network is shown. The crop has the radiograph's aspect and leaves room
around the box, as in training (workflows/regions/records/crop_places.py). Regions out of error maps:
`workflows.regions.answers.proposals`.

N: radiographs, T: views, all radiographs and all regions. H, W: the radiograph, h, w: the network's input, in pixels.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch.utils.data import Dataset

from core.files import printable
from data.datasets.annotation_files import Box, check_size, checked_box, parse_boxes
from data.datasets.columns import counted
from data.datasets.truth import table_rows
from data.reading.refusal import UnreadableRadiograph
from data.views.preprocessing import Preprocessing
from workflows.regions.records.crop_places import context_crop

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Region(NamedTuple):
    """A part of a radiograph: what it is called, its box, and the crop (x0, y0, x1, y1) in whole pixels."""

    name: str
    box: Box
    crop: tuple[int, int, int, int]


def around_boxes(boxes: Iterable[Box], size: tuple[int, int], name: str) -> list[Region]:
    """Regions around boxes in a radiograph of `size` (H, W), called "NAME 1", "NAME 2", ..."""
    return [
        Region(f"{name} {k}", tuple(box), context_crop(box, size)) for k, box in enumerate(boxes, 1)
    ]


def sliding_regions(size: tuple[int, int], side: float = 0.5, overlap: float = 0.5) -> list[Region]:
    """Windows of `side` times the sides of a radiograph of `size` (H, W), evenly spaced, that cover all of it.

    Neighbours share at least the fraction `overlap` of a window. 0.5 and 0.5 give 3 x 3 windows, row by row.
    """
    if not (0.05 <= side < 1 and 0 <= overlap <= 0.9):
        raise ValueError(
            f"windows of {side} with an overlap of {overlap}; expected 0.05 to below 1, and 0 to 0.9"
        )
    count = math.ceil((1 - side) / (side * (1 - overlap)) - 1e-9) + 1
    spans = []
    for length in size:
        window = math.ceil(
            side * length - 1e-9
        )  # rounded down, windows would leave a line between them
        starts = np.round(np.linspace(0, length - window, count)).astype(int).tolist()
        spans.append([(start, start + window) for start in starts])
    crops = [(x0, y0, x1, y1) for y0, y1 in spans[0] for x0, x1 in spans[1]]
    return [Region(f"window {k}", tuple(map(float, crop)), crop) for k, crop in enumerate(crops, 1)]


def annotation_regions(records: pd.DataFrame, seed: int = 0) -> list[list[Region]]:
    """The marked findings of each of `records` (workflows/regions/records/records.py) as regions, [N] lists.

    Only what has a finding is marked, so that looking at marks alone would tell the answer. A radiograph without marks
    gets those of another one of its source (of any, if its source has none), as fractions of the sides: as many, as
    large and in as likely a place. Which one is decided by `seed` and its file name. Without any mark there are no
    regions at all.
    """
    rows = list(
        zip(
            records["image"],
            records["source"],
            records["boxes"],
            records["height"],
            records["width"],
        )
    )
    donors: dict[str, list] = {}
    for _, source, boxes, height, width in rows:
        if boxes:
            fractions = [
                (x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in boxes
            ]
            donors.setdefault(source, []).append(fractions)
    every = [one for source in sorted(donors) for one in donors[source]]
    regions = []
    for image, source, boxes, height, width in rows:
        if boxes or not every:
            regions.append(around_boxes(boxes, (height, width), "annotation"))
            continue
        choices = donors.get(source, every)
        digest = hashlib.sha256(
            f"{seed}/{Path(image).name}".encode("utf-8", "surrogateescape")
        ).digest()
        chosen = choices[int.from_bytes(digest[:8], "little") % len(choices)]
        moved = [(x0 * width, y0 * height, x1 * width, y1 * height) for x0, y0, x1, y1 in chosen]
        regions.append(around_boxes(moved, (height, width), "pseudo-box"))
    return regions


def table_regions(
    table: str | Path, records: pd.DataFrame, *, most: int = 10, left_out: Sequence[str] = ()
) -> tuple[list[list[Region]], list[str]]:
    """The boxes of a detector of one's own: regions of each of `records`, [N] lists, and notices.

    table: a UTF-8 CSV in a form of `data.datasets.truth.read_truth`: image, xmin, ymin, xmax, ymax (pixels of the
    upright radiograph, one row a box; four empty cells mean that nothing was found) or image, boxes (`[[x0, y0, x1,
    y1], ...]`). `image` is the end of a radiograph's path. Optional: score, of which the `most` highest of a radiograph
    are taken, else the first; and label, by which rows are `left_out` (as "left" and "right", the marks of the side).

    A radiograph without boxes has no regions. Refused, each with the row: a box that is not finite, empty or outside
    its radiograph, a score that is no number, an image that is not there or that fits several radiographs.
    """
    table = Path(table)
    if not table.is_file():
        raise FileNotFoundError(f"{printable(table)}: no such table of boxes")
    places = _by_ending(records)
    skipped = {word.strip().casefold() for word in left_out}
    found: list[list[tuple]] = [[] for _ in range(len(records))]
    elsewhere = 0
    dropped = 0
    rows = 0
    for where, row in table_rows(table):
        rows += 1
        index = _row_of(where, row["image"], places, records)
        if index is None:
            elsewhere += 1
            continue
        if row.get("label", "").casefold() in skipped and row.get("label"):
            dropped += 1
            continue
        size = int(records["height"].iloc[index]), int(records["width"].iloc[index])
        check_size(where, row, size)
        score = _score(where, row.get("score", ""))
        found[index] += [
            (score, checked_box(where, box, size), row.get("label", ""))
            for box in _boxes(where, row)
        ]
    if not rows:
        raise ValueError(f"{printable(table)}: a table without rows")
    notices = []
    many = sum(len(boxes) > most for boxes in found)
    if many:
        notices.append(
            f"{counted(many)} have more than {most} boxes in {printable(table.name)}; the {most} with the "
            "highest scores, or the first ones, are used"
        )
    if dropped:
        notices.append(f"{counted(dropped, 'box', 'boxes')} left out by their label")
    if elsewhere:
        notices.append(
            f"{counted(elsewhere, 'row')} of {printable(table.name)} are about radiographs that are not used"
        )
    bare = sum(not boxes for boxes in found)
    if bare:
        notices.append(
            f"{counted(bare)} of {len(found):,} have no box in {printable(table.name)}: the whole image alone"
        )
    regions = []
    for boxes, height, width in zip(found, records["height"], records["width"]):
        chosen = sorted(boxes, key=lambda one: -one[0])[
            :most
        ]  # stable: equal scores stay in the order of rows
        made = around_boxes([box for _, box, _ in chosen], (int(height), int(width)), "box")
        regions.append(
            [
                region._replace(name=label or region.name)
                for region, (_, _, label) in zip(made, chosen)
            ]
        )
    return regions, notices


class RegionViews(Dataset):
    """Whole radiographs and their regions as one flat list of views: of each radiograph the whole, then its regions.

    owner: [T] the row of `records` that a view is of; region: [T] the number of its region, -1 for the whole. Asked for
    in order, each radiograph is decoded once and only one is kept.
    """

    def __init__(
        self,
        records: pd.DataFrame,
        regions: Sequence[Sequence[Region]],
        preprocessing: Preprocessing,
    ):
        if len(regions) != len(records):
            raise ValueError(f"regions of {len(regions)} radiographs for {len(records)} records")
        self.images = records["image"].tolist()
        self.regions = regions
        self.preprocessing = preprocessing
        self.sizes = list(zip(records["height"].astype(int), records["width"].astype(int)))
        self.owner = np.repeat(np.arange(len(regions)), [1 + len(several) for several in regions])
        self.region = np.concatenate(
            [np.arange(-1, len(several)) for several in regions] or [np.empty(0, int)]
        )
        self._last: tuple = (None, None)

    def __len__(self) -> int:
        return len(self.owner)

    def __getitem__(self, view: int) -> dict:
        """{"image": [1, h, w]} as `Preprocessing` gives it. Raises UnreadableRadiograph."""
        row = int(self.owner[view])
        number = int(self.region[view])
        if self._last[0] != row:
            pixels = self.preprocessing.read(self.images[row])
            if pixels.shape[:2] != self.sizes[row]:
                told = "it has another size than when its regions were found"
                raise UnreadableRadiograph(self.images[row], "bad-metadata", told)
            self._last = (row, pixels)
        pixels = self._last[1]
        if number >= 0:
            x0, y0, x1, y1 = self.regions[row][number].crop
            pixels = np.ascontiguousarray(pixels[y0:y1, x0:x1])
        return {"image": self.preprocessing.fit(pixels)}


def _by_ending(records: pd.DataFrame) -> dict[str, list[int]]:
    """File name, with and without its suffix -> rows."""
    places: dict[str, list[int]] = {}
    for row, image in enumerate(records["image"]):
        path = PurePath(image)
        for name in {path.name, path.stem}:
            places.setdefault(name, []).append(row)
    return places


def _row_of(
    where: str, name: str, places: dict[str, list[int]], records: pd.DataFrame
) -> int | None:
    """The record that a table means by `name`; None for a file that is there and not among the records."""
    wanted = PurePath(name).parts
    fitting = []
    for row in places.get(wanted[-1], []) if wanted else []:
        path = PurePath(records["image"].iloc[row])
        if any(
            full[-len(wanted) :] == wanted for full in (path.parts, (*path.parts[:-1], path.stem))
        ):
            fitting.append(row)
    if len(fitting) == 1:
        return fitting[0]
    shown = printable(name)[:200]
    if fitting:
        first, second = (printable(records["image"].iloc[row]) for row in fitting[:2])
        raise ValueError(
            f"{where}: image {shown!r} can be {first} and {second}; write more of its path"
        )
    folders = {Path(image).parent for image in records["image"]}
    if wanted and ".." not in wanted and any(_is_there(folder, wanted[-1]) for folder in folders):
        return None
    raise ValueError(f"{where}: image {shown!r} is none of the {counted(len(records))}")


def _is_there(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file() or (
            not PurePath(name).suffix and any(folder.glob(f"{name}.*"))
        )
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def _boxes(where: str, row: dict[str, str]) -> list[Box]:
    if row.get("boxes"):
        return parse_boxes(where, row["boxes"])
    cells = [row.get(name, "") for name in _CORNERS]
    if not any(cells):
        return []
    try:
        return [tuple(float(cell) for cell in cells)]
    except ValueError:
        shown = ", ".join(map(repr, cells))
        raise ValueError(
            f"{where}: {', '.join(_CORNERS)} = {printable(shown)[:200]} are not four numbers"
        ) from None


def _score(where: str, cell: str) -> float:
    if not cell:
        return 0.0
    try:
        score = float(cell)
    except ValueError:
        score = math.nan
    if math.isnan(score):
        raise ValueError(f"{where}: score {printable(cell)[:100]!r} is no number")
    return score
