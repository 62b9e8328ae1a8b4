"""Who sees which bar: terminals, log files, libraries, workers, quiet scripts."""

import contextlib
import dataclasses
import multiprocessing
import os
import pty
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from core import flags as cli
from core import progress
from core.flags import flag


@dataclasses.dataclass
class Config:
    """A script."""

    verbose: bool = flag(True, "progress bars")


def shown(monkeypatch, capsys, work, *flags: str) -> str:
    """What a script that does `work` writes to stderr."""
    monkeypatch.setattr(sys, "argv", ["script.py", *flags])

    def main(config) -> None:
        work()

    with pytest.raises(SystemExit) as ended:
        cli.run(main, Config)
    assert ended.value.code is None
    return capsys.readouterr().err


def slow(items, seconds: float = 0.02):
    for item in items:
        time.sleep(seconds)
        yield item


def in_a_bar() -> None:
    for _ in progress.bar("reading", "radiograph")(range(3)):
        pass


def in_the_library() -> None:
    for _ in progress.steps(range(6), "bootstrap", "draw"):
        time.sleep(0.02)


def in_portions() -> None:
    for _ in progress.portions(["ab", "cd", "e"], [2, 2, 1], "predicting", "radiograph"):
        time.sleep(0.02)


def test_a_bar_over_batches_counts_what_is_in_them(monkeypatch, capsys):
    monkeypatch.setattr(progress, "STEPS_SECONDS", 0)
    last = shown(monkeypatch, capsys, in_portions).splitlines()[-1]
    assert last.startswith("predicting: 100%") and "5/5" in last and "radiographs/s" in last
    assert list(progress.portions("ab", [1, 1], "x", "y")) == ["a", "b"]  # no script: no bar


def test_a_log_file_gets_lines_with_rate_and_total(monkeypatch, capsys):
    monkeypatch.setattr(progress, "STEPS_SECONDS", 0)
    told = shown(monkeypatch, capsys, in_a_bar)
    assert "\r" not in told and "\x1b" not in told
    first, last = told.splitlines()
    assert first.startswith("reading:   0%") and "0/3" in first
    assert "3/3" in last and "radiographs/s" in last


def test_a_rate_names_its_unit_once_and_without_a_space_too_many():
    shown = progress.load_tqdm().format_meter
    assert "2.00 s/radiograph]" in shown(n=5, total=10, elapsed=10, unit="radiograph")
    assert "2.00 radiographs/s]" in shown(n=20, total=30, elapsed=10, unit="radiograph")
    assert "4.00 s/batch]" in shown(n=5, total=10, elapsed=20, unit="batch")


def test_short_loops_leave_no_line_in_a_log_file(monkeypatch, capsys):
    assert shown(monkeypatch, capsys, in_a_bar) == ""


def test_long_loops_tell_a_log_file_how_long_they_will_take(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.05)
    monkeypatch.setattr(progress, "STEPS_SECONDS", 0.05)
    told = shown(
        monkeypatch, capsys, lambda: list(progress.bar("reading")(slow(range(10)), total=10))
    )
    assert any("<00:" in line for line in told.splitlines()[1:-1]), told


TERMINAL = """
import dataclasses, sys, time
sys.path.insert(0, {root!r})
from core.flags import run
from core.progress import bar

@dataclasses.dataclass
class Config:
    "A script."

def main(config):
    for _ in bar("reading\\x1b[2J")(range(60)):
        time.sleep(0.03)

run(main, Config)
"""


LOADING_SCRIPT = """
import dataclasses, sys
sys.path[:0] = [{root!r}, {packages!r}]
from core.flags import run
from core.progress import say

@dataclasses.dataclass
class Config:
    "A script."

def main(config):
    import torch
    say("ready")
    import torch

run(main, Config)
"""


@pytest.mark.parametrize("kind", ["terminal", "log", "other process", "error", "help"])
def test_a_terminal_is_told_that_pytorch_is_loaded(kind, tmp_path):
    """Not a log file, not by processes of torchrun beside the first, not by --help; the line goes."""
    (tmp_path / "torch.py").write_text(
        "import time; time.sleep(0.2)\n" + "raise ValueError('no')\n" * (kind == "error")
    )
    ours, theirs = pty.openpty()
    program = LOADING_SCRIPT.format(root=str(Path(__file__).parents[2]), packages=str(tmp_path))
    command = [sys.executable, "-c", program, *(["--help"] if kind == "help" else [])]
    environment = os.environ | {"RANK": "1" if kind == "other process" else "0"}
    stderr = subprocess.PIPE if kind == "log" else theirs
    subprocess.run(command, stdout=theirs, stderr=stderr, env=environment, timeout=60)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    loading = b"loading PyTorch ...\r\x1b[K"
    if kind == "error":
        assert shown.startswith(loading + b"Traceback")
    elif kind == "help":
        assert b"loading" not in shown
    else:
        assert shown == (loading if kind == "terminal" else b"") + b"ready\r\n"


def test_a_terminal_gets_one_line_that_goes():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 80))
    program = TERMINAL.format(root=str(Path(__file__).parents[2]))
    child = subprocess.Popen(
        [sys.executable, "-c", program], stderr=theirs, stdout=subprocess.DEVNULL
    )
    os.close(theirs)
    told = b""
    with contextlib.suppress(OSError):  # what Linux says when the other side has closed
        while part := os.read(ours, 4096):
            told += part
    os.close(ours)
    assert child.wait(30) == 0
    assert (
        told.count(b"\r") >= 3
        and b"\n" not in told
        and b"\x1b[2J" not in told
        and rb"\x1b[2J" in told
    )


@pytest.mark.parametrize("seconds, expected", [(0.03, True), (60, False)])
def test_loops_of_the_library_have_a_bar_if_they_last(monkeypatch, capsys, seconds, expected):
    monkeypatch.setattr(progress, "STEPS_SECONDS", seconds)
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.01)
    assert ("bootstrap" in shown(monkeypatch, capsys, in_the_library)) == expected


def test_the_library_is_silent_without_a_script(monkeypatch, capsys):
    monkeypatch.setattr(progress, "STEPS_SECONDS", 0)
    in_the_library()
    assert capsys.readouterr().err == ""


def everything() -> None:
    in_a_bar()
    in_the_library()
    for _ in range(2):
        progress.meter("maps", 2).update()


def test_no_verbose_hides_every_bar(monkeypatch, capsys):
    monkeypatch.setattr(progress, "STEPS_SECONDS", 0)
    assert "bootstrap" in shown(monkeypatch, capsys, everything)
    assert shown(monkeypatch, capsys, everything, "--no-verbose") == ""
    assert "reading" in shown(monkeypatch, capsys, everything)


def in_a_worker(path) -> None:
    sys.stderr = open(path, "w")
    progress._bars = True
    everything()
    sys.stderr.close()


def test_workers_draw_no_bars(tmp_path):
    worker = multiprocessing.get_context("fork").Process(
        target=in_a_worker, args=(tmp_path / "log",)
    )
    worker.start()
    worker.join(30)
    assert worker.exitcode == 0 and (tmp_path / "log").read_text() == ""


def test_a_script_starts_without_multiprocessing():
    """Its import would be a fifth of the time that `--help` takes."""
    code = "import sys, core.flags; print('multiprocessing' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "False"


def test_only_rank_0_speaks(monkeypatch, capsys):
    from core.system import distributed

    monkeypatch.setattr(distributed, "is_main", lambda: False)
    assert (
        shown(
            monkeypatch,
            capsys,
            lambda: (everything(), progress.say("line"), progress.warn("line")) and 0 or None,
        )
        == ""
    )
    assert capsys.readouterr().out == ""


def test_nothing_to_do_needs_no_bar(monkeypatch, capsys):
    assert shown(monkeypatch, capsys, lambda: list(progress.bar("reading")([]))) == ""
