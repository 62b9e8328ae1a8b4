"""Paired timing: variants take turns in every round, so a busy machine slows all of them; a ratio is of one round.

Used by the other files of this folder; `python benchmarks/run_all.py` runs them.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def seconds_of(
    variants: dict[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds of each variant in each of `rounds` rounds after one to warm up; every second round runs backwards.

    `clock` is the processor time of this process (all threads) by default: on a shared machine it is steadier than the
    time on the wall.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name in list(variants)[:: -1 if number % 2 else 1]:
            begin = clock()
            variants[name]()
            if number:
                seconds[name].append(clock() - begin)
    return seconds


def report(
    case: str,
    seconds: dict[str, list[float]],
    reference: str,
    per: int = 1,
    **more: dict[str, object],
) -> None:
    """Print a JSON line for each variant: median seconds (over `per`), and how many times as fast as `reference`.

    "ratio" is the median over the rounds, "low" and "high" the extremes. `more`: further entries by variant.
    """
    for name, times in seconds.items():
        ratios = [there / here for there, here in zip(seconds[reference], times)]
        row = {"case": case, "variant": name, "seconds": statistics.median(times) / per}
        row |= {
            "ratio": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
            "rounds": len(times),
        }
        row |= {key: values[name] for key, values in more.items() if name in values}
        print(
            json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}),
            flush=True,
        )


def device_clock(device) -> Callable[[], float]:
    """Processor time on a CPU; on a GPU the time on the wall once its work is done."""
    import torch

    if device.type != "cuda":
        return time.process_time

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def machine(device: str = "auto") -> dict[str, str]:
    """Processor or GPU, and the versions that matter."""
    from importlib.metadata import version

    import torch

    from core.system.device import choose_device

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = dict(line.replace("\t", "").split(": ", 1) for line in lines if ": " in line)
    name = facts.get("model name", platform.processor() or platform.machine())
    family = (
        f" (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else ""
    )
    flags = facts.get("flags", "").split()
    units = [
        unit
        for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_fp16")
        if unit in flags
    ]
    chosen = choose_device(device)
    found = {"processor": f"{name}{family}; {', '.join(units)}", "cores": str(os.cpu_count())}
    if chosen.type == "cuda":
        found["GPU"] = torch.cuda.get_device_name(chosen)
    packages = ("torch", "torchvision", "timm", "transformers", "numpy", "pillow", "pydicom")
    return (
        found
        | {"Python": platform.python_version()}
        | {package: version(package) for package in packages}
    )
