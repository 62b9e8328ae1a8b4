"""What was pretrained by DINO, by us or by DAX, in the benchmark: the preprocessing travels with the weights."""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.fill import fill_tensor
from in_process import script

from data.reading.radiograph import load_radiograph
from data.views.preprocessing import Preprocessing
from models.backbones import names as backbone_names
from models.backbones.aliases import ALIASES, read_aliases
from models.backbones.backbone import build_backbone
from models.backbones.dino import dino_backbone
from models.weights.export import save_backbone
from phantoms.layouts.registry import WRITERS
from phantoms.plan import Plan, phantoms
from scripts import train_downstream

GOLDEN = Path(__file__).parents[1] / "golden"
OPTIONS = {"complement": True, "floor": 0.1}


@pytest.fixture(scope="module")
def fracatlas(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "FracAtlas"
    writer = WRITERS["fracatlas"](root, "jpeg", 0)
    for phantom in phantoms(
        Plan(0, 48, "clear", ("knee", "hand"), ("normal", "fracture", "implant")), 40
    ):
        writer.add(phantom)
    writer.close()
    return root


@pytest.fixture
def run(tmp_path):
    """The exported teachers of two runs."""

    def made(name, size):
        torch.manual_seed(1)
        preprocessing = Preprocessing(
            size, size, "neglog", OPTIONS, interpolation="bicubic", mean=(0,) * 3, std=(1,) * 3
        )
        network = dino_backbone(name, 8, size)
        save_backbone(network, name, tmp_path / name / "model", preprocessing.to_dict(), "# card\n")
        return tmp_path / name / "model"

    return made


def benchmark(root, out, protocol, *backbones):
    common = (
        "--cv",
        2,
        "--test_split",
        0.3,
        "--num_workers",
        0,
        "--no-verbose",
        "--precision",
        "fp32",
        "--device",
        "cpu",
    )
    done = script(
        train_downstream,
        "--data",
        "fracatlas",
        "--data_root",
        root,
        "--outdir",
        out,
        "--protocol",
        protocol,
        *common,
        "--backbones",
        *backbones,
    )
    assert done.returncode == 0, done.stderr
    return out / "fracatlas"


def cached(out):
    """[(what the features depend on, values [R, D])] of a study, in the order they were made."""
    files = sorted((out / "features").glob("*.npz"), key=lambda file: file.stat().st_mtime_ns)
    archives = [np.load(file) for file in files]
    return [(json.loads(a["about"].tobytes()), a["values"]) for a in archives]


@pytest.mark.parametrize("name, protocol", [("vit_mini", "knn"), ("resnet18", "linear")])
def test_a_run_of_ours_keeps_its_preprocessing_and_its_size(
    name, protocol, fracatlas, run, tmp_path, monkeypatch
):
    monkeypatch.setattr("evaluation.pages.charts._png", lambda figure: b"")
    folder = run(name, 40)
    out = benchmark(fracatlas, tmp_path / "out", protocol, str(folder), f"none:{folder}")
    short = f"{folder.parent.name}_model" if folder.name == "model" else folder.name
    studies = {file.name.removesuffix("_summary.json") for file in out.glob("*_summary.json")}
    assert studies == {f"{short}-{protocol}", f"none-{short}-{protocol}"}
    page = (out / "report.html").read_text()
    assert (
        f"{short}-{protocol}, random weights" in page and str(folder).replace("/", "_") not in page
    )
    (about, values), (random_about, random_values) = cached(out)
    assert about["preprocessing"] == random_about["preprocessing"]
    assert about["preprocessing"]["size"] == {"height": 40, "width": 40}
    assert about["preprocessing"]["radiograph"]["intensity_options"] == OPTIONS
    assert about["weights"] != random_about["weights"] and not np.allclose(
        values, random_values, atol=1e-3
    )

    backbone = build_backbone(folder)
    preprocessing = Preprocessing.from_dict(backbone.preprocessing)
    paths = sorted(fracatlas.rglob("*.jpg"))
    with torch.no_grad():
        images = torch.stack([preprocessing(load_radiograph(path)) for path in paths])
        expected = backbone(preprocessing.normalise(images)).numpy()
    distance = np.abs(values[:, None] - expected[None]).max(-1)  # each row is that of one file
    assert distance.min(1).max() < 1e-3 * np.abs(expected).max() and len(values) == len(paths)
    names = json.loads(next(out.glob("*_summary.json")).read_text())
    assert names["protocol"] == protocol and (out / "comparisons.csv").exists()


@pytest.mark.parametrize(
    "alias, fixture",
    [
        pytest.param("dax-resnet18", "g7_resnet18", marks=pytest.mark.slow),
        pytest.param("dax", "g7_vit_small16", marks=pytest.mark.slow),
    ],
)
def test_a_published_file_under_its_short_name(alias, fixture, fracatlas, tmp_path, monkeypatch):
    """`--backbones dax`: the file as it is published, in the folder where configs/backbones.yaml expects it."""
    meta = json.loads((GOLDEN / f"{fixture}.json").read_text())
    prefix = meta["expected"]["teacher_prefix"]
    teacher = {
        key: torch.from_numpy(fill_tensor(key, shape, 0)) for key, shape in meta["keys"].items()
    }
    head = f"{prefix.removesuffix('backbone.')}head.last_layer.parametrizations.weight.original0"
    content = {
        "student": {},
        "teacher": teacher | {head: torch.ones(4, 1)},
        "optimizer": {},
        "epoch": 200,
        "dino_loss": {},
        "args": argparse.Namespace(augmentation="v1"),
    }
    known = read_aliases(ALIASES)
    place = tmp_path / known[alias].weights.name
    place.mkdir()
    torch.save(content, place / known[alias].get.split()[0])
    here = {alias: dataclasses.replace(known[alias], weights=place)}
    monkeypatch.setattr(backbone_names, "read_aliases", lambda path=None: here)
    monkeypatch.setattr("evaluation.pages.charts._png", lambda figure: b"")
    out = benchmark(fracatlas, tmp_path / "out", "knn", alias)
    ((about, values),) = cached(out)
    assert about["preprocessing"]["radiograph"] == {
        "intensity": "neglog",
        "intensity_options": {"complement": True},
        "resize": "squash",
    }
    assert (
        about["preprocessing"]["image_mean"] == [0, 0, 0]
        and about["preprocessing"]["size"]["height"] == 224
    )
    name = "resnet18" if "resnet" in alias else "vit_small"
    network = dino_backbone(name, 16, 224)
    network.load_state_dict({key.removeprefix(prefix): value for key, value in teacher.items()})
    preprocessing = Preprocessing.from_dict(about["preprocessing"])
    path = sorted(fracatlas.rglob("*.jpg"))[0]
    with torch.no_grad():
        expected = network.eval()(
            preprocessing.normalise(preprocessing(load_radiograph(path))[None])
        ).numpy()
    assert np.abs(values - expected).max(-1).min() < 1e-3 * np.abs(expected).max()
