"""SNUH-bonetu, SKELEX's private set of bone tumours, as a source of the region-guided tumour classifier.

Nobody outside has it; whoever has a set like it can write its table in the same form, or in that of
workflows/regions/records/table.py.

Task: all 38 labels. Size and licence: not published.
Tree: SNUH-bonetu/images/*, SNUH-bonetu/metadata.csv (or .xlsx).
Columns, of which the part before "(" counts, in any case: file_name; Location, the number 5 to 33 of the bone in
configs/classes.txt or its name; Tumor type, 1 for a tumour; malignant(...), intermediate(...), benign, No_bonetu;
neoplastic pathologic fracture, non-pathologic fracture, No_fracture; Implant. Flags are 0, 1 or empty. Ours besides,
where there are such: patient; boxes, `[[x0, y0, x1, y1], ...]` in pixels, one for each tumour or fracture. Others ride
along.
Groups: the column patient, else near-duplicates.
Traps: SKELEX takes the first of several flags and an empty cell for a class; here several are a contradiction, and
what is empty is unknown.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from core.tables import list_names
from core.tumour_labels import (
    ABNORMAL,
    FRACTURES,
    GROUP,
    IMPLANT,
    LABELS,
    TUMOURS,
    label_index,
    label_vector,
)
from data.datasets.annotation_files import Box
from data.datasets.columns import flags
from data.reading.listing import printable
from data.tables.files import read_table
from workflows.regions.records.records import LabelRules, OnBad, region_records
from workflows.regions.records.table import located_rows, row_boxes

_TUMOUR = dict(zip(("malignant", "intermediate", "benign", "no_bonetu"), TUMOURS))
_FRACTURE = dict(
    zip(("neoplastic pathologic fracture", "non-pathologic fracture", "no_fracture"), FRACTURES)
)
_FLAGS = ("tumor type", *_TUMOUR, *_FRACTURE, "implant")
NEEDED = ("file_name", "location", *_FLAGS)


def read_snuh_regions(
    metadata: str | Path,
    image_dir: str | Path,
    *,
    rules: LabelRules | None = None,
    on_bad: OnBad = "stop",
    **looking,
) -> pd.DataFrame:
    """Records of SNUH-bonetu; see workflows/regions/records/records.py for their columns, and for `on_bad`.

    looking: of `data.datasets.columns.grouped`. Refused with the row: several classes of one group or none at all (all
    0), a tumour that is "No_bonetu" or a class of tumour without one, a Location that is no bone, boxes where nothing
    is found.
    """
    table = Path(metadata)
    rules = rules or LabelRules()
    notices = []
    rows = _named(table, read_table(table, text=["file_name", "patient", "boxes"]))
    known = flags(table, rows, _FLAGS)
    rows = located_rows(table, rows, "file_name", Path(image_dir), notices, on_bad, **looking)
    rows = rows.assign(**known)

    def describe(row: dict, size: tuple[int, int]) -> tuple[np.ndarray, list[Box]]:
        where = f"{printable(table)}: row {row['row']}"
        labels = snuh_labels(where, row, rules)
        return labels, row_boxes(where, row.get("boxes"), size, labels)

    records = region_records("snuh", table, rows, describe, notices, on_bad)
    return records.drop(columns=["row", *_FLAGS])


def snuh_labels(where: str, row: dict, rules: LabelRules) -> np.ndarray:
    """What a row says, [38]; its keys are `NEEDED`, its flags 0, 1 or NaN. ValueError begins with `where`."""
    labels = label_vector(
        tumour=_one(where, row, _TUMOUR),
        bone=_bone(where, row["location"]),
        fracture=_one(where, row, _FRACTURE),
    )
    tumour = row["tumor type"]
    implant = row["implant"]
    named = labels[list(GROUP["tumour"].indices)]
    if tumour == tumour and not np.isnan(named).any() and tumour != 1 - named[-1]:
        told = LABELS[GROUP["tumour"].indices[int(named.argmax())]]
        raise ValueError(f"{where}: Tumor type is {tumour:g}, and the class is {told}")
    labels[IMPLANT] = implant
    if tumour != tumour and not np.isnan(named).any():
        tumour = 1 - named[-1]
    fractured = 1 - labels[GROUP["fracture"].indices[-1]]
    found = [tumour] if rules.abnormal == "tumour" else [tumour, fractured, implant]
    labels[ABNORMAL] = 1 if 1 in found else 0 if all(value == 0 for value in found) else np.nan
    return labels


def _one(where: str, row: dict, columns: dict[str, str]) -> str | None:
    """The one label whose column is 1; None if all others are empty or one might still hold."""
    holding = [name for name in columns if row[name] == 1]
    if len(holding) > 1:
        raise ValueError(f"{where}: {' and '.join(holding)} contradict each other")
    if not holding and all(row[name] == 0 for name in columns):
        raise ValueError(
            f"{where}: none of {', '.join(columns)} is 1; leave them empty where it is not known"
        )
    return columns[holding[0]] if holding else None


def _bone(where: str, location) -> str | None:
    """The bone that a number of the class list, or a name, stands for; None for an empty cell."""
    if location is None or location != location or not str(location).strip():
        return None
    text = str(location).strip()
    numbers = GROUP["bone"].indices
    try:
        number = float(text)
    except ValueError:
        try:
            return LABELS[label_index(text, GROUP["bone"])]
        except ValueError:
            number = np.nan
    if number not in numbers:
        shown = printable(text)[:100]
        raise ValueError(
            f"{where}: Location {shown!r}; expected {numbers[0]} to {numbers[-1]} or the name of a bone"
        )
    return LABELS[int(number)]


def _named(table: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows with the short names of `NEEDED` and ours; ValueError for a column that lacks or is there twice."""
    short = {column: str(column).split("(")[0].strip().casefold() for column in rows.columns}
    wanted = (*NEEDED, "patient", "boxes")
    for name in wanted:
        columns = [str(column) for column in short if short[column] == name]
        if len(columns) > 1:
            raise ValueError(
                f"{printable(table)}: columns {' and '.join(map(repr, columns))} both mean {name}"
            )
        if not columns and name in NEEDED:
            raise ValueError(
                f"{printable(table)}: no column {name!r}; it has {list_names(rows.columns)}"
            )
    return rows.rename(columns={column: name for column, name in short.items() if name in wanted})
