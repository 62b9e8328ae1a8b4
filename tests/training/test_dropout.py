"""Dropout and stochastic depth drop the same, however a step is divided into processes and passes."""

import pytest
import torch
from fork_harness import exit_status, group
from timm.layers import DropPath
from torch import nn

from core.system import distributed
from training.dropout import shared_dropout
from training.fit import Fit, fit
from training.objective import Objective
from training.optim import adamw, parameter_groups
from training.sampling import Plan, StepSampler
from training.schedules import constant

SAMPLES, STEPS = 24, 12


class Dropping(Objective):
    """Dropout of vectors, stochastic depth of maps, and two views of each radiograph in one batch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 1)
        self.drop, self.path = nn.Dropout(0.4), DropPath(0.3)

    def forward(self, batch, progress=0.0):
        views = torch.cat([batch["x"], batch["x"].flip(1)])
        hidden = self.drop(self.first(views).tanh())
        maps = self.path(hidden[:, :, None, None].expand(-1, -1, 2, 2)).mean((2, 3)) + hidden
        outputs = self.last(maps).unflatten(0, (2, -1)).sum(0)
        return {"loss": (outputs[:, 0] - batch["y"]).square().mean()}


def train(batch_size: int, accumulate: int = 1) -> torch.Tensor:
    x = torch.randn(SAMPLES, 6, generator=torch.Generator().manual_seed(4))
    plan = Plan(SAMPLES, batch_size, accumulate, distributed.world_size(), epochs=STEPS / 3)

    def batches(start):
        for keys in StepSampler(plan, 1, distributed.rank(), start):
            rows = [index for _, index in keys]
            yield {"x": x[rows], "y": x[rows].sum(1), "index": rows}

    model = Dropping()
    fit(
        model,
        Fit(
            plan,
            adamw(parameter_groups(model)),
            {"lr": constant(1e-2)},
            batches,
            progress_bar=False,
        ),
    )
    assert type(model.drop) is nn.Dropout and type(model.path) is DropPath
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(
    "ranks, batch_size, accumulate", [(1, 2, 4), (2, 4, 1), (2, 2, 2), (4, 2, 1)]
)
def test_every_layout_drops_the_same(ranks, batch_size, accumulate):
    expected = train(8)

    def member() -> int:
        torch.testing.assert_close(train(batch_size, accumulate), expected, rtol=0, atol=1e-5)
        return 0

    assert [exit_status(child) for child in group(ranks, member)] == [0] * ranks


def test_masks_have_their_probability_and_change_with_the_seed():
    layers = nn.ModuleList(
        [nn.Dropout(0.25), DropPath(0.25), nn.Dropout(0.0), nn.Dropout(1.0), DropPath(0.25, False)]
    )
    ones = torch.ones(4000, 3)
    with shared_dropout(layers, torch.device("cpu")) as draws:
        draws.begin(1, rows=4000, slot=0, slots=1)
        elements, rows, nothing, everything, unscaled = (layer(ones) for layer in layers)
        draws.begin(2, rows=4000, slot=0, slots=1)
        assert not torch.equal(layers[0](ones), elements)
        assert torch.equal(layers.eval()[0](ones), ones) and torch.equal(layers[1](ones), ones)
        layers.train()
        draws.begin(1, rows=3, slot=0, slots=1)
        assert (layers[0](ones) == 0).float().mean() == pytest.approx(0.25, abs=0.02)
    assert elements.unique().tolist() == pytest.approx([0, 4 / 3]) and (
        elements == 0
    ).float().mean() == pytest.approx(0.25, abs=0.02)
    assert rows.std(dim=1).max() == 0 and (rows == 0).float().mean() == pytest.approx(
        0.25, abs=0.03
    )
    assert unscaled.max() == 1 and torch.equal(nothing, ones) and everything.max() == 0
