"""Phantom radiographs in the layout of SNUH-bonetu, SKELEX's private set; see workflows/regions/records/snuh.py for its
columns.

Lytic and sclerotic foci and osteochondromas are tumours of the class that BTXRD's subtype of the same phantom has
(phantoms/layouts/btxrd.py), giant cell tumours being intermediate. Fractures are non-pathologic: no phantom has a
tumour and a fracture. The bone is the lesion's host and the third of it in which the lesion lies; of a radiograph
without a lesion it is the bone in the middle of the view. Patient and boxes are columns of ours.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from core.tumour_labels import LABELS
from phantoms.layouts.btxrd import BTXRD_MALIGNANT, tumour_subtype
from phantoms.layouts.files import write_csv
from phantoms.study import Phantom, eight_bit

SNUH_COLUMNS = (
    "file_name",
    "Location",
    "Tumor type",
    "malignant(+lch+low grade chondrosarcoma(axial))",
    "intermediate(gct+chondroblastoma+osteoblastoma+ACT)",
    "benign",
    "No_bonetu",
    "neoplastic pathologic fracture",
    "non-pathologic fracture",
    "No_fracture",
    "Implant",
    "patient",
    "age",
    "sex",
    "boxes",
)
_CLASSES = dict(zip(("malignant", "intermediate", "benign", "no bone tumour"), SNUH_COLUMNS[3:7]))
_SMALL = {
    "finger": "finger phalanges",
    "metacarpal": "metacarpal",
    "metatarsal": "metatarsal",
    "clavicle": "clavicle",
}
_MIDDLE = {  # the bone in the middle of a view of the region
    "hand": "metacarpal",
    "wrist": "distal radius",
    "elbow": "distal humerus",
    "shoulder": "proximal humerus",
    "hip": "proximal femur",
    "femur": "femur diaphysis",
    "knee": "distal femur",
    "ankle": "distal tibia",
    "foot": "metatarsal",
    "chest": "clavicle",
}


class SnuhWriter:
    """images/S*.png and metadata.csv.

    traps: a second row of the first picture's copy; the last picture is not there; one tumour has no Location, one no
    boxes; the fracture of one radiograph is not told.
    """

    plan = {  # most bone tumours are of the young
        "conditions": ("normal", "fracture", "lytic", "sclerotic", "osteochondroma", "implant"),
        "ages": (5.0, 55.0),
    }

    def __init__(self, folder: Path, kind: str = "png8", seed: int = 0, traps: bool = False):
        self.folder = folder
        self.seed = seed
        self.traps = traps
        self.rows = []

    def add(self, phantom: Phantom) -> str:
        """Write one radiograph; returns its path below the folder."""
        name = f"S{len(self.rows) + 1:05d}.png"
        path = self.folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(eight_bit(phantom)).save(path, compress_level=1)
        kind = tumour_class(phantom, self.seed)
        fractured = phantom.condition == "fracture"
        self.rows.append(
            {
                **dict.fromkeys(SNUH_COLUMNS[2:11], 0),
                "file_name": name,
                "Location": LABELS.index(bone_label(phantom)),
                "Tumor type": int(kind != "no bone tumour"),
                _CLASSES[kind]: 1,
                "non-pathologic fracture" if fractured else "No_fracture": 1,
                "Implant": int(phantom.condition == "implant"),
                "patient": f"P{self.seed}-{phantom.patient:05d}",
                "age": int(phantom.age_years),
                "sex": phantom.sex,
                "boxes": json.dumps(phantom.boxes) if fractured or kind != "no bone tumour" else "",
            }
        )
        return f"images/{name}"

    def _plant_traps(self) -> None:
        first = self.rows[0]
        images = self.folder / "images"
        self.rows += [
            {**first, "file_name": f"S{len(self.rows) + extra:05d}.png"} for extra in (1, 2)
        ]
        shutil.copyfile(images / first["file_name"], images / self.rows[-2]["file_name"])
        tumours = [row for row in self.rows[1:-2] if row["Tumor type"]]
        for row, emptied in zip(tumours, (("Location",), ("boxes",), SNUH_COLUMNS[7:10])):
            row |= dict.fromkeys(emptied, "")

    def close(self) -> None:
        """Write the table."""
        if self.traps and self.rows:
            self._plant_traps()
        write_csv(self.folder / "metadata.csv", SNUH_COLUMNS, self.rows)


def tumour_class(phantom: Phantom, seed: int) -> str:
    """The tumour class of a phantom, one of the four labels; the same for all views of a patient."""
    subtype = tumour_subtype(phantom, np.random.default_rng([seed, phantom.patient, 29]))
    if not subtype:
        return "no bone tumour"
    return (
        "malignant"
        if subtype in BTXRD_MALIGNANT
        else "intermediate"
        if "giant" in subtype
        else "benign"
    )


def bone_label(phantom: Phantom) -> str:
    """Which of the 29 bones a phantom shows: the part of a long bone is the third in which the lesion lies."""
    if not phantom.bone:
        return _MIDDLE[phantom.region]
    for name, label in _SMALL.items():
        if phantom.bone.startswith(name):
            return label
    if 1 / 3 <= phantom.place <= 2 / 3:
        return f"{phantom.bone} diaphysis"
    return f"{'proximal' if phantom.place < 1 / 3 else 'distal'} {phantom.bone}"
