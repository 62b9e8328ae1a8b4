"""scripts/make_phantoms.py: layouts, formats, determinism and refusals."""

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from in_process import script
from PIL import Image

from data.releases.mura import MURA
from phantoms.layouts.btxrd import BTXRD_COLUMNS
from phantoms.layouts.dicom import patient_age, uid
from phantoms.layouts.files import are_phantoms, check_empty, mask_polygon, told_data
from phantoms.layouts.fracatlas import FRACATLAS_COLUMNS
from phantoms.layouts.registry import LAYOUTS, RECORD_COLUMNS, WRITERS, fit_plan
from phantoms.plan import FLAT_FOOT_MM, Plan, draw_patient_options, phantoms
from scripts import make_phantoms

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "make_phantoms.py"


def run(*arguments):
    return script(make_phantoms, *arguments)


def run_alone(*arguments, cwd=ROOT):
    """In a process of its own."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def write(folder: Path, layout: str, plan: Plan, count: int, kind: str = "png16") -> Path:
    writer = WRITERS[layout](folder, kind, plan.seed)
    for phantom in phantoms(plan, count):
        writer.add(phantom)
    writer.close()
    return folder


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def rows_of(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("folder"), "folder", Plan(seed=3, size=96), 16)


def test_a_folder_of_phantoms_says_that_it_is_one(tmp_path, monkeypatch):
    """The layout of a real data set does not: a network trained on it would claim patients."""
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "make_phantoms.py",
            "--out",
            str(tmp_path / "MURA"),
            "--layout",
            "mura",
            "--n",
            "3",
            "--size",
            "48",
        ],
    )
    make_phantoms.main()
    images = sorted((tmp_path / "MURA").rglob("*.png"))
    assert len(images) == 3 and are_phantoms(images) and not are_phantoms([])
    assert (
        told_data(images, "mura") == "phantoms"
        and told_data([], "mura") == "a set in the layout of mura"
    )
    other = tmp_path / "hospital" / "a.png"
    other.parent.mkdir()
    other.write_bytes(images[0].read_bytes())
    assert not are_phantoms([*images, other])
    (other.parent / "phantoms.txt").write_text("knees of phantoms and of patients\n")
    assert not are_phantoms([other])


@pytest.fixture(scope="module")
def fracatlas(tmp_path_factory):
    plan = Plan(seed=4, size=96, conditions=("normal", "fracture", "implant"))
    return write(tmp_path_factory.mktemp("fracatlas"), "fracatlas", plan, 30)


@pytest.fixture(scope="module")
def btxrd(tmp_path_factory):
    plan = Plan(seed=5, size=96, conditions=("normal", "lytic", "sclerotic", "osteochondroma"))
    return write(tmp_path_factory.mktemp("btxrd"), "btxrd", plan, 40)


def test_folder_rows_files_and_masks_agree(folder):
    rows = rows_of(folder / "records.csv")
    assert len(rows) == 16 and tuple(rows[0]) == RECORD_COLUMNS
    assert {row["image"] for row in rows} == {
        f"images/{path.name}" for path in (folder / "images").iterdir()
    }
    assert {row["mask"] for row in rows} - {""} == {
        f"masks/{path.name}" for path in (folder / "masks").iterdir()
    }
    for row in rows:
        pixels = np.asarray(Image.open(folder / row["image"]))
        assert pixels.dtype == np.uint16 and pixels.max() == 65535
        assert row["image"] == f"images/{row['patient']}_{row['view']}.png"
        boxes = json.loads(row["boxes"])
        assert bool(row["mask"]) == (row["condition"] != "normal") == bool(boxes)
        if row["mask"]:
            mask = np.asarray(Image.open(folder / row["mask"]))
            assert mask.shape == pixels.shape and set(np.unique(mask)) == {0, 255}
            y, x = np.nonzero(mask)
            assert boxes == [[x.min(), y.min(), x.max() + 1, y.max() + 1]]


def test_writing_is_deterministic_and_independent_of_workers(folder, tmp_path):
    done = run_alone("--out", tmp_path / "a", "--n", 16, "--seed", 3, "--size", 96, "--workers", 2)
    assert done.returncode == 0, done.stderr
    written = hashes(tmp_path / "a")
    assert written.pop("phantoms.txt") and written == hashes(folder)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "folder"])
def test_official_layouts_are_deterministic(layout, tmp_path):
    plan = fit_plan(layout, Plan(seed=9, size=64))
    first, again = (hashes(write(tmp_path / name, layout, plan, 6)) for name in "ab")
    assert first == again


def test_fracatlas_layout(fracatlas):
    rows = rows_of(fracatlas / "dataset.csv")
    assert len(rows) == 30 and tuple(rows[0]) == FRACATLAS_COLUMNS
    positive = {row["image_id"] for row in rows if row["fractured"] == "1"}
    assert positive == {path.name for path in (fracatlas / "images" / "Fractured").iterdir()}
    negative = {path.name for path in (fracatlas / "images" / "Non_fractured").iterdir()}
    assert len(positive) > 3 and len(positive) + len(negative) == 30 and not positive & negative
    for row in rows:
        assert sum(int(row[part]) for part in ("hand", "leg", "hip", "shoulder")) == 1
        assert sum(int(row[view]) for view in ("frontal", "lateral", "oblique")) == 1
    split = [
        rows_of(fracatlas / "Utilities" / "Fracture Split" / f"{name}.csv")
        for name in ("train", "valid", "test")
    ]
    assert {row["image_id"] for part in split for row in part} == positive
    assert sum(map(len, split)) == len(positive)


def test_fracatlas_yolo_boxes_equal_coco_boxes(fracatlas):
    coco = json.loads(
        (fracatlas / "Annotations" / "COCO JSON" / "COCO_fracture_masks.json").read_text()
    )
    images = {image["id"]: image for image in coco["images"]}
    assert len(images) == len(coco["annotations"]) > 3
    for annotation in coco["annotations"]:
        image = images[annotation["image_id"]]
        path = fracatlas / "images" / "Fractured" / image["file_name"]
        assert Image.open(path).size == (image["width"], image["height"])
        kind, *numbers = (
            (fracatlas / "Annotations" / "YOLO" / f"{path.stem}.txt").read_text().split()
        )
        x, y, w, h = map(float, numbers)
        left, top, width, height = annotation["bbox"]
        found = [
            (x - w / 2) * image["width"],
            (y - h / 2) * image["height"],
            w * image["width"],
            h * image["height"],
        ]
        assert kind == "0" and np.allclose(found, [left, top, width, height], atol=1e-2)
        points = np.array(annotation["segmentation"][0]).reshape(-1, 2)
        assert (points >= [left, top]).all() and (points <= [left + width, top + height]).all()


def test_btxrd_layout(btxrd):
    table = pd.read_csv(btxrd / "dataset.csv")
    assert tuple(table.columns) == BTXRD_COLUMNS and len(BTXRD_COLUMNS) == 37
    assert table.equals(pd.read_excel(btxrd / "dataset.xlsx"))
    assert set(table.image_id) == {path.name for path in (btxrd / "images").iterdir()}
    assert {Path(name).suffix for name in table.image_id} == {".jpeg", ".jpg"}
    assert set(table.gender) == {"F", "M"} and set(table.center) <= {1, 2, 3}
    subtypes = table[list(BTXRD_COLUMNS[22:31])].sum(axis=1)
    assert (subtypes == table.tumor).all() and (table.benign + table.malignant == table.tumor).all()
    assert 0 < table.tumor.mean() < 1 and (table["wrist-joint"] == 0).all()
    assert (table[["frontal", "lateral", "oblique"]].sum(axis=1) == 1).all()


def test_btxrd_annotations_are_of_the_tumours(btxrd):
    table = pd.read_csv(btxrd / "dataset.csv").set_index("image_id")
    found = {}
    for path in (btxrd / "Annotations").iterdir():
        shown = json.loads(path.read_text())
        found[shown["imagePath"]] = shown
        rectangle, polygon = shown["shapes"]
        assert (rectangle["shape_type"], polygon["shape_type"]) == ("rectangle", "polygon")
        (x0, y0), (x1, y1) = rectangle["points"]
        assert 0 <= x0 < x1 <= shown["imageWidth"] and 0 <= y0 < y1 <= shown["imageHeight"]
        assert (
            all(x0 <= x <= x1 and y0 <= y <= y1 for x, y in polygon["points"])
            and len(polygon["points"]) >= 3
        )
        assert table.loc[shown["imagePath"], rectangle["label"]] == 1
        assert Image.open(btxrd / "images" / shown["imagePath"]).size == (
            shown["imageWidth"],
            shown["imageHeight"],
        )
    assert set(found) == set(table.index[table.tumor == 1])


def test_dicom_holds_the_pixels_of_the_png(tmp_path, folder):
    pydicom = pytest.importorskip("pydicom")
    write(tmp_path, "folder", Plan(seed=3, size=96), 16, "dicom")
    kinds = set()
    for row, plain in zip(rows_of(tmp_path / "records.csv"), rows_of(folder / "records.csv")):
        file = pydicom.dcmread(tmp_path / row["image"])
        expected = np.asarray(Image.open(folder / plain["image"])) >> (16 - file.BitsStored)
        if file.PhotometricInterpretation == "MONOCHROME1":
            expected = (2**file.BitsStored - 1) - expected
        assert np.array_equal(file.pixel_array, expected)
        assert file.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        assert file.SOPClassUID == "1.2.840.10008.5.1.4.1.1.1.1" and file.Modality == "DX"
        assert file.file_meta.MediaStorageSOPInstanceUID == file.SOPInstanceUID
        assert file.PatientID == f"PHANTOM-{plain['patient']}" and file.PatientSex == plain["sex"]
        assert int(file.PatientAge[:3]) == int(
            float(plain["age_years"])
        ) or file.PatientAge.endswith("M")
        assert file.WindowWidth == 2**file.BitsStored and len(file.PixelSpacing) == 2
        kinds.add((file.BitsStored, file.PhotometricInterpretation))
    assert {bits for bits, _ in kinds} == {12, 16}
    assert {photometric for _, photometric in kinds} == {"MONOCHROME1", "MONOCHROME2"}


def test_dicom_uids_and_ages_are_valid():
    assert uid(1, 2, 3) == uid(1, 2, 3) != uid(1, 2, 4)
    assert len(uid(2**32 - 1, 3, 2**32 - 1)) <= 64
    assert patient_age(34.9) == "034Y" and patient_age(1.5) == "018M"


def test_condition_fraction_is_of_the_patients():
    plans = [Plan(seed=1, condition_fraction=share) for share in (0.0, 0.2, 1.0)]
    shares = [
        np.mean([draw_patient_options(plan, i)["condition"] != "normal" for i in range(400)])
        for plan in plans
    ]
    assert shares[0] == 0 and abs(shares[1] - 0.2) < 0.06 and shares[2] == 1


def test_a_layout_fills_in_what_the_plan_leaves_open_and_refuses_what_it_has_not():
    plan = fit_plan("pes_planus", Plan(seed=1, size=48))
    assert (plan.regions, plan.views, plan.flat_feet) == (("foot",), ("lateral",), 0.5)
    drawn = [draw_patient_options(plan, i)["arch_drop_mm"] for i in range(200)]
    low, high = FLAT_FOOT_MM
    assert (
        all(mm == 0 or low <= mm <= high for mm in drawn) and 70 < sum(mm > 0 for mm in drawn) < 130
    )
    assert fit_plan("pes_planus", Plan(flat_feet=0.0)).flat_feet == 0
    assert fit_plan("folder", Plan(seed=3)) == Plan(seed=3)
    children = fit_plan("rsna_bone_age", Plan(seed=1))
    assert all(1 <= draw_patient_options(children, i)["age_years"] <= 18 for i in range(50))
    with pytest.raises(
        ValueError, match="layout mura has the regions hand, wrist, elbow, shoulder, not knee"
    ):
        fit_plan("mura", Plan(regions=("hand", "knee")))
    with pytest.raises(
        ValueError, match="layout knee_oa has the conditions normal, arthrosis, not lytic"
    ):
        fit_plan("knee_oa", Plan(conditions=("lytic",)))


def test_the_script_writes_a_release_that_its_reader_takes(tmp_path):
    done = run("--out", tmp_path / "mura", "--layout", "mura", "--n", 8, "--size", 48)
    assert done.returncode == 0, done.stderr
    assert len(MURA.read(tmp_path / "mura")) == 8
    refused = run("--out", tmp_path / "x", "--layout", "mura", "--regions", "knee")
    assert (
        refused.returncode == 2
        and "has the regions" in refused.stderr
        and not (tmp_path / "x").exists()
    )


def test_regions_and_conditions_are_obeyed():
    plan = Plan(seed=1, regions=("hand", "knee"), conditions=("normal", "arthrosis"))
    drawn = {tuple(draw_patient_options(plan, i).values()) for i in range(100)}
    assert drawn == {("hand", "normal"), ("knee", "normal"), ("knee", "arthrosis")}
    with pytest.raises(ValueError, match="arthrosis.*hand"):
        draw_patient_options(Plan(regions=("hand",), conditions=("arthrosis",)), 0)


def test_polygon_follows_the_mask():
    y, x = np.mgrid[:60, :60]
    points = np.array(mask_polygon((x - 30) ** 2 + (y - 20) ** 2 < 144))
    assert np.allclose(np.hypot(points[:, 0] - 30.5, points[:, 1] - 20.5), 12, atol=1.2)


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(ValueError, match="not empty.*--overwrite"):
        check_empty(tmp_path)
    check_empty(tmp_path, overwrite=True)
    check_empty(tmp_path / "new")
    done = run("--out", tmp_path, "--n", 1, "--size", 48)
    assert done.returncode == 2 and "is not empty" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_script_runs_from_anywhere_with_either_spelling_and_draws_a_sheet(tmp_path):
    flags = "--out made --layout folder --n 3 --size 48 --format jpeg --condition_fraction 1 --difficulty clear"
    done = run_alone(*flags.split(), "--regions", "hand,knee", "--sheet", "sheet.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "made" / "images").glob("*.jpg"))) == 3
    assert Image.open(tmp_path / "sheet.png").mode == "RGB"


def pictures(folder: Path) -> list[str]:
    return [
        sha
        for path, sha in hashes(folder).items()
        if Path(path).suffix in (".png", ".jpg", ".jpeg")
    ]


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "folder"])
def test_traps_are_planted_on_demand_and_always_the_same(layout, tmp_path):
    drawn = list(phantoms(fit_plan(layout, Plan(seed=2, size=48)), 8))
    for name, traps in (("plain", {}), ("trapped", {"traps": True}), ("again", {"traps": True})):
        writer = WRITERS[layout](tmp_path / name, seed=2, **traps)
        for phantom in drawn:
            assert (tmp_path / name / writer.add(phantom)).is_file()
        writer.close()
    assert hashes(tmp_path / "trapped") == hashes(tmp_path / "again") != hashes(tmp_path / "plain")
    trapped = pictures(tmp_path / "trapped")
    assert len(set(trapped)) < len(trapped)  # a copy
    if layout != "knee_oa":  # which has the knees of its test set twice, cut out anew
        assert len(set(pictures(tmp_path / "plain"))) == len(pictures(tmp_path / "plain")) == 8


def test_the_script_plants_traps(tmp_path):
    done = run(
        "--out", tmp_path / "graz", "--layout", "grazpedwri", "--n", 4, "--size", 48, "--traps"
    )
    assert done.returncode == 0 and done.stdout.endswith("graz, and traps\n"), done.stderr
    assert (
        len(rows_of(tmp_path / "graz" / "dataset.csv")) == 6
        and len(pictures(tmp_path / "graz")) == 5
    )


def test_a_missing_folder_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make_phantoms.py"])
    with pytest.raises(SystemExit):
        make_phantoms.main()
    assert capsys.readouterr().err == "make_phantoms.py: give --out\n"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ("--traps", "the folder layout has no traps; --traps is for the layouts of real data sets"),
        (
            "--layout btxrd --format dicom",
            "layout btxrd has its own format; --format dicom is for the folder layout",
        ),
        (
            "--layout mars",
            f"--layout must be one of {', '.join(make_phantoms.LAYOUT_NAMES)}, not 'mars'",
        ),
        ("--regions hand,skull", "--regions must be one or several of hand, "),
        ("--n 0", "--n must be a whole number from 1, not '0'"),
        ("--size big", "--size must be a whole number from 32, not 'big'"),
        ("--field wide", "--field must be a number, not 'wide'"),
        (
            "--condition-fraction half",
            "--condition_fraction must be a number between 0 and 1, not 'half'",
        ),
        ("--sheet", "--sheet needs a value"),
    ],
)
def test_impossible_flags_are_refused_in_one_sentence(
    monkeypatch, tmp_path, capsys, arguments, sentence
):
    monkeypatch.setattr(
        sys, "argv", ["make_phantoms.py", "--out", str(tmp_path / "x"), *arguments.split()]
    )
    with pytest.raises(SystemExit) as caught:
        make_phantoms.main()
    shown = capsys.readouterr().err
    assert (
        caught.value.code == 2
        and shown.startswith(f"make_phantoms.py: {sentence}")
        and shown.count("\n") == 1
    )


@pytest.mark.parametrize(
    "name", ["sheet", "sheet.npy", "sheet.dcm", "sheet.png/x.png", "folder.png"]
)
def test_a_sheet_that_cannot_be_written_is_refused_before_anything_is_drawn(tmp_path, name):
    (tmp_path / "sheet.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    done = run("--out", tmp_path / "x", "--n", 1, "--size", 48, "--sheet", tmp_path / name)
    assert (
        done.returncode == 2
        and name.partition("/")[0] in done.stderr
        and "Traceback" not in done.stderr
    )
    assert not (tmp_path / "x").exists()


def test_a_folder_that_holds_files_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "mine.txt"):
        done = run("--out", out, "--n", 1, "--size", 48)
        assert (
            done.returncode == 2
            and done.stderr.startswith(f"make_phantoms.py: {out} is ")
            and str(out) in done.stderr
        )
        assert done.stderr.count("\n") == 1


def test_help_imports_nothing_heavy():
    code = (
        "import runpy, sys; sys.argv = ['make_phantoms.py', '--help']\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'scipy', 'PIL', 'pandas', 'tqdm', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]") and "--condition_fraction" in done.stdout


def test_names_in_the_script_are_those_of_the_library():
    """The script lists regions and conditions itself, so that its help needs no imports."""
    from phantoms.study import CONDITIONS, REGIONS

    assert make_phantoms.REGION_NAMES == tuple(REGIONS)
    assert make_phantoms.CONDITION_NAMES == CONDITIONS
    assert make_phantoms.LAYOUT_NAMES == LAYOUTS
    assert tuple(WRITERS) == LAYOUTS
