"""Bone age: a radiograph of a hand and the sex in, months out; the network of BoneXage on any backbone.

    map or tokens -> GeM -> [pooled | code of the sex] -> BN, 512, Mish, BN, 64, Mish, 1 -> 240 x sigmoid

Sex is 1 (male) or 0 (female). A network that learns its own spread has a second output. B radiographs, D channels.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.system import distributed
from models.networks.gem import GeM
from training.objective import Objective

MOST_MONTHS = 240.0
LOSSES = ("hybrid", "l1", "l1l2", "laplace")
_LEAST_SPREAD = 0.5  # months; what readers agree to at best
_MALE = ("m", "male", "true", "1")
_FEMALE = ("f", "female", "false", "0")


class BoneAges(NamedTuple):
    """`months` [B] from 0 to 240; `sd` [B] in months, as the network itself tells it, or None; both float32."""

    months: Tensor
    sd: Tensor | None


class SexEncoder(nn.Module):
    """Sex [B, 1], 1 or 0, -> its code [B, 32]."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(1, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 32), nn.ReLU()
        )

    def forward(self, sex: Tensor) -> Tensor:
        return self.fc(sex)


class BoneAge(Objective):
    """`backbone`'s last map or patch tokens, GeM, sex, head. `loss`: of `LOSSES`; "laplace" learns the spread, too.

    A batch has "image" [B, 1 or 3, h, w], "target" [B] in months (NaN does not count) and "extra" [B, 1], the sex.
    `normalise`: from the data set's pixels to the backbone's input (`Preprocessing.normalise`). Pooling and head are in
    float32 under any autocast: bf16 has steps of a quarter of a month.
    """

    def __init__(
        self,
        backbone: nn.Module,
        normalise: Callable[[Tensor], Tensor] | None = None,
        loss: str = "hybrid",
    ):
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"loss {loss!r}: choose {', '.join(LOSSES)}")
        self.backbone = backbone
        self.normalise = normalise
        self.loss = loss
        width = backbone.network.num_features
        _forget_head(backbone.network)
        backbone.network.to(
            memory_format=torch.channels_last
        )  # convolutions and GPUs are a little quicker with it
        self.pool = GeM()
        self.sex_encoder = SexEncoder()
        self.head = nn.Sequential(
            nn.BatchNorm1d(width + 32),
            nn.Dropout(0.5),
            nn.Linear(width + 32, 512),
            nn.Mish(),
            nn.BatchNorm1d(512),
            nn.Dropout(0.4),
            nn.Linear(512, 64),
            nn.Mish(),
            nn.Linear(64, 1 + self.tells_spread),
        )

    @property
    def tells_spread(self) -> bool:
        """Whether it has an `sd` of its own."""
        return self.loss == "laplace"

    def forward(self, batch: dict, progress: float = 0.0) -> dict[str, Tensor]:
        months, scale = self.answers(self.features(batch["image"]), batch["extra"][:, 0])
        known = ~torch.isnan(batch["target"])
        months = months[known]
        target = batch["target"][known].float()
        # the mean over processes of what follows is the mean over all their known rows
        count = known.sum().float()
        total = distributed.mean(count)
        if not len(target):
            return {"loss": months.sum(), "mae": months.detach().sum()}
        share = count / total
        loss = bone_age_loss(self.loss, months, target, None if scale is None else scale[known])
        return {"loss": loss * share, "mae": (months.detach() - target).abs().mean() * share}

    def last_map(self, images: Tensor) -> Tensor:
        """The backbone's last map, or its patch tokens as one: [B, D, rows, columns], with its gradient."""
        tokens = self._tokens(images)
        rows = max(1, round((tokens.shape[1] * images.shape[2] / images.shape[3]) ** 0.5))
        if tokens.shape[1] % rows:
            raise ValueError(
                f"{tokens.shape[1]} patches of {list(images.shape[2:])} pixels make no grid"
            )
        return tokens.transpose(1, 2).unflatten(2, (rows, -1))

    @property
    def width(self) -> int:
        """D, the length of `features`."""
        return self.backbone.network.num_features

    def features(self, images: Tensor) -> Tensor:
        """The pooled radiograph, [B, D] float32; it does not depend on the sex."""
        return self.pool(self._tokens(images))

    def _tokens(self, images: Tensor) -> Tensor:
        """[B, N, D], row by row."""
        images = images if self.normalise is None else self.normalise(images)
        return self.backbone.tokens(images.contiguous(memory_format=torch.channels_last))["patch"]

    def answers(self, features: Tensor, sex: Tensor) -> tuple[Tensor, Tensor | None]:
        """Months [B] and the scale of Laplace's distribution [B] or None, with gradients; `sex` [B] of 1 and 0."""
        with torch.autocast(features.device.type, enabled=False):
            code = self.sex_encoder(sex.float()[:, None])
            outputs = self.head(torch.cat([features.float(), code], dim=1))
        months = MOST_MONTHS * outputs[:, 0].sigmoid()
        return months, _LEAST_SPREAD + 10 * F.softplus(outputs[:, 1]) if self.tells_spread else None

    @torch.no_grad()
    def months(self, features: Tensor, sex: Tensor) -> BoneAges:
        """The answer for each radiograph of `features` [B, D]; `sex` [B]: 1 male, 0 female, NaN unknown.

        Where the sex is unknown it is the mean of both answers, and `sd`, if there is one, that of their mixture: it
        grows by what they differ. The published network knows no third sex. ValueError for other numbers.
        """
        sex = sex.to(features.device, torch.float32)
        unknown = torch.isnan(sex)
        if not bool((unknown | (sex == 0) | (sex == 1)).all()):
            raise ValueError(
                f"sex {sex.tolist()[:20]}: expected 1 (male), 0 (female) or NaN (unknown)"
            )
        answer = self._as_sd(*self.answers(features, sex.nan_to_num(0.0)))
        if not bool(unknown.any()):
            return answer
        male = self._as_sd(*self.answers(features, torch.ones_like(sex)))
        months = torch.where(unknown, (answer.months + male.months) / 2, answer.months)
        if answer.sd is None:
            return BoneAges(months, None)
        apart = ((answer.months - male.months) / 2).square()
        mixed = ((answer.sd.square() + male.sd.square()) / 2 + apart).sqrt()
        return BoneAges(months, torch.where(unknown, mixed, answer.sd))

    @torch.no_grad()
    def settle(self, features: Tensor, sex: Tensor) -> None:
        """Give the norms of sex and head the statistics that `features` [K, D] and `sex` [K] of training radiographs
        have without dropout; K of two or more.

        While training, dropout before a norm makes its inputs vary more than they do afterwards, so that predictions
        are off to one side (Li et al. 2019, https://arxiv.org/abs/1801.05134; measured anew as by Wu and Johnson 2021,
        https://arxiv.org/abs/2105.07576, section 3). BoneXage leaves it at that.
        """
        if len(features) < 2:
            raise ValueError(
                f"the statistics of {len(features)} radiographs; at least two are needed"
            )
        self.eval()
        code = _settled(self.sex_encoder.fc, sex.to(features.device).float()[:, None])
        _settled(self.head, torch.cat([features.float(), code], dim=1))

    @torch.no_grad()
    def predict(self, images: Tensor, extra: Tensor) -> Tensor:
        """For `training.fold.predictions`: [B, 2] with months and sd (NaN without one); `extra` [B, 1], the sex."""
        months, sd = self.months(self.features(images), extra[:, 0])
        return torch.stack(
            [months, torch.full_like(months, torch.nan) if sd is None else sd], dim=1
        )

    def _as_sd(self, months: Tensor, scale: Tensor | None) -> BoneAges:
        return BoneAges(months, None if scale is None else scale * 2**0.5)


def _settled(layers: nn.Sequential, values: Tensor) -> Tensor:
    """What the layers make of values [K, D], each norm with the statistics of what reaches it."""
    for layer in layers:
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.copy_(values.mean(dim=0))
            layer.running_var.copy_(values.var(dim=0))
        values = layer(values)
    return values


def _forget_head(network: nn.Module) -> None:
    """Take away or freeze what comes after the features: it would be a parameter without gradient."""
    if hasattr(network, "head") and not hasattr(network, "fc_norm"):
        network.head = nn.Identity()  # ConvNeXt's own norm of pooled features
    for name in ("fc_norm", "attn_pool"):
        part = getattr(network, name, None)
        if isinstance(part, nn.Module):
            part.requires_grad_(False)


def bone_age_loss(
    kind: str, months: Tensor, target: Tensor, spread: Tensor | None = None
) -> Tensor:
    """The mean loss of `months` [B] against `target` [B], by its name; "laplace" needs `spread` [B]."""
    if kind == "laplace":
        if spread is None:
            raise ValueError("the loss 'laplace' needs a spread")
        return laplace_loss(months, target, spread)
    losses = {"hybrid": hybrid_loss, "l1": F.l1_loss, "l1l2": l1_l2_loss}
    if kind not in losses:
        raise ValueError(f"loss {kind!r}: choose {', '.join(LOSSES)}")
    return losses[kind](months, target)


def hybrid_loss(
    months: Tensor, target: Tensor, absolute: float = 0.7, relative: float = 0.3
) -> Tensor:
    """`absolute` x mean |error| + `relative` x mean of |error| / target, in months: BoneXage's.

    A target below one month counts as one month: there the published code divides by 1e-8.
    """
    error = (months - target).abs()
    return absolute * error.mean() + relative * (error / target.clamp(min=1.0)).mean()


def l1_l2_loss(months: Tensor, target: Tensor, absolute: float = 0.5) -> Tensor:
    """`absolute` x mean |error| + (1 - `absolute`) x mean squared error."""
    return absolute * F.l1_loss(months, target) + (1 - absolute) * F.mse_loss(months, target)


def laplace_loss(months: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Mean negative logarithm of Laplace's density: |error| / scale + log(2 scale); its SD is sqrt(2) x scale.

    Kendall and Gal, What uncertainties do we need in Bayesian deep learning, NeurIPS 2017,
    https://arxiv.org/abs/1703.04977, section 3. Laplace and not Gauss, because for each scale its best `months` is the
    median, which the absolute error asks for, and because a gross misreading costs by its size and not by its square.
    """
    return ((months - target).abs() / scale + (2 * scale).log()).mean()


def sex_code(word: object) -> float:
    """A word for the sex as the network's number: 1 male, 0 female, NaN unknown. A closed list, in any case:

    m, male, true, 1; f, female, false, 0; u, unknown, nothing, NaN, NA, None. 1 is male as in RSNA's column `male` and
    in BoneXage's command; DICOM's "O" (other) is unknown. ValueError for anything else: "2" is a woman in some tables.
    """
    told = "" if word is None else str(word).strip().lower()
    told = {"1.0": "1", "0.0": "0"}.get(told, told)
    if told in ("", "u", "unknown", "o", "nan", "na", "none", "<na>"):
        return float("nan")
    if told in _MALE or told in _FEMALE:
        return float(told in _MALE)
    raise ValueError(
        f"sex is {str(word)[:50]!r}; expected male or female, m or f, true or false (column male), 1 (male) or 0, "
        "or unknown"
    )
