"""Write phantom radiographs in the on-disk layouts of real data sets: loaders are tested on what they will meet.

`folder`     images/, masks/ and records.csv: the layout of this project.
`fracatlas`  Abedeen et al., FracAtlas, Scientific Data 2023, https://doi.org/10.6084/m9.figshare.22363012. Fractures
             are positive; all other conditions are negative, implants with `hardware` = 1. Hand, wrist and elbow are
             `hand`; femur, knee, ankle and foot as `leg`; the chest, for its clavicle, as `shoulder`. The lists of
             `Utilities/Fracture Split` hold only positives, as officially.
`btxrd`      Yao et al., BTXRD, Scientific Data 2025, https://doi.org/10.6084/m9.figshare.27865398. Lytic lesions are
             simple bone cysts (under 20 years) or giant cell tumours (20 to 45); a quarter of them, and all beyond 45,
             are osteosarcoma or another malignant tumour. Sclerotic ones are osteosarcoma, osteofibroma, or another
             benign or malignant tumour; osteochondroma is itself. Other conditions, and the chest, are normal without
             a site. Columns, names, annotation shapes and the mix of .jpeg and .jpg are the official ones.

What belongs to one patient (such as centre and subtype) is drawn from the seed and the patient's number, never from the
order of writing.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter

from data.phantom import DIFFICULTIES, REGIONS, Phantom, mask_boxes, permitted, study

LAYOUTS = ("folder", "fracatlas", "btxrd")
FORMATS = ("png16", "png8", "jpeg", "dicom")
RECORD_COLUMNS = (
    "image", "patient", "view", "region", "condition", "age_years", "bone_age_months", "sex", "side", "kl_grade",
    "boxes", "mask",
)  # fmt: skip
FRACATLAS_COLUMNS = (
    "image_id", "hand", "leg", "hip", "shoulder", "mixed", "hardware", "multiscan", "fractured", "fracture_count",
    "frontal",
    "lateral", "oblique",
)  # fmt: skip
FRACATLAS_PARTS = {
    "hand": "hand", "wrist": "hand", "elbow": "hand", "shoulder": "shoulder", "chest": "shoulder", "hip": "hip",
    "femur": "leg", "knee": "leg", "ankle": "leg", "foot": "leg",
}  # fmt: skip
BTXRD_SITES = (
    "hand", "ulna", "radius", "humerus", "foot", "tibia", "fibula", "femur", "hip bone", "ankle-joint", "knee-joint",
    "hip-joint",
    "wrist-joint", "elbow-joint", "shoulder-joint",
)  # fmt: skip
BTXRD_BENIGN = (
    "osteochondroma", "multiple osteochondromas", "simple bone cyst", "giant cell tumor", "osteofibroma",
    "synovial osteochondroma",
    "other bt",
)  # fmt: skip
BTXRD_MALIGNANT = ("osteosarcoma", "other mt")
BTXRD_COLUMNS = (
    "image_id", "center", "age", "gender", *BTXRD_SITES, "tumor", "benign", "malignant", *BTXRD_BENIGN,
    *BTXRD_MALIGNANT,
    "upper limb", "lower limb", "pelvis", "frontal", "lateral", "oblique",
)  # fmt: skip
UPPER, LOWER = ("hand", "wrist", "elbow", "shoulder"), ("femur", "knee", "ankle", "foot")
VIEW_KINDS = {"lateral": "lateral", "oblique": "oblique", "external": "oblique", "mortise": "oblique",
              "grashey": "oblique"}
UID_ROOT = "2.25."  # UIDs made from a number, no registration needed (DICOM PS3.5 B.2)


# ------------------------------------------------------------------------------------------------ what to draw
@dataclass(frozen=True)
class Plan:
    """What `phantoms` draws: options of `study` and the mix of conditions."""

    seed: int = 0
    size: int = 512
    difficulty: str = "hard"
    regions: tuple[str, ...] = ()  # the difficulty's if empty
    conditions: tuple[str, ...] = ()  # all that a region permits if empty
    condition_fraction: float | None = None  # share of patients that are not normal; None: all conditions alike


def draw_patient_options(plan: Plan, patient: int) -> dict:
    """Region and condition of one patient, from the seed and the number alone."""
    rng = np.random.default_rng([plan.seed, patient, 99])
    wanted = plan.conditions or tuple(dict.fromkeys(c for name in REGIONS for c in permitted(name)))
    regions = plan.regions or DIFFICULTIES[plan.difficulty].regions
    able = {name: [c for c in permitted(name) if c in wanted] for name in regions}
    able = {name: choices for name, choices in able.items() if choices}
    if not able:
        raise ValueError(f"none of the conditions {', '.join(wanted)} can be drawn in the regions {', '.join(regions)}")
    region = list(able)[int(rng.integers(len(able)))]
    choices = able[region]
    abnormal = [c for c in choices if c != "normal"]
    if plan.condition_fraction is not None and abnormal and "normal" in choices:
        choices = abnormal if rng.random() < plan.condition_fraction else ["normal"]
    return {"region": region, "condition": choices[int(rng.integers(len(choices)))]}


def draw_patient_views(job: tuple[Plan, int]) -> list[Phantom]:
    """All views of one patient of a plan (a function of one argument, for process pools)."""
    plan, patient = job
    return study(plan.seed, patient, size=plan.size, difficulty=plan.difficulty, **draw_patient_options(plan, patient))


def phantoms(plan: Plan, count: int, workers: int = 1) -> Iterator[Phantom]:
    """Draw `count` images, patient by patient; the same whatever the number of worker processes."""
    left = count
    for views in patients_in_order(plan, count, workers):
        yield from views[:left]
        left -= len(views)
        if left <= 0:
            return


def patients_in_order(plan: Plan, count: int, workers: int) -> Iterator[list[Phantom]]:
    """The views of patients 0, 1, ...; the same whatever the number of workers."""
    jobs = ((plan, patient) for patient in range(count))  # a patient has at least one view
    if workers <= 1:
        yield from map(draw_patient_views, jobs)
        return
    from multiprocessing import get_context

    with get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(draw_patient_views, jobs, chunksize=4)


# ------------------------------------------------------------------------------------------------ files
def check_empty(folder: Path, overwrite: bool = False) -> None:
    """Refuse to write into a folder that holds something."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise ValueError(f"{folder} is not empty; choose another folder or pass --overwrite")


def eight_bit(phantom: Phantom) -> np.ndarray:
    """The pixels as uint8, rounded down."""
    return (phantom.pixels >> 8).astype(np.uint8)


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
        Image.fromarray(phantom.pixels if kind == "png16" else eight_bit(phantom)).save(path, compress_level=1)
    return path


def write_dicom(path: Path, phantom: Phantom, seed: int, number: int) -> None:
    """Write a DX image for presentation: 12 bits stored, 16 in every third; MONOCHROME1 in every fourth."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    sop_class = "1.2.840.10008.5.1.4.1.1.1.1"  # Digital X-Ray Image Storage - For Presentation
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = uid(seed, 1, number)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID_ROOT + "1"
    bits = 16 if number % 3 == 2 else 12
    stored = phantom.pixels >> (16 - bits)
    inverted = number % 4 == 1
    if inverted:
        stored = (2**bits - 1) - stored
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    fields = {
        "SOPClassUID": sop_class, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": uid(seed, 2, phantom.patient),
        "SeriesInstanceUID": uid(seed, 3, number), "StudyDate": "20000101", "StudyTime": "120000",
        "StudyID": str(phantom.patient),
        "AccessionNumber": "", "ReferringPhysicianName": "", "Manufacturer": "phantom", "Modality": "DX",
        "InstanceNumber": number + 1,
        "SeriesNumber": number + 1, "PresentationIntentType": "FOR PRESENTATION",
        "PatientName": f"PHANTOM^{phantom.patient}",
        "PatientID": f"PHANTOM-{seed}-{phantom.patient:06d}", "PatientBirthDate": "", "PatientSex": phantom.sex,
        "PatientAge": patient_age(phantom.age_years), "BodyPartExamined": REGIONS[phantom.region].body_part,
        "ViewPosition": {"ap": "AP", "pa": "PA"}.get(phantom.view, ""), "ImageLaterality": phantom.side,
        "ImageType": ["ORIGINAL", "PRIMARY", ""], "BurnedInAnnotation": "NO", "LossyImageCompression": "00",
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME1" if inverted else "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1], "BitsAllocated": 16, "BitsStored": bits, "HighBit": bits - 1,
        "PixelRepresentation": 0,
        "PixelSpacing": [round(phantom.pixel_spacing_mm, 5)] * 2,
        "ImagerPixelSpacing": [round(phantom.pixel_spacing_mm, 5)] * 2,
        "PresentationLUTShape": "INVERSE" if inverted else "IDENTITY", "RescaleIntercept": 0, "RescaleSlope": 1,
        "RescaleType": "US",
        "WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits, "PixelIntensityRelationship": "LOG",
        "PixelIntensityRelationshipSign": 1 if inverted else -1, "PixelData": stored.astype("<u2").tobytes(),
    }  # fmt: skip
    for name, value in fields.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)


def uid(*numbers: int) -> str:
    """A DICOM UID made from numbers: the same for the same numbers."""
    value = 0
    for n in (20_000_101, *numbers):
        value = (value << 32) + (n & 0xFFFFFFFF)
    return UID_ROOT + str(value)


def patient_age(years: float) -> str:
    """DICOM age string: months below two years."""
    return f"{int(years):03d}Y" if years >= 2 else f"{int(years * 12):03d}M"


# ------------------------------------------------------------------------------------------------ folder
class FolderWriter:
    """images/<patient>_<view>.<ending>, masks/<the same>.png for lesions, records.csv."""

    def __init__(self, folder: Path, kind: str = "png16", seed: int = 0):
        self.folder, self.kind, self.seed, self.rows = folder, kind, seed, []

    def add(self, phantom: Phantom) -> None:
        """Write one radiograph and remember its row."""
        patient = f"{self.seed}-{phantom.patient:06d}"  # folders of different seeds can be put together
        stem = f"{patient}_{phantom.view}"
        image = write_picture(self.folder / "images" / stem, phantom, self.kind, self.seed, len(self.rows))
        mask = ""
        if phantom.mask.any():
            path = self.folder / "masks" / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(phantom.mask.astype(np.uint8) * 255).save(path)
            mask = path.relative_to(self.folder).as_posix()
        known = {name: getattr(phantom, name) for name in RECORD_COLUMNS[1:10]}
        self.rows.append({
            **known, "image": image.relative_to(self.folder).as_posix(), "patient": patient,
            "kl_grade": "" if phantom.kl_grade is None else phantom.kl_grade, "boxes": json.dumps(phantom.boxes),
            "mask": mask,
        })  # fmt: skip

    def close(self) -> None:
        write_csv(self.folder / "records.csv", RECORD_COLUMNS, self.rows)


# ------------------------------------------------------------------------------------------------ FracAtlas
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


# ------------------------------------------------------------------------------------------------ BTXRD
class BtxrdWriter:
    """images/IMG*.jpeg (a few .jpg), Annotations/IMG*.json for tumours, dataset.csv and dataset.xlsx."""

    def __init__(self, folder: Path, kind: str = "jpeg", seed: int = 0):
        self.folder, self.seed, self.rows = folder, seed, []

    def add(self, phantom: Phantom) -> None:
        number = len(self.rows) + 1
        rng = np.random.default_rng([self.seed, phantom.patient, 23])  # of the patient: all views agree
        center = int(rng.choice([1, 2, 3], p=[0.784, 0.147, 0.069]))
        name = f"IMG{number:06d}." + ("jpg" if number % 20 == 0 else "jpeg")
        path = self.folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(eight_bit(phantom)).save(path, format="JPEG", quality=92)
        subtype = tumour_subtype(phantom, rng)
        row = dict.fromkeys(BTXRD_COLUMNS, 0) | {
            "image_id": name, "center": center, "age": int(phantom.age_years), "gender": phantom.sex,
            VIEW_KINDS.get(phantom.view, "frontal"): 1, **dict.fromkeys(tumour_sites(phantom), 1),
        }  # fmt: skip
        if phantom.region in UPPER or phantom.region in LOWER or phantom.region == "hip":
            row["upper limb" if phantom.region in UPPER else "lower limb" if phantom.region in LOWER else "pelvis"] = 1
        if subtype:
            row |= {"tumor": 1, subtype: 1, "benign" if subtype in BTXRD_BENIGN else "malignant": 1}
            self.write_labelme(name, subtype, phantom)
        self.rows.append(row)

    def write_labelme(self, name: str, subtype: str, phantom: Phantom) -> None:
        """A rectangle and a polygon, as in the official files."""
        x0, y0, x1, y1 = phantom.boxes[0]
        shapes = [("rectangle", [[x0, y0], [x1, y1]]), ("polygon", mask_polygon(phantom.mask))]
        write_json(self.folder / "Annotations" / f"{Path(name).stem}.json", {
            "version": "5.2.1", "flags": {}, "imagePath": name, "imageData": None,
            "imageHeight": phantom.pixels.shape[0],
            "imageWidth": phantom.pixels.shape[1],
            "shapes": [{"label": subtype, "points": points, "group_id": None, "shape_type": kind,
                        "flags": {}} for kind, points in shapes],
        })  # fmt: skip

    def close(self) -> None:
        write_csv(self.folder / "dataset.csv", BTXRD_COLUMNS, self.rows)
        write_xlsx(self.folder / "dataset.xlsx", pd.DataFrame(self.rows, columns=list(BTXRD_COLUMNS)))


def write_xlsx(path: Path, table: pd.DataFrame) -> None:
    """Write a sheet with fixed time stamps, so that the same table gives the same bytes."""
    import zipfile
    from datetime import datetime

    from openpyxl import Workbook
    from openpyxl.writer.excel import ExcelWriter

    book = Workbook()
    sheet = book.active
    sheet.append(list(table.columns))
    for values in table.astype(object).itertuples(index=False):
        sheet.append(list(values))
    book.properties.created = book.properties.modified = datetime(2000, 1, 1)
    draft = io.BytesIO()
    with zipfile.ZipFile(draft, "w") as archive:
        ExcelWriter(book, archive).write_data()
    with zipfile.ZipFile(draft) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
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
    return "osteosarcoma" if u < 0.3 else "osteofibroma" if u < 0.6 else "other bt" if u < 0.9 else "other mt"


def tumour_sites(phantom: Phantom) -> list[str]:
    """BTXRD site columns of a phantom: the host bone, or the region's usual bone, and the joint in view."""
    bone = phantom.bone if phantom.bone in BTXRD_SITES else ""
    usual = {
        "hand": ["hand"], "foot": ["foot"], "wrist": [bone or "radius"], "elbow": [bone or "humerus", "elbow-joint"],
        "shoulder": [bone or "humerus", "shoulder-joint"], "hip": [bone or "hip bone", "hip-joint"], "femur": ["femur"],
        "knee": [bone or "femur", "knee-joint"], "ankle": [bone or "tibia", "ankle-joint"], "chest": [],
    }  # fmt: skip
    return usual[phantom.region]


def mask_polygon(mask: np.ndarray, corners: int = 24) -> list[list[float]]:
    """Outline of a lesion: the farthest mask pixel from its middle in each of `corners` directions; x, y in pixels."""
    rows, columns = np.nonzero(mask)
    centre_x, centre_y = columns.mean(), rows.mean()
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


WRITERS = {"folder": FolderWriter, "fracatlas": FracAtlasWriter, "btxrd": BtxrdWriter}


# ------------------------------------------------------------------------------------------------ contact sheet
def contact_sheet(examples: list[Phantom], columns: int = 6, cell: int = 256) -> Image.Image:
    """Radiographs in rows, then the same in a second block with the lesions outlined in red."""
    rows = -(-len(examples) // columns)
    sheet = Image.new("RGB", (columns * cell, 2 * rows * cell))
    for block in (0, 1):
        for i, phantom in enumerate(examples):
            tile = Image.fromarray(outlined(phantom) if block else np.stack([eight_bit(phantom)] * 3, -1))
            tile.thumbnail((cell, cell))
            x = (i % columns) * cell + (cell - tile.width) // 2
            y = (i // columns + block * rows) * cell + (cell - tile.height) // 2
            sheet.paste(tile, (x, y))
    return sheet


def outlined(phantom: Phantom) -> np.ndarray:
    """RGB picture with a red line around the lesion."""
    rgb = np.stack([eight_bit(phantom)] * 3, -1)
    if phantom.mask.any():
        width = max(max(phantom.pixels.shape) / 512, 0.6)
        soft = gaussian_filter(phantom.mask.astype(np.float32), width)
        rgb[(soft > 0.12) & (soft < 0.6)] = (255, 40, 40)
    return rgb
