"""What a script says while it works: sentences and progress bars, from the main process alone."""

from collections.abc import Callable, Iterable


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    from training import distributed

    if distributed.is_main():
        print(text, flush=True)


def bar(title: str, unit: str = "file", quiet: bool = False) -> Callable[..., Iterable]:
    """Wraps a sequence, or an iterable with its `total`, with a bar that shows rate and time left and then goes."""

    def wrap(items: Iterable, total: int | None = None) -> Iterable:
        from tqdm import tqdm

        from training import distributed

        nobody = quiet or not distributed.is_main()
        return tqdm(
            items,
            total=total,
            desc=title,
            unit=f" {unit}{'es' if unit.endswith('ch') else 's'}",
            mininterval=0.5,
            leave=False,
            disable=nobody,
        )

    return wrap
