"""Timing training steps: ours and a yardstick's in turns, with the peak of matrix products measured in the same rounds.

Used by mae_step.py, finetune_step.py, bone_age_step.py and dino_step.py.
"""

from collections.abc import Callable
from operator import truediv
from statistics import median

SIDES = {"cpu": 2048, "cuda": 8192}  # of the square matrices that tell the peak


class Steps:
    """Two networks of one architecture, `ours` and a `yardstick`'s; subclasses say what a step of each is.

    `steps` maps "YARDSTICK, fp32", "ours, fp32", "ours, bf16 + compile" and so on to functions that make one optimizer
    step each; those of the yardstick run with the library as it is installed, ours as `prepare_device` sets it up.
    """

    yardstick = "transformers"
    device = None  # torch.device

    def our_loss(self):
        """A scalar with its graph."""
        raise NotImplementedError

    def zero(self) -> None:
        """Drop the gradients of both."""
        raise NotImplementedError

    def steps(self, compiled: bool) -> dict[str, Callable[[], None]]:
        """{name: a function that makes one step}."""
        raise NotImplementedError

    def operations(self) -> int:
        """Floating-point operations of our step, forward and backward (a multiply-add is two)."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.our_loss().backward()
        self.zero()
        return counter.get_total_flops()

    def variants(self, compiled: bool) -> dict[str, Callable[[], None]]:
        """The steps, and the products of large square matrices that tell the peaks."""
        found = {}
        for name, step in self.steps(compiled).items():
            found[name] = in_turn(self.prepare if name.startswith("ours") else as_installed, step)
        for precision in ("fp32", "bf16"):
            found[f"peak, {precision}"] = in_turn(self.prepare, self.product(precision))
            found[f"peak as installed, {precision}"] = in_turn(
                as_installed, self.product(precision)
            )
        return found

    def prepare(self) -> None:
        """Set the processor up as our scripts do."""
        from core.system.device import prepare_device

        prepare_device(self.device)

    def product(self, precision: str) -> Callable[[], None]:
        """A function that multiplies two large square matrices."""
        import torch

        side = SIDES[self.device.type]
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        a, b = (torch.randn(side, side, device=self.device, dtype=dtype) for _ in range(2))
        return lambda: torch.nn.functional.linear(a, b)


def report_steps(
    size: str,
    pair: Steps,
    batch_size: int,
    rounds: int,
    compiled: bool,
    case: str = "ViT-{}, batch {}",
) -> None:
    """Print one line for each variant of a `size` of network, and one for each peak. `case`: how it is called."""
    from benchmarks.paired import device_clock, report, seconds_of

    variants = pair.variants(compiled)
    operations = pair.operations()
    seconds = seconds_of(variants, rounds, device_clock(pair.device))
    products = {p: seconds[f"peak, {p}"] for p in ("fp32", "bf16")}
    multiply = 2 * SIDES[pair.device.type] ** 3
    timed = {name: times for name, times in seconds.items() if not name.startswith("peak")}
    more = {
        "radiographs_per_second": {
            name: batch_size / median(times) for name, times in timed.items()
        }
    }
    more |= {"against_same_precision": {}, "peak_share": {}}
    for name, times in timed.items():
        if name.startswith("ours"):
            precision = "bf16" if "bf16" in name else "fp32"
            same = timed[f"{pair.yardstick}, {precision}"]
            more["against_same_precision"][name] = median(map(truediv, same, times))
            share = operations / multiply * median(map(truediv, products[precision], times))
            more["peak_share"][name] = share
    rates = {
        n.removeprefix("peak").strip(" ,"): multiply / median(t)
        for n, t in seconds.items()
        if "peak" in n
    }
    report(case.format(size, batch_size), timed, f"{pair.yardstick}, fp32", **more)
    name = case.format(size, batch_size).partition(", batch")[0]
    for precision, rate in rates.items():
        print(
            f'{{"peak": "{precision}", "case": "{name}", "gflops": {rate / 1e9:.0f}}}', flush=True
        )


def in_turn(set_up: Callable[[], None], work: Callable[[], object]) -> Callable[[], None]:
    """`work` as it runs after `set_up`."""

    def act() -> None:
        set_up()
        work()

    return act


def as_installed() -> None:
    """Undo `prepare_device`: the library's own choices."""
    import torch

    from core.system.device import return_freed_memory

    return_freed_memory()
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is not None and hasattr(matmul, "fp32_precision"):
        matmul.fp32_precision = "none"
