"""True torchrun jobs that lose a process, their launcher or their patience: nothing is lost and nobody trains on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fork_harness import digest

ROOT = Path(__file__).resolve().parents[1]
STEPS = 75


def command(radiographs: Path, out: Path, *launcher: str) -> list[str]:
    flags = {
        "data_path": radiographs,
        "output_dir": out,
        "model": "mae_vit_mini_patch16_dec64d1b",
        "input_size": 32,
        "batch_size": 4,
        "epochs": STEPS / 3,
        "warmup_epochs": 1,
        "num_workers": 0,
        "device": "cpu",
        "precision": "fp32",
        "save_freq": 4,
        "panel_freq": 0,
        "log_steps": 1,
    }
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    start = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        *launcher,
    ]
    return [*start, str(ROOT / "pretrain_mae.py"), *words]


def launch(line: list[str], **changes: str) -> subprocess.Popen:
    environment = (
        os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"} | changes
    )
    return subprocess.Popen(
        line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def steps_made(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_text().count('"loss"') if path.exists() else 0


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def workers(agent: int) -> dict[int, int]:
    """{rank: process id} of the training processes that a launcher has started."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(") ", 1)[1].split()[1])
            words = (entry / "environ").read_bytes().split(b"\0") if parent == agent else []
        except (OSError, IndexError):
            continue
        ranks = [word.removeprefix(b"RANK=") for word in words if word.startswith(b"RANK=")]
        found |= {int(rank): int(entry.name) for rank in ranks}
    return found


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False


def final(out: Path):
    assert (out / "DONE").exists()
    state = torch.load(sorted((out / "checkpoints").glob("*.pt"))[-1], weights_only=True)
    return digest(state), (out / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("radiographs")
    for i in range(24):
        y, x = np.mgrid[:40, :40]
        values = 2e4 * (1.5 + np.sin(x / (2 + i % 7)) * np.cos(y / (3 + i % 5)))
        Image.fromarray(values.astype(np.uint16)).save(folder / f"r{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def uninterrupted(radiographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    job = launch(command(radiographs, out))
    assert job.wait(240) == 0, job.stderr.read()[-2000:]
    return final(out)


def lose(radiographs, out: Path, rank: int, at_step: int) -> float:
    """Run a job, kill one of its processes at a step; returns the seconds until steps were made again."""
    job = launch(command(radiographs, out, "--max-restarts", "3"))
    wait_for(lambda: steps_made(out) >= at_step)
    first = workers(job.pid)
    os.kill(first[rank], signal.SIGKILL)
    killed, before = time.monotonic(), steps_made(out)
    wait_for(lambda: steps_made(out) > before + 1 or (out / "DONE").exists())
    seconds = time.monotonic() - killed
    assert job.wait(240) == 0, job.stderr.read()[-2000:]
    assert not any(map(alive, first.values()))
    return seconds


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_job_that_loses_a_process_goes_on_and_ends_bit_identical(
    radiographs, uninterrupted, tmp_path, rank
):
    lose(radiographs, tmp_path / "run", rank, at_step=20)
    assert final(tmp_path / "run") == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_losses_at_random_instants(radiographs, uninterrupted, tmp_path, number):
    at_step = int(np.random.default_rng(number).integers(1, STEPS - 20))
    assert lose(radiographs, tmp_path / "run", number % 2, at_step) < 30
    assert final(tmp_path / "run") == uninterrupted


@pytest.mark.slow
def test_the_launcher_dies_and_its_processes_with_it(radiographs, uninterrupted, tmp_path):
    out = tmp_path / "run"
    job = launch(command(radiographs, out))
    wait_for(lambda: steps_made(out) >= 5)
    processes = workers(job.pid)
    assert len(processes) == 2
    job.kill()
    job.wait(10)
    wait_for(lambda: not any(map(alive, processes.values())), seconds=2)
    again = launch(command(radiographs, out))
    assert again.wait(240) == 0, again.stderr.read()[-2000:]
    assert final(out) == uninterrupted


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_job(radiographs, uninterrupted, tmp_path):
    out, patience = tmp_path / "run", 6
    job = launch(command(radiographs, out), PROCESS_GROUP_TIMEOUT=str(patience))
    wait_for(lambda: steps_made(out) >= 10)
    stopped = workers(job.pid)[1]
    os.kill(stopped, signal.SIGSTOP)
    began = time.monotonic()
    assert job.wait(120) != 0
    assert time.monotonic() - began < patience + 35
    assert not alive(stopped)
    again = launch(command(radiographs, out))
    assert again.wait(240) == 0, again.stderr.read()[-2000:]
    assert final(out) == uninterrupted
