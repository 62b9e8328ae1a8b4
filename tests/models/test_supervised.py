"""Losses against torch's own, unknown targets, and values in the target's unit."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.supervised import Supervised, supervised_loss

NAN = float("nan")


class Flat(torch.nn.Module):
    dim = 12

    def forward(self, x):
        return x.flatten(1)


def outputs(count, seed=0):
    return torch.randn(6, count, generator=torch.Generator().manual_seed(seed), requires_grad=True)


CASES = [
    ("binary", 1, torch.tensor([0.0, 1, 1, 0, 1, 0]),
     lambda o, t: F.binary_cross_entropy_with_logits(o[:, 0], t)),
    ("multiclass", 4, torch.tensor([0.0, 3, 1, 2, 2, 0]), lambda o, t: F.cross_entropy(o, t.long())),
    ("regression", 1, torch.tensor([0.1, -2.0, 1, 0.5, 3, 0]), lambda o, t: F.mse_loss(o[:, 0], t)),
]  # fmt: skip


@pytest.mark.parametrize("kind, count, target, oracle", CASES, ids=[c[0] for c in CASES])
def test_losses_and_unknown_targets(kind, count, target, oracle):
    o = outputs(count)
    torch.testing.assert_close(supervised_loss(kind, o, target), oracle(o, target))
    known = torch.tensor([True, False, True, True, False, True])
    holes = torch.where(known, target, torch.tensor(NAN))
    loss = supervised_loss(kind, o, holes)
    torch.testing.assert_close(loss, oracle(o[known], target[known]))
    gradient = torch.autograd.grad(loss, o)[0]
    assert torch.isfinite(gradient).all() and (gradient[~known] == 0).all() and (gradient[known] != 0).any()


@pytest.mark.parametrize("kind, count", [("binary", 1), ("multiclass", 4), ("regression", 1)])
def test_a_batch_without_any_known_target_teaches_nothing(kind, count):
    o = outputs(count)
    loss = supervised_loss(kind, o, torch.full((6,), NAN))
    assert loss.item() == 0
    assert (torch.autograd.grad(loss, o)[0] == 0).all()


def test_the_loss_is_float32_under_autocast():
    o = outputs(1).bfloat16()
    assert supervised_loss("binary", o, torch.zeros(6)).dtype == torch.float32


def test_regression_is_standardised_inside_and_answers_in_months():
    torch.manual_seed(0)
    objective = Supervised(Flat(), "regression", 1, mean=120.0, std=40.0)
    images = torch.randn(16, 3, 2, 2)
    months = 120 + 40 * images.flatten(1)[:, 0]
    batch = {"image": images, "target": months}
    standardised = (months - 120) / 40
    torch.testing.assert_close(objective(batch)["loss"], F.mse_loss(objective.outputs(images)[:, 0], standardised))
    with torch.no_grad():  # the exact solution
        objective.head.weight.zero_()[0, 0] = 1.0
    torch.testing.assert_close(objective.predict(images), months)
    assert objective(batch)["loss"] < 1e-10
    again = Supervised(Flat(), "regression", 1)
    again.load_state_dict(objective.state_dict())  # mean and SD travel with the weights
    torch.testing.assert_close(again.predict(images), months)


def test_predictions_are_probabilities():
    images = torch.randn(5, 3, 2, 2)
    binary, several = Supervised(Flat(), "binary", 1), Supervised(Flat(), "multiclass", 3)
    torch.testing.assert_close(binary.predict(images), torch.sigmoid(binary.outputs(images))[:, 0].detach())
    assert several.predict(images).shape == (5, 3)
    torch.testing.assert_close(several.predict(images).sum(1), torch.ones(5))
    assert not several.predict(images).requires_grad


def test_images_are_normalised_first_where_asked():
    objective = Supervised(Flat(), "binary", 1, normalise=lambda x: x.float().expand(-1, 3, -1, -1) / 255)
    raw = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (2, 1, 2, 2), dtype=np.uint8))
    torch.testing.assert_close(objective.outputs(raw), objective.head(raw.float().expand(-1, 3, 2, 2).flatten(1) / 255))
