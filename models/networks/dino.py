"""Self-distillation with no labels, DINO (Caron et al., 2021, https://arxiv.org/abs/2104.14294).

A student learns to give, from any view of a radiograph, the distribution over prototypes that its teacher gives from
another, larger view; the teacher is the running average of the student (section 3.1, algorithm 1). DAX (Scheuplein et
al., MICCAI 2025) trains so on X-ray pictures.

Shapes: B radiographs, G global views (seen by both networks), V views in all (the student sees all), C channels,
h x w pixels of a view, D width of the backbone, K prototypes.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from core.system import distributed
from training.objective import Objective
from training.optim import clip_each
from training.schedules import Schedule


class DINOHead(nn.Module):
    """MLP, bottleneck of unit length, weight-normalised prototypes (section 3.1, appendix C): [N, dim] -> [N, K].

    `layers`: of the MLP. `batch_norm`: after each hidden layer. `fixed_gain`: prototypes keep length 1, else their
    lengths are learned. `weight_normed` False gives the plain last layer that heads from elsewhere have.
    """

    def __init__(
        self,
        dim: int,
        prototypes: int = 65536,
        *,
        layers: int = 3,
        hidden: int = 2048,
        bottleneck: int = 256,
        batch_norm: bool = False,
        fixed_gain: bool = True,
        weight_normed: bool = True,
    ):
        super().__init__()
        if layers < 1 or prototypes < 2:
            raise ValueError(
                f"a DINO head of {layers} layers and {prototypes} prototypes: expected at least 1 and 2"
            )
        widths = [dim, *[hidden] * (layers - 1), bottleneck]
        parts: list[nn.Module] = []
        for number, (wide, narrow) in enumerate(zip(widths, widths[1:])):
            parts.append(nn.Linear(wide, narrow))
            if number + 1 < layers:
                parts += [nn.BatchNorm1d(narrow)] if batch_norm else []
                parts.append(nn.GELU())
        self.mlp = nn.Sequential(*parts) if len(parts) > 1 else parts[0]
        for part in parts:
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        self.last_layer = nn.Linear(bottleneck, prototypes, bias=False)
        if weight_normed:
            self.last_layer = weight_norm(self.last_layer)
            gain = self.last_layer.parametrizations.weight.original0
            nn.init.ones_(gain)
            gain.requires_grad_(not fixed_gain)

    def forward(self, features: Tensor) -> Tensor:
        return self.last_layer(F.normalize(self.mlp(features).float(), dim=-1))


class ProjectedBackbone(nn.Module):
    """A backbone [N, C, h, w] -> [N, D] and its head: student or teacher."""

    def __init__(self, backbone: nn.Module, head: DINOHead):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Views [N_i, C, h_i, w_i] -> logits [sum N_i, K] and features [sum N_i, D], both float32, in the order given.

        Neighbours of one size go through the backbone in one batch, all features through the head in one.
        """
        batches: list[list[Tensor]] = []
        for view in views:
            if batches and batches[-1][0].shape[1:] == view.shape[1:]:
                batches[-1].append(view)
            else:
                batches.append([view])
        features = torch.cat([self.backbone(torch.cat(same)) for same in batches])
        return self.head(features).float(), features.float()


class DINO(Objective):
    """Student, teacher, centre and loss. A batch holds "global" [B, G, C, h, w] and perhaps "local" [B, V - G, ...].

    `teacher` starts as a copy of `student` and gets no gradients; both are in training mode, so that batch norms use
    the statistics of the batch. `normalise` makes network pixels [N, 3, h, w] of views [N, C, h, w]. Over progress:
    `teacher_temperature` and `momentum` (of the running average). `freeze_last_layer`: part of the training in which
    the prototypes stay as they are. `clip_each_norm`: largest gradient norm of every single parameter, as the published
    code clips.

    Logged besides "loss": "teacher_entropy" (of its distributions, nats), "kl" (from them to the student's) and
    "feature_sd" (spread of the teacher's normalised features over the radiographs, 1 when in all directions). See
    `signs_of_collapse`.
    """

    def __init__(
        self,
        student: ProjectedBackbone,
        teacher: ProjectedBackbone,
        normalise: Callable[[Tensor], Tensor] | None = None,
        *,
        teacher_temperature: Schedule,
        momentum: Schedule,
        student_temperature: float = 0.1,
        centre_momentum: float = 0.9,
        freeze_last_layer: float = 0.0,
        clip_each_norm: float | None = None,
    ):
        super().__init__()
        self.student = student
        self.teacher = teacher
        teacher.load_state_dict(student.state_dict())
        teacher.requires_grad_(False)
        self._normalise = normalise or (lambda images: images)
        self.teacher_temperature = teacher_temperature
        self.momentum = momentum
        self.student_temperature = student_temperature
        self.centre_momentum = centre_momentum
        self.freeze_last_layer = freeze_last_layer
        self.clip_each_norm = clip_each_norm
        self.register_buffer("centre", torch.zeros(1, student.head.last_layer.out_features))
        self._step: tuple[float, list[Tensor]] = (
            -1.0,
            [],
        )  # progress of the step, mean teacher logits of its passes

    def forward(self, batch: dict, progress: float) -> dict[str, Tensor]:
        # a list of V views, each [B, 3, h, w]; the global ones first
        parts = [batch[name] for name in ("global", "local") if name in batch]
        views = [self._normalise(view) for part in parts for view in part.unbind(1)]
        count = batch["global"].shape[1]
        with torch.no_grad():
            logits, features = self.teacher(views[:count])  # [G * B, K], [G * B, D]
            targets = F.log_softmax(
                (logits - self.centre) / self.teacher_temperature(progress), dim=-1
            )
            probabilities = targets.exp()
            entropy = -(probabilities * targets).sum(-1).mean()
            del targets
        seen, _ = self.student(views)  # [V * B, K]
        rows = len(views[0])
        loss = dino_loss(
            seen.unflatten(0, (-1, rows)),
            probabilities.unflatten(0, (-1, rows)),
            self.student_temperature,
        )
        if self.training:
            self._note(logits.mean(dim=0, keepdim=True), progress)
        told = {
            "teacher_entropy": entropy,
            "kl": loss.detach() - entropy,
            "feature_sd": feature_sd(features),
        }
        return {"loss": loss} | told

    def _note(self, mean_logits: Tensor, progress: float) -> None:
        """For the centre. Another progress is another step: one that was skipped leaves nothing behind."""
        if self._step[0] != progress:
            self._step = (progress, [])
        self._step[1].append(mean_logits)

    def before_step(self, progress: float) -> None:
        if self.clip_each_norm:
            clip_each(self.student.parameters(), self.clip_each_norm)
        if progress < self.freeze_last_layer - 1e-9:
            for parameter in self.student.head.last_layer.parameters():
                parameter.grad = None

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """The teacher's weights follow the student's, the centre the teacher's logits (equation 4)."""
        running_average(
            self.teacher.parameters(), self.student.parameters(), self.momentum(progress)
        )
        if self._step[1]:
            mean = distributed.mean(torch.stack(self._step[1]).mean(dim=0))
            self.centre.lerp_(mean, 1.0 - self.centre_momentum)
        self._step = (-1.0, [])


def dino_loss(student: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of every student view with every teacher view but itself, averaged (equation 3). A scalar, float32.

    student: logits [V, B, K] of all views, of which the first G are the teacher's; targets: probabilities [G, B, K].
    A target sums to 1, so that -sum_k q_k log p_k = logsumexp(s) - q . s with s = logits / `temperature`: the sum over
    pairs needs one normaliser for each view, and one product for all local views together. ValueError unless V > G - 1
    and there is at least one pair.
    """
    seen = len(student)
    count = len(targets)
    pairs = count * (seen - 1)
    if seen < count or pairs < 1:
        raise ValueError(
            f"{seen} student views and {count} teacher views: there is no pair to compare"
        )
    logits = student.float() / temperature
    targets = targets.float()
    normalisers = logits.logsumexp(dim=-1)  # [V, B]
    total = targets.sum(dim=0)  # [B, K]
    aligned = sum((logits[i] * (total - targets[i])).sum(-1) for i in range(count))
    loss = (count - 1) * normalisers[:count].sum(0) - aligned
    if seen > count:
        loss = loss + count * normalisers[count:].sum(0) - (logits[count:].sum(0) * total).sum(-1)
    return loss.mean() / pairs


@torch.no_grad()
def running_average(averages, values, momentum: float) -> None:
    """`averages` (parameters) become momentum * averages + (1 - momentum) * `values`, in place, in one call."""
    torch._foreach_lerp_(list(averages), list(values), 1.0 - momentum)


@torch.no_grad()
def feature_sd(features: Tensor) -> Tensor:
    """Standard deviation of unit-length features [N, D] over N, averaged over D and times sqrt(D).

    Near 1 where they point in all directions, 0 where all are the same.
    """
    unit = F.normalize(features.float(), dim=-1)
    return unit.std(dim=0, correction=0).mean() * math.sqrt(features.shape[-1])


def signs_of_collapse(record: dict[str, float], prototypes: int) -> list[str]:
    """Sentences on what a record of the log tells of a collapse; [] if all is well.

    A teacher collapses (section 5.3) to one prototype for every radiograph (no entropy, features all the same) or to no
    preference at all (the entropy of a uniform distribution, nothing left to learn).
    """
    if not {"teacher_entropy", "kl", "feature_sd"} <= record.keys():
        return []
    most = math.log(prototypes)
    told = []
    if record["teacher_entropy"] > 0.995 * most:
        told.append(
            f"the teacher prefers no prototype (entropy {record['teacher_entropy']:.3f} of at most {most:.3f})"
        )
    elif record["teacher_entropy"] < 0.005 * most and record["kl"] < 0.005 * most:
        told.append(
            f"teacher and student choose one prototype for all (entropy {record['teacher_entropy']:.3f})"
        )
    if record["feature_sd"] < 0.02:
        told.append(
            f"the features of all radiographs are nearly the same (spread {record['feature_sd']:.4f})"
        )
    return told
