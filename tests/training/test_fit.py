"""The loop: equal numbers on any layout, exact resume after kill -9, guards."""

import inspect
import json
import re
import time
import warnings

import numpy as np
import pytest
import torch
from fork_harness import exit_status, group, spawn

import training.fit as loop
from core.system import distributed
from training.fit import Fit, TrainingStopped, fit
from training.objective import Objective
from training.optim import adamw, parameter_groups
from training.run import RunFolder
from training.sampling import Plan, StepSampler, sample_generator
from training.schedules import constant, warmup_cosine


class Toy(Objective):
    """Dropout, a running buffer and a matrix: everything that resuming can get wrong."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(6, 12), torch.nn.GELU(), torch.nn.Dropout(0.2), torch.nn.Linear(12, 1)
        )
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, batch, progress):
        error = self.net(batch["x"])[:, 0] - batch["y"]
        return {"loss": error.square().mean()}

    def after_step(self, progress):
        self.updates += 1


def batches(plan, seed, delay=0.0, poison=()):
    def sample(key):
        epoch, index = key
        rng = sample_generator(seed, epoch, index)
        x = torch.from_numpy(rng.standard_normal(6).astype(np.float32))
        return {
            "x": x,
            "y": x.sum() if index not in poison else torch.tensor(float("nan")),
            "index": index,
        }

    def from_step(start):
        for keys in StepSampler(plan, seed, distributed.rank(), start):
            time.sleep(delay)
            yield torch.utils.data.default_collate([sample(key) for key in keys])

    return from_step


def train(
    folder=None,
    *,
    batch_size=8,
    accumulate=1,
    steps=40,
    delay=0.0,
    poison=(),
    dropout=True,
    **changes,
):
    objective = Toy()
    if not dropout:
        objective.net[2].p = 0.0
    plan = Plan(64, batch_size, accumulate, distributed.world_size(), epochs=steps / 8)
    settings = Fit(
        plan=plan,
        optimizer=adamw(parameter_groups(objective)),
        schedules={"lr": warmup_cosine(1e-2, warmup=0.1), "weight_decay": constant(0.05)},
        batches=batches(plan, 5, delay, poison),
        seed=5,
        run=RunFolder(folder, {"seed": 5}) if folder else None,
        save_every=3,
        log_every=4,
        name_of=lambda i: f"file_{i}.png",
        **{"progress_bar": False} | changes,
    )
    outcome = fit(objective, settings)
    return objective, outcome


def final_state(folder):
    run = RunFolder(folder, {"seed": 5})
    state = run.load()
    del run
    return state


def test_it_learns_and_finishes(tmp_path):
    objective, outcome = train(tmp_path, steps=160)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert outcome == "finished" and (tmp_path / "DONE").exists()
    assert records[-1]["loss"] < 0.5 * records[0]["loss"]
    assert records[-1]["step"] == 160 and float(objective.updates) == 160


def test_a_state_of_another_network_is_one_sentence(tmp_path):
    run = RunFolder(tmp_path, {"seed": 5})
    run.save({"objective": {"w": torch.ones(2)}, "step": 3}, 3)
    del run
    with pytest.raises(ValueError, match="its checkpoint is of another network or optimizer"):
        train(tmp_path)


def test_one_process_equals_two_and_accumulation_equals_a_large_batch(tmp_path):
    def child(folder, **layout):
        return lambda: 0 if train(folder, dropout=False, **layout)[1] == "finished" else 1

    assert exit_status(spawn(child(tmp_path / "one", batch_size=8))) == 0
    assert exit_status(spawn(child(tmp_path / "passes", batch_size=2, accumulate=4))) == 0
    assert [exit_status(p) for p in group(2, child(tmp_path / "two", batch_size=4))] == [0, 0]
    one, passes, two = (
        final_state(tmp_path / name)["objective"] for name in ("one", "passes", "two")
    )
    for key in one:
        torch.testing.assert_close(passes[key], one[key], rtol=0, atol=1e-5)
        torch.testing.assert_close(two[key], one[key], rtol=0, atol=1e-5)


def test_a_poisoned_sample_is_skipped_and_named(tmp_path, capsys):
    objective, outcome = train(tmp_path, steps=16, poison={7})
    told = capsys.readouterr().err
    assert outcome == "finished" and "file_7.png" in told
    assert all(torch.isfinite(p).all() for p in objective.parameters())
    assert float(objective.updates) == 14  # one step of each of two epochs was not made


def test_too_many_bad_steps_stop_the_run_with_the_last_good_state(tmp_path):
    with pytest.raises(TrainingStopped, match=r"3 steps in a row were not finite.*file_"):
        train(tmp_path, steps=40, poison=set(range(64)), max_bad_steps=3)
    state = final_state(tmp_path)
    assert state["step"] == 2 and all(torch.isfinite(v).all() for v in state["objective"].values())


def test_finite_norm_clipping_and_logged_values(tmp_path):
    train(tmp_path, steps=8, clip_norm=1e-3)
    record = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert (
        record["grad_norm"] > 1e-3
        and {"step", "epoch", "loss", "lr", "weight_decay"} <= record.keys()
    )


class Clock:
    """Time that passes only when `pass_` is called, in the place of the module `time` of the loop."""

    def __init__(self, patch):
        self.now, self.time = 1000.0, time.time
        patch.setattr(loop, "time", self)

    def monotonic(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


def paced(
    patch, folder, *, load: float, step: float, epoch: float = 0.0, **changes
) -> list[tuple[float, float]]:
    """(radiographs per second, share of waiting) of each record of a training by a clock of its own: seconds to `load`
    a batch, for the rest of a `step`, and after an `epoch`."""
    clock = Clock(patch)
    patch.setattr(Toy, "after_step", lambda self, progress: clock.pass_(step))
    patch.setattr(time, "sleep", lambda _: clock.pass_(load))  # what `batches` does for each
    train(folder, on_epoch=lambda *_: clock.pass_(epoch), **changes)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(r["radiographs_per_s"], r["waiting_share"]) for r in records if "loss" in r]


def test_the_log_tells_speed_and_waiting_from_the_first_record(tmp_path, monkeypatch):
    """8 radiographs in .03 + .01 seconds; what comes after an epoch of 8 steps does not count."""
    found = paced(monkeypatch, tmp_path, load=0.03, step=0.01, epoch=7.0, steps=20)
    assert len(found) == 5 and found == [(200.0, 0.75)] * 5


def test_passes_and_skipped_steps_count(tmp_path, monkeypatch):
    """Two passes of 4 radiographs a step; a step that is not made takes its radiographs, too."""
    found = paced(
        monkeypatch, tmp_path, load=0.02, step=0.0, batch_size=4, accumulate=2, steps=16, poison={7}
    )
    assert found == [(200.0, 1.0)] * 4


def test_waiting_is_the_mean_of_all_processes_and_speed_counts_all_radiographs(tmp_path):
    """Process 1 loads slowly; process 0, whose clock counts, only waits for it in the exchange of gradients."""

    def member() -> int:
        with pytest.MonkeyPatch.context() as patch:
            load = 0.03 * distributed.rank()
            found = paced(
                patch, tmp_path, load=load, step=0.01, batch_size=4, steps=8, dropout=False
            )
        return 0 if distributed.rank() or found == [(800.0, 0.375)] * 2 else 1

    assert [exit_status(child) for child in group(2, member)] == [0, 0]


def test_after_a_restart_the_speed_counts_what_was_made_since(tmp_path, monkeypatch):
    """The first record then holds losses of steps before it, whose time nobody knows."""
    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_agree", stopping_at(loop._Loop._agree, 6))
        assert len(paced(patch, tmp_path, load=0.03, step=0.01, steps=8)) == 1
    assert paced(monkeypatch, tmp_path, load=0.07, step=0.01, steps=8) == [
        (200.0, 0.75),
        (100.0, 0.875),
    ]


def stopping_at(agree, last: int):
    """`_agree` that tells of a signal when it is called for the step number `last`."""

    def told(self, signalled, finite):
        return agree(self, signalled or self.step + 1 == last, finite)

    return told


class Exploding(Toy):
    """A finite loss whose gradient is not: the square root at zero."""

    def forward(self, batch, progress):
        out = super().forward(batch, progress)
        return {"loss": out["loss"] + (self.net[3].bias * 0).abs().sqrt().sum() * 0.0}


def test_the_bar_says_which_loss_it_shows(tmp_path, capsys):
    train(tmp_path / "a", progress_bar=True)
    assert re.search(r"epoch \d+\.\d, training loss \S+, lr ", capsys.readouterr().err)


def test_a_gradient_that_is_not_finite_names_the_whole_step(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(globals(), "Toy", Exploding)
    with pytest.raises(TrainingStopped, match=r"file_\d+\.png.*file_\d+\.png"):
        train(tmp_path, steps=16, max_bad_steps=2)
    assert len([n for n in capsys.readouterr().err.splitlines()[0].split(",") if "file_" in n]) == 8


class Overflowing(Toy):
    """Finite losses and gradients, but a weight that an update makes infinite."""

    def after_step(self, progress):
        if progress > 0.5:
            with torch.no_grad():
                self.net[3].weight[0, 0] = float("inf")


def test_spoilt_weights_are_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "after_step", Overflowing.after_step)
    with pytest.raises(
        TrainingStopped, match=r"1 tensors of the training state are .* finite, e.g. net.3.weight"
    ):
        train(tmp_path)
    assert all(torch.isfinite(t).all() for t in final_state(tmp_path)["objective"].values())


def test_spoilt_optimizer_values_are_not_saved(tmp_path, monkeypatch):
    """Finite weights do not mean a finite state: a second moment that overflowed freezes its weight for good."""
    plain = torch.optim.AdamW.step

    def step(self, *arguments):
        plain(self, *arguments)
        first = next(iter(self.state.values()))
        first["exp_avg_sq"].view(-1)[0] = float("inf") if first["step"] >= 6 else 0.0

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(
        TrainingStopped,
        match=r"1 tensors of the training state .*, e.g. optimizer state.0.exp_avg_sq",
    ):
        train(tmp_path)
    assert final_state(tmp_path)["step"] == 3


def test_one_process_chooses_the_checkpoint_for_all(tmp_path):
    """Process 1 cannot read the newest file's sha256 yet (a slow network file system): it must not choose another."""
    from training import run

    train(tmp_path, steps=16)
    plain = run.damage

    def work():
        if distributed.rank() == 1:
            run.damage = lambda path: (
                "not there yet" if path.name.endswith("16.pt") else plain(path)
            )
        state = RunFolder(tmp_path, {"seed": 5}).load()
        return 10 + state["step"]

    assert {exit_status(p) for p in group(2, work)} == {10 + 16}


@pytest.mark.parametrize("gap, saved", [(0.0, [3, 6, 9, 10]), (1e9, [10])])
def test_saves_that_follow_too_soon_are_passed_over(tmp_path, gap, saved):
    told = []
    train(
        tmp_path,
        steps=10,
        save_gap=gap,
        before_save=lambda: told.append("before"),
        on_save=told.append,
    )
    assert told == [word for step in saved for word in ("before", step)]


@pytest.mark.parametrize("name", ["broadcast_buffers", "forward_sync_buffers"])
def test_processes_start_with_the_weights_and_buffers_of_the_main_one(name, monkeypatch):
    """With the flag of torch 2.11 and with that of 2.13 (where this torch has both); nothing is copied later."""
    if name not in inspect.signature(torch.nn.parallel.DistributedDataParallel).parameters:
        pytest.skip("not in this torch")
    monkeypatch.setattr(loop, "_BUFFERS_FLAG", name)

    def member() -> int:
        objective, rank = Toy(), distributed.rank()
        objective.updates.fill_(rank + 5)
        objective.register_buffer("strided", (torch.arange(6).view(2, 3) * (rank + 1)).T)
        torch.nn.init.constant_(objective.net[0].weight, rank)
        wrapped = loop.wrap(objective, torch.device("cpu"))
        assert objective.updates == 5 and objective.net[0].weight.eq(0).all()
        assert torch.equal(objective.strided, torch.arange(6).view(2, 3).T)
        objective.updates.fill_(rank)
        wrapped({"x": torch.ones(2, 6), "y": torch.ones(2)}, 0.0)["loss"].backward()
        return 0 if objective.updates == rank else 1

    assert [exit_status(child) for child in group(2, member)] == [0, 0]


def test_wrapping_uses_nothing_that_this_torch_deprecates():
    def member() -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            loop.wrap(Toy(), torch.device("cpu"))
        return 0

    assert [exit_status(child) for child in group(2, member)] == [0, 0]
