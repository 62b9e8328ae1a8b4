"""Loader processes that die, hang or run out of shared memory: a sentence with a remedy."""

import dataclasses
import multiprocessing
import os
import signal
import sys
import time

import pytest
import torch
from torch.utils.data import Dataset

from core import flags as cli
from core.files import DiskFull
from core.flags import flag
from data.datasets import loader
from data.datasets.loader import ordered_batches, step_batches
from data.reading.refusal import UnreadableRadiograph
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


def read(fault, workers=2, batch_size=2):
    plan = Plan(12, batch_size, epochs=1)
    batches = step_batches(Numbers(fault), plan, seed=0, rank=0, num_workers=workers)(0)
    return sorted(int(i) for batch in batches for i in batch["x"])


def fail(error):
    def raise_it():
        raise error

    return raise_it


@pytest.mark.parametrize("workers", [0, 2])
def test_everything_arrives_once(workers):
    assert read(lambda: None, workers) == list(range(12))


@dataclasses.dataclass
class Config:
    """Reads."""

    num_workers: int = flag(2, "loader processes")


def sentence(monkeypatch, capsys, main) -> str:
    """What a script that does `main` tells its user."""
    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda config: main(), Config)
    told = capsys.readouterr().err
    assert caught.value.code == 2 and told.startswith("script.py: ") and told.count("\n") == 1
    return told


def kill_oneself():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("error")
def test_no_more_workers_than_cpus(monkeypatch):
    """More of them only wait for each other; torch warns of it."""
    started = []
    whole = loader.DataLoader
    monkeypatch.setattr(
        loader, "DataLoader", lambda *a, **k: started.append(k["num_workers"]) or whole(*a, **k)
    )
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    assert (
        len(
            list(
                ordered_batches(Numbers(), [(0, i) for i in range(8)], batch_size=1, num_workers=64)
            )
        )
        == 8
    )
    assert started == [2]


def test_a_killed_worker(monkeypatch, capsys):
    told = sentence(monkeypatch, capsys, lambda: read(kill_oneself))
    assert "most often for want of memory; use fewer --num_workers" in told


def test_a_worker_killed_while_the_main_process_computes(monkeypatch, capsys):
    def compute():
        plan = Plan(12, 2, epochs=1)
        batches = iter(step_batches(Numbers(kill_oneself), plan, seed=0, rank=0, num_workers=2)(0))
        next(batches)
        end = time.monotonic() + 20
        while time.monotonic() < end:  # torch tells of the death here, whatever is being done
            sum(range(1000))
        raise AssertionError("nobody noticed")

    assert "use fewer --num_workers" in sentence(monkeypatch, capsys, compute)


def test_a_stuck_worker(monkeypatch, capsys):
    monkeypatch.setattr(
        torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.3
    )  # time to end in order, usually 5 s
    monkeypatch.setenv(
        "PROCESS_GROUP_TIMEOUT", "2"
    )  # half of it, so that this is told before the others give up
    told = sentence(monkeypatch, capsys, lambda: read(lambda: time.sleep(60)))
    assert "timed out after 1.0 seconds: the folder of the radiographs does not answer" in told
    assert not multiprocessing.active_children()  # this script would wait for it


class Slow(Numbers):
    """Each sample takes a while."""

    def __getitem__(self, key):
        time.sleep(0.5)
        return super().__getitem__(key)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_batch_may_take_longer_than_the_timeout(monkeypatch, workers):
    """6 samples of half a second in a batch, and a patience of two seconds for each."""
    monkeypatch.setenv("PROCESS_GROUP_TIMEOUT", "4")
    plan = Plan(12, 6, epochs=1)
    batches = step_batches(Slow(), plan, seed=0, rank=0, num_workers=workers)(0)
    assert sorted(int(i) for batch in batches for i in batch["x"]) == list(range(12))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_is_stuck_in_the_middle_of_a_batch(monkeypatch, workers):
    """The other workers go on until they have nothing to do."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.3)
    monkeypatch.setenv("PROCESS_GROUP_TIMEOUT", "2")
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="DataLoader timed out after 1.0 seconds"):
        read(lambda: time.sleep(60), workers, batch_size=6)
    assert time.monotonic() - began < 15 and not multiprocessing.active_children()


@pytest.mark.parametrize(
    "told",
    [
        "unable to write to file </torch_1_2>: No space left on device (28)",
        "DataLoader worker is killed by signal: Bus error. out of shared memory",
    ],
)
def test_shared_memory_runs_out(monkeypatch, capsys, told):
    assert "/dev/shm is full; use fewer" in sentence(
        monkeypatch, capsys, lambda: read(fail(RuntimeError(told)))
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_is_said_as_it_is(workers):
    """A worker that has no room to note a bad file in the quarantine."""
    with pytest.raises(DiskFull, match="^no room to write q.jsonl$"):
        read(fail(DiskFull(28, "no room to write q.jsonl")), workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_other_errors_stay_what_they_are(workers):
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        read(fail(RuntimeError("a mistake of ours")), workers)
    with pytest.raises(UnreadableRadiograph, match="x.png: truncated"):
        read(fail(UnreadableRadiograph("x.png", "truncated", "cut")), workers)
