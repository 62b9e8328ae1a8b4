"""Schedules are functions of progress, the fraction of training done, in [0, 1].

The same type serves learning rate, weight decay, teacher temperature and momentum, so a resumed run needs no tables.
"""

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def constant(value: float) -> Schedule:
    """Always `value`."""
    return lambda progress: value


def warmup_cosine(peak: float, end: float = 0.0, warmup: float = 0.0) -> Schedule:
    """Linear from 0 to `peak` during the first `warmup` fraction, then half a cosine down to `end`.

    Per optimizer step, as in MAE (https://github.com/facebookresearch/mae, util/lr_sched.py) and Medical MAE.
    """

    def at(progress: float) -> float:
        if progress < warmup:
            return peak * progress / warmup
        if warmup >= 1.0:
            return peak
        t = (progress - warmup) / (1.0 - warmup)
        return end + 0.5 * (peak - end) * (1.0 + math.cos(math.pi * min(t, 1.0)))

    return at


def whole_warmup(fraction: float, steps: int) -> float:
    """`fraction` of a run of `steps` steps, rounded down to whole steps: the `warmup` of `warmup_cosine`.

    Hugging Face's `get_cosine_schedule_with_warmup` takes a number of steps, and SKELEX passes int(0.1 * steps): 2 of
    27 steps, not 2.7.
    """
    return int(fraction * steps) / steps


def linear(start: float, end: float, until: float = 1.0) -> Schedule:
    """Straight line from `start` to `end`, reached at progress `until` and kept."""
    return lambda progress: end if progress >= until else start + (end - start) * progress / until


def per_epoch(schedule: Schedule, epochs: int) -> Schedule:
    """`schedule` in `epochs` steps: all through epoch e = 1..E it has the value that it reaches at the epoch's end.

    So a scheduler works that is called once an epoch, as SKELEX's: warm-up epoch e of W at e / W, the last epoch at the
    end of the cosine, that is at 0. `warmup_cosine` alone goes on with every step and has no such lost epoch.
    """
    return lambda progress: schedule(min(math.floor(progress * epochs + 1e-9) + 1, epochs) / epochs)


def cosine_by_step(
    peak: float, end: float, steps: int, warmup_steps: int = 0, start: float = 0.0
) -> Schedule:
    """DINO's schedule of `steps` steps: `start` to `peak` in `warmup_steps` equal ones, then half a cosine to `end`.

    Step i of W warm-up steps is at i / (W - 1), so that the last of them has the peak, and the cosine begins with the
    peak once more; `warmup_cosine` reaches it one step later.
    """

    def at(progress: float) -> float:
        step = progress * steps
        if step < warmup_steps - 1e-6:
            return start + (peak - start) * step / max(1, warmup_steps - 1)
        t = (step - warmup_steps) / max(1, steps - warmup_steps)
        return end + 0.5 * (peak - end) * (1.0 + math.cos(math.pi * min(max(t, 0.0), 1.0)))

    return at


def stairs(start: float, end: float, stairs: int, epochs: float) -> Schedule:
    """One value an epoch: from `start` in the first to `end` in epoch number `stairs`, in equal steps, and then `end`.

    So DINO warms up the teacher's temperature. With one stair the first epoch has `start`; with none there is only
    `end`.
    """

    def at(progress: float) -> float:
        epoch = math.floor(progress * epochs + 1e-9)
        return end if epoch >= stairs else start + (end - start) * epoch / max(1, stairs - 1)

    return at
