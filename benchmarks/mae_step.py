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

from training.cli import flag, run

DECODERS = {"small": "_dec512d2b", "mini": "_dec128d2b"}  # as in Medical MAE; the others 512 x 8
SIDES = {"cpu": 2048, "cuda": 8192}  # of the square matrices that tell the peak


@dataclass
class Config:
    """Time one pretraining step, ours against transformers'."""

    sizes: list[str] = flag(["small", "base", "large"], "encoder sizes")
    batch_size: int = flag(8, "radiographs per step")
    rounds: int = flag(5, "rounds; in each, every variant makes one step")
    threads: int = flag(1, "processor threads")
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    compile: list[str] = flag(["small", "base"], "sizes that are also timed with torch.compile (a minute each)")


def main(config: Config) -> int:
    """Print one line for each size and variant."""
    from operator import truediv
    from statistics import median

    import torch

    from benchmarks.paired import device_clock, report, seconds_of
    from training.device import choose_device

    torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    for size in config.sizes:
        pair = Pair(size, config.batch_size, device)
        variants = pair.variants(compiled=size in config.compile)
        operations = pair.operations()
        seconds = seconds_of(variants, config.rounds, device_clock(device))
        products = {p: seconds[f"peak, {p}"] for p in ("fp32", "bf16")}
        multiply = 2 * SIDES[device.type] ** 3
        timed = {name: times for name, times in seconds.items() if not name.startswith("peak")}
        more = {"radiographs_per_second": {name: config.batch_size / median(times) for name, times in timed.items()}}
        more |= {"against_same_precision": {}, "peak_share": {}}
        for name, times in timed.items():
            if name.startswith("ours"):
                precision = "bf16" if "bf16" in name else "fp32"
                same = timed[f"transformers, {precision}"]
                more["against_same_precision"][name] = median(map(truediv, same, times))
                share = operations / multiply * median(map(truediv, products[precision], times))
                more["peak_share"][name] = share
        rates = {n.removeprefix("peak").strip(" ,"): multiply / median(t) for n, t in seconds.items() if "peak" in n}
        report(f"ViT-{size}, batch {config.batch_size}", timed, "transformers, fp32", **more)
        for precision, rate in rates.items():
            print(f'{{"peak": "{precision}", "case": "ViT-{size}", "gflops": {rate / 1e9:.0f}}}', flush=True)
    return 0


class Pair:
    """The same network twice, ours and transformers', with one batch and its masks."""

    def __init__(self, size: str, batch_size: int, device):
        import torch
        from transformers import ViTMAEForPreTraining

        from data.preprocessing import Preprocessing
        from models.mae import MaskedAutoencoder, named_config
        from models.weights import save_mae
        from training.device import use_explicit_attention

        torch.manual_seed(0)
        architecture = named_config(f"mae_vit_{size}_patch16{DECODERS.get(size, '')}")
        self.device = device
        self.ours = MaskedAutoencoder(architecture)
        with tempfile.TemporaryDirectory() as folder:
            height, width = architecture.input_size
            save_mae(self.ours, folder, Preprocessing(height=height, width=width).to_dict(), "for a benchmark")
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
        ours, theirs = self.our_loss(), self.their_loss()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        ours.backward()
        theirs.backward()
        for mine, other in pairs.items():
            found = [p for n, p in self.theirs.named_parameters() if n.endswith(other)]
            torch.testing.assert_close(self.ours.get_parameter(mine).grad, found[0].grad, rtol=1e-3, atol=1e-6)
        self.ours.zero_grad(set_to_none=True)
        self.theirs.zero_grad(set_to_none=True)

    def our_loss(self):
        """Ours, through the objective as the training loop calls it."""
        return self.ours({"image": self.images, "noise": self.noise})["loss"]

    def their_loss(self):
        """Theirs, with the same masks."""
        return self.theirs(self.images, noise=self.noise).loss

    def operations(self) -> int:
        """Floating-point operations of our step, forward and backward (a multiply-add is two)."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.our_loss().backward()
        self.ours.zero_grad(set_to_none=True)
        return counter.get_total_flops()

    def variants(self, compiled: bool) -> dict:
        """{name: a function that makes one step}; as each is installed, or as `prepare_cpu` sets the processor up."""
        import torch

        from training.optim import adamw, parameter_groups

        mine = adamw(parameter_groups(self.ours))
        for group in mine.param_groups:
            group["lr"], group["weight_decay"] = 1e-6, 0.05 * group["weight_decay_scale"]
        other = torch.optim.AdamW(self.theirs.parameters(), lr=1e-6, weight_decay=0.05)
        result = {}
        for precision in ("fp32", "bf16"):
            result[f"transformers, {precision}"] = self.stepper(self.their_loss, other, precision, as_installed)
            result[f"ours, {precision}"] = self.stepper(self.our_loss, mine, precision, self.prepare)
            result[f"peak, {precision}"] = self.product(precision, self.prepare)
            result[f"peak as installed, {precision}"] = self.product(precision, as_installed)
        if compiled:
            network = torch.compile(self.ours)
            loss = lambda: network({"image": self.images, "noise": self.noise})["loss"]  # noqa: E731
            result["ours, bf16 + compile"] = self.stepper(loss, mine, "bf16", self.prepare)
        return result

    def prepare(self) -> None:
        from training.device import prepare_cpu

        prepare_cpu(self.device)

    def stepper(self, loss, optimizer, precision: str, set_up):
        """A function that makes one optimizer step."""
        from training.device import autocast

        def step() -> None:
            set_up()
            with autocast(self.device, precision):
                value = loss()
            value.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    def product(self, precision: str, set_up):
        """A function that multiplies two large square matrices."""
        import torch

        side = SIDES[self.device.type]
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        a, b = (torch.randn(side, side, device=self.device, dtype=dtype) for _ in range(2))

        def multiply() -> None:
            set_up()
            torch.nn.functional.linear(a, b)

        return multiply


def as_installed() -> None:
    """Undo `prepare_cpu`: the library's own choices."""
    import torch

    from training.device import return_freed_memory

    return_freed_memory()
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is not None and hasattr(matmul, "fp32_precision"):
        matmul.fp32_precision = "none"


if __name__ == "__main__":
    run(main, Config)
