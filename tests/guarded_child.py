"""A forked child that reads a hostile file: how it ended, how long it took, how much memory, and what it opened."""

import dataclasses
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fork_harness import exit_status, spawn


@dataclasses.dataclass
class Report:
    """What became of a child. `error`: type and message of the exception, or ""."""

    error: str
    seconds: float
    megabytes: float  # resident memory beyond that at the start
    opened: list[str]  # absolute paths, links not followed, in order


def guarded(function: Callable[[], object], seconds: float = 20) -> Report:
    """Call `function` in a child with an audit hook on `open`; AssertionError if it does not end within `seconds`."""
    reading, writing = os.pipe()

    def child() -> int:
        os.close(reading)
        opened: list[str] = []

        def hook(event: str, arguments: tuple) -> None:
            if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
                opened.append(os.path.abspath(os.fsdecode(arguments[0])))

        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        sys.addaudithook(hook)
        began, error = time.perf_counter(), ""
        try:
            function()
        except BaseException as caught:
            error = f"{type(caught).__name__}: {caught}"
        spent, count = time.perf_counter() - began, len(opened)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        report = (error[:2000], spent, peak - pages * resource.getpagesize() / 2**20, opened[:count][-20_000:])
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(json.dumps(report).encode("utf-8", "surrogatepass"))
        return 0

    pid = spawn(child)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        os.set_blocking(reading, False)
        content, deadline = b"", time.monotonic() + seconds
        while time.monotonic() < deadline:
            piece = pipe.read()
            if piece == b"":
                break
            content += piece or b""
            time.sleep(0.005)
    assert exit_status(pid, max(0.1, deadline - time.monotonic())) == 0
    return Report(*json.loads(content))
