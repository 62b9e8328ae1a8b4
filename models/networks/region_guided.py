"""The region-guided tumour classifier: a backbone, 38 outputs, and a loss that leaves out what a source does not know.

SKELEX (Kim et al., npj Digital Medicine 2026, https://doi.org/10.1038/s41746-026-02826-9): binary cross-entropy of the
labels that stand for themselves, as one mean over all known entries, plus the cross-entropy of each softmax group, as
the mean over the radiographs whose group is known. All groups have weight 1.

B: crops or radiographs, D: backbone width, L: 38 labels (core/tumour_labels.py).
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.system import distributed
from core.tumour_labels import GROUP, GROUPS, LABELS
from training.objective import Objective


def group_losses(
    logits: Tensor,
    target: Tensor,
    unknown: Tensor | None = None,
    over_processes: Callable[[Tensor], Tensor] = lambda count: count,
) -> dict[str, Tensor]:
    """Name of each of `GROUPS` -> its mean loss, a scalar in float32.

    logits: [B, L]. target: [B, L], 0 or 1; what it holds where it is unknown, also NaN, does not count. unknown: [B, L]
    bool or 0/1, the NaN of `target` if None. A softmax group with an unknown label is left out for that row. A group of
    which nothing is known has loss 0 and gradient 0. over_processes: the mean of a count over all processes, so that
    the mean of their losses is the loss of all their rows together. ValueError for a known softmax group without
    exactly one label: an empty one is no class 0.
    """
    if logits.shape[1:] != (len(LABELS),) or target.shape != logits.shape:
        raise ValueError(
            f"logits {list(logits.shape)} and targets {list(target.shape)}; expected [B, {len(LABELS)}]"
        )
    unknown = torch.isnan(target) if unknown is None else unknown.bool()
    losses = {}
    for group in GROUPS:
        columns = list(group.indices)
        hidden = unknown[:, columns]
        if group.kind == "softmax":
            hidden = hidden.any(dim=1, keepdim=True).expand_as(hidden)
        # filled in before the loss, so that whatever lies there has no gradient, not even NaN
        outputs = logits[:, columns].float().masked_fill(hidden, 0)
        truth = target[:, columns].float()
        truth = truth.masked_fill(hidden, 0)
        if group.kind == "sigmoid":
            each = F.binary_cross_entropy_with_logits(outputs, truth, reduction="none").masked_fill(
                hidden, 0
            )
            count = (~hidden).sum()
        else:
            used = ~hidden[:, 0]
            if (used & ((truth == 1).sum(1) != 1) | ((truth != 0) & (truth != 1)).any(1)).any():
                raise ValueError(f"a known {group.name} without exactly one label")
            each = -(F.log_softmax(outputs, dim=1) * truth).sum(dim=1)
            count = used.sum()
        count = over_processes(count.float())
        losses[group.name] = each.sum() / torch.where(count > 0, count, 1)
    return losses


def masked_group_loss(
    logits: Tensor,
    target: Tensor,
    unknown: Tensor | None = None,
    weights: Mapping[str, float] | None = None,
) -> Tensor:
    """The sum of `group_losses`, each times its weight (1 where `weights` does not name it)."""
    weights = _checked_weights(weights)
    return sum(weights[name] * loss for name, loss in group_losses(logits, target, unknown).items())


def group_probabilities(logits: Tensor) -> Tensor:
    """[..., L] logits -> probabilities in float32: each sigmoid label for itself, each softmax group summing to 1."""
    logits = logits.float()
    probabilities = torch.empty_like(logits)
    for group in GROUPS:
        columns = list(group.indices)
        part = logits[..., columns]
        probabilities[..., columns] = (
            part.sigmoid() if group.kind == "sigmoid" else part.softmax(dim=-1)
        )
    return probabilities


class RegionGuided(Objective):
    """`backbone` [B, 3, h, w] -> [B, D], then one linear layer to the 38 labels.

    normalise: from the data set's pixels to the backbone's input (`Preprocessing.normalise`). weights: of the groups by
    name, 1 where not named. A batch has "image" [B, 1, h, w], "target" [B, L] and "unknown" [B, L].
    """

    def __init__(
        self,
        backbone: nn.Module,
        normalise: Callable[[Tensor], Tensor] | None = None,
        weights: Mapping[str, float] | None = None,
    ):
        super().__init__()
        self.backbone = backbone
        self.normalise = normalise
        self.weights = _checked_weights(weights)
        self.head = nn.Linear(backbone.dim, len(LABELS))
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: dict, progress: float = 0.0) -> dict[str, Tensor]:
        losses = group_losses(
            self.outputs(batch["image"]), batch["target"], batch["unknown"], distributed.mean
        )
        return {"loss": sum(self.weights[name] * loss for name, loss in losses.items()), **losses}

    def outputs(self, images: Tensor) -> Tensor:
        """Logits, [B, L]."""
        return self.head(self.features(images))

    @property
    def width(self) -> int:
        """D, the length of `features`."""
        return self.backbone.dim

    def features(self, images: Tensor) -> Tensor:
        """What the backbone gives, [B, D]."""
        return self.backbone(images if self.normalise is None else self.normalise(images))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Probabilities, [B, L] float32."""
        return group_probabilities(self.outputs(images))


def _checked_weights(weights: Mapping[str, float] | None) -> dict[str, float]:
    weights = dict(weights or {})
    for name, weight in weights.items():
        if name not in GROUP:
            raise ValueError(f"weight of the group {name!r}; choices {', '.join(GROUP)}")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight {weight} of the group {name!r}; expected 0 or more")
    return {name: float(weights.get(name, 1)) for name in GROUP}
