"""The results of many benchmark runs together, as `workflows.benchmark.runs` reads them, and what is missing there.

A setting is a protocol with an amount of labels: results are compared within one.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.pages.numbers import SIGNIFICANT, amount_text
from evaluation.statistics.comparison import holm
from evaluation.statistics.metrics import SMALLER_IS_BETTER
from workflows.benchmark.study import POOLED

PROTOCOLS = ("finetune", "linear", "knn", "fewshot")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A protocol, and the share of the training patients or (few shots) the number of labels to learn from."""

    protocol: str
    labels: float

    @property
    def shots(self) -> bool:
        """Whether labels are counted."""
        return self.protocol == "fewshot"

    @property
    def amount(self) -> str:
        """ "10 %", or "5 shots"."""
        return amount_text(self.labels, self.shots)

    @property
    def title(self) -> str:
        """For a heading."""
        return f"{self.protocol}, {self.amount}" + (" of the labels" * (not self.shots))

    @property
    def stem(self) -> str:
        """For the name of a file."""
        return self.protocol + ("" if self.labels == 1 and not self.shots else f"_{self.labels:g}")

    @property
    def order(self) -> tuple:
        """Protocols as the benchmark names them, most labels first."""
        return PROTOCOLS.index(self.protocol), -self.labels


@dataclasses.dataclass(frozen=True)
class Result:
    """One study: main metric (`value`, `low`, `high`: 95 %), mean and SD of folds; NaN if undefined.

    `of`: what the value is that of, see `workflows.benchmark.study.TestSet.of`.
    """

    task: str
    setting: Setting
    backbone: str
    metric: str
    unit: str
    of: str
    value: float
    low: float
    high: float
    mean: float
    sd: float
    folds: int
    file: Path
    whole: dict[str, Any] = dataclasses.field(repr=False, hash=False)

    @property
    def smaller_is_better(self) -> bool:
        """Of its metric."""
        return self.metric in SMALLER_IS_BETTER


@dataclasses.dataclass
class Collection:
    """Comparable results: (setting, task, backbone) -> result.

    `pairs`: (setting, task) -> {(backbone, backbone): (difference, p without correction)}; `files`: task -> sha256 of
    its radiographs; `notices`: what a reader should know.
    """

    results: dict[tuple[Setting, str, str], Result]
    pairs: dict[tuple[Setting, str], dict[tuple[str, str], tuple[float, float]]]
    files: dict[str, frozenset[str]]
    notices: list[str]
    backbones: list[str]

    @property
    def settings(self) -> list[Setting]:
        """All, protocol by protocol."""
        return sorted(
            {setting for setting, _, _ in self.results}, key=lambda setting: setting.order
        )

    def tasks(self, setting: Setting) -> list[str]:
        """Those with any result in the setting."""
        return sorted({task for found, task, _ in self.results if found == setting})

    def compared(self, setting: Setting) -> list[str]:
        """The backbones with any result in the setting."""
        there = {backbone for found, _, backbone in self.results if found == setting}
        return [backbone for backbone in self.backbones if backbone in there]

    def get(self, setting: Setting, task: str, backbone: str) -> Result | None:
        """A result, or None."""
        return self.results.get((setting, task, backbone))

    def row(self, setting: Setting, task: str) -> list[Result]:
        """All results of a task in a setting."""
        found = (self.get(setting, task, backbone) for backbone in self.compared(setting))
        return [result for result in found if result is not None]

    def scored(self, setting: Setting) -> list[str]:
        """What the values of a setting are of, in words."""
        found = {result.of for task in self.tasks(setting) for result in self.row(setting, task)}
        return [of if of == POOLED else f"{of} on the held-out test set" for of in sorted(found)]

    def missing(self) -> list[tuple[Setting, str, list[str]]]:
        """(setting, task, backbones without a result there) of every gap in the tables."""
        gaps = []
        for setting in self.settings:
            for task in self.tasks(setting):
                lacking = [b for b in self.compared(setting) if self.get(setting, task, b) is None]
                gaps += [(setting, task, lacking)] if lacking else []
        return gaps

    def winner(self, setting: Setting, task: str) -> tuple[str, str]:
        """(the backbone that beats every other one there, or ""; why none could, or "").

        By the paired comparisons of the runs; Holm's correction is over all pairs of the table's row.
        """
        names = sorted(result.backbone for result in self.row(setting, task))
        found = self.pairs.get((setting, task), {})
        wanted = list(itertools.combinations(names, 2))
        if not wanted:
            return "", ""
        if any(pair not in found for pair in wanted):
            return (
                "",
                "not all backbones were compared in pairs; "
                "name them in one command of scripts/train_downstream.py (folds that are made stay)",
            )
        adjusted = holm({"\n".join(pair): found[pair][1] for pair in wanted})
        sign = -1 if self.row(setting, task)[0].smaller_is_better else 1
        beaten: dict[str, int] = {}
        for pair in wanted:
            if adjusted["\n".join(pair)] < SIGNIFICANT and found[pair][0]:
                better = pair[0] if sign * found[pair][0] > 0 else pair[1]
                beaten[better] = beaten.get(better, 0) + 1
        return next((name for name, count in beaten.items() if count == len(names) - 1), ""), ""

    def sharing(self, tasks: Sequence[str]) -> list[tuple[str, str]]:
        """Pairs of tasks that have radiographs in common."""
        return [
            (a, b) for a, b in itertools.combinations(tasks, 2) if self.files[a] & self.files[b]
        ]


def short_names(backbones: Sequence[str]) -> dict[str, str]:
    """A name to show for each: of absolute paths the last two parts, or as many as tell them apart."""
    shown = {name: name for name in backbones}
    for name in backbones:
        front = "none:" if name.startswith("none:/") else ""
        if not name.removeprefix(front).startswith("/"):
            continue
        parts = name.removeprefix(front).strip("/").split("/")
        others = [other for other in backbones if other != name]
        for count in range(2, len(parts) + 1):
            tail = front + "/".join(parts[-count:])
            if not any(
                other == tail or other.endswith("/" + tail.removeprefix(front)) for other in others
            ):
                shown[name] = tail
                break
    return shown
