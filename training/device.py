"""Where to compute and in which precision: chosen once, in `main`, and passed on."""

import contextlib
import ctypes
import os
import platform

import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """`auto` (this process's GPU if there is one, else the CPU), `cpu`, `cuda` or `cuda:N`.

    Raises ValueError with the choices for anything else, or for a GPU that is not there.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if name == "auto":
        name = f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name!r}: choose auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device {name!r}: choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = local_rank if device.index is None else device.index
        if index >= count:
            raise ValueError(f"--device {name!r}: this machine shows {count} CUDA device(s); choose cpu or auto")
        device = torch.device("cuda", index)
    return device


def resolve_precision(precision: str, device: torch.device) -> str:
    """`auto` -> bf16 where the device multiplies it natively, else fp32; fp16 is refused on a CPU (unusably slow)."""
    if precision not in PRECISIONS:
        raise ValueError(f"--precision {precision!r}: choose {', '.join(PRECISIONS)}")
    if precision == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return "bf16" if _cpu_has_bf16() else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("--precision fp16 needs a GPU; on a CPU choose bf16 or fp32")
    return precision


def autocast(device: torch.device, precision: str):
    """A context in which matrix products run in `precision` ("auto" is resolved for `device`)."""
    precision = resolve_precision(precision, device)
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, _DTYPES[precision])


def prepare_cpu(device: torch.device, strict_fp32: bool = False) -> None:
    """If `device` is the CPU: keep freed memory, and let oneDNN multiply float32 matrices where that is the fast path.

    On x86-64 without AMX the switch keeps true float32 (relative error as with the default library) and doubles the
    speed on AMD; with AMX, and on ARM, it would mean bf16 arithmetic, so it is left alone there. Only the CPU library
    is touched, never CUDA.
    """
    if device.type != "cpu":
        return
    _limit_freed_memory(blocks=0, size=2**31 - 1)
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    if strict_fp32 or has_amx or not x86 or not torch.backends.mkldnn.is_available():
        return
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is not None and hasattr(matmul, "fp32_precision"):
        matmul.fp32_precision = "bf16"


def return_freed_memory() -> None:
    """Undo the part of `prepare_cpu` about memory in a forked process: decoders need no 2 GiB each."""
    _limit_freed_memory(blocks=65536, size=128 * 1024)


def _limit_freed_memory(blocks: int, size: int) -> None:
    """How glibc treats what is freed: up to `size` bytes stay, and `blocks` large ones at most live outside the heap.

    By default it gives large blocks back to the kernel at once and pays for every page again in the next step: a sixth
    of a training step on a CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, blocks)
        libc.mallopt(M_TRIM_THRESHOLD, size)


def use_explicit_attention(module: torch.nn.Module, device: torch.device) -> None:
    """Choose timm's attention kernel for training: explicit products on a CPU, fused on a GPU.

    The fused kernel's backward pass is slower than plain products on CPUs at these token counts.
    """
    for child in module.modules():
        if hasattr(child, "fused_attn"):
            child.fused_attn = device.type == "cuda"


def _cpu_has_bf16() -> bool:
    return any(
        getattr(torch.cpu, name, lambda: False)()
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    )
