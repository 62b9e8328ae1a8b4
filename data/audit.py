"""Reads every radiograph once, completely, before hours are spent on it: the good ones, and a quarantine with reasons.

A half-grey JPEG or a DICOM with a bad window is only found by decoding it. The verdicts can be kept in a small CSV
table, so that a second look at a million files reads only what is new or changed. It grows while files are read: an
interruption, even `kill -9`, costs the last second.
"""

import csv
import io
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from data.radiograph import UnreadableRadiograph, load_radiograph
from training.files import append_line, printable, write_text
from training.signals import blocked, die_with_parent, stoppable
from training.tables import line_text, unescape, write_table

RULES = "3"  # raise it when the reader judges differently: older verdicts are then read again
# what may be mended tomorrow is not remembered
PASSING = ("missing", "not-a-file", "no-permission", "io-error", "out-of-memory", "unknown-syntax")
CHUNK = 16  # files handed to a worker at once
FLUSH_SECONDS = 1.0  # how long a result waits before it is on the disk
STATE = ("path", "size_bytes", "modified_ns")


def audit(
    paths: Iterable,
    *,
    workers: int = 0,
    cache: Path | None = None,
    progress: Callable[[Sequence], Iterable] | None = None,
) -> tuple[list[Path], pd.DataFrame]:
    """Decode every file, and divide the paths into good ones and a quarantine.

    workers: processes that read (0: this one). cache: CSV file with earlier verdicts, by path, size and time of change;
    it is read, and new verdicts are appended as they come. progress: wraps a sequence, for example `tqdm`.
    Returns the good paths in the given order, and a table with the columns path, reason (a key of `REASONS`) and
    detail.
    Raises ChildProcessError if a worker process dies (killed, or out of memory).
    """
    paths = [Path(path) for path in paths]
    table = cache and FileTable(
        cache,
        ("reason", "detail"),
        RULES,
        "verdicts",
        cells_of=lambda verdict: None if verdict[0] in PASSING else verdict,
        value_of=lambda reason, detail: (reason, detail),
    )
    judged = remembered(judge, paths, table, workers=workers, progress=progress)
    bad = [(str(path), *verdict) for path, verdict in zip(paths, judged) if verdict[0]]
    good = [path for path, verdict in zip(paths, judged) if not verdict[0]]
    return good, pd.DataFrame(bad, columns=["path", "reason", "detail"], dtype=object)


def readable_records(
    records: pd.DataFrame, quarantine: Path, *, on_bad: str, cache: Path | None = None, workers: int = 0,
    progress: Callable[[Sequence], Iterable] | None = None,
) -> tuple[pd.DataFrame, list[str], int]:  # fmt: skip
    """(the records whose `image` can be read, notices, how many cannot), after reading every file once.

    Those that cannot are listed in the table `quarantine`; `on_bad`: "skip" leaves them out, "stop" is a ValueError.
    """
    _, bad = audit(records["image"], workers=workers, cache=cache, progress=progress)
    if not len(bad):
        return records, [], 0
    write_table(quarantine, list(bad.columns), quarantined(bad))
    first = f"first {printable(bad.iloc[0]['path'])} ({bad.iloc[0]['reason']}); all are in {quarantine}"
    if on_bad == "stop":
        raise ValueError(f"{len(bad)} of {len(records)} radiographs cannot be read, {first}; mend them or use "
                         "--on_bad_image skip")  # fmt: skip
    told = f"{len(bad)} of {len(records)} radiographs cannot be read and are left out, {first}"
    return records[~records["image"].isin(bad["path"])].reset_index(drop=True), [told], len(bad)


def quarantined(bad: pd.DataFrame) -> list[dict]:
    """The rows of `audit`'s table of bad files, for a table that people read."""
    return [row | {"path": printable(row["path"])} for row in bad.to_dict("records")]


def judge(path: Path) -> tuple[str, str]:
    """Decode one file: (reason, detail), both empty if it is a usable radiograph."""
    try:
        load_radiograph(path)
    except UnreadableRadiograph as error:
        return error.reason, error.detail
    return "", ""


class FileTable:
    """What is known of files by path, size and time of change (`file_state`): a CSV table that grows.

    columns: of what is known. rules: rows written under other rules are not used. content: what the rows are, for
    messages. cells_of(value): the texts of a row, or None if the value is not kept. value_of(*texts): the value again,
    or None if a row is of no use.
    """

    def __init__(
        self,
        file: str | Path,
        columns: Sequence[str],
        rules: str,
        content: str,
        cells_of: Callable[[Any], Sequence[str] | None],
        value_of: Callable[..., Any],
    ):
        self.file, self.rules, self.content = Path(file), rules, content
        self.columns = (*STATE, "rules", *columns)
        self.cells_of, self.value_of = cells_of, value_of

    def read(self) -> dict[tuple, Any]:
        """File state -> value; without a last line that was cut short. ValueError if it is another table."""
        if not self.file.exists():
            return {}
        text = self.file.read_bytes().decode("utf-8", "surrogateescape")
        rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        header = next(rows, [])
        if tuple(header) != self.columns:
            columns = ", ".join(header) or "missing"
            raise ValueError(f"{self.file}: not a table of {self.content}; its columns are {columns}")
        cells = ([unescape(cell) for cell in row] for row in rows)
        whole = (row for row in cells if len(row) == len(self.columns) and row[3] == self.rules)
        known = {tuple(row[:3]): self.value_of(*row[4:]) for row in whole}
        return {state: value for state, value in known.items() if value is not None}

    def write(self, known: dict[tuple, Any]) -> None:
        """Replace the table atomically."""
        write_text(self.file, self._text([self.columns]) + self._text(self._rows(known)))

    def append(self, known: dict[tuple, Any]) -> None:
        """Add rows at the end."""
        if text := self._text(self._rows(known)):
            append_line(self.file, text.removesuffix("\n"))

    def _rows(self, known: dict[tuple, Any]) -> Iterator[tuple]:
        for state, value in known.items():
            cells = self.cells_of(value)
            if cells is not None:
                yield (*state, self.rules, *cells)

    def _text(self, rows: Iterable) -> str:
        return "".join(line_text(row, raw_bytes=True) for row in rows)


def remembered(
    function: Callable[[Path], Any],
    paths: Sequence[Path],
    table: FileTable | None,
    *,
    workers: int = 0,
    progress: Callable[[Sequence], Iterable] | None = None,
) -> list:
    """`function` of each file, in order; files whose `file_state` is in `table` are not read again.

    New values are appended to the table every second. A signal that asks for the end raises `training.signals.Stopped`
    after the last ones were written. workers, progress: as for `audit`.
    """
    known = table.read() if table else {}
    states = [file_state(path) for path in paths]
    unread = dict(zip(paths, states))
    unread = {path: state for path, state in unread.items() if state not in known}
    if table and unread:
        table.write(known)
    pending: dict[tuple, Any] = {}
    flushed = time.monotonic()
    with stoppable():
        try:
            with spread(function, list(unread), workers) as results:
                for path, result in zip(progress(list(unread)) if progress else unread, results):
                    known[unread[path]] = pending[unread[path]] = result
                    if time.monotonic() - flushed > FLUSH_SECONDS:
                        _flush(table, pending)
                        flushed = time.monotonic()
        finally:
            _flush(table, pending)
    return [known[state] for state in states]


def _flush(table: FileTable | None, pending: dict[tuple, Any]) -> None:
    rows = dict(pending)
    pending.clear()
    if table:
        table.append(rows)


@contextmanager
def spread(function: Callable[[Path], object], paths: list[Path], workers: int) -> Iterator[Iterator]:
    """The results of `function` for each file in order, as they come, from this process or from `workers` others.

    Raises ChildProcessError if one of the processes dies.
    """
    if workers == 0:
        yield map(function, paths)
        return
    # spawned, not forked: safe beside the threads of torch and the same on every platform
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=die_with_parent, initargs=(os.getpid(),)
    ) as pool:
        try:
            yield _in_order(pool, function, paths, 8 * workers)
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a process of the audit died while decoding (killed, or out of memory); "
                "--num_workers 0 shows at which file"
            ) from error
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.kill()  # whoever sent a signal may not wait for the files at hand
            raise


def _in_order(pool: ProcessPoolExecutor, function: Callable, paths: list[Path], most: int) -> Iterator:
    """Results in the order of `paths`; at most so many chunks of files are handed out before their turn."""
    waiting: deque = deque()
    for begin in range(0, len(paths), CHUNK):
        with blocked():  # this may start a process
            waiting.append(pool.submit(_each, function, paths[begin : begin + CHUNK]))
        if len(waiting) == most:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def _each(function: Callable[[Path], Any], paths: list[Path]) -> list:
    return [function(path) for path in paths]


def file_state(path: Path) -> tuple[str, str, str]:
    """What a verdict on a file hangs on: path, size and time of change; one that cannot be looked at has no size."""
    try:
        status = path.stat()
        return str(path.absolute()), str(status.st_size), str(status.st_mtime_ns)
    except (OSError, ValueError):
        return str(path.absolute()), "", ""
