"""Any table as a source of the region-guided tumour classifier.

A .csv (UTF-8) or .xlsx table with a header, one row per radiograph:
    image       file, relative to the folder of the pictures; an id without extension means the file that has one
    patient     optional; without it near-duplicates are one group and nothing else ties two pictures together
    tumour      malignant, intermediate, benign, no bone tumour
    bone        one of the 29 bones of configs/classes.txt
    fracture    neoplastic pathologic fracture, non-pathologic fracture, no fracture
    abnormal, implant   0 or 1
    boxes       [[x0, y0, x1, y1], ...] in pixels of the upright radiograph, one for each tumour or fracture
At least one of the five label columns; an empty cell is unknown. Other columns ride along.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from core.tumour_labels import ABNORMAL, GROUP, IMPLANT, label_index, label_vector
from data.datasets.annotation_files import Box, checked_box, parse_boxes
from data.datasets.columns import flags, grouped
from data.datasets.release_folder import require_images
from data.reading.listing import printable
from data.tables.files import paths_below, read_table, refuse, require_columns
from data.tables.id_columns import ids
from workflows.regions.records.records import OnBad, boxed, region_records

_GROUPS = ("tumour", "bone", "fracture")
_FLAGS = ("abnormal", "implant")


def read_region_table(
    table: str | Path,
    image_dir: str | Path | None = None,
    name: str = "",
    *,
    on_bad: OnBad = "stop",
    **looking,
) -> pd.DataFrame:
    """Records of such a table; see workflows/regions/records/records.py for their columns, and for `on_bad`.

    image_dir: None is the folder of the table. name: of the source, the table's own if empty. looking: of
    `data.datasets.columns.grouped`. Refused with the row: an unknown name, boxes where nothing is found, a tumour or a
    fracture that is not abnormal.
    """
    table = Path(table)
    notices = []
    rows = read_table(table, text=["image", "patient", "boxes", *_GROUPS])
    require_columns(table, rows, ["image"])
    there = [column for column in (*_GROUPS, *_FLAGS) if column in rows]
    if not there:
        raise ValueError(
            f"{printable(table)}: none of the columns {', '.join((*_GROUPS, *_FLAGS))}"
        )
    known = flags(table, rows, [column for column in _FLAGS if column in rows])
    rows = rows.assign(**known)
    folder = table.parent if image_dir is None else Path(image_dir)
    rows = located_rows(table, rows, "image", folder, notices, on_bad, **looking)

    def describe(row: dict, size: tuple[int, int]) -> tuple[np.ndarray, list[Box]]:
        where = f"{printable(table)}: row {row['row']}"
        labels = _labels(where, row)
        return labels, row_boxes(where, row.get("boxes"), size, labels)

    return region_records(name or table.stem, table, rows, describe, notices, on_bad).drop(
        columns=["row", *there]
    )


def _labels(where: str, row: dict) -> np.ndarray:
    told = {}
    for group in _GROUPS:
        if text := _text(row.get(group)):
            try:
                label_index(text, GROUP[group])
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            told[group] = text
    for column in _FLAGS:
        value = row.get(column, np.nan)
        if value == value:
            told[column] = bool(value)
    labels = label_vector(**told)
    if told.get("abnormal") is False and (finding(labels) or labels[IMPLANT] == 1):
        raise ValueError(f"{where}: abnormal is 0, and there is a tumour, a fracture or an implant")
    return labels


def finding(labels: np.ndarray) -> bool:
    """Whether a tumour or a fracture is known to be there, as a box can mark it; labels [38]."""
    return any(
        labels[index] == 1
        for group in ("tumour", "fracture")
        for index in GROUP[group].indices[:-1]
    )


def row_boxes(where: str, cell, size: tuple[int, int], labels: np.ndarray) -> list[Box]:
    """The boxes in a cell of a row with these labels [38] about a radiograph of `size` (H, W).

    ValueError begins with `where` (file and row): not boxes, not in the radiograph, or nothing is there to be marked.
    """
    text = _text(cell)
    boxes = boxed(checked_box(where, box, size) for box in parse_boxes(where, text)) if text else []
    absent = labels[[GROUP["tumour"].indices[-1], GROUP["fracture"].indices[-1]]]
    if boxes and (absent == 1).all() and labels[ABNORMAL] != 1:
        raise ValueError(f"{where}: boxes, and neither tumour nor fracture")
    return boxes


def located_rows(
    table: Path,
    rows: pd.DataFrame,
    column: str,
    folder: Path,
    notices: list[str],
    on_bad: OnBad,
    **looking,
) -> pd.DataFrame:
    """Rows with `image` (path of the file that `column` names in `folder`), `patient` and `row` (in the file).

    Without a column patient, near-duplicates are one group. FileNotFoundError or ValueError name table and row.
    """
    names = ids(table, rows, column, unique=True)
    try:
        paths = paths_below(folder, table.name, names)
    except ValueError as error:
        raise ValueError(
            f"{printable(table)}: {str(error).removeprefix(f'{folder / table.name}: ')}"
        ) from None
    refuse(
        table,
        column,
        names,
        pd.Series(paths).duplicated(),
        "is {!r}, a file that an earlier row names",
    )
    require_images(table, paths, on_bad == "skip")
    patients = ids(table, rows, "patient") if "patient" in rows else None
    rows = rows.drop(
        columns=[name for name in ("image", "patient") if name in rows and name != column]
    )
    rows = rows.assign(image=paths, row=range(2, len(rows) + 2))
    return grouped(rows, notices, **looking) if patients is None else rows.assign(patient=patients)


def _text(cell) -> str:
    return "" if cell is None or cell != cell else str(cell).strip()
