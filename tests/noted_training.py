"""Small real trainings that note every sample they see: for tests that interrupt, spoil or spread them."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from fork_harness import digest
from PIL import Image

from core.files import append_line
from core.system import distributed
from core.system.signals import EXIT_STOPPED
from data.datasets.loader import step_batches
from data.datasets.unlabelled import UnlabelledRadiographs
from data.views.augmentation import CropFlip
from data.views.preprocessing import Preprocessing
from models.networks.mae import MAEConfig, MaskedAutoencoder
from training.fit import Fit, fit
from training.objective import Objective
from training.optim import adamw, parameter_groups
from training.run import RunFolder
from training.sampling import Plan
from training.schedules import constant, warmup_cosine

SEED, GLOBAL_BATCH, STEPS, SAVE_EVERY = 5, 8, 40, 3
CLOCK = (
    "unix_time",
    "radiographs_per_s",
    "waiting_share",
)  # of a record: not the same in a second run
PREPROCESSING = Preprocessing(32, 32)


class Dropping(Objective):
    """What a masked autoencoder lacks and resuming can get wrong: dropout, and a buffer that follows the weights."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(64, 16), torch.nn.GELU(), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1)
        )
        self.register_buffer("average", torch.zeros(16))

    def forward(self, batch: dict, progress: float = 0.0) -> dict:
        small = torch.nn.functional.avg_pool2d(batch["image"].float() / 255, 4)[:, 0].flatten(1)
        return {"loss": (self.net(small)[:, 0] - small.std(dim=1)).square().mean()}

    def after_step(self, progress: float) -> None:
        self.average.lerp_(self.net[3].weight.detach()[0], 0.1)


def autoencoder() -> MaskedAutoencoder:
    """16 patches, two blocks of width 48: 0.1 million weights."""
    config = MAEConfig(
        (32, 32), 8, dim=48, depth=2, heads=3, decoder_dim=32, decoder_depth=1, decoder_heads=2
    )
    return MaskedAutoencoder(config, PREPROCESSING.normalise)


METHODS: dict[str, Callable[[], Objective]] = {"mae": autoencoder, "dropout": Dropping}


def write_radiographs(folder: Path, count: int = 32) -> Path:
    """`count` PNGs of 16 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        y, x = np.mgrid[:40, :48]
        values = 2e4 * (1.5 + np.sin(x / (2 + i % 7)) * np.cos(y / (3 + i % 5)))
        Image.fromarray(values.astype(np.uint16)).save(folder / f"r{i:02d}.png")
    return folder


def dataset(radiographs: Path) -> UnlabelledRadiographs:
    """Random crops, flips and hidden patches of the PNGs."""
    return UnlabelledRadiographs(
        sorted(radiographs.glob("*.png")), PREPROCESSING, CropFlip(32, 32), SEED, patches=16
    )


def seen(batch: dict) -> dict:
    """Which samples a batch holds, and a sha256 of how they were cropped, flipped and hidden."""
    views = hashlib.sha256(
        batch["image"].numpy().tobytes() + batch["noise"].numpy().tobytes()
    ).hexdigest()
    return {"samples": batch["index"].tolist(), "views": views}


def train(
    radiographs: Path,
    folder: Path,
    method: str = "mae",
    *,
    accumulate: int = 1,
    steps: int = STEPS,
    workers: int = 0,
    before: Callable[[int], None] = lambda step: None,
    **changes,
) -> str:
    """Train in this process or group, with global batches of 8 whatever their number.

    FOLDER/order_RANK.jsonl gets a line for each micro-batch. FOLDER/began is there when a step has been made since the
    call. `before(step)` is called as each step begins; steps count from 1.
    """
    torch.manual_seed(SEED)
    objective, rank, processes = METHODS[method](), distributed.rank(), distributed.world_size()
    data = dataset(radiographs)
    per_epoch = len(data) // GLOBAL_BATCH
    plan = Plan(
        len(data),
        GLOBAL_BATCH // processes // accumulate,
        accumulate,
        processes,
        epochs=steps / per_epoch,
    )

    def noted(start: int) -> Iterator[dict]:
        batches = step_batches(data, plan, seed=SEED, rank=rank, num_workers=workers)(start)
        for number, batch in enumerate(batches):
            step = start + number // accumulate + 1
            if step > start + 1:
                (folder / "began").touch()
            append_line(
                folder / f"order_{rank}.jsonl",
                json.dumps({"run": os.getpid(), "step": step} | seen(batch)),
            )
            before(step)
            yield batch

    schedules = {"lr": warmup_cosine(1e-3, warmup=0.1), "weight_decay": constant(0.05)}
    run = RunFolder(folder, {"seed": SEED})
    settings = dict(
        plan=plan,
        optimizer=adamw(parameter_groups(objective)),
        schedules=schedules,
        batches=noted,
        seed=SEED,
        run=run,
        save_every=SAVE_EVERY,
        log_every=4,
        progress_bar=False,
        name_of=lambda i: Path(data.paths[i]).name,
    )
    return fit(objective, Fit(**settings | changes))


def child(*arguments, **changes) -> Callable[[], int]:
    """`train` as the work of a forked child: exit status 0, or 143 if it was stopped."""
    return lambda: EXIT_STOPPED if train(*arguments, **changes) == "stopped" else 0


def checkpoint(folder: Path) -> dict:
    """The newest valid training state."""
    state = RunFolder(folder, {"seed": SEED}).load()
    assert state is not None
    return state


def records(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]


def order(folder: Path, rank: int) -> tuple[dict[int, dict], list[tuple[int, int]]]:
    """What each step saw on a process, and (first, last) step of each run; every repetition must see the same."""
    steps, runs = {}, {}
    for line in (folder / f"order_{rank}.jsonl").read_text().splitlines():
        record = json.loads(line)
        run, step = record.pop("run"), record.pop("step")
        assert steps.setdefault(step, record) == record
        runs[run] = (min(step, runs.get(run, (step,))[0]), step)
    return steps, list(runs.values())


def outcome(folder: Path, ranks: int) -> tuple:
    """All that must not depend on interruptions: training state, log, order and views of the samples."""
    assert (folder / "DONE").exists() and not list(folder.rglob("*.part"))
    return (
        digest(checkpoint(folder)),
        records(folder),
        [order(folder, rank)[0] for rank in range(ranks)],
    )
