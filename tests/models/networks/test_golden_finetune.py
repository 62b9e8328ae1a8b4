"""SKELEX's fine-tuning in numbers: G3 fixtures (the classifier on a masked autoencoder, layer decay, schedule)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.fill import fill_input, fill_tensor, mismatch
from safetensors.torch import save_file

from models.backbones.backbone import build_backbone
from models.networks.supervised import Supervised
from models.weights.families import to_ours
from training.optim import adamw, parameter_groups, set_schedules
from training.schedules import constant, per_epoch, warmup_cosine

GOLDEN = Path(__file__).parents[2] / "golden"
# the reference lets these decay (depth 0), we do not
NOT_DECAYED_HERE = {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"}


def fixture(name):
    return json.loads((GOLDEN / f"{name}.json").read_text()), np.load(GOLDEN / f"{name}.npz")


def normalised_images(meta):
    images = torch.from_numpy(fill_input(**meta["inputs"]["images01"]))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images - mean[:, None, None]) / std[:, None, None]


def checkpoint(meta, folder):
    """The masked autoencoder of the fixture as a Hugging Face folder."""
    told = meta["config"]["ViTMAEConfig"] | {
        "image_size": 224,
        "patch_size": 16,
        "layer_norm_eps": 1e-12,
    }
    (folder / "config.json").write_text(json.dumps(told))
    keys = {k: s for k, s in meta["keys"].items() if k.startswith(("vit.", "decoder."))}
    state = {k: torch.from_numpy(fill_tensor(k, s, meta["salt"])) for k, s in keys.items()}
    save_file(state, folder / "model.safetensors")
    return folder


def fine_tuned(meta, folder, kind="multiclass"):
    """Our backbone and head with the classifier's weights of the fixture."""
    model = Supervised(
        build_backbone(checkpoint(meta, folder)), kind, meta["config"]["num_labels"]
    ).eval()
    with torch.no_grad():
        for name in ("weight", "bias"):
            value = fill_tensor(f"classifier.{name}", getattr(model.head, name).shape, meta["salt"])
            getattr(model.head, name).copy_(torch.from_numpy(value))
    return model


@pytest.mark.parametrize("size", ["tiny", pytest.param("large", marks=pytest.mark.slow)])
def test_classifier_on_a_masked_autoencoder(size, tmp_path):
    meta, npz = fixture(f"g3_vit_head_{size}")
    model, images = fine_tuned(meta, tmp_path), normalised_images(meta)
    with torch.no_grad():
        assert (
            mismatch(meta, npz, "last_hidden_state", model.backbone.network.tokens(images).numpy())
            <= 1
        )
        assert mismatch(meta, npz, "cls", model.backbone(images).numpy()) <= 1
        assert mismatch(meta, npz, "logits", model.outputs(images).numpy()) <= 1


def test_loss_and_gradients_equal_those_of_transformers(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    meta, _ = fixture("g3_vit_head_tiny")
    ours, images = fine_tuned(meta, tmp_path).train(), normalised_images(meta)
    told = {k: v for k, v in meta["config"]["ViTMAEConfig"].items() if not k.startswith("decoder")}
    ViTForImageClassification(ViTConfig(**told, num_labels=5)).save_pretrained(tmp_path / "theirs")
    keys = meta["expected"]["classifier_keys"]
    state = {k: torch.from_numpy(fill_tensor(k, s, meta["salt"])) for k, s in keys.items()}
    save_file(state, tmp_path / "theirs" / "model.safetensors", metadata={"format": "pt"})
    theirs = ViTForImageClassification.from_pretrained(tmp_path / "theirs").train()

    expected = theirs(images, labels=torch.tensor([3, 1])).loss
    expected.backward()
    loss = ours({"image": images, "target": torch.tensor([3.0, 1.0])})["loss"]
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    gradients = to_ours({name: parameter.grad for name, parameter in theirs.named_parameters()})
    own = {n.removeprefix("backbone.network."): p.grad for n, p in ours.named_parameters()}
    assert set(own) == set(gradients)
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0 and own[name].shape == gradient.shape
        assert (own[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max(), name


@pytest.fixture(scope="module")
def large():
    """SKELEX's network (24 blocks) with a head, without memory for its weights."""
    with torch.device("meta"):
        return Supervised(build_backbone("none:skelex"), "binary", 1)


def test_layer_decay_groups(large):
    meta, _ = fixture("g3_finetune_optim")
    expected, told = meta["expected"]["default/groups"], meta["expected"]["default"]
    groups = parameter_groups(large, told["layer_decay"])
    optimizer = adamw(groups)
    set_schedules(
        optimizer,
        {"lr": constant(told["base_lr"]), "weight_decay": constant(told["weight_decay"])},
        0.0,
    )
    assert len(groups) == told["n_groups"] == len(expected) == 2 * (24 + 2)
    names = {id(p): n for n, p in large.named_parameters()}
    ours = {
        names[id(p)]: (g["lr"], g["weight_decay"])
        for g in optimizer.param_groups
        for p in g["params"]
    }
    theirs = {name: (g["lr"], g["weight_decay"]) for g in expected for name in g["params"]}
    compared = set()
    for name, (lr, weight_decay) in theirs.items():
        mine = our_name(name)
        if name in NOT_DECAYED_HERE:
            assert weight_decay > 0
            weight_decay = 0.0
        assert ours[mine] == (pytest.approx(lr, rel=1e-12), weight_decay), name
        compared.add(mine)
    assert compared == set(ours)


def our_name(name):
    """vit.encoder.layer.3.attention.attention.query.bias -> backbone.network.blocks.3.attn.qkv.bias"""
    parts = {
        part: name.replace("query", part).replace("key", part).replace("value", part)
        for part in ("query", "key", "value")
    }
    (renamed,) = to_ours({n: torch.zeros(1) for n in {*parts.values(), name}})
    return renamed if renamed.startswith("head.") else f"backbone.network.{renamed}"


def test_without_layer_decay_vectors_still_do_not_decay(large):
    """The reference puts everything, biases and norms too, into one decaying group then."""
    meta, _ = fixture("g3_finetune_optim")
    assert meta["expected"]["layer_decay_1"]["n_groups"] == 1
    groups = parameter_groups(large, 1.0)
    assert sorted(g["weight_decay_scale"] for g in groups) == [0.0, 1.0]
    assert all(p.ndim > 1 for g in groups if g["weight_decay_scale"] for p in g["params"])


@pytest.mark.parametrize("warmup, epochs", [(5, 50), (0, 10)])
def test_learning_rate_of_each_epoch(warmup, epochs):
    meta, npz = fixture("g3_finetune_optim")
    steps = 7
    schedule = per_epoch(warmup_cosine(1.0, warmup=warmup / epochs), epochs)
    found = np.array(
        [
            [schedule((epoch * steps + step) / (epochs * steps)) for step in range(steps)]
            for epoch in range(epochs)
        ]
    )
    assert (found == found[:, :1]).all()
    assert mismatch(meta, npz, f"factor/w{warmup}_e{epochs}", found[:, 0]) <= 1


def test_learning_rate_of_each_step_of_the_region_classifier():
    meta, npz = fixture("g3_finetune_optim")
    schedule = warmup_cosine(5e-5, warmup=0.1)
    assert (
        mismatch(
            meta, npz, "region_guided_lr", np.array([schedule(step / 40) for step in range(40)])
        )
        <= 1
    )
