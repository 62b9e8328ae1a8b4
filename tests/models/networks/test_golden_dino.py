"""The published numbers of DAX (G7): backbones, head, loss over steps, optimizers, schedules, one whole step."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.fill import fill_input, fill_tensor, mismatch
from torch import nn

from data.views.intensity import DAX_LOWPASS
from models.backbones.backbone import build_backbone
from models.backbones.dino import dino_backbone
from models.networks.dino import DINO, DINOHead, ProjectedBackbone, running_average
from models.weights.checkpoint import load_strictly
from training.optim import LARS, adamw, clip_each, parameter_groups, set_schedules, sgd
from training.schedules import constant, cosine_by_step, stairs, warmup_cosine

GOLDEN = Path(__file__).parents[2] / "golden"
NETWORKS = {
    "resnet18": {},
    "resnet50": {},
    "vit_tiny16": {"patch_size": 16},
    "vit_small16": {"patch_size": 16},
    "vit_small8": {"patch_size": 8},
}


def fixture(name):
    return json.loads((GOLDEN / f"{name}.json").read_text()), np.load(GOLDEN / f"{name}.npz")


def filled(keys, salt=0, prefix=""):
    return {
        k.removeprefix(prefix): torch.from_numpy(fill_tensor(k, s, salt)) for k, s in keys.items()
    }


def given(meta, name):
    return torch.from_numpy(fill_input(**meta["inputs"][name]))


def close(meta, npz, name, tensor):
    assert mismatch(meta, npz, name, tensor.detach().numpy()) <= 1, name


def network(name):
    meta, npz = fixture(f"g7_{name}")
    backbone = dino_backbone(name.rstrip("168") if "vit" in name else name, **NETWORKS[name])
    load_strictly(backbone, filled(meta["keys"], prefix=meta["expected"]["teacher_prefix"]), name)
    return meta, npz, backbone.eval()


@pytest.mark.parametrize(
    "name",
    [
        n if n in ("resnet18", "vit_tiny16") else pytest.param(n, marks=pytest.mark.slow)
        for n in NETWORKS
    ],
)
def test_backbones(name):
    meta, npz, backbone = network(name)
    sizes = [key.removeprefix("images_") for key in meta["inputs"]]
    assert sizes
    for size in sizes:
        images = given(meta, f"images_{size}")
        if f"pos_{size}" in meta["outputs"]:
            grid = [side // backbone.patch_embed.patch_size[0] for side in images.shape[2:]]
            close(meta, npz, f"pos_{size}", backbone.resampled_positions(*grid))
        if name == "vit_small8" and size == "224x224":
            continue  # 785 tokens: the smaller ones show as much
        with torch.no_grad():
            close(meta, npz, f"features_{size}", backbone.eval()(images))
    if "resnet" in name:  # in training mode, with the statistics of the batch
        with torch.no_grad():
            close(meta, npz, "train_features_96x96", backbone.train()(given(meta, "images_96x96")))


def test_running_mean_moves_by_a_tenth():
    """The fixtures' train_running_mean_bn1 is no oracle: it was noted before the pass in training mode, and is the
    filled value. So what a pass does is checked against the rule: a tenth of the way to the mean of the batch."""
    meta, npz, backbone = network("resnet18")
    before, images = backbone.bn1.running_mean.clone(), given(meta, "images_96x96")
    assert np.array_equal(npz["train_running_mean_bn1_96x96"], before.numpy())
    with torch.no_grad():
        mean = backbone.conv1(images).mean((0, 2, 3))
        backbone.train()(images)
    torch.testing.assert_close(backbone.bn1.running_mean, 0.9 * before + 0.1 * mean)
    assert (backbone.bn1.running_mean - before).abs().max() > 0.01


FILES = {
    "resnet18": "v1",
    "vit_tiny16": "v1",
    "vit_small16": "v2",
    "vit_small8": "v1",
    "resnet50": "v2",
}


@pytest.mark.parametrize(
    "name",
    [
        n if n in ("resnet18", "vit_tiny16") else pytest.param(n, marks=pytest.mark.slow)
        for n in FILES
    ],
)
def test_published_files_load_with_their_preprocessing(name, tmp_path):
    """As they lie on the model pages: {"student", "teacher", "optimizer", "dino_loss", "epoch", "args"}."""
    meta, npz = fixture(f"g7_{name}")
    prefix = meta["expected"]["teacher_prefix"]
    head = fixture("g7_dino_head")[0]["variants"]["plain"]["keys"]
    teacher = filled(meta["keys"]) | {
        f"{prefix.removesuffix('backbone.')}head.{k}": v for k, v in filled(head).items()
    }
    student = {
        f"module.{k.removeprefix('module.')}": torch.zeros_like(v) for k, v in teacher.items()
    }
    flags = argparse.Namespace(
        augmentation=FILES[name], subtract_lowpass="False", seed=np.float64(0), out_dim=96
    )
    content = {
        "student": student,
        "teacher": teacher,
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 200,
        "dino_loss": {"center": torch.zeros(1, 96)},
        "args": flags,
    }
    assert set(meta["expected"]["checkpoint_top_level_keys"][:6]) == content.keys()
    torch.save(content, tmp_path / "dax.pth")
    for side in (224, 96):
        backbone = build_backbone(tmp_path / "dax.pth", input_size=(side, side))
        told = backbone.preprocessing
        assert told["radiograph"]["intensity"] == "neglog" and told["image_mean"] == [0, 0, 0]
        contrast = {"contrast": 2.75} if FILES[name] == "v2" else {}
        assert told["radiograph"]["intensity_options"] == {"complement": True} | contrast
        if name != "vit_small8" or side == 96:
            with torch.no_grad():
                close(
                    meta,
                    npz,
                    f"features_{side}x{side}",
                    backbone(given(meta, f"images_{side}x{side}")),
                )


def test_files_of_dino_itself_are_not_taken_for_dax(tmp_path):
    meta, _ = fixture("g7_vit_tiny16")
    head = {
        "head.last_layer.weight_g": torch.ones(9, 1),
        "head.last_layer.weight_v": torch.ones(9, 4),
    }
    content = {
        "teacher": filled(meta["keys"]) | head,
        "dino_loss": {"center": torch.zeros(1, 9)},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_tiny", subtract_lowpass="True"),
    }
    torch.save(content, tmp_path / "dino.pth")
    assert build_backbone(tmp_path / "dino.pth").preprocessing is None
    content[
        "args"
    ].augmentation = "v1"  # DAX with an ordinary last layer, as it continues from DINO
    torch.save(content, tmp_path / "dax.pth")
    told = build_backbone(tmp_path / "dax.pth").preprocessing["radiograph"]["intensity_options"]
    assert told == {"complement": True, "lowpass_fraction": DAX_LOWPASS}


@pytest.mark.parametrize(
    "variant", ["plain", "bn", "free_g", "nlayers1", "pretrained_resnet50_like"]
)
def test_head(variant):
    meta, npz = fixture("g7_dino_head")
    told = meta["variants"][variant]
    names = {
        "use_bn": "batch_norm",
        "norm_last_layer": "fixed_gain",
        "hidden_dim": "hidden",
        "nlayers": "layers",
        "bottleneck_dim": "bottleneck",
    }
    options = {
        ours: told["args"][theirs] for theirs, ours in names.items() if theirs in told["args"]
    }
    head = DINOHead(
        told["args"]["in_dim"],
        told["args"]["out_dim"],
        **options,
        weight_normed=not told["args"].get("pretrained"),
    )
    trainable = {
        k: p.requires_grad for k, p in head.named_parameters() if k.startswith("last_layer")
    }
    assert trainable == told["requires_grad"]
    if told["g_initialised_to_1"]:
        assert torch.equal(head.last_layer.parametrizations.weight.original0, torch.ones(96, 1))
    load_strictly(head, filled(told["keys"]), variant)
    features = given(meta, "features").requires_grad_()
    close(meta, npz, f"{variant}/eval", head.eval()(features))
    result = head.train()(features)
    close(meta, npz, f"{variant}/train", result)
    if f"{variant}/grad_input" in meta["outputs"]:
        (result**2).mean().backward()
        close(meta, npz, f"{variant}/grad_input", features.grad)


def test_head_of_the_published_size_has_their_names():
    meta, _ = fixture("g7_dino_head")
    for name, keys in meta["expected"]["keys_out_dim_60000"].items():
        keys = {k.removeprefix("head."): s for k, s in keys.items()}
        with torch.device("meta"):
            head = DINOHead(keys["mlp.0.weight"][1], 60000, batch_norm="mlp.1.running_mean" in keys)
        assert {k: list(v.shape) for k, v in head.state_dict().items()} == keys, name


class Given(nn.Module):
    """Stands for student or teacher: gives what it is told to."""

    def __init__(self, prototypes):
        super().__init__()
        self.logits = None
        self.head = nn.Module()
        self.head.last_layer = nn.Linear(1, prototypes, bias=False)

    def forward(self, views):
        return self.logits, torch.eye(len(self.logits))


@pytest.mark.parametrize("kind", ["warm", "const"])
def test_loss_and_centre_over_steps(kind):
    meta, npz = fixture("g7_dino_loss")
    told = meta["expected"][f"{kind}/args"]
    temperature = stairs(
        told["warmup_teacher_temp"],
        told["teacher_temp"],
        told["warmup_teacher_temp_epochs"],
        told["nepochs"],
    )
    values = [temperature(epoch / told["nepochs"]) for epoch in range(told["nepochs"])]
    assert values == pytest.approx(meta["expected"][f"{kind}/teacher_temp_schedule"], rel=1e-12)
    dino = DINO(
        Given(told["out_dim"]),
        Given(told["out_dim"]),
        teacher_temperature=temperature,
        momentum=constant(1.0),
        student_temperature=told["student_temp"],
        centre_momentum=told["center_momentum"],
    )
    batch = {"global": torch.zeros(3, 2, 1, 1, 1), "local": torch.zeros(3, 6, 1, 1, 1)}
    for step in range(3):
        dino.student.logits = given(meta, f"student_{step}").requires_grad_()
        dino.teacher.logits = given(meta, f"teacher_{step}")
        progress = step / told["nepochs"]
        losses = dino(batch, progress)
        losses["loss"].backward()
        dino.after_step(progress)
        expected = meta["expected"][f"{kind}/step{step}"]
        assert losses["loss"].item() == pytest.approx(expected["loss"], rel=1e-5)
        assert losses["teacher_entropy"].item() == pytest.approx(
            expected["teacher_entropy"], rel=1e-5
        )
        assert losses["kl"].item() == pytest.approx(expected["kl_divergence"], rel=1e-5)
        close(meta, npz, f"{kind}/grad_student_{step}", dino.student.logits.grad)
        close(meta, npz, f"{kind}/center_after_{step}", dino.centre)


@pytest.mark.parametrize("name, arch", [("vit_tiny", "vit_tiny"), ("resnet18", "resnet18")])
def test_one_whole_step(name, arch):
    meta, npz = fixture(f"g7_step_{name}")
    told = meta["expected"]["step"]
    pair = []
    for _ in range(2):
        backbone = dino_backbone(arch)
        pair.append(ProjectedBackbone(backbone, DINOHead(backbone.num_features, 48)))
    assert pair[0].head.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.01)
    state = filled(meta["keys"])
    state["head.last_layer.parametrizations.weight.original0"] = torch.ones(48, 1)
    load_strictly(pair[0], state, name)
    dino = DINO(
        *pair,
        teacher_temperature=constant(0.04),
        momentum=constant(told["momentum"]),
        freeze_last_layer=0.1,
        clip_each_norm=told["clip_grad"],
    )
    dino.train()
    crops = [given(meta, f"crop{i}") for i in range(5)]
    batch = {"global": torch.stack(crops[:2], 1), "local": torch.stack(crops[2:], 1)}
    optimizer = adamw(parameter_groups(dino))
    outputs = []
    hooks = [
        part.head.register_forward_hook(lambda *a: outputs.append(a[2]))
        for part in (dino.teacher, dino.student)
    ]
    losses = dino(batch, 0.5)
    losses["loss"].backward()
    for hook in hooks:
        hook.remove()
    close(meta, npz, "teacher_output", outputs[0])
    close(meta, npz, "student_output", outputs[1])
    assert losses["loss"].item() == pytest.approx(meta["expected"]["loss"], rel=1e-5)
    for ours, theirs in (("teacher_entropy", "teacher_entropy"), ("kl", "kl_divergence")):
        assert losses[ours].item() == pytest.approx(meta["expected"]["metrics"][theirs], rel=1e-4)
    norms = torch.tensor(
        [p.grad.norm().item() for p in dino.student.parameters() if p.grad is not None]
    )
    assert mismatch(meta, npz, "grad_norms", norms.double().numpy()) <= 1
    set_schedules(
        optimizer, {"lr": constant(told["lr"]), "weight_decay": constant(told["weight_decay"])}, 0.5
    )
    dino.before_step(0.5)
    optimizer.step()
    dino.after_step(0.5)
    after = dino.teacher.state_dict()
    names = [
        key.removeprefix("teacher_after/")
        for key in meta["outputs"]
        if key.startswith("teacher_after/")
    ]
    assert names
    for key in names:
        close(meta, npz, f"teacher_after/{key}", after[key])


# ------------------------------------------------------------------------------------- optimizers, groups, schedules


def toy(meta, salt=0):
    model = nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.Linear(5, 3))
    model.load_state_dict(filled(meta["keys"], salt))
    return model


@pytest.mark.parametrize("kind", ["lars", "adamw", "sgd"])
def test_optimizers(kind):
    meta, npz = fixture("g7_optim")
    model, x, y = toy(meta), given(meta, "x"), given(meta, "y")
    optimizer = {"lars": LARS, "adamw": adamw, "sgd": sgd}[kind](parameter_groups(model))
    for step in range(3):
        lr, decay = (0.3, 0.01) if kind == "lars" else (0.01 * (step + 1), 0.04 + 0.1 * step)
        set_schedules(optimizer, {"lr": constant(lr), "weight_decay": constant(decay)}, 0.0)
        loss = nn.functional.mse_loss(model(x), y)
        if kind == "lars":
            assert loss.item() == pytest.approx(meta["expected"]["lars_losses"][step], rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        if kind != "lars":
            clip_each(model.parameters(), 0.3)
        optimizer.step()
        if kind == "lars" or step == 2:
            for key, value in model.state_dict().items():
                close(
                    meta,
                    npz,
                    f"lars/step{step}/{key}" if kind == "lars" else f"{kind}/after3/{key}",
                    value,
                )


def test_clipping_of_each_parameter():
    meta, npz = fixture("g7_optim")
    model = toy(meta)
    for size, (name, parameter) in zip([0.01, 3.0, 0.5, 10.0, 1.0, 0.0], model.named_parameters()):
        values = fill_input(f"grad/{name}", parameter.shape, 0, "affine", low=0, high=size)
        parameter.grad = torch.from_numpy(values)
    clip_each(model.parameters(), meta["expected"]["clip"]["clip"])
    for name, parameter in model.named_parameters():
        close(meta, npz, f"clip/{name}", parameter.grad)


def test_running_average():
    meta, npz = fixture("g7_optim")
    teacher, student = toy(meta, 100), toy(meta, 0)
    for momentum in meta["expected"]["ema"]["momentum"]:
        running_average(teacher.parameters(), student.parameters(), momentum)
    for key, value in teacher.state_dict().items():
        close(meta, npz, f"ema/{key}", value)


@pytest.mark.parametrize("name", ["lr", "wd", "momentum", "lr_warm_from"])
def test_schedules(name):
    meta, npz = fixture("g7_optim")
    told = meta["expected"][f"schedule/{name}"]
    steps = told["epochs"] * told["niter_per_ep"]
    warmup = told["warmup_epochs"] * told["niter_per_ep"]
    schedule = cosine_by_step(
        told["base_value"], told["final_value"], steps, warmup, told.get("start_warmup_value", 0.0)
    )
    values = np.array([schedule(step / steps) for step in range(steps)])
    assert mismatch(meta, npz, f"schedule/{name}", values) <= 1
    if not told["warmup_epochs"]:
        plain = warmup_cosine(told["base_value"], told["final_value"])
        assert values == pytest.approx([plain(step / steps) for step in range(steps)], rel=1e-9)


def test_parameter_groups():
    """Ours but for tokens and positions, which the published code decays."""
    told = fixture("g7_optim")[0]["expected"]["param_groups_vit_tiny_student"]
    backbone = dino_backbone("vit_tiny")
    student = ProjectedBackbone(backbone, DINOHead(192, 48))
    names = {id(p): name for name, p in student.named_parameters()}
    decays = {
        names[id(p)]: g["weight_decay_scale"]
        for g in parameter_groups(student)
        for p in g["params"]
    }
    tokens = {"backbone.cls_token", "backbone.pos_embed"}
    blocks = {key for key in decays if ".blocks." in key}
    theirs = set(told["regularized"]) | set(told["not_regularized"])
    assert {key for key in theirs if ".blocks." in key} <= blocks
    assert theirs - blocks - tokens == decays.keys() - blocks - tokens
    assert all(decays[key] == 1 for key in set(told["regularized"]) - tokens if key in decays)
    assert all(decays[key] == 0 for key in [*told["not_regularized"], *tokens] if key in decays)
