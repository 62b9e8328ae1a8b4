"""The masked loss of groups: SKELEX's numbers (G4), loops written out, and what is unknown having no say."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.fill import fill_input, mismatch
from torch import nn

from core.tumour_labels import GROUPS, LABELS
from models.networks.region_guided import (
    RegionGuided,
    group_losses,
    group_probabilities,
    masked_group_loss,
)

GOLDEN = Path(__file__).parents[2] / "golden"
NAMES = {
    "binary": "finding",
    "4way": "tumour",
    "29way": "bone",
    "3way": "fracture",
}  # of the reference -> ours
MASKS = ("none", "all", "mixed", "no_binary", "no_4way", "no_29way", "no_3way", "partial_group")


@pytest.fixture(scope="module")
def golden():
    meta = json.loads((GOLDEN / "g4_multilabel_loss.json").read_text())
    npz = np.load(GOLDEN / "g4_multilabel_loss.npz")
    logits = torch.from_numpy(fill_input(**meta["inputs"]["logits"]))
    return meta, npz, logits, torch.from_numpy(npz["targets"])


@pytest.mark.parametrize("mask", MASKS)
def test_golden_loss_and_gradient(mask, golden):
    meta, npz, logits, target = golden
    unknown = torch.from_numpy(npz[f"mask/{mask}"])
    for name, weights in meta["expected"]["weights"].items():
        weights = {NAMES[key]: value for key, value in weights.items()}
        loss = masked_group_loss(logits, target, unknown, weights)
        assert float(loss) == pytest.approx(meta["expected"][f"loss/{mask}/{name}"], rel=1e-5)
    leaf = logits.clone().requires_grad_()
    masked_group_loss(leaf, target, unknown).backward()
    assert mismatch(meta, npz, f"grad_logits/{mask}", leaf.grad.numpy()) <= 1


def test_golden_probabilities(golden):
    meta, npz, logits, _ = golden
    assert mismatch(meta, npz, "probs", group_probabilities(logits).numpy()) <= 1


def by_hand(logits, target, unknown):
    """The sum over groups, entry by entry."""
    total = 0.0
    for group in GROUPS:
        terms = []
        for x, y, m in zip(logits.tolist(), target.tolist(), unknown.tolist()):
            if group.kind == "sigmoid":
                for k in group.indices:
                    p = 1 / (1 + math.exp(-x[k]))
                    terms += [] if m[k] else [-math.log(p if y[k] else 1 - p)]
            elif not any(m[k] for k in group.indices):
                lse = math.log(sum(math.exp(x[k]) for k in group.indices))
                terms += [lse - x[k] for k in group.indices if y[k] == 1]
        total += sum(terms) / len(terms) if terms else 0.0
    return total


def test_loss_equals_a_loop(golden):
    _, _, logits, target = golden
    hidden = torch.from_numpy(np.random.default_rng(0).random((6, 38)) < 0.02)
    hidden[0, 5:34], hidden[1, 1:5], hidden[2, 37] = True, True, True
    assert float(masked_group_loss(logits, target, hidden)) == pytest.approx(
        by_hand(logits, target, hidden), rel=1e-5
    )


@pytest.mark.parametrize("filling", [float("nan"), 0.0, 1.0, 7.0])
def test_what_is_unknown_has_no_say(golden, filling):
    """Neither what the target holds there, nor a network gone wild on those outputs."""
    _, _, logits, target = golden
    unknown = torch.zeros(6, 38, dtype=torch.bool)
    unknown[:, 5:34], unknown[:3, 0] = True, True
    expected = masked_group_loss(logits, target, unknown)
    wild = logits.clone()
    wild[:, 5:34] = float("inf")
    wild.requires_grad_()
    filled = target.masked_fill(unknown, filling)
    loss = masked_group_loss(wild, filled, unknown)
    loss.backward()
    assert float(loss.detach()) == float(expected)
    assert (
        torch.isfinite(wild.grad).all()
        and (wild.grad[:, 5:34] == 0).all()
        and (wild.grad[:3, 0] == 0).all()
    )
    if math.isnan(filling):
        assert float(masked_group_loss(logits, filled)) == float(
            expected
        )  # NaN is unknown by itself


def test_nothing_known_is_no_loss_and_no_gradient(golden):
    leaf = golden[2].clone().requires_grad_()
    losses = group_losses(leaf, torch.full((6, 38), float("nan")))
    assert list(losses) == [group.name for group in GROUPS] and all(
        loss.item() == 0 for loss in losses.values()
    )
    sum(losses.values()).backward()
    assert (leaf.grad == 0).all()


def test_an_empty_or_double_group_is_refused_not_class_0(golden):
    _, _, logits, target = golden
    for change in (0, 1):
        wrong = target.clone()
        wrong[2, 5:34] = change
        with pytest.raises(ValueError, match="a known bone without exactly one label"):
            masked_group_loss(logits, wrong)
    with pytest.raises(ValueError, match=r"targets \[6, 37\]; expected \[B, 38\]"):
        group_losses(logits, target[:, :37])
    with pytest.raises(
        ValueError, match="weight of the group 'bones'; choices finding, tumour, bone, fracture"
    ):
        masked_group_loss(logits, target, weights={"bones": 1})
    with pytest.raises(ValueError, match="weight -1 of the group 'bone'"):
        RegionGuided(Flat(), weights={"bone": -1})


class Flat(nn.Module):
    """[B, 3, 4, 4] -> [B, 16]."""

    dim = 16

    def forward(self, images):
        return images[:, 0].flatten(1)


def test_the_objective_learns_and_tells_its_parts():
    torch.manual_seed(0)
    model = RegionGuided(
        Flat(), lambda x: x.float().repeat(1, 3, 1, 1), weights={"bone": 0, "fracture": 2}
    )
    images = torch.eye(16).reshape(16, 1, 4, 4) * 3
    target = torch.zeros(16, 38)
    rows = torch.arange(16)
    target[rows, 1 + rows % 4], target[rows, 34 + rows % 3], target[rows[::2], 0] = 1, 1, 1
    unknown = torch.zeros(16, 38, dtype=torch.bool)
    unknown[:, 5:34] = True
    batch = {"image": images, "target": target, "unknown": unknown}
    losses = []
    for _ in range(60):
        told = model(batch)
        parts = [told[name].item() for name in ("finding", "tumour", "fracture", "fracture")]
        assert told["loss"].item() == pytest.approx(sum(parts), rel=1e-5)
        told["loss"].backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= parameter.grad / 2
                parameter.grad = None
        losses.append(float(told["loss"].detach()))
    assert losses[-1] < 0.2 * losses[0]
    found = model.predict(images)
    assert found.shape == (16, len(LABELS)) and found.dtype == torch.float32
    assert (found[:, 1:5].argmax(1) == rows % 4).all() and torch.allclose(
        found[:, 5:34].sum(1), torch.ones(16)
    )
