"""Uploads in memory, room for them, and the one thread that reads them."""

import os
import subprocess
import threading

import pytest

from workflows.regions.web.uploads import Capacity, Full, Upload, Worker


def memory_files() -> list[str]:
    """The memory files that this process holds."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # the folder that was being listed
            continue
    return [target for target in found if target.startswith("/memfd:radiograph")]


def uploaded(data: bytes) -> Upload:
    upload = Upload()
    upload.write(data)
    upload.finish()
    return upload


def test_an_upload_is_a_file_that_no_folder_has():
    upload = uploaded(b"radiograph" * 1000)
    assert upload.size == 10_000 and upload.path.read_bytes() == b"radiograph" * 1000
    assert upload.path.read_bytes() == b"radiograph" * 1000  # each time from its beginning
    assert os.stat(upload.path).st_nlink == 0 and len(memory_files()) == 1
    path = upload.path
    upload.close()
    upload.close()
    assert not memory_files()
    with pytest.raises(OSError):
        path.read_bytes()


def test_no_program_that_is_started_inherits_an_upload():
    upload = uploaded(b"radiograph")
    try:
        done = subprocess.run(
            ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, close_fds=False
        )
    finally:
        upload.close()
    assert "pipe:" in done.stdout and "memfd" not in done.stdout


def test_room_is_limited_in_bytes_requests_and_for_each_user():
    capacity = Capacity(100, 4, shared=True)
    with capacity.take("ann", 50):
        with pytest.raises(Full, match="no memory for another upload"):
            with capacity.take("bob", 51):
                pass
        with (
            capacity.take("bob", 25),
            pytest.raises(Full, match="1 of your radiographs are waiting"),
        ):
            with capacity.take("ann", 10):  # more than half of the bytes
                pass
        with capacity.take("bob", 10), capacity.take("bob", 10):
            with pytest.raises(Full, match="2 of your radiographs are waiting"):
                with capacity.take("bob", 1):  # more than half of the requests
                    pass
            with capacity.take("eve", 30):
                assert capacity.requests == 4
                with pytest.raises(Full, match="busy with 4 radiographs"):
                    with capacity.take("dan", 0):
                        pass
    assert capacity.requests == 0
    with Capacity(100).take(
        "", 100
    ):  # one upload may have all, and without a login all are one user
        pass
    capacity = Capacity(100, 4)
    with capacity.take("", 30), capacity.take("", 30), capacity.take("", 30):
        assert capacity.requests == 3
    with pytest.raises(KeyError), capacity.take("", 100):
        raise KeyError
    assert capacity.requests == 0


def test_uploads_are_read_one_after_the_other_and_closed():
    go = threading.Event()
    reading: list[int] = []

    def read(path) -> str:
        reading.append(1)
        assert len(reading) == 1
        go.wait(10)
        text = path.read_text()
        reading.pop()
        return text.upper()

    worker = Worker(read)
    uploads = [uploaded(word.encode()) for word in ("one", "two", "three")]
    futures = [worker.submit(upload) for upload in uploads]
    assert futures[2].cancel()
    uploads[2].close()
    go.set()
    assert [future.result(10) for future in futures[:2]] == ["ONE", "TWO"] and not memory_files()
    assert 1 <= worker.retry_after(0) <= worker.retry_after(10) <= worker.retry_after(10_000) <= 120


def test_an_upload_is_closed_when_it_cannot_be_read():
    def read(path) -> str:
        raise ValueError("no")

    future = Worker(read).submit(uploaded(b"x"))
    with pytest.raises(ValueError):
        future.result(10)
    assert not memory_files()
