"""Small networks with random weights, and files good and bad, for the tests of the web page."""

import base64
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pydicom
import torch
from pydicom.uid import ExplicitVRLittleEndian
from test_bombs import png

from data.views.preprocessing import Preprocessing
from evaluation.statistics.likeness import FILE, Likeness
from evaluation.statistics.novelty import look
from models.backbones.backbone import build_backbone
from models.backbones.finetuned import load_finetuned, save_finetuned
from models.networks.mae import MAEConfig, MaskedAutoencoder
from models.networks.region_guided import RegionGuided
from models.weights.checkpoint import save_mae
from phantoms.layouts.files import write_picture
from phantoms.plan import Plan, phantoms

ROOT = Path(__file__).parents[1]
BAD = {
    "text.png": "no PNG, JPEG, TIFF, BMP or DICOM",
    "report.dcm": "DICOM without a picture",
    "wide.png": "more than 120 million pixels",
    "bomb.png": "more than 120 million pixels",
    "black.png": "every pixel has the same value",
}


def app():
    """scripts/app.py as a module."""
    if "app" not in sys.modules:
        spec = importlib.util.spec_from_file_location("app", ROOT / "scripts" / "app.py")
        sys.modules["app"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["app"])
    return sys.modules["app"]


def write_networks(folder: Path, temperatures: dict | None = None) -> tuple[Path, Path]:
    """(folder of a classifier whose outputs are not all alike, folder of a masked autoencoder), of 32 x 32 pixels."""
    config = MAEConfig((32, 32), 8, 32, 1, 2, decoder_dim=32, decoder_depth=1, decoder_heads=2)
    torch.manual_seed(0)
    save_mae(MaskedAutoencoder(config), folder / "mae", Preprocessing(32, 32).to_dict(), "card")
    model = RegionGuided(build_backbone(str(folder / "mae")))
    torch.nn.init.normal_(model.head.weight, std=0.8)
    about = {} if temperatures is None else {"temperatures": temperatures}
    save_finetuned(model, folder / "fold0", Preprocessing(32, 32).to_dict(), about, "card")
    return folder / "fold0", folder / "mae"


def remember(folder: Path, count: int = 60) -> None:
    """Keep in a classifier's folder what phantom knees look like, and who trained it on how many of them."""
    loaded = load_finetuned(folder)
    preprocessing = Preprocessing.from_dict(loaded.preprocessor)
    loaded.model.normalise = preprocessing.normalise
    knees = phantoms(Plan(11, 64, "clear", ("knee",), ("normal", "lytic"), views=("ap",)), count)
    images = torch.stack([preprocessing(phantom.pixels) for phantom in knees])
    with torch.no_grad():
        features = loaded.model.features(images).numpy()
    looks, half = np.stack([look(one[0].numpy()) for one in images]), count // 2
    Likeness.fit(
        features=features[half:],
        training_features=features[:half],
        looks=looks[half:],
        training_looks=looks[:half],
    ).save(folder / FILE)
    score = {
        "metric": "AUROC",
        "value": 0.41,
        "unit": "",
        "against": "chance",
        "baseline": 0.5,
        "verdict": "loses to",
        "radiographs": 30,
    }
    about = loaded.about | {"training": {"data": "phantoms", "radiographs": 600, "score": score}}
    save_finetuned(loaded.model, folder, loaded.preprocessor, about, "card")


def write_phantom(file: Path, kind: str = "png8") -> Path:
    """A phantom knee of 64 x 64 pixels or fewer; returns `file` with the suffix of its kind."""
    phantom = next(iter(phantoms(Plan(3, 64, "clear", ("knee",), ("lytic",)), 1)))
    return write_picture(file, phantom, kind, 3, 0)


def write_bad(folder: Path) -> dict[Path, str]:
    """Files that are no radiographs -> what is said of them."""
    folder.mkdir(exist_ok=True)
    (folder / "text.png").write_text("no picture at all\n" * 50)
    (folder / "wide.png").write_bytes(png(20_000, 20_000))
    (folder / "bomb.png").write_bytes(png(40_000, 40_000))
    (folder / "black.png").write_bytes(png(400, 500))
    report = pydicom.Dataset()
    report.file_meta = pydicom.dataset.FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    report.PatientName, report.Modality = "CANARY^NAME", "SR"
    report.save_as(folder / "report.dcm", enforce_file_format=True)
    return {folder / name: told for name, told in BAD.items()}


def decoded(page: str, kind: str) -> bytes:
    """The content of the first data address of `kind` in a piece of HTML."""
    return base64.b64decode(page.split(f"data:{kind};base64,")[1].split("'")[0].split('"')[0])


def numbers(page: str) -> dict:
    """The JSON download of a result."""
    return json.loads(decoded(page, "application/json"))
