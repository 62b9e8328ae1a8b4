"""Writing that a crash cannot spoil: a temporary file in the same folder, fsync, rename."""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


class DiskFull(OSError):
    """No room to write a file; says how much is free. What was there before is untouched."""


class HashingFile:
    """A binary file that, if asked, knows the sha256 of what was written to it (sequential writes only)."""

    def __init__(self, file: BinaryIO, hashed: bool = False):
        self._file, self._sha256 = file, hashlib.sha256() if hashed else None

    def write(self, data) -> int:
        if self._sha256 is not None:
            self._sha256.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


@contextlib.contextmanager
def atomic(path: str | Path, hashed: bool = False) -> Iterator[HashingFile]:
    """Write `path` as a whole or not at all.

        with atomic(folder / "metrics.json") as file:
            file.write(b"...")

    `hashed`: `file.sha256` is the hash of all that was written. On any error the old file stays and the temporary one
    is removed. Raises DiskFull with the free space.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as raw:
            file = HashingFile(raw, hashed)
            yield file
            raw.flush()
            os.fsync(raw.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if is_disk_full(error):
            free = shutil.disk_usage(path.parent).free
            raise DiskFull(
                errno.ENOSPC,
                f"no room to write {path}: {free / 2**20:.0f} MiB free; the previous file is untouched",
            ) from error
        raise


def write_text(path: str | Path, text: str) -> None:
    """Atomically write UTF-8 text (names that are not UTF-8 survive as surrogate escapes)."""
    with atomic(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def sha256_of(path: str | Path) -> str:
    """Hex sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_disk_full(error: BaseException) -> bool:
    """Whether `error` means no space (or a file-size limit), including torch's own wording of a short write."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    return isinstance(error, RuntimeError) and "inline_container" in str(error)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some network file systems cannot fsync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
