"""Losses, gradients and inputs that are not finite: no process updates, samples are named, nothing spoilt is saved."""

import functools

import numpy as np
import pytest
import torch
from fork_harness import exit_status, group
from noted_training import (
    METHODS,
    STEPS,
    autoencoder,
    checkpoint,
    order,
    records,
    train,
    write_radiographs,
)

from core.system import distributed
from training.fit import TrainingStopped

PLACES = ("loss", "gradient", "input")


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    return write_radiographs(tmp_path_factory.mktemp("radiographs"))


def poisoned(radiographs, folder, injections: dict[int, tuple[int, str, float]]) -> int:
    """A child that trains with {step: (rank, place, value)} put in; 0 if all went as it should, 9 if it stopped."""
    objective, updated, now = autoencoder(), [], [0]
    plain = objective.forward

    def forward(batch: dict, progress: float = 0.0) -> dict:
        rank, place, value = injections.get(now[0], (None, None, None))
        if rank != distributed.rank():
            return plain(batch, progress)
        if place == "input":
            image = batch["image"].float() / 255
            image[0, 0, 5, 5] = value
            batch = batch | {"image": image}
        losses = plain(batch, progress)
        if place == "gradient":
            losses["loss"].register_hook(lambda gradient: gradient * value)
        return {"loss": losses["loss"] * value} if place == "loss" else losses

    def save(step: int) -> None:
        def finite(value) -> bool:
            values = value.values() if isinstance(value, dict) else [value]
            return all(
                finite(v) if isinstance(v, dict) else torch.as_tensor(v).isfinite().all()
                for v in values
            )

        state = torch.load(sorted((folder / "checkpoints").glob("*.pt"))[-1], weights_only=True)
        assert (
            finite(state["objective"])
            and finite(state["optimizer"]["state"])
            and finite(state["totals"])
        )

    objective.forward = forward
    objective.before_step = lambda progress: updated.append(now[0])
    METHODS["poisoned"] = lambda: objective
    try:
        train(
            radiographs,
            folder,
            "poisoned",
            before=lambda step: now.__setitem__(0, step),
            save_every=1,
            on_save=save,
        )
    except TrainingStopped:
        return 9
    return 0 if updated == [step for step in range(1, STEPS + 1) if step not in injections] else 5


@pytest.mark.parametrize(
    "run", [0, *(pytest.param(run, marks=pytest.mark.slow) for run in range(1, 4))]
)
def test_one_process_meets_a_value_that_is_not_finite(radiographs, tmp_path, run):
    """Five at random steps of each run: 20 in all."""
    rng = np.random.default_rng(run)
    steps = sorted(int(step) for step in rng.choice(np.arange(1, STEPS + 1), 5, replace=False))
    injections = {
        step: (int(rng.integers(2)), PLACES[(run + n) % 3], (np.nan, np.inf)[int(rng.integers(2))])
        for n, step in enumerate(steps)
    }
    work = functools.partial(poisoned, radiographs, tmp_path, injections)
    assert [exit_status(pid) for pid in group(2, work)] == [0, 0]
    seen = [order(tmp_path, rank)[0] for rank in (0, 1)]
    told = {r["step"]: r["samples"] for r in records(tmp_path) if "skipped" in r}
    assert list(told) == steps
    for step, (rank, place, _) in injections.items():
        ranks = (0, 1) if place == "gradient" else (rank,)  # a gradient is everybody's
        assert told[step] == [f"r{i:02d}.png" for r in ranks for i in seen[r][step]["samples"]], (
            step,
            place,
        )


@pytest.mark.parametrize("place", ["input"])
def test_five_in_a_row_stop_all_processes_with_the_last_good_state(radiographs, tmp_path, place):
    injections = {step: (1, place, np.nan) for step in range(12, 17)}
    work = functools.partial(poisoned, radiographs, tmp_path, injections)
    assert [exit_status(pid) for pid in group(2, work)] == [9, 9]
    assert 11 <= checkpoint(tmp_path)["step"] < 16 and not (tmp_path / "DONE").exists()
