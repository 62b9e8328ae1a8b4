"""Standard streams of a script: closed ones are replaced, a reader that goes away ends nothing, and text is shown with
its control characters escaped."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from core.text import visible


class Stream:
    """A text stream for people. Hidden characters are escaped; what cannot be written is dropped.

    The results of a script are files, so it continues when nobody reads its messages any longer (`| head -1`, a closed
    terminal, a full disk under a log).
    """

    def __init__(self, stream: TextIO, raw: bool = False):
        self._stream = stream
        self._raw = raw

    @property
    def raw(self) -> "Stream":
        """The same stream without escapes, for progress bars, which move the cursor."""
        return Stream(self._stream, raw=True)

    def write(self, text: str) -> int:
        """Write text; returns its length, as every text stream does."""
        shown = text if self._raw else visible(text)
        try:
            try:
                self._stream.write(shown)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def _give_up(self, error: Exception) -> None:
        """Send everything that follows to the null device, and what is still buffered, too."""
        if isinstance(error, ValueError) and not self._stream.closed:
            raise error
        try:
            number = self._stream.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)
        except (OSError, ValueError):  # a stream without a descriptor
            self._stream = io.StringIO()
            return
        if number == 1 and getattr(error, "errno", None) not in (errno.EPIPE, None):
            message = f"standard output cannot be written ({error.strerror}); the script continues without it"
            print(message, file=sys.stderr)


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard `sys.stdout` and `sys.stderr`; after a defect they stay guarded, so that its traceback is, too."""
    _open_closed_descriptors()
    os.environ.setdefault("NO_COLOR", "1")  # Python's own colours would be shown as escapes
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Stream(stream) for stream in before)
    try:
        yield
    except Exception:
        sys.stdout.flush()
        raise
    except BaseException:
        _restore(before)
        raise
    _restore(before)


def _restore(before: tuple[TextIO, TextIO]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    sys.stdout, sys.stderr = before


def _open_closed_descriptors() -> None:
    """Put the null device where a descriptor of the standard streams is closed (`2>&-`).

    Otherwise the next file that is opened gets its number, and every library that writes messages to descriptor 2
    writes into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:  # Python found the descriptor closed when it started
            setattr(
                sys,
                name,
                open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False),
            )
