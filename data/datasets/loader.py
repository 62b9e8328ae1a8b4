"""From a data set to a process's micro-batches."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from core.progress import portions
from core.system import distributed
from core.system.device import return_freed_memory
from core.system.signals import ASKING
from data.reading.refusal import UnreadableRadiograph
from training.sampling import Plan, StepSampler

WORKER_GRACE_SECONDS = 120  # to live on after a signal that asks for an end
LOOK_SECONDS = 10.0  # how often a process that waits for a batch looks at what its workers do
_TOLD = (UnreadableRadiograph, OSError)


def step_batches(
    dataset: Dataset,
    plan: Plan,
    *,
    seed: int,
    rank: int,
    num_workers: int,
    pin_memory: bool = False,
    shares: np.ndarray | None = None,
) -> Callable[[int], Iterable[dict]]:
    """first step -> iterable of the micro-batches of this process from that step to the end of the plan.

    `shares`: see `StepSampler`. One set of workers, at most as many as CPUs that the process may use, serves the whole
    run, across epochs; closing the iterator ends them. Raises UnreadableRadiograph and errors of the operating system
    as the data set raised them. A worker that is stuck in one radiograph is given up after half of
    `distributed.timeout_seconds`; a batch may take as long as its radiographs need.
    """

    def from_step(start: int) -> Iterable[dict]:
        return _batches(
            dataset, StepSampler(plan, seed, rank, start, shares), num_workers, pin_memory
        )

    return from_step


def ordered_batches(
    dataset: Dataset,
    rows: Sequence[int],
    *,
    batch_size: int,
    num_workers: int = 0,
    pin_memory: bool = False,
    title: str = "predicting",
    unit: str = "radiograph",
) -> Iterable[dict]:
    """`dataset[row]` of each of `rows`, once and in their order, in batches; the last one may be smaller.

    For predicting and for features. `title`: of the progress bar; without one if it is empty. `unit`: what a row is.
    Raises as `step_batches`.
    """
    batches = [list(rows[begin : begin + batch_size]) for begin in range(0, len(rows), batch_size)]
    loaded = _batches(dataset, batches, min(num_workers, len(batches)), pin_memory)
    return portions(loaded, [len(batch) for batch in batches], title, unit) if title else loaded


def _batches(
    dataset: Dataset, batch_sampler: Iterable, num_workers: int, pin_memory: bool
) -> Iterator[dict]:
    num_workers = min(num_workers, usable_cpus())
    patience = distributed.timeout_seconds() / 2
    signs = torch.zeros(num_workers, dtype=torch.float64).share_memory_() if num_workers else None
    loader = DataLoader(
        _Guarded(dataset, signs),
        collate_fn=_collate,
        batch_sampler=batch_sampler,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=_one_thread if num_workers else None,
        prefetch_factor=4 if num_workers else None,
        timeout=min(LOOK_SECONDS, patience) if num_workers else 0,
    )
    batches = iter(loader)
    try:
        while (batch := _next(batches, signs, patience)) is not None:
            if isinstance(batch, _TOLD):
                raise batch
            yield batch
    finally:
        _end(batches)


def _next(batches: Iterator, signs: torch.Tensor | None, patience: float) -> Any:
    """The next batch, None after the last one; RuntimeError if a worker works on one radiograph for `patience` seconds,
    or if nothing happens for so long.

    signs [workers]: when each worker began its radiograph, negative when it ended one (`time.monotonic`).
    """
    began = time.monotonic()
    while True:
        try:
            return next(batches, None)
        except RuntimeError as error:
            if signs is None or "DataLoader timed out" not in str(error):
                raise
            working = signs.clamp(min=0)
            idle = -signs.clamp(max=0)
            oldest = working[working > 0].min().item() if bool((working > 0).any()) else math.inf
            latest = max(began, idle.max().item()) if oldest == math.inf else oldest
            if time.monotonic() - latest >= patience:
                raise RuntimeError(f"DataLoader timed out after {patience} seconds") from error


def _end(batches: Any) -> None:
    """End the workers in good order, and then one that is stuck: to it, SIGTERM would only begin its grace."""
    workers = list(getattr(batches, "_workers", ()))
    if workers:
        batches._shutdown_workers()  # waits 5 seconds for each
    for worker in workers:
        worker.kill()
        worker.join(1)


def usable_cpus() -> int:
    """How many CPUs this process may use: more loader processes than that only wait for each other."""
    return len(os.sched_getaffinity(0))


class _Guarded(Dataset):
    """Hands an error with a sentence for the user on as a value: raised in a worker, it would arrive as a page of
    traceback."""

    def __init__(self, dataset: Dataset, signs: torch.Tensor | None):
        self.dataset = dataset
        self.signs = signs

    def __getitem__(self, key: Any) -> Any:
        self._sign(time.monotonic())
        try:
            return self.dataset[key]
        except _TOLD as error:
            return error
        finally:
            self._sign(-time.monotonic())

    def _sign(self, moment: float) -> None:
        """For `_next`: what this worker is doing."""
        if self.signs is not None:
            self.signs[get_worker_info().id] = moment


def _collate(samples: list) -> Any:
    refused = [sample for sample in samples if isinstance(sample, _TOLD)]
    return refused[0] if refused else default_collate(samples)


def _one_thread(worker: int) -> None:
    """Workers decode; the cores belong to the training process."""
    torch.set_num_threads(1)
    return_freed_memory()
    # Schedulers signal the whole group. To save and stop is the training process's business: it needs its workers until
    # then. The alarm ends a worker that nobody ended.
    for number in ASKING:
        signal.signal(number, lambda *_: signal.alarm(WORKER_GRACE_SECONDS))
