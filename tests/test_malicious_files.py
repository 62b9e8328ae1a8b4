"""Nothing executes: each kind of malicious file, given to everything that reads a file a stranger may hand over."""

import argparse
import hashlib
import json
import shutil
import sys
import time
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from guarded_child import guarded
from malicious import detonate, forms, saved
from PIL import Image

import models.networks.vit
import pretrain_mae
import scripts.convert_checkpoint
import scripts.draw_attention
import scripts.extract_features
import scripts.pretrain_dino
import zero_shot_heatmap
from core import flags as cli
from data.datasets.truth import read_truth
from data.reading.audit import audit
from data.reading.radiograph import load_radiograph
from data.releases.phantoms import PhantomFolder
from data.views.preprocessing import Preprocessing
from evaluation.statistics.likeness import Likeness
from models.backbones.aliases import read_aliases
from models.backbones.backbone import build_backbone
from models.backbones.published_bone_age import load_bone_age
from models.networks.mae import MaskedAutoencoder, named_config
from models.weights.checkpoint import load_encoder, load_mae, read_tensors, save_mae
from training.run import RunFolder
from workflows.bone_age.reference import BoneAgeReference
from workflows.heatmaps.normal_reference import NormalReference

FORMS = (
    "zip.pt",
    "legacy.pth",
    "torchscript.pt",
    "program.pt2",
    "array.npy",
    "plain.pkl",
    "recipe.yaml",
    "dump.joblib",
    "config.json",
)
SECONDS = 1.0  # of work on one file
SIZE = (32, 32)


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    monkeypatch.setitem(models.networks.vit.SIZES, "tiny", (48, 2, 3))


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "executed"


@pytest.fixture(params=FORMS)
def content(request, marker) -> bytes:
    return forms(marker)[request.param]


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 44), dtype=np.uint8)).save(
        path
    )
    return path


def resume(path: Path) -> None:
    path.with_name(path.name + ".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    RunFolder(path.parent / "run", {"seed": 0}, resume=str(path)).load()


def recipe(path: Path) -> None:
    cli.parse(pretrain_mae.Config, ["--config", str(path), "--data_path", "x"])


def annotated(path: Path) -> None:
    read_truth(path.parent).lookup(Path("/x/a.dcm"), SIZE)


# file name -> who reads it
READERS = {
    "w.pt": read_tensors,
    "w.pth": load_mae,
    "w.bin": load_encoder,
    "w.safetensors": load_mae,
    "folder/model.safetensors": lambda path: load_mae(path.parent),
    "folder/pytorch_model.bin": lambda path: load_encoder(path.parent),
    "folder/model.pth": lambda path: scripts.convert_checkpoint.main(
        scripts.convert_checkpoint.Config(str(path.parent), "timm", str(path.parent.parent / "out"))
    ),
    "b.pth": build_backbone,
    "best_model.pth": load_bone_age,
    "hub/pytorch_model.bin": lambda path: build_backbone(f"resnet18@{path.parent}"),
    "configs/backbones.yaml": read_aliases,
    "step_1.pt": resume,
    "reference.npz": NormalReference.load,
    "bone_age/reference.npz": BoneAgeReference.load,
    "kept/reference.npz": Likeness.load,
    "truth.csv": read_truth,
    "masks/a.png": annotated,
    "labelme/a.json": annotated,
    "yolo/a.txt": annotated,
    "set/records.csv": lambda path: PhantomFolder.read(path.parent),
    "audit.csv": lambda path: audit([path.with_name("a.png")], earlier=path),
    "a.png": load_radiograph,
    "a.dcm": load_radiograph,
    "a": load_radiograph,
    "recipe.yaml": recipe,
}


@pytest.mark.parametrize("name", FORMS)
def test_the_payloads_are_alive(name, marker):
    detonate(name, forms(marker)[name])
    assert marker.exists()


@pytest.mark.parametrize("name", READERS)
def test_readers_refuse_and_execute_nothing(name, marker, content, tmp_path, capsys):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    began = time.process_time()
    with pytest.raises((ValueError, SystemExit)) as caught:
        READERS[name](path)
    assert time.process_time() - began < SECONDS
    told = str(caught.value) if isinstance(caught.value, ValueError) else capsys.readouterr().err
    assert (path.name in told or str(path.parent) in told) and len(told.splitlines()) == 1, told
    assert "Re-running" not in told  # torch's own message says how to load the file all the same
    assert not marker.exists()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("model") / "good"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.networks.vit.SIZES, "tiny", (48, 2, 3))
        network = MaskedAutoencoder(named_config("mae_vit_tiny_patch16_dec64d1b", input_size=SIZE))
    preprocessor = {"size": {"height": 32, "width": 32}, "do_resize": True, "resample": 2}
    save_mae(network, out, preprocessor, "card")
    return out


SCRIPTS = {
    "convert": scripts.convert_checkpoint,
    "heatmap": zero_shot_heatmap,
    "pretrain": pretrain_mae,
    "dino": scripts.pretrain_dino,
    "features": scripts.extract_features,
    "attention": scripts.draw_attention,
}


@pytest.mark.parametrize(
    "script, flag, name",
    [
        ("convert", "--in", "w.pt"),
        ("heatmap", "--model-path", "w.pth"),
        ("heatmap", "--reference", "r.npz"),
        ("heatmap", "--truth", "t.csv"),
        ("heatmap", "--in-dirs", "a.png"),
        ("pretrain", "--init_from", "w.pt"),
        ("pretrain", "--resume", "s.pt"),
        ("pretrain", "--config", "c.yaml"),
        ("pretrain", "--data_path", "a.dcm"),
        ("dino", "--init_from", "w.pth"),
        ("dino", "--resume", "s.pt"),
        ("dino", "--config", "c.yaml"),
        ("dino", "--data_path", "a.dcm"),
        ("features", "--model-path", "w.pt"),
        ("features", "--in-dirs", "a.png"),
        ("attention", "--model-path", "w.pth"),
        ("attention", "--in-dirs", "a.png"),
    ],
)
def test_scripts_end_with_one_sentence(
    script, flag, name, marker, content, model, tmp_path, capsys, monkeypatch
):
    path = tmp_path / name
    path.write_bytes(content)
    path.with_name(name + ".sha256").write_text(
        hashlib.sha256(content).hexdigest()
    )  # a stranger can give that, too
    radiographs, out = picture(tmp_path / "in" / "b.png").parent, tmp_path / "out"
    flags = {
        "convert": {"--to": "hf"},
        "heatmap": {
            "--model-path": model,
            "--in-dirs": radiographs,
            "--device": "cpu",
            "--passes": 16,
        },
        "pretrain": {
            "--data_path": radiographs,
            "--model": "mae_vit_tiny_patch16_dec64d1b",
            "--input_size": 32,
            "--batch_size": 1,
            "--epochs": 1,
            "--num_workers": 0,
            "--device": "cpu",
        },
        "dino": {
            "--data_path": radiographs,
            "--arch": "vit_tiny",
            "--global_size": 32,
            "--local_size": 16,
            "--out_dim": 8,
            "--head_width": 8,
            "--batch_size": 1,
            "--epochs": 1,
            "--warmup_epochs": 0,
            "--num_workers": 0,
            "--device": "cpu",
        },
        "features": {
            "--model-path": model,
            "--in-dirs": radiographs,
            "--device": "cpu",
            "--num_workers": 0,
        },
        "attention": {"--model-path": model, "--in-dirs": radiographs, "--device": "cpu"},
    }[script] | {flag: path}
    flags["--output_dir" if script in ("pretrain", "dino") else "--out"] = (
        out / "f.npz" if script == "features" else out
    )
    monkeypatch.setattr(
        sys, "argv", [f"{script}.py", *(str(word) for pair in flags.items() for word in pair)]
    )
    module = SCRIPTS[script]
    with pytest.raises(SystemExit) as caught:
        cli.run(module.main, module.Config)
    told = capsys.readouterr()
    if flag == "--in-dirs":  # one unreadable radiograph: listed, nothing mapped
        listed = "".join(file.read_text() for file in out.rglob("*failed.csv"))
        assert caught.value.code in (2, 3) and "a.png" in told.out + told.err + listed
    else:
        lines = [
            line
            for line in told.err.splitlines()
            if line.strip() and not line.startswith(("reading files", "heat maps"))
        ]
        assert caught.value.code == 2 and len(lines) == 1 and path.name in lines[0], told.err
    assert "Traceback" not in told.err and not marker.exists()


def test_code_beside_a_good_checkpoint_is_not_looked_at(model, marker, tmp_path):
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m" / "planted.py").write_text(f"import os; os.mkdir({str(marker)!r})")
    config = (tmp_path / "m" / "config.json").read_text()
    (tmp_path / "m" / "config.json").write_text(
        config.replace("{", '{"auto_map": {"AutoModel": "planted.Model"},', 1)
    )
    load_mae(tmp_path / "m")
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_flags_paths_and_numpy_numbers_of_published_checkpoints_are_read(zipped, tmp_path):
    """By an allow-list: the same file with one more class in it is refused."""
    network = MaskedAutoencoder(
        named_config("mae_vit_tiny_patch16_dec512d1b")
    )  # 48 wide: no known size
    args = argparse.Namespace(
        mask_ratio=np.float64(0.6),
        norm_pix_loss=True,
        output_dir=Path("/data/run"),
        epochs=np.int64(800),
        lr=np.float32(0.5),
        resume=None,
        betas=(0.9, 0.95),
    )
    content = {
        "model": network.state_dict(),
        "args": args,
        "epoch": np.int32(7),
        "best": np.bool_(True),
    }
    (tmp_path / "w.pth").write_bytes(saved(content, _use_new_zipfile_serialization=zipped))
    read = read_tensors(tmp_path / "w.pth")
    told = vars(read["args"])
    assert told == vars(args) | {"output_dir": PurePosixPath("/data/run")}
    assert (
        type(told["mask_ratio"]) is float and type(told["epochs"]) is int and read["best"] is True
    )
    for stranger in (np.zeros(2), np.datetime64("2001-01-01"), slice(1), Exception("x")):
        (tmp_path / "w.pth").write_bytes(
            saved(
                content | {"args": argparse.Namespace(x=stranger)},
                _use_new_zipfile_serialization=zipped,
            )
        )
        with pytest.raises(ValueError, match=r"w\.pth: "):
            read_tensors(tmp_path / "w.pth")


def test_config_values_without_meaning_are_one_sentence(model, tmp_path):
    refused = 0
    for file in ("config.json", "preprocessor_config.json"):
        for key in json.loads((model / file).read_text()):
            for value in (None, "x", -1, 0, 1e999, 10**9, [], {}, [[1]], True, float("nan")):
                target = tmp_path / f"{refused}"
                shutil.copytree(model, target)
                changed = json.loads((model / file).read_text()) | {key: value}
                (target / file).write_text(json.dumps(changed))
                began = time.process_time()
                try:
                    Preprocessing.from_dict(load_mae(target).preprocessor)
                except ValueError as error:
                    assert str(error).startswith((f"{target}: ", "preprocess")), error
                    refused += 1
                assert time.process_time() - began < SECONDS
                shutil.rmtree(target)
    assert refused > 50


def test_a_small_file_that_claims_a_huge_network_takes_no_memory(model, tmp_path):
    state = load_mae(model).model.state_dict()
    claims = {
        "expanded": {k: torch.zeros(1).expand(v.shape[:-1] + (10**12,)) for k, v in state.items()},
        "one": state | {"mask_token": torch.zeros(1).expand(1, 1, 10**12)},
        "wide": state
        | {
            "patch_embed.proj.weight": torch.zeros(10**5, 3, 1, 1),
            "pos_embed": torch.zeros(1, 2, 10**5),
        },
        "meta": {k: v.to("meta") for k, v in state.items()},
        "sparse": state
        | {
            "mask_token": torch.sparse_coo_tensor(torch.zeros(3, 0), torch.zeros(0), (1, 1, 10**12))
        },
    }
    for name, content in claims.items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(saved({"model": content}))
        report = guarded(lambda path=path: load_mae(path))
        assert report.error.startswith("ValueError") and path.name in report.error, (name, report)
        assert report.seconds < SECONDS and report.megabytes < 100, (name, report)
