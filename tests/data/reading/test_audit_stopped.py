"""An audit that is interrupted: what was read is known, nothing is left running, and the exit status says so."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fork_harness import exit_status, group, spawn
from PIL import Image
from script_runs import pretraining
from slow_reading import die, slow

from core.system import distributed, signals
from data.reading import audit
from data.reading.audit import FileTable, remembered

FILES = 400
ASKING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]


def table_in(folder: Path) -> FileTable:
    return FileTable(
        folder / "table.csv",
        ("reason", "detail"),
        "1",
        "names",
        lambda pair: pair,
        lambda *pair: pair,
    )


@pytest.fixture
def files(tmp_path):
    (tmp_path / "files").mkdir()
    for number in range(FILES):
        (tmp_path / "files" / f"{number:03d}").write_text("x")
    return sorted((tmp_path / "files").iterdir())


def children(pid: int) -> list[int]:
    """The processes that a process has started, but for the resource tracker of multiprocessing."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
            if parent == pid and b"resource_tracker" not in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def running(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if (Path("/proc") / str(pid) / "stat").read_text().rpartition(") ")[2][0] != "Z":
                found.append(pid)
    return found


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def lines(file: Path) -> int:
    return file.read_text().count("\n") if file.exists() else 0


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        signal.SIGKILL,
        *(pytest.param(number, marks=pytest.mark.slow) for number in ASKING[1:]),
    ],
)
def test_a_signal_costs_no_verdict_and_leaves_no_process(
    files, tmp_path, monkeypatch, number, workers
):
    monkeypatch.setattr(audit, "FLUSH_SECONDS", 0.1)
    child = spawn(lambda: len(remembered(slow, files, table_in(tmp_path), workers=workers)))
    wait_until(lambda: lines(tmp_path / "table.csv") > 20)
    processes = children(child)
    assert len(processes) == workers
    os.kill(child, number)
    # what `remembered` raises ends the child of the harness with 1
    assert exit_status(child, 20) == (-signal.SIGKILL if number == signal.SIGKILL else 1)
    wait_until(lambda: not running(processes), seconds=5)
    known = table_in(tmp_path).read()
    assert 20 <= len(known) < FILES and all(
        name == Path(state[0]).name for state, (_, name) in known.items()
    )
    read = []
    values = remembered(
        lambda path: (read.append(path), ("", path.name))[1], files, table_in(tmp_path)
    )
    assert values == [("", path.name) for path in files] and len(read) == FILES - len(known)


def test_a_dead_process_is_named_with_a_flag_that_helps(files):
    with pytest.raises(
        ChildProcessError, match="died while decoding .* --num_workers 0 shows at which file"
    ):
        with audit.spread(die, files, 2) as results:
            list(results)


@pytest.mark.parametrize("torn", ["/a/b,1,2", "/a/b,1,2,1,trunc", '/a/b,1,2,1,"",half'])
def test_a_last_line_that_was_cut_short_is_read_again(files, tmp_path, torn):
    first = files[:3]
    remembered(slow, first, table_in(tmp_path))
    with (tmp_path / "table.csv").open("a") as stream:
        stream.write(torn)
    assert len(table_in(tmp_path).read()) == 3
    remembered(slow, files[:5], table_in(tmp_path))
    assert len(table_in(tmp_path).read()) == 5 and torn not in (tmp_path / "table.csv").read_text()


def test_signals_that_are_ignored_stay_ignored(tmp_path):
    """A run under nohup goes on when the terminal is closed."""

    def child() -> int:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with signals.stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
        return 7

    assert exit_status(spawn(child)) == 7


def test_former_handlers_come_back_and_threads_change_none():
    before = [signal.getsignal(number) for number in signals.ASKING]
    with pytest.raises(signals.Stopped) as stop, signals.stoppable(), signals.stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert (
        stop.value.code == 143 and [signal.getsignal(number) for number in signals.ASKING] == before
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """600 names of a few radiographs that take a while to decode."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 60_000, (900, 900), dtype=np.uint16)
        Image.fromarray(noise).save(folder / f"{number}.png")
        for copy in range(199):
            os.link(folder / f"{number}.png", folder / f"{number}-{copy:03d}.png")
    return folder


@pytest.mark.parametrize("everyone", [False, True], ids=["main process", "all processes"])
def test_a_training_of_two_processes_stops_during_its_audit(many, tmp_path, everyone):
    out, said = tmp_path / "run", tmp_path / "said"
    work = pretraining(many, out, val_path=str(many / "0.png"), num_workers=1)

    def aloud() -> int:
        sys.stdout = sys.stderr = open(said, "a", buffering=1)
        return work()

    pids = group(2, aloud)
    wait_until(lambda: lines(out / "audit.csv") > 3)
    processes = children(pids[0])
    for pid in pids if everyone else pids[:1]:
        os.kill(pid, signal.SIGTERM)
    assert [exit_status(pid, 30) for pid in pids] == [143, 143]
    wait_until(lambda: not running(processes), seconds=5)
    assert "stopped by SIGTERM; the same command continues" in said.read_text()
    assert "Traceback" not in said.read_text() and "rror" not in said.read_text()
    assert 3 < lines(out / "audit.csv") < 601


def test_the_main_process_hands_its_stop_on():
    def member() -> int:
        def stop() -> None:
            raise signals.Stopped(signal.SIGTERM)

        try:
            distributed.from_main(stop)
        except SystemExit as end:
            return end.code
        return 0

    assert [exit_status(child) for child in group(2, member)] == [143, 143]
