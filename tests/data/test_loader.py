"""Loader processes that die, hang or run out of shared memory: a sentence with a remedy."""

import os
import signal
import time

import pytest
import torch
from torch.utils.data import Dataset

from data import loader as module
from data.loader import LoaderFailed, step_batches
from data.radiograph import UnreadableRadiograph
from training.sampling import Plan


class Numbers(Dataset):
    """Sample i is i; `fault` happens at sample 5."""

    def __init__(self, fault=lambda: None):
        self.fault = fault

    def __getitem__(self, key):
        _, index = key
        if index == 5:
            self.fault()
        return {"x": torch.tensor(index), "index": index}


def read(fault, workers=2):
    plan = Plan(12, 2, epochs=1)
    batches = step_batches(Numbers(fault), plan, seed=0, rank=0, num_workers=workers)(0)
    return sorted(int(i) for batch in batches for i in batch["x"])


def fail(error):
    def raise_it():
        raise error

    return raise_it


@pytest.mark.parametrize("workers", [0, 2])
def test_everything_arrives_once(workers):
    assert read(lambda: None, workers) == list(range(12))


def test_a_killed_worker():
    with pytest.raises(LoaderFailed, match="want of memory; use fewer --num_workers"):
        read(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_stuck_worker(monkeypatch):
    monkeypatch.setattr(module, "BATCH_SECONDS", 1)
    with pytest.raises(LoaderFailed, match="timed out after 1 seconds: the folder .* does not answer"):
        read(lambda: time.sleep(60))


@pytest.mark.parametrize(
    "told",
    [
        "unable to write to file </torch_1_2>: No space left on device (28)",
        "DataLoader worker is killed by signal: Bus error. out of shared memory",
    ],
)
def test_shared_memory_runs_out(told):
    with pytest.raises(LoaderFailed, match="/dev/shm is full; .*--shm-size"):
        read(fail(RuntimeError(told)))


@pytest.mark.parametrize("workers", [0, 2])
def test_other_errors_stay_what_they_are(workers):
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        read(fail(RuntimeError("a mistake of ours")), workers)
    with pytest.raises(UnreadableRadiograph, match="x.png: truncated"):
        read(fail(UnreadableRadiograph("x.png", "truncated", "cut")), workers)
