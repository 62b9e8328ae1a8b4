"""What a flag's number may be, said in one way by every script."""

from collections.abc import Sequence
from math import inf


def check_numbers(
    config, names: Sequence[str], *, low: float = 0, high: float = inf, above: bool = False
) -> None:
    """ValueError for a flag of `names` that is not a finite number from `low` (with `above`: above it) to `high`.

    None passes: that is a flag which was not given.
    """
    for name in names:
        value = getattr(config, name)
        if value is None or (low <= value <= high and value < inf and not (above and value == low)):
            continue
        range_ = (
            f"above {low}"
            if above
            else f"from {low} on"
            if high == inf
            else f"from {low} to {high}"
        )
        raise ValueError(f"--{name} {value}: expected a number {range_}")


class NotFinite(ValueError):
    """A network gives NaN or infinite values."""


def require_finite(values, what: str) -> None:
    """NotFinite that names `what` (in the plural) if an array or tensor holds NaN or infinite values."""
    if 0 not in values.shape and not bool(abs(values).max() < inf):
        raise NotFinite(f"{what} are not finite: the weights, or their precision, are of no use")


def check_batch(config, name: str, processes: int, passes: int = 1, fewest: int = 1) -> None:
    """ValueError unless the flag `name`, the radiographs of a step, divides evenly into processes and passes.

    fewest: radiographs that each pass of all processes must have. The message names a value that works.
    """
    value = getattr(config, name)
    parts = processes * passes
    least = parts * -(-fewest // processes)
    if value >= least and value % parts == 0:
        return
    each = f"{processes} processes" + (f" x {passes} --accum_iter" if passes > 1 else "")
    at_least = (
        f", with at least {fewest} radiographs in each pass (batch norm)" if fewest > 1 else ""
    )
    raise ValueError(
        f"--{name} {value}: expected a multiple of {each}{at_least}; use --{name} {max(least, value - value % parts)}"
    )
