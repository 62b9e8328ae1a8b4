"""What is unknown, or weighs more, is not spread evenly over processes: the loss is that of all rows together."""

import pytest
import torch
from fork_harness import exit_status, group
from torch import nn

from core.system import distributed
from core.tumour_labels import LABELS, label_vector
from models.backbones.backbone import build_backbone
from models.networks.batch_norm import synchronised
from models.networks.bone_age import BoneAge
from models.networks.region_guided import RegionGuided
from models.networks.supervised import Supervised


class Flat(nn.Module):
    """A backbone without weights."""

    dim = 12

    def forward(self, images):
        return images.flatten(1)


def gradients(kind, share, of):
    """Mean gradient over the processes of the rows share::of, as DDP takes it, of a head with fixed weights."""
    rng = torch.Generator().manual_seed(3)
    images, rows = torch.randn(8, 1, 3, 4, generator=rng), slice(share, None, of)
    if kind == "region-guided":
        model = RegionGuided(Flat())
        labels = torch.tensor(label_vector(abnormal=True, tumour="benign", bone="patella")).repeat(
            8, 1
        )
        labels[::2] = torch.tensor(label_vector(implant=False, tumour="malignant"))
        batch = {"target": labels.nan_to_num(), "unknown": labels.isnan()}
        assert labels.shape == (8, len(LABELS))
    else:
        outputs, weights = (3, [5.0, 1.0, 0.5]) if kind == "multiclass" else (1, None)
        model = Supervised(Flat(), kind, outputs, class_weights=weights)
        target = (
            torch.tensor([0.0, 1, 2, 2, 1, 2, 0, 1])
            if kind == "multiclass"
            else torch.arange(8.0) / 8
        )
        target = (target > 0.4).float() if kind == "binary" else target
        target[[1, 3, 5]] = torch.nan
        batch = {"target": target}
    nn.init.constant_(model.head.weight, 0.1)
    model({"image": images[rows], **{name: values[rows] for name, values in batch.items()}})[
        "loss"
    ].backward()
    return distributed.mean(model.head.weight.grad)


def bone_age_gradients(loss, share, of):
    """As `gradients`, of a bone-age network; the first process alone has rows without an age."""
    rng = torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    model = BoneAge(build_backbone("none:resnet10t"), loss=loss)
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    model = synchronised(model, torch.device("cpu")).train()
    target = torch.linspace(20.0, 200.0, 8)
    target[[0, 2, 4]] = torch.nan
    batch = {
        "image": torch.randn(8, 3, 32, 32, generator=rng),
        "target": target,
        "extra": torch.arange(8.0)[:, None] % 2,
    }
    values = model({name: part[slice(share, None, of)] for name, part in batch.items()})
    values["loss"].backward()
    return torch.stack(
        [distributed.mean(values["loss"]), distributed.mean(values["mae"])]
    ), distributed.mean(model.head[-1].weight.grad)


@pytest.mark.parametrize("loss", ["hybrid", "laplace"])
def test_the_bone_age_loss_counts_every_known_row_once(tmp_path, loss):
    expected = bone_age_gradients(loss, 0, 1)

    def half() -> int:
        torch.testing.assert_close(
            bone_age_gradients(loss, distributed.rank(), 2), expected, atol=1e-4, rtol=1e-4
        )
        return 0

    assert [exit_status(child) for child in group(2, half)] == [0, 0]


@pytest.mark.parametrize("kind", ["region-guided", "binary", "multiclass", "regression"])
def test_two_processes_have_the_gradient_of_one(tmp_path, kind):
    def half() -> int:
        found = gradients(kind, distributed.rank(), 2)
        torch.save(found, tmp_path / f"{distributed.rank()}.pt")
        return 0

    assert [exit_status(child) for child in group(2, half)] == [0, 0]
    expected = gradients(kind, 0, 1)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
