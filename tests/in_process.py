"""Scripts run in the process of the tests: importing torch, timm and transformers anew takes seconds."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

import pytest

from core import flags as cli


def script(module: ModuleType, *flags: object) -> subprocess.CompletedProcess:
    """Run a script with these flags as from a command line: exit status, and what it wrote to stdout and stderr."""
    if hasattr(module, "Config"):
        return _run(module, flags, lambda: cli.run(module.main, module.Config))
    return _run(module, flags, lambda: cli.finish(module.main, set()))


def _run(
    module: ModuleType, flags: Sequence[object], work: Callable[[], object]
) -> subprocess.CompletedProcess:
    words = [str(flag) for flag in flags]
    output, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", [f"{module.__name__.rpartition('.')[2]}.py", *words])
        work()
    return subprocess.CompletedProcess(
        words, ended.value.code or 0, output.getvalue(), errors.getvalue()
    )
