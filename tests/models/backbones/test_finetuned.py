"""Fine-tuned networks come back from their folder as they were, and a folder that lies is refused."""

import json

import pytest
import torch

from models.backbones.backbone import build_backbone
from models.backbones.finetuned import load_finetuned, save_finetuned
from models.networks.mae import MAEConfig, MaskedAutoencoder
from models.networks.region_guided import RegionGuided
from models.networks.supervised import Supervised
from models.weights.checkpoint import save_mae

ROADS = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}


@pytest.fixture(scope="module")
def mae(tmp_path_factory):
    """A small masked autoencoder with another LayerNorm eps and an oblong input."""
    config = MAEConfig(
        (32, 48), 8, 32, 3, 2, decoder_dim=32, decoder_depth=1, decoder_heads=2, layer_norm_eps=1e-4
    )
    folder = tmp_path_factory.mktemp("mae")
    save_mae(MaskedAutoencoder(config), folder, ROADS, "card")
    return folder


def built(backbone, head):
    torch.manual_seed(0)
    if head == "region-guided":
        return RegionGuided(backbone).eval()
    kind, outputs, covariates = head
    return Supervised(backbone, kind, outputs, mean=90.0, std=30.0, covariates=covariates).eval()


@pytest.mark.parametrize(
    "name",
    [
        "mae",
        "none:test_resnet",
        "none:test_vit3",
        "none:test_convnext",
        "none:vit_tiny_patch16_224",
    ],
)
@pytest.mark.parametrize(
    "head", ["region-guided", ("binary", 1, 0), ("multiclass", 5, 0), ("regression", 1, 1)], ids=str
)
def test_what_is_saved_comes_back(mae, tmp_path, name, head):
    pool = {"none:vit_tiny_patch16_224": "mean"}.get(name)
    if name == "none:vit_tiny_patch16_224" and head != "region-guided":
        pytest.skip("one large network is enough")
    size = None if name == "mae" else (32, 32)
    backbone = build_backbone(str(mae) if name == "mae" else name, pool=pool, input_size=size)
    model = built(backbone, head)
    save_finetuned(model, tmp_path, ROADS, {"classes": ["a", "b"]}, "card")
    loaded = load_finetuned(tmp_path)
    images, extra = torch.randn(2, 3, *backbone.input_size), torch.ones(2, 1)
    given = (images, extra) if getattr(model, "covariates", 0) else (images,)
    assert torch.equal(loaded.model.predict(*given), model.predict(*given))
    assert (
        loaded.model.backbone.pool == backbone.pool
        and loaded.model.backbone.input_size == backbone.input_size
    )
    assert loaded.preprocessor == ROADS and loaded.about == {"classes": ["a", "b"]}


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda c: c["backbone"]["vit"].update(depth=10**9), "depth 1000000000; expected 1 to 256"),
        (lambda c: c["backbone"]["vit"].update(dim=16_000), "missing|misshapen|do not fit|shape"),
        (
            lambda c: c["backbone"]["vit"].pop("heads"),
            r"no network can be built of it \(no entry 'heads'\)",
        ),
        (lambda c: c["backbone"].update(input_size=[10**9, 32]), "an input of"),
        (
            lambda c: c["backbone"].pop("vit") and c["backbone"].update(timm="os.system"),
            "no network can be built of it",
        ),
        (lambda c: c["head"].update(kind="pickle"), "a head 'pickle'"),
        (lambda c: c.pop("head"), "config.json describes no fine-tuned network: it has no 'head'"),
        (
            lambda c: c.pop("backbone"),
            "config.json describes no fine-tuned network: it has no 'backbone'",
        ),
    ],
)
def test_a_folder_that_lies_is_refused(mae, tmp_path, change, told):
    save_finetuned(built(build_backbone(str(mae)), ("binary", 1, 0)), tmp_path, ROADS, {}, "card")
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=told):
        load_finetuned(tmp_path)


def test_what_is_missing_is_named(mae, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config.json"):
        load_finetuned(tmp_path)
    save_finetuned(built(build_backbone(str(mae)), ("binary", 1, 0)), tmp_path, ROADS, {}, "card")
    with pytest.raises(ValueError, match="its head is 'binary'; expected 'region-guided'"):
        load_finetuned(tmp_path, "region-guided")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no preprocessor_config.json"):
        load_finetuned(tmp_path)
