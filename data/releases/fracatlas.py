"""FracAtlas as it is published: fractures and orthopaedic hardware in hands, legs, hips and shoulders."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from core.task import Task
from data.datasets.columns import counted, finished, flags, grouped
from data.datasets.dataset import RadiographDataset
from data.datasets.release_folder import pictures_in, require_images
from data.reading.listing import printable
from data.tables.files import paths_below, read_table, require_columns
from data.tables.id_columns import ids

_FOLDERS = ("Fractured", "Non_fractured")
_PARTS = ("hand", "leg", "hip", "shoulder", "mixed")


class FracAtlas(RadiographDataset):
    """Is there a fracture?

    Task: binary, `fractured` of the table. Size: 4,083 radiographs, 717 to 719 with a fracture (paper and archive
    differ; what is read is counted). Licence: CC BY 4.0.
    Source: Abedeen et al., FracAtlas, Scientific Data 10:521, 2023, https://doi.org/10.6084/m9.figshare.22363012
    Tree: FracAtlas/dataset.csv, FracAtlas/images/Fractured/IMG*.jpg, FracAtlas/images/Non_fractured/IMG*.jpg (the
    annotations beside them are not needed here).
    Groups: there are no patient ids. Near-duplicates are one group; where body part and hardware agree, at a laxer
    distance (data/reading/near_duplicates.py). Other views of the same patient cannot be known.
    Traps: folder and table say the same thing twice, and a contradiction is an error; 15 pictures are exact copies of
    others; some JPEGs are cut short, and are refused by the reader; several views in one picture (`multiscan`);
    burnt-in text; the published split has no negatives and is not used.
    """

    folder = "FracAtlas"
    table = "dataset.csv"
    image = "images/{folder}/{image_id}"
    target = "fractured"
    task = Task("binary", ("no fracture", "fracture"))

    @classmethod
    def read(cls, root: str | Path, *, keep_missing: bool = False, **looking) -> pd.DataFrame:
        """All records below `root`; reads every picture once to find the near-duplicates.

        keep_missing: keep rows whose picture is not there, for a caller that looks at every file itself.
        looking: distance, cache, workers and progress of `data.reading.near_duplicates.near_duplicate_groups`.
        FileNotFoundError or ValueError name what is missing or wrong.
        """
        root = Path(root)
        notices: list[str] = []
        rows = fracture_rows(root / cls.table, root / "images", notices, keep_missing=keep_missing)
        records = grouped_by_part(rows.assign(target=rows[cls.target]), notices, **looking)
        return finished(root / cls.table, records, cls.task, notices)


class FracAtlasImplant(FracAtlas):
    """Is there orthopaedic hardware? `hardware` of the table, in 99 of 4,083; all else as in `FracAtlas`."""

    target = "hardware"
    task = Task("binary", ("no hardware", "hardware"))


def fracture_rows(
    table: Path, images: Path, notices: list[str], *, keep_missing: bool = False
) -> pd.DataFrame:
    """The checked rows of the table with the column `image`, the path of each picture in a folder of `images`.

    `notices` is told of pictures without a row. FileNotFoundError or ValueError name what is missing or wrong.
    """
    rows = read_table(table, text=["image_id"])
    require_columns(table, rows, ["image_id", "fractured", "hardware", *_PARTS])
    names = ids(table, rows, "image_id", files=True)
    known = flags(table, rows, ["fractured", "hardware"])
    folders = [f"{images.name}/{folder}" for folder in _FOLDERS]
    found = pictures_in(images.parent, folders)
    places = _places(table, names, known["fractured"], found, folders)
    paths = paths_below(images.parent, os.path.relpath(table, images.parent), places)
    require_images(table, paths, keep_missing)
    if beyond := sorted(set(found) - set(names)):
        notices.append(
            f"{counted(len(beyond), 'file')} in images not in the table, first {printable(beyond[0])}"
        )
    return rows.assign(image_id=names, **known, image=paths)


def grouped_by_part(rows: pd.DataFrame, notices: list[str], **looking) -> pd.DataFrame:
    """Rows with groups in place of patients, as the class says; a notice tells how many. looking: of `grouped`."""
    return grouped(rows, notices, (*_PARTS, "hardware"), told="body part and hardware", **looking)


def _places(
    table: Path, names: pd.Series, fractured: pd.Series, found: dict[str, str], folders: list[str]
) -> list[str]:
    """Where each picture is, below the root; ValueError where folder and table contradict each other."""
    expected = np.where(fractured == 1, *folders)
    actual = [found.get(name, folder) for name, folder in zip(names, expected)]
    wrong = [
        row
        for row in range(len(names))
        if actual[row] != expected[row] and fractured.notna().iloc[row]
    ]
    if wrong:
        row = wrong[0]
        raise ValueError(
            f"{printable(table)}: {counted(len(wrong), 'row')} and folders contradict each other: row {row + 2} says "
            f"fractured = {fractured.iloc[row]:.0f} of {names.iloc[row]}, which is in {actual[row]}"
        )
    return [f"{folder}/{name}" for folder, name in zip(actual, names)]
