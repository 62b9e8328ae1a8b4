"""Any table of radiographs: the user names its columns."""

from pathlib import Path

import numpy as np
import pandas as pd

from data.columns import counted, finished, grouped, ids
from data.dataset import RadiographDataset, Task, paths_below, read_table, require_columns
from data.listing import printable
from data.release import require_images

KINDS = ("binary", "multiclass", "regression")
_RESERVED = ("image", "target", "patient", "study", "official")


class CsvTable(RadiographDataset):
    """Whatever your table says.

    Task: binary, multiclass or regression; the classes are the values of the target column and stand in
    `records.attrs["task"]`. Licence and traps: yours to know.
    Tree: a .csv (UTF-8) or .xlsx table with a header; pictures are named relative to the folder of the table, or to
    another root, and lie below it.
    Groups: the patient column. Without one, near-duplicates are one group and nothing else ties two pictures together.
    Empty cells, NA, NaN, None and null are no label: such rows stay with the target NaN. All other columns ride along;
    one that has a name of ours (image, target, patient, study, official) is kept as "NAME (table)".
    """

    table, image, target = "", "", ""
    task = Task("multiclass")

    @classmethod
    def read(
        cls, root: str | Path | None, *, csv: str | Path, image_col: str, target_col: str,
        patient_col: str | None = None, task: str = "binary", unit: str = "", keep_missing: bool = False, **looking,
    ) -> pd.DataFrame:  # fmt: skip
        """All records of the table `csv`, whose pictures lie below `root` (None: the folder of the table).

        task: one of `KINDS`. unit: of a regression, for axes and tables. keep_missing, looking: as for `FracAtlas`.
        FileNotFoundError or ValueError name what is missing or wrong, with the row.
        """
        if task not in KINDS:
            raise ValueError(f"task {task!r}: choose {', '.join(KINDS)}")
        table = Path(csv)
        root = table.parent if root is None else Path(root)
        text = [image_col, *([patient_col] if patient_col else []), *([target_col] if task != "regression" else [])]
        rows = read_table(table, text=text)
        require_columns(table, rows, [image_col, target_col, *([patient_col] if patient_col else [])])
        names = _names(table, rows[image_col])
        notices: list[str] = []
        targets, made = (_numbers if task == "regression" else _classes)(table, rows[target_col], task, unit, notices)
        patients = ids(table, rows, patient_col) if patient_col else None
        try:
            paths = paths_below(root, table.name, names)
        except ValueError as error:
            raise ValueError(f"{printable(table)}: {str(error).removeprefix(str(root / table.name) + ': ')}") from None
        require_images(table, paths, keep_missing)
        records = rows.rename(columns={name: f"{name} (table)" for name in _RESERVED})
        records = records.assign(image=paths, target=targets)
        if targets.isna().any():
            notices.append(f"{counted(int(targets.isna().sum()))} without a label in {target_col}")
        if patients is None:
            records = grouped(records, notices, **looking)
        else:
            records = records.assign(patient=patients)
        return finished(table, records, made, notices)


def _names(table: Path, column: pd.Series) -> pd.Series:
    """Names of pictures as written; ValueError for an empty one and one that is there twice."""
    for wrong, told in ((column.isna(), "is empty"), (column.duplicated(), "is {!r} a second time")):
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            value = printable(str(column.iloc[place]))[:200]
            raise ValueError(f"{printable(table)}: row {place + 2}: {column.name} {told.format(value)}")
    return column


def _numbers(table: Path, column: pd.Series, task: str, unit: str, notices: list[str]) -> tuple[pd.Series, Task]:
    """A regression target; ValueError names the row of what is no finite number."""
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    wrong = column.notna() & ~np.isfinite(numbers)
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        value = printable(str(column.iloc[place]))[:200]
        raise ValueError(f"{printable(table)}: row {place + 2}: {column.name} is {value!r}; expected a number")
    if numbers.dropna().nunique() < 2:
        raise ValueError(f"{printable(table)}: {column.name} has no two different numbers")
    return numbers, Task("regression", unit=unit)


def _classes(table: Path, column: pd.Series, task: str, unit: str, notices: list[str]) -> tuple[pd.Series, Task]:
    """A target of classes: numbers in their order, words in the alphabet's; what each index means is told."""
    words = column.astype("string").str.strip().replace("", pd.NA)
    known = words.dropna()
    numbers = pd.to_numeric(known, errors="coerce")
    if len(known) and numbers.notna().all():  # 1, 1.0 and 01 are one class
        words = numbers.map("{:g}".format).reindex(words.index).astype("string")
        classes = [f"{number:g}" for number in sorted(set(numbers))]
    else:
        classes = sorted(set(known))
    wrong = None
    if len(classes) < 2:
        wrong = f"has {f'only the class {classes[0]!r}' if classes else 'no labels'}; two classes are needed"
    elif task == "binary" and len(classes) > 2:
        wrong = f"has {len(classes):,} values ({', '.join(map(repr, classes[:10]))}); binary needs two"
    elif task == "binary" and numbers.notna().all() and classes != ["0", "1"]:
        wrong = f"has {' and '.join(classes)}; expected 0 and 1, or two words"
    if wrong:
        raise ValueError(f"{printable(table)}: {column.name} {printable(wrong)}")
    order = {name: float(index) for index, name in enumerate(classes)}
    notices.append(f"{column.name}: " + ", ".join(f"{index} = {name}" for index, name in enumerate(classes[:50])))
    return words.map(order).astype(float), Task(task, tuple(classes))
