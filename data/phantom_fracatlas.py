"""Phantom radiographs in the layout of FracAtlas.

Abedeen et al., FracAtlas, Scientific Data 2023, https://doi.org/10.6084/m9.figshare.22363012. Fractures are positive;
all other conditions are negative, implants with `hardware` = 1. Hand, wrist and elbow are `hand`; femur, knee, ankle
and foot are `leg`; the chest, for its clavicle, is `shoulder`. The lists of `Utilities/Fracture Split` hold only
positives, as officially.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from data.phantom import Phantom
from data.phantom_files import VIEW_KINDS, eight_bit, mask_polygon, write_csv, write_json

FRACATLAS_COLUMNS = (
    "image_id", "hand", "leg", "hip", "shoulder", "mixed", "hardware", "multiscan", "fractured", "fracture_count",
    "frontal",
    "lateral", "oblique",
)  # fmt: skip
FRACATLAS_PARTS = {
    "hand": "hand", "wrist": "hand", "elbow": "hand", "shoulder": "shoulder", "chest": "shoulder", "hip": "hip",
    "femur": "leg", "knee": "leg", "ankle": "leg", "foot": "leg",
}  # fmt: skip


class FracAtlasWriter:
    """images/{Fractured,Non_fractured}/IMG*.jpg, Annotations/, Utilities/Fracture Split/ and dataset.csv."""

    def __init__(self, folder: Path, kind: str = "jpeg", seed: int = 0):
        self.folder, self.seed, self.rows, self.shapes = folder, seed, [], []

    def add(self, phantom: Phantom) -> None:
        number = len(self.rows)
        name, fractured = f"IMG{number:07d}.jpg", phantom.condition == "fracture"
        path = self.folder / "images" / ("Fractured" if fractured else "Non_fractured") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(eight_bit(phantom)).save(path, quality=92)
        boxes = phantom.boxes if fractured else []
        part, kind = FRACATLAS_PARTS[phantom.region], VIEW_KINDS.get(phantom.view, "frontal")
        self.rows.append({
            **dict.fromkeys(FRACATLAS_COLUMNS, 0), "image_id": name, part: 1, kind: 1, "fractured": int(fractured),
            "hardware": int(phantom.condition == "implant"), "fracture_count": len(boxes),
        })  # fmt: skip
        height, width = phantom.pixels.shape
        self.write_yolo(name, boxes, width, height)
        if fractured:
            self.write_voc(name, boxes, width, height)
            self.shapes.append((name, width, height, boxes, phantom.mask))

    def write_yolo(self, name: str, boxes: list, width: int, height: int) -> None:
        """One line per box: class 0, centre and size as fractions; an empty file where there is none."""
        lines = [
            f"0 {(x0 + x1) / 2 / width:.6f} {(y0 + y1) / 2 / height:.6f} "
            f"{(x1 - x0) / width:.6f} {(y1 - y0) / height:.6f}\n"
            for x0, y0, x1, y1 in boxes
        ]
        path = self.folder / "Annotations" / "YOLO" / f"{Path(name).stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")

    def write_voc(self, name: str, boxes: list, width: int, height: int) -> None:
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = name
        size = ElementTree.SubElement(root, "size")
        for tag, value in (("width", width), ("height", height), ("depth", 1)):
            ElementTree.SubElement(size, tag).text = str(value)
        for box in boxes:
            thing = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(thing, "name").text = "fractured"
            corners = ElementTree.SubElement(thing, "bndbox")
            for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
                ElementTree.SubElement(corners, tag).text = str(value)
        path = self.folder / "Annotations" / "PASCAL VOC" / f"{Path(name).stem}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ElementTree.tostring(root, encoding="unicode"), encoding="utf-8")

    def close(self) -> None:
        write_csv(self.folder / "dataset.csv", FRACATLAS_COLUMNS, self.rows)
        images, annotations = [], []
        for i, (name, width, height, boxes, mask) in enumerate(self.shapes):
            images.append({"id": i, "file_name": name, "width": width, "height": height})
            for x0, y0, x1, y1 in boxes:
                annotations.append({
                    "id": len(annotations), "image_id": i, "category_id": 0, "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": 0,
                    "area": int(mask.sum()), "segmentation": [[c for point in mask_polygon(mask) for c in point]],
                })  # fmt: skip
        coco = {"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "fractured"}]}
        write_json(self.folder / "Annotations" / "COCO JSON" / "COCO_fracture_masks.json", coco)
        order = np.random.default_rng([self.seed, 17]).permutation(len(self.shapes))
        cut = [round(len(order) * 0.8), round(len(order) * 0.914)]  # 574 : 82 : 61 officially
        for name, chosen in zip(("train", "valid", "test"), np.split(order, cut), strict=True):
            rows = [{"image_id": self.shapes[i][0]} for i in sorted(chosen)]
            write_csv(self.folder / "Utilities" / "Fracture Split" / f"{name}.csv", ("image_id",), rows)
