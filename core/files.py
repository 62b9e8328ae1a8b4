"""Writing that a crash cannot spoil (a temporary file in the same folder, fsync, rename), and reading with limits."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pickle
import re
import shutil
import stat
import tempfile
import threading
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from core.progress import warn
from core.system.os_errors import NO_INODES, lacks_inodes, meaning_of, naming
from core.text import escaped

SMALL = 1 << 20  # bytes of a settings file
ARCHIVE = 32 << 20  # bytes that any archive may hold
WITHOUT_LOCKS = (
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,
    errno.ENOLCK,
    errno.EINVAL,
)  # errors of `lockf`
ARCHIVE_RATIO = 50  # and a larger one, per byte of its own
LONGEST_NAME = 48  # bytes of a part of a file name; file systems allow 255 for the whole
_REPEATED_NAME = 200  # bytes of a file's name that its temporary file repeats
_NO_UTF8 = re.compile("[\\udc80-\\udcff]")  # Python's stand-ins for bytes of a name
_UMASK_LOCK = threading.Lock()


class DiskFull(OSError):
    """No room to write a file; says how much it needs and how much is free. What was there before is untouched."""

    def __str__(self) -> str:
        return self.strerror


class HashingFile:
    """A binary file that knows `size`, the bytes that it was given so far, and if asked their sha256 (sequential writes
    only)."""

    def __init__(self, file: BinaryIO, hashed: bool = False):
        self._file = file
        self._sha256 = hashlib.sha256() if hashed else None
        self.size = 0
        self.error: BaseException | None = (
            None  # of a write, which torch replaces by one of its own
        )

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
def atomic(
    path: str | Path, hashed: bool = False, durable: bool = True, expected: int = 0
) -> Iterator[HashingFile]:
    """Write `path` as a whole or not at all.

        with atomic(folder / "metrics.json") as file:
            file.write(b"...")

    `hashed`: `file.sha256` is the hash of all that was written. `durable=False`: quicker, for what may be lost with the
    power. `expected`: how many bytes it will have, if known, for the message when there is no room. On any error the
    old file stays and the temporary one is removed; one that a kill left behind is found by `remove_leftovers`. Raises
    DiskFull with the free space.
    """
    path = Path(path)
    file = None
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{_shortened(path.name)}.", suffix=".part"
        )
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
            raise _disk_full(path, max(expected, file.size if file else 0), first.errno) from first
        if (
            isinstance(first, OSError)
            and first.errno is not None
            and (temporary is None or first.filename in (None, temporary))
        ):
            first.filename = str(path)  # the temporary file is nothing a user knows
            first.filename2 = None
        if first is not error:
            raise first from None
        raise


def make_folder(folder: Path) -> None:
    """Make a folder of results, with its parents. OSError names one that takes no file, before hours of work."""
    folder.mkdir(parents=True, exist_ok=True)
    _try_to_write(folder, folder)


def check_folder(folder: Path) -> None:
    """OSError that names a folder of results which takes no file, before anything is loaded.

    Nothing is made: of a folder that is missing, the permissions of the nearest one above it are looked at.
    """
    _check_place(folder, folder)


def check_output(file: Path) -> None:
    """OSError that names a file of results which cannot be written, before anything is loaded. Nothing is made."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(file).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    _check_place(file.parent, file)


def _check_place(folder: Path, named: Path) -> None:
    if folder.is_dir():
        _try_to_write(folder, named)
        return
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    number = 0
    if not nearest.is_dir():
        number = errno.ENOTDIR
    elif not os.access(nearest, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(nearest).f_flag & os.ST_RDONLY else errno.EACCES
    if number:
        raise OSError(number, os.strerror(number), str(named))


def _try_to_write(folder: Path, named: Path) -> None:
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        error.filename = str(named)  # the temporary file is nothing a user knows
        raise


def remove_leftovers(folder: Path, recursive: bool = False) -> None:
    """Delete the temporary files of `atomic` that killed processes left in a folder that nobody else writes to."""
    for left_over in folder.glob("**/.*.part" if recursive else ".*.part"):
        left_over.unlink(missing_ok=True)


def lock_folder(folder: Path, told: str):
    """An open file whose exclusive lock dies with this process; FileExistsError `told` if another process holds it.

    Some file systems have no locks (Lustre without `flock`, NFS without its lock daemon). There a warning is printed
    and the file is returned without a lock.
    """
    flags = (
        os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    )  # a link could lead to a file of somebody else's
    file = os.fdopen(os.open(folder / ".lock", flags, 0o666), "a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # the two that POSIX names
        file.close()
        raise FileExistsError(f"{folder}: {told}") from error
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            file.close()
            raise
        warn(
            f"{folder}: this file system does not support locks ({error.strerror}); make sure that no other process "
            "writes into this folder"
        )
    return file


def append_line(path: str | Path, line: str) -> None:
    """Write `line` at the end of a file, whole or not at all, in one write: several processes may append.

    Raises DiskFull with the free space.
    """
    data = line.encode("utf-8", "surrogateescape") + b"\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
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
            raise _disk_full(Path(path), len(data), error.errno) from error
        if error.filename is None:
            error.filename = str(path)
        raise


def write_bytes(path: str | Path, data: bytes) -> None:
    """Atomically write `data`."""
    with atomic(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Atomically write UTF-8 text (names that are not UTF-8 survive as surrogate escapes)."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def read_small(path: str | Path, most: int = SMALL) -> str:
    """The text of a UTF-8 file, without the byte order mark that Windows programs put in front.

    ValueError names one that is a pipe, has more than `most` bytes or is not UTF-8.

    A pipe is never opened: that would wait for ever.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path}: a pipe or a device, not a file")
    with naming(path), open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path}: more than {most / 2**20:g} MiB, which no file of this kind has")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


@contextlib.contextmanager
def open_unchanged(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file for reading; ValueError names it if it has changed by the end of the block."""
    with open(path, "rb") as file:
        before = os.fstat(file.fileno())
        yield file
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ValueError(f"{path}: changed while it was read; try again when it is complete")


def check_archive(path: str | Path, file: BinaryIO | None = None) -> int:
    """Bytes that a zip file (also .xlsx, .npz, .pt) unpacks to, 0 for other files; ValueError if that is absurdly much.

    What a zip file declares is a limit for its readers. Any other file passes, a damaged one, too: its reader says so.
    `file`: `path`, already open for reading; it is put back to its beginning.
    """
    unpacked = 0
    with contextlib.suppress(zipfile.BadZipFile, NotImplementedError, FileNotFoundError):
        with zipfile.ZipFile(path if file is None else file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    size = os.path.getsize(path) if file is None else os.fstat(file.fileno()).st_size
    if unpacked > max(ARCHIVE, ARCHIVE_RATIO * size):
        raise ValueError(f"{path}: refused, because it would unpack to {unpacked / 2**20:,.0f} MiB")
    if file is not None:
        file.seek(0)
    return unpacked


def printable(path) -> str:
    """A path as text that any terminal, table or page can take, in one line.

    Hidden characters are escaped (`core.text`); bytes that are not UTF-8 appear as \\xNN. All else stays, so that a
    user's own tables can be joined by it.
    """
    return escaped(
        _NO_UTF8.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", os.fsdecode(path))
    )


def file_names(names: Sequence[str]) -> dict[str, str]:
    """Name -> part of a file name that every file system can hold, different for each name.

    Signs other than letters, digits, blanks and `._-()+` become "_", names that are too long are shortened, those that
    Windows reserves get a "_". Where two would be equal on a disk that does not tell upper from lower case, a hash of
    the name is appended to each that was changed or is not the first.
    """
    plain = {name: _plain_name(name) for name in dict.fromkeys(names)}
    owners: dict[str, list[str]] = {}
    for name, part in plain.items():
        owners.setdefault(part.casefold(), []).append(name)
    for several in owners.values():
        for name in sorted(several, key=lambda name: (plain[name] != name, name))[1:]:
            plain[name] = f"{plain[name]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
    return plain


def _plain_name(name: str) -> str:
    text = re.sub(r"[^\w .()+-]", "_", unicodedata.normalize("NFC", name)).strip(" .") or "_"
    if re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", text, re.IGNORECASE):
        text = f"_{text}"
    encoded = os.fsencode(text)
    if len(encoded) > LONGEST_NAME:
        text = f"{encoded[: LONGEST_NAME - 9].decode('utf-8', 'ignore')}-{hashlib.sha256(encoded).hexdigest()[:8]}"
    return text


def reason_of(error: BaseException) -> str:
    """What a library found wrong with a file, in its own words: one short line without its advice, and without the name
    of its exception, which tells nobody anything."""
    if isinstance(
        error, pickle.UnpicklingError
    ):  # the first line tells how to load it all the same
        asked = re.search(r"GLOBAL ([\w.]{1,100})", str(error))
        return f"it asks for {asked[1]}" if asked else "instructions that tensors do not need"
    text = (meaning_of(error) if isinstance(error, OSError) else str(error)).strip().split("\n")[0]
    text = re.split(r"\.? (?=This is an internal|If you are seeing)", text)[0][
        :160
    ]  # torch's advice to its developers
    if isinstance(error, KeyError):
        archived = re.fullmatch(
            r"[\"'](.*) is not a file in the archive[\"']", text
        )  # as NumPy says it
        return f"no entry {archived[1]!r}" if archived else f"no entry {text}"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    return text or (
        "it ends too early"
        if isinstance(error, EOFError)
        else "the library that reads it gives no reason"
    )


def sha256_of(path: str | Path) -> str:
    """Hex sha256 of a file's content."""
    with naming(path), open(path, "rb") as file:
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


def _disk_full(path: Path, size: int, number: int) -> DiskFull:
    """`number`: the errno, which tells a full disk from a quota and from a limit on the size of files."""
    need = f"it needs at least {readable(size)}, " if size else ""
    free = readable(free_bytes(path.parent))
    return DiskFull(
        number,
        f"no room to write {printable(path)}: {need}{free} free; {_limit(path.parent, number)}the previous file is "
        "untouched",
    )


def _limit(folder: Path, number: int) -> str:
    """What there is too little of, if it is not space."""
    if number == errno.EFBIG:
        return "a limit on the size of files is reached (`ulimit -f`, or of the file system); "
    if number == errno.EDQUOT:
        return "the disk quota is used up; "
    return f"{NO_INODES}; " if lacks_inodes(folder) else ""


def free_bytes(folder: str | Path) -> int:
    """Room on the disk of a folder."""
    return shutil.disk_usage(folder).free


def readable(size: int) -> str:
    """A number of bytes in the largest unit that it fills."""
    for unit, step in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << step:
            return f"{size / (1 << step):.1f} {unit}"
    return f"{size} bytes"


def _shortened(name: str) -> str:
    """A file name that leaves room for what a temporary file appends."""
    return os.fsdecode(os.fsencode(name)[:_REPEATED_NAME])


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


def short_hash(values) -> str:
    """Short sha256 of anything JSON can hold, e.g. a list of files with their sizes."""
    return hashlib.sha256(
        json.dumps(values, sort_keys=True, default=str).encode("utf-8", "surrogateescape")
    ).hexdigest()[:16]
