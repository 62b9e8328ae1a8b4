"""Phantom radiographs in the layout of the RSNA Pediatric Bone Age sets.

Halabi et al., Radiology 2019, https://doi.org/10.1148/radiol.2018180736. Children's hands, one for each; eight of ten
patients are of the training set, one of the validation set, one of the test set. Each set has its own table, with
columns of other names, as officially.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import pandas as pd
from PIL import Image

from phantoms.layouts.btxrd import write_xlsx
from phantoms.layouts.files import write_csv
from phantoms.study import Phantom, eight_bit

TRAIN = "boneage-training-dataset"
FIRST = 1377
FIRST_TEST = 4360
MOST_TESTS = 200
# ids of two traps
COPY = 15000
LOST = 15600
COLUMNS = {
    "train": ("id", "boneage", "male"),
    "val": ("Image ID", "male", "Bone Age (months)"),
    "test": ("Case ID", "Sex", "Ground truth bone age (months)"),
}


class RsnaBoneAgeWriter:
    """One table and the folders of its images for each of the three sets.

    traps: the training folder is nested in itself and its table begins with a byte order mark, as after Kaggle and a
    spreadsheet; Kaggle's test table without labels lies beside the one with; every seventh picture has 16 bits;
    id 15000 is a copy of the first; id 15600 has no picture.
    """

    plan: ClassVar[dict] = {
        "regions": ("hand",),
        "conditions": ("normal",),
        "views": ("pa",),
        "ages": (1.0, 18.0),
    }

    def __init__(self, folder: Path, kind: str = "png8", seed: int = 0, traps: bool = False):
        self.folder = folder
        self.traps = traps
        self.rows: dict[str, list[tuple]] = {"train": [], "val": [], "test": []}  # id, months, sex
        self.train = f"{TRAIN}/{TRAIN}" if traps else TRAIN
        self.first = ""

    def add(self, phantom: Phantom) -> str:
        """Write one radiograph; returns its path below the folder."""
        part = {8: "val", 9: "test"}.get(phantom.patient % 10, "train")
        number = FIRST + phantom.patient
        number += MOST_TESTS * (number >= FIRST_TEST)
        months = max(1, round(phantom.bone_age_months))
        if part == "test" and phantom.patient // 10 >= MOST_TESTS:
            part = "train"
        elif part == "test":
            number = FIRST_TEST + phantom.patient // 10
            months = round(phantom.bone_age_months, 2)
        half = 1 + phantom.patient // 10 % 2
        folder = {
            "train": self.train,
            "val": f"Bone Age Validation Set/boneage-validation-dataset-{half}",
            "test": "Bone Age Test Set/Test Set Images",
        }[part]
        name = f"{folder}/{number}.png"
        (self.folder / folder).mkdir(parents=True, exist_ok=True)
        deep = self.traps and phantom.patient % 7 == 6
        Image.fromarray(phantom.pixels if deep else eight_bit(phantom)).save(
            self.folder / name, compress_level=1
        )
        self.rows[part].append((number, months, phantom.sex))
        self.first = self.first or name * (part == "train")
        return name

    def close(self) -> None:
        """Write the tables."""
        if self.traps and self.first:
            shutil.copyfile(self.folder / self.first, self.folder / self.train / f"{COPY}.png")
            _, months, sex = self.rows["train"][0]
            self.rows["train"] += [(COPY, months, sex), (LOST, months, sex)]
        path = self.folder / f"{TRAIN}.csv"
        rows = [{"id": i, "boneage": m, "male": s == "M"} for i, m, s in self.rows["train"]]
        write_csv(path, COLUMNS["train"], rows)
        if self.traps:
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        rows = [
            {"Image ID": i, "male": s == "M", "Bone Age (months)": m}
            for i, m, s in self.rows["val"]
        ]
        write_csv(
            self.folder / "Bone Age Validation Set" / "Validation Dataset.csv", COLUMNS["val"], rows
        )
        rows = [dict(zip(COLUMNS["test"], (i, s, m), strict=True)) for i, m, s in self.rows["test"]]
        (self.folder / "Bone Age Test Set").mkdir(exist_ok=True)
        truth = self.folder / "Bone Age Test Set" / "Bone age ground truth.xlsx"
        write_xlsx(truth, pd.DataFrame(rows, columns=list(COLUMNS["test"])))
        if self.traps:
            blind = [{"Case ID": i, "Sex": s} for i, _, s in self.rows["test"]]
            write_csv(self.folder / "boneage-test-dataset.csv", COLUMNS["test"][:2], blind)
