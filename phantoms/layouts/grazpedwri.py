"""Phantom radiographs in the layout of GRAZPEDWRI-DX.

Nagy et al., Scientific Data 2022, https://doi.org/10.6084/m9.figshare.14825193. Wrists of children in two projections,
one study for each patient, 16-bit PNG in images_part1 to images_part4, flags that are 1 or empty. A fracture has AO
codes of the bones involved, four combinations unless there are traps; implants are metal, lytic lesions `bonelesion`.
What belongs to a patient is drawn from the seed and the patient's number.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from phantoms.layouts.files import write_csv, write_voc, write_yolo
from phantoms.study import Phantom

COLUMNS = (
    "filestem",
    "patient_id",
    "study_number",
    "timehash",
    "gender",
    "age",
    "laterality",
    "projection",
    "initial_exam",
    "ao_classification",
    "cast",
    "diagnosis_uncertain",
    "osteopenia",
    "fracture_visible",
    "metal",
    "pixel_spacing",
    "device_manufacturer",
)
OBJECTS = (
    "boneanomaly",
    "bonelesion",
    "foreignbody",
    "fracture",
    "metal",
    "periostealreaction",
    "pronatorsign",
    "softtissue",
    "text",
)
MARKED = {"fracture": "fracture", "implant": "metal", "lytic": "bonelesion"}
RADIUS = (
    "23r-M/2.1",
    "23r-E/2.1",
    "23r-M/3.1",
    "23r-E/1",
    "22r-D/2.1",
    "23r-E/3",
    "22r-D/4.1",
    "23r-E/4.1",
)
ULNA = ("23u-M/2.1", "23u-E/7", "23u-M/3.1")
COMBINATIONS = (
    *RADIUS,
    *ULNA,
    *(f"{radius};{ulna}" for radius in RADIUS[:5] for ulna in ULNA),
)  # 26
DEVICES = ("Siemens", "Agfa")


class GrazpedwriWriter:
    """dataset.csv, images_part{1..4}/*.png, folder_structure/yolov5 and folder_structure/pascalvoc.

    traps: the lateral of every fourth patient is of a second study; AO codes come in other orders, with spaces around
    them, and a fifth of the fractures has one of 22 rarer combinations; one picture is a copy of the first, in a third
    study of its patient; the last picture is not there.
    """

    plan: ClassVar[dict] = {
        "regions": ("wrist",),
        "conditions": ("normal", "fracture", "implant", "lytic"),
        "views": ("pa", "lateral"),
        "ages": (1.0, 18.0),
    }

    def __init__(self, folder: Path, kind: str = "png16", seed: int = 0, traps: bool = False):
        self.folder = folder
        self.seed = seed
        self.traps = traps
        self.rows: list[dict] = []
        self.first = ""

    def add(self, phantom: Phantom) -> str:
        """Write one radiograph; returns its path below the folder."""
        row = self._row(phantom)
        stem = row["filestem"]
        name = f"images_part{phantom.patient % 4 + 1}/{stem}.png"
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(phantom.pixels).save(self.folder / name, compress_level=1)
        kind = MARKED.get(phantom.condition)
        boxes = phantom.boxes if kind else []
        height, width = phantom.pixels.shape
        marks = self.folder / "folder_structure"
        write_yolo(
            marks / "yolov5" / "labels" / f"{stem}.txt",
            OBJECTS.index(kind or "text"),
            boxes,
            width,
            height,
        )
        write_voc(
            marks / "pascalvoc" / f"{stem}.xml", f"{stem}.png", kind or "text", boxes, width, height
        )
        self.rows.append(row)
        self.first = self.first or name
        return name

    def _row(self, phantom: Phantom) -> dict:
        rng = np.random.default_rng(
            [self.seed, phantom.patient, 53]
        )  # of the patient: all views agree
        plain = rng.integers(4)
        rare = rng.integers(4, len(COMBINATIONS))
        is_rare = rng.random() < 0.2
        code = COMBINATIONS[rare if self.traps and is_rare else (0, 1, 8, 11)[plain]]
        cast, uncertain, osteopenia = rng.random(3) < (0.2, 0.08, 0.05)
        device = DEVICES[int(rng.integers(2))]
        second = self.traps and phantom.patient % 4 == 1
        fractured = phantom.condition == "fracture"
        projection = 2 if phantom.view == "lateral" else 1
        study = 2 if second and projection == 2 else 1
        timehash = int(
            np.random.default_rng([self.seed, phantom.patient, study, 59]).integers(10**10)
        )
        known = {
            "patient_id": phantom.patient + 1,
            "study_number": study,
            "timehash": f"{timehash:010d}",
            "gender": phantom.sex,
            "age": round(phantom.age_years, 1),
            "laterality": phantom.side,
            "projection": projection,
            "initial_exam": study == 1,
            "cast": cast,
            "diagnosis_uncertain": uncertain,
            "osteopenia": osteopenia,
            "fracture_visible": fractured,
            "metal": phantom.condition == "implant",
            "ao_classification": self._written(code, len(self.rows)) if fractured else "",
            "pixel_spacing": round(phantom.pixel_spacing_mm, 4),
            "device_manufacturer": device,
        }
        known["filestem"] = (
            f"{known['patient_id']:04d}_{known['timehash']}_{study:02d}_WRI-{phantom.side}{projection}_"
            f"{phantom.sex}{int(phantom.age_years):03d}"
        )
        return {
            name: (1 if value else "") if isinstance(value, (bool, np.bool_)) else value
            for name, value in known.items()
        }

    def _written(self, code: str, number: int) -> str:
        """The codes as people have typed them."""
        if not self.traps:
            return code
        return (f"{code} ", " ; ".join(reversed(code.split(";"))), code, code.replace(";", "; "))[
            number % 4
        ]

    def close(self) -> None:
        """Write the table and the names of the objects."""
        if self.traps and self.rows:
            for study in (3, 4):  # a copy of the first picture, and one that is lost
                row = {**self.rows[0], "study_number": study, "initial_exam": ""}
                parts = row["filestem"].split("_")
                row["filestem"] = "_".join((*parts[:2], f"{study:02d}", *parts[3:]))
                self.rows.append(row)
            copy = self.folder / Path(self.first).with_name(f"{self.rows[-2]['filestem']}.png")
            shutil.copyfile(self.folder / self.first, copy)
        write_csv(self.folder / "dataset.csv", COLUMNS, self.rows)
        names = self.folder / "folder_structure" / "yolov5" / "meta.yaml"
        names.parent.mkdir(parents=True, exist_ok=True)
        names.write_text(f"nc: {len(OBJECTS)}\nnames: {list(OBJECTS)}\n", encoding="utf-8")
