"""Nothing leaks: words that stand for a person, in tags and in the text inside pictures, are in nothing that we write.

The runs are what a hospital would do: pretraining and heat maps, with every logger at its most talkative.
"""

import base64
import io
import logging
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from app_pieces import app, write_networks
from fork_harness import exit_status, spawn
from PIL import Image, PngImagePlugin
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

import models.networks.vit
import pretrain_mae
import scripts.check_data
import zero_shot_heatmap
from core.text import shortened
from data.reading.dicom.patient import patient_facts
from data.reading.radiograph import load_radiograph
from data.reading.refusal import UnreadableRadiograph
from evaluation.pages.html import Report, write_page, write_report
from workflows.heatmaps import figures as heatmap_figures
from workflows.regions.web import service
from workflows.regions.web.server import read_upload
from workflows.regions.web.uploads import Upload

WORD = "CANARY"
TEXT = """
    PatientName PatientID OtherPatientNames PatientAddress PatientComments MilitaryRank Occupation
    PatientMotherBirthName AccessionNumber InstitutionName InstitutionAddress InstitutionalDepartmentName
    ReferringPhysicianName PerformingPhysicianName OperatorsName StationName StudyID StudyDescription
    SeriesDescription ProtocolName DeviceSerialNumber RequestingPhysician ImageComments PhysiciansOfRecord
""".split()
DATES = {
    "PatientBirthDate": "18470213",
    "StudyDate": "18470214",
    "AcquisitionDate": "18470215",
    "ContentDate": "18470216",
}
UIDS = {
    "SOPInstanceUID": "1.2.18470217.1",
    "StudyInstanceUID": "1.2.18470218.1",
    "SeriesInstanceUID": "1.2.18470219.1",
}
CANARIES = (WORD.encode(), b"1847021", WORD.lower().encode(), WORD.encode("utf-16-le"))


def pixels(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 60000, (6, 6)).astype(np.int32)
    return np.uint16(
        np.asarray(Image.fromarray(coarse).resize((44, 40), Image.Resampling.BILINEAR))
    )


def write_dicom(path: Path, seed: int, **changes) -> Path:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.SourceApplicationEntityTitle = WORD + "AE"
    dataset.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = UIDS["SOPInstanceUID"]
    dataset.SOPClassUID, dataset.Modality = DigitalXRayImageStorageForPresentation, "DX"
    for number, name in enumerate(TEXT):
        setattr(dataset, name, f"{WORD}{number}")
    for name, value in (DATES | UIDS).items():
        setattr(dataset, name, value)
    dataset.PatientAge, dataset.WindowCenterWidthExplanation = "CAN", WORD
    dataset.private_block(0x0011, WORD + " PRIVATE", create=True).add_new(1, "LO", WORD + "P")
    dataset.Rows, dataset.Columns = 40, 44
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = pixels(seed).tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def radiographs(tmp_path, monkeypatch) -> Path:
    """Good and broken files, all with canaries."""
    folder = tmp_path / "in" / "hand"
    folder.mkdir(parents=True)
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
    for seed in range(4):
        write_dicom(folder / f"good{seed}.dcm", seed)
    write_dicom(folder / "bad_words.dcm", 5, PhotometricInterpretation=WORD)
    write_dicom(
        folder / "bad_window.dcm", 5, WindowCenter="1", WindowWidth="0", VOILUTFunction=WORD
    )
    write_dicom(folder / "no_rows.dcm", 5, Rows=None)
    whole = write_dicom(folder / "cut.dcm", 5).read_bytes()
    (folder / "cut.dcm").write_bytes(whole[:-900])
    (folder / "cut_early.dcm").write_bytes(whole[:700])
    (folder / "bad_date.dcm").write_bytes(whole.replace(b"18470213", WORD.encode() + b"!!"))
    (folder / "bad_kind.dcm").write_bytes(whole.replace(b"\x10\0\x10\0PN", b"\x10\0\x10\0ZZ"))
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", WORD)
    text.add_itxt("Comment", WORD, zip=True)
    exif = Image.Exif()
    exif[270], exif[315], exif[0x9C9B] = WORD, WORD, WORD.encode("utf-16-le")
    grey = Image.fromarray((pixels(6) >> 8).astype(np.uint8))
    grey.save(folder / "a.png", pnginfo=text, exif=exif)
    grey.save(folder / "b.jpg", exif=exif, comment=WORD.encode())
    grey.save(folder / "c.tif", tiffinfo={270: WORD, 305: WORD, 315: WORD, 65000: WORD})
    for name in ("a.png", "b.jpg", "c.tif"):
        content = (folder / name).read_bytes()
        (folder / f"cut_{name}").write_bytes(content[: len(content) * 2 // 3])
        (folder / f"flipped_{name}").write_bytes(
            content[:40] + bytes([content[40] ^ 255]) + content[41:]
        )
    return tmp_path / "in"


def loosened(content: bytes) -> bytes:
    """A file with what is packed in it beside it: entries of archives and chunks of PNG."""
    found = [content]
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found += [loosened(archive.read(name)) for name in archive.namelist()]
    elif content[:8] == b"\x89PNG\r\n\x1a\n":
        at = 8
        while at < len(content):
            (length,), kind = struct.unpack(">I", content[at : at + 4]), content[at + 4 : at + 8]
            chunk, at = content[at + 8 : at + 8 + length], at + 12 + length
            if kind in (b"zTXt", b"iTXt", b"iCCP"):
                tail = (
                    chunk.rsplit(b"\0", 1)[-1]
                    if kind == b"iTXt"
                    else chunk[chunk.index(b"\0") + 2 :]
                )
                found.append(zlib.decompressobj().decompress(tail) if tail[:1] == b"x" else tail)
    return b"\n".join(found)


def hits(folder: Path) -> dict[str, bytes]:
    """Each written file that holds a canary."""
    files = {path: loosened(path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    assert files
    return {
        path.name: word for path, content in files.items() for word in CANARIES if word in content
    }


def talkative(log: Path) -> None:
    """Every record of every logger into a file; what libraries say of themselves is no message about a patient."""
    logging.basicConfig(filename=log, level=logging.NOTSET, force=True)
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    pydicom.config.debug(True, default_handler=True)


def test_the_search_finds_what_is_hidden(radiographs, tmp_path):
    assert {"good0.dcm", "a.png", "b.jpg", "c.tif", "bad_date.dcm"} <= set(hits(radiographs))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(radiographs / "hand" / "a.png", "inner")
    assert "x.npz" in hits(tmp_path)
    dataset = pydicom.dcmread(radiographs / "hand" / "good0.dcm")
    assert sum(WORD in str(element.value) for element in dataset.iterall()) >= 18


def test_errors_say_no_word_of_it(radiographs, tmp_path):
    def read() -> int:
        talkative(tmp_path / "log.txt")
        refused = 0
        for path in sorted(radiographs.rglob("*.*")):
            try:
                load_radiograph(path)
            except UnreadableRadiograph as error:
                cause, refused = error, refused + 1
                while cause is not None:
                    assert not any(
                        word.decode("latin-1") in f"{cause} {cause.args}" for word in CANARIES
                    ), path.name
                    cause = cause.__cause__ or (
                        None if cause.__suppress_context__ else cause.__context__
                    )
        logging.shutdown()
        return 0 if refused >= 8 else 1

    assert exit_status(spawn(read)) == 0
    assert not any(word in (tmp_path / "log.txt").read_bytes() for word in CANARIES)


def test_sex_and_age_are_read_without_a_word(radiographs, tmp_path):
    def read() -> int:
        talkative(tmp_path / "log.txt")
        facts = [patient_facts(path) for path in sorted(radiographs.rglob("*.*"))]
        logging.shutdown()
        return (
            0 if sum(one.age_months == 12 for one in facts) >= 4 else 1
        )  # only the days between two dates

    for path in radiographs.rglob("good*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.AcquisitionDate = "18480213"
        dataset.save_as(path)
    assert exit_status(spawn(read)) == 0
    assert not any(word in (tmp_path / "log.txt").read_bytes() for word in (*CANARIES, b"18480213"))


def test_checking_a_data_set_tells_no_word_of_it(radiographs, tmp_path, capfd):
    """Names are counted, and a word in the place of a view or a body part is not repeated."""
    write_dicom(radiographs / "hand" / "place.dcm", 7, BodyPartExamined=WORD, ViewPosition=WORD)
    out = tmp_path / "out"
    out.mkdir()

    def work() -> int:
        talkative(out / "log.txt")
        done = scripts.check_data.main(
            scripts.check_data.Config(
                [radiographs],
                report=out / "report.csv",
                audit=out / "audit.csv",
                num_workers=0,
            )
        )
        logging.shutdown()
        return 0 if done == 3 else 1

    assert exit_status(spawn(work)) == 0
    told = capfd.readouterr()
    (out / "said.txt").write_text(told.out + told.err)
    assert hits(out) == {}
    assert (
        re.search(r"tags hold patient names: in 1\d of 1\d DICOM files", told.out)
        and "1 other" in told.out
    )


def test_runs_write_no_word_of_it(radiographs, tmp_path, capfd, monkeypatch):
    """Pretraining of two steps, then heat maps with its checkpoint, against a reference."""
    monkeypatch.setitem(models.networks.vit.SIZES, "tiny", (48, 2, 3))
    monkeypatch.setattr(heatmap_figures, "OVERLAY_SIDE", (60, 80))
    out = tmp_path / "out"
    out.mkdir()

    def work() -> int:
        talkative(out / "log.txt")
        done = pretrain_mae.main(
            pretrain_mae.Config(
                [str(radiographs)],
                str(out / "run"),
                model="mae_vit_tiny_patch16_dec64d1b",
                input_size=[32],
                batch_size=2,
                epochs=2,
                max_steps=2,
                num_workers=0,
                device="cpu",
                panel_freq=1,
                log_steps=1,
                warmup_epochs=0.5,
            )
        )
        mapped = zero_shot_heatmap.main(
            zero_shot_heatmap.Config(
                out / "run" / "model",
                [radiographs],
                out / "maps",
                passes=4,
                masks="complementary",
                device="cpu",
            )
        )
        logging.shutdown()
        return 0 if (done, mapped) == (0, 3) else 9

    status = exit_status(spawn(work), 120)
    told = capfd.readouterr()
    assert status == 0, told.err[-2000:]
    (out / "screen.txt").write_text(told.out + told.err)
    assert hits(out) == {}
    assert len((out / "maps" / "failed.csv").read_text().splitlines()) > 8
    assert (
        any(path.suffix == ".pt" for path in out.rglob("*"))
        and (out / "maps" / "index.html").exists()
    )
    assert (out / "log.txt").stat().st_size > 0
    for passed_on in [*(out / "run" / "model").iterdir(), out / "maps" / "index.html"]:
        assert str(tmp_path).encode() not in passed_on.read_bytes(), (
            f"{passed_on}: a path of this machine"
        )


def test_the_web_page_says_no_word_of_it(radiographs, tmp_path, capfd):
    """Each file as an upload, with a region-guided network and with a masked autoencoder alone."""
    out = tmp_path / "out"
    out.mkdir()
    guided, mae = write_networks(tmp_path / "networks")

    def work() -> int:
        talkative(out / "log.txt")
        readers = [
            service.build_reader(
                app().Config(model_path=one, mae_path=mae, regions="map", device="cpu")
            )
            for one in ([guided], [])
        ]
        results = 0
        for number, path in enumerate(sorted(radiographs.rglob("*.*"))):
            upload = Upload()
            upload.write(path.read_bytes())
            upload.finish()
            page = "".join(read_upload(read, upload.path).html for read in readers)
            upload.close()
            results += "class='case'" in page
            (out / f"{number}.html").write_text(page)
            for place, packed in enumerate(re.findall(r"base64,([A-Za-z0-9+/=]+)", page)):
                (out / f"{number}_{place}").write_bytes(base64.b64decode(packed))
        logging.shutdown()
        return 0 if results >= 8 else 1

    status = exit_status(spawn(work), 120)
    told = capfd.readouterr()
    assert status == 0, told.err[-2000:]
    (out / "screen.txt").write_text(told.out + told.err)
    assert (
        hits(out) == {} and len(list(out.glob("*.html"))) > 15 and len(list(out.glob("*_*"))) > 40
    )


@pytest.mark.parametrize(
    "value, shown",
    [
        ("/home/anna/studies/knee/images", ".../knee/images"),
        (Path("/data/chexpert"), ".../data/chexpert"),
        ("/data", ".../data"),
        ("convnext_tiny@/home/anna/best.pth", "convnext_tiny@.../anna/best.pth"),
        ("study=/mnt/x/y/z.csv", "study=.../y/z.csv"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("images/knee", "images/knee"),
        ("../knee", "../knee"),
        ("none:resnet50", "none:resnet50"),
        ("1/2", "1/2"),
        (0.5, "0.5"),
        (None, "None"),
        (Path.cwd() / "data" / "BTXRD", "data/BTXRD"),
        (b"/a/b/c", ".../b/c"),
    ],
)
def test_paths_are_shortened(value, shown):
    assert shortened(value) == shown


def test_settings_of_pages_hold_no_paths_of_this_machine(tmp_path):
    settings = {
        "one": tmp_path / "a",
        "several": [tmp_path / "b", "plain"],
        "text": f"x@{tmp_path}/c",
        "number": 3,
    }
    write_page(tmp_path / "page.html", "title", "lead", {}, [], settings)
    report = Report(
        "title",
        "lead",
        {},
        settings,
        [],
        failed=[(f"{tmp_path}/lost.png", "missing", "no such file")],
    )
    write_report(tmp_path / "report.html", report)
    for page in ("page.html", "report.html"):
        shown = (tmp_path / page).read_text()
        assert str(tmp_path) not in shown and f"{tmp_path.name}/a" in shown and "plain" in shown
