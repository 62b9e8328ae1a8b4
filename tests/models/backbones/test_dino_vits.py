"""DINOv2 and DINOv3 of transformers, Meta and timm are read as the networks that they are, or refused by name."""

import json
import time

import pytest
import timm
import torch
from dino_oracles import CASES, SIZES, as_meta, chunked, folder_of, oracle, randomised
from safetensors.torch import load_file, save_file

from data.views.preprocessing import Preprocessing
from models.backbones.aliases import read_aliases
from models.backbones.backbone import build_backbone
from models.backbones.dino import dino_backbone, load_initial
from models.backbones.dino_vits import (
    DinoArchitecture,
    DinoV3,
    build_dino,
    named_architecture,
    rope_periods,
)
from models.backbones.finetuned import load_finetuned, save_finetuned
from models.networks.attention_maps import attention_maps, last_attention
from models.networks.bone_age import BoneAge
from models.networks.supervised import Supervised
from models.networks.vit import MultiSizeViT
from models.weights.checkpoint import load_mae
from models.weights.dino_vit_keys import recognise, to_hugging_face, to_timm
from training.optim import parameter_groups

PREPROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": {"height": 70, "width": 70}}


def pixels(size, count=2):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def same(ours, theirs, atol=1e-5):
    torch.testing.assert_close(
        ours, theirs, rtol=0, atol=atol * max(1.0, float(theirs.abs().max()))
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """{case: (network of transformers, its folder)}."""
    root = tmp_path_factory.mktemp("transformers")
    networks = {case: oracle(case) for case in CASES}
    return {case: (network, folder_of(network, root / case)) for case, network in networks.items()}


def family_of(case):
    return case.split("-")[0]


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_of_transformers(written, case):
    theirs, folder = written[case]
    registers = getattr(theirs.config, "num_register_tokens", 0)
    for size in (None, SIZES[family_of(case)][1]):
        backbone = build_backbone(folder, input_size=size)
        assert backbone.input_size == (size or SIZES[family_of(case)][0]) and backbone.pool == "cls"
        assert f"{family_of(case)} checkpoint in the layout of Hugging Face" in backbone.report
        assert "0 missing, 0 unexpected; left out mask_token" in backbone.report
        assert ("positions resampled from 5 x 5" in backbone.report) == (
            size is not None and "dinov2" in case
        )
        x = pixels(backbone.input_size)
        expected = theirs(x).last_hidden_state
        tokens = backbone.tokens(x)
        same(backbone(x), expected[:, 0])
        same(tokens["cls"], expected[:, 0])
        same(tokens["patch"], expected[:, 1 + registers :])  # register tokens are no patches
        same(tokens["mean"], expected[:, 1 + registers :].mean(1))
        same(build_backbone(folder, input_size=size, pool="mean")(x), tokens["mean"])


@pytest.mark.parametrize("case", ["dinov2", "dinov2-giant", "dinov2-registers", "dinov3-plus"])
@torch.no_grad()
def test_names_of_transformers_5_and_of_classifiers(written, case, tmp_path):
    """As its networks call their tensors in memory; below a classifier; and in half precision."""
    theirs, folder = written[case]
    prefix = {"dinov2": "dinov2.", "dinov2-registers": "dinov2_with_registers."}.get(case, "")
    state = {prefix + key: value.clone() for key, value in theirs.state_dict().items()}
    state |= (
        {"classifier.weight": torch.ones(2, 96), "classifier.bias": torch.ones(2)} if prefix else {}
    )
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file(state, tmp_path / "model.safetensors")
    backbone = build_backbone(tmp_path)
    x = pixels(backbone.input_size)
    same(backbone(x), theirs(x).last_hidden_state[:, 0])
    assert ("left out head.bias, head.weight, mask_token" in backbone.report) == bool(prefix)
    torch.save(
        {key: value.half() for key, value in load_file(folder / "model.safetensors").items()},
        tmp_path / "half.pth",
    )
    (tmp_path / "model.safetensors").unlink()
    halved = build_backbone(tmp_path)
    assert halved.network.patch_embed.proj.weight.dtype == torch.float32
    same(halved(x), theirs(x).last_hidden_state[:, 0], atol=0.02)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_of_meta(written, case, tmp_path):
    theirs, folder = written[case]
    meta = as_meta(folder)
    assert recognise(meta) == (family_of(case), "Meta")
    config = {} if "dinov3" in case else {"hidden_size": 48, "num_attention_heads": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    teacher = {f"backbone.{key}": value for key, value in meta.items()}
    heads = {
        "dino_head.mlp.0.weight": torch.ones(2),
        "ibot_head.last_layer.weight_v": torch.ones(3),
    }
    variants = {"plain": meta, "training": {"teacher": teacher | heads}}
    if "dinov2" in case:
        variants["chunks"] = chunked(meta)
    else:
        variants["satellite"] = meta | {
            f"local_cls_norm.{kind}": torch.ones(48) for kind in ("weight", "bias")
        }
    for name, content in variants.items():
        torch.save(content, tmp_path / "weights.pth")
        for size in SIZES[family_of(case)][: 1 + (name == "plain")]:
            backbone = build_backbone(tmp_path, input_size=size)
            x = pixels(size)
            same(backbone.network.forward_features(x), theirs(x).last_hidden_state)
        assert "layout of Meta" in backbone.report and "mask_token" in backbone.report
        assert ("left out 2 tensors outside backbone (dino_head" in backbone.report) == (
            name == "training"
        )
        assert ("local_cls_norm.weight" in backbone.report) == (name == "satellite")


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_from_metas_names_to_those_of_transformers_and_back(written, case):
    """Every tensor comes back as it was, but for the class token of a DINOv2 with registers and its position."""
    theirs, folder = written[case]
    original = load_file(folder / "model.safetensors")
    found = to_timm(as_meta(folder))
    found.state.pop("rope.periods", None)
    back = to_hugging_face(found.state, found.family, "giant" in case, found.mask_token)
    assert set(back) == set(original)
    merged = (
        {"embeddings.cls_token", "embeddings.position_embeddings"} if "registers" in case else set()
    )
    for key in set(original) - merged:
        assert torch.equal(back[key], original[key]), key
    if merged:
        first = back["embeddings.cls_token"][:, 0] + back["embeddings.position_embeddings"][:, 0]
        same(
            first,
            original["embeddings.cls_token"][:, 0]
            + original["embeddings.position_embeddings"][:, 0],
        )
        same(
            back["embeddings.position_embeddings"][:, 1:],
            original["embeddings.position_embeddings"][:, 1:],
        )


TIMM = {
    "dinov2": ("vit_small_patch14_dinov2", {}),
    "dinov2-giant": ("vit_giant_patch14_dinov2", {"mlp_ratio": 5.5}),
    "dinov2-registers": ("vit_small_patch14_reg4_dinov2", {}),
    "dinov2-giant-registers": ("vit_giant_patch14_reg4_dinov2", {"reg_tokens": 3}),
    "dinov3": ("vit_small_patch16_dinov3_qkvb", {"global_pool": "token"}),
    "dinov3-plus": (
        "vit_small_plus_patch16_dinov3_qkvb",
        {"mlp_ratio": 2.5, "global_pool": "token"},
    ),
    "dinov3-7b": ("vit_7b_patch16_dinov3", {"global_pool": "token"}),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_of_timm(case, tmp_path):
    name, changes = TIMM[case]
    native, other = SIZES[family_of(case)]
    small = {
        "embed_dim": 48,
        "depth": 2,
        "num_heads": 3,
        "num_classes": 0,
        "img_size": native[0],
    } | changes
    theirs = randomised(timm.create_model(name, **small))
    save_file(
        {key: value.contiguous() for key, value in theirs.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    arguments = {"num_heads": 3, "img_size": native[0]}
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": name, "model_args": arguments})
    )
    backbone = build_backbone(tmp_path)
    x = pixels(native)
    same(backbone.network.forward_features(x), theirs.forward_features(x))
    same(backbone(x), theirs(x))
    assert "layout of timm" in backbone.report and "left out" not in backbone.report
    resized, x = build_backbone(tmp_path, input_size=other), pixels(other)
    if "dinov2" in case:
        theirs.set_input_size(other)
    if case in (
        "dinov2",
        "dinov2-giant",
    ):  # timm antialiases; Meta and transformers do not without registers
        assert not torch.allclose(theirs.pos_embed, resized.network.pos_embed, atol=1e-3)
        theirs.pos_embed.copy_(resized.network.pos_embed)
    same(resized.network.forward_features(x), theirs.forward_features(x))


@torch.no_grad()
def test_heads_that_a_folder_of_timm_leaves_out_are_those_of_its_architecture(tmp_path):
    """timm's `save_for_hf` notes only the arguments that were given."""
    name, size = "vit_small_patch14_dinov2", {"img_size": 28, "depth": 1}
    for given, heads in (({}, 6), ({"embed_dim": 96}, 6), ({"embed_dim": 96, "num_heads": 2}, 2)):
        theirs = randomised(timm.create_model(name, num_classes=0, **size, **given))
        save_file(theirs.state_dict(), tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(
            json.dumps({"architecture": name, "model_args": size | given})
        )
        backbone = build_backbone(tmp_path)
        assert backbone.network.blocks[0].attn.num_heads == heads
        x = pixels((28, 28))
        same(backbone(x), theirs(x))


@torch.no_grad()
def test_the_periods_of_metas_file_are_kept(written, tmp_path):
    """They are rounded to bfloat16 there. Equal to timm's network with the rounded periods, as its model card says."""
    theirs, folder = written["dinov3"]
    meta = as_meta(folder)
    same(rope_periods(16), meta["rope_embed.periods"], atol=0)
    with pytest.raises(
        ValueError,
        match="w.pth: radiographs are prepared at 72 x 64 pixels, but its network takes 64 x",
    ):
        build_backbone(folder).check_size((72, 64), "w.pth")
    meta["rope_embed.periods"] = rope_periods(16).bfloat16()
    torch.save(meta, tmp_path / "w.pth")
    backbone, x = build_backbone(tmp_path / "w.pth"), pixels((224, 224))
    assert (
        backbone.network.architecture.heads == 3
        and "differ from those of float32 by up to 0.00" in backbone.report
    )
    small = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0, "mlp_ratio": 104.5 / 48}
    other = timm.create_model("vit_small_patch16_dinov3_qkvb", **small).eval()
    other.load_state_dict(
        {k: v for k, v in backbone.network.state_dict().items() if k != "rope.periods"}
    )
    other.rope.periods = rope_periods(16).bfloat16().float()
    same(backbone.network.forward_features(x), other.forward_features(x))
    assert (
        float((backbone.network.forward_features(x) - theirs(x).last_hidden_state).abs().max())
        > 1e-4
    )
    model = Supervised(
        backbone, "binary", 1
    ).eval()  # and wherever its fine-tuned network is built again
    save_finetuned(model, tmp_path / "tuned", PREPROCESSOR, {}, "card")
    assert torch.equal(load_finetuned(tmp_path / "tuned").model.predict(x), model.predict(x))
    same(build_backbone(tmp_path / "tuned")(x), backbone(x), atol=0)


def changed(folder, out, change=None, **config):
    """A copy of a folder of transformers with other tensors or another config.json."""
    out.mkdir()
    state = load_file(folder / "model.safetensors")
    if change:
        change(state)
    save_file(state, out / "model.safetensors")
    (out / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | config)
    )
    return out


REFUSED = [
    ("dinov2", lambda s: s.pop("layernorm.bias"), {}, r"1 missing \(norm.bias\)"),
    ("dinov2", lambda s: s.pop("embeddings.cls_token"), {}, r"1 missing \(cls_token\)"),
    ("dinov2", lambda s: s.pop("embeddings.position_embeddings"), {}, "lacks pos_embed"),
    (
        "dinov2",
        lambda s: s.pop("encoder.layer.1.attention.attention.key.weight"),
        {},
        r"1 missing \(blocks.1.attn.qkv.weight\); 2 unexpected \(encoder.layer.1.attention.attention.query.weight, ",
    ),
    (
        "dinov2",
        lambda s: s.update({"encoder.layer.0.attention.k_proj.bias": torch.ones(48)}),
        {},
        "are the same tensor",
    ),
    (
        "dinov2",
        lambda s: s.update({"encoder.layer.0.mlp.weights_in.bias": torch.ones(96)}),
        {},
        "two tensors are called",
    ),
    ("dinov2", lambda s: s.update(extra=torch.ones(2)), {}, r"1 unexpected \(extra\)"),
    (
        "dinov2",
        lambda s: s.update({"encoder.layer.0.attention.q_norm.weight": torch.ones(2)}),
        {},
        "q_norm.weight",
    ),
    (
        "dinov2",
        lambda s: s.update({"layernorm.bias": torch.ones(47)}),
        {},
        r"norm.bias \(47,\) instead of \(48,\)",
    ),
    ("dinov2", lambda s: s["layernorm.bias"].fill_(float("nan")), {}, "NaN"),
    ("dinov2", None, {"patch_size": 16}, "patch_size 16; the weights have 14"),
    (
        "dinov2",
        None,
        {"image_size": 84},
        "26 positions; pictures of 84 x 84 with patches of 14 have 37",
    ),
    ("dinov2", None, {"num_attention_heads": 5}, "width 48 with 5 heads"),
    ("dinov2", None, {"hidden_act": "relu"}, "hidden_act 'relu'; expected gelu"),
    ("dinov2", None, {"model_type": "dinov3_vit"}, "model_type 'dinov3_vit'; expected dinov2 or"),
    (
        "dinov2-registers",
        None,
        {"num_register_tokens": 8},
        "num_register_tokens 8; the weights have 4",
    ),
    (
        "dinov2-registers",
        lambda s: s.pop("embeddings.register_tokens"),
        {},
        "tokens 4; the weights have 0",
    ),
    (
        "dinov3",
        lambda s: s.update({"layer.0.attention.k_proj.bias": torch.ones(48)}),
        {},
        "layer.0.attention.k_proj",
    ),
    (
        "dinov3",
        lambda s: s.pop("layer.1.mlp.up_proj.bias"),
        {},
        r"1 missing \(blocks.1.mlp.fc1.bias\)",
    ),
    (
        "dinov3",
        lambda s: s.pop("layer.1.attention.q_proj.bias"),
        {},
        r"1 missing \(blocks.1.attn.q_bias\)",
    ),
    ("dinov3", None, {"patch_size": 14}, "patch_size 14; the weights have 16"),
    ("dinov3", None, {"image_size": 8}, "input size 8 is not a multiple of the patch size 16"),
    ("dinov3", None, {"num_register_tokens": 3}, "num_register_tokens 3; the weights have 4"),
    ("dinov3", None, {"intermediate_size": 96}, "intermediate_size 96; the weights have 104"),
    (
        "dinov3",
        None,
        {"num_attention_heads": 8},
        "width 48 with 8 heads: not a multiple of 4 in each",
    ),
    ("dinov3-plus", None, {"hidden_act": "gelu"}, "hidden_act 'gelu'; expected silu"),
]


@pytest.mark.parametrize(
    "case, change, config, told", REFUSED, ids=[f"{r[0]}-{i}" for i, r in enumerate(REFUSED)]
)
def test_what_does_not_fit_is_refused_by_name(written, tmp_path, case, change, config, told):
    folder = changed(written[case][1], tmp_path / "changed", change, **config)
    with pytest.raises(ValueError, match=told) as caught:
        build_backbone(folder)
    assert str(folder) in str(caught.value) and len(str(caught.value)) < 500


def without_mask(meta):
    del meta["blocks.1.attn.qkv.bias_mask"]


META_REFUSED = [
    ("dinov3", without_mask, "blocks.1.attn.qkv.bias: the part of the key is not masked"),
    (
        "dinov3",
        lambda m: m["blocks.0.attn.qkv.bias_mask"].fill_(float("nan")),
        "blocks.0.attn.qkv.bias: the part",
    ),
    (
        "dinov3",
        lambda m: m.update({"blocks.0.attn.qkv.bias_mask": torch.ones(3)}),
        "bias_mask do not fit each other",
    ),
    ("dinov3", lambda m: m.pop("storage_tokens"), r"1 missing \(reg_token\)|expected"),
    (
        "dinov3",
        lambda m: m.update({"cls_norm.weight": torch.ones(48)}),
        r"1 unexpected \(cls_norm.weight\)",
    ),
    (
        "dinov3",
        lambda m: m.update({"rope_embed.periods": torch.zeros(4)}),
        "periods are not all above 0",
    ),
    (
        "dinov3",
        lambda m: m.update({"rope_embed.periods": torch.ones(5)}),
        "width 48 belongs to no release",
    ),
    (
        "dinov3-plus",
        lambda m: m.pop("blocks.1.mlp.w2.weight"),
        r"1 missing \(blocks.1.mlp.fc1_x.weight\)",
    ),
    (
        "dinov2-giant",
        lambda m: m.pop("blocks.1.mlp.w3.bias"),
        r"1 missing \(blocks.1.mlp.fc2.bias\)",
    ),
    (
        "dinov2-registers",
        lambda m: m.pop("blocks.0.ls2.gamma"),
        r"1 missing \(blocks.0.ls2.gamma\)",
    ),
    (
        "dinov2",
        lambda m: m.update({"pos_embed": torch.ones(1, 24, 48)}),
        "pos_embed has 24 positions",
    ),
    (
        "dinov2",
        lambda m: m.update({"blocks.0.0.norm1.bias": torch.ones(48)}),
        "two tensors are called blocks.0.norm1",
    ),
]


@pytest.mark.parametrize(
    "case, change, told", META_REFUSED, ids=[f"{r[0]}-{i}" for i, r in enumerate(META_REFUSED)]
)
def test_what_does_not_fit_in_metas_layout_is_refused(written, tmp_path, case, change, told):
    meta = as_meta(written[case][1])
    change(meta)
    torch.save(meta, tmp_path / "w.pth")
    if "dinov2" in case:
        (tmp_path / "config.json").write_text(
            json.dumps({"hidden_size": 48, "num_attention_heads": 3, "image_size": 70})
        )
    if told.endswith("|expected"):  # a DINOv3 without registers is one, too
        assert build_backbone(tmp_path / "w.pth").network.num_prefix_tokens == 1
        return
    with pytest.raises(ValueError, match=told):
        build_backbone(tmp_path if "dinov2" in case else tmp_path / "w.pth")


PROCESSORS = {  # as transformers writes them for its two families
    "dinov2": {
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5307] * 3,
        "image_processor_type": "BitImageProcessor",
        "image_std": [0.2583] * 3,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": 256},
    },
    "dinov3": {
        "crop_size": None,
        "data_format": "channels_first",
        "default_to_square": True,
        "device": None,
        "do_center_crop": None,
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "image_processor_type": "DINOv3ViTImageProcessorFast",
        "input_data_format": None,
        "resample": 2,
        "return_tensors": None,
        "rescale_factor": 1 / 255,
        "size": {"height": 224, "width": 224},
    },
}


@pytest.mark.parametrize("case", PROCESSORS)
def test_the_preprocessing_of_transformers_is_taken(written, case, tmp_path):
    """Mean, SD and interpolation; the size is the network's own."""
    folder = changed(written[case][1], tmp_path / "in")
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[case]))
    backbone = build_backbone(folder)
    found = Preprocessing.from_dict(backbone.preprocessing)
    assert found.mean == tuple(PROCESSORS[case]["image_mean"]) and found.std == tuple(
        PROCESSORS[case]["image_std"]
    )
    assert (found.height, found.width) == backbone.input_size == SIZES[case][0]
    assert (
        found.interpolation == {"dinov2": "bicubic", "dinov3": "bilinear"}[case]
        and found.resize == "squash"
    )


CONFIG_KEYS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "image_size",
    "layer_norm_eps",
    "hidden_act",
    "num_register_tokens",
    "num_channels",
    "rope_theta",
    "model_args",
    "architecture",
    "backbone",
    "pretrained_cfg",
)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["dinov2-registers", "dinov3-plus"])
def test_values_of_config_json_without_meaning_are_one_sentence(written, tmp_path, case):
    folder = changed(written[case][1], tmp_path / "in")
    config = json.loads((folder / "config.json").read_text())
    refused = 0
    for base in (config, {}):
        for key in CONFIG_KEYS:
            for value in (
                None,
                "x",
                -1,
                0,
                1e999,
                10**9,
                [],
                {},
                [[1]],
                True,
                float("nan"),
                {"dino": {}},
                {"dino": 1},
                {"num_heads": 5, "img_size": -1},
                {"input_size": [3, "x", 1]},
            ):
                (folder / "config.json").write_text(json.dumps(base | {key: value}))
                try:
                    build_backbone(folder)
                except ValueError as error:
                    assert str(folder) in str(error) and len(str(error).splitlines()) == 1, error
                    refused += 1
    assert refused > 150


def test_a_small_file_that_claims_a_huge_network_takes_no_memory(tmp_path):
    """A width and a depth that are in the file, and tensors of the blocks that are not: 10^12 numbers."""
    wide = {
        "patch_embed.proj.weight": torch.zeros(16_384, 3, 1, 1),
        "blocks.0.mlp.fc1.weight": torch.zeros(2, 16_384),
        "blocks.0.mlp.fc2.weight": torch.zeros(16_384, 2),
    }
    scales = {f"blocks.{number}.ls1.gamma": torch.zeros(1) for number in range(60)}
    second = wide | scales | {"pos_embed": torch.zeros(1, 2, 1), "mask_token": torch.zeros(1)}
    third = wide | scales | {"rope_embed.periods": torch.ones(128)}
    for state, told in (
        (second, "width 16384 belongs to no release"),
        (third, r"matched \d+/\d+ tensors: \d+ missing"),
    ):
        torch.save(state, tmp_path / "w.pth")
        began = time.process_time()
        with pytest.raises(ValueError, match=told) as caught:
            build_backbone(tmp_path / "w.pth")
        assert time.process_time() - began < 5 and len(str(caught.value)) < 1000
    wanted = caught.traceback[-1].frame.f_locals["wanted"]
    assert {value.device.type for value in wanted.values()} == {"meta"} and len(wanted) > 600


def test_another_patch_or_number_of_registers_is_read_as_it_is(tmp_path):
    for case, changes, patch, registers in (
        ("dinov2", {"patch_size": 16, "image_size": 64}, 16, 0),
        ("dinov2-registers", {"num_register_tokens": 7}, 14, 7),
        ("dinov3", {"patch_size": 8, "num_register_tokens": 1}, 8, 1),
    ):
        theirs = oracle(case, **changes)
        backbone = build_backbone(folder_of(theirs, tmp_path / case))
        x = pixels(backbone.input_size)
        assert backbone.network.patch_embed.patch_size == (patch, patch)
        assert backbone.network.num_prefix_tokens == 1 + registers
        with torch.no_grad():
            same(backbone(x), theirs(x).last_hidden_state[:, 0])
        with pytest.raises(
            ValueError, match=rf"input size 72?1? is not a multiple of the patch size {patch}"
        ):
            build_backbone(
                tmp_path / case, input_size=(721 if patch == 8 else 72 + (patch == 8), 8 * patch)
            )


def test_a_file_without_a_config_needs_a_known_width(written, tmp_path):
    torch.save(as_meta(written["dinov2"][1]), tmp_path / "w.pth")
    with pytest.raises(
        ValueError,
        match="width 48 belongs to no release .*config.json says hidden_size and num_atten",
    ):
        build_backbone(tmp_path / "w.pth")
    known = build_dino(
        DinoArchitecture("dinov2", (28, 28), 14, 384, 1, 6, 384, False, 0, True, 1e-6)
    )
    torch.save(known.state_dict() | {"mask_token": torch.zeros(1, 384)}, tmp_path / "w.pth")
    backbone = build_backbone(tmp_path / "w.pth")
    assert "6 heads concluded from width 384" in backbone.report and backbone.input_size == (28, 28)


def test_a_name_that_is_another_network_is_refused(written, tmp_path):
    torch.save(as_meta(written["dinov3"][1]), tmp_path / "w.pth")
    with pytest.raises(
        ValueError,
        match="another network than vit_small_patch16_dinov3: dim 48 instead of 384, depth 2",
    ):
        build_backbone(f"vit_small_patch16_dinov3@{tmp_path / 'w.pth'}")
    with pytest.raises(
        ValueError,
        match="another network than vit_small_patch14_dinov2: family dinov3 instead of dinov2",
    ):
        build_backbone(f"vit_small_patch14_dinov2@{tmp_path / 'w.pth'}")
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "vit_small_patch16_dinov3.nowhere"})
    )
    with pytest.raises(
        ValueError, match=f"{tmp_path}: 'vit_small_patch16_dinov3.nowhere' is not a network of timm"
    ):
        build_backbone(tmp_path)
    with pytest.raises(ValueError, match="has no decoder .an encoder only, dinov3"):
        load_mae(tmp_path / "w.pth")


def test_layer_scale_alone_makes_no_dino():
    with torch.device("meta"):
        for name in ("deit3_small_patch16_224", "beit_base_patch16_224", "eva02_tiny_patch14_224"):
            assert recognise(timm.create_model(name, depth=1).state_dict()) is None, name
    assert recognise({}) is None


@torch.no_grad()
def test_an_oblong_grid_whose_positions_are_a_square_number(written, tmp_path):
    """3 x 5 patches and a class token are 16: a fine-tuned network is still known as the DINOv2 that it is."""
    backbone = build_backbone(written["dinov2"][1], input_size=(42, 70))
    assert (
        backbone.network.pos_embed.shape[1] == 16
        and recognise(backbone.network.state_dict()) is None
    )
    save_finetuned(Supervised(backbone, "binary", 1), tmp_path, PREPROCESSOR, {}, "card")
    x = pixels((42, 70))
    same(build_backbone(tmp_path)(x), backbone(x), atol=0)
    same(load_finetuned(tmp_path).model.backbone(x), backbone(x), atol=0)


@pytest.mark.parametrize("case", ["dinov2", "dinov2-giant-registers", "dinov3", "dinov3-7b"])
def test_they_learn_with_layer_decay_and_stochastic_depth_and_are_kept(written, case, tmp_path):
    torch.manual_seed(0)
    backbone = build_backbone(written[case][1], drop_path=0.5)
    model = Supervised(backbone, "binary", 1)
    groups = parameter_groups(model, 0.5)
    assert sorted({group["lr_scale"] for group in groups}) == [
        0.125,
        0.25,
        0.5,
        1.0,
    ]  # embedding, 2 blocks, head
    slow = {id(p) for group in groups if group["lr_scale"] == 0.125 for p in group["params"]}
    network = backbone.network
    embedding = [
        network.cls_token,
        network.patch_embed.proj.weight,
        network.pos_embed,
        network.reg_token,
    ]
    assert slow == {id(p) for p in (*embedding, network.patch_embed.proj.bias) if p is not None}
    steady = {
        id(p) for group in groups if group["weight_decay_scale"] == 0.0 for p in group["params"]
    }
    vectors = {
        id(p)
        for n, p in model.named_parameters()
        if p.ndim == 1 or n.endswith(("_token", "pos_embed"))
    }
    assert steady == vectors
    x = pixels(backbone.input_size, 4)
    model.train()
    assert not torch.equal(backbone(x), backbone(x))  # blocks are dropped
    model({"image": x, "target": torch.tensor([0.0, 1.0, 0.0, 1.0])})["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    torch.optim.SGD(model.parameters(), 0.1).step()
    model.eval()
    save_finetuned(model, tmp_path, PREPROCESSOR, {}, "card")
    assert torch.equal(load_finetuned(tmp_path).model.predict(x), model.predict(x))
    again = build_backbone(tmp_path)
    with torch.no_grad():
        same(again(x), backbone(x), atol=0)
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value, told in (
        ("heads", 0, "heads 0; expected 1"),
        ("family", "dino", "family 'dino'"),
        ("gated", 1, "gated '1'; expected true or false"),
        ("depth", 9, "missing"),
        ("more", 1, "missing or unknown 'more'"),
        ("eps", 2, "eps '2'"),
    ):
        told_config = config | {
            "backbone": config["backbone"] | {"dino": config["backbone"]["dino"] | {key: value}}
        }
        (tmp_path / "config.json").write_text(json.dumps(told_config))
        with pytest.raises(ValueError, match=told):
            load_finetuned(tmp_path)


@pytest.mark.parametrize("case", ["dinov2-registers", "dinov3"])
def test_bone_age_pools_their_patches(written, case, tmp_path):
    backbone = build_backbone(written[case][1], input_size=SIZES[family_of(case)][1])
    model = BoneAge(backbone).eval()
    x = pixels(backbone.input_size)
    assert torch.equal(model._tokens(x), backbone.tokens(x)["patch"])
    sex = torch.tensor([[1.0], [0.0]])
    model({"image": x, "target": torch.tensor([90.0, 120.0]), "extra": sex})["loss"].backward()
    save_finetuned(model, tmp_path, PREPROCESSOR, {}, "card")
    again = load_finetuned(tmp_path).model
    assert torch.equal(again.predict(x, sex)[:, 0], model.predict(x, sex)[:, 0])


@pytest.mark.parametrize("case", ["dinov2", "dinov2-registers", "dinov3", "dinov3-7b"])
@torch.no_grad()
def test_attention_is_that_of_transformers(written, case):
    theirs, folder = written[case]
    theirs.set_attn_implementation("eager")
    size = SIZES[family_of(case)][1]
    backbone, x = build_backbone(folder, input_size=size), pixels(size)
    expected = theirs(x, output_attentions=True).attentions[-1]
    theirs.set_attn_implementation("sdpa")
    same(last_attention(backbone, x), expected)
    prefix = 1 + getattr(theirs.config, "num_register_tokens", 0)
    rows, columns = (side // theirs.config.patch_size for side in size)
    maps = attention_maps(backbone, x)
    assert maps.shape == (2, 3, rows, columns) and expected.std() > 0.01
    same(maps.flatten(2), expected[:, :, 0, prefix:])


@torch.no_grad()
def test_training_with_dino_starts_from_a_dinov2(written, tmp_path):
    theirs, folder = written["dinov2"]
    backbone = MultiSizeViT((70, 70), 14, 48, 2, 3, mlp_ratio=2).eval()
    report = load_initial(backbone, folder)
    assert (
        "matched 34/34" in report and "its layer scale is multiplied into the projections" in report
    )
    x = pixels((70, 70))
    same(backbone(x), theirs(x).last_hidden_state[:, 0])
    for case, told in (
        ("dinov2-registers", "it has 4 register tokens"),
        ("dinov2-giant", "its MLPs are SwiGLU"),
        ("dinov3", "DINOv3 has rotary positions"),
    ):
        backbone.patch_embed.img_size = SIZES[family_of(case)][0]
        with pytest.raises(
            ValueError, match=f"training with DINO cannot start from it: {told}"
        ) as caught:
            load_initial(backbone, written[case][1])
        assert str(written[case][1]) in str(caught.value)
    with pytest.raises(ValueError, match="do not fit the network of --arch, of width 192"):
        load_initial(dino_backbone("vit_tiny", 14, 70), folder)


def test_random_twins(written):
    theirs, folder = written["dinov3"]
    twin = build_backbone(f"none:{folder}")
    trained = build_backbone(folder)
    assert {k: v.shape for k, v in twin.network.state_dict().items()} == {
        k: v.shape for k, v in trained.network.state_dict().items()
    }
    assert (
        not torch.equal(twin.network.cls_token, trained.network.cls_token)
        and "drawn anew" in twin.report
    )
    named = build_backbone("none:vit_small_patch16_dinov3_qkvb", input_size=(32, 48))
    assert (
        isinstance(named.network, DinoV3) and named.pool == "cls" and named.input_size == (32, 48)
    )


ALIASES = {  # dim, depth, heads, width inside the MLP, gated; of facebookresearch/dinov2 and facebookresearch/dinov3
    "dinov2-s": (384, 12, 6, 1536, False),
    "dinov2-b": (768, 12, 12, 3072, False),
    "dinov2-l": (1024, 24, 16, 4096, False),
    "dinov2-g": (1536, 40, 24, 4096, True),
    "rad-dino": (768, 12, 12, 3072, False),
    "dinov3-s": (384, 12, 6, 1536, False),
    "dinov3-splus": (384, 12, 6, 1536, True),
    "dinov3-b": (768, 12, 12, 3072, False),
    "dinov3-l": (1024, 24, 16, 4096, False),
    "dinov3-hplus": (1280, 32, 20, 5120, True),
    "dinov3-7b": (4096, 40, 32, 8192, True),
}


LARGE = ("dinov2-l", "dinov2-g", "dinov3-l", "dinov3-hplus", "dinov3-7b")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in ALIASES]
)
def test_aliases_are_the_released_networks(name):
    aliases = read_aliases()
    found = named_architecture(aliases[name].architecture, aliases[name].input_size)
    assert (found.dim, found.depth, found.heads, found.hidden, found.gated) == ALIASES[name]
    third = "dinov3" in name
    assert (found.patch_size, found.registers) == ((16, 4) if third else (14, 0))
    assert found.input_size == ((518, 518) if name == "rad-dino" else (224, 224))
    assert found.qkv_bias == (name != "dinov3-7b") and found.eps == (1e-5 if third else 1e-6)
    if name.startswith("dinov2"):
        registers = named_architecture(aliases[f"{name}-reg"].architecture, (224, 224))
        assert (registers.dim, registers.registers) == (found.dim, 4)
