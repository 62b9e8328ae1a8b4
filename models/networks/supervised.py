"""A backbone, a linear head and a loss: everything that learns from labels.

Shapes: B radiographs, D backbone width, O outputs, E covariates, K classes.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.system import distributed
from training.objective import Objective


def supervised_loss(
    kind: str,
    outputs: Tensor,
    target: Tensor,
    class_weights: Tensor | None = None,
    over_processes: Callable[[Tensor], Tensor] = lambda total: total,
) -> Tensor:
    """Mean loss in float32 of `outputs` [B, O] against `target` [B]; rows whose target is NaN do not count.

    `kind`: "binary" (logit), "multiclass" (class index) or "regression" (squared error of the standardised value).
    `class_weights` [K], K = 2 for "binary": a weighted mean, each row with the weight of its class (as
    torch.nn.CrossEntropyLoss). Classes are not smoothed. `over_processes`: the mean of a sum of weights over all
    processes, so that the mean of their losses is the loss of all their rows together.
    """
    known = ~torch.isnan(target)
    outputs = outputs.float()[known]
    target = target[known]
    if kind == "multiclass":
        each = F.cross_entropy(outputs, target.long(), reduction="none")
    elif kind == "regression":
        each = (outputs[:, 0] - target).square()
    else:
        each = F.binary_cross_entropy_with_logits(outputs[:, 0], target, reduction="none")
    weights = torch.ones_like(target) if class_weights is None else class_weights[target.long()]
    total = over_processes(weights.sum())
    return (each * weights).sum() / torch.where(total > 0, total, 1)


def balanced_weights(target: Sequence[float], classes: int) -> list[float]:
    """Weights under which all of `classes` (2 for a binary task) count the same: known rows / (classes there are x rows
    of the class), as scikit-learn's "balanced". 1 for a class without a row; NaN targets do not count.

    ValueError if nothing is known.
    """
    known = [int(value) for value in target if value == value]
    if not known:
        raise ValueError("class weights: no target is known")
    counts = [known.count(label) for label in range(classes)]
    there = sum(count > 0 for count in counts)
    return [len(known) / (there * count) if count else 1.0 for count in counts]


class Supervised(Objective):
    """`backbone` [B, 3, h, w] -> [B, D], then one linear layer. For regression the target is standardised with
    `mean` and `std`, and `predict` answers in the target's own unit.

    `class_weights`: see `supervised_loss`. `covariates` E: the head also sees as many numbers of each radiograph,
    batch["extra"] [B, E] (sex, for bone age: see `sex_covariate`), beside its feature.
    """

    def __init__(
        self,
        backbone: nn.Module,
        kind: str,
        outputs: int,
        normalise: Callable[[Tensor], Tensor] | None = None,
        mean: float = 0.0,
        std: float = 1.0,
        class_weights: Sequence[float] | None = None,
        covariates: int = 0,
    ):
        super().__init__()
        if kind == "regression" and not std > 0:
            raise ValueError(
                f"regression: a standard deviation of {std} of the targets; they must differ"
            )
        self.backbone = backbone
        self.kind = kind
        self.normalise = normalise
        self.covariates = covariates
        self.head = nn.Linear(backbone.dim + covariates, outputs)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))
        expected = 2 if kind == "binary" else outputs
        if class_weights is not None and (kind == "regression" or len(class_weights) != expected):
            raise ValueError(
                f"{len(class_weights)} class weights for a {kind} task with {outputs} outputs"
            )
        weights = (
            None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        )
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, batch: dict, progress: float = 0.0) -> dict[str, Tensor]:
        target = (
            (batch["target"] - self.mean) / self.std
            if self.kind == "regression"
            else batch["target"]
        )
        outputs = self.outputs(batch["image"], batch.get("extra"))
        return {
            "loss": supervised_loss(
                self.kind, outputs, target, self.class_weights, distributed.mean
            )
        }

    def outputs(self, images: Tensor, extra: Tensor | None = None) -> Tensor:
        """Logits or standardised values, [B, O]; `extra` [B, E] float."""
        features = self.features(images)
        if self.covariates:
            if extra is None or extra.shape != (len(images), self.covariates):
                shape = None if extra is None else tuple(extra.shape)
                raise ValueError(f"'extra' is {shape}; expected {(len(images), self.covariates)}")
            features = torch.cat([features, extra.to(features.dtype)], dim=1)
        return self.head(features)

    @property
    def width(self) -> int:
        """D, the length of `features`."""
        return self.backbone.dim

    def features(self, images: Tensor) -> Tensor:
        """What the backbone gives, [B, D]."""
        return self.backbone(images if self.normalise is None else self.normalise(images))

    @torch.no_grad()
    def predict(self, images: Tensor, extra: Tensor | None = None) -> Tensor:
        """Probabilities [B] or [B, O], or values [B] in the target's unit; float32."""
        outputs = self.outputs(images, extra).float()
        if self.kind == "binary":
            return outputs[:, 0].sigmoid()
        if self.kind == "multiclass":
            return outputs.softmax(dim=1)
        return outputs[:, 0] * self.std + self.mean


def sex_covariate(values: Sequence) -> list[float]:
    """Sex as a number for the head: male 1, female -1, unknown (empty, NaN) 0.

    Taken are true/false as in RSNA's column `male`, m/f and male/female in any case; ValueError for others (of 0 and 1
    nobody knows which is which).
    """
    return [_sex(value) for value in values]


def _sex(value) -> float:
    told = str(value).strip().lower()
    if value is None or told in ("", "nan", "none", "<na>"):
        return 0.0
    if told in ("true", "m", "male"):
        return 1.0
    if told in ("false", "f", "female"):
        return -1.0
    raise ValueError(
        f"sex is {value!r}; expected male or female, m or f, true or false (column male), or empty"
    )
