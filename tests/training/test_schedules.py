import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.fill import mismatch

from training.optim import layer_of, layers_of, parameter_groups, set_schedules
from training.schedules import constant, linear, warmup_cosine

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", ["finetune", "pretrain"])
def test_learning_rate_of_the_reference(name):
    meta, npz = json.loads((GOLDEN / "g5_finetune_parts.json").read_text()), np.load(GOLDEN / "g5_finetune_parts.npz")
    told = meta["expected"][f"lr/{name}"]
    schedule = warmup_cosine(told["lr"], told["min_lr"], told["warmup_epochs"] / told["epochs"])
    groups = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [groups[0]]}, {"params": [groups[1]], "lr_scale": 0.55**3}], lr=0.0)
    rows = []
    for epoch in npz[f"lr/{name}_epochs"]:
        set_schedules(optimizer, {"lr": schedule}, epoch / told["epochs"])
        rows.append([group["lr"] for group in optimizer.param_groups])
    assert mismatch(meta, npz, f"lr/{name}", np.array(rows)) <= 1


def test_schedule_ends():
    assert warmup_cosine(2.0, 0.5)(0.0) == 2.0 and warmup_cosine(2.0, 0.5)(1.0) == pytest.approx(0.5)
    assert warmup_cosine(2.0, warmup=0.25)(0.0) == 0.0 and warmup_cosine(2.0, warmup=0.25)(0.25) == 2.0
    assert warmup_cosine(2.0, warmup=1.0)(1.0) == 2.0
    assert [linear(0, 1, 0.5)(p) for p in (0.0, 0.25, 0.5, 1.0)] == [0, 0.5, 1, 1]
    assert constant(3.0)(0.7) == 3.0


class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        from models.vit import ViT

        self.backbone = ViT((32, 32), 16, 24, 3, 2)
        self.head = torch.nn.Linear(24, 2)


def test_vectors_do_not_decay_and_layers_learn_at_their_own_rate():
    module = Head()
    groups = parameter_groups(module, layer_decay=0.5)
    names = {id(p): n for n, p in module.named_parameters()}
    told = {names[id(p)]: (g["lr_scale"], g["weight_decay_scale"]) for g in groups for p in g["params"]}
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
