"""Work on files that may crash, hang or exhaust a process: done in a child with limited memory and time."""

import multiprocessing
import os
import resource
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Failure:
    """What became of an item that has no result: `kind` is "crash", "hang" or "exception"."""

    kind: str
    detail: str


def in_child(
    function: Callable, items: Iterable, *, seconds: float = 10, memory: int = 4 << 30
) -> list:
    """`function(item)` for every item, or a Failure, in order; a child that died is replaced for the next item.

    function: importable by name. seconds: processor time for one item, and six times as much on the wall: a busy
    machine makes no hang; the start of the child does not count. memory: bytes of address space.
    """
    child, results = None, []
    for item in items:
        if child is None:
            child = _start(function, memory)
        process, pipe = child
        pipe.send(item)
        if not _answers(process, pipe, seconds):
            results.append(Failure("hang", f"no answer within {seconds} s"))
        else:
            try:
                results.append(pipe.recv())
                continue
            except EOFError:
                process.join(5)
                results.append(Failure("crash", f"the process ended with {process.exitcode}"))
        process.kill()
        process.join()
        child = None
    if child is not None:
        child[1].send(None)
        child[0].join(10)
        child[0].kill()
    return results


def _answers(process, pipe, seconds: float) -> bool:
    """Wait for the child; False once it has used up its time."""
    began, deadline = _processor_seconds(process.pid), time.monotonic() + 6 * seconds
    while not pipe.poll(0.2):
        if time.monotonic() > deadline or _processor_seconds(process.pid) - began > seconds:
            return pipe.poll(0)
    return True


def _processor_seconds(pid: int) -> float:
    """Processor time of a process that has not been waited for yet."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _start(function: Callable, memory: int):
    context = multiprocessing.get_context("spawn")
    pipe, far = context.Pipe()
    process = context.Process(target=_serve, args=(far, function, memory), daemon=True)
    process.start()
    far.close()
    if not pipe.poll(120) or pipe.recv() != "ready":
        raise RuntimeError("the child did not start")
    return process, pipe


def _serve(pipe, function: Callable, memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    pipe.send("ready")
    while (item := pipe.recv()) is not None:
        try:
            pipe.send(function(item))
        except BaseException as error:
            pipe.send(Failure("exception", "".join(traceback.format_exception_only(error)).strip()))
