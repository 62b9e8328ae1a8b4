"""Hands whose bone age is asked: files, folders, lists and tables with a sex for each -> one table of records.

A file that a list or a table names and that is not there is told and left out; the others go on. A sex is never
guessed: it is a word of the table, of the command line, or of a DICOM's tag if that was asked for, or it is unknown.

h, w: the network's input in pixels.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from core.files import printable
from core.progress import steps
from core.tables import list_names
from data.datasets.columns import numbers
from data.reading.dicom.patient import patient_facts
from data.reading.listing import Listings, PassedOver, list_radiographs, named_files, near_hint
from data.reading.refusal import UnreadableRadiograph
from data.releases.rsna_bone_age import MONTHS, PARTS, read_sexes
from data.tables.files import read_table, refuse
from data.tables.id_columns import ids
from data.views.preprocessing import Preprocessing

COLUMNS = ("image", "name", "sex", "said", "age_months", "target", "patient")
# what a table may call a column, in any case
NAMES = {
    "image": ("image", "id", "image id", "case id"),
    "sex": ("sex", "male"),
    "age": ("age_months", "age_years"),
    "target": ("bone_age_months", "boneage", "bone age (months)", "ground truth bone age (months)"),
    "patient": ("patient", "patient_id"),
}
UNCLEAR = {
    "age": "age_months or age_years (chronological)",
    "gender": "sex",
    "bone_age": "bone_age_months",
}
OLDEST = 1200.0  # months of a chronological age
Lost = tuple[Path, str, str]  # path, reason (of `data.reading.radiograph.REASONS`), detail


def read_inputs(
    entries: Sequence[Path],
    *,
    recursive: bool = True,
    beside: Path | None = None,
    passed_over: PassedOver | None = None,
) -> tuple[pd.DataFrame, list[Lost]]:
    """(records, what is lost) of folders, files, .txt lists and .csv or .xlsx tables, each radiograph once.

    Records: `image` (path), `name` (as written), `sex` ("M", "F", "unknown", or "" where nothing says it), `said` (who
    says so, for messages), `age_months` (chronological) and `target` (true bone age), both NaN where unknown, `patient`
    (or the path). A table has a column `image` with paths relative to itself, or RSNA's `id`, and perhaps `sex` or
    `male` (see `data.releases.rsna_bone_age.read_sexes`), `age_months` (or `age_years`), `bone_age_months` (or RSNA's
    names) and `patient`. Paths of a .txt list are relative to the list or, if there is no such file, to the folder
    `beside`.
    passed_over: as in `list_radiographs`.
    FileNotFoundError, PermissionError and ValueError name the file, and the row, of what is wrong with them.
    """
    rows: list[dict] = []
    lost: list[Lost] = []
    for entry in map(Path, entries):
        suffix = entry.suffix.lower()
        if suffix in (".csv", ".xlsx") and not entry.is_dir():
            rows += _from_table(entry, lost)
        elif suffix == ".txt" and not entry.is_dir():
            rows += _from_list(entry, beside, lost)
        else:
            paths = list_radiographs([entry], recursive=recursive, passed_over=passed_over)
            rows += [{"image": str(path), "name": str(path)} for path in paths]
    records = pd.DataFrame(_once(rows), columns=list(COLUMNS))
    records[["sex", "said"]] = records[["sex", "said"]].astype(object).fillna("")
    records = records.astype({"age_months": float, "target": float})
    records["patient"] = records["patient"].where(records["patient"].notna(), records["image"])
    if not len(records) and not lost:
        raise FileNotFoundError(
            f"no radiographs in {', '.join(printable(entry) for entry in entries) or '(nothing)'}"
        )
    return records, lost


def add_patient_tags(records: pd.DataFrame, *, sex: bool, age: bool) -> int:
    """Fill in `sex` and `age_months` from DICOM tags where nothing else says them; returns how many files had any.

    The table or the command line wins. Nothing else of a file's tags is read or kept.
    """
    filled = 0
    for row, path in enumerate(steps(records["image"], "DICOM tags", "file")):
        wants_sex = sex and not records.at[row, "sex"]
        wants_age = age and np.isnan(records.at[row, "age_months"])
        if not (wants_sex or wants_age):
            continue
        facts = patient_facts(path)
        if wants_sex and facts.sex:
            records.loc[row, ["sex", "said"]] = [facts.sex, "PatientSex"]
        if wants_age:
            records.at[row, "age_months"] = facts.age_months
        filled += bool((wants_sex and facts.sex) or (wants_age and not np.isnan(facts.age_months)))
    return filled


class BoneAgeInputs(Dataset):
    """Hands as a network takes them; item `row` is a pure function of its file. `describe(picture [h, w])` -> float32
    [L] is computed beside it, in the loader's process."""

    def __init__(
        self, paths: Sequence[str], preprocessing: Preprocessing, describe: Callable, length: int
    ):
        self.paths = list(paths)
        self.preprocessing = preprocessing
        self.describe = describe
        self.length = length

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> dict:
        """{"image": [1, h, w] uint8 or float32 in [0, 1], "size": [2] int (H, W), "look": [L], "row": int,
        "reason": str, "detail": str}. A file that cannot be used has a reason, and its picture means nothing."""
        p = self.preprocessing
        size = (0, 0)
        reason = ""
        detail = ""
        look = np.zeros(self.length, np.float32)
        try:
            scaled = p.read(self.paths[row])
            size = scaled.shape[:2]
            image = p.fit(scaled)
            look = self.describe(image[0].numpy())
        except UnreadableRadiograph as error:
            kind = torch.uint8 if p.intensity == "minmax" else torch.float32
            image = torch.zeros(1, p.height, p.width, dtype=kind)
            reason = error.reason
            detail = error.detail
        return {
            "image": image,
            "size": torch.tensor(size),
            "look": torch.from_numpy(look),
            "row": row,
            "reason": reason,
            "detail": detail,
        }


def _from_list(source: Path, beside: Path | None, lost: list[Lost]) -> list[dict]:
    if not source.exists():
        raise FileNotFoundError(f"{printable(source)}: no such list of files")
    rows: list[dict] = []
    listings = Listings()
    folders = [source.parent, *([] if beside is None else [beside])]
    for line, name in named_files(source):
        try:
            places = [listings.named(folder, name) for folder in folders]
        except ValueError as error:
            raise ValueError(f"{printable(source)}: line {line}: {error}") from None
        path = next((place for place in places if listings.is_file(place)), None)
        if path is None:
            lost.append(
                (Path(name), "missing", f"no such file; line {line} of {printable(source)}")
            )
        else:
            rows.append({"image": str(path), "name": name})
    return rows


def _from_table(source: Path, lost: list[Lost]) -> list[dict]:
    if not source.exists():
        raise FileNotFoundError(f"{printable(source)}: no such table")
    rows = read_table(source, text=None)
    found = _columns(source, rows)
    are_paths = found["image"].strip().lower() == "image"
    names = _names(source, rows, found["image"], are_paths)
    sexes = read_sexes(source, rows, found["sex"]) if "sex" in found else [""] * len(rows)
    ages = _numbers(source, rows, found.get("age"), 0, OLDEST)
    ages = ages * 12 if found.get("age", "").strip().lower() == "age_years" else ages
    targets = _numbers(source, rows, found.get("target"), *MONTHS)
    patients = (
        ids(source, rows, found["patient"], optional=True)
        if "patient" in found
        else [None] * len(rows)
    )
    paths = _files(source, list(names), are_paths)
    kept = []
    columns = zip(paths, names, sexes, ages, targets, patients)
    for row, (path, name, sex, age, target, patient) in enumerate(columns, 2):
        if path is None:
            hint = near_hint(str(source.parent / name)) if are_paths else ""
            lost.append(
                (Path(name), "missing", f"no such file; row {row} of {printable(source)}{hint}")
            )
            continue
        kept.append(
            {
                "image": str(path),
                "name": name,
                "sex": sex,
                "said": f"{printable(source)}: row {row}",
                "age_months": age,
                "target": target,
                "patient": patient,
            }
        )
    return kept


def _names(source: Path, rows: pd.DataFrame, column: str, are_paths: bool) -> pd.Series:
    """Paths, or ids of RSNA's, without outer spaces; ValueError with the row of an empty or a damaged one."""
    if not are_paths:
        return ids(source, rows, column)
    names = rows[column].str.strip()
    refuse(source, column, names, names.isna() | (names == ""), "is empty")
    return names


def _columns(source: Path, rows: pd.DataFrame) -> dict[str, str]:
    """Noun -> the table's own name of its column; ValueError for what is unclear, missing or there twice."""
    there = {str(column).strip().lower(): str(column) for column in rows.columns}
    for name, better in UNCLEAR.items():
        if name in there:
            raise ValueError(
                f"{printable(source)}: column {there[name]!r} is unclear; call it {better}"
            )
    found = {}
    for noun, names in NAMES.items():
        mine = [there[name] for name in names if name in there]
        mine = mine[:1] if noun == "image" else mine  # RSNA's table may have an image beside its id
        if len(mine) > 1:
            raise ValueError(
                f"{printable(source)}: columns {mine[0]!r} and {mine[1]!r} say the same; keep one"
            )
        if mine:
            found[noun] = mine[0]
    if "image" not in found:
        has = list_names(rows.columns)
        raise ValueError(f"{printable(source)}: no column 'image' (or RSNA's 'id'); it has {has}")
    return found


def _numbers(
    source: Path, rows: pd.DataFrame, column: str | None, low: float, high: float
) -> pd.Series:
    if column is None:
        return pd.Series(np.nan, index=rows.index)
    return numbers(source, rows[column], low, high)


def _files(source: Path, names: Sequence[str], are_paths: bool) -> list[Path | None]:
    """The file that each cell means: a path relative to the table, or an id of RSNA's in the folders beside it."""
    if are_paths:
        listings = Listings()
        paths = []
        for row, name in enumerate(names, 2):
            try:
                path = listings.named(source.parent, name)
            except ValueError as error:
                raise ValueError(f"{printable(source)}: row {row}: {error}") from None
            paths.append(path if listings.is_file(path) else None)
        return paths
    folders = dict.fromkeys(
        [source.stem, *(Path(folder).name for part in PARTS for folder in part.folders)]
    )
    found: dict[str, Path] = {}
    for folder in (
        Path(),
        *(Path(name) for name in folders),
        *(Path(name, name) for name in folders),
    ):
        place = source.parent / folder
        if place.is_dir():
            found |= {file: place / file for file in os.listdir(place) if file.endswith(".png")}
    return [found.get(f"{name}.png") for name in names]


def _once(rows: list[dict]) -> list[dict]:
    """Each file once, as the row says it that has a sex; ValueError for one with two sexes."""
    first: dict[str, dict] = {}
    for row in rows:
        real = os.path.realpath(row["image"])
        before = first.setdefault(real, row)
        words = [one.get("sex", "") for one in (before, row)]
        if all(words) and words[0].lower() != words[1].lower():
            raise ValueError(
                f"{printable(row['image'])} is named twice, with sex {words[0]!r} and {words[1]!r}"
            )
        if words[1] and not words[0]:
            first[real] = row
    return list(first.values())
