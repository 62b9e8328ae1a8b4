"""Pretraining whose loader processes or memory fail halfway: a remedy is named, the checkpoint is intact, and the same
command goes on to the same end."""

import ctypes
import os
import shutil
import signal
import time

import pytest
import torch
from noted_training import write_radiographs
from script_runs import end_of, last_words, pretraining, spoken

from data.datasets.unlabelled import UnlabelledRadiographs
from models.networks.mae import MaskedAutoencoder
from training.run import damage
from workflows.pretraining.mae import MaePretraining

EPOCHS = 6  # of 4 steps: more than the loader fetches ahead


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    return write_radiographs(tmp_path_factory.mktemp("radiographs"))


@pytest.fixture(scope="module")
def whole(radiographs, tmp_path_factory):
    """The folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    status, told = spoken(pretraining(radiographs, out, epochs=EPOCHS))
    assert status == [0], told
    return out


def in_a_worker(fault) -> None:
    """`fault()` in a loader process, in the fifth epoch."""
    plain = UnlabelledRadiographs.__getitem__

    def get(self, key):
        if key == (4, 7) and torch.utils.data.get_worker_info():
            fault()
        return plain(self, key)

    UnlabelledRadiographs.__getitem__ = get


def in_a_step(fault) -> None:
    """`fault()` in the tenth step."""
    plain, calls = MaskedAutoencoder.forward, []

    def forward(self, batch, progress=0.0):
        calls.append(progress)
        if len(calls) == 10:
            fault()
        return plain(self, batch, progress)

    MaskedAutoencoder.forward = forward


def kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill_shared_memory() -> None:
    """A /dev/shm of one page, seen by this process and those it starts, after the first epoch."""
    libc, new_namespace, private = ctypes.CDLL(None, use_errno=True), 0x20000, (1 << 18) | (1 << 14)
    if libc.unshare(new_namespace) or libc.mount(b"none", b"/", None, private, None):
        os._exit(77)
    plain = MaePretraining.after_epoch

    def after_epoch(self, epoch, step):
        if epoch == 1 and libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=4k"):
            os._exit(77)
        plain(self, epoch, step)

    MaePretraining.after_epoch = after_epoch


def cuda_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")


FAULTS = {
    "worker killed": (
        lambda: in_a_worker(kill_oneself),
        "most often for want of memory; use fewer --num_workers",
    ),
    "worker stuck": (
        lambda: in_a_worker(lambda: time.sleep(99)),
        "the folder of the radiographs does not answer",
    ),
    "shared memory": (fill_shared_memory, "/dev/shm is full; use fewer --num_workers"),
    "memory of a GPU": (
        lambda: in_a_step(cuda_memory),
        "a smaller --batch_size (a larger --accum_iter",
    ),
    "memory": (
        lambda: in_a_step(lambda: torch.empty(1 << 50)),
        "out of memory; try a machine with more",
    ),
}


QUICK = ("worker killed", "shared memory", "memory")


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, marks=[pytest.mark.slow] * (fault not in QUICK)) for fault in FAULTS],
)
def test_the_remedy_is_named_the_checkpoint_is_intact_and_the_run_goes_on(
    radiographs, whole, tmp_path, fault
):
    prepare, remedy = FAULTS[fault]
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(whole / "audit.csv", out)  # the processes of the audit are tested elsewhere
    workers = {"num_workers": 0 if fault.startswith("memory") else 2}

    def faulty() -> int:
        os.environ["PROCESS_GROUP_TIMEOUT"] = "2"  # the loader gives up after half of it
        torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = (
            0.3  # how long workers may take to end, usually 5 s
        )
        prepare()
        return pretraining(radiographs, out, epochs=EPOCHS, **workers)()

    begin = time.monotonic()
    (status,), told = spoken(faulty)  # the loader's processes, too, have ended
    assert time.monotonic() - begin < 15
    if status == 77:
        pytest.skip("a /dev/shm of one's own needs to be root")
    assert status == 2 and "Traceback" not in told, told
    assert remedy in last_words(told) and last_words(told).startswith("pretrain_mae.py: "), told
    saved = sorted((out / "checkpoints").glob("*.pt"))
    assert saved and all(damage(path) is None for path in saved) and not (out / "DONE").exists()
    (status,), told = spoken(pretraining(radiographs, out, epochs=EPOCHS))
    assert status == 0 and f"continuing from {saved[-1].name}" in told, told
    assert end_of(out) == end_of(whole)


def test_a_damaged_newest_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(
    radiographs, whole, tmp_path
):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "DONE").unlink()
    older, newest = sorted((out / "checkpoints").glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    (status,), told = spoken(pretraining(radiographs, out, epochs=EPOCHS))
    assert status == 0
    assert (
        f"{newest.name} is not used: its content does not match its sha256 (damaged or cut short)"
        in told
    )
    assert f"continuing from {older.name}" in told
    assert end_of(out) == end_of(whole)
