"""Knee osteoarthritis severity (Chen 2018): knees by Kellgren-Lawrence grade, read from the release as unpacked."""

import re
from pathlib import Path

import pandas as pd

from core.task import Task
from data.datasets.columns import counted, finished
from data.datasets.dataset import RadiographDataset
from data.datasets.release_folder import first_of, images_in, release_folder, there
from data.reading.listing import PassedOver, passed_over_message, printable

LEVELS = ("", "kneeKL224", "ClsKLData/kneeKL224", "KneeXrayData/ClsKLData/kneeKL224")
SPLITS = ("train", "val", "test")
AUTO = "auto_test"
GRADES = ("0", "1", "2", "3", "4")
_NAME = re.compile(r"(\d{7})([LR])\.png")


class KneeOA(RadiographDataset):
    """Which Kellgren-Lawrence grade has this knee?

    Task: 5 classes in order: 0 none, 1 doubtful, 2 minimal, 3 moderate, 4 severe osteoarthritis.
    Size: 5,778 training, 826 validation and 1,656 test knees, each cut out of a bilateral radiograph by hand to
    224 x 224 pixels; 1,526 of the test knees once more, cut out by a detector (auto_test).
    Licence: CC BY 4.0 on Mendeley; the radiographs are of the Osteoarthritis Initiative, whose terms of use apply.
    Citation: Chen, Knee Osteoarthritis Severity Grading Dataset, Mendeley Data 2018, doi 10.17632/56rmx5bjcr.1.

    Tree, given at any of its levels (also at a kneeKL299, the same knees at 299 x 299):

        KneeXrayData/ClsKLData/kneeKL224/{train,val,test,auto_test}/{0,1,2,3,4}/9003175L.png

    Records: `target` (the grade), `patient` (7 digits of the name), `side` (L, R), `official` (the folder).
    Traps: auto_test shows TEST knees again: together with the others they would be on both sides of a split, so they
    are left out unless asked for; both knees of a person are in the set; grade 1 is noisy even among experts; some
    radiographs are inverted; grades are ordered: also report quadratic kappa and the mean error in grades.
    """

    folder = "KneeXrayData"
    target = "target"
    patient = "patient"
    task = Task("multiclass", GRADES, ordinal=True)

    @classmethod
    def read(
        cls, root: str | Path, *, keep_missing: bool = False, auto_test: bool = False
    ) -> pd.DataFrame:
        """All records by split, grade and name; with `auto_test` also the knees that a detector cut out.

        keep_missing: of no use here, where no table says what should be there.
        Raises FileNotFoundError (a folder is not there) and ValueError (an impossible name or grade, a knee twice).
        """
        folder = release_folder(root, LEVELS, SPLITS)
        splits = [*SPLITS, *([AUTO] if (folder / AUTO).is_dir() else [])]
        passed_over: PassedOver = {}
        records = pd.DataFrame(
            [row for split in splits for row in _knees(folder, split, passed_over)],
            columns=["image", "target", "patient", "official", "side"],
        )
        again = records["official"] == AUTO
        _require_one_place(folder, records[~again])
        notices = []
        if message := passed_over_message(passed_over):
            notices.append(message)
        if again.any() and not auto_test:
            told = counted(int(again.sum()), "knee")
            notices.append(
                f"{told} of {AUTO} left out: test knees, cut out once more by a detector"
            )
            records = records[~again]
        homes = records["official"].replace(AUTO, "test").groupby(records["patient"]).nunique()
        if (homes > 1).any():
            told = counted(int((homes > 1).sum()), "person", "people")
            notices.append(f"{told} with knees in more than one of the official splits")
        return finished(folder, records, cls.task, notices)


def _knees(folder: Path, split: str, passed_over: PassedOver) -> list[tuple]:
    """The rows of one split, in order of grade and name; other files go to `passed_over`."""
    odd = [
        path.name
        for path in sorted((folder / split).iterdir())
        if path.is_dir() and path.name not in GRADES
    ]
    if odd := [name for name in odd if not name.startswith(".")]:
        raise ValueError(
            f"{printable(folder / split)}: folder {printable(odd[0])!r}; grades are {', '.join(GRADES)}"
        )
    lost = [grade for grade in GRADES if not (folder / split / grade).is_dir()]
    if lost:
        has = there(folder / split)
        raise FileNotFoundError(
            f"{printable(folder / split)}: no folder {', '.join(lost)}; it has {has}"
        )
    rows = []
    wrong = []
    for grade in GRADES:
        for name in images_in(folder, f"{split}/{grade}", passed_over):
            if part := _NAME.fullmatch(Path(name).name):
                rows.append((str(folder / name), float(grade), part[1], split, part[2]))
            else:
                wrong.append(name)
    if wrong:
        told = f"{counted(len(wrong), 'name')} of other form than 7 digits, L or R, .png: {first_of(wrong)}"
        raise ValueError(f"{printable(folder)}: {told}")
    return rows


def _require_one_place(folder: Path, records: pd.DataFrame) -> None:
    """ValueError if a knee is in two folders: it has no two grades and belongs to no two splits."""
    knees = records["image"].map(lambda path: Path(path).stem)
    twice = knees[knees.duplicated(keep=False)]
    if len(twice):
        first = [
            path.removeprefix(f"{folder}/") for path in records["image"][knees == twice.iloc[0]]
        ]
        knees = counted(twice.nunique(), "knee")
        examples = " and ".join(map(printable, first))
        raise ValueError(f"{printable(folder)}: {knees} in more than one folder, first {examples}")
