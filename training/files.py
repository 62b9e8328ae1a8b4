"""Writing that a crash cannot spoil (a temporary file in the same folder, fsync, rename), and reading with limits."""

import contextlib
import errno
import fcntl
import hashlib
import os
import pickle
import re
import shutil
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

SMALL = 1 << 20  # bytes of a settings file
ARCHIVE = 32 << 20  # bytes that any archive may hold
WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)  # errors of `lockf`
ARCHIVE_RATIO = 50  # and a larger one, per byte of its own


_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_UMASK_LOCK = threading.Lock()


class DiskFull(OSError):
    """No room to write a file; says how much it needs and how much is free. What was there before is untouched."""

    def __str__(self) -> str:
        return self.strerror


class HashingFile:
    """A binary file that knows `size`, the bytes that it was given so far, and if asked their sha256 (sequential writes
    only)."""

    def __init__(self, file: BinaryIO, hashed: bool = False):
        self._file, self._sha256, self.size = file, hashlib.sha256() if hashed else None, 0
        self.error: BaseException | None = None  # of a write, which torch replaces by one of its own

    def write(self, data) -> int:
        self.size += memoryview(data).nbytes
        if self._sha256 is not None:
            self._sha256.update(data)
        try:
            return self._file.write(data)
        except BaseException as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


@contextlib.contextmanager
def atomic(path: str | Path, hashed: bool = False, durable: bool = True, expected: int = 0) -> Iterator[HashingFile]:
    """Write `path` as a whole or not at all.

        with atomic(folder / "metrics.json") as file:
            file.write(b"...")

    `hashed`: `file.sha256` is the hash of all that was written. `durable=False`: quicker, for what may be lost with the
    power. `expected`: how many bytes it will have, if known, for the message when there is no room. On any error the
    old file stays and the temporary one is removed; one that a kill left behind is found by `remove_leftovers`. Raises
    DiskFull with the free space.
    """
    path, file, temporary = Path(path), None, None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(descriptor, "wb") as raw:
            file = HashingFile(raw, hashed)
            yield file
            raw.flush()
            if durable:
                os.fsync(raw.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        first = _first_error(error, file)
        if is_disk_full(first) and not isinstance(first, DiskFull):
            raise _disk_full(path, max(expected, file.size if file else 0)) from first
        if first is not error:
            raise first from None
        raise


def remove_leftovers(folder: Path, recursive: bool = False) -> None:
    """Delete the temporary files of `atomic` that killed processes left in a folder that nobody else writes to."""
    for left_over in folder.glob("**/.*.part" if recursive else ".*.part"):
        left_over.unlink(missing_ok=True)


def lock_folder(folder: Path, told: str, *, required: bool = False):
    """An open file whose exclusive lock dies with this process; FileExistsError `told` if another process holds it.

    Some file systems have no locks (Lustre without `flock`, NFS without its lock daemon). There a warning is printed
    and the file is returned without a lock; with `required` it is an OSError.
    """
    file = (folder / ".lock").open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # the two that POSIX names
        file.close()
        raise FileExistsError(f"{folder}: {told}") from error
    except OSError as error:
        if required or error.errno not in WITHOUT_LOCKS:
            file.close()
            raise
        print(
            f"{folder}: this file system does not support locks ({error.strerror}); make sure that no other process "
            "writes into this folder",
            file=sys.stderr,
        )
    return file


def append_line(path: str | Path, line: str) -> None:
    """Write `line` at the end of a file, whole or not at all, in one write: several processes may append.

    Raises DiskFull with the free space.
    """
    data = line.encode("utf-8", "surrogateescape") + b"\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            written = os.write(descriptor, data)
            if written < len(data):
                end = os.lseek(descriptor, 0, os.SEEK_CUR)
                if os.fstat(descriptor).st_size == end:  # nobody has written behind it
                    os.ftruncate(descriptor, end - written)
                raise OSError(errno.ENOSPC, "a line was cut short")
        finally:
            os.close(descriptor)
    except OSError as error:
        if is_disk_full(error):
            raise _disk_full(Path(path), len(data)) from error
        raise


def write_bytes(path: str | Path, data: bytes) -> None:
    """Atomically write `data`."""
    with atomic(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Atomically write UTF-8 text (names that are not UTF-8 survive as surrogate escapes)."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def read_small(path: str | Path, most: int = SMALL) -> str:
    """The text of a UTF-8 file; ValueError names one that is a pipe, has more than `most` bytes or is not UTF-8.

    A pipe is never opened: that would wait for ever.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path}: a pipe or a device, not a file")
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path}: more than {most / 2**20:g} MiB, which no file of this kind has")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def check_archive(path: str | Path) -> None:
    """ValueError for a zip file (also .xlsx, .npz, .pt) that would unpack to absurdly more than it is large.

    What a zip file declares is a limit for its readers. Any other file passes, a damaged one, too: its reader says so.
    """
    unpacked = 0
    with contextlib.suppress(zipfile.BadZipFile, NotImplementedError, FileNotFoundError):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > max(ARCHIVE, ARCHIVE_RATIO * os.path.getsize(path)):
        raise ValueError(f"{path}: refused, because it would unpack to {unpacked / 2**20:,.0f} MiB")


def printable(path) -> str:
    """A path as text that any terminal, table or page can take, in one line.

    Bytes that are not UTF-8 appear as \\xNN; line ends, other control characters and those that turn the direction of
    writing as in Python. All else stays, so that a user's own tables can be joined by it.
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def reason_of(error: BaseException) -> str:
    """What a library found wrong with a file, in one short line without its advice."""
    if isinstance(error, pickle.UnpicklingError):  # the first line tells how to load it all the same
        asked = re.search(r"GLOBAL ([\w.]{1,100})", str(error))
        return f"it asks for {asked[1]}" if asked else "instructions that tensors do not need"
    return str(error).strip().split("\n")[0][:160] or type(error).__name__


def sha256_of(path: str | Path) -> str:
    """Hex sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_error(error: BaseException, file: HashingFile | None) -> BaseException:
    """What went wrong while torch wrote: it tells of a position in its file, whatever happened first (a full disk, or a
    loader process that died)."""
    if isinstance(error, RuntimeError) and "inline_container" in str(error):
        return (file.error if file else None) or error.__context__ or error
    return error


def is_disk_full(error: BaseException) -> bool:
    """Whether `error` means no space, or a file-size limit."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _disk_full(path: Path, size: int) -> DiskFull:
    need = f"it needs at least {readable(size)}, " if size else ""
    free = readable(free_bytes(path.parent))
    return DiskFull(errno.ENOSPC, f"no room to write {path}: {need}{free} free; the previous file is untouched")


def free_bytes(folder: str | Path) -> int:
    """Room on the disk of a folder."""
    return shutil.disk_usage(folder).free


def readable(size: int) -> str:
    """A number of bytes in the largest unit that it fills."""
    for unit, step in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << step:
            return f"{size / (1 << step):.1f} {unit}"
    return f"{size} bytes"


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some network file systems cannot fsync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    with _UMASK_LOCK:  # asking means setting: two threads at once would leave it at 0
        mask = os.umask(0)
        os.umask(mask)
    return mask
