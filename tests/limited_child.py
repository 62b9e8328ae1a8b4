"""Work on files that may crash, hang or exhaust a process: done in a child with limited memory and time."""

import multiprocessing
import resource
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """What became of an item that has no result: `kind` is "crash", "hang" or "exception"."""

    kind: str
    detail: str


def in_child(function: Callable, items: Iterable, *, seconds: float = 10, memory: int = 4 << 30) -> list:
    """`function(item)` for every item, or a Failure, in order; a child that died is replaced for the next item.

    function: importable by name. seconds: for one item, not counting the start of the child. memory: bytes of address
    space.
    """
    child, results = None, []
    for item in items:
        if child is None:
            child = _start(function, memory)
        process, pipe = child
        pipe.send(item)
        if not pipe.poll(seconds):
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
