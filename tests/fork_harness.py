"""Training in forked children, so that a kill costs a second and not the import of torch."""

import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm


def spawn(function: Callable[[], int]) -> int:
    """Fork a child that runs `function` on one thread and exits with its result; returns the process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        torch.set_num_threads(1)
        tqdm.set_lock(
            threading.RLock()
        )  # the shared one stays locked if a child is killed while it draws a bar
        status = function() or 0
    except BaseException as error:  # the child must never return into pytest
        os.write(2, f"child: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def exit_status(pid: int, seconds: float = 60) -> int:
    """Wait for a child; negative signal number if a signal ended it. AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"the child did not end within {seconds} s")


def group(ranks: int, function: Callable[[], int]) -> list[int]:
    """Process ids of `ranks` children in one gloo group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def member(rank: int) -> Callable[[], int]:
        def run() -> int:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            from core.system import distributed

            with distributed.process_group(torch.device("cpu")):
                return function()

        return run

    return [spawn(member(rank)) for rank in range(ranks)]


def run_with_kills(
    start: Callable[[], list[int]], began: Path, kills: int, rng: np.random.Generator, span: float
) -> int:
    """Start, kill -9 everything at a random moment, start again, until it ends by itself; returns how many were killed.

    `began` is a file that the training makes after its first step since it was started: up to `span` seconds from there
    it is killed, never while it only starts.
    """
    landed = 0
    for _ in range(10 * kills + 10):
        began.unlink(missing_ok=True)
        pids, ended = start(), {}
        if landed < kills:
            while not began.exists() and not ended:
                done = [(pid, *os.waitpid(pid, os.WNOHANG)) for pid in pids]
                ended = {
                    pid: os.waitstatus_to_exitcode(status) for pid, reaped, status in done if reaped
                }
                time.sleep(0.002)
            time.sleep(rng.uniform(0, span))
            for pid in pids:
                if pid not in ended:
                    os.kill(pid, signal.SIGKILL)
        statuses = [ended[pid] if pid in ended else exit_status(pid) for pid in pids]
        if not any(statuses):
            return landed
        assert -signal.SIGKILL in statuses, f"ended by itself with {statuses}"
        landed += 1
    raise AssertionError("too many restarts")


def digest(state) -> str:
    """sha256 over every tensor and value of a nested state."""
    sha = hashlib.sha256()

    def add(value) -> None:
        if isinstance(value, torch.Tensor):
            sha.update(str(value.dtype).encode() + str(tuple(value.shape)).encode())
            sha.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                sha.update(str(key).encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            for item in value:
                add(item)
        else:
            sha.update(repr(value).encode())

    add(state)
    return sha.hexdigest()
