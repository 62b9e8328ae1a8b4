"""One process or many: every function here answers without a process group too.

`torchrun` (or any launcher that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) makes a group:
NCCL on GPUs, gloo on CPUs.
"""

import contextlib
import datetime
import functools
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core.system.device import choose_device, prepare_device
from core.system.signals import Stopped, die_with_parent, say_stopped, stoppable

TIMEOUT_SECONDS = 600
VISIBLE_SECONDS = (
    60.0  # after which a new file must be seen on all machines (NFS keeps folders for up to 60 s)
)


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group that the launcher describes, if it describes one, and leave it at the end.

    The process dies with its parent on Linux, so that no worker trains on after the launcher was killed.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        die_with_parent()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            timeout=datetime.timedelta(seconds=timeout_seconds()),
            device_id=device if device.type == "cuda" else None,
        )
        # a process that ends at once, for a wrong flag, must not do so while another one still connects to it
        dist.barrier()
    yield
    # not after an error: the others may be waiting in an exchange, and NCCL would wait for them here
    _gloo_group.cache_clear()
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def job(device: str, strict_fp32: bool = False) -> Iterator[torch.device]:
    """What every training begins with: the device of that name (see `choose_device`), the CPU prepared, the group
    joined. ValueError for a device that is not there.

    A signal that asks for the end (`core.system.signals`) raises `Stopped`; within `fit` it saves first.
    """
    chosen = choose_device(device)
    prepare_device(chosen, strict_fp32)
    try:
        with stoppable(), process_group(chosen):
            yield chosen
    except Stopped as stop:
        say_stopped(stop)
        raise


def timeout_seconds() -> int:
    """How long processes wait for each other in a training step: PROCESS_GROUP_TIMEOUT, else 600."""
    return int(os.environ.get("PROCESS_GROUP_TIMEOUT", TIMEOUT_SECONDS))


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is process 0, the one that writes and speaks."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def maximum(values: Tensor) -> Tensor:
    """Element-wise maximum over all processes (no gradient)."""
    if dist.is_initialized():
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def mean(values: Tensor) -> Tensor:
    """Element-wise mean over all processes (no gradient)."""
    values = values.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= world_size()
    return values


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Give all processes the values of the main process, in place (no gradient)."""
    if not dist.is_initialized():
        return
    for tensor in tensors:
        values = tensor.detach().contiguous()
        dist.broadcast(values, src=0)
        tensor.detach().copy_(values)


def require_shared(folder: Path, flag: str = "--output_dir") -> None:
    """ValueError unless all processes see the files that the main process writes into `folder`, an existing folder.

    A folder that each machine has for itself would be noticed only when a run is continued. `flag`: of the folder.
    """
    if not dist.is_initialized():
        return
    token = from_main(lambda: _write_token(folder))
    try:
        place = None if _appears(folder / token) else f"process {rank()} on {platform.node()}"
        blind = [place for place in gathered([place]) if place is not None]
    finally:
        if is_main():
            (folder / token).unlink(missing_ok=True)
    if blind:
        message = (
            f"{flag} {folder}: {blind[0]} does not see what the main process writes there; use a folder that all "
            f"machines share, by its full path ({flag} /shared/...)"
        )
        from_main(lambda: _refuse(message))


def _write_token(folder: Path) -> str:
    name = f".seen-by-all-{secrets.token_hex(8)}"
    (folder / name).touch()
    return name


def _appears(path: Path) -> bool:
    """Whether a file is there; network file systems may show it a little later."""
    deadline = time.monotonic() + VISIBLE_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
        with contextlib.suppress(OSError):
            os.listdir(path.parent)  # a fresh look at the folder
    return True


def _refuse(message: str) -> None:
    raise ValueError(message)


def gathered(items: list) -> list:
    """The items (picklable) of all processes, in the order of their ranks, on every process."""
    if not dist.is_initialized():
        return list(items)
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


@functools.cache
def _gloo_group(seconds: float) -> dist.ProcessGroup:
    """A second group whose waits may last `seconds`."""
    return dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=seconds))


def from_main(make: Callable[[], Any], seconds: float = 30 * 24 * 3600) -> Any:
    """What `make()` returns on the main process (any picklable object), on every process.

    The others wait however long it takes (at most `seconds`): reading a million files outlasts any timeout that suits a
    training step. An error is raised on the main process, which tells it; the others leave with exit status 2. If a
    signal stops the main process, the others stop, too.
    """
    if not dist.is_initialized():
        return make()
    patient = _gloo_group(seconds)
    box: list[Any] = [False, 2]
    error = None
    if is_main():
        try:
            box = [True, make()]
        except Exception as caught:
            error = caught
        except Stopped as stop:
            error = stop
            box = [False, stop.code]
    # processes that were stopped by the same signal may be gone already
    with (
        contextlib.suppress(RuntimeError)
        if isinstance(error, Stopped)
        else contextlib.nullcontext()
    ):
        dist.broadcast_object_list(box, src=0, group=patient, device=torch.device("cpu"))
    if error is not None:
        raise error
    if not box[0]:
        raise SystemExit(box[1])
    return box[1]
