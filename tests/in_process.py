"""Scripts run in the process of the tests: importing torch, timm and transformers anew takes seconds."""

import contextlib
import io
import subprocess
import sys
from types import ModuleType

import pytest

from training import cli


def script(module: ModuleType, *flags: object) -> subprocess.CompletedProcess:
    """Run a script with these flags as from a command line: exit status, and what it wrote to stdout and stderr."""
    words = [str(flag) for flag in flags]
    told, complained = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(told), contextlib.redirect_stderr(complained),
        pytest.raises(SystemExit) as ended,
    ):  # fmt: skip
        patch.setattr(sys, "argv", [f"{module.__name__.rpartition('.')[2]}.py", *words])
        cli.run(module.main, module.Config)
    return subprocess.CompletedProcess(words, ended.value.code or 0, told.getvalue(), complained.getvalue())
