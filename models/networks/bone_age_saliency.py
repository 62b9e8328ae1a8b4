"""Which places of a hand speak for more months: Grad-CAM of a bone-age network, through pooling and head alone.

B radiographs, D channels, r x c places of the backbone's last map.
"""

import torch
from torch import Tensor, nn

from models.networks.bone_age import BoneAge
from models.networks.grad_cam import grad_cam


def month_maps(model: BoneAge, there: Tensor, sex: Tensor) -> Tensor:
    """[B, r, c] float32, from 0 on, of `there` [B, D, r, c], what `model.last_map` gives; in months times the map's
    values. `sex` [B]: 1 male, 0 female, NaN unknown: then it is the map of the mean of both answers."""
    head = _Months(model, sex)
    return grad_cam(head, head.there, there.detach().float(), lambda months: months)


class _Months(nn.Module):
    """The network after its last map."""

    def __init__(self, model: BoneAge, sex: Tensor):
        super().__init__()
        self.model = model
        self.there = nn.Identity()
        self.share = torch.nan_to_num(sex.float(), 0.5)

    def forward(self, there: Tensor) -> Tensor:
        features = self.model.pool(self.there(there))
        girl, boy = (
            self.model.answers(features, torch.full_like(self.share, one))[0] for one in (0.0, 1.0)
        )
        return (1 - self.share) * girl + self.share * boy
