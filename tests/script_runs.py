"""Scripts as a user meets them, in forked children: their exit status and what they say."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from fork_harness import digest, exit_status, group, spawn
from noted_training import records
from PIL import Image

import evaluation.maps.localisation
import evaluation.pages.panel
import models.backbones.card
import models.networks.vit
import pretrain_mae
from core import flags as cli

matplotlib.use("Agg")
import matplotlib.pyplot  # noqa: E402, F401
import scipy.ndimage  # noqa: E402, F401


def spoken(work: Callable[[], int], ranks: int = 1, seconds: float = 60) -> tuple[list[int], str]:
    """Run `work` in a child or a group of children; returns exit statuses and all that they say.

    They speak into a pipe, not into a file: a full disk does not silence them.
    """
    reader, writer = os.pipe()

    def aloud() -> int:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        sys.stdout = sys.stderr = os.fdopen(writer, "w", buffering=1)
        return work()

    pids = group(ranks, aloud) if ranks > 1 else [spawn(aloud)]
    os.close(writer)
    with os.fdopen(reader, errors="replace") as pipe:
        told = pipe.read()
    return [exit_status(pid, seconds) for pid in pids], told


def script(module, **flags) -> Callable[[], int]:
    """The work of a child: MODULE.py with these flags, as from the command line."""

    def run() -> int:
        sys.argv = [f"{module.__name__}.py"]
        for name, value in flags.items():
            values = value if isinstance(value, list) else [value]
            sys.argv += [f"--{name}", *map(str, values)] if value is not True else [f"--{name}"]
        try:
            cli.run(module.main, module.Config)
        except SystemExit as end:
            return end.code

    return run


def pretraining(radiographs: Path, out: Path, **changes) -> Callable[[], int]:
    """pretrain_mae.py on 32 radiographs: 2 epochs of 4 steps, a checkpoint, a panel and held-out loss after each."""
    held_out = sorted(radiographs.glob("*.png"))[::8]
    flags = {
        "data_path": radiographs,
        "val_path": held_out,
        "output_dir": out,
        "model": "mae_vit_mini_patch16_dec64d1b",
        "input_size": 32,
        "batch_size": 7,
        "epochs": 2,
        "warmup_epochs": 0.5,
        "lr": 1e-3,
        "num_workers": 0,
        "precision": "fp32",
        "strict_fp32": True,
        "device": "cpu",
        "log_steps": 1,
        "panel_freq": 1,
    }

    def run() -> int:
        models.networks.vit.SIZES["mini"], evaluation.pages.panel.TILE = (
            (48, 2, 3),
            32,
        )  # none of its 3 million weights is needed here
        matplotlib.figure.Figure.savefig = lambda self, file, **_: Image.new("L", (9, 9)).save(
            file, "PNG"
        )  # nor axes
        return script(pretrain_mae, **flags | changes)()

    return run


def last_words(told: str) -> str:
    """The last line of what a script said, without the progress bar that it may have drawn before."""
    return told.strip().splitlines()[-1].split("\r")[-1]


def end_of(out: Path) -> tuple:
    """What a finished pretraining leaves."""
    newest = sorted((out / "checkpoints").glob("*.pt"))[-1]
    assert (out / "DONE").exists()
    model = (out / "model" / "model.safetensors").read_bytes()
    return digest(torch.load(newest, weights_only=True)), records(out), model
