"""One pretraining step (forward, backward, AdamW) against transformers' ViTMAE: equal weights, masks and radiographs.

    python benchmarks/mae_step.py --sizes small base --batch_size 8 --rounds 5

Prints JSON lines: seconds per step, ratio to transformers in float32 as installed, share of the measured peak of
matrix products in the same precision (operations as counted while the step runs, those of attention included). Loss
and gradients of both are compared first; a difference ends the benchmark.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import tempfile
from dataclasses import dataclass

from benchmarks.steps import Steps
from core.flags import flag, run

DECODERS = {"small": "_dec512d2b", "mini": "_dec128d2b"}  # as in Medical MAE; the others 512 x 8


@dataclass
class Config:
    """Time one pretraining step, ours against transformers'."""

    sizes: list[str] = flag(["small", "base", "large"], "encoder sizes")
    batch_size: int = flag(8, "radiographs per step")
    rounds: int = flag(5, "rounds; in each, every variant makes one step")
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
    """The same network twice, ours and transformers', with one batch and its masks."""

    def __init__(self, size: str, batch_size: int, device):
        import torch
        from transformers import ViTMAEForPreTraining

        from data.views.preprocessing import Preprocessing
        from models.networks.mae import MaskedAutoencoder, named_config
        from models.weights.checkpoint import save_mae
        from core.system.device import use_explicit_attention

        torch.manual_seed(0)
        architecture = named_config(f"mae_vit_{size}_patch16{DECODERS.get(size, '')}")
        self.device = device
        self.ours = MaskedAutoencoder(architecture)
        with tempfile.TemporaryDirectory() as folder:
            height, width = architecture.input_size
            save_mae(
                self.ours,
                folder,
                Preprocessing(height=height, width=width).to_dict(),
                "for a benchmark",
            )
            self.theirs = ViTMAEForPreTraining.from_pretrained(folder).to(device).train()
        use_explicit_attention(self.ours.to(device).train(), device)
        self.images = torch.randn(batch_size, 3, *architecture.input_size, device=device)
        self.noise = torch.rand(batch_size, architecture.patches, device=device)
        self.check_equal()

    def check_equal(self) -> None:
        """Equal work: the loss, and the gradient of a matrix at each end, agree in float32."""
        import torch

        pairs = {
            "patch_embed.proj.weight": "patch_embeddings.projection.weight",
            "decoder_pred.weight": "decoder_pred.weight",
        }
        ours = self.our_loss()
        theirs = self.their_loss()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        ours.backward()
        theirs.backward()
        for mine, other in pairs.items():
            found = [p for n, p in self.theirs.named_parameters() if n.endswith(other)]
            torch.testing.assert_close(
                self.ours.get_parameter(mine).grad, found[0].grad, rtol=1e-3, atol=1e-6
            )
        self.zero()

    def zero(self) -> None:
        self.ours.zero_grad(set_to_none=True)
        self.theirs.zero_grad(set_to_none=True)

    def our_loss(self):
        """Ours, through the objective as the training loop calls it."""
        return self.ours({"image": self.images, "noise": self.noise})["loss"]

    def their_loss(self):
        """Theirs, with the same masks."""
        return self.theirs(self.images, noise=self.noise).loss

    def steps(self, compiled: bool) -> dict:
        import torch

        from training.optim import adamw, parameter_groups

        mine = adamw(parameter_groups(self.ours))
        for group in mine.param_groups:
            group["lr"] = 1e-6
            group["weight_decay"] = 0.05 * group["weight_decay_scale"]
        other = torch.optim.AdamW(self.theirs.parameters(), lr=1e-6, weight_decay=0.05)
        result = {}
        for precision in ("fp32", "bf16"):
            result[f"transformers, {precision}"] = self.stepper(self.their_loss, other, precision)
            result[f"ours, {precision}"] = self.stepper(self.our_loss, mine, precision)
        if compiled:
            network = torch.compile(self.ours)
            loss = lambda: network({"image": self.images, "noise": self.noise})["loss"]  # noqa: E731
            result["ours, bf16 + compile"] = self.stepper(loss, mine, "bf16")
        return result

    def stepper(self, loss, optimizer, precision: str):
        """A function that makes one optimizer step."""
        from core.system.device import autocast

        def step() -> None:
            with autocast(self.device, precision):
                value = loss()
            value.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step


if __name__ == "__main__":
    run(main, Config)
