"""Backbones over the tasks of a benchmark: ranks, and means where the metric is on one scale for all tasks.

AUROC is 0.5 for guessing and 1 for perfection whatever the task, so its mean over tasks is defined; errors in months
and AUROC are never averaged, ranks of both are.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from evaluation.pages.numbers import WORDS
from evaluation.statistics.ranks import FEW_TASKS, LEVEL, RankTest, rank_test, ranks, sign_test
from workflows.benchmark.collection import Collection, Setting

ONE_SCALE = ("auroc",)


@dataclasses.dataclass
class Ranking:
    """Ranks [N, K] of K backbones on the N `tasks` that all of them have a value for.

    `left_out`: task -> the backbones without a value there; `average` [K]; `signs`: see `sign_test`, of two backbones.
    """

    setting: Setting
    backbones: list[str]
    tasks: list[str]
    left_out: dict[str, list[str]]
    table: np.ndarray
    test: RankTest
    signs: tuple[int, int, int, float] | None = None

    @property
    def average(self) -> np.ndarray:
        """Average ranks [K], NaN without a task."""
        return self.table.mean(0) if self.tasks else np.full(len(self.backbones), math.nan)

    @property
    def order(self) -> list[int]:
        """Places of the backbones, best first."""
        return sorted(range(len(self.backbones)), key=lambda place: (self.average[place], place))

    @property
    def has_difference(self) -> bool:
        """Whether there are tasks and backbones enough for a critical difference."""
        return math.isfinite(self.test.critical_difference)


def ranking(collection: Collection, setting: Setting) -> Ranking:
    """Ranks by the values of the table; the best has 1."""
    backbones = collection.compared(setting)
    left_out = {}
    rows = {}
    smaller = []
    for task in collection.tasks(setting):
        found = [collection.get(setting, task, backbone) for backbone in backbones]
        lacking = [b for b, one in zip(backbones, found) if one is None or math.isnan(one.value)]
        if lacking:
            left_out[task] = lacking
        else:
            rows[task] = [one.value for one in found]
            smaller.append(found[0].smaller_is_better)
    scores = np.array(list(rows.values()), np.float64).reshape(-1, len(backbones))
    table = ranks(scores, smaller)
    signs = sign_test(table) if len(backbones) == 2 and rows else None
    return Ranking(setting, backbones, list(rows), left_out, table, rank_test(table), signs)


def mean_rows(collection: Collection, found: Ranking) -> dict[str, tuple[list[str], list[float]]]:
    """Metric -> (tasks, mean of each backbone over them), of metrics on one scale with several ranked tasks."""
    means = {}
    for metric in ONE_SCALE:
        results = {
            task: [collection.get(found.setting, task, b) for b in found.backbones]
            for task in found.tasks
        }
        tasks = [task for task, row in results.items() if row[0].metric == metric]
        if len(tasks) > 1:
            values = [[one.value for one in results[task]] for task in tasks]
            means[metric] = tasks, np.mean(values, axis=0).tolist()
    return means


def label_curves(
    collection: Collection,
) -> dict[tuple[str, str], dict[str, list[tuple[float, float, float, float]]]]:
    """(protocol, task) -> backbone -> (labels, value, low, high), where a backbone has several amounts of labels.

    A task "mean AUROC of N tasks" holds the means (no interval: tasks are not independent) over the tasks that all
    backbones have with all amounts, if these are several.
    """
    lines: dict[tuple[str, str], dict[str, list]] = {}
    metrics: dict[str, str] = {}
    for (setting, task, backbone), one in collection.results.items():
        metrics[task] = one.metric
        if not math.isnan(one.value):
            point = (setting.labels, one.value, one.low, one.high)
            lines.setdefault((setting.protocol, task), {}).setdefault(backbone, []).append(point)
    lines = {key: line for key, line in lines.items() if max(map(len, line.values())) > 1}
    means = {}
    for protocol in dict.fromkeys(protocol for protocol, _ in lines):
        for metric in ONE_SCALE:
            mine = {
                t: line for (p, t), line in lines.items() if p == protocol and metrics[t] == metric
            }
            names = sorted(
                {name for line in mine.values() for name in line}, key=collection.backbones.index
            )
            amounts = {
                point[0] for line in mine.values() for points in line.values() for point in points
            }
            whole = [
                t
                for t, line in mine.items()
                if all({point[0] for point in line.get(name, ())} == amounts for name in names)
            ]
            if len(whole) > 1:
                means[protocol, f"mean {WORDS[metric]} of {len(whole)} tasks"] = {
                    name: [
                        (
                            labels,
                            _mean_at(labels, [mine[t][name] for t in whole]),
                            math.nan,
                            math.nan,
                        )
                        for labels in sorted(amounts)
                    ]
                    for name in names
                }
    return means | lines


def tests_text(found: Ranking, names: Sequence[str]) -> str:
    """What the tests over tasks say, in sentences; `names`: what the backbones are called."""
    test = found.test
    tasks = len(found.tasks)
    if found.signs is not None:
        wins, ties, losses, p = found.signs
        first, second = names
        said = f"{first} is better on {wins} tasks, {second} on {losses}, {ties} ties; "
        return said + (
            "no sign test without a difference." if math.isnan(p) else f"sign test p = {p:.3g}."
        )
    if math.isnan(test.p):
        return f"No test over tasks: {test.reason}."
    f = "infinite" if math.isinf(test.f) else f"{test.f:.2f}"
    said = f"{len(names)} backbones on {tasks} tasks: Friedman's chi-square {test.chi2:.2f} (p {_p(test.p)}), "
    said += f"as F of Iman and Davenport {f} (p {_p(test.p_f)}): "
    said += "not all are alike. " if test.differs else "no difference between backbones is shown. "
    if found.has_difference:
        said += f"Nemenyi's critical difference of average ranks at {LEVEL:g} is {test.critical_difference:.2f}. "
    else:
        said += f"No critical difference: {test.reason}. "
    return said + (
        f"With fewer than {FEW_TASKS} tasks these tests are approximate."
        if tasks < FEW_TASKS
        else ""
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _mean_at(labels: float, lines: list[list[tuple[float, float, float, float]]]) -> float:
    return float(np.mean([{point[0]: point[1] for point in line}[labels] for line in lines]))
