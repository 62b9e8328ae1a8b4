"""RSNA Pediatric Bone Age: left hands of children with their bone age in months, read from the releases as unpacked."""

import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from core.tables import list_names
from core.task import Task
from data.datasets.columns import counted, finished, numbers
from data.datasets.csv_table import CsvTable
from data.datasets.dataset import RadiographDataset
from data.datasets.release_folder import require_images, require_once, there
from data.reading.listing import printable
from data.tables.files import NO_VALUE, paths_below, read_table, refuse, require_columns
from data.tables.id_columns import ids

_WHOLE = re.compile(r"[0-9]+")
MONTHS = (0.0, 240.0)  # the release has 1 to 228
# id, sex and bone age of the training, validation and test tables
SCHEMAS = (
    ("id", "male", "boneage"),
    ("Image ID", "male", "Bone Age (months)"),
    ("Case ID", "Sex", "Ground truth bone age (months)"),
)
SEXES = {"male": {"true": "M", "false": "F"}, "Sex": {"M": "M", "F": "F"}}
UNKNOWN = "unknown"  # a sex that a table says is not known; an empty cell says nothing
WORDS = {
    "true": "M",
    "false": "F",
    "m": "M",
    "f": "F",
    "male": "M",
    "female": "F",
    **dict.fromkeys(("u", "o", "unknown", *NO_VALUE), UNKNOWN),  # "o" is DICOM's other
}
MALE_FLAGS = {
    "1": "M",
    "0": "F",
    "1.0": "M",
    "0.0": "F",
}  # in a column `male` alone: elsewhere 1 may be a girl


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the three sets: the first of `tables` that is there, and all of the folders that hold its images."""

    official: str
    tables: tuple[str, ...]
    folders: tuple[str, ...]


_TRAIN = "Bone Age Training Set"
_VAL = "Bone Age Validation Set"
_TEST = "Bone Age Test Set"
BLIND = "boneage-test-dataset.csv"  # Kaggle's test table, without labels: the last choice
PARTS = (
    Part(
        "train",
        (
            "boneage-training-dataset.csv",
            "train.csv",
            f"{_TRAIN}/train.csv",
            "boneage-training-dataset/train.csv",
        ),
        ("boneage-training-dataset", f"{_TRAIN}/boneage-training-dataset"),
    ),
    Part(
        "val",
        tuple(
            f"{above}Validation Dataset.csv"
            for above in ("", f"{_VAL}/", "boneage-validation-dataset/")
        ),
        tuple(
            f"{above}boneage-validation-dataset{n}"
            for above in ("", f"{_VAL}/")
            for n in ("-1", "-2", "")
        ),
    ),
    Part(
        "test",
        ("Bone age ground truth.xlsx", f"{_TEST}/Bone age ground truth.xlsx", BLIND),
        ("Test Set Images", f"{_TEST}/Test Set Images", "boneage-test-dataset"),
    ),
)


class BoneAge(RadiographDataset):
    """How old is the skeleton of this child?

    Task: regression, months; the mean of several readers after Greulich and Pyle.
    Size: 12,611 training, 1,425 validation and 200 test radiographs (ids 1377 to 15612), one for each child.
    Licence: RSNA terms of use, research and education, not commercial; cite Halabi et al., The RSNA Pediatric Bone Age
    Machine Learning Challenge, Radiology 2019;290:498, doi 10.1148/radiol.2018180736.
    Where: https://www.rsna.org/rsnai/ai-image-challenge/rsna-pediatric-bone-age-challenge-2017 (all sets, with labels)
    or kaggle.com/datasets/kmader/rsna-bone-age (training with labels, test without).

    Tree, of RSNA or of Kaggle, whose archive nests each folder in itself:

        boneage-training-dataset.csv (or train.csv)          id,boneage,male
        boneage-training-dataset/[boneage-training-dataset/]1377.png
        Bone Age Validation Set/Validation Dataset.csv       Image ID,male,Bone Age (months)
        Bone Age Validation Set/boneage-validation-dataset-{1,2}/1386.png
        Bone Age Test Set/Bone age ground truth.xlsx         Case ID,Sex,Ground truth bone age (months)
        Bone Age Test Set/Test Set Images/4360.png
        boneage-test-dataset.csv, boneage-test-dataset/      Case ID,Sex: the same 200 without labels

    The training set must be there, the others may be; `Bone Age ... Set/` may also be unpacked into the root itself.
    Records: `target`, `sex` ("M", "F", NaN where empty), `id`, `patient` (the id), `official` (train, val, test).
    Radiographs without ground truth stay, with the target NaN and a notice.
    Traps: three schemas for one thing; sex is a covariate that every reader knows (girls mature earlier); the published
    4.2 months are of the 200 test hands, not of a random part of the training set; sizes, borders and markers vary.
    """

    folder = "boneage"
    table = "boneage-training-dataset.csv"
    target = "target"
    patient = "patient"
    task = Task("regression", unit="months")

    @classmethod
    def read(cls, root: str | Path, *, keep_missing: bool = False) -> pd.DataFrame:
        """All records of the sets that are there: training, validation, test, each in the order of its table.

        keep_missing: keep rows whose image is not there, for a caller that looks at every file itself.
        Raises FileNotFoundError (folder, table or images not there) and ValueError (naming table and row).
        """
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"{printable(root)}: no such folder")
        found = [
            (part, table) for part in PARTS for table in part.tables if (root / table).is_file()
        ]
        parts = {
            part.official: (part, table) for part, table in reversed(found)
        }  # the first of its tables
        if "train" not in parts:
            wanted = " or ".join(PARTS[0].tables)
            raise FileNotFoundError(
                f"{printable(root)}: no training table {wanted}; it has {there(root)}"
            )
        sets = [
            _read_part(root, *parts[part.official], keep_missing)
            for part in PARTS
            if part.official in parts
        ]
        records = pd.concat(sets, ignore_index=True)
        require_once(root, list(records["id"]), "id")
        blind = records[records["target"].isna()].groupby("official").size()
        told = [
            f"{counted(count, 'radiograph')} of the {name} set without bone age"
            for name, count in blind.items()
        ]
        return finished(root / parts["train"][1], records, cls.task, told)


def own_table(
    root: str | Path | None,
    *,
    csv: str | Path,
    image_col: str = "image",
    target_col: str = "boneage",
    sex_col: str = "sex",
    patient_col: str | None = None,
    keep_missing: bool = False,
    **looking,
) -> pd.DataFrame:
    """The records of a table of one's own, with `target` in months and `sex` ("M", "F", NaN); see `CsvTable.read`.

    Sex: see `read_sexes`. ValueError names the row of anything else and of a bone age beyond `MONTHS`.
    """
    table = Path(csv)
    rows = read_table(table, text=[sex_col, target_col])
    require_columns(table, rows, [sex_col, target_col])
    sexes = read_sexes(table, rows, sex_col)
    sexes = sexes.where(sexes.isin(["M", "F"]), np.nan)
    numbers(table, rows[target_col], *MONTHS, unit="months")
    records = CsvTable.read(
        root,
        csv=csv,
        image_col=image_col,
        target_col=target_col,
        patient_col=patient_col,
        task="regression",
        unit="months",
        keep_missing=keep_missing,
        **looking,
    )
    told = records.attrs
    records = records.assign(sex=sexes.to_numpy())
    records.attrs = told
    return records


def _read_part(root: Path, part: Part, name: str, keep_missing: bool) -> pd.DataFrame:
    """The records of one set."""
    table = root / name
    rows = read_table(table, text=[column for schema in SCHEMAS for column in schema])
    schema = next((schema for schema in SCHEMAS if schema[0] in rows), None)
    if schema is None:
        wanted = ", ".join(repr(schema[0]) for schema in SCHEMAS)
        raise ValueError(
            f"{printable(table)}: none of the columns {wanted}; it has {list_names(rows.columns)}"
        )
    number, sex, months = schema
    blind = name == BLIND and months not in rows
    require_columns(table, rows, [sex] if blind else [sex, months])
    names = _ids(table, rows, number)
    images = _images(root, part)
    paths = paths_below(root, name, [images.get(i, f"{part.folders[0]}/{i}.png") for i in names])
    require_images(table, paths, keep_missing)
    targets = np.nan if blind else numbers(table, rows[months], *MONTHS, unit="months")
    return pd.DataFrame(
        {
            "image": paths,
            "target": targets,
            "patient": names,
            "official": part.official,
            "sex": _sexes(table, rows, sex),
            "id": names,
        }
    )


def _images(root: Path, part: Part) -> dict[str, str]:
    """Id -> path below the root, over all folders of a set and the folders of their own name in them."""
    found: dict[str, str] = {}
    for folder in part.folders:
        for place in (folder, f"{folder}/{Path(folder).name}"):
            if (root / place).is_dir():
                names = [name for name in os.listdir(root / place) if name.endswith(".png")]
                found |= {name.removesuffix(".png"): f"{place}/{name}" for name in names}
    return found


def _ids(table: Path, rows: pd.DataFrame, column: str) -> list[str]:
    """Ids as written: whole numbers, each once."""
    found = ids(table, rows, column, unique=True)
    refuse(
        table,
        column,
        found,
        ~found.map(lambda name: bool(_WHOLE.fullmatch(name))),
        "is {!r}; expected digits",
    )
    return found.tolist()


def _sexes(table: Path, rows: pd.DataFrame, column: str) -> pd.Series:
    """M, F or NaN, from True/False or M/F; ValueError names the row of anything else."""
    words = rows[column].astype("string").str.strip()
    sexes = (words.str.lower() if column == "male" else words).map(SEXES[column])
    return _known(table, column, words, sexes, "True or False" if column == "male" else "M or F")


def read_sexes(table: Path, rows: pd.DataFrame, column: str) -> pd.Series:
    """The sexes of a table of one's own, for training and prediction alike: "M", "F", `UNKNOWN` or "" (empty cell).

    Sex is m or f, male or female, true or false (male), u, unknown or a word for a missing value, in any case; 1 and 0
    only in a column called `male`, since elsewhere 1 may be a girl. ValueError names the row of anything else.
    """
    words = rows[column].astype("string").str.strip().fillna("")
    is_flag = column.strip().lower() == "male"
    sexes = words.str.lower().map(WORDS | {"": ""} | (MALE_FLAGS if is_flag else {}))
    expected = (
        "True or False, 1 or 0"
        if is_flag
        else "M or F, male or female (1 and 0 only in a column called male)"
    )
    return _known(table, column, words, sexes, expected)


def _known(table: Path, column: str, words: pd.Series, sexes: pd.Series, wanted: str) -> pd.Series:
    refuse(table, column, words, words.notna() & sexes.isna(), f"is {{!r}}; expected {wanted}")
    return sexes.astype(object).where(sexes.notna(), np.nan)
