"""Any table of radiographs: the user names its columns."""

import os
from pathlib import Path

import pandas as pd

from core.tables import checked_names, number_text
from core.task import Task
from data.datasets.columns import counted, finished, grouped, numbers, refuse_unclear_labels
from data.datasets.dataset import RadiographDataset
from data.datasets.release_folder import require_images
from data.reading.listing import printable
from data.tables.files import missing_words, paths_below, read_table, refuse, require_columns
from data.tables.id_columns import clean_text, ids, refuse_look_alikes

KINDS = ("binary", "multiclass", "regression")
_RESERVED = ("image", "target", "patient", "study", "official")
_REMEDY = (
    "; --data_root FOLDER names a folder that holds all of the pictures: absolute paths below it are read, other names "
    "start from it"
)


class CsvTable(RadiographDataset):
    """Whatever your table says.

    Task: binary, multiclass or regression; the classes are the values of the target column and stand in
    `records.attrs["task"]`. Licence and traps: yours to know.
    Tree: a .csv (UTF-8) or .xlsx table with a header; pictures are named relative to the folder of the table, or to
    another root, and lie below it. An id without extension means the one file of that name that has one.
    Groups: the patient column. Without one, near-duplicates are one group and nothing else ties two pictures together.
    An empty cell is no label: such rows stay with the target NaN. Where all other labels are numbers, NA, NaN, None and
    null are none, either, and a notice counts them; among words they might be a class, and are refused. All other
    columns ride along; one that has a name of ours (image, target, patient, study, official) is kept as "NAME (table)".
    """

    table = ""
    image = ""
    target = ""
    task = Task("multiclass")

    @classmethod
    def read(
        cls,
        root: str | Path | None,
        *,
        csv: str | Path,
        image_col: str,
        target_col: str,
        patient_col: str | None = None,
        task: str = "binary",
        unit: str = "",
        keep_missing: bool = False,
        **looking,
    ) -> pd.DataFrame:
        """All records of the table `csv`, whose pictures lie below `root` (None: the folder of the table).

        task: one of `KINDS`. unit: of a regression, for axes and tables. keep_missing, looking: as for `FracAtlas`.
        FileNotFoundError or ValueError name what is missing or wrong, with the row.
        """
        if task not in KINDS:
            raise ValueError(f"task {task!r}: choose {', '.join(KINDS)}")
        table = Path(csv)
        root = table.parent if root is None else Path(root)
        columns = [image_col, target_col, *([patient_col] if patient_col else [])]
        rows = read_table(table, text=columns)
        require_columns(table, rows, columns)
        names = _names(table, rows[image_col])
        read_labels = _numbers if task == "regression" else _classes
        targets, meaning, notices = read_labels(table, rows[target_col], task, unit)
        patients = ids(table, rows, patient_col) if patient_col else None
        paths = _paths(table, root, names)
        refuse(
            table,
            image_col,
            names,
            pd.Series(paths).duplicated(),
            "is {!r}, a file that an earlier row names",
        )
        require_images(table, paths, keep_missing)
        records = rows.rename(columns={name: f"{name} (table)" for name in _RESERVED})
        checked_names(table, records.columns)
        records = records.assign(image=paths, target=targets)
        if targets.isna().any():
            notices.append(f"{counted(int(targets.isna().sum()))} without a label in {target_col}")
        if patients is None:
            records = grouped(records, notices, **looking)
        else:
            records = records.assign(patient=patients)
        return finished(table, records, meaning, notices)


def _names(table: Path, column: pd.Series) -> pd.Series:
    """Names of pictures without outer spaces; ValueError for an empty one and one that is there twice."""
    names = column.str.strip()
    refuse(table, str(column.name), names, names.isna() | (names == ""), "is empty")
    files = names.map(lambda name: os.path.normpath(clean_text(name)))
    refuse(table, str(column.name), names, files.duplicated(), "is {!r} a second time")
    return names


def _paths(table: Path, root: Path, names: pd.Series) -> list[str]:
    """The files that the table names; ValueError with the row of one that is not below `root`, and the remedy."""
    try:
        return paths_below(root, table.name, names)
    except ValueError as error:
        reason = str(error).removeprefix(f"{root / table.name}: ")
        remedy = _REMEDY if "leads out" in reason and "through a link" not in reason else ""
        raise ValueError(f"{printable(table)}: {reason}{remedy}") from None


def _numbers(
    table: Path, column: pd.Series, task: str, unit: str
) -> tuple[pd.Series, Task, list[str]]:
    """A regression target; ValueError names the row of what is no finite number."""
    targets = numbers(table, column)
    if targets.dropna().nunique() < 2:
        raise ValueError(f"{printable(table)}: {column.name} has no two different numbers")
    return targets, Task("regression", unit=unit), _missing_notices(column)


def _missing_notices(column: pd.Series) -> list[str]:
    """Notices of the words among numbers that are no label."""
    words = column[missing_words(column)].dropna().str.strip().value_counts().sort_index()
    return [
        f"{column.name}: {word!r} in {counted(count, 'row')} is no label"
        for word, count in words.items()
        if word
    ]


def _classes(
    table: Path, column: pd.Series, task: str, unit: str
) -> tuple[pd.Series, Task, list[str]]:
    """A target of classes: numbers in their order, words in the alphabet's; a notice says what each index means."""
    words = column.map(clean_text).astype(object)
    known = words[~missing_words(words)]
    values = pd.to_numeric(known, errors="coerce")
    notices = []
    if len(known) and values.notna().all():  # 1, 1.0 and 01 are one class
        notices = _missing_notices(column)
        words = values.map(number_text).reindex(words.index)
        classes = [number_text(value) for value in sorted(set(values))]
    else:
        refuse_unclear_labels(table, column)
        refuse_look_alikes(table, str(column.name), words)
        classes = sorted(set(known))
    wrong = None
    if len(classes) < 2:
        wrong = f"has {f'only the class {classes[0]!r}' if classes else 'no labels'}; two classes are needed"
    elif task == "binary" and len(classes) > 2:
        wrong = (
            f"has {len(classes):,} values ({', '.join(map(repr, classes[:10]))}); binary needs two"
        )
    elif task == "binary" and values.notna().all() and classes != ["0", "1"]:
        wrong = f"has {' and '.join(classes)}; expected 0 and 1, or two words"
    if wrong:
        raise ValueError(
            f"{printable(table)}: {column.name} {'; '.join([printable(wrong), *notices])}"
        )
    order = {name: float(index) for index, name in enumerate(classes)}
    notices.append(
        f"{column.name}: "
        + ", ".join(f"{index} = {name}" for index, name in enumerate(classes[:50]))
    )
    return words.map(order).astype(float), Task(task, tuple(classes)), notices
