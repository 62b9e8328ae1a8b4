"""DINO pretraining as a user meets it: whole runs on small radiographs, interrupted, spread out, and DAX's own line."""

import json
import os
import re
import shlex
import signal
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from dino_oracles import folder_of, oracle
from float64_training import train_in_float64
from fork_harness import digest, exit_status, group, run_with_kills, spawn
from in_process import script
from noted_training import records as metrics
from PIL import Image

import evaluation.pages.training_curves
import models.backbones.card
import models.networks.vit
import models.weights.export
import scripts.pretrain_dino as pretrain_dino
import workflows.pretraining.dino
from core import flags as cli
from data.reading.audit import audit
from data.reading.radiograph import list_radiographs, load_radiograph
from data.views.preprocessing import Preprocessing
from models.backbones.backbone import build_backbone
from models.networks.dino import DINO

matplotlib.use("Agg")
import matplotlib.pyplot  # noqa: E402, F401
import scipy.ndimage  # noqa: E402, F401

ROOT = Path(__file__).parents[2]
SEED_LINE = """--arch='resnet50' --norm_last_layer=True --use_bn_in_head=True --use_fp16=False --clip_grad=0
--global_crops_scale 0.14 1.0 --local_crops_scale 0.05 0.14 --local_crops_number=6 --dataset='DAX-Dataset-{version}'
--data_path='path/to/dataset' --augmentation='v2' --output_dir='path/to/output/directory' --num_workers=10 --seed=0
--weight_decay=1e-6 --weight_decay_end=1e-6 --batch_size_per_gpu=128 --epochs=200 --freeze_last_layer=1 --saveckp_freq=1
--warmup_teacher_temp=0.04 --teacher_temp=0.07 --warmup_teacher_temp_epochs=25 --lr=0.3 --warmup_epochs=10
--min_lr=0.0048 --optimizer='lars' --momentum_teacher=0.996 --out_dim=60000 --job_ID='DAX_Training_Job_xxx'
--use_wandb='False' --pretrained_weights='path/to/checkpoint' --subtract_lowpass='False' --azure='True'"""


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    shrink(monkeypatch)


DRAW_CURVES = evaluation.pages.training_curves.draw_curves


def shrink(patch) -> None:
    """No large network, no curves: neither is what these tests are about, and both take most of a short run's time."""
    patch.setitem(models.networks.vit.SIZES, "mini", (48, 2, 3))
    patch.setattr(
        evaluation.pages.training_curves,
        "draw_curves",
        lambda log, picture, **_: Path(picture).write_bytes(b"curves"),
    )


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory) -> Path:
    """20 PNG of 16 bits, of several sizes."""
    folder = tmp_path_factory.mktemp("radiographs")
    for i in range(20):
        rng = np.random.default_rng(i)
        y, x = np.mgrid[: 40 + i, :48]
        waves = np.sin(x / rng.uniform(3, 9) + rng.uniform(0, 6)) * np.cos(y / rng.uniform(3, 9))
        waves = waves + rng.normal(0, 0.1, waves.shape)
        Image.fromarray(np.uint16((waves - waves.min()) / np.ptp(waves) * 65535)).save(
            folder / f"r{i:02d}.png"
        )
    return folder


def settings(radiographs, out, **changes) -> pretrain_dino.Config:
    """2 steps of 8 an epoch, 3 epochs, a checkpoint after each; 4 radiographs held out."""
    given = dict(
        data_path=[str(radiographs)],
        val_path=[str(radiographs / f"r0{i}.png") for i in range(4)],
        epochs=3,
        output_dir=str(out),
        arch="vit_mini",
        patch_size=8,
        global_size=32,
        local_size=16,
        local_crops_number=3,
        out_dim=40,
        head_width=24,
        batch_size=8,
        lr=0.02,
        drop_path_rate=0.0,
        freeze_last_layer=0.5,
        num_workers=0,
        precision="fp32",
        strict_fp32=True,
        log_steps=1,
        panel_freq=1,
        device="cpu",
    )
    return pretrain_dino.Config(**given | changes)


def child(config):
    return lambda: pretrain_dino.main(config)


def train(config) -> Path:
    assert exit_status(spawn(child(config))) == 0
    return Path(config.output_dir)


def state(out) -> dict:
    return torch.load(sorted((Path(out) / "checkpoints").glob("*.pt"))[-1], weights_only=True)


def assert_same(one, other):
    assert digest(state(one)) == digest(state(other)) and metrics(one) == metrics(other)
    assert (one / "model" / "model.safetensors").read_bytes() == (
        other / "model" / "model.safetensors"
    ).read_bytes()


@pytest.fixture(scope="module")
def whole(radiographs, tmp_path_factory) -> Path:
    """One uninterrupted run that the others are compared with."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        return train(settings(radiographs, tmp_path_factory.mktemp("runs") / "whole"))


# ------------------------------------------------------------------------------------------------ what a run leaves


def test_the_run_folder_tells_everything(radiographs, whole):
    files = {p.name for p in whole.iterdir()}
    assert {
        "config.json",
        "environment.json",
        "manifest.tsv",
        "quarantine.csv",
        "metrics.jsonl",
        "curves.png",
        "checkpoints",
        "panels",
        "model",
        "DONE",
    } <= files
    assert json.loads((whole / "config.json").read_text()) == vars(settings(radiographs, whole))
    assert len((whole / "manifest.tsv").read_text().splitlines()) == 16
    records = metrics(whole)
    assert [r["step"] for r in records if "loss" in r] == [1, 2, 3, 4, 5, 6]
    assert len([r for r in records if "val_loss" in r]) == 3
    for name in ("loss", "teacher_entropy", "kl", "feature_sd", "grad_norm", "lr", "weight_decay"):
        assert all(np.isfinite(r[name]) for r in records if "loss" in r), name
    assert records[0]["loss"] == pytest.approx(
        records[0]["teacher_entropy"] + records[0]["kl"], abs=1e-5
    )
    assert {r["lr"] for r in records if "loss" in r} != {0.0}
    DRAW_CURVES(
        whole / "metrics.jsonl",
        whole / "curves.png",
        "title",
        others=workflows.pretraining.dino.METERS,
    )
    for picture in ("curves.png", "panels/views.png"):
        with Image.open(whole / picture) as opened:
            assert opened.width > 600 and np.asarray(opened).std() > 10


def test_an_audit_from_elsewhere_saves_the_reading(radiographs, whole, tmp_path, monkeypatch):
    audit(list_radiographs(radiographs), cache=tmp_path / "audit.csv")
    monkeypatch.setattr(
        "data.reading.audit.load_radiograph", lambda path: pytest.fail(f"{path} was read")
    )
    assert_same(whole, train(settings(radiographs, tmp_path / "run", audit=tmp_path / "audit.csv")))


def test_the_learning_rate_grows_with_the_global_batch(radiographs, whole):
    rates = [r["lr"] for r in metrics(whole) if "loss" in r]
    assert max(rates) == pytest.approx(0.02 * 8 / 256)


def test_the_teacher_is_exported_for_timm_and_for_us(radiographs, whole):
    import timm

    teacher = {
        k.removeprefix("teacher.backbone."): v
        for k, v in state(whole)["objective"].items()
        if k.startswith("teacher.backbone.")
    }
    backbone = build_backbone(whole / "model")
    found = backbone.network.state_dict()
    assert found.keys() == teacher.keys() and all(
        torch.equal(found[k], teacher[k]) for k in teacher
    )
    told = Preprocessing.from_dict(backbone.preprocessing)
    assert told.intensity == "neglog" and told.intensity_options == {"complement": True}
    assert (
        told.mean == (0, 0, 0)
        and told.std == (1, 1, 1)
        and (told.height, told.interpolation) == (32, "bicubic")
    )
    images = told.normalise(told(load_radiograph(radiographs / "r05.png"))[None])
    theirs = timm.create_model(f"local-dir:{whole / 'model'}", pretrained=True)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(images), backbone(images), rtol=1e-4, atol=1e-5)
    card = (whole / "model" / "README.md").read_text()
    assert "16 radiographs; step 6 of 6" in card and "| arch | vit_mini |" in card
    assert str(whole) not in card and str(radiographs) not in card and "r05" not in card


# ------------------------------------------------------------------------------------------------ the same numbers


def effective(key, weights):
    """Without the biases of attention's keys: the softmax cancels them, so that Adam moves them by rounding alone."""
    return weights.unflatten(0, (3, -1))[[0, 2]] if key.endswith("attn.qkv.bias") else weights


RESNET = {"arch": "resnet18", "use_bn_in_head": True, "optimizer": "lars"}


SLOW = [
    pytest.param({}, marks=pytest.mark.slow),
    pytest.param(RESNET, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(
    "changes",
    [{"use_bn_in_head": True, "optimizer": "lars"}, *SLOW],
    ids=["batch norm in the head", "ViT", "ResNet"],
)
def test_two_processes_equal_one(radiographs, tmp_path, changes, monkeypatch):
    if changes.get("arch") == "resnet18":  # the last batch norms see one value per channel and crop
        train_in_float64(monkeypatch)
    changes = {
        "epochs": 1,
        "optimizer": "sgd",
        "lr": 0.2,
        "val_path": [],
        "warmup_epochs": 0,
        "freeze_last_layer": 0,
        "panel_freq": 0,
    } | changes
    one = state(train(settings(radiographs, tmp_path / "one", **changes)))["objective"]
    two = settings(radiographs, tmp_path / "two", batch_size=4, **changes)
    assert [exit_status(pid) for pid in group(2, child(two))] == [0, 0]
    reached = state(tmp_path / "two")["objective"]
    for key in one:
        torch.testing.assert_close(
            effective(key, reached[key]), effective(key, one[key]), rtol=0, atol=1e-5
        )
    assert metrics(tmp_path / "two")[-1]["loss"] == pytest.approx(
        metrics(tmp_path / "one")[-1]["loss"], abs=1e-5
    )
    assert one["centre"].abs().max() > 1e-4
    bias = [key for key in one if key.startswith("student.head.mlp") and key.endswith("bias")][-1]
    assert one[bias].abs().max() > 1e-6  # it started at zero: the runs have trained


def noticed(config):
    """`child` that makes OUTPUT_DIR/began when its second pass is made."""

    def run() -> int:
        plain, calls = DINO.forward, []

        def forward(self, batch, progress):
            calls.append(progress)
            if len(calls) == 2:
                (Path(config.output_dir) / "began").touch()
            return plain(self, batch, progress)

        DINO.forward = forward
        return pretrain_dino.main(config)

    return run


def test_killed_at_random_moments_and_continued_is_bit_identical(radiographs, whole, tmp_path):
    rng, landed, run = np.random.default_rng(3), 0, tmp_path / "none"
    for attempt in range(
        4
    ):  # on a busy machine a whole run can slip between two kills; then once more
        run = tmp_path / f"run{attempt}"
        config = settings(radiographs, run)
        landed = run_with_kills(
            lambda c=config: [spawn(noticed(c))], run / "began", 3, rng, span=0.25
        )
        if landed >= 1:
            break
    assert landed >= 1
    assert_same(whole, run)
    assert not list(run.rglob("*.part"))


def test_a_signal_saves_and_the_same_command_continues(radiographs, whole, tmp_path):
    config = settings(radiographs, tmp_path / "run")

    def slowed() -> int:
        plain = DINO.forward

        def forward(self, batch, progress):
            time.sleep(0.05)
            return plain(self, batch, progress)

        DINO.forward = forward
        return pretrain_dino.main(config)

    pid = spawn(slowed)
    while not list((tmp_path / "run" / "checkpoints").glob("*.pt.sha256")):
        time.sleep(0.005)
    os.kill(pid, signal.SIGTERM)
    assert exit_status(pid) == 143 and 2 <= state(tmp_path / "run")["step"] < 6
    train(config)
    assert_same(whole, tmp_path / "run")


# ------------------------------------------------------------------------------------------------ DAX's own line


def test_the_published_command_is_understood():
    config = cli.parse(pretrain_dino.Config, shlex.split(SEED_LINE))
    assert (config.arch, config.norm_last_layer, config.use_bn_in_head, config.use_fp16) == (
        "resnet50",
        True,
        True,
        False,
    )
    assert (config.clip_grad, config.local_crops_number, config.batch_size, config.epochs) == (
        0,
        6,
        128,
        200,
    )
    assert config.global_crops_scale == [0.14, 1.0] and config.local_crops_scale == [0.05, 0.14]
    assert (config.lr, config.min_lr, config.optimizer, config.out_dim) == (
        0.3,
        0.0048,
        "lars",
        60000,
    )
    assert (config.use_wandb, config.subtract_lowpass, config.azure) == (False, False, True)
    assert config.init_from == "path/to/checkpoint" and config.dataset == "DAX-Dataset-{version}"
    assert (config.warmup_teacher_temp_epochs, config.save_freq, config.job_ID) == (
        25,
        1.0,
        "DAX_Training_Job_xxx",
    )


def test_the_recipes_are_the_published_ones():
    line = vars(cli.parse(pretrain_dino.Config, shlex.split(SEED_LINE)))
    read = ["--data_path", "x", "--config"]
    recipe = vars(
        cli.parse(pretrain_dino.Config, [*read, str(ROOT / "configs" / "dax_resnet50.yaml")])
    )
    told_elsewhere = {
        "data_path",
        "output_dir",
        "dataset",
        "job_ID",
        "azure",
        "init_from",
        "use_fp16",
        "precision",
    }
    assert {key for key in line if line[key] != recipe[key]} <= told_elsewhere and recipe[
        "precision"
    ] == "fp32"
    recipe = cli.parse(pretrain_dino.Config, [*read, str(ROOT / "configs" / "dax_vit_small.yaml")])
    cli.parse(pretrain_dino.Config, [*read, str(ROOT / "configs" / "phantom_dino.yaml")])
    changed = {
        "warmup_epochs": 10.0,
        "data_path": ["x"],
    }  # the rest of that recipe are our defaults
    assert recipe == pretrain_dino.Config(**changed)


def smaller(radiographs, out, arch, weights=None) -> list[str]:
    """The published command with every flag of it, at a size for a test."""
    line = SEED_LINE.replace("path/to/dataset", str(radiographs)).replace(
        "path/to/output/directory", str(out)
    )
    line = (
        line.replace("resnet50", arch).replace("out_dim=60000", "out_dim=48").replace("=128", "=10")
    )
    line = line.replace("--epochs=200", "--epochs=26").replace(
        "--num_workers=10", "--num_workers=0"
    )
    line = line.replace(
        "--pretrained_weights='path/to/checkpoint'",
        f"--pretrained_weights={weights}" * bool(weights),
    )
    return [
        *shlex.split(line),
        "--global_size=32",
        "--local_size=16",
        "--max_steps=2",
        "--head_width=16",
        "--panel_freq=0",
        "--device=cpu",
        "--save_freq=0",
    ]


@pytest.mark.parametrize(
    "arch, tensors",
    [("vit_mini", 30), pytest.param("resnet18", 120, marks=pytest.mark.slow)],
    ids=["ViT", "ResNet"],
)
def test_the_published_command_runs_and_its_result_can_be_continued(
    radiographs, tmp_path, arch, tensors
):
    done = script(pretrain_dino, *smaller(radiographs, tmp_path / "run", arch))
    assert done.returncode == 0, done.stderr[-500:]
    assert "--azure is ignored" in done.stdout
    assert "data set DAX-Dataset-{version}, job DAX_Training_Job_xxx" in done.stdout
    backbone = build_backbone(tmp_path / "run" / "model")
    assert backbone.preprocessing["radiograph"]["intensity_options"] == {
        "complement": True,
        "contrast": 2.75,
    }
    done = script(
        pretrain_dino, *smaller(radiographs, tmp_path / "next", arch, tmp_path / "run" / "model")
    )
    assert done.returncode == 0, done.stderr[-500:]
    told = rf"starting from .*matched {tensors}/{tensors} .*the head is new"
    assert re.search(told, done.stdout), done.stdout
    if arch == "resnet18":
        import torchvision
        from safetensors.torch import load_file

        missing, unexpected = torchvision.models.resnet18().load_state_dict(
            load_file(tmp_path / "next" / "model" / "model.safetensors"), strict=False
        )
        assert set(missing) == {"fc.weight", "fc.bias"} and not unexpected


def test_continuing_from_a_masked_autoencoder(radiographs, tmp_path):
    from models.networks.mae import MaskedAutoencoder, named_config
    from models.weights.checkpoint import save_mae

    mae = MaskedAutoencoder(named_config("mae_vit_mini_patch8_dec32d1b", input_size=(48, 48)))
    save_mae(
        mae,
        tmp_path / "mae",
        Preprocessing(48, 48).to_dict(),
        "---\nlicense: other\nlicense_name: CC\n---\n",
    )
    out = train(
        settings(
            radiographs,
            tmp_path / "run",
            epochs=0.5,
            max_steps=1,
            lr=0.0,
            min_lr=0.0,
            weight_decay=0.0,
            init_from=str(tmp_path / "mae"),
        )
    )
    found = build_backbone(out / "model").network.state_dict()
    assert torch.equal(
        found["blocks.0.attn.qkv.weight"], mae.state_dict()["blocks.0.attn.qkv.weight"]
    )
    assert found["pos_embed"].shape == (1, 17, 48)
    assert "Initial weights: CC" in (out / "model" / "README.md").read_text()


def test_continuing_from_a_dinov2(radiographs, tmp_path):
    theirs = oracle("dinov2", patch_size=8, image_size=32, mlp_ratio=4)
    folder_of(theirs, tmp_path / "dinov2")
    out = train(
        settings(
            radiographs,
            tmp_path / "run",
            epochs=0.5,
            max_steps=1,
            lr=0.0,
            min_lr=0.0,
            weight_decay=0.0,
            init_from=str(tmp_path / "dinov2"),
        )
    )
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(pixels).last_hidden_state[:, 0]
        torch.testing.assert_close(
            build_backbone(out / "model")(pixels), expected, rtol=0, atol=1e-5
        )


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "argv, told",
    [
        (["--pretrained_weights", "{tmp}/nowhere.pth"], "nowhere.pth: no such checkpoint"),
        (["--use_wandb", "True"], "--use_wandb needs the wandb package"),
        (["--arch", "resnet34"], "--arch 'resnet34': choose resnet18, resnet50"),
        (["--augmentation", "v3"], "--augmentation must be one of v1, v2, not 'v3'"),
        (["--local_size", "20"], "views of 20 pixels: not a multiple of the patch size 8"),
        (["--global_crops_scale", "0.5"], "--global_crops_scale takes 2 numbers, not 1"),
        (["--local_crops_scale", "0", "1"], "crop scale 0.0 to 1.0"),
        (["--teacher_temp", "0"], "--teacher_temp 0.0: expected a number above 0"),
        (["--momentum_teacher", "1.1"], "--momentum_teacher 1.1: expected a number from 0 to 1"),
        (["--warmup_teacher_temp_epochs", "30"], "it would never end its warm-up"),
        (["--norm_last_layer", "maybe"], "must be True or False, not 'maybe'"),
        (["--lr", "nan"], "--lr nan"),
        (["--data_path", "{tmp}/nowhere"], "nowhere: no such folder or file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_user_can_mend_is_one_sentence(radiographs, tmp_path, argv, told):
    base = [
        "--data_path",
        radiographs,
        "--arch",
        "vit_mini",
        "--patch_size",
        8,
        "--global_size",
        32,
        "--local_size",
        16,
        "--out_dim",
        8,
        "--head_width",
        8,
        "--batch_size",
        4,
        "--epochs",
        5,
        "--num_workers",
        0,
        "--device",
        "cpu",
        "--output_dir",
        tmp_path / "run",
    ]
    base = base[2:] if argv[0] == "--data_path" else base
    done = script(pretrain_dino, *base, *(word.format(tmp=tmp_path) for word in argv))
    lines = [
        line
        for line in done.stderr.splitlines()
        if line.strip() and not line.startswith("reading files")
    ]
    assert done.returncode == 2 and len(lines) == 1, lines
    assert lines[0].startswith("pretrain_dino.py: ") and told in lines[0]


def test_a_collapse_is_told(radiographs, tmp_path, capfd):
    config = settings(radiographs, tmp_path, epochs=1)

    def collapsed() -> int:
        plain = workflows.pretraining.dino.DinoPretraining.make_objective

        def make(self):
            dino = plain(self)
            with torch.no_grad():
                for parameter in (
                    *dino.student.backbone.norm.parameters(),
                    *dino.teacher.backbone.norm.parameters(),
                ):
                    parameter.zero_()  # the same features for everything
            return dino

        workflows.pretraining.dino.DinoPretraining.make_objective = make
        return pretrain_dino.main(config)

    assert exit_status(spawn(collapsed)) == 0
    said = capfd.readouterr().err
    assert (
        "step 1: this looks like a collapse: the features of all radiographs are nearly the same"
        in said
    )
    assert said.count("the features of all radiographs") == 1  # not at every step
