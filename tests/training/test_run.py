import errno
import os
import shutil

import numpy as np
import pytest
import torch
from fork_harness import exit_status, spawn

from core.files import DiskFull, atomic, sha256_of, short_hash, write_text
from training.run import RunFolder, bytes_of, damage, write_state


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="halfway"), atomic(path) as file:
        file.write(b"new")
        raise RuntimeError("halfway")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_full_disk_is_said_and_harms_nothing(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(
        DiskFull,
        match=r"to write .*a\.txt: it needs at least 3 bytes, .* free; the previous file is",
    ):
        with atomic(path) as file:
            file.write(b"new")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_real_size_limit_leaves_the_last_good_checkpoint(tmp_path):
    run = RunFolder(tmp_path / "run", {})
    run.save({"step": 1, "weights": torch.ones(1000)}, 1)

    def child() -> int:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            run.save({"step": 2, "weights": torch.ones(1_000_000)}, 2)
        except DiskFull as error:
            return 0 if "no room to write" in str(error) else 3
        return 4

    assert exit_status(spawn(child)) == 0
    assert RunFolder(tmp_path / "run", {}).load()["step"] == 1
    assert not [p for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.endswith(".part")]


def test_newest_valid_checkpoint_is_loaded_and_damage_is_named(tmp_path):
    run = RunFolder(tmp_path, {"seed": 1})
    for step in (1, 2, 3):
        run.save({"step": step, "weights": torch.full((50,), float(step))}, step)
    assert [p.name for p in run.saved()] == ["step_0000000002.pt", "step_0000000003.pt"]
    newest = run.saved()[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    state = run.load()
    assert state["step"] == 2
    assert any(
        "step_0000000003.pt is not used: its content does not match" in n for n in run.notices
    )
    run.saved()[0].with_name("step_0000000002.pt.sha256").unlink()
    with pytest.raises(ValueError, match="no valid checkpoint"):
        run.load()


def flipped(good: bytes, at: int, bit: int) -> bytes:
    return good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :]


@pytest.mark.parametrize(
    "count, spoil",
    [
        (300, flipped),
        (50, lambda good, at, bit: good[:at]),
        (50, lambda good, at, bit: good[:at].ljust(len(good), b"\0")),
    ],
    ids=["flip", "cut", "zeroed_tail"],
)
def test_every_damage_is_noticed_and_the_checkpoint_before_used(tmp_path, count, spoil):
    run, rng = RunFolder(tmp_path, {"seed": 1}), np.random.default_rng(count)
    for step in (1, 2):
        run.save({"step": step, "weights": torch.arange(5000.0) * step, "names": ["a", "b"]}, step)
    newest = run.saved()[-1]
    good = newest.read_bytes()
    for _ in range(count):
        content = spoil(good, int(rng.integers(len(good) - 2)), int(rng.integers(8)))
        assert content != good  # the last two bytes are zeros anyway
        newest.write_bytes(content)
        run.notices.clear()
        state = run.load()
        assert state["step"] == 1 and torch.equal(state["weights"], torch.arange(5000.0))
        assert run.notices == [
            "step_0000000002.pt is not used: its content does not match its sha256 (damaged or cut short)",
            "continuing from step_0000000001.pt",
        ]
    newest.write_bytes(good)
    assert run.load()["step"] == 2


def test_a_damaged_sha256_is_a_damaged_checkpoint(tmp_path):
    run = RunFolder(tmp_path, {})
    for step in (1, 2):
        run.save({"step": step}, step)
    sidecar = run.saved()[-1].with_name("step_0000000002.pt.sha256")
    good = sidecar.read_bytes()
    for content in (
        b"",
        b"\xff" * 90,
        good[:30],
        *(flipped(good, at, 7 - at % 8) for at in range(64)),
    ):
        sidecar.write_bytes(content)
        assert run.load()["step"] == 1


def test_refused_checkpoints_are_not_among_the_two_that_are_kept(tmp_path):
    run = RunFolder(tmp_path, {})
    for step in (3, 6):
        run.save({"step": step}, step)
    newest = run.saved()[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    assert run.load()["step"] == 3
    run.save({"step": 8}, 8)
    assert [p.name for p in run.saved()] == ["step_0000000003.pt", "step_0000000008.pt"]
    assert [damage(p) for p in run.saved()] == [None, None] and len(
        list(run.checkpoints.iterdir())
    ) == 4


def test_leftovers_of_killed_saves_are_removed_and_nothing_of_other_runs(tmp_path):
    mine = [
        "checkpoints/.step_0000000002.pt.abc.part",
        "model/.config.json.x.part",
        "panels/.a.png.y.part",
        ".DONE.z.part",
        "checkpoints/step_0000000002.pt.sha256",
    ]
    others = ["another/checkpoints/.step_0000000002.pt.abc.part", "data/.radiograph.part"]
    for name in mine + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    RunFolder(tmp_path, {})
    assert [name for name in mine + others if (tmp_path / name).exists()] == others


def test_another_runs_folder_is_refused_with_the_difference(tmp_path):
    run = RunFolder(tmp_path, {"seed": 1, "model": "a"})
    run.save({"step": 1}, 1)
    del run
    with pytest.raises(ValueError, match="seed was 1 and is 2"):
        RunFolder(tmp_path, {"seed": 2, "model": "a"}).load()
    with pytest.raises(FileExistsError, match="already holds a run at step 1"):
        RunFolder(tmp_path, {"seed": 1, "model": "a"}, resume="none")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        RunFolder(tmp_path / "file", {})


def test_a_state_of_nan_is_not_continued(tmp_path):
    run = RunFolder(tmp_path, {})
    run.save({"objective": {"w": torch.tensor([1.0, float("nan")]), "v": torch.ones(1)}}, 1)
    with pytest.raises(
        ValueError, match="step_0000000001.pt: NaN or infinite values in 1 tensors, first w"
    ):
        run.load()


def test_continuing_from_elsewhere(tmp_path):
    RunFolder(tmp_path / "a", {}).save({"step": 5}, 5)
    assert RunFolder(tmp_path / "b", {}, resume=str(tmp_path / "a")).load()["step"] == 5
    with pytest.raises(FileNotFoundError, match="no checkpoint there"):
        RunFolder(tmp_path / "c", {}, resume=str(tmp_path / "nowhere")).load()


def test_a_step_that_is_there_already_stays_as_it_is(tmp_path, monkeypatch):
    run = RunFolder(tmp_path, {})
    run.save({"step": 5}, 5)
    before = [
        (p.name, p.stat().st_mtime_ns, p.stat().st_ino) for p in sorted(run.checkpoints.iterdir())
    ]
    run.save({"step": 5}, 5)
    again = RunFolder(tmp_path, {})
    again.load()
    again.save({"step": 5}, 5)
    assert [
        (p.name, p.stat().st_mtime_ns, p.stat().st_ino) for p in sorted(run.checkpoints.iterdir())
    ] == before
    run.saved()[0].write_bytes(b"rot")
    third = RunFolder(tmp_path, {})
    with pytest.raises(ValueError, match="no valid checkpoint"):
        third.load()
    third.save({"step": 5}, 5)
    assert damage(run.saved()[0]) is None


def test_little_room_is_told_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr("training.run.free_bytes", lambda folder: 10 * 100 - 1 - 412)
    run = RunFolder(tmp_path, {})
    run.warn_of_little_room(100)
    assert run.notices == [
        f"{tmp_path} has 587 bytes free, and the run's checkpoints need 1000 bytes more"
    ]
    run.notices.clear()
    (run.checkpoints / "step_0000000001.pt").write_bytes(
        bytes(413)
    )  # will make room for the next but one
    run.warn_of_little_room(100)
    assert run.notices == []


def test_a_full_disk_tells_the_size_of_the_whole_state(tmp_path, monkeypatch):
    state = {
        "objective": {"a": torch.zeros(1000)},
        "optimizer": {"state": {0: {"b": torch.zeros(1000).double()}}},
    }
    assert bytes_of(state) == 12_000

    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("training.run.torch.save", full)
    with pytest.raises(DiskFull, match=r"it needs at least 11\.7 KiB, "):
        write_state(state, tmp_path / "step_0000000001.pt")


def test_two_trainers_on_one_folder(tmp_path):
    first = RunFolder(tmp_path, {})

    def second() -> int:
        try:
            RunFolder(tmp_path, {})
        except FileExistsError as error:
            return 0 if "another process is training" in str(error) else 3
        return 4

    assert exit_status(spawn(second)) == 0
    assert first.load() is None


def test_log_is_cut_back_to_the_resumed_step(tmp_path):
    run = RunFolder(tmp_path, {})
    for step in (1, 2, 3):
        run.log({"step": step, "loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "loss": 1.0, "samples": [\n7\n[]\n{}\n{"step": 1, "lo')
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b"\xff\0\n")
    run.forget_log_after(2)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_fingerprint_and_hash(tmp_path):
    assert short_hash(["a", 1]) == short_hash(["a", 1]) != short_hash(["a", 2])
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x").startswith("ba7816bf")
    shutil.rmtree(tmp_path)


def test_a_good_checkpoint_outlives_damaged_newer_ones(tmp_path):
    run = RunFolder(tmp_path, {})
    for step in (300, 400, 500):
        write_state({"step": step, "identity": {}}, run.checkpoints / f"step_{step:010d}.pt")
    for step in (400, 500):
        (run.checkpoints / f"step_{step:010d}.pt.sha256").unlink()
    assert run.load()["step"] == 300
    run.save({"step": 350}, 350)
    assert [p.name for p in run.saved()] == ["step_0000000300.pt", "step_0000000350.pt"]
    assert run.load()["step"] == 350


def test_a_refused_run_changes_nothing_in_the_folder(tmp_path):
    run = RunFolder(tmp_path, {"seed": 1})
    run.describe({"seed": 1})
    run.save({"step": 1}, 1)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    del run
    with pytest.raises(ValueError, match="seed was 1 and is 2"):
        RunFolder(tmp_path, {"seed": 2})
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
