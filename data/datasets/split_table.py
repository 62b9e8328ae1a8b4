"""splits.csv: the exact split of a run, to be published, checked and used again.

Columns path (below the data set's root, beginning with "./"), sha256 of the file, group (the patient, or whatever must
not be on two sides), fold (0, 1, ...) and split ("train", "val", "test"). Every fold has a row for each of its
radiographs, test included, so that a fold can be read without knowing any rule. All folds have the same test set, or
no two have a test radiograph in common (`data.datasets.splits.rotating_splits`).
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from core.files import write_text
from core.tables import read_cells, require_names, table_text
from data.datasets.splits import Fold, Splits
from data.reading.listing import printable
from data.reading.manifest import fingerprints, name_below
from data.reading.near_duplicates import with_copies_joined
from data.tables.id_columns import id_key, refuse_damaged

COLUMNS = ("path", "sha256", "group", "fold", "split")
SIDES = ("train", "val", "test")


def file_hashes(
    records: pd.DataFrame,
    *,
    workers: int = 0,
    progress: Callable[[Sequence], Iterable] | None = None,
) -> list[str]:
    """The sha256 of each record's file, in the order of rows. FileNotFoundError says how many cannot be read."""
    paths = [Path(image) for image in records["image"]]
    content = fingerprints(dict.fromkeys(paths), workers=workers, progress=progress)
    lost = [path for path in content if content[path].error]
    if lost:
        told = f"{printable(lost[0])}: {content[lost[0]].error}"
        raise FileNotFoundError(
            f"{len(lost)} of {len(paths)} radiographs cannot be read, first {told}"
        )
    return [content[path].sha256 for path in paths]


def write_splits(
    file: Path,
    records: pd.DataFrame,
    splits: Splits,
    root: Path,
    sha256: Sequence[str],
    *,
    final: bool = False,
    flag: str = "--outdir",
) -> None:
    """Write `splits` of `records`, whose files lie below `root` and have the hashes `sha256` (one a row).

    final: there are results of what the file says; it is a ValueError if it says something else. flag: of its folder.
    """
    text = _told(records, splits, root, sha256)
    if final and file.exists() and file.read_bytes() != text.encode("utf-8", "surrogateescape"):
        raise ValueError(
            f"{file}: the results there are of another split or other files; give another {flag}, or "
            f"--splits {file} to use it again"
        )
    write_text(file, text)


def joined_splits(
    records: pd.DataFrame,
    root: Path,
    file: Path,
    make: Callable[[pd.DataFrame], Splits],
    *,
    given: Path | None = None,
    crossing: bool = False,
    pooled: bool = False,
    final: bool = False,
    flag: str = "--outdir",
    workers: int = 0,
    progress: Callable[[Sequence], Iterable] | None = None,
) -> tuple[pd.DataFrame, Splits, list[str], list[str]]:
    """(records whose copies of a file are of one patient, their splits, sha256 of each file, notices) for a training.

    The splits are those of the table `given`, if there is one (`crossing` and `pooled` as in `read_splits`), else what
    `make` makes of the records; they are written to `file` (`final` and `flag` as in `write_splits`).
    """
    hashes = file_hashes(records, workers=workers, progress=progress)
    records, told = with_copies_joined(records, hashes)
    splits = (
        make(records)
        if given is None
        else read_splits(given, records, root, hashes, crossing=crossing, pooled=pooled)
    )
    write_splits(file, records, splits, root, hashes, final=final, flag=flag)
    return records, splits, hashes, [*told, *splits.notices]


def _told(records: pd.DataFrame, splits: Splits, root: Path, sha256: Sequence[str]) -> str:
    """The text of the table."""
    names = _names(records, root)
    groups = records["patient"].astype(str).tolist()
    rows = [
        dict(zip(COLUMNS, (names[row], sha256[row], groups[row], number, side)))
        for number, fold in enumerate(splits.folds)
        for side, members in zip(SIDES, (fold.train, fold.val, splits.test_of(number)))
        for row in sorted(members, key=names.__getitem__)
    ]
    return table_text(COLUMNS, rows, raw_bytes=True)


def read_splits(
    file: Path,
    records: pd.DataFrame,
    root: Path,
    sha256: Sequence[str],
    *,
    crossing: bool = False,
    pooled: bool = False,
) -> Splits:
    """The splits that a table gives for these `records`; their order, and where `root` lies, do not matter.

    ValueError in one sentence if the table does not fit: columns, sides or folds it cannot have, files that the data
    set lacks or that have changed, a radiograph or (unless `crossing`, for the official split of a release) a group on
    two sides of a fold, or (unless `pooled`) folds with test sets of their own. Radiographs that the table does not
    name are left out, and `notices` counts them.
    """
    table = _read(file)
    row_of = {name: row for row, name in enumerate(_names(records, root))}
    lost = [path for path in dict.fromkeys(table["path"]) if path not in row_of]
    if lost:
        raise ValueError(
            f"{printable(file)}: {len(lost)} of its files are not in this data set, "
            f"first {printable(lost[0])}"
        )
    table["row"] = table["path"].map(row_of)
    _check_content(file, table, records, sha256, pooled)
    groups = table.assign(patient=records["patient"].astype(str).to_numpy()[table["row"]])
    for column in () if crossing else ("group", "patient"):
        sides = groups.groupby(["fold", column])["split"].nunique()
        if (sides > 1).any():
            number, name = sides.index[np.argmax(sides > 1)]
            told = "group" if column == "group" else "patient (by the data set)"
            raise ValueError(f"{printable(file)}: {told} {name!r} is on two sides of fold {number}")
    folds = []
    for _, part in table.groupby("fold"):
        folds.append(
            Fold(*(np.sort(part.loc[part["split"] == side, "row"].to_numpy()) for side in SIDES))
        )
    test = folds[0].test
    if len(folds) > 1 and not np.array_equal(test, folds[1].test):
        test = np.sort(np.concatenate([fold.test for fold in folds]))
    else:
        folds = [fold._replace(test=None) for fold in folds]
    unused = len(records) - table["path"].nunique()
    notices = (
        f"{unused} of {len(records)} radiographs are not in {printable(file)} and are left out",
    )
    return Splits(tuple(folds), test, notices if unused else ())


def _names(records: pd.DataFrame, root: Path) -> list[str]:
    return [name_below(Path(image), str(root)) for image in records["image"]]


def _read(file: Path) -> pd.DataFrame:
    """The rows of the table, with whole numbers in `fold`; ValueError if they do not hang together."""
    if not Path(file).is_file():
        raise FileNotFoundError(f"{printable(file)}: no such table of splits")
    shown = printable(file)
    names, rows = read_cells(file, raw_bytes=True)
    require_names(file, names, COLUMNS)
    if not rows:
        raise ValueError(f"{shown}: a table without rows")
    table = pd.DataFrame(rows, columns=names, dtype=object)
    refuse_damaged(Path(file), "group", table["group"])
    wrong = table.loc[~table["split"].isin(SIDES), "split"]
    if len(wrong):
        raise ValueError(
            f"{shown}: row {wrong.index[0] + 2}: split {wrong.iloc[0]!r}; choices {', '.join(SIDES)}"
        )
    wrong = table.loc[~table["fold"].str.fullmatch("[0-9]{1,3}"), "fold"]
    if len(wrong):
        raise ValueError(
            f"{shown}: row {wrong.index[0] + 2}: fold {wrong.iloc[0]!r} is no whole number from 0 on"
        )
    table["fold"] = table["fold"].astype(int)
    present = sorted(table["fold"].unique())
    if present != list(range(len(present))):
        raise ValueError(
            f"{shown}: folds {', '.join(map(str, present))}; they must count from 0 without a gap"
        )
    for number, part in table.groupby("fold"):
        empty = [side for side in SIDES if side not in set(part["split"])]
        if empty:
            raise ValueError(f"{shown}: fold {number} has no {empty[0]!r} row")
    return table


def _check_content(
    file: Path, table: pd.DataFrame, records: pd.DataFrame, sha256: Sequence[str], pooled: bool
) -> None:
    shown = printable(file)
    again = table[table.duplicated(["fold", "path"])]
    if len(again):
        first = again.iloc[0]
        raise ValueError(
            f"{shown}: {printable(first['path'])} is in fold {first['fold']} more than once"
        )
    changed = table.loc[
        table["sha256"].to_numpy() != np.asarray(sha256, object)[table["row"]], "path"
    ].unique()
    if len(changed):
        raise ValueError(
            f"{shown}: {len(changed)} files have changed since, first {printable(changed[0])}"
        )
    blank = table.loc[records["target"].isna().to_numpy()[table["row"]], "path"].unique()
    if len(blank):
        raise ValueError(
            f"{shown}: {len(blank)} of its files have no target, first {printable(blank[0])}"
        )
    tests = [frozenset(part) for _, part in table[table["split"] == "test"].groupby("fold")["path"]]
    disjoint = sum(map(len, tests)) == len(frozenset.union(*tests))
    if len(set(tests)) > 1 and not (pooled and disjoint):
        other = next(k for k, test in enumerate(tests) if test != tests[0])
        expected = (
            "there is one, held out once" + ", or no two have a radiograph in common" * pooled
        )
        raise ValueError(f"{shown}: folds 0 and {other} have different test sets; {expected}")


def seen_in_training(
    file: Path, records: pd.DataFrame, sha256: Sequence[str], folds: Sequence[int] | None = None
) -> list[tuple[int, str]]:
    """(row, why) of the records that a training knew, by its splits.csv: the same file, or its patient or group, was
    used for training or for choosing the epoch in one of `folds` (None: any). Test radiographs are not among them.
    Patients whose names look alike, such as 007 and 7, count as one."""
    table = _read(file)
    chosen = table[
        table["split"].isin(("train", "val"))
        & (table["fold"].isin(folds) if folds is not None else True)
    ]
    sums = dict(zip(chosen["sha256"], chosen["path"]))
    groups = set(map(id_key, chosen["group"]))
    found = []
    for row, (content, patient) in enumerate(zip(sha256, records["patient"].astype(str))):
        if content in sums:
            found.append((row, f"the training used the same file, {printable(sums[content])}"))
        elif id_key(patient) in groups:
            found.append((row, "the training used others of the same patient or group"))
    return found
