"""One multi-crop step of DINO (both networks, loss, backward, clipping, AdamW, average) against a straightforward one.

    python benchmarks/dino_step.py --batch_size 4 --rounds 5

The straightforward step does what published code does, as plainly: a softmax for every pair of views, one parameter
after the other clipped and averaged, all tokens of the last block, fused attention, PyTorch as installed. Equal
weights, views and prototypes; loss and gradients are compared first, and a difference ends the benchmark. Prints JSON
lines.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import copy
from functools import partial
from dataclasses import dataclass

from benchmarks.steps import Steps
from core.flags import flag, run


@dataclass
class Config:
    """Time one multi-crop step, ours against a straightforward one."""

    arch: str = flag("vit_small", "backbone, patches of 16")
    global_size: int = flag(224, "side of the two global views, pixels")
    local_size: int = flag(96, "side of the local views, pixels")
    local_crops_number: int = flag(8, "local views")
    out_dim: int = flag(65536, "prototypes")
    batch_size: int = flag(4, "radiographs per step")
    rounds: int = flag(5, "rounds; in each, every variant makes one step")
    threads: int = flag(1, "processor threads")
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")


def main(config: Config) -> int:
    """Print one line for each variant."""
    import torch

    from benchmarks.steps import report_steps
    from core.system.device import choose_device

    torch.set_num_threads(config.threads)
    pair = Pair(config, choose_device(config.device))
    views = f"2 x {config.global_size} + {config.local_crops_number} x {config.local_size}"
    case = f"{config.arch.removeprefix('vit_')}, {views}, {config.out_dim} prototypes"
    report_steps(case, pair, config.batch_size, config.rounds, compiled=False)
    return 0


class Pair(Steps):
    """The same student and teacher twice, with one batch of views."""

    yardstick = "plain"

    def __init__(self, config: Config, device):
        import torch

        from timm.models.vision_transformer import VisionTransformer

        from models.networks.dino import DINO, DINOHead, ProjectedBackbone
        from models.backbones.dino import dino_backbone, width_of
        from core.system.device import use_explicit_attention
        from training.schedules import constant

        torch.manual_seed(0)
        networks = []
        for _ in range(2):
            backbone = dino_backbone(config.arch, 16, config.global_size)
            networks.append(
                ProjectedBackbone(backbone, DINOHead(width_of(backbone), config.out_dim))
            )
        self.device = device
        B = config.batch_size
        self.ours = DINO(
            *networks,
            teacher_temperature=constant(0.04),
            momentum=constant(0.996),
            clip_each_norm=3.0,
        )
        self.ours.to(device).train()
        self.plain = copy.deepcopy(self.ours)  # its loss and its hooks are not used
        for part in (self.plain.student, self.plain.teacher):
            if isinstance(
                part.backbone, VisionTransformer
            ):  # all tokens of the last block, as timm makes them
                part.backbone.forward = partial(VisionTransformer.forward, part.backbone)
        use_explicit_attention(self.ours, device)
        self.batch = {
            "global": torch.randn(B, 2, 3, config.global_size, config.global_size, device=device)
        }
        if config.local_crops_number:
            size = (B, config.local_crops_number, 3, config.local_size, config.local_size)
            self.batch["local"] = torch.randn(size, device=device)
        self.check_equal()

    def check_equal(self) -> None:
        """Equal work: the loss, and the gradient of a matrix at each end, agree in float32."""
        import torch

        ours = self.our_loss()
        plain = self.plain_loss()
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
        ours.backward()
        plain.backward()
        last = "head.last_layer.parametrizations.weight.original1"
        for name in ("backbone.patch_embed.proj.weight", last):
            found, expected = (
                part.student.get_parameter(name).grad for part in (self.ours, self.plain)
            )
            torch.testing.assert_close(
                found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item()
            )
        self.zero()
        self.ours.centre.zero_()
        self.plain.centre.zero_()

    def zero(self) -> None:
        """Drop the gradients of both."""
        for part in (self.ours, self.plain):
            part.zero_grad(set_to_none=True)

    def our_loss(self):
        """Ours, through the objective as the training loop calls it."""
        return self.ours(self.batch, 0.5)["loss"]

    def plain_loss(self):
        """Equation 3 as it stands."""
        import torch
        import torch.nn.functional as F

        net = self.plain
        views = [view for part in self.batch.values() for view in part.unbind(1)]
        with torch.no_grad():
            self.logits = net.teacher(views[:2])[0]
            targets = ((self.logits - net.centre) / 0.04).softmax(-1).chunk(2)
        student = (net.student(views)[0] / 0.1).chunk(len(views))
        terms = [
            (-target * F.log_softmax(logits, dim=-1)).sum(-1).mean()
            for t, target in enumerate(targets)
            for s, logits in enumerate(student)
            if s != t
        ]
        return sum(terms) / len(terms)

    def steps(self, compiled: bool) -> dict:
        """{name: a function that makes one step}."""
        import torch

        from training.optim import adamw, parameter_groups

        mine = adamw(parameter_groups(self.ours))
        for group in mine.param_groups:
            group["lr"] = 1e-6
            group["weight_decay"] = 0.04 * group["weight_decay_scale"]
        other = torch.optim.AdamW(self.plain.student.parameters(), lr=1e-6, weight_decay=0.04)
        result = {}
        for precision in ("fp32", "bf16"):
            result[f"plain, {precision}"] = lambda p=precision: self.plain_step(other, p)
            result[f"ours, {precision}"] = lambda p=precision: self.our_step(mine, p)
        return result

    def our_step(self, optimizer, precision: str) -> None:
        """As the training loop makes it."""
        from core.system.device import autocast

        with autocast(self.device, precision):
            loss = self.our_loss()
        loss.backward()
        self.ours.before_step(0.5)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.ours.after_step(0.5)

    def plain_step(self, optimizer, precision: str) -> None:
        """One parameter after the other."""
        import torch

        from core.system.device import autocast

        with autocast(self.device, precision):
            loss = self.plain_loss()
        loss.backward()
        for parameter in self.plain.student.parameters():
            if parameter.grad is not None:
                factor = 3.0 / (parameter.grad.norm(2).item() + 1e-6)
                if factor < 1:
                    parameter.grad.mul_(factor)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for average, value in zip(
                self.plain.teacher.parameters(), self.plain.student.parameters()
            ):
                average.mul_(0.996).add_(0.004 * value)
            self.plain.centre.mul_(0.9).add_(self.logits.mean(0, keepdim=True) * 0.1)


if __name__ == "__main__":
    run(main, Config)
