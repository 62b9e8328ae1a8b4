"""The map of months is that of the whole network by finite differences, and of unknown sex the mean's."""

import math

import pytest
import torch

from models.backbones.backbone import build_backbone
from models.networks.bone_age import BoneAge
from models.networks.bone_age_saliency import month_maps


@pytest.fixture(scope="module")
def model() -> BoneAge:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BoneAge(
            build_backbone("none:resnet10t", input_size=(64, 64)), lambda images: images
        ).eval()


def test_the_map_is_the_slope_of_the_months(model):
    generator = torch.Generator().manual_seed(1)
    there = torch.rand(2, 512, 2, 2, generator=generator) + 0.5
    sex = torch.tensor([1.0, 0.0])

    def months(values):
        return model.answers(model.pool(values), sex)[0]

    slope = torch.zeros_like(there)
    with torch.no_grad():
        for place in range(4):  # along the map itself: what each place adds
            row, column = divmod(place, 2)
            for step in (1e-2, -1e-2):
                moved = there.clone()
                moved[:, :, row, column] *= 1 + step
                slope[:, 0, row, column] += months(moved) / step / 2
    found = month_maps(model, there, sex)
    there.requires_grad_()
    (exact,) = torch.autograd.grad(months(there).sum(), there)
    wanted = (exact.mean((2, 3), keepdim=True) * there).sum(1).relu().detach()
    assert found.shape == (2, 2, 2) and torch.allclose(found, wanted, atol=1e-6)
    assert torch.allclose((exact * there).sum(1).detach(), slope[:, 0], atol=1e-3)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_of_unknown_sex_it_is_the_mean_of_both(model):
    there = torch.rand(3, 512, 2, 2, generator=torch.Generator().manual_seed(2))
    girl, boy, unknown = (
        month_maps(model, there, torch.full((3,), one)) for one in (0.0, 1.0, math.nan)
    )
    assert not torch.allclose(girl, boy, rtol=1e-4)
    assert not torch.allclose(unknown, girl, rtol=1e-4) and not torch.allclose(
        unknown, boy, rtol=1e-4
    )
    low, high = torch.minimum(girl, boy), torch.maximum(girl, boy)
    assert (
        (unknown >= low - 1e-6).all()
        and (unknown <= high + 1e-6).all()
        and torch.isfinite(unknown).all()
    )
