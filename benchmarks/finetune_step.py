"""One fine-tuning step (forward, loss, backward, AdamW with layer decay) against a loop over transformers' network.

    python benchmarks/finetune_step.py --sizes small base large --batch_size 8 --rounds 3

The yardstick is transformers' `ViTForImageClassification` in a plain loop in float32, as the fine-tuning script of
SKELEX trains. Ours is what `scripts/train_downstream.py` runs: the backbone that it builds from that checkpoint folder,
its head, its loop, from 8-bit radiographs on. Loss and gradients of both are compared first; a difference ends
the benchmark. Prints the same lines as mae_step.py.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import re
import tempfile
from dataclasses import dataclass

from benchmarks.steps import Steps
from core.flags import flag, run

LAYER_DECAY = 0.75
LR = 1e-6
WEIGHT_DECAY = 0.05


@dataclass
class Config:
    """Time one fine-tuning step, ours against a loop over transformers' network."""

    sizes: list[str] = flag(["small", "base", "large"], "encoder sizes")
    batch_size: int = flag(8, "radiographs per step")
    rounds: int = flag(3, "rounds; in each, every variant makes one step")
    threads: int = flag(1, "processor threads")
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    compile: list[str] = flag(
        ["small", "base"], "sizes that are also timed with torch.compile (a minute each)"
    )


def main(config: Config) -> int:
    """Print one line for each size and variant."""
    import torch

    from benchmarks.steps import report_steps
    from core.system.device import choose_device

    torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    for size in config.sizes:
        pair = Pair(size, config.batch_size, device)
        report_steps(size, pair, config.batch_size, config.rounds, compiled=size in config.compile)
    return 0


class Pair(Steps):
    """The same network twice, ours and transformers', with one batch and its labels."""

    def __init__(self, size: str, batch_size: int, device):
        import torch
        from transformers import ViTConfig, ViTForImageClassification

        from data.views.preprocessing import Preprocessing
        from models.backbones.backbone import build_backbone
        from models.networks.supervised import Supervised
        from models.networks.vit import SIZES
        from core.system.device import use_explicit_attention

        torch.manual_seed(0)
        self.device, preprocessing, (width, depth, heads) = device, Preprocessing(), SIZES[size]
        self.theirs = ViTForImageClassification(
            ViTConfig(
                hidden_size=width,
                num_hidden_layers=depth,
                num_attention_heads=heads,
                intermediate_size=4 * width,
                num_labels=1,
            )
        )
        with tempfile.TemporaryDirectory() as folder:
            self.theirs.save_pretrained(folder)
            self.ours = Supervised(build_backbone(folder), "binary", 1, preprocessing.normalise)
        self.ours.head.load_state_dict(self.theirs.classifier.state_dict())
        use_explicit_attention(self.ours.to(device).train(), device)
        self.theirs.to(device).train()
        pixels = torch.randint(0, 256, (batch_size, 1, 224, 224), dtype=torch.uint8)
        self.batch = {
            "image": pixels.to(device),
            "target": (torch.arange(batch_size) % 2.0).to(device),
        }
        self.images = preprocessing.normalise(self.batch["image"])
        self.check_equal()

    def check_equal(self) -> None:
        """Equal work: the loss, and the gradient of a matrix at each end, agree in float32."""
        import torch

        ours = self.our_loss()
        theirs = self.their_loss()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        ours.backward()
        theirs.backward()
        pairs = {
            "backbone.network.patch_embed.proj.weight": "vit.embeddings.patch_embeddings.projection.weight",
            "backbone.network.cls_token": "vit.embeddings.cls_token",
            "head.weight": "classifier.weight",
        }
        for mine, other in pairs.items():
            found = self.theirs.get_parameter(other).grad
            scale = float(found.abs().max())
            torch.testing.assert_close(
                self.ours.get_parameter(mine).grad / scale, found / scale, rtol=0, atol=1e-3
            )
        self.zero()

    def zero(self) -> None:
        self.ours.zero_grad(set_to_none=True)
        self.theirs.zero_grad(set_to_none=True)

    def our_loss(self):
        """Ours, through the objective as the training loop calls it."""
        return self.ours(self.batch)["loss"]

    def their_loss(self):
        """Theirs, of radiographs that are normalised already."""
        import torch

        logits = self.theirs(self.images).logits[:, 0]
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, self.batch["target"])

    def steps(self, compiled: bool) -> dict:
        import torch

        from training.optim import adamw, parameter_groups

        mine = adamw(parameter_groups(self.ours, LAYER_DECAY))
        other = torch.optim.AdamW(layer_groups(self.theirs), betas=(0.9, 0.999))
        result = {}
        for precision in ("fp32", "bf16"):
            result[f"transformers, {precision}"] = self.plain_step(other, precision)
            result[f"ours, {precision}"] = self.our_step(self.ours, mine, precision)
        if compiled:
            result["ours, bf16 + compile"] = self.our_step(torch.compile(self.ours), mine, "bf16")
        return result

    def our_step(self, objective, optimizer, precision: str):
        """One step of the training loop, with all that it does beside: its checks, its schedules."""
        from training.fit import Fit, fit
        from training.sampling import Plan
        from training.schedules import constant

        plan = Plan(len(self.images), len(self.images), epochs=1000, max_steps=1)
        settings = Fit(
            plan=plan,
            optimizer=optimizer,
            schedules={"lr": constant(LR), "weight_decay": constant(WEIGHT_DECAY)},
            batches=lambda start: [self.batch],
            device=self.device,
            precision=precision,
            progress_bar=False,
        )
        return lambda: fit(objective, settings)

    def plain_step(self, optimizer, precision: str):
        """One step of a plain loop."""
        from core.system.device import autocast

        def step() -> None:
            optimizer.zero_grad()
            with autocast(self.device, precision):
                loss = self.their_loss()
            loss.backward()
            optimizer.step()

        return step


def layer_groups(network) -> list[dict]:
    """Parameters of transformers' network by layer, the lower the slower; biases and norms do not decay."""
    depth = network.config.num_hidden_layers
    groups = {}
    for name, parameter in network.named_parameters():
        inside = re.search(r"\.layers?\.(\d+)\.", name)
        layer = int(inside[1]) + 1 if inside else 0 if ".embeddings." in name else depth + 1
        decay = 0.0 if parameter.ndim <= 1 else WEIGHT_DECAY
        group = {"params": [], "lr": LR * LAYER_DECAY ** (depth + 1 - layer), "weight_decay": decay}
        groups.setdefault((layer, decay), group)["params"].append(parameter)
    return list(groups.values())


if __name__ == "__main__":
    run(main, Config)
