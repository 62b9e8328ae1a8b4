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
        tqdm.set_lock(threading.RLock())  # the shared one stays locked if a child is killed while it draws a bar
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
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }  # fmt: skip
            from training import distributed

            with distributed.process_group(torch.device("cpu")):
                return function()

        return run

    return [spawn(member(rank)) for rank in range(ranks)]


def run_with_kills(start: Callable[[], list[int]], began: Callable[[], bool], kills: int, rng: np.random.Generator,
                   span: float) -> int:  # fmt: skip
    """Start, kill -9 everything at a random moment after it began to train, start again, until it ends by itself.

    Returns how many kills landed while training.
    """
    landed = 0
    for _ in range(kills * 3):
        pids = start()
        if landed < kills:
            while not began() and os.waitpid(pids[0], os.WNOHANG)[0] == 0:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, span))
            alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
            statuses = [os.waitpid(pid, 0)[1] for pid in alive]
            landed += any(os.WIFSIGNALED(s) for s in statuses)
            if alive and all(os.waitstatus_to_exitcode(s) == 0 for s in statuses):
                return landed
        else:
            assert all(exit_status(pid) == 0 for pid in pids)
            return landed
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
