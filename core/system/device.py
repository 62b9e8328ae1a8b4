"""Where to compute and in which precision: chosen once, in `main`, and passed on."""

import contextlib
import ctypes
import functools
import os
import platform

import torch

from core.progress import warn

PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """`auto` (this process's GPU if there is one, else the CPU), `cpu`, `cuda` or `cuda:N`.

    Raises ValueError with the choices for anything else, or for a GPU that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name!r}: choose auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device {name!r}: choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = _own_index(count) if device.index is None else device.index
        if index >= count:
            raise ValueError(_too_few(name, count, index, device.index is None))
        device = torch.device("cuda", index)
    return device


def _own_index(count: int) -> int:
    """The GPU of this process among the `count` that it sees.

    Slurm may show each task its own GPU alone, whose index is then 0 whatever the rank of the task. torchrun shows all
    GPUs to all processes, and says how many processes there are (LOCAL_WORLD_SIZE).
    """
    local_rank = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    shared = int(os.environ.get("LOCAL_WORLD_SIZE") or 1) > 1
    return 0 if count == 1 and not shared else local_rank


def _too_few(name: str, count: int, index: int, by_rank: bool) -> str:
    if count and by_rank:
        return (
            f"--device {name}: process {index} of this machine has no GPU of its own, it sees {count}; start at most "
            f"{count} per machine (torchrun --nproc_per_node {count}), or use --device cpu"
        )
    return f"--device {name!r}: this machine shows {count} CUDA device(s); choose cpu or auto"


def resolve_precision(precision: str, device: torch.device) -> str:
    """`auto` -> bf16 where the device multiplies it natively, else fp16 on a GPU and fp32 on a CPU.

    fp16 is refused on a CPU (unusably slow), tf32 on a device that has no TF32; bf16 on a CPU without it is noted once.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"--precision {precision!r}: choose {', '.join(PRECISIONS)}")
    if precision == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return "bf16" if _cpu_has_bf16() else "fp32"
    if precision == "bf16" and device.type == "cpu" and not _cpu_has_bf16():
        _note_slow_bf16()
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("--precision fp16 needs a GPU; on a CPU choose bf16 or fp32")
    if precision == "tf32" and (
        device.type == "cpu" or torch.cuda.get_device_capability(device) < (8, 0)
    ):
        raise ValueError(
            "--precision tf32 needs a GPU with TF32 (NVIDIA Ampere or later); choose fp32 or auto"
        )
    return precision


def autocast(device: torch.device, precision: str):
    """A context in which matrix products run in `precision` ("auto" is resolved for `device`).

    On a GPU it also says, from then on and for the backward pass, too, how float32 products and convolutions are
    computed: in TF32 (10 bits of mantissa) with "tf32", else in full float32. torch's own default differs: TF32 in
    convolutions, full float32 in products.
    """
    precision = resolve_precision(precision, device)
    if device.type == "cuda":
        _allow_tf32(precision == "tf32")
    if precision in ("fp32", "tf32"):
        return contextlib.nullcontext()
    return torch.autocast(device.type, _DTYPES[precision])


def _allow_tf32(allowed: bool) -> None:
    """In products and convolutions on GPUs.

    By the older of torch's two interfaces: torch.compile asks it, and fails if only the newer one (`fp32_precision`)
    was used.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def prepare_device(device: torch.device, strict_fp32: bool = False) -> None:
    """Before anything is computed on `device`.

    A GPU computes float32 in full float32 until `autocast` is asked for TF32. A CPU keeps freed memory, and oneDNN
    multiplies float32 matrices where that is the fast path: on x86-64 without AMX the switch keeps true float32
    (relative error as with the default library) and doubles the speed on AMD; with AMX, and on ARM, it would mean bf16
    arithmetic, so it is left alone there.
    """
    if device.type == "cuda":
        _allow_tf32(False)
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
    """Undo the part of `prepare_device` about memory: forked decoders need no 2 GiB each, and a server gives back what
    its largest radiograph took."""
    _limit_freed_memory(blocks=65536, size=128 * 1024)


def _limit_freed_memory(blocks: int, size: int) -> None:
    """How glibc treats what is freed: up to `size` bytes stay, and `blocks` large ones at most live outside the heap.

    By default it gives large blocks back to the kernel at once and pays for every page again in the next step: a sixth
    of a training step on a CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        M_TRIM_THRESHOLD = -1
        M_MMAP_MAX = -4
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


@functools.cache
def _note_slow_bf16() -> None:
    warn(
        "note: this processor has no bf16 arithmetic; --precision auto takes fp32, which is many times faster here"
    )


def _cpu_has_bf16() -> bool:
    return any(
        getattr(torch.cpu, name, lambda: False)()
        for name in (
            "_is_avx512_bf16_supported",
            "_is_amx_tile_supported",
            "_is_arm_bf16_supported",
        )
    )
