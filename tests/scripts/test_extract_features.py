"""Features of radiographs, as a user gets them."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from dino_oracles import folder_of, oracle
from in_process import script
from PIL import Image

from data.reading.manifest import read_manifest
from data.reading.radiograph import load_radiograph
from data.views.preprocessing import Preprocessing
from models.backbones.backbone import build_backbone
from models.backbones.dino import dino_backbone
from models.weights.export import save_backbone
from scripts import extract_features

PREPROCESSING = Preprocessing(
    32, 32, "neglog", {"complement": True}, "squash", "bicubic", (0, 0, 0), (1, 1, 1)
)


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("radiographs")
    for i in range(7):
        pixels = (
            np.random.default_rng(i).normal(900, 200, (40 + i, 50)).clip(0, 4095).astype(np.uint16)
        )
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "ab"[i % 2] / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("model")
    save_backbone(
        dino_backbone("vit_mini", 8, 32), "vit_mini", out, PREPROCESSING.to_dict(), "# card\n"
    )
    return out


def extract(model, radiographs, out, *flags):
    return script(
        extract_features,
        "--model-path",
        model,
        "--in-dirs",
        radiographs,
        "--out",
        out,
        "--device",
        "cpu",
        "--batch_size",
        3,
        "--num_workers",
        0,
        *flags,
    )


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
    assert about["preprocessing"] == PREPROCESSING.to_dict() and about["features"]["patch"] == [
        7,
        16,
        192,
    ]
    assert len(about["weights_sha256"]) == 64 and not (tmp_path / "f.failed.csv").exists()
    assert len(read_manifest(tmp_path / "f.manifest.csv")) == 7


@pytest.mark.parametrize("case", ["dinov2-registers", "dinov3"])
def test_register_tokens_are_no_patches(case, radiographs, tmp_path):
    theirs = oracle(case)
    size = (70, 84) if case == "dinov2-registers" else (48, 64)
    done = extract(
        folder_of(theirs, tmp_path / "in"),
        radiographs,
        tmp_path / "f.npz",
        "--patch",
        "--input_size",
        *size,
    )
    assert done.returncode == 0, done.stderr
    assert f"this is assumed: {Preprocessing(*size).describe()}\n" in done.stdout
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
        assert (
            extract(
                folder, radiographs, tmp_path / f"{name}.npz", "--num_workers", workers
            ).returncode
            == 0
        )
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert set(np.load(tmp_path / "one.npz")) == {"path", "cls", "mean"}


def test_a_convolutional_network_and_another_size(radiographs, tmp_path):
    save_backbone(
        dino_backbone("resnet18"), "resnet18", tmp_path / "m", PREPROCESSING.to_dict(), "# card\n"
    )
    done = extract(tmp_path / "m", radiographs, tmp_path / "f.npz", "--patch", "--input_size", 64)
    assert done.returncode == 0, done.stderr
    found, backbone = (
        np.load(tmp_path / "f.npz"),
        build_backbone(tmp_path / "m", input_size=(64, 64)),
    )
    assert set(found) == {"path", "mean", "patch"} and found["patch"].shape == (7, 4, 512)
    image = Preprocessing.from_dict(backbone.preprocessing)
    image = image.normalise(image(load_radiograph(found["path"][2]))[None])
    with torch.no_grad():
        np.testing.assert_allclose(
            found["mean"][2], backbone(image)[0].numpy(), rtol=1e-3, atol=1e-4
        )


def test_unusable_radiographs_are_named_and_the_rest_is_the_same(folder, radiographs, tmp_path):
    extract(folder, radiographs, tmp_path / "good.npz", "--batch_size", 1)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "0.png").write_bytes(b"no picture")
    Image.fromarray(np.full((60, 30), 5, np.uint8)).save(bad / "flat.png")
    done = script(
        extract_features,
        "--model-path",
        folder,
        "--in-dirs",
        bad,
        radiographs,
        "--out",
        tmp_path / "f.npz",
        "--device",
        "cpu",
        "--batch_size",
        1,
        "--num_workers",
        0,
    )
    assert done.returncode == 3 and "2 radiographs cannot be used" in done.stdout
    assert (tmp_path / "f.npz").read_bytes() == (tmp_path / "good.npz").read_bytes()
    with open(tmp_path / "f.failed.csv", newline="") as file:
        assert {row["path"].rpartition("/")[2]: row["reason"] for row in csv.DictReader(file)} == {
            "0.png": "not-an-image",
            "flat.png": "constant",
        }
    done = extract(folder, bad, tmp_path / "none.npz")
    assert done.returncode == 2 and "none of the 2 radiographs can be used" in done.stderr
    assert not (tmp_path / "none.npz").exists()


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--out", "f.txt"], "expected a name that ends in .npz, .csv or .parquet"),
        (["--out", "f.parquet", "--patch"], "--patch: a .parquet holds one row"),
        (["--out", "f.csv", "--patch"], "--patch: a .csv holds one row"),
        (
            ["--out", "f.parquet"],
            "needs the pyarrow package: pip install pyarrow, or use .csv or .npz",
        ),
        (["--data_root", "."], "--data_root is for --csv"),
        (["--csv", "no.csv"], "no.csv: no such table"),
        (["--batch_size", 0], "--batch_size must be at least 1"),
        (["--input_size", 1, 2, 3], "expected 1 or 2 numbers"),
        (["--model-path", "nothing.pth"], "nothing.pth: no such checkpoint"),
    ],
    ids=str,
)
def test_what_a_user_can_mend_is_one_sentence(
    folder, radiographs, tmp_path, monkeypatch, flags, told
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    done = extract(folder, radiographs, "f.npz", *flags)
    assert done.returncode == 2 and told in done.stderr and len(done.stderr.splitlines()) == 1


def test_what_is_there_is_kept(folder, radiographs, tmp_path):
    (tmp_path / "f.npz").write_bytes(b"precious")
    done = extract(folder, radiographs, tmp_path / "f.npz")
    assert done.returncode == 2 and "--overwrite replaces it" in done.stderr
    assert (tmp_path / "f.npz").read_bytes() == b"precious"
    assert extract(folder, radiographs, tmp_path / "f.npz", "--overwrite").returncode == 0


def table_of(radiographs, file, **columns):
    """A table of the radiographs by their ids, and of one that is not there."""
    ids = ["a/0", "b/1", "a/2", "b/3", "a/4", "b/5", "a/lost"]
    rows = {
        "id": ids,
        "sex": ["F", "M", "F", "", "M", "F", "M"],
        "who": ["p0", "p1", "p0", "p2", "p3", "p4", "p5"],
    }
    pd.DataFrame(rows | columns).to_csv(file, index=False)
    return ["--csv", file, "--data_root", radiographs, "--image_col", "id", "--target_col", "sex"]


def test_a_csv_holds_the_features_and_the_labels_of_a_table(folder, radiographs, tmp_path):
    more = {"cls_0": range(7), "path": "x", "note": ["=1+1", "a,b", "", "d", "e", "f", "g"]}
    table = [*table_of(radiographs, tmp_path / "t.csv", **more), "--patient_col", "who"]
    assert extract(folder, radiographs, tmp_path / "f.npz", *table).returncode == 0
    done = extract(folder, radiographs, tmp_path / "f.csv", *table)
    assert done.returncode == 0, done.stderr
    assert "1 of 7 radiographs are not in" in done.stdout and "1 of 7 rows of" in done.stdout
    assert "sex: 0 = F, 1 = M" in done.stdout
    arrays, found = np.load(tmp_path / "f.npz"), pd.read_csv(tmp_path / "f.csv")
    assert list(found.columns[:4]) == ["path", "patient", "target", "id"]
    assert {"sex", "who", "cls_0 (table)", "path (table)", "note"} < set(found.columns)
    assert found["path"].tolist() == arrays["path"].tolist()
    for kind in ("cls", "mean"):
        read = found.filter(regex=rf"^{kind}_[0-9]+$").to_numpy(np.float32)
        np.testing.assert_array_equal(
            read, arrays[kind]
        )  # the text of each number is that of its float32
    by_name = found[["path", "target", "patient", "note"]].set_index(found["path"].str[-7:])
    assert by_name["target"].to_dict() == pytest.approx(
        {
            "a/0.png": 0,
            "b/1.png": 1,
            "a/2.png": 0,
            "b/3.png": np.nan,
            "a/4.png": 1,
            "b/5.png": 0,
            "a/6.png": np.nan,
        },
        nan_ok=True,
    )
    assert by_name["patient"].fillna("").to_dict()["a/2.png"] == "p0" and pd.isna(
        by_name["patient"]["a/6.png"]
    )
    assert by_name["note"]["a/0.png"] == "'=1+1" and by_name["note"]["b/1.png"] == "a,b"
    np.testing.assert_array_equal(arrays["target"], found["target"])
    assert arrays["patient"].tolist() == found["patient"].fillna("").tolist()
    assert json.loads((tmp_path / "f.json").read_text())["labels"]["classes"] == ["F", "M"]


def test_without_folders_the_radiographs_are_those_of_the_table(folder, radiographs, tmp_path):
    table = table_of(radiographs, tmp_path / "t.csv")
    out = tmp_path / "f.csv"
    model = ("--model-path", folder, "--device", "cpu", "--num_workers", 0)
    done = script(extract_features, *model, *table, "--out", out)
    assert done.returncode == 3, done.stderr
    assert "no patient is named" in done.stdout  # near-duplicates are grouped
    found = pd.read_csv(out)
    assert len(found) == 6 and found["patient"].notna().all()
    failed = pd.read_csv(tmp_path / "f.failed.csv")
    assert failed["reason"].tolist() == ["missing"] and failed["path"][0].endswith("a/lost")
    assert len(read_manifest(tmp_path / "f.manifest.csv")) == 6
    done = script(extract_features, *model, "--out", out, "--overwrite")
    assert done.returncode == 2 and "give --in-dirs, or --csv" in done.stderr


def test_a_table_of_other_radiographs_is_refused(folder, radiographs, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40)).save(elsewhere / "x.png")
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40).T).save(elsewhere / "y.png")
    pd.DataFrame({"image": ["x", "y"], "target": [0, 1], "who": ["p", "q"]}).to_csv(
        elsewhere / "t.csv", index=False
    )
    done = extract(
        folder,
        radiographs,
        tmp_path / "f.csv",
        "--csv",
        elsewhere / "t.csv",
        "--patient_col",
        "who",
    )
    assert done.returncode == 2 and "names none of the 7 radiographs of --in-dirs" in done.stderr


def test_parquet_equals_csv(folder, radiographs, tmp_path):
    pytest.importorskip("pyarrow")
    table = [*table_of(radiographs, tmp_path / "t.csv"), "--patient_col", "who"]
    for name in ("f.csv", "f.parquet"):
        done = extract(folder, radiographs, tmp_path / name, *table)
        assert done.returncode == 0, done.stderr
    one, other = pd.read_csv(tmp_path / "f.csv"), pd.read_parquet(tmp_path / "f.parquet")
    assert list(one.columns) == list(other.columns)
    np.testing.assert_array_equal(
        one.filter(regex="^mean").to_numpy(np.float32), other.filter(regex="^mean")
    )
    assert one["path"].tolist() == other["path"].tolist()
    assert one["sex"].fillna("").tolist() == other["sex"].fillna("").tolist()
