"""Signals that ask a process to end, and processes that end with their parent. Only the standard library."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

# schedulers send SIGTERM and SIGUSR1, a terminal SIGINT (Ctrl-C) and SIGHUP (it was closed)
ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
EXIT_STOPPED = 143  # exit status of a process that obeyed one of them


class Stopped(SystemExit):
    """A signal asked this process to end. Its code is `EXIT_STOPPED`."""

    def __init__(self, number: int):
        super().__init__(EXIT_STOPPED)
        self.number = number


@contextlib.contextmanager
def handling(handler: Callable) -> Iterator[None]:
    """Install `handler` for all of `ASKING`, except for those that are ignored (nohup), and restore the former ones.

    Outside the main thread, where Python handles no signals, nothing changes.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.getsignal(number) for number in ASKING}
        previous = {
            number: former
            for number, former in previous.items()
            if former not in (signal.SIG_IGN, None)
        }
    for number in previous:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within it, a signal of `ASKING` raises `Stopped` in the main thread, so that what is known is kept.

    Later signals do not interrupt that; only a second Ctrl-C does.
    """
    received: list[int] = []

    def stop(number: int, frame) -> None:
        if not received:
            received.append(number)
            raise Stopped(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt

    with handling(stop):
        yield


def say_stopped(stop: Stopped) -> None:
    """Tell the user which signal ended the script, on the main process."""
    if os.environ.get("RANK", "0") == "0":
        name = signal.Signals(stop.number).name
        print(f"stopped by {name}; the same command continues", file=sys.stderr, flush=True)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Processes started within it never get signals of `ASKING`: their parent decides when they end."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel (Linux) to kill this process when its parent dies; `parent`: its process id, if known.

    Elsewhere it does nothing. If the parent is dead already, this process ends at once.
    """
    if os.name == "posix" and os.uname().sysname == "Linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(EXIT_STOPPED)
