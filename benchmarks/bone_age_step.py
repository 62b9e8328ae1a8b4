"""A bone-age training step and a prediction at 512 pixels against plain loops over torchvision's ConvNeXt.

    python benchmarks/bone_age_step.py --batch_size 2 --rounds 3

The yardstick is BoneXage's network, torchvision's features with pooling, sex and head, in plain loops in float32. Ours
is what `scripts/train_bone_age.py` trains and `scripts/predict_bone_age.py` asks, from 8-bit radiographs on. Both have
the same weights; loss, gradients and months are compared first, and a difference ends the benchmark. Prints the same
lines as mae_step.py.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from dataclasses import dataclass

from benchmarks.steps import Steps
from core.flags import flag, run

LR = 1e-6
WEIGHT_DECAY = 1e-4
CLIP = 1.0


@dataclass
class Config:
    """Time training and prediction of bone age, ours against loops over torchvision's network."""

    sizes: list[str] = flag(["tiny"], "sizes of ConvNeXt")
    side: int = flag(512, "pixels")
    batch_size: int = flag(2, "radiographs per step")
    rounds: int = flag(3, "rounds; in each, every variant makes one step")
    threads: int = flag(1, "processor threads")
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    compile: bool = flag(False, "time predictions with torch.compile, too (some minutes)")


def main(config: Config) -> int:
    """Print one line for each size and variant."""
    import torch

    from benchmarks.steps import report_steps
    from core.system.device import choose_device

    torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    for size in config.sizes:
        for kind, what in ((Training, "training"), (Prediction, "prediction")):
            pair = kind(size, config.batch_size, config.side, device)
            case = f"{what}, ConvNeXt-{{}}, {config.side} pixels, batch {{}}"
            report_steps(size, pair, config.batch_size, config.rounds, config.compile, case)
    return 0


class Pair(Steps):
    """The same network twice, ours and torchvision's, with one batch."""

    yardstick = "torchvision"

    def __init__(self, size: str, batch_size: int, side: int, device):
        import torch

        from data.views.preprocessing import Preprocessing
        from models.backbones.backbone import build_backbone
        from models.networks.bone_age import BoneAge

        torch.manual_seed(0)
        self.device = device
        preprocessing = Preprocessing(height=side, width=side)
        backbone = build_backbone(f"none:convnext_{size}", input_size=(side, side))
        self.ours = BoneAge(backbone, preprocessing.normalise).to(device)
        self.theirs = theirs_of(self.ours, size).to(device)
        pixels = torch.randint(0, 256, (batch_size, 1, side, side), dtype=torch.uint8)
        months = torch.linspace(30, 200, batch_size)
        sex = (torch.arange(batch_size) % 2.0)[:, None]
        self.batch = {
            "image": pixels.to(device),
            "target": months.to(device),
            "extra": sex.to(device),
        }
        self.images = preprocessing.normalise(self.batch["image"])
        for network in (self.ours, self.theirs):
            network.train()
            for part in network.modules():  # so that both can be compared
                if isinstance(part, torch.nn.Dropout):
                    part.p = 0.0

    def zero(self) -> None:
        self.ours.zero_grad(set_to_none=True)
        self.theirs.zero_grad(set_to_none=True)


def theirs_of(ours, size: str):
    """torchvision's network with the weights of `ours`, answering months [B] for images [B, 3, h, w] and sex [B, 1]."""
    import copy

    import torch
    import torchvision

    from models.weights.families import timm_convnext_to_torchvision

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features = getattr(torchvision.models, f"convnext_{size}")(
                stochastic_depth_prob=0.0
            ).features
            self.sex_encoder = copy.deepcopy(ours.sex_encoder)
            self.head = copy.deepcopy(ours.head)
            self.p = torch.nn.Parameter(ours.pool.p.detach().clone())

        def forward(self, images, sex):
            there = self.features(images).clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)
            outputs = self.head(torch.cat([there, self.sex_encoder(sex)], dim=1))
            return 240 * outputs[:, 0].float().sigmoid()

    theirs = Network()
    state = timm_convnext_to_torchvision(ours.backbone.network.state_dict())
    theirs.load_state_dict(state, strict=False)
    missing = {key for key in theirs.features.state_dict()} - {
        key.removeprefix("features.") for key in state
    }
    assert not missing, missing
    return theirs


class Training(Pair):
    """Forward, loss, backward, clipping and AdamW."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.check_equal()

    def check_equal(self) -> None:
        """Equal work: loss and gradients at both ends agree in float32."""
        import torch

        ours = self.our_loss()
        theirs = self.their_loss()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        ours.backward()
        theirs.backward()
        network = self.ours.backbone.network
        pairs = (
            (network.stem[0].weight, self.theirs.features[0][0].weight),
            (self.ours.pool.p, self.theirs.p),
            (self.ours.head[8].weight, self.theirs.head[8].weight),
        )
        for mine, other in pairs:
            scale = float(other.grad.abs().max())
            torch.testing.assert_close(mine.grad / scale, other.grad / scale, rtol=0, atol=2e-3)
        self.zero()

    def our_loss(self):
        """Ours, through the objective as the training loop calls it."""
        return self.ours(self.batch)["loss"]

    def operations(self) -> int:
        """Three times those of a forward pass: the counter takes the gradients of depthwise convolutions for dense."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.our_loss()
        return 3 * counter.get_total_flops()

    def their_loss(self):
        """Theirs, of radiographs that are normalised already."""
        from models.networks.bone_age import hybrid_loss

        return hybrid_loss(self.theirs(self.images, self.batch["extra"]), self.batch["target"])

    def steps(self, compiled: bool) -> dict:
        import torch

        from core.system.device import autocast
        from training.fit import Fit, fit
        from training.optim import adamw, parameter_groups
        from training.sampling import Plan
        from training.schedules import constant

        other = torch.optim.AdamW(self.theirs.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
        mine = adamw(parameter_groups(self.ours))
        result = {}

        def plain_step(precision: str):
            def step() -> None:
                other.zero_grad()
                with autocast(self.device, precision):
                    loss = self.their_loss()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.theirs.parameters(), CLIP)
                other.step()

            return step

        def our_step(objective, precision: str):
            plan = Plan(len(self.images), len(self.images), epochs=1000, max_steps=1)
            settings = Fit(
                plan=plan,
                optimizer=mine,
                schedules={"lr": constant(LR), "weight_decay": constant(WEIGHT_DECAY)},
                batches=lambda start: [self.batch],
                device=self.device,
                precision=precision,
                clip_norm=CLIP,
                progress_bar=False,
            )
            return lambda: fit(objective, settings)

        for precision in ("fp32", "bf16"):
            result[f"torchvision, {precision}"] = plain_step(precision)
            result[f"ours, {precision}"] = our_step(self.ours, precision)
        return result  # compiled, the step is slower than without


class Prediction(Pair):
    """Months from radiographs, without gradients."""

    def __init__(self, *arguments):
        import torch

        super().__init__(*arguments)
        self.ours.eval(), self.theirs.eval()
        with torch.no_grad():
            ours = self.our_months(self.ours.features)
            theirs = self.theirs(self.images, self.batch["extra"])
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-2)

    def our_loss(self):
        """What is counted: a forward pass, and the backward pass of the last layer."""
        import torch

        with torch.no_grad():
            features = self.ours.features(self.batch["image"])
        return self.ours.answers(features, self.batch["extra"][:, 0])[0].sum()

    def our_months(self, features):
        return self.ours.months(features(self.batch["image"]), self.batch["extra"][:, 0]).months

    def steps(self, compiled: bool) -> dict:
        import torch

        from core.system.device import autocast

        def asked(work, precision: str):
            def step() -> None:
                with torch.no_grad(), autocast(self.device, precision):
                    work()

            return step

        result = {}
        for precision in ("fp32", "bf16"):
            result[f"torchvision, {precision}"] = asked(
                lambda: self.theirs(self.images, self.batch["extra"]), precision
            )
            result[f"ours, {precision}"] = asked(
                lambda: self.our_months(self.ours.features), precision
            )
        if compiled:
            features = torch.compile(self.ours.features)
            for precision in ("fp32", "bf16"):
                result[f"ours, {precision} + compile"] = asked(
                    lambda: self.our_months(features), precision
                )
        return result


if __name__ == "__main__":
    run(main, Config)
