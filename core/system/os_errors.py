"""Errors of the operating system as sentences: the path, the problem, and a remedy."""

import contextlib
import errno
import os
from collections.abc import Iterator

# Errors that a user can cause and the remedy, if there is one; every other number is a defect of the program.
_ADVICE = {
    errno.ENOENT: "",
    errno.EEXIST: "",
    errno.EACCES: "",
    errno.EPERM: "",
    errno.ENOTDIR: "a part of this path is a file",
    errno.EISDIR: "a file is expected",
    errno.ENOTEMPTY: "",
    errno.EROFS: "name a folder that can be written to",
    errno.ENAMETOOLONG: "most file systems allow 255 bytes",
    errno.ELOOP: "links that lead in a circle, or a link where none is followed",
    errno.ENOSPC: "free some space, or name a folder on another disk",
    errno.EDQUOT: "free some space, or name a folder on another disk",
    errno.EFBIG: "the limit is that of `ulimit -f` or of the file system",
    errno.EMFILE: "raise the limit (`ulimit -n`), or use fewer --num_workers",
    errno.ENFILE: "",
    errno.ENOMEM: "",
    errno.EAGAIN: "perhaps the limit of processes (`ulimit -u`)",
    errno.EIO: "the disk or the network file system fails",
    errno.ESTALE: "the network file system has changed; run the command again",
    errno.EBUSY: "something else is using it",
    errno.ETXTBSY: "",
    errno.EXDEV: "",
    errno.EMLINK: "",
    errno.ENODEV: "",
    errno.ENXIO: "",
    errno.EINVAL: "perhaps a name that this file system does not allow",
    errno.EILSEQ: "perhaps a name that this file system does not allow",
    errno.EOPNOTSUPP: "",
    errno.ENOSYS: "",
    errno.ENOLCK: "",
    errno.ETIMEDOUT: "",
    errno.ENOTCONN: "",
    errno.EHOSTDOWN: "",
    errno.EHOSTUNREACH: "",
    errno.EREMOTEIO: "",
    errno.EOVERFLOW: "",
}

NO_INODES = "the file system has no inodes left for another file"


def sentence_of(error: OSError) -> str | None:
    """The path, the problem and the remedy in one sentence, or None for a defect of the program."""
    if type(error).__str__ is not OSError.__str__:  # one of our own classes, which say it all
        return str(error)
    if error.errno not in _ADVICE or (error.errno == errno.EINVAL and error.filename is None):
        return None
    paths = [
        os.fsdecode(path)
        for path in (error.filename, error.filename2)
        if isinstance(path, (str, bytes))
    ]
    sentence = ": ".join([*([" and ".join(paths)] if paths else []), meaning_of(error)])
    advice = _advice(error)
    return f"{sentence}; {advice}" if advice else sentence


def meaning_of(error: OSError) -> str:
    """What is wrong in the words of the operating system, without path and advice."""
    return error.strerror or str(error)


def _advice(error: OSError) -> str:
    if error.errno == errno.EEXIST and isinstance(error.filename, (str, bytes)):
        if os.path.islink(error.filename) and not os.path.exists(error.filename):
            return "a symbolic link to something that does not exist"
        if not os.path.isdir(error.filename):
            return "it is not a folder"
    if error.errno == errno.ENOSPC and isinstance(error.filename, (str, bytes)):
        path = os.path.abspath(error.filename)
        if lacks_inodes(path if os.path.isdir(path) else os.path.dirname(path)):
            return NO_INODES
    return _ADVICE[error.errno]


def lacks_inodes(folder: str | os.PathLike | bytes) -> bool:
    """Whether the file system of a folder can hold no other file, however much space it has."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_files > 0 and disk.f_favail == 0


def is_exhausted(error: OSError) -> bool:
    """Whether this process or machine has run out of descriptors or memory, which is no fault of the file."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Give an error of the operating system that names no file the name `path`: reads and writes do not know it."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise
