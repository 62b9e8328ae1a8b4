"""Reads every radiograph once, completely, before hours are spent on it: the good ones, and a quarantine with reasons.

A half-grey JPEG or a DICOM with a bad window is only found by decoding it. The verdicts can be kept in a small CSV
table, so that a second look at a million files reads only what is new or changed.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from data.radiograph import UnreadableRadiograph, load_radiograph
from training.files import printable, write_text
from training.tables import write_table

RULES = "3"  # raise it when the reader judges differently: older verdicts are then read again
COLUMNS = ("path", "size_bytes", "modified_ns", "rules", "reason", "detail")
# what may be mended tomorrow is not remembered
PASSING = ("missing", "not-a-file", "no-permission", "io-error", "out-of-memory", "unknown-syntax")
CHUNK = 16  # files handed to a worker at once


def audit(
    paths: Iterable,
    *,
    workers: int = 0,
    cache: Path | None = None,
    progress: Callable[[Sequence], Iterable] | None = None,
) -> tuple[list[Path], pd.DataFrame]:
    """Decode every file, and divide the paths into good ones and a quarantine.

    workers: processes that read (0: this one). cache: CSV file with earlier verdicts, by path, size and time of change;
    it is read, and atomically replaced even if the audit is interrupted. progress: wraps a sequence, for example
    `tqdm`.
    Returns the good paths in the given order, and a table with the columns path, reason (a key of `REASONS`) and
    detail.
    Raises RuntimeError if a worker process dies (killed, or out of memory).
    """
    paths = [Path(path) for path in paths]
    judged = remembered(judge, paths, _read_cache(cache), cache and (lambda known: _write_cache(cache, known)),
                        workers=workers, progress=progress)  # fmt: skip
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


def remembered(
    function: Callable[[Path], Any],
    paths: Sequence[Path],
    known: dict[tuple, Any],
    keep: Callable[[dict], None] | None,
    *,
    workers: int = 0,
    progress: Callable[[Sequence], Iterable] | None = None,
) -> list:
    """`function` of each file, in order; those whose `file_state` is in `known` are not read again.

    `keep(known)` stores what is known then, also if the reading is interrupted. workers, progress: as for `audit`.
    """
    states = [file_state(path) for path in paths]
    unread = list(dict.fromkeys(path for path, state in zip(paths, states) if state not in known))
    fresh: dict[Path, Any] = {}
    try:
        with spread(function, unread, workers) as results:
            for path, result in zip(progress(unread) if progress else unread, results):
                fresh[path] = result
    finally:
        known = known | {state: fresh[path] for path, state in zip(paths, states) if path in fresh}
        if keep and fresh:
            keep(known)
    return [known[state] for state in states]


@contextmanager
def spread(function: Callable[[Path], object], paths: list[Path], workers: int) -> Iterator[Iterator]:
    """The results of `function` for each file in order, as they come, from this process or from `workers` others.

    Raises RuntimeError if one of the processes dies.
    """
    if workers == 0:
        yield map(function, paths)
        return
    # spawned, not forked: safe beside the threads of torch and the same on every platform
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            yield pool.map(function, paths, chunksize=CHUNK)
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a process of the audit died while decoding (killed, or out of memory); "
                "run it with workers=0 to see at which file"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def file_state(path: Path) -> tuple[str, str, str]:
    """What a verdict on a file hangs on: path, size and time of change; one that cannot be looked at has no size."""
    try:
        status = path.stat()
        return str(path.absolute()), str(status.st_size), str(status.st_mtime_ns)
    except (OSError, ValueError):
        return str(path.absolute()), "", ""


def _read_cache(cache: Path | None) -> dict[tuple, tuple[str, str]]:
    """Earlier verdicts by the same rules."""
    if cache is None or not Path(cache).exists():
        return {}
    with open(cache, newline="", encoding="utf-8", errors="surrogateescape") as stream:
        table = csv.DictReader(stream)
        if tuple(table.fieldnames or ()) != COLUMNS:
            columns = ", ".join(table.fieldnames or []) or "missing"
            raise ValueError(f"{cache}: not a table of verdicts; its columns are {columns}")
        return {
            (row["path"], row["size_bytes"], row["modified_ns"]): (row["reason"], row["detail"])
            for row in table
            if row["rules"] == RULES
        }


def _write_cache(cache: Path, known: dict[tuple, tuple[str, str]]) -> None:
    """Keep the verdicts that hang on the file alone."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows((*key, RULES, *verdict) for key, verdict in known.items() if verdict[0] not in PASSING)
    write_text(cache, text.getvalue())
