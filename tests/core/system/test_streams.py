"""Scripts whose standard streams are closed, broken or full, and what they show of hostile strings: real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# a script of one flag, which needs no package: what it does comes from the test
SCRIPT = """
import dataclasses, os, sys, warnings
sys.path.insert(0, {root!r})
from core.flags import flag, run
from core.progress import bar, say, warn

@dataclasses.dataclass
class Config:
    '''A script.'''
    out: str = flag("done", "file to write")

def main(config):
{body}

run(main, Config)
"""
WRITES = """
    with open(config.out, "w") as file:
        os.write(2, b"a message of a library")
        os.write(1, b"another")
        print("a message", file=sys.stderr)
        say("a line")
        warn("a warning")
        for _ in bar("work")(range(3)):
            pass
        file.write("whole")
"""
SPEAKS = """
    for number in range(20_000):
        print(number)
        print(number, file=sys.stderr)
    open(config.out, "w").write("whole")
"""


def shell(
    tmp_path: Path, command: str, body: str, **environment: str
) -> subprocess.CompletedProcess:
    """Run a bash command in which SCRIPT stands for the script with this `body`."""
    path = tmp_path / "script.py"
    path.write_text(
        SCRIPT.format(root=str(ROOT), body=body), encoding="utf-8", errors="surrogatepass"
    )
    command = command.replace("SCRIPT", f"{sys.executable} {path}")
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | environment,
        timeout=60,
    )


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_neither_ends_a_script_nor_gets_into_its_files(tmp_path, closed):
    done = shell(tmp_path, f"SCRIPT {closed}", WRITES)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").read_text() == "whole"


@pytest.mark.parametrize(
    "pipe", ["SCRIPT | head -1", "SCRIPT 2>&1 >/dev/null | head -1", "SCRIPT 2>&1 | head -1"]
)
def test_a_reader_that_leaves_does_not_end_a_script(tmp_path, pipe):
    done = shell(tmp_path, f"{pipe}; exit ${{PIPESTATUS[0]}}", SPEAKS)
    assert done.returncode == 0
    assert b"Error" not in done.stderr and b"Traceback" not in done.stderr
    assert (tmp_path / "done").read_text() == "whole"


def test_a_reader_that_has_left_hides_no_failure(tmp_path):
    body = SPEAKS + "    raise FileNotFoundError('wrong')\n"
    done = shell(tmp_path, "SCRIPT 2>&1 | head -1; exit ${PIPESTATUS[0]}", body)
    assert done.returncode == 2


@pytest.mark.parametrize("target", ["/dev/full", "log"])
def test_a_log_without_room_does_not_end_a_script(tmp_path, target):
    done = shell(tmp_path, f"ulimit -f 8; SCRIPT > {target}", SPEAKS)
    assert done.returncode == 0, done.stderr[-500:]
    assert b"standard output cannot be written" in done.stderr
    assert (tmp_path / "done").read_text() == "whole"


HOSTILE = {
    "escape": ("\x1b[2J\x1b[31mgood", r"\x1b[2J\x1b[31mgood"),
    "C1": ("\x9b31m", r"\x9b31m"),
    "carriage return": ("bad\rgood", r"bad\rgood"),
    "backspace": ("bad\b\b\bgood", r"bad\x08\x08\x08good"),
    "override": ("\u202egnp.exe", r"\u202egnp.exe"),
    "isolate": ("\u2066a\u2069", r"\u2066a\u2069"),
    "mark": ("a\u200e\u200f\u061c", r"a\u200e\u200f\u061c"),
    "zero width": ("a\u200bb\u200d\u2060\ufeff", r"a\u200bb\u200d\u2060\ufeff"),
    "tags": ("a\U000e0041", r"a\U000e0041"),
    "soft hyphen": ("a\xadb", r"a\xadb"),
    "half a pair": ("a\ud800b", r"a\ud800b"),
    "no UTF-8": ("a\udcffb", r"a\udcffb"),
    "line": ("a\nnote: b", r"a\nnote: b"),
}
IN_A_BAR = """
    import core.progress
    core.progress.STEPS_SECONDS = 0
    for _ in bar(TEXT)(range(2)):
        pass
"""
DOORS = {
    "say": ("    say(TEXT)", "stdout"),
    "warn": ("    warn(TEXT)", "stderr"),
    "refusal": ("    raise PermissionError(TEXT)", "stderr"),
    "missing file": ("    raise FileNotFoundError(2, 'No such file', TEXT)", "stderr"),
    "bar": (IN_A_BAR, "stderr"),
    "print": ("    print(TEXT)", "stdout"),
    "warning": ("    warnings.warn(TEXT)", "stderr"),
    "defect": ("    raise KeyError(TEXT)", "stderr"),
    "library": (
        "    import json\n    json.loads('[', object_hook=TEXT) if 0 else sys.stderr.write(TEXT)",
        "stderr",
    ),
}
OF_LINES = ("print", "warning", "library")  # which may print several lines: a line end is theirs


@pytest.mark.parametrize("door", DOORS)
def test_no_string_reaches_the_terminal_with_its_control_characters(tmp_path, door):
    body, stream = DOORS[door]
    texts = [text for name, (text, _) in HOSTILE.items() if name != "line" or door not in OF_LINES]
    shown = [
        shown for name, (_, shown) in HOSTILE.items() if name != "line" or door not in OF_LINES
    ]
    joined = " ".join(texts)
    done = shell(tmp_path, "SCRIPT", body.replace("TEXT", ascii(joined)))
    written = getattr(done, stream).decode("utf-8")
    assert not [c for c in written if not c.isprintable() and c != "\n"]
    if door != "defect":  # Python shows a key as its repr
        assert " ".join(shown) in written
    if door in ("say", "warn", "refusal", "missing file"):
        assert written.count("\n") == 1


def test_a_wrong_flag_is_shown_escaped(tmp_path):
    done = shell(tmp_path, "SCRIPT $'--\\x1b[31mred' $'\\u202eword'", "    pass")
    assert done.returncode == 2 and rb"--\x1b[31mred" in done.stderr and b"\x1b" not in done.stderr


def test_text_that_the_locale_cannot_show(tmp_path):
    done = shell(tmp_path, "SCRIPT", "    say('\\u0394 \\u00e9')", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout == b"\\u0394 \\xe9\n"
