"""Nothing escapes: names that try to lead out of a data set or of the output folder, through all that names files.

An audit hook in a child sees every file that Python opens. The file outside is a perfectly good picture, so that an
escape would succeed.
"""

import csv
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from guarded_child import guarded
from hostile_names import HOSTILE, attacks
from PIL import Image

import zero_shot_heatmap
from core import flags as cli
from core.task import Task
from data.datasets.dataset import RadiographDataset
from data.datasets.truth import read_truth
from data.reading.listing import below, list_radiographs
from data.reading.radiograph import load_radiograph
from data.reading.refusal import UnreadableRadiograph
from data.releases.phantoms import PhantomFolder
from models.networks.mae import MAEConfig, MaskedAutoencoder
from models.weights.checkpoint import load_mae, save_mae
from phantoms.layouts.dicom import write_dicom
from phantoms.plan import Plan, phantoms
from workflows.heatmaps import figures as heatmap_figures
from workflows.regions.records.table import read_region_table

SIZE = (40, 44)


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 5), dtype=np.uint8)
    Image.fromarray(coarse).resize(SIZE[::-1]).save(path, format="PNG")
    return path


def mask(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.eye(*SIZE, dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """A data set with links and special files, beside a file that is none of its business."""
    mask(tmp_path / "secret.png")
    mask(tmp_path / "set-elsewhere" / "secret.png")  # its name begins like the root's
    root = tmp_path / "set"
    mask(root / "images" / "good.png")
    for link, target in (
        ("link.png", "../secret.png"),
        ("up", ".."),
        ("zero.png", "/dev/zero"),
        ("loop.png", "loop.png"),
    ):
        (root / link).symlink_to(target)
    os.mkfifo(root / "pipe.png")
    return root


def outside(paths: list[str], root: Path) -> list[str]:
    """What lies elsewhere once links are followed; Python's own files do not count."""
    real = os.path.realpath(root) + os.sep
    library = (os.path.realpath(torch.__path__[0] + "/.."), os.path.realpath(os.__file__ + "/.."))
    found = {path for path in paths if not os.path.realpath(path).startswith((real, *library))}
    return sorted(found - {os.path.realpath(root)})


def table(path: Path, columns: list[str], *rows: list[str]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def region_table(root: Path, name: str) -> None:
    rows = (
        [mask(root / "images" / "other.png").relative_to(root), "p", "benign"],
        [name, "q", "benign"],
    )
    file = table(root / "regions.csv", ["image", "patient", "tumour"], *rows)
    for path in read_region_table(file, on_bad="skip")["image"]:
        load_radiograph(path, allow_constant=True)


class Sheet(RadiographDataset):
    """Names pictures as FracAtlas and BTXRD do."""

    table, image, target, task = "sheet.csv", "images/{name}.png", "y", Task("binary")


class Workbook(Sheet):
    table = "sheet.xlsx"


def truth_table(root: Path, name: str) -> None:
    truth = read_truth(
        table(root / "truth.csv", ["image", "mask"], ["a", "images/good.png"], ["b", name])
    )
    for image in "ab":
        truth.lookup(Path(f"/x/{image}.png"), SIZE)


def phantom_table(root: Path, name: str, column: str) -> None:
    columns = ["image", "mask", "patient", "region", "condition", "age_years", "bone_age_months"]
    row = ["images/good.png", "images/good.png", "1", "hand", "normal", "9", "9"]
    row[columns.index(column)] = name
    records = PhantomFolder.read(table(root / "records.csv", columns, row).parent)
    for key in ("mask", "image") if column == "image" else ("image", "mask"):  # the good one first
        load_radiograph(records[key][0], allow_constant=True)


def sheet(kind: type[Sheet], name: str) -> bytes:
    stem = "../" * name.startswith("..") + name.removesuffix(
        ".png"
    )  # from the folder of the pictures
    rows, buffer = pd.DataFrame({"name": ["good", stem], "y": [0, 1]}), io.BytesIO()
    rows.to_excel(buffer, index=False) if kind is Workbook else rows.to_csv(buffer, index=False)
    return buffer.getvalue()


def labelled(root: Path, content: bytes, kind: type[Sheet]) -> None:
    (root / kind.table).write_bytes(content)
    for path in kind.read(root)["image"]:
        load_radiograph(path, allow_constant=True)


NAMERS = {
    "truth": truth_table,
    "image": lambda root, name: phantom_table(root, name, "image"),
    "mask": lambda root, name: phantom_table(root, name, "mask"),
    "regions": region_table,
    "csv": lambda root, content: labelled(root, content, Sheet),
    "xlsx": lambda root, content: labelled(root, content, Workbook),
}


@pytest.mark.parametrize("kind", NAMERS)
def test_tables_open_nothing_outside_their_data_set(kind, root):
    names = [*attacks(root), "images/good.png"]
    assert len(names) >= 60
    if kind == "xlsx":  # a workbook cannot hold these at all
        names = [name for name in names if name.isprintable() and len(name) < 5000]
    given = {"csv": Sheet, "xlsx": Workbook}.get(kind)
    contents = [sheet(given, name) for name in names] if given else names
    NAMERS[kind](
        root, sheet(given, "good") if given else "images/good.png"
    )  # opens what libraries open once

    def attack() -> None:
        for name, content in zip(names, contents):
            try:
                NAMERS[kind](root, content)
            except ValueError as error:  # a table that is refused, or a file that is none
                assert len(str(error).splitlines()) == 1, (name, error)

    report = guarded(attack, seconds=30)
    assert not report.error, report.error
    assert outside(report.opened, root) == []
    assert str(root / "images" / "good.png") in report.opened  # the hook sees what is opened


def test_names_that_stay_inside_are_taken(root):
    (root / "inner.png").symlink_to("images/good.png")
    for name in (
        "images/good.png",
        "images/../images/good.png",
        "inner.png",
        "./images//good.png",
        "..a/b.png",
    ):
        assert below(root, name) == root / name
    for name in ("link.png", "../set-elsewhere/secret.png", "up/secret.png", "..", "/"):
        with pytest.raises(ValueError, match="leads out of") as refused:
            below(root, name)
        assert ("through a link, to" in str(refused.value)) == (
            name == "link.png" or name.startswith("up/")
        )
    whole = root.with_name("whole")
    whole.symlink_to(root)
    assert below(whole, "images/good.png") == whole / "images/good.png"


@pytest.mark.parametrize("kind", [".txt", ".csv"])
def test_lists_are_taken_literally_and_open_no_special_file(kind, root):
    """A list is the user's own word: it may name any regular file, but nothing in it is expanded or decoded."""
    source = root / f"list{kind}"

    def attack() -> list[str]:
        taken = []
        for name in attacks(root):
            cell = name.replace('"', '""')
            text = f'image\n"{cell}"\n' if kind == ".csv" else f"{name}\n"
            source.write_text(text, encoding="utf-8")
            try:
                taken += [os.path.realpath(path) for path in list_radiographs(source)]
            except (ValueError, FileNotFoundError) as error:
                assert len(str(error).splitlines()) == 1, (name, error)
        real = [str(root.parent / name) for name in ("secret.png", "set-elsewhere/secret.png")]
        assert set(taken) <= {
            *real,
            "/etc/passwd",
            "/etc/shadow",
            f"/proc/{os.getpid()}/environ",
        }, taken
        assert str(root.parent / "secret.png") in taken

    report = guarded(attack)
    assert not report.error, report.error
    assert set(report.opened) <= {str(source)}  # listed, not opened


@pytest.mark.parametrize("special", ["pipe", "device"])
def test_pipes_and_devices_keep_nobody_waiting(special, tmp_path):
    def place(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.symlink_to("/dev/zero") if special == "device" else os.mkfifo(path)
        return path

    @cli.dataclasses.dataclass
    class Config:
        """Nothing."""

        x: int = cli.flag(1)

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").write_bytes(b"")
    readers = {
        "w.pth": load_mae,
        "w.safetensors": load_mae,
        "folder/config.json": lambda path: load_mae(path.parent),
        "t.csv": read_truth,
        "masks/a.png": lambda path: read_truth(path.parent),
        "l.txt": list_radiographs,
        "a.png": load_radiograph,
        "a.dcm": load_radiograph,
        "c.yaml": lambda path: cli.parse(Config, ["--config", str(path)]),
    }
    for name, read in readers.items():
        path = place(name)
        report = guarded(lambda read=read, path=path: read(path), seconds=10)
        assert report.error.startswith(
            ("ValueError", "UnreadableRadiograph", "FileNotFound", "SystemExit: 2")
        ), report
        assert str(path) not in report.opened and report.seconds < 1, (name, report)


def test_tags_of_a_dicom_file_name_no_other_file(root):
    phantom = next(iter(phantoms(Plan(0, 64, "clear", ("hand",), ("normal",), None), 1, 1)))
    path = root / "a.dcm"
    write_dicom(path, phantom, 0, 0)
    dataset = pydicom.dcmread(path)
    load_radiograph(path)  # opens what libraries open once

    def attack() -> None:
        for name in filter(str.isascii, attacks(root)):
            dataset.SOPInstanceUID = dataset.StudyInstanceUID = name[:64]
            dataset.add_new(
                0x00041500, "CS", name[:900].split("/")
            )  # where a DICOMDIR says that a file lies
            dataset.RetrieveURL = "file://" + str(root.parent / "secret.png")
            dataset.save_as(path)
            try:
                load_radiograph(path)
            except UnreadableRadiograph as error:
                assert error.path == path

    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    report = guarded(attack)
    assert not report.error and set(outside(report.opened, root)) == set(), report


def test_outputs_stay_in_the_output_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(heatmap_figures, "OVERLAY_SIDE", (60, 80))
    config = MAEConfig((32, 32), 16, 16, 1, 1, decoder_dim=16, decoder_depth=1, decoder_heads=1)
    preprocessor = {"size": {"height": 32, "width": 32}, "do_resize": True, "resample": 2}
    save_mae(MaskedAutoencoder(config), tmp_path / "model", preprocessor, "card")
    for seed, name in enumerate(HOSTILE):
        picture(tmp_path / "in" / name, seed)
    (tmp_path / "list.txt").write_text("in/...h.png\nin/l.png/..png\nin/m/...png\nin/../in/~.png\n")
    (tmp_path / "linked").symlink_to("in")
    out = tmp_path / "out"

    def run() -> None:
        names = [
            tmp_path / "in" / ".." / "in",
            tmp_path / "linked",
            tmp_path / "list.txt",
            Path(str(tmp_path / "in") + "/."),
        ]
        settings = zero_shot_heatmap.Config(
            tmp_path / "model", names, out, passes=8, panel_passes=0, device="cpu"
        )
        assert zero_shot_heatmap.main(settings) == 0

    report = guarded(run, seconds=60)
    assert not report.error, report.error
    assert {path for path in report.changed if not (path + "/").startswith(f"{out}/")} <= {
        "/dev/null"
    }
    assert len(list(out.rglob("*_error.npy"))) == len(HOSTILE)
    page = (out / "index.html").read_text()
    assert (
        "<img src=x" not in page
        and 'href="javascript' not in page
        and "index.html.png" not in os.listdir(out)
    )
    shutil.rmtree(out)
