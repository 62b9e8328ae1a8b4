"""Losses against torch's own, unknown targets, and values in the target's unit."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.networks.supervised import Supervised, balanced_weights, sex_covariate, supervised_loss

NAN = float("nan")


class Flat(torch.nn.Module):
    dim = 12

    def forward(self, x):
        return x.flatten(1)


def outputs(count, seed=0):
    return torch.randn(6, count, generator=torch.Generator().manual_seed(seed), requires_grad=True)


CASES = [
    (
        "binary",
        1,
        torch.tensor([0.0, 1, 1, 0, 1, 0]),
        lambda o, t: F.binary_cross_entropy_with_logits(o[:, 0], t),
    ),
    (
        "multiclass",
        4,
        torch.tensor([0.0, 3, 1, 2, 2, 0]),
        lambda o, t: F.cross_entropy(o, t.long()),
    ),
    ("regression", 1, torch.tensor([0.1, -2.0, 1, 0.5, 3, 0]), lambda o, t: F.mse_loss(o[:, 0], t)),
]


@pytest.mark.parametrize("kind, count, target, oracle", CASES, ids=[c[0] for c in CASES])
def test_losses_and_unknown_targets(kind, count, target, oracle):
    o = outputs(count)
    torch.testing.assert_close(supervised_loss(kind, o, target), oracle(o, target))
    known = torch.tensor([True, False, True, True, False, True])
    holes = torch.where(known, target, torch.tensor(NAN))
    loss = supervised_loss(kind, o, holes)
    torch.testing.assert_close(loss, oracle(o[known], target[known]))
    gradient = torch.autograd.grad(loss, o)[0]
    assert (
        torch.isfinite(gradient).all()
        and (gradient[~known] == 0).all()
        and (gradient[known] != 0).any()
    )


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
    torch.testing.assert_close(
        objective(batch)["loss"], F.mse_loss(objective.outputs(images)[:, 0], standardised)
    )
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
    torch.testing.assert_close(
        binary.predict(images), torch.sigmoid(binary.outputs(images))[:, 0].detach()
    )
    assert several.predict(images).shape == (5, 3)
    torch.testing.assert_close(several.predict(images).sum(1), torch.ones(5))
    assert not several.predict(images).requires_grad


def test_images_are_normalised_first_where_asked():
    objective = Supervised(
        Flat(), "binary", 1, normalise=lambda x: x.float().expand(-1, 3, -1, -1) / 255
    )
    raw = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (2, 1, 2, 2), dtype=np.uint8))
    torch.testing.assert_close(
        objective.outputs(raw), objective.head(raw.float().expand(-1, 3, 2, 2).flatten(1) / 255)
    )


@pytest.mark.parametrize("kind, count", [("binary", 1), ("multiclass", 3)])
def test_class_weights_are_those_of_a_weighted_cross_entropy(kind, count):
    classes = 2 if kind == "binary" else count
    weights = torch.tensor([0.5, 3.0, 1.25][:classes])
    o, target = outputs(count), torch.tensor([0.0, 1, 1, 0, NAN, classes - 1])
    known = ~torch.isnan(target)
    logits = (
        torch.cat([torch.zeros_like(o), o], 1) if kind == "binary" else o
    )  # softmax of (0, x) is the sigmoid
    expected = F.cross_entropy(logits[known], target[known].long(), weights)
    torch.testing.assert_close(supervised_loss(kind, o, target, weights), expected)
    objective = Supervised(Flat(), kind, count, class_weights=weights.tolist())
    images = torch.randn(6, 3, 2, 2)
    wanted = supervised_loss(kind, objective.outputs(images), target, weights)
    torch.testing.assert_close(objective({"image": images, "target": target})["loss"], wanted)
    assert set(objective.state_dict()) == {
        "head.weight",
        "head.bias",
        "mean",
        "std",
    }  # predictions do not need them


def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    target = np.array([0, 0, 0, 1, 2, 2, NAN])
    known = target[:-1]
    assert balanced_weights(target, 3) == pytest.approx(
        compute_class_weight("balanced", classes=np.arange(3), y=known)
    )
    assert balanced_weights([0, 0, 2], 3) == pytest.approx([0.75, 1.0, 1.5])
    with pytest.raises(ValueError, match="no target is known"):
        balanced_weights([NAN], 2)


@pytest.mark.parametrize(
    "kind, outputs_, weights",
    [("binary", 1, [1.0]), ("multiclass", 3, [1.0, 2.0]), ("regression", 1, [1.0, 1.0])],
)
def test_class_weights_must_fit_the_task(kind, outputs_, weights):
    with pytest.raises(ValueError, match="class weights for a"):
        Supervised(Flat(), kind, outputs_, class_weights=weights)


def test_the_head_sees_covariates_beside_the_feature():
    torch.manual_seed(0)
    objective = Supervised(Flat(), "regression", 1, mean=100.0, std=20.0, covariates=2)
    images, extra = torch.randn(5, 3, 2, 2), torch.randn(5, 2)
    expected = (
        torch.cat([images.flatten(1), extra], 1) @ objective.head.weight.T + objective.head.bias
    )
    torch.testing.assert_close(objective.outputs(images, extra), expected)
    torch.testing.assert_close(objective.predict(images, extra), (expected * 20 + 100)[:, 0])
    batch = {"image": images, "target": torch.full((5,), 110.0), "extra": extra}
    torch.testing.assert_close(objective(batch)["loss"], (expected[:, 0] - 0.5).square().mean())
    for wrong in (None, torch.zeros(5, 1), torch.zeros(4, 2)):
        with pytest.raises(ValueError, match="'extra' is .*expected .5, 2."):
            objective.outputs(images, wrong)


def test_sex_as_a_number():
    assert sex_covariate([True, "False", "M", "f", " Male", np.True_, NAN, None, ""]) == [
        1,
        -1,
        1,
        -1,
        1,
        1,
        0,
        0,
        0,
    ]
    for wrong in ("x", 1, 0.0):
        with pytest.raises(ValueError, match=f"sex is {wrong!r}"):
            sex_covariate([wrong])


def test_targets_that_do_not_differ_cannot_be_standardised():
    with pytest.raises(ValueError, match="standard deviation of 0.0"):
        Supervised(Flat(), "regression", 1, mean=5.0, std=0.0)
