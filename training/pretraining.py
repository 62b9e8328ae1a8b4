"""What all pretraining scripts do in the same way: their paragraphs are data, objective, optimizer, fit, export.

A script's class says what its method needs. Radiographs, networks and pictures are the script's business: nothing here
knows of them.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from core.files import short_hash, write_text
from core.system import distributed
from core.system.signals import EXIT_STOPPED
from training.fit import Fit, fit
from training.run import RunFolder
from training.sampling import Plan

# flags that do not decide the numbers: a run may be continued with others
FREE = {
    "output_dir",
    "data_path",
    "val_path",
    "resume",
    "num_workers",
    "pin_mem",
    "save_freq",
    "save_minutes",
    "panel_freq",
    "log_steps",
    "tensorboard",
    "licence",
    "max_steps",
    "batch_size",
    "accum_iter",
    "device",
    "compile",
    "on_bad_image",
    "audit",
}


class Pretraining:
    """A run of a pretraining script, from its flags to the exported model. Subclass and fill in what raises.

    `config`: the script's flags, among them those of `FREE` (but for `compile`), `seed`, `epochs`, `precision` and
    `clip_grad`. `say` tells the user something, on the main process.
    """

    free: set[str] = FREE
    network: str = ""  # what is trained, for the user

    def __init__(self, config, device, say: Callable[[str], None]):
        self.config = config
        self.device = device
        self.say = say

    # what a method fills in ----------------------------------------------------------------------------------

    def check_flags(self) -> None:
        """Refuse what cannot work before a million files are read; ValueErrors that name the flag."""
        raise NotImplementedError

    def read_data(self) -> tuple[list, list, Any]:
        """(training files, held-out files, table of those that cannot be used), the same on every process."""
        raise NotImplementedError

    def make_objective(self):
        """The `training.objective.Objective`; the plan is known."""
        raise NotImplementedError

    def make_optimizer(self):
        """(optimizer, schedules) of the objective."""
        raise NotImplementedError

    def batches(self, paths: list) -> Callable:
        """First step -> micro-batches of this process from there on."""
        raise NotImplementedError

    def write_quarantine(self, bad) -> None:
        """Main process: which files cannot be used, and why."""
        raise NotImplementedError

    def prepare(self, paths: list) -> None:
        """Main process, before the first step: what is looked at during the run."""

    def export(self, step: int) -> None:
        """Main process, at every save: the model, for others."""
        raise NotImplementedError

    def after_epoch(self, epoch: float, step: int) -> None:
        """Every process, after every epoch and at the end."""

    def advice(self) -> str:
        """What to expect of so many steps, before the first of them; "" if nothing needs to be said."""
        return ""

    def watch(self, record: dict[str, Any]) -> None:
        """Main process: each record of metrics.jsonl."""

    def clip_norm(self) -> float | None:
        """Largest norm of the whole gradient."""
        return self.config.clip_grad

    # what is the same ------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Exit status: 0 finished, 143 stopped by a signal with everything saved."""
        config = self.config
        self.check_flags()
        self.folder = RunFolder(config.output_dir, resume=config.resume)
        paths, self.held_out, quarantined = self.read_data()
        self.plan = self.make_plan(len(paths))
        self.objective = self.make_objective().to(self.device)
        optimizer, schedules = self.make_optimizer()

        # resume
        self.folder.claim(self.identity(paths))
        if self.folder.finished(self.plan.last_step):
            self.say(
                f"{config.output_dir}: this run has finished; nothing to do (a new --output_dir starts another)"
            )
            return 0
        self.folder.describe(asdict(config))
        distributed.from_main(lambda: self.write_tables(quarantined, paths))
        if config.panel_freq:
            distributed.from_main(lambda: self.prepare(paths))
        self.tensorboard = self.open_tensorboard()
        plan = self.plan
        several = f"{distributed.world_size()} processes, the first " * (
            distributed.world_size() > 1
        )
        unreadable = f"{len(quarantined)} unreadable" + ": see quarantine.csv" * (
            len(quarantined) > 0
        )
        self.say(
            f"{len(paths):,} radiographs ({unreadable}), {plan.steps_per_epoch} steps of {plan.global_batch} per "
            f"epoch, {plan.last_step:,} in all; {self.network} on {several}{self.device}"
        )
        if advice := self.advice():
            self.say(advice)

        # fit
        settings = Fit(
            plan=plan,
            optimizer=optimizer,
            schedules=schedules,
            batches=self.batches(paths),
            device=self.device,
            precision=config.precision,
            seed=config.seed,
            clip_norm=self.clip_norm(),
            run=self.folder,
            save_every=max(1, round(config.save_freq * plan.steps_per_epoch))
            if config.save_freq
            else None,
            save_seconds=config.save_minutes * 60 or None,
            log_every=config.log_steps,
            name_of=lambda i: str(paths[i]),
            on_save=self.export,
            on_epoch=self.after_epoch,
            on_log=self.logged,
        )
        if getattr(config, "compile", False):
            self.objective.compile()
        outcome = fit(self.objective, settings)
        if outcome == "stopped":
            self.say(f"stopped by a signal; saved. The same command continues {config.output_dir}")
            return EXIT_STOPPED
        distributed.barrier()
        self.say(f"finished; the model is in {Path(config.output_dir) / 'model'}")
        return 0

    def check_packages(self) -> None:
        """ValueError if a flag asks for a package that is not installed."""
        for name in ("tensorboard", "wandb"):
            flag = getattr(self.config, name, getattr(self.config, f"use_{name}", False))
            if flag and importlib.util.find_spec(name) is None:
                shown = f"--{name}" if hasattr(self.config, name) else f"--use_{name}"
                raise ValueError(f"{shown} needs the {name} package: pip install {name}")

    def make_plan(self, count: int):
        """Steps and batches of `count` radiographs."""
        c = self.config
        return Plan(
            count, c.batch_size, c.accum_iter, distributed.world_size(), c.epochs, c.max_steps
        )

    def identity(self, paths) -> dict:
        """What decides the numbers; a run folder accepts only its own."""
        fixed = {k: v for k, v in asdict(self.config).items() if k not in self.free}
        if fixed.get("weights") == "ema":  # runs of before this flag go on
            del fixed["weights"]
        files = short_hash([(Path(p).name, Path(p).stat().st_size) for p in paths])
        return fixed | {
            "global_batch": self.plan.global_batch,
            "radiographs": f"{len(paths)} files ({files})",
        }

    def write_tables(self, bad, paths) -> None:
        """Main process."""
        self.write_quarantine(bad)
        self.write_manifest(paths)

    def write_manifest(self, paths) -> None:
        """Main process: which files are trained on, with their sizes in bytes."""
        lines = (f"{path}\t{Path(path).stat().st_size}\n" for path in paths)
        write_text(Path(self.config.output_dir) / "manifest.tsv", "".join(lines))

    def logged(self, record: dict[str, Any]) -> None:
        """Main process: a record of metrics.jsonl was written."""
        if self.tensorboard:
            self.tensorboard(record)
        self.watch(record)

    def open_tensorboard(self) -> Callable | None:
        """Main process: a function that takes each record of metrics.jsonl; None without --tensorboard."""
        if not self.config.tensorboard or not distributed.is_main():
            return None

        writer = SummaryWriter(str(Path(self.config.output_dir) / "tensorboard"))

        def log(record: dict) -> None:
            for name in record.keys() - {"step", "epoch", "unix_time"}:
                writer.add_scalar(name, record[name], record["step"])

        return log


def evenly(items: list, most: int) -> list:
    """At most `most` of the items, evenly spread."""
    count = min(most, len(items))
    return [items[i * (len(items) - 1) // max(1, count - 1)] for i in range(count)]
