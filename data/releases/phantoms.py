"""Labelled phantoms: the folder that `scripts/make_phantoms.py --layout folder` writes, as data sets.

Data card. Task: see `PHANTOM_TASKS`. Size: as made. Licence: none needed, drawn by phantoms/study.py. Patients own one
to four views; labels are exact. Traps: none planted here; a lesion can be tiny in the "hard" setting.
"""

from pathlib import Path

import pandas as pd

from core.task import Task
from data.datasets.dataset import RadiographDataset
from data.tables.files import missing_words, paths_below, read_table, refuse, require_columns
from data.tables.id_columns import ids

_TUMOURS = ("lytic", "sclerotic", "osteochondroma")
_HAND = ("hand", "wrist")
ADULT_YEARS = 19

PHANTOM_TASKS = {
    "region": Task("multiclass", ()),
    "implant": Task("binary", ("none", "implant")),
    "fracture": Task("binary", ("none", "fracture")),
    "tumour": Task("binary", ("none", "tumour")),
    "abnormal": Task("binary", ("normal", "any condition")),
    "bone_age": Task("regression", unit="months"),
}


class PhantomFolder(RadiographDataset):
    """records.csv with images/ and masks/; the target is chosen with `read(root, task)`."""

    table = "records.csv"
    image = "{image}"
    target = "condition"
    patient = "patient"
    task = Task("binary")

    @classmethod
    def read(cls, root: str | Path, task: str = "abnormal") -> pd.DataFrame:
        """Records with the target of `task` (a key of `PHANTOM_TASKS`); NaN where it has no meaning."""
        if task not in PHANTOM_TASKS:
            raise ValueError(f"task {task!r}: choose {', '.join(PHANTOM_TASKS)}")
        table = Path(root) / cls.table
        words = ["image", "mask", "patient", "region", "condition"]
        rows = read_table(table, text=words)
        require_columns(table, rows, [*words, "age_years", "bone_age_months"])
        for column in ("image", "region", "condition"):
            refuse(
                table, column, rows[column], missing_words(rows[column]), "is {!r}; expected a word"
            )
        masks = rows["mask"].fillna("")
        records = rows.assign(
            image=paths_below(root, cls.table, rows["image"]),
            mask=[
                path if mask else ""
                for path, mask in zip(paths_below(root, cls.table, masks), masks)
            ],
            patient=ids(table, rows, cls.patient),
        )
        return records.assign(target=phantom_target(rows, task))


def phantom_target(rows: pd.DataFrame, task: str, regions: list[str] | None = None) -> pd.Series:
    """The target column of `task` as numbers. `regions` are the classes of "region", in order (default: this table's);
    a test table must be given the training table's, or its numbers mean other regions. Unlisted regions are NaN."""
    if task == "region":
        names = phantom_regions(rows) if regions is None else regions
        return rows["region"].map({name: i for i, name in enumerate(names)}).astype(float)
    if task == "bone_age":  # of growing hands
        growing = rows["region"].isin(_HAND) & (rows["age_years"] < ADULT_YEARS)
        return rows["bone_age_months"].where(growing)
    wanted = {"implant": ("implant",), "fracture": ("fracture",), "tumour": _TUMOURS}.get(task)
    positive = rows["condition"].isin(wanted) if wanted else rows["condition"] != "normal"
    return positive.astype(float)


def phantom_regions(rows: pd.DataFrame) -> list[str]:
    """The regions of a table in a fixed order: the classes of the task "region"."""
    return sorted(rows["region"].unique())
