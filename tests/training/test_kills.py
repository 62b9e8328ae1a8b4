"""Training that is killed or asked to stop at random moments, and started again: nothing is lost, no bit differs."""

import functools
import os
import signal
import time

import numpy as np
import pytest
import torch
from fork_harness import exit_status, group, run_with_kills, spawn
from noted_training import METHODS, SAVE_EVERY, checkpoint, child, order, outcome, write_radiographs

from training import fit as loop
from training.run import RunFolder, damage

MANY = int(os.environ.get("KILLS", 50))  # of the slow tests, for each method


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    return write_radiographs(tmp_path_factory.mktemp("radiographs"))


@pytest.fixture(scope="module")
def whole(radiographs, tmp_path_factory):
    """(method, processes) -> what an uninterrupted run leaves."""
    made = {}

    def get(method: str, ranks: int) -> tuple:
        if (method, ranks) not in made:
            folder = tmp_path_factory.mktemp("whole")
            assert [exit_status(p) for p in start(ranks, child(radiographs, folder, method))] == [
                0
            ] * ranks
            made[method, ranks] = outcome(folder, ranks)
        return made[method, ranks]

    return get


def start(ranks: int, work) -> list[int]:
    return group(ranks, work) if ranks > 1 else [spawn(work)]


def pause(step: int) -> None:
    """A little slower, so that moments can be chosen."""
    time.sleep(0.004)


@pytest.mark.parametrize(
    "method, ranks, kills",
    [("mae", 2, 2), ("dropout", 1, 1)]
    + [
        pytest.param(method, ranks, MANY, marks=pytest.mark.slow)
        for method in METHODS
        for ranks in (1, 2)
    ],
)
def test_killed_at_random_and_continued_is_bit_identical(
    radiographs, whole, tmp_path, method, ranks, kills
):
    rng, landed, number = np.random.default_rng(kills), 0, 0
    while landed < kills:
        folder = tmp_path / str(number)
        work = child(radiographs, folder, method, before=pause)
        few = min(4, kills - landed)
        landed += run_with_kills(
            lambda work=work: start(ranks, work), folder / "began", few, rng, span=0.25
        )
        assert outcome(folder, ranks) == whole(method, ranks)
        runs = order(folder, 0)[1]
        assert runs[0][0] == 1
        for (_, last), (first, _) in zip(runs, runs[1:]):
            assert (
                last - (first - 1) <= SAVE_EVERY
            )  # steps made again, with the one in which it was killed
        number += 1
    print(f"{landed} kills in {number} runs")


@pytest.mark.parametrize("instants", [2, pytest.param(MANY, marks=pytest.mark.slow)])
def test_a_signal_saves_at_once_and_continuing_is_bit_identical(
    radiographs, whole, tmp_path, instants
):
    """SIGTERM and SIGUSR1 in turn, to one process alone or to one of two."""
    rng = np.random.default_rng(instants)
    for number in range(instants):
        folder, ranks = tmp_path / str(number), 1 + number // 2 % 2
        told, step = folder / "signalled", [0]

        def before(now: int, step=step) -> None:
            step[0] = now
            pause(now)

        def work(folder=folder, told=told, step=step, before=before) -> int:
            plain = loop._Signals._note

            def note(self, *arguments) -> None:
                told.write_text(str(step[0]))
                plain(self, *arguments)

            loop._Signals._note = note
            return child(radiographs, folder, before=before)()

        pids = start(ranks, work)
        while not (folder / "began").exists():
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.3))
        os.kill(pids[rng.integers(ranks)], (signal.SIGTERM, signal.SIGUSR1)[number % 2])
        assert [exit_status(pid) for pid in pids] == [143] * ranks
        assert not (folder / "DONE").exists()
        assert int(told.read_text()) <= checkpoint(folder)["step"] <= int(told.read_text()) + 1
        assert [exit_status(pid) for pid in start(ranks, child(radiographs, folder))] == [0] * ranks
        assert outcome(folder, ranks) == whole("mae", ranks)


@pytest.mark.parametrize(
    "megabytes, kills", [(16, 10), pytest.param(100, 60, marks=pytest.mark.slow)]
)
def test_killed_inside_a_save_no_good_checkpoint_is_lost(tmp_path, megabytes, kills):
    """What has the name of a checkpoint is one, two are kept, and nothing else stays behind."""
    rng, bulk = np.random.default_rng(0), torch.rand(megabytes * 250_000)
    folder, began, ended = tmp_path / "run", tmp_path / "began", tmp_path / "ended"

    def save(step: int) -> int:
        run = RunFolder(folder, {})
        began.touch()
        begin = time.monotonic()
        run.save({"step": step, "few": torch.full((9,), step), "bulk": bulk}, step)
        ended.write_text(str(time.monotonic() - begin))
        return 0

    assert exit_status(spawn(lambda: save(1))) == 0
    duration, good, unfinished = float(ended.read_text()), 1, 0
    for _ in range(kills):
        began.unlink(missing_ok=True)
        ended.unlink(missing_ok=True)
        pid = spawn(functools.partial(save, good + 1))
        while not began.exists():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, duration))
        os.kill(pid, signal.SIGKILL)
        exit_status(pid)
        unfinished += not ended.exists()
        run = RunFolder(folder, {})
        assert [damage(path) for path in run.saved()] == [None] * len(run.saved())
        state = run.load()
        assert (
            good + ended.exists() <= state["step"] <= good + 1
            and state["few"].eq(state["step"]).all()
        )
        assert torch.equal(state["bulk"], bulk)
        good = state["step"]
        assert len(run.saved()) >= min(2, good)
        assert len(list(run.checkpoints.iterdir())) == 2 * len(run.saved())
        del run
    assert unfinished >= kills / 3
    print(
        f"{unfinished} of {kills} kills inside a save of {duration:.2f} s; {good} checkpoints were completed"
    )
