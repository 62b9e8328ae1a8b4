"""A manifest: size and sha256 of every file of a data set, so that any later change of a single bit is noticed.

No decoder sees most of the bits that flip in a JPEG. The table has the columns path, size_bytes, sha256. Paths are
relative to the data set, so that it may move as a whole, and begin with "./", so that no spreadsheet takes one for a
formula; bytes that are not UTF-8 stay as they are. The last row has no path; it holds the number of rows above it and
the sha256 of their bytes.
"""

import csv
import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

from core.files import printable, sha256_of, write_text
from core.system.os_errors import is_exhausted, meaning_of
from core.tables import line_text

COLUMNS = ("path", "size_bytes", "sha256")
CHUNK = 16  # files handed to a thread at once


@dataclass(frozen=True)
class Entry:
    """What a file holds: its size in bytes and the sha256 of its content; or `error`, why it could not be read."""

    size: int = 0
    sha256: str = ""
    error: str = ""


def fingerprints(
    paths: Iterable[Path],
    *,
    workers: int = 0,
    progress: Callable[[Sequence], Iterable] | None = None,
) -> dict[Path, Entry]:
    """Read every file, whatever is in it.

    workers: threads that read (0: this one); sums are computed beside each other. progress: wraps a sequence, for
    example `tqdm`.
    """
    paths = list(paths)
    shown = progress(paths) if progress else paths
    if workers == 0:
        return {path: _entry(path) for path in shown}
    with ThreadPool(workers) as pool:
        return dict(zip(shown, pool.imap(_entry, paths, CHUNK)))


def common_folder(entries: Sequence[Path]) -> str:
    """The folder that the names in a manifest start from, where the data set consists of folders, files or lists."""
    return os.path.commonpath(
        [os.path.abspath(entry if entry.is_dir() else entry.parent) for entry in entries]
    )


def name_below(path: Path, folder: str) -> str:
    """How a manifest names a file."""
    return "./" + os.path.relpath(path, folder)


def write_manifest(file: Path, content: Mapping[str, Entry]) -> None:
    """Write names and what they hold, sorted by name; files that could not be read have no row."""
    readable = [
        (name, entry.size, entry.sha256)
        for name, entry in sorted(content.items())
        if not entry.error
    ]
    body = "".join(line_text(row, raw_bytes=True) for row in (COLUMNS, *readable))
    write_text(file, body + line_text(("", len(readable), _sum_of(body))))


def read_manifest(file: Path) -> dict[str, Entry]:
    """Names and what they held. ValueError if the manifest itself is not as it was written, FileNotFoundError."""
    text = Path(file).read_bytes().decode("utf-8", "surrogateescape")
    try:
        body = text[: text.rstrip("\n").rindex("\n") + 1]
        last = text.rstrip("\n").rpartition("\n")[2]
        nothing, count, expected = last.split(",")
        rows = list(csv.reader(io.StringIO(body, newline="")))
        whole = (nothing, expected, int(count)) == ("", _sum_of(body), len(rows) - 1) and tuple(
            rows[0]
        ) == COLUMNS
        content = (
            {name: Entry(int(size), sha256) for name, size, sha256 in rows[1:]} if whole else None
        )
    except (ValueError, csv.Error):
        content = None
    if content is None:
        raise ValueError(
            f"{printable(file)}: this is no manifest, or it is damaged; restore it, or name a file that does not exist "
            "to write a new one"
        )
    return content


def differences(
    before: Mapping[str, Entry], now: Mapping[str, Entry]
) -> list[tuple[str, str, str]]:
    """(name, kind, one sentence) of every file that is not as it was, by name.

    kind: "changed", "missing", "new" or "unreadable".
    """
    found = []
    for name in sorted({*before, *now}):
        then = before.get(name)
        entry = now.get(name)
        if entry is None:
            found.append(
                (name, "missing", f"{then.size} bytes by the manifest, now there is no such file")
            )
        elif entry.error:
            found.append((name, "unreadable", entry.error))
        elif then is None:
            found.append((name, "new", "the manifest does not know this file"))
        elif entry.size != then.size:
            found.append((name, "changed", f"{entry.size} bytes, by the manifest {then.size}"))
        elif entry != then:
            found.append((name, "changed", f"other content of the same {entry.size} bytes"))
    return found


def duplicates(content: Mapping[Path, Entry]) -> list[tuple[Path, Path]]:
    """(file, the first one with exactly the same content) of every file that is there more than once."""
    first: dict[str, Path] = {}
    readable = [(path, entry.sha256) for path, entry in content.items() if not entry.error]
    return [
        (path, first[sha256]) for path, sha256 in readable if first.setdefault(sha256, path) != path
    ]


def _entry(path: Path) -> Entry:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            return Entry(error="not a regular file")
        return Entry(status.st_size, sha256_of(path))
    except OSError as error:
        if is_exhausted(error):
            raise
        return Entry(error=meaning_of(error))


def _sum_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
