"""Checkpoints at home in transformers: both directions, all key layouts, and refusals that say why."""

import argparse
import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.backbones.card import (
    Provenance,
    backbone_licence,
    converted_card,
    mae_card,
    stated_licence,
)
from models.networks.mae import MAEConfig, MaskedAutoencoder, named_config
from models.networks.vit import resize_positions, sincos_2d
from models.weights.checkpoint import (
    huggingface_config,
    load_encoder,
    load_mae,
    read_tensors,
    save_mae,
)
from models.weights.families import to_huggingface, to_ours

PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "do_resize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.25] * 3,
    "resample": 2,
}


def small(**changes):
    return MAEConfig(
        **{
            "input_size": (32, 32),
            "patch_size": 8,
            "dim": 48,
            "depth": 2,
            "heads": 3,
            "decoder_dim": 32,
            "decoder_depth": 2,
            "decoder_heads": 4,
            "decoder_mlp_ratio": 2.0,
        }
        | changes
    )


@pytest.fixture
def mae():
    torch.manual_seed(0)
    return MaskedAutoencoder(small()).eval()


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return torch.randn(3, 3, 32, 32), torch.rand(3, 16)


def card(model):
    run = Provenance(
        recipe={"model": "x", "seed": 0}, radiographs=10, step=1, last_step=2, licence="CC0"
    )
    return mae_card(model.config, run)


def test_our_folder_loads_in_transformers_and_gives_the_same(mae, inputs, tmp_path):
    from transformers import AutoImageProcessor, ViTMAEForPreTraining

    save_mae(mae, tmp_path, PREPROCESSOR, card(mae))
    theirs = ViTMAEForPreTraining.from_pretrained(tmp_path).eval()
    images, noise = inputs
    with torch.no_grad():
        ours, other = mae.reconstruct(images, noise), theirs(images, noise=noise)
    torch.testing.assert_close(other.logits, ours.patches, rtol=0, atol=2e-5)
    torch.testing.assert_close(other.loss, ours.loss, rtol=1e-6, atol=0)
    assert torch.equal(other.mask, ours.hidden)
    assert theirs.config.layer_norm_eps == 1e-6 and theirs.config.mask_ratio == 0.75
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert list(processor.image_mean) == [0.5] * 3


def test_a_folder_written_by_transformers_loads_here(inputs, tmp_path):
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    torch.manual_seed(2)
    told = huggingface_config(small(layer_norm_eps=1e-12, norm_pix_loss=True))
    theirs = ViTMAEForPreTraining(
        ViTMAEConfig(**{k: v for k, v in told.items() if k != "torch_dtype"})
    ).eval()
    torch.nn.init.normal_(theirs.decoder.decoder_pos_embed, std=0.02)
    theirs.save_pretrained(tmp_path)
    loaded = load_mae(tmp_path)
    images, noise = inputs
    with torch.no_grad():
        ours, other = loaded.model.reconstruct(images, noise), theirs(images, noise=noise)
    torch.testing.assert_close(ours.patches, other.logits, rtol=0, atol=2e-5)
    torch.testing.assert_close(ours.loss, other.loss, rtol=1e-5, atol=0)
    count = len(loaded.model.state_dict())
    assert f"matched {count}/{count} tensors" in loaded.report and "huggingface" in loaded.report
    assert loaded.model.norm_pix_loss and loaded.model.config.layer_norm_eps == 1e-12


def version_5_names(state):
    """The names that transformers 5 uses in memory."""
    swaps = [
        ("vit.encoder.layer", "vit.layers"),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        (".output.dense", ".mlp.fc2"),
    ]
    renamed = {}
    for key, value in state.items():
        for old, new in swaps:
            key = key.replace(old, new)
        renamed[key] = value
    return renamed


def malformed(state):
    """The decoder names that transformers 5.23 writes."""
    return {
        k.replace("decoder.decoder_layers", "decoder.decoder_encoder.layer"): v
        for k, v in state.items()
    }


@pytest.mark.parametrize("rename", [dict, version_5_names, malformed])
def test_three_layouts_of_hugging_face_are_one(mae, rename, tmp_path):
    state = rename(to_huggingface({k: v.clone() for k, v in mae.state_dict().items()}))
    assert rename is dict or set(state) != set(to_huggingface(mae.state_dict()))
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(huggingface_config(mae.config)))
    loaded = load_mae(tmp_path).model.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in mae.state_dict().items())


def test_names_there_and_back(mae):
    state = mae.state_dict()
    again = to_ours(to_huggingface(state))
    assert set(again) == set(state) and all(torch.equal(again[k], v) for k, v in state.items())


@pytest.mark.parametrize("name", ["mae_vit_small_patch16_dec512d2b", "mae_vit_tiny_patch16"])
def test_facebook_and_medical_mae_files(name, tmp_path):
    torch.manual_seed(0)
    model = MaskedAutoencoder(named_config(name, mask_ratio=0.9))
    args = argparse.Namespace(mask_ratio=0.9, norm_pix_loss=True, model=name)
    torch.save(
        {"model": model.state_dict(), "optimizer": {}, "epoch": 3, "args": args},
        tmp_path / "mae.pth",
    )
    loaded = load_mae(tmp_path / "mae.pth")
    assert loaded.model.config.mask_ratio == 0.9 and loaded.model.norm_pix_loss
    assert loaded.model.config.heads == model.config.heads and "heads concluded" in loaded.report
    assert all(torch.equal(loaded.model.state_dict()[k], v) for k, v in model.state_dict().items())


def test_an_encoder_without_decoder(mae, tmp_path):
    import timm

    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(ValueError, match=r"vit\.pth: has no decoder"):
        load_mae(tmp_path / "vit.pth")
    backbone, report = load_encoder(tmp_path / "vit.pth")
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), vit.eval()(images), rtol=0, atol=1e-5)
    assert backbone.dim == 192 and len(backbone.blocks) == 12 and "matched 150/150" in report


def test_backbone_of_a_mae(mae, tmp_path):
    save_mae(mae, tmp_path, PREPROCESSOR, card(mae))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        latent = mae.encode_tokens(mae.embed(images))
        token = load_encoder(tmp_path)[0](images)
        average = load_encoder(tmp_path, pool="avg")[0]
        torch.testing.assert_close(token, latent[:, 0], rtol=0, atol=1e-5)
        torch.testing.assert_close(mae.backbone()(images), latent[:, 0], rtol=0, atol=1e-5)
        assert average(images).shape == (2, 48)


def test_another_size_and_a_rectangle(mae, tmp_path):
    save_mae(mae, tmp_path, PREPROCESSOR, card(mae))
    loaded = load_mae(tmp_path, input_size=(48, 24))
    assert loaded.model.grid == (6, 3)
    images, noise = torch.randn(2, 3, 48, 24), torch.rand(2, 18)
    result = loaded.model.reconstruct(images, noise)
    assert result.patches.shape == (2, 18, 192) and torch.isfinite(result.loss)
    save_mae(loaded.model, tmp_path / "rectangle", PREPROCESSOR, "card")
    again = load_mae(tmp_path / "rectangle")
    torch.testing.assert_close(again.model.reconstruct(images, noise).patches, result.patches)
    positions = sincos_2d(16, 4, 4)
    assert torch.equal(resize_positions(positions, (4, 4), (4, 4)), positions)
    assert torch.equal(resize_positions(positions, (4, 4), (6, 3))[:, 0], positions[:, 0])


class Payload:
    def __reduce__(self):
        return (os.mkdir, (os.environ["MARK"],))


def test_a_file_that_would_execute_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MARK", str(tmp_path / "executed"))
    torch.save({"model": {"w": torch.zeros(1)}, "x": Payload()}, tmp_path / "zip.pth")
    (tmp_path / "legacy.pth").write_bytes(pickle.dumps({"model": Payload()}))
    torch.save({"model": Payload()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("zip.pth", "legacy.pth", "old.pth"):
        with pytest.raises(ValueError, match=rf"{name}: (refused|not a readable)"):
            load_mae(tmp_path / name)
    assert not (tmp_path / "executed").exists()
    pickle.loads((tmp_path / "legacy.pth").read_bytes())  # the payload is a real one
    assert (tmp_path / "executed").exists()


def test_wrong_checkpoints_are_named(mae, tmp_path):
    with pytest.raises(
        FileNotFoundError, match="nowhere: no such checkpoint.*nothing is downloaded"
    ):
        load_mae(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="none of model.safetensors"):
        load_mae(tmp_path)
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match="text.pth: "):
        load_mae(tmp_path / "text.pth")
    for text in (
        "<!doctype html><html>",
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    ):
        (tmp_path / "text.pth").write_text(text)
        with pytest.raises(
            ValueError, match="text.pth: a web page or Git LFS pointer, not the checkpoint"
        ):
            load_mae(tmp_path / "text.pth")
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match="not a ViT or masked autoencoder .it holds conv1.weight"):
        load_mae(tmp_path / "resnet.pth")
    save_mae(mae, tmp_path / "good", PREPROCESSOR, "card")
    state = load_file(tmp_path / "good" / "model.safetensors")
    del state["decoder.mask_token"]
    state["stranger"] = torch.zeros(1)
    save_file(state, tmp_path / "good" / "model.safetensors")
    count = len(mae.state_dict())
    with pytest.raises(
        ValueError,
        match=rf"matched {count - 1}/{count} tensors: 1 missing .mask_token.; 1 unexpected",
    ):
        load_mae(tmp_path / "good")
    content = (tmp_path / "good" / "model.safetensors").read_bytes()
    (tmp_path / "good" / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        load_mae(tmp_path / "good")
    (tmp_path / "good" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json: not a JSON file"):
        load_mae(tmp_path / "good")


def test_a_small_file_that_claims_a_huge_tensor_is_refused_by_its_shape(mae, tmp_path):
    state = mae.state_dict() | {"mask_token": torch.zeros(1).expand(1, 1, 10**9)}
    torch.save({"model": {k: v for k, v in state.items()}}, tmp_path / "huge.pth")
    assert (tmp_path / "huge.pth").stat().st_size < 2**20
    assert read_tensors(tmp_path / "huge.pth")["model"]["mask_token"].shape[-1] == 10**9
    with pytest.raises(ValueError, match="huge.pth"):
        load_mae(tmp_path / "huge.pth")


@pytest.mark.parametrize(
    "change, told",
    [
        ({"input_size": (30, 32)}, "not a multiple of the patch size"),
        ({"mask_ratio": 1.0}, "mask ratio 1.0"),
        ({"mask_ratio": 0.99}, "mask ratio 0.99 of 16 patches"),
        ({"heads": 5}, "not a multiple of 5 heads"),
    ],
)
def test_impossible_architectures(change, told):
    with pytest.raises(ValueError, match=told):
        small(**change)


def test_names_of_architectures():
    assert named_config("mae_vit_small_patch16_dec512d2b").decoder_depth == 2
    large = named_config("mae_vit_large_patch16")
    assert (
        large.dim,
        large.depth,
        large.heads,
        large.decoder_dim,
        large.decoder_depth,
        large.decoder_heads,
    ) == (1024, 24, 16, 512, 8, 16)
    assert named_config("mae_vit_huge_patch14").grid == (16, 16)
    with pytest.raises(ValueError, match="expected mae_vit_SIZE_patchP"):
        named_config("vit_large")


def test_card_holds_no_paths():
    recipe = {"model": "m", "data_path": ["/secret/name"], "init_from": "/secret/w.pth", "seed": 1}
    text = mae_card(
        small(), Provenance(recipe=recipe, radiographs=5, step=1, last_step=2, licence="CC BY 4.0")
    )
    assert "/secret" not in text and "CC BY 4.0" in text and "another checkpoint" in text


@pytest.mark.parametrize(
    "card, licence",
    [
        ("---\nlicense: cc-by-nc-4.0\ntags: [x]\n---\n# A\n", "cc-by-nc-4.0"),
        ("---\nlicense: other\nlicense_name: SNUH academic\n---\n", "SNUH academic"),
        ("---\ntags: [x]\n---\nlicense: mit\n", None),
        ("# no front matter\n---\nlicense: mit\n---\n", None),
        ("---\nlicense: [unclosed\n---\n", None),
        ("---\nlicense: [a, b]\n---\n", None),
        ("---\nlicense: 2020-13-45\n---\n", None),
        ("---\nlicense: " + "[" * 3000 + "\n---\n", None),
        (
            "---\na: &a [b, b]\n"
            + "".join(f"{x}: &{x} [*{y}, *{y}]\n" for x, y in zip("bcdefghijk", "abcdefghij"))
            + "license: *k\n---\n",
            None,
        ),
        ("---\nlicense: " + "x" * 9000 + "\n---\n", None),
        ('---\nlicense: "a \\"quoted\\" \\x07 \\u2028name"\n---\n', 'a "quoted" \\x07 name'),
        ("", None),
    ],
)
def test_the_licence_that_a_card_states_is_handed_on(tmp_path, card, licence):
    (tmp_path / "README.md").write_text(card)
    (tmp_path / "model.safetensors").touch()
    assert stated_licence(tmp_path / "model.safetensors") is None  # any folder, any README
    (tmp_path / "config.json").touch()
    assert stated_licence(tmp_path) == stated_licence(tmp_path / "model.safetensors") == licence
    assert backbone_licence(str(tmp_path)) == licence
    assert (
        backbone_licence(f"none:{tmp_path}") is backbone_licence("none:resnet18") is None
    )  # random weights
    text = converted_card("a.pth", "facebook-mae", "5", "hf", True, licence)
    (tmp_path / "README.md").write_text(text)
    assert stated_licence(tmp_path) == licence
    assert ("no licence" in text) == (licence is None)


def test_a_card_tells_licences_and_figures():
    facts = {
        "recipe": {"model": "m", "init_from": "w"},
        "radiographs": 5,
        "step": 1,
        "last_step": 2,
        "licence": "CC0",
    }
    figures = {"training": 0.1234567, "held out": 0.2}
    text = mae_card(small(), Provenance(**facts, initial_licence="CC BY-NC 4.0", figures=figures))
    assert (
        "Initial weights: CC BY-NC 4.0" in text
        and "| training | 0.1235 |\n| held out | 0.2 |" in text
    )
    assert "Initial weights: not stated" in mae_card(small(), Provenance(**facts))
    assert "Initial weights" not in mae_card(
        small(), Provenance(**facts | {"recipe": {"model": "m"}})
    )


@pytest.mark.parametrize("own", [None, "CC0", 'hospital\'s own: "none", yes'])
@pytest.mark.parametrize("initial", [None, "CC BY-NC 4.0"])
def test_licences_reach_the_second_generation(own, initial, tmp_path):
    run = Provenance(
        recipe={"model": "m", "init_from": initial and "w"},
        radiographs=5,
        step=1,
        last_step=2,
        licence=own,
        initial_licence=initial,
    )
    (tmp_path / "README.md").write_text(mae_card(small(), run))
    assert stated_licence(tmp_path) == ("; ".join(filter(None, (initial, own))) or None)
