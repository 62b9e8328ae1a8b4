"""Checkpoints converted in every direction keep their outputs; what does not fit is refused."""

import argparse
import dataclasses
import json
import subprocess

import pytest
import timm
import torch
from dino_oracles import as_meta, folder_of, oracle
from in_process import script
from safetensors.torch import load_file, save_file

from models.backbones.backbone import build_backbone
from models.backbones.dino_vits import build_dino
from models.networks.mae import MaskedAutoencoder, named_config
from models.weights.checkpoint import huggingface_config, load_encoder, load_mae, save_mae
from models.weights.families import to_huggingface
from scripts import convert_checkpoint

PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "do_resize": True,
    "image_mean": [0.5056] * 3,
    "image_std": [0.252] * 3,
    "resample": 2,
}


def convert(source, to, out, *more) -> subprocess.CompletedProcess:
    return script(convert_checkpoint, "--in", source, "--to", to, "--out", out, *more)


@pytest.fixture(scope="module")
def mae():
    torch.manual_seed(0)
    config = named_config(
        "mae_vit_tiny_patch16_dec512d1b",
        input_size=(32, 32),
        depth=2,
        norm_pix_loss=True,
        mask_ratio=0.5,
    )
    return MaskedAutoencoder(config).eval()


@pytest.fixture(scope="module")
def sources(mae, tmp_path_factory):
    """The same weights as each family stores them; and a rectangle."""
    root = tmp_path_factory.mktemp("sources")
    save_mae(mae, root / "ours", PREPROCESSOR, "card")
    rectangle = MaskedAutoencoder(dataclasses.replace(mae.config, input_size=(32, 48)))
    save_mae(rectangle, root / "rectangle", PREPROCESSOR, "card")
    names = to_huggingface(mae.state_dict())
    malformed = {
        k.replace("decoder.decoder_layers.", "decoder.decoder_encoder.layer."): v
        for k, v in names.items()
    }
    (root / "malformed").mkdir()
    save_file(
        {k: v.contiguous() for k, v in malformed.items()}, root / "malformed" / "model.safetensors"
    )
    (root / "malformed" / "config.json").write_text(json.dumps(huggingface_config(mae.config)))
    square = MaskedAutoencoder(
        named_config("mae_vit_tiny_patch16_dec512d1b", input_size=(32, 32), depth=2)
    ).eval()
    args = argparse.Namespace(norm_pix_loss=False, mask_ratio=0.75)
    torch.save({"model": square.state_dict(), "args": args, "epoch": 3}, root / "facebook.pth")
    tuned = {
        k: v
        for k, v in square.state_dict().items()
        if not k.startswith(("decoder_", "mask_token", "norm."))
    }
    tuned |= {"fc_norm.weight": torch.rand(192), "fc_norm.bias": torch.rand(192)}
    tuned |= {"head.weight": torch.randn(14, 192), "head.bias": torch.randn(14)}
    torch.save({"model": tuned, "epoch": 3}, root / "finetuned.pth")
    return root


@pytest.mark.parametrize("source", ["ours", "malformed", "facebook.pth", "rectangle"])
@pytest.mark.parametrize("to", ["hf", "timm", "mae"])
def test_every_family_to_every_library(sources, tmp_path, source, to):
    done = convert(sources / source, to, tmp_path / "out", "--verify")
    if (source, to) == ("rectangle", "hf"):
        assert (
            done.returncode == 2
            and "square pictures only" in done.stderr
            and not (tmp_path / "out").exists()
        )
        return
    assert done.returncode == 0, done.stderr
    assert "0 missing, 0 unexpected" in done.stdout and "equal within" in done.stdout
    assert ("those of ImageNet" in done.stdout) == (
        source in ("malformed", "facebook.pth") and to != "mae"
    )
    original = load_mae(sources / source)
    if to == "timm":
        theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).state_dict()
        assert all(torch.equal(v, original.model.state_dict()[k]) for k, v in theirs.items())
    else:
        back = load_mae(tmp_path / "out")
        assert back.info == original.info  # heads, epsilon, mask ratio, norm_pix_loss, size
        assert all(
            torch.equal(v, original.model.state_dict()[k])
            for k, v in back.model.state_dict().items()
        )
    if source in ("ours", "rectangle"):
        assert (
            json.loads((tmp_path / "out" / "preprocessor_config.json").read_text()) == PREPROCESSOR
        )


def test_facebooks_layout(mae, sources, tmp_path):
    done = convert(sources / "ours", "mae", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    content = torch.load(tmp_path / "out" / "model.pth", weights_only=True)
    assert set(content) == {"model", "config"} and set(content["model"]) == set(mae.state_dict())
    assert content["config"] == json.loads((tmp_path / "out" / "config.json").read_text())


def test_a_fine_tuned_classifier_keeps_its_head(sources, tmp_path):
    done = convert(sources / "finetuned.pth", "timm", tmp_path / "out", "--verify")
    assert done.returncode == 0, done.stderr
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert model.num_classes == 14 and model.global_pool == "avg"
    encoder, report = load_encoder(tmp_path / "out", pool="avg")
    assert "matched" in report and encoder.fc_norm.weight.equal(
        load_file(tmp_path / "out" / "model.safetensors")["fc_norm.weight"]
    )
    for to in ("hf", "mae"):
        done = convert(sources / "finetuned.pth", to, tmp_path / "no")
        assert (
            done.returncode == 2
            and "has no decoder" in done.stderr
            and not (tmp_path / "no").exists()
        )


def test_another_epsilon_is_told(sources, tmp_path):
    config = json.loads((sources / "malformed" / "config.json").read_text()) | {
        "layer_norm_eps": 1e-2
    }
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "config.json").write_text(json.dumps(config))
    (tmp_path / "in" / "model.safetensors").write_bytes(
        (sources / "malformed" / "model.safetensors").read_bytes()
    )
    done = convert(tmp_path / "in", "timm", tmp_path / "out", "--verify")
    assert "LayerNorm epsilon is 0.01; timm always takes 1e-06" in done.stdout
    assert done.returncode == 1 and "NOT equal" in done.stdout


def test_refusals(sources, tmp_path):
    for source, out, told in (
        (sources / "nowhere", tmp_path / "out", "no such checkpoint"),
        (sources / "ours", sources, "already exists and is not empty"),
        (sources / "ours" / "config.json", tmp_path / "out", "not a checkpoint by its name"),
    ):
        done = convert(source, "hf", out)
        assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def dinos(tmp_path_factory):
    """Tiny DINOv2s and DINOv3s as transformers writes them, and a DINOv3 as Meta does, with rounded periods."""
    root = tmp_path_factory.mktemp("dinos")
    for case in ("dinov2", "dinov2-giant-registers", "dinov3-plus"):
        folder_of(oracle(case), root / case)
    meta = as_meta(root / "dinov3-plus")
    meta["rope_embed.periods"] = meta["rope_embed.periods"].bfloat16()
    torch.save(meta, root / "meta.pth")
    return root


@pytest.mark.parametrize("source", ["dinov2", "dinov2-giant-registers", "dinov3-plus", "meta.pth"])
def test_dinos_for_transformers_and_timm_and_back(dinos, tmp_path, source):
    images = torch.randn(2, 3, *build_backbone(dinos / source).input_size)
    with torch.no_grad():
        expected = build_backbone(dinos / source)(images)
    given = dinos / source
    for to in ("timm", "hf"):
        done = convert(given, to, tmp_path / to, "--verify")
        assert done.returncode == 0, done.stderr
        assert "0 missing, 0 unexpected" in done.stdout and "equal within" in done.stdout
        rounded = source == "meta.pth" and to == "timm"
        assert ("holds the periods of its rotary positions rounded" in done.stdout) == rounded
        assert ("no mask token: zeros are written" in done.stdout) == (to == "hf")
        back = build_backbone(tmp_path / to)
        assert f"layout of {'timm' if to == 'timm' else 'Hugging Face'}" in back.report
        with torch.no_grad():
            torch.testing.assert_close(
                back(images), expected, rtol=0, atol=2e-3 if source == "meta.pth" else 1e-5
            )
        given = tmp_path / "timm"
    done = convert(dinos / source, "mae", tmp_path / "mae")
    assert done.returncode == 2 and "has no decoder (an encoder only, dinov" in done.stderr
    assert not (tmp_path / "mae").exists()


def test_dinos_that_a_library_cannot_build(dinos, tmp_path):
    meta = torch.load(dinos / "meta.pth", weights_only=True)
    torch.save(meta | {"mask_token": torch.zeros(3)}, tmp_path / "mask.pth")
    done = convert(tmp_path / "mask.pth", "hf", tmp_path / "no")
    assert done.returncode == 2 and "mask_token is (3,) instead of (1, 1, 48)" in done.stderr
    assert not (tmp_path / "no").exists()
    oblong = build_backbone(dinos / "dinov2", input_size=(42, 70))
    wide = build_dino(
        dataclasses.replace(oblong.network.architecture, input_size=(28, 28), hidden=100)
    )
    for name, network, size, words in (
        (
            "oblong",
            oblong.network,
            [42, 70],
            "takes 42 x 70, but transformers resamples the positions of square",
        ),
        ("wide", wide, [28, 28], "MLPs are 100 wide at width 48, and transformers builds none"),
    ):
        config = {
            "architecture": "vit_small_patch14_dinov2",
            "model_args": {"num_heads": 3, "img_size": size},
        }
        (tmp_path / name).mkdir()
        save_file(network.state_dict(), tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        done = convert(tmp_path / name, "hf", tmp_path / "no")
        assert done.returncode == 2 and words in done.stderr and not (tmp_path / "no").exists()
        assert (
            convert(tmp_path / name, "timm", tmp_path / f"{name} for timm", "--verify").returncode
            == 0
        )
