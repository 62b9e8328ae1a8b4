"""FracAtlas as a source of the region-guided tumour classifier: fractures with their boxes, and implants without.

See `data.releases.fracatlas.FracAtlas` for the release, its licence, groups and traps. Annotations/YOLO/IMG*.txt has a
line for each fracture; the files of pictures without one are empty or not there.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from core.tumour_labels import label_vector
from data.datasets.annotation_files import Box, checked_box, read_yolo, yolo_box
from data.reading.listing import printable
from data.releases.fracatlas import fracture_rows, grouped_by_part
from workflows.regions.records.records import LabelRules, OnBad, boxed, region_records


def read_fracatlas_regions(
    metadata: str | Path,
    image_dir: str | Path,
    annotation_dir: str | Path,
    *,
    rules: LabelRules | None = None,
    on_bad: OnBad = "stop",
    **looking,
) -> pd.DataFrame:
    """Records of FracAtlas; see workflows/regions/records/records.py for their columns, and for `on_bad`.

    metadata: dataset.csv; image_dir: the folder with Fractured/ and Non_fractured/; annotation_dir: the YOLO files.
    looking: of `data.datasets.columns.grouped`. A fracture without a box, boxes where the table says that there is no
    fracture: refused.
    """
    table = Path(metadata)
    image_dir = Path(image_dir)
    annotation_dir = Path(annotation_dir)
    if not annotation_dir.is_dir():
        raise FileNotFoundError(f"{printable(annotation_dir)}: no such folder of annotations")
    rules = rules or LabelRules()
    notices = []
    rows = grouped_by_part(
        fracture_rows(table, image_dir, notices, keep_missing=on_bad == "skip"), notices, **looking
    )

    def describe(row: dict, size: tuple[int, int]) -> tuple[np.ndarray, list[Box]]:
        file = annotation_dir / f"{Path(row['image']).stem}.txt"
        boxes = fracatlas_boxes(file, size) if file.is_file() else []
        if row["fractured"] == 1 and not boxes:
            missing = "no box" if file.is_file() else "no such annotation"
            raise ValueError(
                f"{printable(file)}: {missing}, and {printable(table)} says fractured = 1"
            )
        if row["fractured"] != 1 and boxes:
            told = "nothing" if np.isnan(row["fractured"]) else "0"
            raise ValueError(
                f"{printable(file)}: boxes of a fracture, and {printable(table)} says fractured = {told}"
            )
        return fracatlas_labels(row["fractured"], row["hardware"], rules), boxes

    return region_records("fracatlas", table, rows, describe, notices, on_bad)


def fracatlas_labels(fractured: float, hardware: float, rules: LabelRules) -> np.ndarray:
    """What the two flags (0, 1 or NaN) say, [38]: fractures are taken for non-pathologic, as the release is of trauma.

    Whether a radiograph with neither is abnormal nobody has said.
    """
    return label_vector(
        abnormal=True if 1 in (fractured, hardware) else None,
        tumour="no bone tumour" if rules.fracatlas_tumour == "none" else None,
        fracture=None
        if np.isnan(fractured)
        else "non-pathologic fracture"
        if fractured
        else "no fracture",
        implant=None if np.isnan(hardware) else bool(hardware),
    )


def fracatlas_boxes(file: Path, size: tuple[int, int]) -> list[Box]:
    """The boxes of a YOLO file about a radiograph of `size` (H, W), in pixels; of a polygon the box around it."""
    return boxed(
        checked_box(f"{printable(file)}: line {mark.line}", yolo_box(mark, size), size)
        for mark in read_yolo(file)
    )
