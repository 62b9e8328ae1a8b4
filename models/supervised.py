"""A backbone, a linear head and a loss: everything that learns from labels.

Shapes: B radiographs, D backbone width, O outputs.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.objective import Objective


def supervised_loss(kind: str, outputs: Tensor, target: Tensor) -> Tensor:
    """Mean loss in float32 of `outputs` [B, O] against `target` [B]; rows whose target is NaN do not count.

    `kind`: "binary" (logit), "multiclass" (class index) or "regression" (squared error of the standardised value).
    """
    known = ~torch.isnan(target)
    outputs, target = outputs.float()[known], target[known]
    if not known.any():
        return outputs.sum()
    if kind == "binary":
        return F.binary_cross_entropy_with_logits(outputs[:, 0], target)
    if kind == "multiclass":
        return F.cross_entropy(outputs, target.long())
    return F.mse_loss(outputs[:, 0], target)


class Supervised(Objective):
    """`backbone` [B, 3, h, w] -> [B, D], then one linear layer. For regression the target is standardised with
    `mean` and `std`, and `predict` answers in the target's own unit."""

    def __init__(self, backbone: nn.Module, kind: str, outputs: int,
                 normalise: Callable[[Tensor], Tensor] | None = None, mean: float = 0.0, std: float = 1.0):  # fmt: skip
        super().__init__()
        self.backbone, self.kind, self.normalise = backbone, kind, normalise
        self.head = nn.Linear(backbone.dim, outputs)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))

    def forward(self, batch: dict, progress: float = 0.0) -> dict[str, Tensor]:
        target = (batch["target"] - self.mean) / self.std if self.kind == "regression" else batch["target"]
        return {"loss": supervised_loss(self.kind, self.outputs(batch["image"]), target)}

    def outputs(self, images: Tensor) -> Tensor:
        """Logits or standardised values, [B, O]."""
        return self.head(self.backbone(images if self.normalise is None else self.normalise(images)))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Probabilities [B] or [B, O], or values [B] in the target's unit; float32."""
        outputs = self.outputs(images).float()
        if self.kind == "binary":
            return outputs[:, 0].sigmoid()
        if self.kind == "multiclass":
            return outputs.softmax(dim=1)
        return outputs[:, 0] * self.std + self.mean
