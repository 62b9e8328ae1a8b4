"""BTXRD as a source of the region-guided tumour classifier: tumour class and where the tumour is.

See `data.releases.btxrd.Btxrd` for the release, its licence, groups and traps. Annotations/IMG*.json are LabelMe files
of the tumours alone, with a rectangle, a polygon or both around each.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from core.tumour_labels import label_vector
from data.datasets.annotation_files import Box, around, checked_box, read_labelme
from data.reading.listing import printable
from data.releases.btxrd import BENIGN, MALIGNANT, SUBTYPES, Btxrd, grouped_by_lesion, tumour_rows
from workflows.regions.records.records import LabelRules, OnBad, boxed, region_records

CENTERS = (1, 2, 3)
_KEPT = ("image_id", "center", "age", "gender")


def read_btxrd_regions(
    metadata: str | Path,
    image_dir: str | Path,
    annotation_dir: str | Path,
    *,
    rules: LabelRules | None = None,
    centers: Sequence[int] = (),
    on_bad: OnBad = "stop",
    **looking,
) -> pd.DataFrame:
    """Records of BTXRD; see workflows/regions/records/records.py for their columns, and for `on_bad`.

    metadata: the sheet, .csv or .xlsx. SKELEX's `dataset_c1.xlsx` is not published: where a sheet `NAME_cN` is not
    there, the rows of centre N of `NAME.csv` or `NAME.xlsx` are taken, and a notice says so.
    centers: only these; none is all. looking: of `data.datasets.columns.grouped`.
    A tumour without an annotation, an annotation of a normal radiograph, a shape that is neither rectangle nor polygon,
    a shape named after a benign subtype of a tumour that is malignant or the other way round: refused.
    """
    table, told = _sheet(Path(metadata))
    image_dir = Path(image_dir)
    annotation_dir = Path(annotation_dir)
    if not annotation_dir.is_dir():
        raise FileNotFoundError(f"{printable(annotation_dir)}: no such folder of annotations")
    rules = rules or LabelRules()
    notices = []
    rows = tumour_rows(table, image_dir, keep_missing=on_bad == "skip")
    if told:
        if set(centers) - {told}:
            raise ValueError(
                f"{printable(metadata)} is of centre {told} alone, and others are asked for; name "
                f"{printable(table.name)} instead"
            )
        centers = (told,)
        notices.append(
            f"no {printable(Path(metadata).name)}: the rows of centre {told} of {printable(table.name)}"
        )
    if unknown := sorted(set(centers) - set(CENTERS)):
        raise ValueError(f"centre {unknown[0]} of BTXRD; choices 1, 2, 3")
    if centers:
        rows = rows[rows["center"].isin(centers)]
        if not len(rows):
            raise ValueError(
                f"{printable(table)}: no radiographs of centre {', '.join(map(str, centers))}"
            )
    rows = grouped_by_lesion(rows, notices, **looking)

    def describe(row: dict, size: tuple[int, int]) -> tuple[np.ndarray, list[Box]]:
        file = annotation_dir / f"{Path(row['image']).stem}.json"
        if row["tumor"] == 1:
            return btxrd_labels(row, rules), btxrd_boxes(file, size, row)
        if file.is_file():
            raise ValueError(
                f"{printable(file)}: an annotation, and {printable(table)} says tumor = {row['tumor']:g}"
            )
        return btxrd_labels(row, rules), []

    kept = rows[["image", "patient", *_KEPT, "tumor", "benign", "malignant", *SUBTYPES]]
    records = region_records("btxrd", table, kept, describe, notices, on_bad)
    subtype = [
        " and ".join(name for name in SUBTYPES if row[name] == 1)
        for row in records.to_dict("records")
    ]
    records = records.assign(subtype=subtype).drop(
        columns=["tumor", "benign", "malignant", *SUBTYPES]
    )
    return records


def btxrd_labels(row: dict, rules: LabelRules) -> np.ndarray:
    """What a row of the sheet says, [38]; a subtype or flag that is NaN says nothing.

    A tumour is malignant or benign, by the rules a giant cell tumour is intermediate; bone, fracture and implant are
    not told. A normal radiograph has no tumour, fracture or implant.
    """
    if np.isnan(row["tumor"]):
        return label_vector()
    if row["tumor"] == 0:
        normal = False if rules.btxrd_normal == "normal" else None
        return label_vector(
            abnormal=normal, tumour="no bone tumour", fracture="no fracture", implant=False
        )
    kind = "malignant" if row["malignant"] == 1 else "benign" if row["benign"] == 1 else None
    if (
        kind == "benign"
        and row.get("giant cell tumor") == 1
        and rules.giant_cell_tumour != "benign"
    ):
        alone = (
            sum(row.get(name) == 1 for name in BENIGN) == 1
        )  # of two subtypes nobody knows which one decides
        kind = "intermediate" if alone and rules.giant_cell_tumour == "intermediate" else None
    return label_vector(abnormal=True, tumour=kind)


def btxrd_boxes(file: Path, size: tuple[int, int], row: dict) -> list[Box]:
    """A box for each lesion of a LabelMe file about a radiograph of `size` (H, W): its rectangles, and those polygons
    that lie for the most part in none of them (the others outline the same lesion once more)."""
    if not file.is_file():
        raise FileNotFoundError(
            f"{printable(file)}: no such annotation, and the sheet says that there is a tumour"
        )
    rectangles = []
    polygons = []
    for number, shape in enumerate(read_labelme(file, size), 1):
        where = f"{printable(file)}: shape {number}"
        count = len(shape.points)
        name = shape.label.strip().casefold()
        for side, kinds in (("benign", BENIGN), ("malignant", MALIGNANT)):
            if name in kinds and row.get(side) == 0:
                raise ValueError(
                    f"{where}: {name!r}, and the sheet says that the tumour is not {side}"
                )
        if shape.kind == "rectangle" and count in (2, 4):
            rectangles.append(checked_box(where, around(shape.points), size))
        elif shape.kind == "polygon" and count >= 3:
            polygons.append(checked_box(where, around(shape.points), size))
        else:
            kind = printable(shape.kind)[:50]
            raise ValueError(
                f"{where}: {kind!r} with {count} points; only rectangles and polygons are read"
            )
    if not rectangles and not polygons:
        raise ValueError(f"{printable(file)}: no shape, and the sheet says that there is a tumour")
    alone = [
        box for box in polygons if not any(_share_inside(box, other) >= 0.5 for other in rectangles)
    ]
    return boxed([*rectangles, *alone])


def _share_inside(box: Box, other: Box) -> float:
    """The share of the area of `box` that lies in `other`."""
    wide = min(box[2], other[2]) - max(box[0], other[0])
    high = min(box[3], other[3]) - max(box[1], other[1])
    return max(wide, 0.0) * max(high, 0.0) / ((box[2] - box[0]) * (box[3] - box[1]))


def _sheet(metadata: Path) -> tuple[Path, int | None]:
    """The sheet to read and, where it stands for the unpublished one of a centre, that centre."""
    told = re.fullmatch(r"(.+)_c([123])", metadata.stem)
    if told and not metadata.is_file():
        for suffix in (Path(name).suffix for name in Btxrd.tables):
            if (other := metadata.with_name(told[1] + suffix)).is_file():
                return other, int(told[2])
    return metadata, None
