"""Reads every radiograph once, completely, before hours are spent on it: the good ones, and a quarantine with reasons.

A half-grey JPEG or a DICOM with a bad window is only found by decoding it. The verdicts can be kept in a small CSV
table, so that a second look at a million files reads only what is new or changed. It grows while files are read: an
interruption, even `kill -9`, costs the last second. `scripts/check_data.py` writes such a table for trainings to take.

A verdict holds for a file as long as its path (links followed), size and time of change stay the same. A file whose
content changes while all three stay is not noticed; a manifest (`data/reading/manifest.py`) notices it.
"""

import csv
import io
import os
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from core.files import append_line, printable, write_text
from core.system.os_errors import naming
from core.system.signals import blocked, die_with_parent, stoppable
from core.tables import line_text, list_names, unescape, write_table
from data.reading.radiograph import load_radiograph
from data.reading.refusal import REASONS, UnreadableRadiograph

RULES = "3"  # raise it when the reader judges differently: older verdicts are then read again
# what may be mended tomorrow is not remembered
PASSING = ("missing", "not-a-file", "no-permission", "io-error", "out-of-memory", "unknown-syntax")
CHUNK = 16  # files handed to a worker at once
FLUSH_SECONDS = 1.0  # how long a result waits before it is on the disk
STATE = ("path", "size_bytes", "modified_ns")
LONGEST_LINE = 1 << 16  # characters of a line of a table from elsewhere
_WHOLE = re.compile(r"-?\d{1,20}")


def audit(
    paths: Iterable,
    *,
    workers: int = 0,
    cache: Path | None = None,
    earlier: Path | None = None,
    tell: Callable[[str], None] = lambda message: None,
    progress: Callable[[Sequence], Iterable] | None = None,
) -> tuple[list[Path], pd.DataFrame]:
    """Decode every file, and divide the paths into good ones and a quarantine.

    workers: processes that read (0: this one). cache: CSV file with earlier verdicts, by path, size and time of change;
    it is read, and new verdicts are appended as they come. earlier: such a file from elsewhere (`--audit`), which stays
    as it is; `tell` is given a sentence on how much it knows. progress: wraps a sequence, for example `tqdm`.
    Returns the good paths in the given order, and a table with the columns path, reason (a key of `REASONS`) and
    detail.
    Raises ChildProcessError if a worker process dies (killed, or out of memory). FileNotFoundError and ValueError name
    an `earlier` that is missing, damaged, of other rules or about other files only.
    """
    paths = [Path(path) for path in paths]
    table, given = (file and _verdicts(Path(file)) for file in (cache, earlier))
    judged = remembered(
        judge, paths, table, given=given, tell=tell, workers=workers, progress=progress
    )
    bad = [(str(path), *verdict) for path, verdict in zip(paths, judged) if verdict[0]]
    good = [path for path, verdict in zip(paths, judged) if not verdict[0]]
    return good, pd.DataFrame(bad, columns=["path", "reason", "detail"], dtype=object)


def readable_records(
    records: pd.DataFrame,
    quarantine: Path,
    *,
    on_bad: str,
    cache: Path | None = None,
    earlier: Path | None = None,
    tell: Callable[[str], None] = lambda message: None,
    workers: int = 0,
    progress: Callable[[Sequence], Iterable] | None = None,
) -> tuple[pd.DataFrame, list[str], int]:
    """(the records whose `image` can be read, notices, how many cannot), after reading every file once.

    Those that cannot are listed in the table `quarantine`; `on_bad`: "skip" leaves them out, "stop" is a ValueError.
    `cache`, `earlier`, `tell`, `workers`, `progress`: as for `audit`.
    """
    _, bad = audit(
        records["image"],
        workers=workers,
        cache=cache,
        earlier=earlier,
        tell=tell,
        progress=progress,
    )
    if not len(bad):
        return records, [], 0
    write_table(quarantine, list(bad.columns), quarantined(bad))
    first = f"first {first_of(bad)}; all are in {quarantine}"
    if on_bad == "stop":
        raise ValueError(
            f"{len(bad)} of {len(records)} radiographs cannot be read, {first}; mend them or use "
            "--on_bad_image skip"
        )
    told = f"{len(bad)} of {len(records)} radiographs cannot be read and are left out, {first}"
    return records[~records["image"].isin(bad["path"])].reset_index(drop=True), [told], len(bad)


def first_of(bad: pd.DataFrame) -> str:
    """The first of `audit`'s table of bad files, for a message."""
    path, reason, detail = bad.iloc[0][["path", "reason", "detail"]]
    return f"{printable(path)} ({reason}: {detail})"


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


def _verdicts(file: Path) -> "FileTable":
    """The table of what `judge` found."""
    return FileTable(
        file,
        ("reason", "detail"),
        RULES,
        "verdicts",
        cells_of=lambda verdict: None if verdict[0] in PASSING else verdict,
        value_of=lambda reason, detail: (
            (reason, detail) if reason in REASONS or not (reason or detail) else None
        ),
    )


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
        self.file = Path(file)
        self.rules = rules
        self.content = content
        self.columns = (*STATE, "rules", *columns)
        self.cells_of = cells_of
        self.value_of = value_of

    def read(self) -> dict[tuple, Any]:
        """File state -> value; without a last line that was cut short. ValueError if it is another table."""
        if not self.file.exists():
            return {}
        self._check_kind()
        text = self.file.read_bytes().decode("utf-8", "surrogateescape")
        rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        try:
            self._check_header(next(rows, []))
            cells = ([unescape(cell) for cell in row] for row in rows)
            whole = [row for row in cells if len(row) == len(self.columns) and row[3] == self.rules]
        except csv.Error as error:
            raise ValueError(f"{printable(self.file)}: damaged ({error}); delete it") from None
        known = {tuple(row[:3]): self.value_of(*row[4:]) for row in whole}
        return {state: value for state, value in known.items() if value is not None}

    def read_of(self, states: Collection[tuple]) -> dict[tuple, Any]:
        """The same of the files in `states` alone, of a table that comes from elsewhere; it may be larger than memory.

        Nothing is passed over but a last line that was cut short: ValueError names a line that is damaged, other rules,
        and a table of which no row is about one of the files. FileNotFoundError.
        """
        shown = printable(self.file)
        if not os.path.lexists(self.file):
            raise FileNotFoundError(f"{shown}: no such table of {self.content}")
        self._check_kind()
        states = set(states)
        found = {}
        paths = {path for path, _, _ in states}
        concerned = 0
        first = ""
        with (
            naming(self.file),
            open(self.file, encoding="utf-8", errors="surrogateescape", newline="") as stream,
        ):
            rows = csv.reader(_whole_lines(stream), strict=True)
            try:
                self._check_header(next(rows, []))
                for row in rows:
                    state, value = self._parsed(row)
                    if value is None:
                        raise csv.Error("no row of such a table")
                    first = first or state[0]
                    concerned += state[0] in paths
                    if state in states and self.cells_of(value) is not None:
                        found[state] = value
            except csv.Error as error:
                line = rows.line_num
                told = f"{shown}: damaged in line {line} ({error}); scripts/check_data.py --audit writes a new one"
                raise ValueError(told) from None
        if not concerned:
            about = (
                f"it is about other files, the first {printable(first)}" if first else "it is empty"
            )
            raise ValueError(
                f"{shown}: has {self.content} on none of the {len(paths):,} files here; {about}"
            )
        return found

    def _parsed(self, row: list[str]) -> tuple[tuple, Any]:
        """(state, value) of a row from elsewhere; the value is None where it is none. ValueError for other rules."""
        row = [unescape(cell) for cell in row]
        if len(row) != len(self.columns) or not all(map(_WHOLE.fullmatch, row[1:3])):
            return (), None
        if row[3] != self.rules:
            raise ValueError(
                f"{printable(self.file)}: its {self.content} were made by other rules ({printable(row[3][:20])}, now "
                f"{self.rules}); scripts/check_data.py --audit writes new ones"
            )
        return tuple(row[:3]), self.value_of(*row[4:])

    def _check_kind(self) -> None:
        if (
            self.file.exists() and not self.file.is_file() and not self.file.is_dir()
        ):  # a pipe: reading would wait
            raise ValueError(
                f"{printable(self.file)}: a pipe or a device, not a table of {self.content}"
            )

    def _check_header(self, header: list[str]) -> None:
        if tuple(header) != self.columns:
            raise ValueError(
                f"{printable(self.file)}: not a table of {self.content}; its columns are {list_names(header)}"
            )

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
    given: FileTable | None = None,
    tell: Callable[[str], None] = lambda message: None,
    workers: int = 0,
    progress: Callable[[Sequence], Iterable] | None = None,
) -> list:
    """`function` of each file, in order; files whose `file_state` is in `table` or in `given` are not read again.

    New values, and those taken from `given`, are appended to the table every second. A signal that asks for the end
    raises `core.system.signals.Stopped` after the last ones were written. tell, workers, progress: as for `audit`.
    """
    known = table.read() if table else {}
    states = [file_state(path) for path in paths]
    taken = given.read_of(states) if given else {}
    if given:
        count = sum(state in taken for state in states)
        rest = f"; to be read: {len(states) - count:,}" if count < len(states) else ""
        tell(
            f"{printable(given.file)}: {count:,} of {len(states):,} files are as they were then{rest}"
        )
    new = taken.keys() - known.keys()
    known |= taken
    unread = dict(zip(paths, states))
    unread = {path: state for path, state in unread.items() if state not in known}
    if table and (unread or new):
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


def _whole_lines(stream: TextIO) -> Iterator[str]:
    """The lines of a stream, but for a last one that was cut short; `csv.Error` for one that is absurdly long."""
    while (line := stream.readline(LONGEST_LINE)).endswith("\n"):
        yield line
    if len(line) == LONGEST_LINE:
        raise csv.Error("a line without end")


def _flush(table: FileTable | None, pending: dict[tuple, Any]) -> None:
    rows = dict(pending)
    pending.clear()
    if table:
        table.append(rows)


@contextmanager
def spread(
    function: Callable[[Path], object], paths: list[Path], workers: int
) -> Iterator[Iterator]:
    """The results of `function` for each file in order, as they come, from this process or from `workers` others.

    Raises ChildProcessError if one of the processes dies.
    """
    if workers == 0:
        yield map(function, paths)
        return
    # spawned, not forked: safe beside the threads of torch and the same on every platform
    with ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=die_with_parent,
        initargs=(os.getpid(),),
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


def _in_order(
    pool: ProcessPoolExecutor, function: Callable, paths: list[Path], most: int
) -> Iterator:
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
    """What a verdict on a file hangs on: path, size and time of change; one that cannot be looked at has no size.

    Links are followed, so that it does not matter by which way a file is reached.
    """
    try:
        status = path.stat()
        return os.path.realpath(path), str(status.st_size), str(status.st_mtime_ns)
    except (OSError, ValueError):
        return str(path.absolute()), "", ""
