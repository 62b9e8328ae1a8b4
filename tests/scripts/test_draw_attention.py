"""Pictures of where a network looks, as a user gets them."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from dino_oracles import folder_of, oracle
from in_process import script
from PIL import Image

from data.views.preprocessing import Preprocessing
from evaluation.statistics.likeness import FILE, Likeness
from evaluation.statistics.novelty import look
from models.backbones.backbone import build_backbone
from models.backbones.card import finetuned_card
from models.backbones.dino import dino_backbone
from models.backbones.finetuned import load_finetuned, save_finetuned
from models.networks.attention_maps import attention_maps
from models.networks.grad_cam import grad_cam, last_map, likeness, own_features
from models.networks.supervised import Supervised
from models.weights.export import save_backbone
from scripts import draw_attention
from training.kept_facts import KeptFacts

PREPROCESSING = Preprocessing(
    64, 64, "neglog", {"complement": True}, "pad", "bicubic", (0, 0, 0), (1, 1, 1)
)
SIZES = {"a/x.png": (100, 60), "a/y.png": (60, 100), "b/x.png": (80, 80)}


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("radiographs")
    for number, (name, size) in enumerate(SIZES.items()):
        pixels = np.random.default_rng(number).normal(900, 200, size).clip(0, 4095)
        pixels[20:40, 20:40] += 2000
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint16)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """Folders of DINO runs: a transformer and a ResNet; and a network fine-tuned from the ResNet."""
    out = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name in ("vit_mini", "resnet18"):
        save_backbone(
            dino_backbone(name, 16, 64), name, out / name, PREPROCESSING.to_dict(), "# card\n"
        )
    for kind, classes in (("multiclass", ["p", "q", "r"]), ("binary", ["none", "some"])):
        model = Supervised(
            build_backbone(str(out / "resnet18")), kind, 3 if kind == "multiclass" else 1
        )
        model.head.weight.data.normal_()
        card = finetuned_card("x", "y", "resnet18", {"epoch": 1}, None)
        save_finetuned(model, out / kind, PREPROCESSING.to_dict(), {"classes": classes}, card)
    return out


def fitted(radiographs, name):
    """(network pixels, size) of one radiograph."""
    scaled = PREPROCESSING.read(radiographs / name)
    return PREPROCESSING.normalise(PREPROCESSING.fit(scaled)[None]), scaled.shape


def on_radiograph(coarse, size):
    """A map [h, w] brought to the radiograph by hand: enlarged to the input, borders cut off, enlarged to its size."""
    picture = Image.fromarray(coarse.numpy()).resize((64, 64), Image.Resampling.BILINEAR)
    (left, top, right, bottom) = PREPROCESSING.placement(size)[1]
    part = picture.crop((left, top, right, bottom))
    return np.asarray(part.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def ran(radiographs, out, model, *flags):
    done = script(
        draw_attention,
        "--model-path",
        model,
        "--in-dirs",
        radiographs,
        "--out",
        out,
        "--device",
        "cpu",
        *flags,
    )
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader((out / "summary.csv").open()))


def test_attention_lies_on_the_radiograph_at_its_own_size(radiographs, backbones, tmp_path):
    rows = ran(radiographs, tmp_path, backbones / "vit_mini", "--batch_size", 2)
    assert [(row["heads"], row["rows"], row["columns"]) for row in rows] == [("3", "4", "4")] * 3
    backbone = build_backbone(str(backbones / "vit_mini"))
    for row, (name, size) in zip(rows, SIZES.items()):
        found = np.load(tmp_path / f"{row['outputs']}_attention.npy")
        assert found.shape == size and found.dtype == np.float32 and row["path"].endswith(name)
        coarse = attention_maps(backbone, fitted(radiographs, name)[0])[0].mean(0)
        np.testing.assert_allclose(found, on_radiograph(coarse, size), rtol=1e-4, atol=1e-6)
        ordered = sorted(coarse.flatten().tolist(), reverse=True)
        assert float(row["focus"]) == pytest.approx(sum(ordered[:2]) / sum(ordered), rel=1e-4)
        for ending in ("_attention.png", "_heads.png"):
            assert Image.open(tmp_path / f"{row['outputs']}{ending}").mode == "RGB"
    page = (tmp_path / "index.html").read_text()
    assert page.count("_heads.png") >= 3 and "http" not in page.replace("http-equiv", "")
    assert (tmp_path / "failed.csv").read_text().strip() == "path,reason,detail"


@torch.no_grad()
def test_attention_and_grad_cam_of_a_dinov3(radiographs, tmp_path):
    """As transformers' own: its register tokens come before the patches, and queries and keys are rotated."""
    theirs = oracle("dinov3")
    theirs.set_attn_implementation("eager")
    rows = ran(
        radiographs, tmp_path / "a", folder_of(theirs, tmp_path / "in"), "--input_size", 48, 80
    )
    assert [(row["heads"], row["rows"], row["columns"]) for row in rows] == [("3", "3", "5")] * 3
    preprocessing = Preprocessing.of(None, (48, 80))
    for row, (name, size) in zip(rows, SIZES.items()):
        scaled = preprocessing.read(radiographs / name)
        image = preprocessing.normalise(preprocessing.fit(scaled)[None])
        expected = (
            theirs(image, output_attentions=True).attentions[-1][0, :, 0, 5:].mean(0).reshape(3, 5)
        )
        picture = Image.fromarray(expected.numpy()).resize((80, 48), Image.Resampling.BILINEAR)
        on_it = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))
        found = np.load(tmp_path / "a" / f"{row['outputs']}_attention.npy")
        np.testing.assert_allclose(found, on_it, rtol=1e-3, atol=1e-5)
    rows = ran(
        radiographs, tmp_path / "g", tmp_path / "in", "--kind", "gradcam", "--input_size", 48, 80
    )
    assert {(row["rows"], row["columns"]) for row in rows} == {("3", "5")}
    assert any(np.load(file).max() > 0 for file in (tmp_path / "g").rglob("*_gradcam.npy"))


def test_grad_cam_of_a_resnet(radiographs, backbones, tmp_path):
    rows = ran(radiographs, tmp_path / "own", backbones / "resnet18")
    backbone = build_backbone(str(backbones / "resnet18"))
    images, size = fitted(radiographs, "a/x.png")
    layer = last_map(backbone, images)
    found = np.load(tmp_path / "own" / f"{rows[0]['outputs']}_gradcam.npy")
    expected = grad_cam(backbone, layer, images, own_features)[0]
    np.testing.assert_allclose(found, on_radiograph(expected, size), rtol=1e-4, atol=1e-7)
    assert not list((tmp_path / "own").rglob("*_heads.png"))

    rows = ran(
        radiographs,
        tmp_path / "like",
        backbones / "resnet18",
        "--like",
        radiographs / "b" / "x.png",
    )
    with torch.no_grad():
        other = backbone(fitted(radiographs, "b/x.png")[0])[0]
    expected = grad_cam(backbone, layer, images, likeness(other))[0]
    found = np.load(tmp_path / "like" / f"{rows[0]['outputs']}_gradcam.npy")
    np.testing.assert_allclose(found, on_radiograph(expected, size), rtol=1e-3, atol=1e-6)
    assert "likeness to x.png" in rows[0]["shows"]


@pytest.mark.parametrize(
    "kind, label, wanted",
    [
        ("multiclass", "q", 1),
        pytest.param("multiclass", None, None, marks=pytest.mark.slow),
        pytest.param("binary", "none", 0, marks=pytest.mark.slow),
    ],
)
def test_grad_cam_of_a_fine_tuned_network(kind, label, wanted, radiographs, backbones, tmp_path):
    rows = ran(radiographs, tmp_path, backbones / kind, *(("--label", label) if label else ()))
    model = load_finetuned(backbones / kind).model
    module = torch.nn.Sequential(model.backbone, model.head)
    for row, name in zip(rows, SIZES):
        images, size = fitted(radiographs, name)
        which = int(model.outputs(images).argmax()) if wanted is None else wanted
        if kind == "binary":
            expected = grad_cam(
                module,
                model.backbone.network.layer4,
                images,
                lambda o, w=which: o[:, 0] * (2 * w - 1),
            )
        else:
            expected = grad_cam(
                module, model.backbone.network.layer4, images, lambda o, w=which: o[:, w]
            )
        found = np.load(tmp_path / f"{row['outputs']}_gradcam.npy")
        np.testing.assert_allclose(found, on_radiograph(expected[0], size), rtol=1e-3, atol=1e-6)
        assert load_finetuned(backbones / kind).about["classes"][which] in row["shows"]


def test_radiographs_unlike_those_of_the_fine_tuning_are_told(radiographs, backbones, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(backbones / "multiclass", folder)
    model, rng = load_finetuned(folder).model, np.random.default_rng(0)
    inputs = [PREPROCESSING.read(radiographs / "a" / "x.png") for _ in range(60)]
    images = torch.stack(
        [PREPROCESSING.fit(one * np.float32(rng.uniform(0.95, 1))) for one in inputs]
    )
    with torch.no_grad():
        features = model.features(PREPROCESSING.normalise(images)).numpy()
    looks = np.stack([look(one[0].numpy()) for one in images])
    Likeness.fit(
        features=features[30:],
        training_features=features[:30],
        looks=looks[30:],
        training_looks=looks[:30],
    ).save(folder / FILE)
    facts = KeptFacts("phantoms", 600)
    save_finetuned(
        model,
        folder,
        PREPROCESSING.to_dict(),
        {"classes": ["p", "q", "r"], "training": facts.kept()},
        "",
    )
    rows = {row["path"]: row for row in ran(radiographs, tmp_path / "out", folder)}
    told = {
        Path(path).relative_to(radiographs).as_posix(): row["like_training"]
        for path, row in rows.items()
    }
    assert told["a/y.png"] == told["b/x.png"] == "no"
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("WARNING: unlike the training radiographs: at most ") == list(
        told.values()
    ).count("no")
    assert (
        "Trained on: 600 radiographs of phantoms." in page
        and "Validation score: not stated." in page
    )
    before = ran(radiographs, tmp_path / "before", backbones / "multiclass")
    assert {row["like_training"] for row in before} == {"unknown"}
    page = (tmp_path / "before" / "index.html").read_text()
    assert (
        "Trained on: not stated." in page
        and "it is unknown whether this radiograph is like the training" in page
    )


def test_grad_cam_of_a_transformer_is_of_its_last_tokens(radiographs, backbones, tmp_path):
    rows = ran(
        radiographs, tmp_path, backbones / "vit_mini", "--kind", "gradcam", "--input_size", 96
    )
    backbone = build_backbone(str(backbones / "vit_mini"), input_size=(96, 96))
    assert (rows[0]["rows"], rows[0]["columns"]) == ("6", "6") and backbone.input_size == (96, 96)
    assert any(np.load(file).max() > 0 for file in tmp_path.rglob("*_gradcam.npy"))


def test_what_cannot_be_is_one_sentence(radiographs, backbones, tmp_path):
    bad = tmp_path / "in" / "bad.png"
    bad.parent.mkdir()
    bad.write_bytes(b"no picture")
    common = ("--in-dirs", radiographs / "a", bad, "--out", tmp_path / "out", "--device", "cpu")
    done = script(draw_attention, "--model-path", backbones / "resnet18", *common)
    assert done.returncode == 3 and "1 could not be read" in done.stdout
    assert "bad.png,not-an-image" in (tmp_path / "out" / "failed.csv").read_text()
    for told, flags in {
        "--overwrite": (backbones / "resnet18", *common),
        "use Grad-CAM": (backbones / "resnet18", *common, "--overwrite", "--kind", "attention"),
        "knows no classes": (backbones / "resnet18", *common, "--overwrite", "--label", "p"),
        "choices of .*: p, q, r": (
            backbones / "multiclass",
            *common,
            "--overwrite",
            "--label",
            "z",
        ),
        "--label chooses": (
            backbones / "multiclass",
            *common,
            "--overwrite",
            "--like",
            radiographs / "b" / "x.png",
        ),
        "exclude each other": (
            backbones / "resnet18",
            *common,
            "--overwrite",
            "--like",
            bad,
            "--label",
            "p",
        ),
        "at its own size": (backbones / "multiclass", *common, "--overwrite", "--input_size", "32"),
    }.items():
        done = script(draw_attention, "--model-path", *flags)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert re.search(told, done.stderr), (told, done.stderr)
