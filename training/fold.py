"""One fold of a cross-validation: train, keep the epoch that is best on validation, predict with its weights."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.system import distributed
from core.system.device import autocast
from training.best_epoch import BestEpoch
from training.fit import Fit, fit
from training.objective import Objective
from training.optim import adamw, parameter_groups
from training.run import RunFolder
from training.sampling import Plan
from training.schedules import constant, warmup_cosine

SAVE_GAP = 30.0  # seconds of training that a kill may cost; epochs of few radiographs are shorter
RECIPE = ("lr", "weight_decay", "layer_decay", "beta1", "beta2", "warmup_epochs", "epochs")


def fold_plan(samples: int, batch_size: int, epochs: float, accumulate: int = 1) -> Plan:
    """The plan of a fold; `batch_size`: of a step of all processes together, fewer if there are fewer samples.

    ValueError if there are fewer samples than passes in a step.
    """
    world = distributed.world_size()
    if samples < world * accumulate:
        remedy = f"start at most {samples} processes" + (
            " with --accum_iter 1" if accumulate > 1 else ""
        )
        remedy = remedy if samples < world else f"use --accum_iter {samples // world} or less"
        raise ValueError(
            f"{samples} radiographs to train on are fewer than the {world} processes x {accumulate} passes of a step; "
            f"{remedy}"
        )
    each = max(1, min(batch_size, samples) // (world * accumulate))
    return Plan(samples, each, accumulate, processes=world, epochs=epochs)


def train_fold(
    model: Objective,
    folder: RunFolder,
    recipe: dict[str, float],
    *,
    score: Callable[[], float],
    larger_is_better: bool,
    about: dict[str, Any],
    plan: Plan,
    **settings,
) -> dict[str, Any] | None:
    """Train `model` (with AdamW, layer decay, warm-up and cosine: `RECIPE`) and leave it with the weights of its best
    epoch. Continues where an earlier process was; None after a signal, with everything saved.

    `score()` judges the model on validation, on every process alike; if it is always NaN, the last epoch is kept.
    `about`: for config.json. `settings`: of `training.fit.Fit`. Returns epoch, validation (its score) and steps.
    """
    best = BestEpoch(folder.folder, larger_is_better) if distributed.is_main() else None

    def validate(epoch: float, step: int) -> None:
        found = score()
        folder.log({"step": step, "epoch": round(epoch, 4), "validation": found})
        if distributed.is_main():
            best.offer(epoch, found, model.state_dict())
        distributed.barrier()

    if not distributed.from_main(lambda: folder.finished(plan.last_step)):
        folder.describe(about)
        groups = parameter_groups(model, recipe["layer_decay"])
        warmup = min(recipe["warmup_epochs"] / recipe["epochs"], 1.0)
        outcome = fit(
            model,
            Fit(
                plan=plan,
                optimizer=adamw(groups, (recipe["beta1"], recipe["beta2"])),
                schedules={
                    "lr": warmup_cosine(recipe["lr"], recipe.get("min_lr", 0.0), warmup),
                    "weight_decay": constant(recipe["weight_decay"]),
                },
                run=folder,
                save_every=plan.steps_per_epoch,
                save_gap=SAVE_GAP,
                on_epoch=validate,
                before_save=best.keep if best else None,
                batch_of_step=True,
                **settings,
            ),
        )
        if outcome == "stopped":
            return None
    chosen = distributed.from_main(
        lambda: {"weights": best.weights(), "epoch": best.epoch, "score": best.score}
    )
    model.load_state_dict(chosen["weights"])
    return {"epoch": chosen["epoch"], "validation": chosen["score"], "steps": plan.last_step}


def predictions(
    model: Objective,
    rows: Sequence[int],
    batches_of: Callable[[Sequence[int]], Iterable[dict]],
    device: torch.device,
    precision: str,
    given: Sequence[str] = ("image",),
) -> np.ndarray:
    """`model.predict` of `rows`, in their order, [R, ...] float64: every process predicts its share, none twice.

    `batches_of(some rows)` yields batches in their order; `predict` gets the parts `given` of a batch that are there.
    """
    mine = list(rows)[distributed.rank() :: distributed.world_size()]
    model.eval()
    found: list = []
    for batch in batches_of(mine):
        parts = [batch[name].to(device) for name in given if name in batch]
        with torch.no_grad(), autocast(device, precision):
            found += model.predict(*parts).float().cpu().tolist()
    by_row = dict(distributed.gathered(list(zip(mine, found))))
    return np.array([by_row[row] for row in rows])


def forget_states(folder: Path) -> None:
    """Delete the training states of a fold whose predictions and weights are kept: those of a ViT-L are 8 GB."""
    if (folder / "checkpoints").exists():
        shutil.rmtree(folder / "checkpoints")
    for name in ("DONE", "best.pt", "best.pt.sha256"):  # without predictions the fold is made anew
        (folder / name).unlink(missing_ok=True)
