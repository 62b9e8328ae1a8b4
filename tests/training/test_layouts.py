"""The number of processes and of loader processes decides nothing: same samples, same crops, same training."""

import json
import os
import signal

import pytest
from fork_harness import digest, exit_status, group, spawn
from noted_training import (
    GLOBAL_BATCH,
    SEED,
    checkpoint,
    child,
    dataset,
    records,
    seen,
    write_radiographs,
)

from data.datasets.loader import step_batches
from training.sampling import Plan


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    return write_radiographs(tmp_path_factory.mktemp("radiographs"))


def views(radiographs, processes: int, workers: int, first: int = 0) -> list[list]:
    """For each step from `first` on: index and a hash of crop, flip and hidden patches of every sample, in order."""
    data = dataset(radiographs)
    plan = Plan(len(data), GLOBAL_BATCH // processes, processes=processes, epochs=3)
    parts = []
    for rank in range(processes):
        batches = step_batches(data, plan, seed=SEED, rank=rank, num_workers=workers)(first)
        singles = [
            [{k: v[i : i + 1] for k, v in b.items()} for i in range(len(b["index"]))]
            for b in batches
        ]
        parts.append([[json.dumps(seen(single)) for single in step] for step in singles])
    return [[view for rank in step for view in rank] for step in zip(*parts)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_order_and_augmentations_are_the_same_for_every_layout(radiographs, monkeypatch):
    monkeypatch.setattr(
        "data.datasets.loader.usable_cpus", lambda: 4
    )  # as many workers as are asked for
    expected = views(radiographs, processes=1, workers=0)
    assert (
        len(expected) == 12
        and len({view for step in expected for view in step}) == 12 * GLOBAL_BATCH
    )
    for processes, workers in ((1, 2), (2, 0), (2, 4), (4, 2)):
        assert views(radiographs, processes, workers) == expected
    assert views(radiographs, 2, 2, first=5) == expected[5:]


def stop_at(step: int):
    """What `train` does before each step in order to be stopped at `step`."""
    return lambda now: os.kill(os.getpid(), signal.SIGTERM) if now == step else None


@pytest.mark.parametrize("method", [pytest.param("mae", marks=pytest.mark.slow), "dropout"])
def test_two_processes_continued_by_one_with_as_many_passes_is_bit_identical(
    radiographs, tmp_path, method
):
    """Stopped in the middle of an epoch; also with dropout, whose randomness belongs to the pass."""
    two, moved = tmp_path / "two", tmp_path / "moved"
    assert [exit_status(p) for p in group(2, child(radiographs, two, method))] == [0, 0]
    assert [
        exit_status(p) for p in group(2, child(radiographs, moved, method, before=stop_at(22)))
    ] == [143, 143]
    assert checkpoint(moved)["step"] == 22
    assert exit_status(spawn(child(radiographs, moved, method, accumulate=2))) == 0
    assert digest(checkpoint(moved)) == digest(checkpoint(two))
    assert records(moved) == [
        r | {"loss": pytest.approx(r["loss"], rel=1e-6)} for r in records(two)
    ]  # a mean of means


@pytest.mark.slow
def test_four_processes_continued_by_two_lose_the_same(radiographs, tmp_path):
    """Sums in another order: not bit by bit, but to 1e-5 in all 60 steps."""
    settings = {"steps": 60, "log_every": 1}
    assert [
        exit_status(p) for p in group(4, child(radiographs, tmp_path / "four", **settings))
    ] == [0] * 4
    moved = child(radiographs, tmp_path / "moved", **settings, before=stop_at(30))
    assert [exit_status(p) for p in group(4, moved)] == [143] * 4
    assert [
        exit_status(p) for p in group(2, child(radiographs, tmp_path / "moved", **settings))
    ] == [0, 0]
    four, two = (records(tmp_path / name) for name in ("four", "moved"))
    assert [r["step"] for r in two] == list(range(1, 61)) == [r["step"] for r in four]
    worst = max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(two, four))
    print(f"largest relative difference of the loss: {worst:.1e}")
    assert worst < 1e-5
