"""BTXRD as it is published: primary bone tumours of the limbs and the pelvis, and normal radiographs."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from core.task import Task
from data.datasets.columns import counted, finished, flags, grouped
from data.datasets.dataset import RadiographDataset
from data.datasets.release_folder import pictures_in, require_images
from data.reading.listing import printable
from data.reading.near_duplicates import BITS
from data.tables.files import paths_below, read_table, require_columns
from data.tables.id_columns import ids

SITES = (
    "hand",
    "ulna",
    "radius",
    "humerus",
    "foot",
    "tibia",
    "fibula",
    "femur",
    "hip bone",
    "ankle-joint",
    "knee-joint",
    "hip-joint",
    "wrist-joint",
    "elbow-joint",
    "shoulder-joint",
)
BENIGN = (
    "osteochondroma",
    "multiple osteochondromas",
    "simple bone cyst",
    "giant cell tumor",
    "osteofibroma",
    "synovial osteochondroma",
    "other bt",
)
MALIGNANT = ("osteosarcoma", "other mt")
SUBTYPES = (*BENIGN, *MALIGNANT)
_TOLD = "centre, age, gender, sites and subtype"
_SUFFIXES = (".jpeg", ".jpg")


class Btxrd(RadiographDataset):
    """Is there a bone tumour?

    Task: binary, `tumor` of the table. Size: 3,746 radiographs: 1,879 normal, 1,525 benign, 342 malignant; `center` 1
    (hospitals in Guangxi) has 2,938, 2 (Radiopaedia) 549, 3 (MedPix) 259.
    Licence: stated twice and differently: CC BY-NC-ND 4.0 in the article, CC BY 4.0 at figshare. Keep to the stricter.
    Source: Yao et al., BTXRD, Scientific Data 2025, https://doi.org/10.6084/m9.figshare.27865398
    Tree: BTXRD/dataset.csv or BTXRD/dataset.xlsx (the first that is there), BTXRD/images/IMG*.jpeg and a few .jpg
    (the outlines in BTXRD/Annotations are not needed here).
    Groups: there are no patient ids, and one lesion may be there from several angles, which look nothing alike.
    Near-duplicates are one group, and so are all rows that agree in centre, age, gender, sites and subtype. That joins
    some strangers, which costs a few groups and hides nothing.
    Traps: one picture carries two subtypes; `wrist-joint` is always 0; sites are not exclusive; giant cell tumours
    count as benign; the centre is a strong confounder (27 of 259 of MedPix are normal, and sources leave watermarks),
    so look at each `center` by itself.
    """

    folder = "BTXRD"
    tables = ("dataset.csv", "dataset.xlsx")
    table = tables[0]
    image = "images/{image_id}"
    target = "tumor"
    task = Task("binary", ("normal", "tumour"))

    @classmethod
    def read(cls, root: str | Path, *, keep_missing: bool = False, **looking) -> pd.DataFrame:
        """All records of the task below `root`; reads every picture of it once to find the near-duplicates.

        keep_missing: keep rows whose picture is not there, for a caller that looks at every file itself.
        looking: distance, cache, workers and progress of `data.reading.near_duplicates.near_duplicate_groups`.
        FileNotFoundError or ValueError name what is missing or wrong.
        """
        root = Path(root)
        name = next((name for name in cls.tables if (root / name).is_file()), cls.tables[0])
        notices: list[str] = []
        rows = cls.select(
            tumour_rows(root / name, root / "images", keep_missing=keep_missing), notices
        )
        records = grouped_by_lesion(rows.assign(target=cls.labels(rows)), notices, **looking)
        return finished(root / name, records, cls.task, notices)

    @classmethod
    def select(cls, rows: pd.DataFrame, notices: list[str]) -> pd.DataFrame:
        """The rows that the task is about; what is left out is told in `notices`."""
        return rows

    @classmethod
    def labels(cls, rows: pd.DataFrame) -> pd.Series:
        """The targets of the selected rows."""
        return rows["tumor"]


class BtxrdMalignancy(Btxrd):
    """Is this tumour malignant? The 1,867 tumours alone; all else as in `Btxrd`."""

    target = "malignant"
    task = Task("binary", ("benign", "malignant"))

    @classmethod
    def select(cls, rows: pd.DataFrame, notices: list[str]) -> pd.DataFrame:
        """Tumours."""
        tumours = rows[rows["tumor"] == 1]
        notices.append(f"{counted(len(rows) - len(tumours))} without a tumour left out")
        return tumours

    @classmethod
    def labels(cls, rows: pd.DataFrame) -> pd.Series:
        """0 benign, 1 malignant."""
        return rows["malignant"]


class BtxrdSubtype(BtxrdMalignancy):
    """Which of nine kinds of tumour is it? Tumours with exactly one subtype; all else as in `Btxrd`."""

    target = "subtype"
    task = Task("multiclass", SUBTYPES)

    @classmethod
    def select(cls, rows: pd.DataFrame, notices: list[str]) -> pd.DataFrame:
        """Tumours of one subtype; the published sheet has one picture of two."""
        tumours = super().select(rows, notices)
        subtypes = (tumours[list(SUBTYPES)] == 1).sum(axis=1)
        for several, told in (
            (subtypes > 1, "with several subtypes"),
            (subtypes == 0, "without a subtype"),
        ):
            if several.any():
                first = printable(tumours["image_id"][several].iloc[0])
                notices.append(f"{counted(int(several.sum()))} {told} left out, first {first}")
        return tumours[subtypes == 1]

    @classmethod
    def labels(cls, rows: pd.DataFrame) -> pd.Series:
        """The index of the subtype in `SUBTYPES`."""
        return pd.Series(
            rows[list(SUBTYPES)].to_numpy().argmax(axis=1).astype(float), index=rows.index
        )


def tumour_rows(table: Path, images: Path, *, keep_missing: bool = False) -> pd.DataFrame:
    """The checked rows of a sheet of BTXRD with the column `image`, the path of each picture in the folder `images`.

    FileNotFoundError or ValueError name what is missing or wrong.
    """
    rows = read_table(table, text=["image_id"])
    marked = ["tumor", "benign", "malignant", *SUBTYPES]
    require_columns(table, rows, ["image_id", "center", "age", "gender", *SITES, *marked])
    names = ids(table, rows, "image_id", files=True)
    rows = rows.assign(image_id=names, **flags(table, rows, marked))
    _check(table, rows)
    found = pictures_in(images.parent, [images.name])
    places = [f"{images.name}/{_on_disk(name, found)}" for name in names]
    paths = paths_below(images.parent, os.path.relpath(table, images.parent), places)
    require_images(table, paths, keep_missing)
    return rows.assign(image=paths)


def grouped_by_lesion(rows: pd.DataFrame, notices: list[str], **looking) -> pd.DataFrame:
    """Rows with groups in place of patients, as the class says; a notice tells how many. looking: of `grouped`."""
    return grouped(
        rows, notices, ("center", "age", "gender", *SITES, *SUBTYPES), BITS, _TOLD, **looking
    )


def _check(table: Path, rows: pd.DataFrame) -> None:
    """ValueError naming the first row whose columns contradict each other."""
    benign, malignant = (
        rows[list(kinds)].fillna(0).sum(axis=1) > 0 for kinds in (BENIGN, MALIGNANT)
    )
    for wrong, told in (
        (rows["benign"] + rows["malignant"] != rows["tumor"], "tumor is not benign + malignant"),
        (benign & (rows["benign"] != 1), "a benign subtype, and benign is not 1"),
        (malignant & (rows["malignant"] != 1), "a malignant subtype, and malignant is not 1"),
    ):
        wrong = wrong & rows[["tumor", "benign", "malignant"]].notna().all(axis=1)
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            name = printable(rows["image_id"].iloc[place])
            raise ValueError(
                f"{printable(table)}: row {place + 2} ({name}) contradicts itself: {told}"
            )


def _on_disk(name: str, found: dict[str, str]) -> str:
    """The file that `name` means: itself, or the one with the other of the two suffixes of the release."""
    if name in found:
        return name
    path = Path(name)
    others = [path.stem + suffix for suffix in _SUFFIXES if path.stem + suffix in found]
    return others[0] if path.suffix in _SUFFIXES and len(others) == 1 else name
