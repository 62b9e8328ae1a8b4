"""From a data set to a process's micro-batches."""

import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from data.radiograph import UnreadableRadiograph
from training.sampling import Plan, StepSampler

WORKER_GRACE_SECONDS = 120  # to live on after a signal that asks for an end
BATCH_SECONDS = 900  # to wait for a batch before a loader process counts as stuck


class LoaderFailed(ValueError):
    """A loader process died or is stuck; says what helps."""


def step_batches(
    dataset: Dataset, plan: Plan, *, seed: int, rank: int, num_workers: int, pin_memory: bool = False
) -> Callable[[int], Iterable[dict]]:
    """first step -> iterable of the micro-batches of this process from that step to the end of the plan.

    One set of workers serves the whole run, across epochs; closing the iterator ends them. Raises UnreadableRadiograph
    as the data set raised it, and LoaderFailed if a worker died or was stuck for `BATCH_SECONDS`.
    """

    def from_step(start: int) -> Iterable[dict]:
        loader = DataLoader(
            _Guarded(dataset),
            collate_fn=_collate,
            batch_sampler=StepSampler(plan, seed, rank, start),
            num_workers=num_workers,
            pin_memory=pin_memory,
            worker_init_fn=_one_thread if num_workers else None,
            prefetch_factor=4 if num_workers else None,
            timeout=BATCH_SECONDS if num_workers else 0,
        )
        batches = iter(loader)
        try:
            while (batch := _next(batches)) is not None:
                if isinstance(batch, UnreadableRadiograph):
                    raise batch
                yield batch
        finally:
            del batches  # ends the workers

    return from_step


def _next(batches: Iterator) -> Any:
    """The next batch, or None at the end; what torch says of its workers becomes advice."""
    try:
        return next(batches, None)
    except RuntimeError as error:
        told = str(error).splitlines()[0]
        if "shared memory" in str(error) or "No space left on device" in str(error) or "bus error" in told.lower():
            raise LoaderFailed(f"{told}: /dev/shm is full; use fewer --num_workers or give the container more "
                               "(docker run --shm-size 8g, or --ipc host)") from None  # fmt: skip
        if "worker" in told and ("exited unexpectedly" in told or "killed by signal" in told):
            raise LoaderFailed(
                f"{told}: it was killed, most often for want of memory; use fewer --num_workers"
            ) from None
        if "timed out" in told:
            raise LoaderFailed(f"{told}: the folder of the radiographs does not answer; the last checkpoint is "
                               "untouched, the same command continues from it") from None  # fmt: skip
        raise


class _Guarded(Dataset):
    """Hands an unreadable radiograph on as a value: raised in a worker, it would arrive as a page of traceback."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except UnreadableRadiograph as error:
            return error


def _collate(samples: list) -> Any:
    refused = [sample for sample in samples if isinstance(sample, UnreadableRadiograph)]
    return refused[0] if refused else default_collate(samples)


def _one_thread(worker: int) -> None:
    """Workers decode; the cores belong to the training process."""
    torch.set_num_threads(1)
    # Schedulers signal the whole group. To save and stop is the training process's business: it needs its workers until
    # then. The alarm ends a worker that nobody ended.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: signal.alarm(WORKER_GRACE_SECONDS))
