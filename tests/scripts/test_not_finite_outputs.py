"""Weights that are not finite, and finite ones whose outputs are not, end every script that loads them with a sentence
and exit status 2. Of two sets of weights the scripts read the one that --weights names."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import script
from PIL import Image
from safetensors.torch import load_file, save_file

import scripts.app
import scripts.convert_checkpoint
import scripts.draw_attention
import scripts.extract_features
import scripts.predict_bone_age
import workflows.regions.web.service
import zero_shot_heatmap
from data.views.preprocessing import Preprocessing
from models.backbones.backbone import build_backbone
from models.backbones.finetuned import save_finetuned
from models.networks.bone_age import BoneAge
from models.networks.mae import MAEConfig, MaskedAutoencoder
from models.networks.region_guided import RegionGuided
from models.weights.checkpoint import load_mae, save_mae
from workflows.regions.web.server import Refused

SIZE = (32, 32)
PREPROCESSOR = Preprocessing(*SIZE).to_dict()
HUGE = 3e38


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Models and radiographs."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("good")
    shape = MAEConfig(SIZE, 8, 48, 2, 3, decoder_dim=32, decoder_depth=1, decoder_heads=2)
    save_mae(MaskedAutoencoder(shape), root / "mae", PREPROCESSOR, "card")
    save_finetuned(
        RegionGuided(build_backbone(str(root / "mae"))), root / "regions", PREPROCESSOR, {}, "card"
    )
    bone_age = BoneAge(build_backbone("none:test_convnext", input_size=SIZE))
    save_finetuned(bone_age, root / "bone_age", PREPROCESSOR, {}, "card")
    (root / "in").mkdir()
    for number in range(2):
        Image.effect_noise((40, 44), 60).save(root / "in" / f"{number}.png")
    return root


def changed(good: Path, name: str, key: str, value: float, tmp_path: Path) -> Path:
    """A copy of a model in which all of one tensor is `value`, or its first number if that is NaN."""
    folder = Path(shutil.copytree(good / name, tmp_path / "model"))
    state = load_file(folder / "model.safetensors")
    full = next(k for k in state if k.endswith(key))
    tensor = state[full].clone()
    if np.isnan(value):
        tensor.view(-1)[0] = value
    else:
        tensor.fill_(value)
    save_file(state | {full: tensor}, folder / "model.safetensors")
    return folder


# script -> (model, tensor whose huge values make its outputs not finite, words for a model, radiographs and results)
RUNS = {
    "heatmap": (
        zero_shot_heatmap,
        "mae",
        "decoder_pred.weight",
        lambda m, i, o: (
            "--model-path",
            m,
            "--in-dirs",
            i,
            "--out",
            o,
            "--passes",
            2,
            "--device",
            "cpu",
        ),
    ),
    "attention": (
        scripts.draw_attention,
        "mae",
        "layer.1.attention.attention.query.weight",
        lambda m, i, o: ("--model-path", m, "--in-dirs", i, "--out", o, "--device", "cpu"),
    ),
    "gradcam": (
        scripts.draw_attention,
        "mae",
        "vit.layernorm.weight",
        lambda m, i, o: (
            "--model-path",
            m,
            "--in-dirs",
            i,
            "--out",
            o,
            "--device",
            "cpu",
            "--kind",
            "gradcam",
        ),
    ),
    "features": (
        scripts.extract_features,
        "mae",
        "vit.layernorm.weight",
        lambda m, i, o: (
            "--model-path",
            m,
            "--in-dirs",
            i,
            "--out",
            f"{o}.npz",
            "--device",
            "cpu",
            "--num_workers",
            0,
        ),
    ),
    "convert": (
        scripts.convert_checkpoint,
        "mae",
        "decoder_pred.weight",
        lambda m, i, o: ("--in", m, "--to", "mae", "--out", o, "--verify"),
    ),
    "bone age": (
        scripts.predict_bone_age,
        "bone_age",
        "stem.0.weight",
        lambda m, i, o: (
            "--model_path",
            m,
            "--images",
            i,
            "--sex",
            "F",
            "--output_dir",
            o,
            "--device",
            "cpu",
            "--num_workers",
            0,
        ),
    ),
}


@pytest.mark.parametrize("value", [float("nan"), HUGE], ids=["NaN", "overflow"])
@pytest.mark.parametrize("name", RUNS)
def test_scripts_end_with_a_sentence(good, name, value, tmp_path):
    module, model, key, words = RUNS[name]
    folder = changed(good, model, key, value, tmp_path)
    done = script(module, *words(folder, good / "in", tmp_path / "out"))
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert str(tmp_path) in last and (
        "NaN, or values that are infinite" in last or "not finite" in last
    ), last


def test_the_page_says_it(good, tmp_path):
    """A model of NaN at its start; one that overflows with the result."""
    broken = changed(good, "regions", "head.weight", float("nan"), tmp_path)
    for config in (
        scripts.app.Config([broken], device="cpu"),
        scripts.app.Config(
            [good / "regions"],
            mae_path=changed(good, "mae", "mask_token", float("nan"), tmp_path / "b"),
            device="cpu",
        ),
    ):
        with pytest.raises(ValueError, match="NaN, or values that are infinite"):
            workflows.regions.web.service.Networks(config)
    overflowing = changed(good, "mae", "decoder_pred.weight", HUGE, tmp_path / "c")
    config = scripts.app.Config(
        [good / "regions"], mae_path=overflowing, regions="map", passes=2, device="cpu"
    )
    with pytest.raises(
        Refused, match="No result: reconstructions of the masked autoencoder are not finite"
    ):
        workflows.regions.web.service.Networks(config).analyse(good / "in" / "0.png")
    overflowing = changed(good, "regions", "head.weight", HUGE, tmp_path / "d")
    config = scripts.app.Config([overflowing], regions="none", device="cpu")
    with pytest.raises(
        Refused, match="No result: probabilities of the classifier are not finite"
    ) as refused:
        workflows.regions.web.service.Networks(config).analyse(good / "in" / "0.png")
    assert refused.value.status == 500


def test_scripts_read_the_set_that_is_asked_for(good, tmp_path):
    raw = load_mae(good / "mae").model.state_dict()
    average = {key: value / 2 for key, value in raw.items()}
    two = tmp_path / "two"
    two.mkdir()
    shutil.copy(good / "mae" / "config.json", two)
    torch.save(
        {"model": {f"_orig_mod.{k}": v for k, v in raw.items()}, "model_ema": average},
        two / "w.ckpt",
    )
    choices = (
        ((), average, "took the EMA weights (model_ema), --weights raw"),
        (("--weights", "raw"), raw, "took the raw weights (model), --weights ema"),
    )
    for words, expected, told in choices:
        out = tmp_path / f"out{len(words)}"
        done = script(scripts.convert_checkpoint, "--in", two, "--to", "hf", "--out", out, *words)
        assert done.returncode == 0 and told in done.stdout, done.stdout + done.stderr
        found = load_mae(out).model.state_dict()
        assert all(torch.equal(found[key], value) for key, value in expected.items())
