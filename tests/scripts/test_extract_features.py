"""Features of radiographs, as a user gets them."""

import csv
import json

import numpy as np
import pytest
import timm
import torch
from dino_oracles import folder_of, oracle
from in_process import script
from PIL import Image

from data.manifest import read_manifest
from data.preprocessing import Preprocessing
from data.radiograph import load_radiograph
from models.backbones import build_backbone
from models.dino_backbones import dino_backbone
from models.export import save_backbone
from scripts import extract_features

PREPROCESSING = Preprocessing(32, 32, "neglog", {"complement": True}, "squash", "bicubic", (0, 0, 0), (1, 1, 1))


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("radiographs")
    for i in range(7):
        pixels = np.random.default_rng(i).normal(900, 200, (40 + i, 50)).clip(0, 4095).astype(np.uint16)
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "ab"[i % 2] / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("model")
    save_backbone(dino_backbone("vit_mini", 8, 32), "vit_mini", out, PREPROCESSING.to_dict(), "# card\n")
    return out


def extract(model, radiographs, out, *flags):
    return script(extract_features, "--model-path", model, "--in-dirs", radiographs, "--out", out, "--device", "cpu",
                  "--batch_size", 3, "--num_workers", 0, *flags)  # fmt: skip


def test_features_are_those_of_the_network(folder, radiographs, tmp_path):
    done = extract(folder, radiographs, tmp_path / "f.npz", "--patch")
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "f.npz")
    names = [path.rpartition("/")[2] for path in found["path"]]
    assert names == ["0.png", "2.png", "4.png", "6.png", "1.png", "3.png", "5.png"]
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    for row, path in enumerate(found["path"]):
        image = PREPROCESSING.normalise(PREPROCESSING(load_radiograph(path))[None])
        with torch.no_grad():
            tokens = network.forward_features(image)[0].numpy()
        np.testing.assert_allclose(found["cls"][row], tokens[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found["patch"][row], tokens[1:], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found["mean"][row], tokens[1:].mean(0), rtol=1e-3, atol=1e-4)
    about = json.loads((tmp_path / "f.json").read_text())
    assert about["preprocessing"] == PREPROCESSING.to_dict() and about["features"]["patch"] == [7, 16, 192]
    assert len(about["weights_sha256"]) == 64 and not (tmp_path / "f.failed.csv").exists()
    assert len(read_manifest(tmp_path / "f.manifest.csv")) == 7


@pytest.mark.parametrize("case", ["dinov2-registers", "dinov3"])
def test_register_tokens_are_no_patches(case, radiographs, tmp_path):
    theirs = oracle(case)
    size = (70, 84) if case == "dinov2-registers" else (48, 64)
    done = extract(
        folder_of(theirs, tmp_path / "in"), radiographs, tmp_path / "f.npz", "--patch", "--input_size", *size
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "f.npz")
    side = theirs.config.patch_size
    assert found["patch"].shape == (7, size[0] * size[1] // side**2, 48)
    preprocessing = Preprocessing.of(None, size)
    for row, path in enumerate(found["path"]):
        with torch.no_grad():
            image = preprocessing.normalise(preprocessing(load_radiograph(path))[None])
            tokens = theirs(image).last_hidden_state[0].numpy()
        np.testing.assert_allclose(found["cls"][row], tokens[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found["patch"][row], tokens[5:], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found["mean"][row], tokens[5:].mean(0), rtol=1e-3, atol=1e-4)


def test_the_same_command_gives_the_same_bytes(folder, radiographs, tmp_path):
    for name, workers in (("one", 0), ("two", 2)):
        assert extract(folder, radiographs, tmp_path / f"{name}.npz", "--num_workers", workers).returncode == 0
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert set(np.load(tmp_path / "one.npz")) == {"path", "cls", "mean"}


def test_a_convolutional_network_and_another_size(radiographs, tmp_path):
    save_backbone(dino_backbone("resnet18"), "resnet18", tmp_path / "m", PREPROCESSING.to_dict(), "# card\n")
    done = extract(tmp_path / "m", radiographs, tmp_path / "f.npz", "--patch", "--input_size", 64)
    assert done.returncode == 0, done.stderr
    found, backbone = np.load(tmp_path / "f.npz"), build_backbone(tmp_path / "m", input_size=(64, 64))
    assert set(found) == {"path", "mean", "patch"} and found["patch"].shape == (7, 4, 512)
    image = Preprocessing.from_dict(backbone.preprocessing)
    image = image.normalise(image(load_radiograph(found["path"][2]))[None])
    with torch.no_grad():
        np.testing.assert_allclose(found["mean"][2], backbone(image)[0].numpy(), rtol=1e-3, atol=1e-4)


def test_unusable_radiographs_are_named_and_the_rest_is_the_same(folder, radiographs, tmp_path):
    extract(folder, radiographs, tmp_path / "good.npz", "--batch_size", 1)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "0.png").write_bytes(b"no picture")
    Image.fromarray(np.full((60, 30), 5, np.uint8)).save(bad / "flat.png")
    done = script(extract_features, "--model-path", folder, "--in-dirs", bad, radiographs, "--out", tmp_path / "f.npz",
                  "--device", "cpu", "--batch_size", 1, "--num_workers", 0)  # fmt: skip
    assert done.returncode == 3 and "2 radiographs cannot be used" in done.stdout
    assert (tmp_path / "f.npz").read_bytes() == (tmp_path / "good.npz").read_bytes()
    with open(tmp_path / "f.failed.csv", newline="") as file:
        assert {row["path"].rpartition("/")[2]: row["reason"] for row in csv.DictReader(file)} == {
            "0.png": "not-an-image", "flat.png": "constant"
        }  # fmt: skip
    done = extract(folder, bad, tmp_path / "none.npz")
    assert done.returncode == 2 and "none of the 2 radiographs can be used" in done.stderr
    assert not (tmp_path / "none.npz").exists()


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--out", "f.csv"], "expected a name that ends in .npz or .parquet"),
        (["--out", "f.parquet", "--patch"], "--patch: a .parquet holds one row"),
        (["--out", "f.parquet"], "needs the pyarrow package"),
        (["--batch_size", 0], "--batch_size begins with 1"),
        (["--input_size", 1, 2, 3], "expected 1 or 2 numbers"),
        (["--model-path", "nothing.pth"], "nothing.pth: no such checkpoint"),
    ],
    ids=str,
)
def test_what_a_user_can_mend_is_one_sentence(folder, radiographs, tmp_path, monkeypatch, flags, told):
    monkeypatch.setattr(extract_features.importlib.util, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    done = extract(folder, radiographs, "f.npz", *flags)
    assert done.returncode == 2 and told in done.stderr and len(done.stderr.splitlines()) == 1


def test_what_is_there_is_kept(folder, radiographs, tmp_path):
    (tmp_path / "f.npz").write_bytes(b"precious")
    done = extract(folder, radiographs, tmp_path / "f.npz")
    assert done.returncode == 2 and "--overwrite replaces it" in done.stderr
    assert (tmp_path / "f.npz").read_bytes() == b"precious"
    assert extract(folder, radiographs, tmp_path / "f.npz", "--overwrite").returncode == 0
