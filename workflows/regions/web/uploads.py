"""Uploads of the web page: bytes in memory alone, room for a limited number of them, and one thread that reads them."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

MOST_REQUESTS = 16  # radiographs that are uploaded, wait or are read at the same time
SHARE_OF_USER = 0.5  # of those and of the bytes, that one user may take
LONGEST_RETRY = 120  # seconds


class Full(RuntimeError):
    """There is no room for another upload at present. Says so in one sentence."""


class Upload:
    """The content of one upload, in memory (Linux: memfd): no folder lists it, and it ends with the process.

    path: opens the content for reading, as long as this upload is not closed.
    """

    def __init__(self):
        self._file = os.fdopen(os.memfd_create("radiograph", os.MFD_CLOEXEC), "wb")
        self.path = Path(f"/proc/self/fd/{self._file.fileno()}")
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self.size += len(data)
        self._file.write(data)

    def finish(self) -> None:
        """Make all bytes readable at `path`."""
        self._file.flush()

    def close(self) -> None:
        """Give the memory back."""
        with contextlib.suppress(
            OSError
        ):  # bytes that were not written yet and have no room: nobody needs them
            self._file.close()


class Capacity:
    """Limits of what is in hand at the same time: bytes, requests, and the share of each user.

    most_bytes: of all uploads together. shared: whether users are told apart, so that no one takes more than
    `SHARE_OF_USER` with more than one upload.
    """

    def __init__(self, most_bytes: int, most_requests: int = MOST_REQUESTS, shared: bool = False):
        self._most_bytes = most_bytes
        self._most_requests = most_requests
        self._shared = shared
        self._taken: list[tuple[str, int]] = []  # user, bytes

    @property
    def requests(self) -> int:
        """How many requests are in hand."""
        return len(self._taken)

    @contextlib.contextmanager
    def take(self, user: str, size: int) -> Iterator[None]:
        """Hold room for an upload of `size` bytes. Full if there is none."""
        own = [taken for owner, taken in self._taken if owner == user]
        if len(self._taken) >= self._most_requests:
            raise Full(f"The server is busy with {len(self._taken)} radiographs.")
        if sum(taken for _, taken in self._taken) + size > self._most_bytes:
            raise Full("The server has no memory for another upload at present.")
        if self._shared and own:
            many = len(own) + 1 > SHARE_OF_USER * self._most_requests
            if many or sum(own) + size > SHARE_OF_USER * self._most_bytes:
                raise Full(f"{len(own)} of your radiographs are waiting already.")
        entry = (user, size)
        self._taken.append(entry)
        try:
            yield
        finally:
            self._taken.remove(entry)


class Worker:
    """Reads uploads in one thread, one after the other, in the order of their submission."""

    def __init__(self, read: Callable[[Path], Any]):
        self._read = read
        self._thread = ThreadPoolExecutor(1, "radiograph")
        self._typical = 2.0  # seconds that a radiograph takes, a moving average

    def submit(self, upload: Upload) -> Future:
        """The future result of an upload. It is closed as soon as it was read; the caller closes a cancelled one."""
        return self._thread.submit(self._take, upload)

    def retry_after(self, waiting: int) -> int:
        """Whole seconds after which `waiting` radiographs are probably read."""
        return min(LONGEST_RETRY, max(1, math.ceil(waiting * self._typical)))

    def _take(self, upload: Upload) -> Any:
        began = time.monotonic()
        try:
            return self._read(upload.path)
        finally:
            upload.close()
            self._typical += 0.3 * (time.monotonic() - began - self._typical)
