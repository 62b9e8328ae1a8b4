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
    seconds: float  # of work; time spent waiting is limited by `guarded`
    megabytes: float  # resident memory beyond that at the start
    opened: list[str]  # absolute paths, links not followed, in order
    changed: list[str]  # those of them opened for writing, and what was made, moved or removed


def guarded(function: Callable[[], object], seconds: float = 20) -> Report:
    """Call `function` in a child with an audit hook on `open`; AssertionError if it does not end within `seconds`."""
    reading, writing = os.pipe()

    def child() -> int:
        os.close(reading)
        opened: list[str] = []
        changed: list[str] = []

        def hook(event: str, arguments: tuple) -> None:
            if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
                path = os.path.abspath(os.fsdecode(arguments[0]))
                opened.append(path)
                if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                    changed.append(path)
            elif event in (
                "os.mkdir",
                "os.remove",
                "os.rename",
                "os.link",
                "os.symlink",
                "os.rmdir",
                "os.truncate",
            ):
                names = [a for a in arguments[:2] if isinstance(a, (str, bytes, os.PathLike))]
                changed.extend(os.path.abspath(os.fsdecode(name)) for name in names)

        gc.freeze()  # what the tests hold is not looked through on the function's account
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        sys.addaudithook(hook)
        began, error = time.process_time(), ""
        try:
            function()
        except BaseException as caught:
            error = f"{type(caught).__name__}: {caught}"
        spent, opens, changes = time.process_time() - began, opened[-20_000:], changed[-20_000:]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        report = (
            error[:2000],
            spent,
            peak - pages * resource.getpagesize() / 2**20,
            opens,
            changes,
        )
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
