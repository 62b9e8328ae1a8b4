"""The one training loop. Methods differ in their Objective, never in their loop.

One step: `accumulate` micro-batches forward and backward, gradients exchanged once, everything finite on every process
or nothing is updated, clip, optimizer, hooks. Every decision that must be common to all processes (stop, save, skip) is
made by one all-reduce per step.
"""

import contextlib
import dataclasses
import inspect
import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core.files import printable, reason_of
from core.progress import bar_stream, load_tqdm, warn
from core.system import distributed
from core.system.device import autocast, resolve_precision
from core.system.signals import handling
from training.batch_values import has_batch_norm, starved_batch_norm
from training.dropout import shared_dropout
from training.objective import Objective
from training.optim import set_schedules
from training.run import RunFolder, bytes_of, tensors_in
from training.sampling import Plan
from training.schedules import Schedule

SCALE_HALVINGS = (
    16  # steps more that fp16 may need until its loss scale, 65,536 at first, has come down
)
# torch renamed the flag in 2.13, and the new one copies buffers at the start
_BUFFERS_FLAG = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


class TrainingStopped(ValueError):
    """Too many steps in a row had non-finite losses or gradients (says which samples), or weights are not finite."""


@dataclasses.dataclass
class Fit:
    """Everything `fit` needs besides the objective. Times in seconds, lengths in optimizer steps."""

    plan: Plan
    optimizer: torch.optim.Optimizer
    schedules: dict[str, Schedule]  # "lr", "weight_decay": value over progress
    batches: Callable[
        [int], Iterable[dict]
    ]  # first step -> this process's micro-batches from there on
    device: torch.device = torch.device("cpu")
    precision: str = "fp32"
    seed: int = 0
    clip_norm: float | None = None
    run: RunFolder | None = None
    save_every: int | None = None  # steps
    save_seconds: float | None = 900.0
    save_gap: float = 0.0  # seconds: `save_every` is passed over if the last save is no longer ago
    log_every: int = 50  # steps
    max_bad_steps: int = 5  # consecutive
    name_of: Callable[[int], str] = str  # sample index -> file name, for messages
    before_save: Callable[[], None] | None = None  # main process, before each checkpoint
    on_save: Callable[[int], None] | None = None  # main process, after each checkpoint
    on_epoch: Callable[[float, int], None] | None = (
        None  # every process, after each epoch and at the end: epochs, step
    )
    on_log: Callable[[dict[str, Any]], None] | None = None  # main process
    progress_bar: bool = True
    batch_flag: str = "--batch_size"  # what users call the batch size, for messages
    batch_of_step: bool = False  # whether it counts the radiographs of a whole step


def fit(objective: Objective, settings: Fit) -> str:
    """Train `objective`; returns "finished", or "stopped" after a signal (its state is then on disk).

    With a run folder, continues exactly where the newest valid checkpoint was. Raises TrainingStopped when
    `max_bad_steps` steps in a row were not finite.
    """
    return _Loop(objective, settings).run()


class _Loop:
    def __init__(self, objective: Objective, settings: Fit):
        self.objective = objective
        self.s = settings
        precision = resolve_precision(settings.precision, settings.device)
        self.autocast = lambda: autocast(settings.device, precision)
        self.scaler = torch.amp.GradScaler(settings.device.type, enabled=precision == "fp16")
        self.step = 0
        self.bad_steps = 0
        self.totals = {}
        self.counted = 0
        self.epoch_pending = False  # whether `on_epoch` of this step is still to be called
        self.scheduled: dict[str, float] = {}
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        self.pace = _Pace()

    def run(self) -> str:
        self._resume()
        model = wrap(self.objective, self.s.device)
        self.objective.train()
        plan = self.s.plan
        outcome = "finished"
        self.saved_at = time.monotonic()
        with (
            _Signals().handled() as signals,
            self._bar() as bar,
            shared_dropout(self.objective, self.s.device) as self.draws,
            _closing(self.s.batches(self.step)) as batches,
        ):
            self.pace.begin()
            batches = self._checked(self.pace.timed(batches))
            if self.epoch_pending:
                self._epoch()  # the signal that stopped the run came at the end of an epoch
            while self.step < plan.last_step:
                losses, finite = self._forward_backward(model, batches)
                stop, save, bad = self._agree(signals.received, finite)
                if bad:
                    self._skip(finite)
                else:
                    self._update(losses)
                self.step += 1
                self.pace.steps += 1
                self._log(bar)
                save = (
                    save
                    or bool(self.s.save_every and self.step % self.s.save_every == 0)
                    and self._long_ago()
                )
                stop = stop and self.step < plan.last_step
                self.epoch_pending = (
                    self.step % plan.steps_per_epoch == 0 or self.step == plan.last_step
                )
                if stop:
                    self._save()  # first: whoever sent the signal may not wait for the rest
                if self.epoch_pending:
                    self._epoch()
                if stop:
                    outcome = "stopped"
                    break
                if save or self.step == plan.last_step:
                    self._save()
        if outcome == "finished" and self.s.run:
            self.s.run.done(self.step)
        return outcome

    def _checked(self, batches: Iterator[dict]) -> Iterator[dict]:
        """The same batches; ValueError if the first shows that a batch norm would get one value per channel."""
        first = next(batches, None) if has_batch_norm(self.objective) else None
        if first is None:
            return batches
        with self.autocast():
            layer = starved_batch_norm(self.objective, to_device(first, self.s.device))
        if layer is not None:
            plan = self.s.plan
            raise ValueError(
                f"batch norm needs at least 2 values per channel, and {layer} gets 1 from a pass of {plan.batch_size} "
                f"radiograph; {plan.larger_pass(self.s.batch_flag, self.s.batch_of_step)}"
            )
        return itertools.chain([first], batches)

    def _long_ago(self) -> bool:
        """Whether the last save is longer ago than `save_gap`, by the clock of the main process."""
        if not self.s.save_gap:
            return True
        return distributed.from_main(lambda: time.monotonic() - self.saved_at >= self.s.save_gap)

    def _epoch(self) -> None:
        if self.s.on_epoch:
            with self.pace.paused():
                self.s.on_epoch(self.step / self.s.plan.steps_per_epoch, self.step)
            self.objective.train()
        self.epoch_pending = False

    # one step ------------------------------------------------------------------------------------------------

    def _forward_backward(
        self, model: nn.Module, batches
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Gradients of the mean loss over the micro-batches; of each, whether its loss is finite (on the device: a GPU
        is waited for once a step, by `_agree`)."""
        plan = self.s.plan
        device = self.s.device
        progress = self.step / plan.total_steps
        means: dict[str, Tensor] = {}
        finite: list[Tensor] = []
        self.used: list[Any] = []  # sample indices of this step
        for k in range(plan.accumulate):
            batch = to_device(next(batches), device)
            slot = plan.slot(k, distributed.rank())
            torch.manual_seed(_seed(self.s.seed, self.step, slot))
            self.draws.begin(
                _seed(self.s.seed, self.step),
                rows=plan.batch_size,
                slot=slot,
                slots=plan.accumulate * plan.processes,
            )
            if isinstance(model, DistributedDataParallel):
                model.require_backward_grad_sync = (
                    k + 1 == plan.accumulate
                )  # exchange gradients once per step
            with self.autocast():
                losses = model(batch, progress)
            self.scaler.scale(losses["loss"] / plan.accumulate).backward()
            for name, value in losses.items():
                means[name] = means.get(name, 0.0) + value.detach().float() / plan.accumulate
            self.used.append(batch.get("index", ()))
            finite.append(torch.isfinite(losses["loss"].detach()))
        return means, finite

    def _agree(self, signalled: bool, finite: list[Tensor]) -> tuple[bool, bool, bool]:
        """The same (stop, save, skip) on every process."""
        self.scaler.unscale_(self.s.optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        self.grad_norm = norm
        bad = ~torch.stack([*finite, torch.isfinite(norm).to(self.s.device)]).all()
        due = (
            self.s.save_seconds is not None
            and time.monotonic() - self.saved_at > self.s.save_seconds
        )
        told = torch.tensor(
            [float(signalled), float(due and distributed.is_main())], device=self.s.device
        )
        flags = distributed.maximum(torch.cat([told, bad.float()[None]])).tolist()
        return flags[0] > 0, flags[1] > 0, flags[2] > 0

    def _update(self, losses: dict[str, Tensor]) -> None:
        progress = self.step / self.s.plan.total_steps
        self.scheduled = set_schedules(self.s.optimizer, self.s.schedules, progress)
        if self.s.clip_norm:
            nn.utils.clip_grads_with_norm_(self.parameters, self.s.clip_norm, self.grad_norm)
        self.objective.before_step(progress)
        self.scaler.step(self.s.optimizer)
        self.scaler.update()
        self.s.optimizer.zero_grad(set_to_none=True)
        self.objective.after_step(progress)
        self.bad_steps = 0
        for name, value in losses.items():
            self.totals[name] = self.totals.get(name, 0.0) + value
        self.totals["grad_norm"] = (
            self.totals.get("grad_norm", 0.0) + self.grad_norm.detach().float()
        )
        self.counted += 1

    def _skip(self, finite: list[Tensor]) -> None:
        """No update: name the samples; after `max_bad_steps` in a row save the last good state and stop."""
        bad_indices = [int(i) for good, part in zip(finite, self.used) if not good for i in part]
        self.s.optimizer.zero_grad(set_to_none=True)
        if self.scaler.is_enabled():
            self.scaler.update()
        self.bad_steps += 1
        names = self._names(bad_indices)
        number = self.step + 1
        self._note({"step": number, "skipped": "not finite", "samples": names})
        message = f"step {number}: loss or gradient is not finite, nothing was updated; samples: {', '.join(names)}"
        warn(message)
        if self.bad_steps >= self.s.max_bad_steps + (
            SCALE_HALVINGS if self.scaler.is_enabled() else 0
        ):
            self._save()
            raise TrainingStopped(
                f"{self.bad_steps} steps in a row were not finite; the last good state is saved. Last: {message}"
            )

    def _names(self, bad_indices: list[int]) -> list[str]:
        """File names of the bad samples of all processes; of the whole step if only a gradient was not finite."""
        bad = distributed.gathered([self.s.name_of(i) for i in bad_indices if i >= 0])
        return bad or distributed.gathered(
            [self.s.name_of(int(i)) for part in self.used for i in part]
        )

    # log, save, resume ------------------------------------------------------------------------------------------

    def _log(self, bar) -> None:
        bar.update(self.s.plan.global_batch)
        due = self.step % self.s.log_every == 0 or self.step == self.s.plan.last_step
        if not due or not self.counted:
            return
        names = sorted(self.totals)
        sums = torch.stack([self.totals[n] for n in names])
        waiting = sums.new_tensor([self.pace.waiting_share()])
        *means, waiting_share = distributed.mean(torch.cat([sums / self.counted, waiting])).tolist()
        record = {"step": self.step, "epoch": round(self.step / self.s.plan.steps_per_epoch, 4)}
        record |= dict(zip(names, means)) | self.scheduled
        record |= {
            "radiographs_per_s": float(
                f"{self.pace.steps_per_second() * self.s.plan.global_batch:.4g}"
            ),
            "waiting_share": round(waiting_share, 4),
            "unix_time": round(time.time(), 1),
        }
        self.totals = {}
        self.counted = 0
        self.pace.begin()
        state = f"epoch {record['epoch']:.1f}, training loss {record['loss']:.4g}, lr {record.get('lr', 0):.2e}"
        bar.set_postfix_str(state, refresh=sys.stderr.isatty())
        self._note(record)
        if self.s.on_log and distributed.is_main():
            self.s.on_log(record)

    def _note(self, record: dict[str, Any]) -> None:
        """Into the log; if there is no room for it, all processes end."""
        if self.s.run:
            distributed.from_main(lambda: self.s.run.log(record), distributed.timeout_seconds())

    def _save(self) -> None:
        """All processes are at the same step here; the main one writes."""
        if self.s.run is None:
            return
        with self.pace.paused():
            self.totals = {
                name: distributed.mean(value) for name, value in sorted(self.totals.items())
            }
            distributed.from_main(self._write)
        self.saved_at = time.monotonic()

    def _write(self) -> None:
        """Main process: checkpoint and export, unless something is not finite: then the last good ones stay."""
        state = {
            "step": self.step,
            "objective": self.objective.state_dict(),
            "optimizer": self.s.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "totals": self.totals,
            "counted": self.counted,
            "bad_steps": self.bad_steps,
            "epoch_pending": self.epoch_pending,
        }
        spoilt = [n for n, t in tensors_in(state["objective"]) if not torch.isfinite(t).all()]
        spoilt = spoilt or [
            f"optimizer {n}"
            for n, t in tensors_in(state["optimizer"])
            if not torch.isfinite(t).all()
        ]
        if spoilt:
            raise TrainingStopped(
                f"step {self.step}: {len(spoilt)} tensors of the training state are no longer finite, e.g. "
                f"{spoilt[0]}; the checkpoint before this step stays; start another --output_dir with --init_from this "
                "run's model and a lower learning rate or --precision fp32"
            )
        if self.s.before_save:
            self.s.before_save()
        self.s.run.save(state, self.step)
        self._export()

    def _export(self) -> None:
        if self.s.on_save:
            self.s.on_save(self.step)
            self.objective.train()

    def _resume(self) -> None:
        if self.s.run is None:
            return
        state = self.s.run.load()
        self.s.run.warn_of_little_room(bytes_of(self.objective.state_dict()))
        if self.s.run.notices:
            warn(*self.s.run.notices)
        if state is None:
            self.s.run.forget_log_after(0)  # of an attempt that ended before its first checkpoint
            return
        try:
            self.objective.load_state_dict(state["objective"])
            self.s.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            folder = self.s.run.folder
            reason = printable(reason_of(error))
            raise ValueError(
                f"{folder}: its checkpoint is of another network or optimizer ({reason})"
            ) from None
        self.step = state["step"]
        self.counted = state["counted"]
        self.bad_steps = state["bad_steps"]
        self.totals = {k: v.to(self.s.device) for k, v in state["totals"].items()}
        self.epoch_pending = state.get("epoch_pending", False)
        self.s.run.forget_log_after(self.step)
        if self.step >= self.s.plan.last_step:
            distributed.from_main(self._export)  # killed between the last checkpoint and its export

    def _bar(self):
        total = self.s.plan.last_step * self.s.plan.global_batch
        done = self.step * self.s.plan.global_batch
        hidden = not (self.s.progress_bar and distributed.is_main())
        seconds = 1 if sys.stderr.isatty() else 30  # a log file is no terminal
        return load_tqdm()(
            total=total,
            initial=done,
            unit="radiograph",
            disable=hidden,
            smoothing=0.05,
            dynamic_ncols=True,
            mininterval=seconds,
            maxinterval=max(seconds, 10),
            file=bar_stream(),
        )


class _Pace:
    """How fast steps are made, and how long this process waits for batches, since the last record of the log.

    Saves, validation and panels do not count. Only the clock of the host is read; no GPU is waited for. It agrees with
    that of the GPU to within one step, because `_Loop._agree` waits for the flags of every step.
    """

    def __init__(self):
        self.begin()

    def begin(self) -> None:
        """Start anew, after a record."""
        self.began = time.monotonic()
        self.waited = 0.0  # seconds
        self.aside = 0.0  # seconds that do not count
        self.steps = 0

    def timed(self, batches: Iterable[dict]) -> Iterator[dict]:
        """The same batches; the time until each is there counts as waiting."""
        batches = iter(batches)
        while True:
            began = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - began
            if batch is None:
                return
            yield batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens meanwhile does not count."""
        began = time.monotonic()
        yield
        self.aside += time.monotonic() - began

    def steps_per_second(self) -> float:
        return self.steps / self._seconds()

    def waiting_share(self) -> float:
        """The fraction of the time spent waiting for batches, in [0, 1]."""
        return min(1.0, self.waited / self._seconds())

    def _seconds(self) -> float:
        return max(time.monotonic() - self.began - self.aside, 1e-9)


@contextlib.contextmanager
def _closing(batches: Iterable[dict]) -> Iterator[Iterator[dict]]:
    """An iterator that is closed at the end, and with it the loader's processes."""
    iterator = iter(batches)
    try:
        yield iterator
    finally:
        getattr(iterator, "close", lambda: None)()


class _Signals:
    """A signal asks for an orderly end (`received`); a second Ctrl-C interrupts at once."""

    def __init__(self):
        self.received = False

    @contextlib.contextmanager
    def handled(self) -> Iterator["_Signals"]:
        with handling(self._note):
            yield self

    def _note(self, number, frame) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True


def _seed(*numbers: int) -> int:
    return hash(numbers) & 0x7FFFFFFFFFFFFFFF


def wrap(objective: Objective, device: torch.device) -> nn.Module:
    """DDP where there are several processes: all start with the weights and buffers of the main process.

    Buffers are not broadcast in later steps: objectives build them from gathered values.
    """
    if distributed.world_size() == 1:
        return objective
    distributed.broadcast(objective.buffers())
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(
        objective, device_ids=ids, gradient_as_bucket_view=True, **{_BUFFERS_FLAG: False}
    )


def to_device(batch: Any, device: torch.device) -> Any:
    """Move every tensor in a nested dict or list; leave everything else as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {k: to_device(v, device) for k, v in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [to_device(v, device) for v in batch]
    return batch
