"""Backbones by name: equal to timm and transformers on the same weights, and errors that say what to do."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from data.views.preprocessing import Preprocessing
from models.backbones.aliases import read_aliases
from models.backbones.backbone import Backbone, build_backbone
from models.backbones.names import cached_folder, find, named_backbones
from models.networks.mae import MAEConfig, MaskedAutoencoder
from models.networks.supervised import Supervised
from models.weights.checkpoint import save_mae
from training.optim import parameter_groups

PREPROCESSOR = Preprocessing(32, 32, "percentile", mean=(0.4,) * 3, std=(0.3,) * 3).to_dict()


def images(count=2, side=64, seed=0):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def same(ours, theirs, atol=2e-5):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@pytest.fixture
def mae():
    torch.manual_seed(0)
    config = MAEConfig(
        input_size=(32, 32),
        patch_size=8,
        dim=48,
        depth=2,
        heads=3,
        decoder_dim=32,
        decoder_depth=1,
        decoder_heads=1,
    )
    return MaskedAutoencoder(config).eval()


@pytest.fixture
def folder(mae, tmp_path):
    save_mae(mae, tmp_path / "mae", PREPROCESSOR, "card")
    return tmp_path / "mae"


def saved(network, path):
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    return path


def random_timm(name, seed=0, **arguments):
    """A model with running statistics and vectors that are not the neutral ones."""
    torch.manual_seed(seed)
    network = timm.create_model(name, **arguments).eval()
    for value in network.state_dict().values():
        if value.is_floating_point() and value.ndim <= 1:
            value += 0.1 * torch.rand_like(value)
    return network


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"reg_tokens": 2},
        {"pre_norm": True, "no_embed_class": True},
        {"init_values": 0.1},
        {"qk_norm": True},
        {"drop_path_rate": 0.3},
        {"attn_drop_rate": 0.3},
        {"proj_drop_rate": 0.3},
        {"drop_rate": 0.3},
        {"depth": 1},
        {"global_pool": "avg", "fc_norm": False},
    ],
)
@pytest.mark.parametrize("fused", [False, True])
def test_the_class_token_alone_is_what_the_whole_network_gives(arguments, fused):
    """Output and gradients equal timm's, whether the last block is cut down or, where it is not plain, is not."""
    changed = {"depth": 3, "embed_dim": 48, "num_heads": 3, "num_classes": 0} | arguments
    network = random_timm("vit_tiny_patch16_224", img_size=64, **changed)
    for block in network.blocks:
        block.attn.fused_attn = fused
    backbone = Backbone(network, "cls", (64, 64)).eval()
    special = {"init_values", "qk_norm", "attn_drop_rate", "proj_drop_rate", "drop_rate"}
    assert backbone._class_token_alone == (not special & set(arguments))
    pictures = images(3, 64)

    def gradients(outputs):
        network.zero_grad()
        (outputs * torch.arange(48.0)).sum().backward()
        return {name: value.grad for name, value in network.named_parameters()}

    whole, alone = network.forward_features(pictures)[:, 0], backbone(pictures)
    same(alone, whole)
    expected, found = gradients(whole), gradients(alone)
    assert all(value is not None for value in found.values())
    for name, value in expected.items():
        same(found[name], value, atol=1e-4 * max(1.0, float(value.abs().max())))
    if (
        "drop_path_rate" in arguments
    ):  # while training: the same parts of the same radiographs are dropped
        backbone.train()
        torch.manual_seed(5)
        whole = network.forward_features(pictures)[:, 0]
        torch.manual_seed(5)
        same(backbone(pictures), whole)
        assert not torch.allclose(whole, backbone.eval()(pictures), atol=1e-3)


def test_the_class_token_of_another_forward_pass_is_left_to_it():
    distilled = random_timm("deit_tiny_distilled_patch16_224", img_size=64, num_classes=0, depth=2)
    assert not Backbone(distilled, None, (64, 64))._class_token_alone
    assert not Backbone(random_timm("resnet18", num_classes=0))._class_token_alone


@torch.no_grad()
def test_an_encoder_of_ours(mae, folder):
    backbone = build_backbone(folder)
    assert (backbone.dim, backbone.pool, backbone.input_size) == (48, "cls", (32, 32))
    assert (
        "matched 30/30 encoder tensors, 0 missing, 0 unexpected; left out 20 of" in backbone.report
    )
    assert not backbone.training
    x = images(3, 32)
    latent = mae.encode_tokens(mae.embed(x))
    same(backbone(x), latent[:, 0])
    same(build_backbone(str(folder), pool="mean")(x), latent[:, 1:].mean(1))
    assert Preprocessing.from_dict(backbone.preprocessing) == Preprocessing.from_dict(PREPROCESSOR)


@torch.no_grad()
def test_another_input_size_is_told_to_the_preprocessing(mae, folder):
    from models.weights.checkpoint import load_encoder

    backbone = build_backbone(folder, input_size=(48, 24))
    x = torch.randn(2, 3, 48, 24)
    same(backbone(x), load_encoder(folder, input_size=(48, 24))[0](x))
    ready = Preprocessing.from_dict(backbone.preprocessing)
    assert (ready.height, ready.width, ready.intensity, ready.mean[0]) == (
        48,
        24,
        "percentile",
        0.4,
    )
    with pytest.raises(ValueError, match="not a multiple of the patch size 8"):
        build_backbone(folder, input_size=(50, 24))


@pytest.mark.parametrize(
    "name, side, depth",
    [
        ("vit_tiny_patch16_224", 224, 12),
        ("resnet18", 64, 4),
        ("convnext_atto", 64, 4),
        ("tf_efficientnet_lite0", 64, 7),
    ],
)
@torch.no_grad()
def test_timm_networks_from_a_file(name, side, depth, tmp_path):
    theirs = random_timm(name)
    path = saved(theirs, tmp_path / "weights.safetensors")
    backbone = build_backbone(f"{name}@{path}")
    x = images(2, side)
    expected = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
    same(backbone(x), expected)
    assert backbone(x).shape == (2, backbone.dim)
    assert "0 missing, 0 unexpected; left out the classifier" in backbone.report
    assert Preprocessing.from_dict(backbone.preprocessing).mean == theirs.pretrained_cfg["mean"]
    assert len(backbone.layers) == 1 + depth
    groups = parameter_groups(Supervised(backbone, "binary", 1), 0.5)
    assert len(groups) == 2 * (
        1 + depth + 1
    )  # the embedding, the layers, and the head with what follows them


@torch.no_grad()
def test_positions_of_a_timm_transformer_are_resampled(tmp_path):
    path = saved(random_timm("vit_tiny_patch16_224"), tmp_path / "w.safetensors")
    backbone, native = (
        build_backbone(f"vit_tiny_patch16_224@{path}", input_size=s) for s in ((96, 64), None)
    )
    assert backbone.input_size == (96, 64) and backbone(torch.zeros(1, 3, 96, 64)).shape == (1, 192)
    grid = native.network.pos_embed[:, 1:].reshape(1, 14, 14, 192).permute(0, 3, 1, 2)
    wanted = (
        torch.nn.functional.interpolate(grid, size=(6, 4), mode="bicubic")
        .permute(0, 2, 3, 1)
        .flatten(1, 2)
    )
    same(backbone.network.pos_embed[:, 1:], wanted)
    same(backbone.network.pos_embed[:, :1], native.network.pos_embed[:, :1])
    other = random_timm(
        "vit_tiny_patch16_224", img_size=96
    )  # a file of another size than timm's own
    path = saved(other, tmp_path / "other.safetensors")
    same(
        build_backbone(f"vit_tiny_patch16_224@{path}", input_size=(96, 96)).network.pos_embed,
        other.pos_embed,
        0,
    )
    assert build_backbone(f"vit_tiny_patch16_224@{path}").network.pos_embed.shape == (1, 197, 192)
    with pytest.raises(ValueError, match="input size 100 is not a multiple of the patch size 16"):
        build_backbone("none:vit_tiny_patch16_224", input_size=(100, 96))


@torch.no_grad()
def test_vits_of_transformers(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification, ViTModel

    config = ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
        num_labels=3,
    )
    torch.manual_seed(0)
    classifier, bare = ViTForImageClassification(config).eval(), ViTModel(config).eval()
    x = images(2, 32)
    for theirs, name in ((classifier, "classifier"), (bare, "bare")):
        torch.nn.init.normal_(
            next(p for n, p in theirs.named_parameters() if n.endswith("position_embeddings"))
        )
        theirs.save_pretrained(tmp_path / name)
        body = theirs.vit if name == "classifier" else theirs
        same(build_backbone(tmp_path / name)(x), body(x).last_hidden_state[:, 0])
    told = alias_file(
        tmp_path, "a: {weights: bare, get: x, licence: y, architecture: vit_tiny_patch16_224}"
    )
    same(
        build_backbone("a", aliases=told)(x), bare(x).last_hidden_state[:, 0]
    )  # whose layout it is, the file says
    head = classifier.classifier
    same(head(build_backbone(tmp_path / "classifier")(x)), classifier(x).logits)


@torch.no_grad()
def test_a_resnet_of_transformers(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    theirs = ResNetForImageClassification(ResNetConfig()).eval()  # 50 layers
    for value in theirs.state_dict().values():
        if value.is_floating_point() and value.ndim == 1:
            value += 0.1 * torch.rand_like(value)
    theirs.save_pretrained(tmp_path)
    x, backbone = images(2, 64), build_backbone(tmp_path)
    expected = theirs.resnet(x).pooler_output.flatten(1)
    same(backbone(x), expected, atol=1e-5 * float(expected.abs().max()))
    assert "timm resnet50" in backbone.report


@pytest.mark.parametrize("prefix", ["module.encoder_q.", "module.backbone."])
def test_self_supervised_learners_give_their_network(prefix, tmp_path):
    theirs = random_timm("resnet18", num_classes=0)
    state = {
        prefix + k: v
        for k, v in theirs.state_dict().items()
        if "backbone" not in prefix or "num_batches" not in k
    }
    own = prefix.split(".")[-2]
    beside = {
        "encoder_q": (
            "module.encoder_q.fc.0.weight",
            "module.queue",
            "module.encoder_k.conv1.weight",
        ),
        "backbone": ("head.mlp.0.weight", "head.last_layer.weight_g", "extra"),
    }[own]
    content = state | {key: torch.zeros(2) for key in beside}
    torch.save(
        {"state_dict" if own == "encoder_q" else "teacher": content, "epoch": 3}, tmp_path / "w.pth"
    )
    backbone = build_backbone(tmp_path / "w.pth")
    assert "timm resnet18, matched 120/120" in backbone.report
    with torch.no_grad():
        same(backbone(images()), theirs(images()))


@torch.no_grad()
def test_the_names_of_facebooks_convnext(tmp_path):
    theirs = random_timm("convnext_tiny", num_classes=0)
    renamed = {}
    for key, value in theirs.state_dict().items():
        key = key.replace(".blocks.", ".").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        key = key.replace("stem.", "downsample_layers.0.").replace("head.norm", "norm")
        parts = key.split(".")
        if "downsample" in parts:
            key = f"downsample_layers.{parts[1]}.{'.'.join(parts[3:])}"
        renamed[f"backbone.{key}"] = value
    torch.save({"teacher": renamed}, tmp_path / "w.pth")
    same(build_backbone(tmp_path / "w.pth")(images()), theirs(images()))


def alias_file(tmp_path, text):
    (tmp_path / "configs").mkdir(exist_ok=True)
    path = tmp_path / "configs" / "backbones.yaml"
    path.write_text(text)
    return path


ALIAS = """
lite:
  weights: models/lite
  get: w.pth of nowhere
  licence: CC0
  architecture: resnet10t
  match: position
  preprocessing: {mean: [0, 0, 0], std: [1, 1, 1], intensity: neglog, intensity_options: {complement: true}}
  recipe: {lr: 5.0e-4, layer_decay: 1}
"""


@torch.no_grad()
def test_an_alias_by_position(tmp_path):
    path = alias_file(tmp_path, ALIAS)
    with pytest.raises(
        FileNotFoundError, match="no weights at .*models/lite. Put there w.pth of nowhere .licence"
    ):
        build_backbone("lite", aliases=path)
    theirs = random_timm("resnet10t")
    (tmp_path / "models" / "lite").mkdir(parents=True)
    tensors = {
        f"_t{i}": v
        for i, (k, v) in enumerate(theirs.state_dict().items())
        if "num_batches" not in k
    }
    torch.save(tensors, tmp_path / "models" / "lite" / "w.pth")
    backbone = build_backbone("lite", aliases=path)
    same(
        backbone(images()), theirs.forward_head(theirs.forward_features(images()), pre_logits=True)
    )
    assert backbone.recipe == {"lr": 5e-4, "layer_decay": 1} and "by position" in backbone.report
    ready = Preprocessing.from_dict(backbone.preprocessing)
    assert (ready.intensity, ready.intensity_options, ready.mean) == (
        "neglog",
        {"complement": True},
        (0, 0, 0),
    )
    assert (
        build_backbone("none:lite", aliases=path).recipe == backbone.recipe
    )  # its random twin, the same recipe
    names = list(tensors)
    swapped = {names[3]: tensors[names[3]], **tensors}
    torch.save(swapped, tmp_path / "models" / "lite" / "w.pth")
    with pytest.raises(ValueError, match="the order differs"):
        build_backbone("lite", aliases=path)
    torch.save(dict(list(tensors.items())[:20]), tmp_path / "models" / "lite" / "w.pth")
    with pytest.raises(ValueError, match="20 tensors; the network has 70"):
        build_backbone("lite", aliases=path)


def test_a_prefix_leaves_the_rest_out(tmp_path):
    theirs = random_timm("vit_tiny_patch16_224", num_classes=0)
    path = alias_file(
        tmp_path,
        "clip: {weights: w.pth, get: x, licence: y, architecture: vit_tiny_patch16_224, "
        "prefix: visual.trunk.}",
    )
    state = {f"visual.trunk.{k}": v for k, v in theirs.state_dict().items()} | {
        "text.a": torch.zeros(1)
    }
    torch.save(state, tmp_path / "w.pth")
    x = images(1, 224)
    with torch.no_grad():
        same(build_backbone("clip", aliases=path)(x), theirs(x))
    torch.save({"text.a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="no tensor whose name begins with 'visual.trunk.'"):
        build_backbone("clip", aliases=path)


@pytest.mark.parametrize(
    "text, told",
    [
        ("a: {weights: x, get: y, licence: z, lr: 1}", "a: unknown key 'lr'"),
        ("a: {weights: x, get: y}", "a: lacks licence"),
        (
            "a: {weights: x, get: y, licence: z, recipe: {rate: 1}}",
            "recipe: unknown key 'rate'; choices lr",
        ),
        (
            "a: {weights: x, get: y, licence: z, recipe: {lr: 5e-4}}",
            "lr is '5e-4'; expected a number",
        ),
        (
            "a: {weights: x, get: y, licence: z, preprocessing: {avg: 1}}",
            "preprocessing: unknown key 'avg'",
        ),
        ("a: {weights: x, get: y, licence: z, pool: max}", "pool is 'max'; choices cls, mean"),
        ("a: {weights: x, get: y, licence: z, input_size: 224}", "expected .height, width."),
        ("a: 3", "expected names"),
        ("a: [", "not a YAML file"),
    ],
)
def test_aliases_are_checked(tmp_path, text, told):
    with pytest.raises(ValueError, match=told):
        read_aliases(alias_file(tmp_path, text))


def test_the_aliases_of_the_project_are_right():
    aliases = read_aliases()
    assert {
        "skelex",
        "vit-mae-large",
        "vit-i21k",
        "resnet-101",
        "medical-mae",
        "dax",
        "adam",
    } <= set(aliases)
    assert aliases["resnet-101"].recipe == {"lr": 5e-4, "weight_decay": 1e-4, "layer_decay": 1.0}
    for name, alias in aliases.items():
        assert (
            find(f"none:{name}").architecture == alias.architecture
        )  # every alias has a random twin
        assert (
            alias.weights.parent.name == "models" and "http" in alias.get or "package" in alias.get
        )
        facts = {"size": {"height": 224, "width": 224}, "radiograph": {}}
        kept = {
            k: v
            for k, v in alias.preprocessing.items()
            if k in ("intensity", "intensity_options", "resize")
        }
        Preprocessing.from_dict(facts | {"radiograph": kept})


def test_paths_are_called_by_their_last_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a/mae_b", "c/mae_b", "runs/first/model", "resnet18x"):
        (tmp_path / folder).mkdir(parents=True)

    def names(*given):
        return list(named_backbones([str(word) for word in given]).values())

    assert names(tmp_path / "a/mae_b", f"none:{tmp_path}/a/mae_b") == ["mae_b", "none:mae_b"]
    assert names("a/mae_b", tmp_path / "c/mae_b", "resnet18") == ["a/mae_b", "c/mae_b", "resnet18"]
    assert names("mae_b=resnet18", "a/mae_b") == ["mae_b", "a/mae_b"]
    assert names("./runs/first/model", "none:runs/first/model") == [
        "first/model",
        "none:first/model",
    ]
    assert names(f"resnet50@{tmp_path}/w.pth", "skelex", "owner/name") == [
        "resnet50@w.pth",
        "skelex",
        "owner/name",
    ]
    assert names("resnet18x", "none:resnet18") == ["resnet18x", "none:resnet18"]
    with pytest.raises(ValueError, match="two are called"):
        names("a/mae_b", "./a/mae_b")


def test_unknown_names_list_what_is_near():
    with pytest.raises(
        ValueError, match="'skelx' is no alias, file.*did you mean skelex.*Aliases: skelex, vit-mae"
    ):
        build_backbone("skelx")
    with pytest.raises(ValueError, match="did you mean .*resnet101"):
        build_backbone("resnet1001")
    with pytest.raises(ValueError, match="none:nothing"):
        build_backbone("none:nothing")
    for path in ("./nowhere", "nowhere.pth", "resnet18@nowhere.pth"):
        with pytest.raises(FileNotFoundError, match="nowhere.*no such checkpoint"):
            build_backbone(path)
    with pytest.raises(ValueError, match="is no alias"):
        build_backbone("x" * 5000)
    for name in (
        "hf_hub:timm/resnet18",
        "hf-hub:timm/resnet18",
        "local-dir:x",
        "owner/name",
        "../../etc/passwd/x",
    ):
        with pytest.raises((ValueError, FileNotFoundError)):
            build_backbone(name)


def test_pretrained_weights_of_timm_are_never_downloaded(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    told = r"Put model.safetensors of https://huggingface.co/timm/resnet18.\w+ into .*models/resnet18/, or .*resnet18@F"
    with pytest.raises(FileNotFoundError, match=told):
        build_backbone("resnet18")


def test_the_local_cache_of_hugging_face_is_used(monkeypatch, tmp_path):
    from huggingface_hub import try_to_load_from_cache

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = timm.get_pretrained_cfg("resnet10t").hf_hub_id
    root = tmp_path / ("models--" + repository.replace("/", "--"))
    snapshot = root / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    assert cached_folder(repository) is None
    theirs = random_timm("resnet10t")
    saved(theirs, snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(
        json.dumps(
            {
                "architecture": "resnet10t",
                "pretrained_cfg": {
                    "mean": [0.1, 0.2, 0.3],
                    "std": [0.4, 0.5, 0.6],
                    "interpolation": "bicubic",
                },
            }
        )
    )
    told = try_to_load_from_cache(repository, "model.safetensors", cache_dir=tmp_path)
    assert str(cached_folder(repository)) == str(snapshot) and told == str(
        snapshot / "model.safetensors"
    )
    for name in ("resnet10t", repository):
        backbone = build_backbone(name)
        with torch.no_grad():
            same(
                backbone(images()),
                theirs.forward_head(theirs.forward_features(images()), pre_logits=True),
            )
        ready = Preprocessing.from_dict(backbone.preprocessing)
        assert (ready.mean, ready.interpolation) == ((0.1, 0.2, 0.3), "bicubic")
    (snapshot / "config.json").write_text(json.dumps({"architecture": "hf_hub:x/y"}))
    with pytest.raises(
        ValueError, match="config.json says architecture 'hf_hub:x/y', which timm does not have"
    ):
        build_backbone(repository)


def test_random_weights_come_from_the_generator():
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(build_backbone("none:mae_vit_mini_patch16", input_size=(64, 64)))
    first, again, other = (torch.cat([p.flatten() for p in b.parameters()]) for b in found)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert (
        found[0].preprocessing is None
        and found[0].recipe == {}
        and found[0](images()).shape == (2, 192)
    )


def test_pooling_that_a_network_does_not_have():
    with pytest.raises(ValueError, match="ResNet has no tokens; leave pool out"):
        build_backbone("none:resnet18", pool="cls")
    with pytest.raises(ValueError, match="choose cls, mean"):
        build_backbone("none:resnet18", pool="max")
    averaged = timm.create_model("vit_tiny_patch16_224", num_classes=0, global_pool="avg")
    with pytest.raises(ValueError, match="no norm for single tokens"):
        Backbone(averaged, "cls")
    assert Backbone(averaged).pool == "mean"


def test_a_network_that_was_tuned_with_average_pooling_keeps_it(tmp_path):
    theirs = random_timm("vit_tiny_patch16_224", global_pool="avg", num_classes=3)
    torch.save({"model": theirs.state_dict()}, tmp_path / "tuned.pth")
    backbone, x = build_backbone(tmp_path / "tuned.pth"), images(1, 224)
    with torch.no_grad():
        same(backbone(x), theirs.forward_head(theirs.forward_features(x), pre_logits=True))
    assert backbone.pool == "mean"


def test_weights_of_another_network_are_refused(tmp_path):
    path = saved(random_timm("resnet18"), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"w.safetensors: matched .*missing"):
        build_backbone(f"resnet34@{path}")
    with pytest.raises(ValueError, match="w.safetensors: "):
        build_backbone(f"vit_tiny_patch16_224@{path}")
    with pytest.raises(ValueError, match="w.safetensors: "):
        build_backbone(f"convnext_atto@{path}")


def test_no_network_larger_than_its_file_is_built(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_giant_patch14_224"}))
    torch.save({"pos_embed": torch.zeros(1, 2, 8)}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"matched 0/\d+ tensors") as caught:
        build_backbone(tmp_path)
    wanted = caught.traceback[-1].frame.f_locals["wanted"]
    assert {value.device.type for value in wanted.values()} == {"meta"}


def test_stochastic_depth_and_two_training_steps():
    torch.manual_seed(0)
    backbone = build_backbone(
        "none:vit_tiny_patch16_224", input_size=(32, 32), drop_path=0.5
    ).train()
    x = images(4, 32)
    assert not torch.equal(backbone(x), backbone(x))
    assert torch.equal(backbone.eval()(x), backbone(x))
