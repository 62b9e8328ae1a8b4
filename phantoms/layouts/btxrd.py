"""Phantom radiographs in the layout of BTXRD.

Yao et al., BTXRD, Scientific Data 2025, https://doi.org/10.6084/m9.figshare.27865398. Lytic lesions are simple bone
cysts (under 20 years) or giant cell tumours (20 to 45); a quarter of them, and all beyond 45, are osteosarcoma or
another malignant tumour. Sclerotic ones are osteosarcoma, osteofibroma, or another benign or malignant tumour;
osteochondroma is itself. The layout has no other conditions; the chest is normal without a site. Columns, names,
annotation shapes and the mix of .jpeg and .jpg are the official ones. Centre and subtype belong to the patient: they
are drawn from the seed and the patient's number, never from the order of writing.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from openpyxl import Workbook
from openpyxl.writer.excel import ExcelWriter
from PIL import Image

from phantoms.layouts.files import VIEW_KINDS, mask_polygon, write_csv, write_json
from phantoms.study import Phantom, eight_bit

BTXRD_SITES = (
    "hand",
    "ulna",
    "radius",
    "humerus",
    "foot",
    "tibia",
    "fibula",
    "femur",
    "hip bone",
    "ankle-joint",
    "knee-joint",
    "hip-joint",
    "wrist-joint",
    "elbow-joint",
    "shoulder-joint",
)
BTXRD_BENIGN = (
    "osteochondroma",
    "multiple osteochondromas",
    "simple bone cyst",
    "giant cell tumor",
    "osteofibroma",
    "synovial osteochondroma",
    "other bt",
)
BTXRD_MALIGNANT = ("osteosarcoma", "other mt")
BTXRD_COLUMNS = (
    "image_id",
    "center",
    "age",
    "gender",
    *BTXRD_SITES,
    "tumor",
    "benign",
    "malignant",
    *BTXRD_BENIGN,
    *BTXRD_MALIGNANT,
    "upper limb",
    "lower limb",
    "pelvis",
    "frontal",
    "lateral",
    "oblique",
)
UPPER = ("hand", "wrist", "elbow", "shoulder")
LOWER = ("femur", "knee", "ankle", "foot")


class BtxrdWriter:
    """images/IMG*.jpeg (a few .jpg), Annotations/IMG*.json for tumours, dataset.csv and dataset.xlsx.

    traps: the first benign tumour carries two subtypes; the table calls a .jpg .jpeg; one picture is a copy of the
    first; the last one is not there; of the annotations after the first row's, one rectangle is drawn from its lower
    right, one lesion is outlined by its polygon alone, and one file is not there.
    """

    plan = {"conditions": ("normal", "lytic", "sclerotic", "osteochondroma")}

    def __init__(self, folder: Path, kind: str = "jpeg", seed: int = 0, traps: bool = False):
        self.folder = folder
        self.seed = seed
        self.traps = traps
        self.rows = []

    def add(self, phantom: Phantom) -> str:
        """Write one radiograph; returns its path below the folder."""
        number = len(self.rows) + 1
        rng = np.random.default_rng(
            [self.seed, phantom.patient, 23]
        )  # of the patient: all views agree
        center = int(rng.choice([1, 2, 3], p=[0.784, 0.147, 0.069]))
        name = f"IMG{number:06d}." + ("jpg" if number % 20 == 0 else "jpeg")
        path = self.folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(eight_bit(phantom)).save(path, format="JPEG", quality=92)
        subtype = tumour_subtype(phantom, rng)
        row = dict.fromkeys(BTXRD_COLUMNS, 0) | {
            "image_id": name,
            "center": center,
            "age": int(phantom.age_years),
            "gender": phantom.sex,
            VIEW_KINDS.get(phantom.view, "frontal"): 1,
            **dict.fromkeys(tumour_sites(phantom), 1),
        }
        if phantom.region in UPPER or phantom.region in LOWER or phantom.region == "hip":
            row[
                "upper limb"
                if phantom.region in UPPER
                else "lower limb"
                if phantom.region in LOWER
                else "pelvis"
            ] = 1
        if subtype:
            row |= {"tumor": 1, subtype: 1, "benign" if subtype in BTXRD_BENIGN else "malignant": 1}
            self.write_labelme(name, subtype, phantom)
        self.rows.append(row)
        return f"images/{name}"

    def _plant_traps(self) -> None:
        """Two more rows like the first, of a copy and of a lost picture; a second subtype; a suffix of its own."""
        first = self.rows[0]
        images = self.folder / "images"
        self.rows += [
            {**first, "image_id": f"IMG{len(self.rows) + extra:06d}.jpeg"} for extra in (1, 2)
        ]
        shutil.copyfile(images / first["image_id"], images / self.rows[-2]["image_id"])
        if first["tumor"]:
            notes = self.folder / "Annotations"
            shutil.copyfile(
                notes / f"{Path(first['image_id']).stem}.json",
                notes / f"{Path(self.rows[-2]['image_id']).stem}.json",
            )
        self._spoil_annotations([row["image_id"] for row in self.rows[1:-2] if row["tumor"]])
        for row in self.rows[1:-2]:
            if row["benign"]:
                row["other bt" if not row["other bt"] else "osteofibroma"] = 1
                break
        for row in self.rows:
            if row["image_id"].endswith(".jpg"):
                row["image_id"] = str(Path(row["image_id"]).with_suffix(".jpeg"))
                break

    def _spoil_annotations(self, names: list[str]) -> None:
        files = [self.folder / "Annotations" / f"{Path(name).stem}.json" for name in names[:3]]
        for number, file in enumerate(files):
            content = json.loads(file.read_text(encoding="utf-8"))
            if number == 0:
                content["shapes"][0]["points"].reverse()
            elif number == 1:
                del content["shapes"][0]
            write_json(file, content)
            if number == 2:
                file.unlink()

    def write_labelme(self, name: str, subtype: str, phantom: Phantom) -> None:
        """A rectangle and a polygon, as in the official files."""
        x0, y0, x1, y1 = phantom.boxes[0]
        shapes = [("rectangle", [[x0, y0], [x1, y1]]), ("polygon", mask_polygon(phantom.mask))]
        write_json(
            self.folder / "Annotations" / f"{Path(name).stem}.json",
            {
                "version": "5.2.1",
                "flags": {},
                "imagePath": name,
                "imageData": None,
                "imageHeight": phantom.pixels.shape[0],
                "imageWidth": phantom.pixels.shape[1],
                "shapes": [
                    {
                        "label": subtype,
                        "points": points,
                        "group_id": None,
                        "shape_type": kind,
                        "flags": {},
                    }
                    for kind, points in shapes
                ],
            },
        )

    def close(self) -> None:
        """Write the table, as .csv and as .xlsx."""
        if self.traps and self.rows:
            self._plant_traps()
        write_csv(self.folder / "dataset.csv", BTXRD_COLUMNS, self.rows)
        write_xlsx(
            self.folder / "dataset.xlsx", pd.DataFrame(self.rows, columns=list(BTXRD_COLUMNS))
        )


def write_xlsx(path: Path, table: pd.DataFrame) -> None:
    """Write a sheet with fixed time stamps, so that the same table gives the same bytes."""
    book = Workbook()
    sheet = book.active
    sheet.append(list(table.columns))
    for values in table.astype(object).itertuples(index=False):
        sheet.append(list(values))
    book.properties.created = book.properties.modified = datetime(2000, 1, 1)
    draft = io.BytesIO()
    with zipfile.ZipFile(draft, "w") as archive:
        ExcelWriter(book, archive).write_data()
    with (
        zipfile.ZipFile(draft) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in sorted(source.namelist()):
            content = source.read(entry)
            if entry == "docProps/core.xml":  # openpyxl stamps the moment of saving
                content = restamp(content)
            target.writestr(zipfile.ZipInfo(entry, (2000, 1, 1, 0, 0, 0)), content)


def restamp(core: bytes) -> bytes:
    """Fixed dates in the core properties of an xlsx, so that equal tables are equal bytes."""
    root = ElementTree.fromstring(core)
    for element in root.iter():
        if element.tag.endswith(("}created", "}modified")):
            element.text = "2000-01-01T00:00:00Z"
    return ElementTree.tostring(root)


def tumour_subtype(phantom: Phantom, rng: np.random.Generator) -> str:
    """BTXRD subtype of a phantom's lesion, "" if none; see the module docstring."""
    u = rng.random()
    if not phantom.boxes or phantom.condition not in ("lytic", "sclerotic", "osteochondroma"):
        return ""
    if phantom.condition == "osteochondroma":
        return "osteochondroma"
    if phantom.condition == "lytic":
        if u < 0.25 or phantom.age_years > 45:
            return "osteosarcoma" if u < 0.6 else "other mt"
        return "simple bone cyst" if phantom.age_years < 20 else "giant cell tumor"
    return (
        "osteosarcoma"
        if u < 0.3
        else "osteofibroma"
        if u < 0.6
        else "other bt"
        if u < 0.9
        else "other mt"
    )


def tumour_sites(phantom: Phantom) -> list[str]:
    """BTXRD site columns of a phantom: the host bone, or the region's usual bone, and the joint in view."""
    bone = phantom.bone if phantom.bone in BTXRD_SITES else ""
    usual = {
        "hand": ["hand"],
        "foot": ["foot"],
        "wrist": [bone or "radius"],
        "elbow": [bone or "humerus", "elbow-joint"],
        "shoulder": [bone or "humerus", "shoulder-joint"],
        "hip": [bone or "hip bone", "hip-joint"],
        "femur": ["femur"],
        "knee": [bone or "femur", "knee-joint"],
        "ankle": [bone or "tibia", "ankle-joint"],
        "chest": [],
    }
    return usual[phantom.region]
