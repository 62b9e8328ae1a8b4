"""What a script says while it works: sentences and progress bars, from the main process alone."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from core.system.streams import Stream
from core.text import escaped

LOG_SECONDS = 30  # between two lines of a bar in a log file
STEPS_SECONDS = 2  # that a loop of the library lasts before its bar appears
LOADING = "loading PyTorch ..."
ERASE_LINE = "\r\x1b[K"  # of a terminal
_bars: bool | None = None  # what the running script says of bars; None: no script is running
_loading = False  # whether the last line of the terminal is LOADING


def say(*lines: str) -> None:
    """Print lines at once, also into a pipe."""
    _print(lines, sys.stdout)


def warn(*lines: str) -> None:
    """The same to standard error: what should not mix with the results."""
    _print(lines, sys.stderr)


@contextlib.contextmanager
def script_bars(shown: bool) -> Iterator[None]:
    """While a script runs: whether it shows progress bars. Without a script, the loops of the library have none.

    On a terminal the script also says when it begins to import PyTorch, which takes seconds; that line goes with the
    next output.
    """
    global _bars
    before = _bars
    _bars = shown
    notice = _LoadingNotice()
    if (
        shown
        and sys.stderr.isatty()
        and os.environ.get("RANK", "0") == "0"
        and "torch" not in sys.modules
    ):
        sys.meta_path.insert(0, notice)
    try:
        yield
    finally:
        _bars = before
        notice.withdraw()
        _erase_loading()


def bar(title: str, unit: str = "file") -> Callable[..., Iterable]:
    """Wraps a sequence, or an iterable with its `total`, with a bar that shows rate and time left and then goes."""

    def wrap(items: Iterable, total: int | None = None) -> Iterable:
        return meter(title, total, unit, items=items)

    return wrap


def steps(items: Iterable, title: str, unit: str = "step", total: int | None = None) -> Iterable:
    """A loop inside the library, with a bar if a script is running and the loop lasts some seconds."""
    if not _bars:
        return items
    return meter(title, total, unit, delay=STEPS_SECONDS, items=items)


def portions(items: Iterable, sizes: Sequence[int], title: str, unit: str) -> Iterator:
    """As `steps`, for a loop over portions (batches, blocks) that hold so many units each: the bar counts the units."""
    if not _bars:
        yield from items
        return
    with meter(title, sum(sizes), unit, delay=STEPS_SECONDS) as progress:
        for item, size in zip(items, sizes, strict=True):
            yield item
            progress.update(size)


def meter(
    title: str,
    total: int | None,
    unit: str = "file",
    *,
    delay: float = 0,
    items: Iterable | None = None,
):
    """A bar (`tqdm.tqdm`) that the caller moves with `update(n)` and closes; it moves by itself with `items`.

    In a log file it is a line every `LOG_SECONDS` and one at its end, and none for a loop shorter than `STEPS_SECONDS`.
    `delay`: seconds before it appears on a terminal.
    """
    if total is None and items is not None:
        total = len(items) if hasattr(items, "__len__") else None
    log = not sys.stderr.isatty()
    return load_tqdm()(
        items,
        total=total,
        desc=escaped(title),
        unit=unit,
        mininterval=LOG_SECONDS if log else 0.5,
        maxinterval=LOG_SECONDS
        if log
        else 10,  # else tqdm's monitor adds a line of its own in between
        leave=log,
        delay=max(delay, STEPS_SECONDS) if log else delay,
        dynamic_ncols=True,
        disable=total == 0 or _bars is False or _in_worker() or not _is_main(),
        file=bar_stream(),
    )


@functools.cache
def load_tqdm() -> type:
    """`tqdm.tqdm`, whose `unit` is one noun in the singular: "12.50 files/s", and "2.00 s/file" where it is slow."""
    from tqdm import tqdm

    class Bar(tqdm):
        @staticmethod
        def format_meter(*arguments, unit: str, **options) -> str:
            plural = f" {unit}{'es' if unit.endswith('ch') else 's'}"
            return tqdm.format_meter(*arguments, unit=plural, **options).replace(
                f"s/{plural}", f" s/{unit}"
            )

    return Bar


def bar_stream():
    """Where a bar is drawn: standard error, where it may move the cursor; in a log file every state is a line."""
    _erase_loading()
    stream = sys.stderr.raw if isinstance(sys.stderr, Stream) else sys.stderr
    return stream if sys.stderr.isatty() else _Lines(stream)


def _in_worker() -> bool:
    """Whether this is a loader process; without importing multiprocessing, which would slow down every `--help`."""
    multiprocessing = sys.modules.get("multiprocessing")
    return multiprocessing is not None and multiprocessing.parent_process() is not None


def _is_main() -> bool:
    """Whether this is rank 0; without asking torch, if nobody has imported it."""
    distributed = sys.modules.get("core.system.distributed")
    return distributed is None or distributed.is_main()


def _print(lines: tuple[str, ...], stream) -> None:
    if _is_main():
        _erase_loading()
        print(*map(escaped, lines), sep="\n", file=stream, flush=True)


def _erase_loading() -> None:
    global _loading
    if _loading:
        _loading = False
        _write_raw(ERASE_LINE)


def _write_raw(text: str) -> None:
    stream = sys.stderr.raw if isinstance(sys.stderr, Stream) else sys.stderr
    stream.write(text)
    stream.flush()


class _LoadingNotice:
    """A finder of modules that finds none, and shows LOADING when it is asked for torch."""

    def find_spec(self, name: str, path=None, target=None) -> None:
        """Called by the first import of every module."""
        global _loading
        if name == "torch":
            self.withdraw()
            _loading = True
            _write_raw(LOADING)

    def withdraw(self) -> None:
        """Ask no more."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)


class _Lines:
    """Turns the states of a bar, which overwrite each other on a terminal, into lines."""

    def __init__(self, stream):
        self._stream = stream
        self._last = ""

    def write(self, text: str) -> None:
        """Write a state as a line; movements of the cursor and repetitions are dropped."""
        shown = text.replace("\x1b[A", "").strip()
        if shown and shown != self._last:
            self._last = shown
            self._stream.write(f"{shown}\n")

    def __getattr__(self, name: str):
        return getattr(self._stream, name)
