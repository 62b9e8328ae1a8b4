import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.fill import mismatch
from transformers import get_cosine_schedule_with_warmup

from training.optim import layer_of, layers_of, parameter_groups, set_schedules
from training.schedules import constant, linear, per_epoch, warmup_cosine, whole_warmup

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", ["finetune", "pretrain"])
def test_learning_rate_of_the_reference(name):
    meta, npz = (
        json.loads((GOLDEN / "g5_finetune_parts.json").read_text()),
        np.load(GOLDEN / "g5_finetune_parts.npz"),
    )
    told = meta["expected"][f"lr/{name}"]
    schedule = warmup_cosine(told["lr"], told["min_lr"], told["warmup_epochs"] / told["epochs"])
    groups = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": [groups[0]]}, {"params": [groups[1]], "lr_scale": 0.55**3}], lr=0.0
    )
    rows = []
    for epoch in npz[f"lr/{name}_epochs"]:
        set_schedules(optimizer, {"lr": schedule}, epoch / told["epochs"])
        rows.append([group["lr"] for group in optimizer.param_groups])
    assert mismatch(meta, npz, f"lr/{name}", np.array(rows)) <= 1


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 1.0])
@pytest.mark.parametrize("steps", [1, 9, 10, 27, 30, 40])
def test_warmup_in_whole_steps_equals_transformers(fraction, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3.0)
    oracle = get_cosine_schedule_with_warmup(optimizer, int(fraction * steps), steps)
    schedule = warmup_cosine(3.0, warmup=whole_warmup(fraction, steps))
    for step in range(steps):
        assert schedule(step / steps) == pytest.approx(oracle.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        oracle.step()


def test_schedule_ends():
    assert warmup_cosine(2.0, 0.5)(0.0) == 2.0 and warmup_cosine(2.0, 0.5)(1.0) == pytest.approx(
        0.5
    )
    assert (
        warmup_cosine(2.0, warmup=0.25)(0.0) == 0.0 and warmup_cosine(2.0, warmup=0.25)(0.25) == 2.0
    )
    assert warmup_cosine(2.0, warmup=1.0)(1.0) == 2.0
    assert [linear(0, 1, 0.5)(p) for p in (0.0, 0.25, 0.5, 1.0)] == [0, 0.5, 1, 1]
    assert constant(3.0)(0.7) == 3.0


class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        from models.networks.vit import ViT

        self.backbone = ViT((32, 32), 16, 24, 3, 2)
        self.head = torch.nn.Linear(24, 2)


def test_vectors_do_not_decay_and_layers_learn_at_their_own_rate():
    module = Head()
    groups = parameter_groups(module, layer_decay=0.5)
    names = {id(p): n for n, p in module.named_parameters()}
    told = {
        names[id(p)]: (g["lr_scale"], g["weight_decay_scale"]) for g in groups for p in g["params"]
    }
    assert len(told) == len(list(module.parameters()))
    assert told["backbone.patch_embed.proj.weight"] == (0.5**4, 1.0)
    assert told["backbone.cls_token"] == (0.5**4, 0.0)
    assert told["backbone.blocks.0.attn.qkv.weight"] == (0.5**3, 1.0)
    assert told["backbone.blocks.2.norm1.bias"] == (0.5, 0.0)
    assert told["backbone.norm.weight"] == (1.0, 0.0)
    assert told["head.weight"] == (1.0, 1.0) and told["head.bias"] == (1.0, 0.0)
    assert len(groups) == 2 * (3 + 2)


def test_layer_decay_without_blocks_is_refused():
    with pytest.raises(ValueError, match="no .blocks"):
        parameter_groups(torch.nn.Linear(2, 2), layer_decay=0.75)
    assert layer_of("decoder_blocks.0.norm1.weight", layers_of(Head().backbone)) == 4


@pytest.mark.parametrize(
    "name, layers, groups",
    [
        ("vit_large_patch16_224", 24, 52),
        ("vit_small_patch14_reg4_dinov2", 12, 28),
        ("resnet101", 4, 12),
        ("wide_resnet50_2", 4, 12),
        ("convnext_tiny", 4, 12),
        ("convnextv2_atto", 4, 12),
        ("densenet121", 4, 12),
        ("swin_tiny_patch4_window7_224", 4, 12),
        ("tf_efficientnet_lite0", 7, 18),
        ("mobilenetv3_small_100", 6, 16),
    ],
)
def test_layers_of_known_structures(name, layers, groups):
    """Every parameter is in one layer, the layers follow the data through the network, and their number is known."""
    import timm

    with torch.device("meta"):
        network = timm.create_model(name, num_classes=3)
    found = layers_of(network)
    assert len(found) == 1 + layers and len(parameter_groups(network, 0.5)) == groups
    names = [n for n, _ in network.named_parameters()]
    numbers = [
        layer_of(n, found) for n in names if "." in n
    ]  # tokens and positions are registered first
    assert numbers == sorted(numbers) and set(numbers) == set(range(layers + 2))
    assert all(layer_of(n, found) == 0 for n in names if "." not in n)


def test_layer_decay_of_a_transformer_is_timms():
    """But for the final norm, which timm counts with the last block, and SKELEX and we with the head."""
    import timm
    from timm.optim import param_groups_layer_decay

    with torch.device("meta"):
        network = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    theirs = param_groups_layer_decay(network, 0.05, network.no_weight_decay(), layer_decay=0.75)
    told = {id(p): (g["lr_scale"], g["weight_decay"]) for g in theirs for p in g["params"]}
    ours = parameter_groups(network, 0.75)
    found = {
        id(p): (g["lr_scale"], 0.05 * g["weight_decay_scale"]) for g in ours for p in g["params"]
    }
    assert found.keys() == told.keys() and len(found) == 152
    final = {id(p) for p in network.norm.parameters()}
    for key, value in found.items():
        assert value == ((1.0, 0.0) if key in final else pytest.approx(told[key], rel=1e-12))


def test_a_schedule_in_epochs():
    whole = per_epoch(warmup_cosine(2.0, warmup=0.4), 5)
    assert [round(whole(p), 6) for p in (0.0, 0.19, 0.2, 0.39, 0.4, 0.999, 1.0)] == [
        1,
        1,
        2,
        2,
        1.5,
        0,
        0,
    ]
