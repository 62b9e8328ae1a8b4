"""The published numbers: G1 (MAE, Medical MAE) and G2 (Hugging Face ViTMAE) fixtures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.fill import fill_input, fill_tensor, mismatch

from models.networks.mae import MAEConfig, MaskedAutoencoder, named_config, visible_count
from models.networks.vit import blocks, rows_of_block, sincos_2d, take
from models.weights.checkpoint import load_strictly
from models.weights.families import to_ours

GOLDEN = Path(__file__).parents[2] / "golden"


def fixture(name):
    return json.loads((GOLDEN / f"{name}.json").read_text()), np.load(GOLDEN / f"{name}.npz")


def filled(meta):
    keys = {k: s for k, s in meta["keys"].items() if k not in meta["computed_keys"]}
    return {k: torch.from_numpy(fill_tensor(k, s, meta["salt"])) for k, s in keys.items()}


def inputs(meta, *names):
    return [torch.from_numpy(fill_input(**meta["inputs"][n])) for n in names]


def load(model, state):
    computed = {k: v for k, v in model.state_dict().items() if k.endswith("pos_embed")}
    load_strictly(model, computed | state, "golden")
    return model.eval()


def masked_model(model, ratio, norm_pix=False):
    """The same weights with another mask ratio or target."""
    import dataclasses

    other = MaskedAutoencoder(
        dataclasses.replace(model.config, mask_ratio=ratio, norm_pix_loss=norm_pix)
    )
    other.load_state_dict(model.state_dict())
    return other.eval()


def test_position_embedding():
    meta, npz = fixture("g1_pos_embed")
    for dim in (384, 512, 768, 1024, 128):
        assert mismatch(meta, npz, f"d{dim}_g14", sincos_2d(dim, 14, 14)[0].numpy()) <= 1


def test_patchify_and_visible_count():
    meta, npz = fixture("g1_pos_embed")
    (image,) = inputs(meta, "patchify_image")
    model = MaskedAutoencoder(
        MAEConfig(
            input_size=(64, 64),
            dim=32,
            depth=1,
            heads=2,
            decoder_dim=32,
            decoder_depth=1,
            decoder_heads=2,
        )
    )
    patches = model.patchify(image)
    assert mismatch(meta, npz, "patchify", patches.numpy()) <= 1
    assert torch.equal(model.unpatchify(patches), image)
    for text, expected in meta["expected"]["len_keep"].items():
        patches_, ratio = text.split("@")
        assert visible_count(int(patches_), float(ratio)) == expected


@pytest.mark.parametrize(
    "name, model_name",
    [
        ("g1_mae_small_dec512d2", "mae_vit_small_patch16_dec512d2b"),
        pytest.param(
            "g1_mae_base_dec512d8", "mae_vit_base_patch16_dec512d8b", marks=pytest.mark.slow
        ),
        pytest.param("g1_mae_large", "mae_vit_large_patch16", marks=pytest.mark.slow),
    ],
)
def test_mae_forward(name, model_name):
    meta, npz = fixture(name)
    model = load(MaskedAutoencoder(named_config(model_name)), filled(meta))
    images, noise = inputs(meta, "images", "noise")
    for ratio, tag in ((0.75, "r75"), (0.9, "r90")):
        for norm_pix, suffix in ((False, "off"), (True, "on")):
            key = f"{tag}/loss_norm_pix_{suffix}"
            if key not in meta["expected"]:
                continue
            mae = masked_model(model, ratio, norm_pix)
            with torch.no_grad():
                result = mae.reconstruct(images, noise)
                fast = mae.loss(images, noise)
            assert float(result.loss) == pytest.approx(meta["expected"][key], rel=1e-5)
            assert float(fast) == pytest.approx(meta["expected"][key], rel=1e-5)
        assert mismatch(meta, npz, f"{tag}/mask", result.hidden.numpy().astype(np.uint8)) <= 1
        assert mismatch(meta, npz, f"{tag}/pred", result.patches.numpy()) <= 1
        if f"{tag}/latent" in meta["outputs"]:
            visible = noise.argsort(1)[:, : mae.config.visible]
            with torch.no_grad():
                latent = mae.encode_tokens(take(mae.embed(images), visible))
            assert mismatch(meta, npz, f"{tag}/latent", latent.numpy()) <= 1


def test_mae_gradients():
    meta, npz = fixture("g1_mae_small_dec512d2")
    model = load(MaskedAutoencoder(named_config("mae_vit_small_patch16_dec512d2b")), filled(meta))
    images, noise = inputs(meta, "images", "noise")
    model.loss(images, noise).backward()
    parameters = dict(model.named_parameters())
    names = [n for n in meta["outputs"] if n.startswith("r75/grad/")]
    assert len(names) >= 8
    for name in names:
        assert (
            mismatch(meta, npz, name, parameters[name.removeprefix("r75/grad/")].grad.numpy()) <= 1
        ), name


def huggingface(meta):
    c = meta["config"]["ViTMAEConfig"]
    return MAEConfig(
        dim=c.get("hidden_size", 768),
        depth=c.get("num_hidden_layers", 12),
        heads=c.get("num_attention_heads", 12),
        mlp_ratio=c.get("intermediate_size", 3072) / c.get("hidden_size", 768),
        decoder_dim=c.get("decoder_hidden_size", 512),
        decoder_depth=c.get("decoder_num_hidden_layers", 8),
        decoder_heads=c.get("decoder_num_attention_heads", 16),
        decoder_mlp_ratio=c.get("decoder_intermediate_size", 2048)
        / c.get("decoder_hidden_size", 512),
        layer_norm_eps=1e-12,
    )


@pytest.mark.parametrize(
    "name", ["g2_vitmae_tiny", pytest.param("g2_vitmae_large", marks=pytest.mark.slow)]
)
def test_huggingface_vitmae(name):
    meta, npz = fixture(name)
    state = to_ours(filled(meta))
    # a ViTMAEForPreTraining that transformers builds afresh has sine-cosine positions in the encoder and zeros in the
    # decoder; the fixture was computed with those (checkpoints bring their own)
    state["decoder_pos_embed"] = torch.zeros(
        1, 197, meta["config"]["ViTMAEConfig"].get("decoder_hidden_size", 512)
    )
    model = load(MaskedAutoencoder(huggingface(meta)), state)
    images, noise = inputs(meta, "images01", "noise")
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    images = (images - mean) / std
    with torch.no_grad():
        result = model.reconstruct(images, noise)
        normalised = masked_model(model, 0.75, norm_pix=True).loss(images, noise)
    assert mismatch(meta, npz, "logits", result.patches.numpy()) <= 1
    assert mismatch(meta, npz, "mask", result.hidden.numpy().astype(np.uint8)) <= 1
    if "unpatchified" in meta["outputs"]:
        assert mismatch(meta, npz, "unpatchified", model.unpatchify(result.patches).numpy()) <= 1
    assert float(result.loss) == pytest.approx(meta["expected"]["loss"], rel=1e-5)
    if "loss_norm_pix_on" in meta["expected"]:
        assert float(normalised) == pytest.approx(meta["expected"]["loss_norm_pix_on"], rel=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_wanted_rows_of_a_block_are_those_of_the_whole_block(fused):
    torch.manual_seed(0)
    (block,) = blocks(32, 1, 4, 2.0, 1e-6)
    block.attn.fused_attn = fused
    tokens, rows = (
        torch.randn(3, 11, 32, requires_grad=True),
        torch.stack([torch.randperm(11)[:4] for _ in range(3)]),
    )
    whole, some = take(block(tokens), rows), rows_of_block(block, tokens, rows)
    torch.testing.assert_close(some, whole)
    weights = [tokens, *block.parameters()]
    for mine, other in zip(
        torch.autograd.grad(some.square().sum(), weights),
        torch.autograd.grad(whole.square().sum(), weights),
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
