"""From a data set to a process's micro-batches."""

from collections.abc import Callable, Iterable

import torch
from torch.utils.data import DataLoader, Dataset

from training.sampling import Plan, StepSampler


def step_batches(
    dataset: Dataset, plan: Plan, *, seed: int, rank: int, num_workers: int, pin_memory: bool = False
) -> Callable[[int], Iterable[dict]]:
    """first step -> iterable of the micro-batches of this process from that step to the end of the plan.

    One set of workers serves the whole run, across epochs.
    """

    def from_step(start: int) -> Iterable[dict]:
        return DataLoader(
            dataset,
            batch_sampler=StepSampler(plan, seed, rank, start),
            num_workers=num_workers,
            pin_memory=pin_memory,
            worker_init_fn=_one_thread if num_workers else None,
            prefetch_factor=4 if num_workers else None,
        )

    return from_step


def _one_thread(worker: int) -> None:
    """Workers decode; the cores belong to the training process."""
    import signal

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C and SIGTERM are the training process's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
