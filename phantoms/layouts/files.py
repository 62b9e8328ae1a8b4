"""Files of phantom radiographs that more than one layout writes: pictures, tables, outlines of lesions."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from phantoms.layouts.dicom import write_dicom
from phantoms.study import Phantom, eight_bit, mask_boxes

VIEW_KINDS = {
    "lateral": "lateral",
    "oblique": "oblique",
    "external": "oblique",
    "mortise": "oblique",
    "grashey": "oblique",
}


MARK = "phantoms.txt"  # in a folder of phantoms: a layout of a real data set does not tell that they are none
MARK_TEXT = "Phantom radiographs, drawn by scripts/make_phantoms.py; they show no patient.\n"
LEVELS = 6  # of folders, from the mark to a radiograph


def check_empty(folder: Path, overwrite: bool = False) -> None:
    """Refuse to write into a folder that holds something."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise ValueError(f"{folder} is not empty; choose another folder or pass --overwrite")


def mark_phantoms(folder: Path) -> None:
    """Leave a file that says that the radiographs below a folder are phantoms."""
    (folder / MARK).write_text(MARK_TEXT, encoding="utf-8")


def are_phantoms(images: Iterable[str | Path]) -> bool:
    """Whether each of some files lies in a folder that `mark_phantoms` has marked, or at most `LEVELS` below one."""
    folders = {Path(image).absolute().parent for image in images}
    marked = [
        any(_is_marked(place) for place in [folder, *folder.parents][: LEVELS + 1])
        for folder in folders
    ]
    return bool(marked) and all(marked)


def told_data(images: Iterable[str | Path], layout: str = "") -> str:
    """What a run knows of the data that it learns from: `phantoms`, or in which layout they are; "" is a table."""
    if are_phantoms(images):
        return "phantoms"
    return f"a set in the layout of {layout}" if layout else "a table of the user's"


def _is_marked(folder: Path) -> bool:
    file = folder / MARK
    return (
        file.is_file()
        and file.stat().st_size == len(MARK_TEXT)
        and file.read_bytes() == MARK_TEXT.encode()
    )


def write_csv(path: Path, columns: tuple[str, ...], rows: list[dict]) -> None:
    """A table with Unix line ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, content: dict) -> None:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_yolo(path: Path, kind: int, boxes: list, width: int, height: int) -> None:
    """One line per box: number of the class, centre and size as fractions; an empty file where there is none."""
    lines = [
        f"{kind} {(x0 + x1) / 2 / width:.6f} {(y0 + y1) / 2 / height:.6f} "
        f"{(x1 - x0) / width:.6f} {(y1 - y0) / height:.6f}\n"
        for x0, y0, x1, y1 in boxes
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def write_voc(path: Path, picture: str, kind: str, boxes: list, width: int, height: int) -> None:
    """The boxes (x0, y0, x1, y1) in pixels as an XML file of Pascal VOC."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = picture
    size = ElementTree.SubElement(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", 1)):
        ElementTree.SubElement(size, tag).text = str(value)
    for box in boxes:
        thing = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(thing, "name").text = kind
        corners = ElementTree.SubElement(thing, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            ElementTree.SubElement(corners, tag).text = str(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ElementTree.tostring(root, encoding="unicode"), encoding="utf-8")


def write_picture(path: Path, phantom: Phantom, kind: str, seed: int, number: int) -> Path:
    """Write the pixels as png16, png8, jpeg or dicom; returns the path with its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "dicom":
        path = path.with_name(path.name + ".dcm")
        write_dicom(path, phantom, seed, number)
    elif kind == "jpeg":
        path = path.with_name(path.name + ".jpg")
        Image.fromarray(eight_bit(phantom)).save(path, quality=92)
    else:
        path = path.with_name(path.name + ".png")
        Image.fromarray(phantom.pixels if kind == "png16" else eight_bit(phantom)).save(
            path, compress_level=1
        )
    return path


def mask_polygon(mask: np.ndarray, corners: int = 24) -> list[list[float]]:
    """Outline of a lesion: the farthest mask pixel from its middle in each of `corners` directions; x, y in pixels."""
    rows, columns = np.nonzero(mask)
    centre_x = columns.mean()
    centre_y = rows.mean()
    turn = np.arctan2(rows - centre_y, columns - centre_x)
    sector = ((turn / (2 * np.pi) + 0.5) * corners).astype(int) % corners
    distance = np.hypot(rows - centre_y, columns - centre_x)
    points = []
    for k in range(corners):
        inside = np.flatnonzero(sector == k)
        if inside.size:
            far = inside[np.argmax(distance[inside])]
            points.append([float(columns[far]) + 0.5, float(rows[far]) + 0.5])
    if len(points) >= 3:
        return points
    ((x0, y0, x1, y1),) = mask_boxes(mask)  # a lesion of a few pixels
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
