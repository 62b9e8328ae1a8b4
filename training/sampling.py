"""Which samples make up which step: a pure function of (seed, step), whatever the number of processes and workers.

A run is a sequence of global batches. In pass k of a step, process r of W takes micro-batch k * W + r of the global
batch, so that the processes together see the same radiographs in a pass as one process with a batch W times as large
(batch norm depends on that). So 1 process x 8 equals 2 x 4, any step can be resumed without saved sampler state, and
the randomness of a sample (crop, flip, hidden patches) comes from (seed, epoch, index).
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

Key = tuple[int, int]  # (epoch, index): what a data set of this project is asked for


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one sample in one epoch."""
    return np.random.Generator(np.random.PCG64([seed, epoch, index, 0x5A]))


def epoch_order(seed: int, epoch: int, count: int, shares: np.ndarray | None = None) -> np.ndarray:
    """The order in which epoch `epoch` visits `count` samples: each once, or `count` draws with replacement where
    sample i has the probability `shares` [count] i."""
    generator = np.random.Generator(np.random.PCG64([seed, epoch, 0x0D]))
    if shares is None:
        return generator.permutation(count)
    return generator.choice(count, size=count, p=shares / shares.sum())


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many samples make a step, and how many steps a run."""

    samples: int
    batch_size: int  # radiographs per process and backward pass
    accumulate: int = 1  # backward passes per step
    processes: int = 1
    epochs: float = 1.0
    max_steps: int | None = None  # ends the run early; the schedules still span `epochs`

    def __post_init__(self):
        for name in ("batch_size", "accumulate", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.epochs <= 0:
            raise ValueError(f"epochs is {self.epochs}; it must be positive")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps}; it must be at least 1")
        if self.samples < self.global_batch:
            raise ValueError(
                f"{self.samples} radiographs to train on do not fill a step of {self.global_batch} "
                f"({self.batch_size} per pass x {self.accumulate} passes x {self.processes} processes): "
                f"{self._remedy()}"
            )

    def _remedy(self) -> str:
        """What to change so that a step can be made, with values that work."""
        if self.samples < self.processes:
            return f"start at most {self.samples} processes, with --batch_size 1 and --accum_iter 1"
        passes = min(self.accumulate, self.samples // self.processes)
        rows = self.samples // (passes * self.processes)
        if passes == self.accumulate:
            return f"use --batch_size {min(rows, self.batch_size)} or less"
        return f"use --accum_iter {passes} or less" + (
            " with --batch_size 1" if self.batch_size > 1 else ""
        )

    def larger_pass(self, flag: str, of_step: bool) -> str:
        """What to change so that a pass has two radiographs; `flag`: of the batch size, `of_step`: of a whole step."""
        if self.samples >= 2 * self.accumulate * self.processes:
            return f"use {flag} {2 * (self.accumulate * self.processes if of_step else 1)}"
        if self.accumulate > 1 and self.samples >= 2 * self.processes:
            return f"use --accum_iter 1 with {flag} {2 * (self.processes if of_step else 1)}"
        return f"train on more than {self.samples} radiographs"

    @property
    def global_batch(self) -> int:
        return self.batch_size * self.accumulate * self.processes

    def slot(self, part: int, rank: int) -> int:
        """Which micro-batch of a step process `rank` takes in pass `part`."""
        return part * self.processes + rank

    @property
    def steps_per_epoch(self) -> int:
        return self.samples // self.global_batch

    @property
    def total_steps(self) -> int:
        """Steps of the whole schedule (`max_steps` may end the run before)."""
        return max(1, round(self.epochs * self.steps_per_epoch))

    @property
    def last_step(self) -> int:
        return min(self.total_steps, self.max_steps or self.total_steps)


class StepSampler:
    """A DataLoader batch sampler: this process's micro-batches of keys, from step `start` to the end of the plan.

    `shares` [samples]: how often each sample is drawn, with replacement (see `epoch_order`); the first number of a key
    is then that of the draw.
    """

    def __init__(
        self, plan: Plan, seed: int, rank: int = 0, start: int = 0, shares: np.ndarray | None = None
    ):
        self.plan = plan
        self.seed = seed
        self.rank = rank
        self.start = start
        self.shares = shares

    def __iter__(self) -> Iterator[list[Key]]:
        plan = self.plan
        order = None
        epoch_of_order = -1
        for step in range(self.start, plan.last_step):
            epoch, position = divmod(step, plan.steps_per_epoch)
            if epoch != epoch_of_order:
                order = epoch_order(self.seed, epoch, plan.samples, self.shares)
                epoch_of_order = epoch
            for part in range(plan.accumulate):
                begin = position * plan.global_batch + plan.slot(part, self.rank) * plan.batch_size
                for_pass = order[begin : begin + plan.batch_size]
                if self.shares is None:
                    yield [(epoch, int(i)) for i in for_pass]
                else:  # a sample drawn twice in an epoch is augmented twice
                    yield [
                        (epoch * plan.samples + begin + k, int(i)) for k, i in enumerate(for_pass)
                    ]

    def __len__(self) -> int:
        return (self.plan.last_step - self.start) * self.plan.accumulate
