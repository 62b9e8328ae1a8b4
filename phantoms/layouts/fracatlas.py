"""Phantom radiographs in the layout of FracAtlas.

Abedeen et al., FracAtlas, Scientific Data 2023, https://doi.org/10.6084/m9.figshare.22363012. Fractures are positive;
all other conditions are negative, implants with `hardware` = 1. Hand, wrist and elbow are `hand`; femur, knee, ankle
and foot are `leg`; the chest, for its clavicle, is `shoulder`. The lists of `Utilities/Fracture Split` hold only
positives, as officially.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from phantoms.layouts.files import (
    VIEW_KINDS,
    mask_polygon,
    write_csv,
    write_json,
    write_voc,
    write_yolo,
)
from phantoms.study import Phantom, eight_bit

FRACATLAS_COLUMNS = (
    "image_id",
    "hand",
    "leg",
    "hip",
    "shoulder",
    "mixed",
    "hardware",
    "multiscan",
    "fractured",
    "fracture_count",
    "frontal",
    "lateral",
    "oblique",
)
FRACATLAS_PARTS = {
    "hand": "hand",
    "wrist": "hand",
    "elbow": "hand",
    "shoulder": "shoulder",
    "chest": "shoulder",
    "hip": "hip",
    "femur": "leg",
    "knee": "leg",
    "ankle": "leg",
    "foot": "leg",
}


class FracAtlasWriter:
    """images/{Fractured,Non_fractured}/IMG*.jpg, Annotations/, Utilities/Fracture Split/ and dataset.csv.

    traps: one picture is a copy of the first negative, one is the same at three quarters of its size and compressed
    again, and the last one is not there; the YOLO files of the first two fractures are a polygon and empty.
    """

    plan = {
        "conditions": ("normal", "fracture", "implant", "arthrosis")
    }  # it does not look for tumours

    def __init__(self, folder: Path, kind: str = "jpeg", seed: int = 0, traps: bool = False):
        self.folder = folder
        self.seed = seed
        self.traps = traps
        self.rows = []
        self.shapes = []

    def add(self, phantom: Phantom) -> str:
        """Write one radiograph; returns its path below the folder."""
        number = len(self.rows)
        name = f"IMG{number:07d}.jpg"
        fractured = phantom.condition == "fracture"
        path = self.folder / "images" / ("Fractured" if fractured else "Non_fractured") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(eight_bit(phantom)).save(path, quality=92)
        boxes = phantom.boxes if fractured else []
        part = FRACATLAS_PARTS[phantom.region]
        kind = VIEW_KINDS.get(phantom.view, "frontal")
        self.rows.append(
            {
                **dict.fromkeys(FRACATLAS_COLUMNS, 0),
                "image_id": name,
                part: 1,
                kind: 1,
                "fractured": int(fractured),
                "hardware": int(phantom.condition == "implant"),
                "fracture_count": len(boxes),
            }
        )
        height, width = phantom.pixels.shape
        marks = self.folder / "Annotations"
        stem = Path(name).stem
        write_yolo(marks / "YOLO" / f"{stem}.txt", 0, boxes, width, height)
        if fractured:
            write_voc(marks / "PASCAL VOC" / f"{stem}.xml", name, "fractured", boxes, width, height)
            self.shapes.append((name, width, height, boxes, phantom.mask))
        return path.relative_to(self.folder).as_posix()

    def _plant_traps(self) -> None:
        """Three rows like the first negative: a copy of its picture, one compressed and resized anew, one without."""
        first = next((row for row in self.rows if not row["fractured"]), self.rows[0])
        folder = self.folder / "images" / ("Fractured" if first["fractured"] else "Non_fractured")
        self.rows += [
            {**first, "image_id": f"IMG{len(self.rows) + extra:07d}.jpg"} for extra in range(3)
        ]
        copied, smaller = (folder / row["image_id"] for row in self.rows[-3:-1])
        shutil.copyfile(folder / first["image_id"], copied)
        with Image.open(copied) as picture:
            picture.resize((picture.width * 3 // 4, picture.height * 3 // 4)).save(
                smaller, quality=60
            )
        boxes = self.folder / "Annotations" / "YOLO"
        for path in (copied, smaller):
            shutil.copyfile(
                boxes / f"{Path(first['image_id']).stem}.txt", boxes / f"{path.stem}.txt"
            )

        for number, (name, width, height, _, mask) in enumerate(self.shapes[:2]):
            outline = " ".join(f"{x / width:.6f} {y / height:.6f}" for x, y in mask_polygon(mask))
            text = "" if number else f"0 {outline}\n"
            (boxes / f"{Path(name).stem}.txt").write_text(text, encoding="utf-8")

    def close(self) -> None:
        """Write the table, the masks and the official split."""
        if self.traps and self.rows:
            self._plant_traps()
        write_csv(self.folder / "dataset.csv", FRACATLAS_COLUMNS, self.rows)
        images = []
        annotations = []
        for i, (name, width, height, boxes, mask) in enumerate(self.shapes):
            images.append({"id": i, "file_name": name, "width": width, "height": height})
            for x0, y0, x1, y1 in boxes:
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": i,
                        "category_id": 0,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "iscrowd": 0,
                        "area": int(mask.sum()),
                        "segmentation": [[c for point in mask_polygon(mask) for c in point]],
                    }
                )
        coco = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 0, "name": "fractured"}],
        }
        write_json(self.folder / "Annotations" / "COCO JSON" / "COCO_fracture_masks.json", coco)
        order = np.random.default_rng([self.seed, 17]).permutation(len(self.shapes))
        cut = [round(len(order) * 0.8), round(len(order) * 0.914)]  # 574 : 82 : 61 officially
        for name, chosen in zip(("train", "valid", "test"), np.split(order, cut), strict=True):
            rows = [{"image_id": self.shapes[i][0]} for i in sorted(chosen)]
            write_csv(
                self.folder / "Utilities" / "Fracture Split" / f"{name}.csv", ("image_id",), rows
            )
