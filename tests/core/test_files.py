"""What tests/training/test_run.py leaves open about writing files."""

import errno
import fcntl
import hashlib
import os
import pickle

import pytest
import torch

from core.files import (
    DiskFull,
    HashingFile,
    append_line,
    atomic,
    file_names,
    is_disk_full,
    lock_folder,
    reason_of,
    sha256_of,
    write_text,
)


def test_the_hash_is_that_of_what_is_written(tmp_path):
    path = tmp_path / "a.bin"
    with atomic(path, hashed=True) as file:
        assert file.write(b"abc") == 3
        file.write(memoryview(b"defg")[1:])
        file.flush()
    assert path.read_bytes() == b"abcefg"
    assert file.sha256 == sha256_of(path) == hashlib.sha256(b"abcefg").hexdigest()


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_others_may_read_what_the_umask_allows(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "x")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with atomic(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_content_reaches_the_disk_before_the_name_and_the_name_before_we_go_on(
    tmp_path, monkeypatch
):
    """A power cut cannot be made here: the calls that it hangs on must come in this order."""
    calls, fsync, replace = [], os.fsync, os.replace

    def noted_fsync(descriptor):
        there = os.readlink(f"/proc/self/fd/{descriptor}")
        calls.append(("fsync", "folder" if there == str(tmp_path) else os.path.getsize(there)))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(
        os, "replace", lambda a, b: (calls.append(("replace", b.name)), replace(a, b))
    )
    write_text(tmp_path / "a.txt", "abc")
    assert calls == [("fsync", 3), ("replace", "a.txt"), ("fsync", "folder")]


def test_a_line_is_appended_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    append_line(path, "one")
    write = os.write
    monkeypatch.setattr(
        os, "write", lambda descriptor, data: write(descriptor, data[:2])
    )  # the disk takes 2 bytes
    with pytest.raises(
        DiskFull, match=r"no room to write .*log.jsonl: it needs at least 4 bytes, .* free"
    ):
        append_line(path, "two")
    assert path.read_text() == "one\n"


@pytest.mark.parametrize("size, told", [(0, None), (5, "5 bytes"), (3 << 20, "3.0 MiB")])
def test_what_is_needed_is_told_where_it_is_known(tmp_path, size, told):
    with pytest.raises(DiskFull) as caught, atomic(tmp_path / "a") as file:
        if size:
            file.write(bytes(size))
        raise OSError(errno.ENOSPC, "")
    assert (
        f"needs at least {told}, " in str(caught.value)
        if size
        else "needs" not in str(caught.value)
    )


def test_interruption_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "a.txt") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_names_that_are_not_utf8(tmp_path):
    odd = os.fsdecode(b"r\xf6ntgen.png")
    write_text(tmp_path / "list.txt", f"{odd}\nüber.png\n")
    assert (tmp_path / "list.txt").read_bytes() == b"r\xf6ntgen.png\n\xc3\xbcber.png\n"


def test_a_missing_folder_is_an_error_of_its_own(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "nowhere" / "a.txt", "x")


@pytest.mark.parametrize(
    "error, full",
    [
        (OSError(errno.ENOSPC, ""), True),
        (OSError(errno.EDQUOT, ""), True),
        (OSError(errno.EFBIG, ""), True),
        (OSError(errno.EIO, ""), False),
        (PermissionError(errno.EACCES, ""), False),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("inline_container"), False),
    ],
)
def test_what_counts_as_a_full_disk(error, full):
    assert is_disk_full(error) is full


class Failing:
    """A file whose third write fails."""

    def __init__(self, error):
        self.error, self.left, self.size = error, 2, 0

    def write(self, data):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return len(data)

    def flush(self):
        pass


@pytest.mark.parametrize(
    "error, told",
    [
        (
            OSError(errno.ENOSPC, "full"),
            (DiskFull, "no room to write .*state.pt: it needs at least "),
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            (RuntimeError, "DataLoader worker"),
        ),
        (OSError(errno.EIO, "Input/output error"), (OSError, "Input/output error")),
        (KeyboardInterrupt(), (KeyboardInterrupt, "^$")),
    ],
    ids=["full", "worker", "io", "interrupted"],
)
def test_what_interrupts_torch_while_it_writes_is_told_and_not_torchs_own_words(
    tmp_path, error, told
):
    """A loader process that dies is told by torch wherever the main process happens to be, here inside a save."""
    with pytest.raises(told[0], match=told[1]):
        with atomic(tmp_path / "state.pt") as file:
            file._file = Failing(error)
            torch.save({f"tensor {n}": torch.randn(100_000) for n in range(4)}, file)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_pass_unchanged(tmp_path):
    class Broken:
        def write(self, data):
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError) as caught:
        HashingFile(Broken()).write(b"x")
    assert caught.value.errno == errno.EIO


def test_the_reason_of_a_refused_pickle_names_what_it_asks_for():
    told = "Weights only load failed. Re-run with weights_only=False.\n\nTrying to load unsupported GLOBAL os.system"
    assert reason_of(pickle.UnpicklingError(told)) == "it asks for os.system"
    assert (
        reason_of(pickle.UnpicklingError("Weights only load failed."))
        == "instructions that tensors do not need"
    )
    torn = "failed finding central directory. This is an internal miniz error. If you are seeing this error, there is"
    assert reason_of(RuntimeError(torn)) == "failed finding central directory"
    assert (
        reason_of(RuntimeError("first\nsecond")) == "first"
        and reason_of(EOFError()) == "it ends too early"
    )
    assert (
        reason_of(KeyError("w")) == "no entry 'w'"
        and reason_of(OSError(22, "Invalid argument")) == "Invalid argument"
    )
    assert reason_of(KeyError("x.npy is not a file in the archive")) == "no entry 'x.npy'"
    assert "Error" not in reason_of(ValueError()) + reason_of(MemoryError())


def test_names_become_parts_of_file_names_that_any_disk_holds():
    names = [
        "sex/age",
        "sex_age",
        "Sex_age",
        "a\\b",
        "..",
        ".",
        "CON",
        "nul.csv",
        "a\0b",
        "a\nb",
        "x" * 300,
        "x" * 301,
        "é",
        "e\u0301",
        "*",
        "?",
        "a b",
        "-",
        " ",
    ]
    parts = file_names(names)
    assert list(parts) == names and parts["a b"] == "a b" and parts["Sex_age"] == "Sex_age"
    assert len({part.casefold() for part in parts.values()}) == len(names)
    for part in parts.values():
        assert (
            len(part.encode()) <= 60
            and not set(part) & set('/\\\0\n*?:<>|"')
            and part.strip(". ") == part != ""
        )
    assert file_names(names[::-1]) == parts and file_names(["sex/age"]) == {"sex/age": "sex_age"}


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL])
def test_a_file_system_without_locks_warns_and_goes_on(tmp_path, monkeypatch, capsys, number):
    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    lock_folder(tmp_path, "in use").close()
    told = capsys.readouterr().err
    assert told.startswith(
        f"{tmp_path}: this file system does not support locks ({os.strerror(number)})"
    )
    assert told.count("\n") == 1


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_a_lock_that_another_process_holds_is_refused(tmp_path, monkeypatch, number):
    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(FileExistsError, match="in use"):
        lock_folder(tmp_path, "in use")


def test_other_errors_of_a_lock_are_not_passed_over(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        lock_folder(tmp_path, "in use")
